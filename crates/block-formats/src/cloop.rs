//! `cloop`, the compressed loop devices of Knoppix, version 2, read only.
//!
//! A shell script of 128 bytes, the size and number of blocks, where each begins, and the blocks as zlib streams.

use std::any::Any;
use std::sync::Arc;

use block::image::ImageDetails;
use block::open::OpenRequest;
use block::request::BlockStatus;
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result};
use iobuf::IoBuf;

use crate::bytes::{be32, be64, n, u};
use crate::meta::MetaCache;
use crate::readonly::{Recent, unpack};

const SCRIPT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
const MAX_BLOCK: u32 = 64 << 20;
const MAX_BLOCKS: u32 = 536_870_911;
const MAX_OFFSETS: u64 = 512 << 20;
const OFFSETS: u64 = 136;

/// The driver `cloop`.
pub struct CloopType;

struct Cloop {
    file: Arc<Child>,
    meta: MetaCache,
    block_size: u64,
    blocks: u64,
    recent: Recent<2>,
}

impl DriverType for CloopType {
    fn name(&self) -> &'static str {
        "cloop"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.starts_with(SCRIPT) { 2 } else { 0 }
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = crate::readonly::file(request).await?;
            Ok(Arc::new(Cloop::open(file).await?) as Arc<dyn Driver>)
        })
    }
}

impl Cloop {
    async fn open(file: Arc<Child>) -> Result<Self> {
        let head = file.read_vec(128, 8).await?;
        let (block_size, blocks) = (be32(&head, 0), be32(&head, 4));
        if block_size == 0 {
            return Err(Error::invalid("block_size cannot be zero"));
        }
        if !block_size.is_multiple_of(512) {
            return Err(Error::invalid(format!("block_size {block_size} must be a multiple of 512")));
        }
        if block_size > MAX_BLOCK {
            return Err(Error::invalid(format!("block_size {block_size} must be {} MB or less", MAX_BLOCK >> 20)));
        }
        if blocks > MAX_BLOCKS {
            return Err(Error::invalid(format!("n_blocks {blocks} must be {MAX_BLOCKS} or less")));
        }
        let offsets = (u64::from(blocks) + 1) * 8;
        if offsets > MAX_OFFSETS {
            return Err(Error::invalid("image requires too many offsets, try increasing block size"));
        }
        if OFFSETS + offsets > file.len() {
            return Err(Error::invalid("The offsets lie behind the end of the file"));
        }
        check_offsets(&file, offsets).await?;
        let meta = MetaCache::new(Arc::clone(&file));
        Ok(Self { file, meta, block_size: block_size.into(), blocks: blocks.into(), recent: Recent::default() })
    }

    async fn block(&self, index: u64) -> Result<Arc<Vec<u8>>> {
        if let Some(data) = self.recent.get(index) {
            return Ok(data);
        }
        let bounds = self.meta.get::<16>(OFFSETS + index * 8).await?;
        let (start, end) = (be64(&bounds, 0), be64(&bounds, 8));
        let len = end.checked_sub(start).filter(|len| *len <= 2 * u64::from(MAX_BLOCK));
        let len = len.ok_or_else(|| Error::io("A block has a wrong place"))?;
        if start.checked_add(len).is_none_or(|end| end > self.file.len().next_multiple_of(512)) {
            return Err(Error::io("A block lies behind the end of the file"));
        }
        let packed = self.file.read_vec(start, n(len)).await?;
        let size = self.block_size;
        let data = aio::spawn_blocking(move || unpack(flate2::read::ZlibDecoder::new(&packed[..]), size)).await?;
        let data = Arc::new(data);
        self.recent.put(index, &data);
        Ok(data)
    }
}

async fn check_offsets(file: &Child, len: u64) -> Result<()> {
    let (mut at, mut index, mut last) = (0, 0u64, 0);
    while at < len {
        let chunk = file.read_vec(OFFSETS + at, n((len - at).min(1 << 20))).await?;
        for offset in chunk.chunks_exact(8).map(|offset| be64(offset, 0)) {
            if index != 0 && offset < last {
                return Err(Error::invalid(format!(
                    "offsets not monotonically increasing at index {index}, image file is corrupt"
                )));
            }
            if index != 0 && offset - last > 2 * u64::from(MAX_BLOCK) {
                return Err(Error::invalid(format!(
                    "invalid compressed block size at index {index}, image file is corrupt"
                )));
            }
            (last, index) = (offset, index + 1);
        }
        at += u(chunk.len());
    }
    Ok(())
}

impl Driver for Cloop {
    fn len(&self) -> u64 {
        self.blocks * self.block_size
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = offset + u(done);
                let within = at % self.block_size;
                let len = n(self.block_size - within).min(buf.len() - done);
                let data = self.block(at / self.block_size).await?;
                buf.write_at(done, &data[n(within)..n(within) + len]);
                done += len;
            }
            Ok(())
        })
    }

    fn block_status(&self, _offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        block::done(BlockStatus::data(len, None))
    }

    fn details(&self) -> ImageDetails {
        ImageDetails::default()
    }

    fn reopen(&self, _options: Options, read_only: bool) -> IoFuture<'_> {
        crate::readonly::reopen(read_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
