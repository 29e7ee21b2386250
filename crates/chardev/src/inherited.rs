//! File descriptors that the parent process left open for us (`fd=25`).

use crate::Error;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::os::fd::OwnedFd;

/// A duplicate of the inherited file descriptor `number`. The original stays open as well: who
/// wants the other side to see the end of a connection has to shut it down.
///
/// # Errors
/// That the number is no open file descriptor.
pub fn inherited_fd(number: i32) -> Result<OwnedFd, Error> {
    let what = || format!("File descriptor {number}");
    // Taking it from "another process", which is this one, needs no trust in the number.
    let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| Error::io(what(), error))?;
    pidfd_getfd(this, number, PidfdGetfdFlags::empty()).map_err(|error| Error::io(what(), error))
}
