//! Memory access of the guest: linear addresses to physical ones, RAM and devices.
//!
//! Explicit accesses ([`Cpu::read_u32`] …) use the current privilege; implicit ones to descriptor tables and task
//! states (`*_sys`) are supervisor accesses. All take linear addresses that already are truncated
//! to [`Cpu::address_mask`]. A fault leaves memory untouched: both pages of a crossing store are checked first.

#[expect(unsafe_code, reason = "guest RAM is reached through raw host pointers in TLB entries")]
mod host;
mod tlb;
mod walk;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{AccessSize, GuestAddress};

pub use host::Word;
pub(crate) use host::{DATA_ENTRY_SHIFT, DataField, TablesLayout};
pub(crate) use tlb::SLOTS as DATA_SLOTS;
pub(crate) use tlb::rights;
pub use tlb::{Class, CodePage, RamPage, Tlb};

use crate::fault::{Exec, Fault};
use crate::state::{Cpu, cr};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, or a read that will be followed by one.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Whether bits 63..47 of an address are equal.
#[inline(always)]
#[must_use]
pub fn is_canonical(address: u64) -> bool {
    (((address << 16) as i64) >> 16) as u64 == address
}

/// One page as an access found it.
#[derive(Clone, Copy)]
struct Page {
    phys: u64,
    ram: Option<RamPage>,
    rights: u64,
}

fn low_bytes(value: u128, len: u64) -> u128 {
    if len >= 16 { value } else { value & ((1u128 << (8 * len)) - 1) }
}

macro_rules! sized {
    ($($read:ident $write:ident $read_sys:ident $write_sys:ident $int:ty;)*) => { $(
        #[doc = concat!("Reads a `", stringify!($int), "` at a linear address with the current privilege.\n\n# Errors\n#PF, #AC, #GP for a non-canonical address.")]
        #[inline(always)]
        pub fn $read(&mut self, linear: u64) -> Exec<$int> {
            self.read::<$int>(linear)
        }
        #[doc = concat!("Writes a `", stringify!($int), "` at a linear address with the current privilege.\n\n# Errors\n#PF, #AC, #GP for a non-canonical address.")]
        #[inline(always)]
        pub fn $write(&mut self, linear: u64, value: $int) -> Exec {
            self.write::<$int>(linear, value)
        }
        #[doc = concat!("Reads a `", stringify!($int), "` of a system structure.\n\n# Errors\n#PF, #GP for a non-canonical address.")]
        pub fn $read_sys(&mut self, linear: u64) -> Exec<$int> {
            self.read_class::<$int>(linear, Class::Supervisor)
        }
        #[doc = concat!("Writes a `", stringify!($int), "` of a system structure.\n\n# Errors\n#PF, #GP for a non-canonical address.")]
        pub fn $write_sys(&mut self, linear: u64, value: $int) -> Exec {
            self.write_class::<$int>(linear, value, Class::Supervisor)
        }
    )* };
}

impl Cpu {
    sized! {
        read_u8 write_u8 read_u8_sys write_u8_sys u8;
        read_u16 write_u16 read_u16_sys write_u16_sys u16;
        read_u32 write_u32 read_u32_sys write_u32_sys u32;
        read_u64 write_u64 read_u64_sys write_u64_sys u64;
        read_u128 write_u128 read_u128_sys write_u128_sys u128;
    }

