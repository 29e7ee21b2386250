//! JSON as QEMU's tools print it: four spaces of indentation, keys in the order of QEMU's dictionaries.

use block::Value;

/// The value on several lines, without a line break at the end.
pub fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, &value.ordered(), Some(0));
    text
}

/// The value on one line.
pub fn compact(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, &value.ordered(), None);
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
            for (index, (key, value)) in entries.iter().enumerate() {
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
    write_human(&mut text, &value.ordered(), indent);
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
            entries.iter().for_each(|(key, value)| line(text, &key.replace('-', " "), value));
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
        let Value::Dict(entries) = Value::Dict(entries).ordered() else { panic!("a dictionary") };
        let order: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
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
