//! Exports of nodes: by the NBD server, each by a socket of its own (vhost-user), or as files (FUSE).
//!
//! Clients negotiate on the reactor that all disks share; then they belong to the reactor of their export. An export that
//! is removed lives on until its last client has been cut off; the control thread then gives its node back.

mod fuse;
mod vhost_user_blk;

use std::sync::{Arc, Weak};

use aio::VsockAddress;
use block::{Backend, Graph, Node};
use block_export::nbd::{BitmapRef, Export, ExportOptions, MAX_CONNECTIONS, Server, ServerOptions};
use block_export::{Address, Listener};
use block_net::tls::server_credentials;
use qapi::Error;
use qapi::block::bitmaps::BlockDirtyBitmapOrStr;
use qapi::block::export::{
    BlockExportAdd, BlockExportDeleted, BlockExportDetail, BlockExportInfo, BlockExportOptionsNbd,
    BlockExportRemoveMode, BlockExportType, NbdServerAdd, NbdServerOptions,
};
use qapi::sockets::SocketAddress;

use self::fuse::FuseFile;
use self::vhost_user_blk::VhostUserBlk;
use super::objects::IoThreadUse;
use super::{OwnerLink, Storage, client_error};

/// The server, and the tasks that accept clients.
struct NbdServer {
    server: Arc<Server>,
    tasks: Vec<aio::JoinHandle<()>>,
}

/// An export of some kind.
#[derive(Clone)]
enum Exported {
    Nbd(Arc<Export>),
    VhostUserBlk(Arc<VhostUserBlk>),
    Fuse(Arc<FuseFile>),
}

impl Exported {
    fn kind(&self) -> BlockExportType {
        match self {
            Self::Nbd(_) => BlockExportType::Nbd,
            Self::VhostUserBlk(_) => BlockExportType::VhostUserBlk,
            Self::Fuse(_) => BlockExportType::Fuse,
        }
    }

    fn node(&self) -> Option<Arc<Node>> {
        match self {
            Self::Nbd(export) => Some(export.node()),
            Self::VhostUserBlk(export) => export.node(),
            Self::Fuse(file) => Some(file.export.node()),
        }
    }

    fn has_clients(&self) -> bool {
        match self {
            Self::Nbd(export) => export.connections() > 0,
            Self::VhostUserBlk(export) => export.has_client(),
            // As with QEMU: who has the file open does not count.
            Self::Fuse(_) => false,
        }
    }

    fn is_shutting_down(&self) -> bool {
        match self {
            Self::Nbd(export) => export.is_shutting_down(),
            Self::VhostUserBlk(export) => export.is_shutting_down(),
            Self::Fuse(file) => file.export.is_shutting_down(),
        }
    }

    /// Cuts all clients off and takes no more.
    fn shut_down(&self) {
        match self {
            Self::Nbd(export) => export.shut_down(),
            Self::VhostUserBlk(export) => export.shut_down(),
            Self::Fuse(file) => file.export.shut_down(),
        }
    }

    async fn wait_unused(&self) {
        match self {
            Self::Nbd(export) => export.wait_unused().await,
            Self::VhostUserBlk(export) => export.wait_unused().await,
            Self::Fuse(_) => {}
        }
    }

    async fn close(&self, graph: &Graph) -> block::Result<()> {
        match self {
            Self::Nbd(export) => export.close(graph).await,
            Self::VhostUserBlk(export) => export.close(graph).await,
            Self::Fuse(file) => file.export.close(graph).await,
        }
    }
}

struct Entry {
    id: String,
    export: Exported,
    /// The I/O thread that was asked for.
    _thread: Option<IoThreadUse>,
    /// The back end whose medium it exports: without the medium it goes.
    backend: Option<Weak<Backend>>,
}

/// The exports, the newest first.
pub struct Exports {
    owner: OwnerLink,
    server: Option<NbdServer>,
    list: Vec<Entry>,
}

impl Exports {
    /// No exports.
    pub fn new(owner: OwnerLink) -> Self {
        Self { owner, server: None, list: Vec::new() }
    }
}

