//! `convert`: copies images into a new or existing one of another format.

use std::sync::Arc;

use block::{Child, DriverType, Options};
use block_tools::copy::{self, Copy, Failure as CopyFailure, MAX_BUFFER, Order};
use block_tools::create::Creation;
use block_tools::open::Access;
use block_tools::{keyval, status};

use crate::bitmap;
use crate::cli::{self, Failure, Long, Outcome, Parsed, parse};
use crate::tool::{self, Bar, Tool, option_list};

const SHORT: &str = "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:";
const LONG: &[Long] = &[
    ("help", false, "h"),
    ("object", true, "object"),
    ("image-opts", false, "image-opts"),
    ("force-share", false, "U"),
    ("target-image-opts", false, "target-image-opts"),
    ("salvage", false, "salvage"),
    ("bitmaps", false, "bitmaps"),
    ("skip-broken-bitmaps", false, "skip-broken-bitmaps"),
    ("target-is-zero", false, "target-is-zero"),
];
const MAX_WORKERS: usize = 16;

/// What the command line asks for.
struct Request {
    parsed: Parsed,
    options: Option<String>,
    sources: Vec<String>,
    target: String,
    format: Option<String>,
    sparse: u64,
    workers: usize,
    rate_limit: Option<u64>,
    compressed: bool,
    existing: bool,
}

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let parsed = parse(args, SHORT, LONG)?;
    if option_list(&parsed)?.as_deref().is_some_and(keyval::asks_for_help) {
        let tool = Tool::new(&parsed)?;
        let target = parsed.operands.split_last().filter(|(_, rest)| !rest.is_empty()).map(|(last, _)| last.as_str());
        return crate::create::option_help(&tool, target, parsed.value("O").unwrap_or("raw"));
    }
    let request = Request::new(parsed)?;
    let tool = Tool::new(&request.parsed)?;
    let (source_cache, _) = tool::cache(request.parsed.value("T"), "writeback", "Invalid source cache option")?;
    let (cache, writethrough) = tool::cache(request.parsed.value("t"), "unsafe", "Invalid cache option")?;
    let bar = Bar::new(request.parsed.has("p") && !tool.quiet, 1.0);
    bar.set(0.0);
    let source = Access { exclusive: true, cache: source_cache, ..Access::default() };
    let target = Access { write: true, unmap: request.sparse != 0, cache, resize: cache.direct, ..Access::default() };
    aio::block_on(async {
        let mut sources = Vec::new();
        let mut result = request.open_sources(&tool, source, &mut sources).await;
        if result.is_ok() {
            result = request.convert(&tool, &sources, target, writethrough, &bar).await;
        }
        for source in &sources {
            let _ = tool.close(source).await;
        }
        result?;
        bar.set(100.0);
        Ok(0)
    })
}

impl Request {
    fn new(parsed: Parsed) -> Result<Self, Failure> {
        check_snapshot_parameter(&parsed)?;
        let options = option_list(&parsed)?;
        let existing = parsed.has("n");
        let compressed = parsed.has("c");
        let sparse = match parsed.value("S") {
            None => 4096,
            Some(text) => {
                let sparse = cli::size("buffer size for sparse output", text)?;
                if !sparse.is_multiple_of(status::SECTOR) || sparse > MAX_BUFFER {
                    return Err(Failure::new(format!(
                        "Invalid buffer size for sparse output specified. Valid sizes are multiples of {} up to {}. \
                         Select 0 to disable sparse detection (fully allocates output).",
                        status::SECTOR,
                        MAX_BUFFER
                    )));
                }
                sparse
            }
        };
        let workers = match parsed.value("m") {
            None => 8,
            Some(text) => text.parse().ok().filter(|workers| (1..=MAX_WORKERS).contains(workers)).ok_or_else(|| {
                Failure::new(format!(
                    "Invalid number of coroutines. Allowed number of coroutines is between 1 and {MAX_WORKERS}"
                ))
            })?,
        };
        let rate_limit = parsed.value("r").map(|text| cli::size("rate limit", text)).transpose()?;
        let target_options = parsed.has("target-image-opts");
        let refuse = |condition: bool, message: &str| if condition { Err(Failure::new(message)) } else { Ok(()) };
        refuse(
            parsed.has("skip-broken-bitmaps") && !parsed.has("bitmaps"),
            "Use of --skip-broken-bitmaps requires --bitmaps",
        )?;
        refuse(compressed && parsed.has("C"), "Cannot enable copy offloading when -c is used")?;
        refuse(parsed.has("S") && parsed.has("C"), "Cannot enable copy offloading when -S is used")?;
        refuse(parsed.has("salvage") && parsed.has("C"), "Cannot use copy offloading in salvaging mode")?;
        refuse(target_options && !existing, "--target-image-opts requires use of -n flag")?;
        refuse(existing && options.is_some(), "-o has no effect when skipping image creation")?;
        refuse(parsed.has("target-is-zero") && !existing, "--target-is-zero requires use of -n flag")?;
        let format = match parsed.value("O") {
            None if target_options => None,
            format => Some(format.unwrap_or("raw").to_owned()),
        };
        let mut sources = parsed.operands.clone();
        let target = sources.pop().unwrap_or_default();
        refuse(sources.is_empty(), "Must specify image file name")?;
        Ok(Self { options, sources, target, format, sparse, workers, rate_limit, compressed, existing, parsed })
    }

