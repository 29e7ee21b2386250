//! The controller through its ports.

use std::sync::Mutex;

use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};

use super::*;
use crate::testing::Pin;
use device::testing::FakeDisk;

/// A channel that a test sets up.
#[derive(Clone, Default)]
struct Channel(Arc<Mutex<Option<DmaTransfer>>>);

impl DmaChannel for Channel {
    fn transfer(&self) -> Option<DmaTransfer> {
        *self.0.lock().expect("channel")
    }

    fn advance(&self, bytes: usize) {
        let mut transfer = self.0.lock().expect("channel");
        *transfer = transfer.map(|old| DmaTransfer { address: old.address + bytes as u64, len: old.len - bytes });
    }
}

struct Bench {
    fdc: DeviceCell<Fdc>,
    disk: Arc<FakeDisk>,
    pin: Arc<Pin>,
    channel: Channel,
    space: Arc<AddressSpace>,
}

impl Bench {
    /// A drive with a medium of 1.44 MB.
    fn new() -> Self {
        let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ram = Arc::new(RamBlock::new("ram", 0x10_0000).expect("RAM"));
        space
            .map(GuestAddress(0), 0x10_0000, 0, Backing::Ram { block: ram, offset: 0, read_only: false })
            .expect("mapped");
        let (pin, channel) = (Arc::new(Pin::default()), Channel::default());
        let fdc = Fdc::new(pin.line(), Box::new(channel.clone()), DmaView::new(Arc::clone(&space)));
        let disk = FakeDisk::new(2880);
        fdc.lock().connect(0, None, disk.clone());
        let bench = Self { fdc, disk, pin, channel, space };
        bench.write(7, 0);
        bench
    }

    fn read(&self, register: u64) -> u8 {
        self.fdc.lock().read_register(register)
    }

    fn write(&self, register: u64, value: u8) {
        self.fdc.lock().write_register(register, value);
    }

    fn send(&self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.read(4) & 0xc0, 0x80, "the controller takes no byte");
            self.write(5, *byte);
        }
    }

    fn results(&self) -> Vec<u8> {
        self.disk.work();
        let mut results = Vec::new();
        while self.read(4) & 0x50 == 0x50 {
            results.push(self.read(5));
        }
        results
    }

    fn set_dma(&self, address: u64, len: usize) {
        *self.channel.0.lock().expect("channel") = Some(DmaTransfer { address, len });
    }

    fn memory(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.space.read(GuestAddress(address), &mut bytes);
        bytes
    }
}

const READ: u8 = 0xe6;
const WRITE: u8 = 0xc5;

#[test]
fn reset_is_answered_by_four_polls() {
    let bench = Bench::new();
    bench.write(2, 0x00);
    assert_eq!(bench.read(4), 0);
    bench.write(2, 0x0c);
    assert!(bench.pin.level());
    for expected in [[0xc0, 0], [0xc1, 0], [0xc2, 0], [0xc3, 0]] {
        bench.send(&[0x08]);
        assert_eq!(bench.results(), expected);
        assert!(!bench.pin.level());
    }
    bench.send(&[0x08]);
    assert_eq!(bench.results(), [0x80]);
}

#[test]
fn commands_without_data_answer() {
    let bench = Bench::new();
    for (command, expected) in [
        (&[0x10][..], &[0x90][..]),
        (&[0x18], &[0x41]),
        (&[0x94], &[0x10]),
        (&[0x14], &[0x00]),
        (&[0x04, 0x04], &[0x3c]),
        (&[0x17, 0x02], &[0x02]),
        (&[0x1f], &[0x80]),
        (&[0x8e, 0x01, 0xc2], &[0x01, 0, 0, 0]),
    ] {
        bench.send(command);
        assert_eq!(bench.results(), expected, "{command:x?}");
        assert_eq!(bench.read(4), 0x80);
    }
    bench.send(&[0x13, 0, 0x57, 9]);
    bench.send(&[0x03, 0xaf, 0x1e]);
    bench.send(&[0x0e]);
    assert_eq!(bench.results(), [0, 0, 0, 0, 0xaf, 0x1e, 18, 0, 0x57, 9]);
    bench.send(&[0x2e]);
    let saved = bench.results();
    assert_eq!((saved.len(), saved[10], saved[11]), (15, 0x57, 9));
}

