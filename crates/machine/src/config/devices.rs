//! The devices that a machine may have beside the board's own, with their properties checked.

use std::sync::Arc;

pub use devices_display::CardOptions;
pub use devices_display::edid::EdidOptions;
pub use devices_display::gpu::GpuOptions;
pub use devices_ide::drive::{DriveKind, DriveOptions, Geometry as DriveGeometry};
pub use devices_ide::fdc::geometry::DriveType as FloppyType;
pub use devices_pci::Address;
pub use devices_pci::bridge::BridgeKind;
pub use devices_pci::root_port::{PortKind, PortLink, PortOptions};
pub use devices_scsi::{Geometry as UnitGeometry, UnitKind, UnitOptions};
pub use devices_usb::device::Labels as UsbLabels;
pub use devices_usb::ehci::{EhciModel, MODELS as EHCI_MODELS};
pub use devices_usb::hid::HidKind;
pub use devices_usb::uhci::{MODELS as UHCI_MODELS, UhciModel, UhciOptions};
pub use devices_usb::xhci::{XhciModel, XhciOptions};
pub use devices_virtio::blk::{BlkOptions, Geometry};
pub use devices_virtio::features as virtio_features;
pub use devices_virtio::input::{InputKind, InputOptions};
pub use devices_virtio::pci::{ExpressOptions, PciOptions};
pub use devices_virtio::rng::RngOptions;
pub use devices_virtio::scsi::ScsiOptions;
pub use devices_virtio::serial::SerialOptions;
pub use display::input::Seat;

/// What an `isa-…` or other device of the command line is, with its properties checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A processor.
    Cpu(CpuDeviceConfig),
    /// A 16550 serial port.
    IsaSerial {
        /// COM number minus one.
        index: u8,
        /// First I/O port.
        iobase: u16,
        /// ISA interrupt.
        irq: u8,
        /// The character device behind it.
        chardev: String,
    },
    /// A parallel port.
    IsaParallel {
        /// LPT number minus one.
        index: u8,
        /// First I/O port.
        iobase: u16,
        /// ISA interrupt.
        irq: u8,
        /// The character device behind it.
        chardev: String,
    },
    /// Bochs' debug console.
    IsaDebugcon {
        /// The I/O port.
        iobase: u16,
        /// What a read returns.
        readback: u8,
        /// The character device behind it.
        chardev: String,
    },
    /// A port that ends the emulator.
    IsaDebugExit {
        /// First I/O port.
        iobase: u16,
        /// How many ports.
        iosize: u16,
    },
    /// The guest's way to report a crash.
    Pvpanic {
        /// The I/O port.
        ioport: u16,
        /// Which events the guest is told to exist: bit 0 panicked, bit 1 crash kernel loaded.
        events: u8,
    },
    /// The guest's way to report a crash, on the PCI bus.
    PvpanicPci {
        /// Where.
        place: PciPlace,
        /// As of [`DeviceKind::Pvpanic`].
        events: u8,
    },
    /// The generation of the machine.
    Vmgenid {
        /// As text has it: big-endian.
        guid: [u8; 16],
    },
    /// Takes the guest's note about its crash dumps.
    Vmcoreinfo,
    /// An iBASE 700 watchdog.
    Ib700,
    /// An Intel 6300ESB watchdog on the PCI bus.
    I6300Esb {
        /// Where.
        place: PciPlace,
    },
    /// The test device.
    PcTestdev,
    /// A virtio block device on the PCI bus.
    VirtioBlkPci(Box<VirtioBlkConfig>),
    /// Another virtio device on the PCI bus.
    Virtio(Box<VirtioConfig>),
    /// A port of a virtio console.
    SerialPort(SerialPortConfig),
    /// A disk or CD drive on a SCSI bus.
    ScsiDrive(Box<ScsiDriveConfig>),
    /// A graphics card on the PCI bus.
    Display(DisplayConfig),
    /// A drive on an IDE bus.
    IdeDrive(Box<IdeDriveConfig>),
    /// A PCI bridge.
    Bridge {
        /// Which.
        kind: BridgeKind,
        /// Where.
        place: PciPlace,
        /// `chassis_nr=`
        chassis: u8,
    },
    /// A PCI Express root port.
    RootPort(RootPortConfig),
    /// A floppy drive.
    Floppy(Box<FloppyConfig>),
    /// A USB host controller on the PCI bus.
    UsbController(Box<UsbControllerConfig>),
    /// A USB device.
    UsbDevice(Box<UsbDeviceConfig>),
    /// An AHCI controller on the PCI bus.
    Ahci {
        /// Its place on the bus; the first free slot when not given.
        address: Option<Address>,
    },
}

