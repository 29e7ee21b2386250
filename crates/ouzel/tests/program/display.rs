//! Screens and input from outside: pictures compared with QEMU's, keys and movements as a driver reads them, and the
//! qtest protocol, by which these tests play the guest.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Reply, Session, Setup, ouzel, qemu};

/// A client of the qtest server.
pub struct Qtest(pub Session);

impl Qtest {
    /// One request and its answer; reports of interrupts come before it.
    fn ask(&mut self, request: &str) -> (String, Vec<String>) {
        self.0.send(format!("{request}\n"));
        let mut reports = Vec::new();
        loop {
            let line = self.0.line().trim_end().to_owned();
            if !line.starts_with("IRQ ") {
                return (line, reports);
            }
            reports.push(line);
        }
    }

    /// A request that must succeed; returns what follows its OK.
    fn ok(&mut self, request: &str) -> String {
        let (answer, _) = self.ask(request);
        let rest = answer.strip_prefix("OK").unwrap_or_else(|| panic!("{request}: {answer}"));
        rest.trim_start().to_owned()
    }

    fn out(&mut self, port: u16, value: u8) {
        self.ok(&format!("outb {port:#x} {value:#x}"));
    }

    fn input(&mut self, port: u16) -> u8 {
        let answer = self.ok(&format!("inb {port:#x}"));
        u8::from_str_radix(answer.trim_start_matches("0x"), 16).expect("a byte")
    }

    fn set(&mut self, port: u16, index: u8, value: u8) {
        self.out(port, index);
        self.out(port + 1, value);
    }

    pub fn vbe(&mut self, index: u16, value: u16) {
        self.ok(&format!("outw 0x1ce {index:#x}"));
        self.ok(&format!("outw 0x1cf {value:#x}"));
    }

    fn attribute(&mut self, index: u8, value: u8) {
        self.input(0x3da);
        self.out(0x3c0, index);
        self.out(0x3c0, value);
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        for (index, piece) in bytes.chunks(4096).enumerate() {
            let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            let address = address + 4096 * index as u64;
            self.ok(&format!("write {address:#x} {:#x} 0x{digits}", piece.len()));
        }
    }

    /// Everything that the keyboard controller has to say.
    fn scancodes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.input(0x64) & 1 != 0 {
            bytes.push(self.input(0x60));
        }
        bytes
    }

    fn is_output_full(&mut self) -> bool {
        self.input(0x64) & 1 != 0
    }

    /// Registers of a mode, a palette, and the screen on.
    pub fn mode(&mut self, mode: &Mode) {
        self.vbe(4, 0);
        self.out(0x3c2, 0x67);
        for (index, value) in (0..).zip(mode.sequencer) {
            self.set(0x3c4, index, value);
        }
        for (index, value) in mode.crtc {
            self.set(0x3d4, *index, *value);
        }
        for (index, value) in (0..).zip(mode.graphics) {
            self.set(0x3ce, index, value);
        }
        self.out(0x3c8, 0);
        for index in 0..=255_u8 {
            for value in [index & 0x3f, index.wrapping_mul(7) & 0x3f, index >> 2] {
                self.out(0x3c9, value);
            }
        }
        for index in 0..16 {
            self.attribute(index, index);
        }
        self.attribute(0x10, mode.attribute);
        self.attribute(0x12, 0x0f);
        self.attribute(0x14, 0);
        self.input(0x3da);
        self.out(0x3c0, 0x20);
    }
}

pub struct Mode {
    sequencer: [u8; 5],
    crtc: &'static [(u8, u8)],
    graphics: [u8; 9],
    attribute: u8,
}

