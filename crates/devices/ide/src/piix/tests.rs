//! The function through its ports: registers, interrupts, the bus master.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use devices_pci::bus::PciFunction;
use memory::{AddressSpace, Backing, DmaView, GuestAddress, RamBlock, SpaceKind};

use super::*;
use crate::drive::DriveKind;
use crate::testing::Pin;
use device::testing::FakeDisk;

const BYTE: AccessSize = AccessSize::Byte;
const WORD: AccessSize = AccessSize::Word;
const DWORD: AccessSize = AccessSize::Dword;
const TABLE: u64 = 0x8000;

struct Bench {
    function: DeviceCell<PiixIde>,
    space: Arc<AddressSpace>,
    disk: Arc<FakeDisk>,
    pin: Arc<Pin>,
}

impl Bench {
    fn new(sectors: usize) -> Self {
        let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ram = Arc::new(RamBlock::new("ram", 0x10_0000).expect("RAM"));
        let backing = Backing::Ram { block: ram, offset: 0, read_only: false };
        space.map(GuestAddress(0), 0x10_0000, 0, backing).expect("mapped");
        let pin = Arc::new(Pin::default());
        let second = Arc::new(Pin::default());
        let function = PiixIde::new([pin.line(), second.line()], &DmaView::new(Arc::clone(&space)));
        let disk = FakeDisk::new(sectors);
        function.lock().connect(0, 0, DriveOptions::new(DriveKind::Disk), disk.clone());
        function.lock().write_config(reg::COMMAND, WORD, 5);
        Self { function, space, disk, pin }
    }

    fn read(&self, region: usize, offset: u64, size: AccessSize) -> u64 {
        self.function.lock().read(region, offset, size)
    }

    fn write(&self, region: usize, offset: u64, size: AccessSize, value: u64) {
        self.function.lock().write(region, offset, size, value);
    }

    fn command(&self, lba: u8, count: u8, code: u8) {
        for (offset, value) in [(6, 0xe0), (2, count), (3, lba), (4, 0), (5, 0), (7, code)] {
            self.write(0, offset, BYTE, u64::from(value));
        }
    }

    /// The status, by the register that changes nothing.
    fn status(&self) -> u64 {
        self.read(2, 0, BYTE)
    }

    fn table(&self, descriptors: &[(u32, u32)]) {
        for (index, (address, size)) in descriptors.iter().enumerate() {
            let at = TABLE + 8 * index as u64;
            self.space.write(GuestAddress(at), &address.to_le_bytes());
            self.space.write(GuestAddress(at + 4), &size.to_le_bytes());
        }
        self.write(4, 4, DWORD, TABLE);
    }

    fn bm_status(&self) -> u64 {
        self.read(4, 2, BYTE)
    }

    /// A command by DMA; returns the bus master's status when the disk has done its part.
    fn dma(&self, lba: u8, count: u8, code: u8) -> u64 {
        self.write(4, 0, BYTE, 0);
        self.write(4, 2, BYTE, 6);
        self.command(lba, count, code);
        self.write(4, 0, BYTE, 9);
        self.disk.work();
        self.bm_status()
    }

    fn memory(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.space.read(GuestAddress(address), &mut byte);
        byte[0]
    }
}

const END: u32 = 1 << 31;

#[test]
fn identity_is_the_piix3s() {
    let bench = Bench::new(10);
    let function = bench.function.lock();
    let config = function.config();
    assert_eq!((config.u16(0), config.u16(2), config.u16(reg::CLASS)), (0x8086, 0x7010, 0x0101));
    assert_eq!((config.u8(reg::PROG_IF), config.u16(reg::STATUS), config.u32(0x20)), (0x80, 0x0280, 1));
}

#[test]
fn pio_read_interrupts_for_each_sector_and_status_ends_it() {
    let bench = Bench::new(100);
    bench.command(5, 2, 0x20);
    assert_eq!(bench.status(), 0xd0);
    bench.disk.work();
    for sector in [5, 6] {
        assert!(bench.pin.level());
        assert_eq!(bench.read(0, 7, BYTE), 0x58);
        assert!(!bench.pin.level());
        for index in 0..64 {
            assert_eq!(bench.read(0, 0, WORD), sector * 0x101);
            assert_eq!(bench.read(0, 0, DWORD), sector * 0x0101_0101, "{index}");
            assert_eq!(bench.read(0, 0, WORD), sector * 0x101);
        }
    }
    assert_eq!((bench.read(0, 7, BYTE), bench.read(0, 0, WORD)), (0x50, 0));
    assert!(!bench.pin.level());
}

