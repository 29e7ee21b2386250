//! Disks: what they are, and what is done to them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use ::hmp::Arguments;
use block::gate::Gate;
use block::{Backend, Graph, Node, Permissions};
use block_commands::{Output, Session};
use qapi::Members as _;
use qapi::block::options::BlockdevOptions;
use qapi::json::Value;
use qapi::keyval::{Grammar, from_keyval};
use qapi::objects::ObjectAdd;

use super::info::each;
use super::{Command, Human, Outcome, call, call_quietly, command, given, shown, silent, text};
use crate::storage::StorageOwner as _;

/// The commands.
pub const COMMANDS: &[Command] = &[
    command(
        "qemu-io",
        "qdev:-d,device:B,command:s",
        "[-d] [device] \"[command]\"",
        "run a command of qemu-io on a disk",
        qemu_io,
    ),
    command(
        "drive_add",
        "node:-n,pci_addr:s,opts:s",
        "[-n] [[<domain>:]<bus>:]<slot> [file=file][,if=type][,bus=n][,unit=m][,media=d][,index=i][,snapshot=on|off]\
         [,cache=...][,readonly=on|off][,copy-on-read=on|off]",
        "add a drive for a device that comes later",
        drive_add,
    ),
    command("drive_del", "id:B", "device", "remove a drive, even under its device", |human, arguments| {
        match human.control.storage().delete_drive(arguments.required("id")) {
            Ok(()) => silent(),
            Err(error) => format!("Error: {}\n", error.desc).into(),
        }
    }),
    command(
        "commit",
        "device:B",
        "device|all",
        "write what a disk's image holds into its backing file, and empty it",
        |human, arguments| match human.control.storage().plan_commit(arguments.required("device")) {
            Ok(commit) => Outcome::Aside(Box::new(move || match commit.run() {
                Ok(()) => String::new(),
                Err(message) => format!("{message}\n"),
            })),
            Err(message) => format!("{message}\n").into(),
        },
    ),
    command("block_resize", "device:B,size:o", "device size", "change a disk's size", |_, arguments| {
        let size = arguments.number("size").unwrap_or(0);
        call("block_resize", [device(arguments), ("size", size.into())])
    }),
    command("eject", "force:-f,device:B", "[-f] device", "eject a medium", |_, arguments| {
        let force = arguments.flag("force");
        call("eject", [device(arguments), ("force", force.into())])
    }),
    command(
        "change",
        "device:B,force:-f,target:F,arg:s?,read-only-mode:s?",
        "device [-f] filename [format [read-only-mode]]",
        "change a removable medium",
        |_, arguments| {
            call(
                "blockdev-change-medium",
                given([
                    ("device", Some(arguments.required("device").into())),
                    ("filename", Some(arguments.required("target").into())),
                    ("format", arguments.text("arg").map(Value::from)),
                    ("force", arguments.flag("force").then(|| true.into())),
                    ("read-only-mode", arguments.text("read-only-mode").map(Value::from)),
                ]),
            )
        },
    ),
    command(
        "block_set_io_throttle",
        "device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l",
        "device bps bps_rd bps_wr iops iops_rd iops_wr",
        "limit how fast a disk is",
        |_, arguments| {
            let number = |name| arguments.number(name).unwrap_or(0).into();
            call(
                "block_set_io_throttle",
                [
                    device(arguments),
                    ("bps", number("bps")),
                    ("bps_rd", number("bps_rd")),
                    ("bps_wr", number("bps_wr")),
                    ("iops", number("iops")),
                    ("iops_rd", number("iops_rd")),
                    ("iops_wr", number("iops_wr")),
                ],
            )
        },
    ),
    command("object_del", "id:s", "id", "remove an object", |_, arguments| {
        call("object-del", [("id", arguments.required("id").into())])
    }),
    command("object_add", "object:S", "[qom-type=]type,id=str[,prop=value][,...]", "add an object", |_, arguments| {
        // Read as the schema has it, so that sizes and numbers may be written as on the command line.
        match from_keyval::<ObjectAdd>(arguments.required("object"), &Grammar::implied("qom-type")) {
            Ok(object) => call_quietly("object-add", object.to_map()),
            Err(error) => format!("Error: {}\n", error.desc).into(),
        }
    }),
    command(
        "block_stream",
        "device:B,speed:o?,base:s?",
        "device [speed [base]]",
        "copy data from a backing file into a disk",
        |_, arguments| {
            call(
                "block-stream",
                given([
                    ("device", Some(arguments.required("device").into())),
                    ("base", arguments.text("base").map(Value::from)),
                    ("speed", arguments.number("speed").map(Value::from)),
                    ("on-error", Some("report".into())),
                ]),
            )
        },
    ),
    command("block_job_set_speed", "device:B,speed:o", "device speed", "limit a job's speed", |_, arguments| {
        let speed = arguments.number("speed").unwrap_or(0);
        call("block-job-set-speed", [device(arguments), ("speed", speed.into())])
    }),
    command("block_job_cancel", "force:-f,device:B", "[-f] device", "end a job early", |_, arguments| {
        let force = arguments.flag("force");
        call("block-job-cancel", [device(arguments), ("force", force.into())])
    }),
    command("block_job_complete", "device:B", "device", "let a job end", |_, arguments| {
        call("block-job-complete", [device(arguments)])
    }),
    command("block_job_pause", "device:B", "device", "pause a job", |_, arguments| {
        call("block-job-pause", [device(arguments)])
    }),
    command("block_job_resume", "device:B", "device", "let a paused job go on", |_, arguments| {
        call("block-job-resume", [device(arguments)])
    }),
    command(
        "snapshot_blkdev",
        "reuse:-n,device:B,snapshot-file:s?,format:s?",
        "[-n] device [new-image-file] [format]",
        "put an overlay on a disk",
        |_, arguments| {
            let Some(file) = arguments.text("snapshot-file") else {
                return "Error: Parameter 'snapshot-file' is missing\n".to_owned().into();
            };
            call(
                "blockdev-snapshot-sync",
                given([
                    ("device", Some(arguments.required("device").into())),
                    ("snapshot-file", Some(file.into())),
                    ("format", arguments.text("format").map(Value::from)),
                    ("mode", arguments.flag("reuse").then(|| "existing".into())),
                ]),
            )
        },
    ),
    command(
        "drive_mirror",
        "reuse:-n,full:-f,device:B,target:s,format:s?",
        "[-n] [-f] device target [format]",
        "copy a disk and what is written to it",
        |_, arguments| call("drive-mirror", given(copy(arguments))),
    ),
    command(
        "drive_backup",
        "reuse:-n,full:-f,compress:-c,device:B,target:s,format:s?",
        "[-n] [-f] [-c] device target [format]",
        "copy a disk as it is now",
        |_, arguments| {
            let compress = arguments.flag("compress").then(|| ("compress", true.into()));
            call("drive-backup", given(copy(arguments)).into_iter().chain(compress))
        },
    ),
];

