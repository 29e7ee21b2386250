//! QEMU's option grammar for command lines, `-opt value,key=value,…`, and the scalars in it.
//!
//! A key is a path: `a.b=x` is the member `b` of the member `a`, `a.0=x` the first element of the
//! array `a`. A comma in a value is written twice. The first value may stand without its key if the
//! option implies one. Older options take `flag` for `flag=on` and `noflag` for `flag=off`.
//! A text that starts with `{` is JSON instead. All values are strings; [`Parsed::read`] converts
//! them to what the type wants. Left out on purpose: QEMU's merging of options of the same id.

use crate::json::{self, MAX_NESTING, Map, Value};
use crate::{Error, Members, Path};

/// How an option is to be read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grammar<'a> {
    /// The key of a first value that has none.
    pub implied_key: Option<&'a str>,
    /// Whether `flag` means `flag=on` and `noflag` means `flag=off`.
    pub boolean_shorthand: bool,
}

impl<'a> Grammar<'a> {
    /// No implied key, no shorthand.
    #[must_use]
    pub const fn strict() -> Self {
        Self { implied_key: None, boolean_shorthand: false }
    }

    /// With an implied key, without shorthand.
    #[must_use]
    pub const fn implied(key: &'a str) -> Self {
        Self { implied_key: Some(key), boolean_shorthand: false }
    }

    /// With shorthand for booleans, too.
    #[must_use]
    pub const fn with_shorthand(self) -> Self {
        Self { boolean_shorthand: true, ..self }
    }
}

/// An option's keys and values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The members. Scalars are strings unless `is_json`.
    pub map: Map,
    /// Whether the text was JSON.
    pub is_json: bool,
    /// Whether it asks for help (`help` or `?`).
    pub help: bool,
    /// The flags that were given in short form, which QEMU warns about.
    pub short_forms: Vec<String>,
}

impl Parsed {
    /// Reads the members as a type of the schema, as a QMP command would.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's words.
    pub fn read<T: Members>(self) -> Result<T, Error> {
        let path = if self.is_json { Path::root() } else { Path::keyval() };
        T::from_object(Value::Object(self.map), &path)
    }
}

/// Parses the text of an option.
///
/// # Errors
/// What is wrong, in QEMU's words.
pub fn parse(text: &str, grammar: &Grammar<'_>) -> Result<Parsed, Error> {
    if text.starts_with('{') {
        let Value::Object(map) = json::parse(text)? else {
            return Err(Error::generic("JSON parse error, expecting value"));
        };
        return Ok(Parsed { map, is_json: true, ..Parsed::default() });
    }
    let mut parsed = Parsed::default();
    let mut rest = text;
    let mut implied_key = grammar.implied_key;
    while !rest.is_empty() {
        let (entry, after) = one(rest, implied_key.take(), grammar, &mut parsed)?;
        if let Some((key, value)) = entry {
            put(&mut parsed.map, &key, value)?;
        }
        rest = after;
    }
    let members = std::mem::take(&mut parsed.map);
    parsed.map = match listify(members, "")? {
        Value::Object(map) => map,
        _ => return Err(Error::invalid_parameter(text)),
    };
    Ok(parsed)
}

/// Parses the text of one of the older options, whose keys with dots are names as they are: `file=a,file.locking=off`
/// names a file and says something about it. Keys and values in their order; the last one of a key counts.
///
/// # Errors
/// What is wrong, in QEMU's words.
pub fn parse_flat(text: &str, grammar: &Grammar<'_>) -> Result<Vec<(String, String)>, Error> {
    let mut entries = Vec::new();
    let mut rest = text;
    let mut implied_key = grammar.implied_key;
    while !rest.is_empty() {
        let (entry, after) = one(rest, implied_key.take(), grammar, &mut Parsed::default())?;
        entries.extend(entry);
        rest = after;
    }
    Ok(entries)
}

