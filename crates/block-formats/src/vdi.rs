//! `vdi`, the format of VirtualBox, version 1.1.
//!
//! A header of 512 bytes, a table of 32-bit block numbers, and blocks of 1 MiB. A number of all ones is a block that
//! was never written, all ones but the last bit one that was zeroed. Specification: the description of the format by
//! its authors (VirtualBox forum, "All about VDIs"). Left out: differencing images (refused), other block sizes.
//!
//! The header counts the allocated blocks, and other programs put the next block there: so the count is written before
//! the table (the first [`Level`]), and the table after it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::image::{CheckResult, FixMode, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{le32, le64, n, part, put, u, uuid};
use crate::meta::{Level, MetaCache};
use crate::sparse::{Layout, Mapping, Sparse, run_of};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const SECTOR: u64 = 512;
const BLOCK: u64 = 1 << 20;
const MAX_BLOCKS: u64 = 0x1fff_ff80;
const MAX_SIZE: u64 = MAX_BLOCKS * BLOCK;
const UNALLOCATED: u32 = 0xffff_ffff;
const DISCARDED: u32 = 0xffff_fffe;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_STATIC: u32 = 2;

// Offsets of the header's fields.
const AT_SIGNATURE: usize = 0x40;
const AT_VERSION: usize = 0x44;
const AT_HEADER_SIZE: usize = 0x48;
const AT_TYPE: usize = 0x4c;
const AT_OFFSET_BMAP: usize = 0x154;
const AT_OFFSET_DATA: usize = 0x158;
const AT_SECTOR_SIZE: usize = 0x168;
const AT_DISK_SIZE: usize = 0x170;
const AT_BLOCK_SIZE: usize = 0x178;
const AT_BLOCKS: usize = 0x180;
const AT_ALLOCATED: usize = 0x184;
const AT_UUID_IMAGE: usize = 0x188;
const AT_UUID_SNAP: usize = 0x198;
const AT_UUID_LINK: usize = 0x1a8;
const AT_UUID_PARENT: usize = 0x1b8;

/// The driver `vdi`.
pub struct VdiType;

const CREATE_OPTIONS: &[CreateOption] = &[
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "static",
        kind: CreateOptionKind::Bool,
        help: "VDI static (pre-allocated) image",
        default: Some("off"),
    },
];

struct Header {
    is_static: bool,
    offset_bmap: u64,
    offset_data: u64,
    disk_size: u64,
    blocks: u32,
    allocated: u32,
}

