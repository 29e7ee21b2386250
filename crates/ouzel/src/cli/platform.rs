//! Small devices of the platform, and properties of the board's own devices (`-global`).

use machine::config::{BoardOptions, BridgeKind, DeviceConfig, DeviceKind, PciPlace};
use machine::smbios;

use super::globals::Global;
use super::value::Values;
use super::{CliError, usb, virtio};

/// The help of `addr=`.
pub const ADDR: &str = "slot and function, as 06.0 or 06 (default: the first free slot)";
/// The help of `bus=`.
pub const BUS: &str = "the PCI bus (default: the root bus)";

/// What `-global` says of the board's devices; sleep states are read with the firmware's options.
pub fn board(globals: &[Global]) -> Result<BoardOptions, CliError> {
    let mut options = BoardOptions { usb: usb::of_board(globals)?, ..BoardOptions::default() };
    for global in globals {
        match (global.driver.as_str(), global.property.as_str()) {
            ("ICH9-LPC", "noreboot") => options.no_reboot = global.flag()?,
            ("PIIX4_PM", "acpi-root-pci-hotplug") => options.acpi_root_hotplug = global.flag()?,
            ("PIIX4_PM" | "ICH9-LPC", "acpi-pci-hotplug-with-bridge-support") => {
                options.acpi_bridge_hotplug = global.flag()?;
            }
            ("virtio-mmio", "force-legacy") => options.virtio_mmio_legacy = global.flag()?,
            // Hints without effect here.
            ("virtio-mmio", "ioeventfd" | "format_transport_address") => drop(global.flag()?),
            ("cfi.pflash01", "secure") => options.secure_flash = global.flag()?,
            ("mch", "smbase-smram") => options.smbase_smram = global.flag()?,
            ("mch", "extended-tseg-mbytes") => {
                let wrong = |_| global.error("invalid extended-tseg-mbytes value");
                options.extended_tseg_mib = global.number(0xfff).map_err(wrong)? as u16;
            }
            // The others belong to devices, or are looked at with all that boards have.
            _ => {}
        }
    }
    Ok(options)
}

/// `addr=` and `bus=`.
pub fn place(values: &mut Values<'_>, driver: &str) -> Result<PciPlace, CliError> {
    Ok(PciPlace { bus: values.text("bus")?, address: virtio::address(values, driver)? })
}

/// `pvpanic-pci`
pub fn pvpanic_pci(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let events = values.number("events", 0xff)?.map_or(3, |events| events as u8);
    Ok(DeviceKind::PvpanicPci { place: place(values, "pvpanic-pci")?, events })
}

/// `i6300esb`
pub fn i6300esb(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    Ok(DeviceKind::I6300Esb { place: place(values, "i6300esb")? })
}

/// `ib700`
pub fn ib700(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    if devices.iter().any(|device| device.kind == DeviceKind::Ib700) {
        return Err(values.error("there is an ib700 device already"));
    }
    Ok(DeviceKind::Ib700)
}

/// `pc-testdev`
pub fn pc_testdev(_: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    Ok(DeviceKind::PcTestdev)
}

/// `pci-bridge`
pub fn pci_bridge(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let chassis = values.number("chassis_nr", 0xff)?.unwrap_or(0) as u8;
    if chassis == 0 {
        return Err(values
            .error("Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id > 0."));
    }
    Ok(DeviceKind::Bridge { kind: BridgeKind::Pci, place: place(values, "pci-bridge")?, chassis })
}

/// `i82801b11-bridge`
pub fn i82801b11(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let kind = BridgeKind::I82801b11;
    Ok(DeviceKind::Bridge { kind, place: place(values, kind.type_name())?, chassis: 0 })
}

/// `pcie-pci-bridge`
pub fn pcie_pci_bridge(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let kind = BridgeKind::PcieToPci;
    Ok(DeviceKind::Bridge { kind, place: place(values, kind.type_name())?, chassis: 0 })
}

/// `vmgenid`
pub fn vmgenid(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    if devices.iter().any(|device| matches!(device.kind, DeviceKind::Vmgenid { .. })) {
        return Err(values.error("at most one vmgenid device is permitted"));
    }
    let guid = match values.text("guid")?.as_deref() {
        None | Some("auto") => random_guid().map_err(|error| values.error(vm::host_error(&error)))?,
        Some(text) => smbios::parse_uuid(text)
            .ok_or_else(|| values.error(format!("Property 'vmgenid.guid' doesn't take value '{text}'")))?,
    };
    Ok(DeviceKind::Vmgenid { guid })
}

/// A random UUID (RFC 4122, 4.4).
fn random_guid() -> std::io::Result<[u8; 16]> {
    use std::io::Read as _;
    let mut guid = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut guid)?;
    guid[6] = guid[6] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    Ok(guid)
}

/// `vmcoreinfo`
pub fn vmcoreinfo(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    if devices.iter().any(|device| device.kind == DeviceKind::Vmcoreinfo) {
        return Err(values.error("at most one vmcoreinfo device is permitted"));
    }
    Ok(DeviceKind::Vmcoreinfo)
}
