//! Replays every example of the specification's documents that belongs to the commands of this product.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::support::{Machine, Session, Setup, qcow2_header, repository};

/// One example with what is known of its reply.
struct Example {
    name: String,
    command: String,
    request: String,
    documented: Option<Value>,
    recorded: Option<Value>,
    notes: String,
}

/// The examples file stands beside the repository; where CI promises it, its absence is a failure.
fn examples() -> Option<Vec<Example>> {
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
        documented: serde_json::from_str(&text(entry, "documented_reply")).ok(),
        // Events come before the reply; what can't be parsed was no JSON on the wire either.
        recorded: text(entry, "reply_of_qemu_7_2")
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|message| message.get("event").is_none()),
        notes: text(entry, "notes"),
    };
    Some(list.as_array().expect("a list").iter().map(read).collect())
}

/// The commands in old spelling that today's list leaves out.
const OLD: [&str; 3] = ["query-cpus", "query-events", "cpu"];

/// The kind of a value; for an object those members that must be there, with their kinds.
fn problems(got: &Value, model: &Value, place: &str, found: &mut Vec<String>) {
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
            if let Some(model) = model.first() {
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

fn fresh() -> (Machine, Session) {
    let mut machine = Setup::new()
        .args(["-S", "-m", "64", "-smp", "1,maxcpus=2", "-vga", "std", "-device", "secondary-vga,id=video0"])
        .start();
    let session = machine.connect(0);
    (machine, session)
}

/// Sends the example as it stands in the document and returns the reply, events left out.
fn replay(session: &mut Session, request: &str) -> Value {
    session.send(request);
    loop {
        let message = session.message();
        if message.get("event").is_none() {
            return message;
        }
    }
}

#[test]
fn every_example_of_the_commands_answers_in_the_documented_shape() {
    let Some(examples) = examples() else { return };
    let (_machine, mut session) = fresh();
    let listed = session.query("query-commands");
    let mut ours: BTreeSet<String> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| Some(entry["name"].as_str()?.to_owned()))
        .collect();
    ours.extend(OLD.map(String::from));
    let (mut replayed, mut found) = (0, Vec::new());
    for example in examples.iter().filter(|example| ours.contains(&example.command) && !is_of_storage(example)) {
        if serde_json::from_str::<Value>(&example.request).is_err() {
            println!("{} ({}) is no JSON: {}", example.name, example.command, example.notes);
            continue;
        }
        // A machine each: `quit` ends it, `stop` changes what is true.
        let (_machine, mut session) = fresh();
        let reply = replay(&mut session, &example.request);
        replayed += 1;
        // What QEMU 7.2 refuses for a reason of the machine's (no descriptor was sent), Ouzel refuses alike; what it no
        // longer knows is answered as documented.
        let refused = example.recorded.as_ref().and_then(|recorded| recorded.get("error"));
        let refused =
            refused.filter(|error| !OLD.contains(&example.command.as_str()) || error["class"] != "CommandNotFound");
        let before = found.len();
        // The example asks for an option that this product does not have: QEMU's answer for such a one.
        if example.request.contains("option-rom") {
            assert_eq!(reply["error"]["desc"], "invalid option name: option-rom", "it exists: remove this exception");
        } else if let Some(error) = refused {
            if reply["error"] != *error {
                found.push(format!("wanted the error {error}, got {reply}"));
            }
        } else if let Some(model) = &example.documented {
            problems(&reply, model, "reply", &mut found);
        } else if let Some(model) = &example.recorded {
            problems(&reply, model, "reply", &mut found);
        }
        for problem in &mut found[before..] {
            *problem = format!("{} ({}): {problem}", example.name, example.command);
        }
        if !example.notes.is_empty() {
            println!("{} ({}): {}", example.name, example.command, example.notes);
        }
    }
    println!("{replayed} examples");
    assert!(replayed >= 24, "only {replayed} examples: the file or the list of commands is not what it was");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The commands whose examples need disks, and objects that this product does not have.
const OF_STORAGE: [&str; 22] = [
    "block-set-write-threshold",
    "block_passwd",
    "block_resize",
    "block_set_io_throttle",
    "blockdev-add",
    "blockdev-change-medium",
    "blockdev-close-tray",
    "blockdev-open-tray",
    "change",
    "change-backing-file",
    "eject",
    "object-add",
    "object-del",
    "query-block",
    "query-blockstats",
    "query-iothreads",
    "query-named-block-nodes",
    "x-blockdev-change",
    "x-blockdev-del",
    "x-blockdev-insert-medium",
    "x-blockdev-remove-medium",
    "blockdev-insert-medium",
];

fn is_of_storage(example: &Example) -> bool {
    OF_STORAGE.contains(&example.command.as_str())
}

const QUORUM: &str = r#"{"execute": "blockdev-add", "arguments":
    {"driver": "quorum", "node-name": "disk1", "vote-threshold": 1, "children": ["c0", "c1"]}}"#;

/// What an example needs beside the machine of all of them, by seed and line: commands that come before it.
fn preparation(name: &str) -> &'static [&'static str] {
    match name {
        // Each continues the example above it in its document.
        "002 line 4289" => {
            &[r#"{"execute": "blockdev-add", "arguments": {"options": {"driver": "null-co", "id": "drive0"}}}"#]
        }
        "002 line 4459" => &[
            r#"{"execute": "eject", "arguments": {"device": "ide1-cd0"}}"#,
            r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "node0"}}"#,
        ],
        // The quorum has a child to spare.
        "002 line 4507" => {
            &[r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "new_node"}}"#, QUORUM]
        }
        "002 line 4513" => &[QUORUM],
        "002 line 1075" => {
            &[r#"{"execute": "object-add", "arguments": {"qom-type": "secret", "id": "rng1", "props": {"data": "x"}}}"#]
        }
        _ => &[],
    }
}

