//! The options that an image is created with.

use super::common::{BlockdevDriver, PreallocMode};
use super::crypto::{
    QCryptoBlockCreateOptions, QCryptoCipherAlgorithm, QCryptoCipherMode, QCryptoHashAlgorithm, QCryptoIVGenAlgorithm,
};
use super::options::BlockdevRef;
use crate::{Command, QapiType, Size};

/// How a file is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsFile {
    /// The path.
    pub filename: String,
    /// The size in bytes.
    pub size: Size,
    /// What is allocated; nothing if absent.
    pub preallocation: Option<PreallocMode>,
    /// Whether copy on write of the file system is switched off.
    pub nocow: Option<bool>,
    /// The unit of allocation that the file system is asked for, in bytes; 0 asks for none, 1 MiB if absent.
    pub extent_size_hint: Option<Size>,
}

/// How a LUKS volume is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsLUKS {
    /// The secret object with the passphrase.
    pub key_secret: Option<String>,
    /// The cipher; AES-256 if absent.
    pub cipher_alg: Option<QCryptoCipherAlgorithm>,
    /// The mode; XTS if absent.
    pub cipher_mode: Option<QCryptoCipherMode>,
    /// The initialisation vectors; plain64 if absent.
    pub ivgen_alg: Option<QCryptoIVGenAlgorithm>,
    /// The hash function of the initialisation vectors.
    pub ivgen_hash_alg: Option<QCryptoHashAlgorithm>,
    /// The hash function of the key derivation; SHA-256 if absent.
    pub hash_alg: Option<QCryptoHashAlgorithm>,
    /// How long the key derivation shall take, in milliseconds; 2000 if absent.
    pub iter_time: Option<i64>,
    /// The node that the volume is put on.
    pub file: BlockdevRef,
    /// The size of the data in bytes.
    pub size: Size,
    /// What is allocated; nothing if absent.
    pub preallocation: Option<PreallocMode>,
}

/// How an image of Parallels is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsParallels {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// Bytes of a cluster; 1 MiB if absent.
    pub cluster_size: Option<Size>,
}

/// How a qcow image is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsQcow {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// The name of the backing file.
    pub backing_file: Option<String>,
    /// The encryption.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
}

/// Versions of qcow2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevQcow2Version {
    /// Version 2, `compat=0.10`.
    V2,
    /// Version 3, `compat=1.1`.
    V3,
}

/// How clusters of a qcow2 image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum Qcow2CompressionType {
    /// Deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// How a qcow2 image is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsQcow2 {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The node for the data, if it shall have a file of its own.
    pub data_file: Option<BlockdevRef>,
    /// Whether that file is a raw image of the disk at any time.
    pub data_file_raw: Option<bool>,
    /// Whether L2 entries tell of subclusters.
    pub extended_l2: Option<bool>,
    /// The size of the disk in bytes.
    pub size: Size,
    /// The version; 3 if absent.
    pub version: Option<BlockdevQcow2Version>,
    /// The name of the backing file.
    pub backing_file: Option<String>,
    /// The format of the backing file.
    pub backing_fmt: Option<BlockdevDriver>,
    /// The encryption.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
    /// Bytes of a cluster; 64 KiB if absent.
    pub cluster_size: Option<Size>,
    /// What is allocated; nothing if absent.
    pub preallocation: Option<PreallocMode>,
    /// Whether refcounts are written late.
    pub lazy_refcounts: Option<bool>,
    /// Bits of a refcount; 16 if absent.
    pub refcount_bits: Option<i64>,
    /// How clusters are compressed; by deflate if absent.
    pub compression_type: Option<Qcow2CompressionType>,
}

/// How a QED image is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsQed {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// The name of the backing file.
    pub backing_file: Option<String>,
    /// The format of the backing file.
    pub backing_fmt: Option<BlockdevDriver>,
    /// Bytes of a cluster; 64 KiB if absent.
    pub cluster_size: Option<Size>,
    /// Clusters of an L1 or L2 table; 4 if absent.
    pub table_size: Option<i64>,
}

