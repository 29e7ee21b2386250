//! Mass storage, bulk-only transport (USB Mass Storage Class, Bulk-Only Transport 1.0): `usb-storage` in front of one SCSI
//! unit.
//!
//! Data of a command are held here between the bus and the unit, so that a transaction never waits in the device: the
//! endpoints answer NAK while the unit works. As in QEMU, data that the unit does not have are filled up with zeroes, and
//! the residue tells how many.

#[cfg(test)]
mod tests;

use device::{DeviceCell, Handle};
use devices_scsi::{Cancel, Cdb, Command, Completion, Direction, Ending, LogicalUnit, Status};
use memory::DmaBuffer;
use state::State;

use crate::bus::{Outcome, Pipe, Token};
use crate::data::Data;
use crate::descriptor::{Descriptors, DeviceAtSpeed, Endpoint, Interface};
use crate::device::{Function, Labels, Setup, Stalled, UsbDevice};

/// The most bytes of one command's data.
const DATA_MAX: usize = 32 << 20;
/// Bytes of a command block wrapper, and of a command status wrapper.
const CBW_LEN: usize = 31;
const CSW_LEN: usize = 13;
const CBW_SIGNATURE: [u8; 4] = *b"USBC";
const CSW_SIGNATURE: [u8; 4] = *b"USBS";

const BULK_IN: u8 = 1;
const BULK_OUT: u8 = 2;

/// Requests of the class: request type and request.
const GET_MAX_LUN: u16 = 0xa1fe;
const BULK_ONLY_RESET: u16 = 0x21ff;

const NAMES: &[(u8, &str)] = &[
    (1, "QEMU"),
    (2, "QEMU USB HARDDRIVE"),
    (3, SERIAL),
    (4, "Full speed config (usb 1.1)"),
    (5, "High speed config (usb 2.0)"),
    (6, "Super speed config (usb 3.0)"),
];

/// The serial number before its place.
pub const SERIAL: &str = "1";

/// A device with a pair of bulk endpoints: version of USB, packets of endpoint 0, the string of the configuration, packets
/// and bursts of the endpoints.
macro_rules! device {
    ($usb:expr, $max_packet:expr, $name:expr, $packet:expr, $burst:expr) => {
        DeviceAtSpeed::self_powered(
            $usb,
            $max_packet,
            $name,
            &[Interface {
                class: [8, 6, 0x50],
                extra: &[],
                endpoints: &[
                    Endpoint::bulk(0x80 | BULK_IN, $packet, $burst),
                    Endpoint::bulk(BULK_OUT, $packet, $burst),
                ],
            }],
        )
    };
}

static FULL: DeviceAtSpeed = device!(0x0200, 8, 4, 64, 0);
static HIGH: DeviceAtSpeed = device!(0x0200, 64, 5, 512, 0);
static SUPER: DeviceAtSpeed = device!(0x0300, 9, 6, 1024, 15);

static DESCRIPTORS: Descriptors = Descriptors {
    identity: [0x46f4, 0x0001, 0],
    names: [1, 2, 3],
    full: Some(&FULL),
    high: Some(&HIGH),
    superspeed: Some(&SUPER),
    strings: NAMES,
    selective_suspend: false,
};

/// What the endpoints expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
enum Phase {
    /// A command.
    #[default]
    Command = 0,
    /// Data to the host.
    DataIn = 1,
    /// Data from the host.
    DataOut = 2,
    /// The host fetches the status.
    Status = 3,
}

