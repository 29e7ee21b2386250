//! Keys that are pressed and released with time in between (`send-key`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use clock::{Clock, Timer};

use super::{Event, Hub};
use crate::console::Console;
use crate::keys::Key;

/// The most steps that wait.
const STEPS_MAX: usize = 1024;

/// What happens next.
enum Step {
    Key {
        key: Key,
        is_down: bool,
        console: Option<Arc<Console>>,
    },
    /// Nothing, for so many nanoseconds of guest time.
    Wait(u64),
}

struct Steps {
    waiting: VecDeque<Step>,
    timer: Option<Timer>,
    is_armed: bool,
}

/// Plays keys in guest time: a stopped guest gets them when it goes on.
pub struct KeyQueue {
    hub: Arc<Hub>,
    clock: Clock,
    steps: Mutex<Steps>,
}

impl KeyQueue {
    /// A queue in front of `hub`.
    pub fn new(hub: Arc<Hub>, clock: Clock) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let timer = clock.timer(move || {
                if let Some(queue) = weak.upgrade() {
                    queue.play(true);
                }
            });
            let steps = Steps { waiting: VecDeque::new(), timer: Some(timer), is_armed: false };
            Self { hub, clock, steps: Mutex::new(steps) }
        })
    }

    /// Presses keys one after the other, each held for `hold` nanoseconds before the next, and releases them in the
    /// opposite order. What does not fit behind the keys that still wait is lost, but for releases of keys that are down.
    pub fn press(&self, keys: &[Key], hold: u64) {
        {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            let room = STEPS_MAX.saturating_sub(steps.waiting.len()) / 4;
            let keys = keys.get(..keys.len().min(room)).unwrap_or_default();
            let downs = keys.iter().map(|key| (*key, true));
            for (key, is_down) in downs.chain(keys.iter().rev().map(|key| (*key, false))) {
                steps.waiting.extend([Step::Key { key, is_down, console: None }, Step::Wait(hold)]);
            }
        }
        self.play(false);
    }

    /// Presses or releases one key after those that wait, for a console; the next one comes `delay` nanoseconds later at
    /// the earliest. `false` if a key that goes down finds no room.
    pub fn send(&self, key: Key, is_down: bool, delay: u64, console: Option<&Arc<Console>>) -> bool {
        {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            if is_down && steps.waiting.len() >= STEPS_MAX {
                return false;
            }
            steps.waiting.push_back(Step::Key { key, is_down, console: console.cloned() });
            if delay > 0 {
                steps.waiting.push_back(Step::Wait(delay));
            }
        }
        self.play(false);
        true
    }

    /// Plays until the next wait.
    fn play(&self, is_due: bool) {
        let mut events = Vec::new();
        {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            if is_due {
                steps.is_armed = false;
            }
            while !steps.is_armed {
                match steps.waiting.pop_front() {
                    None => break,
                    Some(Step::Key { key, is_down, console }) => events.push((Event::Key { key, is_down }, console)),
                    Some(Step::Wait(time)) => {
                        steps.is_armed = true;
                        let deadline = self.clock.now().saturating_add(time);
                        if let Some(timer) = &mut steps.timer {
                            timer.arm(deadline);
                        }
                    }
                }
            }
        }
        for (event, console) in events {
            self.hub.send(&event, console.as_ref());
            self.hub.sync();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{InputDevice, Takes};

    #[derive(Default)]
    struct Keyboard(Mutex<Vec<(&'static str, bool)>>);

    impl InputDevice for Keyboard {
        fn event(&self, event: &Event) {
            if let Event::Key { key, is_down } = event {
                self.0.lock().expect("log").push((key.codes().name, *is_down));
            }
        }
        fn sync(&self) {}
    }

    #[test]
    fn keys_go_down_in_order_and_up_in_the_opposite_one() {
        let (hub, clock, keyboard) = (Arc::new(Hub::default()), Clock::manual(), Arc::new(Keyboard::default()));
        hub.add("keyboard", Takes::KEYBOARD, keyboard.clone());
        let queue = KeyQueue::new(hub, clock.clone());
        let key = |name| Key::named(name).expect("a key");
        queue.press(&[key("ctrl"), key("a")], 100);
        queue.press(&[key("b")], 10);
        let expected = [("ctrl", true), ("a", true), ("a", false), ("ctrl", false), ("b", true), ("b", false)];
        for (index, _) in expected.iter().enumerate() {
            assert_eq!(*keyboard.0.lock().expect("log"), expected[..=index]);
            clock.step(if index < 4 { 100 } else { 10 });
        }
        assert_eq!(clock.next_deadline(), None);
        queue.press(&[key("a"); 2000], 1);
        clock.step(10_000);
        let log = keyboard.0.lock().expect("log");
        let downs = log.iter().filter(|(_, is_down)| *is_down).count();
        assert_eq!(2 * downs, log.len(), "each key that went down came up");
    }
}
