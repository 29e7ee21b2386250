//! The reader and the writer against exchanges that were recorded with QEMU 7.2
//! (`qmp.md` section 17, groups "dialect", "num" and "resync").

use qapi::json::{self, Map, Reader, Value};

/// What the reader makes of some input: values in QEMU's output form, errors as `! text`. For
/// requests that have an `id`, only that.
fn read(input: &[u8]) -> Vec<String> {
    let mut reader = Reader::new();
    reader.push(input);
    drain(&mut reader)
}

fn drain(reader: &mut Reader) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(item) = reader.next() {
        found.push(match item {
            Ok(value) => json::to_string(value.get("id").unwrap_or(&value)),
            // As it would be in the reply's `desc`.
            Err(error) => format!("! {}", json::to_string(&Value::from(error.to_string())).trim_matches('"')),
        });
    }
    found
}

fn check(input: &[u8], expected: &[&str]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|text| match text.strip_prefix("! ") {
            Some(text) if text.starts_with("JSON") => format!("! {text}"),
            Some(text) => format!("! JSON parse error, {text}"),
            None => (*text).to_owned(),
        })
        .collect();
    let shown = String::from_utf8_lossy(input);
    assert_eq!(read(input), expected, "input {shown}");
    // The same bytes one at a time must give the same.
    let mut reader = Reader::new();
    let mut slowly = Vec::new();
    for byte in input {
        reader.push(std::slice::from_ref(byte));
        slowly.extend(drain(&mut reader));
    }
    assert_eq!(slowly, expected, "input {shown}, byte by byte");
}

/// Half of what threads have by default, in KiB.
const STACK: usize = 1024;

const NAME: &str = r#"{"execute": "query-name"}"#;

