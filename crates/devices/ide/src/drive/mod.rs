//! The device end of an ATA cable (ATA8-ACS): task file, data blocks, and the flow of a command.
//!
//! The guest-visible part is [`DriveState`]; what the host adds is [`DriveHost`]; a [`Drive`] is both while something
//! happens. Every event (a command, a data block that was moved, memory for a transfer, a completed request) leads to
//! one [`Step`], which tells the transport what to do next.
//!
//! As in QEMU, every failed access is reported as an aborted command, whatever was the reason.

mod command;
mod identify;
mod smart;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::Arc;

use device::disk::{Disk, DiskError, DiskOperation, DiskProperties};
use iobuf::IoBuf;
use memory::DmaBuffer;
use state::State;

use crate::atapi::AtapiState;

/// Bits of the status register (ATA8-ACS, 6.2).
pub mod status {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const ERR: u8 = 0x01;
    pub const DRQ: u8 = 0x08;
    pub const DSC: u8 = 0x10;
    pub const DF: u8 = 0x20;
    pub const DRDY: u8 = 0x40;
    pub const BSY: u8 = 0x80;
}

/// The error bit of aborted commands.
pub const ABRT: u8 = 0x04;
/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// The most sectors of a DRQ block of READ and WRITE MULTIPLE.
pub const MAX_MULTIPLE: u8 = 16;
/// Sectors that a read without DMA takes from the disk at once.
const PIO_CHUNK: u32 = 128;
/// What the buffer may hold: two blocks of the longest packet transfer.
const BUFFER_MAX: usize = 0x4_0000;

/// What is at the end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// A hard disk.
    Disk,
    /// A CD or DVD drive.
    Cd,
}

/// Cylinders, heads and sectors of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads: 1 to 16.
    pub heads: u8,
    /// Sectors of a track: 1 to 255.
    pub sectors: u8,
}

impl Geometry {
    /// What a disk of `size` bytes has when nobody says anything.
    fn guess(size: u64) -> Self {
        let cylinders = (size / SECTOR as u64 / (16 * 63)).clamp(2, 16383) as u16;
        Self { cylinders, heads: 16, sectors: 63 }
    }
}

/// A drive's properties, named as QEMU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveOptions {
    /// Disk or CD.
    pub kind: DriveKind,
    /// The model, up to 40 characters; QEMU's if not given.
    pub model: Option<String>,
    /// The serial number, up to 20 characters; `QM` and a number if neither this nor the disk has one.
    pub serial: Option<String>,
    /// The number of that serial number.
    pub number: u8,
    /// The firmware's revision, up to 8 characters.
    pub version: String,
    /// The world wide name; 0 is none.
    pub wwn: u64,
    /// Revolutions per minute; 1 is a solid state disk, 0 does not say.
    pub rotation_rate: u16,
    /// The geometry, unless it is guessed.
    pub geometry: Option<Geometry>,
    /// Bytes of a physical block, unless it is the disk's.
    pub physical_block_size: Option<u32>,
    /// TRIM is offered.
    pub discard: bool,
    /// The cache mode, unless it is the disk's.
    pub write_cache: Option<bool>,
}

impl DriveOptions {
    /// QEMU's defaults.
    pub fn new(kind: DriveKind) -> Self {
        Self {
            kind,
            model: None,
            serial: None,
            number: 1,
            version: "2.5+".to_owned(),
            wwn: 0,
            rotation_rate: 0,
            geometry: None,
            physical_block_size: None,
            discard: true,
            write_cache: None,
        }
    }
}

/// What the transport does next.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the registers say how things stand.
    None,
    /// The command has ended: the host is interrupted.
    Interrupt,
    /// A data block is ready to be moved by the host ([`Drive::data`], [`Drive::data_mut`], [`Drive::block_moved`]).
    Data {
        /// The host is interrupted.
        interrupt: bool,
    },
    /// The transport gathers memory, and calls [`Drive::dma`].
    Dma {
        /// From the drive to memory.
        to_memory: bool,
        /// Bytes of the whole transfer.
        len: u64,
    },
    /// The memory was too short: the transfer has ended, the host hears nothing.
    Starved,
    /// A request for [`DriveHost::disk`]; its result goes to [`Drive::disk_done`] with the token of
    /// [`DriveHost::token`].
    Disk(DiskOperation),
}

