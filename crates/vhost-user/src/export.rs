//! The socket that front ends come to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aio::Stream;
use block_export::Listener;
use devices_virtio::device::Model;
use tokio::sync::Notify;

use crate::device::Device;
use crate::session;

/// The pause after the host could not accept a front end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    /// The front end that is served.
    client: Option<Stream>,
    is_closing: bool,
}

/// Has a device served to one front end after the other.
#[derive(Default)]
pub struct Export {
    state: Mutex<State>,
    changed: Notify,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("has_client", &self.has_client()).finish_non_exhaustive()
    }
}

impl Export {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves front ends that come to `listeners` until [`Export::shut_down`], and what the last one has asked for.
    pub async fn serve<M: Model>(self: Arc<Self>, listeners: Vec<Listener>, device: Arc<Device<M>>) {
        // Unix sockets come alone.
        for listener in &listeners {
            self.accept(listener, &device).await;
        }
    }

    async fn accept<M: Model>(&self, listener: &Listener, device: &Arc<Device<M>>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.wait_closing() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => self.client(stream, device).await,
                Err(error) => {
                    tracing::warn!("accepting a front end of vhost-user: {error}");
                    aio::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn client<M: Model>(&self, stream: Stream, device: &Arc<Device<M>>) {
        {
            let mut state = self.state();
            if state.is_closing {
                return stream.shutdown();
            }
            state.client = Some(stream.clone());
        }
        session::run(Arc::clone(device), stream.clone()).await;
        self.state().client = None;
        stream.shutdown();
        self.changed.notify_waiters();
    }

    async fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    async fn wait_closing(&self) {
        self.wait_until(|state| state.is_closing).await;
    }

    /// Waits until there is no front end, and nothing is in flight of the one that was there.
    pub async fn wait_unused(&self) {
        self.wait_until(|state| state.client.is_none()).await;
    }

    /// Whether there is a front end.
    pub fn has_client(&self) -> bool {
        self.state().client.is_some()
    }

    /// Whether the export ends.
    pub fn is_shutting_down(&self) -> bool {
        self.state().is_closing
    }

    /// Cuts the front end off and takes no more.
    pub fn shut_down(&self) {
        let client = {
            let mut state = self.state();
            state.is_closing = true;
            state.client.clone()
        };
        if let Some(client) = client {
            client.shutdown();
        }
        self.changed.notify_waiters();
    }
}
