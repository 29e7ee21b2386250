//! virtio input devices (virtio 1.2, 5.8): a keyboard, a mouse and a tablet that speak Linux's input events.
//!
//! | queue | what |
//! | --- | --- |
//! | 0 | events to the guest, 8 bytes each |
//! | 1 | the guest's wishes: lights |
//!
//! A report for which the driver offers too little memory is lost as a whole. A device takes part in the choice of the
//! active keyboard or pointer while it has a driver.

use std::sync::Arc;

use display::input::{Axis, Button, DeviceId, Event, Hub, InputDevice, Leds, Seat, Takes};
use display::keys::Key;
use state::State;

use crate::device::{Access, Common, DeviceType, Model, RequestToken};
use crate::queue::Request;

const QUEUE_SIZE: u16 = 64;
const EVENTS: usize = 0;
const STATUS: usize = 1;
const EVENT_LEN: usize = 8;
/// Most events of a report.
const MAX_REPORT: usize = 256;

/// Linux's event types and codes (`input-event-codes.h`).
mod code {
    pub const SYN: u16 = 0;
    pub const KEY: u16 = 1;
    pub const REL: u16 = 2;
    pub const ABS: u16 = 3;
    pub const LED: u16 = 0x11;
    pub const REP: u16 = 0x14;
    pub const WHEEL: u16 = 8;
    pub const BTN_LEFT: u16 = 0x110;
    pub const BTN_RIGHT: u16 = 0x111;
    pub const BTN_MIDDLE: u16 = 0x112;
    pub const BTN_SIDE: u16 = 0x113;
    pub const BTN_EXTRA: u16 = 0x114;
    pub const BTN_GEAR_DOWN: u16 = 0x150;
    pub const BTN_GEAR_UP: u16 = 0x151;
}

/// Bytes of a serial number that the configuration has room for.
const SERIAL_MAX: usize = 127;

/// What can be asked of the configuration (5.8.4).
mod select {
    pub const ID_NAME: u8 = 1;
    pub const ID_SERIAL: u8 = 2;
    pub const ID_DEVIDS: u8 = 3;
    pub const EV_BITS: u8 = 0x11;
    pub const ABS_INFO: u8 = 0x12;
}

/// The kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// `virtio-keyboard-pci`.
    Keyboard,
    /// `virtio-mouse-pci`.
    Mouse,
    /// `virtio-tablet-pci`.
    Tablet,
}

