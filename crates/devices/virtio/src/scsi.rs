//! virtio SCSI host adapters (virtio 1.2, 5.6), with QEMU's configuration and limits.
//!
//! | queue | what |
//! | --- | --- |
//! | 0 | task management and asynchronous notification |
//! | 1 | events: hot plug, changed parameters |
//! | 2 … | commands |
//!
//! A command's data goes between guest memory and the disk without a copy; it is executed by a unit of [`devices_scsi`].
//! Task management that cancels commands is answered when these have ended. Left out: commands that move data both ways
//! (`INOUT`), protection information (`T10_PI`), asynchronous notification (it is answered, with no events), and the
//! padding that BIOSes of 2012 had behind the headers.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use devices_scsi::{
    BusLimits, Cancel, Cdb, Command, Completion, Ending, LogicalUnit, ScsiAddress, ScsiBus, Sense, Status,
    bus::Submitted,
};
use state::State;

use crate::device::{Access, Common, DeviceType, Model, RequestToken};
use crate::queue::{MAX_SIZE, QueueError, Request};

/// Feature bits (5.6.3).
pub mod feature {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const HOTPLUG: u64 = 1 << 1;
    pub const CHANGE: u64 = 1 << 2;
}

/// The queues that are not for commands.
pub const FIXED_QUEUES: u16 = 2;
const CONTROL: usize = 0;
const EVENTS: usize = 1;

/// The highest channel, target and LUN.
pub const LIMITS: BusLimits = BusLimits { channel: 0, target: 255, lun: 16383 };

const DEFAULT_SENSE_SIZE: u32 = 96;
const DEFAULT_CDB_SIZE: u32 = 32;
/// What comes before the command in a request: LUN, tag, task attributes.
const COMMAND_HEADER: usize = 19;
/// What comes before the sense data in a response.
const RESPONSE_HEADER: usize = 12;
const EVENT_LEN: usize = 16;

/// Response codes (5.6.6.1.2 and 5.6.6.2).
mod response {
    pub const OK: u8 = 0;
    pub const OVERRUN: u8 = 1;
    pub const ABORTED: u8 = 2;
    pub const BAD_TARGET: u8 = 3;
    pub const RESET: u8 = 4;
    pub const FAILURE: u8 = 9;
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    pub const FUNCTION_REJECTED: u8 = 11;
    pub const INCORRECT_LUN: u8 = 12;
}

/// Events (5.6.6.3).
mod event {
    pub const NONE: u32 = 0;
    pub const TRANSPORT_RESET: u32 = 1;
    pub const PARAMETERS_CHANGED: u32 = 3;
    pub const MISSED: u32 = 1 << 31;
    /// Reasons of a transport reset.
    pub const RESCAN: u32 = 1;
    pub const REMOVED: u32 = 2;
}

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiOptions {
    /// `num_queues`: those for commands.
    pub num_queues: u32,
    /// `virtqueue_size`.
    pub virtqueue_size: u32,
    /// `seg_max_adjust`.
    pub seg_max_adjust: bool,
    /// `max_sectors`.
    pub max_sectors: u32,
    /// `cmd_per_lun`.
    pub cmd_per_lun: u32,
    /// `hotplug`.
    pub hotplug: bool,
    /// `param_change`.
    pub param_change: bool,
}

impl Default for ScsiOptions {
    fn default() -> Self {
        Self {
            num_queues: 1,
            virtqueue_size: 256,
            seg_max_adjust: true,
            max_sectors: 0xffff,
            cmd_per_lun: 128,
            hotplug: true,
            param_change: true,
        }
    }
}

/// Choices that do not fit. The texts are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScsiOptionError {
    /// No queue, or too many.
    #[error("Invalid number of queues (= {0}), must be a positive integer less than {max}.", max = MAX_SIZE - FIXED_QUEUES)]
    Queues(u32),
    /// Too small for a request.
    #[error("invalid virtqueue_size property (= {0}), must be > 2")]
    SmallQueue(u32),
    /// A queue of a bad size.
    #[error("invalid virtqueue_size property (= {0}), must be a power of 2 (max {MAX_SIZE})")]
    QueueSize(u32),
}

