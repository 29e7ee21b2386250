//! `info`: describes an image, or a chain of them.

use block::{Value, image::SnapshotInfo};
use block_tools::open::Access;
use block_tools::{info, json};

use crate::cli::{Failure, Outcome, parse};
use crate::tool::{Format, Tool, output_format};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("format", true, "f"),
        ("output", true, "output"),
        ("backing-chain", false, "backing-chain"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "f:hU", &long)?;
    let filename = parsed.one_operand()?;
    let format = output_format(&parsed)?;
    let tool = Tool::new(&parsed)?;
    let chain = parsed.has("backing-chain");
    let images = aio::block_on(collect(&tool, filename, parsed.value("f"), chain))?;
    match format {
        Format::Human => {
            let texts: Vec<String> =
                images.iter().map(|(info, snapshots)| info::human_text(info, snapshots, &info::local_time)).collect();
            out!("{}", texts.join("\n"));
        }
        Format::Json if chain => {
            outln!("{}", json::pretty(&Value::List(images.into_iter().map(|(info, _)| info).collect())));
        }
        Format::Json => {
            if let Some((info, _)) = images.first() {
                outln!("{}", json::pretty(info));
            }
        }
    }
    Ok(0)
}

async fn collect(
    tool: &Tool,
    filename: &str,
    format: Option<&str>,
    chain: bool,
) -> Result<Vec<(Value, Vec<SnapshotInfo>)>, Failure> {
    let mut images = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let (mut next, mut format) = (Some(filename.to_owned()), format.map(str::to_owned));
    while let Some(filename) = next.take() {
        if seen.contains(&filename) {
            return Err(Failure::new(format!("Backing file '{filename}' creates an infinite loop.")));
        }
        let mut access = Access::default();
        access.flags.no_backing = true;
        access.flags.no_io = true;
        let child = if seen.is_empty() {
            tool.open(&filename, format.as_deref(), access).await?
        } else {
            tool.open_file(&filename, format.as_deref(), access).await?
        };
        seen.push(filename);
        let node = child.node();
        let info = info::describe(&node).await?;
        let snapshots = node.driver().snapshots()?;
        tool.close(&child).await?;
        if chain {
            let text = |key: &str| match info.get(key) {
                Some(Value::Str(text)) => Some(text.clone()),
                _ => None,
            };
            next = text("full-backing-filename");
            format = text("backing-filename-format");
        }
        images.push((info, snapshots));
    }
    Ok(images)
}
