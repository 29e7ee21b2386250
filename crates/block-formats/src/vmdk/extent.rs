//! Extents with grains: the header, the grain directories and tables.
//!
//! Two directories lead to two copies of the tables; both are kept up to date. New grains go to the end of the file.
//! A compressed extent holds grains as zlib streams, each behind a marker; it is written once, in whole grains.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use block::{Child, Error, Result};

use crate::bytes::{le16, le32, le64, n, put, u};
use crate::meta::{Level, MetaCache};
use crate::sparse::{Layout, Mapping, run_of};

pub(super) const SECTOR: u64 = 512;
const MAGIC3: &[u8] = b"COWD";
pub(super) const MAGIC4: &[u8] = b"KDMV";
const GD_AT_END: u64 = u64::MAX;
const MAX_GRAIN: u64 = 0x20_0000;
const MAX_DIRECTORY: u64 = 32 << 20;
const MARKER_FOOTER: u32 = 3;

pub(super) const FLAG_NEWLINES: u32 = 1;
pub(super) const FLAG_RGD: u32 = 2;
pub(super) const FLAG_ZERO_GRAIN: u32 = 4;
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
pub(super) const FLAG_MARKERS: u32 = 1 << 17;

/// What a header says. Offsets and sizes in sectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) descriptor: u64,
    pub(super) descriptor_len: u64,
    pub(super) entries: u64,
    pub(super) rgd: u64,
    pub(super) gd: u64,
    pub(super) data: u64,
    pub(super) compression: u16,
}

impl Header {
    /// Bytes of a version 4 header.
    pub(super) const LEN: usize = 512;

    pub(super) fn parse4(bytes: &[u8]) -> Self {
        Self {
            version: le32(bytes, 4),
            flags: le32(bytes, 8),
            capacity: le64(bytes, 12),
            grain: le64(bytes, 20),
            descriptor: le64(bytes, 28),
            descriptor_len: le64(bytes, 36),
            entries: le32(bytes, 44).into(),
            rgd: le64(bytes, 48),
            gd: le64(bytes, 56),
            data: le64(bytes, 64),
            compression: le16(bytes, 77),
        }
    }

    /// A header of ESX server's version 3.
    fn parse3(bytes: &[u8]) -> Self {
        Self {
            version: le32(bytes, 4),
            flags: 0,
            capacity: le32(bytes, 12).into(),
            grain: le32(bytes, 16).into(),
            gd: le32(bytes, 20).into(),
            entries: 4096,
            ..Self::default()
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::LEN];
        put(&mut bytes, 0, MAGIC4);
        put(&mut bytes, 4, &self.version.to_le_bytes());
        put(&mut bytes, 8, &self.flags.to_le_bytes());
        for (at, value) in [
            (12, self.capacity),
            (20, self.grain),
            (28, self.descriptor),
            (36, self.descriptor_len),
            (48, self.rgd),
            (56, self.gd),
            (64, self.data),
        ] {
            put(&mut bytes, at, &value.to_le_bytes());
        }
        put(&mut bytes, 44, &u32::try_from(self.entries).unwrap_or(0).to_le_bytes());
        put(&mut bytes, 73, b"\n \r\n");
        put(&mut bytes, 77, &self.compression.to_le_bytes());
        bytes
    }

    /// Reads and checks the header of a file with grains.
    pub(super) async fn read(file: &Child, read_only: bool) -> Result<Self> {
        let bytes = file.read_vec(0, Self::LEN).await?;
        if bytes.starts_with(MAGIC3) {
            let header = Self::parse3(&bytes);
            header.check(file)?;
            return Ok(header);
        }
        if !bytes.starts_with(MAGIC4) {
            return Err(Error::invalid("Image not in VMDK format"));
        }
        let mut header = Self::parse4(&bytes);
        if header.capacity == 0 && header.descriptor != 0 {
            return Ok(header);
        }
        if header.gd == GD_AT_END {
            header = Self::read_footer(file).await?;
        }
        let compressed = header.flags & FLAG_COMPRESSED != 0;
        if header.version > 3 {
            return Err(Error::unsupported(format!("Unsupported VMDK version {}", header.version)));
        }
        if header.version == 3 && !read_only && !compressed {
            return Err(Error::invalid("VMDK version 3 must be read only"));
        }
        if compressed && header.compression != 1 {
            return Err(Error::unsupported(format!("Unsupported compression algorithm {}", header.compression)));
        }
        header.check(file)?;
        let needed = header.data.checked_mul(SECTOR).filter(|needed| *needed <= file.len());
        if needed.is_none() {
            let needed = header.data.saturating_mul(SECTOR);
            return Err(Error::invalid(format!("File truncated, expecting at least {needed} bytes")));
        }
        Ok(header)
    }

