//! A block device's function with a disk whose requests the test completes, and the driver's side of its registers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};
use device::{AccessSize, DeviceCell, IoDevice, IrqInput, IrqSink};
use devices_pci::{MsiMessage, MsiSink, PciFunction};

use super::{DriverQueue, Guest, Part};
use crate::blk::{Blk, BlkOptions};
use crate::device::{Access, Model};
use crate::features;
use crate::pci::{PciOptions, REGION_LEGACY, REGION_MODERN, REGION_MSIX, VirtioPci, Wiring};

/// A disk that does nothing by itself.
#[derive(Default)]
pub struct TestDisk {
    pub properties: Mutex<Option<DiskProperties>>,
    pub requests: Mutex<VecDeque<DiskRequest>>,
    pub observer: Mutex<Option<Weak<dyn DiskObserver>>>,
    pub cache_modes: Mutex<Vec<bool>>,
}

pub const DISK_SIZE: u64 = 1 << 20;

impl TestDisk {
    fn default_properties() -> DiskProperties {
        DiskProperties {
            size: DISK_SIZE,
            logical_block_size: 512,
            physical_block_size: 4096,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: 0,
            read_only: false,
            medium: true,
            write_cache: true,
            serial: "from-drive".to_owned(),
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut DiskProperties)) {
        let mut properties = self.properties();
        change(&mut properties);
        *self.properties.lock().expect("disk") = Some(properties);
    }

    pub fn announce(&self) {
        let observer = self.observer.lock().expect("disk").clone();
        observer.and_then(|observer| observer.upgrade()).expect("an observer").changed();
    }

    /// The oldest request's operation, which stays.
    pub fn next(&self) -> DiskOperation {
        self.requests.lock().expect("disk").front().expect("a request").operation.clone()
    }

    pub fn waiting(&self) -> usize {
        self.requests.lock().expect("disk").len()
    }

    /// Completes the oldest request.
    pub fn complete(&self, result: Result<(), DiskError>) {
        let request = self.requests.lock().expect("disk").pop_front().expect("a request");
        (request.done)(result);
    }
}

impl Disk for TestDisk {
    fn properties(&self) -> DiskProperties {
        self.properties.lock().expect("disk").clone().unwrap_or_else(Self::default_properties)
    }

    fn submit(&self, request: DiskRequest) {
        self.requests.lock().expect("disk").push_back(request);
    }

    fn set_write_cache(&self, on: bool) {
        self.cache_modes.lock().expect("disk").push(on);
        self.change(|properties| properties.write_cache = on);
    }

    fn observe(&self, observer: Weak<dyn DiskObserver>) {
        *self.observer.lock().expect("disk") = Some(observer);
    }

    fn set_removable(&self, _drive: Weak<dyn Removable>) {}

    fn tray_moved(&self, _is_open: bool) {}
}

#[derive(Default)]
pub struct Signals {
    pub level: Mutex<bool>,
    pub messages: Mutex<Vec<MsiMessage>>,
}

impl IrqSink for Signals {
    fn set_level(&self, _pin: u32, level: bool) {
        *self.level.lock().expect("level") = level;
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}

impl MsiSink for Signals {
    fn deliver(&self, message: MsiMessage) {
        self.messages.lock().expect("messages").push(message);
    }
}

pub struct Function<M: Model = Blk> {
    pub cell: DeviceCell<VirtioPci<M>>,
    pub guest: Guest,
    pub disk: Arc<TestDisk>,
    pub signals: Arc<Signals>,
}

/// Where the test's queues and requests are.
pub const RINGS: u64 = 0x4000;
pub const HEADER: u64 = 0x9_0000;
pub const DATA: u64 = 0xa_0000;
pub const STATUS: u64 = 0xb_0000;

impl Function {
    pub fn new(pci: &PciOptions, blk: BlkOptions) -> Self {
        Self::with_disk(pci, blk, Arc::default())
    }

    pub fn with_disk(pci: &PciOptions, blk: BlkOptions, disk: Arc<TestDisk>) -> Self {
        let shared = Arc::clone(&disk);
        Self::of(pci, disk, |access| Blk::new(blk, shared, access))
    }

    /// Offers a request: header, data, status. The status is 0xee until it is written.
    pub fn offer(&self, queue: &mut DriverQueue, kind: u32, sector: u64, data: &[Part]) {
        let header = u128::from(kind) | u128::from(sector) << 64;
        self.guest.write(HEADER, &header.to_le_bytes());
        self.guest.write(STATUS, &[0xee]);
        let parts: Vec<Part> =
            [(HEADER, 16, false)].into_iter().chain(data.iter().copied()).chain([(STATUS, 1, true)]).collect();
        queue.offer(&self.guest, &parts, false).expect("room");
        self.kick(0);
    }

