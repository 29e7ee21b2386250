//! The block layer of a program: the graph of nodes, back ends of devices, objects that users create, jobs.
//!
//! The control thread owns a [`Storage`]. What clients open, close, resize and flush is waited for elsewhere ([`aside`]);
//! the control thread itself waits at the program's start and end, and for requests in flight when the machine is reset or
//! a device is unplugged. Requests of devices run on the reactor of an I/O thread, by
//! default one that all disks share.

mod amend;
mod aside;
mod bitmaps;
mod commit;
mod create;
mod disk;
mod drive;
pub mod exchange;
pub mod exports;
mod graph;
mod hold;
pub mod info;
mod jobs;
pub mod medium;
pub mod memory;
mod node_threads;
mod nodes;
mod objects;
mod options;
mod reopen;
pub(crate) mod snapshots;
pub mod stats;
pub mod throttle;
mod transaction;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use block::backend::{BackendEvents, ErrorAction, IoErrorEvent};
use block::image::{Corruption, CorruptionEvents};
use block::throttle::Group;
use block::{Backend, DriverType, Graph, Node, Registry};
use block_filters::quorum::{self, QuorumEvent, QuorumEvents};
use qapi::block::common::{BlockErrorAction, IoOperationType};
use qapi::block::events::{BlockImageCorrupted, BlockIoError, QuorumFailure, QuorumOpType, QuorumReportBad};
use qapi::block::options::BlockdevOptions;
use qapi::objects::ObjectAdd;
use qapi::run_state::RunState;
use qapi::schema::Enumeration;
use qapi::{Error, ErrorClass};
use qmp::{EventSink, FdAccess, FdSets};

use crate::control::Control;
use crate::inbox::Inbox;

use self::aside::Aside;
pub use self::drive::{DriveConfig, Interface, Snapshot};
use self::exports::Exports;
use self::hold::Holds;
use self::objects::IoThreadUse;
pub use self::objects::Objects;
pub use self::options::block_options;
pub use block_jobs::Verb;

/// What the command line says about the block layer. Objects are made first, then nodes, then drives.
#[derive(Clone, Debug, Default)]
pub struct StorageConfig {
    /// `-object`, with the option's text for messages.
    pub objects: Vec<(String, ObjectAdd)>,
    /// `-blockdev`, with the option's text for messages.
    pub nodes: Vec<(String, BlockdevOptions)>,
    /// `-drive` and its short forms.
    pub drives: Vec<DriveConfig>,
}

/// What the command line asks for can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {message}")]
pub struct StorageError {
    /// The option and its value.
    pub option: String,
    /// Why not.
    pub message: String,
}

/// What owns a block layer: the emulator's control thread, or the storage daemon's. The handlers of the block commands
/// know no more of their program.
pub trait StorageOwner: 'static {
    /// The block layer.
    fn storage(&mut self) -> &mut Storage;

    /// The guest's time, nanoseconds; 0 where there is no guest.
    fn guest_time(&self) -> u64 {
        0
    }

    /// `change` of the device `vnc`, which is no drive: its password, or where it listens.
    ///
    /// # Errors
    /// There is no VNC server, or it can't do that.
    fn change_vnc(&mut self, _target: &str, _argument: Option<&str>) -> Result<(), Error> {
        Err(Error::generic("Could not set password"))
    }
}

/// Work for the thread that owns the block layer.
pub type StorageWork = Box<dyn FnOnce(&mut Storage) + Send>;

/// The way from other threads to the owner of the block layer.
#[derive(Clone)]
pub struct OwnerLink {
    /// Does some work on the owner's thread, after what waits there already. Never waits.
    pub run: Arc<dyn Fn(StorageWork) + Send + Sync>,
    /// Stops the guest because of an I/O error, where there is a guest.
    pub stop_guest: Arc<dyn Fn() + Send + Sync>,
}

impl OwnerLink {
    /// The link to the emulator's control thread.
    pub fn to_control(inbox: &Arc<Inbox<Control>>) -> Self {
        let (work, stop) = (Arc::clone(inbox), Arc::clone(inbox));
        Self {
            run: Arc::new(move |storage_work| {
                work.request(Box::new(|control: &mut Control| storage_work(control.storage())));
            }),
            stop_guest: Arc::new(move || {
                stop.request(Box::new(|control: &mut Control| control.stop(RunState::IoError)));
            }),
        }
    }
}

