//! The keys and values of one option, taken one by one; what is left over is an error.

use qapi::json::{Map, Value};
use qapi::keyval::{self, Grammar};

use super::{Argument, CliError};

/// The keys and values of an option that have not been taken.
pub struct Values<'a> {
    argument: Argument<'a>,
    map: Map,
    /// How an unknown key is reported: `None` for "Invalid parameter".
    owner: Option<String>,
}

impl<'a> Values<'a> {
    /// Parses `[implied=]value,key=value,flag,noflag`.
    pub fn parse(argument: Argument<'a>, implied_key: Option<&str>) -> Result<Self, CliError> {
        let grammar = Grammar { implied_key, boolean_shorthand: true };
        let parsed = keyval::parse(argument.value, &grammar).map_err(|error| argument.error(error.desc))?;
        Ok(Self { argument, map: parsed.map, owner: None })
    }

    /// What a client has given. Errors are those of the option.
    pub fn of_map(argument: Argument<'a>, map: Map) -> Self {
        Self { argument, map, owner: None }
    }

    /// Unknown keys are properties that `class` does not have.
    pub fn of_class(mut self, class: &str) -> Self {
        self.owner = Some(class.to_owned());
        self
    }

    /// Adds a value that the option itself does not give.
    pub fn add_default(&mut self, key: &str, value: &str) {
        if !self.map.contains_key(key) {
            self.map.insert(key, value);
        }
    }

    /// An error about the option.
    pub fn error(&self, message: impl Into<String>) -> CliError {
        self.argument.error(message)
    }

    /// Takes a text.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, CliError> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            // JSON on the command line may give numbers and booleans as such.
            Some(Value::Bool(on)) => Ok(Some(if on { "on" } else { "off" }.to_owned())),
            Some(number @ (Value::Int(_) | Value::Uint(_))) => Ok(Some(number.to_string())),
            Some(_) => Err(self.error(format!("Invalid parameter type for '{key}', expected: string"))),
        }
    }

    /// Takes a text that must be there.
    pub fn required(&mut self, key: &str) -> Result<String, CliError> {
        self.text(key)?.ok_or_else(|| self.error(format!("Parameter '{key}' is missing")))
    }

    /// Takes what is below `key`, as in `smp.cpus=2,smp.cores=2`.
    pub fn nested(&mut self, key: &str) -> Result<Option<Values<'a>>, CliError> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Values { argument: self.argument, map, owner: None })),
            Some(_) => Err(self.error(format!("Invalid parameter type for '{key}', expected: object"))),
        }
    }

    /// Takes a boolean.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, CliError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let parsed = keyval::parse_bool(&text);
        parsed.map(Some).ok_or_else(|| self.error(format!("Parameter '{key}' expects 'on' or 'off'")))
    }

    /// Takes an unsigned number up to `max`.
    pub fn number(&mut self, key: &str, max: u64) -> Result<Option<u64>, CliError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match keyval::parse_u64(&text).filter(|number| *number <= max && !text.trim_start().starts_with('-')) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(format!("Parameter '{key}' expects a number from 0 to {max}"))),
        }
    }

    /// Ends the option.
    ///
    /// # Errors
    /// A key that nobody took.
    pub fn finish(self) -> Result<(), CliError> {
        let Some(key) = self.map.keys().next() else { return Ok(()) };
        Err(match &self.owner {
            Some(class) => self.error(format!("Property '{class}.{key}' not found")),
            None => self.error(format!("Invalid parameter '{key}'")),
        })
    }
}
