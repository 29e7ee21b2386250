//! Socket back ends: servers, clients that may come back, datagrams.

use crate::backend::{FindTls, Prepared};
use crate::options::{SocketOptions, UdpOptions};
use crate::port::Port;
use crate::session::{Protocol, Session};
use crate::stream::{Progress, Stream};
use crate::tls::TlsConfig;
use crate::{Error, SocketAddress, serve};
use rustix::io::Errno;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a server rests when the host has no resources for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long the other side may take until both have agreed on a session.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// A socket's options, with the credentials that they name.
#[derive(Clone)]
struct Socket {
    options: SocketOptions,
    tls: Option<TlsConfig>,
}

/// Prepares a socket. A server that waits blocks the caller until its first client is there.
pub(crate) fn prepare(id: &str, options: &SocketOptions, find_tls: Option<&FindTls>) -> Result<Prepared, Error> {
    let tls = match (&options.tls_creds, find_tls) {
        (None, _) => None,
        (Some(id), None) => return Err(Error::options(format!("No TLS credentials with id '{id}'"))),
        (Some(id), Some(find)) => Some(find(id, options.server).map_err(Error::Options)?),
    };
    let socket = Socket { options: options.clone(), tls };
    let name = socket.disconnected();
    let is_server = options.server;
    if is_server {
        let listener = options.address.listen()?;
        let failed = |error: Errno| Error::io(options.address.to_string(), error);
        let name = if options.address.has_port() { socket.listening(&listener) } else { name };
        let first = if options.wait { Some(socket.wait_for_client(&name, &listener)?) } else { None };
        rustix::io::ioctl_fionbio(&listener, true).map_err(failed)?;
        let file = options.address.socket_file();
        let at_rest = name.clone();
        let serve = move |port: Arc<Port>| -> crate::backend::Task {
            Box::pin(async move { socket.serve_listener(&port, &at_rest, listener, first).await })
        };
        return Ok(Prepared::served(name, None, serve).removing(file));
    }
    // A client without a second chance must connect now.
    let first = match options.address.connect() {
        Ok(fd) => Some(socket.connected(fd).map_err(|error| Error::io(options.address.to_string(), error))?),
        Err(error) if options.reconnect > 0 => {
            tracing::info!(chardev = id, %error, "no connection yet");
            None
        }
        Err(error) => return Err(error),
    };
    // What is written before a session stands would not be understood.
    let ready = first.clone().filter(|stream| stream.session.is_none());
    let serve = move |port: Arc<Port>| -> crate::backend::Task {
        Box::pin(async move { socket.serve_client(&port, first).await })
    };
    Ok(Prepared::served(name, ready, serve))
}

