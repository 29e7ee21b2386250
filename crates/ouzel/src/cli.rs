//! The command line: QEMU's options, its grammar, its messages.
//!
//! [`options`] is the table of what exists; [`arguments`] splits the command line by it; the other modules turn the
//! options of one subject into values. The result is a [`CommandLine`]: a [`VmConfig`] and what concerns the process.

mod accelerators;
mod arguments;
mod block;
mod character;
mod compat;
mod devices;
mod display;
mod firmware;
mod globals;
mod help;
mod ide;
mod machine;
mod numa;
mod options;
mod platform;
mod qtest;
mod readconfig;
mod remote;
mod run;
mod smp;
mod types;
mod usb;
mod value;
mod virtio;
mod virtio_devices;

use std::path::PathBuf;

use vm::config::VmConfig;
use vm::log::LogConfig;

pub use arguments::Argument;
use arguments::given;

/// What is wrong with the command line, or why something that it names can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// A message without an option.
    #[error("{0}")]
    Plain(String),
    /// A message about one option as it was given.
    #[error("{option}: {message}")]
    Option {
        /// The option and its value: `-smp 2,foo=3`.
        option: String,
        /// What is wrong.
        message: String,
    },
    /// No accelerator can be had: what each of them said.
    #[error("no accelerator found")]
    NoAccelerator(Vec<Line>),
}

impl CliError {
    fn plain(message: impl Into<String>) -> Self {
        Self::Plain(message.into())
    }
}

/// A line for standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// As it is.
    Plain(String),
    /// Behind the program's name.
    Named(String),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Print this and end.
    Print(String),
    /// Run a machine.
    Run(Box<CommandLine>),
}

/// A parsed command line.
#[derive(Debug)]
pub struct CommandLine {
    /// The machine and its monitors.
    pub vm: VmConfig,
    /// Run in the background.
    pub daemonize: bool,
    /// Write the process id here, and hold a lock on the file.
    pub pidfile: Option<PathBuf>,
    /// `-d`, `-D` and `-trace`.
    pub log: LogConfig,
    /// Things to tell the user.
    pub warnings: Vec<String>,
    /// What accelerators said that can't be had, and of old names.
    pub lines: Vec<Line>,
}

/// Parses a command line without the program's name.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(arguments: &[String]) -> Result<Request, CliError> {
    let arguments = readconfig::expand(arguments)?;
    let arguments = arguments::split(&arguments)?;
    if let Some(text) = help::requested(&arguments)? {
        return Ok(Request::Print(text));
    }
    let (mut warnings, mut lines) = (Vec::new(), Vec::new());
    let mut character = character::settings(&arguments, &mut lines)?;
    let (vnc, display) = remote::settings(&arguments, &mut warnings)?;
    let qtest = qtest::settings(&arguments, &mut character)?;
    let run = run::settings(&arguments)?;
    let mut devices = devices::settings(&arguments, &character)?;
    let storage = self::block::settings(&arguments, &mut devices)?;
    let about = (run.rtc, run.uuid, storage.objects.as_slice());
    let machine = machine::settings(&arguments, about, devices, &mut warnings, &mut lines)?;
    let mut machine = machine;
    firmware::connect_flash(&mut machine.firmware, &storage)?;
    let vm = VmConfig {
        name: run.name,
        uuid: run.uuid,
        machine,
        actions: run.actions,
        autostart: run.autostart,
        preconfig: given(&arguments, "preconfig"),
        chardevs: character.chardevs,
        storage,
        qtest,
        monitors: character.monitors,
        gdb: character.gdb,
        vnc,
        spice: remote::spice(&arguments)?,
        web: remote::web(&arguments)?,
        display,
        keyboard: arguments::last(&arguments, "k").map(|argument| argument.value.to_owned()),
        devices: devices::parser(&arguments)?,
        device_help: help::device_models,
        drives: self::block::parser(&arguments)?,
        options: options::for_query(),
    };
    let (daemonize, pidfile, log) = (run.daemonize, run.pidfile, run.log);
    Ok(Request::Run(Box::new(CommandLine { vm, daemonize, pidfile, log, warnings, lines })))
}

#[cfg(test)]
mod tests;
