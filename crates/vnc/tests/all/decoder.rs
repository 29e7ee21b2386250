//! The client's side of the encodings, written from the specification alone.

use flate2::{Decompress, FlushDecompress};
use vnc::format::PixelFormat;

/// Something to read from.
pub trait Source {
    /// So many bytes.
    fn fetch(&mut self, count: usize) -> Vec<u8>;

    fn u8(&mut self) -> u8 {
        self.fetch(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.fetch(2).try_into().expect("two"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.fetch(4).try_into().expect("four"))
    }
}

impl Source for &[u8] {
    fn fetch(&mut self, count: usize) -> Vec<u8> {
        let (now, later) = self.split_at(count);
        *self = later;
        now.to_vec()
    }
}

/// What a rectangle was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rectangle {
    /// Pixels, with encoding.
    Pixels(i32),
    /// A new size.
    Size(u16, u16),
    /// A new size with reason and status.
    ExtendedSize { size: (u16, u16), reason: u16, status: u16 },
    /// Something else, with its body.
    Other(i32, [u16; 4], Vec<u8>),
}

/// A client's picture and its streams. Pixels are values of its format.
pub struct Decoder {
    pub format: PixelFormat,
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u32>,
    pub jpegs: usize,
    zlib: Decompress,
    zrle: Decompress,
    tight: [Decompress; 4],
}

fn inflate(stream: &mut Decompress, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    loop {
        out.reserve(64 << 10);
        let before = stream.total_in();
        stream.decompress_vec(rest, &mut out, FlushDecompress::Sync).expect("deflate");
        rest = &rest[(stream.total_in() - before) as usize..];
        if rest.is_empty() && out.len() < out.capacity() {
            return out;
        }
    }
}

impl Decoder {
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Self {
        Self {
            format,
            width,
            height,
            pixels: vec![0; width * height],
            jpegs: 0,
            zlib: Decompress::new(true),
            zrle: Decompress::new(true),
            tight: std::array::from_fn(|_| Decompress::new(true)),
        }
    }

