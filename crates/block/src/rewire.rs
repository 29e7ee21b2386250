//! Edges below a node in use that come, go and move: the children of drivers that have a list of them, and backings.
//!
//! All of it happens under drain; the caller drains the parent.

use std::sync::{Arc, OnceLock};

use crate::child::{Child, Parent, Role};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::node::Node;
use crate::permissions;

impl Graph {
    /// An edge below `parent` with the permissions that follow from the users of `parent`.
    fn new_edge(&self, parent: &Arc<Node>, name: &str, role: Role, node: &Arc<Node>) -> Result<Arc<Child>> {
        if node.is_or_contains(parent) {
            let (node, parent) = (node.name(), parent.name());
            return Err(Error::invalid(format!("Making '{node}' a {name} child of '{parent}' would create a cycle")));
        }
        let child = Child::new(name, role, Arc::clone(node), Parent::Node(OnceLock::new()));
        child.set_parent_node(parent);
        let (used, shared) = parent.cumulative_permissions();
        let (used, shared) = permissions::of_child(role, parent.is_read_only(), used, shared);
        match self.set_permissions(&child, used, shared) {
            Ok(()) => Ok(child),
            Err(error) => {
                node.remove_parent(&child);
                Err(error)
            }
        }
    }

    /// Gives a driver with a list of children one more.
    ///
    /// # Errors
    /// If the driver has no list or takes no more, or somebody uses `node` already or stands against it.
    pub fn add_child(&self, parent: &Arc<Node>, node: &Arc<Node>) -> Result<()> {
        let Some(list) = parent.driver().child_list() else {
            return Err(Error::unsupported(format!("The node {} does not support adding a child", parent.name())));
        };
        if !node.parents().is_empty() {
            return Err(Error::busy(format!("The node {} already has a parent", node.name())));
        }
        let (name, role) = list.next_child()?;
        list.add_child(self.new_edge(parent, &name, role, node)?);
        Ok(())
    }

    /// Takes a child from a driver with a list of them. Its node is closed if nobody else holds it.
    ///
    /// # Errors
    /// If the driver has no list or needs the child, or the last writes of a node that is closed fail.
    pub async fn remove_child(&self, parent: &Arc<Node>, child: &Arc<Child>) -> Result<()> {
        let Some(list) = parent.driver().child_list() else {
            return Err(Error::unsupported(format!("The node {} does not support removing a child", parent.name())));
        };
        list.remove_child(child)?;
        self.detach(child).await
    }

    /// Attaches a backing to a node without one. The caller takes care that it holds what the overlay expects.
    ///
    /// # Errors
    /// If the driver takes no backing or has one, or other users of `backing` stand against it.
    pub fn add_backing(&self, node: &Arc<Node>, backing: &Arc<Node>) -> Result<()> {
        let Some(slot) = node.backing_slot() else {
            return Err(Error::invalid(format!(
                "Driver '{}' of node '{}' does not support backing files",
                node.driver_type().name(),
                node.name()
            )));
        };
        if slot.get().is_some() {
            return Err(Error::busy(format!("'{}' has a backing file already", node.name())));
        }
        let child = self.new_edge(node, "backing", Role::Cow, backing)?;
        slot.set(Some(child));
        Ok(())
    }

    /// Takes a node's backing away: what the overlay lacks reads as zeroes. The edge comes back for [`Graph::detach`]
    /// or [`Graph::restore_backing`].
    pub fn take_backing(&self, node: &Arc<Node>) -> Option<Arc<Child>> {
        node.backing_slot().and_then(|slot| slot.set(None))
    }

    /// Undoes [`Graph::take_backing`].
    pub fn restore_backing(&self, node: &Arc<Node>, backing: Arc<Child>) {
        if let Some(slot) = node.backing_slot() {
            slot.set(Some(backing));
        }
    }
}

impl Node {
    /// Whether this is `other`, or `other` is below it.
    pub fn is_or_contains(self: &Arc<Self>, other: &Node) -> bool {
        std::ptr::eq(&raw const **self, other) || self.children().iter().any(|child| child.node().is_or_contains(other))
    }
}
