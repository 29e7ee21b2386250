//! A PS/2 mouse with wheel and five buttons (IBM PS/2 Hardware Interface Technical Reference, mouse; Microsoft's
//! IntelliMouse extensions): stream, remote and wrap mode, packets of three and four bytes.

use state::State;

use super::Queue;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;

const REMOTE: u8 = 0x40;
const ENABLED: u8 = 0x20;
const SCALING: u8 = 0x10;

/// Types by what identifies them.
const PLAIN: u8 = 0;
const WHEEL: u8 = 3;
const FIVE_BUTTONS: u8 = 4;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "ps2mouse", version = 1)]
pub struct Mouse {
    pub(super) queue: Queue,
    /// The command whose parameter is awaited; 0 for none.
    command: u8,
    status: u8,
    resolution: u8,
    rate: u8,
    is_wrapping: bool,
    /// The last three sample rates: a guest spells out which type it wants.
    rates: [u8; 3],
    kind: u8,
    dx: i32,
    dy: i32,
    dz: i32,
    buttons: u8,
    /// The buttons of the last packet.
    sent_buttons: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            command: 0,
            status: 0,
            resolution: 2,
            rate: 100,
            is_wrapping: false,
            rates: [0; 3],
            kind: PLAIN,
            dx: 0,
            dy: 0,
            dz: 0,
            buttons: 0,
            sent_buttons: 0,
        }
    }
}

impl Mouse {
    /// The guest's driver takes movements.
    pub fn is_enabled(&self) -> bool {
        self.status & ENABLED != 0
    }

    fn set_defaults(&mut self) {
        let Self { queue, rates, kind, buttons, .. } = std::mem::take(self);
        *self = Self { queue, rates, kind, buttons, ..Self::default() };
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, byte: u8) {
        let waiting = std::mem::take(&mut self.command);
        if waiting != 0 {
            self.parameter(waiting, byte);
            return;
        }
        if self.is_wrapping && !matches!(byte, 0xec | 0xff) {
            self.queue.reply(&[byte]);
            return;
        }
        match byte {
            0xe6 => self.status &= !SCALING,
            0xe7 => self.status |= SCALING,
            0xe8 | 0xf3 => self.command = byte,
            0xe9 => {
                let buttons = (self.buttons & 1) << 2 | (self.buttons & 4) >> 1 | (self.buttons & 2) >> 1;
                self.queue.reply(&[ACKNOWLEDGE, self.status | buttons, self.resolution, self.rate]);
                return;
            }
            0xea => self.status &= !REMOTE,
            0xeb => {
                self.queue.reply(&[ACKNOWLEDGE]);
                self.send_packet(Queue::reply_packet);
                return;
            }
            0xec => self.is_wrapping = false,
            0xee => self.is_wrapping = true,
            0xf0 => self.status |= REMOTE,
            0xf2 => {
                self.queue.reply(&[ACKNOWLEDGE, self.kind]);
                return;
            }
            0xf4 => {
                self.status |= ENABLED;
                (self.dx, self.dy, self.dz) = (0, 0, 0);
            }
            0xf5 => self.status &= !ENABLED,
            0xf6 => self.set_defaults(),
            0xff => {
                let buttons = self.buttons;
                *self = Self { buttons, ..Self::default() };
                self.queue.reply(&[ACKNOWLEDGE, 0xaa, 0x00]);
                return;
            }
            _ => {
                self.queue.reply(&[RESEND]);
                return;
            }
        }
        self.queue.reply(&[ACKNOWLEDGE]);
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        if command == 0xe8 {
            self.resolution = byte;
        } else {
            self.rate = byte;
            self.rates = [self.rates[1], self.rates[2], byte];
            match self.rates {
                [200, 100, 80] => self.kind = WHEEL,
                [200, 200, 80] if self.kind == WHEEL => self.kind = FIVE_BUTTONS,
                _ => {}
            }
        }
        self.queue.reply(&[ACKNOWLEDGE]);
    }

    /// The mouse moved (right and up are positive, the wheel towards the user), or its buttons changed: bit 0 left,
    /// 1 right, 2 middle, 3 and 4 the side buttons.
    pub(super) fn moved(&mut self, (dx, dy, dz): (i32, i32, i32), buttons: u8) {
        self.buttons = buttons & 0x1f;
        if !self.is_enabled() {
            return;
        }
        self.dx = self.dx.saturating_add(dx);
        self.dy = self.dy.saturating_add(dy);
        self.dz = self.dz.saturating_add(dz);
        if self.status & REMOTE == 0 {
            self.stream();
        }
    }

    /// Sends packets until all the movement is told, or the queue is full; then the rest follows as it empties.
    pub(super) fn stream(&mut self) {
        while self.is_enabled() && self.status & REMOTE == 0 && self.has_news() && self.queue.has_room(4) {
            self.send_packet(Queue::push_packet);
        }
    }

    fn has_news(&self) -> bool {
        let wheel = if self.kind == PLAIN { 0 } else { self.dz };
        let mask = if self.kind == FIVE_BUTTONS { 0x1f } else { 7 };
        self.dx != 0 || self.dy != 0 || wheel != 0 || (self.buttons ^ self.sent_buttons) & mask != 0
    }

    fn send_packet(&mut self, send: fn(&mut Queue, &[u8])) {
        let (dx, dy) = (self.dx.clamp(-127, 127), self.dy.clamp(-127, 127));
        let first = 0x08 | (self.buttons & 7) | u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let mut packet = vec![first, dx as u8, dy as u8];
        match self.kind {
            WHEEL => {
                let dz = self.dz.clamp(-127, 127);
                self.dz -= dz;
                packet.push(dz as u8);
            }
            FIVE_BUTTONS => {
                let dz = self.dz.clamp(-7, 7);
                self.dz -= dz;
                packet.push((dz as u8 & 0x0f) | (self.buttons & 0x18) << 1);
            }
            _ => self.dz = 0,
        }
        (self.dx, self.dy) = (self.dx - dx, self.dy - dy);
        self.sent_buttons = self.buttons;
        send(&mut self.queue, &packet);
    }
}
