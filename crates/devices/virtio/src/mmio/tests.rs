use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqInput, ResetKind};

use super::*;
use crate::blk::{Blk, BlkOptions};
use crate::features;
use crate::pci::PciOptions;
use crate::testing::function::{DATA, HEADER, RINGS, STATUS, Signals, TestDisk};
use crate::testing::{DriverQueue, Guest};

struct Bench {
    cell: DeviceCell<VirtioMmio<Blk>>,
    guest: Guest,
    disk: Arc<TestDisk>,
    signals: Arc<Signals>,
}

impl Bench {
    fn new(interface: Interface) -> Self {
        let (guest, disk, signals) = (Guest::new(), Arc::<TestDisk>::default(), Arc::<Signals>::default());
        let line = IrqInput::new(Arc::clone(&signals) as Arc<dyn device::IrqSink>, 0).line();
        let wiring = Wiring { dma: guest.dma(), line };
        let shared = Arc::clone(&disk);
        let features = PciOptions::default().features;
        let cell =
            VirtioMmio::new(interface, features, wiring, |access| Blk::new(BlkOptions::default(), shared, access));
        Self { cell, guest, disk, signals }
    }

    fn read(&self, offset: u64) -> u64 {
        self.cell.lock().read(0, offset, AccessSize::Dword)
    }

    fn write(&self, offset: u64, value: u64) {
        self.cell.lock().write(0, offset, AccessSize::Dword, value);
    }

    fn level(&self) -> bool {
        *self.signals.level.lock().expect("level")
    }

    /// Begins as a driver does, with queue 0.
    fn start(&self, accepted: u64) -> DriverQueue {
        let size = 8;
        self.write(at::STATUS, 1);
        self.write(at::STATUS, 3);
        self.write(at::DRIVER_FEATURES_SELECT, 0);
        self.write(at::DRIVER_FEATURES, accepted & 0xffff_ffff);
        self.write(at::QUEUE_SELECT, 0);
        let mut queue = DriverQueue::new(size, accepted, RINGS);
        if self.read(at::VERSION) == 1 {
            self.write(at::GUEST_PAGE_SIZE, 4096);
            self.write(at::QUEUE_SIZE, u64::from(size));
            self.write(at::QUEUE_ALIGN, 64);
            self.write(at::QUEUE_PFN, RINGS / 4096);
            queue.device = (queue.driver + 4 + 2 * u64::from(size)).next_multiple_of(64);
        } else {
            self.write(at::DRIVER_FEATURES_SELECT, 1);
            self.write(at::DRIVER_FEATURES, accepted >> 32);
            self.write(at::STATUS, 11);
            self.write(at::QUEUE_SIZE, u64::from(size));
            for (low, area) in [
                (at::QUEUE_DESC_LOW, queue.descriptors),
                (at::QUEUE_DRIVER_LOW, queue.driver),
                (at::QUEUE_DEVICE_LOW, queue.device),
            ] {
                self.write(low, area & 0xffff_ffff);
                self.write(low + 4, area >> 32);
            }
            self.write(at::QUEUE_READY, 1);
        }
        self.write(at::STATUS, self.read(at::STATUS) | 4);
        queue
    }

    /// Reads sector 0.
    fn offer(&self, queue: &mut DriverQueue) {
        self.guest.write(HEADER, &[0; 16]);
        self.guest.write(STATUS, &[0xee]);
        let parts = [(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)];
        queue.offer(&self.guest, &parts, false).expect("room");
        self.write(at::QUEUE_NOTIFY, 0);
    }
}

#[test]
fn requests_are_answered_through_both_interfaces() {
    for (interface, accepted) in [(Interface::Legacy, 0), (Interface::Modern, features::VERSION_1)] {
        let bench = Bench::new(interface);
        let mut queue = bench.start(accepted);
        bench.offer(&mut queue);
        assert!(!bench.level(), "{interface:?}");
        bench.disk.complete(Ok(()));
        assert!(bench.level() && bench.read(at::INTERRUPT_STATUS) == 1, "{interface:?}");
        assert_eq!(queue.collect(&bench.guest).len(), 1, "{interface:?}");
        assert_eq!(bench.guest.read(STATUS, 1), [0]);
        bench.write(at::INTERRUPT_ACK, 1);
        assert!(!bench.level(), "{interface:?}");
    }
}