/// A socket for datagrams.
pub(crate) fn datagrams(options: &UdpOptions) -> Result<Stream, Error> {
    let UdpOptions { remote, local } = options;
    let what = || format!("Failed to connect to '{remote}'");
    let (SocketAddress::Inet { port, .. }, local) = (remote, local) else {
        return Err(Error::options("chardev: udp: an internet address is expected"));
    };
    let mut result = Err(Error::options(what()));
    for address in remote.resolve(*port)? {
        let bound = match local {
            Some(local @ SocketAddress::Inet { port, host, .. }) if !host.is_empty() => {
                UdpSocket::bind(local.resolve(*port)?.as_slice())
            }
            local => {
                let port = match local {
                    Some(SocketAddress::Inet { port, .. }) => *port,
                    _ => 0,
                };
                let any: std::net::IpAddr = match address {
                    std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                    std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                };
                UdpSocket::bind((any, port))
            }
        };
        let connected = bound.and_then(|socket| socket.connect(address).map(|()| socket));
        result = match connected.and_then(|socket| Stream::both(socket.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => Err(Error::io(what(), error)),
        };
    }
    result
}

/// Waits until both sides have agreed on what is spoken.
async fn begin(stream: &Stream) -> std::io::Result<()> {
    let (Some(input), true) = (&stream.input, stream.session.is_some()) else {
        return Ok(());
    };
    let watched = serve::watch(Arc::clone(input), Interest::READABLE | Interest::WRITABLE)?;
    loop {
        match stream.advance()? {
            Progress::Established => return Ok(()),
            Progress::WantsInput => watched.readable().await?.clear_ready(),
            Progress::WantsRoom => watched.writable().await?.clear_ready(),
        }
        // What came between the look and the clearing is found by the next look.
        match stream.advance()? {
            Progress::Established => return Ok(()),
            Progress::WantsInput => drop(watched.readable().await?),
            Progress::WantsRoom => drop(watched.writable().await?),
        }
    }
}

impl Socket {
    fn disconnected(&self) -> String {
        let options = &self.options;
        format!(
            "disconnected:{}{}",
            self.named(&options.address.to_string()),
            if options.server { ",server=on" } else { "" }
        )
    }

    /// The name of a server that nobody is connected to, with the port that the host has chosen.
    fn listening(&self, listener: &OwnedFd) -> String {
        let address = rustix::net::getsockname(listener).ok().and_then(|any| std::net::SocketAddr::try_from(any).ok());
        match address {
            Some(address) => format!("disconnected:{},server=on", self.named(&format!("tcp:{address}"))),
            None => self.disconnected(),
        }
    }

    /// The address with the protocol that is spoken there.
    fn named(&self, address: &str) -> String {
        let protocol = match (self.options.protocol, &self.tls) {
            (Protocol::Telnet, _) => "telnet:",
            (Protocol::Websocket, _) => "websocket:",
            (Protocol::Raw, Some(_)) => "tls:",
            (Protocol::Raw, None) => "tcp:",
        };
        address.strip_prefix("tcp:").map_or_else(|| address.to_owned(), |rest| format!("{protocol}{rest}"))
    }

    /// The name of a connected socket device, as `query-chardev` shows it.
    fn filename(&self, stream: &Stream) -> String {
        let server = if self.options.server { ",server=on" } else { "" };
        let peers = stream.input.as_ref().and_then(|fd| {
            let ours = std::net::SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()?;
            let theirs = std::net::SocketAddr::try_from(rustix::net::getpeername(fd).ok()??).ok()?;
            Some((ours, theirs))
        });
        match peers {
            Some((ours, theirs)) => self.named(&format!("tcp:{ours}{server} <-> {theirs}")),
            None => format!("{}{server}", self.options.address),
        }
    }

    fn wait_for_client(&self, name: &str, listener: &OwnedFd) -> Result<Stream, Error> {
        let failed = |error: std::io::Error| Error::io(self.options.address.to_string(), error);
        eprintln!("ouzel: info: waiting for connection on: {name}");
        rustix::io::ioctl_fionbio(listener, false).map_err(|error| failed(error.into()))?;
        loop {
            match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(fd) => return self.connected(fd).map_err(failed),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    fn connected(&self, fd: OwnedFd) -> std::io::Result<Stream> {
        let host = match &self.options.address {
            SocketAddress::Inet { host, .. } => host.as_str(),
            SocketAddress::Unix { .. } | SocketAddress::Fd(_) => "",
        };
        let stream = match Session::new(self.options.protocol, self.tls.as_ref(), host)? {
            Some(session) => Stream::with_session(fd, session)?,
            None => Stream::both(fd)?,
        };
        if let (true, Some(fd)) = (self.options.nodelay, &stream.input) {
            // Unix sockets have no such delay.
            _ = rustix::net::sockopt::set_tcp_nodelay(fd, true);
        }
        Ok(stream)
    }

    /// Serves a connection, under the name that it has while it lasts.
    async fn serve_connection(&self, port: &Port, at_rest: &str, stream: Stream) {
        match tokio::time::timeout(BEGIN_LIMIT, begin(&stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(chardev = port.id, %error, "connection refused");
                return;
            }
            Err(_) => {
                tracing::warn!(chardev = port.id, "connection refused: the other side says nothing");
                return;
            }
        }
        port.state().filename = self.filename(&stream);
        serve::serve(port, stream).await;
        port.state().filename = at_rest.to_owned();
    }

    async fn serve_listener(&self, port: &Port, at_rest: &str, listener: OwnedFd, first: Option<Stream>) {
        let mut handed = take_handed(port);
        if let Some(stream) = first {
            self.serve_connection(port, at_rest, stream).await;
        }
        let listener = match serve::watch(Arc::new(listener), Interest::READABLE) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(chardev = port.id, %error, "cannot listen");
                return;
            }
        };
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                Some(fd) = handed.recv() => Ok(fd),
            };
            match accepted {
                Ok(fd) => match self.connected(fd) {
                    Ok(stream) => self.serve_connection(port, at_rest, stream).await,
                    Err(error) => tracing::warn!(chardev = port.id, %error, "connection refused"),
                },
                Err(error) => {
                    tracing::warn!(chardev = port.id, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    async fn serve_client(&self, port: &Port, first: Option<Stream>) {
        let (options, at_rest) = (&self.options, self.disconnected());
        let mut handed = take_handed(port);
        let mut next = first;
        loop {
            if let Some(stream) = next.take() {
                self.serve_connection(port, &at_rest, stream).await;
            }
            let again = async {
                match options.reconnect {
                    0 => std::future::pending().await,
                    seconds => tokio::time::sleep(Duration::from_secs(seconds)).await,
                }
                reconnect(&options.address).await
            };
            let fd = tokio::select! {
                fd = again => fd,
                Some(fd) = handed.recv() => Some(fd),
            };
            next = fd.and_then(|fd| self.connected(fd).ok());
        }
    }
}

/// Connections that others have made and hand in, one at a time.
fn take_handed(port: &Port) -> tokio::sync::mpsc::Receiver<OwnedFd> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    port.state().handed = Some(sender);
    receiver
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

/// Connects on a helper thread, because names are resolved there.
async fn reconnect(address: &SocketAddress) -> Option<OwnedFd> {
    let address = address.clone();
    let result = tokio::task::spawn_blocking(move || address.connect()).await;
    result.ok()?.inspect_err(|error| tracing::debug!(%error, "no connection yet")).ok()
}
