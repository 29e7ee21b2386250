//! Front ends, good and bad, before a disk of memory. The front end reaches its memory as a file.

use std::io::{IoSlice, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use aio::{IoThread, JoinHandle};
use block_export::{Address, Listener};
use device::disk::{Disk, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};
use devices_virtio::blk::{Blk, BlkOptions};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_user::{Device, Export, wire};

const SIZE: usize = 1 << 20;
/// Where the guest has its memory, and where the front end says that it has it itself.
const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
const FILE: u64 = 64 << 10;
const ENTRIES: u16 = 8;
/// Where things are in the memory.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADER: u64 = 0x3000;
const DATA: u64 = 0x4000;
const STATUS: u64 = 0x5000;

struct MemoryDisk(Arc<Mutex<Vec<u8>>>);

impl Disk for MemoryDisk {
    fn properties(&self) -> DiskProperties {
        DiskProperties {
            size: SIZE as u64,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: 0,
            read_only: false,
            medium: true,
            write_cache: true,
            serial: "memory".into(),
        }
    }

    fn submit(&self, request: DiskRequest) {
        let data = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut data = data.lock().expect("the data");
            match request.operation {
                DiskOperation::Read { offset, buf } => {
                    let from = offset as usize;
                    buf.write_at(0, &data[from..from + buf.len()]);
                }
                DiskOperation::Write { offset, buf, .. } => {
                    let from = offset as usize;
                    buf.read_at(0, &mut data[from..from + buf.len()]);
                }
                _ => {}
            }
            drop(data);
            (request.done)(Ok(()));
        });
    }

    fn set_write_cache(&self, _on: bool) {}
    fn observe(&self, _observer: Weak<dyn DiskObserver>) {}
    fn set_removable(&self, _drive: Weak<dyn Removable>) {}
    fn tray_moved(&self, _is_open: bool) {}
}

struct Setup {
    directory: tempfile::TempDir,
    data: Arc<Mutex<Vec<u8>>>,
    export: Arc<Export>,
    serving: Option<JoinHandle<()>>,
    _thread: IoThread,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket").to_str().expect("a plain path").to_owned();
        let listeners = Listener::bind(Address::Unix { path }).expect("listens");
        let data = Arc::new(Mutex::new(vec![0; SIZE]));
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk(Arc::clone(&data)));
        let options = BlkOptions { num_queues: 2, ..BlkOptions::default() };
        let device = Device::new(|access| Blk::new(options, disk, access));
        let export = Arc::new(Export::default());
        let thread = IoThread::start("export").expect("a thread");
        let serving = Some(thread.handle().spawn(Arc::clone(&export).serve(listeners, device)));
        Self { directory, data, export, serving, _thread: thread }
    }

    fn connect(&self) -> FrontEnd {
        let socket = UnixStream::connect(self.directory.path().join("socket")).expect("connects");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        FrontEnd::new(socket)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.export.shut_down();
        if let Some(serving) = self.serving.take() {
            aio::block_on(serving);
        }
        assert!(!self.directory.path().join("socket").exists());
    }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn pair(a: u32, b: u32) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

fn table(guest: u64, size: u64, user: u64, offset: u64) -> Vec<u8> {
    [pair(1, 0), numbers(&[guest, size, user, offset])].concat()
}

fn ring_addresses(ring: u32, [descriptors, used, available]: [u64; 3]) -> Vec<u8> {
    [pair(ring, 0), numbers(&[descriptors, used, available, 0])].concat()
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).expect("an event counter")
}

struct FrontEnd {
    socket: UnixStream,
    memory: OwnedFd,
    kick: OwnedFd,
    call: OwnedFd,
    offered: u16,
}

