//! The SMBus host controller of the PIIX4 (Intel 290562, 7.3.3) and the ICH9 (Intel 316972, 18.2), and the eight memories
//! that QEMU's boards have on the bus, at addresses 0x50 to 0x57: 256 bytes each, zeros until the guest writes them.
//!
//! A transaction that the guest starts without an interrupt is carried out when it reads the status, which has shown
//! «busy» once by then, as real controllers do. Left out: packet error codes, the slave side, and alerts.

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// How many ports.
pub const PORT_COUNT: u64 = 64;

const FIRST_MEMORY: u8 = 0x50;
const MEMORIES: usize = 8;
const MEMORY_LEN: usize = 256;
const BLOCK_MAX: usize = 32;

/// Offsets of the registers.
mod reg {
    pub const STATUS: u64 = 0x00;
    pub const CONTROL: u64 = 0x02;
    pub const COMMAND: u64 = 0x03;
    pub const ADDRESS: u64 = 0x04;
    pub const DATA0: u64 = 0x05;
    pub const DATA1: u64 = 0x06;
    pub const BLOCK: u64 = 0x07;
    pub const AUXILIARY: u64 = 0x0d;
}

mod status {
    pub const BUSY: u8 = 1;
    pub const DONE: u8 = 1 << 1;
    pub const ERROR: u8 = 1 << 2;
    pub const FAILED: u8 = 1 << 4;
    pub const BYTE_DONE: u8 = 1 << 7;
}

mod control {
    pub const INTERRUPT: u8 = 1;
    pub const KILL: u8 = 1 << 1;
    pub const LAST_BYTE: u8 = 1 << 5;
    pub const START: u8 = 1 << 6;
    /// What reads back.
    pub const KEPT: u8 = 0x1f;
}

mod auxiliary {
    pub const BUFFER: u8 = 1 << 1;
    pub const WRITABLE: u8 = 3;
}

/// Kinds of transactions, as the control register has them.
mod protocol {
    pub const QUICK: u8 = 0;
    pub const BYTE: u8 = 1;
    pub const BYTE_DATA: u8 = 2;
    pub const WORD_DATA: u8 = 3;
    pub const BLOCK: u8 = 5;
    pub const I2C_READ: u8 = 6;
}

/// A memory on the bus.
#[derive(Clone, Debug, State)]
#[state(name = "smbus-eeprom", version = 1)]
struct Memory {
    data: [u8; MEMORY_LEN],
    offset: u8,
}

impl Memory {
    /// The first byte is where the others go, and where reading goes on.
    fn write(&mut self, bytes: &[u8]) {
        let Some((offset, rest)) = bytes.split_first() else { return };
        self.offset = *offset;
        for byte in rest {
            self.data[usize::from(self.offset)] = *byte;
            self.offset = self.offset.wrapping_add(1);
        }
    }

