//! What the tests share: opening images, the peers' tools, and a protocol driver in memory that records, delays and fails.
#![allow(dead_code, reason = "each test program uses a part")]

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};

use block::create::CreateRequest;
use block::{
    BlockStatus, Child, Defaults, Driver, DriverKind, DriverType, Error, Graph, IoFuture, NodeConfig, OpenFlags,
    OpenRequest, Options, Permissions, Preallocation, Registry, Result, WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

/// A small deterministic generator (splitmix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// What reached the disk.
#[derive(Clone)]
pub enum Op {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Truncate(u64),
    Flush,
}

/// A disk in memory.
#[derive(Default)]
pub struct Disk {
    pub data: Mutex<Vec<u8>>,
    pub log: Mutex<Vec<Op>>,
    /// The events that formats announced, while recording.
    pub events: Mutex<Vec<&'static str>>,
    /// The next operation after this event fails.
    pub fail_after: Mutex<Option<&'static str>>,
    /// Operations until one fails; negative: never.
    pub fail_in: AtomicI64,
    /// Every later operation fails, too.
    pub keep_failing: std::sync::atomic::AtomicBool,
    pub no_space: std::sync::atomic::AtomicBool,
    pub recording: std::sync::atomic::AtomicBool,
    /// Up to this many turns of other tasks before an operation is done.
    pub delay: AtomicU64,
    seed: AtomicU64,
}

static DISKS: OnceLock<Mutex<HashMap<String, Arc<Disk>>>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(0);

fn disks() -> &'static Mutex<HashMap<String, Arc<Disk>>> {
    DISKS.get_or_init(Mutex::default)
}

/// A disk that removes itself.
pub struct DiskHandle {
    pub id: String,
    pub disk: Arc<Disk>,
}

impl Drop for DiskHandle {
    fn drop(&mut self) {
        disks().lock().expect("disks").remove(&self.id);
    }
}

pub fn new_disk(data: Vec<u8>) -> DiskHandle {
    let id = format!("disk{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let disk = Arc::new(Disk { data: Mutex::new(data), fail_in: AtomicI64::new(-1), ..Disk::default() });
    disks().lock().expect("disks").insert(id.clone(), Arc::clone(&disk));
    DiskHandle { id, disk }
}

/// Gives other tasks a turn.
struct Turns(u64);

impl Future for Turns {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Disk {
    async fn step(&self) -> Result<()> {
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 {
            let mut rng = Rng(self.seed.fetch_add(1, Ordering::Relaxed));
            Turns(rng.below(delay + 1)).await;
        }
        let left = self.fail_in.load(Ordering::Relaxed);
        if left >= 0 {
            if left > 0 || !self.keep_failing.load(Ordering::Relaxed) {
                self.fail_in.store(left - 1, Ordering::Relaxed);
            }
            if left == 0 {
                return Err(if self.no_space.load(Ordering::Relaxed) {
                    Error::no_space("No space left on device")
                } else {
                    Error::io("Input/output error")
                });
            }
        }
        Ok(())
    }

    fn record(&self, op: impl FnOnce() -> Op) {
        if self.recording.load(Ordering::Relaxed) {
            self.log.lock().expect("log").push(op());
        }
    }

    pub fn apply(data: &mut Vec<u8>, op: &Op) {
        match op {
            Op::Write(at, bytes) => {
                let at = *at as usize;
                if data.len() < at + bytes.len() {
                    data.resize(at + bytes.len(), 0);
                }
                data[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Op::Zero(at, len) => {
                let (start, end) = (*at as usize, (*at + *len) as usize);
                let end = end.min(data.len());
                if start < end {
                    data[start..end].fill(0);
                }
            }
            Op::Truncate(len) => data.resize(*len as usize, 0),
            Op::Flush => {}
        }
    }
}

struct Memory(Arc<Disk>);

/// Longer disks are refused: nothing that a test does needs them.
const MAX_DISK: u64 = 1 << 30;

impl Driver for Memory {
    fn len(&self) -> u64 {
        self.0.data.lock().expect("data").len() as u64
    }
    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            self.0.step().await?;
            let data = self.0.data.lock().expect("data");
            let start = (offset as usize).min(data.len());
            let end = (offset as usize + buf.len()).min(data.len());
            buf.fill(0, buf.len(), 0);
            if start < end {
                buf.write_at(0, &data[start..end]);
            }
            Ok(())
        })
    }
    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.0.step().await?;
            if offset + buf.len() as u64 > MAX_DISK {
                return Err(Error::no_space("No space left on device"));
            }
            let op = Op::Write(offset, buf.to_vec());
            Disk::apply(&mut self.0.data.lock().expect("data"), &op);
            self.0.record(|| op);
            Ok(())
        })
    }
    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            self.0.step().await?;
            Disk::apply(&mut self.0.data.lock().expect("data"), &Op::Zero(offset, len));
            self.0.record(|| Op::Zero(offset, len));
            Ok(())
        })
    }
    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move {
            self.0.step().await?;
            self.0.record(|| Op::Flush);
            Ok(())
        })
    }
    fn truncate(&self, len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            self.0.step().await?;
            if len > MAX_DISK {
                return Err(Error::no_space("No space left on device"));
            }
            Disk::apply(&mut self.0.data.lock().expect("data"), &Op::Truncate(len));
            self.0.record(|| Op::Truncate(len));
            Ok(())
        })
    }
    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        block::done(BlockStatus::data(len, Some(offset)))
    }
    fn debug_event(&self, event: &'static str) -> Option<IoFuture<'_>> {
        if self.0.recording.load(Ordering::Relaxed) {
            self.0.events.lock().expect("events").push(event);
        }
        if self.0.fail_after.lock().expect("a name").take_if(|name| *name == event).is_some() {
            self.0.fail_in.store(0, Ordering::Relaxed);
        }
        None
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub struct MemoryType;

impl DriverType for MemoryType {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }
    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let id = request.options.take_str("id")?.ok_or_else(|| Error::invalid("no id"))?;
            request.finish()?;
            let disk = disks().lock().expect("disks").get(&id).cloned();
            let disk = disk.ok_or_else(|| Error::not_found("no such disk"))?;
            Ok(Arc::new(Memory(disk)) as Arc<dyn Driver>)
        })
    }
}

