//! The transmission phase: requests of one client, several at a time.
//!
//! One task reads requests. It polls each one's work itself, once: what is in memory is done then, and its reply leaves
//! together with those of the requests that came in the same moment. What has to wait becomes a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use block::{Error, Result, WriteFlags, ZeroFlags};
use block_net::nbd::wire::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_HOLE, CHUNK_NONE, CHUNK_STATUS, Command, DF, FAST_ZERO, FUA,
    MAX_TRANSFER, NO_HOLE, READ_ONLY, REQ_ONE, REQUEST_MAGIC, REQUEST_SIZE, SIMPLE_MAGIC, STRUCTURED_MAGIC,
};
use block_net::transport::{Reader, Transport};
use block_tools::status;
use iobuf::IoBuf;
use rustix::io::Errno;

use super::export::{Export, Membership};
use super::handshake::Client;
use super::outgoing::{Admitted, Budget, Outgoing, Reply};
use super::status::{ALLOCATION_DEPTH, BASE_ALLOCATION, Contexts, Extents, FIRST_BITMAP, allocation, depth, dirty};
use crate::buffers::{Buffer, Buffers};

/// Replies of more bytes than this are not held back for further ones.
const HELD_BACK: usize = 256 << 10;
/// After so many requests other tasks of the reactor have their turn.
const TURN: u32 = 32;
/// Reads from this length on are answered with holes where the image has some, bytes. Shorter ones are looked at instead.
const SPARSE_READ: u32 = 64 << 10;
/// The unit in which zeroes are looked for, bytes.
const SECTOR: usize = 512;
/// How far ahead the image is asked for holes, bytes.
const LOOK_AHEAD: u64 = 16 << 20;

/// A request's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

impl Request {
    /// The header, if it is one.
    pub fn parse(bytes: &[u8; REQUEST_SIZE]) -> Option<Self> {
        let number = |at: usize, len: usize| bytes[at..at + len].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        (number(0, 4) == u64::from(REQUEST_MAGIC)).then(|| Self {
            flags: number(4, 2) as u16,
            kind: number(6, 2) as u16,
            cookie: number(8, 8),
            offset: number(16, 8),
            len: number(24, 4) as u32,
        })
    }
}

/// A request that can't be done: its number, and a text.
struct Refusal {
    errno: i32,
    text: String,
}

impl Refusal {
    fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno: errno.raw_os_error(), text: text.into() }
    }
}

/// The protocol's number for an error.
fn nbd_errno(errno: i32) -> u32 {
    match Errno::from_raw_os_error(errno) {
        Errno::PERM | Errno::ROFS => 1,
        Errno::IO => 5,
        Errno::NOMEM => 12,
        Errno::NOSPC | Errno::FBIG | Errno::DQUOT => 28,
        Errno::OVERFLOW => 75,
        Errno::NOTSUP => 95,
        Errno::SHUTDOWN => 108,
        _ => 22,
    }
}

struct Connection {
    member: Membership,
    structured: bool,
    contexts: Contexts,
    out: Arc<Outgoing>,
    buffers: Buffers,
    /// A range that is stored, as far as it was when somebody asked: to read it is right in any case.
    stored: Mutex<(u64, u64)>,
}

/// Serves a client until it leaves, and waits for what it has asked for.
pub(super) async fn run(client: Client, member: Membership) {
    let Client { transport, mut reader, structured, contexts, .. } = client;
    let out = Outgoing::new(Arc::clone(&transport));
    let budget = Arc::new(Budget::default());
    let connection = Arc::new(Connection {
        member,
        structured,
        contexts,
        out: Arc::clone(&out),
        buffers: Buffers::default(),
        stored: Mutex::default(),
    });
    if let Err(error) = serve(&connection, &transport, &mut reader, &budget).await {
        tracing::debug!("an NBD client of '{}' is disconnected: {error}", connection.export().name());
    }
    out.flush();
    budget.wait_empty().await;
    transport.shutdown();
}

