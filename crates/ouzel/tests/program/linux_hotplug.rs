//! Debian's kernel with devices that come while it runs, and leave.

use serde_json::{Value, json};

use crate::support::{BOOT_PATIENCE, Directory, Session, boot_linux, text, wait_power_off};

/// Plugs a disk twice into a machine with these arguments; the guest reads it and lets it go.
fn plug_twice(checks: &str, arguments: &[&str], device: &Value, name: &str) {
    let directory = Directory::new();
    let image = directory.join("image");
    std::fs::write(&image, vec![0x5a_u8; 1 << 20]).expect("a file");
    let mut machine = boot_linux(&format!("{checks},watch"), arguments);
    let mut session = machine.connect(0);
    machine.wait_serial("WATCH-BEGIN\n", BOOT_PATIENCE);
    for round in 1..=2 {
        // A node each: it is free again when the device has left.
        session.run("blockdev-add", json!({"driver": "file", "node-name": "image", "filename": text(&image)}));
        session.run("device_add", device.clone());
        wait_count(&machine, &format!("CAME {name} "), round);
        session.run("device_del", json!({"id": "disk"}));
        wait_deleted(&mut session);
        wait_count(&machine, &format!("WENT {name}\n"), round);
        session.run("blockdev-del", json!({"node-name": "image"}));
    }
    session.query("system_powerdown");
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    // The first 64 KiB of the image.
    let read = format!("CAME {name} f2a06f458682911ec85f54e9dcad6b72\n");
    assert_eq!(serial.matches(&read).count(), 2, "{serial}");
}

fn wait_deleted(session: &mut Session) {
    loop {
        if session.event_within("DEVICE_DELETED", BOOT_PATIENCE)["device"] == "disk" {
            return;
        }
    }
}

/// Waits until a line has come so many times.
fn wait_count(machine: &crate::support::Machine, line: &str, count: usize) {
    let start = std::time::Instant::now();
    while machine.serial().matches(line).count() < count {
        assert!(start.elapsed() < BOOT_PATIENCE, "'{line}' did not come {count} times:\n{}", machine.story());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_virtio_disks_that_come_and_leave_by_acpi() {
    plug_twice("virtio", &[], &json!({"driver": "virtio-blk-pci", "drive": "image", "id": "disk"}), "vda");
    let behind_port = json!({"driver": "virtio-blk-pci", "drive": "image", "id": "disk", "bus": "port"});
    plug_twice("virtio", &["-machine", "q35", "-device", "pcie-root-port,id=port"], &behind_port, "vda");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_scsi_disks_that_come_and_leave() {
    let disk = json!({"driver": "scsi-hd", "drive": "image", "id": "disk", "bus": "sc.0", "scsi-id": "3"});
    plug_twice("scsi", &["-device", "virtio-scsi-pci,id=sc"], &disk, "sda");
}
