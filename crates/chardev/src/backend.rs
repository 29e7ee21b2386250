//! Opening back ends, and the tasks that keep them connected.

use crate::options::{Backend, ChardevSpec, Common, SocketOptions};
use crate::port::{Port, Sink};
use crate::ring::Ring;
use crate::stream::{Kind, Stream};
use crate::{Error, SocketAddress, serve, terminal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// How often a pseudo-terminal that nobody has open is looked at.
const PTY_POLL: Duration = Duration::from_millis(500);
/// How long a server rests when the host has no resources for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// An open back end.
pub(crate) struct Opened {
    pub(crate) port: Arc<Port>,
    task: Option<AbortHandle>,
    cleanup: Cleanup,
}

/// What to do at the end.
enum Cleanup {
    Nothing,
    RemoveFile(String),
    RestoreTerminal,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        let mut state = self.port.state();
        _ = state.flush();
        if let Sink::Stream(stream) = &mut state.sink
            && let Some(stream) = stream.take()
        {
            stream.shut_down();
        }
        match &self.cleanup {
            Cleanup::Nothing => {}
            Cleanup::RemoveFile(path) => _ = rustix::fs::unlink(path.as_str()),
            Cleanup::RestoreTerminal => terminal::restore(),
        }
    }
}

/// Opens the back end that `spec` describes. A server that waits blocks the caller until its first
/// client is there.
pub(crate) fn open(spec: &ChardevSpec, runtime: &Handle) -> Result<Opened, Error> {
    let log = open_log(&spec.common)?;
    let id = spec.id.as_str();
    let closed = || Sink::Stream(None);
    let still = |filename: &str, sink| {
        let port = Arc::new(Port::new(id, filename.to_owned(), sink, None));
        Opened { port, task: None, cleanup: Cleanup::Nothing }
    };
    let opened = match &spec.backend {
        Backend::Null => still("null", Sink::Null),
        Backend::Ringbuf { size } => still("ringbuf", Sink::Ring(Ring::new(*size))),
        Backend::Socket(options) => return open_socket(id, options, log, runtime),
        Backend::Stdio { signal } => {
            let stream = terminal::open(*signal)?;
            let mut opened = once(Port::new(id, "stdio".into(), closed(), None), stream, runtime);
            opened.cleanup = Cleanup::RestoreTerminal;
            opened
        }
        Backend::File { path, input_path, append } => {
            let stream = open_file(path, input_path.as_deref(), *append)?;
            once(Port::new(id, "file".into(), closed(), None), stream, runtime)
        }
        Backend::Pipe { path } => {
            let stream = open_pipe(path)?;
            once(Port::new(id, "pipe".into(), closed(), None), stream, runtime)
        }
        Backend::Pty => open_pty(id, runtime)?,
    };
    opened.port.state().log = log;
    Ok(opened)
}

/// A device over an open connection, which ends with it.
pub(crate) fn from_fd(id: &str, fd: OwnedFd, runtime: &Handle) -> Result<Opened, Error> {
    let stream = Stream::both(fd).map_err(|error| Error::io(format!("chardev '{id}'"), error))?;
    Ok(once(Port::new(id, "socket".into(), Sink::Stream(None), None), stream, runtime))
}