/// Where a PCI device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciPlace {
    /// The bus; the root bus when not given.
    pub bus: Option<String>,
    /// Its place on the bus; the first free slot when not given.
    pub address: Option<Address>,
}

/// A USB host controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbControllerConfig {
    /// Where.
    pub place: PciPlace,
    /// There are others in its slot.
    pub is_multifunction: bool,
    /// Which it is.
    pub kind: UsbControllerKind,
}

/// The kinds of USB host controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsbControllerKind {
    /// USB 1.1.
    Uhci {
        /// The model.
        model: UhciModel,
        /// What the user can set.
        options: UhciOptions,
        /// `masterbus=` and `firstport=`: the ports are shared with an EHCI controller.
        companion: Option<(String, usize)>,
    },
    /// USB 2.0.
    Ehci {
        /// The model.
        model: EhciModel,
        /// `maxframes=`
        max_frames: u32,
    },
    /// USB 3.
    Xhci(XhciOptions),
}

impl UsbControllerKind {
    /// Whether it can leave a running machine: those of chipsets can't.
    pub fn can_leave(&self) -> bool {
        !self.type_name().starts_with("ich9-")
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Uhci { model, .. } => model.type_name,
            Self::Ehci { model, .. } => model.type_name,
            Self::Xhci(options) => options.model.type_name(),
        }
    }
}

/// A USB device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbDeviceConfig {
    /// The bus; the newest one when not given.
    pub bus: Option<String>,
    /// The port as numbers with points between; the first that is free when not given.
    pub port: Option<String>,
    /// What it says of itself; the serial number is made of the place when not given.
    pub labels: UsbLabels,
    /// What it is.
    pub kind: UsbDeviceKind,
}

/// The kinds of USB devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsbDeviceKind {
    /// A keyboard or pointer.
    Hid {
        /// Which.
        kind: HidKind,
        /// `usb_version=`
        usb_version: u32,
        /// The screen that it belongs to.
        seat: Option<Seat>,
    },
    /// A hub.
    Hub {
        /// How many ports.
        ports: usize,
        /// They can be switched off.
        switches_power: bool,
    },
    /// A disk or CD drive.
    Storage {
        /// The disk.
        disk: Box<DiskUse>,
        /// What the user chooses of the SCSI unit.
        unit: Box<UnitOptions>,
    },
    /// A SCSI host adapter (USB Attached SCSI).
    Uas,
}

impl UsbDeviceKind {
    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Hid { kind: HidKind::Keyboard, .. } => "usb-kbd",
            Self::Hid { kind: HidKind::Mouse, .. } => "usb-mouse",
            Self::Hid { kind: HidKind::Tablet, .. } => "usb-tablet",
            Self::Hub { .. } => "usb-hub",
            Self::Storage { .. } => "usb-storage",
            Self::Uas => "usb-uas",
        }
    }

    /// What it is called in messages.
    pub fn product(&self) -> &'static str {
        match self {
            Self::Hid { kind: HidKind::Keyboard, .. } => "QEMU USB Keyboard",
            Self::Hid { kind: HidKind::Mouse, .. } => "QEMU USB Mouse",
            Self::Hid { kind: HidKind::Tablet, .. } => "QEMU USB Tablet",
            Self::Hub { .. } => "QEMU USB Hub",
            Self::Storage { .. } => "QEMU USB MSD",
            Self::Uas => devices_usb::uas::PRODUCT,
        }
    }
}