/// Reads requests until the client leaves.
async fn serve(
    connection: &Arc<Connection>,
    transport: &Transport,
    reader: &mut Reader,
    budget: &Arc<Budget>,
) -> std::io::Result<()> {
    let mut turn = 0;
    loop {
        if reader.buffered() < REQUEST_SIZE {
            connection.out.flush();
        }
        let header: [u8; REQUEST_SIZE] = reader.array(transport).await?;
        let Some(request) = Request::parse(&header) else {
            return Err(std::io::Error::other("a request with a wrong magic number"));
        };
        let command = Command::of(request.kind);
        if command == Some(Command::Disconnect) || connection.out.is_lost() {
            return Ok(());
        }
        let has_data = matches!(command, Some(Command::Read | Command::Write));
        let too_long = has_data && request.len > MAX_TRANSFER;
        let bytes = if has_data && !too_long { request.len as usize } else { 0 };
        let admitted = match budget.try_admit(bytes) {
            Some(admitted) => admitted,
            None => {
                connection.out.flush();
                budget.admit(bytes).await
            }
        };
        if too_long {
            let text = format!("len ({} ) is larger than max len ({MAX_TRANSFER})", request.len);
            let refused = connection.refusal(&request, &Refusal::new(Errno::INVAL, text));
            connection.out.push(Reply::new(vec![refused], None, admitted));
            if command == Some(Command::Write) {
                return Err(std::io::Error::other("a write is too long"));
            }
            continue;
        }
        let buffer = (bytes != 0).then(|| connection.buffers.take(bytes));
        if let (Some(Command::Write), Some(buffer)) = (command, &buffer) {
            if reader.buffered() < bytes {
                // The client may be waiting for these before it sends the rest.
                connection.out.flush();
            }
            reader.read(transport, &buffer.bytes(bytes)).await?;
        }
        start(connection, request, buffer, admitted);
        turn += 1;
        if turn == TURN {
            turn = 0;
            connection.out.flush();
            aio::yield_now().await;
        }
    }
}

/// Does a request at once if it need not wait, else in a task.
fn start(connection: &Arc<Connection>, request: Request, buffer: Option<Buffer>, admitted: Admitted) {
    let this = Arc::clone(connection);
    let mut work: Pin<Box<dyn Future<Output = Reply> + Send>> = Box::pin(async move {
        let parts = this.answer(&request, buffer.as_ref()).await;
        Reply::new(parts, buffer, admitted)
    });
    if let std::task::Poll::Ready(reply) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        if connection.out.push(reply) >= HELD_BACK {
            connection.out.flush();
        }
        return;
    }
    let out = Arc::clone(&connection.out);
    drop(aio::spawn(async move {
        out.push(work.await);
        out.flush_soon();
    }));
}

impl Connection {
    fn export(&self) -> &Arc<Export> {
        &self.member.export
    }

    /// The reply to a request.
    async fn answer(&self, request: &Request, buffer: Option<&Buffer>) -> Vec<IoBuf> {
        let command = match self.check(request) {
            Ok(command) => command,
            Err(refusal) => return vec![self.refusal(request, &refusal)],
        };
        let _inside = self.export().gate.enter().await;
        let done = match command {
            Command::Read => self.read(request, buffer).await,
            Command::BlockStatus => self.block_status(request).await,
            _ => self.change(command, request, buffer).await.map(|()| vec![self.success(request)]),
        };
        done.unwrap_or_else(|refusal| vec![self.refusal(request, &refusal)])
    }

