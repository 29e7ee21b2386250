//! `-d`, `-D` and `-trace`: what the program writes down about itself.
//!
//! The log is one file (or standard error). Trace events have names and are switched on by patterns; a switched-off
//! event costs one load.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An item of `-d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// Guest instructions as they are decoded.
    InAsm,
    /// Blocks as they are entered.
    Exec,
    /// Interrupts and exceptions as they are delivered.
    Interrupts,
    /// Registers at each block.
    Cpu,
    /// Registers at each CPU reset.
    CpuReset,
    /// Every block is entered on its own. That is so whenever blocks are written down.
    NoChain,
}

impl LogItem {
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Name, item, help.
const ITEMS: &[(&str, LogItem, &str)] = &[
    ("in_asm", LogItem::InAsm, "show guest code as it is decoded"),
    ("int", LogItem::Interrupts, "show interrupts and exceptions"),
    ("exec", LogItem::Exec, "show each block that is entered"),
    ("cpu", LogItem::Cpu, "show registers at each block that is entered"),
    ("nochain", LogItem::NoChain, "accepted: exec and cpu always show every block"),
    ("cpu_reset", LogItem::CpuReset, "show registers at each CPU reset"),
];

/// An event of `-trace`.
#[derive(Debug)]
pub struct TraceEvent {
    /// Its name.
    pub name: &'static str,
    enabled: AtomicBool,
}

impl TraceEvent {
    const fn new(name: &'static str) -> Self {
        Self { name, enabled: AtomicBool::new(false) }
    }

    /// Whether somebody wants it.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Switches it on or off.
    pub fn set_enabled(&self, is_enabled: bool) {
        self.enabled.store(is_enabled, Ordering::Relaxed);
    }

    /// Writes the event to the log if it is switched on.
    pub fn emit(&self, arguments: Arguments<'_>) {
        if self.is_enabled() {
            write(format_args!("{} {arguments}\n", self.name));
        }
    }
}

/// The run state changes.
pub static RUNSTATE_SET: TraceEvent = TraceEvent::new("runstate_set");
/// The guest starts or stops.
pub static VM_STATE_NOTIFY: TraceEvent = TraceEvent::new("vm_state_notify");
/// A QMP command is executed.
pub static HANDLE_QMP_COMMAND: TraceEvent = TraceEvent::new("handle_qmp_command");
/// The guest, or somebody for it, asks for a reset.
pub static SYSTEM_RESET_REQUEST: TraceEvent = TraceEvent::new("qemu_system_reset_request");
/// The guest, or somebody for it, asks for a shutdown.
pub static SYSTEM_SHUTDOWN_REQUEST: TraceEvent = TraceEvent::new("qemu_system_shutdown_request");
/// Somebody presses the power button.
pub static SYSTEM_POWERDOWN_REQUEST: TraceEvent = TraceEvent::new("qemu_system_powerdown_request");

/// All the trace events.
pub static TRACE_EVENTS: [&TraceEvent; 6] = [
    &RUNSTATE_SET,
    &VM_STATE_NOTIFY,
    &HANDLE_QMP_COMMAND,
    &SYSTEM_RESET_REQUEST,
    &SYSTEM_SHUTDOWN_REQUEST,
    &SYSTEM_POWERDOWN_REQUEST,
];

/// What is wrong with a log option.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// An unknown item of `-d`.
    #[error("unknown log item '{0}'; -d help lists them")]
    UnknownItem(String),
    /// A pattern that no event matches.
    #[error("no trace event matches '{0}'; -trace help lists them")]
    UnknownEvent(String),
    /// A name with a percent sign that does not stand for the number of this process.
    #[error("Bad logfile template: {0}")]
    Template(String),
    /// A log that can't be opened.
    #[error("Error opening logfile {path}: {}", crate::host_error(.source))]
    Log {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file that can't be opened.
    #[error("cannot open '{path}'")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What shall be written down, and where.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// The items of `-d`.
    pub items: Vec<LogItem>,
    /// The events of `-trace`, by name.
    pub events: Vec<&'static str>,
    /// The file; standard error without one.
    pub file: Option<PathBuf>,
}

impl LogConfig {
    /// Adds the comma-separated items of `-d`.
    ///
    /// # Errors
    /// [`LogError::UnknownItem`].
    pub fn add_items(&mut self, list: &str) -> Result<(), LogError> {
        for name in list.split(',').filter(|name| !name.is_empty()) {
            if let Some(pattern) = name.strip_prefix("trace:") {
                self.add_pattern(pattern)?;
                continue;
            }
            let known = ITEMS.iter().find(|(item, _, _)| *item == name);
            let (_, item, _) = known.ok_or_else(|| LogError::UnknownItem(name.to_owned()))?;
            self.items.push(*item);
        }
        Ok(())
    }

    /// Adds a `-trace` option: a pattern, a file with a pattern on each line, and the log's file.
    ///
    /// # Errors
    /// [`LogError::UnknownEvent`], [`LogError::Open`].
    pub fn add_trace(
        &mut self,
        enable: Option<&str>,
        events: Option<&str>,
        file: Option<&str>,
    ) -> Result<(), LogError> {
        if let Some(pattern) = enable {
            self.add_pattern(pattern)?;
        }
        if let Some(path) = events {
            let text =
                std::fs::read_to_string(path).map_err(|source| LogError::Open { path: path.to_owned(), source })?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                self.add_pattern(line)?;
            }
        }
        if let Some(file) = file {
            self.file = Some(PathBuf::from(file));
        }
        Ok(())
    }

