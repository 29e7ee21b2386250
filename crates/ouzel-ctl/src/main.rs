//! A person's QMP shell: `ouzel-ctl ADDRESS [COMMAND [KEY=VALUE…]]`.
//!
//! Without a command it reads lines: from a person, with completion from the server's schema, or from
//! a script. The exit status is 1 if a command failed, and 2 if it was used wrongly or there is no
//! connection.

#![forbid(unsafe_code)]

mod arguments;
mod complete;
mod line;
mod output;
mod session;
mod shell;

use arguments::{Action, Arguments};
use session::Session;
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

const FAILED: u8 = 1;
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("ouzel-ctl: {text}\nTry 'ouzel-ctl --help'.");
            return ExitCode::from(UNUSABLE);
        }
    };
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprint!("ouzel-ctl: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Says whether every command succeeded.
fn run(arguments: Arguments) -> Result<bool, session::SessionError> {
    let style = output::Style::new(arguments.json, arguments.color);
    let (address, action) = match arguments.action {
        Action::Help => {
            print!("{}", arguments::HELP);
            return Ok(true);
        }
        Action::Version => {
            println!("ouzel-ctl {}", env!("CARGO_PKG_VERSION"));
            return Ok(true);
        }
        Action::Connect { address, commands } => (address, commands),
    };
    let mut session = Session::connect(&address, style)?;
    match action {
        arguments::Commands::Words(words) => session.run_words(&words),
        arguments::Commands::Lines(lines) => run_lines(&mut session, lines.into_iter().map(Ok)),
        arguments::Commands::Input if std::io::stdin().is_terminal() => shell::run(session, &address),
        arguments::Commands::Input => run_lines(&mut session, std::io::stdin().lock().lines()),
    }
}

/// Runs all lines, whatever becomes of each.
fn run_lines(
    session: &mut Session,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> Result<bool, session::SessionError> {
    let mut succeeded = true;
    for line in lines {
        let line = line.map_err(qmp::client::ClientError::from)?;
        match session.run_line(&line)? {
            session::Outcome::Leave => break,
            session::Outcome::Succeeded => {}
            session::Outcome::Failed => succeeded = false,
        }
    }
    Ok(succeeded)
}
