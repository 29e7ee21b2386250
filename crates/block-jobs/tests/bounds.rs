//! A client says how much a job copies at once; how much memory that takes is bounded.

mod common;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::driver::Driver;
use block::{Child, Graph, IoFuture, Limits, Node, WriteFlags, done};
use block_jobs::{Job, Jobs, OnError, Status, backup, mirror};
use iobuf::IoBuf;

/// Bytes of the disks.
const SIZE: u64 = 160 << 20;

/// A disk full of data that nobody keeps; it remembers the longest request.
#[derive(Clone, Default)]
struct Disk(Arc<AtomicUsize>);

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
    source: Arc<Node>,
    target: Arc<Node>,
    jobs: Jobs,
    reactor: aio::IoThread,
    longest: [Disk; 2],
}

impl Setup {
    fn new() -> Self {
        let longest = [Disk::default(), Disk::default()];
        let (graph, [source, target]) = common::two_disks(longest.each_ref());
        let reactor = aio::IoThread::start("test").expect("a reactor");
        Self { graph, source, target, jobs: common::jobs(), reactor, longest }
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

#[test]
fn mirror_with_the_largest_buffer_copies_pieces_of_bounded_length() {
    let setup = Setup::new();
    let (source, target) = (Arc::clone(&setup.source), Arc::clone(&setup.target));
    let options = mirror::Options { buf_size: i64::MAX as u64, ..common::mirror(source, target) };
    let job = mirror::create(&setup.graph, &setup.jobs, &options).expect("a mirror");

    let longest = setup.longest_of(&job);

    assert!((1..=64 << 20).contains(&longest), "{longest} bytes at once");
}

#[test]
fn backup_with_the_largest_chunk_copies_pieces_of_bounded_length() {
    let setup = Setup::new();
    let options = backup::Options {
        common: common::common(),
        source: Arc::clone(&setup.source),
        target: Arc::clone(&setup.target),
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
