//! From the tokens of one message to a value. The first error wins.

use super::{JsonError, Map, Value, utf8};
use std::slice::Iter;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BraceOpen,
    BraceClose,
    SquareOpen,
    SquareClose,
    Comma,
    Colon,
    Integer,
    Float,
    Keyword,
    Text,
}

/// A token: what it is and where its bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Parses the tokens of one message. The containers that are open are kept in a list, not on the
/// stack, so that nesting costs no stack.
pub(super) fn parse(bytes: &[u8], tokens: &[Token]) -> Result<Value, JsonError> {
    let mut tokens = tokens.iter();
    let mut open: Vec<Container> = Vec::new();
    loop {
        let token = next(&mut tokens)?;
        let mut value = match token.kind {
            Kind::BraceOpen if peek(&tokens)? != Kind::BraceClose => {
                open.push(Container::Object { map: Map::new(), key: None });
                continue;
            }
            Kind::SquareOpen if peek(&tokens)? != Kind::SquareClose => {
                open.push(Container::Array(Vec::new()));
                continue;
            }
            Kind::BraceOpen => {
                tokens.next();
                Value::empty_object()
            }
            Kind::SquareOpen => {
                tokens.next();
                Value::Array(Vec::new())
            }
            _ => scalar(token.kind, bytes.get(token.start..token.end).unwrap_or_default())?,
        };
        // A complete value goes into its container, which may thereby be complete, too.
        loop {
            let Some(container) = open.pop() else {
                return Ok(value);
            };
            match add(container, value, &mut tokens)? {
                Added::Open(container) => {
                    open.push(container);
                    break;
                }
                Added::Complete(container) => value = container,
            }
        }
    }
}

/// An array or object whose end has not come yet.
enum Container {
    Array(Vec<Value>),
    Object {
        map: Map,
        /// The name of the member whose value comes next.
        key: Option<String>,
    },
}

enum Added {
    Open(Container),
    Complete(Value),
}

/// Puts a value into its container and reads the separator behind it.
fn add(container: Container, value: Value, tokens: &mut Iter<'_, Token>) -> Result<Added, JsonError> {
    match container {
        Container::Array(mut items) => {
            items.push(value);
            match next(tokens)?.kind {
                Kind::SquareClose => Ok(Added::Complete(Value::Array(items))),
                Kind::Comma => Ok(Added::Open(Container::Array(items))),
                _ => error("expected separator in list"),
            }
        }
        Container::Object { map, key: None } => {
            let Value::String(key) = value else {
                return error("key is not a string in object");
            };
            match next(tokens)?.kind {
                Kind::Colon => Ok(Added::Open(Container::Object { map, key: Some(key) })),
                _ => error("missing : in object pair"),
            }
        }
        Container::Object { mut map, key: Some(key) } => {
            if map.contains_key(&key) {
                return error("duplicate key");
            }
            map.insert(key, value);
            match next(tokens)?.kind {
                Kind::BraceClose => Ok(Added::Complete(Value::Object(map))),
                Kind::Comma => Ok(Added::Open(Container::Object { map, key: None })),
                _ => error("expected separator in dict"),
            }
        }
    }
}

fn scalar(kind: Kind, bytes: &[u8]) -> Result<Value, JsonError> {
    match kind {
        Kind::Integer | Kind::Float => Ok(number(kind, bytes)),
        Kind::Text => string(bytes).map(Value::String),
        Kind::Keyword => match bytes {
            b"true" => Ok(Value::Bool(true)),
            b"false" => Ok(Value::Bool(false)),
            b"null" => Ok(Value::Null),
            other => error(&format!("invalid keyword '{}'", utf8::lossy_c_string(other))),
        },
        _ => error("expecting value"),
    }
}

fn error<T>(message: &str) -> Result<T, JsonError> {
    Err(JsonError::parse(message))
}

fn peek(tokens: &Iter<'_, Token>) -> Result<Kind, JsonError> {
    tokens.as_slice().first().map(|token| token.kind).ok_or_else(premature)
}

fn next(tokens: &mut Iter<'_, Token>) -> Result<Token, JsonError> {
    tokens.next().copied().ok_or_else(premature)
}

fn premature() -> JsonError {
    JsonError::parse("premature EOI")
}

fn number(kind: Kind, bytes: &[u8]) -> Value {
    // The lexer lets only ASCII digits, signs, a point and an exponent through.
    let text = std::str::from_utf8(bytes).unwrap_or("0");
    if kind == Kind::Integer {
        if let Ok(number) = text.parse::<i64>() {
            return Value::Int(number);
        }
        if let Ok(number) = text.parse::<u64>() {
            return Value::Uint(number);
        }
    }
    Value::Double(text.parse().unwrap_or_default())
}

/// The content of a string token, quotes included.
fn string(token: &[u8]) -> Result<String, JsonError> {
    let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    let mut text = String::with_capacity(inner.len());
    let mut at = 0;
    while let Some(&byte) = inner.get(at) {
        if byte == b'\\' {
            at += escape(token, inner, at, &mut text)?;
            continue;
        }
        let (point, len) = utf8::decode(inner.get(at..).unwrap_or_default());
        let Some(character) = point.and_then(char::from_u32) else {
            return error("invalid UTF-8 sequence in string");
        };
        text.push(character);
        at += len.max(1);
    }
    Ok(text)
}

/// Decodes the escape at `at` and tells how long it is.
fn escape(token: &[u8], inner: &[u8], at: usize, text: &mut String) -> Result<usize, JsonError> {
    let simple = match inner.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\'') => '\'',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(token, inner, at, text),
        _ => {
            return error("invalid escape sequence in string");
        }
    };
    text.push(simple);
    Ok(2)
}

fn unicode_escape(token: &[u8], inner: &[u8], at: usize, text: &mut String) -> Result<usize, JsonError> {
    let mut point = hex4(inner, at + 2);
    let mut len = 6;
    if let Some(high @ 0xD800..=0xDBFF) = point
        && inner.get(at + 6..at + 8) == Some(b"\\u")
    {
        point = match hex4(inner, at + 8) {
            Some(low @ 0xDC00..=0xDFFF) => {
                len = 12;
                Some(0x1_0000 + ((high & 0x3FF) << 10) + (low & 0x3FF))
            }
            _ => None,
        };
    }
    match point.filter(|&point| utf8::is_character(point)).and_then(char::from_u32) {
        Some(character) => {
            text.push(character);
            Ok(len)
        }
        None => {
            // Like QEMU's, the excerpt may run into the closing quote.
            let end = (at + 1 + len).min(token.len());
            let excerpt = utf8::lossy_c_string(token.get(at + 1..end).unwrap_or_default());
            error(&format!("{excerpt} is not a valid Unicode character"))
        }
    }
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}
