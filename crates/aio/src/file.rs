//! Operations on one host file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use iobuf::IoBuf;

/// What `allocate` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Reserves space; the bytes read as before.
    Reserve,
    /// Gives the space back; the bytes read as zeroes. The size stays.
    PunchHole,
    /// The bytes read as zeroes, the space stays reserved. The size stays.
    ZeroKeepSize,
    /// As `ZeroKeepSize`, and the file grows if the range ends behind its end.
    Zero,
}

/// An open host file.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
}

impl File {
    /// The operations on `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Reads into `buf` at `offset`; what lies behind the end of the file becomes zeroes.
    ///
    /// # Errors
    /// The host's.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let n = self.vectored(&buf.slice(done, buf.len() - done), offset + done as u64, false)?;
            if n == 0 {
                buf.fill(done, buf.len() - done, 0);
                break;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes `buf` at `offset`.
    ///
    /// # Errors
    /// The host's.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let n = self.vectored(&buf.slice(done, buf.len() - done), offset + done as u64, true)?;
            if n == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            done += n;
        }
        Ok(())
    }

    fn vectored(&self, buf: &IoBuf, offset: u64, write: bool) -> io::Result<usize> {
        let iovecs = buf.iovecs();
        let count = iovecs.len().min(1024) as libc::c_int;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let call = if write { libc::pwritev } else { libc::preadv };
        // SAFETY: the vectors point to memory that `buf` keeps alive during the call.
        let n = unsafe { call(self.fd.as_raw_fd(), iovecs.as_ptr(), count, offset) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Brings all data to stable storage.
    ///
    /// # Errors
    /// The host's.
    pub async fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.fd.as_fd())?)
    }

    /// Reserves, frees or zeroes a range.
    ///
    /// # Errors
    /// The host's; `EOPNOTSUPP` where the file system can't.
    pub async fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags as Flags;
        let flags = match mode {
            AllocateMode::Reserve => Flags::empty(),
            AllocateMode::PunchHole => Flags::PUNCH_HOLE | Flags::KEEP_SIZE,
            AllocateMode::ZeroKeepSize => Flags::ZERO_RANGE | Flags::KEEP_SIZE,
            AllocateMode::Zero => Flags::ZERO_RANGE,
        };
        Ok(rustix::fs::fallocate(self.fd.as_fd(), flags, offset, len)?)
    }
}
