//! The storage daemon: its options in their order, its QMP, and its end.

mod fuse;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
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

/// A daemon that a test does not leave behind when it fails.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("it ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.0.try_wait();
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = self.0.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
            eprintln!("the daemon: {ended:?}, it said:\n{said}");
        }
    }
}

fn start(arguments: &[String]) -> Running {
    Running(Command::new(PROGRAM).args(arguments).stderr(Stdio::piped()).spawn().expect("it starts"))
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
    assert!(daemon.wait().success());
}

#[test]
fn nbd_server_for_machines_is_refused_where_its_address_can_not_be() {
    let (_daemon, mut session, _directory) = plain();
    for (cid, port, text) in [
        ("one", "1", "Failed to parse cid 'one'"),
        ("4294967295", "-1", "Failed to parse port '-1'"),
        // No machine has this number. A host without such sockets says so.
        ("4294967294", "10809", "Failed to bind socket: "),
    ] {
        let address = json!({"type": "vsock", "data": {"cid": cid, "port": port}});
        let reply = session.send("nbd-server-start", &json!({"addr": address}));
        let said = reply["error"]["desc"].as_str().unwrap_or_default();
        assert!(said.starts_with(text), "{reply}");
    }
}

#[test]
fn quit_with_a_job_and_an_export_is_answered_behind_their_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (monitor, nbd) = (path("m"), path("n"));
    let arguments = [
        "--blockdev",
        "null-co,node-name=n0,size=1048576",
        "--blockdev",
        "null-co,node-name=n1,size=1048576",
        "--chardev",
        &format!("socket,id=m,path={monitor},server=on,wait=off"),
        "--monitor",
        "m",
        "--nbd-server",
        &format!("addr.type=unix,addr.path={nbd}"),
        "--export",
        "nbd,id=e0,node-name=n0",
    ];
    let mut daemon = start(&arguments.map(str::to_owned));
    let mut session = Session::connect(&monitor);
    let mirror = json!({"job-id": "j0", "device": "n0", "target": "n1", "sync": "full", "speed": 1});
    session.run("blockdev-mirror", &mirror);
    session.run("quit", &json!({}));
    let mut ends = session.events.iter().map(|event| event["event"].as_str().expect("a name"));
    assert!(ends.clone().any(|name| name == "BLOCK_JOB_CANCELLED"));
    assert!(ends.any(|name| name == "BLOCK_EXPORT_DELETED"));
    assert_eq!(session.lines.read_line(&mut String::new()).expect("the end"), 0, "nothing is behind the reply");
    assert!(daemon.wait().success());
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
    failed(&["--export", "vduse-blk,id=e,node-name=n0"], "does not accept value 'vduse-blk'");
}

/// A daemon with a monitor and nothing else, and its files.
fn plain() -> (Running, Session, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let monitor = directory.path().join("m").to_str().expect("a plain path").to_owned();
    let socket = format!("socket,id=m,path={monitor},server=on,wait=off");
    let daemon = start(&["--chardev", &socket, "--monitor", "m"].map(str::to_owned));
    (daemon, Session::connect(&monitor), directory)
}

impl Session {
    /// Makes an image: what its job failed with.
    fn create(&mut self, options: &Value) -> Option<String> {
        self.run("blockdev-create", &json!({"job-id": "j", "options": options}));
        let jobs = loop {
            let jobs = self.run("query-jobs", &json!({}));
            if jobs[0]["status"] == "concluded" {
                break jobs;
            }
        };
        self.run("job-dismiss", &json!({"id": "j"}));
        jobs[0]["error"].as_str().map(str::to_owned)
    }

    /// The file name of a node.
    fn name(&mut self, node: &str) -> String {
        let nodes = self.run("query-named-block-nodes", &json!({"flat": true}));
        let mut nodes = nodes.as_array().expect("a list").iter();
        let node = nodes.find(|known| known["node-name"] == node).expect("the node");
        node["image"]["filename"].as_str().expect("a name").to_owned()
    }
}

