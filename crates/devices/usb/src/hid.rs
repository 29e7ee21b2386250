//! Keyboard, mouse and tablet (HID 1.11): `usb-kbd`, `usb-mouse` and `usb-tablet`.
//!
//! Reports are those of the boot protocol, which is also what the report descriptors say, so that the choice of protocol
//! has no effect. Left out: output reports through an endpoint, and strings or units of controls (none are declared).

mod descriptors;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use clock::{Clock, Timer};
use device::{DeviceCell, Handle};
use display::input::{ABSOLUTE_MAX, Axis, Button, DeviceId, Event, Hub as InputHub, InputDevice, Leds, Seat, Takes};
use state::State;

use crate::bus::{Outcome, Pipe, Token};
use crate::data::Data;
use crate::descriptor::{Descriptors, kind};
use crate::device::{Function, Labels, Setup, Stalled, UsbDevice};

pub use self::descriptors::serial;

/// What the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HidKind {
    /// A keyboard.
    Keyboard,
    /// A mouse with wheel.
    Mouse,
    /// A pointer with absolute positions.
    Tablet,
}

impl HidKind {
    /// What it is called as an input device.
    fn input_name(self) -> &'static str {
        match self {
            Self::Keyboard => "QEMU HID Keyboard",
            Self::Mouse => "QEMU HID Mouse",
            Self::Tablet => "QEMU HID Tablet",
        }
    }

    fn takes(self) -> Takes {
        match self {
            Self::Keyboard => Takes::KEYBOARD,
            Self::Mouse => Takes::MOUSE,
            Self::Tablet => Takes::TABLET,
        }
    }
}

/// Requests of the HID class (HID 1.11, 7.2): request type and request.
mod request {
    pub const GET_INTERFACE_DESCRIPTOR: u16 = 0x8106;
    pub const GET_REPORT: u16 = 0xa101;
    pub const GET_IDLE: u16 = 0xa102;
    pub const GET_PROTOCOL: u16 = 0xa103;
    pub const SET_REPORT: u16 = 0x2109;
    pub const SET_IDLE: u16 = 0x210a;
    pub const SET_PROTOCOL: u16 = 0x210b;
}

/// Reports or keys that wait.
const QUEUE: usize = 16;
/// Keys that a report has room for; more of them are an error.
const KEYS: usize = 6;
/// The usage that says so.
const ROLLOVER: u8 = 1;
/// The first of eight modifier keys.
const MODIFIERS: u8 = 0xe0;
/// Nanoseconds of a unit of the idle rate.
const IDLE_UNIT: u64 = 4_000_000;

/// What a pointer reports. Movements of a mouse add up, positions of a tablet do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "usb-pointer-report", version = 1)]
struct Report {
    x: i32,
    y: i32,
    /// Notches away from the user.
    wheel: i32,
    buttons: u8,
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "usb-hid", version = 1)]
pub struct HidState {
    protocol: u8,
    idle: u8,
    /// When a report is due without news; 0 is never.
    idle_at: u64,
    // Keyboards.
    /// Usages of keys that went down or up and were not reported yet, two bytes each.
    #[state(max_len = 32)]
    keys: Vec<u8>,
    /// Keys that are down, without modifiers.
    #[state(max_len = 32)]
    pressed: Vec<u8>,
    modifiers: u8,
    leds: u8,
    // Pointers.
    reports: [Report; QUEUE],
    #[state(max = 16)]
    waiting: u8,
    /// What the guest saw last.
    last: Report,
    /// What comes together until it is complete.
    next: Report,
}

impl Default for HidState {
    fn default() -> Self {
        Self {
            protocol: 1,
            idle: 0,
            idle_at: 0,
            keys: Vec::new(),
            pressed: Vec::new(),
            modifiers: 0,
            leds: 0,
            reports: [Report::default(); QUEUE],
            waiting: 0,
            last: Report::default(),
            next: Report::default(),
        }
    }
}

/// The function of a keyboard or pointer.
pub struct Hid {
    // Fixed configuration.
    kind: HidKind,
    descriptors: &'static Descriptors,
    // Wiring and host resources.
    clock: Clock,
    idle: Timer,
    input: Weak<InputHub>,
    input_id: Option<DeviceId>,
    is_active: bool,
    // Guest-visible state.
    state: HidState,
}

/// A keyboard or pointer in its cell.
pub type HidCell = DeviceCell<UsbDevice<Hid>>;

/// Makes a device and registers it with `input`. With `usb_version` 1 it has full speed only.
pub fn new(kind: HidKind, usb_version: u32, labels: Labels, clock: &Clock, input: &Arc<InputHub>) -> HidCell {
    let cell = DeviceCell::new_cyclic(|handle: &Handle<UsbDevice<Hid>>| {
        let own = handle.clone();
        let idle = clock.timer(move || {
            if let Some(waker) = own.with(|device| device.waker()).flatten() {
                waker.wake();
            }
        });
        let hid = Hid {
            kind,
            descriptors: descriptors::of(kind, usb_version),
            clock: clock.clone(),
            idle,
            input: Arc::downgrade(input),
            input_id: None,
            is_active: false,
            state: HidState::default(),
        };
        UsbDevice::new(hid, labels)
    });
    let id = input.add(kind.input_name(), kind.takes(), Arc::new(Input(cell.clone())));
    if kind == HidKind::Keyboard {
        input.activate(id);
    }
    cell.lock().function_mut().input_id = Some(id);
    cell
}

