//! The image header: its fields, feature bits and extensions (`docs/interop/qcow2.txt`, "Header").
//!
//! Everything that is not understood (longer headers, unknown extensions) is kept byte for byte.

pub use block::bytes::{be16, be32, be64};
use block::{Error, Result};

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// The longest table of level 1, bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The longest refcount table, bytes.
pub const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// The most internal snapshots.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// The longest snapshot table, bytes.
pub const MAX_SNAPSHOT_TABLE_BYTES: u64 = 1024 * MAX_SNAPSHOTS as u64;
/// The longest backing file name, bytes.
pub const MAX_BACKING_NAME: usize = 1023;
/// Bytes of the header of version 2.
const V2_LEN: usize = 72;
/// Bytes of the shortest header of version 3.
const V3_LEN: usize = 104;
/// Bytes of the header that is written, version 3.
const V3_OWN_LEN: usize = 112;

/// Incompatible features.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// The image must not be written.
    pub const CORRUPT: u64 = 2;
    /// Data is in an external file.
    pub const DATA_FILE: u64 = 4;
    /// The compression type is not zlib.
    pub const COMPRESSION: u64 = 8;
    /// L2 entries have subcluster bitmaps.
    pub const EXTENDED_L2: u64 = 16;
    /// All of these.
    pub const KNOWN: u64 = 31;
}
/// Compatible features: lazy refcounts.
pub const COMPATIBLE_LAZY: u64 = 1;
/// Auto-clear features.
pub mod autoclear {
    /// The bitmaps extension is consistent.
    pub const BITMAPS: u64 = 1;
    /// The data file is a raw image, too.
    pub const DATA_RAW: u64 = 2;
    /// All of these.
    pub const KNOWN: u64 = 3;
}

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURES: u32 = 0x6803_f857;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_CRYPTO: u32 = 0x0537_be77;
const EXT_DATA_FILE: u32 = 0x4441_5441;

/// The names of the features, as the feature name table holds them: kind, bit, name.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// Where the bitmap directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// Bitmaps in the directory.
    pub count: u32,
    /// Bytes of the directory.
    pub size: u64,
    /// Offset of the directory in the file.
    pub offset: u64,
}

/// The header; the fields are those of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub crypt_method: u32,
    pub l1_size: u32,
    pub l1_offset: u64,
    pub reftable_offset: u64,
    pub reftable_clusters: u32,
    pub nb_snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub refcount_order: u32,
    pub compression: u8,
    /// Bytes of a longer header that are not known.
    pub unknown_fields: Vec<u8>,
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
    pub data_file: Option<String>,
    /// Offset and length of the encryption header.
    pub crypto: Option<(u64, u64)>,
    pub bitmaps: Option<BitmapsExtension>,
    /// Extensions that are not known, in their order.
    pub unknown_extensions: Vec<(u32, Vec<u8>)>,
    /// Whether a feature name table is written.
    pub feature_table: bool,
    /// Bytes at the start of the image that the header was read from.
    pub raw: Vec<u8>,
}

/// Checks that a table of `entries` of `entry_len` bytes lies at a valid place.
pub fn check_table(
    offset: u64,
    entries: u64,
    entry_len: u64,
    max_bytes: u64,
    cluster_bits: u32,
    name: &str,
) -> Result<()> {
    if entries > max_bytes / entry_len {
        return Err(Error::too_big(format!("{name} too large")));
    }
    let end = offset.checked_add(entries * entry_len);
    if end.is_none_or(|end| end > i64::MAX as u64) || offset & ((1 << cluster_bits) - 1) != 0 {
        return Err(Error::invalid(format!("{name} offset invalid")));
    }
    Ok(())
}

/// What the first bytes say about the length of the header cluster: its `cluster_bits`.
pub fn peek_cluster_bits(head: &[u8]) -> Result<u32> {
    if head.len() < V2_LEN || be32(head, 0) != MAGIC {
        return Err(Error::invalid("Image is not in qcow2 format"));
    }
    let version = be32(head, 4);
    if !(2..=3).contains(&version) {
        return Err(Error::unsupported(format!("Unsupported qcow2 version {version}")));
    }
    let cluster_bits = be32(head, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(Error::invalid(format!("Unsupported cluster size: 2^{cluster_bits}")));
    }
    Ok(cluster_bits)
}

