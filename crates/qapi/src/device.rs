//! Devices that come to a running machine and leave it (QEMU's `qdev.json`, parts of `acpi.json`).

use crate::json::Map;
use crate::{Command, Event, QapiType};

/// Adds a device, as `-device` does.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "device_add")]
pub struct DeviceAdd {
    /// The driver.
    pub driver: String,
    /// The bus that the device goes to.
    pub bus: Option<String>,
    /// The device's name.
    pub id: Option<String>,
    /// The driver's properties. Numbers and truth values may also be text.
    #[qapi(rest)]
    pub properties: Map,
}

/// Asks for a device to leave. When it has, there is an event.
#[derive(Debug, Clone, PartialEq, Eq, Command)]
#[command(name = "device_del")]
pub struct DeviceDel {
    /// The device's id, or its path in the object tree.
    pub id: String,
}

/// A device has left.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "DEVICE_DELETED")]
pub struct DeviceDeleted {
    /// Its id.
    pub device: Option<String>,
    /// Its path in the object tree.
    pub path: String,
}

/// The guest does not let a device go.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "DEVICE_UNPLUG_GUEST_ERROR")]
pub struct DeviceUnplugGuestError {
    /// Its id.
    pub device: Option<String>,
    /// Its path in the object tree.
    pub path: String,
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum ACPISlotType {
    /// A memory module.
    #[qapi(name = "DIMM")]
    Dimm,
    /// A processor.
    #[qapi(name = "CPU")]
    Cpu,
}

/// What the guest's operating system said of a place (the method `_OST`).
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ACPIOSTInfo {
    /// The id of the device that is there.
    pub device: Option<String>,
    /// The number of the place.
    pub slot: String,
    /// What the place is for.
    pub slot_type: ACPISlotType,
    /// What the status is about.
    pub source: i64,
    /// The status.
    pub status: i64,
}

/// The guest's operating system said how it dealt with a device.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "ACPI_DEVICE_OST")]
pub struct AcpiDeviceOst {
    /// What it said.
    pub info: ACPIOSTInfo,
}

/// Lists what the guest's operating system said of places for processors.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-acpi-ospm-status", returns = Vec<ACPIOSTInfo>)]
pub struct QueryAcpiOspmStatus;

/// Adds a virtual CPU. Later versions of QEMU have `device_add` alone.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "cpu-add", legacy)]
pub struct CpuAdd {
    /// The number of the CPU.
    pub id: i64,
}
