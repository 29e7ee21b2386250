//! Values of options and of format-specific information.

use std::fmt;

/// A value as JSON knows it; dictionaries keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A string. On the command line every value is one.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// A dictionary.
    Dict(Vec<(String, Value)>),
}

impl Value {
    /// The entry `key` of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Dict(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// A dictionary of these entries.
    pub fn dict<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Value::Dict(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl Value {
    /// The value with all dictionaries in the order in which QEMU prints them: that of a hash table with 512 buckets.
    /// Names of images are compared as text.
    #[must_use]
    pub fn ordered(&self) -> Value {
        match self {
            Value::List(items) => Value::List(items.iter().map(Value::ordered).collect()),
            Value::Dict(entries) => {
                // Within a bucket the last one that was added comes first.
                let mut entries: Vec<(String, Value)> =
                    entries.iter().rev().map(|(name, value)| (name.clone(), value.ordered())).collect();
                entries.sort_by_key(|(name, _)| bucket(name));
                Value::Dict(entries)
            }
            scalar => scalar.clone(),
        }
    }
}

/// The bucket of a name in a dictionary of QEMU's, which is gone through by buckets: TDB's hash.
pub fn bucket(name: &str) -> u32 {
    let start = 0x238F_13AF_u32.wrapping_mul(u32::try_from(name.len()).unwrap_or(u32::MAX));
    let hash = name
        .bytes()
        .enumerate()
        .fold(start, |hash, (index, byte)| hash.wrapping_add(u32::from(byte) << (index * 5 % 24)));
    hash.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Int(value.into())
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Str(value.to_owned())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Str(value)
    }
}

/// As JSON, without line breaks.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Str(value) => write_string(f, value),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Dict(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write_string(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{c}' => f.write_str("\\f")?,
            c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}
