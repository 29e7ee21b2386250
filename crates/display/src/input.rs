//! Keyboards and pointers: who types, and which device hears it.
//!
//! A *source* (a monitor, a display server) gives events to the [`Hub`]; *devices* take them. Each device says what it
//! takes; of those that take an event, the one that was made active last gets it. An event that names a console goes to a
//! device that is bound to this console, if there is one. Pointers get a whole report at once: movements and buttons are
//! collected until [`Hub::sync`].

mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use queue::KeyQueue;

use crate::console::Console;
use crate::keys::Key;

/// The largest value on an absolute axis; the least is 0.
pub const ABSOLUTE_MAX: i64 = 0x7fff;

/// A button of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// The first.
    Left,
    /// The one between.
    Middle,
    /// The second.
    Right,
    /// The wheel, one notch away from the user.
    WheelUp,
    /// The wheel, one notch towards the user.
    WheelDown,
    /// The first at the side.
    Side,
    /// The second at the side.
    Extra,
    /// The wheel, one notch to the left.
    WheelLeft,
    /// The wheel, one notch to the right.
    WheelRight,
    /// The contact of a touch screen.
    Touch,
}

/// An axis of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// To the right.
    X,
    /// Down.
    Y,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key goes down or up.
    Key {
        /// Which.
        key: Key,
        /// Down.
        is_down: bool,
    },
    /// A button goes down or up.
    Button {
        /// Which.
        button: Button,
        /// Down.
        is_down: bool,
    },
    /// A movement.
    Relative {
        /// Along which axis.
        axis: Axis,
        /// How far.
        by: i64,
    },
    /// A position, from 0 to [`ABSOLUTE_MAX`].
    Absolute {
        /// On which axis.
        axis: Axis,
        /// Where.
        to: i64,
    },
}

/// What a device takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Keys.
    pub keys: bool,
    /// Buttons.
    pub buttons: bool,
    /// Movements.
    pub relative: bool,
    /// Positions.
    pub absolute: bool,
}

impl Takes {
    /// A keyboard.
    pub const KEYBOARD: Self = Self { keys: true, buttons: false, relative: false, absolute: false };
    /// A mouse.
    pub const MOUSE: Self = Self { keys: false, buttons: true, relative: true, absolute: false };
    /// A tablet.
    pub const TABLET: Self = Self { keys: false, buttons: true, relative: false, absolute: true };

    fn takes(self, event: &Event) -> bool {
        match event {
            Event::Key { .. } => self.keys,
            Event::Button { .. } => self.buttons,
            Event::Relative { .. } => self.relative,
            Event::Absolute { .. } => self.absolute,
        }
    }

    fn is_pointer(self) -> bool {
        self.relative || self.absolute
    }
}

/// A keyboard or pointer of the guest.
pub trait InputDevice: Send + Sync {
    /// Takes an event of a kind that it said to take.
    fn event(&self, event: &Event);

    /// The report is complete.
    fn sync(&self);
}

/// Which lights of a keyboard are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leds {
    /// Scroll lock.
    pub scroll_lock: bool,
    /// Num lock.
    pub num_lock: bool,
    /// Caps lock.
    pub caps_lock: bool,
}

/// Is told when the lights of the active keyboard change. It must not call the hub.
pub type LedListener = Box<dyn Fn(Leds) + Send>;

/// Names a device of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(u64);

/// What `query-mice` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Its number.
    pub index: u64,
    /// Its name.
    pub name: String,
    /// It gets the events.
    pub is_current: bool,
    /// It takes positions.
    pub is_absolute: bool,
}

/// The screen that a device belongs to, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The id of the graphics card.
    pub display: String,
    /// Which of its heads.
    pub head: u32,
}

struct Entry {
    id: DeviceId,
    name: String,
    takes: Takes,
    device: Arc<dyn InputDevice>,
    seat: Option<Seat>,
    /// The screen of its seat.
    console: Option<Arc<Console>>,
    has_news: bool,
}

impl Entry {
    /// Looks for the screen of its seat.
    fn sit(&mut self, consoles: &[Arc<Console>]) {
        let is_it = |console: &&Arc<Console>, seat: &Seat| {
            console.origin().is_named(&seat.display) && console.origin().head == seat.head
        };
        let seat = self.seat.as_ref();
        self.console = seat.and_then(|seat| consoles.iter().find(|console| is_it(console, seat)).cloned());
    }
}

#[derive(Default)]
struct Devices {
    /// The active ones first.
    list: Vec<Entry>,
    /// The screens that devices may belong to.
    consoles: Vec<Arc<Console>>,
    last_id: u64,
    leds: Leds,
    listeners: Vec<LedListener>,
}

