//! Dirty bitmaps of disks that a guest writes to: commands, flags, what images store. The guest is the test itself.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::guest::{self, Guest, OK};
use crate::support::{Directory, Machine, Reply, Session, Setup, qcow2_header, qcow2_header_v3, qemu, text};

const ADD: &str = "block-dirty-bitmap-add";
const REMOVE: &str = "block-dirty-bitmap-remove";
const CLEAR: &str = "block-dirty-bitmap-clear";
const ENABLE: &str = "block-dirty-bitmap-enable";
const DISABLE: &str = "block-dirty-bitmap-disable";
const MERGE: &str = "block-dirty-bitmap-merge";
const SHA: &str = "x-debug-block-dirty-bitmap-sha256";

/// A machine with an image as its disk `d`, its node `n`.
fn started(image: &Path) -> (Machine, Session, Guest) {
    let drive = format!("if=virtio,id=d,node-name=n,format=qcow2,file={}", text(image));
    let mut machine = guest::setup().args(["-drive", &drive]).start();
    let session = machine.connect(0);
    let guest = Guest::of(&mut machine);
    (machine, session, guest)
}

fn image(directory: &Directory) -> std::path::PathBuf {
    let path = directory.join("disk.qcow2");
    fs::write(&path, qcow2_header_v3()).expect("an image");
    path
}

fn bitmaps(session: &mut Session) -> Value {
    session.query("query-block")[0]["inserted"]["dirty-bitmaps"].clone()
}

fn bitmap(session: &mut Session, name: &str) -> Value {
    let all = bitmaps(session);
    let found = all.as_array().and_then(|all| all.iter().find(|bitmap| bitmap["name"] == name));
    found.unwrap_or_else(|| panic!("no bitmap {name} in {all}")).clone()
}

fn sha(session: &mut Session, name: &str) -> String {
    let reply = session.run(SHA, json!({"node": "d", "name": name}));
    reply["sha256"].as_str().expect("a text").to_owned()
}

fn quit(mut machine: Machine, session: &mut Session) {
    session.run("quit", json!({}));
    assert!(machine.wait_exit(crate::support::PATIENCE).success(), "{}", machine.story());
    assert_eq!(machine.stderr(), "");
}

#[test]
fn bitmap_records_the_guests_writes_while_it_is_enabled() {
    let directory = Directory::new();
    let (_machine, mut session, mut guest) = started(&image(&directory));
    assert_eq!(bitmaps(&mut session), Value::Null);
    session.run(ADD, json!({"node": "d", "name": "a", "granularity": 4096}));
    session.run(ADD, json!({"node": "n", "name": "b", "disabled": true}));
    assert_eq!(guest.write(0, 9, &[1; 512]), OK);
    let fresh = json!({"name": "a", "count": 4096, "granularity": 4096, "recording": true, "busy": false,
        "persistent": false});
    let other = json!({"name": "b", "count": 0, "granularity": 65536, "recording": false, "busy": false,
        "persistent": false});
    assert_eq!(bitmaps(&mut session), json!([other, fresh]), "the newest first");
    session.run(DISABLE, json!({"node": "d", "name": "a"}));
    session.run("x-block-dirty-bitmap-enable", json!({"node": "d", "name": "b"}));
    assert_eq!(guest.write(0, 1000, &[1; 8192]), OK);
    assert_eq!(
        (bitmap(&mut session, "a")["count"].clone(), bitmap(&mut session, "b")["count"].clone()),
        (json!(4096), json!(65536))
    );
    session.run(ENABLE, json!({"node": "d", "name": "a"}));
    session.run("x-block-dirty-bitmap-disable", json!({"node": "d", "name": "b"}));
    assert_eq!(guest.discard(0, 128, 8), OK);
    session.run(MERGE, json!({"node": "d", "target": "a", "bitmaps": ["b", {"node": "n", "name": "b"}]}));
    // Its own granule and the 64 KiB of the other.
    assert_eq!(bitmap(&mut session, "a")["count"], json!(4096 + 65536));
    session.run(CLEAR, json!({"node": "d", "name": "b"}));
    session.run("x-block-dirty-bitmap-merge", json!({"node": "d", "dst_name": "b", "src_name": "a"}));
    assert_eq!(bitmap(&mut session, "b")["count"], json!(2 * 65536));
    // QEMU's for a word with the bits 0 and 7.
    assert_eq!(sha(&mut session, "b"), WORD_81);
    session.run(REMOVE, json!({"node": "n", "name": "a"}));
    session.run(REMOVE, json!({"node": "n", "name": "b"}));
    assert_eq!(bitmaps(&mut session), Value::Null);
}

