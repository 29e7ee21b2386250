//! Snapshots and transactions under a guest that writes. The guest is the test itself.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::guest::{self, Guest, OK};
use crate::support::{Directory, Machine, Session, Setup, qcow2_header_v3, text};

const SIZE: usize = 1 << 20;

struct Disks {
    directory: Directory,
    raw: PathBuf,
    qcow2: PathBuf,
    machine: Machine,
    session: Session,
    guest: Guest,
}

/// A machine with a raw disk `r` (node `nr`, disk 0) and a qcow2 disk `q` (node `nq`, disk 1).
fn started(options: &str) -> Disks {
    let directory = Directory::new();
    let (raw, qcow2) = (directory.join("raw.img"), directory.join("disk.qcow2"));
    fs::write(&raw, vec![0; SIZE]).expect("a file");
    fs::write(&qcow2, qcow2_header_v3()).expect("an image");
    let mut machine = guest::setup()
        .args(["-drive", &format!("if=virtio,id=r,node-name=nr,format=raw,file={}{options}", text(&raw))])
        .args(["-drive", &format!("if=virtio,id=q,node-name=nq,format=qcow2,file={}{options}", text(&qcow2))])
        .start();
    let session = machine.connect(0);
    let guest = Guest::of(&mut machine);
    Disks { directory, raw, qcow2, machine, session, guest }
}

fn medium(session: &mut Session, device: &str) -> Value {
    let list = session.query("query-block");
    let found = list.as_array().and_then(|list| list.iter().find(|drive| drive["device"] == device));
    found.unwrap_or_else(|| panic!("no {device}"))["inserted"].clone()
}

fn node(session: &mut Session, name: &str) -> Option<Value> {
    let list = session.query("query-named-block-nodes");
    list.as_array().and_then(|list| list.iter().find(|node| node["node-name"] == name).cloned())
}

fn sector(bytes: &[u8], index: usize) -> u8 {
    bytes[index * 512]
}

#[test]
fn snapshot_has_each_write_that_was_done_before_and_none_that_came_after() {
    let Disks { directory: _directory, raw, machine, mut session, mut guest, .. } = started("");
    let sync = "blockdev-snapshot-sync";
    for round in 0..12_u64 {
        let byte = round as u8 + 1;
        assert_eq!(guest.write(0, round, &[byte; 512]), OK);
        // These may be in flight while the snapshot is made.
        let running: Vec<_> = (0..8).map(|at| guest.begin_write(0, 100 + at, &[byte; 512])).collect();
        let file = machine.file(&format!("overlay{round}.qcow2"));
        session.run(sync, json!({"device": "r", "snapshot-file": file, "snapshot-node-name": format!("o{round}")}));
        for slot in running {
            assert_eq!(guest.wait(0, slot), OK);
        }
        assert_eq!(guest.write(0, round, &[0x80 | byte; 512]), OK);
    }
    let base = fs::read(&raw).expect("the file");
    assert_eq!(sector(&base, 0), 1, "what was done before is below");
    for at in 100..108 {
        assert!(matches!(sector(&base, at), 0 | 1), "what was in flight is there or not");
    }
    assert!(base[512..100 * 512].iter().all(|byte| *byte == 0), "what came later is not");
    for round in 0..12_u64 {
        assert_eq!(guest.read(0, round, 512).1, vec![0x80 | (round as u8 + 1); 512], "round {round}");
    }
    for at in 100..108 {
        assert_eq!(guest.read(0, at, 512).1, vec![12; 512]);
    }
    let medium = medium(&mut session, "r");
    assert_eq!((medium["node-name"].clone(), medium["backing_file_depth"].clone()), (json!("o11"), json!(12)));
    assert_eq!(medium["backing_file"], json!(machine.file("overlay10.qcow2")));
    let (mut image, mut depth) = (&medium["image"], 0);
    while image["backing-image"].is_object() {
        image = &image["backing-image"];
        depth += 1;
    }
    assert_eq!((depth, image["filename"].clone()), (12, json!(text(&raw))));
    // Each layer below is read-only, the top is not.
    assert_eq!(node(&mut session, "nr").expect("the base")["ro"], json!(true));
    assert_eq!(node(&mut session, "o10").expect("a layer")["ro"], json!(true));
    assert_eq!(node(&mut session, "o11").expect("the top")["ro"], json!(false));
    // A layer in the middle opened elsewhere shows its point in time.
    let middle = json!({"driver": "file", "filename": machine.file("overlay5.qcow2")});
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "look", "read-only": true, "file": middle}));
    session.run("blockdev-del", json!({"node-name": "look"}));
}