/// A graph with the secrets `sec0` (`123456`) and `sec1` (`other`).
pub fn graph() -> Arc<Graph> {
    let mut drivers = block::builtin_drivers();
    drivers.extend(block_qcow2::drivers());
    drivers.push(&MemoryType);
    let graph = Graph::new(Registry::new(drivers));
    graph.set_secret("sec0", b"123456".to_vec());
    graph.set_secret("sec1", b"other".to_vec());
    graph
}

pub const ALL: Permissions = Permissions::ALL;

pub fn users() -> Permissions {
    Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE
}

/// An open image.
pub struct Open {
    pub graph: Arc<Graph>,
    pub child: Arc<Child>,
}

impl Open {
    pub fn close(self) -> Result<()> {
        aio::block_on(self.graph.detach(&self.child))
    }
    pub fn driver(&self) -> Arc<dyn Driver> {
        Arc::clone(self.child.node().driver())
    }
}

pub fn open_with(options: Options, read_only: bool, flags: OpenFlags) -> Result<Open> {
    aio::block_on(open_async(options, read_only, flags))
}

/// As [`open_with`], inside of a reactor.
pub async fn open_async(options: Options, read_only: bool, flags: OpenFlags) -> Result<Open> {
    let graph = graph();
    let config = NodeConfig { discard: true, read_only, ..NodeConfig::default() };
    let node = graph.open(options, Defaults::new(config, flags)).await?;
    let used = if read_only { Permissions::CONSISTENT_READ } else { users() };
    let child = graph.attach_root(&node, "test", used, ALL)?;
    Ok(Open { graph, child })
}

pub fn open_file(path: &str, read_only: bool) -> Result<Open> {
    open_with(
        Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path),
        read_only,
        OpenFlags::default(),
    )
}

pub fn memory_options(id: &str) -> Options {
    Options::new().with("driver", "qcow2").with("file.driver", "memory").with("file.id", id)
}

/// Parses `a=b,c=d`.
pub fn parse(text: &str) -> Options {
    let mut options = Options::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').expect("name=value");
        options.set(name, value);
    }
    options
}

/// Creates an image in a protocol node.
pub fn create_in(file: Options, filename: &str, size: u64, options: &str) -> Result<()> {
    let graph = graph();
    aio::block_on(async {
        let node = graph.open(file, Defaults::new(NodeConfig::default(), OpenFlags::default())).await?;
        let child = graph.attach_root(&node, "create", users(), ALL)?;
        let request = CreateRequest {
            graph: Arc::clone(&graph),
            file: Some(Arc::clone(&child)),
            filename: filename.to_owned(),
            size,
            options: parse(options),
            data_file: None,
        };
        let driver = graph.registry().find("qcow2").expect("qcow2");
        let result = driver.create(request).await;
        graph.detach(&child).await?;
        result
    })
}

pub fn create_file(path: &str, size: u64, options: &str) -> Result<()> {
    std::fs::write(path, b"").expect("an empty file");
    create_in(Options::new().with("driver", "file").with("filename", path), path, size, options)
}

pub fn create_disk(size: u64, options: &str) -> DiskHandle {
    let handle = new_disk(Vec::new());
    let file = Options::new().with("driver", "memory").with("id", handle.id.as_str());
    create_in(file, "disk", size, options).expect("creates");
    handle
}

pub fn read_all(child: &Child) -> Result<Vec<u8>> {
    aio::block_on(child.read_vec(0, child.len() as usize))
}

pub fn write(child: &Child, offset: u64, bytes: &[u8]) -> Result<()> {
    aio::block_on(child.write(offset, IoBuf::copy_of(bytes), WriteFlags::default()))
}

pub fn zero(child: &Child, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
    aio::block_on(child.write_zeroes(offset, len, ZeroFlags { may_unmap, ..ZeroFlags::default() }))
}

/// Whether a tool of the peer is there; says so if not.
pub fn has_tool(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

/// Runs a tool: whether it succeeded, and all that it said.
pub fn run(tool: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(tool).args(args).output().expect("the tool runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Runs a tool that has to succeed.
pub fn must(tool: &str, args: &[&str]) -> String {
    let (success, text) = run(tool, args);
    assert!(success, "{tool} {args:?}: {text}");
    text
}

pub type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs all tasks, interleaved.
pub async fn together(mut tasks: Vec<Task<'_>>) {
    std::future::poll_fn(|context| {
        tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What our own check finds in a disk in memory.
pub fn check(id: &str) -> block::image::CheckResult {
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let open = open_with(memory_options(id), true, flags).expect("opens");
    let result = aio::block_on(open.driver().check(block::image::FixMode::default())).expect("checks");
    open.close().expect("closes");
    result
}
