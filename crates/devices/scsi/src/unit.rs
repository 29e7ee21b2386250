//! A logical unit: commands in, status and sense data out (SAM-5, chapter 5).
//!
//! [`LogicalUnit::submit`] answers at once, or later when the disk has to work; what a command does is in
//! [`mod@commands`] and [`mod@transfer`]. A unit may be used by any thread and with a host adapter's lock held; `done` is
//! called by the thread that completes the disk's request, without a lock. A reset of the unit takes effect at once, its
//! commands in flight end with [`Ending::Cancelled`] when the disk lets go of their memory.

mod commands;
mod inquiry;
mod mode;
pub mod options;
#[cfg(test)]
mod tests;
mod transfer;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};
use device::{Device, DeviceCell, DeviceState, Handle, Lifecycle, ResetKind};
use memory::DmaBuffer;
use state::State;

use self::options::{UnitKind, UnitOptions};
use self::transfer::{Begun, Job};
use crate::cdb::{Cdb, Transfer, op};
use crate::sense::Sense;

/// A command with its memory.
#[derive(Debug)]
pub struct Command {
    /// The command.
    pub cdb: Cdb,
    /// The initiator's name for it, for [`LogicalUnit::cancel`].
    pub tag: u64,
    /// What the unit reads. It is used without a copy and must not change until the command has ended.
    pub data_out: DmaBuffer,
    /// What the unit writes, also after a reset, until the command has ended.
    pub data_in: DmaBuffer,
    /// Sense data reaches the initiator with the status, so that REQUEST SENSE does not find it again.
    pub autosense: bool,
}

/// A status code (SAM-5, 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// There is sense data.
    CheckCondition = 0x02,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a status; sense data comes with CHECK CONDITION.
    Status(Status, Sense),
    /// By task management. The initiator gets no status.
    Cancelled(Cancel),
    /// The command moves more data than there is memory, or another way. Nothing was done.
    Overrun,
}

/// Why a command was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// ABORT TASK, ABORT TASK SET, CLEAR TASK SET.
    Abort,
    /// A reset of the unit, the target or the bus.
    Reset,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// How it ended.
    pub ending: Ending,
    /// Bytes that the command's CDB asks for and that were not moved.
    pub residual: u32,
    /// Bytes that were moved.
    pub transferred: u32,
}

impl Completion {
    fn good(transferred: usize, len: u64) -> Self {
        let residual = len.saturating_sub(transferred as u64);
        Self { ending: Ending::Status(Status::Good, Sense::NONE), ..Self::moved(transferred, residual) }
    }

    fn moved(transferred: usize, residual: u64) -> Self {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self { ending: Ending::Overrun, residual: number(residual), transferred: number(transferred as u64) }
    }

    fn check(sense: Sense) -> Self {
        Self { ending: Ending::Status(Status::CheckCondition, sense), residual: 0, transferred: 0 }
    }

    /// The status, where there is one.
    pub fn status(&self) -> Option<Status> {
        match self.ending {
            Ending::Status(status, _) => Some(status),
            _ => None,
        }
    }

    /// The sense data of a CHECK CONDITION.
    pub fn sense(&self) -> Option<Sense> {
        match self.ending {
            Ending::Status(Status::CheckCondition, sense) => Some(sense),
            _ => None,
        }
    }
}

/// Called once when a command that took time has ended, on any thread, without a lock of the unit.
pub type CommandDone = Box<dyn FnOnce(Completion) + Send>;

/// Called when all commands that were cancelled have ended.
type CancelDone = Box<dyn FnOnce() + Send>;

