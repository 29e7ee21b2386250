//! Arbitrary bytes as a qcow2 image: opened, read, checked, written and repaired through a disk in memory.
#![no_main]

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use block::image::FixMode;
use block::{
    Child, Defaults, Driver, DriverKind, DriverType, Error, Graph, IoFuture, NodeConfig, OpenFlags, OpenRequest, Options,
    Permissions, Preallocation, Registry, WriteFlags,
};
use iobuf::IoBuf;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static IMAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Longer disks are refused.
const MAX: u64 = 16 << 20;

struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn with<R>(&self, visit: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        visit(&mut self.0.lock().expect("nobody panics with the lock"))
    }
}

impl Driver for Memory {
    fn len(&self) -> u64 {
        self.with(|data| data.len() as u64)
    }
    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.with(|data| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(buf.len()).min(data.len());
            buf.fill(0, buf.len(), 0);
            buf.write_at(0, &data[start..end]);
        });
        block::done(())
    }
    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        let end = offset.saturating_add(buf.len() as u64);
        if end > MAX {
            return block::fail(Error::no_space("The disk is full"));
        }
        self.with(|data| {
            let (start, end) = (offset as usize, end as usize);
            data.resize(data.len().max(end), 0);
            buf.read_at(0, &mut data[start..end]);
        });
        block::done(())
    }
    fn truncate(&self, len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        if len > MAX {
            return block::fail(Error::no_space("The disk is full"));
        }
        self.with(|data| data.resize(len as usize, 0));
        block::done(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct MemoryType;

impl DriverType for MemoryType {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }
    fn open(&self, _request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        block::done(Arc::new(Memory(Mutex::new(IMAGE.with_borrow(Clone::clone)))) as Arc<dyn Driver>)
    }
}

fn open(read_only: bool, check: bool) -> Option<(Arc<Graph>, Arc<Child>)> {
    let mut drivers = block_qcow2::drivers();
    drivers.push(&MemoryType);
    let graph = Graph::new(Registry::new(drivers));
    let options = Options::new().with("driver", "qcow2").with("file.driver", "memory");
    let flags = OpenFlags { no_backing: true, check, ..OpenFlags::default() };
    let config = NodeConfig { read_only, discard: true, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, flags))).ok()?;
    let used = if read_only { Permissions::CONSISTENT_READ } else { Permissions::CONSISTENT_READ | Permissions::WRITE };
    let child = graph.attach_root(&node, "fuzz", used, Permissions::ALL).ok()?;
    Some((graph, child))
}

fuzz_target!(|data: &[u8]| {
    // Without the magic number nothing is seen of the format.
    let mut image = data.to_vec();
    if let Some(magic) = image.get_mut(..4) {
        magic.copy_from_slice(b"QFI\xfb");
    }
    IMAGE.set(image);
    if let Some((graph, child)) = open(true, false) {
        let len = child.len();
        for at in [0, len / 2, len.saturating_sub(4096)] {
            let n = len.saturating_sub(at).min(100_000) as usize;
            let _ = aio::block_on(child.read_vec(at, n));
            let _ = aio::block_on(child.block_status(at, n as u64, true));
        }
        let _ = aio::block_on(child.node().driver().check(FixMode::default()));
        let _ = aio::block_on(graph.detach(&child));
    }
    if let Some((graph, child)) = open(false, false) {
        let len = child.len();
        if len > 5000 {
            let _ = aio::block_on(child.write_bytes(100, &[1; 4000]));
            let _ = aio::block_on(child.write_bytes(len - 600, &[2; 600]));
            let _ = aio::block_on(child.discard(0, 65536));
        }
        let _ = aio::block_on(graph.detach(&child));
    }
    if let Some((graph, child)) = open(false, true) {
        let _ = aio::block_on(child.node().driver().check(FixMode { leaks: true, errors: true }));
        let _ = aio::block_on(graph.detach(&child));
    }
});
