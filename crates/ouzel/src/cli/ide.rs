//! `-device ide-hd`, `-device ide-cd` and `-device floppy`: properties with QEMU's names, defaults and error texts.

use machine::config::{
    DeviceConfig, DeviceKind, DiskAccess, DiskUse, DriveGeometry, DriveKind, DriveOptions, FloppyConfig, FloppyType,
    IdeDriveConfig, Translation,
};
use qapi::keyval;

use super::CliError;
use super::value::Values;
use super::virtio::{address, block_size, check_bus, disk, firmware_geometry, geometry, on_off_auto, size};

/// The properties of `ide-hd`, for the help.
pub const HD_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    ("bus", "the IDE bus (default: the newest)"),
    ("bios-chs-trans", "none/lba/large/rechs/auto: how firmware translates the geometry (default auto)"),
    ("cyls", "cylinders (default: guessed)"),
    ("discard_granularity", "512, or 0 for a disk without TRIM (default 512)"),
    ("drive", "node name or id of the drive"),
    ("heads", "heads, up to 16 (default: guessed)"),
    ("lcyls", "cylinders as firmware shows them"),
    ("lheads", "heads as firmware shows them"),
    ("logical_block_size", "512"),
    ("lsecs", "sectors of a track as firmware shows them"),
    ("min_io_size", "a multiple of 512; the guest is not told"),
    ("model", "model, up to 40 bytes of which the guest sees"),
    ("opt_io_size", "a multiple of 512; the guest is not told"),
    ("physical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    ("rotation_rate", "revolutions per minute; 1 is a solid state disk (default 0: not reported)"),
    ("secs", "sectors of a track (default: guessed)"),
    ("serial", "serial number, up to 20 bytes of which the guest sees"),
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("unit", "0 or 1: the place on the bus (default: the first, or else the second)"),
    ("ver", "firmware revision, up to 8 bytes of which the guest sees (default 2.5+)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
    ("write-cache", "on/off/auto (default auto: the drive's)"),
    ("wwn", "world wide name (default 0: none)"),
];

/// The properties of `ide-cd`, for the help.
pub const CD_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    ("bus", "the IDE bus (default: the newest)"),
    ("discard_granularity", "512 or 0; the guest is not told"),
    ("drive", "node name or id of the drive (default: an empty drive)"),
    ("logical_block_size", "512"),
    ("min_io_size", "a multiple of 512; the guest is not told"),
    ("model", "model, up to 40 bytes of which the guest sees"),
    ("opt_io_size", "a multiple of 512; the guest is not told"),
    ("physical_block_size", "a power of two between 512 B and 2 MiB; the guest is not told"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    ("serial", "serial number, up to 20 bytes of which the guest sees"),
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("unit", "0 or 1: the place on the bus (default: the first, or else the second)"),
    ("ver", "firmware revision, up to 8 bytes of which the guest sees (default 2.5+)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
    ("write-cache", "on/off/auto (default auto: the drive's)"),
    ("wwn", "world wide name (default 0: none)"),
];

/// The properties of `floppy`, for the help.
pub const FLOPPY_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    ("bus", "floppy-bus.0"),
    ("drive", "node name or id of the drive (default: an empty drive)"),
    ("drive-type", "120/144/288/auto (default auto: what fits the medium)"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("unit", "0 or 1 (default: the first that is free)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
];

/// `floppy`.
pub fn floppy(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    if let Some(bus) = values.text("bus")?.filter(|bus| bus != "floppy-bus.0") {
        return Err(values.error(format!("Bus '{bus}' not found")));
    }
    let drive = values.text("drive")?.unwrap_or_default();
    let disk = DiskUse { removable: true, ..disk(values, devices, drive)? };
    let drive_type = match values.text("drive-type")?.as_deref() {
        None | Some("auto") => None,
        Some("120") => Some(FloppyType::D120),
        Some("144") => Some(FloppyType::D144),
        Some("288") => Some(FloppyType::D288),
        Some(other) => {
            return Err(values.error(format!("Parameter 'drive-type' does not accept value '{other}'")));
        }
    };
    let unit = unit(values)?;
    Ok(DeviceKind::Floppy(Box::new(FloppyConfig { unit, drive_type, disk, is_boards: false })))
}

/// The properties of `ich9-ahci`, for the help.
pub const AHCI_PROPERTIES: &[(&str, &str)] =
    &[("addr", "slot and function, as 06.0 or 06 (default: the first free slot)"), ("bus", "pci.0")];

/// `ich9-ahci`.
pub fn ahci(values: &mut Values<'_>, _devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    check_bus(values, "ich9-ahci")?;
    Ok(DeviceKind::Ahci { address: address(values, "ich9-ahci")? })
}

/// The place on a bus.
fn unit(values: &mut Values<'_>) -> Result<Option<u32>, CliError> {
    let unit = values.number("unit", u64::from(u32::MAX))?.map(|unit| unit as u32);
    Ok(unit.filter(|unit| *unit != u32::MAX))
}

/// `ide-hd`.
pub fn hd(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let drive = values.text("drive")?.filter(|drive| !drive.is_empty());
    let drive = drive.ok_or_else(|| values.error("No drive specified"))?;
    let disk = disk(values, devices, drive)?;
    let mut options = common(values, DriveKind::Disk)?;
    if let Some(geometry) = geometry(values)? {
        if geometry.heads > 16 {
            return Err(values.error("heads must be between 1 and 16"));
        }
        options.geometry =
            Some(DriveGeometry { cylinders: geometry.cylinders, heads: geometry.heads, sectors: geometry.sectors });
    }
    options.rotation_rate = values.number("rotation_rate", 0xffff)?.unwrap_or(0) as u16;
    let firmware_geometry = firmware_geometry(values)?;
    let disk = DiskUse { access: DiskAccess::Write, firmware_geometry, ..disk };
    let translation = match values.text("bios-chs-trans")?.as_deref() {
        None | Some("auto") => None,
        Some("none") => Some(Translation::None),
        Some("lba") => Some(Translation::Lba),
        Some("large") => Some(Translation::Large),
        Some("rechs") => Some(Translation::Rechs),
        Some(other) => {
            return Err(values.error(format!("Parameter 'bios-chs-trans' does not accept value '{other}'")));
        }
    };
    let mut kind = kind(values, "ide-hd", disk, options)?;
    if let DeviceKind::IdeDrive(drive) = &mut kind {
        drive.translation = translation;
    }
    Ok(kind)
}

/// `ide-cd`.
pub fn cd(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let drive = values.text("drive")?.unwrap_or_default();
    let disk = disk(values, devices, drive)?;
    let options = common(values, DriveKind::Cd)?;
    let disk = DiskUse { access: DiskAccess::Read, removable: true, ..disk };
    kind(values, "ide-cd", disk, options)
}

fn common(values: &mut Values<'_>, kind: DriveKind) -> Result<DriveOptions, CliError> {
    let default = DriveOptions::new(kind);
    let wwn = match values.text("wwn")? {
        None => 0,
        Some(text) => keyval::parse_u64(&text).ok_or_else(|| values.error("Parameter 'wwn' expects uint64"))?,
    };
    let mut discard = default.discard;
    for (key, allowed) in [("logical_block_size", 512), ("discard_granularity", 512)] {
        match size(values, key)? {
            Some(value) if value != allowed && !(key == "discard_granularity" && matches!(value, 0 | u32::MAX)) => {
                return Err(values.error(format!("{key} must be {allowed} for ide")));
            }
            Some(0) => discard = false,
            _ => {}
        }
    }
    for key in ["min_io_size", "opt_io_size"] {
        // IDE has no way to tell them.
        if size(values, key)?.is_some_and(|size| size % 512 != 0) {
            return Err(values.error(format!("{key} must be a multiple of logical_block_size")));
        }
    }
    Ok(DriveOptions {
        model: values.text("model")?,
        serial: values.text("serial")?,
        version: values.text("ver")?.unwrap_or_else(|| default.version.clone()),
        wwn,
        discard,
        physical_block_size: block_size(values, "physical_block_size")?,
        write_cache: on_off_auto(values, "write-cache")?,
        ..default
    })
}

fn kind(
    values: &mut Values<'_>,
    type_name: &'static str,
    disk: DiskUse,
    drive: DriveOptions,
) -> Result<DeviceKind, CliError> {
    let bus = values.text("bus")?;
    let unit = unit(values)?;
    Ok(DeviceKind::IdeDrive(Box::new(IdeDriveConfig {
        type_name,
        bus,
        unit,
        disk,
        drive,
        translation: None,
        is_boards: false,
    })))
}
