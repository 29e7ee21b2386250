//! Characters on a picture, as text modes draw them.

use crate::surface::Surface;

/// A screen of a text mode, as characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextScreen {
    /// Characters of a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
    /// Line by line: the character of the card's first font (code page 437 on a PC), and its attribute (foreground in
    /// the lower four bits).
    pub cells: Vec<(u8, u8)>,
    /// Column and row of the cursor, if it is shown.
    pub cursor: Option<(usize, usize)>,
}

/// The characters of code page 437 that are not those of ASCII: 0x00 to 0x1f, 0x7f, and 0x80 to 0xff.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The character of a code of code page 437.
pub fn code_page_437(code: u8) -> char {
    let found = match code {
        0x20..=0x7e => Some(char::from(code)),
        0..=0x1f => LOW.chars().nth(usize::from(code)),
        _ => HIGH.chars().nth(usize::from(code) - 0x7f),
    };
    found.unwrap_or(' ')
}

/// The code of a character in code page 437, if it has one.
pub fn to_code_page_437(character: char) -> Option<u8> {
    match character {
        ' '..='~' => u8::try_from(character).ok(),
        _ => {
            let mut others = LOW.chars().zip(0..=0x1f).chain(HIGH.chars().zip(0x7f..=0xff));
            others.find(|(known, _)| *known == character).map(|(_, code)| code)
        }
    }
}

/// How wide a character is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellWidth {
    /// 8 dots.
    Eight,
    /// 8 dots and one of background, or of the eighth dot where lines shall join.
    Nine {
        /// The ninth dot repeats the eighth.
        joins: bool,
    },
    /// 8 dots, each twice.
    Sixteen,
}

impl CellWidth {
    /// Pixels.
    pub const fn pixels(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Nine { .. } => 9,
            Self::Sixteen => 16,
        }
    }
}

/// Draws a glyph with its top left dot at (`x`, `y`): a byte a row, the most significant bit at the left. Dots outside
/// of the picture are cut off.
pub fn draw_glyph(picture: &mut Surface, (x, y): (u32, u32), width: CellWidth, rows: &[u8], (fore, back): (u32, u32)) {
    for (row, bits) in (y..).zip(rows) {
        let line = picture.row_mut(row);
        let Some(cell) = line.get_mut(x as usize..) else { continue };
        let colour = |bit: usize| if bits << bit & 0x80 != 0 { fore } else { back };
        for (dot, pixel) in cell.iter_mut().take(width.pixels() as usize).enumerate() {
            *pixel = match width {
                CellWidth::Sixteen => colour(dot / 2),
                CellWidth::Nine { joins: true } => colour(dot.min(7)),
                CellWidth::Nine { joins: false } if dot == 8 => back,
                _ => colour(dot),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninth_dot_joins_or_is_background() {
        let mut picture = Surface::new(9, 1);
        for (joins, last) in [(true, 5), (false, 2)] {
            draw_glyph(&mut picture, (0, 0), CellWidth::Nine { joins }, &[0x81], (5, 2));
            assert_eq!(picture.row(0), [5, 2, 2, 2, 2, 2, 2, 5, last]);
        }
        draw_glyph(&mut picture, (4, 0), CellWidth::Sixteen, &[0xa0, 0xff], (1, 0));
        assert_eq!(picture.row(0)[4..], [1, 1, 0, 0, 1]);
    }

    #[test]
    fn code_page_437_has_a_character_for_each_code() {
        assert_eq!((LOW.chars().count(), HIGH.chars().count()), (32, 129));
        assert_eq!((code_page_437(b'A'), code_page_437(0xc4), code_page_437(1)), ('A', '─', '☺'));
        assert_eq!(['A', '─', '☺', '語'].map(to_code_page_437), [Some(b'A'), Some(0xc4), Some(1), None]);
        for code in 1..=255 {
            assert_eq!(to_code_page_437(code_page_437(code)), Some(code));
        }
    }
}