/// Values of bCSWStatus.
mod csw_status {
    pub const PASSED: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const PHASE_ERROR: u8 = 2;
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-storage", version = 1)]
pub struct StorageState {
    phase: Phase,
    tag: u32,
    cdb: [u8; 16],
    /// Bytes that the host expects to move, and those that it has moved.
    length: u32,
    moved: u32,
    /// Data from the unit, or from the host.
    #[state(max_len = 33554432)]
    data: Vec<u8>,
    residue: u32,
    status: u8,
    /// The unit works on the command.
    is_busy: bool,
}

/// The function of a mass storage device.
pub struct Storage {
    // Wiring.
    unit: LogicalUnit,
    handle: Handle<UsbDevice<Self>>,
    /// Counts commands: what an old one does any more is of no interest.
    generation: u64,
    // Guest-visible state.
    state: StorageState,
}

/// A mass storage device in its cell.
pub type StorageCell = DeviceCell<UsbDevice<Storage>>;

/// A device in front of `unit`.
pub fn new(unit: LogicalUnit, labels: Labels) -> StorageCell {
    DeviceCell::new_cyclic(|handle: &Handle<UsbDevice<Storage>>| {
        let storage = Storage { unit, handle: handle.clone(), generation: 0, state: StorageState::default() };
        UsbDevice::new(storage, labels)
    })
}

impl Storage {
    /// Forgets the command.
    fn abandon(&mut self) {
        self.generation += 1;
        self.state = StorageState::default();
        let _running = self.unit.cancel(|_| true, Cancel::Abort, || ());
    }

    /// A command block wrapper; the error is that it is none, or means nothing.
    fn command(&mut self, bytes: [u8; CBW_LEN]) -> Result<(), Stalled> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (length, is_in, lun, cdb_len) = (word(8), bytes[12] & 0x80 != 0, bytes[13] & 0xf, bytes[14] & 0x1f);
        if bytes[..4] != CBW_SIGNATURE || lun != 0 || !(1..=16).contains(&cdb_len) || length as usize > DATA_MAX {
            return Err(Stalled);
        }
        let mut cdb = [0; 16];
        let cdb_len = usize::from(cdb_len);
        cdb[..cdb_len].copy_from_slice(&bytes[15..15 + cdb_len]);
        self.state = StorageState { tag: word(4), cdb, length, ..StorageState::default() };
        self.state.phase = match (length, is_in) {
            (0, _) => Phase::Status,
            (_, true) => Phase::DataIn,
            (_, false) => Phase::DataOut,
        };
        if self.state.phase != Phase::DataOut {
            self.start();
        }
        Ok(())
    }

    /// Hands the command to the unit.
    fn start(&mut self) {
        let cdb = Cdb::new(&self.state.cdb);
        let wanted = self.unit.transfer(&cdb);
        let is_out = self.state.phase == Phase::DataOut;
        // The unit wants memory for all that the command moves, also for what the host does not.
        let len = usize::try_from(wanted.len).unwrap_or(usize::MAX);
        if len > DATA_MAX || (wanted.direction == Direction::In && is_out) {
            self.state.data.clear();
            self.state.residue = self.state.length;
            self.state.status = csw_status::PHASE_ERROR;
            return;
        }
        let len = len.max(self.state.length as usize);
        let memory = if len == 0 { DmaBuffer::empty() } else { DmaBuffer::detached(len) };
        let (data_in, data_out) = if is_out || wanted.direction == Direction::Out {
            let given = std::mem::take(&mut self.state.data);
            if !given.is_empty() {
                memory.write_at(0, &given);
            }
            (DmaBuffer::empty(), memory)
        } else {
            (memory, DmaBuffer::empty())
        };
        self.generation += 1;
        let (generation, handle, result) = (self.generation, self.handle.clone(), data_in.clone());
        let done = Box::new(move |completion: Completion| {
            let waker = handle.with(|device| {
                let storage = device.function_mut();
                (storage.generation == generation).then(|| storage.complete(&completion, &result))?;
                device.waker()
            });
            if let Some(waker) = waker.flatten() {
                waker.wake();
            }
        });
        let result = data_in.clone();
        let command = Command { cdb, tag: generation, data_out, data_in, autosense: false };
        self.state.is_busy = true;
        if let Some(completion) = self.unit.submit(command, done) {
            self.complete(&completion, &result);
        }
    }