#[test]
fn throttled_disk_with_copy_on_read_is_snapshotted_with_its_limits() {
    let Disks { directory: _directory, qcow2, machine, mut session, mut guest, .. } =
        started(",throttling.bps-total=200000,copy-on-read=on");
    let bytes = [7; 65536];
    // More than the limits let through now.
    let running: Vec<_> = (0..10).map(|at| guest.begin_write(1, at * 128, &bytes)).collect();
    let file = machine.file("overlay.qcow2");
    session.run("blockdev-snapshot-sync", json!({"device": "q", "snapshot-file": file}));
    for slot in running {
        assert_eq!(guest.wait(1, slot), OK);
    }
    let disk = medium(&mut session, "q");
    let told = (disk["bps"].clone(), disk["drv"].clone(), disk["file"].clone());
    assert_eq!(told, (json!(200_000), json!("qcow2"), json!(file)));
    assert_eq!(disk["image"]["backing-filename"], json!(text(&qcow2)));
    assert_eq!(disk["image"]["backing-filename-format"], json!("qcow2"));
    session.run(
        "block_set_io_throttle",
        json!({"device": "q", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}),
    );
    for at in 0..10 {
        assert_eq!(guest.read(1, at * 128, 512), (OK, vec![7; 512]));
    }
    assert_eq!(guest.write(1, 0, &[8; 512]), OK);
    assert_eq!(guest.read(1, 0, 512), (OK, vec![8; 512]));
}

#[test]
fn overlay_that_is_a_node_takes_a_disks_place_and_the_threshold_stays_below() {
    let Disks { directory: _directory, raw, machine, mut session, mut guest, .. } = started("");
    let path = machine.path("empty.qcow2");
    fs::write(&path, qcow2_header_v3()).expect("an image");
    let file = json!({"driver": "file", "node-name": "file", "filename": text(&path)});
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "top", "file": file, "backing": null}));
    session.run("block-set-write-threshold", json!({"node-name": "nr", "write-threshold": 4096}));
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    session.run("blockdev-snapshot", json!({"node": "r", "overlay": "top"}));
    assert_eq!(guest.write(0, 100, &[2; 512]), OK);
    session.query("query-name");
    assert!(!session.take_events().contains(&"BLOCK_WRITE_THRESHOLD".to_owned()), "it is of the node below");
    session.run("block-set-write-threshold", json!({"node-name": "top", "write-threshold": 4096}));
    assert_eq!(guest.write(0, 200, &[2; 512]), OK);
    assert_eq!(session.event("BLOCK_WRITE_THRESHOLD")["node-name"], json!("top"));
    assert_eq!(guest.read(0, 0, 512), (OK, vec![1; 512]));
    let disk = medium(&mut session, "r");
    // The image does not name its backing: the name of the whole does.
    assert!(disk["file"].as_str().is_some_and(|name| name.starts_with("json:") && name.contains(text(&raw))), "{disk}");
    assert_eq!(session.generic_error("blockdev-del", json!({"node-name": "top"})), "Node top is in use");
    let busy = "Node 'nr' is busy: node is used as backing hd of 'top'";
    assert_eq!(session.generic_error("blockdev-del", json!({"node-name": "nr"})), busy);
    let again = json!({"node-name": "nr", "snapshot-file": machine.file("x.qcow2"), "snapshot-node-name": "x"});
    assert_eq!(session.generic_error("blockdev-snapshot-sync", again), busy);
    assert!(!machine.path("x.qcow2").exists());
    // Named, it has a plain name again, also below a further overlay, where it is read-only.
    let change = |backing: &str| json!({"device": "r", "image-node-name": "top", "backing-file": backing});
    session.run("change-backing-file", change(text(&raw)));
    assert_eq!(medium(&mut session, "r")["file"], json!(text(&path)));
    session.run("blockdev-snapshot-sync", json!({"device": "r", "snapshot-file": machine.file("over.qcow2")}));
    assert_eq!(node(&mut session, "top").expect("a layer")["ro"], json!(true));
    session.run("change-backing-file", change("else.img"));
    let top = node(&mut session, "top").expect("a layer");
    assert_eq!((top["ro"].clone(), top["image"]["backing-filename"].clone()), (json!(true), json!("else.img")));
    assert_eq!(guest.write(0, 0, &[3; 512]), OK);
    assert_eq!(guest.read(0, 100, 512), (OK, vec![2; 512]));
}

