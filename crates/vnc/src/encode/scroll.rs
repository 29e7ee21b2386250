//! What has moved up or down, for CopyRect (RFC 6143, section 7.7.2).
//!
//! A client's picture is remembered as a hash for each row of each stripe of 32 columns, which is what damage is counted
//! in, too. Rows that were elsewhere before vote for the distance. Movements sideways are not looked for.

use std::collections::HashMap;

use display::{Rectangle, Surface};

/// Columns of a stripe: a divisor of the width of damaged tiles.
const STRIPE: usize = 32;
/// Fewer rows are not worth a rectangle.
const ROWS_LEAST: usize = 32;
/// Fewer columns neither.
const STRIPES_LEAST: usize = 3;
/// So many rows have to agree on the distance.
const VOTES_LEAST: usize = 8;

/// The rows that a client has.
pub struct Lines {
    size: (u32, u32),
    stripes: usize,
    /// Row by row.
    hashes: Vec<u64>,
}

/// Something has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scroll {
    /// Where it is now.
    pub area: Rectangle,
    /// The row where it began.
    pub from: u32,
}

fn hash(pixels: &[u32]) -> u64 {
    let (pairs, rest) = pixels.as_chunks::<2>();
    let mix = |hash: u64, value: u64| (hash.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = pairs.iter().fold(1, |hash, [a, b]| mix(hash, u64::from(*a) << 32 | u64::from(*b)));
    rest.iter().fold(hash, |hash, pixel| mix(hash, u64::from(*pixel)))
}

impl Lines {
    /// Nothing is known of the client's picture.
    pub fn new(width: u32, height: u32) -> Self {
        let stripes = (width as usize).div_ceil(STRIPE);
        Self { size: (width, height), stripes, hashes: vec![0; stripes * height as usize] }
    }

    /// Columns and rows.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Takes the hashes of these stripes of a row as one.
    fn row(&self, y: usize, stripes: &std::ops::Range<usize>) -> u64 {
        let row = self.hashes.get(y * self.stripes + stripes.start..y * self.stripes + stripes.end).unwrap_or_default();
        row.iter().fold(0, |all, hash| (all.rotate_left(7) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Remembers that the client gets these areas, and finds what it has already, elsewhere.
    pub fn update(&mut self, picture: &Surface, areas: &[Rectangle]) -> Option<Scroll> {
        let left = areas.iter().map(|area| area.x).min()? as usize / STRIPE;
        let right = (areas.iter().map(|area| area.x + area.width).max()? as usize).div_ceil(STRIPE).min(self.stripes);
        let top = areas.iter().map(|area| area.y).min()? as usize;
        let bottom = areas.iter().map(|area| area.y + area.height).max()?.min(self.size.1) as usize;
        let is_big = bottom.saturating_sub(top) >= 2 * ROWS_LEAST && right.saturating_sub(left) >= STRIPES_LEAST;
        // The stripes at the sides may have something else in them, too.
        let tries = [left..right, left + 1..right.saturating_sub(1).max(left + 1)];
        let old = is_big.then(|| tries.clone().map(|stripes| self.rows(top..bottom, &stripes)));
        self.learn(picture, areas);
        for (old, stripes) in old?.iter().zip(tries) {
            if stripes.len() < STRIPES_LEAST {
                continue;
            }
            let new = self.rows(top..bottom, &stripes);
            if let Some((start, length, from)) = find(old, &new) {
                let x = (stripes.start * STRIPE) as u32;
                let width = ((stripes.end * STRIPE) as u32).min(self.size.0) - x;
                let area = Rectangle { x, y: (top + start) as u32, width, height: length as u32 };
                return Some(Scroll { area, from: (top + from) as u32 });
            }
        }
        None
    }

    fn rows(&self, rows: std::ops::Range<usize>, stripes: &std::ops::Range<usize>) -> Vec<u64> {
        rows.map(|y| self.row(y, stripes)).collect()
    }

    fn learn(&mut self, picture: &Surface, areas: &[Rectangle]) {
        for area in areas {
            let stripes = area.x as usize / STRIPE..((area.x + area.width) as usize).div_ceil(STRIPE).min(self.stripes);
            for y in area.y..area.y + area.height {
                let pieces = picture.row(y).chunks(STRIPE);
                let start = y as usize * self.stripes;
                let Some(hashes) = self.hashes.get_mut(start + stripes.start..start + stripes.end) else { continue };
                for (entry, piece) in hashes.iter_mut().zip(pieces.skip(stripes.start)) {
                    *entry = hash(piece);
                }
            }
        }
    }
}

/// The longest run of rows that were elsewhere: its start, its length, and where it was.
fn find(old: &[u64], new: &[u64]) -> Option<(usize, usize, usize)> {
    let mut places: HashMap<u64, Option<usize>> = HashMap::new();
    for (y, row) in old.iter().enumerate() {
        // Rows that are there twice say nothing.
        places.entry(*row).and_modify(|place| *place = None).or_insert(Some(y));
    }
    let mut votes: HashMap<isize, usize> = HashMap::new();
    for (y, row) in new.iter().enumerate().filter(|(y, row)| old.get(*y) != Some(row)) {
        if let Some(Some(place)) = places.get(row) {
            *votes.entry(*place as isize - y as isize).or_default() += 1;
        }
    }
    let (distance, count) = votes.into_iter().max_by_key(|(distance, votes)| (*votes, -distance.abs()))?;
    if count < VOTES_LEAST {
        return None;
    }
    let was_there = |y: usize| {
        let from = y.checked_add_signed(distance)?;
        (old.get(from)? == new.get(y)?).then_some(from)
    };
    let mut best = None;
    let mut y = 0;
    while y < new.len() {
        let length = (y..new.len()).take_while(|y| was_there(*y).is_some()).count();
        if let Some(from) = was_there(y)
            && best.is_none_or(|(_, longest, _)| length > longest)
        {
            best = Some((y, length, from));
        }
        y += length.max(1);
    }
    best.filter(|(_, length, _)| *length >= ROWS_LEAST)
}

/// What is left of areas without one of them.
pub fn without(areas: &[Rectangle], cut: Rectangle) -> Vec<Rectangle> {
    let mut left = Vec::new();
    for area in areas {
        let (right, bottom) = (area.x + area.width, area.y + area.height);
        let (x0, x1) = (area.x.max(cut.x), right.min(cut.x + cut.width));
        let (y0, y1) = (area.y.max(cut.y), bottom.min(cut.y + cut.height));
        if x0 >= x1 || y0 >= y1 {
            left.push(*area);
            continue;
        }
        let parts =
            [(area.x, area.y, right, y0), (area.x, y0, x0, y1), (x1, y0, right, y1), (area.x, y1, right, bottom)];
        let parts = parts.into_iter().filter(|(x0, y0, x1, y1)| x0 < x1 && y0 < y1);
        left.extend(parts.map(|(x, y, x1, y1)| Rectangle { x, y, width: x1 - x, height: y1 - y }));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(first: u32) -> Surface {
        let mut picture = Surface::new(200, 100);
        for y in 0..100 {
            let value = (first + y).wrapping_mul(0x0101_0107) & 0xff_ffff;
            picture.row_mut(y).fill(value);
        }
        picture
    }

    #[test]
    fn picture_that_moves_up_is_found_and_the_rest_is_cut() {
        let whole = Rectangle { x: 0, y: 0, width: 200, height: 100 };
        let mut known = Lines::new(200, 100);
        assert_eq!(known.update(&lines(0), &[whole]), None, "the client has nothing yet");
        let scroll = known.update(&lines(16), &[whole]).expect("a movement");
        assert_eq!(scroll, Scroll { area: Rectangle { height: 84, ..whole }, from: 16 });
        assert_eq!(without(&[whole], scroll.area), [Rectangle { y: 84, height: 16, ..whole }]);
        assert_eq!(known.update(&lines(1000), &[whole]), None);
        let scroll = known.update(&lines(990), &[whole]).expect("a movement");
        assert_eq!(scroll, Scroll { area: Rectangle { y: 10, height: 90, ..whole }, from: 0 });
    }

    #[test]
    fn one_area_without_another_keeps_every_other_pixel() {
        let area = Rectangle { x: 10, y: 10, width: 10, height: 10 };
        let cut = Rectangle { x: 12, y: 13, width: 3, height: 2 };
        let left = without(&[area], cut);
        assert_eq!(left.iter().map(|area| area.width * area.height).sum::<u32>(), 100 - 6);
        assert_eq!(without(&[area], Rectangle { x: 0, width: 15, ..cut }).len(), 3);
        assert_eq!(without(&[area], Rectangle { x: 20, ..cut }), [area]);
        assert_eq!(without(&[area], area), []);
    }
}
