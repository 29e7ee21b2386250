//! Arguments of a command, read by their types.
//!
//! | type | what |
//! | --- | --- |
//! | `s`, `B`, `F` | a word, or a string in double quotes: text, a block device's name, a file's name |
//! | `S`, `O` | the rest of the line |
//! | `i`, `l` | an expression of 32 or 64 bits |
//! | `M`, `o` | a number of MiB; a size, in MiB unless it has a suffix |
//! | `b` | `on` or `off` |
//! | `/` | how to show memory: `/COUNT FORMAT SIZE` |
//! | `-x`, `-xs` | a flag, a flag with a word |
//!
//! `?` after a type makes it optional; after `i.` comes an index behind a dot.

use crate::expression::{self, Registers};

/// How memory is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// How many items.
    pub count: usize,
    /// `x`, `d`, `u`, `o`, `c` or `i`.
    pub kind: char,
    /// Bytes of an item.
    pub size: usize,
}

impl Default for Format {
    fn default() -> Self {
        Self { count: 1, kind: 'x', size: 4 }
    }
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// A flag that was given, or `on` and `off`.
    Flag(bool),
    /// How to show memory.
    Format(Format),
}

/// The arguments that were given, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments(Vec<(String, Value)>);

impl Arguments {
    fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.find(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A text that the types require.
    #[must_use]
    pub fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.find(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A flag.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.find(name), Some(Value::Flag(true)))
    }

    /// How to show memory.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.find("fmt") {
            Some(Value::Format(format)) => *format,
            _ => Format::default(),
        }
    }

    fn push(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }
}

/// The types of arguments: name and type of each.
pub fn types(spec: &str) -> impl Iterator<Item = (&str, &str)> {
    spec.split(',').filter_map(|argument| argument.split_once(':'))
}

/// Reads the arguments of `command`. `last` is the format that commands used last: what is not said is as it was there.
///
/// # Errors
/// What is wrong, as QEMU says it.
pub fn parse(
    command: &str,
    spec: &str,
    line: &str,
    registers: Registers<'_>,
    last: &mut Format,
) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut rest = line;
    for (name, kind) in types(spec) {
        rest = rest.trim_start();
        let optional = kind.ends_with('?');
        match kind.chars().next().unwrap_or_default() {
            'F' | 'B' | 's' => {
                if rest.is_empty() && optional {
                    continue;
                }
                let (word, after) = word(rest).unwrap_or_default();
                if after.is_none() {
                    let expected = match kind.chars().next() {
                        Some('F') => "filename",
                        Some('B') => "block device name",
                        _ => "string",
                    };
                    return Err(format!("{command}: {expected} expected"));
                }
                rest = after.unwrap_or_default();
                arguments.push(name, Value::Text(word));
            }
            'S' | 'O' => {
                if rest.is_empty() && optional {
                    continue;
                }
                if rest.is_empty() {
                    return Err(format!("{command}: string expected"));
                }
                arguments.push(name, Value::Text(rest.trim_end().to_owned()));
                rest = "";
            }
            '/' => {
                let (format, after) = format(rest, *last)?;
                last.kind = format.kind;
                // Instructions have no size.
                if format.kind != 'i' {
                    last.size = format.size;
                }
                rest = after;
                arguments.push(name, Value::Format(format));
            }
            'i' | 'l' | 'M' => {
                let dotted = kind.ends_with('.');
                if optional && rest.is_empty() || dotted && !rest.starts_with('.') {
                    continue;
                }
                if dotted {
                    rest = rest.get(1..).unwrap_or_default();
                }
                let (value, after) = expression::evaluate(rest, registers)?;
                rest = after;
                arguments.push(name, Value::Number(checked(command, kind, value)?));
            }
            'o' => {
                if optional && rest.is_empty() {
                    continue;
                }
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                rest = after;
                arguments.push(name, Value::Number(size(text).ok_or("invalid size")?));
            }
            'b' => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                rest = after;
                let value = match text {
                    "on" => true,
                    "off" => false,
                    _ => return Err("Expected 'on' or 'off'".into()),
                };
                arguments.push(name, Value::Flag(value));
            }
            '-' => {
                let letter = kind.chars().nth(1).unwrap_or_default();
                let mut after = rest.strip_prefix('-').unwrap_or_default().chars();
                if after.next() != Some(letter) {
                    // Another flag's letter comes later, or nothing of the kind.
                    let is_known = |wanted: char| {
                        types(spec).any(|(_, kind)| {
                            kind.starts_with(&['-', wanted][..]) && kind.chars().nth(1) == Some(wanted)
                        })
                    };
                    if let Some(found) = rest.strip_prefix('-').and_then(|rest| rest.chars().next())
                        && !is_known(found)
                    {
                        return Err(format!("{command}: unsupported option -{found}"));
                    }
                    continue;
                }
                rest = after.as_str();
                if kind.len() > 2 {
                    let (word, after) = word(rest.trim_start()).unwrap_or_default();
                    rest = after.ok_or_else(|| format!("{command}: value expected for -{letter}"))?;
                    arguments.push(name, Value::Text(word));
                } else {
                    arguments.push(name, Value::Flag(true));
                }
            }
            other => return Err(format!("{command}: unknown type '{other}'")),
        }
    }
    if !rest.trim().is_empty() {
        return Err(format!("{command}: extraneous characters at the end of line"));
    }
    Ok(arguments)
}