/// The SHA-256 of 81H and seven zeroes.
const WORD_81: &str = "d8c39643054af46129e207eabeef97a89854463ea88835f4dbc60d7fd3be1a5b";

#[test]
fn bitmap_that_can_not_be_is_refused_with_the_reason() {
    let directory = Directory::new();
    let old = directory.join("old.qcow2");
    fs::write(&old, qcow2_header()).expect("an image");
    let (_machine, mut session, _guest) = started(&image(&directory));
    let file = json!({"driver": "file", "filename": text(&old)});
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "old", "file": file}));
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "nul", "size": 4096}));
    session.run(ADD, json!({"node": "d", "name": "a"}));
    session.run(ADD, json!({"node": "nul", "name": "s"}));
    let long = "x".repeat(1024);
    let sizes = "Bitmaps are of different sizes (destination size is 1048576, source size is 4096) and can't be merged";
    for (command, arguments, wanted) in [
        (ADD, json!({"node": "d", "name": ""}), "Bitmap name cannot be empty".to_owned()),
        (ADD, json!({"node": "d", "name": "a"}), "Bitmap already exists: a".to_owned()),
        (ADD, json!({"node": "x", "name": "a"}), "Cannot find device='x' nor node-name='x'".to_owned()),
        (ADD, json!({"node": "d", "name": long}), format!("Bitmap name too long: {long}")),
        (
            ADD,
            json!({"node": "d", "name": "b", "granularity": 1000}),
            "Granularity must be power of 2 and at least 512".to_owned(),
        ),
        (
            ADD,
            json!({"node": "old", "name": "b", "persistent": true}),
            "Can't make bitmap 'b' persistent in 'old': Cannot store dirty bitmaps in qcow2 v2 files".to_owned(),
        ),
        (
            ADD,
            json!({"node": "nul", "name": "b", "persistent": true}),
            "Can't store persistent bitmaps to nul: Operation not supported".to_owned(),
        ),
        (REMOVE, json!({"node": "d", "name": "b"}), "Dirty bitmap 'b' not found".to_owned()),
        (CLEAR, json!({"node": "x", "name": "b"}), "Node 'x' not found".to_owned()),
        (MERGE, json!({"node": "d", "target": "a", "bitmaps": ["b"]}), "Dirty bitmap 'b' not found".to_owned()),
        (MERGE, json!({"node": "d", "target": "a", "bitmaps": ["a", {"node": "nul", "name": "s"}]}), sizes.to_owned()),
        (SHA, json!({"node": "d", "name": "b"}), "Dirty bitmap 'b' not found".to_owned()),
    ] {
        assert_eq!(session.generic_error(command, arguments.clone()), wanted, "{command} {arguments}");
    }
}

#[test]
fn persistent_bitmap_survives_a_restart_and_is_worthless_after_a_kill() {
    let directory = Directory::new();
    let path = image(&directory);
    let (machine, mut session, mut guest) = started(&path);
    session.run(ADD, json!({"node": "d", "name": "p", "persistent": true, "granularity": 512}));
    session.run(ADD, json!({"node": "d", "name": "off", "persistent": true, "disabled": true}));
    session.run(ADD, json!({"node": "d", "name": "gone"}));
    for sector in [0, 77, 2047] {
        assert_eq!(guest.write(0, sector, &[1; 512]), OK);
    }
    let before = sha(&mut session, "p");
    quit(machine, &mut session);

    let (machine, mut session, mut guest) = started(&path);
    assert_eq!(bitmaps(&mut session).as_array().map(Vec::len), Some(2));
    let stored = bitmap(&mut session, "p");
    assert_eq!((stored["count"].clone(), stored["recording"].clone()), (json!(3 * 512), json!(true)));
    assert_eq!(bitmap(&mut session, "off")["recording"], json!(false));
    assert_eq!(sha(&mut session, "p"), before);
    // It goes on, and follows the size.
    assert_eq!(guest.write(0, 100, &[1; 1024]), OK);
    session.run("block_resize", json!({"device": "d", "size": 1_000_000 & !511}));
    assert_eq!(bitmap(&mut session, "p")["count"], json!(4 * 512));
    session.run("block_resize", json!({"device": "d", "size": 1 << 20}));
    let shown = session.query("query-block")[0]["inserted"]["image"]["format-specific"]["data"]["bitmaps"].clone();
    assert_eq!(shown.as_array().map(Vec::len), Some(2), "{shown}");
    assert!(shown[0]["flags"].as_array().is_some_and(|flags| flags.contains(&json!("in-use"))), "{shown}");
    drop(machine);

    // It was killed: nobody knows what was written.
    let (machine, mut session, _guest) = started(&path);
    let lost = bitmap(&mut session, "p");
    let flags = (lost["inconsistent"].clone(), lost["recording"].clone(), lost["persistent"].clone());
    assert_eq!(flags, (json!(true), json!(false), json!(true)));
    let wanted = "Bitmap 'p' is inconsistent and cannot be used";
    for command in [CLEAR, ENABLE, DISABLE] {
        assert_eq!(session.generic_error(command, json!({"node": "d", "name": "p"})), wanted);
    }
    let merge = json!({"node": "d", "target": "q", "bitmaps": ["p"]});
    session.run(ADD, json!({"node": "d", "name": "q"}));
    assert_eq!(session.generic_error(MERGE, merge), wanted);
    session.generic_error("block_resize", json!({"device": "d", "size": 2 << 20}));
    quit(machine, &mut session);

    let (machine, mut session, _guest) = started(&path);
    assert_eq!(bitmap(&mut session, "p")["inconsistent"], json!(true), "a clean end does not heal it");
    session.run(REMOVE, json!({"node": "d", "name": "p"}));
    session.run(REMOVE, json!({"node": "d", "name": "off"}));
    quit(machine, &mut session);
    let (_machine, mut session, _guest) = started(&path);
    assert_eq!(bitmaps(&mut session), Value::Null);
}

