//! The human monitor from outside: a terminal's keys, and `human-monitor-command`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Machine, PATIENCE, Session, Setup, qemu};

const PROMPT: &str = "(qemu) ";

/// A terminal on a monitor.
struct Terminal {
    stream: UnixStream,
    seen: String,
}

impl Terminal {
    fn connect(machine: &mut Machine) -> Self {
        let path = machine.path("human");
        let stream = machine.wait_for("the human monitor's socket", PATIENCE, |_| UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        Self { stream, seen: String::new() }
    }

    /// Types keys.
    fn keys(&mut self, keys: &str) {
        self.stream.write_all(keys.as_bytes()).expect("the monitor takes keys");
    }

    /// What is shown up to `end`, and that.
    fn until(&mut self, end: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(end) {
                let rest = self.seen.split_off(at + end.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < deadline, "no {end:?} in {:?}", self.seen);
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => panic!("the monitor is gone after {:?}", self.seen),
                Ok(count) => self.seen.push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("{error} after {:?}", self.seen),
            }
        }
    }

    /// What a line prints.
    fn run(&mut self, line: &str) -> String {
        self.keys(&format!("{line}\r"));
        self.until("\r\n");
        let shown = self.until(PROMPT);
        shown.strip_suffix(PROMPT).expect("a prompt").to_owned()
    }
}

fn human(setup: Setup) -> Setup {
    setup.args(["-chardev", "socket,id=h,path={dir}human,server=on,wait=off", "-mon", "chardev=h,mode=readline", "-S"])
}

/// What `human-monitor-command` answers.
fn command(session: &mut Session, line: &str) -> String {
    let answer = session.run("human-monitor-command", json!({ "command-line": line }));
    answer.as_str().expect("a text").to_owned()
}

