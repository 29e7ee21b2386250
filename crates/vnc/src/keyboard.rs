//! From X's key symbols to keys of the guest's keyboard (`keysymdef.h`; the layouts are in [`layouts`]).
//!
//! A client that can't tell which key was pressed tells what the key means on its own keyboard. The layout says where
//! such a symbol is on the guest's keyboard, and with which modifiers: if the client does not hold those, they are
//! pressed or lifted for just this key.

mod layouts;

use std::collections::HashMap;

use display::keys::Key;

/// What a modifier has to be for a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    shift: bool,
    altgr: bool,
}

/// Where a symbol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    key: Key,
    /// `None`: with any modifiers.
    level: Option<Level>,
}

/// A keyboard layout.
pub struct Layout {
    places: HashMap<u32, Vec<Place>>,
}

/// Keys that mean the same on all keyboards.
const COMMON: &[(u32, &str)] = &[
    (0x0020, "spc"),
    (0xfe03, "alt_r"),
    (0xfe20, "tab"),
    (0xff08, "backspace"),
    (0xff09, "tab"),
    (0xff0d, "ret"),
    (0xff13, "pause"),
    (0xff14, "scroll_lock"),
    (0xff15, "sysrq"),
    (0xff1b, "esc"),
    (0xff50, "home"),
    (0xff51, "left"),
    (0xff52, "up"),
    (0xff53, "right"),
    (0xff54, "down"),
    (0xff55, "pgup"),
    (0xff56, "pgdn"),
    (0xff57, "end"),
    (0xff61, "print"),
    (0xff63, "insert"),
    (0xff67, "compose"),
    (0xff6a, "help"),
    (0xff6b, "pause"),
    (0xff7e, "alt_r"),
    (0xff7f, "num_lock"),
    (0xff8d, "kp_enter"),
    (0xff95, "kp_7"),
    (0xff96, "kp_4"),
    (0xff97, "kp_8"),
    (0xff98, "kp_6"),
    (0xff99, "kp_2"),
    (0xff9a, "kp_9"),
    (0xff9b, "kp_3"),
    (0xff9c, "kp_1"),
    (0xff9d, "kp_5"),
    (0xff9e, "kp_0"),
    (0xff9f, "kp_decimal"),
    (0xffaa, "kp_multiply"),
    (0xffab, "kp_add"),
    (0xffac, "kp_comma"),
    (0xffad, "kp_subtract"),
    (0xffae, "kp_decimal"),
    (0xffaf, "kp_divide"),
    (0xffb0, "kp_0"),
    (0xffb1, "kp_1"),
    (0xffb2, "kp_2"),
    (0xffb3, "kp_3"),
    (0xffb4, "kp_4"),
    (0xffb5, "kp_5"),
    (0xffb6, "kp_6"),
    (0xffb7, "kp_7"),
    (0xffb8, "kp_8"),
    (0xffb9, "kp_9"),
    (0xffbd, "kp_equals"),
    (0xffbe, "f1"),
    (0xffbf, "f2"),
    (0xffc0, "f3"),
    (0xffc1, "f4"),
    (0xffc2, "f5"),
    (0xffc3, "f6"),
    (0xffc4, "f7"),
    (0xffc5, "f8"),
    (0xffc6, "f9"),
    (0xffc7, "f10"),
    (0xffc8, "f11"),
    (0xffc9, "f12"),
    (0xffe1, "shift"),
    (0xffe2, "shift_r"),
    (0xffe3, "ctrl"),
    (0xffe4, "ctrl_r"),
    (0xffe5, "caps_lock"),
    (0xffe7, "meta_l"),
    (0xffe8, "meta_r"),
    (0xffe9, "alt"),
    (0xffea, "alt_r"),
    (0xffeb, "meta_l"),
    (0xffec, "meta_r"),
    (0xffff, "delete"),
    (0x1008_ff11, "volumedown"),
    (0x1008_ff12, "audiomute"),
    (0x1008_ff13, "volumeup"),
    (0x1008_ff14, "audioplay"),
    (0x1008_ff15, "audiostop"),
    (0x1008_ff16, "audioprev"),
    (0x1008_ff17, "audionext"),
];

