//! Guest RAM and the region tree that maps guest-physical addresses and I/O ports.
//!
//! A [`RamBlock`] is memory that the host gives the guest. An [`AddressSpace`] is a set of prioritised regions (RAM,
//! ROM, aliases into RAM, device regions) that is flattened into a sorted list of non-overlapping ranges, the
//! [`FlatView`]. Readers take the current view without a lock held during the access; a change of the map publishes a
//! new view and raises [`AddressSpace::generation`], so that whoever caches translations (a vCPU's TLB) knows when to
//! drop them.
//!
//! Threads: everything here may be used from any thread. Accesses to RAM are atomic for naturally aligned sizes up to
//! eight bytes, as on the guest's hardware, and otherwise bytewise.

mod code;
mod dma;
mod foreign;
mod ram;
mod space;

pub use code::{CodeListener, HitCursor, PageCode, PageId, listen, listeners, notify};
pub use dma::{DmaAccess, DmaBuffer, DmaError, DmaGather, DmaMap, DmaView, RamSlice};
pub use ram::{PAGE_SHIFT, PAGE_SIZE, RamBlock, RamError, RamPiece};
pub use space::{
    AccessSize, AddressSpace, Backing, FlatRange, FlatView, Io, MapError, MapListener, MemoryError, RegionHandle,
    SpaceKind, Writes,
};

/// A guest-physical address (or, in the I/O space, a port number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

impl std::fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
