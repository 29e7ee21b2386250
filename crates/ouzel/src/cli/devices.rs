//! `-device`, and the devices that other options stand for: serial and parallel ports, drives, cards.

use std::sync::Arc;

use machine::config::{
    ChipsetKind, CpuDeviceConfig, DeviceConfig, DeviceKind, MachineConfig, PortKind, PortLink, PortOptions, RomConfig,
    RomFile, RootPortConfig, SerialPortConfig,
};

use qapi::json::Map;
use vm::hotplug::DeviceParser;
use x86::model::{CpuModel, NEWEST};

use super::arguments::all;
use super::block::Media;
use super::character::Character;
use super::globals::{self, Global, globals};
use super::machine::chipset;
use super::value::Values;
use super::{Argument, CliError, display, ide, platform, usb, virtio, virtio_devices};

/// A device driver that `-device` knows.
pub struct Driver {
    /// Its name.
    pub name: &'static str,
    /// Another name.
    pub alias: Option<&'static str>,
    /// The kind of bus that it needs.
    pub bus: &'static str,
    /// What it is.
    pub description: &'static str,
    /// Its properties, for the help.
    pub properties: &'static [(&'static str, &'static str)],
    /// Makes it of its properties.
    pub build: fn(&mut Values<'_>, &[DeviceConfig]) -> Result<DeviceKind, CliError>,
}

/// All the drivers.
pub fn drivers() -> impl Iterator<Item = &'static Driver> {
    DRIVERS.iter().chain(usb::DRIVERS).chain(virtio_devices::DRIVERS)
}

