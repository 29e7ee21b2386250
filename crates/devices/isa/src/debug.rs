//! Two ports for firmware and test programs: a debug console, and a port that ends the emulator.
//!
//! As QEMU's `isa-debugcon` (port 0xe9 or 0x402, reads 0xe9 as in Bochs) and `isa-debug-exit` (port 0x501 by default).

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};

/// The byte that a read of the console port gives, by which programs find it.
pub const READBACK: u8 = 0xe9;

/// Takes the console's bytes. It must not block.
pub type DebugOutput = Box<dyn FnMut(&[u8]) + Send>;

/// The debug console: every byte written goes to its output at once. Region 0 is the port.
pub struct DebugConsole {
    // Configuration.
    readback: u8,
    // Host resources.
    output: DebugOutput,
}

impl DebugConsole {
    /// A console that reads as `readback` (usually [`READBACK`]).
    pub fn new(readback: u8, output: DebugOutput) -> Self {
        Self { readback, output }
    }
}

impl Device for DebugConsole {
    fn reset(&mut self, _kind: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for DebugConsole {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        u64::from(self.readback)
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, value: u64) {
        (self.output)(&[value as u8]);
    }
}

/// Ends the process with a code. Called on the vCPU's thread with the device locked.
pub type ExitRequest = Box<dyn FnMut(i32) + Send>;

/// The exit port: a write of `v` asks for an end with code `(v << 1) | 1`, which is never success. Region 0 is the port.
pub struct DebugExit {
    // Host resources.
    exit: ExitRequest,
}

impl DebugExit {
    /// An exit port that calls `exit`.
    pub fn new(exit: ExitRequest) -> Self {
        Self { exit }
    }
}

impl Device for DebugExit {
    fn reset(&mut self, _kind: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for DebugExit {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        0
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, value: u64) {
        (self.exit)(((value as u32) << 1 | 1) as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn console_passes_bytes_on_and_reads_its_mark() {
        let (send, receive) = mpsc::channel();
        let mut console = DebugConsole::new(READBACK, Box::new(move |bytes| send.send(bytes.to_vec()).expect("sent")));
        console.write(0, 0, AccessSize::Byte, u64::from(b'S'));
        assert_eq!(receive.try_recv(), Ok(vec![b'S']));
        assert_eq!(console.read(0, 0, AccessSize::Byte), 0xe9);
    }

    #[test]
    fn exit_code_is_odd() {
        let (send, receive) = mpsc::channel();
        let mut port = DebugExit::new(Box::new(move |code| send.send(code).expect("sent")));
        port.write(0, 0, AccessSize::Dword, 0x10);
        assert_eq!(receive.try_recv(), Ok(0x21));
    }
}
