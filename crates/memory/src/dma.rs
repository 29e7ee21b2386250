//! How devices reach guest memory: RAM only, resolved once, without copies.
//!
//! A [`DmaView`] is a device's window to guest-physical memory. From it a device gets [`RamSlice`]s, for rings and
//! other shared structures that it reads and writes word by word, and [`DmaBuffer`]s, for data that a backend moves:
//! an [`IoBuf`] over guest RAM that stays valid whatever happens to the memory map, together with the pages behind it,
//! so that code in them becomes invalid when a device has written there.
//!
//! Addresses of devices, holes and (to be written) ROM are refused.

use std::any::Any;
use std::sync::Arc;

use iobuf::IoBuf;

use crate::{AddressSpace, Backing, FlatView, RamBlock};

/// What a device does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaAccess {
    /// The device reads.
    Read,
    /// The device writes, and may read.
    Write,
}

/// A range that is not (all) RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no RAM for a device's access to {len} bytes at guest address {address:#x}")]
pub struct DmaError {
    /// First address of the range.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Guest-physical memory as a device sees it. Clones are the same view.
#[derive(Clone, Debug)]
pub struct DmaView {
    space: Arc<AddressSpace>,
}

impl DmaView {
    /// All the RAM of `space`.
    pub fn new(space: Arc<AddressSpace>) -> Self {
        Self { space }
    }

    /// Raised with every change of the memory map: what was resolved before is out of date.
    pub fn generation(&self) -> u64 {
        self.space.generation()
    }

    /// The memory map as it is now.
    pub fn map(&self) -> DmaMap {
        DmaMap { view: self.space.view() }
    }
}

/// A memory map at one moment.
#[derive(Clone, Debug)]
pub struct DmaMap {
    view: Arc<FlatView>,
}

impl DmaMap {
    /// The RAM at `address`, and how much of it follows in one piece (at most `len` bytes).
    fn piece(&self, address: u64, len: u64, access: DmaAccess) -> Option<Piece> {
        let range = self.view.find(address)?;
        let Backing::Ram { block, offset, read_only } = &range.backing else { return None };
        if *read_only && access == DmaAccess::Write {
            return None;
        }
        let offset = offset + (address - range.start) + range.region_offset;
        let len = len.min((range.last - address).saturating_add(1));
        Some(Piece { block: Arc::clone(block), offset: usize::try_from(offset).ok()?, len: usize::try_from(len).ok()? })
    }

    /// Calls `visit` with each piece of RAM in the range, in order.
    fn pieces(&self, address: u64, len: u64, access: DmaAccess, mut visit: impl FnMut(Piece)) -> Result<(), DmaError> {
        let error = DmaError { address, len };
        let mut done = 0;
        while done < len {
            let at = address.checked_add(done).ok_or(error)?;
            let piece = self.piece(at, len - done, access).ok_or(error)?;
            done += piece.len as u64;
            visit(piece);
        }
        Ok(())
    }

    /// RAM that is one piece of host memory, for both directions.
    ///
    /// # Errors
    /// [`DmaError`], also when the range is RAM in several pieces.
    pub fn slice(&self, address: u64, len: u64) -> Result<RamSlice, DmaError> {
        let error = DmaError { address, len };
        let piece = self.piece(address, len, DmaAccess::Write).filter(|piece| piece.len as u64 == len);
        piece.map(|Piece { block, offset, len }| RamSlice { block, offset, len }).ok_or(error)
    }

    /// Copies bytes out of RAM.
    ///
    /// # Errors
    /// [`DmaError`]; some of `into` may have changed.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaError> {
        let mut done = 0;
        self.pieces(address, into.len() as u64, DmaAccess::Read, |piece| {
            piece.block.read(piece.offset, &mut into[done..done + piece.len]);
            done += piece.len;
        })
    }

    /// Copies bytes into RAM.
    ///
    /// # Errors
    /// [`DmaError`]; what lies before the first address that is not RAM may have been written.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        let mut done = 0;
        self.pieces(address, from.len() as u64, DmaAccess::Write, |piece| {
            piece.block.write(piece.offset, &from[done..done + piece.len]);
            done += piece.len;
        })
    }

    /// An empty buffer, to which ranges are added.
    pub fn gather(&self, access: DmaAccess) -> DmaGather<'_> {
        DmaGather { map: self, access, pieces: Vec::new() }
    }
}

#[derive(Clone, Debug)]
struct Piece {
    block: Arc<RamBlock>,
    offset: usize,
    len: usize,
}

/// One piece of guest RAM that a device shares with its driver.
#[derive(Clone, Debug)]
pub struct RamSlice {
    block: Arc<RamBlock>,
    offset: usize,
    len: usize,
}

