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
}
