//! Commands about the platform on a machine that runs its firmware, with the examples of the specification's documents.

use std::fs;

use serde_json::{Value, json};

use crate::support::examples::{examples, replay};
use crate::support::{Machine, PATIENCE, Session, Setup};

const GUID: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";

fn running() -> (Machine, Session) {
    let generation = format!("vmgenid,guid={GUID}");
    let devices = ["-m", "64", "-vga", "std", "-device", "secondary-vga,id=video0", "-device", "i6300esb", "-usb"];
    let mut machine = Setup::new().args(devices).args(["-device", "usb-tablet", "-device", &generation]).start();
    let session = machine.connect(0);
    (machine, session)
}

/// The data of an event that came with the reply or comes later.
fn told(session: &mut Session, events: &[Value], name: &str) -> Value {
    match events.iter().find(|event| event["event"] == name) {
        Some(event) => event["data"].clone(),
        None => session.event(name),
    }
}

/// Waits for the reset that a command asked for. The firmware resets the machine, too: an example of `send-key` types
/// Ctrl-Alt-Delete, which it obeys when it comes to it.
fn wait_for_commanded_reset(session: &mut Session, events: &[Value]) {
    let commanded = json!({"guest": false, "reason": "host-qmp-system-reset"});
    let by_guest = json!({"guest": true, "reason": "guest-reset"});
    let mut resets = events.iter().filter(|event| event["event"] == "RESET").map(|event| event["data"].clone());
    loop {
        let reset = resets.next().unwrap_or_else(|| session.event("RESET"));
        if reset == commanded {
            return;
        }
        assert_eq!(reset, by_guest);
    }
}

/// What an example has to have done.
fn check(machine: &Machine, session: &mut Session, command: &str, (events, reply): (&[Value], &Value)) {
    let result = &reply["return"];
    match command {
        "system_wakeup" => {
            assert_eq!(reply["error"]["desc"], "Unable to wake up: guest is not in suspended state");
        }
        "query-pci" => {
            let devices = result[0]["devices"].as_array().expect("devices");
            let classes: Vec<_> = devices.iter().map(|device| device["class_info"]["class"].as_u64()).collect();
            assert_eq!(classes[0], Some(0x0600), "the host bridge comes first");
            assert!(classes.contains(&Some(0x0300)) && classes.contains(&Some(0x0880)), "{classes:x?}");
        }
        "query-mice" => assert_eq!(result.as_array().map(Vec::len), Some(2), "a mouse and a tablet: {result}"),
        "screendump" => {
            let picture = fs::read(machine.file("image")).expect("the picture");
            assert!(picture.starts_with(b"P6"), "{:?}", &picture[..picture.len().min(8)]);
        }
        "system_reset" => wait_for_commanded_reset(session, events),
        "system_powerdown" => assert_eq!(told(session, events, "POWERDOWN"), Value::Null),
        "human-monitor-command" => assert_eq!(result, "kvm support: disabled\r\n"),
        _ => assert_eq!(*result, json!({}), "{command}: {reply}"),
    }
}

#[test]
fn examples_of_power_input_and_screens_are_obeyed_while_the_guest_runs() {
    const COMMANDS: [&str; 11] = [
        "query-pci",
        "query-mice",
        "send-key",
        "input-send-event",
        "screendump",
        "rtc-reset-reinjection",
        "system_wakeup",
        "inject-nmi",
        "human-monitor-command",
        "system_powerdown",
        "system_reset",
    ];
    let Some(examples) = examples() else { return };
    let (machine, mut session) = running();
    for command in COMMANDS {
        let mut count = 0;
        for example in examples.iter().filter(|example| example.command == command) {
            let request = example.request.replace("/tmp/image", &machine.file("image"));
            if serde_json::from_str::<Value>(&request).is_err() {
                continue;
            }
            let (events, reply) = replay(&mut session, &request);
            check(&machine, &mut session, command, (&events, &reply));
            count += 1;
        }
        assert!(count > 0, "there is an example of {command}");
        assert_eq!(session.status(), "running", "after {command}");
    }
}

#[test]
fn generation_is_what_the_device_was_given() {
    let (_machine, mut session) = running();
    assert_eq!(session.query("query-vm-generation-id"), json!({"guid": GUID}));
}

#[test]
fn set_action_changes_what_a_reset_does_and_leaves_the_rest() {
    let (mut machine, mut session) = running();
    assert_eq!(session.run("watchdog-set-action", json!({"action": "inject-nmi"})), json!({}));
    assert_eq!(session.run("set-action", json!({"panic": "none", "watchdog": "pause"})), json!({}));
    session.query("system_reset");
    assert_eq!(session.event("RESET")["guest"], false, "it still resets");
    session.run("set-action", json!({"reboot": "shutdown"}));
    session.query("system_reset");
    assert_eq!(session.event("SHUTDOWN"), json!({"guest": false, "reason": "host-qmp-system-reset"}));
    assert!(machine.wait_exit(PATIENCE).success());
}
