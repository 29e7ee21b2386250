//! `info virtio` and its like: what `x-query-virtio` and its like tell, as lines.

use std::fmt::Write as _;

use ::hmp::Arguments;
use qapi::json::Value;

use super::info::each;
use super::{Command, Human, Outcome, command, given, shown, text};

// Strings take everything: results of `write!` are not looked at.

/// The topics.
pub const TOPICS: &[Command] = &[
    command("virtio", "", "", "show the virtio devices", |_, _| {
        shown("x-query-virtio", [], |devices| {
            let lines = each(devices, |one| format!("{} [{}]\n", text(one, "path"), text(one, "name")));
            if lines.is_empty() { "No VirtIO devices\n".into() } else { lines }
        })
    }),
    command("virtio-status", "path:s", "path", "show what a virtio device is like inside", |_, arguments| {
        let path = arguments.required("path").to_owned();
        shown("x-query-virtio-status", [("path", path.as_str().into())], move |status| device(&path, status))
    }),
    command(
        "virtio-queue-status",
        "path:s,queue:i",
        "path queue",
        "show what a queue of a virtio device is like inside",
        |_: &mut Human<'_>, arguments| {
            let path = arguments.required("path").to_owned();
            let wanted = [("path", path.as_str().into()), ("queue", short(arguments, "queue").into())];
            shown("x-query-virtio-queue-status", wanted, move |status| queue(&path, status))
        },
    ),
    command(
        "virtio-queue-element",
        "path:s,queue:i,index:i?",
        "path queue [index]",
        "show an element of a queue: the next one, or that at an index",
        element,
    ),
];

/// A number of which only 16 bits count.
fn short(arguments: &Arguments, name: &str) -> i64 {
    arguments.number(name).unwrap_or(0) & 0xffff
}

fn number(value: &Value, name: &str) -> u64 {
    match value.get(name) {
        Some(Value::Uint(number)) => *number,
        Some(other) => other.as_i64().unwrap_or(0).cast_unsigned(),
        None => 0,
    }
}

fn strings<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    let list = value.get(name).and_then(Value::as_array).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// Names of bits, a line each.
fn lines(names: &[&str]) -> String {
    let all: Vec<String> = names.iter().map(|name| format!("\t{name}")).collect();
    format!("{}\n", all.join(",\n"))
}

/// `info virtio-status`
fn device(path: &str, status: &Value) -> String {
    let mut shown = format!("{path}:\n");
    let _ = writeln!(shown, "  {:<25}{} ", "device_name:", text(status, "name"));
    let bus = text(status, "bus-name");
    for (label, value) in [
        ("device_id:", text(status, "device-id")),
        ("vhost_started:", text(status, "vhost-started")),
        ("bus_name:", if bus.is_empty() { "(null)".to_owned() } else { bus }),
        ("broken:", text(status, "broken")),
        ("disabled:", text(status, "disabled")),
        ("disable_legacy_check:", text(status, "disable-legacy-check")),
        ("started:", text(status, "started")),
        ("use_started:", text(status, "use-started")),
        ("start_on_kick:", text(status, "start-on-kick")),
        ("use_guest_notifier_mask:", text(status, "use-guest-notifier-mask")),
        ("vm_running:", text(status, "vm-running")),
        ("num_vqs:", text(status, "num-vqs")),
        ("queue_sel:", text(status, "queue-sel")),
        ("isr:", text(status, "isr")),
        ("endianness:", text(status, "device-endian")),
    ] {
        let _ = writeln!(shown, "  {label:<25}{value}");
    }
    let bits = status.get("status").unwrap_or(&Value::Null);
    let _ = write!(shown, "  status:\n{}", lines(&strings(bits, "statuses")));
    if bits.get("unknown-statuses").is_some() {
        let _ = writeln!(shown, "  unknown-statuses(0x{:016x})", number(bits, "unknown-statuses"));
    }
    for (label, name) in [("Guest", "guest-features"), ("Host", "host-features"), ("Backend", "backend-features")] {
        let bits = status.get(name).unwrap_or(&Value::Null);
        let _ = write!(shown, "  {label} features:\n{}", lines(&strings(bits, "transports")));
        let of_device = strings(bits, "dev-features");
        if !of_device.is_empty() {
            shown += &lines(&of_device);
        }
        if bits.get("unknown-dev-features").is_some() {
            let _ = writeln!(shown, "  unknown-features(0x{:016x})", number(bits, "unknown-dev-features"));
        }
    }
    shown
}

/// `info virtio-queue-status`
fn queue(path: &str, status: &Value) -> String {
    let mut shown = format!("{path}:\n");
    for (label, name) in [
        ("device_name:", "name"),
        ("queue_index:", "queue-index"),
        ("inuse:", "inuse"),
        ("used_idx:", "used-idx"),
        ("signalled_used:", "signalled-used"),
        ("signalled_used_valid:", "signalled-used-valid"),
        ("last_avail_idx:", "last-avail-idx"),
        ("shadow_avail_idx:", "shadow-avail-idx"),
    ] {
        let _ = writeln!(shown, "  {label:<22}{}", text(status, name));
    }
    shown += "  VRing:\n";
    for (label, name) in [("num:", "vring-num"), ("num_default:", "vring-num-default"), ("align:", "vring-align")] {
        let _ = writeln!(shown, "    {label:<14}{}", text(status, name));
    }
    for (label, name) in [("desc:", "vring-desc"), ("avail:", "vring-avail"), ("used:", "vring-used")] {
        let _ = writeln!(shown, "    {label:<14}0x{:016x}", number(status, name));
    }
    shown
}

/// `info virtio-queue-element`
fn element(_: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let path = arguments.required("path").to_owned();
    let index = arguments.number("index").map(|_| short(arguments, "index").into());
    let wanted = given([
        ("path", Some(path.as_str().into())),
        ("queue", Some(short(arguments, "queue").into())),
        ("index", index),
    ]);
    shown("x-query-virtio-queue-element", wanted, move |element| {
        let descriptors = element.get("descs").and_then(Value::as_array).unwrap_or_default().iter().map(|one| {
            // As the number that QEMU shows: a length of more than 2 GiB is negative.
            let len = number(one, "len") as i32;
            let flags = strings(one, "flags").join(", ");
            let flags = if flags.is_empty() { flags } else { format!(" ({flags})") };
            format!("        addr {:#x} len {len}{flags}", number(one, "addr"))
        });
        let descriptors: Vec<String> = descriptors.collect();
        let of = |area: &str, name: &str| element.get(area).map_or(0, |area| number(area, name));
        format!(
            "{path}:\n  device_name: {}\n  index:   {}\n  desc:\n    descs:\n{}\n  avail:\n    flags: {}\n    \
             idx:   {}\n    ring:  {}\n  used:\n    flags: {}\n    idx:   {}\n",
            text(element, "name"),
            number(element, "index"),
            descriptors.join(",\n"),
            of("avail", "flags"),
            of("avail", "idx"),
            of("avail", "ring"),
            of("used", "flags"),
            of("used", "idx"),
        )
    })
}