/// Told of a unit attention condition that did not come from a command: what the host adapter reports by events.
pub type AttentionListener = Box<dyn Fn(Sense) + Send + Sync>;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "scsi-disk", version = 1)]
pub struct UnitState {
    /// The unit attention condition that is pending, if its key says so.
    attention: Sense,
    /// Sense data for REQUEST SENSE.
    sense: Sense,
    has_sense: bool,
    /// That sense data is a unit attention condition.
    sense_is_attention: bool,
    /// Bytes of a block; MODE SELECT changes it.
    block_size: u32,
    /// A new medium has to be told of after the removal of the old.
    media_changed: bool,
    media_event: bool,
    eject_requested: bool,
    tray_open: bool,
    tray_locked: bool,
}

/// Commands that were cancelled together and still wait for the disk.
struct Waiting {
    left: Vec<u64>,
    done: CancelDone,
}

/// A command that the disk works on.
struct Running {
    tag: u64,
    cdb: Cdb,
    autosense: bool,
    job: Job,
    done: CommandDone,
    cancelled: Option<Cancel>,
}

/// What the lock protects.
struct Unit {
    // Fixed configuration.
    options: UnitOptions,
    original_write_cache: bool,
    // Host resources.
    disk: Arc<dyn Disk>,
    properties: DiskProperties,
    // Guest-visible state.
    state: UnitState,
    // Bookkeeping.
    next: u64,
    running: BTreeMap<u64, Running>,
    waiting: Vec<Waiting>,
}

/// Which unit of a target a command is for, and what else the target has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed<'a> {
    /// The LUN that was asked for exists.
    pub is_there: bool,
    /// That LUN.
    pub lun: u16,
    /// The target's units.
    pub luns: &'a [u16],
}

/// A logical unit. Clones are the same unit.
#[derive(Clone)]
pub struct LogicalUnit {
    cell: DeviceCell<Unit>,
    events: Arc<Events>,
}

/// The way from a disk to its unit. The disk knows it weakly, the unit's owner keeps it.
struct Events {
    unit: Handle<Unit>,
    listener: OnceLock<AttentionListener>,
}

impl LogicalUnit {
    /// A unit in front of `disk`.
    pub fn new(options: UnitOptions, disk: &Arc<dyn Disk>) -> Self {
        if let Some(on) = options.write_cache {
            disk.set_write_cache(on);
        }
        let properties = disk.properties();
        let is_removable = options.is_removable();
        let unit = Unit {
            original_write_cache: properties.write_cache,
            state: UnitState::new(options.block_size(&properties)),
            options,
            disk: Arc::clone(disk),
            properties,
            next: 0,
            running: BTreeMap::new(),
            waiting: Vec::new(),
        };
        let cell = DeviceCell::new(unit);
        let events = Arc::new(Events { unit: cell.handle(), listener: OnceLock::new() });
        let observer: Arc<dyn DiskObserver> = events.clone();
        let weak: Weak<dyn DiskObserver> = Arc::downgrade(&observer);
        disk.observe(weak);
        if is_removable {
            let removable: Arc<dyn Removable> = events.clone();
            let weak: Weak<dyn Removable> = Arc::downgrade(&removable);
            disk.set_removable(weak);
        }
        Self { cell, events }
    }

    /// Registers who is told of changed capacities. The first one stays.
    pub fn listen(&self, listener: AttentionListener) {
        let _first = self.events.listener.set(listener);
    }

    /// Disk or CD drive.
    pub fn kind(&self) -> UnitKind {
        self.cell.lock().options.kind
    }

    /// The data that a command would move: what a transport has to make room for.
    pub fn transfer(&self, cdb: &Cdb) -> Transfer {
        cdb.transfer(self.cell.lock().state.block_size)
    }

    /// Starts a command of a unit that is alone at LUN 0. `Some`: it has ended already, and `done` is not called.
    pub fn submit(&self, command: Command, done: CommandDone) -> Option<Completion> {
        self.submit_as(Addressed { is_there: true, lun: 0, luns: &[0] }, command, done)
    }