/// What a command is about. The number is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
pub(crate) enum Work {
    #[default]
    None = 0,
    ReadPio = 1,
    WritePio = 2,
    ReadDma = 3,
    WriteDma = 4,
    Verify = 5,
    Flush = 6,
    Trim = 7,
    /// Data of the drive's own.
    Reply = 8,
    /// A packet is expected.
    Packet = 9,
    PacketReply = 10,
    PacketReplyDma = 11,
    PacketRead = 12,
    PacketReadDma = 13,
    /// Parameters are expected.
    PacketParameters = 14,
    PacketParametersDma = 15,
}

/// Where a command is. The number is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
pub(crate) enum Phase {
    #[default]
    Idle = 0,
    /// The host reads the block.
    DataIn = 1,
    /// The host writes the block.
    DataOut = 2,
    /// Memory is awaited.
    Dma = 3,
    /// The disk works.
    Disk = 4,
    /// Software reset.
    Reset = 5,
}

/// Two task file registers in one: the value written last, and the one before (48-bit commands).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ide_register", version = 1)]
pub struct Register {
    /// The value.
    pub now: u8,
    /// The one before: the high order byte.
    pub before: u8,
}

impl Register {
    /// A write by the host.
    pub fn write(&mut self, value: u8) {
        self.before = self.now;
        self.now = value;
    }
}

/// The guest-visible state of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ide_drive", version = 1)]
pub struct DriveState {
    /// Features.
    pub feature: Register,
    /// Sector count; the interrupt reason of packet commands.
    pub count: Register,
    /// LBA low, mid, high.
    pub lba: [Register; 3],
    /// Device: bit 6 is LBA, bits 0–3 the head or the highest LBA bits.
    pub device: u8,
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
    pub(crate) work: Work,
    pub(crate) phase: Phase,
    /// Data blocks.
    #[state(max_len = 0x4_0000)]
    pub(crate) buffer: Vec<u8>,
    /// The block that is being moved: a part of the buffer.
    pub(crate) position: u32,
    pub(crate) end: u32,
    /// Where a transfer is, and how much of it is left, in sectors.
    pub(crate) sector: u64,
    pub(crate) left: u32,
    /// Sectors of a DRQ block.
    pub(crate) block: u32,
    /// Sectors of the disk's current request.
    pub(crate) chunk: u32,
    /// The command has 48-bit addresses.
    pub(crate) ext: bool,
    /// Forced unit access.
    pub(crate) fua: bool,
    /// Bytes that a transfer has moved to or from memory.
    pub(crate) transferred: u32,
    /// What SET MULTIPLE chose.
    pub(crate) multiple: u8,
    /// What INITIALIZE DEVICE PARAMETERS chose.
    pub(crate) heads: u8,
    pub(crate) track_sectors: u8,
    /// What SET FEATURES chose.
    pub(crate) transfer_mode: u8,
    pub(crate) reset_reverts: bool,
    pub(crate) power: u8,
    /// The last addressable sector that SET MAX chose, plus one; 0 is the native one.
    pub(crate) max_sectors: u64,
    /// The command before was READ NATIVE MAX.
    pub(crate) asked_native_max: bool,
    pub(crate) smart: smart::SmartState,
    pub(crate) atapi: AtapiState,
}

impl DriveState {
    /// There is no block of data.
    pub(crate) fn forget_data(&mut self) {
        self.buffer.clear();
        (self.position, self.end) = (0, 0);
    }
}

/// What the host knows of a drive.
pub struct DriveHost {
    // Fixed configuration.
    pub(crate) options: DriveOptions,
    /// Native command queuing is offered.
    pub(crate) has_ncq: bool,
    original_write_cache: bool,
    // Host resources.
    /// The disk.
    pub disk: Arc<dyn Disk>,
    pub(crate) properties: DiskProperties,
    /// Guest memory of the current transfer.
    pub(crate) memory: Option<DmaBuffer>,
    /// Memory of the current request of the disk that is not the guest's.
    pub(crate) bounce: Option<IoBuf>,
    /// Names the current request of the disk: results of others don't count.
    token: u64,
    /// A request is at the disk.
    in_flight: bool,
}

impl DriveHost {
    /// A drive in front of `disk`.
    pub fn new(options: DriveOptions, disk: Arc<dyn Disk>, has_ncq: bool) -> Self {
        if let Some(on) = options.write_cache {
            disk.set_write_cache(on);
        }
        let properties = disk.properties();
        let original_write_cache = properties.write_cache;
        Self {
            options,
            has_ncq,
            original_write_cache,
            disk,
            properties,
            memory: None,
            bounce: None,
            token: 0,
            in_flight: false,
        }
    }

