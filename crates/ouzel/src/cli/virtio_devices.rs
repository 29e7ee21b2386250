//! `-device virtio-…` but for block devices, and the drives of SCSI buses: properties with QEMU's names, defaults and error
//! texts.

use machine::config::{
    DeviceConfig, DeviceKind, DiskAccess, DiskUse, InputKind, InputOptions, MmioPlace, PciOptions, PciPlace,
    RngOptions, ScsiDriveConfig, ScsiOptions, Seat, SerialOptions, SerialPortConfig, UnitGeometry, UnitKind,
    UnitOptions, VirtioConfig, VirtioModel,
};
use qapi::keyval;

use super::devices::Driver;
use super::value::Values;
use super::virtio::{Variant, address, block_size, disk, firmware_geometry, geometry, on_off_auto, size, transport};
use super::{CliError, display};

/// Properties of the transport, and those of a device.
macro_rules! with_transport {
    ($($property:expr),* $(,)?) => {
        &[
            ("addr", "slot and function, as 06.0 or 06 (default: the first free slot)"),
            ("any_layout", "on/off (default on)"),
            ("bus", "the PCI bus (default: the root bus)"),
            ("disable-legacy", "on/off/auto (default auto: off)"),
            ("disable-modern", "on/off (default off)"),
            ("event_idx", "on/off (default on)"),
            ("indirect_desc", "on/off (default on)"),
            ("ioeventfd", "on/off; a hint without effect: the vCPU that notifies starts the requests"),
            ("iommu_platform", "off: there is no IOMMU"),
            ("modern-pio-notify", "on/off (default off)"),
            ("multifunction", "on/off: there are others in the slot (default off)"),
            ("notify_on_empty", "on/off (default on)"),
            ("packed", "on/off: offer packed queues (default off)"),
            ("page-per-vq", "on/off (default off)"),
            ("queue_reset", "on/off (default on)"),
            ("vectors", "interrupt vectors, 0 for none"),
            ("x-disable-pcie", "on/off: behind ports there is no PCI Express capability (default off)"),
            ("x-pcie-deverr-init", "on/off: the guest chooses which errors are reported (default on)"),
            ("x-pcie-flr-init", "on/off: the guest can reset the function (default on)"),
            ("x-pcie-lnkctl-init", "on/off: the guest has control of the link (default on)"),
            ("x-pcie-pm-init", "on/off: the guest chooses the power state (default on)"),
            $($property),*
        ]
    };
}
pub(super) use with_transport;

/// A driver under one of its names.
macro_rules! driver {
    ($name:expr, $alias:expr, $variant:ident, $description:literal, $properties:expr, $model:path) => {
        Driver {
            name: $name,
            alias: $alias,
            bus: "PCI",
            description: $description,
            properties: $properties,
            build: |values, _devices| pci(values, $name, Variant::$variant, $model),
        }
    };
}

/// Properties of the queues, and those of a device behind a transport of the board.
macro_rules! with_rings {
    ($($property:expr),* $(,)?) => {
        &[
            ("any_layout", "on/off (default on)"),
            ("bus", "the bus of a transport, as virtio-mmio-bus.0 (default: the last that is free)"),
            ("event_idx", "on/off (default on)"),
            ("indirect_desc", "on/off (default on)"),
            ("iommu_platform", "off: there is no IOMMU"),
            ("notify_on_empty", "on/off (default on)"),
            ("packed", "on/off: offer packed queues (default off)"),
            ("queue_reset", "on/off (default on)"),
            $($property),*
        ]
    };
}
pub(super) use with_rings;

/// A driver of a device behind a transport of the board.
macro_rules! device {
    ($name:expr, $description:literal, $properties:expr, $model:path) => {
        Driver {
            name: $name,
            alias: None,
            bus: "virtio-bus",
            description: $description,
            properties: $properties,
            build: |values, _devices| mmio(values, $name, $model),
        }
    };
}

const SCSI_PROPERTIES: &[(&str, &str)] = with_transport![
    ("cmd_per_lun", "commands that a unit takes at once (default 128)"),
    ("hotplug", "on/off: the guest is told of units that come and go (default on)"),
    ("iothread", "id of the I/O thread that runs the requests"),
    ("max_sectors", "sectors of a command (default 65535)"),
    ("num_queues", "command queues (default: one for each vCPU)"),
    ("param_change", "on/off: the guest is told of changed sizes (default on)"),
    ("seg_max_adjust", "on/off (default on)"),
    ("virtqueue_size", "entries of a queue, a power of two (default 256)"),
];

