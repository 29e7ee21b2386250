use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqInput, IrqSink, ResetKind};
use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};

use crate::capability::{Msi, MsiMessage, Msix, MsixPlace};
use crate::i440fx::I440fx;
use crate::mechanism::{ConfigMechanism, REGION_ADDRESS, REGION_DATA};
use crate::piix::{PM_WINDOW, PM_WINDOW_LEN, Piix3, Piix4Pm};
use crate::pirq::PirqRouter;
use crate::shadow::{PamMode, ShadowRam};
use crate::smram::Smram;
use crate::*;

#[derive(Default)]
struct Levels(Mutex<[bool; 16]>);

impl IrqSink for Levels {
    fn set_level(&self, pin: u32, level: bool) {
        self.0.lock().expect("levels")[pin as usize] = level;
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}

#[derive(Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl MsiSink for Messages {
    fn deliver(&self, message: MsiMessage) {
        self.0.lock().expect("messages").push(message);
    }
}

/// A function with a memory, a 64-bit and a port window.
struct Card {
    config: ConfigSpace,
}

impl Card {
    fn new() -> Self {
        let identity = Identity { vendor: 0x1234, device: 0x1111, revision: 2, class: 0x0300, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_interrupt_pin(1);
        config.add_bar(0, Bar { kind: BarKind::Prefetchable32, size: 0x1000 });
        config.add_bar(2, Bar { kind: BarKind::Memory64, size: 0x10000 });
        config.add_bar(4, Bar { kind: BarKind::Io, size: 0x10 });
        config.add_bar(6, Bar { kind: BarKind::Rom, size: 0x800 });
        Self { config }
    }
}

impl Device for Card {
    fn reset(&mut self, _kind: ResetKind) {
        self.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.config)
    }

    fn restored(&mut self) {}
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
}

impl IoDevice for Card {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        region as u64 * 0x10 + offset
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, _value: u64) {}
}

struct Bench {
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    bus: Arc<PciBus>,
    router: Arc<PirqRouter>,
    levels: Arc<Levels>,
    host: DeviceCell<ConfigMechanism>,
    resets: mpsc::Receiver<()>,
}

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
        let levels = Arc::new(Levels::default());
        let isa: Vec<_> = (0..16).map(|irq| IrqInput::new(levels.clone() as Arc<dyn IrqSink>, irq)).collect();
        let router = PirqRouter::new(&isa);
        let bus = PciBus::new(
            "pci.0",
            (memory.clone(), ports.clone()),
            router.inputs(),
            bus::i440fx_swizzle,
            Arc::new(Messages::default()),
        );
        let (send, resets) = mpsc::channel();
        let host = DeviceCell::new(ConfigMechanism::new(bus.clone(), Box::new(move || send.send(()).expect("sent"))));
        for (port, region) in [(0xcf8, REGION_ADDRESS), (0xcfc, REGION_DATA)] {
            ports.map(GuestAddress(port), 4, 0, host.region(region)).expect("map");
        }
        Self { memory, ports, bus, router, levels, host, resets }
    }

    fn select(&self, address: Address, register: u8) -> GuestAddress {
        let value = 1 << 31 | u64::from(address.devfn()) << 8 | u64::from(register & 0xfc);
        self.ports.store(GuestAddress(0xcf8), AccessSize::Dword, value);
        GuestAddress(0xcfc + u64::from(register & 3))
    }

    fn read(&self, address: Address, register: u8, size: AccessSize) -> u64 {
        self.ports.load(self.select(address, register), size)
    }

    fn write(&self, address: Address, register: u8, size: AccessSize, value: u64) {
        self.ports.store(self.select(address, register), size, value);
    }

    fn card(&self, slot: u8) -> Arc<dyn device::Lifecycle> {
        let card = DeviceCell::new(Card::new());
        let window =
            |index, space, len| Window { index, space, offset: 0, len, priority: 1, backing: card.region(index) };
        let windows = vec![
            window(0, SpaceKind::Memory, 0x1000),
            window(2, SpaceKind::Memory, 0x10000),
            window(4, SpaceKind::Ports, 0x10),
            window(6, SpaceKind::Memory, 0x800),
        ];
        self.bus.attach(Address::new(slot, 0), Label::of_board("card"), card, windows).expect("free slot")
    }
}