    /// Reads a word at a linear address with the current privilege.
    ///
    /// # Errors
    /// #PF, #AC, #GP for a non-canonical address.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, linear: u64) -> Exec<T> {
        self.read_class(linear, self.tlb.class())
    }

    /// Writes a word at a linear address with the current privilege.
    ///
    /// # Errors
    /// #PF, #AC, #GP for a non-canonical address.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, linear: u64, value: T) -> Exec {
        self.write_class(linear, value, self.tlb.class())
    }

    #[inline(always)]
    pub(crate) fn read_class<T: Word>(&mut self, linear: u64, class: Class) -> Exec<T> {
        match self.tlb.slot(linear, class).load::<T>(linear) {
            Some(value) => Ok(value),
            None => self.read_slow(linear, T::SIZE, class).map(T::narrow),
        }
    }

    #[inline(always)]
    pub(crate) fn write_class<T: Word>(&mut self, linear: u64, value: T, class: Class) -> Exec {
        match self.tlb.slot(linear, class).store::<T>(linear, value) {
            Some(false) => Ok(()),
            Some(true) => {
                self.code_modified = true;
                Ok(())
            }
            None => self.write_slow(linear, T::SIZE, value.widen(), class),
        }
    }

    /// The host address of `len` bytes (at most a page) at `linear`, when they lie in one page of plain RAM that may be
    /// read. `None`: use the reading functions.
    ///
    /// # Errors
    /// As a read of these bytes; of bytes beyond the first page nothing is checked.
    #[inline]
    pub fn translate_read(&mut self, linear: u64, len: u64) -> Exec<Option<*const u8>> {
        self.host_span::<false>(linear, len).map(|found| found.map(<*mut u8>::cast_const))
    }

    /// The host address of `len` bytes (at most a page) at `linear`, when they lie in one page of plain RAM that may be
    /// written. After the stores call [`Cpu::note_store`]. `None`: use the writing functions.
    ///
    /// # Errors
    /// As a write of these bytes; of bytes beyond the first page nothing is checked.
    #[inline]
    pub fn translate_write(&mut self, linear: u64, len: u64) -> Exec<Option<*mut u8>> {
        self.host_span::<true>(linear, len)
    }

    /// The host address of `len` bytes at `linear`, if the TLB has their page with the right that is wanted.
    #[inline]
    pub(crate) fn host_hit<const WRITE: bool>(&self, linear: u64, len: u64) -> Option<*mut u8> {
        self.tlb.slot(linear, self.tlb.class()).pointer::<WRITE>(linear, len)
    }

    #[inline]
    fn host_span<const WRITE: bool>(&mut self, linear: u64, len: u64) -> Exec<Option<*mut u8>> {
        let class = self.tlb.class();
        if let Some(pointer) = self.tlb.slot(linear, class).pointer::<WRITE>(linear, len) {
            return Ok(Some(pointer));
        }
        if (linear & 0xfff) + len > 0x1000 {
            return Ok(None);
        }
        let kind = if WRITE { AccessKind::Write } else { AccessKind::Read };
        let page = self.page(linear, kind, class)?;
        self.check_alignment(linear, len, class)?;
        if WRITE {
            self.journal(page);
        }
        self.fill(linear, page, class);
        Ok(self.tlb.slot(linear, class).pointer::<WRITE>(linear, len))
    }

    /// Notes a store that was made through a pointer of [`Cpu::translate_write`], before any other memory access.
    #[inline]
    pub fn note_store(&mut self, linear: u64, len: u64) {
        match self.tlb.slot(linear, self.tlb.class()).note_store(linear, len) {
            Some(false) => {}
            // The entry went away: be safe, as if code had been hit.
            Some(true) | None => self.code_modified = true,
        }
    }

    /// Checks that `len` bytes may be written, without writing: for instructions that must fault before they change
    /// anything.
    ///
    /// # Errors
    /// As a write of these bytes.
    pub fn probe_write(&mut self, linear: u64, len: u64) -> Exec {
        let class = self.tlb.class();
        self.check_canonical_end(linear, len.max(1))?;
        self.page(linear, AccessKind::Write, class)?;
        let (end, mask) = (linear.wrapping_add(len.max(1) - 1), self.wrap_mask(linear));
        if (linear ^ end) & !0xfff != 0 {
            self.page(end & mask & !0xfff, AccessKind::Write, class)?;
        }
        Ok(())
    }

    /// Checks that `len` bytes may be read, without reading them.
    ///
    /// # Errors
    /// As a read of these bytes.
    pub fn probe_read(&mut self, linear: u64, len: u64) -> Exec {
        let class = self.tlb.class();
        self.check_canonical_end(linear, len.max(1))?;
        self.page(linear, AccessKind::Read, class)?;
        let (end, mask) = (linear.wrapping_add(len.max(1) - 1), self.wrap_mask(linear));
        if (linear ^ end) & !0xfff != 0 {
            self.page(end & mask & !0xfff, AccessKind::Read, class)?;
        }
        Ok(())
    }

    /// Checks that an access of one byte would be allowed.
    pub(crate) fn probe(&mut self, linear: u64, kind: AccessKind, class: Class) -> Exec {
        self.page(linear, kind, class).map(|_| ())
    }

    /// The page that the instruction at `linear` is fetched from.
    ///
    /// # Errors
    /// #PF, #GP for a non-canonical address.
    #[inline]
    pub fn fetch_page(&mut self, linear: u64) -> Exec<CodePage> {
        let user = self.mode.cpl == 3;
        match self.tlb.fetch_lookup(linear, user) {
            Some(page) => Ok(page),
            None => self.fetch_slow(linear, user),
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch_slow(&mut self, linear: u64, user: bool) -> Exec<CodePage> {
        let class = if user { Class::User } else { Class::Supervisor };
        let found = self.page(linear, AccessKind::Fetch, class)?;
        let page = CodePage { phys: found.phys, ram: found.ram };
        self.tlb.fetch_fill(linear, user, page, found.rights & rights::GLOBAL != 0);
        Ok(page)
    }

    /// Reads code bytes of a page that is not plain RAM; at most to the end of the page.
    pub fn read_code(&mut self, page: CodePage, offset: u64, into: &mut [u8]) {
        self.memory.read(GuestAddress(page.phys + (offset & 0xfff)), into);
    }

    /// Translates one page for an access: first the second level, then the tables.
    fn page(&mut self, linear: u64, kind: AccessKind, class: Class) -> Exec<Page> {
        if self.cr0 & cr::CR0_PG == 0 {
            let phys = self.gate(linear & 0xffff_f000);
            let ram = self.tlb.ram_page(phys);
            return Ok(Page { phys, ram, rights: rights::WRITE | rights::USER | rights::DIRTY });
        }
        if self.mode.long && !is_canonical(linear) {
            return Err(Fault::non_canonical());
        }
        let known = self.tlb.second_lookup(linear).filter(|known| {
            self.allowed(known.rights, kind, class) && (kind != AccessKind::Write || known.rights & rights::DIRTY != 0)
        });
        let translation = match known {
            Some(translation) => translation,
            None => {
                let translation = self.walk(linear, kind, class)?;
                self.tlb.second_fill(linear, translation);
                translation
            }
        };
        let phys = self.gate(translation.phys);
        Ok(Page { phys, ram: self.tlb.ram_page(phys), rights: translation.rights })
    }

    /// Enters a page into the first level, unless accesses to it must be seen.
    fn fill(&mut self, linear: u64, page: Page, class: Class) {
        let Some(ram) = page.ram else { return };
        if class == Class::UserAligned || self.watches_page(linear) {
            return;
        }
        let mut writable = page.rights & rights::DIRTY != 0 && self.allowed(page.rights, AccessKind::Write, class);
        if let Some(lockstep) = &mut self.lockstep
            && let Some(block) = self.tlb.block(ram)
        {
            writable &= lockstep.may_write(block, ram.offset, linear, class);
        }
        self.tlb.data_fill(linear, class, ram, writable, page.rights & rights::GLOBAL != 0);
    }

    /// Before a store to a page: the lock-step mode keeps what is there.
    #[inline]
    fn journal(&mut self, page: Page) {
        if let Some(lockstep) = &mut self.lockstep
            && let Some(ram) = page.ram
            && let Some(block) = self.tlb.block(ram)
        {
            lockstep.enter(block, ram.offset);
        }
    }

    /// An access reaches a device.
    #[inline]
    fn note_device(&mut self) {
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.device();
        }
    }

    fn check_alignment(&self, linear: u64, len: u64, class: Class) -> Exec {
        if class == Class::UserAligned && len.is_power_of_two() && len <= 8 && linear & (len - 1) != 0 {
            return Err(Fault::ac());
        }
        Ok(())
    }

    /// An access that begins in the last canonical page and ends beyond it is non-canonical before its first page is
    /// looked at.
    fn check_canonical_end(&self, linear: u64, len: u64) -> Exec {
        let end = linear.wrapping_add(len - 1);
        if self.mode.is_long64() && !is_canonical(end) { Err(Fault::non_canonical()) } else { Ok(()) }
    }

    /// Linear addresses wrap at 4 GiB outside of 64-bit mode.
    fn wrap_mask(&self, linear: u64) -> u64 {
        if linear > u64::from(u32::MAX) { u64::MAX } else { self.address_mask }
    }

    #[cold]
    #[inline(never)]
    fn read_slow(&mut self, linear: u64, len: u64, class: Class) -> Exec<u128> {
        let left = 0x1000 - (linear & 0xfff);
        self.check_canonical_end(linear, len)?;
        let first = self.page(linear, AccessKind::Read, class)?;
        if len <= left {
            self.check_alignment(linear, len, class)?;
            self.fill(linear, first, class);
            self.note_data_access(linear, len, AccessKind::Read);
            return Ok(self.load_page(first, linear & 0xfff, len));
        }
        let next = linear.wrapping_add(left) & self.wrap_mask(linear);
        let second = self.page(next, AccessKind::Read, class)?;
        self.check_alignment(linear, len, class)?;
        self.note_data_access(linear, len, AccessKind::Read);
        let low = self.load_page(first, linear & 0xfff, left);
        Ok(low | self.load_page(second, 0, len - left) << (8 * left))
    }

    #[cold]
    #[inline(never)]
    fn write_slow(&mut self, linear: u64, len: u64, value: u128, class: Class) -> Exec {
        let left = 0x1000 - (linear & 0xfff);
        self.check_canonical_end(linear, len)?;
        let first = self.page(linear, AccessKind::Write, class)?;
        self.journal(first);
        if len <= left {
            self.check_alignment(linear, len, class)?;
            self.fill(linear, first, class);
            self.note_data_access(linear, len, AccessKind::Write);
            self.store_page(first, linear & 0xfff, len, value);
            self.sync_map();
            return Ok(());
        }
        let next = linear.wrapping_add(left) & self.wrap_mask(linear);
        let second = self.page(next, AccessKind::Write, class)?;
        self.check_alignment(linear, len, class)?;
        self.journal(second);
        self.note_data_access(linear, len, AccessKind::Write);
        self.store_page(first, linear & 0xfff, left, low_bytes(value, left));
        self.store_page(second, 0, len - left, value >> (8 * left));
        // A device may have changed the memory map or the A20 gate, and what follows must see it.
        self.sync_map();
        Ok(())
    }

    /// Loads up to 16 bytes inside of a page.
    fn load_page(&mut self, page: Page, offset: u64, len: u64) -> u128 {
        if let Some(ram) = page.ram
            && let Some(block) = self.tlb.block(ram)
        {
            let at = ram.offset + offset as usize;
            return match len {
                1 => block.load_u8(at).map_or(0, u128::from),
                2 => block.load_u16(at).map_or(0, u128::from),
                4 => block.load_u32(at).map_or(0, u128::from),
                8 => block.load_u64(at).map_or(0, u128::from),
                _ => {
                    let mut bytes = [0; 16];
                    block.read(at, &mut bytes[..len.min(16) as usize]);
                    u128::from_le_bytes(bytes)
                }
            };
        }
        self.note_device();
        let (mut value, mut done) = (0u128, 0);
        while done < len {
            let size = piece(len - done);
            let part = self.memory.load(GuestAddress(page.phys + offset + done), size);
            value |= u128::from(part) << (8 * done);
            done += size.bytes() as u64;
        }
        value
    }

    /// Stores up to 16 bytes inside of a page.
    fn store_page(&mut self, page: Page, offset: u64, len: u64, value: u128) {
        // Stores to ROM may be meant for a device behind it.
        if let Some(ram) = page.ram.filter(|ram| !ram.read_only)
            && let Some(block) = self.tlb.block(ram)
        {
            let at = ram.offset + offset as usize;
            // A hit takes the marks away, so they are looked at before. Those of other vCPUs don't matter here.
            let watched = block.page_code(at).is_some_and(memory::PageCode::is_watched);
            match len {
                1 => block.store_u8(at, value as u8),
                2 => block.store_u16(at, value as u16),
                4 => block.store_u32(at, value as u32),
                8 => block.store_u64(at, value as u64),
                _ => block.write(at, &value.to_le_bytes()[..len.min(16) as usize]),
            };
            if watched {
                self.code_modified = true;
            }
            return;
        }
        self.note_device();
        let mut done = 0;
        while done < len {
            let size = piece(len - done);
            let part = (value >> (8 * done)) as u64 & size.mask();
            self.memory.store(GuestAddress(page.phys + offset + done), size, part);
            done += size.bytes() as u64;
        }
    }

    /// Takes over a changed memory map or A20 gate.
    #[inline]
    pub(crate) fn sync_map(&mut self) {
        if !self.map_is_current() {
            self.reload_map();
        }
    }

    /// Whether the TLB knows the memory map and the A20 gate as they are.
    #[inline]
    pub(crate) fn map_is_current(&self) -> bool {
        self.tlb.map_is(self.memory.generation()) && self.tlb.a20 == self.a20_is_open()
    }

    /// Whether address bit 20 passes. System-management mode does not see the gate.
    fn a20_is_open(&self) -> bool {
        self.smm.active || self.a20.load(Ordering::Acquire)
    }

    /// Takes the memory that the vCPU sees in its mode. Nothing that was derived from the other one stays.
    pub(crate) fn select_memory(&mut self) {
        let memory = self.smm_memory.as_ref().filter(|_| self.smm.active).unwrap_or(&self.normal_memory);
        self.memory = Arc::clone(memory);
        self.reload_map();
    }

    #[cold]
    pub(crate) fn reload_map(&mut self) {
        // The generation first: a change in between makes the next comparison fail.
        let generation = self.memory.generation();
        let view = self.memory.view();
        self.tlb.a20 = self.a20_is_open();
        self.tlb.set_map(view, generation);
        self.exit_request = true;
    }
}

/// The largest power of two that is at most `left` and eight.
fn piece(left: u64) -> AccessSize {
    match left {
        1 => AccessSize::Byte,
        2 | 3 => AccessSize::Word,
        4..=7 => AccessSize::Dword,
        _ => AccessSize::Qword,
    }
}
