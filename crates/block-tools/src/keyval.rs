//! Lists of options as on a command line: `name=value,name=value`, a comma in a value written as two.

use block::create::{CreateOption, CreateOptionKind};
use block::options::{parse_size, parse_u64};
use block::{Error, Options, Result, Value};

/// What follows the text about a wrong size.
const SIZE_HINT: &str = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, \
                         respectively.";

/// The names and values of a list, in their order. A name without a value is `on`, and `off` behind a `no`.
/// `implied` is the name of a first value without one.
pub fn parse(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
    let mut entries = Vec::new();
    for (index, item) in split(text).into_iter().enumerate() {
        match (item.split_once('='), implied) {
            (Some((name, value)), _) => entries.push((name.to_owned(), value.to_owned())),
            (None, Some(name)) if index == 0 => entries.push((name.to_owned(), item)),
            (None, _) => match item.strip_prefix("no") {
                Some(name) if !name.is_empty() => entries.push((name.to_owned(), "off".to_owned())),
                _ => entries.push((item, "on".to_owned())),
            },
        }
    }
    entries
}

/// The items between single commas, double ones made single.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.peek() != Some(&',') {
            items.push(String::new());
        } else {
            if c == ',' {
                chars.next();
            }
            if let Some(item) = items.last_mut() {
                item.push(c);
            }
        }
    }
    if items.last().is_some_and(String::is_empty) {
        items.pop();
    }
    items
}

/// Whether a list can be continued with a comma and another one: it has no comma at its ends that would join.
pub fn is_valid_list(text: &str) -> bool {
    let commas_at_end = text.bytes().rev().take_while(|byte| *byte == b',').count();
    !text.is_empty() && !text.starts_with(',') && commas_at_end.is_multiple_of(2)
}

/// Whether a list asks for help.
pub fn asks_for_help(text: &str) -> bool {
    split(text).iter().any(|item| item == "help" || item == "?")
}

/// The options of a list, for opening nodes.
pub fn to_options(text: &str, implied: Option<&str>) -> Options {
    let mut options = Options::new();
    for (name, value) in parse(text, implied) {
        options.set(&name, value);
    }
    options
}

/// The options of `qcow2` in QEMU's order; those of other formats begin with the size.
const QCOW2_ORDER: [&str; 22] = [
    "encryption",
    "encrypt.format",
    "encrypt.key-secret",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.hash-alg",
    "encrypt.iter-time",
    "cluster_size",
    "extended_l2",
    "preallocation",
    "compression_type",
    "size",
    "compat",
    "backing_file",
    "backing_fmt",
    "data_file",
    "data_file_raw",
    "lazy_refcounts",
    "refcount_bits",
    "nocow",
];

/// A number as C's `strtoull` reads it: a negative one wraps around.
fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix('-') {
        Some(digits) => parse_u64(digits).map(u64::wrapping_neg),
        None => parse_u64(text),
    }
}

/// Options of creation that were given, checked against those that a driver has.
#[derive(Clone, Debug, Default)]
pub struct CreateValues {
    known: Vec<CreateOption>,
    values: Vec<(String, String)>,
}

