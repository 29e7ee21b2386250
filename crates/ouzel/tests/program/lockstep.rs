//! Lock-step: translated code is executed by the interpreter too, from the same state, and registers, flags, faults and
//! memory must agree. The first difference stops the machine and is reported on standard error, and a test that expects
//! the guest's own end fails.
//!
//! Compared is what is translated: 64-bit code that ran more than 16 times, without the instructions that reach
//! devices or time. Everything else runs on the interpreter alone.

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Machine, PATIENCE, Session, Setup, guest};

const LOCKSTEP: &str = "tcg,x-lockstep=on";

/// What `x-query-jit` says of a counter.
fn counter(session: &mut Session, name: &str) -> u64 {
    let text = session.query("x-query-jit");
    let text = text["human-readable-text"].as_str().expect("a text").to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    value.trim().parse().expect("a number")
}

/// Debian's kernel from its first instruction to its power-off.
fn boot(model: &str, checks: &str) -> Machine {
    let append = format!("console=ttyS0 ouzel.run={checks}");
    let mut machine = Setup::new()
        .serial()
        .args(["-m", "256", "-accel", LOCKSTEP, "-cpu", model, "-no-shutdown"])
        .args(["-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append", &append])
        .start();
    let mut session = machine.connect(0);
    let data = session.event_within("SHUTDOWN", BOOT_PATIENCE);
    assert_eq!(data, json!({"guest": true, "reason": "guest-shutdown"}), "{}", machine.story());
    // Hundreds of millions of instructions went through both tiers.
    let compared = counter(&mut session, "lock-step instructions");
    assert!(compared > 100_000_000, "{compared} instructions were compared\n{}", machine.story());
    assert_eq!(machine.stderr(), "");
    session.run("quit", json!({}));
    assert!(machine.wait_exit(PATIENCE).success());
    machine
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_boots_and_powers_off_the_same_on_both_tiers() {
    let machine = boot("qemu64", "loop,poweroff");
    assert!(machine.serial().contains("LOOP 500500\n"), "{}", machine.serial());
}

/// AVX2, BMI and the other extensions are in use here.
#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_boots_the_same_on_both_tiers_with_all_extensions() {
    let machine = boot("max", "floats,poweroff");
    assert!(machine.serial().contains("FLOATS-END\n"), "{}", machine.serial());
}

/// Runs a stress guest, which checks itself too.
fn stress(name: &str) {
    let mut machine = Setup::new()
        .serial()
        .args(["-m", "256", "-accel", LOCKSTEP, "-cpu", "max", "-device", "isa-debug-exit,iobase=0x501,iosize=1"])
        .args(["-kernel", &guest(&format!("stress-{name}.elf"))])
        .start();
    let status = machine.wait_exit(BOOT_PATIENCE);
    assert!(machine.serial().ends_with("DONE failures=0\n"), "{}\n{}", machine.story(), machine.serial());
    assert_eq!(machine.stderr(), "");
    // isa-debug-exit: the guest's 0.
    assert_eq!(status.code(), Some(1));
}

#[test]
fn code_that_is_written_to_runs_the_same_on_both_tiers() {
    stress("smc");
}

#[test]
fn page_tables_that_change_under_running_code_are_the_same_to_both_tiers() {
    stress("paging");
}

#[test]
fn faults_in_hot_loops_are_the_same_on_both_tiers() {
    stress("faults");
}

#[test]
fn interrupts_and_debug_traps_in_hot_loops_are_the_same_on_both_tiers() {
    stress("events");
}
