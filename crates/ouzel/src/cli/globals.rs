//! `-global`: properties of all devices of a driver, those that boards make of their own accord among them.
//!
//! As in QEMU a property counts where a device of the driver is made, and is looked at there; a class that there is none of
//! is worth a warning. What older machine types keep as it was ([`super::compat`]) comes before what the user says.

use machine::config::ChipsetKind;

use super::arguments::all;
use super::devices::{self, Driver, ROM_PROPERTIES};
use super::machine::machine_type;
use super::value::Values;
use super::{Argument, CliError, compat};

/// A `-global` option, or what stands for one.
pub struct Global {
    /// It is the machine type's, and counts only for what has the property.
    pub is_machines: bool,
    /// The driver, or a class of drivers.
    pub driver: String,
    /// The property.
    pub property: String,
    /// Its value.
    pub value: String,
}

impl Global {
    /// A user's.
    pub fn new(driver: &str, property: &str, value: &str) -> Self {
        let [driver, property, value] = [driver, property, value].map(str::to_owned);
        Self { is_machines: false, driver, property, value }
    }

    /// An error about the value.
    pub fn error(&self, message: impl std::fmt::Display) -> CliError {
        let Self { driver, property, value, .. } = self;
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

    /// How closely the class is that of a driver: a device behind a transport gets what is said of it before what is said
    /// of the whole. `None`: it is another one.
    fn rank(&self, driver: &Driver) -> Option<Rank> {
        let name = self.driver.as_str();
        let has = |prefix: &str| driver.name.starts_with(prefix);
        let is_whole = name == driver.name
            || driver.alias == Some(name)
            || match name {
                "device" => true,
                "pci-device" => driver.bus == "PCI",
                "virtio-pci" => driver.bus == "PCI" && has("virtio-"),
                "usb-device" => driver.bus == "usb-bus",
                _ => false,
            };
        let is_part = match name {
            "virtio-device" => has("virtio-"),
            "virtio-gpu-device" => has("virtio-gpu-") || driver.name == "virtio-vga",
            _ => name.strip_suffix("device").is_some_and(|stem| stem.starts_with("virtio-") && has(stem)),
        };
        is_whole.then_some(Rank::Whole).or(is_part.then_some(Rank::Part))
    }

    /// Whether devices of this driver have the property, if it exists.
    #[cfg(test)]
    pub(super) fn counts_for(&self, driver: &Driver) -> bool {
        self.rank(driver).is_some()
    }
}

/// What a class says of a driver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// It is the driver's own, or one that it belongs to.
    Whole,
    /// It is that of the virtio device in it.
    Part,
}

/// Classes of devices that have properties for all of their drivers.
const CLASSES: [&str; 5] = ["device", "pci-device", "virtio-pci", "virtio-device", "usb-device"];

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

/// What the machine type keeps as it was, and the options: `driver.property=value`, or `driver=…,property=…,value=…`.
pub fn globals(arguments: &[Argument<'_>]) -> Result<Vec<Global>, CliError> {
    let mut globals: Vec<_> = compat::globals(machine_type(arguments).version()).collect();
    for argument in all(arguments, "global") {
        let short = argument.value.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
        globals.push(match short {
            Some(((driver, property), value)) if !driver.contains(',') => Global::new(driver, property, value),
            _ => {
                let mut values = Values::parse(*argument, None)?;
                let (driver, property) = (values.text("driver")?, values.text("property")?);
                let value = values.text("value")?;
                values.finish()?;
                let (Some(driver), Some(property), Some(value)) = (driver, property, value) else {
                    return Err(argument.error("options 'driver', 'property', and 'value' are required"));
                };
                Global::new(&driver, &property, &value)
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
    for rank in [Rank::Whole, Rank::Part] {
        for global in globals.iter().rev().filter(|global| global.rank(driver) == Some(rank)) {
            if has_property(driver, &global.property) {
                values.add_default(&global.property, &global.value);
            } else if !global.is_machines {
                return Err(global.not_found());
            }
        }
    }
    Ok(())
}

/// Whether a driver has a property.
pub fn has_property(driver: &Driver, property: &str) -> bool {
    // Their names say which interfaces they have.
    if matches!(property, "disable-legacy" | "disable-modern") && driver.name.ends_with("-transitional") {
        return false;
    }
    let is_it = |(name, _): &(&str, &str)| *name == property;
    (devices::has_rom(driver) && ROM_PROPERTIES.iter().any(is_it)) || driver.properties.iter().any(is_it)
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

/// Whether it is a property of a device of boards.
#[cfg(test)]
pub(super) fn is_of_board(global: &Global) -> bool {
    OF_BOARDS
        .iter()
        .any(|(driver, _, properties)| *driver == global.driver && properties.contains(&global.property.as_str()))
}

/// Looks at the properties of what the board has of its own. Returns warnings of classes that there are none of.
///
/// # Errors
/// A device of the board has no such property.
pub fn check(globals: &[Global], chipset: ChipsetKind) -> Result<Vec<String>, CliError> {
    let mut warnings = Vec::new();
    for global in globals.iter().filter(|global| !global.is_machines) {
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
