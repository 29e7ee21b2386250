//! Changing options of an existing image.

use block::image::AmendRequest;
use block::{Error, Preallocation, Result};
use iobuf::IoBuf;

use crate::create::{refcount_order, take_version};
use crate::entry::Entry;
use crate::flush::Reason;
use crate::header::{COMPATIBLE_LAZY, autoclear, incompatible};
use crate::image::{Image, change, read};

impl Image {
    /// Changes options.
    pub(crate) async fn amend(&self, mut request: AmendRequest) -> Result<()> {
        self.check_usable()?;
        let options = &mut request.options;
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
        let target = version.unwrap_or(header.version);
        let target_order = order.unwrap_or(header.refcount_order);
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
            self.change_refcount_order(&mut meta, target_order).await?;
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
        if backing_file.is_some() || backing_format.is_some() {
            if backing_file.as_ref().is_some_and(|name| !name.is_empty()) && self.is_raw_data_file() {
                return Err(Error::invalid("Cannot set a backing file on an image with a raw data file"));
            }
            self.update_header(|h| {
                if let Some(name) = backing_file {
                    h.backing_file = Some(name).filter(|name| !name.is_empty());
                }
                if let Some(format) = backing_format {
                    h.backing_format = Some(format).filter(|format| !format.is_empty());
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
            self.downgrade(target).await?;
        }
        Ok(())
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

    async fn downgrade(&self, target: u32) -> Result<()> {
        let header = self.header();
        if header.refcount_order != 4 {
            return Err(Error::unsupported("compat=0.10 requires refcount_bits=16"));
        }
        if header.incompatible & !incompatible::DIRTY != 0 {
            return Err(Error::unsupported("Cannot downgrade an image with incompatible features set"));
        }
        for snapshot in read(&self.snapshots, Clone::clone) {
            if snapshot.info.vm_state_size > u64::from(u32::MAX) || snapshot.info.disk_size != self.len() {
                return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
            }
            for table in self.read_l1(snapshot.l1_offset, snapshot.l1_size).await? {
                let table = table & crate::entry::OFFSET_MASK;
                if table != 0 && self.read_l2(table).await?.iter().any(|e| e.word & crate::entry::ZERO != 0) {
                    return Err(Error::unsupported("Internal snapshots with zero clusters prevent downgrade of image"));
                }
            }
        }
        self.expand_zeroes().await?;
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

    /// Replaces zero clusters by what version 2 can express.
    async fn expand_zeroes(&self) -> Result<()> {
        let _gate = self.gate.read().await;
        let _reader = self.readers.enter();
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let zeroes = IoBuf::zeroed(usize::try_from(cluster).unwrap_or(0));
        let size = self.len();
        let mut at = 0;
        while at < size {
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
        Ok(())
    }
}
