//! What fw_cfg holds: numbers that describe the machine, and the files that firmware builds its tables of (QEMU 7.2).

use std::sync::{Arc, Mutex, PoisonError};

use device::DeviceCell;
use devices_chipset::cpu_hotplug::CpuHotplug;
use devices_isa::fw_cfg::{self, FileError, FwCfg, Item, key};
use devices_pci::PciBus;

use super::Builder;
use crate::acpi::{AcpiConfig, AcpiTables, LOADER_FILE, RSDP_FILE, TABLES_FILE, TableFiles, vmgenid};
use crate::boot::firmware::FirmwareKernel;
use crate::config::{ChipsetKind, DeviceKind, MachineConfig};
use crate::e820::E820;
use crate::error::MachineError;
use crate::firmware::{BootDevice, BootOptions, FirmwareConfig, boot_order_file, geometry_file};
use crate::smbios::Smbios;

/// What firmware takes of the end of low RAM.
const FIRMWARE_TABLES: u64 = 0x4_0000;

/// Builds the device with everything that does not depend on other devices.
pub fn build(builder: &mut Builder<'_>, machine_name: &str) -> Result<DeviceCell<FwCfg>, MachineError> {
    let config = builder.config;
    let mut device = FwCfg::new(Arc::clone(&builder.memory));
    let apic_ids = apic_id_limit(config);
    let chipset = config.machine_type.chipset;
    device.set_item(key::UUID, Item::bytes(config.firmware.uuid));
    device.set_item(key::NB_CPUS, Item::u16(config.cpus as u16));
    device.set_item(key::MAX_CPUS, Item::u16(apic_ids));
    device.set_item(key::RAM_SIZE, Item::u64(config.ram_size));
    device.set_item(key::NOGRAPHIC, Item::u16(config.firmware.no_graphic.into()));
    device.set_item(key::BOOT_MENU, Item::u16(config.firmware.boot.menu.into()));
    device.set_item(key::IRQ0_OVERRIDE, Item::u32(1));
    if chipset != ChipsetKind::Microvm {
        device.set_item(key::ACPI_TABLES, Item::default());
        device.set_item(key::E820_TABLE, Item::u32(0));
        device.set_item(key::HPET, Item::bytes(hpet(config)));
        device.set_item(key::NUMA, Item::bytes(numa(config, apic_ids)));
    }
    if let Some((_, end)) = super::tables::hotplug_window(config).filter(|_| chipset.has_pci()) {
        device.add_file("etc/reserved-memory-end", Item::u64(end.next_multiple_of(1 << 30)))?;
    }
    let (low, high) = config.ram_split();
    let e820 = E820::for_firmware(low, high, config.cpu_model.identity().vendor);
    let entries: Vec<u8> = e820.entries().iter().flat_map(|entry| entry.to_bytes()).collect();
    device.add_file("etc/e820", Item::bytes(entries))?;
    if chipset.has_pci() {
        device.add_file("etc/system-states", Item::bytes(system_states(&config.firmware)))?;
    }
    boot_files(&mut device, &config.firmware.boot)?;
    option_roms(builder, &mut device)?;
    kernel(config, &mut device)?;
    for (name, bytes) in &config.firmware.files {
        device.add_file(name, Item::bytes(bytes.to_vec()))?;
    }
    tracing::debug!(machine = machine_name, "fw_cfg built");
    let cell = DeviceCell::new(device);
    builder.add_ports("fw_cfg", &cell, &[(fw_cfg::REGION_PORTS, 0x510, 2), (fw_cfg::REGION_DMA, 0x514, 8)])?;
    Ok(cell)
}

/// ROMs without a device: firmware runs them behind those of devices.
fn option_roms(builder: &mut Builder<'_>, device: &mut FwCfg) -> Result<(), FileError> {
    for rom in &builder.config.firmware.option_roms {
        let file = format!("genroms/{}", rom.name);
        device.add_file(&file, Item::bytes(rom.bytes.to_vec()))?;
        if rom.boot_index.is_some() {
            let path = format!("/rom@{file}");
            builder.boot_devices.push(BootDevice {
                index: rom.boot_index,
                path,
                geometry: None,
                owner: Some(String::new()),
            });
        }
    }
    Ok(())
}

