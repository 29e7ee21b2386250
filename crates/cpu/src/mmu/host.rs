//! Raw host memory behind the translation cache: the one module of the memory unit with `unsafe`.
//!
//! Guest RAM is shared with other vCPUs and devices, so it is never borrowed. Loads and stores here are single host
//! `mov` instructions in inline assembly: they follow the memory model of the hardware (aligned ones are atomic, all are
//! ordered as on x86), which is the guest's own.
//!
//! Invariant of [`DataEntry`]: a non-zero tag stands with `host` pointing to 4096 bytes inside of a [`RamBlock`] that
//! the owning [`super::Tlb`] keeps alive, and `code` to that page's [`PageCode`] in the same block. Only
//! [`DataEntry::fill`] makes such entries, and [`super::Tlb`] clears them all before it lets go of the blocks.

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

/// One entry of the data side: a page of RAM with what may be done to it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct DataEntry {
    read_tag: u64,
    write_tag: u64,
    host: *mut u8,
    code: *const PageCode,
}

// SAFETY: the pointers lead into RAM blocks, which are shared between threads as arrays of atomics are.
unsafe impl Send for DataEntry {}

impl DataEntry {
    pub(crate) const EMPTY: Self =
        Self { read_tag: 0, write_tag: 0, host: std::ptr::null_mut(), code: std::ptr::null() };

    /// Lets the entry stand for the page at `offset` of `block`, which the caller keeps alive as long as the entry has a
    /// tag. A tag of 0 denies the access. `false` (and an empty entry) when the block has no such page.
    pub(crate) fn fill(&mut self, block: &RamBlock, offset: usize, read_tag: u64, write_tag: u64) -> bool {
        *self = Self::EMPTY;
        let in_block = offset.is_multiple_of(PAGE_SIZE) && offset < block.len();
        let Some(code) = block.page_code(offset).filter(|_| in_block) else { return false };
        // SAFETY: the block is a multiple of the page size, so the whole page at `offset` lies inside.
        self.host = unsafe { block.host_base().as_ptr().add(offset) };
        self.code = code;
        (self.read_tag, self.write_tag) = (read_tag, write_tag);
        true
    }

    /// Empties the entry.
    pub(crate) fn clear(&mut self) {
        (self.read_tag, self.write_tag) = (0, 0);
    }

    /// Whether the entry is tagged for the page, in any generation.
    pub(crate) fn is_page(&self, page: u64) -> bool {
        self.read_tag & !0xfff == page || self.write_tag & !0xfff == page
    }

    /// Loads a word when `tag`, the tag of the page of the word's *last* byte, is this entry's.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&self, linear: u64, tag: u64) -> Option<T> {
        if self.read_tag != tag {
            return None;
        }
        debug_assert_ne!(tag, 0);
        let offset = (linear as usize) & (PAGE_SIZE - 1);
        if offset > PAGE_SIZE - T::SIZE as usize {
            // Can't be: the first byte would be in another page than the last. Kept as the proof of what follows.
            return None;
        }
        // SAFETY: the entry is tagged, so `host` is a live page of RAM (see the module's invariant), and the word lies
        // inside of it.
        Some(unsafe { T::load_host(self.host.add(offset)) })
    }

    /// Stores a word when `tag`, the tag of the page of the word's *last* byte, is this entry's. `Some(true)` when the
    /// store hit decoded code.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&self, linear: u64, tag: u64, value: T) -> Option<bool> {
        if self.write_tag != tag {
            return None;
        }
        let offset = (linear as usize) & (PAGE_SIZE - 1);
        if offset > PAGE_SIZE - T::SIZE as usize {
            return None;
        }
        // SAFETY: as in `load`.
        unsafe { T::store_host(self.host.add(offset), value) };
        // SAFETY: a tagged entry's `code` is the page's tracking in the same live block.
        let code = unsafe { &*self.code };
        Some(code.is_watched() && code.note_store(offset, T::SIZE as usize))
    }

    /// The host address of `len` bytes at `linear`, when all lie in this page and the entry has the tag.
    #[inline(always)]
    pub(crate) fn pointer<const WRITE: bool>(&self, linear: u64, len: u64, tag: u64) -> Option<*mut u8> {
        let own = if WRITE { self.write_tag } else { self.read_tag };
        let offset = linear & (PAGE_SIZE as u64 - 1);
        if own != tag || len > PAGE_SIZE as u64 - offset {
            return None;
        }
        // SAFETY: the entry is tagged, so `host` is a live page of RAM and the offset lies inside.
        Some(unsafe { self.host.add(offset as usize) })
    }

    /// Notes a store of `len` bytes at `linear` that was made through [`DataEntry::pointer`]; `None` when the entry is
    /// no longer the page's.
    #[inline(always)]
    pub(crate) fn note_store(&self, linear: u64, len: u64, tag: u64) -> Option<bool> {
        if self.write_tag != tag {
            return None;
        }
        // SAFETY: a tagged entry's `code` is the page's tracking in a live block.
        let code = unsafe { &*self.code };
        Some(code.is_watched() && code.note_store((linear & (PAGE_SIZE as u64 - 1)) as usize, len as usize))
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
