//! The other ends of character devices in the program itself: terminals on screens of their own (`vc`), serial mice; and
//! connections that are handed to sockets.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::{Machine, PATIENCE, Reply, Session, Setup};

/// A picture's size and how many of its pixels are not black.
fn picture(machine: &Machine, session: &mut Session) -> (String, usize) {
    let path = machine.file("screen.ppm");
    session.run("screendump", json!({ "filename": path }));
    let bytes = std::fs::read(path).expect("a picture");
    let size = bytes.split(|byte| *byte == b'\n').nth(1).expect("a size");
    let start = bytes.len() - bytes.len() / 3 * 3;
    let lit = bytes[start + 15..].chunks(3).filter(|pixel| pixel.iter().any(|part| *part != 0)).count();
    (String::from_utf8_lossy(size).into_owned(), lit)
}

/// A VNC client without security; the screen's size.
fn look(machine: &Machine) -> (UnixStream, (u16, u16)) {
    let mut stream = UnixStream::connect(machine.path("vnc")).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut bytes = [0; 12];
    stream.read_exact(&mut bytes).expect("a version");
    stream.write_all(b"RFB 003.007\n").expect("sent");
    stream.read_exact(&mut bytes[..2]).expect("security");
    stream.write_all(&[1, 1]).expect("sent");
    let mut init = [0; 28];
    stream.read_exact(&mut init).expect("the screen");
    (stream, (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]])))
}

fn keys(stream: &mut UnixStream, symbols: &[(u32, bool)]) {
    for (symbol, is_down) in symbols {
        let mut message = vec![4, u8::from(*is_down), 0, 0];
        message.extend_from_slice(&symbol.to_be_bytes());
        stream.write_all(&message).expect("sent");
    }
}

#[test]
fn monitor_on_a_terminal_is_shown_and_typed_to() {
    let mut machine = Setup::new()
        .args(["-S", "-vga", "none", "-name", "sheep", "-monitor", "vc:80Cx24C", "-vnc", "unix:{dir}vnc"])
        .start();
    let mut session = machine.connect(0);
    let chardevs = session.query("query-chardev");
    let has_it = |one: &serde_json::Value| one["label"] == "compat_monitor0" && one["filename"] == "vc";
    assert!(chardevs.as_array().expect("a list").iter().any(has_it), "{chardevs}");
    let prompt = machine.wait_for("the prompt", PATIENCE, |machine| {
        let (size, lit) = picture(machine, &mut session);
        assert_eq!(size, "640 384");
        Some(lit).filter(|lit| *lit > 300)
    });
    let (mut viewer, size) = look(&machine);
    assert_eq!(size, (640, 384));
    for symbol in "info name".chars().map(u32::from).chain([0xff0d]) {
        keys(&mut viewer, &[(symbol, true), (symbol, false)]);
    }
    machine.wait_for("the answer", PATIENCE, |machine| (picture(machine, &mut session).1 > prompt + 300).then_some(()));
}

#[test]
fn ports_that_are_not_said_to_be_elsewhere_are_on_terminals() {
    let chardevs = |arguments: &[&str]| {
        let mut machine = Setup::bare().monitors(1).args(["-S", "-no-user-config", "-m", "64"]).args(arguments).start();
        let list = machine.connect(0).query("query-chardev");
        let one = |one: &serde_json::Value| format!("{}={}", one["label"], one["filename"]).replace('"', "");
        let mut list: Vec<String> = list.as_array().expect("a list").iter().map(one).collect();
        list.retain(|one| !one.starts_with("compat_monitor"));
        list.sort();
        list
    };
    assert_eq!(chardevs(&["-vnc", "unix:{dir}vnc"]), ["parallel0=vc", "serial0=vc"]);
    assert_eq!(chardevs(&["-display", "none", "-serial", "null"]), ["parallel0=vc", "serial0=null"]);
    let shared = ["-display", "none", "-chardev", "null,mux=on,id=c", "-serial", "chardev:c", "-parallel", "none"];
    assert_eq!(chardevs(&shared), ["c-base=null", "c=mux"]);
    assert_eq!(chardevs(&["-display", "none", "-nographic", "-serial", "null"]), ["parallel0=null", "serial0=null"]);
    assert!(chardevs(&["-nodefaults", "-vnc", "unix:{dir}vnc"]).is_empty());
}

