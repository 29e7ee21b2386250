//! What a terminal shows, and the sequences that change it. Nothing that is written can do more than that: numbers are
//! cut to the screen, unknown sequences do nothing.

use std::collections::VecDeque;

use vte::{Params, Perform};

/// Lines that are kept above the screen.
const HISTORY: usize = 512;
/// What is answered between two looks at the answers.
const ANSWERS_MOST: usize = 4096;

/// The colours of a VGA's text mode, and their bright ones.
const COLOURS: [u32; 16] = [
    0x00_0000, 0xaa_0000, 0x00_aa00, 0xaa_5500, 0x00_00aa, 0xaa_00aa, 0x00_aaaa, 0xaa_aaaa, 0x55_5555, 0xff_5555,
    0x55_ff55, 0xff_ff55, 0x55_55ff, 0xff_55ff, 0x55_ffff, 0xff_ffff,
];
/// The same colours as attributes count them: blue is 1.
const ATTRIBUTES: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    /// One of 16.
    Plain(u8),
    /// Any.
    True(u32),
}

impl Colour {
    /// One of the 256 that xterm has.
    fn numbered(number: u16) -> Self {
        match number {
            0..16 => Self::Plain(number as u8),
            16..232 => {
                let number = u32::from(number) - 16;
                let part = |value: u32| if value == 0 { 0 } else { value * 40 + 55 };
                Self::True(part(number / 36) << 16 | part(number / 6 % 6) << 8 | part(number % 6))
            }
            _ => Self::True((u32::from(number.min(255)) - 232) * 0x0a_0a0a + 0x08_0808),
        }
    }

    fn pixel(self, is_bright: bool) -> u32 {
        match self {
            Self::Plain(number @ 0..8) if is_bright => COLOURS[usize::from(number) + 8],
            Self::Plain(number) => COLOURS[usize::from(number & 15)],
            Self::True(pixel) => pixel,
        }
    }

    /// The nearest of 16, as attributes count them.
    fn attribute(self) -> u8 {
        let number = match self {
            Self::Plain(number) => number,
            Self::True(pixel) => {
                let is_on = |shift: u32| u8::from(pixel >> shift & 0xff >= 0x60);
                is_on(16) | is_on(8) << 1 | is_on(0) << 2
            }
        };
        ATTRIBUTES[usize::from(number & 7)] | number & 8
    }
}

/// How characters look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    fore: Colour,
    back: Colour,
    is_bold: bool,
    is_underlined: bool,
    is_inverse: bool,
    is_hidden: bool,
}

const PLAIN: Look = Look {
    fore: Colour::Plain(7),
    back: Colour::Plain(0),
    is_bold: false,
    is_underlined: false,
    is_inverse: false,
    is_hidden: false,
};

/// A character on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which.
    pub character: char,
    look: Look,
}

impl Cell {
    fn blank(look: Look) -> Self {
        Self { character: ' ', look: Look { back: look.back, ..PLAIN } }
    }

    /// Whether it has a line below.
    pub fn is_underlined(&self) -> bool {
        self.look.is_underlined
    }

    /// Foreground and background as pixels.
    pub fn colours(&self) -> (u32, u32) {
        let (mut fore, mut back) = (self.look.fore.pixel(self.look.is_bold), self.look.back.pixel(false));
        if self.look.is_inverse {
            (fore, back) = (back, fore);
        }
        (if self.look.is_hidden { back } else { fore }, back)
    }

    /// The attribute of a text mode.
    pub fn attribute(&self) -> u8 {
        let (mut fore, mut back) = (self.look.fore.attribute(), self.look.back.attribute());
        fore |= if self.look.is_bold { 8 } else { 0 };
        if self.look.is_inverse {
            (fore, back) = (back, fore);
        }
        let back = back & 7;
        if self.look.is_hidden { back | back << 4 } else { fore | back << 4 }
    }
}

type Line = Vec<Cell>;

#[derive(Clone, Copy)]
struct Cursor {
    x: usize,
    y: usize,
    /// The last column was written: the next character begins a line.
    is_past: bool,
    look: Look,
}

/// A screen, and the lines above it.
pub struct State {
    columns: usize,
    lines: Vec<Line>,
    history: VecDeque<Line>,
    cursor: Cursor,
    saved: Cursor,
    is_shown: bool,
    wraps: bool,
    /// The first and the last line that scroll.
    region: (usize, usize),
    answers: Vec<u8>,
}

