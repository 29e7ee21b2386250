//! A client's connection: what has come and is not read yet, and what is written.

use std::io;
use std::sync::Arc;

use listen::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsAcceptor;

use crate::link::{self, Link, Refusal};
use crate::wire::{self, Body, Header};

/// How much is read at once.
const CHUNK: usize = 4 << 10;

/// A connection before its first message.
pub struct Opening {
    stream: Stream,
    input: Vec<u8>,
}

impl Opening {
    /// A connection as it came.
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// Goes on inside of TLS.
    ///
    /// # Errors
    /// The client speaks none.
    pub async fn start_tls(self, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::new(Box::new(TlsAcceptor::from(config).accept(self.stream).await?)))
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 512];
        let count = self.stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(())
    }

    /// The client's first message.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn link(&mut self) -> io::Result<Result<Link, Refusal>> {
        loop {
            match link::read(&self.input) {
                Ok(Some((link, length))) => {
                    self.input.drain(..length);
                    return Ok(Ok(link));
                }
                Ok(None) => self.fill().await?,
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        loop {
            if let Some(bytes) = self.input.first_chunk::<N>() {
                let bytes = *bytes;
                self.input.drain(..N);
                return Ok(bytes);
            }
            self.fill().await?;
        }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The two directions, for messages.
    pub fn split(self, header: Header) -> (Reader, Writer) {
        let (read, write) = tokio::io::split(self.stream);
        let writer = Writer { stream: write, header, serial: 0, head: Vec::new() };
        (Reader { stream: read, header, input: self.input }, writer)
    }
}

/// What comes from a client.
pub struct Reader {
    stream: ReadHalf<Stream>,
    header: Header,
    input: Vec<u8>,
}

impl Reader {
    /// The next message: its type and its body.
    ///
    /// # Errors
    /// The connection ends, or the client sends what it may not.
    pub async fn next(&mut self) -> io::Result<(u16, Vec<u8>)> {
        loop {
            if let Some((kind, range)) = wire::split(&self.input, self.header)? {
                let rest = self.input.split_off(range.end);
                let mut message = std::mem::replace(&mut self.input, rest);
                return Ok((kind, message.split_off(range.start)));
            }
            let mut chunk = [0; CHUNK];
            let count = self.stream.read(&mut chunk).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }
}

/// What goes to a client.
pub struct Writer {
    stream: WriteHalf<Stream>,
    header: Header,
    serial: u64,
    head: Vec<u8>,
}

impl Writer {
    /// Sends a message, and comes back when the host has taken all of it.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn send(&mut self, kind: u16, body: &Body) -> io::Result<()> {
        self.serial += 1;
        self.head.clear();
        wire::put_header(self.header, self.serial, kind, body.0.len(), &mut self.head);
        // What is short leaves in one piece, what is long is not copied.
        let (near, far) = if body.0.len() <= CHUNK { (&body.0[..], &[][..]) } else { (&[][..], &body.0[..]) };
        self.head.extend_from_slice(near);
        self.stream.write_all(&self.head).await?;
        self.stream.write_all(far).await?;
        self.stream.flush().await
    }
}
