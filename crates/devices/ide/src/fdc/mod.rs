//! The floppy disk controller of a PC (Intel 82077AA, data sheet 290166), with two drives and DMA.
//!
//! Commands are in [`mod@command`], how data moves in [`mod@transfer`], media in [`geometry`]. Mechanics take no time:
//! a seek is at its end when it begins. What a command transfers goes to or from the disk as a whole, and between the
//! controller and memory at once. Seeks are implied whatever CONFIGURE says.
//!
//! Left out: SCAN, deleted data (such sectors don't exist in images), tape drives, formats with sectors that are not of
//! 512 bytes.

mod command;
pub mod geometry;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::{Arc, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskProperties, Removable};
use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use memory::DmaView;
use state::State;

use self::geometry::{DriveType, Format};

/// Region 0: five ports from 0x3f1, for status registers, output, tape, main status and data.
pub const REGION_REGISTERS: usize = 0;
/// Region 1: one port, 0x3f7: digital input and data rate.
pub const REGION_INPUT: usize = 1;

/// Drives of a controller.
pub const DRIVES: usize = 2;

/// The digital output register.
mod dor {
    pub const SELECT: u8 = 0x03;
    pub const NOT_RESET: u8 = 0x04;
    pub const DMA: u8 = 0x08;
}

/// The main status register.
mod msr {
    pub const BUSY: u8 = 0x10;
    pub const NON_DMA: u8 = 0x20;
    pub const TO_HOST: u8 = 0x40;
    pub const REQUEST: u8 = 0x80;
}

/// The data rate select register.
mod dsr {
    pub const RATE: u8 = 0x03;
    pub const POWER_DOWN: u8 = 0x40;
    pub const RESET: u8 = 0x80;
}

/// Status register 0: bits of results.
mod st0 {
    pub const HEAD: u8 = 0x04;
    pub const SEEK_END: u8 = 0x20;
    pub const ABNORMAL: u8 = 0x40;
    pub const INVALID: u8 = 0x80;
    pub const POLLING: u8 = 0xc0;
}

/// The media changed line, in the digital input register.
const CHANGED: u8 = 0x80;

/// The transfer that a DMA channel is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaTransfer {
    /// Where in guest memory.
    pub address: u64,
    /// Bytes up to the terminal count.
    pub len: usize,
}

/// The DMA channel that the controller's requests go to.
pub trait DmaChannel: Send {
    /// What it is set up for; `None` while it is masked.
    fn transfer(&self) -> Option<DmaTransfer>;

    /// Bytes were moved.
    fn advance(&self, bytes: usize);
}

/// What the controller does. The number is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
enum Phase {
    /// A command is expected, or the rest of one.
    #[default]
    Command = 0,
    /// The disk works.
    Execution = 1,
    /// The host reads data.
    DataIn = 2,
    /// The host writes data.
    DataOut = 3,
    /// The host reads results.
    Result = 4,
}

/// The guest-visible state of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "fdrive", version = 1)]
struct DriveState {
    track: u8,
    head: u8,
    sector: u8,
    /// The medium was changed, and no step has told the drive of the new one.
    changed: bool,
    perpendicular: u8,
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "fdc", version = 1)]
struct FdcState {
    dor: u8,
    tdr: u8,
    dsr: u8,
    interrupt: bool,
    phase: Phase,
    /// Drive of the current command.
    selected: u8,
    st0: u8,
    /// SENSE INTERRUPT STATUS commands that a reset has left to be answered.
    #[state(max = 4)]
    polls: u8,
    /// The command, or the results.
    #[state(max_len = 32)]
    fifo: Vec<u8>,
    fifo_position: u8,
    /// The data of a transfer, and how far the host has moved it.
    #[state(max_len = 0x4_0000)]
    data: Vec<u8>,
    data_position: u32,
    /// Sectors of a transfer that are still to be written.
    sectors_written: u32,
    config: u8,
    precompensation: u8,
    lock: bool,
    timing: [u8; 2],
    power: u8,
    drives: [DriveState; DRIVES],
}

/// A drive's host side.
struct Unit {
    /// The format of the last medium that it has had: how far its head moves.
    seen: Option<Format>,
    disk: Arc<dyn Disk>,
    properties: DiskProperties,
    drive_type: DriveType,
    format: Format,
    _events: Arc<Events>,
}

/// The controller.
pub struct Fdc {
    // Wiring and host resources.
    irq: IrqLine,
    dma: Box<dyn DmaChannel>,
    memory: DmaView,
    handle: Handle<Self>,
    units: [Option<Unit>; DRIVES],
    /// Names the current request of a disk.
    token: u64,
    bounce: Option<iobuf::IoBuf>,
    // Guest-visible state.
    state: FdcState,
}

/// The way from a disk to its drive.
struct Events {
    handle: Handle<Fdc>,
    unit: usize,
}

impl DiskObserver for Events {
    fn changed(&self) {
        self.handle.with(|fdc| fdc.disk_changed(self.unit));
    }
}

impl Removable for Events {
    fn has_tray(&self) -> bool {
        false
    }

