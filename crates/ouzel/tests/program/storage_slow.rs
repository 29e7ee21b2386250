//! Images that take their time: a server that accepts and says nothing keeps one session waiting, and nobody else.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Reply, Session, Setup};

/// A machine with a drive for removable media, two sessions, and a server that says nothing.
struct Bench {
    machine: Machine,
    waits: Session,
    other: Session,
    server: UnixListener,
}

impl Bench {
    fn new() -> Self {
        let arguments = ["-S", "-m", "64", "-drive", "if=none,id=cd", "-device", "ide-cd,drive=cd,id=cd0"];
        let mut machine = Setup::new().args(arguments).monitors(2).start();
        let (waits, other) = (machine.connect(0), machine.connect(1));
        let server = UnixListener::bind(machine.path("nbd")).expect("a socket");
        Self { machine, waits, other, server }
    }

    fn silent_node(&self, name: &str) -> Value {
        json!({"driver": "nbd", "node-name": name, "server": {"type": "unix", "path": self.machine.file("nbd")}})
    }

    /// Sends a command of the waiting session; returns once the server has the connection that it makes.
    fn begin(&mut self, command: &str, arguments: &Value) -> UnixStream {
        self.waits.send(format!("{}\n", json!({"execute": command, "arguments": arguments, "id": "slow"})));
        self.server.accept().expect("a connection").0
    }

    /// The other session changes what it likes, the guest starts and stops.
    fn others_go_on(&mut self) {
        self.other.run("cont", json!({}));
        self.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "quick", "size": 4096}));
        self.other.run("blockdev-del", json!({"node-name": "quick"}));
        self.other.run("stop", json!({}));
        assert_eq!(self.other.status(), "paused");
    }

    /// The answer that the waiting session gets.
    fn end(&mut self) -> (String, String) {
        match self.waits.reply_to(&json!("slow")) {
            Reply::Error(class, text) => (class, text),
            Reply::Value(value) => panic!("it succeeded: {value}"),
        }
    }
}

#[test]
fn node_of_a_silent_server_keeps_only_its_session_waiting() {
    let mut bench = Bench::new();
    let connection = bench.begin("blockdev-add", &bench.silent_node("slow"));
    // What this session sends now has its turn later.
    bench.waits.send("{\"execute\": \"query-version\", \"id\": \"next\"}\n");
    bench.others_go_on();
    drop(connection);
    let (class, text) = bench.end();
    assert_eq!((class.as_str(), text.contains("end-of-file")), ("GenericError", true), "{text}");
    assert!(matches!(bench.waits.reply_to(&json!("next")), Reply::Value(_)));
    assert_eq!(bench.other.query("query-named-block-nodes"), json!([]), "nothing is left of it");
}

#[test]
fn back_end_whose_name_was_taken_meanwhile_is_refused() {
    let mut bench = Bench::new();
    let path = bench.machine.path("base.img");
    fs::write(&path, [0; 4096]).expect("a file");
    let image = json!({"driver": "quorum", "id": "b", "vote-threshold": 1, "children": [
        {"driver": "file", "filename": path}, bench.silent_node("slow")]});
    let connection = bench.begin("blockdev-add", &json!({"options": image}));
    bench.other.run("blockdev-add", json!({"options": {"driver": "null-co", "id": "b", "size": 4096}}));
    drop(connection);
    let (class, _) = bench.end();
    assert_eq!(class, "GenericError");
    let drives = bench.other.query("query-block");
    let named = drives.as_array().expect("a list").iter().filter(|drive| drive["device"] == "b").count();
    assert_eq!(named, 1, "{drives}");
}

#[test]
fn medium_of_a_silent_server_leaves_the_old_one_in_place() {
    let mut bench = Bench::new();
    let path = bench.machine.file("old.iso");
    fs::write(&path, [0; 4096]).expect("a file");
    bench.other.run("blockdev-change-medium", json!({"id": "cd0", "filename": path, "format": "raw"}));
    let silent = format!("nbd+unix:///?socket={}", bench.machine.file("nbd"));
    for command in ["blockdev-change-medium", "change"] {
        let arguments = match command {
            "change" => json!({"device": "cd", "target": silent}),
            _ => json!({"id": "cd0", "filename": silent}),
        };
        let connection = bench.begin(command, &arguments);
        bench.others_go_on();
        drop(connection);
        assert_eq!(bench.end().0, "GenericError", "{command}");
        let drive = &bench.other.query("query-block")[0];
        assert_eq!(drive["inserted"]["file"], path, "{command}: {drive}");
    }
}

#[test]
fn program_ends_while_a_server_is_silent() {
    let mut bench = Bench::new();
    let _connection = bench.begin("blockdev-add", &bench.silent_node("slow"));
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
