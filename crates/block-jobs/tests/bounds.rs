//! A client says how much a job copies at once; how much memory that takes is bounded.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::driver::{Driver, DriverKind, DriverType};
use block::graph::Registry;
use block::{
    Child, Defaults, Graph, IoFuture, Limits, Node, NodeConfig, OpenFlags, OpenRequest, Options, WriteFlags, done,
};
use block_jobs::{Common, Event, Info, Job, Jobs, Kind, Observer, OnError, Status, backup, mirror};
use iobuf::IoBuf;

/// Bytes of the disks.
const SIZE: u64 = 160 << 20;

struct Silent;

impl Observer for Silent {
    fn event(&self, _job: &Info, _event: Event) {}
}

/// A disk full of data that nobody keeps; it remembers the longest request.
#[derive(Clone, Default)]
struct Disk(Arc<AtomicUsize>);

struct DiskType(&'static str, Disk);

impl DriverType for DiskType {
    fn name(&self) -> &'static str {
        self.0
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        let disk = self.1.clone();
        Box::pin(async move {
            request.finish()?;
            Ok(Arc::new(disk) as Arc<dyn Driver>)
        })
    }
}

impl Driver for Disk {
    fn len(&self) -> u64 {
        SIZE
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, _offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.0.fetch_max(buf.len(), Ordering::Relaxed);
        done(())
    }

    fn write(&self, _offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        self.0.fetch_max(buf.len(), Ordering::Relaxed);
        done(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Setup {
    graph: Arc<Graph>,
    jobs: Jobs,
    reactor: aio::IoThread,
    longest: [Disk; 2],
}

impl Setup {
    fn new() -> Self {
        let longest = [Disk::default(), Disk::default()];
        let types = ["source", "target"].iter().zip(&longest);
        let types =
            types.map(|(name, disk)| &*Box::leak(Box::new(DiskType(name, disk.clone()))) as &'static dyn DriverType);
        let graph = Graph::new(Registry::new(types.collect::<Vec<_>>()));
        let reactor = aio::IoThread::start("test").expect("a reactor");
        Self { graph, jobs: Jobs::new(Arc::new(Silent), || {}), reactor, longest }
    }

    fn open(&self, driver: &str) -> Arc<Node> {
        let options = Options::new().with("driver", driver).with("node-name", driver);
        let defaults = Defaults::new(NodeConfig::default(), OpenFlags::default());
        aio::block_on(self.graph.open(options, defaults)).expect("a disk")
    }

    /// Runs a job until it has copied everything; the longest request of either side.
    fn longest_of(&self, job: &Arc<Job>) -> usize {
        self.jobs.start(job, self.reactor.handle());
        while !matches!(job.status(), Status::Ready | Status::Waiting | Status::Concluded | Status::Null) {
            aio::block_on(self.jobs.settle());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        aio::block_on(self.jobs.cancel_all());
        self.longest.iter().map(|disk| disk.0.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

fn common() -> Common {
    Common { id: "job".to_owned(), speed: 0, auto_finalize: true, auto_dismiss: true }
}

#[test]
fn mirror_with_the_largest_buffer_copies_pieces_of_bounded_length() {
    let setup = Setup::new();
    let options = mirror::Options {
        common: common(),
        kind: Kind::Mirror,
        source: setup.open("source"),
        target: setup.open("target"),
        replaces: None,
        sync: mirror::Sync::Full,
        backing: mirror::Backing::Leave,
        target_is_zero: false,
        write_blocking: false,
        unmap: false,
        granularity: 0,
        buf_size: i64::MAX as u64,
        on_source_error: OnError::Report,
        on_target_error: OnError::Report,
        filter_node_name: None,
    };
    let job = mirror::create(&setup.graph, &setup.jobs, &options).expect("a mirror");

    let longest = setup.longest_of(&job);

    assert!((1..=64 << 20).contains(&longest), "{longest} bytes at once");
}

#[test]
fn backup_with_the_largest_chunk_copies_pieces_of_bounded_length() {
    let setup = Setup::new();
    let options = backup::Options {
        common: common(),
        source: setup.open("source"),
        target: setup.open("target"),
        sync: backup::Sync::Full,
        bitmap: None,
        compress: false,
        on_source_error: OnError::Report,
        on_target_error: OnError::Report,
        filter_node_name: None,
        max_workers: 0,
        max_chunk: i64::MAX as u64,
        transaction: None,
    };
    let job = backup::create(&setup.graph, &setup.jobs, &options).expect("a backup");

    let longest = setup.longest_of(&job);

    assert!((1..=1 << 20).contains(&longest), "{longest} bytes at once");
}
