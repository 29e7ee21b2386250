//! Changing options of an existing image.

use std::collections::HashSet;

use block::image::{AmendProgress, AmendRequest};
use block::{Error, Preallocation, Result};
use iobuf::IoBuf;

use crate::create::{refcount_order, take_version};
use crate::entry::{COMPRESSED, COPIED, Entry, OFFSET_MASK, ZERO};
use crate::flush::Reason;
use crate::header::{COMPATIBLE_LAZY, autoclear, incompatible};
use crate::image::{Image, Meta, change, read};
use crate::snapshot::Snapshot;

impl Image {
    /// Changes options.
    pub(crate) async fn amend(&self, mut request: AmendRequest) -> Result<()> {
        self.check_usable()?;
        let options = &mut request.options;
        if let Some(level) = options.get_str("compat").filter(|level| !["0.10", "v2", "1.1", "v3"].contains(level)) {
            return Err(Error::invalid(format!("Unknown compatibility level {level}")));
        }
        let version = take_version(options)?;
        let lazy = options.take_bool("lazy_refcounts")?;
        let order = options.take_u64("refcount_bits")?.map(refcount_order).transpose()?;
        let size = options.take_size("size")?;
        let backing_file = options.take_str("backing_file")?;
        let backing_format = options.take_str("backing_fmt")?;
        let data_file = options.take_str("data_file")?;
        let data_file_raw = options.take_bool("data_file_raw")?;
        let encrypt = options.take_below("encrypt");
        if let Some((name, _)) = options.iter().next() {
            return Err(Error::unsupported(format!("Cannot change the option '{name}'")));
        }
        let header = self.header();
        let differs = |given: &Option<String>, own: &Option<String>| {
            given.as_deref().is_some_and(|given| given != own.as_deref().unwrap_or_default())
        };
        if differs(&backing_file, &header.backing_file) || differs(&backing_format, &header.backing_format) {
            let error = Error::invalid("Cannot amend the backing file");
            return Err(error.with_hint("You can use 'qemu-img rebase' instead."));
        }
        let target = version.unwrap_or(header.version);
        let target_order = order.unwrap_or(header.refcount_order);
        let long_steps = 1 + u64::from(target < header.version && target_order != header.refcount_order);
        if data_file_raw == Some(true) && header.autoclear & autoclear::DATA_RAW == 0 {
            return Err(Error::invalid("data-file-raw cannot be set on existing images"));
        }
        if data_file.is_some() && !self.has_data_file() {
            return Err(Error::invalid("data-file can only be set for images that use an external data file"));
        }
        if target < 3 && order.is_some() && target_order != 4 {
            return Err(Error::invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            ));
        }
        if target < 3 && lazy == Some(true) {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        self.amend_encryption(encrypt, request.force).await?;
        if target > header.version {
            self.complete_snapshots().await?;
            self.update_header(|h| {
                h.version = target;
                h.feature_table = true;
            })
            .await?;
            self.set_version(target);
        }
        if target_order != header.refcount_order {
            let _gate = self.gate.write().await;
            let _one = self.flush_lock.lock().await;
            let mut meta = self.meta.lock().await;
            self.change_refcount_order(&mut meta, target_order, &request.progress.part(0, long_steps)).await?;
            // The old blocks and the old table are not counted any more.
        }
        if data_file.is_some() || data_file_raw == Some(false) {
            self.update_header(|h| {
                if let Some(name) = data_file {
                    h.data_file = Some(name).filter(|name| !name.is_empty());
                }
                if data_file_raw == Some(false) {
                    h.autoclear &= !autoclear::DATA_RAW;
                }
            })
            .await?;
        }
        if let Some(lazy) = lazy {
            self.set_lazy(lazy).await?;
        }
        if let Some(size) = size {
            self.truncate(size.next_multiple_of(512), Preallocation::Off).await?;
        }
        if target < header.version {
            self.downgrade(target, &request.progress.part(long_steps - 1, long_steps)).await?;
        }
        Ok(())
    }

