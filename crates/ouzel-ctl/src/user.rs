//! A line for a file of SASL users: the name, and what tells nobody the password.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::output;
use crate::session::{Outcome, SessionError};

/// Rounds of the key derivation: what RFC 7677 gives for hand-held devices of its day, and a server for many.
const ITERATIONS: u32 = 15_000;

/// Reads a password from standard input and prints the line of that user.
pub(crate) fn print(name: &str) -> Result<Outcome, SessionError> {
    let password = read_password().map_err(SessionError::Input)?;
    if password.is_empty() {
        return Err(SessionError::Input(io::Error::other("there is no password")));
    }
    let mut salt = [0; 16];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut salt)).map_err(SessionError::Input)?;
    let verifier = sasl::Verifier::new(&password, &salt, ITERATIONS);
    output::print(&format!("{name}:{verifier}\n")).map_err(SessionError::Output)?;
    Ok(Outcome::Succeeded)
}

/// A line of standard input; a terminal does not show it.
fn read_password() -> io::Result<String> {
    let input = io::stdin();
    let before = if input.is_terminal() { Some(tcgetattr(&input)?) } else { None };
    if let Some(mode) = &before {
        write!(io::stderr(), "Password: ")?;
        let mut quiet = mode.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &quiet)?;
    }
    let mut line = String::new();
    let read = input.read_line(&mut line);
    if let Some(mode) = &before {
        tcsetattr(&input, OptionalActions::Flush, mode)?;
        writeln!(io::stderr())?;
    }
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