const CARD: Address = Address::new(2, 0);
use AccessSize::{Byte, Dword, Word};

#[test]
fn configuration_is_read_in_all_sizes_and_absent_functions_are_all_ones() {
    let bench = Bench::new();
    bench.card(2);
    assert_eq!(bench.read(CARD, 0, Dword), 0x1111_1234);
    assert_eq!(bench.read(CARD, 2, Word), 0x1111);
    assert_eq!(bench.read(CARD, 0xb, Byte), 3);
    assert_eq!(bench.read(CARD, 0x2c, Dword), 0x1100_1af4);
    assert_eq!(bench.read(Address::new(5, 0), 0, Dword), 0xffff_ffff);
    bench.ports.store(GuestAddress(0xcf8), Dword, 0x1000);
    assert_eq!(bench.ports.load(GuestAddress(0xcfc), Word), 0xffff, "enable bit is clear");
    assert_eq!(bench.ports.load(GuestAddress(0xcf8), Dword), 0x1000);
}

#[test]
fn sizing_shows_the_size_and_the_type() {
    let bench = Bench::new();
    bench.card(2);
    for (register, value) in [(0x10, 0xffff_f008), (0x18, 0xffff_0004), (0x1c, 0xffff_ffff), (0x20, 0xffff_fff1)] {
        bench.write(CARD, register, Dword, 0xffff_ffff);
        assert_eq!(bench.read(CARD, register, Dword), value, "{register:#x}");
    }
    bench.write(CARD, 0x30, Dword, 0xffff_fffe);
    assert_eq!(bench.read(CARD, 0x30, Dword), 0xffff_f800);
    bench.write(CARD, 0x14, Dword, 0xffff_ffff);
    assert_eq!(bench.read(CARD, 0x14, Dword), 0);
    bench.write(CARD, 4, Word, 3);
    assert!(bench.memory.view().ranges().is_empty(), "sizing values are no addresses");
}

#[test]
fn windows_follow_their_registers_and_the_command_register() {
    let bench = Bench::new();
    let card = bench.card(2);
    bench.write(CARD, 0x10, Dword, 0xe000_0000);
    bench.write(CARD, 0x18, Dword, 0x8000_0000);
    bench.write(CARD, 0x1c, Dword, 0x1);
    bench.write(CARD, 0x20, Dword, 0xc000);
    assert_eq!(bench.memory.load(GuestAddress(0xe000_0005), Byte), 0);
    bench.write(CARD, 4, Word, 3);
    assert_eq!(bench.memory.load(GuestAddress(0xe000_0005), Byte), 5);
    assert_eq!(bench.memory.load(GuestAddress(0x1_8000_0003), Byte), 0x23);
    assert_eq!(bench.ports.load(GuestAddress(0xc002), Byte), 0x42);
    bench.write(CARD, 0x10, Dword, 0xe100_0000);
    assert_eq!(bench.memory.load(GuestAddress(0xe000_0005), Byte), 0);
    assert_eq!(bench.memory.load(GuestAddress(0xe100_0005), Byte), 5);
    bench.write(CARD, 0x30, Dword, 0xe200_0001);
    assert_eq!(bench.memory.load(GuestAddress(0xe200_0001), Byte), 0x61);
    assert_eq!(bench.bus.functions()[0].bars[0].address, Some(0xe100_0000));
    card.reset(ResetKind::Warm);
    assert!(bench.memory.view().ranges().is_empty());
    assert!(bench.bus.detach(CARD));
    assert_eq!(bench.read(CARD, 0, Dword), 0xffff_ffff);
}

