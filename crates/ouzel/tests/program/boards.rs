//! The boards without a PC's chipset: `isapc` and `microvm`.

use std::path::Path;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Directory, PATIENCE, Setup, boot_linux, guest, text, wait_power_off};

/// A boot sector that says on COM1 which drive it was read from, and stops.
fn boot_sector(greeting: &str) -> Vec<u8> {
    // mov si, text; next: lodsb; test al, al; jz end; mov dx, 3f8h; out dx, al; jmp next; end: cli; hlt
    let code = [0xbe, 0x10, 0x7c, 0xac, 0x84, 0xc0, 0x74, 6, 0xba, 0xf8, 3, 0xee, 0xeb, 0xf5, 0xfa, 0xf4];
    let mut sector = code.to_vec();
    sector.extend(greeting.bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

fn image(path: &Path, greeting: &str, len: usize) {
    let mut bytes = boot_sector(greeting);
    bytes.resize(len, 0);
    std::fs::write(path, bytes).expect("a file");
}

#[test]
#[ignore = "peer: SeaBIOS"]
fn peer_seabios_boots_a_floppy_and_a_disk_on_isapc() {
    let directory = Directory::new();
    let (floppy, disk) = (directory.join("floppy"), directory.join("disk"));
    image(&floppy, "FROM-FLOPPY\n", 1_474_560);
    image(&disk, "FROM-DISK\n", 8 << 20);
    let floppy = format!("if=floppy,format=raw,file={}", text(&floppy));
    let disk = format!("if=ide,format=raw,file={}", text(&disk));
    for (order, greeting) in [("a", "FROM-FLOPPY\n"), ("c", "FROM-DISK\n")] {
        let arguments = ["-machine", "isapc", "-boot", order, "-drive", &floppy, "-drive", &disk];
        let mut machine = Setup::new().serial().args(arguments).start();
        machine.wait_serial(greeting, BOOT_PATIENCE);
        let mut session = machine.connect(0);
        assert_eq!(session.query("query-pci"), json!([{"bus": 0, "devices": []}]));
        let cpus = session.query("query-hotpluggable-cpus");
        assert_eq!(cpus[0]["type"], "486-x86_64-cpu");
        session.query("quit");
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_on_a_microvm_finds_its_disk_and_hears_the_power_button() {
    let directory = Directory::new();
    let disk = directory.join("disk");
    std::fs::write(&disk, vec![0x5a; 8 << 20]).expect("a file");
    let drive = format!("if=none,id=d,format=raw,file={}", text(&disk));
    for more in [&[][..], &["-global", "virtio-mmio.force-legacy=false", "-smp", "2"][..]] {
        let mut arguments =
            vec!["-machine", "microvm", "-drive", &drive, "-device", "virtio-blk-device,drive=d,id=disk"];
        arguments.extend(more);
        // With reduced ACPI hardware Linux does not measure its TSC against the PIT.
        arguments.extend(["-append", "console=ttyS0 quiet tsc_early_khz=1000000 ouzel.run=virtio,button,poweroff"]);
        let mut machine = boot_linux("virtio,button,poweroff", &arguments);
        let mut session = machine.connect(0);
        machine.wait_serial("BUTTON-WAIT\n", BOOT_PATIENCE);
        session.query("system_powerdown");
        machine.wait_serial("BUTTON-PRESSED\n", PATIENCE);
        wait_power_off(&mut machine, &mut session);
        assert!(machine.serial().contains("DISKS vda"), "{}", machine.serial());
    }
}

#[test]
fn microvm_properties_decide_which_devices_there_are() {
    let count = |properties: &str| {
        let machine = format!("microvm,{properties}");
        let mut machine =
            Setup::new().args(["-machine", &machine, "-accel", "qtest", "-kernel", &guest("pvh.elf")]).start();
        let mut session = machine.connect(0);
        let mut types = Vec::new();
        let unattached = session.run("qom-list", json!({"path": "/machine/unattached"}));
        for object in unattached.as_array().into_iter().flatten() {
            types.push(object["type"].as_str().unwrap_or_default().to_owned());
        }
        session.query("quit");
        move |name: &str| types.iter().filter(|it| **it == format!("child<{name}>")).count()
    };
    let all = count("pit=on");
    assert_eq!(["virtio-mmio", "ioapic", "isa-i8259", "isa-pit"].map(all), [24, 2, 1, 1]);
    let least = count("acpi=off,pit=off,pic=off,rtc=off,isa-serial=off");
    let names = ["virtio-mmio", "ioapic", "isa-i8259", "isa-pit", "mc146818rtc", "acpi-ged-x86"];
    assert_eq!(names.map(least), [8, 1, 0, 0, 0, 0]);
    let one = count("ioapic2=off,pcie=on");
    assert_eq!(["virtio-mmio", "ioapic", "gpex-root", "acpi-ged-x86"].map(one), [8, 1, 1, 1]);
}

#[test]
fn processors_are_refused_by_boards_without_places_for_them() {
    let refused = |machine: &str, cpu: &str, place: serde_json::Value| {
        let mut machine = Setup::new().args(["-S", "-machine", machine, "-smp", "1,maxcpus=1"]).start();
        let mut session = machine.connect(0);
        let mut arguments = json!({"driver": format!("{cpu}-x86_64-cpu")});
        for (key, value) in place.as_object().into_iter().flatten() {
            arguments[key] = value.clone();
        }
        let before = session.query("query-cpus-fast").as_array().map(Vec::len);
        let error = session.generic_error("device_add", arguments);
        assert_eq!(session.query("query-cpus-fast").as_array().map(Vec::len), before);
        session.query("quit");
        error
    };
    let first = || json!({"socket-id": 0, "core-id": 0, "thread-id": 0});
    assert_eq!(refused("isapc", "486", first()), "CPU[0] with APIC ID 0 exists");
    assert_eq!(refused("isapc", "qemu64", first()), "Invalid CPU type, expected cpu type: '486-x86_64-cpu'");
    let none = "Device 'qemu64-x86_64-cpu' can not be hotplugged on this machine";
    assert_eq!(refused("none", "qemu64", first()), none);
    let mut machine =
        Setup::new().args(["-S", "-machine", "microvm", "-smp", "1,maxcpus=2", "-kernel", &guest("pvh.elf")]).start();
    let mut session = machine.connect(0);
    let second = json!({"driver": "qemu64-x86_64-cpu", "socket-id": 0, "core-id": 1, "thread-id": 0});
    let error = session.generic_error("device_add", second);
    assert_eq!(error, "virt: device plug request for unsupported device type: qemu64-x86_64-cpu");
    let error = session.generic_error("query-hotpluggable-cpus", json!({}));
    assert_eq!(error, "The feature 'query-hotpluggable-cpus' is not enabled");
    session.query("quit");
}

#[test]
fn expansion_rom_is_the_file_that_was_named_or_none() {
    let directory = Directory::new();
    let file = directory.join("rom");
    std::fs::write(&file, vec![0x55; 5000]).expect("a file");
    let rom_size = |device: &str| {
        let mut machine = Setup::new()
            .args(["-accel", "qtest", "-kernel", &guest("pvh.elf"), "-vga", "none", "-device", device])
            .start();
        let mut session = machine.connect(0);
        let buses = session.query("query-pci");
        session.query("quit");
        let functions = buses[0]["devices"].as_array().cloned().unwrap_or_default();
        let function = functions.into_iter().find(|function| function["qdev_id"] == "it").expect("the function");
        let regions = function["regions"].as_array().cloned().unwrap_or_default();
        regions.into_iter().find(|region| region["bar"] == 6).map(|region| region["size"].clone())
    };
    let named = |device: &str, more: &str| rom_size(&format!("{device},id=it,romfile={}{more}", text(&file)));
    for device in ["virtio-rng-pci", "ich9-ahci", "qemu-xhci", "i6300esb", "VGA"] {
        assert_eq!(named(device, ""), Some(json!(8192)), "{device}");
    }
    assert_eq!(named("virtio-rng-pci", ",romsize=65536"), Some(json!(65536)));
    assert_eq!(named("virtio-rng-pci", ",rombar=0"), None);
    assert_eq!((rom_size("virtio-rng-pci,id=it"), rom_size("VGA,id=it,romfile=")), (None, None));
}
