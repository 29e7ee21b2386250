//! The devices of the command line on boards with PCI, in its order: each finds the buses of those before it, and the first
//! slot that they left free.

use std::sync::Arc;

use device::DeviceCell;
use devices_ide::fdc::Fdc;
use devices_pci::PciBus;

use super::ide::Bus;
use super::isa::{self, Extra};
use super::{Backends, Builder, display, floppy, ide, option_rom, platform, q35, usb, virtio};
use crate::config::{DeviceConfig, DeviceKind};
use crate::error::MachineError;

/// The board's buses that the builder does not know.
pub struct OwnBuses<'a> {
    /// PCI.
    pub root: &'a Arc<PciBus>,
    /// IDE; those of controllers that come are added.
    pub ide: Vec<Bus>,
    /// The floppy disk controller.
    pub floppy: Option<DeviceCell<Fdc>>,
}

/// Builds the devices that the board has not made of other options.
pub fn build(
    builder: &mut Builder<'_>,
    mut buses: OwnBuses<'_>,
    backends: &Backends<'_>,
) -> Result<Extra, MachineError> {
    let mut extra = Extra::default();
    for device in &builder.config.devices {
        if device.kind.is_of_board() {
            continue;
        }
        let first = builder.devices.len();
        isa::command_line_device(builder, backends.chardevs, device, &mut extra)?;
        one(builder, &mut buses, backends, device)
            .and_then(|()| option_rom::of_device(builder, first, device))
            .map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
    }
    extra.sort();
    Ok(extra)
}

fn one(
    builder: &mut Builder<'_>,
    buses: &mut OwnBuses<'_>,
    backends: &Backends<'_>,
    device: &DeviceConfig,
) -> Result<(), String> {
    let root = buses.root;
    match &device.kind {
        DeviceKind::RootPort(port) => q35::root_port(builder, root, (device, port)),
        DeviceKind::Bridge { kind, place, chassis } => {
            platform::bridge(builder, root, device, (*kind, place, *chassis))
        }
        DeviceKind::Display(config) => display::command_line_card(builder, root, (device, config)),
        DeviceKind::Ahci { .. } | DeviceKind::IdeDrive(_) => {
            ide::command_line_device(builder, root, &mut buses.ide, backends.disks, device)
        }
        DeviceKind::Floppy(config) => {
            let controller = buses.floppy.as_ref().ok_or("No 'floppy-bus' bus found for device 'floppy'")?;
            floppy::drive(builder, controller, backends.disks, (device, config))
        }
        DeviceKind::UsbController(_) | DeviceKind::UsbDevice(_) => {
            usb::command_line_device(builder, root, backends.disks, device)
        }
        _ => {
            platform::command_line_device(builder, root, device)?;
            virtio::command_line_device(builder, Some(root), backends, device)
        }
    }
}