/// Gives a device to one screen.
pub fn sit(cell: &HidCell, seat: Seat) {
    let (input, id) = {
        let device = cell.lock();
        let hid = device.function();
        (hid.input.upgrade(), hid.input_id)
    };
    if let (Some(input), Some(id)) = (input, id) {
        input.seat(id, seat);
    }
}

/// Takes a device away from those that hear events: it is unplugged for good.
pub fn leave(cell: &HidCell) {
    let (input, id) = {
        let mut device = cell.lock();
        let hid = device.function_mut();
        (hid.input.upgrade(), hid.input_id.take())
    };
    if let (Some(input), Some(id)) = (input, id) {
        input.remove(id);
    }
}

/// The device as it hears events.
struct Input(HidCell);

impl Input {
    /// Changes the device, and wakes its controller if that is news for the guest.
    fn tell(&self, change: impl FnOnce(&mut Hid) -> bool) {
        let waker = {
            let mut device = self.0.lock();
            change(device.function_mut()).then(|| device.waker()).flatten()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl InputDevice for Input {
    fn event(&self, event: &Event) {
        self.tell(|hid| hid.event(event));
    }

    fn sync(&self) {
        self.tell(Hid::sync);
    }
}

impl Hid {
    // ---- Events ----

    /// Takes an event; a key is news at once.
    fn event(&mut self, event: &Event) -> bool {
        let next = &mut self.state.next;
        let limit = |value: i64| value.clamp(-0x7fff_ffff, 0x7fff_ffff) as i32;
        let position = |value: i64| value.clamp(0, ABSOLUTE_MAX) as i32;
        match event {
            Event::Key { key, is_down } => return self.key(key.codes().hid, *is_down),
            Event::Relative { axis: Axis::X, by } => next.x = next.x.saturating_add(limit(*by)),
            Event::Relative { axis: Axis::Y, by } => next.y = next.y.saturating_add(limit(*by)),
            Event::Absolute { axis: Axis::X, to } => next.x = position(*to),
            Event::Absolute { axis: Axis::Y, to } => next.y = position(*to),
            Event::Button { button: Button::WheelUp, is_down: true } => next.wheel = next.wheel.saturating_add(1),
            Event::Button { button: Button::WheelDown, is_down: true } => next.wheel = next.wheel.saturating_sub(1),
            Event::Button { button, is_down } => {
                let bit = match button {
                    Button::Left => 1,
                    Button::Right => 2,
                    Button::Middle => 4,
                    Button::Side => 8,
                    Button::Extra => 16,
                    _ => 0,
                };
                next.buttons = if *is_down { next.buttons | bit } else { next.buttons & !bit };
            }
        }
        false
    }

    fn key(&mut self, usage: u8, is_down: bool) -> bool {
        if usage == 0 || self.state.keys.len() >= 2 * QUEUE {
            return false;
        }
        self.state.keys.extend([usage, u8::from(is_down)]);
        true
    }

    /// A report of a pointer is complete. One that differs only in movement from one that waits is added to it.
    fn sync(&mut self) -> bool {
        if self.kind == HidKind::Keyboard {
            return false;
        }
        let state = &mut self.state;
        let waiting = usize::from(state.waiting);
        let next = state.next;
        let is_relative = self.kind == HidKind::Mouse;
        match waiting.checked_sub(1).and_then(|last| state.reports.get_mut(last)) {
            Some(last) if last.buttons == next.buttons => {
                let add = |old: i32, new: i32| if is_relative { old.saturating_add(new) } else { new };
                (last.x, last.y) = (add(last.x, next.x), add(last.y, next.y));
                last.wheel = last.wheel.saturating_add(next.wheel);
            }
            _ => {
                // Without room the movement stays and goes with a later report.
                let Some(free) = state.reports.get_mut(waiting) else { return false };
                *free = next;
                state.waiting += 1;
            }
        }
        state.next.wheel = 0;
        if is_relative {
            (state.next.x, state.next.y) = (0, 0);
        }
        true
    }

    // ---- Reports ----

    fn has_news(&self) -> bool {
        let state = &self.state;
        let is_due = state.idle_at != 0 && self.clock.now() >= state.idle_at;
        state.waiting != 0 || !state.keys.is_empty() || is_due
    }

    fn report(&mut self) -> Vec<u8> {
        match self.kind {
            HidKind::Keyboard => self.keyboard_report(),
            HidKind::Mouse => {
                let report = self.pointer_report();
                vec![report.buttons, report.x as u8, report.y as u8, report.wheel as u8]
            }
            HidKind::Tablet => {
                let report = self.pointer_report();
                let ([x0, x1], [y0, y1]) = ((report.x as u16).to_le_bytes(), (report.y as u16).to_le_bytes());
                vec![report.buttons, x0, x1, y0, y1, report.wheel as u8]
            }
        }
    }

    /// One key more, and what is down then.
    fn keyboard_report(&mut self) -> Vec<u8> {
        let state = &mut self.state;
        if state.keys.len() >= 2 {
            let is_down = state.keys[1] != 0;
            let usage = state.keys[0];
            state.keys.drain(..2);
            if let Some(bit @ 0..8) = usage.checked_sub(MODIFIERS) {
                state.modifiers = if is_down { state.modifiers | 1 << bit } else { state.modifiers & !(1 << bit) };
            } else {
                state.pressed.retain(|other| *other != usage);
                if is_down && state.pressed.len() < 2 * QUEUE {
                    state.pressed.push(usage);
                }
            }
        }
        let mut report = vec![state.modifiers, 0];
        if state.pressed.len() > KEYS {
            report.extend([ROLLOVER; KEYS]);
        } else {
            report.extend(&state.pressed);
            report.resize(2 + KEYS, 0);
        }
        report
    }

    /// The first report that waits, or as much of it as fits; else the last one again without movement.
    fn pointer_report(&mut self) -> Report {
        self.activate();
        let is_relative = self.kind == HidKind::Mouse;
        let state = &mut self.state;
        if state.waiting == 0 {
            let mut report = Report { wheel: 0, ..state.last };
            if is_relative {
                (report.x, report.y) = (0, 0);
            }
            return report;
        }
        let take = |value: &mut i32| {
            let now = (*value).clamp(-127, 127);
            *value -= now;
            now
        };
        let first = &mut state.reports[0];
        let mut report = *first;
        report.wheel = take(&mut first.wheel);
        if is_relative {
            (report.x, report.y) = (take(&mut first.x), take(&mut first.y));
        }
        if first.wheel == 0 && (!is_relative || (first.x == 0 && first.y == 0)) {
            state.reports.rotate_left(1);
            state.waiting -= 1;
        }
        state.last = report;
        report
    }

    /// The guest's driver is awake: events are for this pointer.
    fn activate(&mut self) {
        if !self.is_active
            && let (Some(input), Some(id)) = (self.input.upgrade(), self.input_id)
        {
            self.is_active = true;
            input.activate(id);
        }
    }

    fn schedule_idle(&mut self) {
        if self.state.idle == 0 {
            self.state.idle_at = 0;
            self.idle.cancel();
            return;
        }
        self.state.idle_at = self.clock.now().saturating_add(u64::from(self.state.idle) * IDLE_UNIT).max(1);
        self.idle.arm(self.state.idle_at);
    }

    fn set_leds(&mut self, leds: u8) {
        self.state.leds = leds;
        if let Some(input) = self.input.upgrade() {
            let is_on = |bit: u8| leds & bit != 0;
            input.set_leds(Leds { scroll_lock: is_on(4), num_lock: is_on(1), caps_lock: is_on(2) });
        }
    }
}

impl Function for Hid {
    type State = HidState;

    fn state(&self) -> &HidState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut HidState {
        &mut self.state
    }

    fn descriptors(&self) -> &Descriptors {
        self.descriptors
    }

    fn reset(&mut self) {
        self.state = HidState::default();
        self.idle.cancel();
    }

    fn control(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled> {
        match setup.code() {
            request::GET_INTERFACE_DESCRIPTOR if setup.value >> 8 == u16::from(kind::REPORT) => {
                *data = descriptors::report(self.kind).to_vec();
            }
            request::GET_REPORT => *data = self.report(),
            request::SET_REPORT if self.kind == HidKind::Keyboard => {
                if let Some(leds) = data.first() {
                    self.set_leds(*leds);
                }
            }
            request::GET_PROTOCOL if self.kind != HidKind::Tablet => data.push(self.state.protocol),
            request::SET_PROTOCOL if self.kind != HidKind::Tablet => self.state.protocol = setup.value as u8,
            request::GET_IDLE => data.push(self.state.idle),
            request::SET_IDLE => {
                self.state.idle = (setup.value >> 8) as u8;
                self.schedule_idle();
                if self.kind != HidKind::Keyboard {
                    self.activate();
                }
            }
            _ => return Err(Stalled),
        }
        Ok(())
    }

    fn transfer(&mut self, token: Token, _pipe: Pipe, data: &mut dyn Data) -> Outcome {
        if token != Token::In {
            return Outcome::Stall;
        }
        if self.kind != HidKind::Keyboard {
            self.activate();
        }
        if !self.has_news() {
            return Outcome::Nak;
        }
        self.schedule_idle();
        let report = self.report();
        let len = report.len().min(data.remaining());
        data.put(&report[..len]);
        Outcome::Done(len)
    }

    fn restored(&mut self) {
        self.is_active = false;
        if self.state.idle_at == 0 {
            self.idle.cancel();
        } else {
            self.idle.arm(self.state.idle_at);
        }
    }
}