/// The kernel that firmware boots.
fn kernel(config: &MachineConfig, device: &mut FwCfg) -> Result<(), MachineError> {
    let Some(source) = config.boot.as_ref().filter(|_| config.firmware.is_there()) else { return Ok(()) };
    let (low, _) = config.ram_split();
    let parts = FirmwareKernel::new(source, low.saturating_sub(FIRMWARE_TABLES))
        .map_err(|error| MachineError::Boot { path: source.kernel_path.clone(), source: error })?;
    let keys = [
        (parts.setup, key::SETUP_ADDR, key::SETUP_SIZE, key::SETUP_DATA),
        (parts.kernel, key::KERNEL_ADDR, key::KERNEL_SIZE, key::KERNEL_DATA),
        (parts.initrd, key::INITRD_ADDR, key::INITRD_SIZE, key::INITRD_DATA),
        (parts.command_line, key::CMDLINE_ADDR, key::CMDLINE_SIZE, key::CMDLINE_DATA),
    ];
    for (part, address, size, data) in keys {
        device.set_item(address, Item::u32(part.address as u32));
        device.set_item(size, Item::u32(part.bytes.len() as u32));
        device.set_item(data, Item::bytes(part.bytes));
    }
    Ok(())
}

/// One more than the highest local APIC id.
fn apic_id_limit(config: &MachineConfig) -> u16 {
    let topology = config.topology;
    let count = topology.sockets * topology.dies * topology.cores * topology.threads;
    topology.apic_id(count.saturating_sub(1)).saturating_add(1).min(0xffff) as u16
}

/// The number of nodes, the node of the processor with each APIC id, and the memory of each node.
fn numa(config: &MachineConfig, apic_ids: u16) -> Vec<u8> {
    let topology = config.topology;
    let count = topology.sockets * topology.dies * topology.cores * topology.threads;
    let mut words = vec![0; 1 + usize::from(apic_ids)];
    words[0] = config.numa.len() as u64;
    for index in 0..count {
        let at = 1 + topology.apic_id(index) as usize;
        if let (Some(word), Some(node)) = (words.get_mut(at), config.numa.node_of(index as usize)) {
            *word = u64::from(node);
        }
    }
    words.extend(config.numa.nodes().map(|node| node.memory));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// How many HPETs there are, and the first one: id, address, shortest period, page protection.
fn hpet(config: &MachineConfig) -> Vec<u8> {
    const ENTRIES: usize = 8;
    const ENTRY_LEN: usize = 15;
    let mut bytes = vec![0; 1 + ENTRIES * ENTRY_LEN];
    if config.hpet {
        bytes[0] = 1;
        bytes[1..5].copy_from_slice(&0x8086_a201_u32.to_le_bytes());
        bytes[5..13].copy_from_slice(&0xfed0_0000_u64.to_le_bytes());
        bytes[13..15].copy_from_slice(&100_u16.to_le_bytes());
    }
    bytes
}

/// For S0 to S5: bit 7 says that the state exists, the others are its SLP_TYP.
fn system_states(firmware: &FirmwareConfig) -> [u8; 6] {
    let exists = |state: bool| if state { 0x80 } else { 0 };
    let sleep = &firmware.sleep;
    [0x80, 0, 0, 1 | exists(sleep.s3), sleep.s4_value & 0x7f | exists(sleep.s4), 0x80]
}

fn boot_files(device: &mut FwCfg, boot: &BootOptions) -> Result<(), FileError> {
    device.add_file("etc/boot-fail-wait", Item::u32(boot.reboot_timeout.unwrap_or(-1) as u32))?;
    if let Some(time) = boot.splash_time {
        device.add_file("etc/boot-menu-wait", Item::u16(time))?;
    }
    if let Some(splash) = &boot.splash {
        let name = if splash.starts_with(b"BM") { "bootsplash.bmp" } else { "bootsplash.jpg" };
        device.add_file(name, Item::bytes(splash.to_vec()))?;
    }
    Ok(())
}

/// Adds the files that describe all the devices: boot order, ACPI and SMBIOS.
pub fn add_tables(
    builder: &Builder<'_>,
    cell: &DeviceCell<FwCfg>,
    (acpi, smbios): (Option<&Arc<AcpiConfig>>, Option<&Smbios>),
    chipset: Option<(&Arc<PciBus>, &DeviceCell<CpuHotplug>)>,
) -> Result<(), MachineError> {
    let strict = builder.config.firmware.boot.strict;
    let mut device = cell.lock();
    builder.boot_list.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&builder.boot_devices);
    // Devices that have come or left count from the next reset on.
    let renewed = |file: fn(&[BootDevice], bool) -> Vec<u8>| -> fw_cfg::RenewCallback {
        let list = Arc::clone(&builder.boot_list);
        Box::new(move || Some(file(&list.lock().unwrap_or_else(PoisonError::into_inner), strict)))
    };
    let order = Item::bytes(boot_order_file(&builder.boot_devices, strict)).on_reset(renewed(boot_order_file));
    device.add_file("bootorder", order)?;
    let geometry = Item::bytes(geometry_file(&builder.boot_devices));
    device.add_file("bios-geometry", geometry.on_reset(renewed(|devices, _| geometry_file(devices))))?;
    for (name, bytes) in &builder.rom_files {
        device.add_file(name, Item::bytes(bytes.to_vec()))?;
    }
    if let Some(acpi) = acpi {
        acpi_files(&mut device, acpi, chipset)?;
    }
    if builder.config.devices.iter().any(|device| device.kind == DeviceKind::Vmcoreinfo) {
        // The format that the host understands (1 is ELF), that of the guest, the note's size and address.
        let mut note = [0_u8; 16];
        note[0] = 1;
        let reset = Box::new(move || Some(note.to_vec()));
        device.add_file("etc/vmcoreinfo", Item::bytes(note).writable(None).on_reset(reset))?;
    }
    if let Some(smbios) = smbios {
        device.add_file("etc/smbios/smbios-anchor", Item::bytes(smbios.anchor.clone()))?;
        device.add_file("etc/smbios/smbios-tables", Item::bytes(smbios.tables.clone()))?;
    }
    Ok(())
}