/// Adds a drive, or a node alone.
fn drive_add(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let options = arguments.required("opts");
    if !arguments.flag("node") {
        return match human.control.add_drive(options) {
            Ok(()) => "OK\n".to_owned().into(),
            Err(message) => format!("{message}\n").into(),
        };
    }
    match from_keyval::<BlockdevOptions>(options, &Grammar::strict()) {
        Ok(node) if node.node_name.is_none() => "Error: 'node-name' needs to be specified\n".to_owned().into(),
        Ok(node) => call_quietly("blockdev-add", node.to_map()),
        Err(error) => format!("Error: {}\n", error.desc).into(),
    }
}

/// The disk or the job that a command means.
fn device(arguments: &Arguments) -> (&'static str, Value) {
    ("device", arguments.required("device").into())
}

/// What both commands that copy a disk are told.
fn copy(arguments: &Arguments) -> [(&'static str, Option<Value>); 5] {
    [
        ("device", Some(arguments.required("device").into())),
        ("target", Some(arguments.required("target").into())),
        ("format", arguments.text("format").map(Value::from)),
        ("sync", Some(if arguments.flag("full") { "full" } else { "top" }.into())),
        ("mode", arguments.flag("reuse").then(|| "existing".into())),
    ]
}

/// Where the commands of `qemu-io` print: on the program's own output, as in QEMU; errors go to the monitor.
struct Standard(std::sync::mpsc::Sender<Said>);

/// What a command of `qemu-io` tells the monitor.
enum Said {
    Text(String),
    Done,
}

impl Output for Standard {
    fn print(&mut self, text: &str) {
        // Nobody may be reading any more.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }

    fn complain(&mut self, text: &str) {
        // The monitor has gone on if the request outlived its command.
        if let Err(unheard) = self.0.send(Said::Text(text.to_owned()))
            && let Said::Text(text) = unheard.0
        {
            eprint!("{text}");
        }
    }
}

fn qemu_io(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let graph = Arc::clone(human.control.storage_graph());
    let name = arguments.required("device");
    let by_device = arguments.flag("qdev");
    let found = graph.backends().into_iter().find(|backend: &Arc<Backend>| {
        if by_device {
            backend.holder() == name
                || backend
                    .device()
                    .is_some_and(|device| device.id().as_deref() == Some(name) || device.qom_path() == name)
        } else {
            backend.name() == name
        }
    });
    let user = match found {
        Some(backend) if backend.node().is_none() => {
            return format!("Error: Device '{name}' has no medium\n").into();
        }
        Some(backend) => User::Disk(backend),
        None => match graph.lookup(name) {
            Some(node) if !by_device => User::Node(node),
            _ if by_device => return format!("Error: Device '{name}' not found\n").into(),
            _ => return format!("Error: Cannot find device='' nor node-name='{name}'\n").into(),
        },
    };
    let line = arguments.required("command").to_owned();
    let reactor = human.control.storage_reactor();
    Outcome::Aside(Box::new(move || {
        let (tell, told) = std::sync::mpsc::channel();
        reactor.spawn(run_qemu_io(graph, user, line, tell));
        let mut text = String::new();
        while let Ok(Said::Text(more)) = told.recv() {
            text.push_str(&more);
        }
        text
    }))
}

/// Whose requests those of `qemu-io` are.
enum User {
    /// A disk's.
    Disk(Arc<Backend>),
    /// Its own, on a node.
    Node(Arc<Node>),
}

async fn run_qemu_io(graph: Arc<Graph>, user: User, line: String, tell: std::sync::mpsc::Sender<Said>) {
    let output = Box::new(Standard(tell.clone()));
    match user {
        User::Disk(disk) => {
            let Some(mut session) = Session::on_disk(graph, &disk, "", output) else { return };
            session.run(&line).await;
            // Requests that were only started go on behind the command.
            let _ = tell.send(Said::Done);
            session.drain().await;
        }
        User::Node(node) => {
            let gate = Arc::new(Gate::new());
            let attached = graph.attach_user(&node, "qemu-io", &gate, Permissions::NONE, Permissions::ALL);
            match attached {
                Ok(child) => {
                    let mut session = Session::on(Arc::clone(&graph), Arc::clone(&child), "", output);
                    session.set_gate(gate);
                    session.run(&line).await;
                    session.drain().await;
                    drop(session);
                    // The node has other users.
                    let _ = graph.detach(&child).await;
                }
                Err(error) => {
                    let _ = tell.send(Said::Text(format!("Error: {error}\n")));
                }
            }
            let _ = tell.send(Said::Done);
        }
    }
}

/// `info block`
pub fn info(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let verbose = arguments.flag("verbose");
    let wanted = arguments.text("device").map(str::to_owned);
    let backends = human.control.storage_graph().backends();
    // What is no back end may be a node.
    let is_node = wanted.as_ref().is_some_and(|name| !backends.iter().any(|backend| backend.name() == name));
    if arguments.flag("nodes") || is_node {
        return shown("query-named-block-nodes", [], move |list| {
            let is_it = |one: &&Value| wanted.as_ref().is_none_or(|name| text(one, "node-name") == *name);
            let list = list.as_array().unwrap_or_default().iter().filter(is_it);
            list.map(|one| inserted(&text(one, "node-name"), None, Some(one), verbose)).collect::<Vec<_>>().join("\n")
        });
    }
    shown("query-block", [], move |list| {
        let is_it = |one: &&Value| wanted.as_ref().is_none_or(|name| text(one, "device") == *name);
        let list = list.as_array().unwrap_or_default().iter().filter(is_it);
        list.map(|one| inserted(&text(one, "device"), Some(one), one.get("inserted"), verbose))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn inserted(name: &str, device: Option<&Value>, medium: Option<&Value>, verbose: bool) -> String {
    let node = medium.map(|medium| text(medium, "node-name")).filter(|node| !node.is_empty());
    // A disk without a name goes by its node or its device.
    let mut shown = match (name, &node, device.filter(|device| device.get("qdev").is_some())) {
        ("", Some(node), _) => node.clone(),
        ("", None, Some(device)) => text(device, "qdev"),
        ("", None, None) => "<anonymous>".to_owned(),
        (name, Some(node), _) if device.is_some() => format!("{name} ({node})"),
        (name, ..) => name.to_owned(),
    };
    let Some(medium) = medium else {
        shown.push_str(": [not inserted]\n");
        return shown + &attached(device);
    };
    let flag = |value: &Value, name: &str| text(value, name) == "true";
    let _ = writeln!(
        shown,
        ": {} ({}{}{})",
        text(medium, "file"),
        text(medium, "drv"),
        if flag(medium, "ro") { ", read-only" } else { "" },
        if flag(medium, "encrypted") { ", encrypted" } else { "" }
    );
    shown += &attached(device);
    let cache = medium.get("cache");
    let on = |name: &str| cache.is_some_and(|cache| flag(cache, name));
    let _ = writeln!(
        shown,
        "    Cache mode:       {}{}{}",
        if on("writeback") { "writeback" } else { "writethrough" },
        if on("direct") { ", direct" } else { "" },
        if on("no-flush") { ", ignore flushes" } else { "" }
    );
    if medium.get("backing_file").is_some() {
        let depth = text(medium, "backing_file_depth");
        let _ = writeln!(shown, "    Backing file:     {} (chain depth: {depth})", text(medium, "backing_file"));
    }
    if text(medium, "detect_zeroes") != "off" && medium.get("detect_zeroes").is_some() {
        let _ = writeln!(shown, "    Detect zeroes:    {}", text(medium, "detect_zeroes"));
    }
    let limits = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    if limits.iter().any(|name| medium.get(name).and_then(Value::as_i64).unwrap_or(0) != 0) {
        shown.push_str("    I/O throttling:  ");
        for name in limits {
            let _ = write!(shown, " {name}={}", text(medium, name));
        }
        shown.push('\n');
    }
    if let Some(image) = medium.get("image").filter(|_| verbose) {
        let size = image.get("virtual-size").and_then(Value::as_i64).unwrap_or(0);
        let _ = write!(
            shown,
            "\nImages:\nimage: {}\nfile format: {}\nvirtual size: {} ({size} bytes)\n",
            text(image, "filename"),
            text(image, "format"),
            in_units(size)
        );
        if let Some(used) = image.get("actual-size").and_then(Value::as_i64) {
            let _ = writeln!(shown, "disk size: {}", in_units(used));
        }
    }
    shown
}

/// A size with three digits or so, as QEMU shows it.
fn in_units(size: i64) -> String {
    let (mut value, mut unit) = (size as f64, 0);
    while value >= 1000.0 && unit < 6 {
        value /= 1024.0;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
    // Three significant digits.
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let number = format!("{value:.digits$}");
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').to_owned() } else { number };
    format!("{number} {name}")
}

fn attached(device: Option<&Value>) -> String {
    let Some(device) = device else { return String::new() };
    let mut shown = String::new();
    if device.get("qdev").is_some() {
        let _ = writeln!(shown, "    Attached to:      {}", text(device, "qdev"));
    }
    if text(device, "removable") == "true" {
        let lock = if text(device, "locked") == "true" { "" } else { "not " };
        let tray = if text(device, "tray_open") == "true" { "open" } else { "closed" };
        let _ = writeln!(shown, "    Removable device: {lock}locked, tray {tray}");
    }
    let status = text(device, "io-status");
    if !status.is_empty() && status != "ok" {
        let _ = writeln!(shown, "    I/O status:       {status}");
    }
    shown
}

/// `info blockstats`
pub fn statistics(_: &mut Human<'_>, _: &Arguments) -> Outcome {
    shown("query-blockstats", [], |list| {
        each(list, |one| {
            let Some(stats) = one.get("stats").filter(|_| one.get("device").is_some()) else { return String::new() };
            let mut shown = format!("{}:", text(one, "device"));
            for name in [
                "rd_bytes",
                "wr_bytes",
                "rd_operations",
                "wr_operations",
                "flush_operations",
                "wr_total_time_ns",
                "rd_total_time_ns",
                "flush_total_time_ns",
                "rd_merged",
                "wr_merged",
                "idle_time_ns",
            ] {
                if stats.get(name).is_some() {
                    let _ = write!(shown, " {name}={}", text(stats, name));
                }
            }
            shown.push('\n');
            shown
        })
    })
}

/// `info block-jobs`
pub fn jobs(_: &mut Human<'_>, _: &Arguments) -> Outcome {
    shown("query-block-jobs", [], |list| {
        let shown = each(list, |one| {
            let kind = text(one, "type");
            let is_stream = kind == "stream";
            let what = if is_stream { "Streaming device".to_owned() } else { format!("Type {kind}, device") };
            format!(
                "{what} {}: Completed {} of {} bytes, speed limit {} bytes/s\n",
                text(one, "device"),
                text(one, "offset"),
                text(one, "len"),
                text(one, "speed")
            )
        });
        if shown.is_empty() { "No active jobs\n".into() } else { shown }
    })
}
