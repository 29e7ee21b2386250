//! What clients send on their channels (`spice.proto` of the protocol's authors), and the numbers of what they are sent.

use crate::link::ChannelKind;
use crate::wire::{Fields, Malformed};

/// The types of messages that the server sends.
pub(crate) mod kind {
    pub const SET_ACK: u16 = 3;
    pub const PING: u16 = 4;

    pub const MAIN_MIGRATE_BEGIN: u16 = 101;
    pub const MAIN_MIGRATE_CANCEL: u16 = 102;
    pub const MAIN_INIT: u16 = 103;
    pub const MAIN_CHANNELS_LIST: u16 = 104;
    pub const MAIN_MOUSE_MODE: u16 = 105;
    pub const MAIN_NAME: u16 = 113;
    pub const MAIN_UUID: u16 = 114;

    pub const DISPLAY_MARK: u16 = 102;
    pub const DISPLAY_INVAL_ALL_PALETTES: u16 = 108;
    pub const DISPLAY_DRAW_COPY: u16 = 304;
    pub const DISPLAY_SURFACE_CREATE: u16 = 314;
    pub const DISPLAY_SURFACE_DESTROY: u16 = 315;
    pub const DISPLAY_MONITORS_CONFIG: u16 = 317;

    pub const INPUTS_INIT: u16 = 101;
    pub const INPUTS_KEY_MODIFIERS: u16 = 102;
    pub const INPUTS_MOUSE_MOTION_ACK: u16 = 111;

    pub const CURSOR_INIT: u16 = 101;
    pub const CURSOR_SET: u16 = 103;
    pub const CURSOR_MOVE: u16 = 104;
    pub const CURSOR_HIDE: u16 = 105;
}

/// Who moves the guest's pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MouseMode {
    /// The guest, by the movements that it is told.
    #[default]
    Server = 1,
    /// The client, which tells positions.
    Client = 2,
}

/// A button of a mouse that clients name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buttons(pub u16);

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A window of messages has been taken.
    Ack,
    /// The answer to a ping.
    Pong {
        /// The ping's number.
        id: u32,
    },
    /// The client leaves.
    Disconnecting,
    /// The client wants to know the channels.
    AttachChannels,
    /// The client wants another way of pointing.
    MouseModeRequest(MouseMode),
    /// A display begins.
    DisplayInit,
    /// How pictures shall be compressed, by the protocol's number.
    PreferredCompression(u8),
    /// Bytes of scan code set 1.
    Scancodes(Vec<u8>),
    /// The client's locks, as bits: scroll, num, caps.
    Modifiers(u16),
    /// The pointer was moved by so much.
    Motion {
        /// Right and down.
        by: (i32, i32),
        /// The buttons that are down.
        buttons: Buttons,
    },
    /// The pointer is at a place.
    Position {
        /// Column and row.
        to: (u32, u32),
        /// The buttons that are down.
        buttons: Buttons,
        /// The screen.
        display: u8,
    },
    /// A button goes down or up.
    Button {
        /// Its number.
        button: u8,
        /// Down.
        is_down: bool,
        /// The buttons that are down.
        buttons: Buttons,
    },
    /// Something that a server without agent, sound and videos need not know.
    Other,
}

/// The bytes of a scan code, the first in the lowest bits; a byte that is 0 ends it.
fn scancodes(code: u32) -> Message {
    Message::Scancodes(code.to_le_bytes().into_iter().take_while(|byte| *byte != 0).collect())
}

/// Reads the message of that type on a channel.
///
/// # Errors
/// It is too short, or has a value that there is not.
pub fn read(channel: ChannelKind, kind: u16, body: &[u8]) -> Result<Message, Malformed> {
    use ChannelKind::{Display, Inputs, Main};
    let mut fields = Fields::new(body);
    Ok(match (channel, kind) {
        (_, 1) => {
            let _generation = fields.u32()?;
            Message::Other
        }
        (_, 2) => Message::Ack,
        (_, 3) => Message::Pong { id: fields.u32()? },
        (_, 6) => Message::Disconnecting,
        (Main, 104) => Message::AttachChannels,
        (Main, 105) => Message::MouseModeRequest(match fields.u16()? {
            1 => MouseMode::Server,
            2 => MouseMode::Client,
            _ => return Err(Malformed("there is no such mouse mode")),
        }),
        (Display, 101) => {
            let _cache = (fields.u8()?, fields.u64()?);
            let _dictionary = (fields.u8()?, fields.u32()?);
            Message::DisplayInit
        }
        (Display, 103) => Message::PreferredCompression(fields.u8()?),
        (Inputs, 101 | 102) => scancodes(fields.u32()?),
        (Inputs, 103) => Message::Modifiers(fields.u16()?),
        (Inputs, 104) => Message::Scancodes(fields.rest().to_vec()),
        (Inputs, 111) => Message::Motion { by: (fields.i32()?, fields.i32()?), buttons: Buttons(fields.u16()?) },
        (Inputs, 112) => Message::Position {
            to: (fields.u32()?, fields.u32()?),
            buttons: Buttons(fields.u16()?),
            display: fields.u8()?,
        },
        (Inputs, 113 | 114) => {
            Message::Button { button: fields.u8()?, is_down: kind == 113, buttons: Buttons(fields.u16()?) }
        }
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_inputs_are_read_field_by_field() {
        let inputs = |kind: u16, body: &[u8]| read(ChannelKind::Inputs, kind, body);
        // Right control, which has a prefix, goes down.
        assert_eq!(inputs(101, &[0xe0, 0x1d, 0, 0]), Ok(Message::Scancodes(vec![0xe0, 0x1d])));
        assert_eq!(inputs(104, &[0x1e, 0x9e]), Ok(Message::Scancodes(vec![0x1e, 0x9e])));
        let motion = [&(-3_i32).to_le_bytes()[..], &5_i32.to_le_bytes(), &[1, 0]].concat();
        assert_eq!(inputs(111, &motion), Ok(Message::Motion { by: (-3, 5), buttons: Buttons(1) }));
        let position = [7, 0, 0, 0, 9, 0, 0, 0, 4, 0, 1];
        assert_eq!(inputs(112, &position), Ok(Message::Position { to: (7, 9), buttons: Buttons(4), display: 1 }));
        assert_eq!(inputs(114, &[1, 0, 0]), Ok(Message::Button { button: 1, is_down: false, buttons: Buttons(0) }));
    }

    #[test]
    fn message_that_is_too_short_is_malformed_and_an_unknown_one_is_passed_over() {
        for (channel, kind, length) in [
            (ChannelKind::Main, 1, 4),
            (ChannelKind::Main, 3, 4),
            (ChannelKind::Main, 105, 2),
            (ChannelKind::Display, 101, 14),
            (ChannelKind::Inputs, 101, 4),
            (ChannelKind::Inputs, 111, 10),
            (ChannelKind::Inputs, 112, 11),
            (ChannelKind::Inputs, 113, 3),
        ] {
            assert!(read(channel, kind, &vec![1; length - 1]).is_err(), "{channel:?} {kind}");
            assert!(read(channel, kind, &[1, 0].repeat(length)).is_ok(), "{channel:?} {kind}");
        }
        assert_eq!(read(ChannelKind::Cursor, 105, &[]), Ok(Message::Other));
    }
}
