//! Devices that come to a running machine and leave it (QEMU's `qdev.json`).

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

/// Adds the processor with this index, as old monitors did; now it is `device_add`.
#[derive(Debug, Clone, PartialEq, Eq, Command)]
#[command(name = "cpu-add")]
pub struct CpuAdd {
    /// The index.
    pub id: i64,
}

/// What can come and leave by ACPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum ACPISlotType {
    /// A memory module.
    #[qapi(name = "DIMM")]
    Dimm,
    /// A processor.
    #[qapi(name = "CPU")]
    Cpu,
}

/// What an operating system reported of a slot (ACPI 4.0, 6.3.5).
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ACPIOSTInfo {
    /// The id of the device in the slot.
    pub device: Option<String>,
    /// The slot's number.
    pub slot: String,
    /// What the slot is for.
    pub slot_type: ACPISlotType,
    /// The event that is reported on.
    pub source: i64,
    /// How it went; 0 is well.
    pub status: i64,
}

/// What the operating system reported last of each slot.
#[derive(Debug, Clone, PartialEq, Eq, Command)]
#[command(name = "query-acpi-ospm-status", returns = Vec<ACPIOSTInfo>)]
pub struct QueryAcpiOspmStatus;

/// The operating system reports how it went with a device that came or shall leave.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
#[event(name = "ACPI_DEVICE_OST")]
pub struct AcpiDeviceOst {
    /// The report.
    pub info: ACPIOSTInfo,
}