impl State {
    pub fn new(columns: usize, rows: usize) -> Self {
        let (columns, rows) = (columns.max(1), rows.max(1));
        let cursor = Cursor { x: 0, y: 0, is_past: false, look: PLAIN };
        Self {
            columns,
            lines: vec![vec![Cell::blank(PLAIN); columns]; rows],
            history: VecDeque::new(),
            cursor,
            saved: cursor,
            is_shown: true,
            wraps: true,
            region: (0, rows - 1),
            answers: Vec::new(),
        }
    }

    pub fn size(&self) -> (usize, usize) {
        (self.columns, self.lines.len())
    }

    /// Lines above the screen.
    pub fn history(&self) -> usize {
        self.history.len()
    }

    /// The lines that are seen from so many above the end.
    pub fn view(&self, back: usize) -> impl Iterator<Item = &Line> {
        let first = self.history.len().saturating_sub(back);
        self.history.iter().chain(&self.lines).skip(first).take(self.lines.len())
    }

    /// Column and row of the cursor, if it is shown.
    pub fn cursor(&self) -> Option<(usize, usize)> {
        self.is_shown.then_some((self.cursor.x, self.cursor.y))
    }

    /// What whoever writes has asked for.
    pub fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    fn answer(&mut self, text: &str) {
        if self.answers.len() < ANSWERS_MOST {
            self.answers.extend_from_slice(text.as_bytes());
        }
    }

    fn blank_line(&self) -> Line {
        vec![Cell::blank(self.cursor.look); self.columns]
    }

    /// The lines from `first` to the end of the region, which both change.
    fn region_from(&mut self, first: usize) -> &mut [Line] {
        self.lines.get_mut(first..=self.region.1).unwrap_or_default()
    }

    /// Takes lines out of the region at `first`; blank ones come in at its end.
    fn delete_lines(&mut self, first: usize, count: usize) {
        let blank = self.blank_line();
        let lines = self.region_from(first);
        let kept = lines.len().saturating_sub(count);
        lines.rotate_left(lines.len() - kept);
        lines[kept..].fill(blank);
    }

    /// Puts blank lines into the region at `first`; as many leave at its end.
    fn insert_lines(&mut self, first: usize, count: usize) {
        let blank = self.blank_line();
        let lines = self.region_from(first);
        let count = count.min(lines.len());
        lines.rotate_right(count);
        lines[..count].fill(blank);
    }

    /// Moves the lines of the region up. Those that leave at the top of the screen are kept.
    fn scroll_up(&mut self, count: usize) {
        if self.region == (0, self.lines.len() - 1) {
            self.history.extend(self.lines.iter_mut().take(count).map(std::mem::take));
            self.history.drain(..self.history.len().saturating_sub(HISTORY));
        }
        self.delete_lines(self.region.0, count);
    }

    fn line_feed(&mut self) {
        self.cursor.is_past = false;
        if self.cursor.y == self.region.1 {
            self.scroll_up(1);
        } else if self.cursor.y + 1 < self.lines.len() {
            self.cursor.y += 1;
        }
    }

    fn reverse_line_feed(&mut self) {
        self.cursor.is_past = false;
        if self.cursor.y == self.region.0 {
            self.insert_lines(self.region.0, 1);
        } else {
            self.cursor.y = self.cursor.y.saturating_sub(1);
        }
    }

    fn go(&mut self, x: usize, y: usize) {
        self.cursor.x = x.min(self.columns - 1);
        self.cursor.y = y.min(self.lines.len() - 1);
        self.cursor.is_past = false;
    }

    /// Makes cells blank, from one place up to another (column, row), line by line.
    fn erase(&mut self, from: (usize, usize), to: (usize, usize)) {
        let blank = Cell::blank(self.cursor.look);
        for (y, line) in self.lines.iter_mut().enumerate().take(to.1 + 1).skip(from.1) {
            let first = if y == from.1 { from.0 } else { 0 };
            let end = if y == to.1 { to.0 } else { line.len() };
            line.get_mut(first..end).unwrap_or_default().fill(blank);
        }
    }

    fn reset(&mut self) {
        let history = std::mem::take(&mut self.history);
        *self = Self { history, ..Self::new(self.columns, self.lines.len()) };
    }

