//! USB: host controllers and devices of `-device`, and `-usbdevice`.

use machine::config::{
    DeviceConfig, DeviceKind, DiskAccess, DiskUse, EHCI_MODELS, HidKind, Seat, UHCI_MODELS, UhciOptions, UnitKind,
    UnitOptions, UsbControllerConfig, UsbControllerKind, UsbDeviceConfig, UsbDeviceKind, UsbLabels, XhciModel,
    XhciOptions,
};

use super::devices::{self, Driver};
use super::globals::Global;
use super::value::Values;
use super::virtio_devices::{DISPLAY, HEAD};
use super::{Argument, CliError, platform, virtio, virtio_devices};

const MULTIFUNCTION: (&str, &str) = ("multifunction", "on/off: there are others in the slot (default off)");
const BUS: (&str, &str) = ("bus", "the USB bus (default: the newest)");
const PORT: (&str, &str) = ("port", "the port, as 1 or 1.2 behind a hub (default: the first that is free)");
const MICROSOFT: (&str, &str) = ("msos-desc", "on/off: Microsoft's descriptors, if it has some (default on)");
const SERIAL: (&str, &str) = ("serial", "serial number (default: made of the place)");
const STREAMS: (&str, &str) = ("streams", "on/off: endpoints can have streams (default on)");
const VERSION: (&str, &str) = ("usb_version", "1 for full speed only, or 2 (default 2)");

const UHCI_PROPERTIES: &[(&str, &str)] = &[
    ("addr", platform::ADDR),
    ("bandwidth", "bytes of a frame (default 1280)"),
    ("bus", platform::BUS),
    ("maxframes", "frames that are made up for at once after a delay (default 128)"),
    MULTIFUNCTION,
];

const EHCI_PROPERTIES: &[(&str, &str)] = &[
    ("addr", platform::ADDR),
    ("bus", platform::BUS),
    ("maxframes", "frames that are made up for at once after a delay (default 128)"),
    MULTIFUNCTION,
];

const COMPANION_PROPERTIES: &[(&str, &str)] = &[
    ("addr", platform::ADDR),
    ("bandwidth", "bytes of a frame (default 1280)"),
    ("bus", platform::BUS),
    ("firstport", "the first port of masterbus that is this controller's (default 0)"),
    ("masterbus", "the bus of the EHCI controller that this one is a companion of"),
    ("maxframes", "frames that are made up for at once after a delay (default 128)"),
    MULTIFUNCTION,
];

const NEC_PROPERTIES: &[(&str, &str)] = &[
    ("addr", platform::ADDR),
    ("bus", platform::BUS),
    ("intrs", "interrupters: 1 to 16 (default 16)"),
    ("msi", "on/off/auto: there is an MSI capability (default auto: on)"),
    ("msix", "on/off/auto: there is an MSI-X capability (default auto: on)"),
    MULTIFUNCTION,
    ("p2", "ports with USB 2.0: up to 15 (default 4)"),
    ("p3", "ports with SuperSpeed: up to 15 (default 4)"),
    ("slots", "device slots: 1 to 64 (default 64)"),
    STREAMS,
    ("superspeed-ports-first", "on/off: ports with SuperSpeed have the lower numbers (default on)"),
];

const XHCI_PROPERTIES: &[(&str, &str)] = &[
    ("addr", platform::ADDR),
    ("bus", platform::BUS),
    MULTIFUNCTION,
    ("p2", "ports with USB 2.0: up to 15 (default 4)"),
    ("p3", "ports with SuperSpeed: up to 15 (default 4)"),
    STREAMS,
];

const MOUSE_PROPERTIES: &[(&str, &str)] = &[BUS, MICROSOFT, PORT, SERIAL, VERSION];
const KEYBOARD_PROPERTIES: &[(&str, &str)] = &[BUS, DISPLAY, MICROSOFT, PORT, SERIAL, VERSION];
const TABLET_PROPERTIES: &[(&str, &str)] = &[BUS, DISPLAY, HEAD, MICROSOFT, PORT, SERIAL, VERSION];

