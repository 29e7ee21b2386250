//! A person's QMP shell: `ouzel-ctl ADDRESS [COMMAND [KEY=VALUE…]]`.
//!
//! Without a command it reads lines: from a person, with completion from the server's schema, or from
//! a script. What a person types as `key=value` becomes JSON of the types that the schema wants.
//!
//! The exit status is 1 if a command was refused, and 2 for wrong usage, a line that cannot be read,
//! or trouble with the connection.

#![forbid(unsafe_code)]

mod args;
mod complete;
mod help;
mod input;
mod output;
mod session;
mod shell;
mod types;
mod user;

use args::{Action, Args, Commands};
use output::Style;
use session::{Outcome, Session, SessionError};
use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let action = match args::parse(lexopt::Parser::from_env()) {
        Ok(action) => action,
        Err(error) => {
            eprintln!("ouzel-ctl: {error}\nTry 'ouzel-ctl --help'.");
            return Outcome::Misused.into();
        }
    };
    let result = match action {
        Action::Help => output::print(args::HELP).map(|()| Outcome::Succeeded).map_err(SessionError::Output),
        Action::Version => {
            let text = concat!("ouzel-ctl ", env!("CARGO_PKG_VERSION"), "\n");
            output::print(text).map(|()| Outcome::Succeeded).map_err(SessionError::Output)
        }
        Action::SaslUser(name) => user::print(&name),
        Action::Run(args) => run(args),
    };
    match result {
        Ok(outcome) => outcome.into(),
        // Whoever read the output has seen enough.
        Err(SessionError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ouzel-ctl: {}", output::chain(&error));
            Outcome::Misused.into()
        }
    }
}

fn run(args: Args) -> Result<Outcome, SessionError> {
    let is_terminal = io::stdout().is_terminal();
    let style = Style::new(args.json, is_terminal);
    let mut session = Session::connect(&args, style)?;
    match args.commands {
        Commands::Words(words) => {
            let line = input::parse_words(words);
            session.run(line)
        }
        Commands::Lines(lines) => run_lines(&mut session, lines.into_iter().map(Ok), args.keep_going),
        Commands::Input if io::stdin().is_terminal() && is_terminal => shell::run(session, &args.address.to_string()),
        Commands::Input => run_lines(&mut session, io::stdin().lock().lines(), args.keep_going),
    }
}

/// Runs lines until one fails, or all of them. A request in JSON may span several lines.
fn run_lines(
    session: &mut Session,
    lines: impl Iterator<Item = io::Result<String>>,
    keep_going: bool,
) -> Result<Outcome, SessionError> {
    let mut worst = Outcome::Succeeded;
    let mut text = String::new();
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        text.push_str(&line.map_err(SessionError::Input)?);
        text.push('\n');
        if input::is_open(&text) && lines.peek().is_some() {
            continue;
        }
        let outcome = session.run(input::parse_line(&text))?;
        text.clear();
        match outcome {
            Outcome::Left => break,
            Outcome::Refused | Outcome::Misused if !keep_going => return Ok(outcome),
            _ => worst = worst.max(outcome),
        }
    }
    Ok(worst)
}
