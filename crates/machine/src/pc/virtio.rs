//! The virtio devices of the command line, on the PCI bus.

use std::sync::Arc;

use devices_pci::{Label, PciBus};
use devices_virtio::blk::Blk;
use devices_virtio::device::{Access, Model};
use devices_virtio::input::Input;
use devices_virtio::pci::{PciOptions, VirtioPci, Wiring};
use devices_virtio::rng::Rng;
use memory::DmaView;

use super::platform::find_place;
use super::{Backends, Builder, Place, Removal, microvm, option_rom, scsi, virtio_serial};
use crate::config::{
    DeviceConfig, DeviceKind, InputKind, MmioPlace, NEITHER_MODERN_NOR_LEGACY, PciPlace, RngOptions, VirtioBlkConfig,
    VirtioConfig, VirtioModel,
};
use crate::entropy::HostEntropy;
use crate::error::MachineError;
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

/// The part of a block device that has the disk: its name and type.
const BACKEND: (&str, &str) = ("virtio-backend", "virtio-blk-device");

/// Builds the devices on a board without PCI, in the order of the command line.
pub fn command_line_devices(builder: &mut Builder<'_>, backends: &Backends<'_>) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        let first = builder.devices.len();
        command_line_device(builder, None, backends, device)
            .and_then(|()| option_rom::of_device(builder, first, device))
            .map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
    }
    Ok(())
}

/// Builds a device, if it is one of these.
pub fn command_line_device(
    builder: &mut Builder<'_>,
    bus: Option<&Arc<PciBus>>,
    backends: &Backends<'_>,
    device: &DeviceConfig,
) -> Result<(), String> {
    match &device.kind {
        DeviceKind::VirtioBlkPci(config) => block_device(builder, bus, backends.disks, (device, config)),
        DeviceKind::Virtio(config) => match &config.model {
            VirtioModel::Scsi { .. } => scsi::host(builder, bus, (device, config)),
            VirtioModel::Rng { options, source } => {
                random_numbers(builder, bus, backends, (device, config), (*options, source.as_deref()))
            }
            VirtioModel::Input(options) => {
                let hub = Arc::clone(&builder.input);
                let part = match options.kind {
                    InputKind::Keyboard => "virtio-keyboard-device",
                    InputKind::Mouse => "virtio-mouse-device",
                    InputKind::Tablet => "virtio-tablet-device",
                };
                let names = ("pci1af4,1052", part);
                let build = |_| Input::new(options.clone(), hub);
                attach(builder, bus, (device, config), (2, names), build)
                    .map(|attached| Input::connect(&attached.access))
            }
            VirtioModel::Gpu { .. } => super::display::command_line_virtio_card(builder, bus, device, config),
            VirtioModel::Serial(options) => virtio_serial::console(builder, bus, (device, config), *options),
        },
        DeviceKind::ScsiDrive(config) => scsi::drive(builder, backends.disks, (device, config)),
        DeviceKind::SerialPort(config) => virtio_serial::port(builder, backends.chardevs, (device, config)),
        _ => Ok(()),
    }
}

/// A block device behind a transport of the board.
fn block_device_of_transport(
    builder: &mut Builder<'_>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &VirtioBlkConfig),
    place: &MmioPlace,
) -> Result<(), String> {
    let config = completed(config, builder.config.cpus);
    let path = builder.next_path(false, device.id.as_deref());
    let (id, type_name) = (device.id.as_deref(), config.type_name);
    let disk = disks(&DiskRequestor { id, path: &path, type_name, wish: &config.disk })?;
    config.blk.check(&disk.properties()).map_err(|error| error.to_string())?;
    let first = builder.boot_devices.len();
    let build = |access| Blk::new(config.blk.clone(), disk, access);
    let attached = microvm::attach(builder, (device, type_name), (place, config.pci.features), build)?;
    builder.boot_devices.insert(
        first,
        BootDevice {
            owner: Some(path),
            index: config.disk.boot_index,
            path: format!("{}/disk@0,0", attached.firmware_path),
            geometry: config.disk.firmware_geometry,
        },
    );
    Ok(())
}

/// The bus of functions, if there is one.
pub(super) fn pci_bus<'a>(bus: Option<&'a Arc<PciBus>>, type_name: &str) -> Result<&'a Arc<PciBus>, String> {
    bus.ok_or_else(|| format!("No 'PCI' bus found for device '{type_name}'"))
}

fn random_numbers(
    builder: &mut Builder<'_>,
    bus: Option<&Arc<PciBus>>,
    backends: &Backends<'_>,
    (device, config): (&DeviceConfig, &VirtioConfig),
    (options, source): (RngOptions, Option<&str>),
) -> Result<(), String> {
    options.check().map_err(|error| error.to_string())?;
    let source = match source {
        Some(id) => (backends.entropy)(id)?,
        None => Arc::new(HostEntropy::builtin().map_err(|error| error.to_string())?),
    };
    let clock = builder.clock.clone();
    let names = ("pci1af4,1005", "virtio-rng-device");
    attach(builder, bus, (device, config), (2, names), |access| Rng::new(options, source, &clock, access)).map(drop)
}