/// The kinds of graphics cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardModel {
    /// `VGA`: with the legacy ports.
    Vga,
    /// `secondary-vga`: a VGA without them.
    SecondaryVga,
    /// `bochs-display`.
    Bochs,
    /// `isa-vga`: with the legacy ports, on the ISA bus.
    IsaVga,
}

/// A graphics card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayConfig {
    /// Which kind.
    pub model: CardModel,
    /// Its place on the bus; the first free slot when not given.
    pub address: Option<Address>,
    /// What the user chooses.
    pub options: CardOptions,
}

/// A floppy drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloppyConfig {
    /// Drive A is 0; the first that is free when not given.
    pub unit: Option<u32>,
    /// Its type; what fits the medium when not given.
    pub drive_type: Option<FloppyType>,
    /// The disk.
    pub disk: DiskUse,
    /// The board has made it for a `-drive`.
    pub is_boards: bool,
}

/// How firmware translates a disk's geometry; the numbers are those of CMOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Not at all.
    None = 0,
    /// From block numbers.
    Lba = 1,
    /// By shifting.
    Large = 2,
    /// By shifting, with 15 heads.
    Rechs = 3,
}

/// A disk or CD drive on an IDE bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdeDriveConfig {
    /// The type's name: `ide-hd` or `ide-cd`.
    pub type_name: &'static str,
    /// The bus; the newest one when not given.
    pub bus: Option<String>,
    /// The place on the bus; the first, or else the second when not given.
    pub unit: Option<u32>,
    /// The disk.
    pub disk: DiskUse,
    /// The drive.
    pub drive: DriveOptions,
    /// How firmware translates the geometry; what fits it when not given.
    pub translation: Option<Translation>,
    /// The board has made it for a `-drive`.
    pub is_boards: bool,
}

/// A PCI Express root port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPortConfig {
    /// The type's name.
    pub type_name: &'static str,
    /// Its place on the root bus; the first free slot when not given.
    pub address: Option<Address>,
    /// `chassis=`: with the slot, the name of the port.
    pub chassis: u8,
    /// What it says of itself.
    pub options: PortOptions,
}

/// A processor that comes beside those of `-smp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuDeviceConfig {
    /// Its type.
    pub type_name: String,
    /// The local APIC id, which stands for all of the place.
    pub apic_id: Option<u32>,
    /// The socket.
    pub socket: Option<u32>,
    /// The die in its socket.
    pub die: Option<u32>,
    /// The core in its die.
    pub core: Option<u32>,
    /// The thread in its core.
    pub thread: Option<u32>,
    /// The NUMA node.
    pub node: Option<u32>,
}

impl DeviceKind {
    /// The order among devices to boot from, if it is one.
    pub fn boot_index(&self) -> Option<i32> {
        match self {
            Self::VirtioBlkPci(config) => config.disk.boot_index,
            Self::IdeDrive(config) => config.disk.boot_index,
            Self::ScsiDrive(config) => config.disk.boot_index,
            Self::Floppy(config) => config.disk.boot_index,
            Self::UsbDevice(config) => match &config.kind {
                UsbDeviceKind::Storage { disk, .. } => disk.boot_index,
                UsbDeviceKind::Hid { .. } | UsbDeviceKind::Hub { .. } | UsbDeviceKind::Uas => None,
            },
            _ => None,
        }
    }

    /// Whether the board has made it of an option for a disk.
    pub fn is_of_board(&self) -> bool {
        match self {
            Self::IdeDrive(config) => config.is_boards,
            Self::Floppy(config) => config.is_boards,
            _ => false,
        }
    }

    /// Whether it has the legacy ports of a VGA, which only one device can have.
    pub fn is_vga(&self) -> bool {
        match self {
            Self::Display(config) => matches!(config.model, CardModel::Vga | CardModel::IsaVga),
            Self::Virtio(config) => matches!(&config.model, VirtioModel::Gpu { vga: Some(_), .. }),
            _ => false,
        }
    }