    fn complete(&mut self, completion: &Completion, memory: &DmaBuffer) {
        let state = &mut self.state;
        state.is_busy = false;
        let transferred = completion.transferred.min(state.length);
        state.residue = state.length - transferred;
        state.status = match completion.ending {
            Ending::Status(Status::Good, _) => csw_status::PASSED,
            Ending::Status(Status::CheckCondition, _) => csw_status::FAILED,
            Ending::Cancelled(_) | Ending::Overrun => csw_status::PHASE_ERROR,
        };
        if state.phase == Phase::DataIn {
            state.data = vec![0; (transferred as usize).min(memory.len())];
            memory.io().read_at(0, &mut state.data);
        }
    }

    fn bulk_out(&mut self, data: &mut dyn Data) -> Outcome {
        match self.state.phase {
            Phase::Command => {
                if data.remaining() != CBW_LEN {
                    return Outcome::Stall;
                }
                let mut bytes = [0; CBW_LEN];
                data.take(&mut bytes);
                match self.command(bytes) {
                    Ok(()) => Outcome::Done(CBW_LEN),
                    Err(Stalled) => Outcome::Stall,
                }
            }
            Phase::DataOut => {
                let len = data.remaining();
                let left = (self.state.length - self.state.moved) as usize;
                if len > left {
                    return Outcome::Stall;
                }
                let at = self.state.data.len();
                self.state.data.resize(at + len, 0);
                data.take(&mut self.state.data[at..]);
                self.state.moved += len as u32;
                if len == left {
                    self.start();
                    self.state.phase = Phase::Status;
                }
                Outcome::Done(len)
            }
            Phase::DataIn | Phase::Status => Outcome::Stall,
        }
    }

    fn bulk_in(&mut self, data: &mut dyn Data) -> Outcome {
        let state = &mut self.state;
        match state.phase {
            Phase::DataIn | Phase::Status if state.is_busy => Outcome::Nak,
            Phase::DataIn => {
                let left = (state.length - state.moved) as usize;
                let len = data.remaining().min(left);
                let have = state.data.get(state.moved as usize..).unwrap_or_default();
                let have = &have[..have.len().min(len)];
                data.put(have);
                let mut missing = len - have.len();
                while missing > 0 {
                    const ZEROES: [u8; 512] = [0; 512];
                    let now = missing.min(ZEROES.len());
                    data.put(&ZEROES[..now]);
                    missing -= now;
                }
                state.moved += len as u32;
                if len == left {
                    state.phase = Phase::Status;
                    state.data = Vec::new();
                }
                Outcome::Done(len)
            }
            Phase::Status if data.remaining() < CSW_LEN => Outcome::Stall,
            Phase::Status => {
                data.put(&CSW_SIGNATURE);
                data.put(&state.tag.to_le_bytes());
                data.put(&state.residue.to_le_bytes());
                data.put(&[state.status]);
                state.phase = Phase::Command;
                Outcome::Done(CSW_LEN)
            }
            Phase::Command => Outcome::Nak,
            Phase::DataOut => Outcome::Stall,
        }
    }
}

impl Function for Storage {
    type State = StorageState;

    fn state(&self) -> &StorageState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut StorageState {
        &mut self.state
    }

    fn descriptors(&self) -> &Descriptors {
        &DESCRIPTORS
    }

    fn reset(&mut self) {
        self.abandon();
    }

    fn control(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled> {
        match setup.code() {
            GET_MAX_LUN => data.push(0),
            BULK_ONLY_RESET => self.abandon(),
            _ => return Err(Stalled),
        }
        Ok(())
    }

    fn transfer(&mut self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        match (token, pipe.endpoint) {
            (Token::Out, BULK_OUT) => self.bulk_out(data),
            (Token::In, BULK_IN) => self.bulk_in(data),
            _ => Outcome::Stall,
        }
    }

    fn restored(&mut self) {
        // What the unit worked on is gone with the old state.
        self.generation += 1;
        let _running = self.unit.cancel(|_| true, Cancel::Abort, || ());
        if self.state.is_busy {
            self.state.is_busy = false;
            (self.state.residue, self.state.status) = (self.state.length, csw_status::PHASE_ERROR);
        }
    }
}
