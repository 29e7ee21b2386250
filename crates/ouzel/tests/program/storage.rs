//! The block layer over QMP and the command line: nodes, drives, media, limits, jobs, objects.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Reply, Session, Setup, qemu};

/// A machine that does not run, with these arguments; `{dir}` is its directory.
fn started(arguments: &[&str]) -> (Machine, Session) {
    let mut machine = Setup::new().args(["-S", "-m", "64"]).args(arguments).start();
    let session = machine.connect(0);
    (machine, session)
}

fn raw_file(path: &Path, size: u64) {
    File::create(path).and_then(|file| file.set_len(size)).expect("a file");
}

fn node<'a>(list: &'a Value, name: &str) -> &'a Value {
    let nodes = list.as_array().expect("a list");
    nodes.iter().find(|node| node["node-name"] == name).unwrap_or_else(|| panic!("no node {name} in {list}"))
}

fn device<'a>(list: &'a Value, name: &str) -> &'a Value {
    let devices = list.as_array().expect("a list");
    devices.iter().find(|device| device["device"] == name).unwrap_or_else(|| panic!("no device {name} in {list}"))
}

#[test]
fn node_is_added_told_of_and_deleted() {
    let (machine, mut session) = started(&[]);
    raw_file(&machine.path("a.img"), 1 << 20);
    let file = machine.file("a.img");
    let options = json!({"driver": "raw", "node-name": "a", "read-only": true, "detect-zeroes": "on",
        "file": {"driver": "file", "node-name": "p", "filename": file}});
    session.run("blockdev-add", options.clone());
    let nodes = session.query("query-named-block-nodes");
    let a = node(&nodes, "a");
    assert_eq!((&a["drv"], &a["ro"], &a["detect_zeroes"]), (&json!("raw"), &json!(true), &json!("on")), "{a}");
    assert_eq!((&a["image"]["virtual-size"], &a["file"]), (&json!(1 << 20), &json!(file)), "{a}");
    assert_eq!(node(&nodes, "p")["drv"], "file");
    assert_eq!(session.query("query-block"), json!([]), "a node alone has no back end");
    assert_eq!(session.generic_error("blockdev-add", options), "Duplicate nodes with node-name='a'");
    assert_eq!(session.generic_error("blockdev-del", json!({"node-name": "p"})), "Block device p is in use");
    session.run("blockdev-del", json!({"node-name": "a"}));
    assert_eq!(session.query("query-named-block-nodes"), json!([]), "its file went with it");
    let gone = session.generic_error("blockdev-del", json!({"node-name": "a"}));
    assert_eq!(gone, "Failed to find node with node-name='a'");
}

#[test]
fn node_of_the_older_dialect_makes_a_back_end() {
    let (machine, mut session) = started(&[]);
    raw_file(&machine.path("a.img"), 4096);
    let options = json!({"options": {"driver": "raw", "id": "drive0", "cache": {"writeback": false},
        "file": {"driver": "file", "filename": machine.file("a.img")}}});
    session.run("blockdev-add", options);
    let list = session.query("query-block");
    let drive = device(&list, "drive0");
    assert_eq!(drive["inserted"]["cache"]["writeback"], false, "{drive}");
    assert_eq!(session.generic_error("x-blockdev-del", json!({})), "No block device specified");
    let both = session.generic_error("x-blockdev-del", json!({"id": "drive0", "node-name": "x"}));
    assert_eq!(both, "Only one of id and node-name must be specified");
    session.run("x-blockdev-del", json!({"id": "drive0"}));
    assert_eq!(session.query("query-block"), json!([]));
    assert_eq!(session.query("query-named-block-nodes"), json!([]));
}

#[test]
fn image_of_another_process_is_refused() {
    let directory = crate::support::Directory::new();
    raw_file(&directory.join("a.img"), 4096);
    let drive = format!("if=none,id=d,file={},format=raw", directory.join("a.img").display());
    let arguments = ["-drive", &drive, "-device", "virtio-blk-pci,drive=d"];
    let (machine, mut session) = started(&arguments);
    assert_eq!(session.query("query-block")[0]["inserted"]["ro"], false);
    let mut other = Setup::new().args(["-S", "-m", "64"]).args(arguments).start();
    assert_eq!(other.wait_exit(PATIENCE).code(), Some(1));
    assert!(other.stderr().contains("Failed to get \"write\" lock"), "{}", other.stderr());
    // Both may read.
    let reads = format!("{drive},readonly=on");
    drop((machine, session));
    let (_machine, _session) = started(&["-drive", &reads, "-device", "virtio-blk-pci,drive=d"]);
    let (_other, mut session) = started(&["-drive", &reads, "-device", "virtio-blk-pci,drive=d"]);
    assert_eq!(session.query("query-block")[0]["inserted"]["ro"], true);
}

