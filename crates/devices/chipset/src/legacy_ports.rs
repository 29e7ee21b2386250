//! Small ports of a PC: system control port A (0x92), POST codes (0x80), and the coprocessor error latch (0xf0).

use device::{AccessSize, Device, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// Asks the machine for a reset. Called with the device locked: it must not wait for the reset.
pub type ResetRequest = Box<dyn FnMut() + Send>;
/// Told the level of the A20 gate. Called with the device locked.
pub type A20Callback = Box<dyn FnMut(bool) + Send>;

const BYTES: (AccessSize, AccessSize) = (AccessSize::Byte, AccessSize::Byte);

/// The guest-visible state of a device with one register.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "port92", version = 1)]
struct Port92State {
    value: u8,
}

/// System control port A: bit 1 is the A20 gate, a rising bit 0 resets. Region 0 is the port.
pub struct Port92 {
    // Wiring.
    a20: A20Callback,
    reset: ResetRequest,
    // Guest-visible state.
    state: Port92State,
}

impl Port92 {
    /// The port. The gate itself belongs to the CPUs and is driven by the keyboard controller, too: the last one counts.
    pub fn new(a20: A20Callback, reset: ResetRequest) -> Self {
        Self { a20, reset, state: Port92State::default() }
    }
}

impl Device for Port92 {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.value &= !1;
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for Port92 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        BYTES
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        u64::from(self.state.value)
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, value: u64) {
        let is_reset = value as u8 & !self.state.value & 1 != 0;
        self.state.value = value as u8;
        (self.a20)(value & 2 != 0);
        if is_reset {
            (self.reset)();
        }
    }
}

/// The port of POST codes. It takes everything and reads all ones, as in QEMU. Region 0 is the port.
#[derive(Debug, Default)]
pub struct PostPort {
    // Statistics.
    last: u8,
}

impl PostPort {
    /// The last code that was written, to show.
    pub fn last(&self) -> u8 {
        self.last
    }
}

impl Device for PostPort {
    fn reset(&mut self, _kind: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for PostPort {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        BYTES
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        0xff
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, value: u64) {
        self.last = value as u8;
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ferr", version = 1)]
struct FerrState {
    is_pending: bool,
}

/// The coprocessor error latch: FERR# raises interrupt 13, a write of the port clears it. Region 0 is the port.
pub struct FerrPort {
    // Wiring.
    irq: IrqLine,
    // Guest-visible state.
    state: FerrState,
}

impl FerrPort {
    /// A latch that drives `irq` (interrupt 13).
    pub fn new(irq: IrqLine) -> Self {
        Self { irq, state: FerrState::default() }
    }

    /// The CPU reports an unmasked x87 exception while CR0.NE is clear.
    pub fn raise(&mut self) {
        self.state.is_pending = true;
        self.irq.set(true);
    }

    /// IGNNE#: the guest acknowledged the error, the CPU goes on.
    pub fn is_acknowledged(&self) -> bool {
        !self.state.is_pending
    }
}

impl Device for FerrPort {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.is_pending = false;
        self.irq.set(false);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.irq.restore(self.state.is_pending);
    }
}

impl IoDevice for FerrPort {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        BYTES
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        0xff
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, _value: u64) {
        self.reset(ResetKind::Warm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pins;
    use AccessSize::Byte;
    use std::sync::mpsc;

    #[test]
    fn port_92_gates_a20_and_resets_on_a_rising_bit() {
        let (a20, levels) = mpsc::channel();
        let (reset, resets) = mpsc::channel();
        let mut port = Port92::new(
            Box::new(move |level| a20.send(level).expect("sent")),
            Box::new(move || reset.send(()).expect("sent")),
        );
        port.write(0, 0, Byte, 2);
        port.write(0, 0, Byte, 0);
        assert_eq!(levels.try_iter().collect::<Vec<_>>(), [true, false]);
        assert!(resets.try_recv().is_err());
        port.write(0, 0, Byte, 3);
        port.write(0, 0, Byte, 3);
        assert_eq!(resets.try_iter().count(), 1);
        port.reset(ResetKind::Warm);
        assert_eq!(port.read(0, 0, Byte), 2);
    }

    #[test]
    fn coprocessor_error_lasts_until_the_port_is_written() {
        let pins = Pins::new();
        let mut port = FerrPort::new(pins.line(13));
        port.raise();
        assert!(pins.level(13) && !port.is_acknowledged());
        port.write(0, 0, Byte, 0);
        assert!(!pins.level(13) && port.is_acknowledged());
    }
}
