//! `-vnc`, `-spice`, `-display`, `-web`: who sees the screen.

use vm::config::{SpiceConfig, VncConfig};

use super::arguments::{all, given, last};
use super::{Argument, CliError};

/// What there is without a word about displays.
const DEFAULT: &str = "localhost:0,to=99,id=default";

/// Reads the options.
pub fn settings(arguments: &[Argument<'_>]) -> Result<(Vec<VncConfig>, bool), CliError> {
    let mut has_terminal = false;
    let mut servers = Vec::new();
    let mut has_display = given(arguments, "nographic") || given(arguments, "web") || given(arguments, "spice");
    for argument in arguments {
        let text = match argument.option.name {
            "vnc" => argument.value,
            "display" => match (argument.value, argument.value.strip_prefix("vnc")) {
                ("none", _) => {
                    has_display = true;
                    continue;
                }
                ("default", _) => continue,
                ("curses", _) => {
                    (has_display, has_terminal) = (true, true);
                    continue;
                }
                (_, Some("")) => {
                    return Err(argument.error("VNC requires a display argument vnc=<display>"));
                }
                (_, Some(rest)) if rest.starts_with('=') => &rest[1..],
                (other, _) => return Err(unavailable(argument, other)),
            },
            _ => continue,
        };
        let source = format!("-{} {}", argument.option.name, argument.value);
        servers.push(VncConfig::parse(text, &source).map_err(|message| argument.error(message))?);
    }
    has_display |= !servers.is_empty() || all(arguments, "vnc").next().is_some();
    if !has_display {
        let source = format!("-vnc {DEFAULT}");
        servers.push(VncConfig::parse(DEFAULT, &source).map_err(CliError::Plain)?);
    }
    Ok((servers, has_terminal))
}

/// Reads `-spice`.
pub fn spice(arguments: &[Argument<'_>]) -> Result<Option<SpiceConfig>, CliError> {
    let mut servers = all(arguments, "spice");
    let Some(argument) = servers.next() else { return Ok(None) };
    if let Some(another) = servers.next() {
        return Err(another.error("there is one SPICE server, and it has its options already"));
    }
    SpiceConfig::parse(argument.value).map(Some).map_err(|message| argument.error(message))
}

/// Reads `-web`.
pub fn web(arguments: &[Argument<'_>]) -> Result<Option<web::Options>, CliError> {
    let Some(argument) = last(arguments, "web") else { return Ok(None) };
    web::Options::parse(argument.value).map(Some).map_err(|error| argument.error(error.to_string()))
}

/// The displays of other programs' windows and terminals.
const OTHERS: [&str; 6] = ["gtk", "sdl", "egl-headless", "cocoa", "spice-app", "dbus"];

fn unavailable(argument: &Argument<'_>, text: &str) -> CliError {
    let name = text.split(',').next().unwrap_or(text);
    if OTHERS.contains(&name) {
        return CliError::Plain(format!("Display '{name}' is not available."));
    }
    argument.error(format!("Parameter 'type' does not accept value '{name}'"))
}
