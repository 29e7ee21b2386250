//! Snapshots inside of disks' images.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use ::hmp::Arguments;
use block::image::SnapshotInfo;
use block::{Graph, Node};
use block_tools::info::{local_time, snapshot_heading, snapshot_line};

use super::{Command, Human, Outcome, call, command, given};
use crate::storage::snapshots::snapshot_image;

/// The commands.
pub const COMMANDS: &[Command] = &[
    command(
        "snapshot_blkdev_internal",
        "device:B,name:s",
        "device name",
        "make a snapshot inside of a disk's image",
        |_, arguments| {
            let arguments = ["device", "name"].map(|name| (name, arguments.required(name).into()));
            call("blockdev-snapshot-internal-sync", arguments)
        },
    ),
    command(
        "snapshot_delete_blkdev_internal",
        "device:B,name:s,id:s?",
        "device name [id]",
        "delete a snapshot inside of a disk's image",
        |_, arguments| {
            let arguments = ["device", "name", "id"].map(|name| (name, arguments.text(name).map(Into::into)));
            call("blockdev-snapshot-delete-internal-sync", given(arguments))
        },
    ),
];

/// A disk that can be written.
struct Disk {
    name: String,
    /// The snapshots in its image; nothing if it can have none.
    snapshots: Option<Vec<SnapshotInfo>>,
}

/// The disks that a machine's state would be saved with: what is written through back ends, and nodes that nobody uses.
fn disks(graph: &Graph) -> Result<Vec<Disk>, block::Error> {
    let mut seen: Vec<Arc<Node>> = Vec::new();
    let backends =
        graph.backends().into_iter().filter_map(|backend| Some((backend.name().to_owned(), backend.node()?)));
    let nodes = graph.adopted().into_iter().filter(|node| node.parents().is_empty());
    let mut disks = Vec::new();
    for (name, node) in backends.chain(nodes.map(|node| (String::new(), node))) {
        if node.is_read_only() || seen.iter().any(|known| Arc::ptr_eq(known, &node)) {
            continue;
        }
        let snapshots = snapshot_image(&node).map(|image| image.driver().snapshots()).transpose()?;
        disks.push(Disk { name, snapshots });
        seen.push(node);
    }
    Ok(disks)
}

/// `info snapshots`: those that all disks have, then for each disk its others.
pub fn info(human: &mut Human<'_>, _: &Arguments) -> Outcome {
    match disks(human.control.storage_graph()) {
        Ok(disks) => table(&disks, &local_time).into(),
        Err(error) => format!("Error: {error}\n").into(),
    }
}

fn table(disks: &[Disk], local_time: &dyn Fn(u64) -> String) -> String {
    let Some(first) = disks.iter().find_map(|disk| disk.snapshots.as_ref()) else {
        return "no block device can store vmstate for snapshot\n".to_owned();
    };
    if disks.iter().all(|disk| disk.snapshots.as_ref().is_none_or(Vec::is_empty)) {
        return "There is no snapshot available.\n".to_owned();
    }
    let has = |disk: &Disk, name: &str| disk.snapshots.iter().flatten().any(|snapshot| snapshot.name == name);
    let on_all: Vec<&SnapshotInfo> =
        first.iter().filter(|snapshot| disks.iter().all(|disk| has(disk, &snapshot.name))).collect();
    let mut shown = "List of snapshots present on all disks:\n".to_owned();
    if on_all.is_empty() {
        shown.push_str("None\n");
    } else {
        shown += &snapshot_heading();
        for snapshot in &on_all {
            // Each disk has an id of its own for it.
            shown += &snapshot_line(&SnapshotInfo { id: "--".to_owned(), ..(*snapshot).clone() }, local_time);
        }
    }
    let common: HashSet<&str> = on_all.iter().map(|snapshot| snapshot.name.as_str()).collect();
    for disk in disks {
        let others = disk.snapshots.iter().flatten().filter(|snapshot| !common.contains(snapshot.name.as_str()));
        let lines: String = others.map(|snapshot| snapshot_line(snapshot, local_time)).collect();
        if !lines.is_empty() {
            // Strings take everything.
            let _ = write!(shown, "\nList of partial (non-loadable) snapshots on '{}':\n", disk.name);
            shown += &(snapshot_heading() + &lines);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, snapshots: Option<&[&str]>) -> Disk {
        let info = |(index, name): (usize, &&str)| SnapshotInfo {
            id: (index + 1).to_string(),
            name: (*name).to_owned(),
            ..SnapshotInfo::default()
        };
        let snapshots = snapshots.map(|names| names.iter().enumerate().map(info).collect());
        Disk { name: name.to_owned(), snapshots }
    }

    fn shown(disks: &[Disk]) -> String {
        table(disks, &|_| "2026-01-01 00:00:00".to_owned())
    }

    #[test]
    fn snapshots_of_all_disks_come_first_and_those_of_some_behind() {
        let text = shown(&[disk("a", Some(&["one", "two"])), disk("b", Some(&["two"]))]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "List of snapshots present on all disks:");
        assert_eq!(lines[2], "--        two                   0 B 2026-01-01 00:00:00 00:00:00.000           ");
        assert_eq!(&lines[3..5], ["", "List of partial (non-loadable) snapshots on 'a':"]);
        assert!(lines[6].starts_with("1         one  ") && lines.len() == 7, "{text}");
    }

    #[test]
    fn disks_without_snapshots_are_told_in_a_line() {
        assert_eq!(shown(&[]), "no block device can store vmstate for snapshot\n");
        assert_eq!(shown(&[disk("raw", None)]), "no block device can store vmstate for snapshot\n");
        assert_eq!(shown(&[disk("raw", None), disk("a", Some(&[]))]), "There is no snapshot available.\n");
        // What one disk can't have is on none.
        assert!(shown(&[disk("a", Some(&["one"])), disk("raw", None)]).contains("all disks:\nNone\n\nList of partial"));
    }
}
