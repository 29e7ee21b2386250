//! The machine that is harnessed: every kind of device that needs no more than a disk in memory.

use std::sync::Arc;

use chardev::Chardev;
use clock::RtcBase;
use device::testing::FakeDisk;
use x86::model::{CpuModel, Topology};

use crate::accelerator::AcceleratorConfig;
use crate::config::{
    Address, BlkOptions, BoardOptions, BridgeKind, CardModel, CardOptions, ChipsetKind, DeviceConfig, DeviceKind,
    DiskUse, DisplayConfig, DriveKind, DriveOptions, EHCI_MODELS, FloppyConfig, GpuOptions, HidKind, IdeDriveConfig,
    InputKind, InputOptions, MachineConfig, MachineType, MemoryOptions, MicrovmOptions, MmioPlace, PciOptions,
    PciPlace, PortKind, PortOptions, RngOptions, RootPortConfig, ScsiDriveConfig, ScsiOptions, SerialOptions,
    SerialPortConfig, UHCI_MODELS, UhciOptions, UnitKind, UnitOptions, UsbControllerConfig, UsbControllerKind,
    UsbDeviceConfig, UsbDeviceKind, UsbLabels, VirtioBlkConfig, VirtioConfig, VirtioModel, XhciModel, XhciOptions,
};
use crate::event::GuestEvents;
use crate::firmware::FirmwareConfig;
use crate::numa::Numa;
use crate::vcpu::Threads;
use crate::{Backends, Machine};

/// Sectors of the disks, as a floppy has them.
const SECTORS: usize = 2880;
/// Bytes of the disks.
pub(super) const DISK_LEN: u64 = SECTORS as u64 * 512;

/// The machine, whose vCPUs never run, and its disks. Beside what the board has it has the devices that `wanted` asks for by
/// the name of the device they belong to: a controller's units come with it.
///
/// # Panics
/// It can't be built: `name` is no machine, or a device refuses its configuration.
pub(super) fn build(name: &str, wanted: impl Fn(&str) -> bool) -> (Machine, Vec<Arc<FakeDisk>>) {
    let accelerator = AcceleratorConfig::Qtest;
    let (cpu_model, _) = CpuModel::parse("qemu64", &accelerator.host()).expect("a model");
    let card = |model| DeviceKind::Display(DisplayConfig { model, address: None, options: CardOptions::default() });
    let bridge = |kind| DeviceKind::Bridge { kind, place: PciPlace::default(), chassis: 1 };
    let functions = [
        ("secondary-vga", card(CardModel::SecondaryVga)),
        ("bochs-display", card(CardModel::Bochs)),
        ("i6300esb", DeviceKind::I6300Esb { place: PciPlace::default() }),
        ("pvpanic-pci", DeviceKind::PvpanicPci { place: PciPlace::default(), events: 3 }),
        ("pci-bridge", bridge(BridgeKind::Pci)),
        ("i82801b11-bridge", bridge(BridgeKind::I82801b11)),
        ("pcie-pci-bridge", bridge(BridgeKind::PcieToPci)),
    ];
    let others = [
        ("pvpanic", DeviceKind::Pvpanic { ioport: 0x505, events: 3 }),
        ("isa-debug-exit", DeviceKind::IsaDebugExit { iobase: 0x501, iosize: 2 }),
        ("ib700", DeviceKind::Ib700),
        ("pc-testdev", DeviceKind::PcTestdev),
        ("isa-serial", DeviceKind::IsaSerial { index: 0, iobase: 0x3f8, irq: 4, chardev: "null".to_owned() }),
        ("isa-parallel", DeviceKind::IsaParallel { index: 0, iobase: 0x378, irq: 7, chardev: "null".to_owned() }),
        ("isa-debugcon", DeviceKind::IsaDebugcon { iobase: 0x402, readback: 0xe9, chardev: "null".to_owned() }),
        ("fw_cfg", DeviceKind::Vmgenid { guid: [1; 16] }),
        ("fw_cfg", DeviceKind::Vmcoreinfo),
    ];
    let functions = functions.into_iter().map(|(owner, kind)| (owner, named(owner, kind)));
    let plain = functions.chain(others.into_iter().map(|(owner, kind)| (owner, named("", kind))));
    let machine_type = MachineType::by_name(name).expect("a machine");
    let chipset = machine_type.chipset;
    let ports = if matches!(chipset, ChipsetKind::Q35 | ChipsetKind::Microvm) { root_ports() } else { Vec::new() };
    let behind = if chipset == ChipsetKind::Q35 { behind_port() } else { Vec::new() };
    let other_card = Some(virtio_vga()).filter(|_| chipset.has_pci() && !wanted("vga"));
    // The transports of a microvm are looked at together.
    let is_wanted = |owner: &str| {
        let together = (chipset == ChipsetKind::Microvm && wanted("virtio-mmio"))
            || (owner == "pcie-root-port" && BEHIND_PORT.iter().any(|behind| wanted(behind)));
        wanted(owner) || together
    };
    let devices =
        plain.chain(ports).chain(behind).chain(usb_devices()).chain(virtio_devices()).chain(disks(name == "q35"));
    let devices = devices.chain(other_card);
    let devices = devices.filter(|(owner, _)| is_wanted(owner)).map(|(_, device)| device).collect();
    let devices = match chipset {
        ChipsetKind::Isa => without_pci(devices),
        ChipsetKind::Microvm => behind_transports(devices),
        _ => devices,
    };
    let vga = if chipset == ChipsetKind::Isa { CardModel::IsaVga } else { CardModel::Vga };
    let flash = if chipset.has_pci() && wanted("cfi.pflash01") { vec![disk()] } else { Vec::new() };
    let microvm = MicrovmOptions { pcie: true, ..MicrovmOptions::default() };
    let config = MachineConfig {
        machine_type,
        ram_size: 32 << 20,
        cpus: 1,
        topology: Topology { sockets: 2, dies: 1, cores: 1, threads: 1 },
        cpu_model,
        accelerator,
        threads: Threads::Multi,
        icount: None,
        rtc: RtcBase::Virtual { start: 1_000_000_000 },
        usb: machine_type.chipset.has_pci(),
        hpet: machine_type.chipset.has_pci(),
        mem_merge: true,
        dump_guest_core: true,
        firmware: FirmwareConfig { flash, ..FirmwareConfig::default() },
        boot: None,
        vga: wanted("vga").then(|| named("", card(vga))),
        board: BoardOptions { no_reboot: false, microvm, ..BoardOptions::default() },
        memory: MemoryOptions::default(),
        numa: Numa::default(),
        types: Vec::new(),
        devices,
    };
    let made = std::cell::RefCell::new(Vec::new());
    let backends = Backends {
        chardevs: &|id| Ok(Chardev::null(id)),
        disks: &|_| {
            let disk = FakeDisk::new(SECTORS);
            // Boards read what they boot from.
            disk.set_eager(true);
            made.borrow_mut().push(Arc::clone(&disk));
            Ok(disk)
        },
        memories: &|_| Err("there is no memory".to_owned()),
        entropy: &|_| Err("there is no source".to_owned()),
    };
    let machine = Machine::new(&config, &backends, &(Arc::new(|_| ()) as GuestEvents), None).expect("a machine");
    let disks = made.into_inner();
    disks.iter().for_each(|disk| disk.set_eager(false));
    (machine, disks)
}

