//! 16550A UART (National Semiconductor PC16550D data sheet).
//!
//! Register-accurate, but not timed by the bit: a byte that the guest writes goes to the host at once, and the
//! transmitter is empty again as soon as the host has taken it. While the host does not take it, the transmitter stays
//! full, as a UART with flow control does, and the guest waits. Left out on purpose: parity, framing and break *errors*
//! (the host side has none).

use device::{AccessSize, Device, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// The host's end of the line. Called with the device's lock held, so it must not wait.
pub trait SerialBackend: Send {
    /// Offers bytes to the host; returns how many it took. If not all, the owner calls
    /// [`Uart16550::backend_writable`] when there is room.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// The receiver has room again: bytes that [`Uart16550::receive`] did not take may be offered once more.
    fn receiver_ready(&mut self);
}

/// Interrupt enable register bits.
mod ier {
    pub const RECEIVED: u8 = 1;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const WRITABLE: u8 = 0x0f;
}
/// Interrupt identification register values.
mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const CHARACTER_TIMEOUT: u8 = 0x0c;
    pub const FIFOS_ENABLED: u8 = 0xc0;
}
/// FIFO control register bits.
mod fcr {
    pub const ENABLE: u8 = 1;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    pub const CLEAR_TRANSMITTER: u8 = 1 << 2;
    pub const KEPT: u8 = 0xc9;
}
/// Line control register bits.
mod lcr {
    pub const DIVISOR_LATCH: u8 = 1 << 7;
}
/// Modem control register bits.
mod mcr {
    pub const DTR: u8 = 1;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const WRITABLE: u8 = 0x1f;
}
/// Line status register bits.
mod lsr {
    pub const DATA_READY: u8 = 1;
    pub const OVERRUN: u8 = 1 << 1;
    pub const BREAK: u8 = 1 << 4;
    pub const HOLDING_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
    /// The bits that raise the line status interrupt.
    pub const ERRORS: u8 = 0x1e;
}
/// Modem status register bits.
mod msr {
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const DELTA_RI: u8 = 1 << 2;
    pub const LINES: u8 = 0xf0;
}

/// Bytes in each FIFO.
const FIFO_SIZE: usize = 16;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "serial", version = 1)]
struct Registers {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    lsr: u8,
    msr: u8,
    scratch: u8,
    /// A transmitter-empty interrupt that reading the IIR acknowledges.
    transmitter_interrupt: bool,
    /// Bytes wait in the receive FIFO below the trigger level, and the line is idle.
    character_timeout: bool,
    #[state(max_len = 16)]
    receive: Vec<u8>,
    #[state(max_len = 16)]
    transmit: Vec<u8>,
}

impl Registers {
    fn power_on() -> Self {
        Self {
            divisor: 0x0c, // 9600 baud
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: mcr::OUT2,
            lsr: lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY,
            msr: msr::DCD | msr::DSR | msr::CTS,
            scratch: 0,
            transmitter_interrupt: false,
            character_timeout: false,
            receive: Vec::new(),
            transmit: Vec::new(),
        }
    }