impl FrontEnd {
    fn new(socket: UnixStream) -> Self {
        let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&memory, FILE).expect("its size");
        Self { socket, memory, kick: event(), call: event(), offered: 0 }
    }

    /// Sends a request; `false` if the back end has closed.
    fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let bytes = wire::message(request, wire::flag::VERSION | flags, payload);
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// The payload of the next message; `None` when the back end has closed.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; wire::HEADER_LEN];
        self.socket.read_exact(&mut header).ok()?;
        let size = u32::from_le_bytes(header[8..12].try_into().expect("4 bytes"));
        let mut payload = vec![0; size as usize];
        self.socket.read_exact(&mut payload).ok()?;
        Some(payload)
    }

    fn ask(&mut self, request: u32, payload: &[u8]) -> Vec<u8> {
        assert!(self.send(request, 0, payload, &[]));
        self.receive().expect("a reply")
    }

    fn ask_number(&mut self, request: u32) -> u64 {
        u64::from_le_bytes(self.ask(request, &[]).try_into().expect("8 bytes"))
    }

    /// Sends a request and waits for the word that it was done: the error, 0 for none, or `None` for a closed socket.
    fn tell(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Option<u64> {
        if !self.send(request, wire::flag::NEED_REPLY, payload, fds) {
            return None;
        }
        self.receive().map(|reply| u64::from_le_bytes(reply.try_into().expect("8 bytes")))
    }

    fn done(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_eq!(self.tell(request, payload, fds), Some(0), "request {request}");
    }

    fn clone_of(fd: &OwnedFd) -> OwnedFd {
        fd.try_clone().expect("a clone")
    }

    /// Everything up to the features.
    fn greet(&mut self) {
        let features = self.ask_number(1);
        assert_eq!(features & wire::PROTOCOL_FEATURES, wire::PROTOCOL_FEATURES);
        let protocol = self.ask_number(15);
        assert!(self.send(16, 0, &numbers(&[protocol]), &[]));
        assert_eq!(self.ask_number(17), 2, "queues");
        self.done(3, &[], &[]);
        self.done(2, &numbers(&[1 << 32 | wire::PROTOCOL_FEATURES]), &[]);
    }

    fn share_memory(&mut self) {
        let memory = Self::clone_of(&self.memory);
        self.done(5, &table(GUEST, FILE, USER, 0), &[memory.as_fd()]);
    }

    /// Has ring 0 run, from `base` on.
    fn start_ring(&mut self, base: u32) {
        self.done(8, &pair(0, u32::from(ENTRIES)), &[]);
        self.done(10, &pair(0, base), &[]);
        self.done(9, &ring_addresses(0, [USER, USER + USED, USER + AVAILABLE]), &[]);
        let (kick, call) = (Self::clone_of(&self.kick), Self::clone_of(&self.call));
        self.done(13, &numbers(&[0]), &[call.as_fd()]);
        self.done(12, &numbers(&[0]), &[kick.as_fd()]);
        self.done(18, &pair(0, 1), &[]);
    }

    fn set_up(&mut self) {
        self.greet();
        self.share_memory();
        self.start_ring(0);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.memory, bytes, at).expect("written"), bytes.len());
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(rustix::io::pread(&self.memory, &mut bytes, at).expect("read"), N);
        bytes
    }

    /// A request of 512 bytes of data, and its status.
    fn request(&mut self, kind: u32, sector: u64) -> u8 {
        self.put(HEADER, &[pair(kind, 0), sector.to_le_bytes().to_vec()].concat());
        self.put(STATUS, &[0xff]);
        let data_flags = if kind == 0 { 3 } else { 1 };
        let parts = [(HEADER, 16_u32, 1_u16, 1_u16), (DATA, 512, data_flags, 2), (STATUS, 1, 2, 0)];
        for (index, (at, len, flags, next)) in parts.into_iter().enumerate() {
            let mut descriptor = (GUEST + at).to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend(next.to_le_bytes());
            self.put(16 * index as u64, &descriptor);
        }
        self.offer(self.offered.wrapping_add(1));
        self.wait_call();
        assert_eq!(u16::from_le_bytes(self.get(USED + 2)), self.offered, "all is used");
        self.get::<1>(STATUS)[0]
    }

    fn offer(&mut self, index: u16) {
        self.put(AVAILABLE + 4 + 2 * u64::from(self.offered % ENTRIES), &[0, 0]);
        self.offered = index;
        self.put(AVAILABLE + 2, &index.to_le_bytes());
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).expect("a kick");
    }

    fn wait_call(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.call, PollFlags::IN)], Some(&limit)).expect("waits");
        assert_eq!(ready, 1, "the device interrupts");
        rustix::io::read(&self.call, &mut [0; 8]).expect("the interrupt");
    }

    fn write_and_read(&mut self, sector: u64, byte: u8) {
        self.put(DATA, &[byte; 512]);
        assert_eq!(self.request(1, sector), 0);
        self.put(DATA, &[0; 512]);
        assert_eq!(self.request(0, sector), 0);
        assert_eq!(self.get::<512>(DATA), [byte; 512]);
    }
}

