//! `check`: looks for inconsistencies, and repairs them.

use std::sync::Arc;

use block::image::{CheckResult, FixMode};
use block::{Node, Value};
use block_tools::json;
use block_tools::open::Access;

use crate::cli::{Failure, Outcome, parse};
use crate::tool::{self, Format, Tool, output_format};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("format", true, "f"),
        ("repair", true, "r"),
        ("output", true, "output"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hf:r:T:qU", &long)?;
    let fix = match parsed.value("r") {
        None => FixMode::default(),
        Some("leaks") => FixMode { leaks: true, errors: false },
        Some("all") => FixMode { leaks: true, errors: true },
        Some(other) => {
            return Err(Failure::usage(format!("Unknown option value for -r (expecting 'leaks' or 'all'): {other}")));
        }
    };
    let filename = parsed.one_operand()?;
    let format = output_format(&parsed)?;
    let (cache, _) = tool::cache(parsed.value("T"), "writeback", "Invalid source cache option")?;
    let tool = Tool::new(&parsed)?;
    let mut access = Access { write: parsed.has("r"), cache, ..Access::default() };
    access.flags.check = true;
    aio::block_on(async {
        let child = tool.open(filename, parsed.value("f"), access).await?;
        let outcome = check(&tool, &child.node(), filename, fix, format).await;
        let closed = tool.close(&child).await;
        let code = outcome?;
        closed?;
        Ok(code)
    })
}

async fn check(tool: &Tool, node: &Arc<Node>, filename: &str, fix: FixMode, format: Format) -> Outcome {
    let say = |text: &str| {
        if !tool.quiet {
            out!("{text}");
        }
    };
    let mut result = match run_check(node, fix).await {
        Err(error) if error.is_unsupported() => {
            return Err(Failure::new("This image format does not support checks").with_code(63));
        }
        result => result,
    };
    if let Ok(first) = &result
        && (first.corruptions_fixed != 0 || first.leaks_fixed != 0)
    {
        if format == Format::Human {
            say(&format!(
                "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
                 Double checking the fixed image now...\n",
                first.leaks_fixed, first.corruptions_fixed
            ));
        }
        let fixed = (first.leaks_fixed, first.corruptions_fixed);
        result = run_check(node, FixMode::default()).await.map(|mut second| {
            (second.leaks_fixed, second.corruptions_fixed) = fixed;
            second
        });
    }
    let result = result.map_err(|error| {
        if error.hint().is_some() {
            // What can be done about it.
            tool::complain(block_tools::open::text_with_hint(&error));
        }
        Failure::new(format!("Check failed: {}", block::error::strerror(error.errno())))
    })?;
    match format {
        Format::Human => say(&human(&result)),
        Format::Json => say(&format!("{}\n", json::pretty(&value(&result, node, filename)))),
    }
    if result.check_errors != 0 {
        return Err(Failure::new("Check failed"));
    }
    Ok(match (result.corruptions, result.leaks) {
        (0, 0) => 0,
        (0, _) => 3,
        _ => 2,
    })
}

/// Checks, and prints what was found on the error stream.
async fn run_check(node: &Arc<Node>, fix: FixMode) -> block::Result<CheckResult> {
    let result = node.driver().check(fix).await?;
    for message in &result.messages {
        eprintln!("{message}");
    }
    Ok(result)
}

fn human(check: &CheckResult) -> String {
    let mut text = String::new();
    if check.corruptions == 0 && check.leaks == 0 && check.check_errors == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    if check.corruptions != 0 {
        text.push_str(&format!(
            "\n{} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n",
            check.corruptions
        ));
    }
    if check.leaks != 0 {
        text.push_str(&format!(
            "\n{} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n",
            check.leaks
        ));
    }
    if check.check_errors != 0 {
        text.push_str(&format!("\n{} internal errors have occurred during the check.\n", check.check_errors));
    }
    if check.total_clusters != 0 && check.allocated_clusters != 0 {
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        text.push_str(&format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            check.allocated_clusters,
            check.total_clusters,
            percent(check.allocated_clusters, check.total_clusters),
            percent(check.fragmented_clusters, check.allocated_clusters),
            percent(check.compressed_clusters, check.allocated_clusters),
        ));
    }
    if check.image_end_offset != 0 {
        text.push_str(&format!("Image end offset: {}\n", check.image_end_offset));
    }
    text
}

fn value(check: &CheckResult, node: &Arc<Node>, filename: &str) -> Value {
    let mut entries: Vec<(String, Value)> = vec![
        ("filename".to_owned(), filename.into()),
        ("format".to_owned(), node.driver_type().name().into()),
        ("check-errors".to_owned(), check.check_errors.into()),
    ];
    for (name, number) in [
        ("image-end-offset", check.image_end_offset),
        ("corruptions", check.corruptions),
        ("leaks", check.leaks),
        ("corruptions-fixed", check.corruptions_fixed),
        ("leaks-fixed", check.leaks_fixed),
        ("total-clusters", check.total_clusters),
        ("allocated-clusters", check.allocated_clusters),
        ("fragmented-clusters", check.fragmented_clusters),
        ("compressed-clusters", check.compressed_clusters),
    ] {
        if number != 0 {
            entries.push((name.to_owned(), number.into()));
        }
    }
    Value::Dict(entries)
}
