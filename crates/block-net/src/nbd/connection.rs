//! Requests and replies of one connection, several in flight.
//!
//! Whoever waits for a reply reads: one of the waiting requests at a time takes the reading end, hands replies to their
//! owners until its own has come, then gives the end to the next. So no task or thread belongs to a connection, and
//! requests may come from several reactors.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Error, Result};
use iobuf::IoBuf;
use rustix::io::Errno;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use super::handshake::{Export, broken};
use super::wire::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_HOLE, CHUNK_NONE, CHUNK_STATUS, Command, REQUEST_MAGIC, SIMPLE_MAGIC,
    STRUCTURED_MAGIC,
};
use crate::transport::{Reader, Transport};

/// Requests in flight on one connection.
const MAX_IN_FLIGHT: usize = 16;
/// The longest payload of a chunk that is no data, bytes.
const MAX_CHUNK: u32 = 1 << 20;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub command: Command,
    pub flags: u16,
    pub offset: u64,
    pub len: u32,
    /// What is written, or read into.
    pub buf: IoBuf,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The connection is gone: whether the request was done is unknown.
    Lost(Error),
    /// The server said so.
    Refused(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(error) | Failure::Refused(error) => error,
        }
    }
}

/// An extent of a block status: its length and the flags of the context.
pub(super) type Extent = (u32, u32);

struct Pending {
    request: Request,
    notify: Arc<Notify>,
    error: Option<Error>,
    extent: Option<Extent>,
    /// Bytes that chunks have delivered.
    delivered: u64,
    done: Option<Result<Option<Extent>, Failure>>,
    /// Nobody waits any more.
    abandoned: bool,
}

pub(super) struct Connection {
    transport: Transport,
    pub export: Export,
    sending: AsyncMutex<()>,
    reading: AsyncMutex<Reader>,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    slots: Semaphore,
    lost: AtomicBool,
}

/// Takes a request off the list when its future ends. If the reply is still to come, the entry stays for it.
struct Waiting<'a>(&'a Connection, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        if let Some(entry) = pending.get_mut(&self.1) {
            entry.abandoned = true;
            if entry.done.is_some() {
                pending.remove(&self.1);
            }
        }
    }
}

/// Breaks the connection unless the message was read or written to its end.
struct Midway<'a>(Option<&'a Connection>);

impl Drop for Midway<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.lose(&Error::io("A request to the NBD server was given up midway"));
        }
    }
}

fn errno(number: u32) -> i32 {
    match number {
        1 => Errno::PERM,
        5 => Errno::IO,
        12 => Errno::NOMEM,
        28 => Errno::NOSPC,
        75 => Errno::OVERFLOW,
        95 => Errno::NOTSUP,
        108 => Errno::SHUTDOWN,
        _ => Errno::INVAL,
    }
    .raw_os_error()
}

fn protocol_error(what: &str) -> io::Error {
    io::Error::other(format!("Protocol error: {what}"))
}