    pub(crate) fn submit_as(
        &self,
        addressed: Addressed<'_>,
        command: Command,
        done: CommandDone,
    ) -> Option<Completion> {
        let mut unit = self.cell.lock();
        let (cdb, tag, autosense) = (command.cdb, command.tag, command.autosense);
        match unit.begin(addressed, command) {
            Err(completion) => Some(unit.completed(&cdb, autosense, completion)),
            Ok((job, operation)) => {
                let id = unit.next;
                unit.next += 1;
                unit.running.insert(id, Running { tag, cdb, autosense, job, done, cancelled: None });
                self.start(&unit, id, operation);
                None
            }
        }
    }

    /// Hands a command's next request to the disk.
    fn start(&self, unit: &Unit, id: u64, operation: DiskOperation) {
        let this = self.clone();
        unit.disk.submit(DiskRequest { operation, done: Box::new(move |result| this.advance(id, result)) });
    }

    /// The disk has done a command's request.
    fn advance(&self, id: u64, result: Result<(), DiskError>) {
        let mut unit = self.cell.lock();
        let Some(running) = unit.running.get_mut(&id) else { return };
        let step = running.job.finished(result);
        let completion = match (running.cancelled, step) {
            (Some(cancel), _) => {
                running.job.abandon();
                Completion { ending: Ending::Cancelled(cancel), residual: 0, transferred: 0 }
            }
            (None, Ok(operation)) => return self.start(&unit, id, operation),
            (None, Err(completion)) => completion,
        };
        let Some(running) = unit.running.remove(&id) else { return };
        let completion = unit.completed(&running.cdb, running.autosense, completion);
        let mut ready = Vec::new();
        for waiting in &mut unit.waiting {
            waiting.left.retain(|left| *left != id);
        }
        let (done, left) = std::mem::take(&mut unit.waiting).into_iter().partition(|waiting| waiting.left.is_empty());
        unit.waiting = left;
        let done: Vec<Waiting> = done;
        ready.extend(done.into_iter().map(|waiting| waiting.done));
        drop(unit);
        (running.done)(completion);
        ready.into_iter().for_each(|done| done());
    }

    /// Cancels the commands in flight whose tags `select` accepts. `true`: there are some, and `done` is called when they
    /// have ended, after their own `done`. `false`: there are none, and it is not called.
    pub fn cancel(&self, select: impl Fn(u64) -> bool, cause: Cancel, done: impl FnOnce() + Send + 'static) -> bool {
        self.cell.lock().cancel(select, cause, Some(Box::new(done)))
    }

    /// Whether a command in flight has a tag that `select` accepts, and is not cancelled.
    pub fn is_running(&self, select: impl Fn(u64) -> bool) -> bool {
        self.cell.lock().running.values().any(|running| running.cancelled.is_none() && select(running.tag))
    }

    /// LOGICAL UNIT RESET: state and mode pages as after power-on, and commands in flight end. `true`: there are some, and
    /// `done` is called when they have ended.
    pub fn reset_by_initiator(&self, done: impl FnOnce() + Send + 'static) -> bool {
        let mut unit = self.cell.lock();
        unit.reset_state();
        unit.cancel(|_| true, Cancel::Reset, Some(Box::new(done)))
    }

    /// A unit attention condition that is not of the unit's own.
    pub fn raise_attention(&self, attention: Sense) {
        self.cell.lock().state.attention.raise(attention);
    }

    /// The device as the machine's reset and migration see it.
    pub fn lifecycle(&self) -> Arc<dyn Lifecycle> {
        Arc::new(Owned { cell: self.cell.clone(), _events: Arc::clone(&self.events) })
    }
}

/// A unit's lifecycle keeps its connection with the disk.
struct Owned {
    cell: DeviceCell<Unit>,
    _events: Arc<Events>,
}

impl Lifecycle for Owned {
    fn reset(&self, kind: ResetKind) {
        Lifecycle::reset(&self.cell, kind);
    }

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        self.cell.visit_state(visit);
    }

    fn restored(&self) {
        Lifecycle::restored(&self.cell);
    }

    fn watch(&self) -> Option<Weak<dyn Any + Send + Sync>> {
        self.cell.watch()
    }
}

