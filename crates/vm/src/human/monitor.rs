//! A human monitor on a character device: prompt, line editing, history, completion.
//!
//! Keys are read on the monitor thread; a line goes to the control thread, and no key is taken until its text has been
//! read by the other side.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ::hmp::{Action, Readline};
use chardev::{Chardev, Event, Outbox};
use qmp::{FdSets, SessionContext};

use super::{candidates, execute};
use crate::control::Control;
use crate::inbox::Inbox;

const PROMPT: &str = "(qemu) ";

#[derive(Default)]
struct State {
    readline: Readline,
    output: Outbox,
    /// A line is being executed, or its text is not yet read.
    busy: bool,
    /// The text of a line is complete: keys are taken again when it is read.
    finished: bool,
    is_open: bool,
    /// How often somebody has come or gone: what was asked before is not answered to the next one.
    visit: u64,
}

impl State {
    fn next(&self, is_open: bool) -> Self {
        Self { is_open, visit: self.visit.wrapping_add(1), ..Self::default() }
    }
}

struct Shared {
    chardev: Chardev,
    state: Mutex<State>,
    context: Mutex<SessionContext>,
    inbox: Arc<Inbox<Control>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A monitor for a person.
pub struct HumanMonitor {
    shared: Arc<Shared>,
}

impl HumanMonitor {
    /// Starts it.
    pub fn start(chardev: Chardev, fd_sets: FdSets, inbox: &Arc<Inbox<Control>>) -> Self {
        let context = Mutex::new(SessionContext::new(chardev.id(), fd_sets));
        let shared = Arc::new(Shared { chardev, state: Mutex::default(), context, inbox: Arc::clone(inbox) });
        let weak = || Arc::downgrade(&shared);
        let (for_input, for_events, for_output) = (weak(), weak(), weak());
        shared
            .chardev
            .set_writable(Box::new(move || with(&for_output, |shared| shared.pump(&mut lock(&shared.state)))));
        shared.chardev.set_events(Box::new(move |event| with(&for_events, |shared| shared.event(event))));
        shared
            .chardev
            .set_input(Box::new(move |bytes| for_input.upgrade().map_or(bytes.len(), |shared| shared.input(bytes))));
        Self { shared }
    }
}

impl Drop for HumanMonitor {
    fn drop(&mut self) {
        self.shared.chardev.detach();
    }
}

fn with(shared: &Weak<Shared>, act: impl FnOnce(&Arc<Shared>)) {
    if let Some(shared) = shared.upgrade() {
        act(&shared);
    }
}

impl Shared {
    fn event(&self, event: Event) {
        let mut state = lock(&self.state);
        match event {
            Event::Opened => {
                *state = state.next(true);
                let (major, minor, micro) = crate::version::TRIPLE;
                let banner =
                    format!("QEMU {major}.{minor}.{micro} monitor - type 'help' for more information\r\n{PROMPT}");
                self.show(&mut state, &banner);
            }
            Event::Closed => *state = state.next(false),
            Event::FocusIn if state.is_open => self.show(&mut state, &format!("\r\n{PROMPT}")),
            Event::FocusIn | Event::FocusOut | Event::Break => {}
        }
    }

    /// Takes keys until a line is complete.
    fn input(self: &Arc<Self>, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        for (at, &byte) in bytes.iter().enumerate() {
            if state.busy {
                return at;
            }
            for action in state.readline.key(byte) {
                match action {
                    Action::Show(text) => self.show(&mut state, &text),
                    Action::Line(line) => self.execute(&mut state, line),
                    Action::Complete(line) => self.complete(&mut state, line),
                }
            }
        }
        bytes.len()
    }

    fn execute(self: &Arc<Self>, state: &mut State, line: String) {
        state.busy = true;
        if line.split_whitespace().eq(["info", "history"]) {
            let history = state.readline.history().enumerate();
            let text: String = history.map(|(index, line)| format!("{index}: '{line}'\n")).collect();
            self.finish(state, &text);
            return;
        }
        let (shared, visit) = (Arc::clone(self), state.visit);
        // Nothing is asked for any more behind this one.
        let is_last = matches!(line.split_whitespace().next(), Some("q" | "quit"));
        self.inbox.request(Box::new(move |control| {
            let told = Arc::clone(&shared);
            let mut context = lock(&shared.context);
            let done = Box::new(move |text: String| {
                let mut state = lock(&told.state);
                if state.visit == visit && is_last {
                    told.show(&mut state, &text.replace('\n', "\r\n"));
                } else if state.visit == visit {
                    told.finish(&mut state, &text);
                }
            });
            execute(control, &mut context, &line, done);
        }));
    }

    fn complete(self: &Arc<Self>, state: &mut State, line: String) {
        state.busy = true;
        let (shared, visit) = (Arc::clone(self), state.visit);
        self.inbox.request(Box::new(move |control| {
            let (typed, found) = candidates(control, &line);
            let mut state = lock(&shared.state);
            if state.visit != visit {
                return;
            }
            let (text, is_list) = state.readline.complete(&typed, &found);
            shared.show(&mut state, &text);
            if is_list {
                let line = state.readline.restart();
                shared.show(&mut state, &format!("{PROMPT}{line}"));
            }
            state.finished = true;
            shared.pump(&mut state);
        }));
    }

    /// Shows what a line has printed, and asks for the next.
    fn finish(&self, state: &mut State, text: &str) {
        let line = state.readline.restart();
        let text = text.replace('\n', "\r\n");
        state.finished = true;
        self.show(state, &format!("{text}{PROMPT}{line}"));
    }

    fn show(&self, state: &mut State, text: &str) {
        state.output.put(text.as_bytes());
        self.pump(state);
    }

    /// Writes what the other side takes.
    fn pump(&self, state: &mut State) {
        state.output.send(&self.chardev);
        if state.output.is_empty() && std::mem::take(&mut state.finished) {
            state.busy = false;
            self.chardev.resume_input();
        }
    }
}
