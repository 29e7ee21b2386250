//! SPICE on the command line and over QMP. What clients see is tested in the crate `spice`, with other people's client here.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Reply, Session, Setup};

/// Opens a channel of a session of a server that asks for no password; returns the result's number.
fn open<S: Read + Write>(stream: &mut S, session: u32, kind: u8) -> u32 {
    let mut link = b"REDQ".to_vec();
    for number in [2, 2, 26, session] {
        link.extend_from_slice(&u32::to_le_bytes(number));
    }
    link.extend_from_slice(&[kind, 0]);
    for number in [1, 1, 18, 0xd, 3] {
        link.extend_from_slice(&u32::to_le_bytes(number));
    }
    stream.write_all(&link).expect("sent");
    let mut answer = [0; 16 + 186];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[16..20], [0; 4]);
    stream.write_all(&[&[1, 0, 0, 0][..], &[0; 128]].concat()).expect("sent");
    let mut result = [0; 4];
    stream.read_exact(&mut result).expect("a result");
    u32::from_le_bytes(result)
}

fn message<S: Read>(stream: &mut S) -> (u16, Vec<u8>) {
    let mut head = [0; 6];
    stream.read_exact(&mut head).expect("a message");
    let mut body = vec![0; u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize];
    stream.read_exact(&mut body).expect("its body");
    (u16::from_le_bytes([head[0], head[1]]), body)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

#[test]
fn clients_are_told_of_in_events_and_queries() {
    let port = free_port();
    let mut machine = Setup::new()
        .args(["-S", "-vga", "std", "-name", "guest"])
        .args(["-spice", &format!("port={port},addr=127.0.0.1,disable-ticketing=on")])
        .start();
    let mut session = machine.connect(0);
    let mut main = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    assert_eq!(open(&mut main, 0, 1), 0);
    let (kind, init) = message(&mut main);
    let id = u32::from_le_bytes([init[0], init[1], init[2], init[3]]);
    assert_eq!((kind, init.len()), (103, 32));
    assert_eq!(message(&mut main), (113, b"\x06\0\0\0guest\0".to_vec()));
    let near = |stream: &TcpStream| stream.local_addr().expect("an address").port().to_string();
    let end = |port: &str| json!({"host": "127.0.0.1", "port": port, "family": "ipv4"});
    let channel = |stream: &TcpStream, kind: u8| {
        let mut channel = end(&near(stream));
        let more = json!({"connection-id": id, "channel-type": kind, "channel-id": 0, "tls": false});
        channel.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        channel
    };
    let server = end(&port.to_string());
    let mut with_auth = server.clone();
    with_auth["auth"] = json!("none");
    let client = end(&near(&main));
    assert_eq!(session.event("SPICE_CONNECTED"), json!({"server": server, "client": client}));
    assert_eq!(session.event("SPICE_INITIALIZED"), json!({"server": with_auth, "client": channel(&main, 1)}));
    let mut inputs = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    assert_eq!(open(&mut inputs, id, 3), 0);
    assert_eq!(message(&mut inputs), (101, vec![0, 0]));
    session.event("SPICE_INITIALIZED");
    let mut info = session.query("query-spice");
    assert!(info["compiled-version"].take().is_string());
    let wanted = json!({
        "enabled": true, "migrated": false, "host": "127.0.0.1", "port": port, "auth": "none", "mouse-mode": "server",
        "compiled-version": null, "channels": [channel(&main, 1), channel(&inputs, 3)],
    });
    assert_eq!(info, wanted);
    let shown = session.run("human-monitor-command", json!({"command-line": "info spice"}));
    let shown = shown.as_str().expect("text").replace('\r', "");
    let begin =
        format!("Server:\n     address: 127.0.0.1:{port}\n    migrated: false\n        auth: none\n    compiled: ");
    assert!(shown.starts_with(&begin), "{shown}");
    let channels = format!(
        "  mouse-mode: server\nChannel:\n     address: 127.0.0.1:{}\n     session: {id}\n     channel: 1:0\n     \
         channel name: main\nChannel:\n     address: 127.0.0.1:{}\n     session: {id}\n     channel: 3:0\n     \
         channel name: inputs\n",
        near(&main),
        near(&inputs)
    );
    assert!(shown.ends_with(&channels), "{shown}");
    // Nobody is asked for a password, so there is none.
    let password = json!({"protocol": "spice", "password": "x"});
    assert_eq!(session.generic_error("set_password", password), "Could not set password");
    drop(inputs);
    session.event("SPICE_DISCONNECTED");
    drop(main);
    assert_eq!(session.event("SPICE_DISCONNECTED"), json!({"server": server, "client": client}));
    assert_eq!(session.query("query-spice")["channels"], json!([]));
}

#[test]
fn connections_may_be_handed_in_and_are_told_where_the_guest_goes() {
    let mut machine = Setup::new().args(["-S", "-vga", "std", "-spice", "port=0"]).start();
    let mut session = machine.connect(0);
    let info = session.query("query-spice");
    assert_eq!((&info["host"], info.get("port")), (&json!("*"), None));
    let (mut near, far) = UnixStream::pair().expect("a pair");
    let passed = session.call_with_fds("getfd", &json!({"fdname": "viewer"}), &[far.as_fd()]);
    assert_eq!(passed, Reply::Value(json!({})));
    session.run("add_client", json!({"protocol": "spice", "fdname": "viewer", "skipauth": true}));
    assert_eq!(open(&mut near, 0, 1), 0);
    // Who is not there yet is not told.
    assert_eq!(message(&mut near).0, 103);
    let target = json!({"protocol": "spice", "hostname": "virt42.lab.kraxel.org", "port": 1234});
    session.run("client_migrate_info", target);
    loop {
        let (kind, body) = message(&mut near);
        if kind == 101 {
            assert_eq!((body[..4].to_vec(), &body[20..]), (vec![0xd2, 4, 0, 0], &b"virt42.lab.kraxel.org\0"[..]));
            break;
        }
    }
    let missing = json!({"protocol": "spice", "hostname": "h"});
    assert_eq!(session.generic_error("client_migrate_info", missing), "Parameter 'port/tls-port' is missing");
    let passed = session.call_with_fds("getfd", &json!({"fdname": "viewer"}), &[far.as_fd()]);
    assert_eq!(passed, Reply::Value(json!({})));
    let secure = json!({"protocol": "spice", "fdname": "viewer", "tls": true});
    let refused = session.generic_error("add_client", secure);
    assert_eq!(refused, "spice failed to add client: there are no certificates for TLS");
}

#[test]
fn without_a_server_commands_say_so() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    assert_eq!(session.query("query-spice"), json!({"enabled": false, "migrated": false, "mouse-mode": "client"}));
    let wanted = ("DeviceNotActive".to_owned(), "SPICE is not in use".to_owned());
    for (command, arguments) in [
        ("set_password", json!({"protocol": "spice", "password": "x"})),
        ("expire_password", json!({"protocol": "spice", "time": "now"})),
        ("client_migrate_info", json!({"protocol": "spice", "hostname": "h", "port": 1})),
    ] {
        assert_eq!(session.error(command, arguments), wanted, "{command}");
    }
    let shown = session.run("human-monitor-command", json!({"command-line": "info spice"}));
    assert_eq!(shown.as_str().map(str::trim_end), Some("Server: disabled"));
}