/// How an image of `VirtualBox` is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsVdi {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// `metadata` allocates all blocks; nothing if absent.
    pub preallocation: Option<PreallocMode>,
}

/// Kinds of images of Hyper-V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevVhdxSubformat {
    /// It grows.
    Dynamic,
    /// It has all its blocks from the start.
    Fixed,
}

/// How an image of Hyper-V is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsVhdx {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// Bytes of the log; 1 MiB if absent.
    pub log_size: Option<Size>,
    /// Bytes of a block; chosen by the size if absent.
    pub block_size: Option<Size>,
    /// The kind; dynamic if absent.
    pub subformat: Option<BlockdevVhdxSubformat>,
    /// Whether blocks are marked as zero rather than not present; on if absent.
    pub block_state_zero: Option<bool>,
}

/// Kinds of images of `VMware`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevVmdkSubformat {
    /// One file that grows.
    #[qapi(name = "monolithicSparse")]
    MonolithicSparse,
    /// A file of data with a description beside it.
    #[qapi(name = "monolithicFlat")]
    MonolithicFlat,
    /// Files of at most 2 GB that grow.
    #[qapi(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// Files of at most 2 GB.
    #[qapi(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    /// Compressed, to be written once.
    #[qapi(name = "streamOptimized")]
    StreamOptimized,
}

/// Controllers that an image of `VMware` can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevVmdkAdapterType {
    /// IDE.
    Ide,
    /// A SCSI controller of `BusLogic`.
    Buslogic,
    /// A SCSI controller of LSI Logic.
    Lsilogic,
    /// That of old ESX versions.
    #[qapi(name = "legacyESX")]
    LegacyESX,
}

/// How an image of `VMware` is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsVmdk {
    /// The node that the description or the only file is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// The nodes for the data where it has files of its own.
    pub extents: Option<Vec<BlockdevRef>>,
    /// The kind; one file that grows if absent.
    pub subformat: Option<BlockdevVmdkSubformat>,
    /// The name of the backing file.
    pub backing_file: Option<String>,
    /// The controller; IDE if absent.
    pub adapter_type: Option<BlockdevVmdkAdapterType>,
    /// The version of the virtual hardware; 4 if absent.
    pub hwversion: Option<String>,
    /// The version of the guest tools; 2147483647 if absent.
    pub toolsversion: Option<String>,
    /// Whether grains can be marked as zero.
    pub zeroed_grain: Option<bool>,
}

/// Kinds of images of Virtual PC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevVpcSubformat {
    /// It grows.
    Dynamic,
    /// It has all its data from the start.
    Fixed,
}

/// How an image of Virtual PC is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevCreateOptionsVpc {
    /// The node that the image is put on.
    pub file: BlockdevRef,
    /// The size of the disk in bytes.
    pub size: Size,
    /// The kind; dynamic if absent.
    pub subformat: Option<BlockdevVpcSubformat>,
    /// Whether the size is kept even where no geometry fits it.
    pub force_size: Option<bool>,
}

/// How an image is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "driver", tag_type = BlockdevDriver)]
#[expect(missing_docs, reason = "the drivers are described at their names")]
pub enum BlockdevCreateOptions {
    File(BlockdevCreateOptionsFile),
    Luks(Box<BlockdevCreateOptionsLUKS>),
    Parallels(BlockdevCreateOptionsParallels),
    Qcow(BlockdevCreateOptionsQcow),
    Qcow2(Box<BlockdevCreateOptionsQcow2>),
    Qed(Box<BlockdevCreateOptionsQed>),
    Vdi(BlockdevCreateOptionsVdi),
    Vhdx(Box<BlockdevCreateOptionsVhdx>),
    Vmdk(Box<BlockdevCreateOptionsVmdk>),
    Vpc(BlockdevCreateOptionsVpc),
    /// A driver that can't create images.
    #[qapi(other)]
    Other(BlockdevDriver),
}

/// Creates an image on a node, or a file, as a job.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-create")]
pub struct BlockdevCreate {
    /// The job's name.
    pub job_id: String,
    /// What is created.
    pub options: BlockdevCreateOptions,
}
