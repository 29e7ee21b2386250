//! Command lines as `getopt_long` reads them: options anywhere, long ones abbreviated, `--` ends them. And how a
//! command fails.

use std::fmt;

/// Why a command ends without success. The text is printed behind the program's name.
#[derive(Debug)]
pub struct Failure {
    /// What to print; nothing if the command has said it all.
    pub message: Option<String>,
    /// Also point to the help.
    pub usage: bool,
    /// The exit status.
    pub code: u8,
}

impl Failure {
    /// A failure with status 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: Some(message.to_string()), usage: false, code: 1 }
    }

    /// A wrong command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { message: Some(message.to_string()), usage: true, code: 1 }
    }

    /// Tells about it now; its exit status.
    pub fn show(&self) -> u8 {
        if let Some(message) = &self.message {
            crate::tool::complain(message);
        }
        self.code
    }

    /// Another exit status.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl From<block::Error> for Failure {
    fn from(error: block::Error) -> Self {
        Self::new(block_tools::open::text_with_hint(&error))
    }
}

/// The result of a command: its exit status.
pub type Outcome = Result<u8, Failure>;

/// A long option: its name, whether it takes a value, and the name under which the command finds it.
pub type Long = (&'static str, bool, &'static str);

/// What a command line says.
#[derive(Debug, Default)]
pub struct Parsed {
    options: Vec<(String, String)>,
    /// What is no option.
    pub operands: Vec<String>,
}

impl Parsed {
    /// All options in their order, with their values.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The last value of an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options().filter(|(other, _)| *other == name).map(|(_, value)| value).last()
    }

    /// Whether an option is there.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The values of an option that may be repeated.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The only operand.
    pub fn one_operand(&self) -> Result<&str, Failure> {
        match &self.operands[..] {
            [one] => Ok(one),
            _ => Err(Failure::usage("Expecting one image file name")),
        }
    }
}

/// Options that take a value are followed by a colon in `short`.
pub fn parse(args: &[String], short: &str, long: &[Long]) -> Result<Parsed, Failure> {
    let mut parsed = Parsed::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            parsed.operands.extend(args.cloned());
            break;
        }
        let missing = |option: &str| Failure::usage(format!("missing argument for option '{option}'"));
        let unknown = || Failure::usage(format!("unrecognized option '{arg}'"));
        if let Some(text) = arg.strip_prefix("--") {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let &(_, takes_value, key) = find_long(name, long).ok_or_else(unknown)?;
            let value = match (takes_value, value) {
                (true, Some(value)) => value,
                (true, None) => args.next().cloned().ok_or_else(|| missing(arg))?,
                (false, None) => String::new(),
                (false, Some(_)) => return Err(unknown()),
            };
            parsed.options.push((key.to_owned(), value));
        } else if arg.len() > 1 && arg.starts_with('-') {
            for (at, letter) in arg[1..].char_indices() {
                let found = short.find(letter).filter(|_| letter != ':').ok_or_else(unknown)?;
                let takes_value = short[found + letter.len_utf8()..].starts_with(':');
                let rest = &arg[1 + at + letter.len_utf8()..];
                let value = match (takes_value, rest.is_empty()) {
                    (false, _) => String::new(),
                    (true, false) => rest.to_owned(),
                    (true, true) => args.next().cloned().ok_or_else(|| missing(arg))?,
                };
                parsed.options.push((letter.to_string(), value));
                if takes_value {
                    break;
                }
            }
        } else {
            parsed.operands.push(arg.clone());
        }
    }
    Ok(parsed)
}

/// The option of that name, or the only one that starts so.
fn find_long<'a>(name: &str, long: &'a [Long]) -> Option<&'a Long> {
    if let Some(exact) = long.iter().find(|(other, ..)| *other == name) {
        return Some(exact);
    }
    let mut candidates = long.iter().filter(|(other, ..)| other.starts_with(name));
    match (candidates.next(), candidates.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

/// A number with a binary suffix, of at least `min` and at most `max`. `what` names it in messages.
pub fn number(what: &str, text: &str, min: u64, max: u64) -> Result<u64, Failure> {
    use block_tools::size::NumberError;
    match block_tools::size::parse(text) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        Ok(_) | Err(NumberError::Range) => {
            Err(Failure::new(format!("Invalid {what} specified. Must be between {min} and {max}.")))
        }
        Err(NumberError::Invalid) => Err(Failure::new(format!(
            "Invalid {what} specified. You may use k, M, G, T, P or E suffixes for\n\
             {}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
            crate::tool::program()
        ))),
    }
}

/// As [`number`], up to the largest offset.
pub fn size(what: &str, text: &str) -> Result<u64, Failure> {
    number(what, text, 0, i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    const LONG: &[Long] = &[("output", true, "output"), ("object", true, "object"), ("force-share", false, "U")];

    #[test]
    fn options_and_operands_mix() {
        let parsed = parse(&args("a -qf raw b -U --outp=json -- -c"), "qf:U", LONG).expect("valid");
        assert_eq!(parsed.operands, ["a", "b", "-c"]);
        assert_eq!(parsed.value("f"), Some("raw"));
        assert_eq!(parsed.value("output"), Some("json"));
        assert!(parsed.has("U") && parsed.has("q"));
        assert!(parse(&args("--force-share"), "", LONG).expect("valid").has("U"));
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, message) in [
            ("-f", "missing argument for option '-f'"),
            ("--output", "missing argument for option '--output'"),
            ("--o=x", "unrecognized option '--o=x'"),
            ("-x", "unrecognized option '-x'"),
            ("--force-share=1", "unrecognized option '--force-share=1'"),
        ] {
            assert_eq!(parse(&args(line), "f:", LONG).expect_err(line).message.as_deref(), Some(message));
        }
    }
}