/// The block layer.
pub struct Storage {
    graph: Arc<Graph>,
    objects: Objects,
    jobs: block_jobs::Jobs,
    exports: Exports,
    /// Groups of drives with their own limits, by name.
    groups: Vec<Arc<Group>>,
    /// The drives of the command line.
    drives: Vec<(String, Interface)>,
    /// The I/O threads that do the jobs and exports of some nodes, by name.
    node_threads: Vec<(Weak<Node>, IoThreadUse)>,
    failures: Arc<dyn BackendEvents>,
    events: EventSink,
    aside: Aside,
    holds: Holds,
    /// Errors are for who starts the program: with their hints.
    pub(crate) tells_starter: bool,
    /// Held while nodes are reopened.
    reopening: Arc<Mutex<()>>,
    // Requests end before their thread does.
    reactor: aio::IoThread,
}

impl Storage {
    /// Opens everything that the command line asks for.
    ///
    /// # Errors
    /// The first option that can't be had.
    pub fn start(
        config: &StorageConfig,
        events: &EventSink,
        owner: &OwnerLink,
        fd_sets: &FdSets,
    ) -> Result<Self, StorageError> {
        let fail = |option: &str, error: &dyn std::fmt::Display| StorageError {
            option: option.to_owned(),
            message: error.to_string(),
        };
        let reactor = aio::IoThread::start("disks").map_err(|error| fail("disks", &error))?;
        let failures = Arc::new(Failures { events: events.clone(), owner: owner.clone() });
        let graph = Graph::new(Registry::new(drivers()));
        let fd_sets = fd_sets.clone();
        let open_set = move |set: u64, writable| open_fd_set(&fd_sets, set, writable);
        graph.set_object(block::file::FdSets::OBJECT, Arc::new(block::file::FdSets::new(open_set)));
        let told = events.clone();
        let known = Arc::downgrade(&graph);
        let quorum = QuorumEvents(Box::new(move |name, event| {
            let device = known.upgrade().and_then(|graph| device_of(&graph, name));
            tell_of_quorum(&told, device.as_deref().unwrap_or(name), event);
        }));
        graph.set_object(quorum::EVENTS_OBJECT, Arc::new(quorum));
        let (told, nodes) = (events.clone(), Arc::downgrade(&graph));
        let corruption = CorruptionEvents(Box::new(move |found| tell_of_corruption(&told, &nodes, found)));
        graph.set_object(CorruptionEvents::OBJECT, Arc::new(corruption));
        let mut storage = Self {
            objects: Objects::new(Arc::clone(&graph)),
            jobs: jobs::new_jobs(events, owner),
            exports: Exports::new(owner.clone()),
            graph,
            groups: Vec::new(),
            drives: Vec::new(),
            node_threads: Vec::new(),
            failures,
            events: events.clone(),
            aside: Aside::new(owner.clone()),
            holds: Holds::default(),
            tells_starter: false,
            reopening: Arc::default(),
            reactor,
        };
        for (option, object) in &config.objects {
            storage.objects.add(object.clone()).map_err(|error| fail(option, &error.desc))?;
        }
        for (option, node) in &config.nodes {
            storage.add_node(node).map_err(|error| fail(option, &error.desc))?;
        }
        for drive in &config.drives {
            storage.add_drive(drive).map_err(|error| fail(&drive.source, &error.desc))?;
        }
        Ok(storage)
    }

