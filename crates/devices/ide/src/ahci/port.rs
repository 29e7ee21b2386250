//! A port: its registers (AHCI, 3.3), the command list, FISes, and the drive behind it.
//!
//! A command that is not queued occupies the drive until it ends; queued ones (READ and WRITE FPDMA QUEUED) go to the
//! disk all at once and end in any order. Each end is told by a device-to-host FIS. A command that failed keeps its slot,
//! and no other one is started before the host has stopped the list (6.2.2.1).

use std::sync::Arc;

use device::disk::{DiskError, DiskOperation, DiskRequest};
use memory::{DmaAccess, DmaBuffer, DmaView};
use state::State;

use super::Completion;
use crate::atapi::PACKET_LEN;
use crate::drive::{ABRT, Drive, DriveHost, DriveKind, DriveState, Register, SECTOR, Step, status};
use crate::events::DriveEvents;

/// Bits of the command register.
mod cmd {
    pub const START: u32 = 1;
    pub const CLEAR_BUSY: u32 = 1 << 3;
    pub const RECEIVE: u32 = 1 << 4;
    pub const RECEIVE_RUNS: u32 = 1 << 14;
    pub const LIST_RUNS: u32 = 1 << 15;
    pub const ATAPI: u32 = 1 << 24;
    /// What the host can't write.
    pub const READ_ONLY: u32 = 0x007d_ffe0;
    /// Interface communication control, which returns to zero.
    pub const COMMUNICATION: u32 = 0xf000_0000;
    /// Spun up and powered on, for ever.
    pub const ALWAYS: u32 = 0x06;
}

/// Bits of the interrupt status register.
mod interrupt {
    pub const DEVICE_TO_HOST: u32 = 1;
    pub const PIO_SETUP: u32 = 1 << 1;
    pub const SET_DEVICE_BITS: u32 = 1 << 3;
    pub const CONNECT: u32 = 1 << 6;
    pub const OVERFLOW: u32 = 1 << 24;
    pub const HOST_BUS: u32 = 1 << 29;
    pub const TASK_FILE: u32 = 1 << 30;
}

/// SError: the device's presence has changed.
const EXCHANGED: u32 = 1 << 26;
/// SStatus: present, 1.5 Gb/s, active.
const PRESENT: u32 = 0x113;
/// Bytes of a command header and of a descriptor.
const HEADER_LEN: u64 = 32;
const DESCRIPTOR_LEN: u64 = 16;
/// Offsets in a command table.
const PACKET_AT: u64 = 0x40;
const DESCRIPTORS_AT: u64 = 0x80;
const NO_SLOT: u8 = 0xff;

/// The guest-visible state of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ahci port", version = 1)]
pub struct PortState {
    list: u64,
    receive: u64,
    interrupts: u32,
    interrupt_mask: u32,
    command: u32,
    signature: u32,
    control: u32,
    errors: u32,
    active: u32,
    issued: u32,
    /// The drive has told its signature.
    is_ready: bool,
    /// The slot of the command that occupies the drive.
    slot: u8,
    /// Bytes that blocks of this command have moved.
    moved: u32,
    /// Queued commands at the disk, by tag.
    queued: u32,
    /// A software reset is held.
    in_reset: bool,
    /// A command has failed: the list waits to be stopped.
    has_failed: bool,
    /// Something has become pending that no message has told of.
    news: bool,
    pub(super) drive: DriveState,
}

impl PortState {
    pub fn wants_interrupt(&self) -> bool {
        self.interrupts & self.interrupt_mask != 0
    }

    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news) && self.wants_interrupt()
    }
}

/// Whose request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// The drive's, with its token.
    Drive(u64),
    /// That of a queued command: tag, and the port's generation.
    Queued(u32, u64),
}

struct Unit {
    host: DriveHost,
    _events: Arc<DriveEvents>,
}

/// What the host knows of a port.
pub struct PortHost {
    unit: Option<Unit>,
    dma: DmaView,
    complete: Completion,
    /// Raised when queued commands are given up.
    generation: u64,
    /// Guest memory of queued reads, by tag.
    memory: [Option<DmaBuffer>; 32],
}

impl PortHost {
    /// A port without a drive.
    pub fn new(dma: DmaView, complete: Completion) -> Self {
        Self { unit: None, dma, complete, generation: 0, memory: std::array::from_fn(|_| None) }
    }

