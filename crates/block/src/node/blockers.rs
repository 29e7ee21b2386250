//! Who does not want a node to be touched meanwhile, and nodes that nobody asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Node;

/// The reasons why operations of a client on a node are refused.
#[derive(Default)]
pub struct Blockers {
    reasons: Mutex<Vec<(u64, String)>>,
    next: AtomicU64,
}

/// A reason that holds until it is dropped.
pub struct Blocker {
    blockers: Arc<Blockers>,
    id: u64,
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.blockers.reasons.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != self.id);
    }
}

impl Node {
    /// Lets operations of clients on this node be refused, as `block device is in use by block job: mirror`.
    pub fn block_operations(&self, reason: &str) -> Blocker {
        let id = self.blockers.next.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.blockers.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.push((id, reason.to_owned()));
        Blocker { blockers: Arc::clone(&self.blockers), id }
    }

    /// Why operations of clients on this node are refused, if they are.
    pub fn blocked_by(&self) -> Option<String> {
        let reasons = self.blockers.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.last().map(|(_, reason)| reason.clone())
    }

    /// Marks a filter that a job has made on its own.
    pub fn set_implicit(&self, implicit: bool) {
        self.implicit.store(implicit, Ordering::Release);
    }

    /// Whether nobody has asked for this filter: media are shown without it.
    pub fn is_implicit(&self) -> bool {
        self.implicit.load(Ordering::Acquire)
    }
}

impl Node {
    /// Forgets an edge that uses nothing any more, without closing the node.
    pub fn forget_edge(&self, edge: &Arc<crate::child::Child>) {
        self.remove_parent(edge);
    }
}
