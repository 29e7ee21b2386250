//! The file's identifier, headers, region tables and metadata.

use block::{Child, Error, Result};

use crate::bytes::{le16, le32, le64, n, part, put};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const HEADER_AT: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const REGIONS_LEN: usize = 64 << 10;
pub(super) const MAX_SIZE: u64 = 64 << 40;
pub(super) const MAX_BLOCK: u64 = 256 << 20;
const MAX_REGIONS: u32 = 2047;
const MAX_ITEMS: u16 = 2047;

pub(super) type Guid = [u8; 16];

pub(super) const BAT_REGION: Guid = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
pub(super) const METADATA_REGION: Guid = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
pub(super) const FILE_PARAMETERS: Guid = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
pub(super) const DISK_SIZE: Guid = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
pub(super) const PAGE_83: Guid = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
pub(super) const LOGICAL_SECTOR: Guid = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
pub(super) const PHYSICAL_SECTOR: Guid = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
const PARENT_LOCATOR: Guid = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);

/// A GUID as it is stored: the first three fields little-endian.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> Guid {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

pub(super) fn guid_at(bytes: &[u8], at: usize) -> Guid {
    part(bytes, at, 16).try_into().unwrap_or_default()
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// CRC-32C of pieces: start with all ones, invert at the end.
pub(super) fn crc_add(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

/// CRC-32C of a structure whose checksum is at 4 and counts as zero.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc_add(crc_add(u32::MAX, part(bytes, 0, 4)), &[0; 4]);
    !crc_add(crc, part(bytes, 8, bytes.len()))
}

pub(super) fn put_checksum(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    put(bytes, 4, &sum.to_le_bytes());
}

/// The header that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) file_write: Guid,
    pub(super) data_write: Guid,
    pub(super) log: Guid,
    pub(super) log_len: u32,
    pub(super) log_offset: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.starts_with(b"head") && le32(bytes, 4) == checksum(bytes) && le16(bytes, 66) == 1).then(|| Self {
            sequence: le64(bytes, 8),
            file_write: guid_at(bytes, 16),
            data_write: guid_at(bytes, 32),
            log: guid_at(bytes, 48),
            log_len: le32(bytes, 68),
            log_offset: le64(bytes, 72),
        })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write);
        put(&mut bytes, 32, &self.data_write);
        put(&mut bytes, 48, &self.log);
        put(&mut bytes, 66, &1u16.to_le_bytes());
        put(&mut bytes, 68, &self.log_len.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        put_checksum(&mut bytes);
        bytes
    }

    /// Reads both headers: the newer one, and which it is.
    pub(super) async fn read(file: &Child) -> Result<(Self, usize)> {
        let mut found: Option<(Self, usize)> = None;
        for (index, at) in HEADER_AT.into_iter().enumerate() {
            let bytes = file.read_vec(at, HEADER_LEN).await?;
            if let Some(header) = Self::parse(&bytes)
                && found.as_ref().is_none_or(|(best, _)| header.sequence > best.sequence)
            {
                if le16(&bytes, 64) != 0 {
                    return Err(Error::unsupported("The VHDX log has an unknown version"));
                }
                found = Some((header, index));
            }
        }
        let (header, index) = found.ok_or_else(|| Error::invalid("No valid VHDX header found"))?;
        let end = header.log_offset.checked_add(header.log_len.into());
        let aligned = header.log_offset % MIB == 0 && u64::from(header.log_len) % MIB == 0;
        if !aligned || header.log_offset < MIB || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::invalid("The VHDX log has a wrong place or size"));
        }
        Ok((header, index))
    }
}

/// A range of the file that is not for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) fn overlaps(&self, offset: u64, len: u64) -> bool {
        offset < self.offset.saturating_add(self.len) && self.offset < offset.saturating_add(len)
    }
}

