//! `vhdx`, the second format of Hyper-V: fixed and dynamic disks.
//!
//! Two headers, two region tables, metadata, a table of 64-bit entries (state and place) for blocks of 1 to 256 MiB,
//! and a log. Specification: [MS-VHDX]. Left out: differencing disks (refused), partially present blocks.
//!
//! Changes of the table stay in memory until a flush: then the data is made stable, a log entry is written and made
//! stable, the header names the log, and the table is written. Closing takes the log's name out of the header again.

mod create;
mod header;
mod log;

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateRequest};
use block::image::{CheckResult, FixMode, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{le64, n, u, uuid};
use crate::meta::{Level, MetaCache, Run};
use crate::sparse::{Layout, Mapping, Sparse, run_of};
use header::{Guid, HEADER_AT, Header, MIB, Metadata, Region};
use log::LogWriter;

const STATE_MASK: u64 = 7;
const STATE_NOT_PRESENT: u64 = 0;
const STATE_UNDEFINED: u64 = 1;
const STATE_ZERO: u64 = 2;
const STATE_UNMAPPED: u64 = 3;
const STATE_UNMAPPED_OLD: u64 = 5;
const STATE_FULL: u64 = 6;
const PLACE_MASK: u64 = !(MIB - 1);

/// The driver `vhdx`.
pub struct VhdxType;

/// The headers, and which of them counts.
struct Headers {
    header: Header,
    index: usize,
    /// Whether this session has written: then the header has new ids.
    written: bool,
    log: LogWriter,
}

struct Blocks {
    file: Arc<Child>,
    meta: MetaCache,
    metadata: Metadata,
    bat: Region,
    /// What data must not overlap, beside the first MiB.
    regions: Vec<Region>,
    /// Where the next block goes.
    next: Mutex<u64>,
    headers: tokio::sync::Mutex<Headers>,
    written: AtomicBool,
}

impl Blocks {
    fn entry_offset(&self, block: u64) -> u64 {
        self.bat.offset + (block + block / self.metadata.chunk_ratio()) * 8
    }

    fn mapping(entry: u64) -> Option<Mapping> {
        match entry & STATE_MASK {
            STATE_NOT_PRESENT | STATE_UNDEFINED | STATE_UNMAPPED | STATE_UNMAPPED_OLD => Some(Mapping::Unallocated),
            STATE_ZERO => Some(Mapping::Zero),
            STATE_FULL => Some(Mapping::Data(entry & PLACE_MASK)),
            _ => None,
        }
    }

    fn is_free(&self, host: u64, len: u64) -> bool {
        host >= MIB
            && host.checked_add(len).is_some_and(|end| end <= i64::MAX as u64)
            && !self.regions.iter().any(|region| region.overlaps(host, len))
    }

    /// Before the first write the header gets new ids, so that others notice.
    async fn mark_written(&self) -> Result<()> {
        if self.written.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut headers = self.headers.lock().await;
        if !headers.written {
            headers.header.file_write = uuid();
            headers.header.data_write = uuid();
            self.update_header(&mut headers).await?;
            headers.written = true;
        }
        self.written.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the header twice, first over the older one, so that there is always a valid one.
    async fn update_header(&self, headers: &mut Headers) -> Result<()> {
        for _ in 0..2 {
            let sequence = headers.header.sequence.checked_add(1);
            let sequence = sequence.ok_or_else(|| Error::invalid("The VHDX headers' numbers are used up"))?;
            let header = Header { sequence, ..headers.header.clone() };
            let index = 1 - headers.index;
            self.file.write_bytes(HEADER_AT[index], &header.to_bytes()).await?;
            self.file.flush().await?;
            (headers.header, headers.index) = (header, index);
        }
        Ok(())
    }

    /// Writes changed parts of the table through the log.
    async fn write_logged(&self, runs: Vec<Run>) -> Result<()> {
        let mut sectors = Vec::new();
        for (offset, bytes) in &runs {
            for (index, data) in bytes.chunks(n(log::SECTOR)).enumerate() {
                sectors.push((offset + u(index) * log::SECTOR, data.to_vec()));
            }
        }
        let mut headers = self.headers.lock().await;
        for batch in sectors.chunks(log::MAX_SECTORS) {
            // Data, and what the last entry changed: the new entry takes that one's place.
            self.file.flush().await?;
            headers.log.write(&self.file, batch).await?;
            self.file.flush().await?;
            if headers.header.log != headers.log.id {
                headers.header.log = headers.log.id;
                self.update_header(&mut headers).await?;
            }
            for (offset, data) in batch {
                self.file.write_bytes(*offset, data).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.meta.flush_with(|runs| self.write_logged(runs)).await
    }

    /// Everything is in the file: the log is not needed any more.
    async fn close(&self) -> Result<()> {
        self.flush().await?;
        let mut headers = self.headers.lock().await;
        if headers.header.log != Guid::default() && !self.file.node().is_read_only() {
            self.file.flush().await?;
            headers.header.log = Guid::default();
            self.update_header(&mut headers).await?;
        }
        Ok(())
    }
}

impl Layout for Blocks {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        self.metadata.block_size
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let ratio = self.metadata.chunk_ratio();
        let max = max.min(ratio - cluster % ratio).min(self.metadata.blocks().saturating_sub(cluster));
        let bad = || Error::io(format!("VHDX block {cluster} has a wrong state or place"));
        if max == 0 {
            return Err(Error::io("The request lies behind the end of the image"));
        }
        let (mapping, count) = self
            .meta
            .view(self.entry_offset(cluster), |bytes| {
                let entries = bytes.chunks_exact(8).map_while(|entry| Self::mapping(le64(entry, 0)));
                let first = Self::mapping(le64(bytes, 0))?;
                let (_, count) = run_of(entries, max, self.metadata.block_size);
                Some((first, count))
            })
            .await?
            .ok_or_else(bad)?;
        if let Mapping::Data(host) = mapping
            && !self.is_free(host, count * self.metadata.block_size)
        {
            return Err(bad());
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, _cluster: u64, count: u64) -> Result<(u64, u64)> {
        self.mark_written().await?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *next;
        *next = start + count * self.metadata.block_size;
        Ok((start, count))
    }

    fn release(&self, host: u64, count: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if host + count * self.metadata.block_size == *next {
            *next = host;
        }
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let size = self.metadata.block_size;
        // The file reaches to the end of the last block, even if that was written in part.
        let end = host + count * size;
        if self.file.len() < end {
            self.file.write_bytes(end - 1, &[0]).await?;
        }
        let entries: Vec<u8> =
            (0..count).flat_map(|index| (STATE_FULL | (host + index * size)).to_le_bytes()).collect();
        self.meta.write(Level::Second, self.entry_offset(cluster), &entries).await?;
        if self.meta.is_full() { self.flush().await } else { Ok(()) }
    }

    async fn before_write(&self, _cluster: u64, _count: u64) -> Result<()> {
        self.mark_written().await
    }
}

struct Vhdx {
    image: Sparse<Blocks>,
    replayed: bool,
}

impl DriverType for VhdxType {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.starts_with(b"vhdxfile") { 100 } else { 0 }
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(open(request))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::create(request))
    }
}

async fn open(mut request: OpenRequest) -> Result<Arc<dyn Driver>> {
    let file = request.child("file", Role::Storage).await?;
    request.finish()?;
    if !file.read_vec(0, 8).await?.starts_with(b"vhdxfile") {
        return Err(Error::invalid("Image not in VHDX format"));
    }
    let (header, index) = Header::read(&file).await?;
    let replayed = log::is_needed(&file, &header).await?;
    if replayed && request.config.read_only {
        let name = block::filename::of(&file.node());
        return Err(Error::permission(format!(
            "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed"
        ))
        .with_hint(format!("To replay the log, run:\nqemu-img check -r all '{name}'")));
    }
    if replayed {
        log::replay(&file, &header).await?;
    }
    let (bat, metadata_region) = header::read_regions(&file, &header).await?;
    let metadata = Metadata::read(&file, metadata_region).await?;
    if metadata.entries() * 8 > bat.len || bat.offset + bat.len > file.len().next_multiple_of(MIB) {
        return Err(Error::invalid("The VHDX block allocation table is too small"));
    }
    let log_region = Region { offset: header.log_offset, len: header.log_len.into() };
    let regions = vec![log_region, bat, metadata_region];
    let after_regions = regions.iter().map(|region| region.offset + region.len).max().unwrap_or(MIB);
    let next = Mutex::new(file.len().next_multiple_of(MIB).max(after_regions));
    let log = LogWriter::new(&header);
    let blocks = Blocks {
        meta: MetaCache::with_granule(Arc::clone(&file), 8),
        file,
        metadata,
        bat,
        regions,
        next,
        headers: tokio::sync::Mutex::new(Headers { header, index, written: false, log }),
        written: AtomicBool::new(false),
    };
    if replayed {
        blocks.close().await?;
    }
    Ok(Arc::new(Vhdx { image: Sparse::new(blocks, None, 0), replayed }))
}

impl Vhdx {
    async fn check_blocks(&self) -> Result<CheckResult> {
        let blocks = &self.image.layout;
        let mut result = CheckResult { corruptions_fixed: self.replayed.into(), ..CheckResult::default() };
        let len = blocks.file.len();
        let ratio = blocks.metadata.chunk_ratio();
        let (mut index, entries) = (0, blocks.metadata.entries());
        while index < entries {
            let bytes =
                blocks.file.read_vec(blocks.bat.offset + index * 8, n((entries - index).min(MIB / 8) * 8)).await?;
            for (at, entry) in bytes.chunks_exact(8).enumerate() {
                let (number, entry) = (index + u(at), le64(entry, 0));
                if number % (ratio + 1) == ratio || entry & STATE_MASK != STATE_FULL {
                    continue;
                }
                let (start, size) = (entry & PLACE_MASK, blocks.metadata.block_size);
                let truncated = "Image has probably been truncated.";
                let message = match start.checked_add(size) {
                    None => format!("VHDX BAT entry {number} offset overflow."),
                    Some(_) if start >= len => format!(
                        "VHDX BAT entry {number} start offset {start} points after end of file ({len}). {truncated}"
                    ),
                    // The last block may end early where it was written in part.
                    Some(end) if end > len && number + 1 != entries => format!(
                        "VHDX BAT entry {number} end offset {} points after end of file ({len}). {truncated}",
                        end - 1
                    ),
                    Some(_) if !blocks.is_free(start, size) => {
                        format!("VHDX BAT entry {number} offset {start} lies in the image's tables.")
                    }
                    Some(_) => continue,
                };
                result.corruptions += 1;
                if result.messages.len() < 1000 {
                    result.messages.push(message);
                }
            }
            index += u(bytes.len()) / 8;
        }
        Ok(result)
    }
}

impl Driver for Vhdx {
    fn len(&self) -> u64 {
        self.image.layout.metadata.size
    }

    fn limits(&self) -> Limits {
        let block = u32::try_from(self.image.layout.metadata.block_size).unwrap_or(0);
        Limits { zeroes_alignment: block, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.image.layout.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.image.read(offset, buf))
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(self.image.write(offset, buf))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        let may_unmap = flags.may_unmap && !self.image.layout.metadata.leave_allocated;
        Box::pin(self.image.write_zeroes(offset, len, ZeroFlags { may_unmap, ..flags }))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        if self.image.layout.metadata.leave_allocated {
            return block::done(());
        }
        Box::pin(async move {
            self.image.layout.mark_written().await?;
            self.image.discard(offset, len).await
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.flush())
    }

    fn close(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.close())
    }

    fn truncate(&self, _len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        block::fail(Error::unsupported("Image format driver does not support resize"))
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(self.image.block_status(offset, len))
    }

    fn details(&self) -> ImageDetails {
        ImageDetails {
            cluster_size: Some(self.image.layout.metadata.block_size),
            dirty: Some(false),
            unallocated_is_zero: true,
            ..ImageDetails::default()
        }
    }

    fn check(&self, _fix: FixMode) -> IoFuture<'_, CheckResult> {
        // What can be repaired, the log, was when the image was opened.
        Box::pin(self.check_blocks())
    }

    fn reopen(&self, options: Options, read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if let Some((name, _)) = options.iter().next() {
                return Err(Error::invalid(format!("Cannot change the option '{name}'")));
            }
            // Readers refuse an image with a log.
            if read_only { self.image.layout.close().await } else { Ok(()) }
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
