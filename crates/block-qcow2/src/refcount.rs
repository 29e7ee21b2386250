//! Reference counts: the table, the cached blocks, and the allocation of clusters ("Host cluster management").
//!
//! All of it belongs to the holder of the metadata lock. Counts that go up are changed here at once; counts that go
//! down wait in the quarantine of [`crate::flush`] until nothing on disk refers to the cluster any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use block::{Child, Error, Result};

use crate::entry::MAX_OFFSET;
use crate::header::MAX_REFTABLE_BYTES;
use crate::map::{encode, hex};

/// The offset in entries of the refcount table.
pub const REFTABLE_OFFSET: u64 = !511;
/// Table entries that are written at once: a sector of them.
const TABLE_CHUNK: usize = 64;

/// The count at `index` of a block of `1 << order` bits each.
pub fn get(bytes: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let bits = 1usize << order;
            let per_byte = 8 / bits;
            let byte = bytes.get(index / per_byte).copied().unwrap_or(0);
            u64::from(byte >> (index % per_byte * bits)) & ((1 << bits) - 1)
        }
        _ => {
            let width = 1usize << (order - 3);
            let field = bytes.get(index * width..(index + 1) * width).unwrap_or_default();
            field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
    }
}

/// Sets the count at `index`; the byte range that changed.
pub fn set(bytes: &mut [u8], order: u32, index: usize, value: u64) -> (usize, usize) {
    if order <= 2 {
        let bits = 1usize << order;
        let per_byte = 8 / bits;
        let shift = index % per_byte * bits;
        let mask = u8::try_from((1u32 << bits) - 1).unwrap_or(u8::MAX);
        if let Some(byte) = bytes.get_mut(index / per_byte) {
            *byte = *byte & !(mask << shift) | (u8::try_from(value & u64::from(mask)).unwrap_or(0) << shift);
        }
        return (index / per_byte, index / per_byte + 1);
    }
    let width = 1usize << (order - 3);
    if let Some(field) = bytes.get_mut(index * width..(index + 1) * width) {
        field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }
    (index * width, (index + 1) * width)
}

/// The largest count.
pub fn max_count(order: u32) -> u64 {
    if order >= 6 { u64::MAX } else { (1 << (1u64 << order)) - 1 }
}

struct Block {
    bytes: Vec<u8>,
    /// Bytes that differ from the disk.
    dirty: Option<(usize, usize)>,
    writing: bool,
    used: u64,
}

/// The refcount structures.
pub struct Refcounts {
    file: Arc<Child>,
    cluster_bits: u32,
    order: u32,
    table: Vec<u64>,
    table_offset: u64,
    table_clusters: u64,
    table_dirty: BTreeSet<usize>,
    /// The table was moved: all of it is to be written, then the header.
    moved: bool,
    old_tables: Vec<(u64, u64)>,
    made: Vec<u64>,
    blocks: HashMap<u64, Block>,
    capacity: usize,
    clock: u64,
    hint: u64,
    /// What was found wrong with the structures, until somebody reports it.
    damage: Mutex<Option<String>>,
    /// New blocks are on their way to the disk: the table must not point to them before.
    pub new_blocks: bool,
}

type BlockWrite = (u64, (usize, usize), u64, Vec<u8>);

/// What is to be written.
#[derive(Default)]
pub struct RefWrites {
    /// Block index, the part of it, host offset, bytes.
    blocks: Vec<BlockWrite>,
    /// Offset and bytes of table parts.
    table: Vec<(u64, Vec<u8>)>,
    chunks: BTreeSet<usize>,
    /// The whole table at a new place: offset, clusters, bytes.
    pub moved: Option<(u64, u64, Vec<u8>)>,
    /// Tables that the moved one replaces: offset and clusters.
    pub old_tables: Vec<(u64, u64)>,
    new_blocks: bool,
}

impl RefWrites {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && !self.has_table()
    }

    /// Whether table entries have to wait for new blocks.
    pub fn has_table(&self) -> bool {
        !self.table.is_empty() || self.moved.is_some()
    }

    /// Writes blocks, and a moved table to its new place.
    pub async fn write_blocks(&self, file: &Child) -> Result<()> {
        for (_, _, offset, bytes) in &self.blocks {
            let event = match (self.new_blocks, &self.moved) {
                (true, Some(_)) => "refblock_alloc_write_blocks",
                (true, None) => "refblock_alloc_write",
                (false, _) => "refblock_update_part",
            };
            file.event(event).await;
            file.write_bytes(*offset, bytes).await?;
        }
        if let Some((offset, _, bytes)) = &self.moved {
            file.event("refblock_alloc_write_table").await;
            file.write_bytes(*offset, bytes).await?;
        }
        Ok(())
    }

    /// Writes table entries.
    pub async fn write_table(&self, file: &Child) -> Result<()> {
        for (offset, bytes) in &self.table {
            file.event("refblock_alloc_hookup").await;
            file.write_bytes(*offset, bytes).await?;
        }
        Ok(())
    }
}

