//! The commit of the human monitor: images are emptied into their backings, away from the control thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Graph, Node};
use block_jobs::commit_at_once::CommitAtOnce;
use block_tools::status;

use super::reopen::Held;
use super::{Storage, info};

/// A commit that has to be done.
pub struct HumanCommit {
    graph: Arc<Graph>,
    reopening: Arc<Mutex<()>>,
    /// The name that messages have.
    name: String,
    /// They stay until they are committed.
    images: Vec<Held>,
}

impl Storage {
    /// What `commit` means: one disk, or all that have a backing.
    ///
    /// # Errors
    /// There is no such disk, or it has no medium.
    pub fn plan_commit(&self, name: &str) -> Result<HumanCommit, String> {
        let images: Vec<_> = if name == "all" {
            let media = self.graph.backends().into_iter().filter_map(|backend| backend.node());
            media.map(|node| status::skip_filters(&node)).filter(|image| image.backing().is_some()).collect()
        } else {
            let backend = self.graph.backend(name).ok_or_else(|| format!("Device '{name}' not found"))?;
            vec![backend.node().map(info::explicit).ok_or_else(|| format!("Device '{name}' has no medium"))?]
        };
        let held = images.iter().map(|image| Held::new(&self.graph, image, "commit"));
        let images = held.collect::<Result<Vec<_>, _>>().map_err(|error| error.desc)?;
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
        self.images
            .iter()
            .try_for_each(|image| self.commit(image.node()))
            .map_err(|error| format!("'commit' error for '{}': {}", self.name, block::error::strerror(error.errno())))
    }

    fn commit(&self, image: &Arc<Node>) -> block::Result<()> {
        // The control thread may wait for the lock: what takes long is done without it.
        let drained = aio::block_on(self.graph.drain(image));
        let commit = {
            let _no_other_change = self.alone();
            aio::block_on(CommitAtOnce::begin(&self.graph, image, drained))?
        };
        let copied = aio::block_on(commit.copy());
        let _no_other_change = self.alone();
        copied.and(aio::block_on(commit.end()))
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.reopening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
