//! From a configuration to a running program: threads, monitors, machine, and the end.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use block_net::tls;
use chardev::{Backend, ChardevSpec, Chardevs, Common, Inner, TlsConfig};
use machine::config::{MachineConfig, MachineType, MemoryOptions};
use machine::event::GuestEvents;
use machine::firmware::FirmwareConfig;
use machine::numa::Numa;
use machine::{Backends, Machine, MachineError, TraceFactory};
use qmp::{ControlQueue, EventSink, MonitorOptions, Server, ServerOptions, Work};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::VmConfig;
use crate::control::{Control, Preconfig, SharedState};
use crate::cpu_log;
use crate::curses::{self, Curses};
use crate::gdb;
use crate::handlers;
use crate::hotplug::DeviceSource;
use crate::human::HumanMonitor;
use crate::inbox::Inbox;
use crate::mouse::SerialPointers;
use crate::qtest;
use crate::snapshot::Snapshot;
use crate::spice::Spice;
use crate::storage::{OwnerLink, Storage, StorageError};
use crate::terminals::Terminals;
use crate::viewers::ViewerError;
use crate::vnc::Vnc;
use crate::web::Console;

/// Why the program can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A character device.
    #[error(transparent)]
    Chardev(#[from] chardev::Error),
    /// The block layer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The web console.
    #[error("-web: {0}")]
    Web(#[from] ::web::Error),
    /// VNC or SPICE.
    #[error(transparent)]
    Viewer(#[from] ViewerError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The display wants a terminal.
    #[error("-display curses needs standard input and output to be a terminal")]
    NoTerminal,
    /// The server for gdb.
    #[error("{0}")]
    Gdb(String),
    /// The host refuses a thread or a signal handler.
    #[error("the host refuses {what}: {source}")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl<C: 'static> ControlQueue<C> for Inbox<C> {
    fn push(&self, work: Work<C>) {
        self.request(work);
    }
}

/// The thread that serves monitors and character devices.
pub(crate) struct MonitorThread {
    pub(crate) handle: tokio::runtime::Handle,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MonitorThread {
    /// Starts the thread. The host's signals that ask the program to end go to `inbox`.
    pub(crate) fn start<C: 'static>(inbox: &Arc<Inbox<C>>) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let inbox = Arc::clone(inbox);
        let thread = std::thread::Builder::new().name("monitor".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The receiver waits for exactly this message.
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _context = runtime.enter();
            let watched = watch_signals(&inbox).map(|()| runtime.handle().clone());
            let _ = tell.send(watched);
            // The sender may be dropped or used: both are the end.
            let _ = runtime.block_on(ended);
        })?;
        let handle = told.recv().map_err(|_| io::Error::other("the monitor thread ended at its start"))??;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for MonitorThread {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Leaves SIGINT, SIGTERM and SIGHUP in the inbox.
fn watch_signals<C: 'static>(inbox: &Arc<Inbox<C>>) -> io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind)?;
        let inbox = Arc::clone(inbox);
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                inbox.terminate(kind.as_raw_value());
            }
        });
    }
    Ok(())
}

/// Builds a machine whose devices use these character devices and this block layer.
fn build(
    config: &MachineConfig,
    chardevs: &Chardevs,
    storage: &mut Storage,
    (events, trace): (&GuestEvents, Option<Arc<TraceFactory>>),
) -> Result<Machine, MachineError> {
    let has_own = config.memory.backend.is_none() && config.numa.nodes().all(|node| node.backend.is_none());
    if has_own && config.ram_size > 0 {
        let added = storage.objects().add_default_memory(config.machine_type.ram_id(), config.ram_size);
        added.map_err(|error| MachineError::Memory(error.desc))?;
    }
    storage.tells_starter = true;
    let made = with_backends(chardevs, storage, |backends| Machine::new(config, backends, events, trace));
    storage.tells_starter = false;
    made
}

/// What devices are connected to outside of the machine.
pub fn with_backends<R>(chardevs: &Chardevs, storage: &mut Storage, work: impl FnOnce(&Backends<'_>) -> R) -> R {
    let storage = RefCell::new(storage);
    work(&Backends {
        chardevs: &|id| chardevs.attach_guest(id),
        disks: &|requestor| storage.borrow_mut().attach_disk(requestor),
        entropy: &|id| storage.borrow().entropy(id),
        memories: &|id| {
            let mut storage = storage.borrow_mut();
            let memory = storage.objects().memory(id).ok_or_else(|| format!("Device '{id}' not found"))?;
            if memory.is_used() {
                return Err(format!("memory backend {id} can't be used multiple times."));
            }
            Ok(memory.take())
        },
    })
}

/// The credentials of an object, for one side of a connection.
fn credentials(graph: &Weak<block::Graph>, id: &str, is_server: bool) -> Result<TlsConfig, String> {
    let graph = graph.upgrade().ok_or_else(|| "the program ends".to_owned())?;
    let config = if is_server {
        tls::server_credentials(&graph, id).map(|found| TlsConfig::Server(found.config()))
    } else {
        tls::client_credentials(&graph, id).map(|found| TlsConfig::Client(found.config()))
    };
    config.map_err(|error| error.to_string())
}

/// The terminal as the character device of `-display curses`.
fn terminal() -> Result<ChardevSpec, StartError> {
    let is_terminal = rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stdout());
    if !is_terminal {
        return Err(StartError::NoTerminal);
    }
    let backend = Backend::Stdio { signal: false };
    Ok(ChardevSpec { id: curses::CHARDEV.to_owned(), backend, common: Common::default() })
}

