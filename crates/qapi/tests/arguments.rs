//! Argument checking: texts, order and paths as QEMU 7.2 has them (`qmp.md` sections 9 and 17, and
//! further requests that were sent to the installed binary).

use qapi::control::QmpCapabilities;
use qapi::fd::AddFd;
use qapi::json::{self, Map, Value};
use qapi::memory::Memsave;
use qapi::run_state::{RunState, Stop};
use qapi::{Any, Command, Event, Members, Null, QapiType, Size};

fn arguments(text: &str) -> Map {
    match json::parse(text) {
        Ok(Value::Object(map)) => map,
        other => panic!("{text}: {other:?}"),
    }
}

/// The error that the arguments give, or an empty text.
fn error<C: Command>(text: &str) -> String {
    C::from_arguments(Some(arguments(text))).err().map(|error| error.desc).unwrap_or_default()
}

/// Like QEMU's `set_link`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "set_link")]
struct SetLink {
    name: String,
    up: bool,
}

/// A key, as `send-key` takes it.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(tag = "type", content = "data")]
enum KeyValue {
    Number(i64),
    Qcode(Key),
}

#[derive(Debug, Clone, Copy, PartialEq, QapiType)]
enum Key {
    A,
    #[qapi(name = "meta_l", alias = "meta")]
    MetaL,
}

#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "send-key")]
struct SendKey {
    keys: Vec<KeyValue>,
    hold_time: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(tag = "driver")]