/// Where events come together.
#[derive(Default)]
pub struct Hub(Mutex<Devices>);

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a device behind those that there are; numbers begin at 1.
    pub fn add(&self, name: &str, takes: Takes, device: Arc<dyn InputDevice>) -> DeviceId {
        let mut devices = self.lock();
        devices.last_id += 1;
        let id = DeviceId(devices.last_id);
        let name = name.to_owned();
        devices.list.push(Entry { id, name, takes, device, seat: None, console: None, has_news: false });
        id
    }

    /// Adds a device in front of those that there are, as if it had come before them.
    pub fn add_first(&self, name: &str, takes: Takes, device: Arc<dyn InputDevice>) -> DeviceId {
        let id = self.add(name, takes, device);
        self.activate(id);
        id
    }

    /// Takes a device away.
    pub fn remove(&self, id: DeviceId) {
        self.lock().list.retain(|entry| entry.id != id);
    }

    /// Puts a device in front of the others: its guest's driver has woken up.
    pub fn activate(&self, id: DeviceId) {
        let mut devices = self.lock();
        if let Some(at) = devices.list.iter().position(|entry| entry.id == id) {
            devices.list[..=at].rotate_right(1);
        }
    }

    /// Puts a device behind the others: its guest's driver sleeps.
    pub fn deactivate(&self, id: DeviceId) {
        let mut devices = self.lock();
        if let Some(at) = devices.list.iter().position(|entry| entry.id == id) {
            devices.list[at..].rotate_left(1);
        }
    }

    /// Puts the pointer with that number in front; `false` if there is none.
    pub fn select(&self, index: u64) -> bool {
        let is_there = self.lock().list.iter().any(|entry| entry.id.0 == index && entry.takes.is_pointer());
        if is_there {
            self.activate(DeviceId(index));
        }
        is_there
    }

    /// Gives a device to one screen: it gets the events for this screen, and no others. While there is no such screen it
    /// belongs to none.
    pub fn seat(&self, id: DeviceId, seat: Seat) {
        let mut devices = self.lock();
        let Devices { list, consoles, .. } = &mut *devices;
        if let Some(entry) = list.iter_mut().find(|entry| entry.id == id) {
            entry.seat = Some(seat);
            entry.sit(consoles);
        }
    }

    /// Tells which screens there are.
    pub fn set_consoles(&self, consoles: Vec<Arc<Console>>) {
        let mut devices = self.lock();
        devices.list.iter_mut().for_each(|entry| entry.sit(&consoles));
        devices.consoles = consoles;
    }

    /// Whether some device takes events of this kind, for this console.
    pub fn has_taker(&self, event: &Event, console: Option<&Arc<Console>>) -> bool {
        find(&self.lock().list, event, console).is_some()
    }

    /// Gives an event to the device that it is for; `false` if there is none.
    pub fn send(&self, event: &Event, console: Option<&Arc<Console>>) -> bool {
        let device = {
            let mut devices = self.lock();
            let Some(at) = find(&devices.list, event, console) else { return false };
            let entry = &mut devices.list[at];
            entry.has_news = true;
            Arc::clone(&entry.device)
        };
        // Devices have locks of their own.
        device.event(event);
        true
    }

    /// Ends the report of each device that got events.
    pub fn sync(&self) {
        let devices: Vec<_> = {
            let mut devices = self.lock();
            let had_news = |entry: &mut Entry| std::mem::take(&mut entry.has_news).then(|| Arc::clone(&entry.device));
            devices.list.iter_mut().filter_map(had_news).collect()
        };
        for device in devices {
            device.sync();
        }
    }

    /// The pointers, the active one first.
    pub fn pointers(&self) -> Vec<Pointer> {
        let devices = self.lock();
        let entries = devices.list.iter().filter(|entry| entry.takes.is_pointer());
        let describe = |(at, entry): (usize, &Entry)| Pointer {
            index: entry.id.0,
            name: entry.name.clone(),
            is_current: at == 0,
            is_absolute: entry.takes.absolute,
        };
        entries.enumerate().map(describe).collect()
    }

    /// Whether the pointer that gets events for no certain screen takes positions.
    pub fn is_absolute(&self) -> bool {
        let devices = self.lock();
        let mut pointers = devices.list.iter().filter(|entry| entry.takes.is_pointer() && entry.console.is_none());
        pointers.next().is_some_and(|entry| entry.takes.absolute)
    }

    /// A keyboard's lights changed.
    pub fn set_leds(&self, leds: Leds) {
        let mut devices = self.lock();
        if std::mem::replace(&mut devices.leds, leds) != leds {
            for listener in &devices.listeners {
                listener(leds);
            }
        }
    }

    /// The lights as they were set last.
    pub fn leds(&self) -> Leds {
        self.lock().leds
    }

    /// Listens for changes of the lights.
    pub fn on_leds(&self, listener: LedListener) {
        self.lock().listeners.push(listener);
    }
}

