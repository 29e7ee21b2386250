//! The board's IDE function, AHCI controllers of the command line, and the drives on their buses.

use std::sync::Arc;

use device::{DeviceCell, DeviceState, Lifecycle, ResetKind};
use devices_ide::ahci::{self, Ahci};
use devices_ide::piix::{COMMAND_PORTS, CONTROL_PORTS, IRQS, PiixIde, REGION_COMMAND, REGION_CONTROL};
use devices_pci::{Address, Label, PciBus, PciFunction};
use memory::DmaView;

use super::pci::Chipset;
use super::{Builder, Place, Removal, geometry, option_rom};
use crate::config::{ChipsetKind, DeviceConfig, DeviceKind, DriveKind, IdeDriveConfig};
use crate::error::MachineError;
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

/// Where the IDE function of a PIIX3 is.
pub const IDE: Address = Address::new(1, 1);
/// Where the AHCI function of an ICH9 is.
const SATA: Address = Address::new(31, 2);

/// A drive is an object of its own, but its state is in the controller's.
pub struct PartOfController;

impl Lifecycle for PartOfController {
    fn reset(&self, _kind: ResetKind) {}

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        visit(DeviceState::Empty);
    }

    fn restored(&self) {}
}

/// Connects a drive to a controller: channel or port, unit, the drive, its disk.
pub(super) type Connect = Box<dyn Fn(usize, usize, &IdeDriveConfig, Arc<dyn device::disk::Disk>)>;

/// An IDE bus: a channel of parallel ATA, or a port of serial ATA.
pub(super) struct Bus {
    name: String,
    /// Its Open Firmware path.
    firmware_path: String,
    /// The channel or port of the controller.
    index: usize,
    /// The number of its first drive, from which serial numbers are made.
    number: u8,
    taken: Vec<bool>,
    connect: std::rc::Rc<Connect>,
}

impl Bus {
    /// Channel 0 or 1 of a PC, as a device of its own.
    pub(super) fn of_channel(index: usize, firmware_path: String, connect: Connect) -> Self {
        Self {
            name: format!("ide.{index}"),
            firmware_path,
            index,
            number: 2 * index as u8 + 1,
            taken: vec![false; 2],
            connect: std::rc::Rc::new(connect),
        }
    }
}

/// Builds the board's controller, and the drives that the board has made of options.
pub fn build(builder: &mut Builder<'_>, chipset: &Chipset, disks: &Disks<'_>) -> Result<Vec<Bus>, MachineError> {
    let pci = &chipset.bus;
    let mut buses = match chipset.kind {
        ChipsetKind::I440fx => piix(builder, pci)?,
        _ => {
            let mut buses = Vec::new();
            let failed = |message| MachineError::Device { option: "-machine q35".to_owned(), message };
            serial(builder, pci, &mut buses, (Place::Board, Some(SATA))).map_err(failed)?;
            buses
        }
    };
    builder.buses.ide = buses.last().map(|bus| bus.name.clone());
    drives(builder, &mut buses, disks, DeviceKind::is_of_board)?;
    Ok(buses)
}

/// Builds a controller or drive of the command line.
pub(super) fn command_line_device(
    builder: &mut Builder<'_>,
    pci: &Arc<PciBus>,
    buses: &mut Vec<Bus>,
    disks: &Disks<'_>,
    device: &DeviceConfig,
) -> Result<(), String> {
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    match &device.kind {
        DeviceKind::Ahci { address } => serial(builder, pci, buses, (place, *address))
            .and_then(|address| option_rom::add(builder, (pci, address), device.rom.as_ref(), None)),
        DeviceKind::IdeDrive(config) => drive(builder, buses, disks, (device, config)),
        _ => Ok(()),
    }
}

/// Builds the drives of the command line that `select` accepts.
pub(super) fn drives(
    builder: &mut Builder<'_>,
    buses: &mut [Bus],
    disks: &Disks<'_>,
    select: fn(&DeviceKind) -> bool,
) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        if let DeviceKind::IdeDrive(config) = &device.kind
            && select(&device.kind)
        {
            drive(builder, buses, disks, (device, config))
                .map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
        }
    }
    Ok(())
}

fn piix(builder: &mut Builder<'_>, pci: &Arc<PciBus>) -> Result<Vec<Bus>, MachineError> {
    const TYPE: &str = "piix3-ide";
    let function = PiixIde::new(IRQS.map(|irq| builder.irq(irq)), &DmaView::new(Arc::clone(&builder.memory)));
    for channel in 0..2 {
        let ports = [
            (REGION_COMMAND[channel], COMMAND_PORTS[channel], 8),
            (REGION_CONTROL[channel], CONTROL_PORTS[channel], 1),
        ];
        builder.map_ports(&function, &ports)?;
    }
    let windows = PiixIde::windows(&function);
    builder.add(TYPE, Place::Board, pci.attach(IDE, Label::of_board(TYPE), function.clone(), windows)?);
    let connect = std::rc::Rc::new(connect_to_piix(function));
    let bus = |index: usize| Bus {
        name: format!("ide.{index}"),
        firmware_path: format!("/pci@i0cf8/ide@{}/drive@{index}", IDE.open_firmware()),
        index,
        number: 2 * index as u8 + 1,
        taken: vec![false; 2],
        connect: std::rc::Rc::clone(&connect),
    };
    Ok(vec![bus(0), bus(1)])
}

