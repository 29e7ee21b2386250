//! A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, keyboard): scancode sets 1–3, commands and replies.
//! Left out: typematic repetition, which whoever injects keys does.

use state::State;

use super::Queue;
use super::scancodes::{self, PAUSE, PRINT};

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const OVERRUN: u8 = 0x00;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "ps2kbd", version = 1)]
pub struct Keyboard {
    pub(super) queue: Queue,
    /// The command whose parameter is awaited; 0 for none.
    command: u8,
    is_scanning: bool,
    /// 1 to 3.
    #[state(max = 3)]
    set: u8,
    leds: u8,
    last_sent: u8,
    /// Modifiers that are down, for the keys whose codes depend on them: bit 0 shift, 1 control, 2 alt.
    modifiers: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: Queue::default(), command: 0, is_scanning: true, set: 2, leds: 0, last_sent: 0, modifiers: 0 }
    }
}

impl Keyboard {
    /// The lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// Takes the next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    fn set_defaults(&mut self) {
        self.set = 2;
        self.is_scanning = true;
        self.queue.clear();
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, byte: u8) {
        let waiting = std::mem::take(&mut self.command);
        if waiting != 0 && byte < 0xed {
            self.parameter(waiting, byte);
            return;
        }
        match byte {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = byte;
                self.queue.reply(&[ACKNOWLEDGE]);
            }
            0xee => self.queue.reply(&[0xee]),
            0xf2 => self.queue.reply(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4 => {
                self.is_scanning = true;
                self.queue.clear();
                self.queue.reply(&[ACKNOWLEDGE]);
            }
            0xf5 => {
                self.set_defaults();
                self.is_scanning = false;
                self.queue.reply(&[ACKNOWLEDGE]);
            }
            0xf6 => {
                self.set_defaults();
                self.queue.reply(&[ACKNOWLEDGE]);
            }
            // Which keys repeat and break, in set 3: all keys do both here.
            0xf7..=0xfa => self.queue.reply(&[ACKNOWLEDGE]),
            RESEND => self.queue.reply(&[self.last_sent]),
            0xff => {
                self.set_defaults();
                self.leds = 0;
                self.queue.reply(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.queue.reply(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xed, leds) => self.leds = leds & 7,
            (0xf0, 0) => {
                self.queue.reply(&[ACKNOWLEDGE, self.set]);
                return;
            }
            (0xf0, set @ 1..=3) => self.set = set,
            (0xf0, _) => {
                self.queue.reply(&[RESEND]);
                return;
            }
            // Typematic rate, and key types of set 3.
            _ => {}
        }
        self.queue.reply(&[ACKNOWLEDGE]);
    }

    /// A key went down or up.
    pub(super) fn key(&mut self, key: u8, is_down: bool) {
        let modifier = match key & 0x7f {
            0x2a | 0x36 => 1,
            0x1d => 2,
            0x38 => 4,
            _ => 0,
        };
        self.modifiers = if is_down { self.modifiers | modifier } else { self.modifiers & !modifier };
        if !self.is_scanning {
            return;
        }
        let mut bytes = Vec::with_capacity(8);
        match self.set {
            1 => self.codes_of_set_1(key, is_down, &mut bytes),
            3 => {
                let code = scancodes::set3(key);
                if code != 0 {
                    if !is_down {
                        bytes.push(0xf0);
                    }
                    bytes.push(code);
                }
            }
            _ => self.codes_of_set_2(key, is_down, &mut bytes),
        }
        if !self.queue.push(&bytes) {
            self.queue.push(&[OVERRUN]);
        }
    }

    fn codes_of_set_1(&self, key: u8, is_down: bool, bytes: &mut Vec<u8>) {
        let code = (key & 0x7f) | if is_down { 0 } else { 0x80 };
        match (key, is_down) {
            (PAUSE, true) if self.modifiers & 2 != 0 => bytes.extend([0xe0, 0x46, 0xe0, 0xc6]),
            (PAUSE, true) => bytes.extend([0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
            (PAUSE, false) => {}
            (PRINT, _) if self.modifiers & 4 != 0 => bytes.push(if is_down { 0x54 } else { 0xd4 }),
            (PRINT, true) if self.modifiers & 3 == 0 => bytes.extend([0xe0, 0x2a, 0xe0, 0x37]),
            (PRINT, false) if self.modifiers & 3 == 0 => bytes.extend([0xe0, 0xb7, 0xe0, 0xaa]),
            (key, _) if key & 0x80 != 0 => bytes.extend([0xe0, code]),
            _ => bytes.push(code),
        }
    }

    fn codes_of_set_2(&self, key: u8, is_down: bool, bytes: &mut Vec<u8>) {
        match (key, is_down) {
            (PAUSE, true) if self.modifiers & 2 != 0 => bytes.extend([0xe0, 0x7e, 0xe0, 0xf0, 0x7e]),
            (PAUSE, true) => bytes.extend([0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
            (PAUSE, false) => {}
            (PRINT, true) if self.modifiers & 4 != 0 => bytes.push(0x84),
            (PRINT, false) if self.modifiers & 4 != 0 => bytes.extend([0xf0, 0x84]),
            (PRINT, true) if self.modifiers & 3 == 0 => bytes.extend([0xe0, 0x12, 0xe0, 0x7c]),
            (PRINT, false) if self.modifiers & 3 == 0 => bytes.extend([0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]),
            _ => {
                let code = scancodes::set2(key & 0x7f);
                if code == 0 {
                    return;
                }
                if key & 0x80 != 0 {
                    bytes.push(0xe0);
                }
                if !is_down {
                    bytes.push(0xf0);
                }
                bytes.push(code);
            }
        }
    }
}
