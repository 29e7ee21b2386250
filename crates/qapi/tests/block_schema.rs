//! The block layer's schema beside QEMU's own.
//!
//! `qemu_7_2_block.txt` holds the entries of QEMU 7.2's `query-qmp-schema` that belong to these commands and events,
//! one a line. `block_differences.txt` lists where ours differ, each once, at the first path that leads there:
//! `-` is only in QEMU, `+` is only here. Behind `#` stands why.

mod all;

use all::ALL;
use qapi::json::{self, Value};
use qapi::schema::{Model, SchemaInfo, SchemaInfoDetail, SchemaInfoObject};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The commands and events of QEMU that are compared.
const COMPARED: &[&str] = &[
    "blockdev-add",
    "blockdev-reopen",
    "blockdev-del",
    "x-blockdev-change",
    "block_resize",
    "block-set-write-threshold",
    "change-backing-file",
    "blockdev-create",
    "x-blockdev-amend",
    "query-block",
    "query-named-block-nodes",
    "query-blockstats",
    "block-latency-histogram-set",
    "block_set_io_throttle",
    "eject",
    "blockdev-open-tray",
    "blockdev-close-tray",
    "blockdev-remove-medium",
    "blockdev-insert-medium",
    "blockdev-change-medium",
    "query-jobs",
    "job-pause",
    "job-resume",
    "job-cancel",
    "job-complete",
    "job-dismiss",
    "job-finalize",
    "JOB_STATUS_CHANGE",
    "DEVICE_TRAY_MOVED",
    "BLOCK_IMAGE_CORRUPTED",
    "BLOCK_IO_ERROR",
    "BLOCK_WRITE_THRESHOLD",
    "QUORUM_FAILURE",
    "QUORUM_REPORT_BAD",
    "object-add",
    "object-del",
    "query-iothreads",
];

