//! `-vnc`, `-spice`, `-display`, `-web`: who sees the screen.

use qapi::vnc::{DisplayGLMode, DisplayKind, DisplayOptions, DisplayType};
use vm::config::{SpiceConfig, VncConfig};

use super::arguments::{all, given, last};
use super::{Argument, CliError};

/// What there is without a word about displays.
const DEFAULT: &str = "localhost:0,to=99,id=default";

/// Reads the options: the VNC servers, and the display on this host.
pub fn settings(
    arguments: &[Argument<'_>],
    warnings: &mut Vec<String>,
) -> Result<(Vec<VncConfig>, DisplayOptions), CliError> {
    let mut local = DisplayOptions::default();
    let mut servers = Vec::new();
    let mut has_display = given(arguments, "nographic") || given(arguments, "web") || given(arguments, "spice");
    for argument in arguments {
        let text = match (argument.option.name, argument.value.strip_prefix("vnc")) {
            ("vnc", _) => argument.value,
            ("display", Some("")) => return Err(argument.error("VNC requires a display argument vnc=<display>")),
            ("display", Some(rest)) if rest.starts_with('=') => &rest[1..],
            ("display", _) => {
                local = display(argument, warnings)?;
                has_display |= local.kind != DisplayKind::Other(DisplayType::Default);
                continue;
            }
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
    Ok((servers, local))
}

/// A display on this host.
fn display(argument: &Argument<'_>, warnings: &mut Vec<String>) -> Result<DisplayOptions, CliError> {
    let name = argument.value.split(',').next().unwrap_or_default();
    if OTHERS.contains(&name) {
        return Err(CliError::Plain(format!("Display '{name}' is not available.")));
    }
    let display: DisplayOptions = argument.typed("type")?;
    if display.gl.is_some_and(|mode| mode != DisplayGLMode::Off) {
        return Err(CliError::plain("OpenGL is not supported by the display"));
    }
    if display.window_close.is_some() {
        warnings.push("window-close is only valid for GTK and SDL, ignoring option".to_owned());
    }
    if let DisplayKind::Curses(curses) = &display.kind
        && let Some(charset) = curses.charset.as_ref().filter(|charset| !charset.eq_ignore_ascii_case("cp437"))
    {
        return Err(
            argument.error(format!("charset '{charset}' is not supported: the screen's letters are read as CP437"))
        );
    }
    Ok(display)
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