#[test]
fn what_is_wrong_with_the_option_is_said() {
    for (option, message) in [
        ("port=70000", "-spice port=70000: spice port is out of range"),
        ("port=0,gl=on", "spice: 'gl' is not available: there is no OpenGL"),
        ("tls-port=1,x509-dir=/nowhere", "Unable to access credentials /nowhere/ca-cert.pem"),
        ("port=0,password-secret=none", "none"),
        ("port=0,display=none", "Failed to lookup display/head"),
        ("unix=on,addr=/nowhere/at/all", "Failed to bind socket /nowhere/at/all"),
    ] {
        let mut machine = Setup::bare().args(["-nodefaults", "-spice", option]).start();
        assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1));
        assert!(machine.stderr().contains(message), "{option}: {}", machine.stderr());
    }
}

fn dump(machine: &Machine, session: &mut Session, name: &str) -> Vec<u8> {
    let file = machine.file(name);
    session.run("screendump", json!({"filename": file}));
    std::fs::read(file).expect("a picture")
}

/// The picture that the client saves; nothing if it is not let in.
fn screenshot(machine: &Machine, port: u16, password: &str) -> Option<Vec<u8>> {
    let file = machine.file("shown.ppm");
    // Without a picture there is no file.
    let _ = std::fs::remove_file(&file);
    let output = Command::new("timeout")
        .args(["60", "spicy-screenshot", "-h", "127.0.0.1", "-p", &port.to_string(), "-w", password, "-o", &file])
        .output()
        .expect("spicy-screenshot runs");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    std::fs::read(file).ok()
}

