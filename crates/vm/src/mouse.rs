//! Pointers behind character devices. `wctablet` is a [`chardev::Tablet`]. `msmouse` is a mouse of Microsoft's serial
//! kind, three bytes a report (Microsoft Mouse protocol, 1200 baud, 7N1), with Logitech's fourth byte for the third button.
//!
//! Left out on purpose: the identification that such a mouse sends when the host's RTS rises, because character devices
//! do not carry modem lines. Drivers that are told the protocol need none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chardev::{Chardev, Event as LineEvent, Tablet};
use display::input::{Axis, Button, DeviceId, Event, Hub, InputDevice, Takes};

use crate::control::Control;
use crate::inbox::Inbox;

#[derive(Default)]
struct Report {
    movement: (i64, i64),
    left: bool,
    right: bool,
    middle: bool,
    /// The third button was told of, or is down.
    tells_middle: bool,
}

impl Report {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Relative { axis: Axis::X, by } => self.movement.0 = self.movement.0.saturating_add(*by),
            Event::Relative { axis: Axis::Y, by } => self.movement.1 = self.movement.1.saturating_add(*by),
            Event::Button { button: Button::Left, is_down } => self.left = *is_down,
            Event::Button { button: Button::Right, is_down } => self.right = *is_down,
            Event::Button { button: Button::Middle, is_down } => {
                self.middle = *is_down;
                self.tells_middle = true;
            }
            _ => {}
        }
    }

    /// The bytes of what has happened since.
    fn bytes(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let (x, y) = (self.movement.0.clamp(-128, 127), self.movement.1.clamp(-128, 127));
            let (dx, dy) = (x as u8, y as u8);
            let buttons = u8::from(self.left) << 5 | u8::from(self.right) << 4;
            all.extend([0x40 | buttons | dy >> 4 & 0x0c | dx >> 6, dx & 0x3f, dy & 0x3f]);
            if self.middle || std::mem::take(&mut self.tells_middle) {
                all.push(u8::from(self.middle) << 5);
            }
            self.movement = (self.movement.0 - x, self.movement.1 - y);
            // What is further than a hand can move is lost.
            if self.movement == (0, 0) || all.len() > 64 {
                self.movement = (0, 0);
                return all;
            }
        }
    }
}

struct Mouse {
    chardev: Chardev,
    report: Mutex<Report>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InputDevice for Mouse {
    fn event(&self, event: &Event) {
        lock(&self.report).take(event);
    }

    fn sync(&self) {
        let bytes = lock(&self.report).bytes();
        // A serial port that nobody reads drops reports, as a real one does.
        let _taken = self.chardev.write(&bytes);
    }
}

/// The pen of a tablet.
struct Pen(Arc<Tablet>);

impl InputDevice for Pen {
    fn event(&self, event: &Event) {
        match event {
            Event::Absolute { axis: Axis::X, to } => self.0.move_to(Some(*to), None),
            Event::Absolute { axis: Axis::Y, to } => self.0.move_to(None, Some(*to)),
            Event::Button { button: Button::Left, is_down } => self.0.touch(*is_down),
            _ => {}
        }
    }

    fn sync(&self) {
        self.0.report();
    }
}

/// A pointer that there is, and as what the hub knows it.
struct Entry {
    number: u64,
    /// Of its character device.
    id: String,
    name: &'static str,
    takes: Takes,
    device: Arc<dyn InputDevice>,
    known: Option<(Arc<Hub>, DeviceId)>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some((hub, id)) = self.known.take() {
            hub.remove(id);
        }
    }
}

#[derive(Default)]
struct Known {
    hub: Option<Arc<Hub>>,
    pointers: Vec<Entry>,
    last: u64,
}

/// The mice and tablets behind character devices, and the hub of the machine that there is.
pub struct SerialPointers {
    known: Mutex<Known>,
    inbox: Arc<Inbox<Control>>,
}

