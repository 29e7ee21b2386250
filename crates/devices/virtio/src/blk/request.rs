//! Requests (5.2.6): a header that the device reads, data, and a status byte that it writes.

use device::disk::{DiskOperation, DiskProperties};

use super::Status;
use super::config::BlkOptions;
use crate::queue::Request;

/// Types of requests.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
    /// Legacy: a request that others do not pass. Requests of this device are never reordered by it.
    pub const BARRIER: u32 = 1 << 31;
}

const HEADER_LEN: usize = 16;
/// Bytes that describe a range to discard or to fill with zeroes.
const SEGMENT_LEN: usize = 16;
const UNMAP: u32 = 1;
const SECTOR: u64 = 512;
/// Sectors that one request may have, as in QEMU.
pub const MAX_SECTORS: u32 = (i32::MAX >> 9) as u32;

/// What has to be done.
pub enum Work {
    /// Nothing but to answer.
    Done(Status),
    /// To tell the serial number.
    Identify,
    /// Something of the disk's.
    Disk(DiskOperation),
}

/// A request that was understood.
pub struct Parsed {
    /// What has to be done.
    pub work: Work,
    /// Where in the writable part the status goes.
    pub status_at: usize,
}

impl Parsed {
    /// Understands a request. `None`: it lacks the header or a place for the status.
    pub fn new(request: &Request, options: &BlkOptions, disk: &DiskProperties) -> Option<Self> {
        let status_at = request.writable.len().checked_sub(1)?;
        let mut header = [0; HEADER_LEN];
        if request.readable.len() < HEADER_LEN {
            return None;
        }
        request.readable.io().read_at(0, &mut header);
        let word = u128::from_le_bytes(header);
        let (kind, sector) = (word as u32 & !kind::BARRIER, (word >> 64) as u64);
        let limits = Limits { disk, block_size: options.logical_block_size(disk) };
        let work = match kind {
            kind::IN => limits.check(sector, status_at as u64).map_or_else(Work::Done, |offset| {
                Work::Disk(DiskOperation::Read { offset, buf: request.writable.io().slice(0, status_at) })
            }),
            kind::OUT => {
                let len = request.readable.len() - HEADER_LEN;
                limits.check_write(sector, len as u64).map_or_else(Work::Done, |offset| {
                    let buf = request.readable.io().slice(HEADER_LEN, len);
                    Work::Disk(DiskOperation::Write { offset, buf, fua: false })
                })
            }
            kind::FLUSH => Work::Disk(DiskOperation::Flush),
            kind::GET_ID => Work::Identify,
            kind::DISCARD if options.discard => limits.discard(request, options)?,
            kind::WRITE_ZEROES if options.write_zeroes => limits.write_zeroes(request, options)?,
            _ => Work::Done(Status::Unsupported),
        };
        Some(Self { work, status_at })
    }
}

/// What a range must keep to.
struct Limits<'a> {
    disk: &'a DiskProperties,
    block_size: u32,
}

/// A range to discard or to fill with zeroes.
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Limits<'_> {
    /// The byte offset of a range that the disk has.
    fn check(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let total = self.disk.size / SECTOR;
        let block = u64::from(self.block_size);
        let sectors = len / SECTOR;
        let is_good = sectors <= u64::from(MAX_SECTORS)
            && len.is_multiple_of(block)
            && sector.is_multiple_of(block / SECTOR)
            && sector <= total
            && sectors <= total - sector;
        if is_good { Ok(sector * SECTOR) } else { Err(Status::IoError) }
    }

    fn check_write(&self, sector: u64, len: u64) -> Result<u64, Status> {
        if self.disk.read_only {
            return Err(Status::IoError);
        }
        self.check(sector, len)
    }

    /// The one range of a request; `Ok(None)` when there are more, which are not offered.
    fn range(request: &Request) -> Option<Result<Range, Status>> {
        let len = request.readable.len() - HEADER_LEN;
        if len < SEGMENT_LEN {
            return None;
        }
        if len > SEGMENT_LEN {
            return Some(Err(Status::Unsupported));
        }
        let mut bytes = [0; SEGMENT_LEN];
        request.readable.io().read_at(HEADER_LEN, &mut bytes);
        let word = u128::from_le_bytes(bytes);
        Some(Ok(Range { sector: word as u64, sectors: (word >> 64) as u32, flags: (word >> 96) as u32 }))
    }

    fn discard(&self, request: &Request, options: &BlkOptions) -> Option<Work> {
        let checked = Self::range(request)?.and_then(|range| {
            let offset = self.check_range(&range, options.max_discard_sectors)?;
            // 5.2.6.2: no flag is known here.
            if range.flags != 0 { Err(Status::Unsupported) } else { Ok((offset, range)) }
        });
        Some(checked.map_or_else(Work::Done, |(offset, range)| {
            Work::Disk(DiskOperation::Discard { offset, len: u64::from(range.sectors) * SECTOR })
        }))
    }

    fn write_zeroes(&self, request: &Request, options: &BlkOptions) -> Option<Work> {
        let checked = Self::range(request)?.and_then(|range| {
            let offset = self.check_range(&range, options.max_write_zeroes_sectors)?;
            if range.flags & !UNMAP != 0 { Err(Status::Unsupported) } else { Ok((offset, range)) }
        });
        Some(checked.map_or_else(Work::Done, |(offset, range)| {
            let (len, unmap) = (u64::from(range.sectors) * SECTOR, range.flags & UNMAP != 0);
            Work::Disk(DiskOperation::WriteZeroes { offset, len, unmap })
        }))
    }

    fn check_range(&self, range: &Range, max_sectors: u32) -> Result<u64, Status> {
        if range.sectors > max_sectors {
            return Err(Status::IoError);
        }
        self.check_write(range.sector, u64::from(range.sectors) * SECTOR)
    }
}
