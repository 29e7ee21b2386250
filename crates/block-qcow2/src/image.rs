//! An open image: what all operations share, the locks, loading of tables, and the header.
//!
//! Locks, in the order in which they are taken:
//! 1. `gate`: requests share it; operations on the whole image (resize, snapshots, check) have it alone.
//! 2. `flush_lock`: one flush at a time.
//! 3. `meta`: the one writer of metadata. Held over reads of metadata, never over reads or writes of data.
//! 4. `map`, `header`, `overlap` …: std locks, held shortly, never over an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use block::image::{Corruption, CorruptionEvents};
use block::{BackingSlot, Bitmaps, Child, Error, Result};
use tokio::sync::Notify;

use crate::bitmap::StoredBitmap;
use crate::crypt::Encryption;
use crate::entry::{Entry, Geometry};
use crate::flush::Free;
use crate::header::{Header, incompatible};
use crate::map::{Found, Map, Run};
use crate::overlap::Overlap;
use crate::refcount::Refcounts;
use crate::runtime::RunOptions;
use crate::snapshot::Snapshot;

/// What the holder of the metadata lock owns.
pub struct Meta {
    /// Refcounts and allocation.
    pub refs: Refcounts,
    /// Clusters that wait for their count to go down.
    pub frees: Vec<Free>,
    /// Where the next compressed cluster may start; 0: nowhere.
    pub byte_hint: u64,
    /// When unused slices were dropped last.
    pub cleaned: Instant,
}

/// An open image.
pub struct Image {
    geometry: Geometry,
    no_zero_flag: AtomicBool,
    pub(crate) file: Arc<Child>,
    pub(crate) data_file: Option<Arc<Child>>,
    pub(crate) backing: Arc<BackingSlot>,
    pub(crate) size: AtomicU64,
    pub(crate) read_only: AtomicBool,
    /// The image was found corrupt; nothing is written any more.
    pub(crate) broken: AtomicBool,
    /// Counts have changed and the "copied" flags not yet.
    pub(crate) unsettled: AtomicBool,
    pub(crate) header: RwLock<Header>,
    pub(crate) header_io: tokio::sync::Mutex<bool>,
    pub(crate) snapshots: RwLock<Vec<Snapshot>>,
    /// The snapshot table was read; a check does that itself.
    pub(crate) snapshots_read: AtomicBool,
    pub(crate) bitmaps: RwLock<Vec<StoredBitmap>>,
    /// The bitmaps of the node.
    pub(crate) node_bitmaps: Arc<Bitmaps>,
    map: Mutex<Map>,
    pub(crate) meta: tokio::sync::Mutex<Meta>,
    pub(crate) flush_lock: tokio::sync::Mutex<()>,
    pub(crate) gate: tokio::sync::RwLock<()>,
    pub(crate) readers: Readers,
    pub(crate) in_flight: InFlight,
    pub(crate) run: RwLock<RunOptions>,
    pub(crate) overlap: RwLock<Overlap>,
    pub(crate) encryption: Encryption,
    /// The end of the clusters that were not written to their ends: the file is to reach so far.
    pub(crate) bare_end: AtomicU64,
    events: Option<Arc<CorruptionEvents>>,
    node_name: String,
    /// Somebody was told that the image is corrupt.
    told: AtomicBool,
    /// Whether the whole image seems to have its clusters preallocated: asked once.
    pub(crate) preallocated: Mutex<Option<bool>>,
}

/// The parts that an image is put together from.
pub struct Parts {
    pub file: Arc<Child>,
    pub data_file: Option<Arc<Child>>,
    pub header: Header,
    pub l1: Vec<u64>,
    pub reftable: Vec<u64>,
    pub snapshots: Vec<Snapshot>,
    pub snapshots_read: bool,
    pub bitmaps: Vec<StoredBitmap>,
    pub node_bitmaps: Arc<Bitmaps>,
    pub run: RunOptions,
    pub read_only: bool,
    pub encryption: Encryption,
    pub events: Option<Arc<CorruptionEvents>>,
    pub node_name: String,
}

