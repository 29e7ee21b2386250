//! Where servers listen, and who clients are.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

/// An end of a connection, as monitors show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of TCP.
    Inet(SocketAddr),
    /// A Unix socket's path; empty for the end that connects.
    Unix(String),
    /// A descriptor of another kind.
    Unknown,
}

/// Both ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This host's.
    pub near: Address,
    /// The client's.
    pub far: Address,
}

impl Address {
    fn of(address: Result<SocketAddrAny, rustix::io::Errno>) -> Self {
        let Ok(address) = address else { return Self::Unknown };
        if let Ok(inet) = SocketAddr::try_from(address.clone()) {
            return Self::Inet(inet);
        }
        match SocketAddrUnix::try_from(address) {
            Ok(unix) => {
                let path = unix.path().map(|path| path.to_string_lossy().into_owned());
                Self::Unix(path.unwrap_or_default())
            }
            Err(_) => Self::Unknown,
        }
    }

    /// The near end of a socket.
    pub fn local(socket: impl AsFd) -> Self {
        Self::of(rustix::net::getsockname(socket))
    }

    /// The far end of a socket.
    pub fn remote(socket: impl AsFd) -> Self {
        match rustix::net::getpeername(socket) {
            Ok(Some(address)) => Self::of(Ok(address)),
            _ => Self::Unknown,
        }
    }
}

/// Where a server listens, or where it finds a client that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Inet {
        /// A name or an address; empty for all addresses of this host.
        host: String,
        /// The port.
        port: u16,
        /// The last port to try.
        to: Option<u16>,
        /// Whether IPv4 is used; unset: unless only IPv6 is asked for.
        ipv4: Option<bool>,
        /// Whether IPv6 is used; unset: unless only IPv4 is asked for.
        ipv6: Option<bool>,
    },
    /// A path.
    Unix(String),
    /// A socket that listens already.
    Fd(std::sync::Arc<OwnedFdEq>),
}

/// A descriptor; two are equal if they have the same number.
#[derive(Debug)]
pub struct OwnedFdEq(pub OwnedFd);

impl PartialEq for OwnedFdEq {
    fn eq(&self, other: &Self) -> bool {
        use std::os::fd::AsRawFd;
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}

impl Eq for OwnedFdEq {}
