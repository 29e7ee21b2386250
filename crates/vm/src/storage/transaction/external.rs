//! External snapshots: an overlay is put over a node, which becomes read-only.

use std::sync::Arc;

use block::image::ImageBacking;
use block::{
    Appended, Defaults, DetectZeroes, DriverKind, Node, NodeConfig, OpenFlags, Options, Permissions, filename,
};
use block_tools::create::Creation;
use qapi::Error;
use qapi::block::snapshots::{BlockdevSnapshot, BlockdevSnapshotSync, NewImageMode};

use super::{Prepared, Storage};
use crate::storage::client_error;

/// The overlay is over the node.
struct External(Appended);

impl Prepared for External {
    fn commit(self: Box<Self>, storage: &Storage) {
        let (overlay, node) = (self.0.overlay(), self.0.node());
        // What is copied when it is read is written below the overlay.
        if node.driver_type().name() != "copy-on-read"
            && let Err(error) = aio::block_on(storage.graph.make_read_only(node))
        {
            tracing::debug!("'{}' stays writable: {error}", node.name());
        }
        if overlay.len() != node.len() {
            for backend in storage.graph.backends() {
                if backend.node().is_some_and(|medium| Arc::ptr_eq(&medium, overlay))
                    && let Some(device) = backend.device()
                {
                    device.resized();
                }
            }
        }
        close(storage, overlay);
    }

    fn abort(self: Box<Self>, storage: &Storage) {
        storage.graph.undo_append(&self.0);
        close(storage, self.0.overlay());
    }
}

/// Closes a node if nobody uses or holds it.
fn close(storage: &Storage, node: &Arc<Node>) {
    if let Err(error) = aio::block_on(storage.graph.close(node)) {
        tracing::warn!("closing '{}': {error}", node.name());
    }
}

/// A snapshot of the node may be made, and everything that was written to it is stable.
fn settle(storage: &Storage, node: &Arc<Node>) -> Result<(), Error> {
    storage.check_no_backing(node)?;
    storage.check_unblocked(node)?;
    if !node.is_read_only()
        && let Err(error) = aio::block_on(node.flush())
    {
        tracing::debug!("flushing '{}': {error}", node.name());
        return Err(Error::generic("An IO error has occurred"));
    }
    Ok(())
}

/// `blockdev-snapshot`.
pub fn node(storage: &Storage, snapshot: &BlockdevSnapshot) -> Result<Box<dyn Prepared>, Error> {
    let node = storage.node_by(Some(&snapshot.node), Some(&snapshot.node))?;
    settle(storage, &node)?;
    let overlay = storage.node_by(Some(&snapshot.overlay), Some(&snapshot.overlay))?;
    append(storage, &overlay, &node)
}

/// `blockdev-snapshot-sync`.
pub fn file(storage: &Storage, snapshot: &BlockdevSnapshotSync) -> Result<Box<dyn Prepared>, Error> {
    let node = storage.node_by(snapshot.device.as_deref(), snapshot.node_name.as_deref())?;
    settle(storage, &node)?;
    let name = snapshot.snapshot_node_name.as_deref();
    if snapshot.node_name.is_some() && name.is_none() {
        return Err(Error::generic("New overlay node-name missing"));
    }
    if name.is_some_and(|name| storage.node_by(Some(name), Some(name)).is_ok()) {
        return Err(Error::generic("New overlay node-name already in use"));
    }
    let format = snapshot.format.as_deref().unwrap_or("qcow2");
    if snapshot.mode.unwrap_or(NewImageMode::AbsolutePaths) == NewImageMode::AbsolutePaths {
        create(storage, &snapshot.snapshot_file, format, &node)?;
    }
    let mut options = Options::new().with("filename", snapshot.snapshot_file.as_str()).with("driver", format);
    if let Some(name) = name {
        options.set("node-name", name);
    }
    let config = NodeConfig { detect_zeroes: DetectZeroes::Off, ..node.config() };
    let flags = OpenFlags { no_backing: true, ..OpenFlags::default() };
    let opened = aio::block_on(storage.graph.open(options, Defaults::new(config, flags)));
    let overlay = opened.map_err(client_error)?;
    append(storage, &overlay, &node).inspect_err(|_| close(storage, &overlay))
}

/// Makes the image of an overlay of `node`.
fn create(storage: &Storage, path: &str, format: &str, node: &Arc<Node>) -> Result<(), Error> {
    let backing = backing_of(node);
    let created = aio::block_on(async {
        let mut creation = Creation::new(&storage.graph, format, path)?;
        creation.values.set("size", &node.len().next_multiple_of(512).to_string())?;
        creation.set_backing(Some(&backing.file), backing.format.as_deref())?;
        creation.resolve_backing(&storage.graph, false).await?;
        // QEMU says so, too, and those who drive it read it.
        println!("Formatting '{path}', fmt={format} {}", creation.values.describe());
        creation.run(&storage.graph).await
    });
    created.map_err(client_error)
}

/// How an image names `node` as its backing: the filters above the image are no part of that.
fn backing_of(node: &Arc<Node>) -> ImageBacking {
    let mut image = Arc::clone(node);
    while image.driver_type().kind() == DriverKind::Filter
        && let Some(below) = image.filtered()
    {
        image = below.node();
    }
    ImageBacking { file: filename::of(&image), format: Some(image.driver_type().name().to_owned()) }
}

fn append(storage: &Storage, overlay: &Arc<Node>, node: &Arc<Node>) -> Result<Box<dyn Prepared>, Error> {
    let refuse = |text: &str| Err(Error::generic(text));
    // Who just writes (the target of a copy) has not seen yet what is there.
    let is_medium = storage
        .graph
        .backends()
        .iter()
        .any(|backend| backend.node().is_some_and(|medium| Arc::ptr_eq(&medium, overlay)));
    if is_medium || overlay.cumulative_permissions().0.contains(Permissions::CONSISTENT_READ) {
        return refuse("The overlay is already in use");
    }
    if overlay.driver_type().kind() == DriverKind::Filter {
        return refuse("Filters cannot be used as overlays");
    }
    if overlay.backing().is_some() {
        return refuse("The overlay already has a backing image");
    }
    if !overlay.driver_type().supports_backing() {
        return refuse("The overlay does not support backing images");
    }
    let appended = storage.graph.append(overlay, node).map_err(client_error)?;
    Ok(Box::new(External(appended)))
}
