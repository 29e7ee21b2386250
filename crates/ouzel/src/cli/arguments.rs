//! Splitting the command line into options and their arguments.

use qapi::Members;
use qapi::json::Value;
use qapi::keyval::{self, Grammar};

use super::CliError;
use super::options::{self, OptionSpec};

/// An option as it was given.
#[derive(Debug, Clone, Copy)]
pub struct Argument<'a> {
    /// Which option.
    pub option: &'static OptionSpec,
    /// Its argument; empty for options that take none.
    pub value: &'a str,
}

impl<'a> Argument<'a> {
    /// An option that was not given: a default, or what belongs to a device that comes later.
    ///
    /// # Errors
    /// There is no such option.
    pub fn not_given(name: &str, value: &'a str) -> Result<Self, CliError> {
        let option = options::find(name).ok_or_else(|| CliError::plain(format!("there is no option -{name}")))?;
        Ok(Self { option, value })
    }

    /// An error about this option.
    pub fn error(&self, message: impl Into<String>) -> CliError {
        CliError::Option { option: self.as_written(), message: message.into() }
    }

    /// The option and its argument.
    pub fn as_written(&self) -> String {
        match self.value {
            "" => format!("-{}", self.option.name),
            value => format!("-{} {value}", self.option.name),
        }
    }

    /// The argument, `key=value,…` or JSON, as a type of the schema. A first value without a key is that of `implied_key`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn typed<T: Members>(&self, implied_key: &str) -> Result<T, CliError> {
        keyval::from_keyval(self.value, &Grammar::implied(implied_key)).map_err(|error| self.error(error.desc))
    }
}

/// The option that a word stands for which is none itself: the image of the first disk.
const DISK_IMAGE: &str = "hda";

/// Splits a command line without the program's name. Options may begin with one hyphen or two; a word that begins with
/// none, and is not an option's argument, is the image of the first disk.
///
/// # Errors
/// An unknown option, or a missing argument.
pub fn split(words: &[String]) -> Result<Vec<Argument<'_>>, CliError> {
    let mut arguments = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let unknown = || CliError::Option { option: word.clone(), message: "invalid option".to_owned() };
        let option = options::find(name.unwrap_or(DISK_IMAGE)).ok_or_else(unknown)?;
        let value = match option.argument {
            _ if name.is_none() => word,
            None => "",
            Some(_) => {
                let missing = || CliError::Option { option: word.clone(), message: "requires an argument".to_owned() };
                words.next().ok_or_else(missing)?
            }
        };
        arguments.push(Argument { option, value });
    }
    Ok(arguments)
}

/// All the uses of an option.
pub fn all<'a>(arguments: &'a [Argument<'a>], name: &'a str) -> impl Iterator<Item = &'a Argument<'a>> {
    arguments.iter().filter(move |argument| argument.option.name == name)
}

/// The last use of an option: the one that counts.
pub fn last<'a>(arguments: &'a [Argument<'a>], name: &'a str) -> Option<&'a Argument<'a>> {
    all(arguments, name).last()
}

/// Whether `-device` asks for one of these.
pub fn names_device(arguments: &[Argument<'_>], names: &[&str]) -> bool {
    all(arguments, "device").any(|argument| {
        let parsed = keyval::parse(argument.value, &Grammar { implied_key: Some("driver"), boolean_shorthand: true });
        let driver = parsed.ok().and_then(|parsed| parsed.map.get("driver").and_then(Value::as_str).map(str::to_owned));
        driver.is_some_and(|driver| names.contains(&driver.as_str()))
    })
}

/// Whether an option was given.
pub fn given(arguments: &[Argument<'_>], name: &str) -> bool {
    last(arguments, name).is_some()
}