impl UnitState {
    fn new(block_size: u32) -> Self {
        Self {
            attention: Sense::RESET,
            sense: Sense::NONE,
            has_sense: false,
            sense_is_attention: false,
            block_size,
            media_changed: false,
            media_event: false,
            eject_requested: false,
            tray_open: false,
            tray_locked: false,
        }
    }

    /// A unit attention condition has reached an initiator.
    fn attention_reported(&mut self) {
        if std::mem::take(&mut self.media_changed) {
            self.attention.raise(Sense::MEDIUM_CHANGED);
        }
    }

    fn clear_sense(&mut self) {
        (self.has_sense, self.sense_is_attention, self.sense) = (false, false, Sense::NONE);
    }
}

impl Unit {
    fn reset_state(&mut self) {
        let (media_changed, media_event) = (self.state.media_changed, self.state.media_event);
        let eject_requested = self.state.eject_requested;
        let mut attention = self.state.attention;
        attention.raise(Sense::RESET);
        let block_size = self.options.block_size(&self.properties);
        self.state = UnitState { attention, media_changed, media_event, eject_requested, ..UnitState::new(block_size) };
        if self.properties.write_cache != self.original_write_cache {
            self.disk.set_write_cache(self.original_write_cache);
            self.properties.write_cache = self.original_write_cache;
        }
    }

    fn cancel(&mut self, select: impl Fn(u64) -> bool, cause: Cancel, done: Option<CancelDone>) -> bool {
        let mut left = Vec::new();
        for (id, running) in &mut self.running {
            if select(running.tag) {
                running.cancelled.get_or_insert(cause);
                left.push(*id);
            }
        }
        if left.is_empty() {
            return false;
        }
        if let Some(done) = done {
            self.waiting.push(Waiting { left, done });
        }
        true
    }

    /// Whether a medium is in the closed drive.
    fn is_available(&self) -> bool {
        self.properties.medium && !self.state.tray_open
    }

    /// Blocks of the medium.
    fn blocks(&self) -> u64 {
        self.properties.size / u64::from(self.state.block_size.max(1))
    }

    fn is_read_only(&self) -> bool {
        self.properties.read_only || self.options.kind == UnitKind::Cd
    }

    /// Whether a pending unit attention condition comes before a command (SAM-5, 5.14; MMC-6, 4.1.6).
    fn attention_is_first(&self, cdb: &Cdb) -> bool {
        let exempt = match cdb.opcode() {
            op::INQUIRY | op::REPORT_LUNS | op::GET_CONFIGURATION | op::GET_EVENT_STATUS_NOTIFICATION => true,
            op::REQUEST_SENSE => self.state.sense_is_attention,
            _ => false,
        };
        self.state.attention.is_attention() && !exempt
    }

    /// Executes a command or says what the disk has to do first.
    fn begin(&mut self, addressed: Addressed<'_>, command: Command) -> Begun {
        let cdb = command.cdb;
        let Some(_) = cdb.length() else { return Err(Completion::check(Sense::INVALID_OPCODE)) };
        let transfer = cdb.transfer(self.state.block_size);
        if transfer.len > i32::MAX as u64 {
            return Err(Completion::check(Sense::INVALID_FIELD));
        }
        let room = match transfer.direction {
            crate::Direction::None => usize::MAX,
            crate::Direction::In => command.data_in.len(),
            crate::Direction::Out => command.data_out.len(),
        };
        if transfer.len > room as u64 {
            return Err(Completion { ending: Ending::Overrun, residual: 0, transferred: 0 });
        }
        if self.attention_is_first(&cdb) {
            return Err(Completion::check(self.state.attention));
        }
        self.execute(addressed, command, transfer)
    }

