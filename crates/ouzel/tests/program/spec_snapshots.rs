//! Replays every example of the specification's documents for bitmaps, snapshots and transactions, while a guest writes to
//! the disks that it names, and looks at what it did. The guest is the test itself.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::examples::{Example, examples, problems, replay};
use crate::support::guest::{self, Guest, OK};
use crate::support::{Directory, Machine, Session, qcow2_header_v3, text};

const OF_SNAPSHOTS: [&str; 8] = [
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-remove",
    "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync",
    "blockdev-snapshot-sync",
    "transaction",
];

/// Whether an example is replayed here.
pub fn is_of_snapshots(example: &Example) -> bool {
    OF_SNAPSHOTS.contains(&example.command.as_str())
}

/// The disks that the documents speak of, in the order of the guest's.
const DISKS: [&str; 5] = ["ide-hd0", "ide-hd1", "ide-hd2", "drive0", "myfile"];

const BITMAP: &str = r#"{"execute": "block-dirty-bitmap-add",
    "arguments": {"node": "drive0", "name": "bitmap0", "granularity": 4096, "persistent": true}}"#;
const INSIDE: &str = r#"{"execute": "blockdev-snapshot-internal-sync",
    "arguments": {"device": "ide-hd0", "name": "snapshot0"}}"#;
const OVERLAY: &str = r#"{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "node1534",
    "file": {"driver": "file", "filename": "/some/place/hd1.qcow2"}}}"#;

/// The commands that an example continues in its document.
fn preparation(command: &str) -> Option<&'static str> {
    Some(match command {
        "block-dirty-bitmap-clear" | "block-dirty-bitmap-remove" => BITMAP,
        "blockdev-snapshot" => OVERLAY,
        "blockdev-snapshot-delete-internal-sync" => INSIDE,
        _ => return None,
    })
}

/// The requests as they were meant: two overlays of one transaction have files of their own, and brackets that were lost
/// are back.
fn mended(example: &Example, directory: &Path) -> String {
    let request = match example.command.as_str() {
        "transaction" => example.request.replacen("my-image2", "my-image3", 1),
        "blockdev-snapshot-internal-sync" | "blockdev-snapshot-delete-internal-sync"
            if serde_json::from_str::<Value>(&example.request).is_err() =>
        {
            format!("{} }}", example.request)
        }
        _ => example.request.clone(),
    };
    request.replace("/some/place", text(directory))
}

/// Why an example can't succeed.
fn refusal(example: &Example) -> Option<&'static str> {
    match example.command.as_str() {
        "blockdev-snapshot-sync" if !example.request.contains("snapshot-file") => {
            Some("Parameter 'snapshot-file' is missing")
        }
        _ => None,
    }
}

fn started(directory: &Path) -> (Machine, Session, Guest) {
    for name in ["my-image2", "my-image3", "hd1.qcow2"] {
        fs::write(directory.join(name), qcow2_header_v3()).expect("an image");
    }
    let mut setup = guest::setup();
    for disk in DISKS {
        let path = directory.join(format!("{disk}.qcow2"));
        fs::write(&path, qcow2_header_v3()).expect("an image");
        let name = if disk == "myfile" { "node-name=myfile".to_owned() } else { format!("id={disk}") };
        setup = setup.args(["-drive", &format!("if=virtio,{name},format=qcow2,file={}", text(&path))]);
    }
    let mut machine = setup.start();
    let session = machine.connect(0);
    let guest = Guest::of(&mut machine);
    (machine, session, guest)
}

fn inserted(session: &mut Session, disk: usize) -> Value {
    session.query("query-block")[disk]["inserted"].clone()
}