#[test]
fn drives_of_the_command_line_have_their_devices() {
    let arguments = [
        "-drive",
        "if=none,id=empty",
        "-drive",
        "if=virtio,file.driver=null-co,format=raw,werror=stop",
        "-blockdev",
        "null-co,node-name=n",
        "-device",
        "virtio-blk-pci,drive=n,id=vb",
    ];
    let (_machine, mut session) = started(&arguments);
    let list = session.query("query-block");
    let empty = device(&list, "empty");
    assert_eq!((&empty["removable"], empty.get("inserted"), empty.get("qdev")), (&json!(true), None, None), "{empty}");
    let automatic = device(&list, "virtio0");
    assert_eq!(automatic["qdev"], "/machine/peripheral-anon/device[0]/virtio-backend", "{automatic}");
    assert_eq!((&automatic["io-status"], &automatic["removable"]), (&json!("ok"), &json!(false)), "{automatic}");
    let named = device(&list, "");
    assert_eq!(named["qdev"], "/machine/peripheral/vb/virtio-backend", "{named}");
    assert_eq!(named["inserted"]["node-name"], "n");
    assert_eq!(session.generic_error("blockdev-del", json!({"node-name": "n"})), "Node n is in use");
    let stats = session.query("query-blockstats");
    assert_eq!(stats.as_array().map(Vec::len), Some(3), "{stats}");
    assert_eq!(device(&stats, "virtio0")["stats"]["rd_operations"], 0);
}

#[test]
fn drives_that_do_not_fit_are_refused_at_the_start() {
    for (arguments, expected) in [
        (&["-device", "virtio-blk-pci,drive=nope"][..], "Property 'virtio-blk-device.drive' can't find value 'nope'"),
        (&["-drive", "if=none,id=d", "-device", "virtio-blk-pci,drive=d"], "Device needs media, but drive is empty"),
        (&["-drive", "if=none,id=d,file=/nonexistent/x,format=raw"], "Could not open '/nonexistent/x'"),
        (&["-drive", "if=none,id=d", "-drive", "if=none,id=d"], "Device with id 'd' already exists"),
        (
            &[
                "-drive",
                "if=none,id=d,file.driver=null-co",
                "-device",
                "virtio-blk-pci,drive=d,id=a",
                "-device",
                "virtio-blk-pci,drive=d,id=b",
            ],
            "Drive 'd' is already in use by another device",
        ),
        (&["-drive", "if=none,bps=1,bps_rd=1,file.driver=null-co"], "cannot be used at the same time"),
        (&["-object", "secret,id=s"], "-object secret,id=s: Either 'file' or 'data' must be provided"),
        (&["-blockdev", "raw,node-name=a,file=b"], "-blockdev raw,node-name=a,file=b: Cannot find device='b'"),
    ] {
        let mut machine = Setup::new().args(["-S", "-m", "64"]).args(arguments).start();
        assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1), "{arguments:?}");
        assert!(machine.stderr().contains(expected), "{arguments:?}: {}", machine.stderr());
    }
}

