//! The filter `copy-on-read`: what is read from a backing is written into the image above it. Option: `bottom`, the
//! name of the lowest node whose data is not copied any more.

use std::any::Any;
use std::sync::Arc;

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::tracker::{Overlap, Tracker};
use block::{
    BlockStatus, Child, Error, Limits, Node, OpenRequest, Options, Preallocation, Result, Role, WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

/// The driver `copy-on-read`.
pub struct CopyOnReadType;

struct CopyOnRead {
    file: Arc<Child>,
    bottom: Option<String>,
    tracker: Tracker,
}

/// The filter over `file`, for who puts it in without options. `bottom` is the name of the lowest node whose data is
/// copied.
pub fn over(file: Arc<Child>, bottom: Option<String>) -> Arc<dyn Driver> {
    Arc::new(CopyOnRead { file, bottom, tracker: Tracker::default() })
}

impl DriverType for CopyOnReadType {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            if request.config.read_only {
                return Err(Error::permission("Block node is read-only"));
            }
            let bottom = request.options.take_str("bottom")?;
            let file = request.child("file", Role::Filtered).await?;
            request.finish()?;
            if let Some(bottom) = &bottom {
                let known = request
                    .graph
                    .find(bottom)
                    .map_err(|_| Error::invalid(format!("Bottom node '{bottom}' not found")))?;
                if known.filtered().is_some() {
                    return Err(Error::invalid(format!("Bottom node '{bottom}' is a filter")));
                }
                if !chain(&file.node()).any(|node| Arc::ptr_eq(&node, &known)) {
                    return Err(Error::invalid(format!("Bottom node '{bottom}' is not in the backing chain")));
                }
            }
            Ok(Arc::new(CopyOnRead { file, bottom, tracker: Tracker::default() }) as Arc<dyn Driver>)
        })
    }
}

/// A node and all below it along filters and backings.
fn chain(top: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> {
    std::iter::successors(Some(Arc::clone(top)), |node| node.filtered().or_else(|| node.backing()).map(|c| c.node()))
}

impl CopyOnRead {
    /// How many bytes from `offset` on are alike, and whether they have to be copied: the top does not have them, and
    /// (with a bottom) a node above the bottom or the bottom itself does.
    async fn source(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        let mut len = len;
        let mut is_top = true;
        let mut next = Some((self.file.node(), offset));
        while let Some((node, at)) = next {
            if let Some(filtered) = node.filtered() {
                next = Some((filtered.node(), at));
                continue;
            }
            let status = node.block_status(at, len, false).await?;
            if status.len == 0 {
                // Behind the end of a short backing.
                return Ok((len, false));
            }
            len = status.len;
            let is_bottom = self.bottom.as_deref() == Some(node.name());
            // A raw node has all that it shows from the node below, which may be an overlay.
            let raw = Some(&node).filter(|node| node.driver_type().name() == "raw" && !is_bottom);
            if let Some(below) = raw.and_then(|node| node.driver().data_child()) {
                next = Some((below.node(), status.offset.unwrap_or(at)));
                continue;
            }
            if status.allocated {
                return Ok((len, !is_top));
            }
            if self.bottom.is_none() {
                return Ok((len, true));
            }
            if is_bottom {
                return Ok((len, false));
            }
            is_top = false;
            next = node.backing().map(|backing| (backing.node(), at));
        }
        Ok((len, false))
    }

    async fn copy(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let cluster = self.file.node().driver().details().cluster_size.unwrap_or(4096);
        let start = offset / cluster * cluster;
        let end = (offset + buf.len() as u64).next_multiple_of(cluster).min(self.file.len());
        let _tracked = self.tracker.begin(start, end - start, Overlap::Serialising).await;
        let whole = IoBuf::zeroed(usize::try_from(end - start).map_err(|_| Error::invalid("The request is too long"))?);
        self.file.read(start, whole.clone()).await?;
        self.file.event("cor_write").await;
        let flags = WriteFlags { unchanged: true, ..WriteFlags::default() };
        if whole.is_zero(0, whole.len()) {
            self.file.write_zeroes(start, whole.len() as u64, ZeroFlags::default()).await?;
        } else {
            self.file.write(start, whole.clone(), flags).await?;
        }
        buf.copy_from(0, &whole, usize::try_from(offset - start).unwrap_or(0), buf.len());
        Ok(())
    }
}

impl Driver for CopyOnRead {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn limits(&self) -> Limits {
        // A copy is at most as long as what is held in memory for it.
        Limits { max_transfer: 1 << 20, ..self.file.node().driver().limits() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let (len, is_below) = self.source(at, (buf.len() - done) as u64).await?;
                let len = usize::try_from(len).unwrap_or(usize::MAX).clamp(1, buf.len() - done);
                let part = buf.slice(done, len);
                if is_below {
                    self.copy(at, part).await?;
                } else {
                    self.file.read(at, part).await?;
                }
                done += len;
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let _tracked = self.tracker.begin(offset, buf.len() as u64, Overlap::Plain).await;
            self.file.write(offset, buf, flags).await
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let _tracked = self.tracker.begin(offset, len, Overlap::Plain).await;
            self.file.write_zeroes(offset, len, flags).await
        })
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.write(offset, buf, WriteFlags { compressed: true, ..WriteFlags::default() })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let _tracked = self.tracker.begin(offset, len, Overlap::Plain).await;
            self.file.discard(offset, len).await
        })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move { self.file.truncate(len, exact, preallocation).await })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        crate::pass_status(offset, len)
    }

    fn strong_options(&self) -> Options {
        match &self.bottom {
            Some(bottom) => Options::new().with("bottom", bottom.as_str()),
            None => Options::new(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
