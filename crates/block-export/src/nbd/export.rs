//! An export: a node, what clients may do with it, and who they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::bitmap::{BitmapUse, DirtyBitmap};
use block::gate::Gate;
use block::{Child, Error, Graph, Node, Permissions, Result};
use block_net::nbd::wire::{
    CAN_MULTI_CONN, HAS_FLAGS, MAX_STRING, MAX_TRANSFER, READ_ONLY, SEND_CACHE, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA,
    SEND_TRIM, SEND_WRITE_ZEROES,
};
use block_net::transport::Transport;
use block_tools::status;
use tokio::sync::Notify;

/// A bitmap whose bits are a metadata context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitmapRef {
    /// The first of that name at the node and the images below.
    Below(String),
    /// One of another node.
    Of {
        /// The node.
        node: String,
        /// The bitmap.
        name: String,
    },
}

/// What an export is to be.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: Option<String>,
    /// Clients may write.
    pub writable: bool,
    /// Each write is stable before it completes.
    pub writethrough: bool,
    /// There may be several clients, who all see what one has flushed.
    pub multi_conn: bool,
    /// The context `qemu:allocation-depth` exists.
    pub allocation_depth: bool,
    /// The contexts `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<BitmapRef>,
}

#[derive(Default)]
struct Clients {
    list: Vec<(u64, Arc<Transport>)>,
    next: u64,
    closing: bool,
}

/// A node that clients may use.
pub struct Export {
    options: ExportOptions,
    child: Arc<Child>,
    pub(super) gate: Arc<Gate>,
    pub(super) bitmaps: Vec<Arc<DirtyBitmap>>,
    pub(super) size: u64,
    pub(super) flags: u16,
    reactor: aio::Handle,
    clients: Mutex<Clients>,
    left: Notify,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Export({} of {})", self.options.name, self.child.node().name())
    }
}

/// A client's place at an export; dropping it leaves.
pub(super) struct Membership {
    pub export: Arc<Export>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.export.clients().list.retain(|(id, _)| *id != self.id);
        self.export.left.notify_waiters();
    }
}

/// The next node of a chain: what a filter filters, or the backing.
fn below(node: &Node) -> Option<Arc<Node>> {
    node.filtered().or_else(|| node.backing()).map(|child| child.node())
}

fn find_bitmap(graph: &Graph, node: &Arc<Node>, wanted: &BitmapRef, writable: bool) -> Result<Arc<DirtyBitmap>> {
    let bitmap = match wanted {
        BitmapRef::Of { node, name } => graph.find(node)?.bitmaps().named(name)?,
        BitmapRef::Below(name) => {
            let mut at = Some(Arc::clone(node));
            let (owner, bitmap) = loop {
                let Some(node) = at else {
                    return Err(Error::not_found(format!("Bitmap '{name}' is not found")));
                };
                if let Some(bitmap) = node.bitmaps().find(name) {
                    break (node, bitmap);
                }
                at = below(&node);
            };
            if !writable && !owner.is_read_only() && bitmap.is_enabled() {
                let text = format!("Enabled bitmap '{name}' incompatible with readonly export");
                return Err(Error::invalid(text));
            }
            bitmap
        }
    };
    bitmap.check(BitmapUse::Read)?;
    Ok(bitmap)
}

impl Export {
    /// Takes a node for clients. Their requests run on `reactor`. Opposite: [`Export::close`].
    ///
    /// # Errors
    /// The node is read-only or others use it in a way that does not go together with this; wrong names; a bitmap that is
    /// not there or in use.
    pub fn new(graph: &Graph, node: &Arc<Node>, options: ExportOptions, reactor: aio::Handle) -> Result<Arc<Self>> {
        if options.writable && node.is_read_only() {
            return Err(Error::read_only("Cannot export read-only node as writable"));
        }
        if options.name.len() > MAX_STRING {
            return Err(Error::invalid(format!("export name '{}' too long", options.name)));
        }
        if let Some(text) = options.description.as_ref().filter(|text| text.len() > MAX_STRING) {
            return Err(Error::invalid(format!("description '{text}' too long")));
        }
        let gate = Arc::new(Gate::new());
        let mut used = Permissions::CONSISTENT_READ;
        if options.writable {
            used = used | Permissions::WRITE;
        }
        let shared = Permissions::RESIZE.complement();
        let found = options.bitmaps.iter().map(|wanted| find_bitmap(graph, node, wanted, options.writable));
        let bitmaps = found.collect::<Result<Vec<_>>>()?;
        let child = graph.attach_user(node, "an unnamed block device", &gate, used, shared)?;
        for bitmap in &bitmaps {
            bitmap.set_busy(true);
        }
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE;
        if options.multi_conn {
            flags |= CAN_MULTI_CONN;
        }
        flags |= if options.writable { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO } else { READ_ONLY };
        Ok(Arc::new(Self {
            size: status::size(node),
            options,
            child,
            gate,
            bitmaps,
            flags,
            reactor,
            clients: Mutex::default(),
            left: Notify::new(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub(super) fn options(&self) -> &ExportOptions {
        &self.options
    }

    /// The node.
    pub fn node(&self) -> Arc<Node> {
        self.child.node()
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    pub(super) fn reactor(&self) -> &aio::Handle {
        &self.reactor
    }

    /// The smallest, best and largest block of a request, bytes.
    pub(super) fn block_sizes(&self) -> [u32; 3] {
        let limits = self.node().driver().limits();
        let smallest = limits.request_alignment.clamp(1, MAX_TRANSFER);
        let longest = match u32::try_from(limits.max_transfer) {
            Ok(0) | Err(_) => MAX_TRANSFER,
            Ok(max) => (max / smallest * smallest).clamp(smallest, MAX_TRANSFER),
        };
        [smallest, smallest.max(4096), longest]
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more client, if the export does not end.
    pub(super) fn enter(self: &Arc<Self>, transport: &Arc<Transport>) -> Option<Membership> {
        let mut clients = self.clients();
        if clients.closing {
            return None;
        }
        clients.next += 1;
        let id = clients.next;
        clients.list.push((id, Arc::clone(transport)));
        Some(Membership { export: Arc::clone(self), id })
    }

    /// How many clients there are.
    pub fn connections(&self) -> usize {
        self.clients().list.len()
    }

    /// Whether the export ends.
    pub fn is_shutting_down(&self) -> bool {
        self.clients().closing
    }

    /// Cuts all clients off and takes no more.
    pub fn shut_down(&self) {
        let mut clients = self.clients();
        clients.closing = true;
        for (_, transport) in &clients.list {
            transport.shutdown();
        }
    }

    /// Waits until the last client has left.
    pub async fn wait_unused(&self) {
        loop {
            let left = self.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if self.connections() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Cuts all clients off, waits for their requests and gives the node back.
    ///
    /// # Errors
    /// What the last writes of a node give that nobody else uses.
    pub async fn close(&self, graph: &Graph) -> Result<()> {
        self.shut_down();
        self.wait_unused().await;
        for bitmap in &self.bitmaps {
            bitmap.set_busy(false);
        }
        graph.detach(&self.child).await
    }
}