pub const TEXT: Mode = Mode {
    sequencer: [3, 0, 3, 0, 2],
    crtc: &[
        (0x11, 0x0e),
        (1, 79),
        (6, 0xbf),
        (7, 0x1f),
        (9, 0x4f),
        (0x0a, 0x0d),
        (0x0b, 0x0e),
        (0x0c, 0),
        (0x0d, 0),
        (0x0e, 0),
        (0x0f, 5),
        (0x12, 0x8f),
        (0x13, 0x28),
        (0x17, 0xa3),
        (0x18, 0xff),
    ],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff],
    attribute: 0x04,
};
const EIGHT_DOTS: Mode = Mode { sequencer: [3, 1, 3, 5, 2], ..TEXT };
const SPLIT: &[(u8, u8)] = &[
    (0x11, 0x0e),
    (1, 39),
    (6, 0xbf),
    (7, 0x0f),
    (9, 0x07),
    (0x0a, 0x20),
    (0x0c, 0),
    (0x0d, 40),
    (0x12, 0x8f),
    (0x13, 0x14),
    (0x17, 0xa3),
    (0x18, 100),
];
const WIDE: Mode = Mode { sequencer: [3, 9, 3, 0, 2], crtc: SPLIT, ..TEXT };
const PLANAR: Mode = Mode {
    sequencer: [3, 1, 0x0f, 0, 6],
    crtc: &[
        (0x11, 0x0e),
        (1, 79),
        (6, 0x0b),
        (7, 0x3e),
        (9, 0x40),
        (0x0c, 0),
        (0x0d, 0),
        (0x12, 0xdf),
        (0x13, 0x28),
        (0x17, 0xe3),
        (0x18, 0xff),
    ],
    graphics: [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff],
    attribute: 0x01,
};
const EGA: Mode = Mode {
    sequencer: [3, 9, 0x0f, 0, 6],
    crtc: &[
        (0x11, 0x0e),
        (1, 39),
        (6, 0xbf),
        (7, 0x1f),
        (9, 0xc0),
        (0x0c, 0),
        (0x0d, 0),
        (0x12, 0x8f),
        (0x13, 0x14),
        (0x17, 0xe3),
        (0x18, 0xff),
    ],
    ..PLANAR
};
const CHAIN_4: Mode = Mode {
    sequencer: [3, 1, 0x0f, 0, 0x0e],
    crtc: &[
        (0x11, 0x0e),
        (1, 79),
        (6, 0xbf),
        (7, 0x1f),
        (9, 0x41),
        (0x0c, 0),
        (0x0d, 0),
        (0x12, 0x8f),
        (0x13, 0x28),
        (0x14, 0x40),
        (0x17, 0xa3),
        (0x18, 0xff),
    ],
    graphics: [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff],
    attribute: 0x41,
};
const CGA: Mode = Mode {
    sequencer: [3, 9, 3, 0, 2],
    crtc: &[
        (0x11, 0x0e),
        (1, 39),
        (6, 0xbf),
        (7, 0x1f),
        (9, 0xc1),
        (0x0c, 0),
        (0x0d, 0),
        (0x12, 0x8f),
        (0x13, 0x14),
        (0x17, 0xa2),
        (0x18, 0xff),
    ],
    graphics: [0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff],
    attribute: 0x01,
};

/// Bytes without a pattern.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A machine at rest with a standard VGA, and its qtest client.
fn at_rest(setup: Setup) -> (Machine, Session, Qtest) {
    let arguments =
        ["-S", "-m", "32", "-vga", "std", "-qtest-log", "none", "-qtest", "unix:{dir}/qtest,server=on,wait=off"];
    let mut machine = setup.args(arguments).start();
    let session = machine.connect(0);
    let path = machine.file("qtest");
    let qtest = Qtest(machine.connect_unix(&path));
    (machine, session, qtest)
}

/// The fonts, by writes to plane 2 alone.
fn load_fonts(qtest: &mut Qtest) {
    for (index, value) in [(2, 4), (4, 6)] {
        qtest.set(0x3c4, index, value);
    }
    for (index, value) in [(5, 0), (6, 0x04), (8, 0xff), (3, 0), (1, 0)] {
        qtest.set(0x3ce, index, value);
    }
    qtest.write(0xa_0000, &noise(0x4000, 7));
}

