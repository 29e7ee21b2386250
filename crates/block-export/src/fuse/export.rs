//! An export: a node, its file, and the requests that come for it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use aio::Messages;
use block::gate::Gate;
use block::{Child, Graph, Node, Permissions, Preallocation, Result, WriteFlags, ZeroFlags};
use block_tools::status;
use iobuf::IoBuf;
use rustix::io::Errno;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::mount::{AllowOther, Mount};
use super::wire::{self, Attributes, Header, LONGEST_HEADER, MAX_TRANSFER, ROOT, Request, WRITE_HEADER, change};
use crate::buffers::{Buffer, Buffers};

/// Requests that are under way at once; further ones stay with the kernel.
const MAX_REQUESTS: u32 = 256;
/// After so many requests other tasks of the reactor have their turn.
const TURN: u32 = 32;

const REGULAR_FILE: u32 = 0o100_000;
const OWNER_READS: u32 = 0o400;
const OWNER_WRITES: u32 = 0o200;
const ANYBODY_WRITES: u32 = 0o222;
const PERMISSIONS: u32 = 0o7777;

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// What an export is to be.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The file, as [`super::resolve`] gives it.
    pub mount_point: PathBuf,
    /// It may be written.
    pub writable: bool,
    /// Each write is stable before it completes.
    pub writethrough: bool,
    /// Writes behind its end make it grow.
    pub growable: bool,
    /// Who may use it.
    pub allow_other: AllowOther,
}

/// Whom the file belongs to, and who may do what.
#[derive(Clone, Copy, Debug)]
struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A node that is a file.
pub struct Export {
    options: ExportOptions,
    /// Others than its own user may use it.
    all: bool,
    graph: Arc<Graph>,
    child: Arc<Child>,
    gate: Arc<Gate>,
    device: Messages,
    mount: Mount,
    owner: Mutex<Owner>,
    /// Taken by who changes the size.
    resizing: tokio::sync::Mutex<()>,
    buffers: Buffers,
    requests: Semaphore,
    is_closing: AtomicBool,
    closing: Notify,
    serving: Mutex<Option<aio::JoinHandle<()>>>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Export({} of {})", self.mount.path().display(), self.child.node().name())
    }
}

/// A request that failed.
struct Failure(i32);

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<block::Error> for Failure {
    fn from(error: block::Error) -> Self {
        Self(error.errno())
    }
}

/// A reply: what is sent, and a buffer that it may be in.
struct Reply {
    bytes: IoBuf,
    _buffer: Option<Buffer>,
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: IoBuf::copy_of(&bytes), _buffer: None }
    }
}

