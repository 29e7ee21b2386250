//! `-readconfig`: options from a file with sections, `[group]` or `[group "id"]`, of lines `key = "value"`.

use std::fmt::Write as _;

use super::CliError;
use super::options::OPTIONS;

/// Puts what `-readconfig FILE` reads in its place.
///
/// # Errors
/// The file can't be read, or is none.
pub fn expand(words: &[String]) -> Result<Vec<String>, CliError> {
    let mut expanded = Vec::with_capacity(words.len());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let is_file = matches!(word.as_str(), "-readconfig" | "--readconfig");
        let Some(path) = words.as_slice().first().filter(|_| is_file) else {
            expanded.push(word.clone());
            continue;
        };
        words.next();
        let refuse = |message: String| CliError::Option { option: format!("-readconfig {path}"), message };
        let text = std::fs::read_to_string(path)
            .map_err(|error| refuse(format!("Cannot read config file {path}: {}", vm::host_error(&error))))?;
        expanded.extend(sections(&text, path).map_err(refuse)?);
    }
    Ok(expanded)
}

/// The options of a file.
fn sections(text: &str, path: &str) -> Result<Vec<String>, String> {
    let mut options: Vec<(String, Vec<String>)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let failed = |what: &str| format!("{path}:{}: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (group, id) = section.split_once(char::is_whitespace).unwrap_or((section, ""));
            let option = option(group).ok_or_else(|| failed(&format!("there is no option group '{group}'")))?;
            let id = id.trim();
            let id = match id.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(id) => vec![pair("id", id)],
                None if id.is_empty() => Vec::new(),
                None => return Err(failed("parse error")),
            };
            options.push((option.to_owned(), id));
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| failed("parse error"))?;
        let value = value.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let value = value.ok_or_else(|| failed("parse error"))?;
        let (_, pairs) = options.last_mut().ok_or_else(|| failed("no group defined"))?;
        pairs.push(pair(key.trim(), value));
    }
    Ok(options.into_iter().flat_map(|(option, pairs)| [format!("-{option}"), pairs.join(",")]).collect())
}

/// The option that takes the parameters of a group.
fn option(group: &str) -> Option<&'static str> {
    OPTIONS.iter().find(|option| option.group.is_some_and(|known| known.name == group)).map(|option| option.name)
}

fn pair(key: &str, value: &str) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = write!(text, "{key}={}", value.replace(',', ",,"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_options() {
        let text = "# a machine\n[memory]\n  size = \"200\"\n\n[device \"d0\"]\n driver = \"VGA\"\n xres = \"1,2\"\n";
        let expected = ["-m", "size=200", "-device", "id=d0,driver=VGA,xres=1,,2"];
        assert_eq!(sections(text, "f").expect("options"), expected);
        for (wrong, message) in [
            ("size = \"1\"", "f:1: no group defined"),
            ("[memory]\nsize = 1", "f:2: parse error"),
            ("[nothing]", "f:1: there is no option group 'nothing'"),
        ] {
            assert_eq!(sections(wrong, "f"), Err(message.to_owned()));
        }
    }
}