#[test]
fn human_terminal_edits_completes_and_remembers_lines() {
    let mut machine = human(Setup::new()).start();
    let mut terminal = Terminal::connect(&mut machine);
    let banner = terminal.until(PROMPT);
    assert!(banner.starts_with("QEMU 7.2.0 monitor - type 'help' for more information\r\n"), "{banner}");
    assert_eq!(terminal.run("info status"), "VM status: paused (prelaunch)\r\n");
    assert_eq!(terminal.run("nonsense"), "unknown command: 'nonsense'\r\n");
    // Up twice, and a word that is put right.
    assert_eq!(terminal.run("\x1b[A\x1b[A"), "VM status: paused (prelaunch)\r\n");
    assert_eq!(terminal.run("info statsu\x02\x02\x04\x05s"), "VM status: paused (prelaunch)\r\n");
    // The tabulator completes a word that only one command has, and lists where there are several.
    assert_eq!(terminal.run("info statu\t"), "VM status: paused (prelaunch)\r\n");
    terminal.keys("system_\t");
    let list = terminal.until(PROMPT);
    for name in ["system_powerdown", "system_reset", "system_wakeup"] {
        assert!(list.contains(name), "{list}");
    }
    terminal.until("system_");
    terminal.keys("\x15");
    assert!(terminal.run("info history").contains("'info status'\r\n"));
    assert_eq!(terminal.run("p/x 0x10+2*3"), "0x16\r\n");
    assert_eq!(terminal.run("cont"), "");
    assert_eq!(terminal.run("info status"), "VM status: running\r\n");
    terminal.keys("quit\r");
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
fn human_terminal_that_comes_back_is_greeted_again() {
    let mut machine = human(Setup::new()).start();
    for _ in 0..3 {
        let mut terminal = Terminal::connect(&mut machine);
        terminal.until(PROMPT);
        // Gone in the middle of a line, and in the middle of an answer.
        terminal.keys("help\rinfo qom-tr");
    }
    let mut terminal = Terminal::connect(&mut machine);
    terminal.until(PROMPT);
    assert_eq!(terminal.run("info name"), "");
}

#[test]
fn human_drives_come_and_go_even_under_their_devices() {
    let mut machine = Setup::new().args(["-S", "-nodefaults", "-device", "virtio-scsi-pci"]).start();
    let image = machine.path("image");
    std::fs::write(&image, vec![0_u8; 1 << 20]).expect("a file");
    let mut session = machine.connect(0);
    let options = format!("if=none,id=hot,format=raw,file={}", image.display());
    assert_eq!(command(&mut session, &format!("drive_add 0 {options}")), "OK\r\n");
    let again = command(&mut session, &format!("drive_add 0 {options}"));
    assert!(again.contains("'hot' already exists"), "{again}");
    assert_eq!(command(&mut session, "drive_add 0 if=virtio,id=other"), "Can't hot-add drive to type 7\r\n");
    session.run("device_add", json!({"driver": "scsi-hd", "drive": "hot", "id": "disk"}));
    assert_eq!(command(&mut session, "drive_del hot"), "");
    let left = session.query("query-block");
    assert_eq!((left[0]["device"].as_str(), left[0].get("inserted")), (Some(""), None), "{left}");
    assert!(left[0]["qdev"].as_str().is_some_and(|path| path.ends_with("disk")), "{left}");
    // The name is free again.
    assert_eq!(command(&mut session, &format!("drive_add 0 {options}")), "OK\r\n");
    assert_eq!(command(&mut session, "drive_del hot"), "");
    session.run("device_del", json!({"id": "disk"}));
    assert_eq!(session.event("DEVICE_DELETED")["device"], "disk");
    assert_eq!(session.query("query-block"), json!([]));
    assert_eq!(command(&mut session, "drive_del hot"), "Error: Device 'hot' not found\r\n");
    let node = format!("drive_add -n 0 driver=file,node-name=file0,filename={}", image.display());
    assert_eq!(command(&mut session, &node), "");
    assert_eq!(command(&mut session, "drive_del file0"), "");
}

#[test]
fn human_commands_that_are_listed_exist() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let topics = command(&mut session, "info");
    let names: Vec<&str> = topics.lines().filter_map(|line| line.strip_prefix("info ")?.split(' ').next()).collect();
    assert!(names.len() > 10, "{topics}");
    for name in names {
        let shown = command(&mut session, &format!("info {name}"));
        assert!(!shown.contains("unknown command") && !shown.contains("has not been found"), "info {name}: {shown}");
    }
    // With arguments that no machine knows: each command complains of them, none of its QMP command.
    let mut help = command(&mut session, "help");
    help.retain(|character| character != '\r');
    for line in help.lines() {
        let (usage, _) = line.split_once(" -- ").expect("a line of help");
        let name = usage.split([' ', '|']).next().expect("a name");
        if matches!(name, "quit" | "help" | "info" | "o" | "cont" | "memsave" | "pmemsave" | "screendump" | "logfile") {
            continue;
        }
        for arguments in ["", "nothing", "nothing 1", "nothing nothing nothing"] {
            let shown = command(&mut session, &format!("{name} {arguments}"));
            assert!(
                !shown.contains("unknown command") && !shown.contains("has not been found"),
                "{name} {arguments}: {shown}"
            );
        }
    }
    assert_eq!(command(&mut session, "info nonsense"), "unknown command: 'info nonsense'\r\n");
}

#[test]
fn human_formats_are_remembered_and_memory_is_listed() {
    let mut machine = Setup::new().args(["-S", "-m", "64", "-vnc", "unix:{dir}vnc"]).start();
    let mut session = machine.connect(0);
    let mut command = |line: &str| command(&mut session, line);
    let bytes = command("x/2xb 0xfffffff0");
    assert_eq!(bytes.matches(" 0x").count(), 2, "{bytes}");
    let one = command("x 0xfffffff0");
    assert!(one.matches(" 0x").count() == 1 && bytes.starts_with(one.trim_end()), "{one}");
    assert!(command("x/2i 0xfffffff0").contains("jmp"));
    assert!(command("xp 0xfffffff0").contains("jmp"));
    assert!(command("info mtree -f").contains("(prio 0, ram): pc.ram\r\n"));
    assert!(command("info roms").contains(" mem=rom name=\"pc.bios\"\r\n"));
    let blocks = command("info ramblock");
    assert!(
        blocks.contains("pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\r\n"),
        "{blocks}"
    );
    let viewers = command("info vnc");
    assert!(viewers.contains("(unix)\r\n    Auth: none (Sub: none)\r\n"), "{viewers}");
}

/// The lines that begin with `begin`.
fn lines<'a>(text: &'a str, begin: &[&str]) -> Vec<&'a str> {
    text.lines().filter(|line| begin.iter().any(|begin| line.starts_with(begin))).collect()
}