#[test]
fn medium_of_a_drive_is_exchanged() {
    let (machine, mut session) = started(&["-drive", "if=none,id=cd,media=cdrom"]);
    for (name, size) in [("one.iso", 2048), ("two.iso", 4096)] {
        raw_file(&machine.path(name), size);
    }
    let change = |name: &str| json!({"device": "cd", "filename": machine.file(name), "format": "raw"});
    session.run("blockdev-change-medium", change("one.iso"));
    let size = |session: &mut Session| session.query("query-block")[0]["inserted"]["image"]["virtual-size"].clone();
    assert_eq!(size(&mut session), 2048);
    // A file that is not there leaves the medium in place.
    let text = session.generic_error("blockdev-change-medium", change("three.iso"));
    assert!(text.contains("No such file or directory"), "{text}");
    assert_eq!(size(&mut session), 2048);
    session.run("change", json!({"device": "cd", "target": machine.file("two.iso"), "arg": "raw"}));
    assert_eq!(size(&mut session), 4096);
    session.run("eject", json!({"device": "cd"}));
    assert_eq!(size(&mut session), Value::Null);
    let node =
        json!({"driver": "raw", "node-name": "m", "file": {"driver": "file", "filename": machine.file("one.iso")}});
    session.run("blockdev-add", node);
    session.run("x-blockdev-insert-medium", json!({"device": "cd", "node-name": "m"}));
    assert_eq!(size(&mut session), 2048);
    let text = session.generic_error("x-blockdev-insert-medium", json!({"device": "cd", "node-name": "m"}));
    assert_eq!(text, "Node 'm' is already in use");
    session.run("x-blockdev-remove-medium", json!({"device": "cd"}));
    assert_eq!(size(&mut session), Value::Null);
    session.run("blockdev-del", json!({"node-name": "m"}));
    assert_eq!(session.take_events(), Vec::<String>::new(), "there is no tray that moves");
}

#[test]
fn drive_with_a_fixed_medium_keeps_it() {
    let arguments = ["-drive", "if=virtio,id=d,file.driver=null-co,format=raw"];
    let (_machine, mut session) = started(&arguments);
    for command in ["eject", "blockdev-open-tray", "blockdev-close-tray", "x-blockdev-remove-medium"] {
        assert_eq!(session.generic_error(command, json!({"device": "d"})), "Device 'd' is not removable", "{command}");
    }
    assert_eq!(session.error("eject", json!({"device": "e"})).0, "DeviceNotFound");
    let both = session.generic_error("eject", json!({"device": "d", "id": "d"}));
    assert_eq!(both, "Need exactly one of 'device' and 'id'");
    let password = json!({"device": "d", "password": "x"});
    let text = session.generic_error("block_passwd", password);
    assert_eq!(text, "Setting block passwords directly is no longer supported");
}

#[test]
fn size_of_a_disk_changes_with_its_file() {
    let (machine, mut session) = started(&["-drive", "if=none,id=d"]);
    raw_file(&machine.path("a.img"), 4096);
    let change = json!({"device": "d", "filename": machine.file("a.img"), "format": "raw"});
    session.run("blockdev-change-medium", change);
    session.run("block_resize", json!({"device": "d", "size": 1 << 20}));
    assert_eq!(fs::metadata(machine.path("a.img")).expect("the file").len(), 1 << 20);
    assert_eq!(session.query("query-block")[0]["inserted"]["image"]["virtual-size"], 1 << 20);
    let text = session.generic_error("block_resize", json!({"device": "d", "size": -1}));
    assert_eq!(text, "Parameter 'size' expects a >0 size");
}