/// Where to listen. A descriptor is one that the program was started with.
///
/// # Errors
/// There is no such descriptor.
pub fn listen_address(address: &SocketAddress) -> Result<Address, Error> {
    Ok(match address {
        SocketAddress::Unix(unix) if unix.r#abstract == Some(true) => {
            Address::Abstract { name: unix.path.clone(), tight: unix.tight.unwrap_or(true) }
        }
        SocketAddress::Unix(unix) => Address::Unix { path: unix.path.clone() },
        SocketAddress::Inet(inet) => Address::Tcp {
            host: inet.host.clone(),
            port: inet.port.clone(),
            to: inet.to,
            ipv4: inet.ipv4,
            ipv6: inet.ipv6,
        },
        SocketAddress::Vsock(vsock) => {
            Address::Vsock(VsockAddress::parse(&vsock.cid, &vsock.port).map_err(Error::generic)?)
        }
        SocketAddress::Fd(fd) => {
            let number = fd.str.parse().map_err(|_| Error::generic(format!("Unable to parse FD number {}", fd.str)))?;
            let fd = chardev::inherited_fd(number).map_err(|error| Error::generic(error.to_string()))?;
            Address::Fd(fd)
        }
    })
}

impl Storage {
    /// `nbd-server-start`.
    ///
    /// # Errors
    /// There is one, the address can't be had, or the credentials are wrong.
    pub fn start_nbd(&mut self, address: Address, options: &NbdServerOptions) -> Result<(), Error> {
        if self.exports.server.is_some() {
            return Err(Error::generic("NBD server already running"));
        }
        if let Some(id) = &options.tls_authz {
            let text = format!("There is no authorization object '{id}': this version has none");
            return Err(Error::generic(text));
        }
        let credentials = options.tls_creds.as_ref().map(|id| server_credentials(&self.graph, id));
        let listeners = Listener::bind(address).map_err(client_error)?;
        let server = Server::new(ServerOptions {
            credentials: credentials.transpose().map_err(client_error)?,
            max_connections: options.max_connections.unwrap_or(MAX_CONNECTIONS),
            ..ServerOptions::default()
        });
        let reactor = self.reactor.handle();
        let serve = |listener| reactor.spawn(Arc::clone(&server).serve(listener));
        let tasks = listeners.into_iter().map(serve).collect();
        self.exports.server = Some(NbdServer { server, tasks });
        Ok(())
    }

    /// `nbd-server-stop`: cuts all clients off and waits for what they have asked for.
    ///
    /// # Errors
    /// There is none.
    pub fn stop_nbd(&mut self) -> Result<(), Error> {
        let Some(NbdServer { server, tasks }) = self.exports.server.take() else {
            return Err(Error::generic("NBD server not running"));
        };
        server.close();
        self.end_all(|export| matches!(export, Exported::Nbd(_)));
        aio::block_on(async {
            server.wait_unused().await;
            for task in tasks {
                task.await;
            }
        });
        Ok(())
    }

    /// Ends exports, and waits for what their clients have asked for.
    fn end_all(&mut self, ends: impl Fn(&Exported) -> bool) {
        let ending = || self.exports.list.iter().filter(|entry| ends(&entry.export));
        ending().for_each(|entry| entry.export.shut_down());
        let ids: Vec<String> = ending().map(|entry| entry.id.clone()).collect();
        for id in ids {
            self.finish_export(&id);
        }
    }

    /// The program ends, and all exports with it. The NBD server's sockets stay in the file system, as QEMU leaves them.
    pub(super) fn end_exports(&mut self) {
        if let Some(running) = &self.exports.server {
            running.server.leave_sockets();
        }
        // There may be none.
        let _no_server = self.stop_nbd();
        self.end_all(|_| true);
    }

    /// `block-export-add`, at `address` where the export has a socket of its own.
    ///
    /// # Errors
    /// The id is wrong or taken, there is no server, or the node can't be exported so.
    pub fn add_export(&mut self, command: &BlockExportAdd, address: Option<Address>) -> Result<(), Error> {
        self.add_export_of(command, None, address)
    }

