//! The machine as a whole, input, pictures, objects and character devices.

use std::sync::Arc;

use ::display::input::{Axis, Button, Event};
use ::display::keys::Key;
use ::hmp::Arguments;
use chardev::Legacy;
use qapi::json::Value;
use qapi::keyval::{self, Grammar};
use qapi::run_state::ShutdownCause;

use crate::run_state::can_hear;
use crate::{gdb, log};

use super::{Command, Human, Outcome, call, call_quietly, command, given, shown, silent, text};

/// The commands.
pub const COMMANDS: &[Command] = &[
    command("quit|q", "", "", "end the emulator", |human, _| {
        human.control.end(ShutdownCause::HostUi, 0);
        silent()
    }),
    command("stop|s", "", "", "stop the machine", |_, _| call("stop", [])),
    command("cont|c", "", "", "let the machine go on", |_, _| call("cont", [])),
    command("system_reset", "", "", "reset the machine", |_, _| call("system_reset", [])),
    command("system_powerdown", "", "", "press the power button", |_, _| call("system_powerdown", [])),
    command("system_wakeup", "", "", "wake a suspended machine up", |_, _| call("system_wakeup", [])),
    command("nmi", "", "", "inject an NMI", |_, _| call("inject-nmi", [])),
    command(
        "watchdog_action",
        "action:s",
        "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]",
        "what a watchdog does",
        |_, arguments| call("watchdog-set-action", [("action", arguments.required("action").into())]),
    ),
    command(
        "screendump",
        "filename:F,format:-fs,device:s?,head:i?",
        "filename [-f format] [device [head]]",
        "save the screen as a picture",
        |_, arguments| {
            call(
                "screendump",
                given([
                    ("filename", Some(arguments.required("filename").into())),
                    ("format", arguments.text("format").map(Value::from)),
                    ("device", arguments.text("device").map(Value::from)),
                    ("head", arguments.number("head").map(Value::from)),
                ]),
            )
        },
    ),
    command("sendkey", "keys:s,hold-time:i?", "keys [hold_ms]", "press keys (such as ctrl-alt-f1) together", send_key),
    command("mouse_move", "dx_str:s,dy_str:s,dz_str:s?", "dx dy [dz]", "move the mouse", mouse_move),
    command(
        "mouse_button",
        "button_state:i",
        "state",
        "press mouse buttons (1 left, 2 middle, 4 right)",
        |human, arguments| {
            let state = arguments.number("button_state").unwrap_or(0);
            let hub = human.control.machine().input();
            for (bit, button) in [(1, Button::Left), (2, Button::Middle), (4, Button::Right)] {
                hub.send(&Event::Button { button, is_down: state & bit != 0 }, None);
            }
            hub.sync();
            silent()
        },
    ),
    command("mouse_set", "index:i", "index", "choose the mouse that gets events", |human, arguments| {
        let index = arguments.number("index").unwrap_or(0);
        let known = u64::try_from(index).is_ok_and(|index| human.control.machine().input().select(index));
        if known { silent() } else { format!("Error: Mouse at index '{index}' not found\n").into() }
    }),
    command(
        "set_password",
        "protocol:s,password:s,display:-ds,connected:s?",
        "protocol password [-d display] [action-if-connected]",
        "set the password of a screen's server",
        |_, arguments| {
            call(
                "set_password",
                given([
                    ("protocol", arguments.text("protocol").map(Value::from)),
                    ("password", arguments.text("password").map(Value::from)),
                    ("display", arguments.text("display").map(Value::from)),
                    ("connected", arguments.text("connected").map(Value::from)),
                ]),
            )
        },
    ),
    command(
        "expire_password",
        "protocol:s,time:s,display:-ds",
        "protocol time [-d display]",
        "say how long a screen's password is valid (now, never, +seconds, seconds since 1970)",
        |_, arguments| {
            call(
                "expire_password",
                given([
                    ("protocol", arguments.text("protocol").map(Value::from)),
                    ("time", arguments.text("time").map(Value::from)),
                    ("display", arguments.text("display").map(Value::from)),
                ]),
            )
        },
    ),
    command(
        "client_migrate_info",
        "protocol:s,hostname:s,port:i?,tls-port:i?,cert-subject:s?",
        "protocol hostname port tls-port cert-subject",
        "tell the clients of a remote screen where the machine goes",
        |_, arguments| {
            call(
                "client_migrate_info",
                given([
                    ("protocol", arguments.text("protocol").map(Value::from)),
                    ("hostname", arguments.text("hostname").map(Value::from)),
                    ("port", arguments.number("port").map(Value::from)),
                    ("tls-port", arguments.number("tls-port").map(Value::from)),
                    ("cert-subject", arguments.text("cert-subject").map(Value::from)),
                ]),
            )
        },
    ),
    command("chardev-add", "args:s", "args", "add a character device", |human, arguments| {
        let spec = chardev::parse_option(arguments.required("args"));
        with_chardev(human, spec, |chardevs, spec| chardevs.add(spec))
    }),
    command(
        "chardev-change",
        "id:s,args:s",
        "id args",
        "change what is behind a character device",
        |human, arguments| {
            let text = format!("{},id={}", arguments.required("args"), arguments.required("id"));
            with_chardev(human, chardev::parse_option(&text), |chardevs, spec| chardevs.change(spec))
        },
    ),
    command("chardev-remove", "id:s", "id", "remove a character device", |_, arguments| {
        call("chardev-remove", [("id", arguments.required("id").into())])
    }),
    command("chardev-send-break", "id:s", "id", "send a break on a character device", |_, arguments| {
        call("chardev-send-break", [("id", arguments.required("id").into())])
    }),
    command("ringbuf_write", "device:s,data:s", "device data", "write to a ring buffer", |_, arguments| {
        call(
            "ringbuf-write",
            [("device", arguments.required("device").into()), ("data", arguments.required("data").into())],
        )
    }),
    command("ringbuf_read", "device:s,size:i", "device size", "read from a ring buffer", |_, arguments| {
        let size = arguments.number("size").unwrap_or(0);
        shown("ringbuf-read", [("device", arguments.required("device").into()), ("size", size.into())], |data| {
            let data = data.as_str().unwrap_or_default();
            let shown = data.chars().map(|character| match character {
                '\\' => "\\\\".to_owned(),
                '\n' | '\t' => character.to_string(),
                control if (control as u32) < 0x20 || control as u32 == 0x7f => format!("\\u{:04X}", control as u32),
                plain => plain.to_string(),
            });
            shown.collect::<String>() + "\n"
        })
    }),
    command("qom-list", "path:s?", "path", "list an object's properties", |_, arguments| {
        match arguments.text("path") {
            None => "/\n".to_owned().into(),
            Some(path) => shown("qom-list", [("path", path.into())], |list| {
                let mut lines: Vec<&Value> = list.as_array().unwrap_or_default().iter().collect();
                lines.sort_by_key(|one| text(one, "name"));
                lines.into_iter().map(|one| format!("{} ({})\n", text(one, "name"), text(one, "type"))).collect()
            }),
        }
    }),
    command("qom-get", "path:s,property:s", "path property", "show an object's property", |_, arguments| {
        shown(
            "qom-get",
            [("path", arguments.required("path").into()), ("property", arguments.required("property").into())],
            |value| format!("{value}\n"),
        )
    }),
    command(
        "qom-set",
        "json:-j,path:s,property:s,value:S",
        "[-j] path property value",
        "set an object's property",
        |_, arguments| {
            let written = arguments.required("value");
            let value = match written {
                "on" | "true" | "yes" if !arguments.flag("json") => Value::Bool(true),
                "off" | "false" | "no" if !arguments.flag("json") => Value::Bool(false),
                _ => match qapi::json::parse(written) {
                    Ok(value) => value,
                    Err(_) if !arguments.flag("json") => written.into(),
                    Err(error) => return format!("Error: {error}\n").into(),
                },
            };
            call(
                "qom-set",
                [
                    ("path", arguments.required("path").into()),
                    ("property", arguments.required("property").into()),
                    ("value", value),
                ],
            )
        },
    ),
    command(
        "getfd",
        "fdname:s",
        "getfd name",
        "take a descriptor that came over the monitor's socket",
        |_, arguments| call("getfd", [("fdname", arguments.required("fdname").into())]),
    ),
    command("closefd", "fdname:s", "closefd name", "close a named descriptor", |_, arguments| {
        call("closefd", [("fdname", arguments.required("fdname").into())])
    }),
    command("device_del", "id:s", "device", "remove a device", |_, arguments| {
        call("device_del", [("id", arguments.required("id").into())])
    }),
    command("boot_set", "bootdevice:s", "bootdevice", "say what firmware boots from", |human, arguments| {
        let order = arguments.required("bootdevice");
        match human.control.machine().set_boot_order(order) {
            Ok(true) => format!("boot device list now set to {order}\n").into(),
            Ok(false) => "no function defined to set boot device list for this architecture\n".to_owned().into(),
            Err(message) => format!("{message}\n").into(),
        }
    }),
    command("exit_preconfig", "", "", "build the machine that was configured", |_, _| call("x-exit-preconfig", [])),
    command("trace-event", "name:s,option:b", "name on|off", "switch trace events on or off", |_, arguments| {
        match log::events(arguments.required("name")) {
            Ok(events) => {
                events.into_iter().for_each(|event| event.set_enabled(arguments.flag("option")));
                silent()
            }
            Err(message) => format!("{message}\n").into(),
        }
    }),
    command(
        "gdbserver",
        "device:s?",
        "[device]",
        "serve gdb on 'device' (tcp::1234), or no longer ('none')",
        gdb_server,
    ),
    command("device_add", "device:O", "driver[,prop=value][,...]", "add a device", device_add),
];

