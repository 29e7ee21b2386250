//! From the schema's options to those of the block layer.

use block::{Options, Value};
use qapi::block::options::BlockdevOptions;
use qapi::json;
use qapi::{Error, Members};

/// A JSON value as the block layer has it.
pub fn value(value: &json::Value) -> Value {
    match value {
        json::Value::Null => Value::Null,
        json::Value::Bool(on) => Value::Bool(*on),
        json::Value::Int(number) => Value::Int(i128::from(*number)),
        json::Value::Uint(number) => Value::Int(i128::from(*number)),
        json::Value::Double(number) => Value::Str(number.to_string()),
        json::Value::String(text) => Value::Str(text.clone()),
        json::Value::Array(items) => Value::List(items.iter().map(self::value).collect()),
        json::Value::Object(map) => dictionary(map),
    }
}

/// The members of an object by their dotted names.
pub fn block_options(members: &json::Map) -> Options {
    Options::from_value(&dictionary(members))
}

fn dictionary(map: &json::Map) -> Value {
    Value::Dict(map.iter().map(|(name, item)| (name.to_owned(), value(item))).collect())
}

/// A value of the block layer as JSON.
pub fn to_json(value: &Value) -> json::Value {
    match value {
        Value::Null => json::Value::Null,
        Value::Bool(on) => json::Value::Bool(*on),
        Value::Int(number) => match i64::try_from(*number) {
            Ok(number) => json::Value::Int(number),
            Err(_) => u64::try_from(*number).map_or(json::Value::Null, json::Value::from),
        },
        Value::Str(text) => json::Value::String(text.clone()),
        Value::List(items) => json::Value::Array(items.iter().map(to_json).collect()),
        Value::Dict(entries) => {
            json::Value::Object(entries.iter().map(|(name, item)| (name.as_str(), to_json(item))).collect())
        }
    }
}

/// The options that a node is opened with. The older member `cache.writeback` belongs to the back end above.
///
/// # Errors
/// `cache.writeback` is off below the root, where no back end is.
pub fn of_node(options: &BlockdevOptions) -> Result<Options, Error> {
    let mut flat = block_options(&options.to_map());
    flat.take("cache.writeback");
    let inner: Vec<String> =
        flat.iter().map(|(name, _)| name.to_owned()).filter(|name| name.ends_with(".cache.writeback")).collect();
    for name in inner {
        if flat.take(&name) == Some(Value::Bool(false)) {
            return Err(Error::generic(format!("'{name}' is not a property of a node: use a device's write-cache")));
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, Error> {
        let parsed = json::parse(text).unwrap_or_default();
        let options = <BlockdevOptions as qapi::QapiType>::from_value(parsed, &qapi::Path::root())?;
        of_node(&options)
    }

    #[test]
    fn options_of_children_get_dotted_names() {
        let text = r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "a", "cache": {"direct": true}},
            "backing": null, "cache": {"writeback": false}}"#;
        let Ok(flat) = options(text) else { panic!("refused") };
        let names: Vec<&str> = flat.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["backing", "driver", "file.cache.direct", "file.driver", "file.filename"]);
        assert_eq!(flat.get("backing"), Some(&Value::Null));
    }

    #[test]
    fn write_cache_of_an_inner_node_is_refused() {
        let text = r#"{"driver": "raw", "file": {"driver": "null-co", "cache": {"writeback": false}}}"#;
        assert!(options(text).is_err());
        assert!(options(&text.replace("false", "true")).is_ok());
    }
}
