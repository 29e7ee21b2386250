//! The adapter through its registers: commands, FISes, queued commands, packets, resets.

use std::sync::Mutex;

use memory::{AddressSpace, Backing, GuestAddress, RamBlock};

use super::*;
use crate::drive::DriveKind;
use crate::testing::Pin;
use device::testing::FakeDisk;

const LIST: u64 = 0x1000;
const RECEIVE: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const DATA: u64 = 0x2_0000;

#[derive(Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl MsiSink for Messages {
    fn deliver(&self, message: MsiMessage) {
        self.0.lock().expect("messages").push(message);
    }
}

struct Bench {
    ahci: DeviceCell<Ahci>,
    space: Arc<AddressSpace>,
    disk: Arc<FakeDisk>,
    pin: Arc<Pin>,
    messages: Arc<Messages>,
}

impl Bench {
    /// A drive at port 1, whose port runs.
    fn new(kind: DriveKind) -> Self {
        let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ram = Arc::new(RamBlock::new("ram", 0x10_0000).expect("RAM"));
        let backing = Backing::Ram { block: ram, offset: 0, read_only: false };
        space.map(GuestAddress(0), 0x10_0000, 0, backing).expect("mapped");
        let (pin, messages) = (Arc::new(Pin::default()), Arc::new(Messages::default()));
        let sink: Arc<dyn MsiSink> = messages.clone();
        let ahci = Ahci::new(pin.line(), sink, &DmaView::new(Arc::clone(&space)));
        let disk = FakeDisk::new(400);
        ahci.lock().connect(1, DriveOptions::new(kind), disk.clone());
        ahci.lock().write_config(reg::COMMAND, AccessSize::Word, 6);
        let bench = Self { ahci, space, disk, pin, messages };
        bench.set_up();
        bench
    }

    fn set_up(&self) {
        self.write(4, 2);
        self.write_port(0x00, LIST as u32);
        self.write_port(0x08, RECEIVE as u32);
        self.write_port(0x14, u32::MAX);
        self.write_port(0x18, 0x10);
        self.write_port(0x18, 0x11);
        self.acknowledge();
    }

    fn read(&self, offset: u64) -> u32 {
        self.ahci.lock().read(REGION_MEMORY, offset, AccessSize::Dword) as u32
    }

    fn write(&self, offset: u64, value: u32) {
        self.ahci.lock().write(REGION_MEMORY, offset, AccessSize::Dword, u64::from(value));
    }

    fn port(&self, offset: u64) -> u32 {
        self.read(0x180 + offset)
    }

    fn write_port(&self, offset: u64, value: u32) {
        self.write(0x180 + offset, value);
    }

    /// What was pending at the port; it is not any more.
    fn acknowledge(&self) -> u32 {
        let pending = self.port(0x10);
        self.write_port(0x10, pending);
        self.write(8, u32::MAX);
        pending
    }

    fn poke(&self, address: u64, bytes: &[u8]) {
        self.space.write(GuestAddress(address), bytes);
    }

    fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.space.read(GuestAddress(address), &mut bytes);
        bytes
    }

    /// Puts a command into a slot: registers, options of the header, descriptors.
    fn prepare(&self, slot: u64, fis: [u8; 16], options: u16, descriptors: &[(u64, u32)]) {
        let table = TABLES + slot * 0x400;
        let mut header = [0; 16];
        header[..2].copy_from_slice(&(options | 5).to_le_bytes());
        header[2..4].copy_from_slice(&(descriptors.len() as u16).to_le_bytes());
        header[8..].copy_from_slice(&table.to_le_bytes());
        self.poke(LIST + slot * 32, &header);
        self.poke(table, &fis);
        for (index, (address, len)) in descriptors.iter().enumerate() {
            let at = table + 0x80 + 16 * index as u64;
            self.poke(at, &address.to_le_bytes());
            self.poke(at + 12, &(len - 1).to_le_bytes());
        }
    }

    /// What a host does after an error: it stops the list and starts it again.
    fn recover(&self) {
        self.write_port(0x18, 0x10);
        self.write_port(0x18, 0x11);
    }

    fn issue(&self, slots: u32) {
        self.write_port(0x38, slots);
    }
}