#[test]
fn internal_snapshots_are_made_shown_and_deleted_while_the_guest_writes() {
    let Disks { directory: _directory, machine: _machine, mut session, mut guest, .. } = started("");
    let (make, delete) = ("blockdev-snapshot-internal-sync", "blockdev-snapshot-delete-internal-sync");
    for (index, name) in ["one", "two", "three"].into_iter().enumerate() {
        assert_eq!(guest.write(1, 0, &[index as u8 + 1; 4096]), OK);
        let running = guest.begin_write(1, 256, &[index as u8; 65536]);
        session.run(make, json!({"device": if index == 1 { "nq" } else { "q" }, "name": name}));
        assert_eq!(guest.wait(1, running), OK);
    }
    let shown = medium(&mut session, "q")["image"]["snapshots"].clone();
    let names: Vec<_> = shown.as_array().expect("a list").iter().map(|one| (&one["id"], &one["name"])).collect();
    let (one, two, three) = (json!("one"), json!("two"), json!("three"));
    assert_eq!(names, [(&json!("1"), &one), (&json!("2"), &two), (&json!("3"), &three)]);
    for (arguments, wanted) in [
        (json!({"device": "q", "name": "one"}), "Snapshot with name 'one' already exists on device 'q'"),
        (json!({"device": "q", "name": ""}), "Name is empty"),
        (
            json!({"device": "r", "name": "a"}),
            "Block format 'raw' used by device 'r' does not support internal snapshots",
        ),
        (json!({"device": "x", "name": "a"}), "Cannot find device='x' nor node-name='x'"),
    ] {
        assert_eq!(session.generic_error(make, arguments), wanted);
    }
    for (arguments, wanted) in [
        (json!({"device": "q"}), "Name or id must be provided"),
        (
            json!({"device": "q", "id": "1", "name": "two"}),
            "Snapshot with id '1' and name 'two' does not exist on device 'q'",
        ),
        (json!({"device": "r", "name": "a"}), "Snapshot with id 'null' and name 'a' does not exist on device 'r'"),
    ] {
        assert_eq!(session.generic_error(delete, arguments), wanted);
    }
    let gone = session.run(delete, json!({"device": "q", "id": "2"}));
    assert_eq!((&gone["id"], &gone["name"], &gone["vm-state-size"]), (&json!("2"), &two, &json!(0)));
    assert_eq!(session.run(delete, json!({"device": "q", "id": "1", "name": "one"}))["name"], one);
    assert_eq!(session.run(delete, json!({"device": "q", "name": "three"}))["id"], json!("3"));
    assert_eq!(medium(&mut session, "q")["image"].get("snapshots"), None);
    assert_eq!(guest.read(1, 0, 4096), (OK, vec![3; 4096]));
}

/// All that a client sees of disks, bitmaps and their bits. Names that are made up are left out.
fn state(session: &mut Session) -> (Value, Value, Vec<String>) {
    let mut sums = Vec::new();
    for name in ["a", "b", "p"] {
        let reply = session.run("x-debug-block-dirty-bitmap-sha256", json!({"node": "nq", "name": name}));
        sums.push(reply.to_string());
    }
    let mut nodes = session.query("query-named-block-nodes");
    let mut disks = session.query("query-block");
    for list in [&mut nodes, &mut disks] {
        for one in list.as_array_mut().expect("a list") {
            // How much of the host an image takes changes with what was tried.
            forget(one, &["actual-size", "virtual-size", "bitmaps"]);
        }
    }
    (nodes, disks, sums)
}