    fn check(&self, request: &Request) -> Result<Command, Refusal> {
        let export = self.export();
        let command = Command::of(request.kind);
        let writes = matches!(command, Some(Command::Write | Command::WriteZeroes | Command::Trim));
        if writes && export.flags & READ_ONLY != 0 {
            return Err(Refusal::new(Errno::PERM, "Export is read-only"));
        }
        let (from, len, size) = (request.offset, request.len, export.size);
        if from > size || u64::from(len) > size - from {
            let full = matches!(command, Some(Command::Write | Command::WriteZeroes));
            let text = format!("operation past EOF; From: {from}, Len: {len}, Size: {size}");
            return Err(Refusal::new(if full { Errno::NOSPC } else { Errno::INVAL }, text));
        }
        let Some(command) = command else {
            return Err(Refusal::new(Errno::INVAL, format!("invalid request type ({}) received", request.kind)));
        };
        let valid = FUA
            | match command {
                Command::Read if self.structured => DF,
                Command::WriteZeroes => NO_HOLE | FAST_ZERO,
                Command::BlockStatus => REQ_ONE,
                _ => 0,
            };
        if request.flags & !valid != 0 {
            let text = format!("unsupported flags for command {command:?} (got 0x{:x})", request.flags);
            return Err(Refusal::new(Errno::INVAL, text));
        }
        Ok(command)
    }

    async fn change(&self, command: Command, request: &Request, buffer: Option<&Buffer>) -> Result<(), Refusal> {
        let child = self.export().child();
        let (offset, len) = (request.offset, u64::from(request.len));
        let stable = request.flags & FUA != 0;
        let fua = stable || self.export().options().writethrough;
        let failed = |text: &'static str| move |error: Error| Refusal { errno: error.errno(), text: text.to_owned() };
        match command {
            Command::Write => {
                let Some(buffer) = buffer else { return Ok(()) };
                let flags = WriteFlags { fua, ..WriteFlags::default() };
                let data = buffer.bytes(request.len as usize);
                child.write(offset, data, flags).await.map_err(failed("writing to file failed"))
            }
            Command::WriteZeroes => {
                let may_unmap = request.flags & NO_HOLE == 0;
                let flags = ZeroFlags { may_unmap, no_fallback: request.flags & FAST_ZERO != 0, fua };
                child.write_zeroes(offset, len, flags).await.map_err(failed("writing to file failed"))
            }
            Command::Trim => {
                child.discard(offset, len).await.map_err(failed("discard failed"))?;
                if stable { child.flush().await.map_err(failed("flush failed")) } else { Ok(()) }
            }
            Command::Cache => child.node().driver().prefetch(offset, len).await.map_err(failed("caching data failed")),
            _ => child.flush().await.map_err(failed("flush failed")),
        }
    }

    async fn read(&self, request: &Request, buffer: Option<&Buffer>) -> Result<Vec<IoBuf>, Refusal> {
        let child = self.export().child();
        if request.flags & FUA != 0 {
            child.flush().await.map_err(|e| Refusal { errno: e.errno(), text: "flush failed".to_owned() })?;
        }
        let Some(buffer) = buffer else { return Ok(vec![self.done(request)]) };
        let data = buffer.bytes(request.len as usize);
        let may_split = self.structured && request.flags & DF == 0;
        if may_split && request.len >= SPARSE_READ && !self.is_stored(request) {
            return self.sparse_read(request, &data).await;
        }
        child.read(request.offset, data.clone()).await.map_err(|error| read_failed(&error))?;
        if !self.structured {
            return Ok(vec![self.success(request), data]);
        }
        if may_split && request.len < SPARSE_READ {
            return Ok(without_zero_ends(request, &data));
        }
        Ok(vec![data_header(request, CHUNK_DONE, request.offset, request.len), data])
    }

    /// Whether all of a read is known to be stored.
    fn is_stored(&self, request: &Request) -> bool {
        let (start, end) = *self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        start <= request.offset && request.offset + u64::from(request.len) <= end
    }

    async fn sparse_read(&self, request: &Request, data: &IoBuf) -> Result<Vec<IoBuf>, Refusal> {
        let child = self.export().child();
        let node = child.node();
        let mut parts = Vec::new();
        let (mut at, end) = (request.offset, request.offset + u64::from(request.len));
        while at < end {
            let known = status::above(&node, None, at, LOOK_AHEAD.max(end - at)).await;
            let known = match known {
                Ok(known) => known,
                Err(error) => {
                    let text = format!("unable to check for holes: {}", block::error::strerror(error.errno()));
                    parts.push(self.refusal(request, &Refusal { errno: error.errno(), text }));
                    return Ok(parts);
                }
            };
            let n = known.len.clamp(1, end - at);
            let flags = if at + n == end { CHUNK_DONE } else { 0 };
            // Neither is longer than the request.
            let (len, start) = (n as u32, (at - request.offset) as usize);
            if known.zero {
                parts.push(hole(request, flags, at, len));
            } else {
                if known.data {
                    *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = (at, at.saturating_add(known.len));
                }
                let part = data.slice(start, len as usize);
                if let Err(error) = child.read(at, part.clone()).await {
                    parts.push(self.refusal(request, &read_failed(&error)));
                    return Ok(parts);
                }
                parts.push(data_header(request, flags, at, len));
                parts.push(part);
            }
            at += n;
        }
        Ok(parts)
    }