impl ScsiOptions {
    /// Checks the choices.
    ///
    /// # Errors
    /// [`ScsiOptionError`].
    pub fn check(&self) -> Result<(), ScsiOptionError> {
        match (self.num_queues, self.virtqueue_size) {
            (queues, _) if queues == 0 || queues > u32::from(MAX_SIZE - FIXED_QUEUES) => {
                Err(ScsiOptionError::Queues(queues))
            }
            (_, size @ 0..=2) => Err(ScsiOptionError::SmallQueue(size)),
            (_, size) if !size.is_power_of_two() || size > u32::from(MAX_SIZE) => Err(ScsiOptionError::QueueSize(size)),
            _ => Ok(()),
        }
    }
}

/// The guest-visible state beside queues and features.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "virtio-scsi", version = 1)]
pub struct ScsiState {
    /// Bytes for sense data in a response.
    sense_size: u32,
    /// Bytes of a command in a request.
    cdb_size: u32,
    /// The driver had no room for an event.
    events_dropped: bool,
}

impl Default for ScsiState {
    fn default() -> Self {
        Self { sense_size: DEFAULT_SENSE_SIZE, cdb_size: DEFAULT_CDB_SIZE, events_dropped: false }
    }
}

/// A host adapter.
pub struct Scsi {
    // Fixed configuration.
    options: ScsiOptions,
    // Wiring.
    bus: Arc<ScsiBus>,
    access: Arc<dyn Access<Self>>,
    // Guest-visible state.
    state: ScsiState,
}

/// Where a response goes.
#[derive(Clone)]
struct Reply {
    token: RequestToken,
    request: Arc<Request>,
    sense_size: usize,
}

/// A LUN field (5.6.6.1): one level of the hierarchy.
fn address(lun: [u8; 8]) -> Option<ScsiAddress> {
    let [first, target, high, low, ..] = lun;
    let is_single_level = first == 1 && (high == 0 || (0x40..0x80).contains(&high));
    let lun = (u16::from(high) << 8 | u16::from(low)) & 0x3fff;
    is_single_level.then_some(ScsiAddress { channel: 0, target: u16::from(target), lun })
}

impl Reply {
    /// The end of a command.
    fn command(&self, common: &mut Common, completion: &Completion) {
        let (response, status, sense) = match completion.ending {
            Ending::Status(Status::Good, _) => (response::OK, Status::Good as u8, None),
            Ending::Status(status, sense) => (response::OK, status as u8, Some(sense)),
            Ending::Overrun => (response::OVERRUN, 0, None),
            Ending::Cancelled(Cancel::Abort) => (response::ABORTED, 0, None),
            Ending::Cancelled(Cancel::Reset) => (response::RESET, 0, None),
        };
        let mut sense = sense.map(Sense::fixed).unwrap_or_default();
        sense.truncate(self.sense_size);
        let mut bytes = (sense.len() as u32).to_le_bytes().to_vec();
        bytes.extend(completion.residual.to_le_bytes());
        bytes.extend([0, 0, status, response]);
        bytes.extend(sense);
        self.send(common, &bytes, self.request.writable.len());
    }

    fn failed(&self, common: &mut Common, response: u8) {
        let mut bytes = [0; RESPONSE_HEADER];
        bytes[11] = response;
        self.send(common, &bytes, self.request.writable.len());
    }

    fn send(&self, common: &mut Common, bytes: &[u8], written: usize) {
        if common.is_current(self.token) {
            let len = bytes.len().min(self.request.writable.len());
            self.request.writable.write_at(0, bytes.get(..len).unwrap_or_default());
        }
        common.complete(self.token, u32::try_from(written).unwrap_or(u32::MAX));
    }
}

