//! Address spaces: prioritised regions, flattened.
//!
//! Where regions overlap, the one with the higher priority answers; among equals the one that was added last. Device
//! accesses are split at range borders, and into sizes that the region implements ([`Io::sizes`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use crate::{GuestAddress, RamBlock};

/// The width of one device access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessSize {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Dword = 4,
    /// Eight bytes.
    Qword = 8,
}

impl AccessSize {
    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// All the bits of a value of this size.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }

    /// The largest size that is at most `len` bytes (at least one byte) and for which `address` is aligned.
    fn fitting(address: u64, len: usize, max: AccessSize) -> AccessSize {
        [AccessSize::Qword, AccessSize::Dword, AccessSize::Word]
            .into_iter()
            .find(|size| *size <= max && size.bytes() <= len && address.is_multiple_of(size.bytes() as u64))
            .unwrap_or(AccessSize::Byte)
    }
}

/// A device's side of a region. Implemented by the bus glue that locks the device.
pub trait Io: Send + Sync {
    /// Reads `size` bytes at `offset` within the region.
    fn read(&self, offset: u64, size: AccessSize) -> u64;

    /// Writes the low `size` bytes of `value` at `offset` within the region.
    fn write(&self, offset: u64, size: AccessSize, value: u64);

    /// The smallest and the largest access that the region implements. A larger one is split into pieces, in address
    /// order; a smaller read takes its bytes from the smallest implemented access; a smaller write is passed on as it
    /// is, so that the device decides.
    fn sizes(&self) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }
}

/// What stands behind a region.
#[derive(Clone)]
pub enum Backing {
    /// RAM from `offset` in the block. Several regions may show the same block.
    Ram {
        /// The memory.
        block: Arc<RamBlock>,
        /// Byte offset of the region's first byte in the block.
        offset: u64,
        /// Stores are dropped (ROM).
        read_only: bool,
    },
    /// A device.
    Io(Arc<dyn Io>),
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ram { block, offset, read_only } => {
                write!(f, "{} '{}'+{offset:#x}", if *read_only { "rom" } else { "ram" }, block.name())
            }
            Self::Io(_) => f.write_str("i/o"),
        }
    }
}

/// Names a region that was added to a space, to remove or move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionHandle(u64);

/// Whether a space holds memory or ports: what an access to nothing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceKind {
    /// Guest-physical memory.
    Memory,
    /// The 64 Ki I/O ports.
    Ports,
}

/// Why a region can't be mapped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MapError {
    /// The region is empty, wraps around, or shows more than its RAM block has.
    #[error("region at {start:#x} of {len:#x} bytes is empty, wraps around or exceeds its memory")]
    BadRange {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// There is no such region.
    #[error("no such region")]
    Unknown,
}

/// A bulk access that met something other than RAM.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("nothing is mapped at guest address {0:#x}")]
pub struct MemoryError(pub u64);

#[derive(Debug)]
struct Region {
    handle: RegionHandle,
    start: u64,
    last: u64,
    priority: i32,
    enabled: bool,
    backing: Backing,
    writes: Option<Writes>,
}

/// Who takes the stores of a range that reads as ROM.
#[derive(Clone)]
pub struct Writes(Arc<dyn Io>);

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("i/o")
    }
}

/// One range of a flattened space: `start..=last`, answered by one backing.
#[derive(Clone, Debug)]
pub struct FlatRange {
    /// First address.
    pub start: u64,
    /// Last address, inclusive.
    pub last: u64,
    /// Distance of `start` from the start of its region (0 when the region's head is visible).
    pub region_offset: u64,
    /// What answers.
    pub backing: Backing,
    /// Who takes stores while `backing` is ROM.
    pub writes: Option<Writes>,
}

/// The flattened space: ranges in ascending order that do not overlap.
#[derive(Debug, Default)]
pub struct FlatView {
    ranges: Vec<FlatRange>,
}

impl FlatView {
    /// All the ranges, ascending.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// The range that holds `address`.
    #[inline]
    pub fn find(&self, address: u64) -> Option<&FlatRange> {
        let index = self.ranges.partition_point(|range| range.last < address);
        self.ranges.get(index).filter(|range| range.start <= address)
    }