#[test]
fn front_end_writes_and_reads_the_disk_and_gets_its_ring_back() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.set_up();
    assert!(setup.export.has_client());
    front.write_and_read(3, 0x5a);
    assert_eq!(setup.data.lock().expect("the data")[3 * 512..4 * 512], [0x5a; 512]);
    assert_eq!(front.request(0, SIZE as u64 / 512), 1, "behind the end");
    assert_eq!(front.ask(11, &pair(0, 0)), pair(0, 3));
    assert_eq!(front.tell(10, &pair(0, 3), &[]), Some(0));
    front.start_ring(3);
    front.write_and_read(4, 0xa5);
    // Regions one by one.
    assert_eq!(front.ask(11, &pair(0, 0)), pair(0, 5));
    let region = [numbers(&[0]), numbers(&[GUEST, FILE, USER, 0])].concat();
    front.done(38, &region, &[]);
    assert_eq!(front.tell(38, &region, &[]), Some(1));
    let memory = FrontEnd::clone_of(&front.memory);
    front.done(37, &region, &[memory.as_fd()]);
    assert_eq!(front.tell(37, &region, &[memory.as_fd()]), Some(1), "it overlaps itself");
    front.start_ring(5);
    front.write_and_read(5, 1);
}

#[test]
fn configuration_tells_the_size_and_takes_the_cache_mode() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.greet();
    let config = |offset: u32, len: u32| [pair(offset, len), vec![0; 4 + len as usize]].concat();
    let reply = front.ask(24, &config(0, 60));
    assert_eq!((reply.len(), &reply[12..20]), (72, &(SIZE as u64 / 512).to_le_bytes()[..]));
    assert_eq!(reply[12 + 32], 1, "a write cache");
    front.done(25, &[pair(32, 1), vec![0; 5]].concat(), &[]);
    assert_eq!(front.tell(25, &[pair(256, 1), vec![0; 5]].concat(), &[]), Some(1));
    assert!(front.ask(24, &config(250, 7)).is_empty(), "there are no such bytes");
    assert!(front.send(24, 0, &[0; 4], &[]));
    assert_eq!(front.receive(), None, "that is no request");
}

#[test]
fn front_end_that_leaves_is_followed_by_the_next() {
    let setup = Setup::new();
    for round in 0..5_u8 {
        let mut front = setup.connect();
        front.set_up();
        front.write_and_read(u64::from(round), round + 1);
    }
    let data = setup.data.lock().expect("the data");
    assert_eq!([0, 1, 2, 3, 4].map(|sector: usize| data[sector * 512]), [1, 2, 3, 4, 5]);
}

#[test]
fn requests_that_lie_are_refused_and_change_nothing() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.greet();
    let memory = FrontEnd::clone_of(&front.memory);
    let (no_counter, counter) = (UnixStream::pair().expect("a pair").0, event());
    let page = 0x1000;
    // More than the file has, nothing, what wraps around, no multiples of pages.
    for bad in [
        table(GUEST, FILE + page, USER, 0),
        table(GUEST, FILE, USER, page),
        table(GUEST, 0, USER, 0),
        table(u64::MAX - page + 1, 2 * page, USER, 0),
        table(GUEST, page, u64::MAX - 1, 0),
        table(GUEST, page + 1, USER, 0),
        table(GUEST, page, USER, u64::MAX - page + 1),
    ] {
        assert_eq!(front.tell(5, &bad, &[memory.as_fd()]), Some(1), "{bad:?}");
    }
    assert_eq!(front.tell(5, &table(GUEST, page, USER, 0), &[no_counter.as_fd()]), Some(1), "no file");
    front.share_memory();
    for (request, payload) in [
        (8, pair(2, 8)),
        (8, pair(0, 0)),
        (8, pair(0, 3)),
        (8, pair(0, 1 << 16)),
        (10, pair(0, 1 << 16)),
        (10, pair(9, 0)),
        (9, ring_addresses(0, [USER + FILE, USER, USER])),
        (9, ring_addresses(0, [USER - 1, USER, USER])),
        (9, ring_addresses(7, [USER; 3])),
        (2, numbers(&[1 << 63])),
        (16, numbers(&[1 << 63])),
        (18, pair(5, 1)),
    ] {
        assert_eq!(front.tell(request, &payload, &[]), Some(1), "{request}: {payload:?}");
    }
    assert_eq!(front.tell(12, &numbers(&[0]), &[counter.as_fd()]), Some(1), "no addresses");
    assert_eq!(front.tell(13, &numbers(&[0]), &[no_counter.as_fd()]), Some(1), "no event counter");
    assert_eq!(front.tell(12, &numbers(&[0x100]), &[]), Some(1), "a ring without notifications");
    front.start_ring(0);
    assert_eq!(front.tell(10, &pair(0, 7), &[]), Some(1), "the ring runs");
    front.write_and_read(1, 9);
}

