//! virtio consoles of the command line, and the ports on their buses.

use std::sync::Arc;

use chardev::{Chardev, Event};
use devices_pci::PciBus;
use devices_virtio::device::Access;
use devices_virtio::serial::{PortAccess, PortBackend, PortConfig, Serial};

use super::ide::PartOfController;
use super::virtio::attach;
use super::{Builder, Place, Removal};
use crate::Chardevs;
use crate::config::{DeviceConfig, SerialOptions, SerialPortConfig, VirtioConfig};
use crate::event::{GuestEvent, GuestEvents};

/// A console with the names of its ports.
pub struct Console {
    name: String,
    is_named: bool,
    access: Arc<dyn Access<Serial>>,
    /// Number and name of each port.
    ports: Vec<(u32, Option<String>)>,
    /// The path of the device in the object tree.
    path: String,
}

impl Console {
    /// The name of the bus.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the device in the object tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A port has come while the machine runs.
    pub fn plugged(&self, number: u32) {
        Serial::plugged(&*self.access, number);
    }

    /// Takes a port away, and tells the guest.
    pub fn unplug(&mut self, number: u32) {
        self.ports.retain(|(other, _)| *other != number);
        Serial::unplug(&*self.access, number);
    }
}

/// Builds a console without ports.
pub fn console(
    builder: &mut Builder<'_>,
    root: Option<&Arc<PciBus>>,
    (device, config): (&DeviceConfig, &VirtioConfig),
    options: SerialOptions,
) -> Result<(), String> {
    const VECTORS: u32 = 2;
    options.check().map_err(|error| error.to_string())?;
    let names = ("pci1af4,1003", "virtio-serial-device");
    let attached = attach(builder, root, (device, config), (VECTORS, names), |_| Serial::new(options))?;
    let consoles = &mut builder.buses.serial;
    let unnamed = consoles.iter().filter(|console| !console.is_named).count();
    consoles.push(Console {
        name: device.id.as_ref().map_or_else(|| format!("virtio-serial-bus.{unnamed}"), |id| format!("{id}.0")),
        is_named: device.id.is_some(),
        access: attached.access,
        ports: Vec::new(),
        path: builder.devices.last().map(|device| device.path.clone()).unwrap_or_default(),
    });
    Ok(())
}

/// Builds a port on the bus of a console.
pub fn port(
    builder: &mut Builder<'_>,
    chardevs: &Chardevs<'_>,
    (device, config): (&DeviceConfig, &SerialPortConfig),
) -> Result<(), String> {
    // Names are those of the whole machine.
    let consoles = &mut builder.buses.serial;
    let names: Vec<String> =
        consoles.iter().flat_map(|console| console.ports.iter().filter_map(|(_, name)| name.clone())).collect();
    let missing = || format!("No 'virtio-serial-bus' bus found for device '{}'", config.type_name);
    let console = match &config.bus {
        Some(name) => {
            let found = consoles.iter_mut().find(|console| console.name == *name);
            found.ok_or_else(|| format!("Bus '{name}' not found"))?
        }
        None => consoles.last_mut().ok_or_else(missing)?,
    };
    let chardev = match &config.chardev {
        Some(id) => Some(Arc::new(chardevs(id).map_err(|error| match error {
            chardev::Error::NotFound(_) => format!("Property '{}.chardev' can't find value '{id}'", config.type_name),
            chardev::Error::InUse(_) => {
                format!("Property '{}.chardev' can't take value '{id}', it's in use", config.type_name)
            }
            error => error.to_string(),
        })?)),
        None => None,
    };
    let backend = |chardev: &Arc<Chardev>| {
        let events = device.id.clone().map(|id| (id, Arc::clone(&builder.events)));
        Box::new(Backend { chardev: Arc::clone(chardev), events }) as Box<dyn PortBackend>
    };
    let mut port = Some(PortConfig {
        number: config.number,
        name: config.name.clone(),
        is_console: config.is_console,
        is_open: false,
        backend: chardev.as_ref().map(backend),
    });
    let mut added = None;
    console.access.access(&mut |serial, _| added = port.take().map(|port| serial.add_port(port, &names)));
    let number = added.ok_or("the console is gone")?.map_err(|error| error.to_string())?;
    console.ports.push((number, config.name.clone()));
    let (bus, parent) = (console.name.clone(), console.path.clone());
    if let Some(chardev) = chardev {
        connect(&chardev, &PortAccess::new(&console.access, number));
    }
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add(config.type_name, place, Arc::new(PartOfController));
    builder.can_leave(Removal::SerialPort { bus, number }, Some(parent));
    Ok(())
}

/// Leads the character device's input, flow control and connections to the port.
fn connect(chardev: &Chardev, port: &Arc<PortAccess>) {
    let (input, writable, events) = (Arc::clone(port), Arc::clone(port), Arc::clone(port));
    chardev.set_input(Box::new(move |bytes| input.receive(bytes)));
    chardev.set_writable(Box::new(move || writable.writable()));
    chardev.set_events(Box::new(move |event| match event {
        Event::Opened => events.host_opened(true),
        Event::Closed => events.host_opened(false),
        Event::Break | Event::FocusIn | Event::FocusOut => {}
    }));
}

/// The port's way to its character device.
struct Backend {
    chardev: Arc<Chardev>,
    /// The port's id and who is told of its changes.
    events: Option<(String, GuestEvents)>,
}

impl PortBackend for Backend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.chardev.write(bytes)
    }

    fn resume_input(&mut self) {
        self.chardev.resume_input();
    }

    fn guest_opened(&mut self, is_open: bool) {
        if let Some((id, events)) = &self.events {
            events(GuestEvent::PortChanged { id: id.clone(), open: is_open });
        }
    }
}