/// Accents that wait for a letter: as a combining character, as a symbol, and the accent alone.
const ACCENTS: &[(char, u32, char)] = &[
    ('\u{300}', 0xfe50, '`'),
    ('\u{301}', 0xfe51, '´'),
    ('\u{302}', 0xfe52, '^'),
    ('\u{303}', 0xfe53, '~'),
    ('\u{308}', 0xfe57, '¨'),
    ('\u{30a}', 0xfe58, '°'),
    ('\u{327}', 0xfe5b, '¸'),
];

/// The symbols of a character.
fn symbols(character: char) -> Vec<u32> {
    let code = u32::from(character);
    if let Some((_, symbol, _)) = ACCENTS.iter().find(|(combining, ..)| *combining == character) {
        return vec![*symbol];
    }
    match character {
        '€' => vec![0x20ac, 0x0100_20ac],
        _ if code < 0x100 => vec![code],
        _ => vec![0x0100_0000 | code],
    }
}

impl Layout {
    /// The names of all layouts.
    pub fn names() -> impl Iterator<Item = &'static str> {
        layouts::LAYOUTS.iter().map(|(name, _)| *name)
    }

    /// The layout of that name.
    pub fn named(name: &str) -> Option<Self> {
        let (_, levels) = layouts::LAYOUTS.iter().find(|(known, _)| *known == name)?;
        let mut places: HashMap<u32, Vec<Place>> = HashMap::new();
        for (symbol, name) in COMMON {
            if let Some(key) = Key::named(name) {
                places.entry(*symbol).or_default().push(Place { key, level: None });
            }
        }
        let mut accents = Vec::new();
        for (number, rows) in levels.iter().enumerate() {
            let level = Level { shift: number & 1 != 0, altgr: number & 2 != 0 };
            for (keys, characters) in layouts::ROWS.iter().zip(rows.iter()) {
                for (key, character) in keys.iter().zip(characters.chars()).filter(|(_, character)| *character != ' ') {
                    let Some(key) = Key::named(key) else { continue };
                    let place = Place { key, level: Some(level) };
                    for symbol in symbols(character) {
                        places.entry(symbol).or_default().push(place);
                    }
                    accents.extend(ACCENTS.iter().filter(|(c, ..)| *c == character).map(|(.., alone)| (*alone, place)));
                }
            }
        }
        for (alone, place) in accents {
            places.entry(alone.into()).or_insert_with(|| vec![place]);
        }
        Some(Self { places })
    }

    /// The place of a symbol that fits these modifiers best.
    fn find(&self, symbol: u32, held: Level) -> Option<Place> {
        let places = self.places.get(&symbol)?;
        let fits = |place: &&Place| place.level.is_none_or(|level| level == held);
        places.iter().find(fits).or_else(|| places.first()).copied()
    }
}

/// The state of lock keys, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Letters are capitals.
    pub caps: bool,
    /// The keypad has digits.
    pub num: bool,
}

/// The keys that a client holds.
#[derive(Default)]
pub struct Keyboard {
    /// The symbol (or nothing for keys told by their place) and the key.
    held: Vec<(Option<u32>, Key)>,
}

/// A key goes down or up.
pub type Stroke = (Key, bool);

/// No keyboard has more.
const HELD_MAX: usize = 64;

impl Keyboard {
    fn holds(&self, names: &[&str]) -> bool {
        self.held.iter().any(|(_, key)| names.contains(&key.codes().name))
    }

    fn level(&self) -> Level {
        Level { shift: self.holds(&["shift", "shift_r"]), altgr: self.holds(&["alt_r"]) }
    }

