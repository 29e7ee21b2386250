//! Disks of devices: which back end they use, and how.

use std::sync::{Arc, OnceLock, Weak};

use block::backend::{DeviceModel, ErrorPolicy};
use block::{Backend, Permissions};
use device::disk::{Disk, Removable};
use device::entropy::Entropy;
use machine::config::{self, DiskAccess};
use machine::disk::{BackendDisk, DiskConfig};
use machine::storage::{DiskRequestor, unknown_drive};
use qapi::Error;
use qapi::block::events::DeviceTrayMoved;

use super::Storage;
use super::objects::IoThreadUse;

/// The device at a back end.
struct Attached {
    id: Option<String>,
    path: String,
    removable: bool,
    disk: OnceLock<Weak<BackendDisk>>,
    /// The I/O thread that was asked for.
    thread: Option<IoThreadUse>,
}

impl Attached {
    fn disk(&self) -> Option<Arc<BackendDisk>> {
        self.disk.get().and_then(Weak::upgrade)
    }

    fn drive(&self) -> Option<Arc<dyn Removable>> {
        self.disk().and_then(|disk| disk.removable())
    }
}

impl DeviceModel for Attached {
    fn qom_path(&self) -> String {
        self.path.clone()
    }

    fn id(&self) -> Option<String> {
        self.id.clone()
    }

    fn is_removable(&self) -> bool {
        self.removable
    }

    fn has_tray(&self) -> bool {
        self.drive().is_some_and(|drive| drive.has_tray())
    }

    fn is_tray_open(&self) -> bool {
        self.drive().is_some_and(|drive| drive.is_tray_open())
    }

    fn is_locked(&self) -> bool {
        self.drive().is_some_and(|drive| drive.is_locked())
    }

    fn eject_request(&self, force: bool) {
        if let Some(drive) = self.drive() {
            drive.eject_request(force);
        }
    }

    fn medium_changed(&self, loaded: bool) {
        if let Some(drive) = self.drive() {
            drive.medium_changed(loaded);
        }
    }

    fn resized(&self) {
        if let Some(disk) = self.disk() {
            disk.changed();
        }
    }
}

fn policy(wish: config::ErrorPolicy, drive: ErrorPolicy) -> ErrorPolicy {
    match wish {
        config::ErrorPolicy::Auto => drive,
        config::ErrorPolicy::Ignore => ErrorPolicy::Ignore,
        config::ErrorPolicy::Report => ErrorPolicy::Report,
        config::ErrorPolicy::Stop => ErrorPolicy::Stop,
        config::ErrorPolicy::Enospc => ErrorPolicy::Enospc,
    }
}

impl Storage {
    /// A source of random numbers, for a device.
    ///
    /// # Errors
    /// A whole message.
    pub fn entropy(&self, id: &str) -> Result<Arc<dyn Entropy>, String> {
        self.objects.entropy(id).map_err(|error| error.desc)
    }

    /// Connects a device to its disk: a drive by its id, or a node, which gets a back end of its own.
    ///
    /// # Errors
    /// A whole message.
    pub fn attach_disk(&mut self, requestor: &DiskRequestor<'_>) -> Result<Arc<dyn Disk>, String> {
        let wish = requestor.wish;
        // A part of a device has no id of its own.
        let id = requestor.id.filter(|id| requestor.path.rsplit('/').next() == Some(*id)).map(str::to_owned);
        let (path, removable) = (requestor.path.to_owned(), wish.removable);
        let thread = wish.iothread.as_deref().map(|id| self.objects.io_thread(id)).transpose();
        let thread = thread.map_err(|error| error.desc)?;
        let attached = Arc::new(Attached { id, path, removable, disk: OnceLock::new(), thread });
        let (backend, is_new) = match (self.graph.backend(&wish.drive), self.graph.lookup(&wish.drive)) {
            (Some(backend), _) => (backend, false),
            (None, None) if wish.removable && wish.drive.is_empty() => (self.new_backend(""), true),
            (None, Some(node)) => {
                let backend = self.new_backend("");
                // From now on messages name the back end by its device.
                self.join(&backend, &attached).map_err(|error| error.desc)?;
                self.insert(&backend, &node).map_err(|error| error.desc)?;
                (backend, true)
            }
            (None, None) => return Err(unknown_drive(requestor)),
        };
        match self.connect(&backend, requestor, &attached) {
            Ok(disk) => {
                if is_new {
                    // A back end without a name never clashes.
                    self.graph.add_backend(&backend).map_err(|error| error.to_string())?;
                }
                Ok(disk)
            }
            Err(error) => {
                if is_new && let Err(error) = aio::block_on(backend.remove(&self.graph)) {
                    tracing::warn!("closing '{}': {error}", wish.drive);
                }
                Err(error.desc)
            }
        }
    }

