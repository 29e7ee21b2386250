//! The arguments of a program as `getopt_long` reads them: long options (any unambiguous beginning will do), clusters of
//! letters, operands among them, `--` before the last ones.

/// An option: its long name, whether it takes a value, and its key. A key of one letter is also its short name.
pub type LongOption = (&'static str, bool, &'static str);

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// An option: its key, and its value, which is empty if it takes none.
    Option(&'static str, String),
    /// Anything else.
    Operand(String),
}

/// Reads arguments in their order. What can't be read is an error's text; nothing sensible comes behind one.
pub struct Arguments<'a> {
    options: &'static [LongOption],
    rest: std::slice::Iter<'a, String>,
    /// What is left of a cluster of letters.
    cluster: &'a str,
    only_operands: bool,
}

impl<'a> Arguments<'a> {
    /// The arguments behind the program's name.
    pub fn new(arguments: &'a [String], options: &'static [LongOption]) -> Self {
        Self { options, rest: arguments.iter(), cluster: "", only_operands: false }
    }

    fn long(&mut self, text: &str) -> Result<Argument, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
        let exact = self.options.iter().find(|(long, ..)| *long == name);
        let mut similar = self.options.iter().filter(|(long, ..)| long.starts_with(name));
        let found = exact.or_else(|| similar.next().filter(|_| similar.next().is_none()));
        let &(long, takes_value, key) = found.ok_or_else(|| format!("unrecognized option '--{name}'"))?;
        let value = match (takes_value, value) {
            (true, Some(value)) => value,
            (true, None) => {
                self.rest.next().cloned().ok_or_else(|| format!("option '--{long}' requires an argument"))?
            }
            (false, None) => String::new(),
            (false, Some(_)) => return Err(format!("option '--{long}' doesn't allow an argument")),
        };
        Ok(Argument::Option(key, value))
    }

    fn letter(&mut self, letter: char) -> Result<Argument, String> {
        let is_letters = |key: &str| key.strip_prefix(letter) == Some("");
        let found = self.options.iter().find(|(.., key)| is_letters(key));
        let &(_, takes_value, key) = found.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        if !takes_value {
            return Ok(Argument::Option(key, String::new()));
        }
        let rest = std::mem::take(&mut self.cluster);
        let value = if rest.is_empty() { self.rest.next().cloned() } else { Some(rest.to_owned()) };
        let value = value.ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
        Ok(Argument::Option(key, value))
    }
}

impl Iterator for Arguments<'_> {
    type Item = Result<Argument, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut letters = self.cluster.chars();
        if let Some(letter) = letters.next() {
            self.cluster = letters.as_str();
            return Some(self.letter(letter));
        }
        let argument = self.rest.next()?;
        if self.only_operands {
            return Some(Ok(Argument::Operand(argument.clone())));
        }
        if argument == "--" {
            self.only_operands = true;
            return self.next();
        }
        if let Some(text) = argument.strip_prefix("--") {
            return Some(self.long(text));
        }
        match argument.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            Some(cluster) => {
                self.cluster = cluster;
                self.next()
            }
            None => Some(Ok(Argument::Operand(argument.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[LongOption] = &[
        ("help", false, "h"),
        ("format", true, "f"),
        ("read-only", false, "r"),
        ("image-opts", false, "image-opts"),
        ("image", false, "i"),
        ("cache", true, "cache"),
    ];

    fn read(line: &str) -> Result<Vec<String>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let shown = |argument| match argument {
            Argument::Option(key, value) if value.is_empty() => key.to_owned(),
            Argument::Option(key, value) => format!("{key}={value}"),
            Argument::Operand(text) => format!("({text})"),
        };
        Arguments::new(&words, OPTIONS).map(|argument| argument.map(shown)).collect()
    }

    #[test]
    fn options_are_read_in_all_their_shapes() {
        let all = "-rf raw a -fraw -rhfraw --format raw --form=raw --image --image-o --cache= - -- -r -- b";
        let expected = "r f=raw (a) f=raw r h f=raw f=raw f=raw i image-opts cache (-) (-r) (--) (b)"
            .split(' ')
            .collect::<Vec<_>>();
        assert_eq!(read(all).expect("arguments"), expected);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |line: &str| read(line).expect_err("wrong");
        assert_eq!(error("--nothing=1"), "unrecognized option '--nothing'");
        assert_eq!(error("--ima"), "unrecognized option '--ima'");
        assert_eq!(error("-rx"), "invalid option -- 'x'");
        assert_eq!(error("-c"), "invalid option -- 'c'");
        assert_eq!(error("--read-only=1"), "option '--read-only' doesn't allow an argument");
        assert_eq!(error("--form"), "option '--format' requires an argument");
        assert_eq!(error("-rf"), "option requires an argument -- 'f'");
    }
}
