//! The human monitor: its commands, mapped onto QMP commands where there are such.
//!
//! Names, arguments and the texts that scripts read are those of QEMU 7.2. Topics without a subject here are absent:
//! networks, migration, snapshots of machines, sound, TPM.

mod block;
mod debugging;
mod info;
mod lapic;
mod machine;
mod memory;
mod monitor;
mod nbd;
pub mod readable;
mod snapshots;
mod stats;
mod system;
mod virtio;

use std::collections::BTreeMap;

use ::hmp::{Arguments, CommandSpec, arguments};
use qapi::json::{Map, Value};
use qmp::SessionContext;

pub use self::monitor::HumanMonitor;
use crate::control::Control;

/// Takes what a command prints, with `\n` at line ends.
pub type Done = Box<dyn FnOnce(String) + Send>;

/// What a command leads to.
enum Outcome {
    /// This text.
    Text(String),
    /// A QMP command, and what is printed of its result.
    Call { name: &'static str, arguments: Map, show: Box<dyn FnOnce(&Value) -> String + Send> },
    /// Work on a thread of its own, which tells its text itself.
    Aside(Box<dyn FnOnce() -> String + Send>),
}

/// What a command may use.
struct Human<'a> {
    control: &'a mut Control,
    context: &'a mut SessionContext,
}

/// A command.
struct Command {
    spec: CommandSpec,
    run: fn(&mut Human<'_>, &Arguments) -> Outcome,
}

const fn command(
    name: &'static str,
    arguments: &'static str,
    parameters: &'static str,
    help: &'static str,
    run: fn(&mut Human<'_>, &Arguments) -> Outcome,
) -> Command {
    Command { spec: CommandSpec { name, arguments, parameters, help }, run }
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Nothing to be printed.
fn silent() -> Outcome {
    Outcome::Text(String::new())
}

/// A QMP command whose success prints nothing.
fn call(name: &'static str, arguments: impl IntoIterator<Item = (&'static str, Value)>) -> Outcome {
    shown(name, arguments, |_| String::new())
}

/// The same with arguments that are an object already.
fn call_quietly(name: &'static str, arguments: Map) -> Outcome {
    Outcome::Call { name, arguments, show: Box::new(|_| String::new()) }
}

/// A QMP command, and how its result is shown.
fn shown(
    name: &'static str,
    arguments: impl IntoIterator<Item = (&'static str, Value)>,
    show: impl FnOnce(&Value) -> String + Send + 'static,
) -> Outcome {
    Outcome::Call { name, arguments: Map::from_iter(arguments), show: Box::new(show) }
}

/// A list of arguments without those that were not given.
fn given<const N: usize>(all: [(&'static str, Option<Value>); N]) -> Vec<(&'static str, Value)> {
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(number) => number.as_i64().map(|number| number.to_string()).unwrap_or_default(),
        None => String::new(),
    }
}

fn commands() -> impl Iterator<Item = &'static Command> {
    [block::COMMANDS, debugging::COMMANDS, memory::COMMANDS, nbd::COMMANDS, snapshots::COMMANDS, system::COMMANDS]
        .into_iter()
        .flatten()
}

/// The topics of `info`.
fn topics() -> impl Iterator<Item = &'static Command> {
    [info::COMMANDS, virtio::TOPICS].into_iter().flatten()
}

impl Human<'_> {
    /// The CPU that commands look at.
    fn cpu(&self) -> usize {
        self.context.default_cpu().unwrap_or(0) as usize
    }
}

/// Runs a line and tells what it prints.
pub fn execute(control: &mut Control, context: &mut SessionContext, line: &str, done: Done) {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return done(String::new());
    }
    let (name, rest) = split(line);
    let (found, name, rest) = if name == "info" && !rest.trim().is_empty() {
        let (item, rest) = split(rest.trim_start());
        (topics().find(|command| command.spec.is(item)), format!("info {item}"), rest)
    } else {
        (commands().find(|command| command.spec.is(name)), name.to_owned(), rest)
    };
    if name == "help" || name == "?" || name == "info" {
        return done(help(if name == "info" { "info" } else { rest.trim() }));
    }
    let Some(command) = found else {
        return done(format!("unknown command: '{name}'\n"));
    };
    let registers = memory::registers(control, context);
    let lookup = |name: &str| registers.get(name).copied();
    let read =
        arguments::parse(command.spec.first_name(), command.spec.arguments, rest, &lookup, control.human_format());
    let arguments = match read {
        Ok(arguments) => arguments,
        Err(error) => return done(format!("{error}\nTry \"help {name}\" for more information\n")),
    };
    let outcome = (command.run)(&mut Human { control, context }, &arguments);
    match outcome {
        Outcome::Text(text) => done(text),
        Outcome::Call { name, arguments, show } => control.call(context, name, arguments, move |result| {
            done(match result {
                Ok(value) => show(&value),
                Err(error) => format!("Error: {}\n", error.desc),
            });
        }),
        Outcome::Aside(work) => {
            let spawned = std::thread::Builder::new().name("monitor work".into()).spawn(move || done(work()));
            if let Err(error) = spawned {
                // Whoever waits for the text went with the closure.
                eprintln!("cannot start a thread: {error}");
            }
        }
    }
}