    /// A key told by its place: what the guest's keyboard does. With `sync`, lock keys are brought into the state that
    /// the symbol shows.
    pub fn place(&mut self, key: Key, is_down: bool, sync: Option<(u32, &mut Locks)>) -> Vec<Stroke> {
        let mut strokes = Vec::new();
        if is_down {
            if let Some((symbol, locks)) = sync {
                self.sync(key, symbol, locks, &mut strokes);
            }
            self.press(None, key, &mut strokes);
        } else {
            self.release(|(symbol, held)| symbol.is_none() && *held == key, &mut strokes);
        }
        strokes
    }

    /// A key told by its symbol.
    pub fn symbol(&mut self, layout: &Layout, symbol: u32, is_down: bool, sync: Option<&mut Locks>) -> Vec<Stroke> {
        let mut strokes = Vec::new();
        // Letters are where their small ones are: Shift and Caps Lock are the client's matter.
        let is_letter = matches!(symbol, 0x41..=0x5a | 0x61..=0x7a);
        let wanted = if is_letter { symbol | 0x20 } else { symbol };
        if !is_down {
            self.release(|(known, _)| *known == Some(wanted), &mut strokes);
            return strokes;
        }
        let held = self.level();
        let Some(place) = layout.find(wanted, held) else {
            tracing::debug!("there is no key for symbol {symbol:#x}");
            return strokes;
        };
        if let Some(locks) = sync {
            self.sync(place.key, symbol, locks, &mut strokes);
        }
        let is_command = self.holds(&["ctrl", "ctrl_r", "alt", "meta_l", "meta_r"]);
        let level = place.level.filter(|_| !is_letter && !is_command).unwrap_or(held);
        let mut around = Vec::new();
        let modifiers: [(&[&str], bool, bool); 2] =
            [(&["shift", "shift_r"], held.shift, level.shift), (&["alt_r"], held.altgr, level.altgr)];
        for (names, is, wanted) in modifiers {
            if wanted && !is {
                around.extend(names.first().and_then(|name| Key::named(name)).map(|key| (key, true)));
            } else if is && !wanted {
                let lifted = self.held.iter().filter(|(_, key)| names.contains(&key.codes().name));
                around.extend(lifted.map(|(_, key)| (*key, false)));
            }
        }
        strokes.extend(around.iter().copied());
        self.press(Some(wanted), place.key, &mut strokes);
        strokes.extend(around.iter().rev().map(|(key, is_down)| (*key, !is_down)));
        strokes
    }

    /// Everything that is held comes up: the client has left.
    pub fn release_all(&mut self) -> Vec<Stroke> {
        let mut strokes = Vec::new();
        self.release(|_| true, &mut strokes);
        strokes
    }

    fn press(&mut self, symbol: Option<u32>, key: Key, strokes: &mut Vec<Stroke>) {
        let is_held = self.held.contains(&(symbol, key));
        if is_held || self.held.len() < HELD_MAX {
            strokes.push((key, true));
            if !is_held {
                self.held.push((symbol, key));
            }
        }
    }

    fn release(&mut self, is_it: impl Fn(&(Option<u32>, Key)) -> bool, strokes: &mut Vec<Stroke>) {
        self.held.retain(|held| {
            let is_it = is_it(held);
            if is_it {
                strokes.push((held.1, false));
            }
            !is_it
        });
    }

