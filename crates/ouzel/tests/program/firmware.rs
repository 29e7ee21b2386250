//! From power-on: SeaBIOS, boot sectors, GRUB.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{BOOT_PATIENCE, Directory, Machine, PATIENCE, Setup, guest, qemu, text};

/// A boot sector that prints its text on COM1 and halts for ever.
fn boot_sector(text: &str) -> Vec<u8> {
    const CODE: [u8; 28] = [
        0xfa, // cli
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xd0, // mov ss, ax
        0xbc, 0x00, 0x7c, // mov sp, 0x7c00
        0xfc, // cld
        0xbe, 0x1c, 0x7c, // mov si, 0x7c1c: the text
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x06, // jz end
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xeb, 0xf5, // jmp next
        0xf4, // end: hlt
        0xeb, 0xfd, // jmp end
    ];
    let mut sector = CODE.to_vec();
    sector.extend(text.bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// SeaBIOS's debug console in a file.
const DEBUG_CONSOLE: [&str; 4] =
    ["-chardev", "file,id=debug,path={dir}/debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug"];

fn disk_with(directory: &Directory, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    let mut image = bytes.to_vec();
    image.resize(image.len().next_multiple_of(1 << 20), 0);
    fs::write(&path, image).expect("image");
    path
}

fn virtio(path: &Path, id: &str, index: u32) -> [String; 4] {
    let drive = format!("if=none,id={id},format=raw,file={}", path.display());
    ["-drive".into(), drive, "-device".into(), format!("virtio-blk-pci,drive={id},bootindex={index}")]
}

fn debug_text(machine: &Machine) -> String {
    String::from_utf8_lossy(&fs::read(machine.path("debug")).unwrap_or_default()).into_owned()
}

#[test]
#[ignore = "peer: Debian's package seabios"]
fn peer_seabios_boots_the_sector_of_the_first_disk_in_the_order() {
    let directory = Directory::new();
    let (first, second) = (boot_sector("the first disk boots\r\n"), boot_sector("the second disk boots\r\n"));
    let (first, second) = (disk_with(&directory, "a", &first), disk_with(&directory, "b", &second));
    for machine_type in ["pc", "q35"] {
        let mut machine = Setup::new()
            .serial()
            .args(["-nodefaults", "-machine", machine_type, "-m", "64"])
            .args(DEBUG_CONSOLE)
            .args(virtio(&second, "b", 2))
            .args(virtio(&first, "a", 1))
            .start();
        machine.wait_serial("the first disk boots", BOOT_PATIENCE);
        let debug = debug_text(&machine);
        assert!(debug.starts_with("SeaBIOS (version "), "{debug}");
        assert!(debug.contains("Booting from 0000:7c00"), "{debug}");
        assert!(!machine.serial().contains("second"), "{}", machine.serial());
        machine.connect(0).run("quit", serde_json::json!({}));
        machine.wait_exit(PATIENCE);
    }
}

#[test]
#[ignore = "peer: Debian's package seabios"]
fn peer_seabios_runs_again_after_a_reset() {
    let directory = Directory::new();
    let disk = disk_with(&directory, "a", &boot_sector("booted\r\n"));
    let mut machine =
        Setup::new().serial().args(["-nodefaults", "-m", "64"]).args(DEBUG_CONSOLE).args(virtio(&disk, "a", 1)).start();
    machine.wait_serial("booted", BOOT_PATIENCE);
    let mut session = machine.connect(0);
    session.run("system_reset", serde_json::json!({}));
    let boots = |machine: &Machine| machine.serial().matches("booted").count();
    machine.wait_for("a second boot", BOOT_PATIENCE, |machine| (boots(machine) == 2).then_some(()));
    assert!(debug_text(&machine).matches("SeaBIOS (version ").count() >= 2);
}

/// What SeaBIOS says of the machine, without what other devices or table contents change.
fn facts(text: &str) -> Vec<String> {
    const KEPT: [&str; 9] = [
        "SeaBIOS (version",
        "Running on QEMU",
        "qemu/e820",
        "PCI: init bdf=00:00.0",
        "PCI: init bdf=00:01.0",
        "PCI: init bdf=00:1f.0",
        "PIIX3/PIIX4 init",
        "Using pmtimer",
        "Found 2 cpu(s)",
    ];
    let kept = |line: &&str| KEPT.iter().any(|start| line.starts_with(start)) || line.contains(" = 1 RAM");
    text.lines().map(str::trim_end).filter(kept).map(str::to_owned).collect()
}

#[test]
#[ignore = "peer: QEMU"]
fn peer_qemu_seabios_finds_the_same_machine() {
    for machine_type in ["pc", "q35"] {
        let directory = Directory::new();
        let common = ["-nodefaults", "-machine", machine_type, "-m", "128", "-smp", "2", "-no-reboot"];
        let text = directory.join("peer");
        let debug = format!("file,id=debug,path={}", text.display());
        let mut peer = Command::new(qemu())
            .args(common)
            .args(["-accel", "tcg", "-display", "none", "-chardev", &debug])
            .args(["-device", "isa-debugcon,iobase=0x402,chardev=debug"])
            .spawn()
            .expect("the peer");
        let mut machine = Setup::new().args(common).args(DEBUG_CONSOLE).start();
        let is_done = |text: &str| text.contains("No bootable device.");
        machine.wait_for("the end of SeaBIOS", BOOT_PATIENCE, |machine| is_done(&debug_text(machine)).then_some(()));
        let ours = debug_text(&machine);
        let theirs = machine.wait_for("the end of the peer's", BOOT_PATIENCE, |_| {
            let theirs = fs::read_to_string(&text).unwrap_or_default();
            is_done(&theirs).then_some(theirs)
        });
        peer.kill().expect("the peer runs");
        peer.wait().expect("the peer ends");
        assert_eq!(facts(&ours), facts(&theirs), "{machine_type}:\n{ours}");
        assert!(ours.contains("Copying SMBIOS from"), "{ours}");
    }
}

/// An image that GRUB boots Linux from, as a disk and as a disc, under firmware of both kinds.
fn grub_image(directory: &Directory) -> PathBuf {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("boot/grub")).expect("directory");
    for file in ["vmlinuz", "initrd.cpio"] {
        fs::copy(guest(file), tree.join("boot").join(file)).expect("copy");
    }
    let menu = "serial --unit=0\nterminal_output serial\nset timeout=0\nmenuentry Linux {\n\
                linux /boot/vmlinuz console=ttyS0 quiet ouzel.run=poweroff\ninitrd /boot/initrd.cpio\n}\n";
    fs::write(tree.join("boot/grub/grub.cfg"), menu).expect("menu");
    let image = directory.join("grub.iso");
    let made = Command::new("grub-mkrescue")
        .arg("-o")
        .args([&image, &tree])
        .output()
        .expect("grub-mkrescue (packages grub-common and xorriso)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

/// Linux starts, does its work and powers off.
fn boots_linux(arguments: &[&str]) {
    let mut machine = Setup::new().serial().args(["-nodefaults", "-m", "512"]).args(arguments).start();
    machine.wait_serial("GUEST-DONE", BOOT_PATIENCE);
    assert!(machine.wait_exit(PATIENCE).success(), "{arguments:?}");
}

#[test]
#[ignore = "peer: GRUB, Debian's kernel and busybox"]
fn peer_linux_is_booted_by_grub_from_a_disk() {
    let directory = Directory::new();
    let disk = virtio(&grub_image(&directory), "a", 1);
    boots_linux(&disk.each_ref().map(String::as_str));
}

#[test]
#[ignore = "peer: GRUB, Debian's kernel and busybox"]
fn peer_linux_is_booted_by_grub_from_a_disc_in_each_drive() {
    let directory = Directory::new();
    let image = grub_image(&directory);
    let disc = format!("if=none,id=disc,media=cdrom,format=raw,file={}", image.display());
    boots_linux(&["-cdrom", text(&image), "-boot", "d"]);
    boots_linux(&["-machine", "q35", "-cdrom", text(&image), "-boot", "order=d"]);
    boots_linux(&["-drive", &disc, "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=disc,bootindex=1"]);
    boots_linux(&["-drive", &disc, "-device", "qemu-xhci", "-device", "usb-storage,drive=disc,bootindex=1"]);
}

#[test]
#[ignore = "peer: OVMF, GRUB, Debian's kernel and busybox"]
fn peer_ovmf_boots_linux_by_grub_from_a_disc() {
    const CODE: &str = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let directory = Directory::new();
    let image = grub_image(&directory);
    let variables = directory.join("variables.fd");
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("Debian's package ovmf");
    let variables = format!("if=pflash,format=raw,file={}", variables.display());
    let disc = format!("if=none,id=disc,media=cdrom,format=raw,file={}", image.display());
    for machine in ["pc", "q35"] {
        let more = ["-machine", machine, "-drive", CODE, "-drive", &variables, "-drive", &disc];
        boots_linux(&[&more[..], &["-device", "ide-cd,drive=disc,bootindex=0"]].concat());
    }
}

#[test]
#[ignore = "peer: Debian's package seabios"]
fn peer_seabios_boots_a_floppy() {
    let directory = Directory::new();
    let mut sector = boot_sector("the floppy boots\r\n");
    sector.resize(1440 << 10, 0);
    let image = directory.join("floppy.img");
    fs::write(&image, sector).expect("image");
    let drive = format!("if=floppy,format=raw,file={}", image.display());
    for machine_type in ["pc", "q35"] {
        let arguments = ["-machine", machine_type, "-nodefaults", "-m", "64", "-drive", &drive, "-boot", "a"];
        let mut machine = Setup::new().serial().args(arguments).start();
        machine.wait_serial("the floppy boots", BOOT_PATIENCE);
        machine.connect(0).run("quit", serde_json::json!({}));
        machine.wait_exit(PATIENCE);
    }
}

#[test]
fn secure_flash_chip_takes_no_commands_outside_of_system_management_mode() {
    let directory = Directory::new();
    let chip = directory.join("chip");
    fs::write(&chip, vec![0x5a; 64 << 10]).expect("a file");
    let drive = format!("if=pflash,format=raw,file={}", chip.display());
    for (secure, expected) in [("off", "OK 0x0000000000000000"), ("on", "OK 0x000000000000005a")] {
        let global = format!("driver=cfi.pflash01,property=secure,value={secure}");
        let mut machine = Setup::new()
            .args(["-machine", "q35", "-accel", "qtest", "-drive", &drive, "-global", &global])
            .args(["-qtest-log", "none", "-qtest", "unix:{dir}/qtest,server=on,wait=off"])
            .start();
        let path = machine.file("qtest");
        let mut qtest = machine.connect_unix(&path);
        // "Read status register": nothing has been done yet.
        let mut ask = |request: &str| {
            qtest.send(request.as_bytes());
            qtest.line().trim_end().to_owned()
        };
        assert_eq!(ask("writeb 0xffff0000 0x70\n"), "OK");
        assert_eq!(ask("readb 0xffff0000\n"), expected, "secure={secure}");
    }
}
