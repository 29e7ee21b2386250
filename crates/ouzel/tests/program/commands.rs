//! Every command of the control, run-state, machine, CPU, memory and descriptor subjects: results, errors, events.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Reply, Session, Setup, guest, qemu};

/// The commands of which `query-commands` must tell.
const COMMANDS: [&str; 24] = [
    "qmp_capabilities",
    "query-version",
    "query-commands",
    "query-qmp-schema",
    "query-status",
    "query-name",
    "query-uuid",
    "query-kvm",
    "query-target",
    "query-machines",
    "query-cpus-fast",
    "query-cpu-definitions",
    "query-hotpluggable-cpus",
    "query-command-line-options",
    "stop",
    "cont",
    "quit",
    "system_reset",
    "system_powerdown",
    "memsave",
    "pmemsave",
    "inject-nmi",
    "getfd",
    "closefd",
];

fn paused() -> (Machine, Session) {
    let mut machine = Setup::new().args(["-S", "-m", "64"]).start();
    let session = machine.connect(0);
    (machine, session)
}

/// The guest `hello`, past its greeting.
fn hello(arguments: &[&str]) -> (Machine, Session) {
    let mut machine = Setup::new().serial().args(["-m", "64", "-kernel", &guest("hello.elf")]).args(arguments).start();
    let session = machine.connect(0);
    machine.wait_serial("Hello from a bare-metal guest.\n", PATIENCE);
    (machine, session)
}

// --- Queries

#[test]
fn query_version_reports_7_2_and_names_ouzel() {
    let (_machine, mut session) = paused();
    let version = session.query("query-version");
    assert_eq!(version["qemu"], json!({"major": 7, "minor": 2, "micro": 0}));
    assert!(version["package"].as_str().expect("a package").contains("Ouzel"), "{version}");
}

#[test]
fn query_commands_lists_every_command_once() {
    let (_machine, mut session) = paused();
    let list = session.query("query-commands");
    let names: Vec<&str> =
        list.as_array().expect("a list").iter().map(|entry| entry["name"].as_str().expect("a name")).collect();
    let mut all = COMMANDS.to_vec();
    all.extend(["add-fd", "remove-fd", "query-fdsets"]);
    for name in all {
        assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{name}");
    }
}

#[test]
fn listed_command_is_never_answered_as_unknown() {
    let (_machine, mut session) = paused();
    for entry in session.query("query-commands").as_array().expect("a list") {
        let name = entry["name"].as_str().expect("a name");
        // An unexpected argument is found before anything is done.
        let reply = session.call(&json!({"execute": name, "arguments": {"no-such-argument": 1}}));
        let Reply::Error(class, text) = reply else { panic!("{name} took any argument: {reply:?}") };
        assert_eq!(class, "GenericError", "{name}: {text}");
        assert!(text.contains("is unexpected") || text.contains("is missing"), "{name}: {text}");
    }
}

#[test]
fn query_events_lists_the_events_of_the_old_dialect() {
    let (_machine, mut session) = paused();
    let list = session.query("query-events");
    for name in ["STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "GUEST_PANICKED"] {
        assert!(list.as_array().expect("a list").contains(&json!({"name": name})), "{name}");
    }
}

#[test]
fn query_qmp_schema_resolves_every_reference_and_describes_every_command() {
    let (_machine, mut session) = paused();
    let schema = session.query("query-qmp-schema");
    let entries = schema.as_array().expect("a list");
    let find = |name: &str| entries.iter().find(|entry| entry["name"] == name);
    let mut references = Vec::new();
    for entry in entries {
        for member in ["arg-type", "ret-type", "element-type"] {
            references.extend(entry.get(member).and_then(Value::as_str));
        }
        for list in ["members", "variants"] {
            for member in entry.get(list).and_then(Value::as_array).into_iter().flatten() {
                references.extend(member.get("type").and_then(Value::as_str));
            }
        }
    }
    assert!(references.len() > 40);
    for reference in references {
        assert!(find(reference).is_some(), "no entry for {reference}");
    }
    for name in COMMANDS {
        assert_eq!(find(name).unwrap_or_else(|| panic!("no entry for {name}"))["meta-type"], "command");
    }
    assert_eq!(find("SHUTDOWN").expect("the event")["meta-type"], "event");
}

