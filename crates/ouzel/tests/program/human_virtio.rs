//! What virtio devices and their queues are like inside, as monitors tell it.

use serde_json::{Value, json};

use crate::support::{BOOT_PATIENCE, Machine, Reply, Session, Setup, guest, qemu};

/// One device of each type.
const DEVICES: &str = "-blockdev driver=null-co,node-name=n0,size=1048576,read-zeroes=on \
                       -blockdev driver=null-co,node-name=n1,size=1048576,read-zeroes=on \
                       -device virtio-blk-pci,drive=n0,id=b -device virtio-scsi-pci,id=s -device scsi-hd,drive=n1,bus=s.0,id=hd \
                       -device virtio-rng-pci,id=r -chardev null,id=c0 -device virtio-serial-pci,id=ser \
                       -device virtconsole,chardev=c0,bus=ser.0,id=con -device virtio-keyboard-pci,id=k \
                       -device virtio-gpu-pci,id=g";
const NAMES: [(&str, &str); 6] = [
    ("g", "virtio-gpu"),
    ("k", "virtio-input"),
    ("ser", "virtio-serial"),
    ("r", "virtio-rng"),
    ("s", "virtio-scsi"),
    ("b", "virtio-blk"),
];

fn path(id: &str) -> String {
    format!("/machine/peripheral/{id}/virtio-backend")
}

fn start(setup: Setup, arguments: &[&str]) -> (Machine, Session) {
    let devices = DEVICES.split_whitespace().chain(arguments.iter().copied());
    let mut machine = setup.args(["-S", "-machine", "pc", "-accel", "tcg", "-m", "256"]).args(devices).start();
    let session = machine.connect(0);
    (machine, session)
}

/// What `human-monitor-command` answers.
fn human(session: &mut Session, line: &str) -> String {
    let answer = session.run("human-monitor-command", json!({ "command-line": line }));
    answer.as_str().expect("a text").replace("\r\n", "\n")
}

fn ask(session: &mut Session, command: &str, arguments: &Value) -> Reply {
    session.call(&json!({ "execute": command, "arguments": arguments }))
}

/// All that is told of all devices, but for the elements of queues.
fn told(session: &mut Session) -> Vec<String> {
    let mut told = vec![human(session, "info virtio"), session.query("x-query-virtio").to_string()];
    for (id, _) in NAMES {
        let path = path(id);
        told.push(session.run("x-query-virtio-status", json!({ "path": path })).to_string());
        told.push(human(session, &format!("info virtio-status {path}")));
        // Not those of ports: there QEMU looks whether an interrupt is due when it has nothing to give back, too.
        for queue in 0..5 {
            let queried = ask(session, "x-query-virtio-queue-status", &json!({ "path": path, "queue": queue }));
            told.push(format!("{id} {queue}: {queried:?}"));
            told.push(human(session, &format!("info virtio-queue-status {path} {queue}")));
        }
    }
    told
}

/// Numbers that depend on where a kernel put something, and on how often it asked for random numbers.
fn without_places(told: &[String]) -> Vec<String> {
    const PLACES: [&str; 9] = [
        "\"vring-desc\"",
        "\"vring-avail\"",
        "\"vring-used\"",
        "desc:",
        "avail:",
        "used:",
        "vring-desc",
        "vring-avail",
        "vring-used",
    ];
    let cut = |text: &String| {
        let mut cut = text.replace(", ", ",\n").replace(",\"", ",\n\"");
        cut = cut
            .lines()
            .filter(|line| !PLACES.iter().any(|place| line.trim_start().starts_with(place)))
            .collect::<Vec<_>>()
            .join("\n");
        cut
    };
    told.iter().filter(|text| !text.contains("virtio-rng")).map(cut).collect()
}