/// A register FIS: command, sector, count.
fn fis(command: u8, sector: u8, count: u8) -> [u8; 16] {
    [0x27, 0x80, command, 0, sector, 0, 0, 0xe0, 0, 0, 0, 0, count, 0, 0, 0]
}

/// A register FIS of a queued command: its count is in the features, its tag in the count.
fn queued(command: u8, tag: u8, sector: u8, count: u8) -> [u8; 16] {
    [0x27, 0x80, command, count, sector, 0, 0, 0x40, 0, 0, 0, 0, tag << 3, 0, 0, 0]
}

#[test]
fn identity_and_capabilities_are_the_ich9s() {
    let bench = Bench::new(DriveKind::Disk);
    {
        let ahci = bench.ahci.lock();
        let config = ahci.config();
        assert_eq!(
            (config.u16(0), config.u16(2), config.u16(reg::CLASS), config.u8(reg::PROG_IF)),
            (0x8086, 0x2922, 0x0106, 1)
        );
        assert_eq!(
            (config.u8(reg::CAPABILITIES), config.u8(0x80), config.u8(0x81), config.u8(0xa8)),
            (0x80, 5, 0xa8, 0x12)
        );
    }
    assert_eq!((bench.read(0), bench.read(0x0c), bench.read(0x10)), (0xc014_1f05, 0x3f, 0x1_0000));
    assert_eq!(bench.read(4), 0x8000_0002);
    assert_eq!((bench.read(0x128), bench.read(0x120)), (0, 0x7f), "nothing at port 0");
}

#[test]
fn listening_port_hears_the_drives_signature() {
    let bench = Bench::new(DriveKind::Disk);
    assert_eq!((bench.port(0x24), bench.port(0x20), bench.port(0x28)), (0x101, 0x150, 0x113));
    assert_eq!(bench.peek::<6>(RECEIVE + 0x40), [0x34, 0x40, 0x50, 1, 1, 0]);
    let bench = Bench::new(DriveKind::Cd);
    assert_eq!((bench.port(0x24), bench.port(0x20)), (0xeb14_0101, 0x100));
}

#[test]
fn dma_read_ends_with_a_register_fis_and_a_byte_count() {
    let bench = Bench::new(DriveKind::Disk);
    bench.prepare(3, fis(0xc8, 9, 2), 0, &[(DATA, 700), (DATA + 0x1000, 324)]);
    bench.issue(8);
    assert_eq!((bench.port(0x38), bench.port(0x18) >> 8 & 0x1f, bench.pin.level()), (8, 3, false));
    bench.disk.work();
    assert_eq!((bench.port(0x38), bench.pin.level()), (0, true));
    assert_eq!(bench.acknowledge(), 1);
    assert!(!bench.pin.level());
    assert_eq!((bench.peek::<1>(DATA), bench.peek::<1>(DATA + 0x1000)), ([9], [10]));
    assert_eq!(u32::from_le_bytes(bench.peek(LIST + 3 * 32 + 4)), 1024);
}

