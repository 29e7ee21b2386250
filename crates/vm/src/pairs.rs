//! The arguments of `-vnc` and `-spice`: keys that may come more than once, and switches.

use qapi::keyval::{parse_bool, parse_u64};

/// The keys and values in their order.
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Splits `value,key=value,flag,noflag`; a comma is written twice. `first` is the key of a value that begins without
    /// one. There are `switches`, which may be turned off by `no`, and other keys.
    ///
    /// # Errors
    /// A key is none of them.
    pub fn parse(text: &str, first: Option<&str>, switches: &[&str], others: &[&str]) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            if character == ',' && characters.next_if_eq(&',').is_none() {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(character);
            }
        }
        let pair = |(at, part): (usize, String)| match (part.split_once('='), first) {
            (Some((key, value)), _) => (key.to_owned(), value.to_owned()),
            (None, Some(first)) if at == 0 => (first.to_owned(), part),
            (None, _) => match part.strip_prefix("no").filter(|key| switches.contains(key)) {
                Some(key) => (key.to_owned(), "off".to_owned()),
                None => (part, "on".to_owned()),
            },
        };
        let is_there = |at: usize, part: &str| at == 0 && first.is_some() || !part.is_empty();
        let parts = parts.into_iter().enumerate().filter(|(at, part)| is_there(*at, part));
        let pairs: Vec<(String, String)> = parts.map(pair).collect();
        match pairs.iter().find(|(key, _)| !switches.contains(&key.as_str()) && !others.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("Invalid parameter '{key}'")),
            None => Ok(Self(pairs)),
        }
    }

    /// The values of a key, in their order.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The last value of a key.
    pub fn text(&self, key: &str) -> Option<String> {
        self.all(key).last().map(str::to_owned)
    }

    /// The last value of a switch.
    ///
    /// # Errors
    /// It is neither on nor off.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        parse_bool(&text).map(Some).ok_or_else(|| format!("Parameter '{key}' expects 'on' or 'off'"))
    }

    /// The last value of a number.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        parse_u64(&text).map(Some).ok_or_else(|| format!("Parameter '{key}' expects a number"))
    }

    /// The keys and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// `display=` and `head=`: a device with screens, and which of them.
    ///
    /// # Errors
    /// The head is no number.
    pub fn display(&self) -> Result<Option<(String, i64)>, String> {
        let head = self.number("head")?.map_or(0, |head| i64::try_from(head).unwrap_or(i64::MAX));
        Ok(self.text("display").map(|display| (display, head)))
    }
}