/// Locks a std mutex whether or not it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads under a std lock.
pub fn read<T, R>(lock: &RwLock<T>, visit: impl FnOnce(&T) -> R) -> R {
    visit(&lock.read().unwrap_or_else(PoisonError::into_inner))
}

/// Changes under a std lock.
pub fn change<T, R>(lock: &RwLock<T>, visit: impl FnOnce(&mut T) -> R) -> R {
    visit(&mut lock.write().unwrap_or_else(PoisonError::into_inner))
}

impl Image {
    /// Puts an image together.
    pub fn new(parts: Parts) -> Self {
        let geometry = Geometry::new(&parts.header);
        let header = parts.header;
        let (slices, slice_bytes) = parts.run.l2_cache(&geometry, header.size);
        let blocks = parts.run.refcount_cache(&geometry);
        let refs = Refcounts::new(
            Arc::clone(&parts.file),
            header.cluster_bits,
            header.refcount_order,
            parts.reftable,
            header.reftable_offset,
            blocks,
        );
        let image = Self {
            geometry,
            no_zero_flag: AtomicBool::new(header.version < 3),
            file: parts.file,
            data_file: parts.data_file,
            backing: Arc::default(),
            size: AtomicU64::new(header.size),
            read_only: AtomicBool::new(parts.read_only),
            broken: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            header_io: tokio::sync::Mutex::const_new(false),
            snapshots: RwLock::new(parts.snapshots),
            snapshots_read: AtomicBool::new(parts.snapshots_read),
            bitmaps: RwLock::new(parts.bitmaps),
            node_bitmaps: parts.node_bitmaps,
            map: Mutex::new(Map::new(parts.l1, slice_bytes, slices)),
            meta: tokio::sync::Mutex::const_new(Meta {
                refs,
                frees: Vec::new(),
                byte_hint: 0,
                cleaned: Instant::now(),
            }),
            flush_lock: tokio::sync::Mutex::const_new(()),
            gate: tokio::sync::RwLock::const_new(()),
            readers: Readers::default(),
            in_flight: InFlight::default(),
            run: RwLock::new(parts.run),
            overlap: RwLock::default(),
            encryption: parts.encryption,
            bare_end: AtomicU64::new(0),
            events: parts.events,
            node_name: parts.node_name,
            told: AtomicBool::new(false),
            preallocated: Mutex::new(None),
            header: RwLock::new(header),
        };
        image.rebuild_overlap();
        image
    }

    /// The geometry.
    pub fn geometry(&self) -> Geometry {
        Geometry { no_zero_flag: self.no_zero_flag.load(Ordering::Relaxed), ..self.geometry }
    }

    /// The header's version changed.
    pub fn set_version(&self, version: u32) {
        self.no_zero_flag.store(version < 3, Ordering::Relaxed);
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.geometry.cluster_size()
    }

    /// Size of the disk, bytes.
    pub fn len(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Where data clusters are.
    pub fn data(&self) -> &Arc<Child> {
        self.data_file.as_ref().unwrap_or(&self.file)
    }

    /// Whether data clusters are in a file of their own.
    pub fn has_data_file(&self) -> bool {
        self.geometry.data_file
    }

    /// A copy of the header.
    pub fn header(&self) -> Header {
        read(&self.header, Clone::clone)
    }

    /// The mapping, locked.
    pub fn map(&self) -> MutexGuard<'_, Map> {
        lock(&self.map)
    }

