//! From pictures to rectangles of the protocol (RFC 6143, section 7.7, and tight).

mod hextile;
mod scroll;
mod tight;
mod zlib;
mod zrle;

use display::{Rectangle, Surface};
use flate2::{Compress, Compression, FlushCompress, Status};

pub use scroll::{Lines, Scroll, without};

use crate::format::{Converter, PixelFormat};
use crate::message::encoding;

/// How the pixels of rectangles are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    #[default]
    Raw,
    /// Tiles of 16 by 16 with rectangles of one colour in them.
    Hextile,
    /// Raw through deflate.
    Zlib,
    /// Fills, palettes, pictures.
    Tight,
    /// Tiles of 64 by 64 with palettes and runs, through deflate.
    Zrle,
}

impl Encoding {
    /// The encoding with this number.
    pub fn numbered(number: i32) -> Option<Self> {
        Some(match number {
            encoding::RAW => Self::Raw,
            encoding::HEXTILE => Self::Hextile,
            encoding::ZLIB => Self::Zlib,
            encoding::TIGHT => Self::Tight,
            encoding::ZRLE => Self::Zrle,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Self::Raw => encoding::RAW,
            Self::Hextile => encoding::HEXTILE,
            Self::Zlib => encoding::ZLIB,
            Self::Tight => encoding::TIGHT,
            Self::Zrle => encoding::ZRLE,
        }
    }
}

/// How a client wants its rectangles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The pixels' format.
    pub format: PixelFormat,
    /// How they are written.
    pub encoding: Encoding,
    /// The effort of deflate, 0–9.
    pub compression: u8,
    /// Photographs may become JPEG pictures of this quality, 0–9.
    pub quality: Option<u8>,
}

impl Default for Style {
    fn default() -> Self {
        Self { format: PixelFormat::NATIVE, encoding: Encoding::Raw, compression: 1, quality: None }
    }
}

/// A stream of deflate that lives as long as its client.
struct Deflate {
    stream: Option<(Compress, u8)>,
}

impl Deflate {
    const fn new() -> Self {
        Self { stream: None }
    }

    /// Forgets what was compressed so far: says whether there was anything.
    fn reset(&mut self) -> bool {
        self.stream.take().is_some()
    }

    /// The effort that the stream has been begun with.
    fn level(&self) -> Option<u8> {
        self.stream.as_ref().map(|(_, level)| *level)
    }

    /// Appends `data` compressed, up to a byte's boundary.
    fn compress(&mut self, data: &[u8], level: u8, out: &mut Vec<u8>) {
        let (stream, _) =
            self.stream.get_or_insert_with(|| (Compress::new(Compression::new(u32::from(level.min(9))), true), level));
        let mut rest = data;
        loop {
            out.reserve(rest.len() / 2 + 1024);
            let before = stream.total_in();
            let status = stream.compress_vec(rest, out, FlushCompress::Sync);
            rest = rest.get((stream.total_in() - before) as usize..).unwrap_or_default();
            // Room that is left means that everything has come out.
            let is_done = rest.is_empty() && out.len() < out.capacity();
            if is_done || !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return;
            }
        }
    }
}

/// Writes rectangles for one client.
pub struct Encoder {
    style: Style,
    converter: Converter,
    compact: Converter,
    tight_pixels: Converter,
    zlib: Deflate,
    zrle: Deflate,
    tight: [Deflate; 3],
    scratch: Vec<u8>,
    pixels: Vec<u32>,
    palette: tight::Palette,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new(Style::default())
    }
}

/// The biggest area of a rectangle: a client has to hold it before it can show it.
const AREA_MAX: u32 = 1 << 20;

impl Encoder {
    /// An encoder of this style.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            converter: Converter::new(&style.format),
            compact: Converter::compact(&style.format),
            tight_pixels: Converter::tight(&style.format),
            zlib: Deflate::new(),
            zrle: Deflate::new(),
            tight: [const { Deflate::new() }; 3],
            scratch: Vec::new(),
            pixels: Vec::new(),
            palette: tight::Palette::default(),
        }
    }

    /// Goes on in another style; the streams of deflate go on, too.
    pub fn set_style(&mut self, style: Style) {
        if self.style != style {
            self.style = style;
            self.converter = Converter::new(&style.format);
            self.compact = Converter::compact(&style.format);
            self.tight_pixels = Converter::tight(&style.format);
        }
    }

    /// The style.
    pub fn style(&self) -> &Style {
        &self.style
    }

    /// Appends an area of the picture as rectangles of the protocol; returns how many. The area has to be inside.
    pub fn encode(&mut self, picture: &Surface, area: Rectangle, out: &mut Vec<u8>) -> usize {
        let (width, height) = match self.style.encoding {
            Encoding::Tight => (tight::WIDTH, tight::HEIGHT),
            _ => (area.width, (AREA_MAX / area.width.max(1)).max(64) & !63),
        };
        let mut count = 0;
        for part in pieces(area, width, height) {
            put_header(part, self.style.encoding.number(), out);
            match self.style.encoding {
                Encoding::Raw => self.raw(picture, part, out),
                Encoding::Hextile => hextile::encode(&self.converter, picture, part, out, &mut self.pixels),
                Encoding::Zlib => self.zlib(picture, part, out),
                Encoding::Tight => self.tight(picture, part, out),
                Encoding::Zrle => self.zrle(picture, part, out),
            }
            count += 1;
        }
        count
    }

    fn raw(&self, picture: &Surface, area: Rectangle, out: &mut Vec<u8>) {
        for row in rows(picture, area) {
            self.converter.put(row, out);
        }
    }
}

/// The rows of an area, as far as the picture has them.
fn rows(picture: &Surface, area: Rectangle) -> impl Iterator<Item = &[u32]> {
    let columns = area.x as usize..(area.x + area.width) as usize;
    (area.y..area.y + area.height).map(move |y| picture.row(y).get(columns.clone()).unwrap_or_default())
}

/// Cuts an area into pieces of at most this size.
fn pieces(area: Rectangle, width: u32, height: u32) -> impl Iterator<Item = Rectangle> {
    let (right, bottom) = (area.x + area.width, area.y + area.height);
    let (width, height) = (width.max(1), height.max(1));
    (area.y..bottom).step_by(height as usize).flat_map(move |y| {
        (area.x..right).step_by(width as usize).map(move |x| Rectangle {
            x,
            y,
            width: width.min(right - x),
            height: height.min(bottom - y),
        })
    })
}

/// Appends the header of a rectangle. Sides are at most 16384.
pub fn put_header(area: Rectangle, encoding: i32, out: &mut Vec<u8>) {
    for side in [area.x, area.y, area.width, area.height] {
        out.extend_from_slice(&(side as u16).to_be_bytes());
    }
    out.extend_from_slice(&encoding.to_be_bytes());
}

/// Collects the pixels of an area.
fn gather(picture: &Surface, area: Rectangle, pixels: &mut Vec<u32>) {
    pixels.clear();
    for row in rows(picture, area) {
        pixels.extend_from_slice(row);
    }
}
