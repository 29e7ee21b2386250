//! The writes in flight of a node, and which of them must not overlap.
//!
//! A plain write waits for earlier *serialising* requests that overlap it; a serialising one (read-modify-write of an
//! unaligned edge, copy on read, discard, a zero write that gives space back) waits for every earlier request that
//! overlaps it. Requests wait only for earlier ones, so there is no circle.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Whether a request tolerates others in its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Other plain writes may overlap it.
    Plain,
    /// Nothing may overlap it.
    Serialising,
}

struct Entry {
    id: u64,
    start: u64,
    end: u64,
    overlap: Overlap,
}

/// The writes in flight of one node.
#[derive(Default)]
pub struct Tracker {
    entries: Mutex<Vec<Entry>>,
    next: AtomicU64,
    waiting: AtomicUsize,
    finished: Notify,
}

/// A write in flight; dropping it ends it.
pub struct Tracked<'a> {
    tracker: &'a Tracker,
    id: u64,
}

impl Tracker {
    fn with<R>(&self, visit: impl FnOnce(&mut Vec<Entry>) -> R) -> R {
        visit(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers a write of `start .. start + len` and waits for those that it must not overlap.
    pub async fn begin(&self, start: u64, len: u64, overlap: Overlap) -> Tracked<'_> {
        let end = start.saturating_add(len);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let must_wait = |entries: &[Entry]| {
            entries.iter().any(|e| {
                e.id < id
                    && e.start < end
                    && start < e.end
                    && (overlap == Overlap::Serialising || e.overlap == Overlap::Serialising)
            })
        };
        let mut blocked = self.with(|entries| {
            let blocked = must_wait(entries);
            entries.push(Entry { id, start, end, overlap });
            blocked
        });
        let tracked = Tracked { tracker: self, id };
        if blocked {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while blocked {
                let finished = self.finished.notified();
                let mut finished = std::pin::pin!(finished);
                finished.as_mut().enable();
                blocked = self.with(|entries| must_wait(entries));
                if blocked {
                    finished.await;
                }
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        tracked
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.tracker.with(|entries| {
            if let Some(at) = entries.iter().position(|e| e.id == self.id) {
                entries.swap_remove(at);
            }
        });
        if self.tracker.waiting.load(Ordering::SeqCst) != 0 {
            self.tracker.finished.notify_waiters();
        }
    }
}
