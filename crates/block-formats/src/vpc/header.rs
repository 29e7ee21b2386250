//! The footer and the header of dynamic disks, and what a disk's size is.

use block::{Child, Error, Result};

use crate::bytes::{be16, be32, be64, part, put};

pub(super) const COOKIE: &[u8; 8] = b"conectix";
const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
/// Largest disk: 2040 GiB, sectors.
pub(super) const MAX_SECTORS: u64 = 0xff00_0000;
/// What the largest geometry addresses, sectors.
pub(super) const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
const MAX_ENTRIES: u32 = i32::MAX as u32 / 4;
/// Programs whose footers hold the real size, while their geometry is rounded.
const EXACT_CREATORS: [&[u8]; 6] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"\0\0\0\0"];

// Offsets of the footer's fields.
const AT_FEATURES: usize = 0x08;
const AT_VERSION: usize = 0x0c;
const AT_DATA_OFFSET: usize = 0x10;
const AT_TIMESTAMP: usize = 0x18;
const AT_CREATOR: usize = 0x1c;
const AT_CREATOR_VERSION: usize = 0x20;
const AT_CREATOR_OS: usize = 0x24;
const AT_ORIGINAL_SIZE: usize = 0x28;
const AT_CURRENT_SIZE: usize = 0x30;
const AT_GEOMETRY: usize = 0x38;
const AT_TYPE: usize = 0x3c;
const AT_CHECKSUM: usize = 0x40;
const AT_UUID: usize = 0x44;

const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;

/// How the disk's size is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeCalc {
    /// By who wrote the image.
    Auto,
    /// Cylinders, heads and sectors.
    Chs,
    /// The size in the footer.
    CurrentSize,
}

impl SizeCalc {
    pub(super) fn parse(option: Option<&str>) -> Result<Self> {
        match option {
            None | Some("") => Ok(Self::Auto),
            Some("chs") => Ok(Self::Chs),
            Some("current_size") => Ok(Self::CurrentSize),
            Some(other) => Err(Error::invalid(format!("Invalid size calculation mode: '{other}'"))),
        }
    }
}

/// Cylinders, heads and sectors per track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    pub(super) const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// The number of sectors.
    pub(super) fn total(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }

    /// The geometry that the specification's appendix gives for a number of sectors.
    pub(super) fn of(total: u64) -> Self {
        if total >= MAX_GEOMETRY {
            return Self::MAX;
        }
        let (heads, sectors, tracks);
        if total > 65535 * 16 * 63 {
            (sectors, heads, tracks) = (255, 16, total / 255);
        } else {
            let few = total / 17;
            let needed = few.div_ceil(1024).max(4);
            if few < needed * 1024 && needed <= 16 {
                (sectors, heads, tracks) = (17, needed, few);
            } else if total / 31 < 16 * 1024 {
                (sectors, heads, tracks) = (31, 16, total / 31);
            } else {
                (sectors, heads, tracks) = (63, 16, total / 63);
            }
        }
        Self {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(16),
            sectors,
        }
    }
}

/// What the footer says.
pub(super) struct Footer {
    pub(super) data_offset: u64,
    creator: [u8; 4],
    current_size: u64,
    geometry: Geometry,
    disk_type: u32,
}

/// The one's complement of the sum of all bytes but the checksum's.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
    !(sum(bytes).wrapping_sub(sum(part(bytes, at, 4))))
}

impl Footer {
    /// Reads the footer at the end of the file, or its copy at the start; and its bytes. A fixed disk has none at its
    /// start, whatever the guest writes there.
    pub(super) async fn read(file: &Child) -> Result<(Self, Vec<u8>)> {
        let len = file.len();
        if len < 512 {
            return Err(Error::invalid("File too small for a VHD header"));
        }
        let first = file.read_vec(0, 512).await.map_err(|e| e.context("Unable to read VHD header"))?;
        let last = file.read_vec(len - 512, 512).await.map_err(|e| e.context("Unable to read VHD header"))?;
        let at_end = if last.starts_with(COOKIE) { Some(Self::parse(&last)) } else { None };
        if let Some(Ok(footer)) = &at_end
            && footer.disk_type == TYPE_FIXED
        {
            if footer.current_size > len - 512 {
                return Err(Error::invalid("Invalid file size"));
            }
        } else if first.starts_with(COOKIE) {
            let footer = Self::parse(&first)?;
            if footer.disk_type != TYPE_DYNAMIC {
                return Err(Error::invalid("invalid VPC image"));
            }
            return Ok((footer, first));
        }
        let footer = at_end.unwrap_or_else(|| Err(Error::invalid("invalid VPC image")))?;
        if footer.disk_type != TYPE_FIXED && footer.disk_type != TYPE_DYNAMIC {
            return Err(Error::invalid("invalid VPC image"));
        }
        Ok((footer, last))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        if be32(bytes, AT_CHECKSUM) != checksum(bytes, AT_CHECKSUM) {
            return Err(Error::invalid("Incorrect header checksum"));
        }
        let mut creator = [0; 4];
        creator.copy_from_slice(part(bytes, AT_CREATOR, 4));
        let geometry = Geometry {
            cylinders: be16(bytes, AT_GEOMETRY),
            heads: bytes[AT_GEOMETRY + 2],
            sectors: bytes[AT_GEOMETRY + 3],
        };
        let disk_type = be32(bytes, AT_TYPE);
        if disk_type == 4 {
            return Err(Error::unsupported("Differencing VHD images are not supported"));
        }
        Ok(Self {
            data_offset: be64(bytes, AT_DATA_OFFSET),
            creator,
            current_size: be64(bytes, AT_CURRENT_SIZE),
            geometry,
            disk_type,
        })
    }

