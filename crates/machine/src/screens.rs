//! Screens and input devices of a machine, as its users see them.

use std::sync::Arc;

use clock::Clock;
use device::DeviceCell;
use devices_chipset::i8042::I8042;
use display::input::{Axis, Button, Event, Hub, InputDevice, KeyQueue, Leds, Takes};
use display::{Console, Origin, Screen};
use std::sync::{Mutex, PoisonError};

/// A screen that a device of the board has: which device, by its number in the list of devices.
pub struct NewScreen {
    /// The device.
    pub device: usize,
    /// The user's id of the device.
    pub id: Option<String>,
    /// Which of the device's heads.
    pub head: u32,
    /// What draws it.
    pub screen: Arc<dyn Screen>,
}

/// What monitors and display servers use.
pub struct Screens {
    /// The screens; the first is the one that is meant when none is named.
    pub consoles: Vec<Arc<Console>>,
    /// Keyboards and pointers.
    pub input: Arc<Hub>,
    /// Keys with time in between.
    pub keys: Arc<KeyQueue>,
}

impl Screens {
    /// The screens of devices whose paths in the object tree `path` tells.
    pub fn new(screens: Vec<NewScreen>, input: Arc<Hub>, clock: &Clock, path: impl Fn(usize) -> String) -> Self {
        let console = |NewScreen { device, id, head, screen }: NewScreen| {
            Console::new(Origin { id, path: path(device), head }, screen)
        };
        let consoles: Vec<_> = screens.into_iter().map(console).collect();
        input.set_consoles(consoles.clone());
        let keys = KeyQueue::new(Arc::clone(&input), clock.clone());
        Self { consoles, input, keys }
    }
}

/// Connects a keyboard controller's keyboard and mouse.
pub fn connect_ps2(hub: &Arc<Hub>, controller: &DeviceCell<I8042>) {
    hub.add("QEMU PS/2 Keyboard", Takes::KEYBOARD, Arc::new(Ps2Keyboard(controller.clone())));
    let mouse = Ps2Mouse { controller: controller.clone(), report: Mutex::default() };
    hub.add("QEMU PS/2 Mouse", Takes::MOUSE, Arc::new(mouse));
    let lights = Arc::downgrade(hub);
    controller.lock().on_leds(Box::new(move |leds| {
        if let Some(hub) = lights.upgrade() {
            let is_on = |bit: u8| leds & bit != 0;
            hub.set_leds(Leds { scroll_lock: is_on(1), num_lock: is_on(2), caps_lock: is_on(4) });
        }
    }));
}

struct Ps2Keyboard(DeviceCell<I8042>);

impl InputDevice for Ps2Keyboard {
    fn event(&self, event: &Event) {
        if let Event::Key { key, is_down } = event {
            self.0.lock().key(key.codes().number, *is_down);
        }
    }

    // Each key is sent at once.
    fn sync(&self) {}
}

/// What one report says.
#[derive(Default)]
struct Report {
    movement: (i64, i64, i64),
    buttons: u8,
}

struct Ps2Mouse {
    controller: DeviceCell<I8042>,
    report: Mutex<Report>,
}

impl InputDevice for Ps2Mouse {
    fn event(&self, event: &Event) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let (x, y, wheel) = &mut report.movement;
        match event {
            Event::Relative { axis: Axis::X, by } => *x = x.saturating_add(*by),
            // The mouse counts upwards.
            Event::Relative { axis: Axis::Y, by } => *y = y.saturating_sub(*by),
            Event::Button { button: Button::WheelUp, is_down: true } => *wheel -= 1,
            Event::Button { button: Button::WheelDown, is_down: true } => *wheel += 1,
            Event::Button { button, is_down } => {
                let bit = match button {
                    Button::Left => 0x01,
                    Button::Right => 0x02,
                    Button::Middle => 0x04,
                    Button::Side => 0x08,
                    Button::Extra => 0x10,
                    _ => 0,
                };
                report.buttons = if *is_down { report.buttons | bit } else { report.buttons & !bit };
            }
            Event::Key { .. } | Event::Absolute { .. } => {}
        }
    }

    fn sync(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let (x, y, wheel) = std::mem::take(&mut report.movement);
        let buttons = report.buttons;
        drop(report);
        // More than a mouse could move between two reports.
        let limit = |distance: i64| distance.clamp(-0x7fff, 0x7fff) as i32;
        self.controller.lock().mouse((limit(x), limit(y), limit(wheel)), buttons);
    }
}
