//! The letters: Frederic Cambus' Spleen (BSD licence) as a file of the Linux console's first kind, PSF 1.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Rows of dots by characters.
pub type Glyphs = HashMap<char, [u8; 16]>;

/// Ends the characters of a glyph.
const END: u16 = 0xffff;
/// Begins a sequence of characters.
const SEQUENCE: u16 = 0xfffe;

/// The font, read when something is to be drawn for the first time.
pub fn glyphs() -> &'static Glyphs {
    static GLYPHS: LazyLock<Glyphs> = LazyLock::new(|| read(spleen_font::FONT_8X16).unwrap_or_default());
    &GLYPHS
}

/// Two bytes of magic, a mode (bit 0: 512 glyphs, bit 1: names follow), bytes of a glyph; glyphs; their characters.
fn read(file: &[u8]) -> Option<Glyphs> {
    let ([0x36, 0x04, mode, 16], rest) = file.split_first_chunk()? else { return None };
    let count = if mode & 1 == 0 { 256 } else { 512 };
    let (rows, names) = rest.split_at_checked(count * 16)?;
    let mut names = names.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair));
    let mut glyphs = Glyphs::new();
    for glyph in rows.as_chunks().0 {
        let own = names.by_ref().take_while(|code| *code != END);
        // Sequences are for characters that are composed.
        for code in own.collect::<Vec<_>>().split(|code| *code == SEQUENCE).next()? {
            glyphs.entry(char::from_u32((*code).into())?).or_insert(*glyph);
        }
    }
    Some(glyphs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn font_has_what_is_printed_and_drawn() {
        let glyphs = glyphs();
        for character in (' '..='~').chain("äöüßéñ─│┌┐└┘├┤█▒".chars()) {
            let glyph = glyphs.get(&character).unwrap_or_else(|| panic!("no {character:?}"));
            assert_eq!(glyph.iter().all(|row| *row == 0), character == ' ', "{character:?}");
        }
        assert_eq!(read(b"no font at all"), None);
    }
}
