//! Gates: where requests enter the graph, and where a drain holds them.
//!
//! Every user outside of the graph owns a gate and passes each request through it. A drain closes the gates of all users
//! above a node and waits until what had entered has finished; inside of the graph nothing ever blocks for a drain.
//! Closings nest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Where the requests of one user enter the graph.
#[derive(Default)]
pub struct Gate {
    closings: AtomicUsize,
    inside: AtomicUsize,
    opened: Notify,
    emptied: Notify,
    closed: Notify,
}

/// A request inside of a gate; dropping it leaves.
pub struct Inside<'a>(&'a Gate);

/// As [`Inside`], for a request that outlives its caller.
pub struct InsideOwned(Arc<Gate>);

impl Gate {
    /// As [`Gate::enter`], for a request that becomes a task of its own.
    pub async fn enter_owned(self: &Arc<Self>) -> InsideOwned {
        // The owner counts as inside from now on; the borrowed one leaves.
        let borrowed = self.enter().await;
        self.inside.fetch_add(1, Ordering::SeqCst);
        drop(borrowed);
        InsideOwned(Arc::clone(self))
    }

    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters; waits while the gate is closed.
    pub async fn enter(&self) -> Inside<'_> {
        loop {
            let opened = self.opened.notified();
            let mut opened = std::pin::pin!(opened);
            opened.as_mut().enable();
            // First in, then look: a drain that closes in between sees the request or is seen.
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.closings.load(Ordering::SeqCst) == 0 {
                return Inside(self);
            }
            drop(Inside(self));
            opened.await;
        }
    }

    /// Whether a drain holds the gate closed.
    pub fn is_closed(&self) -> bool {
        self.closings.load(Ordering::SeqCst) != 0
    }

    /// Waits until somebody closes the gate (throttled requests then go on at once).
    pub async fn wait_closed(&self) {
        loop {
            let closed = self.closed.notified();
            let mut closed = std::pin::pin!(closed);
            closed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            closed.await;
        }
    }

    /// Closes the gate, until as many calls of [`Gate::open`].
    pub fn close(&self) {
        self.closings.fetch_add(1, Ordering::SeqCst);
        self.closed.notify_waiters();
    }

    /// Undoes one [`Gate::close`].
    pub fn open(&self) {
        if self.closings.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.opened.notify_waiters();
        }
    }

    /// Whether nobody is inside.
    pub fn is_empty(&self) -> bool {
        self.inside.load(Ordering::SeqCst) == 0
    }

    /// Waits until nobody is inside.
    pub async fn wait_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            let mut emptied = std::pin::pin!(emptied);
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Drop for InsideOwned {
    fn drop(&mut self) {
        drop(Inside(&self.0));
    }
}