/// The drivers, by bus family, but for those of USB, SCSI and virtio (other than block devices).
const DRIVERS: &[Driver] = &[
    Driver {
        name: "isa-serial",
        alias: None,
        bus: "ISA",
        description: "16550A serial port",
        properties: &[
            ("chardev", "id of a character device"),
            ("index", "COM number minus one: 0 to 3"),
            ("iobase", "first I/O port"),
            ("irq", "ISA interrupt"),
        ],
        build: isa_serial,
    },
    Driver {
        name: "isa-parallel",
        alias: None,
        bus: "ISA",
        description: "parallel port",
        properties: &[
            ("chardev", "id of a character device"),
            ("index", "LPT number minus one: 0 to 2"),
            ("iobase", "first I/O port"),
            ("irq", "ISA interrupt (default 7)"),
        ],
        build: isa_parallel,
    },
    Driver {
        name: "isa-debugcon",
        alias: None,
        bus: "ISA",
        description: "Bochs debug console",
        properties: &[
            ("chardev", "id of a character device"),
            ("iobase", "I/O port (default 0xe9)"),
            ("readback", "what a read returns (default 0xe9)"),
        ],
        build: isa_debugcon,
    },
    Driver {
        name: "isa-debug-exit",
        alias: None,
        bus: "ISA",
        description: "a port that ends the emulator with status (value << 1) | 1",
        properties: &[("iobase", "first I/O port (default 0x501)"), ("iosize", "how many ports (default 2)")],
        build: isa_debug_exit,
    },
    Driver {
        name: "pvpanic",
        alias: None,
        bus: "ISA",
        description: "the guest's way to report a crash",
        properties: &[
            ("ioport", "I/O port (default 0x505)"),
            ("events", "events that the guest may report (default 3)"),
        ],
        build: pvpanic,
    },
    Driver {
        name: "pvpanic-pci",
        alias: None,
        bus: "PCI",
        description: "the guest's way to report a crash",
        properties: &[
            ("addr", platform::ADDR),
            ("bus", platform::BUS),
            ("events", "events that the guest may report (default 3)"),
        ],
        build: platform::pvpanic_pci,
    },
    Driver {
        name: "i6300esb",
        alias: None,
        bus: "PCI",
        description: "Intel 6300ESB",
        properties: &[("addr", platform::ADDR), ("bus", platform::BUS)],
        build: platform::i6300esb,
    },
    Driver {
        name: "vmgenid",
        alias: None,
        bus: "none",
        description: "the generation of the machine",
        properties: &[("guid", "a UUID, or auto for a new one (default auto)")],
        build: platform::vmgenid,
    },
    Driver {
        name: "vmcoreinfo",
        alias: None,
        bus: "none",
        description: "takes the guest's note about its crash dumps",
        properties: &[],
        build: platform::vmcoreinfo,
    },
    Driver {
        name: "ib700",
        alias: None,
        bus: "ISA",
        description: "iBASE 700",
        properties: &[],
        build: platform::ib700,
    },
    Driver {
        name: "pc-testdev",
        alias: None,
        bus: "ISA",
        description: "ports and memory for test programs",
        properties: &[],
        build: platform::pc_testdev,
    },
    Driver {
        name: "VGA",
        alias: None,
        bus: "PCI",
        description: "standard VGA",
        properties: display::VGA_PROPERTIES,
        build: display::vga,
    },
    Driver {
        name: "isa-vga",
        alias: None,
        bus: "ISA",
        description: "standard VGA on the ISA bus",
        properties: &[("vgamem_mb", "MiB of video memory (default 8)")],
        build: display::isa_vga,
    },
    Driver {
        name: "secondary-vga",
        alias: None,
        bus: "PCI",
        description: "standard VGA without the legacy ports, for further screens",
        properties: display::SECONDARY_PROPERTIES,
        build: display::secondary,
    },
    Driver {
        name: "bochs-display",
        alias: None,
        bus: "PCI",
        description: "Bochs display without a VGA",
        properties: display::BOCHS_PROPERTIES,
        build: display::bochs,
    },
    Driver {
        name: "floppy",
        alias: None,
        bus: "floppy-bus",
        description: "virtual floppy drive",
        properties: ide::FLOPPY_PROPERTIES,
        build: ide::floppy,
    },
    Driver {
        name: "ich9-ahci",
        alias: Some("ahci"),
        bus: "PCI",
        description: "AHCI controller of the ICH9, with six ports",
        properties: ide::AHCI_PROPERTIES,
        build: ide::ahci,
    },
    Driver {
        name: "ide-cd",
        alias: None,
        bus: "IDE",
        description: "virtual IDE CD-ROM",
        properties: ide::CD_PROPERTIES,
        build: ide::cd,
    },
    Driver {
        name: "ide-hd",
        alias: None,
        bus: "IDE",
        description: "virtual IDE disk",
        properties: ide::HD_PROPERTIES,
        build: ide::hd,
    },
    Driver {
        name: "pci-bridge",
        alias: None,
        bus: "PCI",
        description: "Standard PCI Bridge",
        properties: &[
            ("addr", platform::ADDR),
            ("bus", platform::BUS),
            ("chassis_nr", "number of the chassis behind it, from 1"),
        ],
        build: platform::pci_bridge,
    },
    Driver {
        name: "i82801b11-bridge",
        alias: None,
        bus: "PCI",
        description: "Intel 82801BA PCI bridge",
        properties: &[("addr", platform::ADDR), ("bus", platform::BUS)],
        build: platform::i82801b11,
    },
    Driver {
        name: "pcie-pci-bridge",
        alias: None,
        bus: "PCI",
        description: "PCI Express to PCI bridge",
        properties: &[("addr", platform::ADDR), ("bus", platform::BUS)],
        build: platform::pcie_pci_bridge,
    },
    Driver {
        name: "pcie-root-port",
        alias: None,
        bus: "PCI",
        description: "PCI Express root port",
        properties: GENERIC_PORT_PROPERTIES,
        build: root_port,
    },
    Driver {
        name: "ioh3420",
        alias: None,
        bus: "PCI",
        description: "Intel IOH device id 3420 PCIE Root Port",
        properties: ROOT_PORT_PROPERTIES,
        build: ioh3420,
    },
    Driver {
        name: "virtio-blk-pci",
        alias: Some("virtio-blk"),
        bus: "PCI",
        description: "virtio block device",
        properties: virtio::BLK_PROPERTIES,
        build: virtio::blk,
    },
    Driver {
        name: "virtio-blk-device",
        alias: None,
        bus: "virtio-bus",
        description: "virtio block device behind a transport of the board",
        properties: virtio::BLK_DEVICE_PROPERTIES,
        build: virtio::blk_device,
    },
    Driver {
        name: "virtio-blk-pci-non-transitional",
        alias: None,
        bus: "PCI",
        description: "virtio block device without the legacy interface",
        properties: virtio::BLK_PROPERTIES,
        build: virtio::blk_non_transitional,
    },
    Driver {
        name: "virtio-blk-pci-transitional",
        alias: None,
        bus: "PCI",
        description: "virtio block device with both interfaces",
        properties: virtio::BLK_PROPERTIES,
        build: virtio::blk_transitional,
    },
];

