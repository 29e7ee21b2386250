//! The events of the block layer, without those of jobs.

use super::common::{BlockErrorAction, IoOperationType};
use crate::{Event, QapiType};

/// The tray of a device was opened or closed, by the guest or by a client.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "DEVICE_TRAY_MOVED")]
pub struct DeviceTrayMoved {
    /// The back end's name; empty if it has none.
    pub device: String,
    /// The device's id, or its path.
    pub id: String,
    /// Whether the tray is open now.
    pub tray_open: bool,
}

/// A driver found broken metadata.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_IMAGE_CORRUPTED")]
pub struct BlockImageCorrupted {
    /// The back end's name; empty if it has none.
    pub device: String,
    /// The node.
    pub node_name: Option<String>,
    /// What was found.
    pub msg: String,
    /// Where a write would have hit metadata, in bytes.
    pub offset: Option<i64>,
    /// How long that write was, in bytes.
    pub size: Option<i64>,
    /// Whether the image was marked as corrupt and can't be used any more.
    pub fatal: bool,
}

/// A request of the guest failed.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_IO_ERROR")]
pub struct BlockIoError {
    /// The back end's name; empty if it has none.
    pub device: String,
    /// The node, if there is still a medium.
    pub node_name: Option<String>,
    /// The direction.
    pub operation: IoOperationType,
    /// What was done about it.
    pub action: BlockErrorAction,
    /// Whether space ran out; absent unless errors can stop the guest.
    pub nospace: Option<bool>,
    /// The error for people.
    pub reason: String,
}

/// A write went beyond the write threshold, which is cleared thereby.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_WRITE_THRESHOLD")]
pub struct BlockWriteThreshold {
    /// The node.
    pub node_name: String,
    /// How far it went beyond, in bytes.
    pub amount_exceeded: u64,
    /// The threshold, in bytes.
    pub write_threshold: u64,
}

/// Requests that a quorum can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QuorumOpType {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
}

/// A quorum could not agree.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "QUORUM_FAILURE", rate_limit_ms = 1000)]
pub struct QuorumFailure {
    /// The back end's name, or the node's.
    pub reference: String,
    /// The first sector of 512 bytes.
    pub sector_num: i64,
    /// The number of sectors.
    pub sectors_count: i64,
}

/// A child of a quorum failed, or was outvoted.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "QUORUM_REPORT_BAD", rate_limit_ms = 1000, rate_key = "node-name")]
pub struct QuorumReportBad {
    /// The request.
    pub r#type: QuorumOpType,
    /// The error, if the child had one.
    pub error: Option<String>,
    /// The child's node.
    pub node_name: String,
    /// The first sector of 512 bytes.
    pub sector_num: i64,
    /// The number of sectors.
    pub sectors_count: i64,
}