impl SerialPointers {
    /// None yet; the control thread is told through `inbox` of those that go by themselves.
    pub fn new(inbox: &Arc<Inbox<Control>>) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), inbox: Arc::clone(inbox) })
    }

    /// Adds the mouse at the other end of a character device.
    pub fn add_mouse(self: &Arc<Self>, chardev: Chardev) {
        let id = chardev.id().to_owned();
        let mouse = Arc::new(Mouse { chardev, report: Mutex::default() });
        let number = self.add(&id, "QEMU Microsoft Mouse", Takes::MOUSE, Arc::clone(&mouse) as Arc<dyn InputDevice>);
        let all = Arc::downgrade(self);
        mouse.chardev.set_events(Box::new(move |event| {
            if event == LineEvent::Closed {
                gone(&all, number);
            }
        }));
        // What a host tells its mouse means nothing.
        mouse.chardev.set_input(Box::new(|bytes| bytes.len()));
    }

    /// Adds the tablet behind the character device of that name.
    pub fn add_tablet(self: &Arc<Self>, id: &str, tablet: &Arc<Tablet>) {
        let number = self.add(id, "QEMU Wacom Pen Tablet", Takes::TABLET, Arc::new(Pen(Arc::clone(tablet))));
        let all = Arc::downgrade(self);
        tablet.on_end(Box::new(move || gone(&all, number)));
    }

    fn add(&self, id: &str, name: &'static str, takes: Takes, device: Arc<dyn InputDevice>) -> u64 {
        let known = &mut *lock(&self.known);
        known.last += 1;
        let registered = known.hub.as_ref().map(|hub| (Arc::clone(hub), hub.add(name, takes, Arc::clone(&device))));
        let (number, id) = (known.last, id.to_owned());
        known.pointers.push(Entry { number, id, name, takes, device, known: registered });
        number
    }

    fn remove(&self, is_it: impl Fn(&Entry) -> bool) {
        let removed: Vec<Entry> = lock(&self.known).pointers.extract_if(.., |entry| is_it(entry)).collect();
        // Here callbacks end, and nobody holds the lock.
        drop(removed);
    }

    /// Takes away the pointer of a character device.
    pub fn forget(&self, id: &str) {
        self.remove(|entry| entry.id == id);
    }

    /// There is a machine with this hub. What was there before it comes before its own pointers.
    pub fn connect(&self, hub: &Arc<Hub>) {
        let known = &mut *lock(&self.known);
        for entry in known.pointers.iter_mut().rev() {
            let id = hub.add_first(entry.name, entry.takes, Arc::clone(&entry.device));
            entry.known = Some((Arc::clone(hub), id));
        }
        known.hub = Some(Arc::clone(hub));
    }
}

/// A pointer goes by itself.
fn gone(all: &Weak<SerialPointers>, number: u64) {
    if let Some(all) = all.upgrade() {
        // A device can't be dropped in its own callback.
        let inbox = Arc::clone(&all.inbox);
        inbox.request(Box::new(move |_: &mut Control| all.remove(|entry| entry.number == number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_those_of_a_serial_mouse() {
        let mut report = Report::default();
        report.take(&Event::Relative { axis: Axis::X, by: 1 });
        report.take(&Event::Relative { axis: Axis::Y, by: -2 });
        assert_eq!(report.bytes(), [0x4c, 0x01, 0x3e]);
        report.take(&Event::Button { button: Button::Left, is_down: true });
        assert_eq!(report.bytes(), [0x60, 0, 0]);
        report.take(&Event::Button { button: Button::Middle, is_down: true });
        assert_eq!(report.bytes(), [0x60, 0, 0, 0x20]);
        report.take(&Event::Button { button: Button::Middle, is_down: false });
        assert_eq!(report.bytes(), [0x60, 0, 0, 0]);
        assert_eq!(report.bytes(), [0x60, 0, 0]);
        // A long way is several reports.
        report.take(&Event::Relative { axis: Axis::X, by: 200 });
        assert_eq!(report.bytes(), [0x61, 0x3f, 0, 0x61, 0x09, 0]);
    }
}
