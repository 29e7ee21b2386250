//! `qed`, a format of QEMU's between qcow2 versions 2 and 3.
//!
//! A header, a table of tables, and clusters; an entry of 1 is a cluster of zeroes. Specification: "QED Image File
//! Format Specification". The bit "needs a check" is obeyed when it is found; it is not set here, since the order in
//! which tables are written leaves nothing to repair.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::image::{CheckResult, FixMode, ImageBacking, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use block::{BackingSlot, Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{le32, le64, n, put, u};
use crate::meta::Level;
use crate::sparse::{Layout, Mapping, Sparse};
use crate::tables::{Order, TwoLevels};

const MAGIC: &[u8; 4] = b"QED\0";
const HEADER: usize = 64;
const MIN_CLUSTER: u64 = 4096;
const MAX_CLUSTER: u64 = 64 << 20;
const DEFAULT_CLUSTER: u64 = 64 << 10;
const MAX_TABLE: u64 = 16;
const DEFAULT_TABLE: u64 = 4;
const BACKING: u64 = 1;
const NEEDS_CHECK: u64 = 2;
const BACKING_IS_RAW: u64 = 4;
const KNOWN: u64 = BACKING | NEEDS_CHECK | BACKING_IS_RAW;
const ZERO_CLUSTER: u64 = 1;
const MAX_BACKING: u32 = 1023;

/// The driver `qed`.
pub struct QedType;

const fn size(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption { name, kind: CreateOptionKind::Size, help, default: None }
}

const CREATE_OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "backing_file",
        kind: CreateOptionKind::Text,
        help: "File name of a base image",
        default: None,
    },
    CreateOption {
        name: "backing_fmt",
        kind: CreateOptionKind::Text,
        help: "Image format of the base image",
        default: None,
    },
    CreateOption {
        name: "cluster_size",
        kind: CreateOptionKind::Size,
        help: "Cluster size (in bytes)",
        default: Some("65536"),
    },
    size("size", "Virtual disk size"),
    size("table_size", "L1/L2 table size (in clusters)"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    cluster_size: u64,
    table_size: u64,
    header_size: u64,
    features: u64,
    compatible: u64,
    autoclear: u64,
    l1: u64,
    image_size: u64,
    backing_offset: u32,
    backing_len: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::invalid("Image not in QED format"));
        }
        let header = Self {
            cluster_size: le32(bytes, 4).into(),
            table_size: le32(bytes, 8).into(),
            header_size: le32(bytes, 12).into(),
            features: le64(bytes, 16),
            compatible: le64(bytes, 24),
            autoclear: le64(bytes, 32),
            l1: le64(bytes, 40),
            image_size: le64(bytes, 48),
            backing_offset: le32(bytes, 56),
            backing_len: le32(bytes, 60),
        };
        let unknown = header.features & !KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!("Unsupported QED features: {unknown:x}")));
        }
        if !is_cluster_size(header.cluster_size) {
            return Err(Error::invalid("QED cluster size is invalid"));
        }
        if !is_table_size(header.table_size) {
            return Err(Error::invalid("QED table size is invalid"));
        }
        if !header.image_size.is_multiple_of(512) || header.image_size > header.max_size() {
            return Err(Error::invalid("QED image size is invalid"));
        }
        Ok(header)
    }

    fn check_places(&self, file_len: u64) -> Result<()> {
        let l1_end = self.l1.checked_add(self.table_len());
        let room = file_len.next_multiple_of(self.cluster_size);
        if !self.l1.is_multiple_of(self.cluster_size) || self.l1 == 0 || l1_end.is_none_or(|end| end > room) {
            return Err(Error::invalid("QED table offset is invalid"));
        }
        let header_len = self.header_size.saturating_mul(self.cluster_size);
        if self.l1 < header_len {
            return Err(Error::invalid("QED table offset is invalid"));
        }
        if self.header_size > i32::MAX as u64 / self.cluster_size {
            return Err(Error::invalid("QED header size is too large"));
        }
        let backing_end = u64::from(self.backing_offset) + u64::from(self.backing_len);
        if self.features & BACKING != 0 && backing_end > header_len {
            return Err(Error::invalid("QED backing filename offset is invalid"));
        }
        if self.features & BACKING != 0 && self.backing_len > MAX_BACKING {
            return Err(Error::invalid("Failed to read backing filename"));
        }
        Ok(())
    }

    fn table_len(&self) -> u64 {
        self.table_size * self.cluster_size
    }

    /// Entries of a table.
    fn entries(&self) -> u64 {
        self.table_len() / 8
    }

    fn max_size(&self) -> u64 {
        let entries = u128::from(self.entries());
        u64::try_from(entries * entries * u128::from(self.cluster_size)).unwrap_or(u64::MAX).min(i64::MAX as u64 & !511)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 0, MAGIC);
        for (at, value) in [(4, self.cluster_size), (8, self.table_size), (12, self.header_size)] {
            put(&mut bytes, at, &u32::try_from(value).unwrap_or(0).to_le_bytes());
        }
        for (at, value) in
            [(16, self.features), (24, self.compatible), (32, self.autoclear), (40, self.l1), (48, self.image_size)]
        {
            put(&mut bytes, at, &value.to_le_bytes());
        }
        put(&mut bytes, 56, &self.backing_offset.to_le_bytes());
        put(&mut bytes, 60, &self.backing_len.to_le_bytes());
        bytes
    }
}

