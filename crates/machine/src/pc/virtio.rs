//! The virtio devices of the command line, on the PCI bus.

use std::sync::Arc;

use devices_pci::{Label, PciBus};
use devices_virtio::blk::Blk;
use devices_virtio::pci::{VirtioPci, Wiring};
use memory::DmaView;

use super::{Builder, Place};
use crate::config::{DeviceConfig, DeviceKind, VirtioBlkConfig};
use crate::error::MachineError;
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

/// The part of a block device that has the disk: its name and type.
const BACKEND: (&str, &str) = ("virtio-backend", "virtio-blk-device");

/// Builds the devices, in the order of the command line.
pub fn command_line_devices(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    disks: &Disks<'_>,
) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        if let DeviceKind::VirtioBlkPci(config) = &device.kind {
            let built = block_device(builder, bus, disks, (device, config));
            built.map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
        }
    }
    Ok(())
}

/// What a property that was not given follows from.
fn completed(config: &VirtioBlkConfig, cpus: u32) -> VirtioBlkConfig {
    let mut config = config.clone();
    config.blk.num_queues = config.num_queues.unwrap_or(cpus.clamp(1, 1024) as u16);
    config.pci.vectors = config.vectors.unwrap_or(u32::from(config.blk.num_queues) + 1);
    config
}

fn block_device(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &VirtioBlkConfig),
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let bus = match &config.bus {
        Some(name) => &bus.by_name(name).ok_or_else(|| format!("Bus '{name}' not found"))?,
        None => bus,
    };
    let address = match config.address {
        Some(address) => address,
        None => bus.first_free(config.type_name).map_err(|error| text(&error))?,
    };
    bus.check_free(address, config.type_name).map_err(|error| text(&error))?;
    let config = completed(config, builder.config.cpus);
    let path = match &device.id {
        Some(id) => format!("/machine/peripheral/{id}/virtio-backend"),
        None => format!("/machine/peripheral-anon/device[{}]/virtio-backend", anonymous(builder)),
    };
    let requestor = DiskRequestor { id: device.id.as_deref(), path: &path, type_name: BACKEND.1, wish: &config.disk };
    let disk = disks(&requestor)?;
    config.blk.check(&disk.properties()).map_err(|error| text(&error))?;
    let wiring =
        Wiring { dma: DmaView::new(Arc::clone(&builder.memory)), line: bus.intx(address, 0), messages: bus.messages() };
    let function = VirtioPci::new(&config.pci, wiring, |access| Blk::new(config.blk.clone(), disk, access));
    let windows = VirtioPci::windows(&function);
    let label = Label { type_name: config.type_name.to_owned(), id: device.id.clone() };
    builder.boot_devices.push(BootDevice {
        index: config.disk.boot_index,
        path: format!("{}/scsi@{}/disk@0,0", bus.open_firmware(), address.open_firmware()),
        geometry: None,
    });
    let lifecycle = bus.attach(address, label, function, windows).map_err(|error| text(&error))?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add_with_part(config.type_name, place, lifecycle, BACKEND);
    Ok(())
}

/// How many devices without an id there are so far.
fn anonymous(builder: &Builder<'_>) -> usize {
    builder.devices.iter().filter(|device| device.place == Place::Anonymous).count()
}
