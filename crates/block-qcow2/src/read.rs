//! Reads, and the status of ranges.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use block::driver::IoFuture;
use block::{BlockStatus, DriverKind, Node, Result};
use iobuf::IoBuf;

use crate::entry::Kind;
use crate::image::{Image, lock, read};
use crate::map::{Found, Run};

/// Parts of a request that are read at once.
const PARALLEL: usize = 16;

/// Whether a node with all its backings says that a range reads as zeroes. Nothing is read for that.
fn chain_is_zero(node: Arc<Node>, offset: u64, len: u64) -> IoFuture<'static, bool> {
    Box::pin(async move {
        if let Some(child) = node.filtered() {
            return chain_is_zero(child.node(), offset, len).await;
        }
        let end = node.len().min(offset.saturating_add(len));
        let mut at = offset;
        while at < end {
            let status = node.block_status(at, end - at, false).await?;
            if status.len == 0 || status.data && !status.zero {
                return Ok(false);
            }
            if !status.zero
                && let Some(backing) = node.backing()
                && !chain_is_zero(backing.node(), at, status.len).await?
            {
                return Ok(false);
            }
            // Otherwise it is zero, or allocated nowhere.
            if !status.zero && (status.allocated || node.driver_type().kind() != DriverKind::Format) {
                return Ok(false);
            }
            at += status.len;
        }
        Ok(true)
    })
}

/// Waits for all of them; the first error.
pub async fn join_all<'a>(mut tasks: Vec<Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>>) -> Result<()> {
    let mut result = Ok(());
    std::future::poll_fn(|context| {
        tasks.retain_mut(|task| match task.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(done) => {
                if result.is_ok() {
                    result = done;
                }
                false
            }
        });
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    result
}

impl Image {
    /// Reads guest bytes. The caller is registered as a reader.
    pub(crate) async fn read_range(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let len = buf.len() as u64;
        let run = self.find_joined(offset, len).await?;
        if run.len >= len {
            return self.read_run(offset, run, buf).await;
        }
        let mut at = 0;
        let mut next = Some(run);
        while at < len {
            let mut tasks: Vec<Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>> = Vec::new();
            while at < len && tasks.len() < PARALLEL {
                let run = match next.take() {
                    Some(run) => run,
                    None => self.find_joined(offset + at, len - at).await?,
                };
                let part = buf.slice(usize::try_from(at).unwrap_or(0), usize::try_from(run.len).unwrap_or(0));
                tasks.push(Box::pin(self.read_run(offset + at, run, part)));
                at += run.len;
            }
            join_all(tasks).await?;
        }
        Ok(())
    }

    /// Whether all of a range is known to be stored in the backing, if anywhere, by what is in memory.
    pub(crate) fn is_unallocated(&self, offset: u64, len: u64) -> bool {
        let geometry = self.geometry();
        let found = self.map().find(&geometry, offset, len, false);
        matches!(found, Found::Run(run)
            if matches!(run.kind, Kind::Unallocated | Kind::UnallocatedHost) && run.len >= len)
    }

    /// As [`Image::find`], over the borders of slices.
    async fn find_joined(&self, offset: u64, len: u64) -> Result<Run> {
        let mut run = self.find(offset, len, false).await?;
        while run.len < len && run.kind != Kind::Compressed {
            let more = self.find(offset + run.len, len - run.len, false).await?;
            let follows = match run.kind {
                Kind::Unallocated | Kind::ZeroPlain => true,
                _ => run.host + run.len == more.host,
            };
            if more.kind != run.kind || !follows {
                break;
            }
            run.len += more.len;
        }
        Ok(run)
    }

    async fn read_run(&self, offset: u64, run: Run, buf: IoBuf) -> Result<()> {
        match run.kind {
            Kind::Normal => {
                self.file.event("read_aio").await;
                self.read_data(offset, run.host, buf).await
            }
            Kind::ZeroPlain | Kind::ZeroHost => {
                buf.fill(0, buf.len(), 0);
                Ok(())
            }
            Kind::Unallocated | Kind::UnallocatedHost if self.is_vm_state(offset) => {
                buf.fill(0, buf.len(), 0);
                Ok(())
            }
            Kind::Unallocated | Kind::UnallocatedHost => {
                self.file.event("read_backing_aio").await;
                self.backing.read(offset, buf).await
            }
            Kind::Compressed => self.read_compressed(offset, run.host, buf).await,
        }
    }

    /// What the image says of a range.
    pub(crate) async fn status(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let mut run = self.find_joined(offset, len).await?;
        // Zeroes with and without a host cluster look the same to most, and so do the unallocated ones.
        while run.len < len && run.kind.is_unallocated() {
            let more = self.find(offset + run.len, len - run.len, false).await?;
            if !more.kind.is_unallocated() {
                break;
            }
            run.len += more.len;
        }
        let place = (!self.encryption.is_on()).then_some(run.host);
        Ok(match run.kind {
            Kind::Unallocated | Kind::UnallocatedHost => BlockStatus::unallocated(run.len),
            Kind::ZeroPlain => BlockStatus::zero(run.len),
            Kind::ZeroHost => BlockStatus { offset: place, ..BlockStatus::zero(run.len) },
            Kind::Compressed => BlockStatus { compressed: true, ..BlockStatus::data(run.len, None) },
            Kind::Normal => BlockStatus { recurse: self.is_preallocated().await?, ..BlockStatus::data(run.len, place) },
        })
    }

    /// Whether far more clusters are allocated than the host stores: then data may be holes below.
    async fn is_preallocated(&self) -> Result<bool> {
        if self.has_data_file() {
            return Ok(true);
        }
        if let Some(known) = *lock(&self.preallocated) {
            return Ok(known);
        }
        let mut preallocated = false;
        if let Ok(Some(bytes)) = self.file.node().driver().allocated_size().await {
            let real = bytes / self.cluster_size();
            let threshold = (real.saturating_mul(10) / 9).max(real + 2);
            let mut meta = self.meta.lock().await;
            let clusters = self.file.len().div_ceil(self.cluster_size());
            let mut used = 0;
            // Allocated clusters can't be more than the file has.
            if clusters > threshold {
                for cluster in 0..clusters {
                    used += u64::from(meta.refs.count(cluster).await? > 0);
                    if used > threshold {
                        preallocated = true;
                        break;
                    }
                }
            }
        }
        *lock(&self.preallocated) = Some(preallocated);
        Ok(preallocated)
    }

    /// Whether the disk reads as zeroes there, as far as is known without reading data: neither stored here nor in the
    /// backing.
    pub(crate) async fn reads_as_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let mut at = 0;
        while at < len {
            let run = self.find(offset + at, len - at, false).await?;
            if !(run.kind.is_zero()
                || (run.kind.is_unallocated() && self.backing_is_zero(offset + at, run.len).await?))
            {
                return Ok(false);
            }
            at += run.len;
        }
        Ok(true)
    }

    /// Whether unallocated clusters there read as zeroes, without asking the disk.
    pub(crate) async fn backing_is_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let Some(backing) = self.backing.get().filter(|_| !self.is_vm_state(offset)) else { return Ok(true) };
        chain_is_zero(backing.node(), offset, len).await
    }

    /// Whether writes may pass `offset`'s discard option (shared by several operations).
    pub(crate) fn is_raw_data_file(&self) -> bool {
        read(&self.header, |h| h.autoclear & crate::header::autoclear::DATA_RAW != 0) && self.has_data_file()
    }
}