    /// Notes sense data, and that a unit attention condition was told.
    fn completed(&mut self, cdb: &Cdb, autosense: bool, completion: Completion) -> Completion {
        if completion.status().is_none() {
            return completion;
        }
        let state = &mut self.state;
        state.clear_sense();
        if let Some(sense) = completion.sense() {
            (state.has_sense, state.sense, state.sense_is_attention) = (true, sense, sense.is_attention());
        }
        self.clear_attention(cdb);
        let state = &mut self.state;
        if autosense && state.sense_is_attention {
            state.clear_sense();
            state.attention_reported();
        }
        completion
    }

    fn clear_attention(&mut self, cdb: &Cdb) {
        let attention = &mut self.state.attention;
        let stays = match cdb.opcode() {
            op::INQUIRY | op::GET_CONFIGURATION | op::GET_EVENT_STATUS_NOTIFICATION => true,
            op::REPORT_LUNS => *attention != Sense::REPORTED_LUNS_CHANGED,
            _ => false,
        };
        if !stays {
            *attention = Sense::NONE;
        }
    }

    /// The disk's size or mode may have changed. The unit attention condition that follows from it.
    fn disk_changed(&mut self) -> Option<Sense> {
        let old = std::mem::replace(&mut self.properties, self.disk.properties());
        let is_resized = old.size != self.properties.size && self.options.kind == UnitKind::Disk;
        if !is_resized || old.medium != self.properties.medium {
            return None;
        }
        self.state.attention.raise(Sense::CAPACITY_CHANGED);
        Some(Sense::CAPACITY_CHANGED)
    }
}

impl Device for Unit {
    fn reset(&mut self, _kind: ResetKind) {
        self.properties = self.disk.properties();
        self.reset_state();
        self.cancel(|_| true, Cancel::Reset, None);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.properties = self.disk.properties();
        if self.state.block_size < 512 || !self.state.block_size.is_multiple_of(512) {
            self.state.block_size = self.options.block_size(&self.properties);
        }
    }
}

impl Events {
    fn with<R: Default>(&self, visit: impl FnOnce(&mut Unit) -> R) -> R {
        self.unit.with(visit).unwrap_or_default()
    }
}

impl DiskObserver for Events {
    fn changed(&self) {
        if let (Some(attention), Some(listener)) = (self.with(Unit::disk_changed), self.listener.get()) {
            listener(attention);
        }
    }
}

impl Removable for Events {
    fn has_tray(&self) -> bool {
        true
    }

    fn is_tray_open(&self) -> bool {
        self.with(|unit| unit.state.tray_open)
    }

    fn is_locked(&self) -> bool {
        self.with(|unit| unit.state.tray_locked)
    }

    fn eject_request(&self, force: bool) {
        self.with(|unit| {
            unit.state.eject_requested = true;
            unit.state.tray_locked &= !force;
        });
    }

    /// First the guest finds the medium gone, then that there is a new one: drivers that do not ask for events rely on it.
    fn medium_changed(&self, loaded: bool) {
        self.with(|unit| {
            unit.properties = unit.disk.properties();
            let state = &mut unit.state;
            (state.media_changed, state.tray_open) = (loaded, !loaded);
            state.attention.raise(Sense::MEDIUM_REMOVED);
            (state.media_event, state.eject_requested) = (true, false);
        });
    }
}

/// Work that several completions count down to.
pub(crate) struct Countdown {
    left: Mutex<(usize, Option<CancelDone>)>,
}

impl Countdown {
    /// Calls `done` with the last of the calls of [`Countdown::one`]: `count` of them.
    pub(crate) fn new(count: usize, done: CancelDone) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new((count, Some(done))) })
    }

    /// One has ended.
    pub(crate) fn one(&self) {
        let done = {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.0 = left.0.saturating_sub(1);
            if left.0 == 0 { left.1.take() } else { None }
        };
        if let Some(done) = done {
            done();
        }
    }
}
