//! The options of a node: a flat map from dotted names (`file.filename`, `backing.driver`) to scalar values.
//!
//! Values from JSON keep their type, values from a command line are strings; the `take_…` functions accept both. A
//! driver takes what it knows; what is left at the end is an unknown option and refused.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::value::Value;

/// The options of one node and, under prefixes, of its children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    values: BTreeMap<String, Value>,
}

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The options of a (nested) dictionary: `{file: {filename: x}}` is `file.filename=x`, list items are numbered.
    pub fn from_value(value: &Value) -> Self {
        let mut options = Self::new();
        options.flatten("", value);
        options
    }

    fn flatten(&mut self, prefix: &str, value: &Value) {
        let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            Value::Dict(entries) => entries.iter().for_each(|(key, value)| self.flatten(&name(key), value)),
            Value::List(items) => {
                items.iter().enumerate().for_each(|(index, item)| self.flatten(&name(&index.to_string()), item));
            }
            scalar => {
                self.values.insert(prefix.to_owned(), scalar.clone());
            }
        }
    }

    /// The nested form: the inverse of [`Options::from_value`], except that lists whose items are scalars or
    /// dictionaries are recognised by names `0`, `1` ….
    pub fn to_value(&self) -> Value {
        let mut root = Vec::new();
        for (name, value) in &self.values {
            insert(&mut root, name, value.clone());
        }
        listify(Value::Dict(root))
    }

    /// Sets an option.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// The same options with one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets an option unless it is there.
    pub fn set_default(&mut self, name: &str, value: impl Into<Value>) {
        self.values.entry(name.to_owned()).or_insert_with(|| value.into());
    }

    /// Whether the option itself is there (not one below it).
    pub fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The string value of an option, if it is a string.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Removes and returns an option.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name)
    }

    /// Removes and returns all options below `prefix.`, without the prefix.
    pub fn take_below(&mut self, prefix: &str) -> Options {
        let dotted = format!("{prefix}.");
        let names: Vec<String> = self.values.keys().filter(|name| name.starts_with(&dotted)).cloned().collect();
        let mut below = Options::new();
        for name in names {
            if let Some(value) = self.values.remove(&name) {
                below.values.insert(name[dotted.len()..].to_owned(), value);
            }
        }
        below
    }

    /// Adds all of `below` under `prefix.`.
    pub fn put_below(&mut self, prefix: &str, below: Options) {
        self.values.extend(below.values.into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)));
    }

    /// Removes and returns a list of scalars, `name.0`, `name.1` ….
    ///
    /// # Errors
    /// If an item is not a string.
    pub fn take_list(&mut self, name: &str) -> Result<Vec<String>> {
        let mut items = Vec::new();
        while let Some(item) = self.take_str(&format!("{name}.{}", items.len()))? {
            items.push(item);
        }
        Ok(items)
    }

    /// Removes and returns a string. A number stands for its digits, as in `"port": 10809`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn take_str(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(Value::Int(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(wrong_type(name, "string")),
        }
    }

    /// Removes and returns a boolean: `on`, `off`, or a JSON boolean.
    ///
    /// # Errors
    /// If it is neither.
    pub fn take_bool(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(Value::Str(text)) => match text.as_str() {
                "on" | "yes" | "true" | "y" => Ok(Some(true)),
                "off" | "no" | "false" | "n" => Ok(Some(false)),
                _ => Err(Error::invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
            },
            Some(_) => Err(wrong_type(name, "boolean")),
        }
    }

    /// Removes and returns a number.
    ///
    /// # Errors
    /// If it is no number or out of range.
    pub fn take_u64(&mut self, name: &str) -> Result<Option<u64>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Int(value)) => u64::try_from(value)
                .map(Some)
                .map_err(|_| Error::invalid(format!("Parameter '{name}' expects a non-negative number"))),
            Some(Value::Str(text)) => {
                parse_u64(&text).map(Some).ok_or_else(|| Error::invalid(format!("Parameter '{name}' expects a number")))
            }
            Some(_) => Err(wrong_type(name, "number")),
        }
    }

    /// Removes and returns a size in bytes: a number with an optional suffix `b`, `k`, `M`, `G`, `T`, `P` or `E`.
    ///
    /// # Errors
    /// If it is no size.
    pub fn take_size(&mut self, name: &str) -> Result<Option<u64>> {
        match self.take(name) {
            Some(Value::Str(text)) => parse_size(&text)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("Parameter '{name}' expects a non-negative number below 2^64"))),
            Some(other) => {
                self.values.insert(name.to_owned(), other);
                self.take_u64(name)
            }
            None => Ok(None),
        }
    }

    /// Removes and returns one of `choices`: its index.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn take_choice(&mut self, name: &str, choices: &[&str]) -> Result<Option<usize>> {
        let Some(text) = self.take_str(name)? else { return Ok(None) };
        choices
            .iter()
            .position(|choice| *choice == text)
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("Parameter '{name}' does not accept value '{text}'")))
    }
}

