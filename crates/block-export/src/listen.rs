//! Sockets that listen: Unix, TCP and vsock addresses, and descriptors that somebody else has made.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aio::{Stream, VsockAddress};
use block::{Error, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Debug)]
pub enum Address {
    /// A socket in the file system. It is removed when the listener is.
    Unix {
        /// Its path.
        path: String,
    },
    /// An abstract name.
    Abstract {
        /// The name.
        name: String,
        /// Whether it ends with its last byte instead of being filled with zeroes.
        tight: bool,
    },
    /// TCP.
    Tcp {
        /// The host's name or address; empty for all.
        host: String,
        /// The port or a service's name.
        port: String,
        /// The last port to try.
        to: Option<u16>,
        /// Whether IPv4 addresses are used; yes if both are `None`.
        ipv4: Option<bool>,
        /// Whether IPv6 addresses are used.
        ipv6: Option<bool>,
    },
    /// Between a host and its virtual machines.
    Vsock(VsockAddress),
    /// A socket that listens already.
    Fd(OwnedFd),
}

/// What is known of a socket's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unix,
    Tcp,
    Vsock,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    stream: Stream,
    kind: Kind,
    /// Removed at the end, if it is still the socket with this number.
    path: Option<(PathBuf, u64)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may listen there already, or have removed it.
        if let Some((path, number)) = &self.path
            && inode(path) == Some(*number)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What tells a file from another one of the same name.
fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

