//! `-global`: properties of all devices of a driver, those that boards make of their own accord among them.
//!
//! As in QEMU a property counts where a device of the driver is made, and is looked at there; a class that there is none of
//! is worth a warning.

use machine::config::ChipsetKind;

use super::arguments::all;
use super::devices::{self, Driver, ROM_PROPERTIES};
use super::value::Values;
use super::{Argument, CliError};

/// A `-global` option.
pub struct Global {
    /// The driver, or a class of drivers.
    pub driver: String,
    /// The property.
    pub property: String,
    /// Its value.
    pub value: String,
}

impl Global {
    /// An error about the value.
    pub fn error(&self, message: impl std::fmt::Display) -> CliError {
        let Self { driver, property, value } = self;
        CliError::plain(format!("can't apply global {driver}.{property}={value}: {message}"))
    }

    /// The device has no such property.
    pub fn not_found(&self) -> CliError {
        self.error(format!("Property '{}.{}' not found", self.driver, self.property))
    }

    /// A value that is on or off.
    pub fn flag(&self) -> Result<bool, CliError> {
        let wrong = || self.error(format!("Parameter '{}' expects 'on' or 'off'", self.property));
        qapi::keyval::parse_bool(&self.value).ok_or_else(wrong)
    }

    /// A value that is a number.
    pub fn number(&self, max: u64) -> Result<u64, CliError> {
        let wrong = || self.error(format!("Parameter '{}' expects a number up to {max}", self.property));
        qapi::keyval::parse_u64(&self.value).filter(|number| *number <= max).ok_or_else(wrong)
    }

    /// Whether devices of this driver have the property.
    fn counts_for(&self, driver: &Driver) -> bool {
        let name = self.driver.as_str();
        name == driver.name
            || driver.alias == Some(name)
            || match name {
                "device" => true,
                "pci-device" => driver.bus == "PCI",
                "virtio-pci" => driver.bus == "PCI" && driver.name.starts_with("virtio-"),
                "usb-device" => driver.bus == "usb-bus",
                _ => false,
            }
    }
}

/// Classes of devices that have properties for all of their drivers.
const CLASSES: [&str; 4] = ["device", "pci-device", "virtio-pci", "usb-device"];

