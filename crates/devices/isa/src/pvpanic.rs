//! pvpanic: one port through which a guest reports that it crashed (QEMU, `docs/specs/pvpanic.txt`).

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};

/// The guest's operating system panicked.
pub const PANICKED: u8 = 1;
/// It panicked and goes on to load a crash kernel.
pub const CRASH_LOADED: u8 = 1 << 1;

/// Called with the event bits that the guest wrote.
pub type PanicReport = Box<dyn FnMut(u8) + Send>;

/// The device.
pub struct Pvpanic {
    // Configuration.
    events: u8,
    // Host resources.
    report: PanicReport,
}

impl Pvpanic {
    /// A device that tells the guest that `events` exist.
    pub fn new(events: u8, report: PanicReport) -> Self {
        Self { events, report }
    }
}

impl Device for Pvpanic {
    fn reset(&mut self, _: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for Pvpanic {
    fn access_sizes(&self, _: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _: usize, _: u64, _: AccessSize) -> u64 {
        u64::from(self.events)
    }

    fn write(&mut self, _: usize, _: u64, _: AccessSize, value: u64) {
        let event = value as u8 & self.events;
        if event != 0 {
            (self.report)(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn pvpanic_reports_only_the_events_that_exist() {
        let (send, receive) = mpsc::channel();
        let mut pvpanic = Pvpanic::new(PANICKED, Box::new(move |event| send.send(event).expect("receiver")));
        assert_eq!(pvpanic.read(0, 0, AccessSize::Byte), 1);
        pvpanic.write(0, 0, AccessSize::Byte, 2);
        pvpanic.write(0, 0, AccessSize::Byte, 3);
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [1]);
    }
}
