//! Images that take their time: a server that accepts and says nothing keeps one session waiting, and nobody else.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::{Directory, PATIENCE, Reply, text};

/// A server that says nothing.
struct Silent {
    directory: Directory,
    listener: UnixListener,
}

impl Silent {
    fn new() -> Self {
        let directory = Directory::new();
        let listener = UnixListener::bind(directory.join("nbd")).expect("a socket");
        Self { directory, listener }
    }

    fn socket(&self) -> String {
        text(&self.directory.join("nbd")).to_owned()
    }

    fn node(&self, name: &str) -> Value {
        json!({"driver": "nbd", "node-name": name, "server": {"type": "unix", "path": self.socket()}})
    }

    /// Sends a command of the waiting session; returns once this server has the connection that it makes.
    fn begin(&self, bench: &mut Bench, command: &str, arguments: &Value) -> UnixStream {
        bench.begin(command, arguments);
        self.listener.accept().expect("a connection").0
    }
}

/// The other session changes what it likes, the guest starts and stops.
fn others_go_on(bench: &mut Bench) {
    bench.others_go_on();
    bench.other.run("stop", json!({}));
    assert_eq!(bench.other.status(), "paused");
}

#[test]
fn node_of_a_silent_server_keeps_only_its_session_waiting() {
    let (mut bench, server) = (Bench::new(), Silent::new());
    let connection = server.begin(&mut bench, "blockdev-add", &server.node("slow"));
    // What this session sends now has its turn later.
    bench.waits.send("{\"execute\": \"query-version\", \"id\": \"next\"}\n");
    others_go_on(&mut bench);
    drop(connection);
    let (class, text) = bench.fails();
    assert_eq!((class.as_str(), text.contains("end-of-file")), ("GenericError", true), "{text}");
    assert!(matches!(bench.waits.reply_to(&json!("next")), Reply::Value(_)));
    assert_eq!(bench.other.query("query-named-block-nodes"), json!([]), "nothing is left of it");
}

#[test]
fn back_end_whose_name_was_taken_meanwhile_is_refused() {
    let (mut bench, server) = (Bench::new(), Silent::new());
    let path = bench.machine.path("base.img");
    fs::write(&path, [0; 4096]).expect("a file");
    let image = json!({"driver": "quorum", "id": "b", "vote-threshold": 1, "children": [
        {"driver": "file", "filename": path}, server.node("slow")]});
    let connection = server.begin(&mut bench, "blockdev-add", &json!({"options": image}));
    bench.other.run("blockdev-add", json!({"options": {"driver": "null-co", "id": "b", "size": 4096}}));
    drop(connection);
    let (class, _) = bench.fails();
    assert_eq!(class, "GenericError");
    let drives = bench.other.query("query-block");
    let named = drives.as_array().expect("a list").iter().filter(|drive| drive["device"] == "b").count();
    assert_eq!(named, 1, "{drives}");
}

#[test]
fn medium_of_a_silent_server_leaves_the_old_one_in_place() {
    let (mut bench, server) = (Bench::new(), Silent::new());
    let path = bench.machine.file("old.iso");
    fs::write(&path, [0; 4096]).expect("a file");
    bench.other.run("blockdev-change-medium", json!({"id": "cd0", "filename": path, "format": "raw"}));
    let silent = format!("nbd+unix:///?socket={}", server.socket());
    for command in ["blockdev-change-medium", "change"] {
        let arguments = match command {
            "change" => json!({"device": "cd", "target": silent}),
            _ => json!({"id": "cd0", "filename": silent}),
        };
        let connection = server.begin(&mut bench, command, &arguments);
        others_go_on(&mut bench);
        drop(connection);
        assert_eq!(bench.fails().0, "GenericError", "{command}");
        let drive = &bench.other.query("query-block")[0];
        assert_eq!(drive["inserted"]["file"], path, "{command}: {drive}");
    }
}

#[test]
fn program_ends_while_a_server_is_silent() {
    let (mut bench, server) = (Bench::new(), Silent::new());
    let _connection = server.begin(&mut bench, "blockdev-add", &server.node("slow"));
    bench.other.run("quit", json!({}));
    assert!(bench.machine.wait_exit(PATIENCE).success());
}

#[test]
fn reopened_node_answers_when_it_is_done_and_stays_while_it_waits() {
    let mut bench = Bench::new();
    let path = bench.machine.path("a.img");
    fs::write(&path, [0; 4096]).expect("a file");
    let options = json!({"driver": "file", "node-name": "a", "filename": path});
    bench.other.run("blockdev-add", options.clone());
    let mut changed = options;
    changed["read-only"] = json!(true);
    bench.other.run("blockdev-reopen", json!({"options": [changed]}));
    let nodes = bench.other.query("query-named-block-nodes");
    assert_eq!(nodes[0]["ro"], true, "{nodes}");
    bench.other.run("blockdev-del", json!({"node-name": "a"}));
}