    fn has_fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    /// How many received bytes raise the interrupt.
    fn trigger_level(&self) -> usize {
        if !self.has_fifos() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn receive_capacity(&self) -> usize {
        if self.has_fifos() { FIFO_SIZE } else { 1 }
    }

    /// The highest-priority pending interrupt (data sheet, table 5).
    fn interrupt_id(&self) -> u8 {
        let received = self.ier & ier::RECEIVED != 0 && self.lsr & lsr::DATA_READY != 0;
        if self.ier & ier::LINE_STATUS != 0 && self.lsr & lsr::ERRORS != 0 {
            iir::LINE_STATUS
        } else if received && self.character_timeout {
            iir::CHARACTER_TIMEOUT
        } else if received && self.receive.len() >= self.trigger_level() {
            iir::RECEIVED
        } else if self.ier & ier::TRANSMITTER_EMPTY != 0 && self.transmitter_interrupt {
            iir::TRANSMITTER_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.msr & !msr::LINES != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }
}

/// One UART: eight ports.
pub struct Uart16550 {
    // Host resources.
    backend: Option<Box<dyn SerialBackend>>,
    // Wiring.
    irq: IrqLine,
    // Guest-visible state.
    registers: Registers,
}

impl Uart16550 {
    /// A UART whose interrupt output is `irq`. Without a backend, output vanishes.
    pub fn new(irq: IrqLine, backend: Option<Box<dyn SerialBackend>>) -> Self {
        Self { backend, irq, registers: Registers::power_on() }
    }

    /// Sets the host's end of the line; bytes that wait are offered to it.
    pub fn set_backend(&mut self, backend: Option<Box<dyn SerialBackend>>) {
        self.backend = backend;
        self.transmit_pending();
        self.update_irq();
    }

    /// Bytes from the host. Returns how many the receiver took; the rest may be offered again after
    /// [`SerialBackend::receiver_ready`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if self.registers.mcr & mcr::LOOPBACK != 0 {
            return 0;
        }
        let room = self.registers.receive_capacity().saturating_sub(self.registers.receive.len());
        let taken = &bytes[..bytes.len().min(room)];
        if !taken.is_empty() {
            self.registers.receive.extend_from_slice(taken);
            self.registers.lsr |= lsr::DATA_READY;
            // No more bits come in after this, so that the time-out of four characters is over at once.
            self.registers.character_timeout =
                self.registers.has_fifos() && self.registers.receive.len() < self.registers.trigger_level();
            self.update_irq();
        }
        taken.len()
    }

    /// A break condition on the line.
    pub fn receive_break(&mut self) {
        self.registers.lsr |= lsr::BREAK | lsr::DATA_READY;
        if self.registers.receive.len() < self.registers.receive_capacity() {
            self.registers.receive.push(0);
        }
        self.update_irq();
    }

    /// The host takes output again.
    pub fn backend_writable(&mut self) {
        self.transmit_pending();
        self.update_irq();
    }

    fn update_irq(&mut self) {
        let level = self.registers.interrupt_id() != iir::NONE;
        self.irq.set(level);
    }

    /// Offers waiting output to the host.
    fn transmit_pending(&mut self) {
        if self.registers.transmit.is_empty() {
            return;
        }
        let taken = match &mut self.backend {
            Some(backend) => backend.write(&self.registers.transmit),
            None => self.registers.transmit.len(),
        };
        self.registers.transmit.drain(..taken.min(self.registers.transmit.len()));
        if self.registers.transmit.is_empty() {
            self.registers.lsr |= lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
            self.registers.transmitter_interrupt = true;
        }
    }

    fn write_transmit(&mut self, byte: u8) {
        self.registers.transmitter_interrupt = false;
        if self.registers.mcr & mcr::LOOPBACK != 0 {
            self.loop_back(byte);
            return;
        }
        let capacity = if self.registers.has_fifos() { FIFO_SIZE } else { 1 };
        if self.registers.transmit.len() >= capacity {
            // The guest wrote to a full transmitter: the last byte is lost, as on the chip.
            self.registers.transmit.pop();
        }
        self.registers.transmit.push(byte);
        self.registers.lsr &= !(lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY);
        self.transmit_pending();
        self.update_irq();
    }

    /// Loopback mode: what is sent is received.
    fn loop_back(&mut self, byte: u8) {
        if self.registers.receive.len() < self.registers.receive_capacity() {
            self.registers.receive.push(byte);
        } else {
            self.registers.lsr |= lsr::OVERRUN;
        }
        self.registers.lsr |= lsr::DATA_READY | lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
        self.registers.transmitter_interrupt = true;
        self.update_irq();
    }

    fn read_receive(&mut self) -> u8 {
        let byte = if self.registers.receive.is_empty() { 0 } else { self.registers.receive.remove(0) };
        let left = self.registers.receive.len();
        if left == 0 {
            self.registers.lsr &= !(lsr::DATA_READY | lsr::BREAK);
        }
        self.registers.character_timeout =
            left > 0 && self.registers.has_fifos() && left < self.registers.trigger_level();
        self.update_irq();
        if let Some(backend) = &mut self.backend {
            backend.receiver_ready();
        }
        byte
    }

    fn read_iir(&mut self) -> u8 {
        let id = self.registers.interrupt_id();
        if id == iir::TRANSMITTER_EMPTY {
            self.registers.transmitter_interrupt = false;
            self.update_irq();
        }
        if self.registers.has_fifos() { id | iir::FIFOS_ENABLED } else { id }
    }

