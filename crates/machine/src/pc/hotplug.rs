//! Devices that come to the running machine and leave it.
//!
//! A device comes as those of the command line did: the same functions build it, with a [`Builder`] that is made anew of
//! the board. It leaves at once from buses that don't ask the guest (USB, SCSI, virtio-serial). A PCI function leaves when
//! the guest agrees: it ejects the function, which is off its bus from that moment, and the control thread, told by
//! [`GuestEvent::Unplugged`], does the rest. A reset takes the place of the guest's consent.
//!
//! Left out: hot-plug controllers of conventional bridges (SHPC): functions behind a bridge come by ACPI alone.

use std::sync::{Arc, PoisonError};

use device::DeviceCell;
use devices_pci::acpi_hotplug::{self, AcpiHotplug};
use devices_pci::root_port::RootPort;
use devices_pci::{Address, Hotplug as BusHotplug, MsiSink, PciBus, express};
use devices_scsi::ScsiAddress;
use memory::RamBlock;

use super::pci::Chipset;
use super::scsi::Host;
use super::usb::UsbBus;
use super::virtio_serial::Console;
use super::{Backends, Board, BoardDevice, Builder, option_rom, platform, usb, virtio};
use crate::config::{ChipsetKind, DeviceConfig, DeviceKind, MachineConfig, RomFile, VirtioModel};
use crate::error::MachineError;
use crate::event::{GuestEvent, GuestEvents};
use crate::firmware::BootDevices;

/// The ports of the ACPI registers.
const PORTS_PIIX4: u64 = 0xae00;
const PORTS_ICH9: u64 = 0x0cc0;
/// The general-purpose event of PCI hot-plug.
pub const GPE: u8 = 1;
/// How long a guest with a native slot may take before it can be asked again: nanoseconds.
const NATIVE_PATIENCE: u64 = 5_000_000_000;

/// How a device leaves the running machine.
#[derive(Clone)]
pub enum Removal {
    /// Not at all.
    Fixed,
    /// Not at all: its bus is made once.
    NoBus(String),
    /// From a PCI bus.
    Pci(Arc<PciBus>, Address),
    /// From a port of a USB bus.
    Usb {
        /// The bus.
        bus: String,
        /// The port.
        port: String,
    },
    /// From a SCSI bus.
    Scsi {
        /// The bus.
        bus: String,
        /// The place.
        address: ScsiAddress,
    },
    /// From a virtio console.
    SerialPort {
        /// The console's bus.
        bus: String,
        /// The port.
        number: u32,
    },
}

impl Removal {
    /// Whether devices of this kind can leave.
    pub fn is_possible(&self) -> bool {
        match self {
            Self::Fixed | Self::NoBus(_) => false,
            Self::Pci(bus, _) => !matches!(bus.hotplug(), BusHotplug::None),
            Self::Usb { .. } | Self::Scsi { .. } | Self::SerialPort { .. } => true,
        }
    }
}

/// A device that has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its id.
    pub id: Option<String>,
    /// Its path in the object tree.
    pub path: String,
    /// The path of its part, if that is an object of its own.
    pub part: Option<String>,
}

