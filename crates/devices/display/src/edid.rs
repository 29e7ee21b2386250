//! The monitor's description (VESA Enhanced EDID, release A revision 2): the block that QEMU 7.2's monitor has, with its
//! CEA extension, and DisplayID for modes that a detailed timing can't say.

/// Bytes of a description: base block, CEA extension, DisplayID extension.
pub const EDID_SIZE: usize = 384;
/// Where the first descriptor is.
const DESCRIPTORS: usize = 54;
const DESCRIPTOR: usize = 18;
const BLOCK: usize = 128;
const CEA: usize = BLOCK;
const DISPLAY_ID: usize = 2 * BLOCK;

/// What the monitor says of itself. Zero is the default: 1280 × 800 at 75 Hz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdidOptions {
    /// Preferred columns.
    pub xres: u32,
    /// Preferred rows.
    pub yres: u32,
    /// The most columns of other modes.
    pub xmax: u32,
    /// The most rows of other modes.
    pub ymax: u32,
    /// In mHz.
    pub refresh_rate: u32,
}

/// Where a mode is listed.
enum Listing {
    /// A bit of the established timings: byte and bit.
    Established(usize, u8),
    /// A standard timing; or, when those are used up, a bit of the additional ones: byte in the descriptor and bit.
    Additional(usize, u8),
    /// A standard timing only.
    Standard,
}

use Listing::{Additional, Established, Standard};

/// Columns, rows, listing, and the CEA video code (0 for none).
const MODES: &[(u32, u32, Listing, u8)] = &[
    (5120, 2160, Standard, 125),
    (4096, 2160, Standard, 101),
    (3840, 2160, Standard, 96),
    (2560, 1080, Standard, 89),
    (2048, 1152, Standard, 0),
    (1920, 1080, Standard, 31),
    (3840, 2160, Standard, 97),
    (1920, 1200, Additional(10, 0), 0),
    (1600, 1200, Additional(9, 2), 0),
    (1680, 1050, Additional(9, 5), 0),
    (1440, 900, Additional(8, 5), 0),
    (1280, 1024, Additional(7, 1), 0),
    (1280, 960, Additional(7, 3), 0),
    (1280, 768, Additional(7, 6), 0),
    (1920, 1440, Additional(11, 5), 0),
    (1856, 1392, Additional(10, 3), 0),
    (1792, 1344, Additional(10, 5), 0),
    (1440, 1050, Additional(8, 1), 0),
    (1360, 768, Additional(8, 7), 0),
    (1024, 768, Established(36, 3), 0),
    (800, 600, Established(35, 0), 0),
    (640, 480, Established(35, 5), 0),
];

/// Timings of a mode, in pixels and lines; nobody measures them.
struct Timings {
    x: [u32; 4],
    y: [u32; 4],
    /// In 10 kHz.
    clock: u64,
}

impl Timings {
    /// Visible, front porch, sync and blank of each axis.
    fn of(refresh_rate: u32, x: u32, y: u32) -> Self {
        let columns = [x, x * 25 / 100, x * 3 / 100, x * 35 / 100];
        let lines = [y, y * 5 / 1000, y * 5 / 1000, y * 35 / 1000];
        let total = u64::from(x + columns[3]) * u64::from(y + lines[3]);
        Self { x: columns, y: lines, clock: u64::from(refresh_rate).saturating_mul(total) / 10_000_000 }
    }
}

struct Builder {
    bytes: [u8; EDID_SIZE],
    /// Where the next descriptor goes.
    next: Option<usize>,
}

