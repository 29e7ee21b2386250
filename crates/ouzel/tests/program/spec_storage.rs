//! Replays every example of the specification's documents for the commands of the block layer, on a machine whose guest
//! runs and that has what the example names, and looks at what it did.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::examples::{Example, examples, problems, replay};
use crate::support::{Machine, Reply, Session, Setup, guest, qcow2_header};

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

/// Whether an example is replayed here.
pub fn is_of_storage(example: &Example) -> bool {
    OF_STORAGE.contains(&example.command.as_str())
}

/// A quorum whose second child is to spare.
const QUORUM: &str = r#"{"execute": "blockdev-add", "arguments":
    {"driver": "quorum", "node-name": "disk1", "vote-threshold": 1, "children": ["c0", "c1"]}}"#;
const NEW_NODE: &str = r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "new_node"}}"#;
const NODE0: &str = r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "node0"}}"#;
const OPEN: &str = r#"{"execute": "blockdev-open-tray", "arguments": {"device": "ide1-cd0"}}"#;
const EJECT: &str = r#"{"execute": "eject", "arguments": {"device": "ide1-cd0"}}"#;

/// The commands that an example continues in its document, by document and line.
fn preparation(name: &str) -> &'static [&'static str] {
    match name {
        "002 line 1075" => {
            &[r#"{"execute": "object-add", "arguments": {"qom-type": "secret", "id": "rng1", "props": {"data": "x"}}}"#]
        }
        "002 line 4289" => {
            &[r#"{"execute": "blockdev-add", "arguments": {"options": {"driver": "null-co", "id": "drive0"}}}"#]
        }
        "002 line 4366" | "004 line 956" | "002 line 4420" | "004 line 1001" => &[OPEN],
        "002 line 4459" | "004 line 1029" => &[EJECT, NODE0],
        "002 line 4507" => &[NEW_NODE, QUORUM],
        "002 line 4513" => &[QUORUM],
        "004 line 901" => &[NODE0],
        _ => &[],
    }
}

/// The requests that lost brackets on their way into the documents, as they were meant.
fn mended(example: &Example) -> String {
    match example.name.as_str() {
        "004 line 859" => r#"{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "my_disk",
            "discard": "unmap", "cache": {"direct": true, "writeback": true},
            "file": {"driver": "file", "filename": "/tmp/test.qcow2"},
            "backing": {"driver": "raw", "file": {"driver": "file", "filename": "/dev/fdset/4"}}}}"#
            .to_owned(),
        "004 line 891" => r#"{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "node0",
            "file": {"driver": "file", "filename": "test.qcow2"}}}"#
            .to_owned(),
        "004 line 901" => r#"{"execute": "x-blockdev-del", "arguments": {"node-name": "node0"}}"#.to_owned(),
        "004 line 1021" => r#"{"execute": "blockdev-add", "arguments": {"node-name": "node0", "driver": "raw",
            "file": {"driver": "file", "filename": "fedora.iso"}}}"#
            .to_owned(),
        _ => example.request.clone(),
    }
}

/// Why an example is answered with an error although the document shows none, and a part of that.
fn refusal(example: &Example) -> Option<(&'static str, &'static str)> {
    let named = ["node-name", "\"id\""].iter().any(|name| mended(example).contains(name));
    Some(match example.command.as_str() {
        "block_passwd" => ("no version since 2.10 can", "Setting block passwords directly is no longer supported"),
        "blockdev-add" if !named => ("refused in its own time, too", "'node-name' must be specified for the root node"),
        _ => return None,
    })
}

/// An overlay of `base.qcow2`: the backing's format in an extension of the header, its name behind.
fn overlay() -> Vec<u8> {
    let mut image = qcow2_header();
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &0x200_u64.to_be_bytes());
    put(16, &10_u32.to_be_bytes());
    put(72, &0xe279_2aca_u32.to_be_bytes());
    put(76, &5_u32.to_be_bytes());
    put(80, b"qcow2");
    put(0x200, b"base.qcow2");
    image
}