macro_rules! slice_access {
    ($load:ident, $store:ident, $int:ty) => {
        #[doc = concat!("Loads a little-endian `", stringify!($int), "`; `None` outside of the slice. Atomic when aligned.")]
        #[inline]
        pub fn $load(&self, at: usize) -> Option<$int> {
            if at > self.len.checked_sub(size_of::<$int>())? {
                return None;
            }
            self.block.$load(self.offset + at)
        }

        #[doc = concat!("Stores a little-endian `", stringify!($int), "`; `false` outside of the slice. Atomic when aligned.")]
        #[inline]
        pub fn $store(&self, at: usize, value: $int) -> bool {
            self.len.checked_sub(size_of::<$int>()).is_some_and(|last| at <= last)
                && self.block.$store(self.offset + at, value)
        }
    };
}

impl RamSlice {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks for an empty slice")]
    pub fn len(&self) -> usize {
        self.len
    }

    slice_access!(load_u16, store_u16, u16);
    slice_access!(load_u32, store_u32, u32);
    slice_access!(load_u64, store_u64, u64);
}

/// Collects ranges of guest memory into a [`DmaBuffer`].
#[derive(Debug)]
pub struct DmaGather<'a> {
    map: &'a DmaMap,
    access: DmaAccess,
    pieces: Vec<Piece>,
}

impl DmaGather<'_> {
    /// Adds a range behind those before.
    ///
    /// # Errors
    /// [`DmaError`] when it is not all RAM.
    pub fn add(&mut self, address: u64, len: u64) -> Result<(), DmaError> {
        let pieces = &mut self.pieces;
        self.map.pieces(address, len, self.access, |piece| match pieces.last_mut() {
            Some(last) if Arc::ptr_eq(&last.block, &piece.block) && last.offset + last.len == piece.offset => {
                last.len += piece.len;
            }
            _ => pieces.push(piece),
        })
    }

    /// All the ranges as one buffer.
    pub fn finish(self) -> DmaBuffer {
        let mut blocks: Vec<&Arc<RamBlock>> = Vec::new();
        for piece in &self.pieces {
            if !blocks.iter().any(|block| Arc::ptr_eq(block, &piece.block)) {
                blocks.push(&piece.block);
            }
        }
        let owner: Arc<dyn Any + Send + Sync> = match blocks[..] {
            [] => return DmaBuffer { io: IoBuf::empty(), pieces: Vec::new() },
            [one] => Arc::clone(one) as Arc<dyn Any + Send + Sync>,
            _ => Arc::new(blocks.into_iter().cloned().collect::<Vec<_>>()),
        };
        let segments = self.pieces.iter().map(|piece| {
            // SAFETY: a piece lies inside of its block, see `DmaMap::piece` and `AddressSpace::map`.
            (unsafe { piece.block.host_base().add(piece.offset) }, piece.len)
        });
        // SAFETY: the owner holds all the blocks, whose mappings stay readable and writable while they live; guest RAM
        // is never borrowed as a reference to plain bytes.
        let io = unsafe { IoBuf::from_raw(segments, owner) };
        DmaBuffer { io, pieces: self.pieces }
    }
}

/// Guest memory that a device hands to a backend.
#[derive(Clone, Debug)]
pub struct DmaBuffer {
    io: IoBuf,
    pieces: Vec<Piece>,
}

impl DmaBuffer {
    /// The buffer of no bytes.
    pub fn empty() -> Self {
        Self { io: IoBuf::empty(), pieces: Vec::new() }
    }

    /// Memory of `len` zero bytes that is not the guest's: for transfers that go nowhere.
    pub fn detached(len: usize) -> Self {
        Self { io: IoBuf::zeroed(len), pieces: Vec::new() }
    }

    /// The memory. Who writes to it calls [`DmaBuffer::stored`] afterwards.
    pub fn io(&self) -> &IoBuf {
        &self.io
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.io.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.io.is_empty()
    }