/// A machine with nothing in it, for the same accelerator.
fn empty(config: &MachineConfig) -> MachineConfig {
    MachineConfig {
        machine_type: MachineType::by_name("none").unwrap_or(config.machine_type),
        ram_size: 0,
        cpus: 0,
        boot: None,
        firmware: FirmwareConfig::default(),
        vga: None,
        devices: Vec::new(),
        memory: MemoryOptions::default(),
        numa: Numa::default(),
        ..config.clone()
    }
}

/// A program that has been set up and can run.
pub struct Program {
    inbox: Arc<Inbox<Control>>,
    control: Control,
    /// The character devices of monitors.
    monitors: Vec<String>,
    // Dropped in this order: browsers, sessions, then devices, then their thread.
    web: Option<::web::Server>,
    people: Vec<HumanMonitor>,
    curses: Option<Arc<Curses>>,
    server: Arc<Server<Control, Snapshot>>,
    qtest: Option<qtest::Server>,
    chardevs: Arc<Chardevs>,
    _monitor_thread: MonitorThread,
}

impl Program {
    /// Opens the character devices (and waits for clients where asked to), starts the monitors and builds the machine.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &VmConfig) -> Result<Self, StartError> {
        let host = |what| move |source| StartError::Host { what, source };
        let inbox = Arc::new(Inbox::default());
        let monitor_thread = MonitorThread::start(&inbox).map_err(host("the monitor thread"))?;
        let chardevs = Arc::new(Chardevs::new(monitor_thread.handle.clone()));
        let exit = Arc::clone(&inbox);
        chardevs.set_exit(Box::new(move || exit.leave()));

