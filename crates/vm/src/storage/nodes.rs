//! Making, deleting and changing nodes.

use std::sync::{Arc, PoisonError};

use block::image::ImageBacking;
use block::{Backend, Child, Defaults, Graph, Node, NodeConfig, OpenFlags, Permissions, Preallocation, Role};
use block_jobs::chain;
use qapi::Error;
use qapi::block::events::BlockWriteThreshold;
use qapi::block::nodes::{ChangeBackingFile, XBlockdevChange};
use qapi::block::options::BlockdevOptions;

use super::reopen::Held;
use super::{Storage, client_error, options, starter_error};

/// What becomes of a node of `blockdev-add`.
struct NewNode {
    /// The back end that it is for.
    backend: Option<String>,
    /// Whether that back end's writes may be complete before they are stable.
    write_cache: bool,
}

/// Opens a tree of nodes and waits for it.
pub(super) fn open(graph: &Arc<Graph>, options: block::Options, config: NodeConfig) -> Result<Arc<Node>, Error> {
    aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default()))).map_err(client_error)
}

impl Storage {
    /// `blockdev-add`: opens a node and keeps it. With `id` it becomes the medium of a new back end instead.
    /// `done` is told on the control thread.
    pub fn add_node_aside(
        &self,
        node: &BlockdevOptions,
        id: Option<&str>,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_node(node, id);
        let graph = Arc::clone(&self.graph);
        let work = move || {
            let (new, options) = planned?;
            Ok((new, open(&graph, options, NodeConfig::default())?))
        };
        self.aside.run(work, |storage, opened| {
            let added = opened.and_then(|(new, node)| storage.keep_node(&new, &node));
            done(storage, added);
        });
    }

    /// The same for the command line: waits.
    ///
    /// # Errors
    /// It has no name, or can't be opened.
    pub fn add_node(&mut self, node: &BlockdevOptions) -> Result<(), Error> {
        let (new, options) = self.plan_node(node, None)?;
        let node = self.open(options, NodeConfig::default())?;
        self.keep_node(&new, &node)
    }

    fn plan_node(&self, node: &BlockdevOptions, id: Option<&str>) -> Result<(NewNode, block::Options), Error> {
        if node.node_name.is_none() && id.is_none() {
            return Err(Error::generic("'node-name' must be specified for the root node"));
        }
        let write_cache = node.cache.as_ref().and_then(|cache| cache.writeback);
        if id.is_none() && write_cache == Some(false) {
            return Err(Error::generic("'cache.writeback' needs an 'id': it is a property of a back end"));
        }
        if let Some(id) = id {
            self.check_backend_name(id)?;
        }
        let new = NewNode { backend: id.map(str::to_owned), write_cache: write_cache.unwrap_or(true) };
        Ok((new, options::of_node(node)?))
    }

    /// Keeps a node that was opened.
    fn keep_node(&mut self, new: &NewNode, node: &Arc<Node>) -> Result<(), Error> {
        let Some(id) = &new.backend else {
            self.graph.adopt(node);
            return Ok(());
        };
        // The name may have been taken meanwhile.
        if let Err(error) = self.check_backend_name(id) {
            self.discard(node);
            return Err(error);
        }
        let backend = self.new_backend(id);
        backend.set_write_cache(new.write_cache);
        self.insert(&backend, node)?;
        self.graph.add_backend(&backend).map_err(client_error)
    }

    /// Closes a node that is not wanted after all.
    pub(super) fn discard(&self, node: &Arc<Node>) {
        if let Err(error) = aio::block_on(self.graph.close(node)) {
            tracing::warn!("closing '{}': {error}", node.name());
        }
    }

    /// Opens a tree of nodes, and waits for it: for the program's start.
    ///
    /// # Errors
    /// What the block layer says.
    pub fn open(&self, options: block::Options, config: NodeConfig) -> Result<Arc<Node>, Error> {
        let opened = self.graph.open(options, Defaults::new(config, OpenFlags::default()));
        aio::block_on(opened).map_err(starter_error)
    }