/// Why a device stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnplugError {
    /// There is no such device.
    #[error("Device '{0}' not found")]
    NotFound(String),
    /// It is no device.
    #[error("{0} is not a hotpluggable device")]
    NoDevice(String),
    /// Devices of its type stay.
    #[error("Device '{0}' does not support hotplugging")]
    Fixed(String),
    /// Devices on its bus stay.
    #[error("Bus '{0}' does not support hotplugging")]
    Bus(String),
    /// The guest was asked before.
    #[error("Device {0} is already in the process of unplug")]
    Pending(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// The buses of a machine that are not PCI's, and the slots of PCI Express.
#[derive(Default)]
pub struct Buses {
    /// The newest IDE bus.
    pub ide: Option<String>,
    /// USB.
    pub usb: Vec<UsbBus>,
    /// SCSI.
    pub scsi: Vec<Host>,
    /// How many SCSI buses were numbered, those of single drives as well.
    pub scsi_numbers: usize,
    /// virtio consoles.
    pub serial: Vec<Console>,
    /// The ports with slots, and the buses behind them.
    pub slots: Vec<(Arc<PciBus>, DeviceCell<RootPort>)>,
    /// The buses behind all the ports.
    pub ports: Vec<Arc<PciBus>>,
}

impl Buses {
    /// Whether a bus is the link of a port of PCI Express.
    pub fn is_behind_port(&self, bus: &Arc<PciBus>) -> bool {
        self.ports.iter().any(|port| Arc::ptr_eq(port, bus))
    }

    /// What a function on a bus is to PCI Express; nothing on a conventional bus.
    pub fn express(&self, bus: &Arc<PciBus>) -> Option<express::Kind> {
        match self.is_behind_port(bus) {
            true => Some(express::Kind::Endpoint),
            false => (bus.name() == "pcie.0").then_some(express::Kind::Integrated),
        }
    }
}

/// How PCI functions come and leave by ACPI.
pub struct PciHotplug {
    /// The registers.
    pub ports: DeviceCell<AcpiHotplug>,
    /// The first of them.
    pub first_port: u16,
    /// What the AML describes: the buses by selector, with the bridges that lead to each.
    pub acpi: Vec<HotplugBus>,
}

/// A bus that ACPI describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotplugBus {
    /// Its selector.
    pub selector: u32,
    /// The bridges on the way from the root bus.
    pub bridges: Vec<Address>,
    /// It has one slot alone.
    pub has_one_slot: bool,
    /// The slots whose functions never leave.
    pub fixed: u32,
}

/// What devices that come later are built with, beside what the board has.
pub struct Hotplug {
    events: GuestEvents,
    ram: Arc<RamBlock>,
    messages: Arc<dyn MsiSink>,
    boot_list: BootDevices,
    buses: Buses,
    pci: Option<PciHotplug>,
}

impl Hotplug {
    /// Takes what is needed from the builder.
    pub(super) fn take(builder: &mut Builder<'_>) -> Self {
        Self {
            events: Arc::clone(&builder.events),
            ram: Arc::clone(&builder.ram),
            messages: Arc::clone(&builder.messages),
            boot_list: Arc::clone(&builder.boot_list),
            buses: std::mem::take(&mut builder.buses),
            pci: builder.pci_hotplug.take(),
        }
    }

    /// The buses that are not PCI's.
    pub(super) fn buses(&self) -> &Buses {
        &self.buses
    }
}

/// Hears that functions have left their bus.
pub(super) fn ejected(builder: &Builder<'_>) -> acpi_hotplug::Ejected {
    let events = Arc::clone(&builder.events);
    Box::new(move |_, _| events(GuestEvent::Unplugged))
}

/// Decides how functions come to each bus. All the buses of the command line are there.
pub(super) fn buses(builder: &mut Builder<'_>, chipset: &Chipset) -> Result<(), MachineError> {
    let board = &builder.config.board;
    let is_q35 = chipset.kind == ChipsetKind::Q35;
    let with_bridges = board.acpi_bridge_hotplug;
    let with_root = board.acpi_root_hotplug && !is_q35;
    for (bus, port) in &builder.buses.slots {
        bus.set_hotplug(BusHotplug::Native(port.clone()));
    }
    if is_q35 && !with_bridges {
        return Ok(());
    }
    let ports = AcpiHotplug::new(with_bridges, ejected(builder));
    let mut found = Vec::new();
    collect(&chipset.bus, &[], &mut found);
    let mut acpi = Vec::new();
    for (bus, bridges) in found {
        let port = builder.buses.slots.iter().find(|(behind, _)| Arc::ptr_eq(behind, &bus));
        let is_port = builder.buses.is_behind_port(&bus);
        let is_wanted = match bridges.is_empty() {
            true => with_root,
            // A port without `hotplug` has a slot that is never changed.
            false => with_bridges && (port.is_some() || !is_port),
        };
        if is_wanted && let Some(selector) = ports.lock().add_bus(Arc::clone(&bus)) {
            bus.set_hotplug(BusHotplug::Acpi(selector));
            acpi.push(HotplugBus { selector, bridges, has_one_slot: is_port, fixed: 0 });
        }
    }
    let first_port = if is_q35 { PORTS_ICH9 } else { PORTS_PIIX4 };
    builder.add_ports("acpi-pci-hotplug", &ports, &[(0, first_port, acpi_hotplug::PORT_COUNT)])?;
    builder.pci_hotplug = Some(PciHotplug { ports, first_port: first_port as u16, acpi });
    Ok(())
}

