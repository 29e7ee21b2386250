//! A terminal on a screen of its own: the character device `vc`. What is written to it is shown as a VT102 shows it
//! (ECMA-48), in 8 by 16 dots; what is typed goes back.
//!
//! Lines that leave at the top are kept, 512 of them: Ctrl with the arrows and the page keys looks back, and typing
//! returns. Left out on purpose: other fonts and double height, the alternate screen, mice, and blinking.

mod font;
mod state;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::state::State;
use crate::console::{KeyPress, Screen, Typing};
use crate::surface::Surface;
use crate::text::{self, CellWidth, TextScreen};

/// Dots of a character.
pub const CELL: (u32, u32) = (8, 16);
/// Sides of a terminal, in characters: more is a typing error.
const SIDE_MOST: u32 = 1000;

/// Takes what is typed.
type Reply = Box<dyn Fn(&[u8]) + Send + Sync>;

struct Inner {
    parser: vte::Parser,
    state: State,
    /// Lines that the view is above the end.
    back: usize,
}

/// A terminal.
pub struct Terminal {
    inner: Mutex<Inner>,
    reply: Reply,
    /// Pixels, which need not be a whole number of characters.
    size: (u32, u32),
}

/// How large a terminal is: what is not said comes from elsewhere, 640 by 480 dots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Dots.
    pub width: Option<u32>,
    /// Dots.
    pub height: Option<u32>,
    /// Characters; more telling than dots.
    pub columns: Option<u32>,
    /// Characters.
    pub rows: Option<u32>,
}

