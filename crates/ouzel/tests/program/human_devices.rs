//! What the human monitor tells of devices, of what is inside of disks' images, and of what the guest does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{Machine, PATIENCE, Session, Setup, qemu};

/// What `human-monitor-command` answers.
fn command(session: &mut Session, line: &str) -> String {
    let answer = session.run("human-monitor-command", json!({ "command-line": line }));
    answer.as_str().expect("a text").replace("\r\n", "\n")
}

/// A machine that does not run.
pub fn stopped(setup: Setup, arguments: &str) -> (Machine, Session) {
    let mut machine = setup.args(["-S", "-accel", "tcg", "-m", "64", "-nodefaults"]).args(arguments.split(' ')).start();
    let session = machine.connect(0);
    (machine, session)
}

const DISKS: &str = "-blockdev driver=null-co,node-name=n0,size=1048576 -blockdev driver=null-co,node-name=n1,size=1048576 \
                     -blockdev driver=null-co,node-name=n2,size=1048576 -blockdev driver=null-co,node-name=n3,size=1048576";

/// Devices of each bus of a `q35`.
pub fn q35() -> String {
    format!(
        "-machine q35 {DISKS} -device pcie-root-port,id=rp,chassis=1 -device virtio-scsi-pci,bus=rp,id=vs \
         -device scsi-hd,drive=n0,bus=vs.0,id=unit,serial=abc -device virtio-blk-pci,drive=n1,id=vb,addr=5.0 \
         -device ide-hd,drive=n2,bus=ide.2,id=ata -chardev null,id=c0 -chardev null,id=c1 -device virtio-serial-pci,id=ser \
         -device virtconsole,chardev=c0,name=port,nr=1,bus=ser.0 -device pci-bridge,chassis_nr=2,id=br \
         -device virtio-rng-pci,bus=br,addr=3 -device virtio-keyboard-pci -device VGA,vgamem_mb=32,xres=1024,yres=768 \
         -device isa-serial,chardev=c1,index=1 -device isa-debug-exit,iobase=0xf4"
    )
}

/// Devices of each bus of a `pc`, with USB.
pub fn pc() -> String {
    format!(
        "-machine pc,usb=on {DISKS} -device usb-ehci,id=ehci -device usb-hub,bus=usb-bus.0,id=hub,port=1 \
         -device usb-kbd,port=1.2,bus=usb-bus.0 -device usb-tablet,id=tab,bus=ehci.0 -device nec-usb-xhci,id=x \
         -device usb-mouse,bus=x.0 -device usb-storage,drive=n0,id=stick,bus=x.0 -device floppy,unit=1 \
         -device ide-hd,drive=n1,bus=ide.1,unit=1 -device pvpanic -device ib700"
    )
}

/// Each line of a tree behind the headings that it is under. Where a device has several of its kind, they are one.
fn paths(tree: &str) -> BTreeSet<String> {
    let mut headings: Vec<(usize, String)> = Vec::new();
    let mut found = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let depth = line.len() - line.trim_start().len();
        headings.retain(|(above, _)| *above < depth);
        let above: Vec<&str> = headings.iter().map(|(_, heading)| heading.as_str()).collect();
        found.insert(format!("{} | {}", above.join(" > "), line.trim()));
        if ["bus: ", "dev: "].iter().any(|begin| line.trim().starts_with(begin)) {
            headings.push((depth, line.trim().to_owned()));
        }
    }
    found
}

