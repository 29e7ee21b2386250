//! USB host controllers, of the board and of the command line, and the devices on their buses.
//!
//! A bus has ports, named by numbers with points between: those of the controller, and those of hubs behind them. A device
//! without `port=` gets the first free one; the last free one becomes a hub first, as in QEMU.

use std::sync::Arc;

use device::{DeviceCell, Lifecycle};
use devices_pci::{Address, Label, PciBus, PciFunction, Window};
use devices_scsi::{LogicalUnit, ScsiBus, UnitKind};
use devices_usb::bus::{Link, Speed, Speeds};
use devices_usb::device::Labels;
use devices_usb::ehci::EhciCell;
use devices_usb::hub::HubCell;
use devices_usb::uhci::{UhciCell, UhciModel, UhciOptions};
use devices_usb::xhci::{XhciCell, XhciWiring};
use devices_usb::{ehci, hid, storage, uas, uhci};
use memory::DmaView;

use super::pci::Chipset;
use super::platform::find_place;
use super::scsi::Host;
use super::{Builder, Place, Removal};
use crate::config::{
    ChipsetKind, DeviceConfig, DeviceKind, DiskUse, PciPlace, UnitOptions, UsbControllerConfig, UsbControllerKind,
    UsbDeviceConfig, UsbDeviceKind,
};
use crate::error::MachineError;
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

/// Where the USB function of a PIIX3 is.
const PIIX3_USB: Address = Address::new(1, 2);

/// The slot of an ICH9's USB functions.
const ICH9_USB: u8 = 29;
/// Frames that an EHCI controller makes up for.
const EHCI_MAX_FRAMES: u32 = 128;

/// What a port belongs to.
#[derive(Clone)]
enum Socket {
    /// A root hub.
    Uhci(UhciCell, usize),
    /// A root hub.
    Ehci(EhciCell, usize),
    /// A root hub.
    Xhci(XhciCell, usize),
    /// A hub.
    Hub(HubCell, usize),
}

impl Socket {
    fn plug(&self, device: Link) {
        match self {
            Self::Uhci(controller, port) => controller.plug(*port, device),
            Self::Ehci(controller, port) => controller.plug(*port, device),
            Self::Xhci(controller, port) => controller.plug(*port, device),
            Self::Hub(hub, port) => hub.plug(*port, device),
        }
    }

    fn unplug(&self) {
        match self {
            Self::Uhci(controller, port) => controller.unplug(*port),
            Self::Ehci(controller, port) => controller.unplug(*port),
            Self::Xhci(controller, port) => controller.unplug(*port),
            Self::Hub(hub, port) => hub.unplug(*port),
        }
    }
}

/// A port.
struct Port {
    path: String,
    socket: Socket,
    speeds: Speeds,
    /// The path in the object tree of the controller or hub that has it.
    owner: String,
}

/// A bus.
pub struct UsbBus {
    name: String,
    /// The controller's path in the object tree.
    path: String,
    /// The controller's place in serial numbers: `0000:00:01.2`.
    place: String,
    /// The controller's Open Firmware path.
    firmware_path: String,
    /// The controller, if it can have companions.
    ehci: Option<EhciCell>,
    /// The free ports, in the order in which they are given away.
    free: Vec<Port>,
    /// The others, and what is there.
    taken: Vec<(Port, Plugged)>,
}

/// What a device does when it is unplugged.
type Leave = Box<dyn Fn()>;

/// A device on a port.
struct Plugged {
    link: Link,
    product: &'static str,
    id: Option<String>,
    leave: Leave,
}

/// A device on a USB bus, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbDeviceInfo {
    /// The number of the bus, from 0.
    pub bus: usize,
    /// The address that the guest has given it; 0 before that.
    pub address: u8,
    /// The port: numbers with points between.
    pub port: String,
    /// The speed at which it is connected.
    pub speed: Speed,
    /// What it calls itself.
    pub product: &'static str,
    /// The user's id.
    pub id: Option<String>,
}

/// The devices on these buses, each bus in the order in which they came.
pub fn devices(buses: &[UsbBus]) -> Vec<UsbDeviceInfo> {
    let of_bus = |(number, bus): (usize, &UsbBus)| -> Vec<UsbDeviceInfo> {
        let device = |(port, plugged): &(Port, Plugged)| UsbDeviceInfo {
            bus: number,
            address: plugged.link.address(),
            port: port.path.clone(),
            speed: plugged.link.speed(),
            product: plugged.product,
            id: plugged.id.clone(),
        };
        bus.taken.iter().map(device).collect()
    };
    buses.iter().enumerate().flat_map(of_bus).collect()
}

