//! The listener, and what it knows of the program around it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use chardev::TapReader;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::access::Access;
use crate::options::Options;
use crate::{Error, connection};

/// Connections that may speak HTTP at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
/// WebSockets that may be open; more are refused.
const SOCKETS_MAX: usize = 128;

/// A connection to something inside of the program.
pub struct Line {
    /// Its near end.
    pub stream: UnixStream,
    /// What ends with it.
    pub keeper: Box<dyn Send>,
}

/// The program as the console sees it. Called on the runtime's thread; nothing may block.
pub trait Host: Send + Sync {
    /// What is there, as JSON.
    fn info(&self) -> String;

    /// Shows the screen on a WebSocket that stands.
    ///
    /// # Errors
    /// Why it can't.
    fn show_screen(&self, socket: OwnedFd) -> Result<(), Error>;

    /// A QMP monitor of its own.
    ///
    /// # Errors
    /// Why there is none.
    fn monitor(&self) -> Result<Line, Error>;

    /// One of the guest's terminals.
    fn terminal(&self, name: &str) -> Option<TapReader>;
}

/// What all connections share.
pub struct Site {
    pub access: Access,
    pub host: Arc<dyn Host>,
    pub connections: Arc<Semaphore>,
    pub sockets: Arc<Semaphore>,
}

/// A server that listens until it is dropped.
pub struct Server {
    task: AbortHandle,
    url: String,
    is_local: bool,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    /// The address can't be had.
    pub fn start(runtime: &Handle, options: &Options, host: Arc<dyn Host>) -> Result<Self, Error> {
        let Options { address, port, .. } = options;
        let failed = |error: std::io::Error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            Error(format!("can't listen at {address}:{port}: {text}"))
        };
        let listener = std::net::TcpListener::bind((address.as_str(), *port)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (access, token) = Access::new(options, local).map_err(failed)?;
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let site = Arc::new(Site {
            access,
            host,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            sockets: Arc::new(Semaphore::new(SOCKETS_MAX)),
        });
        let task = runtime.spawn(listen(listener, site)).abort_handle();
        Ok(Self { task, url: url(local, token.as_deref()), is_local: local.ip().is_loopback() })
    }

    /// Whether nobody but this host can come here.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// The address for a browser, with its token.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn url(local: SocketAddr, token: Option<&str>) -> String {
    let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
    // Nobody can go to "all addresses".
    let place = if local.ip().is_unspecified() { format!("localhost:{}", local.port()) } else { local.to_string() };
    format!("http://{place}/{token}")
}

async fn listen(listener: TcpListener, site: Arc<Site>) {
    loop {
        let Ok(permit) = Arc::clone(&site.connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it answers are late, not wrong.
                let _ = stream.set_nodelay(true);
                tokio::spawn(connection::serve(Arc::clone(&site), stream, permit));
            }
            Err(error) => {
                tracing::debug!("accepting a browser: {error}");
                // No descriptors, perhaps: better later than at once again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