fn checked(command: &str, kind: &str, value: i64) -> Result<i64, String> {
    match kind.chars().next() {
        Some('i') if (value >> 32) & 0xffff_ffff != 0 && value >> 31 != -1 => {
            Err(format!("'{command}' has failed: integer is for 32-bit values"))
        }
        Some('M') if value < 0 => Err("enter a positive value".into()),
        Some('M') => value.checked_mul(1 << 20).ok_or_else(|| "number too large".into()),
        _ => Ok(value),
    }
}

/// A word, or a string in quotes, and what follows; `None` as the rest where there is none or it is wrong.
fn word(text: &str) -> Option<(String, Option<&str>)> {
    if text.is_empty() {
        return None;
    }
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        return Some((word.to_owned(), Some(rest)));
    };
    let mut word = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some((word, Some(characters.as_str()))),
            '\\' => match characters.next()? {
                'n' => word.push('\n'),
                'r' => word.push('\r'),
                plain @ ('\\' | '\'' | '"') => word.push(plain),
                _ => return None,
            },
            plain => word.push(plain),
        }
    }
    None
}

/// `/3xw` and the like, or what was known before.
fn format(text: &str, known: Format) -> Result<(Format, &str), String> {
    let Some(mut rest) = text.strip_prefix('/') else {
        let size = if known.kind == 'i' { 0 } else { known.size };
        return Ok((Format { count: 1, size, ..known }, text));
    };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, after) = rest.split_at(digits);
    let count = if number.is_empty() { 1 } else { number.parse().map_err(|_| "number too large")? };
    rest = after;
    let (mut kind, mut size) = (None, None);
    while let Some(character) = rest.chars().next() {
        match character {
            'o' | 'd' | 'u' | 'x' | 'i' | 'c' => kind = Some(character),
            'b' => size = Some(1),
            'h' => size = Some(2),
            'w' | 'L' => size = Some(4),
            'g' => size = Some(8),
            space if space.is_whitespace() => break,
            other => return Err(format!("invalid char in format: '{other}'")),
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    let kind = kind.unwrap_or(known.kind);
    let size = if kind == 'i' { 0 } else { size.unwrap_or(known.size.max(1)) };
    Ok((Format { count, kind, size }, rest))
}

/// A size in MiB, or with a suffix.
fn size(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: i64 = number.parse().ok()?;
    let shift = match suffix.to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return None,
    };
    number.checked_mul(1_i64.checked_shl(shift)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str, line: &str) -> Result<Arguments, String> {
        parse("c", spec, line, &|_| None, &mut Format::default())
    }

    #[test]
    fn arguments_are_read_by_their_types() {
        let read_all = read("force:-f,device:B,size:o,arg:s?", "-f ide0 \t 2G \"a \\\"b\"").unwrap();
        assert!(read_all.flag("force"));
        assert_eq!(read_all.text("device"), Some("ide0"));
        assert_eq!(read_all.number("size"), Some(2 << 30));
        assert_eq!(read_all.text("arg"), Some("a \"b"));
        let shown = read("fmt:/,addr:l", "/10xg 0x10+1").unwrap();
        assert_eq!(shown.format(), Format { count: 10, kind: 'x', size: 8 });
        assert_eq!(shown.number("addr"), Some(0x11));
        assert!(!read("on:b", "off").unwrap().flag("on"));
        assert_eq!(read("s:S", "all of it ").unwrap().text("s"), Some("all of it"));
    }

    #[test]
    fn formats_are_remembered() {
        let mut last = Format::default();
        let mut read =
            |line: &str| parse("x", "fmt:/,addr:l", line, &|_| None, &mut last).map(|arguments| arguments.format());
        assert_eq!(read("/2xb 0"), Ok(Format { count: 2, kind: 'x', size: 1 }));
        assert_eq!(read(" 0"), Ok(Format { count: 1, kind: 'x', size: 1 }));
        assert_eq!(read("/3i 0"), Ok(Format { count: 3, kind: 'i', size: 0 }));
        assert_eq!(read(" 0"), Ok(Format { count: 1, kind: 'i', size: 0 }));
        assert_eq!(read("/d 0"), Ok(Format { count: 1, kind: 'd', size: 1 }));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (spec, line, expected) in [
            ("device:B", "", "c: block device name expected"),
            ("name:s", "\"open", "c: string expected"),
            ("x:F", "", "c: filename expected"),
            ("a:i", "0x100000000", "'c' has failed: integer is for 32-bit values"),
            ("a:i", "1 2", "c: extraneous characters at the end of line"),
            ("size:o", "zz", "invalid size"),
            ("b:b", "maybe", "Expected 'on' or 'off'"),
            ("f:-f,a:s?", "-q", "c: unsupported option -q"),
            ("fmt:/,a:l", "/q 1", "invalid char in format: 'q'"),
        ] {
            assert_eq!(read(spec, line), Err(expected.to_owned()), "{spec} {line}");
        }
    }
}
