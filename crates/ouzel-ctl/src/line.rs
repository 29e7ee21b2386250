//! Lines that people type: `command key=value nested.key=value`, or a request in JSON.

use qapi::json::{self, Map, Value};
use qapi::keyval;
use qapi::schema::{Argument, Model};

/// Splits a line at white space, but not inside quotes and brackets.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut escaped = false;
    let mut depth = 0_usize;
    for character in line.chars() {
        if quote.is_none() && depth == 0 && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(character);
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether brackets or quotes are still open.
pub(crate) fn is_open(line: &str) -> bool {
    let mut reader = json::Reader::new();
    reader.push(line.trim().as_bytes());
    line.trim_start().starts_with('{') && reader.next().is_none()
}

/// Reads a request in JSON: the name of the command and its arguments.
pub(crate) fn parse_json(text: &str) -> Result<(String, Option<Map>), String> {
    let Value::Object(mut request) = json::parse(text).map_err(|error| error.to_string())? else {
        return Err("a request is a JSON object".into());
    };
    let Some(Value::String(name)) = request.remove("execute") else {
        return Err("a request needs a member 'execute' with the command's name".into());
    };
    let arguments = match request.remove("arguments") {
        None => None,
        Some(Value::Object(arguments)) => Some(arguments),
        Some(_) => return Err("a request's member 'arguments' is an object".into()),
    };
    request.remove("id");
    match request.keys().next() {
        Some(name) => Err(format!("a request has no member '{name}'")),
        None => Ok((name, arguments)),
    }
}

/// Reads `key=value` words as the arguments of `command`.
pub(crate) fn parse_arguments(model: &Model, command: &str, words: &[String]) -> Result<Option<Map>, String> {
    let known = model.arguments(command).unwrap_or_default();
    let mut arguments = Map::new();
    for word in words {
        let Some((key, text)) = word.split_once('=') else {
            return Err(format!("'{word}' is not of the form KEY=VALUE"));
        };
        let argument = known.iter().find(|argument| argument.name == key);
        let value = value_of(argument, text).map_err(|error| format!("{key}: {error}"))?;
        let path: Vec<&str> = if argument.is_some() { vec![key] } else { key.split('.').collect() };
        put(&mut arguments, &path, value).map_err(|error| format!("{key}: {error}"))?;
    }
    let arguments = arguments.into_iter().map(|(name, value)| (name, lists(value)));
    Ok(Some(arguments.collect()).filter(|arguments: &Map| !arguments.is_empty()))
}

/// The value that a text means for an argument.
fn value_of(argument: Option<&Argument>, text: &str) -> Result<Value, String> {
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if text.starts_with(['{', '[']) || quoted('"') || quoted('\'') {
        return json::parse(text).map_err(|error| error.to_string());
    }
    let wrong = |what: &str| format!("'{text}' is not {what}");
    match argument.map(|argument| argument.type_name.as_str()) {
        Some("str" | "enum") => Ok(text.into()),
        Some("[str]" | "[enum]") => Ok(Value::Array(text.split(',').map(Value::from).collect())),
        Some("bool") => keyval::parse_bool(text).map(Value::Bool).ok_or_else(|| wrong("on or off")),
        Some("int") => {
            let signed = keyval::parse_i64(text).map(Value::from);
            signed.or_else(|| keyval::parse_u64(text).map(Value::from)).ok_or_else(|| wrong("an integer"))
        }
        _ => Ok(json::parse(text).unwrap_or_else(|_| text.into())),
    }
}

/// Sets the member at `path`.
fn put(map: &mut Map, path: &[&str], value: Value) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        return match map.insert(*first, value) {
            None => Ok(()),
            Some(_) => Err("is given twice".into()),
        };
    }
    if !map.contains_key(first) {
        map.insert(*first, Map::new());
    }
    match map.get_mut(first) {
        Some(Value::Object(inner)) => put(inner, rest, value),
        _ => Err(format!("'{first}' is a value and cannot have members")),
    }
}

/// Turns objects whose names are 0, 1, 2 … into arrays.
fn lists(value: Value) -> Value {
    let Value::Object(map) = value else {
        return value;
    };
    let is_list = !map.is_empty() && (0..map.len()).all(|at| map.contains_key(&at.to_string()));
    if is_list {
        let mut map = map;
        let items = (0..map.len()).filter_map(|at| map.remove(&at.to_string())).map(lists);
        return Value::Array(items.collect());
    }
    Value::Object(map.into_iter().map(|(name, member)| (name, lists(member))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::Command;
    use qapi::schema::Declaration;

    /// A command with arguments of many types.
    #[derive(Debug, Clone, PartialEq, Command)]
    #[command(name = "x-try")]
    struct Try {
        /// A string.
        text: Option<String>,
        /// An integer.
        number: Option<i64>,
        /// A flag.
        flag: Option<bool>,
        /// A list.
        names: Option<Vec<String>>,
    }

    fn arguments(line: &str) -> Result<String, String> {
        let model = Model::from_declarations(&[Declaration::of::<Try>()]);
        let words = split(line);
        parse_arguments(&model, "x-try", &words)
            .map(|map| map.map_or("none".into(), |map| Value::from(map).to_string()))
    }

    #[test]
    fn values_are_read_by_the_types_of_the_schema() {
        assert_eq!(arguments("").unwrap(), "none");
        assert_eq!(arguments("text=1").unwrap(), r#"{"text": "1"}"#);
        assert_eq!(arguments("number=0x10").unwrap(), r#"{"number": 16}"#);
        assert_eq!(arguments("flag=on").unwrap(), r#"{"flag": true}"#);
        assert_eq!(arguments("names=a,b").unwrap(), r#"{"names": ["a", "b"]}"#);
        assert_eq!(arguments("text='a b'").unwrap(), r#"{"text": "a b"}"#);
        assert_eq!(arguments("number=many").unwrap_err(), "number: 'many' is not an integer");
        assert_eq!(arguments("flag").unwrap_err(), "'flag' is not of the form KEY=VALUE");
    }

    #[test]
    fn nested_values_make_objects_and_arrays() {
        assert_eq!(arguments("o.a.b=1 o.c=x").unwrap(), r#"{"o": {"a": {"b": 1}, "c": "x"}}"#);
        assert_eq!(arguments("l.0.a=1 l.1.a=true").unwrap(), r#"{"l": [{"a": 1}, {"a": true}]}"#);
        assert_eq!(arguments("o={'a': [1, 2]}").unwrap(), r#"{"o": {"a": [1, 2]}}"#);
        assert_eq!(arguments("o=1 o.a=2").unwrap_err(), "o.a: 'o' is a value and cannot have members");
        assert_eq!(arguments("text=a text=b").unwrap_err(), "text: is given twice");
    }

    #[test]
    fn json_requests_are_taken_apart() {
        let (name, arguments) = parse_json("{'execute': 'stop', 'arguments': {'a': 1}, 'id': 5}").unwrap();
        assert_eq!((name.as_str(), Value::from(arguments.unwrap()).to_string().as_str()), ("stop", r#"{"a": 1}"#));
        assert!(
            parse_json("{}").is_err() && parse_json("[1]").is_err() && parse_json("{'execute': 'x', 'y': 1}").is_err()
        );
        assert!(is_open("{'execute': [") && !is_open("{}") && !is_open("stop"));
    }
}
