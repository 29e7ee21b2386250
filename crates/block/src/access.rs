//! Nodes that become read-only, or writable again, while they are in use: the image below an overlay, the image whose
//! header is changed.

use std::sync::Arc;

use crate::driver::IoFuture;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::node::{Node, NodeConfig};
use crate::open::GENERIC_OPTIONS;
use crate::options::Options;
use crate::permissions::Permissions;

impl Graph {
    /// Makes a node read-only, with the nodes that were opened for it alone, under drain.
    ///
    /// # Errors
    /// Somebody writes to it, or the driver can't do it. Then nothing has changed.
    pub fn make_read_only<'a>(&'a self, node: &'a Arc<Node>) -> IoFuture<'a> {
        Box::pin(async move { if node.is_read_only() { Ok(()) } else { self.end_writing(node).await } })
    }

    /// Makes a node writable, with the nodes that were opened for it alone, under drain.
    ///
    /// # Errors
    /// The host does not allow it, somebody stands against it, or the driver can't do it. Then nothing has changed.
    pub fn make_writable<'a>(&'a self, node: &'a Arc<Node>) -> IoFuture<'a> {
        Box::pin(async move { if node.is_read_only() { self.begin_writing(node).await } else { Ok(()) } })
    }

    /// The nodes below that nobody else holds: they are what their parent is.
    fn own_children(&self, node: &Arc<Node>) -> Vec<Arc<Node>> {
        let below = node.driver().children().into_iter().map(|child| child.node());
        below.filter(|below| !self.is_adopted(below) && below.parents().len() == 1).collect()
    }

    async fn end_writing(&self, node: &Arc<Node>) -> Result<()> {
        let (used, shared) = node.cumulative_permissions();
        if !(used & (Permissions::WRITE | Permissions::WRITE_UNCHANGED)).is_empty() {
            return Err(Error::permission("Cannot make block node read-only, there is a writer on it"));
        }
        node.flush().await?;
        node.driver().reopen(own_options(node), true).await?;
        node.set_config(NodeConfig { read_only: true, ..node.config() });
        self.loosen(node, used, shared)?;
        for below in self.own_children(node) {
            // The image may be read-only and its file not.
            if let Err(error) = self.make_read_only(&below).await {
                tracing::debug!("'{}' stays writable: {error}", below.name());
            }
        }
        Ok(())
    }

    async fn begin_writing(&self, node: &Arc<Node>) -> Result<()> {
        let mut changed = Vec::new();
        let result = async {
            for below in self.own_children(node) {
                if below.is_read_only() && below.options().take_bool("read-only")? == Some(true) {
                    // Its user has said so of this very node.
                    return Err(Error::permission("Block node is read-only"));
                }
                self.make_writable(&below).await?;
                changed.push(below);
            }
            node.set_config(NodeConfig { read_only: false, ..node.config() });
            let (used, shared) = node.cumulative_permissions();
            self.loosen(node, used, shared)?;
            node.driver().reopen(own_options(node), false).await
        };
        let result = result.await;
        if result.is_err() {
            node.set_config(NodeConfig { read_only: true, ..node.config() });
            let (used, shared) = node.cumulative_permissions();
            if let Err(error) = self.loosen(node, used, shared) {
                tracing::warn!("giving up locks below '{}': {error}", node.name());
            }
            for below in changed {
                if let Err(error) = self.make_read_only(&below).await {
                    tracing::warn!("'{}' stays writable: {error}", below.name());
                }
            }
        }
        result
    }
}

/// The options of the driver alone, as it was opened.
fn own_options(node: &Node) -> Options {
    let children = node.children();
    let is_own = |name: &str| {
        let first = name.split('.').next().unwrap_or_default();
        !GENERIC_OPTIONS.contains(&name) && first != "cache" && !children.iter().any(|child| child.name() == first)
    };
    let mut own = Options::new();
    for (name, value) in node.options().iter().filter(|(name, _)| is_own(name)) {
        own.set(name, value.clone());
    }
    // Options with a dot are not kept with the node, as those of its children: a key.
    for (name, value) in node.driver().strong_options().iter().filter(|(name, _)| is_own(name)) {
        own.set_default(name, value.clone());
    }
    if node.driver().reopens_cache() {
        own.set("cache.direct", node.config().cache.direct);
    }
    own
}
