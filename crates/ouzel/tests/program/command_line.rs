//! The command line: what is accepted, what is refused and how, what is printed.

use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::support::{PATIENCE, Setup, ouzel};

/// Runs the program to its end, with a bound.
fn run(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(ouzel())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("timeout and the program can be run")
}

/// The complaint of a command line that must be refused.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn errors_name_the_option() {
    let quiet = ["-nodefaults", "-display", "none"];
    for (arguments, names) in [
        (vec!["-bogus"], vec!["-bogus"]),
        (vec!["-m"], vec!["-m"]),
        (vec!["-m", "lots"], vec!["-m", "lots"]),
        (vec!["-smp", "cpus=many"], vec!["smp"]),
        (vec!["-smp", "1,bogus=1"], vec!["bogus"]),
        (vec!["-cpu", "nope"], vec!["nope"]),
        (vec!["-cpu", "qemu64,+nosuchflag"], vec!["nosuchflag"]),
        (vec!["-machine", "nope"], vec!["machine"]),
        (vec!["-accel", "nope"], vec!["nope"]),
        (vec!["-device", "nope"], vec!["nope"]),
        (vec!["-device", "isa-debug-exit,bogus=1"], vec!["bogus"]),
        (vec!["-kernel", "/nonexistent/vmlinuz"], vec!["/nonexistent/vmlinuz"]),
        (vec!["-initrd", "/nonexistent/initrd"], vec!["initrd"]),
        (vec!["-chardev", "socket,id=a,path=/nonexistent/d/s,server=on,wait=off"], vec!["/nonexistent/d/s"]),
        (vec!["-mon", "chardev=none,mode=control"], vec!["none"]),
        (vec!["-uuid", "zzz"], vec!["zzz"]),
        (vec!["-rtc", "base=never"], vec!["-rtc"]),
        (vec!["-action", "reboot=dance"], vec!["dance"]),
        (vec!["-pidfile", "/nonexistent/pid"], vec!["/nonexistent/pid"]),
    ] {
        let all: Vec<&str> = quiet.iter().copied().chain(arguments.iter().copied()).collect();
        let complaint = refused(&all);
        for name in names {
            assert!(complaint.contains(name), "{arguments:?} is refused without naming {name}: {complaint}");
        }
        assert!(!complaint.contains("panicked"), "{arguments:?}: {complaint}");
    }
}

#[test]
fn help_and_version_are_printed_on_standard_output() {
    let version = run(&["-version"]);
    assert!(version.status.success());
    let version = String::from_utf8(version.stdout).expect("UTF-8");
    assert!(version.contains("7.2.0") || version.contains("version 7.2"), "{version}");
    let help = run(&["-h"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    for option in [
        "-machine",
        "-accel",
        "-cpu",
        "-smp",
        "-m",
        "-kernel",
        "-initrd",
        "-append",
        "-serial",
        "-chardev",
        "-mon",
        "-qmp",
        "-qmp-pretty",
        "-monitor",
        "-display",
        "-nographic",
        "-vga",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-no-shutdown",
        "-action",
        "-S",
        "-name",
        "-uuid",
        "-rtc",
        "-pidfile",
        "-daemonize",
        "-device",
        "-global",
        "-trace",
        "-d",
        "-D",
        "-version",
    ] {
        assert!(help.contains(option), "help lacks {option}");
    }
}

#[test]
fn help_of_an_option_lists_its_values() {
    for (arguments, word) in [
        (["-machine", "help"], "pc"),
        (["-cpu", "help"], "qemu64"),
        (["-accel", "help"], "tcg"),
        (["-device", "help"], "isa-debug-exit"),
    ] {
        let output = run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(word), "{arguments:?} lacks {word}: {text}");
    }
}

#[test]
fn name_and_uuid_are_reported_by_their_queries() {
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    let mut machine = Setup::new().args(["-S", "-name", "qemu-name", "-uuid", uuid]).start();
    let mut session = machine.connect(0);
    assert_eq!(session.query("query-name"), json!({"name": "qemu-name"}));
    assert_eq!(session.query("query-uuid"), json!({"UUID": uuid}));
}

#[test]
fn name_with_keys_gives_the_guest_name() {
    let mut machine = Setup::new().args(["-S", "-name", "guest=a,,b,debug-threads=on"]).start();
    assert_eq!(machine.connect(0).query("query-name"), json!({"name": "a,b"}));
}

#[test]
fn smp_with_topology_gives_that_many_processors() {
    for (smp, count) in [("1", 1), ("4", 4), ("cpus=2,sockets=2", 2), ("8,sockets=2,cores=2,threads=2", 8)] {
        let mut machine = Setup::new().args(["-S", "-smp", smp]).start();
        let cpus = machine.connect(0).query("query-cpus-fast");
        assert_eq!(cpus.as_array().expect("a list").len(), count, "-smp {smp}");
    }
}

#[test]
fn options_as_libvirt_spells_them_are_accepted() {
    let mut machine = Setup::bare()
        .monitors(1)
        .args([
            "-name",
            "guest=t,debug-threads=on",
            "-S",
            "-machine",
            "pc,usb=off,dump-guest-core=off",
            "-accel",
            "tcg",
            "-cpu",
            "qemu64",
            "-m",
            "size=131072k",
            "-smp",
            "1,sockets=1,cores=1,threads=1",
            "-display",
            "none",
            "-no-user-config",
            "-nodefaults",
            "-rtc",
            "base=utc",
            "-no-shutdown",
        ])
        .start();
    assert_eq!(machine.connect(0).status(), "prelaunch");
}

#[test]
fn pidfile_holds_the_process_id() {
    let mut machine = Setup::new().args(["-S", "-pidfile", "{dir}pid"]).start();
    machine.connect(0);
    let pid = std::fs::read_to_string(machine.path("pid")).expect("the pid file");
    assert_eq!(pid.trim(), machine.pid().to_string());
}

#[test]
fn daemonize_returns_when_the_monitor_listens() {
    let mut machine = Setup::new().args(["-S", "-daemonize", "-pidfile", "{dir}pid"]).start();
    assert!(machine.wait_exit(PATIENCE).success(), "{}", machine.stderr());
    // No retry: the socket is there when the first process ends.
    let socket = machine.path("monitor0");
    let stream = std::os::unix::net::UnixStream::connect(&socket).expect("the daemon listens");
    let mut session = crate::support::Session::over(stream);
    session.negotiate();
    let pid: u32 =
        std::fs::read_to_string(machine.path("pid")).expect("the pid file").trim().parse().expect("a number");
    assert_ne!(pid, machine.pid());
    session.query("quit");
    assert!(session.closed());
    machine.wait_for("the daemon's end", PATIENCE, |_| {
        (!std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    });
}
