//! The driver `nbd`: a client of a Network Block Device server (`doc/proto.md` of the NBD project).
//!
//! Fixed newstyle with structured replies, the metadata context `base:allocation`, TLS with certificates. A lost
//! connection is made again by the next request; with `reconnect-delay`, requests wait that long for it and are sent
//! again. Left out: servers behind passed descriptors, TLS with pre-shared keys (rustls has none).

mod connection;
mod handshake;
pub mod list;
mod options;
pub mod wire;

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use block::create::{self, CreateOption, CreateRequest, IN_PLACE_OPTIONS};
use block::{
    BlockStatus, Child, Driver, DriverKind, DriverType, Error, Graph, IoFuture, Limits, OpenRequest, Options,
    Permissions, Preallocation, Result, WriteFlags, ZeroFlags, done, fail,
};
use iobuf::IoBuf;
use tokio::sync::Notify;

use crate::tls::client_credentials;
use crate::transport::Address;
use connection::{Connection, Extent, Failure, Request};
use handshake::{Export, Wanted};
use options::NbdOptions;
use wire::{Command, FAST_ZERO, FUA, MAX_TRANSFER, NO_HOLE, REQ_ONE};

/// Pauses between attempts to connect again grow from here …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … up to here.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The driver `nbd`.
pub struct NbdType;

impl DriverType for NbdType {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["nbd:", "nbd+tcp:", "nbd+unix:"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        options::parse_filename(filename)
    }

    fn create_options(&self) -> &'static [CreateOption] {
        IN_PLACE_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::in_place(&NbdType, request))
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let options = NbdOptions::take(&mut request.options)?;
            request.finish()?;
            let wanted = wanted(&options, &request.graph)?;
            let connection = connect_within(&options, &wanted, options.open_timeout).await?;
            let writable = !request.config.read_only;
            if writable && !request.config.auto_read_only && connection.export.flags & wire::READ_ONLY != 0 {
                connection.disconnect().await;
                return Err(read_only());
            }
            let export = connection.export.clone();
            Ok(Arc::new(Nbd {
                options,
                wanted,
                export,
                link: Mutex::new(Link { connection, lost_at: None }),
                connecting: tokio::sync::Mutex::default(),
                impatient: AtomicBool::new(false),
                given_up: Notify::new(),
            }) as Arc<dyn Driver>)
        })
    }
}

fn read_only() -> Error {
    Error::read_only("request on write denied without write permission")
}

fn wanted(options: &NbdOptions, graph: &Graph) -> Result<Wanted> {
    let tls = match &options.tls_creds {
        None => None,
        Some(id) => {
            let credentials = client_credentials(graph, id)?;
            let host = match (&options.tls_hostname, &options.server) {
                (Some(host), _) | (None, Address::Tcp { host, .. }) => host.clone(),
                (None, Address::Unix { .. } | Address::Vsock(_)) => "localhost".to_owned(),
            };
            Some((credentials, host))
        }
    };
    let context = options.context.clone().unwrap_or_else(|| "base:allocation".to_owned());
    Ok(Wanted { export: options.export.clone(), context, tls })
}

/// How long a server may take to be reached and to negotiate: whoever opens the node waits for it.
const NEGOTIATION: Duration = Duration::from_secs(10);

async fn connect(options: &NbdOptions, wanted: &Wanted) -> Result<Arc<Connection>> {
    connect_in_time(options, wanted, NEGOTIATION).await
}

async fn connect_in_time(options: &NbdOptions, wanted: &Wanted, time: Duration) -> Result<Arc<Connection>> {
    tokio::select! {
        biased;
        connection = negotiate(options, wanted) => connection,
        () = aio::sleep(time) => {
            let text = format!("The NBD server did not finish the negotiation within {} seconds", time.as_secs());
            Err(Error::new(rustix::io::Errno::TIMEDOUT.raw_os_error(), text))
        }
    }
}

async fn negotiate(options: &NbdOptions, wanted: &Wanted) -> Result<Arc<Connection>> {
    let stream = options.server.connect().await?;
    let (transport, reader, export) = handshake::negotiate(stream, wanted).await?;
    if export.size > i64::MAX as u64 {
        return Err(Error::too_big("The export is too large"));
    }
    Ok(Connection::new(transport, reader, export))
}

