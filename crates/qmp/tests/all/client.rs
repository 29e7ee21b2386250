//! The typed client.

use crate::support::{Echo, Fixture, SendStop};
use qapi::control::QueryVersion;
use qmp::client::{Address, Client, ClientError};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn connect(fixture: &Fixture) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let chardev = chardev::Chardev::from_fd("c", theirs.into(), &fixture.runtime).unwrap();
    fixture.server.add_monitor(chardev, qmp::MonitorOptions::default());
    Client::from_unix(ours).unwrap()
}

#[test]
fn client_runs_typed_commands() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    assert_eq!(client.execute(&QueryVersion).unwrap(), crate::support::version());
    assert_eq!(client.execute(&Echo { text: "\u{e9}".into() }).unwrap(), "\u{e9}");
    assert_eq!(client.execute_oob("x-poke", None).unwrap().as_str(), Some("poked"));
    assert_eq!(client.greeting().get("version").unwrap().get("package").unwrap().as_str(), Some("test"));
}

#[test]
fn client_gets_errors_as_values() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    let error = client.execute_value("nonsense", None).unwrap_err();
    assert!(matches!(error, ClientError::Command(ref error) if error.class == qapi::ErrorClass::CommandNotFound));
    assert_eq!(error.to_string(), "The command nonsense has not been found");
}

#[test]
fn client_keeps_events_that_come_before_a_reply() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    client.execute(&SendStop).unwrap();
    assert_eq!(client.next_event(None).unwrap().unwrap().name, "STOP");
    assert_eq!(client.next_event(Some(Duration::from_millis(1))).unwrap(), None);
}

#[test]
fn client_sees_the_end_of_the_connection() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"{\"QMP\": {}}\r\n{\"return\": {}, \"id\": 1}\r\n").unwrap();
    let mut client = Client::from_unix(ours).unwrap();
    drop(theirs);
    assert!(matches!(client.next_event(None), Err(ClientError::Closed)));
}

#[test]
fn addresses_are_told_apart() {
    assert_eq!(Address::parse("unix:a:1"), Address::Unix("a:1".into()));
    assert_eq!(Address::parse("/run/q"), Address::Unix("/run/q".into()));
    assert_eq!(Address::parse("dir/x:1"), Address::Unix("dir/x:1".into()));
    assert_eq!(Address::parse("socket"), Address::Unix("socket".into()));
    assert_eq!(Address::parse("localhost:4444"), Address::Tcp("localhost:4444".into()));
    assert_eq!(Address::parse("tcp:[::1]:4444"), Address::Tcp("[::1]:4444".into()));
}
