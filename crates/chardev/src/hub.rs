//! A character device over several others: output goes to each of them, input comes from any. (`-chardev hub`, QEMU 10.0.)
//!
//! Output waits in the hub's own port until each device that somebody is behind has taken it, so the slowest of them is who
//! the front end waits for, and none of them loses a byte. A device with nobody behind is passed over; when somebody comes,
//! output begins with what is said then. The front end is told that somebody is there when the first one comes, and that
//! nobody is when the last one goes.
//!
//! Locks: a callback of a device below, then a callback of the hub, or the hub's state and then that of a device below.

use crate::port::{Event, OUTPUT_LIMIT, Port, Sink};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// How many devices a hub has at most.
pub(crate) const MAX: usize = 4;

/// The devices below a hub, and how far each of them is.
pub(crate) struct Hub {
    below: Vec<Below>,
}

struct Below {
    port: Arc<Port>,
    /// How much of what waits in the hub it has taken.
    taken: usize,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("devices", &self.below.len()).finish_non_exhaustive()
    }
}

/// The port of a hub over devices that nobody else uses.
pub(crate) fn start(id: &str, log: Option<std::fs::File>, ports: &[Arc<Port>]) -> Arc<Port> {
    let below = ports.iter().map(|port| Below { port: Arc::clone(port), taken: 0 }).collect();
    let hub = Arc::new(Port::new(id, "hub".to_owned(), Sink::Hub(Hub { below }), log));
    for port in ports {
        let weak = || Arc::downgrade(&hub);
        let (for_input, for_events, for_output) = (weak(), weak(), weak());
        let give = move |bytes: &[u8]| for_input.upgrade().map_or(bytes.len(), |hub| input(&hub, bytes));
        port.set_events(Box::new(move |seen| with(&for_events, |hub| event(hub, seen))));
        port.writable.set(Some(Box::new(move || with(&for_output, writable))));
        port.input.set(Some(Box::new(give)));
        port.poke(|state| state.resume = true);
    }
    hub
}

fn with(hub: &Weak<Port>, act: impl FnOnce(&Port)) {
    if let Some(hub) = hub.upgrade() {
        act(&hub);
    }
}

fn input(hub: &Port, bytes: &[u8]) -> usize {
    // One of several has said everything: that is no news to the front end.
    if bytes.is_empty() {
        return 0;
    }
    hub.input.call(|input| input(bytes)).unwrap_or(0)
}

fn event(hub: &Port, event: Event) {
    match event {
        Event::Opened => hub.announce_open(),
        Event::Closed => {
            // Whoever was waited for may be gone.
            writable(hub);
            let is_last = !hub.is_open() && std::mem::take(&mut hub.state().announced);
            if is_last {
                hub.announce(Event::Closed);
            }
        }
        other => hub.announce(other),
    }
}

fn writable(hub: &Port) {
    let has_room = {
        let state = &mut *hub.state();
        if let Sink::Hub(below) = &mut state.sink {
            below.pump(&mut state.pending);
        }
        state.pending.len() <= OUTPUT_LIMIT / 2 && std::mem::take(&mut state.starved)
    };
    if has_room {
        hub.tell_writable();
    }
}

impl Hub {
    pub(crate) fn ports(&self) -> Vec<Arc<Port>> {
        self.below.iter().map(|below| Arc::clone(&below.port)).collect()
    }

    /// Whether anybody is there.
    pub(crate) fn is_open(&self) -> bool {
        self.below.iter().any(|below| below.port.is_open())
    }

    /// Takes what has room behind `pending`, and returns how much that was.
    pub(crate) fn write(&mut self, pending: &mut VecDeque<u8>, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let room = OUTPUT_LIMIT.saturating_sub(pending.len()).min(rest.len());
            if room == 0 {
                break;
            }
            pending.extend(rest.iter().take(room));
            taken += room;
            self.pump(pending);
        }
        taken
    }

    /// Gives each device what it takes, and forgets what all of them have.
    fn pump(&mut self, pending: &mut VecDeque<u8>) {
        for below in &mut self.below {
            if !below.port.is_open() {
                below.taken = pending.len();
            }
            while below.taken < pending.len() {
                let (first, second) = pending.as_slices();
                let rest = match first.get(below.taken..).filter(|rest| !rest.is_empty()) {
                    Some(rest) => rest,
                    None => second.get(below.taken - first.len()..).unwrap_or_default(),
                };
                let taken = below.port.write(rest);
                below.taken += taken;
                if taken < rest.len() {
                    break;
                }
            }
        }
        let by_all = self.below.iter().map(|below| below.taken).min().unwrap_or(pending.len());
        pending.drain(..by_all);
        for below in &mut self.below {
            below.taken -= by_all;
        }
    }
}
