//! A connected socket: bytes in order, in both directions.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use iobuf::IoBuf;

use crate::operation::{Action, Completion, MAX_SEGMENTS, Operation};
use crate::reactor;

/// A connected stream socket. Clones share it. One task may read while another writes.
#[derive(Clone, Debug)]
pub struct Stream {
    fd: Arc<OwnedFd>,
}

/// An operation that waits for readiness: given up when nobody waits for it any more, so that it does not keep the
/// descriptor open.
struct Waiting(Arc<Operation>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0.is_running() {
            reactor::give_up(&self.0);
        }
    }
}

/// Waits for one of `events` (`POLLIN`, `POLLOUT`) at a descriptor.
///
/// # Errors
/// The host's.
pub(crate) async fn ready(fd: &Arc<OwnedFd>, events: i16) -> io::Result<()> {
    let operation = Operation::new(Arc::clone(fd), Action::Ready { events });
    reactor::start(&operation, true);
    let waiting = Waiting(operation);
    Completion(Arc::clone(&waiting.0)).await.map(drop)
}

impl Stream {
    /// The operations on `fd`, which becomes non-blocking.
    ///
    /// # Errors
    /// The host's.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Waits until bytes can be read, or the peer has closed.
    ///
    /// # Errors
    /// The host's.
    pub async fn readable(&self) -> io::Result<()> {
        ready(&self.fd, libc::POLLIN).await
    }

    /// Waits until bytes can be written.
    ///
    /// # Errors
    /// The host's.
    pub async fn writable(&self) -> io::Result<()> {
        ready(&self.fd, libc::POLLOUT).await
    }

    /// Reads what is there into `buf` without waiting: the count; 0 when the peer has closed.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; the host's.
    pub fn try_read(&self, buf: &IoBuf) -> io::Result<usize> {
        self.transfer(buf, false)
    }

    /// Writes what fits without waiting: the count.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits; the host's. A closed peer is `BrokenPipe`, never a signal.
    pub fn try_write(&self, buf: &IoBuf) -> io::Result<usize> {
        self.transfer(buf, true)
    }

    fn transfer(&self, buf: &IoBuf, write: bool) -> io::Result<usize> {
        let mut iovecs = buf.iovecs();
        // SAFETY: `msghdr` is plain data for which zeroes are valid: no name, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len().min(MAX_SEGMENTS) as _;
        let fd = self.fd.as_fd().as_raw_fd();
        loop {
            // SAFETY: the header points to `iovecs`, and these to memory that `buf` keeps alive during the call.
            let n = unsafe {
                if write {
                    libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
                } else {
                    libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT)
                }
            };
            match usize::try_from(n) {
                Ok(n) => return Ok(n),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closes before; the host's.
    pub async fn read_exact(&self, buf: IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.try_read(&buf.slice(done, buf.len() - done)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The host's.
    pub async fn write_all(&self, buf: IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.try_write(&buf.slice(done, buf.len() - done)) {
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection in both directions; who reads sees its end.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}