    fn add_export_of(
        &mut self,
        command: &BlockExportAdd,
        backend: Option<Weak<Backend>>,
        address: Option<Address>,
    ) -> Result<(), Error> {
        if !qapi::keyval::is_identifier(&command.id) {
            return Err(Error::generic("Invalid block export id"));
        }
        if self.exports.list.iter().any(|entry| entry.id == command.id) {
            return Err(Error::generic(format!("Block export id '{}' is already in use", command.id)));
        }
        let node = self
            .graph
            .lookup(&command.node_name)
            .ok_or_else(|| Error::generic(format!("Cannot find device='' nor node-name='{}'", command.node_name)))?;
        if command.writable.unwrap_or(false) && node.is_read_only() {
            return Err(Error::generic("Cannot export read-only node as writable"));
        }
        let missing = |id| Error::generic(format!("iothread \"{id}\" not found"));
        let thread = command.iothread.as_ref().map(|id| self.objects.io_thread(id).map_err(|_| missing(id)));
        let thread = thread.transpose()?;
        let reactor = match &thread {
            None => self.reactor_of(&node),
            Some(thread) => {
                if command.fixed_iothread == Some(true) && self.is_used_elsewhere(&node, thread.reactor()) {
                    return Err(Error::generic("Cannot change iothread of active block backend"));
                }
                thread.reactor().clone()
            }
        };
        let made = match (&command.detail, address) {
            (BlockExportDetail::Nbd(nbd), _) => self.export_over_nbd(&node, command, nbd, reactor).map(Exported::Nbd),
            (BlockExportDetail::VhostUserBlk(options), Some(address)) => {
                let made = VhostUserBlk::start(&self.graph, &node, (command, options), address, &reactor);
                made.map(|export| Exported::VhostUserBlk(Arc::new(export)))
            }
            (BlockExportDetail::Fuse(options), _) => {
                let made = fuse::start(&self.graph, &node, (command, options), &reactor, &self.exports.list);
                made.map(|file| Exported::Fuse(Arc::new(file)))
            }
            (BlockExportDetail::VhostUserBlk(_), None) => Err(Error::generic("Parameter 'addr' is missing")),
        };
        let entry = Entry { id: command.id.clone(), export: made?, _thread: thread, backend };
        self.exports.list.insert(0, entry);
        Ok(())
    }

    /// Whether a device uses the node, or one above or below it, on another thread.
    fn is_used_elsewhere(&self, node: &Arc<Node>, reactor: &aio::Handle) -> bool {
        let mut users = self.graph.backends().into_iter().filter(|backend| backend.device().is_some());
        users.any(|backend| {
            let medium = backend.node();
            let is_linked = medium.is_some_and(|medium| medium.is_or_contains(node) || node.is_or_contains(&medium));
            is_linked && backend.reactor().as_ref() != Some(reactor)
        })
    }

    fn export_over_nbd(
        &self,
        node: &Arc<Node>,
        command: &BlockExportAdd,
        nbd: &BlockExportOptionsNbd,
        reactor: aio::Handle,
    ) -> Result<Arc<Export>, Error> {
        let running = self.exports.server.as_ref().map(|server| Arc::clone(&server.server));
        let server = running.ok_or_else(|| Error::generic("NBD server not running"))?;
        let BlockExportOptionsNbd { base, bitmaps, allocation_depth } = nbd.clone();
        let options = ExportOptions {
            name: base.name.unwrap_or_else(|| command.node_name.clone()),
            description: base.description,
            writable: command.writable.unwrap_or(false),
            writethrough: command.writethrough.unwrap_or(false),
            multi_conn: server.has_multi_conn(),
            allocation_depth: allocation_depth.unwrap_or(false),
            bitmaps: bitmaps.unwrap_or_default().into_iter().map(bitmap).collect(),
        };
        let made = server.check_name(&options.name).and_then(|()| {
            let export = Export::new(&self.graph, node, options, reactor)?;
            server.add(&export)?;
            Ok(export)
        });
        made.map_err(client_error)
    }

    /// `nbd-server-add`: a read-only node is exported as such, and the export goes with the medium of the device.
    ///
    /// # Errors
    /// As [`Storage::add_export`].
    pub fn add_nbd_export(&mut self, command: NbdServerAdd) -> Result<(), Error> {
        let node = self.node_by(Some(&command.device), Some(&command.device))?;
        let mut base = command.base;
        let name = base.name.get_or_insert_with(|| command.device.clone()).clone();
        let bitmaps = command.bitmap.map(|bitmap| vec![BlockDirtyBitmapOrStr::Local(bitmap)]);
        let export = BlockExportAdd {
            detail: BlockExportDetail::Nbd(BlockExportOptionsNbd { base, bitmaps, allocation_depth: None }),
            id: name,
            fixed_iothread: None,
            iothread: None,
            node_name: node.name().to_owned(),
            writable: Some(command.writable.unwrap_or(false) && !node.is_read_only()),
            writethrough: None,
        };
        let backend = self.graph.backend(&command.device).map(|backend| Arc::downgrade(&backend));
        self.add_export_of(&export, backend, None)
    }

