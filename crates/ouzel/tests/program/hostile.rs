//! Clients that mean harm or know no better: none may stop the others, the machine, or make it grow without bound.

use std::fs;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};

use crate::support::{Machine, Session, Setup};

/// A paused machine with a well-behaved session on monitor 0, beside monitor 1 for the hostile client.
fn pair() -> (Machine, Session) {
    let mut machine = Setup::new().args(["-S", "-m", "64"]).monitors(2).start();
    let good = machine.connect(0);
    (machine, good)
}

fn still_answers(good: &mut Session) {
    for _ in 0..10 {
        assert_eq!(good.status(), "prelaunch");
    }
}

/// Resident memory of the process in KiB.
fn resident(machine: &Machine) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn garbage_of_a_mebibyte_leaves_the_other_monitor_alone() {
    let (mut machine, mut good) = pair();
    let mut bad = machine.connect_raw(1);
    let mut noise = 1u32;
    let garbage: Vec<u8> = (0..1 << 20)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_be_bytes()[0]
        })
        .collect();
    // The monitor may answer faster than this client reads: the client writes without ever reading.
    let mut writer = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let _ = bad.try_send(&garbage[..1 << 16]);
            bad
        });
        still_answers(&mut good);
        writer.join().expect("the writer")
    });
    still_answers(&mut good);
    // It may go on: after a control character its requests are answered.
    writer.send(b"\x1b\n{\"execute\":\"qmp_capabilities\",\"id\":\"after\"}");
    loop {
        let message: Value = serde_json::from_str(&writer.line()).expect("JSON");
        if message.get("id").is_some() {
            assert_eq!(message, json!({"return": {}, "id": "after"}));
            break;
        }
    }
    assert!(machine.runs());
}

#[test]
fn string_of_a_gibibyte_is_refused_in_bounded_memory_while_others_are_served() {
    let (mut machine, mut good) = pair();
    let before = resident(&machine);
    let mut bad = machine.connect(1);
    bad.send(b"{\"execute\":\"query-name\",\"id\":\"");
    let block = vec![b'a'; 1 << 20];
    let mut peak = 0;
    for number in 0..1024 {
        if bad.try_send(&block).is_err() {
            break;
        }
        if number % 64 == 0 {
            assert_eq!(good.status(), "prelaunch", "after {number} MiB");
            peak = peak.max(resident(&machine));
        }
    }
    still_answers(&mut good);
    assert!(peak < before + 400 * 1024, "grew from {before} to {peak} KiB");
    drop(bad);
    machine.connect(1).query("query-name");
    assert!(resident(&machine) < before + 100 * 1024, "the memory is given back: {} KiB", resident(&machine));
}

#[test]
fn array_of_many_tokens_is_refused_while_others_are_served() {
    let (mut machine, mut good) = pair();
    let mut bad = machine.connect(1);
    bad.send(b"[");
    let block = b"1,".repeat(1 << 18);
    let mut refused = None;
    // Just past the limit of 2,097,152 tokens: each further one would be answered.
    for _ in 0..4 {
        bad.send(&block);
        assert_eq!(good.status(), "prelaunch");
    }
    bad.send(b"1,1,");
    for _ in 0..3 {
        let line = bad.line();
        if line.contains("limit exceeded") {
            refused = Some(line);
            break;
        }
    }
    assert!(refused.expect("a refusal").contains("JSON token count limit exceeded"));
    drop(bad);
    still_answers(&mut good);
}

#[test]
fn thousands_of_nested_brackets_leave_the_other_monitor_alone() {
    let (mut machine, mut good) = pair();
    for bracket in ["[", "{\"a\":", "[{\"a\":["] {
        for depth in [1000, 1025, 100_000] {
            let mut bad = machine.connect(1);
            bad.send(bracket.repeat(depth));
            still_answers(&mut good);
            drop(bad);
        }
    }
    let mut bad = machine.connect(1);
    bad.send("[".repeat(1000));
    bad.send("]".repeat(1000));
    assert_eq!(bad.message()["error"]["desc"], "QMP input must be a JSON object");
    still_answers(&mut good);
    assert!(machine.runs());
}

#[test]
fn disconnect_at_every_byte_of_a_command_leaves_the_next_client_a_clean_monitor() {
    let (mut machine, mut good) = pair();
    let request = b"{\"execute\":\"pmemsave\",\"arguments\":{\"val\":0,\"size\":16,\"filename\":\"/nonexistent/x\"}}";
    for length in 0..=request.len() {
        let mut bad = machine.connect(1);
        bad.send(&request[..length]);
        drop(bad);
    }
    let mut next = machine.connect(1);
    assert_eq!(next.status(), "prelaunch");
    still_answers(&mut good);
}

#[test]
fn client_that_never_reads_does_not_hold_up_commands_or_events_of_others() {
    let (mut machine, mut good) = pair();
    let mut deaf = machine.connect(1);
    // More replies than socket buffers hold: the schema is long.
    for _ in 0..100 {
        if deaf.try_send(b"{\"execute\":\"query-qmp-schema\"}").is_err() {
            break;
        }
    }
    for _ in 0..200 {
        good.query("cont");
        good.query("stop");
    }
    assert_eq!(good.take_events().len(), 400);
    assert_eq!(good.status(), "paused");
    assert!(resident(&machine) < 400 * 1024, "replies wait without bound: {} KiB", resident(&machine));
}

#[test]
fn hundreds_of_connections_at_once_are_survived() {
    let (mut machine, mut good) = pair();
    let address = SocketAddrUnix::new(machine.path("monitor1")).expect("an address");
    let crowd: Vec<_> = (0..300)
        .map(|_| {
            // A full queue of a listener blocks who connects: these do not wait.
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).expect("a socket");
            let _ = connect(&socket, &address);
            socket
        })
        .collect();
    still_answers(&mut good);
    drop(crowd);
    assert_eq!(machine.connect(1).status(), "prelaunch");
}
