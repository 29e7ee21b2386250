//! Devices that come to the running machine and leave it: `device_add`, `device_del`, and what the guest agrees to.

use std::fmt;
use std::sync::Arc;

use chardev::Chardevs;
use machine::UnplugError;
use machine::config::{DeviceConfig, MachineConfig};
use qapi::device::DeviceDeleted;
use qapi::json::Map;
use qapi::{Error, ErrorClass, Members as _};

use crate::control::Control;
use crate::handlers::cpu;
use crate::program::with_backends;
use crate::storage::{DriveConfig, Interface, StorageOwner};

/// Makes a device of its properties: driver, id and the driver's own, by the rules of `-device`. The devices that there
/// are already are in the machine's configuration. The error is a whole message.
pub type ParseDevice = dyn Fn(&Map, &MachineConfig) -> Result<DeviceConfig, String> + Send + Sync;

/// See [`ParseDevice`].
#[derive(Clone)]
pub struct DeviceParser(pub Arc<ParseDevice>);

impl fmt::Debug for DeviceParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceParser")
    }
}

/// Makes a drive of its option, by the rules of `-drive`, among drives that are connected so. The error is a whole
/// message.
pub type ParseDrive = dyn Fn(&str, &[Interface]) -> Result<DriveConfig, String> + Send + Sync;

/// See [`ParseDrive`].
#[derive(Clone)]
pub struct DriveParser(pub Arc<ParseDrive>);

impl fmt::Debug for DriveParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DriveParser")
    }
}

/// Lists the device models, or the properties of one; `None`: there is none of that name.
pub type DeviceHelp = fn(Option<&str>) -> Option<String>;

/// What devices that come later are made of.
#[derive(Clone)]
pub struct DeviceSource {
    /// Reads properties.
    pub parser: DeviceParser,
    /// Tells what there is.
    pub help: DeviceHelp,
    /// Reads drives.
    pub drives: DriveParser,
    /// The character devices.
    pub chardevs: Arc<Chardevs>,
}

impl Control {
    /// `device_add`.
    ///
    /// # Errors
    /// The properties are wrong, or the device can't come to this machine.
    pub fn add_device(&mut self, properties: &Map) -> Result<(), Error> {
        self.remove_ejected();
        let source = self.device_source().clone();
        let device = (source.parser.0)(properties, self.machine().config()).map_err(Error::generic)?;
        if let Some(id) = &device.id
            && self.machine().has_device(&format!("/machine/peripheral/{id}"))
        {
            return Err(Error::generic(format!("Duplicate device ID '{id}'")));
        }
        let (machine, storage) = self.machine_and_storage();
        let plugged = with_backends(&source.chardevs, storage, |backends| machine.plug(&device, backends));
        plugged.map_err(|message| {
            self.release_lost_disks();
            Error::generic(message)
        })
    }

    /// `drive_add` of the human monitor: a drive for a device that comes later.
    ///
    /// # Errors
    /// A whole message.
    pub fn add_drive(&mut self, option: &str) -> Result<(), String> {
        let parser = self.device_source().drives.clone();
        let drive = (parser.0)(option, &self.storage().interfaces())?;
        let kind = match drive.interface {
            Interface::None => return self.storage().add_drive(&drive).map_err(|error| error.desc),
            Interface::Ide { .. } => 1,
            Interface::Floppy { .. } => 3,
            Interface::Flash(_) => 4,
            Interface::Virtio => 7,
        };
        Err(format!("Can't hot-add drive to type {kind}"))
    }

    /// `cpu-add`: the processor of this index comes, of the machine's type.
    ///
    /// # Errors
    /// There is no such place, or it is taken.
    pub fn add_cpu(&mut self, index: i64) -> Result<(), Error> {
        let slots = self.machine().cpu_slots();
        let slot = usize::try_from(index).ok().and_then(|index| slots.get(index));
        let Some(slot) = slot.filter(|_| self.machine().has_cpu_slots()) else {
            let last = slots.len().saturating_sub(1);
            return Err(Error::generic(format!("Unable to add CPU: {index}, max allowed: {last}")));
        };
        if slot.path.is_some() {
            return Err(Error::generic(format!("Unable to add CPU: {index}, it already exists")));
        }
        let mut properties = cpu::properties(slot).to_map();
        properties.insert("driver", self.machine().cpu_type().to_owned());
        self.add_device(&properties)
    }

    /// `device_del`: a device leaves at once, or the guest is asked.
    ///
    /// # Errors
    /// There is no such device, or it can't leave.
    pub fn request_removal(&mut self, name: &str) -> Result<(), Error> {
        let path = self.machine_mut().request_removal(name).map_err(|error| {
            let class = match error {
                UnplugError::NotFound(_) => ErrorClass::DeviceNotFound,
                _ => ErrorClass::GenericError,
            };
            Error::new(class, error.to_string())
        })?;
        if let Some(path) = path {
            self.remove_device(&path);
        }
        Ok(())
    }

    /// Removes what the guest has let go.
    pub fn remove_ejected(&mut self) {
        for path in self.machine().ejected() {
            self.remove_device(&path);
        }
    }

    /// Removes what the guest was asked to let go: it won't come to it.
    pub fn remove_pending(&mut self) {
        for path in self.machine().pending_removals() {
            self.remove_device(&path);
        }
    }

    fn remove_device(&mut self, path: &str) {
        let removed = self.machine_mut().remove(path);
        for device in removed {
            self.storage().release_device(&device.path);
            if let Some(path) = device.part {
                self.events().emit(DeviceDeleted { device: None, path });
            }
            self.events().emit(DeviceDeleted { device: device.id, path: device.path });
        }
    }

    /// Disks that were given to a device that did not come.
    fn release_lost_disks(&mut self) {
        for path in self.storage().device_paths() {
            if !self.machine().has_device(&path) {
                self.storage().release_device(&path);
            }
        }
    }
}