    /// Connects the drive.
    pub fn connect(&mut self, host: DriveHost, events: Arc<DriveEvents>) {
        self.unit = Some(Unit { host, _events: events });
    }
}

/// A command header.
struct Header {
    descriptors: u32,
    table: u64,
    is_write: bool,
}

/// A port while something happens.
pub struct Port<'a> {
    /// What the host knows.
    pub host: &'a mut PortHost,
    /// What the guest sees.
    pub state: &'a mut PortState,
    /// The function may access memory.
    pub is_bus_master: bool,
}

impl Port<'_> {
    /// The drive, if there is one.
    pub fn drive(&mut self) -> Option<Drive<'_>> {
        let host = &mut self.host.unit.as_mut()?.host;
        Some(Drive { host, state: &mut self.state.drive })
    }

    fn kind(&self) -> Option<DriveKind> {
        self.host.unit.as_ref().map(|unit| unit.host.kind())
    }

    // ---- Lifecycle ----

    /// Power-on, or a reset of the adapter.
    pub fn reset(&mut self) {
        let drive = std::mem::take(&mut self.state.drive);
        *self.state =
            PortState { command: cmd::ALWAYS, signature: u32::MAX, slot: NO_SLOT, drive, ..PortState::default() };
        self.reset_link();
    }

    /// What a reset of the link leads to: the drive starts again, and tells its signature when it is listened to.
    fn reset_link(&mut self) {
        self.drop_queued();
        (self.state.is_ready, self.state.slot, self.state.in_reset) = (false, NO_SLOT, false);
        self.state.has_failed = false;
        self.state.signature = u32::MAX;
        match self.drive() {
            Some(mut drive) => drive.hard_reset(),
            None => self.state.drive = DriveState::default(),
        }
        self.tell_signature();
    }

    fn drop_queued(&mut self) {
        self.host.generation = self.host.generation.wrapping_add(1);
        self.host.memory = std::array::from_fn(|_| None);
        (self.state.queued, self.state.active, self.state.issued) = (0, 0, 0);
    }

    /// The state was replaced: commands begin again.
    pub fn restored(&mut self) {
        self.host.generation = self.host.generation.wrapping_add(1);
        self.host.memory = std::array::from_fn(|_| None);
        if let Some(mut drive) = self.drive() {
            let step = drive.restored();
            if self.state.slot == NO_SLOT {
                // A request without a slot was given up; its result would have counted for nothing.
                if !matches!(step, Step::None)
                    && let Some(mut drive) = self.drive()
                {
                    drive.hard_reset();
                }
            } else {
                self.run(step);
            }
        }
        let queued = std::mem::take(&mut self.state.queued);
        for slot in (0..32).filter(|slot| queued & (1 << slot) != 0) {
            self.state.issued |= 1 << slot;
        }
        self.process();
    }

    // ---- Registers ----

    pub fn read(&mut self, offset: u64) -> u32 {
        let state = &*self.state;
        match offset {
            0x00 => state.list as u32,
            0x04 => (state.list >> 32) as u32,
            0x08 => state.receive as u32,
            0x0c => (state.receive >> 32) as u32,
            0x10 => state.interrupts,
            0x14 => state.interrupt_mask,
            0x18 if state.slot != NO_SLOT => state.command | u32::from(state.slot & 0x1f) << 8,
            0x18 => state.command,
            0x20 if !state.is_ready => 0x7f,
            0x20 => u32::from(state.drive.error) << 8 | u32::from(state.drive.status),
            0x24 => state.signature,
            0x28 if self.kind().is_some() => PRESENT,
            0x2c => state.control,
            0x30 => state.errors,
            0x34 => state.active,
            0x38 => state.issued,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        let state = &mut *self.state;
        let low = |old: u64, mask: u32| (old & !0xffff_ffff) | u64::from(value & mask);
        let high = |old: u64| (old & 0xffff_ffff) | u64::from(value) << 32;
        match offset {
            0x00 => state.list = low(state.list, 0xffff_fc00),
            0x04 => state.list = high(state.list),
            0x08 => state.receive = low(state.receive, 0xffff_ff00),
            0x0c => state.receive = high(state.receive),
            0x10 => state.interrupts &= !value,
            0x14 => state.interrupt_mask = value & 0xfdc0_00ff,
            0x18 => self.write_command(value),
            0x2c => self.write_control(value),
            0x30 => {
                state.errors &= !value;
                if value & EXCHANGED != 0 {
                    state.interrupts &= !interrupt::CONNECT;
                }
            }
            0x34 => state.active |= value,
            0x38 => {
                state.issued |= value;
                self.process();
            }
            _ => {}
        }
    }

    fn write_command(&mut self, value: u32) {
        let old = self.state.command;
        let kept = old & cmd::READ_ONLY;
        let mut new = (value & !(cmd::READ_ONLY | cmd::COMMUNICATION | cmd::CLEAR_BUSY)) | kept | cmd::ALWAYS;
        new &= !(cmd::RECEIVE_RUNS | cmd::LIST_RUNS);
        if new & cmd::RECEIVE != 0 {
            new |= cmd::RECEIVE_RUNS;
        }
        if new & cmd::START != 0 {
            new |= cmd::LIST_RUNS;
        }
        self.state.command = new;
        if old & cmd::START != 0 && new & cmd::START == 0 {
            // The list is given up; what the disk does already is not waited for.
            self.drop_queued();
            (self.state.slot, self.state.has_failed) = (NO_SLOT, false);
        }
        if value & cmd::CLEAR_BUSY != 0 {
            self.state.drive.status &= !(status::BSY | status::DRQ);
        }
        self.tell_signature();
        self.process();
    }

    fn write_control(&mut self, value: u32) {
        const INITIALIZE: u32 = 1;
        let was_reset = self.state.control & 0x0f == INITIALIZE;
        self.state.control = value;
        if was_reset && value & 0x0f == 0 {
            self.reset_link();
            if self.kind().is_some() {
                self.state.errors |= EXCHANGED;
                self.raise(interrupt::CONNECT);
            }
        }
    }

    /// The first FIS of a drive, as soon as somebody listens.
    fn tell_signature(&mut self) {
        if self.state.is_ready || self.state.command & cmd::RECEIVE == 0 || self.kind().is_none() {
            return;
        }
        self.state.is_ready = true;
        self.take_signature();
        self.send_end();
    }

    fn take_signature(&mut self) {
        let [low, mid, high] = self.state.drive.lba.map(|register| u32::from(register.now));
        self.state.signature = high << 24 | mid << 16 | low << 8 | u32::from(self.state.drive.count.now);
        if self.kind() == Some(DriveKind::Cd) {
            self.state.command |= cmd::ATAPI;
        }
    }

    // ---- FISes and interrupts ----

    fn raise(&mut self, bits: u32) {
        self.state.interrupts |= bits;
        self.state.news = true;
    }

    fn send(&mut self, offset: u64, fis: &[u8]) {
        if self.state.command & cmd::RECEIVE == 0 {
            return;
        }
        if self.host.dma.map().write(self.state.receive.wrapping_add(offset), fis).is_err() {
            self.raise(interrupt::HOST_BUS);
        }
    }

    fn task_file(&self, kind: u8, flags: u8) -> [u8; 20] {
        let drive = &self.state.drive;
        let [low, mid, high] = drive.lba;
        let mut fis = [0; 20];
        fis[..14].copy_from_slice(&[
            kind,
            flags,
            drive.status,
            drive.error,
            low.now,
            mid.now,
            high.now,
            drive.device,
            low.before,
            mid.before,
            high.before,
            0,
            drive.count.now,
            drive.count.before,
        ]);
        fis
    }

    /// The register FIS that ends a command.
    fn send_end(&mut self) {
        let fis = self.task_file(0x34, 0x40);
        self.send(0x40, &fis);
        let is_error = self.state.drive.status & status::ERR != 0;
        self.raise(interrupt::DEVICE_TO_HOST | if is_error { interrupt::TASK_FILE } else { 0 });
    }

    /// The FIS before a data block.
    fn send_pio_setup(&mut self, len: u32, is_in: bool, interrupts: bool) {
        let flags = if is_in { 0x20 } else { 0 } | if interrupts { 0x40 } else { 0 };
        let mut fis = self.task_file(0x5f, flags);
        fis[15] = self.state.drive.status & !status::DRQ;
        fis[16..18].copy_from_slice(&(len as u16).to_le_bytes());
        self.send(0x20, &fis);
        if interrupts {
            self.raise(interrupt::PIO_SETUP);
        }
    }

    // ---- Commands ----

    fn header(&self, slot: u32) -> Option<Header> {
        if !self.is_bus_master {
            return None;
        }
        let mut bytes = [0; 16];
        self.host.dma.map().read(self.state.list.wrapping_add(u64::from(slot) * HEADER_LEN), &mut bytes).ok()?;
        let word = u128::from_le_bytes(bytes);
        Some(Header {
            descriptors: (word >> 16) as u32 & 0xffff,
            table: (word >> 64) as u64 & !0x7f,
            is_write: word & 0x40 != 0,
        })
    }

    /// Starts what was issued, the lowest slot first.
    fn process(&mut self) {
        while self.state.command & cmd::START != 0 && self.state.slot == NO_SLOT && !self.state.has_failed {
            let waiting = self.state.issued & !self.state.queued;
            let is_busy = self.drive().is_none_or(|drive| drive.is_working() && !drive.is_reset_held());
            if waiting == 0 || is_busy || !self.state.is_ready {
                return;
            }
            let slot = waiting.trailing_zeros();
            if !self.start(slot) {
                // There is no command to be had where the registers point to.
                self.state.issued &= !(1 << slot);
                self.raise(interrupt::HOST_BUS);
            }
        }
    }

    fn start(&mut self, slot: u32) -> bool {
        let Some(header) = self.header(slot) else { return false };
        let mut fis = [0; 20];
        if self.host.dma.map().read(header.table, &mut fis).is_err() || fis[0] != 0x27 {
            return false;
        }
        if fis[1] & 0x80 == 0 {
            self.control_fis(slot, fis[15]);
            return true;
        }
        let registers = |now: usize, before: usize| Register { now: fis[now], before: fis[before] };
        let drive = &mut self.state.drive;
        drive.feature = registers(3, 11);
        drive.count = registers(12, 13);
        drive.lba = [registers(4, 8), registers(5, 9), registers(6, 10)];
        drive.device = fis[7];
        let command = fis[2];
        if matches!(command, 0x60 | 0x61) && self.kind() == Some(DriveKind::Disk) {
            self.queue(slot, &header, command == 0x61);
            return true;
        }
        self.state.slot = slot as u8;
        self.state.moved = 0;
        if let Some(mut drive) = self.drive() {
            let step = drive.command(command);
            self.run(step);
        }
        true
    }

    /// The device control register: software reset.
    fn control_fis(&mut self, slot: u32, control: u8) {
        const SRST: u8 = 4;
        self.state.issued &= !(1 << slot);
        let is_reset = control & SRST != 0;
        let was_reset = std::mem::replace(&mut self.state.in_reset, is_reset);
        let Some(mut drive) = self.drive() else { return };
        if is_reset && !was_reset {
            drive.begin_soft_reset();
        } else if was_reset && !is_reset {
            drive.end_soft_reset();
            self.reset_ended();
        }
    }

    fn reset_ended(&mut self) {
        if self.drive().is_some_and(|drive| !drive.is_working()) {
            self.take_signature();
            self.send_end();
        }
    }

    fn run(&mut self, mut step: Step) {
        loop {
            step = match step {
                Step::None | Step::Interrupt => return self.end(0),
                Step::Starved => return self.end(interrupt::OVERFLOW),
                Step::Data { .. } => match self.move_block() {
                    Some(step) => step,
                    None => return self.fail_memory(),
                },
                Step::Dma { to_memory, len } => match self.gather(u32::from(self.state.slot), to_memory, 0, len) {
                    Some(memory) => {
                        let Some(mut drive) = self.drive() else { return };
                        drive.dma(memory)
                    }
                    None => return self.fail_memory(),
                },
                Step::Disk(operation) => return self.submit_for_drive(operation),
            };
        }
    }

    /// A command has ended, well or not.
    fn end(&mut self, bits: u32) {
        let slot = std::mem::replace(&mut self.state.slot, NO_SLOT);
        if slot == NO_SLOT {
            return;
        }
        let transferred = self.drive().map_or(0, |drive| drive.transferred()).max(self.state.moved);
        // The byte count of the header.
        let at = self.state.list.wrapping_add(u64::from(slot) * HEADER_LEN + 4);
        if self.host.dma.map().write(at, &transferred.to_le_bytes()).is_err() {
            self.raise(interrupt::HOST_BUS);
        }
        if self.state.drive.status & status::ERR != 0 {
            self.state.has_failed = true;
        } else {
            self.state.issued &= !1u32.checked_shl(u32::from(slot)).unwrap_or(0);
        }
        self.raise(bits);
        self.send_end();
    }

    /// A command's memory is none: it is aborted.
    fn fail_memory(&mut self) {
        if let Some(mut drive) = self.drive() {
            drive.give_up();
        }
        self.end(interrupt::HOST_BUS);
    }

    // ---- Data ----

    /// Memory of a command's descriptors, from `skip` on, up to `len` bytes.
    fn gather(&mut self, slot: u32, to_memory: bool, skip: u64, len: u64) -> Option<DmaBuffer> {
        let header = self.header(slot)?;
        let map = self.host.dma.map();
        let access = if to_memory { DmaAccess::Write } else { DmaAccess::Read };
        let mut gather = map.gather(access);
        let (mut skip, mut left) = (skip, len);
        for index in 0..u64::from(header.descriptors) {
            if left == 0 {
                break;
            }
            let mut bytes = [0; DESCRIPTOR_LEN as usize];
            map.read(header.table.checked_add(DESCRIPTORS_AT + index * DESCRIPTOR_LEN)?, &mut bytes).ok()?;
            let word = u128::from_le_bytes(bytes);
            let (address, size) = (word as u64 & !1, u64::from((word >> 96) as u32 & 0x003f_ffff) + 1);
            let before = skip.min(size);
            skip -= before;
            let part = (size - before).min(left);
            if part > 0 {
                gather.add(address.checked_add(before)?, part).ok()?;
            }
            left -= part;
        }
        // QEMU's controller does not look at the descriptors' wish for an interrupt, and its tests rely on that.
        Some(gather.finish())
    }

    /// Moves the drive's block, and says what follows.
    fn move_block(&mut self) -> Option<Step> {
        let slot = u32::from(self.state.slot);
        let (is_packet, is_out) = self.drive().map(|drive| (drive.wants_packet(), drive.is_data_out()))?;
        if is_packet {
            let table = self.header(slot)?.table;
            let mut packet = [0; PACKET_LEN];
            self.host.dma.map().read(table.checked_add(PACKET_AT)?, &mut packet).ok()?;
            self.send_pio_setup(PACKET_LEN as u32, false, false);
            let mut drive = self.drive()?;
            drive.data_mut().iter_mut().zip(packet).for_each(|(to, from)| *to = from);
            return Some(drive.moved(PACKET_LEN as u32));
        }
        let len = self.drive().map(|mut drive| drive.data().len().max(drive.data_mut().len()))?;
        // Host to device, the interrupt comes with the blocks after the first (the packet of ATAPI is one).
        let is_first = self.state.moved == 0 && self.kind() == Some(DriveKind::Disk);
        self.send_pio_setup(len as u32, !is_out, !(is_out && is_first));
        let skip = u64::from(self.state.moved);
        let memory = self.gather(slot, !is_out, skip, len as u64)?;
        self.state.moved = self.state.moved.saturating_add(memory.len() as u32);
        let mut drive = self.drive()?;
        if is_out {
            memory.io().read_at(0, &mut drive.data_mut()[..memory.len()]);
        } else {
            memory.write_at(0, &drive.data()[..memory.len()]);
        }
        // A block that found less memory is over all the same.
        match drive.moved(len as u32) {
            // The last block of a read: the command has ended.
            Step::None => Some(Step::Interrupt),
            step => Some(step),
        }
    }

    fn submit_for_drive(&mut self, operation: DiskOperation) {
        let complete = Arc::clone(&self.host.complete);
        let Some(drive) = self.drive() else { return };
        let ticket = Ticket::Drive(drive.host.token());
        let done = Box::new(move |result| complete(ticket, result));
        drive.host.disk.submit(DiskRequest { operation, done });
    }

    /// A request has ended.
    pub fn complete(&mut self, ticket: Ticket, result: Result<(), DiskError>) {
        match ticket {
            Ticket::Queued(tag, generation) if generation == self.host.generation => self.queued_done(tag, result),
            Ticket::Queued(..) => {}
            Ticket::Drive(token) => {
                let is_reset_held = self.state.in_reset;
                let Some(mut drive) = self.drive() else { return };
                let was_reset = drive.is_reset_held();
                let step = drive.disk_done(token, result, is_reset_held);
                if was_reset {
                    self.reset_ended();
                } else if self.state.slot == NO_SLOT {
                    // The list was given up: so is the command.
                    if let Some(mut drive) = self.drive()
                        && drive.is_working()
                    {
                        drive.give_up();
                    }
                } else if !matches!(step, Step::None) {
                    self.run(step);
                }
            }
        }
        self.process();
    }

    // ---- Native command queuing ----

    fn queue(&mut self, slot: u32, header: &Header, is_write: bool) {
        let drive = &self.state.drive;
        let word = |registers: [u8; 3]| u64::from(u32::from_le_bytes([registers[0], registers[1], registers[2], 0]));
        let sector =
            word(drive.lba.map(|register| register.before)) << 24 | word(drive.lba.map(|register| register.now));
        let count = u64::from(drive.feature.before) << 8 | u64::from(drive.feature.now);
        let count = if count == 0 { 0x1_0000 } else { count };
        let (tag, fua) = (u32::from(drive.count.now >> 3), drive.device & 0x80 != 0);
        self.state.issued &= !(1 << slot);
        if tag != slot || header.is_write != is_write {
            return self.queued_failed();
        }
        let len = count * SECTOR as u64;
        if !self.drive().is_some_and(|drive| drive.has_sectors(sector, count)) {
            return self.queued_failed();
        }
        let memory = self.gather(slot, !is_write, 0, len).filter(|memory| memory.len() as u64 == len);
        let Some(memory) = memory else {
            self.raise(interrupt::OVERFLOW);
            return self.queued_failed();
        };
        let offset = sector * SECTOR as u64;
        let buf = memory.io().clone();
        let operation =
            if is_write { DiskOperation::Write { offset, buf, fua } } else { DiskOperation::Read { offset, buf } };
        self.state.queued |= 1 << slot;
        if !is_write && let Some(place) = self.host.memory.get_mut(slot as usize) {
            *place = Some(memory);
        }
        if let DiskOperation::Read { offset, buf } = &operation
            && self.drive().is_some_and(|drive| drive.host.disk.read_at_once(*offset, buf))
        {
            // A driver notes that it has issued a command before it does so: it may end at once.
            return self.queued_done(slot, Ok(()));
        }
        let complete = Arc::clone(&self.host.complete);
        let ticket = Ticket::Queued(slot, self.host.generation);
        let done = Box::new(move |result| complete(ticket, result));
        if let Some(drive) = self.drive() {
            drive.host.disk.submit(DiskRequest { operation, done });
        }
    }

    fn queued_done(&mut self, tag: u32, result: Result<(), DiskError>) {
        let bit = 1u32.checked_shl(tag).unwrap_or(0);
        if self.state.queued & bit == 0 {
            return;
        }
        self.state.queued &= !bit;
        if let Some(memory) = self.host.memory.get_mut(tag as usize).and_then(Option::take) {
            memory.stored(0, memory.len());
        }
        if result.is_err() {
            return self.queued_failed();
        }
        self.set_device_bits(bit, status::DRDY, 0);
    }

    /// A queued command has failed: it stays active, as the standard has it, until the host has recovered.
    fn queued_failed(&mut self) {
        self.set_device_bits(0, status::DRDY | status::ERR, ABRT);
        self.raise(interrupt::TASK_FILE);
    }

    /// The FIS that ends queued commands.
    fn set_device_bits(&mut self, ended: u32, status: u8, error: u8) {
        (self.state.drive.status, self.state.drive.error) = (status, error);
        self.state.active &= !ended;
        let [a, b, c, d] = ended.to_le_bytes();
        self.send(0x58, &[0xa1, 0x40, status & 0x77, error, a, b, c, d]);
        self.raise(interrupt::SET_DEVICE_BITS);
    }
}
