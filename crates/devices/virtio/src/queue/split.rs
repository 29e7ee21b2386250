//! The split layout (2.7): a table of descriptors, a ring of available heads, a ring of used ones.

use std::sync::atomic::{Ordering, fence};

use memory::DmaMap;

use super::chain::{DESCRIPTOR_LEN, flag, read_descriptor, table_entries};
use super::{Chain, Extents, Queue, QueueError, Rings, is_event_due};
use crate::features;

/// Driver area: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;

impl Rings {
    pub(super) fn available_flags(&self) -> u16 {
        self.driver.load_u16(0).unwrap_or(0)
    }

    pub(super) fn available_index(&self) -> u16 {
        self.driver.load_u16(2).unwrap_or(0)
    }

    pub(super) fn available(&self, entry: usize) -> u16 {
        self.driver.load_u16(4 + 2 * entry).unwrap_or(u16::MAX)
    }

    /// Where the driver wants an interrupt.
    fn used_event(&self, size: u16) -> u16 {
        self.driver.load_u16(4 + 2 * usize::from(size)).unwrap_or(0)
    }

    /// Where the device wants a notification.
    fn set_available_event(&self, size: u16, index: u16) {
        self.device.store_u16(4 + 8 * usize::from(size), index);
    }

    fn descriptor(&self, index: u16) -> Option<(u64, u32, u16, u16)> {
        let at = usize::from(index) * DESCRIPTOR_LEN;
        let table = &self.descriptors;
        Some((table.load_u64(at)?, table.load_u32(at + 8)?, table.load_u16(at + 12)?, table.load_u16(at + 14)?))
    }
}

impl Queue {
    pub(super) fn split_has_available(&self, rings: &Rings) -> bool {
        rings.available_index() != self.state.next_available
    }

    pub(super) fn pop_split(&mut self, map: &DmaMap) -> Result<Option<Chain>, QueueError> {
        let size = self.state.size;
        let Some(rings) = &self.rings else { return Ok(None) };
        let (index, next) = (rings.available_index(), self.state.next_available);
        self.seen_available = index;
        let offered = index.wrapping_sub(next);
        if offered == 0 {
            return Ok(None);
        }
        if offered > size {
            return Err(QueueError::Index(next, index));
        }
        // The entries are read after the index that covers them.
        fence(Ordering::Acquire);
        let head = rings.available(usize::from(next % size));
        let extents = self.split_extents(rings, map, head)?;
        let next = next.wrapping_add(1);
        if self.has(features::EVENT_IDX) {
            rings.set_available_event(size, next);
        }
        self.state.next_available = next;
        Ok(Some(Chain { id: head, entries: 1, extents }))
    }

    /// Follows a chain. Normal descriptors may be followed by one that leads to a table (2.7.5.3.2).
    fn split_extents(&self, rings: &Rings, map: &DmaMap, head: u16) -> Result<Extents, QueueError> {
        let mut extents = Extents::default();
        let mut index = head;
        for _ in 0..self.state.size {
            let (address, len, flags, next) = (index < self.state.size)
                .then(|| rings.descriptor(index))
                .flatten()
                .ok_or(QueueError::Descriptor(index))?;
            if flags & flag::INDIRECT != 0 {
                if !self.has(features::INDIRECT) || flags & flag::NEXT != 0 {
                    return Err(QueueError::Indirect);
                }
                split_table(map, address, table_entries(len)?, &mut extents)?;
                return Ok(extents);
            }
            extents.add(address, len, flags)?;
            if flags & flag::NEXT == 0 {
                return Ok(extents);
            }
            index = next;
        }
        Err(QueueError::Loop)
    }

    pub(super) fn push_split(&mut self, chain: &Chain, written: u32) {
        let Some(rings) = &self.rings else { return };
        let used = self.state.next_used;
        let at = 4 + 8 * usize::from(used % self.state.size);
        rings.device.store_u32(at, u32::from(chain.id));
        rings.device.store_u32(at + 4, written);
        // The entry is written before the index that covers it.
        fence(Ordering::Release);
        let used = used.wrapping_add(1);
        rings.device.store_u16(2, used);
        self.state.next_used = used;
    }

    pub(super) fn split_enable_notifications(&self, rings: &Rings) {
        // Without EVENT_IDX the flags stay clear: every notification is welcome.
        if self.has(features::EVENT_IDX) {
            rings.set_available_event(self.state.size, self.state.next_available);
        }
    }

    pub(super) fn split_wants_interrupt(&mut self, rings: &Rings) -> bool {
        let used = self.state.next_used;
        if self.has(features::NOTIFY_ON_EMPTY) && self.in_flight.len() == 0 && !self.split_has_available(rings) {
            return true;
        }
        if !self.has(features::EVENT_IDX) {
            return rings.available_flags() & NO_INTERRUPT == 0;
        }
        let (old, known) = (self.state.signalled, self.state.signalled_valid);
        (self.state.signalled, self.state.signalled_valid) = (used, true);
        !known || is_event_due(rings.used_event(self.state.size), used, old)
    }
}

/// Follows a chain in an indirect table.
fn split_table(map: &DmaMap, table: u64, entries: u32, extents: &mut Extents) -> Result<(), QueueError> {
    let mut index = 0u16;
    // Each step adds an extent, and those are bounded; so is the table.
    for _ in 0..entries {
        if u32::from(index) >= entries {
            return Err(QueueError::Descriptor(index));
        }
        let at = table.wrapping_add(u64::from(index) * DESCRIPTOR_LEN as u64);
        let (address, len, flags, next) = read_descriptor(map, at)?;
        if flags & flag::INDIRECT != 0 {
            return Err(QueueError::Indirect);
        }
        extents.add(address, len, flags)?;
        if flags & flag::NEXT == 0 {
            return Ok(());
        }
        index = next;
    }
    Err(QueueError::Loop)
}
