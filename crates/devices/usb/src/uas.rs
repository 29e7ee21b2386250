//! USB Attached SCSI (UAS, T10/2095-D): `usb-uas` in front of a SCSI bus whose target 0 has the units.
//!
//! Commands come by one pipe, information about their ends by another, data by two more. At SuperSpeed the tag of a
//! command is the stream that its data and its status take; before that there are no streams, and a `READ READY` or
//! `WRITE READY` says whose data a pipe moves next. Data are held here between the bus and the unit, as in
//! [`crate::storage`]: a pipe answers NAK while there is nothing to move. What the unit works on when the state is saved
//! begins anew after a restore.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use device::{DeviceCell, Handle};
use devices_scsi::sense::{Sense, key};
use devices_scsi::{
    BusLimits, Cancel, Cdb, Command, Completion, Direction, Ending, ScsiAddress, ScsiBus, Status, Submitted,
};
use memory::DmaBuffer;
use state::{List, State};

use crate::bus::{Outcome, Pipe, Speed, Token};
use crate::data::Data;
use crate::descriptor::{Descriptors, DeviceAtSpeed, Endpoint, Interface};
use crate::device::{Function, Labels, Setup, Stalled, UsbDevice};

/// What the bus has room for.
pub const LIMITS: BusLimits = BusLimits { channel: 0, target: 0, lun: 255 };
/// The serial number before its place.
pub const SERIAL: &str = "27842";
/// The name of the product.
pub const PRODUCT: &str = "USB Attached SCSI HBA";

/// The most streams, and their exponent in descriptors.
const STREAMS: u16 = 16;
const STREAMS_LOG2: u8 = 4;
/// The most commands at a time.
const COMMANDS_MAX: usize = 256;
/// The most information units that wait: the command pipe stops before, and each command has two more.
const UNITS_MAX: usize = 1024;
const UNITS_HIGH: usize = UNITS_MAX - 2 * COMMANDS_MAX - TASKS_MAX;
/// The most tasks that wait for the ends of commands.
const TASKS_MAX: usize = 64;
/// The most bytes of one command's data, and of all.
const DATA_MAX: usize = 32 << 20;
const DATA_OF_ALL_MAX: u64 = 64 << 20;

// The pipes' endpoints.
const COMMAND: u8 = 1;
const STATUS: u8 = 2;
const DATA_IN: u8 = 3;
const DATA_OUT: u8 = 4;

/// Kinds of information units (6.2).
mod unit {
    pub const COMMAND: u8 = 1;
    pub const SENSE: u8 = 3;
    pub const RESPONSE: u8 = 4;
    pub const TASK: u8 = 5;
    pub const READ_READY: u8 = 6;
    pub const WRITE_READY: u8 = 7;
    /// Bytes of a command.
    pub const COMMAND_LEN: usize = 32;
}

/// Codes of responses (table 22).
mod response {
    pub const COMPLETE: u8 = 0;
    pub const INVALID_UNIT: u8 = 2;
    pub const NOT_SUPPORTED: u8 = 4;
    pub const FAILED: u8 = 5;
    pub const INCORRECT_LUN: u8 = 9;
    pub const OVERLAPPED_TAG: u8 = 10;
}

/// Functions of tasks (table 20).
mod task {
    pub const ABORT: u8 = 1;
    pub const UNIT_RESET: u8 = 8;
}

/// SAM-5, table 37.
const TASK_SET_FULL: u8 = 0x28;

const INVALID_TAG: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x4b, 0x01);
const INVALID_VALUE: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x26, 0x01);
const OVERLAPPED_COMMANDS: Sense = Sense::new(key::ABORTED_COMMAND, 0x4e, 0x00);
const ABORTED: Sense = Sense::new(key::ABORTED_COMMAND, 0x00, 0x00);

const NAMES: &[(u8, &str)] =
    &[(1, "QEMU"), (2, PRODUCT), (3, SERIAL), (4, "High speed config (usb 2.0)"), (5, "Super speed config (usb 3.0)")];

/// A pipe: its endpoint's address, packets, bursts and streams. The descriptor behind says which pipe it is.
macro_rules! pipe {
    ($address:expr, $packet:expr, $burst:expr, $streams:expr) => {
        Endpoint {
            streams: $streams,
            extra: &[4, 0x24, $address & 0xf, 0],
            ..Endpoint::bulk($address, $packet, $burst)
        }
    };
}

