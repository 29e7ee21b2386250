//! `dmg`, the disk images of macOS (UDIF), read only.
//!
//! A trailer of 512 bytes says where a property list (or a resource fork) with tables of chunks is; a chunk holds
//! sectors as they are, zero, or packed with ADC, zlib or bzip2. Specification: there is none of Apple's; the layout is
//! that of "Demystifying the DMG File Format" (J. Levin). Left out: lzfse and lzma (reading such a chunk fails), images
//! in several segments, encryption.

mod tables;

use std::any::Any;
use std::sync::Arc;

use block::image::ImageDetails;
use block::open::OpenRequest;
use block::request::BlockStatus;
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result};
use iobuf::IoBuf;

use crate::bytes::{be64, n, u};
use crate::readonly::{Recent, unpack};
use tables::{Chunk, Packing};

const SECTOR: u64 = 512;
const TRAILER: u64 = 512;
/// The longest property list or resource fork, bytes.
const MAX_TABLES: u64 = 16 << 20;

/// The driver `dmg`.
pub struct DmgType;

struct Dmg {
    file: Arc<Child>,
    sectors: u64,
    /// By their first sectors.
    chunks: Vec<Chunk>,
    recent: Recent<4>,
}

impl DriverType for DmgType {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, _head: &[u8], filename: &str) -> u32 {
        // What tells is at the end of the file.
        if filename.ends_with(".dmg") { 2 } else { 0 }
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = crate::readonly::file(request).await?;
            Ok(Arc::new(Dmg::open(file).await?) as Arc<dyn Driver>)
        })
    }
}

/// Where the trailer is: in the last 512 bytes, or a little before.
async fn find_trailer(file: &Child) -> Result<u64> {
    let len = file.len();
    if len < TRAILER {
        return Err(Error::invalid("dmg file must be at least 512 bytes long"));
    }
    let start = len.saturating_sub(TRAILER + 511);
    let bytes =
        file.read_vec(start, n(len - start)).await.map_err(|e| e.context("Failed while reading UDIF trailer"))?;
    let last = bytes.len() - n(TRAILER);
    let at = (0..=last).rev().find(|at| bytes[*at..].starts_with(b"koly"));
    at.map(|at| start + u(at)).ok_or_else(|| Error::invalid("Could not locate UDIF trailer in dmg file"))
}

impl Dmg {
    async fn open(file: Arc<Child>) -> Result<Self> {
        let at = find_trailer(&file).await?;
        let trailer = file.read_vec(at, n(TRAILER)).await?;
        let data_fork = be64(&trailer, 0x18);
        let (fork, fork_len) = (be64(&trailer, 0x28), be64(&trailer, 0x30));
        let (list, list_len) = (be64(&trailer, 0xd8), be64(&trailer, 0xe0));
        let sectors = be64(&trailer, 0x1ec);
        if sectors > i64::MAX as u64 / SECTOR {
            return Err(Error::too_big("The disk is too large"));
        }
        let inside = |start: u64, len: u64| len <= MAX_TABLES && start.checked_add(len).is_some_and(|end| end <= at);
        let blocks = if fork_len != 0 {
            if !inside(fork, fork_len) {
                return Err(Error::invalid("The resource fork lies outside of the file"));
            }
            tables::from_fork(&file.read_vec(fork, n(fork_len)).await?)?
        } else if list_len != 0 {
            if !inside(list, list_len) {
                return Err(Error::invalid("The property list lies outside of the file"));
            }
            tables::from_list(&file.read_vec(list, n(list_len)).await?)?
        } else {
            return Err(Error::invalid("The dmg file has no tables of chunks"));
        };
        let mut chunks = Vec::new();
        for block in &blocks {
            tables::parse(block, data_fork, &mut chunks)?;
        }
        chunks.sort_by_key(|chunk| chunk.sector);
        if chunks.windows(2).any(|pair| pair[0].sector + pair[0].count > pair[1].sector) {
            return Err(Error::invalid("Chunks of the dmg file overlap"));
        }
        if chunks.iter().any(|chunk| chunk.offset.checked_add(chunk.len).is_none_or(|end| end > i64::MAX as u64)) {
            return Err(Error::invalid("A chunk of the dmg file has a wrong place"));
        }
        Ok(Self { file, sectors, chunks, recent: Recent::default() })
    }