    /// The first range that begins above `address`.
    fn next_start(&self, address: u64) -> Option<u64> {
        let index = self.ranges.partition_point(|range| range.start <= address);
        self.ranges.get(index).map(|range| range.start)
    }

    /// Flattens regions: cuts all the borders, then lets the strongest region answer each piece.
    fn build(regions: &[&Region]) -> Self {
        let mut borders: Vec<u64> = Vec::new();
        for region in regions.iter().filter(|region| region.enabled) {
            borders.push(region.start);
            borders.extend(region.last.checked_add(1));
        }
        borders.sort_unstable();
        borders.dedup();
        let mut ranges: Vec<FlatRange> = Vec::new();
        let mut previous = None;
        for (index, &start) in borders.iter().enumerate() {
            let last = borders.get(index + 1).map_or(u64::MAX, |next| next - 1);
            let winner = regions
                .iter()
                .filter(|region| region.enabled && region.start <= start && last <= region.last)
                .max_by_key(|region| (region.priority, region.handle.0));
            let Some(region) = winner else {
                previous = None;
                continue;
            };
            if previous == Some(region.handle)
                && let Some(range) = ranges.last_mut()
            {
                range.last = last;
                continue;
            }
            previous = Some(region.handle);
            let region_offset = start - region.start;
            ranges.push(FlatRange {
                start,
                last,
                region_offset,
                backing: region.backing.clone(),
                writes: region.writes.clone(),
            });
        }
        Self { ranges }
    }
}

/// Follows a space: is told of each new view, in order, before the change that made it returns. It must not change the
/// space.
pub trait MapListener: Send + Sync {
    /// `view` is what the space shows from now on.
    fn changed(&self, view: &Arc<FlatView>);
}

#[derive(Debug, Default)]
struct Regions {
    list: Vec<Region>,
    next_handle: u64,
}

