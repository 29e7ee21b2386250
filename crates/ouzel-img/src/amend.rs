//! `amend`: changes options of an existing image.

use std::sync::Arc;

use block::DriverType;
use block::image::{AmendProgress, AmendRequest};
use block_tools::Progress as _;
use block_tools::keyval::{self, CreateValues};
use block_tools::open::Access;
use block_tools::status;

use crate::cli::{Failure, Outcome, parse};
use crate::tool::{self, Bar, Tool, option_list};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force", false, "force"),
    ];
    let parsed = parse(args, "ho:f:t:pq", &long)?;
    let Some(options) = option_list(&parsed)? else { return Err(Failure::usage("Must specify options (-o)")) };
    let tool = Tool::new(&parsed)?;
    let bar = Arc::new(Bar::new(parsed.has("p") && !tool.quiet, 1.0));
    let help = keyval::asks_for_help(&options);
    if let Some(format) = parsed.value("f").filter(|_| help) {
        let driver = tool.graph.registry().find(format);
        return option_help(driver.ok_or_else(|| Failure::new(format!("Unknown file format '{format}'")))?);
    }
    let [filename] = &parsed.operands[..] else { return Err(Failure::new("Expecting one image file name")) };
    let (cache, _) = tool::cache(parsed.value("t"), "writeback", "Invalid cache option")?;
    let access = Access { write: true, resize: true, cache, ..Access::default() };
    aio::block_on(async {
        let child = tool.open(filename, parsed.value("f"), access).await?;
        let node = status::skip_filters(&child.node());
        let result = async {
            let driver = node.driver_type();
            if help {
                return option_help(driver);
            }
            let values = amendments(driver, &options)?;
            bar.set(0.0);
            let size = values.size();
            let mut options = values.to_options();
            if let Some(size) = size {
                options.set("size", size);
            }
            let watched = Arc::clone(&bar);
            let progress = AmendProgress::new(move |done, total| watched.update(done, total));
            let request = AmendRequest { options, force: parsed.has("force"), progress };
            let result = async { tool.graph.amend(&node)?.run(request).await }.await;
            bar.set(100.0);
            result?;
            Ok(0)
        }
        .await;
        let closed = tool.close(&child).await;
        let code = result?;
        closed?;
        Ok(code)
    })
}

fn amendments(driver: &'static dyn DriverType, options: &str) -> Result<CreateValues, Failure> {
    if driver.amend_options().is_empty() {
        return Err(no_amendment(driver));
    }
    let mut values = CreateValues::new([driver.amend_options()]);
    values.parse(options).map_err(|error| {
        let mut all = CreateValues::new([driver.amend_options(), driver.create_options()]);
        let hint = if all.parse(options).is_ok() { "\nThis option is only supported for image creation" } else { "" };
        Failure::new(format!("{error}{hint}"))
    })?;
    Ok(values)
}

fn no_amendment(driver: &dyn DriverType) -> Failure {
    Failure::new(format!("Format driver '{}' does not support option amendment", driver.name()))
}

fn option_help(driver: &'static dyn DriverType) -> Outcome {
    if driver.amend_options().is_empty() {
        return Err(no_amendment(driver));
    }
    outln!("Amend options for '{}':", driver.name());
    for line in CreateValues::new([driver.amend_options()]).help() {
        outln!("{line}");
    }
    Ok(0)
}