    /// Version 3 demands more of an entry of the snapshot table.
    async fn complete_snapshots(&self) -> Result<()> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        let snapshots = read(&self.snapshots, Clone::clone);
        if !snapshots.iter().any(Snapshot::is_incomplete) {
            return Ok(());
        }
        self.write_snapshots(&mut meta, snapshots).await?;
        self.flush_all(&mut meta).await?;
        self.rebuild_table_overlap(&meta);
        self.add_inactive_l2().await
    }

    async fn set_lazy(&self, lazy: bool) -> Result<()> {
        if lazy && read(&self.header, |h| h.version) < 3 {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        if !lazy {
            let _gate = self.gate.write().await;
            let _one = self.flush_lock.lock().await;
            let mut meta = self.meta.lock().await;
            self.flush_clean(&mut meta).await?;
        }
        self.update_header(|h| {
            h.compatible = if lazy { h.compatible | COMPATIBLE_LAZY } else { h.compatible & !COMPATIBLE_LAZY };
        })
        .await?;
        change(&self.run, |run| run.lazy_refcounts = lazy);
        Ok(())
    }

    async fn downgrade(&self, target: u32, progress: &AmendProgress) -> Result<()> {
        let header = self.header();
        if header.refcount_order != 4 {
            return Err(Error::unsupported("compat=0.10 requires refcount_bits=16"));
        }
        if self.has_data_file() {
            return Err(Error::unsupported("Cannot downgrade an image with a data file"));
        }
        let features = header.incompatible & !incompatible::DIRTY;
        if features != 0 {
            let text = format!("Cannot downgrade an image with incompatible features {features:#x} set");
            return Err(Error::unsupported(text));
        }
        let snapshots = read(&self.snapshots, Clone::clone);
        for snapshot in &snapshots {
            if snapshot.info.vm_state_size > u64::from(u32::MAX) || snapshot.info.disk_size != self.len() {
                return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
            }
        }
        let entries = self.map().l1.len() as u64;
        let total = snapshots.iter().map(|snapshot| u64::from(snapshot.l1_size)).sum::<u64>() + entries;
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress.update(done, total);
        };
        self.expand_zeroes(&mut step).await?;
        self.expand_zeroes_of_snapshots(&snapshots, &mut step).await?;
        // Version 2 can't say that bitmaps are up to date.
        for bitmap in self.node_bitmaps.list().iter().filter(|bitmap| bitmap.is_persistent()) {
            self.node_bitmaps.release(bitmap);
        }
        self.remove_stored(None).await?;
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.flush_clean(&mut meta).await?;
        self.update_header(|h| {
            h.version = target;
            h.incompatible = 0;
            h.compatible = 0;
            h.autoclear = 0;
            h.unknown_fields.clear();
            h.feature_table = false;
            h.bitmaps = None;
        })
        .await?;
        self.set_version(target);
        change(&self.run, |run| run.lazy_refcounts = false);
        self.file.flush().await
    }

    /// Does the same for what the snapshots refer to. Their tables are changed where they are: a zero cluster and what
    /// replaces it read the same.
    async fn expand_zeroes_of_snapshots(&self, snapshots: &[Snapshot], step: &mut (dyn FnMut() + Send)) -> Result<()> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.flush_all(&mut meta).await?;
        let mut seen = HashSet::new();
        for snapshot in snapshots {
            for entry in self.read_l1(snapshot.l1_offset, snapshot.l1_size).await? {
                let table = entry & OFFSET_MASK;
                if table != 0 && seen.insert(table) {
                    self.expand_table(&mut meta, table).await?;
                }
                step();
            }
        }
        self.flush_all(&mut meta).await
    }

    /// Replaces the zero clusters of an L2 table that is not the active one.
    async fn expand_table(&self, meta: &mut Meta, table: u64) -> Result<()> {
        let geometry = self.geometry();
        let mut entries = self.read_l2(table).await?;
        if !entries.iter().any(|entry| entry.word & COMPRESSED == 0 && entry.word & ZERO != 0) {
            return Ok(());
        }
        let times = meta.refs.count(table >> geometry.cluster_bits).await?.max(1);
        let has_backing = self.backing.get().is_some();
        let zeroes = vec![0; usize::try_from(geometry.cluster_size()).unwrap_or(0)];
        let mut old = Vec::new();
        for entry in entries.iter_mut().filter(|entry| entry.word & COMPRESSED == 0 && entry.word & ZERO != 0) {
            old.extend(geometry.host(*entry));
            *entry = Entry::default();
            if !has_backing {
                continue;
            }
            let host = meta.refs.allocate(1).await?;
            self.note_made(meta);
            for _ in 1..times {
                meta.refs.increment(host >> geometry.cluster_bits).await?;
            }
            self.file.write_bytes(host, &zeroes).await?;
            entry.word = if times == 1 { host | COPIED } else { host };
        }
        // The new clusters are counted before anything refers to them, and the old ones as long as something does.
        self.flush_all(meta).await?;
        self.write_l2(table, &entries).await?;
        self.barrier().await?;
        for host in old {
            for _ in 0..times {
                self.free(meta, host, 1, Reason::Other);
            }
        }
        self.flush_all(meta).await
    }

    /// Replaces zero clusters by what version 2 can express. `step` is called for each entry of the L1 table.
    async fn expand_zeroes(&self, step: &mut (dyn FnMut() + Send)) -> Result<()> {
        let _gate = self.gate.read().await;
        let _reader = self.readers.enter();
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let zeroes = IoBuf::zeroed(usize::try_from(cluster).unwrap_or(0));
        let size = self.len();
        let mut at = 0;
        let mut entries = 0;
        while at < size {
            while entries < at >> geometry.l1_shift() {
                entries += 1;
                step();
            }
            let run = self.find(at, size - at, false).await?;
            let end = at + run.len;
            if !run.kind.is_zero() {
                at = end;
                continue;
            }
            if self.backing.get().is_some() {
                let n = cluster.min(size - at);
                self.write_range(at, zeroes.slice(0, usize::try_from(n).unwrap_or(0))).await?;
            } else {
                let (mut meta, _) = self.lock_range(at, at + cluster).await?;
                self.ensure_table(&mut meta, at).await?;
                let old = self.entry(at).await?;
                self.set_entry(at, Entry::default()).await?;
                self.free_entry(&mut meta, old, Reason::Other).await;
            }
            at += cluster;
            self.relieve().await?;
        }
        for _ in entries..self.map().l1.len() as u64 {
            step();
        }
        Ok(())
    }
}