/// A device with the four pipes: version of USB, packets of endpoint 0, the string of the configuration, packets, bursts
/// and streams of the pipes.
macro_rules! device {
    ($usb:expr, $max_packet:expr, $name:expr, $packet:expr, $burst:expr, $streams:expr) => {
        DeviceAtSpeed::self_powered(
            $usb,
            $max_packet,
            $name,
            &[Interface {
                class: [8, 6, 0x62],
                extra: &[],
                endpoints: &[
                    pipe!(COMMAND, $packet, $burst, 0),
                    pipe!(0x80 | STATUS, $packet, $burst, $streams),
                    pipe!(0x80 | DATA_IN, $packet, $burst, $streams),
                    pipe!(DATA_OUT, $packet, $burst, $streams),
                ],
            }],
        )
    };
}

static HIGH: DeviceAtSpeed = device!(0x0200, 64, 4, 512, 0, 0);
static SUPER: DeviceAtSpeed = device!(0x0300, 9, 5, 1024, 15, STREAMS_LOG2);

static DESCRIPTORS: Descriptors = Descriptors {
    identity: [0x46f4, 0x0003, 0],
    names: [1, 2, 3],
    full: None,
    high: Some(&HIGH),
    superspeed: Some(&SUPER),
    strings: NAMES,
    selective_suspend: false,
};

/// Where a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
enum Phase {
    /// The unit works.
    #[default]
    Running = 0,
    /// Data from the host come first.
    DataOut = 1,
    /// Data go to the host.
    DataIn = 2,
}

/// A command.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-uas/command", version = 1)]
struct Request {
    tag: u16,
    lun: u16,
    cdb: [u8; 16],
    phase: Phase,
    /// A pipe without streams moves its data.
    is_active: bool,
    /// Bytes that it moves.
    length: u32,
    /// Bytes to the host that are moved.
    at: u32,
    /// Data to the host, or from it.
    #[state(max_len = 33554432)]
    data: Vec<u8>,
    /// What the host is told behind the data.
    #[state(max_len = 64)]
    ending: Vec<u8>,
    #[state(skip = "given anew with each submission")]
    id: u64,
}

/// An information unit that the host has not fetched.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-uas/information", version = 1)]
struct Information {
    /// The stream that it takes.
    stream: u16,
    #[state(max_len = 64)]
    bytes: Vec<u8>,
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-uas", version = 1)]
pub struct UasState {
    requests: List<Request, COMMANDS_MAX>,
    information: List<Information, UNITS_MAX>,
    /// The tags of tasks that wait for the ends of commands.
    tasks: List<u16, TASKS_MAX>,
    /// Streams by which the host has asked for data, or wants to send some, without success.
    asked: u32,
    /// Those whose command has ended since.
    ended: u32,
}

/// The function.
pub struct Uas {
    // Wiring.
    bus: Arc<ScsiBus>,
    handle: Handle<UsbDevice<Uas>>,
    has_streams: bool,
    // Submissions are numbered, so that ends of old ones are of no interest.
    next: u64,
    /// The state was replaced: nobody will tell of the ends that its tasks wait for.
    tasks_are_over: bool,
    // Guest-visible state.
    state: UasState,
}

/// A device in its cell.
pub type UasCell = DeviceCell<UsbDevice<Uas>>;

/// A device in front of the units of `bus`.
pub fn new(bus: Arc<ScsiBus>, labels: Labels) -> UasCell {
    DeviceCell::new_cyclic(|handle: &Handle<UsbDevice<Uas>>| {
        let (handle, state) = (handle.clone(), UasState::default());
        let uas = Uas { bus, handle, has_streams: false, next: 0, tasks_are_over: false, state };
        UsbDevice::new(uas, labels)
    })
}

/// The unit that a LUN in an information unit means.
fn address(lun: &[u8]) -> Option<ScsiAddress> {
    let [0, lun, ..] = lun else { return None };
    Some(ScsiAddress { channel: 0, target: 0, lun: u16::from(*lun) })
}

fn stream_bit(stream: u16) -> u32 {
    1 << (stream & 31)
}

/// Status and sense data of a command (6.2.4).
fn sense_unit(tag: u16, status: u8, sense: Option<Sense>) -> Vec<u8> {
    let mut bytes = vec![unit::SENSE, 0];
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0, 0, status]);
    bytes.resize(14, 0);
    let sense = sense.map(Sense::fixed).unwrap_or_default();
    bytes.extend((sense.len() as u16).to_be_bytes());
    bytes.extend(sense);
    bytes
}

impl Uas {
    // ---- Information for the host ----

