//! What a terminal sends: keys and the mouse (ECMA-48; xterm's control sequences).

/// Ctrl with this begins a command to the display itself.
pub const COMMAND: u32 = 0x5d;

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A key, by X11's symbol.
    Key {
        /// The symbol.
        symbol: u32,
        /// With Ctrl.
        ctrl: bool,
        /// With Alt.
        alt: bool,
    },
    /// The mouse was moved, or one of its buttons.
    Mouse {
        /// xterm's number of the button; 3 is none, 64 and 65 are the wheel.
        button: u8,
        /// The button is down.
        is_down: bool,
        /// From 0.
        column: i64,
        /// From 0.
        row: i64,
    },
}

/// A longer sequence is none.
const LONGEST: usize = 32;

const ESCAPE: u8 = 0x1b;

/// Makes keys out of bytes.
#[derive(Default)]
pub struct Input {
    /// The beginning of a sequence.
    begun: Vec<u8>,
    /// It has waited once.
    is_old: bool,
}

impl Input {
    /// Takes what the terminal sent.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut all = Vec::new();
        for &byte in bytes {
            self.is_old = false;
            self.begun.push(byte);
            match read(&self.begun) {
                Read::More if self.begun.len() < LONGEST => {}
                Read::More | Read::Nothing => self.begun.clear(),
                Read::Typed(typed) => {
                    self.begun.clear();
                    all.push(typed);
                }
            }
        }
        all
    }

    /// Some time has passed: an escape alone is a key at the second call.
    pub fn pause(&mut self) -> Option<Typed> {
        if self.begun.is_empty() {
            return None;
        }
        if !std::mem::replace(&mut self.is_old, true) {
            return None;
        }
        let begun = std::mem::take(&mut self.begun);
        self.is_old = false;
        match begun.as_slice() {
            [ESCAPE] => Some(key(0xff1b, false, false)),
            // These begin sequences, and mean Alt with them otherwise.
            [ESCAPE, letter @ (b'[' | b'O')] => Some(key(u32::from(*letter), false, true)),
            _ => None,
        }
    }
}

enum Read {
    /// It goes on.
    More,
    /// It means nothing.
    Nothing,
    Typed(Typed),
}

fn key(symbol: u32, ctrl: bool, alt: bool) -> Typed {
    Typed::Key { symbol, ctrl, alt }
}

fn read(bytes: &[u8]) -> Read {
    match bytes {
        [ESCAPE] | [ESCAPE, b'[' | b'O'] => Read::More,
        [ESCAPE, b'[', rest @ ..] => control(rest),
        [ESCAPE, b'O', last] => single(*last, 0).map_or(Read::Nothing, Read::Typed),
        [ESCAPE, rest @ ..] => match read(rest) {
            Read::Typed(Typed::Key { symbol, ctrl, .. }) => Read::Typed(key(symbol, ctrl, true)),
            other => other,
        },
        [byte] => match byte {
            0 => Read::Typed(key(0x20, true, false)),
            8 | 0x7f => Read::Typed(key(0xff08, false, false)),
            9 => Read::Typed(key(0xff09, false, false)),
            13 => Read::Typed(key(0xff0d, false, false)),
            1..=26 => Read::Typed(key(u32::from(byte | 0x60), true, false)),
            28..=31 => Read::Typed(key(u32::from(byte | 0x40), true, false)),
            0x20..=0x7e => Read::Typed(key(u32::from(*byte), false, false)),
            // The first of several bytes of UTF-8.
            0xc2..=0xf4 => Read::More,
            _ => Read::Nothing,
        },
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => match text.chars().next().map(u32::from) {
                Some(code) if code < 0x100 => Read::Typed(key(code, false, false)),
                Some(code) => Read::Typed(key(0x0100_0000 | code, false, false)),
                None => Read::Nothing,
            },
            Err(error) if error.error_len().is_none() => Read::More,
            Err(_) => Read::Nothing,
        },
    }
}

