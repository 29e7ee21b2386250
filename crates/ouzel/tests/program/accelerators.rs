//! What runs the vCPUs: threads, counted time, KVM where the host has it.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Machine, PATIENCE, Setup, guest, qemu};

fn boot(name: &str, arguments: &[&str]) -> Machine {
    Setup::new().serial().args(["-m", "64", "-kernel", &guest(&format!("{name}.elf"))]).args(arguments).start()
}

fn has_kvm() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// The ways to run a guest that need nothing of the host.
const SOFTWARE: [&[&str]; 6] = [
    &["-accel", "tcg"],
    &["-accel", "tcg,thread=single"],
    &["-accel", "tcg,x-translator=off"],
    &["-accel", "tcg,one-insn-per-tb=on"],
    &["-icount", "shift=3"],
    &["-icount", "shift=auto,sleep=off"],
];

#[test]
fn two_processors_sum_up_on_every_way_to_run_them() {
    for accelerator in SOFTWARE {
        let mut machine = boot("smp", &[&["-smp", "2"], accelerator].concat());
        machine.wait_serial("cpus=00000002 the sum is whole", PATIENCE);
        assert!(machine.wait_exit(PATIENCE).success(), "{accelerator:?}");
    }
}

#[test]
fn power_button_and_reset_work_on_every_way_to_run_vcpus() {
    for accelerator in SOFTWARE {
        let mut machine = boot("hello", &[&["-smp", "2"], accelerator].concat());
        let mut session = machine.connect(0);
        machine.wait_serial("Hello", PATIENCE);
        session.query("stop");
        session.query("system_reset");
        session.query("cont");
        let twice = |machine: &mut Machine| (machine.serial().matches("Hello").count() == 2).then_some(());
        machine.wait_for("a second start", PATIENCE, twice);
        session.query("system_powerdown");
        assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}), "{accelerator:?}");
        assert!(machine.wait_exit(PATIENCE).success());
    }
}

