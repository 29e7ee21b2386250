//! Fields and frames: everything is little endian, and a message is a header with its type and length before its body.
//! Clients that can have the short header get it; the long one has a serial number and a list that nobody uses.

use std::ops::Range;

/// Bytes of the short header.
const MINI: usize = 6;
/// Bytes of the long header.
const FULL: usize = 18;
/// No message of a client is longer: the longest are a user's agent's, of 2 KiB.
const BODY_MAX: usize = 16 << 10;

/// Which header a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Type and length.
    Mini,
    /// A serial number, type, length, and where a list of other messages is.
    Full,
}

/// The client sends what it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, malformed.0)
    }
}

/// Fields in the order in which they are sent.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("a message ends within a field"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next byte.
    ///
    /// # Errors
    /// There is none; likewise below.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next 32 bits with a sign.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_le_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A message that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Appends a byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends 16 bits.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends 32 bits.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends 64 bits.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The first message of what has come: its type, where its body is, and how long it is with its header; nothing if there
/// is more to come.
///
/// # Errors
/// It is longer than any message can be.
pub fn split(input: &[u8], header: Header) -> Result<Option<(u16, Range<usize>)>, Malformed> {
    let (start, kind_at) = match header {
        Header::Mini => (MINI, 0),
        Header::Full => (FULL, 8),
    };
    let Some(head) = input.get(kind_at..start) else { return Ok(None) };
    let mut fields = Fields::new(head);
    let (kind, length) = (fields.u16()?, fields.u32()?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > BODY_MAX {
        return Err(Malformed("a message is too long"));
    }
    Ok((input.len() >= start + length).then_some((kind, start..start + length)))
}

/// Writes a message's header; `serial` counts the connection's messages from 1.
pub fn put_header(header: Header, serial: u64, kind: u16, length: usize, out: &mut Vec<u8>) {
    if header == Header::Full {
        out.extend_from_slice(&serial.to_le_bytes());
    }
    out.extend_from_slice(&kind.to_le_bytes());
    // Our messages are strips of a picture at most.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    if header == Header::Full {
        out.extend_from_slice(&[0; 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_complete_at_its_last_byte() {
        for header in [Header::Mini, Header::Full] {
            let mut bytes = Vec::new();
            put_header(header, 7, 101, 3, &mut bytes);
            let start = bytes.len();
            bytes.extend_from_slice(b"abcd");
            for end in 0..start + 3 {
                assert_eq!(split(&bytes[..end], header), Ok(None), "{end} bytes");
            }
            assert_eq!(split(&bytes, header), Ok(Some((101, start..start + 3))));
        }
    }

    #[test]
    fn length_that_no_message_has_is_refused_before_its_body_comes() {
        let mut bytes = Vec::new();
        put_header(Header::Mini, 0, 1, BODY_MAX + 1, &mut bytes);
        assert!(split(&bytes, Header::Mini).is_err());
    }
}