fn is_cluster_size(size: u64) -> bool {
    size.is_power_of_two() && (MIN_CLUSTER..=MAX_CLUSTER).contains(&size)
}

fn is_table_size(size: u64) -> bool {
    size.is_power_of_two() && size <= MAX_TABLE
}

struct Clusters {
    tables: TwoLevels,
    /// Bytes of the header's clusters.
    header_len: u64,
}

impl Clusters {
    fn mapping(entry: u64) -> Mapping {
        match entry {
            0 => Mapping::Unallocated,
            ZERO_CLUSTER => Mapping::Zero,
            host => Mapping::Data(host),
        }
    }

    fn is_valid(&self, host: u64) -> bool {
        host.is_multiple_of(self.tables.cluster_size) && host >= self.header_len && host < self.tables.file.len()
    }
}

impl Layout for Clusters {
    fn file(&self) -> &Arc<Child> {
        &self.tables.file
    }

    fn cluster_size(&self) -> u64 {
        self.tables.cluster_size
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let (mapping, count) = self.tables.map(cluster, max, Self::mapping).await?;
        if let Mapping::Data(host) = mapping
            && !self.is_valid(host)
        {
            return Err(Error::io(format!("Cluster {cluster} lies at a wrong place")));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, _cluster: u64, count: u64) -> Result<(u64, u64)> {
        let size = self.cluster_size();
        Ok((self.tables.take_room(count * size, size)?, count))
    }

    fn release(&self, host: u64, count: u64) {
        self.tables.release(host, count * self.cluster_size());
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let size = self.cluster_size();
        let end = host + count * size;
        if self.tables.file.len() < end {
            self.tables.file.write_bytes(end - 1, &[0]).await?;
        }
        let entries: Vec<u64> = (0..count).map(|index| host + index * size).collect();
        self.tables.set(cluster, &entries).await
    }

    fn has_zero_marks(&self) -> bool {
        true
    }

    async fn link_zero(&self, cluster: u64, count: u64) -> Result<()> {
        let mut done = 0;
        while done < count {
            let now = (count - done).min(self.tables.l2_entries);
            self.tables.set(cluster + done, &vec![ZERO_CLUSTER; n(now)]).await?;
            done += now;
        }
        Ok(())
    }
}

struct Qed {
    image: Sparse<Clusters>,
    backing: Arc<BackingSlot>,
    header: Mutex<(Header, Option<String>)>,
    changing: tokio::sync::Mutex<()>,
}

impl DriverType for QedType {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.len() >= HEADER && head.starts_with(MAGIC) { 100 } else { 0 }
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(open(request))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create(request))
    }
}

async fn open(mut request: OpenRequest) -> Result<Arc<dyn Driver>> {
    let read_only = request.config.read_only;
    let file = request.child("file", Role::Storage).await?;
    request.finish()?;
    let header = Header::parse(&file.read_vec(0, HEADER).await?)?;
    header.check_places(file.len())?;
    let name = match header.features & BACKING {
        0 => None,
        _ => {
            let name = file.read_vec(header.backing_offset.into(), header.backing_len as usize).await?;
            Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty())
        }
    };
    let entries = (header.entries(), header.entries());
    let tables = TwoLevels::new(file, Order::Little, header.l1, entries, header.cluster_size);
    let clusters = Clusters { tables, header_len: header.header_size.max(1) * header.cluster_size };
    let backing = Arc::new(BackingSlot::default());
    let needs_check = header.features & NEEDS_CHECK != 0;
    let clears = header.autoclear != 0;
    let qed = Qed {
        image: Sparse::new(clusters, Some(Arc::clone(&backing)), 0),
        backing,
        header: Mutex::new((header, name)),
        changing: tokio::sync::Mutex::default(),
    };
    if !read_only && !request.flags.check {
        if needs_check {
            qed.check_tables(FixMode { leaks: true, errors: true }).await?;
        }
        if clears {
            qed.change_header(|header, _| header.autoclear = 0).await?;
        }
    }
    Ok(Arc::new(qed))
}

