//! Debian's kernel with a virtio disk: file systems on image files, errors that stop the machine.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Directory, Machine, boot_linux, ouzel, text, wait_power_off};

/// What the guest does with its disk: a file system, filled, emptied, unmounted and read again.
const FILL: &str = "virtio,disk-write";

fn image_tool(arguments: &[&str]) -> String {
    let program: PathBuf = ouzel().with_file_name("ouzel-img");
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ouzel-img {arguments:?}: {text}");
    text
}

/// The guest read back what it had written.
fn check_files(machine: &Machine) {
    let serial = machine.serial();
    let value = |mark: &str| serial.lines().find_map(|line| line.strip_prefix(mark).map(str::trim).map(str::to_owned));
    let written = value("DISK-WRITTEN").unwrap_or_else(|| panic!("the disk was not written:\n{serial}"));
    assert_eq!(written.len(), 32);
    for file in ["3", "7", "12"] {
        assert_eq!(value(&format!("DISK-FILE {file}")).as_ref(), Some(&written), "{serial}");
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_fills_a_file_system_on_an_overlay_of_qcow2() {
    let directory = Directory::new();
    let (base, top) = (directory.join("base.qcow2"), directory.join("top.qcow2"));
    image_tool(&["create", "-q", "-f", "qcow2", text(&base), "256M"]);
    image_tool(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", text(&top)]);
    let drive = format!("if=none,id=d,file={},format=qcow2,discard=unmap", text(&top));
    let mut machine =
        boot_linux(FILL, &["-smp", "2", "-drive", &drive, "-device", "virtio-blk-pci,drive=d,num-queues=2"]);
    let mut session = machine.connect(0);
    wait_power_off(&mut machine, &mut session);
    check_files(&machine);
    let check = image_tool(&["check", text(&top)]);
    assert!(check.starts_with("No errors were found on the image."), "{check}");
    assert!(image_tool(&["check", text(&base)]).starts_with("No errors"));
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_goes_on_after_a_full_host_stopped_it() {
    let directory = Directory::new();
    let disk = directory.join("disk");
    File::create(&disk).and_then(|file| file.set_len(256 << 20)).expect("a file");
    let node = json!({
        "driver": "blkdebug", "node-name": "full",
        "image": {"driver": "file", "filename": text(&disk)},
        "inject-error": [{"event": "none", "iotype": "write", "errno": 28, "once": true}],
    });
    let mut machine =
        boot_linux(FILL, &["-blockdev", &node.to_string(), "-device", "virtio-blk-pci,drive=full,id=disk0"]);
    let mut session = machine.connect(0);
    let event = session.event_within("BLOCK_IO_ERROR", BOOT_PATIENCE);
    assert_eq!(event["operation"], "write");
    assert_eq!((&event["action"], &event["nospace"]), (&json!("stop"), &json!(true)), "{event}");
    session.event("STOP");
    assert_eq!(session.status(), "io-error");
    let devices = session.query("query-block");
    assert_eq!(devices[0]["io-status"], "nospace", "{devices}");
    session.query("cont");
    wait_power_off(&mut machine, &mut session);
    check_files(&machine);
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_sees_a_disk_grow() {
    let directory = Directory::new();
    let disk = directory.join("disk.qcow2");
    image_tool(&["create", "-q", "-f", "qcow2", text(&disk), "64M"]);
    let drive = format!("if=virtio,id=d,file={},format=qcow2", text(&disk));
    let mut machine = boot_linux("virtio,disk,button,disk", &["-drive", &drive]);
    let mut session = machine.connect(0);
    machine.wait_serial("BUTTON-WAIT\n", BOOT_PATIENCE);
    session.run("block_resize", json!({"device": "d", "size": 128 << 20}));
    session.query("system_powerdown");
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    let sizes: Vec<&str> = serial.lines().filter_map(|line| line.trim().strip_prefix("size=")).map(str::trim).collect();
    assert_eq!(sizes, ["131072", "262144"], "{serial}");
}
