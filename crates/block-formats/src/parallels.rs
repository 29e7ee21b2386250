//! `parallels`, the format of Parallels and Virtuozzo ("expanding" images), with either signature.
//!
//! A header of 64 bytes and a table of 32-bit places of clusters: in sectors with the old signature, in clusters with
//! the new one. Specification: "Parallels Expandable Image File Format". Left out: the format extension (bitmaps): it is
//! left where it is; differencing images are the business of the options (`backing`), the format has no names for them.
//!
//! The header says whether a writer has the image open, from the first write on until it is closed.

use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::image::{CheckResult, FixMode, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use block::{BackingSlot, Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{le32, le64, n, put};
use crate::meta::{Level, MetaCache};
use crate::sparse::{Layout, Mapping, Sparse, run_of};

const SECTOR: u64 = 512;
const MAGIC_SECTORS: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC_CLUSTERS: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
const IN_USE: u32 = 0x746f_6e59;
const TABLE: u64 = 64;
const AT_IN_USE: u64 = 44;
const DEFAULT_CLUSTER: u64 = 1 << 20;
/// How far the file grows ahead of the data, if the option is given without a size, bytes.
const DEFAULT_GROWTH: u64 = 128 << 20;

/// The driver `parallels`. Options: `prealloc-size` and `prealloc-mode` (`falloc` or `truncate`): how the file grows.
pub struct ParallelsType;

const CREATE_OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "cluster_size",
        kind: CreateOptionKind::Size,
        help: "Parallels image cluster size",
        default: Some("1048576"),
    },
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
];

struct Header {
    cluster: u64,
    entries: u32,
    size: u64,
    /// Bytes of a unit of the table's numbers.
    unit: u64,
    data: u64,
    unclean: bool,
}

impl Header {
    fn parse(bytes: &[u8], file_len: u64) -> Result<Self> {
        let in_clusters = bytes.starts_with(MAGIC_CLUSTERS);
        if !(in_clusters || bytes.starts_with(MAGIC_SECTORS)) || le32(bytes, 16) != VERSION {
            return Err(Error::invalid("Image not in Parallels format"));
        }
        let (tracks, entries) = (le32(bytes, 28), le32(bytes, 32));
        if tracks == 0 {
            return Err(Error::invalid("Invalid image: Zero sectors per track"));
        }
        if tracks > i32::MAX as u32 / 513 {
            return Err(Error::invalid("Invalid image: Too big cluster"));
        }
        if entries > i32::MAX as u32 / 4 {
            return Err(Error::too_big("Catalog too large"));
        }
        let cluster = u64::from(tracks) * SECTOR;
        let sectors = if in_clusters { le64(bytes, 36) } else { le32(bytes, 36).into() };
        let size = sectors.checked_mul(SECTOR).filter(|size| *size <= i64::MAX as u64);
        let size = size.ok_or_else(|| Error::too_big("Invalid image: The disk is too large"))?;
        let table_end = TABLE + u64::from(entries) * 4;
        if table_end > file_len {
            return Err(Error::invalid("The catalog lies behind the end of the file"));
        }
        let data = match u64::from(le32(bytes, 48)) * SECTOR {
            0 => table_end.next_multiple_of(SECTOR),
            data => data,
        };
        Ok(Self {
            cluster,
            entries,
            size,
            unit: if in_clusters { cluster } else { SECTOR },
            data: data.max(table_end.next_multiple_of(SECTOR)),
            unclean: le32(bytes, n(AT_IN_USE)) == IN_USE,
        })
    }
}

struct Clusters {
    file: Arc<Child>,
    meta: MetaCache,
    header: Header,
    /// Where the next cluster goes.
    next: Mutex<u64>,
    /// How the file grows, if ahead of the data.
    growth: Option<(u64, Preallocation)>,
    growing: tokio::sync::Mutex<()>,
    in_use: AtomicBool,
}

impl Clusters {
    fn mapping(&self, entry: u32) -> Mapping {
        match entry {
            0 => Mapping::Unallocated,
            place => Mapping::Data(u64::from(place) * self.header.unit),
        }
    }

