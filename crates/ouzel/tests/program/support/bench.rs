//! Images that take their time: a command that waits for one keeps its session waiting, and nobody else.

use serde_json::{Value, json};

use super::{Machine, Reply, Session, Setup};

/// A machine and two sessions: what one of them waits for must not keep the other one.
pub struct Bench {
    pub machine: Machine,
    pub waits: Session,
    pub other: Session,
}

impl Bench {
    /// Of a machine that has a drive for removable media, `cd`, and does not run.
    pub fn new() -> Self {
        let arguments = ["-S", "-m", "64", "-drive", "if=none,id=cd", "-device", "ide-cd,drive=cd,id=cd0"];
        Self::of(Setup::new().args(arguments))
    }

    pub fn of(setup: Setup) -> Self {
        let mut machine = setup.monitors(2).start();
        let (waits, other) = (machine.connect(0), machine.connect(1));
        Self { machine, waits, other }
    }

    /// Sends a command of the waiting session.
    pub fn begin(&mut self, command: &str, arguments: &Value) {
        self.waits.send(format!("{}\n", json!({"execute": command, "arguments": arguments, "id": "slow"})));
    }

    /// The other session changes what it likes, the guest starts.
    pub fn others_go_on(&mut self) {
        self.other.run("cont", json!({}));
        self.other.run("blockdev-add", json!({"driver": "null-co", "node-name": "quick", "size": 4096}));
        self.other.run("blockdev-del", json!({"node-name": "quick"}));
        assert_eq!(self.other.status(), "running");
    }

    /// The waiting session's command has succeeded.
    pub fn succeeds(&mut self) {
        match self.waits.reply_to(&json!("slow")) {
            Reply::Value(_) => {}
            Reply::Error(class, text) => panic!("{class}: {text}"),
        }
    }

    /// The waiting session's command has failed: the error's class and text.
    pub fn fails(&mut self) -> (String, String) {
        match self.waits.reply_to(&json!("slow")) {
            Reply::Error(class, text) => (class, text),
            Reply::Value(value) => panic!("it succeeded: {value}"),
        }
    }
}
