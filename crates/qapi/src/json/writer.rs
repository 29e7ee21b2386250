//! Values as text, byte for byte as QEMU writes them (`qmp.md` section 1).

use super::Value;
use std::fmt::Write as _;

/// The value on one line: ASCII only, `", "` and `": "` between, members in hash order.
#[must_use]
pub fn to_string(value: &Value) -> String {
    let mut writer = Writer { text: String::new(), pretty: false };
    writer.value(value, 0);
    writer.text
}

/// The value over several lines, four spaces a level, lines ended by LF.
#[must_use]
pub fn to_string_pretty(value: &Value) -> String {
    let mut writer = Writer { text: String::new(), pretty: true };
    writer.value(value, 0);
    writer.text
}

struct Writer {
    text: String,
    pretty: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(flag) => self.text.push_str(if *flag { "true" } else { "false" }),
            // Writing to a String cannot fail.
            Value::Int(number) => _ = write!(self.text, "{number}"),
            Value::Uint(number) => _ = write!(self.text, "{number}"),
            Value::Double(number) => self.text.push_str(&format_double(*number)),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.between(at > 0, depth + 1);
                    self.value(item, depth + 1);
                }
                self.line(depth);
                self.text.push(']');
            }
            Value::Object(map) => {
                self.text.push('{');
                for (at, (name, member)) in map.in_hash_order().into_iter().enumerate() {
                    self.between(at > 0, depth + 1);
                    self.string(name);
                    self.text.push_str(": ");
                    self.value(member, depth + 1);
                }
                self.line(depth);
                self.text.push('}');
            }
        }
    }

    fn between(&mut self, comma: bool, depth: usize) {
        if comma {
            self.text.push(',');
            if !self.pretty {
                self.text.push(' ');
            }
        }
        self.line(depth);
    }

    fn line(&mut self, depth: usize) {
        if self.pretty {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n("    ", depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                ' '..='~' => self.text.push(character),
                _ => {
                    let character = if super::utf8::is_character(character.into()) { character } else { '\u{FFFD}' };
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.text, "\\u{unit:04X}");
                    }
                }
            }
        }
        self.text.push('"');
    }
}

/// A double as C's `%.17g` writes it; infinities and not-a-number come out as `inf` and `nan`.
#[must_use]
pub fn format_double(number: f64) -> String {
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if number.is_nan() {
        return format!("{sign}nan");
    }
    if number.is_infinite() {
        return format!("{sign}inf");
    }
    let scientific = format!("{:.16e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return format!("{sign}0");
    }
    let (first, rest) = digits.split_at(1);
    if !(-4..17).contains(&exponent) {
        let point = if rest.is_empty() { "" } else { "." };
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", exponent.unsigned_abs());
    }
    let Ok(whole) = usize::try_from(exponent) else {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    };
    if digits.len() <= whole + 1 {
        return format!("{sign}{digits:0<width$}", width = whole + 1);
    }
    let (whole, fraction) = digits.split_at(whole + 1);
    format!("{sign}{whole}.{fraction}")
}
