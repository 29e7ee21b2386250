//! What a guest's requests lead to: events, errors that stop the machine, limits, counters, media that change.
//!
//! The guest is the test itself (`support::guest`), so that each request is known.

use std::fs;

use serde_json::{Value, json};

use crate::support::guest::{self, FAILED, Guest, OK};
use crate::support::{Machine, Session, Setup};

/// A machine with these arguments, its monitor, and the drivers of its disks.
fn started(arguments: &[&str]) -> (Machine, Session, Guest) {
    let mut machine = guest::setup().args(arguments).start();
    let session = machine.connect(0);
    let guest = Guest::of(&mut machine);
    (machine, session, guest)
}

fn counters(session: &mut Session, index: usize) -> Value {
    session.query("query-blockstats")[index]["stats"].clone()
}

/// The events of that name that have come. A query is behind them in the stream.
fn count_events(session: &mut Session, name: &str) -> usize {
    session.query("query-name");
    session.take_events().iter().filter(|event| *event == name).count()
}

#[test]
fn write_behind_the_threshold_is_told_once() {
    let (_machine, mut session, mut guest) =
        started(&["-blockdev", "null-co,node-name=n", "-device", "virtio-blk-pci,drive=n"]);
    session.run("block-set-write-threshold", json!({"node-name": "n", "write-threshold": 4096}));
    assert_eq!(guest.write(0, 0, &[1; 4096]), OK);
    assert_eq!(count_events(&mut session, "BLOCK_WRITE_THRESHOLD"), 0, "this is below");
    assert_eq!(guest.write(0, 6, &[1; 4096]), OK);
    let event = session.event("BLOCK_WRITE_THRESHOLD");
    assert_eq!(event, json!({"node-name": "n", "amount-exceeded": 3072, "write-threshold": 4096}));
    assert_eq!(session.query("query-named-block-nodes")[0]["write_threshold"], 0, "it is used up");
    assert_eq!(guest.write(0, 100, &[1; 512]), OK);
    assert_eq!(count_events(&mut session, "BLOCK_WRITE_THRESHOLD"), 0);
}

