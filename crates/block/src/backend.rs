//! Back ends: what a device uses of the graph. A medium, a tray, error policies, throttling, statistics.
//!
//! A request of a device passes the gate (closed while something below is drained), then the throttle, then the node.
//! When it fails and the policy says `stop`, the machine is stopped by an event, the request stays here, and
//! [`Backend::resume`] tries it again: the device never sees the error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use iobuf::IoBuf;
use tokio::sync::Notify;

use crate::child::Child;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::graph::Graph;
use crate::node::Node;
use crate::permissions::Permissions;
use crate::request::{WriteFlags, ZeroFlags};
use crate::stats::{Kind, Stats};
use crate::throttle::Group;

/// What to do when a request fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Tell the guest.
    Report,
    /// Tell the guest that it went well.
    Ignore,
    /// Stop the machine if there is no space, else tell the guest.
    #[default]
    Enospc,
    /// Stop the machine.
    Stop,
}

impl ErrorPolicy {
    /// The names, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["report", "ignore", "enospc", "stop"];
}

/// What was done about an error of a guest's request, or of a job's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// The guest was told; the job fails.
    Report,
    /// Nothing.
    Ignore,
    /// The machine stops; the job pauses.
    Stop,
}

/// A request that failed, for the event `BLOCK_IO_ERROR`.
#[derive(Clone, Debug)]
pub struct IoErrorEvent {
    /// The back end's name; empty for an anonymous one.
    pub device: String,
    /// The attached device's path, if there is one.
    pub qom_path: Option<String>,
    /// The node's name, if there is a medium.
    pub node: Option<String>,
    /// Whether it was a write.
    pub is_write: bool,
    /// What is done about it.
    pub action: ErrorAction,
    /// The policy makes this error stop the machine because the host is full.
    pub no_space: bool,
    /// What went wrong.
    pub reason: String,
}

/// Who is told about errors. Called from a reactor; must not block.
pub trait BackendEvents: Send + Sync {
    /// A request failed. For [`ErrorAction::Stop`] the machine must stop with the state `io-error`.
    fn io_error(&self, event: IoErrorEvent);
}

/// The state of a back end's I/O or a job's, as queries say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// Fine.
    #[default]
    Ok,
    /// A request failed.
    Failed,
    /// A request found no space.
    NoSpace,
}

/// The device side of a back end with a tray or a removable medium.
pub trait DeviceModel: Send + Sync {
    /// The path of the device in the object tree.
    fn qom_path(&self) -> String;
    /// The `id` that the user gave, if any.
    fn id(&self) -> Option<String>;
    /// Media can be changed.
    fn is_removable(&self) -> bool {
        false
    }
    /// There is a tray that opens and closes.
    fn has_tray(&self) -> bool {
        false
    }
    /// The tray is open.
    fn is_tray_open(&self) -> bool {
        false
    }
    /// The guest has locked the medium.
    fn is_locked(&self) -> bool {
        false
    }
    /// Somebody wants the tray open. With `force` it opens even though the guest has locked it.
    fn eject_request(&self, force: bool) {
        let _ = force;
    }
    /// A medium went in (`true`) or out; the tray moves with it, where there is one.
    fn medium_changed(&self, loaded: bool) {
        let _ = loaded;
    }
    /// Size or properties of the medium have changed.
    fn resized(&self) {}
}

/// An operation of a device or a tool.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Reads into the buffer.
    Read(u64, IoBuf),
    /// Writes the buffer.
    Write(u64, IoBuf, WriteFlags),
    /// Zeroes a range.
    WriteZeroes(u64, u64, ZeroFlags),
    /// Gives a range back.
    Discard(u64, u64),
    /// Brings everything to stable storage.
    Flush,
}

impl Operation {
    fn kind(&self) -> Kind {
        match self {
            Operation::Read(..) => Kind::Read,
            Operation::Write(..) | Operation::WriteZeroes(..) => Kind::Write,
            Operation::Discard(..) => Kind::Unmap,
            Operation::Flush => Kind::Flush,
        }
    }

    fn range(&self) -> (u64, u64) {
        match self {
            Operation::Read(offset, buf) | Operation::Write(offset, buf, _) => (*offset, buf.len() as u64),
            Operation::WriteZeroes(offset, len, _) | Operation::Discard(offset, len) => (*offset, *len),
            Operation::Flush => (0, 0),
        }
    }
}