    /// As [`Storage::open`], for a drive: all its files are read and written in this way.
    pub(super) fn open_drive(&self, options: block::Options, engine: block::Engine) -> Result<Arc<Node>, Error> {
        let flags = OpenFlags { engine, ..OpenFlags::default() };
        let opened = self.graph.open(options, Defaults::new(NodeConfig::default(), flags));
        aio::block_on(opened).map_err(starter_error)
    }

    /// A back end with the program's threads and events.
    pub fn new_backend(&self, name: &str) -> Arc<Backend> {
        let backend = Backend::new(name);
        backend.set_events(Arc::clone(&self.failures));
        backend.set_reactor(self.reactor.handle().clone());
        backend.set_at_once(true);
        backend
    }

    /// Makes `node` the medium of a back end that nothing is done with yet. A node that nobody else holds is closed if
    /// that fails.
    ///
    /// # Errors
    /// Other users of the node stand against it.
    pub fn insert(&self, backend: &Backend, node: &Arc<Node>) -> Result<(), Error> {
        let inserted = backend.insert(&self.graph, node, Permissions::NONE, Permissions::ALL);
        inserted.map_err(|error| {
            self.discard(node);
            client_error(error)
        })
    }

    /// Whether a new back end may have this name.
    ///
    /// # Errors
    /// It is no name, or not a new one.
    pub fn check_backend_name(&self, name: &str) -> Result<(), Error> {
        if !qapi::keyval::is_identifier(name) {
            return Err(Error::generic("Parameter 'id' expects an identifier"));
        }
        if self.graph.backend(name).is_some() {
            return Err(Error::generic(format!("Device with id '{name}' already exists")));
        }
        if self.graph.lookup(name).is_some() {
            return Err(Error::generic(format!("Device name '{name}' conflicts with an existing node name")));
        }
        Ok(())
    }

    /// `blockdev-del`. The name is free at once; `done` is told on the control thread when the node is closed.
    pub fn delete_node(&self, name: &str, done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static) {
        let given_up = self.check_deletion(name).and_then(|()| self.graph.give_up(name).map_err(client_error));
        self.close_aside(given_up, done);
    }

    /// Whether a node can be deleted, as far as its users go.
    pub(super) fn check_deletion(&self, name: &str) -> Result<(), Error> {
        let Some(node) = self.graph.lookup(name) else { return Ok(()) };
        self.check_no_backing(&node)?;
        self.check_unblocked(&node)?;
        if node.has_outside_parent() {
            return Err(Error::generic(format!("Node {name} is in use")));
        }
        if !node.parents().is_empty() {
            return Err(Error::generic(format!("Block device {name} is in use")));
        }
        Ok(())
    }

    /// Closes a node that was given up, or tells at once why it was not.
    fn close_aside(
        &self,
        given_up: Result<Arc<Node>, Error>,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let graph = Arc::clone(&self.graph);
        let close = move || aio::block_on(graph.close(&given_up?)).map_err(client_error);
        self.aside.run_to_the_end(close, done);
    }

    /// Whether a node is no backing: what is below an overlay does not change for clients.
    ///
    /// # Errors
    /// It is one.
    pub(super) fn check_no_backing(&self, node: &Arc<Node>) -> Result<(), Error> {
        let parents = node.parents();
        let overlay = parents.iter().rev().filter(|edge| edge.role() == Role::Cow).find_map(|edge| edge.parent_node());
        let Some(overlay) = overlay else { return Ok(()) };
        let (name, overlay) = (self.device_or_node(node), overlay.name());
        Err(Error::generic(format!("Node '{name}' is busy: node is used as backing hd of '{overlay}'")))
    }

    /// How messages name a node: as the back end whose medium it is, if there is one with a name.
    pub(super) fn device_or_node(&self, node: &Node) -> String {
        super::device_of(&self.graph, node.name()).unwrap_or_else(|| node.name().to_owned())
    }

