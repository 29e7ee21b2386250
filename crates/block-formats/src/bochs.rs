//! `bochs`, the growing disks of Bochs ("Redolog", "Growing"), read only.
//!
//! A header, a catalog of extents, and extents that each begin with a bitmap of their sectors. Specification: the header
//! description in Bochs' documentation of disk image modes.

use std::any::Any;
use std::sync::Arc;

use block::image::ImageDetails;
use block::open::OpenRequest;
use block::request::BlockStatus;
use block::{Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result};
use iobuf::IoBuf;

use crate::bytes::{le32, le64, n, part, u};
use crate::meta::MetaCache;

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"Bochs Virtual HD Image";
const TYPE: &[u8] = b"Redolog";
const SUBTYPE: &[u8] = b"Growing";
const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;
const MAX_CATALOG: u32 = 0x10_0000;
const MAX_EXTENT: u32 = 0x80_0000;
const UNALLOCATED: u32 = 0xffff_ffff;

/// The driver `bochs`.
pub struct BochsType;

struct Bochs {
    file: Arc<Child>,
    meta: MetaCache,
    catalog: u64,
    data: u64,
    size: u64,
    extent: u64,
    bitmap_sectors: u64,
}

fn is_text(bytes: &[u8], at: usize, len: usize, text: &[u8]) -> bool {
    let field = part(bytes, at, len);
    field.starts_with(text) && field.get(text.len()).is_none_or(|byte| *byte == 0)
}

fn is_image(head: &[u8]) -> bool {
    is_text(head, 0, 32, MAGIC)
        && is_text(head, 32, 16, TYPE)
        && is_text(head, 48, 16, SUBTYPE)
        && [VERSION_1, VERSION_2].contains(&le32(head, 64))
}

impl DriverType for BochsType {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.len() >= 512 && is_image(head) { 100 } else { 0 }
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = crate::readonly::file(request).await?;
            Ok(Arc::new(Bochs::open(file).await?) as Arc<dyn Driver>)
        })
    }
}

impl Bochs {
    async fn open(file: Arc<Child>) -> Result<Self> {
        let head = file.read_vec(0, 512).await?;
        if !is_image(&head) {
            return Err(Error::invalid("Image not in Bochs format"));
        }
        let (header, catalog) = (le32(&head, 68), le32(&head, 72));
        let (bitmap, extent) = (le32(&head, 76), le32(&head, 80));
        let size = le64(&head, if le32(&head, 64) == VERSION_1 { 84 } else { 88 }) / SECTOR * SECTOR;
        if catalog > MAX_CATALOG {
            return Err(Error::too_big("Catalog size is too large"));
        }
        if extent < 512 {
            return Err(Error::invalid("Extent size must be at least 512"));
        }
        if !extent.is_power_of_two() {
            return Err(Error::invalid(format!("Extent size {extent} is not a power of two")));
        }
        if extent > MAX_EXTENT {
            return Err(Error::invalid(format!("Extent size {extent} is too large")));
        }
        if u64::from(catalog) < size.div_ceil(extent.into()) {
            return Err(Error::invalid("Catalog size is too small for this disk size"));
        }
        let bitmap_sectors = u64::from(bitmap).div_ceil(SECTOR).max(1);
        if bitmap_sectors * SECTOR * 8 < u64::from(extent) / SECTOR {
            return Err(Error::invalid("The bitmaps of the extents are too small"));
        }
        let data = u64::from(header) + u64::from(catalog) * 4;
        if data > file.len().next_multiple_of(SECTOR) {
            return Err(Error::invalid("The catalog lies behind the end of the file"));
        }
        let meta = MetaCache::new(Arc::clone(&file));
        Ok(Self { file, meta, catalog: header.into(), data, size, extent: extent.into(), bitmap_sectors })
    }

    /// Where a sector is, and for how many sectors it goes on in the same way, at most to the end of its extent.
    async fn find(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        let within = offset % self.extent;
        let max = (self.extent - within).min(len);
        let entry = le32(&self.meta.get::<4>(self.catalog + offset / self.extent * 4).await?, 0);
        if entry == UNALLOCATED {
            return Ok((None, max));
        }
        let sectors = self.extent / SECTOR + self.bitmap_sectors;
        let start = u64::from(entry).checked_mul(sectors * SECTOR).and_then(|start| start.checked_add(self.data));
        let start = start.filter(|start| *start < i64::MAX as u64 / 2);
        let start = start.ok_or_else(|| Error::io("An extent lies at a wrong place"))?;
        let sector = within / SECTOR;
        let last = (within + max - 1) / SECTOR;
        let mut bitmap = vec![0; n(last / 8 - sector / 8 + 1)];
        self.meta.read(start + sector / 8, &mut bitmap).await?;
        let is_set = |at: u64| bitmap[n(at / 8 - sector / 8)] >> (at % 8) & 1 != 0;
        let first = is_set(sector);
        let mut count = 1;
        while sector + count <= last && is_set(sector + count) == first {
            count += 1;
        }
        let len = (count * SECTOR - offset % SECTOR).min(max);
        let place = first.then_some(start + self.bitmap_sectors * SECTOR + within);
        Ok((place, len))
    }
}

impl Driver for Bochs {
    fn len(&self) -> u64 {
        self.size
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                let (place, len) = self.find(offset + u(done), u(buf.len() - done)).await?;
                match place {
                    Some(place) => self.file.read(place, buf.slice(done, n(len))).await?,
                    None => buf.fill(done, n(len), 0),
                }
                done += n(len);
            }
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            Ok(match self.find(offset, len).await? {
                (Some(place), len) => BlockStatus::data(len, Some(place)),
                (None, len) => BlockStatus::zero(len),
            })
        })
    }

    fn details(&self) -> ImageDetails {
        ImageDetails { unallocated_is_zero: true, ..ImageDetails::default() }
    }

    fn reopen(&self, _options: Options, read_only: bool) -> IoFuture<'_> {
        crate::readonly::reopen(read_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