/// The ACPI tables and the script that links them.
fn acpi_files(
    device: &mut FwCfg,
    acpi: &Arc<AcpiConfig>,
    chipset: Option<(&Arc<PciBus>, &DeviceCell<CpuHotplug>)>,
) -> Result<(), MachineError> {
    let files = AcpiTables::build(acpi).files();
    // The tables tell what firmware has set up before it selects the first of the files: those that follow must belong
    // to the same tables, though firmware may turn the devices off again in between.
    let built: Arc<Mutex<Option<TableFiles>>> = Arc::default();
    let once = |select: fn(&TableFiles) -> &Vec<u8>| -> fw_cfg::RenewCallback {
        let (acpi, built) = (Arc::clone(acpi), Arc::clone(&built));
        let chipset = chipset.map(|(bus, cpus)| (Arc::clone(bus), cpus.clone()));
        Box::new(move || {
            let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
            let files = built.get_or_insert_with(|| match &chipset {
                Some((bus, cpus)) => AcpiTables::build(&super::tables::as_set_up(&acpi, bus, &cpus.lock())).files(),
                None => AcpiTables::build(&acpi).files(),
            });
            Some(select(files).clone())
        })
    };
    let forget = Arc::clone(&built);
    let forget = move || {
        *forget.lock().unwrap_or_else(PoisonError::into_inner) = None;
        None
    };
    device.add_file(RSDP_FILE, Item::bytes(files.rsdp).on_select(once(|files| &files.rsdp)))?;
    device.add_file(TABLES_FILE, Item::bytes(files.tables).on_select(once(|files| &files.tables)))?;
    let loader = Item::bytes(files.loader).on_select(once(|files| &files.loader)).on_reset(Box::new(forget));
    device.add_file(LOADER_FILE, loader)?;
    if let Some(guid) = acpi.generation {
        device.add_file(vmgenid::GUID_FILE, Item::bytes(vmgenid::guid_file(guid)))?;
        device.add_file(vmgenid::ADDRESS_FILE, Item::u64(0).writable(None).on_reset(Box::new(|| Some(vec![0; 8]))))?;
    }
    Ok(())
}
