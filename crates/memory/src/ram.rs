//! Blocks of guest RAM: anonymous host memory, or files, shared by all threads.
//!
//! Guest memory is written by vCPU threads and devices at the same time, as real memory is, so it is never borrowed as
//! a Rust slice: all accesses are atomic (relaxed; host and guest are both x86-ordered, or the CPU adds fences) or copy
//! bytes through atomics. This is one of the modules that may use `unsafe`.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::code::PageCode;
use crate::foreign::Guard;

/// log2 of the guest page size.
pub const PAGE_SHIFT: u32 = 12;
/// The guest page size in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// Why a RAM block could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is zero, not a multiple of the page size, or more than the host can address.
    #[error("RAM size {0:#x} is not a positive multiple of 4 KiB")]
    BadSize(u64),
    /// The host refused the memory.
    #[error("cannot set up guest memory '{name}' of {size} bytes")]
    Map {
        /// The block's name.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// What the host said.
        source: rustix::io::Errno,
    },
    /// A file has fewer bytes than are to be shown.
    #[error("there are no {len:#x} bytes at {offset:#x} of the file behind guest memory '{name}'")]
    ShortFile {
        /// The block's name.
        name: String,
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// What is no file has no bytes that stay.
    #[error("what is behind guest memory '{0}' is not a file")]
    NoFile(String),
}

/// A part of a block of RAM, and what holds its contents.
#[derive(Clone, Copy, Debug)]
pub struct RamPiece<'a> {
    /// Its length: a positive multiple of 4 KiB.
    pub len: u64,
    /// The file that holds it from its beginning; anonymous memory without one.
    pub file: Option<BorrowedFd<'a>>,
    /// Whether stores reach the file, and other programs that map it.
    pub is_shared: bool,
    /// Whether the host gives all of its pages at once.
    pub is_populated: bool,
}

/// A block of guest RAM (or of a ROM's contents).
#[derive(Debug)]
pub struct RamBlock {
    name: String,
    base: NonNull<u8>,
    len: usize,
    /// The mapping that the block lies in.
    mapping: (NonNull<u8>, usize),
    code: NonNull<PageCode>,
    /// What makes a file that shrinks harmless.
    guard: Option<Guard>,
}

// SAFETY: the mapping lives as long as the block; every access goes through atomics, so that sharing it between threads
// is as sound as sharing an array of atomics.
unsafe impl Send for RamBlock {}
// SAFETY: as above.
unsafe impl Sync for RamBlock {}

fn map(name: &str, len: usize) -> Result<NonNull<u8>, RamError> {
    let failed = |source| RamError::Map { name: name.to_owned(), size: len as u64, source };
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses aliases nothing.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            len,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE,
        )
    }
    .map_err(failed)?;
    NonNull::new(base.cast()).ok_or_else(|| failed(rustix::io::Errno::NOMEM))
}

macro_rules! sized_access {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        #[doc = concat!("Loads a little-endian `", stringify!($int), "`; `None` outside of the block. Atomic when aligned.")]
        #[inline]
        pub fn $load(&self, offset: usize) -> Option<$int> {
            const N: usize = size_of::<$int>();
            if offset > self.len.checked_sub(N)? {
                return None;
            }
            if offset.is_multiple_of(N) {
                // SAFETY: in bounds by the check above and aligned; the block is only accessed through atomics.
                let cell = unsafe { &*self.base.as_ptr().add(offset).cast::<$atomic>() };
                return Some(<$int>::from_le(cell.load(Ordering::Relaxed)));
            }
            let mut bytes = [0; N];
            self.copy_out(offset, &mut bytes);
            Some(<$int>::from_le_bytes(bytes))
        }

        #[doc = concat!("Stores a little-endian `", stringify!($int), "`; `false` outside of the block. Atomic when aligned.")]
        #[inline]
        pub fn $store(&self, offset: usize, value: $int) -> bool {
            const N: usize = size_of::<$int>();
            if self.len < N || offset > self.len - N {
                return false;
            }
            if offset.is_multiple_of(N) {
                // SAFETY: in bounds by the check above and aligned; the block is only accessed through atomics.
                let cell = unsafe { &*self.base.as_ptr().add(offset).cast::<$atomic>() };
                cell.store(value.to_le(), Ordering::Relaxed);
            } else {
                self.copy_in(offset, &value.to_le_bytes());
            }
            self.note_store(offset, N);
            true
        }
    };
}

