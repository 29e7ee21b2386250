//! Operations on one host file.
//!
//! How a transfer is done:
//! - Buffered reads are tried at once with `RWF_NOWAIT`: what is in the page cache is copied without any queue. Files of
//!   memory file systems, where that is refused but nothing ever waits, are read and written at once.
//! - With the default engine, whole pages that are written to the page cache are copied at once, too, although the host
//!   has no way to refuse a wait there: a kernel thread costs several times the copy. Writes that are slow and did wait send
//!   the writes after them to the engine for thirty times as long, so that waiting takes a few per cent of a reactor's
//!   time. Who wants no such wait at all names an engine.
//! - Long writes, and those of at least 32 KiB of a future that is [in the background](crate::in_background), are copied to
//!   the page cache by a thread for the file, one after the other.
//! - What is left goes to the engine: the reactor's ring, or the pool of threads. Both move the whole buffer, however
//!   the kernel cuts it up.
//!
//! The default engine is the ring where the process may have one: a read that misses the cache, a write, and a flush
//! cost less CPU time there than a switch to another thread, and direct I/O costs least of all.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use iobuf::IoBuf;
use rustix::fs::FallocateFlags as Flags;

use crate::background::is_background;
use crate::clock::host_now;
use crate::operation::{Action, Completion, Operation, vectored};
use crate::writer::Writer;
use crate::{reactor, ring};

/// The longest transfer that is tried at once on the reactor's thread, bytes. Longer ones would keep other tasks waiting.
const INLINE_MAX: usize = 256 << 10;
/// The longest write to the page cache that is done at once, bytes.
const CACHED_WRITE_MAX: usize = 64 << 10;
/// The shortest write to the page cache that a future in the background leaves to another thread, bytes. A shorter one is
/// copied faster than it is handed over.
const BACKGROUND_MIN: usize = 32 << 10;
/// A write at once that takes longer has waited for something.
const SLOW: Duration = Duration::from_millis(1);
/// For how long after a slow write the next ones are asked whether they waited, or were only pushed off the CPU.
const SUSPICION: Duration = Duration::from_secs(1);
/// For how many times the wait writes are left to the engine afterwards.
const PENALTY: u32 = 30;
const PAGE: u64 = 4096;

/// What `allocate` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Reserves space; the bytes read as before.
    Reserve,
    /// Gives the space back; the bytes read as zeroes. The size stays.
    PunchHole,
    /// The bytes read as zeroes, the space stays reserved. The size stays.
    ZeroKeepSize,
    /// As `ZeroKeepSize`, and the file grows if the range ends behind its end.
    Zero,
}

/// Who does what can't be done at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the process may use it, otherwise threads.
    #[default]
    Auto,
    /// The process's pool of threads.
    Threads,
    /// io_uring.
    Uring,
    /// What QEMU calls `native`: here io_uring, too. For files opened with `O_DIRECT`.
    Native,
}

impl Engine {
    /// The engine of this name in QEMU's options (`aio=`).
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "threads" => Self::Threads,
            "native" => Self::Native,
            "io_uring" => Self::Uring,
            _ => return None,
        })
    }
}

/// An open host file. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
    engine: Engine,
    ring: bool,
    nowait: Arc<Nowait>,
    writer: Arc<Writer>,
}

/// What can be done at once with a file.
#[derive(Debug)]
struct Nowait {
    /// Reads and writes never wait for a device.
    memory: bool,
    reads: AtomicBool,
    writes: AtomicBool,
    /// Writes go through the page cache of a regular file.
    cached: bool,
    /// Host time in nanoseconds before which writes are left to the engine.
    writes_after: AtomicU64,
    /// Host time in nanoseconds until which a slow write is looked at closely.
    suspicious_until: AtomicU64,
}