/// What boards have of their own: its type, whether a board has it, and the properties that can be set.
type OfBoard = (&'static str, fn(ChipsetKind) -> bool, &'static [&'static str]);

/// The devices of boards that `-device` does not know.
const OF_BOARDS: &[OfBoard] = &[
    ("PIIX4_PM", is_440fx, &["disable_s3", "disable_s4", "s4_val", ROOT_HOTPLUG, BRIDGE_HOTPLUG]),
    ("PIIX3", is_440fx, &[]),
    ("piix3-ide", is_440fx, &[]),
    ("i440FX", is_440fx, &[]),
    ("i440FX-pcihost", is_440fx, &[]),
    ("ICH9-LPC", is_q35, &["disable_s3", "disable_s4", "s4_val", "noreboot", BRIDGE_HOTPLUG]),
    ("ICH9-SMB", is_q35, &[]),
    ("mch", is_q35, &["extended-tseg-mbytes", "smbase-smram"]),
    ("q35-pcihost", is_q35, &[]),
    ("cfi.pflash01", ChipsetKind::has_pci, &["secure"]),
    ("hpet", ChipsetKind::has_pci, &[]),
    ("isa-fdc", is_pc, &["fdtypeA", "fdtypeB"]),
    ("i8042", is_pc, &[]),
    ("vmport", is_pc, &[]),
    ("port92", is_pc, &[]),
    ("isa-ide", is_isa, &[]),
    ("isa-pit", has_devices, &[]),
    ("isa-pcspk", is_pc, &[]),
    ("mc146818rtc", has_devices, &[]),
    ("isa-i8259", has_devices, &[]),
    ("ioapic", has_devices, &[]),
    ("fw_cfg_io", has_devices, &[]),
    ("apic", has_devices, &[]),
    ("virtio-mmio", is_microvm, &["force-legacy", "ioeventfd", "format_transport_address"]),
    ("acpi-ged-x86", is_microvm, &[]),
    ("gpex-pcihost", is_microvm, &[]),
];

const ROOT_HOTPLUG: &str = "acpi-root-pci-hotplug";
const BRIDGE_HOTPLUG: &str = "acpi-pci-hotplug-with-bridge-support";

fn is_440fx(chipset: ChipsetKind) -> bool {
    chipset == ChipsetKind::I440fx
}

fn is_q35(chipset: ChipsetKind) -> bool {
    chipset == ChipsetKind::Q35
}

fn is_isa(chipset: ChipsetKind) -> bool {
    chipset == ChipsetKind::Isa
}

fn is_microvm(chipset: ChipsetKind) -> bool {
    chipset == ChipsetKind::Microvm
}

fn is_pc(chipset: ChipsetKind) -> bool {
    chipset.has_pci() || is_isa(chipset)
}

fn has_devices(chipset: ChipsetKind) -> bool {
    chipset != ChipsetKind::Empty
}

/// Reads the options: `driver.property=value`, or `driver=…,property=…,value=…`.
pub fn globals(arguments: &[Argument<'_>]) -> Result<Vec<Global>, CliError> {
    let mut globals = Vec::new();
    for argument in all(arguments, "global") {
        let short = argument.value.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
        globals.push(match short {
            Some(((driver, property), value)) if !driver.contains(',') => {
                Global { driver: driver.to_owned(), property: property.to_owned(), value: value.to_owned() }
            }
            _ => {
                let mut values = Values::parse(*argument, None)?;
                let (driver, property) = (values.text("driver")?, values.text("property")?);
                let value = values.text("value")?;
                values.finish()?;
                let (Some(driver), Some(property), Some(value)) = (driver, property, value) else {
                    return Err(argument.error("options 'driver', 'property', and 'value' are required"));
                };
                Global { driver, property, value }
            }
        });
    }
    Ok(globals)
}

/// Gives a device that is made the properties that it is not given by itself.
///
/// # Errors
/// The driver has no such property.
pub fn apply(globals: &[Global], driver: &Driver, values: &mut Values<'_>) -> Result<(), CliError> {
    // The last one counts.
    for global in globals.iter().rev().filter(|global| global.counts_for(driver)) {
        let is_of_rom = devices::has_rom(driver) && ROM_PROPERTIES.iter().any(|(name, _)| *name == global.property);
        let is_of_driver = driver.properties.iter().any(|(name, _)| *name == global.property);
        if !is_of_rom && !is_of_driver {
            return Err(global.not_found());
        }
        values.add_default(&global.property, &global.value);
    }
    Ok(())
}

/// The properties of the processors' model, before those that `-cpu` itself gives.
pub fn of_cpus(globals: &[Global], model: &str) -> String {
    let (name, own) = model.split_once(',').unwrap_or((model, ""));
    let type_name = format!("{name}-x86_64-cpu");
    let is_of_cpus = |global: &&Global| global.driver == type_name || is_cpu_class(&global.driver);
    let mut parts = vec![name.to_owned()];
    parts.extend(globals.iter().filter(is_of_cpus).map(|Global { property, value, .. }| format!("{property}={value}")));
    parts.extend(Some(own.to_owned()).filter(|own| !own.is_empty()));
    parts.join(",")
}

fn is_cpu_class(name: &str) -> bool {
    matches!(name, "x86_64-cpu" | "cpu")
}

/// Looks at the properties of what the board has of its own. Returns warnings of classes that there are none of.
///
/// # Errors
/// A device of the board has no such property.
pub fn check(globals: &[Global], chipset: ChipsetKind) -> Result<Vec<String>, CliError> {
    let mut warnings = Vec::new();
    for global in globals {
        let name = global.driver.as_str();
        if let Some((_, is_there, properties)) = OF_BOARDS.iter().find(|(driver, ..)| *driver == name) {
            if is_there(chipset) && !properties.contains(&global.property.as_str()) {
                return Err(global.not_found());
            }
        } else if devices::driver(name).is_none()
            && !devices::is_cpu_type(name)
            && !is_cpu_class(name)
            && !CLASSES.contains(&name)
        {
            warnings.push(format!("global {name}.{} has invalid class name", global.property));
        }
    }
    Ok(warnings)
}