/// `device_add`: what `-device` takes, `help` as well.
fn device_add(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let device = arguments.required("device");
    let help = human.control.device_source().help;
    if matches!(device, "help" | "?") {
        return help(None).unwrap_or_default().into();
    }
    if let Some(model) = device.strip_suffix(",help").or_else(|| device.strip_suffix(",?")) {
        let unknown = || format!("Device '{model}' not found\n");
        return help(Some(model)).unwrap_or_else(unknown).into();
    }
    match keyval::parse(device, &Grammar::implied("driver").with_shorthand()) {
        Ok(parsed) => call_quietly("device_add", parsed.map),
        Err(error) => format!("Error: {}\n", error.desc).into(),
    }
}

/// `gdbserver [DEVICE]`
fn gdb_server(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let device = arguments.text("device").unwrap_or(gdb::DEFAULT_DEVICE).to_owned();
    let wanted = gdb::device(&device);
    gdb::end(human.control);
    let (line, spec) = match wanted {
        Ok(Legacy::Nothing) => return "Disabled gdbserver\n".to_owned().into(),
        Ok(Legacy::Existing(id)) => (gdb::Line::Existing(id), None),
        Ok(Legacy::New(spec)) => (gdb::Line::Own(spec.id.clone()), Some(spec)),
        Err(error) => return format!("{error}\nCould not open gdbserver on device '{device}'\n").into(),
    };
    let (chardevs, inbox) = (Arc::clone(human.control.chardevs()), Arc::clone(human.control.inbox()));
    // Opening may wait for names and connections.
    Outcome::Aside(Box::new(move || {
        let opened = spec.map_or(Ok(()), |spec| chardevs.add(&spec)).map_err(|error| error.to_string());
        let served = opened.and_then(|()| {
            let (tell, told) = std::sync::mpsc::channel();
            inbox.request(Box::new(move |control| {
                let served = gdb::serve(control, &line);
                if let (Err(_), gdb::Line::Own(id)) = (&served, &line) {
                    // It was opened for this.
                    let _gone = control.chardevs().remove(id);
                }
                // The receiver waits below.
                let _ = tell.send(served);
            }));
            told.recv().unwrap_or_else(|_| Err("the program ends".into()))
        });
        match served {
            Ok(()) => format!("Waiting for gdb connection on device '{device}'\n"),
            Err(error) => format!("{error}\nCould not open gdbserver on device '{device}'\n"),
        }
    }))
}

