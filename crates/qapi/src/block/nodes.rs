//! Commands that make, change and delete nodes.

use super::common::BlockPermission;
use super::options::BlockdevOptions;
use crate::{Command, Null, QapiType};

/// Makes a node, with the nodes below it.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-add", wrapper = "options", preconfig)]
pub struct BlockdevAdd {
    /// How the node is opened.
    #[qapi(flatten)]
    pub options: BlockdevOptions,
    /// The name of a block back end that is made for the node.
    #[qapi(legacy)]
    pub id: Option<String>,
}

/// Opens nodes again with other options. All of a node's options are given.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-reopen", preconfig)]
pub struct BlockdevReopen {
    /// The nodes, by their names, with their new options.
    pub options: Vec<BlockdevOptions>,
}

/// An older form of `blockdev-reopen`, for one node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-reopen", legacy, unstable)]
pub struct XBlockdevReopen {
    /// The node, by its name, with its new options.
    #[qapi(flatten)]
    pub options: BlockdevOptions,
}

/// Deletes a node that nobody uses and that `blockdev-add` has made.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-del", preconfig)]
pub struct BlockdevDel {
    /// The node.
    pub node_name: String,
}

/// The older name of `blockdev-del`. Exactly one of the arguments is given.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-del", legacy, unstable)]
pub struct XBlockdevDel {
    /// The block back end that is deleted, with its node.
    pub id: Option<String>,
    /// The node.
    pub node_name: Option<String>,
}

/// Adds a child to a quorum, or takes one away.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-change", unstable, preconfig)]
pub struct XBlockdevChange {
    /// The quorum's node.
    pub parent: String,
    /// The child that is taken away.
    pub child: Option<String>,
    /// The node that is added.
    pub node: Option<String>,
}

/// What a node of the block graph is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum XDbgBlockGraphNodeType {
    /// A back end.
    BlockBackend,
    /// A job.
    BlockJob,
    /// A node of the block layer.
    BlockDriver,
}

/// A node of the block graph.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct XDbgBlockGraphNode {
    /// Its number in this answer.
    pub id: u64,
    /// What it is.
    pub r#type: XDbgBlockGraphNodeType,
    /// Its name.
    pub name: String,
}

/// An edge of the block graph.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct XDbgBlockGraphEdge {
    /// The number of who uses the child.
    pub parent: u64,
    /// The number of the node that is used.
    pub child: u64,
    /// What the child is to its parent.
    pub name: String,
    /// What the parent uses the child for.
    pub perm: Vec<BlockPermission>,
    /// What it lets others use it for.
    pub shared_perm: Vec<BlockPermission>,
}

/// The block graph.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct XDbgBlockGraph {
    /// Its nodes.
    pub nodes: Vec<XDbgBlockGraphNode>,
    /// Its edges.
    pub edges: Vec<XDbgBlockGraphEdge>,
}

/// Tells the whole block graph, for tests.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-debug-query-block-graph", returns = XDbgBlockGraph, unstable, preconfig)]
pub struct XDebugQueryBlockGraph {}

/// A name, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum StrOrNull {
    /// A name.
    S(String),
    /// Nothing.
    N(Null),
}

/// Has the jobs and exports of a node done by an I/O thread.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-set-iothread", unstable, preconfig)]
pub struct XBlockdevSetIothread {
    /// The node.
    pub node_name: String,
    /// The I/O thread, or `null` for the thread of all disks.
    pub iothread: StrOrNull,
    /// Whether it is done although a device uses the node; it is not if absent.
    pub force: Option<bool>,
}

/// Changes the size of a disk.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block_resize", preconfig)]
pub struct BlockResize {
    /// The back end.
    pub device: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// The new size in bytes.
    pub size: i64,
}

/// Has an event emitted when a write goes beyond an offset.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-set-write-threshold", preconfig)]
pub struct BlockSetWriteThreshold {
    /// The node.
    pub node_name: String,
    /// The offset in bytes; 0 for no event.
    pub write_threshold: u64,
}

/// Changes the name of the backing file in an image, and nothing else.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "change-backing-file", preconfig)]
pub struct ChangeBackingFile {
    /// The back end or the node whose chain the image is in.
    pub device: String,
    /// The image's node.
    pub image_node_name: String,
    /// The new name.
    pub backing_file: String,
}