#[test]
fn occupied_slot_is_refused_and_the_next_is_found() {
    let bench = Bench::new();
    bench.card(0);
    assert_eq!(bench.bus.free_slot(), Some(1));
    let again = bench.bus.attach(Address::new(0, 0), Label::of_board("other"), DeviceCell::new(Card::new()), vec![]);
    let text = "PCI: slot 0 function 0 not available for other, in use by card,id=(null)";
    assert_eq!(again.err().expect("refused").to_string(), text);
    let address = Address::new(0, 3);
    let second = bench.bus.attach(address, Label::of_board("other"), DeviceCell::new(Card::new()), vec![]);
    let text = "PCI: single function device can't be populated in function 0.3";
    assert_eq!(second.err().expect("refused").to_string(), text);
}

#[test]
fn interrupt_pin_passes_swizzle_and_route() {
    let bench = Bench::new();
    let bridge = Piix3::new(bench.router.clone());
    bench.bus.attach(Address::new(1, 0), Label::of_board("PIIX3"), bridge, vec![]).expect("attached");
    let isa = Address::new(1, 0);
    assert_eq!(bench.read(isa, 0, Dword), 0x7000_8086);
    assert_eq!(bench.read(isa, 0x0e, Byte), 0x80);
    assert_eq!(bench.read(isa, 0x60, Dword), 0x8080_8080);
    let mut line = bench.bus.intx(Address::new(3, 0), 0);
    let mut other = bench.bus.intx(Address::new(4, 0), 3);
    line.set(true);
    assert!(bench.levels.0.lock().expect("levels").iter().all(|level| !level));
    bench.write(isa, 0x60, Dword, 0x0b0b_0a0a);
    assert!(bench.levels.0.lock().expect("levels")[11], "slot 3 INTA is PIRQC");
    other.set(true);
    line.set(false);
    assert!(bench.levels.0.lock().expect("levels")[11]);
    bench.write(isa, 0x62, Byte, 0x05);
    assert!(!bench.levels.0.lock().expect("levels")[11]);
    assert!(bench.levels.0.lock().expect("levels")[5]);
    other.set(false);
    assert!(!bench.levels.0.lock().expect("levels")[5]);
    assert_eq!(bench.router.route(2), Some(5));
}

#[test]
fn pm_function_maps_its_ports_where_pmba_says() {
    let bench = Bench::new();
    let smi = Arc::new(AtomicBool::new(false));
    let pm = Piix4Pm::new(smi.clone(), true);
    let ports = DeviceCell::new(Card::new());
    let window = Window {
        index: PM_WINDOW,
        space: SpaceKind::Ports,
        offset: 0,
        len: PM_WINDOW_LEN,
        priority: 0,
        backing: ports.region(0),
    };
    let address = Address::new(1, 3);
    bench.bus.attach(address, Label::of_board("PM"), pm, vec![window]).expect("attached");
    assert_eq!(bench.read(address, 8, Dword), 0x0680_0003);
    assert_eq!(bench.read(address, 0x3d, Byte), 1);
    bench.write(address, 0x40, Dword, 0x601);
    assert_eq!(bench.ports.load(GuestAddress(0x608), Byte), 0xff);
    bench.write(address, 0x80, Byte, 1);
    assert_eq!(bench.ports.load(GuestAddress(0x608), Byte), 8);
    assert_eq!(bench.read(address, 0x40, Dword), 0x601);
    bench.write(address, 0x58, Dword, 1 << 25);
    assert!(smi.load(Ordering::Acquire));
}

#[test]
fn reset_control_lies_between_the_configuration_ports() {
    let bench = Bench::new();
    bench.ports.store(GuestAddress(0xcf8), Dword, 0x8000_0004);
    bench.ports.store(GuestAddress(0xcf9), Byte, 2);
    assert_eq!(bench.ports.load(GuestAddress(0xcf9), Byte), 2);
    assert!(bench.resets.try_recv().is_err());
    bench.ports.store(GuestAddress(0xcf9), Byte, 6);
    assert!(bench.resets.try_recv().is_ok());
    assert_eq!(bench.ports.load(GuestAddress(0xcf8), Dword), 0x8000_0004);
    bench.host.lock().reset(ResetKind::Warm);
    assert_eq!(bench.ports.load(GuestAddress(0xcf8), Dword), 0);
}

