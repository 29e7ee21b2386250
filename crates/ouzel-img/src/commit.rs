//! `commit`: writes what an overlay has into an image below it.
//!
//! The images of the chain are opened one by one without their backings, because the base is written while it is the
//! backing of the others in name only.

use std::sync::Arc;

use block::gate::Gate;
use block::{Child, Options};
use block_tools::open::Access;
use block_tools::{commit, keyval, status};

use crate::cli::{self, Failure, Outcome, parse};
use crate::tool::{self, Bar, Tool};

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [("help", false, "h"), ("object", true, "object"), ("image-opts", false, "image-opts")];
    let parsed = parse(args, "f:ht:b:dpqr:", &long)?;
    let rate_limit = parsed.value("r").map(|text| cli::size("rate limit", text)).transpose()?;
    let filename = parsed.one_operand()?;
    let tool = Tool::new(&parsed)?;
    let (cache, _) = tool::cache(parsed.value("t"), "writeback", "Invalid cache option")?;
    let base = parsed.value("b");
    // Emptying the overlay is only sound if the base is right below it.
    let keep = parsed.has("d") || base.is_some();
    let bar = Bar::new(parsed.has("p") && !tool.quiet, 1.0);
    aio::block_on(async {
        let mut access = Access { write: true, unmap: true, cache, ..Access::default() };
        access.flags.no_backing = true;
        let top = tool.open(filename, parsed.value("f"), access).await?;
        bar.set(0.0);
        let mut chain = vec![top];
        let given = if tool.image_opts { keyval::to_options(filename, Some("file")) } else { Options::new() };
        let job = Job { tool: &tool, filename, base, rate_limit, access, given };
        let result = job.run(&mut chain, &bar).await;
        let result = match result {
            Ok(()) if !keep => empty(&chain[0]).await,
            other => other,
        };
        let mut closed = Ok(());
        for child in &chain {
            closed = closed.and(tool.close(child).await);
        }
        result?;
        closed?;
        if !tool.quiet {
            outln!("Image committed.");
        }
        Ok(0)
    })
}

async fn empty(top: &Arc<Child>) -> Result<(), Failure> {
    let image = status::skip_filters(&top.node());
    match image.driver().make_empty().await {
        Err(error) if !error.is_unsupported() => {
            Err(error.context(format!("Failed to empty {}", block::filename::of(&image))).into())
        }
        _ => Ok(()),
    }
}

/// The options that open the backing of an image: those that were given for it, and the name that the image has for it.
fn backing_options(child: &Arc<Child>, given: &Options) -> Option<(String, Options)> {
    let node = status::skip_filters(&child.node());
    let backing = node.driver().image_backing()?;
    let name = block::filename::combine(&block::filename::of(&node), &backing.file);
    let named = block_tools::open::file_options(&name, backing.format.as_deref());
    let has_file = given.iter().any(|(option, _)| option == "filename" || option.starts_with("file"));
    let mut options = if has_file { Options::new() } else { named.clone() };
    if has_file && let Some(driver) = named.get("driver") {
        options.set("driver", driver.clone());
    }
    for (option, value) in given.iter() {
        options.set(option, value.clone());
    }
    Some((name, options))
}

struct Job<'a> {
    tool: &'a Tool,
    filename: &'a str,
    base: Option<&'a str>,
    rate_limit: Option<u64>,
    access: Access,
    /// The options of the topmost image, those of its backings among them.
    given: Options,
}

impl Job<'_> {
    async fn run(mut self, chain: &mut Vec<Arc<Child>>, bar: &Bar) -> Result<(), Failure> {
        let mut access = self.access;
        loop {
            let Some(last) = chain.last() else { return Ok(()) };
            let mut options = self.given.take_below("backing");
            self.given = options.take_below("backing");
            for (option, value) in std::mem::take(&mut self.given).iter() {
                self.given.set(&format!("backing.{option}"), value.clone());
            }
            let Some((name, options)) = backing_options(last, &options) else {
                return Err(Failure::new(match self.base {
                    None => "Image does not have a backing file".to_owned(),
                    Some(base) => format!("Did not find '{base}' in the backing chain of '{}'", self.filename),
                }));
            };
            let is_base = self.base.is_none_or(|base| is_same(&name, base, last));
            access.write = is_base;
            access.resize = is_base;
            // What the base says of ranges that it does not have itself is up to its own backing.
            access.flags.no_backing = !is_base;
            let child = block_tools::open::open(&self.tool.graph, options, access)
                .await
                .map_err(|error| Failure::from(error.context(format!("Could not open '{name}'"))))?;
            chain.push(child);
            if is_base {
                break;
            }
        }
        let Some((base, layers)) = chain.split_last() else { return Ok(()) };
        commit::commit(layers, base, &Gate::new(), self.rate_limit, bar)
            .await
            .map_err(|error| Failure::new(format!("Block job failed: {}", block::error::strerror(error.errno()))))
    }
}

/// Whether `wanted`, seen from the overlay, means its backing `name`.
fn is_same(name: &str, wanted: &str, overlay: &Arc<Child>) -> bool {
    let wanted = block::filename::combine(&block::filename::of(&status::skip_filters(&overlay.node())), wanted);
    name == wanted || matches!((std::fs::canonicalize(name), std::fs::canonicalize(&wanted)), (Ok(a), Ok(b)) if a == b)
}