    /// The chunk of a sector, or how many sectors there are before the next one.
    fn find(&self, sector: u64) -> std::result::Result<(usize, &Chunk), u64> {
        let next = self.chunks.partition_point(|chunk| chunk.sector <= sector);
        if let Some(index) = next.checked_sub(1)
            && let Some(chunk) = self.chunks.get(index)
            && sector < chunk.sector + chunk.count
        {
            return Ok((index, chunk));
        }
        Err(self.chunks.get(next).map_or(u64::MAX, |chunk| chunk.sector - sector))
    }

    async fn unpacked(&self, index: usize, chunk: &Chunk) -> Result<Arc<Vec<u8>>> {
        if let Some(data) = self.recent.get(u(index)) {
            return Ok(data);
        }
        if chunk.offset + chunk.len > self.file.len() {
            return Err(Error::io("A chunk lies behind the end of the file"));
        }
        let packed = self.file.read_vec(chunk.offset, n(chunk.len)).await?;
        let (packing, len) = (chunk.packing, chunk.count * SECTOR);
        let data = aio::spawn_blocking(move || match packing {
            Packing::Zlib => unpack(flate2::read::ZlibDecoder::new(&packed[..]), len),
            Packing::Bzip2 => unpack(bzip2::read::BzDecoder::new(&packed[..]), len),
            Packing::Adc => tables::unpack_adc(&packed, n(len)),
            Packing::Zero | Packing::Raw | Packing::Unknown(_) => Err(Error::io("A chunk is not packed")),
        });
        let data = Arc::new(data.await?);
        self.recent.put(u(index), &data);
        Ok(data)
    }

    async fn read_part(&self, offset: u64, buf: &IoBuf) -> Result<usize> {
        let sector = offset / SECTOR;
        let (index, chunk) = match self.find(sector) {
            Ok(found) => found,
            Err(gap) => {
                let len = n(gap.saturating_mul(SECTOR).saturating_sub(offset % SECTOR)).min(buf.len());
                buf.fill(0, len, 0);
                return Ok(len);
            }
        };
        let within = offset - chunk.sector * SECTOR;
        let len = n(chunk.count * SECTOR - within).min(buf.len());
        let part = buf.slice(0, len);
        match chunk.packing {
            Packing::Zero => part.fill(0, len, 0),
            Packing::Raw => {
                let stored = n(chunk.len.saturating_sub(within)).min(len);
                self.file.read(chunk.offset + within, part.slice(0, stored)).await?;
                part.fill(stored, len - stored, 0);
            }
            Packing::Unknown(kind) => {
                let name = match kind {
                    0x8000_0007 => "lzfse",
                    0x8000_0008 => "lzma",
                    _ => "unknown",
                };
                return Err(Error::unsupported(format!(
                    "The dmg image has chunks with {name} compression (type 0x{kind:x}), which is not supported"
                )));
            }
            Packing::Zlib | Packing::Bzip2 | Packing::Adc => {
                let data = self.unpacked(index, chunk).await?;
                part.write_at(0, &data[n(within)..n(within) + len]);
            }
        }
        Ok(len)
    }
}

impl Driver for Dmg {
    fn len(&self) -> u64 {
        self.sectors * SECTOR
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                done += self.read_part(offset + u(done), &buf.slice(done, buf.len() - done)).await?;
            }
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        let status = match self.find(offset / SECTOR) {
            Ok((_, chunk)) => {
                let within = offset - chunk.sector * SECTOR;
                let len = (chunk.count * SECTOR - within).min(len);
                match chunk.packing {
                    Packing::Zero => BlockStatus::zero(len),
                    Packing::Raw => BlockStatus::data(len, Some(chunk.offset + within)),
                    _ => BlockStatus { compressed: true, ..BlockStatus::data(len, None) },
                }
            }
            Err(gap) => BlockStatus::zero(gap.saturating_mul(SECTOR).saturating_sub(offset % SECTOR).min(len)),
        };
        block::done(status)
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
