//! Parts of the screen as messages: the pixels as they are, or in the protocol's LZ format for pixels (a run is a distance
//! and a length in pixels; what is new is blue, green and red).

use display::{Rectangle, Surface};

use crate::wire::Body;

/// How pictures are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    Off,
    /// Without loss, by what repeats.
    #[default]
    Lz,
}

/// Pixels of a message at most. Clients that take a picture of the screen take it with the first message, so that a whole
/// screen of a usual size has to be one.
const STRIP: u32 = 4 << 20;

/// Cuts areas into strips of a message each.
pub fn strips(areas: &[Rectangle]) -> Vec<Rectangle> {
    let cut = |area: &Rectangle| {
        let area = *area;
        let rows = (STRIP / area.width.max(1)).max(1);
        (0..area.height.div_ceil(rows)).map(move |number| {
            let skipped = number * rows;
            Rectangle { y: area.y + skipped, height: rows.min(area.height - skipped), ..area }
        })
    };
    areas.iter().flat_map(cut).collect()
}

/// `SPICE_ROPD_OP_PUT`.
const OP_PUT: u16 = 8;
/// Bytes of a drawing command before its picture.
const BEFORE_IMAGE: u32 = 57;
const BITMAP: u8 = 0;
const LZ_RGB: u8 = 101;
/// 32 bits a pixel, the highest without meaning.
const FORMAT_32BIT: u8 = 8;
/// The first row is the upper one.
const TOP_DOWN: u8 = 4;

fn rectangle(body: Body, x: u32, y: u32, area: Rectangle) -> Body {
    body.u32(y).u32(x).u32(y + area.height).u32(x + area.width)
}

/// The command that puts a part of the picture to its place on the client's screen; `id` is one of its own.
pub fn draw_copy(picture: &Surface, area: Rectangle, compression: Compression, id: u64) -> Body {
    // Surface 0, no clip.
    let body = rectangle(Body::default().u32(0), area.x, area.y, area).u8(0);
    let body = rectangle(body.u32(BEFORE_IMAGE), 0, 0, area).u16(OP_PUT).u8(0);
    // No mask.
    let body = body.u8(0).u64(0).u32(0).u64(id);
    let columns = area.x as usize..(area.x + area.width) as usize;
    let rows = (area.y..area.y + area.height).map(|y| picture.row(y).get(columns.clone()).unwrap_or_default());
    let pixels: Vec<u32> = rows.flatten().map(|pixel| pixel & 0xff_ffff).collect();
    if compression == Compression::Lz {
        let mut packed = lz_header(area);
        compress(&pixels, area.width as usize, &mut packed);
        if packed.len() < pixels.len() * 4 {
            let body = body.u8(LZ_RGB).u8(0).u32(area.width).u32(area.height);
            return body.u32(packed.len() as u32).bytes(&packed);
        }
    }
    let body = body.u8(BITMAP).u8(0).u32(area.width).u32(area.height);
    let mut body = body.u8(FORMAT_32BIT).u8(TOP_DOWN).u32(area.width).u32(area.height).u32(area.width * 4).u32(0);
    body.0.reserve(pixels.len() * 4);
    body.0.extend(pixels.iter().flat_map(|pixel| pixel.to_le_bytes()));
    body
}

/// The LZ format has its own header, whose numbers are big endian: magic, version 1.1, 32 bits a pixel, the size, the
/// length of a row, the first row is the upper one.
fn lz_header(area: Rectangle) -> Vec<u8> {
    let numbers = [0x2020_5a4c, 0x0001_0001, 8, area.width, area.height, area.width * 4, 1];
    numbers.iter().flat_map(|number: &u32| number.to_be_bytes()).collect()
}

/// Pixels that a literal run has at most.
const LITERALS: usize = 32;
/// The longest distance of the short form.
const DISTANCE: usize = 8191;
/// A length from which on it does not fit into the first byte.
const LONG: usize = 7;
/// Fewer pixels are not worth a run.
const LEAST: usize = 2;
const TABLE: usize = 1 << 13;

fn put_literals(pixels: &[u32], out: &mut Vec<u8>) {
    for run in pixels.chunks(LITERALS) {
        out.push(run.len() as u8 - 1);
        for pixel in run {
            let [blue, green, red, _] = pixel.to_le_bytes();
            out.extend_from_slice(&[blue, green, red]);
        }
    }
}

fn put_run(length: usize, distance: usize, out: &mut Vec<u8>) {
    let offset = distance - 1;
    let [high, low] = [(offset >> 8) as u8, offset as u8];
    out.push((length.min(LONG) as u8) << 5 | high);
    if let Some(mut rest) = length.checked_sub(LONG) {
        while rest >= 255 {
            out.push(255);
            rest -= 255;
        }
        out.push(rest as u8);
    }
    out.push(low);
}