#[test]
fn limits_are_set_shared_and_taken_away() {
    let arguments = [
        "-drive",
        "if=none,id=a,file.driver=null-co,bps=1000,iops=10,iops_max=20,iops_max_length=2",
        "-drive",
        "if=none,id=b,file.driver=null-co",
    ];
    let (_machine, mut session) = started(&arguments);
    let inserted = |session: &mut Session, name: &str| device(&session.query("query-block"), name)["inserted"].clone();
    let a = inserted(&mut session, "a");
    assert_eq!((&a["bps"], &a["iops"], &a["group"]), (&json!(1000), &json!(10), &json!("a")), "{a}");
    assert_eq!((&a["iops_max"], &a["iops_max_length"], a.get("bps_max")), (&json!(20), &json!(2), None), "{a}");
    let limits = |more: Value| {
        let mut limits = json!({"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0});
        for (name, value) in more.as_object().expect("members") {
            limits[name] = value.clone();
        }
        limits
    };
    session.run("block_set_io_throttle", limits(json!({"device": "b", "iops_rd": 7, "group": "a"})));
    assert_eq!(inserted(&mut session, "b")["group"], "a");
    assert_eq!(inserted(&mut session, "a")["iops_rd"], 7, "the group has one set of limits");
    session.run("block_set_io_throttle", limits(json!({"device": "a"})));
    assert_eq!(inserted(&mut session, "a").get("group"), None);
    let wrong = limits(json!({"device": "b", "bps": 1, "bps_wr": 1}));
    let text = session.generic_error("block_set_io_throttle", wrong);
    assert_eq!(text, "bps/iops/max total values and read/write values cannot be used at the same time");
}

#[test]
fn throttle_group_is_in_use_while_a_node_has_it() {
    let (_machine, mut session) = started(&["-object", "throttle-group,id=g,limits.iops-total=100"]);
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "n"}));
    let throttle = json!({"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "n"});
    session.run("blockdev-add", throttle);
    let text = session.generic_error("object-del", json!({"id": "g"}));
    assert_eq!(text, "object 'g' is in use, can not be deleted");
    session.run("blockdev-del", json!({"node-name": "t"}));
    session.run("object-del", json!({"id": "g"}));
    assert_eq!(session.generic_error("object-del", json!({"id": "g"})), "object 'g' not found");
}

#[test]
fn io_threads_run_and_are_listed() {
    let arguments = [
        "-object",
        "iothread,id=io0,poll-max-ns=0",
        "-drive",
        "if=none,id=d,file.driver=null-co",
        "-device",
        "virtio-blk-pci,drive=d,iothread=io0",
    ];
    let (machine, mut session) = started(&arguments);
    session.run("object-add", json!({"qom-type": "iothread", "id": "io1"}));
    let threads = session.query("query-iothreads");
    assert_eq!((&threads[0]["id"], &threads[0]["poll-max-ns"]), (&json!("io0"), &json!(0)), "{threads}");
    assert_eq!((&threads[1]["id"], &threads[1]["poll-max-ns"]), (&json!("io1"), &json!(32768)), "{threads}");
    let thread = threads[1]["thread-id"].as_i64().expect("a number");
    let task = format!("/proc/{}/task/{thread}/comm", machine.pid());
    assert_eq!(fs::read_to_string(task).expect("the thread").trim_end(), "IO io1");
    session.run("object-del", json!({"id": "io1"}));
    let text = session.generic_error("object-del", json!({"id": "io0"}));
    assert_eq!(text, "object 'io0' is in use, can not be deleted");
}

#[test]
fn image_is_created_as_a_job() {
    let (machine, mut session) = started(&[]);
    let file = machine.file("new.img");
    let create = |id: &str, filename: &str| json!({"job-id": id, "options": {"driver": "file", "filename": filename, "size": 1 << 16}});
    let states = |session: &mut Session, count: usize| -> Vec<String> {
        let state = |session: &mut Session| session.event("JOB_STATUS_CHANGE")["status"].as_str().map(str::to_owned);
        (0..count).filter_map(|_| state(session)).collect()
    };
    session.run("blockdev-create", create("j", &file));
    assert_eq!(states(&mut session, 5), ["created", "running", "waiting", "pending", "concluded"]);
    assert_eq!(fs::metadata(&file).expect("the image").len(), 1 << 16);
    let jobs = session.query("query-jobs");
    let done =
        json!([{"id": "j", "type": "create", "status": "concluded", "current-progress": 1, "total-progress": 1}]);
    assert_eq!(jobs, done);
    assert_eq!(session.generic_error("blockdev-create", create("j", &file)), "Job ID 'j' already in use");
    for (command, verb) in [("job-cancel", "cancel"), ("job-pause", "pause"), ("job-complete", "complete")] {
        let text = session.generic_error(command, json!({"id": "j"}));
        assert_eq!(text, format!("Job 'j' in state 'concluded' cannot accept command verb '{verb}'"));
    }
    session.run("job-dismiss", json!({"id": "j"}));
    assert_eq!(session.event("JOB_STATUS_CHANGE"), json!({"id": "j", "status": "null"}));
    assert_eq!(session.generic_error("job-dismiss", json!({"id": "j"})), "Job not found");
    session.run("blockdev-create", create("k", "/nonexistent/x"));
    assert_eq!(states(&mut session, 4), ["created", "running", "aborting", "concluded"]);
    let error = session.query("query-jobs")[0]["error"].clone();
    assert_eq!(error, "Could not create '/nonexistent/x': No such file or directory");
}

#[test]
fn creation_that_is_cancelled_ends_as_cancelled() {
    // Few requests in a second, so that the job lasts until it is cancelled.
    let (machine, mut session) = started(&["-object", "throttle-group,id=slow,limits.iops-total=10"]);
    raw_file(&machine.path("a.qcow2"), 0);
    let file = json!({"driver": "file", "filename": machine.file("a.qcow2")});
    let slow = json!({"driver": "throttle", "node-name": "f", "throttle-group": "slow", "file": file});
    session.run("blockdev-add", slow);
    let create = json!({"job-id": "j", "options": {"driver": "qcow2", "file": "f", "size": 1 << 20}});
    session.run("blockdev-create", create);
    session.run("job-cancel", json!({"id": "j"}));
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "concluded") {
        states.push(session.event("JOB_STATUS_CHANGE")["status"].clone());
    }
    assert_eq!(states, ["created", "running", "aborting", "concluded"]);
    assert_eq!(session.query("query-jobs")[0]["error"], "Operation canceled");
    session.run("job-dismiss", json!({"id": "j"}));
    // Nothing holds the node any more.
    session.run("blockdev-del", json!({"node-name": "f"}));
}

