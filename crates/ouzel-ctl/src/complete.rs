//! Completion from the schema: names of commands and arguments, values of enumerations.

use qapi::schema::Model;

/// Commands of the shell itself.
const OWN: [&str; 2] = ["exit", "help"];

/// What the word that ends at the end of `line` can become; with where that word starts.
pub(crate) fn complete(model: &Model, line: &str) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (before, word) = line.split_at(start);
    let mut words = before.split_whitespace();
    let fitting = |names: &mut dyn Iterator<Item = String>| names.filter(|name| name.starts_with(word)).collect();
    let Some(command) = words.next() else {
        let own = OWN.iter().map(|name| (*name).to_owned());
        let mut names: Vec<String> = fitting(&mut model.commands().map(str::to_owned).chain(own));
        names.sort();
        return (start, names);
    };
    if command == "help" {
        return (start, fitting(&mut model.commands().chain(model.events()).map(str::to_owned)));
    }
    let arguments = model.arguments(command).unwrap_or_default();
    if let Some((key, value)) = word.split_once('=') {
        let value_start = start + key.len() + 1;
        let argument = arguments.iter().find(|argument| argument.name == key);
        let values = match argument {
            Some(argument) if argument.type_name == "bool" => vec!["on".to_owned(), "off".to_owned()],
            Some(argument) => argument.values.clone(),
            None => Vec::new(),
        };
        return (value_start, values.into_iter().filter(|it| it.starts_with(value)).collect());
    }
    let used: Vec<&str> = words.filter_map(|word| word.split_once('=')).map(|(key, _)| key).collect();
    let free = arguments.iter().filter(|argument| !used.contains(&argument.name.as_str()));
    (start, fitting(&mut free.map(|argument| format!("{}=", argument.name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::schema::Declaration;
    use qapi::{Command, QapiType};

    /// Colours.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
    enum Shade {
        /// Red.
        Red,
        /// Rose.
        Rose,
        /// Blue.
        Blue,
    }

    /// A command.
    #[derive(Debug, Clone, PartialEq, Command)]
    #[command(name = "x-paint")]
    struct Paint {
        /// The shade.
        shade: Shade,
        /// Whether it shines.
        shiny: Option<bool>,
    }

    fn found(line: &str) -> (usize, Vec<String>) {
        complete(&Model::from_declarations(&[Declaration::of::<Paint>()]), line)
    }

    #[test]
    fn names_and_values_come_from_the_schema() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(found(""), (0, words(&["exit", "help", "x-paint"])));
        assert_eq!(found("x-"), (0, words(&["x-paint"])));
        assert_eq!(found("help x"), (5, words(&["x-paint"])));
        assert_eq!(found("x-paint sh"), (8, words(&["shade=", "shiny="])));
        assert_eq!(found("x-paint shade=red s"), (18, words(&["shiny="])));
        assert_eq!(found("x-paint shade=r"), (14, words(&["red", "rose"])));
        assert_eq!(found("x-paint shiny=o"), (14, words(&["on", "off"])));
        assert_eq!(found("nonsense a"), (9, words(&[])));
    }
}