/// A sequence with parameters, from behind its `ESC [`.
fn control(rest: &[u8]) -> Read {
    let Some((last, body)) = rest.split_last() else { return Read::More };
    // The Linux console's first five function keys.
    if let [b'[', letter @ b'A'..=b'E'] = rest {
        return Read::Typed(key(0xffbe + u32::from(letter - b'A'), false, false));
    }
    if !(0x40..=0x7e).contains(last) || rest == b"[" {
        return Read::More;
    }
    let Ok(text) = std::str::from_utf8(body) else { return Read::Nothing };
    if let Some(mouse) = text.strip_prefix('<') {
        return pointer(mouse, *last == b'M').map_or(Read::Nothing, Read::Typed);
    }
    let numbers: Vec<u32> = text.split(';').map(|number| number.parse().unwrap_or(1)).collect();
    let modifiers = numbers.get(1).map_or(0, |number| number.saturating_sub(1));
    let found = match (last, numbers.first()) {
        (b'~', Some(number)) => function(*number).map(|symbol| with(symbol, modifiers)),
        (b'Z', _) => Some(key(0xff09, false, false)),
        _ => single(*last, modifiers),
    };
    found.map_or(Read::Nothing, Read::Typed)
}

fn with(symbol: u32, modifiers: u32) -> Typed {
    key(symbol, modifiers & 4 != 0, modifiers & 2 != 0)
}

/// Keys that one letter tells.
fn single(letter: u8, modifiers: u32) -> Option<Typed> {
    let symbol = match letter {
        b'A' => 0xff52,
        b'B' => 0xff54,
        b'C' => 0xff53,
        b'D' => 0xff51,
        b'H' => 0xff50,
        b'F' => 0xff57,
        b'P'..=b'S' => 0xffbe + u32::from(letter - b'P'),
        b'M' => 0xff8d,
        _ => return None,
    };
    Some(with(symbol, modifiers))
}

/// Keys that a number tells.
fn function(number: u32) -> Option<u32> {
    Some(match number {
        1 | 7 => 0xff50,
        2 => 0xff63,
        3 => 0xffff,
        4 | 8 => 0xff57,
        5 => 0xff55,
        6 => 0xff56,
        11..=15 => 0xffbe + number - 11,
        17..=21 => 0xffbe + number - 12,
        23..=24 => 0xffbe + number - 13,
        _ => return None,
    })
}

/// `BUTTON;COLUMN;ROW`
fn pointer(text: &str, is_down: bool) -> Option<Typed> {
    /// Bits of the button's number: movement, and modifiers.
    const MOVES: u8 = 32;
    const OTHER: u8 = 4 | 8 | 16;
    let mut numbers = text.split(';');
    let button: u8 = numbers.next()?.parse().ok()?;
    let mut place = || numbers.next()?.parse::<u16>().ok()?.checked_sub(1).map(i64::from);
    let (column, row) = (place()?, place()?);
    let is_moved = button & MOVES != 0;
    Some(Typed::Mouse { button: if is_moved { 3 } else { button & !OTHER }, is_down, column, row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_are_cut() {
        let bytes = b"aA\x03\r\x7f\x1b[A\x1bOP\x1b[15~\x1b[1;5C\x1bx\x1b1\xc3\xa4\x1b[<0;3;5M\x1b[<35;4;5M\x1d";
        let expected = [
            key(0x61, false, false),
            key(0x41, false, false),
            key(0x63, true, false),
            key(0xff0d, false, false),
            key(0xff08, false, false),
            key(0xff52, false, false),
            key(0xffbe, false, false),
            key(0xffc2, false, false),
            key(0xff53, true, false),
            key(0x78, false, true),
            key(0x31, false, true),
            key(0xe4, false, false),
            Typed::Mouse { button: 0, is_down: true, column: 2, row: 4 },
            Typed::Mouse { button: 3, is_down: true, column: 3, row: 4 },
            key(COMMAND, true, false),
        ];
        assert_eq!(Input::default().take(bytes), expected);
        let mut input = Input::default();
        let one_by_one: Vec<Typed> = bytes.iter().flat_map(|byte| input.take(&[*byte])).collect();
        assert_eq!(one_by_one, expected);
    }

    #[test]
    fn escape_alone_is_a_key_after_a_while() {
        let mut input = Input::default();
        assert_eq!(input.take(b"\x1b"), []);
        assert_eq!((input.pause(), input.pause()), (None, Some(key(0xff1b, false, false))));
        assert_eq!(input.take(b"a"), [key(0x61, false, false)]);
    }

    #[test]
    fn random_bytes_never_panic_and_keep_little() {
        let mut random = 7_u64;
        let mut input = Input::default();
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let byte = match random >> 60 {
                0..4 => ESCAPE,
                4..8 => b"[O<;M~"[(random >> 40) as usize % 6],
                _ => (random >> 33) as u8,
            };
            input.take(&[byte]);
            assert!(input.begun.len() < LONGEST);
        }
    }
}
