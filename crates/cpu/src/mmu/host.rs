//! Raw host memory behind the translation cache: the one module of the memory unit with `unsafe`.
//!
//! Guest RAM is shared with other vCPUs and devices, so it is never borrowed. Loads and stores here are single host
//! `mov` instructions in inline assembly: they follow the memory model of the hardware (aligned ones are atomic, all are
//! ordered as on x86), which is the guest's own.
//!
//! Invariant of [`DataEntry`]: a tag that an address of its slot can match stands with `host` pointing to 4096 bytes
//! inside of a [`RamBlock`] that the owning [`super::Tlb`] keeps alive, and `code` to that page's [`PageCode`] in the
//! same block. Only [`DataEntry::fill`] makes such entries, and [`super::Tlb`] clears them all before it lets go of the
//! blocks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::{PAGE_SIZE, PageCode, RamBlock};

/// An integer that guest memory holds.
pub trait Word: Copy {
    /// Its size in bytes.
    const SIZE: u64;
    /// Zero-extends (or keeps the low part) to 128 bits.
    fn widen(self) -> u128;
    /// The low part of 128 bits.
    fn narrow(value: u128) -> Self;
    /// Loads through a host pointer.
    ///
    /// # Safety
    /// `from` points to `SIZE` readable bytes of guest RAM.
    unsafe fn load_host(from: *const u8) -> Self;
    /// Stores through a host pointer.
    ///
    /// # Safety
    /// `to` points to `SIZE` writable bytes of guest RAM.
    unsafe fn store_host(to: *mut u8, value: Self);
}