    fn tell(&mut self, tag: u16, bytes: Vec<u8>) {
        let information = &mut self.state.information.0;
        if information.len() < UNITS_MAX {
            information.push(Information { stream: if self.has_streams { tag } else { 0 }, bytes });
        }
    }

    fn tell_ready(&mut self, kind: u8, tag: u16) {
        let [high, low] = tag.to_be_bytes();
        self.tell(tag, vec![kind, 0, high, low]);
    }

    fn refuse(&mut self, tag: u16, sense: Sense) {
        self.tell(tag, sense_unit(tag, Status::CheckCondition as u8, Some(sense)));
    }

    fn respond(&mut self, tag: u16, code: u8) {
        let [high, low] = tag.to_be_bytes();
        self.tell(tag, vec![unit::RESPONSE, 0, high, low, 0, 0, 0, code]);
    }

    fn status_pipe(&mut self, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        if std::mem::take(&mut self.tasks_are_over) {
            for tag in std::mem::take(&mut self.state.tasks.0) {
                self.respond(tag, response::COMPLETE);
            }
        }
        let information = &mut self.state.information.0;
        let is_for = |unit: &Information| pipe.stream == 0 || unit.stream == pipe.stream;
        let Some(at) = information.iter().position(is_for) else { return Outcome::Nak };
        let bytes = information.remove(at).bytes;
        let len = bytes.len().min(data.remaining());
        data.put(&bytes[..len]);
        Outcome::Done(len)
    }

    // ---- Commands and tasks ----

    fn command_pipe(&mut self, data: &mut dyn Data) -> Outcome {
        if self.state.information.0.len() >= UNITS_HIGH {
            // The host has to fetch some first.
            return Outcome::Nak;
        }
        let mut bytes = [0; unit::COMMAND_LEN];
        let len = data.remaining().min(bytes.len());
        data.take(&mut bytes[..len]);
        match bytes[0] {
            unit::COMMAND => self.command(&bytes),
            unit::TASK => self.task(&bytes),
            _ => return Outcome::Stall,
        }
        Outcome::Done(len)
    }

    fn is_tag(&self, tag: u16) -> bool {
        !self.has_streams || (1..=STREAMS).contains(&tag)
    }

    fn position(&self, tag: u16) -> Option<usize> {
        self.state.requests.0.iter().position(|request| request.tag == tag)
    }