#[test]
#[ignore = "peer: spicy-screenshot of Debian's spice-client-gtk"]
fn peer_spicy_screenshot_shows_the_screen_as_it_is_to_who_knows_the_password() {
    for compression in ["off", "lz"] {
        let port = free_port();
        let mut machine = Setup::new()
            .args(["-m", "64", "-vga", "std", "-boot", "menu=off", "-object", "secret,id=word,data=secret"])
            .args([
                "-spice",
                &format!("port={port},addr=127.0.0.1,password-secret=word,image-compression={compression}"),
            ])
            .start();
        let mut session = machine.connect(0);
        // A cursor that blinks makes two pictures of a screen; the firmware may still write.
        let end = Instant::now() + PATIENCE;
        loop {
            let shown = screenshot(&machine, port, "secret").expect("a picture");
            let look = Instant::now() + Duration::from_secs(3);
            let is_equal = loop {
                if dump(&machine, &mut session, "wanted.ppm") == shown {
                    break true;
                }
                if Instant::now() > look {
                    break false;
                }
            };
            let is_lit = shown.iter().skip(20).any(|byte| *byte != 0);
            if is_equal && is_lit {
                break;
            }
            assert!(Instant::now() < end, "it shows something else");
        }
        assert_eq!(screenshot(&machine, port, "wrong"), None);
        session.run("expire_password", json!({"protocol": "spice", "time": "now"}));
        assert_eq!(screenshot(&machine, port, "secret"), None);
        session.run("set_password", json!({"protocol": "spice", "password": "other", "connected": "disconnect"}));
        session.run("expire_password", json!({"protocol": "spice", "time": "never"}));
        assert!(screenshot(&machine, port, "other").is_some());
    }
}

#[test]
#[ignore = "peer: qemu-system-x86_64 with SPICE, and spicy-screenshot"]
fn peer_qemu_tells_the_same_of_a_client() {
    /// The events of a client that takes a picture, without what differs from run to run.
    fn events(session: &mut Session, mut connect: impl FnMut()) -> Vec<(String, Vec<String>)> {
        connect();
        let names = ["SPICE_CONNECTED", "SPICE_INITIALIZED", "SPICE_CONNECTED", "SPICE_INITIALIZED"];
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<String> = ["server", "client"]
                .iter()
                .flat_map(|end| {
                    value[end].as_object().expect("an object").keys().map(move |key| format!("{end}.{key}"))
                })
                .collect();
            keys.sort();
            keys
        };
        let mut told: Vec<_> = names.iter().map(|name| ((*name).to_owned(), keys(&session.event(name)))).collect();
        told.extend((0..2).map(|_| ("SPICE_DISCONNECTED".to_owned(), keys(&session.event("SPICE_DISCONNECTED")))));
        told
    }
    let qemu = std::env::var("OUZEL_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
    let tell = |setup: Setup, is_ours: bool| {
        let port = free_port();
        let option = format!("port={port},addr=127.0.0.1,disable-ticketing=on");
        let mut machine = setup.args(["-m", "64", "-vga", "std", "-spice", &option]).start();
        let mut session = machine.connect(0);
        let told = events(&mut session, || {
            assert!(screenshot(&machine, port, "").is_some());
        });
        let info = session.query("query-spice");
        let keys: Vec<String> = info.as_object().expect("an object").keys().cloned().collect();
        println!("{} {info}", if is_ours { "ours" } else { "QEMU's" });
        (told, keys, info["mouse-mode"].clone(), info["auth"].clone())
    };
    let ours = tell(Setup::new(), true);
    let theirs = tell(Setup::of(qemu.into()).args(["-accel", "tcg"]), false);
    assert_eq!(ours, theirs);
}
