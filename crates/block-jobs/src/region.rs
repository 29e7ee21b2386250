//! Ranges of a disk that somebody copies or writes just now: nobody else touches them meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

struct Held {
    id: u64,
    start: u64,
    end: u64,
}

/// The ranges in use.
#[derive(Default)]
pub(crate) struct Regions {
    held: Mutex<Vec<Held>>,
    next: AtomicU64,
    freed: Notify,
}

/// A range in use; dropping it frees it.
pub(crate) struct Region {
    regions: Arc<Regions>,
    id: u64,
}

impl Regions {
    fn with<R>(&self, visit: impl FnOnce(&mut Vec<Held>) -> R) -> R {
        visit(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The end of a range in use that overlaps this one.
    pub(crate) fn overlap(&self, start: u64, end: u64) -> Option<u64> {
        self.with(|held| held.iter().filter(|one| one.start < end && start < one.end).map(|one| one.end).max())
    }

    /// Takes a range, if nobody has any of it.
    pub(crate) fn try_take(self: &Arc<Self>, start: u64, end: u64) -> Option<Region> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let is_free = self.with(|held| {
            let is_free = !held.iter().any(|one| one.start < end && start < one.end);
            if is_free {
                held.push(Held { id, start, end });
            }
            is_free
        });
        is_free.then(|| Region { regions: Arc::clone(self), id })
    }

    /// Waits until nobody has any of a range, and takes it.
    pub(crate) async fn take(self: &Arc<Self>, start: u64, end: u64) -> Region {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if let Some(region) = self.try_take(start, end) {
                return region;
            }
            freed.await;
        }
    }

    /// Waits until nobody has any of a range.
    pub(crate) async fn wait(&self, start: u64, end: u64) {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if self.overlap(start, end).is_none() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.regions.with(|held| held.retain(|one| one.id != self.id));
        self.regions.freed.notify_waiters();
    }
}