struct State {
    device: Option<Arc<dyn DeviceModel>>,
    on_read_error: ErrorPolicy,
    on_write_error: ErrorPolicy,
    throttle: Option<Arc<Group>>,
    events: Option<Arc<dyn BackendEvents>>,
    reactor: Option<aio::Handle>,
    io_status: IoStatus,
}

/// The longest read that is done on the caller's thread, bytes: longer ones would keep a processor of the guest busy.
const AT_ONCE_MAX: usize = 16 << 10;

/// What a device uses of the graph.
pub struct Backend {
    name: String,
    /// The name is not used any more.
    nameless: AtomicBool,
    root: RwLock<Option<Arc<Child>>>,
    gate: Arc<Gate>,
    state: Mutex<State>,
    write_cache: AtomicBool,
    throttled: AtomicBool,
    at_once: AtomicBool,
    stopped: AtomicU64,
    resumed: Notify,
    generation: AtomicU64,
    /// Counters.
    pub stats: Stats,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backend({})", self.name)
    }
}

impl Backend {
    /// A back end without a medium. Anonymous ones (of devices that name a node) have an empty name.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            root: RwLock::new(None),
            gate: Arc::new(Gate::new()),
            state: Mutex::new(State {
                device: None,
                on_read_error: ErrorPolicy::Report,
                on_write_error: ErrorPolicy::Enospc,
                throttle: None,
                events: None,
                reactor: None,
                io_status: IoStatus::Ok,
            }),
            nameless: AtomicBool::new(false),
            write_cache: AtomicBool::new(true),
            throttled: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            stopped: AtomicU64::new(0),
            resumed: Notify::new(),
            generation: AtomicU64::new(0),
            stats: Stats::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        if self.nameless.load(Ordering::Acquire) { "" } else { &self.name }
    }

    /// Takes its name away: others may have it now.
    pub fn forget_name(&self) {
        self.nameless.store(true, Ordering::Release);
    }

    /// How messages name it.
    pub fn holder(&self) -> String {
        let device = self.with(|state| state.device.clone());
        match (self.name(), device) {
            ("", Some(device)) => match device.id() {
                Some(id) => format!("block device '{id}'"),
                None => format!("block device '{}'", device.qom_path()),
            },
            ("", None) => "an unnamed block device".to_owned(),
            (name, _) => format!("block device '{name}'"),
        }
    }

    fn with<R>(&self, visit: impl FnOnce(&mut State) -> R) -> R {
        visit(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The edge to the medium, if there is one.
    pub fn root(&self) -> Option<Arc<Child>> {
        self.root.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node of the medium, if there is one.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.root().map(|root| root.node())
    }

    /// Where requests enter.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Puts `node` in as the medium.
    ///
    /// # Errors
    /// If there is a medium already, or what the device does conflicts with other users of the node.
    pub fn insert(&self, graph: &Graph, node: &Arc<Node>, used: Permissions, shared: Permissions) -> Result<()> {
        if self.root().is_some() {
            return Err(Error::busy(format!("Device '{}' has a medium already", self.name)));
        }
        let child = graph.attach_user(node, &self.holder(), &self.gate, used, shared)?;
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Takes the medium out, when all requests have finished. The node is closed if nobody else uses it.
    ///
    /// # Errors
    /// What the last writes give.
    pub async fn remove(&self, graph: &Graph) -> Result<()> {
        self.gate.close();
        self.fail_stopped();
        self.gate.wait_empty().await;
        let root = self.root.write().unwrap_or_else(PoisonError::into_inner).take();
        self.gate.open();
        match root {
            Some(root) => graph.detach(&root).await,
            None => Ok(()),
        }
    }

    /// Connects the device side.
    ///
    /// # Errors
    /// If there is a device already.
    pub fn attach_device(&self, device: Arc<dyn DeviceModel>) -> Result<()> {
        self.with(|state| {
            if state.device.is_some() {
                return Err(Error::busy(format!("Drive '{}' is already in use by another device", self.name)));
            }
            state.device = Some(device);
            Ok(())
        })
    }

    /// The device side is gone.
    pub fn detach_device(&self) {
        self.with(|state| state.device = None);
    }

    /// The device side, if there is one.
    pub fn device(&self) -> Option<Arc<dyn DeviceModel>> {
        self.with(|state| state.device.clone())
    }

    /// Sets what to do about errors of reads and writes.
    pub fn set_error_policies(&self, read: ErrorPolicy, write: ErrorPolicy) {
        self.with(|state| (state.on_read_error, state.on_write_error) = (read, write));
    }

    /// What is done about errors of reads and writes.
    pub fn error_policies(&self) -> (ErrorPolicy, ErrorPolicy) {
        self.with(|state| (state.on_read_error, state.on_write_error))
    }

    /// Who is told about errors.
    pub fn set_events(&self, events: Arc<dyn BackendEvents>) {
        self.with(|state| state.events = Some(events));
    }

    /// The reactor that runs the device's requests, if it has one of its own.
    pub fn reactor(&self) -> Option<aio::Handle> {
        self.with(|state| state.reactor.clone())
    }

    /// The reactor that runs the device's requests.
    pub fn set_reactor(&self, reactor: aio::Handle) {
        self.with(|state| state.reactor = Some(reactor));
    }

    /// Puts the back end into a throttle group, or takes it out.
    pub fn set_throttle(&self, group: Option<Arc<Group>>) {
        self.throttled.store(group.is_some(), Ordering::Release);
        self.with(|state| state.throttle = group);
    }

    /// The throttle group.
    pub fn throttle(&self) -> Option<Arc<Group>> {
        self.with(|state| state.throttle.clone())
    }

    /// Whether writes may be complete before they are stable.
    pub fn has_write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Acquire)
    }

    /// Turns the write cache on or off: off makes each write stable before it completes.
    pub fn set_write_cache(&self, on: bool) {
        self.write_cache.store(on, Ordering::Release);
    }

    /// The state of I/O.
    pub fn io_status(&self) -> IoStatus {
        self.with(|state| state.io_status)
    }

    /// Size of the medium in bytes; 0 without one.
    pub fn len(&self) -> u64 {
        self.node().map_or(0, |node| node.len())
    }

    /// Whether there is no medium, or one without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts an operation on the reactor; `done` is called there with the result.
    pub fn submit(self: &Arc<Self>, operation: Operation, done: impl FnOnce(Result<()>) + Send + 'static) {
        let reactor = self.reactor();
        let this = Arc::clone(self);
        match reactor {
            Some(reactor) => {
                reactor.spawn(async move { done(this.run(operation).await) });
            }
            None => done(Err(Error::io("The device has no thread for its requests"))),
        }
    }

    /// Whether small reads may be done on the caller's thread if they need not wait ([`Backend::read_at_once`]).
    pub fn set_at_once(&self, on: bool) {
        self.at_once.store(on, Ordering::Release);
    }

    /// Reads on the calling thread, if the data is in memory, nothing holds the request and it succeeds; false if not:
    /// then nothing has happened. Does not wait, so that the caller may hold locks.
    pub fn read_at_once(&self, offset: u64, buf: &IoBuf) -> bool {
        let is_small = buf.len() <= AT_ONCE_MAX;
        if !is_small || !self.at_once.load(Ordering::Acquire) || self.throttled.load(Ordering::Acquire) {
            return false;
        }
        let started = Instant::now();
        let len = buf.len() as u64;
        let read = aio::attempt(async {
            let _inside = self.gate.enter().await;
            let root = self.check(offset, len).ok()?;
            root.read(offset, buf.clone()).await.ok()
        });
        let done = matches!(read, Some(Some(())));
        if done {
            self.stats.done(Kind::Read, len, started);
        }
        done
    }

    /// Does an operation, with throttling, accounting and error policy.
    ///
    /// # Errors
    /// Out of bounds, no medium, the node's.
    pub async fn run(&self, operation: Operation) -> Result<()> {
        let kind = operation.kind();
        let (offset, len) = operation.range();
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            let started = Instant::now();
            let result = {
                let _inside = self.gate.enter().await;
                self.throttle_request(kind, len).await;
                match self.check(offset, len) {
                    Ok(root) => self.perform(&root, operation.clone()).await,
                    Err(error) => {
                        self.stats.invalid(kind);
                        return Err(error);
                    }
                }
            };
            let Err(error) = result else {
                self.stats.done(kind, len, started);
                return Ok(());
            };
            match self.policy(kind, &error) {
                ErrorAction::Report => {
                    self.stats.failed(kind, started);
                    return Err(error);
                }
                ErrorAction::Ignore => {
                    self.stats.failed(kind, started);
                    return Ok(());
                }
                ErrorAction::Stop => self.wait_for_resume(generation).await?,
            }
        }
    }

    async fn throttle_request(&self, kind: Kind, len: u64) {
        if !self.throttled.load(Ordering::Acquire) || !matches!(kind, Kind::Read | Kind::Write) {
            return;
        }
        if let Some(group) = self.throttle() {
            group.admit(len, kind == Kind::Write, &self.gate).await;
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<Arc<Child>> {
        let root = self.root().ok_or_else(|| Error::no_medium("No medium found"))?;
        if offset.checked_add(len).is_none_or(|end| end > root.len()) {
            return Err(Error::io("The request lies behind the end of the disk"));
        }
        Ok(root)
    }

    async fn perform(&self, root: &Arc<Child>, operation: Operation) -> Result<()> {
        match operation {
            Operation::Read(offset, buf) => root.read(offset, buf).await,
            Operation::Write(offset, buf, flags) => {
                let fua = flags.fua || !self.has_write_cache();
                root.write(offset, buf, WriteFlags { fua, ..flags }).await
            }
            Operation::WriteZeroes(offset, len, flags) => {
                let fua = flags.fua || !self.has_write_cache();
                root.write_zeroes(offset, len, ZeroFlags { fua, ..flags }).await
            }
            Operation::Discard(offset, len) => root.discard(offset, len).await,
            Operation::Flush => root.flush().await,
        }
    }

    fn policy(&self, kind: Kind, error: &Error) -> ErrorAction {
        let (action, event) = self.with(|state| {
            let policy = if kind == Kind::Read { state.on_read_error } else { state.on_write_error };
            let action = match policy {
                ErrorPolicy::Report => ErrorAction::Report,
                ErrorPolicy::Ignore => ErrorAction::Ignore,
                ErrorPolicy::Enospc if !error.is_no_space() => ErrorAction::Report,
                ErrorPolicy::Enospc | ErrorPolicy::Stop => ErrorAction::Stop,
            };
            if action == ErrorAction::Stop {
                state.io_status = if error.is_no_space() { IoStatus::NoSpace } else { IoStatus::Failed };
            }
            let event = IoErrorEvent {
                device: self.name.clone(),
                qom_path: state.device.as_ref().map(|device| device.qom_path()),
                node: self.node().map(|node| node.name().to_owned()),
                is_write: kind != Kind::Read,
                action,
                no_space: error.is_no_space(),
                reason: crate::error::strerror(error.errno()),
            };
            (action, state.events.clone().map(|events| (events, event)))
        });
        match event {
            Some((events, event)) => events.io_error(event),
            // Nobody could stop the machine.
            None if action == ErrorAction::Stop => return ErrorAction::Report,
            None => {}
        }
        action
    }

    async fn wait_for_resume(&self, generation: u64) -> Result<()> {
        self.stopped.fetch_add(1, Ordering::AcqRel);
        loop {
            let resumed = self.resumed.notified();
            let mut resumed = std::pin::pin!(resumed);
            resumed.as_mut().enable();
            if self.generation.load(Ordering::Acquire) != generation {
                break;
            }
            resumed.await;
        }
        self.stopped.fetch_sub(1, Ordering::AcqRel);
        if self.generation.load(Ordering::Acquire) & 1 == 1 {
            return Err(Error::cancelled("The request was dropped"));
        }
        Ok(())
    }

    /// Requests that have stopped the machine.
    pub fn stopped_requests(&self) -> u64 {
        self.stopped.load(Ordering::Acquire)
    }

    /// Tries the requests again that have stopped the machine (`cont`).
    pub fn resume(&self) {
        self.with(|state| state.io_status = IoStatus::Ok);
        // Even generations try again, odd ones give up.
        self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, |g| Some((g | 1) + 1)).ok();
        self.resumed.notify_waiters();
    }

    /// Gives up the requests that have stopped the machine (reset, eject).
    pub fn fail_stopped(&self) {
        self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, |g| Some((g + 1) | 1)).ok();
        self.resumed.notify_waiters();
    }
}