#[test]
fn rings_that_lie_stop_and_are_given_back() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.set_up();
    // More than the ring can hold.
    front.offer(1000);
    assert_eq!(front.ask(11, &pair(0, 0)), pair(0, 0));
    // A chain outside of memory.
    front.offered = 0;
    front.start_ring(0);
    front.put(0, &[numbers(&[u64::MAX]), vec![1, 0, 0, 0, 0, 0, 0, 0]].concat());
    front.offer(1);
    front.ask(11, &pair(0, 0));
    // The rings' end is outside.
    front.done(9, &ring_addresses(0, [USER + FILE - 16, USER + USED, USER + AVAILABLE]), &[]);
    let kick = FrontEnd::clone_of(&front.kick);
    assert_eq!(front.tell(12, &numbers(&[0]), &[kick.as_fd()]), Some(1));
    drop(front);
    let mut next = setup.connect();
    next.set_up();
    next.write_and_read(2, 7);
}

#[test]
fn file_that_shrinks_below_a_ring_harms_nobody() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.set_up();
    front.write_and_read(0, 3);
    rustix::fs::ftruncate(&front.memory, 0).expect("shorter");
    rustix::io::write(&front.kick, &1_u64.to_ne_bytes()).expect("a kick");
    let _where = front.ask(11, &pair(0, 0));
    drop(front);
    let mut next = setup.connect();
    next.set_up();
    next.write_and_read(2, 7);
}

/// The counter of its interrupts is full, and its writers wait.
#[test]
fn front_end_that_takes_no_interrupts_holds_nobody() {
    let setup = Setup::new();
    let mut front = setup.connect();
    front.set_up();
    front.write_and_read(0, 3);
    rustix::io::ioctl_fionbio(&front.call, false).expect("writers wait");
    rustix::io::write(&front.call, &(u64::MAX - 1).to_ne_bytes()).expect("full");
    front.put(STATUS, &[0xff]);
    front.offer(front.offered.wrapping_add(1));
    while front.get::<1>(STATUS) == [0xff] {
        std::thread::yield_now();
    }
    assert_eq!(front.ask(11, &pair(0, 0)), pair(0, 3));
    front.wait_call();
    front.start_ring(3);
    front.write_and_read(1, 4);
}

#[test]
fn messages_at_random_end_a_session_at_worst() {
    let setup = Setup::new();
    let mut state = 0x1234_5678_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..60 {
        let front = setup.connect();
        let (counter, memory) = (event(), FrontEnd::clone_of(&front.memory));
        for _ in 0..40 {
            let request = random(42) as u32;
            let user = USER + random(3) * 0x1000;
            let payload = match request {
                5 => table(GUEST, FILE, USER, 0),
                9 => ring_addresses(random(3) as u32, [user, user, user]),
                37 | 38 => numbers(&[0, GUEST + random(2) * FILE, FILE, USER + random(2) * FILE, 0]),
                24 => [pair(random(300) as u32, random(300) as u32), vec![0; 4]].concat(),
                2 | 12..=16 => numbers(&[random(3)]),
                1 | 3 | 17 | 36 => Vec::new(),
                _ => pair(random(3) as u32, random(20) as u32),
            };
            let fd = if (12..=14).contains(&request) { counter.as_fd() } else { memory.as_fd() };
            let wants = matches!(request, 5 | 12..=14 | 21 | 37);
            let fds = if wants != (random(20) == 0) { vec![fd] } else { Vec::new() };
            if !front.send(request, random(2) as u32 * wire::flag::NEED_REPLY, &payload, &fds) {
                break;
            }
            rustix::io::write(&counter, &1_u64.to_ne_bytes()).expect("a kick");
        }
    }
    let mut next = setup.connect();
    next.set_up();
    next.write_and_read(2, 7);
}
