//! Debian's kernel with drives on the board's IDE buses: what it says of them, file systems, discs that are ejected.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Directory, boot_linux, ouzel, text, wait_power_off};

/// The host's opinion of a file.
fn md5(path: &Path) -> String {
    let output = Command::new("md5sum").arg(path).output().expect("md5sum runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_fills_a_file_system_on_an_ide_disk() {
    let directory = Directory::new();
    let disk = directory.join("disk.qcow2");
    let created = Command::new(ouzel().with_file_name("ouzel-img"))
        .args(["create", "-q", "-f", "qcow2", text(&disk), "128M"])
        .status();
    assert!(created.is_ok_and(|status| status.success()));
    let drive = format!("file={},format=qcow2,discard=unmap", text(&disk));
    let mut machine = boot_linux("ata,disk-write", &["-drive", &drive]);
    let mut session = machine.connect(0);
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    for line in [
        "ata1: PATA max MWDMA2 cmd 0x1f0 ctl 0x3f6 bmdma 0xc000 irq 14",
        "ata1.00: ATA-7: QEMU HARDDISK, 2.5+, max UDMA/100",
        "ata1.00: 262144 sectors, multi 16: LBA48",
        "scsi 0:0:0:0: Direct-Access     ATA      QEMU HARDDISK    2.5+ PQ: 0 ANSI: 5",
        "sd 0:0:0:0: [sda] Write cache: enabled, read cache: enabled, doesn't support DPO or FUA",
    ] {
        assert!(serial.contains(line), "'{line}' is not in:\n{serial}");
    }
    let value = |mark: &str| serial.lines().find_map(|line| line.strip_prefix(mark).map(str::trim));
    let written = value("DISK-WRITTEN").unwrap_or_else(|| panic!("the disk was not written:\n{serial}"));
    for file in ["3", "7", "12"] {
        assert_eq!(value(&format!("DISK-FILE {file}")), Some(written), "{serial}");
    }
    assert!(!serial.contains("exception"), "{serial}");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_reads_a_disc_that_the_monitor_takes_out() {
    let directory = Directory::new();
    let disc = directory.join("disc");
    let bytes: Vec<u8> = (0..3u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&disc, bytes).expect("a file");
    let mut machine = boot_linux("ata,cd,button", &["-cdrom", text(&disc)]);
    let mut session = machine.connect(0);
    machine.wait_serial("BUTTON-WAIT\n", BOOT_PATIENCE);
    session.run("eject", json!({"device": "ide1-cd0", "force": true}));
    let event = session.event("DEVICE_TRAY_MOVED");
    assert_eq!((&event["device"], &event["tray-open"]), (&json!("ide1-cd0"), &json!(true)), "{event}");
    let drive = &session.query("query-block")[0];
    assert_eq!((&drive["tray_open"], &drive["inserted"]), (&json!(true), &json!(null)), "{drive}");
    session.query("system_powerdown");
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    for line in ["ata2.00: ATAPI: QEMU DVD-ROM, 2.5+, max UDMA/100", "[sr0] scsi3-mmc drive: 4x/4x cd/rw xa/form2 tray"]
    {
        assert!(serial.contains(line), "'{line}' is not in:\n{serial}");
    }
    assert!(serial.contains(&format!("CD-MD5 {}", md5(&disc))), "{serial}");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_moves_and_locks_its_tray() {
    let directory = Directory::new();
    let disc = directory.join("disc");
    std::fs::write(&disc, vec![7; 1 << 20]).expect("a file");
    let drive = format!("if=none,id=disc,media=cdrom,format=raw,file={}", text(&disc));
    let mut machine = boot_linux("ata,tray", &["-drive", &drive, "-device", "ide-cd,id=cd,drive=disc,bus=ide.1"]);
    let mut session = machine.connect(0);
    let moved = |tray_open: bool| json!({"device": "disc", "id": "cd", "tray-open": tray_open});
    for (mark, tray_open) in [("TRAY-OPENED\n", true), ("TRAY-LOCKED\n", false)] {
        assert_eq!(session.event_within("DEVICE_TRAY_MOVED", BOOT_PATIENCE), moved(tray_open), "{}", machine.story());
        machine.wait_serial(mark, BOOT_PATIENCE);
    }
    assert_eq!(session.query("query-block")[0]["locked"], true);
    let text = session.generic_error("eject", json!({"id": "cd"}));
    assert_eq!(text, "Device 'cd' is locked and force was not specified, wait for tray to open and try again");
    assert!(session.query("query-block")[0]["inserted"].is_object(), "the disc stays in");
    session.run("eject", json!({"id": "cd", "force": true}));
    assert_eq!(session.event("DEVICE_TRAY_MOVED"), moved(true));
    machine.wait_serial("TRAY-LOST\n", BOOT_PATIENCE);
    wait_power_off(&mut machine, &mut session);
}
