//! Debian from power-on: SeaBIOS, GRUB's menu, the generic kernel and systemd, on the disk image of `cargo xtask debian`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Directory, Machine, Setup, guest, ouzel, text, wait_power_off};

/// An overlay of the image, so that tests don't see each other's writes.
fn overlay(directory: &Directory) -> PathBuf {
    let path = directory.join("disk.qcow2");
    let mut command = Command::new(ouzel().with_file_name("ouzel-img"));
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &guest("debian/debian.img")]).arg(&path);
    assert!(command.status().expect("ouzel-img runs").success());
    path
}

/// A PC with firmware and a screen, whose disk is attached by `device` (`drive=disk` is said here).
fn start(directory: &Directory, device: &str, more: &[&str]) -> Machine {
    let node = json!({
        "driver": "qcow2", "node-name": "disk",
        "file": {"driver": "file", "filename": text(&overlay(directory))},
    });
    Setup::new()
        .serial()
        .args(["-m", "512", "-vga", "std", "-blockdev", &node.to_string()])
        // An adapter comes before its disk.
        .args(more)
        .args(["-device", &format!("{device},drive=disk,bootindex=0")])
        .start()
}

/// To the login, then off by the power button.
fn boots(device: &str, more: &[&str]) {
    let directory = Directory::new();
    let mut machine = start(&directory, device, more);
    let mut session = machine.connect(0);
    machine.wait_serial("loading Debian", BOOT_PATIENCE);
    machine.wait_serial("ouzel login:", BOOT_PATIENCE);
    let screen = directory.join("screen.ppm");
    session.run("screendump", json!({"filename": text(&screen)}));
    let pixels = std::fs::read(&screen).expect("a picture");
    assert!(pixels.starts_with(b"P6\n"), "no picture");
    let body = pixels.get(20..).unwrap_or_default();
    assert!(body.iter().any(|byte| Some(byte) != body.first()), "the console shows nothing");
    session.run("system_powerdown", json!({}));
    wait_power_off(&mut machine, &mut session);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boots_from_an_ide_disk_and_obeys_the_power_button() {
    boots("ide-hd,bus=ide.0", &[]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boots_from_a_virtio_disk_with_two_processors() {
    boots("virtio-blk-pci", &["-smp", "2"]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boots_from_a_scsi_disk_on_both_boards() {
    boots("scsi-hd,scsi-id=3,lun=1", &["-device", "virtio-scsi-pci,num_queues=2"]);
    boots("scsi-hd", &["-machine", "q35", "-smp", "2", "-device", "virtio-scsi-pci"]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boots_from_a_usb_disk_behind_ehci() {
    boots("usb-storage", &["-machine", "q35,usb=on"]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boots_from_an_attached_scsi_disk_behind_ehci() {
    boots("scsi-hd,bus=uas.0", &["-machine", "q35,usb=on", "-device", "usb-uas,id=uas"]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_finds_an_attached_scsi_disk_behind_xhci() {
    let directory = Directory::new();
    let second = json!({"driver": "null-co", "node-name": "second", "size": 5 << 20, "read-zeroes": true}).to_string();
    let adapter = ["-device", "qemu-xhci", "-device", "usb-uas,id=uas", "-blockdev", &second];
    let disk = ["-device", "scsi-hd,bus=uas.0,lun=3,drive=second"];
    let mut machine = start(&directory, "ide-hd,bus=ide.0", &[&adapter[..], &disk].concat());
    let mut session = machine.connect(0);
    machine.wait_serial("ouzel login:", BOOT_PATIENCE);
    session.run("system_powerdown", json!({}));
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    // The kernel reads partition tables through the streams.
    for line in ["new SuperSpeed USB device", ": uas\n", "10240 512-byte logical blocks: (5.24 MB/5.00 MiB)"] {
        assert!(serial.replace('\r', "").contains(line), "'{line}' is not in:\n{serial}");
    }
    assert_eq!(serial.matches("Attached SCSI disk").count(), 2, "{serial}");
    assert!(!serial.contains("uas_eh_"), "{serial}");
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boot_menu_obeys_keys() {
    menu_obeys(&[]);
}

#[test]
#[ignore = "peer: a Debian disk image"]
fn peer_debian_boot_menu_obeys_a_usb_keyboard() {
    menu_obeys(&["-device", "qemu-xhci", "-device", "usb-kbd"]);
}

/// The menu's second entry is chosen by keys.
fn menu_obeys(more: &[&str]) {
    let directory = Directory::new();
    let mut machine = start(&directory, "ide-hd,bus=ide.0", more);
    let mut session = machine.connect(0);
    machine.wait_serial("Power off", BOOT_PATIENCE);
    for key in ["down", "ret"] {
        session.run("send-key", json!({"keys": [{"type": "qcode", "data": key}]}));
    }
    wait_power_off(&mut machine, &mut session);
    assert!(machine.serial().contains("powering off from the menu"), "{}", machine.serial());
}
