//! Copying of one point in time: a cluster is copied before it is first written, by whoever comes first.
//!
//! A bitmap says what is left to copy. Who copies a piece takes its range, makes it clean and copies; a failure makes it
//! dirty again. A write of the guest waits until nothing in its range is left or being copied.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use block::{Bitmaps, BlockStatus, Child, DirtyBitmap, Error, Result, WriteFlags, ZeroFlags};
use block_tools::status;
use iobuf::IoBuf;

use crate::flight::Failure;
use crate::job::Job;
use crate::region::{Region, Regions};

/// The smallest unit of copying, bytes.
const MIN_CLUSTER: u64 = 65536;
/// The number of the error "Permission denied".
pub(crate) const EACCES: i32 = 13;
/// The longest piece that is copied at once, bytes.
const MAX_PIECE: u64 = 1 << 20;

/// Copies one point in time from a source to a target.
pub struct Copier {
    source: Arc<Child>,
    target: Arc<Child>,
    todo: Arc<DirtyBitmap>,
    regions: Arc<Regions>,
    compressed: AtomicBool,
    /// What the topmost image does not have is not copied: the target has the same backing.
    only_top: AtomicBool,
    job: OnceLock<Weak<Job>>,
    /// What belongs to the snapshot.
    access: Arc<DirtyBitmap>,
    /// What was kept because it was about to be written.
    kept: Arc<DirtyBitmap>,
}

/// A piece that somebody copies.
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    _region: Region,
}

impl Copier {
    /// Copies all of `source` to `target`.
    ///
    /// # Errors
    /// The bitmap would be too large.
    pub fn new(source: Arc<Child>, target: Arc<Child>) -> Result<Arc<Self>> {
        let cluster = target.node().driver().details().cluster_size.unwrap_or(MIN_CLUSTER);
        let cluster = cluster.max(MIN_CLUSTER).checked_next_power_of_two().unwrap_or(MIN_CLUSTER);
        let bitmaps = Bitmaps::default();
        let new = || {
            let bitmap = bitmaps.create(source.len(), cluster, None)?;
            bitmap.set_enabled(false);
            Ok::<_, Error>(bitmap)
        };
        let (todo, access, kept) = (new()?, new()?, new()?);
        todo.mark(0, source.len());
        access.mark(0, source.len());
        Ok(Arc::new(Self {
            source,
            target,
            todo,
            regions: Arc::default(),
            compressed: AtomicBool::new(false),
            only_top: AtomicBool::new(false),
            job: OnceLock::new(),
            access,
            kept,
        }))
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        self.todo.granularity()
    }

    /// What is left to copy.
    pub fn todo(&self) -> &Arc<DirtyBitmap> {
        &self.todo
    }

    /// Just what is dirty in `bitmap` is copied.
    pub(crate) fn copy_only(&self, bitmap: &DirtyBitmap) {
        let size = self.todo.size();
        self.todo.unmark(0, size);
        let mut at = 0;
        while let Some((offset, len)) = bitmap.next_dirty(at, size, u64::MAX) {
            self.todo.mark(offset, len);
            at = offset + len;
        }
    }

    /// Only what has to be copied now may be read as the snapshot's.
    pub(crate) fn restrict_access(&self) {
        self.access.restore(self.todo.contents());
    }

    /// Shows among the bitmaps of the filter's node what belongs to the snapshot, and what the filter has kept of it.
    pub(crate) fn show_on(&self, filter: &Bitmaps) {
        filter.adopt(&self.kept);
        filter.adopt(&self.access);
    }

    /// How far the range from `offset` to `end` may be read.
    ///
    /// # Errors
    /// Not even at its beginning.
    fn readable(&self, offset: u64, end: u64) -> Result<u64> {
        match self.access.next_clean(offset, end) {
            Some(at) if at <= offset => Err(Error::errno_only(EACCES)),
            Some(at) => Ok(at.min(end)),
            None => Ok(end),
        }
    }

