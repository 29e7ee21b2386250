//! A queue as monitors see it. The driver may write anything into its areas at any time: nothing here is believed.

use memory::{DmaMap, DmaView, RamSlice};

use super::chain::{DESCRIPTOR_LEN, flag, read_descriptor};
use super::{Queue, Rings};
use crate::inspect::QueueInfo;

/// A descriptor as the driver has written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// See [`flag`].
    pub flags: u16,
}

/// An available entry of a queue of the split layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its first descriptor.
    pub head: u16,
    /// Its descriptors, as far as they are in memory; those of its table, if it leads to one.
    pub descriptors: Vec<Descriptor>,
    /// Flags and index of the driver area.
    pub available: (u16, u16),
    /// Flags of the device area, and the index that the device has written.
    pub used: (u16, u16),
}

/// Why an element can't be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementError {
    /// The queue has the packed layout.
    Packed,
    /// The queue is not set up, or its areas are not in RAM.
    NoRings,
    /// The table that it leads to is not in RAM.
    NoTable,
}

/// Where descriptors are.
enum Table<'a> {
    Ring(&'a RamSlice, u16),
    /// Elsewhere: its address and how many there are.
    Indirect(u64, u32),
}

impl Table<'_> {
    fn len(&self) -> u32 {
        match self {
            Self::Ring(_, size) => u32::from(*size),
            Self::Indirect(_, len) => *len,
        }
    }

    /// A descriptor, and the one that follows it.
    fn get(&self, map: &DmaMap, index: u16) -> Option<(Descriptor, u16)> {
        if u32::from(index) >= self.len() {
            return None;
        }
        let at = usize::from(index) * DESCRIPTOR_LEN;
        let (address, len, flags, next) = match self {
            Self::Ring(ring, _) => {
                (ring.load_u64(at)?, ring.load_u32(at + 8)?, ring.load_u16(at + 12)?, ring.load_u16(at + 14)?)
            }
            Self::Indirect(table, _) => read_descriptor(map, table.checked_add(at as u64)?).ok()?,
        };
        Some((Descriptor { address, len, flags }, next))
    }
}

impl Queue {
    /// What monitors see of it, but for where legacy queues are aligned.
    pub(crate) fn info(&self) -> QueueInfo {
        let state = &self.state;
        QueueInfo {
            in_use: self.in_flight.len(),
            size: state.size,
            max_size: self.max_size,
            align: 0,
            descriptors: state.descriptors,
            driver: state.driver,
            device: state.device,
            next_available: state.next_available,
            seen_available: self.seen_available,
            next_used: state.next_used,
            signalled: state.signalled,
            is_signalled_valid: state.signalled_valid,
        }
    }

    /// The available entry `index`, or the next one.
    pub(crate) fn element(&self, dma: &DmaView, index: Option<u16>) -> Result<Element, ElementError> {
        if self.is_packed() {
            return Err(ElementError::Packed);
        }
        if !self.is_ready() {
            return Err(ElementError::NoRings);
        }
        let map = dma.map();
        let rings = self.map_rings(&map, dma.generation()).map_err(|_| ElementError::NoRings)?;
        let size = self.state.size;
        let entry = index.unwrap_or(self.state.next_available) % size;
        let head = rings.available(usize::from(entry));
        Ok(Element {
            head,
            descriptors: descriptors(&rings, &map, (head, size))?,
            available: (rings.available_flags(), rings.available_index()),
            used: (rings.device.load_u16(0).unwrap_or(0), self.state.next_used),
        })
    }
}

fn descriptors(rings: &Rings, map: &DmaMap, (head, size): (u16, u16)) -> Result<Vec<Descriptor>, ElementError> {
    let mut table = Table::Ring(&rings.descriptors, size);
    let mut found = Vec::new();
    let Some((mut descriptor, mut next)) = table.get(map, head) else { return Ok(found) };
    if descriptor.flags & flag::INDIRECT != 0 {
        table = Table::Indirect(descriptor.address, descriptor.len / DESCRIPTOR_LEN as u32);
        (descriptor, next) = table.get(map, 0).ok_or(ElementError::NoTable)?;
    }
    // A chain may lead back to itself.
    for _ in 0..table.len() {
        found.push(descriptor);
        if descriptor.flags & flag::NEXT == 0 {
            break;
        }
        let Some(following) = table.get(map, next) else { break };
        (descriptor, next) = following;
    }
    Ok(found)
}