/// A request with this text as its id.
fn id(text: &[u8]) -> Vec<u8> {
    [br#"{"execute":"query-status","id":"#.as_slice(), text, b"}\n"].concat()
}

#[test]
fn strings_in_either_quotes_and_with_all_escapes_are_read() {
    check(b"{'execute':'query-name'}\n", &[NAME]);
    check(&id(br#""a\/b\u00e9\ud83d\ude00""#), &[r#""a/b\u00E9\uD83D\uDE00""#]);
    check(&id("\"\u{e9}\u{1f600}\"".as_bytes()), &[r#""\u00E9\uD83D\uDE00""#]);
    check(&id(b"\"a\xC0\x80b\""), &[r#""a\u0000b""#]);
    check(&id(b"\"\x7F\""), &[r#""\u007F""#]);
    check(&id(br#"'it"s \' \" \\ \b\f\n\r\t'"#), &[r#""it\"s ' \" \\ \b\f\n\r\t""#]);
    check(b"\"a\\u0000b\"\n", &[r#""a\u0000b""#]);
}

#[test]
fn strings_with_invalid_characters_are_refused_with_the_reason() {
    check(&id(br#""\ud800""#), &[r"! \\ud800 is not a valid Unicode character"]);
    check(&id(br#""\ud800\u0041""#), &[r"! \\ud800 is not a valid Unicode character"]);
    check(&id(br#""\ufffe""#), &[r"! \\ufffe is not a valid Unicode character"]);
    check(&id(br#""\u12g4""#), &[r"! \\u12g4 is not a valid Unicode character"]);
    check(&id(br#""\u12""#), &[r#"! \\u12\" is not a valid Unicode character"#]);
    check(&id(br#""\q""#), &["! invalid escape sequence in string"]);
    check(&id(b"\"\xC3(\""), &["! invalid UTF-8 sequence in string"]);
    check(&id(b"\"\xC1\x81\""), &["! invalid UTF-8 sequence in string"]);
    check(&id(b"\"\xED\xA0\x80\""), &["! invalid UTF-8 sequence in string"]);
    check(&id(b"\"\xFD\x80\""), &["! invalid UTF-8 sequence in string"]);
}

#[test]
fn strings_with_bytes_that_no_string_has_are_lexical_errors() {
    check(&id(b"\"\xFF\""), &[r#"! stray '\"\uFFFD'"#, "! expecting value"]);
    check(&id(b"\"nl\nhere\""), &[r#"! stray '\"nl\n'"#, "! expecting value"]);
    check(&id(b"\"a\tb\""), &[r#"! stray '\"a\t'"#, "! expecting value"]);
}

#[test]
fn messages_with_odd_syntax_are_read_or_refused_as_qemu_does() {
    check(b"{\"execute\"\n:\r\n\t\"query-name\"\n}\n", &[NAME]);
    check(b"{\"execute\":\"query-name\"} // comment\n{\"execute\":\"query-name\"}\n", &[NAME, "! stray '/'", NAME]);
    check(b"# c\n{\"execute\":\"query-name\"}\n", &["! stray '#'", NAME]);
    check(b"{\"execute\":\"query-name\",}\n", &["! expecting value"]);
    check(b"{execute:\"query-name\"}\n", &["! invalid keyword 'execute'"]);
    check(b"{\"execute\":\"query-name\",\"id\":1,\"id\":2}\n", &["! duplicate key"]);
    check(b"{1:2}\n", &["! key is not a string in object"]);
    check(b"{\"a\" 1}\n", &["! missing : in object pair"]);
    check(b"[1 2]\n", &["! expected separator in list"]);
    check(b"[1,]\n", &["! expecting value"]);
    check(b"{}\n[]\n1\n\"str\"\nnull\n", &["{}", "[]", "1", "\"str\"", "null"]);
    check(b"nul\n", &["! invalid keyword 'nul'"]);
    check(b"NaN\n", &["! stray 'N'"]);
    check(b"}\n", &["! expecting value"]);
    check(br#"{"id":{"b":1,"a":2,"z":[{}]}}"#, &[r#"{"a": 2, "b": 1, "z": [{}]}"#]);
    check(b"{\"execute\":\"query-name\",\"id\":%s}\n", &["! stray '%'", "! expecting value"]);
    check(b"{\"id\":{\"\":1}}\n", &[r#"{"": 1}"#]);
}

#[test]
fn numbers_keep_their_kind_and_print_as_c_does() {
    check(b"-0\n", &["0"]);
    check(b".5\n", &["! stray '.'"]);
    check(b"1e5\n1E+5\n0.5e3\n", &["100000", "100000", "500"]);
    check(b"0e5\n", &["0", "! invalid keyword 'e'", "5"]);
    check(b"00\n", &["! stray '00'"]);
    check(b"-\n{\"execute\":\"query-name\"}\n", &[r"! stray '-\n'", NAME]);
    let request = "{\"execute\":\"query-name\"}\n";
    check(format!("1.\n{request}{request}").as_bytes(), &[r"! stray '1.\n'", NAME, NAME]);
    for (number, printed) in [
        ("9223372036854775807", "9223372036854775807"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775809", "-9.2233720368547758e+18"),
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("0.1", "0.10000000000000001"),
        ("1.0", "1"),
        ("1e400", "inf"),
        ("-1e400", "-inf"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "-0"),
        ("1e-5", "1.0000000000000001e-05"),
        ("1.5e-10", "1.5e-10"),
        ("0.0001", "0.0001"),
        ("1e16", "10000000000000000"),
        ("1e17", "1e+17"),
        ("123456789012345678.0", "1.2345678901234568e+17"),
        ("5e-324", "4.9406564584124654e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("-1.5", "-1.5"),
        ("true", "true"),
        ("null", "null"),
    ] {
        check(&id(number.as_bytes()), &[printed]);
    }
}

#[test]
fn reading_goes_on_where_qemu_goes_on() {
    check(b"{\"execute\":\"query-name\",\"id\":[1,2\n}\n", &[]);
    check(
        b"{\"execute\":\"query-name\",\"id\":[1,2\n}\n]\n{\"execute\":\"query-name\"}\n",
        &["! expected separator in list", NAME],
    );
    check(b"\x1B{\"execute\":\"query-name\"}\n", &[r"! stray '\u001B'", NAME]);
    check(b"{\"execute\":[\x1B{\"execute\":\"query-name\"}\n", &[r"! stray '\u001B'", NAME]);
    check(b"\0{\"execute\":\"query-name\"}\n", &["! stray ''", NAME]);
    check(b"Garbage words { \"execute\":\"query-name\"}\n", &["! stray 'G'", NAME]);
    check(b"garbage words\n", &["! invalid keyword 'garbage'", "! invalid keyword 'words'"]);
    check(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &["! stray 'G'", "! stray 'H'", "! expecting value", "! invalid keyword 'x'"],
    );
    check(b"\xEF\xBB\xBF{\"execute\":\"query-name\"}\n", &[r"! stray '\uFFFD'", NAME]);
    check(b"{\"execute\":\"query-name\"]}", &["! expected separator in dict", "! expecting value"]);
    check(b"5", &[]);
    check(b"5\n", &["5"]);
}

#[test]
fn nesting_up_to_the_limit_is_read_and_beyond_it_is_refused() {
    let nested = |depth: usize| format!("{}{}\n", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    assert_eq!(read(&nested(1024)).len(), 1);
    let found = read(&nested(1025));
    assert_eq!(found[0], "! JSON nesting depth limit exceeded");
    // The brackets that remain are new input, one error each.
    assert_eq!(found.len(), 1026);
    assert!(found[1..].iter().all(|text| text.ends_with("expecting value")));
}

#[test]
fn deep_values_fit_the_stack_of_any_thread() {
    let work = || {
        let objects = format!("{}1{}", "{\"a\":".repeat(1024), "}".repeat(1024));
        let value = json::parse(&objects).unwrap_or_default();
        assert_eq!(json::parse(&json::to_string(&value.clone())), Ok(value));
    };
    let thread = std::thread::Builder::new().stack_size(STACK << 10).spawn(work);
    assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
}

#[test]
fn tokens_beyond_the_limits_are_refused() {
    let mut reader = Reader::new();
    reader.push(b"[");
    let many = b"1,".repeat(1 << 20);
    reader.push(&many);
    assert_eq!(drain(&mut reader)[0], "! JSON token count limit exceeded");

    let mut reader = Reader::new();
    reader.push(b"\"");
    let part = vec![b'a'; 1 << 20];
    let mut found = Vec::new();
    for _ in 0..65 {
        reader.push(&part);
        found.extend(drain(&mut reader));
    }
    assert_eq!(found[0], "! JSON token size limit exceeded");
}

#[test]
fn end_of_input_reports_what_is_unfinished() {
    let end = |text: &str| {
        let mut reader = Reader::new();
        reader.push(text.as_bytes());
        reader.finish();
        drain(&mut reader)
    };
    assert_eq!(end("5"), ["5"]);
    assert_eq!(end("[1"), ["! JSON parse error, premature EOI"]);
    assert_eq!(end("{\"a"), [r#"! JSON parse error, stray '\"a'"#]);
    assert_eq!(end("-"), ["! JSON parse error, stray '-'"]);
    assert!(end(" \n").is_empty());
    assert!(json::parse("1 2").is_err());
    assert!(json::parse("").is_err());
    assert_eq!(json::parse("[1]").ok(), Some(Value::Array(vec![Value::Int(1)])));
}

#[test]
fn objects_are_written_in_the_order_of_qemus_hash() {
    let written = |names: &[&str]| {
        let map: Map = names.iter().map(|name| (*name, Value::Null)).collect();
        json::to_string(&Value::Object(map)).replace(": null", "")
    };
    assert_eq!(written(&["major", "minor", "micro"]), r#"{"micro", "minor", "major"}"#);
    assert_eq!(written(&["id", "return"]), r#"{"return", "id"}"#);
    assert_eq!(written(&["error", "id"]), r#"{"id", "error"}"#);
    assert_eq!(written(&["data", "event", "timestamp"]), r#"{"timestamp", "event", "data"}"#);
    assert_eq!(
        written(&["cpu-index", "qom-path", "thread-id", "props", "target"]),
        r#"{"thread-id", "props", "qom-path", "cpu-index", "target"}"#
    );
    assert_eq!(written(&["running", "singlestep", "status"]), r#"{"status", "singlestep", "running"}"#);
}

#[test]
fn pretty_output_breaks_even_empty_containers() {
    let value = json::parse(r#"{"return":{},"id":[[],{"a":[1,"x"]}]}"#).unwrap_or_default();
    let expected = "{\n    \"return\": {\n    },\n    \"id\": [\n        [\n        ],\n        {\n            \
                    \"a\": [\n                1,\n                \"x\"\n            ]\n        }\n    ]\n}";
    assert_eq!(json::to_string_pretty(&value), expected);
}

#[test]
fn maps_stay_consistent_when_they_grow_and_shrink() {
    let mut map = Map::new();
    for number in 0..100_i64 {
        assert!(map.insert(format!("n{number}"), number).is_none());
    }
    assert_eq!(map.insert("n50", 7_i64), Some(Value::Int(50)));
    assert_eq!(map.remove("n10"), Some(Value::Int(10)));
    map.retain(|name, _| name != "n20");
    assert_eq!((map.len(), map.get("n50"), map.get("n20")), (98, Some(&Value::Int(7)), None));
    assert_eq!(map.get("n99"), Some(&Value::Int(99)));
    for number in 21..100 {
        map.remove(&format!("n{number}"));
    }
    assert_eq!((map.len(), map.get("n19")), (19, Some(&Value::Int(19))));
    assert_eq!(map.keys().next(), Some("n0"));
}

#[test]
fn arbitrary_bytes_never_panic_and_values_survive_a_round_trip() {
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let alphabet = br#"{}[]:,"'\u0123dE8.-+eEtruefalsn %/_x"#;
    for _ in 0..20_000 {
        let mut input = Vec::new();
        for _ in 0..(seed % 40) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = usize::try_from(seed >> 40).unwrap_or(0);
            input.push(if pick % 29 == 0 { (pick >> 8) as u8 } else { alphabet[pick % alphabet.len()] });
        }
        seed = seed.wrapping_add(1).rotate_left(7);
        let mut reader = Reader::new();
        reader.push(&input);
        reader.finish();
        while let Some(item) = reader.next() {
            if let Ok(value) = item {
                let text = json::to_string(&value);
                if !text.contains("inf") {
                    let again = json::parse(&text).map(|value| json::to_string(&value));
                    assert_eq!(again.ok().as_deref(), Some(text.as_str()));
                }
            }
        }
    }
}
