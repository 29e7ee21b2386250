//! A picture that owns its pixels.

use crate::damage::Rectangle;

/// How a pixel is laid out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// 32 bits, little endian: blue, green, red, and a byte without meaning.
    Xrgb8888,
}

impl PixelFormat {
    /// Bytes of a pixel.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Xrgb8888 => 4,
        }
    }
}

/// The largest width and height.
pub const SIDE_MAX: u32 = 16384;

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surface {
    width: u32,
    height: u32,
    format: PixelFormat,
    pixels: Vec<u32>,
}

impl Surface {
    /// A black picture. Sides are limited to 1–16384.
    pub fn new(width: u32, height: u32) -> Self {
        let (width, height) = (width.clamp(1, SIDE_MAX), height.clamp(1, SIDE_MAX));
        let pixels = vec![0; width as usize * height as usize];
        Self { width, height, format: PixelFormat::Xrgb8888, pixels }
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The layout of pixels.
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Bytes from a row to the next.
    pub fn stride(&self) -> usize {
        self.width as usize * self.format.bytes()
    }

    /// Gives the picture another size; it is black then. With the size it has, it keeps what it shows.
    pub fn resize(&mut self, width: u32, height: u32) {
        if (self.width, self.height) != (width, height) {
            *self = Self::new(width, height);
        }
    }

    /// Row `y` as pixels: 0x00RRGGBB. Empty outside of the picture.
    pub fn row(&self, y: u32) -> &[u32] {
        let start = y as usize * self.width as usize;
        self.pixels.get(start..start + self.width as usize).unwrap_or_default()
    }

    /// Row `y` to draw on. Empty outside of the picture.
    pub fn row_mut(&mut self, y: u32) -> &mut [u32] {
        let start = y as usize * self.width as usize;
        self.pixels.get_mut(start..start + self.width as usize).unwrap_or_default()
    }

    /// Copies an area of another picture to the same place, as far as both pictures have it.
    pub fn copy_area(&mut self, from: &Self, area: Rectangle) {
        let columns = area.x as usize..area.x.saturating_add(area.width) as usize;
        for y in area.y..area.y.saturating_add(area.height).min(self.height) {
            let (Some(from), Some(to)) = (from.row(y).get(columns.clone()), self.row_mut(y).get_mut(columns.clone()))
            else {
                return;
            };
            to.copy_from_slice(from);
        }
    }

    /// Fills everything with one colour.
    pub fn fill(&mut self, colour: u32) {
        self.pixels.fill(colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_limited_and_rows_outside_are_empty() {
        let mut surface = Surface::new(0, 3);
        assert_eq!((surface.width(), surface.height(), surface.stride()), (1, 3, 4));
        surface.row_mut(1)[0] = 5;
        surface.resize(1, 3);
        assert_eq!((surface.row(1), surface.row(3)), (&[5][..], &[][..]));
        surface.resize(2, 3);
        assert_eq!(surface.row(1), [0, 0]);
    }
}