#[test]
fn human_registers_and_code_are_those_of_reset() {
    let mut machine = Setup::new().args(["-S"]).start();
    let mut session = machine.connect(0);
    let registers = command(&mut session, "info registers");
    assert!(registers.starts_with("\r\nCPU#0\r\nEAX=00000000 EBX=00000000 ECX=00000000 EDX="), "{registers}");
    assert!(registers.contains("EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n"), "{registers}");
    assert!(registers.contains("CS =f000 ffff0000 0000ffff 00009b00\r\n"), "{registers}");
    // The firmware's first instruction jumps into its segment of 16 bits.
    let code = command(&mut session, "x/4i $pc");
    assert_eq!(code.lines().count(), 4, "{code}");
    assert!(code.starts_with("0xfffffff0:") && code.lines().next().is_some_and(|line| line.contains("jmp")), "{code}");
    assert_eq!(command(&mut session, "x/5xb 0xfffffff0"), command(&mut session, "xp/5xb 0xfffffff0"));
    assert_eq!(command(&mut session, "p/x $eip"), "0xfff0\r\n");
}

#[test]
fn human_commit_empties_an_overlay_into_its_backing_and_keeps_it_in_use() {
    let mut machine = Setup::new().args(["-S", "-m", "64"]).start();
    let mut session = machine.connect(0);
    let raw = machine.path("base.img");
    std::fs::write(&raw, vec![0; 1 << 20]).expect("a file");
    let base = json!({"driver": "file", "filename": raw});
    session.run("blockdev-add", json!({"driver": "raw", "node-name": "base", "file": base, "read-only": true}));
    std::fs::write(machine.path("top.qcow2"), []).expect("a file");
    let file = json!({"driver": "file", "node-name": "f", "filename": machine.path("top.qcow2")});
    session.run("blockdev-add", file);
    let options = json!({"driver": "qcow2", "file": "f", "size": 1 << 20});
    session.run("blockdev-create", json!({"job-id": "j", "options": options}));
    while session.event("JOB_STATUS_CHANGE")["status"] != "concluded" {}
    session.run("blockdev-add", json!({"driver": "qcow2", "node-name": "top", "file": "f", "backing": "base"}));
    session.run("device_add", json!({"driver": "virtio-blk", "drive": "top", "id": "disk"}));
    command(&mut session, "qemu-io -d /machine/peripheral/disk/virtio-backend \"write -P 0x5a 64k 64k\"");
    assert_eq!(std::fs::read(&raw).expect("the base")[64 << 10], 0);

    // A node without a name of a drive is none of this command's.
    assert_eq!(command(&mut session, "commit top"), "Device 'top' not found\r\n");
    assert_eq!(command(&mut session, "commit all"), "");

    let content = std::fs::read(&raw).expect("the base");
    assert!(content[64 << 10..128 << 10].iter().all(|byte| *byte == 0x5a), "the data is in the base");
    let nodes = session.query("query-named-block-nodes");
    let base = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "base").expect("the base");
    assert_eq!(base["ro"], true, "it is read-only as before");
    command(&mut session, "qemu-io -d /machine/peripheral/disk/virtio-backend \"write -P 0x11 64k 512\"");
    assert_eq!(std::fs::read(&raw).expect("the base")[64 << 10], 0x5a, "new writes go to the overlay");
}

#[test]
fn human_qemu_io_on_an_idle_disk_reads_what_it_wrote() {
    let mut machine = Setup::new()
        .args(["-S", "-blockdev", "driver=null-co,node-name=n0,size=1048576,read-zeroes=on"])
        .args(["-machine", "pc"])
        .start();
    let mut session = machine.connect(0);
    let image = machine.path("image");
    std::fs::write(&image, vec![0; 1 << 20]).expect("an image");
    session.run("blockdev-add", json!({"driver": "file", "node-name": "f0", "filename": machine.file("image")}));
    for line in ["write -P 0x5a 4096 8192", "read -P 0x5a 4096 8192", "read -P 0 0 4096", "flush"] {
        assert_eq!(command(&mut session, &format!("qemu-io f0 \"{line}\"")), "", "{line}");
    }
    let stored = std::fs::read(&image).expect("the image");
    assert!(stored[4096..12288].iter().all(|byte| *byte == 0x5a), "what was written is stored");
    assert!(stored[..4096].iter().chain(&stored[12288..]).all(|byte| *byte == 0), "nothing else is");
    let shown = machine.wait_for("the output of qemu-io", PATIENCE, |machine| {
        let shown = machine.stdout();
        (shown.matches("read ").count() >= 2).then_some(shown)
    });
    assert!(shown.contains("wrote 8192/8192 bytes at offset 4096\n8 KiB, 1 ops"), "{shown}");
    assert!(!shown.contains("failed"), "{shown}");
    // What is not there is not read.
    assert_eq!(command(&mut session, "qemu-io f0 \"read -P 0x11 4096 512\""), "");
    machine.wait_for("the failed comparison", PATIENCE, |machine| {
        machine.stdout().contains("Pattern verification failed at offset 4096, 512 bytes").then_some(())
    });
    let unknown = "Error: Cannot find device='' nor node-name='none'\r\n";
    assert_eq!(command(&mut session, "qemu-io none \"read 0 512\""), unknown);
}

