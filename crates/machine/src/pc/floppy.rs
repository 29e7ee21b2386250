//! The floppy disk controller, and its drives.

use std::sync::Arc;

use device::DeviceCell;
use devices_chipset::i8257::{I8257, Transfer};
use devices_chipset::mc146818::Mc146818;
use devices_ide::fdc::geometry::DriveType;
use devices_ide::fdc::{DRIVES, DmaChannel, DmaTransfer, Fdc, REGION_INPUT, REGION_REGISTERS};
use memory::DmaView;

use super::ide::PartOfController;
use super::{Builder, Place, Removal};
use crate::config::{ChipsetKind, DeviceConfig, DeviceKind, FloppyConfig};
use crate::error::MachineError;
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

const IRQ: u8 = 6;
/// The DMA channel of every PC's floppy controller.
const CHANNEL: usize = 2;
const TYPE: &str = "floppy";

/// The controller's channel.
struct Channel(DeviceCell<I8257>);

impl DmaChannel for Channel {
    fn transfer(&self) -> Option<DmaTransfer> {
        let Transfer { address, len, .. } = self.0.lock().channel(CHANNEL)?;
        Some(DmaTransfer { address, len })
    }

    fn advance(&self, bytes: usize) {
        self.0.lock().advance(CHANNEL, bytes);
    }
}

/// Builds the controller and the drives that the board has made of options. A `q35` has it with such a drive alone.
pub fn build(builder: &mut Builder<'_>, disks: &Disks<'_>) -> Result<Option<DeviceCell<Fdc>>, MachineError> {
    let Some(dma) = builder.dma.clone() else { return Ok(None) };
    let is_wanted = |device: &DeviceConfig| matches!(device.kind, DeviceKind::Floppy(_)) && device.kind.is_of_board();
    if builder.config.machine_type.chipset == ChipsetKind::Q35 && !builder.config.devices.iter().any(is_wanted) {
        return Ok(None);
    }
    let fdc = Fdc::new(builder.irq(IRQ), Box::new(Channel(dma)), DmaView::new(Arc::clone(&builder.memory)));
    builder.add_ports("isa-fdc", &fdc, &[(REGION_REGISTERS, 0x3f1, 5), (REGION_INPUT, 0x3f7, 1)])?;
    drives(builder, &fdc, disks, DeviceKind::is_of_board)?;
    Ok(Some(fdc))
}

/// Builds the drives that `select` accepts.
pub fn drives(
    builder: &mut Builder<'_>,
    fdc: &DeviceCell<Fdc>,
    disks: &Disks<'_>,
    select: fn(&DeviceKind) -> bool,
) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        if let DeviceKind::Floppy(config) = &device.kind
            && select(&device.kind)
        {
            let built = drive(builder, fdc, disks, (device, config));
            built.map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
        }
    }
    Ok(())
}

/// Notes the types of the drives in CMOS, and how many there are.
pub fn note(fdc: &DeviceCell<Fdc>, rtc: &DeviceCell<Mc146818>) {
    let types = [0, 1].map(|unit| fdc.lock().drive_type(unit));
    let number = |drive: Option<DriveType>| drive.map_or(0, DriveType::cmos);
    let drives = match types.iter().flatten().count() {
        0 => 0,
        count => 1 | (count as u8 - 1) << 6,
    };
    let mut rtc = rtc.lock();
    rtc.set_cmos(0x10, number(types[0]) << 4 | number(types[1]));
    rtc.set_cmos(0x14, drives);
}

/// Builds a drive.
pub fn drive(
    builder: &mut Builder<'_>,
    fdc: &DeviceCell<Fdc>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &FloppyConfig),
) -> Result<(), String> {
    let is_taken = |unit: usize| fdc.lock().drive_type(unit).is_some();
    let unit = match config.unit {
        Some(unit) if unit as usize >= DRIVES => {
            return Err(format!("Can't create floppy unit {unit}, bus supports only {DRIVES} units"));
        }
        Some(unit) if is_taken(unit as usize) => return Err(format!("Floppy unit {unit} is in use")),
        Some(unit) => unit as usize,
        None => (0..DRIVES).find(|unit| !is_taken(*unit)).ok_or("Bus 'floppy-bus.0' is full")?,
    };
    let path = builder.next_path(config.is_boards, device.id.as_deref());
    let requestor = DiskRequestor { id: device.id.as_deref(), path: &path, type_name: TYPE, wish: &config.disk };
    let disk = disks(&requestor)?;
    fdc.lock().connect(unit, config.drive_type, disk);
    let has_pci = builder.config.machine_type.chipset.has_pci();
    builder.boot_devices.push(BootDevice {
        owner: None,
        index: config.disk.boot_index,
        path: format!("{}/fdc@03f0/floppy@{unit}", if has_pci { "/pci@i0cf8/isa@1" } else { "/isa" }),
        geometry: None,
    });
    let place = match &device.id {
        _ if config.is_boards => Place::Board,
        Some(id) => Place::Peripheral(id.clone()),
        None => Place::Anonymous,
    };
    builder.add(TYPE, place, Arc::new(PartOfController));
    builder.can_leave(Removal::NoBus("floppy-bus.0".to_owned()), None);
    Ok(())
}