impl Scsi {
    /// An adapter for the units of `bus`. The options were checked.
    pub fn new(options: ScsiOptions, bus: Arc<ScsiBus>, access: Arc<dyn Access<Self>>) -> Self {
        Self { options, bus, access, state: ScsiState::default() }
    }

    /// The bus.
    pub fn bus(&self) -> &Arc<ScsiBus> {
        &self.bus
    }

    /// Reports the changes of a unit on this adapter's bus, which is reached by `access`, to the driver.
    pub fn watch(access: &Arc<dyn Access<Self>>, address: ScsiAddress, unit: &LogicalUnit) {
        let access = Arc::clone(access);
        unit.listen(Box::new(move |sense| {
            access.access(&mut |scsi, common| {
                if common.has(feature::CHANGE) {
                    let reason = u32::from(sense.asc) | u32::from(sense.ascq) << 8;
                    scsi.push_event(common, Some(address), event::PARAMETERS_CHANGED, reason);
                }
            });
        }));
    }

    /// A unit came (`true`) or went while the machine runs.
    pub fn plugged(access: &dyn Access<Self>, address: ScsiAddress, is_there: bool) {
        access.access(&mut |scsi, common| {
            if common.has(feature::HOTPLUG) {
                let reason = if is_there { event::RESCAN } else { event::REMOVED };
                scsi.push_event(common, Some(address), event::TRANSPORT_RESET, reason);
                scsi.bus.raise_attention(Sense::REPORTED_LUNS_CHANGED);
            }
        });
    }

    fn push_event(&mut self, common: &mut Common, address: Option<ScsiAddress>, event: u32, reason: u32) {
        if !common.is_driver_ready() {
            return;
        }
        let Some((token, request)) = common.pop(EVENTS) else {
            self.state.events_dropped = true;
            return;
        };
        if request.writable.len() < EVENT_LEN {
            common.complete(token, 0);
            common.fail(QueueError::TooShort);
            return;
        }
        let missed = if std::mem::take(&mut self.state.events_dropped) { event::MISSED } else { 0 };
        let mut bytes = (event | missed).to_le_bytes().to_vec();
        bytes.extend(address.map_or([0; 8], |address| {
            let [high, low] = address.lun.to_be_bytes();
            [1, address.target as u8, if address.lun < 256 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0]
        }));
        bytes.extend(reason.to_le_bytes());
        request.writable.write_at(0, &bytes);
        common.complete(token, EVENT_LEN as u32);
    }

    /// A request of a queue. Not to the event queue: its requests stay there.
    fn start(&mut self, common: &mut Common, token: RequestToken, request: Request) {
        if token.queue() == CONTROL {
            self.control(common, token, request);
        } else {
            self.command(common, token, request);
        }
    }

    fn broken(common: &mut Common, token: RequestToken) {
        common.complete(token, 0);
        common.fail(QueueError::TooShort);
    }

    fn command(&mut self, common: &mut Common, token: RequestToken, request: Request) {
        let (cdb_size, sense_size) = (self.state.cdb_size as usize, self.state.sense_size as usize);
        let (header, response) = (COMMAND_HEADER + cdb_size, RESPONSE_HEADER + sense_size);
        let (Some(out_len), Some(in_len)) =
            (request.readable.len().checked_sub(header), request.writable.len().checked_sub(response))
        else {
            return Self::broken(common, token);
        };
        let mut bytes = vec![0; header];
        request.readable.io().read_at(0, &mut bytes);
        let (data_out, data_in) = (request.readable.slice(header, out_len), request.writable.slice(response, in_len));
        let reply = Reply { token, request: Arc::new(request), sense_size };
        if out_len != 0 && in_len != 0 {
            return reply.failed(common, response::FAILURE);
        }
        let (lun, rest) = bytes.split_first_chunk::<8>().map_or(([0; 8], &[][..]), |(lun, rest)| (*lun, rest));
        let tag = rest.first_chunk::<8>().map_or(0, |tag| u64::from_le_bytes(*tag));
        let cdb = Cdb::new(bytes.get(COMMAND_HEADER..).unwrap_or_default());
        let Some(address) = address(lun) else { return reply.failed(common, response::BAD_TARGET) };
        let command = Command { cdb, tag, data_out, data_in, autosense: true };
        let (access, later) = (Arc::clone(&self.access), reply.clone());
        let done = Box::new(move |completion: Completion| {
            access.access(&mut |_, common| later.command(common, &completion));
        });
        match self.bus.submit(address, command, done) {
            Submitted::Ended(completion) => reply.command(common, &completion),
            Submitted::Started => {}
            Submitted::NoTarget => reply.failed(common, response::BAD_TARGET),
        }
    }