/// A bus and those behind it, with the bridges that lead there.
fn collect(bus: &Arc<PciBus>, bridges: &[Address], into: &mut Vec<(Arc<PciBus>, Vec<Address>)>) {
    into.push((Arc::clone(bus), bridges.to_vec()));
    for (address, behind) in bus.children() {
        collect(&behind, &[bridges, &[address]].concat(), into);
    }
}

impl Builder<'_> {
    /// Looks which slots can be emptied, now that all devices of the command line are there.
    pub(super) fn find_fixed_slots(&mut self, root: &Arc<PciBus>) {
        let leaves = |bus: &Arc<PciBus>, address: Address| {
            let is_there =
                |removal: &Removal| matches!(removal, Removal::Pci(on, at) if Arc::ptr_eq(on, bus) && *at == address);
            // Bridges stay: the AML describes what is behind them.
            let is_bridge = bus.children().iter().any(|(at, _)| *at == address);
            !is_bridge && self.devices.iter().any(|device| is_there(&device.removal))
        };
        let mut found = Vec::new();
        collect(root, &[], &mut found);
        let Some(hotplug) = &mut self.pci_hotplug else { return };
        for (bus, bridges) in found {
            let Some(entry) = hotplug.acpi.iter_mut().find(|entry| entry.bridges == bridges) else { continue };
            for address in bus.addresses() {
                if !leaves(&bus, address) {
                    entry.fixed |= 1 << address.slot();
                }
            }
            hotplug.ports.lock().set_removable(entry.selector, !entry.fixed);
        }
    }
}

/// What can't come to a running machine, and why.
fn check_kind(kind: &DeviceKind, newest_ide: Option<&str>) -> Result<(), String> {
    let bus = |name: &str| Err(format!("Bus '{name}' does not support hotplugging"));
    if let Some(place) = kind.mmio() {
        return bus(place.bus.as_deref().unwrap_or("virtio-mmio-bus"));
    }
    match kind {
        DeviceKind::IsaSerial { .. }
        | DeviceKind::IsaParallel { .. }
        | DeviceKind::IsaDebugcon { .. }
        | DeviceKind::IsaDebugExit { .. }
        | DeviceKind::Pvpanic { .. }
        | DeviceKind::Ib700
        | DeviceKind::PcTestdev => bus("isa.0"),
        DeviceKind::IdeDrive(config) => match config.bus.as_deref().or(newest_ide) {
            Some(name) => bus(name),
            None => Err(format!("No 'IDE' bus found for device '{}'", config.type_name)),
        },
        DeviceKind::Floppy(_) => bus("floppy-bus.0"),
        DeviceKind::RootPort(_) => bus("pcie.0"),
        DeviceKind::UsbController(config) if config.kind.can_leave() => Ok(()),
        DeviceKind::Virtio(config) if matches!(config.model, VirtioModel::Gpu { .. }) => {
            Err("Parameter 'driver' expects a pluggable device type".to_owned())
        }
        DeviceKind::VirtioBlkPci(_)
        | DeviceKind::Virtio(_)
        | DeviceKind::ScsiDrive(_)
        | DeviceKind::SerialPort(_)
        | DeviceKind::UsbDevice(_)
        | DeviceKind::Bridge { .. }
        | DeviceKind::PvpanicPci { .. }
        | DeviceKind::I6300Esb { .. } => Ok(()),
        _ => Err("Parameter 'driver' expects a pluggable device type".to_owned()),
    }
}