/// Opening may wait for names and connections.
fn with_chardev(
    human: &Human<'_>,
    spec: Result<chardev::ChardevSpec, chardev::Error>,
    act: fn(&chardev::Chardevs, &chardev::ChardevSpec) -> Result<(), chardev::Error>,
) -> Outcome {
    let chardevs = Arc::clone(human.control.chardevs());
    Outcome::Aside(Box::new(move || match spec.and_then(|spec| act(&chardevs, &spec)) {
        Ok(()) => String::new(),
        Err(error) => format!("Error: {error}\n"),
    }))
}

fn send_key(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    const HOLD: i64 = 100;
    let mut keys = Vec::new();
    let text = arguments.required("keys");
    // A minus sign alone is a key, too.
    for name in text.split('-').map(|name| if name == "<" { "less" } else { name }) {
        let number = name.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match number.map_or_else(|| Key::named(name), Key::numbered) {
            Some(key) => keys.push(key),
            None => return format!("invalid parameter: {name}\n").into(),
        }
    }
    if can_hear(human.control.states().current()) {
        let hold = arguments.number("hold-time").filter(|time| *time > 0).unwrap_or(HOLD);
        human.control.machine().key_queue().press(&keys, hold.cast_unsigned().saturating_mul(1_000_000));
    }
    silent()
}

fn mouse_move(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let number = |name| arguments.text(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let hub = human.control.machine().input();
    hub.send(&Event::Relative { axis: Axis::X, by: number("dx_str") }, None);
    hub.send(&Event::Relative { axis: Axis::Y, by: number("dy_str") }, None);
    let wheel = number("dz_str");
    if wheel != 0 {
        let button = if wheel > 0 { Button::WheelUp } else { Button::WheelDown };
        hub.send(&Event::Button { button, is_down: true }, None);
        hub.sync();
        hub.send(&Event::Button { button, is_down: false }, None);
    }
    hub.sync();
    silent()
}

#[cfg(test)]
mod tests {
    use crate::human::info::each;
    use crate::human::text;

    #[test]
    fn lists_are_shown_element_by_element() {
        let list = qapi::json::parse(r#"[{"a": "x"}, {"a": 3}]"#).expect("JSON");
        assert_eq!(each(&list, |one| text(one, "a") + ";"), "x;3;");
    }
}
