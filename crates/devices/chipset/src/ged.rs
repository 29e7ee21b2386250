//! The generic event device of boards with reduced ACPI hardware (ACPI 6.1, 5.6.9), as QEMU has it, with the sleep and
//! reset registers of such boards (ACPI 5.0, 4.8.3.6 and 4.8.3.7).
//!
//! An event is a bit of the selector, which a read takes, and a pulse of the interrupt. The one event here is the power
//! button. Left out: events of memory hot-plug.

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// The selector of events.
pub const REGION_EVENTS: usize = 0;
/// Sleep control, sleep status, reset.
pub const REGION_REGISTERS: usize = 1;
/// Bytes of the selector.
pub const EVENTS_LEN: u64 = 4;
/// Bytes of the registers.
pub const REGISTERS_LEN: u64 = 3;
/// Where the registers are among themselves.
pub mod register {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const SLEEP_CONTROL: u64 = 0;
    pub const SLEEP_STATUS: u64 = 1;
    pub const RESET: u64 = 2;
}
/// The bit of the power button.
pub const POWER_BUTTON: u32 = 2;
/// What the reset register takes.
pub const RESET_VALUE: u8 = 0x42;
/// SLP_TYP of S5.
pub const SLEEP_TYPE_S5: u8 = 5;

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GedRequest {
    /// S5.
    PowerOff,
    /// A reset.
    Reset,
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "acpi-ged", version = 1)]
struct GedState {
    selector: u32,
}

/// The device.
pub struct Ged {
    // Wiring.
    line: IrqLine,
    request: Box<dyn FnMut(GedRequest) + Send>,
    // Guest-visible state.
    state: GedState,
}

impl Ged {
    /// A device without events.
    pub fn new(line: IrqLine, request: Box<dyn FnMut(GedRequest) + Send>) -> DeviceCell<Self> {
        DeviceCell::new(Self { line, request, state: GedState::default() })
    }

    /// Tells the guest of the power button.
    pub fn press_power_button(&mut self) {
        self.state.selector |= POWER_BUTTON;
        self.line.pulse();
    }
}

impl Device for Ged {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = GedState::default();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for Ged {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            REGION_EVENTS => (AccessSize::Dword, AccessSize::Dword),
            _ => (AccessSize::Byte, AccessSize::Byte),
        }
    }

    fn read(&mut self, region: usize, _offset: u64, _size: AccessSize) -> u64 {
        if region == REGION_EVENTS { u64::from(std::mem::take(&mut self.state.selector)) } else { 0 }
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        const SLEEP_ENABLE: u64 = 1 << 5;
        if region != REGION_REGISTERS {
            return;
        }
        match offset {
            register::SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == u64::from(SLEEP_TYPE_S5) => {
                (self.request)(GedRequest::PowerOff);
            }
            register::RESET if value == u64::from(RESET_VALUE) => (self.request)(GedRequest::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn registers_ask_for_power_off_and_reset_and_the_selector_is_taken() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let ged = Ged::new(IrqLine::unconnected(), Box::new(move |request| log.lock().expect("log").push(request)));
        let mut ged = ged.lock();
        for (offset, value) in [(0, 0x14), (0, 0x30), (2, 1), (0, 0x34), (2, 0x42)] {
            ged.write(REGION_REGISTERS, offset, AccessSize::Byte, value);
        }
        assert_eq!(*asked.lock().expect("log"), [GedRequest::PowerOff, GedRequest::Reset]);
        ged.press_power_button();
        let mut take = || ged.read(REGION_EVENTS, 0, AccessSize::Dword);
        assert_eq!((take(), take()), (2, 0));
    }
}
