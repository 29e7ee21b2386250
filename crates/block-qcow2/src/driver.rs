//! The driver: requests of the node to the image.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::image::{AmendRequest, CheckResult, FixMode, ImageBacking, ImageDetails, SnapshotInfo};
use block::{
    BackingSlot, BlockStatus, Child, Driver, Error, IoFuture, Limits, Options, Preallocation, Result, Value,
    WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

use crate::header::{COMPATIBLE_LAZY, autoclear, incompatible};
use crate::image::{Image, change, read};
use crate::runtime::RunOptions;

/// An open qcow2 node.
pub struct Qcow2 {
    pub(crate) image: Image,
}

impl Qcow2 {
    async fn guarded<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _gate = self.image.gate.read().await;
        let _reader = self.image.readers.enter();
        work.await
    }

    /// Tells of refcount structures that were found damaged.
    async fn report_damage(&self) {
        let damage = self.image.meta.lock().await.refs.take_damage();
        if let Some(text) = damage {
            self.image.corrupt(&text).await;
        }
    }

    async fn writing<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.image.check_usable()?;
        let result = self.guarded(work).await;
        if result.is_err() {
            self.report_damage().await;
        }
        result
    }

    /// Shows the disk as it was at a snapshot, until the node is closed.
    ///
    /// # Errors
    /// If the node is writable, there is no such snapshot, or it can't be read.
    pub async fn load_snapshot(&self, name: &str) -> Result<()> {
        if !self.image.read_only.load(Ordering::Acquire) {
            return Err(Error::invalid("Device is not readonly"));
        }
        let (_, snapshot) = self.image.find_snapshot(name)?;
        let l1 = self.image.read_l1(snapshot.l1_offset, snapshot.l1_size).await?;
        let _gate = self.image.gate.write().await;
        {
            let mut map = self.image.map();
            map.drop_slices();
            map.replace_l1(l1);
        }
        self.image.size.store(snapshot.info.disk_size, Ordering::Release);
        Ok(())
    }
}

fn specific(image: &Image) -> Value {
    let header = image.header();
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut put = |name: &str, value: Value| entries.push((name.to_owned(), value));
    if header.version < 3 {
        put("compat", "0.10".into());
        put("compression-type", "zlib".into());
        put("refcount-bits", 16u64.into());
    } else {
        put("compat", "1.1".into());
        put("compression-type", if header.compression == 1 { "zstd" } else { "zlib" }.into());
        put("lazy-refcounts", (header.compatible & COMPATIBLE_LAZY != 0).into());
        put("refcount-bits", (1u64 << header.refcount_order).into());
        put("corrupt", (header.incompatible & incompatible::CORRUPT != 0).into());
        put("extended-l2", header.is_extended().into());
        if header.incompatible & incompatible::DATA_FILE != 0 {
            if let Some(name) = &header.data_file {
                put("data-file", name.as_str().into());
            }
            put("data-file-raw", (header.autoclear & autoclear::DATA_RAW != 0).into());
        }
        let bitmaps: Vec<Value> = read(&image.bitmaps, |all| all.iter().map(|b| b.to_value()).collect());
        if !bitmaps.is_empty() {
            put("bitmaps", Value::List(bitmaps));
        }
    }
    if let Some(encryption) = image.encryption_value(header.crypt_method) {
        entries.push(("encrypt".to_owned(), encryption));
    }
    Value::Dict(entries)
}

impl Driver for Qcow2 {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn limits(&self) -> Limits {
        let geometry = self.image.geometry();
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        Limits {
            request_alignment: if self.image.encryption.is_on() { 512 } else { 1 },
            discard_alignment: narrow(geometry.cluster_size()),
            zeroes_alignment: narrow(geometry.subcluster_size()),
            ..Limits::default()
        }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        let mut children = vec![Arc::clone(&self.image.file)];
        children.extend(self.image.data_file.clone());
        children
    }

    fn backing(&self) -> Option<&Arc<BackingSlot>> {
        Some(&self.image.backing)
    }

