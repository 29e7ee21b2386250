//! `transaction`: several changes of the block layer at one point in time, all or none (QEMU's `transaction.json`).

use super::bitmaps::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, XBlockDirtyBitmapMerge};
use super::block_job::{BlockdevBackup, DriveBackup};
use super::snapshots::{BlockdevSnapshot, BlockdevSnapshotInternal, BlockdevSnapshotSync};
use crate::{Command, QapiType};

/// Fails.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct Abort {}

/// What happens to the other jobs of a transaction when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum ActionCompletionMode {
    /// They go on.
    Individual,
    /// They are cancelled.
    Grouped,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum TransactionAction {
    /// Fails, so that nothing is changed.
    Abort(Abort),
    /// Makes a bitmap.
    BlockDirtyBitmapAdd(BlockDirtyBitmapAdd),
    /// Removes a bitmap.
    BlockDirtyBitmapRemove(BlockDirtyBitmap),
    /// Makes everything clean in a bitmap.
    BlockDirtyBitmapClear(BlockDirtyBitmap),
    /// Lets a bitmap record.
    BlockDirtyBitmapEnable(BlockDirtyBitmap),
    /// Stops a bitmap from recording.
    BlockDirtyBitmapDisable(BlockDirtyBitmap),
    /// Merges bitmaps.
    BlockDirtyBitmapMerge(BlockDirtyBitmapMerge),
    /// The older name of `block-dirty-bitmap-enable`.
    #[qapi(legacy)]
    XBlockDirtyBitmapEnable(BlockDirtyBitmap),
    /// The older name of `block-dirty-bitmap-disable`.
    #[qapi(legacy)]
    XBlockDirtyBitmapDisable(BlockDirtyBitmap),
    /// The older form of `block-dirty-bitmap-merge`.
    #[qapi(legacy)]
    XBlockDirtyBitmapMerge(XBlockDirtyBitmapMerge),
    /// Makes a backup to a node.
    BlockdevBackup(BlockdevBackup),
    /// Puts an overlay that is a node already over another node.
    BlockdevSnapshot(BlockdevSnapshot),
    /// Makes a snapshot inside of an image.
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternal),
    /// Puts an overlay in a file over a disk or a node.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
    /// Makes a backup to a file.
    #[qapi(deprecated)]
    DriveBackup(DriveBackup),
}

/// How a transaction goes on after its reply.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct TransactionProperties {
    /// What happens to the other jobs when one fails; `individual` if absent.
    pub completion_mode: Option<ActionCompletionMode>,
}

/// Makes several changes at one point in time: all of them, or none.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "transaction")]
pub struct Transaction {
    /// The changes, in their order.
    pub actions: Vec<TransactionAction>,
    /// How it goes on.
    pub properties: Option<TransactionProperties>,
}
