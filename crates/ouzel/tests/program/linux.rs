//! Debian's cloud kernel, unmodified, with the busybox initrd of `cargo xtask guest`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{BOOT_PATIENCE, Machine, PATIENCE, Setup, guest};

fn boot(checks: &str, arguments: &[&str]) -> Machine {
    let append = format!("console=ttyS0 ouzel.run={checks}");
    Setup::new()
        .serial()
        .args(["-m", "256", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append", &append])
        .args(arguments)
        .start()
}

/// Waits for the guest's own power-off.
fn powered_off(machine: &mut Machine) {
    let mut session = machine.connect(0);
    let data = session.event_within("SHUTDOWN", BOOT_PATIENCE);
    assert_eq!(data, json!({"guest": true, "reason": "guest-shutdown"}), "{}", machine.serial());
    assert!(machine.wait_exit(PATIENCE).success());
}

/// The lines between two marks.
fn between<'a>(serial: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    serial.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != end).collect()
}

/// What the guest printed is what the host computes.
fn check_programs(machine: &Machine, processors: usize) {
    let serial = machine.serial();
    let has = |line: &str| assert!(serial.lines().any(|other| other == line), "no line {line:?} in\n{serial}");
    assert!(serial.contains(&format!(" cpus={processors}\n")), "{serial}");
    has("LOOP 500500");
    let output = Command::new("md5sum").arg("/bin/busybox").output().expect("md5sum");
    let digest = String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(digest.len(), 32);
    has(&format!("MD5 {digest}"));
    // The C library chooses other code on processors with FMA, whose last digits differ: not here.
    let host = Command::new(guest("floats"))
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2,-AVX")
        .output()
        .expect("the program runs on the host");
    let host = String::from_utf8(host.stdout).expect("UTF-8");
    let got = between(&serial, "FLOATS-BEGIN", "FLOATS-END");
    assert_eq!(got.len(), 201, "{serial}");
    for (got, wanted) in got.iter().zip(host.lines()) {
        assert_eq!(*got, wanted);
    }
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_on_one_processor_runs_programs_and_powers_off() {
    let mut machine = boot("loop,md5,floats,poweroff", &[]);
    powered_off(&mut machine);
    check_programs(&machine, 1);
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_on_four_processors_runs_programs_on_each_and_powers_off() {
    let mut machine = boot("loop,md5,floats,cpus,poweroff", &["-smp", "4"]);
    powered_off(&mut machine);
    check_programs(&machine, 4);
    let serial = machine.serial();
    let digests: Vec<&str> = serial.lines().filter_map(|line| line.strip_prefix("CPU-MD5 ")).collect();
    assert_eq!(digests.len(), 4, "{serial}");
    assert!(digests.iter().all(|digest| *digest == digests[0] && digest.len() == 32), "{digests:?}");
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_shell_on_the_serial_console_runs_what_is_typed() {
    let mut machine = Setup::new()
        .args(["-m", "256", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio")])
        .args(["-append", "console=ttyS0 quiet", "-serial", "unix:{dir}console,server=on,wait=on"])
        .start();
    let path = machine.file("console");
    let mut console = machine.connect_unix(&path);
    let mut session = machine.connect(0);
    while !console.line_within(BOOT_PATIENCE).expect("the console").starts_with("GUEST-SHELL") {}
    console.send(b"echo typed $((6 * 7))\n");
    while !console.line().starts_with("typed 42") {}
    console.send(b"poweroff -f\n");
    assert_eq!(session.event("SHUTDOWN")["reason"], "guest-shutdown");
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_hears_the_power_button() {
    let mut machine = boot("button,poweroff", &[]);
    let mut session = machine.connect(0);
    machine.wait_serial("BUTTON-WAIT\n", BOOT_PATIENCE);
    session.query("system_powerdown");
    machine.wait_serial("BUTTON-PRESSED\n", PATIENCE);
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}));
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_is_stopped_and_continued_while_it_boots() {
    let mut machine = boot("loop,md5,poweroff", &["-smp", "2"]);
    let mut session = machine.connect(0);
    let mut rounds = 0;
    while !machine.serial().contains("GUEST-UP") && rounds < 200 {
        session.query("stop");
        let before = machine.serial();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert_eq!(machine.serial(), before, "it wrote while stopped");
        session.query("cont");
        std::thread::sleep(std::time::Duration::from_millis(30));
        rounds += 1;
    }
    assert!(rounds > 3, "it had booted before it was stopped");
    let events = session.take_events();
    assert_eq!(events.iter().filter(|name| *name == "STOP").count(), rounds);
    assert_eq!(session.event_within("SHUTDOWN", BOOT_PATIENCE)["reason"], "guest-shutdown");
    assert!(machine.serial().contains("LOOP 500500"));
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_reboot_resets_or_ends_as_the_options_say() {
    let mut machine = boot("reboot", &["-no-reboot"]);
    let mut session = machine.connect(0);
    assert_eq!(session.event_within("SHUTDOWN", BOOT_PATIENCE), json!({"guest": true, "reason": "guest-reset"}));
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_crash_is_reported_through_pvpanic() {
    let mut machine = boot("crash", &["-device", "pvpanic"]);
    let mut session = machine.connect(0);
    assert_eq!(session.event_within("GUEST_PANICKED", BOOT_PATIENCE), json!({"action": "poweroff"}));
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-panic"}));
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_memory_saved_by_virtual_address_is_the_kernel_s() {
    let mut machine = boot("loop", &["-append", "console=ttyS0 nokaslr ouzel.run=loop"]);
    let mut session = machine.connect(0);
    machine.wait_serial("GUEST-SHELL", BOOT_PATIENCE);
    session.query("stop");
    // Without address randomisation the kernel's text is at 0xffffffff81000000 (the argument is signed), physically at 16 MiB.
    let (by_processor, physical) = (machine.file("virtual"), machine.file("physical"));
    session.run("memsave", json!({"val": -0x7f00_0000_i64, "size": 65536, "filename": by_processor}));
    session.run("pmemsave", json!({"val": 0x100_0000, "size": 65536, "filename": physical}));
    let text = fs::read(&by_processor).expect("the file");
    assert_eq!(text, fs::read(&physical).expect("the file"));
    assert!(text.iter().any(|byte| *byte != 0));
    let error = session.generic_error("memsave", json!({"val": 0x1000, "size": 16, "filename": by_processor}));
    assert!(error.contains("Invalid addr 0x0000000000001000/size 16 specified"), "{error}");
    assert_eq!(session.event("STOP"), Value::Null);
}

#[test]
#[ignore = "peer: Debian's kernel and busybox, SeaBIOS, QEMU's option ROM"]
fn peer_linux_is_booted_by_firmware_that_was_named() {
    let mut machine = boot("poweroff", &["-bios", "bios-256k.bin"]);
    powered_off(&mut machine);
    // The firmware's, not those of a machine without one.
    assert!(machine.serial().contains("SMBIOS 2.8 present") || machine.serial().contains("DMI: "), "no firmware");
}
