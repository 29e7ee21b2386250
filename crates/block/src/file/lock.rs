//! Image locks, byte for byte as QEMU's, so that both refuse each other's images.
//!
//! A shared lock on byte 100 + *n* says that permission *n* is used, one on byte 200 + *n* that it is *not* shared. Who
//! wants to use a permission looks whether anybody has locked its "not shared" byte, and the other way round. One first
//! takes all locks of the old and the new state, then looks, then gives up what is not needed any more: two processes
//! that start at once may both fail, but never both succeed.

use std::os::fd::{AsRawFd, OwnedFd};

use aio::host::{self, Lock};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::permissions::Permissions;

const USED: i64 = 100;
const NOT_SHARED: i64 = 200;

/// The permissions of bits 0 to 3. QEMU up to 6.1 has a fifth, which nobody conflicts with.
const EACH: [Permissions; 4] =
    [Permissions::CONSISTENT_READ, Permissions::WRITE, Permissions::WRITE_UNCHANGED, Permissions::RESIZE];

/// What is used, and what is shared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub used: Permissions,
    pub shared: Permissions,
}

impl Claim {
    /// Nothing is used, everything is shared: no locks.
    pub const NONE: Self = Self { used: Permissions::NONE, shared: Permissions::ALL };

    fn with(self, other: Self) -> Self {
        Self { used: self.used | other.used, shared: self.shared & other.shared }
    }

    fn bytes(self) -> impl Iterator<Item = (i64, bool)> {
        let locked = move |permission: Permissions| (self.used.contains(permission), !self.shared.contains(permission));
        EACH.into_iter().zip(0..).flat_map(move |(permission, bit)| {
            let (used, not_shared) = locked(permission);
            [(USED + bit, used), (NOT_SHARED + bit, not_shared)]
        })
    }
}

/// A descriptor to hold the locks of the file that `fd` is open on.
///
/// With `own` it is an open file of its own where the host allows that. Locks end with the last reference to their open
/// file, and the kernel gives up those of an `io_uring` only after the process has gone: whoever starts a machine again
/// that was just killed would find its images locked by nobody.
pub(super) fn descriptor(fd: &OwnedFd, own: bool) -> Result<OwnedFd> {
    if own {
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if let Ok(descriptor) = rustix::fs::open(name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            return Ok(descriptor);
        }
    }
    fd.try_clone().map_err(|error| Error::host(&error))
}

/// Takes all locks of `claim`.
fn acquire(fd: &OwnedFd, claim: Claim) -> Result<()> {
    for (byte, _) in claim.bytes().filter(|(_, locked)| *locked) {
        host::lock(fd, byte, 1, Lock::Shared)
            .map_err(|e| Error::host(&e).context(format!("Failed to lock byte {byte}")))?;
    }
    Ok(())
}

/// Gives up all locks that `claim` does not need.
pub(super) fn release_to(fd: &OwnedFd, claim: Claim) {
    for (byte, _) in claim.bytes().filter(|(_, locked)| !*locked) {
        if let Err(error) = host::unlock(fd, byte, 1) {
            tracing::warn!("unlocking byte {byte}: {error}");
        }
    }
}

/// Looks whether another open file stands against `claim`.
pub(super) fn check(fd: &OwnedFd, claim: Claim) -> Result<()> {
    for (permission, bit) in EACH.into_iter().zip(0..) {
        let questions = [
            (claim.used.contains(permission), NOT_SHARED + bit, ""),
            (!claim.shared.contains(permission), USED + bit, "shared "),
        ];
        for (_, byte, shared) in questions.into_iter().filter(|(asked, ..)| *asked) {
            let message = format!("Failed to get {shared}\"{permission}\" lock");
            let free = host::can_lock(fd, byte, 1, Lock::Exclusive);
            if !free.map_err(|e| Error::host(&e).context(&message))? {
                return Err(Error::new(rustix::io::Errno::AGAIN.raw_os_error(), message));
            }
        }
    }
    Ok(())
}

/// Goes from `old` to what both `old` and `new` need, if nobody stands against `new`. On an error all is as before.
pub(super) fn tighten(fd: &OwnedFd, filename: &str, old: Claim, new: Claim) -> Result<()> {
    if old.with(new) == old {
        return Ok(());
    }
    let result = acquire(fd, old.with(new)).and_then(|()| {
        let hint = format!("Is another process using the image [{filename}]?");
        check(fd, new).map_err(|error| error.with_hint(hint))
    });
    if result.is_err() {
        release_to(fd, old);
    }
    result
}
