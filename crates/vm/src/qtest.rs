//! The qtest server: QEMU's test protocol on a character device (`-qtest`, `-object qtest`).
//!
//! A client writes lines of words and gets one line for each; between them come `IRQ raise N` and `IRQ lower N` for the
//! lines that it intercepts. Requests run on the control thread, one at a time, like a monitor's. The commands are in
//! [`protocol`]. Loading modules always fails: there are none.

mod payload;
mod protocol;

use std::fmt::Arguments;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chardev::{Chardev, Event, Outbox};
use machine::Machine;

use crate::control::Control;
use crate::inbox::Inbox;
use protocol::Session;

/// Where a qtest server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QtestConfig {
    /// The character device it speaks on.
    pub chardev: String,
    /// Where it writes down what it reads and says: standard error without a file, nowhere for `none`.
    pub log: Option<PathBuf>,
}

/// The longest request, in bytes: what a `write` of 16 MiB needs.
const LINE_MAX: usize = 33 << 20;

/// What the server says, in order, however slowly the client reads.
struct Output {
    chardev: Chardev,
    waiting: Mutex<Outbox>,
    log: Mutex<Log>,
}

struct Log {
    start: Instant,
    /// A client is there.
    is_open: bool,
    to: Option<Box<dyn Write + Send>>,
}

impl Log {
    fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let to: Option<Box<dyn Write + Send>> = match path {
            None => Some(Box::new(std::io::stderr())),
            Some(path) if path == Path::new("none") => None,
            Some(path) => Some(Box::new(File::create(path)?)),
        };
        Ok(Self { start: Instant::now(), is_open: false, to })
    }

    /// A client has come or gone.
    fn set_open(&mut self, is_open: bool) {
        if std::mem::replace(&mut self.is_open, is_open) == is_open {
            return;
        }
        match is_open {
            true => self.write(format_args!("OPENED"), "I "),
            false => self.write(format_args!("CLOSED"), "I +"),
        }
    }

    fn write(&mut self, line: Arguments<'_>, mark: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        if let Some(to) = &mut self.to {
            // A log that can't be written is no reason to fail a test.
            let _lost = writeln!(to, "[{mark}{seconds:.6}] {line}");
        }
    }
}

impl Output {
    fn log(&self, mark: &str, line: Arguments<'_>) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).write(line, mark);
    }

    fn set_open(&self, is_open: bool) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).set_open(is_open);
    }

    /// Sends one line. Called with device locks held, too.
    fn send(&self, line: &str) {
        self.log("S +", format_args!("{line}"));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.put(line.as_bytes());
        waiting.put(b"\n");
        waiting.send(&self.chardev);
    }

    fn flush(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).send(&self.chardev);
    }
}

/// A server at work. Dropping it ends it.
pub struct Server(Arc<Output>, Sessions);

/// The sessions of a server, for whoever exchanges the machine.
#[derive(Clone)]
pub struct Sessions(Arc<Mutex<Session>>);

impl Sessions {
    /// Lets them drive this machine from now on.
    pub fn attach(&self, machine: &Machine) {
        let has_clock = machine.accelerator().name() == machine::qtest::NAME;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).attach(machine.qtest_access(), has_clock);
    }
}

impl Server {
    /// Serves `chardev`; requests go through `inbox` to the machine.
    ///
    /// # Errors
    /// The log can't be opened.
    pub fn start(
        config: &QtestConfig,
        chardev: Chardev,
        control: &Control,
        inbox: &Arc<Inbox<Control>>,
    ) -> std::io::Result<Self> {
        let log = Mutex::new(Log::open(config.log.as_deref())?);
        let output = Arc::new(Output { chardev, waiting: Mutex::default(), log });
        let has_clock = control.machine().accelerator().name() == machine::qtest::NAME;
        let session = Session::new(control.machine().qtest_access(), has_clock, irq_lines(&output));
        let session = Arc::new(Mutex::new(session));
        let known = Sessions(Arc::clone(&session));

        let weak = Arc::downgrade(&output);
        output.chardev.set_writable(Box::new(move || {
            if let Some(output) = weak.upgrade() {
                output.flush();
            }
        }));
        let weak = Arc::downgrade(&output);
        output.chardev.set_events(Box::new(move |event| {
            let (Some(output), Event::Opened | Event::Closed) = (weak.upgrade(), event) else { return };
            output.set_open(event == Event::Opened);
        }));
        let weak = Arc::downgrade(&output);
        let inbox = Arc::clone(inbox);
        let mut lines = Lines::default();
        output.chardev.set_input(Box::new(move |bytes| {
            lines.take(bytes, |line| {
                let (weak, session) = (weak.clone(), Arc::clone(&session));
                inbox.request(Box::new(move |_: &mut Control| {
                    let Some(output) = weak.upgrade() else { return };
                    output.log("R +", format_args!("{line}"));
                    let reply = session.lock().unwrap_or_else(PoisonError::into_inner).execute(&line);
                    output.send(&reply);
                }));
            });
            bytes.len()
        }));
        Ok(Self(output, known))
    }

    /// Its sessions.
    pub fn sessions(&self) -> Sessions {
        self.1.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.chardev.detach();
        self.0.set_open(false);
    }
}

/// How intercepted lines are reported.
fn irq_lines(output: &Arc<Output>) -> protocol::Reporter {
    let weak = Arc::downgrade(output);
    Arc::new(move |pin, level| {
        if let Some(output) = weak.upgrade() {
            output.send(&format!("IRQ {} {pin}", if level { "raise" } else { "lower" }));
        }
    })
}

/// Cuts a stream into lines. A line that is too long is given up: its parts are requests that nobody knows.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.0.len() > LINE_MAX {
                let line = String::from_utf8_lossy(&self.0).trim_end_matches(['\r', '\n']).to_owned();
                self.0.clear();
                each(line);
            }
        }
    }
}
