//! Images whose server stops answering: closing, resizing and flushing them keeps one session waiting and nobody else,
//! and a processor that has started an IDE request goes on.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::guest::{self, Guest};
use crate::support::{Directory, PATIENCE, qcow2_header_v3, text};

/// What the test and the server's threads share.
struct Shared {
    image: Mutex<Vec<u8>>,
    mute: Mutex<bool>,
    changed: Condvar,
}

/// A version 3 qcow2 image of 1 MiB, with room in its file.
fn qcow2_image() -> Vec<u8> {
    let mut image = qcow2_header_v3();
    image.resize(4 << 20, 0);
    image
}

/// An NBD server (old style) of one image, which falls mute when it is told to.
struct Server {
    directory: Directory,
    shared: Arc<Shared>,
    /// The types of requests that came while it was mute.
    waiting: Receiver<u16>,
}

impl Server {
    fn new(image: Vec<u8>) -> Self {
        let directory = Directory::new();
        let listener = UnixListener::bind(directory.join("nbd")).expect("a socket");
        let shared = Arc::new(Shared { image: Mutex::new(image), mute: Mutex::new(false), changed: Condvar::new() });
        let (tell, waiting) = channel();
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tell) = (Arc::clone(&for_thread), tell.clone());
                std::thread::spawn(move || serve(stream, &shared, &tell));
            }
        });
        Self { directory, shared, waiting }
    }

    fn of_qcow2() -> Self {
        Self::new(qcow2_image())
    }

    fn socket(&self) -> String {
        text(&self.directory.join("nbd")).to_owned()
    }

    fn node(&self, name: &str) -> Value {
        json!({"driver": "nbd", "node-name": name, "server": {"type": "unix", "path": self.socket()}})
    }

    fn set_mute(&self, mute: bool) {
        *self.shared.mute.lock().expect("a flag") = mute;
        self.shared.changed.notify_all();
    }

    /// The type of the next request that gets no answer.
    fn next_unanswered(&self) -> u16 {
        self.waiting.recv_timeout(PATIENCE).expect("a request")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.set_mute(false);
    }
}

fn serve(mut stream: UnixStream, shared: &Shared, tell: &Sender<u16>) {
    let mut hello = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
    hello.extend((shared.image.lock().expect("an image").len() as u64).to_be_bytes());
    // There are flags, and it takes flushes.
    hello.extend([0, 0, 0, 5]);
    hello.extend([0; 124]);
    if stream.write_all(&hello).is_err() {
        return;
    }
    let mut request = [0; 28];
    while stream.read_exact(&mut request).is_ok() {
        let kind = u16::from_be_bytes([request[6], request[7]]);
        let number = |at: usize| u64::from_be_bytes(request[at..at + 8].try_into().expect("eight bytes"));
        let (offset, len) = (number(16) as usize, (number(20) & 0xffff_ffff) as usize);
        let mut data = vec![0; if kind == 1 { len } else { 0 }];
        if kind == 2 || stream.read_exact(&mut data).is_err() {
            return;
        }
        let mut mute = shared.mute.lock().expect("a flag");
        if *mute {
            let _ = tell.send(kind);
        }
        while *mute {
            mute = shared.changed.wait(mute).expect("a flag");
        }
        drop(mute);
        let mut image = shared.image.lock().expect("an image");
        let mut reply = 0x6744_6698_u32.to_be_bytes().to_vec();
        reply.extend([0; 4]);
        reply.extend(&request[8..16]);
        match kind {
            0 => reply.extend(&image[offset..offset + len]),
            1 => image[offset..offset + len].copy_from_slice(&data),
            _ => {}
        }
        drop(image);
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// A bitmap that is stored when the image is closed.
fn add_bitmap(bench: &mut Bench, node: &str) {
    bench.other.run("block-dirty-bitmap-add", json!({"node": node, "name": "b", "persistent": true}));
}

/// Adds the server's image as the node `a`.
fn add_image(bench: &mut Bench, server: &Server) {
    bench.other.run("blockdev-add", json!({"driver": "qcow2", "node-name": "a", "file": server.node("below")}));
}

/// Deletes the server's image, whose last writes the server gets when it is mute.
fn begin_deletion(bench: &mut Bench, server: &Server) {
    add_image(bench, server);
    add_bitmap(bench, "a");
    server.set_mute(true);
    bench.begin("blockdev-del", &json!({"node-name": "a"}));
    server.next_unanswered();
}

#[test]
fn node_that_is_deleted_has_no_name_any_more_while_its_server_is_mute() {
    let (mut bench, server) = (Bench::new(), Server::of_qcow2());
    begin_deletion(&mut bench, &server);
    bench.others_go_on();
    let error = bench.other.generic_error("blockdev-del", json!({"node-name": "a"}));
    assert_eq!(error, "Failed to find node with node-name='a'");
    let nodes = bench.other.query("query-named-block-nodes");
    assert!(nodes.as_array().expect("a list").iter().all(|node| node["node-name"] != "a"), "{nodes}");
    bench.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "a", "size": 4096}));
    server.set_mute(false);
    bench.succeeds();
    bench.other.run("blockdev-del", json!({"node-name": "a"}));
    assert_eq!(bench.other.query("query-named-block-nodes"), json!([]));
}

