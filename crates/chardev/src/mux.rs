//! A character device that several front ends share: one of them has the focus and gets the input,
//! all of them write. The keys are those of `-nographic` and `mon:stdio`: Ctrl-a, then `c` to give
//! the focus to the next front end, `x` to end the program, `b` for a break, `h` for help, and
//! Ctrl-a for Ctrl-a itself.
//!
//! Left out on purpose: `s` (commit of all disks) and `t` (timestamps).

use crate::port::{Event, EventFn, InputFn, Port, WritableFn, lock};
use crate::slot::Slot;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// How many front ends may share a device.
const MAX_FRONT_ENDS: usize = 4;
/// How much input is kept for a front end that does not take it, so that the keys go on working.
const KEPT_INPUT: usize = 4096;
/// Ctrl-a.
const ESCAPE: u8 = 1;

/// What ends the program when somebody types Ctrl-a x.
pub(crate) type ExitFn = Mutex<Option<Box<dyn FnMut() + Send>>>;

/// The shared device.
pub(crate) struct Mux {
    port: Arc<Port>,
    front_ends: Mutex<FrontEnds>,
    /// The last byte was Ctrl-a.
    escaped: AtomicBool,
    exit: Arc<ExitFn>,
}

#[derive(Default)]
struct FrontEnds {
    all: Vec<Arc<MuxPort>>,
    /// The position of the one that gets the input.
    focus: usize,
}

/// One front end's share.
pub(crate) struct MuxPort {
    mux: Arc<Mux>,
    input: Slot<InputFn>,
    events: Slot<EventFn>,
    writable: Slot<WritableFn>,
    /// Input that came while it did not take any.
    kept: Mutex<VecDeque<u8>>,
    announced: AtomicBool,
}

impl Mux {
    pub(crate) fn new(port: Arc<Port>, exit: Arc<ExitFn>) -> Arc<Self> {
        let mux = Arc::new(Self { port, front_ends: Mutex::default(), escaped: AtomicBool::new(false), exit });
        let weak = || Arc::downgrade(&mux);
        let (for_input, for_events, for_output) = (weak(), weak(), weak());
        let input = move |bytes: &[u8]| for_input.upgrade().map_or(bytes.len(), |mux| mux.input(bytes));
        mux.port.input.set(Some(Box::new(input)));
        mux.port.set_events(Box::new(move |event| with(&for_events, |mux| mux.event(event))));
        mux.port.writable.set(Some(Box::new(move || with(&for_output, Mux::writable))));
        mux.port.resume();
        mux.port.tell_of_open();
        mux
    }

    /// A share for one more front end.
    pub(crate) fn attach(self: &Arc<Self>) -> Option<Arc<MuxPort>> {
        let mut front_ends = lock(&self.front_ends);
        if front_ends.all.len() >= MAX_FRONT_ENDS {
            return None;
        }
        let port = Arc::new(MuxPort {
            mux: Arc::clone(self),
            input: Slot::default(),
            events: Slot::default(),
            writable: Slot::default(),
            kept: Mutex::default(),
            announced: AtomicBool::new(false),
        });
        front_ends.all.push(Arc::clone(&port));
        Some(port)
    }

    /// How many front ends there are.
    pub(crate) fn users(&self) -> usize {
        lock(&self.front_ends).all.len()
    }

    fn all(&self) -> Vec<Arc<MuxPort>> {
        lock(&self.front_ends).all.clone()
    }

    fn focused(&self) -> Option<Arc<MuxPort>> {
        let front_ends = lock(&self.front_ends);
        front_ends.all.get(front_ends.focus).cloned()
    }

    fn event(&self, event: Event) {
        if event == Event::Break {
            if let Some(port) = self.focused() {
                port.announce(event);
            }
            return;
        }
        for port in self.all() {
            if event == Event::Closed {
                port.announced.store(false, Ordering::Relaxed);
                port.announce(event);
            } else {
                port.announce_open();
            }
        }
    }

    fn writable(&self) {
        for port in self.all() {
            port.writable.call(|writable| writable());
        }
    }

    fn input(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if let Some(port) = self.focused() {
            port.deliver_kept();
        }
        while let Some(&byte) = bytes.get(at) {
            let escaped = self.escaped.swap(false, Ordering::Relaxed);
            if escaped && byte != ESCAPE {
                self.key(byte);
                at += 1;
                continue;
            }
            if byte == ESCAPE && !escaped {
                self.escaped.store(true, Ordering::Relaxed);
                at += 1;
                continue;
            }
            // A Ctrl-a after Ctrl-a is input.
            let plain = usize::from(escaped);
            let rest = bytes.get(at + plain..).unwrap_or_default();
            let run = plain + rest.iter().position(|&byte| byte == ESCAPE).unwrap_or(rest.len());
            let offered = bytes.get(at..at + run).unwrap_or_default();
            // Without a front end it stays with the host.
            let taken = self.focused().map_or(0, |port| port.offer(offered));
            at += taken;
            if taken < offered.len() {
                self.escaped.store(escaped && taken == 0, Ordering::Relaxed);
                break;
            }
        }
        at
    }

