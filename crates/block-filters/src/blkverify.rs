//! The filter `blkverify`: writes go to an image under test and to a raw copy; reads are compared.

use std::any::Any;
use std::sync::Arc;

use block::child::missing_child;
use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{BlockStatus, Child, Error, Limits, OpenRequest, Options, Preallocation, Result, Role, WriteFlags};
use iobuf::IoBuf;

/// The driver `blkverify`. Options: `test` and `raw`, or the name `blkverify:RAW:TEST`.
pub struct BlkverifyType;

struct Blkverify {
    test: Arc<Child>,
    raw: Arc<Child>,
}

impl DriverType for BlkverifyType {
    fn name(&self) -> &'static str {
        "blkverify"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["blkverify:"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let Some(rest) = filename.strip_prefix("blkverify:") else {
            return Ok(Options::new().with("test.filename", filename));
        };
        let (raw, test) = rest
            .split_once(':')
            .ok_or_else(|| Error::invalid("blkverify requires raw copy and original image path"))?;
        Ok(Options::new().with("raw.filename", raw).with("raw.driver", "raw").with("test.filename", test))
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let raw = request.child("raw", Role::Data).await?;
            let test = request.image_child("test", Role::Data).await?.ok_or_else(|| missing_child("test"))?;
            request.finish()?;
            Ok(Arc::new(Blkverify { test, raw }) as Arc<dyn Driver>)
        })
    }
}

impl Driver for Blkverify {
    fn len(&self) -> u64 {
        self.test.len()
    }

    fn limits(&self) -> Limits {
        Limits { max_transfer: 16 << 20, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.raw), Arc::clone(&self.test)]
    }

    fn data_child(&self) -> Option<Arc<Child>> {
        Some(Arc::clone(&self.test))
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let copy = IoBuf::zeroed(buf.len());
            let raw = self.raw.read(offset, copy.clone()).await;
            let test = self.test.read(offset, buf.clone()).await;
            if raw.is_ok() != test.is_ok() {
                return Err(mismatch("return values", offset, buf.len()));
            }
            test?;
            let (expected, found) = (copy.to_vec(), buf.to_vec());
            match expected.iter().zip(&found).position(|(a, b)| a != b) {
                None => Ok(()),
                Some(at) => Err(mismatch("contents", offset + at as u64, buf.len() - at)),
            }
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            // Both get the same bytes, even if a guest changes its memory meanwhile.
            let copy = IoBuf::copy_of(&buf.to_vec());
            let raw = self.raw.write(offset, copy.clone(), WriteFlags::default()).await;
            let test = self.test.write(offset, copy, WriteFlags::default()).await;
            if raw.is_ok() != test.is_ok() {
                return Err(mismatch("return values", offset, buf.len()));
            }
            test
        })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            self.raw.truncate(len, exact, preallocation).await?;
            self.test.truncate(len, exact, preallocation).await
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        crate::pass_status(offset, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn mismatch(what: &str, offset: u64, len: usize) -> Error {
    Error::io(format!("blkverify: the {what} differ at offset {offset}, {len} bytes"))
}
