//! `vpc`, the format VHD of Virtual PC and Hyper-V: fixed and dynamic disks.
//!
//! A footer of 512 bytes ends the file. A dynamic disk begins with a copy of it, a header and a table of 32-bit sector
//! numbers; each block has a bitmap of its sectors before its data. Specification: "Virtual Hard Disk Image Format
//! Specification", version 1.0. Left out: differencing disks (refused).
//!
//! Where a block is added, the footer is first written behind it; so it is always there, whatever comes next.

mod create;
mod header;

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::image::ImageDetails;
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, WriteFlags, ZeroFlags};
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{be32, u};
use crate::meta::{Level, MetaCache};
use crate::sparse::{Layout, Mapping, Sparse, run_of};
use header::{DynamicHeader, Footer, MAX_SECTORS, SizeCalc};

const SECTOR: u64 = 512;
const UNALLOCATED: u32 = 0xffff_ffff;
/// Blocks of which it is remembered that their bitmap is full.
const MAX_KNOWN: usize = 1 << 16;

/// The driver `vpc`. Option: `force_size_calc`, `chs` or `current_size`.
pub struct VpcType;

const CREATE_OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "force_size",
        kind: CreateOptionKind::Bool,
        help: "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based \
               calculation",
        default: None,
    },
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "subformat",
        kind: CreateOptionKind::Text,
        help: "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        default: None,
    },
];

struct Dynamic {
    file: Arc<Child>,
    meta: MetaCache,
    table: u64,
    entries: u64,
    block_size: u64,
    bitmap_size: u64,
    /// Nothing of a block may be before this offset.
    first_block: u64,
    footer: Vec<u8>,
    /// Where the next block goes; held while the footer is moved behind it.
    free: tokio::sync::Mutex<u64>,
    /// Blocks whose bitmap is known to be full.
    full: Mutex<HashSet<u64>>,
}

impl Dynamic {
    fn mapping(&self, entry: u32) -> Mapping {
        match entry {
            UNALLOCATED => Mapping::Unallocated,
            sector => Mapping::Data(u64::from(sector) * SECTOR + self.bitmap_size),
        }
    }

    fn with_full<R>(&self, visit: impl FnOnce(&mut HashSet<u64>) -> R) -> R {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full.len() > MAX_KNOWN {
            full.clear();
        }
        visit(&mut full)
    }
}

impl Layout for Dynamic {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        self.block_size
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let max = max.min(self.entries.saturating_sub(cluster));
        if max == 0 {
            return Err(Error::io("The request lies behind the end of the block table"));
        }
        let offset = self.table + cluster * 4;
        // Tables need not be aligned: an entry may lie in two pages.
        let first = be32(&self.meta.get::<4>(offset).await?, 0);
        let (mapping, count) = match self.mapping(first) {
            Mapping::Data(host) => (Mapping::Data(host), 1),
            _ => {
                let entries = |bytes: &[u8]| {
                    run_of(bytes.chunks_exact(4).map(|entry| self.mapping(be32(entry, 0))), max, self.block_size)
                };
                match self.meta.view(offset, entries).await? {
                    (Mapping::Unallocated, count) => (Mapping::Unallocated, count),
                    _ => (Mapping::Unallocated, 1),
                }
            }
        };
        if let Mapping::Data(host) = mapping
            && host - self.bitmap_size < self.first_block
        {
            return Err(Error::io(format!("VHD block {cluster} lies in the image's tables")));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, cluster: u64, _count: u64) -> Result<(u64, u64)> {
        let mut free = self.free.lock().await;
        let start = *free;
        let end = start + self.bitmap_size + self.block_size;
        if u32::try_from(end / SECTOR).is_err() {
            return Err(Error::no_space("The VHD image can't grow beyond 2 TiB"));
        }
        self.file.write_bytes(end, &self.footer).await?;
        let bitmap = vec![0xff; usize::try_from(self.bitmap_size).unwrap_or(0)];
        self.file.write_bytes(start, &bitmap).await?;
        *free = end;
        self.with_full(|full| full.insert(cluster));
        Ok((start + self.bitmap_size, 1))
    }

    async fn link(&self, cluster: u64, _count: u64, host: u64) -> Result<()> {
        let sector = u32::try_from((host - self.bitmap_size) / SECTOR).unwrap_or(UNALLOCATED);
        self.meta.write(Level::First, self.table + cluster * 4, &sector.to_be_bytes()).await?;
        if self.meta.is_full() { self.meta.flush().await } else { Ok(()) }
    }

    /// Other programs read sectors whose bit is not set as zeroes: before the first write to a block all are set.
    async fn before_write(&self, cluster: u64, count: u64) -> Result<()> {
        for cluster in cluster..cluster + count {
            if self.with_full(|full| full.contains(&cluster)) {
                continue;
            }
            let (Mapping::Data(host), _) = self.map(cluster, 1).await? else { continue };
            let start = host - self.bitmap_size;
            let bitmap = self.file.read_vec(start, usize::try_from(self.bitmap_size).unwrap_or(0)).await?;
            if bitmap.iter().any(|byte| *byte != 0xff) {
                self.file.write_bytes(start, &vec![0xff; bitmap.len()]).await?;
            }
            self.with_full(|full| full.insert(cluster));
        }
        Ok(())
    }
}

enum Kind {
    Fixed(Arc<Child>),
    Dynamic(Box<Sparse<Dynamic>>),
}