/// The device for an event: one of the console's own, else the first of those that belong to none.
fn find(list: &[Entry], event: &Event, console: Option<&Arc<Console>>) -> Option<usize> {
    let bound = |entry: &Entry| match (&entry.console, console) {
        (Some(own), Some(wanted)) => Arc::ptr_eq(own, wanted),
        _ => false,
    };
    let takes = |entry: &&Entry| entry.takes.takes(event);
    let own = list.iter().position(|entry| takes(&entry) && bound(entry));
    own.or_else(|| list.iter().position(|entry| takes(&entry) && entry.console.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Origin, Screen, Surface};

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl InputDevice for Log {
        fn event(&self, event: &Event) {
            self.0.lock().expect("log").push(format!("{event:?}"));
        }
        fn sync(&self) {
            self.0.lock().expect("log").push("sync".to_owned());
        }
    }

    impl Log {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().expect("log"))
        }
    }

    const LEFT: Event = Event::Button { button: Button::Left, is_down: true };
    const MOVE: Event = Event::Relative { axis: Axis::X, by: 3 };
    const TO: Event = Event::Absolute { axis: Axis::X, to: 5 };

    #[test]
    fn active_device_of_the_kind_gets_the_event_and_the_end_of_the_report() {
        let hub = Hub::default();
        let (mouse, tablet) = (Arc::new(Log::default()), Arc::new(Log::default()));
        assert!(!hub.send(&LEFT, None));
        hub.add("mouse", Takes::MOUSE, mouse.clone());
        let id = hub.add("tablet", Takes::TABLET, tablet.clone());
        assert!(hub.send(&LEFT, None) && hub.send(&MOVE, None));
        hub.sync();
        assert_eq!((mouse.take().len(), tablet.take().len()), (3, 0));
        hub.activate(id);
        assert!(hub.is_absolute());
        assert!(hub.send(&LEFT, None) && hub.send(&TO, None) && hub.send(&MOVE, None));
        hub.sync();
        assert_eq!((mouse.take().len(), tablet.take().len()), (2, 3));
        let names = |hub: &Hub| {
            hub.pointers().into_iter().map(|pointer| (pointer.index, pointer.is_current)).collect::<Vec<_>>()
        };
        assert_eq!(names(&hub), [(2, true), (1, false)]);
        hub.deactivate(id);
        assert_eq!(names(&hub), [(1, true), (2, false)]);
        assert!(hub.select(2) && !hub.select(9));
        assert_eq!(names(&hub), [(2, true), (1, false)]);
        hub.remove(id);
        assert!(!hub.send(&TO, None));
    }

    #[test]
    fn device_of_a_screen_gets_its_events_and_no_others() {
        struct Nothing;
        impl Screen for Nothing {
            fn render(&self, _picture: &mut Surface) {}
        }
        let console = |head| {
            let origin = Origin { id: Some("card".to_owned()), path: "/card".to_owned(), head };
            Console::new(origin, Arc::new(Nothing))
        };
        let (first, second) = (console(0), console(1));
        let hub = Hub::default();
        let (all, own, later) = (Arc::new(Log::default()), Arc::new(Log::default()), Arc::new(Log::default()));
        let seat = |display: &str, head| Seat { display: display.to_owned(), head };
        hub.seat(hub.add("own", Takes::TABLET, own.clone()), seat("card", 1));
        assert!(hub.is_absolute() && hub.send(&TO, None), "there is no such screen yet");
        hub.set_consoles(vec![Arc::clone(&first), Arc::clone(&second)]);
        assert!(!hub.is_absolute() && !hub.send(&TO, None) && !hub.has_taker(&TO, Some(&first)));
        assert!(hub.send(&TO, Some(&second)));
        hub.add("all", Takes::TABLET, all.clone());
        hub.seat(hub.add("later", Takes::TABLET, later.clone()), seat("card", 0));
        for console in [None, Some(&first), Some(&second)] {
            assert!(hub.send(&TO, console));
        }
        assert_eq!([all, own, later].map(|log| log.take().len()), [1, 3, 1]);
    }

    #[test]
    fn changed_lights_are_told_once() {
        let hub = Hub::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&log);
        hub.on_leds(Box::new(move |leds| heard.lock().expect("log").push(leds)));
        let leds = Leds { caps_lock: true, ..Leds::default() };
        hub.set_leds(leds);
        hub.set_leds(leds);
        assert_eq!(*log.lock().expect("log"), [leds]);
        assert_eq!(hub.leds(), leds);
    }
}