/// The properties of all ports, and those of one.
macro_rules! port_properties {
    ($($property:expr),* $(,)?) => {
        &[
            ("addr", "slot and function, as 06.0 or 06 (default: the first free slot)"),
            ("bus", "the root bus pcie.0"),
            ("chassis", "chassis number (default 0)"),
            ("hotplug", "on/off: devices may come and leave while the machine runs (default on)"),
            ("multifunction", "on/off: there are others in the slot (default off)"),
            ("port", "port number (default 0)"),
            ("slot", "slot number (default 0)"),
            $($property),*
        ]
    };
}

const ROOT_PORT_PROPERTIES: &[(&str, &str)] = port_properties![];
const GENERIC_PORT_PROPERTIES: &[(&str, &str)] = port_properties![
    ("disable-acs", "on/off: there is no access control (default off)"),
    ("x-speed", "2_5/5/8/16: GT/s of the link at most (default 16)"),
    ("x-width", "1/2/4/8/12/16/32: lanes of the link at most (default 32)"),
];

/// The link of the generic port.
fn port_link(values: &mut Values<'_>) -> Result<PortLink, CliError> {
    const SPEEDS: [(&str, u8); 4] = [("2_5", 1), ("5", 2), ("8", 3), ("16", 4)];
    const WIDTHS: [(&str, u8); 7] = [("1", 1), ("2", 2), ("4", 4), ("8", 8), ("12", 12), ("16", 16), ("32", 32)];
    let mut one_of = |key: &str, choices: &[(&str, u8)], default| {
        let Some(text) = values.text(key)? else { return Ok(default) };
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| values.error(format!("Parameter '{key}' does not accept value '{text}'")))
    };
    let default = PortLink::default();
    let (speed, lanes) = (one_of("x-speed", &SPEEDS, default.speed)?, one_of("x-width", &WIDTHS, default.lanes)?);
    Ok(PortLink { speed, lanes })
}

/// COM1 to COM4: port and interrupt.
const SERIAL_PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// LPT1 to LPT3: port, and the interrupt of all of them.
const PARALLEL_PORTS: [u16; 3] = [0x378, 0x278, 0x3bc];
const PARALLEL_IRQ: u8 = 7;

/// Finds a driver.
pub fn driver(name: &str) -> Option<&'static Driver> {
    drivers().find(|driver| driver.name == name || driver.alias == Some(name))
}