    /// Connects the device's side of a back end, which may have been done before.
    fn join(&self, backend: &Backend, attached: &Arc<Attached>) -> Result<(), Error> {
        let is_joined = |device: Arc<dyn DeviceModel>| std::ptr::addr_eq(Arc::as_ptr(&device), Arc::as_ptr(attached));
        if backend.device().is_some_and(is_joined) {
            return Ok(());
        }
        let model = Arc::clone(attached) as Arc<dyn DeviceModel>;
        backend.attach_device(model).map_err(|error| self.attach_error(backend, &error))
    }

    fn connect(
        &mut self,
        backend: &Arc<Backend>,
        requestor: &DiskRequestor<'_>,
        attached: &Arc<Attached>,
    ) -> Result<Arc<BackendDisk>, Error> {
        let wish = requestor.wish;
        let root = backend.root();
        if root.is_none() && !wish.removable {
            return Err(Error::generic("Device needs media, but drive is empty"));
        }
        let is_read_only = root.as_ref().is_some_and(|root| root.node().is_read_only());
        if is_read_only && wish.access == DiskAccess::Write {
            return Err(Error::generic("Block node is read-only"));
        }
        self.join(backend, attached)?;
        let mut used = Permissions::CONSISTENT_READ;
        if !is_read_only && wish.access != DiskAccess::Read {
            used = used | Permissions::WRITE;
        }
        let mut shared = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
        if wish.share_rw {
            shared = shared | Permissions::WRITE;
        }
        if let Some(root) = root
            && let Err(error) = self.graph.set_permissions(&root, used, shared)
        {
            backend.detach_device();
            return Err(if self.tells_starter { super::starter_error(error) } else { super::client_error(error) });
        }
        backend.stats.set_accounting(wish.account_invalid, wish.account_failed);
        let (read, write) = backend.error_policies();
        backend.set_error_policies(policy(wish.rerror, read), policy(wish.werror, write));
        if let Some(thread) = &attached.thread {
            backend.set_reactor(thread.reactor().clone());
            // Who names a thread wants the work done there.
            backend.set_at_once(false);
        }
        let disk = BackendDisk::new(Arc::clone(backend), DiskConfig::default());
        // The cell is new.
        let _ = attached.disk.set(Arc::downgrade(&disk));
        if attached.removable {
            let (events, device) = (self.events.clone(), backend.name().to_owned());
            let id = attached.id.clone().unwrap_or_else(|| attached.path.clone());
            disk.listen_to_tray(Box::new(move |tray_open| {
                events.emit(DeviceTrayMoved { device: device.clone(), id: id.clone(), tray_open });
            }));
        }
        Ok(disk)
    }

    /// The paths of all devices with disks.
    pub fn device_paths(&self) -> Vec<String> {
        let paths = self.graph.backends().into_iter().filter_map(|backend| Some(backend.device()?.qom_path()));
        paths.collect()
    }

    /// The device at this path is gone, and its parts with it: its disks are free. A drive of the command line goes with
    /// its device, as in QEMU.
    pub fn release_device(&mut self, path: &str) {
        let is_its =
            |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        for backend in self.graph.backends() {
            if !backend.device().is_some_and(|device| is_its(&device.qom_path())) {
                continue;
            }
            backend.fail_stopped();
            if let Some(node) = backend.node() {
                drop(aio::block_on(self.graph.drain(&node)));
            }
            backend.detach_device();
            let goes = backend.name().is_empty() || self.is_drive(backend.name());
            if let Some(node) = backend.node().filter(|_| self.is_drive(backend.name())) {
                self.cancel_jobs_of(&node);
            }
            let ended = if goes {
                self.drives.retain(|(drive, _)| drive != backend.name());
                self.graph.remove_backend(&backend);
                aio::block_on(backend.remove(&self.graph))
            } else {
                let root = backend.root();
                root.map_or(Ok(()), |root| self.graph.set_permissions(&root, Permissions::NONE, Permissions::ALL))
            };
            if let Err(error) = ended {
                tracing::warn!("closing '{}': {error}", backend.name());
            }
        }
    }

    fn attach_error(&self, backend: &Backend, error: &block::Error) -> Error {
        let name = backend.name();
        if self.is_automatic_drive(name) {
            return Error::generic(format!(
                "Drive '{name}' is already in use because it has been automatically connected to another device (did \
                 you need 'if=none' in the drive options?)"
            ));
        }
        Error::generic(error.to_string())
    }
}
