//! The filter `copy-before-write`: what was there when the filter was put in goes to a target before it is written.
//!
//! Options: `file`, `target`, `bitmap` (just what is dirty there counts), `on-cbw-error` (`break-guest-write`: the write
//! fails; `break-snapshot`: nothing is copied any more), `cbw-timeout` (seconds after which copying counts as failed).
//!
//! The driver `snapshot-access` over it shows the disk as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::driver::{Driver, DriverKind, DriverType};
use block::{
    BlockStatus, Child, Error, IoFuture, OpenRequest, Options, Permissions, Result, Role, WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

use crate::copy::{Copier, EACCES};
use crate::pass::pass_on;

/// The number of the error "Connection timed out".
const ETIMEDOUT: i32 = 110;

/// The driver `copy-before-write`.
pub struct CopyBeforeWriteType;

/// What happens to a write when copying fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCbwError {
    /// It fails.
    #[default]
    BreakGuestWrite,
    /// It goes on, and the copy is worth nothing.
    BreakSnapshot,
}

/// The filter.
pub(crate) struct CopyBeforeWrite {
    file: Arc<Child>,
    target: Arc<Child>,
    copier: Arc<Copier>,
    on_error: OnCbwError,
    timeout: Option<Duration>,
    broken: AtomicBool,
}

impl CopyBeforeWrite {
    /// The filter over `file`, for a job.
    ///
    /// # Errors
    /// The disk is too large.
    pub(crate) fn over(file: Arc<Child>, target: Arc<Child>) -> Result<Self> {
        let copier = Copier::new(Arc::clone(&file), Arc::clone(&target))?;
        let on_error = OnCbwError::default();
        Ok(Self { file, target, copier, on_error, timeout: None, broken: AtomicBool::new(false) })
    }

    pub(crate) fn copier(&self) -> &Arc<Copier> {
        &self.copier
    }

    async fn before(&self, offset: u64, len: u64) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let copied = match self.timeout {
            None => self.copier.copy_before(offset, len).await.map_err(|failure| failure.error),
            Some(timeout) => {
                let mut copy = std::pin::pin!(self.copier.copy_before(offset, len));
                let mut timer = std::pin::pin!(aio::sleep(timeout));
                std::future::poll_fn(|context| {
                    if let std::task::Poll::Ready(result) = copy.as_mut().poll(context) {
                        return std::task::Poll::Ready(result.map_err(|failure| failure.error));
                    }
                    timer.as_mut().poll(context).map(|()| Err(Error::errno_only(ETIMEDOUT)))
                })
                .await
            }
        };
        match copied {
            Err(_) if self.on_error == OnCbwError::BreakSnapshot => {
                self.broken.store(true, Ordering::Release);
                Ok(())
            }
            result => result,
        }
    }
}

impl DriverType for CopyBeforeWriteType {
    fn name(&self) -> &'static str {
        "copy-before-write"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            const ON_ERROR: [&str; 2] = ["break-guest-write", "break-snapshot"];
            let on_error = request.options.take_choice("on-cbw-error", &ON_ERROR)?.unwrap_or(0);
            let timeout = request.options.take_u64("cbw-timeout")?.filter(|seconds| *seconds != 0);
            let bitmap_node = request.options.take_str("bitmap.node")?;
            let bitmap_name = request.options.take_str("bitmap.name")?;
            let file = request.child("file", Role::Filtered).await?;
            let target = request.child("target", Role::Data).await?;
            request.finish()?;
            let copier = Copier::new(Arc::clone(&file), Arc::clone(&target))?;
            if let (Some(node), Some(name)) = (bitmap_node, bitmap_name) {
                let node = request.graph.find(&node)?;
                let bitmap = node.bitmaps().named(&name)?;
                bitmap.check(block::BitmapUse::Read)?;
                copier.copy_only(&bitmap);
                copier.restrict_access();
            }
            copier.show_on(&request.bitmaps);
            Ok(Arc::new(CopyBeforeWrite {
                file,
                target,
                copier,
                on_error: if on_error == 1 { OnCbwError::BreakSnapshot } else { OnCbwError::BreakGuestWrite },
                timeout: timeout.map(Duration::from_secs),
                broken: AtomicBool::new(false),
            }) as Arc<dyn Driver>)
        })
    }
}

impl Driver for CopyBeforeWrite {
    pass_on!();

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file), Arc::clone(&self.target)]
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.before(offset, buf.len() as u64).await?;
            self.file.write(offset, buf, flags).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.before(offset, len).await?;
            self.file.write_zeroes(offset, len, flags).await
        })
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.write(offset, buf, WriteFlags { compressed: true, ..WriteFlags::default() })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            self.before(offset, len).await?;
            self.file.discard(offset, len).await
        })
    }

    fn child_permissions(
        &self,
        child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        if child.name() == "target" {
            // Whoever reads the copy while it is made may do so, and may write to it.
            return Some((Permissions::WRITE, Permissions::ALL));
        }
        if used.is_empty() && shared == Permissions::ALL {
            // Nobody has the filter yet.
            return None;
        }
        let writes = Permissions::WRITE | Permissions::RESIZE;
        Some((used | Permissions::CONSISTENT_READ, shared & writes.complement()))
    }

    fn strong_options(&self) -> Options {
        Options::new()
    }
}

/// The driver `snapshot-access`.
pub struct SnapshotAccessType;

/// What a `copy-before-write` filter has kept, as a node that is read.
struct SnapshotAccess {
    file: Arc<Child>,
}

impl DriverType for SnapshotAccessType {
    fn name(&self) -> &'static str {
        "snapshot-access"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = request.child("file", Role::Data).await?;
            request.finish()?;
            if file.node().driver().as_any().downcast_ref::<CopyBeforeWrite>().is_none() {
                let text = "The node below has no snapshot: it is no 'copy-before-write' filter";
                return Err(Error::unsupported(text));
            }
            Ok(Arc::new(SnapshotAccess { file }) as Arc<dyn Driver>)
        })
    }
}

impl SnapshotAccess {
    /// What the filter below copies with.
    fn copier(&self) -> Result<Arc<Copier>> {
        let node = self.file.node();
        let Some(filter) = node.driver().as_any().downcast_ref::<CopyBeforeWrite>() else {
            return Err(Error::unsupported("The node below has no snapshot"));
        };
        if filter.broken.load(Ordering::Acquire) {
            return Err(Error::errno_only(EACCES));
        }
        Ok(Arc::clone(&filter.copier))
    }
}

impl Driver for SnapshotAccess {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let copier = self.copier()?;
            copier.read(offset, buf).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let copier = self.copier()?;
            copier.discard(offset, len).await
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            let copier = self.copier()?;
            copier.status(offset, len).await
        })
    }

    fn child_permissions(
        &self,
        _child: &Child,
        _used: Permissions,
        _shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        Some((Permissions::NONE, Permissions::ALL))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
