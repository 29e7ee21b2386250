//! What is known about images. Some of these types are only in the image tool's output.

use super::common::BlockdevDriver;
use super::create::Qcow2CompressionType;
use super::crypto::QCryptoBlockInfoLUKS;
use crate::QapiType;

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct SnapshotInfo {
    /// The number that it has in the image.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of the saved machine's state.
    pub vm_state_size: i64,
    /// When it was taken: seconds since 1970.
    pub date_sec: i64,
    /// Nanoseconds of that.
    pub date_nsec: i64,
    /// The guest's clock: seconds.
    pub vm_clock_sec: i64,
    /// Nanoseconds of that.
    pub vm_clock_nsec: i64,
    /// Instructions that were executed, if they were counted.
    pub icount: Option<i64>,
}

/// Properties of a bitmap in a qcow2 image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum Qcow2BitmapInfoFlags {
    /// It was not stored properly, so that it is worth nothing.
    InUse,
    /// It tracks writes.
    Auto,
}

/// A bitmap in a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct Qcow2BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes for each bit.
    pub granularity: u32,
    /// Its properties.
    pub flags: Vec<Qcow2BitmapInfoFlags>,
}

/// The encryption of a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "format")]
pub enum ImageInfoSpecificQCow2Encryption {
    /// The old AES encryption.
    Aes,
    /// LUKS.
    Luks(QCryptoBlockInfoLUKS),
}

/// What is special about a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ImageInfoSpecificQCow2 {
    /// The version: `0.10` or `1.1`.
    pub compat: String,
    /// The file with the data, if it is not in the image.
    pub data_file: Option<String>,
    /// Whether that file is a raw image of the disk at any time.
    pub data_file_raw: Option<bool>,
    /// Whether L2 entries tell of subclusters.
    pub extended_l2: Option<bool>,
    /// Whether refcounts are written late.
    pub lazy_refcounts: Option<bool>,
    /// Whether the image is marked as corrupt.
    pub corrupt: Option<bool>,
    /// Bits of a refcount.
    pub refcount_bits: i64,
    /// The encryption.
    pub encrypt: Option<ImageInfoSpecificQCow2Encryption>,
    /// The bitmaps.
    pub bitmaps: Option<Vec<Qcow2BitmapInfo>>,
    /// How clusters are compressed.
    pub compression_type: Qcow2CompressionType,
}

/// What is special about an image of `VMware`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ImageInfoSpecificVmdk {
    /// The kind.
    pub create_type: String,
    /// The content's number.
    pub cid: i64,
    /// The number of the parent's content.
    pub parent_cid: i64,
    /// The files.
    pub extents: Vec<ImageInfo>,
}

/// What is special about an image of one format.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum ImageInfoSpecific {
    /// A qcow2 image.
    Qcow2(ImageInfoSpecificQCow2),
    /// An image of `VMware`.
    Vmdk(ImageInfoSpecificVmdk),
    /// A LUKS volume.
    Luks(QCryptoBlockInfoLUKS),
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ImageInfo {
    /// The file's name.
    pub filename: String,
    /// The format.
    pub format: String,
    /// Whether it was not closed.
    pub dirty_flag: Option<bool>,
    /// Bytes that it takes on the host.
    pub actual_size: Option<i64>,
    /// Bytes that the guest sees.
    pub virtual_size: i64,
    /// Bytes of a cluster.
    pub cluster_size: Option<i64>,
    /// Whether it is encrypted.
    pub encrypted: Option<bool>,
    /// Whether it is compressed.
    pub compressed: Option<bool>,
    /// The backing file's name in the image.
    pub backing_filename: Option<String>,
    /// The backing file's name from here.
    pub full_backing_filename: Option<String>,
    /// The backing file's format in the image.
    pub backing_filename_format: Option<String>,
    /// The snapshots.
    pub snapshots: Option<Vec<SnapshotInfo>>,
    /// The backing file.
    pub backing_image: Option<Box<ImageInfo>>,
    /// What only this format has.
    pub format_specific: Option<Box<ImageInfoSpecific>>,
}

/// The result of a check of an image.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ImageCheck {
    /// The file's name.
    pub filename: String,
    /// The format.
    pub format: String,
    /// Errors that kept parts from being checked.
    pub check_errors: i64,
    /// Where the image ends in the file, in bytes.
    pub image_end_offset: Option<i64>,
    /// Corruptions that are there.
    pub corruptions: Option<i64>,
    /// Leaked clusters that are there.
    pub leaks: Option<i64>,
    /// Corruptions that were repaired.
    pub corruptions_fixed: Option<i64>,
    /// Leaks that were repaired.
    pub leaks_fixed: Option<i64>,
    /// Clusters of the disk.
    pub total_clusters: Option<i64>,
    /// Those that are allocated.
    pub allocated_clusters: Option<i64>,
    /// Those that do not follow their predecessor.
    pub fragmented_clusters: Option<i64>,
    /// Those that are compressed.
    pub compressed_clusters: Option<i64>,
}

/// A part of an image with one status.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MapEntry {
    /// Where it begins on the disk, in bytes.
    pub start: i64,
    /// How long it is, in bytes.
    pub length: i64,
    /// Whether it has data.
    pub data: bool,
    /// Whether it reads as zeros.
    pub zero: bool,
    /// How many backing files above the one that it is in.
    pub depth: i64,
    /// Whether it is allocated anywhere in the chain.
    pub present: bool,
    /// Where it is in the file, in bytes.
    pub offset: Option<i64>,
    /// The file.
    pub filename: Option<String>,
}

/// How large an image would be.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockMeasureInfo {
    /// Bytes of a new image with the data.
    pub required: i64,
    /// Bytes of an image that is completely allocated.
    pub fully_allocated: i64,
    /// Bytes of the bitmaps, if they were copied.
    pub bitmaps: Option<i64>,
}

/// Where a node keeps its statistics apart from the general ones.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockStatsSpecificFile {
    /// Discards that the file system executed.
    pub discard_nb_ok: u64,
    /// Discards that it refused.
    pub discard_nb_failed: u64,
    /// Bytes that were discarded.
    pub discard_bytes_ok: u64,
}

/// Statistics that only some drivers have.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "driver", tag_type = BlockdevDriver)]
pub enum BlockStatsSpecific {
    /// A file.
    File(BlockStatsSpecificFile),
    /// A block device of the host.
    #[qapi(name = "host_device")]
    HostDevice(BlockStatsSpecificFile),
    /// A driver without such.
    #[qapi(other)]
    Other(BlockdevDriver),
}
