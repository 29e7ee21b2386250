//! `-bios`, `-L`, `-boot`, `-smbios`, `-fw_cfg`, `-no-fd-bootchk`: the firmware, and what it is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use machine::config::DiskUse;
use machine::firmware::{BootOptions, BootOrder, FirmwareConfig, FirmwareFile, FirmwareRom, OptionRom, SleepOptions};
use machine::smbios::{self, SmbiosOptions};
use vm::storage::{Interface, StorageConfig};

use super::arguments::{all, given, last};
use super::globals::globals;
use super::value::Values;
use super::{Argument, CliError};

/// Where firmware is looked for behind the directories of `-L`: Debian's packages and QEMU's data.
const DIRECTORIES: [&str; 5] =
    ["/usr/share/seabios", "/usr/share/qemu", "/usr/share/ovmf", "/usr/share/OVMF", "/usr/lib/ipxe/qemu"];
/// ROM sizes are multiples of this.
const ROM_GRANULE: usize = 64 << 10;
/// The largest ROM: what lies below it belongs to interrupt controllers.
const ROM_MAX: usize = 16 << 20;

/// Where the ROM comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RomUse<'a> {
    /// None: a kernel is booted directly, or there is flash.
    None,
    /// `-bios`, or the default.
    Bios(Option<&'a str>),
}

/// What becomes of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelUse {
    /// There is none.
    None,
    /// It is booted directly unless firmware is named, which needs the option ROM for it.
    Direct {
        /// Firmware gets the ROM.
        option_rom: bool,
    },
    /// The board's firmware boots it, where that is installed.
    ThroughFirmware {
        /// Firmware gets the ROM.
        option_rom: bool,
    },
}

/// What `-machine` says of firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFirmware {
    /// `firmware=`
    pub firmware: Option<String>,
    /// `pflash0=` and `pflash1=`: names of block nodes.
    pub flash: [Option<String>; 2],
    /// `max-fw-size=`
    pub max_size: Option<u64>,
    /// `smm=on|off`; `None` is `auto`.
    pub smm: Option<bool>,
    /// The board's own firmware, and Debian's package that has it.
    pub default: (&'static str, &'static str),
}