impl Board {
    fn root_bus(&self) -> Result<Arc<PciBus>, String> {
        self.root.clone().ok_or_else(|| "No 'PCI' bus found".to_owned())
    }

    /// Adds a device to the machine; `config` is that of the whole machine.
    ///
    /// # Errors
    /// Why it can't be. What it needed from others is still taken.
    pub fn plug(
        &mut self,
        config: &MachineConfig,
        device: &DeviceConfig,
        backends: &Backends<'_>,
    ) -> Result<std::ops::Range<usize>, String> {
        check_kind(&device.kind, self.hotplug.as_ref().and_then(|hotplug| hotplug.buses.ide.as_deref()))?;
        if device.rom.as_ref().is_some_and(|rom| !rom.bar && matches!(rom.file, RomFile::File(..))) {
            return Err("Hot-plugged device without ROM bar can't have an option ROM".to_owned());
        }
        let root = match device.kind.needs_pci() {
            true => Some(self.root_bus()?),
            false => self.root.clone(),
        };
        if let Some(root) = &root {
            self.check_pci(root, &device.kind)?;
        }
        let Some(hotplug) = self.hotplug.take() else { return Err("this machine has no bus for it".to_owned()) };
        let first = self.devices.len();
        let mut builder = self.builder(config, hotplug);
        let built = match (&device.kind, &root) {
            (DeviceKind::UsbController(_) | DeviceKind::UsbDevice(_), Some(root)) => {
                usb::command_line_device(&mut builder, root, backends.disks, device)
            }
            (DeviceKind::UsbDevice(config), None) => usb::device(&mut builder, backends.disks, (device, config)),
            (DeviceKind::Bridge { kind, place, chassis }, Some(root)) => {
                platform::bridge(&mut builder, root, device, (*kind, place, *chassis))
            }
            (DeviceKind::PvpanicPci { .. } | DeviceKind::I6300Esb { .. }, Some(root)) => {
                platform::command_line_device(&mut builder, root, device)
            }
            (_, root) => virtio::command_line_device(&mut builder, root.as_ref(), backends, device),
        };
        let built = built.and_then(|()| option_rom::of_device(&mut builder, first, device));
        let new = std::mem::take(&mut builder.boot_devices);
        let hotplug = Hotplug::take(&mut builder);
        if built.is_ok() {
            hotplug.boot_list.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
        }
        self.devices = std::mem::take(&mut builder.devices);
        self.hotplug = Some(hotplug);
        self.name_board_devices(config, first);
        for device in &mut self.devices[first..] {
            device.is_hotplugged = true;
            device.lifecycle.reset(device::ResetKind::Cold);
        }
        built?;
        for index in first..self.devices.len() {
            self.tell_plugged(index);
        }
        Ok(first..self.devices.len())
    }

    /// Paths for what the board adds of its own: hubs for USB buses that are full.
    fn name_board_devices(&mut self, config: &MachineConfig, first: usize) {
        for index in first..self.devices.len() {
            if self.devices[index].path.is_empty() {
                let mut numbers = config.cpus as usize + first..;
                let path = |number| format!("/machine/unattached/device[{number}]");
                let is_free = |number: &usize| self.devices.iter().all(|device| device.path != path(*number));
                self.devices[index].path = numbers.find(is_free).map(path).unwrap_or_default();
            }
        }
    }

