//! gdb's remote serial protocol (gdb's manual, appendix E), as a server needs it: [`packet`]s on the wire, the
//! [`request`]s in them, and the [`registers`] of an x86-64 CPU as gdb numbers and describes them.
//!
//! This crate knows bytes, not machines: what requests do is `vm`'s. Everything in it takes what any client sends.

#![forbid(unsafe_code)]

pub mod packet;
pub mod registers;
pub mod request;

pub use packet::{Incoming, Reader};
pub use request::{Action, PointKind, Request, Thread};

use std::fmt::Write as _;

/// The longest packet that is taken, and the longest answer to a request for memory.
pub const PACKET_SIZE: usize = 16 << 10;

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that hexadecimal digits mean; `None` for anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok()).collect()
}

/// A number in hexadecimal, without a sign.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}