const FILES: [&str; 9] = [
    "hd1.qcow2",
    "test.qcow2",
    "fedora.iso",
    "test.raw",
    "Fedora-12-x86_64-DVD.iso",
    "ro.img",
    "old.iso",
    "floppy.img",
    "scratch.img",
];

/// A guest that runs, with the drives that the documents speak of. It is refused what files don't allow, root or not.
fn machine(directory: &Path) -> (Machine, Session) {
    for name in FILES {
        let bytes = match name {
            "floppy.img" | "ro.img" => vec![0; 1440 << 10],
            name if name.ends_with("qcow2") => qcow2_header(),
            _ => vec![0; 4096],
        };
        fs::write(directory.join(name), bytes).expect("a file");
    }
    fs::write(directory.join("base.qcow2"), qcow2_header()).expect("a file");
    fs::write(directory.join("disk.qcow2"), overlay()).expect("a file");
    let mut read_only = fs::metadata(directory.join("ro.img")).expect("the file").permissions();
    read_only.set_readonly(true);
    fs::set_permissions(directory.join("ro.img"), read_only).expect("it becomes read-only");
    let path = |name: &str| directory.join(name).display().to_string();
    let mut machine = Setup::unprivileged()
        .args(["-m", "64", "-kernel", &guest("hello.elf"), "-vnc", "unix:{dir}/vnc,password=on"])
        .args(["-object", "iothread,id=iothread0", "-object", "iothread,id=iothread1"])
        .args(["-drive", &format!("if=none,id=ide1-cd0,media=cdrom,format=raw,file={}", path("old.iso"))])
        .args(["-device", "ide-cd,drive=ide1-cd0,id=ide0-1-0,bus=ide.1"])
        .args(["-drive", &format!("if=none,id=isa-fd0,format=raw,file={}", path("floppy.img"))])
        .args(["-device", "floppy,drive=isa-fd0,id=floppyA"])
        .args([
            "-drive",
            &format!(
                "if=none,id=ide0-hd0,format=qcow2,node-name=my-node,detect-zeroes=on,bps=1000000,bps_max=8000000,\
                 iops=1000000,file={}",
                path("disk.qcow2")
            ),
        ])
        .args(["-device", "ide-hd,drive=ide0-hd0,bus=ide.0"])
        .args(["-drive", "if=virtio,id=virtio0,file.driver=null-co,format=raw"])
        .args(["-drive", &format!("if=virtio,id=scratch,format=raw,file={}", path("scratch.img"))])
        .args(["-blockdev", "null-co,node-name=mydev", "-blockdev", "null-co,node-name=c0"])
        .args(["-blockdev", "null-co,node-name=c1"])
        .start();
    let mut session = machine.connect(0);
    assert_eq!(session.status(), "running", "{}", machine.story());
    // What `/dev/fdset/4` of the examples is.
    let raw = File::open(directory.join("test.raw")).expect("the file");
    let added = session.call_with_fds("add-fd", &json!({"fdset-id": 4}), &[raw.as_fd()]);
    assert!(matches!(added, Reply::Value(_)), "{added:?}");
    (machine, session)
}

fn drive<'a>(list: &'a Value, device: &str) -> &'a Value {
    let drives = list.as_array().expect("a list");
    drives.iter().find(|drive| drive["device"] == device).unwrap_or_else(|| panic!("no {device} in {list}"))
}

fn node<'a>(list: &'a Value, name: &str) -> &'a Value {
    let nodes = list.as_array().expect("a list");
    nodes.iter().find(|node| node["node-name"] == name).unwrap_or_else(|| panic!("no node {name} in {list}"))
}