#[test]
fn persistent_bitmap_of_a_disk_is_read_only_while_its_image_is() {
    let directory = Directory::new();
    let path = image(&directory);
    let (machine, mut session, mut guest) = started(&path);
    session.run(ADD, json!({"node": "d", "name": "p", "persistent": true}));
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    let overlay = machine.file("overlay.qcow2");
    session.run("blockdev-snapshot-sync", json!({"device": "d", "snapshot-file": overlay}));
    // The image below has become read-only: the bitmap is stored, and can't be changed.
    let readonly = "Bitmap 'p' is readonly and cannot be modified";
    assert_eq!(session.generic_error(CLEAR, json!({"node": "n", "name": "p"})), readonly);
    assert_eq!(session.generic_error(REMOVE, json!({"node": "n", "name": "p"})), readonly);
    assert_eq!(guest.write(0, 1024, &[2; 512]), OK);
    let nodes = session.query("query-named-block-nodes");
    let below = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["node-name"] == "n")).expect("n");
    assert_eq!((below["ro"].clone(), below["dirty-bitmaps"][0]["count"].clone()), (json!(true), json!(65536)));
    assert_eq!(below["image"]["format-specific"]["data"]["bitmaps"][0]["flags"], json!(["auto"]));
    drop(machine);
    // A kill does no harm to what was stored.
    let (_machine, mut session, _guest) = started(&path);
    assert_eq!(bitmap(&mut session, "p").get("inconsistent"), None);
    assert_eq!(bitmap(&mut session, "p")["count"], json!(65536));
}

#[test]
fn persistent_bitmap_records_again_when_its_image_becomes_writable() {
    let directory = Directory::new();
    let path = image(&directory);
    let (machine, mut session, mut guest) = started(&path);
    session.run(ADD, json!({"node": "d", "name": "p", "persistent": true}));
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    quit(machine, &mut session);
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let file = json!({"driver": "file", "node-name": "f", "filename": text(&path), "auto-read-only": true});
    session.run("blockdev-add", file);
    let options = |read_only| json!({"driver": "qcow2", "node-name": "n", "file": "f", "read-only": read_only});
    session.run("blockdev-add", options(true));
    let flags = |session: &mut Session| {
        let nodes = session.query("query-named-block-nodes");
        nodes[0]["image"]["format-specific"]["data"]["bitmaps"][0]["flags"].clone()
    };
    let named = json!({"node": "n", "name": "p"});
    let readonly = "Bitmap 'p' is readonly and cannot be modified";
    assert_eq!(session.generic_error(CLEAR, named.clone()), readonly);
    session.run("blockdev-reopen", json!({"options": [options(false)]}));
    assert_eq!(flags(&mut session), json!(["in-use", "auto"]));
    session.run(CLEAR, named.clone());
    session.run("blockdev-reopen", json!({"options": [options(true)]}));
    assert_eq!(flags(&mut session), json!(["auto"]));
    assert_eq!(session.generic_error(CLEAR, named), readonly);
    let nodes = session.query("query-named-block-nodes");
    assert_eq!(nodes[0]["dirty-bitmaps"][0]["count"], json!(0));
}

