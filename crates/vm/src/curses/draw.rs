//! What the terminal shows, and the sequences that change it.

use std::fmt::Write as _;

use display::text::{TextScreen, code_page_437};

/// Takes the terminal over: its other screen, without automatic line ends, and its mouse.
pub const BEGIN: &str = "\x1b[?1049h\x1b[?7l\x1b[?1002h\x1b[?1006h\x1b[2J";
/// Gives it back.
pub const END: &str = "\x1b[?1006l\x1b[?1002l\x1b[?7h\x1b[0m\x1b[?25h\x1b[?1049l";
/// The last line, if there is room for it.
pub const HINT: &str =
    " Ctrl-] q: quit   Ctrl-] l: draw again   Ctrl-] Ctrl-]: Ctrl-] for the guest   Esc 1..9: screens ";
/// The same while a command is typed.
pub const COMMANDS: &str = " Ctrl-]:  q  quit   l  draw again   Ctrl-]  for the guest ";

/// What a cell of the terminal shows: the character, and the attribute of a VGA's text mode.
type Cell = (char, u8);

/// The terminal as it was drawn last.
#[derive(Default)]
pub struct Terminal {
    size: (usize, usize),
    cells: Vec<Cell>,
    cursor: Option<(usize, usize)>,
    /// Columns and rows of the guest's screen that are shown.
    shown: (usize, usize),
    is_begun: bool,
}

impl Terminal {
    /// Draws everything again the next time.
    pub fn forget(&mut self) {
        self.is_begun = false;
    }

    /// Columns and rows of the guest's screen.
    pub fn shown(&self) -> (usize, usize) {
        self.shown
    }

    /// The sequences that make a terminal of `size` show `screen`, and `hint` in the last line if that is free.
    pub fn draw(&mut self, screen: &TextScreen, hint: &str, size: (usize, usize)) -> Vec<u8> {
        let (columns, rows) = (size.0.clamp(1, 1000), size.1.clamp(1, 1000));
        let mut wanted: Vec<Cell> = vec![(' ', 7); columns * rows];
        // Where not all of it fits, the part with the cursor is shown.
        let cursor_row = screen.cursor.map_or(0, |(_, row)| row);
        let first = (cursor_row + 1).saturating_sub(rows);
        for (line, row) in (first..screen.rows).zip(wanted.chunks_mut(columns)) {
            let cells = screen.cells.get(line * screen.columns..).unwrap_or_default();
            for (place, (code, attribute)) in row.iter_mut().zip(cells.iter().take(screen.columns)) {
                *place = (code_page_437(*code), *attribute);
            }
        }
        if rows > screen.rows
            && let Some(last) = wanted.chunks_mut(columns).last()
        {
            last.fill((' ', 0x70));
            for (place, character) in last.iter_mut().zip(hint.chars()) {
                *place = (character, 0x70);
            }
        }
        let cursor = screen.cursor.map(|(column, row)| (column, row.saturating_sub(first)));
        let cursor = cursor.filter(|(column, row)| *column < columns && *row < rows);
        self.shown = (screen.columns, screen.rows);
        self.change((columns, rows), wanted, cursor)
    }

    fn change(&mut self, size: (usize, usize), wanted: Vec<Cell>, cursor: Option<(usize, usize)>) -> Vec<u8> {
        let mut text = String::new();
        if !self.is_begun || self.size != size {
            text.push_str("\x1b[0m\x1b[2J");
            self.cells = vec![(' ', 7); wanted.len()];
            (self.cursor, self.is_begun, self.size) = (None, true, size);
        }
        let (mut pen, mut next) = (None, None);
        for (at, (cell, old)) in wanted.iter().zip(&self.cells).enumerate() {
            if cell == old {
                continue;
            }
            // A string takes everything.
            if next != Some(at) || at % size.0 == 0 {
                let _ = write!(text, "\x1b[{};{}H", at / size.0 + 1, at % size.0 + 1);
            }
            if pen != Some(cell.1) {
                text.push_str(&colours(cell.1));
                pen = Some(cell.1);
            }
            text.push(cell.0);
            next = Some(at + 1);
        }
        let is_drawn = !text.is_empty();
        self.cells = wanted;
        if is_drawn || cursor != self.cursor {
            match cursor {
                Some((column, row)) => _ = write!(text, "\x1b[0m\x1b[{};{}H\x1b[?25h", row + 1, column + 1),
                None => text.push_str("\x1b[0m\x1b[?25l"),
            }
            self.cursor = cursor;
        }
        text.into_bytes()
    }
}

/// The colours of a VGA's attribute.
fn colours(attribute: u8) -> String {
    /// The terminal's order has red and blue the other way round.
    const ORDER: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];
    let (fore, back) = (attribute & 15, attribute >> 4 & 7);
    let bright = if fore & 8 != 0 { 90 } else { 30 };
    let blink = if attribute & 0x80 != 0 { ";5" } else { "" };
    format!("\x1b[0{blink};{};{}m", bright + ORDER[usize::from(fore & 7)], 40 + ORDER[usize::from(back)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(text: &[u8], cursor: Option<(usize, usize)>) -> TextScreen {
        TextScreen { columns: text.len(), rows: 1, cells: text.iter().map(|byte| (*byte, 7)).collect(), cursor }
    }

    fn drawn(terminal: &mut Terminal, screen: &TextScreen, size: (usize, usize)) -> String {
        String::from_utf8(terminal.draw(screen, "hint", size)).expect("UTF-8")
    }

    #[test]
    fn only_what_changes_is_drawn() {
        let mut terminal = Terminal::default();
        let first = drawn(&mut terminal, &screen(b"hello", Some((5, 0))), (10, 1));
        assert_eq!(first, "\x1b[0m\x1b[2J\x1b[1;1H\x1b[0;37;40mhello\x1b[0m\x1b[1;6H\x1b[?25h");
        assert_eq!(drawn(&mut terminal, &screen(b"hello", Some((5, 0))), (10, 1)), "");
        let second = drawn(&mut terminal, &screen(b"hallo", Some((5, 0))), (10, 1));
        assert_eq!(second, "\x1b[1;2H\x1b[0;37;40ma\x1b[0m\x1b[1;6H\x1b[?25h");
        // Another size is another terminal.
        assert!(drawn(&mut terminal, &screen(b"hallo", None), (4, 1)).contains("hall\x1b[0m\x1b[?25l"));
    }

    #[test]
    fn hint_is_shown_where_there_is_room() {
        let mut terminal = Terminal::default();
        assert!(!drawn(&mut terminal, &screen(b"x", None), (10, 1)).contains("hint"));
        assert!(drawn(&mut terminal, &screen(b"x", None), (10, 2)).contains("\x1b[2;1H\x1b[0;30;47mhint"));
    }

    #[test]
    fn screens_that_do_not_fit_follow_the_cursor() {
        let cells = (b'a'..=b'z').map(|byte| (byte, 7)).collect();
        let screen = TextScreen { columns: 1, rows: 26, cells, cursor: Some((0, 25)) };
        let mut terminal = Terminal::default();
        let text = drawn(&mut terminal, &screen, (1, 2));
        assert!(text.contains("y") && text.contains("z") && !text.contains('a'), "{text:?}");
    }
}
