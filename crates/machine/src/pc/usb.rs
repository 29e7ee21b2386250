//! USB host controllers, of the board and of the command line, and the devices on their buses.
//!
//! A bus has ports, named by numbers with points between: those of the controller, and those of hubs behind them. A device
//! without `port=` gets the first free one; the last free one becomes a hub first, as in QEMU.

use std::sync::Arc;

use device::{IrqLine, Lifecycle};
use devices_pci::{Address, Label, PciBus, PciFunction};
use devices_usb::bus::{Link, Speeds};
use devices_usb::device::Labels;
use devices_usb::hub::HubCell;
use devices_usb::uhci::{UhciCell, UhciModel, UhciOptions};
use devices_usb::{hid, uhci};
use memory::DmaView;

use super::pci::Chipset;
use super::platform::find_place;
use super::{Builder, Place};
use crate::config::{
    ChipsetKind, DeviceConfig, DeviceKind, PciPlace, UsbControllerConfig, UsbControllerKind, UsbDeviceConfig,
    UsbDeviceKind,
};
use crate::error::MachineError;

/// Where the USB function of a PIIX3 is.
const PIIX3_USB: Address = Address::new(1, 2);

/// What a port belongs to.
#[derive(Clone)]
enum Socket {
    /// A root hub.
    Uhci(UhciCell, usize),
    /// A hub.
    Hub(HubCell, usize),
}

impl Socket {
    fn plug(&self, device: Link) {
        match self {
            Self::Uhci(controller, port) => controller.plug(*port, device),
            Self::Hub(hub, port) => hub.plug(*port, device),
        }
    }
}

/// A free port.
struct Port {
    path: String,
    socket: Socket,
    speeds: Speeds,
}

/// A bus.
struct UsbBus {
    name: String,
    /// The controller's place in serial numbers: `0000:00:01.2`.
    place: String,
    /// The free ports, in the order in which they are given away.
    free: Vec<Port>,
}

/// A host controller that has been built.
struct Controller {
    lifecycle: Arc<dyn Lifecycle>,
    /// Its ports, if they are no other controller's.
    sockets: Vec<Socket>,
    speeds: Speeds,
}

/// Builds the board's controllers, those of the command line, and the devices, in the order of the command line.
pub fn build(builder: &mut Builder<'_>, chipset: &Chipset) -> Result<(), MachineError> {
    let mut buses = Vec::new();
    if builder.config.usb {
        let failed = |message| MachineError::Device { option: "-machine usb=on".to_owned(), message };
        for (address, config) in of_board(chipset.kind) {
            let place = PciPlace { address: Some(address), ..PciPlace::default() };
            let config = UsbControllerConfig { place, ..config };
            controller(builder, &chipset.bus, &mut buses, (Place::Board, &config)).map_err(failed)?;
        }
    }
    let config = builder.config;
    for device in &config.devices {
        let built = match &device.kind {
            DeviceKind::UsbController(config) => {
                let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
                controller(builder, &chipset.bus, &mut buses, (place, config))
            }
            DeviceKind::UsbDevice(config) => usb_device(builder, &mut buses, (device, config)),
            _ => continue,
        };
        built.map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
    }
    Ok(())
}

/// The controllers of `-machine usb=on`.
fn of_board(kind: ChipsetKind) -> Vec<(Address, UsbControllerConfig)> {
    let uhci = |index: usize, is_multifunction| {
        let model: UhciModel = uhci::MODELS[index];
        let kind = UsbControllerKind::Uhci { model, options: UhciOptions::default(), companion: None };
        UsbControllerConfig { place: PciPlace::default(), is_multifunction, kind }
    };
    match kind {
        ChipsetKind::I440fx => vec![(PIIX3_USB, uhci(0, false))],
        ChipsetKind::Q35 | ChipsetKind::Empty => Vec::new(),
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
            if let Some((bus, _)) = companion {
                return Err(format!("USB bus '{bus}' not found"));
            }
            let controller = uhci_controller(builder, (*model, *options), line(model.pin), dma);
            let lifecycle = attach(&pci, (address, label), config, &controller)?;
            let sockets = (0..uhci::PORTS).map(|port| Socket::Uhci(controller.clone(), port)).collect();
            Controller { lifecycle, sockets, speeds: UhciCell::SPEEDS }
        }
    };
    builder.add(type_name, place, built.lifecycle);
    if !built.sockets.is_empty() {
        add_bus(buses, id, dev_path(&pci, address), (built.sockets, built.speeds));
    }
    Ok(())
}

