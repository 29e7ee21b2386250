//! File descriptors over the socket.

use crate::support::{Fixture, Raw};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

/// Sends a request with `count` descriptors of /dev/null.
fn ask_with(client: &mut Raw, count: usize, request: &str) -> String {
    let file = File::open("/dev/null").unwrap();
    let fds = vec![file.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [IoSlice::new(request.as_bytes())];
    rustix::net::sendmsg(&client.stream, &parts, &mut control, SendFlags::empty()).unwrap();
    client.line()
}

fn error(desc: &str) -> String {
    format!(r#"{{"error": {{"class": "GenericError", "desc": "{desc}"}}}}"#)
}

const DONE: &str = r#"{"return": {}}"#;

#[test]
fn getfd_names_a_descriptor_and_closefd_closes_it() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    let getfd = r#"{"execute":"getfd","arguments":{"fdname":"fd1"}}"#;
    let closefd = r#"{"execute":"closefd","arguments":{"fdname":"fd1"}}"#;
    assert_eq!(client.ask(getfd), error("No file descriptor supplied via SCM_RIGHTS"));
    assert_eq!(client.ask(closefd), error("File descriptor named 'fd1' not found"));
    assert_eq!(ask_with(&mut client, 1, getfd), DONE);
    assert_eq!(ask_with(&mut client, 1, getfd), DONE, "a name may be used again");
    assert_eq!(client.ask(closefd), DONE);
    assert_eq!(client.ask(closefd), error("File descriptor named 'fd1' not found"));
    let digit = r#"{"execute":"getfd","arguments":{"fdname":"1a"}}"#;
    assert_eq!(ask_with(&mut client, 1, digit), error("Parameter 'fdname' expects a name not starting with a digit"));
}

#[test]
fn command_takes_one_descriptor_and_the_others_are_closed() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    let getfd = r#"{"execute":"getfd","arguments":{"fdname":"fd1"}}"#;
    assert_eq!(ask_with(&mut client, 2, getfd), DONE);
    assert_eq!(client.ask(getfd), error("No file descriptor supplied via SCM_RIGHTS"));
}

#[test]
fn descriptor_stays_until_a_command_wants_it() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    assert_eq!(ask_with(&mut client, 1, r#"{"execute":"x-early"}"#), DONE);
    assert_eq!(client.ask(r#"{"execute":"getfd","arguments":{"fdname":"fd1"}}"#), DONE);
}

#[test]
fn names_belong_to_a_monitor_and_sets_to_all() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.client(true), fixture.client(true));
    assert_eq!(ask_with(&mut one, 1, r#"{"execute":"getfd","arguments":{"fdname":"a"}}"#), DONE);
    assert_eq!(
        two.ask(r#"{"execute":"closefd","arguments":{"fdname":"a"}}"#),
        error("File descriptor named 'a' not found")
    );
    let added = ask_with(&mut one, 1, r#"{"execute":"add-fd","arguments":{"fdset-id":4,"opaque":"rw:r.img"}}"#);
    assert!(added.starts_with(r#"{"return": {"fd": "#) && added.ends_with(r#", "fdset-id": 4}}"#), "{added}");
    let added = ask_with(&mut one, 1, r#"{"execute":"add-fd"}"#);
    assert!(added.ends_with(r#", "fdset-id": 0}}"#), "the lowest free id: {added}");
    let sets = two.ask(r#"{"execute":"query-fdsets"}"#);
    let (four, zero) = (sets.find(r#""fdset-id": 4"#), sets.find(r#""fdset-id": 0"#));
    assert!(four.is_some() && four < zero, "the highest id first: {sets}");
    assert!(sets.contains(r#""opaque": "rw:r.img""#));
    assert_eq!(
        ask_with(&mut one, 1, r#"{"execute":"add-fd","arguments":{"fdset-id":-1}}"#),
        error("Parameter 'fdset-id' expects a non-negative value")
    );
    assert_eq!(
        two.ask(r#"{"execute":"remove-fd","arguments":{"fdset-id":7}}"#),
        error("File descriptor named 'fdset-id:7' not found")
    );
    fixture.server.fd_sets().set_guest_runs(true);
    assert_eq!(two.ask(r#"{"execute":"remove-fd","arguments":{"fdset-id":4}}"#), DONE);
    assert!(!two.ask(r#"{"execute":"query-fdsets"}"#).contains(r#""fdset-id": 4"#));
}

#[test]
fn fd_set_is_opened_by_access_mode_and_lives_while_in_use() {
    let sets = qmp::FdSets::default();
    sets.set_guest_runs(true);
    let access = qmp::FdAccess::ReadOnly;
    assert_eq!(sets.open(0, access).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // A set that nobody uses lives as long as a monitor is connected, or nothing is cleaned up.
    sets.add(Some(0), File::open("/dev/null").unwrap().into(), None).unwrap();
    assert_eq!(sets.open(0, qmp::FdAccess::ReadWrite).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let file = sets.open(0, access).unwrap();
    sets.remove(0, None).unwrap();
    assert_eq!(sets.query().len(), 1, "the set is in use");
    drop(file);
    assert!(sets.query().is_empty());
}
