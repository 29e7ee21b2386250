//! A virtio block device with a hostile driver: the rings and tables are the input, so are the accesses to registers.
//! The queue alone works on the same memory, in both layouts.

#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use device::disk::{Disk, DiskObserver, DiskProperties, DiskRequest, Removable};
use device::{AccessSize, IoDevice, IrqLine};
use devices_pci::{MsiMessage, MsiSink, PciFunction};
use devices_virtio::blk::{Blk, BlkOptions};
use devices_virtio::features;
use devices_virtio::pci::{PciOptions, VirtioPci, Wiring};
use devices_virtio::queue::Queue;
use libfuzzer_sys::fuzz_target;
use memory::{AddressSpace, Backing, DmaView, GuestAddress, RamBlock, SpaceKind};

const RAM_SIZE: u64 = 1 << 16;

#[derive(Default)]
struct TestDisk(Mutex<VecDeque<DiskRequest>>);

impl Disk for TestDisk {
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
        self.0.lock().expect("disk").push_back(request);
    }

    fn set_write_cache(&self, _on: bool) {}

    fn observe(&self, _observer: Weak<dyn DiskObserver>) {}

    fn set_removable(&self, _drive: Weak<dyn Removable>) {}

    fn tray_moved(&self, _is_open: bool) {}
}

struct Nowhere;

impl MsiSink for Nowhere {
    fn deliver(&self, _message: MsiMessage) {}
}

fn guest(image: &[u8]) -> DmaView {
    let ram = Arc::new(RamBlock::new("ram", RAM_SIZE).expect("RAM"));
    let len = image.len().min(RAM_SIZE as usize);
    ram.write(0, &image[..len]);
    let space = AddressSpace::new(SpaceKind::Memory);
    let backing = Backing::Ram { block: ram, offset: 0, read_only: false };
    space.map(GuestAddress(0), RAM_SIZE, 0, backing).expect("mapped");
    DmaView::new(Arc::new(space))
}

/// The queue alone.
fn exercise_queue(dma: &DmaView, negotiated: u64, size: u16) {
    let mut queue = Queue::new(size);
    queue.set_features(negotiated);
    queue.set_areas(|state| (state.descriptors, state.driver, state.device) = (0, 0x4000, 0x8000));
    queue.enable();
    for _ in 0..2 * usize::from(size) {
        let Ok(popped) = queue.pop(dma) else { break };
        let Some(request) = popped else { break };
        assert!(request.readable.len() + request.writable.len() <= u32::MAX as usize);
        if request.writable.len() % 2 == 0 {
            let pushed = queue.push(dma, request.token, request.writable.len() as u32);
            assert!(pushed.is_ok_and(|pushed| pushed), "what was taken can be given back");
        }
        let _wish = queue.wants_interrupt(dma);
        let _more = queue.enable_notifications(dma);
        assert!(queue.in_flight() <= usize::from(size));
    }
}

fn exercise_device(dma: DmaView, options: &PciOptions, accesses: &[[u8; 8]]) {
    let disk = Arc::new(TestDisk::default());
    let wiring = Wiring { dma, line: IrqLine::unconnected(), messages: Arc::new(Nowhere) };
    let shared: Arc<dyn Disk> = disk.clone();
    let cell = VirtioPci::new(options, wiring, |access| Blk::new(BlkOptions::default(), shared, access));
    cell.lock().write_config(4, AccessSize::Word, 7);
    for [kind, size, o0, o1, v0, v1, v2, v3] in accesses {
        let size = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword][usize::from(*size) % 3];
        let offset = u64::from(u16::from_le_bytes([*o0, *o1])) & 0x3fff;
        let value = u64::from(u32::from_le_bytes([*v0, *v1, *v2, *v3]));
        match kind % 8 {
            0 => cell.lock().write_config(offset as u8 & 0xfc, size, value as u32),
            1 => drop(cell.lock().read_config(offset as u8 & 0xfc, size)),
            2 => drop(cell.lock().read(usize::from(kind / 8 % 5), offset, size)),
            3 => {
                let request = disk.0.lock().expect("disk").pop_front();
                if let Some(request) = request {
                    (request.done)(Ok(()));
                }
            }
            4 => cell.lock().write(4, offset & 0x3f, size, value),
            _ => cell.lock().write(usize::from(kind / 8 % 5), offset, size, value),
        }
    }
}

fuzz_target!(|input: (u8, u16, &[u8], Vec<[u8; 8]>)| {
    let (which, size, image, accesses) = input;
    let bit = |index: u8, feature: u64| if which >> index & 1 != 0 { feature } else { 0 };
    let negotiated = bit(0, features::RING_PACKED)
        | bit(1, features::EVENT_IDX)
        | bit(2, features::INDIRECT)
        | bit(3, features::VERSION_1);
    exercise_queue(&guest(image), negotiated, size % 1025);
    let options = PciOptions {
        modern: which & 0x10 != 0,
        legacy: which & 0x10 == 0 || which & 0x20 != 0,
        features: negotiated | features::RING_RESET,
        ..PciOptions::default()
    };
    exercise_device(guest(image), &options, &accesses);
});