/// Why an example is not answered as it is documented, and a part of the error that it is answered with instead; it
/// succeeds if that is empty.
fn difference(example: &Example) -> Option<(&'static str, &'static str)> {
    let request: Value = serde_json::from_str(&example.request).ok()?;
    let arguments = &request["arguments"];
    let is = |name: &str, value: &str| arguments[name] == value;
    Some(match example.command.as_str() {
        "change" if is("device", "vnc") => ("there is no VNC server", "Could not set password"),
        "block_passwd" => ("no version since 2.10 can", "Setting block passwords directly is no longer supported"),
        "object-add" => ("there is no rng-random", "Parameter 'qom-type' does not accept value 'rng-random'"),
        "blockdev-add" if !example.request.contains("node-name") && !example.request.contains("\"id\"") => {
            ("refused in its own time, too", "'node-name' must be specified for the root node")
        }
        "x-blockdev-remove-medium" if example.name == "002 line 4403" => ("there is no drive with a tray", ""),
        "blockdev-change-medium" if is("read-only-mode", "retain") && is("device", "isa-fd0") => {
            ("the file may be written", "")
        }
        _ if is("id", "ide0-1-0") || is("id", "floppyA") => ("there is no device with removable media", "not found"),
        _ => return None,
    })
}

#[test]
fn every_example_of_the_block_layer_does_what_it_says() {
    let Some(examples) = examples() else { return };
    let files = ["hd1.qcow2", "test.qcow2", "fedora.iso", "test.raw", "Fedora-12-x86_64-DVD.iso", "ro.img"];
    let (mut replayed, mut found) = (0, Vec::new());
    let listed = fresh().1.query("query-commands");
    let exists = |name: &str| listed.as_array().expect("a list").iter().any(|entry| entry["name"] == name);
    // Those of commands that do not exist yet are replayed below.
    for example in examples.iter().filter(|example| is_of_storage(example) && exists(&example.command)) {
        if serde_json::from_str::<Value>(&example.request).is_err() {
            println!("{} ({}) is no JSON: {}", example.name, example.command, example.notes);
            continue;
        }
        let mut machine = Setup::new()
            .args(["-S", "-m", "64", "-object", "iothread,id=iothread0", "-object", "iothread,id=iothread1"])
            .args([
                "-drive",
                "if=none,id=ide1-cd0,file.driver=null-co,read-only=on",
                "-drive",
                "if=none,id=isa-fd0",
                "-drive",
                "if=none,id=ide0-1-0",
            ])
            .args(["-drive", "if=none,id=virtio0,file.driver=null-co", "-drive", "if=none,id=scratch"])
            .args(["-drive", "if=virtio,id=ide0-hd0,file.driver=null-co", "-blockdev", "null-co,node-name=mydev"])
            .args(["-blockdev", "null-co,node-name=c0", "-blockdev", "null-co,node-name=c1"])
            .args(["-blockdev", "null-co,node-name=new_node0", "-blockdev", "null-co,node-name=c2"])
            .start();
        let mut session = machine.connect(0);
        let mut request = example.request.clone();
        for name in files {
            let path = machine.path(name);
            fs::write(&path, if name.ends_with("qcow2") { qcow2_header() } else { vec![0; 4096] }).expect("a file");
            for prefix in ["/srv/images/", "/tmp/", ""] {
                request = request.replace(&format!("\"{prefix}{name}\""), &format!("\"{}\"", path.display()));
            }
        }
        request = request.replace("/dev/fdset/4", &machine.file("test.raw"));
        if example.command == "block_resize" {
            let change = json!({"device": "scratch", "filename": machine.file("test.raw"), "format": "raw"});
            session.run("blockdev-change-medium", change);
        }
        for before in preparation(&example.name) {
            let reply = replay(&mut session, before);
            assert!(reply.get("return").is_some(), "{}: {before}: {reply}", example.name);
        }
        let reply = replay(&mut session, &request);
        replayed += 1;
        let before = found.len();
        match difference(example) {
            Some((why, text)) => {
                println!("{} ({}): {why}", example.name, example.command);
                let said = reply["error"]["desc"].as_str().unwrap_or_default();
                if said.is_empty() != text.is_empty() || !said.contains(text) {
                    found.push(format!("wanted an error with {text:?}, got {reply}"));
                }
            }
            None => match &example.documented {
                Some(model) => problems(&reply, model, "reply", &mut found),
                // Some documented replies of queries are no JSON: QEMU's own stands for them.
                None if reply.get("return").is_none() => found.push(format!("it failed: {reply}")),
                None => {}
            },
        }
        for problem in &mut found[before..] {
            *problem = format!("{} ({}): {problem}", example.name, example.command);
        }
    }
    println!("{replayed} examples");
    assert!(replayed >= 40, "only {replayed} examples: the file or the list of commands is not what it was");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_example_of_other_commands_is_answered_as_not_found_and_harms_nothing() {
    let Some(examples) = examples() else { return };
    let (_machine, mut session) = fresh();
    let listed = session.query("query-commands");
    let known = |name: &str| {
        OLD.contains(&name) || listed.as_array().expect("a list").iter().any(|entry| entry["name"] == name)
    };
    let mut replayed = 0;
    for example in examples.iter().filter(|example| !known(&example.command)) {
        // Those that are no JSON: any error will do, and after a control character the next request works.
        session.send(&example.request);
        session.send(b"\x1b\n{\"execute\":\"query-name\",\"id\":\"after\"}");
        let mut errors = 0;
        loop {
            let message = session.message();
            if message["id"] == "after" {
                break;
            }
            assert!(message.get("error").is_some(), "{}: {message}", example.name);
            errors += 1;
        }
        // The control character makes one itself; a request that lacks its end makes no other.
        let wanted = if serde_json::from_str::<Value>(&example.request).is_ok() { 2 } else { 1 };
        assert!(errors >= wanted, "{}: {}", example.name, example.request);
        replayed += 1;
    }
    assert!(replayed > 50, "only {replayed} examples");
}
