//! `-device virtio-blk-pci` and its two variants: properties with QEMU's names, defaults and error texts.

use machine::config::{
    Address, BlkOptions, DeviceConfig, DeviceKind, DiskUse, ErrorPolicy, ExpressOptions, Geometry, PciOptions,
    VirtioBlkConfig, virtio_features as features,
};
use qapi::keyval;

use super::CliError;
use super::value::Values;
use super::virtio_devices::{behind_transport, number, with_rings, with_transport};

/// The properties of a block device, and those of its transport.
macro_rules! blk_properties {
    ($transport:ident, $queues:expr) => {
        $transport![
            ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
            ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
            ("bootindex", "order among devices to boot from"),
            ("config-wce", "on/off: the guest may switch the write cache (default on)"),
            ("cyls", "cylinders (default: guessed)"),
            ("discard", "on/off (default on)"),
            ("discard_granularity", "bytes (default: a block)"),
            ("drive", "node name or id of the drive"),
            ("heads", "heads (default: guessed)"),
            ("iothread", "id of the I/O thread that runs the requests"),
            ("lcyls", "cylinders as firmware shows them"),
            ("lheads", "heads as firmware shows them"),
            ("lsecs", "sectors of a track as firmware shows them"),
            ("logical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
            ("max-discard-sectors", "sectors (default 4194303)"),
            ("max-write-zeroes-sectors", "sectors (default 4194303)"),
            ("min_io_size", "bytes (default: the disk's)"),
            ("opt_io_size", "bytes (default: the disk's)"),
            ("physical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
            ("queue-size", "entries of a queue, a power of two (default 256)"),
            ("report-discard-granularity", "on/off (default on)"),
            ("request-merging", "on/off; a hint without effect: requests are not merged"),
            ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
            ("scsi", "off: there is no SCSI pass-through"),
            ("secs", "sectors of a track (default: guessed)"),
            ("seg-max-adjust", "on/off (default on)"),
            ("serial", "serial number, up to 20 bytes of which the guest sees"),
            ("share-rw", "on/off: others may write the disk (default off)"),
            ("werror", "report/ignore/enospc/stop/auto (default auto)"),
            ("write-cache", "on/off/auto (default auto: the drive's)"),
            ("write-zeroes", "on/off (default on)"),
            ("num-queues", $queues),
        ]
    };
}

/// The properties of `virtio-blk-pci`, for the help.
pub const BLK_PROPERTIES: &[(&str, &str)] = blk_properties!(with_transport, "queues (default: one for each vCPU)");

/// The properties of `virtio-blk-device`, for the help.
pub const BLK_DEVICE_PROPERTIES: &[(&str, &str)] = blk_properties!(with_rings, "queues (default 1)");

/// Which interfaces a driver's name stands for.
#[derive(Clone, Copy)]
pub enum Variant {
    /// As the properties say.
    Any,
    /// Both interfaces.
    Transitional,
    /// The modern one.
    NonTransitional,
}

/// `virtio-blk-pci`.
pub fn blk(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    build(values, devices, "virtio-blk-pci", Variant::Any)
}

/// `virtio-blk-device`.
pub fn blk_device(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let (mmio, pci) = behind_transport(values, "virtio-blk-device")?;
    let config = blk_config(values, devices, ("virtio-blk-device", pci))?;
    Ok(DeviceKind::VirtioBlkPci(Box::new(VirtioBlkConfig { mmio, ..config })))
}

/// `virtio-blk-pci-transitional`.
pub fn blk_transitional(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    build(values, devices, "virtio-blk-pci-transitional", Variant::Transitional)
}

/// `virtio-blk-pci-non-transitional`.
pub fn blk_non_transitional(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    build(values, devices, "virtio-blk-pci-non-transitional", Variant::NonTransitional)
}

fn build(
    values: &mut Values<'_>,
    devices: &[DeviceConfig],
    driver: &'static str,
    variant: Variant,
) -> Result<DeviceKind, CliError> {
    let bus = bus(values, driver, devices)?;
    let address = address(values, driver)?;
    let vectors = number(values, "vectors")?;
    let pci = transport(values, driver, variant)?;
    values.flag("ioeventfd")?;
    let config = blk_config(values, devices, (driver, pci))?;
    Ok(DeviceKind::VirtioBlkPci(Box::new(VirtioBlkConfig { bus, address, vectors, ..config })))
}

/// What the device is behind any transport.
fn blk_config(
    values: &mut Values<'_>,
    devices: &[DeviceConfig],
    (type_name, pci): (&'static str, PciOptions),
) -> Result<VirtioBlkConfig, CliError> {
    let drive = values.text("drive")?.filter(|drive| !drive.is_empty());
    let drive = drive.ok_or_else(|| values.error("drive property not set"))?;
    let disk = disk(values, devices, drive)?;
    let iothread = values.text("iothread")?;
    let disk = DiskUse { iothread, firmware_geometry: firmware_geometry(values)?, ..disk };
    let num_queues = values.number("num-queues", 0xffff)?.map(|count| count as u16);
    let num_queues = num_queues.filter(|count| *count != u16::MAX);
    let blk = block(values)?;
    values.flag("request-merging")?;
    if values.flag("scsi")? == Some(true) {
        return Err(values.error("Please set scsi=off for virtio-blk devices in order to use virtio 1.0"));
    }
    let (mmio, bus, address, vectors) = (None, None, None, None);
    Ok(VirtioBlkConfig { type_name, mmio, bus, address, disk, pci, blk, num_queues, vectors })
}

/// Whether `bus=` names the root bus, if it is given.
pub fn check_bus(values: &mut Values<'_>, driver: &str) -> Result<(), CliError> {
    bus(values, driver, &[]).map(drop)
}

/// The bus, unless it is the root bus of a `pc`. Those behind root ports and bridges have their ids.
fn bus(values: &mut Values<'_>, driver: &str, devices: &[DeviceConfig]) -> Result<Option<String>, CliError> {
    let is_port = |bus: &str| {
        let is_it = |device: &DeviceConfig| device.id.as_deref() == Some(bus);
        devices
            .iter()
            .any(|device| is_it(device) && matches!(device.kind, DeviceKind::RootPort(_) | DeviceKind::Bridge { .. }))
    };
    match values.text("bus")?.as_deref() {
        None | Some("pci.0" | "pci") => Ok(None),
        Some(bus) if bus == "pcie.0" || is_port(bus) => Ok(Some(bus.to_owned())),
        Some("isa.0") => Err(values.error(format!("Device '{driver}' can't go on ISA bus"))),
        Some(bus) => Err(values.error(format!("Bus '{bus}' not found"))),
    }
}

/// `addr=`: slot and function in hexadecimal digits.
pub fn address(values: &mut Values<'_>, driver: &str) -> Result<Option<Address>, CliError> {
    let Some(text) = values.text("addr")? else { return Ok(None) };
    if text == "-1" {
        return Ok(None);
    }
    let number = |digits: &str, max: u8| {
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_number.then(|| u8::from_str_radix(digits, 16).ok()).flatten().filter(|number| *number <= max)
    };
    let (slot, function) = text.split_once('.').unwrap_or((&text, "0"));
    match (number(slot, 31), number(function, 7)) {
        (Some(slot), Some(function)) => Ok(Some(Address::new(slot, function))),
        _ => Err(values.error(format!("Property '{driver}.addr' doesn't take value '{text}'"))),
    }
}

/// The disk of a drive, and how it is used.
pub fn disk(values: &mut Values<'_>, devices: &[DeviceConfig], drive: String) -> Result<DiskUse, CliError> {
    Ok(DiskUse {
        drive,
        share_rw: values.flag("share-rw")?.unwrap_or(false),
        rerror: error_policy(values, "rerror")?,
        werror: error_policy(values, "werror")?,
        account_failed: on_off_auto(values, "account-failed")?,
        account_invalid: on_off_auto(values, "account-invalid")?,
        boot_index: boot_index(values, devices)?,
        ..DiskUse::default()
    })
}

/// The order among devices to boot from.
pub fn boot_index(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<Option<i32>, CliError> {
    let Some(text) = values.text("bootindex")? else { return Ok(None) };
    let index: i32 = text.parse().map_err(|_| values.error("Parameter 'bootindex' expects int32_t"))?;
    // Negative numbers stand for none.
    if index < 0 {
        return Ok(None);
    }
    let is_taken = devices.iter().any(|device| device.kind.boot_index() == Some(index));
    if is_taken {
        return Err(values.error(format!("The bootindex {index} has already been used")));
    }
    Ok(Some(index))
}

/// The choices of the transport.
pub fn transport(values: &mut Values<'_>, driver: &str, variant: Variant) -> Result<PciOptions, CliError> {
    // Names say it all; other types with the modern interface alone have the properties, and no use for them.
    let (disabled, modern) = match driver.ends_with("-transitional") {
        true => (None, true),
        false => (on_off_auto(values, "disable-legacy")?, !values.flag("disable-modern")?.unwrap_or(false)),
    };
    let (legacy, only_conventional_legacy, modern) = match variant {
        Variant::Transitional => (true, false, true),
        Variant::NonTransitional => (false, false, true),
        Variant::Any => (disabled != Some(true), disabled.is_none(), modern),
    };
    if !legacy && !modern {
        return Err(values.error(machine::config::NEITHER_MODERN_NOR_LEGACY));
    }
    if values.flag("iommu_platform")? == Some(true) {
        return Err(values.error(if legacy {
            "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device".to_owned()
        } else {
            format!("Property '{driver}.iommu_platform' can't be on: the machine has no IOMMU")
        }));
    }
    Ok(PciOptions {
        legacy,
        only_conventional_legacy,
        modern,
        modern_pio_notify: values.flag("modern-pio-notify")?.unwrap_or(false),
        page_per_vq: values.flag("page-per-vq")?.unwrap_or(false),
        multifunction: values.flag("multifunction")?.unwrap_or(false),
        express: express(values)?,
        features: ring_features(values)?,
        ..PciOptions::default()
    })
}

/// What the function has of PCI Express behind a port of it.
fn express(values: &mut Values<'_>) -> Result<ExpressOptions, CliError> {
    let mut flag = |name, default| Ok::<_, CliError>(values.flag(name)?.unwrap_or(default));
    Ok(ExpressOptions {
        capability: !flag("x-disable-pcie", false)?,
        reports: flag("x-pcie-deverr-init", true)?,
        link_control: flag("x-pcie-lnkctl-init", true)?,
        power_states: flag("x-pcie-pm-init", true)?,
        function_reset: flag("x-pcie-flr-init", true)?,
    })
}

/// The features that all types may have.
pub fn ring_features(values: &mut Values<'_>) -> Result<u64, CliError> {
    let mut bits = 0;
    for (name, default, bit) in [
        ("indirect_desc", true, features::INDIRECT),
        ("event_idx", true, features::EVENT_IDX),
        ("notify_on_empty", true, features::NOTIFY_ON_EMPTY),
        ("any_layout", true, features::ANY_LAYOUT),
        ("packed", false, features::RING_PACKED),
        ("queue_reset", true, features::RING_RESET),
    ] {
        bits |= if values.flag(name)?.unwrap_or(default) { bit } else { 0 };
    }
    Ok(bits)
}

fn block(values: &mut Values<'_>) -> Result<BlkOptions, CliError> {
    let default = BlkOptions::default();
    let number = |values: &mut Values<'_>, key| values.number(key, u64::from(u32::MAX));
    let max_discard = number(values, "max-discard-sectors")?;
    let max_write_zeroes = number(values, "max-write-zeroes-sectors")?;
    Ok(BlkOptions {
        queue_size: values.number("queue-size", 0xffff)?.map_or(default.queue_size, |size| size as u16),
        seg_max_adjust: values.flag("seg-max-adjust")?.unwrap_or(true),
        config_wce: values.flag("config-wce")?.unwrap_or(true),
        write_cache: on_off_auto(values, "write-cache")?,
        discard: values.flag("discard")?.unwrap_or(true),
        write_zeroes: values.flag("write-zeroes")?.unwrap_or(true),
        max_discard_sectors: max_discard.map_or(default.max_discard_sectors, |count| count as u32),
        max_write_zeroes_sectors: max_write_zeroes.map_or(default.max_write_zeroes_sectors, |count| count as u32),
        report_discard_granularity: values.flag("report-discard-granularity")?.unwrap_or(true),
        serial: values.text("serial")?,
        logical_block_size: block_size(values, "logical_block_size")?,
        physical_block_size: block_size(values, "physical_block_size")?,
        min_io_size: size(values, "min_io_size")?.filter(|size| *size != 0),
        opt_io_size: size(values, "opt_io_size")?.filter(|size| *size != 0),
        discard_granularity: size(values, "discard_granularity")?.filter(|size| *size != u32::MAX),
        geometry: geometry(values)?,
        ..default
    })
}

/// A number of bytes.
pub fn size(values: &mut Values<'_>, key: &str) -> Result<Option<u32>, CliError> {
    let Some(text) = values.text(key)? else { return Ok(None) };
    let size = keyval::parse_size(&text, 1).map_err(|_| values.error(format!("Parameter '{key}' expects a size")))?;
    let too_large =
        || values.error(format!("Property .{key} doesn't take value {size} (minimum: 0, maximum: {})", u32::MAX));
    u32::try_from(size).map(Some).map_err(|_| too_large())
}

/// The size of a block; 0 is the disk's own.
pub fn block_size(values: &mut Values<'_>, key: &str) -> Result<Option<u32>, CliError> {
    let Some(text) = values.text(key)? else { return Ok(None) };
    let size = keyval::parse_size(&text, 1).map_err(|_| values.error(format!("Parameter '{key}' expects a size")))?;
    match size {
        0 => Ok(None),
        512..=0x20_0000 if size.is_power_of_two() => Ok(Some(size as u32)),
        512..=0x20_0000 => {
            Err(values.error(format!("Property .{key} doesn't take value '{size}', it's not a power of 2")))
        }
        _ => Err(values.error(format!("Property .{key} doesn't take value {size} (minimum: 512, maximum: 2097152)"))),
    }
}

/// Cylinders, heads and sectors.
pub fn geometry(values: &mut Values<'_>) -> Result<Option<Geometry>, CliError> {
    let mut take = |key| Ok::<_, CliError>(values.number(key, u64::from(u32::MAX))?.unwrap_or(0));
    let (cyls, heads, secs) = (take("cyls")?, take("heads")?, take("secs")?);
    if (cyls, heads, secs) == (0, 0, 0) {
        return Ok(None);
    }
    for (name, value, max) in [("cyls", cyls, 65535), ("heads", heads, 255), ("secs", secs, 255)] {
        if !(1..=max).contains(&value) {
            return Err(values.error(format!("{name} must be between 1 and {max}")));
        }
    }
    Ok(Some(Geometry { cylinders: cyls as u16, heads: heads as u8, sectors: secs as u8 }))
}

/// Cylinders, heads and sectors as firmware shall show them.
pub fn firmware_geometry(values: &mut Values<'_>) -> Result<Option<(u32, u32, u32)>, CliError> {
    let mut take = |key| Ok::<_, CliError>(values.number(key, u64::from(u32::MAX))?.unwrap_or(0) as u32);
    let geometry = (take("lcyls")?, take("lheads")?, take("lsecs")?);
    Ok(Some(geometry).filter(|(cylinders, heads, sectors)| *cylinders > 0 || *heads > 0 || *sectors > 0))
}

/// `on`, `off` or `auto`.
pub fn on_off_auto(values: &mut Values<'_>, key: &str) -> Result<Option<bool>, CliError> {
    match values.text(key)?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(values.error(format!("Parameter '{key}' does not accept value '{other}'"))),
    }
}

/// A policy for errors.
pub fn error_policy(values: &mut Values<'_>, key: &str) -> Result<ErrorPolicy, CliError> {
    Ok(match values.text(key)?.as_deref() {
        None | Some("auto") => ErrorPolicy::Auto,
        Some("ignore") => ErrorPolicy::Ignore,
        Some("report") => ErrorPolicy::Report,
        Some("stop") => ErrorPolicy::Stop,
        Some("enospc") => ErrorPolicy::Enospc,
        Some(other) => return Err(values.error(format!("Parameter '{key}' does not accept value '{other}'"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Request, parse};

    fn parsed(option: &str) -> Result<VirtioBlkConfig, String> {
        let words = ["-nodefaults", "-device", option].map(str::to_owned);
        match parse(&words).map_err(|error| error.to_string())? {
            Request::Run(line) => match &line.vm.machine.devices[0].kind {
                DeviceKind::VirtioBlkPci(config) => Ok((**config).clone()),
                other => Err(format!("{other:?}")),
            },
            Request::Print(text) => Err(text),
        }
    }

    #[test]
    fn properties_reach_the_device() {
        let config = parsed("virtio-blk,drive=d").expect("an alias");
        assert_eq!((config.num_queues, config.vectors, config.address), (None, None, None));
        let pci = PciOptions { only_conventional_legacy: true, ..PciOptions::default() };
        assert_eq!((config.pci, config.blk), (pci, BlkOptions::default()));
        let option = "virtio-blk-pci,drive=d,addr=1f.7,bus=pci.0,packed=on,num-queues=4,vectors=0,serial=a b,\
                      logical_block_size=4k,physical_block_size=4096,cyls=2,heads=3,secs=4,write-cache=off,werror=stop";
        let config = parsed(option).expect("parsed");
        assert_eq!((config.num_queues, config.vectors), (Some(4), Some(0)));
        assert_eq!(config.address, Some(Address::new(31, 7)));
        assert_ne!(config.pci.features & features::RING_PACKED, 0);
        assert_eq!(config.blk.geometry, Some(Geometry { cylinders: 2, heads: 3, sectors: 4 }));
        assert_eq!((config.blk.logical_block_size, config.blk.write_cache), (Some(4096), Some(false)));
        assert_eq!((config.disk.werror, config.disk.rerror), (ErrorPolicy::Stop, ErrorPolicy::Auto));
        let modern = parsed("virtio-blk-pci-non-transitional,drive=d").expect("parsed");
        assert!(modern.pci.modern && !modern.pci.legacy);
        assert!(parsed("virtio-blk-pci-transitional,drive=d,disable-legacy=on").is_err());
    }

    #[test]
    fn errors_are_qemus() {
        for (option, expected) in [
            ("", "drive property not set"),
            (",drive=d,foo=1", "Property 'virtio-blk-pci.foo' not found"),
            (",drive=d,addr=zz", "Property 'virtio-blk-pci.addr' doesn't take value 'zz'"),
            (",drive=d,addr=40", "Property 'virtio-blk-pci.addr' doesn't take value '40'"),
            (",drive=d,bus=pci.9", "Bus 'pci.9' not found"),
            (",drive=d,bus=isa.0", "Device 'virtio-blk-pci' can't go on ISA bus"),
            (
                ",drive=d,disable-legacy=on,disable-modern=on",
                "device cannot work as neither modern nor legacy mode is enabled\nSet either disable-modern or \
                 disable-legacy to off",
            ),
            (",drive=d,disable-legacy=foo", "Parameter 'disable-legacy' does not accept value 'foo'"),
            (",drive=d,packed=2", "Parameter 'packed' expects 'on' or 'off'"),
            (
                ",drive=d,logical_block_size=100",
                "Property .logical_block_size doesn't take value 100 (minimum: 512, maximum: 2097152)",
            ),
            (
                ",drive=d,logical_block_size=1000",
                "Property .logical_block_size doesn't take value '1000', it's not a power of 2",
            ),
            (",drive=d,cyls=70000,heads=1,secs=1", "cyls must be between 1 and 65535"),
            (",drive=d,cyls=3", "heads must be between 1 and 255"),
            (",drive=d,rerror=foo", "Parameter 'rerror' does not accept value 'foo'"),
            (",drive=d,write-cache=2", "Parameter 'write-cache' does not accept value '2'"),
            (",drive=d,scsi=on", "Please set scsi=off for virtio-blk devices in order to use virtio 1.0"),
            (
                ",drive=d,iommu_platform=on",
                "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device",
            ),
        ] {
            let option = format!("virtio-blk-pci{option}");
            assert_eq!(parsed(&option).expect_err(&option), format!("-device {option}: {expected}"));
        }
    }
}