#[test]
fn program_ends_when_a_deleted_node_has_written_its_last() {
    let (mut bench, server) = (Bench::new(), Server::of_qcow2());
    begin_deletion(&mut bench, &server);
    bench.other.run("quit", json!({}));
    server.set_mute(false);
    assert!(bench.machine.wait_exit(PATIENCE).success());
    let image = server.shared.image.lock().expect("an image");
    let extensions = &image[104..512];
    assert!(extensions.windows(4).any(|magic| magic == [0x23, 0x85, 0x28, 0x75]), "the bitmap is stored");
}

#[test]
fn medium_of_a_mute_server_goes_while_others_work() {
    for command in ["eject", "blockdev-change-medium"] {
        let (mut bench, server) = (Bench::new(), Server::of_qcow2());
        let medium = format!("nbd+unix:///?socket={}", server.socket());
        let change = json!({"id": "cd0", "filename": medium, "format": "qcow2", "read-only-mode": "read-write"});
        bench.other.run("blockdev-change-medium", change);
        add_bitmap(&mut bench, "cd");
        server.set_mute(true);
        let next = bench.machine.path("next.iso");
        std::fs::write(&next, [0; 4096]).expect("a file");
        let arguments = match command {
            "eject" => json!({"device": "cd", "force": true}),
            _ => json!({"id": "cd0", "filename": next, "format": "raw", "force": true, "read-only-mode": "read-only"}),
        };
        bench.begin(command, &arguments);
        server.next_unanswered();
        bench.others_go_on();
        server.set_mute(false);
        bench.succeeds();
        let drive = &bench.other.query("query-block")[0];
        match command {
            "eject" => assert!(drive.get("inserted").is_none(), "{drive}"),
            _ => assert_eq!(drive["inserted"]["file"], json!(next), "{drive}"),
        }
    }
}

#[test]
fn image_of_a_mute_server_gets_its_size_when_it_answers() {
    let (mut bench, server) = (Bench::new(), Server::of_qcow2());
    add_image(&mut bench, &server);
    server.set_mute(true);
    bench.begin("block_resize", &json!({"node-name": "a", "size": 2 << 20}));
    server.next_unanswered();
    bench.others_go_on();
    let error = bench.other.generic_error("blockdev-del", json!({"node-name": "a"}));
    assert!(error.contains("in use") || error.contains("busy"), "{error}");
    server.set_mute(false);
    bench.succeeds();
    let nodes = bench.other.query("query-named-block-nodes");
    let size = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "a");
    assert_eq!(size.expect("the node")["image"]["virtual-size"], 2 << 20);
    bench.other.run("blockdev-del", json!({"node-name": "a"}));
}