/// Both programs are told to write the same, Ouzel by its guest, QEMU by `qemu-io` of its human monitor.
const WRITES: [(u64, usize); 5] =
    [(0, 512), (3 << 10, 70_000 & !511), (0x8_0000, 512), (0xf_0000, 4096), (0xf_fe00, 512)];

#[test]
#[ignore = "needs the peer"]
fn peer_qemu_has_the_same_bits_and_reads_what_was_stored() {
    let mut replies = Vec::new();
    for program in [None, Some(qemu())] {
        let directory = Directory::new();
        let path = image(&directory);
        let drive = format!("if=virtio,id=d,node-name=n,format=qcow2,file={}", text(&path));
        let mut machine = match &program {
            None => guest::setup(),
            Some(program) => Setup::of(program.clone()).args(["-S"]),
        }
        .args(["-drive", &drive])
        .start();
        let mut session = machine.connect(0);
        let mut guest = program.is_none().then(|| Guest::of(&mut machine));
        for (name, granularity) in [("a", 512), ("b", 4096), ("c", 65536), ("d", 2 << 20)] {
            session.run(ADD, json!({"node": "d", "name": name, "granularity": granularity, "persistent": true}));
        }
        for (offset, len) in WRITES {
            match &mut guest {
                Some(guest) => assert_eq!(guest.write(0, offset / 512, &vec![1; len]), OK),
                None => {
                    let line = format!("qemu-io d \"write {offset} {len}\"");
                    session.run("human-monitor-command", json!({"command-line": line}));
                }
            }
        }
        session.run(MERGE, json!({"node": "d", "target": "a", "bitmaps": ["c"]}));
        let sums: Vec<_> = ["a", "b", "c", "d"].map(|name| sha(&mut session, name)).to_vec();
        let shown = bitmaps(&mut session);
        session.run("quit", json!({}));
        machine.wait_exit(crate::support::PATIENCE);
        replies.push((sums, shown, fs::read(&path).expect("the image")));
    }
    assert_eq!(replies[0].0, replies[1].0);
    assert_eq!(replies[0].1, replies[1].1);
    // Each reads what the other has stored.
    for (stored, expected) in [(&replies[0], Some(qemu())), (&replies[1], None)] {
        let directory = Directory::new();
        let path = directory.join("other.qcow2");
        fs::write(&path, &stored.2).expect("the image");
        let drive = format!("if=virtio,id=d,node-name=n,format=qcow2,file={}", text(&path));
        let setup = expected.map_or_else(Setup::new, Setup::of);
        let mut machine = setup.args(["-S", "-drive", &drive]).start();
        let mut session = machine.connect(0);
        let sums: Vec<_> = ["a", "b", "c", "d"].map(|name| sha(&mut session, name)).to_vec();
        assert_eq!(sums, stored.0);
    }
}

#[test]
fn merge_of_nothing_changes_nothing() {
    let directory = Directory::new();
    let (_machine, mut session, mut guest) = started(&image(&directory));
    session.run(ADD, json!({"node": "d", "name": "a"}));
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    let reply = session.call(&json!({"execute": MERGE, "arguments": {"node": "d", "target": "a", "bitmaps": []}}));
    assert_eq!(reply, Reply::Value(json!({})));
    assert_eq!(bitmap(&mut session, "a")["count"], json!(65536));
}

/// A raw disk of 1 MiB of ones, `d` on node `n`, and a raw target `t` of 0xee.
fn mirrored(directory: &Directory) -> (Machine, Session, Guest, std::path::PathBuf) {
    let [source, target] = ["source", "target"].map(|name| directory.join(name));
    fs::write(&source, vec![1; 1 << 20]).expect("a disk");
    fs::write(&target, vec![0xee; 1 << 20]).expect("a target");
    let drive = format!("if=virtio,id=d,node-name=n,format=raw,file={}", text(&source));
    let mut machine = guest::setup().args(["-drive", &drive]).start();
    let mut session = machine.connect(0);
    let file = json!({"driver": "file", "filename": text(&target)});
    session.run("blockdev-add", json!({"driver": "raw", "node-name": "t", "file": file}));
    let guest = Guest::of(&mut machine);
    (machine, session, guest, target)
}

/// A mirror of `d` to `t` by the bitmap `b`.
fn mirror(sync: &str, mode: Option<&str>, copy: &str) -> Value {
    let mut mirror =
        json!({"job-id": "j", "device": "d", "target": "t", "sync": sync, "bitmap": "b", "copy-mode": copy});
    if let Some(mode) = mode {
        mirror["bitmap-mode"] = mode.into();
    }
    mirror
}

