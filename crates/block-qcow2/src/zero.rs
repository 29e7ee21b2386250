//! Zero writes and discards: changes of the mapping alone.

use block::{Error, Result, ZeroFlags};

use crate::entry::{COMPRESSED, COPIED, Entry, Kind, ZERO};
use crate::flush::Reason;
use crate::image::{Image, Meta};

/// Clusters that are changed before the metadata lock is given to others.
const BATCH: u64 = 4096;

impl Image {
    /// Makes a range read as zeroes. The caller is registered as a reader.
    pub(crate) async fn zero_range(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let geometry = self.geometry();
        if geometry.no_zero_flag {
            let cluster = geometry.cluster_size();
            let end = if offset + len == self.len() { (offset + len).next_multiple_of(cluster) } else { offset + len };
            if self.backing.get().is_some() || (offset | end) & (cluster - 1) != 0 {
                return Err(Error::unsupported("The zero flag needs version 3 of qcow2"));
            }
            // What is not allocated reads as zeroes.
            return self.discard_clusters(offset, end, Reason::Request, false).await;
        }
        let unit = geometry.subcluster_size();
        let mut end = offset + len;
        if end == self.len() {
            end = end.next_multiple_of(unit);
        }
        let start = offset & !(unit - 1);
        if (offset | end) & (unit - 1) != 0 {
            let unit_end = start + unit;
            if end > unit_end || self.is_raw_data_file() {
                return Err(Error::unsupported("Zeroes of part of a cluster have to be written"));
            }
            return self.zero_around(offset, end, flags).await;
        }
        if self.is_raw_data_file() {
            self.data().write_zeroes(offset, len, flags).await?;
        }
        self.zero_units(offset, end, flags).await
    }

    /// Zeroes the unit around `from .. to` if the rest of it reads as zeroes.
    async fn zero_around(&self, from: u64, to: u64, flags: ZeroFlags) -> Result<()> {
        let geometry = self.geometry();
        let unit = geometry.subcluster_size();
        let start = from & !(unit - 1);
        let cluster_start = from & !(geometry.cluster_size() - 1);
        let (mut meta, _) = self.lock_range(cluster_start, start + unit).await?;
        let run = self.find(start, unit, false).await?;
        let size = self.len();
        let rest_is_zero = run.kind.is_zero()
            || (run.kind.is_unallocated()
                && self.backing_is_zero(start, from - start).await?
                && self.backing_is_zero(to, (start + unit).min(size).max(to) - to).await?);
        if !rest_is_zero {
            return Err(Error::unsupported("Zeroes of part of a cluster have to be written"));
        }
        self.mark_dirty_for_lazy().await?;
        self.zero_locked(&mut meta, start, start + unit, flags).await.map(|_| ())
    }

    pub(crate) async fn zero_units(&self, start: u64, end: u64, flags: ZeroFlags) -> Result<()> {
        let cluster = self.cluster_size();
        let mut at = start;
        while at < end {
            let (mut meta, limit) = self.lock_range(at & !(cluster - 1), end).await?;
            self.mark_dirty_for_lazy().await?;
            at = self.zero_locked(&mut meta, at, limit, flags).await?;
            drop(meta);
            self.relieve().await?;
        }
        Ok(())
    }