    fn next(&self) -> std::sync::MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells others that a writer has the image open.
    async fn mark_in_use(&self) -> Result<()> {
        if self.in_use.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.growing.lock().await;
        if !self.in_use.load(Ordering::Acquire) {
            self.meta.write(Level::First, AT_IN_USE, &IN_USE.to_le_bytes()).await?;
            self.meta.flush().await?;
            self.file.flush().await?;
            self.in_use.store(true, Ordering::Release);
        }
        Ok(())
    }

    async fn grow(&self, end: u64) -> Result<()> {
        let Some((step, mode)) = self.growth else { return Ok(()) };
        let _one = self.growing.lock().await;
        if self.file.len() >= end {
            return Ok(());
        }
        self.file.truncate(end.saturating_add(step), false, mode).await
    }

    async fn close(&self) -> Result<()> {
        self.meta.flush().await?;
        if !self.in_use.load(Ordering::Acquire) || self.file.node().is_read_only() {
            return Ok(());
        }
        if self.growth.is_some() {
            let end = *self.next();
            if self.file.len() > end {
                self.file.truncate(end, true, Preallocation::Off).await?;
            }
        }
        self.meta.write(Level::First, AT_IN_USE, &[0; 4]).await?;
        self.meta.flush().await?;
        self.in_use.store(false, Ordering::Release);
        Ok(())
    }
}

impl Layout for Clusters {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        self.header.cluster
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let inside = u64::from(self.header.entries).saturating_sub(cluster);
        if inside == 0 {
            return Ok((Mapping::Unallocated, max));
        }
        let (mapping, count) = self
            .meta
            .view(TABLE + cluster * 4, |bytes| {
                let entries = bytes.chunks_exact(4).map(|entry| self.mapping(le32(entry, 0)));
                run_of(entries, max.min(inside), self.header.cluster)
            })
            .await?;
        if let Mapping::Data(host) = mapping
            && host < TABLE + u64::from(self.header.entries) * 4
        {
            return Err(Error::io(format!("Cluster {cluster} lies in the image's catalog")));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, cluster: u64, count: u64) -> Result<(u64, u64)> {
        let count = count.min(u64::from(self.header.entries).saturating_sub(cluster));
        if count == 0 {
            return Err(Error::invalid("The image's catalog has no room for this cluster"));
        }
        self.mark_in_use().await?;
        let start = {
            let mut next = self.next();
            let start = *next;
            if u32::try_from((start + count * self.header.cluster) / self.header.unit).is_err() {
                return Err(Error::no_space("The image can't grow further"));
            }
            *next = start + count * self.header.cluster;
            start
        };
        self.grow(start + count * self.header.cluster).await?;
        Ok((start, count))
    }

    fn release(&self, host: u64, count: u64) {
        let mut next = self.next();
        if host + count * self.header.cluster == *next {
            *next = host;
        }
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let size = self.header.cluster;
        if self.file.len() < host + count * size {
            self.file.write_bytes(host + count * size - 1, &[0]).await?;
        }
        let entries: Vec<u8> = (0..count)
            .flat_map(|index| u32::try_from((host + index * size) / self.header.unit).unwrap_or(0).to_le_bytes())
            .collect();
        self.meta.write(Level::First, TABLE + cluster * 4, &entries).await?;
        if self.meta.is_full() { self.meta.flush().await } else { Ok(()) }
    }

    async fn before_write(&self, _cluster: u64, _count: u64) -> Result<()> {
        self.mark_in_use().await
    }
}

struct Parallels {
    image: Sparse<Clusters>,
    backing: Arc<BackingSlot>,
    unclean: AtomicBool,
}

impl DriverType for ParallelsType {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        let known = head.starts_with(MAGIC_SECTORS) || head.starts_with(MAGIC_CLUSTERS);
        if known && head.len() >= 64 && le32(head, 16) == VERSION { 100 } else { 0 }
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

    fn create(&self, mut request: CreateRequest) -> IoFuture<'static> {
        Box::pin(async move {
            let file = request.target()?;
            let cluster = request.options.take_size("cluster_size")?.unwrap_or(DEFAULT_CLUSTER);
            let size = request.size;
            request.finish()?;
            create(&file, size, cluster).await
        })
    }
}

