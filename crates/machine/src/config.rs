//! What a machine is made of, as the command line says it. Values: nothing here has been built yet.

mod devices;

use clock::RtcBase;
pub use devices::*;
pub use object::{PropertyInfo, PropertyValue, TypeInfo};
pub use x86::model::Topology;
use x86::model::{CpuModel, MachineVersion, NEWEST};

use crate::accelerator::AcceleratorConfig;
use crate::boot::BootSource;
use crate::firmware::FirmwareConfig;
use crate::icount::IcountConfig;
use crate::numa::Numa;
use crate::vcpu::Threads;

/// The highest number of vCPUs.
pub const MAX_VCPUS: u32 = 8;
/// The least RAM: what the firmware tables and the boot structures need.
pub const RAM_MIN: u64 = 1 << 20;

/// Which chipset a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChipsetKind {
    /// 440FX with PIIX3 and PIIX4 power management.
    I440fx,
    /// Q35 with ICH9.
    Q35,
    /// None: the devices of a PC on the ISA bus.
    Isa,
    /// None: a few devices, and virtio over MMIO.
    Microvm,
    /// None: a machine without devices.
    Empty,
}

impl ChipsetKind {
    /// Bytes of RAM that all fit below 4 GiB, and what stays there when RAM has that many or more.
    fn low_ram(self) -> (u64, u64) {
        match self {
            Self::I440fx => (0xe000_0000, 0xc000_0000),
            Self::Isa => (0xe000_0000, 0xe000_0000),
            Self::Microvm => (0xc000_0001, 0xc000_0000),
            Self::Q35 => (0xb000_0000, 0x8000_0000),
            Self::Empty => (u64::MAX, u64::MAX),
        }
    }

    /// Whether it has PCI functions that are a PC's chipset.
    pub fn has_pci(self) -> bool {
        matches!(self, Self::I440fx | Self::Q35)
    }
}

/// A machine type of `-machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineType {
    /// Its versioned name.
    pub name: &'static str,
    /// The name without a version, if this is the current version.
    pub alias: Option<&'static str>,
    /// One line for `-machine help`.
    pub description: &'static str,
    /// Whether it is what runs without `-machine`.
    pub is_default: bool,
    /// Whether it will go.
    pub deprecated: bool,
    /// Its chipset.
    pub chipset: ChipsetKind,
}

const fn i440fx(name: &'static str) -> MachineType {
    MachineType {
        name,
        alias: None,
        description: "Standard PC (i440FX + PIIX, 1996)",
        is_default: false,
        deprecated: false,
        chipset: ChipsetKind::I440fx,
    }
}

const fn q35(name: &'static str) -> MachineType {
    MachineType { description: "Standard PC (Q35 + ICH9, 2009)", chipset: ChipsetKind::Q35, ..i440fx(name) }
}

const fn deprecated(machine: MachineType) -> MachineType {
    MachineType { deprecated: true, ..machine }
}

