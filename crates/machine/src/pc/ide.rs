//! The board's IDE function, and the drives on its buses.

use std::sync::Arc;

use device::{DeviceCell, DeviceState, Lifecycle, ResetKind};
use devices_ide::piix::{COMMAND_PORTS, CONTROL_PORTS, IRQS, PiixIde, REGION_COMMAND, REGION_CONTROL};
use devices_pci::{Address, Label, PciBus};
use memory::DmaView;

use super::{Builder, Place};
use crate::config::{DeviceConfig, DeviceKind, IdeDriveConfig};
use crate::error::MachineError;
use crate::storage::{DiskRequestor, Disks};

/// Where the function is.
pub const IDE: Address = Address::new(1, 1);

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
type Connect = Box<dyn Fn(usize, usize, &IdeDriveConfig, Arc<dyn device::disk::Disk>)>;

/// An IDE bus: a channel of parallel ATA, or a port of serial ATA.
struct Bus {
    name: String,
    /// The channel or port of the controller.
    index: usize,
    /// The number of its first drive, from which serial numbers are made.
    number: u8,
    taken: Vec<bool>,
    connect: std::rc::Rc<Connect>,
}

/// Builds the controller and the drives, in the order of the command line.
pub fn build(builder: &mut Builder<'_>, pci: &Arc<PciBus>, disks: &Disks<'_>) -> Result<(), MachineError> {
    let mut buses = piix(builder, pci)?;
    for device in &builder.config.devices {
        if let DeviceKind::IdeDrive(config) = &device.kind {
            let built = drive(builder, &mut buses, disks, (device, config));
            built.map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
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

/// The bus that a drive goes to, and its place there.
fn place(buses: &[Bus], config: &IdeDriveConfig) -> Result<(usize, usize), String> {
    let index = match &config.bus {
        Some(name) => {
            let index = buses.iter().position(|bus| bus.name == *name);
            index.ok_or_else(|| format!("Bus '{name}' not found"))?
        }
        None => {
            let free = buses.iter().position(|bus| bus.taken.contains(&false));
            free.ok_or_else(|| format!("No 'IDE' bus found for device '{}'", config.type_name))?
        }
    };
    let bus = &buses[index];
    let Some(unit) = config.unit else {
        let free = bus.taken.iter().position(|taken| !taken);
        return free.map(|unit| (index, unit)).ok_or_else(|| format!("Bus '{}' is full", bus.name));
    };
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
    let mut config = config.clone();
    config.drive.number = bus.number + unit as u8;
    (bus.connect)(bus.index, unit, &config, disk);
    let place = match &device.id {
        _ if config.is_boards => Place::Board,
        Some(id) => Place::Peripheral(id.clone()),
        None => Place::Anonymous,
    };
    builder.add(config.type_name, place, Arc::new(PartOfController));
    Ok(())
}
