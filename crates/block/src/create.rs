//! Creating images.

use std::sync::Arc;

use crate::child::Child;
use crate::driver::DriverType;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::node::NodeConfig;
use crate::open::{Defaults, OpenFlags};
use crate::options::Options;
use crate::permissions::Permissions;
use crate::request::{Preallocation, ZeroFlags};

/// The type of a creation option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOptionKind {
    /// A size in bytes with an optional suffix.
    Size,
    /// `on` or `off`.
    Bool,
    /// Any text.
    Text,
    /// A number.
    Number,
}

/// One option of image creation.
#[derive(Clone, Copy, Debug)]
pub struct CreateOption {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: CreateOptionKind,
    /// A line of help.
    pub help: &'static str,
    /// The default, as help shows it.
    pub default: Option<&'static str>,
}

/// Options of image creation by name. Values are text or typed, as in [`Options`].
pub type CreateOptions = Options;

/// What is to be created. For a format, `file` is the empty, writable protocol node; for a protocol, `filename` is.
#[derive(Clone)]
pub struct CreateRequest {
    /// Where other nodes are opened.
    pub graph: Arc<Graph>,
    /// The node to write to (formats).
    pub file: Option<Arc<Child>>,
    /// The name that was asked for.
    pub filename: String,
    /// The size of the disk, bytes.
    pub size: u64,
    /// Everything else, without `size`. A driver takes what it knows; the caller refuses what is left.
    pub options: CreateOptions,
    /// A second node for formats with an external data file.
    pub data_file: Option<Arc<Child>>,
}

impl CreateRequest {
    /// The node to write to.
    ///
    /// # Errors
    /// If there is none.
    pub fn target(&self) -> Result<Arc<Child>> {
        self.file.clone().ok_or_else(|| Error::invalid("Image creation needs a node to write to"))
    }

    /// Refuses options that nobody took.
    ///
    /// # Errors
    /// Names the first one.
    pub fn finish(self) -> Result<()> {
        match self.options.iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid(format!("Invalid parameter '{name}'"))),
        }
    }
}

/// Options of [`in_place`].
pub const IN_PLACE_OPTIONS: &[CreateOption] = &[
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "preallocation",
        kind: CreateOptionKind::Text,
        help: "Preallocation mode (allowed values: off)",
        default: None,
    },
];

/// "Creates" what exists already and can't be made: a device, the export of a server. It must be large enough; its
/// first sector is zeroed, so that no former format is recognised.
///
/// # Errors
/// It can't be opened for writing, or is too small.
pub async fn in_place(driver: &'static dyn DriverType, mut request: CreateRequest) -> Result<()> {
    let mode = request.options.take_choice("preallocation", &Preallocation::NAMES)?.unwrap_or(0);
    if mode != 0 {
        let name = Preallocation::NAMES[mode];
        return Err(Error::unsupported(format!("Unsupported preallocation mode '{name}'")));
    }
    let (graph, size) = (Arc::clone(&request.graph), request.size);
    let options = driver.parse_filename(&request.filename)?.with("driver", driver.name());
    request.finish()?;
    let config = NodeConfig { read_only: false, ..NodeConfig::default() };
    let node = graph.open(options, Defaults::new(config, OpenFlags::default())).await?;
    let used = Permissions::WRITE | Permissions::RESIZE;
    let child = graph.attach_root(&node, "image creation", used, Permissions::ALL)?;
    let result = async {
        match child.truncate(size, false, Preallocation::Off).await {
            Err(error) if error.is_unsupported() && child.len() >= size => {}
            result => result?,
        }
        let flags = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
        child.write_zeroes(0, child.len().min(512), flags).await?;
        child.flush().await
    };
    let result = result.await;
    let closed = graph.detach(&child).await;
    result.and(closed)
}

/// How large would an image be?
#[derive(Clone)]
pub struct MeasureRequest {
    /// The source of the data, if there is one.
    pub source: Option<Arc<Child>>,
    /// The size of the disk, bytes; that of the source if there is one.
    pub size: u64,
    /// Options of creation.
    pub options: CreateOptions,
}

/// The answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Bytes for an image with the source's data.
    pub required: u64,
    /// Bytes if all of the disk is written.
    pub fully_allocated: u64,
    /// Bytes of the source's bitmaps.
    pub bitmaps: Option<u64>,
}