#[test]
fn query_status_follows_the_run_state() {
    let (_machine, mut session) = paused();
    let status = |status: &str, running: bool| json!({"status": status, "singlestep": false, "running": running});
    assert_eq!(session.query("query-status"), status("prelaunch", false));
    session.query("cont");
    assert_eq!(session.query("query-status"), status("running", true));
    session.query("stop");
    assert_eq!(session.query("query-status"), status("paused", false));
}

#[test]
fn query_name_and_uuid_without_options_are_empty_and_zero() {
    let (_machine, mut session) = paused();
    assert_eq!(session.query("query-name"), json!({}));
    assert_eq!(session.query("query-uuid"), json!({"UUID": "00000000-0000-0000-0000-000000000000"}));
}

#[test]
fn query_target_is_x86_64() {
    let (_machine, mut session) = paused();
    assert_eq!(session.query("query-target"), json!({"arch": "x86_64"}));
}

#[test]
fn query_kvm_with_the_software_cpu_is_not_enabled() {
    let (_machine, mut session) = paused();
    let kvm = session.query("query-kvm");
    assert_eq!(kvm["enabled"], false);
    assert!(kvm["present"].is_boolean());
}

#[test]
fn query_machines_has_one_default_and_the_alias_pc() {
    let (_machine, mut session) = paused();
    let machines = session.query("query-machines");
    let machines = machines.as_array().expect("a list");
    assert_eq!(machines.iter().filter(|machine| machine["is-default"] == true).count(), 1);
    let pc = machines.iter().find(|machine| machine["alias"] == "pc").expect("an alias pc");
    assert!(pc["cpu-max"].as_u64().expect("cpu-max") >= 8);
}

#[test]
fn query_cpu_definitions_names_the_models_that_can_be_given() {
    let (_machine, mut session) = paused();
    let list = session.query("query-cpu-definitions");
    let names: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|entry| entry["name"].as_str()).collect();
    for name in ["qemu64", "max"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for entry in list.as_array().expect("a list") {
        assert!(entry["typename"].as_str().is_some_and(|name| name.ends_with("-x86_64-cpu")), "{entry}");
        assert!(entry["static"].is_boolean() && entry["migration-safe"].is_boolean(), "{entry}");
    }
}

#[test]
fn query_command_line_options_lists_all_or_one() {
    let (_machine, mut session) = paused();
    let all = session.query("query-command-line-options");
    let has = |name: &str| all.as_array().expect("a list").iter().any(|entry| entry["option"] == name);
    for name in ["machine", "smp-opts", "chardev", "mon", "device", "name", "rtc"] {
        assert!(has(name), "{name}");
    }
    let one = session.run("query-command-line-options", json!({"option": "chardev"}));
    assert_eq!(one.as_array().expect("a list").len(), 1);
    assert!(one[0]["parameters"].as_array().expect("parameters").iter().any(|parameter| parameter["name"] == "path"));
    assert_eq!(
        session.generic_error("query-command-line-options", json!({"option": "nope"})),
        "invalid option name: nope"
    );
}

#[test]
fn query_hotpluggable_cpus_has_a_path_for_those_that_are_there() {
    let mut machine = Setup::new().args(["-S", "-smp", "1,maxcpus=2"]).start();
    let list = machine.connect(0).query("query-hotpluggable-cpus");
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), 2);
    assert_eq!(list.iter().filter(|cpu| cpu.get("qom-path").is_some()).count(), 1);
    for cpu in list {
        assert_eq!(cpu["vcpus-count"], 1);
        assert_eq!(cpu["type"], "qemu64-x86_64-cpu");
        assert!(cpu["props"]["socket-id"].is_u64() && cpu["props"]["thread-id"].is_u64());
    }
}