    fn builder<'a>(&mut self, config: &'a MachineConfig, hotplug: Hotplug) -> Builder<'a> {
        Builder {
            config,
            clock: self.clock.clone(),
            events: hotplug.events,
            memory: Arc::clone(&self.memory),
            ports: Arc::clone(&self.ports),
            ram: hotplug.ram,
            smm: self.smm_memory.clone(),
            gsi: self.controllers.inputs.clone(),
            messages: hotplug.messages,
            mailboxes: self.mailboxes.clone(),
            legacy: devices_chipset::legacy::LegacyReplacement::default(),
            dma: None,
            devices: std::mem::take(&mut self.devices),
            ide_disks: Vec::new(),
            boot_devices: Vec::new(),
            boot_list: hotplug.boot_list,
            screens: Vec::new(),
            input: Arc::clone(&self.input),
            rom_files: Vec::new(),
            transports: super::microvm::Transports::default(),
            buses: hotplug.buses,
            pci_hotplug: hotplug.pci,
            taken: self.cpu_paths.clone(),
        }
    }

    /// Whether functions can come to the bus that a device names, and to its place there.
    fn check_pci(&self, root: &Arc<PciBus>, kind: &DeviceKind) -> Result<(), String> {
        let is_pci = !matches!(kind, DeviceKind::ScsiDrive(_) | DeviceKind::SerialPort(_) | DeviceKind::UsbDevice(_));
        if !is_pci {
            return Ok(());
        }
        let (bus, address) = kind.place();
        let bus = match bus {
            Some(name) => root.by_name(name).ok_or_else(|| format!("Bus '{name}' not found"))?,
            None => Arc::clone(root),
        };
        if matches!(bus.hotplug(), BusHotplug::None) {
            return Err(format!("Bus '{}' does not support hotplugging", bus.name()));
        }
        match address {
            Some(address) if !bus.is_occupied(address) => {
                let name = kind.type_name();
                bus.check_exposed(address, name).map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Tells the guest of a device that has come.
    fn tell_plugged(&self, index: usize) {
        let Some(device) = self.devices.get(index) else { return };
        match &device.removal {
            Removal::Pci(bus, address) => match bus.hotplug() {
                BusHotplug::Acpi(selector) => {
                    if let Some(pci) = self.hotplug.as_ref().and_then(|hotplug| hotplug.pci.as_ref()) {
                        pci.ports.lock().plugged(selector, address.slot());
                    }
                    self.raise_gpe(GPE);
                }
                BusHotplug::Native(port) => port.lock().plugged(*address),
                BusHotplug::None => {}
            },
            Removal::Scsi { bus, address } => {
                let hosts = self.hotplug.iter().flat_map(|hotplug| &hotplug.buses.scsi);
                if let Some(host) = hosts.into_iter().find(|host| host.name() == bus) {
                    host.plugged(*address);
                }
            }
            Removal::SerialPort { bus, number } => {
                let consoles = self.hotplug.iter().flat_map(|hotplug| &hotplug.buses.serial);
                if let Some(console) = consoles.into_iter().find(|console| console.name() == bus) {
                    console.plugged(*number);
                }
            }
            Removal::Usb { .. } | Removal::Fixed | Removal::NoBus(_) => {}
        }
    }

    pub(crate) fn raise_gpe(&self, event: u8) {
        if let Some(power) = &self.power_management {
            power.lock().raise_gpe(event);
        }
    }

    /// Asks for a device, by its path, to leave. `true`: it can be removed now; otherwise the guest was asked.
    ///
    /// # Errors
    /// It stays.
    pub fn request_removal(&mut self, path: &str, name: &str) -> Result<bool, UnplugError> {
        let now = self.clock.now();
        let missing = || UnplugError::NoDevice(name.to_owned());
        let device = self.devices.iter_mut().find(|device| device.path == path).ok_or_else(missing)?;
        if device.leaves.is_some_and(|until| now < until) {
            return Err(UnplugError::Pending(name.to_owned()));
        }
        match &device.removal {
            Removal::Fixed => Err(UnplugError::Fixed(device.type_name.to_owned())),
            Removal::NoBus(bus) => Err(UnplugError::Bus(bus.clone())),
            Removal::Pci(bus, address) => match bus.hotplug() {
                BusHotplug::None => Err(UnplugError::Bus(bus.name().to_owned())),
                BusHotplug::Acpi(selector) => {
                    device.leaves = Some(now);
                    let slot = address.slot();
                    if let Some(pci) = self.hotplug.as_ref().and_then(|hotplug| hotplug.pci.as_ref()) {
                        pci.ports.lock().request(selector, slot);
                    }
                    self.raise_gpe(GPE);
                    Ok(false)
                }
                BusHotplug::Native(port) => {
                    let at_once = port.lock().request_removal();
                    let at_once = at_once.map_err(|error| UnplugError::Other(error.to_string()))?;
                    device.leaves = Some(now.saturating_add(NATIVE_PATIENCE));
                    Ok(at_once)
                }
            },
            Removal::Usb { .. } | Removal::Scsi { .. } | Removal::SerialPort { .. } => Ok(true),
        }
    }

    /// The devices that the guest has let go.
    pub fn ejected(&self) -> Vec<String> {
        let is_gone = |device: &&BoardDevice| match &device.removal {
            Removal::Pci(bus, address) => !bus.is_attached(*address, &device.lifecycle),
            _ => false,
        };
        self.devices.iter().filter(is_gone).map(|device| device.path.clone()).collect()
    }

    /// The devices that the guest was asked to let go: a reset removes them.
    pub fn pending(&self) -> Vec<String> {
        self.devices.iter().filter(|device| device.leaves.is_some()).map(|device| device.path.clone()).collect()
    }

    /// Removes a device and all that are on its buses, which come first in the result.
    pub fn remove(&mut self, path: &str) -> Vec<Removed> {
        let mut removed = Vec::new();
        self.remove_into(path, &mut removed);
        removed
    }

    fn remove_into(&mut self, path: &str, into: &mut Vec<Removed>) {
        let Some(index) = self.devices.iter().position(|device| device.path == path) else { return };
        let below = format!("{path}/");
        let buses: Vec<Arc<PciBus>> = match &self.devices[index].removal {
            Removal::Pci(bus, address) => {
                bus.children().into_iter().filter(|(at, _)| at == address).map(|(_, behind)| behind).collect()
            }
            _ => Vec::new(),
        };
        let is_child = |device: &&BoardDevice| {
            let is_behind = |removal: &Removal| matches!(removal, Removal::Pci(on, _) if buses.iter().any(|bus| Arc::ptr_eq(bus, on)));
            device.parent.as_deref() == Some(path) || device.path.starts_with(&below) || is_behind(&device.removal)
        };
        let children: Vec<String> = self.devices.iter().filter(is_child).map(|device| device.path.clone()).collect();
        for child in children {
            self.remove_into(&child, into);
        }
        let Some(index) = self.devices.iter().position(|device| device.path == path) else { return };
        let device = self.devices.remove(index);
        self.leave(&device);
        into.push(Removed {
            id: device.id().map(str::to_owned),
            part: device.part.map(|(name, _)| format!("{path}/{name}")),
            path: device.path,
        });
    }

    /// A device leaves its bus, and its own buses are gone.
    fn leave(&mut self, device: &BoardDevice) {
        let Some(hotplug) = &mut self.hotplug else { return };
        let mut boot = hotplug.boot_list.lock().unwrap_or_else(PoisonError::into_inner);
        boot.retain(|boot| boot.owner.as_ref() != Some(&device.path));
        drop(boot);
        let buses = &mut hotplug.buses;
        buses.usb.retain(|bus| bus.path() != device.path);
        buses.scsi.retain(|host| host.path() != device.path);
        buses.serial.retain(|console| console.path() != device.path);
        match &device.removal {
            Removal::Pci(bus, address) => {
                if bus.is_attached(*address, &device.lifecycle) {
                    bus.detach(*address);
                }
                if let (BusHotplug::Acpi(selector), Some(pci)) = (bus.hotplug(), &hotplug.pci) {
                    pci.ports.lock().forget(selector, address.slot());
                }
            }
            Removal::Usb { bus, port } => {
                if let Some(bus) = buses.usb.iter_mut().find(|candidate| candidate.name() == bus) {
                    bus.unplug(port);
                }
            }
            Removal::Scsi { bus, address } => {
                if let Some(host) = buses.scsi.iter().find(|host| host.name() == bus) {
                    host.unplug(*address);
                }
            }
            Removal::SerialPort { bus, number } => {
                if let Some(console) = buses.serial.iter_mut().find(|console| console.name() == bus) {
                    console.unplug(*number);
                }
            }
            Removal::Fixed | Removal::NoBus(_) => {}
        }
    }
}
