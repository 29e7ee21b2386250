//! `pc-testdev`: ports and memory by which test programs try out the machine (QEMU 7.2, as kvm-unit-tests use it).
//!
//! Region 0: a register of 32 bits at ports 0xe0–0xe3. Region 1: the same register at 0xe8–0xeb, reached byte by byte.
//! Region 2: port 0xe4 takes an address whose page's translations are to be dropped: there is nothing to do, because no
//! translation outlives the page tables' changes here. Region 3: 24 ports at 0x2000, one for each interrupt line, which
//! a byte drives. Region 4: 64 KiB of memory at 0xff000000 that is reached by a device and not mapped.

use device::{AccessSize, Device, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// Region, first port, and count of the ports.
pub const PORTS: [(usize, u64, u64); 4] = [(0, 0xe0, 4), (2, 0xe4, 4), (1, 0xe8, 4), (3, 0x2000, 24)];
/// The region of the memory, its address and its length.
pub const MEMORY: (usize, u64, u64) = (4, 0xff00_0000, MEMORY_LEN as u64);

const MEMORY_LEN: usize = 0x1_0000;
/// How many interrupt lines can be driven.
pub const LINES: usize = 24;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pc-testdev", version = 1)]
struct Registers {
    data: [u8; 4],
    memory: [u8; MEMORY_LEN],
    levels: u32,
}

/// The device.
pub struct PcTestdev {
    // Wiring.
    lines: Vec<IrqLine>,
    // Guest-visible state.
    registers: Box<Registers>,
}

impl PcTestdev {
    /// A device that drives up to [`LINES`] interrupt lines.
    pub fn new(lines: Vec<IrqLine>) -> Self {
        Self { lines, registers: Box::new(Registers { data: [0; 4], memory: [0; MEMORY_LEN], levels: 0 }) }
    }

    fn bytes(&mut self, region: usize) -> &mut [u8] {
        match region {
            0 | 1 => &mut self.registers.data,
            4 => &mut self.registers.memory,
            _ => &mut [],
        }
    }
}

impl Device for PcTestdev {
    // What tests have stored survives a reset of the machine, as in QEMU; power-on clears it.
    fn reset(&mut self, kind: ResetKind) {
        if kind == ResetKind::Cold {
            self.registers.data = [0; 4];
            self.registers.memory.fill(0);
        }
        self.registers.levels = 0;
        self.lines.iter_mut().for_each(|line| line.set(false));
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut *self.registers)
    }

    fn restored(&mut self) {
        for (line, pin) in self.lines.iter_mut().zip(0..) {
            line.restore(self.registers.levels >> pin & 1 != 0);
        }
    }
}

impl IoDevice for PcTestdev {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            1 | 3 => (AccessSize::Byte, AccessSize::Byte),
            4 => (AccessSize::Byte, AccessSize::Qword),
            _ => (AccessSize::Byte, AccessSize::Dword),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        let bytes = self.bytes(region).iter().skip(offset as usize).take(size.bytes());
        bytes.zip(0..).fold(0, |value, (byte, index)| value | u64::from(*byte) << (8 * index))
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        if region == 3 {
            let (level, Ok(pin)) = (value & 0xff != 0, usize::try_from(offset)) else { return };
            if let Some(line) = self.lines.get_mut(pin) {
                line.set(level);
                let mask = 1_u32.checked_shl(pin as u32).unwrap_or(0);
                let levels = &mut self.registers.levels;
                *levels = if level { *levels | mask } else { *levels & !mask };
            }
            return;
        }
        let bytes = self.bytes(region).iter_mut().skip(offset as usize).take(size.bytes());
        for (byte, new) in bytes.zip(value.to_le_bytes()) {
            *byte = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_is_the_same_through_both_places() {
        let mut device = PcTestdev::new(Vec::new());
        device.write(0, 0, AccessSize::Dword, 0x8765_4321);
        device.write(1, 1, AccessSize::Byte, 0xaa);
        assert_eq!(device.read(0, 0, AccessSize::Dword), 0x8765_aa21);
        assert_eq!(device.read(1, 3, AccessSize::Byte), 0x87);
        device.write(4, 0xffff, AccessSize::Qword, 0x55);
        assert_eq!(device.read(4, 0xffff, AccessSize::Byte), 0x55);
    }
}
