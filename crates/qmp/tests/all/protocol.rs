//! Greeting, negotiation, envelope, replies, malformed input.

use crate::support::Fixture;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "test"}, "capabilities": ["oob"]}}"#;

fn error(class: &str, desc: &str) -> String {
    format!(r#"{{"error": {{"class": "{class}", "desc": "{desc}"}}}}"#)
}

fn generic(desc: &str) -> String {
    error("GenericError", desc)
}

#[test]
fn greeting_on_connection_names_version_and_oob() {
    let fixture = Fixture::new();
    assert_eq!(fixture.monitor(false).line(), GREETING);
}

#[test]
fn negotiation_refuses_other_commands_and_keeps_its_mode_on_errors() {
    let fixture = Fixture::new();
    let mut client = fixture.monitor(false);
    client.line();
    let expecting = error("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'");
    assert_eq!(client.ask(r#"{"execute":"query-version"}"#), expecting);
    assert_eq!(client.ask(r#"{"execute":"nonsense"}"#), expecting);
    assert_eq!(client.ask("{}"), generic("QMP input lacks member 'execute'"));
    assert_eq!(client.ask(r#"{"exec-oob":"qmp_capabilities"}"#), generic("QMP input member 'exec-oob' is unexpected"));
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["nosuch"]},"id":1}"#),
        r#"{"id": 1, "error": {"class": "GenericError", "desc": "Parameter 'null' does not accept value 'nosuch'"}}"#
    );
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}"#),
        generic("Invalid parameter type for 'enable', expected: array")
    );
    assert_eq!(client.ask(r#"{"execute":"query-version"}"#), expecting);
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":{"a":[1,null,true]}}"#),
        r#"{"return": {}, "id": {"a": [1, null, true]}}"#
    );
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities"}"#),
        error("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
    );
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"foo":1}}"#),
        generic("Parameter 'foo' is unexpected")
    );
}

