//! File names: protocols, relative names of images, `json:`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::node::Node;
use crate::value::Value;

/// The protocol that a name starts with: what is before the first colon, if no slash is before it.
pub fn protocol_of(filename: &str) -> Option<&str> {
    let colon = filename.find(':')?;
    let slash = filename.find('/').unwrap_or(usize::MAX);
    (colon < slash).then(|| &filename[..colon])
}

/// The name `path` that an image `base` contains, as seen from where `base` was named.
pub fn combine(base: &str, path: &str) -> String {
    if path.starts_with('/') || protocol_of(path).is_some() || base.is_empty() || base.starts_with("json:") {
        return path.to_owned();
    }
    match base.rfind('/') {
        Some(slash) => format!("{}{path}", &base[..=slash]),
        None => match protocol_of(base) {
            Some(protocol) => format!("{protocol}:{path}"),
            None => path.to_owned(),
        },
    }
}

/// The name that opens this node again: a plain one where that is enough, otherwise a `json:` one.
pub fn of(node: &Arc<Node>) -> String {
    exact(node).unwrap_or_else(|| format!("json:{}", to_options(node).ordered()))
}

/// Plain names that are known, by the node's address. The nodes are held, so that no other one comes to be there.
type Known = HashMap<*const Node, (Arc<Node>, Option<String>)>;

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// Does some work that asks for many names of nodes that do not change meanwhile, as of a long chain: a name depends on
/// those of all nodes below, and each is made out once.
pub fn remembering<R>(work: impl FnOnce() -> R) -> R {
    /// Forgets at the end, also by a panic.
    struct Forget(Option<Known>);
    impl Drop for Forget {
        fn drop(&mut self) {
            let known = KNOWN.replace(self.0.take());
            drop(known);
        }
    }
    let _forget = Forget(KNOWN.replace(Some(Known::new())));
    work()
}

/// The plain name of a node, if it has one and that opens the same node.
pub fn exact(node: &Arc<Node>) -> Option<String> {
    let known = KNOWN.with_borrow(|known| Some(known.as_ref()?.get(&Arc::as_ptr(node))?.1.clone()));
    if let Some(name) = known {
        return name;
    }
    let name = plain(node).filter(|name| !has_other_backing(node, name));
    KNOWN.with_borrow_mut(|known| {
        if let Some(known) = known {
            known.insert(Arc::as_ptr(node), (Arc::clone(node), name.clone()));
        }
    });
    name
}

/// The plain name of the image of a node, whatever its backing is; empty if it has none.
pub fn of_image(node: &Arc<Node>) -> String {
    plain(node).unwrap_or_default()
}

fn plain(node: &Arc<Node>) -> Option<String> {
    if let Some(name) = node.driver().exact_filename() {
        return Some(name);
    }
    if node.driver_type().kind() != crate::driver::DriverKind::Format || !node.driver().strong_options().is_empty() {
        return None;
    }
    let children = node.driver().children();
    match &children[..] {
        [file] if file.name() == "file" => exact(&file.node()),
        _ => None,
    }
}

/// Whether the backing of the node `name` is another one than its image names.
pub fn has_other_backing(node: &Arc<Node>, name: &str) -> bool {
    let stored = node.driver().image_backing();
    let Some(backing) = node.backing() else { return stored.is_some() && is_suppressed(node) };
    let mut below = backing.node();
    while let Some(filtered) = below.filtered() {
        below = filtered.node();
    }
    // It may be spelled in several ways: the name counts of what was opened for it.
    let named = node.named_backing().or_else(|| stored.map(|stored| combine(name, &stored.file)));
    named.is_none_or(|named| match exact(&below) {
        Some(below) => below != named,
        None => !named.starts_with("json:") || of(&below) != named,
    })
}

/// Whether a user wanted a node without the backing that its image names.
fn is_suppressed(node: &Node) -> bool {
    match node.options().get("backing") {
        Some(Value::Null) => true,
        Some(Value::Str(name)) => name.is_empty(),
        _ => false,
    }
}

/// The name that relative names in this image start from: that of the node, or of what it is made of.
///
/// # Errors
/// If data comes from several files, or from none with a plain name.
pub fn base_of(node: &Arc<Node>) -> Result<String> {
    let mut below = Arc::clone(node);
    loop {
        if let Some(base) = exact(&below).filter(|name| protocol_of(name).is_none()) {
            return Ok(base);
        }
        let next = match &below.driver().children()[..] {
            [child] => child.node(),
            _ => {
                let format = below.driver_type().name();
                return Err(Error::invalid(format!("Cannot generate a base directory for {format} nodes")));
            }
        };
        below = next;
    }
}