impl Header {
    /// `file_len` is none if only the header is wanted: then the block map may be anywhere.
    fn parse(bytes: &[u8], file_len: Option<u64>) -> Result<Self> {
        let disk_size = le64(bytes, AT_DISK_SIZE);
        if disk_size > MAX_SIZE {
            return Err(too_large(disk_size));
        }
        if le32(bytes, AT_SIGNATURE) != SIGNATURE {
            let found = le32(bytes, AT_SIGNATURE);
            return Err(Error::invalid(format!("Image not in VDI format (bad signature {found:08x})")));
        }
        let refused = |text: String| Err(Error::unsupported(format!("unsupported VDI image ({text})")));
        let version = le32(bytes, AT_VERSION);
        if version != VERSION {
            return refused(format!("version {}.{}", version >> 16, version & 0xffff));
        }
        let (offset_bmap, offset_data) = (le32(bytes, AT_OFFSET_BMAP), le32(bytes, AT_OFFSET_DATA));
        if u64::from(offset_bmap) % SECTOR != 0 {
            return refused(format!("unaligned block map offset 0x{offset_bmap:x}"));
        }
        if u64::from(offset_data) % SECTOR != 0 {
            return refused(format!("unaligned data offset 0x{offset_data:x}"));
        }
        let sector_size = le32(bytes, AT_SECTOR_SIZE);
        if u64::from(sector_size) != SECTOR {
            return refused(format!("sector size {sector_size} is not {SECTOR}"));
        }
        let block_size = le32(bytes, AT_BLOCK_SIZE);
        if u64::from(block_size) != BLOCK {
            return refused(format!("block size {block_size} is not {BLOCK}"));
        }
        let disk_size = disk_size.next_multiple_of(SECTOR);
        let blocks = le32(bytes, AT_BLOCKS);
        let room = u64::from(blocks) * BLOCK;
        if disk_size > room {
            return refused(format!("disk size {disk_size}, image bitmap has room for {room}"));
        }
        if part(bytes, AT_UUID_LINK, 16).iter().any(|byte| *byte != 0) {
            return refused("non-NULL link UUID".to_owned());
        }
        if part(bytes, AT_UUID_PARENT, 16).iter().any(|byte| *byte != 0) {
            return refused("non-NULL parent UUID".to_owned());
        }
        if u64::from(blocks) > MAX_BLOCKS {
            return refused(format!("too many blocks {blocks}, max is {MAX_BLOCKS}"));
        }
        let (offset_bmap, offset_data) = (u64::from(offset_bmap), u64::from(offset_data));
        let bmap_end = offset_bmap + u64::from(blocks) * 4;
        if let Some(file_len) = file_len {
            if offset_bmap < SECTOR || offset_data < bmap_end {
                return refused("block map and data overlap".to_owned());
            }
            if bmap_end > file_len.next_multiple_of(SECTOR) {
                return Err(Error::invalid("The block map lies behind the end of the file"));
            }
        }
        let is_static = le32(bytes, AT_TYPE) == TYPE_STATIC;
        Ok(Self { is_static, offset_bmap, offset_data, disk_size, blocks, allocated: le32(bytes, AT_ALLOCATED) })
    }
}

fn too_large(size: u64) -> Error {
    Error::unsupported(format!("Unsupported VDI image size (size is 0x{size:x}, max supported is 0x{MAX_SIZE:x})"))
}

struct VdiLayout {
    file: Arc<Child>,
    meta: MetaCache,
    header: Header,
    blocks: Mutex<Blocks>,
}

/// Where new blocks go, in blocks.
struct Blocks {
    /// The first that nobody has reserved.
    next: u32,
    /// The first behind all that the table leads to.
    linked: u32,
}

impl VdiLayout {
    fn mapping(&self, entry: u32) -> Mapping {
        match entry {
            UNALLOCATED => Mapping::Unallocated,
            DISCARDED => Mapping::Zero,
            block => Mapping::Data(self.header.offset_data + u64::from(block) * BLOCK),
        }
    }

    fn entry_offset(&self, block: u64) -> u64 {
        self.header.offset_bmap + block * 4
    }

    /// Calls `visit` with each entry of the table.
    async fn each_entry(&self, mut visit: impl FnMut(u32, u32)) -> Result<()> {
        let mut block = 0;
        while block < self.header.blocks {
            let count = (self.header.blocks - block).min(64 << 10);
            let bytes = self.file.read_vec(self.entry_offset(block.into()), count as usize * 4).await?;
            for (index, entry) in bytes.chunks_exact(4).enumerate() {
                visit(block + u32::try_from(index).unwrap_or(0), le32(entry, 0));
            }
            block += count;
        }
        Ok(())
    }