#[test]
fn format_is_created_on_a_node_and_opened() {
    let (machine, mut session) = started(&[]);
    raw_file(&machine.path("a.qcow2"), 0);
    session.run("blockdev-add", json!({"driver": "file", "node-name": "f", "filename": machine.file("a.qcow2")}));
    let options = json!({"driver": "qcow2", "file": "f", "size": 1 << 20, "cluster-size": 4096, "version": "v2"});
    session.run("blockdev-create", json!({"job-id": "j", "options": options}));
    while session.event("JOB_STATUS_CHANGE")["status"] != "concluded" {}
    assert_eq!(session.query("query-jobs")[0].get("error"), None);
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "q", "file": "f"}));
    let nodes = session.query("query-named-block-nodes");
    let image = &node(&nodes, "q")["image"];
    assert_eq!((&image["virtual-size"], &image["cluster-size"]), (&json!(1 << 20), &json!(4096)), "{image}");
    assert_eq!(image["format-specific"]["data"]["compat"], "0.10", "{image}");
}

#[test]
fn key_of_an_encrypted_image_in_use_is_changed_as_a_job() {
    let secrets = ["-object", "secret,id=one,data=first", "-object", "secret,id=two,data=second"];
    let (machine, mut session) = started(&secrets);
    raw_file(&machine.path("a.qcow2"), 0);
    session.run("blockdev-add", json!({"driver": "file", "node-name": "f", "filename": machine.file("a.qcow2")}));
    let encrypt = json!({"format": "luks", "key-secret": "one", "iter-time": 10});
    let options = json!({"driver": "qcow2", "file": "f", "size": 1 << 20, "encrypt": encrypt});
    let ends = |session: &mut Session, command: &str, arguments: Value| {
        session.run(command, arguments);
        while session.event("JOB_STATUS_CHANGE")["status"] != "concluded" {}
        let error = session.query("query-jobs")[0].get("error").cloned();
        session.run("job-dismiss", json!({"id": "j"}));
        error
    };
    assert_eq!(ends(&mut session, "blockdev-create", json!({"job-id": "j", "options": options})), None);
    let open = |secret: &str| json!({"driver": "qcow2", "node-name": "q", "file": "f", "encrypt": {"format": "luks", "key-secret": secret}});
    session.run("blockdev-add", open("one"));
    let amend = |more: Value| {
        let mut encrypt = json!({"format": "luks"});
        encrypt.as_object_mut().expect("members").extend(more.as_object().expect("members").clone());
        json!({"job-id": "j", "node-name": "q", "options": {"driver": "qcow2", "encrypt": encrypt}})
    };
    let add = amend(json!({"state": "active", "new-secret": "two", "iter-time": 10}));
    assert_eq!(ends(&mut session, "x-blockdev-amend", add), None);
    let erase = |secret: &str| amend(json!({"state": "inactive", "old-secret": secret}));
    assert_eq!(ends(&mut session, "x-blockdev-amend", erase("one")), None);
    let last = ends(&mut session, "x-blockdev-amend", erase("two")).expect("an error");
    assert!(last.as_str().expect("a text").starts_with("All the active keyslots match"), "{last}");
    session.run("blockdev-del", json!({"node-name": "q"}));
    let refused = session.generic_error("blockdev-add", open("one"));
    assert_eq!(refused, "Invalid password, cannot unlock any keyslot");
    session.run("blockdev-add", open("two"));
    let raw = json!({"job-id": "j", "node-name": "f", "options": {"driver": "file"}});
    assert_eq!(session.generic_error("x-blockdev-amend", raw), "Driver does not support x-blockdev-amend");
    let other = json!({"job-id": "j", "node-name": "f", "options": {"driver": "qcow2"}});
    let refused = session.generic_error("x-blockdev-amend", other);
    assert_eq!(refused, "x-blockdev-amend doesn't support changing the block driver");
}