impl RamBlock {
    /// Gets `size` bytes of zeroed memory, a positive multiple of 4 KiB. The host gives pages as they are touched.
    ///
    /// # Errors
    /// [`RamError::BadSize`] and [`RamError::Map`].
    pub fn new(name: &str, size: u64) -> Result<Self, RamError> {
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len != 0 && len % PAGE_SIZE == 0 && *len <= isize::MAX as usize)
            .ok_or(RamError::BadSize(size))?;
        let code_len = (len >> PAGE_SHIFT) * size_of::<PageCode>();
        let base = map(name, len)?;
        // All-zero bytes are a valid `PageCode`, and the mapping is page-aligned.
        let code = map(name, code_len)?.cast();
        Ok(Self { name: name.to_owned(), base, len, mapping: (base, len), code, guard: None })
    }

    /// `len` bytes of a file of another program from `offset` on, shared with it. Both are multiples of 4 KiB. If the
    /// other program makes the file shorter, what was behind its new end reads as zeroes here, and is shared no more.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn of_file(name: &str, file: impl AsFd, offset: u64, len: u64) -> Result<Self, RamError> {
        use rustix::mm::{MapFlags, ProtFlags};
        const HUGETLBFS: i64 = 0x9584_58f6;
        let file = file.as_fd();
        let failed = |source| RamError::Map { name: name.to_owned(), size: len, source };
        let stat = rustix::fs::fstat(file).map_err(failed)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(RamError::NoFile(name.to_owned()));
        }
        let end = offset.checked_add(len).filter(|end| *end <= u64::try_from(stat.st_size).unwrap_or(0));
        let end = end.ok_or_else(|| RamError::ShortFile { name: name.to_owned(), offset, len })?;
        let system = rustix::fs::fstatfs(file).map_err(failed)?;
        // Huge pages are mapped as a whole.
        let page = match u64::try_from(system.f_bsize) {
            Ok(size) if system.f_type == HUGETLBFS && size.is_power_of_two() => size.max(PAGE_SIZE as u64),
            _ => PAGE_SIZE as u64,
        };
        let usable = len != 0 && (offset | len).is_multiple_of(PAGE_SIZE as u64);
        let from = offset / page * page;
        let whole = end.checked_next_multiple_of(page).and_then(|end| usize::try_from(end - from).ok());
        let whole = whole.filter(|whole| usable && *whole <= isize::MAX as usize).ok_or(RamError::BadSize(len))?;
        let (flags, protection) = (MapFlags::SHARED | MapFlags::NORESERVE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping at an address that the kernel chooses; all accesses are atomic, as those of the other
        // program have to be.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), whole, protection, flags, file, from) };
        let start: Option<NonNull<u8>> = NonNull::new(start.map_err(failed)?.cast());
        let start = start.ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
        // SAFETY: `len` bytes from there on are inside of the mapping.
        let base = unsafe { start.add((offset - from) as usize) };
        let len = len as usize;
        let unmap = || {
            // SAFETY: the mapping that was just made, which nobody else knows.
            let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), whole) };
        };
        let code = map(name, (len >> PAGE_SHIFT) * size_of::<PageCode>()).inspect_err(|_| unmap())?.cast();
        let mut block = Self { name: name.to_owned(), base, len, mapping: (start, whole), code, guard: None };
        block.guard = Some(Guard::new(start, whole, page as usize).map_err(failed)?);
        Ok(block)
    }

    /// A block whose memory is made of pieces, one after another.
    ///
    /// # Errors
    /// [`RamError::BadSize`] and [`RamError::Map`].
    pub fn of_pieces(name: &str, pieces: &[RamPiece<'_>]) -> Result<Self, RamError> {
        let total = pieces.iter().try_fold(0_u64, |total, piece| total.checked_add(piece.len));
        let block = Self::new(name, total.ok_or(RamError::BadSize(u64::MAX))?)?;
        let mut offset = 0;
        for piece in pieces {
            let len = usize::try_from(piece.len).ok().filter(|len| *len != 0 && len.is_multiple_of(PAGE_SIZE));
            let len = len.ok_or(RamError::BadSize(piece.len))?;
            block.replace(offset, len, piece).map_err(|source| RamError::Map {
                name: name.to_owned(),
                size: piece.len,
                source,
            })?;
            offset += len;
        }
        Ok(block)
    }

    /// Maps what holds a piece over the anonymous memory of a block that nobody else knows yet.
    fn replace(&self, offset: usize, len: usize, piece: &RamPiece<'_>) -> Result<(), rustix::io::Errno> {
        use rustix::mm::{Advice, MapFlags, ProtFlags};
        debug_assert!(self.contains(offset, len));
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let sharing = if piece.is_shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let flags = sharing | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: in bounds by the caller, and nobody has a reference into the mapping that is replaced.
        let at = unsafe { self.base.as_ptr().add(offset) }.cast();
        if let Some(file) = piece.file {
            // SAFETY: replaces a part of our own mapping with one of the same length; all accesses are atomic, as those
            // of other programs that change the file have to be.
            unsafe { rustix::mm::mmap(at, len, protection, flags, file, 0) }?;
        } else if piece.is_shared {
            // SAFETY: as above.
            unsafe { rustix::mm::mmap_anonymous(at, len, protection, flags) }?;
        }
        if piece.is_populated {
            // SAFETY: our own mapping; this changes nothing in it.
            unsafe { rustix::mm::madvise(at, len, Advice::LinuxPopulateWrite) }?;
        }
        Ok(())
    }

    /// Says whether the host may share equal pages of a part of the block (KSM), and whether a core dump of this process
    /// contains it. Hosts without these features ignore the wish; so does this for a part that is not in the block.
    pub fn advise(&self, offset: usize, len: usize, (mergeable, dumpable): (bool, bool)) {
        use rustix::mm::Advice;
        if !self.contains(offset, len) {
            return;
        }
        let merge = if mergeable { Advice::LinuxMergeable } else { Advice::LinuxUnmergeable };
        let dump = if dumpable { Advice::LinuxDoDump } else { Advice::LinuxDontDump };
        for advice in [merge, dump] {
            // SAFETY: the range is in our own mapping, and none of these changes what it contains.
            let _unsupported = unsafe { rustix::mm::madvise(self.base.as_ptr().add(offset).cast(), len, advice) };
        }
    }

    /// The block's name, as QEMU names it: `pc.ram`, `pc.bios`, ….
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The host address of the first byte, for a vCPU's TLB and for KVM. Valid for [`RamBlock::len`] bytes while the
    /// block lives. Whoever stores through it calls [`RamBlock::note_store`].
    #[inline]
    pub fn host_base(&self) -> NonNull<u8> {
        self.base
    }

    /// The code tracking of the page that holds `offset`; `None` outside of the block.
    #[inline]
    pub fn page_code(&self, offset: usize) -> Option<&PageCode> {
        if offset >= self.len {
            return None;
        }
        // SAFETY: there is one zero-initialised `PageCode` for each page of the block.
        Some(unsafe { &*self.code.as_ptr().add(offset >> PAGE_SHIFT) })
    }

    /// Notes that `len` bytes at `offset` were stored: code decoded from them becomes invalid. Returns `true` when
    /// code was hit.
    #[inline]
    pub fn note_store(&self, offset: usize, len: usize) -> bool {
        let mut hit = false;
        // The store comes before the look at the marks: a vCPU that sets a mark then reads the bytes that were stored.
        std::sync::atomic::fence(Ordering::SeqCst);
        let (mut at, end) = (offset, offset.saturating_add(len).min(self.len));
        while at < end {
            let page_end = ((at >> PAGE_SHIFT) + 1) << PAGE_SHIFT;
            let stop = end.min(page_end);
            if let Some(page) = self.page_code(at) {
                hit |= page.note_store(at & (PAGE_SIZE - 1), stop - at);
            }
            at = stop;
        }
        if hit {
            crate::code::notify(None);
        }
        hit
    }

    /// Reads `into.len()` bytes at `offset`; `false` when they are not all inside of the block.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        if !self.contains(offset, into.len()) {
            return false;
        }
        self.copy_out(offset, into);
        true
    }

    /// Writes `from` at `offset`; `false` (and nothing written) when it does not fit.
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        if !self.contains(offset, from.len()) {
            return false;
        }
        self.copy_in(offset, from);
        self.note_store(offset, from.len());
        true
    }

    fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    sized_access!(load_u8, store_u8, u8, AtomicU8);
    sized_access!(load_u16, store_u16, u16, AtomicU16);
    sized_access!(load_u32, store_u32, u32, AtomicU32);
    sized_access!(load_u64, store_u64, u64, AtomicU64);

    /// Copies bytes out; the caller has checked the bounds. Whole aligned words where possible.
    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        debug_assert!(self.contains(offset, into.len()));
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            if at % 8 == 0 && rest.len() >= 8 {
                let (words, tail) = rest.as_chunks_mut::<8>();
                // SAFETY: in bounds (checked by the caller) and aligned; only accessed through atomics.
                let cells =
                    unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at).cast::<AtomicU64>(), words.len()) };
                at += 8 * words.len();
                for (word, cell) in words.iter_mut().zip(cells) {
                    *word = cell.load(Ordering::Relaxed).to_ne_bytes();
                }
                rest = tail;
            } else {
                // SAFETY: in bounds (checked by the caller); only accessed through atomics.
                let byte = unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU8>() }.load(Ordering::Relaxed);
                let (head, tail) = rest.split_at_mut(1);
                head[0] = byte;
                (at, rest) = (at + 1, tail);
            }
        }
    }

    /// Copies bytes in; the caller has checked the bounds.
    fn copy_in(&self, offset: usize, from: &[u8]) {
        debug_assert!(self.contains(offset, from.len()));
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            if at % 8 == 0 && rest.len() >= 8 {
                let (words, tail) = rest.as_chunks::<8>();
                // SAFETY: in bounds (checked by the caller) and aligned; only accessed through atomics.
                let cells =
                    unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at).cast::<AtomicU64>(), words.len()) };
                at += 8 * words.len();
                for (word, cell) in words.iter().zip(cells) {
                    cell.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
                }
                rest = tail;
            } else {
                // SAFETY: in bounds (checked by the caller); only accessed through atomics.
                unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU8>() }.store(rest[0], Ordering::Relaxed);
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
    }
}

