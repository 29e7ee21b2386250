//! The option grammar: QEMU's texts and results.

use qapi::json::{self, Value};
use qapi::keyval::{Grammar, SizeError, from_keyval, parse, parse_i64, parse_size, parse_u64};
use qapi::{QapiType, Size};

/// Compact JSON with the members in the order of the option's text.
fn in_given_order(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(",");
    match value {
        Value::Array(items) => format!("[{}]", list(items.iter().map(in_given_order).collect())),
        Value::Object(map) => {
            let member = |(name, value)| format!("{name}:{}", in_given_order(value));
            format!("{{{}}}", list(map.iter().map(member).collect()))
        }
        other => json::to_string(other),
    }
}

fn parsed(text: &str) -> String {
    parsed_with(text, &Grammar::implied("type"))
}

fn parsed_with(text: &str, grammar: &Grammar<'_>) -> String {
    match parse(text, grammar) {
        Ok(parsed) => in_given_order(&Value::Object(parsed.map)),
        Err(error) => error.desc,
    }
}

#[test]
fn options_are_split_at_single_commas() {
    assert_eq!(parsed("socket,id=a,path=/x,,y"), r#"{type:"socket",id:"a",path:"/x,y"}"#);
    assert_eq!(parsed("id=a,"), r#"{id:"a"}"#);
    assert_eq!(parsed("id=,x=a=b"), r#"{id:"",x:"a=b"}"#);
    assert_eq!(parsed("a,,b"), r#"{type:"a,b"}"#);
    assert_eq!(parsed("id=a,id=b"), r#"{id:"b"}"#);
    assert_eq!(parsed(""), "{}");
}

#[test]
fn dotted_keys_make_objects_and_arrays() {
    assert_eq!(parsed("a.b.c=x,a.d=y"), r#"{a:{b:{c:"x"},d:"y"}}"#);
    assert_eq!(parsed("a.1=y,a.0=x"), r#"{a:["x","y"]}"#);
    assert_eq!(parsed("a.0.b=x,a.1.b=y"), r#"{a:[{b:"x"},{b:"y"}]}"#);
}

#[test]
fn wrong_keys_are_refused_in_qemus_words() {
    assert_eq!(parsed("a.1=x"), "Parameter 'a.0' missing");
    assert_eq!(parsed("a.0=x,a.b=y"), "Parameters 'a.*' used inconsistently");
    assert_eq!(parsed("a=x,a.b=y"), "Parameters 'a.*' used inconsistently");
    assert_eq!(parsed("a.b=y,a=x"), "Parameters 'a.*' used inconsistently");
    assert_eq!(parsed("x..y=1"), "Invalid parameter 'x..y'");
    assert_eq!(parsed(".x=1"), "Invalid parameter '.x'");
    assert_eq!(parsed("=x"), "Invalid parameter ''");
    assert_eq!(parsed("0=x"), "Invalid parameter '0'");
    assert_eq!(parsed("id=x,flag"), "Expected '=' after parameter 'flag'");
    assert!(parsed(&format!("{}=x", "a.".repeat(100_000) + "a")).starts_with("Invalid parameter"));
}

#[test]
fn short_booleans_are_on_and_with_no_off() {
    let grammar = Grammar::implied("backend").with_shorthand();
    assert_eq!(parsed_with("socket,server,nowait", &grammar), r#"{backend:"socket",server:"on",wait:"off"}"#);
    let short = parse("socket,server,nowait,path=x", &grammar).map(|parsed| parsed.short_forms);
    assert_eq!(short, Ok(vec!["server".to_owned(), "nowait".to_owned()]));
}

#[test]
fn help_is_noticed_and_json_is_json() {
    let help = |text| parse(text, &Grammar::implied("type")).map(|parsed| parsed.help);
    assert_eq!((help("help"), help("x,?"), help("help=x")), (Ok(true), Ok(true), Ok(false)));
    let Ok(parsed) = parse(r#"{"size":5}"#, &Grammar::strict()) else { panic!("refused") };
    assert_eq!((parsed.is_json, parsed.map.get("size")), (true, Some(&Value::Int(5))));
    assert_eq!(parsed_with(r#"{"a":1"#, &Grammar::strict()), "JSON parse error, premature EOI");
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct Backend {
    id: String,
    size: Size,
    share: Option<bool>,
    policy: Option<Policy>,
    poll_max_ns: Option<i64>,
    latency_ns: Option<u64>,
    threads: Option<u32>,
    nodes: Option<Vec<u16>>,
    inner: Option<Inner>,
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct Inner {
    ratio: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, QapiType)]
enum Policy {
    Default,
    HostBind,
}

fn backend(text: &str) -> Result<Backend, String> {
    from_keyval(text, &Grammar::implied("id")).map_err(|error| error.desc)
}

#[test]
fn strings_become_what_the_type_wants() {
    let expected = Backend {
        id: "a".into(),
        size: Size(64 << 20),
        share: Some(true),
        policy: Some(Policy::HostBind),
        poll_max_ns: Some(-16),
        latency_ns: Some(8),
        threads: Some(3),
        nodes: Some(vec![1, 2]),
        inner: Some(Inner { ratio: 0.5 }),
    };
    let text = "a,size=64M,share=yes,policy=host-bind,poll-max-ns=-0x10,latency-ns=010,threads=3,\
                nodes.0=1,nodes.1=2,inner.ratio=0.5";
    assert_eq!(backend(text), Ok(expected));
    assert_eq!(backend(r#"{"id":"a","size":5}"#).map(|backend| backend.size), Ok(Size(5)));
    assert!(backend(r#"{"id":"a","size":"5"}"#).is_err());
}

#[test]
fn strings_that_do_not_fit_are_refused_in_qemus_words() {
    for (text, expected) in [
        ("a,size=1,share=zz", "Parameter 'share' expects 'on' or 'off'"),
        ("a,size=zz", "Parameter 'size' expects size"),
        ("a,size=1,latency-ns=zz", "Parameter 'latency-ns' expects integer"),
        ("a,size=1,poll-max-ns=99999999999999999999", "Parameter 'poll-max-ns' expects integer"),
        ("a,size=1,threads=-1", "Parameter 'threads' expects uint32_t"),
        ("a,size=1,policy=zz", "Parameter 'policy' does not accept value 'zz'"),
        ("a,size=1,nodes=1", "Invalid parameter type for 'nodes', expected: array"),
        ("a,size=1,nodes.0=x", "Parameter 'nodes.0' expects integer"),
        ("a,size=1,inner.ratio=x", "Invalid parameter type for 'inner.ratio', expected: number"),
        ("a,size=1,inner.x=1,inner.ratio=1", "Parameter 'inner.x' is unexpected"),
        ("a,size=1,inner=x", "Invalid parameter type for 'inner', expected: object"),
        ("a", "Parameter 'size' is missing"),
        ("size=1", "Parameter 'id' is missing"),
    ] {
        assert_eq!(backend(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn sizes_take_suffixes_fractions_and_hexadecimal() {
    for (text, expected) in [
        ("0", Ok(0)),
        ("128", Ok(128)),
        ("128b", Ok(128)),
        ("1k", Ok(1024)),
        ("0.5M", Ok(512 << 10)),
        (".5G", Ok(512 << 20)),
        ("1.", Ok(1)),
        ("1.0", Ok(1)),
        ("2T", Ok(2 << 40)),
        ("3P", Ok(3 << 50)),
        ("15E", Ok(15 << 60)),
        ("0x10", Ok(16)),
        ("0x10K", Ok(16 << 10)),
        ("16E", Err(SizeError::Range)),
        ("99999999999999999999", Err(SizeError::Range)),
        ("1.5", Err(SizeError::Invalid)),
        ("1e3", Err(SizeError::Invalid)),
        ("-1", Err(SizeError::Invalid)),
        ("zz", Err(SizeError::Invalid)),
        ("", Err(SizeError::Invalid)),
        ("M", Err(SizeError::Invalid)),
        ("1MM", Err(SizeError::Invalid)),
        ("0x", Err(SizeError::Invalid)),
    ] {
        assert_eq!(parse_size(text, 1), expected, "{text}");
    }
    assert_eq!((parse_size("256", 1 << 20), parse_size("1.5", 1 << 20)), (Ok(256 << 20), Ok(3 << 19)));
}

#[test]
fn integers_are_read_as_c_reads_them() {
    assert_eq!((parse_i64("-9223372036854775808"), parse_i64("9223372036854775808")), (Some(i64::MIN), None));
    assert_eq!((parse_u64("-1"), parse_u64("0x"), parse_u64("+-1")), (Some(u64::MAX), None, None));
    assert_eq!((parse_u64("08"), parse_u64("1 "), parse_u64("")), (None, None, None));
}
