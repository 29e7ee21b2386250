//! `blockdev-reopen`: which options may change, and what is said about the others.

use serde_json::{Value, json};

use crate::support::{Directory, Reply, Setup, ouzel, qcow2_header, qemu};

/// An object with another member, or none of that name; a dot leads inside.
fn with(options: &Value, path: &str, value: Option<Value>) -> Value {
    let mut all = options.clone();
    let (inside, name) = path.rsplit_once('.').unwrap_or(("", path));
    let place = inside.split('.').filter(|step| !step.is_empty()).fold(&mut all, |place, step| &mut place[step]);
    let members = place.as_object_mut().expect("an object");
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    all
}

fn add(options: &Value) -> Value {
    json!({"execute": "blockdev-add", "arguments": options})
}

fn reopen(options: &Value) -> Value {
    json!({"execute": "blockdev-reopen", "arguments": {"options": [options]}})
}

fn delete(name: &str) -> Value {
    json!({"execute": "blockdev-del", "arguments": {"node-name": name}})
}

/// What a client does, and what each step gives: the text of an error, or an empty one.
fn script(directory: &Directory) -> Vec<(Value, &'static str)> {
    for name in ["a", "b"] {
        std::fs::write(directory.join(name), qcow2_header()).expect("a file");
    }
    let file = |name: &str| json!({"driver": "file", "node-name": format!("{name}-file"), "filename": directory.join(name).to_string_lossy()});
    let a = json!({"driver": "qcow2", "node-name": "a", "file": with(&file("a"), "locking", Some(json!("off"))), "backing": null});
    let b = json!({"driver": "qcow2", "node-name": "b", "file": file("b"), "backing": a});
    let plain = json!({"driver": "qcow2", "node-name": "a", "file": file("a"), "backing": null});
    let filter = json!({"driver": "compress", "node-name": "c", "file": "a"});
    let sized = json!({"driver": "null-co", "node-name": "n", "size": 1024, "read-zeroes": true});
    let other = json!({"driver": "raw", "node-name": "r", "file": "n"});
    let wrong = |path: &str, value: Value| reopen(&with(&b, path, Some(value)));
    vec![
        (add(&b), ""),
        (reopen(&b), ""),
        (wrong("driver", json!("qed")), "Cannot change the option 'driver'"),
        (wrong("file.node-name", json!("x")), "Cannot change the option 'node-name'"),
        (wrong("file.driver", json!("host_device")), "Cannot change the option 'driver'"),
        (wrong("file.filename", json!("x")), "Cannot change the option 'filename'"),
        (wrong("file.locking", json!("off")), "Cannot change the option 'locking'"),
        (wrong("backing.file.locking", json!("on")), "Cannot change the option 'locking'"),
        (reopen(&with(&b, "backing.file.locking", None)), "Option 'locking' cannot be reset to its default value"),
        (wrong("backing.node-name", json!("x")), "Cannot change the option 'node-name'"),
        (wrong("backing", json!("")), "Cannot find device='' nor node-name=''"),
        (wrong("file", json!("")), "Cannot find device='' nor node-name=''"),
        (reopen(&with(&b, "backing", None)), "backing is missing for 'b'"),
        (wrong("backing", json!("a")), ""),
        (wrong("l2-cache-size", json!(1 << 20)), ""),
        (reopen(&b), ""),
        (wrong("backing", Value::Null), ""),
        // The former backing went with the edge; the options inside belong to nothing.
        (reopen(&b), "Cannot change the option 'backing.driver'"),
        (add(&plain), ""),
        (wrong("backing", json!("a")), ""),
        (reopen(&b), "Cannot change the option 'backing.driver'"),
        (delete("b"), ""),
        (add(&filter), ""),
        (reopen(&filter), "Block format 'compress' used by node 'c' does not support reopening files"),
        (delete("c"), ""),
        (add(&sized), ""),
        (reopen(&sized), ""),
        (reopen(&with(&sized, "size", Some(json!(1 << 30)))), "Cannot change the option 'size'"),
        (reopen(&with(&sized, "size", None)), "Option 'size' cannot be reset to its default value"),
        (add(&other), ""),
        (reopen(&with(&other, "offset", Some(json!(512)))), ""),
        (reopen(&other), ""),
        (reopen(&with(&other, "file", Some(json!({"driver": "null-co"})))), "Cannot change the option 'file.driver'"),
    ]
}

