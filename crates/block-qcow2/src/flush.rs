//! Bringing metadata to the disk in an order that survives a crash.
//!
//! One flush takes all changes since the last one, an epoch, and writes them in steps:
//! 1. refcounts that went up (and those that went down in earlier epochs), new refcount blocks; then a barrier, which
//!    covers the data written meanwhile, too. With new blocks the refcount table follows here, behind a barrier of its own.
//! 2. L2 slices and L1 entries; then a barrier.
//! 3. Counts of clusters that nothing refers to any more go down, in memory: the next epoch writes them. Only now may
//!    the clusters be used again, and only if no request that still reads them is in flight.
//!
//! A crash between two steps leaves clusters with too high a count: leaks. The changes of an epoch are taken at one
//! moment under the metadata lock; requests go on while they are written.

use block::{Child, Preallocation, Result};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::header::incompatible;
use crate::image::{Image, Meta, read};
use crate::map::MapWrites;
use crate::refcount::RefWrites;

/// Why a cluster becomes free: what decides whether the host gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Never passed down.
    Never,
    /// Always passed down.
    Always,
    /// The guest discarded it.
    Request,
    /// A snapshot was deleted.
    Snapshot,
    /// Anything else.
    Other,
}

/// Clusters whose counts are to go down by one.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    /// The first cluster.
    pub cluster: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Requests of this generation or an older one may still use them.
    pub generation: u64,
}

/// The changes of an epoch.
struct Epoch {
    refs: RefWrites,
    map: MapWrites,
    frees: Vec<Free>,
}

/// Clusters in quarantine that make a flush worthwhile.
const MAX_QUARANTINE: usize = 16384;

impl Image {
    /// Queues clusters whose counts are to go down.
    pub fn free(&self, meta: &mut Meta, offset: u64, clusters: u64, reason: Reason) {
        let cluster = offset >> self.geometry().cluster_bits;
        let generation = self.readers.current();
        if let Some(last) = meta.frees.last_mut()
            && last.cluster + last.count == cluster
            && last.reason == reason
            && last.generation == generation
        {
            last.count += clusters;
            return;
        }
        meta.frees.push(Free { cluster, count: clusters, reason, generation });
    }

    /// Whether refcounts are written at close only.
    fn is_lazy(&self) -> bool {
        read(&self.run, |run| run.lazy_refcounts) && read(&self.header, |h| h.incompatible & incompatible::DIRTY != 0)
    }

    /// Flushes if so much is cached that it has to be.
    pub async fn relieve(&self) -> Result<()> {
        let due = {
            let meta = self.meta.lock().await;
            self.map().under_pressure() || meta.refs.under_pressure() || meta.frees.len() > MAX_QUARANTINE
        };
        if due { self.flush_epoch(true).await } else { Ok(()) }
    }

    /// Writes all metadata.
    pub async fn flush(&self) -> Result<()> {
        self.flush_epoch(false).await
    }

    /// Writes the counts that went up, for clusters that are about to be referred to on disk.
    pub async fn write_counts(&self, meta: &mut Meta) -> Result<()> {
        if !self.is_lazy() || !meta.refs.is_settled() {
            return Ok(());
        }
        let refs = meta.refs.gather();
        let result = refs.write_blocks(&self.file).await;
        meta.refs.written(refs, result.is_ok());
        result
    }

    async fn flush_epoch(&self, with_lazy: bool) -> Result<()> {
        let _one = self.flush_lock.lock().await;
        let epoch = {
            let mut meta = self.meta.lock().await;
            self.gather(&mut meta, !with_lazy && self.is_lazy())
        };
        let result = self.write_epoch(&epoch).await;
        if result.is_ok() {
            let ranges = {
                let mut meta = self.meta.lock().await;
                self.to_punch(&mut meta, &epoch.frees).await
            };
            self.punch(&ranges).await;
        }
        let mut meta = self.meta.lock().await;
        self.clean_cache(&mut meta);
        self.finish(&mut meta, epoch, result).await
    }

    /// Drops what was not used for an interval.
    fn clean_cache(&self, meta: &mut Meta) {
        let interval = read(&self.run, |run| run.clean_interval);
        if interval != 0 && meta.cleaned.elapsed().as_secs() >= interval {
            meta.cleaned = Instant::now();
            self.map().drop_unused();
        }
    }

