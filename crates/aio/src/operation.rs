//! One operation on a descriptor: what it is, how it is done by system calls, and who waits for it.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use iobuf::IoBuf;
use rustix::fs::FallocateFlags;

use crate::task::lock;

/// The most segments of one system call (`UIO_MAXIOV`).
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// What is done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Reads at an offset.
    Read { offset: u64, buf: IoBuf },
    /// Writes at an offset; with `sync`, to stable storage.
    Write { offset: u64, buf: IoBuf, sync: bool },
    /// Brings data to stable storage.
    SyncData,
    /// Reserves, punches or zeroes.
    Allocate { flags: FallocateFlags, offset: u64, len: u64 },
    /// Waits until a socket is readable or writable (`POLLIN`, `POLLOUT`).
    Ready { events: i16 },
}

#[derive(Debug)]
enum Status {
    Running(Option<Waker>),
    Done(i32),
    Taken,
}

/// An operation that has been started or will be. Whoever executes it holds it until it has ended.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) action: Action,
    status: Mutex<Status>,
}

fn off(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Calls `preadv2` or `pwritev2` with at most [`MAX_SEGMENTS`] segments.
pub(crate) fn vectored(fd: RawFd, write: bool, offset: u64, buf: &IoBuf, flags: libc::c_int) -> io::Result<usize> {
    if let ([segment], 0) = (buf.segments(), flags) {
        let (start, len) = (segment.start().as_ptr().cast::<libc::c_void>(), segment.len());
        // SAFETY: the segment is memory that `buf` keeps alive and accessible during the call.
        let n = unsafe {
            match write {
                true => libc::pwrite(fd, start, len, off(offset)?),
                false => libc::pread(fd, start, len, off(offset)?),
            }
        };
        return usize::try_from(n).map_err(|_| io::Error::last_os_error());
    }
    let many;
    let one;
    let iovecs: &[libc::iovec] = match buf.segments() {
        [segment] => {
            one = [libc::iovec { iov_base: segment.start().as_ptr().cast(), iov_len: segment.len() }];
            &one
        }
        _ => {
            many = buf.iovecs();
            &many
        }
    };
    let count = iovecs.len().min(MAX_SEGMENTS) as libc::c_int;
    let call = if write { libc::pwritev2 } else { libc::preadv2 };
    // SAFETY: the vectors describe memory that `buf` keeps alive and accessible during the call; `count` is at most
    // their number.
    let n = unsafe { call(fd, iovecs.as_ptr(), count, off(offset)?, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

impl Operation {
    pub(crate) fn new(fd: Arc<OwnedFd>, action: Action) -> Arc<Self> {
        Arc::new(Self { fd, action, status: Mutex::new(Status::Running(None)) })
    }

    /// Does it now, blocking. The result is a count or a negative error number.
    pub(crate) fn execute(&self) -> i32 {
        loop {
            let result = match &self.action {
                Action::Read { offset, buf } => vectored(self.fd.as_raw_fd(), false, *offset, buf, 0),
                Action::Write { offset, buf, sync } => {
                    vectored(self.fd.as_raw_fd(), true, *offset, buf, if *sync { libc::RWF_DSYNC } else { 0 })
                }
                Action::SyncData => rustix::fs::fdatasync(self.fd.as_fd()).map(|()| 0).map_err(Into::into),
                Action::Allocate { flags, offset, len } => {
                    rustix::fs::fallocate(self.fd.as_fd(), *flags, *offset, *len).map(|()| 0).map_err(Into::into)
                }
                Action::Ready { events } => poll(self.fd.as_raw_fd(), *events),
            };
            match result {
                Ok(n) => return i32::try_from(n).unwrap_or(i32::MAX),
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EINTR => {}
                    errno => return -errno,
                },
            }
        }
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        matches!(*lock(&self.status), Status::Running(_))
    }

    /// Stores the result and wakes who waits.
    pub(crate) fn complete(&self, result: i32) {
        let old = std::mem::replace(&mut *lock(&self.status), Status::Done(result));
        if let Status::Running(Some(waker)) = old {
            waker.wake();
        }
    }
}

fn poll(fd: RawFd, events: i16) -> io::Result<usize> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry for the duration of the call.
    let n = unsafe { libc::poll(&raw mut entry, 1, -1) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Waits for an operation that somebody executes.
pub(crate) struct Completion(pub(crate) Arc<Operation>);

impl Future for Completion {
    type Output = io::Result<usize>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut status = lock(&self.0.status);
        match &mut *status {
            Status::Running(Some(waker)) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            Status::Running(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Status::Done(result) => {
                let result = *result;
                *status = Status::Taken;
                Poll::Ready(usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)))
            }
            Status::Taken => panic!("Completion polled after it was ready"),
        }
    }
}
