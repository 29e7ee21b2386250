//! The first words of a connection (`spice_protocol.txt`, "Link"): which channel of which session it is to be, and what
//! both ends can.

use crate::wire::{Body, Fields, Malformed};

/// How both begin.
const MAGIC: [u8; 4] = *b"REDQ";
/// The protocol's version; lower numbers are other protocols.
const MAJOR: u32 = 2;
const MINOR: u32 = 2;
/// Bytes of magic, version and length.
const HEADER: usize = 16;
/// Bytes of a link message before its capabilities.
const FIXED: usize = 18;
/// No link message is longer.
const SIZE_MAX: usize = 4096;
/// Bytes of the public key, as certificates hold it.
pub const PUBLIC_KEY: usize = 162;

/// Capabilities that all channels have, by their bits.
pub mod common {
    /// The client chooses how it proves who it is.
    pub const AUTH_SELECTION: u32 = 1;
    /// By a ticket.
    pub const AUTH_SPICE: u32 = 1 << 1;
    /// Messages have the short header.
    pub const MINI_HEADER: u32 = 1 << 3;
}

/// What a channel is for, by the number that the protocol has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// The session.
    Main = 1,
    /// A screen.
    Display = 2,
    /// Keyboard and pointer.
    Inputs = 3,
    /// A screen's pointer.
    Cursor = 4,
}

impl ChannelKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Main, Self::Display, Self::Inputs, Self::Cursor];

    /// The kind of that number.
    pub fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The kind that options call so.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "main" => Self::Main,
            "display" => Self::Display,
            "inputs" => Self::Inputs,
            "cursor" => Self::Cursor,
            _ => return None,
        })
    }

    /// What the server can on such a channel, by bits.
    pub fn capabilities(self) -> u32 {
        match self {
            // The client may go elsewhere with the guest; name and UUID are told.
            Self::Main => 1 | NAME_AND_UUID,
            Self::Display => MONITORS_CONFIG | PREFERRED_COMPRESSION,
            Self::Inputs => 1,
            Self::Cursor => 0,
        }
    }
}

/// Of a main channel: connections may move to another host while the guest does.
pub const SEMI_SEAMLESS_MIGRATION: u32 = 1;
/// Of a main channel: the guest's name and UUID are told.
pub const NAME_AND_UUID: u32 = 1 << 1;
/// Of a display channel: monitors are told.
pub const MONITORS_CONFIG: u32 = 1 << 1;
/// Of a display channel: the client may say how pictures are compressed.
pub const PREFERRED_COMPRESSION: u32 = 1 << 6;

/// Why a connection is refused, by the protocol's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No reason that has a number.
    Error = 1,
    /// It is not this protocol.
    InvalidMagic = 2,
    /// It makes no sense.
    InvalidData = 3,
    /// It is another version.
    VersionMismatch = 4,
    /// The channel needs TLS.
    NeedSecured = 5,
    /// The channel must not have TLS.
    NeedUnsecured = 6,
    /// The ticket is not the password.
    PermissionDenied = 7,
    /// There is no such session.
    BadConnectionId = 8,
    /// There is no such channel.
    ChannelNotAvailable = 9,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The session; 0 for a new one.
    pub connection: u32,
    /// The kind of channel, as a number.
    pub kind: u8,
    /// Which one of its kind.
    pub id: u8,
    /// What the client can in general.
    pub common: u32,
    /// What it can on this channel.
    pub capabilities: u32,
}

/// Reads a client's first message; nothing if there is more to come. Returns its length, too.
///
/// # Errors
/// It is none.
pub fn read(input: &[u8]) -> Result<Option<(Link, usize)>, Refusal> {
    if input.iter().zip(MAGIC).any(|(byte, wanted)| *byte != wanted) {
        return Err(Refusal::InvalidMagic);
    }
    let Some(head) = input.get(MAGIC.len()..HEADER) else { return Ok(None) };
    let invalid = |_: Malformed| Refusal::InvalidData;
    let mut fields = Fields::new(head);
    let (major, _minor) = (fields.u32().map_err(invalid)?, fields.u32().map_err(invalid)?);
    let size = usize::try_from(fields.u32().map_err(invalid)?).unwrap_or(usize::MAX);
    if major != MAJOR {
        return Err(Refusal::VersionMismatch);
    }
    if !(FIXED..=SIZE_MAX).contains(&size) {
        return Err(Refusal::InvalidData);
    }
    let Some(body) = input.get(HEADER..HEADER + size) else { return Ok(None) };
    link(body).map(|link| Some((link, HEADER + size))).map_err(invalid)
}

