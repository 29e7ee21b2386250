//! The schema: closed, numbered, and the same types as QEMU 7.2 has.

mod all;

use all::ALL;
use qapi::json::{self, Value};
use qapi::schema::{Declaration, Model, SchemaInfo, SchemaInfoDetail, SchemaInfoObject, arguments_of, describe};
use qapi::{Path, QapiType};
use std::collections::HashSet;

fn features(features: Option<&Vec<String>>) -> String {
    features.into_iter().flatten().map(|name| format!("!{name}")).collect()
}

fn object(model: &Model, object: &SchemaInfoObject, above: &[&str]) -> String {
    let mut parts = Vec::new();
    for member in &object.members {
        let mark = if member.default.is_some() { "*" } else { "" };
        let features = features(member.features.as_ref());
        parts.push(format!("{mark}{}{features}: {}", member.name, expand_below(model, above, &member.r#type)));
    }
    if let Some(tag) = &object.tag {
        parts.push(format!("by {tag}"));
    }
    for variant in object.variants.iter().flatten() {
        parts.push(format!("{} => {}", variant.case, expand_below(model, above, &variant.r#type)));
    }
    format!("{{{}}}", parts.join(", "))
}

/// A type spelled out in full. Panics if a name leads nowhere.
fn expand(model: &Model, name: &str) -> String {
    expand_below(model, &[], name)
}

/// As [`expand`]; a type that contains itself is `@` there.
fn expand_below(model: &Model, above: &[&str], name: &str) -> String {
    if above.contains(&name) {
        return "@".to_owned();
    }
    let inside = [above, &[name]].concat();
    let above = inside.as_slice();
    let Some(entry) = model.get(name) else { panic!("no type {name}") };
    match &entry.detail {
        SchemaInfoDetail::Builtin(_) => name.to_owned(),
        SchemaInfoDetail::Array(array) => format!("[{}]", expand_below(model, above, &array.element_type)),
        SchemaInfoDetail::Enum(shape) => {
            let value = |value: &qapi::schema::SchemaInfoEnumMember| {
                format!("{}{}", value.name, features(value.features.as_ref()))
            };
            format!("<{}>", shape.members.iter().map(value).collect::<Vec<_>>().join("|"))
        }
        SchemaInfoDetail::Object(shape) => object(model, shape, above),
        SchemaInfoDetail::Alternate(shape) => {
            let members = shape.members.iter().map(|member| expand_below(model, above, &member.r#type));
            format!("({})", members.collect::<Vec<_>>().join("|"))
        }
        SchemaInfoDetail::Command(_) | SchemaInfoDetail::Event(_) => panic!("{name} is no type"),
    }
}

fn line(model: &Model, entry: &SchemaInfo) -> Option<String> {
    let (oob, arguments, returns) = match &entry.detail {
        SchemaInfoDetail::Command(command) => {
            let returns = format!(" -> {}", expand(model, &command.ret_type));
            (command.allow_oob == Some(true), &command.arg_type, returns)
        }
        SchemaInfoDetail::Event(event) => (false, &event.arg_type, String::new()),
        _ => return None,
    };
    let oob = if oob { " oob" } else { "" };
    let features = features(entry.features.as_ref());
    Some(format!("{}{features}{oob} {}{returns}", entry.name, expand(model, arguments)))
}

#[test]
fn types_of_todays_commands_and_events_equal_those_of_qemu() {
    let model = Model::from_declarations(ALL);
    for expected in include_str!("qemu_7_2_types.txt").lines() {
        let name = expected.split([' ', '!']).next().unwrap_or_default();
        let Some(entry) = model.get(name) else { panic!("{name} is missing") };
        assert_eq!(line(&model, entry).as_deref(), Some(expected));
    }
}

#[test]
fn types_of_legacy_commands_are_those_of_the_documents() {
    let model = Model::from_declarations(ALL);
    let expected = [
        "cpu {index: int} -> {}",
        "x-blockdev-del!unstable {*id: str, *node-name: str} -> {}",
        "x-blockdev-remove-medium!unstable {*device: str, *id: str} -> {}",
        "x-blockdev-insert-medium!unstable {*device: str, *id: str, node-name: str} -> {}",
        "change {device: str, target: str, *arg: str} -> {}",
        "block_passwd {*device: str, *node-name: str, password: str} -> {}",
        "query-events {} -> [{name: str}]",
        "query-cpus {} -> [{CPU: int, current: bool, halted: bool, qom_path: str, thread_id: int, *props: \
         {*node-id: int, *socket-id: int, *die-id: int, *cluster-id: int, *core-id: int, *thread-id: int}, \
         arch: <x86|sparc|ppc|mips|tricore|s390|riscv|other>, by arch, x86 => {pc: int}, sparc => {pc: int, \
         npc: int}, ppc => {nip: int}, mips => {PC: int}, tricore => {PC: int}, s390 => {cpu-state: \
         <uninitialized|stopped|check-stop|operating|load>}, riscv => {}, other => {}}]",
    ];
    for expected in expected {
        let name = expected.split([' ', '!']).next().unwrap_or_default();
        assert_eq!(model.get(name).and_then(|entry| line(&model, entry)).as_deref(), Some(expected));
    }
    let legacy: Vec<&str> = ALL.iter().filter(|one| one.legacy).map(|one| one.name).collect();
    assert_eq!(
        legacy,
        [
            "query-events",
            "query-cpus",
            "cpu",
            "x-blockdev-del",
            "x-blockdev-remove-medium",
            "x-blockdev-insert-medium",
            "change",
            "block_passwd"
        ]
    );
}

#[test]
fn schema_entries_have_unique_names_and_commands_come_first() {
    let entries = describe(ALL);
    let names: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names.len(), entries.len());
    let declared: Vec<&str> = ALL.iter().map(|one| one.name).collect();
    let first: Vec<&str> = entries.iter().take(ALL.len()).map(|entry| entry.name.as_str()).collect();
    assert_eq!(first, declared);
    // Every entry's types resolve, also those that no command leads to.
    let model = Model::from_declarations(ALL);
    for entry in &entries {
        if line(&model, entry).is_none() {
            expand(&model, &entry.name);
        }
    }
}

#[test]
fn schema_numbers_types_in_the_order_of_their_first_use() {
    // query-status takes nothing, so the empty object is "0", as it is in QEMU.
    let entries = describe(&ALL[..4]);
    let text: Vec<String> = entries.iter().map(|entry| entry.to_value().to_string()).collect();
    assert_eq!(text[0], r#"{"name": "query-status", "ret-type": "1", "meta-type": "command", "arg-type": "0"}"#);
    assert_eq!(text[1], r#"{"name": "SHUTDOWN", "meta-type": "event", "arg-type": "2"}"#);
    assert_eq!(text[4], r#"{"name": "0", "members": [], "meta-type": "object"}"#);
    let status = concat!(
        r#"{"name": "1", "members": [{"name": "running", "type": "bool"}, {"name": "singlestep", "#,
        r#""type": "bool"}, {"name": "status", "type": "4"}], "meta-type": "object"}"#
    );
    assert_eq!(text[5], status);
    assert!(text.contains(&r#"{"name": "bool", "json-type": "boolean", "meta-type": "builtin"}"#.to_owned()));
}

#[test]
fn schema_survives_the_way_to_a_client() {
    let reply = describe(ALL).to_value().to_string();
    let Ok(value) = json::parse(&reply) else { panic!("not JSON") };
    let again: Result<Vec<SchemaInfo>, _> = QapiType::from_value(value.clone(), &Path::root());
    assert_eq!(again, Ok(describe(ALL)));
    let Ok(model) = Model::from_reply(value) else { panic!("no schema") };
    let commands: Vec<&str> = model.commands().collect();
    assert_eq!(commands.len(), ALL.iter().filter(|one| one.is_command()).count());
    assert!(model.events().any(|name| name == "GUEST_PANICKED"));
    assert!(Model::from_reply(Value::Null).is_err());
}

#[test]
fn arguments_for_people_agree_between_the_program_and_its_reply() {
    let model = Model::from_declarations(ALL);
    for declaration in ALL {
        let own = arguments_of(declaration);
        let Some(replied) = model.arguments(declaration.name) else { panic!("{}", declaration.name) };
        let brief = |list: &[qapi::schema::Argument]| -> Vec<_> {
            let one = |one: &qapi::schema::Argument| (one.name.clone(), one.optional, one.values.clone());
            list.iter().map(one).collect()
        };
        assert_eq!(brief(&own), brief(&replied), "{}", declaration.name);
        assert!(!declaration.doc.is_empty(), "{} has no documentation", declaration.name);
        assert!(own.iter().all(|one| !one.doc.is_empty()), "{}: an argument has none", declaration.name);
    }
    let memsave = ALL.iter().find(|one| one.name == "memsave").map(arguments_of).unwrap_or_default();
    assert_eq!((memsave[0].name.as_str(), memsave[0].type_name.as_str(), memsave[0].optional), ("val", "int", false));
    assert_eq!((memsave[3].name.as_str(), memsave[3].optional), ("cpu-index", true));
}

#[test]
fn replies_of_newer_servers_may_have_more_members() {
    let reply = r#"[{"name":"c","meta-type":"command","arg-type":"0","ret-type":"0","new":1},
        {"name":"0","meta-type":"object","members":[]}]"#;
    let model = Model::from_reply(json::parse(reply).unwrap_or_default()).unwrap_or_default();
    assert_eq!(model.arguments("c"), Some(Vec::new()));
}

#[test]
fn reference_describes_every_command_event_and_type() {
    let text = qapi::schema::markdown(ALL);
    for declaration in ALL {
        assert!(text.contains(&format!("### `{}`", declaration.name)), "{}", declaration.name);
    }
    for part in [
        "- `cpu-index` (int, optional, also `cpu`): The CPU whose page tables count; the first one if absent.",
        "Returns: `[CpuInfoFast]`",
        "May be used before the machine is built.",
        "Of older versions of QEMU.",
        "### `RunState`",
        "- `guest-panicked`: Stopped because the guest's system panicked.",
        "With `target` = `s390x`: the members of `CpuInfoS390`.",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// An untrue reply must not make a client loop.
#[test]
fn arguments_of_a_circular_reply_end() {
    let reply = r#"[{"name":"c","meta-type":"command","arg-type":"1","ret-type":"1"},
        {"name":"1","meta-type":"object","members":[{"name":"a","type":"[2]"}],"tag":"a",
         "variants":[{"case":"x","type":"1"}]},
        {"name":"[2]","meta-type":"array","element-type":"[2]"}]"#;
    let model = Model::from_reply(json::parse(reply).unwrap_or_default()).unwrap_or_default();
    assert_eq!(model.arguments("c").map(|list| list.len()), Some(2));
}

const _: Declaration = Declaration::of::<qapi::run_state::Stop>();
