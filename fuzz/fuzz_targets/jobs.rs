//! Commands about jobs, bitmaps, snapshots and nodes in any order, with names and numbers that fit and others, to the
//! storage daemon: over its monitor, on a chain of three qcow2 images and two disks to copy to.
#![no_main]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use vm::config::MonitorConfig;
use vm::daemon::{DaemonProgram, Step};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const SIZE: u64 = 1 << 20;

const NODES: [&str; 8] = ["base", "mid", "top", "copy", "null", "nobody", "top-file", "new"];
const JOBS: [&str; 4] = ["j0", "j1", "j2", "1 bad"];
const BITMAPS: [&str; 3] = ["b0", "b1", "b2"];
const NUMBERS: [i64; 10] = [0, 1, 3, 512, 4096, 65536, 1 << 20, (1 << 20) + 512, -1, i64::MAX];
const SYNCS: [&str; 5] = ["full", "top", "none", "incremental", "bitmap"];
const BITMAP_MODES: [&str; 3] = ["on-success", "never", "always"];
const ON_ERROR: [&str; 5] = ["report", "ignore", "enospc", "stop", "auto"];
const COPY_MODES: [&str; 2] = ["background", "write-blocking"];
/// Commands with a job's name alone, under `id` and under `device`.
const VERBS: [&str; 6] = ["cancel", "pause", "resume", "complete", "finalize", "dismiss"];

