//! Trays and media.
//!
//! What a device answers decides: a device without a tray takes a new medium at any time, one with a tray only while it
//! is open. A back end without a device has neither.

use std::sync::Arc;

use block::{Backend, Node, NodeConfig, Options, Permissions};
use qapi::Error;
use qapi::block::events::DeviceTrayMoved;
use qapi::block::medium::{BlockdevChangeMedium, BlockdevChangeReadOnlyMode};

use super::drive::warn_of_guess;
use super::info::device_name;
use super::nodes::open;
use super::{Storage, client_error};

/// The back end that a command names, and the name that it used.
#[derive(Clone, Copy, Debug)]
pub struct Drive<'a> {
    /// The back end's name.
    pub device: Option<&'a str>,
    /// The device's id or path.
    pub id: Option<&'a str>,
}

impl Drive<'_> {
    fn name(&self) -> &str {
        self.id.or(self.device).unwrap_or_default()
    }

    fn error(&self, what: &str) -> Error {
        Error::generic(format!("Device '{}' {what}", self.name()))
    }
}

/// Why a tray did not open at once.
enum Closed {
    /// There is none.
    NoTray,
    /// The guest was asked to open it.
    Asked(Error),
    /// It can't be opened.
    Failed(Error),
}

impl Storage {
    fn drive(&self, drive: Drive<'_>) -> Result<Arc<Backend>, Error> {
        self.backend_by(drive.device, drive.id)
    }

    /// Moves a tray with what is in it, and tells about it.
    fn move_tray(&self, backend: &Backend, loaded: bool) {
        let Some(device) = backend.device() else { return };
        let was_open = device.is_tray_open();
        device.medium_changed(loaded);
        let tray_open = device.is_tray_open();
        if was_open != tray_open {
            let id = device_name(backend).unwrap_or_default();
            self.events.emit(DeviceTrayMoved { device: backend.name().to_owned(), id, tray_open });
        }
    }

    fn try_open_tray(&self, drive: Drive<'_>, force: bool) -> Result<(), Closed> {
        let backend = self.drive(drive).map_err(Closed::Failed)?;
        let device = backend.device();
        if device.as_ref().is_some_and(|device| !device.is_removable()) {
            return Err(Closed::Failed(drive.error("is not removable")));
        }
        let Some(device) = device.filter(|device| device.has_tray()) else {
            return Err(Closed::NoTray);
        };
        if device.is_tray_open() {
            return Ok(());
        }
        let locked = device.is_locked();
        if locked {
            device.eject_request(force);
        }
        if !locked || force {
            self.move_tray(&backend, false);
            return Ok(());
        }
        let text = "is locked and force was not specified, wait for tray to open and try again";
        Err(Closed::Asked(drive.error(text)))
    }

