//! Our own terminal: standard input and output as a character device.
//!
//! The terminal is raw while it is one, and gets its old mode back when the device is closed or
//! [`restore`] is called at exit.

use crate::Error;
use crate::port::lock;
use crate::stream::{Kind, Stream};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::termios::{InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// What has to be put back.
struct Saved {
    mode: Option<Termios>,
    /// Shared descriptions that were made non-blocking.
    unblocked: Vec<Arc<OwnedFd>>,
}

/// Set while a character device has standard input and output.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

/// Opens standard input and output.
pub(crate) fn open(signal: bool) -> Result<Stream, Error> {
    let mut saved = lock(&SAVED);
    if saved.is_some() {
        return Err(Error::options("cannot use stdio by multiple character devices"));
    }
    let mut unblocked = Vec::new();
    let input = private(std::io::stdin().as_fd(), OFlags::RDONLY, &mut unblocked)?;
    let output = private(std::io::stdout().as_fd(), OFlags::WRONLY, &mut unblocked)?;
    let mode = rustix::termios::tcgetattr(std::io::stdin()).ok();
    if let Some(mode) = &mode {
        let raw = raw(mode, signal);
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .map_err(|error| Error::io("chardev: stdio: cannot set the terminal's mode", error))?;
    }
    *saved = Some(Saved { mode, unblocked });
    Ok(Stream { kind: Kind::File, input: Some(input), output: Some(output), session: None })
}

/// Puts the terminal back into the mode in which we found it.
pub(crate) fn restore() {
    let Some(saved) = lock(&SAVED).take() else {
        return;
    };
    if let Some(mode) = &saved.mode {
        _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, mode);
    }
    for fd in &saved.unblocked {
        _ = rustix::io::ioctl_fionbio(fd, false);
    }
}

/// The mode for a guest's terminal: every key is input at once, output is still made into lines.
fn raw(mode: &Termios, signal: bool) -> Termios {
    let mut raw = mode.clone();
    raw.make_raw();
    raw.output_modes |= OutputModes::OPOST;
    raw.input_modes.remove(InputModes::IXON);
    raw.local_modes.set(LocalModes::ISIG, signal);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

/// The file behind `fd` as an open file of our own, so that its being non-blocking does not disturb
/// the shell, which has the same terminal.
fn private(
    fd: std::os::fd::BorrowedFd<'_>,
    access: OFlags,
    unblocked: &mut Vec<Arc<OwnedFd>>,
) -> Result<Arc<OwnedFd>, Error> {
    let failed = |error: rustix::io::Errno| Error::io("chardev: stdio", error);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(failed)?.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::Fifo) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(own) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(Arc::new(own));
        }
    }
    let own = Arc::new(rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed)?);
    if kind != FileType::RegularFile {
        rustix::io::ioctl_fionbio(&own, true).map_err(failed)?;
        unblocked.push(Arc::clone(&own));
    }
    Ok(own)
}
