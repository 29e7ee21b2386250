//! `measure`: how large an image would be.

use block::Value;
use block::create::MeasureRequest;
use block_tools::keyval::CreateValues;
use block_tools::open::Access;
use block_tools::{json, status};

use crate::cli::{self, Failure, Outcome, parse};
use crate::convert::{check_snapshot_parameter, load_snapshot};
use crate::tool::{Format, Tool, option_list, output_format};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("image-opts", false, "image-opts"),
        ("object", true, "object"),
        ("output", true, "output"),
        ("size", true, "size"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hf:l:o:O:U", &long)?;
    let options = option_list(&parsed)?;
    check_snapshot_parameter(&parsed)?;
    let format = output_format(&parsed)?;
    let size = parsed.value("size").map(|text| cli::size("image size", text)).transpose()?;
    let refuse = |condition: bool, message: &str| if condition { Err(Failure::new(message)) } else { Ok(()) };
    refuse(parsed.operands.len() > 1, "At most one filename argument is allowed.")?;
    let filename = parsed.operands.first();
    let about_file = parsed.has("image-opts") || parsed.has("f") || parsed.has("l");
    refuse(filename.is_none() && about_file, "--image-opts, -f, and -l require a filename argument.")?;
    refuse(filename.is_some() && size.is_some(), "--size N cannot be used together with a filename.")?;
    refuse(filename.is_none() && size.is_none(), "Either --size N or one filename must be specified.")?;
    let tool = Tool::new(&parsed)?;
    aio::block_on(async {
        let source = match filename {
            Some(name) => Some(tool.open(name, parsed.value("f"), Access::default()).await?),
            None => None,
        };
        let work = async {
            if let (Some(source), Some(snapshot)) = (&source, parsed.value("l")) {
                load_snapshot(source, snapshot).await?;
            }
            let name = parsed.value("O").unwrap_or("raw");
            let driver = tool.graph.registry().find(name);
            let driver = driver.ok_or_else(|| Failure::new(format!("Unknown file format '{name}'")))?;
            if name != "raw" && driver.create_options().is_empty() {
                return Err(Failure::new(format!("Format driver '{name}' does not support image creation")));
            }
            let file = tool.graph.registry().find("file").map_or(&[][..], |file| file.create_options());
            let mut values = CreateValues::new([driver.create_options(), file]);
            if let Some(options) = &options {
                values.parse(options).map_err(|error| {
                    crate::tool::complain(error);
                    Failure::new(format!("Invalid options for file format '{name}'"))
                })?;
            }
            let size = match &source {
                Some(source) => status::size(&source.node()),
                None => size.or(values.size()).unwrap_or(0),
            };
            let request = MeasureRequest { source: source.clone(), size, options: values.to_options() };
            Ok(driver.measure(request).await?)
        };
        let result = work.await;
        if let Some(source) = &source {
            let _ = tool.close(source).await;
        }
        let measure = result?;
        match format {
            Format::Human => {
                outln!("required size: {}", measure.required);
                outln!("fully allocated size: {}", measure.fully_allocated);
                if let Some(bitmaps) = measure.bitmaps {
                    outln!("bitmaps size: {bitmaps}");
                }
            }
            Format::Json => {
                let mut entries = vec![
                    ("required".to_owned(), measure.required.into()),
                    ("fully-allocated".to_owned(), measure.fully_allocated.into()),
                ];
                if let Some(bitmaps) = measure.bitmaps {
                    entries.push(("bitmaps".to_owned(), bitmaps.into()));
                }
                outln!("{}", json::pretty(&Value::Dict(entries)));
            }
        }
        Ok(0)
    })
}