const RNG_PROPERTIES: &[(&str, &str)] = with_transport![
    ("max-bytes", "bytes of a period (default 9223372036854775807)"),
    ("period", "milliseconds (default 65536)"),
    ("rng", "id of the source (default: the host's own generator)"),
];

const SERIAL_PROPERTIES: &[(&str, &str)] = with_transport![
    ("emergency-write", "on/off: a byte can be written without a queue (default on)"),
    ("max_ports", "ports, up to 511 (default 31)"),
];

const GPU_PROPERTIES: &[(&str, &str)] = with_transport![
    ("edid", "on/off: the monitors describe themselves (default on)"),
    ("max_hostmem", "bytes that all pictures of the guest do not reach (default 256M)"),
    ("max_outputs", "heads, up to 16 (default 1)"),
    ("xres", "preferred columns of the first head (default 1280)"),
    ("yres", "its preferred rows (default 800)"),
];

const VIRTIO_VGA_PROPERTIES: &[(&str, &str)] = with_transport![
    ("edid", "on/off: the monitors describe themselves (default on)"),
    ("max_hostmem", "bytes that all pictures of the guest do not reach (default 256M)"),
    ("max_outputs", "heads, up to 16 (default 1)"),
    ("vgamem_mb", "MiB of the VGA's memory (default 8)"),
    ("xres", "preferred columns of the first head (default 1280)"),
    ("yres", "its preferred rows (default 800)"),
];

/// `display` and `head` of input devices.
pub const DISPLAY: (&str, &str) = ("display", "id of the graphics card whose screen it belongs to (default: none)");
pub const HEAD: (&str, &str) = ("head", "which of the card's screens (default 0)");

const KEYBOARD_PROPERTIES: &[(&str, &str)] =
    with_transport![DISPLAY, HEAD, ("serial", "serial number (default: none)")];
const POINTER_PROPERTIES: &[(&str, &str)] = with_transport![
    DISPLAY,
    HEAD,
    ("serial", "serial number (default: none)"),
    ("wheel-axis", "on/off: the wheel is an axis, not two buttons (default on)"),
];

const SCSI_DEVICE_PROPERTIES: &[(&str, &str)] = with_rings![
    ("cmd_per_lun", "commands that a unit takes at once (default 128)"),
    ("hotplug", "on/off: the guest is told of units that come and go (default on)"),
    ("iothread", "id of the I/O thread that runs the requests"),
    ("max_sectors", "sectors of a command (default 65535)"),
    ("num_queues", "command queues (default 1)"),
    ("param_change", "on/off: the guest is told of changed sizes (default on)"),
    ("seg_max_adjust", "on/off (default on)"),
    ("virtqueue_size", "entries of a queue, a power of two (default 256)"),
];
const RNG_DEVICE_PROPERTIES: &[(&str, &str)] = with_rings![
    ("max-bytes", "bytes of a period (default 9223372036854775807)"),
    ("period", "milliseconds (default 65536)"),
    ("rng", "id of the source (default: the host's own generator)"),
];
const SERIAL_DEVICE_PROPERTIES: &[(&str, &str)] = with_rings![
    ("emergency-write", "on/off: a byte can be written without a queue (default on)"),
    ("max_ports", "ports, up to 511 (default 31)"),
];
const GPU_DEVICE_PROPERTIES: &[(&str, &str)] = with_rings![
    ("edid", "on/off: the monitors describe themselves (default on)"),
    ("max_hostmem", "bytes that all pictures of the guest do not reach (default 256M)"),
    ("max_outputs", "heads, up to 16 (default 1)"),
    ("xres", "preferred columns of the first head (default 1280)"),
    ("yres", "its preferred rows (default 800)"),
];
const KEYBOARD_DEVICE_PROPERTIES: &[(&str, &str)] =
    with_rings![DISPLAY, HEAD, ("serial", "serial number (default: none)")];
const POINTER_DEVICE_PROPERTIES: &[(&str, &str)] = with_rings![
    DISPLAY,
    HEAD,
    ("serial", "serial number (default: none)"),
    ("wheel-axis", "on/off: the wheel is an axis, not two buttons (default on)"),
];