#[test]
fn pam_registers_switch_between_rom_and_ram() {
    let bench = Bench::new();
    let ram = Arc::new(RamBlock::new("pc.ram", 0x10_0000).expect("RAM"));
    let rom = Arc::new(RamBlock::new("pc.bios", 0x1_0000).expect("ROM"));
    rom.write(0, &[0x55; 16]);
    let rom_backing = Backing::Ram { block: rom, offset: 0, read_only: true };
    let pci = Arc::new(AddressSpace::new(SpaceKind::Memory));
    for space in [&bench.memory, &pci] {
        space.map(GuestAddress(0xf_0000), 0x1_0000, 0, rom_backing.clone()).expect("map");
    }
    let mut shadow = ShadowRam::new(&bench.memory, &ram, &pci, 1).expect("shadow");
    let smram = Arc::new(Mutex::new(Smram::default()));
    let seen = smram.clone();
    let bridge = I440fx::new(
        256 << 20,
        Box::new(move |segment, mode| shadow.set(segment, mode)),
        Box::new(move |value| *seen.lock().expect("smram") = value),
    );
    let host = Address::new(0, 0);
    let lifecycle = bench.bus.attach(host, Label::of_board("i440FX"), bridge, vec![]).expect("attached");
    assert_eq!(bench.read(host, 0, Dword), 0x1237_8086);
    assert_eq!(bench.read(host, 0x57, Byte), 32);
    let at = GuestAddress(0xf_0000);
    let probe = |value: u64| {
        bench.memory.store(at, Byte, value);
        bench.memory.load(at, Byte)
    };
    assert_eq!(probe(1), 0x55);
    bench.write(host, 0x59, Byte, 0x20);
    assert_eq!(probe(2), 0x55);
    assert_eq!(ram.load_u8(0xf_0000), Some(2), "written behind the ROM");
    bench.write(host, 0x59, Byte, 0x30);
    assert_eq!(bench.memory.load(at, Byte), 2);
    assert_eq!(probe(3), 3);
    bench.write(host, 0x59, Byte, 0x10);
    assert_eq!(probe(4), 3);
    bench.write(host, 0x5a, Byte, 0x31);
    bench.memory.store(GuestAddress(0xc_4000), Byte, 9);
    bench.memory.store(GuestAddress(0xc_0000), Byte, 9);
    assert_eq!([ram.load_u8(0xc_4000), ram.load_u8(0xc_0000)], [Some(9), Some(0)]);
    bench.write(host, 0x72, Byte, 0x4a);
    let open = Smram { is_open: true, is_enabled: true, ..Smram::default() };
    assert_eq!(*smram.lock().expect("smram"), open);
    bench.write(host, 0x72, Byte, 0x5a);
    assert_eq!(*smram.lock().expect("smram"), Smram { is_open: false, ..open }, "locking closes it");
    bench.write(host, 0x72, Byte, 0x4a);
    assert_eq!(bench.read(host, 0x72, Byte), 0x1a);
    lifecycle.reset(ResetKind::Warm);
    assert_eq!(bench.read(host, 0x72, Byte), 0x02);
    assert_eq!(probe(5), 3, "read-only shadow RAM stays");
    lifecycle.reset(ResetKind::Cold);
    assert_eq!(probe(6), 0x55);
    assert_eq!(PamMode::from_bits(0x31), PamMode::ReadRam);
}

