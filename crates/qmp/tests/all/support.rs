//! A server with a few commands of its own, and a client that sends and reads raw text.

use chardev::Chardev;
use qapi::control::{QueryVersion, VersionInfo, VersionTriple};
use qapi::events::{Resume, Stop};
use qapi::fd::{AddFd, Closefd, Getfd, QueryFdsets, RemoveFd};
use qapi::{Command, Error};
use qmp::{CommandTable, ControlQueue, EventSink, MonitorOptions, Reply, Server, ServerOptions, Work};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Answers its text, on the control thread.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-echo", returns = String)]
pub struct Echo {
    /// The text.
    pub text: String,
}

/// Waits on the control thread until the test lets it go.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-wait")]
pub struct Wait;

/// Is answered when the test does it.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-later", returns = String)]
pub struct Later;

/// Runs out of band.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-poke", returns = String, oob)]
pub struct Poke;

/// Sends an event before its reply.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-stop")]
pub struct SendStop;

/// May run before the machine is built.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-early", preconfig)]
pub struct Early;

/// Has a large result.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-large", returns = String)]
pub struct Large {
    /// How many characters.
    pub size: u64,
}

/// Is switched off.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-off")]
pub struct Off;

/// What the control thread has.
pub struct Machine {
    pub events: EventSink,
    gate: mpsc::Receiver<()>,
    pub log: Arc<Mutex<Vec<String>>>,
    later: mpsc::Sender<Reply<String>>,
}

struct Queue(mpsc::Sender<Work<Machine>>);

impl ControlQueue<Machine> for Queue {
    fn push(&self, work: Work<Machine>) {
        // After the test the control thread is gone.
        _ = self.0.send(work);
    }
}

/// A running server.
pub struct Fixture {
    pub server: Server<Machine, String>,
    /// Whether the machine is still to be configured.
    pub preconfig: Arc<std::sync::atomic::AtomicBool>,
    pub runtime: tokio::runtime::Handle,
    pub events: EventSink,
    /// Lets one `x-wait` go.
    pub gate: mpsc::Sender<()>,
    /// What `x-echo` has said, in order.
    pub log: Arc<Mutex<Vec<String>>>,
    /// The slots of `x-later`.
    pub later: mpsc::Receiver<Reply<String>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn table() -> CommandTable<Machine, String> {
    let mut table = CommandTable::new();
    table.register::<Echo>(|machine: &mut Machine, _, command| {
        machine.log.lock().unwrap().push(command.text.clone());
        Ok(command.text)
    });
    table.register::<Wait>(|machine: &mut Machine, _, _| {
        machine.gate.recv_timeout(PATIENCE).map_err(|error| Error::generic(error.to_string()))
    });
    table.register_deferred::<Later>(|machine: &mut Machine, _, _, reply| machine.later.send(reply).unwrap());
    table.register_oob::<Poke>(|state: &String, _, _| Ok(state.clone()));
    table.register::<SendStop>(|machine: &mut Machine, _, _| {
        machine.events.emit(Stop);
        Ok(())
    });
    table.register_snapshot::<Early>(|_, _, _| Ok(()));
    table.register::<Large>(|_, _, command| Ok("x".repeat(usize::try_from(command.size).unwrap())));
    table.register::<Off>(|_, _, _| Ok(()));
    table.disable("x-off", "for the test");
    table.register_snapshot::<QueryVersion>(|_, _, _| Ok(version()));
    table.register::<Getfd>(|_, context, command| context.getfd(&command.fdname));
    table.register::<Closefd>(|_, context, command| context.fds().close(&command.fdname));
    table.register::<AddFd>(|_, context, command| context.add_fd(command.fdset_id, command.opaque));
    table.register::<RemoveFd>(|_, context, command| context.fd_sets().remove(command.fdset_id, command.fd));
    table.register::<QueryFdsets>(|_, context, _| Ok(context.fd_sets().query()));
    table.declare_event::<Stop>();
    table.declare_event::<Resume>();
    table
}

pub fn version() -> VersionInfo {
    VersionInfo { qemu: VersionTriple { major: 7, minor: 2, micro: 0 }, package: "test".into() }
}

impl Fixture {
    pub fn new() -> Self {
        Self::with_preconfig(false)
    }

    pub fn with_preconfig(preconfig: bool) -> Self {
        let preconfig = Arc::new(std::sync::atomic::AtomicBool::new(preconfig));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(async { _ = stopped.await }));
        let events = EventSink::new(handle.clone());
        let (work, todo) = mpsc::channel::<Work<Machine>>();
        let (gate, gated) = mpsc::channel();
        let (later_sender, later) = mpsc::channel();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sink, control_log) = (events.clone(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut machine = Machine { events: sink, gate: gated, log: control_log, later: later_sender };
            for work in todo {
                work(&mut machine);
            }
        });
        let server = Server::new(ServerOptions {
            table: Arc::new(table()),
            control: Arc::new(Queue(work)),
            snapshot: Arc::new("poked".to_owned()),
            events: events.clone(),
            version: version(),
            preconfig: Arc::clone(&preconfig),
        });
        Self { server, preconfig, runtime: handle, events, gate, log, later, _stop: stop }
    }

    /// A monitor on one end of a socket pair; the other end, before anything is read.
    pub fn monitor(&self, pretty: bool) -> Raw {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let chardev = Chardev::from_fd("monitor", theirs.into(), &self.runtime).unwrap();
        self.server.add_monitor(chardev, MonitorOptions { id: "monitor".into(), pretty });
        Raw::new(ours)
    }

    /// A client past the negotiation.
    pub fn client(&self, oob: bool) -> Raw {
        let mut client = self.monitor(false);
        assert!(client.line().starts_with(r#"{"QMP": "#));
        let enable = if oob { r#","arguments":{"enable":["oob"]}"# } else { "" };
        client.send(&format!(r#"{{"execute":"qmp_capabilities"{enable}}}"#));
        assert_eq!(client.line(), r#"{"return": {}}"#);
        client
    }
}

/// A client without manners.
pub struct Raw {
    pub stream: UnixStream,
    received: Vec<u8>,
}

impl Raw {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, received: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next line, which must end in CR LF; without its end.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n").expect("lines end in CR LF");
                return String::from_utf8(line.to_vec()).expect("output is ASCII");
            }
            assert!(self.receive() > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    fn receive(&mut self) -> usize {
        let mut buffer = [0; 65536];
        let count = self.stream.read(&mut buffer).expect("the server answers");
        self.received.extend_from_slice(&buffer[..count]);
        count
    }

    /// Sends and reads one line.
    pub fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.line()
    }

    /// Everything until the connection ends.
    pub fn rest(&mut self) -> String {
        while self.receive() > 0 {}
        String::from_utf8(std::mem::take(&mut self.received)).unwrap()
    }
}
