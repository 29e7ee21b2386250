//! Expansion ROMs of PCI functions: `romfile=`, `rombar=`, `romsize=`, and the VGA BIOS that cards have by default.
//!
//! A ROM is behind the function's own register, or, with `rombar=0`, a file that firmware runs.

use std::sync::Arc;

use devices_pci::rom::ExpansionRom;
use devices_pci::{Address, PciBus};

use super::{Builder, Removal};
use crate::config::{DeviceConfig, RomConfig, RomFile};

/// Gives the function that was built since there were `first` devices the ROM that its user wants.
pub fn of_device(builder: &mut Builder<'_>, first: usize, device: &DeviceConfig) -> Result<(), String> {
    let Some(rom) = &device.rom else { return Ok(()) };
    let built = builder.devices.get(first..).unwrap_or_default().iter().find_map(|built| match &built.removal {
        Removal::Pci(bus, address) => Some((Arc::clone(bus), *address)),
        _ => None,
    });
    match built {
        Some((bus, address)) => add(builder, (&bus, address), Some(rom), None),
        None => Ok(()),
    }
}

/// Gives a function a ROM: the one that the user wants, or else that of a file, if it is there.
pub fn add(
    builder: &mut Builder<'_>,
    (bus, address): (&Arc<PciBus>, Address),
    wanted: Option<&RomConfig>,
    default: Option<&str>,
) -> Result<(), String> {
    /// A VGA: firmware runs its ROM before all others.
    const VGA: u16 = 0x0300;
    let (has_bar, size) = wanted.map_or((true, None), |rom| (rom.bar, rom.size));
    let (name, bytes): (String, Arc<[u8]>) = match wanted.map(|rom| &rom.file) {
        Some(RomFile::None) => return Ok(()),
        Some(RomFile::File(name, bytes)) => (name.clone(), Arc::clone(bytes)),
        Some(RomFile::Default) | None => {
            let Some(path) = default else { return Ok(()) };
            // Without the package there is none.
            let Ok(bytes) = std::fs::read(path) else { return Ok(()) };
            (path.to_owned(), bytes.into())
        }
    };
    if !has_bar {
        let class = bus.functions().iter().find(|function| function.address == address).map(|function| function.class);
        let directory = if class == Some(VGA) { "vgaroms" } else { "genroms" };
        let name = name.rsplit('/').next().unwrap_or_default();
        builder.rom_files.push((format!("{directory}/{name}"), bytes));
        return Ok(());
    }
    if let Some(size) = size.filter(|size| bytes.len() as u64 > u64::from(*size)) {
        return Err(format!("romfile \"{name}\" ({} bytes) is too large for ROM size {size}", bytes.len()));
    }
    let memory = format!("{}/rom", address.open_firmware());
    let rom = ExpansionRom::sized(&memory, &bytes, size.unwrap_or(0).into()).map_err(|error| error.to_string())?;
    bus.add_rom(address, &rom);
    Ok(())
}
