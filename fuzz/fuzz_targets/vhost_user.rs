//! Arbitrary messages of a front end of vhost-user, with descriptors of memory and of event counters, to a disk of
//! memory. Whatever comes back is thrown away.
#![no_main]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, Weak};

use block_export::{Address, Listener};
use device::disk::{Disk, DiskObserver, DiskProperties, DiskRequest, Removable};
use devices_virtio::blk::{Blk, BlkOptions};
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_user::{Device, Export, wire};

const MEMORY: u64 = 64 << 10;

struct Nothing;

impl Disk for Nothing {
    fn properties(&self) -> DiskProperties {
        DiskProperties {
            size: 1 << 20,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: 0,
            read_only: false,
            medium: true,
            write_cache: true,
            serial: String::new(),
        }
    }

    fn submit(&self, request: DiskRequest) {
        std::thread::spawn(move || (request.done)(Ok(())));
    }

    fn set_write_cache(&self, _on: bool) {}
    fn observe(&self, _observer: Weak<dyn DiskObserver>) {}
    fn set_removable(&self, _drive: Weak<dyn Removable>) {}
    fn tray_moved(&self, _is_open: bool) {}
}

/// The path of an export that is served for ever.
fn served() -> &'static str {
    static SERVED: OnceLock<(String, aio::IoThread, Arc<Export>)> = OnceLock::new();
    let (path, ..) = SERVED.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("fuzz-vhost-user-{}", std::process::id()));
        let path = path.to_str().expect("a plain path").to_owned();
        let listeners = Listener::bind(Address::Unix { path: path.clone() }).expect("listens");
        let device = Device::new(|access| Blk::new(BlkOptions::default(), Arc::new(Nothing), access));
        let thread = aio::IoThread::start("export").expect("a thread");
        let export = Arc::new(Export::default());
        drop(thread.handle().spawn(Arc::clone(&export).serve(listeners, device)));
        (path, thread, export)
    });
    path
}

fuzz_target!(|messages: Vec<(u8, u8, &[u8])>| {
    if let Some((request, size, payload)) = messages.first() {
        let mut header = [*size; wire::HEADER_LEN];
        header[0] = *request;
        header[4] = wire::flag::VERSION as u8;
        let _header = wire::Header::parse(&header);
        let _request = wire::Request::parse(u32::from(*request), payload, usize::from(size % 9));
    }
    let socket = UnixStream::connect(served()).expect("connects");
    socket.set_nonblocking(true).expect("never waits");
    let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    rustix::fs::ftruncate(&memory, MEMORY).expect("its size");
    let counter = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event counter");
    for (request, how, payload) in messages {
        let request = request % 44;
        let flags = wire::flag::VERSION | u32::from(how & 1) * wire::flag::NEED_REPLY;
        let bytes = wire::message(u32::from(request), flags, &payload[..payload.len().min(wire::MAX_PAYLOAD)]);
        let fd: BorrowedFd<'_> = if how & 2 != 0 { memory.as_fd() } else { counter.as_fd() };
        let fds = vec![fd; usize::from(how >> 2) % 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        if sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_err() {
            break;
        }
        if how & 0x80 != 0 {
            rustix::fs::ftruncate(&memory, u64::from(how & 0x70) << 8).expect("another size");
        }
        let _full = rustix::io::write(&counter, &1_u64.to_ne_bytes());
    }
});
