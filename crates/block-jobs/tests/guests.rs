//! Jobs beside a guest that uses the disk.

mod common;

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::driver::Driver;
use block::{Child, IoFuture, Node, WriteFlags, done};
use block_jobs::mirror;
use iobuf::IoBuf;

/// A disk that counts how many reads it has at once. With each of them its guest makes a request, if it has one.
#[derive(Clone, Default)]
struct Disk {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    guest: Arc<OnceLock<Arc<Node>>>,
}

impl Driver for Disk {
    fn len(&self) -> u64 {
        64 << 20
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, _offset: u64, _buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            self.most.fetch_max(self.running.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
            if let Some(guest) = self.guest.get() {
                guest.flush().await?;
            }
            aio::sleep(Duration::from_millis(1)).await;
            self.running.fetch_sub(1, Ordering::AcqRel);
            Ok(())
        })
    }

    fn write(&self, _offset: u64, _buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        done(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// How many requests a mirror has at once.
fn in_flight(has_guest: bool) -> usize {
    let disks = [Disk::default(), Disk::default()];
    let (graph, [source, target]) = common::two_disks(disks.each_ref());
    let jobs = common::jobs();
    let job = mirror::create(&graph, &jobs, &common::mirror(source, target)).expect("a mirror");
    if has_guest {
        let filter = graph.find("filter").expect("the filter");
        aio::block_on(filter.flush()).expect("a request");
        disks[0].guest.get_or_init(|| filter);
    }
    let thread = aio::IoThread::start("mirror").expect("a thread");
    jobs.start(&job, thread.handle());
    while !job.is_ready() {
        aio::block_on(jobs.settle());
        std::thread::sleep(Duration::from_millis(1));
    }
    aio::block_on(jobs.cancel_all());
    disks[0].most.load(Ordering::Acquire)
}

#[test]
fn mirror_has_fewer_requests_in_flight_beside_a_guest_than_alone() {
    assert_eq!([false, true].map(in_flight), [16, 2]);
}
