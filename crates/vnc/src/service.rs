//! The thread of all servers.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::client::ClientInfo;
use crate::display::ServerInfo;

/// What happens to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a connection.
    Connected,
    /// The client may look.
    Initialized,
    /// It has gone.
    Disconnected,
}

/// What a client may ask for with `power-control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Press the power button.
    Shutdown,
    /// Reset the machine.
    Reset,
}

/// What servers know of the program around them. Called on the service's thread; nothing may block.
pub trait Host: Send + Sync {
    /// Whether the guest is there to hear keys.
    fn can_hear(&self) -> bool;

    /// Something happened to a client.
    fn event(&self, event: Event, server: &ServerInfo, client: &ClientInfo);

    /// A client asks for it.
    fn power(&self, action: PowerAction);
}

/// Pictures that are encoded at the same time.
const ENCODERS_MAX: usize = 4;

/// The thread that serves all displays; with its end all connections end.
pub struct Service {
    runtime: Handle,
    host: Arc<dyn Host>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(host: Arc<dyn Host>) -> io::Result<Self> {
        let encoders = std::thread::available_parallelism().map_or(1, usize::from).min(ENCODERS_MAX);
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().thread_name("VNC encoder").max_blocking_threads(encoders).build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("VNC".into()).spawn(move || {
            // The sender may be dropped or used: both are the end.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, host, end: Some(end), thread: Some(thread) })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