/// What is wrong with the disks after an example that has succeeded.
fn effect(example: &Example, session: &mut Session, directory: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, got: &Value, wanted: Value| {
        if *got != wanted {
            wrong.push(format!("{what} is {got}, not {wanted}"));
        }
    };
    let file = |name: &str| json!(directory.join(name));
    match example.command.as_str() {
        "block-dirty-bitmap-add" => {
            let bitmap = inserted(session, 3)["dirty-bitmaps"][0].clone();
            check("the name", &bitmap["name"], json!("bitmap0"));
            check("recording", &bitmap["recording"], json!(true));
        }
        // The guest may have written since.
        "block-dirty-bitmap-clear" => {
            let count = inserted(session, 3)["dirty-bitmaps"][0]["count"].clone();
            check("what is left is small", &json!(count.as_u64().is_some_and(|count| count <= 32 << 10)), json!(true));
        }
        "block-dirty-bitmap-remove" => check("bitmaps", &inserted(session, 3)["dirty-bitmaps"], Value::Null),
        "blockdev-snapshot-sync" => {
            let disk = inserted(session, 0);
            check("the overlay", &disk["file"], file("my-image"));
            check("its backing", &disk["backing_file"], file("ide-hd0.qcow2"));
        }
        "blockdev-snapshot" => {
            let disk = inserted(session, 0);
            check("the overlay", &disk["node-name"], json!("node1534"));
            check("its backing", &disk["backing_file"], file("ide-hd0.qcow2"));
        }
        "blockdev-snapshot-internal-sync" => {
            check("the snapshot", &inserted(session, 0)["image"]["snapshots"][0]["name"], json!("snapshot0"));
        }
        "blockdev-snapshot-delete-internal-sync" => {
            check("snapshots", &inserted(session, 0)["image"]["snapshots"], Value::Null);
        }
        "transaction" => {
            check("ide-hd0's overlay", &inserted(session, 0)["file"], file("my-image"));
            let second = inserted(session, 4);
            check("myfile's overlay", &second["node-name"], json!("node3432"));
            check("its depth", &second["backing_file_depth"], json!(1));
            check("ide-hd1's depth", &inserted(session, 1)["backing_file_depth"], json!(1));
            check("the snapshot", &inserted(session, 2)["image"]["snapshots"][0]["name"], json!("snapshot0"));
        }
        _ => wrong.push("nobody looks at what it does".to_owned()),
    }
    wrong
}

/// Replays one example on a machine of its own; what is wrong with it.
fn wrong(example: &Example) -> Vec<String> {
    let directory = Directory::new();
    let place = directory.join("place");
    fs::create_dir(&place).expect("a directory");
    let (_machine, mut session, mut guest) = started(&place);
    for disk in 0..DISKS.len() {
        assert_eq!(guest.write(disk, 0, &[1; 4096]), OK);
    }
    if let Some(before) = preparation(&example.command) {
        let (_, reply) = replay(&mut session, &before.replace("/some/place", text(&place)));
        assert!(reply.get("return").is_some(), "{}: {before}: {reply}", example.name);
    }
    for disk in 0..DISKS.len() {
        assert_eq!(guest.write(disk, 512, &[2; 65536]), OK);
    }
    let mut running = Vec::new();
    for round in 0..8 {
        for disk in 0..DISKS.len() {
            running.push((disk, guest.begin_write(disk, 1024 + 8 * round, &[3; 4096])));
        }
    }
    let (_, reply) = replay(&mut session, &mended(example, &place));
    let mut found = Vec::new();
    match refusal(example) {
        Some(text) if reply["error"]["desc"] == text => {}
        Some(text) => found.push(format!("wanted the error {text:?}, got {reply}")),
        None if reply.get("return").is_none() => found.push(format!("it failed: {reply}")),
        None => {
            if let Some(model) = &example.documented {
                problems(&reply, model, "reply", &mut found);
            }
            found.extend(effect(example, &mut session, &place));
        }
    }
    for (disk, slot) in running {
        if guest.wait(disk, slot) != OK {
            found.push(format!("a write to {} failed", DISKS[disk]));
        }
    }
    for (disk, name) in DISKS.iter().enumerate() {
        let all = [guest.read(disk, 0, 4096).1, guest.read(disk, 512, 65536).1, guest.read(disk, 1024, 32768).1];
        for (data, byte) in all.iter().zip(1..) {
            if data.iter().any(|read| *read != byte) {
                found.push(format!("{name} does not hold what was written"));
            }
        }
    }
    if session.status() != "running" {
        found.push("the guest runs no more".to_owned());
    }
    found
}

#[test]
fn every_example_of_bitmaps_and_snapshots_does_what_it_says() {
    let Some(examples) = examples() else { return };
    let (mut replayed, mut found) = (0, Vec::new());
    for example in examples.iter().filter(|example| is_of_snapshots(example)) {
        if serde_json::from_str::<Value>(&mended(example, Path::new("/"))).is_err() {
            println!("{} ({}) is no JSON: {}", example.name, example.command, example.notes);
            continue;
        }
        replayed += 1;
        let wrong = wrong(example);
        found.extend(wrong.into_iter().map(|wrong| format!("{} ({}): {wrong}", example.name, example.command)));
    }
    println!("{replayed} examples");
    assert!(replayed >= 11, "only {replayed} examples: the file is not what it was");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