/// The first word; `x/10i` is the word `x`.
fn split(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    line.split_at(end)
}

fn help(of: &str) -> String {
    let line = |prefix: &str, spec: &CommandSpec| {
        let CommandSpec { name, parameters, help, .. } = spec;
        format!("{prefix}{name} {parameters} -- {help}\n")
    };
    if of == "info" {
        return topics().map(|command| line("info ", &command.spec)).collect();
    }
    if of == "log" {
        return crate::log::monitor_help();
    }
    let wanted = |command: &&Command| of.is_empty() || command.spec.is(of);
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for command in commands().filter(wanted) {
        lines.insert(command.spec.name, line("", &command.spec));
    }
    if of.is_empty() {
        lines.insert("help|?", "help|? [cmd] -- show what commands there are\n".into());
        lines.insert("info", "info [subcommand] -- show information about the machine\n".into());
    }
    lines.into_values().collect()
}

/// What may stand for the word at the end of `line`, and the word.
pub fn candidates(control: &mut Control, line: &str) -> (String, Vec<String>) {
    let words: Vec<&str> = line.split(' ').collect();
    let last = words.last().copied().unwrap_or_default().to_owned();
    let names = |of: &mut dyn Iterator<Item = &'static Command>| -> Vec<String> {
        of.flat_map(|command| command.spec.name.split('|')).map(str::to_owned).collect()
    };
    let mut all = match words.as_slice() {
        [] | [_] => {
            let mut all = names(&mut commands());
            all.extend(["help".to_owned(), "info".to_owned()]);
            all
        }
        ["info", _] => names(&mut topics()),
        ["help" | "?", _] => names(&mut commands()),
        [command, ..] => {
            let found = commands().find(|known| known.spec.is(command));
            let kinds = found.map(|command| arguments::types(command.spec.arguments).map(|(_, kind)| kind));
            let kinds: Vec<&str> = kinds.into_iter().flatten().filter(|kind| !kind.starts_with('-')).collect();
            let position = words.iter().skip(1).filter(|word| !word.starts_with('-')).count();
            match kinds.get(position.saturating_sub(1)) {
                Some(kind) if kind.starts_with('B') => {
                    control.storage_graph().backends().iter().map(|backend| backend.name().to_owned()).collect()
                }
                Some(kind) if kind.starts_with('F') => files(&last),
                _ => Vec::new(),
            }
        }
    };
    all.retain(|candidate| candidate.starts_with(&last));
    all.sort();
    all.dedup();
    (last, all)
}

/// Names of files that begin so; directories end with a slash.
fn files(begin: &str) -> Vec<String> {
    let directory = begin.rfind('/').map_or("", |at| begin.get(..=at).unwrap_or_default());
    let Ok(entries) = std::fs::read_dir(if directory.is_empty() { "." } else { directory }) else {
        return Vec::new();
    };
    let name = |entry: std::fs::DirEntry| {
        let slash = if entry.path().is_dir() { "/" } else { "" };
        format!("{directory}{}{slash}", entry.file_name().to_string_lossy())
    };
    entries.filter_map(Result::ok).map(name).take(1000).collect()
}
