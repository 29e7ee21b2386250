//! Keys from bytes of scan code set 1, as clients send them one by one or as a batch.

use display::keys::Key;

/// What a byte begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Prefix {
    #[default]
    None,
    /// 0xe0: a key of the second set.
    Extended,
    /// 0xe1: the pause key, whose two bytes follow.
    Pause,
    /// 0xe1 and the first byte.
    PauseEnd,
}

/// A client's keyboard.
#[derive(Clone, Debug, Default)]
pub struct Keyboard {
    prefix: Prefix,
    held: Vec<Key>,
}

const RELEASE: u8 = 0x80;
const EXTENDED: u8 = 0xe0;
const PAUSE: u8 = 0xe1;

impl Keyboard {
    /// Takes a byte; returns the key that goes down or up with it.
    pub fn take(&mut self, byte: u8) -> Option<(Key, bool)> {
        let is_down = byte & RELEASE == 0;
        let prefix = std::mem::take(&mut self.prefix);
        let key = match (prefix, byte) {
            (Prefix::None, EXTENDED) => {
                self.prefix = Prefix::Extended;
                return None;
            }
            (Prefix::None, PAUSE) => {
                self.prefix = Prefix::Pause;
                return None;
            }
            (Prefix::Pause, _) => {
                self.prefix = Prefix::PauseEnd;
                return None;
            }
            (Prefix::PauseEnd, _) => Key::named("pause"),
            (Prefix::Extended, _) => Key::numbered(byte | RELEASE),
            (Prefix::None, _) => Key::numbered(byte & !RELEASE),
        }?;
        self.held.retain(|held| *held != key);
        if is_down {
            self.held.push(key);
        }
        Some((key, is_down))
    }

    /// The keys that are down, which come up now.
    pub fn release_all(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<(&'static str, bool)> {
        bytes.iter().filter_map(|byte| keyboard.take(*byte)).map(|(key, is_down)| (key.codes().name, is_down)).collect()
    }

    #[test]
    fn bytes_become_keys_and_what_is_held_comes_up() {
        let mut keyboard = Keyboard::default();
        let mut play = |bytes: &[u8]| played(&mut keyboard, bytes);
        assert_eq!(play(&[0x1e, 0x9e]), [("a", true), ("a", false)]);
        assert_eq!(play(&[0xe0, 0x48, 0xe0, 0xc8]), [("up", true), ("up", false)]);
        assert_eq!(play(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]), [("pause", true), ("pause", false)]);
        // No such key, and a prefix at the end.
        assert_eq!(play(&[0x7f, 0xe0, 0x2a, 0xe0]), []);
        assert_eq!(play(&[0x1d, 0x2a, 0x2a]), [("ctrl_r", true), ("shift", true), ("shift", true)]);
        let held: Vec<_> = keyboard.release_all().iter().map(|key| key.codes().name).collect();
        assert_eq!(held, ["ctrl_r", "shift"]);
        assert!(keyboard.release_all().is_empty());
    }
}