/// The options that open this node again, as nested dictionaries.
pub fn to_options(node: &Arc<Node>) -> Value {
    if node.is_implicit()
        && let Some(below) = node.filtered()
    {
        // Nobody can open a filter again that a job has made for itself.
        return to_options(&below.node());
    }
    let mut entries = vec![("driver".to_owned(), Value::from(node.driver_type().name()))];
    for (name, value) in node.driver().strong_options().iter() {
        entries.push((name.to_owned(), value.clone()));
    }
    for child in node.driver().children() {
        entries.push((child.name().to_owned(), to_options(&child.node())));
    }
    if has_other_backing(node, &plain(node).unwrap_or_default()) {
        let backing = node.backing().map_or(Value::Null, |backing| to_options(&backing.node()));
        entries.push(("backing".to_owned(), backing));
    }
    if node.driver().children().is_empty()
        && names_file(node)
        && let Some(name) = node.driver().exact_filename()
        && !entries.iter().any(|(key, _)| key == "filename")
    {
        entries.push(("filename".to_owned(), name.into()));
    }
    crate::options::Options::from_value(&Value::Dict(entries)).to_value()
}

/// Whether a file name belongs to what describes a node: all but those that are made of nothing.
fn names_file(node: &Node) -> bool {
    !matches!(node.driver_type().name(), "null-co" | "null-aio")
}

/// The dictionary behind `json:`.
///
/// # Errors
/// If it is not JSON, or no dictionary.
pub fn parse_json(text: &str) -> Result<Value> {
    let parsed: serde_json::Value = serde_json::from_str(&double_quoted(text)).map_err(|error| {
        let why = if error.is_eof() { "premature EOI" } else { "invalid syntax" };
        Error::invalid(format!("Could not parse the JSON options: JSON parse error, {why}"))
    })?;
    match convert(parsed) {
        value @ Value::Dict(_) => Ok(value),
        _ => Err(Error::invalid("Invalid JSON object given")),
    }
}

/// Strings may be in single quotes, so that they are easy to write on a shell's command line.
fn double_quoted(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\\') => match chars.next() {
                Some('\'') => result.push('\''),
                next => {
                    result.push('\\');
                    result.extend(next);
                }
            },
            (None, '"' | '\'') => {
                quote = Some(c);
                result.push('"');
            }
            (Some(open), c) if c == open => {
                quote = None;
                result.push('"');
            }
            (Some('\''), '"') => result.push_str("\\\""),
            (_, c) => result.push(c),
        }
    }
    result
}

fn convert(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value.into()),
            (None, Some(value)) => Value::Int(value.into()),
            _ => Value::Str(number.to_string()),
        },
        Json::String(text) => Value::Str(text),
        Json::Array(items) => Value::List(items.into_iter().map(convert).collect()),
        Json::Object(entries) => Value::Dict(entries.into_iter().map(|(key, value)| (key, convert(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backings_are_relative_to_the_image() {
        for (base, path, combined) in [
            ("dir/a.qcow2", "b.img", "dir/b.img"),
            ("a.qcow2", "b.img", "b.img"),
            ("/x/a", "/y/b", "/y/b"),
            ("/x/a", "nbd://h/b", "nbd://h/b"),
            ("./a:b", "c", "./c"),
        ] {
            assert_eq!(combine(base, path), combined);
        }
    }

    #[test]
    fn json_strings_may_be_in_single_quotes() {
        let value = parse_json(r#"{'a': 'x"y\'z', "b": "it's", 'c': 1}"#).expect("valid");
        assert_eq!(value.get("a"), Some(&Value::from("x\"y'z")));
        assert_eq!(value.get("b"), Some(&Value::from("it's")));
        assert_eq!(value.get("c"), Some(&Value::from(1u64)));
    }

    #[test]
    fn a_colon_behind_a_slash_is_no_protocol() {
        assert_eq!(protocol_of("nbd:unix:/x"), Some("nbd"));
        assert_eq!(protocol_of("./a:b"), None);
        assert_eq!(protocol_of("plain"), None);
    }
}
