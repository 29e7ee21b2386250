//! The devices by the buses that they are on, as `info qtree` shows them.
//!
//! What QEMU has as devices and this program has as parts of others (the second interrupt and DMA controller, the
//! keyboard, EEPROMs) is not listed; nor is what is on no bus. A device shows what it was configured with.

mod settings;

use std::sync::Arc;

use devices_chipset::ioapic::{IOAPIC_BASE, IOAPIC_SECOND_BASE, IOAPIC_SIZE};
use devices_pci::{Address, FunctionInfo, PciBus};

pub use self::settings::{Setting, Value};
use super::usb::UsbDeviceInfo;
use super::{Board, BoardDevice, Place, Removal, microvm, usb};
use crate::config::{DeviceConfig, DeviceKind, MachineConfig};

/// A bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// What is on it, the newest first.
    pub devices: Vec<Node>,
}

/// A device on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name of its type.
    pub type_name: &'static str,
    /// Where it is among the objects.
    pub path: String,
    /// The user's id.
    pub id: Option<String>,
    /// What it was configured with.
    pub settings: Vec<Setting>,
    /// What there is to say of it by its bus.
    pub facts: Facts,
    /// The buses that it has.
    pub buses: Vec<Bus>,
}

/// What there is to say of a device by its bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Nothing.
    None,
    /// Where it is in memory: address and length.
    Memory(u64, u64),
    /// A PCI function.
    Pci(Box<FunctionInfo>),
    /// A USB device.
    Usb(UsbDeviceInfo),
}

/// Where a device is.
#[derive(Clone, PartialEq, Eq)]
enum Seat {
    /// On no bus.
    Nowhere,
    /// On the board's own.
    System,
    /// On a PCI bus of this number.
    Pci(usize, Address),
    /// On a bus of this name.
    Named(String),
    /// On the bus of the device with this path.
    Of(String),
}

/// The board's devices on its own bus.
const ON_SYSTEM: [&str; 10] = [
    "hpet",
    "ioapic",
    "kvm-irqchip",
    "i440FX-pcihost",
    "q35-pcihost",
    "fw_cfg",
    "cfi.pflash01",
    "acpi-ged-x86",
    "virtio-mmio",
    "pc-testdev",
];

/// Those on the ISA bus.
const ON_ISA: [&str; 16] = [
    "isa-serial",
    "isa-parallel",
    "isa-debugcon",
    "isa-debug-exit",
    "isa-fdc",
    "isa-i8259",
    "isa-ide",
    "isa-pit",
    "isa-vga",
    "i8042",
    "i8257",
    "ib700",
    "mc146818rtc",
    "port92",
    "pvpanic",
    "vmport",
];

/// The bus that all the board's devices are on.
const SYSTEM: &str = "main-system-bus";
const ISA: &str = "isa.0";

/// What the tree is made of.
struct Trees<'a> {
    board: &'a Board,
    config: &'a MachineConfig,
    pci: Vec<Arc<PciBus>>,
    seats: Vec<Seat>,
    usb: Vec<UsbDeviceInfo>,
}

impl Board {
    /// The board's buses with their devices; `config` is the machine's, with the devices that came since.
    pub fn device_tree(&self, config: &MachineConfig) -> Vec<Bus> {
        let mut pci = Vec::new();
        if let Some(root) = &self.root {
            collect(root, &mut pci);
        }
        let seats = self.devices.iter().map(|device| seat(device, &pci)).collect();
        let usb = self.hotplug.as_ref().map_or_else(Vec::new, |hotplug| usb::devices(&hotplug.buses().usb));
        let trees = Trees { board: self, config, pci, seats, usb };
        let mut roots = vec![trees.bus(SYSTEM.to_owned(), "System", |seat| *seat == Seat::System)];
        // What has no device above it.
        let has = |type_name: &str| self.devices.iter().any(|device| device.type_name == type_name);
        if !trees.pci.is_empty() && !has("i440FX-pcihost") && !has("q35-pcihost") {
            roots.push(trees.pci_bus(0));
        }
        if !has("PIIX3") && !has("ICH9-LPC") && trees.seats.contains(&Seat::Named(ISA.to_owned())) {
            roots.push(trees.named(ISA, "ISA"));
        }
        roots
    }
}