#[test]
fn seeks_interrupt_and_tell_the_track() {
    let bench = Bench::new();
    bench.send(&[0x0f, 0x04, 33]);
    assert!(bench.pin.level());
    bench.send(&[0x08]);
    assert_eq!((bench.results(), bench.pin.level()), (vec![0x20, 33], false));
    bench.send(&[0xcf, 0, 7]);
    bench.send(&[0x08]);
    assert_eq!(bench.results(), [0x20, 40]);
    bench.send(&[0x8f, 0, 10]);
    bench.send(&[0x08]);
    assert_eq!(bench.results(), [0x20, 30]);
    bench.send(&[0x07, 0]);
    bench.send(&[0x08]);
    assert_eq!(bench.results(), [0x20, 0]);
}

#[test]
fn read_by_dma_takes_what_the_channel_wants() {
    let bench = Bench::new();
    bench.set_dma(0x2_0000, 4 * 512);
    bench.send(&[READ, 0, 2, 0, 17, 2, 18, 0x1b, 0xff]);
    assert_eq!(bench.read(4), 0x10);
    assert_eq!(bench.results(), [0x24, 0, 0, 2, 1, 3, 2]);
    let first = 2 * 36 + 16;
    assert_eq!(bench.disk.take_log(), [format!("read {first}+20")]);
    let bytes = bench.memory(0x2_0000, 5 * 512);
    let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
    assert_eq!(sectors, [first as u8, first as u8 + 1, first as u8 + 2, first as u8 + 3, 0]);
    assert_eq!(bench.channel.transfer().map(|transfer| transfer.len), Some(0));
}

#[test]
fn read_without_dma_goes_through_the_fifo() {
    let bench = Bench::new();
    bench.send(&[0x03, 0xaf, 0x01]);
    bench.send(&[0x46, 4, 0, 1, 3, 2, 4, 0x1b, 0xff]);
    bench.disk.work();
    assert!(bench.pin.level());
    for index in 0..1024 {
        assert_eq!(bench.read(4), 0xf0);
        assert_eq!(bench.read(5), 20 + (index / 512) as u8);
    }
    assert_eq!(bench.results(), [0x04, 0, 0, 0, 1, 4, 2], "at the last sector, not behind it");
    assert!(!bench.pin.level());
}

#[test]
fn read_of_both_sides_without_dma_goes_on_at_the_next_track() {
    let bench = Bench::new();
    bench.send(&[0x03, 0xaf, 0x01]);
    bench.send(&[READ, 0, 0, 0, 1, 2, 19, 0x1b, 0xff]);
    bench.disk.work();
    assert_eq!(bench.disk.take_log(), ["read 0+38"]);
    for index in 0..38 * 512 {
        assert_eq!(bench.read(4), 0xf0);
        assert_eq!(bench.read(5), (index / 512) as u8);
    }
    assert_eq!(bench.results(), [0x20, 0, 0, 1, 0, 2, 2]);
}