/// What a machine without PCI can have.
fn without_pci(devices: Vec<DeviceConfig>) -> Vec<DeviceConfig> {
    let can_be = |device: &DeviceConfig| {
        let needs_bus = matches!(
            device.kind,
            DeviceKind::UsbDevice(_)
                | DeviceKind::ScsiDrive(_)
                | DeviceKind::SerialPort(_)
                | DeviceKind::Vmgenid { .. }
        );
        !needs_bus && !device.kind.needs_pci()
    };
    devices.into_iter().filter(can_be).collect()
}

/// What a microvm can have: none of the virtio devices is a PCI function.
fn behind_transports(devices: Vec<DeviceConfig>) -> Vec<DeviceConfig> {
    let moved = |mut device: DeviceConfig| {
        match &mut device.kind {
            DeviceKind::VirtioBlkPci(config) => {
                (config.type_name, config.mmio) = ("virtio-blk-device", Some(MmioPlace::default()));
            }
            DeviceKind::Virtio(config) => {
                config.type_name = match config.model {
                    VirtioModel::Scsi { .. } => "virtio-scsi-device",
                    VirtioModel::Rng { .. } => "virtio-rng-device",
                    VirtioModel::Serial(_) => "virtio-serial-device",
                    VirtioModel::Input(_) => "virtio-input-device",
                    VirtioModel::Gpu { .. } => "virtio-gpu-device",
                };
                config.mmio = Some(MmioPlace::default());
            }
            DeviceKind::IdeDrive(_) | DeviceKind::Floppy(_) | DeviceKind::Vmgenid { .. } => return None,
            _ => {}
        }
        Some(device)
    };
    devices.into_iter().filter_map(moved).collect()
}

/// A device; without an id if the name is empty.
fn named(id: &str, kind: DeviceKind) -> DeviceConfig {
    DeviceConfig { id: Some(id.to_owned()).filter(|id| !id.is_empty()), source: String::new(), kind, rom: None }
}

fn disk() -> DiskUse {
    DiskUse { drive: "disk".to_owned(), removable: true, ..DiskUse::default() }
}