#[test]
fn virtio_devices_are_listed_with_their_paths_and_told_apart_from_others() {
    let (_machine, mut session) = start(Setup::new(), &[]);
    let expected: Vec<Value> = NAMES.iter().map(|(id, name)| json!({"path": path(id), "name": name})).collect();
    assert_eq!(session.query("x-query-virtio"), json!(expected));
    for (command, arguments, what) in [
        ("x-query-virtio-status", json!({"path": "/machine"}), "Path /machine is not a VirtIODevice"),
        ("x-query-virtio-queue-status", json!({"path": "/x", "queue": 0}), "Path /x is not a VirtIODevice"),
        ("x-query-virtio-queue-element", json!({"path": "/x", "queue": 0}), "Path /x is not a VirtIO device"),
        ("x-query-virtio-queue-status", json!({"path": path("b"), "queue": 1}), "Invalid virtqueue number 1"),
        ("x-query-virtio-queue-element", json!({"path": path("b"), "queue": 9}), "Invalid virtqueue number 9"),
        ("x-query-virtio-queue-element", json!({"path": path("b"), "queue": 0}), "Region caches not initialized"),
        (
            "x-query-virtio-queue-status",
            json!({"path": path("b"), "queue": 70000}),
            "Parameter 'queue' expects uint16_t",
        ),
    ] {
        assert_eq!(session.generic_error(command, arguments), what);
    }
    session.run("device_del", json!({"id": "hd"}));
    session.event("DEVICE_DELETED");
    session.run("device_add", json!({"driver": "virtio-rng-pci", "id": "late"}));
    assert_eq!(session.query("x-query-virtio")[0], json!({"path": path("late"), "name": "virtio-rng"}));
    let (_machine, mut session) = {
        let mut machine = Setup::new().args(["-S", "-machine", "none", "-accel", "tcg"]).start();
        let session = machine.connect(0);
        (machine, session)
    };
    assert_eq!(session.query("x-query-virtio"), json!([]));
    assert_eq!(human(&mut session, "info virtio"), "No VirtIO devices\n");
}

#[test]
#[ignore = "peer: qemu-system-x86_64, Debian's kernel and busybox"]
fn peer_qemu_tells_the_same_of_virtio_devices_before_and_after_their_drivers_begin() {
    let kernel = [guest("vmlinuz"), guest("initrd.cpio")];
    let arguments = [
        "-serial",
        "file:{dir}/serial",
        "-kernel",
        &kernel[0],
        "-initrd",
        &kernel[1],
        "-append",
        "console=ttyS0 quiet ouzel.run=virtio,scsi,ports,input",
    ];
    let mut ours = start(Setup::new(), &arguments);
    let mut theirs = start(Setup::of(qemu()), &arguments);
    let before = [&mut ours, &mut theirs].map(|(_, session)| {
        // QEMU's firmware has not run yet; here it has no part in this boot, and its work is done.
        told(session).iter().map(|text| text.replace("true", "false")).collect::<Vec<_>>()
    });
    assert_eq!(before[0], before[1]);
    let after = [&mut ours, &mut theirs].map(|(machine, session)| {
        session.query("cont");
        machine.wait_serial("INPUT-WAIT", BOOT_PATIENCE);
        session.query("stop");
        told(session)
    });
    let [our_after, their_after] = after.map(|told| without_places(&told));
    for (ours, theirs) in our_after.iter().zip(&their_after) {
        assert_eq!(ours, theirs);
    }
    // What the driver of the keyboard has offered, and waits for: memory for events.
    for (_, session) in [&mut ours, &mut theirs] {
        let wanted = json!({"path": path("k"), "queue": 0, "index": 5});
        let mut element = session.run("x-query-virtio-queue-element", wanted);
        assert!(element["descs"][0]["addr"].take().as_u64().is_some_and(|address| address > 0), "{element}");
        let expected = json!({
            "name": "virtio-input", "index": 5, "descs": [{"addr": null, "len": 8, "flags": ["write"]}],
            "avail": {"flags": 0, "idx": 64, "ring": 5}, "used": {"flags": 0, "idx": 0}
        });
        assert_eq!(element, expected);
        let shown = human(session, &format!("info virtio-queue-element {} 0 5", path("k")));
        let (begin, rest) = shown.split_once("        addr 0x").expect("a descriptor");
        assert_eq!(begin, format!("{}:\n  device_name: virtio-input\n  index:   5\n  desc:\n    descs:\n", path("k")));
        let (_, end) = rest.split_once(' ').expect("an address");
        let expected =
            "len 8 (write)\n  avail:\n    flags: 0\n    idx:   64\n    ring:  5\n  used:\n    flags: 0\n    idx:   0\n";
        assert_eq!(end, expected);
    }
}