#[test]
fn envelope_errors_have_qemus_texts() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    for (request, desc) in [
        ("[]", "QMP input must be a JSON object"),
        ("\"str\"", "QMP input must be a JSON object"),
        ("null ", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (r#"{"execute":null}"#, "QMP input member 'execute' must be a string"),
        (r#"{"execute":["stop"]}"#, "QMP input member 'execute' must be a string"),
        (r#"{"execute":"x-early","arguments":[]}"#, "QMP input member 'arguments' must be an object"),
        (r#"{"execute":"x-early","arguments":null}"#, "QMP input member 'arguments' must be an object"),
        (r#"{"execute":"x-early","extra":1}"#, "QMP input member 'extra' is unexpected"),
        (r#"{"execute":"x-early","Id":1}"#, "QMP input member 'Id' is unexpected"),
        (r#"{"exec-oob":"x-early"}"#, "QMP input member 'exec-oob' is unexpected"),
        (r#"{"execute":"x-early","exec-oob":"x-poke"}"#, "QMP input member 'exec-oob' is unexpected"),
        (r#"{"execute":"x-echo"}"#, "Parameter 'text' is missing"),
        (r#"{"execute":"x-echo","arguments":{"text":1}}"#, "Invalid parameter type for 'text', expected: string"),
        (r#"{"execute":"x-echo","arguments":{"text":"a","q":1}}"#, "Parameter 'q' is unexpected"),
    ] {
        assert_eq!(client.ask(request), generic(desc), "{request}");
    }
    for (request, desc) in [
        (r#"{"execute":"no-such-command"}"#, "The command no-such-command has not been found"),
        (r#"{"execute":"X-Early"}"#, "The command X-Early has not been found"),
        (r#"{"execute":""}"#, "The command  has not been found"),
        (r#"{"execute":"x-off"}"#, "Command x-off has been disabled: for the test"),
    ] {
        assert_eq!(client.ask(request), error("CommandNotFound", desc), "{request}");
    }
}

#[test]
fn envelope_with_oob_checks_both_spellings() {
    let fixture = Fixture::new();
    let mut client = fixture.client(true);
    assert_eq!(
        client.ask(r#"{"exec-oob":"x-poke","execute":"y","id":1}"#),
        r#"{"id": 1, "error": {"class": "GenericError", "desc": "QMP input member 'execute' clashes with 'exec-oob'"}}"#
    );
    assert_eq!(
        client.ask(r#"{"exec-oob":"query-version"}"#),
        generic("The command query-version does not support OOB")
    );
    assert_eq!(client.ask(r#"{"exec-oob":"x-poke","id":42}"#), r#"{"return": "poked", "id": 42}"#);
    assert_eq!(client.ask(r#"{"execute":"x-poke"}"#), r#"{"return": "poked"}"#);
}

#[test]
fn id_is_echoed_whatever_it_is() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    for (sent, echoed) in [
        ("null", "null"),
        ("0.1", "0.10000000000000001"),
        ("1.0", "1"),
        ("18446744073709551615", "18446744073709551615"),
        ("1e400", "inf"),
        (r#""a\/b\u00e9\ud83d\ude00""#, r#""a/b\u00E9\uD83D\uDE00""#),
        (r#"{"b":1,"a":2,"z":[{}]}"#, r#"{"a": 2, "b": 1, "z": [{}]}"#),
    ] {
        let reply = client.ask(&format!(r#"{{"execute":"x-early","id":{sent}}}"#));
        assert_eq!(reply, format!(r#"{{"return": {{}}, "id": {echoed}}}"#));
    }
}

#[test]
fn malformed_input_costs_one_error_and_the_next_request_works() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    let works = r#"{"execute":"x-early"}"#;
    for (garbage, desc) in [
        ("}", "JSON parse error, expecting value"),
        ("\u{1b}", "JSON parse error, stray '\\u001B'"),
        ("\0", "JSON parse error, stray ''"),
        ("Garbage ", "JSON parse error, stray 'G'"),
        ("\u{feff}", "JSON parse error, stray '\\uFFFD'"),
        ("nul ", "JSON parse error, invalid keyword 'nul'"),
        (r#"{"execute":"x-early","id":1,"id":2}"#, "JSON parse error, duplicate key"),
        ("{1:2}", "JSON parse error, key is not a string in object"),
    ] {
        assert_eq!(client.ask(garbage), generic(desc), "{garbage}");
        assert_eq!(client.ask(works), r#"{"return": {}}"#, "after {garbage}");
    }
}

#[test]
fn input_in_any_pieces_is_executed_at_the_closing_bracket() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    for byte in "{'execute':'x-early'".chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.ask("}"), r#"{"return": {}}"#, "no line end is needed");
    client.send(r#"{"execute":"x-early","id":1}{"execute":"x-echo","arguments":{"text":"t"},"id":2}[]"#);
    assert_eq!(client.line(), r#"{"return": {}, "id": 1}"#);
    assert_eq!(client.line(), r#"{"return": "t", "id": 2}"#);
    assert_eq!(client.line(), generic("QMP input must be a JSON object"));
    client.send("5");
    assert_eq!(client.ask("\n"), generic("QMP input must be a JSON object"), "a number ends with what follows");
}

#[test]
fn pretty_monitor_spreads_messages_over_lines() {
    let fixture = Fixture::new();
    let mut client = fixture.monitor(true);
    assert_eq!(client.line(), "{");
    assert_eq!(client.line(), "    \"QMP\": {");
    while client.line() != "}" {}
    client.send(r#"{"execute":"qmp_capabilities"}"#);
    let lines: Vec<_> = (0..4).map(|_| client.line()).collect();
    assert_eq!(lines, ["{", "    \"return\": {", "    }", "}"]);
}

#[test]
fn preconfig_allows_only_declared_commands() {
    let fixture = Fixture::with_preconfig(true);
    let mut client = fixture.client(false);
    assert_eq!(client.ask(r#"{"execute":"x-early"}"#), r#"{"return": {}}"#);
    let echo = r#"{"execute":"x-echo","arguments":{"text":"t"}}"#;
    let refused = "The command 'x-echo' is permitted only after machine initialization has completed";
    assert_eq!(client.ask(echo), generic(refused));
    fixture.preconfig.store(false, std::sync::atomic::Ordering::Release);
    assert_eq!(client.ask(echo), r#"{"return": "t"}"#);
}

#[test]
fn introspection_lists_what_is_registered_and_enabled() {
    let fixture = Fixture::new();
    let mut client = fixture.client(false);
    let commands = client.ask(r#"{"execute":"query-commands"}"#);
    assert!(commands.starts_with(r#"{"return": [{"name": "query-fdsets"}, "#), "the latest first: {commands}");
    assert!(commands.contains(r#"{"name": "x-echo"}"#) && commands.contains(r#"{"name": "qmp_capabilities"}"#));
    assert!(!commands.contains("x-off") && !commands.contains("STOP"));
    assert_eq!(client.ask(r#"{"execute":"query-events"}"#), r#"{"return": [{"name": "RESUME"}, {"name": "STOP"}]}"#);
    let schema = client.ask(r#"{"execute":"query-qmp-schema"}"#);
    assert!(schema.contains(r#""name": "x-poke""#) && schema.contains(r#""allow-oob": true"#), "{schema}");
}
