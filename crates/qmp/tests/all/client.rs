//! The typed client.

use crate::support::{Echo, Fixture, SendStop};
use qapi::control::QueryVersion;
use qapi::json::Map;
use qmp::client::{Client, ClientError, ClientOptions, Negotiation};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn connect(fixture: &Fixture) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let chardev = chardev::Chardev::from_fd("c", theirs.into(), &fixture.runtime).unwrap();
    fixture.server.add_monitor(chardev, qmp::MonitorOptions::default());
    Client::from_stream(ours, &ClientOptions { negotiation: Negotiation::Oob, ..ClientOptions::default() }).unwrap()
}

#[test]
fn client_runs_typed_commands() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    assert_eq!(client.execute(&QueryVersion).unwrap(), crate::support::version());
    assert_eq!(client.execute(&Echo { text: "\u{e9}".into() }).unwrap(), "\u{e9}");
    assert_eq!(client.run(Map::from_iter([("exec-oob", "x-poke")]), &[]).unwrap().as_str(), Some("poked"));
}

#[test]
fn client_gets_errors_as_values() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    let error = client.execute_value("nonsense", None).unwrap_err();
    assert!(matches!(error, ClientError::Command(ref error) if error.class == qapi::ErrorClass::CommandNotFound));
    assert_eq!(error.to_string(), "The command nonsense has not been found");
    assert_eq!(error.refusal().map(|error| error.class), Some(qapi::ErrorClass::CommandNotFound));
}

#[test]
fn client_keeps_events_that_come_before_a_reply() {
    let fixture = Fixture::new();
    let mut client = connect(&fixture);
    client.execute(&SendStop).unwrap();
    assert_eq!(client.next_event(None).unwrap().unwrap().name, "STOP");
    assert_eq!(client.next_event(Some(Duration::from_millis(1))).unwrap(), None);
}
