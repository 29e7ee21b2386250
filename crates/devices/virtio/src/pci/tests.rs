use device::disk::DiskOperation;
use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use devices_pci::{BarKind, MsiMessage, PciFunction};

use super::*;
use crate::blk::{BlkOptions, feature};
use crate::features;
use crate::testing::Random;
use crate::testing::function::{DATA, Function, RINGS, STATUS};

const IN: u32 = 0;
const READ: &[(u64, u32, bool)] = &[(DATA, 512, true)];

fn transitional() -> Function {
    Function::new(&PciOptions::default(), BlkOptions::default())
}

fn config_bytes(function: &Function, from: u8, len: u8) -> Vec<u8> {
    let device = function.cell.lock();
    (from..from + len).map(|offset| device.config().u8(offset)).collect()
}

#[test]
fn configuration_space_is_qemus() {
    let function = transitional();
    let expected = [
        "f41a0110070010000000000100000000",
        "01000000000000000000000000000000",
        "0c0000000000000000000000f41a0200",
        "00000000980000000000000000010000",
        "09001001040000000000000000100000",
        "09401003040000000010000000100000",
        "09501004040000000020000000100000",
        "09601402040000000030000000100000",
        "04000000097014050000000000000000",
        "00000000000000001184010001000000",
        "01080000000000000000000000000000",
    ];
    for (row, text) in expected.iter().enumerate() {
        let found: String = config_bytes(&function, 16 * row as u8, 16).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(&found, text, "row {row}");
    }
    let device = function.cell.lock();
    let bar = |index| device.config().bar(index).map(|bar| (bar.kind, bar.size));
    assert_eq!(bar(0), Some((BarKind::Io, 128)));
    assert_eq!(bar(1), Some((BarKind::Memory32, 4096)));
    assert_eq!((bar(2), bar(4)), (None, Some((BarKind::Prefetchable64, 0x4000))));
}

#[test]
fn identity_follows_the_interfaces() {
    let identity = |pci: &PciOptions| {
        let function = Function::new(pci, BlkOptions::default());
        let device = function.cell.lock();
        let config = device.config();
        (config.u16(2), config.u8(8), config.u16(0x2e), config.u8(0x34), config.bar(0).is_some())
    };
    let default = PciOptions::default();
    assert_eq!(identity(&default), (0x1001, 0, 2, 0x98, true));
    assert_eq!(identity(&PciOptions { legacy: false, ..default.clone() }), (0x1042, 1, 0x1100, 0x98, false));
    assert_eq!(identity(&PciOptions { modern: false, ..default.clone() }), (0x1001, 0, 2, 0x40, true));
    assert_eq!(identity(&PciOptions { modern: false, vectors: 0, ..default.clone() }), (0x1001, 0, 2, 0, true));
    let port = PciOptions { modern_pio_notify: true, page_per_vq: true, ..default };
    assert_eq!(identity(&port), (0x1001, 0, 2, 0xac, true));
    let function = Function::new(&port, BlkOptions::default());
    let bar = function.cell.lock().config().bar(REGION_MODERN).expect("a register");
    assert_eq!(bar.size, 0x80_0000);
}

#[test]
fn offered_features_differ_between_the_interfaces() {
    let function = transitional();
    let own = feature::SEG_MAX | feature::GEOMETRY | feature::BLK_SIZE | feature::TOPOLOGY | feature::CONFIG_WCE;
    let own = own | feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
    let common = features::INDIRECT | features::EVENT_IDX | features::VERSION_1 | features::RING_RESET;
    assert_eq!(function.offered(), own | common);
    // What Debian's kernel sees of QEMU's.
    assert_eq!(function.port(0, 4), 0x7900_6e54);
}

#[test]
fn features_that_were_not_offered_are_not_acknowledged() {
    let function = transitional();
    for wrong in [features::RING_PACKED, 1 << 33, 1 << 7] {
        function.write(20, 1, 0);
        function.write(20, 1, 3);
        function.accept(features::VERSION_1 | wrong);
        function.write(20, 1, 11);
        assert_eq!(function.status(), 3, "{wrong:#x}");
    }
    function.accept(features::VERSION_1);
    function.write(20, 1, 11);
    assert_eq!(function.status(), 11);
    // Too late.
    function.accept(features::VERSION_1 | features::INDIRECT);
    assert!(!function.cell.lock().common().has(features::INDIRECT));
}

