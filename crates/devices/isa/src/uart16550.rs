//! The 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! Both FIFOs with trigger levels and time-out, all interrupt sources in their priority, modem lines, loopback and the
//! divisor latch. Characters leave as fast as the backend takes them: the baud rate only sets the receive time-out.
//! When the backend takes nothing, the transmitter stays busy (THRE clear) until [`Uart16550::backend_writable`].
//! Left out: parity and framing errors (no backend has them), DMA mode signals, the interrupt gate OUT2 (QEMU has none).

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

/// Characters in each FIFO.
pub const FIFO_LEN: usize = 16;
/// The ports that a UART occupies.
pub const PORT_COUNT: u64 = 8;

mod ier {
    pub const RECEIVED: u8 = 0x01;
    pub const TRANSMITTER: u8 = 0x02;
    pub const LINE: u8 = 0x04;
    pub const MODEM: u8 = 0x08;
}

mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM: u8 = 0x00;
    pub const TRANSMITTER: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x0c;
    pub const FIFOS: u8 = 0xc0;
}

mod fcr {
    pub const ENABLE: u8 = 0x01;
    pub const CLEAR_RECEIVER: u8 = 0x02;
    pub const CLEAR_TRANSMITTER: u8 = 0x04;
    pub const KEPT: u8 = 0xc9;
}

mod lcr {
    pub const BREAK: u8 = 0x40;
    pub const DIVISOR: u8 = 0x80;
}

mod mcr {
    pub const DTR: u8 = 0x01;
    pub const RTS: u8 = 0x02;
    pub const OUT1: u8 = 0x04;
    pub const OUT2: u8 = 0x08;
    pub const LOOP: u8 = 0x10;
}

mod lsr {
    pub const READY: u8 = 0x01;
    pub const OVERRUN: u8 = 0x02;
    pub const BREAK: u8 = 0x10;
    pub const HOLDING_EMPTY: u8 = 0x20;
    pub const EMPTY: u8 = 0x40;
    pub const ERRORS: u8 = 0x1e;
}

mod msr {
    pub const CTS: u8 = 0x10;
    pub const DSR: u8 = 0x20;
    pub const RI: u8 = 0x40;
    pub const DCD: u8 = 0x80;
    pub const DELTAS: u8 = 0x0f;
}

/// How a line is driven: what the guest programmed, for a backend that is a real port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    /// Bits per second; 0 when the divisor is 0.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Bits 5..3 of LCR: none, odd, even, mark, space.
    pub parity: Parity,
    /// 1 or 2 (1.5 with five data bits counts as 2).
    pub stop_bits: u8,
    /// The break condition is sent.
    pub is_break: bool,
    /// Data terminal ready.
    pub dtr: bool,
    /// Request to send.
    pub rts: bool,
}

/// The parity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
    /// Always 1.
    Mark,
    /// Always 0.
    Space,
}

/// The modem lines that a backend drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModemLines {
    /// Clear to send.
    pub cts: bool,
    /// Data set ready.
    pub dsr: bool,
    /// Ring indicator.
    pub ri: bool,
    /// Data carrier detect.
    pub dcd: bool,
}

/// What a serial port is connected to. Methods are called with the device locked: they must not block, nor call the
/// device back on the same thread.
pub trait SerialBackend: Send {
    /// Takes the first of `bytes`, as many as it can at once, and returns their number. After less than all it calls
    /// [`Uart16550::backend_writable`] when it can take more.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// The receiver, which was full, has room for `room` characters again.
    fn input_room(&mut self, room: usize);

    /// The guest changed how the line is driven.
    fn line_changed(&mut self, settings: &LineSettings);
}

/// A backend that takes everything and gives nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

impl SerialBackend for NullBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn input_room(&mut self, _room: usize) {}

    fn line_changed(&mut self, _settings: &LineSettings) {}
}

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "serial", version = 1)]
struct UartState {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    lsr: u8,
    msr: u8,
    scratch: u8,
    /// The transmitter-empty interrupt waits.
    transmitter_pending: bool,
    /// The receive time-out interrupt waits.
    timeout_pending: bool,
    /// What waits to be sent: the holding register, or the FIFO.
    #[state(max_len = 16)]
    transmit: Vec<u8>,
    /// What was received: the buffer register, or the FIFO.
    #[state(max_len = 16)]
    receive: Vec<u8>,
    /// Guest time of the receive time-out; 0 when none is running.
    timeout_at: u64,
}

