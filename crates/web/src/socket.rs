//! A WebSocket that stands, and what it is connected to.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chardev::TapReader;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use websocket::Decoder;

use crate::server::{Host, Line};

/// How long a browser may take nothing before it is dropped.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How often a silent browser is asked whether it is there, and how often in vain.
const PING_TIME: Duration = Duration::from_secs(30);
const PINGS_MAX: u32 = 2;
/// A ping without content (RFC 6455, 5.5.2).
const PING: [u8; 2] = [0x89, 0];
const CHUNK: usize = 16 << 10;

/// What a WebSocket leads to.
pub enum Target {
    /// The screen, through VNC.
    Screen(Arc<dyn Host>),
    /// A QMP monitor.
    Monitor(Line),
    /// One of the guest's terminals.
    Terminal(TapReader),
}

/// Connects both until one ends.
pub async fn serve(stream: TcpStream, target: Target) -> io::Result<()> {
    match target {
        Target::Screen(host) => {
            let socket = stream.into_std()?;
            host.show_screen(socket.into()).map_err(io::Error::other)
        }
        Target::Monitor(Line { stream: inner, keeper }) => {
            inner.set_nonblocking(true)?;
            let (from, to) = UnixStream::from_std(inner)?.into_split();
            let result = connect(stream, Reader(from), Writer(to)).await;
            drop(keeper);
            result
        }
        Target::Terminal(reader) => {
            let reader = &reader;
            connect(stream, reader, reader).await
        }
    }
}

/// What comes from the program.
trait Source {
    fn next(&mut self) -> impl Future<Output = Option<Vec<u8>>>;
}

/// What goes to it.
trait Drain {
    fn put(&mut self, bytes: &[u8]) -> impl Future<Output = bool>;
}

struct Reader<R>(R);

impl<R: AsyncRead + Unpin> Source for Reader<R> {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        let count = self.0.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        chunk.truncate(count);
        Some(chunk)
    }
}

struct Writer<W>(W);

impl<W: AsyncWrite + Unpin> Drain for Writer<W> {
    async fn put(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }
}

impl Source for &TapReader {
    async fn next(&mut self) -> Option<Vec<u8>> {
        self.read().await
    }
}

impl Drain for &TapReader {
    async fn put(&mut self, bytes: &[u8]) -> bool {
        self.write(bytes).await
    }
}

async fn connect(stream: TcpStream, source: impl Source, drain: impl Drain) -> io::Result<()> {
    let (from, to) = stream.into_split();
    // Answers to pings, and signs of life. One that asks much and takes nothing waits.
    let (answers, asked) = mpsc::channel(4);
    // Nobody reads the browser's signs of life while the guest takes no input.
    let is_held = AtomicBool::new(false);
    tokio::select! {
        result = upwards(from, drain, answers, &is_held) => result,
        result = downwards(to, source, asked, &is_held) => result,
    }
}

/// From the browser to the program.
async fn upwards(
    mut from: OwnedReadHalf,
    mut drain: impl Drain,
    answers: mpsc::Sender<Vec<u8>>,
    is_held: &AtomicBool,
) -> io::Result<()> {
    let mut decoder = Decoder::with_text();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let received = decoder.receive(chunk.get(..count).unwrap_or_default()).map_err(io::Error::other)?;
        let is_heard = answers.send(received.answers).await.is_ok();
        is_held.store(true, Ordering::Relaxed);
        if !is_heard || !drain.put(&received.data).await {
            return Ok(());
        }
        if received.is_closed {
            // The other direction ends behind the answer.
            drop(answers);
            return std::future::pending().await;
        }
        is_held.store(false, Ordering::Relaxed);
    }
}

/// From the program to the browser.
async fn downwards(
    mut to: OwnedWriteHalf,
    mut source: impl Source,
    mut asked: mpsc::Receiver<Vec<u8>>,
    is_held: &AtomicBool,
) -> io::Result<()> {
    let mut pings = 0;
    loop {
        let frame = tokio::select! {
            bytes = source.next() => match bytes {
                Some(bytes) => {
                    let mut frame = websocket::header(bytes.len());
                    frame.extend_from_slice(&bytes);
                    frame
                }
                None => {
                    if let Some(farewell) = Decoder::default().close() {
                        timeout(WRITE_TIME, to.write_all(&farewell)).await??;
                    }
                    return Ok(());
                }
            },
            answers = asked.recv() => match answers {
                Some(answers) => {
                    pings = 0;
                    answers
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(PING_TIME) => {
                if pings >= PINGS_MAX {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                pings += u32::from(!is_held.load(Ordering::Relaxed));
                PING.to_vec()
            }
        };
        if !frame.is_empty() {
            timeout(WRITE_TIME, to.write_all(&frame)).await??;
        }
    }
}