#[test]
fn quorum_tells_of_bad_copies_and_of_too_few_good_ones() {
    let directory = crate::support::Directory::new();
    let mut arguments = Vec::new();
    for (index, byte) in [7, 7, 8].into_iter().enumerate() {
        let path = directory.join(&format!("copy{index}"));
        fs::write(&path, vec![byte; 8192]).expect("a file");
        arguments.push("-blockdev".to_owned());
        let node = format!("c{index}");
        let file = json!({"driver": "file", "filename": path.to_string_lossy()});
        arguments.push(json!({"driver": "raw", "node-name": node, "file": file}).to_string());
    }
    let quorum = json!({"driver": "quorum", "node-name": "q", "vote-threshold": 2, "children": ["c0", "c1", "c2"]});
    arguments.extend(["-blockdev".to_owned(), quorum.to_string()]);
    arguments.extend(["-device".to_owned(), "virtio-blk-pci,drive=q".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (_machine, mut session, mut guest) = started(&arguments);
    let (status, data) = guest.read(0, 2, 1024);
    assert_eq!((status, data), (OK, vec![7; 1024]));
    let event = session.event("QUORUM_REPORT_BAD");
    let expected = json!({"type": "read", "node-name": "c2", "sector-num": 2, "sectors-count": 2});
    assert_eq!(event, expected);
    // Another copy gets a content of its own: there is no majority.
    fs::write(directory.join("copy1"), vec![9; 8192]).expect("a file");
    assert_eq!(guest.read(0, 0, 512).0, FAILED);
    assert_eq!(session.event("QUORUM_FAILURE"), json!({"reference": "q", "sector-num": 0, "sectors-count": 1}));
    // A good copy takes the place of a bad one while the guest has the disk.
    fs::write(directory.join("copy3"), vec![7; 8192]).expect("a file");
    let file = json!({"driver": "file", "filename": directory.join("copy3").to_string_lossy()});
    session.run("blockdev-add", json!({"driver": "raw", "node-name": "c3", "file": file}));
    session.run("x-blockdev-change", json!({"parent": "q", "node": "c3"}));
    session.run("x-blockdev-change", json!({"parent": "q", "child": "children.1"}));
    assert_eq!(guest.read(0, 0, 512), (OK, vec![7; 512]));
    assert_eq!(guest.write(0, 0, &[5; 512]), OK);
    assert_eq!(fs::read(directory.join("copy3")).expect("the copy")[..512], [5; 512]);
    assert_eq!(fs::read(directory.join("copy1")).expect("the old copy")[..512], [9; 512], "it is not written any more");
}

#[test]
fn children_of_a_quorum_come_and_go_within_its_rules() {
    let quorum = json!({"driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": ["a", "b"]}).to_string();
    let mut arguments = vec!["-S"];
    for node in ["null-co,node-name=a", "null-co,node-name=b", "null-co,node-name=c", "null-co,node-name=d"] {
        arguments.extend(["-blockdev", node]);
    }
    arguments.extend(["-blockdev", &quorum]);
    let (_machine, mut session, _guest) = started(&arguments);
    let change = "x-blockdev-change";
    for (arguments, text) in [
        (json!({"parent": "q"}), "Either child or node must be specified"),
        (json!({"parent": "q", "child": "x", "node": "c"}), "The parameters child and node are in conflict"),
        (json!({"parent": "x", "node": "c"}), "Cannot find device='x' nor node-name='x'"),
        (json!({"parent": "q", "node": "x"}), "Node 'x' not found"),
        (json!({"parent": "q", "child": "children.7"}), "Node 'q' does not have child 'children.7'"),
        (json!({"parent": "q", "node": "a"}), "The node a already has a parent"),
        (json!({"parent": "c", "node": "d"}), "The node c does not support adding a child"),
    ] {
        assert_eq!(session.generic_error(change, arguments.clone()), text, "{arguments}");
    }
    session.run(change, json!({"parent": "q", "node": "c"}));
    assert_eq!(session.generic_error("blockdev-del", json!({"node-name": "c"})), "Block device c is in use");
    session.run(change, json!({"parent": "q", "child": "children.0"}));
    session.run("blockdev-del", json!({"node-name": "a"}));
    session.run(change, json!({"parent": "q", "child": "children.1"}));
    let last = session.generic_error(change, json!({"parent": "q", "child": "children.2"}));
    assert_eq!(last, "The number of children cannot be lower than the vote threshold 1");
    // The last name is free when its child goes, and no other.
    session.run(change, json!({"parent": "q", "node": "d"}));
    session.run(change, json!({"parent": "q", "child": "children.3"}));
    session.run(change, json!({"parent": "q", "node": "d"}));
    session.run(change, json!({"parent": "q", "child": "children.2"}));
    session.run("blockdev-del", json!({"node-name": "q"}));
}

/// A disk that fails once.
fn failing(name: &str, operation: &str, errno: u32) -> String {
    json!({
        "driver": "blkdebug", "node-name": name, "image": {"driver": "null-co"},
        "inject-error": [{"event": "none", "iotype": operation, "errno": errno, "once": true}],
    })
    .to_string()
}

#[test]
fn failed_requests_follow_the_policies_of_their_disks() {
    const IO: u32 = 5;
    const NO_SPACE: u32 = 28;
    // The policy, the operation and its error; what the guest is told, what the event says, whether the machine stops.
    let cases = [
        ("werror=report", "write", IO, FAILED, "report"),
        ("werror=ignore", "write", IO, OK, "ignore"),
        ("werror=enospc", "write", IO, FAILED, "report"),
        ("werror=enospc", "write", NO_SPACE, OK, "stop"),
        ("werror=stop", "write", IO, OK, "stop"),
        ("rerror=report", "read", IO, FAILED, "report"),
        ("rerror=ignore", "read", IO, OK, "ignore"),
        ("rerror=stop", "read", IO, OK, "stop"),
    ];
    let mut arguments = Vec::new();
    for (index, (policy, operation, errno, ..)) in cases.iter().enumerate() {
        let name = format!("n{index}");
        arguments.extend(["-blockdev".to_owned(), failing(&name, operation, *errno)]);
        arguments.extend(["-device".to_owned(), format!("virtio-blk-pci,drive={name},id=d{index},{policy}")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (_machine, mut session, mut guest) = started(&arguments);
    for (index, (policy, operation, errno, status, action)) in cases.into_iter().enumerate() {
        let slot = match operation {
            "write" => guest.begin_write(index, 0, &[1; 512]),
            _ => guest.begin_read(index, 0, 512),
        };
        let event = session.event("BLOCK_IO_ERROR");
        assert_eq!((&event["operation"], &event["action"]), (&json!(operation), &json!(action)), "{policy}: {event}");
        assert_eq!(event["node-name"], format!("n{index}"), "{event}");
        assert_eq!(event["nospace"], errno == NO_SPACE, "{event}");
        let reason = if errno == NO_SPACE { "No space left on device" } else { "Input/output error" };
        assert_eq!(event["reason"], reason, "{event}");
        if action == "stop" {
            session.event("STOP");
            assert_eq!(session.status(), "io-error");
            assert!(guest.is_pending(index, slot), "{policy}: the guest knows nothing");
            let status = if errno == NO_SPACE { "nospace" } else { "failed" };
            assert_eq!(session.query("query-block")[index]["io-status"], status);
            session.query("cont");
            session.event("RESUME");
        }
        assert_eq!(guest.wait(index, slot), status, "{policy}");
        assert_eq!(session.status(), "running", "{policy}");
        let told = session.query("query-block")[index].get("io-status").cloned();
        assert!(told.is_none_or(|told| told == "ok"), "{policy}");
        assert_eq!(guest.write(index, 0, &[1; 512]), OK, "{policy}: the error was there once");
    }
}

#[test]
fn limits_hold_requests_of_a_group_after_their_burst() {
    let throttled = "bps=1,bps_max=8192,group=g";
    let drives = [
        format!("if=none,id=a,file.driver=null-co,{throttled}"),
        format!("if=none,id=b,file.driver=null-co,{throttled}"),
    ];
    let mut arguments = Vec::new();
    for (drive, device) in drives.iter().zip(["virtio-blk-pci,drive=a", "virtio-blk-pci,drive=b"]) {
        arguments.extend(["-drive", drive, "-device", device]);
    }
    let (_machine, mut session, mut guest) = started(&arguments);
    // The burst is theirs together; what comes behind it waits for hours.
    assert_eq!(guest.write(0, 0, &[1; 4096]), OK);
    assert_eq!(guest.read(1, 0, 8192).0, OK);
    let waiting = [
        (0, guest.begin_write(0, 0, &[1; 512])),
        (0, guest.begin_read(0, 0, 512)),
        (1, guest.begin_write(1, 0, &[1; 512])),
    ];
    assert!(waiting.iter().all(|(disk, slot)| guest.is_pending(*disk, *slot)));
    assert_eq!(counters(&mut session, 0)["wr_operations"], 1);
    // A disk that leaves the group goes on, the other one waits.
    let limits = |device: &str, bps: u64| json!({"device": device, "bps": bps, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    session.run("block_set_io_throttle", limits("b", 0));
    assert_eq!(guest.wait(1, waiting[2].1), OK);
    assert!(guest.is_pending(0, waiting[0].1) && guest.is_pending(0, waiting[1].1));
    // Other limits count at once.
    session.run("block_set_io_throttle", limits("a", 1 << 40));
    assert_eq!((guest.wait(0, waiting[0].1), guest.wait(0, waiting[1].1)), (OK, OK));
    assert_eq!(counters(&mut session, 0)["wr_operations"], 2);
}

#[test]
fn limits_do_not_hold_a_drain() {
    let directory = crate::support::Directory::new();
    let drive = |name: &str| {
        let path = directory.join(name);
        fs::write(&path, vec![0; 1 << 20]).expect("a file");
        format!("if=none,id={name},format=raw,file={},bps=1,bps_max=512,group=g", path.display())
    };
    let (a, b) = (drive("a"), drive("b"));
    let devices = ["-device", "virtio-blk-pci,drive=a", "-device", "virtio-blk-pci,drive=b"];
    let arguments: Vec<&str> = ["-drive", &a, "-drive", &b].into_iter().chain(devices).collect();
    let (_machine, mut session, mut guest) = started(&arguments);
    assert_eq!(guest.write(0, 0, &[1; 4096]), OK);
    let first = guest.begin_write(0, 0, &[1; 512]);
    let second = guest.begin_write(1, 0, &[1; 512]);
    assert!(guest.is_pending(0, first) && guest.is_pending(1, second));
    // It waits for the requests in flight, also for one that waits for its turn behind another disk's. Whether the
    // request is there already can't be seen: a drain that came before it let nothing pass, and comes again.
    for _ in 0..100 {
        session.run("block_resize", json!({"device": "b", "size": 2 << 20}));
        if !guest.is_pending(1, second) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(guest.wait(1, second), OK);
    assert!(guest.is_pending(0, first));
}

#[test]
fn new_size_is_shown_to_the_guest() {
    let directory = crate::support::Directory::new();
    fs::write(directory.join("disk"), vec![0; 1 << 20]).expect("a file");
    let drive = format!("if=none,id=d,format=raw,file={}", directory.join("disk").display());
    let (_machine, mut session, mut guest) = started(&["-drive", &drive, "-device", "virtio-blk-pci,drive=d"]);
    assert_eq!((guest.size(0), guest.config_changed(0)), (1 << 20, false));
    assert_eq!(guest.write(0, 4096, &[1; 512]), FAILED, "this is behind the end");
    session.run("block_resize", json!({"device": "d", "size": 4 << 20}));
    assert!(guest.config_changed(0));
    assert_eq!(guest.size(0), 4 << 20);
    assert_eq!(guest.write(0, 4096, &[1; 512]), OK);
    session.run("block_resize", json!({"device": "d", "size": 1 << 20}));
    assert_eq!(guest.size(0), 1 << 20);
    assert_eq!(guest.read(0, 4096, 512).0, FAILED);
}

#[test]
fn statistics_count_what_the_guest_does() {
    let directory = crate::support::Directory::new();
    fs::write(directory.join("disk"), vec![0; 1 << 20]).expect("a file");
    let file = json!({"driver": "file", "node-name": "f", "discard": "unmap", "filename": directory.join("disk").to_string_lossy()});
    let failing = failing("n", "write", 5);
    let arguments = [
        "-blockdev",
        &file.to_string(),
        "-device",
        "virtio-blk-pci,drive=f,id=vd",
        "-blockdev",
        &failing,
        "-device",
        "virtio-blk-pci,drive=n,werror=report,account-failed=off,account-invalid=off",
    ];
    let (_machine, mut session, mut guest) = started(&arguments);
    let id = "/machine/peripheral/vd/virtio-backend";
    session.run("block-latency-histogram-set", json!({"id": id, "boundaries": [1, 1_000_000_000_000_u64]}));
    for sector in 0..3 {
        assert_eq!(guest.read(0, sector, 1024).0, OK);
    }
    assert_eq!((guest.write(0, 8, &[1; 4096]), guest.write(0, 16, &[1; 512])), (OK, OK));
    assert_eq!(guest.flush(0), OK);
    assert_eq!(guest.discard(0, 8, 8), OK);
    assert_eq!(guest.read(0, 1 << 20, 512).0, FAILED);
    let stats = counters(&mut session, 0);
    let number = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"));
    assert_eq!((number("rd_operations"), number("rd_bytes")), (3, 3072));
    assert_eq!((number("wr_operations"), number("wr_bytes"), number("flush_operations")), (2, 4608, 1));
    assert_eq!((number("unmap_operations"), number("unmap_bytes")), (1, 4096));
    assert_eq!((&stats["account_failed"], &stats["account_invalid"]), (&json!(true), &json!(true)));
    assert_eq!(stats["wr_highest_offset"], 17 * 512);
    assert_eq!(stats["rd_latency_histogram"]["bins"], json!([0, 3, 0]), "{stats}");
    assert_eq!(stats["wr_latency_histogram"]["bins"], json!([0, 2, 0]), "{stats}");
    assert_eq!(stats["flush_latency_histogram"]["bins"], json!([0, 1, 0]), "{stats}");
    let specific = &session.query("query-blockstats")[0]["driver-specific"];
    let discards = json!({"driver": "file", "discard-nb-ok": 1, "discard-nb-failed": 0, "discard-bytes-ok": 4096});
    assert_eq!(*specific, discards);
    // The other disk counts its failure, but no time for it.
    assert_eq!(guest.write(1, 0, &[1; 512]), FAILED);
    let stats = counters(&mut session, 1);
    assert_eq!((&stats["account_failed"], &stats["account_invalid"]), (&json!(false), &json!(false)));
    assert_eq!((&stats["failed_wr_operations"], &stats["wr_total_time_ns"]), (&json!(1), &json!(0)));
    assert_eq!((&stats["wr_operations"], stats.get("idle_time_ns")), (&json!(0), None), "{stats}");
}

#[test]
fn disk_gets_another_node_by_its_property_while_the_guest_writes() {
    let directory = crate::support::Directory::new();
    let [first, second] = ["first", "second"].map(|name| directory.join(name));
    fs::write(&first, vec![1; 8192]).expect("a file");
    fs::write(&second, vec![2; 16384]).expect("a file");
    let node = |name: &str, path: &std::path::Path| {
        let file = json!({"driver": "file", "filename": path.to_string_lossy()});
        json!({"driver": "raw", "node-name": name, "file": file}).to_string()
    };
    let (first_node, second_node) = (node("a", &first), node("b", &second));
    let arguments = ["-blockdev", &first_node, "-blockdev", &second_node, "-device", "virtio-blk-pci,drive=a,id=vd"];
    let (_machine, mut session, mut guest) = started(&arguments);
    let whole = "/machine/peripheral/vd";
    let part = "/machine/peripheral/vd/virtio-backend";
    let drive = |session: &mut Session, path: &str| session.run("qom-get", json!({"path": path, "property": "drive"}));
    let set = |value: Value| json!({"path": part, "property": "drive", "value": value});
    for path in [whole, part] {
        assert_eq!(drive(&mut session, path), "a");
        let listed = session.run("qom-list", json!({"path": path}));
        assert!(listed.as_array().expect("a list").contains(&json!({"name": "drive", "type": "str"})), "{listed}");
    }
    assert_eq!(guest.read(0, 0, 512), (OK, vec![1; 512]));
    // A filter above the node, which keeps what was there before.
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "old", "size": 8192, "read-zeroes": true}));
    let filter = json!({"driver": "copy-before-write", "node-name": "cbw", "file": "a", "target": "old"});
    session.run("blockdev-add", filter);
    for (at, to) in ["cbw", "a", "cbw", "a", "b", "a"].into_iter().enumerate() {
        let byte = at as u8 + 10;
        // These are in flight, or come, while it is exchanged.
        let before: Vec<_> = (0..4).map(|sector| guest.begin_write(0, sector, &[byte; 512])).collect();
        session
            .run("qom-set", json!({"path": if at % 2 == 0 { whole } else { part }, "property": "drive", "value": to}));
        for request in before {
            assert_eq!(guest.wait(0, request), OK);
        }
        assert_eq!(drive(&mut session, whole), to);
        assert_eq!(guest.write(0, 8, &[byte; 512]), OK);
        let file = if to == "b" { &second } else { &first };
        assert_eq!(fs::read(file).expect("the file")[8 * 512..9 * 512], [byte; 512], "{to}");
    }
    let inserted = session.query("query-block")[0]["inserted"]["node-name"].clone();
    assert_eq!(inserted, "a");
    // What stands against it leaves everything as it is.
    let unknown = session.generic_error("qom-set", set(json!("nowhere")));
    assert_eq!(unknown, "Cannot find device='' nor node-name='nowhere'");
    assert_eq!(session.generic_error("qom-set", set(json!(1))), "Invalid parameter type for 'drive', expected: string");
    let other = session.generic_error("qom-set", json!({"path": "/machine", "property": "drive", "value": "b"}));
    assert!(other.ends_with("-machine.drive' not found"), "{other}");
    session.run("device_add", json!({"driver": "virtio-blk-pci", "drive": "b", "id": "second"}));
    let conflict = session.generic_error("qom-set", set(json!("b")));
    assert!(conflict.starts_with("Permission conflict on node 'b'"), "{conflict}");
    let mirror = json!({"job-id": "j", "device": "a", "target": "old", "sync": "none"});
    session.run("blockdev-del", json!({"node-name": "cbw"}));
    session.run("blockdev-mirror", mirror);
    let busy = session.generic_error("qom-set", set(json!("b")));
    assert!(busy.contains("is busy: block device is in use by block job: mirror"), "{busy}");
    assert_eq!(guest.read(0, 8, 512), (OK, vec![15; 512]));
}

#[test]
fn io_thread_executes_the_requests_of_its_disk() {
    let arguments = [
        "-object",
        "iothread,id=io0",
        "-blockdev",
        "null-co,node-name=n",
        "-device",
        "virtio-blk-pci,drive=n,iothread=io0",
    ];
    let (machine, mut session, mut guest) = started(&arguments);
    let thread = session.query("query-iothreads")[0]["thread-id"].as_i64().expect("a number");
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/task/{thread}/status", machine.pid())).expect("the thread");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
        line.trim().parse::<u64>().expect("a number")
    };
    let before = switches();
    for sector in 0..20 {
        assert_eq!(guest.read(0, sector, 512).0, OK);
    }
    assert!(switches() >= before + 10, "it slept while {before} became {}", switches());
}

#[test]
fn device_that_is_refused_leaves_its_io_thread() {
    let mut machine = Setup::new()
        .args(["-S", "-nodefaults", "-object", "iothread,id=io0", "-blockdev", "null-co,node-name=n"])
        .args(["-device", "virtio-blk-pci,drive=n"])
        .start();
    let mut session = machine.connect(0);
    let second = json!({"driver": "virtio-blk-pci", "drive": "n", "iothread": "io0"});
    session.generic_error("device_add", second);
    session.run("object-del", json!({"id": "io0"}));
}

#[test]
fn temporary_overlay_takes_the_writes_of_a_drive() {
    for arguments in [&["snapshot=on"][..], &["snapshot=off", "-snapshot"], &["media=disk", "-snapshot"]] {
        let directory = crate::support::Directory::new();
        let path = directory.join("disk");
        fs::write(&path, vec![3; 1 << 20]).expect("a file");
        let drive = format!("if=none,id=d,format=raw,file={},{}", path.display(), arguments[0]);
        let mut all = vec!["-drive", &drive, "-device", "virtio-blk-pci,drive=d"];
        all.extend(&arguments[1..]);
        let (machine, mut session, mut guest) = started(&all);
        assert_eq!(guest.write(0, 8, &[9; 512]), OK);
        assert_eq!(guest.flush(0), OK);
        assert_eq!(guest.read(0, 7, 1536), (OK, [[3; 512], [9; 512], [3; 512]].concat()));
        let temporary = arguments[0] != "snapshot=off";
        let inserted = session.query("query-block")[0]["inserted"].clone();
        assert_eq!((&inserted["ro"], inserted["drv"] == "qcow2"), (&json!(false), temporary), "{inserted}");
        assert_eq!(fs::read(&path).expect("the image")[8 * 512], if temporary { 3 } else { 9 });
        let prefix = format!("ouzel-{}-", machine.pid());
        let left = fs::read_dir("/var/tmp").expect("a directory").flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count();
        assert_eq!(left, 0, "the overlay has no name");
    }
}

#[test]
fn copy_on_read_keeps_what_was_read() {
    let directory = crate::support::Directory::new();
    let (base, top) = (directory.join("base"), directory.join("top"));
    fs::write(&base, vec![3; 1 << 20]).expect("a file");
    fs::write(&top, crate::support::qcow2_header()).expect("a file");
    let drive = format!(
        "if=none,id=d,format=qcow2,file={},backing.driver=raw,backing.file.driver=file,backing.file.filename={},copy-on-read=on",
        top.display(),
        base.display(),
    );
    let (_machine, _session, mut guest) = started(&["-drive", &drive, "-device", "virtio-blk-pci,drive=d"]);
    assert_eq!(guest.read(0, 0, 512), (OK, vec![3; 512]));
    fs::write(&base, vec![4; 1 << 20]).expect("the file changes behind the guest's back");
    assert_eq!(guest.read(0, 0, 512), (OK, vec![3; 512]), "it is in the image now");
    assert_eq!(guest.read(0, 1024, 512), (OK, vec![4; 512]), "this was not read before");
}

#[test]
fn backing_of_a_running_disk_comes_and_goes() {
    let directory = crate::support::Directory::new();
    for (name, byte) in [("one", 1), ("two", 2)] {
        fs::write(directory.join(name), vec![byte; 1 << 20]).expect("a file");
    }
    fs::write(directory.join("top"), crate::support::qcow2_header()).expect("a file");
    let raw = |name: &str| {
        let file = json!({"driver": "file", "filename": directory.join(name).to_string_lossy()});
        json!({"driver": "raw", "node-name": name, "read-only": true, "file": file})
    };
    let top = |backing: Value| {
        let file = json!({"driver": "file", "filename": directory.join("top").to_string_lossy()});
        json!({"driver": "qcow2", "node-name": "top", "file": file, "backing": backing})
    };
    let (one, two, all) = (raw("one").to_string(), raw("two").to_string(), top(json!(null)).to_string());
    let arguments = ["-blockdev", &one, "-blockdev", &two, "-blockdev", &all, "-device", "virtio-blk-pci,drive=top"];
    let (_machine, mut session, mut guest) = started(&arguments);
    assert_eq!(guest.write(0, 1024, &[9; 512]), OK);
    let seen = |session: &mut Session, guest: &mut Guest, backing: Value| {
        session.run("blockdev-reopen", json!({"options": [top(backing)]}));
        let (status, data) = guest.read(0, 0, 512);
        assert_eq!((status, guest.read(0, 1024, 512)), (OK, (OK, vec![9; 512])));
        data[0]
    };
    assert_eq!(seen(&mut session, &mut guest, json!(null)), 0);
    assert_eq!(seen(&mut session, &mut guest, json!("one")), 1);
    assert_eq!(
        session.generic_error("blockdev-del", json!({"node-name": "one"})),
        "Node 'one' is busy: node is used as backing hd of 'top'"
    );
    assert_eq!(seen(&mut session, &mut guest, json!("two")), 2);
    session.run("blockdev-del", json!({"node-name": "one"}));
    // An array with a wrong member changes nothing, whatever came before it.
    let list = json!([top(json!(null)), {"driver": "raw", "node-name": "two", "file": {"driver": "file", "filename": "/nonexistent"}}]);
    let text = session.generic_error("blockdev-reopen", json!({"options": list}));
    assert_eq!(text, "Cannot change the option 'filename'");
    assert_eq!(guest.read(0, 0, 512), (OK, vec![2; 512]), "the backing is there again");
    assert_eq!(seen(&mut session, &mut guest, json!(null)), 0);
    session.run("blockdev-del", json!({"node-name": "two"}));
    for (options, text) in [
        (top(json!("top")), "Making 'top' a backing child of 'top' would create a cycle"),
        (top(json!("nope")), "Cannot find device='' nor node-name='nope'"),
    ] {
        assert_eq!(session.generic_error("blockdev-reopen", json!({"options": [options]})), text);
    }
    let older = top(json!(null));
    session.run("x-blockdev-reopen", older);
}