fn forget(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !names.contains(&name.as_str()));
            members.values_mut().for_each(|member| forget(member, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, names)),
        _ => {}
    }
}

fn action(kind: &str, data: Value) -> Value {
    let mut action = json!({ "type": kind });
    action["data"] = data;
    action
}

/// An action of each kind, on the disks of [`started`] with the bitmaps `a`, `b` (off) and `p` (persistent) of `nq`.
fn actions(machine: &Machine, round: usize) -> Vec<Value> {
    let file = |name: &str| machine.file(&format!("{name}{round}.qcow2"));
    vec![
        action("block-dirty-bitmap-add", json!({"node": "nq", "name": "new", "persistent": true})),
        action("block-dirty-bitmap-clear", json!({"node": "nq", "name": "a"})),
        action("block-dirty-bitmap-merge", json!({"node": "nq", "target": "b", "bitmaps": ["p"]})),
        action("block-dirty-bitmap-enable", json!({"node": "nq", "name": "b"})),
        action("block-dirty-bitmap-disable", json!({"node": "nq", "name": "a"})),
        action("x-block-dirty-bitmap-merge", json!({"node": "nq", "dst_name": "a", "src_name": "p"})),
        action("x-block-dirty-bitmap-enable", json!({"node": "nq", "name": "a"})),
        action("x-block-dirty-bitmap-disable", json!({"node": "nq", "name": "b"})),
        action("block-dirty-bitmap-remove", json!({"node": "nq", "name": "p"})),
        action("blockdev-snapshot-internal-sync", json!({"device": "q", "name": "inside"})),
        action("blockdev-snapshot", json!({"node": "r", "overlay": "spare"})),
        action(
            "blockdev-snapshot-sync",
            json!({"device": "r", "snapshot-file": file("over"),
            "snapshot-node-name": "second"}),
        ),
        action(
            "blockdev-snapshot-sync",
            json!({"node-name": "nq", "snapshot-file": file("top"),
            "snapshot-node-name": "third"}),
        ),
        action("blockdev-backup", json!({"job-id": "copy", "device": "q", "target": "target", "sync": "full"})),
    ]
}

fn prepared() -> Disks {
    let mut disks = started("");
    let Disks { machine, session, guest, .. } = &mut disks;
    for (name, more) in [("a", json!({})), ("b", json!({"disabled": true})), ("p", json!({"persistent": true}))] {
        let mut arguments = json!({"node": "nq", "name": name, "granularity": 4096});
        more.as_object().into_iter().flatten().for_each(|(name, value)| arguments[name] = value.clone());
        session.run("block-dirty-bitmap-add", arguments);
    }
    assert_eq!(guest.write(1, 64, &[5; 4096]), OK);
    session.run("block-dirty-bitmap-clear", json!({"node": "nq", "name": "a"}));
    assert_eq!(guest.write(1, 128, &[6; 4096]), OK);
    fs::write(machine.path("spare.qcow2"), qcow2_header_v3()).expect("an image");
    let file = json!({"driver": "file", "node-name": "spare-file", "filename": machine.file("spare.qcow2")});
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "spare", "file": file, "backing": null}));
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "target", "size": SIZE}));
    disks
}

#[test]
fn transaction_that_fails_anywhere_changes_nothing() {
    let Disks { directory: _directory, machine, mut session, mut guest, .. } = prepared();
    let before = state(&mut session);
    let count = actions(&machine, 0).len();
    for failing in 0..=count {
        let mut list = actions(&machine, failing);
        // What can't be, or the action that never can.
        let (bad, wanted) = match failing % 2 {
            0 => (action("abort", json!({})), "Transaction aborted using Abort action"),
            _ => (
                action("block-dirty-bitmap-clear", json!({"node": "r", "name": "none"})),
                "Dirty bitmap 'none' not found",
            ),
        };
        list.insert(failing, bad);
        let running = guest.begin_write(1, 128, &[failing as u8; 512]);
        let text = session.generic_error("transaction", json!({"actions": list}));
        assert_eq!(text, wanted, "at {failing}");
        assert_eq!(guest.wait(1, running), OK);
        assert_eq!(guest.read(1, 128, 512), (OK, vec![failing as u8; 512]), "the guest goes on");
        assert_eq!(state(&mut session), before, "at {failing}");
        // As with QEMU, files that were made stay.
        assert_eq!(machine.path(&format!("over{failing}.qcow2")).exists(), failing > 11, "at {failing}");
    }
    let grouped = json!({"actions": [action("block-dirty-bitmap-clear", json!({"node": "nq", "name": "a"}))],
        "properties": {"completion-mode": "grouped"}});
    let wanted = "Action 'block-dirty-bitmap-clear' does not support Transaction property completion-mode = grouped";
    assert_eq!(session.generic_error("transaction", grouped), wanted);
    assert_eq!(state(&mut session), before);
    assert_eq!(session.run("transaction", json!({"actions": []})), json!({}));
}

