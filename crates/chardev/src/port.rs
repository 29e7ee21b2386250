//! The state of a character device that both sides share, and the way of output.

use crate::hub::Hub;
use crate::line::Line;
use crate::ring::Ring;
use crate::slot::Slot;
use crate::stream::Stream;
use crate::tablet::Tablet;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// How much output is kept for a slow reader, in bytes, before [`crate::Chardev::write`] takes less
/// than it is given.
pub const OUTPUT_LIMIT: usize = 64 << 10;

/// What happens to a character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The other side is there.
    Opened,
    /// The other side is gone.
    Closed,
    /// The other side sends a break (Ctrl-a b on a shared terminal).
    Break,
    /// This front end of a shared device now gets the input.
    FocusIn,
    /// Another front end of a shared device now gets the input.
    FocusOut,
}

/// Gets input and returns how many bytes it took. If it took fewer than it got, the rest is kept
/// and offered again after [`crate::Chardev::resume_input`].
///
/// An empty slice means that the other side has sent all that it will send. Returning other than 0
/// then keeps the connection open for output until `resume_input`, as long as the other side is there.
pub type InputFn = Box<dyn FnMut(&[u8]) -> usize + Send>;
/// Is told what happens.
pub type EventFn = Box<dyn FnMut(Event) + Send>;
/// Is told that there is room for output, after a write that took less than it was given.
pub type WritableFn = Box<dyn FnMut() + Send>;

/// Where output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Nowhere.
    Null,
    /// Into memory.
    Ring(Ring),
    /// To a connection, if there is one; nowhere else.
    Stream(Option<Stream>),
    /// To several other devices.
    Hub(Hub),
    /// To a tablet inside this program.
    Tablet(Arc<Tablet>),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) filename: String,
    pub(crate) sink: Sink,
    pub(crate) log: Option<File>,
    /// Output that the host has not yet taken.
    pub(crate) pending: VecDeque<u8>,
    /// A write took less than it was given, and the writer waits to be told.
    pub(crate) starved: bool,
    /// The front end can take input again.
    pub(crate) resume: bool,
    /// The connection shall end.
    pub(crate) hang_up: bool,
    /// Whether the front end has been told that the device is open.
    pub(crate) announced: bool,
    pub(crate) received_fds: Option<Vec<OwnedFd>>,
    /// What hears how the guest's line runs.
    pub(crate) line: Option<Line>,
    pub(crate) waker: Option<Waker>,
    /// Where a socket takes connections that others have made.
    pub(crate) handed: Option<tokio::sync::mpsc::Sender<OwnedFd>>,
}

/// One character device, shared between its front end and the task that serves it.
pub(crate) struct Port {
    pub(crate) id: String,
    state: Mutex<State>,
    pub(crate) input: Slot<InputFn>,
    pub(crate) events: Slot<EventFn>,
    pub(crate) writable: Slot<WritableFn>,
}

