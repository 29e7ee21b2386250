//! What the firmware tables tell about this board.

use std::sync::Arc;

use device::AccessSize;
use devices_chipset::cpu_hotplug::CpuHotplug;
use devices_pci::q35::PCIEXBAR_DEFAULT;
use devices_pci::{Address, PciBus};

use super::isa::Extra;
use super::{Builder, cpus};
use crate::acpi::{AcpiConfig, ChipsetTables, NumaTables, PciHotplugTables, SleepStates};
use crate::config::{ChipsetKind, DeviceKind, MachineConfig};
use crate::smbios::{self, Smbios, SmbiosConfig};

/// Where the power management block is unless firmware chooses another place.
const PM_BASE_DEFAULT: u16 = 0x600;

/// The ACPI tables' contents.
pub fn acpi(builder: &Builder<'_>, extra: &Extra) -> AcpiConfig {
    let config = builder.config;
    let topology = config.topology;
    let count = topology.sockets * topology.dies * topology.cores * topology.threads;
    let sleep = config.firmware.sleep;
    AcpiConfig {
        chipset: match config.machine_type.chipset {
            ChipsetKind::I440fx => ChipsetTables::I440fx,
            _ => ChipsetTables::Q35 { mmconfig: Some((PCIEXBAR_DEFAULT, 256 << 20)) },
        },
        pm_base: PM_BASE_DEFAULT,
        sleep: SleepStates { s3: sleep.s3, s4: sleep.s4.then_some(sleep.s4_value) },
        high_window: None,
        apic_ids: (0..count).map(|index| topology.apic_id(index)).collect(),
        present: (0..count).map(|index| index < config.cpus).collect(),
        cpu_hotplug: Some(cpus::first_port(config)),
        pci_hotplug: builder
            .pci_hotplug
            .as_ref()
            .map(|hotplug| PciHotplugTables { port: hotplug.first_port, buses: hotplug.acpi.clone() }),
        pci_hole_start: config.ram_split().0 as u32,
        hpet: config.hpet,
        pvpanic: extra.pvpanic,
        generation: config.devices.iter().find_map(|device| match device.kind {
            DeviceKind::Vmgenid { guid } => Some(guid),
            _ => None,
        }),
        numa: numa(config),
        serial_ports: extra.serial_ports.clone(),
        parallel_ports: extra.parallel_ports.clone(),
        reduced: None,
    }
}

/// The nodes, if there are any.
fn numa(config: &MachineConfig) -> Option<Arc<NumaTables>> {
    if config.numa.is_empty() {
        return None;
    }
    let (low, high) = config.ram_split();
    let hotplug = hotplug_window(config).map(|end| (end.0, end.1 - end.0));
    Some(Arc::new(NumaTables { numa: config.numa.clone(), low, high, hotplug }))
}

/// Where memory may be plugged: first address and end.
pub fn hotplug_window(config: &MachineConfig) -> Option<(u64, u64)> {
    /// A window begins at a multiple of this, and each slot may lose as much to alignment.
    const GRANULE: u64 = 1 << 30;
    let max = config.memory.max.filter(|max| *max > config.ram_size)?;
    let (_, high) = config.ram_split();
    let start = ((1_u64 << 32) + high).next_multiple_of(GRANULE);
    let len = (max - config.ram_size).saturating_add(config.memory.slots.saturating_mul(GRANULE));
    Some((start, start.saturating_add(len)))
}

/// The same, with what the firmware has set up by now.
pub fn as_set_up(config: &AcpiConfig, bus: &PciBus, cpus: &CpuHotplug) -> AcpiConfig {
    /// Windows above 4 GiB end at multiples of this.
    const GRANULE: u64 = 1 << 30;
    let all = bus.functions();
    let behind = all.iter().filter_map(|function| function.bridge.as_ref()).flat_map(|bridge| &bridge.functions);
    let functions: Vec<_> = all.iter().chain(behind).collect();
    let chipset = match config.chipset {
        ChipsetTables::I440fx => ChipsetTables::I440fx,
        ChipsetTables::Q35 { .. } => ChipsetTables::Q35 { mmconfig: mmconfig(bus) },
    };
    let bars = functions.iter().flat_map(|function| &function.bars);
    let high = bars.filter_map(|bar| Some((bar.address.filter(|address| *address >= 1 << 32)?, bar.size)));
    let window = high.fold(None, |window: Option<(u64, u64)>, (start, size)| {
        let last = start.saturating_add(size - 1);
        Some(window.map_or((start, last), |(first, end)| (first.min(start), end.max(last))))
    });
    let high_window = window.map(|(first, last)| (first & !(GRANULE - 1), last | (GRANULE - 1)));
    let (present, pm_base) = (cpus.present().to_vec(), pm_base(config.chipset, bus));
    AcpiConfig { chipset, high_window, pm_base, present, ..config.clone() }
}

/// Where firmware put the power management block: PMBA of the PIIX4, PMBASE of the ICH9.
fn pm_base(chipset: ChipsetTables, bus: &PciBus) -> u16 {
    const REGISTER: u8 = 0x40;
    let function = match chipset {
        ChipsetTables::I440fx => Address::new(1, 3),
        ChipsetTables::Q35 { .. } => Address::new(31, 0),
    };
    match bus.read_config(function, REGISTER, AccessSize::Word) as u16 & 0xffc0 {
        0 | 0xffc0 => PM_BASE_DEFAULT,
        base => base,
    }
}

/// Where firmware mapped the configuration space of a Q35: PCIEXBAR.
fn mmconfig(bus: &PciBus) -> Option<(u64, u64)> {
    const HUB: Address = Address::new(0, 0);
    let dword = |offset| u64::from(bus.read_config(HUB, offset, AccessSize::Dword));
    let value = dword(0x64) << 32 | dword(0x60);
    let len = [256 << 20, 128 << 20, 64 << 20].get((value >> 1 & 3) as usize).copied()?;
    (value & 1 != 0).then_some((value & 0xf_ffff_ffff & !(len - 1), len))
}

/// The SMBIOS structures.
pub fn smbios(builder: &Builder<'_>) -> Smbios {
    let config = builder.config;
    let (low, high) = config.ram_split();
    let mut ram = vec![(0, low)];
    ram.extend((high > 0).then_some((1 << 32, high)));
    let leaf = config.cpu_model.build(config.topology, 0).get(1, 0);
    smbios::build(&SmbiosConfig {
        options: &config.firmware.smbios,
        product: config.machine_type.description,
        version: config.machine_type.name,
        uuid: config.firmware.uuid,
        processor_id: (leaf.eax, leaf.edx),
        cpus: config.cpus,
        topology: config.topology,
        ram: &ram,
    })
}
