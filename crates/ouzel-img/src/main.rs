//! `ouzel-img`: creates, converts, checks and describes disk images. Commands, options, messages and exit statuses are
//! those of `qemu-img` 7.2, so that scripts can swap the name.
//!
//! One module a command; [`tool`] has what they share. What images are made of is in crate `block`, what is done to
//! whole images in crate `block-tools`.

#![forbid(unsafe_code)]

/// Prints to standard output. Nobody may be reading any more: that is no reason to stop.
macro_rules! out {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($arg)*);
    }};
}

/// As [`out`], with a line break.
macro_rules! outln {
    () => { out!("\n") };
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod amend;
mod bench;
mod bitmap;
mod check;
mod cli;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod help;
mod info;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;
mod tool;

use std::process::ExitCode;

use cli::{Failure, Outcome};

type Command = fn(&[String]) -> Outcome;

const COMMANDS: &[(&str, Command)] = &[
    ("amend", amend::run),
    ("bench", bench::run),
    ("bitmap", bitmap::run),
    ("check", check::run),
    ("commit", commit::run),
    ("compare", compare::run),
    ("convert", convert::run),
    ("create", create::run),
    ("dd", dd::run),
    ("info", info::run),
    ("map", map::run),
    ("measure", measure::run),
    ("rebase", rebase::run),
    ("resize", resize::run),
    ("snapshot", snapshot::run),
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    if let Some(path) = args.next() {
        tool::set_program(&path);
    }
    let args: Vec<String> = args.collect();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(message) = &failure.message {
                tool::complain(message);
            }
            if failure.usage {
                eprintln!("Try '{} --help' for more information", tool::program());
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(args: &[String]) -> Outcome {
    if args.is_empty() {
        return Err(Failure::usage("Not enough arguments"));
    }
    let mut at = 0;
    if let Some(arg) = args.first().filter(|arg| arg.starts_with('-')) {
        match arg.as_str() {
            "-h" | "--help" => return Ok(help::print()),
            "-V" | "--version" => {
                outln!("{} version {} (Ouzel)", tool::program(), env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            "-T" | "--trace" => return Err(Failure::new("Trace events are not supported")),
            "--" => at = 1,
            _ => return Err(Failure::usage(format!("unrecognized option '{arg}'"))),
        }
    }
    let Some(name) = args.get(at) else { return Ok(0) };
    let Some((_, command)) = COMMANDS.iter().find(|(known, _)| known == name) else {
        return Err(Failure::usage(format!("Command not found: {name}")));
    };
    let rest = &args[at + 1..];
    if rest.iter().take_while(|arg| *arg != "--").any(|arg| arg == "-h" || arg == "--help") {
        return Ok(help::print());
    }
    command(rest)
}
