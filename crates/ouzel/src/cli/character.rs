//! `-chardev`, `-serial`, `-mon`, `-qmp`, `-qmp-pretty`, `-monitor`, `-nographic`: character devices and who uses them.

use chardev::{ChardevSpec, Legacy, parse_legacy};
use machine::config::ChipsetKind;
use vm::config::MonitorConfig;

use super::arguments::{all, given, last, names_device};
use super::machine::chipset;
use super::value::Values;
use super::{Argument, CliError, Line};

/// Character devices and their users.
pub struct Character {
    /// The devices to open, in order.
    pub chardevs: Vec<ChardevSpec>,
    /// The device behind the server for gdb.
    pub gdb: Option<vm::gdb::Line>,
    /// The monitors.
    pub monitors: Vec<MonitorConfig>,
    /// For COM1, COM2, …: the device behind it, if the port exists.
    pub serials: Vec<Option<String>>,
    /// The character devices of the parallel ports; `None` leaves a port out.
    pub parallels: Vec<Option<String>>,
    /// The device behind the debug console of `-debugcon`.
    pub debug_console: Option<String>,
}

impl Character {
    fn open(&mut self, argument: &Argument<'_>, id: &str) -> Result<Option<String>, CliError> {
        let device = parse_legacy(id, argument.value).map_err(|error| argument.error(error.to_string()))?;
        self.take(argument, device)
    }

    fn take(&mut self, argument: &Argument<'_>, device: Legacy) -> Result<Option<String>, CliError> {
        match device {
            Legacy::Nothing => Ok(None),
            Legacy::Existing(id) => Ok(Some(id)),
            Legacy::New(spec) => {
                let id = spec.id.clone();
                // `mon:` puts a monitor on the device, too, where it is shared.
                if argument.value.starts_with("mon:") {
                    let monitor = MonitorConfig { chardev: id.clone(), pretty: false, is_human: true };
                    self.monitors.push(monitor);
                }
                self.add(argument, spec)?;
                Ok(Some(id))
            }
        }
    }

    fn add(&mut self, argument: &Argument<'_>, spec: ChardevSpec) -> Result<(), CliError> {
        if self.has(&spec.id) {
            return Err(argument.error(format!("Chardev with id '{}' already exists", spec.id)));
        }
        self.chardevs.push(spec);
        Ok(())
    }

    /// Whether there is a character device of that name.
    pub fn has(&self, id: &str) -> bool {
        self.chardevs.iter().any(|chardev| chardev.id == id)
    }
}