/// The block allocation table, the metadata.
pub(super) async fn read_regions(file: &Child, header: &Header) -> Result<(Region, Region)> {
    let mut result = Err(Error::invalid("No valid VHDX region table found"));
    for at in REGIONS_AT {
        let bytes = file.read_vec(at, REGIONS_LEN).await?;
        if bytes.starts_with(b"regi") && le32(&bytes, 4) == checksum(&bytes) {
            result = parse_regions(&bytes, header);
            if result.is_ok() {
                break;
            }
        }
    }
    result
}

fn parse_regions(bytes: &[u8], header: &Header) -> Result<(Region, Region)> {
    let count = le32(bytes, 8);
    if count > MAX_REGIONS {
        return Err(Error::invalid("The VHDX region table has too many entries"));
    }
    let mut known = vec![Region { offset: header.log_offset, len: header.log_len.into() }];
    let (mut bat, mut metadata) = (None, None);
    for index in 0..count as usize {
        let entry = part(bytes, 16 + index * 32, 32);
        let region = Region { offset: le64(entry, 16), len: le32(entry, 24).into() };
        if region.offset < MIB
            || !region.offset.is_multiple_of(MIB)
            || region.len == 0
            || !region.len.is_multiple_of(MIB)
        {
            return Err(Error::invalid("A VHDX region has a wrong place or size"));
        }
        if region.offset.checked_add(region.len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::invalid("A VHDX region has a wrong place or size"));
        }
        if let Some(other) = known.iter().find(|other| other.overlaps(region.offset, region.len)) {
            return Err(Error::invalid(format!(
                "VHDX region {}-{} overlaps with region {}-{}",
                region.offset,
                region.offset + region.len,
                other.offset,
                other.offset + other.len
            )));
        }
        known.push(region);
        let slot = match guid_at(entry, 0) {
            BAT_REGION => &mut bat,
            METADATA_REGION => &mut metadata,
            _ if le32(entry, 28) & 1 != 0 => {
                return Err(Error::unsupported("The VHDX image has an unknown required region"));
            }
            _ => continue,
        };
        if slot.replace(region).is_some() {
            return Err(Error::invalid("A VHDX region is there twice"));
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok((bat, metadata)),
        _ => Err(Error::invalid("The VHDX image lacks a required region")),
    }
}

/// What the metadata say.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub(super) block_size: u64,
    pub(super) leave_allocated: bool,
    pub(super) size: u64,
    pub(super) logical_sector: u64,
}

