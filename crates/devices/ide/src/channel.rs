//! One channel of parallel ATA (ATA8-APT): two drives on a cable, the registers that select and drive them, the
//! interrupt, and the bus master that moves their data (SFF-8038i).
//!
//! Accesses to the data port are the hot path: a block lies in memory, and a read takes two or four bytes of it.

use std::sync::Arc;

use device::disk::{DiskError, DiskOperation, DiskRequest};
use device::{AccessSize, IrqLine};
use memory::{DmaAccess, DmaBuffer, DmaView};
use state::State;

use crate::drive::{Drive, DriveHost, DriveState, Step, status};
use crate::events::DriveEvents;

/// Bits of the device control register.
mod control {
    /// Interrupts are off.
    pub const NIEN: u8 = 0x02;
    pub const SRST: u8 = 0x04;
    /// Reads give the high order bytes.
    pub const HOB: u8 = 0x80;
}

/// Bits of the bus master's command and status registers.
mod bus_master {
    pub const START: u8 = 0x01;
    pub const TO_MEMORY: u8 = 0x08;
    pub const ACTIVE: u8 = 0x01;
    pub const ERROR: u8 = 0x02;
    pub const INTERRUPT: u8 = 0x04;
    /// The drives can do DMA, as firmware notes it.
    pub const CAPABLE: u8 = 0x60;
}

/// EXECUTE DEVICE DIAGNOSTIC.
const DIAGNOSTIC: u8 = 0x90;

/// The most bytes of a descriptor table (SFF-8038i, 1.1).
const TABLE_LEN: u64 = 0x1_0000;
const DESCRIPTOR_LEN: u64 = 8;
const END_OF_TABLE: u32 = 1 << 31;

/// The guest-visible state of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ide_bus", version = 1)]
pub struct ChannelState {
    pub(crate) drives: [DriveState; 2],
    /// The device register: bit 4 selects the drive.
    device: u8,
    control: u8,
    /// The selected drive wants an interrupt.
    interrupt: bool,
    bm_command: u8,
    bm_status: u8,
    table: u32,
    /// The bus master moves data for a drive: it has memory, or would have if it were on.
    moving: bool,
    /// The descriptors have more memory than the drive took.
    has_rest: bool,
    /// The bus master was stopped while it moved data.
    stopping: bool,
}

/// Takes the result of a request: unit, token, result.
pub type Completion = Arc<dyn Fn(usize, u64, Result<(), DiskError>) + Send + Sync>;

/// A drive on its cable.
struct Unit {
    host: DriveHost,
    /// The disk knows it weakly.
    _events: Arc<DriveEvents>,
}

/// What the host knows of a channel.
pub struct ChannelHost {
    units: [Option<Unit>; 2],
    irq: IrqLine,
    dma: DmaView,
    complete: Completion,
}

impl ChannelHost {
    /// A channel without drives.
    pub fn new(irq: IrqLine, dma: DmaView, complete: Completion) -> Self {
        Self { units: [None, None], irq, dma, complete }
    }

    /// Connects a drive.
    pub fn connect(&mut self, unit: usize, host: DriveHost, events: Arc<DriveEvents>) {
        if let Some(place) = self.units.get_mut(unit) {
            *place = Some(Unit { host, _events: events });
        }
    }
}

/// A channel while something happens.
pub struct Channel<'a> {
    /// What the host knows.
    pub host: &'a mut ChannelHost,
    /// What the guest sees.
    pub state: &'a mut ChannelState,
    /// The function may access memory.
    pub is_bus_master: bool,
}

