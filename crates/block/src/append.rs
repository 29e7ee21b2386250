//! Overlays that are put over a node in use: its users go to the overlay, whose backing it becomes.
//!
//! The caller drains both nodes ([`Graph::drain_nodes`]): what was written before is below, what is written after is in the
//! overlay.

use std::sync::Arc;

use crate::child::{Child, Parent};
use crate::error::Result;
use crate::graph::Graph;
use crate::node::Node;

/// An overlay that was put over a node, for [`Graph::undo_append`].
pub struct Appended {
    overlay: Arc<Node>,
    node: Arc<Node>,
    /// The edges that led to `node` before.
    moved: Vec<Arc<Child>>,
}

impl Appended {
    /// The overlay.
    pub fn overlay(&self) -> &Arc<Node> {
        &self.overlay
    }

    /// The node below.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

/// Whether a user of a node goes to what is put over the node. Users outside of the graph that have no gate, or an edge
/// with a name of its own, do something with this one node (a job, a change of the size) and stay.
fn follows(parent: &Child, overlay: &Arc<Node>) -> bool {
    match (parent.parent(), parent.parent_node()) {
        (Parent::Outside(_, gate), _) => gate.is_some() && parent.name() == "root",
        (_, Some(above)) => !overlay.is_or_contains(&above),
        _ => false,
    }
}

impl Graph {
    /// Puts `overlay`, which has no backing, over `node`: all users of `node` use the overlay now.
    ///
    /// # Errors
    /// If the overlay takes no backing, is below `node`, or its other users and those of `node` stand against each other.
    /// Then nothing has changed.
    pub fn append(&self, overlay: &Arc<Node>, node: &Arc<Node>) -> Result<Appended> {
        let users: Vec<_> = node.parents().into_iter().filter(|parent| follows(parent, overlay)).collect();
        self.add_backing(overlay, node)?;
        let mut appended =
            Appended { overlay: Arc::clone(overlay), node: Arc::clone(node), moved: Vec::with_capacity(users.len()) };
        for user in users {
            user.replace(Arc::clone(overlay));
            appended.moved.push(user);
        }
        let granted = self.follow(&appended.moved, [overlay, node]);
        if let Err(error) = granted {
            self.undo_append(&appended);
            return Err(error);
        }
        Ok(appended)
    }

    /// Takes an overlay away: the users that [`Graph::append`] has moved go back. The overlay is the caller's to close.
    pub fn undo_append(&self, appended: &Appended) {
        let Appended { overlay, node, moved } = appended;
        let backing = self.take_backing(overlay);
        for user in moved {
            user.replace(Arc::clone(node));
        }
        if let Some(backing) = backing {
            node.remove_parent(&backing);
        }
        // What they had before, they get again.
        if let Err(error) = self.follow(moved, [node, overlay]) {
            tracing::warn!("going back to '{}': {error}", node.name());
        }
    }

    /// Checks users against those of the nodes that they have now, and derives what `nodes` do below.
    fn follow(&self, users: &[Arc<Child>], nodes: [&Arc<Node>; 2]) -> Result<()> {
        for user in users {
            let (used, shared) = user.permissions();
            self.set_permissions(user, used, shared)?;
        }
        for node in nodes {
            let (used, shared) = node.cumulative_permissions();
            self.loosen(node, used, shared)?;
        }
        Ok(())
    }
}