impl Default for UartState {
    fn default() -> Self {
        Self {
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: mcr::OUT2,
            lsr: lsr::HOLDING_EMPTY | lsr::EMPTY,
            msr: msr::DCD | msr::DSR | msr::CTS,
            scratch: 0,
            transmitter_pending: false,
            timeout_pending: false,
            transmit: Vec::new(),
            receive: Vec::new(),
            timeout_at: 0,
        }
    }
}

impl UartState {
    fn has_fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.has_fifos() { FIFO_LEN } else { 1 }
    }

    /// How many received characters ask for an interrupt.
    fn trigger(&self) -> usize {
        if self.has_fifos() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// The source of the interrupt with the highest priority.
    fn interrupt(&self) -> u8 {
        if self.ier & ier::LINE != 0 && self.lsr & lsr::ERRORS != 0 {
            iir::LINE
        } else if self.ier & ier::RECEIVED != 0 && self.timeout_pending {
            iir::TIMEOUT
        } else if self.ier & ier::RECEIVED != 0 && self.lsr & lsr::READY != 0 && self.receive.len() >= self.trigger() {
            iir::RECEIVED
        } else if self.ier & ier::TRANSMITTER != 0 && self.transmitter_pending {
            iir::TRANSMITTER
        } else if self.ier & ier::MODEM != 0 && self.msr & msr::DELTAS != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// Nanoseconds that one character takes on the line.
    fn character_time(&self) -> u64 {
        let bits = u64::from(self.lcr & 3) + 5 + 2 + u64::from(self.lcr >> 2 & 1) + u64::from(self.lcr >> 3 & 1);
        bits * 1_000_000_000 * u64::from(self.divisor.max(1)) / 115_200
    }

    fn settings(&self) -> LineSettings {
        LineSettings {
            baud: if self.divisor == 0 { 0 } else { 115_200 / u32::from(self.divisor) },
            data_bits: (self.lcr & 3) + 5,
            parity: match self.lcr >> 3 & 7 {
                1 => Parity::Odd,
                3 => Parity::Even,
                5 => Parity::Mark,
                7 => Parity::Space,
                _ => Parity::None,
            },
            stop_bits: (self.lcr >> 2 & 1) + 1,
            is_break: self.lcr & lcr::BREAK != 0,
            dtr: self.mcr & mcr::DTR != 0,
            rts: self.mcr & mcr::RTS != 0,
        }
    }

    /// The modem lines as MSR shows them; in loopback they are the outputs.
    fn modem(&self) -> u8 {
        if self.mcr & mcr::LOOP == 0 {
            return self.msr;
        }
        let line = |output: u8, input: u8| if self.mcr & output != 0 { input } else { 0 };
        line(mcr::RTS, msr::CTS) | line(mcr::DTR, msr::DSR) | line(mcr::OUT1, msr::RI) | line(mcr::OUT2, msr::DCD)
    }
}

/// A serial port. Region 0 has its eight ports.
pub struct Uart16550 {
    // Host resources.
    backend: Box<dyn SerialBackend>,
    // Wiring.
    clock: Clock,
    timeout: Timer,
    irq: IrqLine,
    // Guest-visible state.
    state: UartState,
    /// The backend was refused and waits to be told of room.
    owes_room: bool,
}

impl Uart16550 {
    /// A port that drives `irq`, connected to `backend`.
    pub fn new(clock: &Clock, irq: IrqLine, backend: Box<dyn SerialBackend>) -> DeviceCell<Self> {
        DeviceCell::new_cyclic(|handle| Self {
            backend,
            clock: clock.clone(),
            timeout: handle.timer(clock, Self::timeout_due),
            irq,
            state: UartState::default(),
            owes_room: false,
        })
    }

    /// How many characters [`Uart16550::receive`] takes now.
    pub fn receive_room(&self) -> usize {
        if self.state.mcr & mcr::LOOP != 0 {
            return 0;
        }
        self.state.capacity().saturating_sub(self.state.receive.len())
    }

    /// Characters arrive from the backend. Returns how many the receiver took; when it is less than all,
    /// [`SerialBackend::input_room`] is called once there is room.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.receive_room());
        self.owes_room = taken < bytes.len();
        if let Some(bytes) = bytes.get(..taken).filter(|bytes| !bytes.is_empty()) {
            self.put_received(bytes);
            self.update();
        }
        taken
    }

    /// The backend's line is in the break condition.
    pub fn receive_break(&mut self) {
        if self.receive_room() > 0 {
            self.put_received(&[0]);
        }
        self.state.lsr |= lsr::BREAK | lsr::READY;
        self.update();
    }

    /// The backend can take characters again.
    pub fn backend_writable(&mut self) {
        self.transmit();
        self.update();
    }

    /// The backend's modem lines changed.
    pub fn set_modem_lines(&mut self, lines: ModemLines) {
        let before = self.state.msr;
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let now =
            bit(lines.cts, msr::CTS) | bit(lines.dsr, msr::DSR) | bit(lines.ri, msr::RI) | bit(lines.dcd, msr::DCD);
        let changed = (before ^ now) & 0xf0;
        // Of the ring indicator only the trailing edge counts.
        let deltas = (changed & !(now & msr::RI)) >> 4;
        self.state.msr = now | (before & msr::DELTAS) | deltas;
        self.update();
    }

    fn put_received(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.state.receive.len() < self.state.capacity() {
                self.state.receive.push(byte);
            } else {
                self.state.lsr |= lsr::OVERRUN;
                if !self.state.has_fifos() {
                    self.state.receive = vec![byte];
                }
            }
        }
        self.state.lsr |= lsr::READY;
        self.start_timeout();
    }

    /// With FIFOs, four character times without a read interrupt as well.
    fn start_timeout(&mut self) {
        if self.state.has_fifos() && !self.state.receive.is_empty() {
            self.state.timeout_at = self.clock.now().saturating_add(4 * self.state.character_time());
            self.timeout.arm(self.state.timeout_at);
        } else {
            self.stop_timeout();
        }
    }

    fn stop_timeout(&mut self) {
        self.state.timeout_at = 0;
        self.timeout.cancel();
    }

    fn timeout_due(&mut self) {
        if self.state.timeout_at != 0 && self.clock.now() >= self.state.timeout_at {
            self.state.timeout_at = 0;
            self.state.timeout_pending = !self.state.receive.is_empty();
            self.update();
        }
    }

    fn update(&mut self) {
        let level = self.state.interrupt() != iir::NONE;
        self.irq.set(level);
    }

    /// Passes on what waits to be sent.
    fn transmit(&mut self) {
        if self.state.transmit.is_empty() {
            return;
        }
        if self.state.mcr & mcr::LOOP != 0 {
            let bytes = std::mem::take(&mut self.state.transmit);
            self.put_received(&bytes);
        } else {
            let taken = self.backend.write(&self.state.transmit).min(self.state.transmit.len());
            self.state.transmit.drain(..taken);
        }
        if self.state.transmit.is_empty() {
            self.state.lsr |= lsr::HOLDING_EMPTY | lsr::EMPTY;
            self.state.transmitter_pending = true;
        }
    }

    fn read_buffer(&mut self) -> u8 {
        if self.state.receive.is_empty() {
            return 0;
        }
        let byte = self.state.receive.remove(0);
        self.state.timeout_pending = false;
        if self.state.receive.is_empty() {
            self.state.lsr &= !(lsr::READY | lsr::BREAK);
        }
        self.start_timeout();
        self.offer_room();
        byte
    }

    fn offer_room(&mut self) {
        let room = self.receive_room();
        if self.owes_room && room > 0 {
            self.owes_room = false;
            self.backend.input_room(room);
        }
    }

    fn write_holding(&mut self, byte: u8) {
        let is_full = self.state.transmit.len() >= self.state.capacity();
        if is_full {
            // The guest did not wait: with a FIFO the character is lost, without one it replaces the waiting one.
            if !self.state.has_fifos() {
                self.state.transmit = vec![byte];
            }
        } else {
            self.state.transmit.push(byte);
        }
        self.state.transmitter_pending = false;
        self.state.lsr &= !(lsr::HOLDING_EMPTY | lsr::EMPTY);
        self.transmit();
    }

    fn write_fcr(&mut self, value: u8) {
        let toggles = (self.state.fcr ^ value) & fcr::ENABLE != 0;
        let value = if toggles { value | fcr::CLEAR_RECEIVER | fcr::CLEAR_TRANSMITTER } else { value };
        self.state.fcr = value & fcr::KEPT;
        if value & fcr::CLEAR_RECEIVER != 0 {
            self.state.receive.clear();
            self.state.lsr &= !(lsr::READY | lsr::BREAK);
            self.state.timeout_pending = false;
            self.stop_timeout();
            self.offer_room();
        }
        if value & fcr::CLEAR_TRANSMITTER != 0 {
            self.state.transmit.clear();
            self.state.lsr |= lsr::HOLDING_EMPTY | lsr::EMPTY;
            self.state.transmitter_pending = true;
        }
    }

    fn write_ier(&mut self, value: u8) {
        let changed = self.state.ier ^ value;
        self.state.ier = value & 0x0f;
        if changed & ier::TRANSMITTER != 0 {
            // Enabling the interrupt while the transmitter is empty raises it.
            self.state.transmitter_pending = value & ier::TRANSMITTER != 0 && self.state.lsr & lsr::HOLDING_EMPTY != 0;
        }
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.state.settings();
        self.state.mcr = value & 0x1f;
        self.report_settings(&before);
        self.offer_room();
    }

    fn report_settings(&mut self, before: &LineSettings) {
        let settings = self.state.settings();
        if settings != *before {
            self.backend.line_changed(&settings);
        }
    }
}