/// Parses a text and reads it as a type of the schema.
///
/// # Errors
/// What is wrong, in QEMU's words.
pub fn from_keyval<T: Members>(text: &str, grammar: &Grammar<'_>) -> Result<T, Error> {
    parse(text, grammar)?.read()
}

/// A key and its value.
type Entry = (String, String);

/// Parses one `key=value` and gives it (unless it asks for help) and what follows its comma.
fn one<'a>(
    text: &'a str,
    implied_key: Option<&str>,
    grammar: &Grammar<'_>,
    parsed: &mut Parsed,
) -> Result<(Option<Entry>, &'a str), Error> {
    let end = text.find(['=', ',']).unwrap_or(text.len());
    let (key, after) = text.split_at(end);
    if let Some(after) = after.strip_prefix('=') {
        let (value, rest) = value(after);
        return Ok((Some((key.to_owned(), value)), rest));
    }
    let after_comma = after.strip_prefix(',').unwrap_or(after);
    if key == "help" || key == "?" {
        parsed.help = true;
        return Ok((None, after_comma));
    }
    if let (Some(implied), false) = (implied_key, key.is_empty()) {
        // Only here a doubled comma can be at the key's end.
        let (value, rest) = value(text);
        return Ok((Some((implied.to_owned(), value)), rest));
    }
    if grammar.boolean_shorthand && !key.is_empty() {
        parsed.short_forms.push(key.to_owned());
        let (key, value) = key.strip_prefix("no").map_or((key, "on"), |key| (key, "off"));
        return Ok((Some((key.to_owned(), value.to_owned())), after_comma));
    }
    fragments(key)?;
    Err(Error::generic(format!("Expected '=' after parameter '{key}'")))
}

/// A value up to its comma, and what follows that.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once(',') {
        value.push_str(part);
        match after.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// Splits a key at its dots and checks the pieces: names, or numbers after the first.
fn fragments(key: &str) -> Result<Vec<&str>, Error> {
    let pieces: Vec<&str> = key.split('.').collect();
    if pieces.len() > MAX_NESTING {
        return Err(Error::invalid_parameter(key));
    }
    for (at, piece) in pieces.iter().enumerate() {
        if !(is_name(piece) || at > 0 && index(piece).is_some()) {
            return Err(Error::invalid_parameter(key));
        }
        if piece.len() > 127 {
            let fragment = if pieces.len() > 1 { " fragment" } else { "" };
            return Err(Error::generic(format!("Parameter{fragment} '{piece}' is too long")));
        }
    }
    Ok(pieces)
}

/// Whether a text is a QAPI name: a letter, then letters, digits, hyphens and underscores.
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'))
}

/// Whether a text may be an `id`: a letter, then letters, digits, `-`, `.` and `_`.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
}

fn index(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let index: i32 = digits.then(|| text.parse().ok())??;
    usize::try_from(index).ok()
}

fn put(map: &mut Map, key: &str, value: String) -> Result<(), Error> {
    let pieces = fragments(key)?;
    let Some((last, parents)) = pieces.split_last() else {
        return Err(Error::invalid_parameter(key));
    };
    let mut current = map;
    let mut length = 0;
    for piece in parents {
        length += piece.len() + 1;
        if !current.contains_key(piece) {
            current.insert(*piece, Map::new());
        }
        current = match current.get_mut(piece) {
            Some(Value::Object(inner)) => inner,
            _ => return Err(inconsistent(key.get(..length).unwrap_or_default())),
        };
    }
    if let Some(Value::Object(_)) = current.get(last) {
        return Err(inconsistent(&format!("{key}.")));
    }
    current.insert(*last, value);
    Ok(())
}

fn inconsistent(prefix: &str) -> Error {
    Error::generic(format!("Parameters '{prefix}*' used inconsistently"))
}

