//! What the encoders write is what a client reads, in each encoding and format.

use display::{Rectangle, Surface};
use vnc::encode::{Encoder, Encoding, Style};
use vnc::format::{Converter, PixelFormat};

use crate::decoder::{self, Decoder};

const FORMATS: [PixelFormat; 8] = {
    let native = PixelFormat::NATIVE;
    let of_16 = PixelFormat { bits: 16, depth: 16, max: [31, 63, 31], shift: [11, 5, 0], ..native };
    [
        native,
        PixelFormat { is_big_endian: true, ..native },
        PixelFormat { shift: [0, 8, 16], ..native },
        PixelFormat { shift: [24, 16, 8], ..native },
        PixelFormat { max: [1023; 3], shift: [20, 10, 0], depth: 30, ..native },
        of_16,
        PixelFormat { max: [31; 3], shift: [10, 5, 0], depth: 15, is_big_endian: true, ..of_16 },
        PixelFormat { bits: 8, depth: 8, max: [7, 7, 3], shift: [0, 3, 6], ..native },
    ]
};

const ENCODINGS: [Encoding; 5] = [Encoding::Raw, Encoding::Hextile, Encoding::Zlib, Encoding::Tight, Encoding::Zrle];

/// A small generator of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
}

/// Pictures of all kinds: one colour, text, few and many colours, photographs, lines.
fn pictures() -> Vec<Surface> {
    let mut numbers = Numbers(7);
    let mut pictures = Vec::new();
    for (width, height) in [(1, 1), (17, 33), (200, 150), (300, 140)] {
        for colours in [1, 2, 3, 4, 5, 16, 17, 100, 127, 128, 250, 0x100_0000] {
            let mut picture = Surface::new(width, height);
            for y in 0..height {
                let mut x = 0;
                while x < width {
                    let value = (numbers.next() % colours).wrapping_mul(0x0003_0507) & 0xff_ffff;
                    let run = if numbers.next().is_multiple_of(4) { numbers.next() % 400 + 1 } else { 1 };
                    let row = picture.row_mut(y);
                    for pixel in row.iter_mut().skip(x as usize).take(run as usize) {
                        *pixel = value;
                    }
                    x += run;
                }
            }
            pictures.push(picture);
        }
    }
    pictures
}

fn check(decoder: &Decoder, converter: &Converter, picture: &Surface, what: &str) {
    for y in 0..picture.height() {
        for (x, pixel) in picture.row(y).iter().enumerate() {
            let got = decoder.pixels[y as usize * decoder.width + x];
            assert_eq!(
                got,
                converter.value(*pixel),
                "{what} at ({x}, {y}) of {}x{}",
                picture.width(),
                picture.height()
            );
        }
    }
}

#[test]
fn each_encoding_in_each_format_shows_the_same_picture() {
    let pictures = pictures();
    for format in FORMATS {
        for encoding in ENCODINGS {
            // One encoder for all pictures: the streams go on.
            let mut encoder = Encoder::new(Style { format, encoding, ..Style::default() });
            let mut decoder = Decoder::new(format, 300, 150);
            let converter = Converter::new(&format);
            for (number, picture) in pictures.iter().enumerate() {
                let compression = (number % 10) as u8;
                encoder.set_style(Style { format, encoding, compression, quality: None });
                let whole = Rectangle { x: 0, y: 0, width: picture.width(), height: picture.height() };
                let mut bytes = Vec::new();
                let count = encoder.encode(picture, whole, &mut bytes);
                let mut rest = &bytes[..];
                for _ in 0..count {
                    decoder.rectangle(&mut rest);
                }
                assert!(rest.is_empty());
                check(&decoder, &converter, picture, &format!("{encoding:?}, {format:?}, picture {number}"));
            }
        }
    }
}

#[test]
fn photographs_become_jpeg_where_quality_is_given_and_only_there() {
    let mut numbers = Numbers(3);
    let mut picture = Surface::new(256, 128);
    for y in 0..128 {
        picture.row_mut(y).fill_with(|| numbers.next() & 0xff_ffff);
    }
    let whole = Rectangle { x: 0, y: 0, width: 256, height: 128 };
    for (quality, jpegs) in [(None, 0), (Some(0), 1), (Some(9), 1)] {
        let style = Style { encoding: Encoding::Tight, quality, ..Style::default() };
        let mut bytes = Vec::new();
        let count = Encoder::new(style).encode(&picture, whole, &mut bytes);
        let mut decoder = Decoder::new(PixelFormat::NATIVE, 256, 128);
        let mut rest = &bytes[..];
        for _ in 0..count {
            assert_eq!(decoder.rectangle(&mut rest), decoder::Rectangle::Pixels(7));
        }
        assert_eq!(decoder.jpegs, jpegs);
    }
}
