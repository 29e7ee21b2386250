//! The stress guests of `guests/stress`, on each tier of the software CPU: self-modifying code, page tables that change
//! under running code, faults with live flags, interrupts and debug traps in hot loops, contending processors. The guests
//! check everything themselves; here their verdict is read.

use crate::support::{BOOT_PATIENCE, Setup, guest};

/// `-accel` for each tier. KVM is asked for by the variable `OUZEL_STRESS_KVM`: a nested KVM that emulates long mode
/// gives up on these guests.
fn tiers() -> Vec<(&'static str, &'static str)> {
    let mut tiers = vec![("interpreter", "tcg,x-translator=off"), ("translator", "tcg")];
    if std::env::var_os("OUZEL_STRESS_KVM").is_some() {
        tiers.push(("KVM", "kvm"));
    }
    tiers
}

/// Runs a guest on each tier.
fn check(name: &str, processors: &[u32]) {
    for (tier, accelerator) in tiers() {
        for count in processors {
            let mut machine = Setup::new()
                .serial()
                .args(["-m", "256", "-accel", accelerator, "-cpu", "max", "-smp", &count.to_string()])
                .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
                .args(["-kernel", &guest(&format!("stress-{name}.elf"))])
                .start();
            let status = machine.wait_exit(BOOT_PATIENCE);
            let serial = machine.serial();
            assert!(serial.ends_with("DONE failures=0\n"), "{name} on the {tier}, {count} processors:\n{serial}");
            // isa-debug-exit: the guest's 0.
            assert_eq!(status.code(), Some(1), "{name} on the {tier}");
        }
    }
}

#[test]
fn code_that_is_written_to_runs_as_written() {
    check("smc", &[1, 2]);
}

#[test]
fn page_tables_that_change_under_running_code_count_at_once() {
    check("paging", &[1]);
}

#[test]
fn faults_in_hot_loops_show_exact_registers_and_flags() {
    check("faults", &[1]);
}

#[test]
fn interrupts_and_debug_traps_in_hot_loops_are_exact() {
    check("events", &[1]);
}

#[test]
fn contending_processors_lose_nothing_and_keep_the_order_of_memory() {
    check("contend", &[1, 2, 4]);
}
