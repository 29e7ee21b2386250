//! Sockets: servers and clients, waiting, coming back, descriptors.

use crate::support::{Fixture, FrontEnd, PATIENCE, Seen};
use chardev::{Error, Event, parse_option};
use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

#[test]
fn server_serves_one_client_after_the_other() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let front_end = fixture.open(&format!("socket,id=c,path={path},server=on,wait=off"));
    assert_eq!(front_end.chardev.filename(), format!("disconnected:unix:{path},server=on"));
    for _ in 0..2 {
        let mut client = UnixStream::connect(&path).unwrap();
        front_end.expect_event(Event::Opened);
        assert_eq!(front_end.chardev.filename(), format!("unix:{path},server=on"));
        client.write_all(b"in").unwrap();
        assert_eq!(front_end.input(2), b"in");
        front_end.write_all(b"out");
        let mut output = [0; 3];
        client.read_exact(&mut output).unwrap();
        assert_eq!(&output, b"out");
        drop(client);
        front_end.expect_event(Event::Closed);
    }
    drop(front_end);
    fixture.chardevs.remove("c").unwrap();
    assert!(!std::path::Path::new(&path).exists(), "the socket file is removed");
}

#[test]
fn server_with_wait_blocks_until_a_client_is_there() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let there = path.clone();
    let client = std::thread::spawn(move || {
        loop {
            if let Ok(mut client) = UnixStream::connect(&there) {
                client.write_all(b"early").unwrap();
                return client;
            }
            std::thread::yield_now();
        }
    });
    let front_end = fixture.open(&format!("socket,id=c,path={path},server"));
    front_end.expect_event(Event::Opened);
    assert_eq!(front_end.input(5), b"early");
    drop(client.join().unwrap());
}

#[test]
fn front_end_that_comes_with_its_client_is_told_once_and_before_the_input() {
    let fixture = Fixture::new();
    for round in 0..300 {
        let path = fixture.path(&format!("s{round}"));
        let mux = if round % 2 == 0 { "on" } else { "off" };
        let id = format!("c{round}");
        let spec = parse_option(&format!("socket,id={id},path={path},server=on,wait=off,mux={mux}")).unwrap();
        fixture.chardevs.add(&spec).unwrap();
        // The task that serves the device takes the client while the front end is attached.
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"in").unwrap();
        let front_end = FrontEnd::new(fixture.chardevs.attach(&id).unwrap());
        let mut seen = Vec::new();
        while !seen.contains(&Seen::Event(Event::Closed)) {
            let next = front_end.next();
            if matches!(next, Seen::Input(_)) {
                client.shutdown(std::net::Shutdown::Both).unwrap();
            }
            if !matches!(next, Seen::Event(Event::FocusIn | Event::FocusOut)) {
                seen.push(next);
            }
        }
        let expected = [Seen::Event(Event::Opened), Seen::Input(b"in".to_vec()), Seen::Event(Event::Closed)];
        assert_eq!(seen, expected, "round {round}, mux={mux}");
    }
}

#[test]
fn tcp_server_and_client_talk() {
    let fixture = Fixture::new();
    let server = fixture.open("socket,id=s,host=127.0.0.1,port=0,server=on,wait=off,ipv4=on,nodelay=on");
    let name = server.chardev.filename();
    let port = name.strip_prefix("disconnected:tcp:127.0.0.1:").and_then(|rest| rest.strip_suffix(",server=on"));
    assert!(port.is_some_and(|port| port != "0"), "{name}: the port that the host has chosen");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = fixture.open(&format!("socket,id=c,host=localhost,port={port},ipv4=on"));
    let (mut peer, _): (TcpStream, _) = listener.accept().unwrap();
    client.expect_event(Event::Opened);
    assert!(client.chardev.filename().contains(" <-> 127.0.0.1:"), "{}", client.chardev.filename());
    client.write_all(b"hello");
    let mut hello = [0; 5];
    peer.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

#[test]
fn abstract_socket_is_reached_by_its_name() {
    use std::os::linux::net::SocketAddrExt as _;
    let fixture = Fixture::new();
    let name = format!("ouzel-test-{}", std::process::id());
    let front_end = fixture.open(&format!("socket,id=c,path={name},abstract=on,server=on,wait=off"));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _client = UnixStream::connect_addr(&address).unwrap();
    front_end.expect_event(Event::Opened);
}

#[test]
fn inherited_listening_socket_is_served() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    let front_end = fixture.open(&format!("socket,id=c,fd={},server=on,wait=off", listener.as_raw_fd()));
    let _client = UnixStream::connect(&path).unwrap();
    front_end.expect_event(Event::Opened);
    let not_open = parse_option("socket,id=d,fd=9999,server=on").unwrap();
    assert!(matches!(fixture.chardevs.add(&not_open), Err(Error::Io { .. })));
}

#[test]
fn client_with_reconnect_comes_back() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    // Nobody is there yet.
    let front_end = fixture.open(&format!("socket,id=c,path={path},reconnect=1"));
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let (peer, _) = listener.accept().unwrap();
        front_end.expect_event(Event::Opened);
        drop(peer);
        front_end.expect_event(Event::Closed);
    }
}

#[test]
fn client_without_reconnect_fails_at_once() {
    let fixture = Fixture::new();
    let path = fixture.path("nobody");
    let spec = parse_option(&format!("socket,id=c,path={path}")).unwrap();
    let error = fixture.chardevs.add(&spec).unwrap_err();
    assert_eq!(error.to_string(), format!("Failed to connect to '{path}': No such file or directory"));
}

#[test]
fn hang_up_ends_the_connection_and_the_next_client_is_served() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let front_end = fixture.open(&format!("socket,id=c,path={path},server=on,wait=off"));
    let mut first = UnixStream::connect(&path).unwrap();
    front_end.expect_event(Event::Opened);
    front_end.chardev.hang_up();
    front_end.expect_event(Event::Closed);
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    let _second = UnixStream::connect(&path).unwrap();
    front_end.expect_event(Event::Opened);
}

#[test]
fn descriptors_come_with_the_input() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let front_end = fixture.open(&format!("socket,id=c,path={path},server=on,wait=off"));
    let client = UnixStream::connect(&path).unwrap();
    front_end.expect_event(Event::Opened);
    let file = File::open("/dev/null").unwrap();
    let fds = [file.as_fd(), file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&client, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(front_end.input(1), b"x");
    assert_eq!(front_end.chardev.take_fds().map(|fds| fds.len()), Some(2));
    assert!(front_end.chardev.take_fds().is_none());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn device_has_one_front_end_unless_it_is_shared() {
    let fixture = Fixture::new();
    let front_end = fixture.open("null,id=n");
    front_end.expect_event(Event::Opened);
    assert_eq!(fixture.chardevs.attach("n").unwrap_err().to_string(), "Device 'n' is in use");
    assert_eq!(fixture.chardevs.remove("n").unwrap_err().to_string(), "Chardev 'n' is busy");
    drop(front_end);
    let duplicate = fixture.chardevs.add(&parse_option("null,id=n").unwrap()).unwrap_err();
    assert_eq!(duplicate.to_string(), "Chardev with id 'n' already exists");
    fixture.chardevs.remove("n").unwrap();
    assert_eq!(fixture.chardevs.attach("n").unwrap_err().to_string(), "Chardev 'n' not found");
}
