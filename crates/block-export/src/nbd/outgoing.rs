//! Replies on their way to the client, and how many requests may be under way.
//!
//! Replies are queued; whoever finds nobody sending sends them all at once. A request counts until its reply has left, so
//! that a client that does not read has a bounded number of them here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_net::transport::Transport;
use iobuf::IoBuf;
use tokio::sync::Notify;

use crate::buffers::Buffer;

/// Requests under way on one connection.
const MAX_REQUESTS: usize = 64;
/// Bytes of their data.
const MAX_BYTES: usize = 64 << 20;

/// Requests that are under way.
#[derive(Default)]
pub(super) struct Budget {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    changed: Notify,
}

/// A request that counts until this is dropped.
pub(super) struct Admitted {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.requests.fetch_sub(1, Ordering::AcqRel);
        self.budget.changed.notify_waiters();
    }
}

impl Budget {
    /// Counts one more request, if there is room. A single one always has.
    pub fn try_admit(self: &Arc<Self>, bytes: usize) -> Option<Admitted> {
        // Only the connection's reading task adds.
        let requests = self.requests.load(Ordering::Acquire);
        let held = self.bytes.load(Ordering::Acquire);
        if requests != 0 && (requests >= MAX_REQUESTS || held.saturating_add(bytes) > MAX_BYTES) {
            return None;
        }
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Some(Admitted { budget: Arc::clone(self), bytes })
    }

    /// Waits for room for one more request.
    pub async fn admit(self: &Arc<Self>, bytes: usize) -> Admitted {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(admitted) = self.try_admit(bytes) {
                return admitted;
            }
            changed.await;
        }
    }

    /// Waits until no request is under way.
    pub async fn wait_empty(&self) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.requests.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// A reply, and what goes when it has been sent.
pub(super) struct Reply {
    parts: Vec<IoBuf>,
    // Freed after the parts, so that the buffer is nobody else's.
    _buffer: Option<Buffer>,
    _admitted: Admitted,
}

impl Reply {
    pub fn new(parts: Vec<IoBuf>, buffer: Option<Buffer>, admitted: Admitted) -> Self {
        Self { parts, _buffer: buffer, _admitted: admitted }
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Reply>,
    bytes: usize,
    /// Somebody sends, and will send what is queued meanwhile.
    busy: bool,
    /// The client is gone.
    lost: bool,
}

/// The replies of one connection.
pub(super) struct Outgoing {
    transport: Arc<Transport>,
    state: Mutex<State>,
}

impl Outgoing {
    pub fn new(transport: Arc<Transport>) -> Arc<Self> {
        Arc::new(Self { transport, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a reply; how many bytes are queued now.
    pub fn push(&self, reply: Reply) -> usize {
        let mut state = self.state();
        if state.lost {
            return 0;
        }
        state.bytes += reply.parts.iter().map(IoBuf::len).sum::<usize>();
        state.queue.push_back(reply);
        state.bytes
    }

    /// Takes what is queued, for the one who sends; ends the sending if there is nothing.
    fn take(&self) -> Option<(IoBuf, VecDeque<Reply>)> {
        let mut state = self.state();
        if state.queue.is_empty() || state.lost {
            state.busy = false;
            return None;
        }
        state.bytes = 0;
        let mut replies = std::mem::take(&mut state.queue);
        drop(state);
        let message = IoBuf::concat(replies.iter_mut().flat_map(|reply| std::mem::take(&mut reply.parts)));
        Some((message, replies))
    }

    fn lose(&self) {
        self.transport.shutdown();
        let dropped = {
            let mut state = self.state();
            state.lost = true;
            state.busy = false;
            std::mem::take(&mut state.queue)
        };
        drop(dropped);
    }

    async fn send(self: Arc<Self>, first: Option<(IoBuf, VecDeque<Reply>)>) {
        let mut next = first;
        loop {
            let Some((message, replies)) = next.take().or_else(|| self.take()) else { return };
            if self.transport.write_all(message).await.is_err() {
                return self.lose();
            }
            drop(replies);
        }
    }

    /// Sends what is queued, now: what does not fit into the socket is left to a task.
    pub fn flush(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.busy || state.queue.is_empty() {
                return;
            }
            state.busy = true;
        }
        let Transport::Plain(stream) = &*self.transport else {
            drop(aio::spawn(Arc::clone(self).send(None)));
            return;
        };
        while let Some((message, replies)) = self.take() {
            match stream.try_write(&message) {
                Ok(n) if n == message.len() => {}
                Ok(n) => {
                    let rest = message.slice(n, message.len() - n);
                    drop(aio::spawn(Arc::clone(self).send(Some((rest, replies)))));
                    return;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    drop(aio::spawn(Arc::clone(self).send(Some((message, replies)))));
                    return;
                }
                Err(_) => return self.lose(),
            }
            drop(message);
            drop(replies);
        }
    }

    /// Has what is queued sent, together with what other tasks queue before the reactor comes to it.
    pub fn flush_soon(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.busy || state.queue.is_empty() {
                return;
            }
            state.busy = true;
        }
        drop(aio::spawn(Arc::clone(self).send(None)));
    }

    /// Whether the client is gone.
    pub fn is_lost(&self) -> bool {
        self.state().lost
    }
}