const PORT_PROPERTIES: &[(&str, &str)] = &[
    ("bus", "the virtio-serial-bus (default: the newest)"),
    ("chardev", "id of the character device (default: none)"),
    ("name", "name that the guest finds it by"),
    ("nr", "number (default: the first that is free; 0 is for a console)"),
];

const HD_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    ("bus", "the SCSI bus (default: the newest)"),
    ("channel", "0"),
    ("cyls", "cylinders (default: guessed)"),
    ("device_id", "name in the device identification page (default: the serial number or the drive's name)"),
    ("discard_granularity", "bytes (default: a block, 4096 at least)"),
    ("dpofua", "on/off: the mode data says that the bits DPO and FUA are supported (default off)"),
    ("drive", "node name or id of the drive"),
    ("heads", "heads (default: guessed)"),
    ("lcyls", "cylinders as firmware shows them"),
    ("lheads", "heads as firmware shows them"),
    ("logical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
    ("lsecs", "sectors of a track as firmware shows them"),
    ("lun", "logical unit number, up to 16383 (default: the first that is free)"),
    ("max_io_size", "bytes of a command (default 2147483647)"),
    ("max_unmap_size", "bytes of an UNMAP (default 1073741824)"),
    ("min_io_size", "bytes (default: the disk's)"),
    ("opt_io_size", "bytes (default: the disk's)"),
    ("physical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
    ("port_index", "relative target port (default 0: none)"),
    ("port_wwn", "world wide name of the port (default 0: none)"),
    ("product", "product, up to 16 bytes of which the guest sees (default QEMU HARDDISK)"),
    ("removable", "on/off: the medium can be taken out (default off)"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    ("rotation_rate", "revolutions per minute; 1 is a solid state disk (default 0: not reported)"),
    ("scsi-id", "target, up to 255 (default: the first that is free)"),
    ("scsi_version", "version in the INQUIRY data (default 5)"),
    ("secs", "sectors of a track (default: guessed)"),
    ("serial", "serial number, up to 36 bytes of which the guest sees"),
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("vendor", "vendor, up to 8 bytes of which the guest sees (default QEMU)"),
    ("ver", "firmware revision, up to 4 bytes of which the guest sees (default 2.5+)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
    ("write-cache", "on/off/auto (default auto: the drive's)"),
    ("wwn", "world wide name (default 0: none)"),
];

const CD_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    ("bus", "the SCSI bus (default: the newest)"),
    ("channel", "0"),
    ("device_id", "name in the device identification page (default: the serial number or the drive's name)"),
    ("discard_granularity", "bytes (default: the disk's)"),
    ("drive", "node name or id of the drive (default: an empty drive)"),
    ("logical_block_size", "a power of two, up to physical_block_size (default 512)"),
    ("lun", "logical unit number, up to 16383 (default: the first that is free)"),
    ("max_io_size", "bytes of a command (default 2147483647)"),
    ("min_io_size", "bytes (default: the disk's)"),
    ("opt_io_size", "bytes (default: the disk's)"),
    ("physical_block_size", "bytes of a block (default 2048)"),
    ("port_index", "relative target port (default 0: none)"),
    ("port_wwn", "world wide name of the port (default 0: none)"),
    ("product", "product, up to 16 bytes of which the guest sees (default QEMU CD-ROM)"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    ("scsi-id", "target, up to 255 (default: the first that is free)"),
    ("scsi_version", "version in the INQUIRY data (default 5)"),
    ("serial", "serial number, up to 36 bytes of which the guest sees"),
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("vendor", "vendor, up to 8 bytes of which the guest sees (default QEMU)"),
    ("ver", "firmware revision, up to 4 bytes of which the guest sees (default 2.5+)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
    ("write-cache", "on/off/auto (default auto: the drive's)"),
    ("wwn", "world wide name (default 0: none)"),
];

/// The drivers.
pub const DRIVERS: &[Driver] = &[
    Driver {
        name: "scsi-cd",
        alias: None,
        bus: "SCSI",
        description: "virtual SCSI CD-ROM",
        properties: CD_PROPERTIES,
        build: scsi_cd,
    },
    Driver {
        name: "scsi-hd",
        alias: None,
        bus: "SCSI",
        description: "virtual SCSI disk",
        properties: HD_PROPERTIES,
        build: scsi_hd,
    },
    Driver {
        name: "virtio-gpu-pci",
        alias: Some("virtio-gpu"),
        bus: "PCI",
        description: "virtio graphics card",
        properties: GPU_PROPERTIES,
        build: display::virtio_gpu,
    },
    Driver {
        name: "virtio-vga",
        alias: None,
        bus: "PCI",
        description: "virtio graphics card with a VGA",
        properties: VIRTIO_VGA_PROPERTIES,
        build: display::virtio_vga,
    },
    Driver {
        name: "virtio-gpu-device",
        alias: None,
        bus: "virtio-bus",
        description: "virtio graphics card behind a transport of the board",
        properties: GPU_DEVICE_PROPERTIES,
        build: display::virtio_gpu_device,
    },
    device!("virtio-scsi-device", "virtio SCSI host adapter behind a transport", SCSI_DEVICE_PROPERTIES, scsi),
    device!("virtio-rng-device", "virtio generator of random numbers behind a transport", RNG_DEVICE_PROPERTIES, rng),
    device!("virtio-serial-device", "virtio console behind a transport", SERIAL_DEVICE_PROPERTIES, serial),
    device!("virtio-keyboard-device", "virtio keyboard behind a transport", KEYBOARD_DEVICE_PROPERTIES, keyboard),
    device!("virtio-mouse-device", "virtio mouse behind a transport", POINTER_DEVICE_PROPERTIES, mouse),
    device!("virtio-tablet-device", "virtio tablet behind a transport", POINTER_DEVICE_PROPERTIES, tablet),
    driver!("virtio-scsi-pci", Some("virtio-scsi"), Any, "virtio SCSI host adapter", SCSI_PROPERTIES, scsi),
    driver!(
        "virtio-scsi-pci-non-transitional",
        None,
        NonTransitional,
        "virtio SCSI host adapter without the legacy interface",
        SCSI_PROPERTIES,
        scsi
    ),
    driver!(
        "virtio-scsi-pci-transitional",
        None,
        Transitional,
        "virtio SCSI host adapter with both interfaces",
        SCSI_PROPERTIES,
        scsi
    ),
    driver!("virtio-rng-pci", Some("virtio-rng"), Any, "virtio generator of random numbers", RNG_PROPERTIES, rng),
    driver!(
        "virtio-rng-pci-non-transitional",
        None,
        NonTransitional,
        "virtio generator of random numbers without the legacy interface",
        RNG_PROPERTIES,
        rng
    ),
    driver!(
        "virtio-rng-pci-transitional",
        None,
        Transitional,
        "virtio generator of random numbers with both interfaces",
        RNG_PROPERTIES,
        rng
    ),
    driver!("virtio-serial-pci", Some("virtio-serial"), Any, "virtio console", SERIAL_PROPERTIES, serial),
    driver!(
        "virtio-serial-pci-non-transitional",
        None,
        NonTransitional,
        "virtio console without the legacy interface",
        SERIAL_PROPERTIES,
        serial
    ),
    driver!(
        "virtio-serial-pci-transitional",
        None,
        Transitional,
        "virtio console with both interfaces",
        SERIAL_PROPERTIES,
        serial
    ),
    driver!(
        "virtio-keyboard-pci",
        Some("virtio-keyboard"),
        NonTransitional,
        "virtio keyboard",
        KEYBOARD_PROPERTIES,
        keyboard
    ),
    driver!("virtio-mouse-pci", Some("virtio-mouse"), NonTransitional, "virtio mouse", POINTER_PROPERTIES, mouse),
    driver!("virtio-tablet-pci", Some("virtio-tablet"), NonTransitional, "virtio tablet", POINTER_PROPERTIES, tablet),
    Driver {
        name: "virtconsole",
        alias: None,
        bus: "virtio-serial-bus",
        description: "console port of a virtio console",
        properties: PORT_PROPERTIES,
        build: |values, _devices| port(values, "virtconsole"),
    },
    Driver {
        name: "virtserialport",
        alias: None,
        bus: "virtio-serial-bus",
        description: "port of a virtio console",
        properties: PORT_PROPERTIES,
        build: |values, _devices| port(values, "virtserialport"),
    },
];

/// A virtio device on the PCI bus.
pub fn pci(
    values: &mut Values<'_>,
    type_name: &'static str,
    variant: Variant,
    model: impl FnOnce(&mut Values<'_>) -> Result<VirtioModel, CliError>,
) -> Result<DeviceKind, CliError> {
    let place = PciPlace { bus: values.text("bus")?, address: address(values, type_name)? };
    let vectors = number(values, "vectors")?;
    let pci = transport(values, type_name, variant)?;
    values.flag("ioeventfd")?;
    let model = model(values)?;
    Ok(DeviceKind::Virtio(Box::new(VirtioConfig { type_name, mmio: None, place, pci, vectors, model })))
}

/// A virtio device behind a transport of the board.
pub fn mmio(
    values: &mut Values<'_>,
    type_name: &'static str,
    model: impl FnOnce(&mut Values<'_>) -> Result<VirtioModel, CliError>,
) -> Result<DeviceKind, CliError> {
    let (mmio, pci) = behind_transport(values, type_name)?;
    let model = model(values)?;
    let place = PciPlace::default();
    Ok(DeviceKind::Virtio(Box::new(VirtioConfig { type_name, mmio, place, pci, vectors: None, model })))
}

/// The transport of the board that a device wants, and what the queues can.
pub fn behind_transport(values: &mut Values<'_>, type_name: &str) -> Result<(Option<MmioPlace>, PciOptions), CliError> {
    let mmio = Some(MmioPlace { bus: values.text("bus")? });
    if values.flag("iommu_platform")? == Some(true) {
        return Err(
            values.error(format!("Property '{type_name}.iommu_platform' can't be on: the machine has no IOMMU"))
        );
    }
    Ok((mmio, PciOptions { features: super::virtio::ring_features(values)?, ..PciOptions::default() }))
}

/// A number of 32 bits; all ones stand for none.
pub fn number(values: &mut Values<'_>, key: &str) -> Result<Option<u32>, CliError> {
    let number = values.number(key, u64::from(u32::MAX))?.map(|number| number as u32);
    Ok(number.filter(|number| *number != u32::MAX))
}

fn long(values: &mut Values<'_>, key: &str) -> Result<Option<u64>, CliError> {
    let Some(text) = values.text(key)? else { return Ok(None) };
    keyval::parse_u64(&text).map(Some).ok_or_else(|| values.error(format!("Parameter '{key}' expects uint64")))
}

fn scsi(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    let default = ScsiOptions::default();
    let options = ScsiOptions {
        virtqueue_size: number(values, "virtqueue_size")?.unwrap_or(default.virtqueue_size),
        seg_max_adjust: values.flag("seg_max_adjust")?.unwrap_or(true),
        max_sectors: number(values, "max_sectors")?.unwrap_or(default.max_sectors),
        cmd_per_lun: number(values, "cmd_per_lun")?.unwrap_or(default.cmd_per_lun),
        hotplug: values.flag("hotplug")?.unwrap_or(true),
        param_change: values.flag("param_change")?.unwrap_or(true),
        ..default
    };
    Ok(VirtioModel::Scsi { options, num_queues: number(values, "num_queues")?, iothread: values.text("iothread")? })
}

fn rng(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    let default = RngOptions::default();
    let options = RngOptions {
        max_bytes: long(values, "max-bytes")?.unwrap_or(default.max_bytes),
        period: number(values, "period")?.unwrap_or(default.period),
    };
    Ok(VirtioModel::Rng { options, source: values.text("rng")? })
}

/// The screen that an input device belongs to.
pub fn seat(values: &mut Values<'_>) -> Result<Option<Seat>, CliError> {
    let head = number(values, "head")?.unwrap_or(0);
    Ok(values.text("display")?.map(|display| Seat { display, head }))
}

fn keyboard(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    input(values, InputKind::Keyboard)
}

fn mouse(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    input(values, InputKind::Mouse)
}

fn tablet(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    input(values, InputKind::Tablet)
}

fn input(values: &mut Values<'_>, kind: InputKind) -> Result<VirtioModel, CliError> {
    let wheel_axis = kind != InputKind::Keyboard && values.flag("wheel-axis")?.unwrap_or(true);
    Ok(VirtioModel::Input(InputOptions { kind, wheel_axis, serial: values.text("serial")?, seat: seat(values)? }))
}

fn serial(values: &mut Values<'_>) -> Result<VirtioModel, CliError> {
    let default = SerialOptions::default();
    Ok(VirtioModel::Serial(SerialOptions {
        max_ports: number(values, "max_ports")?.unwrap_or(default.max_ports),
        emergency_write: values.flag("emergency-write")?.unwrap_or(true),
    }))
}

fn port(values: &mut Values<'_>, type_name: &'static str) -> Result<DeviceKind, CliError> {
    Ok(DeviceKind::SerialPort(SerialPortConfig {
        type_name,
        bus: values.text("bus")?,
        number: number(values, "nr")?,
        name: values.text("name")?,
        is_console: type_name == "virtconsole",
        chardev: values.text("chardev")?,
    }))
}

fn scsi_hd(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let drive = values.text("drive")?.filter(|drive| !drive.is_empty());
    let drive = drive.ok_or_else(|| values.error("drive property not set"))?;
    let common = unit(values, UnitKind::Disk)?;
    let default = UnitOptions::new(UnitKind::Disk);
    let removable = values.flag("removable")?.unwrap_or(false);
    let unit = UnitOptions {
        removable,
        dpofua: values.flag("dpofua")?.unwrap_or(false),
        max_unmap_size: long(values, "max_unmap_size")?.unwrap_or(default.max_unmap_size),
        rotation_rate: values.number("rotation_rate", 0xffff)?.unwrap_or(0) as u16,
        geometry: geometry(values)?.map(|it| UnitGeometry {
            cylinders: it.cylinders,
            heads: it.heads,
            sectors: it.sectors,
        }),
        ..common
    };
    let firmware_geometry = firmware_geometry(values)?;
    let disk = DiskUse { removable, firmware_geometry, ..disk(values, devices, drive)? };
    place(values, ("scsi-hd", disk, unit))
}

fn scsi_cd(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let drive = values.text("drive")?.unwrap_or_default();
    let unit = unit(values, UnitKind::Cd)?;
    let disk = DiskUse { access: DiskAccess::Read, removable: true, ..disk(values, devices, drive)? };
    place(values, ("scsi-cd", disk, unit))
}

/// What disks and CD drives have.
fn unit(values: &mut Values<'_>, kind: UnitKind) -> Result<UnitOptions, CliError> {
    let default = UnitOptions::new(kind);
    Ok(UnitOptions {
        vendor: values.text("vendor")?.unwrap_or_else(|| default.vendor.clone()),
        product: values.text("product")?.unwrap_or_else(|| default.product.clone()),
        version: values.text("ver")?.unwrap_or_else(|| default.version.clone()),
        serial: values.text("serial")?,
        device_id: values.text("device_id")?,
        wwn: long(values, "wwn")?.unwrap_or(0),
        port_wwn: long(values, "port_wwn")?.unwrap_or(0),
        port_index: values.number("port_index", 0xffff)?.unwrap_or(0) as u16,
        max_io_size: long(values, "max_io_size")?.unwrap_or(default.max_io_size),
        scsi_version: values.number("scsi_version", 0xff)?.map_or(default.scsi_version, |version| version as u8),
        logical_block_size: block_size(values, "logical_block_size")?,
        physical_block_size: block_size(values, "physical_block_size")?,
        min_io_size: size(values, "min_io_size")?.filter(|size| *size != 0),
        opt_io_size: size(values, "opt_io_size")?.filter(|size| *size != 0),
        discard_granularity: size(values, "discard_granularity")?.filter(|size| *size != u32::MAX),
        write_cache: on_off_auto(values, "write-cache")?,
        ..default
    })
}

fn place(
    values: &mut Values<'_>,
    (type_name, disk, unit): (&'static str, DiskUse, UnitOptions),
) -> Result<DeviceKind, CliError> {
    let bus = values.text("bus")?;
    let channel = values.number("channel", u64::from(u32::MAX))?.unwrap_or(0) as u32;
    let (target, lun) = (number(values, "scsi-id")?, number(values, "lun")?);
    Ok(DeviceKind::ScsiDrive(Box::new(ScsiDriveConfig { type_name, bus, channel, target, lun, disk, unit })))
}
