//! Character devices: which there are, and what a guest's serial port hears of those that live in the program itself. The
//! serial port is driven over qtest, and a firmware of one instruction keeps out of the way.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Directory, Machine, PATIENCE, Session, Setup, ouzel, qemu};

/// Names of what is listed under `name` of an answer.
fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<_> =
        list.as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// What `-chardev help` lists.
fn help(program: PathBuf) -> Vec<String> {
    let output = Command::new(program).args(["-chardev", "help"]).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    assert_eq!(lines.next().map(str::trim_end), Some("Available chardev backend types:"));
    let mut names: Vec<_> = lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    names.sort();
    names
}

#[test]
fn character_devices_that_are_listed_are_those_of_the_schema() {
    let mut machine = Setup::new().args(["-S", "-machine", "none"]).start();
    let mut session = machine.connect(0);
    let told = names(&session.query("query-chardev-backends"));
    assert_eq!(told, help(ouzel()));
    let schema = session.query("query-qmp-schema");
    let entries = schema.as_array().expect("a list");
    let find = |name: &Value| entries.iter().find(|entry| entry["name"] == *name).expect("an entry");
    let member = |of: &Value, name: &str| {
        let members = of["members"].as_array().expect("members");
        find(&members.iter().find(|member| member["name"] == name).expect("a member")["type"])
    };
    let command = find(&json!("chardev-add"));
    let kinds = member(member(find(&command["arg-type"]), "backend"), "type");
    assert_eq!(names(&kinds["members"]), told);
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_has_the_same_character_devices() {
    let (ours, theirs) = (help(ouzel()), help(qemu()));
    let without = |all: &[String], less: &[String]| -> Vec<String> {
        all.iter().filter(|name| !less.contains(name)).cloned().collect()
    };
    // QEMU 10.0 has hubs.
    assert_eq!(without(&ours, &theirs), if theirs.contains(&"hub".to_owned()) { vec![] } else { vec!["hub"] });
    let absent = ["braille", "dbus", "parallel", "qemu-vdagent", "spiceport", "spicevmc", "testdev"];
    for name in without(&theirs, &ours) {
        assert!(absent.contains(&name.as_str()), "{name} is missing");
    }
}

/// What a program that cannot start says.
fn refusal(arguments: &[&str]) -> String {
    let output = Command::new(ouzel()).args(["-display", "none", "-S"]).args(arguments).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn files_that_are_no_ports_are_refused_or_taken_as_qemu_does() {
    let said = refusal(&["-chardev", "parport,id=p,path=/dev/null"]);
    assert!(said.contains("not a parallel port: Inappropriate ioctl for device"), "{said}");
    let said = refusal(&["-chardev", "parallel,id=p,path=/nonexistent"]);
    assert!(said.contains("Could not open '/nonexistent': No such file or directory"), "{said}");
    let mut machine =
        Setup::new().args(["-S", "-chardev", "tty,id=old,path=/dev/null", "-serial", "/dev/null"]).start();
    let mut session = machine.connect(0);
    let chardevs = session.query("query-chardev");
    for label in ["old", "serial0"] {
        let is_it = |one: &Value| one["label"] == label && one["filename"] == "serial";
        assert!(chardevs.as_array().expect("a list").iter().any(is_it), "{chardevs}");
    }
    let warning = "-chardev tty,id=old,path=/dev/null: warning: The alias 'tty' is deprecated, use 'serial' instead";
    assert!(machine.stderr().contains(warning), "{}", machine.stderr());
}

/// A guest's first serial port.
struct SerialPort {
    qtest: UnixStream,
    session: Session,
    machine: Machine,
    _firmware: Directory,
}

const DATA: u16 = 0x3f8;
const LINE_CONTROL: u16 = 0x3fb;
const LINE_STATUS: u16 = 0x3fd;

impl SerialPort {
    fn new(program: PathBuf, arguments: &[&str]) -> Self {
        let firmware = Directory::new();
        // HLT, with interrupts off.
        let mut rom = vec![0xf4; 1 << 16];
        rom[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
        let path = firmware.join("halt.bin");
        std::fs::write(&path, rom).expect("a file");
        let mut machine = Setup::of(program)
            .args(["-accel", "tcg", "-bios", &path.to_string_lossy()])
            .args(["-qtest", "unix:{dir}qtest,server=on,wait=off"])
            .args(arguments)
            .start();
        let session = machine.connect(0);
        let path = machine.path("qtest");
        let qtest = machine.wait_for("the socket", PATIENCE, |_| UnixStream::connect(&path).ok());
        qtest.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self { qtest, session, machine, _firmware: firmware }
    }

    fn ask(&mut self, request: &str) -> String {
        self.qtest.write_all(format!("{request}\n").as_bytes()).expect("qtest takes it");
        loop {
            let mut answer = Vec::new();
            while !answer.ends_with(b"\n") {
                let mut byte = [0];
                self.qtest.read_exact(&mut byte).expect("an answer");
                answer.push(byte[0]);
            }
            let answer = String::from_utf8(answer).expect("text");
            if let Some(answer) = answer.trim_end().strip_prefix("OK") {
                return answer.trim_start().to_owned();
            }
            assert!(answer.starts_with("IRQ"), "{request}: {answer}");
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        self.ask(&format!("outb {port:#x} {value:#x}"));
    }

    fn read(&mut self, port: u16) -> u8 {
        let answer = self.ask(&format!("inb {port:#x}"));
        u8::from_str_radix(answer.trim_start_matches("0x"), 16).expect("a byte")
    }

    fn wait_status(&mut self, bit: u8) {
        let deadline = Instant::now() + PATIENCE;
        while self.read(LINE_STATUS) & bit == 0 {
            assert!(Instant::now() < deadline, "{}", self.machine.story());
        }
    }

    /// Sets the speed: 115200 over `divisor`.
    fn set_speed(&mut self, divisor: u8) {
        self.write(LINE_CONTROL, 0x83);
        self.write(DATA, divisor);
        self.write(DATA + 1, 0);
        self.write(LINE_CONTROL, 0x03);
    }

    fn say(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.wait_status(0x20);
            self.write(DATA, *byte);
        }
    }

    fn hear(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| {
                self.wait_status(1);
                self.read(DATA)
            })
            .collect()
    }

    fn point(&mut self, events: &Value) {
        self.session.run("input-send-event", json!({ "events": events }));
    }
}

fn at(axis: &str, value: i64) -> Value {
    json!({"type": "abs", "data": {"axis": axis, "value": value}})
}

fn button(button: &str, down: bool) -> Value {
    json!({"type": "btn", "data": {"button": button, "down": down}})
}

/// All that a guest hears of a tablet that it asks this and that while the pointer moves.
fn tablet(program: PathBuf) -> Vec<Vec<u8>> {
    let mut port = SerialPort::new(program, &["-chardev", "wctablet,id=pen", "-serial", "chardev:pen"]);
    let mice = port.session.query("query-mice");
    let all = mice.as_array().expect("a list");
    let pen = all.iter().find(|mouse| mouse["name"] == "QEMU Wacom Pen Tablet").expect("the tablet");
    assert_eq!((&pen["current"], &pen["absolute"]), (&json!(true), &json!(true)), "{mice}");
    let mut heard = Vec::new();
    // Before its speed is set the line is dead.
    port.say(b"~#RE\r");
    port.set_speed(12);
    let commands: [(&[u8], usize); 9] = [
        (b"~#", 18),
        (b"RE\r", 8),
        (b"\r\n@RE\r", 8),
        (b"RE\n", 8),
        (b"TSa\r", 7),
        (b"TS\xff\r", 7),
        (b"TE\rRE\r", 8),
        (b"REX\rRE\r", 8),
        (b"ST\r", 7),
    ];
    for (command, answer) in commands {
        port.say(command);
        heard.push(port.hear(answer));
    }
    for events in [
        json!([at("x", 16_000), at("y", 32_767)]),
        json!([button("left", true)]),
        json!([at("x", 32_767), at("y", 0)]),
        json!([button("left", false), button("right", true)]),
        json!([at("y", 12_345)]),
    ] {
        port.point(&events);
        heard.push(port.hear(7));
    }
    port.say(b"SP\r");
    port.point(&json!([at("x", 1)]));
    port.say(b"RE\r");
    heard.push(port.hear(8));
    port.say(b"ST\r");
    heard.push(port.hear(7));
    // Another speed, and everything is as in the beginning.
    port.set_speed(6);
    port.say(b"~#");
    port.set_speed(12);
    port.point(&json!([at("x", 20_000)]));
    port.say(b"RE\r");
    heard.push(port.hear(8));
    port.say(b"ST\r");
    heard.push(port.hear(7));
    assert_eq!(port.read(LINE_STATUS) & 1, 0, "there is more to hear");
    heard
}

#[test]
fn tablet_answers_and_tells_where_the_pen_is() {
    let [model, settings] = [&b"~#CT-0045R,V1.3-5,"[..], b"96,N,8,0"];
    let expected: [&[u8]; 18] = [
        model,
        settings,
        settings,
        settings,
        &[0xa3, 0x7e, 0x36, 0x03, 0x7f, 0x7f, 0],
        &[0xa3, 0x7f, 0x28, 0x03, 0x7f, 0x7f, 0],
        settings,
        settings,
        &[0xe0, 0, 0, 0, 0, 0, 0],
        &[0xe0, 0x13, 0x1b, 0, 0x1d, 0x3e, 0],
        &[0xa0, 0x13, 0x1b, 0, 0x1d, 0x3e, 0],
        &[0xa0, 0x27, 0x2c, 0, 0, 0, 0],
        &[0xe0, 0x27, 0x2c, 0, 0, 0, 0],
        &[0xe0, 0x27, 0x2c, 0, 0x0b, 0x0e, 0],
        settings,
        &[0xe0, 0, 0, 0, 0x0b, 0x0e, 0],
        settings,
        &[0xe0, 0x18, 0x02, 0, 0x0b, 0x0e, 0],
    ];
    assert_eq!(tablet(ouzel()), expected);
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_has_a_tablet_that_sends_the_same_bytes() {
    assert_eq!(tablet(ouzel()), tablet(qemu()));
}

#[test]
fn tablet_goes_with_its_character_device() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let count = |session: &mut Session| session.query("query-mice").as_array().expect("a list").len();
    let before = count(&mut session);
    let add = |session: &mut Session, how: &str, kind: &str| {
        session.run(how, json!({"id": "pen", "backend": {"type": kind, "data": {}}}));
    };
    for _ in 0..3 {
        add(&mut session, "chardev-add", "wctablet");
        assert_eq!(count(&mut session), before + 1);
        session.run("chardev-remove", json!({"id": "pen"}));
        assert_eq!(count(&mut session), before);
    }
    add(&mut session, "chardev-add", "wctablet");
    add(&mut session, "chardev-change", "null");
    machine.wait_for("the tablet to go", PATIENCE, |_| (count(&mut session) == before).then_some(()));
}

#[test]
fn hub_gives_output_to_all_and_takes_input_from_any() {
    let mut port = SerialPort::new(
        ouzel(),
        &[
            "-chardev",
            "ringbuf,id=a",
            "-chardev",
            "socket,id=b,path={dir}b,server=on,wait=off",
            "-chardev",
            "hub,id=h,chardevs.0=a,chardevs.1=b",
            "-serial",
            "chardev:h",
        ],
    );
    let mut other = UnixStream::connect(port.machine.path("b")).expect("a listener");
    other.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    other.write_all(b"input").expect("sent");
    assert_eq!(port.hear(5), b"input");
    port.say(b"output");
    let mut received = [0; 6];
    other.read_exact(&mut received).expect("all of it");
    assert_eq!(&received, b"output");
    assert_eq!(port.session.run("ringbuf-read", json!({"device": "a", "size": 100})), json!("output"));
    let chardevs = port.session.query("query-chardev");
    let find = |label: &str| chardevs.as_array().expect("a list").iter().find(|one| one["label"] == label).cloned();
    assert_eq!(find("h"), Some(json!({"label": "h", "filename": "hub", "frontend-open": true})));
    assert_eq!(find("a").expect("the ring buffer")["frontend-open"], json!(true));
}

#[test]
fn hub_says_what_it_cannot_be_made_of() {
    let mut machine = Setup::new()
        .args(["-S", "-chardev", "null,id=a", "-chardev", "null,id=m,mux=on", "-chardev", "hub,id=h,chardevs.0=a"])
        .start();
    let mut session = machine.connect(0);
    let mut refused = |id: &str, chardevs: Value| {
        let backend = json!({"type": "hub", "data": {"chardevs": chardevs}});
        session.generic_error("chardev-add", json!({"id": id, "backend": backend}))
    };
    let stacked = |name: &str| {
        format!(
            "Failed to add chardev 'x': hub: multiplexers and hub devices can't be stacked, check chardev '{name}', \
             chardev should not be a hub device or have 'mux=on' enabled"
        )
    };
    assert_eq!(refused("x", json!(["h"])), stacked("h"));
    assert_eq!(refused("x", json!(["m"])), stacked("m"));
    assert_eq!(refused("x", json!(["gone"])), "Failed to add chardev 'x': hub: chardev can't be found by id 'gone'");
    assert_eq!(refused("x", json!([])), "Failed to add chardev 'x': hub: 'chardevs' list is not defined");
    assert_eq!(refused("x", json!(["a"])), "Failed to add chardev 'x': Device 'a' is in use");
    for id in ["a", "h"] {
        let nothing = json!({"type": "null", "data": {}});
        let answer = session.call(&json!({"execute": "chardev-change", "arguments": {"id": id, "backend": nothing}}));
        assert_eq!(format!("{answer:?}").contains("For mux or hub device hotswap is not supported yet"), id == "h");
    }
    assert_eq!(session.generic_error("chardev-remove", json!({"id": "a"})), "Chardev 'a' is busy");
    session.run("chardev-remove", json!({"id": "h"}));
    session.run("chardev-remove", json!({"id": "a"}));
}