impl Connection {
    pub fn new(transport: Transport, reader: Reader, export: Export) -> Arc<Self> {
        Arc::new(Self {
            transport,
            export,
            sending: AsyncMutex::default(),
            reading: AsyncMutex::new(reader),
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            slots: Semaphore::new(MAX_IN_FLIGHT),
            lost: AtomicBool::new(false),
        })
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: all requests in flight fail.
    fn lose(&self, error: &Error) {
        self.lost.store(true, Ordering::Release);
        self.transport.shutdown();
        for pending in self.pending().values_mut().filter(|pending| pending.done.is_none()) {
            pending.done = Some(Err(Failure::Lost(error.clone())));
            pending.notify.notify_one();
        }
    }

    /// Says goodbye.
    pub async fn disconnect(&self) {
        if self.is_lost() {
            return;
        }
        let request = Request { command: Command::Disconnect, flags: 0, offset: 0, len: 0, buf: IoBuf::empty() };
        // The server closes the connection without an answer.
        let _ = self.send(0, &request).await;
        self.lose(&Error::io("The connection is closed"));
    }

    async fn send(&self, cookie: u64, request: &Request) -> io::Result<()> {
        let mut header = Vec::with_capacity(28);
        header.extend(REQUEST_MAGIC.to_be_bytes());
        header.extend(request.flags.to_be_bytes());
        header.extend((request.command as u16).to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(request.offset.to_be_bytes());
        header.extend(request.len.to_be_bytes());
        let header = IoBuf::copy_of(&header);
        let message = match request.command {
            Command::Write => IoBuf::concat([header, request.buf.clone()]),
            _ => header,
        };
        let _one = self.sending.lock().await;
        let mut midway = Midway(Some(self));
        let result = self.transport.write_all(message).await;
        midway.0 = None;
        result
    }

    /// Sends a request and waits for its reply. For a block status, the first extent.
    pub async fn request(&self, request: Request) -> Result<Option<Extent>, Failure> {
        let lost = || Failure::Lost(Error::io("The connection to the NBD server is lost"));
        let _slot = self.slots.acquire().await.map_err(|_| lost())?;
        let cookie = self.next.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let entry = Pending {
            request: request.clone(),
            notify: Arc::clone(&notify),
            error: None,
            extent: None,
            delivered: 0,
            done: None,
            abandoned: false,
        };
        self.pending().insert(cookie, entry);
        let _waiting = Waiting(self, cookie);
        // Looked at after the insertion: who loses the connection finds the entry, or we see the loss.
        if self.is_lost() {
            return Err(lost());
        }
        if let Err(error) = self.send(cookie, &request).await {
            self.lose(&broken(&error));
        }
        loop {
            if let Some(result) = self.take_result(cookie) {
                return result;
            }
            tokio::select! {
                biased;
                () = notify.notified() => {}
                mut reader = self.reading.lock() => {
                    while !self.is_done(cookie) {
                        let mut midway = Midway(Some(self));
                        let result = self.receive(&mut reader).await;
                        midway.0 = None;
                        if let Err(error) = result {
                            self.lose(&broken(&error));
                        }
                    }
                }
            }
        }
    }

    fn is_done(&self, cookie: u64) -> bool {
        self.pending().get(&cookie).is_none_or(|pending| pending.done.is_some())
    }

    fn take_result(&self, cookie: u64) -> Option<Result<Option<Extent>, Failure>> {
        let mut pending = self.pending();
        if pending.get(&cookie).is_some_and(|pending| pending.done.is_none()) {
            return None;
        }
        let lost = || Failure::Lost(Error::io("The connection to the NBD server is lost"));
        Some(pending.remove(&cookie).and_then(|pending| pending.done).unwrap_or_else(|| Err(lost())))
    }

    fn with<R>(&self, cookie: u64, visit: impl FnOnce(&mut Pending) -> R) -> io::Result<R> {
        self.pending().get_mut(&cookie).map(visit).ok_or_else(|| protocol_error("a reply to no request"))
    }

    fn finish(&self, cookie: u64) -> io::Result<()> {
        self.with(cookie, |pending| {
            let short = pending.request.command == Command::Read
                && pending.error.is_none()
                && pending.delivered != u64::from(pending.request.len);
            let result = match pending.error.take() {
                Some(error) => Err(Failure::Refused(error)),
                None if short => Err(Failure::Refused(Error::io("The NBD server sent too little data"))),
                None => Ok(pending.extent),
            };
            pending.done = Some(result);
            pending.notify.notify_one();
        })?;
        let mut pending = self.pending();
        if pending.get(&cookie).is_some_and(|entry| entry.abandoned) {
            pending.remove(&cookie);
        }
        Ok(())
    }

    /// Reads one reply, or one chunk of one.
    async fn receive(&self, reader: &mut Reader) -> io::Result<()> {
        match reader.u32(&self.transport).await? {
            SIMPLE_MAGIC => self.receive_simple(reader).await,
            STRUCTURED_MAGIC if self.export.structured => self.receive_chunk(reader).await,
            _ => Err(protocol_error("unexpected reply magic")),
        }
    }

    async fn receive_simple(&self, reader: &mut Reader) -> io::Result<()> {
        let number = reader.u32(&self.transport).await?;
        let cookie = reader.u64(&self.transport).await?;
        let (command, buf) = self.with(cookie, |pending| (pending.request.command, pending.request.buf.clone()))?;
        if number != 0 {
            self.with(cookie, |pending| pending.error = Some(Error::errno_only(errno(number))))?;
        } else if command == Command::Read {
            if self.export.structured {
                return Err(protocol_error("a simple reply to a read"));
            }
            reader.read(&self.transport, &buf).await?;
            self.with(cookie, |pending| pending.delivered = buf.len() as u64)?;
        }
        self.finish(cookie)
    }

    async fn receive_chunk(&self, reader: &mut Reader) -> io::Result<()> {
        let flags = reader.u16(&self.transport).await?;
        let kind = reader.u16(&self.transport).await?;
        let cookie = reader.u64(&self.transport).await?;
        let len = reader.u32(&self.transport).await?;
        match kind {
            CHUNK_NONE if len == 0 && flags & CHUNK_DONE != 0 => {}
            CHUNK_DATA => self.receive_data(reader, cookie, len).await?,
            _ if len > MAX_CHUNK => return Err(protocol_error("a chunk is too long")),
            CHUNK_HOLE => {
                let payload = reader.bytes(&self.transport, len as usize).await?;
                self.note_hole(cookie, &payload)?;
            }
            CHUNK_STATUS => {
                let payload = reader.bytes(&self.transport, len as usize).await?;
                self.note_status(cookie, &payload)?;
            }
            kind if kind & CHUNK_ERROR != 0 => {
                let payload = reader.bytes(&self.transport, len as usize).await?;
                self.note_error(cookie, &payload)?;
            }
            _ => return Err(protocol_error("an unknown chunk")),
        }
        if flags & CHUNK_DONE != 0 { self.finish(cookie) } else { Ok(()) }
    }

    /// The part of a read's buffer that a chunk is for.
    fn part(&self, cookie: u64, offset: u64, len: u64) -> io::Result<IoBuf> {
        self.with(cookie, |pending| {
            let request = &pending.request;
            let start = offset.checked_sub(request.offset).filter(|start| {
                request.command == Command::Read && start.checked_add(len).is_some_and(|end| end <= request.len.into())
            })?;
            pending.delivered = pending.delivered.saturating_add(len);
            Some(request.buf.slice(usize::try_from(start).ok()?, usize::try_from(len).ok()?))
        })?
        .ok_or_else(|| protocol_error("a chunk outside of its request"))
    }

    async fn receive_data(&self, reader: &mut Reader, cookie: u64, len: u32) -> io::Result<()> {
        let Some(len) = len.checked_sub(8).filter(|len| *len != 0) else {
            return Err(protocol_error("a data chunk is too short"));
        };
        let offset = reader.u64(&self.transport).await?;
        let part = self.part(cookie, offset, len.into())?;
        reader.read(&self.transport, &part).await
    }

    fn note_hole(&self, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let (Some(offset), Some(len), 12) = (number(payload, 0, 8), number(payload, 8, 4), payload.len()) else {
            return Err(protocol_error("a hole chunk has a wrong length"));
        };
        let part = self.part(cookie, offset, len)?;
        part.fill(0, part.len(), 0);
        Ok(())
    }

    fn note_status(&self, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let (Some(context), Some(len), Some(flags)) =
            (number(payload, 0, 4), number(payload, 4, 4), number(payload, 8, 4))
        else {
            return Err(protocol_error("a block status is too short"));
        };
        if self.export.context.map(u64::from) != Some(context) || len == 0 {
            return Err(protocol_error("an unexpected block status"));
        }
        self.with(cookie, |pending| pending.extent = Some((len as u32, flags as u32)))
    }

    fn note_error(&self, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let (Some(number), Some(len)) = (number(payload, 0, 4), number(payload, 4, 2)) else {
            return Err(protocol_error("an error chunk is too short"));
        };
        let text = payload.get(6..6 + len as usize).ok_or_else(|| protocol_error("an error message is cut off"))?;
        let error = Error::errno_only(errno(number as u32));
        let error = match String::from_utf8_lossy(text) {
            text if text.is_empty() => error,
            text => error.with_hint(format!("server reported: {text}")),
        };
        self.with(cookie, |pending| {
            pending.error.get_or_insert(error);
        })
    }
}

/// The big-endian number of `len` bytes at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(bytes.get(at..at + len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
