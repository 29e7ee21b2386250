//! Long backing chains: opened, told of, written above and closed.

use serde_json::{Value, json};

use crate::support::{Setup, qcow2_header};

/// How many overlays lie above the base.
const OVERLAYS: usize = 500;

/// An overlay of the smallest kind: `qcow2_header` with the name of its backing behind the header.
fn overlay(backing: &str) -> Vec<u8> {
    let mut image = qcow2_header();
    let at = 1024_u64;
    image[8..16].copy_from_slice(&at.to_be_bytes());
    image[16..20].copy_from_slice(&u32::try_from(backing.len()).expect("short").to_be_bytes());
    image[1024..1024 + backing.len()].copy_from_slice(backing.as_bytes());
    // The name of the format: an extension behind the header of version 2.
    image[72..84].copy_from_slice(&[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 5, b'q', b'c', b'o', b'w']);
    image[84] = b'2';
    image
}

#[test]
fn five_hundred_overlays_are_opened_and_told_of_and_closed() {
    let mut machine = Setup::new().args(["-S", "-m", "64"]).start();
    for number in 0..=OVERLAYS {
        let image = if number == 0 { qcow2_header() } else { overlay(&format!("c{}", number - 1)) };
        std::fs::write(machine.path(&format!("c{number}")), image).expect("an image");
    }
    let mut session = machine.connect(0);
    let top = machine.file(&format!("c{OVERLAYS}"));
    let node = json!({"driver": "qcow2", "file": {"driver": "file", "filename": top}});
    session.run("blockdev-add", json!({"options": {"driver": "qcow2", "id": "d", "file": node["file"]}}));
    // Deeper than what the tests' own reader of JSON takes.
    session.send("{\"execute\": \"query-block\"}\n");
    let reply = session.line();
    assert!(reply.contains(&format!("\"backing_file_depth\": {OVERLAYS}")), "{}", &reply[..400]);
    assert_eq!(reply.matches("\"backing-image\"").count(), OVERLAYS);
    let last = machine.file("c0");
    assert_eq!(reply.matches(&format!("\"filename\": \"{last}\"")).count(), 1, "the base, as the last one");
    let flat = session.run("query-named-block-nodes", json!({"flat": true}));
    assert_eq!(flat.as_array().map(Vec::len), Some(2 * (OVERLAYS + 1)));
    session.run("x-blockdev-del", json!({"id": "d"}));
    assert_eq!(session.query("query-named-block-nodes"), Value::Array(Vec::new()));
}
