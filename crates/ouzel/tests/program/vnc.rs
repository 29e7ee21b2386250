//! VNC on the command line and over QMP. What clients see is tested in the crate `vnc`, with clients of other people here.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::json;

use crate::support::{Directory, PATIENCE, Reply, Setup, python, repository};

/// Says version 3.7 and no more than needed for a machine without a password, and reads up to the name.
fn log_in<S: Read + Write>(stream: &mut S) -> (u16, u16) {
    let mut bytes = [0; 12];
    stream.read_exact(&mut bytes).expect("a version");
    assert_eq!(&bytes, b"RFB 003.008\n");
    stream.write_all(b"RFB 003.007\n").expect("sent");
    stream.read_exact(&mut bytes[..2]).expect("security");
    assert_eq!(bytes[..2], [1, 1]);
    stream.write_all(&[1, 1]).expect("sent");
    let mut init = [0; 24];
    stream.read_exact(&mut init).expect("the screen");
    (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]]))
}

#[test]
fn clients_are_told_of_in_events_and_queries() {
    let mut machine = Setup::new()
        .args(["-S", "-vga", "std", "-name", "guest", "-vnc", "unix:{dir}vnc,id=one"])
        .args(["-vnc", "127.0.0.1:0,to=999,websocket=on,password=on", "-display", "vnc=none"])
        .start();
    let mut session = machine.connect(0);
    let path = machine.file("vnc");
    let mut viewer = UnixStream::connect(&path).expect("a listener");
    assert_eq!(log_in(&mut viewer), (640, 480));
    let server = json!({"auth": "none", "family": "unix", "service": path, "host": "", "websocket": false});
    let client = json!({"family": "unix", "service": "", "host": "", "websocket": false});
    for event in ["VNC_CONNECTED", "VNC_INITIALIZED"] {
        assert_eq!(session.event(event), json!({"server": server, "client": client}), "{event}");
    }
    let info =
        json!({"enabled": true, "auth": "none", "family": "unix", "service": path, "host": "", "clients": [client]});
    assert_eq!(session.query("query-vnc"), info);
    let servers = session.query("query-vnc-servers");
    let ids: Vec<_> = servers.as_array().expect("a list").iter().map(|server| server["id"].clone()).collect();
    assert_eq!(ids, ["vnc2", "default", "one"]);
    let ports = |server: &serde_json::Value| -> Vec<u16> {
        let list = server["server"].as_array().expect("a list");
        list.iter().map(|one| one["service"].as_str().expect("a port").parse().expect("a number")).collect()
    };
    let found = ports(&servers[1]);
    assert_eq!((servers[1]["auth"].as_str(), found.len()), (Some("vnc"), 2));
    assert!(
        machine.stderr().contains(&format!("VNC server running on 127.0.0.1:{}", found[1])),
        "{}",
        machine.stderr()
    );
    drop(viewer);
    assert_eq!(session.event("VNC_DISCONNECTED"), json!({"server": server, "client": client}));
    assert_eq!(session.query("query-vnc")["clients"], json!([]));

    let refused = |reply: Reply| match reply {
        Reply::Error(_, text) => text,
        Reply::Value(value) => panic!("{value}"),
    };
    let password = |display: &str| json!({"protocol": "vnc", "password": "x", "display": display});
    let mut command =
        |name: &str, arguments: serde_json::Value| session.call(&json!({"execute": name, "arguments": arguments}));
    assert_eq!(refused(command("set_password", password("one"))), "Could not set password");
    assert_eq!(command("set_password", password("default")), Reply::Value(json!({})));
    assert_eq!(refused(command("change", json!({"device": "vnc", "target": "nowhere"}))), "no vnc port specified");
    let other = machine.file("other");
    assert_eq!(command("change", json!({"device": "vnc", "target": format!("unix:{other}")})), Reply::Value(json!({})));
    assert!(UnixStream::connect(&path).is_err(), "nobody listens there any more");
    log_in(&mut UnixStream::connect(&other).expect("a listener"));
}

#[test]
fn connections_may_be_handed_in_or_made_by_the_server() {
    let waiting = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = waiting.local_addr().expect("an address").port();
    let mut machine = Setup::new()
        .args(["-vga", "std", "-vnc", "unix:{dir}/vnc"])
        .args(["-vnc", &format!("127.0.0.1:{port},reverse=on")])
        .start();
    let (mut called, _) = waiting.accept().expect("the server calls");
    log_in(&mut called);
    let mut session = machine.connect(0);
    let (mut near, far) = UnixStream::pair().expect("a pair");
    let passed = session.call_with_fds("getfd", &json!({"fdname": "viewer"}), &[far.as_fd()]);
    assert_eq!(passed, Reply::Value(json!({})));
    session.run("add_client", json!({"protocol": "vnc", "fdname": "viewer", "skipauth": true}));
    log_in(&mut near);
}

#[test]
fn without_a_word_about_displays_there_is_vnc_on_this_host() {
    let machine = Setup::bare().args(["-nodefaults", "-S", "-qmp", "unix:{dir}/monitor0,server=on,wait=off"]).start();
    let mut machine = machine;
    drop(machine.connect(0));
    let said = machine.stderr();
    let address = said.lines().find_map(|line| line.strip_prefix("VNC server running on ")).expect("the line");
    log_in(&mut TcpStream::connect(address).expect("a listener"));
}

#[test]
fn query_display_options_tells_what_the_last_display_was_given() {
    for (arguments, expected) in [
        (["-vnc", "none"].as_slice(), json!({"type": "none"})),
        (&["-display", "none,full-screen=on,gl=off"], json!({"type": "none", "full-screen": true, "gl": "off"})),
        (&["-display", "{\"type\": \"none\", \"show-cursor\": true}"], json!({"type": "none", "show-cursor": true})),
        (&["-display", "none,full-screen=on", "-display", "none"], json!({"type": "none"})),
    ] {
        let mut machine = Setup::new().args(arguments).start();
        assert_eq!(machine.connect(0).query("query-display-options"), expected, "{arguments:?}");
    }
}