    fn command(&mut self, bytes: &[u8; unit::COMMAND_LEN]) {
        let tag = u16::from_be_bytes([bytes[2], bytes[3]]);
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&bytes[16..]);
        let place = address(&bytes[8..16]).and_then(|place| Some((place, self.bus.responder(place)?.0)));
        let (place, responder) = match place {
            // Longer commands.
            _ if bytes[6] >> 2 != 0 => return self.refuse(tag, INVALID_VALUE),
            _ if !self.is_tag(tag) => return self.refuse(tag, INVALID_TAG),
            _ if self.position(tag).is_some() => return self.refuse(tag, OVERLAPPED_COMMANDS),
            None => return self.refuse(tag, Sense::UNIT_NOT_SUPPORTED),
            Some(place) => place,
        };
        let wanted = responder.transfer(&Cdb::new(&cdb));
        let others: u64 = self.state.requests.0.iter().map(|request| u64::from(request.length)).sum();
        if wanted.len > DATA_MAX as u64 {
            return self.refuse(tag, Sense::INVALID_FIELD);
        }
        if self.state.requests.0.len() >= COMMANDS_MAX || others + wanted.len > DATA_OF_ALL_MAX {
            return self.tell(tag, sense_unit(tag, TASK_SET_FULL, None));
        }
        // What the last command with this tag left is of no interest any more.
        self.state.ended &= !stream_bit(tag);
        let waits = wanted.direction == Direction::Out && wanted.len > 0;
        let phase = if waits { Phase::DataOut } else { Phase::Running };
        let length = wanted.len as u32;
        self.state.requests.0.push(Request { tag, lun: place.lun, cdb, phase, length, ..Request::default() });
        if waits {
            self.next_transfer();
        } else {
            self.submit(tag);
        }
    }

    /// Hands a command, with its data, to its unit.
    fn submit(&mut self, tag: u16) {
        self.next += 1;
        let id = self.next;
        let Some(at) = self.position(tag) else { return };
        let request = &mut self.state.requests.0[at];
        (request.phase, request.id) = (Phase::Running, id);
        let memory = || match request.length {
            0 => DmaBuffer::empty(),
            length => DmaBuffer::detached(length as usize),
        };
        let (data_in, data_out) = if request.data.is_empty() {
            (memory(), DmaBuffer::empty())
        } else {
            let memory = memory();
            memory.write_at(0, &request.data);
            (DmaBuffer::empty(), memory)
        };
        let place = ScsiAddress { channel: 0, target: 0, lun: request.lun };
        let (cdb, handle, result) = (Cdb::new(&request.cdb), self.handle.clone(), data_in.clone());
        let done = Box::new(move |completion: Completion| {
            let waker =
                handle.with(|device| device.function_mut().complete(id, &completion, &result).then(|| device.waker()));
            if let Some(waker) = waker.flatten().flatten() {
                waker.wake();
            }
        });
        let result = data_in.clone();
        match self.bus.submit(place, Command { cdb, tag: id, data_out, data_in, autosense: true }, done) {
            Submitted::Started => {}
            Submitted::Ended(completion) => {
                self.complete(id, &completion, &result);
            }
            Submitted::NoTarget => self.finish(at, sense_unit(tag, 2, Some(Sense::UNIT_NOT_SUPPORTED))),
        }
    }

    /// The unit has ended a command. `false`: nobody waits for it.
    fn complete(&mut self, id: u64, completion: &Completion, memory: &DmaBuffer) -> bool {
        let is_it = |request: &Request| request.id == id && request.phase == Phase::Running;
        let Some(at) = self.state.requests.0.iter().position(is_it) else { return false };
        let request = &mut self.state.requests.0[at];
        let (status, sense) = match completion.ending {
            Ending::Status(Status::Good, _) => (Status::Good, None),
            Ending::Status(Status::CheckCondition, sense) => (Status::CheckCondition, Some(sense)),
            Ending::Cancelled(_) => (Status::CheckCondition, Some(ABORTED)),
            Ending::Overrun => (Status::CheckCondition, Some(Sense::INVALID_FIELD)),
        };
        let ending = sense_unit(request.tag, status as u8, sense);
        request.data = vec![0; (completion.transferred as usize).min(memory.len())];
        if request.data.is_empty() {
            self.finish(at, ending);
        } else {
            memory.io().read_at(0, &mut request.data);
            (request.phase, request.ending, request.at) = (Phase::DataIn, ending, 0);
            self.next_transfer();
        }
        true
    }

    /// A command is over: the host is told.
    fn finish(&mut self, at: usize, ending: Vec<u8>) {
        let request = self.state.requests.0.remove(at);
        if self.has_streams {
            // A transfer that waits ends short.
            self.state.ended |= self.state.asked & stream_bit(request.tag);
        }
        self.tell(request.tag, ending);
        self.next_transfer();
    }

    /// Pipes without streams that are free take the next command that has data for them.
    fn next_transfer(&mut self) {
        if self.has_streams {
            return;
        }
        for (phase, kind) in [(Phase::DataIn, unit::READ_READY), (Phase::DataOut, unit::WRITE_READY)] {
            if self.active(phase).is_some() {
                continue;
            }
            let next = self.state.requests.0.iter_mut().find(|request| request.phase == phase && !request.is_active);
            if let Some(request) = next {
                request.is_active = true;
                let tag = request.tag;
                self.tell_ready(kind, tag);
            }
        }
    }

    /// The command whose data a pipe without streams moves.
    fn active(&self, phase: Phase) -> Option<usize> {
        self.state.requests.0.iter().position(|request| request.phase == phase && request.is_active)
    }

    fn task(&mut self, bytes: &[u8; unit::COMMAND_LEN]) {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (tag, function, other) = (word(2), bytes[4], word(6));
        let place = address(&bytes[8..16]).and_then(|place| Some((place, self.bus.responder(place)?.0)));
        let (place, responder) = match place {
            _ if !self.is_tag(tag) => return self.respond(tag, response::INVALID_UNIT),
            _ if self.position(tag).is_some() => return self.respond(tag, response::OVERLAPPED_TAG),
            None => return self.respond(tag, response::INCORRECT_LUN),
            Some(place) => place,
        };
        if self.state.tasks.0.len() >= TASKS_MAX {
            return self.respond(tag, response::FAILED);
        }
        let handle = self.handle.clone();
        let done = move || {
            let waker = handle.with(|device| device.function_mut().task_is_done(tag).then(|| device.waker()));
            if let Some(waker) = waker.flatten().flatten() {
                waker.wake();
            }
        };
        let is_running = match function {
            task::ABORT => {
                let is_it = |request: &Request| request.tag == other && request.lun == place.lun;
                match self.state.requests.0.iter().position(is_it) {
                    Some(at) => {
                        let id = self.state.requests.0.remove(at).id;
                        responder.cancel(|tag| tag == id, Cancel::Abort, done)
                    }
                    None => false,
                }
            }
            task::UNIT_RESET => {
                self.state.requests.0.retain(|request| request.lun != place.lun);
                responder.reset_by_initiator(done)
            }
            _ => return self.respond(tag, response::NOT_SUPPORTED),
        };
        if is_running {
            self.state.tasks.0.push(tag);
        } else {
            self.respond(tag, response::COMPLETE);
        }
        self.next_transfer();
    }

    /// The commands that a task waited for have ended. `false`: nobody waits for the task.
    fn task_is_done(&mut self, tag: u16) -> bool {
        let Some(at) = self.state.tasks.0.iter().position(|task| *task == tag) else { return false };
        self.state.tasks.0.remove(at);
        self.respond(tag, response::COMPLETE);
        true
    }

    // ---- Data ----

    fn data_pipe(&mut self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        let phase = if token == Token::In { Phase::DataIn } else { Phase::DataOut };
        let bit = stream_bit(pipe.stream);
        let at = match pipe.stream {
            // The host was told neither to send nor to expect anything.
            0 => self.active(phase).map(Some).ok_or(Outcome::Stall),
            stream => Ok(self.position(stream)),
        };
        let at = match at {
            Ok(at) => at.filter(|at| self.state.requests.0[*at].phase == phase),
            Err(outcome) => return outcome,
        };
        let Some(at) = at else {
            if pipe.stream != 0 && self.state.ended & bit != 0 {
                (self.state.ended, self.state.asked) = (self.state.ended & !bit, self.state.asked & !bit);
                return Outcome::Done(0);
            }
            self.state.asked |= bit;
            return Outcome::Nak;
        };
        self.state.asked &= !bit;
        match phase {
            Phase::DataOut => self.take_data(at, data),
            _ => self.give_data(at, data),
        }
    }

    fn give_data(&mut self, at: usize, data: &mut dyn Data) -> Outcome {
        let request = &mut self.state.requests.0[at];
        let rest = request.data.get(request.at as usize..).unwrap_or_default();
        let len = rest.len().min(data.remaining());
        data.put(&rest[..len]);
        request.at += len as u32;
        if request.at as usize >= request.data.len() {
            let ending = std::mem::take(&mut request.ending);
            self.finish(at, ending);
        }
        Outcome::Done(len)
    }

    fn take_data(&mut self, at: usize, data: &mut dyn Data) -> Outcome {
        let request = &mut self.state.requests.0[at];
        let have = request.data.len();
        let len = (request.length as usize).saturating_sub(have).min(data.remaining());
        request.data.resize(have + len, 0);
        data.take(&mut request.data[have..]);
        if request.data.len() >= request.length as usize {
            let tag = request.tag;
            self.submit(tag);
        }
        Outcome::Done(len)
    }
}

