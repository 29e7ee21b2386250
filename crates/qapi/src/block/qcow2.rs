//! Options of the drivers `qcow` and `qcow2`.

use super::crypto::{QCryptoBlockOptionsLUKS, QCryptoBlockOptionsQCow};
use super::options::{BlockdevRef, BlockdevRefOrNull};
use crate::QapiType;

/// Sets of the checks before writes that they do not hit metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum Qcow2OverlapCheckMode {
    /// None.
    None,
    /// Those of constant cost.
    Constant,
    /// Those that need no reads.
    Cached,
    /// All.
    All,
}

/// The checks one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct Qcow2OverlapCheckFlags {
    /// What holds for those that are not given; `cached` if absent.
    pub template: Option<Qcow2OverlapCheckMode>,
    /// The header.
    pub main_header: Option<bool>,
    /// The active L1 table.
    pub active_l1: Option<bool>,
    /// The active L2 tables.
    pub active_l2: Option<bool>,
    /// The refcount table.
    pub refcount_table: Option<bool>,
    /// The refcount blocks.
    pub refcount_block: Option<bool>,
    /// The snapshot table.
    pub snapshot_table: Option<bool>,
    /// The L1 tables of snapshots.
    pub inactive_l1: Option<bool>,
    /// The L2 tables of snapshots.
    pub inactive_l2: Option<bool>,
    /// The bitmap directory.
    pub bitmap_directory: Option<bool>,
}

/// The checks before writes: a set, or one by one.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum Qcow2OverlapChecks {
    /// One by one.
    Flags(Qcow2OverlapCheckFlags),
    /// A set.
    Mode(Qcow2OverlapCheckMode),
}

/// The encryption of a qcow image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "format")]
pub enum BlockdevQcowEncryption {
    /// AES in CBC mode.
    Aes(QCryptoBlockOptionsQCow),
}

/// The encryption of a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "format")]
pub enum BlockdevQcow2Encryption {
    /// AES in CBC mode.
    Aes(QCryptoBlockOptionsQCow),
    /// LUKS.
    Luks(QCryptoBlockOptionsLUKS),
}

/// Options of the driver `qcow`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsQcow {
    /// The node with the image.
    pub file: BlockdevRef,
    /// The backing file: a node, or `null` for none. If absent, the one that the image names.
    pub backing: Option<BlockdevRefOrNull>,
    /// The encryption.
    pub encrypt: Option<BlockdevQcowEncryption>,
}

/// Options of the driver `qcow2`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsQcow2 {
    /// The node with the image.
    pub file: BlockdevRef,
    /// The backing file: a node, or `null` for none. If absent, the one that the image names.
    pub backing: Option<BlockdevRefOrNull>,
    /// Whether refcounts are written late; as the image says if absent.
    pub lazy_refcounts: Option<bool>,
    /// Whether discards of the guest go to the file below; if absent, as `discard` says.
    pub pass_discard_request: Option<bool>,
    /// Whether clusters that a deleted snapshot frees are discarded; on if absent.
    pub pass_discard_snapshot: Option<bool>,
    /// Whether other freed clusters are discarded; off if absent.
    pub pass_discard_other: Option<bool>,
    /// Checks before writes.
    pub overlap_check: Option<Qcow2OverlapChecks>,
    /// Bytes for both metadata caches.
    pub cache_size: Option<i64>,
    /// Bytes for the cache of L2 tables.
    pub l2_cache_size: Option<i64>,
    /// Bytes of one entry of that cache: a power of two from 512 to the cluster's size.
    pub l2_cache_entry_size: Option<i64>,
    /// Bytes for the cache of refcount blocks.
    pub refcount_cache_size: Option<i64>,
    /// Seconds after which unused cache entries are dropped; 0 for never, 600 if absent.
    pub cache_clean_interval: Option<i64>,
    /// The encryption.
    pub encrypt: Option<BlockdevQcow2Encryption>,
    /// The node with the data, if the image has an external data file.
    pub data_file: Option<BlockdevRef>,
}