#[test]
fn human_device_tree_has_each_device_below_its_bus_with_its_settings() {
    let (_machine, mut session) = stopped(Setup::new(), &q35());
    let tree = paths(&command(&mut session, "info qtree"));
    let has = |headings: &[&str], line: &str| {
        let wanted = |path: &&String| {
            let (above, last) = path.split_once(" | ").expect("two parts");
            last == line && headings.iter().all(|heading| above.contains(heading))
        };
        assert!(tree.iter().any(|path| wanted(&path)), "no {line} under {headings:?} in {tree:#?}");
    };
    has(&["bus: pcie.0", "dev: virtio-blk-pci, id \"vb\""], "addr = 05.0");
    has(&["dev: virtio-blk-pci", "bus: virtio-bus", "dev: virtio-blk-device"], "drive = \"n1\"");
    has(&["bus: rp", "dev: virtio-scsi-pci", "bus: vs.0", "dev: scsi-hd, id \"unit\""], "serial = \"abc\"");
    has(&["dev: ich9-ahci", "bus: ide.2", "dev: ide-hd, id \"ata\""], "drive = \"n2\"");
    has(&["bus: ser.0", "dev: virtconsole"], "name = \"port\"");
    has(&["dev: pci-bridge, id \"br\"", "bus: br", "dev: virtio-rng-pci"], "addr = 03.0");
    has(&["dev: ICH9-LPC", "bus: isa.0", "dev: isa-serial"], "iobase = 760 (0x2f8)");
    // Devices that come and leave are there and gone.
    session.run("device_add", json!({"driver": "scsi-hd", "drive": "n3", "id": "late", "bus": "vs.0", "lun": 4}));
    let shown = command(&mut session, "info qtree");
    assert!(shown.contains("dev: scsi-hd, id \"late\"\n") && shown.contains("lun = 4 (0x4)\n"), "{shown}");
    session.run("device_del", json!({"id": "late"}));
    session.event("DEVICE_DELETED");
    assert!(!command(&mut session, "info qtree").contains("late"));
    for machine in ["isapc", "microvm", "none"] {
        let (_machine, mut session) = stopped(Setup::new(), &format!("-machine {machine}"));
        let shown = command(&mut session, "info qtree");
        assert!(shown.starts_with("bus: main-system-bus\n  type System\n"), "{machine}: {shown}");
        assert_eq!(shown.contains("\nbus: isa.0\n  type ISA\n"), machine != "none", "{machine}: {shown}");
    }
}