    /// Zeroes up to [`BATCH`] clusters; where it stopped.
    async fn zero_locked(&self, meta: &mut Meta, start: u64, end: u64, flags: ZeroFlags) -> Result<u64> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let mut at = start;
        for _ in 0..BATCH {
            if at >= end {
                break;
            }
            let guest = at & !(cluster - 1);
            let to = end.min(guest + cluster);
            self.ensure_table(meta, guest).await?;
            let old = self.entry(guest).await?;
            if at == guest && to == guest + cluster {
                self.zero_cluster(meta, guest, old, flags).await?;
            } else {
                self.zero_part(guest, old, at - guest, to - guest).await?;
            }
            at = to;
        }
        Ok(at)
    }

    async fn zero_cluster(&self, meta: &mut Meta, guest: u64, old: Entry, flags: ZeroFlags) -> Result<()> {
        let geometry = self.geometry();
        let compressed = old.word & COMPRESSED != 0;
        let has_host = geometry.host(old).is_some();
        let unmap = compressed || (flags.may_unmap && has_host && !self.is_raw_data_file());
        let new = self.zero_entry(old, !unmap && has_host);
        if new == old {
            return Ok(());
        }
        self.set_entry(guest, new).await?;
        if unmap {
            self.free_entry(meta, old, Reason::Request).await;
        }
        Ok(())
    }

    async fn zero_part(&self, guest: u64, old: Entry, from: u64, to: u64) -> Result<()> {
        if old.word & COMPRESSED != 0 {
            return Err(Error::unsupported("Zeroes of part of a compressed cluster have to be written"));
        }
        let unit = self.geometry().subcluster_size();
        let mask = (from / unit..to.div_ceil(unit)).fold(0u64, |mask, sub| mask | 1 << sub);
        let new = Entry { word: old.word, bitmap: (old.bitmap & !mask) | (mask << 32) };
        if new == old { Ok(()) } else { self.set_entry(guest, new).await }
    }

    /// Gives whole clusters back. The caller is registered as a reader.
    pub(crate) async fn discard_range(&self, offset: u64, len: u64) -> Result<()> {
        if self.geometry().no_zero_flag && self.backing.get().is_some() {
            return Err(Error::unsupported("Without the zero flag old data of the backing would show"));
        }
        let cluster = self.cluster_size();
        let mut end = offset + len;
        if (offset | end) & (cluster - 1) != 0 {
            // A part of a cluster counts as a whole one at the end of the disk only.
            if offset & (cluster - 1) != 0 || end != self.len() {
                return Err(Error::unsupported("Only whole clusters can be discarded"));
            }
            end = end.next_multiple_of(cluster);
        }
        self.discard_clusters(offset, end, Reason::Request, false).await
    }

    /// Discards clusters. `full`: even if the backing becomes visible.
    pub(crate) async fn discard_clusters(&self, start: u64, end: u64, reason: Reason, full: bool) -> Result<()> {
        let cluster = self.cluster_size();
        let mut at = start;
        while at < end {
            let (mut meta, limit) = self.lock_range(at, end).await?;
            self.mark_dirty_for_lazy().await?;
            for _ in 0..BATCH {
                if at >= limit {
                    break;
                }
                at = self.discard_cluster(&mut meta, at, reason, full).await?.min(limit);
            }
            drop(meta);
            self.relieve().await?;
            at = at.next_multiple_of(cluster);
        }
        Ok(())
    }

    /// Discards one cluster (or all of an L2 table that does not exist); where to go on.
    pub(crate) async fn discard_cluster(&self, meta: &mut Meta, guest: u64, reason: Reason, full: bool) -> Result<u64> {
        let geometry = self.geometry();
        let has_backing = self.backing.get().is_some();
        let located = self.map().locate(&geometry, guest);
        if matches!(located, Ok(None)) && (full || !has_backing) {
            return Ok(((guest >> geometry.l1_shift()) + 1) << geometry.l1_shift());
        }
        let next = guest + geometry.cluster_size();
        let old = self.entry(guest).await?;
        let kind = geometry.kind(old, 0);
        let allocated = geometry.host(old).is_some() || kind == Some(Kind::Compressed);
        let new = if full || (!has_backing && !allocated && !geometry.extended && old.word & ZERO == 0) {
            Entry::default()
        } else if !has_backing && !allocated {
            old
        } else if geometry.no_zero_flag {
            Entry::default()
        } else {
            self.zero_entry(Entry::default(), false)
        };
        if new == old {
            return Ok(next);
        }
        self.ensure_table(meta, guest).await?;
        self.set_entry(guest, new).await?;
        debug_assert!(old.word & COPIED == 0 || allocated || old.word & COMPRESSED != 0);
        self.free_entry(meta, old, reason).await;
        Ok(next)
    }
}
