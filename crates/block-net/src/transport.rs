//! A connection to a server, plain or encrypted, and a buffered reader on it.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use aio::{Stream, VsockAddress};
use block::{Error, Result};
use iobuf::IoBuf;

use crate::tls::Tls;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: String,
    },
    /// A machine's or the host's.
    Vsock(VsockAddress),
}

impl Address {
    /// Connects; blocks in the pool of threads.
    ///
    /// # Errors
    /// The host's.
    pub async fn connect(&self) -> Result<Stream> {
        let address = self.clone();
        let connected = aio::spawn_blocking(move || match &address {
            Self::Tcp { host, port } => {
                let known =
                    (host.as_str(), *port).to_socket_addrs().map_err(|error| unresolved(host, *port, &error))?;
                let known: Vec<_> = known.collect();
                let stream = TcpStream::connect(&known[..]).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                stream.map(OwnedFd::from).map_err(|error| address.refused(&error))
            }
            Self::Unix { path } => {
                UnixStream::connect(path).map(OwnedFd::from).map_err(|error| address.refused(&error))
            }
            Self::Vsock(vsock) => vsock.connect().map_err(|error| address.refused(&error)),
        });
        Stream::new(connected.await?).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &io::Error) -> Error {
        let shown = match self {
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix { path } => path.clone(),
            Self::Vsock(vsock) => vsock.to_string(),
        };
        Error::host(error).context(format!("Failed to connect to '{shown}'"))
    }
}

/// The error for a host without an address.
fn unresolved(host: &str, port: u16, error: &io::Error) -> Error {
    let text = error.to_string();
    // What the standard library says before the resolver's own words.
    let why = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    Error::io(format!("address resolution failed for {host}:{port}: {why}"))
}

/// The bytes of a connection.
pub enum Transport {
    /// As they are.
    Plain(Stream),
    /// Encrypted.
    Tls(Box<Tls>),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Transport(plain)",
            Self::Tls(_) => "Transport(TLS)",
        })
    }
}

impl Transport {
    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The host's.
    pub async fn write_all(&self, buf: IoBuf) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(buf).await,
            Self::Tls(tls) => tls.write_all(buf).await,
        }
    }

    /// Reads what is there, at least one byte; 0 at the end.
    ///
    /// # Errors
    /// The host's.
    pub async fn read_some(&self, buf: &IoBuf) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => loop {
                match stream.try_read(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
                    result => return result,
                }
            },
            Self::Tls(tls) => tls.read_some(buf).await,
        }
    }

    /// Ends the connection in both directions.
    pub fn shutdown(&self) {
        match self {
            Self::Plain(stream) => stream.shutdown(),
            Self::Tls(tls) => tls.stream().shutdown(),
        }
    }
}

/// Bytes read ahead, so that small messages don't cost a system call each.
#[derive(Debug)]
pub struct Reader {
    buf: IoBuf,
    start: usize,
    end: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    const SIZE: usize = 16 << 10;

    /// Nothing read yet.
    pub fn new() -> Self {
        Self { buf: IoBuf::zeroed(Self::SIZE), start: 0, end: 0 }
    }

    async fn fill(&mut self, transport: &Transport) -> io::Result<()> {
        let n = transport.read_some(&self.buf).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.start, self.end) = (0, n);
        Ok(())
    }

    /// Bytes that are here already.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Fills `into`. Long parts go there without a copy.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closes before; the host's.
    pub async fn read(&mut self, transport: &Transport, into: &IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let left = into.len() - done;
            if self.start == self.end && left >= Self::SIZE {
                match transport.read_some(&into.slice(done, left)).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => done += n,
                }
                continue;
            }
            if self.start == self.end {
                self.fill(transport).await?;
            }
            let n = left.min(self.end - self.start);
            into.copy_from(done, &self.buf, self.start, n);
            self.start += n;
            done += n;
        }
        Ok(())
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn array<const N: usize>(&mut self, transport: &Transport) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            if self.start == self.end {
                self.fill(transport).await?;
            }
            let n = (N - done).min(self.end - self.start);
            self.buf.read_at(self.start, &mut bytes[done..done + n]);
            self.start += n;
            done += n;
        }
        Ok(bytes)
    }

    /// Reads a big-endian number of two bytes.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn u16(&mut self, transport: &Transport) -> io::Result<u16> {
        self.array(transport).await.map(u16::from_be_bytes)
    }

    /// Reads a big-endian number of four bytes.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn u32(&mut self, transport: &Transport) -> io::Result<u32> {
        self.array(transport).await.map(u32::from_be_bytes)
    }

    /// Reads a big-endian number of eight bytes.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn u64(&mut self, transport: &Transport) -> io::Result<u64> {
        self.array(transport).await.map(u64::from_be_bytes)
    }

    /// Reads `len` bytes, which the caller has bounded.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn bytes(&mut self, transport: &Transport, len: usize) -> io::Result<Vec<u8>> {
        let buf = IoBuf::zeroed(len);
        self.read(transport, &buf).await?;
        Ok(buf.to_vec())
    }

    /// Reads up to and including a line feed, without it; at most `max` bytes.
    ///
    /// # Errors
    /// `InvalidData` if the line is longer or no text; as [`Reader::read`].
    pub async fn line(&mut self, transport: &Transport, max: usize) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let [byte] = self.array(transport).await?;
            if byte == b'\n' {
                break;
            }
            if line.len() == max {
                return Err(io::ErrorKind::InvalidData.into());
            }
            line.push(byte);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}
