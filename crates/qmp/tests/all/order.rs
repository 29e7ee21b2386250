//! Who is served when: queue, out of band, several monitors, clients that leave.

use crate::support::{Fixture, Raw};
use chardev::{Chardevs, parse_option};
use qmp::MonitorOptions;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

fn echo(text: &str) -> String {
    format!(r#"{{"execute":"x-echo","arguments":{{"text":"{text}"}}}}"#)
}

#[test]
fn requests_of_one_client_are_answered_in_order_wherever_they_run() {
    let fixture = Fixture::new();
    for oob in [false, true] {
        let mut client = fixture.client(oob);
        client.send(r#"{"execute":"x-wait","id":1}{"execute":"x-early","id":2}{"execute":"x-later","id":3}"#);
        client.send(r#"}{"execute":"x-echo","arguments":{"text":"t"},"id":5}"#);
        fixture.gate.send(()).unwrap();
        assert_eq!(client.line(), r#"{"return": {}, "id": 1}"#);
        assert_eq!(client.line(), r#"{"return": {}, "id": 2}"#);
        fixture.later.recv().unwrap().send(Ok("late".into()));
        assert_eq!(client.line(), r#"{"return": "late", "id": 3}"#);
        assert!(client.line().contains("JSON parse error, expecting value"), "errors keep their place");
        assert_eq!(client.line(), r#"{"return": "t", "id": 5}"#);
    }
}

#[test]
fn out_of_band_command_overtakes_waiting_ones() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    client.send(r#"{"execute":"x-wait","id":1}{"execute":"x-poke","id":2}{"exec-oob":"x-poke","id":3}"#);
    assert_eq!(client.line(), r#"{"return": "poked", "id": 3}"#);
    fixture.gate.send(()).unwrap();
    assert_eq!(client.line(), r#"{"return": {}, "id": 1}"#);
    assert_eq!(client.line(), r#"{"return": "poked", "id": 2}"#);
}

#[test]
fn full_queue_stops_reading_until_there_is_room() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    client.send(r#"{"execute":"x-wait","id":"first"}"#);
    for id in 0..qmp::QUEUE_LIMIT {
        client.send(&format!(r#"{{"execute":"x-early","id":{id}}}"#));
    }
    // Behind a full queue even an out-of-band command is not seen.
    client.send(r#"{"exec-oob":"x-poke","id":"oob"}"#);
    fixture.gate.send(()).unwrap();
    assert_eq!(client.line(), r#"{"return": {}, "id": "first"}"#);
    let first = client.line();
    assert!(first.contains("\"id\": 0"), "{first}");
    let rest: Vec<_> = (0..qmp::QUEUE_LIMIT).map(|_| client.line()).collect();
    assert_eq!(rest.iter().filter(|line| line.contains("oob")).count(), 1, "{rest:?}");
}

#[test]
fn monitors_take_turns() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.client(true), fixture.client(true));
    let mut blocker = fixture.client(false);
    blocker.send(r#"{"execute":"x-wait"}"#);
    for number in 0..4 {
        one.send(&echo(&format!("one {number}")));
    }
    // An out-of-band reply shows that the four have been read.
    assert_eq!(one.ask(r#"{"exec-oob":"x-poke"}"#), r#"{"return": "poked"}"#);
    two.send(&echo("two 0"));
    assert_eq!(two.ask(r#"{"exec-oob":"x-poke"}"#), r#"{"return": "poked"}"#);
    fixture.gate.send(()).unwrap();
    for number in 0..4 {
        assert_eq!(one.line(), format!(r#"{{"return": "one {number}"}}"#));
    }
    assert_eq!(two.line(), r#"{"return": "two 0"}"#);
    let log = fixture.log.lock().unwrap();
    assert_eq!(log[..3], ["one 0", "two 0", "one 1"]);
}

#[test]
fn handlers_event_is_sent_before_its_reply_on_all_monitors() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.client(false), fixture.client(false));
    one.send(r#"{"execute":"x-stop","id":1}"#);
    assert!(one.line().contains(r#""event": "STOP""#));
    assert_eq!(one.line(), r#"{"return": {}, "id": 1}"#);
    assert!(two.ask(r#"{"execute":"x-early"}"#).contains("STOP"), "the event was there before");
}

#[test]
fn dropped_reply_slot_answers_with_an_error() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    client.send(r#"{"execute":"x-later","id":1}"#);
    drop(fixture.later.recv().unwrap());
    assert!(client.line().contains("given up"));
}

/// A listening monitor and a way to reach it.
struct Listening {
    fixture: Fixture,
    _chardevs: Chardevs,
    directory: tempfile::TempDir,
}

impl Listening {
    fn new() -> Self {
        let fixture = Fixture::new();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp").display().to_string();
        let chardevs = Chardevs::new(fixture.runtime.clone());
        chardevs.add(&parse_option(&format!("socket,id=c,path={path},server=on,wait=off")).unwrap()).unwrap();
        let chardev = chardevs.attach("c").unwrap();
        fixture.server.add_monitor(chardev, MonitorOptions::default());
        Self { fixture, _chardevs: chardevs, directory }
    }

    fn connect(&self) -> Raw {
        Raw::new(UnixStream::connect(self.directory.path().join("qmp")).unwrap())
    }
}

#[test]
fn second_client_gets_its_greeting_when_the_first_leaves() {
    let listening = Listening::new();
    let mut first = listening.connect();
    first.line();
    assert_eq!(first.ask(r#"{"execute":"qmp_capabilities"}"#), r#"{"return": {}}"#);
    let mut second = listening.connect();
    assert_eq!(first.ask(r#"{"execute":"x-early"}"#), r#"{"return": {}}"#);
    drop(first);
    assert!(second.line().starts_with(r#"{"QMP": "#));
    assert!(second.ask(r#"{"execute":"x-early"}"#).contains("Expecting capabilities negotiation"));
}

#[test]
fn client_that_leaves_in_mid_command_harms_nobody() {
    let listening = Listening::new();
    let mut first = listening.connect();
    first.line();
    first.send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"x-later\",\"id\":\"old\"}\n{\"exec");
    assert_eq!(first.line(), r#"{"return": {}}"#);
    let reply = listening.fixture.later.recv().unwrap();
    drop(first);
    // The half message keeps the input from being taken; the command's end lets it go on.
    reply.send(Ok("late".into()));
    let mut second = listening.connect();
    assert!(second.line().starts_with(r#"{"QMP": "#));
    assert_eq!(second.ask(r#"{"execute":"qmp_capabilities"}"#), r#"{"return": {}}"#);
    second.send("{\"execute\":\"x-later\"}\n");
    let reply = listening.fixture.later.recv().unwrap();
    drop(second);
    let mut third = listening.connect();
    assert!(third.line().starts_with(r#"{"QMP": "#), "no need to wait for the command of the second");
    reply.send(Ok("nobody hears this".into()));
    assert_eq!(third.ask(r#"{"execute":"qmp_capabilities"}"#), r#"{"return": {}}"#);
}

#[test]
fn half_closed_client_gets_its_replies_and_then_the_end() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    client.send(r#"{"execute":"x-later"}{"execute":"x-large","arguments":{"size":1000000}}{"execute":"x-early"}"#);
    client.stream.shutdown(Shutdown::Write).unwrap();
    fixture.later.recv().unwrap().send(Ok("late".into()));
    let rest = client.rest();
    assert!(rest.starts_with("{\"return\": \"late\"}\r\n{\"return\": \"xxx"), "{} bytes", rest.len());
    assert!(rest.len() > 1_000_000 && rest.ends_with("x\"}\r\n{\"return\": {}}\r\n"), "{} bytes", rest.len());
}
