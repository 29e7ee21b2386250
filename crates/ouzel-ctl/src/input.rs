//! Lines that people type: `command key=value nested.key=value list.0=value`, or a request in JSON.
//!
//! A line is split at white space. Quotes, single and double, keep words together, and a backslash
//! takes the next character as it is, as in a shell. A value that begins with `{` or `[` is JSON and
//! ends where its brackets do. The schema decides what a value becomes; where it does not tell, a
//! value that looks like JSON is JSON, and any other is a string.

use crate::types::{self, Form};
use qapi::json::{self, Map, Reader, Value};
use qapi::keyval;
use qapi::schema::Model;
use std::iter::Peekable;
use std::str::Chars;

/// How deep keys may be nested.
const MAX_DEPTH: usize = 64;

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Word {
    /// What stands before the first `=`, if there is one.
    pub(crate) key: Option<String>,
    /// What stands behind it, or the whole word.
    pub(crate) text: String,
    /// Whether the text, or a part of it, was in quotes: it is then not taken for JSON.
    pub(crate) quoted: bool,
}

/// A line that has been read.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// Nothing, or a comment.
    Nothing,
    /// `help`, and about what.
    Help(Vec<String>),
    /// Events are to be shown or not; `None` asks.
    Events(Option<bool>),
    /// The end of the session.
    Exit,
    /// A request in JSON.
    Json(Map),
    /// A command with arguments.
    Command {
        /// Its name.
        name: String,
        /// Its arguments, which need the schema to be understood.
        words: Vec<Word>,
    },
}

/// Reads a line.
pub(crate) fn parse_line(text: &str) -> Result<Line, String> {
    let text = text.trim();
    if text.starts_with('{') {
        return parse_json(text);
    }
    if text.starts_with('#') {
        return Ok(Line::Nothing);
    }
    from_words(split(text)?)
}

/// Reads words that are split and unquoted already.
pub(crate) fn parse_words(words: Vec<String>) -> Result<Line, String> {
    if let [text] = words.as_slice()
        && text.trim_start().starts_with('{')
    {
        return parse_json(text.trim());
    }
    let word = |text: String| match text.split_once('=') {
        Some((key, value)) if is_key(key) => Word { key: Some(key.to_owned()), text: value.to_owned(), quoted: false },
        _ => Word { key: None, text, quoted: false },
    };
    from_words(words.into_iter().map(word).collect())
}

fn from_words(words: Vec<Word>) -> Result<Line, String> {
    let mut words = words.into_iter();
    let Some(first) = words.next() else {
        return Ok(Line::Nothing);
    };
    if let Some(key) = first.key {
        return Err(format!("a line begins with a command, not with '{key}='"));
    }
    let words: Vec<Word> = words.collect();
    let plain = || words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    match first.text.as_str() {
        "help" | "?" => Ok(Line::Help(plain())),
        "exit" if words.is_empty() => Ok(Line::Exit),
        "events" => match plain().iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => Ok(Line::Events(None)),
            ["on"] => Ok(Line::Events(Some(true))),
            ["off"] => Ok(Line::Events(Some(false))),
            _ => Err("events: say on or off".into()),
        },
        _ => Ok(Line::Command { name: first.text, words }),
    }
}