/// The machine types that exist, newest first. Older versions have what the newest has, but for processors (`x86::model`),
/// properties of devices (the command line's table of them) and what asks for [`MachineType::version`].
pub const MACHINE_TYPES: &[MachineType] = &[
    MachineType { alias: Some("pc"), is_default: true, ..i440fx("pc-i440fx-7.2") },
    i440fx("pc-i440fx-7.1"),
    i440fx("pc-i440fx-7.0"),
    i440fx("pc-i440fx-6.2"),
    i440fx("pc-i440fx-6.1"),
    i440fx("pc-i440fx-6.0"),
    i440fx("pc-i440fx-5.2"),
    i440fx("pc-i440fx-5.1"),
    i440fx("pc-i440fx-5.0"),
    i440fx("pc-i440fx-4.2"),
    i440fx("pc-i440fx-4.1"),
    i440fx("pc-i440fx-4.0"),
    i440fx("pc-i440fx-3.1"),
    i440fx("pc-i440fx-3.0"),
    i440fx("pc-i440fx-2.12"),
    i440fx("pc-i440fx-2.11"),
    i440fx("pc-i440fx-2.10"),
    i440fx("pc-i440fx-2.9"),
    i440fx("pc-i440fx-2.8"),
    i440fx("pc-i440fx-2.7"),
    i440fx("pc-i440fx-2.6"),
    i440fx("pc-i440fx-2.5"),
    i440fx("pc-i440fx-2.4"),
    i440fx("pc-i440fx-2.3"),
    i440fx("pc-i440fx-2.2"),
    i440fx("pc-i440fx-2.1"),
    i440fx("pc-i440fx-2.0"),
    deprecated(i440fx("pc-i440fx-1.7")),
    deprecated(i440fx("pc-i440fx-1.6")),
    deprecated(i440fx("pc-i440fx-1.5")),
    deprecated(i440fx("pc-i440fx-1.4")),
    MachineType { alias: Some("q35"), ..q35("pc-q35-7.2") },
    q35("pc-q35-7.1"),
    q35("pc-q35-7.0"),
    q35("pc-q35-6.2"),
    q35("pc-q35-6.1"),
    q35("pc-q35-6.0"),
    q35("pc-q35-5.2"),
    q35("pc-q35-5.1"),
    q35("pc-q35-5.0"),
    q35("pc-q35-4.2"),
    q35("pc-q35-4.1"),
    q35("pc-q35-4.0.1"),
    q35("pc-q35-4.0"),
    q35("pc-q35-3.1"),
    q35("pc-q35-3.0"),
    q35("pc-q35-2.12"),
    q35("pc-q35-2.11"),
    q35("pc-q35-2.10"),
    q35("pc-q35-2.9"),
    q35("pc-q35-2.8"),
    q35("pc-q35-2.7"),
    q35("pc-q35-2.6"),
    q35("pc-q35-2.5"),
    q35("pc-q35-2.4"),
    MachineType { description: "ISA-only PC", chipset: ChipsetKind::Isa, ..i440fx("isapc") },
    MachineType { description: "microvm (i386)", chipset: ChipsetKind::Microvm, ..i440fx("microvm") },
    MachineType { description: "empty machine", chipset: ChipsetKind::Empty, ..i440fx("none") },
];

impl MachineType {
    /// The name of its RAM.
    pub fn ram_id(&self) -> &'static str {
        match self.chipset {
            ChipsetKind::Empty => "ram",
            ChipsetKind::Microvm => "microvm.ram",
            ChipsetKind::I440fx | ChipsetKind::Q35 | ChipsetKind::Isa => "pc.ram",
        }
    }

    /// The CPU model without `-cpu`.
    pub fn default_cpu(&self) -> &'static str {
        if self.chipset == ChipsetKind::Isa { "486" } else { "qemu64" }
    }

    /// The most vCPUs that it can have.
    pub fn max_cpus(&self) -> u32 {
        match self.chipset {
            ChipsetKind::Isa | ChipsetKind::Empty => 1,
            ChipsetKind::I440fx | ChipsetKind::Q35 | ChipsetKind::Microvm => MAX_VCPUS,
        }
    }

    /// Whether vCPUs are sockets rather than cores where the command line does not say.
    pub fn prefers_sockets(&self) -> bool {
        self.version() <= (6, 1)
    }

    /// The version of its name: (7, 2) for `pc-q35-7.2`. Types without one are of the latest.
    pub fn version(&self) -> MachineVersion {
        let version = self.name.rsplit('-').next().unwrap_or_default();
        let mut numbers = version.split('.').map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => (major, minor),
            _ => NEWEST,
        }
    }

    /// The machine type of that name or alias.
    pub fn by_name(name: &str) -> Option<&'static MachineType> {
        MACHINE_TYPES.iter().find(|machine| machine.name == name || machine.alias == Some(name))
    }
}

/// Properties of the board's own devices, as `-global` sets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardOptions {
    /// `ICH9-LPC.noreboot`: the strap that keeps the TCO watchdog from biting.
    pub no_reboot: bool,
    /// `mch.extended-tseg-mbytes`
    pub extended_tseg_mib: u16,
    /// `mch.smbase-smram`
    pub smbase_smram: bool,
    /// `vmport=`: there is VMware's port with its pointer.
    pub vmport: bool,
    /// `apic-id=` of the processor of an empty machine.
    pub apic_id: Option<u32>,
    /// `PIIX4_PM.acpi-root-pci-hotplug`: functions of the root bus come and leave by ACPI.
    pub acpi_root_hotplug: bool,
    /// `acpi-pci-hotplug-with-bridge-support` of `PIIX4_PM` and `ICH9-LPC`: those behind bridges and root ports do.
    pub acpi_bridge_hotplug: bool,
    /// The properties of the controllers of `usb=on` whose types are here; the others have none.
    pub usb: Vec<UsbControllerConfig>,
    /// `cfi.pflash01.secure`: flash chips take commands from system-management mode only.
    pub secure_flash: bool,
    /// What a `microvm` has.
    pub microvm: MicrovmOptions,
    /// `virtio-mmio.force-legacy`: the transports have the legacy interface.
    pub virtio_mmio_legacy: bool,
}

