//! Completion from the schema: commands, arguments, values of enumerations, booleans.

use crate::input::{self, Word};
use crate::types::{self, Form};
use qapi::schema::{Model, SchemaInfoObjectMember};
use std::collections::BTreeSet;

/// What a word can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What is shown.
    pub(crate) shown: String,
    /// What is put into the line.
    pub(crate) text: String,
}

impl rustyline::completion::Candidate for Candidate {
    fn display(&self) -> &str {
        &self.shown
    }

    fn replacement(&self) -> &str {
        &self.text
    }
}

/// A word that goes on.
fn begun(text: &str) -> Candidate {
    Candidate { shown: text.to_owned(), text: text.to_owned() }
}

/// A word that is complete; a space ends it.
fn whole(text: &str) -> Candidate {
    Candidate { shown: text.to_owned(), text: format!("{text} ") }
}

/// What the word that ends at the end of `line` can become, with where the part starts that is
/// replaced.
pub(crate) fn complete(model: &Model, line: &str) -> (usize, Vec<Candidate>) {
    let nothing = (line.len(), Vec::new());
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (before, word) = line.split_at(start);
    // Inside quotes and JSON there is nothing to complete.
    let Ok(words) = input::split(before) else {
        return nothing;
    };
    let Some((command, words)) = words.split_first() else {
        return (start, fitting(commands(model).chain(OWN.map(whole)), word));
    };
    match (command.text.as_str(), words) {
        ("help" | "?", []) => (start, fitting(commands(model).chain(model.events().map(whole)), word)),
        ("help" | "?", [command]) => argument(model, &command.text, &[], start, word),
        ("events", []) => (start, fitting(["on", "off"].map(whole).into_iter(), word)),
        (command, words) => argument(model, command, words, start, word),
    }
}

/// Commands of the shell itself.
const OWN: [&str; 3] = ["events", "exit", "help"];

fn commands(model: &Model) -> impl Iterator<Item = Candidate> {
    model.commands().map(whole)
}

fn fitting(candidates: impl Iterator<Item = Candidate>, start: &str) -> Vec<Candidate> {
    let mut found: Vec<_> = candidates.filter(|candidate| candidate.text.starts_with(start)).collect();
    found.sort_by(|one, other| one.text.cmp(&other.text));
    found.dedup();
    found
}

fn argument(model: &Model, command: &str, words: &[Word], start: usize, word: &str) -> (usize, Vec<Candidate>) {
    let Some(root) = types::arguments(model, command) else {
        return (start, Vec::new());
    };
    let typed = |key: &str| {
        let word = words.iter().find(|word| word.key.as_deref() == Some(key));
        word.map(|word| word.text.clone())
    };
    if let Some((key, value)) = word.split_once('=') {
        let path: Vec<&str> = key.split('.').collect();
        let forms = types::resolve(model, root, &path, &typed).map(|ty| types::forms(model, ty));
        let forms = forms.unwrap_or_default();
        let is_list = forms.iter().any(|form| matches!(form, Form::Array(_)));
        // Of a list, the last element is completed.
        let at = value.rfind(',').filter(|_| is_list).map_or(0, |at| at + 1);
        let part = value.get(at..).unwrap_or_default();
        let candidate = |value: &str| if is_list { begun(value) } else { whole(value) };
        let candidates = values(model, &forms).into_iter().map(candidate);
        return (start + key.len() + 1 + at, fitting(candidates, part));
    }
    let (parent, part) = word.rsplit_once('.').unwrap_or(("", word));
    let path: Vec<&str> = if parent.is_empty() { Vec::new() } else { parent.split('.').collect() };
    let Some(ty) = types::resolve(model, root, &path, &typed) else {
        return (start, Vec::new());
    };
    let prefix = if parent.is_empty() { String::new() } else { format!("{parent}.") };
    let used: BTreeSet<&str> = words.iter().filter_map(|word| word.key.as_deref()).collect();
    let mut found = Vec::new();
    for form in types::forms(model, ty) {
        match form {
            Form::Object(object) => {
                let tag = |name: &str| typed(&format!("{prefix}{name}"));
                for member in types::members(model, object, tag) {
                    if !used.contains(format!("{prefix}{}", member.name).as_str()) {
                        found.extend(keys(model, member));
                    }
                }
            }
            Form::Array(element) => {
                let places = places(&used, &prefix).into_iter().map(|at| at.to_string());
                found.extend(places.flat_map(|at| ends(model, element, &at)).map(|text| begun(&text)));
            }
            _ => {}
        }
    }
    (start + prefix.len(), fitting(found.into_iter(), part))
}