/// Draws the picture of that name.
fn draw(qtest: &mut Qtest, name: &str) {
    let text = |qtest: &mut Qtest, mode: &Mode| {
        qtest.mode(&PLANAR);
        load_fonts(qtest);
        qtest.mode(mode);
        let cells: Vec<u8> = noise(8000, 3).chunks(2).flat_map(|cell| [cell[0], cell[1] & 0x7f]).collect();
        qtest.write(0xb_8000, &cells);
    };
    match name {
        "text" => text(qtest, &TEXT),
        "eight dots, two fonts" => text(qtest, &EIGHT_DOTS),
        "double width, split" => text(qtest, &WIDE),
        "planar" | "ega" => {
            qtest.mode(if name == "ega" { &EGA } else { &PLANAR });
            for plane in 0..4_u8 {
                qtest.set(0x3c4, 2, 1 << plane);
                qtest.write(0xa_0000, &noise(38400, 10 + u32::from(plane)));
            }
        }
        "write modes" => {
            qtest.mode(&PLANAR);
            qtest.write(0xa_0000, &noise(4096, 1));
            for step in 0..64_u8 {
                let registers = noise(9, u32::from(step));
                for (index, value) in (0..).zip(&registers) {
                    // The mode stays planar.
                    let value = if index == 5 {
                        value & 0x0b
                    } else if index == 6 {
                        5
                    } else {
                        *value
                    };
                    qtest.set(0x3ce, index, value);
                }
                qtest.set(0x3c4, 2, registers[4]);
                let at = 0xa_0000 + 37 * u64::from(step);
                qtest.ok(&format!("readb {at:#x}"));
                qtest.write(at + 11, &noise(97, u32::from(step) + 99));
            }
        }
        "chain 4" => {
            qtest.mode(&CHAIN_4);
            qtest.write(0xa_0000, &noise(64000, 5));
        }
        "cga" => {
            qtest.mode(&CGA);
            qtest.write(0xb_8000, &noise(0x4000, 6));
        }
        depth => {
            let depth: u16 = depth.parse().expect("a depth");
            qtest.mode(&TEXT);
            let registers = [(4, 0), (1, 200), (2, 120), (3, depth), (4, 1), (6, 256), (8, 16), (9, 2)];
            for (index, value) in registers {
                qtest.vbe(index, value);
            }
            let bytes = if depth == 4 { 1 } else { usize::from(depth.div_ceil(8)) };
            let picture = noise(256 * 124 * bytes, u32::from(depth));
            for (bank, piece) in (0..).zip(picture.chunks(0x1_0000)) {
                qtest.vbe(5, bank);
                qtest.write(0xa_0000, piece);
            }
        }
    }
}

const PICTURES: [&str; 14] = [
    "text",
    "eight dots, two fonts",
    "double width, split",
    "planar",
    "ega",
    "write modes",
    "chain 4",
    "cga",
    "4",
    "8",
    "15",
    "16",
    "24",
    "32",
];

fn dump(session: &mut Session, path: &str) -> Vec<u8> {
    session.run("screendump", json!({ "filename": path }));
    fs::read(Path::new(path)).expect("the picture")
}