async fn create(mut request: CreateRequest) -> Result<()> {
    let file = request.target()?;
    let cluster_size = request.options.take_size("cluster_size")?.unwrap_or(DEFAULT_CLUSTER);
    let table_size = request.options.take_size("table_size")?.unwrap_or(DEFAULT_TABLE);
    let backing = request.options.take_str("backing_file")?.filter(|backing| !backing.is_empty());
    let format = request.options.take_str("backing_fmt")?;
    let image_size = request.size;
    request.finish()?;
    if !is_cluster_size(cluster_size) {
        return Err(Error::invalid(format!(
            "QED cluster size must be within range [{MIN_CLUSTER}, {MAX_CLUSTER}] and power of 2"
        )));
    }
    if !is_table_size(table_size) {
        return Err(Error::invalid(format!("QED table size must be within range [1, {MAX_TABLE}] and power of 2")));
    }
    let mut header = Header {
        cluster_size,
        table_size,
        header_size: 1,
        features: 0,
        compatible: 0,
        autoclear: 0,
        l1: cluster_size,
        image_size,
        backing_offset: 0,
        backing_len: 0,
    };
    if !image_size.is_multiple_of(512) || image_size > header.max_size() {
        return Err(Error::invalid(format!(
            "QED image size must be a non-zero multiple of cluster size and less than {} bytes",
            header.max_size()
        )));
    }
    let name = backing.unwrap_or_default();
    set_backing(&mut header, &name, format.as_deref())?;
    let mut bytes = header.to_bytes();
    bytes.extend_from_slice(name.as_bytes());
    file.write_bytes(0, &bytes).await?;
    file.truncate(header.l1 + header.table_len(), true, Preallocation::Off).await
}

/// Notes a backing of that name, or none if it is empty. The name goes right behind the header.
fn set_backing(header: &mut Header, name: &str, format: Option<&str>) -> Result<()> {
    header.features &= !(BACKING | BACKING_IS_RAW);
    (header.backing_offset, header.backing_len) = (0, 0);
    if name.is_empty() {
        return Ok(());
    }
    let len = u32::try_from(name.len()).ok().filter(|len| *len <= MAX_BACKING);
    let fits = u(HEADER + name.len()) <= header.header_size * header.cluster_size;
    let Some(len) = len.filter(|_| fits) else { return Err(Error::invalid("Backing file name too long")) };
    header.features |= BACKING;
    if format == Some("raw") {
        header.features |= BACKING_IS_RAW;
    }
    (header.backing_offset, header.backing_len) = (64, len);
    Ok(())
}

/// Which clusters of the file are used, 64 to a word.
#[derive(Default)]
struct Used(HashMap<u64, u64>);

