//! The bare-metal guests of `guests/`: loaders, power, reset, crash, several processors.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Setup, guest};

/// A guest on one processor with 64 MiB.
fn boot(name: &str, arguments: &[&str]) -> Machine {
    Setup::new().serial().args(["-m", "64", "-kernel", &guest(&format!("{name}.elf"))]).args(arguments).start()
}

#[test]
fn paused_start_runs_nothing_until_cont() {
    let mut machine = boot("hello", &["-S"]);
    let mut session = machine.connect(0);
    assert_eq!(session.status(), "prelaunch");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(machine.serial(), "");
    session.query("cont");
    assert_eq!(session.event("RESUME"), Value::Null);
    machine.wait_serial("Hello from a bare-metal guest.\n", PATIENCE);
}

#[test]
fn two_processors_power_button_ends_the_machine() {
    let mut machine = boot("hello", &["-smp", "2"]);
    let mut session = machine.connect(0);
    machine.wait_serial("Hello", PATIENCE);
    session.query("system_powerdown");
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}));
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
fn no_shutdown_keeps_the_powered_off_machine() {
    let mut machine = boot("hello", &["-no-shutdown"]);
    let mut session = machine.connect(0);
    machine.wait_serial("Hello", PATIENCE);
    session.query("system_powerdown");
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}));
    assert_eq!(session.event("STOP"), Value::Null);
    assert_eq!(session.status(), "shutdown");
    let text = session.generic_error("cont", json!({}));
    assert_eq!(text, "Resetting the Virtual Machine is required");
    session.query("system_reset");
    session.query("cont");
    machine
        .wait_for("a second start", PATIENCE, |machine| (machine.serial().matches("Hello").count() == 2).then_some(()));
    session.query("quit");
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
fn action_shutdown_pause_keeps_the_powered_off_machine() {
    let mut machine = boot("hello", &["-action", "shutdown=pause"]);
    let mut session = machine.connect(0);
    machine.wait_serial("Hello", PATIENCE);
    session.query("system_powerdown");
    assert_eq!(session.event("SHUTDOWN")["reason"], "guest-shutdown");
    session.event("STOP");
    assert_eq!(session.status(), "shutdown");
}

#[test]
fn triple_fault_resets_the_machine() {
    let mut machine = boot("triple-fault", &["-S"]);
    let mut session = machine.connect(0);
    session.query("cont");
    for _ in 0..3 {
        assert_eq!(session.event("RESET"), json!({"guest": true, "reason": "guest-reset"}));
    }
    // A firmware may reset once more by itself: the guest's own lines count.
    machine.wait_for("the third fault", PATIENCE, |machine| {
        (machine.serial().matches("about to triple-fault\n").count() >= 3).then_some(())
    });
    session.query("quit");
}

#[test]
fn triple_fault_with_no_reboot_ends_the_machine() {
    for arguments in [vec!["-no-reboot"], vec!["-action", "reboot=shutdown"]] {
        let mut machine = boot("triple-fault", &[&["-S"], arguments.as_slice()].concat());
        let mut session = machine.connect(0);
        session.query("cont");
        assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-reset"}), "{arguments:?}");
        assert!(machine.wait_exit(PATIENCE).success());
        assert_eq!(machine.serial(), "about to triple-fault\n");
    }
}

