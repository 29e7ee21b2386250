//! Extents of the type `SESPARSE` of ESX ("space-efficient sparse"), for reading.
//!
//! The format is not documented; these are the facts that its readers agree on. All numbers are little-endian. The
//! constant header leads to a volatile one (which tells of a journal that was not replayed), to a directory of grain
//! tables, to the tables, and to the grains of 4 KiB; directory and tables hold 64-bit entries whose top nibble is a
//! type. Left out: writing, replaying the journal.

use std::sync::Arc;

use block::{Child, Error, Result};

use super::extent::SECTOR;
use crate::bytes::le64;
use crate::meta::MetaCache;
use crate::sparse::{Layout, Mapping, run_of};

const CONSTANT_MAGIC: u64 = 0xcafe_babe;
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x2_0000_0001;
/// Sectors of a grain.
const GRAIN: u64 = 8;
/// Sectors of a grain table.
const TABLE: u64 = 64;
/// Entries of a grain table.
const ENTRIES: u64 = TABLE * SECTOR / 8;
/// The most entries of a directory.
const MAX_DIRECTORY: u64 = 32 << 20;

/// The tables of an extent, and where they are: offsets in bytes.
pub(super) struct SeGrains {
    file: Arc<Child>,
    meta: MetaCache,
    /// Size of the extent, sectors.
    pub(super) capacity: u64,
    directory: u64,
    directory_entries: u64,
    tables: u64,
    grains: u64,
}

/// What the constant header must say at these places (bytes), and what is said otherwise.
const FIXED: [(usize, u64, &str); 5] = [
    (0, CONSTANT_MAGIC, "Bad const header magic"),
    (8, VERSION, "Unsupported version"),
    (24, GRAIN, "Unsupported grain size"),
    (32, TABLE, "Unsupported grain table size"),
    (40, 0, "Unsupported flags"),
];

impl SeGrains {
    pub(super) async fn open(file: Arc<Child>) -> Result<Self> {
        let header = file.read_vec(0, 512).await?;
        for (at, value, message) in FIXED {
            let found = le64(&header, at);
            if found != value {
                let decimal = matches!(at, 24 | 32);
                let found = if decimal { found.to_string() } else { format!("{found:#018x}") };
                return Err(Error::invalid(format!("{message}: {found}")));
            }
        }
        if header[48..80].iter().any(|byte| *byte != 0) {
            return Err(Error::unsupported("Unsupported reserved bits"));
        }
        if header[208..].iter().any(|byte| *byte != 0) {
            return Err(Error::unsupported("Unsupported non-zero const header padding"));
        }
        let place = |at: usize| {
            let offset = le64(&header, at).checked_mul(SECTOR).filter(|offset| i64::try_from(*offset).is_ok());
            offset.ok_or_else(|| Error::invalid("A table of the extent lies behind the largest offset"))
        };
        Self::check_volatile(&file.read_vec(place(80)?, 512).await?)?;
        let capacity = le64(&header, 16);
        let directory_entries = le64(&header, 136).saturating_mul(SECTOR / 8);
        if capacity > i64::MAX as u64 / SECTOR || directory_entries > MAX_DIRECTORY {
            return Err(Error::too_big("L1 size too big"));
        }
        Ok(Self {
            capacity,
            directory: place(128)?,
            directory_entries,
            tables: place(144)?,
            grains: place(192)?,
            meta: MetaCache::new(Arc::clone(&file)),
            file,
        })
    }

    fn check_volatile(header: &[u8]) -> Result<()> {
        if le64(header, 0) != VOLATILE_MAGIC {
            return Err(Error::invalid(format!("Bad volatile header magic: {:#018x}", le64(header, 0))));
        }
        if le64(header, 24) != 0 {
            return Err(Error::unsupported("Image is dirty, Replaying journal not supported"));
        }
        if header[32..].iter().any(|byte| *byte != 0) {
            return Err(Error::unsupported("Unsupported non-zero volatile header padding"));
        }
        Ok(())
    }

    /// Where the table of a grain is.
    async fn table(&self, grain: u64) -> Result<Option<u64>> {
        let index = grain / ENTRIES;
        if index >= self.directory_entries {
            return Err(Error::io("The grain directory is too short"));
        }
        let entry = le64(&self.meta.get::<8>(self.directory + index * 8).await?, 0);
        match (entry >> 32, entry & 0xffff_ffff) {
            (0, 0) => Ok(None),
            (0x1000_0000, number) => {
                let table = self.tables + number * TABLE * SECTOR;
                if table + TABLE * SECTOR > self.file.len().next_multiple_of(SECTOR) {
                    return Err(Error::io("A grain table lies behind the end of the file"));
                }
                Ok(Some(table))
            }
            _ => Err(Error::io("An entry of the grain directory is corrupt")),
        }
    }

    /// What an entry of a table says; `None` if it is corrupt.
    fn mapping(&self, entry: u64) -> Option<Mapping> {
        match (entry >> 60, entry) {
            (0, 0) => Some(Mapping::Unallocated),
            // Unmapped by the guest, or written with zeroes.
            (1 | 2, _) => Some(Mapping::Zero),
            (3, entry) => {
                // The upper 12 bits of the number are its lowest ones.
                let number = (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0xffff_ffff_ffff) << 12;
                let offset = number.checked_mul(GRAIN * SECTOR)?.checked_add(self.grains)?;
                i64::try_from(offset).ok().map(|_| Mapping::Data(offset))
            }
            _ => None,
        }
    }
}

impl Layout for SeGrains {
    fn file(&self) -> &Arc<Child> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        GRAIN * SECTOR
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let max = max.min(ENTRIES - cluster % ENTRIES).max(1);
        let Some(table) = self.table(cluster).await? else {
            return Ok((Mapping::Unallocated, max));
        };
        let found = self.meta.view(table + cluster % ENTRIES * 8, |bytes| {
            let mut entries = bytes.chunks_exact(8).map_while(|entry| self.mapping(le64(entry, 0))).peekable();
            entries.peek().is_some().then(|| run_of(entries, max, self.cluster_size()))
        });
        found.await?.ok_or_else(|| Error::io("An entry of a grain table is corrupt"))
    }
}
