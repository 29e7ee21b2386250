//! `x-blockdev-set-iothread`: which I/O thread does the jobs and exports of a node. The requests of a device go by the
//! device's own `iothread`.

use std::sync::Arc;

use block::Node;
use qapi::Error;
use qapi::block::nodes::{StrOrNull, XBlockdevSetIothread};

use super::Storage;

impl Storage {
    /// `x-blockdev-set-iothread`. What runs already stays where it is.
    ///
    /// # Errors
    /// There is no such node or thread, or a device uses the node.
    pub fn set_io_thread(&mut self, command: &XBlockdevSetIothread) -> Result<(), Error> {
        let name = &command.node_name;
        let node = self.graph.lookup(name);
        let node = node.ok_or_else(|| Error::generic(format!("Failed to find node with node-name='{name}'")))?;
        let has_backend = || {
            self.graph.backends().iter().filter_map(|backend| backend.node()).any(|medium| Arc::ptr_eq(&medium, &node))
        };
        if !command.force.unwrap_or(false) && has_backend() {
            return Err(Error::generic(format!(
                "Node {name} is associated with a BlockBackend and could be in use (use force=true to override this check)"
            )));
        }
        let thread = match &command.iothread {
            StrOrNull::N(_) => None,
            StrOrNull::S(id) => {
                let missing = |_| Error::generic(format!("Cannot find iothread {id}"));
                Some(self.objects.io_thread(id).map_err(missing)?)
            }
        };
        self.node_threads.retain(|(known, _)| known.as_ptr() != Arc::as_ptr(&node));
        if let Some(thread) = thread {
            self.node_threads.push((Arc::downgrade(&node), thread));
        }
        Ok(())
    }

    /// Lets threads go whose nodes are gone.
    pub fn release_node_threads(&mut self) {
        self.node_threads.retain(|(node, _)| node.strong_count() != 0);
    }

    /// The reactor for what is done on `node`.
    pub(super) fn reactor_of(&self, node: &Arc<Node>) -> aio::Handle {
        let known = self.node_threads.iter().find(|(known, _)| known.as_ptr() == Arc::as_ptr(node));
        known.map_or_else(|| self.reactor.handle().clone(), |(_, thread)| thread.reactor().clone())
    }
}