/// PCI Express ports, with slots and without.
fn root_ports() -> Vec<(&'static str, DeviceConfig)> {
    let port = |type_name, chassis, kind| {
        let options = PortOptions { slot: u16::from(chassis), hotplug: chassis == 1, ..PortOptions::new(kind) };
        let config = RootPortConfig { type_name, address: None, chassis, options };
        (type_name, named(type_name, DeviceKind::RootPort(config)))
    };
    vec![port("pcie-root-port", 1, PortKind::Generic), port("ioh3420", 2, PortKind::Ioh3420)]
}

/// What is behind a port of PCI Express.
const BEHIND_PORT: [&str; 2] = ["express-virtio", "express-xhci"];

/// Functions with the capabilities of PCI Express, in the slot of a port.
fn behind_port() -> Vec<(&'static str, DeviceConfig)> {
    let [virtio, xhci] = BEHIND_PORT;
    let place =
        |function| PciPlace { bus: Some("pcie-root-port".to_owned()), address: Some(Address::new(0, function)) };
    let pci = PciOptions { multifunction: true, only_conventional_legacy: true, ..PciOptions::default() };
    let model = VirtioModel::Serial(SerialOptions::default());
    let type_name = "virtio-serial-pci";
    let console = VirtioConfig { type_name, mmio: None, place: place(0), pci, vectors: None, model };
    let kind = UsbControllerKind::Xhci(XhciOptions::new(XhciModel::Qemu));
    let controller = UsbControllerConfig { place: place(1), is_multifunction: true, kind };
    vec![
        (virtio, named(virtio, DeviceKind::Virtio(Box::new(console)))),
        (xhci, named(xhci, DeviceKind::UsbController(Box::new(controller)))),
    ]
}

/// A VGA that is a virtio device, too.
fn virtio_vga() -> (&'static str, DeviceConfig) {
    let vga = CardOptions { vgamem_mb: 8, edid: false, ..CardOptions::default() };
    let model = VirtioModel::Gpu { options: GpuOptions::default(), vga: Some(vga) };
    let pci = PciOptions { legacy: false, ..PciOptions::default() };
    let (type_name, place) = (super::OTHER_CARD, PciPlace::default());
    let config = VirtioConfig { type_name, mmio: None, place, pci, vectors: None, model };
    (type_name, named(type_name, DeviceKind::Virtio(Box::new(config))))
}

/// Drives on all kinds of buses, and the controllers that they belong to.
fn disks(is_q35: bool) -> Vec<(&'static str, DeviceConfig)> {
    let ide = |unit: u32, kind| {
        let (bus, unit) = if is_q35 { (format!("ide.{unit}"), 0) } else { (format!("ide.{}", unit / 2), unit % 2) };
        let type_name = if kind == DriveKind::Disk { "ide-hd" } else { "ide-cd" };
        let (bus, unit, disk, drive) = (Some(bus), Some(unit), disk(), DriveOptions::new(kind));
        let config = IdeDriveConfig { type_name, bus, unit, disk, drive, translation: None, is_boards: false };
        named("", DeviceKind::IdeDrive(Box::new(config)))
    };
    let scsi = |owner: &str, target, kind, type_name| {
        let unit = UnitOptions::new(kind);
        let (bus, disk, target) = (Some(format!("{owner}.0")), disk(), Some(target));
        let config = ScsiDriveConfig { type_name, bus, channel: 0, target, lun: None, disk, unit };
        named("", DeviceKind::ScsiDrive(Box::new(config)))
    };
    let usb = |bus: &str| {
        let kind = UsbDeviceKind::Storage { disk: Box::new(disk()), unit: Box::new(UnitOptions::new(UnitKind::Disk)) };
        let (bus, labels) = (Some(format!("{bus}.0")), UsbLabels::default());
        named("", DeviceKind::UsbDevice(Box::new(UsbDeviceConfig { bus, port: None, labels, kind })))
    };
    let blk = VirtioBlkConfig {
        type_name: "virtio-blk-pci",
        mmio: None,
        bus: None,
        address: None,
        disk: disk(),
        pci: PciOptions::default(),
        blk: BlkOptions::default(),
        num_queues: None,
        vectors: None,
    };
    // A q35 has the controller for drives of its own alone.
    let floppy = FloppyConfig { unit: None, drive_type: None, disk: disk(), is_boards: true };
    vec![
        ("ide", ide(0, DriveKind::Disk)),
        ("ide", ide(1, DriveKind::Cd)),
        ("ide", ide(2, DriveKind::Disk)),
        ("virtio-scsi-pci", scsi("virtio-scsi-pci", 0, UnitKind::Disk, "scsi-hd")),
        ("virtio-scsi-pci", scsi("virtio-scsi-pci", 1, UnitKind::Cd, "scsi-cd")),
        ("ehci", usb("ehci")),
        ("xhci", usb("xhci")),
        ("ehci", scsi("uas-ehci", 0, UnitKind::Disk, "scsi-hd")),
        ("xhci", scsi("uas-xhci", 0, UnitKind::Disk, "scsi-hd")),
        ("xhci", scsi("uas-xhci", 0, UnitKind::Cd, "scsi-cd")),
        ("virtio-blk-pci", named("virtio-blk-pci", DeviceKind::VirtioBlkPci(Box::new(blk)))),
        ("fdc", named("", DeviceKind::Floppy(Box::new(floppy)))),
    ]
}