#[test]
fn processors_come_by_device_add_and_by_the_command_line_where_there_is_a_place() {
    let cpu = "qemu64-x86_64-cpu,id=first,socket-id=1,core-id=0,thread-id=0";
    let smp = "1,sockets=2,cores=2,maxcpus=4";
    let mut machine = Setup::new().args(["-S", "-smp", smp, "-device", cpu]).start();
    let mut session = machine.connect(0);
    let count = |session: &mut Session| session.query("query-cpus-fast").as_array().map_or(0, Vec::len);
    assert_eq!(count(&mut session), 2);
    let place = |driver: &str, socket: i64, core: i64| json!({"driver": format!("{driver}-x86_64-cpu"), "socket-id": socket, "core-id": core, "thread-id": 0});
    for (arguments, expected) in [
        (place("qemu64", 1, 0), "CPU[2] with APIC ID 2 exists"),
        (place("max", 1, 1), "Invalid CPU type, expected cpu type: 'qemu64-x86_64-cpu'"),
        (place("qemu64", 2, 0), "Invalid CPU socket-id: 2 must be in range 0:1"),
        (place("qemu64", 0, 7), "Invalid CPU core-id: 7 must be in range 0:1"),
        (json!({"driver": "qemu64-x86_64-cpu", "socket-id": 0, "core-id": 1}), "CPU thread-id is not set"),
    ] {
        assert_eq!(session.generic_error("device_add", arguments), expected);
    }
    session.run("device_add", place("qemu64", 1, 1));
    session.run("cpu-add", json!({"id": 1}));
    assert_eq!(count(&mut session), 4);
    let error = session.generic_error("cpu-add", json!({"id": 1}));
    assert_eq!(error, "Unable to add CPU: 1, it already exists");
    let error = session.generic_error("device_del", json!({"id": "/machine/unattached/device[0]"}));
    assert_eq!(error, "Boot CPU is unpluggable");
    session.run("cont", json!({}));
    session.run("system_reset", json!({}));
    assert_eq!(count(&mut session), 4, "a reset changes nothing");
}

#[test]
fn query_cpus_fast_names_real_threads_of_the_process() {
    let mut machine = Setup::new().args(["-S", "-smp", "4"]).start();
    let cpus = machine.connect(0).query("query-cpus-fast");
    let cpus = cpus.as_array().expect("a list");
    assert_eq!(cpus.len(), 4);
    let mut threads = Vec::new();
    for (index, cpu) in cpus.iter().enumerate() {
        assert_eq!(cpu["cpu-index"], index);
        assert_eq!(cpu["target"], "x86_64");
        assert!(cpu["qom-path"].as_str().is_some_and(|path| path.starts_with("/machine/")));
        let thread = cpu["thread-id"].as_u64().expect("a thread");
        assert!(fs::exists(format!("/proc/{}/task/{thread}", machine.pid())).unwrap_or(false), "thread {thread}");
        threads.push(thread);
    }
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 4, "a thread each");
}