    /// `x-blockdev-del`: by node, or by the back end that `blockdev-add` has made. `done` is told on the control thread.
    pub fn delete_backend_or_node(
        &self,
        id: Option<&str>,
        node_name: Option<&str>,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        if let (None, Some(name)) = (id, node_name)
            && self.graph.lookup(name).is_some()
        {
            return self.delete_node(name, done);
        }
        let given_up = self.give_up_backend(id, node_name);
        let graph = Arc::clone(&self.graph);
        let close = move || aio::block_on(given_up?.remove(&graph)).map_err(client_error);
        self.aside.run_to_the_end(close, done);
    }

    fn give_up_backend(&self, id: Option<&str>, node_name: Option<&str>) -> Result<Arc<Backend>, Error> {
        let id = match (id, node_name) {
            (Some(_), Some(_)) => return Err(Error::generic("Only one of id and node-name must be specified")),
            (None, None) => return Err(Error::generic("No block device specified")),
            (None, Some(name)) => return Err(Error::generic(format!("Cannot find node {name}"))),
            (Some(id), None) => id,
        };
        let not_found = || Error::generic(format!("Cannot find block backend {id}"));
        let backend = self.graph.backend(id).ok_or_else(not_found)?;
        if self.is_drive(id) {
            return Err(Error::generic("Deleting block backend added with drive-add is not supported"));
        }
        if backend.device().is_some() {
            return Err(Error::generic(format!("Block backend {id} is in use")));
        }
        self.graph.remove_backend(&backend);
        Ok(backend)
    }

    /// `block_resize`. `done` is told on the control thread.
    pub fn resize(
        &self,
        node: Result<Arc<Node>, Error>,
        size: i64,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = node.and_then(|node| Ok((self.plan_resize(&node, size)?, node)));
        let graph = Arc::clone(&self.graph);
        let work = move || {
            let ((root, size), node) = planned?;
            let resized = aio::block_on(async {
                let _drained = graph.drain(&node).await;
                root.truncate(size, false, Preallocation::Off).await
            });
            let detached = aio::block_on(graph.detach(&root));
            resized.and(detached).map(|()| node).map_err(|error| {
                if error.is_unsupported() {
                    return Error::generic("Image format driver does not support resize");
                }
                client_error(error)
            })
        };
        self.aside.run_to_the_end(work, |storage, resized| {
            let told = resized.map(|node| storage.tell_of_new_size(&node));
            done(storage, told);
        });
    }

    /// The edge that holds a node while it gets another size, and that size.
    fn plan_resize(&self, node: &Arc<Node>, size: i64) -> Result<(Arc<Child>, u64), Error> {
        let size = u64::try_from(size).map_err(|_| Error::expects("size", "a >0 size"))?;
        if node.is_read_only() {
            return Err(Error::generic("Image is read-only"));
        }
        if node.blocked_by().is_some() {
            let name = super::device_of(&self.graph, node.name()).unwrap_or_else(|| node.name().to_owned());
            return Err(Error::generic(format!("Device '{name}' is in use")));
        }
        let root = self.graph.attach_root(node, "block_resize", Permissions::RESIZE, Permissions::ALL);
        Ok((root.map_err(client_error)?, size))
    }

    fn tell_of_new_size(&self, node: &Arc<Node>) {
        for backend in self.graph.backends() {
            if backend.node().is_some_and(|other| Arc::ptr_eq(&other, node))
                && let Some(device) = backend.device()
            {
                device.resized();
            }
        }
        self.tell_exports_of_new_size(node);
    }

    /// `block-set-write-threshold`.
    ///
    /// # Errors
    /// There is no such node.
    pub fn set_write_threshold(&self, name: &str, threshold: u64) -> Result<(), Error> {
        let node = self.graph.lookup(name);
        let node = node.ok_or_else(|| Error::generic(format!("Device '{name}' not found")))?;
        let events = self.events.clone();
        let node_name = name.to_owned();
        let event = move |amount_exceeded, write_threshold| {
            events.emit(BlockWriteThreshold { node_name, amount_exceeded, write_threshold });
        };
        node.set_write_threshold(threshold, Some(Box::new(event)));
        Ok(())
    }

