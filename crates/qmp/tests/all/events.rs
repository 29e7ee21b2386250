//! Events as clients see them.

use crate::support::Fixture;
use qapi::EventMessage;
use qapi::events::{Resume, Stop};
use qapi::json::{Map, Value, parse};
use std::time::Duration;

#[test]
fn events_go_to_clients_that_have_negotiated() {
    let fixture = Fixture::new();
    let mut ready = fixture.client(false);
    let mut new = fixture.monitor(false);
    new.line();
    fixture.events.emit(Stop);
    let event = parse(&ready.line()).unwrap();
    assert_eq!(event.get("event").and_then(Value::as_str), Some("STOP"));
    assert!(event.get("data").is_none(), "STOP has no data");
    assert!(event.get("timestamp").unwrap().get("seconds").and_then(Value::as_i64) > Some(1_600_000_000));
    assert!(event.get("timestamp").unwrap().get("microseconds").and_then(Value::as_i64) < Some(1_000_000));
    assert_eq!(new.ask(r#"{"execute":"qmp_capabilities"}"#), r#"{"return": {}}"#, "no event came before");
    fixture.events.emit(Resume);
    let (one, two) = (ready.line(), new.line());
    assert!(one.starts_with(r#"{"timestamp": {"seconds": "#) && one.ends_with(r#""event": "RESUME"}"#), "{one}");
    assert_eq!(one, two, "the same timestamp everywhere");
}

#[test]
fn limited_events_replace_each_other_and_the_last_is_sent() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    let emit = |number: i64| {
        let data = Value::Object(Map::from_iter([("number", number)]));
        let rate_limit = Some(Duration::from_millis(300));
        fixture.events.emit_message(EventMessage { name: "X_LIMITED", rate_limit, rate_key: None, data: Some(data) });
    };
    let number = |line: String| parse(&line).unwrap().get("data").unwrap().get("number").unwrap().as_i64();
    emit(1);
    emit(2);
    emit(3);
    assert_eq!(number(client.line()), Some(1));
    assert_eq!(number(client.line()), Some(3));
}