    /// Select graphic rendition: how characters look from now on.
    fn look(&mut self, params: &Params) {
        let mut numbers = params.iter().flatten().copied();
        let mut is_empty = true;
        while let Some(number) = numbers.next() {
            is_empty = false;
            let look = &mut self.cursor.look;
            match number {
                0 => *look = PLAIN,
                1 => look.is_bold = true,
                4 => look.is_underlined = true,
                7 => look.is_inverse = true,
                8 => look.is_hidden = true,
                22 => look.is_bold = false,
                24 => look.is_underlined = false,
                27 => look.is_inverse = false,
                28 => look.is_hidden = false,
                30..=37 => look.fore = Colour::Plain((number - 30) as u8),
                39 => look.fore = PLAIN.fore,
                40..=47 => look.back = Colour::Plain((number - 40) as u8),
                49 => look.back = PLAIN.back,
                90..=97 => look.fore = Colour::Plain((number - 82) as u8),
                100..=107 => look.back = Colour::Plain((number - 92) as u8),
                38 | 48 => {
                    let mut next = || numbers.next().unwrap_or(0);
                    let colour = match next() {
                        5 => Colour::numbered(next()),
                        2 => {
                            let parts = [next(), next(), next()].map(|part| u32::from(part.min(255)));
                            Colour::True(parts[0] << 16 | parts[1] << 8 | parts[2])
                        }
                        _ => continue,
                    };
                    if number == 38 { look.fore = colour } else { look.back = colour }
                }
                _ => {}
            }
        }
        if is_empty {
            self.cursor.look = PLAIN;
        }
    }

    fn mode(&mut self, params: &Params, is_on: bool) {
        for number in params.iter().flatten() {
            match number {
                7 => self.wraps = is_on,
                25 => self.is_shown = is_on,
                _ => {}
            }
        }
    }

    fn set_region(&mut self, first: usize, last: Option<usize>) {
        let bottom = self.lines.len();
        let (first, last) = (first.max(1) - 1, last.filter(|last| *last > 0).unwrap_or(bottom).min(bottom) - 1);
        if first < last {
            self.region = (first, last);
            self.go(0, 0);
        }
    }
}

