//! The tool's own command line.

use lexopt::prelude::{Long, Short, Value, ValueExt as _};
use qmp::client::Address;
use std::ffi::OsString;
use std::time::Duration;

pub(crate) const HELP: &str = "\
A shell for QMP servers.

Usage: ouzel-ctl [OPTION...] ADDRESS [COMMAND [KEY=VALUE...]]

ADDRESS is a path, unix:PATH, HOST:PORT or tcp:HOST:PORT.
A command is a name with arguments, or a whole request in JSON. Values are typed
through the server's schema; nested ones are written A.B=VALUE, elements of
arrays A.0=VALUE, and values may be JSON.
Without a command, a shell is started; if standard input is no terminal, each
of its lines is run. 'help' says what the server knows.

Options:
  -c, --command LINE     run this line; may be given several times
      --json             print each result as one line of JSON
      --keep-going       go on after a line that failed
      --timeout SECONDS  wait no longer for each reply (else without end)
      --wait SECONDS     so long try again while no server is there
  -h, --help             show this help
      --sasl-user NAME   read a password, and print the line for this user in the
                         file that -vnc ...,sasl=on,sasl-users=FILE reads
      --version          show the version

Exit status: 0; 1 if the server refused a command; 2 for wrong usage, a line
that cannot be read, or trouble with the connection.
";

/// Where commands come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commands {
    /// One, its words as the caller's shell has split them.
    Words(Vec<String>),
    /// Lines of `-c`.
    Lines(Vec<String>),
    /// Standard input.
    Input,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Help,
    Version,
    /// Print a line of a file of users.
    SaslUser(String),
    Run(Args),
}

/// How commands are to be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) address: Address,
    pub(crate) commands: Commands,
    pub(crate) json: bool,
    pub(crate) keep_going: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait: Duration,
}

/// Reads the command line.
pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Action, lexopt::Error> {
    let mut address = None;
    let (mut words, mut lines) = (Vec::new(), Vec::new());
    let (mut json, mut keep_going) = (false, false);
    let (mut timeout, mut wait) = (None, Duration::ZERO);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Action::Help),
            Long("version") => return Ok(Action::Version),
            Long("sasl-user") => return Ok(Action::SaslUser(parser.value()?.parse_with(user)?)),
            Short('c') | Long("command") => lines.push(parser.value()?.string()?),
            Long("json") => json = true,
            Long("keep-going") => keep_going = true,
            Long("timeout") => timeout = Some(parser.value()?.parse_with(seconds)?),
            Long("wait") => wait = parser.value()?.parse_with(seconds)?,
            Value(value) if address.is_none() => address = Some(address_of(value)),
            Value(value) => words.push(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let address = address.ok_or("no address is given")?;
    let commands = match (words.is_empty(), lines.is_empty()) {
        (false, false) => return Err("either -c or a command, not both".into()),
        (false, true) => Commands::Words(words),
        (true, false) => Commands::Lines(lines),
        (true, true) => Commands::Input,
    };
    Ok(Action::Run(Args { address, commands, json, keep_going, timeout, wait }))
}

fn address_of(text: OsString) -> Address {
    // What is not text can only be a path.
    text.into_string().map_or_else(|text| Address::Unix(text.into()), |text| Address::parse(&text))
}

fn user(name: &str) -> Result<String, &'static str> {
    let is_name = !name.is_empty() && !name.contains([':', '#']) && !name.contains(char::is_control);
    if is_name && name.trim() == name { Ok(name.to_owned()) } else { Err("not a name for a file of users") }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a number of seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Action, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
    }

    fn args(words: &[&str]) -> Args {
        match parsed(words) {
            Ok(Action::Run(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_come_from_one_place() {
        assert_eq!(args(&["/q"]).commands, Commands::Input);
        let words = ["stop", "a=-1"].map(str::to_owned).to_vec();
        assert_eq!(args(&["/q", "stop", "--json", "a=-1"]).commands, Commands::Words(words));
        let lines = ["stop", "cont"].map(str::to_owned).to_vec();
        assert_eq!(args(&["-c", "stop", "/q", "-ccont"]).commands, Commands::Lines(lines));
    }

    #[test]
    fn options_are_read_wherever_they_stand() {
        let args = args(&["/q", "--timeout=1.5", "stop", "--wait", "2", "--keep-going"]);
        assert_eq!((args.timeout, args.wait), (Some(Duration::from_millis(1500)), Duration::from_secs(2)));
        assert_eq!((args.json, args.keep_going), (false, true));
        assert_eq!(parsed(&["/q", "-h"]), Ok(Action::Help));
        assert_eq!(parsed(&["--version"]), Ok(Action::Version));
        assert_eq!(parsed(&["--sasl-user", "ann"]), Ok(Action::SaslUser("ann".to_owned())));
    }

    #[test]
    fn wrong_usage_is_named() {
        let cases = [
            (&[][..], "no address"),
            (&["--nonsense"], "nonsense"),
            (&["--sasl-user", "a:b"], "not a name for a file of users"),
            (&["/q", "-c"], "-c"),
            (&["-c", "stop", "/q", "cont"], "not both"),
            (&["/q", "--timeout", "soon"], "not a number of seconds"),
            (&["/q", "--timeout", "-1"], "not a number of seconds"),
            (&["/q", "--wait", "inf"], "not a number of seconds"),
        ];
        for (words, part) in cases {
            let error = parsed(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