impl Used {
    /// Marks a cluster; false if it was marked already.
    fn mark(&mut self, cluster: u64) -> bool {
        let word = self.0.entry(cluster / 64).or_default();
        let bit = 1 << (cluster % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn count(&self) -> u64 {
        self.0.values().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl Qed {
    fn header(&self) -> Header {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    async fn change_header(&self, change: impl FnOnce(&mut Header, &mut Option<String>)) -> Result<()> {
        let _one = self.changing.lock().await;
        let (mut header, mut name) = self.header.lock().unwrap_or_else(PoisonError::into_inner).clone();
        change(&mut header, &mut name);
        let mut bytes = header.to_bytes();
        if header.features & BACKING != 0
            && let Some(name) = &name
        {
            bytes.resize(header.backing_offset as usize, 0);
            bytes.extend_from_slice(name.as_bytes());
        }
        if header.backing_offset >= 64 || header.backing_offset == 0 {
            self.image.layout.tables.file.write_bytes(0, &bytes).await?;
        } else {
            self.image.layout.tables.file.write_bytes(0, &bytes[..HEADER]).await?;
        }
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = (header, name);
        Ok(())
    }

    async fn check_tables(&self, fix: FixMode) -> Result<CheckResult> {
        let header = self.header();
        let layout = &self.image.layout;
        let tables = &layout.tables;
        let mut used = Used::default();
        let table_clusters = header.table_size;
        for cluster in 0..header.header_size {
            used.mark(cluster);
        }
        for cluster in 0..table_clusters {
            used.mark(header.l1 / header.cluster_size + cluster);
        }
        let mut result =
            CheckResult { total_clusters: header.image_size.div_ceil(header.cluster_size), ..CheckResult::default() };
        let mut last = 0u64;
        let mut firsts = Vec::new();
        for index in 0..tables.l1_entries {
            if index.is_multiple_of(512) {
                firsts = tables.some_entries(tables.l1, index, tables.l1_entries).await?;
            }
            let table = firsts.get(n(index % 512)).copied().unwrap_or(0);
            if table == 0 {
                continue;
            }
            let valid = layout.is_valid(table) && layout.is_valid(table + (table_clusters - 1) * header.cluster_size);
            let first = table / header.cluster_size;
            let fresh = valid && (first..first + table_clusters).filter(|cluster| !used.mark(*cluster)).count() == 0;
            if !fresh {
                result.corruptions += 1;
                if !valid && fix.errors {
                    tables.meta.write(Level::Second, tables.l1 + index * 8, &[0; 8]).await?;
                    result.corruptions_fixed += 1;
                }
                continue;
            }
            let mut seconds = Vec::new();
            for entry_index in 0..tables.l2_entries {
                let at = table + entry_index * 8;
                if entry_index.is_multiple_of(512) {
                    seconds = tables.some_entries(table, entry_index, tables.l2_entries).await?;
                }
                let entry = seconds.get(n(entry_index % 512)).copied().unwrap_or(0);
                if entry <= ZERO_CLUSTER {
                    continue;
                }
                result.allocated_clusters += 1;
                result.fragmented_clusters += u64::from(last != 0 && last.wrapping_add(header.cluster_size) != entry);
                last = entry;
                if !layout.is_valid(entry) {
                    result.corruptions += 1;
                    if fix.errors {
                        tables.meta.write(Level::First, at, &[0; 8]).await?;
                        result.corruptions_fixed += 1;
                    }
                } else if !used.mark(entry / header.cluster_size) {
                    result.corruptions += 1;
                }
            }
        }
        let clusters = tables.file.len().div_ceil(header.cluster_size);
        result.leaks = clusters.saturating_sub(used.count());
        if fix.errors {
            tables.meta.flush().await?;
            tables.file.flush().await?;
            if header.features & NEEDS_CHECK != 0 && result.corruptions == result.corruptions_fixed {
                self.change_header(|header, _| header.features &= !NEEDS_CHECK).await?;
            }
        }
        Ok(result)
    }
}

impl Driver for Qed {
    fn len(&self) -> u64 {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).0.image_size
    }

    fn limits(&self) -> Limits {
        let cluster = u32::try_from(self.image.layout.cluster_size()).unwrap_or(0);
        Limits { zeroes_alignment: cluster, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.image.layout.tables.file)]
    }

    fn backing(&self) -> Option<&Arc<BackingSlot>> {
        Some(&self.backing)
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.image.read(offset, buf))
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(self.image.write(offset, buf))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(self.image.write_zeroes(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(self.image.discard(offset, len))
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.tables.meta.flush())
    }

    fn truncate(&self, len: u64, _exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            if preallocation != Preallocation::Off {
                let name = Preallocation::NAMES[preallocation as usize];
                return Err(Error::unsupported(format!("Unsupported preallocation mode '{name}'")));
            }
            let header = self.header();
            if !len.is_multiple_of(512) || len > header.max_size() {
                return Err(Error::invalid("Invalid image size specified"));
            }
            if len < header.image_size {
                return Err(Error::unsupported("Shrinking images is currently not supported"));
            }
            if len == header.image_size {
                return Ok(());
            }
            // What was behind the end is not part of the disk, whatever the backing holds there.
            self.change_header(|header, _| header.image_size = len).await
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(self.image.block_status(offset, len))
    }

    fn details(&self) -> ImageDetails {
        let header = self.header();
        ImageDetails {
            cluster_size: Some(header.cluster_size),
            dirty: Some(header.features & NEEDS_CHECK != 0),
            unallocated_is_zero: true,
            ..ImageDetails::default()
        }
    }

    fn image_backing(&self) -> Option<ImageBacking> {
        let (header, name) = self.header.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let format = (header.features & BACKING_IS_RAW != 0).then(|| "raw".to_owned());
        name.map(|file| ImageBacking { file, format })
    }

    fn change_backing(&self, backing: Option<ImageBacking>) -> IoFuture<'_> {
        Box::pin(async move {
            let (file, format) = backing.map_or((String::new(), None), |backing| (backing.file, backing.format));
            let mut changed = self.header();
            set_backing(&mut changed, &file, format.as_deref())?;
            self.change_header(|header, name| {
                *header = Header { image_size: header.image_size, ..changed };
                *name = Some(file).filter(|file| !file.is_empty());
            })
            .await
        })
    }

    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        Box::pin(self.check_tables(fix))
    }

    fn reopen(&self, options: Options, read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if let Some((name, _)) = options.iter().next() {
                return Err(Error::invalid(format!("Cannot change the option '{name}'")));
            }
            if !read_only && self.header().features & NEEDS_CHECK != 0 {
                return Err(Error::read_only("The image needs a check before it can be written"));
            }
            Ok(())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