#[test]
fn image_of_an_impossible_size_is_refused_with_the_reason() {
    let (_daemon, mut session, directory) = plain();
    let file = directory.path().join("i").to_str().expect("a plain path").to_owned();
    assert_eq!(session.create(&json!({"driver": "file", "filename": file, "size": 0})), None);
    session.run("blockdev-add", &json!({"driver": "file", "node-name": "n", "filename": file}));
    let negative = "Could not resize image: Image size cannot be negative";
    let too_large = "Could not resize image: Failed to grow the L1 table: File too large";
    for (size, cluster, words) in [
        (1234_u64, 65536, "Image size must be a multiple of 512 bytes"),
        (u64::MAX - 511, 65536, negative),
        (1 << 63, 65536, negative),
        (
            (1 << 63) - 512,
            65536,
            "Could not resize image: offset(9223372036854775296) exceeds maximum(9223372035781033984)",
        ),
        ((1 << 63) - (1 << 30), 65536, too_large),
        (1 << 48, 512, too_large),
    ] {
        let options = json!({"driver": "qcow2", "file": "n", "size": size, "cluster-size": cluster});
        assert_eq!(session.create(&options).as_deref(), Some(words), "{size}");
    }
    session.run("object-add", &json!({"qom-type": "secret", "id": "s", "data": "x"}));
    for size in [u64::MAX - 511, 1 << 63] {
        let options = json!({"driver": "luks", "file": "n", "size": size, "key-secret": "s", "iter-time": 10});
        assert_eq!(session.create(&options).as_deref(), Some("The requested file size is too large"), "{size}");
    }
}

#[test]
fn options_of_new_images_mean_what_they_mean_on_the_command_line() {
    let (_daemon, mut session, directory) = plain();
    let file = directory.path().join("i").to_str().expect("a plain path").to_owned();
    assert_eq!(session.create(&json!({"driver": "file", "filename": file, "size": 0})), None);
    session.run("blockdev-add", &json!({"driver": "file", "node-name": "n", "filename": file}));
    let mut vdi =
        |mode: &str| session.create(&json!({"driver": "vdi", "file": "n", "size": 1 << 20, "preallocation": mode}));
    assert_eq!(vdi("falloc").as_deref(), Some("Preallocation mode not supported for vdi"));
    for (mode, image_type) in [("off", 1), ("metadata", 2)] {
        assert_eq!(vdi(mode), None);
        assert_eq!(std::fs::read(&file).expect("the image")[0x4c], image_type, "{mode}");
    }
    let vmdk = json!({"driver": "vmdk", "file": "n", "size": 1 << 20, "extents": []});
    assert_eq!(session.create(&vmdk), None);
}

#[test]
fn name_of_an_overlay_tells_its_backing_only_where_its_image_names_another() {
    let (_daemon, mut session, directory) = plain();
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (base, top) = (path("base"), path("top"));
    let file = |path: &str| json!({"driver": "file", "filename": path});
    let mut image = |path: &str, backing: Option<&str>| {
        assert_eq!(session.create(&json!({"driver": "file", "filename": path, "size": 0})), None);
        let mut options = json!({"driver": "qcow2", "file": file(path), "size": 1 << 20});
        if let Some(backing) = backing {
            (options["backing-file"], options["backing-fmt"]) = (backing.into(), "qcow2".into());
        }
        assert_eq!(session.create(&options), None);
    };
    image(&base, None);
    // The image may write the name as it likes.
    image(&top, Some(&format!("file:{base}")));
    let top_options = json!({"driver": "qcow2", "node-name": "top", "file": file(&top)});
    session.run("blockdev-add", &top_options);
    assert_eq!(session.name("top"), top);
    let base_options = json!({"driver": "qcow2", "file": file(&base)});
    let mut change = |name: &str| {
        let arguments = json!({"device": "top", "image-node-name": "top", "backing-file": name});
        session.run("change-backing-file", &arguments);
        let name = session.name("top");
        name.strip_prefix("json:").map(|name| serde_json::from_str::<Value>(name).expect("JSON")["backing"].clone())
    };
    assert_eq!(change("null-co://"), Some(base_options.clone()));
    assert_eq!(change(&base), None);
    assert_eq!(change("base"), None, "relative to the overlay");
    // Nobody has opened that name: what it means is not known.
    assert_eq!(change(&format!("file:{base}")), Some(base_options));
    session.run("blockdev-del", &json!({"node-name": "top"}));
    session.run("blockdev-add", &top_options);
    assert_eq!(session.name("top"), top);
    session.run("blockdev-del", &json!({"node-name": "top"}));
    // Without the backing that the image names, and with it again.
    let mut alone = top_options;
    alone["backing"] = Value::Null;
    session.run("blockdev-add", &alone);
    let name = session.name("top");
    let parsed: Value = serde_json::from_str(name.strip_prefix("json:").expect("no plain name")).expect("JSON");
    assert_eq!(parsed, json!({"driver": "qcow2", "file": file(&top), "backing": null}));
    session.run("blockdev-add", &json!({"driver": "qcow2", "node-name": "base", "file": file(&base)}));
    session.run("blockdev-snapshot", &json!({"node": "base", "overlay": "top"}));
    assert!(session.name("top").starts_with("json:"), "the image still spells it in another way");
    session.run("change-backing-file", &json!({"device": "top", "image-node-name": "top", "backing-file": base}));
    assert_eq!(session.name("top"), top);
}