pub use super::microvm::Attached;

/// Attaches a device with the model that `build` makes; it has `vectors` interrupt vectors unless the user says so.
/// `names` are those of its class in Open Firmware paths, and of its part that QEMU has as an object.
pub fn attach<M: Model>(
    builder: &mut Builder<'_>,
    root: Option<&Arc<PciBus>>,
    (device, config): (&DeviceConfig, &VirtioConfig),
    (vectors, names): (u32, (&str, &'static str)),
    build: impl FnOnce(Arc<dyn Access<M>>) -> M,
) -> Result<Attached<M>, String> {
    if let Some(place) = &config.mmio {
        return microvm::attach(builder, (device, config.type_name), (place, config.pci.features), build);
    }
    let (bus, address) = find_place(pci_bus(root, config.type_name)?, &config.place, config.type_name)?;
    let wiring =
        Wiring { dma: DmaView::new(Arc::clone(&builder.memory)), line: bus.intx(address, 0), messages: bus.messages() };
    let pci = PciOptions { vectors: config.vectors.unwrap_or(vectors), ..on_bus(builder, &bus, &config.pci)? };
    let function = VirtioPci::new(&pci, wiring, build);
    let windows = VirtioPci::windows(&function);
    let label = Label { type_name: config.type_name.to_owned(), id: device.id.clone() };
    let firmware_path = format!("{}/{}@{}", bus.open_firmware(), names.0, address.open_firmware());
    let lifecycle = bus.attach(address, label, function.clone(), windows).map_err(|error| error.to_string())?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add_with_part(config.type_name, place, lifecycle, (BACKEND.0, names.1));
    builder.can_be_inspected(VirtioPci::inspect(&function));
    builder.can_leave(Removal::Pci(bus, address), None);
    Ok(Attached { access: VirtioPci::access(&function), firmware_path })
}

/// The transport's choices for a function on that bus.
pub(super) fn on_bus(builder: &Builder<'_>, bus: &Arc<PciBus>, options: &PciOptions) -> Result<PciOptions, String> {
    let mut options = PciOptions { is_behind_port: builder.buses.is_behind_port(bus), ..options.clone() };
    options.legacy &= !(options.only_conventional_legacy && options.is_behind_port);
    if !options.legacy && !options.modern {
        return Err(NEITHER_MODERN_NOR_LEGACY.to_owned());
    }
    Ok(options)
}

/// What a property that was not given follows from.
fn completed(config: &VirtioBlkConfig, cpus: u32) -> VirtioBlkConfig {
    let mut config = config.clone();
    let queues = if config.mmio.is_some() { 1 } else { cpus.clamp(1, 1024) as u16 };
    config.blk.num_queues = config.num_queues.unwrap_or(queues);
    config.pci.vectors = config.vectors.unwrap_or(u32::from(config.blk.num_queues) + 1);
    config
}

fn block_device(
    builder: &mut Builder<'_>,
    bus: Option<&Arc<PciBus>>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &VirtioBlkConfig),
) -> Result<(), String> {
    if let Some(place) = &config.mmio {
        return block_device_of_transport(builder, disks, (device, config), place);
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let place = PciPlace { bus: config.bus.clone(), address: config.address };
    let (bus, address) = find_place(pci_bus(bus, config.type_name)?, &place, config.type_name)?;
    let config = completed(config, builder.config.cpus);
    let path = format!("{}/{}", builder.next_path(false, device.id.as_deref()), BACKEND.0);
    let requestor = DiskRequestor { id: device.id.as_deref(), path: &path, type_name: BACKEND.1, wish: &config.disk };
    let disk = disks(&requestor)?;
    config.blk.check(&disk.properties()).map_err(|error| text(&error))?;
    let wiring =
        Wiring { dma: DmaView::new(Arc::clone(&builder.memory)), line: bus.intx(address, 0), messages: bus.messages() };
    let pci = on_bus(builder, &bus, &config.pci)?;
    let function = VirtioPci::new(&pci, wiring, |access| Blk::new(config.blk.clone(), disk, access));
    let windows = VirtioPci::windows(&function);
    let label = Label { type_name: config.type_name.to_owned(), id: device.id.clone() };
    builder.boot_devices.push(BootDevice {
        owner: None,
        index: config.disk.boot_index,
        path: format!("{}/scsi@{}/disk@0,0", bus.open_firmware(), address.open_firmware()),
        geometry: config.disk.firmware_geometry,
    });
    let lifecycle = bus.attach(address, label, function.clone(), windows).map_err(|error| text(&error))?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add_with_part(config.type_name, place, lifecycle, BACKEND);
    builder.can_be_inspected(VirtioPci::inspect(&function));
    builder.can_leave(Removal::Pci(bus, address), None);
    Ok(())
}