#[test]
fn pin_follows_the_interrupt_status() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    assert!(!function.level());
    function.disk.complete(Ok(()));
    assert!(function.level() && function.messages().is_empty());
    assert_eq!(function.cell.lock().config().u16(6) & 8, 8);
    // INTx off, and on again.
    function.set_command(0x407);
    assert!(!function.level());
    function.set_command(7);
    assert!(function.level());
    assert_eq!((function.read(0x1000, 1), function.read(0x1000, 1)), (1, 0));
    assert!(!function.level());
    assert_eq!((queue.collect(&function.guest).len(), function.answer()), (1, 0));
}

#[test]
fn queue_interrupts_are_messages_with_msix() {
    let function = transitional();
    function.enable_msix(2);
    let mut queue = function.start(0, 8);
    assert_eq!(function.read(26, 2), 0xffff);
    function.write(26, 2, 7);
    assert_eq!(function.read(26, 2), 0xffff, "there is no such vector");
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert!(function.messages().is_empty() && !function.level());
    function.write(26, 2, 1);
    assert_eq!(queue.collect(&function.guest).len(), 1);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert_eq!(function.messages(), [MsiMessage { address: 0xfee0_0000, data: 0x41 }]);
    assert!(!function.level());
    assert_eq!(queue.collect(&function.guest).len(), 1);
    // Masked, it waits.
    function.cell.lock().write(REGION_MSIX, 16 + 12, AccessSize::Dword, 1);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert!(function.messages().is_empty());
    assert_eq!(function.cell.lock().read(REGION_MSIX, 0x800, AccessSize::Dword), 2);
    function.cell.lock().write(REGION_MSIX, 16 + 12, AccessSize::Dword, 0);
    assert_eq!(function.messages().len(), 1);
}

#[test]
fn driver_that_suppresses_interrupts_gets_none() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    queue.refuse_interrupts(&function.guest);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert!(!function.level());
    assert_eq!(queue.collect(&function.guest).len(), 1);
}

#[test]
fn legacy_driver_uses_ports() {
    let function = transitional();
    function.set_command(3);
    function.set_port(18, 1, 1);
    function.set_port(18, 1, 3);
    assert!(function.cell.lock().config().is_bus_master(), "drivers of old never set it");
    function.set_port(4, 4, feature::BLK_SIZE);
    function.set_port(14, 2, 0);
    assert_eq!((function.port(12, 2), function.port(8, 4)), (256, 0));
    function.set_port(8, 4, RINGS >> 12);
    assert_eq!(function.port(8, 4), RINGS >> 12);
    let mut queue = crate::testing::DriverQueue::new(256, 0, RINGS);
    // 16 bytes of each descriptor, then the ring, then the next page.
    (queue.driver, queue.device) = (RINGS + 0x1000, RINGS + 0x2000);
    function.set_port(18, 1, 7);
    function.offer(&mut queue, IN, 1, READ);
    function.set_port(16, 2, 0);
    assert!(matches!(function.disk.next(), DiskOperation::Read { offset: 512, .. }));
    function.disk.complete(Ok(()));
    assert!(function.level());
    assert_eq!((function.port(19, 1), function.port(19, 1)), (1, 0));
    assert_eq!((queue.collect(&function.guest).len(), function.answer()), (1, 0));
    // The device's configuration lies behind the vectors, which are there with MSI-X only.
    assert_eq!(function.port(20, 4), 2048);
    function.enable_msix(2);
    assert_eq!((function.port(20, 2), function.port(24, 4)), (0xffff, 2048));
    // Page 0 resets the device.
    function.set_port(8, 4, 0);
    assert_eq!((function.port(18, 1), function.port(8, 4)), (0, 0));
    // A driver that takes everything gets nothing.
    function.set_port(4, 4, 0xffff_ffff);
    assert_eq!(function.port(4, 4), 0);
}

#[test]
fn reset_is_complete_when_the_back_end_is_done() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.write(20, 1, 0);
    assert_ne!(function.status(), 0, "the back end may still write into the driver's memory");
    function.disk.complete(Ok(()));
    assert_eq!(function.status(), 0);
    assert_eq!(function.answer(), 0xee);
    assert!(queue.collect(&function.guest).is_empty() && !function.level());
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert_eq!(function.answer(), 0);
}

#[test]
fn late_completion_does_not_disturb_the_next_driver() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.cell.lock().reset(ResetKind::Warm);
    assert_eq!(function.status(), 0, "the machine starts anew");
    function.set_command(7);
    let mut queue = function.begin(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert_eq!(function.answer(), 0xee);
    function.disk.complete(Ok(()));
    assert_eq!((function.answer(), queue.collect(&function.guest).len()), (0, 1));
}