    async fn open_sources(&self, tool: &Tool, access: Access, opened: &mut Vec<Arc<Child>>) -> Result<(), Failure> {
        for name in &self.sources {
            opened.push(tool.open(name, self.parsed.value("f"), access).await?);
        }
        let Some(snapshot) = self.parsed.value("l") else { return Ok(()) };
        let Some(first) = opened.first() else { return Ok(()) };
        if opened.len() > 1 && !snapshot.starts_with("snapshot.") {
            return Err(Failure::new("No support for concatenating multiple snapshot"));
        }
        load_snapshot(first, snapshot).await
    }

    async fn convert(
        &self,
        tool: &Tool,
        sources: &[Arc<Child>],
        access: Access,
        writethrough: bool,
        bar: &Bar,
    ) -> Result<(), Failure> {
        let total: u64 = sources.iter().map(|source| status::size(&source.node())).fold(0, u64::saturating_add);
        let creation = if self.existing { None } else { Some(self.prepare(tool, total)?) };
        let given = |name: &str| creation.as_ref().and_then(|creation| creation.values.get(name)).map(str::to_owned);
        let has_backing = given("backing_file").is_some() || self.parsed.has("B");
        self.check_combination(creation.as_ref(), &given, has_backing)?;
        let with_bitmaps = sources.first().filter(|_| self.parsed.has("bitmaps")).map(|source| source.node());
        if let Some(source) = &with_bitmaps {
            if sources.len() > 1 {
                return Err(Failure::new("Copying bitmaps only possible with single source"));
            }
            bitmap::check_source(source, self.parsed.has("skip-broken-bitmaps"))?;
        }
        let mut options = block_tools::open::file_options(&self.target, self.format.as_deref());
        if let Some(creation) = &creation {
            pass_secrets(creation, &mut options);
            creation.run(&tool.graph).await.map_err(|error| {
                let format = self.format.as_deref().unwrap_or("");
                Failure::from(error.context(format!("{}: error while converting {format}", self.target)))
            })?;
        }
        let target = if self.parsed.has("target-image-opts") {
            tool.open_options(&self.target, None, access).await?
        } else {
            tool.open_named(&self.target, options, access).await?
        };
        let result = async {
            if with_bitmaps.is_some() && !bitmap::stores_bitmaps(&target.node()) {
                let format = status::skip_filters(&target.node()).driver_type().name();
                return Err(Failure::new(format!("Format driver '{format}' does not support bitmaps")));
            }
            self.copy(sources, &target, total, has_backing, writethrough, bar).await?;
            with_bitmaps.as_ref().map_or(Ok(()), |source| bitmap::copy(source, &target.node()))
        }
        .await;
        let closed = tool.close(&target).await;
        result?;
        closed.map_err(|error| Failure::from(error.context(format!("error while closing '{}'", self.target))))
    }

    /// Checks the options of creation.
    fn prepare(&self, tool: &Tool, total: u64) -> Result<Creation, Failure> {
        let mut creation = Creation::new(&tool.graph, self.format.as_deref().unwrap_or("raw"), &self.target)?;
        if let Some(options) = &self.options {
            creation.values.parse(options)?;
        }
        creation.values.set("size", &total.to_string())?;
        creation.set_backing(self.parsed.value("B"), self.parsed.value("F"))?;
        Ok(creation)
    }