#[test]
fn transaction_makes_all_changes_at_one_point_in_time() {
    let Disks { directory: _directory, raw, machine, mut session, mut guest, .. } = prepared();
    let running: Vec<_> = (0..6).map(|at| (at % 2, guest.begin_write(at % 2, 512 + at as u64, &[9; 512]))).collect();
    let list = actions(&machine, 0);
    let properties = json!({"completion-mode": "individual"});
    session.run("transaction", json!({"actions": list, "properties": properties}));
    for (disk, slot) in running {
        assert_eq!(guest.wait(disk, slot), OK);
    }
    let done = session.event("BLOCK_JOB_COMPLETED");
    assert_eq!((&done["device"], done.get("error")), (&json!("copy"), None));
    let below = node(&mut session, "nq").expect("the image");
    let shown: Vec<_> = below["dirty-bitmaps"]
        .as_array()
        .expect("some")
        .iter()
        .map(|one| (one["name"].clone(), one["recording"].clone()))
        .collect();
    let wanted = [(json!("new"), json!(true)), (json!("b"), json!(false)), (json!("a"), json!(true))];
    assert_eq!(shown, wanted);
    assert_eq!(below["image"]["snapshots"][0]["name"], json!("inside"));
    let (r, q) = (medium(&mut session, "r"), medium(&mut session, "q"));
    assert_eq!((r["node-name"].clone(), r["backing_file_depth"].clone()), (json!("second"), json!(2)));
    assert_eq!((q["node-name"].clone(), q["backing_file_depth"].clone()), (json!("third"), json!(1)));
    let base = fs::read(&raw).expect("the file");
    assert_eq!(guest.write(0, 0, &[4; 512]), OK);
    assert_eq!(fs::read(&raw).expect("the file"), base, "nothing is written below any more");
    for (disk, at) in [(0, 512), (1, 513), (0, 514)] {
        assert_eq!(guest.read(disk, at, 512), (OK, vec![9; 512]));
    }
    assert_eq!(guest.read(1, 64, 4096), (OK, vec![5; 4096]));
    // The overlay of the second snapshot names the first.
    assert_eq!(r["backing_file"].as_str().map(|name| name.contains("spare.qcow2")), Some(true));
}

/// A node that fails all writes, of the disks' size.
fn failing(session: &mut Session, name: &str) {
    let image = json!({"driver": "null-co", "size": SIZE});
    let rule = json!([{"event": "none", "iotype": "write", "errno": 5}, {"event": "none", "iotype": "write-zeroes",
        "errno": 5}]);
    session.run("blockdev-add", json!({"driver": "blkdebug", "node-name": name, "image": image, "inject-error": rule}));
}