/// USB controllers of all kinds with devices. A companion goes with its controller.
fn usb_devices() -> Vec<(&'static str, DeviceConfig)> {
    let place = |slot, function| PciPlace { address: Some(Address::new(slot, function)), ..PciPlace::default() };
    let controller = |id: &'static str, place, kind| {
        let config = UsbControllerConfig { place, is_multifunction: true, kind };
        let owner = if id == "companion" { "ehci" } else { id };
        (owner, named(id, DeviceKind::UsbController(Box::new(config))))
    };
    let device = |owner: &'static str, kind| {
        let (bus, labels) = (Some(format!("{owner}.0")), UsbLabels::default());
        let kind = DeviceKind::UsbDevice(Box::new(UsbDeviceConfig { bus, port: None, labels, kind }));
        (owner, named("", kind))
    };
    let adapter = |owner: &'static str, id: &str| {
        let (_, device) = device(owner, UsbDeviceKind::Uas);
        (owner, DeviceConfig { id: Some(id.to_owned()), ..device })
    };
    let uhci = |index: usize, companion| UsbControllerKind::Uhci {
        model: UHCI_MODELS[index],
        options: UhciOptions::default(),
        companion,
    };
    let hid = |kind| UsbDeviceKind::Hid { kind, usb_version: 2, seat: None };
    let hub = UsbDeviceKind::Hub { ports: 4, switches_power: true };
    vec![
        controller("ehci", place(28, 7), UsbControllerKind::Ehci { model: EHCI_MODELS[1], max_frames: 128 }),
        controller("companion", place(28, 0), uhci(2, Some(("ehci.0".to_owned(), 0)))),
        controller("uhci", place(27, 0), uhci(1, None)),
        controller("xhci", place(26, 0), UsbControllerKind::Xhci(XhciOptions::new(XhciModel::Qemu))),
        controller("nec", place(25, 0), UsbControllerKind::Xhci(XhciOptions::new(XhciModel::Nec))),
        device("ehci", hid(HidKind::Tablet)),
        device("uhci", hub),
        device("uhci", hid(HidKind::Mouse)),
        device("uhci", hid(HidKind::Keyboard)),
        device("xhci", hid(HidKind::Tablet)),
        device("nec", hid(HidKind::Keyboard)),
        adapter("ehci", "uas-ehci"),
        adapter("xhci", "uas-xhci"),
    ]
}

/// virtio devices of all kinds that need no disk.
fn virtio_devices() -> Vec<(&'static str, DeviceConfig)> {
    let device = |type_name, legacy, model| {
        let pci = PciOptions { legacy, ..PciOptions::default() };
        let config = VirtioConfig { type_name, mmio: None, place: PciPlace::default(), pci, vectors: None, model };
        (type_name, named(type_name, DeviceKind::Virtio(Box::new(config))))
    };
    let scsi = VirtioModel::Scsi { options: ScsiOptions::default(), num_queues: None, iothread: None };
    let gpu = GpuOptions { max_outputs: 2, ..GpuOptions::default() };
    let input = |kind| VirtioModel::Input(InputOptions { kind, wheel_axis: true, serial: None, seat: None });
    let port = SerialPortConfig {
        type_name: "virtserialport",
        bus: None,
        number: None,
        name: Some("org.ouzel.test".to_owned()),
        is_console: false,
        chardev: None,
    };
    let console = SerialPortConfig { type_name: "virtconsole", name: None, is_console: true, ..port.clone() };
    vec![
        device("virtio-scsi-pci", true, scsi),
        device("virtio-rng-pci", true, VirtioModel::Rng { options: RngOptions::default(), source: None }),
        device("virtio-serial-pci", true, VirtioModel::Serial(SerialOptions::default())),
        ("virtio-serial-pci", named("", DeviceKind::SerialPort(port))),
        ("virtio-serial-pci", named("", DeviceKind::SerialPort(console))),
        device("virtio-keyboard-pci", false, input(InputKind::Keyboard)),
        device("virtio-mouse-pci", false, input(InputKind::Mouse)),
        device("virtio-tablet-pci", false, input(InputKind::Tablet)),
        device("virtio-gpu-pci", false, VirtioModel::Gpu { options: gpu, vga: None }),
    ]
}