impl Device for Uart16550 {
    fn reset(&mut self, _kind: ResetKind) {
        let before = self.state.settings();
        // The backend's lines are its own.
        let lines = self.state.msr & !msr::DELTAS;
        self.state = UartState { msr: lines, ..UartState::default() };
        self.stop_timeout();
        self.report_settings(&before);
        self.offer_room();
        self.update();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.irq.restore(self.state.interrupt() != iir::NONE);
        match self.state.timeout_at {
            0 => self.timeout.cancel(),
            at => self.timeout.arm(at),
        }
        let settings = self.state.settings();
        self.backend.line_changed(&settings);
        self.transmit();
    }
}

impl IoDevice for Uart16550 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        let has_divisor = self.state.lcr & lcr::DIVISOR != 0;
        let value = match offset {
            0 if has_divisor => self.state.divisor as u8,
            1 if has_divisor => (self.state.divisor >> 8) as u8,
            0 => self.read_buffer(),
            1 => self.state.ier,
            2 => {
                let source = self.state.interrupt();
                if source == iir::TRANSMITTER {
                    self.state.transmitter_pending = false;
                }
                source | if self.state.has_fifos() { iir::FIFOS } else { 0 }
            }
            3 => self.state.lcr,
            4 => self.state.mcr,
            5 => {
                let status = self.state.lsr;
                self.state.lsr &= !(lsr::BREAK | lsr::OVERRUN);
                status
            }
            6 => {
                let lines = self.state.modem();
                if self.state.mcr & mcr::LOOP == 0 {
                    self.state.msr &= !msr::DELTAS;
                }
                lines
            }
            _ => self.state.scratch,
        };
        if matches!(offset, 0 | 2 | 5 | 6) {
            self.update();
        }
        u64::from(value)
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        let value = value as u8;
        let has_divisor = self.state.lcr & lcr::DIVISOR != 0;
        let before = self.state.settings();
        match offset {
            0 if has_divisor => self.state.divisor = (self.state.divisor & 0xff00) | u16::from(value),
            1 if has_divisor => self.state.divisor = (self.state.divisor & 0x00ff) | u16::from(value) << 8,
            0 => self.write_holding(value),
            1 => self.write_ier(value),
            2 => self.write_fcr(value),
            3 => self.state.lcr = value,
            4 => return self.write_mcr(value),
            // The line and modem status can't be written.
            5 | 6 => {}
            _ => self.state.scratch = value,
        }
        let settings = self.state.settings();
        if has_divisor && offset < 2 && !settings.is_break {
            // Whoever is behind the line may not know its speed yet, even where it is that of a reset.
            self.backend.line_changed(&settings);
        } else if offset != 0 {
            self.report_settings(&before);
        }
        self.update();
    }
}

#[cfg(test)]
mod tests;
