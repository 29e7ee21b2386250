//! Replays every example of the specification's documents that belongs to the commands of this product. Those of the block
//! layer are in `spec_storage`, `spec_snapshots` and `spec_jobs`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::spec_jobs::is_of_jobs;
use crate::spec_snapshots::is_of_snapshots;
use crate::spec_storage::is_of_storage;
use crate::support::examples::{examples, problems, replay};
use crate::support::{Machine, Session, Setup};

/// The commands in old spelling that today's list leaves out.
const OLD: [&str; 4] = ["query-cpus", "query-events", "cpu", "cpu-add"];

fn fresh() -> (Machine, Session) {
    let mut machine = Setup::new()
        .args(["-S", "-m", "64", "-smp", "1,maxcpus=4", "-vga", "std", "-device", "secondary-vga,id=video0"])
        .args(["-vnc", "unix:{dir}/vnc,password=on"])
        // What the examples of devices and character devices name, as where QEMU's answers were recorded.
        .args(["-device", "virtio-scsi-pci", "-chardev", "ringbuf,id=foo"])
        .start();
    let session = machine.connect(0);
    (machine, session)
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
    for example in examples.iter().filter(|example| {
        ours.contains(&example.command) && !is_of_storage(example) && !is_of_snapshots(example) && !is_of_jobs(example)
    }) {
        if serde_json::from_str::<Value>(&example.request).is_err() {
            println!("{} ({}) is no JSON: {}", example.name, example.command, example.notes);
            continue;
        }
        // A machine each: `quit` ends it, `stop` changes what is true.
        let (_machine, mut session) = fresh();
        let (_, reply) = replay(&mut session, &example.request);
        replayed += 1;
        // What QEMU 7.2 refuses for a reason of the machine's (no descriptor was sent), Ouzel refuses alike; what it no
        // longer knows is answered as documented.
        let refused = example.recorded.as_ref().and_then(|recorded| recorded.get("error"));
        let refused =
            refused.filter(|error| !OLD.contains(&example.command.as_str()) || error["class"] != "CommandNotFound");
        let before = found.len();
        // The example asks for an option or a device that this product does not have: QEMU's answer for such a one.
        if example.request.contains("option-rom") {
            assert_eq!(reply["error"]["desc"], "invalid option name: option-rom", "it exists: remove this exception");
        } else if example.request.contains("e1000") {
            let wanted = "'e1000' is not a valid device model name";
            assert_eq!(reply["error"]["desc"], wanted, "it exists: remove this exception");
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
    assert!(replayed > 20, "only {replayed} examples");
}