    /// `blockdev-open-tray`. A guest that has locked its tray is asked to open it.
    ///
    /// # Errors
    /// There is no such device, or no medium can be removed.
    pub fn open_tray(&self, drive: Drive<'_>, force: bool) -> Result<(), Error> {
        match self.try_open_tray(drive, force) {
            Err(Closed::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// `blockdev-close-tray`.
    ///
    /// # Errors
    /// There is no such device, or no medium can be removed.
    pub fn close_tray(&self, drive: Drive<'_>) -> Result<(), Error> {
        let backend = self.drive(drive)?;
        let device = backend.device();
        if device.as_ref().is_some_and(|device| !device.is_removable()) {
            return Err(drive.error("is not removable"));
        }
        if device.is_some_and(|device| device.has_tray() && device.is_tray_open()) {
            self.move_tray(&backend, true);
        }
        Ok(())
    }

    /// Whether media can be exchanged now.
    fn check_exchange(
        backend: &Backend,
        closed: impl FnOnce() -> Error,
        fixed: impl FnOnce() -> Error,
    ) -> Result<(), Error> {
        match backend.device() {
            Some(device) if !device.is_removable() => Err(fixed()),
            Some(device) if device.has_tray() && !device.is_tray_open() => Err(closed()),
            _ => Ok(()),
        }
    }

    /// `blockdev-remove-medium`. `done` is told on the control thread when the medium is closed.
    pub fn remove_medium(
        &mut self,
        drive: Drive<'_>,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_removal(drive);
        let graph = Arc::clone(&self.graph);
        let work = move || {
            let Some(backend) = planned? else { return Ok(None) };
            let removed = aio::block_on(backend.remove(&graph)).map_err(client_error);
            Ok(Some((backend, removed)))
        };
        self.aside.run_to_the_end(work, |storage, removed| {
            let removed = removed.and_then(|removed| {
                let Some((backend, removed)) = removed else { return Ok(()) };
                match backend.device().filter(|_| backend.root().is_none()) {
                    Some(device) if !device.has_tray() => storage.move_tray(&backend, false),
                    // The tray does not move, but there is nothing in it any more.
                    Some(device) => device.resized(),
                    None => {}
                }
                removed
            });
            done(storage, removed);
        });
    }

    /// The back end that loses its medium; `None` if it has none.
    fn plan_removal(&mut self, drive: Drive<'_>) -> Result<Option<Arc<Backend>>, Error> {
        let backend = self.drive(drive)?;
        let closed = || Error::generic(format!("Tray of device '{}' is not open", drive.name()));
        Self::check_exchange(&backend, closed, || drive.error("is not removable"))?;
        let Some(node) = backend.node() else { return Ok(None) };
        self.check_unblocked(&node)?;
        self.end_exports_of(&backend);
        Ok(Some(backend))
    }

    /// `eject`. `done` is told on the control thread.
    pub fn eject(
        &mut self,
        drive: Drive<'_>,
        force: bool,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        match self.require_tray(drive, force) {
            Ok(()) => self.remove_medium(drive, done),
            Err(error) => done(self, Err(error)),
        }
    }

    fn require_tray(&self, drive: Drive<'_>, force: bool) -> Result<(), Error> {
        match self.try_open_tray(drive, force) {
            Ok(()) | Err(Closed::NoTray) => Ok(()),
            Err(Closed::Asked(error) | Closed::Failed(error)) => Err(error),
        }
    }

    /// `blockdev-insert-medium`.
    ///
    /// # Errors
    /// There is no such device or node, one of them is in use, or the tray is closed.
    pub fn insert_medium(&self, drive: Drive<'_>, node_name: &str) -> Result<(), Error> {
        let backend = self.drive(drive)?;
        let node = self.graph.lookup(node_name);
        let node = node.ok_or_else(|| Error::generic(format!("Node '{node_name}' not found")))?;
        if node.has_outside_parent() {
            return Err(Error::generic(format!("Node '{node_name}' is already in use")));
        }
        self.insert_node(&backend, &node)
    }

    fn insert_node(&self, backend: &Arc<Backend>, node: &Arc<Node>) -> Result<(), Error> {
        let closed = || Error::generic("Tray of the device is not open");
        Self::check_exchange(backend, closed, || Error::generic("Device is not removable"))?;
        if backend.root().is_some() {
            return Err(Error::generic("There already is a medium in the device"));
        }
        // A device with removable media takes what it needs of each of them.
        let (used, shared) = match backend.device() {
            None => (Permissions::NONE, Permissions::ALL),
            Some(_) if node.is_read_only() => {
                (Permissions::CONSISTENT_READ, Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED)
            }
            Some(_) => (
                Permissions::CONSISTENT_READ | Permissions::WRITE,
                Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED,
            ),
        };
        backend.insert(&self.graph, node, used, shared).map_err(client_error)?;
        match backend.device() {
            Some(device) if !device.has_tray() => self.move_tray(backend, true),
            Some(device) => device.resized(),
            None => {}
        }
        Ok(())
    }

    /// `blockdev-change-medium`: the new file is opened first, so that a wrong one leaves the old medium in place.
    /// `done` is told on the control thread.
    pub fn change_medium(
        &self,
        command: BlockdevChangeMedium,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_medium(&command);
        let graph = Arc::clone(&self.graph);
        let work = move || planned.and_then(|(options, config)| open(&graph, options, config));
        self.aside.run(work, move |storage, opened| match opened {
            Ok(node) => storage.exchange(command, node, done),
            Err(error) => done(storage, Err(error)),
        });
    }

    fn plan_medium(&self, command: &BlockdevChangeMedium) -> Result<(Options, NodeConfig), Error> {
        let backend = self.drive(Drive { device: command.device.as_deref(), id: command.id.as_deref() })?;
        let old = backend.node().map(|node| node.config());
        let read_only = match command.read_only_mode.unwrap_or(BlockdevChangeReadOnlyMode::Retain) {
            // As in QEMU, the drive of a device that was made without one is for reading.
            BlockdevChangeReadOnlyMode::Retain => old.map_or(backend.name().is_empty(), |old| old.read_only),
            BlockdevChangeReadOnlyMode::ReadOnly => true,
            BlockdevChangeReadOnlyMode::ReadWrite => false,
        };
        let mut options = Options::new().with("filename", command.filename.as_str());
        if let Some(format) = &command.format {
            options.set("driver", format.as_str());
        }
        Ok((options, NodeConfig { read_only, ..old.unwrap_or_default() }))
    }

    /// Puts a medium that is open now in the place of the old one.
    fn exchange(
        &mut self,
        command: BlockdevChangeMedium,
        node: Arc<Node>,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        fn drive(command: &BlockdevChangeMedium) -> Drive<'_> {
            Drive { device: command.device.as_deref(), id: command.id.as_deref() }
        }
        warn_of_guess(&node);
        let force = command.force.unwrap_or(false);
        let given = command.clone();
        self.eject(drive(&given), force, move |storage, removed| {
            let drive = drive(&command);
            let inserted = removed.and_then(|()| storage.drive(drive));
            let inserted = inserted.and_then(|backend| storage.insert_node(&backend, &node));
            if let Err(error) = inserted {
                storage.discard(&node);
                return done(storage, Err(error));
            }
            let closed = storage.close_tray(drive);
            done(storage, closed);
        });
    }
}