#[test]
fn pio_write_reaches_the_disk() {
    let bench = Bench::new(100);
    bench.command(9, 1, 0x30);
    assert_eq!((bench.status(), bench.pin.level()), (0x58, false));
    for _ in 0..128 {
        bench.write(0, 0, DWORD, 0x4433_2211);
    }
    assert_eq!(bench.status(), 0xd0);
    bench.disk.work();
    assert!(bench.pin.level());
    assert_eq!(bench.disk.data.lock().expect("data")[9 * 512..9 * 512 + 4], [0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn interrupt_mask_holds_the_interrupt_back() {
    let bench = Bench::new(100);
    bench.write(2, 0, BYTE, 2);
    bench.command(0, 1, 0xec);
    assert!(!bench.pin.level());
    assert_eq!(bench.bm_status() & 4, 0);
    bench.write(2, 0, BYTE, 0);
    assert!(bench.pin.level());
    assert_eq!(bench.bm_status() & 4, 4);
}

#[test]
fn high_order_bytes_are_read_on_demand() {
    let bench = Bench::new(100);
    for value in [0x12, 0x34] {
        bench.write(0, 3, BYTE, value);
    }
    assert_eq!(bench.read(0, 3, BYTE), 0x34);
    bench.write(2, 0, BYTE, 0x80);
    assert_eq!(bench.read(0, 3, BYTE), 0x12);
    bench.write(0, 2, BYTE, 1);
    assert_eq!(bench.read(0, 3, BYTE), 0x34, "a write of the command block ends it");
}

#[test]
fn absent_drives_and_channels_read_as_zero() {
    let bench = Bench::new(100);
    bench.write(0, 6, BYTE, 0xb0);
    assert_eq!((bench.read(0, 7, BYTE), bench.read(0, 6, BYTE)), (0, 0xb0));
    bench.write(0, 7, BYTE, 0xec);
    assert!(!bench.pin.level());
    bench.write(0, 6, BYTE, 0xa0);
    assert_eq!(bench.read(0, 7, BYTE), 0x50);
    assert_eq!((bench.read(1, 7, BYTE), bench.read(3, 0, BYTE), bench.read(1, 0, WORD)), (0, 0, 0));
}

#[test]
fn diagnostic_runs_on_both_drives_and_selects_the_first() {
    let bench = Bench::new(100);
    let second = FakeDisk::new(10);
    bench.function.lock().connect(0, 1, DriveOptions::new(DriveKind::Cd), second);
    bench.write(0, 6, BYTE, 0xb0);
    bench.write(0, 7, BYTE, 0x90);
    assert!(bench.pin.level());
    let read = |offset| bench.read(0, offset, BYTE);
    assert_eq!([1, 2, 3, 4, 5, 6, 7].map(read), [1, 1, 1, 0, 0, 0xa0, 0x50]);
    bench.write(0, 6, BYTE, 0xb0);
    assert_eq!([1, 2, 3, 4, 5, 7].map(read), [1, 1, 1, 0x14, 0xeb, 0]);
}

#[test]
fn software_reset_is_busy_while_it_is_held() {
    let bench = Bench::new(100);
    bench.command(0, 1, 0x20);
    bench.write(2, 0, BYTE, 4);
    assert_eq!(bench.status() & 0x80, 0x80);
    bench.write(2, 0, BYTE, 0);
    assert_eq!(bench.status() & 0x80, 0x80, "the disk still works");
    bench.disk.work();
    assert_eq!((bench.status(), bench.read(0, 1, BYTE), bench.pin.level()), (0x50, 1, false));
}

#[test]
fn bus_master_status_tells_how_table_and_transfer_compare() {
    let bench = Bench::new(300);
    bench.table(&[(0x2_0000, 1024 | END)]);
    assert_eq!(bench.dma(3, 2, 0xc8), 4, "equal");
    assert_eq!((bench.memory(0x2_0000), bench.memory(0x2_03ff), bench.memory(0x2_0400)), (3, 4, 0));
    bench.table(&[(0x2_0000, 2048 | END)]);
    assert_eq!(bench.dma(3, 2, 0xc8), 5, "the table is longer");
    bench.table(&[(0x2_0000, 512), (0x2_1000, 2 | END)]);
    bench.write(0, 7, BYTE, 0);
    assert_eq!(bench.dma(7, 2, 0xc8), 0, "the table is shorter");
    assert_eq!((bench.status(), bench.memory(0x2_0000), bench.memory(0x2_1000)), (0x50, 7, 0));
    bench.table(&[(0x3_0000, END)]);
    assert_eq!(bench.dma(0, 128, 0xc8), 4, "zero stands for 64 KiB");
    assert_eq!(bench.memory(0x3_fe00), 127);
}

#[test]
fn dma_gathers_pieces_in_both_directions() {
    let bench = Bench::new(100);
    bench.space.write(GuestAddress(0x4_0000), &[0xaa; 300]);
    bench.space.write(GuestAddress(0x5_0000), &[0xbb; 212]);
    bench.table(&[(0x4_0000, 300), (0x5_0000, 212 | END)]);
    assert_eq!(bench.dma(50, 1, 0xca), 4);
    let data = bench.disk.data.lock().expect("data");
    let sector = &data[50 * 512..51 * 512];
    assert_eq!((sector[299], sector[300], sector[511]), (0xaa, 0xbb, 0xbb));
}

#[test]
fn start_before_or_after_the_command_is_the_same() {
    let bench = Bench::new(100);
    bench.table(&[(0x2_0000, 512 | END)]);
    bench.write(4, 0, BYTE, 9);
    bench.command(8, 1, 0xc8);
    bench.disk.work();
    assert_eq!((bench.bm_status(), bench.memory(0x2_0000)), (4, 8));
}

#[test]
fn stop_while_the_disk_works_ends_with_the_request() {
    let bench = Bench::new(100);
    bench.table(&[(0x2_0000, 4096 | END)]);
    bench.command(8, 1, 0xc8);
    bench.write(4, 0, BYTE, 9);
    bench.write(4, 0, BYTE, 0);
    assert_eq!(bench.bm_status(), 1);
    bench.disk.work();
    assert_eq!(bench.bm_status(), 4, "not active, though the table is longer");
}

#[test]
fn memory_that_is_none_aborts_the_command() {
    let bench = Bench::new(100);
    bench.table(&[(0x20_0000, 512 | END)]);
    assert_eq!(bench.dma(8, 1, 0xc8), 6, "error and interrupt");
    assert_eq!((bench.status(), bench.read(0, 1, BYTE)), (0x41, 4));
    assert!(bench.disk.take_log().is_empty());
}

#[test]
fn transfers_without_bus_mastering_go_nowhere() {
    let bench = Bench::new(300);
    bench.function.lock().write_config(reg::COMMAND, WORD, 1);
    bench.table(&[(0x2_0000, 512 | END)]);
    assert_eq!(bench.dma(1, 0, 0xc8), 5);
    assert_eq!(bench.memory(0x2_0000), 0);
}

#[test]
fn bus_master_registers_are_read_by_their_size() {
    let bench = Bench::new(10);
    bench.write(4, 4, DWORD, 0x1234_5677);
    assert_eq!((bench.read(4, 4, DWORD), bench.read(4, 6, WORD)), (0x1234_5674, 0x1234));
    bench.write(4, 12, BYTE, 0xfc);
    assert_eq!(bench.read(4, 12, DWORD), 0xfc);
    assert_eq!((bench.read(4, 0, DWORD), bench.read(4, 1, BYTE), bench.read(4, 0, BYTE)), (0xffff_ffff, 0xff, 0));
    bench.write(4, 2, BYTE, 0x60);
    assert_eq!(bench.bm_status(), 0x60);
}

#[test]
fn state_moves_to_another_function_in_the_middle_of_a_transfer() {
    let source = Bench::new(100);
    source.table(&[(0x2_0000, 512 | END)]);
    source.command(8, 1, 0xc8);
    source.write(4, 0, BYTE, 9);
    let mut function = source.function.lock();
    let DeviceState::State(state) = function.state() else { panic!("it has state") };
    let bytes = state::testing::saved(state);
    let target = Bench::new(100);
    target.space.write(GuestAddress(TABLE), &[0, 0, 2, 0, 0, 2, 0, 0x80]);
    {
        let mut function = target.function.lock();
        let DeviceState::State(state) = function.state() else { panic!("it has state") };
        state::testing::load_all(state, &bytes).expect("accepted");
        function.restored();
    }
    assert_eq!(target.disk.waiting(), 1);
    target.disk.work();
    assert!(target.pin.level());
    assert_eq!((target.bm_status(), target.memory(0x2_0000)), (4, 8));
}

#[test]
fn reset_is_complete_and_hostile_state_is_harmless() {
    let bench = Bench::new(100);
    let mut function = bench.function.lock();
    state::testing::assert_reset_is_complete(
        &mut *function,
        |function| &mut function.state,
        |function| {
            for channel in &mut function.state.channels {
                channel.drives.iter_mut().for_each(|drive| drive.atapi.tray_open = false);
            }
            function.reset(ResetKind::Warm);
        },
    );
    state::testing::assert_hostile_bytes_are_harmless(&mut function.state, 3, 100);
    function.restored();
}
