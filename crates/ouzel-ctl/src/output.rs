//! How results look.

use crate::arguments::Color;
use qapi::json::{self, Value};
use qmp::client::ServerEvent;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) json: bool,
    pub(crate) color: bool,
}

/// Colours of the terminal, by what they mean here.
#[derive(Clone, Copy)]
enum Paint {
    Name,
    Text,
    Number,
    Word,
    Event,
    Error,
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

impl Style {
    pub(crate) fn new(json: bool, color: Color) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
            }
        };
        Self { json, color }
    }

    fn paint(self, paint: Paint, text: &str) -> String {
        if self.color { format!("\x1b[{}m{text}\x1b[0m", paint.code()) } else { text.to_owned() }
    }

    /// The result of a command, with its line end.
    pub(crate) fn result(self, value: &Value) -> String {
        match value {
            _ if self.json => format!("{value}\n"),
            // Such as what a command of the human monitor says.
            Value::String(text) => {
                let text = printable(text);
                let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
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
    pub(crate) fn error(self, error: &qapi::Error) -> String {
        if self.json {
            return format!("{}\n", error.to_value());
        }
        let class = match error.class {
            qapi::ErrorClass::GenericError => String::new(),
            class => self.paint(Paint::Faint, &format!(" ({})", class.name())),
        };
        format!("{} {}{class}\n", self.paint(Paint::Error, "error:"), printable(&error.desc))
    }

    /// An event, with its line end.
    pub(crate) fn event(self, event: &ServerEvent) -> String {
        if self.json {
            return format!("{}\n", event.to_value());
        }
        let data = event.data.as_ref().map(|data| format!(" {data}")).unwrap_or_default();
        format!("{}{data}\n", self.paint(Paint::Event, &printable(&event.name)))
    }

    /// A heading or a name in a help text.
    pub(crate) fn name(self, text: &str) -> String {
        self.paint(Paint::Name, text)
    }

    fn value(self, value: &Value, depth: usize, text: &mut String) {
        match value {
            Value::Null | Value::Bool(_) => text.push_str(&self.paint(Paint::Word, &value.to_string())),
            Value::Int(_) | Value::Uint(_) | Value::Double(_) => {
                text.push_str(&self.paint(Paint::Number, &value.to_string()));
            }
            Value::String(_) => text.push_str(&self.paint(Paint::Text, &value.to_string())),
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
                _ = write!(text, "{}: ", self.paint(Paint::Name, &json::to_string(&Value::from(name))));
            }
            self.value(member, depth + 1, text);
        }
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
        text.push(close);
    }
}

/// A server's text without what could disturb the terminal.
fn printable(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.chars().map(|it| if it.is_control() && !"\n\t".contains(it) { '\u{FFFD}' } else { it }).collect()
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
    fn texts_are_printed_as_text_without_control_characters() {
        assert_eq!(PLAIN.result(&Value::from("VM status: paused\r\n")), "VM status: paused\n");
        assert_eq!(PLAIN.result(&Value::from("\u{1b}[2J")), "\u{FFFD}[2J\n");
    }
}
