//! `dd`: copies blocks between images.

use block_tools::create::Creation;
use block_tools::open::Access;
use block_tools::status;
use iobuf::IoBuf;

use crate::cli::{self, Failure, Outcome, parse};
use crate::tool::{Tool, complain};

/// The operands.
#[derive(Default)]
struct Operands {
    block: Option<u64>,
    count: Option<u64>,
    skip: Option<u64>,
    input: Option<String>,
    output: Option<String>,
}

impl Operands {
    fn parse(operands: &[String]) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for operand in operands {
            let unknown = |name: &str| Failure::new(format!("unrecognized operand {name}"));
            let (name, value) = operand.split_once('=').ok_or_else(|| unknown(operand))?;
            match name {
                "bs" => parsed.block = Some(cli::number("bs", value, 1, i32::MAX.unsigned_abs().into())?),
                "count" => parsed.count = Some(cli::size("count", value)?),
                "skip" => parsed.skip = Some(cli::size("skip", value)?),
                "if" => parsed.input = Some(value.to_owned()),
                "of" => parsed.output = Some(value.to_owned()),
                other => return Err(unknown(other)),
            }
        }
        Ok(parsed)
    }
}

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hf:O:U", &long)?;
    let operands = Operands::parse(&parsed.operands)?;
    let (Some(input), Some(output)) = (&operands.input, &operands.output) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    let tool = Tool::new(&parsed)?;
    let format = parsed.value("O").unwrap_or("raw");
    aio::block_on(async {
        let source = tool.open(input, parsed.value("f"), Access::default()).await?;
        let result = async {
            if tool.graph.registry().find(format).is_none() {
                return Err(Failure::new("Unknown file format"));
            }
            let mut creation = Creation::new(&tool.graph, format, output)?;
            let block = operands.block.unwrap_or(512);
            let mut end = status::size(&source.node());
            if let Some(count) = operands.count {
                end = end.min(count.saturating_mul(block));
            }
            let start = operands.skip.unwrap_or(0).checked_mul(block).filter(|start| *start <= end);
            creation.values.set("size", &start.map_or(0, |start| end - start).to_string())?;
            creation.run(&tool.graph).await.map_err(|error| {
                Failure::from(error.context(format!("{output}: error while creating output image")))
            })?;
            let access = Access { write: true, ..Access::default() };
            let options = block_tools::open::file_options(output, Some(format));
            let target = tool.open_named(output, options, access).await?;
            let start = start.unwrap_or_else(|| {
                complain(format!("{input}: cannot skip to specified offset"));
                end
            });
            let copied = copy(&source, &target, start..end, block).await;
            let closed = tool.close(&target).await;
            copied?;
            Ok(closed?)
        }
        .await;
        let _ = tool.close(&source).await;
        result?;
        Ok(0)
    })
}

async fn copy(
    source: &block::Child,
    target: &block::Child,
    range: std::ops::Range<u64>,
    block: u64,
) -> Result<(), Failure> {
    let text = |error: &block::Error| block::error::strerror(error.errno());
    // Blocks are a matter of counting: what is copied at once need not be one.
    let chunk = (1 << 20) / block.min(1 << 20) * block;
    let buf = IoBuf::zeroed(usize::try_from(chunk.min(range.end - range.start)).unwrap_or(0));
    let mut at = range.start;
    while at < range.end {
        let len = chunk.min(range.end - at);
        let piece = buf.slice(0, usize::try_from(len).unwrap_or(0));
        source
            .read(at, piece.clone())
            .await
            .map_err(|e| Failure::new(format!("error while reading from input image file: {}", text(&e))))?;
        target
            .write(at - range.start, piece, block::WriteFlags::default())
            .await
            .map_err(|e| Failure::new(format!("error while writing to output image file: {}", text(&e))))?;
        at += len;
    }
    Ok(())
}