    /// Where requests run that are no device's.
    pub fn reactor(&self) -> aio::Handle {
        self.reactor.handle().clone()
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The objects that users have created.
    pub fn objects(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// Whether a user has created an object of that name.
    pub fn has_object(&self, id: &str) -> bool {
        self.objects.types().iter().any(|(known, _)| known == id)
    }

    /// The jobs.
    pub fn jobs(&self) -> &block_jobs::Jobs {
        &self.jobs
    }

    /// Back ends that monitors see: those with a name, or with a device.
    pub fn visible_backends(&self) -> Vec<Arc<Backend>> {
        let mut backends = self.graph.backends();
        backends.retain(|backend| !backend.name().is_empty() || backend.device().is_some());
        backends
    }

    /// The back end of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn backend(&self, name: &str) -> Result<Arc<Backend>, Error> {
        self.graph.backend(name).ok_or_else(|| Error::device_not_found(name))
    }

    /// The back end of a device: by the device's id or path.
    ///
    /// # Errors
    /// There is none.
    pub fn backend_of_device(&self, id: &str) -> Result<Arc<Backend>, Error> {
        let is_it = |backend: &Arc<Backend>| {
            let Some(device) = backend.device() else { return false };
            let path = device.qom_path();
            // Where the disk belongs to a part of the device, the device's own id is fine, too.
            let inside = |rest: &str| rest.is_empty() || rest.starts_with('/');
            device.id().as_deref() == Some(id)
                || path == id
                || path.strip_prefix("/machine/peripheral/").and_then(|path| path.strip_prefix(id)).is_some_and(inside)
        };
        self.graph.backends().into_iter().find(is_it).ok_or_else(|| Error::device_not_found(id))
    }

    /// The back end that a command means by exactly one of `device` (the back end's name) and `id` (the device). The
    /// documents use a device's id as `device`, too: that is understood if no back end has this name.
    ///
    /// # Errors
    /// None or both are given, or there is no such back end.
    pub fn backend_by(&self, device: Option<&str>, id: Option<&str>) -> Result<Arc<Backend>, Error> {
        match (device, id) {
            (Some(device), None) => self.backend(device).or_else(|_| self.backend_of_device(device)),
            (None, Some(id)) => self.backend_of_device(id),
            _ => Err(Error::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// The node that a command means: the medium of the back end `device`, or the node `node_name`.
    ///
    /// # Errors
    /// There is no such.
    pub fn node_by(&self, device: Option<&str>, node_name: Option<&str>) -> Result<Arc<Node>, Error> {
        if let Some(backend) = device.and_then(|device| self.graph.backend(device)) {
            let no_medium = || Error::generic(format!("Device '{}' has no medium", backend.name()));
            return backend.node().ok_or_else(no_medium);
        }
        node_name.and_then(|name| self.graph.lookup(name)).ok_or_else(|| {
            let (device, node_name) = (device.unwrap_or_default(), node_name.unwrap_or_default());
            Error::generic(format!("Cannot find device='{device}' nor node-name='{node_name}'"))
        })
    }

    /// Lets the requests go on that have stopped the machine.
    pub fn resume_requests(&self) {
        for backend in self.graph.backends() {
            backend.resume();
        }
    }

    /// Gives up the requests that have stopped the machine: it is reset.
    pub fn drop_requests(&self) {
        for backend in self.graph.backends() {
            backend.fail_stopped();
        }
    }

    /// Waits for the requests in flight: their data is where it belongs. The machine is stopped.
    pub fn drain(&self) {
        for node in self.graph.backends().iter().filter_map(|backend| backend.node()) {
            drop(aio::block_on(self.graph.drain(&node)));
        }
    }

    /// Waits for the requests in flight and brings everything to stable storage. `done` is told on the control thread;
    /// the program does not end before.
    pub fn flush(&self, done: impl FnOnce() + Send + 'static) {
        let nodes: Vec<_> = self.graph.backends().iter().filter_map(|backend| backend.node()).collect();
        let graph = Arc::clone(&self.graph);
        let work = move || {
            for node in nodes {
                let flushed = aio::block_on(async {
                    let _drained = graph.drain(&node).await;
                    if node.is_read_only() { Ok(()) } else { node.flush().await }
                });
                if let Err(error) = flushed {
                    tracing::warn!("flushing '{}': {error}", node.name());
                }
            }
            Ok(())
        };
        self.aside.run_to_the_end(work, |_, _| done());
    }

    /// Ends exports and jobs: the program ends.
    pub fn end_work(&mut self) {
        self.end_exports();
        self.holds.end();
        // Nobody waits at the end for a request that a limit holds.
        for group in self.groups.iter().chain(self.objects.throttle_groups()) {
            group.lift();
        }
        aio::block_on(self.jobs.cancel_all());
    }

    /// Closes everything: the program ends.
    pub fn close(&mut self) {
        self.end_work();
        self.aside.settle();
        let warn = |name: &str, result: block::Result<()>| {
            if let Err(error) = result {
                eprintln!("closing '{name}': {error}");
            }
        };
        for backend in self.graph.backends() {
            warn(backend.name(), aio::block_on(backend.remove(&self.graph)));
        }
        // A node can be released when the nodes above have gone.
        loop {
            let adopted = self.graph.adopted();
            let free: Vec<_> = adopted.into_iter().filter(|node| node.parents().is_empty()).collect();
            if free.is_empty() {
                break;
            }
            for node in free {
                warn(node.name(), aio::block_on(self.graph.release(node.name())));
            }
        }
    }
}

/// A duplicate of a descriptor that a client has put into a set.
fn open_fd_set(sets: &FdSets, set: u64, writable: bool) -> io::Result<OwnedFd> {
    let set = i64::try_from(set).map_err(|_| io::Error::from(rustix::io::Errno::NOENT))?;
    let access = if writable { FdAccess::ReadWrite } else { FdAccess::ReadOnly };
    sets.open(set, access)?.as_fd().try_clone_to_owned()
}

/// The drivers of the program, by name.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    let mut drivers = block_drivers::drivers();
    drivers.extend(block_jobs::drivers());
    drivers
}

/// An error of the block layer for a client.
#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
pub fn client_error(error: block::Error) -> Error {
    Error::new(ErrorClass::GenericError, error.to_string())
}

/// An error of the block layer for who has started the program: with its hint.
#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
pub(crate) fn starter_error(error: block::Error) -> Error {
    Error::new(ErrorClass::GenericError, block_tools::open::text_with_hint(&error))
}

/// The name of the back end whose medium this node is.
fn device_of(graph: &Graph, node_name: &str) -> Option<String> {
    let is_it = |backend: &Arc<Backend>| backend.node().is_some_and(|node| node.name() == node_name);
    let backend = graph.backends().into_iter().find(|backend| !backend.name().is_empty() && is_it(backend));
    backend.map(|backend| backend.name().to_owned())
}

fn tell_of_quorum(events: &EventSink, name: &str, event: QuorumEvent) {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    match event {
        QuorumEvent::ReportBad { node, operation, sector, sectors, error } => events.emit(QuorumReportBad {
            r#type: QuorumOpType::from_name(operation).unwrap_or(QuorumOpType::Read),
            error,
            node_name: node,
            sector_num: signed(sector),
            sectors_count: signed(sectors),
        }),
        QuorumEvent::Failure { sector, sectors } => events.emit(QuorumFailure {
            reference: name.to_owned(),
            sector_num: signed(sector),
            sectors_count: signed(sectors),
        }),
    }
}

fn tell_of_corruption(events: &EventSink, graph: &Weak<Graph>, found: Corruption) {
    let signed = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let is_medium = |backend: &Arc<Backend>| backend.node().is_some_and(|node| node.name() == found.node);
    let backend = graph.upgrade().and_then(|graph| graph.backends().into_iter().find(is_medium));
    events.emit(BlockImageCorrupted {
        device: backend.map_or_else(String::new, |backend| backend.name().to_owned()),
        node_name: Some(found.node),
        msg: found.message,
        offset: signed(found.offset),
        size: signed(found.size),
        fatal: found.fatal,
    });
}

/// Requests that fail: the event, and the machine's stop.
struct Failures {
    events: EventSink,
    owner: OwnerLink,
}

/// What was done about an error, in the words of QMP.
fn error_action(action: ErrorAction) -> BlockErrorAction {
    match action {
        ErrorAction::Report => BlockErrorAction::Report,
        ErrorAction::Ignore => BlockErrorAction::Ignore,
        ErrorAction::Stop => BlockErrorAction::Stop,
    }
}

impl BackendEvents for Failures {
    fn io_error(&self, event: IoErrorEvent) {
        let action = error_action(event.action);
        self.events.emit(BlockIoError {
            device: event.device,
            node_name: event.node,
            operation: if event.is_write { IoOperationType::Write } else { IoOperationType::Read },
            action,
            nospace: Some(event.no_space),
            reason: event.reason,
        });
        if action == BlockErrorAction::Stop {
            (self.owner.stop_guest)();
        }
    }
}
