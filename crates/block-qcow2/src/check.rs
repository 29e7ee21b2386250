//! The consistency check, and repair.
//!
//! References are counted table by table; a table that several L1 tables share is read once and counted as often as it
//! is referred to. Memory is taken for what is referred to only, however large the image pretends to be.

use std::collections::{BTreeMap, HashMap, HashSet};

use block::image::{AmendProgress, CheckResult, FixMode};
use block::{Error, Result};

use crate::entry::{ALL_ALLOCATED, COMPRESSED, COPIED, Entry, Kind, OFFSET_MASK};
use crate::header::{MAX_REFTABLE_BYTES, MAX_SNAPSHOTS, incompatible};
use crate::image::{Image, Meta, change, read};
use crate::map::{decode, encode};
use crate::refcount::{REFTABLE_OFFSET, max_count, set};
use crate::snapshot::{Damage, read_table};

const CHUNK: u64 = 1024;

/// How often each cluster is referred to.
#[derive(Default)]
struct Counts(HashMap<u64, Box<[u64]>>);

impl Counts {
    fn get(&self, cluster: u64) -> u64 {
        let at = usize::try_from(cluster % CHUNK).unwrap_or(0);
        self.0.get(&(cluster / CHUNK)).and_then(|chunk| chunk.get(at)).copied().unwrap_or(0)
    }

    fn add(&mut self, cluster: u64, times: u64) {
        let chunk = self.0.entry(cluster / CHUNK).or_insert_with(|| vec![0; CHUNK as usize].into_boxed_slice());
        if let Some(count) = chunk.get_mut(usize::try_from(cluster % CHUNK).unwrap_or(0)) {
            *count = count.saturating_add(times);
        }
    }

    fn set(&mut self, cluster: u64, value: u64) {
        let chunk = self.0.get_mut(&(cluster / CHUNK));
        if let Some(count) = chunk.and_then(|c| c.get_mut(usize::try_from(cluster % CHUNK).unwrap_or(0))) {
            *count = value;
        }
    }

    fn end(&self) -> u64 {
        self.0
            .iter()
            .filter_map(|(chunk, counts)| {
                let last = counts.iter().rposition(|count| *count != 0)? as u64;
                Some(chunk * CHUNK + last + 1)
            })
            .max()
            .unwrap_or(0)
    }

    /// All clusters that are referred to.
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().flat_map(|(chunk, counts)| {
            counts.iter().enumerate().filter(|(_, n)| **n != 0).map(move |(at, n)| (chunk * CHUNK + at as u64, *n))
        })
    }
}

struct Check<'a> {
    image: &'a Image,
    fix: FixMode,
    result: CheckResult,
    counts: Counts,
    next_contiguous: u64,
    rebuild: bool,
    cleaned_l1: bool,
    /// Entries of the snapshot table with faults: it is written anew if they are to be repaired.
    entry_faults: u64,
    /// Entries behind the end of what the table may be.
    overhanging: u64,
}

