//! The storage daemon: its options in their order, its QMP, and its end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ouzel-storage");

struct Session {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Session {
    fn connect(path: &str) -> Self {
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let lines = BufReader::new(socket.try_clone().expect("a clone"));
        let mut session = Self { socket, lines, events: Vec::new() };
        assert!(session.line().get("QMP").is_some());
        session.run("qmp_capabilities", &json!({}));
        session
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Value {
        writeln!(self.socket, "{}", json!({"execute": command, "arguments": arguments})).expect("sent");
        loop {
            let message = self.line();
            if message.get("event").is_none() {
                return message;
            }
            self.events.push(message);
        }
    }

    fn run(&mut self, command: &str, arguments: &Value) -> Value {
        let reply = self.send(command, arguments);
        reply.get("return").unwrap_or_else(|| panic!("{command}: {reply}")).clone()
    }
}

fn start(arguments: &[String]) -> Child {
    Command::new(PROGRAM).args(arguments).stderr(Stdio::piped()).spawn().expect("it starts")
}

#[test]
fn the_daemon_exports_by_options_and_by_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (monitor, nbd) = (path("m"), path("n"));
    let arguments = [
        "--blockdev",
        "null-co,node-name=n0,size=1048576",
        "--chardev",
        &format!("socket,id=m,path={monitor},server=on,wait=off"),
        "--monitor",
        "m",
        "--nbd-server",
        &format!("addr.type=unix,addr.path={nbd}"),
        "--export",
        "nbd,id=e0,node-name=n0,writable=on",
    ];
    let mut daemon = start(&arguments.map(str::to_owned));
    let mut session = Session::connect(&monitor);
    let commands = session.run("query-commands", &json!({}));
    let has = |name: &str| commands.as_array().is_some_and(|list| list.iter().any(|entry| entry["name"] == name));
    assert!(has("blockdev-add") && has("block-export-add") && has("quit"));
    assert!(!has("system_reset") && !has("query-cpus-fast") && !has("cont"));
    let exports = session.run("query-block-exports", &json!({}));
    assert_eq!(exports, json!([{"id": "e0", "type": "nbd", "node-name": "n0", "shutting-down": false}]));
    let add = json!({"type": "nbd", "id": "e1", "node-name": "n0", "name": "other"});
    session.run("block-export-add", &add);
    assert_eq!(session.send("blockdev-del", &json!({"node-name": "n0"}))["error"]["class"], "GenericError");
    let held = UnixStream::connect(&nbd).expect("the server listens");
    session.run("block-export-del", &json!({"id": "e0", "mode": "hard"}));
    assert_eq!(session.events.pop().expect("an event")["data"], json!({"id": "e0"}));
    session.run("nbd-server-stop", &json!({}));
    session.run("blockdev-del", &json!({"node-name": "n0"}));
    drop(held);
    session.run("quit", &json!({}));
    assert!(daemon.wait().expect("it ends").success());
}

#[test]
fn options_are_done_in_their_order() {
    let failed = |arguments: &[&str], message: &str| {
        let output = Command::new(PROGRAM).args(arguments).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(message), "{arguments:?}: {text}");
    };
    let node = ["--blockdev", "null-co,node-name=n0,size=1048576"];
    let export = ["--export", "nbd,id=e,node-name=n0"];
    failed(&[export, node].concat(), "Cannot find device='' nor node-name='n0'");
    failed(&[node, export].concat(), "NBD server not running");
    failed(&["--blockdev", "null-co,size=1048576"], "'node-name' must be specified for the root node");
    failed(&["--monitor", "m"], "--monitor m: Chardev 'm' not found");
    failed(&["x"], "Unexpected argument");
    failed(&["--export", "fuse,id=e,node-name=n0,mountpoint=/x"], "does not accept value 'fuse'");
}