#[test]
#[ignore = "needs QEMU"]
fn peer_qemu_shows_the_same_pixels_in_each_mode() {
    let (ours, mut our_session, mut our_guest) = at_rest(Setup::new().args(["-accel", "tcg"]));
    let (theirs, mut their_session, mut their_guest) = at_rest(Setup::of(qemu()).args(["-accel", "tcg"]));
    for name in PICTURES {
        draw(&mut our_guest, name);
        draw(&mut their_guest, name);
        let (our_picture, their_picture) =
            (dump(&mut our_session, &ours.file("picture")), dump(&mut their_session, &theirs.file("picture")));
        let header = |picture: &[u8]| String::from_utf8_lossy(&picture[..15]).into_owned();
        assert_eq!(header(&our_picture), header(&their_picture), "{name}");
        let differs = our_picture.iter().zip(&their_picture).filter(|(ours, theirs)| ours != theirs).count();
        let first = our_picture.iter().zip(&their_picture).position(|(ours, theirs)| ours != theirs);
        assert_eq!(differs, 0, "{name}: {differs} of {} bytes, the first at {first:?}", our_picture.len());
        let colours: std::collections::BTreeSet<_> = our_picture[15..].chunks(3).collect();
        assert!(colours.len() > 4, "{name} shows something");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn peer_qemu_has_the_same_monitor_description_and_registers() {
    let read = |setup: Setup| {
        let (_machine, _session, mut guest) = at_rest(setup.args(["-accel", "tcg"]));
        // The card's registers at 0xfe000000: slot 2 of a pc.
        guest.ok("outl 0xcf8 0x80001018");
        guest.ok("outl 0xcfc 0xfe000000");
        guest.ok("outl 0xcf8 0x80001004");
        guest.ok("outw 0xcfc 0x3");
        let edid = guest.ok("read 0xfe000000 0x180");
        let config: Vec<String> = (0..64)
            .filter(|register| ![4, 6].contains(register))
            .map(|register| {
                guest.ok(&format!("outl 0xcf8 {:#x}", 0x8000_1000_u32 + 4 * register));
                guest.ok("inl 0xcfc")
            })
            .collect();
        let vbe: Vec<String> =
            (0..11).map(|index| guest.ok(&format!("readw {:#x}", 0xfe00_0500_u32 + 2 * index))).collect();
        (edid, config, vbe, guest.ok("readl 0xfe000600"), guest.ok("readl 0xfe000604"))
    };
    assert_eq!(read(Setup::new()), read(Setup::of(qemu())));
}

/// A machine whose guest is the test: it runs, and nothing executes.
fn driven() -> (Machine, Session, Qtest) {
    let arguments = [
        "-accel",
        "qtest",
        "-vga",
        "std",
        "-device",
        "secondary-vga,id=video0",
        "-m",
        "32",
        "-qtest-log",
        "none",
        "-qtest",
        "unix:{dir}/qtest,server=on,wait=off",
    ];
    let mut machine = Setup::new().args(arguments).start();
    let session = machine.connect(0);
    let path = machine.file("qtest");
    let qtest = Qtest(machine.connect_unix(&path));
    (machine, session, qtest)
}

fn keys(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "type": "qcode", "data": name })).collect()
}

#[test]
fn sent_keys_arrive_as_scancodes_and_are_held() {
    let (_machine, mut session, mut guest) = driven();
    session.run("send-key", json!({ "keys": keys(&["ctrl", "alt", "delete"]) }));
    let mut codes = guest.scancodes();
    for _ in 0..6 {
        guest.ok("clock_step 100000000");
        codes.extend(guest.scancodes());
    }
    assert_eq!(codes, [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14]);
    // By number, held for 5 ms, translated as firmware has it.
    guest.out(0x64, 0x60);
    guest.out(0x60, 0x41);
    let keys = json!([{ "type": "number", "data": 0x1e }, { "type": "number", "data": 0xc8 }]);
    session.run("send-key", json!({ "keys": keys, "hold-time": 5 }));
    assert_eq!(guest.scancodes(), [0x1e]);
    guest.ok("clock_step 4999999");
    assert!(!guest.is_output_full());
    guest.ok("clock_step 1");
    assert_eq!(guest.scancodes(), [0xe0, 0x48]);
    guest.ok("clock_step 10000000");
    assert_eq!(guest.scancodes(), [0xe0, 0xc8, 0x9e]);
}

