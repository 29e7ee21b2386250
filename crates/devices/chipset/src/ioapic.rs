//! The I/O APIC: an 82093AA with 24 inputs (Intel 290566-001), version 0x20 with an EOI register as QEMU has it.
//!
//! Left out: the APIC bus arbitration, and polarity (a line that drives an input is active or not). On the first one,
//! input 0 of the ISA interrupts is wired to input 2, as on every PC.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqSink, ResetKind};
use state::State;

use crate::lapic::{ApicBus, DeliveryMode, Destination, InterruptMessage, Trigger};

/// Where a PC has its first I/O APIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Where the second one is, on boards that have it.
pub const IOAPIC_SECOND_BASE: u64 = 0xfec1_0000;
/// The length of region 0.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The number of inputs.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20;

mod entry {
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
    pub const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
    pub const LOGICAL: u64 = 1 << 11;
}

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "ioapic", version = 1)]
struct IoApicState {
    id: u8,
    select: u8,
    /// The levels of the inputs.
    levels: u32,
    /// Requests: edges that were not sent yet, and the levels of level-triggered inputs.
    irr: u32,
    redirection: [u64; PINS],
}

impl Default for IoApicState {
    fn default() -> Self {
        Self { id: 0, select: 0, levels: 0, irr: 0, redirection: [entry::MASKED; PINS] }
    }
}

/// The I/O APIC.
pub struct IoApic {
    // Wiring.
    bus: Arc<ApicBus>,
    /// The first is 0.
    number: usize,
    // Guest-visible state.
    state: IoApicState,
}

/// What `info pic` shows.
pub struct IoApicInfo {
    /// Its identification.
    pub id: u8,
    /// The register that is selected.
    pub select: u8,
    /// Interrupts that wait.
    pub irr: u32,
    /// The redirection table.
    pub redirection: [u64; PINS],
}

impl IoApic {
    /// The registers for `info pic`.
    pub fn info(&self) -> IoApicInfo {
        let IoApicState { id, select, irr, redirection, .. } = &self.state;
        IoApicInfo { id: *id, select: *select, irr: *irr, redirection: *redirection }
    }

    /// An I/O APIC that sends its messages over `bus`, which tells it of ends of interrupts.
    pub fn new(bus: &Arc<ApicBus>) -> DeviceCell<Self> {
        Self::numbered(bus, 0)
    }

    /// The same for I/O APIC `number` of the board.
    pub fn numbered(bus: &Arc<ApicBus>, number: usize) -> DeviceCell<Self> {
        let ioapic = DeviceCell::new(Self { bus: Arc::clone(bus), number, state: IoApicState::default() });
        bus.connect_ioapic(ioapic.handle());
        ioapic
    }

    /// ISA interrupt 0 arrives at input 2.
    fn input(&self, pin: u32) -> usize {
        if pin == 0 && self.number == 0 { 2 } else { pin as usize }
    }

    /// Sets the level of input `pin`.
    pub fn set_level(&mut self, pin: u32, level: bool) {
        let pin = self.input(pin);
        let Some(&redirection) = self.state.redirection.get(pin) else { return };
        let bit = 1u32 << pin;
        let is_edge = level && self.state.levels & bit == 0;
        self.state.levels = if level { self.state.levels | bit } else { self.state.levels & !bit };
        if redirection & entry::LEVEL != 0 {
            self.state.irr = if level { self.state.irr | bit } else { self.state.irr & !bit };
        } else if is_edge && redirection & entry::MASKED == 0 {
            // The data sheet: edges on masked inputs are lost.
            self.state.irr |= bit;
        }
        if level {
            self.service(pin);
        }
    }

