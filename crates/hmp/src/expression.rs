//! Expressions: 64-bit integers with `+ - * / % & | ^ ~`, parentheses, `'c'` and registers as `$name`.
//!
//! Precedence is QEMU's: unary operators, then `* / %`, then `& | ^`, then `+ -`.

/// What registers there are.
pub type Registers<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// How deep parentheses and signs may nest.
const DEPTH: usize = 64;

struct Parser<'a> {
    rest: &'a str,
    registers: Registers<'a>,
    depth: usize,
}

/// The value of the expression at the beginning of `text`, and what follows it.
///
/// # Errors
/// What is wrong with it.
pub fn evaluate<'a>(text: &'a str, registers: Registers<'a>) -> Result<(i64, &'a str), String> {
    let mut parser = Parser { rest: text.trim_start(), registers, depth: 0 };
    let value = parser.sum()?;
    Ok((value, parser.rest))
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) {
        let mut characters = self.rest.chars();
        characters.next();
        self.rest = characters.as_str().trim_start();
    }

    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator @ ('+' | '-')) = self.peek() {
            self.next();
            let other = self.logic()?;
            value = if operator == '+' { value.wrapping_add(other) } else { value.wrapping_sub(other) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator @ ('&' | '|' | '^')) = self.peek() {
            self.next();
            let other = self.product()?;
            value = match operator {
                '&' => value & other,
                '|' => value | other,
                _ => value ^ other,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.unary()?;
        while let Some(operator @ ('*' | '/' | '%')) = self.peek() {
            self.next();
            let other = self.unary()?;
            if operator != '*' && other == 0 {
                return Err("division by zero".into());
            }
            value = match operator {
                '*' => value.wrapping_mul(other),
                '/' => value.wrapping_div(other),
                _ => value.wrapping_rem(other),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("expression too deep".into());
        }
        let value = self.unary_inner();
        self.depth -= 1;
        value
    }

    fn unary_inner(&mut self) -> Result<i64, String> {
        match self.peek() {
            None => Err("unexpected end of expression".into()),
            Some('+') => {
                self.next();
                self.unary()
            }
            Some('-') => {
                self.next();
                Ok(self.unary()?.wrapping_neg())
            }
            Some('~') => {
                self.next();
                Ok(!self.unary()?)
            }
            Some('(') => {
                self.next();
                let value = self.sum()?;
                if self.peek() != Some(')') {
                    return Err("')' expected".into());
                }
                self.next();
                Ok(value)
            }
            Some('\'') => self.character(),
            Some('$') => self.register(),
            Some(_) => self.number(),
        }
    }

    fn character(&mut self) -> Result<i64, String> {
        let mut characters = self.rest.chars();
        characters.next();
        let value = characters.next().ok_or("character constant expected")?;
        if characters.next() != Some('\'') {
            return Err("missing terminating ' character".into());
        }
        self.rest = characters.as_str().trim_start();
        Ok(i64::from(u32::from(value)))
    }

    fn register(&mut self) -> Result<i64, String> {
        let rest = self.rest.get(1..).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        self.rest = rest.trim_start();
        let value = (self.registers)(name).ok_or("unknown register")?;
        Ok(value.cast_signed())
    }

    fn number(&mut self) -> Result<i64, String> {
        let (radix, digits) = match self.rest.strip_prefix("0x").or_else(|| self.rest.strip_prefix("0X")) {
            Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, digits),
            _ if self.rest.starts_with('0') => (8, self.rest),
            _ => (10, self.rest),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let (number, rest) = digits.split_at(end);
        if number.is_empty() {
            let found = rest.chars().next().unwrap_or(' ');
            return Err(format!("invalid char '{found}' in expression"));
        }
        self.rest = rest.trim_start();
        let value = u64::from_str_radix(number, radix).map_err(|_| "number too large")?;
        Ok(value.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<i64, String> {
        let registers = |name: &str| (name == "rip").then_some(0xfff0);
        evaluate(text, &registers).map(|(value, _)| value)
    }

    #[test]
    fn operators_bind_as_in_qemu() {
        for (text, expected) in [
            ("1+2*3", 7),
            ("(1+2)*3", 9),
            ("8|1+1", 10),
            ("-~0", 1),
            ("0x10 - 010", 8),
            ("$rip+1", 0xfff1),
            ("'a'", 97),
            ("7%4", 3),
            ("0xffffffffffffffff", -1),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_are_qemu_s() {
        for (text, expected) in [
            ("", "unexpected end of expression"),
            ("(1", "')' expected"),
            ("5/0", "division by zero"),
            ("$bogus", "unknown register"),
            ("z", "invalid char 'z' in expression"),
            ("99999999999999999999", "number too large"),
            ("'a", "missing terminating ' character"),
        ] {
            assert_eq!(value(text), Err(expected.to_owned()), "{text}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
    }
}
