//! Creating images, and how large they would be.

use std::sync::Arc;

use block::create::{CreateOption, CreateOptionKind, CreateRequest, Measure, MeasureRequest};
use block::{
    Child, Defaults, Error, Node, NodeConfig, OpenFlags, Options, Permissions, Preallocation, Result, ZeroFlags,
};

use block_luks::volume::NewVolume;

use crate::crypt::Encryption;
use crate::header::{COMPATIBLE_LAZY, Header, MAX_L1_BYTES, autoclear, incompatible};
use crate::image::{Image, Parts};
use crate::refcount;
use crate::runtime::RunOptions;

const fn option(name: &'static str, kind: CreateOptionKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

const BACKING_FILE: CreateOption = option("backing_file", CreateOptionKind::Text, "File name of a base image");
const BACKING_FMT: CreateOption = option("backing_fmt", CreateOptionKind::Text, "Image format of the base image");
const COMPAT: CreateOption = option("compat", CreateOptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])");
const DATA_FILE: CreateOption = option("data_file", CreateOptionKind::Text, "File name of an external data file");
const DATA_FILE_RAW: CreateOption =
    option("data_file_raw", CreateOptionKind::Bool, "The external data file must stay valid as a raw image");
const LAZY: CreateOption = CreateOption {
    default: Some("off"),
    ..option("lazy_refcounts", CreateOptionKind::Bool, "Postpone refcount updates")
};
const REFCOUNT_BITS: CreateOption = CreateOption {
    default: Some("16"),
    ..option("refcount_bits", CreateOptionKind::Number, "Width of a reference count entry in bits")
};
const SIZE: CreateOption = option("size", CreateOptionKind::Size, "Virtual disk size");

const ITER_TIME: CreateOption =
    option("encrypt.iter-time", CreateOptionKind::Number, "Time to spend in PBKDF in milliseconds");