#[test]
fn pio_moves_block_by_block_through_the_descriptors() {
    let bench = Bench::new(DriveKind::Disk);
    bench.prepare(0, fis(0xec, 0, 0), 0, &[(DATA, 512)]);
    bench.issue(1);
    assert_eq!(bench.acknowledge() & 3, 3, "PIO setup and the end");
    assert_eq!((bench.peek::<2>(DATA), bench.peek::<2>(RECEIVE + 0x20)), ([0x40, 0], [0x5f, 0x60]));
    assert_eq!(bench.peek::<2>(DATA + 152), [0, 1], "queuing is announced");
    bench.prepare(0, fis(0x20, 5, 3), 0, &[(DATA, 1000), (DATA + 0x1000, 536)]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!(
        (bench.peek::<1>(DATA), bench.peek::<1>(DATA + 512), bench.peek::<1>(DATA + 0x1000 + 24)),
        ([5], [6], [7])
    );
    bench.poke(DATA, &[0x99; 1024]);
    bench.prepare(0, fis(0x30, 50, 2), 0x40, &[(DATA, 1024)]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!(bench.port(0x38), 0);
    assert_eq!(bench.disk.data.lock().expect("data")[51 * 512 + 511], 0x99);
}

#[test]
fn queued_commands_are_at_the_disk_together() {
    let bench = Bench::new(DriveKind::Disk);
    for tag in 0..32u8 {
        let address = DATA + u64::from(tag) * 512;
        bench.prepare(u64::from(tag), queued(0x60, tag, 100 + tag, 1), 0, &[(address, 512)]);
    }
    bench.write_port(0x34, u32::MAX);
    bench.issue(u32::MAX);
    assert_eq!((bench.disk.waiting(), bench.port(0x38), bench.port(0x34)), (32, 0, u32::MAX));
    bench.disk.work();
    assert_eq!((bench.port(0x34), bench.acknowledge()), (0, 8));
    assert_eq!(bench.peek::<1>(DATA + 31 * 512), [131]);
    assert_eq!(bench.peek::<8>(RECEIVE + 0x58), [0xa1, 0x40, 0x40, 0, 0, 0, 0, 0x80]);
    bench.poke(DATA, &[0x31; 512]);
    let mut write = queued(0x61, 2, 7, 1);
    write[7] |= 0x80;
    bench.prepare(2, write, 0x40, &[(DATA, 512)]);
    bench.write_port(0x34, 4);
    bench.issue(4);
    bench.disk.work();
    assert_eq!(bench.disk.take_log().last().map(String::as_str), Some("write 7+1 fua"));
    assert_eq!((bench.port(0x34), bench.disk.data.lock().expect("data")[7 * 512]), (0, 0x31));
}

#[test]
fn queued_reads_of_what_is_in_memory_end_at_once() {
    let bench = Bench::new(DriveKind::Disk);
    bench.disk.at_once.store(true, std::sync::atomic::Ordering::Relaxed);
    for tag in 0..2u8 {
        let address = DATA + u64::from(tag) * 512;
        bench.prepare(u64::from(tag), queued(0x60, tag, 100 + tag, 1), 0, &[(address, 512)]);
    }
    bench.write_port(0x34, 3);
    bench.issue(3);
    assert_eq!((bench.disk.waiting(), bench.port(0x38), bench.port(0x34), bench.acknowledge()), (0, 0, 0, 8));
    assert_eq!((bench.peek::<1>(DATA), bench.peek::<1>(DATA + 512)), ([100], [101]));
    // A write waits for its disk.
    bench.prepare(2, queued(0x61, 2, 7, 1), 0x40, &[(DATA, 512)]);
    bench.write_port(0x34, 4);
    bench.issue(4);
    assert_eq!((bench.disk.waiting(), bench.port(0x34)), (1, 4));
}

#[test]
fn failed_commands_raise_the_task_file_error() {
    let bench = Bench::new(DriveKind::Disk);
    *bench.disk.failure.lock().expect("failure") = Some(DiskError::Io);
    bench.prepare(0, fis(0xc8, 9, 1), 0, &[(DATA, 512)]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!((bench.acknowledge(), bench.port(0x20), bench.port(0x38)), (0x4000_0001, 0x441, 1), "it keeps its slot");
    bench.recover();
    bench.prepare(1, queued(0x60, 1, 9, 1), 0, &[(DATA, 512)]);
    bench.write_port(0x34, 2);
    bench.issue(2);
    bench.disk.work();
    assert_eq!((bench.acknowledge(), bench.port(0x34)), (0x4000_0008, 2), "it stays active");
    bench.write_port(0x18, 0x10);
    assert_eq!(bench.port(0x34), 0, "until the list is stopped");
}

#[test]
fn failed_command_holds_the_others_until_the_list_is_started_again() {
    let bench = Bench::new(DriveKind::Disk);
    *bench.disk.failure.lock().expect("failure") = Some(DiskError::Io);
    for slot in [0, 1] {
        bench.prepare(slot, fis(0xc8, 9, 1), 0, &[(DATA, 512)]);
    }
    bench.issue(3);
    bench.disk.work();
    *bench.disk.failure.lock().expect("failure") = None;
    bench.disk.work();
    bench.issue(4);
    assert_eq!((bench.disk.waiting(), bench.port(0x38)), (0, 7));
    bench.recover();
    bench.acknowledge();
    bench.issue(2);
    bench.disk.work();
    assert_eq!((bench.acknowledge(), bench.port(0x38), bench.port(0x20)), (1, 0, 0x50));
}

#[test]
fn request_of_before_a_reset_leaves_the_new_state_alone() {
    let adapter: fn(&Bench) = |bench| {
        bench.write(4, 1);
        bench.set_up();
    };
    let link: fn(&Bench) = |bench| {
        bench.write_port(0x2c, 1);
        bench.write_port(0x2c, 0);
        bench.write_port(0x30, u32::MAX);
    };
    let software: fn(&Bench) = |bench| {
        bench.recover();
        for (slot, control) in [(4, 4), (5, 0)] {
            let mut reset = [0; 16];
            (reset[0], reset[15]) = (0x27, control);
            bench.prepare(slot, reset, 0, &[]);
            bench.issue(1 << slot);
        }
    };
    for (name, reset) in [("adapter", adapter), ("link", link), ("software", software)] {
        for is_queued in [false, true] {
            let bench = Bench::new(DriveKind::Disk);
            let old = if is_queued { queued(0x60, 0, 9, 1) } else { fis(0xc8, 9, 1) };
            bench.prepare(0, old, 0, &[(DATA, 512)]);
            bench.write_port(0x34, u32::from(is_queued));
            bench.issue(1);
            assert_eq!(bench.disk.waiting(), 1, "{name}");
            reset(&bench);
            if name != "software" || is_queued {
                bench.acknowledge();
                let before = [0x10, 0x20, 0x30, 0x34, 0x38].map(|offset| bench.port(offset));
                bench.disk.work();
                let after = [0x10, 0x20, 0x30, 0x34, 0x38].map(|offset| bench.port(offset));
                assert_eq!(before, after, "{name}");
            } else {
                bench.disk.work();
            }
            bench.acknowledge();
            bench.prepare(1, fis(0xc8, 20, 1), 0, &[(DATA + 512, 512)]);
            bench.issue(2);
            bench.disk.work();
            assert_eq!((bench.acknowledge(), bench.port(0x20), bench.port(0x38)), (1, 0x50, 0), "{name}");
            assert_eq!(bench.peek::<1>(DATA + 512), [20], "{name}");
        }
    }
}

#[test]
fn memory_that_is_none_and_short_tables_are_told() {
    let bench = Bench::new(DriveKind::Disk);
    bench.prepare(0, fis(0xc8, 9, 1), 0, &[(0x20_0000, 512)]);
    bench.issue(1);
    assert_eq!((bench.acknowledge(), bench.port(0x38)), (0x6000_0001, 1));
    bench.recover();
    bench.prepare(0, fis(0xc8, 9, 2), 0, &[(DATA, 512)]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!((bench.acknowledge(), bench.port(0x38)), (0x0100_0001, 0));
    bench.write_port(0x00, 0x80_0000);
    bench.issue(1);
    assert_eq!((bench.acknowledge(), bench.port(0x38)), (0x2000_0000, 0), "no list at all");
}

#[test]
fn packets_come_from_the_command_table() {
    let bench = Bench::new(DriveKind::Cd);
    let mut command = fis(0xa0, 0, 0);
    command[3] = 1;
    bench.prepare(0, command, 0x20, &[(DATA, 4096)]);
    bench.poke(TABLES + 0x40, &[0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0, 0, 0]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!((bench.port(0x38), bench.port(0x20)), (0, 0x50));
    assert_eq!((bench.peek::<1>(DATA), bench.peek::<1>(DATA + 4095)), ([20], [27]));
    let mut command = fis(0xa0, 0, 0);
    (command[5], command[6]) = (0xfe, 0xff);
    bench.prepare(0, command, 0x20, &[(DATA, 36)]);
    bench.poke(TABLES + 0x40, &[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0]);
    bench.issue(1);
    assert_eq!((bench.port(0x38), &bench.peek::<12>(DATA)[8..]), (0, &b"QEMU"[..]));
}

#[test]
fn software_reset_brings_the_signature_again() {
    let bench = Bench::new(DriveKind::Cd);
    for (slot, control) in [(0, 4), (1, 0)] {
        let mut reset = [0; 16];
        (reset[0], reset[15]) = (0x27, control);
        bench.prepare(slot, reset, 0, &[]);
        bench.issue(1 << slot);
        assert_eq!(bench.port(0x38), 0);
        assert_eq!(bench.port(0x20) & 0x80 != 0, control == 4);
    }
    assert_eq!((bench.acknowledge() & 1, bench.port(0x24), bench.port(0x20)), (1, 0xeb14_0101, 0x100));
}

#[test]
fn link_reset_tells_of_the_connection() {
    let bench = Bench::new(DriveKind::Disk);
    bench.write_port(0x2c, 1);
    bench.write_port(0x2c, 0);
    assert_eq!((bench.port(0x30), bench.port(0x28), bench.port(0x20)), (1 << 26, 0x113, 0x150));
    assert_ne!(bench.port(0x10) & 0x40, 0);
    bench.write_port(0x30, u32::MAX);
    assert_eq!((bench.port(0x30), bench.port(0x10) & 0x40), (0, 0));
}

#[test]
fn stopped_list_gives_its_command_up() {
    let bench = Bench::new(DriveKind::Disk);
    bench.prepare(0, fis(0xc8, 9, 1), 0, &[(DATA, 512)]);
    bench.issue(1);
    bench.write_port(0x18, 0x10);
    assert_eq!(bench.port(0x38), 0);
    bench.disk.work();
    assert_eq!(bench.acknowledge(), 0);
    bench.write_port(0x18, 0x11);
    bench.prepare(0, fis(0xc8, 9, 1), 0, &[(DATA, 512)]);
    bench.issue(1);
    bench.disk.work();
    assert_eq!((bench.acknowledge(), bench.port(0x20)), (1, 0x50));
}

#[test]
fn messages_take_the_place_of_the_pin() {
    let bench = Bench::new(DriveKind::Disk);
    {
        let mut ahci = bench.ahci.lock();
        for (offset, value) in [(0x84, 0xfee0_0000), (0x8c, 0x41), (0x80, 1 << 16)] {
            ahci.write_config(offset, AccessSize::Dword, value);
        }
    }
    bench.prepare(0, fis(0xec, 0, 0), 0, &[(DATA, 512)]);
    bench.issue(1);
    assert!(!bench.pin.level());
    let messages = bench.messages.0.lock().expect("messages").clone();
    assert_eq!(messages, [MsiMessage { address: 0xfee0_0000, data: 0x41 }]);
}

#[test]
fn index_and_data_ports_reach_the_registers() {
    let bench = Bench::new(DriveKind::Disk);
    let mut ahci = bench.ahci.lock();
    ahci.write(REGION_INDEX, 0x10, AccessSize::Dword, 0x1a4);
    assert_eq!(ahci.read(REGION_INDEX, 0x14, AccessSize::Dword), 0x101);
}

#[test]
fn state_moves_with_commands_at_the_disk() {
    let source = Bench::new(DriveKind::Disk);
    for tag in 0..2u8 {
        source.prepare(u64::from(tag), queued(0x60, tag, 100 + tag, 1), 0, &[(DATA + 512 * u64::from(tag), 512)]);
    }
    source.write_port(0x34, 3);
    source.issue(3);
    let mut ahci = source.ahci.lock();
    let DeviceState::State(state) = ahci.state() else { panic!("it has state") };
    let bytes = state::testing::saved(state);
    let target = Bench::new(DriveKind::Disk);
    for tag in 0..2u8 {
        target.prepare(u64::from(tag), queued(0x60, tag, 100 + tag, 1), 0, &[(DATA + 512 * u64::from(tag), 512)]);
    }
    {
        let mut ahci = target.ahci.lock();
        let DeviceState::State(state) = ahci.state() else { panic!("it has state") };
        state::testing::load_all(state, &bytes).expect("accepted");
        ahci.restored();
    }
    target.disk.work();
    assert_eq!((target.port(0x34), target.peek::<1>(DATA), target.peek::<1>(DATA + 512)), (0, [100], [101]));
}

#[test]
fn reset_is_complete_and_hostile_state_is_harmless() {
    let bench = Bench::new(DriveKind::Disk);
    let mut ahci = bench.ahci.lock();
    state::testing::assert_reset_is_complete(
        &mut *ahci,
        |ahci| &mut ahci.state,
        |ahci| {
            ahci.state.ports.iter_mut().for_each(|port| port.drive.atapi.tray_open = false);
            ahci.reset(ResetKind::Warm);
        },
    );
    for seed in 0..50 {
        state::testing::assert_hostile_bytes_are_harmless(&mut ahci.state, seed, 3);
        ahci.restored();
        ahci.write(REGION_MEMORY, 0x1b8, AccessSize::Dword, u64::from(u32::MAX));
    }
}