/// A machine that runs, with an IDE disk on the server's image; the test is its guest.
fn with_ide_disk(server: &Server) -> (Bench, Guest) {
    let drive = format!("if=none,id=d,file=nbd+unix:///?socket={},format=raw", server.socket());
    let mut bench = Bench::of(guest::setup().args(["-drive", &drive, "-device", "ide-hd,drive=d,bus=ide.0"]));
    let guest = Guest::of(&mut bench.machine);
    (bench, guest)
}

/// Starts to write (0x30) or read (0x20) the first sector.
fn start_ide(guest: &mut Guest, command: u8) {
    for (port, value) in [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 0), (0x1f4, 0), (0x1f5, 0), (0x1f7, u64::from(command))] {
        guest.out('b', port, value);
    }
    if command == 0x30 {
        for _ in 0..256 {
            guest.out('w', 0x1f0, 0x5a5a);
        }
    }
}

fn ide_status(guest: &mut Guest) -> u64 {
    guest.number("inb 0x1f7")
}

#[test]
fn processor_goes_on_while_an_ide_disk_reads_from_a_mute_server() {
    let server = Server::new(vec![0x77; 1 << 20]);
    let (mut bench, mut guest) = with_ide_disk(&server);
    server.set_mute(true);
    start_ide(&mut guest, 0x20);
    assert_eq!(server.next_unanswered(), 0, "the read is with the server");
    assert_eq!(ide_status(&mut guest) & 0x88, 0x80, "busy, no data");
    bench.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "quick", "size": 4096}));
    assert_eq!(bench.other.status(), "running");
    server.set_mute(false);
    bench.machine.wait_for("the data", PATIENCE, |_| (ide_status(&mut guest) & 0x88 == 0x08).then_some(()));
    assert_eq!(guest.number("inw 0x1f0"), 0x7777);
}

#[test]
fn stop_answers_when_the_disks_are_flushed_and_keeps_only_its_session_waiting() {
    let server = Server::new(vec![0; 1 << 20]);
    let (mut bench, mut guest) = with_ide_disk(&server);
    start_ide(&mut guest, 0x30);
    bench.machine.wait_for("the end of the write", PATIENCE, |_| (ide_status(&mut guest) & 0x88 == 0).then_some(()));
    server.set_mute(true);
    bench.begin("stop", &json!({}));
    assert_eq!(server.next_unanswered(), 3, "a flush");
    assert_eq!(bench.other.status(), "paused");
    bench.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "quick", "size": 4096}));
    bench.other.run("cont", json!({}));
    assert_eq!(bench.other.status(), "running");
    server.set_mute(false);
    bench.succeeds();
    assert_eq!(bench.other.status(), "running", "who came later has the last word");
}

/// Starts a snapshot of a disk that was written, whose flush the server does not answer.
fn begin_snapshot(server: &Server) -> Bench {
    let (mut bench, mut guest) = with_ide_disk(server);
    start_ide(&mut guest, 0x30);
    bench.machine.wait_for("the end of the write", PATIENCE, |_| (ide_status(&mut guest) & 0x88 == 0).then_some(()));
    server.set_mute(true);
    let overlay = bench.machine.path("overlay.qcow2");
    let snapshot = json!({"device": "d", "snapshot-file": overlay});
    let add = json!({"node": "d", "name": "b"});
    let actions = json!([
        {"type": "block-dirty-bitmap-add", "data": add},
        {"type": "blockdev-snapshot-sync", "data": snapshot},
    ]);
    bench.begin("transaction", &json!({"actions": actions}));
    assert_eq!(server.next_unanswered(), 3, "a flush");
    bench
}

#[test]
fn transaction_waits_for_a_mute_server_and_keeps_only_its_session_waiting() {
    let server = Server::new(vec![0; 1 << 20]);
    let mut bench = begin_snapshot(&server);
    bench.others_go_on();
    server.set_mute(false);
    bench.succeeds();
    let drive = &bench.other.query("query-block")[0]["inserted"];
    assert_eq!(drive["file"], json!(bench.machine.path("overlay.qcow2")), "{drive}");
}

#[test]
fn program_ends_while_a_transaction_waits_for_a_server_that_answers_late() {
    let server = Server::new(vec![0; 1 << 20]);
    let mut bench = begin_snapshot(&server);
    bench.other.run("quit", json!({}));
    server.set_mute(false);
    assert!(bench.machine.wait_exit(PATIENCE).success());
}