#[test]
fn what_is_wrong_with_the_option_is_said() {
    for (arguments, message) in [
        (["-vnc", "here"], "-vnc here: no vnc port specified"),
        (["-vnc", ":0,tls-creds=none"], "-vnc :0,tls-creds=none: No TLS credentials with id 'none'"),
        (["-vnc", "none,display=none"], "-vnc none,display=none: Device 'none' not found"),
        (["-vnc", "none,sasl"], "-vnc none,sasl: 'sasl' needs a file of users: sasl-users=FILE"),
        (["-vnc", "none,sasl,sasl-users=/no"], "-vnc none,sasl,sasl-users=/no: /no: No such file or directory"),
        (["-vnc", "unix:/nowhere/at/all"], "-vnc unix:/nowhere/at/all: Failed to bind socket /nowhere/at/all"),
        (["-display", "vnc"], "-display vnc: VNC requires a display argument vnc=<display>"),
        (["-display", "gtk"], "Display 'gtk' is not available."),
        (["-display", "foo"], "-display foo: Parameter 'type' does not accept value 'foo'"),
        (["-display", "none,charset=x"], "-display none,charset=x: Parameter 'charset' is unexpected"),
        (["-display", "none,gl=on"], "OpenGL is not supported by the display"),
        (["-display", "none,show-cursor=x"], "Parameter 'show-cursor' expects 'on' or 'off'"),
        (
            ["-display", "curses,charset=KOI8-R"],
            "charset 'KOI8-R' is not supported: the screen's letters are read as CP437",
        ),
    ] {
        let mut machine = Setup::bare().args(["-nodefaults"]).args(arguments).start();
        assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1));
        assert!(machine.stderr().contains(message), "{}", machine.stderr());
    }
    let mut machine = Setup::bare().args(["-nodefaults", "-vnc", "none", "-k", "xx"]).start();
    assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1));
    assert!(machine.stderr().contains("could not read keymap file: 'xx'"), "{}", machine.stderr());
}

#[test]
#[ignore = "peer: vncdotool of the Python environment, TigerVNC's viewer if it is there"]
fn peer_python_other_peoples_viewers_show_the_screen_as_it_is() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let display = i32::from(port) - 5900;
    assert!(display >= 0, "ports that are free are higher");
    let mut machine = Setup::new()
        .args(["-m", "64", "-vga", "std", "-usb", "-device", "usb-tablet", "-boot", "menu=off"])
        .args(["-vnc", &format!("127.0.0.1:{display},password=on")])
        .start();
    drop(machine.connect_raw(0));
    let output = Command::new(python())
        .arg(repository().join("crates/ouzel/tests/peer_vnc.py"))
        .arg(machine.path("monitor0"))
        .args([display.to_string().as_str(), "secret"])
        .arg(machine.path(""))
        .output()
        .expect("Python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
}

#[test]
#[ignore = "peer: qemu.qmp of the Python environment, and openssl"]
fn peer_python_tls_lets_clients_with_certificates_in_and_no_others() {
    let script = repository().join("crates/ouzel/tests/peer_vnc_tls.py");
    let certificates = Directory::new();
    let directory = certificates.join("");
    let made = Command::new(python()).arg(&script).arg("make").arg(&directory).status().expect("Python runs");
    assert!(made.success(), "no certificates");
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let (port, websocket) = (free(), free());
    let display = i32::from(port) - 5900;
    let mut machine = Setup::new()
        .args(["-S", "-vga", "std"])
        .args(["-object", &format!("tls-creds-x509,id=tls0,endpoint=server,dir={}", directory.display())])
        .args(["-vnc", &format!("127.0.0.1:{display},tls-creds=tls0,websocket={websocket}")])
        .start();
    drop(machine.connect_raw(0));
    let output = Command::new(python())
        .arg(script)
        .arg(machine.path("monitor0"))
        .args([port.to_string(), websocket.to_string()])
        .arg(&directory)
        .output()
        .expect("Python runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{}", machine.stderr());
}

#[test]
#[ignore = "peer: qemu.qmp of the Python environment, openssl, and the program ouzel-ctl"]
fn peer_python_sasl_lets_users_of_a_file_in() {
    let script = repository().join("crates/ouzel/tests/peer_vnc_tls.py");
    let files = Directory::new();
    let directory = files.join("");
    let made = Command::new(python()).arg(&script).arg("make").arg(&directory).status().expect("Python runs");
    assert!(made.success(), "no certificates");
    let users = files.join("users");
    let line = crate::ctl::run_at("--sasl-user=ann", &[], "secret\n");
    std::fs::write(&users, &line.stdout).expect("a file");
    assert!(line.stdout.starts_with(b"ann:SCRAM-SHA-256$"), "{line:?}");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let mut machine = Setup::new()
        .args(["-S", "-vga", "std"])
        .args(["-object", &format!("tls-creds-x509,id=tls0,endpoint=server,dir={}", directory.display())])
        .args(["-vnc", &format!("127.0.0.1:{},tls-creds=tls0,sasl=on,sasl-users={}", port - 5900, users.display())])
        .start();
    drop(machine.connect_raw(0));
    let output = Command::new(python())
        .arg(script)
        .arg("sasl")
        .arg(machine.path("monitor0"))
        .arg(port.to_string())
        .arg(&directory)
        .output()
        .expect("Python runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{}", machine.stderr());
}