/// Reads the options.
pub fn settings(arguments: &[Argument<'_>], character: &Character) -> Result<Vec<DeviceConfig>, CliError> {
    let globals = globals(arguments)?;
    let mut devices: Vec<DeviceConfig> = Vec::new();
    let mut add = |option, driver, text: String| {
        let device = of_option(&globals, &Argument::not_given(option, "")?, (driver, &text), &devices)?;
        devices.push(device);
        Ok::<_, CliError>(())
    };
    // A board without such ports leaves the character devices alone.
    let board = chipset(arguments);
    let serials = character.serials.iter().filter(|_| board != ChipsetKind::Empty);
    let parallels = character.parallels.iter().filter(|_| !matches!(board, ChipsetKind::Empty | ChipsetKind::Microvm));
    for (index, chardev) in serials.enumerate() {
        let Some(chardev) = chardev.clone() else { continue };
        if index >= SERIAL_PORTS.len() {
            return Err(CliError::plain("max 4 ISA serial ports are supported"));
        }
        add("serial", "isa-serial", format!("index={index},chardev={}", escaped(&chardev)))?;
    }
    for (index, chardev) in parallels.enumerate() {
        let Some(chardev) = chardev.clone() else { continue };
        if index >= PARALLEL_PORTS.len() {
            return Err(CliError::plain("max 3 ISA parallel ports are supported"));
        }
        add("parallel", "isa-parallel", format!("index={index},chardev={}", escaped(&chardev)))?;
    }
    if let Some(chardev) = character.debug_console.clone() {
        add("debugcon", "isa-debugcon", format!("chardev={}", escaped(&chardev)))?;
    }
    for argument in all(arguments, "usbdevice") {
        add("usbdevice", usb::legacy_driver(argument)?, String::new())?;
    }
    for argument in all(arguments, "device") {
        let values = Values::parse(*argument, Some("driver"))?;
        let (driver, device) = device(argument, values, &globals, &devices)?;
        check_chardev(argument, driver, &device.kind, character)?;
        devices.push(device);
    }
    Ok(devices)
}

/// A device of its properties, among those that there are.
fn device(
    argument: &Argument<'_>,
    mut values: Values<'_>,
    globals: &[Global],
    devices: &[DeviceConfig],
) -> Result<(&'static Driver, DeviceConfig), CliError> {
    let name = values.required("driver")?;
    let driver = match driver(&name) {
        Some(driver) => driver,
        None if is_cpu_type(&name) => &CPU,
        None => return Err(argument.error(format!("'{name}' is not a valid device model name"))),
    };
    let id = values.text("id")?;
    if let Some(id) = &id {
        check_id(argument, id, devices)?;
    }
    let mut device = make(driver, values, globals, devices)?;
    if let DeviceKind::Cpu(cpu) = &mut device.kind {
        cpu.type_name = name;
    }
    Ok((driver, DeviceConfig { id, source: format!("-device {}", argument.value), ..device }))
}

/// A device of a driver, without a name.
fn make(
    driver: &Driver,
    mut values: Values<'_>,
    globals: &[Global],
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    globals::apply(globals, driver, &mut values)?;
    let mut values = values.of_class(driver.name);
    let rom = if has_rom(driver) { rom(&mut values)? } else { None };
    let kind = (driver.build)(&mut values, devices)?;
    values.finish()?;
    Ok(DeviceConfig { id: None, source: String::new(), kind, rom })
}

/// The properties of PCI functions that say what their expansion ROM is.
pub const ROM_PROPERTIES: &[(&str, &str)] = &[
    ("rombar", "0: firmware gets the ROM as a file (default 1)"),
    ("romfile", "the expansion ROM's file; empty for none (default: the device's own)"),
    ("romsize", "the ROM's bytes, a power of two (default: what the file needs)"),
];

/// Whether a driver is a function with an expansion ROM: all but bridges.
pub fn has_rom(driver: &Driver) -> bool {
    driver.bus == "PCI" && !driver.name.ends_with("bridge") && !matches!(driver.name, "pcie-root-port" | "ioh3420")
}

fn rom(values: &mut Values<'_>) -> Result<Option<RomConfig>, CliError> {
    let file = values.text("romfile")?;
    let bar = values.number("rombar", u64::from(u32::MAX))?;
    let size = values.number("romsize", u64::from(u32::MAX))?.map(|size| size as u32);
    if (&file, bar, size) == (&None, None, None) {
        return Ok(None);
    }
    let size = size.filter(|size| *size != u32::MAX);
    if let Some(size) = size.filter(|size| !size.is_power_of_two()) {
        return Err(values.error(format!("ROM size {size} is not a power of two")));
    }
    let file = match file.as_deref() {
        None => RomFile::Default,
        Some("") => RomFile::None,
        Some(name) => {
            const MAX: usize = 2 << 30;
            let missing = || values.error(format!("failed to find romfile \"{name}\""));
            let path = super::firmware::find_file(name).ok_or_else(missing)?;
            let bytes = std::fs::read(&path).map_err(|_| missing())?;
            if bytes.is_empty() {
                return Err(values.error(format!("romfile \"{name}\" is empty")));
            }
            if bytes.len() > MAX {
                return Err(values.error(format!("romfile \"{name}\" too large (size cannot exceed 2 GiB)")));
            }
            RomFile::File(name.to_owned(), bytes.into())
        }
    };
    Ok(Some(RomConfig { file, bar: bar != Some(0), size }))
}

/// The type of a CPU model.
pub fn is_cpu_type(name: &str) -> bool {
    let model = name.strip_suffix("-x86_64-cpu");
    model.is_some_and(|model| CpuModel::list(NEWEST).iter().any(|known| known.name == model))
}

/// Processors, whose types are those of the CPU models.
const CPU: Driver = Driver {
    name: "x86_64-cpu",
    alias: None,
    bus: "none",
    description: "a processor of the machine's type",
    properties: &[],
    build: cpu,
};

fn cpu(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let mut number = |key: &str| Ok::<_, CliError>(values.number(key, u64::from(u32::MAX))?.map(|value| value as u32));
    Ok(DeviceKind::Cpu(CpuDeviceConfig {
        type_name: String::new(),
        apic_id: number("apic-id")?,
        socket: number("socket-id")?,
        die: number("die-id")?,
        core: number("core-id")?,
        thread: number("thread-id")?,
        node: number("node-id")?,
    }))
}

/// Reads the properties of devices that come while the machine runs, by the same rules.
pub fn parser(arguments: &[Argument<'_>]) -> Result<DeviceParser, CliError> {
    let globals = globals(arguments)?;
    let argument = Argument::not_given("device", "")?;
    Ok(DeviceParser(Arc::new(move |properties: &Map, machine: &MachineConfig| {
        let values = Values::of_map(argument, properties.clone());
        let made = device(&argument, values, &globals, &machine.devices);
        made.map(|(_, device)| device).map_err(|error| match error {
            CliError::Option { message, .. } => message,
            other => other.to_string(),
        })
    })))
}

/// The device that `-drive if=virtio` stands for.
pub fn virtio_disk(
    arguments: &[Argument<'_>],
    source: &Argument<'_>,
    drive: &str,
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    of_drive(arguments, source, "virtio-blk-pci", &format!("drive={}", escaped(drive)), devices)
}

/// The device that `-drive if=ide` stands for.
pub fn ide_drive(
    arguments: &[Argument<'_>],
    source: &Argument<'_>,
    (drive, media): (&str, Media),
    (bus, unit): (u8, u8),
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    let name = if media == Media::Cdrom { "ide-cd" } else { "ide-hd" };
    let text = format!("drive={},bus=ide.{bus},unit={unit}", escaped(drive));
    let mut device = of_drive(arguments, source, name, &text, devices)?;
    if let DeviceKind::IdeDrive(config) = &mut device.kind {
        config.is_boards = true;
    }
    Ok(device)
}

/// The device that `-drive if=floppy` stands for.
pub fn floppy_drive(
    arguments: &[Argument<'_>],
    source: &Argument<'_>,
    drive: &str,
    unit: u8,
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    let mut text = format!("drive={},unit={unit}", escaped(drive));
    let property = ["fdtypeA", "fdtypeB"].get(usize::from(unit)).copied().unwrap_or_default();
    let globals = globals(arguments)?;
    let of_controller = globals.iter().rfind(|global| global.driver == "isa-fdc" && global.property == property);
    if let Some(global) = of_controller {
        text.push_str(&format!(",drive-type={}", escaped(&global.value)));
    }
    let mut device = of_option(&globals, source, ("floppy", &text), devices)?;
    if let DeviceKind::Floppy(config) = &mut device.kind {
        config.is_boards = true;
    }
    Ok(device)
}

fn escaped(name: &str) -> String {
    name.replace(',', ",,")
}

/// A device that the board makes for a drive: defaults of `-global` count for it.
fn of_drive(
    arguments: &[Argument<'_>],
    source: &Argument<'_>,
    name: &'static str,
    text: &str,
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    of_option(&globals(arguments)?, source, (name, text), devices)
}

/// The device that another option stands for: name of the driver and properties.
pub fn of_option(
    globals: &[Global],
    option: &Argument<'_>,
    (name, text): (&str, &str),
    devices: &[DeviceConfig],
) -> Result<DeviceConfig, CliError> {
    let driver = driver(name).ok_or_else(|| option.error(format!("'{name}' is not a valid device model name")))?;
    let values = Values::parse(Argument { option: option.option, value: text }, None)?;
    let device = make(driver, values, globals, devices)?;
    Ok(DeviceConfig { source: format!("-{} {}", option.option.name, option.value).trim_end().to_owned(), ..device })
}

fn check_id(argument: &Argument<'_>, id: &str, devices: &[DeviceConfig]) -> Result<(), CliError> {
    if !qapi::keyval::is_identifier(id) {
        return Err(argument.error("Parameter 'id' expects an identifier"));
    }
    if devices.iter().any(|device| device.id.as_deref() == Some(id)) {
        return Err(argument.error(format!("Duplicate device ID '{id}'")));
    }
    Ok(())
}

fn check_chardev(
    argument: &Argument<'_>,
    driver: &Driver,
    kind: &DeviceKind,
    character: &Character,
) -> Result<(), CliError> {
    match kind {
        DeviceKind::IsaSerial { chardev, .. }
        | DeviceKind::IsaParallel { chardev, .. }
        | DeviceKind::IsaDebugcon { chardev, .. }
        | DeviceKind::SerialPort(SerialPortConfig { chardev: Some(chardev), .. }) => {
            if character.has(chardev) {
                return Ok(());
            }
            Err(argument.error(format!("Property '{}.chardev' can't find value '{chardev}'", driver.name)))
        }
        _ => Ok(()),
    }
}

fn root_port(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    any_root_port(values, devices, ("pcie-root-port", PortKind::Generic))
}

fn ioh3420(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    any_root_port(values, devices, ("ioh3420", PortKind::Ioh3420))
}

fn any_root_port(
    values: &mut Values<'_>,
    devices: &[DeviceConfig],
    (type_name, kind): (&'static str, PortKind),
) -> Result<DeviceKind, CliError> {
    if let Some(bus) = values.text("bus")?.filter(|bus| bus != "pcie.0") {
        return Err(values.error(format!("Bus '{bus}' not found")));
    }
    let address = virtio::address(values, type_name)?;
    let chassis = values.number("chassis", 0xff)?.unwrap_or(0) as u8;
    let slot = values.number("slot", 0x1fff)?.unwrap_or(0) as u16;
    // A chassis and a slot together name a port.
    let is_taken = devices.iter().any(|device| {
        matches!(&device.kind, DeviceKind::RootPort(other) if (other.chassis, other.options.slot) == (chassis, slot))
    });
    if is_taken {
        return Err(values.error("Can't add chassis slot, error -16"));
    }
    let mut options = PortOptions {
        port: values.number("port", 0xff)?.unwrap_or(0) as u8,
        slot,
        is_multifunction: values.flag("multifunction")?.unwrap_or(false),
        hotplug: values.flag("hotplug")?.unwrap_or(true),
        ..PortOptions::new(kind)
    };
    if kind == PortKind::Generic {
        options.link = port_link(values)?;
        options.access_control = !values.flag("disable-acs")?.unwrap_or(false);
    }
    Ok(DeviceKind::RootPort(RootPortConfig { type_name, address, chassis, options }))
}

fn port(values: &mut Values<'_>, key: &str, default: u16) -> Result<u16, CliError> {
    Ok(values.number(key, 0xffff)?.map_or(default, |port| port as u16))
}

fn isa_serial(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let taken = |index: u8| {
        devices
            .iter()
            .any(|device| matches!(&device.kind, DeviceKind::IsaSerial { index: other, .. } if *other == index))
    };
    let index = match values.number("index", 3)? {
        Some(index) => index as u8,
        None => (0..4)
            .find(|index| !taken(*index))
            .ok_or_else(|| values.error("Max. supported number of ISA serial ports is 4."))?,
    };
    let (default_port, default_irq) = SERIAL_PORTS[usize::from(index)];
    let iobase = port(values, "iobase", default_port)?;
    let irq = values.number("irq", 15)?.map_or(default_irq, |irq| irq as u8);
    let chardev =
        values.text("chardev")?.ok_or_else(|| values.error("Can't create serial device, empty char device"))?;
    Ok(DeviceKind::IsaSerial { index, iobase, irq, chardev })
}

fn isa_parallel(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let taken = |index: u8| {
        let is_it = |device: &DeviceConfig| matches!(&device.kind, DeviceKind::IsaParallel { index: other, .. } if *other == index);
        devices.iter().any(is_it)
    };
    let index = match values.number("index", 2)? {
        Some(index) => index as u8,
        None => (0..3)
            .find(|index| !taken(*index))
            .ok_or_else(|| values.error("Max. supported number of parallel ports is 3."))?,
    };
    let iobase = port(values, "iobase", PARALLEL_PORTS[usize::from(index)])?;
    let irq = values.number("irq", 15)?.map_or(PARALLEL_IRQ, |irq| irq as u8);
    let chardev =
        values.text("chardev")?.ok_or_else(|| values.error("Can't create parallel device, empty char device"))?;
    Ok(DeviceKind::IsaParallel { index, iobase, irq, chardev })
}

fn isa_debugcon(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let iobase = port(values, "iobase", 0xe9)?;
    let readback = values.number("readback", 0xff)?.map_or(0xe9, |value| value as u8);
    let chardev =
        values.text("chardev")?.ok_or_else(|| values.error("Can't create debugcon device, empty char device"))?;
    Ok(DeviceKind::IsaDebugcon { iobase, readback, chardev })
}

fn isa_debug_exit(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let iobase = port(values, "iobase", 0x501)?;
    let iosize = port(values, "iosize", 2)?;
    if iosize == 0 {
        return Err(values.error("Parameter 'iosize' expects a number from 1 to 65535"));
    }
    Ok(DeviceKind::IsaDebugExit { iobase, iosize })
}

fn pvpanic(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    if devices.iter().any(|device| matches!(device.kind, DeviceKind::Pvpanic { .. })) {
        return Err(values.error("there is a pvpanic device already"));
    }
    let ioport = port(values, "ioport", 0x505)?;
    let events = values.number("events", 3)?.map_or(3, |events| events as u8);
    Ok(DeviceKind::Pvpanic { ioport, events })
}