    /// As [`Image::flush`], for an operation that has the gate, the flush lock and the metadata lock: afterwards nothing
    /// is dirty and nothing is in quarantine.
    pub async fn flush_all(&self, meta: &mut Meta) -> Result<()> {
        for _ in 0..4 {
            let epoch = self.gather(meta, false);
            let result = self.write_epoch(&epoch).await;
            if result.is_ok() {
                let ranges = self.to_punch(meta, &epoch.frees).await;
                self.punch(&ranges).await;
            }
            self.finish(meta, epoch, result).await?;
            if !meta.refs.is_dirty() && !self.map().is_dirty() && meta.frees.is_empty() {
                break;
            }
        }
        self.barrier().await
    }

    fn gather(&self, meta: &mut Meta, lazy: bool) -> Epoch {
        let mut refs = if lazy { RefWrites::default() } else { meta.refs.gather() };
        let mut frees = std::mem::take(&mut meta.frees);
        for (offset, clusters) in std::mem::take(&mut refs.old_tables) {
            let cluster = offset >> self.geometry().cluster_bits;
            let generation = self.readers.current();
            frees.push(Free { cluster, count: clusters, reason: Reason::Other, generation });
        }
        let map = self.map().gather();
        self.readers.advance();
        self.note_made(meta);
        Epoch { refs, map, frees }
    }

    async fn write_epoch(&self, epoch: &Epoch) -> Result<()> {
        let map_clean = epoch.map.slices.is_empty() && epoch.map.l1.is_empty();
        if epoch.refs.is_empty() && map_clean && epoch.frees.is_empty() {
            return self.settle_header().await;
        }
        self.check_usable()?;
        self.settle_header().await?;
        let file: &Child = &self.file;
        epoch.refs.write_blocks(file).await?;
        if epoch.refs.has_table() {
            self.barrier().await?;
            epoch.refs.write_table(file).await?;
            if let Some((offset, clusters, _)) = &epoch.refs.moved {
                file.event("refblock_alloc_switch_table").await;
                self.update_header(|header| {
                    header.reftable_offset = *offset;
                    header.reftable_clusters = u32::try_from(*clusters).unwrap_or(u32::MAX);
                })
                .await?;
            }
        }
        if !map_clean {
            self.barrier().await?;
            for (offset, bytes) in &epoch.map.slices {
                file.event("l2_update").await;
                file.write_bytes(*offset, bytes).await?;
            }
            let l1_offset = read(&self.header, |h| h.l1_offset);
            for (at, bytes) in &epoch.map.l1 {
                file.event("l1_update").await;
                file.write_bytes(l1_offset + at, bytes).await?;
            }
        }
        if !map_clean || !epoch.frees.is_empty() {
            self.barrier().await?;
        }
        Ok(())
    }

    /// The host ranges that the host gets back before their clusters may be used again.
    async fn to_punch(&self, meta: &mut Meta, frees: &[Free]) -> Vec<(u64, u64)> {
        let bits = self.geometry().cluster_bits;
        let oldest = self.readers.oldest();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for free in frees.iter().filter(|free| free.generation < oldest) {
            if !read(&self.run, |run| run.passes(free.reason)) {
                continue;
            }
            for cluster in free.cluster..free.cluster + free.count {
                if !matches!(meta.refs.count(cluster).await, Ok(1)) {
                    continue;
                }
                // No compressed cluster may be put there meanwhile.
                if meta.byte_hint >> bits == cluster {
                    meta.byte_hint = 0;
                }
                let offset = cluster << bits;
                match ranges.last_mut() {
                    Some((start, len)) if *start + *len == offset => *len += 1 << bits,
                    _ => ranges.push((offset, 1 << bits)),
                }
            }
        }
        ranges
    }

    async fn punch(&self, ranges: &[(u64, u64)]) {
        for (offset, len) in ranges {
            // A host that can't is no error; the cluster is free all the same.
            if let Err(error) = self.file.discard(*offset, *len).await {
                tracing::debug!("qcow2: discard of {offset:#x}: {error}");
            }
        }
    }

