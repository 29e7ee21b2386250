//! Clients that mean harm: they get errors, and others notice nothing.

use crate::support::{Fixture, PATIENCE};
use std::io::Write as _;

/// Sends what the server does not want to read, in a thread, until it is through or dropped.
fn flood(client: &crate::support::Raw, piece: Vec<u8>, count: usize) -> std::thread::JoinHandle<()> {
    let mut stream = client.stream.try_clone().unwrap();
    std::thread::spawn(move || {
        for _ in 0..count {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    })
}

#[test]
fn endless_string_ends_in_an_error_and_other_clients_are_served() {
    let fixture = Fixture::new();
    let (mut hostile, mut other) = (fixture.client(false), fixture.client(false));
    hostile.send("\"");
    let flood = flood(&hostile, vec![b'a'; 1 << 20], 65);
    assert_eq!(other.ask(r#"{"execute":"x-echo","arguments":{"text":"t"}}"#), r#"{"return": "t"}"#);
    assert!(hostile.line().contains("JSON token size limit exceeded"));
    flood.join().unwrap();
    // What is left of it is one long word: the error about it comes when it ends.
    assert!(hostile.ask(" ").contains("JSON parse error"));
    assert_eq!(hostile.ask(r#"{"execute":"x-early"}"#), r#"{"return": {}}"#);
}

#[test]
fn nested_brackets_beyond_the_limit_are_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    let nested = |depth| format!("{{\"execute\":\"x-early\",\"id\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let reply = client.ask(&nested(1023));
    assert!(reply.starts_with("{\"return\": {}, \"id\": [[["), "{reply}");
    assert!(client.ask(&nested(1024)).contains("JSON nesting depth limit exceeded"));
    // Each closing bracket that is left over is an error of its own: 1024 and the brace.
    for _ in 0..1024 {
        assert!(client.line().contains("JSON parse error"));
    }
    client.send("\u{1b}");
    while !client.line().contains("stray") {}
    assert_eq!(client.ask(r#"{"execute":"x-early"}"#), r#"{"return": {}}"#);
}

#[test]
fn client_that_never_reads_is_not_read_and_then_dropped() {
    let fixture = Fixture::new();
    let (hostile, mut other) = (fixture.client(false), fixture.client(false));
    let flood = flood(&hostile, b"{}".repeat(1000), 10_000);
    // Its commands are no longer read: the flood stands still, events pile up to the bound.
    let event = qapi::EventMessage {
        name: "X_BIG",
        rate_limit: None,
        rate_key: None,
        data: Some(qapi::json::Value::from("x".repeat(1 << 20))),
    };
    for _ in 0..qmp::OUTPUT_BOUND >> 19 {
        fixture.events.emit_message(event.clone());
        assert!(other.line().contains("X_BIG"));
    }
    flood.join().unwrap();
    assert_eq!(other.ask(r#"{"execute":"x-echo","arguments":{"text":"t"}}"#), r#"{"return": "t"}"#);
    hostile.stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn http_request_gets_errors_and_the_connection_stays() {
    let fixture = Fixture::new();
    let mut client = fixture.monitor(false);
    client.line();
    assert!(client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("stray 'G'"));
    client.send("{\"execute\":\"qmp_capabilities\"}");
    while client.line() != r#"{"return": {}}"# {}
}
