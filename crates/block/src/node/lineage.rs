//! Which nodes were made together: those that options inside of another node's options describe, or that its image names.

use std::sync::{Arc, Mutex, PoisonError};

use super::Node;

/// What a node was made for. It outlives the nodes, so that whoever takes the place of one in between can be told.
#[derive(Debug, Default)]
pub(super) struct Lineage(Mutex<Option<Arc<Lineage>>>);

impl Lineage {
    fn above(&self) -> Option<Arc<Self>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Lineage {
    /// A chain may be long: without recursion.
    fn drop(&mut self) {
        let mut next = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        while let Some(mut lineage) = next.and_then(Arc::into_inner) {
            next = lineage.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Node {
    /// Whether the node was opened for `parent`, or for a node that was between the two.
    pub fn is_made_for(&self, parent: &Node) -> bool {
        let mut next = self.lineage.above();
        while let Some(lineage) = next {
            if Arc::ptr_eq(&lineage, &parent.lineage) {
                return true;
            }
            next = lineage.above();
        }
        false
    }

    /// The node is opened for `parent`, which is new.
    pub(crate) fn make_for(&self, parent: &Node) {
        *self.lineage.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&parent.lineage));
    }

    /// The node has lost what it was made for: whoever uses it from now on refers to it.
    pub fn make_independent(&self) {
        *self.lineage.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