fn parse_json(text: &str) -> Result<Line, String> {
    match json::parse(text) {
        Ok(Value::Object(request)) => Ok(Line::Json(request)),
        Ok(_) => Err("a request is a JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the text is the beginning of a request in JSON that goes on in the next line.
pub(crate) fn is_open(text: &str) -> bool {
    if !text.trim_start().starts_with('{') {
        return false;
    }
    let mut reader = Reader::new();
    reader.push(text.as_bytes());
    while let Some(result) = reader.next() {
        if result.is_err() {
            return false;
        }
    }
    !reader.is_idle()
}

/// Splits a line into words.
pub(crate) fn split(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut characters = line.chars().peekable();
    loop {
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Ok(words);
        }
        words.push(next_word(&mut characters)?);
    }
}

fn next_word(characters: &mut Peekable<Chars<'_>>) -> Result<Word, String> {
    let mut word = Word::default();
    if matches!(characters.peek(), Some('{' | '[')) {
        word.text = bracketed(characters)?;
        return Ok(word);
    }
    while let Some(character) = characters.next_if(|character| !character.is_whitespace()) {
        match character {
            '\'' | '"' => {
                word.quoted = true;
                quoted(character, characters, &mut word.text)?;
            }
            '\\' => word.text.push(characters.next().ok_or("a backslash at the end of the line")?),
            '=' if word.key.is_none() && !word.quoted && is_key(&word.text) => {
                word.key = Some(std::mem::take(&mut word.text));
                if matches!(characters.peek(), Some('{' | '[')) {
                    word.text = bracketed(characters)?;
                }
            }
            other => word.text.push(other),
        }
    }
    Ok(word)
}

/// Whether a text may stand before `=`.
fn is_key(text: &str) -> bool {
    !text.is_empty() && !text.contains(['{', '[', '"', '\''])
}

/// Takes the rest of a quoted part.
fn quoted(quote: char, characters: &mut Peekable<Chars<'_>>, text: &mut String) -> Result<(), String> {
    while let Some(character) = characters.next() {
        match character {
            _ if character == quote => return Ok(()),
            '\\' if quote == '"' && matches!(characters.peek(), Some('"' | '\\')) => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    Err(format!("a {quote} is not closed"))
}

/// Takes JSON in brackets, and what follows without white space, as they are.
fn bracketed(characters: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut text = String::new();
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    while let Some(character) =
        characters.next_if(|character| depth > 0 || quote.is_some() || !character.is_whitespace())
    {
        text.push(character);
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
    if depth > 0 || quote.is_some() {
        return Err("JSON that is not closed".into());
    }
    Ok(text)
}

/// Whether the schema is needed to read these words.
pub(crate) fn needs_schema(words: &[Word]) -> bool {
    words.iter().any(|word| word.key.is_some())
}

/// The arguments of `command` from the words behind it.
pub(crate) fn arguments(model: &Model, command: &str, words: &[Word]) -> Result<Option<Map>, String> {
    let mut root = Node::Inner(Vec::new());
    for word in words {
        let Some(key) = &word.key else {
            if words.len() == 1 && word.text.starts_with('{') {
                return object(&word.text).map(Some);
            }
            return Err(format!("'{}' is not of the form KEY=VALUE", word.text));
        };
        let path: Vec<&str> = key.split('.').collect();
        if path.len() > MAX_DEPTH || path.iter().any(|segment| segment.is_empty()) {
            return Err(format!("'{key}' is no key"));
        }
        root.put(&path, word).map_err(|error| format!("{key}: {error}"))?;
    }
    if words.is_empty() {
        return Ok(None);
    }
    match root.value(model, types::arguments(model, command), "")? {
        Value::Object(map) => Ok(Some(map)),
        _ => Err(format!("{command}: the arguments are no object")),
    }
}

fn object(text: &str) -> Result<Map, String> {
    match json::parse(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(format!("'{text}' is not an object")),
        Err(error) => Err(error.to_string()),
    }
}

/// Arguments by their keys, before they have types.
#[derive(Debug)]
enum Node {
    Leaf(Word),
    Inner(Vec<(String, Node)>),
}

impl Node {
    fn put(&mut self, path: &[&str], word: &Word) -> Result<(), String> {
        let Self::Inner(children) = self else {
            return Err("a value is not an object, too".into());
        };
        let Some((first, rest)) = path.split_first() else {
            return Ok(());
        };
        let known = children.iter_mut().find(|(name, _)| name == first);
        match (known, rest.is_empty()) {
            (Some(_), true) => Err("it is given twice".into()),
            (Some((_, child)), false) => child.put(rest, word),
            (None, true) => {
                children.push(((*first).to_owned(), Self::Leaf(word.clone())));
                Ok(())
            }
            (None, false) => {
                let mut child = Self::Inner(Vec::new());
                child.put(rest, word)?;
                children.push(((*first).to_owned(), child));
                Ok(())
            }
        }
    }

    /// The value, given the name of its type; `path` is where it stands.
    fn value(&self, model: &Model, ty: Option<&str>, path: &str) -> Result<Value, String> {
        let forms = ty.map(|ty| types::forms(model, ty)).unwrap_or_default();
        match self {
            Self::Leaf(word) => leaf(model, &forms, word).map_err(|error| format!("{path}: {error}")),
            Self::Inner(children) => inner(model, &forms, children, path),
        }
    }
}

/// The value of an object or array whose parts have keys of their own.
fn inner(model: &Model, forms: &[Form<'_>], children: &[(String, Node)], path: &str) -> Result<Value, String> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let is_list = !children.is_empty() && children.iter().all(|(name, _)| types::is_index(name));
    for form in forms {
        match form {
            Form::Object(shape) => {
                let tag = |name: &str| match children.iter().find(|(child, _)| child == name) {
                    Some((_, Node::Leaf(word))) => Some(word.text.clone()),
                    _ => None,
                };
                let members = types::members(model, shape, tag);
                let mut map = Map::new();
                for (name, child) in children {
                    let member = members.iter().find(|member| member.name == *name);
                    let ty = member.map(|member| member.r#type.as_str());
                    map.insert(name.as_str(), child.value(model, ty, &below(name))?);
                }
                return Ok(Value::Object(map));
            }
            Form::Array(element) if is_list => return list(model, Some(element), children, path),
            _ => {}
        }
    }
    if forms.iter().any(|form| matches!(form, Form::Array(_))) {
        return Err(format!("{path}: an array's elements are {path}.0, {path}.1 and so on"));
    }
    if !forms.is_empty() && !forms.iter().any(|form| matches!(form, Form::Any)) {
        return Err(format!("{path}: it has no members"));
    }
    if is_list {
        return list(model, None, children, path);
    }
    let mut map = Map::new();
    for (name, child) in children {
        map.insert(name.as_str(), child.value(model, None, &below(name))?);
    }
    Ok(Value::Object(map))
}

fn list(model: &Model, element: Option<&str>, children: &[(String, Node)], path: &str) -> Result<Value, String> {
    let items = (0..children.len()).map(|at| {
        let name = at.to_string();
        let child = children.iter().find(|(child, _)| *child == name);
        let (_, child) = child.ok_or_else(|| format!("{path}: the element {path}.{at} is missing"))?;
        child.value(model, element, &format!("{path}.{at}"))
    });
    items.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// The value that a text means where the schema allows `forms`.
fn leaf(model: &Model, forms: &[Form<'_>], word: &Word) -> Result<Value, String> {
    if forms.is_empty() {
        return Ok(guess(word));
    }
    // In an alternate the narrower forms go first: a string takes everything.
    let mut by_width: Vec<&Form<'_>> = forms.iter().collect();
    by_width.sort_by_key(|form| match form {
        Form::Null | Form::Flag | Form::Enum(_) => 0,
        Form::Integer => 1,
        Form::Number => 2,
        Form::Array(_) | Form::Object(_) => 3,
        Form::Text => 4,
        Form::Any => 5,
    });
    let mut problem = String::new();
    for form in by_width {
        // Only a list of several forms gives quotes a meaning: it then is the string.
        let passed_over = forms.len() > 1 && word.quoted && !matches!(form, Form::Text | Form::Enum(_) | Form::Any);
        if passed_over {
            continue;
        }
        match leaf_of(model, *form, word) {
            Ok(value) => return Ok(value),
            Err(error) => problem = error,
        }
    }
    Err(if forms.len() > 1 { format!("'{}' fits none of the types it may have", word.text) } else { problem })
}

fn leaf_of(model: &Model, form: Form<'_>, word: &Word) -> Result<Value, String> {
    let text = word.text.as_str();
    let wrong = |what: &str| format!("'{text}' is not {what}");
    match form {
        Form::Text => Ok(text.into()),
        Form::Integer => integer(text).ok_or_else(|| wrong("an integer")),
        Form::Number => integer(text).or_else(|| double(text)).ok_or_else(|| wrong("a number")),
        Form::Flag => keyval::parse_bool(text).map(Value::Bool).ok_or_else(|| wrong("true or false")),
        Form::Null => (text == "null").then_some(Value::Null).ok_or_else(|| wrong("null")),
        Form::Enum(values) if values.iter().any(|value| value.name == text) => Ok(text.into()),
        Form::Enum(values) => {
            let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
            Err(wrong(&format!("one of {}", names.join(", "))))
        }
        Form::Array(_) if text.starts_with('[') && !word.quoted => json::parse(text).map_err(|error| error.to_string()),
        Form::Array(element) => {
            let forms = types::forms(model, element);
            let part = |part: &str| leaf_part(&forms, part);
            let parts = text.split(',').filter(|_| !text.is_empty());
            parts.map(part).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Form::Object(_) if text.starts_with('{') => object(text).map(Value::Object),
        Form::Object(_) => Err(wrong("an object in JSON")),
        Form::Any => Ok(guess(word)),
    }
}

/// An element of a list that is written with commas. Such elements are scalars: arrays in arrays are
/// written in JSON.
fn leaf_part(forms: &[Form<'_>], text: &str) -> Result<Value, String> {
    let scalar = |form: &&Form<'_>| !matches!(form, Form::Array(_) | Form::Object(_));
    let scalars: Vec<Form<'_>> = forms.iter().filter(scalar).copied().collect();
    if scalars.is_empty() && !forms.is_empty() {
        return Err(format!("'{text}' is not an element; use JSON in [ ]"));
    }
    leaf(&Model::default(), &scalars, &Word { key: None, text: text.to_owned(), quoted: false })
}

fn guess(word: &Word) -> Value {
    let json = if word.quoted { None } else { json::parse(&word.text).ok() };
    json.unwrap_or_else(|| word.text.as_str().into())
}

/// Decimal or hexadecimal, or a size such as `64M`.
fn integer(text: &str) -> Option<Value> {
    let decimal = text.parse::<i64>().ok().or_else(|| keyval::parse_i64(text)).map(Value::from);
    let large = || keyval::parse_u64(text).filter(|_| !text.starts_with('-')).map(Value::from);
    if let Some(number) = decimal.or_else(large) {
        return Some(number);
    }
    let has_suffix = text.ends_with(|last: char| last.is_ascii_alphabetic()) && !text.starts_with("0x");
    has_suffix.then(|| keyval::parse_size(text, 1).ok()).flatten().map(Value::from)
}

fn double(text: &str) -> Option<Value> {
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Double)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