    fn check_access(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        if self.readable(offset, end)? < end { Err(Error::errno_only(EACCES)) } else { Ok(()) }
    }

    /// How far the range from `offset` on comes from one side, and whether that is the source.
    fn side(&self, offset: u64, end: u64) -> (u64, bool) {
        match self.todo.next_dirty(offset, end, u64::MAX) {
            Some((at, len)) if at <= offset => ((at + len).min(end) - offset, true),
            Some((at, _)) => (at - offset, false),
            None => (end - offset, false),
        }
    }

    /// Reads the snapshot: what was copied from the copy, the rest from the source, which nobody writes meanwhile.
    ///
    /// # Errors
    /// The range does not belong to the snapshot, or can't be read.
    pub(crate) async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let end = offset + buf.len() as u64;
        let _region = self.hold(offset, end).await;
        self.check_access(offset, buf.len() as u64)?;
        let mut at = offset;
        while at < end {
            let (len, from_source) = self.side(at, end);
            let side = if from_source { &self.source } else { &self.target };
            let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
            side.read(at, buf.slice(start, usize::try_from(len).unwrap_or(usize::MAX))).await?;
            at += len;
        }
        Ok(())
    }

    async fn hold(&self, offset: u64, end: u64) -> Region {
        let cluster = self.cluster();
        self.regions.take(offset / cluster * cluster, end.next_multiple_of(cluster)).await
    }

    /// What is known of the snapshot's range: who asks for more than may be read is told of what may.
    ///
    /// # Errors
    /// As for [`Copier::read`].
    pub(crate) async fn status(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let _region = self.hold(offset, offset + len).await;
        let end = self.readable(offset, offset + len)?;
        let (len, from_source) = self.side(offset, end);
        let side = if from_source { &self.source } else { &self.target };
        let extent = status::above(&side.node(), None, offset, len).await?;
        let len = extent.len.clamp(1, len);
        Ok(if extent.zero { BlockStatus::zero(len) } else { BlockStatus::data(len, None) })
    }

    /// Whoever reads the snapshot needs whole clusters of this range no more.
    ///
    /// # Errors
    /// What discarding the copy gives.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let cluster = self.cluster();
        let end = offset.saturating_add(len);
        let start = offset.next_multiple_of(cluster);
        let end = if end >= self.todo.size() { self.todo.size() } else { end / cluster * cluster };
        if start >= end {
            return Ok(());
        }
        let _region = self.hold(start, end).await;
        self.access.unmark(start, end - start);
        self.todo.unmark(start, end - start);
        self.target.discard(start, end - start).await
    }

    /// What the topmost image does not have is not copied.
    pub(crate) fn set_only_top(&self) {
        self.only_top.store(true, Ordering::Release);
    }

    pub(crate) fn set_compressed(&self) {
        self.compressed.store(true, Ordering::Release);
    }

    pub(crate) fn set_job(&self, job: &Arc<Job>) {
        // A copier has one job.
        let _ = self.job.set(Arc::downgrade(job));
    }

    /// How much is left, bytes.
    pub(crate) fn remaining(&self) -> u64 {
        // The last cluster may be a part.
        let over = self.todo.size().next_multiple_of(self.cluster()) - self.todo.size();
        let last = self.todo.size().checked_sub(1).is_some_and(|last| self.todo.is_dirty(last));
        self.todo.dirty_bytes() - if last { over } else { 0 }
    }

    /// Takes the first piece of `start .. end` that is left and that nobody copies.
    pub(crate) fn take(&self, start: u64, end: u64, max: u64) -> Option<Piece> {
        let (cluster, size) = (self.cluster(), self.todo.size());
        let max = max.max(cluster) / cluster * cluster;
        let mut at = start / cluster * cluster;
        let end = end.next_multiple_of(cluster).min(size);
        while at < end {
            let (offset, run) = self.todo.next_dirty(at, end, max)?;
            if let Some(region) = self.regions.try_take(offset, offset + run) {
                self.todo.unmark(offset, run);
                return Some(Piece { offset, len: run, _region: region });
            }
            let taken = self.regions.overlap(offset, offset + run).unwrap_or(offset + run);
            at = taken.next_multiple_of(cluster).max(offset + cluster);
        }
        None
    }

    /// Copies a piece.
    pub(crate) async fn copy(&self, piece: Piece) -> Result<(), Failure> {
        let mut at = piece.offset;
        let result = self.copy_range(piece.offset, piece.len, &mut at).await;
        let done = match &result {
            Ok(()) => piece.len,
            // What was copied before the failure is copied.
            Err(_) => (at - piece.offset) / self.cluster() * self.cluster(),
        };
        if done < piece.len {
            self.todo.mark(piece.offset + done, piece.len - done);
        }
        if let Some(job) = self.job.get().and_then(Weak::upgrade) {
            job.advance(done);
        }
        result
    }

    /// Copies a range. `at` is how far that has come.
    async fn copy_range(&self, offset: u64, len: u64, at: &mut u64) -> Result<(), Failure> {
        let fail = |is_read| move |error| Failure { offset, len, is_read, error };
        let node = self.source.node();
        let (cluster, end) = (self.cluster(), offset + len);
        while *at < end {
            let mut n = end - *at;
            if self.only_top.load(Ordering::Acquire) {
                let top = status::of_node(&node, *at, n).await.map_err(fail(true))?;
                if !top.allocated && (top.len >= cluster || *at + top.len >= end) {
                    *at += if *at + top.len >= end { n } else { top.len / cluster * cluster };
                    continue;
                }
                n = top.len.next_multiple_of(cluster).min(n);
            }
            let extent = status::above(&node, None, *at, n).await.map_err(fail(true))?;
            let is_compressed = self.compressed.load(Ordering::Acquire);
            if extent.zero && extent.len > 0 && (!is_compressed || extent.len >= cluster || *at + extent.len == end) {
                n = extent.len.min(n);
                if is_compressed && n >= cluster {
                    n = n / cluster * cluster;
                }
                let flags = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
                self.target.write_zeroes(*at, n, flags).await.map_err(fail(false))?;
            } else {
                if !is_compressed {
                    n = extent.len.clamp(1, n);
                }
                let buf = IoBuf::zeroed(usize::try_from(n).unwrap_or(0));
                self.source.read(*at, buf.clone()).await.map_err(fail(true))?;
                self.write(*at, buf, is_compressed).await.map_err(fail(false))?;
            }
            *at += n;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, buf: IoBuf, compressed: bool) -> Result<()> {
        if !compressed {
            return self.target.write(offset, buf, WriteFlags::default()).await;
        }
        // One cluster of the format at a time.
        let cluster = self.target.node().driver().details().cluster_size.unwrap_or(MIN_CLUSTER);
        let cluster = usize::try_from(cluster).unwrap_or(65536).max(1);
        let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
        for start in (0..buf.len()).step_by(cluster) {
            let part = buf.slice(start, cluster.min(buf.len() - start));
            self.target.write(offset + start as u64, part, flags).await?;
        }
        Ok(())
    }

    /// Before a write of the guest: returns when nothing of the range is left to copy.
    pub(crate) async fn copy_before(&self, offset: u64, len: u64) -> Result<(), Failure> {
        let cluster = self.cluster();
        let start = offset / cluster * cluster;
        let end = offset.saturating_add(len).min(self.todo.size());
        let end = end.next_multiple_of(cluster).min(self.todo.size());
        loop {
            while let Some(piece) = self.take(start, end, MAX_PIECE) {
                self.copy(piece).await?;
            }
            self.regions.wait(start, end).await;
            if self.todo.next_dirty(start, end, u64::MAX).is_none() {
                self.kept.mark(start, end - start);
                return Ok(());
            }
        }
    }
}

/// The longest piece of a job, bytes.
pub(crate) fn longest_piece(cluster: u64) -> u64 {
    MAX_PIECE.max(cluster)
}
