//! The examples of the specification's documents, and what their replies look like.

use std::fs;

use serde_json::Value;

use super::{Session, repository};

/// One example with what is known of its reply.
pub struct Example {
    /// Which document and line.
    pub name: String,
    /// What it shows.
    pub command: String,
    /// As it stands there, folded or not.
    pub request: String,
    /// The reply of the document; `None` if it is no JSON.
    pub documented: Option<Value>,
    /// The events that the document shows before it.
    pub events: Vec<Value>,
    /// What QEMU 7.2 said in some machine.
    pub recorded: Option<Value>,
    /// What is known to be odd about it.
    pub notes: String,
}

/// The messages of a documented reply: one, or a list of events and a reply.
fn messages(documented: &Value) -> Vec<Value> {
    let texts = match documented {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect::<Vec<_>>(),
    };
    texts.into_iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

/// The examples file stands beside the repository; where CI promises it, its absence is a failure.
pub fn examples() -> Option<Vec<Example>> {
    let path = repository().join("../shared/spec/examples.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if std::env::var("CI").is_ok_and(|value| value == "true") => panic!("{}: {error}", path.display()),
        Err(error) => {
            eprintln!("SKIPPED: {}: {error}", path.display());
            return None;
        }
    };
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let read = |entry: &Value| Example {
        name: format!("{} line {}", text(entry, "seed"), entry["line"]),
        command: text(entry, "command"),
        request: text(entry, "request"),
        documented: messages(&entry["documented_reply"]).into_iter().find(|message| message.get("event").is_none()),
        events: messages(&entry["documented_reply"])
            .into_iter()
            .filter(|message| message.get("event").is_some())
            .collect(),
        // Events come before the reply; what can't be parsed was no JSON on the wire either.
        recorded: text(entry, "reply_of_qemu_7_2")
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|message| message.get("event").is_none()),
        notes: text(entry, "notes"),
    };
    Some(list.as_array().expect("a list").iter().map(read).collect())
}

/// The kind of a value; for an object those members that must be there, with their kinds.
pub fn problems(got: &Value, model: &Value, place: &str, found: &mut Vec<String>) {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if kind(got) != kind(model) {
        found.push(format!("{place} is {} and not {}: {got}", kind(got), kind(model)));
        return;
    }
    match (got, model) {
        (Value::Object(got), Value::Object(model)) => {
            for (name, member) in model {
                match got.get(name) {
                    Some(value) => problems(value, member, &format!("{place}.{name}"), found),
                    None if OPTIONAL.contains(&name.as_str()) => {}
                    None => found.push(format!("{place} lacks {name}: {got:?}")),
                }
            }
        }
        (Value::Array(got), Value::Array(model)) => {
            if let Some(first) = model.first() {
                let mut first = first.clone();
                // What one element of the document lacks, any may lack.
                if let Value::Object(members) = &mut first {
                    members.retain(|name, _| model.iter().all(|element| element.get(name).is_some()));
                }
                let model = &first;
                for (index, element) in got.iter().enumerate() {
                    problems(element, model, &format!("{place}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Members of documented replies that the schema marks as optional, or that a member of that name has elsewhere.
const OPTIONAL: [&str; 31] = [
    "opaque",
    "name",
    "qom-path",
    "core-id",
    "socket-id",
    "thread-id",
    "die-id",
    "help",
    "backing",
    "backing-filename",
    "backing-filename-format",
    "backing-image",
    "backing_file",
    "bps_max",
    "bps_rd_max",
    "bps_wr_max",
    "cluster-size",
    "encrypted",
    "full-backing-filename",
    "idle_time_ns",
    "inserted",
    "io-status",
    "iops_max",
    "iops_rd_max",
    "iops_size",
    "iops_wr_max",
    "parent",
    "qdev",
    "snapshots",
    "tray_open",
    "format-specific",
];

/// Sends a request as it stands in its document; returns the events before the reply, and the reply.
pub fn replay(session: &mut Session, request: &str) -> (Vec<Value>, Value) {
    session.send(request);
    let mut events = Vec::new();
    loop {
        let message = session.message();
        if message.get("event").is_none() {
            return (events, message);
        }
        events.push(message);
    }
}