    fn is_tray_open(&self) -> bool {
        false
    }

    fn is_locked(&self) -> bool {
        false
    }

    fn eject_request(&self, _force: bool) {}

    fn medium_changed(&self, _loaded: bool) {
        self.handle.with(|fdc| {
            fdc.disk_changed(self.unit);
            if let Some(drive) = fdc.state.drives.get_mut(self.unit) {
                drive.changed = true;
            }
        });
    }
}

impl Fdc {
    /// A controller without drives.
    pub fn new(irq: IrqLine, dma: Box<dyn DmaChannel>, memory: DmaView) -> DeviceCell<Self> {
        DeviceCell::new_cyclic(|handle| {
            let mut fdc = Self {
                irq,
                dma,
                memory,
                handle: handle.clone(),
                units: [None, None],
                token: 0,
                bounce: None,
                state: FdcState::default(),
            };
            fdc.power_on();
            fdc
        })
    }

    /// Connects a drive. Without a type it becomes one that fits its medium, or 2.88 MB if it has none.
    pub fn connect(&mut self, unit: usize, drive_type: Option<DriveType>, disk: Arc<dyn Disk>) {
        let events = Arc::new(Events { handle: self.handle.clone(), unit });
        let observer: Arc<dyn DiskObserver> = events.clone();
        let weak: Weak<dyn DiskObserver> = Arc::downgrade(&observer);
        disk.observe(weak);
        let removable: Arc<dyn Removable> = events.clone();
        let weak: Weak<dyn Removable> = Arc::downgrade(&removable);
        disk.set_removable(weak);
        let properties = disk.properties();
        let drive_type = drive_type.unwrap_or_else(|| {
            if properties.medium { Format::of(properties.size, None).drive } else { DriveType::D288 }
        });
        let format = Format::of(properties.size, Some(drive_type));
        if let Some(place) = self.units.get_mut(unit) {
            *place = Some(Unit {
                disk,
                seen: properties.medium.then_some(format),
                properties,
                drive_type,
                format,
                _events: events,
            });
        }
        self.power_on();
    }

    /// The type of a drive, if it is there.
    pub fn drive_type(&self, unit: usize) -> Option<DriveType> {
        self.units.get(unit)?.as_ref().map(|unit| unit.drive_type)
    }

    fn disk_changed(&mut self, unit: usize) {
        if let Some(unit) = self.units.get_mut(unit).and_then(Option::as_mut) {
            unit.properties = unit.disk.properties();
            unit.format = Format::of(unit.properties.size, Some(unit.drive_type));
            if unit.properties.medium {
                unit.seen = Some(unit.format);
            }
        }
    }

    // ---- Resets ----

    fn power_on(&mut self) {
        self.state = FdcState { dor: dor::NOT_RESET | dor::DMA, config: 0x20, ..FdcState::default() };
        for unit in 0..DRIVES {
            self.disk_changed(unit);
            self.state.drives[unit] = DriveState { sector: 1, changed: true, ..DriveState::default() };
        }
        self.forget();
        self.irq.set(false);
    }

    /// What the disk does for a command that is over does not count.
    fn forget(&mut self) {
        self.token = self.token.wrapping_add(1);
        self.bounce = None;
    }

    /// The host's reset: the drives are polled, which is an interrupt with four answers.
    fn soft_reset(&mut self) {
        self.forget();
        let state = &mut self.state;
        if !state.lock {
            (state.config, state.precompensation) = (0x20, 0);
        }
        for drive in &mut state.drives {
            (drive.track, drive.head, drive.sector) = (0, 0, 1);
        }
        state.selected = 0;
        self.enter_command_phase();
        self.state.st0 = st0::POLLING;
        self.raise();
        self.state.polls = 4;
    }

    fn enter_command_phase(&mut self) {
        let state = &mut self.state;
        state.phase = Phase::Command;
        state.fifo.clear();
        state.fifo_position = 0;
        state.data.clear();
        state.data_position = 0;
    }

    fn enter_result_phase(&mut self, results: &[u8]) {
        self.state.phase = Phase::Result;
        self.state.fifo = results.to_vec();
        self.state.fifo_position = 0;
    }

    // ---- Interrupts ----

    fn raise(&mut self) {
        self.state.interrupt = true;
        self.state.polls = 0;
        self.update_irq();
    }

    fn lower(&mut self) {
        self.state.interrupt = false;
        self.state.st0 = 0;
        self.update_irq();
    }

    fn irq_level(&self) -> bool {
        self.state.interrupt
    }

    fn update_irq(&mut self) {
        let level = self.irq_level();
        self.irq.set(level);
    }

    // ---- Registers ----

    fn is_in_reset(&self) -> bool {
        self.state.dor & dor::NOT_RESET == 0
    }

    fn uses_dma(&self) -> bool {
        self.state.dor & dor::DMA != 0
    }

