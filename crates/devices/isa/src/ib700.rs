//! The watchdog of the iBASE 700: a write to port 0x443 starts it with one of 16 delays, one to 0x441 stops it (IB700
//! data sheet, watchdog timer; as QEMU 7.2 has it: port 0x442 stops it, too, and 0x444 starts it).
//!
//! The ports are write-only: reads give all ones.

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

/// The first port.
pub const FIRST_PORT: u64 = 0x441;
/// How many ports.
pub const PORT_COUNT: u64 = 4;

const SECOND: u64 = 1_000_000_000;
/// The first port, as an offset, that starts the timer.
const START: u64 = 2;

/// Called when the time is over, with the device's lock held; it must not wait.
pub type Expired = Box<dyn FnMut() + Send>;

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ib700_wdt", version = 1)]
struct Registers {
    is_running: bool,
    /// Guest time at which it expires, while it runs.
    deadline: u64,
}

/// The watchdog. Region 0.
pub struct Ib700 {
    // Host resources.
    expired: Expired,
    // Wiring.
    clock: Clock,
    timer: Timer,
    // Guest-visible state.
    registers: Registers,
}

impl Ib700 {
    /// A watchdog that is off and calls `expired` when it bites.
    pub fn new(clock: &Clock, expired: Expired) -> DeviceCell<Self> {
        DeviceCell::new_cyclic(|handle| Self {
            expired,
            clock: clock.clone(),
            timer: handle.timer(clock, Self::due),
            registers: Registers::default(),
        })
    }

    fn due(&mut self) {
        if self.registers.is_running && self.clock.now() >= self.registers.deadline {
            self.registers = Registers::default();
            (self.expired)();
        }
    }

    fn arm(&mut self) {
        if self.registers.is_running {
            self.timer.arm(self.registers.deadline);
        } else {
            self.timer.cancel();
        }
    }
}

impl Device for Ib700 {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers = Registers::default();
        self.arm();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.arm();
    }
}

impl IoDevice for Ib700 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, _offset: u64, size: AccessSize) -> u64 {
        size.mask()
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        self.registers = if offset < START {
            Registers::default()
        } else {
            // 30 seconds for 0, two less for each step.
            let seconds = 30 - 2 * (value & 0xf);
            Registers { is_running: true, deadline: self.clock.now().saturating_add(seconds * SECOND) }
        };
        self.arm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn watchdog_bites_when_it_is_not_fed_in_time() {
        let clock = Clock::manual();
        let (send, bites) = mpsc::channel();
        let watchdog = Ib700::new(&clock, Box::new(move || send.send(()).expect("receiver")));
        let write = |offset, value| watchdog.lock().write(0, offset, AccessSize::Byte, value);
        clock.step(100 * SECOND);
        write(2, 14);
        clock.step(SECOND);
        write(2, 14);
        clock.step(SECOND);
        write(0, 0);
        clock.step(100 * SECOND);
        assert_eq!(bites.try_iter().count(), 0);
        write(2, 0);
        clock.step(30 * SECOND - 1);
        assert_eq!(bites.try_iter().count(), 0);
        clock.step(100 * SECOND);
        assert_eq!(bites.try_iter().count(), 1, "once");
    }

    #[test]
    fn restored_watchdog_goes_on() {
        let clock = Clock::manual();
        let (send, bites) = mpsc::channel();
        let watchdog = Ib700::new(&clock, Box::new(move || send.send(()).expect("receiver")));
        watchdog.lock().write(0, 2, AccessSize::Byte, 13);
        let saved = state::testing::saved(&watchdog.lock().registers);
        watchdog.lock().reset(ResetKind::Warm);
        state::testing::load_all(&mut watchdog.lock().registers, &saved).expect("load");
        watchdog.lock().restored();
        clock.step(4 * SECOND);
        assert_eq!(bites.try_iter().count(), 1);
    }
}
