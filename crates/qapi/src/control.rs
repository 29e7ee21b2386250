//! The monitor itself: negotiation, version, and what commands and events there are
//! (QEMU's `control.json`, `introspect.json`).

use crate::schema::SchemaInfo;
use crate::{Command, QapiType};

/// What a client and the monitor may agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum QMPCapability {
    /// Commands may run out of band.
    Oob,
}

/// Ends the negotiation: all commands may then be used.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qmp_capabilities", preconfig)]
pub struct QmpCapabilities {
    /// The capabilities to switch on, of those that the greeting offers.
    pub enable: Option<Vec<QMPCapability>>,
}

/// A version in three parts.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VersionTriple {
    /// The major number.
    pub major: i64,
    /// The minor number.
    pub minor: i64,
    /// The micro number; 50 and more mean a development version.
    pub micro: i64,
}

/// The version that the program claims to be compatible with.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VersionInfo {
    /// QEMU's version.
    pub qemu: VersionTriple,
    /// The package it comes from; may be empty.
    pub package: String,
}

/// Returns the version.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-version", returns = VersionInfo, preconfig)]
pub struct QueryVersion;

/// The name of a command.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CommandInfo {
    /// The name on the wire.
    pub name: String,
}

/// Lists the commands.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-commands", returns = Vec<CommandInfo>, preconfig)]
pub struct QueryCommands;

/// The name of an event.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct EventInfo {
    /// The name on the wire.
    pub name: String,
}

/// Lists the events. Later versions of QEMU leave it to `query-qmp-schema`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-events", returns = Vec<EventInfo>, preconfig, legacy)]
pub struct QueryEvents;

/// Describes all commands and events and the types that they use. Names of types mean nothing and
/// change from version to version: follow them from a command or event.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-qmp-schema", returns = Vec<SchemaInfo>, preconfig)]
pub struct QueryQmpSchema;

/// Ends the program.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "quit", preconfig)]
pub struct Quit;

/// Kinds of monitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum MonitorMode {
    /// For people.
    Readline,
    /// For programs: QMP.
    Control,
}

/// A monitor, on the command line.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MonitorOptions {
    /// Its name.
    pub id: Option<String>,
    /// Its kind.
    pub mode: Option<MonitorMode>,
    /// Whether replies are spread over lines; not if absent.
    pub pretty: Option<bool>,
    /// The character device it speaks on.
    pub chardev: String,
}
