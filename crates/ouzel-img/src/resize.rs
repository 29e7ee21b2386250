//! `resize`: changes the size of an image.

use block::Preallocation;
use block::options::parse_size;
use block_tools::open::Access;
use block_tools::status;

use crate::cli::{Failure, Outcome, parse};
use crate::tool::{Tool, complain, warn};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    // The size is the last argument, even if it looks like an option.
    let Some((size, args)) = args.split_last().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(Failure::usage("Not enough arguments"));
    };
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("preallocation", true, "preallocation"),
        ("shrink", false, "shrink"),
    ];
    let parsed = parse(args, "f:hq", &long)?;
    let mut preallocation = Preallocation::Off;
    if let Some(mode) = parsed.value("preallocation") {
        let index = Preallocation::NAMES.iter().position(|name| *name == mode);
        let index = index.ok_or_else(|| Failure::new(format!("Invalid preallocation mode '{mode}'")))?;
        preallocation = Preallocation::from_index(index);
    }
    let [filename] = &parsed.operands[..] else {
        return Err(Failure::usage("Expecting image file name and size"));
    };
    let (sign, digits) = match size.split_at_checked(1) {
        Some(("+", digits)) => (1, digits),
        Some(("-", digits)) => (-1, digits),
        _ => (0, size.as_str()),
    };
    let amount = parse_size(digits).ok_or_else(|| {
        Failure::new(
            "Parameter 'size' expects a non-negative number below 2^64\n\
             Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        )
    })?;
    let tool = Tool::new(&parsed)?;
    let access = Access { write: true, resize: true, ..Access::default() };
    aio::block_on(async {
        let child = tool.open(filename, parsed.value("f"), access).await?;
        let current = status::size(&child.node());
        let result = match target(current, sign, amount, preallocation, parsed.has("shrink")) {
            Ok(size) => {
                let size = size.checked_next_multiple_of(status::SECTOR).unwrap_or(size);
                child.truncate(size, true, preallocation).await.map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        let closed = tool.close(&child).await;
        result?;
        closed?;
        if !tool.quiet {
            outln!("Image resized.");
        }
        Ok(0)
    })
}

fn target(current: u64, sign: i8, amount: u64, mode: Preallocation, shrink: bool) -> Result<u64, Failure> {
    let wanted = match sign {
        0 => Some(amount),
        1 => current.checked_add(amount),
        _ => current.checked_sub(amount),
    };
    let Some(wanted) = wanted.filter(|size| *size != 0 && i64::try_from(*size).is_ok()) else {
        return Err(Failure::new("New image size must be positive"));
    };
    if wanted <= current && mode != Preallocation::Off {
        return Err(Failure::new("Preallocation can only be used for growing images"));
    }
    if wanted < current && !shrink {
        complain("Use the --shrink option to perform a shrink operation.");
        warn(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an \
             operation, make sure there is no important data there.",
        );
        return Err(Failure { message: None, usage: false, code: 1 });
    }
    Ok(wanted)
}
