//! Socket addresses: `unix`, `inet` and `fd`.

use crate::Error;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;

/// Where a socket listens or connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// A unix socket.
    Unix {
        /// The path, or the name in the abstract name space.
        path: String,
        /// Whether `path` is a name in the abstract name space.
        is_abstract: bool,
        /// Whether an abstract name ends where `path` does, rather than being filled with NUL bytes.
        tight: bool,
    },
    /// A TCP socket.
    Inet {
        /// Host name or address; empty for every address of this host.
        host: String,
        /// The port.
        port: u16,
        /// The last port to be tried by a server.
        to: Option<u16>,
        /// Whether IPv4 may be used; unset is "unless only IPv6 was asked for".
        ipv4: Option<bool>,
        /// Whether IPv6 may be used; unset is "unless only IPv4 was asked for".
        ipv6: Option<bool>,
    },
    /// An inherited file descriptor.
    Fd(i32),
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, is_abstract: false, .. } => write!(f, "unix:{path}"),
            Self::Unix { path, is_abstract: true, tight } => {
                write!(f, "unix:{path},abstract=on{}", if *tight { "" } else { ",tight=off" })
            }
            Self::Inet { host, port, .. } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Inet { host, port, .. } => write!(f, "tcp:{host}:{port}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 16;

impl SocketAddress {
    /// A socket that listens there. An existing unix socket file is replaced.
    pub(crate) fn listen(&self) -> Result<OwnedFd, Error> {
        match self {
            Self::Unix { path, is_abstract, tight } => listen_unix(path, *is_abstract, *tight),
            Self::Inet { port, to, .. } => {
                let mut result = Err(Error::options("no port to listen on"));
                for port in *port..=to.unwrap_or(*port) {
                    result = self.listen_inet(port);
                    if result.is_ok() {
                        break;
                    }
                }
                result
            }
            Self::Fd(number) => {
                let fd = crate::inherited_fd(*number)?;
                let listening = sockopt::socket_acceptconn(&fd);
                match listening {
                    Ok(true) => Ok(fd),
                    Ok(false) => Err(Error::options(format!("File descriptor {number} is not a listening socket"))),
                    Err(error) => Err(Error::io(format!("File descriptor {number}"), error)),
                }
            }
        }
    }

    fn listen_inet(&self, port: u16) -> Result<OwnedFd, Error> {
        let what = |addresses: &str| format!("Failed to bind socket to {addresses}");
        let mut result = Err(Error::options(format!("address resolution failed for {self}")));
        for address in self.resolve(port)? {
            result = TcpListener::bind(address)
                .map(OwnedFd::from)
                .map_err(|error| Error::io(what(&address.to_string()), error));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The addresses that the host name stands for, of the families that are wanted.
    pub(crate) fn resolve(&self, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let Self::Inet { host, ipv4, ipv6, .. } = self else {
            return Ok(Vec::new());
        };
        let name = if host.is_empty() { "0.0.0.0" } else { host };
        let only_v6 = ipv6 == &Some(true) && ipv4 != &Some(true) || ipv4 == &Some(false);
        let only_v4 = ipv4 == &Some(true) && ipv6 != &Some(true) || ipv6 == &Some(false);
        let name = if host.is_empty() && only_v6 { "::" } else { name };
        let found = (name, port)
            .to_socket_addrs()
            .map_err(|error| Error::io(format!("address resolution failed for {host}:{port}"), error))?;
        let fits = |address: &SocketAddr| !(only_v6 && address.is_ipv4() || only_v4 && address.is_ipv6());
        let found: Vec<_> = found.filter(fits).collect();
        if found.is_empty() {
            return Err(Error::options(format!(
                "address resolution failed for {host}:{port}: no address of the wanted family"
            )));
        }
        Ok(found)
    }

    /// Connects, and waits until the connection stands.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Error> {
        let what = || format!("Failed to connect to '{}'", self.bare());
        match self {
            Self::Unix { path, is_abstract, tight } => {
                let address = unix_address(path, *is_abstract, *tight)?;
                let socket = unix_socket().map_err(|error| Error::io(what(), error))?;
                rustix::net::connect(&socket, &address).map_err(|error| Error::io(what(), error))?;
                Ok(socket)
            }
            Self::Inet { port, .. } => {
                let addresses = self.resolve(*port)?;
                let stream = TcpStream::connect(addresses.as_slice()).map_err(|error| Error::io(what(), error))?;
                Ok(stream.into())
            }
            Self::Fd(number) => crate::inherited_fd(*number),
        }
    }

    /// The address without its kind.
    fn bare(&self) -> String {
        let text = self.to_string();
        text.split_once(':').map_or(text.clone(), |(_, rest)| rest.to_owned())
    }

    /// Whether it has a port, which the host may choose.
    pub(crate) fn has_port(&self) -> bool {
        matches!(self, Self::Inet { .. })
    }

    /// The path of the socket file that a server made and has to remove.
    pub(crate) fn socket_file(&self) -> Option<&str> {
        match self {
            Self::Unix { path, is_abstract: false, .. } => Some(path),
            _ => None,
        }
    }
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// The bytes that the path in an address may have, its final NUL left out.
const PATH_LIMIT: usize = 107;

fn unix_address(path: &str, is_abstract: bool, tight: bool) -> Result<SocketAddrUnix, Error> {
    if path.len() > PATH_LIMIT {
        return Err(Error::options(format!(
            "UNIX socket path '{path}' is too long: it must be less than {} bytes",
            PATH_LIMIT + 1
        )));
    }
    let address = if is_abstract {
        let mut name = path.as_bytes().to_vec();
        if !tight {
            name.resize(PATH_LIMIT, 0);
        }
        SocketAddrUnix::new_abstract_name(&name)
    } else {
        SocketAddrUnix::new(path)
    };
    address.map_err(|error| Error::io(format!("UNIX socket path '{path}'"), error))
}

fn listen_unix(path: &str, is_abstract: bool, tight: bool) -> Result<OwnedFd, Error> {
    let address = unix_address(path, is_abstract, tight)?;
    let failed = |what: &str, error: rustix::io::Errno| Error::io(format!("Failed to {what} socket {path}"), error);
    if !is_abstract {
        match rustix::fs::unlink(path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("unlink", error)),
        }
    }
    let socket = unix_socket().map_err(|error| failed("create", error))?;
    rustix::net::bind(&socket, &address)
        .map_err(|error| Error::io(format!("Failed to bind socket to {path}"), error))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| failed("listen on", error))?;
    Ok(socket)
}