/// The description.
pub fn generate(options: &EdidOptions) -> [u8; EDID_SIZE] {
    let or = |value: u32, default: u32| if value == 0 { default } else { value.min(16384) };
    let (x, y) = (or(options.xres, 1280), or(options.yres, 800));
    let rate = if options.refresh_rate == 0 { 75_000 } else { options.refresh_rate };
    let timings = Timings::of(rate, x, y);
    // 100 dots an inch.
    let (width, height) = (x * 254 / 10 / 100, y * 254 / 10 / 100);
    let is_large = x >= 4096 || y >= 4096 || timings.clock >= 65536;

    let mut edid = Builder { bytes: [0; EDID_SIZE], next: Some(DESCRIPTORS) };
    edid.bytes[CEA..CEA + 5].copy_from_slice(&[0x02, 0x03, 0x05, 0x00, 0x40]);
    edid.bytes[126] = if is_large { 2 } else { 1 };
    edid.header(width, height);
    if !is_large {
        edid.timing(&timings, width, height);
    }
    let additional = edid.descriptor(0xf7);
    edid.modes(additional, (options.xmax, options.ymax));
    if let Some(at) = edid.descriptor(0xfd) {
        // 50–125 Hz, 30–160 kHz, 2550 MHz, no more timing information.
        let limits = [50, 125, 30, 160, 255, 1, b'\n', b' ', b' ', b' ', b' ', b' ', b' '];
        edid.bytes[at + 5..at + 18].copy_from_slice(&limits);
    }
    if let Some(at) = edid.descriptor(0xfc) {
        edid.bytes[at + 5..at + 18].copy_from_slice(b"QEMU Monitor\n");
    }
    while edid.descriptor(0x10).is_some() {}
    if is_large {
        edid.display_id(&timings);
    }
    for start in [0, CEA, DISPLAY_ID] {
        edid.checksum(start, BLOCK - 1);
    }
    edid.bytes
}

impl Builder {
    fn header(&mut self, width: u32, height: u32) {
        let bytes = &mut self.bytes;
        bytes[1..7].fill(0xff);
        // The vendor RHT as three letters of five bits; product 0x1234, no serial number; week 42 of 2014; EDID 1.4;
        // DisplayPort with 8 bits a colour.
        bytes[8..21].copy_from_slice(&[0x49, 0x14, 0x34, 0x12, 0, 0, 0, 0, 42, 24, 1, 4, 0xa5]);
        bytes[21] = (width / 10) as u8;
        bytes[22] = (height / 10) as u8;
        // Gamma 2.2; sRGB is the default, and the first timing is the preferred one.
        bytes[23] = 120;
        bytes[24] = 0x06;
        // The primaries and the white of sRGB, in 1/1024: red, green, blue, white.
        let points: [(u32, u32); 4] = [(655, 338), (307, 614), (154, 61), (320, 337)];
        let low = |(x, y): (u32, u32)| ((x & 3) << 2 | (y & 3)) as u8;
        bytes[25] = low(points[0]) << 4 | low(points[1]);
        bytes[26] = low(points[2]) << 4 | low(points[3]);
        for (index, (x, y)) in points.into_iter().enumerate() {
            bytes[27 + 2 * index] = (x >> 2) as u8;
            bytes[28 + 2 * index] = (y >> 2) as u8;
        }
    }

    /// Takes the next descriptor for `kind`.
    fn descriptor(&mut self, kind: u8) -> Option<usize> {
        let at = self.take()?;
        self.bytes[at + 3] = kind;
        if kind == 0xf7 {
            self.bytes[at + 5] = 10;
        }
        Some(at)
    }

    /// Descriptors fill the base block, then what the CEA extension has behind its data.
    fn take(&mut self) -> Option<usize> {
        let at = self.next?;
        self.next = if at + 2 * DESCRIPTOR < BLOCK - 1 {
            Some(at + DESCRIPTOR)
        } else if at < BLOCK - 1 {
            // Fixed when the base block is full: the video codes are listed by then.
            Some(CEA + usize::from(self.bytes[CEA + 2]))
        } else {
            Some(at + DESCRIPTOR).filter(|_| at + 2 * DESCRIPTOR < CEA + BLOCK - 1)
        };
        Some(at)
    }

