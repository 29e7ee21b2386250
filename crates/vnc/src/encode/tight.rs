//! Tight (rfbproto, "Tight Encoding"): fills, palettes and copies through three streams of deflate, photographs as JPEG.
//! The gradient filter is left out.

use display::{Rectangle, Surface};
use jpeg_encoder::{ColorType, Encoder as Jpeg, SamplingFactor};

use super::{Encoder, gather, rows};

/// The largest piece.
pub const WIDTH: u32 = 256;
/// The largest piece.
pub const HEIGHT: u32 = 128;

/// Less than this is not compressed.
const COMPRESS_LEAST: usize = 12;
const COPY_STREAM: u8 = 0;
const MONO_STREAM: u8 = 1;
const PALETTE_STREAM: u8 = 2;
const EXPLICIT_FILTER: u8 = 0x40;
const FILL: u8 = 0x80;
const JPEG: u8 = 0x90;
const PALETTE_FILTER: u8 = 1;
/// JPEG's quality for each of the client's levels.
const QUALITIES: [u8; 10] = [15, 29, 41, 42, 62, 77, 79, 86, 92, 100];
/// Pictures below this area are no photographs.
const JPEG_AREA_LEAST: usize = 64 * 16;

/// The colours of a piece, up to 256.
pub struct Palette {
    colours: Vec<u32>,
    slots: Vec<(u32, u16)>,
}

impl Default for Palette {
    fn default() -> Self {
        Self { colours: Vec::new(), slots: vec![(0, u16::MAX); 1024] }
    }
}

impl Palette {
    fn slot(&self, colour: u32) -> usize {
        let mut at = (colour.wrapping_mul(0x9e37_79b1) >> 22) as usize;
        while self.slots[at].1 != u16::MAX && self.slots[at].0 != colour {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    /// Collects the colours; `false` if there are more than `most`.
    fn collect(&mut self, pixels: &[u32], most: usize) -> bool {
        self.colours.clear();
        self.slots.fill((0, u16::MAX));
        let mut last = None;
        for pixel in pixels {
            if last == Some(*pixel) {
                continue;
            }
            last = Some(*pixel);
            let slot = self.slot(*pixel);
            if self.slots[slot].1 == u16::MAX {
                if self.colours.len() == most {
                    return false;
                }
                self.slots[slot] = (*pixel, self.colours.len() as u16);
                self.colours.push(*pixel);
            }
        }
        true
    }

    fn index(&self, colour: u32) -> u8 {
        self.slots[self.slot(colour)].1 as u8
    }
}

impl Encoder {
    pub(super) fn tight(&mut self, picture: &Surface, area: Rectangle, out: &mut Vec<u8>) {
        let mut pixels = std::mem::take(&mut self.pixels);
        gather(picture, area, &mut pixels);
        let mut palette = std::mem::take(&mut self.palette);
        // An index is a byte: with pixels of a byte only two colours gain anything.
        let most = if self.style.format.bits == 8 { 2 } else { (pixels.len() / 4).clamp(2, 256) };
        let has_palette = palette.collect(&pixels, most);
        let width = area.width as usize;
        match palette.colours.len() {
            1 if has_palette => {
                out.push(FILL);
                self.tight_pixels.put(&palette.colours, out);
            }
            2 if has_palette => self.mono(&pixels, width, &palette, out),
            _ if has_palette => self.indexed(&pixels, &palette, out),
            _ => {
                let is_photograph = pixels.len() >= JPEG_AREA_LEAST && self.style.format.bits > 8;
                let quality = self.style.quality.filter(|_| is_photograph);
                if !quality.is_some_and(|quality| jpeg(picture, area, quality, out)) {
                    self.copy(&pixels, out);
                }
            }
        }
        self.pixels = pixels;
        self.palette = palette;
    }

    fn mono(&mut self, pixels: &[u32], width: usize, palette: &Palette, out: &mut Vec<u8>) {
        let control = self.control(MONO_STREAM);
        out.extend_from_slice(&[control | EXPLICIT_FILTER, PALETTE_FILTER, 1]);
        self.tight_pixels.put(&palette.colours, out);
        let second = palette.colours[1];
        self.scratch.clear();
        for row in pixels.chunks(width.max(1)) {
            for group in row.chunks(8) {
                let bits = group.iter().enumerate().fold(0, |bits, (at, p)| bits | u8::from(*p == second) << (7 - at));
                self.scratch.push(bits);
            }
        }
        self.compressed(MONO_STREAM, out);
    }

    fn indexed(&mut self, pixels: &[u32], palette: &Palette, out: &mut Vec<u8>) {
        let control = self.control(PALETTE_STREAM);
        out.extend_from_slice(&[control | EXPLICIT_FILTER, PALETTE_FILTER, (palette.colours.len() - 1) as u8]);
        self.tight_pixels.put(&palette.colours, out);
        self.scratch.clear();
        let mut last = (palette.colours[0], 0);
        self.scratch.extend(pixels.iter().map(|pixel| {
            if last.0 != *pixel {
                last = (*pixel, palette.index(*pixel));
            }
            last.1
        }));
        self.compressed(PALETTE_STREAM, out);
    }

    fn copy(&mut self, pixels: &[u32], out: &mut Vec<u8>) {
        out.push(self.control(COPY_STREAM));
        self.scratch.clear();
        self.tight_pixels.put(pixels, &mut self.scratch);
        self.compressed(COPY_STREAM, out);
    }

    /// The control byte of a stream; one with another effort than before begins anew.
    fn control(&mut self, stream: u8) -> u8 {
        let deflate = &mut self.tight[usize::from(stream)];
        let is_other = deflate.level().is_some_and(|level| level != self.style.compression);
        let is_reset = is_other && deflate.reset();
        stream << 4 | u8::from(is_reset) << stream
    }

    fn compressed(&mut self, stream: u8, out: &mut Vec<u8>) {
        if self.scratch.len() < COMPRESS_LEAST {
            out.extend_from_slice(&self.scratch);
            return;
        }
        let mut packed = Vec::new();
        self.tight[usize::from(stream)].compress(&self.scratch, self.style.compression, &mut packed);
        put_compact(packed.len(), out);
        out.extend_from_slice(&packed);
    }
}

/// A length in one to three bytes of seven bits.
fn put_compact(length: usize, out: &mut Vec<u8>) {
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x4000 => out.extend_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]),
        _ => out.extend_from_slice(&[length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8]),
    }
}

/// Appends an area as a JPEG picture; says whether it is one.
fn jpeg(picture: &Surface, area: Rectangle, quality: u8, out: &mut Vec<u8>) -> bool {
    let mut rgb = Vec::with_capacity(3 * (area.width * area.height) as usize);
    for row in rows(picture, area) {
        rgb.extend(row.iter().flat_map(|pixel| {
            let [blue, green, red, _] = pixel.to_le_bytes();
            [red, green, blue]
        }));
    }
    let mut file = Vec::new();
    let mut encoder = Jpeg::new(&mut file, QUALITIES[usize::from(quality.min(9))]);
    encoder.set_sampling_factor(if quality < 7 { SamplingFactor::R_4_2_0 } else { SamplingFactor::R_4_4_4 });
    let is_made = encoder.encode(&rgb, area.width as u16, area.height as u16, ColorType::Rgb).is_ok();
    if is_made {
        out.push(JPEG);
        put_compact(file.len(), out);
        out.extend_from_slice(&file);
    }
    is_made
}