/// The first bytes of the granules of 4096 bytes that are not 0xee.
fn copied(target: &Path) -> Vec<(usize, u8)> {
    let bytes = fs::read(target).expect("the target");
    bytes.chunks(4096).map(|granule| granule[0]).enumerate().filter(|(_, byte)| *byte != 0xee).collect()
}

#[test]
fn mirror_by_a_bitmap_copies_what_is_dirty_and_what_is_written_meanwhile() {
    for copy in ["background", "write-blocking"] {
        let directory = Directory::new();
        let (_machine, mut session, mut guest, target) = mirrored(&directory);
        session.run(ADD, json!({"node": "d", "name": "b", "granularity": 4096}));
        let mut write = |granule: u64, byte| assert_eq!(guest.write(0, granule * 8, &[byte; 512]), OK);
        write(1, 2);
        session.run("blockdev-mirror", mirror("incremental", None, copy));
        session.event("BLOCK_JOB_READY");
        let busy = session.generic_error(REMOVE, json!({"node": "n", "name": "b"}));
        assert!(busy.contains("Bitmap 'b' is currently in use"), "{busy}");
        write(7, 3);
        // It is given up: nothing is known of the copy, and the bitmap goes on.
        session.run("block-job-cancel", json!({"device": "j", "force": true}));
        session.event("BLOCK_JOB_CANCELLED");
        assert_eq!(bitmap(&mut session, "b")["count"], json!(2 * 4096), "{copy}");
        fs::write(&target, vec![0xee; 1 << 20]).expect("a target");
        session.run("blockdev-mirror", mirror("bitmap", Some("on-success"), copy));
        session.event("BLOCK_JOB_READY");
        write(9, 4);
        // It ends with a copy of this moment.
        session.run("block-job-cancel", json!({"device": "j"}));
        session.event("BLOCK_JOB_COMPLETED");
        assert_eq!(copied(&target), [(1, 2), (7, 3), (9, 4)], "{copy}");
        let restarted = bitmap(&mut session, "b");
        assert_eq!((&restarted["count"], &restarted["recording"]), (&json!(0), &json!(true)), "{copy}");
        write(11, 5);
        assert_eq!(bitmap(&mut session, "b")["count"], json!(4096));
        // What was copied is known even if the job is given up.
        session.run("blockdev-mirror", mirror("bitmap", Some("always"), copy));
        session.event("BLOCK_JOB_READY");
        session.run("block-job-cancel", json!({"device": "j", "force": true}));
        session.event("BLOCK_JOB_CANCELLED");
        assert_eq!(bitmap(&mut session, "b")["count"], json!(0), "{copy}");
        // The guest goes over to the copy; the bitmap stays at the source as it was.
        write(13, 6);
        session.run("blockdev-mirror", mirror("bitmap", Some("never"), copy));
        session.event("BLOCK_JOB_READY");
        session.run("block-job-complete", json!({"device": "j"}));
        session.event("BLOCK_JOB_COMPLETED");
        write(15, 7);
        assert_eq!(copied(&target), [(1, 2), (7, 3), (9, 4), (11, 5), (13, 6), (15, 7)], "{copy}");
        assert_eq!(session.query("query-block")[0]["inserted"]["node-name"], "t");
    }
}

#[test]
fn mirror_by_a_bitmap_is_refused_where_it_makes_no_sense() {
    let directory = Directory::new();
    let (_machine, mut session, _guest, _target) = mirrored(&directory);
    let refused = |session: &mut Session, change: &[(&str, Value)]| {
        let mut arguments = mirror("bitmap", Some("never"), "background");
        for (name, value) in change {
            match value {
                Value::Null => drop(arguments.as_object_mut().expect("an object").remove(*name)),
                value => arguments[*name] = value.clone(),
            }
        }
        session.generic_error("blockdev-mirror", arguments)
    };
    assert_eq!(refused(&mut session, &[]), "Bitmap 'b' could not be found");
    session.run(ADD, json!({"node": "d", "name": "b"}));
    for (change, words) in [
        (&[("bitmap", Value::Null), ("bitmap-mode", Value::Null)][..], "Sync mode 'bitmap' not supported"),
        (&[("bitmap", Value::Null)], "Cannot specify bitmap sync mode without a bitmap"),
        (&[("bitmap-mode", Value::Null)], "Bitmap sync mode must be given when providing a bitmap"),
        (&[("sync", json!("full"))], "sync mode 'full' is not compatible with bitmaps"),
        (&[("sync", json!("incremental"))], "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"),
        (&[("granularity", json!(4096))], "granularity cannot be specified when a bitmap is provided"),
    ] {
        assert_eq!(refused(&mut session, change), words);
    }
}