#[test]
fn mirror_is_told_to_copy_with_the_guests_writes() {
    let (machine, mut session) = started(&[]);
    for name in ["a", "b"] {
        raw_file(&machine.path(name), 1 << 20);
        session.run("blockdev-add", json!({"driver": "file", "node-name": name, "filename": machine.file(name)}));
    }
    session.run("blockdev-mirror", json!({"job-id": "j", "device": "a", "target": "b", "sync": "full"}));
    session.event("BLOCK_JOB_READY");
    let change = |id: &str, kind: &str, mode: &str| json!({"id": id, "type": kind, "copy-mode": mode});
    for mode in ["background", "write-blocking", "write-blocking"] {
        session.run("block-job-change", change("j", "mirror", mode));
    }
    let refused = session.generic_error("block-job-change", change("j", "mirror", "background"));
    assert_eq!(refused, "Change to copy mode 'background' is not implemented");
    let refused = session.generic_error("block-job-change", json!({"id": "j", "type": "stream"}));
    assert_eq!(refused, "Job 'j' is of type 'mirror'");
    session.run("block-job-complete", json!({"device": "j"}));
    session.event("BLOCK_JOB_COMPLETED");
}

#[test]
fn backup_of_the_top_of_an_image_without_a_backing_copies_what_it_has() {
    let (machine, mut session) = started(&[]);
    fs::write(machine.path("a.qcow2"), crate::support::qcow2_header()).expect("a file");
    let file = json!({"driver": "file", "filename": machine.file("a.qcow2")});
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "a", "file": file}));
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "t", "size": 1 << 20}));
    session.run("blockdev-backup", json!({"job-id": "j", "device": "a", "target": "t", "sync": "top"}));
    let end = session.event("BLOCK_JOB_COMPLETED");
    assert_eq!((&end["len"], &end["offset"]), (&json!(0), &json!(0)), "the image is empty: {end}");
}

#[test]
fn nodes_get_other_options_or_none() {
    let (machine, mut session) = started(&[]);
    raw_file(&machine.path("a.img"), 4096);
    let file = machine.file("a.img");
    let raw = |more: Value| {
        let mut options = json!({"driver": "raw", "node-name": "r", "file": {"driver": "file", "filename": file}});
        for (name, value) in more.as_object().expect("members") {
            options[name] = value.clone();
        }
        options
    };
    session.run("blockdev-add", raw(json!({})));
    session.run("blockdev-reopen", json!({"options": [raw(json!({"read-only": true}))]}));
    assert_eq!(node(&session.query("query-named-block-nodes"), "r")["ro"], true);
    session.run("blockdev-reopen", json!({"options": [raw(json!({"detect-zeroes": "on"}))]}));
    let nodes = session.query("query-named-block-nodes");
    let r = node(&nodes, "r");
    assert_eq!((&r["ro"], &r["detect_zeroes"]), (&json!(false), &json!("on")), "{r}");
    // The second node is wrong, so that the first keeps its options.
    let list = json!([raw(json!({"read-only": true})), {"driver": "null-co", "node-name": "none"}]);
    let text = session.generic_error("blockdev-reopen", json!({"options": list}));
    assert_eq!(text, "Failed to find node with node-name='none'");
    let other = raw(json!({"file": {"driver": "file", "filename": "/nonexistent"}}));
    let text = session.generic_error("blockdev-reopen", json!({"options": [other]}));
    assert_eq!(text, "Cannot change the option 'filename'");
    let nodes = session.query("query-named-block-nodes");
    let r = node(&nodes, "r");
    assert_eq!((&r["ro"], &r["detect_zeroes"]), (&json!(false), &json!("on")), "{r}");
}

