//! Pixel formats of clients, and the conversion from the screens' 0x00RRGGBB (RFC 6143, section 7.4).

/// How a client wants its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelFormat {
    /// 8, 16 or 32.
    pub bits: u8,
    /// Bits that matter.
    pub depth: u8,
    /// The most significant byte comes first.
    pub is_big_endian: bool,
    /// Colours are in the pixel; else it is an index into the colour map, which never changes.
    pub is_true_colour: bool,
    /// The largest values of red, green and blue.
    pub max: [u16; 3],
    /// Where red, green and blue begin in the pixel.
    pub shift: [u8; 3],
}

impl PixelFormat {
    /// What the server itself has: 32 bits, little endian, eight bits a colour.
    pub const NATIVE: Self =
        Self { bits: 32, depth: 24, is_big_endian: false, is_true_colour: true, max: [255; 3], shift: [16, 8, 0] };

    /// The format behind the colour map: three bits of red, three of green, two of blue.
    const MAPPED: Self =
        Self { bits: 8, depth: 8, is_big_endian: false, is_true_colour: false, max: [7, 7, 3], shift: [0, 3, 6] };

    /// Reads the 16 bytes of a message; `None` for formats that do not exist.
    pub fn read(bytes: [u8; 16]) -> Option<Self> {
        let [bits, depth, big, colour, r0, r1, g0, g1, b0, b1, red, green, blue, ..] = bytes;
        if !matches!(bits, 8 | 16 | 32) {
            return None;
        }
        if colour == 0 {
            return Some(Self::MAPPED);
        }
        // A colour without values would be nothing at all.
        let max = [[r0, r1], [g0, g1], [b0, b1]].map(u16::from_be_bytes).map(|max| if max == 0 { 255 } else { max });
        let shift = [red, green, blue];
        if shift.iter().any(|shift| *shift >= bits) {
            return None;
        }
        Some(Self { bits, depth, is_big_endian: big != 0, is_true_colour: true, max, shift })
    }

    /// The 16 bytes of a message.
    pub fn write(&self) -> [u8; 16] {
        let [red, green, blue] = self.max.map(u16::to_be_bytes);
        let [r, g, b] = self.shift;
        [
            self.bits,
            self.depth,
            u8::from(self.is_big_endian),
            u8::from(self.is_true_colour),
            red[0],
            red[1],
            green[0],
            green[1],
            blue[0],
            blue[1],
            r,
            g,
            b,
            0,
            0,
            0,
        ]
    }

    /// Bytes of a pixel.
    pub fn bytes(&self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Whether tight's pixels are three bytes: red, green, blue.
    pub fn is_packed_rgb(&self) -> bool {
        self.bits == 32 && self.depth == 24 && self.max == [255; 3]
    }

    /// The entries of the colour map: red, green and blue, 16 bits each.
    pub fn colour_map() -> impl Iterator<Item = [u16; 3]> {
        let Self { max, shift, .. } = Self::MAPPED;
        (0..256_u16).map(move |index| {
            let colour = |at: usize| {
                let value = index >> shift[at] & max[at];
                value << (16 - max[at].count_ones())
            };
            [colour(0), colour(1), colour(2)]
        })
    }
}

/// How a converted pixel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Byte,
    Two {
        is_big: bool,
    },
    Four {
        is_big: bool,
    },
    /// Three bytes of four, beginning with this one (ZRLE's and, as red, green, blue, tight's pixels).
    Three {
        first: u8,
        is_big: bool,
    },
}

/// Converts pixels.
#[derive(Clone)]
pub struct Converter {
    /// Red, green and blue at their places, by their eight bits.
    tables: Option<Box<[[u32; 256]; 3]>>,
    layout: Layout,
}

impl Converter {
    /// Pixels as the format says.
    pub fn new(format: &PixelFormat) -> Self {
        let is_big = format.is_big_endian;
        let layout = match format.bits {
            8 => Layout::Byte,
            16 => Layout::Two { is_big },
            _ => Layout::Four { is_big },
        };
        Self { tables: Self::tables(format), layout }
    }

    /// ZRLE's compact pixels: of 32 bits those three bytes that matter.
    pub fn compact(format: &PixelFormat) -> Self {
        let whole = Self::new(format);
        let colours =
            (0..3).fold(0_u32, |mask, at| mask | u32::from(format.max[at]).wrapping_shl(format.shift[at].into()));
        let first = match colours {
            _ if format.bits != 32 || format.depth > 24 => return whole,
            colours if colours & 0xff00_0000 == 0 => 0,
            colours if colours & 0xff == 0 => 1,
            _ => return whole,
        };
        // The first byte in memory of a big-endian pixel is its highest.
        let is_big = format.is_big_endian;
        Self { layout: Layout::Three { first: if is_big { 1 - first } else { first }, is_big }, ..whole }
    }

    /// Tight's pixels: red, green, blue where the format allows it.
    pub fn tight(format: &PixelFormat) -> Self {
        if format.is_packed_rgb() {
            return Self { tables: None, layout: Layout::Three { first: 1, is_big: true } };
        }
        Self::new(format)
    }

    fn tables(format: &PixelFormat) -> Option<Box<[[u32; 256]; 3]>> {
        if (format.bits, format.max, format.shift) == (32, [255; 3], [16, 8, 0]) {
            return None;
        }
        let mut tables = Box::new([[0; 256]; 3]);
        for ((table, max), shift) in tables.iter_mut().zip(format.max).zip(format.shift) {
            for (colour, entry) in (0_u32..).zip(table.iter_mut()) {
                // The upper bits of the colour, as QEMU has it.
                let value = (colour * (u32::from(max) + 1)) >> 8;
                *entry = value.min(u32::from(max)).wrapping_shl(shift.into());
            }
        }
        Some(tables)
    }

