//! Floppy drives, and the formats of their media. An image's size tells its format; the list is QEMU's.

/// The type of a drive, as CMOS byte 0x10 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveType {
    /// 5¼ inches, 1.2 MB.
    D120,
    /// 3½ inches, 1.44 MB.
    D144,
    /// 3½ inches, 2.88 MB.
    D288,
}

impl DriveType {
    /// The number in CMOS.
    pub fn cmos(self) -> u8 {
        match self {
            Self::D120 => 2,
            Self::D144 => 4,
            Self::D288 => 5,
        }
    }

    fn is_small(self) -> bool {
        self != Self::D120
    }
}

/// Data rates, as they are written into the rate select register.
const K500: u8 = 0;
const K300: u8 = 1;
const K250: u8 = 2;
const M1: u8 = 3;

/// The format of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The drive that it is made for.
    pub drive: DriveType,
    /// Sectors of a track.
    pub sectors: u8,
    /// Tracks.
    pub tracks: u8,
    /// One side or two.
    pub sides: u8,
    /// The data rate's code.
    pub rate: u8,
}

const fn format(drive: DriveType, sectors: u8, tracks: u8, sides: u8, rate: u8) -> Format {
    Format { drive, sectors, tracks, sides, rate }
}

use DriveType::{D120, D144, D288};

const FORMATS: [Format; 31] = [
    format(D144, 18, 80, 2, K500),
    format(D144, 20, 80, 2, K500),
    format(D144, 21, 80, 2, K500),
    format(D144, 21, 82, 2, K500),
    format(D144, 21, 83, 2, K500),
    format(D144, 22, 80, 2, K500),
    format(D144, 23, 80, 2, K500),
    format(D144, 24, 80, 2, K500),
    format(D288, 36, 80, 2, M1),
    format(D288, 39, 80, 2, M1),
    format(D288, 40, 80, 2, M1),
    format(D288, 44, 80, 2, M1),
    format(D288, 48, 80, 2, M1),
    format(D144, 9, 80, 2, K250),
    format(D144, 10, 80, 2, K250),
    format(D144, 10, 82, 2, K250),
    format(D144, 10, 83, 2, K250),
    format(D144, 13, 80, 2, K250),
    format(D144, 14, 80, 2, K250),
    format(D120, 15, 80, 2, K500),
    format(D120, 18, 80, 2, K500),
    format(D120, 18, 82, 2, K500),
    format(D120, 18, 83, 2, K500),
    format(D120, 20, 80, 2, K500),
    format(D120, 9, 80, 2, K250),
    format(D120, 11, 80, 2, K250),
    format(D120, 9, 40, 2, K300),
    format(D120, 9, 40, 1, K300),
    format(D120, 10, 41, 2, K300),
    format(D120, 8, 40, 2, K250),
    format(D120, 8, 40, 1, K250),
];

impl Format {
    /// Bytes of a medium.
    pub fn size(&self) -> u64 {
        512 * u64::from(self.sectors) * u64::from(self.tracks) * u64::from(self.sides)
    }

    /// The format of an image of `size` bytes in a drive of type `drive`, or in whatever drive fits when there is no
    /// type yet. Sizes that no format has are taken for the first format of the drive.
    pub fn of(size: u64, drive: Option<DriveType>) -> Self {
        let fits = |format: &&Self| drive.is_none_or(|drive| drive.is_small() == format.drive.is_small());
        let exact = FORMATS.iter().filter(fits).find(|format| format.size() == size);
        let first = FORMATS.iter().find(|format| drive.is_none_or(|drive| drive == format.drive));
        *exact.or(first).unwrap_or(&FORMATS[0])
    }

    /// The number of a sector, from 0; sectors of a track count from 1.
    pub fn sector(&self, track: u8, head: u8, sector: u8) -> u64 {
        let track = u64::from(track) * u64::from(self.sides) + u64::from(head);
        track * u64::from(self.sectors) + u64::from(sector.max(1)) - 1
    }

    /// Whether the medium has this sector.
    pub fn has(&self, track: u8, head: u8, sector: u8) -> bool {
        track < self.tracks && head < self.sides && (1..=self.sectors).contains(&sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_tell_formats_and_drives() {
        for (kib, drive, expected) in [
            (1440, None, (D144, 18, 80, 2)),
            (2880, None, (D288, 36, 80, 2)),
            (720, None, (D144, 9, 80, 2)),
            (1200, None, (D120, 15, 80, 2)),
            (360, None, (D120, 9, 40, 2)),
            (160, None, (D120, 8, 40, 1)),
            (720, Some(D120), (D120, 9, 80, 2)),
            (1440, Some(D288), (D144, 18, 80, 2)),
            (5, Some(D288), (D288, 36, 80, 2)),
            (5, None, (D144, 18, 80, 2)),
        ] {
            let found = Format::of(kib * 1024, drive);
            assert_eq!((found.drive, found.sectors, found.tracks, found.sides), expected, "{kib} KiB in {drive:?}");
        }
    }

    #[test]
    fn sectors_are_numbered_by_track_then_side() {
        let format = Format::of(1440 * 1024, None);
        assert_eq!(format.sector(0, 0, 1), 0);
        assert_eq!(format.sector(1, 1, 18), 2 * 18 + 18 + 17);
        assert!(format.has(79, 1, 18) && !format.has(80, 0, 1) && !format.has(0, 2, 1) && !format.has(0, 0, 0));
    }
}