#[test]
fn legacy_reset_waits_for_the_back_end_without_the_device_s_lock() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    let windows = VirtioPci::windows(&function.cell);
    let legacy = windows.into_iter().find(|window| window.index == REGION_LEGACY).expect("a window");
    let memory::Backing::Io(ports) = legacy.backing else { panic!("a device") };
    let driver = std::thread::spawn(move || {
        ports.write(18, AccessSize::Byte, 0);
        ports.read(18, AccessSize::Byte)
    });
    // The device is not locked meanwhile.
    while function.cell.lock().common().is_driver_ready() {
        std::thread::yield_now();
    }
    function.disk.complete(Ok(()));
    assert_eq!(driver.join().expect("no panic"), 0);
}

#[test]
fn queue_is_reset_alone() {
    let function = Function::new(&PciOptions::default(), BlkOptions { num_queues: 2, ..BlkOptions::default() });
    let mut queue = function.start(features::RING_RESET, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.write(58, 2, 1);
    assert_eq!((function.read(58, 2), function.read(28, 2), function.status()), (1, 0, 15));
    function.disk.complete(Ok(()));
    assert_eq!((function.read(58, 2), function.answer()), (0, 0xee));
    let mut queue = function.set_up_queue(0, 0, 16);
    function.offer(&mut queue, IN, 0, READ);
    function.disk.complete(Ok(()));
    assert_eq!((function.answer(), queue.collect(&function.guest).len()), (0, 1));
}

#[test]
fn device_without_bus_mastering_stands_still() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    function.set_command(3);
    assert_eq!(function.status() & 4, 0);
    function.disk.complete(Ok(()));
    assert!(queue.collect(&function.guest).is_empty());
    function.offer(&mut queue, IN, 0, READ);
    assert_eq!(function.disk.waiting(), 0);
}

#[test]
fn driver_that_breaks_the_rules_has_to_reset() {
    let function = transitional();
    function.enable_msix(2);
    let mut queue = function.start(0, 8);
    function.write(16, 2, 0);
    queue.offer(&function.guest, &[(u64::MAX, 4, false), (STATUS, 1, true)], false).expect("room");
    function.kick(0);
    assert_eq!(function.status(), 0x4f);
    assert_eq!(function.messages(), [MsiMessage { address: 0xfee0_0000, data: 0x40 }]);
    assert!(function.cell.lock().common().failure().is_some());
    function.write(20, 1, 15);
    assert_eq!(function.status(), 0x4f, "only a reset helps");
    function.offer(&mut queue, IN, 0, READ);
    assert_eq!(function.disk.waiting(), 0);
    let mut queue = function.start(0, 8);
    function.offer(&mut queue, IN, 0, READ);
    assert_eq!(function.disk.waiting(), 1);
}

#[test]
fn request_without_a_status_byte_breaks_the_rules() {
    let function = transitional();
    let mut queue = function.start(0, 8);
    queue.offer(&function.guest, &[(DATA, 16, false)], false).expect("room");
    function.kick(0);
    assert_eq!(function.status() & 0x40, 0x40);
    assert_eq!(function.cell.lock().common().outstanding(None), 0);
}

#[test]
fn structures_are_reached_through_configuration_space() {
    let function = transitional();
    let at = 0x84;
    let set = |offset, size, value| function.cell.lock().write_config(at + offset, size, value);
    set(4, AccessSize::Byte, 4);
    set(8, AccessSize::Dword, 20);
    set(12, AccessSize::Dword, 1);
    set(16, AccessSize::Byte, 1);
    assert_eq!(function.status(), 1);
    set(8, AccessSize::Dword, 0x2000);
    set(12, AccessSize::Dword, 4);
    assert_eq!(function.cell.lock().read_config(at + 16, AccessSize::Dword), 2048);
    // Other registers, widths and places are not reached.
    for (offset, size, value) in [(4, AccessSize::Byte, 1), (12, AccessSize::Dword, 3), (8, AccessSize::Dword, 0x4000)]
    {
        set(offset, size, value);
        set(16, AccessSize::Dword, 0);
    }
    assert_eq!(function.status(), 1);
}