/// Turns objects whose names are numbers into arrays. `prefix` is the object's path with a dot.
fn listify(map: Map, prefix: &str) -> Result<Value, Error> {
    let mut members = Map::new();
    for (name, value) in map {
        let value = match value {
            Value::Object(inner) => listify(inner, &format!("{prefix}{name}."))?,
            other => other,
        };
        members.insert(name, value);
    }
    let numbers = members.keys().filter(|name| index(name).is_some()).count();
    if numbers == 0 {
        return Ok(Value::Object(members));
    }
    if numbers < members.len() {
        return Err(inconsistent(prefix));
    }
    let mut elements: Vec<(usize, Value)> =
        members.into_iter().filter_map(|(name, value)| Some((index(&name)?, value))).collect();
    elements.sort_by_key(|(at, _)| *at);
    for (expected, (at, _)) in elements.iter().enumerate() {
        if expected < *at {
            return Err(Error::generic(format!("Parameter '{prefix}{expected}' missing")));
        }
    }
    elements.dedup_by_key(|(at, _)| *at);
    Ok(Value::Array(elements.into_iter().map(|(_, value)| value).collect()))
}

/// Why a size is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is not a number with an optional suffix.
    #[error("not a size")]
    Invalid,
    /// It needs more than 64 bits.
    #[error("the size does not fit 64 bits")]
    Range,
}

/// Splits a C number into sign, radix and digits.
fn radix(text: &str) -> (bool, u32, &str) {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return (negative, 16, digits);
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => (negative, 8, digits),
        _ => (negative, 10, text),
    }
}

fn magnitude(radix: u32, digits: &str) -> Option<u64> {
    // from_str_radix would take a second sign.
    digits.starts_with(|first: char| first.is_ascii_alphanumeric()).then_some(())?;
    u64::from_str_radix(digits, radix).ok()
}

/// A signed integer as C writes it: decimal, `0x…` or `0…`.
#[must_use]
pub fn parse_i64(text: &str) -> Option<i64> {
    let (negative, radix, digits) = radix(text);
    let value = magnitude(radix, digits)?;
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// An unsigned integer as C writes it; a negative one is taken as its two's complement.
#[must_use]
pub fn parse_u64(text: &str) -> Option<u64> {
    let (negative, radix, digits) = radix(text);
    let value = magnitude(radix, digits)?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `on`, `yes`, `true`, `y` or `off`, `no`, `false`, `n`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional suffix (B K M G T P E, of either case) and, with a suffix,
/// an optional fraction. A number without a suffix counts in units of `default_unit` bytes.
///
/// # Errors
/// That it is no such number, or that it is too large.
pub fn parse_size(text: &str, default_unit: u64) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(hex.len());
        let (digits, suffix) = hex.split_at(end);
        if digits.is_empty() {
            return Err(SizeError::Invalid);
        }
        let value = u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range)?;
        let unit = unit(suffix, default_unit)?;
        return value.checked_mul(unit).ok_or(SizeError::Range);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
            rest.split_at(end)
        }
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Invalid);
    }
    let unit = unit(suffix, default_unit)?;
    let has_fraction = fraction.bytes().any(|digit| digit != b'0');
    if has_fraction && unit == 1 {
        return Err(SizeError::Invalid);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SizeError::Range)? };
    let part = if has_fraction { fraction_of(fraction, unit) } else { 0 };
    whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part)).ok_or(SizeError::Range)
}

/// `0.fraction * unit`, rounded to the nearest byte.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "QEMU computes the fraction in double precision; it is in 0..unit"
)]
fn fraction_of(fraction: &str, unit: u64) -> u64 {
    let fraction: f64 = format!("0.{fraction}").parse().unwrap_or(0.0);
    (fraction * unit as f64 + 0.5) as u64
}

fn unit(suffix: &str, default_unit: u64) -> Result<u64, SizeError> {
    Ok(match suffix {
        "" => default_unit,
        "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return Err(SizeError::Invalid),
    })
}
