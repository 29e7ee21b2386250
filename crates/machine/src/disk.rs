//! The disk behind a controller, made of a back end of the block layer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use block::backend::Operation;
use block::{Backend, WriteFlags, ZeroFlags};
use device::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};
use iobuf::IoBuf;

/// What the user says of a disk, where the medium does not decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// Bytes of a logical block; 0 is 512.
    pub logical_block_size: u32,
    /// Bytes of a physical block; 0 is that of the logical block.
    pub physical_block_size: u32,
    /// Best granularity of transfers, bytes; 0 if there is none.
    pub min_io_size: u32,
    /// Best length of transfers, bytes; 0 if there is none.
    pub opt_io_size: u32,
    /// Granularity of discards, bytes; `None` takes that of the medium.
    pub discard_granularity: Option<u32>,
    /// The serial number that the guest sees.
    pub serial: String,
    /// The guest may not write, whatever the medium allows.
    pub read_only: bool,
}

/// A back end as controllers see it.
pub struct BackendDisk {
    backend: Arc<Backend>,
    config: DiskConfig,
    observers: Mutex<Vec<Weak<dyn DiskObserver>>>,
    removable: OnceLock<Weak<dyn Removable>>,
    tray: OnceLock<TrayListener>,
}

/// Told when the guest has opened (`true`) or closed the tray. It must not call the device.
pub type TrayListener = Box<dyn Fn(bool) + Send + Sync>;

impl BackendDisk {
    /// The disk of `backend`. Requests run on the back end's reactor.
    pub fn new(backend: Arc<Backend>, config: DiskConfig) -> Arc<Self> {
        let (observers, removable, tray) = (Mutex::default(), OnceLock::new(), OnceLock::new());
        Arc::new(Self { backend, config, observers, removable, tray })
    }

    /// The back end.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The drive that takes media in and out, if that is what the controller has made of this disk.
    pub fn removable(&self) -> Option<Arc<dyn Removable>> {
        self.removable.get().and_then(Weak::upgrade)
    }

    /// Registers who is told of the guest's moves of the tray.
    pub fn listen_to_tray(&self, listener: TrayListener) {
        // A disk has one device, which is connected once.
        let _first = self.tray.set(listener);
    }

    /// Tells the controller that size or medium may have changed.
    pub fn changed(&self) {
        let observers: Vec<_> = {
            let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
            observers.retain(|observer| observer.strong_count() != 0);
            observers.iter().filter_map(Weak::upgrade).collect()
        };
        for observer in observers {
            observer.changed();
        }
    }
}

impl Disk for BackendDisk {
    fn properties(&self) -> DiskProperties {
        let node = self.backend.node();
        let logical_block_size = self.config.logical_block_size.max(512);
        let unit = node.as_ref().map_or(0, |node| node.driver().limits().discard_alignment);
        DiskProperties {
            size: self.backend.len(),
            logical_block_size,
            physical_block_size: self.config.physical_block_size.max(logical_block_size),
            min_io_size: self.config.min_io_size,
            opt_io_size: self.config.opt_io_size,
            discard_granularity: self.config.discard_granularity.unwrap_or(unit.max(logical_block_size)),
            read_only: self.config.read_only || node.as_ref().is_some_and(|node| node.is_read_only()),
            medium: node.is_some(),
            write_cache: self.backend.has_write_cache(),
            serial: self.config.serial.clone(),
        }
    }

    fn read_at_once(&self, offset: u64, buf: &IoBuf) -> bool {
        self.backend.read_at_once(offset, buf)
    }

    fn submit(&self, request: DiskRequest) {
        let operation = match request.operation {
            DiskOperation::Read { offset, buf } => Operation::Read(offset, buf),
            DiskOperation::Write { offset, buf, fua } => {
                Operation::Write(offset, buf, WriteFlags { fua, ..WriteFlags::default() })
            }
            DiskOperation::Flush => Operation::Flush,
            DiskOperation::Discard { offset, len } => Operation::Discard(offset, len),
            DiskOperation::WriteZeroes { offset, len, unmap } => {
                Operation::WriteZeroes(offset, len, ZeroFlags { may_unmap: unmap, ..ZeroFlags::default() })
            }
        };
        let done = request.done;
        self.backend.submit(operation, move |result| done(result.map_err(|error| classify(&error))));
    }

    fn set_write_cache(&self, on: bool) {
        self.backend.set_write_cache(on);
    }

    fn observe(&self, observer: Weak<dyn DiskObserver>) {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    fn set_removable(&self, drive: Weak<dyn Removable>) {
        let _first = self.removable.set(drive);
    }

    fn name(&self) -> String {
        self.backend.name().to_owned()
    }

    fn tray_moved(&self, is_open: bool) {
        if let Some(listener) = self.tray.get() {
            listener(is_open);
        }
    }
}

fn classify(error: &block::Error) -> DiskError {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(error.errno()) {
        Errno::NOSPC => DiskError::NoSpace,
        Errno::NOMEDIUM => DiskError::NoMedium,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => DiskError::ReadOnly,
        Errno::NOTSUP => DiskError::Unsupported,
        Errno::INVAL => DiskError::Invalid,
        _ => DiskError::Io,
    }
}