impl UsbBus {
    /// The controller's path in the object tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a device off its port, whose path this is. The ports of a hub are gone with it.
    pub fn unplug(&mut self, path: &str) {
        let Some(at) = self.taken.iter().position(|(port, _)| port.path == path) else { return };
        let (port, plugged) = self.taken.remove(at);
        port.socket.unplug();
        (plugged.leave)();
        let below = format!("{path}.");
        self.free.retain(|other| !other.path.starts_with(&below));
        // As QEMU: it is given away last.
        self.free.push(port);
    }
}

/// A host controller that has been built.
struct Controller {
    lifecycle: Arc<dyn Lifecycle>,
    /// Its ports with their speeds, if they are no other controller's.
    sockets: Vec<(Socket, Speeds)>,
}

/// Builds the board's controllers.
pub fn of_board(builder: &mut Builder<'_>, chipset: &Chipset) -> Result<(), MachineError> {
    if builder.config.usb {
        let failed = |message| MachineError::Device { option: "-machine usb=on".to_owned(), message };
        for (address, mut config) in board_controllers(chipset.kind) {
            config.place = PciPlace { address: Some(address), ..PciPlace::default() };
            let wished = builder.config.board.usb.iter();
            let wished = wished.map(|wish| &wish.kind).find(|wish| wish.type_name() == config.kind.type_name());
            match (&mut config.kind, wished) {
                (UsbControllerKind::Uhci { options, .. }, Some(UsbControllerKind::Uhci { options: wished, .. })) => {
                    *options = *wished;
                }
                (
                    UsbControllerKind::Ehci { max_frames, .. },
                    Some(UsbControllerKind::Ehci { max_frames: wished, .. }),
                ) => *max_frames = *wished,
                _ => {}
            }
            with_buses(builder, |builder, buses| controller(builder, &chipset.bus, buses, (Place::Board, &config)))
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Builds a controller or device, if it is one of these.
pub fn command_line_device(
    builder: &mut Builder<'_>,
    pci: &Arc<PciBus>,
    disks: &Disks<'_>,
    device: &DeviceConfig,
) -> Result<(), String> {
    with_buses(builder, |builder, buses| match &device.kind {
        DeviceKind::UsbController(config) => {
            let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
            controller(builder, pci, buses, (place, config))
        }
        DeviceKind::UsbDevice(config) => usb_device(builder, buses, disks, (device, config)),
        _ => Ok(()),
    })
}

/// Builds a device on the bus of a board without PCI.
pub(super) fn device(
    builder: &mut Builder<'_>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &UsbDeviceConfig),
) -> Result<(), String> {
    with_buses(builder, |builder, buses| usb_device(builder, buses, disks, (device, config)))
}

fn with_buses<R>(builder: &mut Builder<'_>, work: impl FnOnce(&mut Builder<'_>, &mut Vec<UsbBus>) -> R) -> R {
    let mut buses = std::mem::take(&mut builder.buses.usb);
    let result = work(builder, &mut buses);
    builder.buses.usb = buses;
    result
}

/// The controllers of `-machine usb=on`.
fn board_controllers(kind: ChipsetKind) -> Vec<(Address, UsbControllerConfig)> {
    let uhci = |index: usize, is_multifunction| {
        let model: UhciModel = uhci::MODELS[index];
        let kind = UsbControllerKind::Uhci { model, options: UhciOptions::default(), companion: None };
        UsbControllerConfig { place: PciPlace::default(), is_multifunction, kind }
    };
    match kind {
        ChipsetKind::I440fx => vec![(PIIX3_USB, uhci(0, false))],
        ChipsetKind::Q35 => {
            let ehci = UsbControllerKind::Ehci { model: ehci::MODELS[1], max_frames: EHCI_MAX_FRAMES };
            let ehci = UsbControllerConfig { place: PciPlace::default(), is_multifunction: true, kind: ehci };
            let mut all = vec![(Address::new(ICH9_USB, 7), ehci)];
            all.extend((0..3).map(|index| {
                let mut config = uhci(index + 2, true);
                if let UsbControllerKind::Uhci { companion, .. } = &mut config.kind {
                    *companion = Some(("usb-bus.0".to_owned(), 2 * index));
                }
                (Address::new(ICH9_USB, index as u8), config)
            }));
            all
        }
        ChipsetKind::Isa | ChipsetKind::Microvm | ChipsetKind::Empty => Vec::new(),
    }
}

// ---- Controllers ----

fn controller(
    builder: &mut Builder<'_>,
    root: &Arc<PciBus>,
    buses: &mut Vec<UsbBus>,
    (place, config): (Place, &UsbControllerConfig),
) -> Result<(), String> {
    let type_name = config.kind.type_name();
    let (pci, address) = find_place(root, &config.place, type_name)?;
    let id = match &place {
        Place::Peripheral(id) => Some(id.clone()),
        _ => None,
    };
    let label = Label { type_name: type_name.to_owned(), id: id.clone() };
    let dma = DmaView::new(Arc::clone(&builder.memory));
    let line = |pin: u8| pci.intx(address, pin.saturating_sub(1));
    let built = match &config.kind {
        UsbControllerKind::Uhci { model, options, companion } => {
            let controller = UhciCell::new(*model, *options, &builder.clock, line(model.pin), dma);
            let lifecycle = attach(&pci, (address, label), config, (&controller.cell, controller.windows()))?;
            let socket = |port| (Socket::Uhci(controller.clone(), port), UhciCell::SPEEDS);
            let sockets = match companion {
                Some((master, first)) => {
                    add_companion(buses, (master, *first), &controller)?;
                    Vec::new()
                }
                None => (0..uhci::PORTS).map(socket).collect(),
            };
            Controller { lifecycle, sockets }
        }
        UsbControllerKind::Ehci { model, max_frames } => {
            let controller = EhciCell::new(*model, *max_frames, &builder.clock, line(4), dma);
            let lifecycle = attach(&pci, (address, label), config, (&controller.cell, controller.windows()))?;
            let socket = |port| (Socket::Ehci(controller.clone(), port), EhciCell::SPEEDS);
            Controller { lifecycle, sockets: (0..ehci::PORTS).map(socket).collect() }
        }
        UsbControllerKind::Xhci(options) => {
            let (clock, irq, messages) = (builder.clock.clone(), line(1), pci.messages());
            let wiring = XhciWiring { clock, irq, messages, dma, express: builder.buses.express(&pci) };
            let controller = XhciCell::new(*options, wiring);
            let lifecycle = attach(&pci, (address, label), config, (&controller.cell, controller.windows()))?;
            let speeds = controller.port_speeds().into_iter().enumerate();
            let sockets = speeds.map(|(port, speeds)| (Socket::Xhci(controller.clone(), port), speeds)).collect();
            Controller { lifecycle, sockets }
        }
    };
    let is_boards = place == Place::Board;
    let path = builder.next_path(is_boards, id.as_deref());
    builder.add(type_name, place, built.lifecycle);
    if !is_boards && config.kind.can_leave() {
        builder.can_leave(Removal::Pci(Arc::clone(&pci), address), None);
    }
    if !built.sockets.is_empty() {
        let firmware_path = format!("{}/usb@{}", pci.open_firmware(), address.open_firmware());
        add_bus(buses, id, (dev_path(&pci, address), firmware_path, path), built.sockets);
    }
    Ok(())
}

fn attach<F: PciFunction>(
    pci: &PciBus,
    (address, label): (Address, Label),
    config: &UsbControllerConfig,
    (function, windows): (&DeviceCell<F>, Vec<Window>),
) -> Result<Arc<dyn Lifecycle>, String> {
    if config.is_multifunction {
        function.lock().config_mut().set_multifunction();
    }
    pci.attach(address, label, function.clone(), windows).map_err(|error| error.to_string())
}

/// A controller's ports become ports of the EHCI controller of bus `master`, from `first` on.
fn add_companion(buses: &mut [UsbBus], (master, first): (&str, usize), companion: &UhciCell) -> Result<(), String> {
    let bus = buses.iter_mut().find(|bus| bus.name == master);
    let bus = bus.ok_or_else(|| format!("USB bus '{master}' not found"))?;
    let Some(controller) = bus.ehci.clone() else {
        return Err(format!("Can't use USB bus '{master}' as masterbus, it doesn't support companion controllers"));
    };
    controller.add_companion(companion, first)?;
    for port in &mut bus.free {
        if let Socket::Ehci(_, index) = &port.socket
            && (first..first + uhci::PORTS).contains(index)
        {
            port.speeds = port.speeds.and(UhciCell::SPEEDS);
        }
    }
    Ok(())
}

/// The place of a function as QEMU writes it: the domain, then each bridge and the function itself.
fn dev_path(pci: &PciBus, address: Address) -> String {
    let mut path = "0000:00".to_owned();
    let bridges = pci.open_firmware().split('/').filter_map(|part| part.strip_prefix("pci-bridge@"));
    for bridge in bridges {
        let (slot, function) = bridge.split_once(',').unwrap_or((bridge, "0"));
        path = format!("{path}:{slot:0>2}.{function}");
    }
    format!("{path}:{:02x}.{:x}", address.slot(), address.function())
}

fn add_bus(
    buses: &mut Vec<UsbBus>,
    id: Option<String>,
    (place, firmware_path, path): (String, String, String),
    sockets: Vec<(Socket, Speeds)>,
) {
    let unnamed = buses.iter().filter(|bus| bus.name.starts_with("usb-bus.")).count();
    let name = id.map_or_else(|| format!("usb-bus.{unnamed}"), |id| format!("{id}.0"));
    let port = |(number, (socket, speeds)): (usize, _)| {
        let owner = path.clone();
        Port { path: number.to_string(), socket, speeds, owner }
    };
    let ehci = sockets.iter().find_map(|(socket, _)| match socket {
        Socket::Ehci(controller, _) => Some(controller.clone()),
        _ => None,
    });
    let free = (1..).zip(sockets).map(port).collect();
    buses.push(UsbBus { name, path, place, firmware_path, ehci, free, taken: Vec::new() });
}

// ---- Devices ----

fn usb_device(
    builder: &mut Builder<'_>,
    buses: &mut [UsbBus],
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &UsbDeviceConfig),
) -> Result<(), String> {
    let type_name = config.kind.type_name();
    let bus = match &config.bus {
        Some(name) => {
            let bus = buses.iter_mut().find(|bus| bus.name == *name);
            bus.ok_or_else(|| format!("Bus '{name}' not found"))?
        }
        None => buses.last_mut().ok_or_else(|| format!("No 'usb-bus' bus found for device '{type_name}'"))?,
    };
    let port = claim(builder, bus, disks, config)?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    plug(builder, bus, port, disks, (place, config))
}

/// Takes a port off the free ones.
fn claim(
    builder: &mut Builder<'_>,
    bus: &mut UsbBus,
    disks: &Disks<'_>,
    config: &UsbDeviceConfig,
) -> Result<Port, String> {
    if let Some(path) = &config.port {
        let at = bus.free.iter().position(|port| port.path == *path);
        let at = at.ok_or_else(|| format!("usb port {path} (bus {}) not found (in use?)", bus.name))?;
        return Ok(bus.free.remove(at));
    }
    let is_hub = matches!(config.kind, UsbDeviceKind::Hub { .. });
    if bus.free.len() == 1 && !is_hub {
        let port = bus.free.remove(0);
        let kind = UsbDeviceKind::Hub { ports: devices_usb::hub::PORTS_MAX, switches_power: false };
        let hub = UsbDeviceConfig { bus: None, port: None, labels: Labels::default(), kind };
        plug(builder, bus, port, disks, (Place::Board, &hub))?;
    }
    if bus.free.is_empty() {
        let product = config.kind.product();
        return Err(format!("tried to attach usb device {product} to a bus with no free ports"));
    }
    Ok(bus.free.remove(0))
}

/// Plugs a device into a port, which stays free if that fails.
fn plug(
    builder: &mut Builder<'_>,
    bus: &mut UsbBus,
    port: Port,
    disks: &Disks<'_>,
    (place, config): (Place, &UsbDeviceConfig),
) -> Result<(), String> {
    match plug_into(builder, bus, &port, disks, (place, config)) {
        Ok(plugged) => {
            bus.taken.push((port, plugged));
            Ok(())
        }
        Err(message) => {
            let below = format!("{}.", port.path);
            bus.free.retain(|other| !other.path.starts_with(&below));
            bus.free.insert(0, port);
            Err(message)
        }
    }
}

fn plug_into(
    builder: &mut Builder<'_>,
    bus: &mut UsbBus,
    port: &Port,
    disks: &Disks<'_>,
    (place, config): (Place, &UsbDeviceConfig),
) -> Result<Plugged, String> {
    let id = match &place {
        Place::Peripheral(id) => Some(id.clone()),
        _ => None,
    };
    let path = builder.next_path(place == Place::Board, id.as_deref());
    let type_name = config.kind.type_name();
    let labels = |own: &str| {
        let made = || format!("{own}-{}-{}", bus.place, port.path);
        let serial = Some(config.labels.serial.clone().unwrap_or_else(made));
        Labels { serial, ..config.labels.clone() }
    };
    let (mut unit, mut host) = (None, None);
    let mut leave: Leave = Box::new(|| ());
    let (link, lifecycle): (Link, Arc<dyn Lifecycle>) = match &config.kind {
        UsbDeviceKind::Hid { kind, usb_version, seat } => {
            let labels = labels(hid::serial(*kind));
            let cell = hid::new(*kind, *usb_version, labels, &builder.clock, &builder.input);
            if let Some(seat) = seat {
                hid::sit(&cell, seat.clone());
            }
            let left = cell.clone();
            leave = Box::new(move || hid::leave(&left));
            (Arc::new(cell.clone()), Arc::new(cell))
        }
        UsbDeviceKind::Hub { ports, switches_power } => {
            // A root port is one, and four hubs may be behind each other.
            if port.path.matches('.').count() >= 5 {
                return Err("usb hub chain too deep".to_owned());
            }
            let hub = HubCell::new(*ports, *switches_power, labels(devices_usb::hub::SERIAL));
            bus.free.extend((0..*ports).map(|index| Port {
                path: format!("{}.{}", port.path, index + 1),
                socket: Socket::Hub(hub.clone(), index),
                speeds: HubCell::SPEEDS,
                owner: path.clone(),
            }));
            (Arc::new(hub.cell.clone()), Arc::new(hub.cell))
        }
        UsbDeviceKind::Storage { disk, unit: options } => {
            let firmware_path = firmware_path(bus, port, "storage");
            let built = storage_unit(builder, disks, (&place, firmware_path), (disk, options))?;
            let cell = storage::new(built.0.clone(), labels(storage::SERIAL));
            unit = Some(built);
            (Arc::new(cell.clone()), Arc::new(cell))
        }
        UsbDeviceKind::Uas => {
            let scsi = ScsiBus::new(uas::LIMITS);
            let cell = uas::new(Arc::clone(&scsi), labels(uas::SERIAL));
            let names = (builder.scsi_bus_name(id.as_deref()), path.clone(), firmware_path(bus, port, "storage"));
            host = Some(Host::of_usb(names, scsi));
            (Arc::new(cell.clone()), Arc::new(cell))
        }
    };
    if let Err(message) = check_speed(&link, config, bus, port) {
        leave();
        return Err(message);
    }
    port.socket.plug(Arc::clone(&link));
    builder.add(type_name, place, lifecycle);
    builder.can_leave(Removal::Usb { bus: bus.name.clone(), port: port.path.clone() }, Some(port.owner.clone()));
    builder.buses.scsi.extend(host);
    if let Some((unit, place)) = unit {
        let type_name = if unit.kind() == UnitKind::Cd { "scsi-cd" } else { "scsi-hd" };
        builder.add(type_name, place, unit.lifecycle());
        builder.can_leave(Removal::Fixed, Some(path));
    }
    Ok(Plugged { link, product: config.kind.product(), id, leave })
}

/// The SCSI unit of a mass storage device, and where it is.
fn storage_unit(
    builder: &mut Builder<'_>,
    disks: &Disks<'_>,
    (place, firmware_path): (&Place, String),
    (disk, unit): (&DiskUse, &UnitOptions),
) -> Result<(LogicalUnit, Place), String> {
    let id = match place {
        Place::Peripheral(id) => Some(id.as_str()),
        _ => None,
    };
    let bus = builder.scsi_bus_name(id);
    let parent = format!("{}/{bus}", builder.next_path(false, id));
    let path = format!("{parent}/legacy[0]");
    let type_name = if unit.kind == UnitKind::Cd { "scsi-cd" } else { "scsi-hd" };
    let unit = super::scsi::unit(unit, &disks(&DiskRequestor { id, path: &path, type_name, wish: disk })?)?;
    builder.boot_devices.push(BootDevice {
        owner: None,
        index: disk.boot_index,
        path: format!("{firmware_path}/channel@0/disk@0,0"),
        geometry: None,
    });
    Ok((unit, Place::Part(parent, "legacy[0]")))
}

/// The Open Firmware path of what is on a port: hubs, then the device.
fn firmware_path(bus: &UsbBus, port: &Port, name: &str) -> String {
    let mut path = bus.firmware_path.clone();
    let mut numbers = port.path.split('.').peekable();
    while let Some(number) = numbers.next() {
        // QEMU reads the number in decimal digits and writes it in hexadecimal ones.
        let number: u32 = number.parse().unwrap_or(0);
        path += &format!("/{}@{number:x}", if numbers.peek().is_some() { "hub" } else { name });
    }
    path
}

fn check_speed(link: &Link, config: &UsbDeviceConfig, bus: &UsbBus, port: &Port) -> Result<(), String> {
    let speeds = link.speeds();
    if speeds.fastest_common(port.speeds).is_some() {
        return Ok(());
    }
    Err(format!(
        "Warning: speed mismatch trying to attach usb device \"{}\" ({} speed) to bus \"{}\", port \"{}\" ({} speed)",
        config.kind.product(),
        speeds.names(),
        bus.name,
        port.path,
        port.speeds.names()
    ))
}