    fn read(&mut self) -> u8 {
        let byte = self.data[usize::from(self.offset)];
        self.offset = self.offset.wrapping_add(1);
        byte
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pmsmb", version = 1)]
struct Registers {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
    auxiliary: u8,
    block: [u8; BLOCK_MAX],
    #[state(max = 32)]
    index: u8,
    byte: u8,
    /// A transaction waits for the status to be read.
    is_waiting: bool,
    /// A transaction goes on byte by byte.
    is_open: bool,
    /// It reads by I2C.
    is_i2c_read: bool,
    memories: [Memory; MEMORIES],
}

/// The controller. Region 0.
pub struct Smbus {
    // Wiring.
    irq: IrqLine,
    // Guest-visible state.
    registers: Box<Registers>,
}

/// Nobody answers at the address, or the transaction does not exist.
struct NoAnswer;

impl Smbus {
    /// A controller that drives `irq` while a transaction that wants an interrupt has ended.
    pub fn new(irq: IrqLine) -> DeviceCell<Self> {
        let memory = Memory { data: [0; MEMORY_LEN], offset: 0 };
        let registers = Registers {
            status: 0,
            control: 0,
            command: 0,
            address: 0,
            data: [0; 2],
            auxiliary: 0,
            block: [0; BLOCK_MAX],
            index: 0,
            byte: 0,
            is_waiting: false,
            is_open: false,
            is_i2c_read: false,
            memories: std::array::from_fn(|_| memory.clone()),
        };
        DeviceCell::new(Self { irq, registers: Box::new(registers) })
    }

    fn memory(&mut self) -> Result<&mut Memory, NoAnswer> {
        let index = (self.registers.address >> 1).wrapping_sub(FIRST_MEMORY);
        self.registers.memories.get_mut(usize::from(index)).ok_or(NoAnswer)
    }

    fn is_reading(&self) -> bool {
        self.registers.address & 1 != 0
    }

    fn has_buffer(&self) -> bool {
        self.registers.auxiliary & auxiliary::BUFFER != 0
    }

    fn transact(&mut self) {
        if self.registers.status & status::ERROR != 0 || self.carry_out().is_err() {
            self.registers.status |= status::ERROR;
        }
    }

    fn carry_out(&mut self) -> Result<(), NoAnswer> {
        let (command, data, reads) = (self.registers.command, self.registers.data, self.is_reading());
        match (self.registers.control >> 2 & 7, reads) {
            (protocol::QUICK, _) => {
                self.memory()?;
            }
            (protocol::BYTE, true) => self.registers.data[0] = self.memory()?.read(),
            (protocol::BYTE, false) => self.memory()?.write(&[command]),
            (protocol::BYTE_DATA, true) => {
                self.memory()?.write(&[command]);
                self.registers.data[0] = self.memory()?.read();
            }
            (protocol::BYTE_DATA, false) => self.memory()?.write(&[command, data[0]]),
            (protocol::WORD_DATA, true) => {
                self.memory()?.write(&[command]);
                self.registers.data = [self.memory()?.read(), self.memory()?.read()];
            }
            (protocol::WORD_DATA, false) => self.memory()?.write(&[command, data[0], data[1]]),
            (protocol::I2C_READ, _) => {
                self.memory()?.write(&[data[1]]);
                self.registers.byte = self.memory()?.read();
                (self.registers.is_i2c_read, self.registers.is_open) = (true, true);
                self.registers.status |= status::BUSY | status::BYTE_DONE;
                return Ok(());
            }
            (protocol::BLOCK, true) => return self.read_block(),
            (protocol::BLOCK, false) => return self.write_block(),
            _ => return Err(NoAnswer),
        }
        self.registers.status |= status::DONE;
        Ok(())
    }

    fn read_block(&mut self) -> Result<(), NoAnswer> {
        let command = self.registers.command;
        let memory = self.memory()?;
        memory.write(&[command]);
        // The memory says how much it has.
        let len = usize::from(memory.read()).min(BLOCK_MAX);
        let mut block = [0; BLOCK_MAX];
        block[..len].fill_with(|| memory.read());
        self.registers.block = block;
        (self.registers.index, self.registers.is_open) = (0, true);
        self.registers.data[0] = len as u8;
        if self.has_buffer() {
            self.registers.status |= status::DONE;
        } else {
            self.registers.byte = block[0];
            self.registers.status |= status::BUSY | status::BYTE_DONE;
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<(), NoAnswer> {
        if self.has_buffer() {
            let index = std::mem::take(&mut self.registers.index);
            if index != self.registers.data[0] {
                return Err(NoAnswer);
            }
            return self.send_block();
        }
        (self.registers.index, self.registers.is_open) = (0, true);
        self.registers.block[0] = self.registers.byte;
        self.registers.status |= status::BUSY | status::BYTE_DONE;
        Ok(())
    }

    fn send_block(&mut self) -> Result<(), NoAnswer> {
        let len = usize::from(self.registers.data[0]).min(BLOCK_MAX);
        let mut bytes = vec![self.registers.command, len as u8];
        bytes.extend_from_slice(&self.registers.block[..len]);
        self.memory()?.write(&bytes);
        self.close();
        Ok(())
    }

    /// The transaction is over.
    fn close(&mut self) {
        (self.registers.is_open, self.registers.is_i2c_read) = (false, false);
        self.registers.status = self.registers.status & !status::BUSY | status::DONE;
    }

    /// The guest has taken or given a byte of a block.
    fn next_byte(&mut self) {
        let reads = self.is_reading() || self.registers.is_i2c_read;
        self.registers.index = (self.registers.index + 1) % BLOCK_MAX as u8;
        let index = usize::from(self.registers.index);
        if !reads {
            if self.registers.index == self.registers.data[0] {
                if self.send_block().is_err() {
                    self.registers.status |= status::ERROR;
                }
                return;
            }
            self.registers.block[index] = self.registers.byte;
            self.registers.status |= status::BYTE_DONE;
            return;
        }
        self.registers.byte = if self.registers.is_i2c_read {
            self.memory().map_or(0xff, Memory::read)
        } else {
            self.registers.block[index]
        };
        if self.registers.control & control::LAST_BYTE != 0 {
            self.registers.index = 0;
            self.close();
        } else {
            self.registers.status |= status::BYTE_DONE;
        }
    }

    fn write_control(&mut self, value: u8) {
        self.registers.control = value & !control::START;
        if value & control::START != 0 {
            if self.registers.is_open {
                self.registers.index = 0;
                (self.registers.is_open, self.registers.is_i2c_read) = (false, false);
            }
            if value & control::INTERRUPT != 0 {
                self.transact();
                self.registers.is_waiting = false;
            } else {
                self.registers.status |= status::BUSY;
                self.registers.is_waiting = true;
            }
        }
        if value & control::KILL != 0 {
            self.registers.is_open = false;
            self.registers.index = 0;
            self.registers.status = self.registers.status & !status::BUSY | status::FAILED;
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        match offset {
            reg::STATUS => {
                let is_byte = self.registers.status & value & status::BYTE_DONE != 0;
                self.registers.status &= !(value & !status::BUSY);
                if is_byte && self.registers.is_open && (self.registers.is_i2c_read || !self.has_buffer()) {
                    self.next_byte();
                }
            }
            reg::CONTROL => self.write_control(value),
            reg::COMMAND => self.registers.command = value,
            reg::ADDRESS => self.registers.address = value,
            reg::DATA0 => self.registers.data[0] = value,
            reg::DATA1 => self.registers.data[1] = value,
            reg::BLOCK if self.has_buffer() => {
                let index = usize::from(self.registers.index) % BLOCK_MAX;
                self.registers.block[index] = value;
                self.registers.index = index as u8 + 1;
            }
            reg::BLOCK => self.registers.byte = value,
            reg::AUXILIARY => self.registers.auxiliary = value & auxiliary::WRITABLE,
            _ => {}
        }
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        match offset {
            reg::STATUS => {
                let value = self.registers.status;
                if std::mem::take(&mut self.registers.is_waiting) {
                    self.registers.status &= !status::BUSY;
                    self.transact();
                }
                value
            }
            reg::CONTROL => self.registers.control & control::KEPT,
            reg::COMMAND => self.registers.command,
            reg::ADDRESS => self.registers.address,
            reg::DATA0 => self.registers.data[0],
            reg::DATA1 => self.registers.data[1],
            reg::BLOCK if self.has_buffer() && !self.registers.is_i2c_read => {
                let index = usize::from(self.registers.index) % BLOCK_MAX;
                self.registers.index = index as u8 + 1;
                if self.registers.is_open && self.registers.index == self.registers.data[0] {
                    (self.registers.is_open, self.registers.index) = (false, 0);
                    self.registers.status &= !status::BUSY;
                }
                self.registers.block[index]
            }
            reg::BLOCK => self.registers.byte,
            reg::AUXILIARY => self.registers.auxiliary,
            _ => 0,
        }
    }

    fn level(&self) -> bool {
        self.registers.status & !status::BUSY != 0 && self.registers.control & control::INTERRUPT != 0
    }
}

impl Device for Smbus {
    // The memories keep their contents but for power-on.
    fn reset(&mut self, kind: ResetKind) {
        let registers = &mut self.registers;
        (registers.status, registers.control, registers.command, registers.address) = (0, 0, 0, 0);
        (registers.data, registers.auxiliary, registers.block) = ([0; 2], 0, [0; BLOCK_MAX]);
        (registers.index, registers.byte) = (0, 0);
        (registers.is_waiting, registers.is_open, registers.is_i2c_read) = (false, false, false);
        for memory in &mut registers.memories {
            memory.offset = 0;
            if kind == ResetKind::Cold {
                memory.data.fill(0);
            }
        }
        self.irq.set(false);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut *self.registers)
    }

    fn restored(&mut self) {
        let level = self.level();
        self.irq.restore(level);
    }
}

impl IoDevice for Smbus {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        let value = self.read_register(offset);
        let level = self.level();
        self.irq.set(level);
        value.into()
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        self.write_register(offset, value as u8);
        let level = self.level();
        self.irq.set(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bus: &DeviceCell<Smbus>, offset: u64, value: u64) {
        bus.lock().write(0, offset, AccessSize::Byte, value);
    }

    fn read(bus: &DeviceCell<Smbus>, offset: u64) -> u64 {
        bus.lock().read(0, offset, AccessSize::Byte)
    }

    #[test]
    fn byte_that_was_written_is_read_and_nobody_answers_elsewhere() {
        let bus = Smbus::new(IrqLine::unconnected());
        for (offset, value) in [(reg::ADDRESS, 0xa2), (reg::COMMAND, 7), (reg::DATA0, 0x5a), (reg::CONTROL, 0x48)] {
            write(&bus, offset, value);
        }
        assert_eq!((read(&bus, reg::STATUS), read(&bus, reg::STATUS)), (1, 2), "busy, then done");
        write(&bus, reg::STATUS, 0xff);
        for (offset, value) in [(reg::ADDRESS, 0xa3), (reg::DATA0, 0), (reg::CONTROL, 0x49)] {
            write(&bus, offset, value);
        }
        assert_eq!((read(&bus, reg::STATUS), read(&bus, reg::DATA0)), (2, 0x5a));
        write(&bus, reg::STATUS, 0xff);
        for (offset, value) in [(reg::ADDRESS, 0x91), (reg::CONTROL, 0x49)] {
            write(&bus, offset, value);
        }
        assert_eq!(read(&bus, reg::STATUS), 4);
    }

    #[test]
    fn block_is_written_and_read_byte_by_byte() {
        let bus = Smbus::new(IrqLine::unconnected());
        for (offset, value) in [(reg::ADDRESS, 0xa0), (reg::COMMAND, 0), (reg::DATA0, 3), (reg::BLOCK, 11)] {
            write(&bus, offset, value);
        }
        write(&bus, reg::CONTROL, 0x55);
        for value in [12, 13] {
            write(&bus, reg::BLOCK, value);
            write(&bus, reg::STATUS, 0x80);
        }
        write(&bus, reg::STATUS, 0x80);
        assert_eq!(read(&bus, reg::STATUS) & 3, 2);
        write(&bus, reg::STATUS, 0xff);
        write(&bus, reg::ADDRESS, 0xa1);
        write(&bus, reg::CONTROL, 0x55);
        let mut bytes = vec![read(&bus, reg::BLOCK)];
        for control in [0x15, 0x35] {
            write(&bus, reg::CONTROL, control);
            write(&bus, reg::STATUS, 0x80);
            bytes.push(read(&bus, reg::BLOCK));
        }
        assert_eq!((read(&bus, reg::DATA0), bytes), (3, vec![11, 12, 13]));
    }
}