    fn data_child(&self) -> Option<Arc<Child>> {
        Some(Arc::clone(self.image.data()))
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.guarded(self.image.read_range(offset, buf)))
    }

    fn reads_at_once(&self) -> bool {
        true
    }

    fn reads_through(&self, offset: u64, len: u64) -> Option<&Arc<BackingSlot>> {
        let _gate = self.image.gate.try_read().ok()?;
        // Where errors are injected, each step is made.
        let plain = self.image.file.node().driver().reads_at_once();
        let is_below = plain && self.image.is_unallocated(offset, len);
        is_below.then_some(&self.image.backing)
    }

    fn look_up(&self, offset: u64, len: u64) -> IoFuture<'_, bool> {
        Box::pin(async move {
            if !self.image.file.node().driver().reads_at_once() {
                return Ok(false);
            }
            let run = self.guarded(self.image.find(offset, len, false)).await?;
            Ok(run.kind.is_unallocated() && !run.kind.is_zero() && run.len >= len)
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        if flags.compressed {
            return self.write_compressed(offset, buf);
        }
        Box::pin(self.writing(self.image.write_range(offset, buf)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(self.writing(self.image.zero_range(offset, len, flags)))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(self.writing(self.image.discard_range(offset, len)))
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move {
            if self.image.read_only.load(Ordering::Acquire) {
                return Ok(());
            }
            let result = self.image.flush().await;
            if result.is_err() {
                self.report_damage().await;
            }
            result
        })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        let _ = exact;
        Box::pin(self.image.truncate(len, preallocation))
    }

    fn block_status(&self, offset: u64, len: u64, precise: bool) -> IoFuture<'_, BlockStatus> {
        let _ = precise;
        Box::pin(self.guarded(self.image.status(offset, len)))
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.writing(self.image.write_compressed(offset, buf)))
    }

    fn exact_filename(&self) -> Option<String> {
        // As QEMU has it: whatever data file was given, the image's own name stands for both.
        if self.image.data_file.is_some() { block::filename::exact(&self.image.file.node()) } else { None }
    }

    fn details(&self) -> ImageDetails {
        let header = self.image.header();
        ImageDetails {
            cluster_size: Some(self.image.cluster_size()),
            dirty: Some(header.incompatible & incompatible::DIRTY != 0),
            encrypted: header.crypt_method != 0,
            vm_state_offset: Some(self.image.vm_state_start()),
            unallocated_is_zero: true,
            corrupt: header.incompatible & incompatible::CORRUPT != 0,
            specific: Some(("qcow2".to_owned(), specific(&self.image))),
            ..ImageDetails::default()
        }
    }

    fn image_backing(&self) -> Option<ImageBacking> {
        read(&self.image.header, |header| {
            let file = header.backing_file.clone()?;
            Some(ImageBacking { file, format: header.backing_format.clone() })
        })
    }

    fn change_backing(&self, backing: Option<ImageBacking>) -> IoFuture<'_> {
        Box::pin(async move {
            self.image.check_usable()?;
            if backing.is_some() && self.image.is_raw_data_file() {
                return Err(Error::invalid("An external data file that stays raw can't have a backing file"));
            }
            self.image
                .update_header(|h| {
                    h.backing_format = backing.as_ref().and_then(|b| b.format.clone());
                    h.backing_file = backing.map(|b| b.file);
                })
                .await
        })
    }

    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        Box::pin(self.image.check(fix))
    }

    fn amend(&self, request: AmendRequest) -> IoFuture<'_> {
        Box::pin(self.image.amend(request))
    }

    fn can_store_bitmap(&self, name: &str, granularity: u64) -> Result<()> {
        self.image.can_store_bitmap(name, granularity)
    }

    fn remove_stored_bitmap(&self, name: String) -> IoFuture<'_> {
        Box::pin(async move { self.image.remove_stored(Some(&name)).await })
    }

    fn has_snapshots(&self) -> bool {
        true
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(read(&self.image.snapshots, |all| all.iter().map(|s| s.info.clone()).collect()))
    }

    fn snapshot_create(&self, info: SnapshotInfo) -> IoFuture<'_> {
        Box::pin(async move {
            self.image.snapshot_create(info).await?;
            self.image.drop_vm_state().await?;
            self.image.flush().await
        })
    }

    fn snapshot_apply(&self, name: String) -> IoFuture<'_> {
        Box::pin(async move {
            if !self.image.node_bitmaps.list().is_empty() {
                return Err(Error::busy("Device has active dirty bitmaps"));
            }
            self.image.snapshot_apply(&name).await
        })
    }

    fn snapshot_delete(&self, name: String) -> IoFuture<'_> {
        Box::pin(async move { self.image.snapshot_delete(&name).await })
    }

    fn read_vm_state(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.image.read_vm_state(offset, buf))
    }

    fn write_vm_state(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.image.write_vm_state(offset, buf))
    }

    fn snapshot_load(&self, name: String) -> IoFuture<'_> {
        Box::pin(async move { self.load_snapshot(&name).await })
    }

    fn make_empty(&self) -> IoFuture<'_> {
        Box::pin(self.image.make_empty())
    }

    fn strong_options(&self) -> Options {
        match &self.image.encryption.key_secret {
            Some(secret) => Options::new().with("encrypt.key-secret", secret.as_str()),
            None => Options::new(),
        }
    }

    fn reopen(&self, mut options: Options, read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            let header = self.image.header();
            let unmap = read(&self.image.run, |run| run.passes(crate::flush::Reason::Request));
            let run = RunOptions::take(&mut options, &header, unmap)?;
            let mut encrypt = options.take_below("encrypt");
            encrypt.take("format");
            if encrypt.take_str("key-secret")? != self.image.encryption.key_secret || !encrypt.is_empty() {
                return Err(Error::invalid("Cannot change the options of encryption"));
            }
            if let Some((name, _)) = options.iter().next() {
                return Err(Error::invalid(format!("Cannot change the option '{name}'")));
            }
            let was_read_only = self.image.read_only.load(Ordering::Acquire);
            if !read_only && header.incompatible & incompatible::CORRUPT != 0 {
                return Err(Error::permission("Can't make a corrupt image read/write"));
            }
            if !was_read_only {
                // Everything is clean afterwards, so that caches may change their sizes.
                if read_only { self.image.inactivate().await? } else { self.image.close().await? }
            }
            let geometry = self.image.geometry();
            let (slices, slice_bytes) = run.l2_cache(&geometry, self.image.len());
            {
                let _gate = self.image.gate.write().await;
                let mut meta = self.image.meta.lock().await;
                meta.refs.set_capacity(run.refcount_cache(&geometry));
                self.image.map().reset(slice_bytes, slices);
                change(&self.image.run, |now| *now = run);
            }
            self.image.read_only.store(read_only, Ordering::Release);
            if read_only {
                for bitmap in self.image.node_bitmaps.list().iter().filter(|bitmap| bitmap.is_persistent()) {
                    bitmap.set_read_only(true);
                }
            }
            if was_read_only && !read_only {
                self.image.prepare_for_writing().await?;
            }
            Ok(())
        })
    }

    fn close(&self) -> IoFuture<'_> {
        Box::pin(self.image.inactivate())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