/// Says what `got` is not of `wanted`: pairs of a name and two values.
fn differences(pairs: &[(&str, &Value, Value)]) -> Vec<String> {
    pairs
        .iter()
        .filter(|(_, got, wanted)| *got != wanted)
        .map(|(name, got, wanted)| format!("{name} is {got}, not {wanted}"))
        .collect()
}

/// What is wrong with the state of the machine after an example that has succeeded.
fn effect(example: &Example, reply: &Value, directory: &Path, machine: &Machine, session: &mut Session) -> Vec<String> {
    let request: Value = serde_json::from_str(&mended(example)).expect("JSON");
    let arguments = &request["arguments"];
    let drives = session.query("query-block");
    let nodes = session.query("query-named-block-nodes");
    let cd = drive(&drives, "ide1-cd0");
    let file = |name: &str| json!(directory.join(name));
    let options = if arguments["options"].is_object() { &arguments["options"] } else { arguments };
    match example.command.as_str() {
        "eject" | "x-blockdev-remove-medium" => {
            differences(&[("tray_open", &cd["tray_open"], json!(true)), ("inserted", &cd["inserted"], Value::Null)])
        }
        "blockdev-open-tray" => differences(&[
            ("tray_open", &cd["tray_open"], json!(true)),
            ("the disc", &cd["inserted"]["file"], file("old.iso")),
        ]),
        "blockdev-close-tray" => differences(&[("tray_open", &cd["tray_open"], json!(false))]),
        "x-blockdev-insert-medium" => differences(&[
            ("tray_open", &cd["tray_open"], json!(true)),
            ("the node", &cd["inserted"]["node-name"], json!("node0")),
        ]),
        // The password: what it lets in is tested in the crate `vnc`.
        "change" if arguments["device"] == "vnc" => {
            differences(&[("the authentication", &session.query("query-vnc")["auth"], json!("vnc"))])
        }
        "change" | "blockdev-change-medium" if arguments["read-only-mode"].is_null() => differences(&[
            ("tray_open", &cd["tray_open"], json!(false)),
            ("the disc", &cd["inserted"]["file"], file("Fedora-12-x86_64-DVD.iso")),
        ]),
        "blockdev-change-medium" => {
            let floppy = &drive(&drives, "isa-fd0")["inserted"];
            differences(&[("the disk", &floppy["file"], file("ro.img")), ("ro", &floppy["ro"], json!(true))])
        }
        "block_resize" => {
            let len = fs::metadata(directory.join("scratch.img")).expect("the file").len();
            let size = &drive(&drives, "scratch")["inserted"]["image"]["virtual-size"];
            differences(&[("the size", size, json!(1 << 30)), ("the file's", &json!(len), json!(1 << 30))])
        }
        "block_set_io_throttle" => {
            let device = arguments["device"].as_str().unwrap_or("ide1-cd0");
            let limits = &drive(&drives, device)["inserted"];
            differences(&[
                ("bps", &limits["bps"], json!(1_000_000)),
                ("bps_max", &limits["bps_max"], json!(8_000_000)),
                ("bps_max_length", &limits["bps_max_length"], json!(60)),
            ])
        }
        "block-set-write-threshold" => {
            differences(&[("the threshold", &node(&nodes, "mydev")["write_threshold"], json!(17_179_869_184_u64))])
        }
        "blockdev-add" => {
            let inserted = options["id"].as_str().map(|id| &drive(&drives, id)["inserted"]);
            let added = inserted.unwrap_or_else(|| node(&nodes, options["node-name"].as_str().unwrap_or_default()));
            let name = Path::new(options["file"]["filename"].as_str().unwrap_or_default()).file_name();
            let name = name.and_then(|name| name.to_str()).unwrap_or_default();
            let backed = json!(i32::from(options["backing"].is_object()));
            let mut wrong = differences(&[
                ("drv", &added["drv"], options["driver"].clone()),
                ("its depth", &added["backing_file_depth"], backed),
            ]);
            // A backing that the image does not name is part of the name.
            if options["backing"].is_object() {
                let shown = added["file"].as_str().unwrap_or_default();
                let named = ["json:", "fdset", name].iter().all(|part| shown.contains(part));
                wrong.extend(differences(&[("the backing is named", &json!(named), json!(true))]));
            } else {
                wrong.extend(differences(&[("file", &added["file"], file(name))]));
            }
            wrong
        }
        "x-blockdev-del" => {
            let gone = ["drive0", "node0"].iter().all(|name| !format!("{drives}{nodes}").contains(name));
            differences(&[("it is gone", &json!(gone), json!(true))])
        }
        "x-blockdev-change" => {
            let (name, wanted) = if arguments["node"].is_string() {
                ("new_node", Reply::Error("GenericError".to_owned(), "Block device new_node is in use".to_owned()))
            } else {
                ("c1", Reply::Value(json!({})))
            };
            let reply = session.call(&json!({"execute": "blockdev-del", "arguments": {"node-name": name}}));
            if reply == wanted { Vec::new() } else { vec![format!("blockdev-del of {name}: {reply:?}")] }
        }
        "object-add" => {
            let found = session.run("qom-list", json!({"path": "/objects"}));
            let is_there = found.as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "rng1"));
            if is_there { Vec::new() } else { vec![format!("it is not there: {found}")] }
        }
        "object-del" => match session.call(&json!({"execute": "object-del", "arguments": {"id": "rng1"}})) {
            Reply::Error(_, text) if text == "object 'rng1' not found" => Vec::new(),
            reply => vec![format!("it is there: {reply:?}")],
        },
        "query-block" => told_of_the_disk(&drive(&reply["return"], "ide0-hd0")["inserted"], directory),
        "query-named-block-nodes" => told_of_the_disk(node(&reply["return"], "my-node"), directory),
        "query-blockstats" => counters(drive(&reply["return"], "ide0-hd0")),
        "query-iothreads" => {
            let name = |at: usize| {
                let task = format!("/proc/{}/task/{}/comm", machine.pid(), reply["return"][at]["thread-id"]);
                json!(fs::read_to_string(task).unwrap_or_default().trim_end())
            };
            differences(&[
                ("the first", &name(0), json!("IO iothread0")),
                ("the second", &name(1), json!("IO iothread1")),
                ("the first's id", &reply["return"][0]["id"], json!("iothread0")),
                ("the second's id", &reply["return"][1]["id"], json!("iothread1")),
            ])
        }
        _ => vec!["nobody looks at what it does".to_owned()],
    }
}

