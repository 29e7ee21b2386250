//! `compare`: whether two images have the same contents.

use block_tools::compare::{self, Failure as CompareFailure, Outcome as Found, Strictness};
use block_tools::open::Access;

use crate::cli::{Failure, Outcome, parse};
use crate::tool::{self, Bar, Tool};

/// Runs the command. Status 0: identical, 1: different, 2: could not open, 3: allocation unreadable, 4: unreadable.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hf:F:T:pqsU", &long)?;
    let [first, second] = &parsed.operands[..] else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let (cache, _) = tool::cache(parsed.value("T"), "writeback", "Invalid source cache option")
        .map_err(|failure| failure.with_code(2))?;
    let tool = Tool::new(&parsed).map_err(|failure| failure.with_code(2))?;
    let strictness = if parsed.has("s") { Strictness::Strict } else { Strictness::Content };
    let bar = Bar::new(parsed.has("p") && !tool.quiet, 2.0);
    aio::block_on(async {
        let access = Access { cache, ..Access::default() };
        let open = async |name: &str, format: &str| {
            tool.open(name, parsed.value(format), access).await.map_err(|failure| failure.with_code(2))
        };
        let a = open(first, "f").await?;
        let b = match open(second, "F").await {
            Ok(b) => b,
            Err(failure) => {
                let _ = tool.close(&a).await;
                return Err(failure);
            }
        };
        bar.set(0.0);
        let found = compare::compare([&a.node(), &b.node()], strictness, &bar).await;
        let _ = tool.close(&b).await;
        let _ = tool.close(&a).await;
        let names = [first.as_str(), second.as_str()];
        let in_tail = matches!(found, Err(CompareFailure::Tail(_)));
        match found.map_err(|failure| explain(failure, names)) {
            Ok(found) => report(&tool, found),
            Err(failure) if in_tail => {
                let code = failure.show();
                if !tool.quiet {
                    outln!("{SIZE_WARNING}");
                }
                Ok(code)
            }
            Err(failure) => Err(failure),
        }
    })
}

const SIZE_WARNING: &str = "Warning: Image size mismatch!";

fn report(tool: &Tool, found: Found) -> Outcome {
    let say = |text: &str| {
        if !tool.quiet {
            outln!("{text}");
        }
    };
    match found {
        Found::Identical { sizes_differ } => {
            if sizes_differ {
                say(SIZE_WARNING);
            }
            say("Images are identical.");
            return Ok(0);
        }
        Found::ContentDiffers { offset, in_tail } => {
            if in_tail {
                say(SIZE_WARNING);
            }
            say(&format!("Content mismatch at offset {offset}!"));
        }
        Found::SizeDiffers => say("Strict mode: Image size mismatch!"),
        Found::StatusDiffers(offset) => say(&format!("Strict mode: Offset {offset} block status mismatch!")),
    }
    Ok(1)
}

fn explain(failure: CompareFailure, names: [&str; 2]) -> Failure {
    match failure {
        CompareFailure::Status(index, _) => {
            Failure::new(format!("Sector allocation test failed for {}", names[index.min(1)])).with_code(3)
        }
        CompareFailure::Read(index, offset, error) => Failure::new(format!(
            "Error while reading offset {offset} of {}: {}",
            names[index.min(1)],
            block::error::strerror(error.errno())
        ))
        .with_code(4),
        CompareFailure::Tail(failure) => explain(*failure, names),
        CompareFailure::Cancelled(error) => Failure::from(error).with_code(4),
    }
}
