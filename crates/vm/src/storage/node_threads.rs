//! `x-blockdev-set-iothread`: which I/O thread does the jobs and exports of a node. The requests of a device go by the
//! device's own `iothread`.

use std::sync::{Arc, Weak};

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
                Some((id.clone(), self.objects.io_thread(id).map_err(missing)?))
            }
        };
        self.forget_node_threads(|known| known.ptr_eq(&Arc::downgrade(&node)));
        if let Some((id, handle)) = thread {
            self.node_threads.push((Arc::downgrade(&node), id, handle));
        }
        Ok(())
    }

    /// Lets threads go whose nodes are gone.
    pub fn release_node_threads(&mut self) {
        self.forget_node_threads(|node| node.strong_count() == 0);
    }

    fn forget_node_threads(&mut self, goes: impl Fn(&Weak<Node>) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.node_threads).into_iter().partition(|(node, ..)| goes(node));
        self.node_threads = kept;
        let gone: Vec<_> = gone;
        for (_, id, _) in gone {
            self.objects.release_io_thread(&id);
        }
    }

    /// The reactor for what is done on `node`.
    pub(super) fn reactor_of(&self, node: &Arc<Node>) -> aio::Handle {
        let known = self.node_threads.iter().find(|(known, ..)| known.as_ptr() == Arc::as_ptr(node));
        known.map_or_else(|| self.reactor.handle().clone(), |(_, _, handle)| handle.clone())
    }
}
