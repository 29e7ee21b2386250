//! Devices that come to the running machine and leave it.

use qapi::device::{DeviceAdd, DeviceDel, DeviceDeleted};

use super::Table;

/// The commands and events of this subject.
pub fn register(table: &mut Table) {
    table.register::<DeviceAdd>(|control, _, wanted| {
        let mut properties = wanted.properties;
        properties.insert("driver", wanted.driver);
        for (name, value) in [("bus", wanted.bus), ("id", wanted.id)] {
            if let Some(value) = value {
                properties.insert(name, value);
            }
        }
        control.add_device(&properties)
    });
    table.register::<DeviceDel>(|control, _, wanted| control.request_removal(&wanted.id));
    table.declare_event::<DeviceDeleted>();
}