impl Perform for State {
    fn print(&mut self, character: char) {
        if self.cursor.is_past {
            self.cursor.x = 0;
            self.line_feed();
        }
        let Cursor { x, y, look, .. } = self.cursor;
        if let Some(cell) = self.lines.get_mut(y).and_then(|line| line.get_mut(x)) {
            *cell = Cell { character, look };
        }
        if x + 1 < self.columns {
            self.cursor.x += 1;
        } else {
            self.cursor.is_past = self.wraps;
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            8 => self.go(self.cursor.x.saturating_sub(1), self.cursor.y),
            9 => self.go((self.cursor.x / 8 + 1) * 8, self.cursor.y),
            10..=12 => self.line_feed(),
            13 => self.go(0, self.cursor.y),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _is_cut: bool, action: char) {
        match (intermediates, action) {
            ([], _) => {}
            (b"?", 'h' | 'l') => return self.mode(params, action == 'h'),
            _ => return,
        }
        let number = |at: usize| params.iter().nth(at).and_then(|one| one.first()).map(|one| usize::from(*one));
        let first = number(0);
        let count = first.unwrap_or(0).max(1);
        let (bottom, Cursor { x, y, .. }) = (self.lines.len(), self.cursor);
        let end_of_line = (self.columns, y);
        match action {
            'A' => self.go(x, y.saturating_sub(count)),
            'B' | 'e' => self.go(x, y + count),
            'C' | 'a' => self.go(x + count, y),
            'D' => self.go(x.saturating_sub(count), y),
            'E' => self.go(0, y + count),
            'F' => self.go(0, y.saturating_sub(count)),
            'G' | '`' => self.go(count - 1, y),
            'd' => self.go(x, count - 1),
            'H' | 'f' => self.go(number(1).unwrap_or(0).max(1) - 1, count - 1),
            'J' => match first.unwrap_or(0) {
                0 => self.erase((x, y), (0, bottom)),
                1 => self.erase((0, 0), (x + 1, y)),
                2 => self.erase((0, 0), (0, bottom)),
                3 => self.history.clear(),
                _ => {}
            },
            'K' => match first.unwrap_or(0) {
                0 => self.erase((x, y), end_of_line),
                1 => self.erase((0, y), (x + 1, y)),
                2 => self.erase((0, y), end_of_line),
                _ => {}
            },
            'X' => self.erase((x, y), ((x + count).min(self.columns), y)),
            'L' if (self.region.0..=self.region.1).contains(&y) => self.insert_lines(y, count),
            'M' if (self.region.0..=self.region.1).contains(&y) => self.delete_lines(y, count),
            'S' => self.scroll_up(count),
            'T' => self.insert_lines(self.region.0, count),
            '@' | 'P' => {
                let blank = Cell::blank(self.cursor.look);
                let rest = self.lines.get_mut(y).and_then(|line| line.get_mut(x..)).unwrap_or_default();
                let count = count.min(rest.len());
                if action == '@' {
                    rest.rotate_right(count);
                    rest[..count].fill(blank);
                } else {
                    rest.rotate_left(count);
                    let kept = rest.len() - count;
                    rest[kept..].fill(blank);
                }
                self.cursor.is_past = false;
            }
            'm' => self.look(params),
            'n' if first == Some(5) => self.answer("\x1b[0n"),
            'n' if first == Some(6) => self.answer(&format!("\x1b[{};{}R", y + 1, x + 1)),
            'c' if first.unwrap_or(0) == 0 => self.answer("\x1b[?6c"),
            'r' => self.set_region(first.unwrap_or(0), number(1)),
            's' => self.saved = self.cursor,
            'u' => self.cursor = self.saved,
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _is_cut: bool, byte: u8) {
        match (intermediates, byte) {
            ([], b'D') => self.line_feed(),
            ([], b'E') => {
                self.cursor.x = 0;
                self.line_feed();
            }
            ([], b'M') => self.reverse_line_feed(),
            ([], b'7') => self.saved = self.cursor,
            ([], b'8') => self.cursor = self.saved,
            ([], b'c') => self.reset(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let mut state = State::new(8, 4);
        vte::Parser::new().advance(&mut state, text.as_bytes());
        let line = |line: &Line| line.iter().map(|cell| cell.character).collect::<String>().trim_end().to_owned();
        state.view(0).map(line).collect()
    }

    #[test]
    fn sequences_do_what_a_terminal_does() {
        for (text, lines) in [
            ("ab\r\ncd\x08e", ["ab", "ce", "", ""]),
            ("12345678", ["12345678", "", "", ""]),
            ("123456789", ["12345678", "9", "", ""]),
            ("\x1b[?7l123456789", ["12345679", "", "", ""]),
            ("1\r\n2\r\n3\r\n4\r\n5", ["2", "3", "4", "5"]),
            ("abc\x1b[2D\x1b[K", ["a", "", "", ""]),
            ("abc\x1b[1K\x1b[3;3Hx\x1b[2;1Hy", ["", "y", "  x", ""]),
            ("one\r\ntwo\x1b[H\x1b[J.", [".", "", "", ""]),
            ("abcd\x1b[1;2H\x1b[@\x1b[2Pxy", ["axy", "", "", ""]),
            ("abcd\x1b[1;2H\x1b[2X", ["a  d", "", "", ""]),
            ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3;1H\n5", ["1", "3", "5", "4"]),
            ("1\r\n2\r\n3\x1b[2H\x1b[L\x1b[1H\x1b[M", ["", "2", "3", ""]),
            ("1\r\n2\x1b[H\x1bM0", ["0", "1", "2", ""]),
            ("a\x1b7\x1b[4;4Hb\x1b8c", ["ac", "", "", "   b"]),
            ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[2;1H\x1bM.\x1b[2S", ["1", "", "", "4"]),
            ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[T\x1b[1;1H\x1b[9M\x1b[9L", ["1", "", "2", "4"]),
            ("abcdefgh\x1b[1;3H\x1b[99P\x1b[1;2H\x1b[99@x", ["ax", "", "", ""]),
            ("1\r\nabcd\r\n3\x1b[2;3H\x1b[1J\x1b[2;4H\x1b[J.", ["", "   .", "", ""]),
            ("a\tb\x1b[9999;9999Hz", ["a      b", "", "", "       z"]),
            ("\x1b[65535S\x1b[65535L\x1b[65535@ok\x1b[65535A\x1b[65535X", ["ok", "", "", ""]),
            ("text\x1bc", ["", "", "", ""]),
        ] {
            assert_eq!(shown(text), lines, "{text:?}");
        }
    }

    #[test]
    fn looks_are_colours_and_attributes() {
        let mut state = State::new(8, 1);
        let text = "\x1b[1;31;44mA\x1b[0;7mB\x1b[0;38;5;196mC\x1b[38;2;1;2;3mD\x1b[mE\x1b[97;100mF\x1b[0;41;8mG";
        vte::Parser::new().advance(&mut state, text.as_bytes());
        let cells: Vec<_> = state.view(0).flatten().map(|cell| (cell.colours(), cell.attribute())).collect();
        assert_eq!(cells[0], ((0xff_5555, 0x00_00aa), 0x1c));
        assert_eq!(cells[1], ((0x00_0000, 0xaa_aaaa), 0x70));
        assert_eq!(cells[2], ((0xff_0000, 0), 4));
        assert_eq!(cells[3], ((0x01_0203, 0), 0));
        assert_eq!(cells[4], ((0xaa_aaaa, 0), 7));
        assert_eq!(cells[5], ((0xff_ffff, 0x55_5555), 0x0f));
        assert_eq!(cells[6], ((0xaa_0000, 0xaa_0000), 0x44), "hidden");
    }
}
