//! What clients say after the handshake (RFC 6143, section 7.5, and the extensions of the community's rfbproto).
//!
//! Reading is a pure function of the bytes that are there, so that it can be fuzzed and never waits.

use crate::format::PixelFormat;

/// The longest text of a clipboard.
const CUT_TEXT_MAX: usize = 1 << 20;

/// Encodings and pseudo-encodings.
pub mod encoding {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const RAW: i32 = 0;
    pub const COPY_RECT: i32 = 1;
    pub const HEXTILE: i32 = 5;
    pub const ZLIB: i32 = 6;
    pub const TIGHT: i32 = 7;
    pub const ZRLE: i32 = 16;
    pub const JPEG_QUALITY_LOWEST: i32 = -32;
    pub const JPEG_QUALITY_HIGHEST: i32 = -23;
    pub const DESKTOP_SIZE: i32 = -223;
    pub const CURSOR: i32 = -239;
    pub const COMPRESSION_LOWEST: i32 = -256;
    pub const COMPRESSION_HIGHEST: i32 = -247;
    pub const POINTER_TYPE_CHANGE: i32 = -257;
    pub const EXTENDED_KEY_EVENT: i32 = -258;
    pub const LED_STATE: i32 = -261;
    pub const EXTENDED_DESKTOP_SIZE: i32 = -308;
    pub const XVP: i32 = -309;
    pub const FENCE: i32 = -312;
    pub const CONTINUOUS_UPDATES: i32 = -313;
    pub const CURSOR_WITH_ALPHA: i32 = -314;
    pub const EXTENDED_MOUSE_BUTTONS: i32 = -316;
    pub const WMVI: i32 = 0x574d_5669;
}

/// A message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// How pixels are to be sent.
    SetPixelFormat(PixelFormat),
    /// What the client understands, what it likes most first.
    SetEncodings(Vec<i32>),
    /// It wants to see.
    UpdateRequest {
        /// Only what has changed.
        is_incremental: bool,
        /// Column, row, columns, rows.
        area: [u16; 4],
    },
    /// A key by what it means.
    Key {
        /// Down.
        is_down: bool,
        /// X's symbol.
        symbol: u32,
    },
    /// The pointer is there.
    Pointer {
        /// The buttons that are down.
        buttons: u16,
        /// Column and row.
        position: (u16, u16),
    },
    /// The client's clipboard, which no guest has a use for.
    CutText,
    /// Updates without requests.
    ContinuousUpdates {
        /// From now on, or no longer.
        is_on: bool,
    },
    /// A mark in the stream, that comes back.
    Fence {
        /// What it separates.
        flags: u32,
        /// Up to 64 bytes of the sender's.
        payload: Vec<u8>,
    },
    /// Shut down, reboot or reset.
    Xvp {
        /// Version.
        version: u8,
        /// 2: shut down, 3: reboot, 4: reset.
        action: u8,
    },
    /// Another size of the screen.
    SetDesktopSize {
        /// Columns and rows.
        size: (u16, u16),
    },
    /// A key by its place on the keyboard.
    ExtendedKey {
        /// Down.
        is_down: bool,
        /// X's symbol.
        symbol: u32,
        /// The scancode of set 1, bit 7 for the prefix E0.
        code: u32,
    },
}

/// Why a client is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A message that does not exist, or was not offered.
    #[error("unknown message {0}")]
    Unknown(u8),
    /// A pixel format that does not exist.
    #[error("unknown pixel format")]
    PixelFormat,
    /// A clipboard beyond all measure.
    #[error("a clipboard of {0} bytes")]
    CutText(usize),
    /// A fence with more than 64 bytes.
    #[error("a fence of {0} bytes")]
    Fence(usize),
}

/// Reads what stands at some place of a message.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }
}

