//! Where a host file's descriptors come from: its name, or a set of descriptors that the user has handed over.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType as HostType, Mode, OFlags};
use rustix::io::Errno;

use super::Kind;
use crate::error::{Error, Result};
use crate::graph::Graph;

/// Gives a duplicate of a descriptor of set `N`, for reading only or for reading and writing.
type OpenFdSet = dyn Fn(u64, bool) -> io::Result<OwnedFd> + Send + Sync;

/// The descriptors that names like `/dev/fdset/3` mean. A program puts one into its graph under [`FdSets::OBJECT`].
pub struct FdSets(Box<OpenFdSet>);

impl FdSets {
    /// The name of the object in the graph.
    pub const OBJECT: &'static str = "/dev/fdset";

    /// `open(set, writable)` gives a new descriptor whose access mode fits, or an error: `ENOENT` without such a set,
    /// `EACCES` without a fitting descriptor in it.
    pub fn new(open: impl Fn(u64, bool) -> io::Result<OwnedFd> + Send + Sync + 'static) -> Self {
        Self(Box::new(open))
    }
}

/// How a node's file is opened, again and again.
pub(super) struct Source {
    pub kind: Kind,
    pub filename: String,
    direct: AtomicBool,
    fd_sets: Option<Arc<FdSets>>,
}

impl Source {
    pub fn new(kind: Kind, filename: String, direct: bool, graph: &Graph) -> Self {
        let fd_sets = if filename.starts_with("/dev/fdset/") { graph.object(FdSets::OBJECT) } else { None };
        Self { kind, filename, direct: AtomicBool::new(direct), fd_sets }
    }

    /// Whether the host's cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Acquire)
    }

    /// Decides whether descriptors that are opened from now on bypass the host's cache.
    pub fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Ordering::Release);
    }

    /// Whether the file is opened by its name, and not a descriptor that was handed over.
    pub fn is_name(&self) -> bool {
        !self.filename.starts_with("/dev/fdset/")
    }

    fn flags(&self, writable: bool) -> OFlags {
        let mut flags = if writable { OFlags::RDWR } else { OFlags::RDONLY } | OFlags::CLOEXEC;
        if self.is_direct() {
            flags |= OFlags::DIRECT;
        }
        if self.kind == Kind::Cdrom {
            // An empty drive opens, too.
            flags |= OFlags::NONBLOCK;
        }
        flags
    }

    /// Opens the file by its name.
    pub fn open(&self, writable: bool) -> Result<OwnedFd> {
        if let Some(set) = self.filename.strip_prefix("/dev/fdset/") {
            return self.open_set(set, writable);
        }
        self.open_name(&self.filename, writable)
    }

    /// Opens the file that `fd` is open on with another access mode, even if its name means another file meanwhile.
    pub fn open_again(&self, fd: &OwnedFd, writable: bool) -> Result<OwnedFd> {
        if self.is_name() {
            let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
            match self.open_name(&name, writable) {
                Err(error) if error.errno() == Errno::NOENT.raw_os_error() => {}
                result => return result,
            }
        }
        self.open(writable)
    }

    fn open_name(&self, name: &str, writable: bool) -> Result<OwnedFd> {
        rustix::fs::open(name, self.flags(writable), Mode::empty()).map_err(|errno| {
            let what = format!("Could not open '{}'", self.filename);
            match errno {
                Errno::INVAL if self.is_direct() => {
                    Error::invalid(format!("{what}: filesystem does not support O_DIRECT"))
                }
                Errno::ROFS => {
                    Error::new(Errno::ACCESS.raw_os_error(), crate::error::strerror(errno.raw_os_error())).context(what)
                }
                errno => Error::from(errno).context(what),
            }
        })
    }

    fn open_set(&self, set: &str, writable: bool) -> Result<OwnedFd> {
        let flags = (self.flags(writable) - OFlags::CLOEXEC).bits();
        let failed = |error: &io::Error| {
            Error::host(error).context(format!("Could not dup FD for {} flags {flags:x}", self.filename))
        };
        let set = set.parse().map_err(|_| Error::invalid(format!("Could not parse fdset {set}")))?;
        let Some(sets) = &self.fd_sets else { return Err(failed(&Errno::NOENT.into())) };
        let fd = (sets.0)(set, writable).map_err(|error| failed(&error))?;
        if self.is_direct() {
            let old = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, old | OFlags::DIRECT)?;
        }
        Ok(fd)
    }

    /// Refuses what this kind of driver is not for.
    pub fn check_type(&self, fd: &OwnedFd) -> Result<HostType> {
        let host_type = HostType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
        let (fits, what) = match self.kind {
            Kind::File => (host_type == HostType::RegularFile, "a regular file"),
            Kind::Device | Kind::Cdrom => (
                matches!(host_type, HostType::CharacterDevice | HostType::BlockDevice),
                "either a character or block device",
            ),
        };
        if fits {
            return Ok(host_type);
        }
        Err(Error::invalid(format!("'{}' driver requires '{}' to be {what}", self.kind.name(), self.filename)))
    }
}