#[test]
fn registers_are_those_of_the_interface() {
    let legacy = Bench::new(Interface::Legacy);
    let modern = Bench::new(Interface::Modern);
    for (bench, version) in [(&legacy, 1), (&modern, 2)] {
        assert_eq!([0, 4, 8, 12].map(|offset| bench.read(offset)), [MAGIC, version, 2, VENDOR]);
        // Registers have 32 bits.
        assert_eq!(bench.cell.lock().read(0, 0, AccessSize::Word), 0);
        // Capacity: 1 MiB.
        assert_eq!(bench.read(CONFIG), 2048);
        assert_eq!(bench.cell.lock().read(0, CONFIG + 1, AccessSize::Byte), 8);
        bench.write(at::QUEUE_SELECT, 7);
        assert_eq!(bench.read(at::QUEUE_SIZE_MAX), 0);
    }
    legacy.write(at::DEVICE_FEATURES_SELECT, 1);
    modern.write(at::DEVICE_FEATURES_SELECT, 1);
    assert_eq!((legacy.read(at::DEVICE_FEATURES), modern.read(at::DEVICE_FEATURES)), (0, 1));
    modern.write(at::DEVICE_FEATURES_SELECT, 0);
    assert_eq!(modern.read(at::DEVICE_FEATURES) & features::LEGACY_ONLY, 0);
}

#[test]
fn features_that_were_not_offered_are_not_acknowledged() {
    let bench = Bench::new(Interface::Modern);
    bench.write(at::STATUS, 3);
    bench.write(at::DRIVER_FEATURES_SELECT, 1);
    bench.write(at::DRIVER_FEATURES, 1 | 1 << 2);
    bench.write(at::STATUS, 11);
    assert_eq!(bench.read(at::STATUS), 3);
    bench.write(at::DRIVER_FEATURES, 1);
    bench.write(at::STATUS, 11);
    assert_eq!(bench.read(at::STATUS), 11);
}

#[test]
fn reset_waits_for_requests_in_flight() {
    let bench = Bench::new(Interface::Modern);
    let mut queue = bench.start(features::VERSION_1);
    bench.offer(&mut queue);
    bench.write(at::STATUS, 0);
    assert_ne!(bench.read(at::STATUS), 0);
    bench.disk.complete(Ok(()));
    assert_eq!((bench.read(at::STATUS), bench.level()), (0, false));
    // The guest's memory was not touched.
    assert_eq!(bench.guest.read(STATUS, 1), [0xee]);
}

#[test]
fn saved_and_restored_transport_does_the_request_again() {
    let bench = Bench::new(Interface::Legacy);
    let mut queue = bench.start(0);
    bench.offer(&mut queue);
    let save = |cell: &DeviceCell<VirtioMmio<Blk>>| {
        let mut device = cell.lock();
        let DeviceState::State(state) = device.state() else { panic!("it has state") };
        let mut writer = state::Writer::new();
        state.save(&mut writer);
        writer.into_bytes()
    };
    let saved = save(&bench.cell);
    bench.cell.lock().reset(ResetKind::Cold);
    assert_eq!(bench.read(at::QUEUE_PFN), 0);
    {
        let mut device = bench.cell.lock();
        let DeviceState::State(state) = device.state() else { panic!("it has state") };
        state.load(&mut state::Reader::new(&saved), 1).expect("loaded");
        device.restored();
    }
    assert_eq!(save(&bench.cell), saved);
    assert_eq!(bench.disk.waiting(), 2, "the old request, and its repetition");
    bench.disk.complete(Ok(()));
    assert!(!bench.level());
    bench.disk.complete(Ok(()));
    assert!(bench.level());
}
