//! Line editing for a terminal that shows what it is sent: the keys of Emacs, a history, completion.
//!
//! Bytes go in, and out come bytes to be shown and what the person wants.

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Show this.
    Show(String),
    /// A line is complete.
    Line(String),
    /// The line up to the cursor wants to be completed: answer with [`Readline::complete`].
    Complete(String),
}

/// How many lines are remembered.
const HISTORY: usize = 64;
/// How long a line may be.
const LIMIT: usize = 4095;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Started,
    /// After ESC [ or ESC O, with the number so far.
    Sequence(u32),
}

/// The state of one terminal.
#[derive(Debug, Default)]
pub struct Readline {
    line: Vec<char>,
    cursor: usize,
    shown_cursor: usize,
    escape: Escape,
    history: Vec<String>,
    /// The position in the history, from its end; 0 is the line itself.
    back: usize,
    partial: Vec<u8>,
}

impl Readline {
    /// The latest lines, the oldest first.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Takes one byte that was typed.
    pub fn key(&mut self, byte: u8) -> Vec<Action> {
        match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => {
                self.escape = Escape::Sequence(0);
                return Vec::new();
            }
            (Escape::Started, _) => {
                self.escape = Escape::None;
                match byte {
                    b'b' | b'B' => self.cursor = self.word_start(),
                    b'f' | b'F' => self.cursor = self.word_end(),
                    _ => {}
                }
                return self.refresh();
            }
            (Escape::Sequence(number), b'0'..=b'9') => {
                let number = number.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
                self.escape = Escape::Sequence(number.min(999));
                return Vec::new();
            }
            (Escape::Sequence(number), _) => {
                self.escape = Escape::None;
                self.sequence(number, byte);
                return self.refresh();
            }
            (Escape::None, _) => {}
        }
        match byte {
            1 => self.cursor = 0,
            2 => self.cursor = self.cursor.saturating_sub(1),
            4 => self.delete(),
            5 => self.cursor = self.line.len(),
            6 => self.cursor = (self.cursor + 1).min(self.line.len()),
            8 | 127 if self.cursor > 0 => {
                self.cursor -= 1;
                self.delete();
            }
            9 => {
                let before: String = self.line.iter().take(self.cursor).collect();
                return vec![Action::Complete(before)];
            }
            b'\r' | b'\n' => return self.enter(),
            11 => self.line.truncate(self.cursor),
            12 => return vec![Action::Show("\x1b[2J\x1b[1;1H".into()), Action::Line(String::new())],
            14 => self.remember(-1),
            16 => self.remember(1),
            21 => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            23 => {
                let start = self.word_start();
                self.line.drain(start..self.cursor);
                self.cursor = start;
            }
            27 => self.escape = Escape::Started,
            0..=31 | 127 => {}
            _ => self.insert(byte),
        }
        self.refresh()
    }

    fn sequence(&mut self, number: u32, last: u8) {
        match (last, number) {
            (b'A', _) => self.remember(1),
            (b'B', _) => self.remember(-1),
            (b'C', _) => self.cursor = (self.cursor + 1).min(self.line.len()),
            (b'D', _) => self.cursor = self.cursor.saturating_sub(1),
            (b'H', _) | (b'~', 1) => self.cursor = 0,
            (b'F', _) | (b'~', 4) => self.cursor = self.line.len(),
            (b'~', 3) => self.delete(),
            _ => {}
        }
    }

    fn insert(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                for character in text.chars() {
                    if self.line.len() < LIMIT {
                        self.line.insert(self.cursor, character);
                        self.cursor += 1;
                    }
                }
                self.partial.clear();
            }
            Err(error) if error.error_len().is_some() || self.partial.len() > 3 => self.partial.clear(),
            Err(_) => {}
        }
    }

    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn word_start(&self) -> usize {
        let mut at = self.cursor;
        while at > 0 && self.line.get(at - 1) == Some(&' ') {
            at -= 1;
        }
        while at > 0 && self.line.get(at - 1) != Some(&' ') {
            at -= 1;
        }
        at
    }

    fn word_end(&self) -> usize {
        let mut at = self.cursor;
        while self.line.get(at) == Some(&' ') {
            at += 1;
        }
        while self.line.get(at).is_some_and(|character| *character != ' ') {
            at += 1;
        }
        at
    }

    fn remember(&mut self, by: isize) {
        let back = self.back.saturating_add_signed(by).min(self.history.len());
        if back == self.back {
            return;
        }
        self.back = back;
        let line = self.history.len().checked_sub(back).and_then(|at| self.history.get(at));
        self.line = line.map(|line| line.chars().collect()).unwrap_or_default();
        self.cursor = self.line.len();
    }

    fn enter(&mut self) -> Vec<Action> {
        let line: String = std::mem::take(&mut self.line).into_iter().collect();
        (self.cursor, self.shown_cursor, self.back) = (0, 0, 0);
        if !line.is_empty() {
            self.history.retain(|known| *known != line);
            self.history.push(line.clone());
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        vec![Action::Show("\r\n".into()), Action::Line(line)]
    }

    /// Shows the line anew.
    fn refresh(&mut self) -> Vec<Action> {
        let mut text = "\x1b[D".repeat(self.shown_cursor);
        text.extend(&self.line);
        text.push_str("\x1b[K");
        text.push_str(&"\x1b[D".repeat(self.line.len() - self.cursor));
        self.shown_cursor = self.cursor;
        vec![Action::Show(text)]
    }

    /// What to show after a prompt: the line that is being edited.
    pub fn restart(&mut self) -> String {
        self.shown_cursor = 0;
        if self.line.is_empty() {
            return String::new();
        }
        self.refresh()
            .into_iter()
            .filter_map(|action| if let Action::Show(text) = action { Some(text) } else { None })
            .collect()
    }

    /// Completes the word before the cursor, of which `typed` bytes are there, with what `candidates` have in common.
    /// Where there are several they are listed, and the caller shows its prompt again before [`Readline::restart`].
    pub fn complete(&mut self, typed: &str, candidates: &[String]) -> (String, bool) {
        let Some(first) = candidates.first() else { return (String::new(), false) };
        let mut common = first.as_str();
        for other in candidates {
            let same = common
                .char_indices()
                .zip(other.chars())
                .find(|((_, a), b)| a != b)
                .map_or(common.len().min(other.len()), |((at, _), _)| at);
            common = common.get(..same).unwrap_or_default();
        }
        for character in common.get(typed.len()..).unwrap_or_default().chars() {
            self.line.insert(self.cursor, character);
            self.cursor += 1;
        }
        if candidates.len() == 1 {
            if !first.ends_with('/') && self.line.get(self.cursor).is_none() {
                self.line.insert(self.cursor, ' ');
                self.cursor += 1;
            }
            let shown = self.refresh();
            return (
                shown
                    .into_iter()
                    .filter_map(|action| if let Action::Show(text) = action { Some(text) } else { None })
                    .collect(),
                false,
            );
        }
        let width = candidates.iter().map(String::len).max().unwrap_or(0) + 2;
        let columns = (80 / width).max(1);
        let mut text = "\r\n".to_owned();
        for (index, candidate) in candidates.iter().enumerate() {
            text.push_str(candidate);
            let is_last = index + 1 == candidates.len();
            if (index + 1) % columns == 0 || is_last {
                text.push_str("\r\n");
            } else {
                text.push_str(&" ".repeat(width - candidate.len()));
            }
        }
        (text, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(readline: &mut Readline, keys: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &key in keys {
            for action in readline.key(key) {
                if let Action::Line(line) = action {
                    lines.push(line);
                }
            }
        }
        lines
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, line) in [
            (&b"abc\r"[..], "abc"),
            (b"ac\x02b\r", "abc"),
            (b"bc\x01a\x05d\r", "abcd"),
            (b"abx\x7fc\r", "abc"),
            (b"ab cd\x17ef\r", "ab ef"),
            (b"abc\x15d\r", "d"),
            (b"abcd\x1b[D\x1b[D\x0b\r", "ab"),
            (b"abc\x1b[H\x1b[3~\r", "bc"),
            ("\u{e4}\r".as_bytes(), "\u{e4}"),
            (b"a\xffb\r", "ab"),
        ] {
            assert_eq!(type_in(&mut Readline::default(), keys), [line], "{keys:?}");
        }
    }

    #[test]
    fn lines_are_remembered() {
        let mut readline = Readline::default();
        assert_eq!(type_in(&mut readline, b"one\rtwo\r\x1b[A\x1b[A\r\x10\r"), ["one", "two", "one", "one"]);
        assert_eq!(readline.history().collect::<Vec<_>>(), ["two", "one"]);
    }

    #[test]
    fn what_candidates_share_is_completed() {
        let mut readline = Readline::default();
        type_in(&mut readline, b"bl");
        let names = ["block".to_owned(), "blockstats".to_owned()];
        let (text, several) = readline.complete("bl", &names);
        assert!(several && text.contains("blockstats"), "{text}");
        assert_eq!(type_in(&mut readline, b"\r"), ["block"]);
    }
}