#[test]
fn query_cpus_of_the_old_dialect_shows_the_program_counter() {
    let (_machine, mut session) = hello(&["-smp", "2"]);
    session.query("stop");
    let cpus = session.query("query-cpus");
    let cpus = cpus.as_array().expect("a list");
    assert_eq!(cpus.len(), 2);
    assert_eq!(cpus[0]["CPU"], 0);
    assert_eq!((&cpus[0]["current"], &cpus[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!(cpus[0]["arch"], "x86");
    assert_eq!((&cpus[0]["halted"], &cpus[1]["halted"]), (&json!(false), &json!(true)));
    let counter = cpus[0]["pc"].as_u64().expect("a program counter");
    assert!((0x10_0000..0x11_0000).contains(&counter), "the guest's loop is at 1 MiB: {counter:#x}");
    assert!(cpus[0]["thread_id"].is_u64() && cpus[0]["qom_path"].is_string());
}

#[test]
fn cpu_of_the_old_dialect_checks_its_index_and_does_nothing() {
    let mut machine = Setup::new().args(["-S", "-smp", "2"]).start();
    let mut session = machine.connect(0);
    assert_eq!(session.run("cpu", json!({"index": 1})), json!({}));
    assert_eq!(session.generic_error("cpu", json!({"index": 9})), "Parameter 'index' expects a CPU number");
    assert_eq!(session.generic_error("cpu", json!({})), "Parameter 'index' is missing");
}

// --- Run state

#[test]
fn stop_and_cont_are_idempotent_and_emit_one_event_each() {
    let (_machine, mut session) = hello(&[]);
    session.take_events();
    for _ in 0..3 {
        session.query("stop");
    }
    assert_eq!(session.take_events(), ["STOP"]);
    for _ in 0..3 {
        session.query("cont");
    }
    assert_eq!(session.take_events(), ["RESUME"]);
    assert_eq!(session.status(), "running");
}

#[test]
fn stopped_guest_does_not_run_and_goes_on_after_cont() {
    let (machine, mut session) = hello(&[]);
    let counter = |session: &mut Session| {
        let file = machine.file("counter");
        session.run("pmemsave", json!({"val": 0x20_0010, "size": 4, "filename": file}));
        u32::from_le_bytes(fs::read(&file).expect("the file").try_into().expect("four bytes"))
    };
    session.query("stop");
    let first = counter(&mut session);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(counter(&mut session), first, "it counted while stopped");
    for _ in 0..50 {
        session.query("cont");
        session.query("stop");
    }
    session.query("cont");
    let deadline = std::time::Instant::now() + PATIENCE;
    while counter(&mut session) == first {
        assert!(std::time::Instant::now() < deadline, "it does not count after cont");
    }
}

#[test]
fn system_reset_restarts_the_guest_and_says_who_asked() {
    let (mut machine, mut session) = hello(&[]);
    session.query("system_reset");
    assert_eq!(session.event("RESET"), json!({"guest": false, "reason": "host-qmp-system-reset"}));
    machine.wait_for("the second greeting", PATIENCE, |machine| {
        (machine.serial().matches("Hello from a bare-metal guest.\n").count() == 2).then_some(())
    });
    assert_eq!(session.status(), "running");
}

#[test]
fn system_reset_of_a_paused_machine_leaves_it_before_its_launch() {
    let (mut machine, mut session) = hello(&[]);
    session.query("stop");
    session.query("system_reset");
    assert_eq!(session.event("RESET")["reason"], "host-qmp-system-reset");
    assert_eq!(session.status(), "prelaunch");
    session.query("cont");
    machine.wait_for("the second greeting", PATIENCE, |machine| {
        (machine.serial().matches("Hello from a bare-metal guest.\n").count() == 2).then_some(())
    });
}

#[test]
fn system_powerdown_presses_the_button() {
    let (mut machine, mut session) = hello(&[]);
    session.query("system_powerdown");
    assert_eq!(session.event("POWERDOWN"), Value::Null);
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}));
    assert!(machine.wait_exit(PATIENCE).success());
    assert!(machine.serial().ends_with("The power button was pressed.\n"));
}

// --- Memory

#[test]
fn pmemsave_saves_what_the_guest_wrote() {
    let (machine, mut session) = hello(&[]);
    let file = machine.file("memory");
    assert_eq!(session.run("pmemsave", json!({"val": 0x20_0000, "size": 8, "filename": file})), json!({}));
    assert_eq!(fs::read(&file).expect("the file"), b"O0uzel!!");
    // A second save replaces the first.
    session.run("pmemsave", json!({"val": 0x20_0004, "size": 4, "filename": file}));
    assert_eq!(fs::read(&file).expect("the file"), b"el!!");
}

#[test]
fn memsave_goes_through_the_processor_s_address_translation() {
    let (machine, mut session) = hello(&["-smp", "2"]);
    let file = machine.file("memory");
    session.run("memsave", json!({"val": 0x20_0000, "size": 8, "filename": file}));
    assert_eq!(fs::read(&file).expect("the file"), b"O0uzel!!");
    session.run("memsave", json!({"val": 0x20_0000, "size": 4, "filename": file, "cpu-index": 1}));
    assert_eq!(fs::read(&file).expect("the file"), b"O0uz");
}

#[test]
fn memsave_takes_the_documents_name_of_its_processor_too() {
    // The text of 2016 says `cpu`, its schema `cpu-index`: both are accepted.
    let (machine, mut session) = hello(&["-smp", "2"]);
    let file = machine.file("memory");
    session.run("memsave", json!({"val": 0x20_0000, "size": 8, "filename": file, "cpu": 1}));
    assert_eq!(fs::read(&file).expect("the file"), b"O0uzel!!");
}