/// How many pixels from `at` on repeat those from `from` on.
fn same(pixels: &[u32], from: usize, at: usize) -> usize {
    let (earlier, here) = (pixels.get(from..).unwrap_or_default(), pixels.get(at..).unwrap_or_default());
    earlier.iter().zip(here).take_while(|(earlier, here)| earlier == here).count()
}

/// Compresses pixels, of which the highest byte is 0; `width` is where the one above is likely the same.
fn compress(pixels: &[u32], width: usize, out: &mut Vec<u8>) {
    let mut table = vec![usize::MAX; TABLE];
    let hash = |at: usize| {
        let pair = pixels.get(at..at + 2)?;
        let mixed = pair[0].wrapping_mul(0x9e37_79b1) ^ pair[1].wrapping_mul(0x85eb_ca77);
        Some((mixed >> 19) as usize)
    };
    let (mut at, mut first_new) = (0, 0);
    while at < pixels.len() {
        let seen = hash(at).and_then(|slot| table.get_mut(slot)).map_or(usize::MAX, |slot| std::mem::replace(slot, at));
        let candidates = [at.wrapping_sub(1), at.wrapping_sub(width), seen];
        let runs = candidates.into_iter().filter(|from| *from < at && at - from <= DISTANCE);
        let best = runs.map(|from| (same(pixels, from, at), at - from)).max_by_key(|(length, _)| *length);
        match best.filter(|(length, _)| *length >= LEAST) {
            Some((length, distance)) => {
                put_literals(&pixels[first_new..at], out);
                put_run(length, distance, out);
                at += length;
                first_new = at;
            }
            None => at += 1,
        }
    }
    put_literals(&pixels[first_new..], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format, read back.
    fn expand(mut bytes: &[u8]) -> Vec<u32> {
        let mut pixels: Vec<u32> = Vec::new();
        while let Some((control, rest)) = bytes.split_first() {
            bytes = rest;
            let mut next = || {
                let byte = bytes[0];
                bytes = &bytes[1..];
                usize::from(byte)
            };
            if usize::from(*control) < LITERALS {
                for _ in 0..=*control {
                    pixels.push((next() | next() << 8 | next() << 16) as u32);
                }
                continue;
            }
            let mut length = usize::from(control >> 5);
            if length == LONG {
                loop {
                    let more = next();
                    length += more;
                    if more != 255 {
                        break;
                    }
                }
            }
            let distance = (usize::from(control & 31) << 8 | next()) + 1;
            for _ in 0..length {
                pixels.push(pixels[pixels.len() - distance]);
            }
        }
        pixels
    }

    #[test]
    fn compressed_pixels_come_out_as_they_went_in() {
        let mut seed = 1_u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        let noise: Vec<u32> = (0..3000).map(|_| random()).collect();
        let few: Vec<u32> = (0..20_000).map(|_| random() % 3 * 0x11_1111).collect();
        let rows: Vec<u32> = (0..9000).map(|at| at % 100 * at / 3000).collect();
        for (pixels, width) in [(noise, 50), (few, 200), (rows, 100), (vec![7; 70_000], 700), (vec![1], 1), (vec![], 1)]
        {
            let mut out = Vec::new();
            compress(&pixels, width, &mut out);
            assert_eq!(expand(&out), pixels);
        }
    }

    #[test]
    fn one_colour_takes_few_bytes_and_noise_stays_as_it_is() {
        let area = Rectangle { x: 1, y: 2, width: 30, height: 20 };
        let mut picture = Surface::new(32, 32);
        let body = draw_copy(&picture, area, Compression::Lz, 5).0;
        assert_eq!((body[65], body.len() < 200), (LZ_RGB, true));
        for y in 0..32 {
            for (x, pixel) in (0..).zip(picture.row_mut(y)) {
                *pixel = (y * 32 + x).wrapping_mul(0x9e37_79b1) >> 8;
            }
        }
        let body = draw_copy(&picture, area, Compression::Off, 5).0;
        assert_eq!((body[65], body.len()), (BITMAP, 57 + 18 + 18 + 30 * 20 * 4));
        assert_eq!(body[57 + 36..57 + 39], picture.row(2)[1].to_le_bytes()[..3]);
    }

    #[test]
    fn strips_cover_an_area_without_overlap() {
        let area = Rectangle { x: 3, y: 5, width: 10_000, height: 2000 };
        let cut = strips(&[area]);
        assert_eq!(cut.len(), 5);
        assert_eq!(cut.iter().map(|strip| strip.height).sum::<u32>(), 2000);
        assert_eq!(cut[1], Rectangle { x: 3, y: 424, width: 10_000, height: 419 });
        assert_eq!(strips(&[Rectangle { x: 0, y: 0, width: 0, height: 0 }]), []);
    }
}
