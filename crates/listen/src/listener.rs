//! Sockets that wait for clients.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;

use crate::Stream;
use crate::address::{Address, Ends, ListenAddress};
use crate::{Error, reason};

/// How many clients may wait to be let in.
const BACKLOG: i32 = 64;

/// A socket that listens; not yet a runtime's.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    address: Address,
    /// The file of a Unix socket, which goes away with it.
    file: Option<String>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Bound {
    /// The address in use.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn new(socket: OwnedFd, file: Option<String>) -> Self {
        let address = Address::local(&socket);
        Self { socket, address, file }
    }

    /// The listener for a runtime, within whose context this is called.
    ///
    /// # Errors
    /// As the host says.
    pub fn activate(&self) -> std::io::Result<Listener> {
        let socket = self.socket.try_clone()?;
        if matches!(self.address, Address::Inet(_)) {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            return TcpListener::from_std(listener).map(Listener::Tcp);
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Listener::Unix)
    }
}

/// A listener of a runtime.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// The next client, and its ends.
    ///
    /// # Errors
    /// As the host says.
    pub async fn accept(&self) -> std::io::Result<(Stream, Ends)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let ends = Ends { near: Address::local(&stream), far: Address::Inet(address) };
                Ok((Box::new(stream), ends))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let ends = Ends { near: Address::local(&stream), far: Address::Unix(String::new()) };
                Ok((Box::new(stream), ends))
            }
        }
    }
}

/// The addresses that a name stands for, of the families that are wanted.
fn resolve(host: &str, port: u16, ipv4: Option<bool>, ipv6: Option<bool>) -> Result<Vec<SocketAddr>, Error> {
    let only_v4 = ipv4 == Some(true) && ipv6 != Some(true) || ipv6 == Some(false);
    let only_v6 = ipv6 == Some(true) && ipv4 != Some(true) || ipv4 == Some(false);
    let found: Vec<SocketAddr> = if host.is_empty() {
        vec![SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([0_u16; 8], port))]
    } else {
        let failed = |error: &std::io::Error| {
            let text = reason(error);
            let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
            Error::new(format!("address resolution failed for {host}:{port}: {text}"))
        };
        (host, port).to_socket_addrs().map_err(|error| failed(&error))?.collect()
    };
    let found: Vec<_> = found.into_iter().filter(|a| !(only_v4 && a.is_ipv6() || only_v6 && a.is_ipv4())).collect();
    if found.is_empty() {
        return Err(Error::new(format!("address resolution failed for {host}:{port}: no address of that family")));
    }
    Ok(found)
}

fn listen_inet(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The addresses on one port: all that this host has, at least one.
fn listen_port(addresses: &[SocketAddr], port: u16) -> rustix::io::Result<Vec<Bound>> {
    let (mut bound, mut missing) = (Vec::new(), None);
    for address in addresses {
        match listen_inet(SocketAddr::new(address.ip(), port)) {
            Ok(socket) => bound.push(Bound::new(socket, None)),
            Err(rustix::io::Errno::ADDRINUSE) => return Err(rustix::io::Errno::ADDRINUSE),
            // The host may lack a family.
            Err(error) => missing = Some(error),
        }
    }
    match missing {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Listens at an address.
///
/// # Errors
/// It can't be had.
pub fn listen(address: &ListenAddress) -> Result<Vec<Bound>, Error> {
    match address {
        ListenAddress::Inet { host, port, to, ipv4, ipv6 } => {
            let addresses = resolve(host, *port, *ipv4, *ipv6)?;
            let mut failed = rustix::io::Errno::ADDRNOTAVAIL;
            for port in *port..=to.unwrap_or(*port).max(*port) {
                match listen_port(&addresses, port) {
                    Ok(bound) => return Ok(bound),
                    Err(error) => failed = error,
                }
            }
            let text = reason(&failed.into());
            Err(Error::new(format!("Failed to find an available port: {text}")))
        }
        ListenAddress::Unix(path) => listen_unix(path).map(|bound| vec![bound]),
        ListenAddress::Fd(fd) => {
            let socket = fd.0.try_clone().map_err(|error| Error::new(reason(&error)))?;
            Ok(vec![Bound::new(socket, None)])
        }
    }
}

fn listen_unix(path: &str) -> Result<Bound, Error> {
    let failed = |what: &str, error: rustix::io::Errno| {
        Error::new(format!("Failed to {what} socket {path}: {}", reason(&error.into())))
    };
    let address = SocketAddrUnix::new(path);
    let address = address
        .map_err(|_| Error::new(format!("UNIX socket path '{path}' is too long: Path must be less than 108 bytes")))?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(failed("unlink", error)),
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|error| failed("create", error))?;
    rustix::net::bind(&socket, &address).map_err(|error| failed("bind", error))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| failed("listen on", error))?;
    Ok(Bound::new(socket, Some(path.to_owned())))
}

/// Connects to a client that waits.
///
/// # Errors
/// Nobody waits there.
pub fn connect(address: &ListenAddress) -> Result<OwnedFd, Error> {
    let (name, connected) = match address {
        ListenAddress::Inet { host, port, ipv4, ipv6, .. } => {
            let name = if host.is_empty() { "localhost" } else { host };
            let addresses = resolve(name, *port, *ipv4, *ipv6)?;
            (format!("{host}:{port}"), TcpStream::connect(addresses.as_slice()).map(OwnedFd::from))
        }
        ListenAddress::Unix(path) => (path.clone(), UnixStream::connect(path).map(OwnedFd::from)),
        ListenAddress::Fd(fd) => ("fd".to_owned(), fd.0.try_clone()),
    };
    connected.map_err(|error| Error::new(format!("Failed to connect to '{name}': {}", reason(&error))))
}

/// Makes a descriptor a stream of a runtime.
///
/// # Errors
/// The descriptor is no socket.
pub fn adopt(socket: OwnedFd, runtime: &Handle) -> Result<(Stream, Ends), Error> {
    let _context = runtime.enter();
    adopt_here(socket).map_err(|error| Error::new(reason(&error)))
}

fn adopt_here(socket: OwnedFd) -> std::io::Result<(Stream, Ends)> {
    let ends = Ends { near: Address::local(&socket), far: Address::remote(&socket) };
    if matches!(ends.near, Address::Inet(_)) {
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        return Ok((Box::new(tokio::net::TcpStream::from_std(stream)?), ends));
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok((Box::new(tokio::net::UnixStream::from_std(stream)?), ends))
}
