//! What an image is, as `ImageInfo` says it, and as people read it.

use std::fmt::Write as _;
use std::sync::Arc;

use block::image::SnapshotInfo;
use block::{Node, Result, Value};

use crate::json;
use crate::size::human;
use crate::status;

/// The dictionary `ImageInfo` of a node.
///
/// # Errors
/// The driver's.
pub async fn describe(node: &Arc<Node>) -> Result<Value> {
    let driver = node.driver();
    let name = node.driver_type().name();
    let mut info: Vec<(String, Value)> = Vec::new();
    let mut add = |key: &str, value: Value| info.push((key.to_owned(), value));
    add("filename", block::filename::of(node).into());
    add("format", name.into());
    add("virtual-size", status::size(node).into());
    if let Some(size) = driver.allocated_size().await? {
        add("actual-size", size.into());
    }
    let details = driver.details();
    if details.encrypted {
        add("encrypted", true.into());
    }
    if let Some(size) = details.cluster_size.filter(|size| *size != 0) {
        add("cluster-size", size.into());
    }
    let dirty = details.dirty.or(matches!(name, "raw" | "file" | "host_device").then_some(false));
    if let Some(dirty) = dirty {
        add("dirty-flag", dirty.into());
    }
    if let Some((kind, data)) = details.specific {
        add("format-specific", Value::dict([("type", kind.into()), ("data", data)]));
    }
    if let Some(backing) = driver.image_backing() {
        if let Some(full) = full_backing_name(node, &backing.file) {
            add("full-backing-filename", full.into());
        }
        add("backing-filename", backing.file.into());
        if let Some(format) = backing.format {
            add("backing-filename-format", format.into());
        }
    }
    let snapshots = driver.snapshots()?;
    if !snapshots.is_empty() {
        add("snapshots", Value::List(snapshots.iter().map(snapshot_value).collect()));
    }
    Ok(Value::Dict(info))
}

/// The name of a backing as seen from here, if the directory of the image is known.
pub fn full_backing_name(node: &Arc<Node>, stored: &str) -> Option<String> {
    if stored.starts_with('/') || block::filename::protocol_of(stored).is_some() {
        return Some(stored.to_owned());
    }
    block::filename::base_of(node).ok().map(|base| block::filename::combine(&base, stored))
}

fn snapshot_value(snapshot: &SnapshotInfo) -> Value {
    let mut value = vec![
        ("id".to_owned(), snapshot.id.as_str().into()),
        ("name".to_owned(), snapshot.name.as_str().into()),
        ("vm-state-size".to_owned(), snapshot.vm_state_size.into()),
        ("date-sec".to_owned(), snapshot.date_sec.into()),
        ("date-nsec".to_owned(), u64::from(snapshot.date_nsec).into()),
        ("vm-clock-sec".to_owned(), (snapshot.vm_clock_nsec / 1_000_000_000).into()),
        ("vm-clock-nsec".to_owned(), (snapshot.vm_clock_nsec % 1_000_000_000).into()),
    ];
    if let Some(icount) = snapshot.icount {
        value.push(("icount".to_owned(), icount.into()));
    }
    Value::Dict(value)
}

/// Seconds since the epoch as local date and time.
pub fn local_time(seconds: u64) -> String {
    use chrono::TimeZone;
    let time = i64::try_from(seconds).ok().and_then(|seconds| chrono::Local.timestamp_opt(seconds, 0).single());
    time.map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// The heading of a table of snapshots.
pub fn snapshot_heading() -> String {
    format!("{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
}

/// A line of such a table; `local_time` shows seconds since the epoch.
pub fn snapshot_line(snapshot: &SnapshotInfo, local_time: &dyn Fn(u64) -> String) -> String {
    let seconds = snapshot.vm_clock_nsec / 1_000_000_000;
    let clock = format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        snapshot.vm_clock_nsec / 1_000_000 % 1000
    );
    format!(
        "{:<9} {:<16} {:>8}{:>20}{clock:>13}{:>11}\n",
        snapshot.id,
        snapshot.name,
        human(snapshot.vm_state_size),
        local_time(snapshot.date_sec),
        snapshot.icount.map(|count| count.to_string()).unwrap_or_default()
    )
}

/// The table of snapshots, with its heading.
pub fn snapshot_table(snapshots: &[SnapshotInfo], local_time: &dyn Fn(u64) -> String) -> String {
    let lines = snapshots.iter().map(|snapshot| snapshot_line(snapshot, local_time));
    format!("Snapshot list:\n{}{}", snapshot_heading(), lines.collect::<String>())
}

/// `ImageInfo` as people read it.
pub fn human_text(info: &Value, snapshots: &[SnapshotInfo], local_time: &dyn Fn(u64) -> String) -> String {
    let text_of = |key: &str| match info.get(key) {
        Some(Value::Str(text)) => Some(text.as_str()),
        _ => None,
    };
    let number = |key: &str| match info.get(key) {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    let is_set = |key: &str| info.get(key) == Some(&Value::Bool(true));
    let size = number("virtual-size").unwrap_or(0);
    let mut text = String::new();
    let _ = writeln!(text, "image: {}", text_of("filename").unwrap_or(""));
    let _ = writeln!(text, "file format: {}", text_of("format").unwrap_or(""));
    let _ = writeln!(text, "virtual size: {} ({size} bytes)", human(size));
    let _ = writeln!(text, "disk size: {}", number("actual-size").map_or("unavailable".to_owned(), human));
    if is_set("encrypted") {
        text.push_str("encrypted: yes\n");
    }
    if let Some(size) = number("cluster-size") {
        let _ = writeln!(text, "cluster_size: {size}");
    }
    if is_set("dirty-flag") {
        text.push_str("cleanly shut down: no\n");
    }
    if let Some(backing) = text_of("backing-filename") {
        let _ = write!(text, "backing file: {backing}");
        match text_of("full-backing-filename") {
            None => text.push_str(" (cannot determine actual path)"),
            Some(full) if full != backing => {
                let _ = write!(text, " (actual path: {full})");
            }
            Some(_) => {}
        }
        text.push('\n');
        if let Some(format) = text_of("backing-filename-format") {
            let _ = writeln!(text, "backing file format: {format}");
        }
    }
    if !snapshots.is_empty() {
        text.push_str(&snapshot_table(snapshots, local_time));
    }
    if let Some(data) = info.get("format-specific").and_then(|specific| specific.get("data")) {
        text.push_str("Format specific information:\n");
        text.push_str(&json::human(data, 1));
    }
    text
}