impl Export {
    /// Makes a node a file. Its requests run on `reactor`. Opposite: [`Export::close`].
    ///
    /// # Errors
    /// The node is read-only or others use it in a way that does not go together with this; the host does not mount.
    pub fn start(
        graph: &Arc<Graph>,
        node: &Arc<Node>,
        options: ExportOptions,
        reactor: &aio::Handle,
    ) -> Result<Arc<Self>> {
        let gate = Arc::new(Gate::new());
        let mut used = Permissions::CONSISTENT_READ;
        if options.writable {
            used = used | Permissions::WRITE;
        }
        if options.growable {
            used = used | Permissions::RESIZE;
        }
        let child = graph.attach_user(node, "an unnamed block device", &gate, used, Permissions::ALL)?;
        let mounted = Mount::new(options.mount_point.clone(), options.allow_other)
            .and_then(|(mount, device, all)| Ok((Messages::new(device).inspect_err(|_| mount.unmount())?, mount, all)));
        let (device, mount, all) = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                if let Err(error) = aio::block_on(graph.detach(&child)) {
                    tracing::warn!("closing '{}': {error}", node.name());
                }
                return Err(error.context("Failed to mount FUSE session to export"));
            }
        };
        let owner = Owner {
            mode: REGULAR_FILE | OWNER_READS | if options.writable { OWNER_WRITES } else { 0 },
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let export = Arc::new(Self {
            options,
            all,
            graph: Arc::clone(graph),
            child,
            gate,
            device,
            mount,
            owner: Mutex::new(owner),
            resizing: tokio::sync::Mutex::default(),
            buffers: Buffers::default(),
            requests: Semaphore::new(MAX_REQUESTS as usize),
            is_closing: AtomicBool::new(false),
            closing: Notify::new(),
            serving: Mutex::default(),
        });
        let serving = reactor.spawn(Arc::clone(&export).serve());
        *export.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
        Ok(export)
    }

    /// The node.
    pub fn node(&self) -> Arc<Node> {
        self.child.node()
    }

    /// The file.
    pub fn mount_point(&self) -> &Path {
        self.mount.path()
    }

    /// Whether the export ends.
    pub fn is_shutting_down(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Takes the file away and serves nobody any more. Who has it open can't use it then.
    pub fn shut_down(&self) {
        // The kernel may have something to write yet.
        if !self.is_shutting_down() {
            self.mount.unmount();
        }
        self.is_closing.store(true, Ordering::Release);
        self.closing.notify_waiters();
    }

    /// As [`Export::shut_down`]; waits for what is under way and gives the node back.
    ///
    /// # Errors
    /// What the last writes of a node give that nobody else uses.
    pub async fn close(&self, graph: &Graph) -> Result<()> {
        self.shut_down();
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            serving.await;
        }
        graph.detach(&self.child).await
    }

    /// The node has another size.
    pub fn resized(&self) {
        // The kernel may know nothing of the file.
        let _unknown = self.device.try_write(&IoBuf::copy_of(&wire::invalidate_attributes()));
    }

    async fn wait_closing(&self) {
        loop {
            let closing = self.closing.notified();
            let mut closing = std::pin::pin!(closing);
            closing.as_mut().enable();
            if self.is_shutting_down() {
                return;
            }
            closing.await;
        }
    }

    /// Takes requests until the file is away, and waits for what is under way.
    async fn serve(self: Arc<Self>) {
        let mut turn = 0;
        loop {
            let next = tokio::select! {
                biased;
                () = self.wait_closing() => break,
                next = self.next() => next,
            };
            let Some((header, request, data)) = next else { break };
            Self::start_request(&self, (header, request), data).await;
            turn += 1;
            if turn == TURN {
                turn = 0;
                aio::yield_now().await;
            }
        }
        let _all = self.requests.acquire_many(MAX_REQUESTS).await;
    }

    /// The next request, with the bytes of a write; `None` when there will be none.
    async fn next(&self) -> Option<(Header, Request, Option<Buffer>)> {
        let head = IoBuf::zeroed(WRITE_HEADER);
        loop {
            let buffer = self.buffers.take(MAX_TRANSFER as usize);
            let message = IoBuf::concat([head.clone(), buffer.bytes(MAX_TRANSFER as usize)]);
            let len = match self.device.try_read(&message) {
                Ok(len) => len,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => {
                        drop((message, buffer));
                        self.device.readable().await.ok()?;
                        continue;
                    }
                    // Somebody gave a request up.
                    Some(Errno::NOENT | Errno::INTR) => continue,
                    // Not mounted any more.
                    Some(Errno::NODEV) => return None,
                    _ => {
                        tracing::warn!("FUSE export '{}': {error}", self.mount.path().display());
                        return None;
                    }
                },
            };
            let mut bytes = [0; LONGEST_HEADER];
            let known = len.min(LONGEST_HEADER);
            message.read_at(0, &mut bytes[..known]);
            match wire::parse(&bytes[..known], len) {
                Ok((header, request)) => {
                    // Else the buffer would be shared, and not be used again.
                    drop(message);
                    let data = matches!(request, Request::Write { .. }).then_some(buffer);
                    return Some((header, request, data));
                }
                Err(wire::Malformed) => {
                    tracing::warn!("FUSE export '{}': a message that is none", self.mount.path().display());
                    return None;
                }
            }
        }
    }

    /// Does a request at once if it need not wait, else in a task.
    async fn start_request(this: &Arc<Self>, (header, request): (Header, Request), data: Option<Buffer>) {
        if let Ok(permit) = this.requests.acquire().await {
            // The task takes its place with it.
            SemaphorePermit::forget(permit);
        }
        let export = Arc::clone(this);
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let done = export.answer(header, request, data).await;
            let reply = match done {
                Ok(reply) => reply,
                Err(Failure(errno)) => Some(wire::reply(header.unique, errno, 0).into()),
            };
            // Who gave a request up gets no reply.
            if let Some(reply) = reply
                && let Err(error) = export.device.try_write(&reply.bytes)
                && Errno::from_io_error(&error) != Some(Errno::NOENT)
            {
                tracing::debug!("FUSE export '{}': a reply: {error}", export.mount.path().display());
            }
            export.requests.add_permits(1);
        });
        if work.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending {
            drop(aio::spawn(work));
        }
    }

    /// Does a request. Some get no reply.
    async fn answer(
        &self,
        header: Header,
        request: Request,
        data: Option<Buffer>,
    ) -> std::result::Result<Option<Reply>, Failure> {
        let unique = header.unique;
        let is_about_file = !matches!(
            request,
            Request::Init { .. } | Request::Destroy | Request::Silent | Request::Unknown | Request::StatFs
        );
        if is_about_file && header.node != ROOT {
            return Err(Errno::NOENT.into());
        }
        let done = || Ok(Some(wire::reply(unique, 0, 0).into()));
        let reply: Vec<u8> = match request {
            Request::Silent => return Ok(None),
            Request::Init { major, minor, max_readahead, flags } => {
                wire::init(unique, (major, minor), max_readahead, flags).ok_or(Errno::PROTO)?
            }
            Request::Lookup => return Err(Errno::NOENT.into()),
            Request::Unknown => return Err(Errno::NOSYS.into()),
            Request::Open => wire::open(unique),
            Request::StatFs => wire::file_system(unique),
            Request::Release | Request::Destroy => return done(),
            Request::GetAttributes => wire::attributes(unique, &self.attributes().await),
            Request::SetAttributes { valid, size, mode, uid, gid } => {
                self.set_attributes(valid, size, Owner { mode, uid, gid }).await?;
                wire::attributes(unique, &self.attributes().await)
            }
            Request::Read { offset, size } => return self.read(unique, offset, size).await.map(Some),
            Request::Write { offset, size } => {
                // The data of a write is always there.
                let data = data.ok_or(Errno::IO)?;
                wire::written(unique, self.write(offset, size, &data).await?)
            }
            Request::Flush | Request::Sync => {
                let _inside = self.gate.enter().await;
                self.child.flush().await?;
                return done();
            }
            Request::Allocate { offset, len, mode } => {
                self.allocate(offset, len, mode).await?;
                return done();
            }
            Request::Seek { offset, whence } => wire::found(unique, self.seek(offset, whence).await?),
        };
        Ok(Some(reply.into()))
    }

    /// The file's size, bytes.
    fn len(&self) -> u64 {
        status::size(&self.child.node())
    }

    fn owner(&self) -> MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_writable(&self) -> std::result::Result<(), Failure> {
        if self.options.writable { Ok(()) } else { Err(Errno::ACCESS.into()) }
    }

    /// What is told of the file, in a drain, too: who drains may look at the file.
    async fn attributes(&self) -> Attributes {
        let node = self.child.node();
        let size = status::size(&node);
        let allocated = node.driver().allocated_size().await.ok().flatten();
        let owner = *self.owner();
        Attributes {
            size,
            allocated: allocated.unwrap_or(size),
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
            block_size: node.driver().limits().request_alignment,
        }
    }

    async fn set_attributes(&self, valid: u32, size: u64, new: Owner) -> std::result::Result<(), Failure> {
        let mut known = change::SIZE | change::MODE | change::BESIDE;
        if self.all {
            known |= change::UID | change::GID;
        }
        if valid & !known != 0 {
            return Err(Errno::NOTSUP.into());
        }
        if valid & change::MODE != 0 && new.mode & ANYBODY_WRITES != 0 && !self.options.writable {
            return Err(Errno::ROFS.into());
        }
        if valid & change::SIZE != 0 {
            self.check_writable()?;
            let _inside = self.gate.enter().await;
            let _one = self.resizing.lock().await;
            self.truncate(size, Preallocation::Off).await?;
        }
        let mut owner = self.owner();
        if valid & change::MODE != 0 {
            owner.mode = REGULAR_FILE | new.mode & PERMISSIONS;
        }
        if valid & change::UID != 0 {
            owner.uid = new.uid;
        }
        if valid & change::GID != 0 {
            owner.gid = new.gid;
        }
        Ok(())
    }

    /// Changes the size; the caller is inside of the gate and has [`Export::resizing`]. An export that does not grow by
    /// itself asks for the permission now.
    async fn truncate(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let (used, shared) = self.child.permissions();
        if !self.options.growable {
            self.graph.set_permissions(&self.child, used | Permissions::RESIZE, shared)?;
        }
        let done = self.child.truncate(size, true, preallocation).await;
        if !self.options.growable
            && let Err(error) = self.graph.set_permissions(&self.child, used, shared)
        {
            tracing::warn!("FUSE export '{}': {error}", self.mount.path().display());
        }
        done
    }

    async fn read(&self, unique: u64, offset: u64, size: u32) -> std::result::Result<Reply, Failure> {
        if size > MAX_TRANSFER {
            return Err(Errno::INVAL.into());
        }
        let _inside = self.gate.enter().await;
        // The kernel expects a short read at the end.
        let n = self.len().saturating_sub(offset).min(u64::from(size)) as usize;
        if n == 0 {
            return Ok(wire::reply(unique, 0, 0).into());
        }
        let buffer = self.buffers.take(n);
        let data = buffer.bytes(n);
        self.child.read(offset, data.clone()).await?;
        let bytes = IoBuf::concat([IoBuf::copy_of(&wire::reply(unique, 0, n)), data]);
        Ok(Reply { bytes, _buffer: Some(buffer) })
    }

    /// Writes: how many bytes.
    async fn write(&self, offset: u64, size: u32, data: &Buffer) -> std::result::Result<u32, Failure> {
        self.check_writable()?;
        if size > MAX_TRANSFER {
            return Err(Errno::INVAL.into());
        }
        let end = offset.checked_add(u64::from(size)).ok_or(Errno::FBIG)?;
        let _inside = self.gate.enter().await;
        if self.options.growable && end > self.len() {
            let _one = self.resizing.lock().await;
            // Another write may have been faster.
            if end > self.len() {
                self.truncate(end, Preallocation::Off).await?;
            }
        }
        let n = self.len().saturating_sub(offset).min(u64::from(size)) as u32;
        if n != 0 {
            let flags = WriteFlags { fua: self.options.writethrough, ..WriteFlags::default() };
            self.child.write(offset, data.bytes(n as usize), flags).await?;
        }
        Ok(n)
    }

    async fn allocate(&self, offset: u64, len: u64, mode: u32) -> std::result::Result<(), Failure> {
        self.check_writable()?;
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        let fua = self.options.writethrough;
        let _inside = self.gate.enter().await;
        let zero = |end: u64, may_unmap| {
            let flags = ZeroFlags { may_unmap, no_fallback: false, fua };
            self.child.write_zeroes(offset, end.saturating_sub(offset), flags)
        };
        if mode == 0 {
            // What is inside can't be reserved: formats have no word for that.
            let _one = self.resizing.lock().await;
            let old = self.len();
            if offset < old {
                return Err(Errno::NOTSUP.into());
            }
            if offset > old {
                self.truncate(offset, Preallocation::Off).await?;
            }
            self.truncate(end, Preallocation::Falloc).await?;
        } else if mode == PUNCH_HOLE | KEEP_SIZE {
            zero(end.min(self.len()), true).await?;
        } else if mode & !KEEP_SIZE == ZERO_RANGE {
            if mode & KEEP_SIZE == 0 {
                let _one = self.resizing.lock().await;
                if end > self.len() {
                    self.truncate(end, Preallocation::Off).await?;
                }
            }
            zero(end.min(self.len()), false).await?;
        } else {
            return Err(Errno::NOTSUP.into());
        }
        Ok(())
    }

    /// Where the next data or hole is.
    async fn seek(&self, offset: u64, whence: u32) -> std::result::Result<u64, Failure> {
        if whence != SEEK_DATA && whence != SEEK_HOLE {
            return Err(Errno::INVAL.into());
        }
        let _inside = self.gate.enter().await;
        let node = self.child.node();
        let end = status::size(&node);
        let mut at = offset;
        while at < end {
            let known = status::above(&node, None, at, end - at).await?;
            if known.data == (whence == SEEK_DATA) {
                return Ok(at);
            }
            at += known.len.clamp(1, end - at);
        }
        // The end is a hole.
        if whence == SEEK_DATA || at > end { Err(Errno::NXIO.into()) } else { Ok(end) }
    }
}
