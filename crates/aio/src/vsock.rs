//! Addresses of sockets between a host and its virtual machines (`AF_VSOCK`, vsock(7)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Such an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockAddress {
    /// The machine: 2 is the host, 4294967295 whoever listens.
    pub cid: u32,
    /// The port.
    pub port: u32,
}

impl VsockAddress {
    /// The address of these two decimal numbers.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence.
    pub fn parse(cid: &str, port: &str) -> Result<Self, String> {
        let cid = cid.parse().map_err(|_| format!("Failed to parse cid '{cid}'"))?;
        let port = port.parse().map_err(|_| format!("Failed to parse port '{port}'"))?;
        Ok(Self { cid, port })
    }

    fn socket() -> io::Result<OwnedFd> {
        Ok(rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
    }

    /// A socket that is connected to this address. Blocks.
    ///
    /// # Errors
    /// The host's.
    pub fn connect(self) -> io::Result<OwnedFd> {
        let fd = Self::socket()?;
        rustix::net::connect(&fd, &self)?;
        Ok(fd)
    }

    /// A socket that has this address.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(self) -> io::Result<OwnedFd> {
        let fd = Self::socket()?;
        rustix::net::bind(&fd, &self)?;
        Ok(fd)
    }
}

impl std::fmt::Display for VsockAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.cid, self.port)
    }
}

// SAFETY: the pointer is to a complete `sockaddr_vm`, which lives as long as the call, and its length is given with it.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        // SAFETY: `sockaddr_vm` is plain data for which zeroes are valid.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = self.cid;
        address.svm_port = self.port;
        f((&raw const address).cast(), size_of::<libc::sockaddr_vm>() as SocketAddrLen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_and_of_32_bits() {
        assert_eq!(VsockAddress::parse("4294967295", "0"), Ok(VsockAddress { cid: u32::MAX, port: 0 }));
        for (cid, port, text) in [
            ("x", "1", "Failed to parse cid 'x'"),
            ("4294967296", "1", "Failed to parse cid '4294967296'"),
            ("", "1", "Failed to parse cid ''"),
            ("1", "-1", "Failed to parse port '-1'"),
            ("1", "0x1", "Failed to parse port '0x1'"),
        ] {
            assert_eq!(VsockAddress::parse(cid, port), Err(text.to_owned()));
        }
    }

    #[test]
    fn address_is_what_the_host_reads() {
        let address = VsockAddress { cid: 7, port: 9 };
        // SAFETY: the pointer is to a `sockaddr_vm` of that length.
        let (family, cid, port, len) = unsafe {
            address.with_sockaddr(|raw, len| {
                let read = &*raw.cast::<libc::sockaddr_vm>();
                (read.svm_family, read.svm_cid, read.svm_port, len as usize)
            })
        };
        assert_eq!((i32::from(family), cid, port, len), (libc::AF_VSOCK, 7, 9, size_of::<libc::sockaddr_vm>()));
    }
}