    /// A local APIC ended `vector`, which was level-triggered.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let redirection = &mut self.state.redirection[pin];
            if *redirection as u8 != vector || *redirection & entry::LEVEL == 0 {
                continue;
            }
            *redirection &= !entry::REMOTE_IRR;
            self.service(pin);
        }
    }

    /// Whether the last edge of `pin` still waits at a local APIC.
    fn is_pending(&self, pin: u32) -> bool {
        let Some(&redirection) = self.state.redirection.get(self.input(pin)) else { return false };
        if redirection & (entry::LEVEL | entry::MASKED) != 0 {
            return false;
        }
        let mode = DeliveryMode::from_bits((redirection >> 8) as u32);
        mode.is_some_and(|mode| self.bus.is_requested(&message(redirection, mode)))
    }

    /// The redirection table, for `info pic`.
    pub fn redirection_table(&self) -> [u64; PINS] {
        self.state.redirection
    }

    /// The levels of the inputs, one bit each.
    pub fn levels(&self) -> u32 {
        self.state.levels
    }

    /// Sends the message of `pin` if it is due.
    fn service(&mut self, pin: usize) {
        let bit = 1u32 << pin;
        let redirection = &mut self.state.redirection[pin];
        if self.state.irr & bit == 0 || *redirection & entry::MASKED != 0 {
            return;
        }
        let Some(mode) = DeliveryMode::from_bits((*redirection >> 8) as u32) else { return };
        let is_level = *redirection & entry::LEVEL != 0;
        if is_level {
            if *redirection & entry::REMOTE_IRR != 0 {
                return;
            }
            // Only what a local APIC ends can be waited for.
            if matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
                *redirection |= entry::REMOTE_IRR;
            }
        } else {
            self.state.irr &= !bit;
        }
        self.bus.deliver(&message(*redirection, mode));
    }

    /// Tells the bus what `pin` sends as long as it is level-triggered and open.
    fn update_route(&self, pin: usize) {
        let Some(&redirection) = self.state.redirection.get(pin) else { return };
        let mode = DeliveryMode::from_bits((redirection >> 8) as u32);
        let is_open = redirection & (entry::LEVEL | entry::MASKED) == entry::LEVEL;
        let message = mode.filter(|_| is_open).map(|mode| message(redirection, mode));
        self.bus.set_level_route(self.number * PINS + pin, message.as_ref());
    }

    fn update_routes(&self) {
        for pin in 0..PINS {
            self.update_route(pin);
        }
    }

    fn read_window(&self) -> u32 {
        match self.state.select {
            0 | 2 => u32::from(self.state.id) << 24,
            1 => VERSION | ((PINS as u32 - 1) << 16),
            select => {
                let word = usize::from(select).wrapping_sub(0x10);
                let redirection = self.state.redirection.get(word / 2).copied().unwrap_or(0);
                (redirection >> (32 * (word & 1))) as u32
            }
        }
    }

    fn write_window(&mut self, value: u32) {
        let select = usize::from(self.state.select);
        if select == 0 {
            self.state.id = (value >> 24) as u8 & 0xf;
        }
        let Some(word) = select.checked_sub(0x10) else { return };
        let pin = word / 2;
        let Some(redirection) = self.state.redirection.get_mut(pin) else { return };
        if word & 1 != 0 {
            *redirection = (*redirection & 0xffff_ffff) | u64::from(value) << 32;
        } else {
            let fixed = *redirection & entry::READ_ONLY;
            let value = u64::from(value & 0x1_ffff);
            *redirection = (*redirection & !0xffff_ffff) | (value & !entry::READ_ONLY) | fixed;
        }
        if *redirection & entry::LEVEL == 0 {
            *redirection &= !entry::REMOTE_IRR;
        } else {
            // A level is requested as long as it lasts, whatever the entry said when it began.
            let bit = 1u32 << pin;
            self.state.irr = (self.state.irr & !bit) | (self.state.levels & bit);
        }
        self.update_route(pin);
        self.service(pin);
    }
}

/// The message of a redirection entry whose delivery mode is `mode`.
fn message(redirection: u64, mode: DeliveryMode) -> InterruptMessage {
    InterruptMessage {
        destination: Destination::narrow((redirection >> 56) as u8, redirection & entry::LOGICAL != 0),
        mode,
        vector: redirection as u8,
        trigger: Trigger::from_bit(redirection & entry::LEVEL != 0),
    }
}

impl Device for IoApic {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = IoApicState { levels: self.state.levels, ..IoApicState::default() };
        self.update_routes();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.update_routes();
    }
}

impl IoDevice for IoApic {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        match (offset & 0xff, size) {
            (0x00, _) => u64::from(self.state.select),
            (0x10, AccessSize::Dword) => u64::from(self.read_window()),
            _ => 0,
        }
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        match (offset & 0xff, size) {
            (0x00, _) => self.state.select = value as u8,
            (0x10, AccessSize::Dword) => self.write_window(value as u32),
            (0x40, AccessSize::Dword) => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }
}

/// The inputs of an I/O APIC as an interrupt sink.
pub struct IoApicInputs(pub DeviceCell<IoApic>);

impl IrqSink for IoApicInputs {
    fn set_level(&self, pin: u32, level: bool) {
        self.0.lock().set_level(pin, level);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        let mut ioapic = self.0.lock();
        let pin = ioapic.input(pin);
        if pin < PINS {
            let bit = 1 << pin;
            ioapic.state.levels = if level { ioapic.state.levels | bit } else { ioapic.state.levels & !bit };
        }
    }

    fn is_pending(&self, pin: u32) -> bool {
        self.0.lock().is_pending(pin)
    }
}