/// A member as it goes on in the line; optional ones are shown in brackets.
fn keys(model: &Model, member: &SchemaInfoObjectMember) -> Vec<Candidate> {
    let candidate = |text: String| {
        let ty = if text.ends_with('=') { model.type_name(&member.r#type) } else { "*".to_owned() };
        let shown = if member.default.is_some() { format!("[{text}{ty}]") } else { format!("{text}{ty}") };
        Candidate { shown, text }
    };
    ends(model, &member.r#type, &member.name).into_iter().map(candidate).collect()
}

/// `name=` for values, `name.` for what has members, `name.0` for arrays of such.
fn ends(model: &Model, ty: &str, name: &str) -> Vec<String> {
    let mut ends = Vec::new();
    for form in types::forms(model, ty) {
        let end = match form {
            Form::Object(_) => format!("{name}."),
            Form::Array(element) => {
                let has_members = |form: &Form<'_>| matches!(form, Form::Object(_) | Form::Array(_));
                let all = types::forms(model, element);
                if !all.is_empty() && all.iter().all(has_members) { format!("{name}.") } else { format!("{name}=") }
            }
            _ => format!("{name}="),
        };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    if ends.is_empty() {
        ends.push(format!("{name}="));
    }
    ends
}

/// The places of an array that are in use, and the next.
fn places(used: &BTreeSet<&str>, prefix: &str) -> BTreeSet<usize> {
    let rest = used.iter().filter_map(|key| key.strip_prefix(prefix));
    let mut places: BTreeSet<usize> = rest.filter_map(|rest| rest.split('.').next()?.parse().ok()).collect();
    let next = (0..).find(|at| !places.contains(at));
    places.extend(next);
    places
}

/// The values that can be listed.
fn values<'m>(model: &'m Model, forms: &[Form<'m>]) -> Vec<&'m str> {
    let mut found = Vec::new();
    for form in forms {
        match form {
            Form::Flag => found.extend(["true", "false"]),
            Form::Null => found.push("null"),
            Form::Enum(values) => found.extend(values.iter().map(|value| value.name.as_str())),
            Form::Array(element) => {
                let flat = types::forms(model, element);
                let flat: Vec<_> = flat.into_iter().filter(|form| !matches!(form, Form::Array(_))).collect();
                found.extend(values(model, &flat));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::fixture::model;

    fn found(line: &str) -> (usize, Vec<String>) {
        let (start, candidates) = complete(&model(), line);
        (start, candidates.into_iter().map(|candidate| candidate.text).collect())
    }

    fn check(line: &str, start: usize, expected: &[&str]) {
        assert_eq!(found(line), (start, expected.iter().map(|text| (*text).to_owned()).collect()), "{line}");
    }

    #[test]
    fn first_word_becomes_a_command() {
        check("", 0, &["events ", "exit ", "help ", "x-draw ", "x-try "]);
        check("x-", 0, &["x-draw ", "x-try "]);
        check("  x-t", 2, &["x-try "]);
        check("help x-t", 5, &["x-try "]);
        check("help S", 5, &["STOP "]);
        check("events o", 7, &["off ", "on "]);
    }

    #[test]
    fn keys_are_those_not_given_yet() {
        check("x-try n", 6, &["names=", "number="]);
        check("x-try number=1 n", 15, &["names="]);
        check("nonsense n", 9, &[]);
    }

    #[test]
    fn keys_of_nested_objects_follow_a_dot() {
        check("x-draw fi", 7, &["fill."]);
        check("x-draw fill.", 12, &["shade=", "shiny="]);
        check("x-draw fill.shade=red fill.s", 27, &["shiny="]);
        check("x-draw list.", 12, &["0."]);
        check("x-draw list.0.shade=red list.", 29, &["0.", "1."]);
        check("x-draw list.0.shi", 14, &["shiny="]);
        check("x-draw nothing.a", 7, &[]);
    }

    #[test]
    fn keys_of_a_branch_follow_the_tag() {
        check("x-draw type=circle r", 19, &["radius="]);
        check("x-draw type=line r", 17, &[]);
        check("x-draw le", 7, &["length="]);
    }

    #[test]
    fn values_are_listed_where_there_is_a_list() {
        check("x-draw type=", 12, &["circle ", "line "]);
        check("x-draw fill.shade=r", 18, &["red ", "rose "]);
        check("x-draw shades=red,b", 18, &["blue"]);
        check("x-try flag=", 11, &["false ", "true "]);
        check("x-try number=", 13, &[]);
        check("x-try either=", 13, &["null "]);
    }

    #[test]
    fn nothing_is_completed_inside_quotes() {
        let (_, candidates) = found("x-try text='a fl");
        assert!(candidates.is_empty());
    }

    #[test]
    fn optional_keys_are_shown_in_brackets() {
        let (_, candidates) = complete(&model(), "x-draw fill.");
        let shown: Vec<_> = candidates.into_iter().map(|candidate| candidate.shown).collect();
        assert_eq!(shown, ["shade=enum", "[shiny=bool]"]);
    }
}
