//! `null-co` and `null-aio`: a disk that forgets what is written. For measuring what lies above.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use iobuf::IoBuf;

use crate::child::Child;
use crate::driver::{Driver, DriverKind, DriverType, IoFuture, done};
use crate::error::{Error, Result};
use crate::open::OpenRequest;
use crate::options::Options;
use crate::request::{BlockStatus, Preallocation, WriteFlags, ZeroFlags};

/// The drivers `null-co` and `null-aio`, which differ in their name alone.
pub struct NullType {
    name: &'static str,
    prefixes: &'static [&'static str],
}

/// The driver `null-co`.
pub static NULL_CO: NullType = NullType { name: "null-co", prefixes: &["null-co:"] };
/// The driver `null-aio`.
pub static NULL_AIO: NullType = NullType { name: "null-aio", prefixes: &["null-aio:"] };

struct Null {
    name: &'static str,
    len: u64,
    latency: Duration,
    read_zeroes: bool,
}

impl DriverType for NullType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn prefixes(&self) -> &'static [&'static str] {
        self.prefixes
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        if filename != format!("{}://", self.name) {
            return Err(Error::invalid(format!("The only allowed filename for this driver is '{}://'", self.name)));
        }
        Ok(Options::new())
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        let name = self.name;
        Box::pin(async move {
            let options = &mut request.options;
            if let Some(filename) = options.take_str("filename")?
                && filename != format!("{name}://")
            {
                return Err(Error::invalid(format!("The only allowed filename for this driver is '{name}://'")));
            }
            let len = options.take_size("size")?.unwrap_or(1 << 30);
            if len > i64::MAX as u64 {
                return Err(Error::invalid("The disk is too large"));
            }
            let latency =
                options.take_u64("latency-ns").map_err(|error| error.with_message("latency-ns is invalid"))?;
            let read_zeroes = options.take_bool("read-zeroes")?.unwrap_or(false);
            request.finish()?;
            let latency = Duration::from_nanos(latency.unwrap_or(0));
            Ok(Arc::new(Null { name, len, latency, read_zeroes }) as Arc<dyn Driver>)
        })
    }
}

impl Null {
    fn wait(&self) -> IoFuture<'_> {
        if self.latency.is_zero() {
            return done(());
        }
        Box::pin(async {
            aio::sleep(self.latency).await;
            Ok(())
        })
    }
}

impl Driver for Null {
    fn len(&self) -> u64 {
        self.len
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, _offset: u64, buf: IoBuf) -> IoFuture<'_> {
        if self.read_zeroes {
            buf.fill(0, buf.len(), 0);
        }
        self.wait()
    }

    fn write(&self, _offset: u64, _buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        self.wait()
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _flags: ZeroFlags) -> IoFuture<'_> {
        self.wait()
    }

    fn discard(&self, _offset: u64, _len: u64) -> IoFuture<'_> {
        self.wait()
    }

    fn flush(&self) -> IoFuture<'_> {
        self.wait()
    }

    fn truncate(&self, _len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        crate::driver::fail(Error::unsupported(format!("Image format driver '{}' does not support resize", self.name)))
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        done(BlockStatus {
            len,
            allocated: true,
            zero: self.read_zeroes,
            offset: Some(offset),
            ..BlockStatus::default()
        })
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        done(Some(0))
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            let same = [
                ("size", options.take_size("size")?.is_none_or(|len| len == self.len)),
                ("read-zeroes", options.take_bool("read-zeroes")?.is_none_or(|on| on == self.read_zeroes)),
                (
                    "latency-ns",
                    options
                        .take_u64("latency-ns")?
                        .is_none_or(|latency| u128::from(latency) == self.latency.as_nanos()),
                ),
            ];
            let changed = same.iter().find(|(_, same)| !same).map(|(name, _)| (*name).to_owned());
            match changed.or_else(|| options.iter().next().map(|(name, _)| name.to_owned())) {
                None => Ok(()),
                Some(name) => Err(Error::invalid(format!("Cannot change the option '{name}'"))),
            }
        })
    }

    fn exact_filename(&self) -> Option<String> {
        self.strong_options().is_empty().then(|| format!("{}://", self.name))
    }

    fn strong_options(&self) -> Options {
        let mut options = Options::new();
        if self.len != 1 << 30 {
            options.set("size", self.len);
        }
        if self.read_zeroes {
            options.set("read-zeroes", true);
        }
        options
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
