//! Memory for generated host code: [`CodeMemory`] is mapped twice, once writable and once executable, and never both
//! through one mapping. [`LowBox`] holds tables below 2 GiB, where generated code reaches them by a 32-bit absolute
//! address without a base register.
//!
//! Callers decide what code they run; nothing here executes anything.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// `MAP_32BIT` of Linux on x86-64: an address below 2 GiB.
const MAP_32BIT: u32 = 0x40;

/// A region of memory for generated code with a writable and an executable view.
#[derive(Debug)]
pub struct CodeMemory {
    write: NonNull<u8>,
    execute: NonNull<u8>,
    len: usize,
    file: std::os::fd::OwnedFd,
}

// SAFETY: the mappings belong to the value and are only changed through `&mut self`.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `len` bytes, rounded up to pages. The host gives pages as they are written.
    ///
    /// # Errors
    /// The host refuses the file or one of the mappings (for example because it forbids executable memory).
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(4096);
        let file = rustix::fs::memfd_create("ouzel-code", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, len as u64)?;
        let map = |protection: ProtFlags| {
            // SAFETY: a new shared mapping of our own file at an address that the kernel chooses aliases no Rust object.
            let at = unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    len,
                    protection,
                    MapFlags::SHARED | MapFlags::NORESERVE,
                    &file,
                    0,
                )
            }?;
            NonNull::new(at.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)
        };
        let write = map(ProtFlags::READ | ProtFlags::WRITE)?;
        match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(execute) => Ok(Self { write, execute, len, file }),
            Err(error) => {
                // SAFETY: the mapping was made above with this length and nothing refers to it.
                let _ = unsafe { rustix::mm::munmap(write.as_ptr().cast(), len) };
                Err(error.into())
            }
        }
    }

    /// The size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address at which the byte at `offset` is executed.
    pub fn address(&self, offset: usize) -> u64 {
        self.execute.as_ptr() as u64 + offset as u64
    }

    /// Copies code to `offset`; `false`, and nothing done, when it does not fit. Generated code must not run while its
    /// own bytes change, except for aligned branch displacements.
    #[must_use]
    pub fn write(&mut self, offset: usize, code: &[u8]) -> bool {
        if offset.checked_add(code.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: the range lies inside of the writable mapping, which only `self` refers to.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.as_ptr().add(offset), code.len()) };
        true
    }

    /// The bytes of `len` at `offset`, as far as they are inside.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = offset.min(self.len);
        let len = len.min(self.len - start);
        // SAFETY: the range lies inside of the mapping, which changes only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.write.as_ptr().add(start), len) }
    }

    /// Gives the host memory of everything back; the contents become zero.
    pub fn clear(&mut self) {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Hosts whose memory files have no holes keep the memory, which is harmless.
        let _unsupported = rustix::fs::fallocate(&self.file, punch, 0, self.len as u64);
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for at in [self.write, self.execute] {
            // SAFETY: both mappings were made in `new` with this length; nothing refers to them any more.
            let _ = unsafe { rustix::mm::munmap(at.as_ptr().cast(), self.len) };
        }
    }
}

/// Types for which all-zero bytes are a valid value.
///
/// # Safety
/// A value whose bytes are all zero must be valid.
pub unsafe trait Zeroable {}

// SAFETY: bytes.
unsafe impl<const N: usize> Zeroable for [u8; N] {}

/// An owned, zero-initialised value at an address below 2 GiB (see [`LowBox::is_low`]), which never moves.
#[derive(Debug)]
pub struct LowBox<T: Zeroable> {
    at: NonNull<T>,
}

// SAFETY: the box owns its value as `Box` does.
unsafe impl<T: Zeroable + Send> Send for LowBox<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroable + Sync> Sync for LowBox<T> {}

impl<T: Zeroable> LowBox<T> {
    /// A zeroed value. The host gives pages as they are touched.
    ///
    /// # Errors
    /// The host has no room below 2 GiB.
    pub fn zeroed() -> io::Result<Self> {
        let low = Self::mapped(MapFlags::from_bits_retain(MAP_32BIT))?;
        if low.is_low() { Ok(low) } else { Err(io::Error::from(rustix::io::Errno::NOMEM)) }
    }

    /// The same at any address where the host has no room below 2 GiB.
    ///
    /// # Errors
    /// The host has no room at all.
    pub fn zeroed_low_or_not() -> io::Result<Self> {
        Self::zeroed().or_else(|_full| Self::mapped(MapFlags::empty()))
    }

    fn mapped(where_to: MapFlags) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | where_to;
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses aliases nothing.
        let at = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), Self::bytes(), ProtFlags::READ | ProtFlags::WRITE, flags)
        }?;
        let at = NonNull::new(at.cast::<T>()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { at })
    }

    fn bytes() -> usize {
        size_of::<T>().max(1).next_multiple_of(4096)
    }

    /// Whether the value is below 2 GiB, as it always is after [`LowBox::zeroed`].
    pub fn is_low(&self) -> bool {
        self.at.as_ptr() as u64 + Self::bytes() as u64 <= 1 << 31
    }

    /// Where the value is, if it is low.
    pub fn address(&self) -> u32 {
        self.at.as_ptr() as u32
    }
}

impl<T: Zeroable> Deref for LowBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: mapped, zero-initialised (valid by the trait) and owned.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Zeroable> DerefMut for LowBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { self.at.as_mut() }
    }
}

impl<T: Zeroable> Drop for LowBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value is valid and dropped once; then its mapping, made in `zeroed`, goes.
        unsafe {
            std::ptr::drop_in_place(self.at.as_ptr());
            let _ = rustix::mm::munmap(self.at.as_ptr().cast(), Self::bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_written_through_one_view_appears_in_the_other() {
        let mut memory = CodeMemory::new(5000).expect("code memory");
        assert_eq!(memory.len(), 8192);
        assert!(memory.write(8190, &[1, 2]));
        assert!(!memory.write(8191, &[1, 2]));
        assert!(!memory.write(usize::MAX, &[1]));
        assert_eq!(memory.bytes(8190, 10), [1, 2]);
        assert_ne!(memory.address(0), 0);
    }

    #[test]
    fn low_box_is_zeroed_and_below_two_gigabytes() {
        struct Table([u64; 4096]);
        // SAFETY: an array of integers.
        unsafe impl Zeroable for Table {}
        let mut table = LowBox::<Table>::zeroed().expect("low memory");
        assert!(table.address() < 0x7fff_0000);
        assert!(table.0.iter().all(|word| *word == 0));
        table.0[4095] = 7;
        assert_eq!(table.0[4095], 7);
    }
}
