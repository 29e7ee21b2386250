//! Debian's kernel with virtio disks in the host's memory: everything between the guest's driver and `device::disk`.

mod disk;
mod guest;

use std::sync::Arc;

use machine::config::{BlkOptions, PciOptions, virtio_features};

use crate::disk::MemoryDisk;
use crate::guest::{Guest, Setup};

const MIB: usize = 1 << 20;

/// Bytes that differ from sector to sector.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 31 + at * 7 + at / 4096) as u8).collect()
}

fn md5(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("md5sum is there");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("written");
    let output = child.wait_with_output().expect("md5sum");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

/// What has to work whatever the transport: read, write by a file system, parallel load.
fn check(mut guest: Guest, disk: &MemoryDisk) {
    let before = md5(&disk.contents());
    let serial = guest.finish();
    let has = |line: &str| assert!(serial.lines().any(|other| other == line), "no line {line:?} in\n{serial}");
    has(&format!("DISK-MD5 {before}"));
    has("DISK-MOUNTED");
    let written = serial.lines().find_map(|line| line.strip_prefix("DISK-WRITTEN ")).expect("a sum");
    for file in [3, 7, 12] {
        has(&format!("DISK-FILE {file} {written}"));
    }
    for part in 0..4 {
        let content = vec![b'0' + part; 300 * 4096];
        has(&format!("DISK-LOAD {part} {}", md5(&content)));
        let start = usize::from(part) * content.len();
        assert!(disk.contents()[start..start + content.len()] == content, "part {part} is not on the disk");
    }
    assert!(!serial.contains("I/O error"), "{serial}");
}

const CHECKS: &str = "virtio,pci,disk,disk-read,disk-write,disk-load,poweroff";

fn run(setup: impl FnOnce(&mut Setup)) {
    let disk = MemoryDisk::new(pattern(48 * MIB));
    let mut guest = Setup::new(CHECKS, Arc::clone(&disk));
    setup(&mut guest);
    check(guest.start(), &disk);
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_a_transitional_disk() {
    run(|_| ());
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_a_legacy_disk() {
    run(|setup| setup.pci = PciOptions { modern: false, ..PciOptions::default() });
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_a_modern_disk_with_packed_queues_on_four_processors() {
    run(|setup| {
        setup.cpus = 4;
        setup.pci = PciOptions { legacy: false, ..PciOptions::default() };
        setup.pci.features |= virtio_features::RING_PACKED;
    });
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_uses_a_disk_without_msix_and_event_index() {
    run(|setup| {
        setup.vectors = Some(0);
        setup.pci.features = virtio_features::RING_RESET;
        setup.blk = BlkOptions { queue_size: 8, ..BlkOptions::default() };
    });
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_finds_the_disk_again_after_a_reset() {
    let disk = MemoryDisk::new(pattern(4 * MIB));
    let mut guest = Setup::new("virtio,reset-once,disk-read,poweroff", Arc::clone(&disk)).start();
    guest.reset();
    let serial = guest.finish();
    assert_eq!(serial.matches("DISKS vda").count(), 2, "{serial}");
    assert!(serial.contains(&format!("DISK-MD5 {}", md5(&disk.contents()))), "{serial}");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_sees_what_qemu_shows() {
    let disk = MemoryDisk::new(pattern(48 * MIB));
    let mut setup = Setup::new("virtio,pci,disk,poweroff", disk);
    setup.blk.serial = Some("ouzel".into());
    let ours = setup.start().finish();
    let theirs = guest::qemu("virtio,pci,disk,poweroff", 48 * MIB, "virtio-blk-pci,drive=d,addr=2,serial=ouzel");
    let part = |serial: &str, begin: &str, end: &str| -> String {
        let lines = serial.lines().skip_while(|line| *line != begin).take_while(|line| *line != end);
        lines.collect::<Vec<_>>().join("\n")
    };
    for (begin, end) in [("PCI-BEGIN", "PCI-END"), ("DISK-BEGIN", "DISK-END")] {
        assert_eq!(part(&ours, begin, end), part(&theirs, begin, end));
    }
}
