//! `bench`: many requests in flight, and how long they took.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use block::{Child, WriteFlags};
use block_tools::open::{self, Access};
use block_tools::parallel::Set;
use block_tools::status;
use iobuf::IoBuf;
use tokio::sync::{Mutex, RwLock};

use crate::cli::{self, Failure, Outcome, Parsed, parse};
use crate::tool::Tool;

/// What is to be done.
struct Plan {
    count: u64,
    depth: u64,
    offset: u64,
    size: u64,
    step: u64,
    write: bool,
    stable: bool,
    pattern: u8,
    flush_interval: u64,
    drain: bool,
}

fn integer(parsed: &Parsed, name: &str, default: u64, max: u64, what: &str) -> Result<u64, Failure> {
    match parsed.value(name) {
        None => Ok(default),
        Some(text) => block::options::parse_u64(text)
            .filter(|value| *value <= max)
            .ok_or_else(|| Failure::new(format!("Invalid {what} specified"))),
    }
}

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("flush-interval", true, "flush-interval"),
        ("image-opts", false, "image-opts"),
        ("pattern", true, "pattern"),
        ("no-drain", false, "no-drain"),
        ("force-share", false, "U"),
    ];
    let parsed = parse(args, "hc:d:f:ni:o:qs:S:t:wU", &long)?;
    let int_max = i32::MAX.unsigned_abs().into();
    let mut access = Access { write: parsed.has("w"), ..Access::default() };
    let mut stable = false;
    if let Some(name) = parsed.value("t") {
        (access.cache, stable) = open::parse_cache(name).ok_or_else(|| Failure::new("Invalid cache mode"))?;
    }
    let aio = if parsed.has("n") { Some("native") } else { parsed.value("i") };
    if let Some(name) = aio
        && !matches!(name, "threads" | "native" | "io_uring")
    {
        return Err(Failure::new(format!("Invalid aio option: {name}")));
    }
    let size = parsed.value("s").map_or(Ok(4096), |text| cli::number("buffer size", text, 0, int_max))?;
    let step = parsed.value("S").map_or(Ok(0), |text| cli::number("step_size", text, 0, int_max))?;
    let plan = Plan {
        count: integer(&parsed, "c", 75000, int_max, "request count")?,
        depth: integer(&parsed, "d", 64, int_max, "queue depth")?,
        offset: parsed.value("o").map_or(Ok(0), |text| cli::size("offset", text))?,
        size,
        step: if step == 0 { size } else { step },
        write: parsed.has("w"),
        stable,
        pattern: u8::try_from(integer(&parsed, "pattern", 0, 255, "pattern byte")?).unwrap_or(0),
        flush_interval: integer(&parsed, "flush-interval", 0, int_max, "flush interval")?,
        drain: !parsed.has("no-drain"),
    };
    let filename = parsed.one_operand()?;
    if !plan.write && plan.flush_interval != 0 {
        return Err(Failure::new("--flush-interval is only available in write tests"));
    }
    if plan.flush_interval != 0 && plan.flush_interval < plan.depth {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    let tool = Tool::new(&parsed)?;
    aio::block_on(async {
        let child = open_with_aio(&tool, filename, parsed.value("f"), aio, access).await?;
        outln!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
            plan.count,
            if plan.write { "write" } else { "read" },
            plan.size,
            plan.depth,
            plan.offset,
            plan.step
        );
        if plan.flush_interval != 0 {
            outln!("Sending flush every {} requests", plan.flush_interval);
        }
        let started = Instant::now();
        let result = plan.run(&child).await;
        let elapsed = started.elapsed();
        let closed = tool.close(&child).await;
        result.map_err(|error| Failure::new(format!("Failed request: {}", block::error::strerror(error.errno()))))?;
        closed?;
        outln!("Run completed in {:.3} seconds.", elapsed.as_secs_f64());
        Ok(0)
    })
}

/// The engine is an option of the protocol node.
async fn open_with_aio(
    tool: &Tool,
    name: &str,
    format: Option<&str>,
    aio: Option<&str>,
    access: Access,
) -> Result<std::sync::Arc<Child>, Failure> {
    let Some(aio) = aio.filter(|_| !tool.image_opts && block::filename::protocol_of(name).is_none()) else {
        return tool.open(name, format, access).await;
    };
    let mut options =
        block::Options::new().with("file.driver", "file").with("file.filename", name).with("file.aio", aio);
    if let Some(format) = format {
        options.set("driver", format);
    }
    if tool.force_share {
        options.set("force-share", "on");
    }
    tool.open_named(name, options, access).await
}

impl Plan {
    async fn run(&self, child: &Child) -> block::Result<()> {
        let image = status::size(&child.node()).max(1);
        let next = AtomicU64::new(0);
        let finished = AtomicU64::new(0);
        // Requests hold it for reading, a draining flush for writing.
        let gate = RwLock::new(());
        let flushes = Mutex::new(());
        let mut workers = Set::default();
        for _ in 0..self.depth.min(self.count).max(1) {
            workers.push(async {
                let buf = IoBuf::zeroed(usize::try_from(self.size).unwrap_or(0));
                buf.fill(0, buf.len(), self.pattern);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= self.count {
                        return Ok(());
                    }
                    let offset = (self.offset + index.wrapping_mul(self.step)) % image;
                    if self.size > image - offset {
                        return Err(block::Error::io("The request lies behind the end of the image"));
                    }
                    let pass = gate.read().await;
                    if self.write {
                        let flags = WriteFlags { fua: self.stable, ..WriteFlags::default() };
                        child.write(offset, buf.clone(), flags).await?;
                    } else {
                        child.read(offset, buf.clone()).await?;
                    }
                    drop(pass);
                    let done = finished.fetch_add(1, Ordering::Relaxed) + 1;
                    if self.flush_interval != 0 && done.is_multiple_of(self.flush_interval) {
                        if self.drain {
                            let _all = gate.write().await;
                            child.flush().await?;
                        } else {
                            let _one = flushes.lock().await;
                            child.flush().await?;
                        }
                    }
                }
            });
        }
        let failed: Cell<Option<block::Error>> = Cell::new(None);
        for result in workers.join().await {
            if let Err(error) = result {
                failed.set(Some(error));
            }
        }
        failed.into_inner().map_or(Ok(()), Err)
    }
}