impl Image {
    /// Checks the image, and repairs what `fix` allows.
    pub(crate) async fn check(&self, fix: FixMode) -> Result<CheckResult> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        let writable = !self.read_only.load(std::sync::atomic::Ordering::Acquire);
        if (fix.leaks || fix.errors) && !writable {
            return Err(Error::permission("A read-only image can't be repaired"));
        }
        if writable && (self.map().is_dirty() || meta.refs.is_dirty() || !meta.frees.is_empty()) {
            self.flush_all(&mut meta).await?;
        }
        let mut check = Check {
            image: self,
            fix,
            result: CheckResult::default(),
            counts: Counts::default(),
            next_contiguous: 0,
            rebuild: false,
            cleaned_l1: false,
            entry_faults: 0,
            overhanging: 0,
        };
        if !self.snapshots_read.load(std::sync::atomic::Ordering::Acquire) {
            check.read_snapshots().await?;
        }
        check.run(&mut meta).await?;
        check.check_snapshots(&mut meta).await?;
        let result = check.result;
        if fix.leaks || fix.errors {
            self.flush_all(&mut meta).await?;
            self.map().drop_slices();
            meta.refs.drop_clean();
            meta.byte_hint = 0;
            meta.refs.lower_hint(0);
            self.rebuild_table_overlap(&meta);
            let bits = incompatible::DIRTY | incompatible::CORRUPT;
            if result.check_errors == 0 && result.corruptions == 0 && read(&self.header, |h| h.incompatible & bits != 0)
            {
                self.update_header(|h| h.incompatible &= !bits).await?;
                self.broken.store(false, std::sync::atomic::Ordering::Release);
                self.file.flush().await?;
            }
        }
        Ok(result)
    }

    /// Writes refcount structures of a width of `1 << order` bits for these counts behind everything else, and points the
    /// header to them.
    async fn rebuild_refcounts(
        &self,
        meta: &mut Meta,
        mut counts: Counts,
        order: u32,
        progress: &AmendProgress,
    ) -> Result<()> {
        let geometry = self.geometry();
        let bits = geometry.cluster_bits;
        let cluster = geometry.cluster_size();
        let block_bits = bits + 3 - order;
        let start = counts.end().max(self.file.len().div_ceil(cluster));
        let mut blocks: BTreeMap<u64, Vec<u8>> = counts.iter().map(|(c, _)| (c >> block_bits, Vec::new())).collect();
        let mut table = 0;
        loop {
            let before = (blocks.len(), table);
            let end = start + blocks.len() as u64 + table;
            for block in start >> block_bits..=(end.max(start + 1) - 1) >> block_bits {
                blocks.entry(block).or_default();
            }
            let entries = blocks.last_key_value().map_or(0, |(last, _)| last + 1);
            table = table.max((entries * 8).div_ceil(cluster));
            if (blocks.len(), table) == before {
                break;
            }
        }
        if table * cluster > MAX_REFTABLE_BYTES {
            return Err(Error::too_big("The refcount table would be too large"));
        }
        let count = blocks.len() as u64;
        for at in start..start + count + table {
            counts.add(at, 1);
        }
        let len = usize::try_from(cluster).unwrap_or(0);
        for (at, n) in counts.iter() {
            let bytes = blocks.entry(at >> block_bits).or_default();
            if bytes.is_empty() {
                bytes.resize(len, 0);
            }
            let index = usize::try_from(at & ((1 << block_bits) - 1)).unwrap_or(0);
            set(bytes, order, index, n.min(max_count(order)));
        }
        let mut entries = vec![0u64; usize::try_from(table << (bits - 3)).unwrap_or(0)];
        for (at, (block, bytes)) in blocks.iter_mut().enumerate() {
            progress.update(at as u64, count);
            bytes.resize(len, 0);
            let offset = (start + at as u64) << bits;
            self.file.write_bytes(offset, bytes).await?;
            if let Some(entry) = usize::try_from(*block).ok().and_then(|index| entries.get_mut(index)) {
                *entry = offset;
            }
        }
        let table_offset = (start + count) << bits;
        self.file.write_bytes(table_offset, &encode(&entries)).await?;
        self.barrier().await?;
        let table_clusters = u32::try_from(table).unwrap_or(u32::MAX);
        self.update_header(|h| {
            h.reftable_offset = table_offset;
            h.reftable_clusters = table_clusters;
            h.refcount_order = order;
        })
        .await?;
        self.barrier().await?;
        meta.refs.replace(order, entries, table_offset);
        Ok(())
    }

    /// Changes the width of the counts.
    pub(crate) async fn change_refcount_order(
        &self,
        meta: &mut Meta,
        order: u32,
        progress: &AmendProgress,
    ) -> Result<()> {
        self.flush_all(meta).await?;
        let (reading, writing) = (progress.part(0, 2), progress.part(1, 2));
        let bits = self.geometry().cluster_bits;
        let mut counts = Counts::default();
        let table = meta.refs.table().to_vec();
        let (table_offset, table_clusters) = meta.refs.table_place();
        let per_block = 1u64 << meta.refs.block_bits();
        for (index, entry) in table.iter().enumerate() {
            reading.update(index as u64, table.len() as u64);
            if entry & REFTABLE_OFFSET == 0 {
                continue;
            }
            for cluster in index as u64 * per_block..(index as u64 + 1) * per_block {
                let mut count = meta.refs.count(cluster).await?;
                let own_table = table_offset >> bits..(table_offset >> bits) + table_clusters;
                if own_table.contains(&cluster) {
                    count = count.saturating_sub(1);
                }
                if count > max_count(order) {
                    return Err(Error::invalid(format!(
                        "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {count}",
                        1u64 << order,
                        cluster << bits,
                    )));
                }
                if count > 0 {
                    counts.add(cluster, count);
                }
            }
        }
        let mut clean = Counts::default();
        let blocks: HashSet<u64> = table.iter().filter(|e| **e & REFTABLE_OFFSET != 0).map(|e| e >> bits).collect();
        for (cluster, count) in counts.iter() {
            let own = u64::from(blocks.contains(&cluster));
            if count > own {
                clean.add(cluster, count - own);
            }
        }
        self.rebuild_refcounts(meta, clean, order, &writing).await?;
        self.rebuild_table_overlap(meta);
        Ok(())
    }
}

