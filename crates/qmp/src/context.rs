//! What a handler may know of the session that its command came from.

use crate::fds::{FdSets, FdTable};
use crate::lock;
use qapi::Error;
use qapi::fd::AddfdInfo;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// Descriptors of the latest message that had some; the first command that wants one takes it, and
/// the others are then closed.
pub(crate) type FdSlot = Arc<Mutex<Vec<OwnedFd>>>;

/// What belongs to a monitor and outlives its clients.
#[derive(Debug)]
pub(crate) struct MonitorData {
    pub(crate) id: String,
    pub(crate) fds: Mutex<FdTable>,
    pub(crate) default_cpu: Mutex<Option<u32>>,
}

/// The session that a command came from.
#[derive(Debug)]
pub struct SessionContext {
    pub(crate) monitor: Arc<MonitorData>,
    pub(crate) fd_sets: FdSets,
    pub(crate) received: Option<FdSlot>,
}

impl SessionContext {
    /// The context of a monitor that is no QMP session.
    #[must_use]
    pub fn new(id: &str, fd_sets: FdSets) -> Self {
        let monitor = MonitorData { id: id.to_owned(), fds: Mutex::default(), default_cpu: Mutex::default() };
        Self { monitor: Arc::new(monitor), fd_sets, received: None }
    }

    /// A context for work on behalf of another, with its descriptors, but without what it has chosen.
    #[must_use]
    pub fn of(other: &mut Self) -> Self {
        let received = other.received.take();
        Self { received, ..Self::new(&other.monitor.id, other.fd_sets.clone()) }
    }

    /// The id of the monitor.
    #[must_use]
    pub fn monitor_id(&self) -> &str {
        &self.monitor.id
    }

    /// Takes the file descriptor that came with the command.
    ///
    /// # Errors
    /// That none came.
    pub fn take_fd(&mut self) -> Result<OwnedFd, Error> {
        let received = self.received.take();
        let all = received.map(|slot| std::mem::take(&mut *lock(&slot)));
        let first = all.and_then(|fds| fds.into_iter().next());
        first.ok_or_else(|| Error::generic("No file descriptor supplied via SCM_RIGHTS"))
    }

    /// The monitor's named descriptors.
    pub fn fds(&self) -> MutexGuard<'_, FdTable> {
        lock(&self.monitor.fds)
    }

    /// The sets of descriptors that all monitors share.
    #[must_use]
    pub fn fd_sets(&self) -> &FdSets {
        &self.fd_sets
    }

    /// `getfd`: names the descriptor that came with the command.
    ///
    /// # Errors
    /// That none came, or that the name starts with a digit.
    pub fn getfd(&mut self, name: &str) -> Result<(), Error> {
        let fd = self.take_fd()?;
        self.fds().insert(name, fd)
    }

    /// `add-fd`: puts the descriptor that came with the command into a set.
    ///
    /// # Errors
    /// That none came, or that the id is negative.
    pub fn add_fd(&mut self, set: Option<i64>, opaque: Option<String>) -> Result<AddfdInfo, Error> {
        let fd = self.take_fd()?;
        self.fd_sets.add(set, fd, opaque)
    }

    /// The CPU that the legacy command `cpu` has chosen for this monitor.
    #[must_use]
    pub fn default_cpu(&self) -> Option<u32> {
        *lock(&self.monitor.default_cpu)
    }

    /// Chooses the monitor's CPU.
    pub fn set_default_cpu(&mut self, index: u32) {
        *lock(&self.monitor.default_cpu) = Some(index);
    }
}
