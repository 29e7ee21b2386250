//! The protocol drivers on host files: `file`, `host_device`, `host_cdrom`, and the `null` drivers.
//!
//! A node has one open descriptor, with the access mode that its users need now: with `auto-read-only` it is opened for
//! reading, and again for writing when a parent takes a permission to write ([`Driver::set_permissions`]). Image locks
//! ([`lock`]) move along.
//!
//! What the file system can't do (zeroing, punching) is found out once and remembered, so that the node's fall-back is
//! used at once. Left out: persistent reservations (`pr-manager`), SCSI pass-through.

mod create;
mod known;
mod lock;
pub mod null;
mod source;

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aio::host;
use aio::{AllocateMode, Engine, File};
use iobuf::IoBuf;
use rustix::fs::{FileType as HostType, SeekFrom};
use rustix::io::Errno;

pub use source::FdSets;

use crate::child::Child;
use crate::create::{CreateOption, CreateRequest};
use crate::driver::{DiscardCounts, Driver, DriverKind, DriverType, IoFuture, done, fail};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::node::NodeConfig;
use crate::open::OpenRequest;
use crate::options::Options;
use crate::permissions::Permissions;
use crate::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use known::KnownData;
use lock::Claim;
use source::Source;

/// Whether this is the name of one of the drivers of host files.
pub fn is_host_file(driver: &str) -> bool {
    [Kind::File, Kind::Device, Kind::Cdrom].iter().any(|kind| kind.name() == driver)
}

/// Which of the three drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Device,
    Cdrom,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Device => "host_device",
            Self::Cdrom => "host_cdrom",
        }
    }

    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::File => &["file:"],
            Self::Device => &["host_device:"],
            Self::Cdrom => &["host_cdrom:"],
        }
    }

    fn parse(self, filename: &str) -> Options {
        let plain = self.prefixes().iter().find_map(|prefix| filename.strip_prefix(prefix));
        match plain {
            // Without its prefix the name would seem to have another one.
            Some(name) if crate::filename::protocol_of(name).is_some() => {
                Options::new().with("filename", format!("./{name}"))
            }
            plain => Options::new().with("filename", plain.unwrap_or(filename)),
        }
    }

    fn open(self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move { Ok(Arc::new(HostFile::open(self, request)?) as Arc<dyn Driver>) })
    }
}

/// The driver `file`: regular files.
pub struct FileType;
/// The driver `host_device`: block and character devices.
pub struct HostDeviceType;
/// The driver `host_cdrom`: optical drives.
pub struct HostCdromType;

impl DriverType for FileType {
    fn name(&self) -> &'static str {
        Kind::File.name()
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn mutable_options(&self) -> &'static [&'static str] {
        &["x-check-cache-dropped"]
    }

    fn prefixes(&self) -> &'static [&'static str] {
        Kind::File.prefixes()
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(Kind::File.parse(filename))
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Kind::File.open(request)
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::CREATE_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::create(request))
    }
}

macro_rules! device_type {
    ($type:ty, $kind:expr) => {
        impl DriverType for $type {
            fn name(&self) -> &'static str {
                $kind.name()
            }

            fn kind(&self) -> DriverKind {
                DriverKind::Protocol
            }

            fn mutable_options(&self) -> &'static [&'static str] {
                &["x-check-cache-dropped"]
            }

            fn prefixes(&self) -> &'static [&'static str] {
                $kind.prefixes()
            }

            fn parse_filename(&self, filename: &str) -> Result<Options> {
                Ok($kind.parse(filename))
            }

            fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
                $kind.open(request)
            }

            fn create_options(&self) -> &'static [CreateOption] {
                if matches!($kind, Kind::Device) { crate::create::IN_PLACE_OPTIONS } else { &[] }
            }

            fn create(&self, request: CreateRequest) -> IoFuture<'static> {
                if matches!($kind, Kind::Device) {
                    return Box::pin(crate::create::in_place(&HostDeviceType, request));
                }
                fail(Error::unsupported("Optical drives can't be created"))
            }
        }
    };
}

