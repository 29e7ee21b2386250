//! Hextile (RFC 6143, section 7.7.4): tiles of 16 by 16, each with a background and rectangles of other colours.

use display::{Rectangle, Surface};

use super::{gather, pieces};
use crate::format::Converter;

const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const ANY_SUBRECTS: u8 = 8;
const COLOURED: u8 = 16;

/// The rectangles of one tile; as many as there are pixels at most.
struct Subrects {
    list: Vec<(u32, Rectangle)>,
}

/// The most frequent colour of a tile, and another one if there are just two.
fn colours(pixels: &[u32]) -> (u32, Option<u32>, bool) {
    let first = pixels.first().copied().unwrap_or(0);
    let Some(second) = pixels.iter().copied().find(|pixel| *pixel != first) else { return (first, None, false) };
    let (mut firsts, mut seconds) = (0, 0);
    for pixel in pixels {
        if *pixel == first {
            firsts += 1;
        } else if *pixel == second {
            seconds += 1;
        }
    }
    let has_more = firsts + seconds < pixels.len();
    if firsts >= seconds { (first, Some(second), has_more) } else { (second, Some(first), has_more) }
}

impl Subrects {
    /// Covers what is not background; pixels are made background on the way. Nothing if there would be more than `most`.
    fn find(pixels: &mut [u32], width: usize, background: u32, most: usize) -> Option<Self> {
        let mut list = Vec::new();
        let height = pixels.len() / width.max(1);
        for y in 0..height {
            let mut x = 0;
            while x < width {
                let colour = pixels[y * width + x];
                if colour == background {
                    x += 1;
                    continue;
                }
                let row = &pixels[y * width + x..(y + 1) * width];
                let run = row.iter().take_while(|pixel| **pixel == colour).count();
                let is_run = |row: usize| pixels[row * width + x..row * width + x + run].iter().all(|p| *p == colour);
                let rows = 1 + (y + 1..height).take_while(|row| is_run(*row)).count();
                for row in y..y + rows {
                    pixels[row * width + x..row * width + x + run].fill(background);
                }
                if list.len() >= most {
                    return None;
                }
                let area = Rectangle { x: x as u32, y: y as u32, width: run as u32, height: rows as u32 };
                list.push((colour, area));
                x += run;
            }
        }
        Some(Self { list })
    }
}

/// Appends an area.
pub fn encode(converter: &Converter, picture: &Surface, area: Rectangle, out: &mut Vec<u8>, pixels: &mut Vec<u32>) {
    let (mut last_background, mut last_foreground) = (None, None);
    let bytes = converter.bytes();
    for tile in pieces(area, 16, 16) {
        gather(picture, tile, pixels);
        // Different colours may be one for the client.
        for pixel in pixels.iter_mut() {
            *pixel &= 0xff_ffff;
        }
        let (background, foreground, has_more) = colours(pixels);
        let raw = pixels.len() * bytes;
        let each = if has_more { bytes + 2 } else { 2 };
        let most = (raw.saturating_sub(2 + 2 * bytes) / each).min(255);
        let copy_start = out.len();
        let found = match foreground {
            None => Some(Subrects { list: Vec::new() }),
            Some(_) => Subrects::find(pixels, tile.width as usize, background, most),
        };
        let Some(subrects) = found else {
            gather(picture, tile, pixels);
            out.push(RAW);
            converter.put(pixels, out);
            (last_background, last_foreground) = (None, None);
            continue;
        };
        out.push(0);
        let mut flags = 0;
        if last_background != Some(background) {
            flags |= BACKGROUND;
            converter.put(&[background], out);
            last_background = Some(background);
        }
        if let Some(foreground) = foreground {
            flags |= ANY_SUBRECTS;
            if has_more {
                flags |= COLOURED;
                last_foreground = None;
            } else if last_foreground != Some(foreground) {
                flags |= FOREGROUND;
                converter.put(&[foreground], out);
                last_foreground = Some(foreground);
            }
            out.push(subrects.list.len() as u8);
            for (colour, area) in &subrects.list {
                if has_more {
                    converter.put(&[*colour], out);
                }
                out.push((area.x << 4 | area.y) as u8);
                out.push(((area.width - 1) << 4 | (area.height - 1)) as u8);
            }
        }
        out[copy_start] = flags;
    }
}