macro_rules! word {
    ($int:ty, $class:ident, $load:literal, $store:literal) => {
        impl Word for $int {
            const SIZE: u64 = size_of::<$int>() as u64;
            #[inline(always)]
            fn widen(self) -> u128 {
                u128::from(self)
            }
            #[inline(always)]
            fn narrow(value: u128) -> Self {
                value as $int
            }
            #[inline(always)]
            unsafe fn load_host(from: *const u8) -> Self {
                let value: $int;
                // SAFETY: the caller vouches for the pointer; the instruction only reads it.
                unsafe {
                    std::arch::asm!($load, value = out($class) value, from = in(reg) from,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[inline(always)]
            unsafe fn store_host(to: *mut u8, value: Self) {
                // SAFETY: the caller vouches for the pointer; the instruction only writes it.
                unsafe {
                    std::arch::asm!($store, value = in($class) value, to = in(reg) to,
                        options(nostack, preserves_flags));
                }
            }
        }
    };
}

word!(u8, reg_byte, "mov {value}, byte ptr [{from}]", "mov byte ptr [{to}], {value}");
word!(u16, reg, "mov {value:x}, word ptr [{from}]", "mov word ptr [{to}], {value:x}");
word!(u32, reg, "mov {value:e}, dword ptr [{from}]", "mov dword ptr [{to}], {value:e}");
word!(u64, reg, "mov {value}, qword ptr [{from}]", "mov qword ptr [{to}], {value}");

impl Word for u128 {
    const SIZE: u64 = 16;
    #[inline(always)]
    fn widen(self) -> u128 {
        self
    }
    #[inline(always)]
    fn narrow(value: u128) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load_host(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 bytes, which are two words.
        let (low, high) = unsafe { (u64::load_host(from), u64::load_host(from.add(8))) };
        u128::from(high) << 64 | u128::from(low)
    }
    #[inline(always)]
    unsafe fn store_host(to: *mut u8, value: Self) {
        // SAFETY: the caller vouches for 16 bytes, which are two words.
        unsafe {
            u64::store_host(to, value as u64);
            u64::store_host(to.add(8), (value >> 64) as u64);
        }
    }
}

/// One entry of the data side: a page of RAM with what may be done to it. Translated code reads it too, so the layout
/// is fixed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct DataEntry {
    /// The linear page that may be read; exclusive-or with an address inside leaves the offset in the page.
    pub(crate) read_tag: u64,
    /// The linear page that may be written.
    pub(crate) write_tag: u64,
    pub(crate) host: *mut u8,
    pub(crate) code: *const PageCode,
}

// SAFETY: the pointers lead into RAM blocks, which are shared between threads as arrays of atomics are.
unsafe impl Send for DataEntry {}

/// Log2 of the size of a [`DataEntry`].
pub(crate) const DATA_ENTRY_SHIFT: u32 = size_of::<DataEntry>().trailing_zeros();

impl DataEntry {
    /// The tag that no address of this slot matches: a page of another slot. Zero wherever that will do, so that fresh
    /// memory is an empty table.
    #[inline(always)]
    pub(crate) const fn no_tag(slot: usize) -> u64 {
        if slot == 0 { 1 << 12 } else { 0 }
    }

    /// Lets the entry of `slot` stand for the page at `offset` of `block`, which the caller keeps alive as long as the
    /// entry has a tag. `false` (and an empty entry) when the block has no such page.
    pub(crate) fn fill(&mut self, slot: usize, block: &RamBlock, offset: usize, page: u64, writable: bool) -> bool {
        self.clear(slot);
        let in_block = offset.is_multiple_of(PAGE_SIZE) && offset < block.len();
        let Some(code) = block.page_code(offset).filter(|_| in_block) else { return false };
        // SAFETY: the block is a multiple of the page size, so the whole page at `offset` lies inside.
        self.host = unsafe { block.host_base().as_ptr().add(offset) };
        self.code = code;
        self.read_tag = page;
        if writable {
            self.write_tag = page;
        }
        true
    }

    /// Empties the entry of `slot`.
    pub(crate) fn clear(&mut self, slot: usize) {
        *self = Self {
            read_tag: Self::no_tag(slot),
            write_tag: Self::no_tag(slot),
            host: std::ptr::null_mut(),
            code: std::ptr::null(),
        };
    }

    /// Whether the entry may be used for reads of the page.
    pub(crate) fn is_page(&self, page: u64) -> bool {
        self.read_tag == page
    }

    /// The offset in the page when all `len` bytes (1 to 4096) at `linear` may be read (or written).
    #[inline(always)]
    fn offset<const WRITE: bool>(&self, linear: u64, len: u64) -> Option<usize> {
        let offset = linear ^ if WRITE { self.write_tag } else { self.read_tag };
        (offset <= (PAGE_SIZE as u64).wrapping_sub(len)).then_some(offset as usize)
    }

    /// Loads a word when all its bytes are in this entry's page.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&self, linear: u64) -> Option<T> {
        let offset = self.offset::<false>(linear, T::SIZE)?;
        // SAFETY: the entry is tagged, so `host` is a live page of RAM (see the module's invariant), and the word lies
        // inside of it.
        Some(unsafe { T::load_host(self.host.add(offset)) })
    }

    /// Stores a word when all its bytes are in this entry's page. `Some(true)` when the store hit decoded code.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&self, linear: u64, value: T) -> Option<bool> {
        let offset = self.offset::<true>(linear, T::SIZE)?;
        // SAFETY: as in `load`.
        unsafe { T::store_host(self.host.add(offset), value) };
        // SAFETY: a tagged entry's `code` is the page's tracking in the same live block.
        let code = unsafe { &*self.code };
        Some(code.is_watched() && code.note_store(offset, T::SIZE as usize))
    }

    /// The host address of `len` bytes at `linear`, when all lie in this entry's page.
    #[inline(always)]
    pub(crate) fn pointer<const WRITE: bool>(&self, linear: u64, len: u64) -> Option<*mut u8> {
        let offset = self.offset::<WRITE>(linear, len.max(1)).filter(|_| len <= PAGE_SIZE as u64)?;
        // SAFETY: the entry is tagged, so `host` is a live page of RAM and the offset lies inside.
        Some(unsafe { self.host.add(offset) })
    }

    /// Notes a store of `len` bytes at `linear` that was made through [`DataEntry::pointer`]; `None` when the entry is
    /// no longer the page's.
    #[inline(always)]
    pub(crate) fn note_store(&self, linear: u64, len: u64) -> Option<bool> {
        let offset = self.offset::<true>(linear, len.max(1))?;
        // SAFETY: a tagged entry's `code` is the page's tracking in a live block.
        let code = unsafe { &*self.code };
        Some(code.is_watched() && code.note_store(offset, len as usize))
    }
}

