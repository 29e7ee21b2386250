//! The commit of the human monitor: images are emptied into their backings, away from the control thread.

use std::sync::{Arc, Mutex, PoisonError};

use block::{Backend, Graph, Node};
use block_jobs::commit_at_once::commit_at_once;
use block_tools::status;

use super::Storage;

/// A commit that has to be done.
pub struct HumanCommit {
    graph: Arc<Graph>,
    reopening: Arc<Mutex<()>>,
    /// The name that messages have.
    name: String,
    images: Vec<Arc<Node>>,
}

/// The medium without the filters that jobs have put above it.
fn medium(backend: &Backend) -> Option<Arc<Node>> {
    let mut node = backend.node()?;
    while node.is_implicit() {
        node = node.filtered()?.node();
    }
    Some(node)
}

impl Storage {
    /// What `commit` means: one disk, or all that have a backing.
    ///
    /// # Errors
    /// There is no such disk, or it has no medium.
    pub fn plan_commit(&self, name: &str) -> Result<HumanCommit, String> {
        let images = if name == "all" {
            let media = self.graph.backends().into_iter().filter_map(|backend| backend.node());
            media.map(|node| status::skip_filters(&node)).filter(|image| image.backing().is_some()).collect()
        } else {
            let backend = self.graph.backend(name).ok_or_else(|| format!("Device '{name}' not found"))?;
            vec![medium(&backend).ok_or_else(|| format!("Device '{name}' has no medium"))?]
        };
        let (graph, reopening) = (Arc::clone(&self.graph), Arc::clone(&self.reopening));
        Ok(HumanCommit { graph, reopening, name: name.to_owned(), images })
    }
}

impl HumanCommit {
    /// Does it.
    ///
    /// # Errors
    /// The first error.
    pub fn run(self) -> Result<(), String> {
        let _no_other_change = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        for image in &self.images {
            aio::block_on(commit_at_once(&self.graph, image)).map_err(|error| {
                format!("'commit' error for '{}': {}", self.name, block::error::strerror(error.errno()))
            })?;
        }
        Ok(())
    }
}