fn link(body: &[u8]) -> Result<Link, Malformed> {
    let mut fields = Fields::new(body);
    let connection = fields.u32()?;
    let (kind, id) = (fields.u8()?, fields.u8()?);
    let (common_words, words, offset) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let wrong = Malformed("capabilities lie outside of the message");
    let at = |number: u32| usize::try_from(number).map_err(|_| wrong);
    let words = [at(common_words)?, at(words)?];
    let bytes = body.get(at(offset)?..).ok_or(wrong)?;
    // Both lists are of 32-bit words, of which the first has all that is known.
    let (common, own) = bytes.split_at_checked(words[0].saturating_mul(4)).ok_or(wrong)?;
    let own = own.get(..words[1].saturating_mul(4)).ok_or(wrong)?;
    let first = |list: &[u8]| Fields::new(list).u32().unwrap_or(0);
    Ok(Link { connection, kind, id, common: first(common), capabilities: first(own) })
}

fn put_header(size: usize) -> Body {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    Body::default().bytes(&MAGIC).u32(MAJOR).u32(MINOR).u32(size)
}

/// Bytes of an answer before its capabilities.
const ANSWER: usize = 4 + PUBLIC_KEY + 12;

/// The answer to a client that may go on.
pub fn answer(key: &[u8; PUBLIC_KEY], kind: ChannelKind) -> Vec<u8> {
    let common = common::AUTH_SELECTION | common::AUTH_SPICE | common::MINI_HEADER;
    let body = put_header(ANSWER + 8).u32(0).bytes(key).u32(1).u32(1).u32(ANSWER as u32);
    body.u32(common).u32(kind.capabilities()).0
}

/// The answer to a client that may not.
pub fn refuse(refusal: Refusal) -> Vec<u8> {
    put_header(ANSWER).u32(refusal as u32).bytes(&[0; PUBLIC_KEY]).u32(0).u32(0).u32(ANSWER as u32).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As spice-gtk 0.42 sends it for a display.
    const DISPLAY: &[u8] = b"REDQ\x02\0\0\0\x02\0\0\0\x1a\0\0\0\
        \x0d\x24\xc2\x95\x02\x00\x01\0\0\0\x01\0\0\0\x12\0\0\0\x0d\0\0\0\xbf\x03\0\0";

    #[test]
    fn link_message_is_read_once_it_is_complete() {
        let wanted = Link { connection: 0x95c2_240d, kind: 2, id: 0, common: 0xd, capabilities: 0x3bf };
        for end in 0..DISPLAY.len() {
            assert_eq!(read(&DISPLAY[..end]), Ok(None), "{end} bytes");
        }
        assert_eq!(read(&[DISPLAY, b"more"].concat()), Ok(Some((wanted, DISPLAY.len()))));
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = DISPLAY.to_vec();
            bytes[at] = byte;
            read(&bytes)
        };
        assert_eq!(read(b"RFB"), Err(Refusal::InvalidMagic));
        assert_eq!(with(4, 1), Err(Refusal::VersionMismatch));
        assert_eq!(with(12, 17), Err(Refusal::InvalidData));
        assert_eq!(with(14, 1), Err(Refusal::InvalidData));
        // Too many capabilities of both kinds, and an offset behind the end.
        for at in [25, 29, 33] {
            assert_eq!(with(at, 0xff), Err(Refusal::InvalidData), "byte {at}");
        }
        for at in 0..DISPLAY.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                // No panic, whatever it is.
                let _ = with(at, byte);
            }
        }
    }
}