impl InputKind {
    fn name(self) -> &'static str {
        match self {
            Self::Keyboard => "QEMU Virtio Keyboard",
            Self::Mouse => "QEMU Virtio Mouse",
            Self::Tablet => "QEMU Virtio Tablet",
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

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputOptions {
    /// Which device.
    pub kind: InputKind,
    /// `wheel-axis`: the wheel is an axis, not two buttons.
    pub wheel_axis: bool,
    /// `serial`: what tells it from others of its kind.
    pub serial: Option<String>,
    /// `display` and `head`: the screen that it belongs to.
    pub seat: Option<Seat>,
}

/// The guest-visible state beside queues and features.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-input", version = 1)]
pub struct InputState {
    /// What the configuration shows.
    select: u8,
    subselect: u8,
}

/// An input device.
pub struct Input {
    // Fixed configuration.
    options: InputOptions,
    // Host resources.
    hub: Arc<Hub>,
    id: Option<DeviceId>,
    active: bool,
    leds: Leds,
    /// Events of a report that is not complete.
    report: Vec<[u8; EVENT_LEN]>,
    /// Memory that was taken for a report that it was too little for.
    spare: Vec<(RequestToken, Request)>,
    // Guest-visible state.
    state: InputState,
}

/// The way of events to a device.
struct Way(Arc<dyn Access<Input>>);

impl InputDevice for Way {
    fn event(&self, event: &Event) {
        self.0.access(&mut |input, _| input.event(event));
    }

    fn sync(&self) {
        self.0.access(&mut |input, common| input.sync(common));
    }
}

fn bitmap(codes: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bits = Vec::new();
    for code in codes {
        let byte = usize::from(code / 8);
        bits.resize(bits.len().max(byte + 1), 0);
        bits[byte] |= 1 << (code % 8);
    }
    bits
}

impl Input {
    /// A device of which `hub` does not know yet.
    pub fn new(options: InputOptions, hub: Arc<Hub>) -> Self {
        Self {
            options,
            hub,
            id: None,
            active: false,
            leds: Leds::default(),
            report: Vec::new(),
            spare: Vec::new(),
            state: InputState::default(),
        }
    }

    /// Makes the device known to its hub.
    pub fn connect(access: &Arc<dyn Access<Self>>) {
        access.access(&mut |input, _| {
            let way = Arc::new(Way(Arc::clone(access)));
            let id = input.hub.add(input.options.kind.name(), input.options.kind.takes(), way);
            if let Some(seat) = &input.options.seat {
                input.hub.seat(id, seat.clone());
            }
            input.id = Some(id);
        });
    }

    fn button(button: Button) -> Option<u16> {
        Some(match button {
            Button::Left => code::BTN_LEFT,
            Button::Right => code::BTN_RIGHT,
            Button::Middle => code::BTN_MIDDLE,
            Button::WheelUp => code::BTN_GEAR_UP,
            Button::WheelDown => code::BTN_GEAR_DOWN,
            Button::Side => code::BTN_SIDE,
            Button::Extra => code::BTN_EXTRA,
            Button::WheelLeft | Button::WheelRight | Button::Touch => return None,
        })
    }

    fn event(&mut self, event: &Event) {
        let axis_code = |axis: Axis| if axis == Axis::X { 0 } else { 1 };
        let event = match *event {
            Event::Key { key, is_down } => match key.codes().evdev {
                0 => None,
                evdev => Some((code::KEY, evdev, i32::from(is_down))),
            },
            Event::Button { button: Button::WheelUp, is_down: true } if self.options.wheel_axis => {
                Some((code::REL, code::WHEEL, 1))
            }
            Event::Button { button: Button::WheelDown, is_down: true } if self.options.wheel_axis => {
                Some((code::REL, code::WHEEL, -1))
            }
            Event::Button { button, is_down } => {
                Self::button(button).map(|button| (code::KEY, button, i32::from(is_down)))
            }
            Event::Relative { axis, by } => {
                Some((code::REL, axis_code(axis), by.clamp(-0x7fff_ffff, 0x7fff_ffff) as i32))
            }
            Event::Absolute { axis, to } => Some((code::ABS, axis_code(axis), to.clamp(0, 0x7fff_ffff) as i32)),
        };
        if let Some((kind, code, value)) = event {
            self.add(kind, code, value);
        }
    }

    fn add(&mut self, kind: u16, code: u16, value: i32) {
        if self.active && self.report.len() < MAX_REPORT {
            let word = u64::from(kind) | u64::from(code) << 16 | u64::from(value as u32) << 32;
            self.report.push(word.to_le_bytes());
        }
    }

    /// The report is complete: all of it goes to the guest, or nothing.
    fn sync(&mut self, common: &mut Common) {
        self.add(code::SYN, 0, 0);
        let report = std::mem::take(&mut self.report);
        while self.spare.len() < report.len() {
            let Some(taken) = common.pop(EVENTS) else { return };
            self.spare.push(taken);
        }
        for (event, (token, request)) in report.iter().zip(self.spare.drain(..report.len())) {
            let len = event.len().min(request.writable.len());
            request.writable.write_at(0, &event[..len]);
            common.complete(token, len as u32);
        }
    }

    fn status(&mut self, bytes: [u8; EVENT_LEN]) {
        let word = u64::from_le_bytes(bytes);
        let (kind, light, is_on) = (word as u16, (word >> 16) as u16, word >> 32 != 0);
        match (kind, light) {
            (code::LED, 0) => self.leds.num_lock = is_on,
            (code::LED, 1) => self.leds.caps_lock = is_on,
            (code::LED, 2) => self.leds.scroll_lock = is_on,
            _ => return,
        }
        self.hub.set_leds(self.leds);
    }

    fn set_active(&mut self, active: bool) {
        if let Some(id) = self.id
            && self.active != active
        {
            if active {
                self.hub.activate(id);
            } else {
                self.hub.deactivate(id);
            }
        }
        self.active = active;
    }

    /// What the configuration shows of a selection.
    fn selected(&self, selected: u8, sub: u8) -> Vec<u8> {
        const VIRTUAL: u16 = 6;
        const VENDOR: u16 = 0x0627;
        let (kind, wheel) = (self.options.kind, self.options.wheel_axis);
        let is_pointer = kind != InputKind::Keyboard;
        match (selected, u16::from(sub)) {
            (select::ID_NAME, 0) => [kind.name().as_bytes(), &[0]].concat(),
            (select::ID_SERIAL, 0) => {
                let serial = self.options.serial.as_deref().unwrap_or_default().as_bytes();
                serial[..serial.len().min(SERIAL_MAX)].to_vec()
            }
            (select::ID_DEVIDS, 0) => {
                let version = if is_pointer && wheel { 2 } else { 1 };
                let product = match kind {
                    InputKind::Keyboard => 1,
                    InputKind::Mouse => 2,
                    InputKind::Tablet => 3,
                };
                [VIRTUAL, VENDOR, product, version].into_iter().flat_map(u16::to_le_bytes).collect()
            }
            (select::EV_BITS, code::KEY) if is_pointer => {
                let buttons = [
                    Button::Left,
                    Button::Right,
                    Button::Middle,
                    Button::WheelUp,
                    Button::WheelDown,
                    Button::Side,
                    Button::Extra,
                ];
                bitmap(buttons.into_iter().filter_map(Self::button))
            }
            (select::EV_BITS, code::KEY) => bitmap((1..0x300).filter(|code| Key::of_evdev(*code).is_some())),
            (select::EV_BITS, code::REL) if kind == InputKind::Mouse => {
                bitmap([0, 1].into_iter().chain(wheel.then_some(code::WHEEL)))
            }
            (select::EV_BITS, code::REL) if kind == InputKind::Tablet && wheel => bitmap([code::WHEEL]),
            (select::EV_BITS, code::ABS) if kind == InputKind::Tablet => bitmap([0, 1]),
            (select::EV_BITS, code::REP) if !is_pointer => vec![0],
            (select::EV_BITS, code::LED) if !is_pointer => bitmap([0, 1, 2]),
            (select::ABS_INFO, 0 | 1) if kind == InputKind::Tablet => {
                let max = display::input::ABSOLUTE_MAX as u32;
                [0, max, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Bytes of the longest answer.
    fn longest(&self) -> usize {
        let all = [(select::ID_NAME, 0), (select::ID_SERIAL, 0), (select::EV_BITS, 1), (select::ABS_INFO, 0)];
        all.into_iter().map(|(selected, sub)| self.selected(selected, sub).len()).max().unwrap_or(0).min(128)
    }
}

impl Model for Input {
    type State = InputState;

    fn device_type(&self) -> DeviceType {
        let pci_class = match self.options.kind {
            InputKind::Keyboard => 0x0900,
            InputKind::Mouse => 0x0902,
            InputKind::Tablet => 0x0980,
        };
        // There is no transitional device.
        DeviceType { id: 18, transitional_pci_id: 0x1052, pci_class }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config(&self) -> Vec<u8> {
        let mut data = self.selected(self.state.select, self.state.subselect);
        let (select, subselect) = if data.is_empty() { (0, 0) } else { (self.state.select, self.state.subselect) };
        let mut config = vec![select, subselect, data.len().min(128) as u8, 0, 0, 0, 0, 0];
        data.resize(self.longest(), 0);
        config.extend(data);
        config
    }

    fn write_config(&mut self, _common: &mut Common, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            match at {
                0 => self.state.select = *byte,
                1 => self.state.subselect = *byte,
                _ => {}
            }
        }
    }

    fn started(&mut self, _common: &mut Common) {
        self.set_active(true);
    }

    fn notified(&mut self, common: &mut Common, queue: usize) {
        if queue != STATUS {
            return;
        }
        common.serve(queue, 8 * usize::from(QUEUE_SIZE), |common, token, request| {
            let mut bytes = [0; EVENT_LEN];
            let len = request.readable.len().min(EVENT_LEN);
            request.readable.io().read_at(0, &mut bytes[..len]);
            self.status(bytes);
            common.complete(token, len as u32);
        });
    }

    fn reset(&mut self, common: &mut Common) {
        for (token, _) in self.spare.drain(..) {
            common.complete(token, 0);
        }
        self.report.clear();
        self.set_active(false);
        self.state = InputState::default();
    }

    fn restored(&mut self, common: &mut Common) {
        self.report.clear();
        self.spare = common.take_again();
        self.spare.retain(|(token, _)| token.queue() == EVENTS);
        self.set_active(common.is_driver_ready());
    }

    fn state(&self) -> &InputState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut InputState {
        &mut self.state
    }
}

#[cfg(test)]
mod tests {
    use device::testing::{reset_twice_is_once, save_and_restore_agree};

    use super::*;
    use crate::pci::{PciOptions, VirtioPci};
    use crate::testing::function::{DATA, Function};

    fn bench(kind: InputKind) -> (Function<Input>, Arc<Hub>) {
        let hub = Arc::<Hub>::default();
        let serial = (kind == InputKind::Mouse).then(|| "M-1".to_owned());
        let options = InputOptions { kind, wheel_axis: true, serial, seat: None };
        let shared = Arc::clone(&hub);
        let pci = PciOptions { legacy: false, ..PciOptions::default() };
        let function = Function::of(&pci, Arc::default(), |_| Input::new(options, shared));
        Input::connect(&VirtioPci::access(&function.cell));
        (function, hub)
    }

    fn shown(function: &Function<Input>, selected: u64, sub: u64) -> Vec<u8> {
        function.write(0x2000, 1, selected);
        function.write(0x2001, 1, sub);
        let len = function.read(0x2002, 1);
        (0..len).map(|at| function.read(0x2008 + at, 1) as u8).collect()
    }

    #[test]
    fn configuration_tells_names_and_codes() {
        let (keyboard, _) = bench(InputKind::Keyboard);
        assert_eq!(shown(&keyboard, 1, 0), b"QEMU Virtio Keyboard\0");
        assert_eq!(shown(&keyboard, 3, 0), [6, 0, 0x27, 6, 1, 0, 1, 0]);
        assert_eq!((shown(&keyboard, 0x11, 0x11), shown(&keyboard, 0x11, 0x14)), (vec![7], vec![0]));
        assert_ne!(shown(&keyboard, 0x11, 1)[30 / 8] & 1 << (30 % 8), 0, "the key A");
        assert!(shown(&keyboard, 0x11, 2).is_empty() && shown(&keyboard, 0xff, 0xff).is_empty());
        let (tablet, _) = bench(InputKind::Tablet);
        assert_eq!(shown(&tablet, 0x11, 3), [3]);
        assert_eq!(shown(&tablet, 0x12, 1)[..8], [0, 0, 0, 0, 0xff, 0x7f, 0, 0]);
        let (mouse, _) = bench(InputKind::Mouse);
        assert_eq!((shown(&mouse, 0x11, 2), shown(&mouse, 0x11, 1).len()), (vec![3, 1], 43));
        assert_eq!((shown(&mouse, 2, 0), shown(&tablet, 2, 0)), (b"M-1".to_vec(), vec![]));
    }

    #[test]
    fn reports_arrive_as_a_whole_or_not_at_all() {
        let (function, hub) = bench(InputKind::Mouse);
        let mut queues = function.begin_with(0, 8, 2);
        let movement = |by| Event::Relative { axis: Axis::Y, by };
        let wheel = Event::Button { button: Button::WheelDown, is_down: true };
        let report = |by| {
            assert!(hub.send(&movement(by), None));
            hub.send(&wheel, None);
            hub.sync();
        };
        for at in 0..2 {
            queues[0].offer(&function.guest, &[(DATA + 8 * at, 8, true)], false).expect("room");
        }
        report(7);
        assert!(queues[0].collect(&function.guest).is_empty(), "there is room for two of three");
        save_and_restore_agree("virtio-input", &function.cell).expect("saved");
        queues[0].offer(&function.guest, &[(DATA + 16, 8, true)], false).expect("room");
        report(-5);
        assert_eq!(queues[0].collect(&function.guest).len(), 3);
        let expected = [2, 0, 1, 0, 0xfb, 0xff, 0xff, 0xff, 2, 0, 8, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(function.guest.read(DATA, 24), expected);
    }

    #[test]
    fn driver_makes_the_keyboard_active_and_sets_its_lights() {
        let (function, hub) = bench(InputKind::Keyboard);
        let mut queues = function.begin_with(0, 8, 2);
        function.guest.write(DATA, &[0x11, 0, 1, 0, 1, 0, 0, 0]);
        queues[1].offer(&function.guest, &[(DATA, 8, false)], false).expect("room");
        queues[1].offer(&function.guest, &[(DATA, 1, false)], false).expect("room");
        function.kick(1);
        assert_eq!(queues[1].collect(&function.guest).len(), 2);
        assert!(hub.leds().caps_lock);
        for kind in [device::ResetKind::Warm, device::ResetKind::Cold] {
            reset_twice_is_once("virtio-input", &function.cell, kind).expect("reset");
        }
    }
}