#[test]
fn memory_save_errors_say_what_is_wrong() {
    let (machine, mut session) = paused();
    let file = machine.file("memory");
    let save = |value: i64, cpu: i64| json!({"val": value, "size": 1, "filename": file, "cpu-index": cpu});
    for cpu in [9, -1] {
        assert_eq!(session.generic_error("memsave", save(0, cpu)), "Parameter 'cpu-index' expects a CPU number");
    }
    for command in ["memsave", "pmemsave"] {
        let text = session.generic_error(command, json!({"val": 0, "size": 1, "filename": "/nonexistent/x"}));
        assert_eq!(text, "Could not open '/nonexistent/x': No such file or directory", "{command}");
        let text = session.generic_error(command, json!({"val": 0, "filename": file}));
        assert_eq!(text, "Parameter 'size' is missing", "{command}");
    }
}

#[test]
fn pmemsave_of_a_whole_machine_has_its_size() {
    let (machine, mut session) = paused();
    let file = machine.file("memory");
    session.run("pmemsave", json!({"val": 0, "size": 64 << 20, "filename": file}));
    assert_eq!(fs::metadata(&file).expect("the file").len(), 64 << 20);
}

// --- Interrupts

#[test]
fn inject_nmi_reaches_the_guest() {
    let mut machine = Setup::new().serial().args(["-m", "64", "-kernel", &guest("nmi.elf")]).start();
    let mut session = machine.connect(0);
    machine.wait_serial("waiting for an NMI\n", PATIENCE);
    for count in 1..=3 {
        assert_eq!(session.query("inject-nmi"), json!({}));
        machine.wait_for("the handler's line", PATIENCE, |machine| {
            (machine.serial().matches("NMI\n").count() == count + 1).then_some(())
        });
    }
}

// --- Descriptors

fn open(machine: &Machine, name: &str) -> File {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(machine.path(name)).expect("a file");
    file.write_all(name.as_bytes()).expect("its content");
    file
}

#[test]
fn getfd_needs_a_descriptor_and_a_name_without_a_digit() {
    let (machine, mut session) = paused();
    let file = open(&machine, "one");
    let text = session.generic_error("getfd", json!({"fdname": "fd1"}));
    assert_eq!(text, "No file descriptor supplied via SCM_RIGHTS");
    let reply = session.call_with_fds("getfd", &json!({"fdname": "1fd"}), &[file.as_fd()]);
    let wanted = "Parameter 'fdname' expects a name not starting with a digit";
    assert_eq!(reply, Reply::Error("GenericError".into(), wanted.into()));
}

#[test]
fn getfd_and_closefd_keep_names_of_their_monitor() {
    let mut machine = Setup::new().args(["-S"]).monitors(2).start();
    let mut session = machine.connect(0);
    let mut other = machine.connect(1);
    let file = open(&machine, "one");
    for _ in 0..2 {
        // The second replaces the first.
        let reply = session.call_with_fds("getfd", &json!({"fdname": "fd1"}), &[file.as_fd()]);
        assert_eq!(reply, Reply::Value(json!({})));
    }
    let unknown = "File descriptor named 'fd1' not found";
    assert_eq!(other.generic_error("closefd", json!({"fdname": "fd1"})), unknown);
    // The name outlives the connection.
    drop(session);
    let mut session = machine.connect(0);
    assert_eq!(session.run("closefd", json!({"fdname": "fd1"})), json!({}));
    assert_eq!(session.generic_error("closefd", json!({"fdname": "fd1"})), unknown);
}

/// The files that the process has open, as paths.
fn open_files(machine: &Machine) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", machine.pid())).expect("the process lives");
    entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned())).collect()
}

#[test]
fn descriptors_are_really_held_and_really_closed() {
    let (machine, mut session) = paused();
    let file = open(&machine, "held");
    let path = machine.file("held");
    let held = |machine: &Machine| open_files(machine).iter().filter(|open| **open == path).count();
    session.call_with_fds("getfd", &json!({"fdname": "a"}), &[file.as_fd()]);
    assert_eq!(held(&machine), 1);
    session.call_with_fds("getfd", &json!({"fdname": "a"}), &[file.as_fd()]);
    assert_eq!(held(&machine), 1, "the replaced descriptor is closed");
    session.run("closefd", json!({"fdname": "a"}));
    assert_eq!(held(&machine), 0);
    // Of several in one message one is used; the rest must not leak past the next message.
    session.call_with_fds("getfd", &json!({"fdname": "a"}), &[file.as_fd(), file.as_fd(), file.as_fd()]);
    session.run("closefd", json!({"fdname": "a"}));
    let other = open(&machine, "other");
    session.call_with_fds("getfd", &json!({"fdname": "b"}), &[other.as_fd()]);
    assert_eq!(held(&machine), 0, "unused descriptors are closed");
}

