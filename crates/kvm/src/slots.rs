//! Memory slots: which pieces of RAM and ROM the kernel maps for the guest.
//!
//! A slot is made for each range of the flat view that is RAM, in whole pages; a ROM's slot is read-only, so that a
//! store to it leaves guest code and is dropped by the address space. Everything else has no slot, and an access to it
//! leaves guest code as a device access. System-management mode has an address space of its own, with its own slots.

#![expect(unsafe_code, reason = "the kernel is given the host's addresses of guest RAM")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memory::{Backing, FlatView, PAGE_SHIFT, PAGE_SIZE, RamBlock};

use crate::dirty::merge;
use crate::error::{KvmError, request};

/// A piece of guest-physical memory and what stands behind it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) guest: u64,
    pub(crate) len: u64,
    pub(crate) block: Arc<RamBlock>,
    pub(crate) offset: u64,
    pub(crate) read_only: bool,
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block)
            && (self.guest, self.len, self.offset, self.read_only)
                == (other.guest, other.len, other.offset, other.read_only)
    }
}

/// The slots that a view wants, ascending by address. Parts of pages are left to exits.
pub(crate) fn plan(view: &FlatView) -> Vec<Slot> {
    let page = PAGE_SIZE as u64;
    let mut slots = Vec::new();
    for range in view.ranges() {
        let Backing::Ram { block, offset, read_only } = &range.backing else { continue };
        let Some(guest) = range.start.checked_next_multiple_of(page) else { continue };
        // One past the last whole page. A range that ends with the address space lacks its last page: nobody has RAM
        // there.
        let end = range.last.saturating_add(1) & !(page - 1);
        let offset = offset + range.region_offset + (guest - range.start);
        if end > guest && offset.is_multiple_of(page) {
            slots.push(Slot { guest, len: end - guest, block: Arc::clone(block), offset, read_only: *read_only });
        }
    }
    slots
}

fn key(block: &RamBlock) -> usize {
    std::ptr::from_ref(block).addr()
}

/// Which of the kernel's address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// What a vCPU sees outside of system-management mode.
    Normal = 0,
    /// What it sees there.
    Smm = 1,
}

/// The slots that the kernel has in one address space.
#[derive(Debug)]
pub(crate) struct Slots {
    space: Space,
    limit: usize,
    used: BTreeMap<u32, Slot>,
    /// While stores are logged: the pages of each block that were found dirty and not taken yet.
    logs: Option<HashMap<usize, Vec<u64>>>,
}

impl Slots {
    pub(crate) fn new(space: Space, limit: usize) -> Self {
        Self { space, limit, used: BTreeMap::new(), logs: None }
    }

    /// The kernel's number of slot `id`.
    fn number(&self, id: u32) -> u32 {
        (self.space as u32) << 16 | id
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.used.len()
    }

    /// Whether `wanted` needs a change.
    pub(crate) fn differ(&self, wanted: &[Slot]) -> bool {
        self.used.len() != wanted.len() || !wanted.iter().all(|slot| self.used.values().any(|used| used == slot))
    }

    /// Brings the kernel's slots to `wanted`: what goes first, then what comes.
    pub(crate) fn change(&mut self, vm: &VmFd, wanted: Vec<Slot>) -> Result<(), KvmError> {
        let gone = self.used.iter().filter(|(_, slot)| !wanted.contains(slot)).map(|(id, _)| *id);
        for id in gone.collect::<Vec<_>>() {
            self.collect_log(vm, id)?;
            if let Some(slot) = self.used.remove(&id) {
                self.tell(vm, id, &Slot { len: 0, ..slot })?;
            }
        }
        for slot in wanted {
            if self.used.values().any(|used| *used == slot) {
                continue;
            }
            let free = (0..self.limit as u32).find(|id| !self.used.contains_key(id));
            let id = free.ok_or(KvmError::NoSlot(slot.guest))?;
            self.tell(vm, id, &slot)?;
            self.used.insert(id, slot);
        }
        Ok(())
    }