    /// The bytes `start .. start + len`, sharing the memory.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let io = self.io.slice(start, len);
        let mut pieces = Vec::new();
        let (mut skip, mut left) = (start, len);
        for piece in &self.pieces {
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            if left == 0 {
                break;
            }
            let here = left.min(piece.len - skip);
            pieces.push(Piece { block: Arc::clone(&piece.block), offset: piece.offset + skip, len: here });
            (skip, left) = (0, left - here);
        }
        Self { io, pieces }
    }

    /// Writes bytes at `start`, and notes that.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    pub fn write_at(&self, start: usize, from: &[u8]) {
        self.io.write_at(start, from);
        self.stored(start, from.len());
    }

    /// Notes that `len` bytes from `start` on were written: code that was decoded from them becomes invalid.
    pub fn stored(&self, start: usize, len: usize) {
        let (mut skip, mut left) = (start, len);
        for piece in &self.pieces {
            if left == 0 {
                break;
            }
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            let here = left.min(piece.len - skip);
            piece.block.note_store(piece.offset + skip, here);
            (skip, left) = (0, left - here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccessSize, GuestAddress, Io, SpaceKind};

    struct Nothing;
    impl Io for Nothing {
        fn read(&self, _offset: u64, _size: AccessSize) -> u64 {
            panic!("a device was read");
        }
        fn write(&self, _offset: u64, _size: AccessSize, _value: u64) {
            panic!("a device was written");
        }
    }

    /// RAM at 0–0x3fff with a device at 0x2000, the same block's rest at 0x10000, ROM at 0x20000.
    fn space() -> (DmaView, Arc<RamBlock>) {
        let ram = Arc::new(RamBlock::new("ram", 0x8000).expect("RAM"));
        let rom = Arc::new(RamBlock::new("rom", 0x1000).expect("ROM"));
        let space = AddressSpace::new(SpaceKind::Memory);
        let map = |start, len, block: &Arc<RamBlock>, offset, read_only| {
            let backing = Backing::Ram { block: Arc::clone(block), offset, read_only };
            space.map(GuestAddress(start), len, 0, backing).expect("map");
        };
        map(0, 0x4000, &ram, 0, false);
        map(0x1_0000, 0x4000, &ram, 0x4000, false);
        map(0x2_0000, 0x1000, &rom, 0, true);
        space.map(GuestAddress(0x2000), 0x1000, 1, Backing::Io(Arc::new(Nothing))).expect("map");
        (DmaView::new(Arc::new(space)), ram)
    }

    #[test]
    fn gathered_ranges_share_guest_memory_and_neighbours_are_one_segment() {
        let (view, ram) = space();
        let map = view.map();
        let mut gather = map.gather(DmaAccess::Write);
        gather.add(0x3ff0, 0x10).expect("RAM");
        gather.add(0x1_0000, 0x10).expect("RAM");
        gather.add(0x100, 1).expect("RAM");
        let buffer = gather.finish();
        assert_eq!((buffer.len(), buffer.io().segments().len()), (0x21, 2));
        buffer.write_at(0xf, &[1, 2]);
        assert_eq!((ram.load_u8(0x3fff), ram.load_u8(0x4000)), (Some(1), Some(2)));
        assert!(ram.store_u8(0x100, 9));
        assert_eq!(buffer.io().to_vec()[0x20], 9);
        // A part shares the memory and notes its stores.
        let part = buffer.slice(0xe, 0x13);
        assert_eq!((part.len(), part.pieces.len(), part.io().to_vec()[1..3].to_vec()), (0x13, 2, vec![1, 2]));
        let page = ram.page_code(0x100).expect("a page");
        page.watch(0x100, 64);
        part.write_at(0x12, &[8]);
        assert_eq!((ram.load_u8(0x100), page.generation()), (Some(8), 1));
    }

    #[test]
    fn memory_of_devices_holes_and_rom_is_refused() {
        let (view, _) = space();
        let map = view.map();
        let cases = [(0x1fff, 2), (0x2000, 1), (0x1_3fff, 2), (0x1_4000, 1), (u64::MAX, 2), (u64::MAX - 1, 4)];
        for (address, len) in cases {
            for access in [DmaAccess::Read, DmaAccess::Write] {
                let refused = map.gather(access).add(address, len);
                assert_eq!(refused, Err(DmaError { address, len }));
            }
            assert!(map.slice(address, len).is_err());
        }
        assert!(map.gather(DmaAccess::Write).add(0x2_0000, 16).is_err());
        assert!(map.gather(DmaAccess::Read).add(0x2_0000, 16).is_ok());
        assert!(map.write(0x2_0000, &[0]).is_err() && map.read(0x2_0000, &mut [1]).is_ok());
    }

    #[test]
    fn notes_of_stores_reach_the_pages_of_the_written_part_only() {
        let (view, ram) = space();
        let map = view.map();
        let mut gather = map.gather(DmaAccess::Write);
        gather.add(0x1000, 0x1000).expect("RAM");
        gather.add(0x1_0000, 0x2000).expect("RAM");
        let buffer = gather.finish();
        for page in [0x1000, 0x4000, 0x5000] {
            ram.page_code(page).expect("page").watch(0, 4096);
        }
        buffer.stored(0x1000, 0x1000);
        let generations = [0x1000, 0x4000, 0x5000].map(|page| ram.page_code(page).expect("page").generation());
        assert_eq!(generations, [0, 1, 0]);
    }

    #[test]
    fn slices_are_bounded() {
        let (view, ram) = space();
        let slice = view.map().slice(0x1000, 6).expect("RAM");
        assert!(slice.store_u32(2, 7) && !slice.store_u32(3, 7) && !slice.store_u64(0, 7));
        assert_eq!((slice.load_u16(4), slice.load_u16(5), slice.load_u16(usize::MAX)), (Some(0), None, None));
        assert_eq!(ram.load_u32(0x1002), Some(7));
    }
}