fn wrong_type(name: &str, expected: &str) -> Error {
    Error::invalid(format!("Invalid parameter type for '{name}', expected: {expected}"))
}

fn insert(entries: &mut Vec<(String, Value)>, name: &str, value: Value) {
    let Some((head, rest)) = name.split_once('.') else {
        entries.push((name.to_owned(), value));
        return;
    };
    let at = entries.iter().position(|(key, value)| key == head && matches!(value, Value::Dict(_)));
    let at = at.unwrap_or_else(|| {
        entries.push((head.to_owned(), Value::Dict(Vec::new())));
        entries.len() - 1
    });
    if let Value::Dict(inner) = &mut entries[at].1 {
        insert(inner, rest, value);
    }
}

fn listify(value: Value) -> Value {
    let Value::Dict(entries) = value else { return value };
    let mut entries: Vec<(String, Value)> = entries.into_iter().map(|(key, value)| (key, listify(value))).collect();
    let is_list =
        !entries.is_empty() && (0..entries.len()).all(|index| entries.iter().any(|(key, _)| *key == index.to_string()));
    if is_list {
        entries.sort_by_key(|(key, _)| key.parse::<usize>().unwrap_or(usize::MAX));
        Value::List(entries.into_iter().map(|(_, value)| value).collect())
    } else {
        Value::Dict(entries)
    }
}

/// A decimal number, or a hexadecimal one with `0x`.
pub fn parse_u64(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size in bytes: a number, perhaps with a fraction, and an optional binary suffix.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.starts_with("0x") || text.starts_with("0X") {
        return parse_u64(text);
    }
    let (number, shift) = match text.char_indices().last()? {
        (at, c) if c.is_ascii_alphabetic() => {
            let shift = match c.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                'p' => 50,
                'e' => 60,
                _ => return None,
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || !fraction.bytes().all(|b| b.is_ascii_digit())
        || (shift == 0 && fraction.bytes().any(|b| b != b'0'))
    {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of at most 2^60")]
    let fraction = if fraction.is_empty() || shift == 0 {
        0
    } else {
        (format!("0.{fraction}").parse::<f64>().ok()? * (1u64 << shift) as f64) as u64
    };
    whole.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_become_dotted_names_and_back() {
        let value = Value::dict([
            ("driver", "qcow2".into()),
            ("file", Value::dict([("driver", "file".into()), ("filename", "a.b".into())])),
            ("children", Value::List(vec!["a".into(), "b".into()])),
        ]);
        let options = Options::from_value(&value);
        assert_eq!(options.get_str("file.filename"), Some("a.b"));
        assert_eq!(options.get_str("children.1"), Some("b"));
        assert_eq!(options.to_value().get("children"), value.get("children"));
        assert_eq!(options.to_value().get("file"), value.get("file"));
    }

    #[test]
    fn sizes_take_suffixes_and_fractions() {
        for (text, size) in
            [("512", 512), ("1k", 1024), ("1.5M", 3 << 19), ("1024.0", 1024), ("0x200", 512), ("2T", 2 << 40)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "k", "-1", "1.5", "1x", "16E", "1kk"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn taking_below_a_prefix_leaves_the_rest() {
        let mut options = Options::new().with("file.driver", "file").with("filex", "1").with("file", "node");
        let file = options.take_below("file");
        assert_eq!(file.get_str("driver"), Some("file"));
        assert_eq!(options.get_str("file"), Some("node"));
        assert_eq!(options.get_str("filex"), Some("1"));
    }
}
