//! `create`: makes an image.

use block_tools::create::Creation;
use block_tools::keyval::{self, CreateValues};
use block_tools::open::protocol_of;

use crate::cli::{self, Failure, Outcome, parse};
use crate::tool::{Tool, option_list};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let parsed = parse(args, "F:b:f:ho:qu", &[("help", false, "h"), ("object", true, "object")])?;
    let options = option_list(&parsed)?;
    let tool = Tool::new(&parsed)?;
    let format = parsed.value("f").unwrap_or("raw");
    let filename = parsed.operands.first().map(String::as_str);
    if options.as_deref().is_some_and(keyval::asks_for_help) {
        return option_help(&tool, filename, format);
    }
    let Some(filename) = filename else { return Err(Failure::usage("Expecting image file name")) };
    let size = match parsed.operands.get(1) {
        Some(text) => Some(cli::size("image size", text)?),
        None => None,
    };
    if let Some(extra) = parsed.operands.get(2) {
        return Err(Failure::usage(format!("Unexpected argument: {extra}")));
    }
    let work = async {
        let mut creation = Creation::new(&tool.graph, format, filename)?;
        if let Some(options) = &options {
            creation.values.parse(options)?;
        }
        match (creation.values.size(), size) {
            (Some(_), Some(_)) => return Err(block::Error::invalid("The image size must be specified only once")),
            (None, Some(size)) => creation.values.set("size", &size.to_string())?,
            _ => {}
        }
        creation.set_backing(parsed.value("b"), parsed.value("F"))?;
        creation.resolve_backing(&tool.graph, !parsed.has("u")).await?;
        if !tool.quiet {
            outln!("Formatting '{filename}', fmt={format} {}", creation.values.describe());
        }
        creation.run(&tool.graph).await.map_err(|error| too_large(error, &creation))
    };
    aio::block_on(work).map_err(|error| Failure::from(error.context(filename)))?;
    Ok(0)
}

/// An image that is too large is told in one way, whatever the format says.
fn too_large(error: block::Error, creation: &Creation) -> block::Error {
    if error.errno() != block::Error::too_big("").errno() {
        return error;
    }
    let hint = if creation.values.get("cluster_size").or(default_of(&creation.values)).is_some() {
        " (try using a larger cluster size)"
    } else {
        ""
    };
    error.with_message(format!("The image size is too large for file format '{}'{hint}", creation.format.name()))
}

fn default_of(values: &CreateValues) -> Option<&'static str> {
    values.has("cluster_size").then_some("")
}

/// `-o help`.
pub fn option_help(tool: &Tool, filename: Option<&str>, format: &str) -> Outcome {
    let driver = tool.graph.registry().find(format);
    let driver = driver.ok_or_else(|| Failure::new(format!("Unknown file format '{format}'")))?;
    if format != "raw" && driver.create_options().is_empty() {
        return Err(Failure::new(format!("Format driver '{format}' does not support image creation")));
    }
    let mut lists = vec![driver.create_options()];
    match filename {
        Some(filename) => {
            let protocol = protocol_of(&tool.graph, filename)?;
            if protocol.create_options().is_empty() {
                return Err(Failure::new(format!(
                    "Protocol driver '{}' does not support image creation",
                    protocol.name()
                )));
            }
            lists.push(protocol.create_options());
            outln!("Supported options:");
        }
        None => outln!("Supported {format} options:"),
    }
    for line in CreateValues::new(lists).help() {
        outln!("{line}");
    }
    if filename.is_none() {
        outln!(
            "\nThe protocol level may support further options.\nSpecify the target filename to include those options."
        );
    }
    Ok(0)
}