    fn check_combination(
        &self,
        creation: Option<&Creation>,
        given: &dyn Fn(&str) -> Option<String>,
        has_backing: bool,
    ) -> Result<(), Failure> {
        let refuse = |condition: bool, message: &str| if condition { Err(Failure::new(message)) } else { Ok(()) };
        refuse(
            has_backing && self.parsed.has("target-is-zero"),
            "Cannot use --target-is-zero when the destination image has a backing file",
        )?;
        refuse(
            has_backing && self.sources.len() > 1,
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        )?;
        refuse(
            given("backing_file").is_some() && given("backing_fmt").is_none(),
            "Use of backing file requires explicit backing format",
        )?;
        if !self.compressed {
            return Ok(());
        }
        refuse(
            creation.is_some_and(|creation| !can_compress(creation.format)),
            "Compression not supported for this file format",
        )?;
        let encrypted = given("encryption").is_some_and(|value| value == "on") || given("encrypt.format").is_some();
        refuse(encrypted, "Compression and encryption not supported at the same time")?;
        refuse(
            given("preallocation").is_some_and(|mode| mode != "off"),
            "Compression and preallocation not supported at the same time",
        )
    }

    async fn copy(
        &self,
        sources: &[Arc<Child>],
        target: &Arc<Child>,
        total: u64,
        has_backing: bool,
        writethrough: bool,
        bar: &Bar,
    ) -> Result<(), Failure> {
        let node = target.node();
        let format = status::skip_filters(&node).driver_type();
        if self.compressed && !can_compress(format) {
            return Err(Failure::new("Compression not supported for this file format"));
        }
        if self.existing && status::size(&node) < total {
            return Err(Failure::new("output file is smaller than input file"));
        }
        let backing = status::backing_of(&node);
        let compressed = self.compressed || node.driver().details().compressed;
        let is_fresh = !self.existing && self.sparse != 0 && !has_backing;
        let fresh_zeroes = is_fresh && status::zero_initialised(&node).await?;
        let order = match (format.name(), compressed) {
            _ if self.parsed.has("W") => Order::Any,
            // Clusters are compressed beside each other; only streams have an order. Nothing is allocated in a raw file.
            ("raw", _) => Order::Started,
            (name, true) if name != "vmdk" => Order::Started,
            // One after the other, so that what is allocated is in order, too.
            _ => Order::Finished,
        };
        let copy = Copy {
            sources: sources.to_vec(),
            target: Arc::clone(target),
            sparse: self.sparse,
            compressed,
            zero_initialised: fresh_zeroes || self.parsed.has("target-is-zero"),
            has_backing,
            backing_len: backing.filter(|_| has_backing && !self.existing).map(|backing| status::size(&backing)),
            workers: self.workers,
            order,
            salvage: self.parsed.has("salvage"),
            offload: self.parsed.has("C"),
            stable: writethrough,
            rate_limit: self.rate_limit,
        };
        copy::run(&copy, bar).await.map_err(|failure| {
            let text = |error: &block::Error| block::error::strerror(error.errno());
            Failure::new(match &failure {
                CopyFailure::Status(offset, error) => {
                    format!("error while reading block status at offset {offset}: {}", text(error))
                }
                CopyFailure::Read(offset, error) => format!("error while reading at byte {offset}: {}", text(error)),
                CopyFailure::Write(offset, error) => format!("error while writing at byte {offset}: {}", text(error)),
                CopyFailure::Other(error) => error.to_string(),
            })
        })
    }
}

/// Whether images of a format can hold compressed data.
fn can_compress(format: &dyn DriverType) -> bool {
    matches!(format.name(), "qcow" | "qcow2" | "vmdk")
}

/// A new encrypted image is opened with the secrets that it was created with.
fn pass_secrets(creation: &Creation, options: &mut Options) {
    for (name, value) in creation.values.to_options().iter() {
        if name.ends_with("key-secret") || (name == "encrypt.format") {
            options.set(name, value.clone());
        }
    }
}

/// Refuses a wrong `-l snapshot.…` before anything else is looked at.
pub fn check_snapshot_parameter(parsed: &Parsed) -> Result<(), Failure> {
    for parameter in parsed.values("l").filter(|parameter| parameter.starts_with("snapshot.")) {
        let names = keyval::parse(parameter, None);
        if let Some((unknown, _)) = names.iter().find(|(name, _)| name != "snapshot.id" && name != "snapshot.name") {
            tool::complain(format!("Invalid parameter '{unknown}'"));
            return Err(Failure::new(format!("Failed in parsing snapshot param '{parameter}'")));
        }
    }
    Ok(())
}

/// Shows a snapshot of an image: `name`, or `snapshot.id=…,snapshot.name=…`.
pub async fn load_snapshot(child: &Arc<Child>, parameter: &str) -> Result<(), Failure> {
    status::load_snapshot(&child.node(), parameter).await.map_err(Failure::from)
}