#[test]
fn add_fd_makes_and_extends_sets_and_remove_fd_takes_them_away() {
    let (machine, mut session) = paused();
    // QEMU takes removed descriptors away only while the machine runs.
    session.query("cont");
    let file = open(&machine, "one");
    let text = session.generic_error("add-fd", json!({"fdset-id": 1}));
    assert_eq!(text, "No file descriptor supplied via SCM_RIGHTS");
    let add =
        |session: &mut Session, arguments: Value| match session.call_with_fds("add-fd", &arguments, &[file.as_fd()]) {
            Reply::Value(value) => (value["fd"].as_i64().expect("fd"), value["fdset-id"].as_i64().expect("fdset-id")),
            Reply::Error(_, text) => panic!("add-fd: {text}"),
        };
    let (first, set) = add(&mut session, json!({"fdset-id": 4, "opaque": "rw:one"}));
    assert_eq!(set, 4);
    let (second, set) = add(&mut session, json!({"fdset-id": 4}));
    assert_eq!(set, 4);
    let (third, set) = add(&mut session, json!({}));
    assert_eq!(set, 0, "the lowest free one");
    let negative = session.call_with_fds("add-fd", &json!({"fdset-id": -1}), &[file.as_fd()]);
    let wanted = "Parameter 'fdset-id' expects a non-negative value";
    assert_eq!(negative, Reply::Error("GenericError".into(), wanted.into()));
    let sets = session.query("query-fdsets");
    let of = |id: i64| {
        sets.as_array().expect("a list").iter().find(|set| set["fdset-id"] == id).expect("the set")["fds"].clone()
    };
    assert_eq!(of(0), json!([{"fd": third}]));
    let four = of(4);
    assert_eq!(four.as_array().expect("a list").len(), 2);
    assert!(four.as_array().expect("a list").contains(&json!({"fd": first, "opaque": "rw:one"})));
    assert!(four.as_array().expect("a list").contains(&json!({"fd": second})));

    session.run("remove-fd", json!({"fdset-id": 4, "fd": first}));
    session.run("remove-fd", json!({"fdset-id": 0}));
    let text = session.generic_error("remove-fd", json!({"fdset-id": 77, "fd": 5}));
    assert_eq!(text, "File descriptor named 'fdset-id:77, fd:5' not found");
    let text = session.generic_error("remove-fd", json!({"fdset-id": 77}));
    assert_eq!(text, "File descriptor named 'fdset-id:77' not found");
    assert_eq!(session.query("query-fdsets"), json!([{"fds": [{"fd": second}], "fdset-id": 4}]));
}

#[test]
fn fd_sets_are_shared_by_all_monitors() {
    let mut machine = Setup::new().args(["-S"]).monitors(2).start();
    let mut session = machine.connect(0);
    let mut other = machine.connect(1);
    session.query("cont");
    let file = open(&machine, "one");
    session.call_with_fds("add-fd", &json!({"fdset-id": 2}), &[file.as_fd()]);
    assert_eq!(other.query("query-fdsets")[0]["fdset-id"], 2);
    other.run("remove-fd", json!({"fdset-id": 2}));
    assert_eq!(session.query("query-fdsets"), json!([]));
}

#[test]
fn descriptor_that_came_with_another_command_is_not_used_later() {
    let (machine, mut session) = paused();
    let mut file = open(&machine, "one");
    assert_eq!(session.call_with_fds("query-name", &json!({}), &[file.as_fd()]), Reply::Value(json!({})));
    // QEMU keeps the last message's descriptor for the next command; a client that relies on it is mistaken, but
    // one that sends the descriptor ahead of the request's last byte is not.
    session.send_with_fds(b"{\"execute\":\"getfd\",\"argum", &[file.as_fd()]);
    session.send(b"ents\":{\"fdname\":\"split\"},\"id\":\"split\"}");
    assert_eq!(session.reply_to(&json!("split")), Reply::Value(json!({})));
    let mut text = String::new();
    file.read_to_string(&mut text).expect("the file is still ours");
}

