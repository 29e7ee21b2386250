//! `rebase`: gives an overlay another backing.

use std::sync::Arc;

use block::image::ImageBacking;
use block::{Child, Node};
use block_tools::open::{Access, file_options};
use block_tools::rebase::{self, Failure as RebaseFailure};
use block_tools::status;

use crate::cli::{Failure, Outcome, Parsed, parse};
use crate::tool::{self, Bar, Tool};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hf:F:b:upt:T:qU", &long)?;
    let [filename] = &parsed.operands[..] else { return Err(Failure::usage("Expecting one image file name")) };
    let safe = !parsed.has("u");
    if safe && !parsed.has("b") {
        return Err(Failure::usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let mut tool = Tool::new(&parsed)?;
    // Only the new backing is shared.
    let force_share = std::mem::take(&mut tool.force_share);
    let bar = Bar::new(parsed.has("p") && !tool.quiet, 2.0);
    bar.set(0.0);
    let (cache, _) = tool::cache(parsed.value("t"), "writeback", "Invalid cache option")?;
    let (source_cache, _) = tool::cache(parsed.value("T"), "writeback", "Invalid source cache option")?;
    let mut access = Access { write: true, cache, ..Access::default() };
    access.flags.no_backing = !safe;
    let mut source = Access { cache: source_cache, ..Access::default() };
    source.flags.force_share = force_share;
    aio::block_on(async {
        let overlay = tool.open(filename, parsed.value("f"), access).await?;
        let result = rebase(&tool, &parsed, &overlay, source, &bar).await;
        let closed = tool.close(&overlay).await;
        result?;
        closed?;
        bar.set(100.0);
        Ok(0)
    })
}

async fn rebase(tool: &Tool, parsed: &Parsed, overlay: &Arc<Child>, source: Access, bar: &Bar) -> Result<(), Failure> {
    let format = parsed.value("F");
    if let Some(format) = format
        && tool.graph.registry().find(format).is_none()
    {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    let backing = parsed.value("b").unwrap_or("");
    let node = status::skip_filters(&overlay.node());
    if !parsed.has("u") {
        keep_contents(tool, overlay, backing, format, source, bar).await?;
    }
    let new =
        (!backing.is_empty()).then(|| ImageBacking { file: backing.to_owned(), format: format.map(str::to_owned) });
    if new.is_some() && format.is_none() {
        return Err(Failure::new(format!(
            "Could not change the backing file to '{backing}': backing format must be specified"
        )));
    }
    node.change_backing(new).await.map_err(|error| {
        let why = if error.is_no_space() {
            "No space left in the file header".to_owned()
        } else {
            block::error::strerror(error.errno())
        };
        Failure::new(format!("Could not change the backing file to '{backing}': {why}"))
    })
}

async fn keep_contents(
    tool: &Tool,
    overlay: &Arc<Child>,
    backing: &str,
    format: Option<&str>,
    source: Access,
    bar: &Bar,
) -> Result<(), Failure> {
    let node = status::skip_filters(&overlay.node());
    let old = status::backing_of(&node);
    let mut opened: Option<Arc<Child>> = None;
    let mut shared: Option<Arc<Node>> = None;
    if !backing.is_empty() {
        let full = block::filename::combine(&block::filename::of(&node), backing);
        shared = find_in_chain(&node, &full);
        if shared.is_none() {
            let child = block_tools::open::open(&tool.graph, file_options(&full, format), source).await;
            opened = Some(child.map_err(|error| {
                Failure::from(error.context(format!("Could not open new backing file '{backing}'")))
            })?);
        }
    }
    let new = shared.clone().or_else(|| opened.as_ref().map(|child| child.node()));
    let result = rebase::keep_contents(overlay, old.as_ref(), new.as_ref(), shared.as_ref(), bar).await;
    if let Some(child) = &opened {
        let _ = tool.close(child).await;
    }
    let text = |error: &block::Error| block::error::strerror(error.errno());
    result.map_err(|failure| {
        Failure::new(match &failure {
            RebaseFailure::Status(error) => format!("error while reading image metadata: {}", text(error)),
            RebaseFailure::Old(_) => "error while reading from old backing file".to_owned(),
            RebaseFailure::New(_) => "error while reading from new backing file".to_owned(),
            RebaseFailure::Write(error) => format!("Error while writing to COW image: {}", text(error)),
            RebaseFailure::Cancelled(error) => error.to_string(),
        })
    })
}

/// The image below `top` that has this name.
pub fn find_in_chain(top: &Arc<Node>, name: &str) -> Option<Arc<Node>> {
    let same = |node: &Arc<Node>| {
        let own = block::filename::of(node);
        own == name
            || matches!((std::fs::canonicalize(&own), std::fs::canonicalize(name)), (Ok(own), Ok(name)) if own == name)
    };
    let mut node = status::backing_of(top);
    while let Some(backing) = node {
        if same(&backing) {
            return Some(backing);
        }
        node = status::backing_of(&backing);
    }
    None
}
