//! The property `drive` of devices: which node a disk has, and another one in its place while the guest runs.

use std::sync::{Arc, Weak};

use block::{Backend, Node};
use qapi::Error;

use super::{Storage, client_error};

/// A part of a device whose disk is the whole device's.
const PART: &str = "/virtio-backend";

/// What the property reads: the back end's name, or that of its node.
pub fn drive_of(backend: &Weak<Backend>) -> String {
    let Some(backend) = backend.upgrade() else { return String::new() };
    match (backend.name(), backend.node()) {
        ("", Some(node)) => node.name().to_owned(),
        (name, _) => name.to_owned(),
    }
}

impl Storage {
    /// The back ends of devices, by the paths of the objects that have the property.
    pub fn drives_by_path(&self) -> Vec<(String, Arc<Backend>)> {
        let mut drives = Vec::new();
        for backend in self.graph.backends() {
            let Some(device) = backend.device() else { continue };
            let path = device.qom_path();
            if let Some(whole) = path.strip_suffix(PART) {
                drives.push((whole.to_owned(), Arc::clone(&backend)));
            }
            drives.push((path, backend));
        }
        drives
    }

    /// Gives a device's back end another node. Requests wait meanwhile, and what the device does must not stand against
    /// other users of that node. `done` is told on the control thread when the old node is closed, if nobody else has it.
    pub fn exchange_node(
        &self,
        backend: &Arc<Backend>,
        name: &str,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_exchange(backend, name).map(|(from, to)| [from, to]);
        let (graph, holds) = (Arc::clone(&self.graph), self.holds.clone());
        let work = move || aio::block_on(holds.hold(&graph, &planned?, &[])).map_err(client_error);
        let (backend, name) = (Arc::clone(backend), name.to_owned());
        self.aside.run(work, move |storage, hold| {
            let old = hold.and_then(|hold| {
                let old = storage.exchange_held(&backend, &name);
                drop(hold);
                old
            });
            let graph = Arc::clone(&storage.graph);
            let close = move || aio::block_on(graph.close(&old?)).map_err(client_error);
            storage.aside.run_to_the_end(close, done);
        });
    }

    /// The node that the back end has, and the one that it shall have.
    fn plan_exchange(&self, backend: &Backend, name: &str) -> Result<(Arc<Node>, Arc<Node>), Error> {
        let to = self.node_by(None, Some(name))?;
        let no_medium = || {
            Error::generic(format!("Device '{}' has no medium", super::info::device_name(backend).unwrap_or_default()))
        };
        let from = backend.node().ok_or_else(no_medium)?;
        // A job copies what comes by its own filter, and moves users when it ends.
        for node in [&from, &to] {
            let mut below = Some(Arc::clone(node));
            while let Some(node) = below {
                self.check_unblocked(&node)?;
                below = node.filtered().map(|edge| edge.node());
            }
        }
        Ok((from, to))
    }

    /// The same while the disk is held: the old node.
    fn exchange_held(&self, backend: &Backend, name: &str) -> Result<Arc<Node>, Error> {
        let _no_other_change = self.alone();
        // Much may have changed meanwhile.
        let (from, to) = self.plan_exchange(backend, name)?;
        let Some((root, device)) = backend.root().zip(backend.device()) else {
            return Err(Error::generic("The device is gone"));
        };
        let old = self.graph.move_root(&root, &to).map_err(client_error)?;
        if from.len() != to.len() {
            device.resized();
        }
        Ok(old)
    }
}
