//! A driver for tests: guest RAM, and queues of both layouts as a driver keeps them.

pub mod function;

use std::collections::BTreeMap;
use std::sync::Arc;

use memory::{AddressSpace, Backing, DmaView, GuestAddress, RamBlock, SpaceKind};

use crate::features;
use crate::queue::flag;

/// Bytes of guest RAM, at address 0.
pub const RAM_SIZE: u64 = 1 << 20;
/// Tables of indirect descriptors begin here, one for each id.
const TABLES: u64 = 0x2_0000;
const TABLE_LEN: u64 = 0x80;

/// Guest RAM.
pub struct Guest {
    pub ram: Arc<RamBlock>,
    pub space: Arc<AddressSpace>,
}

impl Guest {
    pub fn new() -> Self {
        let ram = Arc::new(RamBlock::new("ram", RAM_SIZE).expect("RAM"));
        let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
        space.map(GuestAddress(0), RAM_SIZE, 0, backing).expect("mapped");
        Self { ram, space }
    }

    pub fn dma(&self) -> DmaView {
        DmaView::new(Arc::clone(&self.space))
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.ram.read(address as usize, &mut bytes));
        bytes
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        assert!(self.ram.write(address as usize, bytes));
    }

    pub fn u16(&self, address: u64) -> u16 {
        self.ram.load_u16(address as usize).expect("RAM")
    }

    pub fn set_u16(&self, address: u64, value: u16) {
        assert!(self.ram.store_u16(address as usize, value));
    }

    /// A split or indirect descriptor; a packed one has id and flags in place of flags and next.
    pub fn set_descriptor(&self, address: u64, (at, len): (u64, u32), third: u16, fourth: u16) {
        let word = u128::from(at) | u128::from(len) << 64 | u128::from(third) << 96 | u128::from(fourth) << 112;
        self.write(address, &word.to_le_bytes());
    }
}

/// xorshift64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Memory that the driver offers: address, bytes, and whether the device writes it.
pub type Part = (u64, u32, bool);

/// The driver's side of a queue.
pub struct DriverQueue {
    pub size: u16,
    pub features: u64,
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
    /// Split: free descriptors. Packed: free ids.
    free: Vec<u16>,
    /// Descriptors (split) or ring entries (packed) of each id that is offered.
    offered: BTreeMap<u16, Vec<u16>>,
    next_available: u16,
    next_used: u16,
    available_wrap: bool,
    used_wrap: bool,
    /// Where the device was notified for the last time.
    kicked: u16,
    kicked_wrap: bool,
    entries_free: u16,
}