/// The bytes that decide.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Arguments: all of `needed`, and of `optional` those whose bit is set.
    fn arguments(&mut self, needed: &[&str], optional: &[&str]) -> Value {
        let bits = u16::from(self.byte()) | u16::from(self.byte()) << 8;
        let chosen = optional.iter().enumerate().filter(|(index, _)| bits >> index & 1 != 0).map(|(_, name)| name);
        let mut arguments = Map::new();
        for name in needed.iter().chain(chosen) {
            arguments.insert((*name).to_owned(), self.value(name));
        }
        Value::Object(arguments)
    }

    fn value(&mut self, name: &str) -> Value {
        match name {
            "job-id" | "id" => json!(self.one(&JOBS)),
            "name" | "target-bitmap" => json!(self.one(&BITMAPS)),
            "bitmap" => json!(self.one(&BITMAPS)),
            "bitmaps" => {
                let other = json!({"node": self.one(&NODES), "name": self.one(&BITMAPS)});
                json!([self.one(&BITMAPS), other])
            }
            "sync" => json!(self.one(&SYNCS)),
            "bitmap-mode" => json!(self.one(&BITMAP_MODES)),
            "copy-mode" => json!(self.one(&COPY_MODES)),
            "on-error" | "on-source-error" | "on-target-error" => json!(self.one(&ON_ERROR)),
            "speed" | "granularity" | "buf-size" | "size" => json!(self.one(&NUMBERS)),
            "auto-finalize" | "auto-dismiss" | "force" | "persistent" | "disabled" | "compress" | "unmap" => {
                json!(self.byte() & 1 != 0)
            }
            "backing-file" => json!(self.one(&["base.img", "", "/nonexistent"])),
            "snapshot" => json!(self.one(&["s0", "s1", ""])),
            // Nodes under the names that commands have for them.
            _ => json!(self.one(&NODES)),
        }
    }

    fn command(&mut self) -> (String, Value) {
        let job = ["auto-finalize", "auto-dismiss", "speed"];
        let with = |more: &[&'static str]| [&job[..], more].concat();
        let plain = |name: &str| name.to_owned();
        match self.byte() % 24 {
            0 => {
                let optional = with(&["base-node", "bottom", "on-error", "backing-file"]);
                (plain("block-stream"), self.arguments(&["job-id", "device"], &optional))
            }
            1 | 2 => {
                let optional = with(&["base-node", "top-node", "on-error", "backing-file", "filter-node-name"]);
                (plain("block-commit"), self.arguments(&["job-id", "device"], &optional))
            }
            3 | 4 => {
                let more = ["replaces", "granularity", "buf-size", "copy-mode", "on-source-error", "on-target-error"];
                let optional = with(&[&more[..], &["bitmap", "bitmap-mode", "filter-node-name"]].concat());
                (plain("blockdev-mirror"), self.arguments(&["job-id", "device", "target", "sync"], &optional))
            }
            5 | 6 => {
                let more = ["bitmap", "bitmap-mode", "compress", "on-source-error", "on-target-error"];
                let optional = with(&[&more[..], &["filter-node-name"]].concat());
                (plain("blockdev-backup"), self.arguments(&["job-id", "device", "target", "sync"], &optional))
            }
            7 | 8 => {
                let verb = self.one(&VERBS);
                (format!("job-{verb}"), self.arguments(&["id"], &[]))
            }
            9 | 10 => {
                let verb = self.one(&VERBS);
                let optional: &[&str] = if verb == "cancel" { &["force"] } else { &[] };
                let mut arguments = self.arguments(&[], optional);
                let name = if matches!(verb, "finalize" | "dismiss") { "id" } else { "device" };
                arguments[name] = json!(self.one(&JOBS));
                (format!("block-job-{verb}"), arguments)
            }
            11 => {
                let arguments = json!({"device": self.one(&JOBS), "speed": self.one(&NUMBERS)});
                (plain("block-job-set-speed"), arguments)
            }
            12 | 13 => {
                let optional = ["granularity", "persistent", "disabled"];
                (plain("block-dirty-bitmap-add"), self.arguments(&["node", "name"], &optional))
            }
            14 => {
                let verb = self.one(&["remove", "clear", "enable", "disable"]);
                (format!("block-dirty-bitmap-{verb}"), self.arguments(&["node", "name"], &[]))
            }
            15 => {
                let mut arguments = self.arguments(&["node", "bitmaps"], &[]);
                arguments["target"] = json!(self.one(&BITMAPS));
                (plain("block-dirty-bitmap-merge"), arguments)
            }
            16 => (plain("blockdev-snapshot"), self.arguments(&["node", "overlay"], &[])),
            17 => (plain("blockdev-del"), self.arguments(&["node-name"], &[])),
            18 => {
                let arguments = json!({"driver": "qcow2", "node-name": "new", "file": self.one(&NODES),
                                       "backing": self.one(&NODES)});
                (plain("blockdev-add"), arguments)
            }
            19 => {
                let read_only = self.byte() & 1 != 0;
                let node = self.one(&NODES);
                let file = json!(format!("{node}-file"));
                let backing = if self.byte() & 1 != 0 { json!(self.one(&NODES)) } else { Value::Null };
                let options = json!([{"driver": "qcow2", "node-name": node, "file": file, "backing": backing,
                                      "read-only": read_only}]);
                (plain("blockdev-reopen"), json!({"options": options}))
            }
            20 => (plain("block_resize"), self.arguments(&["node-name", "size"], &[])),
            21 => {
                let arguments = json!({"device": self.one(&NODES), "name": self.one(&["s0", "s1", ""])});
                let verb = self.one(&["blockdev-snapshot-internal-sync", "blockdev-snapshot-delete-internal-sync"]);
                (plain(verb), arguments)
            }
            22 => {
                let driver = json!({"driver": "qcow2", "file": format!("{}-file", self.one(&NODES)),
                                    "size": self.one(&NUMBERS)});
                (plain("blockdev-create"), json!({"job-id": self.one(&JOBS), "options": driver}))
            }
            _ => {
                let individual = self.byte() & 1 != 0;
                let mut actions = Vec::new();
                for _ in 0..1 + self.byte() % 4 {
                    let (kind, data) = self.command();
                    actions.push(json!({"type": kind, "data": data}));
                }
                let mode = if individual { "individual" } else { "grouped" };
                (plain("transaction"), json!({"actions": actions, "properties": {"completion-mode": mode}}))
            }
        }
    }
}

