//! What the object tree tells of devices.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::human_devices::{pc, q35, stopped};
use crate::support::{Session, Setup, qemu};

/// The properties of a device, with their types and values, but for objects.
fn properties(session: &mut Session, path: &str) -> BTreeMap<String, (Value, Value)> {
    let listed = session.run("qom-list", json!({ "path": path }));
    let is_object = |kind: &Value| {
        let kind = kind.as_str().unwrap_or_default();
        kind.starts_with("child<") || kind.starts_with("link<")
    };
    let mut found = BTreeMap::new();
    for property in listed.as_array().into_iter().flatten().filter(|property| !is_object(&property["type"])) {
        let name = property["name"].as_str().expect("a name");
        // QEMU's, which can't be read.
        if name.starts_with("legacy-") {
            continue;
        }
        let value = session.run("qom-get", json!({"path": path, "property": name}));
        found.insert(name.to_owned(), (property["type"].clone(), value));
    }
    found
}

#[test]
fn objects_of_devices_have_what_the_devices_were_configured_with() {
    let (_machine, mut session) = stopped(Setup::new(), &q35());
    let disk = properties(&mut session, "/machine/peripheral/vb");
    let part = properties(&mut session, "/machine/peripheral/vb/virtio-backend");
    assert_eq!((&disk["addr"].1, &disk["multifunction"].1), (&json!(0x28), &json!(false)));
    assert_eq!((&disk["num-queues"], &disk["drive"]), (&part["num-queues"], &part["drive"]));
    let unit = properties(&mut session, "/machine/peripheral/unit");
    assert_eq!((&unit["serial"].1, &unit["drive"].1, &unit["lun"].1), (&json!("abc"), &json!("n0"), &json!(0)));
    let refusal = json!({"path": "/machine/peripheral/vb", "property": "num-queues", "value": 3});
    let refusal = session.generic_error("qom-set", refusal);
    let told = "Attempt to set property 'num-queues' on device 'vb' (type 'virtio-blk-pci') after it was realized";
    assert_eq!(refusal, told);
    // What comes later has them, too.
    session.run("device_add", json!({"driver": "scsi-hd", "drive": "n3", "id": "late", "bus": "vs.0", "lun": 4}));
    assert_eq!(properties(&mut session, "/machine/peripheral/late")["lun"].1, 4);
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_objects_of_devices_have_the_same_properties() {
    let mut problems = Vec::new();
    let on_q35 =
        ["rp", "vs", "vs/virtio-backend", "unit", "vb", "vb/virtio-backend", "ata", "ser", "ser/virtio-backend", "br"];
    for (arguments, devices) in [(q35(), &on_q35[..]), (pc(), &["ehci", "hub", "tab", "x", "stick"])] {
        let (_ours, mut our_session) = stopped(Setup::new(), &arguments);
        let (_theirs, mut their_session) = stopped(Setup::of(qemu()), &arguments);
        for path in devices.iter().map(|device| format!("/machine/peripheral/{device}")) {
            let theirs = properties(&mut their_session, &path);
            for (name, ours) in properties(&mut our_session, &path) {
                if theirs.get(&name) != Some(&ours) {
                    problems.push(format!("{path} {name}: {ours:?}, QEMU {:?}", theirs.get(&name)));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The properties that the type has, with their types.
fn declared(session: &mut Session, type_name: &str) -> BTreeMap<String, Value> {
    let listed = session.run("device-list-properties", json!({ "typename": type_name }));
    let listed = listed.as_array().expect("a list").iter();
    listed.map(|property| (property["name"].as_str().expect("a name").to_owned(), property["type"].clone())).collect()
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_types_of_devices_have_properties_of_the_same_types() {
    let (_ours, mut our_session) = stopped(Setup::new(), "-machine q35");
    let (_theirs, mut their_session) = stopped(Setup::of(qemu()), "-machine q35");
    let list = json!({"implements": "device"});
    let types = |list: Value| -> Vec<String> {
        let names = list.as_array().into_iter().flatten().filter_map(|info| info["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let known = types(their_session.run("qom-list-types", list.clone()));
    let mut problems = Vec::new();
    // QEMU has no names for the registers of fw_cfg without a bus.
    for name in types(our_session.run("qom-list-types", list)) {
        if name == "fw_cfg" || !known.contains(&name) {
            continue;
        }
        let theirs = declared(&mut their_session, &name);
        for (property, kind) in declared(&mut our_session, &name) {
            if theirs.get(&property).is_some_and(|other| *other != kind) {
                problems.push(format!("{name}.{property}: {kind}, QEMU {}", theirs[&property]));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
