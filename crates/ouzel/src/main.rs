//! The emulator: QEMU's command line over the control thread.

#![forbid(unsafe_code)]

mod cli;

use std::path::Path;
use std::process::ExitCode;

use cli::{CliError, CommandLine, Line, Request};
use vm::program::Program;

/// The program's name in messages: as it was called.
fn program_name(arguments: &[String]) -> String {
    let path = arguments.first().map(Path::new).and_then(Path::file_name);
    path.map_or_else(|| "ouzel".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let name = program_name(&arguments);
    let fail = |message: String| {
        eprintln!("{name}: {message}");
        ExitCode::FAILURE
    };
    match cli::parse(arguments.get(1..).unwrap_or_default()) {
        Ok(Request::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Request::Run(command_line)) => match run(*command_line, &arguments, &name) {
            Ok(status) => ExitCode::from(status as u8),
            Err(message) => fail(message),
        },
        Err(CliError::NoAccelerator(lines)) => {
            print_lines(&lines, &name);
            ExitCode::FAILURE
        }
        Err(error) => fail(error.to_string()),
    }
}

fn print_lines(lines: &[Line], name: &str) {
    for line in lines {
        match line {
            Line::Plain(text) => eprintln!("{text}"),
            Line::Named(text) => eprintln!("{name}: {text}"),
        }
    }
}

/// Runs the machine; returns the exit status.
fn run(command_line: CommandLine, arguments: &[String], name: &str) -> Result<i32, String> {
    let CommandLine { vm, daemonize, pidfile, log, warnings, lines } = command_line;
    if !process::is_daemon() {
        print_lines(&lines, name);
    }
    for warning in warnings {
        eprintln!("{name}: warning: {warning}");
    }
    if daemonize && !process::is_daemon() {
        return process::start_daemon(arguments);
    }
    log.activate().map_err(|error| error.to_string())?;
    let pidfile = pidfile.as_deref().map(process::Pidfile::create).transpose()?;
    let program = Program::start(&vm).map_err(|error| error.to_string())?;
    if daemonize {
        process::report_ready()?;
    }
    let status = program.run();
    drop(pidfile);
    Ok(status)
}
