//! The JSON dialect of QMP: values, an incremental reader with QEMU's resynchronisation, and a
//! writer that produces QEMU's bytes.
//!
//! Facts: `qmp.md` sections 1, 7 and 8. Differences from RFC 8259 on input: single-quoted strings,
//! the escape `\'`, duplicate names refused, integers kept as 64-bit integers. On output everything
//! is ASCII, doubles are `%.17g`, and an object's members come in QEMU's hash order.
//! Left out on purpose: `%` interpolation, which exists only inside QEMU.

mod parser;
mod reader;
mod utf8;
mod value;
mod writer;

pub use reader::{MAX_NESTING, MAX_TOKEN_BYTES, MAX_TOKENS, Reader};
pub use value::{Map, Value};
pub use writer::{format_double, to_string, to_string_pretty};

/// A text that is not JSON; the message is the one that QEMU gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(pub(crate) String);

impl JsonError {
    pub(crate) fn parse(message: &str) -> Self {
        // QEMU formats parser messages into a buffer of 1024 bytes.
        let mut end = message.len().min(1023);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        Self(format!("JSON parse error, {}", &message[..end]))
    }
}

/// Parses a text that holds exactly one JSON value, as JSON on a command line does.
///
/// # Errors
/// What the reader reports first, or that there is no value or more than one.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut reader = Reader::new();
    reader.push(text.as_bytes());
    reader.finish();
    let mut found = None;
    while let Some(item) = reader.next() {
        let value = item?;
        if found.is_some() {
            return Err(JsonError("Expecting at most one JSON value".into()));
        }
        found = Some(value);
    }
    found.ok_or_else(|| JsonError("Expecting a JSON value".into()))
}
