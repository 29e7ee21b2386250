//! SCSI host adapters of the command line, and the drives on their buses.

use std::sync::Arc;

use device::disk::Disk;
use devices_pci::PciBus;
use devices_scsi::{Cancel, LogicalUnit, ScsiAddress, ScsiBus, UnitOptions};
use devices_virtio::device::Access;
use devices_virtio::scsi::{FIXED_QUEUES, LIMITS, Scsi};

use super::virtio::attach;
use super::{Builder, Place, Removal};
use crate::config::{BlkOptions, DeviceConfig, DiskUse, ScsiDriveConfig, ScsiOptions, VirtioConfig, VirtioModel};
use crate::firmware::BootDevice;
use crate::storage::{DiskRequestor, Disks};

/// A host adapter's bus.
pub struct Host {
    name: String,
    /// The adapter's path in the object tree.
    path: String,
    /// The adapter's Open Firmware path.
    firmware_path: String,
    bus: Arc<ScsiBus>,
    adapter: Adapter,
}

/// What a bus belongs to.
enum Adapter {
    /// A virtio device, which tells its driver of drives that come and leave, and its I/O thread.
    Virtio(Arc<dyn Access<Scsi>>, Option<String>),
    /// USB Attached SCSI.
    Uas,
}

impl Builder<'_> {
    /// The name of a new SCSI bus: that of its adapter, or a number.
    pub(super) fn scsi_bus_name(&mut self, id: Option<&str>) -> String {
        if let Some(id) = id {
            return format!("{id}.0");
        }
        let numbers = &mut self.buses.scsi_numbers;
        *numbers += 1;
        format!("scsi.{}", *numbers - 1)
    }
}

/// Builds a host adapter.
pub fn host(
    builder: &mut Builder<'_>,
    root: Option<&Arc<PciBus>>,
    (device, config): (&DeviceConfig, &VirtioConfig),
) -> Result<(), String> {
    let VirtioModel::Scsi { options, num_queues, iothread } = &config.model else {
        return Err(format!("'{}' is no SCSI adapter", config.type_name));
    };
    let most = u32::from(devices_virtio::queue::MAX_SIZE - FIXED_QUEUES);
    let queues = if config.mmio.is_some() { 1 } else { builder.config.cpus.clamp(1, most) };
    let num_queues = num_queues.unwrap_or(queues);
    let options = ScsiOptions { num_queues, ..options.clone() };
    options.check().map_err(|error| error.to_string())?;
    let bus = ScsiBus::new(LIMITS);
    let shared = Arc::clone(&bus);
    let vectors = num_queues + u32::from(FIXED_QUEUES) + 1;
    let names = ("scsi", "virtio-scsi-device");
    let attached =
        attach(builder, root, (device, config), (vectors, names), |access| Scsi::new(options, shared, access))?;
    let name = builder.scsi_bus_name(device.id.as_deref());
    builder.buses.scsi.push(Host {
        name,
        path: builder.devices.last().map(|device| device.path.clone()).unwrap_or_default(),
        firmware_path: attached.firmware_path,
        bus,
        adapter: Adapter::Virtio(attached.access, iothread.clone()),
    });
    Ok(())
}

impl Host {
    /// The bus of a USB device: its name, the device's path in the object tree and in Open Firmware.
    pub fn of_usb((name, path, firmware_path): (String, String, String), bus: Arc<ScsiBus>) -> Self {
        Self { name, path, firmware_path, bus, adapter: Adapter::Uas }
    }

    /// The path of the adapter in the object tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A drive has come while the machine runs.
    pub fn plugged(&self, address: ScsiAddress) {
        if let Adapter::Virtio(access, _) = &self.adapter {
            Scsi::plugged(&**access, address, true);
        }
    }

    /// Takes a drive off the bus, and tells the guest.
    pub fn unplug(&self, address: ScsiAddress) {
        if let Some(unit) = self.bus.detach(address) {
            unit.cancel(|_| true, Cancel::Reset, || ());
            if let Adapter::Virtio(access, _) = &self.adapter {
                Scsi::plugged(&**access, address, false);
            }
        }
    }
}

/// Builds a drive on the bus of an adapter.
pub fn drive(
    builder: &mut Builder<'_>,
    disks: &Disks<'_>,
    (device, config): (&DeviceConfig, &ScsiDriveConfig),
) -> Result<(), String> {
    let path = builder.next_path(false, device.id.as_deref());
    let hosts = &builder.buses.scsi;
    let host = match &config.bus {
        Some(name) => hosts.iter().find(|host| host.name == *name).ok_or_else(|| format!("Bus '{name}' not found"))?,
        None => hosts.last().ok_or_else(|| format!("No 'SCSI' bus found for device '{}'", config.type_name))?,
    };
    let address = host.bus.place(config.channel, config.target, config.lun).map_err(|error| error.to_string())?;
    let iothread = match &host.adapter {
        Adapter::Virtio(_, iothread) => iothread.clone(),
        Adapter::Uas => None,
    };
    let wish = DiskUse { iothread, ..config.disk.clone() };
    let requestor = DiskRequestor { id: device.id.as_deref(), path: &path, type_name: config.type_name, wish: &wish };
    let disk = disks(&requestor)?;
    let unit = unit(&config.unit, &disk)?;
    host.bus.attach(address, device.id.as_deref(), unit.clone()).map_err(|error| error.to_string())?;
    if let Adapter::Virtio(access, _) = &host.adapter {
        Scsi::watch(access, address, &unit);
    }
    builder.boot_devices.push(BootDevice {
        owner: None,
        index: config.disk.boot_index,
        path: format!(
            "{}/channel@{:x}/disk@{:x},{:x}",
            host.firmware_path, address.channel, address.target, address.lun
        ),
        geometry: config.disk.firmware_geometry,
    });
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    let (bus, parent) = (host.name.clone(), host.path.clone());
    builder.add(config.type_name, place, unit.lifecycle());
    builder.can_leave(Removal::Scsi { bus, address }, Some(parent));
    Ok(())
}

/// The unit of a disk. Without a name of its own it has the disk's.
pub(super) fn unit(options: &UnitOptions, disk: &Arc<dyn Disk>) -> Result<LogicalUnit, String> {
    let sizes = BlkOptions {
        logical_block_size: options.logical_block_size,
        physical_block_size: options.physical_block_size,
        min_io_size: options.min_io_size,
        opt_io_size: options.opt_io_size,
        discard_granularity: options.discard_granularity,
        ..BlkOptions::default()
    };
    sizes.check_sizes(&disk.properties()).map_err(|error| error.to_string())?;
    let mut options = options.clone();
    if options.serial.is_none() && options.device_id.is_none() {
        options.device_id = Some(disk.name()).filter(|name| !name.is_empty());
    }
    Ok(LogicalUnit::new(options, disk))
}