    pub fn answer(&self) -> u8 {
        self.guest.read(STATUS, 1)[0]
    }
}

impl<M: Model> Function<M> {
    /// Any device; `disk` is whatever it uses.
    pub fn of(pci: &PciOptions, disk: Arc<TestDisk>, build: impl FnOnce(Arc<dyn Access<M>>) -> M) -> Self {
        let (guest, signals) = (Guest::new(), Arc::new(Signals::default()));
        let line = IrqInput::new(Arc::clone(&signals) as Arc<dyn IrqSink>, 0).line();
        let wiring = Wiring { dma: guest.dma(), line, messages: Arc::clone(&signals) as Arc<dyn MsiSink> };
        let cell = VirtioPci::new(pci, wiring, build);
        let function = Self { cell, guest, disk, signals };
        // Decoding and bus mastering on.
        function.set_command(7);
        function
    }

    pub fn set_command(&self, value: u32) {
        self.cell.lock().write_config(4, AccessSize::Word, value);
    }

    fn size(bytes: u64) -> AccessSize {
        match bytes {
            1 => AccessSize::Byte,
            2 => AccessSize::Word,
            _ => AccessSize::Dword,
        }
    }

    pub fn read(&self, offset: u64, bytes: u64) -> u64 {
        self.cell.lock().read(REGION_MODERN, offset, Self::size(bytes))
    }

    pub fn write(&self, offset: u64, bytes: u64, value: u64) {
        self.cell.lock().write(REGION_MODERN, offset, Self::size(bytes), value);
    }

    pub fn port(&self, offset: u64, bytes: u64) -> u64 {
        self.cell.lock().read(REGION_LEGACY, offset, Self::size(bytes))
    }

    pub fn set_port(&self, offset: u64, bytes: u64, value: u64) {
        self.cell.lock().write(REGION_LEGACY, offset, Self::size(bytes), value);
    }

    pub fn status(&self) -> u64 {
        self.read(20, 1)
    }

    pub fn level(&self) -> bool {
        *self.signals.level.lock().expect("level")
    }

    pub fn messages(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.signals.messages.lock().expect("messages"))
    }

    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.write(0, 4, select);
            self.read(4, 4)
        };
        half(0) | half(1) << 32
    }

    pub fn accept(&self, accepted: u64) {
        for select in 0..2 {
            self.write(8, 4, select);
            self.write(12, 4, accepted >> (32 * select) & 0xffff_ffff);
        }
    }

    /// Reset, features, one queue of `size` entries, and go.
    pub fn start(&self, accepted: u64, size: u16) -> DriverQueue {
        self.write(20, 1, 0);
        self.begin(accepted, size)
    }

    /// The same without a reset.
    pub fn begin(&self, accepted: u64, size: u16) -> DriverQueue {
        self.begin_with(accepted, size, 1).remove(0)
    }

    /// The same with several queues.
    pub fn begin_with(&self, accepted: u64, size: u16, queues: u64) -> Vec<DriverQueue> {
        self.write(20, 1, 3);
        self.accept(accepted | features::VERSION_1);
        self.write(20, 1, 11);
        assert_eq!(self.status(), 11);
        let queues = (0..queues).map(|index| self.set_up_queue(index, accepted, size)).collect();
        self.write(20, 1, 15);
        queues
    }

    pub fn set_up_queue(&self, index: u64, accepted: u64, size: u16) -> DriverQueue {
        let queue = DriverQueue::new(size, accepted, RINGS + 0x2000 * index);
        self.guest.write(queue.descriptors, &[0; 0x2000]);
        self.write(22, 2, index);
        self.write(24, 2, u64::from(size));
        for (offset, address) in [(32, queue.descriptors), (40, queue.driver), (48, queue.device)] {
            self.write(offset, 4, address & 0xffff_ffff);
            self.write(offset + 4, 4, address >> 32);
        }
        self.write(28, 2, 1);
        queue
    }

    pub fn kick(&self, index: u64) {
        self.write(0x3000 + 4 * index, 2, index);
    }

    /// MSI-X on, with a message for each vector.
    pub fn enable_msix(&self, vectors: u64) {
        let mut device = self.cell.lock();
        for vector in 0..vectors {
            for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
                device.write(REGION_MSIX, 16 * vector + offset, AccessSize::Dword, value);
            }
        }
        let at = device.config().u8(0x34);
        device.write_config(at + 2, AccessSize::Word, 0x8000);
    }
}