#[test]
fn quorum_gets_and_loses_a_child_when_its_mute_server_answers() {
    let server = Server::new(vec![0; 1 << 20]);
    let empty = |name: &str| json!({"driver": "null-co", "node-name": name, "size": 1 << 20});
    let quorum = json!({
        "driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": [server.node("slow"), empty("fast")],
    });
    let setup = guest::setup().args(["-blockdev", &quorum.to_string(), "-device", "ide-hd,drive=q,bus=ide.0"]);
    let mut bench = Bench::of(setup);
    let mut guest = Guest::of(&mut bench.machine);
    bench.other.run("blockdev-add", empty("third"));
    for change in [json!({"parent": "q", "node": "third"}), json!({"parent": "q", "child": "children.2"})] {
        server.set_mute(true);
        start_ide(&mut guest, 0x30);
        assert_eq!(server.next_unanswered(), 1, "a write");
        bench.begin("x-blockdev-change", &change);
        bench.others_go_on();
        server.set_mute(false);
        bench.succeeds();
        let ended = |_: &mut _| (ide_status(&mut guest) & 0x88 == 0).then_some(());
        bench.machine.wait_for("the end of the write", PATIENCE, ended);
    }
    bench.other.run("blockdev-del", json!({"node-name": "third"}));
}

#[test]
fn backing_file_of_an_image_has_its_new_name_when_the_mute_server_answers() {
    let (mut bench, server) = (Bench::new(), Server::of_qcow2());
    bench.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "base", "size": 1 << 20}));
    let image = json!({"driver": "qcow2", "node-name": "a", "file": server.node("below"), "backing": "base"});
    bench.other.run("blockdev-add", image);
    server.set_mute(true);
    let change = json!({"device": "a", "image-node-name": "a", "backing-file": "other.img"});
    bench.begin("change-backing-file", &change);
    server.next_unanswered();
    bench.others_go_on();
    server.set_mute(false);
    bench.succeeds();
    bench.other.run("blockdev-del", json!({"node-name": "a"}));
    let stored = server.shared.image.lock().expect("an image");
    assert!(stored[..65536].windows(9).any(|name| name == b"other.img"), "the name is in the header");
}

#[test]
fn human_commit_waits_for_a_mute_server_and_keeps_only_its_session_waiting() {
    let (mut bench, server) = (Bench::new(), Server::new(vec![0; 1 << 20]));
    let path = bench.machine.path("top.qcow2");
    std::fs::write(&path, qcow2_image()).expect("a file");
    bench.other.run("blockdev-add", server.node("base"));
    let file = json!({"driver": "file", "filename": path});
    let image = json!({"driver": "qcow2", "node-name": "top", "file": file, "backing": "base"});
    bench.other.run("blockdev-add", image);
    bench.other.run("device_add", json!({"driver": "virtio-blk", "drive": "top", "id": "disk"}));
    let write = "qemu-io -d /machine/peripheral/disk/virtio-backend \"write -P 0x5a 64k 64k\"";
    bench.other.run("human-monitor-command", json!({"command-line": write}));
    server.set_mute(true);
    bench.begin("human-monitor-command", &json!({"command-line": "commit all"}));
    assert_eq!(server.next_unanswered(), 1, "a write");

    // Changes of other nodes don't wait for the copy, and those of its own nodes are refused.
    bench.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "n", "size": 4096}));
    let actions = json!([{"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "b"}}]);
    bench.other.run("transaction", json!({"actions": actions}));
    for node in ["top", "base"] {
        let refused = bench.other.generic_error("block_resize", json!({"node-name": node, "size": 2 << 20}));
        assert!(refused.contains("in use"), "{refused}");
    }
    server.set_mute(false);

    bench.succeeds();
    let stored = server.shared.image.lock().expect("an image");
    assert!(stored[64 << 10..128 << 10].iter().all(|byte| *byte == 0x5a), "the data is in the base");
}