    fn main_status(&self) -> u8 {
        if self.is_in_reset() {
            return 0;
        }
        match self.state.phase {
            Phase::Command if self.state.fifo.is_empty() => msr::REQUEST,
            Phase::Command => msr::REQUEST | msr::BUSY,
            Phase::Execution => msr::BUSY,
            Phase::DataIn => msr::REQUEST | msr::TO_HOST | msr::NON_DMA | msr::BUSY,
            Phase::DataOut => msr::REQUEST | msr::NON_DMA | msr::BUSY,
            Phase::Result => msr::REQUEST | msr::TO_HOST | msr::BUSY,
        }
    }

    /// Status register A: interrupt, second drive absent, head, track 0.
    fn status_a(&self) -> u8 {
        let pending = if self.state.interrupt { 0x80 } else { 0 };
        pending | if self.units[1].is_none() { 0x40 } else { 0 }
    }

    /// Status register B: motors and the selected drive.
    fn status_b(&self) -> u8 {
        0xc0 | (self.state.dor >> 4 & 3) | (self.state.dor & 1) << 5
    }

    fn read_register(&mut self, register: u64) -> u8 {
        match register {
            0 => self.status_a(),
            1 => self.status_b(),
            2 => self.state.dor,
            3 => self.state.tdr,
            4 => {
                self.state.dsr &= !dsr::POWER_DOWN;
                self.main_status()
            }
            5 => self.read_fifo(),
            _ => {
                let unit = usize::from(self.state.dor & dor::SELECT);
                let is_changed = self.state.drives.get(unit).is_none_or(|drive| drive.changed);
                if is_changed || !self.has_medium(unit) { CHANGED } else { 0 }
            }
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        match register {
            2 => {
                let was_reset = self.is_in_reset();
                self.state.dor = value;
                if was_reset && !self.is_in_reset() {
                    self.state.dsr &= !dsr::POWER_DOWN;
                    self.soft_reset();
                } else if !was_reset && self.is_in_reset() {
                    self.forget();
                    self.enter_command_phase();
                    self.lower();
                }
            }
            _ if self.is_in_reset() => {}
            3 => self.state.tdr = value & 0x04,
            4 => {
                self.state.dsr = value & !dsr::RESET;
                if value & (dsr::RESET | dsr::POWER_DOWN) != 0 {
                    self.soft_reset();
                }
            }
            5 => self.write_fifo(value),
            7 => self.state.dsr = (self.state.dsr & !dsr::RATE) | (value & dsr::RATE),
            _ => {}
        }
    }

    fn read_fifo(&mut self) -> u8 {
        if self.is_in_reset() {
            return 0;
        }
        match self.state.phase {
            Phase::Result => {
                let position = usize::from(self.state.fifo_position);
                let value = self.state.fifo.get(position).copied().unwrap_or(0);
                self.state.fifo_position = self.state.fifo_position.saturating_add(1);
                if position + 1 >= self.state.fifo.len() {
                    let is_transfer = self.state.fifo.len() == 7;
                    self.enter_command_phase();
                    if is_transfer {
                        self.lower();
                    }
                }
                value
            }
            Phase::DataIn => {
                let position = self.state.data_position as usize;
                let value = self.state.data.get(position).copied().unwrap_or(0);
                self.state.data_position = self.state.data_position.saturating_add(1);
                if position.saturating_add(1) >= self.state.data.len() {
                    self.transfer_ended();
                }
                value
            }
            _ => 0,
        }
    }

    fn write_fifo(&mut self, value: u8) {
        match self.state.phase {
            Phase::Command => {
                self.state.fifo.push(value);
                let wanted = command::length(&self.state.fifo);
                if self.state.fifo.len() >= wanted {
                    self.execute();
                }
            }
            Phase::DataOut => {
                let position = self.state.data_position as usize;
                if let Some(byte) = self.state.data.get_mut(position) {
                    *byte = value;
                }
                self.state.data_position = self.state.data_position.saturating_add(1);
                if position.saturating_add(1) >= self.state.data.len() {
                    self.data_arrived();
                }
            }
            _ => {}
        }
    }

    // ---- Drives ----

    fn has_medium(&self, unit: usize) -> bool {
        self.unit(unit).is_some_and(|unit| unit.properties.medium)
    }

    fn unit(&self, unit: usize) -> Option<&Unit> {
        self.units.get(unit)?.as_ref()
    }

    /// A request of a disk has ended.
    fn complete(&mut self, token: u64, result: Result<(), DiskError>) {
        if token == self.token && self.state.phase == Phase::Execution {
            self.request_done(result);
        }
    }
}

impl Device for Fdc {
    fn reset(&mut self, _kind: ResetKind) {
        self.power_on();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let level = self.irq_level();
        self.irq.restore(level);
        for unit in 0..DRIVES {
            self.disk_changed(unit);
        }
        self.forget();
        if self.state.phase == Phase::Execution {
            self.transfer_again();
        }
    }
}

impl IoDevice for Fdc {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        u64::from(self.read_register(if region == REGION_INPUT { 7 } else { offset + 1 }))
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        self.write_register(if region == REGION_INPUT { 7 } else { offset + 1 }, value as u8);
    }
}