/// Options of creation.
pub const OPTIONS: &[CreateOption] = &[
    BACKING_FILE,
    BACKING_FMT,
    CreateOption { default: Some("65536"), ..option("cluster_size", CreateOptionKind::Size, "qcow2 cluster size") },
    COMPAT,
    CreateOption {
        default: Some("zlib"),
        ..option("compression_type", CreateOptionKind::Text, "Compression method used for image cluster compression")
    },
    DATA_FILE,
    DATA_FILE_RAW,
    option("encrypt.cipher-alg", CreateOptionKind::Text, "Name of encryption cipher algorithm"),
    option("encrypt.cipher-mode", CreateOptionKind::Text, "Name of encryption cipher mode"),
    option("encrypt.format", CreateOptionKind::Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    option("encrypt.hash-alg", CreateOptionKind::Text, "Name of encryption hash algorithm"),
    ITER_TIME,
    option("encrypt.ivgen-alg", CreateOptionKind::Text, "Name of IV generator algorithm"),
    option("encrypt.ivgen-hash-alg", CreateOptionKind::Text, "Name of IV generator hash algorithm"),
    option("encrypt.key-secret", CreateOptionKind::Text, "ID of secret providing qcow AES key or LUKS passphrase"),
    option(
        "encryption",
        CreateOptionKind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    CreateOption { default: Some("off"), ..option("extended_l2", CreateOptionKind::Bool, "Extended L2 tables") },
    LAZY,
    option("preallocation", CreateOptionKind::Text, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    REFCOUNT_BITS,
    SIZE,
];

/// Options of amending.
pub const AMEND_OPTIONS: &[CreateOption] = &[
    BACKING_FILE,
    BACKING_FMT,
    COMPAT,
    DATA_FILE,
    DATA_FILE_RAW,
    ITER_TIME,
    option("encrypt.keyslot", CreateOptionKind::Number, "Select a single keyslot to modify explicitly"),
    option(
        "encrypt.new-secret",
        CreateOptionKind::Text,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    option("encrypt.old-secret", CreateOptionKind::Text, "Select all keyslots that match this password"),
    option("encrypt.state", CreateOptionKind::Text, "Select new state of affected keyslots (active/inactive)"),
    LAZY,
    REFCOUNT_BITS,
    SIZE,
];

/// The options of creation, checked.
struct Plan {
    version: u32,
    cluster_bits: u32,
    refcount_order: u32,
    extended: bool,
    lazy: bool,
    zstd: bool,
    preallocation: Preallocation,
    backing_file: Option<String>,
    backing_format: Option<String>,
    data_file: Option<String>,
    data_file_raw: bool,
    /// The method of encryption, and its options.
    encryption: Option<(u32, Options)>,
}

/// The method of encryption that options ask for, and its own options.
fn take_encryption(options: &mut Options) -> Result<Option<(u32, Options)>> {
    let mut below = options.take_below("encrypt");
    let old = options.take_bool("encryption")?.unwrap_or(false);
    let format = below.take_str("format")?;
    if old && format.is_some() {
        return Err(Error::invalid("Options encryption and encrypt.format are mutually exclusive"));
    }
    let method = match format.as_deref().or(old.then_some("aes")) {
        None => {
            return match below.iter().next() {
                Some((name, _)) => Err(Error::invalid(format!("Parameter 'encrypt.{name}' needs 'encrypt.format'"))),
                None => Ok(None),
            };
        }
        Some("aes") => crate::crypt::AES,
        Some("luks") => crate::crypt::LUKS,
        Some(other) => {
            let text = format!("Parameter 'encrypt.format' does not accept value '{other}'");
            return Err(Error::invalid(text));
        }
    };
    Ok(Some((method, below)))
}

/// The version that a compatibility level means.
pub fn take_version(options: &mut Options) -> Result<Option<u32>> {
    match options.take_str("compat")?.as_deref() {
        None => Ok(None),
        Some("0.10" | "v2") => Ok(Some(2)),
        Some("1.1" | "v3") => Ok(Some(3)),
        Some(other) => Err(Error::invalid(format!("Parameter 'version' does not accept value '{other}'"))),
    }
}

/// The order of a refcount width.
pub fn refcount_order(bits: u64) -> Result<u32> {
    if !bits.is_power_of_two() || bits > 64 {
        return Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    Ok(bits.trailing_zeros())
}

impl Plan {
    fn take(options: &mut Options, has_data_node: bool) -> Result<Self> {
        let cluster_size = options.take_size("cluster_size")?.unwrap_or(65536);
        let version = take_version(options)?.unwrap_or(3);
        let zstd = match options.take_str("compression_type")?.as_deref() {
            None | Some("zlib") => false,
            Some("zstd") => true,
            Some(other) => {
                return Err(Error::invalid(format!("Parameter 'compression-type' does not accept value '{other}'")));
            }
        };
        let preallocation = match options.take_str("preallocation")? {
            None => Preallocation::Off,
            Some(text) => match Preallocation::NAMES.iter().position(|name| *name == text) {
                Some(index) => Preallocation::from_index(index),
                None => {
                    return Err(Error::invalid(format!("Parameter 'preallocation' does not accept value '{text}'")));
                }
            },
        };
        let extended = options.take_bool("extended_l2")?.unwrap_or(false);
        let lazy = options.take_bool("lazy_refcounts")?.unwrap_or(false);
        let refcount_bits = options.take_u64("refcount_bits")?.unwrap_or(16);
        // Properties of the host file.
        options.take("nocow");
        options.take("extent_size_hint");
        let plan = Self {
            version,
            cluster_bits: cluster_size.trailing_zeros(),
            refcount_order: 0,
            extended,
            lazy,
            zstd,
            preallocation,
            backing_file: options.take_str("backing_file")?.filter(|name| !name.is_empty()),
            backing_format: options.take_str("backing_fmt")?,
            data_file: options.take_str("data_file")?,
            data_file_raw: options.take_bool("data_file_raw")?.unwrap_or(false),
            encryption: take_encryption(options)?,
        };
        if !cluster_size.is_power_of_two() || !(9..=21).contains(&plan.cluster_bits) {
            return Err(Error::invalid("Cluster size must be a power of two between 512 and 2048k"));
        }
        plan.check(refcount_bits, has_data_node)
    }

    fn check(mut self, refcount_bits: u64, has_data_node: bool) -> Result<Self> {
        let level = "compatibility level 1.1 and above (use version=v3 or greater)";
        let old = self.version < 3;
        if self.extended && (1 << self.cluster_bits) < 16384 {
            return Err(Error::invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        if self.extended && old {
            return Err(Error::invalid(format!("Extended L2 entries are only supported with {level}")));
        }
        let prealloc = self.preallocation != Preallocation::Off;
        if prealloc && self.backing_file.is_some() && !self.extended {
            return Err(Error::invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 is on",
            ));
        }
        if self.backing_format.is_some() && self.backing_file.is_none() {
            return Err(Error::invalid("Backing format cannot be used without backing file"));
        }
        if self.lazy && old {
            return Err(Error::invalid(format!("Lazy refcounts only supported with {level}")));
        }
        self.refcount_order = refcount_order(refcount_bits)?;
        if old && refcount_bits != 16 {
            return Err(Error::invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
            ));
        }
        let data_file = self.data_file.is_some() || has_data_node;
        if self.data_file_raw && !data_file {
            return Err(Error::invalid("data-file-raw requires data-file"));
        }
        if self.data_file_raw && self.backing_file.is_some() {
            return Err(Error::invalid("Backing file and data-file-raw cannot be used at the same time"));
        }
        if data_file && old {
            return Err(Error::invalid(format!("External data files are only supported with {level}")));
        }
        if self.zstd && old {
            return Err(Error::invalid(format!("Non-zlib compression type is only supported with {level}")));
        }
        Ok(self)
    }

    fn header(&self, data_file: bool) -> Header {
        let cluster = 1u64 << self.cluster_bits;
        let incompatible = if data_file { incompatible::DATA_FILE } else { 0 }
            | if self.zstd { incompatible::COMPRESSION } else { 0 }
            | if self.extended { incompatible::EXTENDED_L2 } else { 0 };
        Header {
            version: self.version,
            cluster_bits: self.cluster_bits,
            size: 0,
            crypt_method: 0,
            l1_size: 0,
            l1_offset: 0,
            reftable_offset: cluster,
            reftable_clusters: 1,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible,
            compatible: if self.lazy { COMPATIBLE_LAZY } else { 0 },
            autoclear: if self.data_file_raw { autoclear::DATA_RAW } else { 0 },
            refcount_order: self.refcount_order,
            compression: u8::from(self.zstd),
            unknown_fields: Vec::new(),
            backing_file: self.backing_file.clone(),
            backing_format: self.backing_format.clone(),
            data_file: self.data_file.clone(),
            crypto: None,
            bitmaps: None,
            unknown_extensions: Vec::new(),
            feature_table: self.version >= 3,
            raw: Vec::new(),
        }
    }
}

/// Creates an image in the node that the request gives.
pub async fn create(mut request: CreateRequest) -> Result<()> {
    let size = request.size;
    let mut plan = Plan::take(&mut request.options, request.data_file.is_some())?;
    if size & 511 != 0 {
        return Err(Error::invalid("Image size must be a multiple of 512 bytes"));
    }
    let file = request.target()?;
    let (graph, given, filename) = (Arc::clone(&request.graph), request.data_file.take(), request.filename.clone());
    request.finish()?;
    let mut volume = None;
    if let Some((method, options)) = &mut plan.encryption {
        if *method == crate::crypt::LUKS {
            volume = Some(block_luks::volume::create(&graph, options, "encrypt.").await?);
        } else {
            let missing = || Error::invalid("Parameter 'encrypt.key-secret' is required for cipher");
            graph.secret(&options.take_str("key-secret")?.ok_or_else(missing)?)?;
        }
        if let Some((name, _)) = options.iter().next() {
            return Err(Error::invalid(format!("Invalid parameter 'encrypt.{name}'")));
        }
    }
    if let Some(given) = &given
        && plan.data_file.is_none()
    {
        // What an image names is a plain path; other nodes have to be given whenever it is opened.
        plan.data_file =
            block::filename::exact(&given.node()).filter(|name| block::filename::protocol_of(name).is_none());
    }
    let mut opened = None;
    let data_file = match (given, &plan.data_file) {
        (Some(child), _) => Some(child),
        (None, Some(name)) => {
            let child = create_data_file(&graph, &block::filename::combine(&filename, name)).await?;
            opened = Some(Arc::clone(&child));
            Some(child)
        }
        (None, None) => None,
    };
    let result = write_image(&plan, file, data_file, size, volume).await;
    if let Some(child) = opened {
        graph.detach(&child).await?;
    }
    result
}

async fn create_data_file(graph: &Arc<block::Graph>, path: &str) -> Result<Arc<Child>> {
    let driver = graph.registry().find("file").ok_or_else(|| Error::invalid("Unknown driver 'file'"))?;
    let request = CreateRequest {
        graph: Arc::clone(graph),
        file: None,
        filename: path.to_owned(),
        size: 0,
        options: Options::new(),
        data_file: None,
    };
    driver.create(request).await?;
    let options = Options::new().with("driver", "file").with("filename", path);
    let node = graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())).await?;
    graph.attach_root(
        &node,
        "image creation",
        Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE,
        Permissions::ALL,
    )
}

/// What comes before the reason why an image can't have a size.
const RESIZE_FAILED: &str = "Could not resize image";

async fn write_image(
    plan: &Plan,
    file: Arc<Child>,
    data_file: Option<Arc<Child>>,
    size: u64,
    volume: Option<NewVolume>,
) -> Result<()> {
    let cluster = 1u64 << plan.cluster_bits;
    let cluster_len = usize::try_from(cluster).unwrap_or(0);
    let mut header = plan.header(data_file.is_some());
    Node::check_new_len(size).map_err(|error| error.context(RESIZE_FAILED))?;
    if header.l1_needed(size) * 8 > MAX_L1_BYTES {
        return Err(Error::too_big("Failed to grow the L1 table: File too large").context(RESIZE_FAILED));
    }
    // Header, refcount table, its first block.
    let mut table = vec![0u8; cluster_len];
    table[..8].copy_from_slice(&(2 * cluster).to_be_bytes());
    let mut block = vec![0u8; cluster_len];
    for index in 0..3 {
        refcount::set(&mut block, plan.refcount_order, index, 1);
    }
    file.write_bytes(cluster, &table).await?;
    file.write_bytes(2 * cluster, &block).await?;
    let mut bytes = header.serialise()?;
    bytes.resize(cluster_len, 0);
    file.write_bytes(0, &bytes).await?;
    header.raw = bytes;
    let mut reftable = vec![0; cluster_len / 8];
    reftable[0] = 2 * cluster;
    let mut run = RunOptions::take(&mut Options::new(), &header, false)?;
    // Nothing is gained by it while an image is made.
    run.lazy_refcounts = false;
    let image = Image::new(Parts {
        file,
        data_file,
        header,
        l1: Vec::new(),
        reftable,
        snapshots: Vec::new(),
        snapshots_read: true,
        bitmaps: Vec::new(),
        node_bitmaps: Arc::default(),
        run,
        read_only: false,
        encryption: Encryption::default(),
        events: None,
        node_name: String::new(),
    });
    if let Some(volume) = volume {
        write_encryption(&image, &volume).await?;
    } else if let Some((method, _)) = plan.encryption {
        image.update_header(|h| h.crypt_method = method).await?;
    }
    image.truncate(size, plan.preallocation).await?;
    image.close().await
}

/// Puts a LUKS header into clusters of its own.
async fn write_encryption(image: &Image, volume: &NewVolume) -> Result<()> {
    let len = volume.header.payload_offset_bytes();
    let mut meta = image.meta.lock().await;
    let offset = meta.refs.allocate(len.div_ceil(image.cluster_size())).await?;
    image.note_made(&mut meta);
    image.file.write_zeroes(offset, len.next_multiple_of(image.cluster_size()), ZeroFlags::default()).await?;
    block_luks::volume::write_pieces(&image.file, offset, &volume.pieces).await?;
    image.flush_all(&mut meta).await?;
    image
        .update_header(|h| {
            h.crypt_method = crate::crypt::LUKS;
            h.crypto = Some((offset, len));
        })
        .await
}

/// Bytes of refcount blocks and tables for `clusters` other clusters.
fn refcount_bytes(clusters: u64, cluster: u64, order: u32) -> u64 {
    let per_block = (cluster * 8) >> order;
    let per_table = cluster / 8;
    let (mut blocks, mut table) = (0, 0);
    loop {
        let before = (blocks, table);
        blocks = (clusters + blocks + table).div_ceil(per_block);
        table = blocks.div_ceil(per_table);
        if (blocks, table) == before {
            return (blocks + table) * cluster;
        }
    }
}

/// How large would an image be?
pub async fn measure(mut request: MeasureRequest) -> Result<Measure> {
    let has_backing = request.options.contains("backing_file");
    let mut plan = Plan::take(&mut request.options, false)?;
    if let Some((name, _)) = request.options.iter().next() {
        return Err(Error::invalid(format!("Invalid parameter '{name}'")));
    }
    let cluster = 1u64 << plan.cluster_bits;
    let entry = if plan.extended { 16 } else { 8 };
    let size = request.size.max(request.source.as_ref().map_or(0, |source| source.len()));
    let too_large = || Error::too_big("The image size is too large (try using a larger cluster size)");
    if size > i64::MAX as u64 - cluster || size.div_ceil(cluster * (cluster / entry)) * 8 > MAX_L1_BYTES {
        return Err(too_large());
    }
    let virtual_size = size.next_multiple_of(cluster);
    let entries = (virtual_size / cluster).next_multiple_of(cluster / entry);
    let tables = (entries * entry / cluster).next_multiple_of(cluster / 8);
    let encryption = match &mut plan.encryption {
        Some((crate::crypt::LUKS, options)) => block_luks::volume::header_bytes(options)?.next_multiple_of(cluster),
        _ => 0,
    };
    let metadata = cluster + entries * entry + tables * 8 + encryption;
    let refcounts = refcount_bytes((metadata + virtual_size) / cluster, cluster, plan.refcount_order);
    let fully_allocated = metadata + refcounts + virtual_size;
    let full = matches!(plan.preallocation, Preallocation::Full | Preallocation::Falloc);
    let data = match &request.source {
        _ if full => virtual_size,
        None => 0,
        // What the new image will share with the backing is not known.
        Some(_) if has_backing => virtual_size,
        Some(source) => data_bytes(source, cluster).await?,
    };
    let bitmaps = request.source.as_ref().filter(|_| plan.version >= 3).and_then(|source| {
        let node = source.node();
        let qcow2 = node.driver().as_any().downcast_ref::<crate::Qcow2>()?;
        qcow2.image.bitmap_bytes(cluster)
    });
    Ok(Measure { required: fully_allocated - virtual_size + data, fully_allocated, bitmaps })
}

/// Bytes of the clusters that hold data in `source` or its backings.
async fn data_bytes(source: &Child, cluster: u64) -> Result<u64> {
    let len = source.len();
    let (mut at, mut bytes) = (0, 0);
    while at < len {
        let (run, data) = status_above(source, at, len - at).await?;
        if data {
            let start = at & !(cluster - 1);
            let end = (at + run).next_multiple_of(cluster);
            bytes += end - start;
            at = end;
        } else {
            at += run;
        }
    }
    Ok(bytes)
}

/// How long the run at `at` is, and whether it has data.
async fn status_above(source: &Child, at: u64, len: u64) -> Result<(u64, bool)> {
    let mut node = source.node();
    let mut len = len;
    loop {
        let status = node.block_status(at, len, true).await?;
        if status.len == 0 {
            return Ok((len, false));
        }
        len = status.len;
        if status.allocated {
            return Ok((len, status.data && !status.zero));
        }
        match node.backing().or_else(|| node.filtered()) {
            Some(below) => node = below.node(),
            None => return Ok((len, false)),
        }
    }
}
