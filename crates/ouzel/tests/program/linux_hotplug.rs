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
        // A node and a thread each: they are free again when the device has left.
        session.run("object-add", json!({"qom-type": "iothread", "id": "thread"}));
        session.run("blockdev-add", json!({"driver": "file", "node-name": "image", "filename": text(&image)}));
        session.run("device_add", device.clone());
        wait_count(&machine, &format!("CAME {name} "), round);
        if device.get("iothread").is_some() {
            let refusal = session.generic_error("object-del", json!({"id": "thread"}));
            assert_eq!(refusal, "object 'thread' is in use, can not be deleted");
        }
        session.run("device_del", json!({"id": "disk"}));
        wait_deleted(&mut session);
        wait_count(&machine, &format!("WENT {name}\n"), round);
        session.run("blockdev-del", json!({"node-name": "image"}));
        session.run("object-del", json!({"id": "thread"}));
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
    let on_a_thread = json!({"driver": "virtio-blk-pci", "drive": "image", "id": "disk", "iothread": "thread"});
    plug_twice("virtio", &[], &on_a_thread, "vda");
    let behind_port = json!({"driver": "virtio-blk-pci", "drive": "image", "id": "disk", "bus": "port"});
    plug_twice("virtio", &["-machine", "q35", "-device", "pcie-root-port,id=port"], &behind_port, "vda");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_scsi_disks_that_come_and_leave() {
    let disk = json!({"driver": "scsi-hd", "drive": "image", "id": "disk", "bus": "sc.0", "scsi-id": "3"});
    plug_twice("scsi", &["-device", "virtio-scsi-pci,id=sc"], &disk, "sda");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_brings_processors_online_and_lets_them_go() {
    let cpu = json!({"driver": "qemu64-x86_64-cpu", "id": "second", "socket-id": 1, "core-id": 0, "thread-id": 0});
    for board in ["pc", "q35"] {
        let smp = ["-machine", board, "-smp", "1,sockets=3,maxcpus=3"];
        let mut machine = boot_linux("watch", &smp);
        let mut session = machine.connect(0);
        machine.wait_serial("WATCH-BEGIN\n", BOOT_PATIENCE);
        for round in 1..=2 {
            session.run("device_add", cpu.clone());
            // Its sum was made on the new processor.
            wait_count(&machine, "CAME cpu1 ", round);
            let cpus = session.query("query-cpus-fast");
            let paths = [&cpus[0]["qom-path"], &cpus[1]["qom-path"], &cpus[2]];
            assert_eq!(
                paths,
                [&json!("/machine/unattached/device[0]"), &json!("/machine/peripheral/second"), &Value::Null]
            );
            session.run("device_del", json!({"id": "second"}));
            loop {
                if session.event_within("DEVICE_DELETED", BOOT_PATIENCE)["device"] == "second" {
                    break;
                }
            }
            wait_count(&machine, "WENT cpu1\n", round);
            assert_eq!(session.query("query-cpus-fast").as_array().map(Vec::len), Some(1));
        }
        let reports = session.query("query-acpi-ospm-status");
        assert_eq!(reports[1], json!({"slot": "1", "slot-type": "CPU", "source": 3, "status": 0}), "{reports}");
        session.query("system_powerdown");
        wait_power_off(&mut machine, &mut session);
    }
}