fn connect_to_piix(function: DeviceCell<PiixIde>) -> Connect {
    Box::new(move |channel, unit, config, disk| {
        function.lock().connect(channel, unit, config.drive.clone(), disk);
    })
}

/// An AHCI controller, each of whose ports is a bus for one drive.
fn serial(
    builder: &mut Builder<'_>,
    pci: &Arc<PciBus>,
    buses: &mut Vec<Bus>,
    (place, address): (Place, Option<Address>),
) -> Result<Address, String> {
    const TYPE: &str = "ich9-ahci";
    let address = match address {
        Some(address) => address,
        None => pci.first_free(TYPE).map_err(|error| error.to_string())?,
    };
    let dma = DmaView::new(Arc::clone(&builder.memory));
    let function = Ahci::new(pci.intx(address, 0), pci.messages(), &dma);
    if place == Place::Board {
        function.lock().config_mut().set_multifunction();
    }
    let id = match &place {
        Place::Peripheral(id) => Some(id.clone()),
        _ => None,
    };
    let label = Label { type_name: TYPE.to_owned(), id: id.clone() };
    let windows = Ahci::windows(&function);
    let lifecycle = pci.attach(address, label, function.clone(), windows).map_err(|error| error.to_string())?;
    builder.add(TYPE, place, lifecycle);
    let connect: Connect = Box::new(move |port, _unit, config, disk| {
        function.lock().connect(port, config.drive.clone(), disk);
    });
    let connect = std::rc::Rc::new(connect);
    // Buses of controllers without an id are numbered on.
    let unnamed = buses.iter().filter(|bus| bus.name.starts_with("ide.")).count();
    let first = buses.iter().map(|bus| bus.number + 2).max().unwrap_or(1);
    buses.extend((0..ahci::PORTS).map(|index| Bus {
        name: match &id {
            Some(id) => format!("{id}.{index}"),
            None => format!("ide.{}", unnamed + index),
        },
        firmware_path: format!("/pci@i0cf8/pci8086,2922@{}/drive@{index}", address.open_firmware()),
        index,
        number: first.saturating_add(2 * index as u8),
        taken: vec![false],
        connect: std::rc::Rc::clone(&connect),
    }));
    builder.buses.ide = buses.last().map(|bus| bus.name.clone());
    Ok(address)
}

/// The bus that a drive goes to, and its place there.
fn place(buses: &[Bus], config: &IdeDriveConfig) -> Result<(usize, usize), String> {
    let index = match &config.bus {
        Some(name) => {
            let index = buses.iter().position(|bus| bus.name == *name);
            index.ok_or_else(|| format!("Bus '{name}' not found"))?
        }
        // The newest, be it full or not.
        None => {
            buses.len().checked_sub(1).ok_or_else(|| format!("No 'IDE' bus found for device '{}'", config.type_name))?
        }
    };
    let bus = &buses[index];
    let unit = config.unit.unwrap_or_else(|| u32::from(bus.taken.first() == Some(&true)));
    match bus.taken.get(unit as usize) {
        None => Err(format!("Can't create IDE unit {unit}, bus supports only {} units", bus.taken.len())),
        Some(true) => Err(format!("IDE unit {unit} is in use")),
        Some(false) => Ok((index, unit as usize)),
    }
}

fn drive(
    builder: &mut Builder<'_>,
    buses: &mut [Bus],
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &IdeDriveConfig),
) -> Result<(), String> {
    let (index, unit) = place(buses, config)?;
    let path = builder.next_path(config.is_boards, device.id.as_deref());
    let requestor =
        DiskRequestor { id: device.id.as_deref(), path: &path, type_name: config.type_name, wish: &config.disk };
    let disk = disks(&requestor)?;
    let bus = &mut buses[index];
    bus.taken[unit] = true;
    builder.boot_devices.push(BootDevice {
        owner: None,
        index: config.disk.boot_index,
        path: format!("{}/disk@{unit}", bus.firmware_path),
        geometry: config.disk.firmware_geometry,
    });
    let mut config = config.clone();
    if config.drive.kind == DriveKind::Disk {
        let (geometry, translation) = match config.drive.geometry {
            Some(geometry) => (geometry, geometry::translation(geometry)),
            None => geometry::guess(&*disk),
        };
        config.drive.geometry = Some(geometry);
        let is_first = bus.name == "ide.0" || bus.name == "ide.1";
        if is_first {
            let translation = config.translation.unwrap_or(translation);
            builder.ide_disks.push((2 * bus.index + unit, geometry, translation));
        }
    }
    config.drive.number = bus.number + unit as u8;
    (bus.connect)(bus.index, unit, &config, disk);
    let place = match &device.id {
        _ if config.is_boards => Place::Board,
        Some(id) => Place::Peripheral(id.clone()),
        None => Place::Anonymous,
    };
    let removal = Removal::NoBus(bus.name.clone());
    builder.add(config.type_name, place, Arc::new(PartOfController));
    builder.can_leave(removal, None);
    Ok(())
}