/// The properties of a `microvm`. What is `None` was left to the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicrovmOptions {
    /// `acpi=`: there are ACPI tables and an event device.
    pub acpi: bool,
    /// `pit=`
    pub pit: bool,
    /// `pic=`
    pub pic: bool,
    /// `rtc=`
    pub rtc: Option<bool>,
    /// `pcie=`: there is a PCI Express bus.
    pub pcie: bool,
    /// `ioapic2=`: there is a second I/O APIC, and 24 transports for virtio devices.
    pub ioapic2: Option<bool>,
    /// `isa-serial=`: there is a serial port.
    pub isa_serial: bool,
    /// `x-option-roms=`
    pub option_roms: bool,
    /// `auto-kernel-cmdline=`: without ACPI the kernel's command line names the virtio devices.
    pub auto_kernel_cmdline: bool,
}

impl Default for MicrovmOptions {
    fn default() -> Self {
        Self {
            acpi: true,
            pit: true,
            pic: true,
            rtc: None,
            pcie: false,
            ioapic2: None,
            isa_serial: true,
            option_roms: true,
            auto_kernel_cmdline: true,
        }
    }
}

impl Default for BoardOptions {
    fn default() -> Self {
        Self {
            vmport: true,
            no_reboot: true,
            extended_tseg_mib: 16,
            smbase_smram: true,
            apic_id: None,
            acpi_root_hotplug: true,
            acpi_bridge_hotplug: true,
            usb: Vec::new(),
            secure_flash: false,
            microvm: MicrovmOptions::default(),
            virtio_mmio_legacy: true,
        }
    }
}

/// RAM beside its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// `memory-backend=`: the memory object that is the RAM.
    pub backend: Option<String>,
    /// `maxmem=`: how much RAM there may be with what is plugged later.
    pub max: Option<u64>,
    /// `slots=`: how many memory devices may be plugged.
    pub slots: u64,
}

/// A whole machine.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Its type.
    pub machine_type: &'static MachineType,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// vCPUs present at start.
    pub cpus: u32,
    /// Sockets, cores, threads: their product is the number of possible vCPUs.
    pub topology: Topology,
    /// The vCPUs' model.
    pub cpu_model: CpuModel,
    /// What runs the vCPUs; the model fits it.
    pub accelerator: AcceleratorConfig,
    /// Which threads run the vCPUs.
    pub threads: Threads,
    /// Guest time goes by instructions.
    pub icount: Option<IcountConfig>,
    /// The guest's time of day.
    pub rtc: RtcBase,
    /// Whether the board has USB host controllers of its own.
    pub usb: bool,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// Whether the host may share equal pages of guest memory.
    pub mem_merge: bool,
    /// Whether a core dump of the program contains guest memory.
    pub dump_guest_core: bool,
    /// The kernel to boot: directly, or through the firmware if there is any. Without a kernel the vCPU starts at the
    /// reset vector, in the firmware.
    pub boot: Option<BootSource>,
    /// The firmware, and what it is told.
    pub firmware: FirmwareConfig,
    /// The board's graphics card, if it has one: a [`DeviceKind::Display`] or a [`DeviceKind::Virtio`].
    pub vga: Option<DeviceConfig>,
    /// Properties of the board's own devices.
    pub board: BoardOptions,
    /// Where RAM comes from, and how much there may be.
    pub memory: MemoryOptions,
    /// The nodes of a NUMA machine.
    pub numa: Numa,
    /// The types of devices that users may add, for the object tree's registry.
    pub types: Vec<TypeInfo>,
    /// Devices beside the board's own.
    pub devices: Vec<DeviceConfig>,
}

impl MachineConfig {
    /// The kernel that is booted without firmware.
    pub fn direct_boot(&self) -> Option<&BootSource> {
        self.boot.as_ref().filter(|_| !self.firmware.is_there())
    }

    /// Bytes of RAM below and above 4 GiB.
    pub fn ram_split(&self) -> (u64, u64) {
        let (max, split) = self.machine_type.chipset.low_ram();
        if self.ram_size >= max { (split, self.ram_size - split) } else { (self.ram_size, 0) }
    }
}
