//! A parallel printer port (IBM PC Technical Reference, parallel printer adapter; IEEE 1284 compatibility mode): data,
//! status and control at three ports, whose bytes go to a character device.
//!
//! The printer behind it is always ready: it acknowledges a byte when the guest looks. Left out: EPP and ECP.

use device::{AccessSize, Device, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// How many ports.
pub const PORT_COUNT: u64 = 3;

mod status {
    pub const BUSY: u8 = 0x80;
    pub const ACKNOWLEDGE: u8 = 0x40;
    pub const ONLINE: u8 = 0x10;
    pub const ERROR: u8 = 0x08;
    /// Ready; the lines are active low where the bits are not.
    pub const READY: u8 = BUSY | ACKNOWLEDGE | ONLINE | ERROR;
}

mod control {
    pub const STROBE: u8 = 0x01;
    pub const INIT: u8 = 0x04;
    pub const SELECT: u8 = 0x08;
    pub const INTERRUPT: u8 = 0x10;
    pub const INPUT: u8 = 0x20;
    /// What always reads as ones.
    pub const ONES: u8 = 0xc0;
}

/// Where the bytes go. Called with the device's lock held.
pub type Output = Box<dyn FnMut(u8) + Send>;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "parallel_isa", version = 1)]
struct Registers {
    data: u8,
    status: u8,
    control: u8,
    is_pending: bool,
}

const RESET: Registers = Registers {
    data: 0xff,
    status: status::READY,
    control: control::SELECT | control::INIT | control::ONES,
    is_pending: false,
};

/// The port. Region 0.
pub struct ParallelPort {
    // Host resources.
    output: Output,
    // Wiring.
    irq: IrqLine,
    // Guest-visible state.
    registers: Registers,
}

impl ParallelPort {
    /// A port that drives `irq` and prints to `output`.
    pub fn new(irq: IrqLine, output: Output) -> Self {
        Self { output, irq, registers: RESET }
    }

    fn update(&mut self) {
        self.irq.set(self.registers.is_pending);
    }

    fn write_control(&mut self, value: u8) {
        let registers = &mut self.registers;
        let value = value | control::ONES;
        if value & control::INIT == 0 {
            registers.status = status::READY;
        } else if value & control::SELECT != 0 {
            if value & control::STROBE != 0 {
                registers.status &= !status::BUSY;
                if registers.control & control::STROBE == 0 {
                    (self.output)(registers.data);
                }
            } else if registers.control & control::INTERRUPT != 0 {
                registers.is_pending = true;
            }
        }
        registers.control = value;
    }

    fn read_status(&mut self) -> u8 {
        let registers = &mut self.registers;
        let value = registers.status;
        registers.is_pending = false;
        // The printer takes the byte, then acknowledges it.
        if value & status::BUSY == 0 && registers.control & control::STROBE == 0 {
            if value & status::ACKNOWLEDGE != 0 {
                registers.status &= !status::ACKNOWLEDGE;
            } else {
                registers.status |= status::ACKNOWLEDGE | status::BUSY;
            }
        }
        value
    }
}

impl Device for ParallelPort {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers = RESET;
        self.update();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.irq.restore(self.registers.is_pending);
    }
}

impl IoDevice for ParallelPort {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        let value = match offset {
            // Nothing drives the lines while they are inputs.
            0 if self.registers.control & control::INPUT != 0 => 0xff,
            0 => self.registers.data,
            1 => self.read_status(),
            2 => self.registers.control,
            _ => 0xff,
        };
        self.update();
        value.into()
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        match offset {
            0 => self.registers.data = value as u8,
            2 => self.write_control(value as u8),
            _ => {}
        }
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn strobe_prints_a_byte_that_is_acknowledged() {
        let (send, printed) = mpsc::channel();
        let mut port =
            ParallelPort::new(IrqLine::unconnected(), Box::new(move |byte| send.send(byte).expect("receiver")));
        let byte = AccessSize::Byte;
        for (offset, value) in [(0, 0x41), (2, 0x0d), (2, 0x0d), (2, 0x0c)] {
            port.write(0, offset, byte, value);
        }
        assert_eq!(printed.try_iter().collect::<Vec<_>>(), [0x41], "once for each edge");
        let statuses = [(); 3].map(|()| port.read(0, 1, byte));
        assert_eq!(statuses, [0x58, 0x18, 0xd8], "busy, acknowledged, ready");
    }
}