    /// Bytes of a converted pixel.
    pub fn bytes(&self) -> usize {
        match self.layout {
            Layout::Byte => 1,
            Layout::Two { .. } => 2,
            Layout::Three { .. } => 3,
            Layout::Four { .. } => 4,
        }
    }

    /// The pixel as a number.
    pub fn value(&self, pixel: u32) -> u32 {
        let [blue, green, red, _] = pixel.to_le_bytes();
        match &self.tables {
            None => pixel & 0xff_ffff,
            Some(tables) => {
                let [reds, greens, blues] = &**tables;
                reds[usize::from(red)] | greens[usize::from(green)] | blues[usize::from(blue)]
            }
        }
    }

    /// Appends converted pixels.
    pub fn put(&self, pixels: &[u32], out: &mut Vec<u8>) {
        out.reserve(pixels.len() * self.bytes());
        match self.layout {
            Layout::Byte => out.extend(pixels.iter().map(|pixel| self.value(*pixel) as u8)),
            Layout::Two { is_big: false } => self.each(pixels, out, |value| (value as u16).to_le_bytes()),
            Layout::Two { is_big: true } => self.each(pixels, out, |value| (value as u16).to_be_bytes()),
            Layout::Four { is_big: false } => self.each(pixels, out, u32::to_le_bytes),
            Layout::Four { is_big: true } => self.each(pixels, out, u32::to_be_bytes),
            Layout::Three { first, is_big } => {
                let bytes = move |value: u32| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
                match first {
                    0 => self.each(pixels, out, |value| three(bytes(value), 0)),
                    _ => self.each(pixels, out, |value| three(bytes(value), 1)),
                }
            }
        }
    }

    fn each<const N: usize>(&self, pixels: &[u32], out: &mut Vec<u8>, bytes: impl Fn(u32) -> [u8; N]) {
        let start = out.len();
        out.resize(start + pixels.len() * N, 0);
        let (chunks, _) = out[start..].as_chunks_mut::<N>();
        match &self.tables {
            None => {
                for (chunk, pixel) in chunks.iter_mut().zip(pixels) {
                    *chunk = bytes(*pixel & 0xff_ffff);
                }
            }
            Some(_) => {
                for (chunk, pixel) in chunks.iter_mut().zip(pixels) {
                    *chunk = bytes(self.value(*pixel));
                }
            }
        }
    }
}

fn three([a, b, c, d]: [u8; 4], first: u8) -> [u8; 3] {
    if first == 0 { [a, b, c] } else { [b, c, d] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(converter: &Converter, pixel: u32) -> Vec<u8> {
        let mut out = Vec::new();
        converter.put(&[pixel], &mut out);
        out
    }

    #[test]
    fn pixels_become_those_of_the_format() {
        let of_16 = PixelFormat {
            bits: 16,
            depth: 16,
            is_big_endian: true,
            is_true_colour: true,
            max: [31, 63, 31],
            shift: [11, 5, 0],
        };
        let bgr = PixelFormat { shift: [0, 8, 16], ..PixelFormat::NATIVE };
        let big = PixelFormat { is_big_endian: true, ..PixelFormat::NATIVE };
        let high = PixelFormat { shift: [24, 16, 8], ..PixelFormat::NATIVE };
        let pixel = 0xff12_3456;
        assert_eq!(converted(&Converter::new(&PixelFormat::NATIVE), pixel), [0x56, 0x34, 0x12, 0]);
        assert_eq!(converted(&Converter::new(&big), pixel), [0, 0x12, 0x34, 0x56]);
        assert_eq!(converted(&Converter::new(&bgr), pixel), [0x12, 0x34, 0x56, 0]);
        assert_eq!(converted(&Converter::new(&of_16), pixel), (2_u16 << 11 | 13 << 5 | 10).to_be_bytes());
        assert_eq!(converted(&Converter::new(&PixelFormat::MAPPED), 0xff_ff80), [0b1011_1111]);
        assert_eq!(converted(&Converter::compact(&PixelFormat::NATIVE), pixel), [0x56, 0x34, 0x12]);
        assert_eq!(converted(&Converter::compact(&big), pixel), [0x12, 0x34, 0x56]);
        assert_eq!(converted(&Converter::compact(&high), pixel), [0x56, 0x34, 0x12]);
        let high_and_big = PixelFormat { is_big_endian: true, ..high };
        assert_eq!(converted(&Converter::compact(&high_and_big), pixel), [0x12, 0x34, 0x56]);
        assert_eq!(converted(&Converter::tight(&bgr), pixel), [0x12, 0x34, 0x56]);
        assert_eq!(converted(&Converter::tight(&of_16), pixel).len(), 2);
    }

    #[test]
    fn formats_are_read_as_they_are_written_and_checked() {
        let format = PixelFormat { shift: [0, 8, 16], is_big_endian: true, ..PixelFormat::NATIVE };
        assert_eq!(PixelFormat::read(format.write()), Some(format));
        let mut wrong = format.write();
        wrong[0] = 24;
        assert_eq!(PixelFormat::read(wrong), None);
        wrong = format.write();
        wrong[10] = 32;
        assert_eq!(PixelFormat::read(wrong), None);
        wrong = format.write();
        wrong[3] = 0;
        assert_eq!(PixelFormat::read(wrong), Some(PixelFormat::MAPPED));
        let map: Vec<_> = PixelFormat::colour_map().collect();
        assert_eq!((map.len(), map[0], map[255]), (256, [0; 3], [0xe000, 0xe000, 0xc000]));
    }
}