#[test]
fn filter_that_a_job_made_for_itself_is_in_no_name() {
    let (_daemon, mut session, directory) = plain();
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let files = ["base", "mid", "top"].map(|name| json!({"driver": "file", "filename": path(name)}));
    for file in &files {
        let raw = json!({"driver": "file", "filename": file["filename"], "size": 0});
        assert_eq!(session.create(&raw), None);
        assert_eq!(session.create(&json!({"driver": "qcow2", "file": file, "size": 1 << 20})), None);
    }
    let [base, mid, top] = files;
    session.run(
        "blockdev-add",
        &json!({"driver": "qcow2", "node-name": "top", "file": top, "backing":
            {"driver": "qcow2", "node-name": "mid", "file": mid, "backing":
                {"driver": "qcow2", "node-name": "base", "file": base, "backing": {"driver": "null-co"}}}}),
    );
    let base_options = json!({"driver": "qcow2", "file": base, "backing": {"driver": "null-co"}});
    let mid_options = json!({"driver": "qcow2", "file": mid, "backing": base_options});
    for filter in [None, Some("filter")] {
        let mut commit = json!({"job-id": "j", "device": "top", "top-node": "mid", "base-node": "base", "speed": 1,
                                "auto-finalize": false});
        let mut below = mid_options.clone();
        if let Some(filter) = filter {
            commit["filter-node-name"] = filter.into();
            below = json!({"driver": "commit_top", "backing": below});
        }
        session.run("block-commit", &commit);
        let name = session.name("top");
        let parsed: Value = serde_json::from_str(name.strip_prefix("json:").expect("no plain name")).expect("JSON");
        assert_eq!(parsed["backing"], below);
        session.run("job-cancel", &json!({"id": "j"}));
        while session.run("query-jobs", &json!({})) != json!([]) {}
    }
}