fn open_log(common: &Common) -> Result<Option<File>, Error> {
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

/// A device with one connection, which is there from the start and never comes back.
fn once(port: Port, stream: Stream, runtime: &Handle) -> Opened {
    let port = Arc::new(port);
    // Output can be written before the task runs.
    port.state().sink = Sink::Stream(Some(stream.clone()));
    let served = Arc::clone(&port);
    let task = runtime.spawn(async move { serve::serve(&served, stream).await });
    Opened { port, task: Some(task.abort_handle()), cleanup: Cleanup::Nothing }
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
    Ok(Stream { kind: Kind::File, input: input.map(Arc::new), output: Some(Arc::new(output.into())) })
}

fn open_pipe(path: &str) -> Result<Stream, Error> {
    let open = |path: &str| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    if let (Ok(input), Ok(output)) = (open(&format!("{path}.in")), open(&format!("{path}.out"))) {
        return Ok(Stream { kind: Kind::File, input: Some(Arc::new(input)), output: Some(Arc::new(output)) });
    }
    let failed = |error: std::io::Error| Error::io(format!("Could not open '{path}'"), error);
    let both = open(path).map_err(|error| failed(error.into()))?;
    Stream::both(both).map_err(failed)
}

fn open_pty(id: &str, runtime: &Handle) -> Result<Opened, Error> {
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
    let port = Arc::new(Port::new(id, filename, Sink::Stream(None), None));
    let stream = Stream::both(master).map_err(|error| Error::io("Failed to create PTY", error))?;
    let served = Arc::clone(&port);
    let task = runtime.spawn(async move { serve_pty(&served, stream).await });
    Ok(Opened { port, task: Some(task.abort_handle()), cleanup: Cleanup::Nothing })
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

fn open_socket(id: &str, options: &SocketOptions, log: Option<File>, runtime: &Handle) -> Result<Opened, Error> {
    let port = |filename| Arc::new(Port::new(id, filename, Sink::Stream(None), log));
    if options.server {
        let listener = options.address.listen()?;
        let first = if options.wait { Some(wait_for_client(options, &listener)?) } else { None };
        let failed = |error: Errno| Error::io(options.address.to_string(), error);
        rustix::io::ioctl_fionbio(&listener, true).map_err(failed)?;
        let port = port(disconnected(options));
        let (served, kept) = (Arc::clone(&port), options.clone());
        let task = runtime.spawn(async move { serve_listener(&served, &kept, listener, first).await });
        let file = options.address.socket_file();
        let cleanup = file.map_or(Cleanup::Nothing, |path| Cleanup::RemoveFile(path.to_owned()));
        return Ok(Opened { port, task: Some(task.abort_handle()), cleanup });
    }
    // A client without a second chance must connect now.
    let first = match options.address.connect() {
        Ok(fd) => Some(connected(fd, options).map_err(|error| Error::io(options.address.to_string(), error))?),
        Err(_) if options.reconnect > 0 => None,
        Err(error) => return Err(error),
    };
    let port = port(disconnected(options));
    if let Some(stream) = &first {
        port.state().sink = Sink::Stream(Some(stream.clone()));
    }
    let (served, kept) = (Arc::clone(&port), options.clone());
    let task = runtime.spawn(async move { serve_client(&served, &kept, first).await });
    Ok(Opened { port, task: Some(task.abort_handle()), cleanup: Cleanup::Nothing })
}

fn disconnected(options: &SocketOptions) -> String {
    format!("disconnected:{}{}", options.address, if options.server { ",server=on" } else { "" })
}

/// The name of a connected socket device, as `query-chardev` shows it.
fn filename(options: &SocketOptions, stream: &Stream) -> String {
    let server = if options.server { ",server=on" } else { "" };
    let peers = stream.input.as_ref().and_then(|fd| {
        let ours = std::net::SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()?;
        let theirs = std::net::SocketAddr::try_from(rustix::net::getpeername(fd).ok()??).ok()?;
        Some((ours, theirs))
    });
    match peers {
        Some((ours, theirs)) => format!("tcp:{ours}{server} <-> {theirs}"),
        None => format!("{}{server}", options.address),
    }
}

fn wait_for_client(options: &SocketOptions, listener: &OwnedFd) -> Result<Stream, Error> {
    let failed = |error: std::io::Error| Error::io(options.address.to_string(), error);
    eprintln!("ouzel: info: waiting for connection on: {}", disconnected(options));
    rustix::io::ioctl_fionbio(listener, false).map_err(|error| failed(error.into()))?;
    loop {
        match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
            Ok(fd) => return connected(fd, options).map_err(failed),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn connected(fd: OwnedFd, options: &SocketOptions) -> std::io::Result<Stream> {
    let stream = Stream::both(fd)?;
    if let (true, Some(fd)) = (options.nodelay, &stream.input) {
        // Unix sockets have no such delay.
        _ = rustix::net::sockopt::set_tcp_nodelay(fd, true);
    }
    Ok(stream)
}

/// Serves a connection, under the name that it has while it lasts.
async fn serve_connection(port: &Port, options: &SocketOptions, stream: Stream) {
    port.state().filename = filename(options, &stream);
    serve::serve(port, stream).await;
    port.state().filename = disconnected(options);
}

async fn serve_listener(port: &Port, options: &SocketOptions, listener: OwnedFd, first: Option<Stream>) {
    if let Some(stream) = first {
        serve_connection(port, options, stream).await;
    }
    let listener = match serve::watch(Arc::new(listener), Interest::READABLE) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(chardev = port.id, %error, "cannot listen");
            return;
        }
    };
    loop {
        match accept(&listener).await {
            Ok(fd) => match connected(fd, options) {
                Ok(stream) => serve_connection(port, options, stream).await,
                Err(error) => tracing::warn!(chardev = port.id, %error, "connection refused"),
            },
            Err(error) => {
                tracing::warn!(chardev = port.id, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn accept(listener: &AsyncFd<Arc<OwnedFd>>) -> std::io::Result<OwnedFd> {
    loop {
        let mut guard = listener.readable().await?;
        match rustix::net::accept_with(listener.get_ref(), rustix::net::SocketFlags::CLOEXEC) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn serve_client(port: &Port, options: &SocketOptions, first: Option<Stream>) {
    let mut next = first;
    loop {
        if let Some(stream) = next.take() {
            serve_connection(port, options, stream).await;
        }
        if options.reconnect == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(options.reconnect)).await;
        next = reconnect(&options.address).await.and_then(|fd| connected(fd, options).ok());
    }
}

/// Connects on a helper thread, because names are resolved there.
async fn reconnect(address: &SocketAddress) -> Option<OwnedFd> {
    let address = address.clone();
    let result = tokio::task::spawn_blocking(move || address.connect()).await;
    result.ok()?.inspect_err(|error| tracing::debug!(%error, "no connection yet")).ok()
}