enum Driver {
    NullCo(NullCo),
    Qcow2(Box<Qcow2>),
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct NullCo {
    size: Option<i64>,
    latency_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct Cache {
    direct: Option<bool>,
    #[qapi(default = false)]
    no_flush: bool,
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct Qcow2 {
    file: BlockdevRef,
    backing: Option<RefOrNull>,
    l2_cache_size: Option<Size>,
}

#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(alternate)]
enum BlockdevRef {
    Definition(Box<BlockdevOptions>),
    Reference(String),
}

#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(alternate, name = "BlockdevRefOrNull")]
enum RefOrNull {
    Reference(String),
    Null(Null),
}

#[derive(Debug, Clone, PartialEq, QapiType)]
struct BlockdevOptions {
    #[qapi(flatten)]
    driver: Driver,
    node_name: Option<String>,
    cache: Option<Cache>,
}

#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-add", wrapper = "options")]
struct BlockdevAdd {
    #[qapi(flatten)]
    options: BlockdevOptions,
}

#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "numbers")]
struct Numbers {
    small: Option<u8>,
    port: Option<u16>,
    word: Option<u32>,
    long: Option<u64>,
    signed: Option<i32>,
    real: Option<f64>,
    nodes: Option<Vec<u16>>,
}

/// Like `device_add`: members of its own, and anything else.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "device_add")]
struct DeviceAdd {
    driver: String,
    #[qapi(rest)]
    properties: Map,
}

#[test]
fn members_are_checked_in_the_order_of_the_schema() {
    assert_eq!(error::<SetLink>(r#"{"name":"net0"}"#), "Parameter 'up' is missing");
    assert_eq!(error::<SetLink>(r#"{"name":"net0","up":1}"#), "Invalid parameter type for 'up', expected: boolean");
    assert_eq!(error::<SetLink>(r#"{"up":1,"name":2,"q":3}"#), "Invalid parameter type for 'name', expected: string");
    assert_eq!(error::<SetLink>(r#"{"name":"net0","up":true,"q":3}"#), "Parameter 'q' is unexpected");
    assert_eq!(error::<SetLink>(r#"{"name":"net0","up":true}"#), "");
}

#[test]
fn superfluous_members_are_reported_one_at_a_time_as_qemu_picks() {
    assert_eq!(error::<Stop>(r#"{"b":1,"a":2}"#), "Parameter 'b' is unexpected");
    let many = r#"{"up":true,"name":"n","q":3,"r":4,"s":1,"t":1,"u":1,"v":1,"w":1,"xx":1,"yy":1}"#;
    assert_eq!(error::<SetLink>(many), "Parameter 'u' is unexpected");
}

#[test]
fn optional_members_may_be_absent_but_not_null() {
    assert_eq!(error::<AddFd>("{}"), "");
    assert_eq!(error::<AddFd>(r#"{"opaque":null}"#), "Invalid parameter type for 'opaque', expected: string");
}

#[test]
fn integers_refuse_fractions_and_values_out_of_range() {
    let expected = "Invalid parameter type for 'val', expected: integer";
    for val in ["0.5", "1.0", "18446744073709551615", "\"1\"", "null"] {
        assert_eq!(error::<Memsave>(&format!(r#"{{"val":{val},"size":1,"filename":"x"}}"#)), expected);
    }
    for (text, expected) in [
        (r#"{"long":0.5}"#, "Parameter 'long' expects uint64"),
        (r#"{"long":"x"}"#, "Parameter 'long' expects uint64"),
        (r#"{"word":-1}"#, "Parameter 'word' expects uint32_t"),
        (r#"{"word":"1"}"#, "Parameter 'word' expects uint64"),
        (r#"{"port":70000}"#, "Parameter 'port' expects uint16_t"),
        (r#"{"small":500}"#, "Parameter 'small' expects uint8_t"),
        (r#"{"signed":3000000000}"#, "Parameter 'signed' expects int32_t"),
        (r#"{"real":"1"}"#, "Invalid parameter type for 'real', expected: number"),
        (r#"{"nodes":[70000]}"#, "Parameter 'null' expects uint16_t"),
        (r#"{"nodes":["x"]}"#, "Parameter 'nodes[0]' expects uint64"),
        (r#"{"nodes":1}"#, "Invalid parameter type for 'nodes', expected: array"),
        (r#"{"real":1,"long":-1}"#, ""),
    ] {
        assert_eq!(error::<Numbers>(text), expected, "{text}");
    }
    let numbers = Numbers::from_arguments(Some(arguments(r#"{"long":-1}"#)));
    assert_eq!(numbers.ok().and_then(|numbers| numbers.long), Some(u64::MAX));
}

#[test]
fn enumerations_name_only_the_last_member() {
    let unknown = r#"{"enable":["oob","nosuch"]}"#;
    assert_eq!(error::<QmpCapabilities>(unknown), "Parameter 'null' does not accept value 'nosuch'");
    assert_eq!(error::<QmpCapabilities>(r#"{"enable":"oob"}"#), "Invalid parameter type for 'enable', expected: array");
    assert_eq!(
        error::<QmpCapabilities>(r#"{"enable":[1]}"#),
        "Invalid parameter type for 'enable[0]', expected: string"
    );
    assert_eq!(error::<QmpCapabilities>(r#"{"foo":1}"#), "Parameter 'foo' is unexpected");
}

#[test]
fn unions_check_the_discriminator_first_and_give_paths() {
    for (text, expected) in [
        (r#"{"keys":[{"type":"number","data":"a"}]}"#, "Invalid parameter type for 'keys[0].data', expected: integer"),
        (r#"{"keys":"a"}"#, "Invalid parameter type for 'keys', expected: array"),
        (r#"{"keys":[{"type":"qcode"}]}"#, "Parameter 'keys[0].data' is missing"),
        (r#"{"keys":[{"data":1}]}"#, "Parameter 'keys[0].type' is missing"),
        (r#"{"keys":[{"type":"nope","data":{}}]}"#, "Parameter 'type' does not accept value 'nope'"),
        (r#"{"keys":[{"type":1}]}"#, "Invalid parameter type for 'keys[0].type', expected: string"),
        (r#"{"keys":[{"type":"qcode","data":"a","x":1}]}"#, "Parameter 'keys[0].x' is unexpected"),
        (r#"{"keys":[{"type":"qcode","data":"zz"}]}"#, "Parameter 'data' does not accept value 'zz'"),
        (r#"{"keys":[1]}"#, "Invalid parameter type for 'keys[0]', expected: object"),
        (r#"{"keys":[{"type":"qcode","data":"meta"}]}"#, ""),
    ] {
        assert_eq!(error::<SendKey>(text), expected, "{text}");
    }
}

#[test]
fn nested_options_check_alternates_and_branches() {
    for (text, expected) in [
        (r#"{"driver":"nope","node-name":1}"#, "Parameter 'driver' does not accept value 'nope'"),
        (r#"{"node-name":"a"}"#, "Parameter 'driver' is missing"),
        (r#"{"driver":"null-co","latency-ns":0.5}"#, "Parameter 'latency-ns' expects uint64"),
        (
            r#"{"driver":"null-co","node-name":"a","cache":{"writeback":true}}"#,
            "Parameter 'cache.writeback' is unexpected",
        ),
        (
            r#"{"driver":"null-co","cache":{"direct":1}}"#,
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (r#"{"driver":"qcow2","cache":true}"#, "Invalid parameter type for 'cache', expected: object"),
        (r#"{"driver":"qcow2","file":1}"#, "Invalid parameter type for 'file', expected: BlockdevRef"),
        (r#"{"driver":"qcow2","file":{"driver":"zz"}}"#, "Parameter 'driver' does not accept value 'zz'"),
        (r#"{"driver":"qcow2","file":{"size":1}}"#, "Parameter 'file.driver' is missing"),
        (
            r#"{"driver":"qcow2","file":"x","backing":1}"#,
            "Invalid parameter type for 'backing', expected: BlockdevRefOrNull",
        ),
        (r#"{"driver":"qcow2","file":"x","backing":null}"#, ""),
        (r#"{"driver":"null-co","bogus":1}"#, "Parameter 'bogus' is unexpected"),
        // The form of QEMU up to 2.8.
        (r#"{"options":{"driver":"null-co","size":5}}"#, ""),
        (r#"{"options":{"driver":"null-co","bogus":5}}"#, "Parameter 'bogus' is unexpected"),
    ] {
        assert_eq!(error::<BlockdevAdd>(text), expected, "{text}");
    }
}

#[test]
fn recursive_types_are_read_deep_but_not_without_limit() {
    let nested = |depth: usize| {
        let open = r#"{"driver":"qcow2","file":"#.repeat(depth);
        format!(r#"{open}"x"{}"#, "}".repeat(depth))
    };
    assert_eq!(error::<BlockdevAdd>(&nested(100)), "");
    assert_eq!(error::<BlockdevAdd>(&nested(1000)), "JSON nesting depth limit exceeded");
}

#[test]
fn legacy_names_of_members_are_accepted_but_not_beside_the_new_ones() {
    let old = r#"{"val":10,"size":100,"filename":"/tmp/m","cpu":1}"#;
    assert_eq!(Memsave::from_arguments(Some(arguments(old))).ok().and_then(|save| save.cpu_index), Some(1));
    let both = r#"{"val":10,"size":100,"filename":"/tmp/m","cpu":1,"cpu-index":1}"#;
    assert_eq!(error::<Memsave>(both), "Parameter 'cpu' is unexpected");
}

#[test]
fn open_commands_keep_what_they_do_not_know() {
    let text = r#"{"driver":"e1000","id":"n","mac":"x"}"#;
    let Ok(add) = DeviceAdd::from_arguments(Some(arguments(text))) else { panic!("refused") };
    assert_eq!(add.properties.keys().collect::<Vec<_>>(), ["id", "mac"]);
    assert_eq!(add.to_map(), arguments(text));
}

#[test]
fn values_survive_the_way_to_json_and_back() {
    for text in [
        r#"{"driver":"qcow2","file":{"driver":"null-co","size":1,"cache":{"no-flush":false}},"l2-cache-size":7}"#,
        r#"{"driver":"qcow2","file":"node","backing":null,"node-name":"q"}"#,
    ] {
        let parsed = BlockdevAdd::from_arguments(Some(arguments(text)));
        assert_eq!(parsed.map(|add| add.to_map()), Ok(arguments(text)));
    }
    let keys = r#"{"keys":[{"type":"number","data":5},{"type":"qcode","data":"meta_l"}],"hold-time":3}"#;
    let parsed = SendKey::from_arguments(Some(arguments(keys)));
    assert_eq!(parsed.map(|keys| keys.to_map()), Ok(arguments(keys)));
    assert_eq!(Any(Value::Int(1)).to_value(), Value::Int(1));
    assert_eq!(RunState::GuestPanicked.to_string(), "guest-panicked");
}

/// Like `VSERPORT_CHANGE`.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "VSERPORT_CHANGE", rate_limit_ms = 1000, rate_key = "id")]
struct VserportChange {
    id: String,
    open: bool,
}

#[test]
fn events_have_data_only_if_they_have_members() {
    use qapi::events::{Reset, Stop};
    use qapi::run_state::ShutdownCause;
    assert_eq!(Stop.data(), None);
    let reset = Reset { guest: false, reason: ShutdownCause::HostQmpSystemReset };
    let data = reset.data().map(|data| data.to_string());
    assert_eq!(data.as_deref(), Some(r#"{"guest": false, "reason": "host-qmp-system-reset"}"#));
    let message = VserportChange { id: "a".into(), open: true }.message();
    assert_eq!((message.name, message.rate_key.as_deref()), ("VSERPORT_CHANGE", Some("\"a\"")));
    assert_eq!(message.rate_limit.map(|limit| limit.as_millis()), Some(1000));
}
