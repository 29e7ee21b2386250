//! Edges below a node in use that come, go and move: the children of drivers that have a list of them, and backings.
//!
//! All of it happens under drain; the caller drains the parent.

use std::sync::{Arc, OnceLock};

use crate::child::{Child, Parent, Role};
use crate::driver::{Driver, DriverType};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::node::{Node, NodeConfig};
use crate::options::Options;
use crate::permissions::{self, Permissions};

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
        let (used, shared) = permissions::of_edge(parent, &child, used, shared);
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

    /// Takes a child from a driver with a list of them, under drain. Then follows [`Graph::detach`].
    ///
    /// # Errors
    /// If the driver has no list or needs the child.
    pub fn take_child(&self, parent: &Arc<Node>, child: &Arc<Child>) -> Result<()> {
        let Some(list) = parent.driver().child_list() else {
            return Err(Error::unsupported(format!("The node {} does not support removing a child", parent.name())));
        };
        list.remove_child(child)
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

/// A node that a job puts above another one.
pub struct Above<'a> {
    /// Its name; one is generated if absent, and the node is not shown as a medium.
    pub name: Option<&'a str>,
    /// The kind of driver.
    pub driver_type: &'static dyn DriverType,
    /// The name of the edge to the node below.
    pub edge: &'static str,
    /// Further edges: their names, roles and nodes.
    pub others: &'a [(&'static str, Role, Arc<Node>)],
}

impl Graph {
    /// Puts a filter above `node`, under drain: who used `node` uses the filter afterwards. `make` gets the edge to
    /// `node` and the others. Opposite: [`Graph::dissolve`].
    ///
    /// # Errors
    /// If the name is wrong or what the filter does conflicts with other users; then nothing has changed.
    pub fn insert_above(
        &self,
        node: &Arc<Node>,
        above: &Above<'_>,
        make: impl FnOnce(Vec<Arc<Child>>) -> Arc<dyn Driver>,
    ) -> Result<Arc<Node>> {
        let name = match above.name {
            Some(name) => {
                self.check_new_name(name)?;
                name.to_owned()
            }
            None => self.generate_name(),
        };
        let edge = Child::new(above.edge, Role::Filtered, Arc::clone(node), Parent::Node(OnceLock::new()));
        let config = NodeConfig { read_only: node.is_read_only(), discard: true, ..NodeConfig::default() };
        let mut edges = vec![Arc::clone(&edge)];
        for (name, role, node) in above.others {
            edges.push(Child::new(name, *role, Arc::clone(node), Parent::Node(OnceLock::new())));
        }
        let driver = make(edges.clone());
        let filter = Node::new(name, above.driver_type, driver, Options::new(), config, Arc::default());
        filter.set_implicit(above.name.is_none());
        self.register(&filter)?;
        let moved: Vec<_> = node.parents().into_iter().filter(|user| !leads_from(user, &filter)).collect();
        for user in &moved {
            user.replace(Arc::clone(&filter));
        }
        let (used, shared) = filter.cumulative_permissions();
        for child in filter.children() {
            let (used, shared) = permissions::of_edge(&filter, &child, used, shared);
            if let Err(error) = self.set_permissions(&child, used, shared) {
                for child in filter.children() {
                    child.store_permissions(Permissions::NONE, Permissions::ALL);
                }
                for user in &moved {
                    user.replace(Arc::clone(node));
                }
                self.forget(&filter);
                for edge in &edges {
                    let below = edge.node();
                    below.remove_parent(edge);
                    let (used, shared) = below.cumulative_permissions();
                    self.loosen(&below, used, shared)?;
                }
                return Err(error);
            }
        }
        Ok(filter)
    }

    /// Lets the users of `from` use `to` instead, under drain, but for those that are below `to` or made by it.
    ///
    /// # Errors
    /// If that conflicts with other users of `to`; then nothing has changed.
    pub fn move_users(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
        self.move_edges(from.parents().into_iter().filter(|user| !leads_from(user, to)), to)
    }

    /// Points edges to `to`; all of them or none.
    fn move_edges(&self, edges: impl Iterator<Item = Arc<Child>>, to: &Arc<Node>) -> Result<()> {
        let moved: Vec<_> = edges.map(|edge| (edge.replace(Arc::clone(to)), edge)).collect();
        let refreshed = self.refresh(to);
        if refreshed.is_err() {
            for (from, edge) in &moved {
                edge.replace(Arc::clone(from));
            }
            for (from, _) in &moved {
                let (used, shared) = from.cumulative_permissions();
                self.loosen(from, used, shared)?;
            }
        }
        refreshed
    }

    /// Takes a filter out, under drain: its users use `to` instead, which is what it filtered or its replacement. The
    /// filter is closed.
    ///
    /// # Errors
    /// If its users conflict with those of `to`; then nothing has changed. Or what closing gives.
    pub async fn dissolve(&self, filter: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
        self.dissolve_with(filter, to, &[]).await
    }

    /// As [`Graph::dissolve`]; the edges `others` lead to `to`, too, from then on.
    ///
    /// # Errors
    /// If one of the users conflicts with those of `to`; then nothing has changed. Or what closing gives.
    pub async fn dissolve_with(&self, filter: &Arc<Node>, to: &Arc<Node>, others: &[Arc<Child>]) -> Result<()> {
        let held: Vec<_> = filter.children().into_iter().map(|child| (child.permissions(), child)).collect();
        for (_, child) in &held {
            child.store_permissions(Permissions::NONE, Permissions::ALL);
        }
        // A replacement that has the filter below itself has what was filtered there from now on.
        let filtered = held.first().map(|(_, child)| child.node());
        let inner: Vec<_> = filter.parents().into_iter().filter(|user| leads_from(user, to)).collect();
        for (user, below) in inner.iter().zip(filtered.iter().cycle()) {
            user.replace(Arc::clone(below));
        }
        let users = filter.parents().into_iter().chain(others.iter().cloned());
        if let Err(error) = self.move_edges(users.filter(|user| !leads_from(user, to)), to) {
            for user in inner {
                user.replace(Arc::clone(filter));
            }
            for ((used, shared), child) in held {
                child.store_permissions(used, shared);
            }
            return Err(error);
        }
        for (_, child) in &held {
            let node = child.node();
            let (used, shared) = node.cumulative_permissions();
            self.loosen(&node, used, shared)?;
        }
        self.close(filter).await
    }

    /// Exchanges the backing of `node`, under drain.
    ///
    /// # Errors
    /// If the new one can't be attached, which leaves the node without a backing, or what closing the old one gives.
    pub async fn exchange_backing(&self, node: &Arc<Node>, backing: Option<&Arc<Node>>) -> Result<()> {
        let old = self.take_backing(node);
        if let Some(old) = &old {
            // Its users below must not stand against the new ones.
            old.store_permissions(Permissions::NONE, Permissions::ALL);
        }
        let attached = backing.map_or(Ok(()), |backing| self.add_backing(node, backing));
        let detached = match &old {
            Some(old) => self.detach(old).await,
            None => Ok(()),
        };
        attached.and(detached)
    }
}

/// Whether an edge is below `node` or belongs to it.
fn leads_from(edge: &Child, node: &Arc<Node>) -> bool {
    edge.parent_node().is_some_and(|parent| node.is_or_contains(&parent))
}

impl Node {
    /// Whether this is `other`, or `other` is below it.
    pub fn is_or_contains(self: &Arc<Self>, other: &Node) -> bool {
        std::ptr::eq(&raw const **self, other) || self.children().iter().any(|child| child.node().is_or_contains(other))
    }
}