    /// The kind of the drive.
    pub fn kind(&self) -> DriveKind {
        self.options.kind
    }

    /// The name of the current request.
    pub fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.options.geometry.unwrap_or_else(|| Geometry::guess(self.properties.size))
    }

    /// Sectors of the medium.
    pub(crate) fn native_sectors(&self) -> u64 {
        self.properties.size / SECTOR as u64
    }
}

/// A drive while something happens.
pub struct Drive<'a> {
    /// What the host knows.
    pub host: &'a mut DriveHost,
    /// What the guest sees.
    pub state: &'a mut DriveState,
}

impl Drive<'_> {
    // ---- Resets ----

    /// Power-on and bus reset: requests in flight have ended.
    pub fn hard_reset(&mut self) {
        let host = &mut *self.host;
        (host.memory, host.bounce, host.in_flight) = (None, None, false);
        host.token = host.token.wrapping_add(1);
        host.properties = host.disk.properties();
        if host.properties.write_cache != host.original_write_cache {
            host.disk.set_write_cache(host.original_write_cache);
            host.properties.write_cache = host.original_write_cache;
        }
        let geometry = host.geometry();
        let atapi = AtapiState { tray_open: self.state.atapi.tray_open, ..AtapiState::default() };
        *self.state = DriveState {
            device: 0xa0,
            multiple: MAX_MULTIPLE,
            heads: geometry.heads,
            track_sectors: geometry.sectors,
            transfer_mode: identify::DEFAULT_MODE,
            power: command::ACTIVE,
            atapi,
            ..DriveState::default()
        };
        self.post_signature();
    }

    /// The host asserts the software reset: the drive is busy until it is released.
    pub fn begin_soft_reset(&mut self) {
        self.state.status = status::BSY | status::DSC;
        self.state.phase = Phase::Reset;
        self.state.work = Work::None;
    }

    /// The host releases the software reset. A drive whose request is still at the disk stays busy until it ends.
    pub fn end_soft_reset(&mut self) {
        if self.state.phase == Phase::Reset && !self.host.in_flight {
            self.soft_reset();
        }
    }

    fn soft_reset(&mut self) {
        self.host.memory = None;
        self.host.bounce = None;
        let state = &mut *self.state;
        (state.phase, state.work) = (Phase::Idle, Work::None);
        state.power = command::ACTIVE;
        state.asked_native_max = false;
        state.forget_data();
        if state.reset_reverts {
            state.reset_reverts = false;
            state.multiple = MAX_MULTIPLE;
            state.transfer_mode = identify::DEFAULT_MODE;
            self.set_write_cache(self.host.original_write_cache);
        }
        self.post_signature();
    }

    /// What a drive says of itself after a reset (ATA8-ACS, 9.12).
    pub(crate) fn post_signature(&mut self) {
        let is_cd = self.host.kind() == DriveKind::Cd;
        let state = &mut *self.state;
        state.error = 1;
        state.device &= !0x0f;
        state.count = Register { now: 1, before: 0 };
        let (mid, high) = if is_cd { (0x14, 0xeb) } else { (0, 0) };
        state.lba = [1, mid, high].map(|now| Register { now, before: 0 });
        state.status = if is_cd { 0 } else { status::DRDY | status::DSC };
    }

    pub(crate) fn set_write_cache(&mut self, on: bool) {
        if self.host.properties.write_cache != on {
            self.host.properties.write_cache = on;
            self.host.disk.set_write_cache(on);
        }
    }

    /// Size, medium or cache mode may have changed.
    pub fn disk_changed(&mut self) {
        self.host.properties = self.host.disk.properties();
    }

    // ---- How commands end ----

    /// Success.
    pub(crate) fn finish(&mut self) -> Step {
        self.end(status::DRDY | status::DSC, 0);
        Step::Interrupt
    }

    /// The command is refused, or has failed.
    pub(crate) fn abort(&mut self) -> Step {
        self.end(status::DRDY | status::ERR, ABRT);
        Step::Interrupt
    }

    pub(crate) fn end(&mut self, status: u8, error: u8) {
        self.host.memory = None;
        self.host.bounce = None;
        let state = &mut *self.state;
        (state.status, state.error) = (status, error);
        (state.phase, state.work) = (Phase::Idle, Work::None);
        state.forget_data();
    }

    // ---- Data blocks ----

    /// What the host may read of the current block.
    pub fn data(&self) -> &[u8] {
        if self.state.phase != Phase::DataIn {
            return &[];
        }
        self.state.buffer.get(self.state.position as usize..self.state.end as usize).unwrap_or_default()
    }

    /// What the host may write of the current block.
    pub fn data_mut(&mut self) -> &mut [u8] {
        if self.state.phase != Phase::DataOut {
            return &mut [];
        }
        let range = self.state.position as usize..self.state.end as usize;
        self.state.buffer.get_mut(range).unwrap_or_default()
    }

    /// Whether the current block goes to the drive.
    pub fn is_data_out(&self) -> bool {
        self.state.phase == Phase::DataOut
    }

    /// Whether the drive waits for memory.
    pub fn wants_memory(&self) -> bool {
        self.state.phase == Phase::Dma
    }

    /// Whether a packet is what the drive waits for.
    pub fn wants_packet(&self) -> bool {
        self.state.phase == Phase::DataOut && self.state.work == Work::Packet
    }

    /// Whether a command is under way.
    pub fn is_working(&self) -> bool {
        self.state.phase != Phase::Idle
    }

    /// Whether a software reset has not ended.
    pub fn is_reset_held(&self) -> bool {
        self.state.phase == Phase::Reset
    }

    /// The transport gives the command up: it is aborted.
    pub fn give_up(&mut self) {
        self.host.token = self.host.token.wrapping_add(1);
        self.host.in_flight = false;
        self.end(status::DRDY | status::ERR, ABRT);
    }

    /// Bytes that the last transfer moved to or from memory.
    pub fn transferred(&self) -> u32 {
        self.state.transferred
    }

    /// The host has moved `len` bytes of the current block.
    pub fn moved(&mut self, len: u32) -> Step {
        let state = &mut *self.state;
        state.position = state.position.saturating_add(len).min(state.end);
        if state.position < state.end { Step::None } else { self.block_moved() }
    }

    /// Offers the buffer's bytes up to `end` to the host.
    pub(crate) fn offer(&mut self, end: usize, interrupt: bool) -> Step {
        self.state.phase = Phase::DataIn;
        self.state.status = status::DRDY | status::DSC | status::DRQ;
        self.state.end = end.min(self.state.buffer.len()) as u32;
        Step::Data { interrupt }
    }

    /// Wants `len` bytes from the host.
    pub(crate) fn expect(&mut self, len: usize, interrupt: bool) -> Step {
        let state = &mut *self.state;
        state.phase = Phase::DataOut;
        state.status = status::DRDY | status::DSC | status::DRQ;
        state.buffer.clear();
        state.buffer.resize(len.min(BUFFER_MAX), 0);
        (state.position, state.end) = (0, state.buffer.len() as u32);
        Step::Data { interrupt }
    }

    /// Data of the drive's own, as one block.
    pub(crate) fn reply(&mut self, data: Vec<u8>) -> Step {
        self.state.work = Work::Reply;
        self.state.buffer = data;
        self.state.position = 0;
        let len = self.state.buffer.len();
        self.offer(len, true)
    }

    // ---- Requests ----

    /// The disk is to do something: the drive is busy.
    pub(crate) fn request(&mut self, operation: DiskOperation) -> Step {
        self.state.phase = Phase::Disk;
        self.state.status = status::BSY | status::DRDY | status::DSC;
        self.host.token = self.host.token.wrapping_add(1);
        self.host.in_flight = true;
        Step::Disk(operation)
    }

    /// A request has ended. Results that nobody waits for any more only end a reset.
    pub fn disk_done(&mut self, token: u64, result: Result<(), DiskError>, is_reset_held: bool) -> Step {
        if token != self.host.token || !self.host.in_flight {
            return Step::None;
        }
        self.host.in_flight = false;
        if self.state.phase == Phase::Reset {
            if !is_reset_held {
                self.soft_reset();
            }
            return Step::None;
        }
        if self.state.phase != Phase::Disk {
            return Step::None;
        }
        self.request_done(result)
    }

    /// The state was replaced: what was under way begins again where that is right.
    pub fn restored(&mut self) -> Step {
        let host = &mut *self.host;
        (host.memory, host.bounce, host.in_flight) = (None, None, false);
        host.token = host.token.wrapping_add(1);
        host.properties = host.disk.properties();
        let state = &mut *self.state;
        let len = state.buffer.len() as u32;
        state.end = state.end.min(len);
        state.position = state.position.min(state.end);
        self.resume()
    }
}
