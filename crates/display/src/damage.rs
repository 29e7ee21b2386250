//! What a reader has not seen yet: a grid of tiles, one bit each.

use crate::surface::Surface;

/// The width of a tile in pixels.
const TILE_WIDTH: u32 = 32;
/// The height of a tile in pixels.
const TILE_HEIGHT: u32 = 16;

/// A part of the screen, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The tiles of a screen of some size.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    width: u32,
    height: u32,
    columns: u32,
    tiles: Vec<bool>,
}

impl Damage {
    /// A clean screen.
    pub fn clean(width: u32, height: u32) -> Self {
        let (columns, rows) = (width.div_ceil(TILE_WIDTH), height.div_ceil(TILE_HEIGHT));
        Self { width, height, columns, tiles: vec![false; columns as usize * rows as usize] }
    }

    /// A screen of which everything is new.
    pub fn full(width: u32, height: u32) -> Self {
        let mut damage = Self::clean(width, height);
        damage.tiles.fill(true);
        damage
    }

    /// What differs between two pictures.
    pub fn between(old: &Surface, new: &Surface) -> Self {
        if (old.width(), old.height()) != (new.width(), new.height()) {
            return Self::full(new.width(), new.height());
        }
        let mut damage = Self::clean(new.width(), new.height());
        for y in 0..new.height() {
            let (old, new) = (old.row(y), new.row(y));
            if old == new {
                continue;
            }
            let first = (y / TILE_HEIGHT * damage.columns) as usize;
            let pieces = old.chunks(TILE_WIDTH as usize).zip(new.chunks(TILE_WIDTH as usize));
            for (tile, (old, new)) in damage.tiles.iter_mut().skip(first).zip(pieces) {
                *tile |= old != new;
            }
        }
        damage
    }

    /// Adds what another frame changed.
    pub fn add(&mut self, other: &Self) {
        if (self.width, self.height) != (other.width, other.height) {
            *self = Self::full(other.width, other.height);
            return;
        }
        for (tile, other) in self.tiles.iter_mut().zip(&other.tiles) {
            *tile |= other;
        }
    }

    /// Adds all tiles that an area touches.
    pub fn mark(&mut self, area: Rectangle) {
        if area.width == 0 || area.height == 0 {
            return;
        }
        let columns = self.columns.max(1) as usize;
        let (right, bottom) = (area.x.saturating_add(area.width), area.y.saturating_add(area.height));
        let touched = area.x / TILE_WIDTH..right.div_ceil(TILE_WIDTH).min(self.columns);
        let rows = self.tiles.chunks_mut(columns).enumerate();
        let first = (area.y / TILE_HEIGHT) as usize;
        for (_, tiles) in rows.skip(first).take_while(|(row, _)| (*row as u32 * TILE_HEIGHT) < bottom) {
            if let Some(tiles) = tiles.get_mut(touched.start as usize..touched.end.max(touched.start) as usize) {
                tiles.fill(true);
            }
        }
    }

    /// Whether nothing is new.
    pub fn is_clean(&self) -> bool {
        !self.tiles.contains(&true)
    }

    /// The changed tiles as rectangles: runs in a row, joined with equal ones of the row above.
    pub fn rectangles(&self) -> Vec<Rectangle> {
        let mut done: Vec<Rectangle> = Vec::new();
        let columns = self.columns.max(1) as usize;
        for (row, tiles) in self.tiles.chunks(columns).enumerate() {
            let y = row as u32 * TILE_HEIGHT;
            let height = TILE_HEIGHT.min(self.height - y);
            let mut column = 0;
            while column < tiles.len() {
                let len = tiles.iter().skip(column).take_while(|tile| **tile).count();
                if len == 0 {
                    column += 1;
                    continue;
                }
                let x = column as u32 * TILE_WIDTH;
                let width = (len as u32 * TILE_WIDTH).min(self.width - x);
                let above =
                    done.iter_mut().find(|other| (other.x, other.width, other.y + other.height) == (x, width, y));
                match above {
                    Some(above) => above.height += height,
                    None => done.push(Rectangle { x, y, width, height }),
                }
                column += len;
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_pixels_become_joined_rectangles_within_the_screen() {
        let old = Surface::new(100, 40);
        let mut new = old.clone();
        for y in [0, 17, 39] {
            new.row_mut(y)[99] = 1;
        }
        new.row_mut(20)[40] = 1;
        let expected =
            [Rectangle { x: 96, y: 0, width: 4, height: 40 }, Rectangle { x: 32, y: 16, width: 32, height: 16 }];
        assert_eq!(Damage::between(&old, &new).rectangles(), expected);
        assert!(Damage::between(&old, &old).is_clean());
    }

    #[test]
    fn new_size_makes_everything_new() {
        let mut damage = Damage::clean(64, 16);
        damage.add(&Damage::clean(33, 17));
        assert_eq!(damage.rectangles(), [Rectangle { x: 0, y: 0, width: 33, height: 17 }]);
    }
}