/// Replaces the aligned 32-bit word at `offset` if it still is `old`.
pub(crate) fn compare_exchange_u32(block: &RamBlock, offset: usize, old: u32, new: u32) -> bool {
    if !offset.is_multiple_of(4) || offset.checked_add(4).is_none_or(|end| end > block.len()) {
        return false;
    }
    // SAFETY: in bounds and aligned by the check above; the block is only accessed through atomics.
    let cell = unsafe { &*block.host_base().as_ptr().add(offset).cast::<AtomicU32>() };
    let done = cell.compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
    block.note_store(offset, 4);
    done
}

/// Replaces the aligned 64-bit word at `offset` if it still is `old`.
pub(crate) fn compare_exchange_u64(block: &RamBlock, offset: usize, old: u64, new: u64) -> bool {
    if !offset.is_multiple_of(8) || offset.checked_add(8).is_none_or(|end| end > block.len()) {
        return false;
    }
    // SAFETY: in bounds and aligned by the check above; the block is only accessed through atomics.
    let cell = unsafe { &*block.host_base().as_ptr().add(offset).cast::<AtomicU64>() };
    let done = cell.compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
    block.note_store(offset, 8);
    done
}

/// What translated code looks up: the first level of the data side and the epochs of fetching. Below 2 GiB where the
/// host has room there; else there is no translated code.
#[repr(C)]
pub(crate) struct Tables {
    /// One table for each [`super::Class`].
    pub(crate) data: [[DataEntry; super::tlb::SLOTS]; 4],
    /// See [`super::Tlb::epoch`].
    pub(crate) epochs: [u32; 2],
}

// SAFETY: integers and raw pointers; zero tags are empty but in slot 0, where [`Tables::new`] replaces them.
unsafe impl codemem::Zeroable for Tables {}

impl Tables {
    pub(crate) fn new() -> codemem::LowBox<Self> {
        // Like any allocation: without memory the program ends.
        let mut tables: codemem::LowBox<Self> = codemem::LowBox::zeroed_low_or_not()
            .unwrap_or_else(|error| panic!("no memory for the tables of a vCPU: {error}"));
        for table in &mut tables.data {
            table[0].clear(0);
        }
        tables
    }

    pub(crate) fn clear(&mut self) {
        for table in &mut self.data {
            table.iter_mut().enumerate().for_each(|(slot, entry)| entry.clear(slot));
        }
    }
}

/// A field of an entry of the data side, for translated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataField {
    Read,
    Write,
    Host,
    Code,
}

/// Where translated code finds the tables of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TablesLayout(u32);

impl TablesLayout {
    pub(crate) fn of(tables: &codemem::LowBox<Tables>) -> Self {
        Self(tables.address())
    }

    /// The address of a field of the first entry of a class.
    pub(crate) fn field(self, class: u8, field: DataField) -> u32 {
        let field = match field {
            DataField::Read => std::mem::offset_of!(DataEntry, read_tag),
            DataField::Write => std::mem::offset_of!(DataEntry, write_tag),
            DataField::Host => std::mem::offset_of!(DataEntry, host),
            DataField::Code => std::mem::offset_of!(DataEntry, code),
        };
        let table = size_of::<[DataEntry; super::tlb::SLOTS]>() * usize::from(class & 3);
        self.0 + (std::mem::offset_of!(Tables, data) + table + field) as u32
    }

    /// The address of the epoch of the half of the address space that holds `linear`.
    pub(crate) fn epoch(self, linear: u64) -> u32 {
        self.0 + std::mem::offset_of!(Tables, epochs) as u32 + 4 * (linear >> 63) as u32
    }
}
