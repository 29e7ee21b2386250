//! The two levels of tables that `qed` and `qcow` have: 64-bit entries, tables of the second level made on demand.

use std::sync::{Arc, Mutex, PoisonError};

use block::{Child, Error, Result};

use crate::bytes::{be64, le64, n, u};
use crate::meta::{Level, MetaCache};
use crate::sparse::{Mapping, run_of};

/// Tables that are zeroed through the cache, bytes; larger ones never share a page with anything else.
const MAX_CACHED_TABLE: u64 = 1 << 20;

/// The order of an entry's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

/// Both levels, and where the file ends.
pub(crate) struct TwoLevels {
    pub(crate) file: Arc<Child>,
    pub(crate) meta: MetaCache,
    pub(crate) order: Order,
    pub(crate) l1: u64,
    pub(crate) l1_entries: u64,
    pub(crate) l2_entries: u64,
    pub(crate) cluster_size: u64,
    /// Where the next cluster or table goes.
    next: Mutex<u64>,
    /// Held while a table is made.
    growing: tokio::sync::Mutex<()>,
}

impl TwoLevels {
    pub(crate) fn new(file: Arc<Child>, order: Order, l1: u64, entries: (u64, u64), cluster_size: u64) -> Self {
        Self {
            next: Mutex::new(file.len()),
            meta: MetaCache::new(Arc::clone(&file)),
            file,
            order,
            l1,
            l1_entries: entries.0,
            l2_entries: entries.1,
            cluster_size,
            growing: tokio::sync::Mutex::default(),
        }
    }

    fn decode(&self, bytes: &[u8]) -> u64 {
        match self.order {
            Order::Little => le64(bytes, 0),
            Order::Big => be64(bytes, 0),
        }
    }

    fn encode(&self, entry: u64) -> [u8; 8] {
        match self.order {
            Order::Little => entry.to_le_bytes(),
            Order::Big => entry.to_be_bytes(),
        }
    }

    /// Takes `len` bytes at the end of the file, aligned.
    pub(crate) fn take_room(&self, len: u64, align: u64) -> Result<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let start = next.next_multiple_of(align);
        if start.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::no_space("The image can't grow further"));
        }
        *next = start + len;
        Ok(start)
    }

    pub(crate) fn release(&self, start: u64, len: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if start + len == *next {
            *next = start;
        }
    }

    /// The entry of the first level, unchecked.
    pub(crate) async fn l1_entry(&self, index: u64) -> Result<u64> {
        Ok(self.decode(&self.meta.get::<8>(self.l1 + index * 8).await?))
    }

    /// Up to 512 entries of the table at `table` from `index` on, unchecked.
    pub(crate) async fn some_entries(&self, table: u64, index: u64, entries: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; n(entries.saturating_sub(index).min(512) * 8)];
        self.meta.read(table + index * 8, &mut bytes).await?;
        Ok(bytes.chunks_exact(8).map(|entry| self.decode(entry)).collect())
    }

    /// Where the second table for a cluster is; `None` if there is none.
    pub(crate) async fn table(&self, cluster: u64) -> Result<Option<u64>> {
        let index = cluster / self.l2_entries;
        if index >= self.l1_entries {
            return Err(Error::io("The request lies behind the end of the image"));
        }
        let table = self.l1_entry(index).await?;
        if table == 0 {
            return Ok(None);
        }
        let aligned = match self.order {
            Order::Little => table.is_multiple_of(self.cluster_size),
            Order::Big => table.is_multiple_of(8),
        };
        if !aligned || table.checked_add(self.l2_entries * 8).is_none_or(|_| table >= self.file.len()) {
            return Err(Error::io("A table of the image lies at a wrong place"));
        }
        Ok(Some(table))
    }

    /// The mapping of a cluster, by what its entry means, and for how many clusters it goes on.
    pub(crate) async fn map(&self, cluster: u64, max: u64, mean: impl Fn(u64) -> Mapping) -> Result<(Mapping, u64)> {
        let index = cluster % self.l2_entries;
        let max = max.min(self.l2_entries - index);
        let Some(table) = self.table(cluster).await? else { return Ok((Mapping::Unallocated, max)) };
        let at = table + index * 8;
        self.meta
            .view(at, |bytes| {
                run_of(bytes.chunks_exact(8).map(|entry| mean(self.decode(entry))), max, self.cluster_size)
            })
            .await
    }

    /// Sets the entries of clusters, and makes the tables for them.
    pub(crate) async fn set(&self, cluster: u64, entries: &[u64]) -> Result<()> {
        let mut done = 0;
        while done < entries.len() {
            let here = cluster + u(done);
            let index = here % self.l2_entries;
            let count = n(self.l2_entries - index).min(entries.len() - done);
            let table = match self.table(here).await? {
                Some(table) => table,
                None => self.make_table(here).await?,
            };
            let bytes: Vec<u8> = entries[done..done + count].iter().flat_map(|entry| self.encode(*entry)).collect();
            self.meta.write(Level::First, table + index * 8, &bytes).await?;
            done += count;
        }
        if self.meta.is_full() { self.meta.flush().await } else { Ok(()) }
    }

    async fn make_table(&self, cluster: u64) -> Result<u64> {
        let _one = self.growing.lock().await;
        if let Some(table) = self.table(cluster).await? {
            return Ok(table);
        }
        let len = self.l2_entries * 8;
        let table = self.take_room(len, self.cluster_size)?;
        if len <= MAX_CACHED_TABLE {
            self.meta.write(Level::First, table, &vec![0; n(len)]).await?;
        } else if self.file.len() > table {
            let inside = (self.file.len() - table).min(len);
            self.file.write_zeroes(table, inside, block::ZeroFlags::default()).await?;
        }
        if self.file.len() < table + len {
            self.file.write_bytes(table + len - 1, &[0]).await?;
        }
        self.meta.write(Level::Second, self.l1 + cluster / self.l2_entries * 8, &self.encode(table)).await?;
        Ok(table)
    }
}