impl Metadata {
    pub(super) async fn read(file: &Child, region: Region) -> Result<Self> {
        let missing = || Error::invalid("The VHDX metadata lack a required item");
        if region.offset + region.len > file.len().next_multiple_of(MIB) {
            return Err(Error::invalid("The VHDX metadata lie behind the end of the file"));
        }
        let table = file.read_vec(region.offset, 64 << 10).await?;
        if !table.starts_with(b"metadata") {
            return Err(Error::invalid("The VHDX metadata have a wrong signature"));
        }
        let count = le16(&table, 10);
        if count > MAX_ITEMS {
            return Err(Error::invalid("The VHDX metadata have too many items"));
        }
        let mut items = [None; 5];
        let ids = [FILE_PARAMETERS, DISK_SIZE, PAGE_83, LOGICAL_SECTOR, PHYSICAL_SECTOR];
        for index in 0..usize::from(count) {
            let entry = part(&table, 32 + index * 32, 32);
            let id = guid_at(entry, 0);
            let (offset, len) = (u64::from(le32(entry, 16)), u64::from(le32(entry, 20)));
            if id == PARENT_LOCATOR {
                return Err(Error::unsupported("Differencing VHDX images are not supported"));
            }
            let Some(slot) = ids.iter().position(|known| *known == id) else {
                if le32(entry, 24) & 4 != 0 {
                    return Err(Error::unsupported("The VHDX image has an unknown required metadata item"));
                }
                continue;
            };
            if offset < 64 << 10 || offset + len > region.len || items[slot].is_some() {
                return Err(Error::invalid("A VHDX metadata item has a wrong place"));
            }
            items[slot] = Some(region.offset + offset);
        }
        let mut fields = [0u64; 5];
        for (field, item) in fields.iter_mut().zip(items) {
            *field = le64(&file.read_vec(item.ok_or_else(missing)?, 8).await?, 0);
        }
        let flags = fields[0] >> 32;
        if flags & 2 != 0 {
            return Err(Error::unsupported("Differencing VHDX images are not supported"));
        }
        let metadata = Self {
            block_size: fields[0] & 0xffff_ffff,
            leave_allocated: flags & 1 != 0,
            size: fields[1],
            logical_sector: fields[3] & 0xffff_ffff,
        };
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<()> {
        if !self.block_size.is_power_of_two() || self.block_size < MIB || self.block_size > MAX_BLOCK {
            return Err(Error::invalid(format!("VHDX block size {} is invalid", self.block_size)));
        }
        if self.logical_sector != 512 && self.logical_sector != 4096 {
            return Err(Error::unsupported(format!("VHDX sector size {} is not supported", self.logical_sector)));
        }
        if self.size > MAX_SIZE {
            return Err(Error::too_big("Image size too large; max of 64TB"));
        }
        if !self.size.is_multiple_of(self.logical_sector) {
            return Err(Error::invalid("The VHDX disk size is no multiple of its sector size"));
        }
        Ok(())
    }

    /// Blocks whose sector bitmaps fill one block.
    pub(super) fn chunk_ratio(&self) -> u64 {
        (self.logical_sector << 23) / self.block_size
    }

    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Entries of the block allocation table, with those of the bitmaps in between.
    pub(super) fn entries(&self) -> u64 {
        let blocks = self.blocks();
        blocks + blocks.saturating_sub(1) / self.chunk_ratio()
    }
}

/// The bytes of a region table.
pub(super) fn regions_bytes(bat: Region, metadata: Region) -> Vec<u8> {
    let mut bytes = vec![0; REGIONS_LEN];
    put(&mut bytes, 0, b"regi");
    put(&mut bytes, 8, &2u32.to_le_bytes());
    for (index, (id, region)) in [(BAT_REGION, bat), (METADATA_REGION, metadata)].into_iter().enumerate() {
        let at = 16 + index * 32;
        put(&mut bytes, at, &id);
        put(&mut bytes, at + 16, &region.offset.to_le_bytes());
        put(&mut bytes, at + 24, &u32::try_from(region.len).unwrap_or(0).to_le_bytes());
        put(&mut bytes, at + 28, &1u32.to_le_bytes());
    }
    put_checksum(&mut bytes);
    bytes
}

/// The bytes of the metadata region, as far as they are not zero.
pub(super) fn metadata_bytes(metadata: &Metadata) -> Vec<u8> {
    let mut bytes = vec![0; (64 << 10) + 64];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &5u16.to_le_bytes());
    let parameters = metadata.block_size | u64::from(metadata.leave_allocated) << 32;
    let page_83 = crate::bytes::uuid();
    let sector = 512u32.to_le_bytes();
    let items: [(Guid, u32, u32, &[u8]); 5] = [
        (FILE_PARAMETERS, 0, 4, &parameters.to_le_bytes()),
        (DISK_SIZE, 8, 6, &metadata.size.to_le_bytes()),
        (PAGE_83, 16, 6, &page_83),
        (LOGICAL_SECTOR, 32, 6, &sector),
        (PHYSICAL_SECTOR, 36, 6, &sector),
    ];
    for (index, (id, offset, flags, value)) in items.into_iter().enumerate() {
        let at = 32 + index * 32;
        put(&mut bytes, at, &id);
        put(&mut bytes, at + 16, &(offset + (64 << 10)).to_le_bytes());
        put(&mut bytes, at + 20, &u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
        put(&mut bytes, at + 24, &flags.to_le_bytes());
        put(&mut bytes, n(u64::from(offset)) + (64 << 10), value);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(!crc_add(u32::MAX, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn guids_are_stored_as_the_specification_says() {
        assert_eq!(BAT_REGION[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
    }
}
