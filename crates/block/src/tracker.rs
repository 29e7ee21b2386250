//! The writes in flight of a node, and which of them must not overlap.
//!
//! A plain write waits for earlier *serialising* requests that overlap it; a serialising one (read-modify-write of an
//! unaligned edge, copy on read, discard, a zero write that gives space back) waits for every request in flight that
//! overlaps it. Whoever waits holds nobody up: others may overtake it, but only [`OVERTAKINGS`] times. After that later
//! ones wait for it, so that nothing waits for ever. Requests in flight wait for nothing, and among those that wait the
//! older one goes first, so there is no circle.

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

/// How often others may overtake a request that waits.
const OVERTAKINGS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits, and was overtaken so many times.
    Waiting(u32),
    InFlight,
}

struct Entry {
    id: u64,
    start: u64,
    end: u64,
    overlap: Overlap,
    phase: Phase,
}

impl Entry {
    fn conflicts(&self, other: &Entry) -> bool {
        self.id != other.id
            && self.start < other.end
            && other.start < self.end
            && (self.overlap == Overlap::Serialising || other.overlap == Overlap::Serialising)
    }

    /// Whether `other` may not start before this one.
    fn holds_up(&self, other: &Entry) -> bool {
        let first = match self.phase {
            Phase::InFlight => true,
            Phase::Waiting(overtaken) => overtaken >= OVERTAKINGS && self.id < other.id,
        };
        first && self.conflicts(other)
    }
}

/// Starts request `id` unless another one holds it up.
fn try_start(entries: &mut [Entry], id: u64) -> bool {
    let Some(at) = entries.iter().position(|entry| entry.id == id) else { return true };
    if entries.iter().any(|entry| entry.holds_up(&entries[at])) {
        return false;
    }
    for other in 0..entries.len() {
        let overtakes = entries[other].id < id && entries[other].conflicts(&entries[at]);
        if let Phase::Waiting(overtaken) = &mut entries[other].phase
            && overtakes
        {
            *overtaken += 1;
        }
    }
    entries[at].phase = Phase::InFlight;
    true
}

/// The writes in flight of one node.
#[derive(Default)]
pub struct Tracker {
    entries: Mutex<Vec<Entry>>,
    next: AtomicU64,
    waiting: AtomicUsize,
    finished: Notify,
}

/// Counts a waiting request as long as it exists, also if its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
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
        let mut started = self.with(|entries| {
            entries.push(Entry { id, start, end, overlap, phase: Phase::Waiting(0) });
            try_start(entries, id)
        });
        let tracked = Tracked { tracker: self, id };
        if !started {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _counted = Waiting(&self.waiting);
            while !started {
                let finished = self.finished.notified();
                let mut finished = std::pin::pin!(finished);
                finished.as_mut().enable();
                started = self.with(|entries| try_start(entries, id));
                if !started {
                    finished.await;
                }
            }
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Begin<'a> = Pin<Box<dyn Future<Output = Tracked<'a>> + 'a>>;

    fn begin(tracker: &Tracker, start: u64, len: u64) -> Begin<'_> {
        Box::pin(tracker.begin(start, len, Overlap::Serialising))
    }

    fn poll<'a>(future: &mut Begin<'a>) -> Option<Tracked<'a>> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(tracked) => Some(tracked),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_waiting_request_is_overtaken_by_what_overlaps_nothing_in_flight() {
        let tracker = Tracker::default();
        let first = poll(&mut begin(&tracker, 0, 4096)).expect("nothing overlaps");
        let mut wide = begin(&tracker, 0, 8192);
        assert!(poll(&mut wide).is_none(), "overlaps the first");
        let last = poll(&mut begin(&tracker, 4096, 4096)).expect("overlaps only one that waits");
        drop(first);
        assert!(poll(&mut wide).is_none(), "overlaps the one that overtook it");
        drop(last);
        assert!(poll(&mut wide).is_some());
    }

    #[test]
    fn a_waiting_request_is_overtaken_a_limited_number_of_times() {
        let tracker = Tracker::default();
        let mut held = poll(&mut begin(&tracker, 0, 4096));
        let mut wide = begin(&tracker, 0, 8192);
        assert!(poll(&mut wide).is_none());
        // Two streams of requests that always overlap each other in time.
        let mut overtaken = 0;
        while let Some(next) = poll(&mut begin(&tracker, 4096 * ((overtaken + 1) % 2), 4096)) {
            overtaken += 1;
            assert!(overtaken <= u64::from(OVERTAKINGS), "starved");
            drop(held.replace(next));
            assert!(poll(&mut wide).is_none());
        }
        drop(held);
        assert!(poll(&mut wide).is_some());
        drop(wide);
        assert!(poll(&mut begin(&tracker, 0, 8192)).is_some(), "nothing is left behind");
    }
}