/// Compares two schemas along their references.
struct Comparison<'a> {
    theirs: &'a Model,
    ours: &'a Model,
    seen: HashSet<(String, String)>,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn differ(&mut self, sign: char, path: &str) {
        self.differences.push(format!("{sign} {path}"));
    }

    /// Names on both sides: those on one side only are differences, the others are returned.
    fn names<T: Copy, U: Copy>(
        &mut self,
        path: &str,
        theirs: &BTreeMap<String, T>,
        ours: &BTreeMap<String, U>,
    ) -> Vec<(String, T, U)> {
        let all: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        let mut both = Vec::new();
        for name in all {
            match (theirs.get(name), ours.get(name)) {
                (Some(their), Some(our)) => both.push((name.clone(), *their, *our)),
                (Some(_), None) => self.differ('-', &format!("{path}/{name}")),
                _ => self.differ('+', &format!("{path}/{name}")),
            }
        }
        both
    }

    fn features(&mut self, path: &str, theirs: Option<&Vec<String>>, ours: Option<&Vec<String>>) {
        let set = |list: Option<&Vec<String>>| -> BTreeMap<String, ()> {
            list.into_iter().flatten().map(|name| (format!("${name}"), ())).collect()
        };
        self.names(path, &set(theirs), &set(ours));
    }

    fn ty(&mut self, path: &str, their_name: &str, our_name: &str) {
        if !self.seen.insert((their_name.to_owned(), our_name.to_owned())) {
            return;
        }
        let (theirs, ours) = (self.theirs, self.ours);
        let (Some(theirs), Some(ours)) = (theirs.get(their_name), ours.get(our_name)) else {
            panic!("{path}: {their_name} or {our_name} leads nowhere");
        };
        self.features(path, theirs.features.as_ref(), ours.features.as_ref());
        match (&theirs.detail, &ours.detail) {
            (SchemaInfoDetail::Builtin(_), SchemaInfoDetail::Builtin(_)) if theirs.name == ours.name => {}
            (SchemaInfoDetail::Array(theirs), SchemaInfoDetail::Array(ours)) => {
                self.ty(&format!("{path}[]"), &theirs.element_type, &ours.element_type);
            }
            (SchemaInfoDetail::Enum(theirs), SchemaInfoDetail::Enum(ours)) => {
                let theirs = theirs.members.iter().map(|one| (format!("={}", one.name), &one.features)).collect();
                let ours = ours.members.iter().map(|one| (format!("={}", one.name), &one.features)).collect();
                for (name, their, our) in self.names(path, &theirs, &ours) {
                    self.features(&format!("{path}/{name}"), their.as_ref(), our.as_ref());
                }
            }
            (SchemaInfoDetail::Alternate(theirs), SchemaInfoDetail::Alternate(ours)) => {
                // The branches of an alternate have no names: they are compared in the order of their kinds.
                let order = |model: &Model, members: Vec<&String>| -> BTreeMap<String, String> {
                    members.into_iter().map(|ty| (kind(model, ty), ty.clone())).collect()
                };
                let theirs = order(self.theirs, theirs.members.iter().map(|one| &one.r#type).collect());
                let ours = order(self.ours, ours.members.iter().map(|one| &one.r#type).collect());
                let theirs = theirs.iter().map(|(kind, ty)| (kind.clone(), ty)).collect();
                let ours = ours.iter().map(|(kind, ty)| (kind.clone(), ty)).collect();
                for (kind, their, our) in self.names(path, &theirs, &ours) {
                    self.ty(&format!("{path}/{kind}"), their, our);
                }
            }
            (SchemaInfoDetail::Object(theirs), SchemaInfoDetail::Object(ours)) => self.object(path, theirs, ours),
            _ => self.differ('-', &format!("{path}: {their_name} is of another kind than {our_name}")),
        }
    }

    fn object(&mut self, path: &str, theirs: &SchemaInfoObject, ours: &SchemaInfoObject) {
        let members = |object: &'_ SchemaInfoObject| -> Vec<(String, String, bool, Option<Vec<String>>)> {
            let member = |one: &qapi::schema::SchemaInfoObjectMember| {
                (format!("+{}", one.name), one.r#type.clone(), one.default.is_some(), one.features.clone())
            };
            object.members.iter().map(member).collect()
        };
        let (their_members, our_members) = (members(theirs), members(ours));
        let their_names = their_members.iter().map(|one| (one.0.clone(), one)).collect();
        let our_names = our_members.iter().map(|one| (one.0.clone(), one)).collect();
        for (name, their, our) in self.names(path, &their_names, &our_names) {
            let path = format!("{path}/{name}");
            if their.2 != our.2 {
                self.differ('-', &format!("{path}: optional there is {}", their.2));
            }
            self.features(&path, their.3.as_ref(), our.3.as_ref());
            self.ty(&path, &their.1, &our.1);
        }
        if theirs.tag != ours.tag {
            self.differ('-', &format!("{path}: the tag {:?}", theirs.tag));
        }
        let cases = |object: &SchemaInfoObject| -> Vec<(String, String)> {
            let variants = object.variants.iter().flatten();
            variants.map(|one| (format!("<{}>", one.case), one.r#type.clone())).collect()
        };
        let (mut their_cases, mut our_cases) = (cases(theirs), cases(ours));
        // A branch whose tag the other side does not know is told of by the tag's type.
        let (their_tags, our_tags) = (tags(self.theirs, theirs), tags(self.ours, ours));
        their_cases.retain(|(case, _)| our_tags.contains(case));
        our_cases.retain(|(case, _)| their_tags.contains(case));
        let their_names = their_cases.iter().map(|(case, ty)| (case.clone(), ty)).collect();
        let our_names = our_cases.iter().map(|(case, ty)| (case.clone(), ty)).collect();
        for (case, their, our) in self.names(path, &their_names, &our_names) {
            self.ty(&format!("{path}/{case}"), their, our);
        }
    }

    fn message(&mut self, name: &str) {
        let (theirs, ours) = (self.theirs, self.ours);
        let Some(theirs) = theirs.get(name) else { panic!("QEMU has no {name}") };
        let Some(ours) = ours.get(name) else { return self.differ('-', name) };
        self.features(name, theirs.features.as_ref(), ours.features.as_ref());
        match (&theirs.detail, &ours.detail) {
            (SchemaInfoDetail::Command(theirs), SchemaInfoDetail::Command(ours)) => {
                self.ty(name, &theirs.arg_type, &ours.arg_type);
                self.ty(&format!("{name}->"), &theirs.ret_type, &ours.ret_type);
                if theirs.allow_oob != ours.allow_oob {
                    self.differ('-', &format!("{name}: out of band"));
                }
            }
            (SchemaInfoDetail::Event(theirs), SchemaInfoDetail::Event(ours)) => {
                self.ty(name, &theirs.arg_type, &ours.arg_type);
            }
            _ => panic!("{name} is a command on one side only"),
        }
    }
}

/// The values of a union's tag.
fn tags(model: &Model, object: &SchemaInfoObject) -> HashSet<String> {
    let tag = object.members.iter().find(|member| Some(&member.name) == object.tag.as_ref());
    match tag.and_then(|member| model.get(&member.r#type)).map(|entry| &entry.detail) {
        Some(SchemaInfoDetail::Enum(shape)) => shape.members.iter().map(|one| format!("<{}>", one.name)).collect(),
        _ => HashSet::new(),
    }
}

fn kind(model: &Model, name: &str) -> String {
    match model.get(name).map(|entry| &entry.detail) {
        Some(SchemaInfoDetail::Object(_)) => "(object)".to_owned(),
        Some(SchemaInfoDetail::Enum(_)) => "(str)".to_owned(),
        _ => format!("({name})"),
    }
}

fn model(lines: impl Iterator<Item = String>) -> Model {
    let entries: Vec<Value> = lines
        .map(|line| match json::parse(&line) {
            Ok(value) => value,
            Err(error) => panic!("{line}: {error}"),
        })
        .collect();
    match Model::from_reply(Value::Array(entries)) {
        Ok(model) => model,
        Err(error) => panic!("no schema: {error:?}"),
    }
}

#[test]
fn differences_to_qemu_are_those_that_are_listed() {
    let theirs = model(include_str!("qemu_7_2_block.txt").lines().map(str::to_owned));
    let ours = Model::from_declarations(ALL);
    let mut comparison = Comparison { theirs: &theirs, ours: &ours, seen: HashSet::new(), differences: Vec::new() };
    for name in COMPARED {
        comparison.message(name);
    }
    let listed = include_str!("block_differences.txt").lines().filter(|line| !line.starts_with('#'));
    let listed: Vec<&str> = listed.map(|line| line.split(" # ").next().unwrap_or_default().trim_end()).collect();
    let found = comparison.differences.join("\n");
    assert_eq!(found, listed.join("\n"), "the whole list:\n{found}\n");
}

/// The entries that `names` lead to, in the order of the reply.
fn subset(entries: &[SchemaInfo], names: &[&str]) -> Vec<String> {
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let mut wanted: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut at = 0;
    while let Some(name) = wanted.get(at).cloned() {
        let Some(entry) = find(&name) else { panic!("no {name}") };
        let uses: Vec<String> = match &entry.detail {
            SchemaInfoDetail::Builtin(_) | SchemaInfoDetail::Enum(_) => Vec::new(),
            SchemaInfoDetail::Array(array) => vec![array.element_type.clone()],
            SchemaInfoDetail::Alternate(shape) => shape.members.iter().map(|one| one.r#type.clone()).collect(),
            SchemaInfoDetail::Command(command) => vec![command.arg_type.clone(), command.ret_type.clone()],
            SchemaInfoDetail::Event(event) => vec![event.arg_type.clone()],
            SchemaInfoDetail::Object(shape) => {
                let members = shape.members.iter().map(|one| one.r#type.clone());
                members.chain(shape.variants.iter().flatten().map(|one| one.r#type.clone())).collect()
            }
        };
        for name in uses {
            if !wanted.contains(&name) {
                wanted.push(name);
            }
        }
        at += 1;
    }
    let kept = entries.iter().filter(|entry| wanted.contains(&entry.name));
    kept.map(|entry| qapi::QapiType::to_value(entry).to_string()).collect()
}

/// Asks the installed QEMU for its schema. Set `OUZEL_UPDATE=1` to store what it says.
#[test]
#[ignore = "needs qemu-system-x86_64 7.2"]
fn stored_schema_is_that_of_the_installed_qemu() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let arguments = ["-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"];
    let mut command = Command::new("qemu-system-x86_64");
    let child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => panic!("no QEMU: {error}"),
    };
    let requests = r#"{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}{"execute":"quit"}"#;
    let written = child.stdin.take().map(|mut input| input.write_all(requests.as_bytes()));
    assert!(matches!(written, Some(Ok(()))));
    let output = child.wait_with_output().map(|output| output.stdout).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    let replies = output.lines().filter_map(|line| json::parse(line).ok());
    let mut schema =
        replies.filter_map(|reply| reply.get("return").filter(|value| value.as_array().is_some()).cloned());
    let Some(schema) = schema.next() else { panic!("no schema in {output}") };
    let Ok(entries) = <Vec<SchemaInfo> as qapi::QapiType>::from_value(schema, &qapi::Path::reply()) else {
        panic!("the schema can't be read");
    };
    let text = subset(&entries, COMPARED).join("\n") + "\n";
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu_7_2_block.txt");
    if std::env::var_os("OUZEL_UPDATE").is_some() {
        assert!(std::fs::write(stored, &text).is_ok());
    }
    assert_eq!(std::fs::read_to_string(stored).unwrap_or_default(), text);
}
