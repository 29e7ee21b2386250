//! The types of devices, as the object tree lists them (`qom-list-types`, `device-list-properties`): the drivers of
//! `-device` with their properties.

use machine::config::{PropertyInfo, PropertyValue, TypeInfo};

use super::devices::{self, Driver};

/// Types of the properties that have neither text nor a truth value, by name.
const PROPERTY_TYPES: &[(&str, &str)] = &[
    ("account-failed", "OnOffAuto"),
    ("account-invalid", "OnOffAuto"),
    ("addr", "int32"),
    ("bandwidth", "uint32"),
    ("bios-chs-trans", "BiosAtaTranslation"),
    ("bootindex", "int32"),
    ("channel", "uint32"),
    ("chassis", "uint8"),
    ("chassis_nr", "uint8"),
    ("cmd_per_lun", "uint32"),
    ("cyls", "uint32"),
    ("disable-legacy", "OnOffAuto"),
    ("discard_granularity", "size"),
    ("drive-type", "FdcDriveType"),
    ("events", "uint8"),
    ("firstport", "uint32"),
    ("head", "uint32"),
    ("heads", "uint32"),
    ("index", "uint32"),
    ("intrs", "uint32"),
    ("iobase", "uint32"),
    ("ioport", "uint16"),
    ("iosize", "uint32"),
    ("iothread", "link<iothread>"),
    ("irq", "uint32"),
    ("lcyls", "uint32"),
    ("lheads", "uint32"),
    ("logical_block_size", "size"),
    ("lsecs", "uint32"),
    ("lun", "uint32"),
    ("max-bytes", "uint64"),
    ("max-discard-sectors", "uint32"),
    ("max-write-zeroes-sectors", "uint32"),
    ("max_hostmem", "size"),
    ("max_io_size", "uint64"),
    ("max_outputs", "uint32"),
    ("max_ports", "uint32"),
    ("max_sectors", "uint32"),
    ("max_unmap_size", "uint64"),
    ("maxframes", "uint32"),
    ("min_io_size", "size"),
    ("msi", "OnOffAuto"),
    ("msix", "OnOffAuto"),
    ("nr", "uint32"),
    ("num-queues", "uint16"),
    ("num_queues", "uint32"),
    ("opt_io_size", "size"),
    ("p2", "uint32"),
    ("p3", "uint32"),
    ("period", "uint32"),
    ("physical_block_size", "size"),
    ("port", "uint8"),
    ("port_index", "uint16"),
    ("port_wwn", "uint64"),
    ("ports", "uint32"),
    ("queue-size", "uint16"),
    ("readback", "uint32"),
    ("refresh_rate", "uint32"),
    ("rerror", "BlockdevOnError"),
    ("rng", "link<rng-backend>"),
    ("rombar", "uint32"),
    ("romsize", "uint32"),
    ("rotation_rate", "uint16"),
    ("scsi-id", "uint32"),
    ("scsi_version", "int32"),
    ("secs", "uint32"),
    ("slot", "uint16"),
    ("slots", "uint32"),
    ("unit", "uint32"),
    ("usb_version", "uint32"),
    ("vectors", "uint32"),
    ("vgamem", "size"),
    ("vgamem_mb", "uint32"),
    ("virtqueue_size", "uint32"),
    ("werror", "BlockdevOnError"),
    ("write-cache", "OnOffAuto"),
    ("wwn", "uint64"),
    ("x-speed", "PCIELinkSpeed"),
    ("x-width", "PCIELinkWidth"),
    ("xmax", "uint32"),
    ("xres", "uint32"),
    ("ymax", "uint32"),
    ("yres", "uint32"),
];

/// What drivers extend, by the bus that they need.
fn parent(bus: &str) -> &'static str {
    match bus {
        "PCI" => "pci-device",
        "ISA" => "isa-device",
        "IDE" => "ide-device",
        "SCSI" => "scsi-device",
        "usb-bus" => "usb-device",
        _ => "device",
    }
}

/// The value that the help names as the default.
fn default(type_name: &str, help: &str) -> Option<PropertyValue> {
    let (_, rest) = help.rsplit_once("(default ")?;
    let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
    match type_name {
        "bool" => Some((word == "on").into()),
        "str" => None,
        "OnOffAuto" | "BlockdevOnError" | "FdcDriveType" | "PCIELinkSpeed" | "PCIELinkWidth" => Some(word.into()),
        _ => qapi::keyval::parse_size(&word, 1).ok().map(PropertyValue::Uint),
    }
}

fn property(bus: &str, name: &str, help: &str) -> PropertyInfo {
    let known = PROPERTY_TYPES.iter().find(|(known, _)| *known == name).map(|(_, type_name)| *type_name);
    // Ports of hubs have names with dots.
    let known = if (bus, name) == ("usb-bus", "port") { Some("str") } else { known };
    let type_name =
        known.unwrap_or(if help.starts_with("on/off") || help.starts_with("off:") { "bool" } else { "str" });
    PropertyInfo {
        description: Some(help.to_owned()),
        default: default(type_name, help),
        ..PropertyInfo::new(name, type_name)
    }
}

fn of_driver(driver: &Driver) -> TypeInfo {
    // The bus is chosen with the device; it is no property of it.
    let rom = if devices::has_rom(driver) { devices::ROM_PROPERTIES } else { &[] };
    let properties = driver.properties.iter().chain(rom).filter(|(name, _)| *name != "bus");
    properties.fold(TypeInfo::new(driver.name, parent(driver.bus)), |info, (name, help)| {
        info.property(property(driver.bus, name, help))
    })
}

/// The types of all drivers.
pub fn of_drivers() -> Vec<TypeInfo> {
    devices::drivers().map(of_driver).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_have_the_types_and_defaults_that_the_help_says() {
        let types = of_drivers();
        let find = |driver: &str, name: &str| {
            let info = types.iter().find(|info| info.name == driver).expect(driver);
            info.properties.iter().find(|property| property.name == name).cloned().expect(name)
        };
        assert_eq!(find("VGA", "edid").default, Some(PropertyValue::Bool(true)));
        assert_eq!(
            (find("VGA", "xres").type_name.as_str(), find("VGA", "xres").default),
            ("uint32", Some(1280_u64.into()))
        );
        assert_eq!(find("virtio-blk-pci", "drive").type_name, "str");
        assert_eq!(find("virtio-blk-pci", "disable-legacy").default, Some("auto".into()));
    }
}
