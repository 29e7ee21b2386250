//! Edges of the graph: how a parent reaches a node.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use iobuf::IoBuf;

use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::nested;
use crate::node::Node;
use crate::permissions::Permissions;
use crate::request::{BlockStatus, Preallocation, WriteFlags, ZeroFlags};

/// What a child is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The storage of a format: its metadata and usually its data.
    Storage,
    /// The storage of a driver that passes bytes through at an offset and has no metadata (`raw`).
    PlainStorage,
    /// Just the data of a format (an external data file, extents).
    Data,
    /// What a filter filters.
    Filtered,
    /// The backing of an overlay.
    Cow,
    /// What a device, an export, a job or a tool uses.
    Root,
}

/// Who holds the edge.
#[derive(Clone)]
pub enum Parent {
    /// A node, known once it exists.
    Node(OnceLock<Weak<Node>>),
    /// Something outside of the graph; the text is used in messages, as `block device 'disk0'`. Requests of a user
    /// with a gate pass through it.
    Outside(String, Option<Arc<Gate>>),
}

/// An edge from a parent to a node. Requests go through it.
pub struct Child {
    name: String,
    role: Role,
    node: RwLock<Arc<Node>>,
    parent: Parent,
    permissions: Mutex<(Permissions, Permissions)>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Child({} -> {})", self.name, self.node().name())
    }
}

impl Child {
    /// An edge; [`crate::Graph`] attaches it.
    pub(crate) fn new(name: &str, role: Role, node: Arc<Node>, parent: Parent) -> Arc<Self> {
        let child = Arc::new(Self {
            name: name.to_owned(),
            role,
            node: RwLock::new(node),
            parent,
            permissions: Mutex::new((Permissions::NONE, Permissions::ALL)),
        });
        child.node().add_parent(&child);
        child
    }

    /// The edge's name in its parent, as `file`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the child is to its parent.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The node below, now.
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The parent.
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// How messages name a parent outside of the graph.
    pub fn holder(&self) -> Option<&str> {
        match &self.parent {
            Parent::Outside(holder, _) => Some(holder),
            Parent::Node(_) => None,
        }
    }

    /// The parent, if it is a node that exists.
    pub fn parent_node(&self) -> Option<Arc<Node>> {
        match &self.parent {
            Parent::Node(slot) => slot.get().and_then(Weak::upgrade),
            Parent::Outside(..) => None,
        }
    }

    pub(crate) fn set_parent_node(&self, node: &Arc<Node>) {
        if let Parent::Node(slot) = &self.parent {
            let _ = slot.set(Arc::downgrade(node));
        }
    }

    /// Points the edge to another node. The caller has drained both and checked permissions.
    pub(crate) fn replace(self: &Arc<Self>, node: Arc<Node>) -> Arc<Node> {
        node.add_parent(self);
        let old = std::mem::replace(&mut *self.node.write().unwrap_or_else(PoisonError::into_inner), node);
        old.remove_parent(self);
        old
    }

    /// What this edge uses, and what it lets others do.
    pub fn permissions(&self) -> (Permissions, Permissions) {
        *self.permissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store_permissions(&self, used: Permissions, shared: Permissions) {
        *self.permissions.lock().unwrap_or_else(PoisonError::into_inner) = (used, shared);
    }

    /// Size of the node below in bytes.
    pub fn len(&self) -> u64 {
        self.node().len()
    }

    /// Whether the node below has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the node below that `event` happens now, for error injection (`blkdebug`). Formats call this before each
    /// step that a test may want to fail.
    pub async fn event(&self, event: &'static str) {
        let mut node = self.node();
        if aio::is_attempting() && !node.driver().reads_at_once() {
            // It would count twice.
            aio::not_in_an_attempt().await;
        }
        while node.driver().forwards_events() {
            let Some(below) = node.driver().children().first().map(|child| child.node()) else { return };
            node = below;
        }
        if let Some(hold) = node.driver().debug_event(event) {
            // A held request goes on when it is resumed; there is nothing to fail here.
            let _ = hold.await;
        }
    }

    /// Reads into `buf`; zeroes behind the end.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.node().read(offset, buf).await
    }

    /// Reads `len` bytes; zeroes behind the end. For metadata.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let buf = IoBuf::zeroed(len);
        self.read(offset, buf.clone()).await?;
        Ok(buf.to_vec())
    }

    /// Reads `into.len()` bytes; zeroes behind the end. For metadata.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read_into(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let buf = IoBuf::zeroed(into.len());
        self.read(offset, buf.clone()).await?;
        buf.read_at(0, into);
        Ok(())
    }

    /// Writes `buf`.
    ///
    /// # Errors
    /// The driver's.
    pub async fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> Result<()> {
        self.node().write(offset, buf, flags).await
    }

    /// Writes a copy of `bytes`. For metadata.
    ///
    /// # Errors
    /// The driver's.
    pub async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(offset, IoBuf::copy_of(bytes), WriteFlags::default()).await
    }

    /// Copies from a protocol node without reading.
    ///
    /// # Errors
    /// As [`Node::copy_from`].
    pub async fn copy_from(&self, offset: u64, source: Arc<Node>, source_offset: u64, len: u64) -> Result<()> {
        self.node().copy_from(offset, source, source_offset, len).await
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// The driver's.
    pub async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.node().write_zeroes(offset, len, flags).await
    }

    /// Gives a range back.
    ///
    /// # Errors
    /// The driver's.
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.node().discard(offset, len).await
    }

    /// Brings everything that was written to stable storage.
    ///
    /// # Errors
    /// The driver's.
    pub async fn flush(&self) -> Result<()> {
        self.node().flush().await
    }

    /// Changes the size.
    ///
    /// # Errors
    /// The driver's.
    pub async fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> Result<()> {
        self.node().truncate(len, exact, preallocation).await
    }

    /// What the node below knows of a range.
    ///
    /// # Errors
    /// The driver's.
    pub async fn block_status(&self, offset: u64, len: u64, precise: bool) -> Result<BlockStatus> {
        self.node().block_status(offset, len, precise).await
    }
}

/// Where the backing of an overlay is attached. It may be exchanged while requests run: each takes the edge once.
#[derive(Default)]
pub struct BackingSlot(RwLock<Option<Arc<Child>>>);

impl BackingSlot {
    /// The backing, now.
    pub fn get(&self) -> Option<Arc<Child>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, child: Option<Arc<Child>>) -> Option<Arc<Child>> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), child)
    }

    /// Reads from the backing; zeroes without one and behind its end.
    ///
    /// # Errors
    /// The backing's.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let len = buf.len() as u64;
        let mut next = self.get();
        // A long chain is gone down without a request to each of its images.
        while let Some(backing) = next {
            let node = backing.node();
            let driver = node.driver();
            let inside = offset.checked_add(len).is_some_and(|end| end <= driver.len());
            let mut slot = if inside { driver.reads_through(offset, len) } else { None };
            if inside && slot.is_none() && driver.look_up(offset, len).await? {
                slot = driver.reads_through(offset, len);
            }
            match slot {
                Some(slot) => next = slot.get(),
                None => return nested::read(backing, offset, buf).await,
            }
        }
        buf.fill(0, buf.len(), 0);
        Ok(())
    }
}

/// An error for a driver that was opened without a child that it needs.
pub fn missing_child(name: &str) -> Error {
    Error::invalid(format!("A block device must be specified for \"{name}\""))
}