    /// The descriptor of a detailed timing.
    fn timing(&mut self, timings: &Timings, width: u32, height: u32) {
        let Some(at) = self.take() else { return };
        let ([x, x_front, x_sync, x_blank], [y, y_front, y_sync, y_blank]) = (timings.x, timings.y);
        let high = |first: u32, second: u32| ((first & 0xf00) >> 4 | (second & 0xf00) >> 8) as u8;
        let [clock_low, clock_high] = (timings.clock as u16).to_le_bytes();
        let sync = (x_front & 0x300) >> 2 | (x_sync & 0x300) >> 4 | (y_front & 0x30) >> 2 | (y_sync & 0x30) >> 4;
        let descriptor = [
            clock_low,
            clock_high,
            x as u8,
            x_blank as u8,
            high(x, x_blank),
            y as u8,
            y_blank as u8,
            high(y, y_blank),
            x_front as u8,
            x_sync as u8,
            ((y_front & 15) << 4 | (y_sync & 15)) as u8,
            sync as u8,
            width as u8,
            height as u8,
            high(width, height),
            0,
            0,
            0x18,
        ];
        self.bytes[at..at + DESCRIPTOR].copy_from_slice(&descriptor);
    }

    fn modes(&mut self, additional: Option<usize>, (x_max, y_max): (u32, u32)) {
        let mut standard = (38..DESCRIPTORS).step_by(2);
        let mut next = standard.next();
        for (x, y, listing, video_code) in MODES {
            if (x_max != 0 && *x > x_max) || (y_max != 0 && *y > y_max) {
                continue;
            }
            match (listing, next) {
                (Established(byte, bit), _) => self.bytes[*byte] |= 1 << bit,
                (_, Some(at)) => {
                    if let Some(timing) = standard_timing(*x, *y) {
                        self.bytes[at..at + 2].copy_from_slice(&timing);
                        next = standard.next();
                    }
                }
                (Additional(byte, bit), None) => {
                    if let Some(at) = additional {
                        self.bytes[at + byte] |= 1 << bit;
                    }
                }
                (Standard, None) => {}
            }
            if *video_code != 0 {
                let end = usize::from(self.bytes[CEA + 2]);
                self.bytes[CEA + end] = *video_code;
                self.bytes[CEA + 2] += 1;
                self.bytes[CEA + 4] += 1;
            }
        }
        for at in next.into_iter().chain(standard) {
            self.bytes[at..at + 2].fill(1);
        }
    }

    fn display_id(&mut self, timings: &Timings) {
        let ([x, x_front, x_sync, x_blank], [y, y_front, y_sync, y_blank]) = (timings.x, timings.y);
        let bytes = &mut self.bytes[DISPLAY_ID..];
        // Version 1.3, 23 bytes, a display of its own; one block of detailed timings of 20 bytes.
        bytes[..8].copy_from_slice(&[0x70, 0x13, 23, 3, 0, 3, 0, 0x14]);
        bytes[8..11].copy_from_slice(&timings.clock.to_le_bytes()[..3]);
        bytes[11] = 0x88;
        let numbers = [x, x_blank, x_front, x_sync, y, y_blank, y_front, y_sync];
        for (index, number) in numbers.into_iter().enumerate() {
            let field = (number.wrapping_sub(1) as u16).to_le_bytes();
            bytes[12 + 2 * index..14 + 2 * index].copy_from_slice(&field);
        }
        self.checksum(DISPLAY_ID + 1, 27);
    }

    /// Makes the sum of `len` bytes at `start` and the one behind them zero.
    fn checksum(&mut self, start: usize, len: usize) {
        let sum = self.bytes[start..start + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 {
            self.bytes[start + len] = sum.wrapping_neg();
        }
    }
}

/// A standard timing at 60 Hz; `None` for shapes that it can't say.
fn standard_timing(x: u32, y: u32) -> Option<[u8; 2]> {
    let aspect = [(16, 10), (4, 3), (5, 4), (16, 9)].iter().position(|(wide, high)| x * high == y * wide)?;
    let columns = (x / 8).checked_sub(31).filter(|columns| *columns <= 255)?;
    Some([columns as u8, (aspect as u8) << 6])
}