// --- The peer

/// The types of a value: objects as sorted members, arrays as their first element's shape.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), shape(member))).collect(),
        Value::Array(elements) => elements.first().map_or(json!([]), |first| json!([shape(first)])),
        Value::String(_) => json!("string"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("boolean"),
        Value::Null => json!("null"),
    }
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_queries_have_the_same_shape() {
    let arguments = ["-S", "-m", "64", "-smp", "2", "-name", "n"];
    let mut ours = Setup::new().args(arguments).start();
    let mut theirs = Setup::of(qemu()).args(arguments).start();
    let (mut ours, mut theirs) = (ours.connect(0), theirs.connect(0));
    let mut problems = Vec::new();
    for command in [
        "query-version",
        "query-status",
        "query-name",
        "query-uuid",
        "query-kvm",
        "query-target",
        "query-cpus-fast",
        "query-hotpluggable-cpus",
        "query-fdsets",
        "query-commands",
    ] {
        let (got, wanted) = (shape(&ours.query(command)), shape(&theirs.query(command)));
        if got != wanted {
            problems.push(format!("{command}: got {got}, wanted {wanted}"));
        }
    }
    // The same entry of long lists.
    let entry = |session: &mut Session, command: &str, member: &str, name: &str| {
        let list = session.query(command);
        list.as_array().expect("a list").iter().find(|entry| entry[member] == name).cloned().unwrap_or_default()
    };
    for (command, member, name) in [
        ("query-machines", "alias", "pc"),
        ("query-cpu-definitions", "name", "qemu64"),
        ("query-command-line-options", "option", "chardev"),
    ] {
        let got = entry(&mut ours, command, member, name);
        let wanted = entry(&mut theirs, command, member, name);
        let (got, wanted) = (shape(&got), shape(&wanted));
        if got != wanted {
            problems.push(format!("{command} of {name}: got {got}, wanted {wanted}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A type of a schema with its references followed, for comparison.
fn resolved(schema: &[Value], name: &str, depth: usize) -> Value {
    let Some(entry) = schema.iter().find(|entry| entry["name"] == name) else { return json!("missing") };
    if depth == 0 {
        return entry["meta-type"].clone();
    }
    match entry["meta-type"].as_str() {
        Some("object") => {
            let members = entry["members"].as_array().into_iter().flatten();
            members
                .map(|member| {
                    let mark = if member.get("default").is_some() { "?" } else { "" };
                    let kind = resolved(schema, member["type"].as_str().unwrap_or_default(), depth - 1);
                    (format!("{}{mark}", member["name"].as_str().unwrap_or_default()), kind)
                })
                .collect()
        }
        Some("array") => json!([resolved(schema, entry["element-type"].as_str().unwrap_or_default(), depth)]),
        Some("builtin") => entry["json-type"].clone(),
        _ => entry["meta-type"].clone(),
    }
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_schema_describes_the_commands_and_events_alike() {
    let mut ours = Setup::new().args(["-S"]).start();
    let mut theirs = Setup::of(qemu()).args(["-S"]).start();
    let ours = ours.connect(0).query("query-qmp-schema");
    let theirs = theirs.connect(0).query("query-qmp-schema");
    let (ours, theirs) = (ours.as_array().expect("a list"), theirs.as_array().expect("a list"));
    let mut problems = Vec::new();
    let events = ["STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "GUEST_PANICKED"];
    for name in COMMANDS.into_iter().chain(["add-fd", "remove-fd", "query-fdsets"]).chain(events) {
        let describe = |schema: &[Value]| {
            let entry = schema.iter().find(|entry| entry["name"] == name).cloned().unwrap_or_default();
            let kind = |member: &str| resolved(schema, entry[member].as_str().unwrap_or_default(), 3);
            json!({"kind": entry["meta-type"], "arguments": kind("arg-type"), "result": kind("ret-type")})
        };
        let (got, wanted) = (describe(ours), describe(theirs));
        if got != wanted {
            problems.push(format!("{name}\n   got    {got}\n   wanted {wanted}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
