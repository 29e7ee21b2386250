//! The client's end of a connection: where it goes, and bytes and descriptors through it.

use super::{ClientError, ClientOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many file descriptors one request may carry.
const MAX_FDS: usize = 16;

/// The time between two tries to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of a unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl Address {
    /// Reads `unix:PATH`, `tcp:HOST:PORT`, a path, or `HOST:PORT`. What has a slash, or no port, is a
    /// path; `:PORT` alone is this host.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::Unix(path.into());
        }
        let (address, is_tcp) = match text.strip_prefix("tcp:") {
            Some(address) => (address, true),
            None => {
                let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                (text, !text.contains('/') && matches!(port, Some(Ok(_))))
            }
        };
        match (is_tcp, address.starts_with(':')) {
            (false, _) => Self::Unix(address.into()),
            (true, false) => Self::Tcp(address.to_owned()),
            (true, true) => Self::Tcp(format!("localhost{address}")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    /// Through a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

/// Connects, trying again while no server is there and `options` allow it.
pub(super) fn connect(address: &Address, options: &ClientOptions) -> io::Result<Stream> {
    let give_up = Instant::now().checked_add(options.retry_for);
    loop {
        let error = match try_connect(address, options.timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let absent = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
        );
        if !absent || give_up.is_some_and(|give_up| Instant::now() >= give_up) {
            return Err(error);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

fn try_connect(address: &Address, timeout: Option<Duration>) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        Address::Tcp(address) => Stream::connect_tcp(address, timeout),
    }
}

impl Stream {
    pub(super) fn connect_tcp(address: impl ToSocketAddrs, timeout: Option<Duration>) -> io::Result<Self> {
        let stream = match timeout.filter(|timeout| !timeout.is_zero()) {
            None => TcpStream::connect(address)?,
            Some(timeout) => {
                let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
                for address in address.to_socket_addrs()? {
                    result = TcpStream::connect_timeout(&address, timeout);
                    if result.is_ok() {
                        break;
                    }
                }
                result?
            }
        };
        // Commands are small, and each waits for its reply.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// How long sending may take, for all clones.
    pub(super) fn set_send_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(at_least_a_moment);
        match self {
            Self::Unix(stream) => stream.set_write_timeout(timeout),
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
        }
    }

    pub(super) fn shut_down(&self) {
        // It fails only if the connection is no more.
        _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Reads what is there; zero is the end.
    pub(super) fn receive(&mut self, buffer: &mut [u8], deadline: Option<Instant>) -> Result<usize, ClientError> {
        loop {
            // A deadline that has passed still gets what is there already.
            let left = deadline.map(|deadline| at_least_a_moment(deadline.saturating_duration_since(Instant::now())));
            let result = match self {
                Self::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
                Self::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The server has left without reading everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    /// Sends everything, the descriptors with the first byte. After a failure the connection is
    /// closed, because nobody knows how much the server has got.
    pub(super) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let sent = if fds.is_empty() { 0 } else { self.send_fds(bytes, fds)? };
        let rest = bytes.get(sent..).unwrap_or_default();
        let result = match self {
            Self::Unix(stream) => stream.write_all(rest),
            Self::Tcp(stream) => stream.write_all(rest),
        };
        result.map_err(|error| {
            self.shut_down();
            error.into()
        })
    }

    fn send_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, ClientError> {
        let Self::Unix(stream) = self else {
            return Err(ClientError::Descriptors("only a unix socket carries file descriptors"));
        };
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            // The space is rounded up, so that it may hold one more than was asked for.
            if fds.len() > MAX_FDS || !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(ClientError::Descriptors("too many file descriptors at once"));
            }
            match rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
                Ok(sent) => return Ok(sent),
            }
        }
    }
}

/// A timeout of zero would mean none.
fn at_least_a_moment(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}