    /// Fails if the image was found corrupt.
    pub fn check_usable(&self) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::io("The image is corrupt"));
        }
        Ok(())
    }

    /// Takes note that the image is corrupt: if it is writable, nothing is written any more.
    pub async fn corrupt(&self, text: &str) -> Error {
        self.corrupt_at(text, None).await
    }

    /// As [`Image::corrupt`], with the place in the file: offset and length.
    pub async fn corrupt_at(&self, text: &str, place: Option<(u64, u64)>) -> Error {
        aio::not_in_an_attempt().await;
        let fatal = !self.read_only.load(Ordering::Acquire);
        if fatal {
            if self.broken.swap(true, Ordering::AcqRel) {
                return Error::io(text);
            }
            eprintln!("qcow2: Marking image as corrupt: {text}; further corruption events will be suppressed");
        } else {
            if self.told.load(Ordering::Acquire) {
                return Error::io(text);
            }
            eprintln!("qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed");
        }
        self.told.store(true, Ordering::Release);
        if let Some(events) = &self.events {
            let (offset, size) = place.unzip();
            let (node, message) = (self.node_name.clone(), text.to_owned());
            (events.0)(Corruption { node, message, offset, size, fatal });
        }
        if fatal
            && read(&self.header, |h| h.version) >= 3
            && let Err(error) = self.update_header(|h| h.incompatible |= incompatible::CORRUPT).await
        {
            tracing::error!("qcow2: The image can't be marked as corrupt: {error}");
        }
        Error::io(text)
    }

    /// Loads the slice at host offset `slice`, unless it is cached.
    pub async fn load_slice(&self, slice: u64) -> Result<()> {
        loop {
            let notify = {
                let mut map = self.map();
                if map.contains(slice) {
                    return Ok(());
                }
                match map.start_load(slice) {
                    None => break,
                    Some(notify) => notify,
                }
            };
            let notified = notify.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if self.map().is_loading(slice) {
                notified.await;
            }
        }
        // Whatever happens, others must not wait for ever.
        struct Loading<'a>(&'a Image, u64);
        impl Drop for Loading<'_> {
            fn drop(&mut self) {
                self.0.map().load_failed(self.1);
            }
        }
        let loading = Loading(self, slice);
        let len = usize::try_from(self.map().slice_bytes()).unwrap_or(0);
        self.file.event("l2_load").await;
        let bytes = self.file.read_vec(slice, len).await?;
        self.map().loaded(slice, &bytes);
        drop(loading);
        Ok(())
    }

    /// The run at guest byte `offset`.
    pub async fn find(&self, offset: u64, max: u64, exclusive: bool) -> Result<Run> {
        let geometry = self.geometry();
        loop {
            let found = self.map().find(&geometry, offset, max, exclusive);
            match found {
                Found::Run(run) => return Ok(run),
                Found::Missing(slice) => self.load_slice(slice).await?,
                Found::Corrupt(text) => return Err(self.corrupt(&text).await),
            }
        }
    }

    /// The L2 entry for guest byte `offset`.
    pub async fn entry(&self, offset: u64) -> Result<Entry> {
        let geometry = self.geometry();
        loop {
            let found = self.map().entry(&geometry, offset);
            match found {
                Ok(entry) => return Ok(entry),
                Err(Found::Missing(slice)) => self.load_slice(slice).await?,
                Err(Found::Corrupt(text)) => return Err(self.corrupt(&text).await),
                Err(Found::Run(_)) => return Err(Error::io("A look-up failed")),
            }
        }
    }

    /// Changes the L2 entry for guest byte `offset`; there must be a table. Only for the holder of the metadata lock.
    pub async fn set_entry(&self, offset: u64, entry: Entry) -> Result<()> {
        let geometry = self.geometry();
        loop {
            let found = self.map().set_entry(&geometry, offset, entry);
            match found {
                Ok(()) => return Ok(()),
                Err(Found::Missing(slice)) => self.load_slice(slice).await?,
                Err(Found::Corrupt(text)) => return Err(self.corrupt(&text).await),
                Err(Found::Run(_)) => return Err(Error::io("A look-up failed")),
            }
        }
    }

    /// Changes the header on disk and, if that worked, here.
    ///
    /// # Errors
    /// If it can't be written. Then the disk may hold either version; the next successful change writes all of it.
    pub async fn update_header(&self, edit: impl FnOnce(&mut Header)) -> Result<()> {
        let mut uncertain = self.header_io.lock().await;
        let mut header = self.header();
        edit(&mut header);
        let mut bytes = header.serialise()?;
        let old = std::mem::take(&mut header.raw);
        let old_len = old.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let len = bytes.len().max(old_len).next_multiple_of(512).min(1 << header.cluster_bits);
        bytes.resize(len, 0);
        let differs = |sector: &usize| {
            let range = sector * 512..(sector + 1) * 512;
            *uncertain || old.get(range.clone()) != bytes.get(range)
        };
        let sectors = 0..len.div_ceil(512);
        let (first, last) = (sectors.clone().find(differs), sectors.rev().find(differs));
        if let (Some(first), Some(last)) = (first, last) {
            let range = first * 512..((last + 1) * 512).min(len);
            *uncertain = true;
            self.file.write_bytes(range.start as u64, &bytes[range.clone()]).await?;
            *uncertain = false;
        }
        header.raw = bytes;
        change(&self.header, |h| *h = header);
        Ok(())
    }

    /// Writes the header again if a change of it failed half-way.
    pub async fn settle_header(&self) -> Result<()> {
        if *self.header_io.lock().await { self.update_header(|_| {}).await } else { Ok(()) }
    }

    /// Makes everything written so far durable.
    pub async fn barrier(&self) -> Result<()> {
        if let Some(data) = &self.data_file
            && !data.node().is_read_only()
        {
            data.flush().await?;
        }
        self.file.flush().await
    }
}

