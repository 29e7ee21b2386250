//! The topics of `info`.

use std::fmt::Write as _;

use ::hmp::Arguments;
use qapi::json::Value;
use qapi::run_state::RunState;

use super::{
    Command, Human, Outcome, block, command, lapic, machine, memory, readable, shown, silent, snapshots, stats, text,
};
use crate::log;

/// The topics.
pub const COMMANDS: &[Command] = &[
    command("version", "", "", "show the version", |_, _| {
        format!("{}{}\n", crate::version::EMULATED, crate::version::package()).into()
    }),
    command("block", "nodes:-n,verbose:-v,device:B?", "[-n] [-v] [device]", "show disks and drives", block::info),
    command("blockstats", "", "", "show what disks have done", block::statistics),
    command("block-jobs", "", "", "show jobs on disks", block::jobs),
    command("chardev", "", "", "show character devices", |_, _| {
        shown("query-chardev", [], |list| {
            each(list, |one| format!("{}: filename={}\n", text(one, "label"), text(one, "filename")))
        })
    }),
    command("cpus", "", "", "show the CPUs and their host threads", |human, _| {
        let current = human.cpu() as i64;
        shown("query-cpus-fast", [], move |list| {
            each(list, |one| {
                let index = one.get("cpu-index").and_then(Value::as_i64).unwrap_or(0);
                let mark = if index == current { '*' } else { ' ' };
                format!("{mark} CPU #{index}: thread_id={}\n", text(one, "thread-id"))
            })
        })
    }),
    command("registers", "cpustate_all:-a,vcpu:i?", "[-a|vcpu]", "show the CPUs' registers", memory::info_registers),
    command("tlb", "", "", "show which pages are mapped where", memory::info_tlb),
    command("mem", "", "", "show which ranges are mapped, with their rights", memory::info_mem),
    command("kvm", "", "", "show whether KVM is in use", |human, _| {
        let is_used = human.control.machine().accelerator().name() == "kvm";
        format!("kvm support: {}\n", if is_used { "enabled" } else { "disabled" }).into()
    }),
    command(
        "stats",
        "target:s,names:s?,provider:s?",
        "target [names] [provider]",
        "show what the host's kernel counts of the machine ('vm') or the CPU ('vcpu'): these names or all ('*')",
        stats::info,
    ),
    command("history", "", "", "show the lines that were typed", |_, _| {
        // A monitor with somebody who types answers itself.
        silent()
    }),
    command("status", "", "", "show whether the machine runs", |human, _| {
        let step = if human.control.snapshot().is_singlestep() { " (single step mode)" } else { "" };
        match human.control.states().current() {
            RunState::Running => format!("VM status: running{step}\n"),
            RunState::Paused => format!("VM status: paused{step}\n"),
            other => format!("VM status: paused{step} ({})\n", qapi::schema::Enumeration::name(other)),
        }
        .into()
    }),
    command("mtree", "flatview:-f", "[-f]", "show what memory and I/O ports consist of", machine::mtree),
    command("pic", "", "", "show the interrupt controllers", machine::pic),
    command("lapic", "apic-id:i?", "[apic-id]", "show a local APIC", lapic::info),
    command("irq", "", "", "show how often interrupt inputs have risen", |_, _| as_text("x-query-irq")),
    command("usb", "", "", "show the devices on USB buses", |_, _| as_text("x-query-usb")),
    command("ramblock", "", "", "show blocks of memory", |_, _| as_text("x-query-ramblock")),
    command("roms", "", "", "show read-only memory", |_, _| as_text("x-query-roms")),
    command("vnc", "", "", "show the VNC servers and their clients", |_, _| {
        shown("query-vnc-servers", [], machine::vnc)
    }),
    command("spice", "", "", "show the SPICE server and its clients", |_, _| shown("query-spice", [], machine::spice)),
    command("name", "", "", "show the machine's name", |_, _| {
        shown("query-name", [], |name| {
            name.get("name").and_then(Value::as_str).map(|name| format!("{name}\n")).unwrap_or_default()
        })
    }),
    command("uuid", "", "", "show the machine's UUID", |_, _| {
        shown("query-uuid", [], |uuid| format!("{}\n", text(uuid, "UUID")))
    }),
    command("vm-generation-id", "", "", "show the machine's generation", |_, _| {
        shown("query-vm-generation-id", [], |info| format!("{}\n", text(info, "guid")))
    }),
    command("mice", "", "", "show which mouse gets events", |_, _| {
        shown("query-mice", [], |list| {
            let shown = each(list, |one| {
                let mark = if text(one, "current") == "true" { '*' } else { ' ' };
                let absolute = if text(one, "absolute") == "true" { " (absolute)" } else { "" };
                format!("{mark} Mouse #{}: {}{absolute}\n", text(one, "index"), text(one, "name"))
            });
            if shown.is_empty() { "No mouse devices connected\n".into() } else { shown }
        })
    }),
    command("pci", "", "", "show PCI devices", pci),
    command("numa", "", "", "show NUMA nodes", |_, _| as_text("x-query-numa")),
    command("iothreads", "", "", "show I/O threads", |_, _| {
        shown("query-iothreads", [], |list| {
            each(list, |one| {
                let mut shown = format!("{}:\n", text(one, "id"));
                for (label, name) in [
                    ("thread_id", "thread-id"),
                    ("poll-max-ns", "poll-max-ns"),
                    ("poll-grow", "poll-grow"),
                    ("poll-shrink", "poll-shrink"),
                    ("aio-max-batch", "aio-max-batch"),
                ] {
                    let _ = writeln!(shown, "  {label}={}", text(one, name));
                }
                shown
            })
        })
    }),
    command("memdev", "", "", "show memory back ends", |_, _| shown("query-memdev", [], memdev)),
    command("memory_size_summary", "", "", "show how much memory there is", |_, _| {
        shown("query-memory-size-summary", [], |size| {
            let mut shown = format!("base memory: {}\n", text(size, "base-memory"));
            if size.get("plugged-memory").is_some() {
                let _ = writeln!(shown, "plugged memory: {}", text(size, "plugged-memory"));
            }
            shown
        })
    }),
    command("hotpluggable-cpus", "", "", "show places for CPUs", |_, _| shown("query-hotpluggable-cpus", [], slots)),
    command("jit", "", "", "show what the translator has done", |_, _| as_text("x-query-jit")),
    command("trace-events", "name:s?", "[name]", "show trace events, and whether they are on", |_, arguments| {
        let pattern = arguments.text("name").unwrap_or("*");
        match log::events(pattern) {
            Ok(events) => {
                let line =
                    |event: &log::TraceEvent| format!("{} : state {}\n", event.name, u8::from(event.is_enabled()));
                events.into_iter().map(line).collect::<String>().into()
            }
            Err(message) => format!("{message}\n").into(),
        }
    }),
    command("snapshots", "", "", "show the snapshots inside of disks' images", snapshots::info),
    command("qtree", "", "", "show the devices by their buses", |human, _| {
        readable::qtree(human.control.machine()).into()
    }),
    command("qdm", "", "", "show the device models that there are", |human, _| {
        (human.control.device_source().help)(None).unwrap_or_default().into()
    }),
    command("qom-tree", "path:s?", "[path]", "show the tree of objects", qom_tree),
];

