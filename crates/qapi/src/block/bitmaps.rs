//! Dirty bitmaps.

use crate::{Command, QapiType};

/// Makes a bitmap.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockDirtyBitmapAdd {
    /// The back end or the node that it is for.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Bytes of a bit, a power of two; by default the cluster size of the image, between 4 KiB and 64 KiB.
    pub granularity: Option<u32>,
    /// Whether the image stores it; it does not if absent.
    pub persistent: Option<bool>,
    /// Whether it does not record for now; it does if absent.
    pub disabled: Option<bool>,
}

/// A bitmap.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockDirtyBitmap {
    /// The back end or the node that it belongs to.
    pub node: String,
    /// Its name.
    pub name: String,
}

/// A bitmap of the same node, by its name, or of any node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum BlockDirtyBitmapOrStr {
    /// Of the same node.
    Local(String),
    /// Of any node.
    External(BlockDirtyBitmap),
}

/// Makes dirty in one bitmap what is dirty in others.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockDirtyBitmapMerge {
    /// The back end or the node of the bitmap that changes.
    pub node: String,
    /// The bitmap that changes.
    pub target: String,
    /// The others.
    pub bitmaps: Vec<BlockDirtyBitmapOrStr>,
}

/// The older form of [`BlockDirtyBitmapMerge`], for two bitmaps of a node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(snake)]
pub struct XBlockDirtyBitmapMerge {
    /// The back end or the node.
    pub node: String,
    /// The bitmap that changes.
    pub dst_name: String,
    /// The other one.
    pub src_name: String,
}

impl From<XBlockDirtyBitmapMerge> for BlockDirtyBitmapMerge {
    fn from(old: XBlockDirtyBitmapMerge) -> Self {
        Self { node: old.node, target: old.dst_name, bitmaps: vec![BlockDirtyBitmapOrStr::Local(old.src_name)] }
    }
}

/// Makes a bitmap.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-add", preconfig)]
pub struct BlockDirtyBitmapAddCommand {
    /// What.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmapAdd,
}

/// Removes a bitmap, from its image, too.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-remove", preconfig)]
pub struct BlockDirtyBitmapRemove {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// Makes everything clean in a bitmap.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-clear", preconfig)]
pub struct BlockDirtyBitmapClear {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// Lets a bitmap record.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-enable", preconfig)]
pub struct BlockDirtyBitmapEnable {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// Stops a bitmap from recording.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-disable", preconfig)]
pub struct BlockDirtyBitmapDisable {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// Makes dirty in one bitmap what is dirty in others. All of them are for disks of the same size.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-dirty-bitmap-merge", preconfig)]
pub struct BlockDirtyBitmapMergeCommand {
    /// Which.
    #[qapi(flatten)]
    pub merge: BlockDirtyBitmapMerge,
}

/// The older name of `block-dirty-bitmap-enable`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-block-dirty-bitmap-enable", legacy, unstable)]
pub struct XBlockDirtyBitmapEnable {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// The older name of `block-dirty-bitmap-disable`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-block-dirty-bitmap-disable", legacy, unstable)]
pub struct XBlockDirtyBitmapDisable {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}

/// The older form of `block-dirty-bitmap-merge`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-block-dirty-bitmap-merge", legacy, unstable)]
pub struct XBlockDirtyBitmapMergeCommand {
    /// Which.
    #[qapi(flatten)]
    pub merge: XBlockDirtyBitmapMerge,
}

/// What a bitmap holds.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockDirtyBitmapSha256 {
    /// The SHA-256 of its bits, as hexadecimal digits.
    pub sha256: String,
}

/// Tells what a bitmap holds, for tests.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-debug-block-dirty-bitmap-sha256", returns = BlockDirtyBitmapSha256, preconfig, unstable)]
pub struct XDebugBlockDirtyBitmapSha256 {
    /// The bitmap.
    #[qapi(flatten)]
    pub bitmap: BlockDirtyBitmap,
}