    pub(super) fn is_dynamic(&self) -> bool {
        self.disk_type != TYPE_FIXED
    }

    /// The size of the disk in sectors.
    pub(super) fn sectors(&self, calc: SizeCalc) -> u64 {
        let by_geometry = match calc {
            SizeCalc::Auto => !EXACT_CREATORS.contains(&&self.creator[..]),
            SizeCalc::Chs => true,
            SizeCalc::CurrentSize => false,
        };
        // An image of the largest geometry is probably larger.
        if by_geometry && self.geometry.total() != MAX_GEOMETRY {
            self.geometry.total()
        } else {
            self.current_size / 512
        }
    }
}

/// A footer for a new image. `sectors` is its size, `exact` tells readers to ignore the geometry.
pub(super) fn new_footer(sectors: u64, geometry: Geometry, exact: bool, dynamic: bool) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    put(&mut bytes, 0, COOKIE);
    put(&mut bytes, AT_FEATURES, &2u32.to_be_bytes());
    put(&mut bytes, AT_VERSION, &0x0001_0000u32.to_be_bytes());
    let data_offset = if dynamic { 512 } else { u64::MAX };
    put(&mut bytes, AT_DATA_OFFSET, &data_offset.to_be_bytes());
    // Seconds since 2000-01-01.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let timestamp = u32::try_from(now.saturating_sub(946_684_800)).unwrap_or(0);
    put(&mut bytes, AT_TIMESTAMP, &timestamp.to_be_bytes());
    // The names are part of the format: readers decide by them what the size is.
    put(&mut bytes, AT_CREATOR, if exact { b"qem2" } else { b"qemu" });
    put(&mut bytes, AT_CREATOR_VERSION, &0x0005_0003u32.to_be_bytes());
    put(&mut bytes, AT_CREATOR_OS, b"Wi2k");
    put(&mut bytes, AT_ORIGINAL_SIZE, &(sectors * 512).to_be_bytes());
    put(&mut bytes, AT_CURRENT_SIZE, &(sectors * 512).to_be_bytes());
    put(&mut bytes, AT_GEOMETRY, &geometry.cylinders.to_be_bytes());
    put(&mut bytes, AT_GEOMETRY + 2, &[geometry.heads, geometry.sectors]);
    put(&mut bytes, AT_TYPE, &(if dynamic { TYPE_DYNAMIC } else { TYPE_FIXED }).to_be_bytes());
    put(&mut bytes, AT_UUID, &crate::bytes::uuid());
    let sum = checksum(&bytes, AT_CHECKSUM);
    put(&mut bytes, AT_CHECKSUM, &sum.to_be_bytes());
    bytes
}

/// What the header of a dynamic disk says.
pub(super) struct DynamicHeader {
    pub(super) table_offset: u64,
    pub(super) max_entries: u32,
    pub(super) block_size: u64,
}

impl DynamicHeader {
    pub(super) async fn read(file: &Child, offset: u64) -> Result<Self> {
        // What is behind the end of the file reads as zeroes.
        if offset.checked_add(1024).is_none() || offset >= file.len() {
            return Err(Error::invalid("Error reading dynamic VHD header"));
        }
        let bytes = file.read_vec(offset, 1024).await.map_err(|e| e.context("Error reading dynamic VHD header"))?;
        if !bytes.starts_with(DYNAMIC_COOKIE) {
            return Err(Error::invalid("Invalid header magic"));
        }
        let block_size = be32(&bytes, 0x20);
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(Error::invalid(format!("Invalid block size {block_size}")));
        }
        let max_entries = be32(&bytes, 0x1c);
        if max_entries > MAX_ENTRIES {
            return Err(Error::invalid(format!("Max Table Entries too large ({max_entries})")));
        }
        Ok(Self { table_offset: be64(&bytes, 0x10), max_entries, block_size: block_size.into() })
    }

    /// The bytes of a new one.
    pub(super) fn new_bytes(entries: u32, block_size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        put(&mut bytes, 0, DYNAMIC_COOKIE);
        put(&mut bytes, 0x08, &u64::MAX.to_be_bytes());
        put(&mut bytes, 0x10, &1536u64.to_be_bytes());
        put(&mut bytes, 0x18, &0x0001_0000u32.to_be_bytes());
        put(&mut bytes, 0x1c, &entries.to_be_bytes());
        put(&mut bytes, 0x20, &block_size.to_be_bytes());
        let sum = checksum(&bytes, 0x24);
        put(&mut bytes, 0x24, &sum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        for (total, cylinders, heads, sectors) in
            [(20480, 301, 4, 17), (131_072, 963, 8, 17), (4_194_304, 8322, 16, 31), (8_388_608, 8322, 16, 63)]
        {
            let geometry = Geometry::of(total);
            assert!(geometry.total() <= total, "{total}");
            if total != 4_194_304 {
                assert_eq!(
                    (geometry.cylinders, geometry.heads, geometry.sectors),
                    (cylinders, heads, sectors),
                    "{total}"
                );
            }
        }
        assert_eq!(Geometry::of(MAX_GEOMETRY), Geometry::MAX);
    }
}