    /// A stream has its directory at the end, and a copy of the header that knows where.
    async fn read_footer(file: &Child) -> Result<Self> {
        let start = file.len().checked_sub(1536).ok_or_else(|| Error::invalid("Failed to read footer"))?;
        let bytes = file.read_vec(start, 1536).await.map_err(|e| e.context("Failed to read footer"))?;
        let (marker, rest) = bytes.split_at(512);
        let (footer, end) = rest.split_at(512);
        let is_marker = le32(marker, 8) == 0 && le32(marker, 12) == MARKER_FOOTER;
        let is_end = le64(end, 0) == 0 && le32(end, 8) == 0 && le32(end, 12) == 0;
        if !is_marker || !is_end || !footer.starts_with(MAGIC4) {
            return Err(Error::invalid("Invalid footer"));
        }
        let header = Self::parse4(footer);
        if header.gd == GD_AT_END {
            return Err(Error::invalid("Invalid footer"));
        }
        Ok(header)
    }

    fn check(&self, file: &Child) -> Result<()> {
        if self.entries > if self.version3() { 4096 } else { 512 } {
            return Err(Error::invalid("L2 table size too big"));
        }
        if self.grain > MAX_GRAIN {
            return Err(Error::too_big("Invalid granularity, image may be corrupt"));
        }
        let covered = self.entries * self.grain;
        if covered == 0 {
            return Err(Error::invalid("L1 entry size is invalid"));
        }
        if self.capacity > i64::MAX as u64 / SECTOR || self.capacity.div_ceil(covered) > MAX_DIRECTORY {
            return Err(Error::too_big("L1 size too big"));
        }
        let directory = self.capacity.div_ceil(covered) * 4;
        let inside = |sector: u64| {
            let end = sector.checked_mul(SECTOR).and_then(|start| start.checked_add(directory));
            sector != 0 && end.is_some_and(|end| end <= file.len().next_multiple_of(SECTOR))
        };
        if !inside(self.gd) {
            return Err(Error::invalid("Could not read l1 table from extent: it lies outside of the file"));
        }
        if self.flags & FLAG_RGD != 0 && !inside(self.rgd) {
            return Err(Error::invalid("Could not read l1 backup table from extent: it lies outside of the file"));
        }
        Ok(())
    }

    fn version3(&self) -> bool {
        self.entries == 4096 && self.data == 0
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }
}

/// The tables of an extent with grains.
pub(super) struct Grains {
    file: Arc<Child>,
    pub(super) meta: MetaCache,
    pub(super) header: Header,
    /// Where the next grain goes, bytes.
    next: Mutex<u64>,
}

impl Grains {
    pub(super) fn new(file: Arc<Child>, header: Header) -> Self {
        let grain = header.grain * SECTOR;
        let next = if header.is_compressed() {
            file.len().next_multiple_of(SECTOR)
        } else {
            file.len().next_multiple_of(grain)
        };
        Self { meta: MetaCache::new(Arc::clone(&file)), file, header, next: Mutex::new(next) }
    }

    fn has_zero_grains(&self) -> bool {
        self.header.flags & FLAG_ZERO_GRAIN != 0
    }

    fn mapping(&self, entry: u32) -> Mapping {
        match entry {
            0 => Mapping::Unallocated,
            1 if self.has_zero_grains() => Mapping::Zero,
            sector if self.header.is_compressed() => Mapping::Compressed(u64::from(sector) * SECTOR),
            sector => Mapping::Data(u64::from(sector) * SECTOR),
        }
    }

    /// Where the table for a grain is, by one of the two directories; `None` if there is none.
    async fn table(&self, directory: u64, grain: u64) -> Result<Option<u64>> {
        let entry = directory * SECTOR + grain / self.header.entries * 4;
        let sector = le32(&self.meta.get::<4>(entry).await?, 0);
        let start = u64::from(sector) * SECTOR;
        if sector == 0 {
            return Ok(None);
        }
        if start + self.header.entries * 4 > self.file.len().next_multiple_of(SECTOR) {
            return Err(Error::io("A grain table lies behind the end of the file"));
        }
        Ok(Some(start))
    }

    async fn set_entries(&self, grain: u64, entries: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let index = grain % self.header.entries * 4;
        let Some(table) = self.table(self.header.gd, grain).await? else {
            return Err(Error::io("The image has no grain table for this range"));
        };
        if self.header.flags & FLAG_RGD != 0
            && let Some(copy) = self.table(self.header.rgd, grain).await?
        {
            self.meta.write(Level::First, copy + index, &bytes).await?;
        }
        self.meta.write(Level::First, table + index, &bytes).await?;
        if self.meta.is_full() { self.meta.flush().await } else { Ok(()) }
    }

