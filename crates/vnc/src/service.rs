//! The thread of all servers.

use std::io;
use std::sync::Arc;

use listen::Worker;
use tokio::runtime::Handle;

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

/// The thread that serves all displays; with its end all connections end.
pub struct Service {
    worker: Worker,
    host: Arc<dyn Host>,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(host: Arc<dyn Host>) -> io::Result<Self> {
        Ok(Self { worker: Worker::start("VNC")?, host })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        self.worker.runtime()
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }
}