impl CreateValues {
    /// None given yet, of those that `lists` name. `size` and what a former list has are not repeated.
    pub fn new<'a>(lists: impl IntoIterator<Item = &'a [CreateOption]>) -> Self {
        let mut known: Vec<CreateOption> = Vec::new();
        for option in lists.into_iter().flatten() {
            if !known.iter().any(|other| other.name == option.name) {
                known.push(*option);
            }
        }
        if !known.iter().any(|option| option.name == "size") {
            let size =
                CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None };
            known.insert(0, size);
        }
        Self { known, values: Vec::new() }
    }

    /// Puts the options into the order in which QEMU lists those of `format`.
    pub fn arrange(&mut self, format: &str) {
        let place = |name: &str| match format {
            "qcow2" => QCOW2_ORDER.iter().position(|known| *known == name).unwrap_or(QCOW2_ORDER.len()),
            _ => usize::from(name != "size"),
        };
        self.known.sort_by_key(|option| place(option.name));
    }

    /// Takes the options of a list.
    ///
    /// # Errors
    /// An unknown name, or a value of the wrong type.
    pub fn parse(&mut self, text: &str) -> Result<()> {
        parse(text, None).into_iter().try_for_each(|(name, value)| self.set(&name, &value))
    }

    /// Sets an option; a later value replaces an earlier one.
    ///
    /// # Errors
    /// An unknown name, or a value of the wrong type.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(option) = self.known.iter().find(|option| option.name == name) else {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        };
        let refuse = |expected: &str| Err(Error::invalid(format!("Parameter '{name}' expects {expected}")));
        match option.kind {
            CreateOptionKind::Text => {}
            CreateOptionKind::Bool if matches!(value, "on" | "off" | "yes" | "no" | "true" | "false" | "y" | "n") => {}
            CreateOptionKind::Bool => return refuse("'on' or 'off'"),
            CreateOptionKind::Number if parse_number(value).is_some() => {}
            CreateOptionKind::Number => return refuse("a number"),
            CreateOptionKind::Size if parse_size(value).is_some() => {}
            CreateOptionKind::Size => {
                return refuse(&format!("a non-negative number below 2^64\n{SIZE_HINT}"));
            }
        }
        self.values.retain(|(other, _)| other != name);
        self.values.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether there is an option of that name.
    pub fn has(&self, name: &str) -> bool {
        self.known.iter().any(|option| option.name == name)
    }

    /// The value that was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The size that was given, bytes.
    pub fn size(&self) -> Option<u64> {
        self.get("size").and_then(parse_size)
    }

    /// What was given, without the size, typed.
    pub fn to_options(&self) -> Options {
        let mut options = Options::new();
        for (name, value) in &self.values {
            let kind = self.known.iter().find(|option| option.name == name).map(|option| option.kind);
            match kind {
                _ if name == "size" => {}
                Some(CreateOptionKind::Size) => options.set(name, parse_size(value).unwrap_or(0)),
                Some(CreateOptionKind::Number) => options.set(name, parse_number(value).unwrap_or(0)),
                Some(CreateOptionKind::Bool) => {
                    options.set(name, Value::Bool(matches!(value.as_str(), "on" | "yes" | "true" | "y")));
                }
                _ => options.set(name, value.as_str()),
            }
        }
        options
    }

    /// All that is given or has a default, as `name=value name=value`, in the order of the driver's list.
    pub fn describe(&self) -> String {
        let mut items = Vec::new();
        for option in &self.known {
            let value = match (self.get(option.name), option.default) {
                (Some(value), _) => match option.kind {
                    CreateOptionKind::Size => parse_size(value).unwrap_or(0).to_string(),
                    CreateOptionKind::Number => parse_number(value).unwrap_or(0).to_string(),
                    CreateOptionKind::Text => value.replace(',', ",,"),
                    CreateOptionKind::Bool => value.to_owned(),
                },
                (None, Some(default)) => default.to_owned(),
                (None, None) => continue,
            };
            items.push(format!("{}={value}", option.name));
        }
        items.join(" ")
    }

    /// A line of help for each option, sorted by name.
    pub fn help(&self) -> Vec<String> {
        let mut known = self.known.clone();
        known.sort_by_key(|option| option.name);
        known
            .iter()
            .map(|option| {
                let kind = match option.kind {
                    CreateOptionKind::Size => "size",
                    CreateOptionKind::Bool => "bool (on/off)",
                    CreateOptionKind::Text => "str",
                    CreateOptionKind::Number => "num",
                };
                let name = format!("  {}=<{kind}>", option.name);
                format!("{name:<24} - {}", option.help)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_commas_stand_for_one() {
        assert_eq!(parse("a=1,,2,b,noc,", None), [("a", "1,2"), ("b", "on"), ("c", "off")].map(pair));
        assert_eq!(parse("x,b=2", Some("file")), [("file", "x"), ("b", "2")].map(pair));
    }

    fn pair((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn lists_that_join_badly_are_refused() {
        for (list, valid) in [("a=1", true), (",a", false), ("a,", false), ("a,,", true), ("", false)] {
            assert_eq!(is_valid_list(list), valid, "{list}");
        }
        assert!(asks_for_help("a=1,help"));
        assert!(!asks_for_help("a=1,helper"));
    }

    #[test]
    fn values_are_checked_against_their_types() {
        const OPTIONS: &[CreateOption] = &[
            CreateOption { name: "lazy", kind: CreateOptionKind::Bool, help: "Lazy", default: Some("off") },
            CreateOption { name: "cluster_size", kind: CreateOptionKind::Size, help: "Size", default: Some("65536") },
        ];
        let mut values = CreateValues::new([OPTIONS]);
        values.parse("lazy=on,size=1M").expect("valid");
        assert_eq!(values.describe(), "size=1048576 lazy=on cluster_size=65536");
        assert_eq!(values.set("lazy", "2").expect_err("no bool").to_string(), "Parameter 'lazy' expects 'on' or 'off'");
        assert_eq!(values.set("x", "2").expect_err("unknown").to_string(), "Invalid parameter 'x'");
        assert_eq!(values.help()[0], "  cluster_size=<size>    - Size");
    }
}