#[test]
fn unprocessed_requests_start_with_the_driver() {
    let function = transitional();
    function.write(20, 1, 3);
    function.accept(features::VERSION_1);
    function.write(20, 1, 11);
    let mut queue = function.set_up_queue(0, 0, 8);
    function.offer(&mut queue, IN, 0, READ);
    assert_eq!(function.disk.waiting(), 0, "the driver is not ready");
    function.write(20, 1, 15);
    assert_eq!(function.disk.waiting(), 1);
}

#[test]
fn saved_function_goes_on_where_it_was() {
    let saved = |function: &Function| match function.cell.lock().state() {
        DeviceState::State(state) => state::testing::saved(state),
        _ => panic!("it has state"),
    };
    let function = transitional();
    function.enable_msix(2);
    let mut queue = function.start(features::EVENT_IDX, 8);
    function.write(26, 2, 1);
    function.offer(&mut queue, IN, 2, READ);
    let bytes = saved(&function);

    let mut other = transitional();
    other.guest = function.guest;
    {
        // The same memory behind a new device.
        let options = PciOptions::default();
        let line = device::IrqLine::unconnected();
        let messages = Arc::clone(&other.signals) as Arc<dyn MsiSink>;
        let wiring = Wiring { dma: other.guest.dma(), line, messages };
        let disk = Arc::clone(&other.disk);
        other.cell =
            VirtioPci::new(&options, wiring, |access| crate::blk::Blk::new(BlkOptions::default(), disk, access));
        let mut device = other.cell.lock();
        let DeviceState::State(state) = device.state() else { panic!("it has state") };
        state::testing::load_all(state, &bytes).expect("loaded");
        device.restored();
    }
    assert_eq!(saved(&other), bytes);
    assert!(matches!(other.disk.next(), DiskOperation::Read { offset: 1024, .. }), "it is done again");
    other.disk.complete(Ok(()));
    assert_eq!((other.answer(), other.messages().len()), (0, 1));
    assert_eq!(queue.collect(&other.guest).len(), 1);
}

#[test]
fn reset_brings_everything_back() {
    let function = Function::new(&PciOptions::default(), BlkOptions { num_queues: 2, ..BlkOptions::default() });
    let mut device = function.cell.lock();
    state::testing::assert_reset_is_complete(
        &mut *device,
        |device| &mut device.state,
        |device| device.reset(ResetKind::Cold),
    );
}

#[test]
fn hostile_state_is_refused_or_the_device_works() {
    let function = transitional();
    let mut queue = function.start(features::EVENT_IDX, 8);
    function.offer(&mut queue, IN, 2, READ);
    let mut device = function.cell.lock();
    state::testing::assert_hostile_bytes_are_harmless(&mut device.state, 3, 2000);
    let bytes = state::testing::saved(&device.state);
    let mut random = Random(17);
    for _ in 0..500 {
        let mut bytes = bytes.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= random.next() as u8;
        if state::testing::load_all(&mut device.state, &bytes).is_ok() {
            device.restored();
            device.write(REGION_MODERN, 0x3000, AccessSize::Word, 0);
        }
    }
}

#[test]
fn random_accesses_never_panic() {
    for (seed, modern, legacy) in [(5, true, true), (6, true, false), (7, false, true)] {
        let pci = PciOptions { modern, legacy, ..PciOptions::default() };
        let function = Function::new(&pci, BlkOptions { num_queues: 3, ..BlkOptions::default() });
        let mut random = Random(seed);
        for _ in 0..60_000 {
            let region = [REGION_LEGACY, REGION_MSIX, REGION_MODERN, REGION_MODERN][random.below(4) as usize];
            let size = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword][random.below(3) as usize];
            let offset = match (region, random.below(8)) {
                (REGION_MODERN, 0..4) => random.below(64),
                (REGION_MODERN, 4) => 0x1000 * random.below(4) + random.below(64),
                (_, 5) => random.below(0x8000),
                _ => random.below(64),
            };
            let value = match random.below(4) {
                0 => random.next(),
                1 => random.below(16),
                2 => RINGS + random.below(0x2000),
                _ => 1,
            };
            let mut device = function.cell.lock();
            match random.below(16) {
                0 => device.write_config(random.below(253) as u8, size, value as u32 | 4),
                1 => drop(device.read_config(random.below(253) as u8, size)),
                2..6 => drop(device.read(region, offset, size)),
                _ => device.write(region, offset, size, value),
            }
            drop(device);
            if random.below(64) == 0 && function.disk.waiting() > 0 {
                function.disk.complete(Ok(()));
            }
        }
    }
}