#[test]
fn ctrl_alt_and_a_digit_choose_a_screen_and_keys_belong_to_it() {
    let mut machine = Setup::new()
        .args(["-S", "-vga", "std", "-chardev", "ringbuf,id=ring,size=4096", "-vnc", "unix:{dir}vnc"])
        .start();
    let mut session = machine.connect(0);
    let size = json!({"cols": 100, "rows": 10});
    session.run("chardev-add", json!({"id": "late", "backend": {"type": "vc", "data": size}}));
    let (mut viewer, first) = look(&machine);
    assert_eq!(first, (640, 480));
    // Only sizes of the screen and what is raw.
    viewer.write_all(&[2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21]).expect("sent");
    let resized = |viewer: &mut UnixStream, number: u32| {
        keys(viewer, &[(0xffe3, true), (0xffe9, true), (0x30 + number, true), (0x30 + number, false)]);
        keys(viewer, &[(0xffe9, false), (0xffe3, false)]);
        viewer.write_all(&[3, 1, 0, 0, 0, 0, 4, 0, 4, 0]).expect("sent");
        loop {
            let mut head = [0; 4];
            viewer.read_exact(&mut head).expect("an update");
            for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
                let mut area = [0; 12];
                viewer.read_exact(&mut area).expect("a rectangle");
                let side = |at: usize| u16::from_be_bytes([area[at], area[at + 1]]);
                let (width, height) = (side(4), side(6));
                if area[8..] == (-223_i32).to_be_bytes() {
                    return (width, height);
                }
                let mut pixels = vec![0; usize::from(width) * usize::from(height) * 4];
                viewer.read_exact(&mut pixels).expect("pixels");
            }
            viewer.write_all(&[3, 1, 0, 0, 0, 0, 4, 0, 4, 0]).expect("sent");
        }
    };
    assert_eq!(resized(&mut viewer, 2), (800, 160));
    assert_eq!(resized(&mut viewer, 1), (640, 480));
    assert_eq!(resized(&mut viewer, 2), (800, 160));
    // Who looks at a terminal that goes looks at the first screen again.
    session.run("chardev-remove", json!({"id": "late"}));
    assert_eq!(session.query("query-chardev").as_array().expect("a list").len(), 2);
    let reply = session.call(&json!({"execute": "chardev-add", "arguments":
        {"id": "wide", "backend": {"type": "vc", "data": {"cols": 5000}}}}));
    assert!(matches!(reply, Reply::Error(_, text) if text.contains("'cols' expects at most 1000")));
}

#[test]
fn serial_mouse_goes_with_its_character_device() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let mice = |session: &mut Session| session.query("query-mice").as_array().expect("a list").len();
    let before = mice(&mut session);
    for _ in 0..3 {
        session.run("chardev-add", json!({"id": "m", "backend": {"type": "msmouse", "data": {}}}));
        assert_eq!(mice(&mut session), before + 1);
        session.run("chardev-remove", json!({"id": "m"}));
        assert_eq!(mice(&mut session), before);
    }
    session.run("chardev-add", json!({"id": "m", "backend": {"type": "msmouse", "data": {}}}));
    session.run("chardev-change", json!({"id": "m", "backend": {"type": "null", "data": {}}}));
    machine.wait_for("the mouse to go", PATIENCE, |_| (mice(&mut session) == before).then_some(()));
}

#[test]
fn connection_is_handed_to_a_socket_that_has_none() {
    let mut machine = Setup::new()
        .args(["-S", "-chardev", "socket,id=second,path={dir}second,server=on,wait=off"])
        .args(["-mon", "chardev=second,mode=control", "-chardev", "null,id=nothing"])
        .start();
    let mut session = machine.connect(0);
    let mut hand = |protocol: &str| {
        let (near, far) = UnixStream::pair().expect("a pair");
        let passed = session.call_with_fds("getfd", &json!({"fdname": "client"}), &[far.as_fd()]);
        assert_eq!(passed, Reply::Value(json!({})));
        let reply =
            session.call(&json!({"execute": "add_client", "arguments": {"protocol": protocol, "fdname": "client"}}));
        (near, reply)
    };
    let refused = |reply: Reply| match reply {
        Reply::Error(_, text) => text,
        Reply::Value(value) => panic!("{value}"),
    };
    assert_eq!(refused(hand("nowhere").1), "protocol 'nowhere' is invalid");
    assert_eq!(refused(hand("nothing").1), "failed to add client");
    let (near, reply) = hand("second");
    assert_eq!(reply, Reply::Value(json!({})));
    let mut other = Session::over(near);
    other.negotiate();
    assert_eq!(other.query("query-status")["status"], "prelaunch");
    assert_eq!(refused(hand("second").1), "failed to add client", "somebody is connected");
}