/// Reads the options; what is to be said about them goes to `lines`.
pub fn settings(arguments: &[Argument<'_>], lines: &mut Vec<Line>) -> Result<Character, CliError> {
    let mut character = Character {
        chardevs: Vec::new(),
        gdb: None,
        monitors: Vec::new(),
        serials: Vec::new(),
        parallels: Vec::new(),
        debug_console: None,
    };
    for argument in all(arguments, "chardev") {
        if let Some(warning) = chardev::alias_warning(argument.value) {
            lines.push(Line::Named(format!("{}: warning: {warning}", argument.as_written())));
        }
        let spec = chardev::parse_option(argument.value).map_err(|error| argument.error(error.to_string()))?;
        character.add(argument, spec)?;
    }
    serials(arguments, &mut character)?;
    for (index, argument) in all(arguments, "parallel").enumerate() {
        let chardev = character.open(argument, &format!("parallel{index}"))?;
        if let Some(id) = chardev.as_ref().filter(|id| !character.has(id)) {
            return Err(argument.error(format!("could not find chardev '{id}'")));
        }
        character.parallels.push(chardev);
    }
    if let Some(argument) = last(arguments, "debugcon") {
        let chardev = character.open(argument, "debugcon")?;
        if let Some(id) = chardev.as_ref().filter(|id| !character.has(id)) {
            return Err(argument.error(format!("could not find chardev '{id}'")));
        }
        character.debug_console = chardev;
    }
    monitors(arguments, &mut character)?;
    gdb(arguments, &mut character)?;
    defaults(arguments, &mut character)?;
    Ok(character)
}

/// What is there without a word about it, unless `-nodefaults` says that nothing is: a monitor, the first serial and the
/// first parallel port, each on a terminal of its own, or with `-nographic` on this program's.
fn defaults(arguments: &[Argument<'_>], character: &mut Character) -> Result<(), CliError> {
    const TERMINAL: &str = "vc:80Cx24C";
    if given(arguments, "nodefaults") {
        return Ok(());
    }
    let port = |option: &str, driver: &str| {
        chipset(arguments) != ChipsetKind::Empty && !given(arguments, option) && !names_device(arguments, &[driver])
    };
    let has_monitor = !["mon", "monitor", "qmp", "qmp-pretty"].iter().any(|option| given(arguments, option));
    let (has_serial, has_parallel) = (port("serial", "isa-serial"), port("parallel", "isa-parallel"));
    let is_shared = has_serial && has_monitor;
    let (serial, parallel, monitor) = match given(arguments, "nographic") {
        true if given(arguments, "daemonize") && (has_serial || has_parallel || has_monitor) => {
            return Err(CliError::plain("-nographic cannot be used with -daemonize"));
        }
        // Ctrl-a gives the keys of the monitor there.
        true if is_shared => ("mon:stdio", "null", "none"),
        true => ("stdio", "null", "stdio"),
        false => (TERMINAL, TERMINAL, TERMINAL),
    };
    let open = |character: &mut Character, option: &str, value: &str, id: &str| {
        character.open(&Argument { value, ..Argument::not_given(option, "")? }, id)
    };
    if has_monitor && let Some(chardev) = open(character, "monitor", monitor, "compat_monitor0")? {
        character.monitors.push(MonitorConfig { chardev, pretty: false, is_human: true });
    }
    if has_serial {
        let chardev = open(character, "serial", serial, "serial0")?;
        character.serials.push(chardev);
    }
    if has_parallel {
        let chardev = open(character, "parallel", parallel, "parallel0")?;
        character.parallels.push(chardev);
    }
    Ok(())
}

fn serials(arguments: &[Argument<'_>], character: &mut Character) -> Result<(), CliError> {
    for (index, argument) in all(arguments, "serial").enumerate() {
        let id = format!("serial{index}");
        let chardev = character.open(argument, &id)?;
        if let Some(id) = chardev.as_ref().filter(|id| !character.has(id)) {
            return Err(argument.error(format!("could not find chardev '{id}'")));
        }
        character.serials.push(chardev);
    }
    Ok(())
}

/// `-gdb DEVICE`, and `-s` for TCP port 1234.
fn gdb(arguments: &[Argument<'_>], character: &mut Character) -> Result<(), CliError> {
    let Some(argument) = arguments.iter().rev().find(|argument| matches!(argument.option.name, "gdb" | "s")) else {
        return Ok(());
    };
    let text = if argument.option.name == "s" { vm::gdb::DEFAULT_DEVICE } else { argument.value };
    let device = vm::gdb::device(text).map_err(|error| argument.error(error.to_string()))?;
    let line = if matches!(device, Legacy::New(_)) { vm::gdb::Line::Own } else { vm::gdb::Line::Existing };
    let id = character.take(argument, device)?;
    if let Some(id) = id.as_ref().filter(|id| !character.has(id)) {
        return Err(argument.error(format!("could not find chardev '{id}'")));
    }
    character.gdb = id.map(line);
    Ok(())
}

fn monitors(arguments: &[Argument<'_>], character: &mut Character) -> Result<(), CliError> {
    let mut index = 0;
    for argument in arguments {
        let monitor = match argument.option.name {
            "mon" => monitor_option(argument)?,
            name @ ("qmp" | "qmp-pretty" | "monitor") => {
                // QEMU's own names, which clients see in query-chardev.
                let id = format!("compat_monitor{index}");
                let Some(chardev) = character.open(argument, &id)? else { continue };
                index += 1;
                MonitorConfig { chardev, pretty: name == "qmp-pretty", is_human: name == "monitor" }
            }
            _ => continue,
        };
        if !character.has(&monitor.chardev) {
            return Err(argument.error(format!("chardev \"{}\" not found", monitor.chardev)));
        }
        character.monitors.push(monitor);
    }
    Ok(())
}

/// `-mon chardev=ID,mode=control[,pretty=on]`; without a mode it is for a person.
fn monitor_option(argument: &Argument<'_>) -> Result<MonitorConfig, CliError> {
    let mut values = Values::parse(*argument, Some("chardev"))?;
    let chardev = values.required("chardev")?;
    let mode = values.text("mode")?;
    let pretty = values.flag("pretty")?.unwrap_or(false);
    match mode.as_deref() {
        Some("control" | "readline") | None => {}
        Some(other) => return Err(argument.error(format!("Parameter 'mode' does not accept value '{other}'"))),
    }
    let is_human = mode.as_deref() != Some("control");
    if is_human && pretty {
        return Err(argument.error("'pretty' is not compatible with HMP monitors"));
    }
    values.finish()?;
    Ok(MonitorConfig { chardev, pretty, is_human })
}
