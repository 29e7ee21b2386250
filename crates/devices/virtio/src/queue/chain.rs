//! From a chain of descriptors to buffers: every length, flag and address is checked.

use memory::{DmaAccess, DmaBuffer, DmaMap};

use super::{MAX_DESCRIPTORS, QueueError};

/// Flags of descriptors (2.7.5 and 2.8.13).
pub mod flag {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
    pub const AVAIL: u16 = 1 << 7;
    pub const USED: u16 = 1 << 15;
}

/// Bytes of a descriptor, of either layout.
pub const DESCRIPTOR_LEN: usize = 16;

/// Memory that a descriptor shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

/// The extents of a chain, in order: first those that the device reads, then those that it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(pub(super) Vec<Extent>);

impl Extents {
    /// Adds what a descriptor shows.
    pub(super) fn add(&mut self, address: u64, len: u32, flags: u16) -> Result<(), QueueError> {
        let writable = flags & flag::WRITE != 0;
        if len == 0 {
            return Err(QueueError::EmptyBuffer);
        }
        if self.0.len() >= MAX_DESCRIPTORS {
            return Err(QueueError::TooLong);
        }
        if !writable && self.0.last().is_some_and(|last| last.writable) {
            return Err(QueueError::Order);
        }
        self.0.push(Extent { address, len, writable });
        Ok(())
    }

    /// Finds the memory: what the device reads, and what it writes.
    pub(super) fn resolve(&self, map: &DmaMap) -> Result<(DmaBuffer, DmaBuffer), QueueError> {
        let (mut readable, mut writable) = (map.gather(DmaAccess::Read), map.gather(DmaAccess::Write));
        let mut total = 0u64;
        for extent in &self.0 {
            total += u64::from(extent.len);
            let gather = if extent.writable { &mut writable } else { &mut readable };
            gather.add(extent.address, u64::from(extent.len))?;
        }
        // 2.7.4.2: no chain shows more than 4 GiB.
        if total > u64::from(u32::MAX) {
            return Err(QueueError::TooLong);
        }
        Ok((readable.finish(), writable.finish()))
    }
}

/// The number of descriptors in an indirect table of `len` bytes.
pub(super) fn table_entries(len: u32) -> Result<u32, QueueError> {
    if len == 0 || !(len as usize).is_multiple_of(DESCRIPTOR_LEN) {
        return Err(QueueError::TableSize(len));
    }
    Ok(len / DESCRIPTOR_LEN as u32)
}

/// A descriptor as it is in memory: address, length, and two 16-bit fields.
pub(super) fn read_descriptor(map: &DmaMap, address: u64) -> Result<(u64, u32, u16, u16), QueueError> {
    let mut bytes = [0; DESCRIPTOR_LEN];
    map.read(address, &mut bytes)?;
    let word = u128::from_le_bytes(bytes);
    Ok((word as u64, (word >> 64) as u32, (word >> 96) as u16, (word >> 112) as u16))
}
