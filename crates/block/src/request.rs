//! What travels through the graph: flags, answers about allocation, limits.

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// Complete only when the data is on stable storage.
    pub fua: bool,
    /// The data is what reads return already (copy on read): it needs no write permission.
    pub unchanged: bool,
    /// Store the data compressed (whole clusters).
    pub compressed: bool,
}

/// How a range is to be zeroed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// Storage may be given back.
    pub may_unmap: bool,
    /// Fail with [`crate::Error::is_unsupported`] rather than writing zero bytes.
    pub no_fallback: bool,
    /// Complete only when on stable storage.
    pub fua: bool,
}

/// How growing space is to be reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Not at all.
    #[default]
    Off,
    /// The format's tables only.
    Metadata,
    /// Reserved by the file system.
    Falloc,
    /// Zeroes written.
    Full,
}

impl Preallocation {
    /// The names, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["off", "metadata", "falloc", "full"];

    /// The variant of that index in [`Preallocation::NAMES`].
    pub fn from_index(index: usize) -> Self {
        [Self::Off, Self::Metadata, Self::Falloc, Self::Full][index.min(3)]
    }
}

/// What a node knows of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStatus {
    /// Bytes that this answer is good for, from the start of the question; at least 1 unless the question was empty or
    /// starts at the end of the node.
    pub len: u64,
    /// This node, not its backing, says what is read.
    pub allocated: bool,
    /// Reads return data that is stored (here or below).
    pub data: bool,
    /// Reads return zeroes.
    pub zero: bool,
    /// Where in the data child `map_child` these bytes are, uncompressed and unencrypted.
    pub offset: Option<u64>,
    /// The bytes are stored compressed.
    pub compressed: bool,
    /// The protocol below was asked already; don't ask again (raw files).
    pub recurse: bool,
}

impl BlockStatus {
    /// Stored data at `offset` of the data child, if it is there as it is.
    pub fn data(len: u64, offset: Option<u64>) -> Self {
        Self { len, allocated: true, data: true, offset, ..Self::default() }
    }

    /// Zeroes by this node's own word.
    pub fn zero(len: u64) -> Self {
        Self { len, allocated: true, zero: true, ..Self::default() }
    }

    /// Not in this node: ask its backing.
    pub fn unallocated(len: u64) -> Self {
        Self { len, ..Self::default() }
    }
}

/// What requests a driver takes. Zero means "no limit" for lengths and "no preference" for alignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths of reads and writes must be multiples of this power of two, bytes; at least 1. The node
    /// pads what does not fit.
    pub request_alignment: u32,
    /// Addresses of buffers must be multiples of this power of two, bytes; at least 1.
    pub memory_alignment: u32,
    /// The longest read or write, bytes.
    pub max_transfer: u64,
    /// Discards are rounded inwards to this, bytes.
    pub discard_alignment: u32,
    /// The longest discard, bytes.
    pub max_discard: u64,
    /// Zero writes are efficient in multiples of this, bytes.
    pub zeroes_alignment: u32,
    /// The longest zero write, bytes.
    pub max_zeroes: u64,
    /// The best size of a transfer, bytes.
    pub optimal_transfer: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_alignment: 1,
            memory_alignment: 1,
            max_transfer: 0,
            discard_alignment: 0,
            max_discard: 0,
            zeroes_alignment: 0,
            max_zeroes: 0,
            optimal_transfer: 0,
        }
    }
}
