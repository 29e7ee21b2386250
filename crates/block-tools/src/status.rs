//! What a chain of images knows of a range: allocation through filters, backings and raw windows.

use std::sync::Arc;

use block::driver::IoFuture;
use block::{DriverKind, Node, Result};

/// The unit in which tools see sizes, bytes.
pub const SECTOR: u64 = 512;

/// What is known of a range.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// Bytes from the start of the question on; 0 only behind the end of the node.
    pub len: u64,
    /// A node of the searched part of the chain says what is read.
    pub allocated: bool,
    /// Reads return stored data.
    pub data: bool,
    /// Reads return zeroes.
    pub zero: bool,
    /// Where in `file` the bytes are, as they are.
    pub offset: Option<u64>,
    /// The node that `offset` means.
    pub file: Option<Arc<Node>>,
    /// How many backings deep the answer was found.
    pub depth: u32,
}

/// The size of a node as tools show it: whole sectors. What is behind the end of the node reads as zeroes.
pub fn size(node: &Node) -> u64 {
    node.len().checked_next_multiple_of(SECTOR).unwrap_or(node.len())
}

/// The first node below `node` (itself included) that is no filter.
pub fn skip_filters(node: &Arc<Node>) -> Arc<Node> {
    let mut node = Arc::clone(node);
    while let Some(child) = node.filtered() {
        node = child.node();
    }
    node
}

/// The backing of a node, below its filters.
pub fn backing_of(node: &Arc<Node>) -> Option<Arc<Node>> {
    skip_filters(node).backing().map(|backing| backing.node())
}

/// What one node (with its filters, without its backing) knows of the range.
pub fn of_node<'a>(node: &'a Arc<Node>, offset: u64, len: u64) -> IoFuture<'a, Extent> {
    Box::pin(async move {
        if let Some(child) = node.filtered() {
            // Filters have no opinion, but may fail on purpose.
            node.driver().block_status(offset, len, false).await?;
            return of_node(&child.node(), offset, len).await;
        }
        let end = size(node);
        if offset >= end {
            return Ok(Extent::default());
        }
        let len = len.min(end - offset);
        if offset >= node.len() {
            // The rest of the last sector.
            let file = Some(data_file(node));
            return Ok(Extent { len, allocated: true, zero: true, offset: Some(offset), file, ..Extent::default() });
        }
        if node.driver_type().name() == "raw" {
            return of_raw(node, offset, len).await;
        }
        let status = node.block_status(offset, len, true).await?;
        // A file may end within a block.
        let block = u64::from(node.driver().limits().request_alignment);
        let mut extent = Extent {
            len: status.len.next_multiple_of(block).min(len),
            allocated: status.allocated || status.data || status.zero,
            data: status.data,
            zero: status.zero,
            offset: status.offset,
            file: None,
            depth: 0,
        };
        if extent.offset.is_some() {
            extent.file = Some(match node.driver_type().kind() {
                DriverKind::Protocol => Arc::clone(node),
                _ => node.driver().data_child_at(offset).map_or_else(|| Arc::clone(node), |child| child.node()),
            });
        }
        if !extent.allocated {
            extent.zero = match node.backing() {
                None => true,
                Some(backing) => offset >= size(&backing.node()),
            };
        }
        Ok(extent)
    })
}

/// Raw nodes have no opinion: the node below answers.
async fn of_raw(node: &Arc<Node>, offset: u64, len: u64) -> Result<Extent> {
    let len = len.min(size(node).saturating_sub(offset));
    let Some(child) = node.driver().data_child() else { return Ok(Extent::default()) };
    let at = node.driver().block_status(offset, len, false).await?.offset.unwrap_or(offset);
    let mut below = of_node(&child.node(), at, len).await?;
    if below.len == 0 {
        below = Extent { len, allocated: true, zero: true, ..Extent::default() };
    }
    below.len = below.len.min(len);
    Ok(below)
}

fn data_file(node: &Arc<Node>) -> Arc<Node> {
    match (node.driver_type().kind(), node.driver().data_child()) {
        (DriverKind::Protocol, _) | (_, None) => Arc::clone(node),
        (_, Some(child)) => data_file(&child.node()),
    }
}