impl Header {
    /// Parses the first cluster of an image.
    ///
    /// # Errors
    /// If it is no qcow2 image, or a damaged or unsupported one.
    pub fn parse(cluster: &[u8]) -> Result<Self> {
        let cluster_bits = peek_cluster_bits(cluster)?;
        let cluster_size = 1u64 << cluster_bits;
        let version = be32(cluster, 4);
        let header_len = if version == 2 { V2_LEN } else { be32(cluster, 100) as usize };
        if version >= 3 && header_len < V3_LEN {
            return Err(Error::invalid("qcow2 header too short"));
        }
        if header_len as u64 > cluster_size || header_len > cluster.len() {
            return Err(Error::invalid("qcow2 header exceeds cluster size"));
        }
        let v3 = |at: usize| if version >= 3 { be64(cluster, at) } else { 0 };
        let mut header = Header {
            version,
            cluster_bits,
            size: be64(cluster, 24),
            crypt_method: be32(cluster, 32),
            l1_size: be32(cluster, 36),
            l1_offset: be64(cluster, 40),
            reftable_offset: be64(cluster, 48),
            reftable_clusters: be32(cluster, 56),
            nb_snapshots: be32(cluster, 60),
            snapshots_offset: be64(cluster, 64),
            incompatible: v3(72),
            compatible: v3(80),
            autoclear: v3(88),
            refcount_order: if version >= 3 { be32(cluster, 96) } else { 4 },
            compression: if header_len > V3_LEN { cluster[V3_LEN] } else { 0 },
            unknown_fields: cluster.get(V3_OWN_LEN..header_len).unwrap_or_default().to_vec(),
            backing_file: None,
            backing_format: None,
            data_file: None,
            crypto: None,
            bitmaps: None,
            unknown_extensions: Vec::new(),
            feature_table: false,
            raw: cluster.to_vec(),
        };
        let backing_offset = be64(cluster, 8);
        if backing_offset > cluster_size {
            return Err(Error::invalid("Invalid backing file offset"));
        }
        let extensions_end = if backing_offset == 0 { cluster.len() as u64 } else { backing_offset };
        let extensions_end = usize::try_from(extensions_end).unwrap_or(usize::MAX).min(cluster.len());
        let mut feature_names = Vec::new();
        header.parse_extensions(cluster, header_len, extensions_end, &mut feature_names)?;
        header.check_features(&feature_names)?;
        header.check_fields()?;
        if backing_offset != 0 {
            let len = be32(cluster, 16) as usize;
            let at = usize::try_from(backing_offset).unwrap_or(usize::MAX);
            if len > MAX_BACKING_NAME || len as u64 > cluster_size - backing_offset {
                return Err(Error::invalid("Backing file name too long"));
            }
            let name = cluster.get(at..at.saturating_add(len)).unwrap_or_default();
            let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
            header.backing_file = (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
        }
        Ok(header)
    }

    fn parse_extensions(
        &mut self,
        cluster: &[u8],
        mut at: usize,
        end: usize,
        feature_names: &mut Vec<u8>,
    ) -> Result<()> {
        while at < end {
            if at + 8 > end {
                return Err(Error::invalid("Header extension too large"));
            }
            let (kind, len) = (be32(cluster, at), be32(cluster, at + 4) as usize);
            at += 8;
            if kind == EXT_END {
                break;
            }
            if len > end - at {
                return Err(Error::invalid("Header extension too large"));
            }
            let data = &cluster[at..at + len];
            let text = || String::from_utf8_lossy(data).into_owned();
            match kind {
                EXT_BACKING_FORMAT => self.backing_format = Some(text()),
                EXT_DATA_FILE => self.data_file = Some(text()),
                EXT_FEATURES => {
                    self.feature_table = true;
                    *feature_names = data.to_vec();
                    // A name at the end may be shorter than its field.
                    feature_names.resize(data.len().next_multiple_of(48), 0);
                }
                EXT_CRYPTO => {
                    if len != 16 {
                        return Err(Error::invalid(format!(
                            "CRYPTO header extension size {len}, but expected size 16"
                        )));
                    }
                    self.crypto = Some((be64(data, 0), be64(data, 8)));
                }
                EXT_BITMAPS => self.parse_bitmaps(data)?,
                _ => self.unknown_extensions.push((kind, data.to_vec())),
            }
            at += len.next_multiple_of(8);
        }
        Ok(())
    }

    fn parse_bitmaps(&mut self, data: &[u8]) -> Result<()> {
        if data.len() != 24 {
            return Err(Error::invalid(format!(
                "bitmaps_ext: Invalid extension length (expected 24, got {})",
                data.len()
            )));
        }
        if self.autoclear & autoclear::BITMAPS == 0 {
            // The data is not consistent: as if it were not there.
            return Ok(());
        }
        let bitmaps = BitmapsExtension { count: be32(data, 0), size: be64(data, 8), offset: be64(data, 16) };
        if be32(data, 4) != 0 {
            return Err(Error::invalid("bitmaps_ext: Reserved field is not zero"));
        }
        if bitmaps.count == 0 {
            return Err(Error::invalid("found bitmaps extension with zero bitmaps"));
        }
        if bitmaps.count > 65535 {
            return Err(Error::invalid(format!(
                "bitmaps_ext: image has {} bitmaps, exceeding the QEMU supported maximum of 65535",
                bitmaps.count
            )));
        }
        if bitmaps.offset & ((1 << self.cluster_bits) - 1) != 0 || bitmaps.offset == 0 {
            return Err(Error::invalid("bitmaps_ext: invalid bitmap directory offset"));
        }
        if bitmaps.size > 65535 * 1024 {
            return Err(Error::invalid(format!(
                "bitmaps_ext: bitmap directory size ({}) exceeds the maximum supported size ({})",
                bitmaps.size,
                65535 * 1024
            )));
        }
        self.bitmaps = Some(bitmaps);
        Ok(())
    }

    fn check_features(&self, names: &[u8]) -> Result<()> {
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown == 0 {
            return Ok(());
        }
        let mut left = unknown;
        let mut texts = Vec::new();
        for entry in names.chunks_exact(48) {
            if entry[0] == 0 && entry[1] < 64 && left & (1 << entry[1]) != 0 {
                let name = &entry[2..];
                let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
                texts.push(String::from_utf8_lossy(name).into_owned());
                left &= !(1 << entry[1]);
            }
        }
        if left != 0 {
            texts.push(format!("Unknown incompatible feature: {left:x}"));
        }
        Err(Error::unsupported(format!("Unsupported qcow2 feature(s): {}", texts.join(", "))))
    }

    /// Whether a snapshot table of `count` entries may be where the header says; messages call it `name`.
    ///
    /// # Errors
    /// It is too large, or not aligned.
    pub fn check_snapshot_table(&self, count: u32, name: &str) -> Result<()> {
        let max = 40 * u64::from(MAX_SNAPSHOTS);
        check_table(self.snapshots_offset, count.into(), 40, max, self.cluster_bits, name)
    }

    fn check_fields(&self) -> Result<()> {
        if self.refcount_order > 6 {
            return Err(Error::invalid("Reference count entry width too large; may not exceed 64 bits"));
        }
        if self.crypt_method > 2 {
            return Err(Error::invalid(format!("Unsupported encryption method {}", self.crypt_method)));
        }
        if self.compression > 1 {
            return Err(Error::unsupported(format!("qcow2: unknown compression type: {}", self.compression)));
        }
        let bit = self.incompatible & incompatible::COMPRESSION != 0;
        if bit != (self.compression != 0) {
            let not = if bit { "not " } else { "" };
            return Err(Error::unsupported(format!(
                "qcow2: Compression type incompatible feature bit must {not}be set"
            )));
        }
        if self.is_extended() && self.cluster_bits < 14 {
            return Err(Error::invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        let bits = self.cluster_bits;
        if self.reftable_clusters == 0 {
            return Err(Error::invalid("Image does not contain a reference count table"));
        }
        let reftable_entries = u64::from(self.reftable_clusters) << (bits - 3);
        check_table(self.reftable_offset, reftable_entries, 8, MAX_REFTABLE_BYTES, bits, "Reference count table")?;
        check_table(self.l1_offset, self.l1_size.into(), 8, MAX_L1_BYTES, bits, "Active L1 table")?;
        let needed = self.l1_needed(self.size);
        if needed > i32::MAX as u64 || self.size > i64::MAX as u64 {
            return Err(Error::too_big("Image is too big"));
        }
        if u64::from(self.l1_size) < needed {
            return Err(Error::invalid("L1 table is too small"));
        }
        Ok(())
    }

    /// Whether L2 entries have subcluster bitmaps.
    pub fn is_extended(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Entries of an L1 table for `size` bytes.
    pub fn l1_needed(&self, size: u64) -> u64 {
        let entry_bits = if self.is_extended() { 4 } else { 3 };
        size.div_ceil(1 << (self.cluster_bits * 2 - entry_bits))
    }

    /// The bytes of the header cluster, without trailing zeroes.
    ///
    /// # Errors
    /// If they don't fit into one cluster.
    pub fn serialise(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1024);
        let put32 = |bytes: &mut Vec<u8>, value: u32| bytes.extend_from_slice(&value.to_be_bytes());
        let put64 = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_be_bytes());
        put32(&mut bytes, MAGIC);
        put32(&mut bytes, self.version);
        put64(&mut bytes, 0);
        put32(&mut bytes, 0);
        put32(&mut bytes, self.cluster_bits);
        put64(&mut bytes, self.size);
        put32(&mut bytes, self.crypt_method);
        put32(&mut bytes, self.l1_size);
        put64(&mut bytes, self.l1_offset);
        put64(&mut bytes, self.reftable_offset);
        put32(&mut bytes, self.reftable_clusters);
        put32(&mut bytes, self.nb_snapshots);
        put64(&mut bytes, self.snapshots_offset);
        if self.version >= 3 {
            let header_len = V3_OWN_LEN + self.unknown_fields.len();
            put64(&mut bytes, self.incompatible);
            put64(&mut bytes, self.compatible);
            put64(&mut bytes, self.autoclear);
            put32(&mut bytes, self.refcount_order);
            put32(&mut bytes, u32::try_from(header_len).unwrap_or(u32::MAX));
            bytes.push(self.compression);
            bytes.extend_from_slice(&[0; 7]);
            bytes.extend_from_slice(&self.unknown_fields);
        }
        if let Some(format) = &self.backing_format {
            put_extension(&mut bytes, EXT_BACKING_FORMAT, format.as_bytes());
        }
        if let Some(data_file) = &self.data_file
            && self.incompatible & incompatible::DATA_FILE != 0
        {
            put_extension(&mut bytes, EXT_DATA_FILE, data_file.as_bytes());
        }
        if let Some((offset, len)) = self.crypto {
            let data = [offset.to_be_bytes(), len.to_be_bytes()].concat();
            put_extension(&mut bytes, EXT_CRYPTO, &data);
        }
        if self.version >= 3 && self.feature_table {
            let mut names = Vec::new();
            for (kind, bit, name) in FEATURE_NAMES {
                names.extend_from_slice(&[kind, bit]);
                let mut field = [0; 46];
                field[..name.len()].copy_from_slice(name.as_bytes());
                names.extend_from_slice(&field);
            }
            // It is for people alone: left out where there is no room.
            let unknown: usize =
                self.unknown_extensions.iter().map(|(_, data)| 8 + data.len().next_multiple_of(8)).sum();
            let bitmaps = if self.bitmaps.is_some() { 32 } else { 0 };
            let backing = self.backing_file.as_ref().map_or(0, String::len) + unknown + bitmaps;
            if bytes.len() + 8 + names.len() + 8 + backing <= 1 << self.cluster_bits {
                put_extension(&mut bytes, EXT_FEATURES, &names);
            }
        }
        if let Some(bitmaps) = &self.bitmaps {
            let mut data = Vec::new();
            put32(&mut data, bitmaps.count);
            put32(&mut data, 0);
            put64(&mut data, bitmaps.size);
            put64(&mut data, bitmaps.offset);
            put_extension(&mut bytes, EXT_BITMAPS, &data);
        }
        for (kind, data) in &self.unknown_extensions {
            put_extension(&mut bytes, *kind, data);
        }
        put_extension(&mut bytes, EXT_END, &[]);
        if let Some(backing) = &self.backing_file {
            if backing.len() > MAX_BACKING_NAME {
                return Err(Error::invalid("Backing file name too long"));
            }
            let at = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&at.to_be_bytes());
            let len = u32::try_from(backing.len()).unwrap_or(u32::MAX);
            bytes[16..20].copy_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(backing.as_bytes());
        }
        if bytes.len() > 1 << self.cluster_bits {
            return Err(Error::no_space("The header does not fit into one cluster"));
        }
        Ok(bytes)
    }
}

fn put_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}