    fn take_room(&self, len: u64) -> Result<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *next;
        if (start + len) / SECTOR > u64::from(u32::MAX) {
            return Err(Error::no_space("The VMDK extent can't grow beyond 2 TiB"));
        }
        *next = start + len;
        Ok(start)
    }

    /// Stores a whole grain compressed. It must not have been stored before.
    pub(super) async fn write_compressed(&self, grain: u64, data: Vec<u8>) -> Result<()> {
        if self.map(grain, 1).await?.0 != Mapping::Unallocated {
            return Err(Error::io("Could not write to allocated cluster for streamOptimized"));
        }
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&data)?;
        let packed = encoder.finish()?;
        let mut stored = vec![0; 12];
        put(&mut stored, 0, &(grain * self.header.grain).to_le_bytes());
        put(&mut stored, 8, &u32::try_from(packed.len()).unwrap_or(0).to_le_bytes());
        if self.header.flags & FLAG_MARKERS == 0 {
            stored.clear();
        }
        stored.extend_from_slice(&packed);
        stored.resize(stored.len().next_multiple_of(n(SECTOR)), 0);
        let at = self.take_room(u(stored.len()))?;
        self.file.write_bytes(at, &stored).await?;
        self.link(grain, 1, at).await
    }

    /// The first grain whose place is behind the end of the file, for checks; and how many grains have a place.
    pub(super) async fn find_outside(&self) -> Result<Option<u64>> {
        let grains = self.header.capacity.div_ceil(self.header.grain);
        let mut grain = 0;
        while grain < grains {
            let (mapping, count) = self.map(grain, grains - grain).await?;
            if let Mapping::Data(at) | Mapping::Compressed(at) = mapping
                && at + (count - 1) * self.header.grain * SECTOR >= self.file.len()
            {
                return Ok(Some(grain * self.header.grain));
            }
            grain += count;
        }
        Ok(None)
    }
}

impl Layout for Grains {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        self.header.grain * SECTOR
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let covered = self.header.entries;
        let max = max.min(covered - cluster % covered).max(1);
        let Some(table) = self.table(self.header.gd, cluster).await? else {
            return Ok((Mapping::Unallocated, max));
        };
        let (mapping, count) = self
            .meta
            .view(table + cluster % covered * 4, |bytes| {
                run_of(bytes.chunks_exact(4).map(|entry| self.mapping(le32(entry, 0))), max, self.cluster_size())
            })
            .await?;
        if let Mapping::Data(at) | Mapping::Compressed(at) = mapping
            && at < self.header.data * SECTOR
            && !self.header.is_compressed()
        {
            return Err(Error::io("A grain lies in the image's tables"));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, _cluster: u64, count: u64) -> Result<(u64, u64)> {
        if self.header.is_compressed() {
            return Err(Error::invalid("Compressed VMDK extents are written in whole clusters"));
        }
        Ok((self.take_room(count * self.cluster_size())?, count))
    }

    fn release(&self, host: u64, count: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if host + count * self.cluster_size() == *next {
            *next = host;
        }
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let end = host + count * self.cluster_size();
        if !self.header.is_compressed() && self.file.len() < end {
            self.file.write_bytes(end - 1, &[0]).await?;
        }
        let entries: Vec<u32> =
            (0..count).map(|index| u32::try_from((host + index * self.cluster_size()) / SECTOR).unwrap_or(0)).collect();
        self.set_entries(cluster, &entries).await
    }

    fn has_zero_marks(&self) -> bool {
        self.has_zero_grains() && !self.header.is_compressed()
    }

    async fn link_zero(&self, cluster: u64, count: u64) -> Result<()> {
        self.set_entries(cluster, &vec![1; n(count)]).await
    }

    async fn read_compressed(&self, _cluster: u64, at: u64) -> Result<Vec<u8>> {
        let size = self.cluster_size();
        let (start, len) = if self.header.flags & FLAG_MARKERS != 0 {
            let marker = self.file.read_vec(at, 12).await?;
            (at + 12, le32(&marker, 8).into())
        } else {
            (at, size + SECTOR)
        };
        if len == 0 || len > size * 2 || start >= self.file.len() {
            return Err(Error::io("A compressed grain is corrupt"));
        }
        let packed = self.file.read_vec(start, n(len)).await?;
        let mut data = Vec::with_capacity(n(size));
        flate2::read::ZlibDecoder::new(&packed[..])
            .take(size)
            .read_to_end(&mut data)
            .map_err(|_| Error::io("A compressed grain is corrupt"))?;
        // The last grain may be shorter.
        data.resize(n(size), 0);
        Ok(data)
    }
}