impl Refcounts {
    /// The structures of an image, with the table as read.
    pub fn new(
        file: Arc<Child>,
        cluster_bits: u32,
        order: u32,
        table: Vec<u64>,
        table_offset: u64,
        capacity: usize,
    ) -> Self {
        let table_clusters = (table.len() as u64 * 8).div_ceil(1 << cluster_bits);
        Self {
            file,
            cluster_bits,
            order,
            table,
            table_offset,
            table_clusters,
            table_dirty: BTreeSet::new(),
            moved: false,
            old_tables: Vec::new(),
            made: Vec::new(),
            blocks: HashMap::new(),
            capacity: capacity.max(2),
            clock: 0,
            hint: 0,
            damage: Mutex::default(),
            new_blocks: false,
        }
    }

    /// What was found wrong with the structures since the last call.
    pub fn take_damage(&mut self) -> Option<String> {
        self.damage.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Log2 of the bits of a count.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Bytes of a cluster.
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Log2 of the clusters that a block covers.
    pub fn block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.order
    }

    /// The table.
    pub fn table(&self) -> &[u64] {
        &self.table
    }

    /// Where the table is, and its clusters.
    pub fn table_place(&self) -> (u64, u64) {
        (self.table_offset, self.table_clusters)
    }

    /// How many blocks are cached at most.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(2);
    }

    /// Clusters from here on may be free.
    pub fn lower_hint(&mut self, cluster: u64) {
        self.hint = self.hint.min(cluster);
    }

    /// The host offset of the block, or `None` if there is none.
    fn block_offset(&self, index: u64) -> Result<Option<u64>> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied().unwrap_or(0);
        let offset = entry & REFTABLE_OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if offset & (self.cluster_size() - 1) != 0 {
            let text = format!("Refblock offset {offset:#x} unaligned (reftable index: {})", hex(index));
            *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
            return Err(Error::io(text));
        }
        Ok(Some(offset))
    }

    async fn load(&mut self, index: u64) -> Result<bool> {
        self.clock += 1;
        if let Some(block) = self.blocks.get_mut(&index) {
            block.used = self.clock;
            return Ok(true);
        }
        let Some(offset) = self.block_offset(index)? else { return Ok(false) };
        let len = usize::try_from(self.cluster_size()).unwrap_or(0);
        self.file.event("refblock_load").await;
        let bytes = self.file.read_vec(offset, len).await?;
        self.evict();
        self.blocks.insert(index, Block { bytes, dirty: None, writing: false, used: self.clock });
        Ok(true)
    }

    fn evict(&mut self) {
        if self.blocks.len() < self.capacity {
            return;
        }
        let oldest = self
            .blocks
            .iter()
            .filter(|(_, b)| b.dirty.is_none() && !b.writing)
            .min_by_key(|(_, b)| b.used)
            .map(|(i, _)| *i);
        if let Some(oldest) = oldest {
            self.blocks.remove(&oldest);
        }
    }

    /// Whether so much is dirty that it should be written.
    pub fn under_pressure(&self) -> bool {
        self.blocks.len() > self.capacity
    }

    fn split(&self, cluster: u64) -> (u64, usize) {
        let bits = self.block_bits();
        (cluster >> bits, usize::try_from(cluster & ((1 << bits) - 1)).unwrap_or(0))
    }

    /// The count of a cluster.
    ///
    /// # Errors
    /// If the block can't be read.
    pub async fn count(&mut self, cluster: u64) -> Result<u64> {
        let (block, index) = self.split(cluster);
        if !self.load(block).await? {
            return Ok(0);
        }
        Ok(self.blocks.get(&block).map_or(0, |b| get(&b.bytes, self.order, index)))
    }

    /// Sets the count of a cluster whose block exists.
    async fn store(&mut self, cluster: u64, value: u64) -> Result<()> {
        let (block, index) = self.split(cluster);
        if !self.load(block).await? {
            return Err(Error::io(format!("There is no refcount block for cluster {cluster}")));
        }
        if value == 0 {
            self.lower_hint(cluster);
        }
        let order = self.order;
        if let Some(b) = self.blocks.get_mut(&block) {
            let (start, end) = set(&mut b.bytes, order, index, value);
            b.dirty = Some(b.dirty.map_or((start, end), |(s, e)| (s.min(start), e.max(end))));
        }
        Ok(())
    }

    /// Raises the count of an allocated cluster.
    ///
    /// # Errors
    /// If it is at its maximum.
    pub async fn increment(&mut self, cluster: u64) -> Result<u64> {
        let count = self.count(cluster).await?;
        if count >= max_count(self.order) {
            return Err(Error::new(
                rustix::io::Errno::INVAL.raw_os_error(),
                "The refcount of a cluster is at its maximum",
            ));
        }
        if count == 0 {
            self.make_blocks(cluster, 1).await?;
        }
        self.store(cluster, count + 1).await?;
        Ok(count + 1)
    }

    /// Lowers the count of a cluster; the new count. A count of zero stays (the image is damaged).
    ///
    /// # Errors
    /// If the block can't be read.
    pub async fn decrement(&mut self, cluster: u64) -> Result<u64> {
        let count = self.count(cluster).await?;
        if count == 0 {
            return Ok(0);
        }
        self.store(cluster, count - 1).await?;
        Ok(count - 1)
    }

    /// Sets any count (repair).
    ///
    /// # Errors
    /// If a block can't be read or made.
    pub async fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        let (block, _) = self.split(cluster);
        if self.block_offset(block)?.is_none() {
            if value == 0 {
                return Ok(());
            }
            self.make_blocks(cluster, 1).await?;
        }
        self.store(cluster, value).await
    }

    /// The first cluster at or after `from` with `n` free ones; `up_to` takes a shorter run.
    async fn find_free(&mut self, from: u64, n: u64, up_to: bool) -> Result<(u64, u64)> {
        let limit = MAX_OFFSET >> self.cluster_bits;
        let mut at = from;
        let mut run = 0;
        loop {
            if run >= n || (up_to && run > 0 && at - run + n > limit) {
                return Ok((at - run, run.min(n)));
            }
            if at >= limit {
                return Err(Error::too_big("The image can't grow any further"));
            }
            let (block, index) = self.split(at);
            let block_len = 1u64 << self.block_bits();
            if !self.load(block).await? {
                let rest = block_len - index as u64;
                run += rest;
                at += rest;
                continue;
            }
            let order = self.order;
            let Some(b) = self.blocks.get(&block) else { continue };
            let end = usize::try_from(block_len).unwrap_or(usize::MAX);
            let mut i = index;
            while i < end && run < n {
                if get(&b.bytes, order, i) == 0 {
                    run += 1;
                } else if up_to && run > 0 {
                    return Ok((at + (i - index) as u64 - run, run));
                } else {
                    run = 0;
                }
                i += 1;
            }
            at += (i - index) as u64;
        }
    }

    /// Allocates `n` clusters in a row; the first one's offset.
    ///
    /// # Errors
    /// If the image can't grow, or tables can't be read.
    pub async fn allocate(&mut self, n: u64) -> Result<u64> {
        self.file.event("cluster_alloc").await;
        let (start, _) = self.find_free(self.hint, n, false).await?;
        self.claim(start, n, n == 1).await?;
        Ok(start << self.cluster_bits)
    }

    /// Allocates up to `n` clusters in a row: the first one's offset, and how many.
    ///
    /// # Errors
    /// If the image can't grow, or tables can't be read.
    pub async fn allocate_up_to(&mut self, n: u64) -> Result<(u64, u64)> {
        let (start, len) = self.find_free(self.hint, n, true).await?;
        self.claim(start, len, true).await?;
        Ok((start << self.cluster_bits, len))
    }

    /// Allocates this cluster if it is free.
    ///
    /// # Errors
    /// If tables can't be read or made.
    pub async fn allocate_at(&mut self, cluster: u64) -> Result<bool> {
        if cluster >= MAX_OFFSET >> self.cluster_bits || self.count(cluster).await? != 0 {
            return Ok(false);
        }
        self.claim(cluster, 1, false).await?;
        Ok(true)
    }

    /// Takes free clusters, making blocks for them.
    async fn claim(&mut self, start: u64, n: u64, advance: bool) -> Result<()> {
        self.make_blocks(start, n).await?;
        for cluster in start..start + n {
            self.store(cluster, 1).await?;
        }
        if advance {
            // Everything between the hint and the run was found in use.
            self.hint = start + n;
        }
        Ok(())
    }

    /// The blocks that `n` clusters from `start` on lack.
    fn missing(&self, start: u64, n: u64) -> Result<BTreeSet<u64>> {
        let mut missing = BTreeSet::new();
        for block in self.split(start).0..=self.split(start + n.max(1) - 1).0 {
            if self.block_offset(block)?.is_none() {
                missing.insert(block);
            }
        }
        Ok(missing)
    }

    /// The blocks to make if blocks `missing` are made at `place`, with those for these clusters themselves, and the
    /// clusters of a larger table if there has to be one (0 if not).
    fn plan(&self, place: u64, missing: &BTreeSet<u64>) -> Result<(BTreeSet<u64>, u64)> {
        let mut blocks = missing.clone();
        let mut table = 0u64;
        loop {
            let before = (blocks.len(), table);
            blocks.extend(self.missing(place, blocks.len() as u64 + table)?);
            let last = blocks.last().copied().unwrap_or(0);
            if last >= self.table.len() as u64 {
                let max = (MAX_REFTABLE_BYTES >> self.cluster_bits).max(1);
                let least = ((last + 1) * 8).div_ceil(self.cluster_size());
                if least > max {
                    return Err(Error::too_big("The refcount table can't grow any further"));
                }
                table = table.max((least.saturating_mul(3) / 2).clamp(least, max));
            }
            if (blocks.len(), table) == before {
                return Ok((blocks, table));
            }
        }
    }

    /// Makes sure that there are blocks for `n` clusters from `start` on, which are the caller's. New blocks go behind.
    async fn make_blocks(&mut self, start: u64, n: u64) -> Result<()> {
        self.file.event("refblock_alloc").await;
        let missing = self.missing(start, n)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut place = start + n;
        let mut reserved = 0;
        let (blocks, table) = loop {
            let (blocks, table) = self.plan(place, &missing)?;
            let total = blocks.len() as u64 + table;
            if total <= reserved {
                break (blocks, table);
            }
            reserved = total;
            place = self.find_free(place, reserved, false).await?.0;
        };
        let after_blocks = place + blocks.len() as u64;
        if table > 0 {
            self.file.event("reftable_grow").await;
            self.old_tables.push((self.table_offset, self.table_clusters));
            let entries = usize::try_from(table << (self.cluster_bits - 3)).unwrap_or(usize::MAX);
            self.table.resize(entries, 0);
            self.table_offset = after_blocks << self.cluster_bits;
            self.table_clusters = table;
            self.moved = true;
        }
        let len = usize::try_from(self.cluster_size()).unwrap_or(0);
        for (at, block) in blocks.iter().enumerate() {
            let index = usize::try_from(*block).unwrap_or(usize::MAX);
            if let Some(entry) = self.table.get_mut(index) {
                *entry = (place + at as u64) << self.cluster_bits;
            }
            self.table_dirty.insert(index / TABLE_CHUNK);
            self.clock += 1;
            let fresh = Block { bytes: vec![0; len], dirty: Some((0, len)), writing: false, used: self.clock };
            self.blocks.insert(*block, fresh);
        }
        self.made.extend(place..after_blocks + table);
        self.new_blocks = true;
        for cluster in place..after_blocks + table {
            self.store(cluster, 1).await?;
        }
        Ok(())
    }

    /// Takes blocks out of the table that count nothing but themselves; their offsets. Nothing may be dirty.
    ///
    /// # Errors
    /// If a block can't be read.
    pub async fn drop_empty_blocks(&mut self) -> Result<Vec<u64>> {
        let mut dropped = Vec::new();
        let per_block = 1usize << self.block_bits();
        for index in 0..self.table.len() as u64 {
            let Some(offset) = self.block_offset(index)? else { continue };
            self.load(index).await?;
            let (own, at) = self.split(offset >> self.cluster_bits);
            let order = self.order;
            let counts = |bytes: &[u8]| (0..per_block).any(|i| (own != index || i != at) && get(bytes, order, i) != 0);
            if self.blocks.get(&index).is_none_or(|block| counts(&block.bytes)) {
                continue;
            }
            self.blocks.remove(&index);
            let entry = usize::try_from(index).unwrap_or(usize::MAX);
            if let Some(entry) = self.table.get_mut(entry) {
                *entry = 0;
            }
            self.table_dirty.insert(entry / TABLE_CHUNK);
            dropped.push(offset);
        }
        Ok(dropped)
    }

    /// Clusters that became blocks or tables since the last call.
    pub fn take_made(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.made)
    }

    /// Whether anything waits to be written.
    pub fn is_dirty(&self) -> bool {
        self.moved || !self.table_dirty.is_empty() || self.blocks.values().any(|b| b.dirty.is_some())
    }

    /// Whether only counts in blocks wait to be written, and nobody is writing any.
    pub fn is_settled(&self) -> bool {
        let tables = self.new_blocks || self.moved || !self.table_dirty.is_empty();
        !tables && self.blocks.values().all(|block| !block.writing)
    }

    /// Takes a copy of everything dirty and marks it as being written.
    pub fn gather(&mut self) -> RefWrites {
        let mut writes = RefWrites { new_blocks: std::mem::take(&mut self.new_blocks), ..RefWrites::default() };
        for (index, block) in &mut self.blocks {
            let Some((start, end)) = block.dirty else { continue };
            let entry = usize::try_from(*index).ok().and_then(|i| self.table.get(i)).copied().unwrap_or(0);
            let (start, end) = (start & !511, end.next_multiple_of(512).min(block.bytes.len()));
            let offset = (entry & REFTABLE_OFFSET) + start as u64;
            writes.blocks.push((*index, (start, end), offset, block.bytes[start..end].to_vec()));
            block.dirty = None;
            block.writing = true;
        }
        writes.blocks.sort_by_key(|(_, _, offset, _)| *offset);
        writes.chunks = std::mem::take(&mut self.table_dirty);
        if std::mem::take(&mut self.moved) {
            writes.moved = Some((self.table_offset, self.table_clusters, encode(&self.table)));
            writes.old_tables = std::mem::take(&mut self.old_tables);
        } else {
            for chunk in &writes.chunks {
                let (start, end) = (chunk * TABLE_CHUNK, ((chunk + 1) * TABLE_CHUNK).min(self.table.len()));
                if let Some(entries) = self.table.get(start..end) {
                    writes.table.push((self.table_offset + start as u64 * 8, encode(entries)));
                }
            }
        }
        writes
    }

    /// Ends a write of what was gathered; on failure everything is dirty again.
    pub fn written(&mut self, writes: RefWrites, success: bool) {
        for (index, (start, end), _, _) in &writes.blocks {
            if let Some(block) = self.blocks.get_mut(index) {
                block.writing = false;
                if !success {
                    block.dirty = Some(block.dirty.map_or((*start, *end), |(s, e)| (s.min(*start), e.max(*end))));
                }
            }
        }
        if !success {
            self.new_blocks |= writes.new_blocks;
            self.table_dirty.extend(&writes.chunks);
            self.moved |= writes.moved.is_some();
            self.old_tables.extend(writes.old_tables);
        }
        while self.blocks.len() > self.capacity {
            let before = self.blocks.len();
            self.evict();
            if self.blocks.len() == before {
                break;
            }
        }
    }

    /// Replaces everything by structures that are on disk already.
    pub fn replace(&mut self, order: u32, table: Vec<u64>, table_offset: u64) {
        self.order = order;
        self.table_clusters = (table.len() as u64 * 8).div_ceil(self.cluster_size());
        self.table = table;
        self.table_offset = table_offset;
        self.table_dirty.clear();
        self.moved = false;
        self.blocks.clear();
        self.old_tables.clear();
        self.new_blocks = false;
        self.hint = 0;
    }

    /// Forgets clean blocks.
    pub fn drop_clean(&mut self) {
        self.blocks.retain(|_, block| block.dirty.is_some() || block.writing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_read_back() {
        for order in 0..=6 {
            let mut bytes = vec![0xa5; 512];
            for index in [0, 1, 7, 8, 63] {
                for value in [0, 1, max_count(order)] {
                    let before: Vec<u64> = (0..64).map(|i| get(&bytes, order, i)).collect();
                    set(&mut bytes, order, index, value);
                    for (i, old) in before.iter().enumerate() {
                        let expected = if i == index { value } else { *old };
                        assert_eq!(get(&bytes, order, i), expected, "order {order} index {index} at {i}");
                    }
                }
            }
        }
    }
}
