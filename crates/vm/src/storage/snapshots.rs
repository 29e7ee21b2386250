//! Snapshots: overlays over what a disk holds, and those inside of an image.
//!
//! Each is a transaction of one action; what an action does is in [`super::transaction`].

use std::sync::Arc;

use block::Node;
use qapi::Error;
use qapi::block::image::SnapshotInfo;
use qapi::block::snapshots::{
    BlockdevSnapshot, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternal, BlockdevSnapshotSync,
};
use qapi::block::transaction::TransactionAction;

use super::reopen::Held;
use super::{Storage, client_error, info};

impl Storage {
    /// `blockdev-snapshot-sync`. `done` is told on the control thread.
    pub fn snapshot_sync(
        &mut self,
        snapshot: BlockdevSnapshotSync,
        now: u64,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        self.transact(vec![TransactionAction::BlockdevSnapshotSync(snapshot)], None, now, done);
    }

    /// `blockdev-snapshot`. `done` is told on the control thread.
    pub fn snapshot(
        &mut self,
        snapshot: BlockdevSnapshot,
        now: u64,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        self.transact(vec![TransactionAction::BlockdevSnapshot(snapshot)], None, now, done);
    }

    /// `blockdev-snapshot-internal-sync`. `now` is the guest's time, nanoseconds. `done` is told on the control thread.
    pub fn snapshot_internal(
        &mut self,
        snapshot: BlockdevSnapshotInternal,
        now: u64,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        self.transact(vec![TransactionAction::BlockdevSnapshotInternalSync(snapshot)], None, now, done);
    }

    /// `blockdev-snapshot-delete-internal-sync`. `done` is told on the control thread what it was.
    pub fn delete_internal_snapshot(
        &self,
        command: &BlockdevSnapshotDeleteInternalSync,
        done: impl FnOnce(&mut Storage, Result<SnapshotInfo, Error>) + Send + 'static,
    ) {
        let planned = self.plan_deletion(command);
        let graph = Arc::clone(&self.graph);
        let work = move || {
            let (held, image, found) = planned?;
            let deleted = aio::block_on(async {
                let _drained = graph.drain(held.node()).await;
                image.driver().snapshot_delete(found.id.clone()).await
            });
            deleted.map(|()| info::snapshot(found)).map_err(client_error)
        };
        self.aside.run_to_the_end(work, done);
    }

    /// The disk, the node of the image, and the snapshot that is deleted.
    fn plan_deletion(
        &self,
        command: &BlockdevSnapshotDeleteInternalSync,
    ) -> Result<(Held, Arc<Node>, block::image::SnapshotInfo), Error> {
        let root = self.root_node(&command.device)?;
        let (id, name) = (command.id.as_deref(), command.name.as_deref());
        if id.is_none() && name.is_none() {
            return Err(Error::generic("Name or id must be provided"));
        }
        self.check_unblocked(&root)?;
        let image = snapshot_image(&root);
        let known = image.as_ref().map_or_else(|| Ok(Vec::new()), |image| image.driver().snapshots());
        let known = known.map_err(|error| client_error(error.context("Failed to get a snapshot list")))?;
        let is_it = |info: &block::image::SnapshotInfo| {
            id.is_none_or(|id| info.id == id) && name.is_none_or(|name| info.name == name)
        };
        let (Some(image), Some(found)) = (image, known.into_iter().find(is_it)) else {
            return Err(Error::generic(format!(
                "Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                id.unwrap_or("null"),
                name.unwrap_or("null"),
                command.device
            )));
        };
        if image.is_read_only() {
            return Err(Error::generic(format!("Device '{}' is read only", command.device)));
        }
        Ok((Held::new(&self.graph, &root, "blockdev-snapshot-delete-internal-sync")?, image, found))
    }

    /// The node that is the root of a disk: the medium of a back end, or a node that no other one and no job uses.
    ///
    /// # Errors
    /// There is no such node, or one uses it.
    pub(super) fn root_node(&self, name: &str) -> Result<Arc<Node>, Error> {
        let node = self.node_by(Some(name), Some(name))?;
        if node.parents().iter().any(|edge| edge.parent_node().is_some() || edge.name() != "root") {
            return Err(Error::generic("Need a root block node"));
        }
        Ok(node)
    }
}

/// The node whose image has the snapshots of a disk: itself, or the only node that it passes everything to.
pub(crate) fn snapshot_image(node: &Arc<Node>) -> Option<Arc<Node>> {
    let mut node = Arc::clone(node);
    while !node.driver().has_snapshots() {
        let below = match &node.driver().children()[..] {
            [child] => child.node(),
            _ => return None,
        };
        node = below;
    }
    Some(node)
}
