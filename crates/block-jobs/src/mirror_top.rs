//! The filter `mirror_top` above the source of a mirror, and `commit_top` above that of a commit.
//!
//! In the mode `write-blocking` it writes what the guest writes to the target, too, and tells the guest when both are
//! done. Both get the same bytes from a private copy: a guest may change its buffer while the disk reads it. Ranges that the
//! job copies just now are waited for. A part of a granule that was written to both sides does not
//! change whether the granule is dirty.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use block::backend::ErrorAction;
use block::driver::{Driver, DriverKind, DriverType};
use block::{
    Child, DirtyBitmap, Error, IoFuture, OpenRequest, Permissions, Result, WriteFlags, ZeroFlags, done, filename,
};
use iobuf::IoBuf;

use crate::info::OnError;
use crate::job::Job;
use crate::pass::pass_on;
use crate::region::Regions;

/// A filter that only jobs put in.
struct JobFilter(&'static str);

impl DriverType for JobFilter {
    fn name(&self) -> &'static str {
        self.0
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn open(&self, _request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        block::fail(Error::invalid(format!("Driver '{}' is of jobs alone", self.0)))
    }
}

/// The driver `mirror_top`.
pub(crate) static MIRROR_TOP: &dyn DriverType = &JobFilter("mirror_top");
/// The driver `commit_top`.
pub(crate) static COMMIT_TOP: &dyn DriverType = &JobFilter("commit_top");

/// The longest piece of a guest's write that is copied at once, bytes, and what pieces end at a multiple of: whole clusters
/// of every image format.
const MAX_BOUNCE: u64 = 2 << 20;

/// What the filter and the job share.
pub(crate) struct Link {
    /// What has to be copied.
    pub(crate) dirty: Arc<DirtyBitmap>,
    /// What is copied or written just now.
    pub(crate) regions: Arc<Regions>,
    /// The copy.
    pub(crate) target: Arc<Child>,
    /// Guests' writes go to the copy, too.
    pub(crate) blocking: AtomicBool,
    /// The copy gets its backing in the end: what a write leaves of a granule has to be copied, too.
    pub(crate) whole_granules: bool,
    pub(crate) on_target_error: OnError,
    pub(crate) job: OnceLock<Weak<Job>>,
    /// The job has ended: nothing goes to the copy any more.
    pub(crate) stopped: AtomicBool,
    pub(crate) failed: Mutex<Option<Error>>,
}

impl Link {
    fn is_active(&self) -> bool {
        self.blocking.load(Ordering::Acquire) && !self.stopped.load(Ordering::Acquire)
    }

    /// Writes go to both sides from now on. None may be in flight.
    pub(crate) fn block_writes(&self) {
        self.dirty.set_enabled(false);
        self.blocking.store(true, Ordering::Release);
    }

    /// The error of a guest's write to the copy that ends the job.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn target_failed(&self, error: Error) {
        let Some(job) = self.job.get().and_then(Weak::upgrade) else { return };
        if job.request_failed(self.on_target_error, false, &error) == ErrorAction::Report {
            self.stopped.store(true, Ordering::Release);
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        job.wake();
    }

    /// The range is the same on both sides: whole granules of it are clean.
    fn is_same(&self, offset: u64, len: u64) {
        let granule = self.dirty.granularity();
        let end = offset.saturating_add(len);
        let from = offset.next_multiple_of(granule);
        let to = if end >= self.dirty.size() { end } else { end / granule * granule };
        if from < to {
            self.dirty.unmark(from, to - from);
        }
        if self.whole_granules {
            for at in [offset, end.saturating_sub(1)] {
                if at < from || at >= to {
                    self.dirty.mark(at, 1);
                }
            }
        }
    }
}

/// A filter above the source of a mirror.
pub(crate) struct MirrorTop {
    pub(crate) file: Arc<Child>,
    pub(crate) is_commit: bool,
    pub(crate) link: OnceLock<Arc<Link>>,
}

impl MirrorTop {
    fn active(&self) -> Option<&Arc<Link>> {
        self.link.get().filter(|link| link.is_active())
    }

    async fn both(
        &self,
        (offset, len): (u64, u64),
        own: impl Future<Output = Result<()>>,
        copy: impl AsyncFnOnce(&Child) -> Result<()>,
    ) -> Result<()> {
        let Some(link) = self.active() else { return own.await };
        let end = offset.saturating_add(len);
        let _region = link.regions.take(offset, end).await;
        let result = own.await;
        if result.is_err() || !link.is_active() {
            // What is there now nobody knows, or nobody copies.
            link.dirty.mark(offset, len);
            return result;
        }
        match copy(&link.target).await {
            Ok(()) => link.is_same(offset, len),
            Err(error) => {
                link.dirty.mark(offset, len);
                link.target_failed(error);
            }
        }
        Ok(())
    }

    /// Writes what nobody changes any more to both sides.
    async fn write_both(&self, offset: u64, bounce: IoBuf, flags: WriteFlags) -> Result<()> {
        let plain = WriteFlags { fua: flags.fua, ..WriteFlags::default() };
        let (len, copy) = (bounce.len() as u64, bounce.clone());
        let own = self.file.write(offset, bounce, flags);
        self.both((offset, len), own, async |target: &Child| target.write(offset, copy, plain).await).await
    }
}

impl Driver for MirrorTop {
    pass_on!();

    fn exact_filename(&self) -> Option<String> {
        Some(filename::of(&self.file.node()))
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            if self.active().is_none() {
                return self.file.write(offset, buf, flags).await;
            }
            let mut done = 0;
            while done < buf.len() {
                let at = offset.saturating_add(done as u64);
                let room = MAX_BOUNCE - at % MAX_BOUNCE;
                let len = (buf.len() - done).min(usize::try_from(room).unwrap_or(usize::MAX));
                let bounce = IoBuf::zeroed(len);
                bounce.copy_from(0, &buf, done, len);
                self.write_both(at, bounce, flags).await?;
                done += len;
            }
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let own = self.file.write_zeroes(offset, len, flags);
            let plain = ZeroFlags { no_fallback: false, ..flags };
            self.both((offset, len), own, async |target: &Child| target.write_zeroes(offset, len, plain).await).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let Some(link) = self.active() else { return self.file.discard(offset, len).await };
            // What is read afterwards is not the same on both sides: the job copies it.
            let _region = link.regions.take(offset, offset.saturating_add(len)).await;
            let result = self.file.discard(offset, len).await;
            link.dirty.mark(offset, len);
            result
        })
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.write(offset, buf, WriteFlags { compressed: true, ..WriteFlags::default() })
    }

    fn child_permissions(
        &self,
        _child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        if !self.is_commit {
            return None;
        }
        // What is in between is not consistent while its data goes down, and the job writes to a backing.
        let used = used & Permissions::CONSISTENT_READ.complement();
        Some((used, shared | Permissions::WRITE | Permissions::CONSISTENT_READ))
    }
}

/// The filter above the top of a commit below the active image: what is above reads through it.
pub(crate) struct CommitTop {
    pub(crate) file: Arc<Child>,
}

impl Driver for CommitTop {
    pass_on!();

    fn exact_filename(&self) -> Option<String> {
        Some(filename::of(&self.file.node()))
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn flush(&self) -> IoFuture<'_> {
        done(())
    }

    fn child_permissions(
        &self,
        _child: &Child,
        _used: Permissions,
        _shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        Some((Permissions::NONE, Permissions::ALL))
    }
}