/// Connects; a server that isn't there is tried again until `time` is over.
async fn connect_within(options: &NbdOptions, wanted: &Wanted, time: Duration) -> Result<Arc<Connection>> {
    let start = aio::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let result = connect(options, wanted).await;
        let left = time.saturating_sub(aio::now().saturating_sub(start));
        match result {
            Err(_) if !left.is_zero() => aio::sleep(pause.min(left)).await,
            result => return result,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Link {
    connection: Arc<Connection>,
    /// When the loss of the connection was first seen.
    lost_at: Option<Duration>,
}

struct Nbd {
    options: NbdOptions,
    wanted: Wanted,
    export: Export,
    link: Mutex<Link>,
    connecting: tokio::sync::Mutex<()>,
    /// Nobody wants to wait for a lost connection until there is one again.
    impatient: AtomicBool,
    given_up: Notify,
}

impl Nbd {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Option<Arc<Connection>> {
        let link = self.link();
        (!link.connection.is_lost()).then(|| Arc::clone(&link.connection))
    }

    /// The connection, made again if it was lost.
    async fn connection(&self) -> Result<Arc<Connection>> {
        if let Some(connection) = self.alive() {
            return Ok(connection);
        }
        let lost_at = *self.link().lost_at.get_or_insert_with(aio::now);
        let _one = self.connecting.lock().await;
        if let Some(connection) = self.alive() {
            return Ok(connection);
        }
        let mut given_up = std::pin::pin!(self.given_up.notified());
        given_up.as_mut().enable();
        let left = match self.impatient.load(Ordering::Acquire) {
            true => Duration::ZERO,
            false => self.options.reconnect_delay.saturating_sub(aio::now().saturating_sub(lost_at)),
        };
        let connected = tokio::select! {
            biased;
            connected = connect_within(&self.options, &self.wanted, left) => connected,
            () = given_up => Err(Error::io("The request was cancelled")),
        };
        let connection = connected.map_err(|error| {
            tracing::debug!("NBD: {error}");
            Error::errno_only(rustix::io::Errno::IO.raw_os_error())
        })?;
        let (new, old) = (&connection.export, &self.export);
        if new.size != old.size || new.flags & !old.flags & wire::READ_ONLY != 0 || new.min_block > old.min_block.max(1)
        {
            return Err(Error::io("The NBD server's export has changed"));
        }
        *self.link() = Link { connection: Arc::clone(&connection), lost_at: None };
        self.impatient.store(false, Ordering::Release);
        Ok(connection)
    }

    async fn request(&self, request: Request) -> Result<Option<Extent>> {
        loop {
            let connection = self.connection().await?;
            match connection.request(request.clone()).await {
                Err(Failure::Lost(error)) if self.options.reconnect_delay.is_zero() => {
                    // How the host came to know of the loss is no matter of who has asked.
                    return Err(Error::io(error.to_string()));
                }
                // Nothing that was asked for does harm when it is done twice.
                Err(Failure::Lost(_)) => {}
                result => return Ok(result?),
            }
        }
    }

    fn send(&self, command: Command, flags: u16, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            let len = u32::try_from(len).map_err(|_| Error::invalid("The request is too long"))?;
            self.request(Request { command, flags, offset, len, buf: IoBuf::empty() }).await.map(drop)
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.export.flags & flag != 0
    }

    fn min_block(&self) -> u32 {
        match self.export.min_block {
            0 if self.export.context.is_some() || !self.export.size.is_multiple_of(512) => 1,
            0 => 512,
            min => min,
        }
    }
}

impl Driver for Nbd {
    fn len(&self) -> u64 {
        self.export.size
    }

    fn cancel_in_flight(&self) {
        if self.alive().is_none() {
            self.impatient.store(true, Ordering::Release);
            self.given_up.notify_waiters();
        }
    }

    fn limits(&self) -> Limits {
        let min = self.min_block();
        let max = if self.export.max_block == 0 { MAX_TRANSFER } else { self.export.max_block.min(MAX_TRANSFER) };
        let max_range = u64::from(u32::MAX / min * min);
        Limits {
            request_alignment: min,
            max_transfer: max.into(),
            max_discard: max_range,
            max_zeroes: max_range,
            optimal_transfer: self.export.preferred_block.into(),
            ..Limits::default()
        }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            // The last block may reach behind the end of the export.
            let inside = self.export.size.saturating_sub(offset).min(buf.len() as u64);
            let inside_len = usize::try_from(inside).unwrap_or(buf.len());
            buf.fill(inside_len, buf.len() - inside_len, 0);
            if inside == 0 {
                return Ok(());
            }
            let len = u32::try_from(inside).map_err(|_| Error::invalid("The request is too long"))?;
            let buf = buf.slice(0, inside_len);
            self.request(Request { command: Command::Read, flags: 0, offset, len, buf }).await.map(drop)
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let flags = if flags.fua && self.supports_fua() { FUA } else { 0 };
            let len = u32::try_from(buf.len()).map_err(|_| Error::invalid("The request is too long"))?;
            self.request(Request { command: Command::Write, flags, offset, len, buf }).await.map(drop)
        })
    }

    fn supports_fua(&self) -> bool {
        self.has(wire::SEND_FUA)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        if !self.has(wire::SEND_WRITE_ZEROES) || (flags.no_fallback && !self.has(wire::SEND_FAST_ZERO)) {
            return fail(Error::unsupported("The NBD server has no efficient zero writes"));
        }
        let mut command_flags = if flags.may_unmap { 0 } else { NO_HOLE };
        if flags.no_fallback {
            command_flags |= FAST_ZERO;
        }
        if flags.fua && self.supports_fua() {
            command_flags |= FUA;
        }
        self.send(Command::WriteZeroes, command_flags, offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        if !self.has(wire::SEND_TRIM) {
            return fail(Error::unsupported("The NBD server has no discards"));
        }
        self.send(Command::Trim, 0, offset, len)
    }

    fn flush(&self) -> IoFuture<'_> {
        if self.has(wire::SEND_FLUSH) { self.send(Command::Flush, 0, 0, 0) } else { done(()) }
    }

    fn prefetch(&self, offset: u64, len: u64) -> IoFuture<'_> {
        if self.has(wire::SEND_CACHE) { self.send(Command::Cache, 0, offset, len) } else { done(()) }
    }

    fn truncate(&self, len: u64, exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        if exact && len != self.export.size {
            return fail(Error::unsupported("Cannot resize NBD nodes"));
        }
        if len > self.export.size { fail(Error::invalid("Cannot grow NBD nodes")) } else { done(()) }
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        let min = u64::from(self.min_block());
        let inside = self.export.size.saturating_sub(offset).min(u64::from(u32::MAX) / min * min);
        if self.export.context.is_none() || inside == 0 {
            return done(BlockStatus::data(len, Some(offset)));
        }
        Box::pin(async move {
            let asked = len.min(inside);
            let short = u32::try_from(asked).unwrap_or(u32::MAX);
            let flags = REQ_ONE;
            let request = Request { command: Command::BlockStatus, flags, offset, len: short, buf: IoBuf::empty() };
            let (extent, flags) =
                self.request(request).await?.ok_or_else(|| Error::io("The NBD server sent no extent"))?;
            // The server may know more than it was asked for; a part of a block says nothing.
            let extent = u64::from(extent).min(asked);
            let extent = if extent == asked { len.min(asked.next_multiple_of(min)) } else { extent / min * min };
            let (hole, zero) = (flags & 1 != 0, flags & 2 != 0);
            if extent == 0 {
                return Ok(BlockStatus::data(len.min(min), Some(offset)));
            }
            Ok(BlockStatus { data: !hole, zero, ..BlockStatus::data(extent, Some(offset)) })
        })
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        done(None)
    }

    fn exact_filename(&self) -> Option<String> {
        self.options.filename()
    }

    fn strong_options(&self) -> Options {
        if self.options.filename().is_some() { Options::new() } else { self.options.strong() }
    }

    fn set_permissions(&self, used: Permissions, _shared: Permissions) -> Result<()> {
        if self.has(wire::READ_ONLY) && used.contains(Permissions::WRITE) {
            return Err(read_only());
        }
        Ok(())
    }

    fn close(&self) -> IoFuture<'_> {
        Box::pin(async {
            let alive = self.alive();
            let flushed = if alive.is_some() { self.flush().await } else { Ok(()) };
            if let Some(connection) = alive {
                connection.disconnect().await;
            }
            flushed
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_nothing_is_given_up() {
        // The backlog accepts the connection; nobody answers.
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = server.local_addr().expect("an address").port().to_string();
        let text = block::Options::new().with("host", "127.0.0.1").with("port", port.as_str());
        let options = NbdOptions::take(&mut text.clone()).expect("options");
        let wanted = Wanted { export: String::new(), context: "base:allocation".to_owned(), tls: None };
        let connected = aio::block_on(connect_in_time(&options, &wanted, Duration::from_secs(1)));
        let error = connected.err().expect("there is no server").to_string();
        assert_eq!(error, "The NBD server did not finish the negotiation within 1 seconds");
        drop(server);
    }
}
