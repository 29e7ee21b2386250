//! How results, errors and events look.

use qapi::json::{self, Map, Value};
use qmp::client::ServerEvent;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    json: bool,
    color: bool,
}

/// What a colour says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Paint {
    /// The name of a member, an argument or a command.
    Name,
    /// A string.
    Text,
    /// A number.
    Number,
    /// A boolean or null.
    Word,
    /// The name of an event.
    Event,
    /// An error.
    Error,
    /// What matters less.
    Faint,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Name => "34",
            Self::Text => "32",
            Self::Number => "36",
            Self::Word => "35",
            Self::Event => "33",
            Self::Error => "1;31",
            Self::Faint => "2",
        }
    }
}

/// Writes a text to standard output at once.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl Style {
    /// For people, or with `json` for programs. Colours are for terminals whose user does not object
    /// (`NO_COLOR`, see no-color.org).
    pub(crate) fn new(json: bool, is_terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { json, color: is_terminal && !json && !refused && !dumb }
    }

    /// The text in the colour of what it says.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        if self.color { format!("\x1b[{}m{text}\x1b[0m", paint.code()) } else { text.to_owned() }
    }

    /// The result of a command, with its line end.
    pub(crate) fn result(self, value: &Value) -> String {
        match value {
            _ if self.json => format!("{value}\n"),
            // Such as what a command of the human monitor says.
            Value::String(text) => {
                let text = harmless(&text.replace("\r\n", "\n"));
                let end = if text.ends_with('\n') { "" } else { "\n" };
                format!("{text}{end}")
            }
            _ => {
                let mut text = String::new();
                self.value(value, 0, &mut text);
                text.push('\n');
                text
            }
        }
    }

    /// The error of a command, with its line end.
    pub(crate) fn refusal(self, error: &qapi::Error) -> String {
        if self.json {
            let reply = Map::from_iter([("error", error.to_value())]);
            return format!("{}\n", Value::Object(reply));
        }
        let class = match error.class {
            qapi::ErrorClass::GenericError => String::new(),
            class => self.paint(Paint::Faint, &format!(" ({})", class.name())),
        };
        format!("{} {}{class}\n", self.paint(Paint::Error, "error:"), harmless(&error.desc))
    }

    /// What is wrong with a line, with its line end.
    pub(crate) fn complaint(self, text: &str) -> String {
        format!("{} {}\n", self.paint(Paint::Error, "ouzel-ctl:"), harmless(text))
    }

    /// An event, with its line end.
    pub(crate) fn event(self, event: &ServerEvent) -> String {
        if self.json {
            return format!("{}\n", event.to_value());
        }
        let data = event.data.as_ref().map(|data| format!(" {data}")).unwrap_or_default();
        let time = self.paint(Paint::Faint, &time_of_day(event));
        format!("{time} {}{data}\n", self.paint(Paint::Event, &harmless(&event.name)))
    }

    fn value(self, value: &Value, depth: usize, text: &mut String) {
        match value {
            Value::Null | Value::Bool(_) => text.push_str(&self.paint(Paint::Word, &value.to_string())),
            Value::Int(_) | Value::Uint(_) | Value::Double(_) => {
                text.push_str(&self.paint(Paint::Number, &value.to_string()));
            }
            Value::String(string) => text.push_str(&self.paint(Paint::Text, &quoted(string))),
            Value::Array(items) if items.is_empty() => text.push_str("[]"),
            Value::Array(items) => {
                let items = items.iter().map(|item| (None, item));
                self.members(('[', ']'), items, depth, text);
            }
            Value::Object(map) if map.is_empty() => text.push_str("{}"),
            Value::Object(map) => {
                let members = map.iter().map(|(name, member)| (Some(name), member));
                self.members(('{', '}'), members, depth, text);
            }
        }
    }

    fn members<'a>(
        self,
        (open, close): (char, char),
        members: impl Iterator<Item = (Option<&'a str>, &'a Value)>,
        depth: usize,
        text: &mut String,
    ) {
        text.push(open);
        for (at, (name, member)) in members.enumerate() {
            text.push_str(if at > 0 { ",\n" } else { "\n" });
            text.push_str(&"  ".repeat(depth + 1));
            if let Some(name) = name {
                // Writing to a String cannot fail.
                _ = write!(text, "{}: ", self.paint(Paint::Name, &quoted(name)));
            }
            self.value(member, depth + 1, text);
        }
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
        text.push(close);
    }
}

/// The time of day, in UTC, to the millisecond.
fn time_of_day(event: &ServerEvent) -> String {
    let Ok(seconds) = u64::try_from(event.seconds) else {
        return "--:--:--".to_owned();
    };
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let milliseconds = event.microseconds.clamp(0, 999_999) / 1000;
    format!("{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}Z")
}

/// A string as JSON that people can read: only what could disturb the terminal is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if disturbs(character) || matches!(character, '"' | '\\' | '\n' | '\t') {
            let escaped = json::to_string(&Value::String(character.to_string()));
            quoted.push_str(escaped.trim_start_matches('"').strip_suffix('"').unwrap_or_default());
        } else {
            quoted.push(character);
        }
    }
    quoted.push('"');
    quoted
}

/// A server's text without what could disturb the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|character| if disturbs(character) { '\u{FFFD}' } else { character }).collect()
}

/// Control characters, and those that change the direction of writing.
fn disturbs(character: char) -> bool {
    let turns = matches!(character, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    turns || (character.is_control() && !matches!(character, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { json: false, color: false };

    #[test]
    fn results_are_spread_over_lines_or_kept_on_one() {
        let value = json::parse(r#"{"b": [1, {}], "a": "x"}"#).unwrap();
        assert_eq!(PLAIN.result(&value), "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x\"\n}\n");
        assert_eq!(Style { json: true, color: false }.result(&value), "{\"a\": \"x\", \"b\": [1, {}]}\n");
    }

    #[test]
    fn strings_are_readable_and_cannot_disturb_the_terminal() {
        assert_eq!(quoted("a\"\\\n\u{1b}[2J\u{e9}\u{202e}"), r#""a\"\\\n\u001B[2Jé\u202E""#);
        assert_eq!(PLAIN.result(&Value::from("VM status: paused\r\n")), "VM status: paused\n");
        assert_eq!(PLAIN.result(&Value::from("\u{1b}[2J")), "\u{FFFD}[2J\n");
        assert_eq!(PLAIN.result(&Value::from("")), "\n");
    }

    #[test]
    fn colours_stand_around_what_they_colour() {
        let style = Style { json: false, color: true };
        assert_eq!(style.result(&Value::from(true)), "\x1b[35mtrue\x1b[0m\n");
    }

    #[test]
    fn errors_show_their_class_if_it_says_something() {
        assert_eq!(PLAIN.refusal(&qapi::Error::generic("no")), "error: no\n");
        let error = qapi::Error::device_not_found("d");
        assert_eq!(PLAIN.refusal(&error), "error: Device 'd' not found (DeviceNotFound)\n");
        let json = Style { json: true, color: false }.refusal(&error);
        assert_eq!(json, "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'd' not found\"}}\n");
    }

    #[test]
    fn events_show_the_time_of_day() {
        let mut event = ServerEvent { name: "STOP".into(), data: None, seconds: 86399, microseconds: 5999 };
        assert_eq!(PLAIN.event(&event), "23:59:59.005Z STOP\n");
        (event.seconds, event.data) = (-1, Some(Value::empty_object()));
        assert_eq!(PLAIN.event(&event), "--:--:-- STOP {}\n");
    }
}