fn run(program: std::path::PathBuf, script: &[(Value, &'static str)]) {
    let mut machine = Setup::of(program).args(["-S"]).start();
    let mut session = machine.connect(0);
    for (request, expected) in script {
        let text = match session.call(request) {
            Reply::Value(_) => String::new(),
            Reply::Error(_, text) => text,
        };
        assert_eq!(text, *expected, "{request}");
    }
}

#[test]
fn options_that_may_not_change_are_named() {
    run(ouzel(), &script(&Directory::new()));
}

#[test]
#[ignore = "needs the peer"]
fn peer_qemu_names_the_same_options() {
    run(qemu(), &script(&Directory::new()));
}

#[test]
fn two_nodes_exchange_what_is_below_them_or_stay_as_they_are() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let raw = |name: &str, file: &str| json!({"driver": "raw", "node-name": name, "file": file});
    for name in ["a", "b"] {
        let size = if name == "a" { 512 } else { 1024 };
        let file = json!({"driver": "null-co", "node-name": format!("{name}-file"), "size": size});
        session.run("blockdev-add", file);
        session.run("blockdev-add", raw(name, &format!("{name}-file")));
    }
    let sizes = |session: &mut crate::support::Session| {
        let nodes = session.query("query-named-block-nodes");
        let size = |name: &str| {
            let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["node-name"] == name));
            found.expect("a node")["image"]["virtual-size"].clone()
        };
        [size("a"), size("b")]
    };
    session.run("blockdev-reopen", json!({"options": [raw("a", "b-file"), raw("b", "a-file")]}));
    assert_eq!(sizes(&mut session), [json!(1024), json!(512)]);
    let list = json!([raw("a", "a-file"), with(&raw("b", "b-file"), "size", Some(json!(4096)))]);
    session.generic_error("blockdev-reopen", json!({"options": list}));
    assert_eq!(sizes(&mut session), [json!(1024), json!(512)], "nothing has changed");
    session.run("blockdev-reopen", json!({"options": [raw("a", "a-file"), raw("b", "b-file")]}));
    assert_eq!(sizes(&mut session), [json!(512), json!(1024)]);
}

#[test]
fn export_with_a_fixed_thread_is_refused_where_a_device_has_another() {
    let directory = Directory::new();
    let socket = directory.join("nbd").to_string_lossy().into_owned();
    let arguments = [
        "-S",
        "-object",
        "iothread,id=io0",
        "-object",
        "iothread,id=io1",
        "-blockdev",
        "null-co,node-name=n",
        "-device",
        "virtio-blk-pci,id=vb,drive=n,iothread=io0",
    ];
    let mut machine = Setup::new().args(arguments).start();
    let mut session = machine.connect(0);
    session.run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}));
    let export = |thread: &str, fixed: bool, writable: bool| json!({"type": "nbd", "id": "e", "node-name": "n", "iothread": thread, "fixed-iothread": fixed, "writable": writable});
    let text = session.generic_error("block-export-add", export("io1", true, false));
    assert_eq!(text, "Cannot change iothread of active block backend");
    let text = session.generic_error("block-export-add", export("io1", false, true));
    assert!(
        text.contains(
            "unshared by block device '/machine/peripheral/vb/virtio-backend' (uses node 'n' as 'root' child)"
        ),
        "{text}"
    );
    session.run("block-export-add", export("io0", true, false));
    session.run("block-export-del", json!({"id": "e"}));
    // Whoever was refused holds no thread.
    session.run("object-del", json!({"id": "io1"}));
}
