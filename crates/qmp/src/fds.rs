//! File descriptors that clients have passed to us (`qmp.md` section 10).

use crate::lock;
use qapi::Error;
use qapi::fd::{AddfdInfo, FdsetFdInfo, FdsetInfo};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// The file descriptors that `getfd` has named. The table belongs to a monitor, and outlives its
/// clients.
#[derive(Debug, Default)]
pub struct FdTable {
    fds: HashMap<String, OwnedFd>,
}

impl FdTable {
    /// Keeps a descriptor under a name; one that had the name is closed.
    ///
    /// # Errors
    /// That the name starts with a digit: such names stand for inherited descriptors.
    pub fn insert(&mut self, name: &str, fd: OwnedFd) -> Result<(), Error> {
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(Error::expects("fdname", "a name not starting with a digit"));
        }
        self.fds.insert(name.to_owned(), fd);
        Ok(())
    }

    /// Closes a descriptor (`closefd`).
    ///
    /// # Errors
    /// That there is none of that name.
    pub fn close(&mut self, name: &str) -> Result<(), Error> {
        match self.fds.remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::generic(format!("File descriptor named '{name}' not found"))),
        }
    }

    /// Takes a descriptor out, for a command that uses it up.
    ///
    /// # Errors
    /// That there is none of that name.
    pub fn take(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let fd = self.fds.remove(name);
        fd.ok_or_else(|| Error::generic(format!("File descriptor named '{name}' has not been found")))
    }

    /// The descriptor that an argument such as `fd:NAME` or `fd=NAME` means: a number is an inherited
    /// one, anything else the name of one that is then taken out.
    ///
    /// # Errors
    /// That there is no such descriptor.
    pub fn take_param(&mut self, param: &str) -> Result<OwnedFd, Error> {
        if !param.starts_with(|first: char| first.is_ascii_digit()) {
            return self.take(param);
        }
        let number = param.parse();
        let number = number.map_err(|_| Error::generic(format!("Invalid file descriptor number '{param}'")))?;
        chardev::inherited_fd(number).map_err(|error| Error::generic(error.to_string()))
    }
}

/// How a file of a set is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdAccess {
    /// For reading.
    ReadOnly,
    /// For writing.
    WriteOnly,
    /// For both.
    ReadWrite,
}

impl FdAccess {
    fn flags(self) -> OFlags {
        match self {
            Self::ReadOnly => OFlags::RDONLY,
            Self::WriteOnly => OFlags::WRONLY,
            Self::ReadWrite => OFlags::RDWR,
        }
    }
}

/// The sets of descriptors that `add-fd` fills, shared by all monitors. Their files are opened as
/// `/dev/fdset/N`.
#[derive(Debug, Clone, Default)]
pub struct FdSets(Arc<Mutex<Sets>>);

#[derive(Debug, Default)]
struct Sets {
    by_id: BTreeMap<i64, Set>,
    monitors: usize,
    guest_runs: bool,
}

#[derive(Debug, Default)]
struct Set {
    fds: Vec<Member>,
    /// How many files that were opened from the set are still open.
    users: usize,
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
    removed: bool,
}

/// A file opened from a set. The set lives as long as it does.
#[derive(Debug)]
pub struct FdSetFile {
    fd: OwnedFd,
    set: i64,
    sets: FdSets,
}

impl AsFd for FdSetFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for FdSetFile {
    fn drop(&mut self) {
        let mut sets = lock(&self.sets.0);
        if let Some(set) = sets.by_id.get_mut(&self.set) {
            set.users = set.users.saturating_sub(1);
        }
        sets.clean();
    }
}

impl FdSets {
    /// Adds a descriptor to a set, or to a new one (`add-fd`).
    ///
    /// # Errors
    /// That the id is negative.
    pub fn add(&self, id: Option<i64>, fd: OwnedFd, opaque: Option<String>) -> Result<AddfdInfo, Error> {
        if id.is_some_and(|id| id < 0) {
            return Err(Error::expects("fdset-id", "a non-negative value"));
        }
        let mut sets = lock(&self.0);
        let id = id.unwrap_or_else(|| sets.free_id());
        let number = fd.as_raw_fd();
        sets.by_id.entry(id).or_default().fds.push(Member { fd, opaque, removed: false });
        Ok(AddfdInfo { fdset_id: id, fd: number.into() })
    }

    /// Removes a descriptor, or all, from a set (`remove-fd`). While the set is in use they are
    /// only marked.
    ///
    /// # Errors
    /// That there is no such set or descriptor.
    pub fn remove(&self, id: i64, fd: Option<i64>) -> Result<(), Error> {
        let mut sets = lock(&self.0);
        let mut found = false;
        for member in sets.by_id.get_mut(&id).into_iter().flat_map(|set| &mut set.fds) {
            if fd.is_none_or(|fd| fd == i64::from(member.fd.as_raw_fd())) {
                member.removed = true;
                found = true;
            }
        }
        if !found {
            let name = fd.map_or(format!("fdset-id:{id}"), |fd| format!("fdset-id:{id}, fd:{fd}"));
            return Err(Error::generic(format!("File descriptor named '{name}' not found")));
        }
        sets.clean();
        Ok(())
    }

    /// The sets, the highest id first (`query-fdsets`).
    #[must_use]
    pub fn query(&self) -> Vec<FdsetInfo> {
        let sets = lock(&self.0);
        let describe = |(id, set): (&i64, &Set)| {
            let fds = set
                .fds
                .iter()
                .map(|member| FdsetFdInfo { fd: member.fd.as_raw_fd().into(), opaque: member.opaque.clone() });
            FdsetInfo { fdset_id: *id, fds: fds.collect() }
        };
        sets.by_id.iter().rev().map(describe).collect()
    }

    /// Opens a file of set `id`: a duplicate of a descriptor that has just this access.
    ///
    /// # Errors
    /// `NOENT` if there is no such set, `ACCESS` if none of its descriptors fits.
    pub fn open(&self, id: i64, access: FdAccess) -> Result<FdSetFile, std::io::Error> {
        let mut sets = lock(&self.0);
        let set = sets.by_id.get_mut(&id).ok_or(Errno::NOENT)?;
        for member in &set.fds {
            let flags = rustix::fs::fcntl_getfl(&member.fd)?;
            if flags & OFlags::RWMODE == access.flags() {
                let fd = rustix::io::fcntl_dupfd_cloexec(&member.fd, 0)?;
                set.users += 1;
                return Ok(FdSetFile { fd, set: id, sets: self.clone() });
            }
        }
        Err(Errno::ACCESS.into())
    }

    /// Says whether the guest runs: only then unused sets are thrown away.
    pub fn set_guest_runs(&self, runs: bool) {
        lock(&self.0).guest_runs = runs;
    }

    pub(crate) fn monitor_connected(&self) {
        lock(&self.0).monitors += 1;
    }

    pub(crate) fn monitor_left(&self) {
        let mut sets = lock(&self.0);
        sets.monitors = sets.monitors.saturating_sub(1);
        sets.clean();
    }
}

impl Sets {
    fn free_id(&self) -> i64 {
        let mut free = 0;
        for id in self.by_id.keys() {
            if *id != free {
                break;
            }
            free += 1;
        }
        free
    }

    /// Closes what nobody can use any more.
    fn clean(&mut self) {
        let (monitors, runs) = (self.monitors, self.guest_runs);
        self.by_id.retain(|_, set| {
            let unused = set.users == 0 && monitors == 0;
            if runs {
                set.fds.retain(|member| !(member.removed || unused));
            }
            !set.fds.is_empty() || set.users > 0
        });
    }
}