impl Channel<'_> {
    /// The drive `unit`, if it is there.
    pub fn drive(&mut self, unit: usize) -> Option<Drive<'_>> {
        let host = &mut self.host.units.get_mut(unit)?.as_mut()?.host;
        Some(Drive { host, state: self.state.drives.get_mut(unit)? })
    }

    fn selected(&self) -> usize {
        usize::from(self.state.device >> 4 & 1)
    }

    fn is_empty(&self) -> bool {
        self.host.units.iter().all(Option::is_none)
    }

    fn each_drive(&mut self, mut visit: impl FnMut(&mut Drive<'_>)) {
        for unit in 0..2 {
            if let Some(mut drive) = self.drive(unit) {
                visit(&mut drive);
            }
        }
    }

    // ---- Lifecycle ----

    /// Power-on, or a reset of the bus.
    pub fn reset(&mut self) {
        let drives = std::mem::take(&mut self.state.drives);
        *self.state = ChannelState { drives, device: 0xa0, ..ChannelState::default() };
        for unit in 0..2 {
            match self.drive(unit) {
                Some(mut drive) => drive.hard_reset(),
                None => self.state.drives[unit] = DriveState::default(),
            }
        }
        self.update_irq();
    }

    /// The state was replaced.
    pub fn restored(&mut self) {
        let level = self.irq_level();
        self.host.irq.restore(level);
        // What was under way asks for its memory again.
        self.state.moving = false;
        for unit in 0..2 {
            if let Some(mut drive) = self.drive(unit) {
                let step = drive.restored();
                self.run(unit, step);
            }
        }
    }

    // ---- Interrupts ----

    fn irq_level(&self) -> bool {
        self.state.interrupt && self.state.control & control::NIEN == 0
    }

    fn update_irq(&mut self) {
        let level = self.irq_level();
        if level && !self.host.irq.level() {
            self.state.bm_status |= bus_master::INTERRUPT;
        }
        self.host.irq.set(level);
    }

    fn set_interrupt(&mut self, on: bool) {
        self.state.interrupt = on;
        self.update_irq();
    }

    // ---- What drives want ----

    fn run(&mut self, unit: usize, mut step: Step) {
        loop {
            step = match step {
                Step::None => return,
                Step::Interrupt => {
                    self.end_transfer();
                    return self.set_interrupt(true);
                }
                Step::Data { interrupt } => {
                    if interrupt {
                        self.set_interrupt(true);
                    }
                    return;
                }
                Step::Starved => {
                    self.state.has_rest = false;
                    return self.end_transfer();
                }
                Step::Dma { to_memory, len } => match self.start_transfer(unit, to_memory, len) {
                    Some(step) => step,
                    None => return,
                },
                Step::Disk(operation) => return self.submit(unit, operation),
            };
        }
    }

    fn submit(&mut self, unit: usize, operation: DiskOperation) {
        let complete = Arc::clone(&self.host.complete);
        let Some(drive) = self.drive(unit) else { return };
        let token = drive.host.token();
        let done = Box::new(move |result| complete(unit, token, result));
        drive.host.disk.submit(DiskRequest { operation, done });
    }

    /// A request of a drive has ended.
    pub fn complete(&mut self, unit: usize, token: u64, result: Result<(), DiskError>) {
        let is_reset_held = self.state.control & control::SRST != 0;
        if let Some(mut drive) = self.drive(unit) {
            let step = drive.disk_done(token, result, is_reset_held);
            self.run(unit, step);
        }
    }

    // ---- The bus master ----

    /// Begins to move data for a drive, if the bus master is active.
    fn start_transfer(&mut self, unit: usize, to_memory: bool, len: u64) -> Option<Step> {
        if self.state.bm_status & bus_master::ACTIVE == 0 || self.state.moving {
            return None;
        }
        let memory = self.gather(to_memory, len);
        self.state.moving = true;
        self.state.stopping = false;
        let mut drive = self.drive(unit)?;
        Some(match memory {
            Some((memory, has_rest)) => {
                let step = drive.dma(memory);
                self.state.has_rest = has_rest;
                step
            }
            None => {
                let step = drive.dma_failed();
                self.state.bm_status |= bus_master::ERROR;
                self.state.has_rest = false;
                step
            }
        })
    }

    /// The memory of the descriptor table, up to `len` bytes, and whether there is more. `None`: it is not all RAM.
    fn gather(&self, to_memory: bool, len: u64) -> Option<(DmaBuffer, bool)> {
        if !self.is_bus_master {
            // The bridge swallows everything: descriptors read as zeroes, and data goes nowhere.
            return Some((DmaBuffer::detached(usize::try_from(len).ok()?), true));
        }
        let map = self.host.dma.map();
        let access = if to_memory { DmaAccess::Write } else { DmaAccess::Read };
        let mut gather = map.gather(access);
        let mut left = len;
        let table = u64::from(self.state.table);
        for at in (table..table + TABLE_LEN).step_by(DESCRIPTOR_LEN as usize) {
            let mut bytes = [0; DESCRIPTOR_LEN as usize];
            map.read(at, &mut bytes).ok()?;
            let descriptor = u64::from_le_bytes(bytes);
            let (address, word) = (descriptor & 0xffff_ffff, (descriptor >> 32) as u32);
            let size = match u64::from(word & 0xfffe) {
                0 => 0x1_0000,
                size => size,
            };
            let part = size.min(left);
            gather.add(address, part).ok()?;
            left -= part;
            let is_last = word & END_OF_TABLE != 0;
            if left == 0 {
                return Some((gather.finish(), part < size || !is_last));
            }
            if is_last {
                break;
            }
        }
        Some((gather.finish(), false))
    }

    /// A drive's command has ended: the bus master is not active any more, unless it has memory left.
    fn end_transfer(&mut self) {
        let state = &mut *self.state;
        if std::mem::take(&mut state.moving) && (!state.has_rest || state.stopping) {
            state.bm_status &= !bus_master::ACTIVE;
        }
        state.stopping = false;
    }

    fn write_bm_command(&mut self, value: u8) {
        let was_started = self.state.bm_command & bus_master::START != 0;
        self.state.bm_command = value & (bus_master::START | bus_master::TO_MEMORY);
        match (was_started, value & bus_master::START != 0) {
            (false, true) => {
                self.state.bm_status |= bus_master::ACTIVE;
                for unit in 0..2 {
                    let again = self.drive(unit).filter(Drive::wants_memory).map(|mut drive| drive.memory_wanted());
                    if let Some(step) = again {
                        self.run(unit, step);
                    }
                }
            }
            // What the disk does already can't be stopped: the bus master stays active until it has ended.
            (true, false) if self.state.moving => self.state.stopping = true,
            (true, false) => self.state.bm_status &= !bus_master::ACTIVE,
            _ => {}
        }
    }

    /// A read of the bus master's registers: eight ports.
    pub fn read_bus_master(&self, offset: u64, size: AccessSize) -> u64 {
        match offset {
            4..=7 => u64::from(self.state.table) >> (8 * (offset - 4)) & size.mask(),
            // Registers of one byte are read by one byte.
            _ if size != AccessSize::Byte => size.mask(),
            0 => u64::from(self.state.bm_command),
            2 => u64::from(self.state.bm_status),
            _ => 0xff,
        }
    }

    /// A write of the bus master's registers.
    pub fn write_bus_master(&mut self, offset: u64, size: AccessSize, value: u64) {
        match offset {
            4..=7 => {
                let shift = 8 * (offset - 4);
                let mask = size.mask() << shift;
                self.state.table =
                    ((u64::from(self.state.table) & !mask | (value << shift) & mask) & 0xffff_fffc) as u32;
            }
            _ if size != AccessSize::Byte => {}
            0 => self.write_bm_command(value as u8),
            2 => {
                let (value, old) = (value as u8, self.state.bm_status);
                let clearable = bus_master::INTERRUPT | bus_master::ERROR;
                self.state.bm_status =
                    (value & bus_master::CAPABLE) | (old & bus_master::ACTIVE) | (old & !value & clearable);
            }
            _ => {}
        }
    }

    // ---- Command block ----

    /// A read of the command block: offset 0 is the data port.
    #[inline]
    pub fn read(&mut self, offset: u64, size: AccessSize) -> u64 {
        if offset == 0 && size != AccessSize::Byte {
            return u64::from(self.read_data(size));
        }
        (0..size.bytes() as u64).fold(0, |value, index| {
            let at = offset + index;
            let byte = if at == 0 { self.read_data(AccessSize::Byte) as u8 } else { self.read_register(at) };
            value | u64::from(byte) << (8 * index)
        })
    }

    /// A write of the command block: offset 0 is the data port.
    pub fn write(&mut self, offset: u64, size: AccessSize, value: u64) {
        if offset == 0 && size != AccessSize::Byte {
            return self.write_data(size, value as u32);
        }
        for index in 0..size.bytes() as u64 {
            let byte = (value >> (8 * index)) as u8;
            match offset + index {
                0 => self.write_data(AccessSize::Byte, u32::from(byte)),
                at => self.write_register(at, byte),
            }
        }
    }

    fn read_data(&mut self, size: AccessSize) -> u32 {
        let unit = self.selected();
        let Some(mut drive) = self.drive(unit) else { return 0 };
        let data = drive.data();
        if data.is_empty() {
            return 0;
        }
        let len = size.bytes().min(4).min(data.len());
        let value = data[..len].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let step = drive.moved(len as u32);
        if !matches!(step, Step::None) {
            self.run(unit, step);
        }
        value
    }

    fn write_data(&mut self, size: AccessSize, value: u32) {
        let unit = self.selected();
        let Some(mut drive) = self.drive(unit) else { return };
        let block = drive.data_mut();
        let len = size.bytes().min(4).min(block.len());
        if len == 0 {
            return;
        }
        block[..len].copy_from_slice(&value.to_le_bytes()[..len]);
        let step = drive.moved(len as u32);
        self.run(unit, step);
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        let device = self.state.device;
        let is_high = self.state.control & control::HOB != 0;
        let unit = self.selected();
        if self.is_empty() {
            return 0;
        }
        if offset == 7 {
            let status = self.drive(unit).map_or(0, |drive| drive.state.status);
            self.set_interrupt(false);
            return status;
        }
        let Some(drive) = self.drive(unit) else { return if offset == 6 { device } else { 0 } };
        let state = &*drive.state;
        let register = match offset {
            1 => return if is_high { state.feature.before } else { state.error },
            2 => state.count,
            3..=5 => state.lba[offset as usize - 3],
            _ => return state.device,
        };
        if is_high { register.before } else { register.now }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        // Any write of the command block ends reads of high order bytes.
        self.state.control &= !control::HOB;
        match offset {
            1 => self.each_drive(|drive| drive.state.feature.write(value)),
            2 => self.each_drive(|drive| drive.state.count.write(value)),
            3..=5 => self.each_drive(|drive| drive.state.lba[offset as usize - 3].write(value)),
            6 => {
                self.state.device = value | 0xa0;
                self.each_drive(|drive| drive.state.device = value | 0xa0);
            }
            7 => self.command(value),
            _ => {}
        }
    }

    fn command(&mut self, command: u8) {
        const IDLE: u8 = status::BSY | status::DRQ;
        let unit = self.selected();
        let Some(drive) = self.drive(unit) else { return };
        if drive.state.status & IDLE == 0 {
            self.set_interrupt(false);
        }
        if command == DIAGNOSTIC {
            return self.diagnostic(unit);
        }
        if let Some(mut drive) = self.drive(unit) {
            let step = drive.command(command);
            self.run(unit, step);
        }
    }

    /// EXECUTE DEVICE DIAGNOSTIC goes to both drives, and the first is selected afterwards.
    fn diagnostic(&mut self, unit: usize) {
        if self.drive(unit).is_none_or(|drive| drive.is_working()) {
            return;
        }
        let mut steps = [Step::None, Step::None];
        for (unit, step) in steps.iter_mut().enumerate() {
            if let Some(mut drive) = self.drive(unit) {
                *step = drive.command(DIAGNOSTIC);
            }
        }
        self.state.device = 0xa0;
        let [first, second] = steps;
        self.run(0, if self.host.units[0].is_some() { first } else { second });
    }

    /// A read of the alternate status: the interrupt stays.
    pub fn read_alternate_status(&mut self) -> u8 {
        if self.is_empty() {
            return 0;
        }
        let unit = self.selected();
        self.drive(unit).map_or(0, |drive| drive.state.status)
    }

    /// A write of the device control register.
    pub fn write_control(&mut self, value: u8) {
        let was_reset = self.state.control & control::SRST != 0;
        let is_reset = value & control::SRST != 0;
        self.state.control = value;
        if !was_reset && is_reset {
            self.state.interrupt = false;
            self.each_drive(|drive| drive.begin_soft_reset());
            self.end_transfer();
        }
        if was_reset && !is_reset {
            self.state.device = 0xa0;
            self.each_drive(|drive| {
                drive.state.device = 0xa0;
                drive.end_soft_reset();
            });
        }
        self.update_irq();
    }
}