fn unclean() -> Error {
    Error::read_only("parallels: Image was not closed correctly; cannot be opened read/write")
}

/// How the file grows, by the options.
fn growth(options: &mut Options) -> Result<Option<(u64, Preallocation)>> {
    let size = options.take_size("prealloc-size")?;
    let mode = options.take_choice("prealloc-mode", &["falloc", "truncate"])?;
    Ok((size.is_some() || mode.is_some()).then(|| {
        let mode = if mode == Some(1) { Preallocation::Off } else { Preallocation::Falloc };
        (size.unwrap_or(DEFAULT_GROWTH), mode)
    }))
}

async fn open(mut request: OpenRequest) -> Result<Arc<dyn Driver>> {
    let growth = growth(&mut request.options)?;
    let read_only = request.config.read_only;
    let file = request.child("file", Role::Storage).await?;
    request.finish()?;
    let header = Header::parse(&file.read_vec(0, n(TABLE)).await?, file.len())?;
    if header.unclean && !read_only && !request.flags.check {
        return Err(unclean());
    }
    let next = file.len().max(header.data).next_multiple_of(header.cluster);
    let unclean = AtomicBool::new(header.unclean);
    let clusters = Clusters {
        meta: MetaCache::new(Arc::clone(&file)),
        in_use: AtomicBool::new(header.unclean),
        file,
        header,
        next: Mutex::new(next),
        growth,
        growing: tokio::sync::Mutex::default(),
    };
    let backing = Arc::new(BackingSlot::default());
    let image = Sparse::new(clusters, Some(Arc::clone(&backing)), 0);
    Ok(Arc::new(Parallels { image, backing, unclean }))
}

async fn create(file: &Child, size: u64, cluster: u64) -> Result<()> {
    if cluster >= i64::MAX as u64 / 513 {
        return Err(Error::invalid("Cluster size is too large"));
    }
    let too_large = || Error::too_big("Image size is too large for this cluster size");
    // More clusters than have numbers.
    if u128::from(size) >= u128::from(cluster) << 32 {
        return Err(too_large());
    }
    if !size.is_multiple_of(SECTOR) {
        return Err(Error::invalid("Image size must be a multiple of 512 bytes"));
    }
    if !cluster.is_multiple_of(SECTOR) {
        return Err(Error::invalid("Cluster size must be a multiple of 512 bytes"));
    }
    let tracks = u32::try_from(cluster / SECTOR).ok().filter(|tracks| *tracks <= i32::MAX as u32 / 513);
    let tracks = tracks.ok_or_else(|| Error::invalid("Cluster size is too large"))?;
    let entries = u32::try_from(size.div_ceil(cluster)).ok().filter(|entries| *entries <= i32::MAX as u32 / 4);
    let entries = entries.ok_or_else(too_large)?;
    let data = (TABLE + u64::from(entries) * 4).next_multiple_of(cluster);
    let data_sectors = u32::try_from(data / SECTOR).map_err(|_| too_large())?;
    let cylinders = u32::try_from(size / SECTOR / 16 / 32).unwrap_or(u32::MAX);
    let mut header = vec![0; n(SECTOR)];
    put(&mut header, 0, MAGIC_CLUSTERS);
    for (at, value) in [(16, VERSION), (20, 16), (24, cylinders), (28, tracks), (32, entries), (48, data_sectors)] {
        put(&mut header, at, &value.to_le_bytes());
    }
    put(&mut header, 36, &(size / SECTOR).to_le_bytes());
    file.write_bytes(0, &header).await?;
    file.truncate(data, true, Preallocation::Off).await
}

