//! A mirror that writes what the guest writes to both sides.

mod common;

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

use block::driver::Driver;
use block::{Child, IoFuture, WriteFlags, done};
use block_jobs::{Change, CopyMode, mirror};
use iobuf::IoBuf;

/// Bytes of the disks.
const SIZE: usize = 4 << 20;

/// A disk in memory. With each write that it gets the guest changes its buffer.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    guest: Arc<OnceLock<IoBuf>>,
    /// The thread that wrote last.
    writer: Arc<Mutex<Option<ThreadId>>>,
}

impl Disk {
    fn zeroed() -> Self {
        let disk = Self::default();
        *disk.bytes.lock().expect("the bytes") = vec![0; SIZE];
        disk
    }
}

impl Driver for Disk {
    fn len(&self) -> u64 {
        SIZE as u64
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let at = usize::try_from(offset).expect("an offset");
        buf.write_at(0, &self.bytes.lock().expect("the bytes")[at..at + buf.len()]);
        done(())
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        let at = usize::try_from(offset).expect("an offset");
        buf.read_at(0, &mut self.bytes.lock().expect("the bytes")[at..at + buf.len()]);
        *self.writer.lock().expect("a thread") = Some(std::thread::current().id());
        if let Some(guest) = self.guest.get() {
            guest.fill(0, guest.len(), 0xee);
        }
        done(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn write_whose_buffer_the_guest_changes_meanwhile_is_the_same_on_both_sides() {
    let disks = [Disk::zeroed(), Disk::zeroed()];
    let (graph, [source, target]) = common::two_disks(disks.each_ref());
    let jobs = common::jobs();
    let options = mirror::Options { sync: mirror::Sync::None, write_blocking: true, ..common::mirror(source, target) };
    let _job = mirror::create(&graph, &jobs, &options).expect("a mirror");
    let buffer = IoBuf::copy_of(&[0x11; 4096]);
    disks[0].guest.get_or_init(|| buffer.clone());
    let filter = graph.find("filter").expect("the filter");

    aio::block_on(filter.write(8192, buffer.clone(), WriteFlags::default())).expect("a write");

    assert_eq!(buffer.to_vec(), [0xee; 4096], "the guest has changed it");
    for disk in &disks {
        assert_eq!(disk.bytes.lock().expect("the bytes")[8192..12288], [0x11; 4096]);
    }
}

#[test]
fn mirror_that_is_told_to_block_writes_copies_them_with_the_guest_and_does_not_go_back() {
    let disks = [Disk::zeroed(), Disk::zeroed()];
    let (graph, [source, target]) = common::two_disks(disks.each_ref());
    let jobs = common::jobs();
    let options = mirror::Options { sync: mirror::Sync::None, ..common::mirror(source, target) };
    let job = mirror::create(&graph, &jobs, &options).expect("a mirror");
    let thread = aio::IoThread::start("mirror").expect("a thread");
    assert!(job.change_work(Change::CopyMode(CopyMode::WriteBlocking)).is_err(), "it does not work yet");
    jobs.start(&job, thread.handle());
    aio::block_on(jobs.settle());
    job.change_work(Change::CopyMode(CopyMode::Background)).expect("what it is");

    job.change_work(Change::CopyMode(CopyMode::WriteBlocking)).expect("another mode");

    let refused = job.change_work(Change::CopyMode(CopyMode::Background)).expect_err("no way back");
    assert_eq!(refused.to_string(), "Change to copy mode 'background' is not implemented");
    let filter = graph.find("filter").expect("the filter");
    // What the job copies is written by its own thread.
    for value in 1.. {
        let block = vec![value as u8; 4096];
        aio::block_on(filter.write(8192, IoBuf::copy_of(&block), WriteFlags::default())).expect("a write");
        if *disks[1].writer.lock().expect("a thread") == Some(std::thread::current().id()) {
            assert_eq!(disks[1].bytes.lock().expect("the bytes")[8192..12288], block);
            break;
        }
        std::thread::yield_now();
    }
    aio::block_on(jobs.cancel_all());
    assert_eq!(job.change_work(Change::CopyMode(CopyMode::Background)).expect_err("it has ended").errno(), 1, "EPERM");
}