fn listener(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Bytes of replies that a unix socket takes in: the next ones are read while the client takes these.
const LOCAL_SEND_BUFFER: usize = 2 << 20;

impl Listener {
    /// Listens at all sockets that the address means.
    ///
    /// # Errors
    /// The host's; a name that is not known.
    pub fn bind(address: Address) -> Result<Vec<Self>> {
        match address {
            Address::Unix { path } => Self::unix(&path).map(|one| vec![one]),
            Address::Abstract { name, tight } => Self::abstract_unix(&name, tight).map(|one| vec![one]),
            Address::Tcp { host, port, to, ipv4, ipv6 } => Self::tcp(&host, &port, to, (ipv4, ipv6)),
            Address::Vsock(address) => Self::vsock(address).map(|one| vec![one]),
            Address::Fd(fd) => Self::adopt(fd).map(|one| vec![one]),
        }
    }

    fn unix(path: &str) -> Result<Self> {
        let failed = |error: rustix::io::Errno| Error::from(error).context(format!("Failed to bind socket to {path}"));
        let long = |_| {
            Error::invalid(format!("UNIX socket path '{path}' is too long"))
                .with_hint("Path must be less than 108 bytes\n")
        };
        let address = SocketAddrUnix::new(path).map_err(long)?;
        // What an earlier program has left behind.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::host(&error).context(format!("Failed to unlink socket {path}")));
            }
            _ => {}
        }
        let fd = listener(AddressFamily::UNIX)?;
        rustix::net::bind(&fd, &address).map_err(failed)?;
        rustix::net::listen(&fd, BACKLOG)?;
        let made = PathBuf::from(path);
        let number = inode(&made);
        Ok(Self { stream: Stream::new(fd)?, kind: Kind::Unix, path: number.map(|number| (made, number)) })
    }

    fn abstract_unix(name: &str, tight: bool) -> Result<Self> {
        let mut bytes = name.as_bytes().to_vec();
        if !tight {
            bytes.resize(107, 0);
        }
        let long = |_| Error::invalid(format!("UNIX socket path '{name}' is too long"));
        let address = SocketAddrUnix::new_abstract_name(&bytes).map_err(long)?;
        let fd = listener(AddressFamily::UNIX)?;
        rustix::net::bind(&fd, &address)
            .map_err(|error| Error::from(error).context(format!("Failed to bind socket to {name}")))?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self { stream: Stream::new(fd)?, kind: Kind::Unix, path: None })
    }

    fn tcp(host: &str, port: &str, to: Option<u16>, (v4, v6): (Option<bool>, Option<bool>)) -> Result<Vec<Self>> {
        let number: u16 = match port.parse() {
            Ok(number) => number,
            Err(_) => service(port).ok_or_else(|| {
                Error::invalid(format!(
                    "address resolution failed for {host}:{port}: Servname not supported for ai_socktype"
                ))
            })?,
        };
        let (want4, want6) = match (v4, v6) {
            (Some(true), Some(true)) => (true, true),
            (Some(true), _) => (true, false),
            (_, Some(true)) => (false, true),
            (v4, v6) => (v4.unwrap_or(true), v6.unwrap_or(true)),
        };
        let mut last = None;
        for port in number..=to.unwrap_or(number).max(number) {
            let mut addresses = resolve(host, port)?;
            addresses.retain(|address| if address.is_ipv4() { want4 } else { want6 });
            let bound: Result<Vec<Self>> = addresses.iter().map(|address| Self::at(*address)).collect();
            match bound {
                Ok(listeners) if !listeners.is_empty() => return Ok(listeners),
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last
            .unwrap_or_else(|| Error::not_found("no address of the wanted family"))
            .context(format!("Failed to find an available port at {host}:{port}")))
    }

    fn at(address: SocketAddr) -> Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = listener(family)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self { stream: Stream::new(fd)?, kind: Kind::Tcp, path: None })
    }

    fn vsock(address: VsockAddress) -> Result<Self> {
        let fd = address.bind().map_err(|error| Error::host(&error).context("Failed to bind socket"))?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self { stream: Stream::new(fd)?, kind: Kind::Vsock, path: None })
    }

    fn adopt(fd: OwnedFd) -> Result<Self> {
        let listens = sockopt::socket_acceptconn(&fd).map_err(|error| Error::from(error).context("Not a socket"))?;
        if !listens {
            return Err(Error::invalid("The socket does not listen"));
        }
        let kind = match sockopt::socket_domain(&fd) {
            Ok(AddressFamily::UNIX) | Err(_) => Kind::Unix,
            Ok(AddressFamily::VSOCK) => Kind::Vsock,
            Ok(_) => Kind::Tcp,
        };
        Ok(Self { stream: Stream::new(fd)?, kind, path: None })
    }

    /// Leaves the socket in the file system.
    pub fn leave(&mut self) {
        self.path = None;
    }

    /// The port, if it is TCP.
    pub fn port(&self) -> Option<u16> {
        let address = rustix::net::getsockname(self.stream.fd()).ok().filter(|_| self.kind == Kind::Tcp)?;
        SocketAddr::try_from(address).ok().map(|address| address.port())
    }

    /// Waits for the next client.
    ///
    /// # Errors
    /// The host's.
    pub async fn accept(&self) -> std::io::Result<Stream> {
        loop {
            match rustix::net::accept_with(self.stream.fd(), SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    match self.kind {
                        Kind::Tcp => {
                            // Slower without, but no worse.
                            let _ = sockopt::set_tcp_nodelay(&fd, true);
                            let _ = sockopt::set_socket_keepalive(&fd, true);
                        }
                        Kind::Unix => {
                            // The host may allow less, down to what it would have been.
                            let _ = sockopt::set_socket_send_buffer_size(&fd, LOCAL_SEND_BUFFER);
                        }
                        Kind::Vsock => {}
                    }
                    return Stream::new(fd);
                }
                Err(rustix::io::Errno::AGAIN) => self.stream.readable().await?,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The addresses of a host; all of this host for an empty name.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![
            SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port),
            SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port),
        ]);
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| Error::invalid(format!("address resolution failed for {host}:{port}: {error}")))?;
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The port of a service by its name, from the host's list.
fn service(name: &str) -> Option<u16> {
    let list = std::fs::read_to_string("/etc/services").ok()?;
    list.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?.parse().ok()?;
        (first == name || words.any(|alias| alias == name)).then_some(port)
    })
}