#[test]
fn human_usb_devices_are_listed_while_they_are_there() {
    let (_machine, mut session) = stopped(Setup::new(), &pc());
    let list = command(&mut session, "info usb");
    assert!(list.contains("  Device 0.0, Port 1.2, Speed 12 Mb/s, Product QEMU USB Keyboard\n"), "{list}");
    assert!(list.contains("Speed 5000 Mb/s, Product QEMU USB MSD, ID: stick\n"), "{list}");
    session.run("device_del", json!({"id": "tab"}));
    session.event("DEVICE_DELETED");
    assert!(!command(&mut session, "info usb").contains("Tablet"));
    let same = session.query("x-query-usb");
    assert_eq!(same["human-readable-text"], command(&mut session, "info usb"));
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_human_device_tree_and_usb_lists_say_the_same() {
    let (_ours, mut our_session) = stopped(Setup::new(), &pc());
    let (_theirs, mut their_session) = stopped(Setup::of(qemu()), &pc());
    assert_eq!(command(&mut our_session, "info usb"), command(&mut their_session, "info usb"));
    let theirs = paths(&command(&mut their_session, "info qtree"));
    let ours = command(&mut our_session, "info qtree").replace("dev: fw_cfg,", "dev: fw_cfg_io,");
    // There, the ports of an xHCI controller are a part of the device.
    let is_part =
        |path: &String| ["intrs", "slots", "p2", "p3"].iter().any(|name| path.contains(&format!("| {name} = ")));
    let missing: Vec<_> = paths(&ours).into_iter().filter(|path| !theirs.contains(path) && !is_part(path)).collect();
    assert!(missing.is_empty(), "not in QEMU's: {missing:#?}");
}

/// Two images with snapshots, of which they share one.
fn images(machine: &Machine) -> [PathBuf; 2] {
    let images = ["a.qcow2", "b.qcow2"].map(|name| machine.path(name));
    for (image, snapshots) in images.iter().zip([&["one", "two"][..], &["zero", "two"]]) {
        let run = |before: &[&str], after: &[&str]| {
            let status = Command::new("qemu-img").args(before).arg(image).args(after).status();
            assert!(status.expect("qemu-img").success(), "{before:?}");
        };
        run(&["create", "-q", "-f", "qcow2"], &["1M"]);
        for snapshot in snapshots {
            run(&["snapshot", "-c", snapshot], &[]);
        }
    }
    images
}

/// What a machine with these images tells of their snapshots, and of some commands that go wrong.
fn snapshots_of(setup: Setup, prepare: impl Fn(&Machine) -> [PathBuf; 2]) -> Vec<String> {
    let (machine, mut session) = stopped(setup, "-machine pc");
    let mut told = vec![command(&mut session, "info snapshots")];
    for (image, name) in prepare(&machine).iter().zip(["a", "b"]) {
        let options = format!("drive_add 0 if=none,id={name},format=qcow2,file={}", image.display());
        assert_eq!(command(&mut session, &options), "OK\n");
        told.push(command(&mut session, "info snapshots"));
    }
    for line in [
        "snapshot_blkdev_internal a three",
        "snapshot_blkdev_internal a three",
        "snapshot_blkdev_internal b three",
        "snapshot_delete_blkdev_internal a nothing",
        "snapshot_delete_blkdev_internal a one 2",
        "snapshot_delete_blkdev_internal a one 1",
        "snapshot_delete_blkdev_internal a two",
    ] {
        told.push(command(&mut session, line));
    }
    // Without dates and times.
    let rest = command(&mut session, "info snapshots");
    told.extend(rest.lines().map(|line| line.chars().take(35).collect()));
    told
}

#[test]
#[ignore = "peer: qemu-img"]
fn peer_qemu_human_internal_snapshots_are_listed_the_same() {
    let made = Setup::new().args(["-S"]).start();
    let images = images(&made);
    let copies = |machine: &Machine| {
        let places = ["a.qcow2", "b.qcow2"].map(|name| machine.path(name));
        for (from, to) in images.iter().zip(&places) {
            std::fs::copy(from, to).expect("a copy");
        }
        places
    };
    let ours = snapshots_of(Setup::new(), copies);
    assert_eq!(ours, snapshots_of(Setup::of(qemu()), copies));
    assert_eq!(ours[0], "no block device can store vmstate for snapshot\n");
    assert!(ours[2].contains("\nList of partial (non-loadable) snapshots on 'b':\n"), "{}", ours[2]);
}

#[test]
fn human_nbd_server_serves_all_disks_until_it_is_stopped() {
    let drives = "-drive if=none,id=one,driver=null-co,size=1048576 -drive if=none,id=two,driver=null-co,size=1048576";
    let (machine, mut session) = stopped(Setup::new(), &format!("-machine pc {drives}"));
    let start = format!("nbd_server_start -a unix:{}", machine.path("nbd").display());
    assert_eq!(command(&mut session, &start), "");
    let mut names = || {
        let exports = session.query("query-block-exports");
        let exports = exports.as_array().expect("a list").iter();
        let mut names: Vec<String> = exports.map(|one| one["id"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["one", "two"]);
    assert_eq!(command(&mut session, "nbd_server_remove -f two"), "");
    assert_eq!(command(&mut session, "nbd_server_add -w two second"), "");
    assert_eq!(command(&mut session, &start), "Error: NBD server already running\n");
    let exports = session.query("query-block-exports").to_string();
    assert!(exports.contains("second") && !exports.contains("\"two\""), "{exports}");
    assert_eq!(command(&mut session, "nbd_server_stop"), "");
    assert_eq!(session.query("query-block-exports"), json!([]));
    // What can't be exported takes the server with it.
    session.run("blockdev-add", json!({"driver": "null-co", "node-name": "ro", "read-only": true}));
    session.run("device_add", json!({"driver": "virtio-blk-pci", "drive": "ro", "id": "d"}));
    assert!(command(&mut session, &start.replace("-a", "-a -w")).starts_with("Error: "));
    assert_eq!(command(&mut session, "nbd_server_stop"), "Error: NBD server not running\n");
    for address in ["unix:", "fd:", "127.0.0.1", "::1:10809", "[::1:10809", ":", "127.0.0.1:0,to=x", "127.0.0.1:0,no"] {
        let told = command(&mut session, &format!("nbd_server_start {address}"));
        assert!(told.starts_with("Error: "), "{address}: {told}");
    }
}

#[test]
fn log_begins_when_it_is_asked_for_and_shows_single_instructions() {
    let (mut machine, mut session) = stopped(Setup::bare().monitors(1), "-machine pc");
    let (first, second) = (machine.path("first"), machine.path("second"));
    assert_eq!(command(&mut session, &format!("logfile {}", first.display())), "");
    assert_eq!(command(&mut session, "log in_asm,cpu_reset"), "");
    assert_eq!(command(&mut session, "singlestep"), "");
    assert_eq!(command(&mut session, "info status"), "VM status: paused (single step mode) (prelaunch)\n");
    assert_eq!(session.query("query-status")["singlestep"], true);
    session.query("cont");
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    machine.wait_for("code", PATIENCE, |_| (text(&first).matches("IN: ").count() > 20).then_some(()));
    session.query("stop");
    assert_eq!(command(&mut session, "log none"), "");
    let log = text(&first);
    let blocks: Vec<&str> = log.split("----------------\n").skip(1).collect();
    // A head, an instruction, and an empty line.
    assert!(blocks.iter().all(|block| block.lines().count() == 3), "{log}");

    assert_eq!(command(&mut session, &format!("logfile {}", second.display())), "");
    assert_eq!(command(&mut session, "singlestep off"), "");
    assert_eq!(command(&mut session, "log exec,cpu_reset"), "");
    session.query("system_reset");
    session.query("cont");
    machine.wait_for("blocks", PATIENCE, |_| text(&second).contains("Trace 0: ").then_some(()));
    assert!(text(&second).contains("CPU Reset (CPU 0)") && !text(&second).contains("IN: "));
    assert_eq!(text(&first), log, "the first file stays as it was");
    assert_eq!(command(&mut session, "log none"), "");

    let help = command(&mut session, "help log");
    assert!(help.starts_with("Log items (comma separated):\nnone            remove all logs\n"), "{help}");
    assert_eq!(command(&mut session, "log int,foo"), help);
    assert_eq!(command(&mut session, "log trace:foo"), "warning: trace event 'foo' does not exist\n");
    assert_eq!(command(&mut session, "log trace:runstate*"), "");
    assert_eq!(command(&mut session, "info trace-events runstate*"), "runstate_set : state 1\n");
    assert_eq!(command(&mut session, "singlestep perhaps"), "unexpected option perhaps\n");
    for (file, error) in [
        ("/nonexistent/x", "Error opening logfile /nonexistent/x: No such file or directory\n"),
        ("/tmp/%d%d", "Bad logfile template: /tmp/%d%d\n"),
        ("/tmp/%x", "Bad logfile template: /tmp/%x\n"),
    ] {
        assert_eq!(command(&mut session, &format!("logfile {file}")), error);
    }
}

#[test]
fn memory_is_found_where_this_program_has_it() {
    let (machine, mut session) = stopped(Setup::bare().monitors(1), "-machine pc");
    let shown = command(&mut session, "gpa2hva 0xfffffff0");
    let at = shown.strip_prefix("Host virtual address for 0xfffffff0 (pc.bios) is 0x").expect(&shown).trim_end();
    let at = u64::from_str_radix(at, 16).expect("an address");
    let memory = std::fs::File::open(format!("/proc/{}/mem", machine.pid())).expect("its memory");
    let mut code = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut code, at).expect("readable");
    let code: String = code.iter().map(|byte| format!(" {byte:#04x}")).collect();
    assert_eq!(command(&mut session, "xp/8xb 0xfffffff0"), format!("00000000fffffff0:{code}\n"));

    let physical = command(&mut session, "gpa2hpa 0xfffffff0");
    // Without privileges the kernel tells the frame 0.
    assert!(physical.starts_with("Host physical address for 0xfffffff0 (pc.bios) is 0x"), "{physical}");
    assert!(physical.trim_end().ends_with("ff0"), "{physical}");
    for name in ["gpa2hva", "gpa2hpa"] {
        let mut shown = |address: &str| command(&mut session, &format!("{name} {address}"));
        assert_eq!(shown("0xfee00000"), "Memory at address 0xfee00000 is not RAM\n");
        assert_eq!(shown("0x100000000"), "No memory is mapped at address 0x100000000\n");
    }
}

#[test]
fn injected_machine_checks_are_answered_as_by_qemu() {
    let (_machine, mut session) = stopped(Setup::bare().monitors(1), "-machine pc -smp 2");
    for (line, expected) in [
        ("mce 0 10 0xb000000000000000 0 0 0", "Invalid MCE bank number\n"),
        ("mce 0 1 0x3000000000000000 0 0 0", "Invalid MCE status code\n"),
        ("mce 7 1 0xb000000000000000 0 0 0", ""),
        ("mce 0 1 0x9000000000000000 0 1 2", ""),
        ("mce 0 1 0xb000000000000000 4 1 2", "CPU 0: MCE capability is not enabled, raising triple fault\n"),
    ] {
        assert_eq!(command(&mut session, line), expected, "{line}");
    }
    let everywhere = command(&mut session, "mce -b 1 1 0xb000000000000000 4 1 2");
    let shut_down = |cpu| format!("CPU {cpu}: MCE capability is not enabled, raising triple fault\n");
    assert_eq!(everywhere, shut_down(1) + &shut_down(0));
}

#[test]
fn device_models_and_their_properties_are_listed() {
    let (_machine, mut session) = stopped(Setup::bare().monitors(1), "-machine pc");
    let models = command(&mut session, "info qdm");
    assert!(models.contains("name \"virtio-blk-pci\", bus PCI"), "{models}");
    assert_eq!(command(&mut session, "device_add help"), models);
    let properties = command(&mut session, "device_add virtio-blk-pci,help");
    assert!(properties.starts_with("virtio-blk-pci options:\n") && properties.contains("  drive "), "{properties}");
    assert_eq!(command(&mut session, "device_add nothing,help"), "Device 'nothing' not found\n");
}
