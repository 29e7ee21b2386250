//! Addresses at which clients come in, while somebody wants them to.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::address::{Address, Ends, ListenAddress};
use crate::listener::{Bound, Listener, listen};
use crate::{Error, Stream, reason};

/// What to wait for after a client could not be let in: no descriptors, perhaps, so better later than at once again.
const AGAIN: Duration = Duration::from_millis(100);

/// Addresses that a server listens at. With its end that ends; the connections go on.
#[derive(Default)]
pub struct Listening {
    tasks: Vec<AbortHandle>,
    bound: Vec<Bound>,
}

impl Listening {
    /// Has a server welcome those who come to these addresses. It is not kept by that.
    ///
    /// # Errors
    /// An address can't be had; then there is no listener.
    pub fn start<S: Send + Sync + 'static>(
        addresses: &[ListenAddress],
        runtime: &Handle,
        server: &Arc<S>,
        welcome: impl Fn(&Arc<S>, Stream, Ends) + Copy + Send + 'static,
    ) -> Result<Self, Error> {
        let mut listening = Self::default();
        for address in addresses {
            listening.bound.extend(listen(address)?);
        }
        let _context = runtime.enter();
        for bound in &listening.bound {
            let listener = bound.activate().map_err(|error| Error::new(reason(&error)))?;
            let server = Arc::downgrade(server);
            let task = runtime.spawn(async move {
                loop {
                    let (stream, ends) = next(&listener).await;
                    let Some(server) = server.upgrade() else { return };
                    welcome(&server, stream, ends);
                }
            });
            listening.tasks.push(task.abort_handle());
        }
        Ok(listening)
    }

    /// The addresses in use.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.bound.iter().map(Bound::address)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn next(listener: &Listener) -> (Stream, Ends) {
    loop {
        match listener.accept().await {
            Ok(client) => return client,
            Err(error) => {
                tracing::debug!("letting a viewer in: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
