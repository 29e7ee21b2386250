//! `-h`, `-version` and `-opt help`.

use std::fmt::Write as _;

use machine::config::MACHINE_TYPES;
use x86::model::{CpuModel, NEWEST};

use super::CliError;
use super::accelerators::NAMES;
use super::arguments::{Argument, all, given, last};
use super::block;
use super::devices;
use super::options::OPTIONS;

/// The text that the command line asks for, if it asks for one.
pub fn requested(arguments: &[Argument<'_>]) -> Result<Option<String>, CliError> {
    if given(arguments, "h") {
        return Ok(Some(usage()));
    }
    if given(arguments, "version") {
        return Ok(Some(version()));
    }
    let asks = |name: &str| last(arguments, name).is_some_and(|argument| matches!(argument.value, "help" | "?"));
    if asks("machine") {
        return Ok(Some(machines()));
    }
    if asks("accel") {
        return Ok(Some(format!("Accelerators supported in QEMU binary:\n{}\n", NAMES.join("\n"))));
    }
    if asks("cpu") {
        return Ok(Some(cpus()));
    }
    if asks("display") {
        return Ok(Some("Available display backend types:\nnone\ncurses\n".to_owned()));
    }
    if asks("chardev") {
        let types: Vec<_> = chardev::backends().collect();
        return Ok(Some(format!("Available chardev backend types: \n  {}\n", types.join("\n  "))));
    }
    if asks("d") {
        return Ok(Some(vm::log::items_help()));
    }
    if asks("trace") || all(arguments, "d").any(|argument| argument.value == "trace:help") {
        return Ok(Some(vm::log::trace_help()));
    }
    if let Some(text) = block::formats_help(arguments) {
        return Ok(Some(text));
    }
    let devices = arguments.iter().filter(|argument| argument.option.name == "device");
    for argument in devices {
        if matches!(argument.value, "help" | "?") {
            return Ok(device_models(None));
        }
        if let Some(name) = argument.value.strip_suffix(",help") {
            let unknown = || argument.error(format!("'{name}' is not a valid device model name"));
            return device_models(Some(name)).map(Some).ok_or_else(unknown);
        }
    }
    Ok(None)
}

fn usage() -> String {
    let mut text = version();
    text.push_str("usage: ouzel [options] [disk image]\n\n");
    for option in OPTIONS {
        let names =
            option.alias.map_or_else(|| format!("-{}", option.name), |alias| format!("-{} or -{alias}", option.name));
        let argument = option.argument.unwrap_or_default();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{names} {argument}\n                {}", option.help);
    }
    text
}

fn version() -> String {
    format!("QEMU emulator version {} ({})\n", vm::version::EMULATED, vm::version::package())
}

fn machines() -> String {
    let mut text = "Supported machines are:\n".to_owned();
    for machine in MACHINE_TYPES {
        if let Some(alias) = machine.alias {
            let _ = writeln!(text, "{alias:<20} {} (alias of {})", machine.description, machine.name);
        }
        let default = if machine.is_default { " (default)" } else { "" };
        let _ = writeln!(text, "{:<20} {}{default}", machine.name, machine.description);
    }
    text
}

fn cpus() -> String {
    let mut text = "Available CPUs:\n".to_owned();
    for model in CpuModel::list(NEWEST) {
        let _ = writeln!(text, "x86 {:<26} {}", model.name, model.description);
    }
    text
}

/// The device models, or the properties of one of them.
pub fn device_models(name: Option<&str>) -> Option<String> {
    match name {
        None => Some(drivers()),
        Some(name) => devices::driver(name).map(properties),
    }
}

fn drivers() -> String {
    let mut text = "Available devices:\n".to_owned();
    for driver in devices::drivers() {
        let _ = write!(text, "name \"{}\", bus {}", driver.name, driver.bus);
        if let Some(alias) = driver.alias {
            let _ = write!(text, ", alias \"{alias}\"");
        }
        let _ = writeln!(text, ", desc \"{}\"", driver.description);
    }
    text
}

fn properties(driver: &devices::Driver) -> String {
    let mut properties = driver.properties.to_vec();
    if devices::has_rom(driver) {
        properties.extend(devices::ROM_PROPERTIES);
    }
    if properties.is_empty() {
        return format!("There are no options for {}.\n", driver.name);
    }
    let mut text = format!("{} options:\n", driver.name);
    properties.sort_unstable();
    for (name, description) in properties {
        let _ = writeln!(text, "  {name:<24} - {description}");
    }
    text
}