impl Function for Uas {
    type State = UasState;

    fn state(&self) -> &UasState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut UasState {
        &mut self.state
    }

    fn descriptors(&self) -> &Descriptors {
        &DESCRIPTORS
    }

    fn connected(&mut self, speed: Speed) {
        self.has_streams = speed == Speed::Super;
    }

    fn reset(&mut self) {
        self.bus.cancel_all(Cancel::Abort);
        (self.state, self.tasks_are_over) = (UasState::default(), false);
    }

    fn control(&mut self, _setup: Setup, _data: &mut Vec<u8>) -> Result<(), Stalled> {
        Err(Stalled)
    }

    fn transfer(&mut self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        if pipe.stream > STREAMS {
            return Outcome::Stall;
        }
        match (token, pipe.endpoint) {
            (Token::Out, COMMAND) => self.command_pipe(data),
            (Token::In, STATUS) => self.status_pipe(pipe, data),
            (Token::In, DATA_IN) | (Token::Out, DATA_OUT) => self.data_pipe(token, pipe, data),
            _ => Outcome::Stall,
        }
    }

    fn restored(&mut self) {
        self.bus.cancel_all(Cancel::Abort);
        self.tasks_are_over = true;
        let running = self.state.requests.0.iter().filter(|request| request.phase == Phase::Running);
        let running: Vec<u16> = running.map(|request| request.tag).collect();
        running.into_iter().for_each(|tag| self.submit(tag));
    }
}
