//! Opening images the way tools do: a file name or options, a cache mode, permissions.

use std::sync::Arc;

use block::{CacheMode, Child, Defaults, Error, Graph, NodeConfig, OpenFlags, Options, Permissions, Result};

/// How an image is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// For writing.
    pub write: bool,
    /// The size will be changed.
    pub resize: bool,
    /// Nobody else may write to it meanwhile.
    pub exclusive: bool,
    /// Discards reach the image.
    pub unmap: bool,
    /// The cache mode.
    pub cache: CacheMode,
    /// Node flags.
    pub flags: OpenFlags,
}

/// A cache mode by its name, and whether each write must be stable at once.
pub fn parse_cache(name: &str) -> Option<(CacheMode, bool)> {
    let mode = |direct, no_flush| CacheMode { direct, no_flush };
    Some(match name {
        "none" | "off" => (mode(true, false), false),
        "directsync" => (mode(true, false), true),
        "writeback" => (mode(false, false), false),
        "unsafe" => (mode(false, true), false),
        "writethrough" => (mode(false, false), true),
        _ => return None,
    })
}

/// Opens a tree and attaches a user to it.
///
/// # Errors
/// What opening gives, and permissions that conflict with other users.
pub async fn open(graph: &Arc<Graph>, mut options: Options, access: Access) -> Result<Arc<Child>> {
    let mut access = access;
    if let Some(read_only) = options.get("read-only") {
        let mut one = Options::new().with("read-only", read_only.clone());
        if one.take_bool("read-only")? == Some(true) {
            access.write = false;
        }
    }
    if access.flags.force_share {
        options.set("force-share", true);
    }
    let config =
        NodeConfig { read_only: !access.write, discard: access.unmap, cache: access.cache, ..NodeConfig::default() };
    let only_node = options.get_str("node-name").map(str::to_owned).filter(|_| options.iter().count() == 1);
    let node = match only_node {
        Some(name) => graph.find(&name)?,
        None => graph.open(options, Defaults::new(config, access.flags)).await?,
    };
    let mut used = Permissions::CONSISTENT_READ;
    if access.write && !node.is_read_only() {
        used = used | Permissions::WRITE;
    }
    if access.resize && !node.is_read_only() {
        used = used | Permissions::RESIZE;
    }
    let shared =
        if access.exclusive { Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED } else { Permissions::ALL };
    match graph.attach_root(&node, "", used, shared) {
        Ok(child) => Ok(child),
        Err(error) => {
            let _ = graph.close(&node).await;
            Err(error)
        }
    }
}

/// Puts a temporary image on top of `base`, which nobody finds in the file system.
///
/// # Errors
/// What creating and opening it give.
pub async fn overlay(graph: &Arc<Graph>, base: Arc<Child>, access: Access) -> Result<Arc<Child>> {
    let directory = std::env::var("TMPDIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    let path = format!("{directory}/vl.{}", std::process::id());
    let mut creation = crate::create::Creation::new(graph, "qcow2", &path)?;
    creation.values.set("size", &crate::status::size(&base.node()).to_string())?;
    creation.run(graph).await?;
    let options = file_options(&path, Some("qcow2")).with("backing", base.node().name());
    let overlay = open(graph, options, Access { write: true, ..access }).await;
    let _ = std::fs::remove_file(&path);
    graph.detach(&base).await?;
    overlay
}

/// The error with its hint, as tools print it.
pub fn text_with_hint(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\n{hint}"),
        None => error.to_string(),
    }
}

/// The options that a file name and perhaps a format stand for.
pub fn file_options(filename: &str, format: Option<&str>) -> Options {
    let mut options = Options::new().with("filename", filename);
    if let Some(format) = format {
        options.set("driver", format);
    }
    options
}

/// The driver that creates and opens the file `filename`.
///
/// # Errors
/// If the name has a prefix that no driver knows.
pub fn protocol_of(graph: &Graph, filename: &str) -> Result<&'static dyn block::DriverType> {
    let by_prefix = graph.registry().iter().find(|t| t.prefixes().iter().any(|prefix| filename.starts_with(prefix)));
    if let Some(protocol) = by_prefix {
        return Ok(protocol);
    }
    if let Some(prefix) = block::filename::protocol_of(filename) {
        return Err(Error::invalid(format!("Unknown protocol '{prefix}'")));
    }
    let driver = block::file::driver_for_path(filename);
    graph.registry().find(driver).ok_or_else(|| Error::invalid(format!("Unknown driver '{driver}'")))
}