    fn write_ier(&mut self, value: u8) {
        let old = self.registers.ier;
        self.registers.ier = value & ier::WRITABLE;
        let enabled = self.registers.ier & !old;
        // Enabling the transmitter interrupt while the transmitter is empty raises it.
        if enabled & ier::TRANSMITTER_EMPTY != 0 && self.registers.lsr & lsr::HOLDING_EMPTY != 0 {
            self.registers.transmitter_interrupt = true;
        }
        self.update_irq();
    }

    fn write_fcr(&mut self, value: u8) {
        let changed = (value ^ self.registers.fcr) & fcr::ENABLE != 0;
        if changed || value & fcr::CLEAR_RECEIVER != 0 {
            self.registers.receive.clear();
            self.registers.character_timeout = false;
            self.registers.lsr &= !(lsr::DATA_READY | lsr::BREAK);
        }
        if changed || value & fcr::CLEAR_TRANSMITTER != 0 {
            self.registers.transmit.clear();
            self.registers.lsr |= lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
            self.registers.transmitter_interrupt = true;
        }
        self.registers.fcr = value & fcr::KEPT;
        self.update_irq();
        if let Some(backend) = &mut self.backend {
            backend.receiver_ready();
        }
    }

    /// In loopback mode the modem outputs are the modem inputs (data sheet, 8.6).
    fn modem_lines(&self) -> u8 {
        if self.registers.mcr & mcr::LOOPBACK == 0 {
            return msr::DCD | msr::DSR | msr::CTS;
        }
        let pairs = [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)];
        pairs
            .into_iter()
            .filter(|(output, _)| self.registers.mcr & output != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }

    fn write_mcr(&mut self, value: u8) {
        let was_looped = self.registers.mcr & mcr::LOOPBACK != 0;
        self.registers.mcr = value & mcr::WRITABLE;
        let old = self.registers.msr & msr::LINES;
        let new = self.modem_lines();
        let mut deltas = (old ^ new) >> 4;
        // The ring indicator's delta is its trailing edge only.
        if new & msr::RI != 0 {
            deltas &= !msr::DELTA_RI;
        }
        self.registers.msr = new | (self.registers.msr & !msr::LINES) | deltas;
        self.update_irq();
        if was_looped
            && self.registers.mcr & mcr::LOOPBACK == 0
            && let Some(backend) = &mut self.backend
        {
            backend.receiver_ready();
        }
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        let latch = self.registers.lcr & lcr::DIVISOR_LATCH != 0;
        match offset {
            0 if latch => self.registers.divisor as u8,
            0 => self.read_receive(),
            1 if latch => (self.registers.divisor >> 8) as u8,
            1 => self.registers.ier,
            2 => self.read_iir(),
            3 => self.registers.lcr,
            4 => self.registers.mcr,
            5 => {
                let value = self.registers.lsr;
                if value & (lsr::OVERRUN | lsr::BREAK) != 0 {
                    self.registers.lsr &= !(lsr::OVERRUN | lsr::BREAK);
                    self.update_irq();
                }
                value
            }
            6 => {
                let value = self.registers.msr;
                self.registers.msr &= msr::LINES;
                self.update_irq();
                value
            }
            _ => self.registers.scratch,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        let latch = self.registers.lcr & lcr::DIVISOR_LATCH != 0;
        match offset {
            0 if latch => self.registers.divisor = (self.registers.divisor & 0xff00) | u16::from(value),
            0 => self.write_transmit(value),
            1 if latch => self.registers.divisor = (self.registers.divisor & 0x00ff) | (u16::from(value) << 8),
            1 => self.write_ier(value),
            2 => self.write_fcr(value),
            3 => self.registers.lcr = value,
            4 => self.write_mcr(value),
            7 => self.registers.scratch = value,
            // The line and modem status registers are not meant to be written.
            _ => {}
        }
    }
}

impl Device for Uart16550 {
    fn reset(&mut self, _: ResetKind) {
        self.registers = Registers::power_on();
        self.update_irq();
        if let Some(backend) = &mut self.backend {
            backend.receiver_ready();
        }
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.irq.restore(self.registers.interrupt_id() != iir::NONE);
        self.transmit_pending();
        self.update_irq();
    }
}

impl IoDevice for Uart16550 {
    fn access_sizes(&self, _: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _: usize, offset: u64, _: AccessSize) -> u64 {
        u64::from(self.read_register(offset))
    }

