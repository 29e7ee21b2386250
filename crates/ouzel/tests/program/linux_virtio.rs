//! Debian's kernel with virtio devices other than block devices: SCSI units, random numbers, serial ports.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Directory, boot_linux, text, wait_power_off};

/// The host's opinion of a file.
fn md5(path: &Path) -> String {
    let output = Command::new("md5sum").arg(path).output().expect("md5sum runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

/// Lines that the guest must have printed.
fn has(serial: &str, lines: &[&str]) {
    for line in lines {
        assert!(serial.contains(line), "'{line}' is not in:\n{serial}");
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_a_disk_and_a_disc_on_a_scsi_adapter() {
    let directory = Directory::new();
    let (disk, disc) = (directory.join("disk"), directory.join("disc"));
    std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a file");
    let bytes: Vec<u8> = (0..2u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&disc, bytes).expect("a file");
    let mut machine = boot_linux(
        "scsi,cd,scsi-discard,disk-write,disk-load,scsi-size,button",
        &[
            "-smp",
            "2",
            "-drive",
            &format!("if=none,id=hd,format=raw,discard=unmap,file={}", text(&disk)),
            "-drive",
            &format!("if=none,id=cd,media=cdrom,format=raw,file={}", text(&disc)),
            "-device",
            "virtio-scsi-pci,id=sc",
            "-device",
            "scsi-hd,id=disk,drive=hd,bus=sc.0,scsi-id=2,lun=3,serial=ser123,wwn=0x5000c50012345678",
            "-device",
            "scsi-cd,id=reader,drive=cd,bus=sc.0,scsi-id=4",
        ],
    );
    let mut session = machine.connect(0);
    machine.wait_serial("SIZE-WAIT 131072\n", BOOT_PATIENCE);
    session.run("block_resize", json!({"device": "hd", "size": 96 << 20}));
    machine.wait_serial("SIZE-NOW 196608\n", BOOT_PATIENCE);
    machine.wait_serial("BUTTON-WAIT\n", BOOT_PATIENCE);
    let drives = session.query("query-block");
    let paths: Vec<_> = drives.as_array().into_iter().flatten().map(|drive| drive["qdev"].clone()).collect();
    assert_eq!(paths, [json!("disk"), json!("reader")]);
    session.run("eject", json!({"id": "reader", "force": true}));
    assert_eq!(session.event("DEVICE_TRAY_MOVED"), json!({"device": "cd", "id": "reader", "tray-open": true}));
    session.query("system_powerdown");
    wait_power_off(&mut machine, &mut session);
    let serial = machine.serial();
    has(
        &serial,
        &[
            "scsi 0:0:2:3: Direct-Access     QEMU     QEMU HARDDISK    2.5+ PQ: 0 ANSI: 5",
            "scsi 0:0:4:0: CD-ROM            QEMU     QEMU CD-ROM      2.5+ PQ: 0 ANSI: 5",
            "sd 0:0:2:3: [sda] 131072 512-byte logical blocks: (67.1 MB/64.0 MiB)",
            "sd 0:0:2:3: [sda] Write cache: enabled, read cache: enabled, doesn't support DPO or FUA",
            "sr 0:0:4:0: [sr0] scsi3-mmc drive: 16x/50x cd/rw xa/form2 cdda tray",
            "vpd_pg80=00800006736572313233",
            "wwid=naa.5000c50012345678",
            &format!("CD-MD5 {}", md5(&disc)),
            "DISCARDED fcd6bcb56c1689fcef28b57c22475bad",
            "DISK-LOADED",
        ][..],
    );
    let value = |mark: &str| serial.lines().find_map(|line| line.strip_prefix(mark).map(str::trim));
    let written = value("DISK-WRITTEN").unwrap_or_else(|| panic!("the disk was not written:\n{serial}"));
    for file in ["3", "7", "12"] {
        assert_eq!(value(&format!("DISK-FILE {file}")), Some(written), "{serial}");
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_gets_random_numbers_from_a_file() {
    let directory = Directory::new();
    let source = directory.join("source");
    std::fs::write(&source, vec![0x5a; 1 << 20]).expect("a file");
    let object = format!("rng-random,id=source,filename={}", text(&source));
    let mut machine = boot_linux(
        "rng,poweroff",
        &["-object", &object, "-device", "virtio-rng-pci,rng=source,max-bytes=65536,period=100"],
    );
    let mut session = machine.connect(0);
    wait_power_off(&mut machine, &mut session);
    has(&machine.serial(), &["RNG virtio_rng.0 1024", &format!("RNG-BYTES {}", "5a".repeat(16))]);
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_hears_virtio_keyboards_and_pointers() {
    let devices = ["virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci"];
    let arguments: Vec<&str> = devices.iter().flat_map(|device| ["-device", device]).collect();
    let mut machine = boot_linux("input,poweroff", &arguments);
    let mut session = machine.connect(0);
    let key =
        |key: &str, down: bool| json!({"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": key}}});
    let axis = |kind: &str, axis: &str, value: i64| json!({"type": kind, "data": {"axis": axis, "value": value}});
    let button = |down: bool| json!({"type": "btn", "data": {"down": down, "button": "left"}});
    machine.wait_serial("INPUT-WAIT Keyboard\n", BOOT_PATIENCE);
    session.run("input-send-event", json!({"events": [key("q", true)]}));
    session.run("input-send-event", json!({"events": [key("q", false)]}));
    machine.wait_serial("INPUT-WAIT Mouse\n", BOOT_PATIENCE);
    let mice = session.query("query-mice");
    let find = |name: &str| {
        let found = mice.as_array().into_iter().flatten().find(|mouse| mouse["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {mice}")).clone()
    };
    assert_eq!(find("QEMU Virtio Tablet")["absolute"], true);
    session.run("input-send-event", json!({"events": [axis("rel", "x", 7), axis("rel", "y", -3)]}));
    session.run("input-send-event", json!({"events": [axis("rel", "x", 1)]}));
    machine.wait_serial("INPUT-WAIT Tablet\n", BOOT_PATIENCE);
    session.run("input-send-event", json!({"events": [axis("abs", "x", 20000), axis("abs", "y", 400), button(true)]}));
    wait_power_off(&mut machine, &mut session);
    has(
        &machine.serial(),
        &[
            "N: Name=\"QEMU Virtio Keyboard\"",
            "INPUT-EVENTS Keyboard 0100100001000000 0000000000000000 0100100000000000 0000000000000000",
            "INPUT-EVENTS Mouse 0200000007000000 02000100fdffffff 0000000000000000 0200000001000000",
            "INPUT-EVENTS Tablet 03000000204e0000 0300010090010000 0100100101000000 0000000000000000",
        ],
    );
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_talks_through_named_ports_and_a_console() {
    const OUTPUT: usize = 300_000;
    let directory = Directory::new();
    let (socket, console) = (directory.join("port"), directory.join("console"));
    let mut machine = boot_linux(
        "ports,button",
        &[
            "-chardev",
            &format!("socket,id=port,path={},server=on,wait=off", text(&socket)),
            "-chardev",
            &format!("file,id=console,path={}", text(&console)),
            "-device",
            "virtio-serial-pci,id=vs",
            "-device",
            "virtconsole,chardev=console",
            "-device",
            "virtserialport,id=echo,chardev=port,name=org.ouzel.echo,bus=vs.0",
        ],
    );
    let mut session = machine.connect(0);
    let mut port = UnixStream::connect(&socket).expect("the port");
    port.set_read_timeout(Some(BOOT_PATIENCE)).expect("a time limit");
    assert_eq!(session.event_within("VSERPORT_CHANGE", BOOT_PATIENCE), json!({"id": "echo", "open": true}));
    machine.wait_serial("ECHO-READY\n", BOOT_PATIENCE);
    port.write_all(b"hello there\n").expect("written");
    let expected = b"you said hello there\n";
    let mut answer = vec![0; expected.len() + OUTPUT];
    port.read_exact(&mut answer).unwrap_or_else(|error| panic!("{error}\n{}", machine.story()));
    assert_eq!(answer[..expected.len()], expected[..]);
    assert!(answer[expected.len()..].iter().all(|byte| *byte == b'x'), "another byte came");
    // Changes of a port are told once a second.
    assert_eq!(session.event_within("VSERPORT_CHANGE", BOOT_PATIENCE), json!({"id": "echo", "open": false}));
    session.query("system_powerdown");
    wait_power_off(&mut machine, &mut session);
    has(&machine.serial(), &["PORT vport0p1 org.ouzel.echo", "ECHO-READ hello there", "ECHO-SENT", "HVC-DONE"]);
    let greeting = std::fs::read_to_string(&console).expect("a file");
    assert!(greeting.contains("HELLO FROM HVC0"), "{greeting}");
}