/// The elements of a list, each as text.
pub fn each(list: &Value, show: impl Fn(&Value) -> String) -> String {
    list.as_array().unwrap_or_default().iter().map(show).collect()
}

/// A QMP command that answers with the text itself.
fn as_text(name: &'static str) -> Outcome {
    shown(name, [], |info| text(info, "human-readable-text"))
}

fn memdev(list: &Value) -> String {
    let mut shown = each(list, |one| {
        let mut shown = String::new();
        if one.get("id").is_some() {
            let _ = writeln!(shown, "memory backend: {}", text(one, "id"));
        }
        for name in ["size", "merge", "dump", "prealloc", "share", "reserve", "policy"] {
            if one.get(name).is_some() {
                let _ = writeln!(shown, "  {name}:  {}", text(one, name));
            }
        }
        let nodes = one.get("host-nodes").and_then(Value::as_array).unwrap_or_default();
        let nodes: Vec<String> = nodes.iter().filter_map(Value::as_i64).map(|node| node.to_string()).collect();
        let _ = writeln!(shown, "  host nodes: {}", nodes.join(","));
        shown
    });
    // Two blanks after `size:` only.
    for name in ["merge", "dump", "prealloc", "share", "reserve", "policy"] {
        shown = shown.replace(&format!("  {name}:  "), &format!("  {name}: "));
    }
    shown.push('\n');
    shown
}

fn slots(list: &Value) -> String {
    let mut shown = "Hotpluggable CPUs:\n".to_owned();
    shown += &each(list, |one| {
        let mut shown = format!("  type: \"{}\"\n  vcpus_count: \"{}\"\n", text(one, "type"), text(one, "vcpus-count"));
        if one.get("qom-path").is_some() {
            let _ = writeln!(shown, "  qom_path: \"{}\"", text(one, "qom-path"));
        }
        shown.push_str("  CPUInstance Properties:\n");
        for name in ["node-id", "socket-id", "die-id", "cluster-id", "core-id", "thread-id"] {
            if let Some(value) = one.get("props").filter(|props| props.get(name).is_some()) {
                let _ = writeln!(shown, "    {name}: \"{}\"", text(value, name));
            }
        }
        shown
    });
    shown
}

