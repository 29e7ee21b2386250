//! Disks that are held while something changes at one point in time.
//!
//! What is in flight at them is waited for away from the control thread. When nothing is, they stay held until the change is
//! made there, and are let go with the last owner of the [`Hold`], or when the program ends.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use block::graph::Drained;
use block::{Graph, Node};
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    /// The program ends: nothing is held any more.
    over: bool,
    next: u64,
    held: Vec<(u64, Drained)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes of `work`, or nothing if the program ends before.
    async fn until_the_end<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        if self.state().over {
            return None;
        }
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            ended.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}

/// All disks that are held.
#[derive(Clone, Default)]
pub struct Holds(Arc<Shared>);

/// Some of them, until this is dropped.
pub struct Hold {
    shared: Arc<Shared>,
    id: u64,
}

impl Holds {
    /// Holds everybody who uses `nodes`, waits until nothing is in flight, and flushes `flushed`.
    ///
    /// # Errors
    /// What a flush gives.
    pub async fn hold(&self, graph: &Graph, nodes: &[Arc<Node>], flushed: &[Arc<Node>]) -> block::Result<Hold> {
        let shared = Arc::clone(&self.0);
        let drained = shared.until_the_end(graph.drain_nodes(nodes)).await;
        let id = {
            let mut state = shared.state();
            state.next += 1;
            let id = state.next;
            if let Some(drained) = drained.filter(|_| !state.over) {
                state.held.push((id, drained));
            }
            id
        };
        let hold = Hold { shared, id };
        for node in flushed.iter().filter(|node| !node.is_read_only()) {
            hold.shared.until_the_end(node.flush()).await.unwrap_or(Ok(()))?;
        }
        Ok(hold)
    }

    /// Lets everybody go: the program ends.
    pub fn end(&self) {
        let held = {
            let mut state = self.0.state();
            state.over = true;
            std::mem::take(&mut state.held)
        };
        drop(held);
        self.0.ended.notify_waiters();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let at = state.held.iter().position(|(id, _)| *id == self.id);
        let drained = at.map(|at| state.held.swap_remove(at));
        drop(state);
        drop(drained);
    }
}
