//! The format without a format: bytes at an offset of the child.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use iobuf::IoBuf;
use tokio::sync::MutexGuard;

use crate::child::{Child, Role};
use crate::create::{CreateOption, CreateRequest, Measure, MeasureRequest};
use crate::driver::{Driver, DriverKind, DriverType, IoFuture};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::node::Node;
use crate::open::{OpenRequest, PROBE_LEN};
use crate::options::Options;
use crate::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};

/// The driver `raw`. Options: `offset` and `size`, bytes.
pub struct RawType;

const UNLIMITED: u64 = u64::MAX;

struct Raw {
    file: Arc<Child>,
    offset: AtomicU64,
    /// `UNLIMITED` if the child's size counts.
    size: AtomicU64,
    has_offset: AtomicBool,
    guess: Option<Guess>,
}

/// Nobody has said that the image is raw. What is written to its beginning must not make it look like another format:
/// whoever can write would choose the files that the host opens the next time.
struct Guess {
    graph: Weak<Graph>,
    /// Held while the beginning is written.
    writing: tokio::sync::Mutex<()>,
}

/// The window of a raw node lies inside of its file.
fn check_window(offset: u64, size: Option<u64>, len: u64) -> Result<()> {
    if offset > len {
        return Err(Error::invalid(format!(
            "Offset ({offset}) cannot be greater than size of the containing file ({len})"
        )));
    }
    if size.is_some_and(|size| size > len - offset) {
        return Err(Error::invalid(format!(
            "The sum of offset ({offset}) and size ({}) has to be smaller or equal to the actual size of the containing \
             file ({len})",
            size.unwrap_or(0)
        )));
    }
    Ok(())
}

impl DriverType for RawType {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn mutable_options(&self) -> &'static [&'static str] {
        &["offset", "size"]
    }

    fn probe(&self, _head: &[u8], _filename: &str) -> u32 {
        1
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let offset = request.options.take_size("offset")?;
            let size = request.options.take_size("size")?;
            let file = request.child("file", Role::PlainStorage).await?;
            request.finish()?;
            check_window(offset.unwrap_or(0), size, file.len())?;
            let guess = Guess { graph: Arc::downgrade(&request.graph), writing: tokio::sync::Mutex::const_new(()) };
            let driver = Raw {
                file,
                offset: AtomicU64::new(offset.unwrap_or(0)),
                size: AtomicU64::new(size.unwrap_or(UNLIMITED)),
                has_offset: AtomicBool::new(offset.is_some()),
                guess: request.is_guessed.then_some(guess),
            };
            Ok(Arc::new(driver) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &[]
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(async move {
            let mut request = request;
            let file = request.target()?;
            let preallocation = request.options.take_choice("preallocation", &Preallocation::NAMES)?;
            let preallocation = Preallocation::from_index(preallocation.unwrap_or(0));
            let size = request.size;
            request.finish()?;
            file.truncate(size, true, preallocation).await
        })
    }

    fn measure(&self, request: MeasureRequest) -> IoFuture<'static, Measure> {
        Box::pin(async move { Ok(Measure { required: request.size, fully_allocated: request.size, bitmaps: None }) })
    }
}

impl Raw {
    fn start(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    fn has_offset(&self) -> bool {
        self.has_offset.load(Ordering::Acquire)
    }

    fn has_size(&self) -> bool {
        self.size.load(Ordering::Acquire) != UNLIMITED
    }

    fn at(&self, offset: u64) -> Result<u64> {
        offset.checked_add(self.start()).ok_or_else(|| Error::invalid("The request lies behind the largest offset"))
    }

    /// Refuses to write what would be taken for another format.
    async fn check_beginning<'a>(&self, guess: &'a Guess, offset: u64, buf: &IoBuf) -> Result<MutexGuard<'a, ()>> {
        let writing = guess.writing.lock().await;
        let mut head = vec![0; PROBE_LEN];
        self.file.read_into(self.start(), &mut head).await?;
        let start = usize::try_from(offset).unwrap_or(PROBE_LEN).min(PROBE_LEN);
        let len = buf.len().min(PROBE_LEN - start);
        buf.read_at(0, &mut head[start..start + len]);
        let guessed = guess.graph.upgrade().and_then(|graph| graph.guess(&head, ""));
        match guessed {
            Some(driver) if driver.name() != "raw" => Err(Error::errno_only(rustix::io::Errno::PERM.raw_os_error())),
            _ => Ok(writing),
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<u64> {
        let size = self.size.load(Ordering::Acquire);
        if size != UNLIMITED && (offset > size || len > size - offset) {
            return Err(Error::no_space("The write lies behind the end of the raw node"));
        }
        self.at(offset)
    }
}

impl Driver for Raw {
    fn len(&self) -> u64 {
        let below = self.file.len().saturating_sub(self.start());
        self.size.load(Ordering::Acquire).min(below)
    }

    fn limits(&self) -> Limits {
        // The child pads what it can't take, and tells error injectors so.
        Limits { request_alignment: 1, memory_alignment: 1, ..self.file.node().driver().limits() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn reads_at_once(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let at = self.at(offset)?;
            self.file.event("read_aio").await;
            self.file.read(at, buf).await
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let at = self.check_write(offset, buf.len() as u64)?;
            let beginning = self.guess.as_ref().filter(|_| offset < PROBE_LEN as u64);
            let _writing = match beginning {
                Some(guess) => Some(self.check_beginning(guess, offset, &buf).await?),
                None => None,
            };
            self.file.event("write_aio").await;
            self.file.write(at, buf, flags).await
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move { self.file.write_zeroes(self.check_write(offset, len)?, len, flags).await })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move { self.file.discard(self.check_write(offset, len)?, len).await })
    }

    fn copy_from(&self, offset: u64, source: Arc<Node>, source_offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            if self.guess.is_some() && offset < PROBE_LEN as u64 {
                return Err(Error::unsupported("The beginning of an image of unknown format is looked at"));
            }
            self.file.copy_from(self.check_write(offset, len)?, source, source_offset, len).await
        })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            if self.has_size() {
                return Err(Error::unsupported("Cannot resize fixed-size raw disks"));
            }
            self.file.truncate(self.at(len)?, exact, preallocation).await
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move { Ok(BlockStatus { recurse: true, ..BlockStatus::data(len, Some(self.at(offset)?)) }) })
    }

    fn exact_filename(&self) -> Option<String> {
        if self.has_offset() || self.has_size() {
            return None;
        }
        crate::filename::exact(&self.file.node())
    }

    fn strong_options(&self) -> Options {
        let mut options = Options::new();
        if self.has_offset() {
            options.set("offset", self.start());
        }
        if self.has_size() {
            options.set("size", self.size.load(Ordering::Acquire));
        }
        options
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            let offset = options.take_size("offset")?;
            let size = options.take_size("size")?;
            check_window(offset.unwrap_or(0), size, self.file.len())?;
            self.offset.store(offset.unwrap_or(0), Ordering::Release);
            self.size.store(size.unwrap_or(UNLIMITED), Ordering::Release);
            self.has_offset.store(offset.is_some(), Ordering::Release);
            Ok(())
        })
    }

    fn is_guess(&self) -> bool {
        self.guess.is_some()
    }

    fn forwards_events(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