#[test]
fn descriptors_that_a_client_passes_are_opened() {
    let (machine, mut session) = started(&[]);
    raw_file(&machine.path("a.img"), 8192);
    let file = File::options().read(true).write(true).open(machine.path("a.img")).expect("the file");
    let added = session.call_with_fds("add-fd", &json!({"fdset-id": 4}), &[file.as_fd()]);
    assert!(matches!(added, Reply::Value(_)), "{added:?}");
    let options = |set: &str| json!({"driver": "raw", "node-name": "a", "file": {"driver": "file", "filename": format!("/dev/fdset/{set}")}});
    session.run("blockdev-add", options("4"));
    assert_eq!(node(&session.query("query-named-block-nodes"), "a")["image"]["virtual-size"], 8192);
    session.run("blockdev-del", json!({"node-name": "a"}));
    let text = session.generic_error("blockdev-add", options("5"));
    assert!(text.contains("Could not dup FD for /dev/fdset/5") && text.contains("No such file"), "{text}");
}

#[test]
fn histograms_need_ascending_bounds() {
    let arguments = ["-drive", "if=none,id=d,file.driver=null-co", "-device", "virtio-blk-pci,drive=d,id=vb"];
    let (_machine, mut session) = started(&arguments);
    let set = |session: &mut Session, more: Value| {
        let mut arguments = json!({"id": "/machine/peripheral/vb/virtio-backend"});
        for (name, value) in more.as_object().expect("members") {
            arguments[name] = value.clone();
        }
        session.call(&json!({"execute": "block-latency-histogram-set", "arguments": arguments}))
    };
    let fine = json!({"boundaries": [10, 100], "boundaries-write": [5]});
    assert_eq!(set(&mut session, fine), Reply::Value(json!({})));
    let stats = session.query("query-blockstats")[0]["stats"].clone();
    assert_eq!(stats["rd_latency_histogram"], json!({"boundaries": [10, 100], "bins": [0, 0, 0]}));
    assert_eq!(stats["wr_latency_histogram"], json!({"boundaries": [5], "bins": [0, 0]}));
    assert!(matches!(set(&mut session, json!({"boundaries": [10, 5]})), Reply::Error(..)));
    assert_eq!(set(&mut session, json!({})), Reply::Value(json!({})));
    assert_eq!(session.query("query-blockstats")[0]["stats"].get("rd_latency_histogram"), None);
}

/// Replies without what differs by chance: made-up names of nodes, numbers of threads.
fn comparable(value: &Value, names: &mut Vec<String>) -> Value {
    match value {
        Value::String(text) if text.starts_with("#block") => {
            let at = names.iter().position(|name| name == text).unwrap_or_else(|| {
                names.push(text.clone());
                names.len() - 1
            });
            json!(format!("#{at}"))
        }
        Value::Array(items) => items.iter().map(|item| comparable(item, names)).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !matches!(name.as_str(), "thread-id" | "driver-specific"));
            kept.map(|(name, item)| (name.clone(), comparable(item, names))).collect()
        }
        other => other.clone(),
    }
}

#[test]
#[ignore = "needs the peer"]
fn peer_qemu_tells_the_same_of_drives_and_refuses_alike() {
    let directory = crate::support::Directory::new();
    raw_file(&directory.join("a.img"), 1 << 20);
    raw_file(&directory.join("b.img"), 1 << 20);
    let (a, b) = (directory.join("a.img"), directory.join("b.img"));
    let arguments = [
        "-S".to_owned(),
        "-drive".to_owned(),
        format!("if=none,id=a,file={},format=raw,readonly=on,bps=5,iops=7,iops_max=9", a.display()),
        "-drive".to_owned(),
        "if=none,id=e".to_owned(),
        "-drive".to_owned(),
        format!("if=none,id=b,file={},format=raw,readonly=on,cache=unsafe,detect-zeroes=on", b.display()),
        "-device".to_owned(),
        "virtio-blk-pci,drive=b,id=vb".to_owned(),
    ];
    let requests = [
        json!({"execute": "query-block"}),
        json!({"execute": "query-blockstats"}),
        json!({"execute": "block_resize", "arguments": {"device": "nope", "size": 1}}),
        json!({"execute": "block_resize", "arguments": {"device": "e", "size": 1}}),
        json!({"execute": "block_resize", "arguments": {"device": "a", "size": 1}}),
        json!({"execute": "eject", "arguments": {"device": "b"}}),
        json!({"execute": "eject", "arguments": {"id": "nope"}}),
        json!({"execute": "eject", "arguments": {"device": "a"}}),
        json!({"execute": "query-block"}),
        json!({"execute": "blockdev-open-tray", "arguments": {"device": "e"}}),
        json!({"execute": "blockdev-close-tray", "arguments": {"device": "e"}}),
        json!({"execute": "blockdev-change-medium", "arguments": {"device": "e", "filename": "/nonexistent"}}),
        json!({"execute": "blockdev-insert-medium", "arguments": {"id": "nope", "node-name": "x"}}),
        json!({"execute": "block-set-write-threshold", "arguments": {"node-name": "nope", "write-threshold": 1}}),
        json!({"execute": "object-add", "arguments": {"qom-type": "secret", "id": "s"}}),
        json!({"execute": "object-add", "arguments": {"qom-type": "iothread", "id": "1"}}),
        json!({"execute": "query-iothreads"}),
        json!({"execute": "query-jobs"}),
        json!({"execute": "job-cancel", "arguments": {"id": "x"}}),
    ];
    let mut replies = Vec::new();
    for program in [crate::support::ouzel(), qemu()] {
        let mut machine = Setup::of(program).args(&arguments).start();
        let mut session = machine.connect(0);
        let mut names = Vec::new();
        let mut all = Vec::new();
        for request in &requests {
            all.push(match session.call(request) {
                Reply::Value(value) => comparable(&value, &mut names),
                Reply::Error(class, text) => json!({"error": class, "desc": text}),
            });
        }
        replies.push(all);
    }
    for ((request, ours), theirs) in requests.iter().zip(&replies[0]).zip(&replies[1]) {
        assert_eq!(ours, theirs, "{request}");
    }
}

