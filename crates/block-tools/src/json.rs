//! JSON as QEMU's tools print it: four spaces of indentation, keys in the order of QEMU's dictionaries.
//!
//! That order is the one of a hash table with 512 buckets: scripts and test suites compare the text.

use block::Value;

const BUCKETS: u32 = 512;

/// The bucket of a key: TDB's hash of its bytes.
fn bucket(key: &str) -> u32 {
    let start = 0x238F_13AF_u32.wrapping_mul(u32::try_from(key.len()).unwrap_or(u32::MAX));
    let hash = key
        .bytes()
        .enumerate()
        .fold(start, |hash, (index, byte)| hash.wrapping_add(u32::from(byte) << (index * 5 % 24)));
    hash.wrapping_mul(1_103_515_243).wrapping_add(12345) % BUCKETS
}

/// The entries in the order in which QEMU prints them.
pub fn ordered(entries: &[(String, Value)]) -> Vec<&(String, Value)> {
    // Within a bucket the last one that was added comes first.
    let mut ordered: Vec<&(String, Value)> = entries.iter().rev().collect();
    ordered.sort_by_key(|(key, _)| bucket(key));
    ordered
}

/// The value on several lines, without a line break at the end.
pub fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, Some(0));
    text
}

/// The value on one line.
pub fn compact(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, None);
    text
}

fn newline(text: &mut String, indent: Option<usize>) {
    if let Some(indent) = indent {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent * 4));
    }
}

fn write(text: &mut String, value: &Value, indent: Option<usize>) {
    let separator = if indent.is_some() { "," } else { ", " };
    let inner = indent.map(|indent| indent + 1);
    match value {
        Value::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { separator });
                newline(text, inner);
                write(text, item, inner);
            }
            newline(text, indent);
            text.push(']');
        }
        Value::Dict(entries) => {
            text.push('{');
            for (index, (key, value)) in ordered(entries).into_iter().enumerate() {
                text.push_str(if index == 0 { "" } else { separator });
                newline(text, inner);
                write(text, &Value::Str(key.clone()), inner);
                text.push_str(": ");
                write(text, value, inner);
            }
            newline(text, indent);
            text.push('}');
        }
        Value::Str(string) => {
            for (index, c) in Value::Str(string.clone()).to_string().chars().enumerate() {
                // Everything beyond ASCII is escaped, as UTF-16.
                let _ = index;
                if c.is_ascii() && c != '\u{7f}' {
                    text.push(c);
                } else {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        text.push_str(&format!("\\u{unit:04X}"));
                    }
                }
            }
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// The value as people read it in `info`: one line an entry, indented by `indent` steps of four spaces.
pub fn human(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    write_human(&mut text, value, indent);
    text
}

fn write_human(text: &mut String, value: &Value, indent: usize) {
    let line = |text: &mut String, label: &str, value: &Value| {
        let composite = matches!(value, Value::List(_) | Value::Dict(_));
        text.extend(std::iter::repeat_n(' ', indent * 4));
        text.push_str(label);
        text.push_str(if composite { ":\n" } else { ": " });
        write_human(text, value, indent + 1);
        if !composite {
            text.push('\n');
        }
    };
    match value {
        Value::Dict(entries) => {
            ordered(entries).into_iter().for_each(|(key, value)| line(text, &key.replace('-', " "), value));
        }
        Value::List(items) => {
            items.iter().enumerate().for_each(|(index, item)| line(text, &format!("[{index}]"), item));
        }
        Value::Str(string) => text.push_str(string),
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_of_qemus_dictionaries() {
        // As `qemu-img info --output=json` of 7.2 prints them.
        let keys = ["filename", "format", "virtual-size", "actual-size", "dirty-flag", "cluster-size"];
        let entries: Vec<(String, Value)> = keys.iter().map(|key| ((*key).to_owned(), Value::from(1u64))).collect();
        let order: Vec<&str> = ordered(&entries).into_iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(order, ["virtual-size", "filename", "cluster-size", "format", "actual-size", "dirty-flag"]);
    }

    #[test]
    fn nested_values_are_indented_by_four() {
        let value = Value::dict([("a", Value::List(vec![1u64.into(), "x\"".into()]))]);
        assert_eq!(pretty(&value), "{\n    \"a\": [\n        1,\n        \"x\\\"\"\n    ]\n}");
        assert_eq!(compact(&value), "{\"a\": [1, \"x\\\"\"]}");
        assert_eq!(human(&value, 1), "    a:\n        [0]: 1\n        [1]: x\"\n");
    }
}