    /// `block-export-del`. The export is gone when its last client is.
    ///
    /// # Errors
    /// There is no such export, it ends already, or it has clients and they shall stay.
    pub fn delete_export(&mut self, id: &str, mode: Option<BlockExportRemoveMode>) -> Result<(), Error> {
        let entry = self.exports.list.iter().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| Error::generic(format!("Export '{id}' is not found")))?;
        if entry.export.is_shutting_down() {
            return Err(Error::generic(format!("Export '{id}' is already shutting down")));
        }
        let is_safe = mode.unwrap_or(BlockExportRemoveMode::Safe) == BlockExportRemoveMode::Safe;
        if is_safe && entry.export.has_clients() {
            return Err(Error::generic(format!("export '{id}' still in use")));
        }
        self.end_export(id);
        Ok(())
    }

    /// Lets an export end by itself.
    fn end_export(&mut self, id: &str) {
        let Some(entry) = self.exports.list.iter().find(|entry| entry.id == id) else { return };
        entry.export.shut_down();
        if let (Some(server), Exported::Nbd(export)) = (&self.exports.server, &entry.export) {
            server.server.remove(export);
        }
        if !entry.export.has_clients() {
            // The event comes before the command's reply.
            return self.finish_export(id);
        }
        let (id, run) = (id.to_owned(), Arc::clone(&self.exports.owner.run));
        let export = entry.export.clone();
        drop(self.reactor.handle().spawn(async move {
            export.wait_unused().await;
            run(Box::new(move |storage| storage.finish_export(&id)));
        }));
    }

    /// Gives the node of an export back.
    fn finish_export(&mut self, id: &str) {
        // The server may have been stopped meanwhile.
        let Some(at) = self.exports.list.iter().position(|entry| entry.id == id) else { return };
        let entry = self.exports.list.remove(at);
        if let Err(error) = aio::block_on(entry.export.close(&self.graph)) {
            tracing::warn!("closing export '{id}': {error}");
        }
        self.events.emit(BlockExportDeleted { id: entry.id });
    }

    /// A node has another size.
    pub(super) fn tell_exports_of_new_size(&self, node: &Arc<Node>) {
        for entry in &self.exports.list {
            if entry.export.node().is_some_and(|its| Arc::ptr_eq(&its, node)) {
                match &entry.export {
                    Exported::VhostUserBlk(export) => export.resized(),
                    Exported::Fuse(file) => file.export.resized(),
                    // Clients know the size that it had when they came.
                    Exported::Nbd(_) => {}
                }
            }
        }
    }

    /// The medium of a back end is about to go: so do the exports that were made of it.
    pub(super) fn end_exports_of(&mut self, backend: &Arc<Backend>) {
        let is_of = |entry: &&Entry| entry.backend.as_ref().is_some_and(|known| known.as_ptr() == Arc::as_ptr(backend));
        let ids: Vec<String> = self.exports.list.iter().filter(is_of).map(|entry| entry.id.clone()).collect();
        for id in ids {
            self.end_export(&id);
        }
    }

    /// `query-block-exports`.
    pub fn export_infos(&self) -> Vec<BlockExportInfo> {
        let info = |entry: &Entry| BlockExportInfo {
            id: entry.id.clone(),
            r#type: entry.export.kind(),
            node_name: entry.export.node().map_or_else(String::new, |node| node.name().to_owned()),
            shutting_down: entry.export.is_shutting_down(),
        };
        self.exports.list.iter().map(info).collect()
    }
}

fn bitmap(wanted: BlockDirtyBitmapOrStr) -> BitmapRef {
    match wanted {
        BlockDirtyBitmapOrStr::Local(name) => BitmapRef::Below(name),
        BlockDirtyBitmapOrStr::External(of) => BitmapRef::Of { node: of.node, name: of.name },
    }
}