    fn control(&mut self, common: &mut Common, token: RequestToken, request: Request) {
        const TASK_MANAGEMENT: u32 = 0;
        const QUERY_NOTIFICATION: u32 = 1;
        const SUBSCRIBE_NOTIFICATION: u32 = 2;
        const TASK_LEN: (usize, usize) = (24, 1);
        const NOTIFICATION_LEN: (usize, usize) = (16, 5);
        let mut bytes = [0; TASK_LEN.0];
        let len = request.readable.len().min(bytes.len());
        request.readable.io().read_at(0, &mut bytes[..len]);
        let word = |at: usize| {
            bytes.get(at..at + 4).map_or(0, |word| word.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
        };
        let (least_out, least_in) = match (len, word(0)) {
            (0..4, _) => return Self::broken(common, token),
            (_, TASK_MANAGEMENT) => TASK_LEN,
            (_, QUERY_NOTIFICATION | SUBSCRIBE_NOTIFICATION) => NOTIFICATION_LEN,
            // Nothing is known of its answer.
            _ => return common.complete(token, 0),
        };
        if request.readable.len() < least_out || request.writable.len() < least_in {
            return Self::broken(common, token);
        }
        let reply = Reply { token, request: Arc::new(request), sense_size: 0 };
        if word(0) != TASK_MANAGEMENT {
            return reply.send(common, &[0, 0, 0, 0, response::OK], NOTIFICATION_LEN.1);
        }
        let lun = bytes.get(8..16).and_then(|lun| lun.first_chunk::<8>()).map_or([0; 8], |lun| *lun);
        let tag = u64::from(word(16)) | u64::from(word(20)) << 32;
        if let Some(response) = self.task_management(word(4), lun, tag, &reply) {
            reply.send(common, &[response], 1);
        }
    }

    /// Does a task management function. `None`: it is answered when the commands that it cancels have ended.
    fn task_management(&self, function: u32, lun: [u8; 8], tag: u64, reply: &Reply) -> Option<u8> {
        const ABORT_TASK: u32 = 0;
        const ABORT_TASK_SET: u32 = 1;
        const CLEAR_TASK_SET: u32 = 3;
        const I_T_NEXUS_RESET: u32 = 4;
        const LOGICAL_UNIT_RESET: u32 = 5;
        const QUERY_TASK: u32 = 6;
        const QUERY_TASK_SET: u32 = 7;
        let (access, reply) = (Arc::clone(&self.access), reply.clone());
        let later = move || access.access(&mut |_, common| reply.send(common, &[response::OK], 1));
        let when = |waits: bool| (!waits).then_some(response::OK);
        if function == I_T_NEXUS_RESET {
            let target = u16::from(lun[1]);
            return when(self.bus.reset(|address| address.channel == 0 && address.target == target, later));
        }
        if !matches!(function, ABORT_TASK..=QUERY_TASK_SET) || function == 2 {
            return Some(response::FUNCTION_REJECTED);
        }
        let unit = match address(lun).and_then(|address| self.bus.responder(address)) {
            None => return Some(response::BAD_TARGET),
            Some((_, false)) => return Some(response::INCORRECT_LUN),
            Some((unit, true)) => unit,
        };
        let answer = |is_there: bool| Some(if is_there { response::FUNCTION_SUCCEEDED } else { response::OK });
        match function {
            ABORT_TASK => when(unit.cancel(|running| running == tag, Cancel::Abort, later)),
            ABORT_TASK_SET | CLEAR_TASK_SET => when(unit.cancel(|_| true, Cancel::Abort, later)),
            LOGICAL_UNIT_RESET => when(unit.reset_by_initiator(later)),
            QUERY_TASK => answer(unit.is_running(|running| running == tag)),
            _ => answer(unit.is_running(|_| true)),
        }
    }
}

impl Model for Scsi {
    type State = ScsiState;

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 8, transitional_pci_id: 0x1004, pci_class: 0x0100 }
    }

    fn features(&self) -> u64 {
        let hotplug = if self.options.hotplug { feature::HOTPLUG } else { 0 };
        hotplug | if self.options.param_change { feature::CHANGE } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        let commands = self.options.num_queues.min(u32::from(MAX_SIZE - FIXED_QUEUES)) as u16;
        let size = self.options.virtqueue_size.min(u32::from(MAX_SIZE)) as u16;
        vec![size; usize::from(FIXED_QUEUES + commands)]
    }

    fn config(&self) -> Vec<u8> {
        let options = &self.options;
        let seg_max = if options.seg_max_adjust { options.virtqueue_size.saturating_sub(2) } else { 126 };
        let mut config = Vec::new();
        for word in [
            options.num_queues,
            seg_max,
            options.max_sectors,
            options.cmd_per_lun,
            EVENT_LEN as u32,
            self.state.sense_size,
            self.state.cdb_size,
        ] {
            config.extend(word.to_le_bytes());
        }
        config.extend(LIMITS.channel.to_le_bytes());
        config.extend(LIMITS.target.to_le_bytes());
        config.extend(u32::from(LIMITS.lun).to_le_bytes());
        config
    }

    fn write_config(&mut self, common: &mut Common, offset: usize, bytes: &[u8]) {
        const SENSE_SIZE_AT: usize = 20;
        const CDB_SIZE_AT: usize = 24;
        let mut config = self.config();
        for (byte, new) in config.iter_mut().skip(offset).zip(bytes) {
            *byte = *new;
        }
        let word = |at: usize| {
            config.get(at..at + 4).and_then(|word| word.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
        };
        match (word(SENSE_SIZE_AT), word(CDB_SIZE_AT)) {
            (sense_size @ 0..65536, cdb_size @ 0..256) => {
                (self.state.sense_size, self.state.cdb_size) = (sense_size, cdb_size);
            }
            _ => common.fail(QueueError::TooShort),
        }
    }

    fn started(&mut self, _common: &mut Common) {}

    fn notified(&mut self, common: &mut Common, queue: usize) {
        if queue == EVENTS {
            if self.state.events_dropped {
                self.push_event(common, None, event::NONE, 0);
            }
            return;
        }
        common.serve(queue, 8 * usize::from(MAX_SIZE), |common, token, request| self.start(common, token, request));
    }

    /// Commands in flight end when the disks let go of their memory.
    fn reset(&mut self, _common: &mut Common) {
        self.bus.reset(|_| true, || ());
        self.state = ScsiState::default();
    }

    fn restored(&mut self, common: &mut Common) {
        // A stream may say anything.
        self.state.sense_size = self.state.sense_size.min(65535);
        self.state.cdb_size = self.state.cdb_size.min(255);
        for (token, request) in common.take_again() {
            if token.queue() == EVENTS {
                common.complete(token, 0);
            } else {
                self.start(common, token, request);
            }
        }
    }

    fn state(&self) -> &ScsiState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ScsiState {
        &mut self.state
    }
}