    /// What a PCI function is called in messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::VirtioBlkPci(config) => config.type_name,
            Self::Virtio(config) => config.type_name,
            Self::UsbController(config) => config.kind.type_name(),
            Self::Bridge { kind, .. } => kind.type_name(),
            Self::PvpanicPci { .. } => "pvpanic-pci",
            Self::I6300Esb { .. } => "i6300esb",
            Self::RootPort(config) => config.type_name,
            Self::Ahci { .. } => "ich9-ahci",
            Self::Display(config) => match config.model {
                CardModel::Vga => "VGA",
                CardModel::SecondaryVga => "secondary-vga",
                CardModel::Bochs => "bochs-display",
                CardModel::IsaVga => "isa-vga",
            },
            _ => "device",
        }
    }

    /// Whether it is a PCI function.
    pub fn needs_pci(&self) -> bool {
        match self {
            Self::VirtioBlkPci(_) | Self::Virtio(_) => self.mmio().is_none(),
            Self::Display(config) => config.model != CardModel::IsaVga,
            Self::I6300Esb { .. }
            | Self::PvpanicPci { .. }
            | Self::Bridge { .. }
            | Self::RootPort(_)
            | Self::UsbController(_)
            | Self::Ahci { .. } => true,
            _ => false,
        }
    }

    /// The transport that it wants, if it has no PCI function.
    pub fn mmio(&self) -> Option<&MmioPlace> {
        match self {
            Self::VirtioBlkPci(config) => config.mmio.as_ref(),
            Self::Virtio(config) => config.mmio.as_ref(),
            _ => None,
        }
    }

    /// The PCI bus that it names.
    pub fn bus(&self) -> Option<&str> {
        self.place().0
    }

    /// The PCI bus that it names, and its address there.
    pub fn place(&self) -> (Option<&str>, Option<Address>) {
        let place = match self {
            Self::VirtioBlkPci(config) => return (config.bus.as_deref(), config.address),
            Self::Virtio(config) => &config.place,
            Self::UsbController(config) => &config.place,
            Self::PvpanicPci { place, .. } | Self::I6300Esb { place } | Self::Bridge { place, .. } => place,
            _ => return (None, None),
        };
        (place.bus.as_deref(), place.address)
    }
}

/// Why a virtio function has no interface at all.
pub const NEITHER_MODERN_NOR_LEGACY: &str = "device cannot work as neither modern nor legacy mode is enabled\nSet either \
                                             disable-modern or disable-legacy to off";

/// A virtio device without a PCI function: what its transport is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MmioPlace {
    /// The transport's bus; the last that is free when not given.
    pub bus: Option<String>,
}

/// A virtio block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioBlkConfig {
    /// The type's name: `virtio-blk-pci`, or a variant of it.
    pub type_name: &'static str,
    /// It has a transport of the board in place of a PCI function. Of [`VirtioBlkConfig::pci`] only the features count.
    pub mmio: Option<MmioPlace>,
    /// The bus; the root bus when not given.
    pub bus: Option<String>,
    /// Its place on the bus; the first free slot when not given.
    pub address: Option<Address>,
    /// The disk.
    pub disk: DiskUse,
    /// The transport. `vectors` counts only if [`VirtioBlkConfig::vectors`] says so.
    pub pci: PciOptions,
    /// The device. `num_queues` counts only if [`VirtioBlkConfig::num_queues`] says so.
    pub blk: BlkOptions,
    /// Queues; one for each vCPU when not given.
    pub num_queues: Option<u16>,
    /// Interrupt vectors; one for each queue and one more when not given.
    pub vectors: Option<u32>,
}

/// A virtio device on the PCI bus, other than a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioConfig {
    /// The type's name: that of the model, or a variant of it.
    pub type_name: &'static str,
    /// It has a transport of the board in place of a PCI function. Of [`VirtioConfig::pci`] only the features count.
    pub mmio: Option<MmioPlace>,
    /// Where it is.
    pub place: PciPlace,
    /// The transport. `vectors` counts only if [`VirtioConfig::vectors`] says so.
    pub pci: PciOptions,
    /// Interrupt vectors; what the model needs when not given.
    pub vectors: Option<u32>,
    /// What it is.
    pub model: VirtioModel,
}