    fn tell(&self, vm: &VmFd, id: u32, slot: &Slot) -> Result<(), KvmError> {
        let logged = self.logs.is_some() && !slot.read_only;
        let flags =
            if slot.read_only { KVM_MEM_READONLY } else { 0 } | if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let host = slot.block.host_base().as_ptr().addr() as u64 + slot.offset;
        let region = kvm_userspace_memory_region {
            slot: self.number(id),
            flags: if slot.len == 0 { 0 } else { flags },
            guest_phys_addr: slot.guest,
            memory_size: slot.len,
            userspace_addr: host,
        };
        // SAFETY: `host` is the address of `len` bytes of the block (the address space checked that the region lies
        // inside of it), and the block lives as long as the slot, which holds it. The block's memory is shared with
        // threads that access it through atomics only, so the guest may write to it at any time.
        unsafe { vm.set_user_memory_region(region) }.map_err(request("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Adds the dirty pages of slot `id` to its block's log, if stores are logged.
    fn collect_log(&mut self, vm: &VmFd, id: u32) -> Result<(), KvmError> {
        let Some(slot) = self.used.get(&id).filter(|slot| !slot.read_only) else { return Ok(()) };
        let number = self.number(id);
        let Some(logs) = &mut self.logs else { return Ok(()) };
        let words = vm.get_dirty_log(number, slot.len as usize).map_err(request("KVM_GET_DIRTY_LOG"))?;
        let pages = slot.block.len() >> PAGE_SHIFT;
        let log = logs.entry(key(&slot.block)).or_insert_with(|| vec![0; pages.div_ceil(64)]);
        merge(log, (slot.offset >> PAGE_SHIFT) as usize, &words, (slot.len >> PAGE_SHIFT) as usize);
        Ok(())
    }

    /// Starts or ends the log of stores. At the start all pages are clean.
    pub(crate) fn set_logging(&mut self, vm: &VmFd, wanted: bool) -> Result<(), KvmError> {
        self.logs = wanted.then(HashMap::new);
        for (id, slot) in &self.used {
            if !slot.read_only {
                self.tell(vm, *id, slot)?;
            }
        }
        Ok(())
    }

    /// Adds to `pages` those pages of `block` that were stored to since the last time, and forgets them.
    pub(crate) fn take_log(&mut self, vm: &VmFd, block: &RamBlock, pages: &mut [u64]) -> Result<(), KvmError> {
        let of_block = self.used.iter().filter(|(_, slot)| key(&slot.block) == key(block)).map(|(id, _)| *id);
        for id in of_block.collect::<Vec<_>>() {
            self.collect_log(vm, id)?;
        }
        if let Some(log) = self.logs.as_mut().and_then(|logs| logs.remove(&key(block))) {
            merge(pages, 0, &log, block.len() >> PAGE_SHIFT);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{AccessSize, AddressSpace, GuestAddress, Io, SpaceKind};

    struct Nothing;
    impl Io for Nothing {
        fn read(&self, _: u64, _: AccessSize) -> u64 {
            0
        }
        fn write(&self, _: u64, _: AccessSize, _: u64) {}
    }

    #[test]
    fn plan_takes_whole_pages_of_ram_around_devices() {
        let block = Arc::new(RamBlock::new("ram", 0x10000).expect("RAM"));
        let space = AddressSpace::new(SpaceKind::Memory);
        let ram = |offset, read_only| Backing::Ram { block: Arc::clone(&block), offset, read_only };
        space.map(GuestAddress(0x1000), 0x8000, 0, ram(0x2000, false)).expect("map");
        space.map(GuestAddress(0x4800), 0x100, 1, Backing::Io(Arc::new(Nothing))).expect("map");
        space.map(GuestAddress(0x2_0000), 0x1000, 0, ram(0x800, false)).expect("map");
        space.map(GuestAddress(0x3_0000), 0x1000, 0, ram(0xf000, true)).expect("map");
        let slots = plan(&space.view());
        let shape: Vec<_> = slots.iter().map(|slot| (slot.guest, slot.len, slot.offset, slot.read_only)).collect();
        // The device's page has no slot; RAM that does not lie on a page of its block has none either.
        let expected =
            [(0x1000, 0x3000, 0x2000, false), (0x5000, 0x4000, 0x6000, false), (0x3_0000, 0x1000, 0xf000, true)];
        assert_eq!(shape, expected);
    }
}
