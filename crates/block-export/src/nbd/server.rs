//! The server: exports by name, and clients that come.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aio::Stream;
use block::{Error, Result};
use block_net::TlsServerCredentials;
use tokio::sync::Notify;

use super::export::Export;
use super::{handshake, transmission};
use crate::listen::Listener;

/// How long a client may take to choose an export.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How many clients there may be at the same time, if nobody says otherwise.
pub const MAX_CONNECTIONS: u32 = 100;
/// The pause after the host could not accept a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Clients must use TLS.
    pub credentials: Option<TlsServerCredentials>,
    /// How many clients there may be at the same time; 0 for any number.
    pub max_connections: u32,
    /// How long a client may take to choose an export.
    pub handshake_limit: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { credentials: None, max_connections: MAX_CONNECTIONS, handshake_limit: HANDSHAKE_LIMIT }
    }
}

/// Called when a client has left, with the number of those that are left, and whether it had chosen an export.
type Left = Box<dyn Fn(u32, bool) + Send + Sync>;

/// Knows the exports and negotiates with clients.
pub struct Server {
    options: ServerOptions,
    exports: Mutex<Vec<Arc<Export>>>,
    connections: AtomicU32,
    /// Who negotiates.
    newcomers: Mutex<Vec<Weak<Stream>>>,
    closed: AtomicBool,
    leaves_sockets: AtomicBool,
    changed: Notify,
    left: Option<Left>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("exports", &*self.exports()).finish_non_exhaustive()
    }
}

/// Counts a client until it is dropped.
struct Counted {
    server: Arc<Server>,
    chose: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.server.connections.fetch_sub(1, Ordering::AcqRel);
        self.server.changed.notify_waiters();
        if let Some(left) = &self.server.left {
            left(before.saturating_sub(1), self.chose);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server without exports.
    pub fn new(options: ServerOptions) -> Arc<Self> {
        Arc::new(Self::build(options, None))
    }

    /// As [`Server::new`]; `left` is called on a reactor when a client has left, with the number of those that are left, and whether
    /// it had chosen an export.
    pub fn with_notice(options: ServerOptions, left: impl Fn(u32, bool) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::build(options, Some(Box::new(left))))
    }

    fn build(options: ServerOptions, left: Option<Left>) -> Self {
        Self {
            options,
            exports: Mutex::default(),
            connections: AtomicU32::new(0),
            newcomers: Mutex::default(),
            closed: AtomicBool::new(false),
            leaves_sockets: AtomicBool::new(false),
            changed: Notify::new(),
            left,
        }
    }

    fn exports(&self) -> MutexGuard<'_, Vec<Arc<Export>>> {
        lock(&self.exports)
    }

    /// Whether exports of this server can say that several clients see the same.
    pub fn has_multi_conn(&self) -> bool {
        self.options.max_connections != 1
    }

    pub(super) fn credentials(&self) -> Option<&TlsServerCredentials> {
        self.options.credentials.as_ref()
    }

    /// Makes an export known to clients.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn add(&self, export: &Arc<Export>) -> Result<()> {
        let mut exports = self.exports();
        if exports.iter().any(|known| known.name() == export.name()) {
            return Err(name_taken(export.name()));
        }
        exports.push(Arc::clone(export));
        Ok(())
    }

    /// Whether there is an export of that name.
    ///
    /// # Errors
    /// There is one.
    pub fn check_name(&self, name: &str) -> Result<()> {
        match self.find(name) {
            Some(_) => Err(name_taken(name)),
            None => Ok(()),
        }
    }

    /// Hides an export from clients.
    pub fn remove(&self, export: &Arc<Export>) {
        self.exports().retain(|known| !Arc::ptr_eq(known, export));
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Export>> {
        self.exports().iter().find(|export| export.name() == name).cloned()
    }

    /// The exports, oldest first.
    pub fn list(&self) -> Vec<Arc<Export>> {
        self.exports().clone()
    }

    /// How many clients there are, those that still negotiate included.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    /// Takes clients from a listener until the server is closed.
    pub async fn serve(self: Arc<Self>, mut listener: Listener) {
        self.accept(&listener).await;
        if self.leaves_sockets.load(Ordering::Acquire) {
            listener.leave();
        }
    }

    async fn accept(self: &Arc<Self>, listener: &Listener) {
        loop {
            self.wait_for_room().await;
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let accepted = tokio::select! {
                biased;
                () = self.wait_closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let client = Arc::clone(self).client(stream);
                    drop(aio::spawn(client));
                }
                Err(error) => {
                    tracing::warn!("accepting an NBD client: {error}");
                    aio::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn wait_until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    async fn wait_closed(&self) {
        self.wait_until(|| self.closed.load(Ordering::Acquire)).await;
    }

    async fn wait_for_room(&self) {
        let max = self.options.max_connections;
        self.wait_until(|| max == 0 || self.connections() < max || self.closed.load(Ordering::Acquire)).await;
    }

    /// Waits until all clients have left.
    pub async fn wait_unused(&self) {
        self.wait_until(|| self.connections() == 0).await;
    }

    /// Serves one client. Counted before the first wait.
    pub fn client(self: Arc<Self>, stream: Stream) -> impl Future<Output = ()> + Send + 'static {
        self.connections.fetch_add(1, Ordering::AcqRel);
        let mut counted = Counted { server: Arc::clone(&self), chose: false };
        let newcomer = Arc::new(stream.clone());
        {
            let mut newcomers = lock(&self.newcomers);
            newcomers.retain(|known| known.strong_count() != 0);
            newcomers.push(Arc::downgrade(&newcomer));
        }
        async move {
            let negotiated = tokio::select! {
                biased;
                negotiated = handshake::negotiate(&self, stream) => negotiated,
                () = aio::sleep(self.options.handshake_limit) => None,
                () = self.wait_closed() => None,
            };
            let Some(client) = negotiated else {
                newcomer.shutdown();
                return;
            };
            drop(newcomer);
            let Some(member) = client.export.enter(&client.transport) else {
                return client.transport.shutdown();
            };
            counted.chose = true;
            let reactor = member.export.reactor().clone();
            drop(reactor.spawn(async move {
                transmission::run(client, member).await;
                drop(counted);
            }));
        }
    }

    /// Has the sockets stay in the file system when the server is closed, as QEMU leaves them when it ends.
    pub fn leave_sockets(&self) {
        self.leaves_sockets.store(true, Ordering::Release);
    }

    /// Takes no more clients and cuts those off that negotiate. The exports end on their own ([`Export::close`]).
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for newcomer in lock(&self.newcomers).iter().filter_map(Weak::upgrade) {
            newcomer.shutdown();
        }
        self.changed.notify_waiters();
    }
}

fn name_taken(name: &str) -> Error {
    Error::exists(format!("NBD server already has export named '{name}'"))
}