struct Vpc {
    kind: Kind,
    size: u64,
    force_size_calc: Option<String>,
}

impl DriverType for VpcType {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.starts_with(header::COOKIE) { 100 } else { 0 }
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let force = request.options.take_str("force_size_calc")?;
            let calc = SizeCalc::parse(force.as_deref())?;
            let file = request.child("file", Role::Storage).await?;
            request.finish()?;
            let (footer, bytes) = Footer::read(&file).await?;
            let sectors = footer.sectors(calc);
            if sectors > MAX_SECTORS {
                return Err(Error::too_big("Disk size is too large, max size is 2040 GiB"));
            }
            let size = sectors * SECTOR;
            let kind = if footer.is_dynamic() {
                Kind::Dynamic(Box::new(Sparse::new(open_dynamic(file, &footer, bytes, size).await?, None, 0)))
            } else {
                Kind::Fixed(file)
            };
            Ok(Arc::new(Vpc { kind, size, force_size_calc: force }) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::create(request))
    }
}

async fn open_dynamic(file: Arc<Child>, footer: &Footer, bytes: Vec<u8>, size: u64) -> Result<Dynamic> {
    let len = file.len();
    let header = DynamicHeader::read(&file, footer.data_offset).await?;
    let blocks = u64::from(header.max_entries);
    if blocks.checked_mul(header.block_size).is_none_or(|room| room < size) {
        return Err(Error::invalid("Page table too small"));
    }
    let table_len = blocks * 4;
    let table_end = header.table_offset.checked_add(table_len).filter(|end| *end <= len.next_multiple_of(SECTOR));
    let Some(table_end) = table_end else { return Err(Error::invalid("Error reading pagetable")) };
    let bitmap_size = (header.block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let first_block = table_end.next_multiple_of(SECTOR);
    let dynamic = Dynamic {
        meta: MetaCache::new(Arc::clone(&file)),
        file,
        table: header.table_offset,
        entries: blocks,
        block_size: header.block_size,
        bitmap_size,
        first_block,
        footer: bytes,
        free: tokio::sync::Mutex::new(first_block),
        full: Mutex::default(),
    };
    // Also when it is only read: it may be reopened for writing.
    let mut free = first_block;
    let mut at = 0;
    while at < table_len {
        let chunk =
            dynamic.file.read_vec(header.table_offset + at, crate::bytes::n((table_len - at).min(1 << 20))).await?;
        for entry in chunk.chunks_exact(4).map(|entry| be32(entry, 0)).filter(|entry| *entry != UNALLOCATED) {
            free = free.max(u64::from(entry) * SECTOR + bitmap_size + header.block_size);
        }
        at += u(chunk.len());
    }
    if free > len {
        return Err(Error::invalid(
            "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
        ));
    }
    *dynamic.free.lock().await = free;
    Ok(dynamic)
}

impl Driver for Vpc {
    fn len(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        match &self.kind {
            Kind::Fixed(_) => Limits::default(),
            Kind::Dynamic(image) => {
                Limits { zeroes_alignment: u32::try_from(image.layout.block_size).unwrap_or(0), ..Limits::default() }
            }
        }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        match &self.kind {
            Kind::Fixed(file) => vec![Arc::clone(file)],
            Kind::Dynamic(image) => vec![Arc::clone(&image.layout.file)],
        }
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        match &self.kind {
            Kind::Fixed(file) => Box::pin(file.read(offset, buf)),
            Kind::Dynamic(image) => Box::pin(image.read(offset, buf)),
        }
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        match &self.kind {
            Kind::Fixed(file) => Box::pin(file.write(offset, buf, WriteFlags { fua: false, ..flags })),
            Kind::Dynamic(image) => Box::pin(image.write(offset, buf)),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        match &self.kind {
            // A fixed disk keeps its space.
            Kind::Fixed(file) => {
                Box::pin(file.write_zeroes(offset, len, ZeroFlags { may_unmap: false, fua: false, ..flags }))
            }
            Kind::Dynamic(image) => Box::pin(image.write_zeroes(offset, len, flags)),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        match &self.kind {
            Kind::Fixed(_) => block::done(()),
            Kind::Dynamic(image) => Box::pin(image.discard(offset, len)),
        }
    }

    fn flush(&self) -> IoFuture<'_> {
        match &self.kind {
            Kind::Fixed(_) => block::done(()),
            Kind::Dynamic(image) => Box::pin(image.layout.meta.flush()),
        }
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        match &self.kind {
            Kind::Fixed(_) => block::done(BlockStatus { recurse: true, ..BlockStatus::data(len, Some(offset)) }),
            Kind::Dynamic(image) => Box::pin(image.block_status(offset, len)),
        }
    }

    fn strong_options(&self) -> Options {
        match &self.force_size_calc {
            Some(calc) => Options::new().with("force_size_calc", calc.as_str()),
            None => Options::new(),
        }
    }

    fn details(&self) -> ImageDetails {
        let cluster_size = match &self.kind {
            Kind::Fixed(_) => None,
            Kind::Dynamic(image) => Some(image.layout.block_size),
        };
        ImageDetails { cluster_size, dirty: Some(false), unallocated_is_zero: true, ..ImageDetails::default() }
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if options.take_str("force_size_calc")? != self.force_size_calc {
                return Err(Error::invalid("Cannot change the option 'force_size_calc'"));
            }
            Ok(())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
