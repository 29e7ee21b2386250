//! The packed layout (2.8): one ring of descriptors, which the device overwrites with used ones, and two structures
//! that suppress events.

use std::sync::atomic::{Ordering, fence};

use memory::DmaMap;

use super::chain::{DESCRIPTOR_LEN, flag, read_descriptor, table_entries};
use super::{Chain, Extents, Queue, QueueError, Rings, is_event_due};
use crate::features;

/// Values of the event suppression structures' flags (2.8.14).
mod events {
    pub const ENABLE: u16 = 0;
    pub const DISABLE: u16 = 1;
    /// At the position that the structure names.
    pub const DESCRIPTOR: u16 = 2;
}

/// The wrap counter's bit beside a position.
const WRAP: u16 = 1 << 15;

impl Rings {
    fn ring_flags(&self, position: u16) -> u16 {
        self.descriptors.load_u16(usize::from(position) * DESCRIPTOR_LEN + 14).unwrap_or(0)
    }

    /// Address, length and id.
    fn ring_entry(&self, position: u16) -> Option<(u64, u32, u16)> {
        let at = usize::from(position) * DESCRIPTOR_LEN;
        let ring = &self.descriptors;
        Some((ring.load_u64(at)?, ring.load_u32(at + 8)?, ring.load_u16(at + 12)?))
    }
}

/// Moves a position on, and says whether it passed the end.
fn advance(position: u16, by: u16, size: u16) -> (u16, bool) {
    let next = u32::from(position) + u32::from(by);
    if next >= u32::from(size) { ((next - u32::from(size)) as u16, true) } else { (next as u16, false) }
}

impl Queue {
    pub(super) fn packed_has_available(&self, rings: &Rings) -> bool {
        let flags = rings.ring_flags(self.state.next_available);
        let (available, used) = (flags & flag::AVAIL != 0, flags & flag::USED != 0);
        available == self.state.available_wrap && used != self.state.available_wrap
    }

    pub(super) fn pop_packed(&mut self, map: &DmaMap) -> Result<Option<Chain>, QueueError> {
        let Some(rings) = &self.rings else { return Ok(None) };
        // A loaded state may say anything.
        if self.state.next_available >= self.state.size {
            return Err(QueueError::Descriptor(self.state.next_available));
        }
        if !self.packed_has_available(rings) {
            return Ok(None);
        }
        // The rest of the descriptor is read after the flags that make it available.
        fence(Ordering::Acquire);
        let chain = self.packed_chain(rings, map)?;
        let (next, wrapped) = advance(self.state.next_available, chain.entries, self.state.size);
        self.state.next_available = next;
        self.state.available_wrap ^= wrapped;
        Ok(Some(chain))
    }

    fn packed_chain(&self, rings: &Rings, map: &DmaMap) -> Result<Chain, QueueError> {
        let mut extents = Extents::default();
        let mut position = self.state.next_available;
        for entries in 1..=self.state.size {
            let flags = rings.ring_flags(position);
            let (address, len, id) = rings.ring_entry(position).ok_or(QueueError::Descriptor(position))?;
            if flags & flag::INDIRECT != 0 {
                // 2.8.19: only alone.
                if !self.has(features::INDIRECT) || entries != 1 || flags & flag::NEXT != 0 {
                    return Err(QueueError::Indirect);
                }
                packed_table(map, address, table_entries(len)?, &mut extents)?;
                return Ok(Chain { id, entries, extents });
            }
            extents.add(address, len, flags)?;
            if flags & flag::NEXT == 0 {
                // The id of the last descriptor is the buffer's.
                return Ok(Chain { id, entries, extents });
            }
            (position, _) = advance(position, 1, self.state.size);
        }
        Err(QueueError::Loop)
    }

    pub(super) fn push_packed(&mut self, chain: &Chain, written: u32) {
        let Some(rings) = &self.rings else { return };
        let (position, wrap) = (self.state.next_used, self.state.used_wrap);
        let at = usize::from(position) * DESCRIPTOR_LEN;
        let mut flags = if wrap { flag::AVAIL | flag::USED } else { 0 };
        if written != 0 {
            flags |= flag::WRITE;
        }
        rings.descriptors.store_u32(at + 8, written);
        rings.descriptors.store_u16(at + 12, chain.id);
        // The descriptor is written before the flags that make it used.
        fence(Ordering::Release);
        rings.descriptors.store_u16(at + 14, flags);
        let (next, wrapped) = advance(position, chain.entries, self.state.size);
        self.state.next_used = next;
        if wrapped {
            self.state.used_wrap = !wrap;
            // Positions of two rounds can't be compared.
            self.state.signalled_valid = false;
        }
    }

    pub(super) fn packed_enable_notifications(&self, rings: &Rings) {
        if !self.has(features::EVENT_IDX) {
            rings.device.store_u16(2, events::ENABLE);
            return;
        }
        let wrap = if self.state.available_wrap { WRAP } else { 0 };
        rings.device.store_u16(0, self.state.next_available | wrap);
        fence(Ordering::Release);
        rings.device.store_u16(2, events::DESCRIPTOR);
    }

    pub(super) fn packed_wants_interrupt(&mut self, rings: &Rings) -> bool {
        let used = self.state.next_used;
        let (old, known) = (self.state.signalled, self.state.signalled_valid);
        (self.state.signalled, self.state.signalled_valid) = (used, true);
        match rings.driver.load_u16(2).unwrap_or(0) & 3 {
            events::DISABLE => false,
            events::DESCRIPTOR if self.has(features::EVENT_IDX) && known => {
                let event = rings.driver.load_u16(0).unwrap_or(0);
                let same_round = (event & WRAP != 0) == self.state.used_wrap;
                let position = event & !WRAP;
                let position = if same_round { position } else { position.wrapping_sub(self.state.size) };
                is_event_due(position, used, old)
            }
            _ => true,
        }
    }
}

/// Reads an indirect table: all of its descriptors, in order (2.8.7).
fn packed_table(map: &DmaMap, table: u64, entries: u32, extents: &mut Extents) -> Result<(), QueueError> {
    for index in 0..u64::from(entries) {
        let at = table.wrapping_add(index * DESCRIPTOR_LEN as u64);
        let (address, len, _, flags) = read_descriptor(map, at)?;
        if flags & flag::INDIRECT != 0 {
            return Err(QueueError::Indirect);
        }
        // The bound of extents ends this early.
        extents.add(address, len, flags)?;
    }
    Ok(())
}