    fn write(&mut self, _: usize, offset: u64, _: AccessSize, value: u64) {
        self.write_register(offset, value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A host that takes at most `room` bytes.
    #[derive(Clone, Default)]
    struct Host(Arc<Mutex<(Vec<u8>, usize, usize)>>);

    impl SerialBackend for Host {
        fn write(&mut self, bytes: &[u8]) -> usize {
            let mut host = self.0.lock().expect("host");
            let taken = bytes.len().min(host.1);
            host.0.extend(&bytes[..taken]);
            host.1 -= taken;
            taken
        }
        fn receiver_ready(&mut self) {
            self.0.lock().expect("host").2 += 1;
        }
    }

    fn uart(room: usize) -> (Uart16550, Host) {
        let host = Host::default();
        host.0.lock().expect("host").1 = room;
        (Uart16550::new(IrqLine::unconnected(), Some(Box::new(host.clone()))), host)
    }

    fn read(uart: &mut Uart16550, offset: u64) -> u64 {
        uart.read(0, offset, AccessSize::Byte)
    }

    fn write(uart: &mut Uart16550, offset: u64, value: u64) {
        uart.write(0, offset, AccessSize::Byte, value);
    }

    #[test]
    fn transmit_to_a_slow_host_keeps_the_byte_and_the_guest_waits() {
        let (mut uart, host) = uart(1);
        write(&mut uart, 1, 2);
        assert_eq!(read(&mut uart, 2), 0x02);
        assert_eq!(read(&mut uart, 2), 0x01);
        write(&mut uart, 0, 0x41);
        assert_eq!(read(&mut uart, 5), 0x60);
        write(&mut uart, 0, 0x42);
        assert_eq!(read(&mut uart, 5), 0);
        assert!(!uart.irq.level());
        host.0.lock().expect("host").1 = 1;
        uart.backend_writable();
        assert!(uart.irq.level());
        assert_eq!(read(&mut uart, 5), 0x60);
        assert_eq!(host.0.lock().expect("host").0, b"AB");
    }

    #[test]
    fn receive_fills_the_fifo_to_its_size_and_asks_for_more_when_read() {
        let (mut uart, host) = uart(0);
        write(&mut uart, 2, 0xc1);
        write(&mut uart, 1, 1);
        assert_eq!(uart.receive(&[1, 2, 3]), 3);
        assert_eq!(read(&mut uart, 2), 0xcc);
        assert_eq!(uart.receive(&[9; 20]), 13);
        assert_eq!(read(&mut uart, 2), 0xc4);
        let ready = host.0.lock().expect("host").2;
        assert_eq!(read(&mut uart, 0), 1);
        assert!(host.0.lock().expect("host").2 > ready);
        assert_eq!(uart.receive(&[7, 7]), 1);
        write(&mut uart, 2, 0xc3);
        assert_eq!((read(&mut uart, 5), uart.irq.level()), (0x60, false));
    }

    #[test]
    fn loopback_returns_bytes_and_modem_lines() {
        let (mut uart, host) = uart(10);
        write(&mut uart, 4, 0x1a);
        write(&mut uart, 0, 0x55);
        assert_eq!(read(&mut uart, 0), 0x55);
        assert_eq!(read(&mut uart, 6) & 0xf0, 0x90);
        assert_eq!(uart.receive(&[1]), 0);
        write(&mut uart, 4, 0x08);
        assert_eq!(read(&mut uart, 6) & 0xf0, 0xb0);
        assert!(host.0.lock().expect("host").0.is_empty());
    }

    #[test]
    fn divisor_latch_and_scratch_hold_what_is_written() {
        let (mut uart, _host) = uart(0);
        write(&mut uart, 3, 0x83);
        write(&mut uart, 0, 1);
        write(&mut uart, 1, 2);
        assert_eq!((read(&mut uart, 0), read(&mut uart, 1)), (1, 2));
        write(&mut uart, 3, 3);
        write(&mut uart, 7, 0xa5);
        assert_eq!((read(&mut uart, 1), read(&mut uart, 7)), (0, 0xa5));
        uart.reset(ResetKind::Warm);
        assert_eq!((read(&mut uart, 3), read(&mut uart, 7)), (0, 0));
    }
}