/// Whether a `-drive` is a flash chip.
fn uses_flash(arguments: &[Argument<'_>]) -> bool {
    all(arguments, "drive").any(|argument| argument.value.split(',').any(|part| part == "if=pflash"))
}

/// The sleep states: `-global PIIX4_PM.disable_s3=1` and the like, `ICH9-LPC` on a q35.
fn sleep(arguments: &[Argument<'_>]) -> Result<SleepOptions, CliError> {
    let mut sleep = SleepOptions::default();
    for global in globals(arguments)? {
        match (global.driver.as_str(), global.property.as_str()) {
            ("PIIX4_PM" | "ICH9-LPC", "disable_s3") => sleep.s3 = global.number(7)? == 0,
            ("PIIX4_PM" | "ICH9-LPC", "disable_s4") => sleep.s4 = global.number(7)? == 0,
            ("PIIX4_PM" | "ICH9-LPC", "s4_val") => sleep.s4_value = global.number(7)? as u8,
            // The others are read with the board's.
            _ => {}
        }
    }
    Ok(sleep)
}

/// Reads the options.
pub fn settings(
    arguments: &[Argument<'_>],
    uuid: [u8; 16],
    of_machine: &MachineFirmware,
    kernel: KernelUse,
) -> Result<FirmwareConfig, CliError> {
    let named = last(arguments, "bios").map(|argument| argument.value).or(of_machine.firmware.as_deref());
    let (default, _) = of_machine.default;
    let named = match kernel {
        KernelUse::ThroughFirmware { .. } if named.is_none() => find(arguments, default).map(|_| default),
        _ => named,
    };
    let (boots_kernel, option_rom) = match kernel {
        KernelUse::None => (false, false),
        KernelUse::Direct { option_rom } | KernelUse::ThroughFirmware { option_rom } => (true, option_rom),
    };
    let has_flash = of_machine.flash.iter().any(Option::is_some) || uses_flash(arguments);
    let wanted = if has_flash || (boots_kernel && named.is_none()) { RomUse::None } else { RomUse::Bios(named) };
    let mut flash: Vec<DiskUse> = of_machine
        .flash
        .iter()
        .map(|node| DiskUse { drive: node.clone().unwrap_or_default(), ..DiskUse::default() })
        .collect();
    while flash.last().is_some_and(|chip| chip.drive.is_empty()) {
        flash.pop();
    }
    Ok(FirmwareConfig {
        rom: rom(arguments, wanted, of_machine.default)?,
        boot: boot(arguments)?,
        smbios: smbios(arguments)?,
        uuid,
        no_graphic: given(arguments, "nographic"),
        files: files(arguments)?,
        option_roms: option_roms(arguments, option_rom && (has_flash || named.is_some()), has_flash)?,
        flash,
        max_size: of_machine.max_size,
        smm: of_machine.smm,
        sleep: sleep(arguments)?,
    })
}

/// Connects the drives of `-drive if=pflash` to the flash chips that `-machine` leaves.
///
/// # Errors
/// The second chip has a drive and the first one has none.
pub fn connect_flash(firmware: &mut FirmwareConfig, storage: &StorageConfig) -> Result<(), CliError> {
    for drive in &storage.drives {
        if let Interface::Flash(unit) = drive.interface {
            let unit = usize::from(unit);
            while firmware.flash.len() <= unit {
                firmware.flash.push(DiskUse::default());
            }
            if let Some(slot) = firmware.flash.get_mut(unit) {
                slot.drive.clone_from(&drive.id);
            }
        }
    }
    match firmware.flash.first() {
        Some(first) if first.drive.is_empty() => Err(CliError::plain("pflash1 requires pflash0")),
        Some(_) => {
            // The chip is where the processor starts.
            firmware.rom = None;
            Ok(())
        }
        None => Ok(()),
    }
}

/// `-option-rom file[,bootindex=N]`, and the ROM by which SeaBIOS boots a kernel.
fn option_roms(arguments: &[Argument<'_>], boots_kernel: bool, has_flash: bool) -> Result<Vec<OptionRom>, CliError> {
    const LINUX_BOOT: (&str, &str) = ("linuxboot_dma.bin", "qemu-system-data");
    let mut roms = Vec::new();
    let rom = |name: &str, boot_index| {
        let refuse = |why: String| CliError::plain(format!("Could not open option rom '{name}': {why}"));
        let path = find(arguments, name).ok_or_else(|| refuse("No such file or directory".to_owned()))?;
        let bytes = std::fs::read(&path).map_err(|error| refuse(vm::host_error(&error)))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok::<_, CliError>(OptionRom { name, bytes: bytes.into(), boot_index })
    };
    if boots_kernel {
        let (name, package) = LINUX_BOOT;
        // OVMF needs none.
        match find(arguments, name) {
            Some(_) => roms.push(rom(name, Some(0))?),
            None if has_flash => {}
            None => {
                let message = format!("could not load option ROM '{name}': install the package {package}");
                return Err(CliError::plain(message));
            }
        }
    }
    for argument in all(arguments, "option-rom") {
        let mut values = Values::parse(*argument, Some("romfile"))?;
        let name = values.text("romfile")?.ok_or_else(|| argument.error("Option ROM file is not specified"))?;
        let boot_index = match values.text("bootindex")? {
            Some(text) => Some(text.parse().map_err(|_| argument.error("Parameter 'bootindex' expects a number"))?),
            None => None,
        };
        values.finish()?;
        roms.push(rom(&name, boot_index)?);
    }
    Ok(roms)
}

/// A ROM's file, by its path or where Debian's packages have such files.
pub fn find_file(name: &str) -> Option<PathBuf> {
    find(&[], name)
}

fn find(arguments: &[Argument<'_>], name: &str) -> Option<PathBuf> {
    if Path::new(name).is_file() {
        return Some(PathBuf::from(name));
    }
    let directories = all(arguments, "L").map(|argument| argument.value).chain(DIRECTORIES);
    directories.map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Reads the ROM.
fn rom(
    arguments: &[Argument<'_>],
    wanted: RomUse<'_>,
    (default, package): (&str, &str),
) -> Result<Option<FirmwareRom>, CliError> {
    let RomUse::Bios(named) = wanted else { return Ok(None) };
    let name = named.unwrap_or(default);
    let refuse = |why: String| CliError::plain(format!("could not load PC BIOS '{name}': {why}"));
    let path = find(arguments, name).ok_or_else(|| match named {
        Some(_) => refuse("No such file or directory".to_owned()),
        None => refuse(format!("install the package {package}, or boot a kernel by -kernel")),
    })?;
    let bytes = std::fs::read(&path).map_err(|error| refuse(vm::host_error(&error)))?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(ROM_GRANULE) || bytes.len() > ROM_MAX {
        return Err(refuse("its size is no multiple of 64 KiB up to 16 MiB".to_owned()));
    }
    Ok(Some(FirmwareRom { path: path.to_string_lossy().into_owned(), bytes: bytes.into() }))
}

/// `-boot [order=]drives[,once=drives][,menu=on|off][,splash=file][,splash-time=ms][,reboot-timeout=ms][,strict=on|off]`;
/// several add up.
fn boot(arguments: &[Argument<'_>]) -> Result<BootOptions, CliError> {
    let mut boot = BootOptions { skip_floppy_check: given(arguments, "no-fd-bootchk"), ..BootOptions::default() };
    for argument in all(arguments, "boot") {
        let mut values = Values::parse(*argument, Some("order"))?;
        let order = |text: Option<String>| {
            text.map(|text| BootOrder::parse(&text)).transpose().map_err(|message| argument.error(message))
        };
        if let Some(given) = order(values.text("order")?)? {
            boot.order = given;
        }
        boot.once = order(values.text("once")?)?.or(boot.once);
        boot.menu = values.flag("menu")?.unwrap_or(boot.menu);
        boot.strict = values.flag("strict")?.unwrap_or(boot.strict);
        if let Some(text) = values.text("splash-time")? {
            let wrong = || argument.error("splash-time is invalid, it should be a value between 0 and 65535");
            boot.splash_time = Some(text.parse().map_err(|_| wrong())?);
        }
        if let Some(text) = values.text("reboot-timeout")? {
            let wrong = || argument.error("reboot timeout is invalid,it should be a value between -1 and 65535");
            let timeout: i32 = text.parse().map_err(|_| wrong())?;
            boot.reboot_timeout = Some(timeout).filter(|timeout| (-1..=0xffff).contains(timeout));
            boot.reboot_timeout.ok_or_else(wrong)?;
        }
        if let Some(name) = values.text("splash")? {
            boot.splash = Some(splash(arguments, argument, &name)?);
        }
        values.finish()?;
    }
    Ok(boot)
}

/// A picture as JPEG or as a bitmap of 24 bits.
fn splash(arguments: &[Argument<'_>], argument: &Argument<'_>, name: &str) -> Result<Arc<[u8]>, CliError> {
    let missing = || argument.error(format!("failed to find file '{name}'."));
    let path = find(arguments, name).ok_or_else(missing)?;
    let bytes = std::fs::read(path).map_err(|error| argument.error(vm::host_error(&error)))?;
    let is_bitmap = bytes.starts_with(b"BM") && bytes.get(28..30) == Some(&[24, 0]);
    if !is_bitmap && !bytes.starts_with(&[0xff, 0xd8]) {
        return Err(argument.error(format!("'{name}' not jpg/bmp file, head:{:02x?}.", &bytes[..bytes.len().min(2)])));
    }
    Ok(bytes.into())
}

/// `-smbios file=path` and `-smbios type=N,field=value,…`.
fn smbios(arguments: &[Argument<'_>]) -> Result<SmbiosOptions, CliError> {
    let mut options = SmbiosOptions::default();
    for argument in all(arguments, "smbios") {
        let pairs = pairs(argument)?;
        let (fields, first): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key != "type" && key != "file");
        match first.as_slice() {
            [(key, path)] if key == "file" && fields.is_empty() => options.structures.push(structure(argument, path)?),
            [(key, number)] if key == "type" => {
                let known = number
                    .parse()
                    .ok()
                    .and_then(|number: u8| smbios::FIELDS.iter().find(|(kind, _)| *kind == number).copied());
                let (kind, names) = known.ok_or_else(|| {
                    argument.error(format!("Don't know how to build fields for SMBIOS type {number}"))
                })?;
                for (name, value) in fields {
                    check_field(argument, names, (&name, &value))?;
                    options.fields.push((kind, name, value));
                }
                if options.fields.iter().all(|(other, ..)| *other != kind) {
                    // A type without fields still asks for its structure.
                    options.fields.push((kind, String::new(), String::new()));
                }
            }
            _ => return Err(argument.error("Must specify type= or file=")),
        }
    }
    Ok(options)
}

fn check_field(argument: &Argument<'_>, names: &[&str], (name, value): (&str, &str)) -> Result<(), CliError> {
    if !names.contains(&name) {
        return Err(argument.error(format!("Invalid parameter '{name}'")));
    }
    let is_valid = match name {
        "uuid" => smbios::parse_uuid(value).is_some(),
        "speed" | "max-speed" | "current-speed" => value.parse::<u16>().is_ok(),
        "processor-id" => value.parse::<u64>().is_ok(),
        "uefi" => matches!(value, "on" | "off"),
        "release" => value
            .split_once('.')
            .is_some_and(|(major, minor)| major.parse::<u8>().is_ok() && minor.parse::<u8>().is_ok()),
        _ => true,
    };
    if is_valid { Ok(()) } else { Err(argument.error(format!("Invalid value '{value}' for '{name}'"))) }
}

/// `key=value,…`, where a key may be given again and `,,` is a comma.
fn pairs(argument: &Argument<'_>) -> Result<Vec<(String, String)>, CliError> {
    const COMMA: &str = "\u{0}";
    let text = argument.value.replace(",,", COMMA);
    let pairs = text.split(',').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').ok_or_else(|| argument.error(format!("Invalid parameter '{part}'")))?;
        Ok((key.to_owned(), value.replace(COMMA, ",")))
    });
    pairs.collect()
}

/// A structure from a file: the formatted part, strings, and the two zeros behind them.
fn structure(argument: &Argument<'_>, path: &str) -> Result<Vec<u8>, CliError> {
    const HEADER: usize = 4;
    const MAX: usize = 0xffff;
    let mut bytes = std::fs::read(path)
        .map_err(|error| argument.error(format!("Cannot read SMBIOS file {path}: {}", vm::host_error(&error))))?;
    let formatted = bytes.get(1).map_or(0, |len| usize::from(*len));
    if bytes.len() > MAX || formatted < HEADER || formatted > bytes.len() {
        return Err(argument.error(format!("Cannot read SMBIOS file {path}")));
    }
    while bytes.len() < formatted + 2 || !bytes.ends_with(&[0, 0]) {
        bytes.push(0);
    }
    Ok(bytes)
}

/// `-fw_cfg [name=]name,file=path` and `-fw_cfg [name=]name,string=text`.
fn files(arguments: &[Argument<'_>]) -> Result<Vec<FirmwareFile>, CliError> {
    const NAME_MAX: usize = 55;
    let mut files = Vec::new();
    for argument in all(arguments, "fw_cfg") {
        let mut values = Values::parse(*argument, Some("name"))?;
        let (name, file, text) = (values.text("name")?, values.text("file")?, values.text("string")?);
        values.finish()?;
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| argument.error("name must be specified"))?;
        if name.len() > NAME_MAX {
            return Err(argument.error(format!("name too long (max. {NAME_MAX} char)")));
        }
        let bytes = match (file, text) {
            (Some(path), None) => std::fs::read(&path)
                .map_err(|error| argument.error(format!("can't load {path}: {}", vm::host_error(&error))))?,
            (None, Some(text)) => text.into_bytes(),
            _ => return Err(argument.error("invalid argument(s): one of 'file' and 'string' is needed")),
        };
        files.push((name, bytes.into()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options;

    fn argument(name: &str, value: &'static str) -> Argument<'static> {
        Argument { option: options::find(name).expect("option"), value }
    }

    #[test]
    fn boot_options_add_up_and_are_checked() {
        let arguments = [argument("boot", "dc,once=a,menu=on"), argument("boot", "reboot-timeout=-1,splash-time=10")];
        let boot = boot(&arguments).expect("options");
        assert_eq!(
            (boot.order, boot.once.map(|order| order.cmos(false))),
            (BootOrder::parse("dc").expect("order"), Some((0, 1)))
        );
        assert_eq!((boot.menu, boot.splash_time, boot.reboot_timeout), (true, Some(10), Some(-1)));
        for wrong in ["order=z", "splash-time=70000", "reboot-timeout=-2", "menu=perhaps", "nothing=on"] {
            assert!(super::boot(&[argument("boot", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn smbios_fields_are_checked_and_strings_repeat() {
        let arguments = [argument("smbios", "type=11,value=a,,b,value=c"), argument("smbios", "type=1,serial=7")];
        let options = smbios(&arguments).expect("options");
        let values: Vec<&str> = options.fields.iter().map(|(.., value)| value.as_str()).collect();
        assert_eq!(values, ["a,b", "c", "7"]);
        for wrong in ["type=99", "type=1,colour=red", "type=1,uuid=1", "serial=7", "type=4,max-speed=x"] {
            assert!(smbios(&[argument("smbios", wrong)]).is_err(), "{wrong}");
        }
    }
}
