//! Numbers and structures of the protocol (virtio 1.2, 5.7.6). All fields are little-endian.

/// The most heads that display information has room for.
pub const MAX_OUTPUTS: u32 = 16;
/// Cursors have that many columns and rows.
pub const CURSOR_SIDE: u32 = 64;
/// Bytes of the header of commands and answers.
pub const HEADER_LEN: usize = 24;
/// Bytes that an answer has for a monitor's description.
pub const EDID_ROOM: usize = 1024;
/// The most pieces of memory behind a resource.
pub const MAX_ENTRIES: u32 = 16384;
/// A head shows at least that many columns and rows.
pub const SCANOUT_MIN: u32 = 16;
/// The flag of a header: the driver waits for this command, by its number.
pub const FLAG_FENCE: u32 = 1;

/// Types of commands.
pub mod command {
    pub const GET_DISPLAY_INFO: u32 = 0x100;
    pub const RESOURCE_CREATE_2D: u32 = 0x101;
    pub const RESOURCE_UNREF: u32 = 0x102;
    pub const SET_SCANOUT: u32 = 0x103;
    pub const RESOURCE_FLUSH: u32 = 0x104;
    pub const TRANSFER_TO_HOST_2D: u32 = 0x105;
    pub const RESOURCE_ATTACH_BACKING: u32 = 0x106;
    pub const RESOURCE_DETACH_BACKING: u32 = 0x107;
    pub const GET_EDID: u32 = 0x10a;
    pub const UPDATE_CURSOR: u32 = 0x300;
    pub const MOVE_CURSOR: u32 = 0x301;
}

/// Types of answers that are no errors.
pub mod answer {
    pub const OK_NODATA: u32 = 0x1100;
    pub const OK_DISPLAY_INFO: u32 = 0x1101;
    pub const OK_EDID: u32 = 0x1104;
}

/// Why a command is refused; the numbers are those of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something else.
    Unspecified = 0x1200,
    /// More memory than there may be.
    OutOfMemory = 0x1201,
    /// There is no such head.
    InvalidScanoutId = 0x1202,
    /// There is no such resource, or there is one already.
    InvalidResourceId = 0x1203,
    /// A format or rectangle that cannot be.
    InvalidParameter = 0x1205,
}

/// Reads the fields of a structure one after another.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Refusal::Unspecified)?;
        self.0 = rest;
        Ok(*head)
    }

    /// 32 bits.
    pub fn word(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }

    /// 64 bits.
    pub fn long(&mut self) -> Result<u64, Refusal> {
        self.array().map(u64::from_le_bytes)
    }

    /// A rectangle.
    pub fn rectangle(&mut self) -> Result<Rectangle, Refusal> {
        Ok(Rectangle { x: self.word()?, y: self.word()?, width: self.word()?, height: self.word()? })
    }
}

/// A rectangle as a driver gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rectangle {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rectangle {
    /// Whether it lies in a picture of that size.
    pub fn is_within(self, width: u32, height: u32) -> bool {
        let fits = |start: u32, len: u32, all: u32| start.checked_add(len).is_some_and(|end| end <= all);
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }
}

/// The order of colours in the four bytes of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The protocol's number.
    pub number: u32,
    /// Which byte is red, green, blue, and alpha if it has one.
    order: [usize; 4],
    has_alpha: bool,
}

impl Format {
    /// The format with that number. Names say which colour comes first in memory.
    pub fn numbered(number: u32) -> Option<Self> {
        let (order, has_alpha) = match number {
            // B8G8R8A8, B8G8R8X8.
            1 | 2 => ([2, 1, 0, 3], number == 1),
            // A8R8G8B8, X8R8G8B8.
            3 | 4 => ([1, 2, 3, 0], number == 3),
            // R8G8B8A8, R8G8B8X8.
            67 | 134 => ([0, 1, 2, 3], number == 67),
            // X8B8G8R8, A8B8G8R8.
            68 | 121 => ([3, 2, 1, 0], number == 121),
            _ => return None,
        };
        Some(Self { number, order, has_alpha })
    }

    /// A pixel as 0xAARRGGBB.
    pub fn argb(self, bytes: [u8; 4]) -> u32 {
        let [red, green, blue, alpha] = self.order.map(|index| bytes[index]);
        let alpha = if self.has_alpha { alpha } else { 0xff };
        u32::from_be_bytes([alpha, red, green, blue])
    }
}
