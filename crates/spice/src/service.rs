//! The server's thread.

use std::io;
use std::sync::Arc;

use listen::Worker;
use rustls::ServerConfig;

use crate::client::ClientInfo;
use crate::server::{Options, Seat, Server};

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is one.
    Connected,
    /// It is a channel of a session now.
    Initialized,
    /// It has gone.
    Disconnected,
}

/// What the server knows of the program around it. Called on the service's thread; nothing may block.
pub trait Host: Send + Sync {
    /// Whether the guest is there to hear keys.
    fn can_hear(&self) -> bool;

    /// Something happened to a connection.
    fn event(&self, event: Event, client: &ClientInfo);
}

/// The thread that serves all connections; they end with it.
pub struct Service {
    _worker: Worker,
    server: Arc<Server>,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(
        host: Arc<dyn Host>,
        options: Options,
        tls: Option<Arc<ServerConfig>>,
        seat: Seat,
    ) -> io::Result<Self> {
        let worker = Worker::start("SPICE")?;
        let server = Server::new(host, options, tls, seat, worker.runtime().clone());
        Ok(Self { _worker: worker, server })
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}