/// Requests in flight, by the generation of the mapping that they may have seen.
#[derive(Default)]
pub struct Readers(Mutex<(u64, VecDeque<(u64, u64)>)>);

/// A request that may use host clusters that it looked up.
pub struct Reader<'a>(&'a Readers, u64);

impl Readers {
    /// Registers a request.
    pub fn enter(&self) -> Reader<'_> {
        let mut state = lock(&self.0);
        let generation = state.0;
        match state.1.back_mut() {
            Some((last, count)) if *last == generation => *count += 1,
            _ => state.1.push_back((generation, 1)),
        }
        Reader(self, generation)
    }

    /// The generation now.
    pub fn current(&self) -> u64 {
        lock(&self.0).0
    }

    /// Starts a new generation.
    pub fn advance(&self) {
        lock(&self.0).0 += 1;
    }

    /// The oldest generation that a request in flight belongs to.
    pub fn oldest(&self) -> u64 {
        lock(&self.0).1.front().map_or(u64::MAX, |(generation, _)| *generation)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        if let Some((_, count)) = state.1.iter_mut().find(|(generation, _)| *generation == self.1) {
            *count -= 1;
        }
        while state.1.front().is_some_and(|(_, count)| *count == 0) {
            state.1.pop_front();
        }
    }
}

/// Guest clusters whose mapping is being changed by a write in flight.
#[derive(Default)]
pub struct InFlight {
    ranges: Mutex<Ranges>,
    finished: Notify,
}

/// The last id, and the ranges: start, end, id.
type Ranges = (u64, Vec<(u64, u64, u64)>);

/// A range of guest bytes whose mapping nobody else changes; dropping it ends that.
pub struct Allocating<'a>(&'a InFlight, u64);

impl InFlight {
    /// The first guest byte of `start .. end` that a write in flight is changing.
    pub fn conflict(&self, start: u64, end: u64) -> Option<u64> {
        let ranges = lock(&self.ranges);
        ranges.1.iter().filter(|(s, e, _)| *s < end && start < *e).map(|(s, _, _)| start.max(*s)).min()
    }

    /// Registers a change. The caller has the metadata lock and found no conflict.
    pub fn begin(&self, start: u64, end: u64) -> Allocating<'_> {
        let mut ranges = lock(&self.ranges);
        ranges.0 += 1;
        let id = ranges.0;
        ranges.1.push((start, end, id));
        Allocating(self, id)
    }

    /// Waits until nothing of `start .. end` is being changed.
    pub async fn wait(&self, start: u64, end: u64) {
        loop {
            let notified = self.finished.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if self.conflict(start, end).is_none() {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Allocating<'_> {
    fn drop(&mut self) {
        lock(&self.0.ranges).1.retain(|(_, _, id)| *id != self.1);
        self.0.finished.notify_waiters();
    }
}