#[test]
fn sent_events_reach_keyboard_and_mouse_in_one_report() {
    let (_machine, mut session, mut guest) = driven();
    let mice = json!([{ "name": "QEMU PS/2 Mouse", "index": 2, "current": true, "absolute": false }]);
    assert_eq!(session.query("query-mice"), mice);
    guest.out(0x64, 0xa8);
    for byte in [0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf4] {
        guest.out(0x64, 0xd4);
        guest.out(0x60, byte);
        assert_eq!(guest.scancodes(), [0xfa]);
    }
    let button = |name: &str, down: bool| json!({ "type": "btn", "data": { "down": down, "button": name } });
    let moved = |axis: &str, by: i64| json!({ "type": "rel", "data": { "axis": axis, "value": by } });
    let events = json!([button("left", true), moved("x", 5), moved("y", 3), button("wheel-down", true)]);
    session.run("input-send-event", json!({ "events": events }));
    assert_eq!(guest.scancodes(), [0x29, 5, 0xfd, 1]);
    session.run("input-send-event", json!({ "device": "video0", "events": [button("left", false)] }));
    assert_eq!(guest.scancodes(), [0x08, 0, 0, 0]);
    let key = |down: bool| json!({ "type": "key", "data": { "down": down, "key": { "type": "qcode", "data": "a" } } });
    session.run("input-send-event", json!({ "events": [key(true), key(false)] }));
    assert_eq!(guest.scancodes(), [0x1c, 0xf0, 0x1c]);

    let absolute = json!({ "events": [{ "type": "abs", "data": { "axis": "x", "value": 1 } }] });
    let refused = |text: &str| Reply::Error("GenericError".to_owned(), text.to_owned());
    let reply = session.call(&json!({ "execute": "input-send-event", "arguments": absolute }));
    assert_eq!(reply, refused("Input handler not found for event type abs"));
    let nobody = json!({ "device": "nobody", "events": [] });
    let reply = session.call(&json!({ "execute": "input-send-event", "arguments": nobody }));
    assert_eq!(reply, Reply::Error("DeviceNotFound".to_owned(), "Device 'nobody' not found".to_owned()));
    session.run("stop", json!({}));
    let reply = session.call(&json!({ "execute": "input-send-event", "arguments": { "events": [] } }));
    assert_eq!(reply, refused("VM not running"));
    session.run("send-key", json!({ "keys": keys(&["b"]) }));
    assert_eq!(guest.scancodes(), [0_u8; 0], "nobody hears it");
}

#[test]
fn input_devices_of_a_screen_hear_what_is_sent_to_it() {
    let send = |session: &mut Session, device: &Value| {
        let mut arguments = json!({ "events": [{ "type": "abs", "data": { "axis": "x", "value": 1 } }] });
        if !device.is_null() {
            (arguments["device"], arguments["head"]) = (device["id"].clone(), device["head"].clone());
        }
        let reply = session.call(&json!({ "execute": "input-send-event", "arguments": arguments }));
        let Reply::Error(_, text) = reply else { return true };
        assert_eq!(text, "Input handler not found for event type abs");
        false
    };
    let (card, second) = (json!({ "id": "card", "head": 0 }), json!({ "id": "card", "head": 1 }));
    for (tablet, heard) in [
        ("usb-tablet", [true, true, true]),
        ("usb-tablet,display=card", [false, true, false]),
        ("virtio-tablet-pci,display=card,head=1", [false, false, true]),
        ("usb-tablet,display=nothing", [true, true, true]),
    ] {
        let cards = ["-usb", "-device", "VGA", "-device", "virtio-gpu-pci,id=card,max_outputs=2"];
        let arguments = ["-accel", "qtest", "-m", "32", "-nodefaults", "-device", tablet];
        let mut machine = Setup::new().args(cards).args(arguments).start();
        let mut session = machine.connect(0);
        let found = [&Value::Null, &card, &second].map(|device| send(&mut session, device));
        assert_eq!(found, heard, "{tablet}");
    }
}

