//! Changes of an image's options while it may be in use.

use std::sync::Arc;

use crate::error::Result;
use crate::graph::Graph;
use crate::image::AmendRequest;
use crate::node::Node;

/// The right to change an image's options, until it is dropped: nobody stands against it.
pub struct Amendment {
    graph: Arc<Graph>,
    node: Arc<Node>,
}

impl Graph {
    /// Asks for the right to change the options of the image of `node`.
    ///
    /// # Errors
    /// The image is read-only, or somebody else uses what would be changed.
    pub fn amend(self: &Arc<Self>, node: &Arc<Node>) -> Result<Amendment> {
        node.driver().set_amending(true);
        let amendment = Amendment { graph: Arc::clone(self), node: Arc::clone(node) };
        self.refresh(node)?;
        Ok(amendment)
    }
}

impl Amendment {
    /// Changes options.
    ///
    /// # Errors
    /// The driver's.
    pub async fn run(self, request: AmendRequest) -> Result<()> {
        self.node.driver().amend(request).await
    }
}

impl Drop for Amendment {
    fn drop(&mut self) {
        self.node.driver().set_amending(false);
        // It asks for less than before.
        if let Err(error) = self.graph.refresh(&self.node) {
            tracing::warn!("locks of '{}': {error}", self.node.name());
        }
    }
}
