//! Exports and the NBD server (QEMU's `block-export.json`). Left out: exports over VDUSE.

use crate::block::bitmaps::BlockDirtyBitmapOrStr;
use crate::sockets::{SocketAddress, SocketAddressLegacy};
use crate::{Command, Event, QapiType};

/// What an NBD server is to be, on the command line.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NbdServerOptions {
    /// Where it listens.
    pub addr: SocketAddress,
    /// The object with the TLS credentials; without one, nothing is encrypted.
    pub tls_creds: Option<String>,
    /// The object that decides about clients by their certificates.
    pub tls_authz: Option<String>,
    /// How many clients there may be at once; 0 for any number, 100 if absent.
    pub max_connections: Option<u32>,
}

/// Starts the NBD server.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "nbd-server-start", preconfig)]
pub struct NbdServerStart {
    /// Where it listens.
    pub addr: SocketAddressLegacy,
    /// The object with the TLS credentials; without one, nothing is encrypted.
    pub tls_creds: Option<String>,
    /// The object that decides about clients by their certificates.
    pub tls_authz: Option<String>,
    /// How many clients there may be at once; 0 for any number, 100 if absent.
    pub max_connections: Option<u32>,
}

/// What all exports over NBD have.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockExportOptionsNbdBase {
    /// The export's name for clients; the node's name if absent.
    pub name: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
}

/// An export over NBD.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockExportOptionsNbd {
    /// Name and description.
    #[qapi(flatten)]
    pub base: BlockExportOptionsNbdBase,
    /// Bitmaps that clients see as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Option<Vec<BlockDirtyBitmapOrStr>>,
    /// Whether clients see `qemu:allocation-depth`; not if absent.
    pub allocation_depth: Option<bool>,
}

/// Exports a node over NBD, by a device's or a node's name.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "nbd-server-add", preconfig, deprecated)]
pub struct NbdServerAdd {
    /// Name and description; the name is that of the device if absent.
    #[qapi(flatten)]
    pub base: BlockExportOptionsNbdBase,
    /// The device or node.
    pub device: String,
    /// Whether clients may write; not if absent.
    pub writable: Option<bool>,
    /// A bitmap that clients see.
    pub bitmap: Option<String>,
}

/// What is done with clients of an export that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockExportRemoveMode {
    /// While there are some, it stays.
    Safe,
    /// They are cut off.
    Hard,
}

/// Removes an export over NBD.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "nbd-server-remove", preconfig, deprecated)]
pub struct NbdServerRemove {
    /// The export's id.
    pub name: String,
    /// What is done with clients; `safe` if absent.
    pub mode: Option<BlockExportRemoveMode>,
}

/// Ends the NBD server and its exports.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "nbd-server-stop", preconfig)]
pub struct NbdServerStop;

/// Kinds of exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockExportType {
    /// Over NBD.
    Nbd,
    /// A virtio disk for guests of other programs.
    VhostUserBlk,
    /// A file of the host.
    Fuse,
}

/// An export over vhost-user.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockExportOptionsVhostUserBlk {
    /// The socket that front ends come to: a Unix socket or a descriptor.
    pub addr: SocketAddress,
    /// Bytes of a logical block; 512 if absent.
    pub logical_block_size: Option<u64>,
    /// How many queues there are; 1 if absent.
    pub num_queues: Option<u16>,
}

/// Who may use a file that is an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[qapi(name = "FuseExportAllowOther")]
pub enum FuseExportAllowOther {
    /// The user of this process.
    Off,
    /// All users.
    On,
    /// All users where the host allows it.
    Auto,
}

/// An export as a file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockExportOptionsFuse {
    /// The file that it is mounted over.
    pub mountpoint: String,
    /// Whether writes behind the end make the node grow; not if absent.
    pub growable: Option<bool>,
    /// Who may use it; `auto` if absent.
    pub allow_other: Option<FuseExportAllowOther>,
}

/// What an export has by its kind.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", tag_type = BlockExportType)]
pub enum BlockExportDetail {
    /// Over NBD.
    Nbd(BlockExportOptionsNbd),
    /// A virtio disk for guests of other programs.
    VhostUserBlk(BlockExportOptionsVhostUserBlk),
    /// A file of the host.
    Fuse(BlockExportOptionsFuse),
}

/// Exports a node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-export-add", preconfig)]
pub struct BlockExportAdd {
    /// Its kind, and what it has by that.
    #[qapi(flatten)]
    pub detail: BlockExportDetail,
    /// The export's name for commands.
    pub id: String,
    /// Whether the I/O thread must be had; not if absent.
    pub fixed_iothread: Option<bool>,
    /// The I/O thread that serves its clients.
    pub iothread: Option<String>,
    /// The node.
    pub node_name: String,
    /// Whether clients may write; not if absent.
    pub writable: Option<bool>,
    /// Whether each write is stable before it completes; not if absent.
    pub writethrough: Option<bool>,
}

/// Removes an export.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-export-del", preconfig)]
pub struct BlockExportDel {
    /// The export.
    pub id: String,
    /// What is done with clients; `safe` if absent.
    pub mode: Option<BlockExportRemoveMode>,
}

/// An export is gone.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_EXPORT_DELETED")]
pub struct BlockExportDeleted {
    /// The export.
    pub id: String,
}

/// An export.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockExportInfo {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub r#type: BlockExportType,
    /// The node.
    pub node_name: String,
    /// Whether it ends and waits for its clients.
    pub shutting_down: bool,
}

/// Lists the exports.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-block-exports", returns = Vec<BlockExportInfo>, preconfig)]
pub struct QueryBlockExports;
