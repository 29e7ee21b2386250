//! Owned scatter-gather buffers: what a block request reads into or writes from.
//!
//! An [`IoBuf`] is a list of memory segments together with what keeps that memory alive. It may be guest RAM, so its
//! bytes may change at any time: it never gives out `&[u8]`, it copies. Cloning and slicing share the memory. A request
//! that is in flight owns a clone, so the memory outlives whatever the kernel still does with it, even when the future
//! that started the request is gone.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of memory from [`IoBuf::zeroed`]: enough for direct I/O on every device, bytes.
pub const ALIGNMENT: usize = 4096;

/// One contiguous piece of an [`IoBuf`].
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a segment is an address and a length; whoever dereferences it goes through an `IoBuf`, which keeps the memory
// alive and accesses it by raw copies only.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Address of the first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "segments are never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

#[derive(Clone)]
enum Segments {
    One([Segment; 1]),
    Many(Arc<[Segment]>),
}

type Owner = Arc<dyn Any + Send + Sync>;

#[derive(Clone)]
enum Owners {
    None,
    One(Owner),
    Many(Arc<[Owner]>),
}

/// An owned list of memory segments.
#[derive(Clone)]
pub struct IoBuf {
    segments: Segments,
    len: usize,
    owners: Owners,
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({} bytes in {} segments)", self.len, self.segments().len())
    }
}

/// Zeroed heap memory with [`ALIGNMENT`].
struct Heap {
    /// What was allocated. The buffer may begin behind it.
    allocated: NonNull<u8>,
    layout: std::alloc::Layout,
}

/// From this length on a buffer is taken from the host as zero pages, and costs nothing until it is used: the allocator
/// does that for memory without a wish for alignment alone.
const LAZY: usize = 128 << 10;

// SAFETY: `Heap` only owns the allocation; accesses go through raw copies.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `IoBuf::allocate` with the same layout, and freed once.
        unsafe { std::alloc::dealloc(self.allocated.as_ptr(), self.layout) }
    }
}

impl IoBuf {
    /// Memory of `len` zero bytes, aligned to [`ALIGNMENT`] if it has at least 512 bytes.
    pub fn zeroed(len: usize) -> Self {
        Self::allocate(len, std::alloc::alloc_zeroed)
    }

    /// Aligned memory of `len` bytes from an allocator's function. Whoever asks for memory that is not zeroed fills it.
    fn allocate(len: usize, allocator: unsafe fn(std::alloc::Layout) -> *mut u8) -> Self {
        if len == 0 {
            return Self::empty();
        }
        let align = if len >= 512 { ALIGNMENT } else { 16 };
        let (spare, allocated_align) = if len >= LAZY { (ALIGNMENT, 16) } else { (0, align) };
        let layout = std::alloc::Layout::from_size_align(len.saturating_add(spare), allocated_align);
        let layout = layout.expect("buffers are smaller than isize::MAX");
        // SAFETY: the layout's size is not zero, as `len` is not.
        let allocated = unsafe { allocator(layout) };
        let Some(allocated) = NonNull::new(allocated) else { std::alloc::handle_alloc_error(layout) };
        let skipped = if spare == 0 { 0 } else { allocated.as_ptr().align_offset(align).min(spare) };
        // SAFETY: at most `spare` bytes are skipped of an allocation of `len + spare` bytes.
        let start = unsafe { allocated.add(skipped) };
        let owner: Owner = Arc::new(Heap { allocated, layout });
        Self { segments: Segments::One([Segment { start, len }]), len, owners: Owners::One(owner) }
    }

    /// The buffer of no bytes.
    pub fn empty() -> Self {
        Self { segments: Segments::Many(Arc::new([])), len: 0, owners: Owners::None }
    }

