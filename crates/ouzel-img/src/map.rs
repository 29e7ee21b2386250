//! `map`: where the data of an image is.

use std::fmt::Write as _;
use std::sync::Arc;

use block::Node;
use block_tools::open::Access;
use block_tools::status::{self, Extent};

use crate::cli::{self, Failure, Outcome, parse};
use crate::tool::{Format, Tool, output_format};

/// Rows are printed when they take so many bytes.
const BUFFER: usize = 64 << 10;

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("format", true, "f"),
        ("output", true, "output"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
        ("start-offset", true, "s"),
        ("max-length", true, "l"),
    ];
    let parsed = parse(args, "f:s:l:hU", &long)?;
    let start = parsed.value("s").map_or(Ok(0), |text| cli::size("start offset", text))?;
    let max = parsed.value("l").map(|text| cli::size("max length", text)).transpose()?;
    let filename = parsed.one_operand()?;
    let format = output_format(&parsed)?;
    let tool = Tool::new(&parsed)?;
    aio::block_on(async {
        let child = tool.open(filename, parsed.value("f"), Access::default()).await?;
        match format {
            Format::Human => outln!("{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to"),
            Format::Json => out!("["),
        }
        let node = child.node();
        let mut end = status::size(&node);
        if let Some(max) = max {
            end = end.min(start.saturating_add(max));
        }
        let result = walk(&node, start, end, format).await;
        tool.close(&child).await?;
        result?;
        Ok(0)
    })
}

/// A row of the map.
struct Row {
    start: u64,
    extent: Extent,
    filename: Option<String>,
}

impl Row {
    fn continues(&self, next: &Row) -> bool {
        let (a, b) = (&self.extent, &next.extent);
        a.zero == b.zero
            && a.data == b.data
            && a.allocated == b.allocated
            && a.depth == b.depth
            && a.offset.is_some() == b.offset.is_some()
            && self.filename == next.filename
            && a.offset.is_none_or(|offset| b.offset == Some(offset + a.len))
    }

    /// Adds the row to `text`.
    fn print(&self, next: Option<&mut Row>, format: Format, text: &mut String) -> Result<(), Failure> {
        let extent = &self.extent;
        match format {
            Format::Human => {
                if extent.data && extent.offset.is_none() {
                    return Err(Failure::new("File contains external, encrypted or compressed clusters."));
                }
                if extent.data && !extent.zero {
                    let hex = |number: u64| if number == 0 { "0".to_owned() } else { format!("{number:#x}") };
                    let _ = writeln!(
                        text,
                        "{:<16}{:<16}{:<16}{}",
                        hex(self.start),
                        hex(extent.len),
                        hex(extent.offset.unwrap_or(0)),
                        self.filename.as_deref().unwrap_or("")
                    );
                }
                // All that is not data looks the same here.
                if let Some(next) = next
                    && (!next.extent.data || next.extent.zero)
                {
                    next.extent.data = false;
                    next.extent.zero = true;
                }
            }
            Format::Json => {
                let _ = write!(
                    text,
                    "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}",
                    self.start, extent.len, extent.depth, extent.allocated, extent.zero, extent.data
                );
                if let Some(offset) = extent.offset {
                    let _ = write!(text, ", \"offset\": {offset}");
                }
                text.push_str(if next.is_some() { "},\n" } else { "}" });
            }
        }
        Ok(())
    }
}

async fn walk(node: &Arc<Node>, start: u64, end: u64, format: Format) -> Result<(), Failure> {
    let mut current: Option<Row> = None;
    let mut offset = start;
    let mut text = String::new();
    while offset < end {
        let extent = status::mapped(node, offset, end - offset).await.map_err(|error| {
            Failure::new(format!("Could not read file metadata: {}", block::error::strerror(error.errno())))
        })?;
        let filename = extent.file.as_ref().filter(|_| extent.offset.is_some()).map(block::filename::of);
        offset += extent.len;
        let mut next = Row { start: offset - extent.len, extent, filename };
        match &mut current {
            Some(row) if row.continues(&next) => row.extent.len += next.extent.len,
            Some(row) => {
                let printed = row.print(Some(&mut next), format, &mut text);
                if text.len() > BUFFER || printed.is_err() {
                    out!("{text}");
                    text.clear();
                }
                printed?;
                current = Some(next);
            }
            None => current = Some(next),
        }
    }
    let last = current.unwrap_or(Row { start, extent: Extent::default(), filename: None });
    let printed = last.print(None, format, &mut text);
    out!("{text}");
    printed?;
    if format == Format::Json {
        outln!("]");
    }
    Ok(())
}
