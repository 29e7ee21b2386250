//! A client's connection: a stream of bytes, perhaps inside of TLS, perhaps inside of WebSocket frames.

use std::io;
use std::sync::Arc;

use listen::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsAcceptor;

use websocket::{Decoder, Opening};

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// A connection during the handshake.
pub struct Channel {
    stream: Stream,
    frames: Option<Decoder>,
    input: Vec<u8>,
}

fn broken(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Channel {
    /// A connection as it came.
    pub fn new(stream: Stream) -> Self {
        Self { stream, frames: None, input: Vec::new() }
    }

    /// A connection that has become a WebSocket already.
    pub fn framed(stream: Stream) -> Self {
        Self { frames: Some(Decoder::default()), ..Self::new(stream) }
    }

    /// Whether it is a WebSocket.
    pub fn is_framed(&self) -> bool {
        self.frames.is_some()
    }

    /// Goes on inside of TLS; returns the client's certificate, if it has shown one.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn start_tls(self, config: &Arc<ServerConfig>) -> io::Result<(Self, Option<Vec<u8>>)> {
        if !self.input.is_empty() {
            return Err(broken("the client talks before TLS begins"));
        }
        let session = TlsAcceptor::from(Arc::clone(config)).accept(self.stream).await?;
        let certificates = session.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first).map(|certificate| certificate.to_vec());
        Ok((Self { stream: Box::new(session), ..self }, certificate))
    }

    /// Goes on inside of WebSocket frames.
    ///
    /// # Errors
    /// The client wants no WebSocket.
    pub async fn start_frames(&mut self) -> io::Result<()> {
        loop {
            match websocket::open(&self.input) {
                Opening::Incomplete => self.fill().await?,
                Opening::Refused(status) => {
                    self.stream.write_all(websocket::refusal(status).as_bytes()).await?;
                    self.stream.flush().await?;
                    return Err(broken("no WebSocket"));
                }
                Opening::Accepted(answer, length) => {
                    self.stream.write_all(answer.as_bytes()).await?;
                    self.stream.flush().await?;
                    let rest = self.input.split_off(length);
                    self.input.clear();
                    self.frames = Some(Decoder::default());
                    return self.take_in(&rest).await;
                }
            }
        }
    }

    async fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else {
            self.input.extend_from_slice(bytes);
            return Ok(());
        };
        let received = frames.receive(bytes).map_err(|error| broken(error.to_string()))?;
        self.input.extend_from_slice(&received.data);
        if !received.answers.is_empty() {
            self.stream.write_all(&received.answers).await?;
            self.stream.flush().await?;
        }
        if received.is_closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        let count = self.stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.take_in(chunk.get(..count).unwrap_or_default()).await
    }

    /// Reads so many bytes.
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

    /// Reads so many bytes, of a number that somebody has checked.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn read_some(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < count {
            self.fill().await?;
        }
        Ok(self.input.drain(..count).collect())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.frames.is_some() {
            self.stream.write_all(&websocket::header(bytes.len())).await?;
        }
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The two directions, for what comes after the handshake.
    pub fn split(self) -> (Reader, Writer) {
        let is_framed = self.frames.is_some();
        let (read, write) = tokio::io::split(self.stream);
        let reader = Reader { stream: read, frames: self.frames, input: self.input, answers: Vec::new() };
        (reader, Writer { stream: write, is_framed })
    }
}

/// What comes from a client.
pub struct Reader {
    stream: ReadHalf<Stream>,
    frames: Option<Decoder>,
    input: Vec<u8>,
    answers: Vec<u8>,
}

impl Reader {
    /// What has come and is not used up.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Uses up some bytes.
    pub fn consume(&mut self, count: usize) {
        self.input.drain(..count.min(self.input.len()));
    }

    /// Frames for the writer, which belong between two messages.
    pub fn answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    /// Waits for more.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        let count = self.stream.read(&mut chunk).await?;
        chunk.truncate(count);
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(frames) = &mut self.frames else {
            self.input.extend_from_slice(&chunk);
            return Ok(());
        };
        let received = frames.receive(&chunk).map_err(|error| broken(error.to_string()))?;
        self.input.extend_from_slice(&received.data);
        self.answers.extend_from_slice(&received.answers);
        if received.is_closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// What goes to a client.
pub struct Writer {
    stream: WriteHalf<Stream>,
    is_framed: bool,
}

impl Writer {
    /// Writes messages.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_framed {
            self.stream.write_all(&websocket::header(bytes.len())).await?;
        }
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Writes frames that are made already.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn write_frames(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await?;
        self.stream.flush().await
    }
}