/// The disk is what its document shows: an overlay with limits.
fn told_of_the_disk(disk: &Value, directory: &Path) -> Vec<String> {
    let file = |name: &str| json!(directory.join(name));
    let image = &disk["image"];
    differences(&[
        ("ro", &disk["ro"], json!(false)),
        ("drv", &disk["drv"], json!("qcow2")),
        ("encrypted", &disk["encrypted"], json!(false)),
        ("file", &disk["file"], file("disk.qcow2")),
        ("backing_file_depth", &disk["backing_file_depth"], json!(1)),
        ("bps", &disk["bps"], json!(1_000_000)),
        ("iops", &disk["iops"], json!(1_000_000)),
        ("bps_max", &disk["bps_max"], json!(8_000_000)),
        ("detect_zeroes", &disk["detect_zeroes"], json!("on")),
        ("write_threshold", &disk["write_threshold"], json!(0)),
        ("the name", &image["filename"], file("disk.qcow2")),
        ("the format", &image["format"], json!("qcow2")),
        ("the size", &image["virtual-size"], json!(1 << 20)),
        ("the backing", &image["backing-filename"], json!("base.qcow2")),
        ("the backing's name", &image["full-backing-filename"], file("base.qcow2")),
        ("the backing's format", &image["backing-filename-format"], json!("qcow2")),
        ("the backing's size", &image["backing-image"]["virtual-size"], json!(1 << 20)),
    ])
}