/// The kind of the file system.
fn file_system(fd: &OwnedFd) -> Option<i64> {
    rustix::fs::fstatfs(fd).ok().map(|stat| stat.f_type)
}

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const HUGETLBFS: i64 = 0x9584_58f6;
/// A program serves it, which may be this one: its reactor must not wait for itself.
const FUSE: i64 = 0x6573_5546;

fn is_regular(fd: &OwnedFd) -> bool {
    let file_type = |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode);
    rustix::fs::fstat(fd).is_ok_and(|stat| file_type(stat).is_file())
}

/// How often the calling thread has waited for something (and not for a CPU).
fn waits_of_thread() -> i64 {
    // SAFETY: `rusage` is plain data for which zeroes are valid, and the call writes one.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_nvcsw
    }
}

impl File {
    /// The operations on `fd`, with the default engine.
    pub fn new(fd: OwnedFd) -> Self {
        let direct = rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::DIRECT));
        let file_system = file_system(&fd);
        let nowait = Nowait {
            memory: matches!(file_system, Some(TMPFS | RAMFS | HUGETLBFS)) && !direct,
            reads: AtomicBool::new(!direct),
            writes: AtomicBool::new(!direct),
            cached: !direct && is_regular(&fd) && file_system != Some(FUSE),
            writes_after: AtomicU64::new(0),
            suspicious_until: AtomicU64::new(0),
        };
        Self {
            fd: Arc::new(fd),
            engine: Engine::Auto,
            ring: ring::is_available(),
            nowait: Arc::new(nowait),
            writer: Arc::default(),
        }
    }

    /// The operations on `fd` with the given engine.
    ///
    /// # Errors
    /// `ENOSYS` if io_uring is asked for and the host refuses it.
    pub fn with_engine(fd: OwnedFd, engine: Engine) -> io::Result<Self> {
        if matches!(engine, Engine::Uring | Engine::Native) && !ring::is_available() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let file = Self::new(fd);
        Ok(Self { engine, ring: file.ring && engine != Engine::Threads, ..file })
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The engine that was asked for.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    async fn perform(&self, action: Action) -> io::Result<usize> {
        // The ring would copy to or from the page cache on the thread that asks; threads of the pool do it beside it.
        let len = match &action {
            Action::Read { buf, .. } | Action::Write { buf, .. } => buf.len(),
            _ => 0,
        };
        let is_write = matches!(action, Action::Write { sync: false, .. });
        let copies = self.is_for_threads(is_write, len);
        let queued = copies && is_write;
        let operation = Operation::new(Arc::clone(&self.fd), action);
        if queued && !is_deterministic() && !crate::is_attempting() {
            self.writer.start(Arc::clone(&operation));
        } else {
            reactor::start(&operation, self.ring && !copies);
        }
        Completion(operation).await
    }

    /// Whether threads of the pool copy `len` bytes from or to the page cache: what is long, and shorter writes of the
    /// background.
    fn is_for_threads(&self, write: bool, len: usize) -> bool {
        let is_long = len > INLINE_MAX || (write && len >= BACKGROUND_MIN && is_background());
        is_long && self.nowait.cached && self.engine == Engine::Auto
    }

    /// Transfers what can be transferred at once: the count, or 0 for "ask the engine".
    fn at_once(&self, write: bool, offset: u64, buf: &IoBuf) -> usize {
        if buf.len() > INLINE_MAX || is_deterministic() || self.is_for_threads(write, buf.len()) {
            return 0;
        }
        let fd = self.fd.as_raw_fd();
        if self.nowait.memory {
            return vectored(fd, write, offset, buf, 0).unwrap_or(0);
        }
        let allowed = if write { &self.nowait.writes } else { &self.nowait.reads };
        if allowed.load(Ordering::Relaxed) {
            match vectored(fd, write, offset, buf, libc::RWF_NOWAIT) {
                Ok(n) => return n,
                Err(error) => {
                    if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) {
                        return 0;
                    }
                    allowed.store(false, Ordering::Relaxed);
                }
            }
        }
        if write && self.nowait.cached && self.engine == Engine::Auto { self.write_cached(offset, buf) } else { 0 }
    }

    /// Writes whole pages to the page cache: the count, or 0 for "ask the engine".
    fn write_cached(&self, offset: u64, buf: &IoBuf) -> usize {
        // Parts of pages might have to be read first.
        if buf.len() > CACHED_WRITE_MAX || (offset | buf.len() as u64) & (PAGE - 1) != 0 {
            return 0;
        }
        let start = host_now();
        if start < Duration::from_nanos(self.nowait.writes_after.load(Ordering::Relaxed)) {
            return 0;
        }
        let suspicious = start < Duration::from_nanos(self.nowait.suspicious_until.load(Ordering::Relaxed));
        let waits = if suspicious { waits_of_thread() } else { 0 };
        let n = vectored(self.fd.as_raw_fd(), true, offset, buf, 0).unwrap_or(0);
        let end = host_now();
        let took = end.saturating_sub(start);
        if took > SLOW {
            let store = |field: &AtomicU64, time: Duration| {
                field.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            };
            store(&self.nowait.suspicious_until, end.saturating_add(SUSPICION));
            if suspicious && waits_of_thread() != waits {
                store(&self.nowait.writes_after, end.saturating_add(took.saturating_mul(PENALTY)));
            }
        }
        n
    }

    /// Reads into `buf` at `offset`; what lies behind the end of the file becomes zeroes.
    ///
    /// # Errors
    /// The host's.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> io::Result<()> {
        let mut done = self.at_once(false, offset, &buf);
        while done < buf.len() {
            let at = offset + done as u64;
            let n = self.perform(Action::Read { offset: at, buf: buf.slice(done, buf.len() - done) }).await?;
            if n == 0 {
                buf.fill(done, buf.len() - done, 0);
                break;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes `buf` at `offset`.
    ///
    /// # Errors
    /// The host's; `ENOSPC` if the host takes no more bytes without saying why.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> io::Result<()> {
        let done = self.at_once(true, offset, &buf);
        self.write_rest(offset, buf, done, false).await
    }

    /// Writes `buf` at `offset` to stable storage.
    ///
    /// # Errors
    /// As [`File::write`].
    pub async fn write_sync(&self, offset: u64, buf: IoBuf) -> io::Result<()> {
        self.write_rest(offset, buf, 0, true).await
    }

    async fn write_rest(&self, offset: u64, buf: IoBuf, mut done: usize, sync: bool) -> io::Result<()> {
        while done < buf.len() {
            let at = offset + done as u64;
            let n = self.perform(Action::Write { offset: at, buf: buf.slice(done, buf.len() - done), sync }).await?;
            if n == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            done += n;
        }
        Ok(())
    }

    /// Brings all data to stable storage.
    ///
    /// # Errors
    /// The host's.
    pub async fn sync_data(&self) -> io::Result<()> {
        if self.nowait.memory && !is_deterministic() {
            return Ok(rustix::fs::fdatasync(self.fd.as_fd())?);
        }
        self.perform(Action::SyncData).await.map(drop)
    }

    /// Reserves, frees or zeroes a range.
    ///
    /// # Errors
    /// The host's; `EOPNOTSUPP` where the file system can't.
    pub async fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> io::Result<()> {
        let flags = match mode {
            AllocateMode::Reserve => Flags::empty(),
            AllocateMode::PunchHole => Flags::PUNCH_HOLE | Flags::KEEP_SIZE,
            AllocateMode::ZeroKeepSize => Flags::ZERO_RANGE | Flags::KEEP_SIZE,
            AllocateMode::Zero => Flags::ZERO_RANGE,
        };
        self.perform(Action::Allocate { flags, offset, len }).await.map(drop)
    }
}

fn is_deterministic() -> bool {
    reactor::with_current(|reactor| reactor.is_deterministic()).unwrap_or(false)
}
