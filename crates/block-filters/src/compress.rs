//! The filter `compress`: what is written is stored compressed, in whole clusters of the image below.

use std::any::Any;
use std::sync::Arc;

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{BlockStatus, Child, Error, Limits, OpenRequest, Options, Preallocation, Role, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

/// The driver `compress`.
pub struct CompressType;

struct Compress {
    file: Arc<Child>,
    cluster: u32,
}

impl DriverType for CompressType {
    fn name(&self) -> &'static str {
        "compress"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = request.child("file", Role::Filtered).await?;
            request.finish()?;
            let node = file.node();
            let cluster = node.driver().details().cluster_size.and_then(|size| u32::try_from(size).ok());
            let cluster = cluster.filter(|size| size.is_power_of_two()).ok_or_else(|| {
                let format = node.driver_type().name();
                Error::unsupported(format!("Compression is not supported under copy-on-write of '{format}'"))
            })?;
            Ok(Arc::new(Compress { file, cluster }) as Arc<dyn Driver>)
        })
    }
}

impl Driver for Compress {
    fn len(&self) -> u64 {
        self.file.len()
    }

    /// The node above fills clusters up that are written in part.
    fn limits(&self) -> Limits {
        Limits { request_alignment: self.cluster, ..self.file.node().driver().limits() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move { self.file.read(offset, buf).await })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            // The last cluster may be a part of one.
            let end = self.len().min(offset.saturating_add(buf.len() as u64));
            let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
            for start in (0..len).step_by(self.cluster as usize) {
                let piece = buf.slice(start, (self.cluster as usize).min(len - start));
                let flags = WriteFlags { compressed: true, ..flags };
                self.file.write(offset + start as u64, piece, flags).await?;
            }
            Ok(())
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move { self.file.write_zeroes(offset, len, flags).await })
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.write(offset, buf, WriteFlags::default())
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move { self.file.discard(offset, len).await })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move { self.file.truncate(len, exact, preallocation).await })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        crate::pass_status(offset, len)
    }

    fn strong_options(&self) -> Options {
        Options::new()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
