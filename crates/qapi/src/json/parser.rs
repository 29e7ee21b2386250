//! From the tokens of one message to a value. The first error wins.

use super::{JsonError, Map, Value, utf8};

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

/// Parses the tokens of one message. Nesting is bounded by the reader.
pub(super) fn parse(bytes: &[u8], tokens: &[Token]) -> Result<Value, JsonError> {
    Parser { bytes, tokens: tokens.iter() }.value()
}

struct Parser<'a> {
    bytes: &'a [u8],
    tokens: std::slice::Iter<'a, Token>,
}

fn error<T>(message: &str) -> Result<T, JsonError> {
    Err(JsonError::parse(message))
}

impl Parser<'_> {
    fn peek(&self) -> Result<Kind, JsonError> {
        self.tokens.as_slice().first().map(|token| token.kind).ok_or_else(premature)
    }

    fn pop(&mut self) -> Result<Token, JsonError> {
        self.tokens.next().copied().ok_or_else(premature)
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        let token = self.pop()?;
        let bytes = self.bytes.get(token.start..token.end).unwrap_or_default();
        match token.kind {
            Kind::BraceOpen => self.object().map(Value::Object),
            Kind::SquareOpen => self.array().map(Value::Array),
            Kind::Integer | Kind::Float => Ok(number(token.kind, bytes)),
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

    fn object(&mut self) -> Result<Map, JsonError> {
        let mut map = Map::new();
        if self.peek()? == Kind::BraceClose {
            self.pop()?;
            return Ok(map);
        }
        loop {
            self.pair(&mut map)?;
            match self.pop()?.kind {
                Kind::BraceClose => return Ok(map),
                Kind::Comma => {}
                _ => return error("expected separator in dict"),
            }
        }
    }

    fn pair(&mut self, map: &mut Map) -> Result<(), JsonError> {
        let Value::String(key) = self.value()? else {
            return error("key is not a string in object");
        };
        if self.pop()?.kind != Kind::Colon {
            return error("missing : in object pair");
        }
        let value = self.value()?;
        if map.contains_key(&key) {
            return error("duplicate key");
        }
        map.insert(key, value);
        Ok(())
    }

    fn array(&mut self) -> Result<Vec<Value>, JsonError> {
        let mut items = Vec::new();
        if self.peek()? == Kind::SquareClose {
            self.pop()?;
            return Ok(items);
        }
        loop {
            items.push(self.value()?);
            match self.pop()?.kind {
                Kind::SquareClose => return Ok(items),
                Kind::Comma => {}
                _ => return error("expected separator in list"),
            }
        }
    }
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