/// A bus and those behind it.
fn collect(bus: &Arc<PciBus>, into: &mut Vec<Arc<PciBus>>) {
    into.push(Arc::clone(bus));
    for (_, behind) in bus.children() {
        collect(&behind, into);
    }
}

fn seat(device: &BoardDevice, pci: &[Arc<PciBus>]) -> Seat {
    for (number, bus) in pci.iter().enumerate() {
        let found = bus.addresses().into_iter().find(|address| bus.is_attached(*address, &device.lifecycle));
        if let Some(address) = found {
            return Seat::Pci(number, address);
        }
    }
    match (&device.removal, &device.place) {
        (Removal::NoBus(bus) | Removal::Usb { bus, .. } | Removal::Scsi { bus, .. }, _)
        | (Removal::SerialPort { bus, .. }, _) => Seat::Named(bus.clone()),
        (_, Place::Part(parent, _)) => Seat::Of(parent.clone()),
        _ if ON_SYSTEM.contains(&device.type_name) => Seat::System,
        _ if ON_ISA.contains(&device.type_name) => Seat::Named(ISA.to_owned()),
        _ => Seat::Nowhere,
    }
}

impl Trees<'_> {
    fn bus(&self, name: String, kind: &'static str, is_here: impl Fn(&Seat) -> bool) -> Bus {
        let here = (0..self.seats.len()).rev().filter(|index| self.seats.get(*index).is_some_and(&is_here));
        Bus { name, kind, devices: here.filter_map(|index| self.node(index)).collect() }
    }

    fn named(&self, name: &str, kind: &'static str) -> Bus {
        self.bus(name.to_owned(), kind, |seat| matches!(seat, Seat::Named(bus) if bus == name))
    }

    fn pci_bus(&self, number: usize) -> Bus {
        let Some(bus) = self.pci.get(number) else { return self.named("", "PCI") };
        let is_express = bus.name() == "pcie.0" || self.is_behind_port(number);
        let kind = if is_express { "PCIE" } else { "PCI" };
        self.bus(bus.name().to_owned(), kind, |seat| matches!(seat, Seat::Pci(on, _) if *on == number))
    }

    /// Whether the PCI bus of this number is the link of a PCI Express port.
    fn is_behind_port(&self, number: usize) -> bool {
        let hotplug = self.board.hotplug.as_ref();
        self.pci.get(number).is_some_and(|bus| hotplug.is_some_and(|hotplug| hotplug.buses().is_behind_port(bus)))
    }

    fn node(&self, index: usize) -> Option<Node> {
        let device = self.board.devices.get(index)?;
        let config = self.configuration(index);
        let (mut settings, of_part) = match (config, &device.place) {
            (Some(config), Place::Part(..)) => (settings::of_usb_unit(&config.kind), Vec::new()),
            (Some(config), _) => settings::of(&config.kind, self.config.cpus),
            (None, _) => Default::default(),
        };
        if device.type_name == "PIIX4_PM" {
            let sleep = &self.config.firmware.sleep;
            settings.extend([
                ("disable_s3", Value::Number(u64::from(!sleep.s3))),
                ("disable_s4", Value::Number(u64::from(!sleep.s4))),
                ("s4_val", Value::Number(sleep.s4_value.into())),
            ]);
        }
        if let Removal::Scsi { address, .. } = &device.removal {
            let place = [("channel", address.channel), ("scsi-id", address.target), ("lun", address.lun)];
            settings.extend(place.map(|(name, value)| (name, Value::Number(value.into()))));
        }
        let facts = self.facts(index, device);
        if let Some(Seat::Pci(bus, address)) = self.seats.get(index) {
            let several = self.pci.get(*bus).is_some_and(|bus| bus.is_multifunction(*address));
            settings.push(("addr", Value::Slot(address.slot(), address.function())));
            settings.push(("multifunction", several.into()));
            let legacy =
                settings.iter_mut().filter(|(name, value)| *name == "disable-legacy" && *value == "auto".into());
            for (_, value) in legacy {
                *value = if self.is_behind_port(*bus) { "on" } else { "off" }.into();
            }
        }
        let mut buses = self.buses(index, device);
        match device.part {
            Some((name, type_name)) if type_name != "scsi-hd" && type_name != "scsi-cd" => {
                let path = format!("{}/{name}", device.path);
                let part = Node { type_name, path, id: None, settings: of_part, facts: Facts::None, buses };
                let bus = Bus { name: "virtio-bus".to_owned(), kind: "virtio-pci-bus", devices: vec![part] };
                buses = vec![bus];
            }
            _ => settings.extend(of_part),
        }
        // The newest first, as the devices.
        buses.reverse();
        let (type_name, path, id) = (device.type_name, device.path.clone(), device.id().map(str::to_owned));
        Some(Node { type_name, path, id, settings, facts, buses })
    }

    /// The option that a device was made of: that of its id, or that with the same number among those of its type.
    fn configuration(&self, index: usize) -> Option<&DeviceConfig> {
        let device = self.board.devices.get(index)?;
        let is_boards = device.place == Place::Board;
        match &device.place {
            Place::Peripheral(id) => self.config.devices.iter().find(|config| config.id.as_ref() == Some(id)),
            Place::Part(parent, _) => {
                let is_above =
                    |path: &str| path == parent || parent.rsplit_once('/').is_some_and(|(above, _)| above == path);
                let parent = self.board.devices.iter().position(|other| is_above(&other.path))?;
                self.configuration(parent)
            }
            Place::Board | Place::Anonymous => {
                let is_like = |other: &&BoardDevice| other.place == device.place && other.type_name == device.type_name;
                let before = self.board.devices.iter().take(index).filter(is_like).count();
                let card = self.config.vga.iter().filter(|_| is_boards);
                let others = self.config.devices.iter().filter(|config| match is_boards {
                    true => config.kind.is_of_board(),
                    false => config.id.is_none() && !config.kind.is_of_board(),
                });
                card.chain(others).filter(|config| type_name(&config.kind) == device.type_name).nth(before)
            }
        }
    }

    fn facts(&self, index: usize, device: &BoardDevice) -> Facts {
        let before =
            || self.board.devices.iter().take(index).filter(|other| other.type_name == device.type_name).count();
        match (self.seats.get(index), &device.removal) {
            (Some(Seat::Pci(bus, address)), _) => {
                let info = self.pci.get(*bus).and_then(|bus| bus.function(*address));
                let info = info.map(|info| FunctionInfo { bus: self.bus_number(*bus), ..info });
                info.map_or(Facts::None, |info| Facts::Pci(Box::new(info)))
            }
            (_, Removal::Usb { bus, port }) => {
                let number = self.usb_bus(|other| other.name() == bus);
                let info = self.usb.iter().find(|info| Some(info.bus) == number && info.port == *port);
                info.map_or(Facts::None, |info| Facts::Usb(info.clone()))
            }
            _ => match device.type_name {
                "hpet" => Facts::Memory(super::HPET.0, super::HPET.1),
                "ioapic" => Facts::Memory([IOAPIC_BASE, IOAPIC_SECOND_BASE][before() & 1], IOAPIC_SIZE),
                "virtio-mmio" => {
                    let (address, len) = microvm::transport(before());
                    Facts::Memory(address, len)
                }
                _ => Facts::None,
            },
        }
    }

    /// The number that the guest has given to a PCI bus.
    fn bus_number(&self, bus: usize) -> u8 {
        let Some(bus) = self.pci.get(bus) else { return 0 };
        let above = self.pci.iter().find_map(|other| {
            let bridge = other.children().into_iter().find(|(_, behind)| Arc::ptr_eq(behind, bus))?;
            other.function(bridge.0)?.bridge
        });
        above.map_or(0, |bridge| bridge.buses.1)
    }

    fn usb_bus(&self, is_it: impl Fn(&usb::UsbBus) -> bool) -> Option<usize> {
        self.board.hotplug.as_ref()?.buses().usb.iter().position(is_it)
    }

    /// The buses that a device has, the oldest first.
    fn buses(&self, index: usize, device: &BoardDevice) -> Vec<Bus> {
        if let Some(Seat::Pci(bus, address)) = self.seats.get(index) {
            let behind = self.pci.get(*bus).map_or_else(Vec::new, |bus| bus.children());
            let behind = behind.into_iter().find(|(at, _)| at == address).map(|(_, bus)| bus);
            let number = behind.and_then(|bus| self.pci.iter().position(|other| Arc::ptr_eq(other, &bus)));
            if let Some(number) = number {
                return vec![self.pci_bus(number)];
            }
        }
        match device.type_name {
            "i440FX-pcihost" | "q35-pcihost" => return vec![self.pci_bus(0)],
            "PIIX3" | "ICH9-LPC" => return vec![self.named(ISA, "ISA")],
            "isa-fdc" => return vec![self.named("floppy-bus.0", "floppy-bus")],
            "piix3-ide" | "isa-ide" | "ich9-ahci" => {
                return self.ide_buses(index).iter().map(|name| self.named(name, "IDE")).collect();
            }
            "virtio-mmio" => {
                let same = |other: &&BoardDevice| other.type_name == device.type_name;
                let number = self.board.devices.iter().take(index).filter(same).count();
                return vec![self.named(&format!("virtio-mmio-bus.{number}"), "virtio-mmio-bus")];
            }
            _ => {}
        }
        let Some(hotplug) = &self.board.hotplug else { return Vec::new() };
        let all = hotplug.buses();
        let path = device.path.as_str();
        let usb = all.usb.iter().filter(|bus| bus.path() == path).map(|bus| self.named(bus.name(), "usb-bus"));
        let scsi = all.scsi.iter().filter(|host| host.path() == path).map(|host| self.named(host.name(), "SCSI"));
        let serial = all.serial.iter().filter(|console| console.path() == path);
        let serial = serial.map(|console| self.named(console.name(), "virtio-serial-bus"));
        let mut buses: Vec<Bus> = usb.chain(scsi).chain(serial).collect();
        if device.type_name == "usb-storage" {
            // Its only unit has a bus that others can't be put on.
            let above = |seat: &Seat| match seat {
                Seat::Of(parent) => {
                    parent.rsplit_once('/').filter(|(above, _)| *above == path).map(|(_, bus)| bus.to_owned())
                }
                _ => None,
            };
            if let Some(name) = self.seats.iter().find_map(above) {
                buses.push(self.bus(name, "SCSI", |seat| above(seat).is_some()));
            }
        }
        buses
    }

    /// The names of an IDE controller's buses: those of controllers without an id are numbered on.
    fn ide_buses(&self, index: usize) -> Vec<String> {
        let count = |type_name: &str| match type_name {
            "isa-ide" => 1,
            "piix3-ide" => 2,
            "ich9-ahci" => devices_ide::ahci::PORTS,
            _ => 0,
        };
        let Some(device) = self.board.devices.get(index) else { return Vec::new() };
        let name = |number: usize| match device.id() {
            Some(id) => format!("{id}.{number}"),
            None => {
                let before = self.board.devices.iter().take(index).filter(|other| other.id().is_none());
                format!("ide.{}", before.map(|other| count(other.type_name)).sum::<usize>() + number)
            }
        };
        (0..count(device.type_name)).map(name).collect()
    }
}

fn type_name(kind: &DeviceKind) -> &'static str {
    match kind {
        DeviceKind::IsaSerial { .. } => "isa-serial",
        DeviceKind::IsaParallel { .. } => "isa-parallel",
        DeviceKind::IsaDebugcon { .. } => "isa-debugcon",
        DeviceKind::IsaDebugExit { .. } => "isa-debug-exit",
        DeviceKind::Pvpanic { .. } => "pvpanic",
        DeviceKind::SerialPort(config) => config.type_name,
        DeviceKind::ScsiDrive(config) => config.type_name,
        DeviceKind::IdeDrive(config) => config.type_name,
        DeviceKind::Floppy(_) => "floppy",
        DeviceKind::UsbDevice(config) => config.kind.type_name(),
        other => other.type_name(),
    }
}