fn pci(_: &mut Human<'_>, _: &Arguments) -> Outcome {
    shown("query-pci", [], |buses| each(buses, |bus| devices(bus.get("devices"))))
}

fn devices(list: Option<&Value>) -> String {
    list.map(|list| each(list, device)).unwrap_or_default()
}

fn device(one: &Value) -> String {
    let number = |value: Option<&Value>, name: &str| value.and_then(|value| value.get(name)).and_then(Value::as_i64);
    let (class, id) = (one.get("class_info"), one.get("id"));
    let mut shown = format!(
        "  Bus {:>2}, device {:>3}, function {}:\n",
        text(one, "bus"),
        text(one, "slot"),
        text(one, "function")
    );
    match class.and_then(|class| class.get("desc")).and_then(Value::as_str) {
        Some(name) => _ = write!(shown, "    {name}"),
        None => _ = write!(shown, "    Class {:04}", number(class, "class").unwrap_or(0)),
    }
    let hex = |name| number(id, name).unwrap_or(0);
    let _ = writeln!(shown, ": PCI device {:04x}:{:04x}", hex("vendor"), hex("device"));
    if let (Some(vendor), Some(device)) = (number(id, "subsystem-vendor"), number(id, "subsystem")) {
        let _ = writeln!(shown, "      PCI subsystem {vendor:04x}:{device:04x}");
    }
    if let Some(irq) = number(Some(one), "irq") {
        let pin = u32::try_from(number(Some(one), "irq_pin").unwrap_or(0)).unwrap_or(0);
        let pin = char::from_u32(u32::from(b'A') + pin.saturating_sub(1)).unwrap_or('?');
        let _ = writeln!(shown, "      IRQ {irq}, pin {pin}");
    }
    let bridge = one.get("pci_bridge");
    if let Some(bus) = bridge.and_then(|bridge| bridge.get("bus")) {
        let all = Some(bus);
        let _ = writeln!(shown, "      BUS {}.", number(all, "number").unwrap_or(0));
        let _ = writeln!(shown, "      secondary bus {}.", number(all, "secondary").unwrap_or(0));
        let _ = writeln!(shown, "      subordinate bus {}.", number(all, "subordinate").unwrap_or(0));
        for (label, name) in [
            ("IO range", "io_range"),
            ("memory range", "memory_range"),
            ("prefetchable memory range", "prefetchable_range"),
        ] {
            let range = bus.get(name);
            let end = |side| number(range, side).unwrap_or(0);
            let width = if name == "io_range" { 4 } else { 8 };
            let _ = writeln!(shown, "      {label} [0x{:0width$x}, 0x{:0width$x}]", end("base"), end("limit"));
        }
    }
    for region in one.get("regions").and_then(Value::as_array).unwrap_or_default() {
        let all = Some(region);
        let (bar, address) = (number(all, "bar").unwrap_or(0), number(all, "address").unwrap_or(0));
        let end = address.wrapping_add(number(all, "size").unwrap_or(0)).wrapping_sub(1);
        if text(region, "type") == "io" {
            let _ = writeln!(shown, "      BAR{bar}: I/O at 0x{address:04x} [0x{end:04x}].");
        } else {
            let bits = if text(region, "mem_type_64") == "true" { 64 } else { 32 };
            let prefetch = if text(region, "prefetch") == "true" { " prefetchable" } else { "" };
            let _ = writeln!(shown, "      BAR{bar}: {bits} bit{prefetch} memory at 0x{address:08x} [0x{end:08x}].");
        }
    }
    let _ = writeln!(shown, "      id \"{}\"", text(one, "qdev_id"));
    shown + &devices(bridge.and_then(|bridge| bridge.get("devices")))
}

fn qom_tree(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let path = arguments.text("path").unwrap_or("/");
    let tree = human.control.machine().objects();
    let Ok(root) = tree.resolve(path) else {
        return format!("Path '{path}' could not be resolved.\n").into();
    };
    let mut shown = String::new();
    walk(tree, root, path.rsplit('/').next().unwrap_or_default(), 0, &mut shown);
    shown.into()
}

fn walk(tree: &object::ObjectTree, object: object::ObjectId, name: &str, depth: usize, shown: &mut String) {
    let kind = tree.type_name(object).unwrap_or_default();
    let _ = writeln!(shown, "{:indent$}/{name} ({kind})", "", indent = depth * 2);
    let mut children: Vec<_> = tree.children(object).collect();
    children.sort_by_key(|(name, _)| *name);
    for (name, child) in children {
        walk(tree, child, name, depth + 1, shown);
    }
}