#[test]
fn screens_of_all_devices_are_dumped_in_both_formats() {
    let (machine, mut session, mut guest) = driven();
    draw(&mut guest, "text");
    let ppm = dump(&mut session, &machine.file("first.ppm"));
    assert!(ppm.starts_with(b"P6\n720 400\n255\n") && ppm.len() == 15 + 720 * 400 * 3);
    let png = machine.file("second.png");
    session.run("screendump", json!({ "filename": png, "device": "video0", "head": 0, "format": "png" }));
    let png = fs::read(png).expect("the picture");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png[16..24] == [0, 0, 2, 128, 0, 0, 1, 224], "640 × 480");
    for (arguments, class, text) in [
        (json!({ "head": 1 }), "GenericError", "'head' must be specified together with 'device'"),
        (
            json!({ "device": "video0", "head": 1 }),
            "GenericError",
            "Device 'video0' (head 1) is not bound to a QemuConsole",
        ),
        (json!({ "device": "x" }), "DeviceNotFound", "Device 'x' not found"),
        (json!({ "format": "gif" }), "GenericError", "Parameter 'format' does not accept value 'gif'"),
        (
            json!({ "filename": "/nowhere/x" }),
            "GenericError",
            "failed to open file '/nowhere/x': No such file or directory",
        ),
    ] {
        let mut arguments = arguments;
        if arguments["filename"].is_null() {
            arguments["filename"] = json!(machine.file("none"));
        }
        let reply = session.call(&json!({ "execute": "screendump", "arguments": arguments }));
        assert_eq!(reply, Reply::Error(class.to_owned(), text.to_owned()));
    }
    let mut blind = Setup::new().args(["-accel", "qtest", "-m", "32"]).start();
    let mut session = blind.connect(0);
    let arguments = json!({ "filename": machine.file("none") });
    let reply = session.call(&json!({ "execute": "screendump", "arguments": arguments }));
    let text = "There is no console to take a screendump from";
    assert_eq!(reply, Reply::Error("GenericError".to_owned(), text.to_owned()));
}

#[test]
fn qtest_moves_memory_ports_lines_and_time() {
    let (_machine, _session, mut guest) = driven();
    assert_eq!(guest.ok("endianness"), "little");
    guest.ok("writeq 0x1000 0x1122334455667788");
    assert_eq!(guest.ok("readw 0x1002"), "0x0000000000005566");
    guest.ok("write 0x1000 4 0xab");
    assert_eq!(guest.ok("read 0x1000 5"), "0xab00000044");
    guest.ok("b64write 0x1001 3 AQID");
    assert_eq!(guest.ok("b64read 0x1000 4"), "qwECAw==");
    guest.ok("memset 0x1000 2 0x5a");
    assert_eq!(guest.ok("readl 0x1000"), "0x0000000003025a5a");
    // The interval timer: 1000 ticks of its clock, and both edges of its line.
    for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
        guest.out(port, value);
    }
    assert_eq!(guest.ask("irq_intercept_in nobody").0, "FAIL Unknown device");
    guest.ok("irq_intercept_in ioapic");
    guest.ok("irq_intercept_in ioapic");
    let (answer, reports) = guest.ask("clock_step 900000");
    assert_eq!(answer, "OK 900000");
    assert!(reports.contains(&"IRQ lower 0".to_owned()) && reports.contains(&"IRQ raise 0".to_owned()), "{reports:?}");
    guest.out(0x43, 0x30);
    assert_eq!(guest.ask("set_irq_in ioapic unnamed-gpio-in 5 1"), ("OK".to_owned(), vec!["IRQ raise 5".to_owned()]));
    assert_eq!(guest.ok("clock_set 5000000"), "5000000");
    assert_eq!(guest.ok("clock_set 1"), "5000000");
    assert_eq!(guest.ask("nonsense 1").0, "FAIL Unknown command 'nonsense'");
    assert_eq!(guest.ask("write 0 1 0x").0, "ERR invalid argument size");
    assert!(guest.ask("read 0 0x7fffffffffffffff").0.starts_with("ERR "));
    assert!(guest.ask("inb x").0.starts_with("ERR "));
    assert_eq!(guest.ask("").0, "FAIL Unknown command ''");
}

