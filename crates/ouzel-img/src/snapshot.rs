//! `snapshot`: lists, makes, applies and deletes internal snapshots.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use block::Node;
use block::image::SnapshotInfo;
use block_tools::open::Access;
use block_tools::{info, status};

use crate::cli::{Failure, Outcome, parse};
use crate::tool::Tool;

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "la:c:d:hqU", &long)?;
    let actions: Vec<(&str, &str)> = parsed.options().filter(|(name, _)| "lacd".contains(*name)).collect();
    if actions.len() > 1 {
        return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let (action, name) = actions.first().copied().unwrap_or(("l", ""));
    let filename = parsed.one_operand()?;
    let tool = Tool::new(&parsed)?;
    let access = Access { write: action != "l", unmap: true, ..Access::default() };
    aio::block_on(async {
        let child = tool.open(filename, None, access).await?;
        let node = status::skip_filters(&child.node());
        let result = perform(&node, action, name).await;
        let closed = tool.close(&child).await;
        result?;
        closed?;
        Ok(0)
    })
}

async fn perform(node: &Arc<Node>, action: &str, name: &str) -> Result<(), Failure> {
    let driver = node.driver();
    match action {
        "c" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let snapshot = SnapshotInfo {
                name: name.to_owned(),
                date_sec: now.as_secs(),
                date_nsec: now.subsec_micros() * 1000,
                icount: Some(0),
                disk_size: node.len(),
                ..SnapshotInfo::default()
            };
            driver.snapshot_create(snapshot).await.map_err(|error| {
                let number = error.errno();
                Failure::new(format!(
                    "Could not create snapshot '{name}': -{number} ({})",
                    block::error::strerror(number)
                ))
            })
        }
        "a" => {
            let result = driver.snapshot_apply(name.to_owned()).await;
            let missing = block::Error::not_found("").errno();
            let result = result.map_err(|error| match error {
                error if error.is_unsupported() => error.with_message("Block driver does not support snapshots"),
                error if error.errno() == missing => {
                    error.with_message(format!("Failed to load snapshot: {}", block::error::strerror(missing)))
                }
                error => error,
            });
            result.map_err(|error| Failure::from(error.context(format!("Could not apply snapshot '{name}'"))))
        }
        "d" => {
            let snapshots = driver.snapshots()?;
            let known = snapshots.iter().find(|snapshot| snapshot.id == name || snapshot.name == name);
            let Some(known) = known else {
                return Err(Failure::new(format!("Could not delete snapshot '{name}': snapshot not found")));
            };
            let result = driver.snapshot_delete(known.id.clone()).await;
            result.map_err(|error| Failure::from(error.context(format!("Could not delete snapshot '{name}'"))))
        }
        _ => {
            let snapshots = driver.snapshots()?;
            if !snapshots.is_empty() {
                out!("{}", info::snapshot_table(&snapshots, &info::local_time));
            }
            Ok(())
        }
    }
}