    /// A pixel of the format; only the bits of colours count.
    fn pixel(&self, bytes: &[u8]) -> u32 {
        let fold = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        let value =
            if self.format.is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) };
        let mask = (0..3).fold(0, |mask, at| mask | u32::from(self.format.max[at]) << self.format.shift[at]);
        value & mask
    }

    fn read_pixel(&self, from: &mut dyn Source) -> u32 {
        self.pixel(&from.fetch(self.format.bytes()))
    }

    fn is_compact(&self) -> Option<bool> {
        let mask = (0..3).fold(0_u32, |mask, at| mask | u32::from(self.format.max[at]) << self.format.shift[at]);
        if self.format.bits != 32 || self.format.depth > 24 {
            return None;
        }
        if mask & 0xff00_0000 == 0 { Some(true) } else { (mask & 0xff == 0).then_some(false) }
    }

    fn cpixel(&self, from: &mut dyn Source) -> u32 {
        let Some(is_low) = self.is_compact() else { return self.read_pixel(from) };
        let bytes = from.fetch(3);
        // The missing byte is the highest or the lowest.
        let is_first = is_low == self.format.is_big_endian;
        let whole = if is_first { [0, bytes[0], bytes[1], bytes[2]] } else { [bytes[0], bytes[1], bytes[2], 0] };
        self.pixel(&whole)
    }

    fn tpixel(&self, from: &mut dyn Source) -> u32 {
        if !(self.format.bits == 32 && self.format.depth == 24 && self.format.max == [255; 3]) {
            return self.read_pixel(from);
        }
        let colours = from.fetch(3);
        (0..3).fold(0, |value, at| value | u32::from(colours[at]) << self.format.shift[at])
    }

    fn set(&mut self, x: usize, y: usize, value: u32) {
        assert!(x < self.width && y < self.height, "({x}, {y}) is outside");
        self.pixels[y * self.width + x] = value;
    }

    fn fill(&mut self, [x, y, width, height]: [usize; 4], value: u32) {
        for y in y..y + height {
            for x in x..x + width {
                self.set(x, y, value);
            }
        }
    }

    /// Reads a rectangle with its header.
    pub fn rectangle(&mut self, from: &mut dyn Source) -> Rectangle {
        let area: [u16; 4] = std::array::from_fn(|_| from.u16());
        let encoding = from.u32().cast_signed();
        let [x, y, width, height] = area.map(usize::from);
        match encoding {
            0 => {
                for y in y..y + height {
                    for x in x..x + width {
                        let value = self.read_pixel(from);
                        self.set(x, y, value);
                    }
                }
            }
            1 => {
                let (from_x, from_y) = (usize::from(from.u16()), usize::from(from.u16()));
                let copy = self.pixels.clone();
                for row in 0..height {
                    for column in 0..width {
                        self.set(x + column, y + row, copy[(from_y + row) * self.width + from_x + column]);
                    }
                }
            }
            5 => self.hextile(from, [x, y, width, height]),
            6 => {
                let length = from.u32() as usize;
                let data = inflate(&mut self.zlib, &from.fetch(length));
                assert_eq!(data.len(), width * height * self.format.bytes());
                let mut data = &data[..];
                for y in y..y + height {
                    for x in x..x + width {
                        let value = self.read_pixel(&mut data);
                        self.set(x, y, value);
                    }
                }
            }
            7 => self.tight(from, [x, y, width, height]),
            16 => {
                let length = from.u32() as usize;
                let data = inflate(&mut self.zrle, &from.fetch(length));
                self.zrle_tiles(&data, [x, y, width, height]);
            }
            -223 => {
                (self.width, self.height) = (width, height);
                self.pixels = vec![0; width * height];
                return Rectangle::Size(area[2], area[3]);
            }
            -308 => {
                let screens = usize::from(from.u8());
                from.fetch(3 + 16 * screens);
                if area[1] == 0 && (self.width, self.height) != (width, height) {
                    (self.width, self.height) = (width, height);
                    self.pixels = vec![0; width * height];
                }
                return Rectangle::ExtendedSize { size: (area[2], area[3]), reason: area[0], status: area[1] };
            }
            -239 => {
                let count = width * height * self.format.bytes() + width.div_ceil(8) * height;
                return Rectangle::Other(encoding, area, from.fetch(count));
            }
            -314 => {
                let count = 4 + width * height * 4;
                return Rectangle::Other(encoding, area, from.fetch(count));
            }
            -261 => return Rectangle::Other(encoding, area, from.fetch(1)),
            -257 | -258 | -316 => return Rectangle::Other(encoding, area, Vec::new()),
            other => panic!("encoding {other} was not asked for"),
        }
        Rectangle::Pixels(encoding)
    }

    fn hextile(&mut self, from: &mut dyn Source, [x0, y0, width, height]: [usize; 4]) {
        let (mut background, mut foreground) = (0, 0);
        for y in (y0..y0 + height).step_by(16) {
            for x in (x0..x0 + width).step_by(16) {
                let (width, height) = (16.min(x0 + width - x), 16.min(y0 + height - y));
                let flags = from.u8();
                if flags & 1 != 0 {
                    for y in y..y + height {
                        for x in x..x + width {
                            let value = self.read_pixel(from);
                            self.set(x, y, value);
                        }
                    }
                    continue;
                }
                if flags & 2 != 0 {
                    background = self.read_pixel(from);
                }
                if flags & 4 != 0 {
                    foreground = self.read_pixel(from);
                }
                self.fill([x, y, width, height], background);
                let count = if flags & 8 != 0 { from.u8() } else { 0 };
                for _ in 0..count {
                    let colour = if flags & 16 != 0 { self.read_pixel(from) } else { foreground };
                    let (place, size) = (from.u8(), from.u8());
                    let high = |byte: u8| usize::from(byte >> 4);
                    let low = |byte: u8| usize::from(byte & 15);
                    self.fill([x + high(place), y + low(place), high(size) + 1, low(size) + 1], colour);
                }
            }
        }
    }

    fn zrle_tiles(&mut self, data: &[u8], [x0, y0, width, height]: [usize; 4]) {
        let mut from = data;
        for y in (y0..y0 + height).step_by(64) {
            for x in (x0..x0 + width).step_by(64) {
                let (width, height) = (64.min(x0 + width - x), 64.min(y0 + height - y));
                let kind = from.u8();
                let many = usize::from(kind & 0x7f);
                let palette: Vec<u32> = (0..many).map(|_| self.cpixel(&mut from)).collect();
                let mut values = Vec::new();
                let length = |from: &mut &[u8]| {
                    let mut length = 1;
                    loop {
                        let byte = from.u8();
                        length += usize::from(byte);
                        if byte != 255 {
                            return length;
                        }
                    }
                };
                match kind {
                    0 => values.extend((0..width * height).map(|_| self.cpixel(&mut from))),
                    1 => values.resize(width * height, palette[0]),
                    2..=16 => {
                        let bits = if many == 2 {
                            1
                        } else if many <= 4 {
                            2
                        } else {
                            4
                        };
                        for _ in 0..height {
                            let row = from.fetch((width * bits).div_ceil(8));
                            for at in 0..width {
                                let byte = row[at * bits / 8];
                                let index = byte >> (8 - bits - at * bits % 8) & ((1 << bits) - 1);
                                values.push(palette[usize::from(index)]);
                            }
                        }
                    }
                    128 => {
                        while values.len() < width * height {
                            let value = self.cpixel(&mut from);
                            let length = length(&mut from);
                            values.resize(values.len() + length, value);
                        }
                    }
                    130..=255 => {
                        while values.len() < width * height {
                            let index = from.u8();
                            let length = if index & 0x80 != 0 { length(&mut from) } else { 1 };
                            values.resize(values.len() + length, palette[usize::from(index & 0x7f)]);
                        }
                    }
                    other => panic!("a tile of kind {other}"),
                }
                assert_eq!(values.len(), width * height);
                for (at, value) in values.into_iter().enumerate() {
                    self.set(x + at % width, y + at / width, value);
                }
            }
        }
        assert!(from.is_empty(), "{} bytes are left", from.len());
    }

    fn compact_length(from: &mut dyn Source) -> usize {
        let mut length = 0;
        for shift in [0, 7, 14] {
            let byte = from.u8();
            length |= usize::from(if shift == 14 { byte } else { byte & 0x7f }) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        length
    }

    fn tight(&mut self, from: &mut dyn Source, [x, y, width, height]: [usize; 4]) {
        let control = from.u8();
        for (bit, stream) in self.tight.iter_mut().enumerate() {
            if control >> bit & 1 != 0 {
                *stream = Decompress::new(true);
            }
        }
        match control >> 4 {
            8 => {
                let value = self.tpixel(from);
                return self.fill([x, y, width, height], value);
            }
            9 => {
                let length = Self::compact_length(from);
                let file = from.fetch(length);
                assert_eq!(file[..2], [0xff, 0xd8], "a JPEG file");
                self.jpegs += 1;
                return;
            }
            kind => assert!(kind < 8, "control {control:#x}"),
        }
        let stream = usize::from(control >> 4 & 3);
        let filter = if control & 0x40 != 0 { from.u8() } else { 0 };
        let palette: Vec<u32> = match filter {
            0 => Vec::new(),
            1 => (0..=from.u8()).map(|_| self.tpixel(from)).collect(),
            other => panic!("filter {other}"),
        };
        let pixel_bytes = if self.format.bits == 32 && self.format.depth == 24 && self.format.max == [255; 3] {
            3
        } else {
            self.format.bytes()
        };
        let row = match palette.len() {
            0 => width * pixel_bytes,
            1..=2 => width.div_ceil(8),
            _ => width,
        };
        let data = if row * height < 12 {
            from.fetch(row * height)
        } else {
            let length = Self::compact_length(from);
            inflate(&mut self.tight[stream], &from.fetch(length))
        };
        assert_eq!(data.len(), row * height);
        for (line, data) in data.chunks(row).enumerate() {
            let mut source = data;
            for column in 0..width {
                let value = match palette.len() {
                    0 => self.tpixel(&mut source),
                    1..=2 => palette[usize::from(data[column / 8] >> (7 - column % 8) & 1)],
                    _ => palette[usize::from(data[column])],
                };
                self.set(x + column, y + line, value);
            }
        }
    }
}