/// Reads the message at the start of `bytes`: it and its length, or nothing while it is incomplete. A pointer event has
/// a second byte of buttons where the client was offered that.
///
/// # Errors
/// The message does not exist; there is no way to find the next one.
pub fn read(bytes: &[u8], has_extended_buttons: bool) -> Result<Option<(Message, usize)>, MessageError> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    let fields = Fields(bytes);
    let Some(length) = length(*kind, bytes, has_extended_buttons)? else { return Ok(None) };
    if bytes.len() < length {
        return Ok(None);
    }
    let message = match *kind {
        0 => {
            let format = bytes.get(4..20).and_then(|bytes| bytes.try_into().ok()).and_then(PixelFormat::read);
            Message::SetPixelFormat(format.ok_or(MessageError::PixelFormat)?)
        }
        2 => Message::SetEncodings((4..length).step_by(4).map(|at| fields.u32(at).cast_signed()).collect()),
        3 => Message::UpdateRequest {
            is_incremental: fields.u8(1) != 0,
            area: [fields.u16(2), fields.u16(4), fields.u16(6), fields.u16(8)],
        },
        4 => Message::Key { is_down: fields.u8(1) != 0, symbol: fields.u32(4) },
        5 if length == 7 => Message::Pointer {
            buttons: u16::from(fields.u8(1) & 0x7f) | u16::from(fields.u8(6)) << 7,
            position: (fields.u16(2), fields.u16(4)),
        },
        5 => Message::Pointer { buttons: fields.u8(1).into(), position: (fields.u16(2), fields.u16(4)) },
        6 => Message::CutText,
        150 => Message::ContinuousUpdates { is_on: fields.u8(1) != 0 },
        248 => Message::Fence { flags: fields.u32(4), payload: bytes.get(9..length).unwrap_or_default().to_vec() },
        250 => Message::Xvp { version: fields.u8(2), action: fields.u8(3) },
        251 => Message::SetDesktopSize { size: (fields.u16(2), fields.u16(4)) },
        _ => Message::ExtendedKey { is_down: fields.u16(2) != 0, symbol: fields.u32(4), code: fields.u32(8) },
    };
    Ok(Some((message, length)))
}

/// The length of a message as far as it can be told yet.
fn length(kind: u8, bytes: &[u8], has_extended_buttons: bool) -> Result<Option<usize>, MessageError> {
    let fields = Fields(bytes);
    let with = |least: usize, rest: usize| (bytes.len() >= least).then_some(least + rest);
    Ok(match kind {
        0 => Some(20),
        2 => with(4, usize::from(fields.u16(2)) * 4),
        3 => Some(10),
        4 => Some(8),
        5 if has_extended_buttons && bytes.len() < 2 => None,
        5 => Some(if has_extended_buttons && fields.u8(1) & 0x80 != 0 { 7 } else { 6 }),
        6 => {
            // Negative lengths are the extended clipboard's.
            let rest = fields.u32(4).cast_signed().unsigned_abs() as usize;
            if bytes.len() >= 8 && rest > CUT_TEXT_MAX {
                return Err(MessageError::CutText(rest));
            }
            with(8, rest)
        }
        150 => Some(10),
        248 => {
            let rest = usize::from(fields.u8(8));
            if rest > 64 {
                return Err(MessageError::Fence(rest));
            }
            with(9, rest)
        }
        250 => Some(4),
        251 => with(8, usize::from(fields.u8(6)) * 16),
        255 if bytes.len() < 2 => None,
        255 if fields.u8(1) == 0 => Some(12),
        _ => return Err(MessageError::Unknown(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_when_they_are_complete_and_not_before() {
        let messages: [(&[u8], Message); 9] = [
            (&[2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x21], Message::SetEncodings(vec![16, -223])),
            (&[2, 0, 0, 0], Message::SetEncodings(vec![])),
            (&[3, 1, 0, 1, 0, 2, 3, 0, 4, 0], Message::UpdateRequest { is_incremental: true, area: [1, 2, 768, 1024] }),
            (&[4, 1, 0, 0, 0, 0, 0xff, 0x0d], Message::Key { is_down: true, symbol: 0xff0d }),
            (&[5, 0x81, 1, 0, 0, 9], Message::Pointer { buttons: 0x81, position: (256, 9) }),
            (&[6, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c'], Message::CutText),
            (&[248, 0, 0, 0, 0x80, 0, 0, 1, 2, 7, 8], Message::Fence { flags: 0x8000_0001, payload: vec![7, 8] }),
            (&[251, 0, 4, 0, 3, 0, 0, 0], Message::SetDesktopSize { size: (1024, 768) }),
            (
                &[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e],
                Message::ExtendedKey { is_down: true, symbol: 0x61, code: 0x1e },
            ),
        ];
        for (bytes, message) in messages {
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end], false), Ok(None), "{message:?} up to {end}");
            }
            let mut more = bytes.to_vec();
            more.push(0);
            assert_eq!(read(&more, false), Ok(Some((message, bytes.len()))));
        }
        let extended = Message::Pointer { buttons: 0x0101, position: (1, 2) };
        assert_eq!(read(&[5, 0x81, 0, 1, 0, 2, 2], true), Ok(Some((extended, 7))));
    }

    #[test]
    fn messages_that_do_not_exist_are_errors() {
        assert_eq!(read(&[77], false), Err(MessageError::Unknown(77)));
        assert_eq!(read(&[255, 1], false), Err(MessageError::Unknown(255)));
        assert_eq!(read(&[6, 0, 0, 0, 0, 0x10, 0, 1], false), Err(MessageError::CutText(0x10_0001)));
        assert_eq!(read(&[248, 0, 0, 0, 0, 0, 0, 0, 65], false), Err(MessageError::Fence(65)));
        let mut format = [0; 20];
        format[4] = 24;
        assert_eq!(read(&format, false), Err(MessageError::PixelFormat));
    }
}