impl DriverQueue {
    /// A queue with its areas from `base` on.
    pub fn new(size: u16, features: u64, base: u64) -> Self {
        let descriptors = base;
        let driver = descriptors + 16 * u64::from(size);
        let device = (driver + 2 * u64::from(size) + 6).next_multiple_of(16);
        Self {
            size,
            features,
            descriptors,
            driver,
            device,
            free: (0..size).rev().collect(),
            offered: BTreeMap::new(),
            next_available: 0,
            next_used: 0,
            available_wrap: true,
            used_wrap: true,
            kicked: 0,
            kicked_wrap: true,
            entries_free: size,
        }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn is_packed(&self) -> bool {
        self.has(features::RING_PACKED)
    }

    /// Offers a chain; `None`: there is no room.
    pub fn offer(&mut self, guest: &Guest, parts: &[Part], indirect: bool) -> Option<u16> {
        if self.is_packed() {
            self.offer_packed(guest, parts, indirect)
        } else {
            self.offer_split(guest, parts, indirect)
        }
    }

    fn offer_split(&mut self, guest: &Guest, parts: &[Part], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { parts.len() };
        if self.free.len() < needed {
            return None;
        }
        let used: Vec<u16> = (0..needed).filter_map(|_| self.free.pop()).collect();
        let head = used[0];
        let write = |writable: bool| if writable { flag::WRITE } else { 0 };
        if indirect {
            let table = TABLES + u64::from(head) * TABLE_LEN;
            for (index, (at, len, writable)) in parts.iter().enumerate() {
                let next = if index + 1 < parts.len() { flag::NEXT } else { 0 };
                let place = table + 16 * index as u64;
                guest.set_descriptor(place, (*at, *len), write(*writable) | next, index as u16 + 1);
            }
            let place = self.descriptors + 16 * u64::from(head);
            guest.set_descriptor(place, (table, 16 * parts.len() as u32), flag::INDIRECT, 0);
        } else {
            for (index, (at, len, writable)) in parts.iter().enumerate() {
                let next = used.get(index + 1).copied();
                let flags = write(*writable) | if next.is_some() { flag::NEXT } else { 0 };
                let place = self.descriptors + 16 * u64::from(used[index]);
                guest.set_descriptor(place, (*at, *len), flags, next.unwrap_or(0));
            }
        }
        guest.set_u16(self.driver + 4 + 2 * u64::from(self.next_available % self.size), head);
        self.next_available = self.next_available.wrapping_add(1);
        guest.set_u16(self.driver + 2, self.next_available);
        self.offered.insert(head, used);
        Some(head)
    }

    fn offer_packed(&mut self, guest: &Guest, parts: &[Part], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { parts.len() as u16 };
        if self.entries_free < needed || self.free.is_empty() {
            return None;
        }
        let id = self.free.pop()?;
        let head = self.next_available;
        let mut head_flags = 0;
        let table = TABLES + u64::from(id) * TABLE_LEN;
        let single = [(table, 16 * parts.len() as u32, false)];
        for (index, (at, len, writable)) in parts.iter().enumerate() {
            let flags = if *writable { flag::WRITE } else { 0 };
            if indirect {
                guest.set_descriptor(table + 16 * index as u64, (*at, *len), 0, flags);
            }
        }
        let ring = if indirect { &single[..] } else { parts };
        for (index, (at, len, writable)) in ring.iter().enumerate() {
            let mut flags = if *writable { flag::WRITE } else { 0 };
            flags |= if indirect { flag::INDIRECT } else { 0 };
            flags |= if index + 1 < ring.len() { flag::NEXT } else { 0 };
            flags |= if self.available_wrap { flag::AVAIL } else { flag::USED };
            let place = self.descriptors + 16 * u64::from(self.next_available);
            if index == 0 {
                head_flags = flags;
                let old = guest.u16(place + 14);
                guest.set_descriptor(place, (*at, *len), id, old);
            } else {
                guest.set_descriptor(place, (*at, *len), id, flags);
            }
            self.next_available += 1;
            if self.next_available == self.size {
                (self.next_available, self.available_wrap) = (0, !self.available_wrap);
            }
        }
        // The head comes last.
        guest.set_u16(self.descriptors + 16 * u64::from(head) + 14, head_flags);
        self.entries_free -= needed;
        self.offered.insert(id, vec![0; usize::from(needed)]);
        Some(id)
    }

    /// Takes what the device has used: id and bytes.
    pub fn collect(&mut self, guest: &Guest) -> Vec<(u16, u32)> {
        let mut all = Vec::new();
        while let Some((id, len)) = if self.is_packed() { self.used_packed(guest) } else { self.used_split(guest) } {
            let entries = self.offered.remove(&id).expect("the device used what was offered");
            if self.is_packed() {
                self.free.push(id);
                self.entries_free += entries.len() as u16;
                self.next_used += entries.len() as u16;
                if self.next_used >= self.size {
                    (self.next_used, self.used_wrap) = (self.next_used - self.size, !self.used_wrap);
                }
            } else {
                self.free.extend(entries);
            }
            all.push((id, len));
        }
        all
    }

    fn used_split(&mut self, guest: &Guest) -> Option<(u16, u32)> {
        if guest.u16(self.device + 2) == self.next_used {
            return None;
        }
        let at = (self.device + 4 + 8 * u64::from(self.next_used % self.size)) as usize;
        self.next_used = self.next_used.wrapping_add(1);
        Some((guest.ram.load_u32(at).expect("RAM") as u16, guest.ram.load_u32(at + 4).expect("RAM")))
    }

    fn used_packed(&mut self, guest: &Guest) -> Option<(u16, u32)> {
        let at = self.descriptors + 16 * u64::from(self.next_used);
        let flags = guest.u16(at + 14);
        let (available, used) = (flags & flag::AVAIL != 0, flags & flag::USED != 0);
        if available != used || used != self.used_wrap {
            return None;
        }
        Some((guest.u16(at + 12), guest.ram.load_u32(at as usize + 8).expect("RAM")))
    }

    /// Whether the device wants to be notified of what was offered since the last call.
    pub fn needs_kick(&mut self, guest: &Guest) -> bool {
        let (old, old_wrap) = (self.kicked, self.kicked_wrap);
        let new = self.next_available;
        (self.kicked, self.kicked_wrap) = (new, self.available_wrap);
        if !self.is_packed() {
            if !self.has(features::EVENT_IDX) {
                return guest.u16(self.device) & 1 == 0;
            }
            let event = guest.u16(self.device + 4 + 8 * u64::from(self.size));
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        match guest.u16(self.device + 2) & 3 {
            1 => false,
            2 => {
                let event = guest.u16(self.device);
                // Positions in the order in which they are passed.
                let size = i32::from(self.size);
                let line = |position: u16, wrap: bool| {
                    i32::from(position) + if wrap == self.available_wrap { size } else { 0 }
                };
                let event = line(event & 0x7fff, event & 0x8000 != 0);
                (line(old, old_wrap)..line(new, self.available_wrap)).contains(&event)
            }
            _ => true,
        }
    }

    /// Wants an interrupt when the device uses the next chain but `skip`; without `EVENT_IDX` for each one.
    pub fn want_interrupt(&mut self, guest: &Guest) {
        if self.is_packed() {
            if self.has(features::EVENT_IDX) {
                guest.set_u16(self.driver, self.next_used | if self.used_wrap { 0x8000 } else { 0 });
                guest.set_u16(self.driver + 2, 2);
            } else {
                guest.set_u16(self.driver + 2, 0);
            }
        } else if self.has(features::EVENT_IDX) {
            guest.set_u16(self.driver + 4 + 2 * u64::from(self.size), self.next_used);
        } else {
            guest.set_u16(self.driver, 0);
        }
    }

    /// Wants no interrupts.
    pub fn refuse_interrupts(&mut self, guest: &Guest) {
        if self.is_packed() {
            guest.set_u16(self.driver + 2, 1);
        } else if self.has(features::EVENT_IDX) {
            // An index that is passed last.
            let behind = self.next_used.wrapping_sub(1);
            guest.set_u16(self.driver + 4 + 2 * u64::from(self.size), behind.wrapping_sub(0x4000));
        } else {
            guest.set_u16(self.driver, 1);
        }
    }
}