    async fn finish(&self, meta: &mut Meta, epoch: Epoch, result: Result<()>) -> Result<()> {
        let success = result.is_ok();
        self.map().written(&epoch.map, success);
        let moved = epoch.refs.moved.is_some();
        meta.refs.written(epoch.refs, success);
        if !success {
            // The tables that were to be freed with this epoch stay where they are, too.
            meta.frees.extend(epoch.frees);
            return result;
        }
        if moved {
            self.rebuild_table_overlap(meta);
        }
        let oldest = self.readers.oldest();
        let mut result = Ok(());
        if !epoch.frees.is_empty() {
            self.file.event("cluster_free").await;
        }
        for free in epoch.frees {
            if free.generation >= oldest {
                meta.frees.push(free);
                continue;
            }
            for cluster in free.cluster..free.cluster + free.count {
                match meta.refs.decrement(cluster).await {
                    Ok(0) => self.released(meta, cluster),
                    Ok(_) => {}
                    // The cluster leaks.
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }

    /// A cluster is free again.
    fn released(&self, meta: &mut Meta, cluster: u64) {
        let geometry = self.geometry();
        let offset = cluster << geometry.cluster_bits;
        self.map().forget_table(offset, geometry.cluster_size());
        self.forget_overlap(cluster);
        if meta.byte_hint >> geometry.cluster_bits == cluster {
            meta.byte_hint = 0;
        }
    }

    /// Gives clusters back at once that nothing ever referred to.
    pub async fn unallocate(&self, meta: &mut Meta, offset: u64, clusters: u64) {
        let first = offset >> self.geometry().cluster_bits;
        for cluster in first..first + clusters {
            match meta.refs.decrement(cluster).await {
                Ok(0) => self.released(meta, cluster),
                Ok(_) => {}
                Err(error) => tracing::warn!("qcow2: cluster {cluster} leaks: {error}"),
            }
        }
    }

    /// Sets the dirty bit before the first refcount update that is put off.
    pub async fn mark_dirty_for_lazy(&self) -> Result<()> {
        let lazy = read(&self.run, |run| run.lazy_refcounts) && read(&self.header, |h| h.version >= 3);
        if !lazy || self.is_lazy() {
            return Ok(());
        }
        self.update_header(|header| header.incompatible |= incompatible::DIRTY).await?;
        self.file.flush().await
    }

    /// Writes everything and marks the image as clean.
    pub async fn close(&self) -> Result<()> {
        if self.read_only.load(Ordering::Acquire) || self.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        let cleaned = self.flush_clean(&mut meta).await;
        cleaned.map_err(|error| match (self.map().is_dirty(), meta.refs.is_dirty()) {
            (true, _) => error.context("Failed to flush the L2 table cache"),
            (false, true) => error.context("Failed to flush the refcount block cache"),
            (false, false) => error,
        })
    }

    /// As [`Image::close`], with the bitmaps: the node will not be written any more, for now.
    pub async fn inactivate(&self) -> Result<()> {
        let stored = if self.read_only.load(Ordering::Acquire) || self.broken.load(Ordering::Acquire) {
            Ok(())
        } else {
            let _gate = self.gate.write().await;
            let _one = self.flush_lock.lock().await;
            let mut meta = self.meta.lock().await;
            self.store_bitmaps(&mut meta).await
        };
        self.close().await.and(stored)
    }

    /// Writes everything, and clears the dirty bit.
    pub async fn flush_clean(&self, meta: &mut Meta) -> Result<()> {
        self.flush_all(meta).await?;
        if self.unsettled.load(Ordering::Acquire) {
            self.settle_copied(meta).await?;
        }
        let end = self.bare_end.swap(0, Ordering::AcqRel);
        if end > self.data().len()
            && let Err(error) = self.data().truncate(end, false, Preallocation::Off).await
        {
            // A file that ends inside of its last cluster is fine, too.
            tracing::debug!("qcow2: the last cluster is not filled up: {error}");
        }
        if read(&self.header, |h| h.incompatible & incompatible::DIRTY != 0) {
            self.update_header(|header| header.incompatible &= !incompatible::DIRTY).await?;
            self.file.flush().await?;
        }
        Ok(())
    }
}