    /// Aligned memory with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let buf = Self::allocate(bytes.len(), std::alloc::alloc);
        buf.write_at(0, bytes);
        buf
    }

    /// The list of `(start, length)` segments of memory that somebody else owns, such as guest RAM. Empty ones are
    /// left out.
    ///
    /// # Safety
    /// Every segment must stay mapped, readable and writable as long as `owner` lives, and nothing may hold a Rust
    /// reference to those bytes.
    pub unsafe fn from_raw(segments: impl IntoIterator<Item = (NonNull<u8>, usize)>, owner: Owner) -> Self {
        let segments: Vec<Segment> =
            segments.into_iter().filter(|s| s.1 != 0).map(|(start, len)| Segment { start, len }).collect();
        Self::assemble(segments, Owners::One(owner))
    }

    fn assemble(segments: Vec<Segment>, owners: Owners) -> Self {
        let len = segments.iter().map(|s| s.len).sum();
        let segments = if let [one] = segments[..] { Segments::One([one]) } else { Segments::Many(segments.into()) };
        Self { segments, len, owners }
    }

    /// All of `parts`, one after the other, sharing their memory.
    pub fn concat(parts: impl IntoIterator<Item = IoBuf>) -> Self {
        let mut segments = Vec::new();
        let mut owners: Vec<Owner> = Vec::new();
        for part in parts {
            segments.extend_from_slice(part.segments());
            match part.owners {
                Owners::None => {}
                Owners::One(one) => owners.push(one),
                Owners::Many(many) => owners.extend(many.iter().cloned()),
            }
        }
        let owners = if owners.len() == 1 { Owners::One(owners.remove(0)) } else { Owners::Many(owners.into()) };
        Self::assemble(segments, owners)
    }

    /// Whether this is the only buffer over its memory, so that the memory may be used for something else.
    pub fn is_unshared(&self) -> bool {
        match &self.owners {
            Owners::None => true,
            Owners::One(owner) => Arc::strong_count(owner) == 1,
            Owners::Many(_) => false,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, in order. None is empty.
    pub fn segments(&self) -> &[Segment] {
        match &self.segments {
            Segments::One(one) => one,
            Segments::Many(many) => many,
        }
    }

    /// The bytes `start .. start + len` of this buffer, sharing its memory.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start, "slice {start}+{len} of {} bytes", self.len);
        if start == 0 && len == self.len {
            return self.clone();
        }
        let mut segments = Vec::with_capacity(1);
        self.each(start, len, |at, n, _| segments.push(Segment { start: at, len: n }));
        Self::assemble(segments, self.owners.clone())
    }

    /// Calls `visit(address, length, offset from start)` for each piece of the range.
    fn each(&self, start: usize, len: usize, mut visit: impl FnMut(NonNull<u8>, usize, usize)) {
        assert!(start <= self.len && len <= self.len - start, "range {start}+{len} of {} bytes", self.len);
        let (mut skip, mut done) = (start, 0);
        for segment in self.segments() {
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            if done == len {
                break;
            }
            let n = (segment.len - skip).min(len - done);
            // SAFETY: `skip` is less than the segment's length, so the result is inside of it.
            visit(unsafe { segment.start.add(skip) }, n, done);
            done += n;
            skip = 0;
        }
    }

    /// Copies the bytes from `start` on into `into`.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn read_at(&self, start: usize, into: &mut [u8]) {
        self.each(start, into.len(), |at, n, offset| {
            // SAFETY: the source is memory that the owner keeps alive, the target a slice of at least `offset + n`.
            unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), into[offset..offset + n].as_mut_ptr(), n) }
        });
    }

    /// Copies `from` into the bytes from `start` on.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn write_at(&self, start: usize, from: &[u8]) {
        self.each(start, from.len(), |at, n, offset| {
            // SAFETY: as in `read_at`, with source and target exchanged.
            unsafe { std::ptr::copy_nonoverlapping(from[offset..offset + n].as_ptr(), at.as_ptr(), n) }
        });
    }

    /// Fills `len` bytes from `start` on.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn fill(&self, start: usize, len: usize, byte: u8) {
        // SAFETY: the owner keeps the memory alive, and `each` stays inside of it.
        self.each(start, len, |at, n, _| unsafe { std::ptr::write_bytes(at.as_ptr(), byte, n) });
    }

    /// Copies `len` bytes of `from` into this buffer. The two may share memory.
    ///
    /// # Panics
    /// If a range is not inside of its buffer.
    pub fn copy_from(&self, start: usize, from: &IoBuf, from_start: usize, len: usize) {
        from.each(from_start, len, |source, n, offset| {
            self.each(start + offset, n, |target, m, inner| {
                // SAFETY: both sides are memory that its owners keep alive; `copy` allows an overlap.
                unsafe { std::ptr::copy(source.as_ptr().add(inner), target.as_ptr(), m) }
            });
        });
    }

    /// All bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::<u8>::with_capacity(self.len);
        self.each(0, self.len, |at, n, offset| {
            // SAFETY: the source is memory that the owner keeps alive; the pieces of the range follow each other and have
            // `self.len` bytes together, for which there is room.
            unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), bytes.as_mut_ptr().add(offset), n) }
        });
        // SAFETY: the pieces have filled that many bytes.
        unsafe { bytes.set_len(self.len) };
        bytes
    }

    /// Whether all `len` bytes from `start` on are zero.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn is_zero(&self, start: usize, len: usize) -> bool {
        let mut zero = true;
        self.each(start, len, |at, n, _| {
            let mut chunk = [0u64; 64];
            let mut done = 0;
            while zero && done < n {
                let m = (n - done).min(512);
                chunk[m / 8..].fill(0);
                // SAFETY: `m` bytes fit into the 512 of `chunk` and into the rest of the segment.
                unsafe {
                    std::ptr::copy_nonoverlapping(at.as_ptr().add(done), chunk.as_mut_ptr().cast::<u8>(), m);
                }
                zero = chunk.iter().fold(0, |all, word| all | word) == 0;
                done += m;
            }
        });
        zero
    }

    /// Whether every segment starts and ends at a multiple of `alignment` (a power of two).
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.segments().iter().all(|s| (s.start.as_ptr() as usize | s.len) & (alignment - 1) == 0)
    }

    /// The segments as the kernel wants them. They are valid as long as a clone of this buffer lives.
    pub fn iovecs(&self) -> Vec<libc::iovec> {
        self.segments().iter().map(|s| libc::iovec { iov_base: s.start.as_ptr().cast(), iov_len: s.len }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_parts() -> IoBuf {
        IoBuf::concat([IoBuf::copy_of(b"hello "), IoBuf::copy_of(b"world")])
    }

    #[test]
    fn slices_across_segments_share_the_memory() {
        let whole = two_parts();
        let part = whole.slice(4, 4);
        assert_eq!(part.to_vec(), b"o wo");
        part.write_at(1, b"__");
        assert_eq!(whole.to_vec(), b"hello__orld");
        assert_eq!(part.segments().len(), 2);
    }

    #[test]
    fn copies_between_buffers_of_different_segments() {
        let target = IoBuf::concat([IoBuf::zeroed(3), IoBuf::zeroed(9)]);
        target.copy_from(1, &two_parts(), 0, 11);
        assert_eq!(target.to_vec(), b"\0hello world");
        target.copy_from(0, &target.slice(1, 11), 0, 11);
        assert_eq!(&target.to_vec()[..11], b"hello world");
    }

    #[test]
    fn zero_is_found_in_every_byte() {
        let buf = IoBuf::zeroed(1500);
        assert!(buf.is_zero(0, 1500));
        for at in [0, 7, 511, 512, 1023, 1499] {
            buf.write_at(at, &[1]);
            assert!(!buf.is_zero(0, 1500), "{at}");
            assert!(buf.is_zero(at + 1, 1499 - at) && buf.is_zero(0, at), "{at}");
            buf.fill(at, 1, 0);
        }
    }

    #[test]
    #[should_panic(expected = "slice")]
    fn a_slice_past_the_end_panics() {
        two_parts().slice(8, 4);
    }
}
