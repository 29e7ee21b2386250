//! Devices that come to a running machine and leave it (QEMU's `qdev.json`).

use crate::json::Map;
use crate::{Command, Event};

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
