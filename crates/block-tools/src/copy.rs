//! Copying images: one or several sources, one behind the other, into a target.
//!
//! A scan over the block status of the sources hands out pieces of data, zeroes or "as in the backing". Several workers
//! take a piece each, read it, look for zeroes and write it, so that reads and writes overlap. Writes start in the order
//! of their offsets unless the caller allows any order: targets that allocate then stay sequential.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use block::{Child, Error, Node, WriteFlags, ZeroFlags};
use iobuf::IoBuf;
use tokio::sync::{Mutex, Notify};

use crate::parallel::Set;
use crate::progress::{self, Progress};
use crate::status::{self, SECTOR};

/// Bytes that are copied at once, unless the target wants more.
const BUFFER: u64 = 2 << 20;
/// The largest buffer, bytes.
pub const MAX_BUFFER: u64 = 16 << 20;
/// The longest range whose status is asked for at once, bytes.
const MAX_STATUS: u64 = 1 << 30;

/// When a write may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// At once.
    Any,
    /// When the writes before it have started.
    Started,
    /// When the writes before it are finished.
    Finished,
}

/// What is to be copied how.
pub struct Copy {
    /// The sources, one behind the other.
    pub sources: Vec<Arc<Child>>,
    /// The target. It is at least as long as the sources together.
    pub target: Arc<Child>,
    /// Runs of zeroes of at least so many bytes are not written as data; 0 writes everything.
    pub sparse: u64,
    /// Data is stored compressed, a cluster at a time.
    pub compressed: bool,
    /// What is not written reads as zeroes.
    pub zero_initialised: bool,
    /// The target has a backing with the same contents as the backing of the source.
    pub has_backing: bool,
    /// The length of that backing, if what is behind it reads as zeroes in the target.
    pub backing_len: Option<u64>,
    /// How many pieces are in flight.
    pub workers: usize,
    /// When writes start.
    pub order: Order,
    /// Unreadable sectors become zeroes.
    pub salvage: bool,
    /// Data is copied by the host where it can, without a look at what is zero in it.
    pub offload: bool,
    /// Each write is stable before it counts as done.
    pub stable: bool,
    /// Bytes that are written in a second at most.
    pub rate_limit: Option<u64>,
}

/// What failed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The status of a source, at an offset of that source.
    Status(u64, Error),
    /// Reading, at an offset of the target.
    Read(u64, Error),
    /// Writing, at an offset of the target.
    Write(u64, Error),
    /// Something before the first request, or the cancellation.
    Other(Error),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    Backing,
}

/// Where the scan is.
#[derive(Clone, Copy)]
struct Scan {
    position: u64,
    kind: Kind,
    /// Up to where `kind` holds.
    until: u64,
}

struct Source {
    child: Arc<Child>,
    node: Arc<Node>,
    start: u64,
    len: u64,
    alignment: u64,
}

struct Job<'a> {
    copy: &'a Copy,
    sources: Vec<Source>,
    total: u64,
    buffer: u64,
    /// Unit of zero detection, bytes.
    alignment: u64,
    cluster: u64,
    progress: &'a dyn Progress,
    progress_total: u64,
    progress_done: AtomicU64,
    scan: Mutex<Scan>,
    /// The host has not refused to copy yet.
    offload: AtomicBool,
    failed: AtomicBool,
    failure: StdMutex<Option<Failure>>,
    turn: AtomicU64,
    turned: Notify,
    pace: StdMutex<(Instant, u64)>,
}

