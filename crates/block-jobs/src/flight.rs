//! Requests of a job in flight: a limited number of tasks, and what has become of them.
//!
//! While a guest uses the disk there are fewer of them. A guest's request waits behind all that a job has begun before it,
//! and a write that makes a cluster waits several times.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::{Error, Node};
use tokio::sync::Notify;

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Where.
    pub offset: u64,
    /// How long it was, bytes.
    pub len: u64,
    /// Whether the read of the source failed, not the write of the target.
    pub is_read: bool,
    /// Why.
    pub error: Error,
}

/// The most requests in flight while a guest uses the disk.
const BESIDE_GUEST: usize = 2;
/// After so many requests of the job without one of the guest there may be more again.
const CALM: usize = 16;

/// Whether somebody else uses a node.
struct Guest {
    node: Arc<Node>,
    seen: AtomicU64,
    calm: AtomicUsize,
}

impl Guest {
    /// Asked before each request of the job.
    fn is_there(&self) -> bool {
        let requests = self.node.requests();
        if self.seen.swap(requests, Ordering::Relaxed) != requests {
            self.calm.store(0, Ordering::Relaxed);
        }
        self.calm.fetch_add(1, Ordering::Relaxed) < CALM
    }
}

#[derive(Default)]
struct State {
    running: usize,
    failures: Vec<Failure>,
}

/// Requests in flight.
pub(crate) struct Flight {
    limit: usize,
    guest: Option<Guest>,
    state: Mutex<State>,
    changed: Notify,
}

/// Counts one request until it is dropped.
struct Running(Arc<Flight>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.with(|state| state.running -= 1);
        self.0.changed.notify_waiters();
    }
}

impl Flight {
    /// At most `limit` at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, guest: None, state: Mutex::default(), changed: Notify::new() })
    }

    /// At most `limit` at once, and fewer while there are requests for `node`, which the job itself does not use.
    pub(crate) fn beside(limit: usize, node: &Arc<Node>) -> Arc<Self> {
        let seen = AtomicU64::new(node.requests());
        let guest = Some(Guest { node: Arc::clone(node), seen, calm: AtomicUsize::default() });
        Arc::new(Self { limit, guest, state: Mutex::default(), changed: Notify::new() })
    }

    fn with<R>(&self, visit: impl FnOnce(&mut State) -> R) -> R {
        visit(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn wait_for(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.with(|state| is_so(state)) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until one more may start.
    pub(crate) async fn slot(&self) {
        let guest = self.guest.as_ref().is_some_and(Guest::is_there);
        let limit = if guest { self.limit.min(BESIDE_GUEST) } else { self.limit };
        self.wait_for(|state| state.running < limit).await;
    }

    /// Waits until none is in flight.
    pub(crate) async fn idle(&self) {
        self.wait_for(|state| state.running == 0).await;
    }

    /// Waits until fewer are in flight than now.
    pub(crate) async fn one_less(&self) {
        let now = self.running();
        self.wait_for(|state| state.running < now || state.running == 0).await;
    }

    /// How many are in flight.
    pub(crate) fn running(&self) -> usize {
        self.with(|state| state.running)
    }

    /// Starts one as a task of this reactor, which leaves long copies to other threads.
    pub(crate) fn start(self: &Arc<Self>, request: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        self.with(|state| state.running += 1);
        let running = Running(Arc::clone(self));
        aio::spawn(async move {
            if let Err(failure) = aio::in_background(request).await {
                running.0.with(|state| state.failures.push(failure));
            }
            drop(running);
        });
    }

    /// What has failed since the last time.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.with(|state| std::mem::take(&mut state.failures))
    }
}