/// A machine whose monitor is compared.
fn compared(setup: Setup) -> (Machine, Session) {
    let mut machine = setup
        .args(["-S", "-accel", "tcg", "-machine", "pc", "-m", "64", "-vga", "none"])
        .args(["-blockdev", "driver=null-co,node-name=n0,size=1048576,read-zeroes=on"])
        .args(["-device", "ide-hd,drive=n0,id=disk,bus=ide.0", "-drive", "if=none,id=empty,media=cdrom"])
        .args(["-device", "ide-cd,drive=empty,id=cd"])
        .start();
    let session = machine.connect(0);
    (machine, session)
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_human_monitor_prints_the_same() {
    let (_ours, mut our_session) = compared(Setup::new());
    let (_theirs, mut their_session) = compared(Setup::of(qemu()));
    let mut differences = String::new();
    for line in [
        "info block",
        "info status",
        "info block-jobs",
        "info vnc",
        "info pic",
        "info mem",
        "info tlb",
        "info kvm",
        "info name",
        "info uuid",
        "info usb",
        "info numa",
        "info snapshots",
        "info trace-events nothing",
        "info trace-events runstate_set",
        "trace-event runstate_set on",
        "info trace-events runstate_*",
        "trace-event nothing on",
        "trace-event runstate_set perhaps",
        "boot_set nc",
        "boot_set abcd",
        "boot_set cc",
        "boot_set z",
        "boot_set",
        "exit_preconfig",
        "nbd_server_start nothing",
        "nbd_server_start -w 127.0.0.1:0",
        "nbd_server_add nothing",
        "nbd_server_remove nothing",
        "nbd_server_stop",
        "snapshot_blkdev_internal nothing one",
        "snapshot_blkdev_internal n0",
        "snapshot_delete_blkdev_internal nothing one",
        "p/x 0x10+2*3",
        "p 1+",
        "x/4xw 0xfffffff0",
        "xp/2xg 0",
        "x/3cb 0",
        "gva2gpa 0x1000",
        "i/1b 0x64",
        "sum 0 16",
        "cpu 7",
        "eject",
        "nonsense",
        "info nonsense",
        "eject nothing",
        "block_resize nothing 1M",
        "block_resize n0",
        "device_del nothing",
        "sendkey nothing",
        "qemu-io nothing \"read 0 512\"",
        "x/q 0",
        "object_add memory-backend-ram,id=m,size=1M",
        "object_add memory-backend-ram,id=m,size=1M",
        "object_add memory-backend-ram,id=k,size=1Z",
        "object_add nothing,id=k",
        "object_del m",
        "object_del m",
        "device_add nothing",
        "device_add virtio-rng-pci,id=r,disable-legacy=on",
        "device_add virtio-rng-pci,id=r",
    ] {
        let (ours, theirs) = (command(&mut our_session, line), command(&mut their_session, line));
        if ours != theirs {
            differences += &format!("{line}\n  ours:   {ours:?}\n  theirs: {theirs:?}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    // Not the x87: its state after power-up here, the one after FNINIT there (SDM vol. 3, table 10-1).
    let begin = ["EAX", "ESI", "EIP", "ES ", "CS ", "SS ", "DS ", "FS ", "GS ", "GDT", "IDT", "DR", "EFER"];
    let (ours, theirs) = (command(&mut our_session, "info registers"), command(&mut their_session, "info registers"));
    assert_eq!(lines(&ours, &begin), lines(&theirs, &begin));
    let (ours, theirs) = (command(&mut our_session, "info pci"), command(&mut their_session, "info pci"));
    let begin = ["  Bus", "    Host", "    ISA", "    IDE", "      PCI", "      BAR", "      IRQ"];
    assert_eq!(lines(&ours, &begin), lines(&theirs, &begin));
}