#[test]
fn debug_exit_ends_the_process_with_the_guest_s_status() {
    let mut machine = boot("debug-exit", &["-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
    assert_eq!(machine.wait_exit(PATIENCE).code(), Some(0x21 << 1 | 1));
    assert_eq!(machine.serial(), "leaving\n");
}

#[test]
fn guest_panic_shuts_down_by_default() {
    let mut machine = boot("panic", &["-S", "-device", "pvpanic"]);
    let mut session = machine.connect(0);
    session.query("cont");
    assert_eq!(session.event("GUEST_PANICKED"), json!({"action": "poweroff"}));
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-panic"}));
    assert!(machine.wait_exit(PATIENCE).success());
    assert_eq!(machine.serial(), "crashing\n");
}

#[test]
fn guest_panic_pauses_with_no_shutdown_or_its_action() {
    for arguments in [["-no-shutdown", "-no-reboot"], ["-action", "panic=pause"]] {
        let mut machine = boot("panic", &[&["-S", "-device", "pvpanic"], arguments.as_slice()].concat());
        let mut session = machine.connect(0);
        session.query("cont");
        assert_eq!(session.event("GUEST_PANICKED"), json!({"action": "pause"}), "{arguments:?}");
        session.event("STOP");
        assert_eq!(session.status(), "guest-panicked");
    }
}

#[test]
fn guest_panic_with_action_none_goes_on() {
    let mut machine = boot("panic", &["-S", "-device", "pvpanic", "-action", "panic=none"]);
    let mut session = machine.connect(0);
    session.query("cont");
    assert_eq!(session.event("GUEST_PANICKED"), json!({"action": "run"}));
    assert_eq!(session.status(), "running");
}

#[test]
fn pvh_hands_over_the_command_line_the_tables_and_the_memory_map() {
    let mut machine = boot("pvh", &["-append", "one two=3"]);
    assert!(machine.wait_exit(PATIENCE).success());
    let serial = machine.serial();
    assert!(serial.starts_with("magic=336ec578 cmdline=one two=3 rsdp=20445352 entries=0000"), "{serial}");
    assert!(!serial.contains("entries=00000000"), "{serial}");
}

#[test]
fn multiboot_hands_over_the_command_line_the_memory_and_modules() {
    let module = guest("hello.elf");
    for (initrd, modules) in [(vec![], 0), (vec!["-initrd", module.as_str()], 1)] {
        let mut machine = boot("multiboot", &[&["-append", "one two=3"], initrd.as_slice()].concat());
        assert!(machine.wait_exit(PATIENCE).success());
        let serial = machine.serial();
        assert!(serial.starts_with("magic=2badb002 upper=0000"), "{serial}");
        assert!(serial.contains(" one two=3 "), "{serial}");
        assert!(serial.ends_with(&format!("modules={modules:08x}\n")), "{serial}");
    }
}

#[test]
fn started_processors_add_to_one_cell_without_losing_a_count() {
    for count in [1, 2, 4, 8] {
        let mut machine = boot("smp", &["-smp", &count.to_string()]);
        assert!(machine.wait_exit(PATIENCE).success());
        assert_eq!(machine.serial(), format!("cpus={count:08x} the sum is whole\n"));
    }
}

#[test]
fn system_management_interrupts_leave_the_program_as_it_was() {
    for accelerator in ["tcg", "tcg,x-translator=off", "tcg,one-insn-per-tb=on"] {
        let mut machine = boot("smm", &["-accel", accelerator]);
        assert!(machine.wait_exit(PATIENCE).success());
        let expected = "revision=00020064 smbase=00040000 smis=00000064 all is whole\n";
        assert_eq!(machine.serial(), expected, "{accelerator}");
    }
}

#[test]
fn serial_on_a_socket_and_on_standard_output_reaches_the_host() {
    let mut machine = Setup::new()
        .args(["-m", "64", "-kernel", &guest("hello.elf"), "-serial", "unix:{dir}serial-socket,server=on,wait=on"])
        .start();
    let path = machine.file("serial-socket");
    let mut serial = machine.connect_unix(&path);
    assert_eq!(serial.line(), "Hello from a bare-metal guest.\n");
    drop(machine);

    let mut machine = Setup::new().args(["-m", "64", "-kernel", &guest("hello.elf"), "-serial", "stdio"]).start();
    machine.wait_for("the greeting", PATIENCE, |machine| {
        machine.stdout().contains("Hello from a bare-metal guest.").then_some(())
    });
}

#[test]
fn serial_through_a_chardev_reaches_a_file() {
    let mut machine = Setup::new()
        .args([
            "-m",
            "64",
            "-kernel",
            &guest("hello.elf"),
            "-chardev",
            "file,id=s0,path={dir}out",
            "-device",
            "isa-serial,chardev=s0",
        ])
        .start();
    let path = machine.path("out");
    machine.wait_for("the greeting", PATIENCE, |_| {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("Hello from a bare-metal guest.")).then_some(())
    });
}

#[test]
fn image_that_is_no_kernel_is_refused() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut machine = Setup::new().monitors(0).args(["-kernel", text]).start();
    assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1));
    assert!(machine.stderr().contains("Cargo.toml"), "{}", machine.stderr());
}
