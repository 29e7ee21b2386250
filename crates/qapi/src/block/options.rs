//! The options that a block node is opened with.

use super::bitmaps::BlockDirtyBitmap;
use super::blkdebug::BlockdevOptionsBlkdebug;
use super::common::{BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevDriver};
use super::protocols::{
    BlockdevOptionsCurlHttp, BlockdevOptionsCurlHttps, BlockdevOptionsFile, BlockdevOptionsNbd, BlockdevOptionsNull,
    BlockdevOptionsVVFAT,
};
use super::qcow2::{BlockdevOptionsQcow, BlockdevOptionsQcow2};
use crate::{Null, QapiType};

/// How the host's cache is used.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockdevCacheOptions {
    /// Whether it is bypassed.
    pub direct: Option<bool>,
    /// Whether flushes are ignored.
    pub no_flush: Option<bool>,
    /// Whether the guest is told of a write cache.
    #[qapi(legacy)]
    pub writeback: Option<bool>,
}

/// A node: new, or one that is there.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum BlockdevRef {
    /// A new one.
    Definition(Box<BlockdevOptions>),
    /// The name of one.
    Reference(String),
}

/// A node, or none.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum BlockdevRefOrNull {
    /// A new one.
    Definition(Box<BlockdevOptions>),
    /// The name of one; empty for none, as older clients say it.
    Reference(String),
    /// None.
    Null(Null),
}

/// Options of formats without options.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsGenericFormat {
    /// The node with the image.
    pub file: BlockdevRef,
}

/// Options of formats with backing files and no further options.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsGenericCOWFormat {
    /// The node with the image.
    pub file: BlockdevRef,
    /// The backing file: a node, or `null` for none. If absent, the one that the image names.
    pub backing: Option<BlockdevRefOrNull>,
}

/// Options of the driver `blkverify`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsBlkverify {
    /// The node under test.
    pub test: BlockdevRef,
    /// The raw node that it is compared with.
    pub raw: BlockdevRef,
}

/// What happens to a write when what it overwrites can't be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum OnCbwError {
    /// The write fails.
    BreakGuestWrite,
    /// The write goes on, and the copy is worth nothing any more.
    BreakSnapshot,
}

/// Options of the driver `copy-before-write`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsCbw {
    /// The node below.
    pub file: BlockdevRef,
    /// Where the copies go.
    pub target: BlockdevRef,
    /// What is copied; all if absent.
    pub bitmap: Option<BlockDirtyBitmap>,
    /// What happens to a write when copying fails; it fails if absent.
    pub on_cbw_error: Option<OnCbwError>,
    /// After so many seconds copying counts as failed; never if absent or 0.
    pub cbw_timeout: Option<u32>,
}

/// Options of the driver `copy-on-read`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsCor {
    /// The node below.
    pub file: BlockdevRef,
    /// The last node of the chain that data is copied from; the whole chain if absent.
    pub bottom: Option<String>,
}

/// Options of the driver `luks`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsLUKS {
    /// The node with the volume.
    pub file: BlockdevRef,
    /// The secret object with the passphrase.
    pub key_secret: Option<String>,
}

/// How a quorum reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QuorumReadPattern {
    /// All children, and the majority counts.
    Quorum,
    /// The first child that can be read.
    Fifo,
}

/// Options of the driver `quorum`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsQuorum {
    /// Whether it stops the program when its two children differ.
    pub blkverify: Option<bool>,
    /// The children.
    pub children: Vec<BlockdevRef>,
    /// How many children have to agree.
    pub vote_threshold: i64,
    /// Whether children that were outvoted are corrected.
    pub rewrite_corrupted: Option<bool>,
    /// How it reads; by voting if absent.
    pub read_pattern: Option<QuorumReadPattern>,
}

/// Options of the driver `raw`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsRaw {
    /// The node below.
    pub file: BlockdevRef,
    /// Where the visible part begins, in bytes.
    pub offset: Option<i64>,
    /// How long the visible part is, in bytes.
    pub size: Option<i64>,
}

/// Options of the driver `throttle`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsThrottle {
    /// The throttle group, an object.
    pub throttle_group: String,
    /// The node below.
    pub file: BlockdevRef,
}

/// The driver of a node with its options.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "driver", tag_type = BlockdevDriver)]
#[expect(missing_docs, reason = "the drivers are described at their names")]
pub enum BlockdevDriverOptions {
    Blkdebug(Box<BlockdevOptionsBlkdebug>),
    Blkverify(BlockdevOptionsBlkverify),
    Bochs(BlockdevOptionsGenericFormat),
    Cloop(BlockdevOptionsGenericFormat),
    Compress(BlockdevOptionsGenericFormat),
    CopyBeforeWrite(BlockdevOptionsCbw),
    CopyOnRead(BlockdevOptionsCor),
    Dmg(BlockdevOptionsGenericFormat),
    File(BlockdevOptionsFile),
    #[qapi(name = "host_cdrom")]
    HostCdrom(BlockdevOptionsFile),
    #[qapi(name = "host_device")]
    HostDevice(BlockdevOptionsFile),
    Http(Box<BlockdevOptionsCurlHttp>),
    Https(Box<BlockdevOptionsCurlHttps>),
    Luks(BlockdevOptionsLUKS),
    Nbd(Box<BlockdevOptionsNbd>),
    NullAio(BlockdevOptionsNull),
    NullCo(BlockdevOptionsNull),
    Parallels(BlockdevOptionsGenericFormat),
    Qcow2(Box<BlockdevOptionsQcow2>),
    Qcow(Box<BlockdevOptionsQcow>),
    Qed(BlockdevOptionsGenericCOWFormat),
    Quorum(BlockdevOptionsQuorum),
    Raw(BlockdevOptionsRaw),
    SnapshotAccess(BlockdevOptionsGenericFormat),
    Throttle(BlockdevOptionsThrottle),
    Vdi(BlockdevOptionsGenericFormat),
    Vhdx(BlockdevOptionsGenericFormat),
    Vmdk(BlockdevOptionsGenericCOWFormat),
    Vpc(BlockdevOptionsGenericFormat),
    Vvfat(BlockdevOptionsVVFAT),
}

/// The options that a node is opened with.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptions {
    /// The driver and its options.
    #[qapi(flatten)]
    pub driver: BlockdevDriverOptions,
    /// The node's name; one is made up if absent.
    pub node_name: Option<String>,
    /// What happens to discards; ignored if absent.
    pub discard: Option<BlockdevDiscardOptions>,
    /// How the host's cache is used.
    pub cache: Option<BlockdevCacheOptions>,
    /// Whether it is opened for reading only.
    pub read_only: Option<bool>,
    /// Whether it may become read-only when it can't be written.
    pub auto_read_only: Option<bool>,
    /// Whether others may write at the same time.
    pub force_share: Option<bool>,
    /// What happens to writes of zeros; nothing special if absent.
    pub detect_zeroes: Option<BlockdevDetectZeroesOptions>,
}