#[test]
fn writes_reach_the_disk_both_ways() {
    let bench = Bench::new();
    bench.space.write(GuestAddress(0x3_0000), &[0x77; 512]);
    bench.set_dma(0x3_0000, 512);
    bench.send(&[WRITE, 0, 1, 0, 5, 2, 18, 0x1b, 0xff]);
    assert_eq!(bench.results(), [0x20, 0, 0, 1, 0, 6, 2]);
    bench.send(&[0x03, 0xaf, 0x01]);
    bench.send(&[0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    for _ in 0..512 {
        assert_eq!(bench.read(4), 0xb0);
        bench.write(5, 0x88);
    }
    assert_eq!(bench.results(), [0x20, 0, 0, 1, 0, 1, 2]);
    assert_eq!(bench.disk.take_log(), ["write 40+1", "write 17+1"]);
    let data = bench.disk.data.lock().expect("data");
    assert_eq!((data[40 * 512], data[17 * 512 + 511], data[18 * 512]), (0x77, 0x88, 18));
}

#[test]
fn format_fills_the_sectors_that_are_named() {
    let bench = Bench::new();
    let ids: Vec<u8> = (1..=18).flat_map(|sector| [3, 1, sector, 2]).collect();
    bench.space.write(GuestAddress(0x4_0000), &ids);
    bench.set_dma(0x4_0000, ids.len());
    bench.send(&[0x4d, 4, 2, 18, 0x54, 0xf6]);
    assert_eq!(bench.results()[..3], [4, 0, 0]);
    assert_eq!(bench.disk.take_log(), [format!("write {}+18", 7 * 18)]);
    assert_eq!(bench.disk.data.lock().expect("data")[7 * 18 * 512], 0xf6);
}

#[test]
fn verify_and_read_id_move_nothing() {
    let bench = Bench::new();
    bench.send(&[0xd6, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(bench.results(), [0x20, 0, 0, 1, 0, 1, 2]);
    bench.send(&[0x07, 0]);
    bench.send(&[0x08]);
    bench.results();
    bench.send(&[0x4a, 4]);
    assert_eq!(bench.results(), [4, 0, 0, 0, 1, 1, 2]);
}

#[test]
fn what_can_not_be_done_has_its_reason() {
    let bench = Bench::new();
    let result = |command: &[u8]| {
        bench.send(command);
        bench.results()[..2].to_vec()
    };
    assert_eq!(result(&[READ, 0, 0, 0, 19, 2, 20, 0x1b, 0xff]), [0x40, 0x04], "no such sector");
    assert_eq!(result(&[READ, 0, 80, 0, 1, 2, 18, 0x1b, 0xff]), [0x40, 0x80], "no such track");
    assert_eq!(result(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]), [0x40, 0x10], "the channel is masked");
    assert_eq!(result(&[READ, 1, 0, 0, 1, 2, 18, 0x1b, 0xff]), [0x41, 0x01], "no such drive");
    bench.write(7, 2);
    assert_eq!(result(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]), [0x40, 0x01], "another data rate");
    bench.write(7, 0);
    bench.set_dma(0, 512);
    *bench.disk.failure.lock().expect("failure") = Some(DiskError::Io);
    assert_eq!(result(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]), [0x40, 0x20], "the disk fails");
    bench.disk.properties.lock().expect("properties").read_only = true;
    bench.fdc.lock().disk_changed(0);
    assert_eq!(result(&[WRITE, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]), [0x40, 0x02], "write protected");
}

#[test]
fn changed_media_are_seen_until_a_step() {
    let bench = Bench::new();
    assert_eq!(bench.read(7), 0x80);
    bench.send(&[0x0f, 0, 0]);
    assert_eq!(bench.read(7), 0x80, "no step");
    bench.send(&[0x0f, 0, 1]);
    assert_eq!(bench.read(7), 0);
    let events = Events { handle: bench.fdc.handle(), unit: 0 };
    {
        let mut properties = bench.disk.properties.lock().expect("properties");
        (properties.medium, properties.size) = (false, 0);
    }
    events.medium_changed(false);
    bench.send(&[0x0f, 0, 2]);
    assert_eq!(bench.read(7), 0x80, "no medium");
    {
        let mut properties = bench.disk.properties.lock().expect("properties");
        (properties.medium, properties.size) = (true, 720 * 1024);
    }
    events.medium_changed(true);
    assert_eq!(bench.read(7), 0x80);
    bench.send(&[0x0f, 0, 0]);
    assert_eq!(bench.read(7), 0);
    bench.write(7, 2);
    bench.set_dma(0, 512);
    bench.send(&[READ, 0, 0, 0, 10, 2, 10, 0x1b, 0xff]);
    assert_eq!(bench.results()[..2], [0x60, 0x04], "nine sectors");
}

#[test]
fn transfer_without_medium_moves_the_head() {
    let bench = Bench::new();
    bench.send(&[0x4a, 4]);
    assert_eq!(bench.results()[..5], [4, 0, 0, 0, 1]);
    let events = Events { handle: bench.fdc.handle(), unit: 0 };
    bench.disk.properties.lock().expect("properties").medium = false;
    events.medium_changed(false);
    bench.send(&[0xd6, 0, 3, 0, 2, 2, 18, 0x1b, 0xff]);
    assert_eq!(bench.results(), [0x40, 1, 0, 3, 0, 2, 2]);
    bench.send(&[0xd6, 0, 90, 1, 2, 2, 18, 0x1b, 0xff]);
    assert_eq!(bench.results(), [0x40, 1, 0, 3, 0, 2, 2], "no such track");
}

#[test]
fn drives_become_what_their_media_want() {
    let bench = Bench::new();
    assert_eq!(bench.fdc.lock().drive_type(0), Some(DriveType::D144));
    assert_eq!(bench.fdc.lock().drive_type(1), None);
    let empty = FakeDisk::new(0);
    empty.properties.lock().expect("properties").medium = false;
    bench.fdc.lock().connect(1, None, empty);
    assert_eq!(bench.fdc.lock().drive_type(1), Some(DriveType::D288));
}

#[test]
fn reset_is_complete_and_hostile_state_is_harmless() {
    let bench = Bench::new();
    let mut fdc = bench.fdc.lock();
    state::testing::assert_reset_is_complete(&mut *fdc, |fdc| &mut fdc.state, |fdc| fdc.reset(ResetKind::Warm));
    for seed in 0..200 {
        state::testing::assert_hostile_bytes_are_harmless(&mut fdc.state, seed, 3);
        fdc.restored();
        for register in [4, 5, 7, 5, 5] {
            fdc.read_register(register);
        }
        for value in [seed as u8, 0, 1, 2, 3] {
            fdc.write_register(5, value);
        }
    }
}