/// The counters of the document, by the names that they really have, here and of the file below.
fn counters(disk: &Value) -> Vec<String> {
    let names = [
        "rd_bytes",
        "rd_operations",
        "wr_bytes",
        "wr_operations",
        "flush_operations",
        "rd_total_time_ns",
        "wr_total_time_ns",
        "flush_total_time_ns",
        "rd_merged",
        "wr_merged",
        "wr_highest_offset",
    ];
    let mut wrong = Vec::new();
    for (place, stats) in [("stats", &disk["stats"]), ("parent.stats", &disk["parent"]["stats"])] {
        wrong.extend(names.iter().filter(|name| !stats[**name].is_u64()).map(|name| format!("{place} lacks {name}")));
    }
    for name in ["account_invalid", "account_failed"] {
        if !disk["stats"][name].is_boolean() {
            wrong.push(format!("stats lacks {name}"));
        }
    }
    wrong
}

/// Replays one example on a machine of its own; what is wrong with it.
fn wrong(example: &Example) -> Vec<String> {
    let directory = crate::support::Directory::new();
    let directory = directory.join("");
    let (machine, mut session) = machine(&directory);
    let mut request = mended(example);
    for name in FILES {
        for prefix in ["/srv/images/", "/tmp/", ""] {
            let path = directory.join(name);
            request = request.replace(&format!("\"{prefix}{name}\""), &format!("\"{}\"", path.display()));
        }
    }
    for before in preparation(&example.name) {
        let (_, reply) = replay(&mut session, before);
        assert!(reply.get("return").is_some(), "{}: {before}: {reply}", example.name);
    }
    let (events, reply) = replay(&mut session, &request);
    let mut found = Vec::new();
    let documented = example.documented.as_ref().and_then(|reply| reply.get("error"));
    if let Some((why, text)) = refusal(example) {
        println!("{} ({}): {why}", example.name, example.command);
        if !reply["error"]["desc"].as_str().is_some_and(|said| said.contains(text)) {
            found.push(format!("wanted an error with {text:?}, got {reply}"));
        }
    } else if let Some(error) = documented {
        let wanted = error.to_string().replace("/srv/images/", &directory.display().to_string());
        let said = reply["error"].to_string();
        if said != wanted {
            found.push(format!("wanted the error {wanted}, got {reply}"));
        }
    } else if reply.get("return").is_none() {
        found.push(format!("it failed: {reply}"));
    } else {
        if let Some(model) = &example.documented {
            problems(&reply, model, "reply", &mut found);
        }
        for (index, event) in example.events.iter().enumerate() {
            match events.get(index) {
                Some(got) => problems(got, event, "event", &mut found),
                None => found.push(format!("there is no {event}")),
            }
            let data = &events.get(index).unwrap_or(&Value::Null)["data"];
            for (name, value) in event["data"].as_object().into_iter().flatten() {
                found.extend(differences(&[(name, &data[name], value.clone())]));
            }
        }
        found.extend(effect(example, &reply, &directory, &machine, &mut session));
    }
    if session.status() != "running" {
        found.push("the guest runs no more".to_owned());
    }
    found
}

#[test]
fn every_example_of_the_block_layer_does_what_it_says() {
    let Some(examples) = examples() else { return };
    let (mut replayed, mut refused, mut found) = (0, 0, Vec::new());
    for example in examples.iter().filter(|example| is_of_storage(example)) {
        replayed += 1;
        refused += usize::from(refusal(example).is_some());
        let wrong = wrong(example);
        found.extend(wrong.into_iter().map(|wrong| format!("{} ({}): {wrong}", example.name, example.command)));
    }
    println!("{replayed} examples, {refused} refused on purpose");
    assert!(replayed >= 50, "only {replayed} examples: the file is not what it was");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