#[test]
fn corrupt_image_is_told_of_once_and_not_written_any_more() {
    let (machine, mut session) = started(&[]);
    let file = machine.file("a.qcow2");
    raw_file(&machine.path("a.qcow2"), 0);
    session.run("blockdev-add", json!({"driver": "file", "node-name": "f", "filename": file}));
    let options = json!({"driver": "qcow2", "file": "f", "size": 64 << 20});
    session.run("blockdev-create", json!({"job-id": "j", "options": options}));
    while session.event("JOB_STATUS_CHANGE")["status"] != "concluded" {}
    // The only L2 table is where none can be.
    let mut image = fs::read(&file).expect("the image");
    let l1 = image[40..48].iter().fold(0, |offset, byte| offset << 8 | usize::from(*byte));
    image[l1..l1 + 8].copy_from_slice(&(0x42a00u64 | 1 << 63).to_be_bytes());
    fs::write(&file, image).expect("a damaged image");
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "q", "file": "f"}));
    let resize = json!({"node-name": "q", "size": 1 << 20});
    let message = "L2 table offset 0x42a00 unaligned (L1 index: 0)";
    assert!(session.generic_error("block_resize", resize.clone()).contains(message));
    let told = session.event("BLOCK_IMAGE_CORRUPTED");
    assert_eq!(told, json!({"device": "", "node-name": "q", "msg": message, "fatal": true}));
    session.generic_error("block_resize", resize);
    let nodes = session.query("query-named-block-nodes");
    assert_eq!(node(&nodes, "q")["image"]["format-specific"]["data"]["corrupt"], true);
    session.run("blockdev-del", json!({"node-name": "q"}));
    let again = json!({"driver": "qcow2", "node-name": "q", "file": "f"});
    let text = session.generic_error("blockdev-add", again);
    assert!(text.contains("Image is corrupt; cannot be opened read/write"), "{text}");
}

#[test]
fn job_that_says_it_is_paused_has_nothing_in_flight() {
    let mut machine = Setup::new()
        .args(["-S", "-nodefaults", "-blockdev", "null-co,node-name=source,size=16777216"])
        .args(["-blockdev", "null-co,node-name=slow,size=16777216,latency-ns=300000000"])
        .start();
    let mut session = machine.connect(0);
    let backup = json!({"job-id": "job", "device": "source", "target": "slow", "sync": "full", "speed": 65536});
    session.run("blockdev-backup", backup);
    session.run("job-pause", json!({"id": "job"}));
    let job = |session: &mut Session| session.query("query-block-jobs")[0].clone();
    let start = std::time::Instant::now();
    while job(&mut session)["busy"] != false {
        assert!(start.elapsed() < PATIENCE, "it pauses");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let paused = job(&mut session);
    assert_eq!(paused["paused"], true);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(job(&mut session)["offset"], paused["offset"]);
}
