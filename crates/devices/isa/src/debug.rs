//! Bochs' debug console, and a port that ends the emulator: what firmware and bare-metal tests talk to.

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};

/// Where debug output goes: it is called with the device's lock held and must not wait.
pub type DebugOutput = Box<dyn FnMut(u8) + Send>;

/// `isa-debugcon`: a write is a byte of output, a read tells that the port is there.
pub struct DebugConsole {
    // Configuration.
    readback: u8,
    // Host resources.
    output: DebugOutput,
}

impl DebugConsole {
    /// A console whose reads return `readback`.
    pub fn new(readback: u8, output: DebugOutput) -> Self {
        Self { readback, output }
    }
}

impl Device for DebugConsole {
    fn reset(&mut self, _: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for DebugConsole {
    fn access_sizes(&self, _: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _: usize, _: u64, _: AccessSize) -> u64 {
        u64::from(self.readback)
    }

    fn write(&mut self, _: usize, _: u64, _: AccessSize, value: u64) {
        (self.output)(value as u8);
    }
}

/// Called with the exit status that the guest chose.
pub type ExitRequest = Box<dyn FnMut(i32) + Send>;

/// `isa-debug-exit`: a write of `v` ends the emulator with status `(v << 1) | 1`.
pub struct DebugExit {
    // Host resources.
    exit: ExitRequest,
}

impl DebugExit {
    /// A port that calls `exit`.
    pub fn new(exit: ExitRequest) -> Self {
        Self { exit }
    }
}

impl Device for DebugExit {
    fn reset(&mut self, _: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for DebugExit {
    fn access_sizes(&self, _: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _: usize, _: u64, _: AccessSize) -> u64 {
        0
    }

    fn write(&mut self, _: usize, _: u64, _: AccessSize, value: u64) {
        (self.exit)(((value as u32) << 1 | 1) as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn debug_console_passes_bytes_on_and_reads_back() {
        let (send, receive) = mpsc::channel();
        let mut console = DebugConsole::new(0xe9, Box::new(move |byte| send.send(byte).expect("receiver")));
        console.write(0, 0, AccessSize::Byte, 0x41);
        assert_eq!(receive.try_recv(), Ok(0x41));
        assert_eq!(console.read(0, 0, AccessSize::Byte), 0xe9);
    }

    #[test]
    fn debug_exit_status_is_odd() {
        let (send, receive) = mpsc::channel();
        let mut exit = DebugExit::new(Box::new(move |status| send.send(status).expect("receiver")));
        exit.write(0, 0, AccessSize::Byte, 0x21);
        assert_eq!(receive.try_recv(), Ok(0x43));
    }
}
