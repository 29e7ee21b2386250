//! The protocol driver `file`: a regular host file.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aio::{AllocateMode, File};
use iobuf::IoBuf;
use rustix::fs::{Mode, OFlags, SeekFrom};

use crate::child::Child;
use crate::create::{CreateOption, CreateOptionKind, CreateRequest};
use crate::driver::{Driver, DriverKind, DriverType, IoFuture, done};
use crate::error::{Error, Result};
use crate::open::OpenRequest;
use crate::options::Options;
use crate::request::{BlockStatus, Preallocation, WriteFlags, ZeroFlags};

/// The driver `file`.
pub struct FileType;

struct FileDriver {
    filename: String,
    file: File,
    len: AtomicU64,
}

const CREATE_OPTIONS: &[CreateOption] = &[CreateOption {
    name: "preallocation",
    kind: CreateOptionKind::Text,
    help: "Preallocation mode (allowed values: off, falloc, full)",
    default: None,
}];

impl DriverType for FileType {
    fn name(&self) -> &'static str {
        "file"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["file:"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(Options::new().with("filename", filename.strip_prefix("file:").unwrap_or(filename)))
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let filename = request
                .options
                .take_str("filename")?
                .ok_or_else(|| Error::invalid("The 'file' block driver requires a file name"))?;
            request.finish()?;
            let access = if request.config.read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let fd = rustix::fs::open(&filename, access | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::from(e).context(format!("Could not open '{filename}'")))?;
            let len = rustix::fs::fstat(&fd).map_err(Error::from)?.st_size;
            let len = AtomicU64::new(u64::try_from(len).unwrap_or(0));
            Ok(Arc::new(FileDriver { filename, file: File::new(fd), len }) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn create(&self, mut request: CreateRequest) -> IoFuture<'static> {
        Box::pin(async move {
            let name = request.filename.strip_prefix("file:").unwrap_or(&request.filename).to_owned();
            request.options.take("preallocation");
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&name, flags, Mode::from_raw_mode(0o644))
                .map_err(|e| Error::from(e).context(format!("Could not create '{name}'")))?;
            rustix::fs::ftruncate(&fd, request.size)?;
            request.finish()
        })
    }
}

impl Driver for FileDriver {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move { Ok(self.file.read(offset, buf).await?) })
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let end = offset + buf.len() as u64;
            self.file.write(offset, buf).await?;
            self.len.fetch_max(end, Ordering::AcqRel);
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let inside = offset + len <= self.len();
            let mode = if flags.may_unmap && inside { AllocateMode::PunchHole } else { AllocateMode::Zero };
            match self.file.allocate(mode, offset, len).await {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                    return Err(Error::unsupported("The file system can't zero a range"));
                }
                Err(error) => return Err(error.into()),
            }
            self.len.fetch_max(offset + len, Ordering::AcqRel);
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move { Ok(self.file.allocate(AllocateMode::PunchHole, offset, len).await?) })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move { Ok(self.file.sync_data().await?) })
    }

    fn truncate(&self, len: u64, _exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            if !matches!(preallocation, Preallocation::Off) {
                return Err(Error::unsupported("Unsupported preallocation mode"));
            }
            rustix::fs::ftruncate(self.file.fd(), len)?;
            self.len.store(len, Ordering::Release);
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, precise: bool) -> IoFuture<'_, BlockStatus> {
        if !precise {
            return done(BlockStatus::data(len, Some(offset)));
        }
        Box::pin(async move {
            let end = offset + len;
            let seek = |from| rustix::fs::seek(self.file.fd(), from);
            match seek(SeekFrom::Data(offset)) {
                Ok(data) if data > offset => {
                    let len = data.min(end) - offset;
                    Ok(BlockStatus { offset: Some(offset), ..BlockStatus::zero(len) })
                }
                Ok(_) => {
                    let hole = seek(SeekFrom::Hole(offset)).unwrap_or(end);
                    Ok(BlockStatus::data(hole.clamp(offset + 1, end) - offset, Some(offset)))
                }
                Err(rustix::io::Errno::NXIO) => Ok(BlockStatus { offset: Some(offset), ..BlockStatus::zero(len) }),
                Err(_) => Ok(BlockStatus::data(len, Some(offset))),
            }
        })
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        let stat = rustix::fs::fstat(self.file.fd());
        done(stat.ok().and_then(|stat| u64::try_from(stat.st_blocks).ok()).map(|blocks| blocks * 512))
    }

    fn exact_filename(&self) -> Option<String> {
        Some(self.filename.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
