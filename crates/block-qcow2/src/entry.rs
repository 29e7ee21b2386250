//! Entries of the L1 and L2 tables, and the geometry that follows from the header ("Cluster mapping").

use crate::header::{Header, incompatible};

/// The table or cluster has a refcount of exactly one.
pub const COPIED: u64 = 1 << 63;
/// The cluster is stored compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3, standard entries).
pub const ZERO: u64 = 1;
/// The offset in entries of both levels.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The bitmap of a cluster all of whose subclusters read as zeroes.
pub const ALL_ZERO: u64 = 0xffff_ffff_0000_0000;
/// The bitmap of a cluster all of whose subclusters are allocated.
pub const ALL_ALLOCATED: u64 = 0xffff_ffff;
/// The end of the space that entries can address, bytes.
pub const MAX_OFFSET: u64 = 1 << 56;

/// What an L2 entry says: the descriptor, and the subcluster bitmap (0 for standard entries).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// The cluster descriptor.
    pub word: u64,
    /// The subcluster bitmap.
    pub bitmap: u64,
}

/// How a cluster or subcluster is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not here: in the backing.
    Unallocated,
    /// In the backing, though there is a host cluster for it.
    UnallocatedHost,
    /// Zeroes, without a host cluster.
    ZeroPlain,
    /// Zeroes, with a host cluster.
    ZeroHost,
    /// Stored at the host offset.
    Normal,
    /// Stored compressed.
    Compressed,
}

impl Kind {
    /// Whether reads give zeroes by this entry's word.
    pub fn is_zero(self) -> bool {
        matches!(self, Kind::ZeroPlain | Kind::ZeroHost)
    }

    /// Whether reads go to the backing.
    pub fn is_unallocated(self) -> bool {
        matches!(self, Kind::Unallocated | Kind::UnallocatedHost)
    }
}

/// What follows from the header and does not change while an image is open.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Log2 of the cluster size.
    pub cluster_bits: u32,
    /// L2 entries have bitmaps.
    pub extended: bool,
    /// Data is in an external file.
    pub data_file: bool,
    /// Version 2: the zero flag is not known.
    pub no_zero_flag: bool,
}

impl Geometry {
    /// The geometry of an image.
    pub fn new(header: &Header) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            extended: header.is_extended(),
            data_file: header.incompatible & incompatible::DATA_FILE != 0,
            no_zero_flag: header.version < 3,
        }
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// 64-bit words of an L2 entry.
    pub fn entry_words(&self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    /// Bytes of an L2 entry.
    pub fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Log2 of the entries of an L2 table.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended { 4 } else { 3 }
    }

    /// Guest bytes that an L1 entry covers, as log2.
    pub fn l1_shift(&self) -> u32 {
        self.cluster_bits + self.l2_bits()
    }

    /// Log2 of the unit of allocation inside of a cluster.
    pub fn subcluster_bits(&self) -> u32 {
        if self.extended { self.cluster_bits - 5 } else { self.cluster_bits }
    }

    /// Bytes of the unit of allocation inside of a cluster.
    pub fn subcluster_size(&self) -> u64 {
        1 << self.subcluster_bits()
    }

    /// Entries of an L1 table for `size` bytes.
    pub fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(1 << self.l1_shift())
    }

    /// The offset in the cluster.
    pub fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// Log2 of the unit of the sector count in compressed descriptors: where the count starts.
    fn compressed_shift(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// The byte offset and length of a compressed cluster's stream (the length is rounded up to sectors).
    pub fn compressed(&self, word: u64) -> (u64, u64) {
        let shift = self.compressed_shift();
        let offset = word & ((1 << shift) - 1);
        let sectors = ((word & !(COMPRESSED | COPIED)) >> shift) + 1;
        (offset, sectors * 512 - (offset & 511))
    }

    /// The descriptor of a compressed cluster of `len` bytes at `offset`, if it can be expressed.
    pub fn compressed_word(&self, offset: u64, len: u64) -> Option<u64> {
        let shift = self.compressed_shift();
        let sectors = ((offset + len - 1) >> 9) - (offset >> 9);
        (offset >> shift == 0 && sectors >> (62 - shift) == 0).then_some(COMPRESSED | (sectors << shift) | offset)
    }

    /// The host clusters of a compressed descriptor: the first one and how many.
    pub fn compressed_clusters(&self, word: u64) -> (u64, u64) {
        let (offset, len) = self.compressed(word);
        // A stream may start at any byte, but its length counts whole sectors.
        let first = (offset & !511) >> self.cluster_bits;
        let last = (offset + len - 1) >> self.cluster_bits;
        (first, last - first + 1)
    }

    /// Whether the entry has a host cluster of its own (not a compressed one).
    pub fn host(&self, entry: Entry) -> Option<u64> {
        if entry.word & COMPRESSED != 0 {
            return None;
        }
        let offset = entry.word & OFFSET_MASK;
        (offset != 0 || (self.data_file && entry.word & COPIED != 0)).then_some(offset)
    }

    /// How subcluster `index` (0 in standard images) is stored; `None` if the bitmap contradicts itself.
    pub fn kind(&self, entry: Entry, index: u32) -> Option<Kind> {
        if entry.word & COMPRESSED != 0 {
            return Some(Kind::Compressed);
        }
        let has_host = self.host(entry).is_some();
        let (allocated, zero) = if self.extended {
            (entry.bitmap & (1 << index) != 0, entry.bitmap & (1 << (index + 32)) != 0)
        } else {
            let zero = !self.no_zero_flag && entry.word & ZERO != 0;
            (has_host && !zero, zero)
        };
        match (has_host, allocated, zero) {
            (_, true, true) | (false, true, _) => None,
            (true, true, false) => Some(Kind::Normal),
            (true, false, true) => Some(Kind::ZeroHost),
            (false, false, true) => Some(Kind::ZeroPlain),
            (true, false, false) => Some(Kind::UnallocatedHost),
            (false, false, false) => Some(Kind::Unallocated),
        }
    }
}
