//! What devices were configured with, by the names that their options have.

use devices_virtio::features;

use crate::config::{
    CardOptions, DeviceKind, DiskUse, EdidOptions, ErrorPolicy, FloppyType, InputKind, PortKind, RootPortConfig,
    SerialPortConfig, UnitOptions, UsbControllerConfig, UsbControllerKind, UsbDeviceConfig, UsbDeviceKind,
    VirtioBlkConfig, VirtioConfig, VirtioModel,
};

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// A number.
    Number(u64),
    /// Bytes.
    Size(u64),
    /// A text, or a word out of several.
    Text(String),
    /// A place on a PCI bus: slot and function.
    Slot(u8, u8),
}

/// A property with its value.
pub type Setting = (&'static str, Value);

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Switch(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

fn number(value: impl Into<u64>) -> Value {
    Value::Number(value.into())
}

fn text(value: Option<&String>) -> Value {
    Value::Text(value.cloned().unwrap_or_default())
}

/// A switch that may be left to others.
fn three(value: Option<bool>) -> Value {
    match value {
        None => "auto",
        Some(true) => "on",
        Some(false) => "off",
    }
    .into()
}

/// What a device has, and what its part has that is an object of its own. The machine has so many `cpus`.
pub fn of(kind: &DeviceKind, cpus: u32) -> (Vec<Setting>, Vec<Setting>) {
    match kind {
        DeviceKind::VirtioBlkPci(config) => block(config, cpus),
        DeviceKind::Virtio(config) => virtio(config, cpus),
        other => (alone(other), Vec::new()),
    }
}

fn alone(kind: &DeviceKind) -> Vec<Setting> {
    match kind {
        DeviceKind::IsaSerial { index, iobase, irq, chardev }
        | DeviceKind::IsaParallel { index, iobase, irq, chardev } => vec![
            ("index", number(*index)),
            ("iobase", number(*iobase)),
            ("irq", number(*irq)),
            ("chardev", chardev.as_str().into()),
        ],
        DeviceKind::IsaDebugcon { iobase, readback, chardev } => {
            vec![("iobase", number(*iobase)), ("chardev", chardev.as_str().into()), ("readback", number(*readback))]
        }
        DeviceKind::IsaDebugExit { iobase, iosize } => vec![("iobase", number(*iobase)), ("iosize", number(*iosize))],
        DeviceKind::Pvpanic { ioport, events } => vec![("ioport", number(*ioport)), ("events", number(*events))],
        DeviceKind::PvpanicPci { events, .. } => vec![("events", number(*events))],
        DeviceKind::SerialPort(config) => serial_port(config),
        DeviceKind::ScsiDrive(config) => unit(&config.disk, &config.unit),
        DeviceKind::IdeDrive(config) => {
            let mut settings = disk(&config.disk, config.drive.write_cache);
            settings.extend([
                ("ver", config.drive.version.as_str().into()),
                ("wwn", number(config.drive.wwn)),
                ("model", text(config.drive.model.as_ref())),
            ]);
            // Without one, the drive makes its own.
            settings.extend(config.drive.serial.as_deref().map(|serial| ("serial", serial.into())));
            if let Some(geometry) = config.drive.geometry {
                settings.extend(cylinders(geometry.cylinders, geometry.heads, geometry.sectors));
            }
            settings.push(("rotation_rate", number(config.drive.rotation_rate)));
            settings.extend(config.unit.map(|unit| ("unit", number(unit))));
            settings
        }
        DeviceKind::Floppy(config) => {
            let mut settings: Vec<Setting> = config.unit.map(|unit| ("unit", number(unit))).into_iter().collect();
            // It has no policy for errors.
            settings.extend(disk(&config.disk, None).into_iter().filter(|(name, _)| !name.ends_with("error")));
            // Without one, the medium says it.
            let name = |drive_type| match drive_type {
                FloppyType::D120 => "120",
                FloppyType::D144 => "144",
                FloppyType::D288 => "288",
            };
            settings.extend(config.drive_type.map(|drive_type| ("drive-type", name(drive_type).into())));
            settings
        }
        DeviceKind::Display(config) => card(&config.options),
        DeviceKind::UsbController(config) => usb_controller(config),
        DeviceKind::UsbDevice(config) => usb_device(config),
        DeviceKind::Bridge { chassis, .. } => vec![("chassis_nr", number(*chassis))],
        DeviceKind::RootPort(config) => root_port(config),
        _ => Vec::new(),
    }
}

fn root_port(config: &RootPortConfig) -> Vec<Setting> {
    let options = &config.options;
    let mut settings: Vec<Setting> = vec![
        ("chassis", number(config.chassis)),
        ("slot", number(options.slot)),
        ("hotplug", options.hotplug.into()),
        ("port", number(options.port)),
    ];
    if options.kind == PortKind::Generic {
        let speed = ["2_5", "5", "8", "16"].get(usize::from(options.link.speed).saturating_sub(1)).copied();
        settings.extend([
            ("x-speed", speed.unwrap_or_default().into()),
            ("x-width", Value::Text(options.link.lanes.to_string())),
            ("disable-acs", (!options.access_control).into()),
        ]);
    }
    settings
}

/// A disk's, as all kinds of drives have them.
fn disk(disk: &DiskUse, write_cache: Option<bool>) -> Vec<Setting> {
    let policy = |policy: ErrorPolicy| {
        Value::from(match policy {
            ErrorPolicy::Auto => "auto",
            ErrorPolicy::Ignore => "ignore",
            ErrorPolicy::Report => "report",
            ErrorPolicy::Stop => "stop",
            ErrorPolicy::Enospc => "enospc",
        })
    };
    vec![
        ("drive", disk.drive.as_str().into()),
        ("write-cache", three(write_cache)),
        ("share-rw", disk.share_rw.into()),
        ("account-invalid", three(disk.account_invalid)),
        ("account-failed", three(disk.account_failed)),
        ("rerror", policy(disk.rerror)),
        ("werror", policy(disk.werror)),
    ]
}

/// The sizes that were given; the others are the disk's own.
fn sizes(all: [(&'static str, Option<u32>); 5]) -> impl Iterator<Item = Setting> {
    all.into_iter().filter_map(|(name, size)| Some((name, Value::Size(size?.into()))))
}

fn cylinders(cylinders: u16, heads: u8, sectors: u8) -> [Setting; 3] {
    [("cyls", number(cylinders)), ("heads", number(heads)), ("secs", number(sectors))]
}

fn block(config: &VirtioBlkConfig, cpus: u32) -> (Vec<Setting>, Vec<Setting>) {
    let blk = &config.blk;
    let queues = config.num_queues.map_or(cpus, u32::from);
    let vectors = config.vectors.unwrap_or(queues.saturating_add(1));
    let mut part = disk(&config.disk, blk.write_cache);
    part.extend(sizes([
        ("logical_block_size", blk.logical_block_size),
        ("physical_block_size", blk.physical_block_size),
        ("min_io_size", blk.min_io_size),
        ("opt_io_size", blk.opt_io_size),
        ("discard_granularity", blk.discard_granularity),
    ]));
    if let Some(geometry) = blk.geometry {
        part.extend(cylinders(geometry.cylinders, geometry.heads, geometry.sectors));
    }
    part.extend([
        ("serial", text(blk.serial.as_ref())),
        ("config-wce", blk.config_wce.into()),
        ("num-queues", number(queues)),
        ("queue-size", number(blk.queue_size)),
        ("seg-max-adjust", blk.seg_max_adjust.into()),
        ("discard", blk.discard.into()),
        ("report-discard-granularity", blk.report_discard_granularity.into()),
        ("write-zeroes", blk.write_zeroes.into()),
        ("max-discard-sectors", number(blk.max_discard_sectors)),
        ("max-write-zeroes-sectors", number(blk.max_write_zeroes_sectors)),
    ]);
    part.extend(of_all_virtio(config.pci.features));
    (transport(&config.pci, Some(vectors)), part)
}

fn virtio(config: &VirtioConfig, cpus: u32) -> (Vec<Setting>, Vec<Setting>) {
    let mut part = match &config.model {
        VirtioModel::Scsi { options, num_queues, .. } => vec![
            ("num_queues", number(num_queues.unwrap_or(cpus))),
            ("virtqueue_size", number(options.virtqueue_size)),
            ("seg_max_adjust", options.seg_max_adjust.into()),
            ("max_sectors", number(options.max_sectors)),
            ("cmd_per_lun", number(options.cmd_per_lun)),
            ("hotplug", options.hotplug.into()),
            ("param_change", options.param_change.into()),
        ],
        VirtioModel::Rng { options, .. } => {
            vec![("max-bytes", number(options.max_bytes)), ("period", number(options.period))]
        }
        VirtioModel::Serial(options) => {
            vec![("max_ports", number(options.max_ports)), ("emergency-write", options.emergency_write.into())]
        }
        VirtioModel::Input(options) if options.kind == InputKind::Keyboard => Vec::new(),
        VirtioModel::Input(options) => vec![("wheel-axis", options.wheel_axis.into())],
        VirtioModel::Gpu { options, .. } => vec![
            ("max_outputs", number(options.max_outputs)),
            ("edid", options.edid.into()),
            ("max_hostmem", Value::Size(options.max_hostmem)),
            ("xres", number(options.xres)),
            ("yres", number(options.yres)),
        ],
    };
    part.extend(of_all_virtio(config.pci.features));
    (transport(&config.pci, config.vectors), part)
}

fn transport(pci: &crate::config::PciOptions, vectors: Option<u32>) -> Vec<Setting> {
    let mut settings: Vec<Setting> = vec![
        ("disable-legacy", three(if pci.only_conventional_legacy { None } else { Some(!pci.legacy) })),
        ("disable-modern", (!pci.modern).into()),
    ];
    settings.extend(vectors.map(|vectors| ("vectors", number(vectors))));
    settings.extend([("modern-pio-notify", pci.modern_pio_notify.into()), ("page-per-vq", pci.page_per_vq.into())]);
    let express = &pci.express;
    settings.extend([
        ("x-disable-pcie", (!express.capability).into()),
        ("x-pcie-deverr-init", express.reports.into()),
        ("x-pcie-flr-init", express.function_reset.into()),
        ("x-pcie-lnkctl-init", express.link_control.into()),
        ("x-pcie-pm-init", express.power_states.into()),
    ]);
    settings
}

fn of_all_virtio(offered: u64) -> impl Iterator<Item = Setting> {
    [
        ("indirect_desc", features::INDIRECT),
        ("event_idx", features::EVENT_IDX),
        ("notify_on_empty", features::NOTIFY_ON_EMPTY),
        ("any_layout", features::ANY_LAYOUT),
        ("packed", features::RING_PACKED),
        ("queue_reset", features::RING_RESET),
    ]
    .into_iter()
    .map(move |(name, feature)| (name, Value::from(offered & feature != 0)))
}

fn serial_port(config: &SerialPortConfig) -> Vec<Setting> {
    let mut settings = vec![("chardev", text(config.chardev.as_ref()))];
    settings.extend(config.number.map(|number| ("nr", Value::Number(number.into()))));
    settings.push(("name", text(config.name.as_ref())));
    settings
}

/// What the SCSI unit of a USB device has.
pub fn of_usb_unit(kind: &DeviceKind) -> Vec<Setting> {
    match kind {
        DeviceKind::UsbDevice(config) => match &config.kind {
            UsbDeviceKind::Storage { disk, unit: options } => unit(disk, options),
            UsbDeviceKind::Hid { .. } | UsbDeviceKind::Hub { .. } | UsbDeviceKind::Uas => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn unit(used: &DiskUse, unit: &UnitOptions) -> Vec<Setting> {
    let mut settings = disk(used, unit.write_cache);
    settings.extend(sizes([
        ("logical_block_size", unit.logical_block_size),
        ("physical_block_size", unit.physical_block_size),
        ("min_io_size", unit.min_io_size),
        ("opt_io_size", unit.opt_io_size),
        ("discard_granularity", unit.discard_granularity),
    ]));
    settings.extend([
        ("ver", unit.version.as_str().into()),
        ("serial", text(unit.serial.as_ref())),
        ("vendor", unit.vendor.as_str().into()),
        ("product", unit.product.as_str().into()),
        ("removable", unit.removable.into()),
        ("dpofua", unit.dpofua.into()),
        ("wwn", number(unit.wwn)),
        ("port_wwn", number(unit.port_wwn)),
        ("port_index", number(unit.port_index)),
        ("max_unmap_size", number(unit.max_unmap_size)),
        ("max_io_size", number(unit.max_io_size)),
        ("rotation_rate", number(unit.rotation_rate)),
        ("scsi_version", number(unit.scsi_version)),
    ]);
    // Without one, it is the serial number or the disk's name.
    settings.extend(unit.device_id.as_deref().map(|id| ("device_id", id.into())));
    if let Some(geometry) = unit.geometry {
        settings.extend(cylinders(geometry.cylinders, geometry.heads, geometry.sectors));
    }
    settings
}

fn card(options: &CardOptions) -> Vec<Setting> {
    let mut settings: Vec<Setting> = vec![
        ("vgamem_mb", number(options.vgamem_mb)),
        ("mmio", options.mmio.into()),
        ("qemu-extended-regs", options.qemu_extended_regs.into()),
        ("edid", options.edid.into()),
    ];
    let EdidOptions { xres, yres, xmax, ymax, refresh_rate } = options.monitor;
    let monitor = [("xres", xres), ("yres", yres), ("xmax", xmax), ("ymax", ymax), ("refresh_rate", refresh_rate)];
    // Without a size, the card has its own.
    let is_known = |(name, value): &(&str, u32)| *value != 0 || !matches!(*name, "xres" | "yres");
    settings.extend(monitor.into_iter().filter(is_known).map(|(name, value)| (name, number(value))));
    settings
}

fn usb_controller(config: &UsbControllerConfig) -> Vec<Setting> {
    match &config.kind {
        UsbControllerKind::Uhci { options, companion, .. } => {
            let mut settings = Vec::new();
            if let Some((master, first)) = companion {
                settings.push(("masterbus", master.as_str().into()));
                settings.push(("firstport", number(*first as u64)));
            }
            settings.extend([("bandwidth", number(options.bandwidth)), ("maxframes", number(options.max_frames))]);
            settings
        }
        UsbControllerKind::Ehci { max_frames, .. } => vec![("maxframes", number(*max_frames))],
        UsbControllerKind::Xhci(options) => vec![
            ("intrs", number(options.interrupters)),
            ("slots", number(options.slots)),
            ("p2", number(options.usb2_ports)),
            ("p3", number(options.usb3_ports)),
        ],
    }
}

fn usb_device(config: &UsbDeviceConfig) -> Vec<Setting> {
    let mut settings: Vec<Setting> = match &config.kind {
        UsbDeviceKind::Hid { usb_version, .. } => vec![("usb_version", number(*usb_version))],
        UsbDeviceKind::Hub { ports, switches_power } => {
            vec![("ports", number(*ports as u64)), ("port-power", (*switches_power).into())]
        }
        UsbDeviceKind::Storage { unit, .. } => vec![("removable", unit.removable.into())],
        UsbDeviceKind::Uas => Vec::new(),
    };
    settings.extend([
        ("port", text(config.port.as_ref())),
        ("serial", text(config.labels.serial.as_ref())),
        ("msos-desc", (!config.labels.without_microsoft).into()),
    ]);
    settings
}