        let snapshot = Arc::new(Snapshot::new(config));
        let preconfig = Arc::new(AtomicBool::new(config.preconfig));
        let events = EventSink::new(monitor_thread.handle.clone());
        if config.web.is_some() {
            chardevs.set_taps();
        }
        let table = Arc::new(handlers::table());
        let server = Arc::new(Server::new(ServerOptions {
            table: Arc::clone(&table),
            control: Arc::clone(&inbox) as Arc<dyn ControlQueue<Control>>,
            snapshot: Arc::clone(&snapshot),
            events: events.clone(),
            version: Snapshot::version(),
            preconfig: Arc::clone(&preconfig),
        }));
        let guest = Arc::clone(&inbox);
        let guest_events: GuestEvents = Arc::new(move |event| guest.guest_event(event));
        let trace = Some(cpu_log::factory(&snapshot));
        let mut storage = Storage::start(&config.storage, &events, &OwnerLink::to_control(&inbox), server.fd_sets())?;
        let graph = Arc::downgrade(storage.graph());
        chardevs.set_tls(Arc::new(move |id, is_server| credentials(&graph, id, is_server)));
        let (mice, terminals) = (SerialPointers::new(&inbox), Terminals::new(&inbox));
        let (of_mice, of_terminals) = (Arc::clone(&mice), Arc::clone(&terminals));
        chardevs.set_inner(Arc::new(move |spec, inner| match (&spec.backend, inner) {
            (_, Inner::Tablet(tablet)) => of_mice.add_tablet(&spec.id, &tablet),
            (Backend::Vc(size), Inner::Line(chardev)) => of_terminals.add(*size, chardev),
            (_, Inner::Line(chardev)) => of_mice.add_mouse(chardev),
        }));
        for spec in &config.chardevs {
            chardevs.add(spec)?;
        }
        if config.has_curses() {
            chardevs.add(&terminal()?)?;
        }
        let mut people = Vec::new();
        // Before devices: what shares a terminal with a serial port does not begin with the input.
        for monitor in config.monitors.iter().filter(|monitor| monitor.is_human) {
            let chardev = chardevs.attach(&monitor.chardev)?;
            people.push(HumanMonitor::start(chardev, server.fd_sets().clone(), &inbox));
        }
        // Until clients have configured the machine there is an empty one.
        let first = if config.preconfig { empty(&config.machine) } else { config.machine.clone() };
        let machine = build(&first, &chardevs, &mut storage, (&guest_events, trace.clone()))?;
        let keyboard = (config.keyboard.as_deref(), config.name.as_deref());
        let displays = (config.vnc.as_slice(), config.web.is_some());
        let vnc = Vnc::start(displays, keyboard, ((&machine, &terminals), &storage), (&events, &snapshot, &inbox))?;
        let screen = vnc.hidden().cloned();
        let guest = (config.name.as_deref(), config.uuid);
        let spice = Spice::start(config.spice.as_ref(), guest, (&machine, &storage), (&events, &snapshot))?;
        let shared = SharedState {
            events,
            snapshot,
            preconfig,
            fd_sets: server.fd_sets().clone(),
            chardevs: Arc::clone(&chardevs),
            mice: Arc::clone(&mice),
            terminals: Arc::clone(&terminals),
            inbox: Arc::clone(&inbox),
            table,
        };
        let source = DeviceSource {
            parser: config.devices.clone(),
            help: config.device_help,
            drives: config.drives.clone(),
            chardevs: Arc::clone(&chardevs),
        };
        let mut control = Control::new(machine, storage, config.actions, shared, source);
        control.set_displays(vnc, spice);
        let qtest = match &config.qtest {
            None => None,
            Some(qtest) => {
                let chardev = chardevs.attach(&qtest.chardev)?;
                Some(qtest::Server::start(qtest, chardev, &control, &inbox).map_err(host("the qtest log"))?)
            }
        };
        if !config.preconfig {
            mice.connect(control.machine().input());
        }
        let curses = match config.has_curses() {
            false => None,
            true => {
                let (layout, runtime) = (config.keyboard.as_deref(), &monitor_thread.handle);
                let screens = (control.machine(), &terminals);
                Some(Curses::start(chardevs.attach(curses::CHARDEV)?, screens, layout, runtime, &inbox))
            }
        };
        if config.preconfig {
            let (known, sessions) = (Arc::clone(&chardevs), qtest.as_ref().map(qtest::Server::sessions));
            let build = move |config: &MachineConfig, storage: &mut Storage| {
                let machine = build(config, &known, storage, (&guest_events, trace))?;
                if let Some(sessions) = sessions {
                    sessions.attach(&machine);
                }
                mice.connect(machine.input());
                Ok(machine)
            };
            let (config, autostart) = (config.machine.clone(), config.autostart);
            control.wait_for_preconfig(Preconfig { config, build: Box::new(build), autostart });
        } else if config.autostart {
            // A machine in prelaunch can always be started.
            let _started = control.resume();
        }
        if let Some(line) = &config.gdb {
            gdb::serve(&mut control, line).map_err(StartError::Gdb)?;
        }
        // Only now can clients come: the start of the machine is no event for them.
        let mut monitors = Vec::new();
        for monitor in config.monitors.iter().filter(|monitor| !monitor.is_human) {
            let options = MonitorOptions { id: monitor.chardev.clone(), pretty: monitor.pretty };
            let chardev = chardevs.attach(&monitor.chardev)?;
            server.add_monitor(chardev, options);
            monitors.push(monitor.chardev.clone());
        }
        let web = match (&config.web, screen) {
            (Some(options), Some(screen)) => {
                let console = Console {
                    name: config.name.clone(),
                    runtime: monitor_thread.handle.clone(),
                    server: Arc::clone(&server),
                    chardevs: Arc::clone(&chardevs),
                    screen,
                    monitors: AtomicU64::new(0),
                };
                let web = ::web::Server::start(&monitor_thread.handle, options, Arc::new(console))?;
                eprintln!("web console: {}", web.url());
                if !web.is_local() {
                    eprintln!(
                        "warning: -web: others on the network can read what goes to and fro: it is not encrypted"
                    );
                }
                Some(web)
            }
            _ => None,
        };
        Ok(Self {
            inbox,
            control,
            monitors,
            web,
            people,
            curses,
            server,
            qtest,
            chardevs,
            _monitor_thread: monitor_thread,
        })
    }

    /// Runs until the end; returns the exit status.
    pub fn run(mut self) -> i32 {
        let status = self.control.run(&self.inbox);
        if let Some(gdb) = self.control.gdb() {
            gdb.program_ends(status);
            self.monitors.push(gdb.chardev().to_owned());
        }
        if let Some(curses) = &self.curses {
            curses.end();
            self.monitors.push(curses::CHARDEV.to_owned());
        }
        flush(&self.monitors, &self.chardevs);
        drop(self.web);
        drop(self.people);
        drop(self.curses);
        drop(self.server);
        drop(self.qtest);
        self.chardevs.close_all();
        status
    }
}

/// Gives clients of monitors a moment to take the last replies.
pub(crate) fn flush(monitors: &[String], chardevs: &Chardevs) {
    const LIMIT: Duration = Duration::from_millis(500);
    let start = Instant::now();
    while monitors.iter().any(|id| chardevs.pending_output(id) > 0) && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
}
