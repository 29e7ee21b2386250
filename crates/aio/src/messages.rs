//! A character device whose reads and writes are whole messages, such as `/dev/fuse`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use iobuf::IoBuf;

use crate::operation::MAX_SEGMENTS;
use crate::stream::ready;

/// Such a device. Clones share it.
#[derive(Clone, Debug)]
pub struct Messages {
    fd: Arc<OwnedFd>,
}

impl Messages {
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

    /// Waits until there is a message, or will never be one again.
    ///
    /// # Errors
    /// The host's.
    pub async fn readable(&self) -> io::Result<()> {
        ready(&self.fd, libc::POLLIN).await
    }

    /// Reads the next message into `buf` without waiting: its length.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; the host's.
    pub fn try_read(&self, buf: &IoBuf) -> io::Result<usize> {
        self.transfer(buf, false)
    }

    /// Writes `buf` as one message: the count.
    ///
    /// # Errors
    /// The host's.
    pub fn try_write(&self, buf: &IoBuf) -> io::Result<usize> {
        self.transfer(buf, true)
    }

    fn transfer(&self, buf: &IoBuf, write: bool) -> io::Result<usize> {
        let iovecs = buf.iovecs();
        // A message can't be cut in two.
        if iovecs.len() > MAX_SEGMENTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (fd, count) = (self.fd.as_fd().as_raw_fd(), iovecs.len() as libc::c_int);
        let call = if write { libc::writev } else { libc::readv };
        // SAFETY: the vectors describe memory that `buf` keeps alive and accessible during the call; `count` is their
        // number.
        let n = unsafe { call(fd, iovecs.as_ptr(), count) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_two_segments_is_read_into_two_others() {
        // A pipe in packet mode keeps messages apart, too.
        let flags = rustix::pipe::PipeFlags::DIRECT | rustix::pipe::PipeFlags::CLOEXEC;
        let (reader, writer) = rustix::pipe::pipe_with(flags).expect("a pipe");
        let (reader, writer) = (Messages::new(reader).expect("a reader"), Messages::new(writer).expect("a writer"));
        let buf = IoBuf::concat([IoBuf::zeroed(3), IoBuf::zeroed(600)]);
        let error = reader.try_read(&buf).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let message = IoBuf::concat([IoBuf::copy_of(b"one "), IoBuf::copy_of(b"message")]);
        assert_eq!(writer.try_write(&message).expect("written"), 11);
        assert_eq!(writer.try_write(&IoBuf::copy_of(b"next")).expect("written"), 4);
        crate::block_on(reader.readable()).expect("waits");
        assert_eq!(reader.try_read(&buf).expect("read"), 11);
        assert_eq!(buf.slice(0, 11).to_vec(), b"one message");
        assert_eq!(reader.try_read(&buf).expect("read"), 4);
    }
}
