//! Replays every example of the specification's documents for the jobs that copy, while a guest writes to the disks that
//! it names, and looks at what it did. The guest is the test itself.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::examples::{Example, examples, replay};
use crate::support::guest::{self, Guest, OK};
use crate::support::{Directory, Machine, Session, qcow2_header_v3, text};

const OF_JOBS: [&str; 6] =
    ["block-commit", "block-stream", "blockdev-backup", "blockdev-mirror", "drive-backup", "drive-mirror"];

/// Whether an example is replayed here.
pub fn is_of_jobs(example: &Example) -> bool {
    OF_JOBS.contains(&example.command.as_str())
}

/// The disks that the documents speak of, in the order of the guest's.
const DISKS: [&str; 4] = ["virtio0", "drive0", "src-id", "ide-hd0"];
/// The nodes that copies go to.
const TARGETS: [&str; 2] = ["tgt-id", "target0"];

fn started(directory: &Path) -> (Machine, Session, Guest) {
    let mut setup = guest::setup();
    for name in DISKS.iter().chain(&TARGETS) {
        let path = directory.join(if *name == "virtio0" { "master.qcow2".to_owned() } else { format!("{name}.qcow2") });
        fs::write(&path, qcow2_header_v3()).expect("an image");
        let path = text(&path);
        setup = if TARGETS.contains(name) {
            let node = format!("driver=qcow2,node-name={name},file.driver=file,file.filename={path}");
            setup.args(["-blockdev", &node])
        } else {
            setup.args(["-drive", &format!("if=virtio,id={name},format=qcow2,file={path}")])
        };
    }
    let mut machine = setup.start();
    let session = machine.connect(0);
    let guest = Guest::of(&mut machine);
    (machine, session, guest)
}

/// Lets the jobs come to their end; what they say of themselves if they fail.
fn end(session: &mut Session, found: &mut Vec<String>) {
    loop {
        let jobs = session.query("query-block-jobs");
        let Some(job) = jobs.as_array().expect("a list").first().cloned() else { return };
        if !job["error"].is_null() {
            found.push(format!("the job failed: {job}"));
        }
        if job["ready"] == json!(true) {
            let request = json!({"execute": "block-job-complete", "arguments": {"device": job["device"]}});
            replay(session, &request.to_string());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What is wrong with the disks after an example.
fn effect(example: &Example, session: &mut Session, directory: &Path) -> Vec<String> {
    let file = |name: &str| json!(directory.join(name));
    let drives = session.query("query-block");
    let inserted = |disk: usize| drives[disk]["inserted"].clone();
    let pairs = match example.command.as_str() {
        // The documents' chain is master, snap1, top.
        "block-stream" => vec![
            (inserted(0)["backing_file"].clone(), file("master.qcow2")),
            (inserted(0)["backing_file_depth"].clone(), json!(1)),
        ],
        "block-commit" => vec![
            (inserted(0)["file"].clone(), file("top.qcow2")),
            (inserted(0)["backing_file"].clone(), file("master.qcow2")),
        ],
        "drive-mirror" => vec![(inserted(3)["file"].clone(), file("my-image"))],
        "blockdev-mirror" => vec![(inserted(3)["node-name"].clone(), json!("target0"))],
        "drive-backup" => vec![
            (inserted(1)["file"].clone(), file("drive0.qcow2")),
            (json!(directory.join("backup.img").exists()), json!(true)),
        ],
        _ => vec![(inserted(2)["file"].clone(), file("src-id.qcow2"))],
    };
    let wrong = pairs.into_iter().filter(|(got, wanted)| got != wanted);
    wrong.map(|(got, wanted)| format!("{got} and not {wanted}")).collect()
}

/// Replays one example on a machine of its own; what is wrong with it.
fn wrong(example: &Example) -> Vec<String> {
    let directory = Directory::new();
    let place = directory.join("place");
    fs::create_dir(&place).expect("a directory");
    let (_machine, mut session, mut guest) = started(&place);
    for (round, overlay) in ["snap1.qcow2", "top.qcow2"].iter().enumerate() {
        for disk in 0..DISKS.len() {
            assert_eq!(guest.write(disk, 512 * round as u64, &[1; 65536]), OK);
        }
        let request = json!({"execute": "blockdev-snapshot-sync", "arguments":
            {"device": "virtio0", "snapshot-file": place.join(overlay), "format": "qcow2"}});
        let (_, reply) = replay(&mut session, &request.to_string());
        assert!(reply.get("return").is_some(), "{}: {reply}", example.name);
    }
    let mut running = Vec::new();
    for round in 0..8 {
        for disk in 0..DISKS.len() {
            running.push((disk, guest.begin_write(disk, 1024 + 8 * round, &[3; 4096])));
        }
    }
    let request = example.request.replace("/tmp", "/some/place").replace("/some/place", text(&place));
    let request = request.replace("backup.img", text(&place.join("backup.img")));
    let (_, reply) = replay(&mut session, &request);
    let mut found = Vec::new();
    if reply != json!({"return": {}}) {
        found.push(format!("it failed: {reply}"));
    }
    for (disk, slot) in running {
        if guest.wait(disk, slot) != OK {
            found.push(format!("a write to {} failed", DISKS[disk]));
        }
    }
    end(&mut session, &mut found);
    if found.is_empty() {
        found = effect(example, &mut session, &place);
    }
    for (disk, name) in DISKS.iter().enumerate() {
        let first = guest.read(disk, 0, 65536).1;
        let last = guest.read(disk, 1024, 32768).1;
        if first.iter().any(|read| *read != 1) || last.iter().any(|read| *read != 3) {
            found.push(format!("{name} does not hold what was written"));
        }
    }
    found
}

#[test]
fn every_example_of_jobs_does_what_it_says() {
    let Some(examples) = examples() else { return };
    let (mut replayed, mut found) = (0, Vec::new());
    for example in examples.iter().filter(|example| is_of_jobs(example)) {
        if serde_json::from_str::<Value>(&example.request).is_err() {
            println!("{} ({}) is no JSON: {}", example.name, example.command, example.notes);
            continue;
        }
        replayed += 1;
        let problems = wrong(example);
        found.extend(problems.iter().map(|problem| format!("{} ({}): {problem}", example.name, example.command)));
    }
    println!("{replayed} examples");
    assert!(replayed >= 6, "only {replayed} examples");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