#[test]
fn backups_of_a_transaction_have_one_moment_and_end_together_if_they_shall() {
    let Disks { directory: _directory, machine, mut session, mut guest, .. } = prepared();
    let copy = machine.path("copy.img");
    fs::write(&copy, vec![0xee; SIZE]).expect("a file");
    let file = json!({"driver": "file", "filename": text(&copy)});
    session.run("blockdev-add", json!({"driver": "raw", "node-name": "copy", "file": file}));
    failing(&mut session, "bad");
    for (disk, byte) in [(0, 1), (1, 2)] {
        assert_eq!(guest.write(disk, 300, &[byte; 4096]), OK);
    }
    let backup = |name: &str, device: &str, target: &str, bitmap: bool| {
        let mut data = json!({"job-id": name, "device": device, "target": target, "sync": "full"});
        if bitmap {
            data["sync"] = json!("incremental");
            data["bitmap"] = json!("a");
        }
        action("blockdev-backup", data)
    };
    let ends = |session: &mut Session, name: &str| {
        while session.query("query-jobs").to_string().contains(&format!("\"{name}\"")) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    // Each for itself: one fails, the other is the point in time.
    let clear = action("block-dirty-bitmap-clear", json!({"node": "nq", "name": "a"}));
    let list = json!([backup("good", "r", "copy", false), backup("lost", "q", "bad", false), clear]);
    session.run("transaction", json!({ "actions": list }));
    assert_eq!(guest.write(0, 300, &[9; 4096]), OK);
    assert_eq!(guest.write(1, 600, &[9; 4096]), OK);
    ends(&mut session, "good");
    ends(&mut session, "lost");
    assert!(fs::read(&copy).expect("the copy")[300 * 512..308 * 512].iter().all(|byte| *byte == 1));
    let bitmap = |session: &mut Session| node(session, "nq").expect("the image")["dirty-bitmaps"][2].clone();
    assert_eq!(bitmap(&mut session)["count"], json!(4096), "what was written since");
    session.take_events();
    // Together: the failure of one cancels the other, and its bitmap is as if nothing had been.
    fs::write(&copy, vec![0; SIZE]).expect("a file");
    let properties = json!({"completion-mode": "grouped"});
    let list = json!([backup("good", "r", "bad", false), backup("bits", "q", "target", true)]);
    session.run("transaction", json!({"actions": list, "properties": properties}));
    ends(&mut session, "bits");
    assert_eq!(
        (bitmap(&mut session)["count"].clone(), bitmap(&mut session)["busy"].clone()),
        (json!(4096), json!(false))
    );
    assert_eq!(session.query("query-jobs"), json!([]));
    // One that can't be made takes the other back, before anything is copied.
    let list = json!([backup("one", "r", "copy", false), backup("two", "q", "nowhere", false)]);
    let text = session.generic_error("transaction", json!({ "actions": list }));
    assert_eq!(text, "Cannot find device='nowhere' nor node-name='nowhere'");
    assert_eq!(session.query("query-jobs"), json!([]));
    assert_eq!(guest.write(0, 0, &[7; 512]), OK);
    let list = json!([
        backup("again", "r", "copy", false),
        action("blockdev-snapshot-sync", json!({"device": "r", "snapshot-file": machine.file("x.qcow2")}))
    ]);
    let text = session.generic_error("transaction", json!({ "actions": list }));
    assert!(text.contains("is busy: block device is in use by block job: backup"), "{text}");
}

#[test]
fn commit_below_a_drive_is_cancelled_when_the_device_of_the_drive_goes() {
    let mut machine = Setup::new().args(["-S", "-nodefaults", "-device", "virtio-scsi-pci"]).start();
    let image = machine.path("image");
    std::fs::write(&image, vec![0_u8; 1 << 20]).expect("a file");
    let mut session = machine.connect(0);
    let line = format!("drive_add 0 if=none,id=hot,format=raw,file={}", image.display());
    session.run("human-monitor-command", json!({"command-line": line}));
    session.run("device_add", json!({"driver": "scsi-hd", "drive": "hot", "id": "disk"}));
    for name in ["middle", "top"] {
        let file = machine.path(name);
        let snapshot = json!({"device": "hot", "snapshot-file": file, "snapshot-node-name": name});
        session.run("blockdev-snapshot-sync", snapshot);
    }
    let commit = json!({"job-id": "job", "device": "hot", "top-node": "middle", "auto-finalize": false});
    session.run("block-commit", commit);
    session.event("BLOCK_JOB_PENDING");

    session.run("device_del", json!({"id": "disk"}));

    assert_eq!(session.event("BLOCK_JOB_CANCELLED")["device"], "job");
    assert_eq!(session.query("query-jobs"), json!([]));
    assert_eq!(session.query("query-block"), json!([]));
}
