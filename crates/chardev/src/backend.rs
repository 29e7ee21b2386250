//! Opening back ends, and the tasks that serve them.
//!
//! A back end is *prepared*, which is where errors come from, and then *started* for a port. So a device can get another
//! back end while its front end keeps the port (`chardev-change`).

use crate::line::Line;
use crate::options::{Backend, ChardevSpec, Common};
use crate::port::{Event, Port, Sink, lock};
use crate::ring::Ring;
use crate::stream::{Kind, Stream};
use crate::tablet::{self, Tablet};
use crate::tls::TlsConfig;
use crate::{Error, line, serve, socket, terminal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How often a pseudo-terminal that nobody has open is looked at.
const PTY_POLL: Duration = Duration::from_millis(500);

/// What serves a back end.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Finds credentials: the id of the object, and whether they are for a server.
pub type FindTls = dyn Fn(&str, bool) -> Result<TlsConfig, String> + Send + Sync;

/// A back end that can be had, without a port.
pub(crate) struct Prepared {
    filename: String,
    sink: Sink,
    serve: Option<Box<dyn FnOnce(Arc<Port>) -> Task + Send>>,
    cleanup: Cleanup,
    log: Option<File>,
    line: Option<Line>,
    /// Our own end of a back end that is inside this program.
    pub(crate) inner: Option<InnerEnd>,
}

/// Our own end of a back end that is inside this program, before somebody has it.
pub(crate) enum InnerEnd {
    /// The other end of a connection.
    Connection(OwnedFd),
    /// A tablet.
    Tablet(Arc<Tablet>),
}

/// What to do at the end.
pub(crate) enum Cleanup {
    Nothing,
    RemoveFile(String),
    RestoreTerminal,
}

/// An open back end.
pub(crate) struct Opened {
    pub(crate) port: Arc<Port>,
    runtime: Handle,
    running: Mutex<Running>,
}

struct Running {
    task: Option<JoinHandle<()>>,
    cleanup: Cleanup,
}

impl Running {
    /// Ends the back end, not the port.
    fn end(&mut self, port: &Port) -> Option<JoinHandle<()>> {
        let task = self.task.take().inspect(JoinHandle::abort);
        let mut state = port.state();
        _ = state.flush();
        if let Sink::Stream(stream) = &mut state.sink
            && let Some(stream) = stream.take()
        {
            stream.shut_down();
        }
        match std::mem::replace(&mut self.cleanup, Cleanup::Nothing) {
            Cleanup::Nothing => {}
            Cleanup::RemoveFile(path) => _ = rustix::fs::unlink(path.as_str()),
            Cleanup::RestoreTerminal => terminal::restore(),
        }
        task
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        _ = lock(&self.running).end(&self.port);
    }
}

impl Prepared {
    pub(crate) fn still(filename: &str, sink: Sink) -> Self {
        let filename = filename.to_owned();
        Self { filename, sink, serve: None, cleanup: Cleanup::Nothing, log: None, line: None, inner: None }
    }

    /// Served by the task that `serve` makes.
    pub(crate) fn served(
        filename: String,
        first: Option<Stream>,
        serve: impl FnOnce(Arc<Port>) -> Task + Send + 'static,
    ) -> Self {
        Self { filename, serve: Some(Box::new(serve)), ..Self::still("", Sink::Stream(first)) }
    }

    /// One connection, which is there from the start and never comes back.
    fn once(filename: &str, stream: Stream) -> Self {
        // Output can be written before the task runs.
        Self::served(filename.to_owned(), Some(stream.clone()), move |port| {
            Box::pin(async move { serve::serve(&port, stream).await })
        })
    }

    pub(crate) fn removing(self, path: Option<&str>) -> Self {
        let cleanup = path.map_or(Cleanup::Nothing, |path| Cleanup::RemoveFile(path.to_owned()));
        Self { cleanup, ..self }
    }

    /// What is behind it, as `query-chardev` shows it.
    pub(crate) fn filename(&self) -> &str {
        &self.filename
    }

    /// Starts it with a port of its own.
    pub(crate) fn start(self, id: &str, runtime: &Handle) -> Opened {
        let Self { filename, sink, serve, cleanup, log, line, inner: _ } = self;
        let port = Arc::new(Port::new(id, filename, sink, log));
        port.state().line = line;
        let task = serve.map(|serve| runtime.spawn(serve(Arc::clone(&port))));
        Opened { port, runtime: runtime.clone(), running: Mutex::new(Running { task, cleanup }) }
    }
}

impl Opened {
    /// Gives the port another back end.
    pub(crate) fn change(&self, prepared: Prepared) {
        let Prepared { filename, sink, serve, cleanup, log, line, inner: _ } = prepared;
        let mut running = lock(&self.running);
        let old = running.end(&self.port);
        running.cleanup = cleanup;
        let was_announced = {
            let mut state = self.port.state();
            state.filename = filename;
            state.log = log;
            state.line = line;
            state.pending.clear();
            state.received_fds = None;
            state.hang_up = false;
            state.waker = None;
            state.handed = None;
            // The task makes its connection known itself.
            state.sink = if serve.is_some() { Sink::Stream(None) } else { sink };
            std::mem::replace(&mut state.announced, false)
        };
        let port = Arc::clone(&self.port);
        running.task = Some(self.runtime.spawn(async move {
            if let Some(old) = old {
                // It was told to end; that it did is all there is to know.
                _ = old.await;
            }
            if was_announced {
                port.announce(Event::Closed);
            }
            match serve {
                Some(serve) => serve(port).await,
                None => port.announce(Event::Opened),
            }
        }));
        let starved = std::mem::take(&mut self.port.state().starved);
        if starved {
            self.port.tell_writable();
        }
    }
}

/// Prepares the back end that `spec` describes. A server that waits blocks the caller until its first
/// client is there.
pub(crate) fn prepare(spec: &ChardevSpec, find_tls: Option<&FindTls>) -> Result<Prepared, Error> {
    let log = open_log(&spec.common)?;
    let prepared = match &spec.backend {
        Backend::Null => Prepared::still("null", Sink::Null),
        Backend::Ringbuf { size } => Prepared::still("ringbuf", Sink::Ring(Ring::new(*size))),
        Backend::Socket(options) => socket::prepare(&spec.id, options, find_tls)?,
        Backend::Udp(options) => Prepared::once("udp", socket::datagrams(options)?),
        Backend::Stdio { signal } => {
            let once = Prepared::once("stdio", terminal::open(*signal)?);
            Prepared { cleanup: Cleanup::RestoreTerminal, ..once }
        }
        Backend::File { path, input_path, append } => {
            Prepared::once("file", open_file(path, input_path.as_deref(), *append)?)
        }
        Backend::Pipe { path } => Prepared::once("pipe", open_pipe(path)?),
        Backend::Serial { path } => {
            let (stream, line) = line::open(path)?;
            Prepared { line, ..Prepared::once("serial", stream) }
        }
        Backend::Parallel { path } => return Err(line::refuse_parallel(path)),
        Backend::Pty => open_pty(&spec.id)?,
        kind @ (Backend::Msmouse | Backend::Vc(_)) => {
            let name = if matches!(kind, Backend::Msmouse) { "msmouse" } else { "vc" };
            let failed = |error: std::io::Error| Error::io(name, error);
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
            let once = Prepared::once(name, Stream::both(ours.into()).map_err(failed)?);
            Prepared { inner: Some(InnerEnd::Connection(theirs.into())), ..once }
        }
        Backend::Wctablet => {
            let tablet = Arc::new(Tablet::default());
            let server = tablet::Server::new(&tablet);
            let serve = Box::new(move |port: Arc<Port>| -> Task { Box::pin(server.serve(port)) });
            Prepared {
                serve: Some(serve),
                line: Some(Line::Tablet(Arc::clone(&tablet))),
                inner: Some(InnerEnd::Tablet(Arc::clone(&tablet))),
                ..Prepared::still("wctablet", Sink::Tablet(tablet))
            }
        }
        Backend::Mux { chardev } => {
            return Err(Error::options(format!("mux: base chardev {chardev} not found")));
        }
        Backend::Hub { .. } => return Err(Error::HubChange),
    };
    Ok(Prepared { log, ..prepared })
}

/// A device over an open connection, which ends with it.
pub(crate) fn from_fd(id: &str, fd: OwnedFd, runtime: &Handle) -> Result<Opened, Error> {
    let stream = Stream::both(fd).map_err(|error| Error::io(format!("chardev '{id}'"), error))?;
    Ok(Prepared::once("socket", stream).start(id, runtime))
}

pub(crate) fn open_log(common: &Common) -> Result<Option<File>, Error> {
    let Some(path) = &common.log_file else {
        return Ok(None);
    };
    let file = output_file(path, common.log_append)?;
    Ok(Some(file))
}

fn output_file(path: &str, append: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(append).truncate(!append);
    options.open(path).map_err(|error| Error::io(format!("Could not open '{path}'"), error))
}

fn open_file(path: &str, input_path: Option<&str>, append: bool) -> Result<Stream, Error> {
    let output = output_file(path, append)?;
    let input = match input_path {
        None => None,
        Some(path) => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty());
            Some(file.map_err(|error| Error::io(format!("Could not open '{path}'"), error))?)
        }
    };
    Ok(Stream { kind: Kind::File, input: input.map(Arc::new), output: Some(Arc::new(output.into())), session: None })
}