    async fn block_status(&self, request: &Request) -> Result<Vec<IoBuf>, Refusal> {
        if request.len == 0 {
            return Err(Refusal::new(Errno::INVAL, "need non-zero length"));
        }
        if self.contexts.is_empty() {
            return Err(Refusal::new(Errno::INVAL, "CMD_BLOCK_STATUS not negotiated"));
        }
        let node = self.export().node();
        let one = request.flags & REQ_ONE != 0;
        let (offset, len) = (request.offset, u64::from(request.len));
        let failed = |error: Error| Refusal { errno: error.errno(), text: "can't get block status".to_owned() };
        let mut answers = Vec::new();
        if self.contexts.allocation {
            let mut extents = Extents::new(one);
            allocation(&node, offset, len, &mut extents).await.map_err(failed)?;
            answers.push(extents.payload(BASE_ALLOCATION));
        }
        if self.contexts.depth {
            let mut extents = Extents::new(one);
            depth(&node, offset, len, &mut extents).await.map_err(failed)?;
            answers.push(extents.payload(ALLOCATION_DEPTH));
        }
        for (number, (index, bitmap)) in (FIRST_BITMAP..).zip(self.export().bitmaps.iter().enumerate()) {
            if self.contexts.bitmaps.contains(&index) {
                let mut extents = Extents::new(one);
                dirty(bitmap, offset, len, &mut extents);
                answers.push(extents.payload(number));
            }
        }
        let last = answers.len() - 1;
        let chunk = |(index, payload): (usize, Vec<u8>)| {
            let flags = if index == last { CHUNK_DONE } else { 0 };
            structured(request, flags, CHUNK_STATUS, payload.len() as u32, &payload)
        };
        Ok(answers.into_iter().enumerate().map(chunk).collect())
    }

    /// A simple reply: it went well.
    fn success(&self, request: &Request) -> IoBuf {
        simple(request, 0)
    }

    /// The reply to a read of nothing.
    fn done(&self, request: &Request) -> IoBuf {
        if self.structured { structured(request, CHUNK_DONE, CHUNK_NONE, 0, &[]) } else { simple(request, 0) }
    }

    fn refusal(&self, request: &Request, refusal: &Refusal) -> IoBuf {
        let number = nbd_errno(refusal.errno);
        if !self.structured {
            return simple(request, number);
        }
        let text = refusal.text.as_bytes();
        let mut payload = number.to_be_bytes().to_vec();
        payload.extend((text.len() as u16).to_be_bytes());
        payload.extend(text);
        structured(request, CHUNK_DONE, CHUNK_ERROR | 1, payload.len() as u32, &payload)
    }
}

fn read_failed(error: &Error) -> Refusal {
    Refusal { errno: error.errno(), text: "reading from file failed".to_owned() }
}

fn simple(request: &Request, error: u32) -> IoBuf {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&request.cookie.to_be_bytes());
    IoBuf::copy_of(&bytes)
}

