//! The words of a command: options as `getopt` reads them, numbers, patterns.

use crate::session::Failed;

/// The longest request, bytes.
pub const MAX_REQUEST: u64 = (i32::MAX as u64) / 512 * 512;

/// The words of a command after its name.
pub struct Args<'a> {
    options: Vec<(char, &'a str)>,
    /// What is no option.
    pub operands: Vec<&'a str>,
}

impl<'a> Args<'a> {
    /// Letters that take a value are followed by a colon in `letters`. On a wrong option the answer is the complaint.
    pub fn parse(command: &str, words: &[&'a str], letters: &str) -> Result<Self, String> {
        let mut args = Self { options: Vec::new(), operands: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--" {
                args.operands.extend(words);
                break;
            }
            let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) else {
                args.operands.push(word);
                continue;
            };
            for (at, letter) in cluster.char_indices() {
                let Some(found) = letters.find(letter).filter(|_| letter != ':') else {
                    return Err(format!("{command}: invalid option -- '{letter}'\n"));
                };
                if !letters[found + letter.len_utf8()..].starts_with(':') {
                    args.options.push((letter, ""));
                    continue;
                }
                let rest = &cluster[at + letter.len_utf8()..];
                let value = if rest.is_empty() { words.next().copied() } else { Some(rest) };
                let Some(value) = value else {
                    return Err(format!("{command}: option requires an argument -- '{letter}'\n"));
                };
                args.options.push((letter, value));
                break;
            }
        }
        Ok(args)
    }

    /// Whether an option is there.
    pub fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(other, _)| *other == letter)
    }

    /// The last value of an option.
    pub fn value(&self, letter: char) -> Option<&'a str> {
        self.options.iter().rev().find(|(other, _)| *other == letter).map(|(_, value)| *value)
    }

    /// All options, in their order.
    pub fn options(&self) -> impl Iterator<Item = (char, &'a str)> + '_ {
        self.options.iter().copied()
    }
}

/// A size, or what is wrong with it.
pub fn number(text: &str) -> Result<u64, Failed> {
    use block_tools::size::NumberError;
    let max = i64::MAX.unsigned_abs();
    match block_tools::size::parse(text) {
        Ok(value) if value <= max => Ok(value),
        Ok(_) | Err(NumberError::Range) => {
            Err(Failed::printed(format!("Parsing error: argument too large -- {text}\n")))
        }
        Err(NumberError::Invalid) => Err(Failed::printed(format!(
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}\n"
        ))),
    }
}

/// A byte, or what is wrong with it.
pub fn pattern(text: &str) -> Result<u8, Failed> {
    integer(text)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or_else(|| Failed::printed(format!("{text} is not a valid pattern byte\n")))
}

/// An integer as C writes it: decimal, octal behind `0`, hexadecimal behind `0x`.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(&digits[1..], 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_be_joined_and_take_values() {
        let args = Args::parse("read", &["-qP", "7", "0", "-C", "512"], "bCP:q").expect("valid");
        assert!(args.has('q') && args.has('C'));
        assert_eq!(args.value('P'), Some("7"));
        assert_eq!(args.operands, ["0", "512"]);
        assert_eq!(Args::parse("read", &["-x"], "q").err().as_deref(), Some("read: invalid option -- 'x'\n"));
        let missing = Args::parse("read", &["-P"], "P:").err();
        assert_eq!(missing.as_deref(), Some("read: option requires an argument -- 'P'\n"));
    }

    #[test]
    fn integers_are_read_as_c_writes_them() {
        for (text, value) in [("10", Some(10)), ("0x1f", Some(31)), ("010", Some(8)), ("-1", Some(-1)), ("1k", None)] {
            assert_eq!(integer(text), value, "{text}");
        }
        assert!(pattern("255").is_ok() && pattern("256").is_err() && pattern("-1").is_err());
    }
}