/// Copies.
///
/// # Errors
/// See [`Failure`]. What was written until then stays.
pub async fn run(copy: &Copy, progress: &dyn Progress) -> Result<(), Failure> {
    let job = Job::new(copy, progress).await?;
    let mut workers = Set::default();
    for _ in 0..copy.workers.max(1) {
        workers.push(job.work());
    }
    workers.join().await;
    match job.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

impl<'a> Job<'a> {
    async fn new(copy: &'a Copy, progress: &'a dyn Progress) -> Result<Job<'a>, Failure> {
        let mut sources = Vec::new();
        let mut total = 0u64;
        for child in &copy.sources {
            let node = child.node();
            let alignment = status::cluster_size(&node).unwrap_or(0);
            let alignment = alignment.max(u64::from(node.driver().limits().request_alignment)).max(SECTOR);
            let len = status::size(&node);
            sources.push(Source { child: Arc::clone(child), node, start: total, len, alignment });
            total =
                total.checked_add(len).ok_or_else(|| Failure::Other(Error::too_big("The sources are too large")))?;
        }
        let node = copy.target.node();
        let limits = node.driver().limits();
        let cluster = status::cluster_size(&node).unwrap_or(0);
        let wanted = limits.optimal_transfer.max(u64::from(limits.discard_alignment));
        let mut buffer = BUFFER.max(wanted.next_multiple_of(SECTOR)).min(MAX_BUFFER);
        if copy.compressed {
            if cluster == 0 || cluster > buffer {
                return Err(Failure::Other(Error::invalid("invalid cluster size")));
            }
            buffer = cluster;
        }
        let floor = if copy.sparse == 0 { SECTOR } else { 1 << copy.sparse.max(SECTOR).ilog2() };
        let mut job = Job {
            copy,
            sources,
            total,
            buffer,
            alignment: floor.max(u64::from(limits.request_alignment)),
            cluster,
            progress,
            progress_total: total,
            progress_done: AtomicU64::new(0),
            scan: Mutex::new(Scan { position: 0, kind: Kind::Data, until: 0 }),
            offload: AtomicBool::new(copy.offload),
            failed: AtomicBool::new(false),
            failure: StdMutex::new(None),
            turn: AtomicU64::new(0),
            turned: Notify::new(),
            pace: StdMutex::new((Instant::now(), 0)),
        };
        // Who salvages is told beforehand, too, what can't be read.
        if progress.is_shown() || copy.salvage {
            job.progress_total = job.count().await?;
        }
        Ok(job)
    }

    /// Bytes that will be written as data.
    async fn count(&self) -> Result<u64, Failure> {
        let mut scan = Scan { position: 0, kind: Kind::Data, until: 0 };
        let mut data = 0;
        while scan.position < self.total {
            progress::check(self.progress).map_err(Failure::Other)?;
            let (kind, len) = self.step(&mut scan).await?;
            if self.is_written(kind) {
                data += len;
            }
            scan.position += len;
        }
        Ok(data)
    }

    fn is_written(&self, kind: Kind) -> bool {
        kind == Kind::Data || (kind == Kind::Zero && self.copy.sparse == 0)
    }

    /// The source that `position` lies in.
    fn source_at(&self, position: u64) -> Result<&Source, Failure> {
        self.sources
            .iter()
            .find(|source| position < source.start + source.len)
            .ok_or_else(|| Failure::Other(Error::invalid("The position lies behind the sources")))
    }

    /// What is at the scan's position, and how much of it is to be copied next.
    async fn step(&self, scan: &mut Scan) -> Result<(Kind, u64), Failure> {
        let position = scan.position;
        if scan.until <= position {
            let (kind, len) = self.status_at(position).await?;
            (scan.kind, scan.until) = (kind, position + len);
        }
        let mut kind = scan.kind;
        let mut len = scan.until - position;
        if kind == Kind::Data {
            len = len.min(self.buffer);
        }
        if self.copy.compressed {
            // Whole clusters are written, so what is shorter is data.
            if len < self.cluster {
                len = self.cluster.min(self.total - position);
                kind = Kind::Data;
                scan.until = position + len;
            } else {
                len -= len % self.cluster;
            }
        }
        Ok((kind, len))
    }

    async fn status_at(&self, position: u64) -> Result<(Kind, u64), Failure> {
        let source = self.source_at(position)?;
        let offset = position - source.start;
        let mut len = MAX_STATUS.min(source.len - offset);
        let behind_backing = self.copy.backing_len.is_some_and(|backing| position >= backing);
        if let Some(backing) = self.copy.backing_len
            && !behind_backing
        {
            len = len.min(backing - position);
        }
        let base = if self.copy.has_backing { status::backing_of(&source.node) } else { None };
        let extent = loop {
            match status::above(&source.node, base.as_ref(), offset, len).await {
                Ok(extent) if extent.len > 0 => break extent,
                Ok(_) => break status::Extent { len, allocated: true, zero: true, ..Default::default() },
                Err(error) if self.copy.salvage => {
                    if len <= SECTOR {
                        self.progress.warn(&format!("error while reading block status at offset {offset}: {error}"));
                        break status::Extent { len: SECTOR, data: true, allocated: true, ..Default::default() };
                    }
                    len = (len / 4).next_multiple_of(SECTOR).max(SECTOR);
                }
                Err(error) => return Err(Failure::Status(offset, error)),
            }
        };
        let mut len = extent.len.next_multiple_of(SECTOR).min(source.len - offset);
        let tail = (offset + len) % source.alignment;
        if len > tail {
            len -= tail;
        }
        let kind = if extent.zero {
            if behind_backing { Kind::Backing } else { Kind::Zero }
        } else if extent.data || !self.copy.has_backing {
            Kind::Data
        } else {
            Kind::Backing
        };
        Ok((kind, len))
    }

    fn fail(&self, failure: Failure) {
        self.failed.store(true, Ordering::Release);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.turned.notify_waiters();
    }

    async fn work(&self) {
        let buf = IoBuf::zeroed(usize::try_from(self.buffer).unwrap_or(0));
        loop {
            match self.piece(&buf).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(failure) => return self.fail(failure),
            }
        }
    }

    /// Copies one piece; false if there is none left.
    async fn piece(&self, buf: &IoBuf) -> Result<bool, Failure> {
        let (kind, position, len) = {
            let mut scan = self.scan.lock().await;
            if self.failed.load(Ordering::Acquire) || scan.position >= self.total {
                return Ok(false);
            }
            progress::check(self.progress).map_err(Failure::Other)?;
            let (kind, mut len) = self.step(&mut scan).await?;
            if kind == Kind::Zero && self.copy.sparse == 0 {
                len = len.min(self.buffer);
            }
            let position = scan.position;
            scan.position += len;
            (kind, position, len)
        };
        if self.is_written(kind) {
            let done = self.progress_done.fetch_add(len, Ordering::Relaxed) + len;
            self.progress.update(done, self.progress_total);
        }
        let piece = match kind {
            Kind::Data if self.copy_by_host(position, len).await? => None,
            Kind::Data => {
                let piece = buf.slice(0, usize::try_from(len).unwrap_or(0));
                self.read(position, &piece).await?;
                Some(piece)
            }
            Kind::Zero if self.copy.sparse == 0 => {
                let piece = buf.slice(0, usize::try_from(len).unwrap_or(0));
                piece.fill(0, piece.len(), 0);
                Some(piece)
            }
            Kind::Zero | Kind::Backing => None,
        };
        self.wait_for_turn(position).await;
        if self.failed.load(Ordering::Acquire) {
            return Ok(false);
        }
        // What the host has copied is written.
        let kind = if kind == Kind::Data && piece.is_none() { Kind::Backing } else { kind };
        let write = self.write(kind, position, len, piece);
        if self.copy.order == Order::Started {
            let mut write = Box::pin(write);
            // Its first poll is its start.
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context))).await;
            self.pass_turn(position + len);
            match first {
                std::task::Poll::Ready(result) => result?,
                std::task::Poll::Pending => write.await?,
            }
        } else {
            let result = write.await;
            self.pass_turn(position + len);
            result?;
        }
        self.keep_pace(if self.is_written(kind) { len } else { 0 }).await;
        Ok(true)
    }

    async fn wait_for_turn(&self, position: u64) {
        if self.copy.order == Order::Any {
            return;
        }
        loop {
            let turned = self.turned.notified();
            let mut turned = std::pin::pin!(turned);
            turned.as_mut().enable();
            if self.turn.load(Ordering::Acquire) >= position || self.failed.load(Ordering::Acquire) {
                return;
            }
            turned.await;
        }
    }

    fn pass_turn(&self, end: u64) {
        if self.copy.order != Order::Any {
            self.turn.store(end, Ordering::Release);
            self.turned.notify_waiters();
        }
    }

    async fn keep_pace(&self, len: u64) {
        let Some(rate) = self.copy.rate_limit.filter(|rate| *rate != 0) else { return };
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.1 += len;
            #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
            let due = pace.0 + Duration::from_secs_f64(pace.1 as f64 / rate as f64);
            due.saturating_duration_since(Instant::now())
        };
        if !wait.is_zero() {
            aio::sleep(wait).await;
        }
    }

    /// Copies a piece without reading it; false if that can't be done.
    async fn copy_by_host(&self, position: u64, len: u64) -> Result<bool, Failure> {
        let mut at = position;
        while at < position + len {
            if !self.offload.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let source = self.source_at(at)?;
            let offset = at - source.start;
            let wanted = (position + len - at).min(source.len - offset);
            let extent = status::above(&source.node, None, offset, wanted).await;
            let extent = extent.map_err(|error| Failure::Status(offset, error))?;
            let n = extent.len.min(wanted);
            let (true, Some(file), Some(from)) = (extent.data && n > 0, extent.file, extent.offset) else {
                return Ok(false);
            };
            match self.copy.target.copy_from(at, file, from, n).await {
                Ok(()) => at += n,
                Err(error) if error.is_unsupported() => self.offload.store(false, Ordering::Relaxed),
                Err(error) => return Err(Failure::Write(at, error)),
            }
        }
        Ok(true)
    }

    async fn read(&self, position: u64, buf: &IoBuf) -> Result<(), Failure> {
        let (mut done, mut sector_by_sector_until) = (0, 0);
        while done < buf.len() {
            let at = position + done as u64;
            let source = self.source_at(at)?;
            let offset = at - source.start;
            let mut len = ((buf.len() - done) as u64).min(source.len - offset);
            if at < sector_by_sector_until {
                len = len.min(SECTOR);
            }
            let len = usize::try_from(len).unwrap_or(0);
            let part = buf.slice(done, len);
            if let Err(error) = source.child.read(offset, part.clone()).await {
                if !self.copy.salvage {
                    return Err(Failure::Read(position, error));
                }
                if len as u64 > SECTOR {
                    sector_by_sector_until = at + len as u64;
                    continue;
                }
                self.progress.warn(&format!("error while reading offset {offset}: {error}"));
                part.fill(0, part.len(), 0);
            }
            done += len;
        }
        Ok(())
    }

    async fn write(&self, kind: Kind, position: u64, len: u64, buf: Option<IoBuf>) -> Result<(), Failure> {
        if kind == Kind::Backing {
            return Ok(());
        }
        let failed = |error| Failure::Write(position, error);
        let Some(buf) = buf else {
            return self.zero(position, len).await.map_err(failed);
        };
        let mut at = 0;
        while at < buf.len() {
            let offset = position + at as u64;
            let (is_data, n) = self.next_run(&buf, at, offset);
            if is_data {
                let flags =
                    WriteFlags { compressed: self.copy.compressed, fua: self.copy.stable, ..WriteFlags::default() };
                self.copy.target.write(offset, buf.slice(at, n), flags).await.map_err(failed)?;
            } else {
                self.zero(offset, n as u64).await.map_err(failed)?;
            }
            at += n;
        }
        Ok(())
    }

    async fn zero(&self, offset: u64, len: u64) -> block::Result<()> {
        if self.copy.zero_initialised {
            return Ok(());
        }
        let flags = ZeroFlags { may_unmap: true, no_fallback: false, fua: self.copy.stable };
        self.copy.target.write_zeroes(offset, len, flags).await
    }

    /// Whether what comes at `at` is to be written as data, and how much of it.
    fn next_run(&self, buf: &IoBuf, at: usize, offset: u64) -> (bool, usize) {
        let rest = buf.len() - at;
        if self.copy.sparse == 0 {
            return (true, rest);
        }
        if self.copy.compressed {
            return (!buf.is_zero(at, rest), rest);
        }
        let (is_zero, first) = self.uniform_run(buf, at, offset);
        if is_zero {
            return (false, first);
        }
        // Short runs of zeroes between data are written with it.
        let least = usize::try_from(self.copy.sparse).unwrap_or(usize::MAX).min(rest);
        let (mut used, mut seen) = (first, first);
        while seen < rest {
            let (is_zero, len) = self.uniform_run(buf, at + seen, offset + seen as u64);
            seen += len;
            if !is_zero {
                used = seen;
            } else if len >= least {
                break;
            }
        }
        (true, used)
    }

    /// The run of blocks from `at` on that are all zero, or all not.
    fn uniform_run(&self, buf: &IoBuf, at: usize, offset: u64) -> (bool, usize) {
        let block = |at: usize| {
            let offset = offset + at as u64;
            usize::try_from(self.alignment - offset % self.alignment).unwrap_or(usize::MAX)
        };
        let rest = buf.len() - at;
        let first = block(0).min(rest);
        let is_zero = buf.is_zero(at, first);
        let mut len = first;
        while len < rest {
            let n = block(len).min(rest - len);
            if buf.is_zero(at + len, n) != is_zero {
                break;
            }
            len += n;
        }
        (is_zero, len)
    }
}

/// Makes a whole image read as zeroes, if that is quick.
///
/// # Errors
/// [`Error::is_unsupported`] if it would have to be written.
pub async fn make_zero(target: &Arc<Child>) -> block::Result<()> {
    let len = target.len();
    let flags = ZeroFlags { may_unmap: true, no_fallback: true, fua: false };
    let mut at = 0;
    while at < len {
        let n = (len - at).min(MAX_STATUS);
        target.write_zeroes(at, n, flags).await?;
        at += n;
    }
    Ok(())
}