fn uhci_controller(
    builder: &Builder<'_>,
    (model, options): (UhciModel, UhciOptions),
    line: IrqLine,
    dma: DmaView,
) -> UhciCell {
    UhciCell::new(model, options, &builder.clock, line, dma)
}

fn attach(
    pci: &PciBus,
    (address, label): (Address, Label),
    config: &UsbControllerConfig,
    controller: &UhciCell,
) -> Result<Arc<dyn Lifecycle>, String> {
    if config.is_multifunction {
        controller.cell.lock().config_mut().set_multifunction();
    }
    let windows = controller.windows();
    pci.attach(address, label, controller.cell.clone(), windows).map_err(|error| error.to_string())
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

fn add_bus(buses: &mut Vec<UsbBus>, id: Option<String>, place: String, (sockets, speeds): (Vec<Socket>, Speeds)) {
    let unnamed = buses.iter().filter(|bus| bus.name.starts_with("usb-bus.")).count();
    let name = id.map_or_else(|| format!("usb-bus.{unnamed}"), |id| format!("{id}.0"));
    let port = |(number, socket): (usize, Socket)| Port { path: number.to_string(), socket, speeds };
    let free = (1..).zip(sockets).map(port).collect();
    buses.push(UsbBus { name, place, free });
}

// ---- Devices ----

fn usb_device(
    builder: &mut Builder<'_>,
    buses: &mut [UsbBus],
    (device, config): (&DeviceConfig, &UsbDeviceConfig),
) -> Result<(), String> {
    let type_name = config.kind.type_name();
    let bus = match &config.bus {
        Some(name) => {
            let bus = buses.iter_mut().find(|bus| bus.name == *name);
            bus.ok_or_else(|| format!("Bus '{name}' not found"))?
        }
        None => buses.first_mut().ok_or_else(|| format!("No 'usb-bus' bus found for device '{type_name}'"))?,
    };
    let port = claim(builder, bus, config)?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    plug(builder, bus, &port, (place, config))
}

/// Takes a port off the free ones.
fn claim(builder: &mut Builder<'_>, bus: &mut UsbBus, config: &UsbDeviceConfig) -> Result<Port, String> {
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
        plug(builder, bus, &port, (Place::Board, &hub))?;
    }
    if bus.free.is_empty() {
        let product = config.kind.product();
        return Err(format!("tried to attach usb device {product} to a bus with no free ports"));
    }
    Ok(bus.free.remove(0))
}

fn plug(
    builder: &mut Builder<'_>,
    bus: &mut UsbBus,
    port: &Port,
    (place, config): (Place, &UsbDeviceConfig),
) -> Result<(), String> {
    let type_name = config.kind.type_name();
    let labels = |own: &str| {
        let made = || format!("{own}-{}-{}", bus.place, port.path);
        let serial = Some(config.labels.serial.clone().unwrap_or_else(made));
        Labels { serial, ..config.labels.clone() }
    };
    let (link, lifecycle): (Link, Arc<dyn Lifecycle>) = match &config.kind {
        UsbDeviceKind::Hid { kind, usb_version } => {
            let labels = labels(hid::serial(*kind));
            let cell = hid::new(*kind, *usb_version, labels, &builder.clock, &builder.input);
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
            }));
            (Arc::new(hub.cell.clone()), Arc::new(hub.cell))
        }
    };
    check_speed(&link, config, bus, port)?;
    port.socket.plug(link);
    builder.add(type_name, place, lifecycle);
    Ok(())
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
