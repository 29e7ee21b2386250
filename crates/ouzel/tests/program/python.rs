//! Other people's clients: the Python package `qemu.qmp`, and netcat.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{PATIENCE, Setup, guest, python};

#[test]
#[ignore = "peer: the Python package qemu.qmp"]
fn peer_python_client_drives_every_command() {
    let arguments = ["-m", "64", "-smp", "2", "-kernel", &guest("hello.elf"), "-drive", "if=none,id=cd", "-vga", "std"];
    let vnc = ["-vnc", "unix:{dir}/vnc,password=on", "-spice", "unix=on,addr={dir}/spice"];
    let mut machine = Setup::new().serial().args(arguments).args(vnc).start();
    drop(machine.connect_raw(0));
    machine.wait_serial("Hello", PATIENCE);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer_qmp.py");
    let script = if std::path::Path::new(script).exists() {
        script.to_owned()
    } else {
        crate::support::repository().join("crates/ouzel/tests/peer_qmp.py").to_string_lossy().into_owned()
    };
    let output = Command::new("timeout")
        .arg("120")
        .arg(python())
        .arg(script)
        .arg(machine.path("monitor0"))
        .arg(machine.path(""))
        .output()
        .expect("Python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().last().is_some_and(|line| line.starts_with("ok: ")), "{text}");
    assert!(machine.wait_exit(PATIENCE).success());
}

#[test]
#[ignore = "peer: netcat-openbsd"]
fn peer_nc_drives_every_command() {
    let mut machine = Setup::new().serial().args(["-m", "64", "-smp", "2", "-kernel", &guest("hello.elf")]).start();
    drop(machine.connect_raw(0));
    machine.wait_serial("Hello", PATIENCE);
    let file = machine.file("memory");
    // `ok` must return, `error` must not: it has no descriptor to give, or is asked for nonsense.
    let requests = [
        ("qmp_capabilities", "{}", "ok"),
        ("query-version", "{}", "ok"),
        ("query-commands", "{}", "ok"),
        ("query-events", "{}", "ok"),
        ("query-qmp-schema", "{}", "ok"),
        ("query-status", "{}", "ok"),
        ("query-name", "{}", "ok"),
        ("query-uuid", "{}", "ok"),
        ("query-kvm", "{}", "ok"),
        ("query-target", "{}", "ok"),
        ("x-query-jit", "{}", "ok"),
        ("x-query-irq", "{}", "ok"),
        ("x-query-numa", "{}", "ok"),
        ("x-query-ramblock", "{}", "ok"),
        ("x-query-roms", "{}", "ok"),
        ("x-query-usb", "{}", "error"),
        ("x-query-virtio", "{}", "ok"),
        ("x-query-virtio-status", r#"{"path": "/machine"}"#, "error"),
        ("x-query-virtio-queue-status", r#"{"path": "/machine", "queue": 0}"#, "error"),
        ("x-query-virtio-queue-element", r#"{"path": "/machine", "queue": 0}"#, "error"),
        ("query-stats", r#"{"target": "vm"}"#, "ok"),
        ("query-stats-schemas", "{}", "ok"),
        ("query-machines", "{}", "ok"),
        ("query-cpus", "{}", "ok"),
        ("query-cpus-fast", "{}", "ok"),
        ("query-cpu-definitions", "{}", "ok"),
        ("query-hotpluggable-cpus", "{}", "ok"),
        ("query-command-line-options", "{}", "ok"),
        ("cpu", "{\"index\":1}", "ok"),
        ("stop", "{}", "ok"),
        ("memsave", &format!("{{\"val\":2097152,\"size\":8,\"filename\":\"{file}\",\"cpu-index\":1}}"), "ok"),
        ("pmemsave", &format!("{{\"val\":2097152,\"size\":8,\"filename\":\"{file}\"}}"), "ok"),
        ("cont", "{}", "ok"),
        ("inject-nmi", "{}", "ok"),
        ("getfd", "{\"fdname\":\"fd1\"}", "error"),
        ("closefd", "{\"fdname\":\"fd1\"}", "error"),
        ("add-fd", "{}", "error"),
        ("remove-fd", "{\"fdset-id\":1}", "error"),
        ("query-fdsets", "{}", "ok"),
        ("system_reset", "{}", "ok"),
        // A guest that runs may obey the button before it is told to quit.
        ("stop", "{}", "ok"),
        ("system_powerdown", "{}", "ok"),
        ("quit", "{}", "ok"),
    ];
    let mut child = Command::new("timeout")
        .args(["120", "nc", "-U"])
        .arg(machine.path("monitor0"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc runs");
    let mut input = child.stdin.take().expect("its input");
    for (name, arguments, _) in requests {
        // The reset, the NMI and the button race with each other in the guest: the requests do not wait for it.
        writeln!(input, "{{\"execute\":\"{name}\",\"arguments\":{arguments},\"id\":\"{name}\"}}")
            .expect("nc takes input");
    }
    let output = child.wait_with_output().expect("nc ends when the server closes");
    drop(input);
    let text = String::from_utf8(output.stdout).expect("ASCII");
    let messages: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (name, _, wanted) in requests {
        let reply = messages
            .iter()
            .find(|message| message["id"] == name)
            .unwrap_or_else(|| panic!("no reply to {name}:\n{text}"));
        assert_eq!(reply.get("return").is_some(), wanted == "ok", "{name}: {reply}");
    }
    assert_eq!(std::fs::read(&file).expect("the saved memory"), b"O0uzel!!");
    assert!(machine.wait_exit(PATIENCE).success());
}