    fn with_blocks<R>(&self, visit: impl FnOnce(&mut Blocks) -> R) -> R {
        visit(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Layout for VdiLayout {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        BLOCK
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let max = max.min(u64::from(self.header.blocks).saturating_sub(cluster));
        if max == 0 {
            return Err(Error::io("The request lies behind the end of the image"));
        }
        let (mapping, count) = self
            .meta
            .view(self.entry_offset(cluster), |bytes| {
                run_of(bytes.chunks_exact(4).map(|entry| self.mapping(le32(entry, 0))), max, BLOCK)
            })
            .await?;
        if let Mapping::Data(host) = mapping
            && host >= self.header.offset_data + u64::from(self.header.blocks) * BLOCK
        {
            return Err(Error::io(format!("VDI block {cluster} lies outside of the image")));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, _cluster: u64, count: u64) -> Result<(u64, u64)> {
        self.with_blocks(|blocks| {
            let count = count.min(u64::from(self.header.blocks.saturating_sub(blocks.next)));
            if count == 0 {
                return Err(Error::no_space("The VDI image has no free blocks"));
            }
            let host = self.header.offset_data + u64::from(blocks.next) * BLOCK;
            blocks.next += u32::try_from(count).unwrap_or(0);
            Ok((host, count))
        })
    }

    fn release(&self, host: u64, count: u64) {
        let block = u32::try_from((host - self.header.offset_data) / BLOCK).unwrap_or(u32::MAX);
        self.with_blocks(|blocks| {
            if u64::from(block) + count == u64::from(blocks.next) {
                blocks.next = block;
            }
        });
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let block = (host - self.header.offset_data) / BLOCK;
        let entries: Vec<u8> = (block..block + count)
            .flat_map(|block| u32::try_from(block).unwrap_or(UNALLOCATED).to_le_bytes())
            .collect();
        // The file reaches to the end of the last block, even if that was written in part.
        let end = host + count * BLOCK;
        if self.file.len() < end {
            self.file.write_bytes(end - 1, &[0]).await?;
        }
        let allocated = self.with_blocks(|blocks| {
            blocks.linked = blocks.linked.max(u32::try_from(block + count).unwrap_or(u32::MAX));
            blocks.linked
        });
        self.meta.write(Level::First, AT_ALLOCATED as u64, &allocated.to_le_bytes()).await?;
        self.meta.write(Level::Second, self.entry_offset(cluster), &entries).await?;
        if self.meta.is_full() { self.meta.flush().await } else { Ok(()) }
    }
}

struct Vdi {
    image: Sparse<VdiLayout>,
}

impl DriverType for VdiType {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.len() >= 512 && le32(head, AT_SIGNATURE) == SIGNATURE { 100 } else { 0 }
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = request.child("file", Role::Storage).await?;
            request.finish()?;
            let file_len = (!request.flags.no_io).then(|| file.len());
            let header = Header::parse(&file.read_vec(0, 512).await?, file_len)?;
            let blocks = Mutex::new(Blocks { next: header.allocated, linked: header.allocated });
            let layout = VdiLayout { meta: MetaCache::new(Arc::clone(&file)), file, header, blocks };
            // Also when it is only read: it may be reopened for writing.
            let mut free = layout.header.allocated;
            layout
                .each_entry(|_, entry| {
                    if entry < layout.header.blocks {
                        free = free.max(entry + 1);
                    }
                })
                .await?;
            layout.with_blocks(|blocks| *blocks = Blocks { next: free, linked: free });
            Ok(Arc::new(Vdi { image: Sparse::new(layout, None, 0) }) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn create(&self, mut request: CreateRequest) -> IoFuture<'static> {
        Box::pin(async move {
            let file = request.target()?;
            // Clients of QMP say it in other words than the command line.
            let is_static = match request.options.take_choice("preallocation", &Preallocation::NAMES)? {
                None => request.options.take_bool("static")?.unwrap_or(false),
                Some(0) => false,
                Some(1) => true,
                Some(_) => return Err(Error::unsupported("Preallocation mode not supported for vdi")),
            };
            let size = request.size;
            request.finish()?;
            create(&file, size, is_static).await
        })
    }
}

async fn create(file: &Child, size: u64, is_static: bool) -> Result<()> {
    if size > MAX_SIZE {
        return Err(too_large(size));
    }
    let blocks = u32::try_from(size.div_ceil(BLOCK)).map_err(|_| too_large(size))?;
    let bmap_len = (u64::from(blocks) * 4).next_multiple_of(SECTOR);
    let offset_data = u32::try_from(SECTOR + bmap_len).map_err(|_| too_large(size))?;
    let mut header = vec![0; n(SECTOR)];
    put(&mut header, 0, b"<<< Ouzel VM Virtual Disk Image >>>\n");
    for (at, value) in [
        (AT_SIGNATURE, SIGNATURE),
        (AT_VERSION, VERSION),
        (AT_HEADER_SIZE, 0x180),
        (AT_TYPE, if is_static { TYPE_STATIC } else { TYPE_DYNAMIC }),
        (AT_OFFSET_BMAP, 0x200),
        (AT_OFFSET_DATA, offset_data),
        (AT_SECTOR_SIZE, 512),
        (AT_BLOCK_SIZE, 1 << 20),
        (AT_BLOCKS, blocks),
        (AT_ALLOCATED, if is_static { blocks } else { 0 }),
    ] {
        put(&mut header, at, &value.to_le_bytes());
    }
    put(&mut header, AT_DISK_SIZE, &size.to_le_bytes());
    put(&mut header, AT_UUID_IMAGE, &uuid());
    put(&mut header, AT_UUID_SNAP, &uuid());
    file.write_bytes(0, &header).await?;
    let mut at = SECTOR;
    let mut block = 0;
    while at < SECTOR + bmap_len {
        let mut table = vec![0; n((SECTOR + bmap_len - at).min(1 << 20))];
        for entry in table.chunks_exact_mut(4) {
            if block < blocks {
                entry.copy_from_slice(&(if is_static { block } else { UNALLOCATED }).to_le_bytes());
            }
            block = block.saturating_add(1);
        }
        file.write_bytes(at, &table).await?;
        at += u(table.len());
    }
    if is_static {
        file.truncate(u64::from(offset_data) + u64::from(blocks) * BLOCK, true, Preallocation::Off).await?;
    }
    Ok(())
}

impl Vdi {
    async fn check_blocks(&self) -> Result<CheckResult> {
        let layout = &self.image.layout;
        let header = &layout.header;
        let mut result = CheckResult { total_clusters: header.blocks.into(), ..CheckResult::default() };
        let mut seen = vec![0u64; (header.blocks as usize).div_ceil(64)];
        let mut allocated = 0u32;
        let mut problems = 0u64;
        let mut messages = Vec::new();
        let mut say = |text: String| {
            problems += 1;
            if messages.len() < 1000 {
                messages.push(text);
            }
        };
        layout
            .each_entry(|block, entry| {
                if entry >= DISCARDED {
                    return;
                }
                if entry >= header.blocks {
                    say(format!("ERROR: block index {block} out of range, is {entry}"));
                    return;
                }
                allocated += 1;
                let (word, bit) = (entry as usize / 64, entry % 64);
                if seen[word] >> bit & 1 != 0 {
                    say(format!("ERROR: block index {block} also used by {entry}"));
                }
                seen[word] |= 1 << bit;
            })
            .await?;
        let counted = le32(&layout.meta.get::<4>(AT_ALLOCATED as u64).await?, 0);
        if allocated != counted {
            say(format!("ERROR: allocated blocks mismatch, is {allocated}, should be {counted}"));
        }
        result.corruptions = problems;
        result.messages = messages;
        result.allocated_clusters = allocated.into();
        Ok(result)
    }
}

impl Driver for Vdi {
    fn len(&self) -> u64 {
        self.image.layout.header.disk_size
    }

    fn limits(&self) -> Limits {
        Limits { zeroes_alignment: 1 << 20, ..Limits::default() }
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
        let flags = ZeroFlags { may_unmap: flags.may_unmap && !self.image.layout.header.is_static, ..flags };
        Box::pin(self.image.write_zeroes(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        if self.image.layout.header.is_static {
            return block::done(());
        }
        Box::pin(self.image.discard(offset, len))
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.meta.flush())
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            let mut status = self.image.block_status(offset, len).await?;
            status.recurse = self.image.layout.header.is_static && status.data;
            Ok(status)
        })
    }

    fn details(&self) -> ImageDetails {
        ImageDetails {
            cluster_size: Some(BLOCK),
            dirty: Some(false),
            unallocated_is_zero: true,
            ..ImageDetails::default()
        }
    }

    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        if fix != FixMode::default() {
            return block::fail(Error::unsupported("VDI images cannot be repaired"));
        }
        Box::pin(self.check_blocks())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