#[test]
fn vcpus_that_take_turns_have_one_thread() {
    for accelerator in [["-accel", "tcg,thread=single"], ["-icount", "shift=2"]] {
        let mut machine = boot("hello", &[&["-smp", "4"], &accelerator[..]].concat());
        let cpus = machine.connect(0).query("query-cpus-fast");
        let threads: Vec<_> = cpus.as_array().expect("a list").iter().map(|cpu| cpu["thread-id"].as_u64()).collect();
        assert_eq!(threads.len(), 4);
        assert!(threads[0].is_some() && threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
        let thread = threads[0].unwrap_or_default();
        let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", machine.pid())).expect("its name");
        assert_eq!(name.trim_end(), "ALL CPUs/TCG");
    }
}

#[test]
fn jit_statistics_are_text_and_only_of_the_software_cpu() {
    let mut machine = boot("hello", &["-accel", "tcg"]);
    let text = machine.connect(0).query("x-query-jit");
    let text = text["human-readable-text"].as_str().expect("a text").to_owned();
    assert!(text.starts_with("Translation buffer state:\n") && text.contains("\nStatistics:\n"), "{text}");
}

#[test]
fn log_items_combine_in_one_file() {
    let arguments = ["-d", "in_asm,int,cpu,exec,nochain,cpu_reset", "-D", "{dir}/log", "-device", "isa-debug-exit"];
    let mut machine = boot("debug-exit", &arguments);
    machine.wait_exit(PATIENCE);
    let log = fs::read_to_string(machine.path("log")).expect("the log");
    for expected in ["IN: (CPU 0)", "Trace 0: ", "RAX=", "CPU Reset (CPU 0)", "CR0="] {
        assert!(log.contains(expected), "no {expected:?} in the log");
    }
}

#[test]
fn accelerator_of_another_name_is_followed_by_the_next() {
    let mut machine = boot("hello", &["-accel", "nope", "-accel", "tcg"]);
    machine.wait_serial("Hello", PATIENCE);
    let stderr = machine.stderr();
    let lines: Vec<_> = stderr.lines().map(|line| line.split_once(": ").map_or(line, |(_, text)| text)).collect();
    assert_eq!(lines, ["-accel nope: invalid accelerator nope", "falling back to tcg"]);
    assert_eq!(machine.connect(0).query("query-kvm"), json!({"enabled": false, "present": true}));
}

#[test]
fn kvm_runs_guests_with_each_kind_of_controllers_where_the_host_has_it() {
    if !has_kvm() {
        eprintln!("skipped: the host has no /dev/kvm");
        return;
    }
    for accelerator in ["kvm", "kvm,kernel-irqchip=split", "kvm,kernel-irqchip=off"] {
        let mut machine = boot("smp", &["-smp", "2", "-accel", accelerator]);
        machine.wait_serial("cpus=00000002 the sum is whole", PATIENCE);
        assert!(machine.wait_exit(PATIENCE).success(), "{accelerator}");

        let mut machine = boot("hello", &["-accel", accelerator]);
        let mut session = machine.connect(0);
        machine.wait_serial("Hello", PATIENCE);
        assert_eq!(session.query("query-kvm"), json!({"enabled": true, "present": true}));
        let error = session.generic_error("x-query-jit", json!({}));
        assert_eq!(error, "JIT information is only available with accel=tcg");
        session.query("system_reset");
        let twice = |machine: &mut Machine| (machine.serial().matches("Hello").count() == 2).then_some(());
        machine.wait_for("a second start", PATIENCE, twice);
        session.query("system_powerdown");
        assert!(machine.wait_exit(PATIENCE).success(), "{accelerator}");
    }
}

/// All that is told of statistics, without how high they are.
fn statistics(setup: Setup, accelerator: &str) -> Vec<String> {
    let mut machine = setup.args(["-S", "-machine", "pc", "-m", "64", "-smp", "2", "-accel", accelerator]).start();
    let mut session = machine.connect(0);
    let paths: Vec<_> =
        session.query("query-cpus-fast").as_array().into_iter().flatten().map(|cpu| cpu["qom-path"].clone()).collect();
    let some =
        json!([{"provider": "kvm", "names": ["exits"]}, {"provider": "kvm", "names": ["guest_mode", "nothing"]}]);
    let mut told = vec![session.query("query-stats-schemas")];
    for arguments in [
        json!({"target": "vm"}),
        json!({"target": "vcpu"}),
        json!({"target": "vcpu", "vcpus": [paths[1]], "providers": some}),
        json!({"target": "vcpu", "providers": some}),
        json!({"target": "vm", "providers": []}),
        json!({"target": "vm", "providers": some}),
    ] {
        told.push(session.run("query-stats", arguments));
    }
    assert_eq!(
        session.generic_error("query-stats", json!({"target": "vm", "vcpus": []})),
        "Parameter 'vcpus' is unexpected"
    );
    for line in ["vm", "vcpu", "vcpu exits,guest_mode", "vm * kvm", "vm nothing", "vm * xen", "machine", ""] {
        told.push(session.run("human-monitor-command", json!({"command-line": format!("info stats {line}")})));
    }
    let digits = |text: String| text.split(|letter: char| letter.is_ascii_digit()).collect::<String>();
    told.iter().map(|value| digits(value.to_string())).collect()
}

#[test]
fn software_cpus_have_no_statistics_of_the_hosts_kernel() {
    let told = statistics(Setup::new(), "tcg");
    assert!(told[..7].iter().all(|list| list == "[]"), "{told:?}");
    assert!(told[7..12].iter().all(|text| text == "\"\""), "{told:?}");
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_tells_the_same_statistics_of_kvm_where_the_host_has_it() {
    if !has_kvm() {
        eprintln!("skipped: the host has no /dev/kvm");
        return;
    }
    let (ours, theirs) = (statistics(Setup::new(), "kvm"), statistics(Setup::of(qemu()), "kvm"));
    assert_eq!(ours, theirs);
}

/// Boots Linux with counted time and returns what it printed.
fn counted_boot(arguments: &[&str]) -> String {
    let append = "console=ttyS0 ouzel.run=loop,poweroff";
    let mut machine = Setup::new()
        .serial()
        .args(["-m", "256", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append", append])
        .args(["-rtc", "base=2026-01-01,clock=vm"])
        .args(arguments)
        .start();
    assert!(machine.wait_exit(BOOT_PATIENCE).success());
    machine.serial()
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_prints_the_same_times_on_every_run_with_counted_time() {
    let arguments = ["-icount", "shift=1,sleep=off"];
    let first = counted_boot(&arguments);
    assert!(first.contains("LOOP 500500"), "{first}");
    assert_eq!(first, counted_boot(&arguments));
    // What time passes while the guest sleeps is the same, too.
    assert_eq!(first, counted_boot(&["-icount", "shift=1,sleep=on"]));
}

#[test]
#[ignore = "peer: Debian's kernel and busybox"]
fn peer_linux_on_two_processors_of_one_thread_powers_off() {
    let append = "console=ttyS0 ouzel.run=loop,md5,cpus,poweroff";
    let mut machine = Setup::new()
        .serial()
        .args(["-m", "256", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append", append])
        .args(["-smp", "2", "-accel", "tcg,thread=single"])
        .start();
    let mut session = machine.connect(0);
    for _ in 0..20 {
        session.query("stop");
        assert_eq!(session.status(), "paused");
        session.query("cont");
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.wait_serial("LOOP 500500", BOOT_PATIENCE);
    assert!(machine.wait_exit(BOOT_PATIENCE).success());
    assert_eq!(machine.serial().lines().filter(|line| line.starts_with("CPU-MD5 ")).count(), 2);
}