fn open_pipe(path: &str) -> Result<Stream, Error> {
    let open = |path: &str| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    if let (Ok(input), Ok(output)) = (open(&format!("{path}.in")), open(&format!("{path}.out"))) {
        return Ok(Stream {
            kind: Kind::File,
            input: Some(Arc::new(input)),
            output: Some(Arc::new(output)),
            session: None,
        });
    }
    let failed = |error: std::io::Error| Error::io(format!("Could not open '{path}'"), error);
    let both = open(path).map_err(|error| failed(error.into()))?;
    Stream::both(both).map_err(failed)
}

fn open_pty(id: &str) -> Result<Prepared, Error> {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
    let failed = |error: Errno| Error::io("Failed to create PTY", error);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(failed)?;
    grantpt(&master).map_err(failed)?;
    unlockpt(&master).map_err(failed)?;
    let name = ptsname(&master, Vec::new()).map_err(failed)?;
    // Opened and closed once: from then on the kernel tells whether anybody has it open.
    let peer = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    let mut mode = rustix::termios::tcgetattr(&peer).map_err(failed)?;
    mode.make_raw();
    rustix::termios::tcsetattr(&peer, rustix::termios::OptionalActions::Now, &mode).map_err(failed)?;
    drop(peer);
    let filename = format!("pty:{}", name.to_string_lossy());
    tracing::info!(chardev = id, "char device redirected to {}", name.to_string_lossy());
    let stream = Stream::both(master).map_err(|error| Error::io("Failed to create PTY", error))?;
    Ok(Prepared::served(filename, None, |port| Box::pin(async move { serve_pty(&port, stream).await })))
}

/// Serves a pseudo-terminal whenever somebody has it open.
async fn serve_pty(port: &Port, stream: Stream) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(master) = stream.input.clone() else {
        return;
    };
    loop {
        let mut fds = [PollFd::new(&master, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let looked = poll(&mut fds, Some(&now));
        let [fd] = fds;
        if looked.is_ok() && !fd.revents().contains(PollFlags::HUP) {
            serve::serve(port, stream.clone()).await;
        } else {
            tokio::time::sleep(PTY_POLL).await;
        }
    }
}