impl Parallels {
    async fn check_clusters(&self, fix: FixMode) -> Result<CheckResult> {
        let clusters = &self.image.layout;
        let header = &clusters.header;
        let mut result = CheckResult { total_clusters: header.entries.into(), ..CheckResult::default() };
        let verb = |fixed: bool| if fixed { "Repairing" } else { "ERROR" };
        if self.unclean.load(Ordering::Acquire) {
            result.corruptions += 1;
            result.messages.push(format!("{} image was not closed correctly", verb(fix.errors)));
            result.corruptions_fixed += u64::from(fix.errors);
        }
        let len = clusters.file.len();
        let mut highest = 0;
        let mut previous = 0;
        let mut seen = HashSet::new();
        for index in 0..u64::from(header.entries) {
            let entry = le32(&clusters.meta.get::<4>(TABLE + index * 4).await?, 0);
            let Mapping::Data(host) = clusters.mapping(entry) else { continue };
            if host >= len {
                result.corruptions += 1;
                if result.messages.len() < 1000 {
                    result.messages.push(format!("{} cluster {index} is outside image", verb(fix.errors)));
                }
                if fix.errors {
                    clusters.meta.write(Level::First, TABLE + index * 4, &[0; 4]).await?;
                    result.corruptions_fixed += 1;
                }
                previous = 0;
                continue;
            }
            if !seen.insert(entry) || host < header.data {
                result.corruptions += 1;
                if result.messages.len() < 1000 {
                    result.messages.push(format!("ERROR cluster {index} shares its data with others or with tables"));
                }
            }
            result.allocated_clusters += 1;
            result.fragmented_clusters += u64::from(previous != 0 && previous + header.cluster != host);
            previous = host;
            highest = highest.max(host);
        }
        let end = if highest == 0 { header.data } else { highest + header.cluster };
        result.image_end_offset = end;
        if len > end {
            let count = (len - end).div_ceil(header.cluster);
            result.messages.push(format!("{} space leaked at the end of the image {}", verb(fix.leaks), len - end));
            result.leaks += count;
            if fix.leaks {
                clusters.file.truncate(end, true, Preallocation::Off).await?;
                *clusters.next() = end.next_multiple_of(header.cluster);
                result.leaks_fixed += count;
            }
        }
        if fix.errors {
            clusters.meta.write(Level::First, AT_IN_USE, &[0; 4]).await?;
            clusters.in_use.store(false, Ordering::Release);
            self.unclean.store(false, Ordering::Release);
        }
        if fix != FixMode::default() {
            clusters.meta.flush().await?;
            clusters.file.flush().await?;
        }
        Ok(result)
    }
}

impl Driver for Parallels {
    fn len(&self) -> u64 {
        self.image.layout.header.size
    }

    fn limits(&self) -> Limits {
        let cluster = u32::try_from(self.image.layout.header.cluster).unwrap_or(0);
        Limits { zeroes_alignment: cluster, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.image.layout.file)]
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
        Box::pin(async move {
            self.image.layout.mark_in_use().await?;
            self.image.discard(offset, len).await
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.meta.flush())
    }

    fn close(&self) -> IoFuture<'_> {
        Box::pin(async move {
            // An image that was not closed well stays so until it is checked.
            if self.unclean.load(Ordering::Acquire) {
                return self.image.layout.meta.flush().await;
            }
            self.image.layout.close().await
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(self.image.block_status(offset, len))
    }

    fn details(&self) -> ImageDetails {
        ImageDetails { unallocated_is_zero: true, ..ImageDetails::default() }
    }

    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        Box::pin(self.check_clusters(fix))
    }

    fn reopen(&self, mut options: Options, read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if growth(&mut options)? != self.image.layout.growth {
                return Err(Error::invalid("Cannot change the options 'prealloc-size' and 'prealloc-mode'"));
            }
            if !read_only && self.unclean.load(Ordering::Acquire) {
                return Err(unclean());
            }
            // Others may open what is not written any more.
            if read_only { self.image.layout.close().await } else { Ok(()) }
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_headers_are_bounded() {
        let mut bytes = vec![0; 64];
        put(&mut bytes, 0, MAGIC_SECTORS);
        put(&mut bytes, 16, &VERSION.to_le_bytes());
        put(&mut bytes, 28, &63u32.to_le_bytes());
        put(&mut bytes, 32, &u32::MAX.to_le_bytes());
        let error = Header::parse(&bytes, 64).map(|_| ()).expect_err("too large");
        assert_eq!(error.to_string(), "Catalog too large");
    }
}
