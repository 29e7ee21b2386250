//! Exports over vhost-user: a node as the disk of a guest that another program runs.
//!
//! The requests are those of `virtio-blk`, and so is what does them. Errors are told to the guest: there is none here
//! that could be stopped.

use std::sync::{Arc, Mutex, PoisonError};

use block::backend::ErrorPolicy;
use block::{Backend, Graph, Node, Permissions};
use block_export::{Address, Listener};
use device::disk::Disk;
use devices_virtio::blk::{Blk, BlkOptions};
use devices_virtio::queue::MAX_SIZE;
use machine::disk::{BackendDisk, DiskConfig};
use qapi::Error;
use qapi::block::export::{BlockExportAdd, BlockExportOptionsVhostUserBlk};
use vhost_user::{Device, Export};

use super::super::client_error;

/// What a guest sees as the disk's serial number, as with QEMU.
const SERIAL: &str = "vhost_user_blk";
const MIN_BLOCK: u64 = 512;
const MAX_BLOCK: u64 = 2 << 20;

/// An export, and what it is made of.
pub(super) struct VhostUserBlk {
    export: Arc<Export>,
    backend: Arc<Backend>,
    disk: Arc<BackendDisk>,
    serving: Mutex<Option<aio::JoinHandle<()>>>,
}

/// Bytes of a block, if they can be that.
fn block_size(id: &str, size: u64) -> Result<u32, Error> {
    let property = format!("Property {id}.logical-block-size doesn't take value");
    match u32::try_from(size) {
        // As if it was not given.
        Ok(0) => Ok(MIN_BLOCK as u32),
        Ok(small) if (MIN_BLOCK..=MAX_BLOCK).contains(&size) => {
            let text = || format!("{property} '{size}', it's not a power of 2");
            small.is_power_of_two().then_some(small).ok_or_else(|| Error::generic(text()))
        }
        _ => Err(Error::generic(format!("{property} {size} (minimum: {MIN_BLOCK}, maximum: {MAX_BLOCK})"))),
    }
}

impl VhostUserBlk {
    /// Exports `node` at `address`; the work is done on `reactor`.
    ///
    /// # Errors
    /// Wrong options, others use the node in a way that does not go together with this, or the address can't be had.
    pub fn start(
        graph: &Graph,
        node: &Arc<Node>,
        (command, options): (&BlockExportAdd, &BlockExportOptionsVhostUserBlk),
        address: Address,
        reactor: &aio::Handle,
    ) -> Result<Self, Error> {
        let writable = command.writable.unwrap_or(false);
        let logical_block_size = block_size(&command.id, options.logical_block_size.unwrap_or(0))?;
        let queues = options.num_queues.unwrap_or(1);
        if queues == 0 {
            return Err(Error::generic("num-queues must be greater than 0"));
        }
        if queues > MAX_SIZE {
            return Err(Error::generic(format!("num-queues must be at most {MAX_SIZE}")));
        }
        if !matches!(address, Address::Unix { .. } | Address::Abstract { .. } | Address::Fd(_)) {
            return Err(Error::generic("Only socket address types 'unix' and 'fd' are supported"));
        }
        let backend = Backend::new("");
        backend.set_reactor(reactor.clone());
        // Front ends are served on that reactor.
        backend.set_at_once(true);
        backend.set_error_policies(ErrorPolicy::Report, ErrorPolicy::Report);
        backend.set_write_cache(!command.writethrough.unwrap_or(false));
        let mut used = Permissions::CONSISTENT_READ;
        if writable {
            used = used | Permissions::WRITE;
        }
        backend.insert(graph, node, used, Permissions::ALL).map_err(client_error)?;
        let listeners = match Listener::bind(address) {
            Ok(listeners) => listeners,
            Err(error) => {
                if let Err(error) = aio::block_on(backend.remove(graph)) {
                    tracing::warn!("closing export '{}': {error}", command.id);
                }
                return Err(client_error(error));
            }
        };
        let config = DiskConfig { serial: SERIAL.to_owned(), read_only: !writable, ..DiskConfig::default() };
        let disk = BackendDisk::new(Arc::clone(&backend), config);
        let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
        let blk = BlkOptions {
            num_queues: queues,
            queue_size: MAX_SIZE,
            seg_max_adjust: false,
            logical_block_size: Some(logical_block_size),
            ..BlkOptions::default()
        };
        let device = Device::new(|access| Blk::new(blk, shared, access));
        let export = Arc::new(Export::default());
        let serving = reactor.spawn(Arc::clone(&export).serve(listeners, device));
        Ok(Self { export, backend, disk, serving: Mutex::new(Some(serving)) })
    }

    /// The node, while it is exported.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.backend.node()
    }

    /// The node has another size.
    pub fn resized(&self) {
        self.disk.changed();
    }

    /// Whether there is a front end.
    pub fn has_client(&self) -> bool {
        self.export.has_client()
    }

    /// Whether the export ends.
    pub fn is_shutting_down(&self) -> bool {
        self.export.is_shutting_down()
    }

    /// Cuts the front end off and takes no more.
    pub fn shut_down(&self) {
        self.export.shut_down();
    }

    /// Waits until there is no front end any more.
    pub async fn wait_unused(&self) {
        self.export.wait_unused().await;
    }

    /// Cuts the front end off, waits for its requests and gives the node back.
    pub async fn close(&self, graph: &Graph) -> block::Result<()> {
        self.shut_down();
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            serving.await;
        }
        self.backend.remove(graph).await
    }
}
