//! Requests of a job in flight: a limited number of tasks, and what has become of them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use block::Error;
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

#[derive(Default)]
struct State {
    running: usize,
    failures: Vec<Failure>,
}

/// Requests in flight.
pub(crate) struct Flight {
    limit: usize,
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
        Arc::new(Self { limit, state: Mutex::default(), changed: Notify::new() })
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
        self.wait_for(|state| state.running < self.limit).await;
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

    /// Starts one as a task of this reactor.
    pub(crate) fn start(self: &Arc<Self>, request: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        self.with(|state| state.running += 1);
        let running = Running(Arc::clone(self));
        aio::spawn(async move {
            if let Err(failure) = request.await {
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