/// Whether it appears in time.
fn wait_for(path: &str) {
    while !std::path::Path::new(path).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn export_over_vhost_user_is_listed_and_deleted_by_its_mode() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (monitor, first, second) = (path("m"), path("first"), path("second"));
    let arguments = [
        "--blockdev",
        "null-co,node-name=n0,size=1048576",
        "--blockdev",
        "null-co,node-name=n1,size=1048576,read-only=on",
        "--chardev",
        &format!("socket,id=m,path={monitor},server=on,wait=off"),
        "--monitor",
        "m",
        "--export",
        &format!("vhost-user-blk,id=e0,node-name=n0,writable=on,addr.type=unix,addr.path={first}"),
    ];
    let mut daemon = start(&arguments.map(str::to_owned));
    let mut session = Session::connect(&monitor);
    let add = |id: &str, rest: Value| {
        let mut arguments = json!({"type": "vhost-user-blk", "id": id, "node-name": "n0",
                                   "addr": {"type": "unix", "path": second}});
        for (name, value) in rest.as_object().expect("an object") {
            arguments[name] = value.clone();
        }
        arguments
    };
    for (rest, words) in [
        (json!({"num-queues": 0}), "num-queues must be greater than 0"),
        (
            json!({"logical-block-size": 100}),
            "Property e1.logical-block-size doesn't take value 100 (minimum: 512, maximum: 2097152)",
        ),
        (
            json!({"logical-block-size": 513}),
            "Property e1.logical-block-size doesn't take value '513', it's not a power of 2",
        ),
        (
            json!({"addr": {"type": "inet", "host": "", "port": "0"}}),
            "Only socket address types 'unix' and 'fd' are supported",
        ),
        (json!({"node-name": "n1", "writable": true}), "Cannot export read-only node as writable"),
        (json!({"node-name": "nowhere"}), "Cannot find device='' nor node-name='nowhere'"),
        (json!({"id": "e0"}), "Block export id 'e0' is already in use"),
        (json!({"iothread": "t"}), "iothread \"t\" not found"),
    ] {
        let reply = session.send("block-export-add", &add("e1", rest));
        assert_eq!(reply["error"]["desc"], words);
    }
    session.run("block-export-add", &add("e1", json!({"logical-block-size": 4096, "num-queues": 4})));
    let entry = |id: &str| json!({"id": id, "type": "vhost-user-blk", "node-name": "n0", "shutting-down": false});
    assert_eq!(session.run("query-block-exports", &json!({})), json!([entry("e1"), entry("e0")]));
    // The answer to a request says that the front end is served.
    let mut front = UnixStream::connect(&first).expect("it listens");
    let request = [17_u32, 1, 0].map(u32::to_le_bytes).concat();
    front.write_all(&request).expect("asked");
    std::io::Read::read_exact(&mut front, &mut [0; 20]).expect("the number of queues");
    let refused = session.send("block-export-del", &json!({"id": "e0"}));
    assert_eq!(refused["error"]["desc"], "export 'e0' still in use");
    session.run("block-export-del", &json!({"id": "e1"}));
    assert_eq!(session.events.pop().expect("an event")["data"], json!({"id": "e1"}));
    assert!(!std::path::Path::new(&second).exists());
    session.run("block-export-del", &json!({"id": "e0", "mode": "hard"}));
    while session.events.is_empty() {
        session.run("query-block-exports", &json!({}));
    }
    assert_eq!(session.events.pop().expect("an event")["data"], json!({"id": "e0"}));
    session.run("blockdev-del", &json!({"node-name": "n0"}));
    session.run("quit", &json!({}));
    assert!(daemon.wait().success());
}

/// QEMU with Debian's kernel, whose disk is ours: a file system is made, filled, and read again; twice, with the second
/// guest after the first.
#[test]
#[ignore = "peer: qemu-system-x86_64 and Debian's kernel"]
fn peer_qemu_boots_guests_that_fill_a_disk_over_vhost_user() {
    let guests = std::env::var_os("OUZEL_GUESTS").expect("OUZEL_GUESTS is set, see `cargo xtask guest`");
    let guest = |name: &str| std::path::Path::new(&guests).join(name).to_str().expect("a plain path").to_owned();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (socket, image, monitor) = (path("v"), path("disk.raw"), path("m"));
    std::fs::File::create(&image).expect("a file").set_len(256 << 20).expect("its size");
    let arguments = [
        "--blockdev",
        &format!("file,node-name=f,filename={image},discard=unmap"),
        "--object",
        "iothread,id=t",
        "--chardev",
        &format!("socket,id=m,path={monitor},server=on,wait=off"),
        "--monitor",
        "m",
        "--export",
        &format!(
            "vhost-user-blk,id=e,node-name=f,writable=on,iothread=t,num-queues=2,addr.type=unix,addr.path={socket}"
        ),
    ];
    let mut daemon = start(&arguments.map(str::to_owned));
    wait_for(&socket);
    for _ in 0..2 {
        let output = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot", "-smp", "2"])
            .args(["-machine", "pc,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=256M,share=on"])
            .args(["-m", "256", "-chardev", &format!("socket,id=v,path={socket}")])
            .args(["-device", "vhost-user-blk-pci,chardev=v,num-queues=2"])
            .args(["-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append"])
            .arg("console=ttyS0 quiet ouzel.run=virtio,disk-write,poweroff")
            .output()
            .expect("QEMU starts");
        let (serial, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{errors}\n{serial}");
        let value =
            |mark: &str| serial.lines().find_map(|line| line.strip_prefix(mark)).map(|text| text.trim().to_owned());
        let written = value("DISK-WRITTEN").unwrap_or_else(|| panic!("the disk was not written:\n{serial}\n{errors}"));
        assert_eq!(written.len(), 32);
        assert_eq!(value("DISK-FILE 7"), Some(written), "{serial}");
    }
    let mut session = Session::connect(&monitor);
    session.run("block-export-del", &json!({"id": "e", "mode": "hard"}));
    session.run("quit", &json!({}));
    assert!(daemon.wait().success());
}
