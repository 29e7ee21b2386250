//! The keyboard controller (IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller)
//! at ports 0x60 and 0x64, with its PS/2 keyboard and mouse.
//!
//! Bytes of the devices come at once: there is no serial clock. Translation to scancode set 1 happens in the controller,
//! as in hardware. Left out: the passwords and the controller's test inputs.

mod keyboard;
mod mouse;
pub mod scancodes;
#[cfg(test)]
mod tests;

use device::{AccessSize, Device, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

use crate::legacy_ports::{A20Callback, ResetRequest};
pub use keyboard::Keyboard;
pub use mouse::Mouse;

/// Region 0: the data port (0x60).
pub const REGION_DATA: usize = 0;
/// Region 1: the status and command port (0x64).
pub const REGION_COMMAND: usize = 1;

/// Bytes that a device's queue holds for input; replies have room beyond.
const INPUT_LEN: usize = 16;
const QUEUE_LEN: usize = 32;

mod status {
    pub const OUTPUT_FULL: u8 = 0x01;
    pub const SELF_TEST: u8 = 0x04;
    pub const COMMAND: u8 = 0x08;
    pub const UNLOCKED: u8 = 0x10;
    pub const MOUSE_OUTPUT: u8 = 0x20;
}

mod mode {
    pub const KEYBOARD_INTERRUPT: u8 = 0x01;
    pub const MOUSE_INTERRUPT: u8 = 0x02;
    pub const SYSTEM: u8 = 0x04;
    pub const KEYBOARD_OFF: u8 = 0x10;
    pub const MOUSE_OFF: u8 = 0x20;
    pub const TRANSLATE: u8 = 0x40;
}

mod port {
    pub const NOT_RESET: u8 = 0x01;
    pub const A20: u8 = 0x02;
    pub const KEYBOARD_FULL: u8 = 0x10;
    pub const MOUSE_FULL: u8 = 0x20;
    pub const ONES: u8 = 0xcc;
}

/// What a device has to send: replies first, then input.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ps2_queue", version = 1)]
pub struct Queue {
    #[state(max_len = 32)]
    bytes: Vec<u8>,
    /// How many of the first bytes are replies.
    replies: u8,
}

impl Queue {
    fn pop(&mut self) -> Option<u8> {
        if self.bytes.is_empty() {
            return None;
        }
        self.replies = self.replies.saturating_sub(1);
        Some(self.bytes.remove(0))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn has_room(&self, len: usize) -> bool {
        self.bytes.len() + len <= INPUT_LEN
    }

    /// Appends input, all or nothing.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.has_room(bytes.len());
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// Puts a reply in front of the input.
    fn reply(&mut self, bytes: &[u8]) {
        let at = usize::from(self.replies).min(self.bytes.len());
        let room = QUEUE_LEN - self.bytes.len().min(QUEUE_LEN);
        let taken = bytes.len().min(room);
        self.bytes.splice(at..at, bytes[..taken].iter().copied());
        self.replies = (at + taken) as u8;
    }

    fn push_packet(&mut self, packet: &[u8]) {
        self.push(packet);
    }

    fn reply_packet(&mut self, packet: &[u8]) {
        self.reply(packet);
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "pckbd", version = 1)]
struct ControllerState {
    /// The command whose data byte is awaited; 0 for none.
    command: u8,
    status: u8,
    mode: u8,
    output_port: u8,
    /// The output buffer.
    data: u8,
    /// Bytes of the controller itself that wait for the output buffer.
    #[state(max_len = 32)]
    own: Vec<u8>,
    /// Bytes that the controller puts out as if the mouse had sent them (command D3H), even while the mouse is off.
    #[state(max_len = 32)]
    own_as_mouse: Vec<u8>,
    /// The controller's memory behind the mode byte.
    memory: [u8; 31],
    /// F0 of set 2 was translated: the next code is a release.
    is_release: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for ControllerState {
    fn default() -> Self {
        Self {
            command: 0,
            status: status::COMMAND | status::UNLOCKED,
            mode: mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT,
            output_port: port::NOT_RESET | port::A20 | port::ONES,
            data: 0,
            own: Vec::new(),
            own_as_mouse: Vec::new(),
            memory: [0; 31],
            is_release: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

/// The controller with its two devices.
pub struct I8042 {
    // Wiring.
    keyboard_irq: IrqLine,
    mouse_irq: IrqLine,
    a20: A20Callback,
    reset: ResetRequest,
    leds: LedCallback,
    // Guest-visible state.
    state: ControllerState,
}

/// Is told of the keyboard's lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
pub type LedCallback = Box<dyn FnMut(u8) + Send>;

impl I8042 {
    /// A controller that drives `keyboard_irq` (1) and `mouse_irq` (12), the A20 gate and the reset line.
    pub fn new(keyboard_irq: IrqLine, mouse_irq: IrqLine, a20: A20Callback, reset: ResetRequest) -> Self {
        Self { keyboard_irq, mouse_irq, a20, reset, leds: Box::new(|_| ()), state: ControllerState::default() }
    }

    /// Sets who is told when the keyboard's lights change.
    pub fn on_leds(&mut self, leds: LedCallback) {
        self.leds = leds;
    }

    /// A key went down or up: its number, see [`scancodes`].
    pub fn key(&mut self, key: u8, is_down: bool) {
        self.state.keyboard.key(key, is_down);
        self.update();
    }

    /// The mouse moved by (right, up, wheel towards the user), or its buttons changed: bit 0 left, 1 right, 2 middle,
    /// 3 and 4 the side buttons.
    pub fn mouse(&mut self, movement: (i32, i32, i32), buttons: u8) {
        self.state.mouse.moved(movement, buttons);
        self.update();
    }

    /// The keyboard, for its lights.
    pub fn keyboard(&self) -> &Keyboard {
        &self.state.keyboard
    }

    /// Whether the guest's driver takes the mouse's movements.
    pub fn is_mouse_enabled(&self) -> bool {
        self.state.mouse.is_enabled()
    }

    /// Fills the output buffer if it is empty, and sets the interrupt lines.
    fn update(&mut self) {
        if self.state.status & status::OUTPUT_FULL == 0 {
            self.fill();
        }
        let (status, mode) = (self.state.status, self.state.mode);
        let is_full = status & status::OUTPUT_FULL != 0;
        let is_mouse = status & status::MOUSE_OUTPUT != 0;
        self.keyboard_irq.set(is_full && !is_mouse && mode & mode::KEYBOARD_INTERRUPT != 0);
        self.mouse_irq.set(is_full && is_mouse && mode & mode::MOUSE_INTERRUPT != 0);
    }

    fn fill(&mut self) {
        let state = &mut self.state;
        if !state.own.is_empty() {
            let byte = state.own.remove(0);
            self.put(byte, false);
            return;
        }
        if !state.own_as_mouse.is_empty() {
            let byte = state.own_as_mouse.remove(0);
            self.put(byte, true);
            return;
        }
        while state.mode & mode::KEYBOARD_OFF == 0
            && let Some(byte) = state.keyboard.take()
        {
            if state.mode & mode::TRANSLATE == 0 {
                self.put(byte, false);
                return;
            }
            if byte == 0xf0 {
                state.is_release = true;
                continue;
            }
            let release = if std::mem::take(&mut state.is_release) { 0x80 } else { 0 };
            let byte = scancodes::translate(byte) | release;
            self.put(byte, false);
            return;
        }
        if state.mode & mode::MOUSE_OFF == 0
            && let Some(byte) = state.mouse.queue.pop()
        {
            state.mouse.stream();
            self.put(byte, true);
        }
    }

    fn put(&mut self, byte: u8, is_mouse: bool) {
        self.state.data = byte;
        self.state.status |= status::OUTPUT_FULL;
        if is_mouse {
            self.state.status |= status::MOUSE_OUTPUT;
        } else {
            self.state.status &= !status::MOUSE_OUTPUT;
        }
    }

    /// The controller itself has something to say.
    fn answer(&mut self, byte: u8) {
        if self.state.own.len() < QUEUE_LEN {
            self.state.own.push(byte);
        }
    }

    fn tell_leds(&mut self, before: u8) {
        let now = self.state.keyboard.leds();
        if now != before {
            (self.leds)(now);
        }
    }

    fn output_port(&self) -> u8 {
        let full = match self.state.status & (status::OUTPUT_FULL | status::MOUSE_OUTPUT) {
            status::OUTPUT_FULL => port::KEYBOARD_FULL,
            0 | status::MOUSE_OUTPUT => 0,
            _ => port::MOUSE_FULL,
        };
        self.state.output_port & !(port::KEYBOARD_FULL | port::MOUSE_FULL) | full
    }

    fn write_output_port(&mut self, value: u8) {
        self.state.output_port = value;
        (self.a20)(value & port::A20 != 0);
        if value & port::NOT_RESET == 0 {
            (self.reset)();
        }
    }

    fn set_a20(&mut self, level: bool) {
        let others = self.state.output_port & !port::A20;
        self.state.output_port = others | if level { port::A20 } else { 0 };
        (self.a20)(level);
    }

    fn write_command(&mut self, command: u8) {
        self.state.status |= status::COMMAND;
        self.state.command = 0;
        match command {
            0x20 => self.answer(self.state.mode),
            0x21..=0x3f => self.answer(self.state.memory[usize::from(command - 0x21)]),
            // Their data byte follows.
            0x60..=0x7f | 0xd1..=0xd4 => self.state.command = command,
            0xa7 => self.state.mode |= mode::MOUSE_OFF,
            0xa8 => self.state.mode &= !mode::MOUSE_OFF,
            0xaa => {
                self.state.status |= status::SELF_TEST;
                self.answer(0x55);
            }
            // The interfaces of mouse and keyboard are fine.
            0xa9 | 0xab => self.answer(0x00),
            0xad => self.state.mode |= mode::KEYBOARD_OFF,
            0xae => self.state.mode &= !mode::KEYBOARD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port()),
            0xdd => self.set_a20(false),
            0xdf => self.set_a20(true),
            // Pulses the output lines whose bits are clear; only the reset line is wired for it.
            0xf0..=0xff if command & 1 == 0 => (self.reset)(),
            _ => {}
        }
        self.update();
    }

    fn write_data(&mut self, value: u8) {
        self.state.status &= !status::COMMAND;
        match std::mem::take(&mut self.state.command) {
            0 => {
                // Talking to the keyboard switches it on.
                self.state.mode &= !mode::KEYBOARD_OFF;
                let before = self.state.keyboard.leds();
                self.state.keyboard.command(value);
                self.tell_leds(before);
            }
            0x60 => {
                self.state.mode = value;
                let flag = if value & mode::SYSTEM != 0 { status::SELF_TEST } else { 0 };
                self.state.status = self.state.status & !status::SELF_TEST | flag;
            }
            command @ 0x61..=0x7f => self.state.memory[usize::from(command - 0x61)] = value,
            0xd1 => self.write_output_port(value),
            0xd2 => self.answer(value),
            0xd3 => {
                if self.state.own_as_mouse.len() < QUEUE_LEN {
                    self.state.own_as_mouse.push(value);
                }
            }
            _ => {
                self.state.mode &= !mode::MOUSE_OFF;
                self.state.mouse.command(value);
            }
        }
        self.update();
    }
}

impl Device for I8042 {
    fn reset(&mut self, _kind: ResetKind) {
        let before = self.state.keyboard.leds();
        self.state = ControllerState::default();
        self.tell_leds(before);
        self.update();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let (status, mode) = (self.state.status, self.state.mode);
        let is_full = status & status::OUTPUT_FULL != 0;
        let is_mouse = status & status::MOUSE_OUTPUT != 0;
        self.keyboard_irq.restore(is_full && !is_mouse && mode & mode::KEYBOARD_INTERRUPT != 0);
        self.mouse_irq.restore(is_full && is_mouse && mode & mode::MOUSE_INTERRUPT != 0);
        (self.a20)(self.state.output_port & port::A20 != 0);
    }
}

impl IoDevice for I8042 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, region: usize, _offset: u64, _size: AccessSize) -> u64 {
        if region == REGION_COMMAND {
            return u64::from(self.state.status);
        }
        let byte = self.state.data;
        if self.state.status & status::OUTPUT_FULL != 0 {
            self.state.status &= !(status::OUTPUT_FULL | status::MOUSE_OUTPUT);
            // The lines fall between two bytes: each byte is an edge.
            self.keyboard_irq.set(false);
            self.mouse_irq.set(false);
            self.update();
        }
        u64::from(byte)
    }

    fn write(&mut self, region: usize, _offset: u64, _size: AccessSize, value: u64) {
        if region == REGION_COMMAND {
            self.write_command(value as u8);
        } else {
            self.write_data(value as u8);
        }
    }
}
