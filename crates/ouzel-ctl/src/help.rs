//! The help texts: what the shell knows, and what the server's schema says of commands and events.

use crate::output::{Paint, Style};
use crate::types::{self, Form};
use qapi::schema::{Argument, Model, SchemaInfoDetail};
use std::fmt::Write as _;

/// How wide lists are.
const WIDTH: usize = 80;

const OVERVIEW: &str = "
COMMAND KEY=VALUE...     run a command; A.B=VALUE for members, A.0=VALUE for elements
{\"execute\": ...}         run a request in JSON
help COMMAND [KEY]       show arguments; those of an event; those inside of an argument
events on|off            show events or not
exit                     leave the shell; the server goes on ('quit' ends it)
";

/// What there is.
pub(crate) fn overview(model: &Model, style: Style) -> String {
    let mut text = String::new();
    let commands: Vec<&str> = model.commands().collect();
    if commands.is_empty() {
        text.push_str("The server does not describe its commands.\n");
    } else {
        columns(&mut text, "Commands:", &commands, style);
        columns(&mut text, "Events:", &model.events().collect::<Vec<_>>(), style);
    }
    text.push_str(OVERVIEW);
    text
}

fn columns(text: &mut String, title: &str, names: &[&str], style: Style) {
    _ = writeln!(text, "{title}");
    let widths = |rows: usize| -> Vec<usize> {
        let width = |column: &[&str]| column.iter().map(|name| name.len() + 2).max().unwrap_or_default();
        names.chunks(rows).map(width).collect()
    };
    // As few rows as fit; in one column everything does.
    let fits = |rows: &usize| widths(*rows).iter().sum::<usize>() <= WIDTH;
    let rows = (1..names.len()).find(fits).unwrap_or(names.len().max(1));
    let widths = widths(rows);
    for row in 0..rows {
        let line = names.iter().skip(row).step_by(rows).zip(&widths);
        let mut padding = 0;
        for (name, width) in line {
            _ = write!(text, "{}  {}", " ".repeat(padding), style.paint(Paint::Name, name));
            padding = width.saturating_sub(name.len() + 2);
        }
        text.push('\n');
    }
}

/// What the schema says of a command or event, or of an argument in it.
pub(crate) fn describe(model: &Model, words: &[String], style: Style) -> Result<String, String> {
    let Some((name, rest)) = words.split_first() else {
        return Ok(overview(model, style));
    };
    match rest {
        [] => message(model, name, style).ok_or_else(|| format!("there is no command or event '{name}'")),
        [key] => member(model, name, key, style).ok_or_else(|| format!("'{name}' has no argument '{key}'")),
        _ => Err("help COMMAND [KEY]".to_owned()),
    }
}

fn message(model: &Model, name: &str, style: Style) -> Option<String> {
    let arguments = model.arguments(name)?;
    let entry = model.get(name)?;
    let mut text = style.paint(Paint::Name, name);
    let mut notes: Vec<&str> = entry.features.iter().flatten().map(String::as_str).collect();
    match &entry.detail {
        SchemaInfoDetail::Event(_) => notes.insert(0, "event"),
        SchemaInfoDetail::Command(command) if command.allow_oob == Some(true) => notes.push("may run out of band"),
        _ => {}
    }
    if !notes.is_empty() {
        _ = write!(text, " ({})", notes.join(", "));
    }
    text.push('\n');
    list(&mut text, &arguments, style);
    if let SchemaInfoDetail::Command(command) = &entry.detail {
        returns(&mut text, model, &command.ret_type, style);
    }
    Some(text)
}

fn list(text: &mut String, arguments: &[Argument], style: Style) {
    if arguments.is_empty() {
        text.push_str("  without arguments\n");
    }
    let width = arguments.iter().map(|argument| argument.name.len()).max().unwrap_or_default();
    for argument in arguments {
        let padding = " ".repeat(width - argument.name.len());
        _ = write!(text, "  {}{padding}  {}", style.paint(Paint::Name, &argument.name), argument.type_name);
        if argument.optional {
            text.push_str(", optional");
        }
        if let Some(case) = &argument.case {
            _ = write!(text, ", for {case}");
        }
        for feature in &argument.features {
            _ = write!(text, ", {feature}");
        }
        if !argument.values.is_empty() {
            _ = write!(text, ": {}", style.paint(Paint::Faint, &argument.values.join(", ")));
        }
        if !argument.doc.is_empty() {
            _ = write!(text, " - {}", argument.doc);
        }
        text.push('\n');
    }
}

fn returns(text: &mut String, model: &Model, ty: &str, style: Style) {
    let names = types::forms(model, ty).into_iter().find_map(|form| match form {
        Form::Object(object) => Some(types::members(model, object, |_| None)),
        Form::Array(element) => types::forms(model, element).into_iter().find_map(|form| match form {
            Form::Object(object) => Some(types::members(model, object, |_| None)),
            _ => None,
        }),
        _ => None,
    });
    let names: Vec<String> = names.into_iter().flatten().map(|member| member.name.clone()).collect();
    let kind = model.type_name(ty);
    if kind == "object" && names.is_empty() {
        return;
    }
    _ = write!(text, "returns {kind}");
    if !names.is_empty() {
        _ = write!(text, ": {}", style.paint(Paint::Faint, &names.join(", ")));
    }
    text.push('\n');
}

/// What is inside an argument.
fn member(model: &Model, name: &str, key: &str, style: Style) -> Option<String> {
    let root = types::arguments(model, name)?;
    let key = key.trim_end_matches(['.', '=']);
    let path: Vec<&str> = key.split('.').collect();
    let ty = types::resolve(model, root, &path, &|_| None)?;
    let mut text = format!("{}  {}\n", style.paint(Paint::Name, key), model.type_name(ty));
    for form in types::forms(model, ty) {
        inside(&mut text, model, form, key, style);
    }
    Some(text)
}

fn inside(text: &mut String, model: &Model, form: Form<'_>, key: &str, style: Style) {
    match form {
        Form::Enum(values) => {
            for value in values {
                let features = value.features.iter().flatten().map(|feature| format!(", {feature}"));
                _ = writeln!(text, "  {}{}", style.paint(Paint::Name, &value.name), features.collect::<String>());
            }
        }
        Form::Array(element) => {
            let is_array = |form: &Form<'_>| matches!(form, Form::Array(_));
            for form in types::forms(model, element).into_iter().filter(|form| !is_array(form)) {
                inside(text, model, form, &format!("{key}.0"), style);
            }
        }
        Form::Object(object) => {
            for member in types::members(model, object, |_| None) {
                let optional = if member.default.is_some() { ", optional" } else { "" };
                let name = style.paint(Paint::Name, &format!("{key}.{}", member.name));
                _ = writeln!(text, "  {name}  {}{optional}", model.type_name(&member.r#type));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::fixture::model;

    fn help(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        describe(&model(), &words, Style::new(true, false))
    }

    #[test]
    fn overview_lists_commands_and_events() {
        let text = help(&[]).unwrap();
        assert!(text.starts_with("Commands:\n  x-draw"), "{text}");
        assert!(text.contains("Events:\n  STOP\n"), "{text}");
    }

    #[test]
    fn command_shows_types_marks_and_values() {
        let text = help(&["x-draw"]).unwrap();
        assert!(text.contains("  type     enum: line, circle\n"), "{text}");
        assert!(text.contains("  fill     object, optional\n"), "{text}");
        assert!(text.contains("  radius   int, for circle\n"), "{text}");
        assert!(text.contains("returns [object]: shade, shiny\n"), "{text}");
    }

    #[test]
    fn event_and_argument_are_described() {
        assert_eq!(help(&["STOP"]).unwrap(), "STOP (event)\n  without arguments\n");
        let text = help(&["x-draw", "list"]).unwrap();
        assert_eq!(text, "list  [object]\n  list.0.shade  enum\n  list.0.shiny  bool, optional\n");
        let text = help(&["x-draw", "fill.shade"]).unwrap();
        assert_eq!(text, "fill.shade  enum\n  red\n  rose\n  blue\n");
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(help(&["nonsense"]).unwrap_err(), "there is no command or event 'nonsense'");
        assert_eq!(help(&["x-draw", "nonsense"]).unwrap_err(), "'x-draw' has no argument 'nonsense'");
    }
}