    /// `name`, `prefix*`, `*`; with a leading `-` it switches off.
    fn add_pattern(&mut self, pattern: &str) -> Result<(), LogError> {
        let (negated, pattern) = pattern.strip_prefix('-').map_or((false, pattern), |rest| (true, rest));
        let matches: Vec<&'static str> =
            TRACE_EVENTS.iter().map(|event| event.name).filter(|name| glob(pattern, name)).collect();
        if matches.is_empty() {
            return Err(LogError::UnknownEvent(pattern.to_owned()));
        }
        self.events.retain(|name| !matches.contains(name));
        if !negated {
            self.events.extend(matches);
        }
        Ok(())
    }

    /// Whether an item was asked for.
    pub fn has(&self, item: LogItem) -> bool {
        self.items.contains(&item)
    }

    /// Opens the log and switches the events on.
    ///
    /// # Errors
    /// [`LogError::Template`], [`LogError::Log`].
    pub fn activate(&self) -> Result<(), LogError> {
        if let Some(path) = &self.file {
            open(path)?;
        }
        set_items(&self.items);
        // A second program in one process keeps the first one's subscriber.
        let _ = tracing::subscriber::set_global_default(Warnings);
        for event in TRACE_EVENTS {
            event.set_enabled(self.events.contains(&event.name));
        }
        Ok(())
    }
}

/// The events whose names match a pattern; all of those that are named without `*` must exist.
///
/// # Errors
/// There is none of that name.
pub fn events(pattern: &str) -> Result<Vec<&'static TraceEvent>, String> {
    let found: Vec<_> = TRACE_EVENTS.into_iter().filter(|event| glob(pattern, event.name)).collect();
    match found.is_empty() && !pattern.contains('*') {
        true => Err(format!("unknown event \"{pattern}\"")),
        false => Ok(found),
    }
}

/// Matches `*` against any text.
fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| glob(tail, rest)))),
    }
}

/// The file; standard error without one.
static LOG_FILE: Mutex<Option<File>> = Mutex::new(None);
/// The bits of the items that are on.
static ITEMS_ON: AtomicU32 = AtomicU32::new(0);

fn log_file() -> MutexGuard<'static, Option<File>> {
    LOG_FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the log go to a file, for all of this process. What is in it is lost, but for a second file, which goes on.
///
/// # Errors
/// [`LogError::Template`], [`LogError::Log`].
pub fn open(path: &Path) -> Result<(), LogError> {
    let name = path.to_string_lossy();
    let path = match name.split_once('%') {
        None => path.to_owned(),
        Some((head, tail)) => match tail.strip_prefix('d').filter(|tail| !tail.contains('%')) {
            Some(tail) => PathBuf::from(format!("{head}{}{tail}", std::process::id())),
            None => return Err(LogError::Template(name.into_owned())),
        },
    };
    let mut log = log_file();
    let appends = log.is_some();
    let opened = File::options().write(true).create(true).append(appends).truncate(!appends).open(&path);
    *log = Some(opened.map_err(|source| LogError::Log { path: path.display().to_string(), source })?);
    Ok(())
}

/// Switches these items on, and all others off.
pub fn set_items(items: &[LogItem]) {
    ITEMS_ON.store(items.iter().fold(0, |bits, item| bits | item.bit()), Ordering::Relaxed);
}

/// Whether an item is on.
pub fn is_on(item: LogItem) -> bool {
    ITEMS_ON.load(Ordering::Relaxed) & item.bit() != 0
}

/// Writes to the log.
pub fn write(arguments: Arguments<'_>) {
    // In one piece: a file takes each write as a system call.
    let text = std::fmt::format(arguments);
    // Nobody could be told about a log that can't be written.
    let _ = match &mut *log_file() {
        Some(file) => file.write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
}

/// Shows what the libraries warn about on standard error.
struct Warnings;

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        // Spans are not told apart: nobody reads them.
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut Text(&mut text));
        eprintln!("warning: {}", text.trim_end());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Writes an event's fields as text, its message without a name.
struct Text<'a>(&'a mut String);

impl tracing::field::Visit for Text<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let text = match field.name() {
            "message" => format!("{value:?} "),
            name => format!("{name}={value:?} "),
        };
        self.0.push_str(&text);
    }
}

/// The text of `-d help`.
pub fn items_help() -> String {
    format!("{}trace:PATTERN   enable trace events (-d trace:help lists them)\n", items_list(None))
}

/// The text of the monitor's `help log`.
pub fn monitor_help() -> String {
    let list = items_list(Some(("none", "remove all logs")));
    format!("{list}trace:PATTERN   enable trace events\n\nUse \"log trace:help\" to get a list of trace events.\n\n")
}

fn items_list(first: Option<(&str, &str)>) -> String {
    let mut text = "Log items (comma separated):\n".to_owned();
    for (name, help) in first.into_iter().chain(ITEMS.iter().map(|(name, _, help)| (*name, *help))) {
        text.push_str(&format!("{name:<15} {help}\n"));
    }
    text
}

/// The text of `-trace help`.
pub fn trace_help() -> String {
    TRACE_EVENTS.iter().fold(String::new(), |text, event| text + event.name + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_and_deselect_events() {
        let mut config = LogConfig::default();
        config.add_trace(Some("qemu_system_*"), None, None).expect("pattern");
        assert_eq!(config.events.len(), 3);
        config.add_items("int,trace:-*reset*,trace:runstate_set").expect("items");
        assert_eq!(config.events, ["qemu_system_shutdown_request", "qemu_system_powerdown_request", "runstate_set"]);
        assert!(config.has(LogItem::Interrupts) && !config.has(LogItem::Cpu));
        assert!(config.add_items("nope").is_err());
        assert!(config.add_trace(Some("nope*"), None, None).is_err());
    }
}
