//! Resizing, and preallocation.

use std::sync::atomic::Ordering;

use block::{Error, Preallocation, Result, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

use crate::entry::{ALL_ZERO, COPIED, Entry, Kind, OFFSET_MASK};
use crate::flush::Reason;
use crate::header::MAX_L1_BYTES;
use crate::image::{Image, Meta, read};

/// Bytes that are written at once for full preallocation.
const FILL: u64 = 1 << 20;

impl Image {
    /// Changes the size of the disk.
    pub(crate) async fn truncate(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        if len & 511 != 0 {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        let old = self.len();
        self.check_bitmaps_for_resize()?;
        if len != old && read(&self.header, |h| h.version) < 3 && !read(&self.snapshots, Vec::is_empty) {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
        }
        if len < old {
            if preallocation != Preallocation::Off {
                return Err(Error::invalid("Preallocation can't be used for shrinking an image"));
            }
            self.shrink(len).await
        } else {
            self.grow(old, len, preallocation).await
        }
    }

    async fn shrink(&self, len: u64) -> Result<()> {
        let cluster = self.cluster_size();
        {
            let _gate = self.gate.read().await;
            let end = self.len().next_multiple_of(cluster);
            self.discard_clusters(len.next_multiple_of(cluster), end, Reason::Always, true).await?;
        }
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.flush_all(&mut meta).await?;
        // L2 tables that are behind the end hold nothing any more.
        let geometry = self.geometry();
        let needed = usize::try_from(geometry.l1_needed(len)).unwrap_or(usize::MAX);
        let dropped: Vec<(usize, u64)> = {
            let map = self.map();
            map.l1
                .iter()
                .enumerate()
                .skip(needed)
                .filter(|(_, e)| **e & OFFSET_MASK != 0)
                .map(|(i, e)| (i, *e))
                .collect()
        };
        self.file.event("l1_shrink_write_table").await;
        self.file.event("l1_shrink_free_l2_clusters").await;
        for (index, entry) in dropped {
            self.map().set_l1(index, 0);
            self.free(&mut meta, entry & OFFSET_MASK, 1, Reason::Always);
        }
        self.update_header(|h| h.size = len).await?;
        self.size.store(len, Ordering::Release);
        self.flush_all(&mut meta).await?;
        if self.has_data_file() {
            if self.data().len() > len {
                self.data().truncate(len, false, Preallocation::Off).await?;
            }
            return Ok(());
        }
        self.cut_file(&mut meta).await
    }

    /// Gives the end of the file back.
    async fn cut_file(&self, meta: &mut Meta) -> Result<()> {
        let cluster = self.cluster_size();
        let blocks = meta.refs.drop_empty_blocks().await?;
        if !blocks.is_empty() {
            self.flush_all(meta).await?;
            for offset in blocks {
                if meta.refs.count(offset / cluster).await? != 0 {
                    self.free(meta, offset, 1, Reason::Always);
                }
            }
            self.flush_all(meta).await?;
        }
        let mut last = self.file.len().div_ceil(cluster);
        while last > 0 && meta.refs.count(last - 1).await? == 0 {
            last -= 1;
        }
        if last * cluster < self.file.len() {
            self.file.truncate(last * cluster, false, Preallocation::Off).await?;
        }
        Ok(())
    }

    /// Drops all data, so that the backing shows through everywhere.
    pub(crate) async fn make_empty(&self) -> Result<()> {
        self.check_usable()?;
        for event in ["empty_image_prepare", "reftable_update", "refblock_alloc", "l1_update"] {
            self.file.event(event).await;
        }
        {
            let _gate = self.gate.read().await;
            let end = self.map().l1.len() as u64 * (1 << self.geometry().l1_shift());
            self.discard_clusters(0, end, Reason::Snapshot, true).await?;
        }
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        let tables: Vec<(usize, u64)> = self.map().l1.iter().copied().enumerate().collect();
        for (index, entry) in tables {
            if entry & OFFSET_MASK != 0 {
                self.map().set_l1(index, 0);
                self.free(&mut meta, entry & OFFSET_MASK, 1, Reason::Snapshot);
            }
        }
        self.flush_all(&mut meta).await?;
        if self.has_data_file() { Ok(()) } else { self.cut_file(&mut meta).await }
    }

    async fn grow(&self, old: u64, len: u64, preallocation: Preallocation) -> Result<()> {
        let geometry = self.geometry();
        let needed = geometry.l1_needed(len);
        if needed * 8 > MAX_L1_BYTES {
            return Err(Error::too_big("The image would be too big for its cluster size"));
        }
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        self.drop_vm_state().await?;
        {
            let _gate = self.gate.write().await;
            let _one = self.flush_lock.lock().await;
            let mut meta = self.meta.lock().await;
            self.check_usable()?;
            if needed > self.map().l1.len() {
                self.flush_all(&mut meta).await?;
                let mut l1 = self.map().l1.clone();
                let place = read(&self.header, |h| h.l1_offset);
                let clusters = (l1.len() as u64 * 8).div_ceil(geometry.cluster_size());
                l1.resize(needed, 0);
                self.move_l1(&mut meta, l1, old).await?;
                if place != 0 && clusters != 0 {
                    self.free(&mut meta, place, clusters, Reason::Other);
                }
                self.rebuild_table_overlap(&meta);
                self.add_inactive_l2().await?;
            }
        }
        // Who reads the data file as a raw image reads what the image shows: no cluster may be left to other sources.
        let preallocation = match preallocation {
            Preallocation::Off if self.is_raw_data_file() => Preallocation::Metadata,
            asked => asked,
        };
        // What the last cluster holds behind the old end, and what the backing has there, must not appear.
        self.size.store(len, Ordering::Release);
        let result = async {
            self.hide_tail(old, len).await?;
            match preallocation {
                Preallocation::Off => {
                    if let Some(data) = &self.data_file
                        && data.len() < len
                    {
                        data.truncate(len, false, Preallocation::Off).await?;
                    }
                    Ok(())
                }
                mode => self.preallocate(old, len, mode).await,
            }
        }
        .await;
        if let Err(error) = result {
            self.size.store(old, Ordering::Release);
            return Err(error);
        }
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.flush_all(&mut meta).await?;
        self.update_header(|h| h.size = len).await
    }

    async fn hide_tail(&self, old: u64, len: u64) -> Result<()> {
        let cluster = self.cluster_size();
        let tail_end = old.next_multiple_of(cluster).min(len);
        let _gate = self.gate.read().await;
        let _reader = self.readers.enter();
        if old < tail_end && !self.reads_as_zero(old, tail_end - old).await? {
            let run = self.find(old, tail_end - old, false).await?;
            if !run.kind.is_unallocated() || self.backing.get().is_some_and(|b| b.len() > old) {
                self.write_range(old, IoBuf::zeroed(usize::try_from(tail_end - old).unwrap_or(0))).await?;
            }
        }
        let Some(backing) = self.backing.get() else { return Ok(()) };
        let end = backing.len().min(len);
        if tail_end >= end {
            return Ok(());
        }
        let end = end.next_multiple_of(cluster);
        if self.geometry().no_zero_flag {
            let mut at = tail_end;
            while at < end.min(len) {
                let n = FILL.min(end.min(len) - at);
                self.write_range(at, IoBuf::zeroed(usize::try_from(n).unwrap_or(0))).await?;
                at += n;
            }
            return Ok(());
        }
        self.zero_units(tail_end, end, ZeroFlags::default()).await
    }

    /// Allocates all clusters from `old` to `len`.
    async fn preallocate(&self, old: u64, len: u64, mode: Preallocation) -> Result<()> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let mut at = old.next_multiple_of(cluster);
        if at > old {
            // The last cluster so far gets its space, too, if it has none and holds nothing.
            let first = at - cluster;
            let run = self.find(first, cluster, false).await?;
            let is_bare = matches!(run.kind, Kind::Unallocated | Kind::ZeroPlain) && run.len >= cluster;
            if is_bare && self.reads_as_zero(first, cluster).await? {
                at = first;
            }
        }
        if mode != Preallocation::Metadata && at > old {
            self.reserve_tail(old, at - old).await?;
        }
        let mut end_of_data = 0;
        let encrypted = read(&self.header, |h| h.crypt_method != 0);
        while at < len {
            let mut meta = self.meta.lock().await;
            self.ensure_table(&mut meta, at).await?;
            let table_end = (((at >> geometry.l1_shift()) + 1) << geometry.l1_shift()).min(len);
            let want = (table_end - at).div_ceil(cluster);
            let (host, count) = if self.has_data_file() { (at, want) } else { meta.refs.allocate_up_to(want).await? };
            self.note_made(&mut meta);
            if !self.has_data_file() {
                self.check_allocation(host, count * cluster, "data cluster").await?;
            }
            let len_here = count * cluster;
            let reserved = mode == Preallocation::Falloc && self.reserve_space(host, len_here).await?;
            if reserved {
                // It reads as zeroes, too.
            } else if mode == Preallocation::Full || (!self.has_data_file() && host < self.data().len()) {
                let stale_end = if mode == Preallocation::Full { host + count * cluster } else { self.data().len() };
                self.fill(host, stale_end.min(host + count * cluster)).await?;
            }
            for index in 0..count {
                // What shows through or was zeroed stays so.
                let bitmap =
                    if geometry.extended { self.entry(at + index * cluster).await?.bitmap & ALL_ZERO } else { 0 };
                let mut entry = Entry { word: (host + index * cluster) | COPIED, bitmap };
                if encrypted && !geometry.no_zero_flag {
                    // What is there would not decrypt to zeroes.
                    entry = self.zero_entry(entry, true);
                }
                self.set_entry(at + index * cluster, entry).await?;
            }
            end_of_data = end_of_data.max(host + count * cluster);
            at += count * cluster;
            drop(meta);
            self.relieve().await?;
        }
        let data_end = if self.has_data_file() { len } else { end_of_data };
        if self.data().len() < data_end {
            let below = if mode == Preallocation::Falloc { mode } else { Preallocation::Off };
            match self.data().truncate(data_end, false, below).await {
                Err(error) if error.is_unsupported() && below == Preallocation::Falloc => {
                    self.data().truncate(data_end, false, Preallocation::Off).await?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Lets the host allocate the rest of a cluster whose beginning is in use: it reads as zeroes, and may be a hole.
    async fn reserve_tail(&self, offset: u64, len: u64) -> Result<()> {
        let run = self.find(offset, len, false).await?;
        if matches!(run.kind, Kind::Normal | Kind::ZeroHost) && run.len >= len && !self.encryption.is_on() {
            // A host that can't do it has no holes either.
            self.reserve_space(run.host, len).await?;
        }
        Ok(())
    }

    /// Lets the host allocate a range that reads as zeroes; false if it can't.
    async fn reserve_space(&self, start: u64, len: u64) -> Result<bool> {
        let flags = ZeroFlags { may_unmap: false, no_fallback: true, fua: false };
        match self.data().write_zeroes(start, len, flags).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_unsupported() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fill(&self, start: u64, end: u64) -> Result<()> {
        let zeroes = IoBuf::zeroed(usize::try_from(FILL.min(end.saturating_sub(start))).unwrap_or(0));
        let mut at = start;
        while at < end {
            let n = FILL.min(end - at);
            let part = zeroes.slice(0, usize::try_from(n).unwrap_or(0));
            self.data().write(at, part, WriteFlags::default()).await?;
            at += n;
        }
        Ok(())
    }
}