/// What the chain from `top` down to `base` (not included; all of it without one) knows of the range.
///
/// # Errors
/// The drivers'.
pub async fn above(top: &Arc<Node>, base: Option<&Arc<Node>>, offset: u64, len: u64) -> Result<Extent> {
    let mut node = Arc::clone(top);
    let mut wanted = len;
    let mut depth = 0;
    loop {
        let mut extent = of_node(&node, offset, wanted).await?;
        if extent.len == 0 && depth > 0 {
            // A backing that is shorter than its overlay reads as zeroes.
            return Ok(Extent { len: wanted, allocated: true, zero: true, depth, ..Extent::default() });
        }
        extent.depth = depth;
        if extent.allocated || extent.len == 0 {
            return Ok(extent);
        }
        wanted = extent.len;
        match backing_of(&node) {
            Some(backing) if !base.is_some_and(|base| Arc::ptr_eq(&skip_filters(base), &skip_filters(&backing))) => {
                node = backing;
                depth += 1;
            }
            _ => return Ok(extent),
        }
    }
}

/// As a map shows the range: the first node that says data or zero.
///
/// # Errors
/// The drivers'.
pub async fn mapped(top: &Arc<Node>, offset: u64, len: u64) -> Result<Extent> {
    let mut node = skip_filters(top);
    let mut wanted = len;
    let mut depth = 0;
    loop {
        let mut extent = of_node(&node, offset, wanted).await?;
        extent.depth = depth;
        if extent.len == 0 {
            return Ok(Extent { len: wanted, zero: true, depth, ..Extent::default() });
        }
        if extent.data || extent.zero {
            return Ok(extent);
        }
        wanted = extent.len;
        let Some(backing) = backing_of(&node) else {
            // Nobody says what is read.
            return Ok(Extent { len: wanted, depth, ..Extent::default() });
        };
        node = skip_filters(&backing);
        depth += 1;
    }
}

/// The cluster size of a node's format, bytes.
pub fn cluster_size(node: &Arc<Node>) -> Option<u64> {
    skip_filters(node).driver().details().cluster_size.filter(|size| *size != 0)
}

/// Whether what nobody has written to a new image reads as zeroes.
pub fn zero_initialised(node: &Arc<Node>) -> IoFuture<'static, bool> {
    let node = skip_filters(node);
    Box::pin(async move {
        if node.driver_type().kind() == DriverKind::Protocol {
            return Ok(node.driver_type().name() == "file");
        }
        if node.backing().is_some() {
            return Ok(false);
        }
        if node.driver_type().name() != "raw" {
            let details = node.driver().details();
            if !details.unallocated_is_zero {
                return Ok(false);
            }
            // What was allocated when the image was made has the contents of its file, as the image sees them.
            let first = of_node(&node, 0, 1).await?;
            if first.zero || !first.allocated {
                return Ok(true);
            }
            if details.encrypted {
                return Ok(false);
            }
        }
        match node.driver().data_child() {
            Some(child) => zero_initialised(&child.node()).await,
            None => Ok(false),
        }
    })
}

/// Shows an internal snapshot of an image: `parameter` is its id or name, or `snapshot.id=…,snapshot.name=…`.
///
/// # Errors
/// There is none of that name, or the format has none.
pub async fn load_snapshot(node: &Arc<Node>, parameter: &str) -> Result<()> {
    const CONTEXT: &str = "Failed to load snapshot";
    let node = skip_filters(node);
    let name = if parameter.starts_with("snapshot.") {
        let mut options = crate::keyval::to_options(parameter, None);
        let id = options.take_str("snapshot.id").map_err(|error| error.context(CONTEXT))?;
        let name = options.take_str("snapshot.name").map_err(|error| error.context(CONTEXT))?;
        let snapshots = node.driver().snapshots().map_err(|error| error.context(CONTEXT))?;
        let found = snapshots.into_iter().find(|snapshot| {
            id.as_ref().is_none_or(|id| *id == snapshot.id) && name.as_ref().is_none_or(|name| *name == snapshot.name)
        });
        found.map(|snapshot| snapshot.id)
    } else {
        Some(parameter.to_owned())
    };
    let name = name.ok_or_else(|| block::Error::not_found("Can't find snapshot").context(CONTEXT))?;
    let unsupported = format!(
        "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
        node.driver_type().name()
    );
    node.driver().snapshot_load(name).await.map_err(|error| {
        let error = if error.is_unsupported() { error.with_message(unsupported) } else { error };
        error.context(CONTEXT)
    })
}