/// What a virtio device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtioModel {
    /// A SCSI host adapter.
    Scsi {
        /// What the user chooses. `num_queues` counts only if the field of that name is given.
        options: ScsiOptions,
        /// Command queues; one for each vCPU when not given.
        num_queues: Option<u32>,
        /// The I/O thread that runs the requests of its units.
        iothread: Option<String>,
    },
    /// A generator of random numbers.
    Rng {
        /// What the user chooses.
        options: RngOptions,
        /// The source; the host's own generator when not given.
        source: Option<String>,
    },
    /// A console with ports.
    Serial(SerialOptions),
    /// A keyboard or pointer.
    Input(InputOptions),
    /// A graphics card.
    Gpu {
        /// What the user chooses.
        options: GpuOptions,
        /// The function has a VGA, too.
        vga: Option<CardOptions>,
    },
}

/// A port of a virtio console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPortConfig {
    /// The type's name: `virtserialport` or `virtconsole`.
    pub type_name: &'static str,
    /// The bus; the newest when not given.
    pub bus: Option<String>,
    /// `nr`; the first that is free when not given.
    pub number: Option<u32>,
    /// `name`.
    pub name: Option<String>,
    /// It is a console.
    pub is_console: bool,
    /// The character device behind it.
    pub chardev: Option<String>,
}

/// A disk or CD drive on a SCSI bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiDriveConfig {
    /// The type's name: `scsi-hd` or `scsi-cd`.
    pub type_name: &'static str,
    /// The bus; the newest when not given.
    pub bus: Option<String>,
    /// `channel=`.
    pub channel: u32,
    /// `scsi-id=`; the first that is free when not given.
    pub target: Option<u32>,
    /// `lun=`; the first that is free when not given.
    pub lun: Option<u32>,
    /// The disk.
    pub disk: DiskUse,
    /// What the user chooses of the unit.
    pub unit: UnitOptions,
}

/// What a failed request of a disk leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// What the drive says.
    #[default]
    Auto,
    /// The guest sees success.
    Ignore,
    /// The guest sees the error.
    Report,
    /// The machine stops.
    Stop,
    /// The machine stops if there is no space left, else the guest sees the error.
    Enospc,
}

/// How a device uses a disk: what the block layer has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// `drive=`: the id of a drive or the name of a node.
    pub drive: String,
    /// Others may write, too.
    pub share_rw: bool,
    /// Failed reads.
    pub rerror: ErrorPolicy,
    /// Failed writes.
    pub werror: ErrorPolicy,
    /// The I/O thread that runs the requests.
    pub iothread: Option<String>,
    /// Failed requests count as accesses, unless the drive decides.
    pub account_failed: Option<bool>,
    /// Invalid requests count as accesses, unless the drive decides.
    pub account_invalid: Option<bool>,
    /// The order among devices to boot from.
    pub boot_index: Option<i32>,
    /// Cylinders, heads and sectors as firmware shall show them.
    pub firmware_geometry: Option<(u32, u32, u32)>,
    /// Media can be exchanged: `drive` may be empty, and so may what it names.
    pub removable: bool,
    /// Whether the device writes.
    pub access: DiskAccess,
}

/// What a device does with its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskAccess {
    /// Reads, and writes unless the disk is read-only: the guest is told.
    #[default]
    Any,
    /// Reads and writes: the guest can't be told of a read-only disk.
    Write,
    /// Reads only.
    Read,
}

/// A device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// `id=`.
    pub id: Option<String>,
    /// The option that it comes from, for errors.
    pub source: String,
    /// What it is.
    pub kind: DeviceKind,
    /// What the user wants of a function's expansion ROM.
    pub rom: Option<RomConfig>,
}

/// An expansion ROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RomConfig {
    /// `romfile=`
    pub file: RomFile,
    /// `rombar=`: it is behind a register of the function, and no file of the firmware's.
    pub bar: bool,
    /// `romsize=`: bytes, a power of two.
    pub size: Option<u32>,
}

/// Where the contents of an expansion ROM come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RomFile {
    /// What the device has by itself.
    Default,
    /// There is no ROM.
    None,
    /// A file: its name, and its contents.
    File(String, Arc<[u8]>),
}