/// The start of a chunk whose payload has `len` bytes, of which `payload` are the first.
fn structured(request: &Request, flags: u16, kind: u16, len: u32, payload: &[u8]) -> IoBuf {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    bytes.extend(STRUCTURED_MAGIC.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(request.cookie.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    IoBuf::copy_of(&bytes)
}

fn data_header(request: &Request, flags: u16, offset: u64, len: u32) -> IoBuf {
    structured(request, flags, CHUNK_DATA, len + 8, &offset.to_be_bytes())
}

fn hole(request: &Request, flags: u16, offset: u64, len: u32) -> IoBuf {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(len.to_be_bytes());
    structured(request, flags, CHUNK_HOLE, 12, &payload)
}

/// The chunks of a read: whole sectors of zeroes at its start and at its end are holes.
fn without_zero_ends(request: &Request, data: &IoBuf) -> Vec<IoBuf> {
    let len = data.len();
    let bytes = |sectors: usize| (sectors * SECTOR).min(len);
    let is_zero = |sector: &usize| data.is_zero(bytes(*sector), bytes(sector + 1) - bytes(*sector));
    let sectors = len.div_ceil(SECTOR);
    let start = (0..sectors).take_while(is_zero).count();
    let end = sectors - (start..sectors).rev().take_while(is_zero).count();
    let (start, end) = (bytes(start), bytes(end));
    let flags = |to: usize| if to == len { CHUNK_DONE } else { 0 };
    // No offset in the buffer is longer than the request.
    let hole = |from: usize, to: usize| hole(request, flags(to), request.offset + from as u64, (to - from) as u32);
    let mut parts = Vec::new();
    if start > 0 {
        parts.push(hole(0, start));
    }
    if start < end {
        parts.push(data_header(request, flags(end), request.offset + start as u64, (end - start) as u32));
        parts.push(data.slice(start, end - start));
    }
    if start < end && end < len {
        parts.push(hole(end, len));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags, kind, offset and length of each chunk.
    fn chunks(parts: &[IoBuf]) -> Vec<(u16, u16, u64, u32)> {
        let mut found = Vec::new();
        let mut parts = parts.iter();
        while let Some(part) = parts.next() {
            let bytes = part.to_vec();
            let number = |at: usize, len: usize| bytes[at..at + len].iter().fold(0, |n, b| n << 8 | u64::from(*b));
            let kind = number(6, 2) as u16;
            let len =
                if kind == CHUNK_HOLE { number(28, 4) as u32 } else { parts.next().map_or(0, |p| p.len() as u32) };
            let said = number(16, 4) as u32;
            assert_eq!(said, if kind == CHUNK_HOLE { 12 } else { len + 8 });
            found.push((number(4, 2) as u16, kind, number(20, 8), len));
        }
        found
    }

    #[test]
    fn zero_sectors_at_the_ends_of_a_read_are_holes() {
        let request = Request { flags: 0, kind: 0, cookie: 7, offset: 4096, len: 2000 };
        let read = |ones: &[usize]| {
            let mut bytes = vec![0; 2000];
            ones.iter().for_each(|at| bytes[*at] = 1);
            chunks(&without_zero_ends(&request, &IoBuf::copy_of(&bytes)))
        };
        let (hole, data) = (CHUNK_HOLE, CHUNK_DATA);
        assert_eq!(read(&[]), [(CHUNK_DONE, hole, 4096, 2000)]);
        assert_eq!(read(&[0, 1999]), [(CHUNK_DONE, data, 4096, 2000)]);
        assert_eq!(read(&[512]), [(0, hole, 4096, 512), (0, data, 4608, 512), (CHUNK_DONE, hole, 5120, 976)]);
        assert_eq!(read(&[1999]), [(0, hole, 4096, 1536), (CHUNK_DONE, data, 5632, 464)]);
        assert_eq!(read(&[0, 1100]), [(0, data, 4096, 1536), (CHUNK_DONE, hole, 5632, 464)]);
    }

    #[test]
    fn a_header_is_taken_apart() {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[5] = 1;
        bytes[7] = 6;
        bytes[15] = 9;
        bytes[16] = 0x80;
        bytes[27] = 5;
        let request = Request::parse(&bytes).expect("a header");
        assert_eq!((request.flags, request.kind, request.cookie, request.len), (1, 6, 9, 5));
        assert_eq!(request.offset, 0x80 << 56);
        bytes[0] ^= 1;
        assert!(Request::parse(&bytes).is_none());
    }
}