    /// What the key after Ctrl-a does. Unknown ones do nothing.
    fn key(&self, key: u8) {
        match key {
            b'c' => self.next_focus(),
            b'b' => {
                if let Some(port) = self.focused() {
                    port.announce(Event::Break);
                }
            }
            b'x' => {
                self.print("\r\nouzel: ended by Ctrl-a x\r\n");
                if let Some(exit) = lock(&self.exit).as_mut() {
                    exit();
                }
            }
            b'h' | b'?' => self.print(HELP),
            _ => {}
        }
    }

    fn print(&self, text: &str) {
        _ = self.port.write(text.as_bytes());
    }

    fn next_focus(&self) {
        let next = {
            let front_ends = lock(&self.front_ends);
            (front_ends.focus + 1) % front_ends.all.len().max(1)
        };
        self.set_focus(next);
    }

    fn set_focus(&self, next: usize) {
        let (old, new) = {
            let mut front_ends = lock(&self.front_ends);
            let old = front_ends.all.get(front_ends.focus).cloned();
            front_ends.focus = next;
            (old, front_ends.all.get(next).cloned())
        };
        if let Some(old) = &old {
            old.announce(Event::FocusOut);
        }
        if let Some(new) = new {
            new.announce(Event::FocusIn);
            new.deliver_kept();
        }
    }
}

const HELP: &str = "\r\n\
    Ctrl-a h       this help\r\n\
    Ctrl-a x       end the emulator\r\n\
    Ctrl-a b       send a break\r\n\
    Ctrl-a c       switch between console and monitor\r\n\
    Ctrl-a Ctrl-a  send Ctrl-a\r\n";

fn with(mux: &Weak<Mux>, act: impl FnOnce(&Mux)) {
    if let Some(mux) = mux.upgrade() {
        act(&mux);
    }
}

impl MuxPort {
    pub(crate) fn base(&self) -> &Port {
        &self.mux.port
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        self.mux.port.write(bytes)
    }

    fn announce(&self, event: Event) {
        self.events.call(|events| events(event));
    }

    fn announce_open(&self) {
        self.events.call(|events| {
            if !self.announced.swap(true, Ordering::Relaxed) {
                events(Event::Opened);
            }
        });
    }

    /// Takes the input callback, and the focus with it: the latest front end starts with it.
    pub(crate) fn set_input(self: &Arc<Self>, input: InputFn) {
        self.input.set(Some(input));
        let position = lock(&self.mux.front_ends).all.iter().position(|port| Arc::ptr_eq(port, self));
        if let Some(position) = position {
            self.mux.set_focus(position);
        }
        self.resume_input();
    }

    pub(crate) fn set_events(&self, events: EventFn) {
        // As Port::set_events: nobody is told twice.
        self.events.set(None);
        self.announced.store(false, Ordering::Relaxed);
        self.events.set(Some(events));
        self.mux.port.announce_again();
    }

    pub(crate) fn set_writable(&self, writable: WritableFn) {
        self.writable.set(Some(writable));
    }

    pub(crate) fn resume_input(&self) {
        self.mux.port.resume();
    }

    /// Gives the front end what it did not take before. Says whether it has taken everything.
    fn deliver_kept(&self) -> bool {
        let mut kept = lock(&self.kept);
        if kept.is_empty() {
            return true;
        }
        self.learn();
        let bytes = kept.make_contiguous();
        let taken = self.input.call(|input| input(bytes)).unwrap_or(0).min(bytes.len());
        kept.drain(..taken);
        kept.is_empty()
    }

    /// Before input it learns that the device is open, if it is.
    fn learn(&self) {
        if self.input.is_set() && self.mux.port.is_open() {
            self.announce_open();
        }
    }

    fn offer(&self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.deliver_kept() {
            self.learn();
            taken = self.input.call(|input| input(bytes)).unwrap_or(0).min(bytes.len());
        }
        let mut kept = lock(&self.kept);
        let rest = bytes.get(taken..).unwrap_or_default();
        let room = KEPT_INPUT.saturating_sub(kept.len()).min(rest.len());
        kept.extend(rest.iter().take(room));
        taken + room
    }

    pub(crate) fn detach(&self) {
        self.input.set(None);
        self.events.set(None);
        self.writable.set(None);
    }

    pub(crate) fn leave(&self) {
        let mut front_ends = lock(&self.mux.front_ends);
        if let Some(position) = front_ends.all.iter().position(|port| std::ptr::eq(Arc::as_ptr(port), self)) {
            front_ends.all.remove(position);
            if front_ends.focus > position || front_ends.focus == front_ends.all.len() {
                front_ends.focus = front_ends.focus.saturating_sub(1);
            }
        }
    }
}
