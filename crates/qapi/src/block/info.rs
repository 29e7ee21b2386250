//! `query-block` and `query-named-block-nodes`.

use super::common::BlockdevDetectZeroesOptions;
use super::image::ImageInfo;
use crate::{Command, QapiType};

/// Whether requests of the guest failed and stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockDeviceIoStatus {
    /// No.
    Ok,
    /// Yes.
    Failed,
    /// Yes: space ran out.
    Nospace,
}

/// How the host's cache is used.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCacheInfo {
    /// Whether there is a write cache.
    pub writeback: bool,
    /// Whether the host's cache is bypassed.
    pub direct: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
}

/// A bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockDirtyInfo {
    /// Its name.
    pub name: Option<String>,
    /// Dirty bytes.
    pub count: i64,
    /// Bytes for each bit.
    pub granularity: u32,
    /// Whether it tracks writes.
    pub recording: bool,
    /// Whether an operation uses it.
    pub busy: bool,
    /// Whether it is stored in the image.
    pub persistent: bool,
    /// Whether it was not stored properly, so that it is worth nothing.
    pub inconsistent: Option<bool>,
}

/// A node as `query-block` shows it.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(snake)]
pub struct BlockDeviceInfo {
    /// The file's name.
    pub file: String,
    /// The node's name.
    #[qapi(name = "node-name")]
    pub node_name: Option<String>,
    /// Whether it is read-only.
    pub ro: bool,
    /// The driver.
    pub drv: String,
    /// The backing file's name in the image.
    pub backing_file: Option<String>,
    /// How many backing files there are.
    pub backing_file_depth: i64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What happens to writes of zeros.
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// The limit of bytes in a second; 0 for none, as for all limits.
    pub bps: i64,
    /// The limit of bytes read in a second.
    pub bps_rd: i64,
    /// The limit of bytes written in a second.
    pub bps_wr: i64,
    /// The limit of requests in a second.
    pub iops: i64,
    /// The limit of reads in a second.
    pub iops_rd: i64,
    /// The limit of writes in a second.
    pub iops_wr: i64,
    /// The image.
    pub image: ImageInfo,
    /// The limit of bytes in a second during a burst.
    pub bps_max: Option<i64>,
    /// The limit of bytes read in a second during a burst.
    pub bps_rd_max: Option<i64>,
    /// The limit of bytes written in a second during a burst.
    pub bps_wr_max: Option<i64>,
    /// The limit of requests in a second during a burst.
    pub iops_max: Option<i64>,
    /// The limit of reads in a second during a burst.
    pub iops_rd_max: Option<i64>,
    /// The limit of writes in a second during a burst.
    pub iops_wr_max: Option<i64>,
    /// How long a burst of `bps_max` may be, in seconds.
    pub bps_max_length: Option<i64>,
    /// How long a burst of `bps_rd_max` may be, in seconds.
    pub bps_rd_max_length: Option<i64>,
    /// How long a burst of `bps_wr_max` may be, in seconds.
    pub bps_wr_max_length: Option<i64>,
    /// How long a burst of `iops_max` may be, in seconds.
    pub iops_max_length: Option<i64>,
    /// How long a burst of `iops_rd_max` may be, in seconds.
    pub iops_rd_max_length: Option<i64>,
    /// How long a burst of `iops_wr_max` may be, in seconds.
    pub iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request; larger ones count as several.
    pub iops_size: Option<i64>,
    /// The throttle group.
    pub group: Option<String>,
    /// How the host's cache is used.
    pub cache: BlockdevCacheInfo,
    /// The write threshold in bytes; 0 for none.
    pub write_threshold: i64,
    /// The bitmaps.
    #[qapi(name = "dirty-bitmaps")]
    pub dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
}

/// A block back end: what a disk controller's drive is connected to.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(snake)]
pub struct BlockInfo {
    /// Its name; empty if it has none.
    pub device: String,
    /// The device that it is connected to: its id, or its path.
    pub qdev: Option<String>,
    /// Always `unknown`.
    pub r#type: String,
    /// Whether the medium can be removed.
    pub removable: bool,
    /// Whether the guest has locked the tray.
    pub locked: bool,
    /// The medium.
    pub inserted: Option<BlockDeviceInfo>,
    /// Whether the tray is open; absent if there is none.
    pub tray_open: Option<bool>,
    /// Whether requests failed and stopped the guest.
    #[qapi(name = "io-status")]
    pub io_status: Option<BlockDeviceIoStatus>,
}

/// Lists the block back ends of the guest's devices, and those with names.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-block", returns = Vec<BlockInfo>, preconfig)]
pub struct QueryBlock;

/// Lists the nodes.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-named-block-nodes", returns = Vec<BlockDeviceInfo>, preconfig)]
pub struct QueryNamedBlockNodes {
    /// Whether backing images are left out of `image`; off if absent.
    pub flat: Option<bool>,
}
