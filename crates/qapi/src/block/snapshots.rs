//! Snapshots: overlays over what a disk holds, and those inside of an image.

use super::image::SnapshotInfo;
use crate::{Command, QapiType};

/// Where the file of a new image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum NewImageMode {
    /// It is there already.
    Existing,
    /// It is made, with the absolute name of its backing file.
    AbsolutePaths,
}

/// Puts an overlay in a file over a node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevSnapshotSync {
    /// The back end whose medium it is.
    pub device: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// The overlay's file.
    pub snapshot_file: String,
    /// The overlay's node; a generated name if absent.
    pub snapshot_node_name: Option<String>,
    /// The overlay's format; `qcow2` if absent.
    pub format: Option<String>,
    /// Whether the file is made; it is if absent.
    pub mode: Option<NewImageMode>,
}

/// Puts an overlay that is a node already over another node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(feature = "allow-write-only-overlay")]
pub struct BlockdevSnapshot {
    /// The back end or the node that becomes the backing.
    pub node: String,
    /// The overlay's node, without a backing.
    pub overlay: String,
}

/// Makes a snapshot inside of an image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevSnapshotInternal {
    /// The back end or the node.
    pub device: String,
    /// The snapshot's name.
    pub name: String,
}

/// Puts an overlay in a file over a disk or a node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-snapshot-sync", preconfig)]
pub struct BlockdevSnapshotSyncCommand {
    /// Which.
    #[qapi(flatten)]
    pub snapshot: BlockdevSnapshotSync,
}

/// Puts an overlay that is a node already over another node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-snapshot", preconfig)]
#[qapi(feature = "allow-write-only-overlay")]
pub struct BlockdevSnapshotCommand {
    /// Which.
    #[qapi(flatten)]
    pub snapshot: BlockdevSnapshot,
}

/// Makes a snapshot inside of an image.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-snapshot-internal-sync", preconfig)]
pub struct BlockdevSnapshotInternalSync {
    /// Which.
    #[qapi(flatten)]
    pub snapshot: BlockdevSnapshotInternal,
}

/// Deletes a snapshot inside of an image, and tells what it was. At least one of `id` and `name` is given.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-snapshot-delete-internal-sync", returns = SnapshotInfo, preconfig)]
pub struct BlockdevSnapshotDeleteInternalSync {
    /// The back end or the node.
    pub device: String,
    /// The snapshot's number.
    pub id: Option<String>,
    /// The snapshot's name.
    pub name: Option<String>,
}