    /// `x-blockdev-change`: adds a node to a quorum, or takes one away. `done` is told on the control thread.
    pub fn change_children(
        &self,
        command: XBlockdevChange,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let parent = self.node_by(Some(&command.parent), Some(&command.parent));
        let (graph, holds) = (Arc::clone(&self.graph), self.holds.clone());
        let work = move || aio::block_on(holds.hold(&graph, &[parent?], &[])).map_err(client_error);
        self.aside.run(work, move |storage, hold| {
            let changed = hold.and_then(|hold| {
                let changed = storage.change_children_held(&command);
                drop(hold);
                changed
            });
            match changed {
                Ok(Some(child)) => {
                    let graph = Arc::clone(&storage.graph);
                    let detach = move || aio::block_on(graph.detach(&child)).map_err(client_error);
                    storage.aside.run_to_the_end(detach, done);
                }
                other => done(storage, other.map(|_| ())),
            }
        });
    }

    /// Changes the children of a node that is held. The edge that was removed has to be detached.
    fn change_children_held(&self, command: &XBlockdevChange) -> Result<Option<Arc<Child>>, Error> {
        let parent = self.node_by(Some(&command.parent), Some(&command.parent))?;
        let _no_other_change = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        match (&command.child, &command.node) {
            (Some(_), Some(_)) => Err(Error::generic("The parameters child and node are in conflict")),
            (None, None) => Err(Error::generic("Either child or node must be specified")),
            (Some(name), None) => {
                let child = parent.children().into_iter().find(|child| child.name() == name);
                let not_there = || format!("Node '{}' does not have child '{name}'", command.parent);
                let child = child.ok_or_else(|| Error::generic(not_there()))?;
                self.graph.take_child(&parent, &child).map_err(client_error)?;
                Ok(Some(child))
            }
            (None, Some(name)) => {
                let node = self.graph.lookup(name);
                let node = node.ok_or_else(|| Error::generic(format!("Node '{name}' not found")))?;
                self.graph.add_child(&parent, &node).map_err(client_error)?;
                Ok(None)
            }
        }
    }

    /// `change-backing-file`: another name in the image, nothing else. `done` is told on the control thread.
    pub fn change_backing_file(
        &self,
        command: &ChangeBackingFile,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_backing_file(command);
        let (graph, reopening) = (Arc::clone(&self.graph), Arc::clone(&self.reopening));
        let work = move || {
            let (held, backing) = planned?;
            let image = held.node();
            // What hangs is waited for without the lock.
            let _drained = aio::block_on(graph.drain(image));
            let _no_other_change = reopening.lock().unwrap_or_else(PoisonError::into_inner);
            aio::block_on(store_backing(&graph, image, backing))
        };
        self.aside.run_to_the_end(work, done);
    }

    /// The image, and what it shall name as its backing.
    fn plan_backing_file(&self, command: &ChangeBackingFile) -> Result<(Held, ImageBacking), Error> {
        let device = &command.device;
        let top = self.node_by(Some(device), Some(device))?;
        let image = self.node_by(None, Some(&command.image_node_name))?;
        if chain::below(&image).is_none() {
            return Err(Error::generic("not allowing backing file change on an image without a backing file"));
        }
        if !chain::contains(&top, &image) {
            return Err(Error::generic(format!("'{device}' and image file are not in the same chain")));
        }
        let format = Some(image.driver_type().name().to_owned());
        let backing = ImageBacking { file: command.backing_file.clone(), format };
        Ok((Held::new(&self.graph, &image, "change-backing-file")?, backing))
    }
}

/// Lets an image name another backing, under drain.
async fn store_backing(graph: &Arc<Graph>, image: &Arc<Node>, backing: ImageBacking) -> Result<(), Error> {
    let was_read_only = image.is_read_only();
    graph.make_writable(image).await.map_err(client_error)?;
    let file = backing.file.clone();
    let changed = async {
        image.change_backing(Some(backing)).await?;
        image.flush().await
    };
    let changed = changed
        .await
        .map_err(|error| client_error(error.context(format!("Could not change backing file to '{file}'"))));
    let ended = match was_read_only {
        true => graph.make_read_only(image).await.map_err(client_error),
        false => Ok(()),
    };
    changed.and(ended)
}