/// A poisoned lock means that a callback panicked; the data are still whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    pub(crate) fn new(id: &str, filename: String, sink: Sink, log: Option<File>) -> Self {
        let state = State {
            filename,
            sink,
            log,
            pending: VecDeque::new(),
            starved: false,
            resume: false,
            hang_up: false,
            announced: false,
            received_fds: None,
            line: None,
            waker: None,
            handed: None,
        };
        Self {
            id: id.to_owned(),
            state: Mutex::new(state),
            input: Slot::default(),
            events: Slot::default(),
            writable: Slot::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes what it can of `bytes`: the host's share at once, and a bounded rest.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let taken = state.write(bytes);
        if let Some(log) = &mut state.log {
            // A full disk must not stop the guest: its copy of the output is lost.
            _ = log.write_all(bytes.get(..taken).unwrap_or_default());
        }
        taken
    }

    /// Changes what the serving task waits for, and lets it look.
    pub(crate) fn poke(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        match &self.state().sink {
            Sink::Stream(stream) => stream.is_some(),
            Sink::Hub(hub) => hub.is_open(),
            Sink::Null | Sink::Ring(_) | Sink::Tablet(_) => true,
        }
    }

    /// Says that the front end can take input again.
    pub(crate) fn resume(&self) {
        self.poke(|state| state.resume = true);
        for below in self.below() {
            below.poke(|state| state.resume = true);
        }
    }

    /// The devices that this one is over.
    fn below(&self) -> Vec<Arc<Self>> {
        match &self.state().sink {
            Sink::Hub(hub) => hub.ports(),
            _ => Vec::new(),
        }
    }

    /// How much output the host has not taken yet, in bytes.
    pub(crate) fn pending_output(&self) -> usize {
        let below = self.below().iter().map(|below| below.pending_output()).max();
        self.state().pending.len() + below.unwrap_or(0)
    }

    /// Sets who is told of events. Nobody hears twice that the device is open: it is new to whoever comes, and the task may
    /// tell as soon as there is somebody.
    pub(crate) fn set_events(&self, events: EventFn) {
        self.events.set(None);
        self.state().announced = false;
        self.events.set(Some(events));
    }

    /// Lets the task that serves the device look whether a front end is to be told that it is open; a hub has none.
    pub(crate) fn tell_of_open(&self) {
        self.poke(|_| ());
        let is_open_hub = match &self.state().sink {
            Sink::Hub(hub) => hub.is_open(),
            // A task tells, or nobody.
            _ => false,
        };
        if is_open_hub {
            self.announce_open();
        }
    }

    /// Lets a new front end of a shared device be told that the device is open; the others know.
    pub(crate) fn announce_again(&self) {
        self.state().announced = false;
        self.tell_of_open();
    }

    /// Takes the front end's callbacks away.
    pub(crate) fn detach(&self) {
        self.input.set(None);
        self.events.set(None);
        self.writable.set(None);
    }

    /// Tells the front end that the device is open, unless it knows.
    pub(crate) fn announce_open(&self) {
        self.events.call(|events| {
            if !std::mem::replace(&mut self.state().announced, true) {
                events(Event::Opened);
            }
        });
    }

    /// Tells the front end, if there is one.
    pub(crate) fn announce(&self, event: Event) {
        self.events.call(|events| events(event));
    }

    /// Tells a front end that was refused output that there is room.
    pub(crate) fn tell_writable(&self) {
        self.writable.call(|writable| writable());
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let stream = match &mut self.sink {
            Sink::Null | Sink::Stream(None) => return bytes.len(),
            Sink::Ring(ring) => {
                ring.write(bytes);
                return bytes.len();
            }
            Sink::Tablet(tablet) => {
                tablet.receive(bytes);
                return bytes.len();
            }
            Sink::Hub(hub) => {
                let taken = hub.write(&mut self.pending, bytes);
                self.starved |= taken < bytes.len();
                return taken;
            }
            Sink::Stream(Some(stream)) => stream,
        };
        let mut sent = 0;
        if self.pending.is_empty() {
            while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
                match stream.write(rest) {
                    Ok(0) | Err(Errno::AGAIN) => break,
                    Ok(count) => sent += count,
                    Err(_) => {
                        // The other side is gone. The task finds out, too; nobody can read this.
                        self.hang_up |= stream.is_socket();
                        self.wake();
                        return bytes.len();
                    }
                }
            }
        }
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            if stream.is_behind() {
                self.wake();
            }
            return sent;
        }
        let room = OUTPUT_LIMIT.saturating_sub(self.pending.len()).min(rest.len());
        self.pending.extend(rest.iter().take(room));
        self.starved |= room < rest.len();
        self.wake();
        sent + room
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Sends kept output. Says whether everything is sent.
    pub(crate) fn flush(&mut self) -> Result<bool, Errno> {
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            let Sink::Stream(Some(stream)) = &self.sink else {
                self.pending.clear();
                break;
            };
            match stream.write(first) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(false),
                Ok(count) => _ = self.pending.drain(..count),
                Err(error) => return Err(error),
            }
        }
        if self.pending.capacity() > OUTPUT_LIMIT / 4 {
            self.pending = VecDeque::new();
        }
        match &self.sink {
            Sink::Stream(Some(stream)) => stream.flush(),
            _ => Ok(true),
        }
    }
}
