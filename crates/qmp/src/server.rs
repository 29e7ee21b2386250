//! All monitors of a program, and what they share.

use crate::context::MonitorData;
use crate::events::EventSink;
use crate::fds::FdSets;
use crate::lock;
use crate::session::Session;
use crate::table::CommandTable;
use chardev::Chardev;
use qapi::QapiType;
use qapi::control::VersionInfo;
use qapi::json::{Map, Value};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// Something for the control thread to do.
pub type Work<C> = Box<dyn FnOnce(&mut C) + Send>;

/// The way to the control thread, which it provides. It does the work one after the other, in the
/// order of arrival.
pub trait ControlQueue<C>: Send + Sync {
    /// Hands over some work. Must not run it before returning. If the thread is no more, the work is
    /// dropped; its client then gets an error.
    fn push(&self, work: Work<C>);
}

/// What a monitor may be told on the command line.
#[derive(Debug, Clone, Default)]
pub struct MonitorOptions {
    /// Its id; may be empty.
    pub id: String,
    /// Whether messages are spread over lines.
    pub pretty: bool,
}

/// What a server is made of.
pub struct ServerOptions<C, S> {
    /// The commands.
    pub table: Arc<CommandTable<C, S>>,
    /// The way to the control thread.
    pub control: Arc<dyn ControlQueue<C>>,
    /// The state for commands that run in place.
    pub snapshot: Arc<S>,
    /// Where events come from.
    pub events: EventSink,
    /// The version in the greeting.
    pub version: VersionInfo,
    /// Whether the machine is still to be configured (`--preconfig`): then only some commands may be used.
    pub preconfig: Arc<AtomicBool>,
}

/// What all sessions share.
pub(crate) struct Shared<C, S> {
    pub(crate) table: Arc<CommandTable<C, S>>,
    pub(crate) control: Arc<dyn ControlQueue<C>>,
    pub(crate) snapshot: Arc<S>,
    pub(crate) events: EventSink,
    pub(crate) fd_sets: FdSets,
    pub(crate) greeting: Value,
    pub(crate) preconfig: Arc<AtomicBool>,
}

/// The monitors of a program.
pub struct Server<C, S> {
    shared: Arc<Shared<C, S>>,
    sessions: Mutex<Vec<Arc<Session<C, S>>>>,
}

impl<C: 'static, S: Send + Sync + 'static> Server<C, S> {
    /// A server without monitors.
    #[must_use]
    pub fn new(options: ServerOptions<C, S>) -> Self {
        let ServerOptions { table, control, snapshot, events, version, preconfig } = options;
        let mut greeting = Map::from_iter([("version", version.to_value())]);
        greeting.insert("capabilities", vec![Value::from("oob")]);
        let greeting = Value::Object(Map::from_iter([("QMP", greeting)]));
        let fd_sets = FdSets::default();
        let shared = Shared { table, control, snapshot, events, fd_sets, greeting, preconfig };
        Self { shared: Arc::new(shared), sessions: Mutex::default() }
    }

    /// Starts a monitor on a character device.
    pub fn add_monitor(&self, chardev: Chardev, options: MonitorOptions) {
        let MonitorOptions { id, pretty } = options;
        let data = MonitorData { id, fds: Mutex::default(), default_cpu: Mutex::default() };
        let session = Session::start(Arc::clone(&self.shared), chardev, data, pretty);
        lock(&self.sessions).push(session);
    }

    /// Ends the monitors of that id, whose clients have gone.
    pub fn remove_monitor(&self, id: &str) {
        let gone: Vec<_> = lock(&self.sessions).extract_if(.., |session| session.id() == id).collect();
        for session in gone {
            session.detach();
        }
    }

    /// Where events are sent to.
    #[must_use]
    pub fn events(&self) -> &EventSink {
        &self.shared.events
    }

    /// The sets of descriptors that all monitors share.
    #[must_use]
    pub fn fd_sets(&self) -> &FdSets {
        &self.shared.fd_sets
    }
}

impl<C, S> Drop for Server<C, S> {
    fn drop(&mut self) {
        for session in lock(&self.sessions).drain(..) {
            session.detach();
        }
    }
}