/// A boot sector that greets in text mode, without a cursor, and echoes keys.
fn echoing_sector() -> Vec<u8> {
    let code = [
        &[0x31, 0xc0, 0x8e, 0xd8, 0xfc][..],
        // Mode 3; no cursor.
        &[0xb8, 0x03, 0x00, 0xcd, 0x10, 0xb4, 0x01, 0xb9, 0x00, 0x20, 0xcd, 0x10],
        // The text, until its zero.
        &[0xbe, 0x2f, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x09, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, 0xeb, 0xf2],
        // Keys, one after the other.
        &[0x31, 0xc0, 0xcd, 0x16, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, 0xeb, 0xf3],
        b"Hello, screen: \0",
    ];
    let mut sector = code.concat();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// Waits until the screen shows what is wanted, and returns it.
fn dump_when(machine: &mut Machine, session: &mut Session, done: &mut dyn FnMut(&[u8]) -> bool) -> Vec<u8> {
    let path = machine.file("screen");
    machine.wait_for("the text on the screen", PATIENCE, |_| Some(dump(session, &path)).filter(|picture| done(picture)))
}

#[test]
#[ignore = "needs QEMU"]
fn peer_qemu_firmware_shows_the_same_text_and_hears_the_same_keys() {
    let rows_in_use = |picture: &[u8]| {
        let rows = picture[15..].chunks(720 * 3 * 16);
        rows.filter(|row| row.iter().any(|byte| *byte != 0)).count()
    };
    let lit = |picture: &[u8]| picture[15..].chunks(3).filter(|pixel| *pixel != [0, 0, 0]).count();
    let mut pictures = Vec::new();
    for setup in [Setup::new(), Setup::of(qemu())] {
        let image = std::env::temp_dir().join(format!("ouzel-echo-{}", std::process::id()));
        let mut disk = echoing_sector();
        disk.resize(1 << 20, 0);
        fs::write(&image, disk).expect("an image");
        let drive = format!("if=virtio,format=raw,file={}", image.display());
        let mut machine = setup.args(["-m", "64", "-accel", "tcg", "-vga", "std", "-drive", &drive]).start();
        let mut session = machine.connect(0);
        // The greeting alone on the screen, and all of it: firmware's own lines light more.
        let mut before = Vec::new();
        let greeting = dump_when(&mut machine, &mut session, &mut |picture| {
            let is_steady = before == picture;
            before = picture.to_vec();
            is_steady && rows_in_use(picture) == 1 && (250..450).contains(&lit(picture))
        });
        let mut last = greeting;
        for names in [&["h"][..], &["5"], &["slash"], &["shift", "q"]] {
            let before = lit(&last);
            session.run("send-key", json!({ "keys": keys(names), "hold-time": 30 }));
            last = dump_when(&mut machine, &mut session, &mut |picture| lit(picture) > before);
        }
        pictures.push(last);
        fs::remove_file(image).expect("removed");
    }
    assert!(pictures[0] == pictures[1], "the screens differ");
}

#[test]
fn heads_of_a_virtio_card_are_screens() {
    let arguments = ["-S", "-m", "32", "-vga", "virtio", "-device", "virtio-gpu-pci,id=gpu,max_outputs=2"];
    let mut machine = Setup::new().args(arguments).start();
    let mut session = machine.connect(0);
    let file = machine.file("screen.ppm");
    for head in [0, 1] {
        session.run("screendump", json!({ "filename": file, "device": "gpu", "head": head }));
        assert!(fs::read(&file).expect("a picture").starts_with(b"P6\n640 480\n255\n"));
    }
    let arguments = json!({ "filename": file, "device": "gpu", "head": 2 });
    session.generic_error("screendump", arguments);
    // The board's card shows its VGA until a driver comes.
    session.run("screendump", json!({ "filename": file }));
    let functions = session.query("query-pci");
    let function = |slot: i64| {
        let devices = functions[0]["devices"].as_array().expect("devices");
        devices.iter().find(|device| device["slot"] == slot).expect("a function").clone()
    };
    assert_eq!((&function(2)["id"]["device"], &function(2)["class_info"]["class"]), (&json!(0x1050), &json!(0x300)));
    assert_eq!(function(3)["class_info"]["class"], 0x380);
}

#[test]
fn machine_has_one_vga_and_virtio_cards_have_at_most_sixteen_heads() {
    for (arguments, expected) in [
        (&["-vga", "virtio", "-device", "VGA"][..], "there is a VGA already"),
        (&["-device", "virtio-vga", "-device", "VGA"], "there is a VGA already"),
        (&["-device", "virtio-gpu-pci,max_outputs=17"], "invalid max_outputs > 16"),
        (&["-device", "virtio-gpu-pci,xres=x"], "xres"),
    ] {
        let output = Command::new(ouzel()).args(["-S", "-display", "none"]).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}