    /// Brings Caps Lock and Num Lock into the state that they have at the client's, if the symbol tells, as QEMU does.
    fn sync(&self, key: Key, symbol: u32, locks: &mut Locks, strokes: &mut Vec<Stroke>) {
        let mut toggle = |name: &str| {
            if let Some(key) = Key::named(name) {
                strokes.extend([(key, true), (key, false)]);
            }
        };
        let has_two_meanings = matches!(
            key.codes().name,
            "kp_0" | "kp_1" | "kp_2" | "kp_3" | "kp_4" | "kp_5" | "kp_6" | "kp_7" | "kp_8" | "kp_9" | "kp_decimal"
        );
        if has_two_meanings {
            let is_digit = matches!(symbol, 0xffb0..=0xffb9 | 0xffac | 0xffae);
            if is_digit != locks.num {
                locks.num = is_digit;
                toggle("num_lock");
            }
        }
        if matches!(symbol, 0x41..=0x5a | 0x61..=0x7a) {
            let is_capital = symbol < 0x5b;
            let caps = is_capital != self.level().shift;
            if caps != locks.caps {
                locks.caps = caps;
                toggle("caps_lock");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(layout: &str, symbols: &[(u32, bool)]) -> String {
        let layout = Layout::named(layout).expect("a layout");
        let (mut keyboard, mut locks) = (Keyboard::default(), Locks::default());
        let mut text = String::new();
        for (symbol, is_down) in symbols {
            for (key, is_down) in keyboard.symbol(&layout, *symbol, *is_down, Some(&mut locks)) {
                text += if is_down { "+" } else { "-" };
                text += key.codes().name;
                text += " ";
            }
        }
        text.trim_end().to_owned()
    }

    #[test]
    fn symbols_are_found_on_the_guests_keyboard() {
        assert_eq!(typed("en-us", &[(0x61, true), (0x61, false)]), "+a -a");
        assert_eq!(typed("de", &[(0x7a, true), (0x79, true)]), "+y +z");
        assert_eq!(typed("fr", &[(0x61, true), (0x6d, true)]), "+q +semicolon");
        assert_eq!(typed("es", &[(0xf1, true)]), "+semicolon");
        assert_eq!(typed("en-gb", &[(0x23, true)]), "+backslash");
        assert_eq!(typed("en-us", &[(0xff0d, true), (0xff0d, false)]), "+ret -ret");
        assert_eq!(typed("en-us", &[(0x0100_4e00, true)]), "");
    }

    #[test]
    fn modifiers_that_lack_are_pressed_for_one_key_and_those_too_many_lifted() {
        assert_eq!(typed("en-us", &[(0x21, true), (0x21, false)]), "+shift +1 -shift -1");
        assert_eq!(typed("de", &[(0x40, true)]), "+alt_r +q -alt_r");
        let azerty_one = [(0xffe1, true), (0x31, true), (0x31, false), (0xffe1, false)];
        assert_eq!(typed("en-us", &azerty_one), "+shift -shift +1 +shift -1 -shift");
        assert_eq!(typed("fr", &azerty_one), "+shift +1 -1 -shift");
        let command = [(0xffe3, true), (0xffe1, true), (0x31, true)];
        assert_eq!(typed("en-us", &command), "+ctrl +shift +1", "a shortcut is left as it is");
    }

    #[test]
    fn released_modifier_before_its_key_releases_the_same_key() {
        let strokes = [(0xffe1, true), (0x41, true), (0xffe1, false), (0x61, false)];
        assert_eq!(typed("en-us", &strokes), "+shift +a -shift -a");
    }

    #[test]
    fn lock_keys_follow_the_client() {
        assert_eq!(
            typed("en-us", &[(0x41, true), (0x42, true), (0x62, true)]),
            "+caps_lock -caps_lock +a +b +caps_lock -caps_lock +b"
        );
        assert_eq!(
            typed("en-us", &[(0xffb7, true), (0xff95, true)]),
            "+num_lock -num_lock +kp_7 +num_lock -num_lock +kp_7"
        );
    }

    #[test]
    fn layouts_have_as_many_characters_as_keys() {
        for (name, levels) in layouts::LAYOUTS {
            for rows in levels.iter() {
                for (keys, characters) in layouts::ROWS.iter().zip(rows.iter()) {
                    let count = characters.chars().count();
                    assert!(count == keys.len() || count == 0, "{name}: {characters:?}");
                }
            }
            assert!(Layout::named(name).is_some());
        }
        for keys in layouts::ROWS {
            assert!(keys.iter().all(|key| Key::named(key).is_some()));
        }
        assert!(COMMON.iter().all(|(_, name)| Key::named(name).is_some()));
    }
}