/// The daemon and a client of its monitor.
struct World {
    directory: PathBuf,
    template: Vec<u8>,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl World {
    fn new() -> Self {
        let directory = PathBuf::from(format!("/dev/shm/ouzel-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let socket = directory.join("qmp");
        let chardev = format!("socket,id=c,path={},server=on,wait=off", socket.display());
        let chardev = chardev::parse_option(&chardev).expect("a socket");
        let monitor = MonitorConfig { chardev: "c".to_owned(), pretty: false, is_human: false };
        let steps = [Step::Chardev(Box::new(chardev)), Step::Monitor(monitor)];
        let steps = steps.map(|step| (String::new(), step));
        std::thread::spawn(move || DaemonProgram::start(&steps).map_err(|e| e.to_string()).expect("starts").run());
        let deadline = Instant::now() + PATIENCE;
        let writer = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        writer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let reader = BufReader::new(writer.try_clone().expect("a clone"));
        let mut world = Self { directory, template: Vec::new(), reader, writer };
        world.line();
        world.must("qmp_capabilities", json!({}));
        world.make_template();
        world
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(format!("{name}.img")).display().to_string()
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        let len = self.reader.read_line(&mut line).expect("an answer in time");
        assert!(len != 0, "the monitor went away");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Runs a command: what it returns, or why not.
    fn run(&mut self, command: &str, arguments: Value) -> Result<Value, Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{request}").expect("the monitor reads");
        loop {
            let mut answer = self.line();
            if answer.get("event").is_some() {
                continue;
            }
            match answer.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => return Err(answer),
            }
        }
    }

    fn must(&mut self, command: &str, arguments: Value) -> Value {
        self.run(command, arguments).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn make_template(&mut self) {
        let path = self.path("template");
        std::fs::write(&path, []).expect("a file");
        let file = json!({"driver": "file", "node-name": "f", "filename": path});
        self.must("blockdev-add", file);
        let options = json!({"driver": "qcow2", "file": "f", "size": SIZE, "cluster-size": 4096, "preallocation": "falloc"});
        self.must("blockdev-create", json!({"job-id": "c", "options": options}));
        while self.must("query-jobs", json!({}))[0]["status"] != "concluded" {}
        self.must("job-dismiss", json!({"id": "c"}));
        self.must("blockdev-del", json!({"node-name": "f"}));
        self.template = std::fs::read(&path).expect("an image");
    }

    fn set_up(&mut self) {
        let mut backing = Value::Null;
        for name in ["base", "mid", "top", "copy"] {
            let path = self.path(name);
            std::fs::write(&path, &self.template).expect("a file");
            let file = json!({"driver": "file", "filename": path, "node-name": format!("{name}-file")});
            self.must("blockdev-add", file);
            let node = json!({"driver": "qcow2", "node-name": name, "file": format!("{name}-file"), "backing": backing});
            self.must("blockdev-add", node);
            backing = if name == "top" { Value::Null } else { json!(name) };
        }
        self.must("blockdev-add", json!({"driver": "null-co", "node-name": "null", "size": SIZE, "read-zeroes": true}));
    }

    /// Ends every job and removes every node; none may resist.
    fn tidy(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = self.must("query-jobs", json!({}));
            let jobs = jobs.as_array().expect("a list");
            if jobs.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "jobs that do not end: {jobs:?}");
            for job in jobs {
                for command in ["job-resume", "job-cancel", "job-finalize", "job-dismiss"] {
                    let _ = self.run(command, json!({"id": job["id"]}));
                }
            }
        }
        loop {
            let nodes = self.must("query-named-block-nodes", json!({"flat": true}));
            let nodes = nodes.as_array().expect("a list");
            if nodes.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "nodes that do not go: {nodes:?}");
            for node in nodes {
                let _ = self.run("blockdev-del", json!({"node-name": node["node-name"]}));
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let mut world = WORLD.get_or_init(|| Mutex::new(World::new())).lock().unwrap_or_else(PoisonError::into_inner);
    world.set_up();
    let mut choices = Choices(data);
    // Longer stories repeat themselves.
    for _ in 0..64 {
        if choices.is_empty() {
            break;
        }
        let (command, arguments) = choices.command();
        let _ = world.run(&command, arguments);
    }
    world.tidy();
});
