//! ZRLE (RFC 6143, section 7.7.6): tiles of 64 by 64 with palettes and runs, through one stream of deflate.

use display::{Rectangle, Surface};

use super::{Encoder, gather, pieces};
use crate::format::Converter;

/// The most colours of a palette with runs.
const PALETTE_MAX: usize = 127;

/// Colours of a tile in the order in which they came, and what runs there are.
struct Colours {
    list: Vec<u32>,
    /// Runs of two pixels and more, and single pixels.
    runs: usize,
    singles: usize,
}

/// Small open hashing from colour to index.
struct Index {
    slots: [(u32, u8); 512],
}

impl Index {
    fn new() -> Self {
        Self { slots: [(u32::MAX, 0); 512] }
    }

    fn slot(&self, colour: u32) -> usize {
        let mut at = (colour.wrapping_mul(0x9e37_79b1) >> 23) as usize;
        while self.slots[at].0 != u32::MAX && self.slots[at].0 != colour {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    fn get(&self, colour: u32) -> u8 {
        self.slots[self.slot(colour)].1
    }
}

fn count(pixels: &[u32], index: &mut Index) -> Colours {
    let mut colours = Colours { list: Vec::new(), runs: 0, singles: 0 };
    let mut at = 0;
    while let Some(colour) = pixels.get(at).copied() {
        let run = pixels[at..].iter().take_while(|pixel| **pixel == colour).count();
        if run == 1 {
            colours.singles += 1;
        } else {
            colours.runs += 1;
        }
        if colours.list.len() <= PALETTE_MAX {
            let slot = index.slot(colour);
            if index.slots[slot].0 == u32::MAX {
                index.slots[slot] = (colour, colours.list.len() as u8);
                colours.list.push(colour);
            }
        }
        at += run;
    }
    colours
}

/// A run's length less one, in bytes of 255 and a last one below.
fn put_run(mut length: usize, out: &mut Vec<u8>) {
    length -= 1;
    while length >= 255 {
        out.push(255);
        length -= 255;
    }
    out.push(length as u8);
}

fn tile(converter: &Converter, pixels: &[u32], width: usize, out: &mut Vec<u8>) {
    let mut index = Index::new();
    let colours = count(pixels, &mut index);
    let bytes = converter.bytes();
    let many = colours.list.len();
    let pack_bits = match many {
        0..=1 => 0,
        2 => 1,
        3..=4 => 2,
        _ => 4,
    };
    if many == 1 {
        out.push(1);
        return converter.put(&colours.list, out);
    }
    // Lengths beyond 255 take more than a byte; this is a guess.
    let raw = pixels.len() * bytes;
    let plain_runs = (colours.runs + colours.singles) * (bytes + 1);
    let palette_runs = if many <= PALETTE_MAX { many * bytes + colours.runs * 2 + colours.singles } else { usize::MAX };
    let rows = pixels.len() / width.max(1);
    let packed = if many <= 16 { many * bytes + rows * (width * pack_bits).div_ceil(8) } else { usize::MAX };
    let best = raw.min(plain_runs).min(palette_runs).min(packed);
    if best == packed {
        out.push(many as u8);
        converter.put(&colours.list, out);
        for row in pixels.chunks(width) {
            for group in row.chunks(8 / pack_bits) {
                let mut byte = 0;
                for (at, pixel) in group.iter().enumerate() {
                    byte |= index.get(*pixel) << (8 - pack_bits * (at + 1));
                }
                out.push(byte);
            }
        }
    } else if best == palette_runs {
        out.push(128 + many as u8);
        converter.put(&colours.list, out);
        for run in pixels.chunk_by(|a, b| a == b) {
            let entry = index.get(run[0]);
            if run.len() == 1 {
                out.push(entry);
            } else {
                out.push(entry | 0x80);
                put_run(run.len(), out);
            }
        }
    } else if best == plain_runs {
        out.push(128);
        for run in pixels.chunk_by(|a, b| a == b) {
            converter.put(&run[..1], out);
            put_run(run.len(), out);
        }
    } else {
        out.push(0);
        converter.put(pixels, out);
    }
}

/// Writes the length of what stands behind it.
pub fn put_length(out: &mut [u8], start: usize) {
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

impl Encoder {
    pub(super) fn zrle(&mut self, picture: &Surface, area: Rectangle, out: &mut Vec<u8>) {
        self.scratch.clear();
        for part in pieces(area, 64, 64) {
            gather(picture, part, &mut self.pixels);
            tile(&self.compact, &self.pixels, part.width as usize, &mut self.scratch);
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.zrle.compress(&self.scratch, self.style.compression, out);
        put_length(out, start);
    }
}