device_type!(HostDeviceType, Kind::Device);
device_type!(HostCdromType, Kind::Cdrom);

/// The name of the driver that opens a plain file name: what the file is decides.
pub fn driver_for_path(path: &str) -> &'static str {
    let Ok(stat) = rustix::fs::stat(path) else { return "file" };
    match HostType::from_raw_mode(stat.st_mode) {
        HostType::BlockDevice => {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
            let drive = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
            if drive.is_ok_and(|fd| host::drive_status(&fd).is_ok()) { "host_cdrom" } else { "host_device" }
        }
        HostType::CharacterDevice => "host_device",
        _ => "file",
    }
}

/// Whether the host can't do an operation on this file at all.
fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NODEV, Errno::NOTTY];
    error.raw_os_error().is_some_and(|errno| unsupported.iter().any(|known| known.raw_os_error() == errno))
}

/// An operation that a file may turn out not to support.
struct Able(AtomicBool);

impl Able {
    fn new(able: bool) -> Self {
        Self(AtomicBool::new(able))
    }

    /// Tries it unless it is known to be impossible: whether it was done.
    async fn attempt(&self, operation: impl Future<Output = io::Result<()>>) -> Result<bool> {
        if !self.0.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match operation.await {
            Ok(()) => Ok(true),
            Err(error) if is_unsupported(&error) => {
                self.0.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The options that a node keeps, to compare them at a reopen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnOptions {
    filename: String,
    /// How the client wants it read and written, if it has said that.
    engine: Option<Engine>,
    locking: bool,
}

impl OwnOptions {
    fn take(kind: Kind, options: &mut Options, direct: bool) -> Result<Self> {
        let filename = options.take_str("filename")?.filter(|name| !name.is_empty());
        let filename = filename
            .ok_or_else(|| Error::invalid(format!("The '{}' block driver requires a file name", kind.name())))?;
        let wrong = |text: &str| Error::invalid(format!("invalid parameter value: {text}"));
        let engine = options.take_str("aio")?;
        let engine = engine.map(|name| Engine::by_name(&name).ok_or_else(|| wrong(&name))).transpose()?;
        check_engine(engine.unwrap_or_default(), direct)?;
        let locking = match options.take_str("locking")?.as_deref() {
            None | Some("auto" | "on") => true,
            Some("off") => false,
            Some(other) => return Err(wrong(other)),
        };
        if let Some(id) = options.take_str("pr-manager")? {
            return Err(Error::invalid(format!("No persistent reservation manager with id '{id}'")));
        }
        // A submission takes whatever one turn has collected, and no cache is dropped before migrations exist.
        options.take_u64("aio-max-batch")?;
        options.take_bool("drop-cache")?;
        options.take_bool("x-check-cache-dropped")?;
        Ok(Self { filename, engine, locking })
    }
}

fn check_engine(engine: Engine, direct: bool) -> Result<()> {
    if engine == Engine::Native && !direct {
        let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// The open descriptor, and the one that holds the locks of `claim`, where the node locks its file.
struct Open {
    file: File,
    limits: Limits,
    writable: bool,
    locks: Option<OwnedFd>,
    claim: Claim,
}

struct HostFile {
    source: Source,
    options: OwnOptions,
    engine: Engine,
    auto_read_only: bool,
    no_flush: bool,
    host_type: HostType,

    read_only: AtomicBool,
    open: RwLock<Open>,
    len: AtomicU64,
    /// The number of the error of the first flush that failed. The host may have dropped the data since.
    flush_error: AtomicI32,
    data: Mutex<KnownData>,
    discards: Mutex<DiscardCounts>,

    can_zero: Able,
    can_punch: Able,
    can_reserve: Able,
    can_zero_device: Able,
    can_discard_device: Able,
}

impl HostFile {
    fn open(kind: Kind, mut request: OpenRequest) -> Result<Self> {
        let NodeConfig { read_only, auto_read_only, cache, .. } = request.config;
        let options = OwnOptions::take(kind, &mut request.options, cache.direct)?;
        request.finish()?;
        let source = Source::new(kind, options.filename.clone(), cache.direct, &request.graph);
        let writable = !read_only && !auto_read_only;
        let fd = source.open(writable)?;
        let host_type = source.check_type(&fd)?;
        let limits = Self::find_limits(&fd, host_type, cache.direct);
        let len = Self::find_len(&fd, host_type)?;
        let engine = options.engine.unwrap_or(request.flags.engine);
        check_engine(engine, cache.direct)?;
        let regular = host_type == HostType::RegularFile;
        let locks = if options.locking { Some(lock::descriptor(&fd, regular && source.is_name())?) } else { None };
        let file = Self::file(fd, engine)?;
        let block = host_type == HostType::BlockDevice;
        Ok(Self {
            source,
            options,
            engine,
            auto_read_only,
            no_flush: cache.no_flush,
            host_type,
            read_only: AtomicBool::new(read_only),
            open: RwLock::new(Open { file, limits, writable, locks, claim: Claim::NONE }),
            len: AtomicU64::new(len),
            flush_error: AtomicI32::new(0),
            data: Mutex::default(),
            discards: Mutex::default(),
            can_zero: Able::new(regular || block),
            can_punch: Able::new(regular || block),
            can_reserve: Able::new(regular),
            can_zero_device: Able::new(block),
            can_discard_device: Able::new(block),
        })
    }

    fn file(fd: OwnedFd, engine: Engine) -> Result<File> {
        File::with_engine(fd, engine).map_err(|error| {
            Error::host(&error).context("failed to init linux io_uring ring").context("Unable to use io_uring")
        })
    }

    fn find_limits(fd: &OwnedFd, host_type: HostType, direct: bool) -> Limits {
        let mut limits = Limits::default();
        let sector = if host_type == HostType::BlockDevice { host::device_sector(fd).unwrap_or(512) } else { 1 };
        if direct {
            let (request, memory) = host::direct_alignment(fd);
            limits.request_alignment = request.max(sector);
            limits.memory_alignment = memory;
        }
        limits.discard_alignment = sector;
        limits.zeroes_alignment = sector;
        limits
    }

    fn find_len(fd: &OwnedFd, host_type: HostType) -> Result<u64> {
        match host_type {
            HostType::RegularFile => Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0)),
            HostType::BlockDevice => match host::device_size(fd) {
                Ok(len) => Ok(len),
                // An optical drive without a disc.
                Err(error) if error.raw_os_error() == Some(Errno::NOMEDIUM.raw_os_error()) => Ok(0),
                Err(error) => Err(error.into()),
            },
            _ => Ok(rustix::fs::seek(fd, SeekFrom::End(0)).unwrap_or(0)),
        }
    }

    fn current(&self) -> File {
        self.open.read().unwrap_or_else(PoisonError::into_inner).file.clone()
    }

    /// Gives the node the access mode that `claim` and the configuration need, and the locks of `claim`.
    fn adapt(&self, claim: Claim, read_only: bool) -> Result<()> {
        self.exchange(claim, read_only, false)
    }

    /// As [`HostFile::adapt`], with another use of the host's cache.
    fn adapt_cache(&self, claim: Claim, read_only: bool, direct: bool) -> Result<()> {
        let was_direct = self.source.is_direct();
        self.source.set_direct(direct);
        let result = self.exchange(claim, read_only, direct != was_direct);
        if result.is_err() {
            self.source.set_direct(was_direct);
        }
        result
    }

    fn exchange(&self, claim: Claim, read_only: bool, other_cache: bool) -> Result<()> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
        let writable = !read_only && (!self.auto_read_only || !(claim.used & writes).is_empty());
        let mut limits = open.limits;
        let changed = if writable == open.writable && !other_cache {
            None
        } else {
            match self.source.open_again(open.file.fd(), writable) {
                Ok(fd) => {
                    limits = Self::find_limits(&fd, self.host_type, self.source.is_direct());
                    Some(Self::file(fd, self.engine)?)
                }
                // More than what is needed now does no harm.
                Err(_) if open.writable && !other_cache => None,
                Err(error) => return Err(error),
            }
        };
        if let Some(locks) = &open.locks {
            lock::tighten(locks, &self.source.filename, open.claim, claim)?;
            lock::release_to(locks, claim);
        }
        open.claim = claim;
        if let Some(file) = changed {
            open.file = file;
            open.limits = limits;
            open.writable = writable;
        }
        Ok(())
    }

    /// Takes new options, of which only the access mode and the use of the host's cache may differ.
    fn change(&self, mut options: Options, read_only: bool) -> Result<()> {
        options.set_default("filename", self.options.filename.as_str());
        let direct = options.take_bool("cache.direct")?.unwrap_or(self.source.is_direct());
        // Whether `aio` and the cache fit each other is looked at below.
        let new = OwnOptions::take(self.source.kind, &mut options, true)?;
        let known = &self.options;
        let changed = match options.iter().next() {
            Some((name, _)) => Some(name),
            None if new.filename != known.filename => Some("filename"),
            None if new.engine.is_some_and(|engine| engine != self.engine) => Some("aio"),
            None if new.locking != known.locking => Some("locking"),
            None => None,
        };
        if let Some(name) = changed {
            return Err(Error::invalid(format!("Cannot change the option '{name}'")));
        }
        check_engine(self.engine, direct)?;
        let claim = self.open.read().unwrap_or_else(PoisonError::into_inner).claim;
        self.adapt_cache(claim, read_only, direct)?;
        self.read_only.store(read_only, Ordering::Release);
        Ok(())
    }

    fn known_data(&self) -> std::sync::MutexGuard<'_, KnownData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync(&self) -> Result<()> {
        let failed = self.flush_error.load(Ordering::Acquire);
        if failed != 0 {
            return Err(Error::errno_only(failed));
        }
        self.current().sync_data().await.or_else(|error| {
            let error = Error::host(&error);
            let regular = self.host_type == HostType::RegularFile || self.host_type == HostType::BlockDevice;
            if !regular && error.errno() == Errno::INVAL.raw_os_error() {
                // A device that keeps nothing back: /dev/null.
                return Ok(());
            }
            let direct = self.source.is_direct();
            if !direct && error.errno() != Errno::NOTSUP.raw_os_error() {
                self.flush_error.store(error.errno(), Ordering::Release);
            }
            Err(error)
        })
    }

    async fn zero(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        let file = self.current();
        let end = offset + len;
        let regular = self.host_type == HostType::RegularFile;
        let grows = regular && end > self.len();
        let punch = || file.allocate(AllocateMode::PunchHole, offset, len);
        if may_unmap && !grows && self.can_punch.attempt(punch()).await? {
            return Ok(());
        }
        let mode = if regular { AllocateMode::Zero } else { AllocateMode::ZeroKeepSize };
        if self.can_zero.attempt(file.allocate(mode, offset, len)).await? {
            return Ok(());
        }
        if regular {
            // Behind the end there are zeroes already.
            if offset >= self.len()
                && self.can_reserve.attempt(file.allocate(AllocateMode::Reserve, offset, len)).await?
            {
                return Ok(());
            }
            if self.can_punch.attempt(punch()).await? {
                return match self.can_reserve.attempt(file.allocate(AllocateMode::Reserve, offset, len)).await? {
                    true => Ok(()),
                    // The bytes are zero; only the size and the reservation are missing.
                    false if grows => Err(Error::unsupported("The file system can't reserve space")),
                    false => Ok(()),
                };
            }
        } else if self.can_zero_device.attempt(on_device(&file, offset, len, host::device_zero)).await? {
            return Ok(());
        }
        Err(Error::unsupported("The host can't zero a range"))
    }

    fn allocation(&self, file: &File, offset: u64, len: u64) -> BlockStatus {
        let end = offset + len;
        let hole = |to: u64| BlockStatus { offset: Some(offset), ..BlockStatus::zero(to - offset) };
        let data = |to: u64| BlockStatus::data(to - offset, Some(offset));
        if let Some(to) = self.known_data().end(offset) {
            return data(to.min(end));
        }
        let seek = |from| rustix::fs::seek(file.fd(), from);
        match seek(SeekFrom::Data(offset)) {
            Ok(start) if start > offset => hole(start.min(end)),
            Ok(_) => {
                let to = seek(SeekFrom::Hole(offset)).unwrap_or(end).max(offset + 1);
                self.known_data().add(offset, to);
                data(to.min(end))
            }
            // No data up to the end of the file.
            Err(Errno::NXIO) => hole(end),
            Err(_) => data(end),
        }
    }
}

/// Copies a range by the host; `EINVAL` if the source ends in it.
fn copy_range(
    from: &File,
    mut from_offset: u64,
    to: &File,
    mut to_offset: u64,
    mut len: u64,
) -> rustix::io::Result<()> {
    while len > 0 {
        let wanted = usize::try_from(len.min(1 << 30)).unwrap_or(1 << 30);
        let copied =
            rustix::fs::copy_file_range(from.fd(), Some(&mut from_offset), to.fd(), Some(&mut to_offset), wanted)?;
        if copied == 0 {
            return Err(Errno::INVAL);
        }
        len -= (copied as u64).min(len);
    }
    Ok(())
}

async fn on_device(
    file: &File,
    offset: u64,
    len: u64,
    call: fn(&OwnedFd, u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let file = file.clone();
    aio::spawn_blocking(move || call(file.fd(), offset, len)).await
}

/// The optical drive of a `host_cdrom` node. All of it waits for the drive: call it where blocking is fine.
pub struct Drive<'a>(&'a HostFile);

impl<'a> Drive<'a> {
    /// The drive behind `driver`, if it has one.
    pub fn of(driver: &'a dyn Driver) -> Option<Self> {
        driver.as_any().downcast_ref::<HostFile>().filter(|file| file.source.kind == Kind::Cdrom).map(Self)
    }

    /// Whether a disc is in.
    pub fn has_disc(&self) -> bool {
        host::drive_status(self.0.current().fd()).is_ok_and(|status| status == host::DriveStatus::DiscOk)
    }

    /// Opens or closes the tray, and takes note of the new disc's size.
    ///
    /// # Errors
    /// The host's, as for a locked tray.
    pub fn eject(&self, open: bool) -> Result<()> {
        let file = self.0.current();
        host::drive_eject(file.fd(), open)?;
        self.0.len.store(HostFile::find_len(file.fd(), self.0.host_type).unwrap_or(0), Ordering::Release);
        Ok(())
    }

    /// Locks or unlocks the tray.
    ///
    /// # Errors
    /// The host's.
    pub fn lock(&self, locked: bool) -> Result<()> {
        Ok(host::drive_lock(self.0.current().fd(), locked)?)
    }
}

impl Driver for HostFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        self.open.read().unwrap_or_else(PoisonError::into_inner).limits
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn reads_at_once(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move { Ok(self.current().read(offset, buf).await?) })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let end = offset.saturating_add(buf.len() as u64);
            let file = self.current();
            if flags.fua && !self.no_flush {
                file.write_sync(offset, buf).await?;
            } else {
                file.write(offset, buf).await?;
            }
            if self.host_type == HostType::RegularFile {
                self.len.fetch_max(end, Ordering::AcqRel);
                self.known_data().grow(offset, end);
            }
            Ok(())
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let result = self.zero(offset, len, flags.may_unmap).await;
            self.known_data().forget(offset, offset.saturating_add(len));
            result?;
            if self.host_type == HostType::RegularFile {
                self.len.fetch_max(offset + len, Ordering::AcqRel);
            }
            if flags.fua && !self.no_flush { self.sync().await } else { Ok(()) }
        })
    }

    fn copy_from(&self, offset: u64, source: Arc<Node>, source_offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let unsupported = || Error::unsupported("The host can't copy between these files");
            let Some(from) = source.driver().as_any().downcast_ref::<Self>().map(Self::current) else {
                return Err(unsupported());
            };
            let to = self.current();
            let copied = aio::spawn_blocking(move || copy_range(&from, source_offset, &to, offset, len)).await;
            self.known_data().forget(offset, offset.saturating_add(len));
            match copied {
                Ok(()) => {
                    if self.host_type == HostType::RegularFile {
                        self.len.fetch_max(offset + len, Ordering::AcqRel);
                    }
                    Ok(())
                }
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::BADF) => Err(unsupported()),
                Err(error) => Err(Error::host(&error.into())),
            }
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let file = self.current();
            let freed = if self.host_type == HostType::RegularFile {
                self.can_punch.attempt(file.allocate(AllocateMode::PunchHole, offset, len)).await
            } else {
                self.can_discard_device.attempt(on_device(&file, offset, len, host::device_discard)).await
            };
            self.known_data().forget(offset, offset.saturating_add(len));
            let mut discards = self.discards.lock().unwrap_or_else(PoisonError::into_inner);
            match freed {
                Ok(true) => {
                    discards.done += 1;
                    discards.bytes = discards.bytes.saturating_add(len);
                    Ok(())
                }
                other => {
                    discards.failed += 1;
                    other.and_then(|_| Err(Error::unsupported("The host can't discard")))
                }
            }
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.sync())
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            self.known_data().forget(len, u64::MAX);
            if self.host_type == HostType::RegularFile {
                create::resize(&self.current(), len, preallocation).await?;
                self.len.store(len, Ordering::Release);
                return Ok(());
            }
            if preallocation != Preallocation::Off {
                let mode = Preallocation::NAMES[preallocation as usize];
                return Err(Error::unsupported(format!("Preallocation mode '{mode}' unsupported for this device")));
            }
            // The device itself may have got another size meanwhile.
            let now = Self::find_len(self.current().fd(), self.host_type)?;
            if len != now && exact {
                return Err(Error::unsupported("Cannot resize device"));
            }
            if len > now {
                return Err(Error::invalid("Cannot grow device"));
            }
            self.len.store(now, Ordering::Release);
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, precise: bool) -> IoFuture<'_, BlockStatus> {
        if !precise || self.host_type != HostType::RegularFile {
            return done(BlockStatus::data(len, Some(offset)));
        }
        done(self.allocation(&self.current(), offset, len))
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        let stat = rustix::fs::fstat(self.current().fd());
        done(stat.ok().and_then(|stat| u64::try_from(stat.st_blocks).ok()).map(|blocks| blocks * 512))
    }

    fn exact_filename(&self) -> Option<String> {
        Some(self.source.filename.clone())
    }

    fn reopen(&self, options: Options, read_only: bool) -> IoFuture<'_> {
        match self.change(options, read_only) {
            Ok(()) => done(()),
            Err(error) => fail(error),
        }
    }

    fn discards(&self) -> Option<DiscardCounts> {
        Some(*self.discards.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reopens_cache(&self) -> bool {
        true
    }

    fn set_permissions(&self, used: Permissions, shared: Permissions) -> Result<()> {
        self.adapt(Claim { used, shared }, self.read_only.load(Ordering::Acquire))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