impl Drop for RamBlock {
    fn drop(&mut self) {
        self.guard = None;
        let (start, len) = self.mapping;
        // SAFETY: both mappings were made by the constructors with these sizes and nobody can hold a reference any more.
        // A failure of munmap could only mean that the mapping is not ours, which they exclude.
        unsafe {
            let _ = rustix::mm::munmap(start.as_ptr().cast(), len);
            let code_len = (self.len >> PAGE_SHIFT) * size_of::<PageCode>();
            let _ = rustix::mm::munmap(self.code.as_ptr().cast(), code_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_store_is_read_back_across_pages() {
        let ram = RamBlock::new("test", 8192).expect("RAM");
        assert!(ram.store_u64(4093, 0x1122_3344_5566_7788));
        assert_eq!(ram.load_u64(4093), Some(0x1122_3344_5566_7788));
        assert_eq!(ram.load_u8(4093), Some(0x88));
        let mut bytes = [0; 8192];
        assert!(ram.read(0, &mut bytes));
        assert_eq!(bytes[4100], 0x11);
    }

    #[test]
    fn access_outside_is_refused() {
        let ram = RamBlock::new("test", 4096).expect("RAM");
        assert_eq!(ram.load_u32(4093), None);
        assert!(!ram.store_u16(4095, 1));
        assert!(!ram.write(usize::MAX, &[1, 2]));
        assert!(!ram.read(4096, &mut [0]));
        assert!(ram.page_code(4096).is_none());
        assert!(RamBlock::new("test", 100).is_err());
        assert!(RamBlock::new("test", 0).is_err());
    }

    fn file(len: u64) -> std::os::fd::OwnedFd {
        let file = rustix::fs::memfd_create("foreign", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        rustix::fs::ftruncate(&file, len).expect("its size");
        file
    }

    #[test]
    fn memory_of_a_file_is_shared_from_its_offset_on() {
        let file = file(0x4000);
        let ram = RamBlock::of_file("foreign", &file, 0x1000, 0x2000).expect("RAM");
        assert!(ram.store_u32(0x1ffc, 0x0403_0201));
        let mut bytes = [0; 4];
        rustix::io::pread(&file, &mut bytes, 0x2ffc).expect("read");
        assert_eq!((bytes, ram.load_u8(0x2000)), ([1, 2, 3, 4], None));
    }

    #[test]
    fn memory_of_a_file_that_lacks_the_bytes_is_refused() {
        let short = file(0x2000);
        let refused = |offset, len| RamBlock::of_file("foreign", &short, offset, len).is_err();
        assert!(refused(0x1000, 0x2000) && refused(u64::MAX - 0xfff, 0x1000) && refused(0, 0));
        assert!(refused(0, 0x1001) && refused(1, 0x1000) && !refused(0x1000, 0x1000));
        let (reader, _writer) = rustix::pipe::pipe().expect("a pipe");
        assert!(matches!(RamBlock::of_file("foreign", &reader, 0, 0x1000), Err(RamError::NoFile(_))));
    }

    #[test]
    fn memory_of_a_file_that_shrinks_reads_as_zeroes_and_takes_stores() {
        let file = file(0x4000);
        let ram = RamBlock::of_file("foreign", &file, 0, 0x4000).expect("RAM");
        assert!(ram.store_u64(0x3000, 7) && ram.store_u64(0, 9));
        rustix::fs::ftruncate(&file, 0x1000).expect("shorter");
        assert_eq!((ram.load_u64(0x3000), ram.load_u64(0)), (Some(0), Some(9)));
        assert!(ram.store_u64(0x1000, 6) && ram.store_u64(0x3008, 5));
        assert_eq!((ram.load_u64(0x3008), ram.load_u64(0x1000)), (Some(5), Some(6)));
    }

    #[test]
    fn write_over_watched_code_raises_its_generation() {
        let ram = RamBlock::new("test", 12288).expect("RAM");
        ram.page_code(4096).expect("page").watch(0, 15);
        assert!(ram.write(4000, &[0; 200]));
        assert_eq!(ram.page_code(4096).expect("page").generation(), 1);
        assert_eq!(ram.page_code(0).expect("page").generation(), 0);
    }
}
