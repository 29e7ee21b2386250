//! The tool's own command line.

pub(crate) const HELP: &str = "\
Talk to a QMP server.

Usage: ouzel-ctl [OPTION…] ADDRESS [COMMAND [KEY=VALUE…]]

ADDRESS is unix:PATH, a path, tcp:HOST:PORT or HOST:PORT.
Without a command, commands are read from standard input: 'help' lists them.
A command is a name with arguments, where nested ones are written as A.B=VALUE,
or a whole request in JSON.

Options:
  -c, --command LINE  run this line; may be given several times
  -j, --json          print results as one line of JSON
      --color WHEN    colour the output: auto, always or never
  -h, --help          show this help
  -V, --version       show the version

The exit status is 1 if a command failed, 2 for wrong usage or no connection.
";

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// Where commands come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commands {
    /// One, its words as the shell has split them.
    Words(Vec<String>),
    /// Lines of `-c`.
    Lines(Vec<String>),
    /// Standard input.
    Input,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Help,
    Version,
    Connect { address: String, commands: Commands },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) action: Action,
    pub(crate) json: bool,
    pub(crate) color: Color,
}

impl Arguments {
    /// Reads the command line. Options end where the command begins.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut json, mut color) = (false, Color::Auto);
        let mut address = None;
        let mut lines = Vec::new();
        let mut command = Vec::new();
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word.clone(), None),
            };
            let mut wanted = |what: &str| {
                let value = value.take().or_else(|| words.next());
                value.ok_or_else(|| format!("option '{name}' needs {what}"))
            };
            match name.as_str() {
                "-h" | "--help" => return Ok(Self { action: Action::Help, json, color }),
                "-V" | "--version" => return Ok(Self { action: Action::Version, json, color }),
                "-j" | "--json" => json = true,
                "-c" | "--command" => lines.push(wanted("a line")?),
                "--color" | "--colour" => {
                    color = match wanted("auto, always or never")?.as_str() {
                        "auto" => Color::Auto,
                        "always" => Color::Always,
                        "never" => Color::Never,
                        other => return Err(format!("option '{name}' does not know '{other}'")),
                    }
                }
                _ if word.starts_with('-') && word.len() > 1 => return Err(format!("unknown option '{word}'")),
                _ if address.is_none() => address = Some(word),
                _ => {
                    command.push(word);
                    command.extend(words.by_ref());
                }
            }
        }
        let address = address.ok_or("no address given")?;
        let commands = match (command.is_empty(), lines.is_empty()) {
            (false, false) => return Err("either -c or a command, not both".into()),
            (false, true) => Commands::Words(command),
            (true, false) => Commands::Lines(lines),
            (true, true) => Commands::Input,
        };
        Ok(Self { action: Action::Connect { address, commands }, json, color })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let arguments = parse(&["-j", "/q", "x-echo", "--text=1", "-c"]).unwrap();
        let words = ["x-echo", "--text=1", "-c"].map(str::to_owned).to_vec();
        let action = Action::Connect { address: "/q".into(), commands: Commands::Words(words) };
        assert_eq!(arguments, Arguments { action, json: true, color: Color::Auto });
    }

    #[test]
    fn wrong_usage_is_named() {
        assert_eq!(parse(&[]).unwrap_err(), "no address given");
        assert_eq!(parse(&["--nonsense"]).unwrap_err(), "unknown option '--nonsense'");
        assert_eq!(parse(&["/q", "-c"]).unwrap_err(), "option '-c' needs a line");
        assert_eq!(parse(&["--color=pink", "/q"]).unwrap_err(), "option '--color' does not know 'pink'");
        assert_eq!(parse(&["-c", "stop", "/q", "cont"]).unwrap_err(), "either -c or a command, not both");
    }
}