impl Check<'_> {
    async fn run(&mut self, meta: &mut Meta) -> Result<()> {
        let geometry = self.image.geometry();
        self.result.total_clusters = self.image.len().div_ceil(geometry.cluster_size());
        self.count_all(meta, true).await;
        self.limit_counts(max_count(meta.refs.order()));
        let before = self.result.clone();
        let fix = std::mem::take(&mut self.fix);
        self.compare(meta).await?;
        self.fix = fix;
        if self.rebuild && self.fix.errors {
            self.rebuild_all(meta).await?;
        } else if (self.fix.leaks || self.fix.errors) && self.result.corruptions + self.result.leaks > 0 {
            let messages = std::mem::take(&mut self.result.messages);
            self.result = CheckResult { messages, ..before };
            self.compare(meta).await?;
        }
        if self.fix.leaks || self.fix.errors {
            self.image.flush_all(meta).await?;
        }
        self.check_copied(meta).await;
        Ok(())
    }

    /// Reads the snapshot table. If it can't be read the check ends: what snapshots use would seem to be free.
    async fn read_snapshots(&mut self) -> Result<()> {
        let header = self.image.header();
        let over = header.nb_snapshots.saturating_sub(MAX_SNAPSHOTS);
        let mut count = header.nb_snapshots;
        if over > 0 && self.fix.errors {
            self.message(format!("Discarding {over} overhanging snapshots"));
            self.overhanging += u64::from(over);
            count = MAX_SNAPSHOTS;
        }
        let fits = header.check_snapshot_table(count, "snapshot table");
        fits.map_err(|error| {
            let text = format!("ERROR {error}");
            let error = error.with_message(text);
            let hint = format!("You can force-remove all {over} overhanging snapshots with qemu-img check -r all");
            if over > 0 { error.with_hint(hint) } else { error }
        })?;
        let damage = if self.fix.errors { Damage::LeftOut } else { Damage::Refused };
        let table = read_table(&self.image.file, &header, count, damage).await;
        let table = table.map_err(|error| error.context("ERROR failed to read the snapshot table"))?;
        table.left_out.into_iter().for_each(|text| self.message(text));
        self.entry_faults += table.entry_faults;
        self.overhanging += table.overhanging;
        change(&self.image.snapshots, |known| *known = table.snapshots);
        // What was left out is only gone once the table is written.
        if self.entry_faults + self.overhanging == 0 {
            self.image.snapshots_read.store(true, std::sync::atomic::Ordering::Release);
        }
        self.image.add_inactive_l2().await
    }

    /// Checks the entries of the snapshot table, and writes a new one where some lack fields.
    async fn check_snapshots(&mut self, meta: &mut Meta) -> Result<()> {
        let snapshots = read(&self.image.snapshots, Clone::clone);
        let what = if self.fix.errors { "Repairing" } else { "ERROR" };
        let mut found = self.entry_faults;
        if read(&self.image.header, |h| h.version) >= 3 {
            for (index, _) in snapshots.iter().enumerate().filter(|(_, snapshot)| snapshot.is_incomplete()) {
                self.message(format!("{what} snapshot table entry {index} is incomplete"));
                found += 1;
            }
        }
        let found_entries = found;
        found += self.overhanging;
        if found > 0 && self.fix.errors {
            if found_entries > 0 {
                self.image.write_snapshots(meta, snapshots).await?;
            } else {
                let count = u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
                self.image.update_header(|h| h.nb_snapshots = count).await?;
            }
            self.image.flush_all(meta).await?;
            self.image.snapshots_read.store(true, std::sync::atomic::Ordering::Release);
            self.result.corruptions_fixed += found;
        } else {
            self.result.corruptions += found;
        }
        Ok(())
    }

    /// Reports clusters that are referred to more often than can be counted.
    fn limit_counts(&mut self, max: u64) {
        let bits = self.image.geometry().cluster_bits;
        let mut over: Vec<(u64, u64)> = self.counts.iter().filter(|(_, count)| *count > max).collect();
        over.sort_unstable();
        for (cluster, count) in over {
            for _ in max..count.min(max.saturating_add(1000)) {
                self.corruption(format!("ERROR: overflow cluster offset={:#x}", cluster << bits));
                self.message(
                    "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy \
                     if the image cannot be opened for writing"
                        .to_owned(),
                );
            }
            self.counts.set(cluster, max);
        }
    }

    /// Makes new refcount structures, and frees the old ones.
    async fn rebuild_all(&mut self, meta: &mut Meta) -> Result<()> {
        let found = (self.result.corruptions, self.result.leaks);
        self.message("Rebuilding refcount structure".to_owned());
        self.counts = Counts::default();
        // What this finds was told before.
        let told = self.result.clone();
        self.count_all(meta, true).await;
        self.result = told;
        let counts = std::mem::take(&mut self.counts);
        let order = meta.refs.order();
        self.image.rebuild_refcounts(meta, counts, order, &AmendProgress::default()).await?;
        (self.result.corruptions, self.result.leaks) = (0, 0);
        self.rebuild = false;
        self.count_all(meta, true).await;
        self.compare(meta).await?;
        self.result.corruptions_fixed += found.0.saturating_sub(self.result.corruptions);
        self.result.leaks_fixed = found.1.saturating_sub(self.result.leaks);
        Ok(())
    }

    fn message(&mut self, text: String) {
        // Whatever is wrong with an image, the report stays readable.
        if self.result.messages.len() < 100_000 {
            self.result.messages.push(text);
        }
    }

    fn corruption(&mut self, text: String) {
        self.message(text);
        self.result.corruptions += 1;
    }

    /// Counts `len` bytes at `offset`.
    fn add(&mut self, offset: u64, len: u64, times: u64) {
        if len == 0 || times == 0 {
            return;
        }
        let geometry = self.image.geometry();
        let file_len = self.image.file.len();
        let end = offset.saturating_add(len);
        if end.saturating_sub(file_len) >= geometry.cluster_size() && end > file_len {
            self.corruption(format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset \
                 {offset:#x} size {len:#x}"
            ));
            return;
        }
        for cluster in offset >> geometry.cluster_bits..=(end - 1) >> geometry.cluster_bits {
            self.counts.add(cluster, times);
        }
    }

    async fn count_all(&mut self, meta: &mut Meta, with_refcounts: bool) {
        let first = with_refcounts && self.result.allocated_clusters == 0;
        let image = self.image;
        let cluster = image.cluster_size();
        let header = image.header();
        self.add(0, cluster, 1);
        let mut tables: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let active = image.map().l1.clone();
        self.add(header.l1_offset, u64::from(header.l1_size) * 8, 1);
        self.collect_tables(&active, true, &mut tables);
        for snapshot in read(&image.snapshots, Clone::clone) {
            if let Some(fault) = image.fault_of_l1(&snapshot) {
                let (id, name) = (&snapshot.info.id, &snapshot.info.name);
                self.corruption(format!("ERROR snapshot {id} ({name}) {fault}; snapshot table entry corrupted"));
                continue;
            }
            match image.read_l1(snapshot.l1_offset, snapshot.l1_size).await {
                Ok(l1) => {
                    self.add(snapshot.l1_offset, u64::from(snapshot.l1_size) * 8, 1);
                    self.collect_tables(&l1, false, &mut tables);
                }
                Err(error) => {
                    self.corruption(format!("ERROR snapshot {} ({}): {error}", snapshot.info.id, snapshot.info.name));
                }
            }
        }
        for (table, (times, is_active)) in tables {
            match image.read_l2(table).await {
                Ok(entries) => self.count_table(table, entries, times, is_active && first).await,
                Err(error) => {
                    self.message(format!("ERROR: I/O error in check_refcounts_l2: {error}"));
                    self.result.check_errors += 1;
                }
            }
        }
        if header.nb_snapshots > 0 {
            let len = read(&image.snapshots, |all| crate::snapshot::table_len(all));
            self.add(header.snapshots_offset, len, 1);
        }
        if let Some((offset, len)) = header.crypto {
            self.add(offset, len.min(1 << 32), 1);
        }
        self.count_bitmaps().await;
        if with_refcounts {
            self.count_refcounts(meta);
        }
    }

    fn collect_tables(&mut self, l1: &[u64], is_active: bool, tables: &mut BTreeMap<u64, (u64, bool)>) {
        let cluster = self.image.cluster_size();
        for entry in l1 {
            let table = entry & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            self.add(table, cluster, 1);
            if table & (cluster - 1) != 0 {
                self.corruption(format!("ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"));
                continue;
            }
            if table >= self.image.file.len() {
                continue;
            }
            let known = tables.entry(table).or_insert((0, false));
            known.0 += 1;
            known.1 |= is_active;
        }
    }

    async fn count_table(&mut self, table: u64, mut entries: Vec<Entry>, times: u64, statistics: bool) {
        let geometry = self.image.geometry();
        let cluster = geometry.cluster_size();
        let mut changed = false;
        let bytes = geometry.entry_bytes();
        for (index, entry) in entries.iter_mut().enumerate() {
            if entry.word & COMPRESSED != 0 {
                if entry.word & COPIED != 0 {
                    let (offset, _) = geometry.compressed(entry.word);
                    self.corruption(format!(
                        "ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters"
                    ));
                }
                if geometry.data_file {
                    self.corruption("ERROR compressed cluster with data file".to_owned());
                    continue;
                }
                let (offset, len) = geometry.compressed(entry.word);
                self.add(offset, len, times);
                if statistics {
                    self.result.allocated_clusters += 1;
                    self.result.compressed_clusters += 1;
                    self.result.fragmented_clusters += 1;
                }
                continue;
            }
            let subclusters = if geometry.extended { 32 } else { 1 };
            if (0..subclusters).any(|sub| geometry.kind(*entry, sub).is_none()) {
                let at = table + index as u64 * bytes;
                self.corruption(format!("ERROR offset={at:x}: Invalid subcluster bitmap; L2 entry corrupted"));
                continue;
            }
            let Some(host) = geometry.host(*entry) else { continue };
            if host & (cluster - 1) != 0 {
                // Nothing is lost where no part of the cluster holds data.
                let zero = if geometry.extended {
                    entry.bitmap & ALL_ALLOCATED == 0
                } else {
                    geometry.kind(*entry, 0) == Some(Kind::ZeroHost)
                };
                if zero && self.fix.errors {
                    self.message(format!(
                        "Repairing offset={host:x}: Preallocated cluster is not properly aligned; L2 entry corrupted."
                    ));
                    *entry = if geometry.extended {
                        Entry { word: 0, ..*entry }
                    } else {
                        self.image.zero_entry(Entry::default(), false)
                    };
                    changed = true;
                    self.result.corruptions_fixed += 1;
                    continue;
                }
                // Nobody else gets the clusters as long as the entry stays.
                let what = if zero { "Preallocated cluster" } else { "Data cluster" };
                self.corruption(format!("ERROR offset={host:x}: {what} is not properly aligned; L2 entry corrupted."));
            }
            if statistics {
                self.result.allocated_clusters += 1;
                if self.next_contiguous != 0 && host != self.next_contiguous {
                    self.result.fragmented_clusters += 1;
                }
                self.next_contiguous = host + cluster;
            }
            if geometry.data_file {
                continue;
            }
            self.add(host, cluster, times);
        }
        if changed && let Err(error) = self.image.write_l2(table, &entries).await {
            self.message(format!("ERROR: The L2 table at {table:#x} can't be written: {error}"));
            self.result.check_errors += 1;
        }
        self.image.map().forget_table(table, cluster);
    }

    async fn count_bitmaps(&mut self) {
        let Some(place) = read(&self.image.header, |h| h.bitmaps) else { return };
        self.add(place.offset, place.size, 1);
        let cluster = self.image.cluster_size();
        for bitmap in read(&self.image.bitmaps, Clone::clone) {
            let len = u64::from(bitmap.table_size) * 8;
            if bitmap.table_offset >= self.image.file.len() {
                self.add(bitmap.table_offset, len.max(1), 1);
                continue;
            }
            let available = (self.image.file.len() - bitmap.table_offset).min(len);
            self.add(bitmap.table_offset, len, 1);
            match self.image.file.read_vec(bitmap.table_offset, usize::try_from(available).unwrap_or(0)).await {
                Ok(bytes) => {
                    for entry in decode(&bytes) {
                        if entry & OFFSET_MASK != 0 {
                            self.add(entry & OFFSET_MASK, cluster, 1);
                        }
                    }
                }
                Err(_) => self.result.check_errors += 1,
            }
        }
    }

    fn count_refcounts(&mut self, meta: &Meta) {
        let cluster = self.image.cluster_size();
        let (offset, clusters) = meta.refs.table_place();
        self.add(offset, clusters * cluster, 1);
        let blocks: Vec<(usize, u64)> = meta
            .refs
            .table()
            .iter()
            .enumerate()
            .map(|(index, entry)| (index, entry & REFTABLE_OFFSET))
            .filter(|(_, block)| *block != 0)
            .collect();
        let mut valid = Vec::new();
        for (index, block) in blocks {
            if block & (cluster - 1) != 0 {
                self.corruption(format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
                self.rebuild = true;
            } else if block >= self.image.file.len() {
                self.corruption(format!("ERROR refcount block {index} is outside image"));
                self.rebuild = true;
            } else {
                self.add(block, cluster, 1);
                valid.push((index, block));
            }
        }
        for (index, block) in valid {
            let count = self.counts.get(block / cluster);
            if count != 1 {
                self.corruption(format!("ERROR refcount block {index} refcount={count}"));
                self.rebuild = true;
            }
        }
    }

    async fn compare(&mut self, meta: &mut Meta) -> Result<()> {
        let geometry = self.image.geometry();
        let per_block = 1u64 << meta.refs.block_bits();
        let file_len = self.image.file.len();
        let mut blocks: BTreeMap<u64, ()> = self.counts.iter().map(|(cluster, _)| (cluster / per_block, ())).collect();
        for (index, entry) in meta.refs.table().iter().enumerate() {
            let block = entry & REFTABLE_OFFSET;
            if block != 0 && block & (geometry.cluster_size() - 1) == 0 && block < file_len {
                blocks.insert(index as u64, ());
            }
        }
        let mut highest = 0;
        let mut fixes = Vec::new();
        for (block, ()) in blocks {
            for cluster in block * per_block..(block + 1) * per_block {
                let reference = self.counts.get(cluster);
                let count = match meta.refs.count(cluster).await {
                    Ok(count) => count,
                    Err(error) => {
                        self.message(format!("Can't get refcount for cluster {cluster}: {error}"));
                        self.result.check_errors += 1;
                        break;
                    }
                };
                if count > 0 || reference > 0 {
                    highest = highest.max(cluster + 1);
                }
                if count == reference {
                    continue;
                }
                let error = count < reference;
                // Where nothing is counted, nothing says which clusters are free for new blocks.
                self.rebuild |= count == 0;
                let repair = if error { self.fix.errors } else { self.fix.leaks };
                let what = match (repair, error) {
                    (true, _) => "Repairing",
                    (false, true) => "ERROR",
                    (false, false) => "Leaked",
                };
                self.message(format!("{what} cluster {cluster} refcount={count} reference={reference}"));
                match (repair, error) {
                    (true, _) => fixes.push((cluster, reference, error)),
                    (false, true) => self.result.corruptions += 1,
                    (false, false) => self.result.leaks += 1,
                }
            }
        }
        for (cluster, reference, error) in fixes {
            meta.refs.set(cluster, reference.min(max_count(meta.refs.order()))).await?;
            if error {
                self.result.corruptions_fixed += 1;
            } else {
                self.result.leaks_fixed += 1;
            }
        }
        self.result.image_end_offset = highest << geometry.cluster_bits;
        Ok(())
    }

    /// Checks the "copied" flags of the active tables.
    async fn check_copied(&mut self, meta: &mut Meta) {
        let geometry = self.image.geometry();
        let (bits, cluster) = (geometry.cluster_bits, geometry.cluster_size());
        let mut l1 = self.image.map().l1.clone();
        // Who only asked for leaks gets the flags right as long as the counts can be relied on.
        let sound = self.result.check_errors == 0 && self.result.corruptions == 0 && self.result.leaks == 0;
        let repair = self.fix.errors || (self.fix.leaks && sound);
        for (index, l1_entry) in l1.iter_mut().enumerate() {
            let table = *l1_entry & OFFSET_MASK;
            if table == 0 || table & (cluster - 1) != 0 || table >= self.image.file.len() {
                continue;
            }
            let Ok(count) = meta.refs.count(table >> bits).await else { continue };
            if (count == 1) != (*l1_entry & COPIED != 0) {
                let text =
                    format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={:x} refcount={count}", *l1_entry);
                if self.repair_flag(&text, repair) {
                    *l1_entry ^= COPIED;
                    self.cleaned_l1 = true;
                }
            }
            let Ok(mut entries) = self.image.read_l2(table).await else { continue };
            let mut changed = false;
            for entry in &mut entries {
                if entry.word & COMPRESSED != 0 || geometry.data_file {
                    continue;
                }
                let Some(host) = geometry.host(*entry) else { continue };
                let Ok(count) = meta.refs.count(host >> bits).await else { continue };
                if (count == 1) != (entry.word & COPIED != 0) {
                    let text = format!("OFLAG_COPIED data cluster: l2_entry={:x} refcount={count}", entry.word);
                    if self.repair_flag(&text, repair) {
                        entry.word ^= COPIED;
                        changed = true;
                    }
                }
            }
            if changed && let Err(error) = self.image.write_l2(table, &entries).await {
                self.message(format!("ERROR: Could not write L2 table: {error}"));
                self.result.check_errors += 1;
            }
        }
        if self.cleaned_l1 {
            let offset = read(&self.image.header, |h| h.l1_offset);
            match self.image.file.write_bytes(offset, &encode(&l1)).await {
                Ok(()) => self.image.map().replace_l1(l1),
                Err(error) => {
                    self.message(format!("ERROR: Could not write L1 table: {error}"));
                    self.result.check_errors += 1;
                }
            }
        }
    }

    /// Reports a wrong flag, and says whether it is to be changed.
    fn repair_flag(&mut self, text: &str, repair: bool) -> bool {
        if repair {
            self.message(format!("Repairing {text}"));
            self.result.corruptions_fixed += 1;
        } else {
            self.corruption(format!("ERROR {text}"));
        }
        repair
    }
}
