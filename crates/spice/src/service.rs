//! The server's thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::ServerConfig;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

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

/// Pictures that are made at the same time.
const ENCODERS_MAX: usize = 4;

/// The thread that serves all connections; they end with it.
pub struct Service {
    server: Arc<Server>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
        let encoders = std::thread::available_parallelism().map_or(1, usize::from).min(ENCODERS_MAX);
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().thread_name("SPICE encoder").max_blocking_threads(encoders).build()?;
        let server = Server::new(host, options, tls, seat, runtime.handle().clone());
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("SPICE".into()).spawn(move || {
            // The sender may be dropped or used: both are the end.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { server, end: Some(end), thread: Some(thread) })
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
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