impl Regions {
    fn find(&mut self, handle: RegionHandle) -> Result<&mut Region, MapError> {
        self.list.iter_mut().find(|region| region.handle == handle).ok_or(MapError::Unknown)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A space of addresses with regions in it.
pub struct AddressSpace {
    kind: SpaceKind,
    regions: Mutex<Regions>,
    view: RwLock<Arc<FlatView>>,
    generation: AtomicU64,
    listener: OnceLock<Box<dyn MapListener>>,
    /// The space whose regions this one shows, too, below its own.
    base: Option<Arc<AddressSpace>>,
    /// Held while a view is made and shown.
    order: Mutex<()>,
    /// The spaces that show this one's regions.
    followers: Mutex<Vec<Weak<AddressSpace>>>,
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressSpace").field("kind", &self.kind).field("view", &self.view()).finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// An empty space.
    pub fn new(kind: SpaceKind) -> Self {
        Self {
            kind,
            regions: Mutex::default(),
            view: RwLock::default(),
            generation: AtomicU64::new(0),
            listener: OnceLock::new(),
            base: None,
            order: Mutex::default(),
            followers: Mutex::default(),
        }
    }

    /// A space that shows what `base` shows, always, except where it has regions of its own: those win over regions of
    /// the same priority.
    pub fn over(base: &Arc<AddressSpace>) -> Arc<Self> {
        /// Handles of the two spaces differ, so that ranges of different regions are never joined.
        const FIRST_HANDLE: u64 = 1 << 32;
        let space = Arc::new(Self { base: Some(Arc::clone(base)), ..Self::new(base.kind) });
        lock(&space.regions).next_handle = FIRST_HANDLE;
        lock(&base.followers).push(Arc::downgrade(&space));
        space.publish();
        space
    }

    /// Changes the regions and shows the result.
    fn edit<R>(&self, change: impl FnOnce(&mut Regions) -> Result<R, MapError>) -> Result<R, MapError> {
        let result = change(&mut lock(&self.regions))?;
        self.publish();
        Ok(result)
    }

    /// Sets who is told of each change (memory slots of a hypervisor), and tells it of the view as it is. `false`: the
    /// space has a listener already.
    pub fn set_listener(&self, listener: Box<dyn MapListener>) -> bool {
        // No change happens in between.
        let _publishing = lock(self.publishing());
        let is_new = self.listener.set(listener).is_ok();
        if is_new && let Some(listener) = self.listener.get() {
            listener.changed(&self.view());
        }
        is_new
    }

    /// Raised with every change of the map. A holder of cached translations compares it and drops them.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The current flattened view. It stays valid as a snapshot.
    pub fn view(&self) -> Arc<FlatView> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a region of `len` bytes at `start`.
    ///
    /// # Errors
    /// [`MapError::BadRange`].
    pub fn map(
        &self,
        start: GuestAddress,
        len: u64,
        priority: i32,
        backing: Backing,
    ) -> Result<RegionHandle, MapError> {
        let bad = MapError::BadRange { start: start.0, len };
        let Some(last) = len.checked_sub(1).and_then(|distance| start.0.checked_add(distance)) else {
            return Err(bad);
        };
        if let Backing::Ram { block, offset, .. } = &backing
            && offset.checked_add(len).is_none_or(|end| end > block.len() as u64)
        {
            return Err(bad);
        }
        self.edit(|regions| {
            let handle = RegionHandle(regions.next_handle);
            regions.next_handle += 1;
            regions.list.push(Region { handle, start: start.0, last, priority, enabled: true, backing, writes: None });
            Ok(handle)
        })
    }

    /// Sends the stores that meet a region to `writes` while it shows ROM, in place of dropping them.
    ///
    /// # Errors
    /// [`MapError::Unknown`].
    pub fn set_writes(&self, handle: RegionHandle, writes: Arc<dyn Io>) -> Result<(), MapError> {
        self.edit(|regions| {
            regions.find(handle)?.writes = Some(Writes(writes));
            Ok(())
        })
    }

    /// Changes one region in place: its start (the length stays) and whether it answers.
    ///
    /// # Errors
    /// [`MapError::Unknown`], and [`MapError::BadRange`] when the region would wrap around.
    pub fn update(&self, handle: RegionHandle, start: GuestAddress, enabled: bool) -> Result<(), MapError> {
        let is_changed = {
            let mut regions = lock(&self.regions);
            let region = regions.find(handle)?;
            let distance = region.last - region.start;
            let last = start
                .0
                .checked_add(distance)
                .ok_or(MapError::BadRange { start: start.0, len: distance.wrapping_add(1) })?;
            let is_changed = (region.start, region.enabled) != (start.0, enabled);
            (region.start, region.last, region.enabled) = (start.0, last, enabled);
            is_changed
        };
        if is_changed {
            self.publish();
        }
        Ok(())
    }

    /// Replaces what stands behind a region (its range stays): RAM becomes ROM, a window shows another part.
    ///
    /// # Errors
    /// [`MapError::Unknown`], and [`MapError::BadRange`] when RAM does not cover the region.
    pub fn set_backing(&self, handle: RegionHandle, backing: Backing) -> Result<(), MapError> {
        self.edit(|regions| {
            let region = regions.find(handle)?;
            let len = (region.last - region.start).saturating_add(1);
            if let Backing::Ram { block, offset, .. } = &backing
                && offset.checked_add(len).is_none_or(|end| end > block.len() as u64)
            {
                return Err(MapError::BadRange { start: region.start, len });
            }
            region.backing = backing;
            Ok(())
        })
    }

    /// Removes a region.
    ///
    /// # Errors
    /// [`MapError::Unknown`].
    pub fn unmap(&self, handle: RegionHandle) -> Result<(), MapError> {
        self.edit(|regions| {
            let index = regions.list.iter().position(|region| region.handle == handle).ok_or(MapError::Unknown)?;
            regions.list.remove(index);
            Ok(())
        })
    }

    /// The lock that keeps views in the order of the changes: that of the space at the bottom.
    fn publishing(&self) -> &Mutex<()> {
        self.base.as_ref().map_or(&self.order, |base| base.publishing())
    }

    fn publish(&self) {
        let _publishing = lock(self.publishing());
        self.publish_in_order();
    }

    fn publish_in_order(&self) {
        let mut followers: Vec<Arc<AddressSpace>> = Vec::new();
        {
            let base = self.base.as_ref().map(|base| lock(&base.regions));
            let own = lock(&self.regions);
            let below = base.iter().flat_map(|regions| &regions.list);
            let all: Vec<&Region> = below.chain(&own.list).collect();
            let view = Arc::new(FlatView::build(&all));
            *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(listener) = self.listener.get() {
            listener.changed(&self.view());
        }
        lock(&self.followers)
            .retain(|follower| follower.upgrade().inspect(|space| followers.push(Arc::clone(space))).is_some());
        for follower in followers {
            follower.publish_in_order();
        }
    }

    /// What a read of nothing gives: all ones on ports (a floating ISA bus), zeros in memory.
    fn unmapped(&self, size: AccessSize) -> u64 {
        match self.kind {
            SpaceKind::Memory => 0,
            SpaceKind::Ports => size.mask(),
        }
    }

    /// Loads a value of `size` bytes, RAM or device. Unmapped memory reads zeros, unmapped ports all ones.
    pub fn load(&self, address: GuestAddress, size: AccessSize) -> u64 {
        let view = self.view();
        if let Some(range) = view.find(address.0)
            && range.last - address.0 >= size.bytes() as u64 - 1
        {
            return load_range(range, address.0, size);
        }
        // The access crosses a border or meets nothing: byte by byte.
        let mut value = 0;
        for index in 0..size.bytes() {
            let at = address.0.wrapping_add(index as u64);
            let byte = match view.find(at) {
                Some(range) => load_range(range, at, AccessSize::Byte),
                None => self.unmapped(AccessSize::Byte),
            };
            value |= (byte & 0xff) << (8 * index);
        }
        value
    }

    /// Stores the low `size` bytes of `value`, to RAM or a device. Stores to nothing and to ROM are dropped.
    pub fn store(&self, address: GuestAddress, size: AccessSize, value: u64) {
        let view = self.view();
        if let Some(range) = view.find(address.0)
            && range.last - address.0 >= size.bytes() as u64 - 1
        {
            store_range(range, address.0, size, value & size.mask());
            return;
        }
        for index in 0..size.bytes() {
            let at = address.0.wrapping_add(index as u64);
            if let Some(range) = view.find(at) {
                store_range(range, at, AccessSize::Byte, (value >> (8 * index)) & 0xff);
            }
        }
    }

    /// Reads bytes, as a debugger or a DMA engine does: devices are read in the largest fitting accesses, holes give
    /// what an access to nothing gives.
    pub fn read(&self, address: GuestAddress, into: &mut [u8]) {
        self.pieces(address, into.len(), |range, at, done, len| {
            let piece = &mut into[done..done + len];
            match range {
                None => piece.fill(self.unmapped(AccessSize::Byte) as u8),
                Some((FlatRange { backing: Backing::Ram { block, .. }, .. }, offset)) => {
                    block.read(offset as usize, piece);
                }
                Some((range, _)) => {
                    let mut rest = piece;
                    let mut at = at;
                    while !rest.is_empty() {
                        let size = AccessSize::fitting(at, rest.len(), AccessSize::Dword);
                        let value = load_range(range, at, size);
                        let (head, tail) = rest.split_at_mut(size.bytes());
                        head.copy_from_slice(&value.to_le_bytes()[..size.bytes()]);
                        (at, rest) = (at + size.bytes() as u64, tail);
                    }
                }
            }
        });
    }

    /// Writes bytes, as a DMA engine does. Holes and ROM drop them.
    pub fn write(&self, address: GuestAddress, from: &[u8]) {
        self.pieces(address, from.len(), |range, at, done, len| {
            let piece = &from[done..done + len];
            match range {
                None | Some((FlatRange { backing: Backing::Ram { read_only: true, .. }, .. }, _)) => {}
                Some((FlatRange { backing: Backing::Ram { block, .. }, .. }, offset)) => {
                    block.write(offset as usize, piece);
                }
                Some((range, _)) => {
                    let (mut at, mut rest) = (at, piece);
                    while !rest.is_empty() {
                        let size = AccessSize::fitting(at, rest.len(), AccessSize::Dword);
                        let mut bytes = [0; 8];
                        bytes[..size.bytes()].copy_from_slice(&rest[..size.bytes()]);
                        store_range(range, at, size, u64::from_le_bytes(bytes));
                        (at, rest) = (at + size.bytes() as u64, &rest[size.bytes()..]);
                    }
                }
            }
        });
    }

    /// Writes bytes into RAM *and ROM*, as the loader of firmware and kernels does.
    ///
    /// # Errors
    /// [`MemoryError`] with the first address that is not RAM or ROM; what lies before it is written.
    pub fn load_image(&self, address: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        let mut failed = None;
        self.pieces(address, from.len(), |range, at, done, len| match range {
            Some((FlatRange { backing: Backing::Ram { block, .. }, .. }, offset)) if failed.is_none() => {
                block.write(offset as usize, &from[done..done + len]);
            }
            _ => failed = failed.or(Some(at)),
        });
        failed.map_or(Ok(()), |at| Err(MemoryError(at)))
    }

    /// Calls `visit` for each piece of `len` bytes from `address` that lies in one range or one hole: the range with
    /// the offset into its backing, the address, the bytes done before, and the piece's length.
    fn pieces(
        &self,
        address: GuestAddress,
        len: usize,
        mut visit: impl FnMut(Option<(&FlatRange, u64)>, u64, usize, usize),
    ) {
        let view = self.view();
        let mut done = 0;
        while done < len {
            let at = address.0.wrapping_add(done as u64);
            let left = (len - done) as u64;
            let to_wrap = (u64::MAX - at).saturating_add(1);
            let (range, span) = match view.find(at) {
                Some(range) => (Some((range, backing_offset(range, at))), (range.last - at).saturating_add(1)),
                None => (None, view.next_start(at).map_or(u64::MAX, |next| next - at)),
            };
            let piece = left.min(span).min(to_wrap) as usize;
            visit(range, at, done, piece);
            done += piece;
        }
    }
}

/// The offset of `address` in the range's backing.
fn backing_offset(range: &FlatRange, address: u64) -> u64 {
    let in_region = address - range.start + range.region_offset;
    match &range.backing {
        Backing::Ram { offset, .. } => offset + in_region,
        Backing::Io(_) => in_region,
    }
}

/// Loads from one range; the access lies inside.
fn load_range(range: &FlatRange, address: u64, size: AccessSize) -> u64 {
    let offset = backing_offset(range, address);
    match &range.backing {
        Backing::Ram { block, .. } => {
            let offset = offset as usize;
            match size {
                AccessSize::Byte => block.load_u8(offset).map(u64::from),
                AccessSize::Word => block.load_u16(offset).map(u64::from),
                AccessSize::Dword => block.load_u32(offset).map(u64::from),
                AccessSize::Qword => block.load_u64(offset),
            }
            .unwrap_or(0)
        }
        Backing::Io(io) => {
            let (min, max) = io.sizes();
            if size < min {
                let aligned = offset & !(min.bytes() as u64 - 1);
                return (io.read(aligned, min) >> (8 * (offset - aligned))) & size.mask();
            }
            let mut value = 0;
            let mut done = 0;
            while done < size.bytes() {
                let piece = AccessSize::fitting(0, size.bytes() - done, max);
                let part = io.read(offset.wrapping_add(done as u64), piece) & piece.mask();
                value |= part << (8 * done);
                done += piece.bytes();
            }
            value
        }
    }
}

/// Stores to one range; the access lies inside.
fn store_range(range: &FlatRange, address: u64, size: AccessSize, value: u64) {
    let offset = backing_offset(range, address);
    match &range.backing {
        Backing::Ram { read_only: true, .. } => {
            if let Some(Writes(io)) = &range.writes {
                store_io(&**io, address - range.start + range.region_offset, size, value);
            }
        }
        Backing::Ram { block, .. } => {
            let offset = offset as usize;
            match size {
                AccessSize::Byte => block.store_u8(offset, value as u8),
                AccessSize::Word => block.store_u16(offset, value as u16),
                AccessSize::Dword => block.store_u32(offset, value as u32),
                AccessSize::Qword => block.store_u64(offset, value),
            };
        }
        Backing::Io(io) => store_io(&**io, offset, size, value),
    }
}

/// Stores to a device, in pieces that it takes.
fn store_io(io: &dyn Io, offset: u64, size: AccessSize, value: u64) {
    let (_, max) = io.sizes();
    let mut done = 0;
    while done < size.bytes() {
        let piece = AccessSize::fitting(0, size.bytes() - done, max);
        io.write(offset.wrapping_add(done as u64), piece, (value >> (8 * done)) & piece.mask());
        done += piece.bytes();
    }
}

#[cfg(test)]
mod tests;