impl TerminalSize {
    fn pixels(self) -> (u32, u32) {
        let side = |characters: Option<u32>, dots: Option<u32>, cell: u32, other: u32| {
            let dots = characters.filter(|count| *count > 0).map(|count| count.saturating_mul(cell)).or(dots);
            dots.filter(|dots| *dots > 0).unwrap_or(other).clamp(cell, SIDE_MOST * cell)
        };
        (side(self.columns, self.width, CELL.0, 640), side(self.rows, self.height, CELL.1, 480))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminal {
    /// A terminal that shows nothing yet. `reply` takes what is typed, on the thread of whoever types, and may not block.
    pub fn new(size: TerminalSize, reply: Reply) -> Self {
        let size = size.pixels();
        let state = State::new((size.0 / CELL.0) as usize, (size.1 / CELL.1) as usize);
        let inner = Inner { parser: vte::Parser::new(), state, back: 0 };
        Self { inner: Mutex::new(inner), reply, size }
    }

    /// Shows what was written.
    pub fn write(&self, bytes: &[u8]) {
        let answers = {
            let Inner { parser, state, .. } = &mut *lock(&self.inner);
            parser.advance(state, bytes);
            state.take_answers()
        };
        if !answers.is_empty() {
            (self.reply)(&answers);
        }
    }

    /// Looks back, or forth with a negative number.
    fn scroll(&self, lines: isize) {
        let inner = &mut *lock(&self.inner);
        inner.back = inner.back.saturating_add_signed(lines).min(inner.state.history());
    }
}

impl Screen for Terminal {
    fn render(&self, picture: &mut Surface) {
        picture.resize(self.size.0, self.size.1);
        let glyphs = font::glyphs();
        let inner = lock(&self.inner);
        let cursor = inner.state.cursor().filter(|_| inner.back == 0);
        for (y, line) in inner.state.view(inner.back).enumerate() {
            for (x, cell) in line.iter().enumerate() {
                let (mut fore, mut back) = cell.colours();
                if cursor == Some((x, y)) {
                    (fore, back) = (back, fore);
                }
                let place = (x as u32 * CELL.0, y as u32 * CELL.1);
                let glyph = glyphs.get(&cell.character).or_else(|| glyphs.get(&'?'));
                let mut rows = glyph.copied().unwrap_or_default();
                if cell.is_underlined() {
                    rows[14] = 0xff;
                }
                text::draw_glyph(picture, place, CellWidth::Eight, &rows, (fore, back));
            }
        }
    }

    fn text(&self) -> Option<TextScreen> {
        let inner = lock(&self.inner);
        let (columns, rows) = inner.state.size();
        let cells = inner.state.view(inner.back).flatten().map(|cell| {
            let code = text::to_code_page_437(cell.character).unwrap_or(b'?');
            (code, cell.attribute())
        });
        let cursor = inner.state.cursor().filter(|_| inner.back == 0);
        Some(TextScreen { columns, rows, cells: cells.collect(), cursor })
    }

    fn typing(&self) -> Option<&dyn Typing> {
        Some(self)
    }
}

/// X's symbols of keys that are no characters, and what a terminal sends for them.
const KEYS: [(u32, &str); 26] = [
    (0xff08, "\x7f"),
    (0xff09, "\t"),
    (0xff0d, "\r"),
    (0xff8d, "\r"),
    (0xff1b, "\x1b"),
    (0xff50, "\x1b[1~"),
    (0xff95, "\x1b[1~"),
    (0xff51, "\x1b[D"),
    (0xff52, "\x1b[A"),
    (0xff53, "\x1b[C"),
    (0xff54, "\x1b[B"),
    (0xff96, "\x1b[D"),
    (0xff97, "\x1b[A"),
    (0xff98, "\x1b[C"),
    (0xff99, "\x1b[B"),
    (0xff55, "\x1b[5~"),
    (0xff56, "\x1b[6~"),
    (0xff57, "\x1b[4~"),
    (0xff9c, "\x1b[4~"),
    (0xff63, "\x1b[2~"),
    (0xffff, "\x1b[3~"),
    (0xff9f, "\x1b[3~"),
    (0xffaf, "/"),
    (0xffaa, "*"),
    (0xffad, "-"),
    (0xffab, "+"),
];

impl Typing for Terminal {
    fn press(&self, key: KeyPress) {
        let page = 10;
        match key {
            KeyPress { symbol: 0xff52, ctrl: true, .. } => return self.scroll(1),
            KeyPress { symbol: 0xff54, ctrl: true, .. } => return self.scroll(-1),
            KeyPress { symbol: 0xff55, ctrl: true, .. } => return self.scroll(page),
            KeyPress { symbol: 0xff56, ctrl: true, .. } => return self.scroll(-page),
            _ => {}
        }
        let mut bytes = Vec::new();
        if key.alt {
            bytes.push(0x1b);
        }
        let known = KEYS.iter().find(|(symbol, _)| *symbol == key.symbol);
        match key.symbol {
            _ if let Some((_, text)) = known => bytes.extend_from_slice(text.as_bytes()),
            // Digits of the other block.
            symbol @ 0xffb0..=0xffb9 => bytes.push(b'0' + (symbol - 0xffb0) as u8),
            symbol @ 0x40..=0x7e if key.ctrl => bytes.push(symbol as u8 & 0x1f),
            0x20 if key.ctrl => bytes.push(0),
            symbol @ (0x20..=0x7e | 0xa0..=0xff | 0x0100_0100..=0x0110_ffff) => {
                let character = char::from_u32(symbol & 0xff_ffff).unwrap_or('?');
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return,
        }
        lock(&self.inner).back = 0;
        (self.reply)(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn terminal(columns: u32, rows: u32) -> (Terminal, Arc<Mutex<Vec<u8>>>) {
        let typed = Arc::<Mutex<Vec<u8>>>::default();
        let heard = Arc::clone(&typed);
        let size = TerminalSize { columns: Some(columns), rows: Some(rows), ..TerminalSize::default() };
        (Terminal::new(size, Box::new(move |bytes| lock(&heard).extend_from_slice(bytes))), typed)
    }

    fn lines(terminal: &Terminal) -> Vec<String> {
        let text = terminal.text().expect("text");
        let line = |line: &[(u8, u8)]| line.iter().map(|(code, _)| char::from(*code)).collect::<String>();
        text.cells.chunks(text.columns).map(|cells| line(cells).trim_end().to_owned()).collect()
    }

    #[test]
    fn sizes_are_characters_or_dots_or_those_of_a_screen() {
        assert_eq!(TerminalSize::default().pixels(), (640, 480));
        let size = TerminalSize { width: Some(100), height: Some(200), ..TerminalSize::default() };
        assert_eq!(size.pixels(), (100, 200));
        assert_eq!(TerminalSize { columns: Some(80), rows: Some(24), ..size }.pixels(), (640, 384));
        assert_eq!(TerminalSize { columns: Some(u32::MAX), rows: Some(0), ..size }.pixels(), (8000, 200));
    }

    #[test]
    fn what_leaves_at_the_top_can_be_looked_at_until_somebody_types() {
        let (terminal, typed) = terminal(10, 3);
        for number in 0..600 {
            terminal.write(format!("\r\nline {number}").as_bytes());
        }
        assert_eq!(lines(&terminal), ["line 597", "line 598", "line 599"]);
        let press = |symbol, ctrl| terminal.press(KeyPress { symbol, ctrl, alt: false });
        press(0xff52, true);
        assert_eq!(lines(&terminal), ["line 596", "line 597", "line 598"]);
        for _ in 0..100 {
            press(0xff55, true);
        }
        assert_eq!(lines(&terminal)[0], "line 85");
        assert_eq!(*lock(&typed), b"");
        press(0x61, false);
        assert_eq!(lines(&terminal)[2], "line 599");
        for (symbol, ctrl, alt) in
            [(0x63, true, false), (0xff52, false, false), (0x78, false, true), (0xe4, false, false)]
        {
            terminal.press(KeyPress { symbol, ctrl, alt });
        }
        assert_eq!(*lock(&typed), "a\x03\x1b[A\x1bxä".as_bytes());
    }

    #[test]
    fn picture_has_the_letters_and_the_cursor_where_they_are() {
        let (terminal, typed) = terminal(4, 2);
        terminal.write(b"\x1b[31mA\x1b[0m\x1b[6n");
        let mut picture = Surface::new(1, 1);
        terminal.render(&mut picture);
        assert_eq!((picture.width(), picture.height()), (32, 32));
        let cell = |x: usize| (0..16).map(|y| picture.row(y)[x * 8..x * 8 + 8].to_vec()).collect::<Vec<_>>().concat();
        assert!(cell(0).contains(&0xaa_0000) && cell(0).contains(&0));
        assert!(cell(1).iter().all(|pixel| *pixel == 0xaa_aaaa), "the cursor");
        assert!(cell(2).iter().all(|pixel| *pixel == 0));
        assert_eq!(*lock(&typed), b"\x1b[1;2R", "where the cursor is was asked");
    }
}