#[test]
fn msi_message_carries_the_vector_in_the_allowed_bits() {
    let mut card = Card::new();
    let msi = Msi::add(&mut card.config, 0x50, 2);
    assert_eq!((card.config.u8(0x34), card.config.u16(6) & 0x10), (0x50, 0x10));
    assert_eq!(msi.message(&card.config, 1), None);
    card.config.write(0x54, Dword, 0xfee0_1003);
    card.config.write(0x5c, Word, 0x4041);
    card.config.write(0x52, Word, 0xffff);
    assert_eq!(card.config.u16(0x52), 0xf5, "what can be written, and what the function says");
    card.config.write(0x52, Word, 0x11);
    assert_eq!(msi.message(&card.config, 3), Some(MsiMessage { address: 0xfee0_1000, data: 0x4041 }));
}

#[test]
fn masked_msix_vector_is_pending_until_unmasked() {
    let mut card = Card::new();
    let place = |offset| MsixPlace { bar: 1, offset };
    let mut msix = Msix::add(&mut card.config, 0x70, 3, place(0), place(0x800));
    assert_eq!(card.config.u32(0x78), 0x801);
    card.config.write(0x72, Word, 0x8000);
    for (offset, value) in [(0x10, 0xfee0_0000), (0x18, 0x55)] {
        msix.write_table(offset, Dword, value);
    }
    assert_eq!(msix.raise(&card.config, 1), None);
    assert_eq!(msix.read_pending(0, Byte), 2);
    assert!(msix.take_unmasked(&card.config).is_empty());
    msix.write_table(0x1c, Dword, 0);
    let message = MsiMessage { address: 0xfee0_0000, data: 0x55 };
    assert_eq!(msix.take_unmasked(&card.config), [message]);
    assert_eq!(msix.raise(&card.config, 1), Some(message));
    assert_eq!(msix.raise(&card.config, 7), None);
    msix.write_table(u64::MAX, Dword, 1);
    assert_eq!(msix.read_table(u64::MAX, Dword), 0);
}

#[test]
fn msix_window_holds_table_and_pending_bits() {
    let mut card = Card::new();
    let mut msix = Msix::add_with_bar(&mut card.config, 0x98, 3, 1);
    assert_eq!(card.config.bar(1), Some(Bar { kind: BarKind::Memory32, size: 0x1000 }));
    assert_eq!((card.config.u16(0x9a), card.config.u32(0x9c), card.config.u32(0xa0)), (2, 1, 0x801));
    card.config.write(0x9a, Word, 0x8000);
    msix.write_window(0x800, Dword, 0xff);
    assert_eq!((msix.read_window(0x800, Dword), msix.read_window(0x2c, Dword)), (0, 1));
    assert_eq!(msix.raise(&card.config, 2), None);
    assert_eq!(msix.read_window(0x800, Dword), 4);
    let large = Msix::add_with_bar(&mut Card::new().config, 0x98, 2048, 1);
    assert_eq!(large.vectors(), 2048);
}

#[test]
fn last_added_capability_is_first_in_the_chain() {
    let mut config = Card::new().config;
    config.add_capability(9, 0x40, 16);
    config.add_capability(9, 0x50, 16);
    assert_eq!((config.u8(0x34), config.u8(0x51), config.u8(0x41)), (0x50, 0x40, 0));
}

#[test]
fn functions_are_described_for_query_pci() {
    let bench = Bench::new();
    bench.card(2);
    let [info] = &bench.bus.functions()[..] else { panic!("one function") };
    assert_eq!((info.vendor, info.device, info.class, info.irq_pin), (0x1234, 0x1111, 0x0300, 1));
    assert_eq!(class::description(info.class), Some("VGA controller"));
    assert_eq!(info.bars.iter().map(|bar| bar.index).collect::<Vec<_>>(), [0, 2, 4, 6]);
}

#[test]
fn configuration_state_survives_hostile_bytes() {
    let mut card = Card::new();
    state::testing::assert_hostile_bytes_are_harmless(&mut card.config, 7, 200);
    state::testing::assert_reset_is_complete(&mut card, |card| &mut card.config, |card| card.reset(ResetKind::Cold));
}