const HUB_PROPERTIES: &[(&str, &str)] = &[
    BUS,
    MICROSOFT,
    PORT,
    ("port-power", "on/off: ports can be switched off (default off)"),
    ("ports", "how many ports: 1 to 8 (default 8)"),
    SERIAL,
];

const STORAGE_PROPERTIES: &[(&str, &str)] = &[
    ("account-failed", "on/off/auto: failed requests count as accesses (default auto)"),
    ("account-invalid", "on/off/auto: invalid requests count as accesses (default auto)"),
    ("bootindex", "order among devices to boot from"),
    BUS,
    ("discard_granularity", "bytes (default: a block)"),
    ("drive", "node name or id of the drive"),
    ("logical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
    ("min_io_size", "bytes (default: the disk's)"),
    MICROSOFT,
    ("opt_io_size", "bytes (default: the disk's)"),
    ("physical_block_size", "a power of two between 512 B and 2 MiB (default: the disk's)"),
    PORT,
    ("removable", "on/off: the medium can be taken out (default off)"),
    ("rerror", "report/ignore/enospc/stop/auto (default auto)"),
    SERIAL,
    ("share-rw", "on/off: others may write the disk (default off)"),
    ("werror", "report/ignore/enospc/stop/auto (default auto)"),
    ("write-cache", "on/off/auto (default auto: the drive's)"),
];

type Build = fn(&mut Values<'_>, &[DeviceConfig]) -> Result<DeviceKind, CliError>;

const fn uhci(name: &'static str, build: Build) -> Driver {
    let description = "USB 1.1 host controller (UHCI)";
    Driver { name, alias: None, bus: "PCI", description, properties: UHCI_PROPERTIES, build }
}

const fn companion(name: &'static str, build: Build) -> Driver {
    Driver { properties: COMPANION_PROPERTIES, ..uhci(name, build) }
}

const fn ehci(name: &'static str, build: Build) -> Driver {
    let description = "USB 2.0 host controller (EHCI)";
    Driver { name, alias: None, bus: "PCI", description, properties: EHCI_PROPERTIES, build }
}

const fn device_driver(
    name: &'static str,
    description: &'static str,
    properties: &'static [(&'static str, &'static str)],
    build: Build,
) -> Driver {
    Driver { name, alias: None, bus: "usb-bus", description, properties, build }
}

/// The drivers of USB.
pub const DRIVERS: &[Driver] = &[
    ehci("ich9-usb-ehci1", |values, _| ehci_controller(values, 1)),
    ehci("ich9-usb-ehci2", |values, _| ehci_controller(values, 2)),
    companion("ich9-usb-uhci1", |values, _| uhci_controller(values, 2)),
    companion("ich9-usb-uhci2", |values, _| uhci_controller(values, 3)),
    companion("ich9-usb-uhci3", |values, _| uhci_controller(values, 4)),
    companion("ich9-usb-uhci4", |values, _| uhci_controller(values, 5)),
    companion("ich9-usb-uhci5", |values, _| uhci_controller(values, 6)),
    companion("ich9-usb-uhci6", |values, _| uhci_controller(values, 7)),
    Driver {
        name: "nec-usb-xhci",
        alias: None,
        bus: "PCI",
        description: "USB 3 host controller (xHCI) as NEC's",
        properties: NEC_PROPERTIES,
        build: |values, _| xhci(values, XhciModel::Nec),
    },
    uhci("piix3-usb-uhci", |values, _| uhci_controller(values, 0)),
    uhci("piix4-usb-uhci", |values, _| uhci_controller(values, 1)),
    Driver {
        name: "qemu-xhci",
        alias: None,
        bus: "PCI",
        description: "USB 3 host controller (xHCI)",
        properties: XHCI_PROPERTIES,
        build: |values, _| xhci(values, XhciModel::Qemu),
    },
    ehci("usb-ehci", |values, _| ehci_controller(values, 0)),
    device_driver("usb-hub", "USB hub", HUB_PROPERTIES, |values, _| hub(values)),
    device_driver("usb-kbd", "USB keyboard", KEYBOARD_PROPERTIES, |values, _| hid_device(values, HidKind::Keyboard)),
    device_driver("usb-mouse", "USB mouse", MOUSE_PROPERTIES, |values, _| hid_device(values, HidKind::Mouse)),
    device_driver("usb-storage", "USB mass storage: a disk, or a CD drive", STORAGE_PROPERTIES, storage),
    device_driver("usb-uas", "USB Attached SCSI host adapter", &[BUS, MICROSOFT, PORT, SERIAL], |values, _| {
        device(values, UsbDeviceKind::Uas)
    }),
    device_driver("usb-tablet", "USB pointer with absolute positions", TABLET_PROPERTIES, |values, _| {
        hid_device(values, HidKind::Tablet)
    }),
];

fn number(values: &mut Values<'_>, key: &str, default: u32) -> Result<u32, CliError> {
    Ok(values.number(key, u64::from(u32::MAX))?.map_or(default, |number| number as u32))
}

fn controller(values: &mut Values<'_>, type_name: &str, kind: UsbControllerKind) -> Result<DeviceKind, CliError> {
    let place = platform::place(values, type_name)?;
    let is_multifunction = values.flag("multifunction")?.unwrap_or(false);
    Ok(DeviceKind::UsbController(Box::new(UsbControllerConfig { place, is_multifunction, kind })))
}

fn uhci_controller(values: &mut Values<'_>, index: usize) -> Result<DeviceKind, CliError> {
    let model = UHCI_MODELS[index];
    let default = UhciOptions::default();
    let options = UhciOptions {
        bandwidth: number(values, "bandwidth", default.bandwidth)?,
        max_frames: number(values, "maxframes", default.max_frames)?,
    };
    let companion = if model.is_companion {
        let first = number(values, "firstport", 0)? as usize;
        values.text("masterbus")?.map(|bus| (bus, first))
    } else {
        None
    };
    controller(values, model.type_name, UsbControllerKind::Uhci { model, options, companion })
}

fn ehci_controller(values: &mut Values<'_>, index: usize) -> Result<DeviceKind, CliError> {
    let model = EHCI_MODELS[index];
    let max_frames = number(values, "maxframes", 128)?;
    controller(values, model.type_name, UsbControllerKind::Ehci { model, max_frames })
}

fn xhci(values: &mut Values<'_>, model: XhciModel) -> Result<DeviceKind, CliError> {
    let default = XhciOptions::new(model);
    let mut options = XhciOptions {
        usb2_ports: number(values, "p2", default.usb2_ports)?,
        usb3_ports: number(values, "p3", default.usb3_ports)?,
        streams: values.flag("streams")?.unwrap_or(true),
        ..default
    };
    if model == XhciModel::Nec {
        options.interrupters = number(values, "intrs", default.interrupters)?;
        options.slots = number(values, "slots", default.slots)?;
        options.msi = virtio::on_off_auto(values, "msi")?.unwrap_or(true);
        options.msix = virtio::on_off_auto(values, "msix")?.unwrap_or(true);
        options.superspeed_first = values.flag("superspeed-ports-first")?.unwrap_or(true);
    }
    controller(values, model.type_name(), UsbControllerKind::Xhci(options))
}

fn device(values: &mut Values<'_>, kind: UsbDeviceKind) -> Result<DeviceKind, CliError> {
    let (bus, port) = (values.text("bus")?, values.text("port")?);
    let without_microsoft = values.flag("msos-desc")? == Some(false);
    let labels = UsbLabels { serial: values.text("serial")?, without_microsoft };
    Ok(DeviceKind::UsbDevice(Box::new(UsbDeviceConfig { bus, port, labels, kind })))
}

fn hid_device(values: &mut Values<'_>, kind: HidKind) -> Result<DeviceKind, CliError> {
    let usb_version = number(values, "usb_version", 2)?;
    if !matches!(usb_version, 1 | 2) {
        return Err(values.error(format!("Invalid usb version {usb_version} for usb hid device")));
    }
    let seat = match kind {
        HidKind::Mouse => None,
        HidKind::Keyboard => values.text("display")?.map(|display| Seat { display, head: 0 }),
        HidKind::Tablet => virtio_devices::seat(values)?,
    };
    device(values, UsbDeviceKind::Hid { kind, usb_version, seat })
}

fn hub(values: &mut Values<'_>) -> Result<DeviceKind, CliError> {
    let ports = number(values, "ports", 8)?;
    if !(1..=8).contains(&ports) {
        return Err(values.error(format!("num_ports ({}) out of range (1..8)", ports as i32)));
    }
    let switches_power = values.flag("port-power")?.unwrap_or(false);
    device(values, UsbDeviceKind::Hub { ports: ports as usize, switches_power })
}

fn storage(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let drive = values.text("drive")?.filter(|drive| !drive.is_empty());
    let drive = drive.ok_or_else(|| values.error("drive property not set"))?;
    let removable = values.flag("removable")?.unwrap_or(false);
    let unit = UnitOptions {
        removable,
        logical_block_size: virtio::block_size(values, "logical_block_size")?,
        physical_block_size: virtio::block_size(values, "physical_block_size")?,
        min_io_size: virtio::size(values, "min_io_size")?.filter(|size| *size != 0),
        opt_io_size: virtio::size(values, "opt_io_size")?.filter(|size| *size != 0),
        discard_granularity: virtio::size(values, "discard_granularity")?.filter(|size| *size != u32::MAX),
        write_cache: virtio::on_off_auto(values, "write-cache")?,
        queues_commands: false,
        ..UnitOptions::new(UnitKind::Disk)
    };
    let disk = DiskUse { removable, ..virtio::disk(values, devices, drive)? };
    let made = device(values, UsbDeviceKind::Storage { disk: Box::new(disk), unit: Box::new(unit) })?;
    Ok(with_serial_of_unit(made))
}

/// The serial number is that of the unit, too.
fn with_serial_of_unit(mut kind: DeviceKind) -> DeviceKind {
    if let DeviceKind::UsbDevice(config) = &mut kind
        && let UsbDeviceKind::Storage { unit, .. } = &mut config.kind
    {
        unit.serial.clone_from(&config.labels.serial);
    }
    kind
}

/// A mass storage device is a CD drive if its drive is one (`-drive media=cdrom`).
pub fn drive_is_cd(devices: &mut [DeviceConfig], drive: &str) {
    for device in devices {
        if let DeviceKind::UsbDevice(config) = &mut device.kind
            && let UsbDeviceKind::Storage { disk, unit } = &mut config.kind
            && disk.drive == drive
        {
            (disk.removable, disk.access) = (true, DiskAccess::Read);
            let serial = unit.serial.take();
            **unit = UnitOptions { serial, queues_commands: false, ..UnitOptions::new(UnitKind::Cd) };
        }
    }
}

/// The driver that a `-usbdevice` stands for.
pub fn legacy_driver(argument: &Argument<'_>) -> Result<&'static str, CliError> {
    match argument.value {
        "tablet" => Ok("usb-tablet"),
        "mouse" => Ok("usb-mouse"),
        "keyboard" => Ok("usb-kbd"),
        other if other.contains(':') => Err(argument.error("usbdevice parameters are not supported anymore")),
        other => Err(argument.error(format!("could not add USB device '{other}'"))),
    }
}

/// What `-global` says of the controllers that `-machine usb=on` makes.
pub fn of_board(globals: &[Global]) -> Result<Vec<UsbControllerConfig>, CliError> {
    const TYPES: [&str; 5] = ["piix3-usb-uhci", "ich9-usb-ehci1", "ich9-usb-uhci1", "ich9-usb-uhci2", "ich9-usb-uhci3"];
    let argument = Argument::not_given("machine", "usb=on")?;
    let mut found = Vec::new();
    for name in TYPES.into_iter().filter(|name| globals.iter().any(|global| global.driver == *name)) {
        let device = devices::of_option(globals, &argument, (name, ""), &[])?;
        if let DeviceKind::UsbController(config) = device.kind {
            found.push(*config);
        }
    }
    Ok(found)
}
