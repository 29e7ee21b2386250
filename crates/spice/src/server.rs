//! What `-spice` asks for: where to listen, whom to let in, what to show.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

use ::display::Console;
use ::display::input::{Hub, KeyQueue};
use listen::{Ends, Error, ListenAddress, Listening, Pace, Password, Stream};
use rustls::ServerConfig;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::client::{ChannelInfo, Client, ClientInfo};
use crate::handshake;
use crate::image::Compression;
use crate::link::{ChannelKind, Link, Refusal};
use crate::lock;
use crate::main_channel::Destination;
use crate::message::MouseMode;
use crate::service::{Event, Host};
use crate::ticket::Keys;

/// Connections that may be about to become channels; more make the oldest leave.
const CONNECTING_MAX: usize = 64;
/// The longest password that the protocol knows.
const PASSWORD_MAX: usize = 60;

/// What a channel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS.
    Tls,
    /// No TLS.
    Plain,
}

/// What the option says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The guest's name, for titles.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Clients have to know the password.
    pub has_tickets: bool,
    /// How pictures are sent.
    pub compression: Compression,
    /// Channels that need TLS or must not have it.
    pub security: Vec<(ChannelKind, Security)>,
}

/// What clients see and use.
#[derive(Clone)]
pub struct Seat {
    /// The screens, a display channel each.
    pub consoles: Vec<Arc<Console>>,
    /// Keyboards and pointers.
    pub input: Arc<Hub>,
    /// Keys with time in between.
    pub keys: Arc<KeyQueue>,
    /// Input is for the first screen's devices alone.
    pub is_bound: bool,
}

impl Seat {
    /// Where input goes to.
    pub(crate) fn target(&self) -> Option<&Arc<Console>> {
        self.consoles.first().filter(|_| self.is_bound)
    }
}

/// What becomes of clients when the password changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connected {
    /// They stay.
    Keep,
    /// If there are any, the password stays as it is.
    Fail,
    /// They have to leave.
    Disconnect,
}

/// How a connection comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// TLS begins at once.
    pub is_tls: bool,
    /// No password is asked for.
    pub is_known: bool,
}

/// The clients that belong together.
struct Session {
    id: u32,
    mode: MouseMode,
    /// The connection of its main channel.
    main: u64,
}

struct State {
    password: Password,
    seat: Arc<Seat>,
    listening: Vec<Listening>,
    clients: Vec<Arc<Client>>,
    session: Option<Session>,
    destination: Option<Arc<Destination>>,
    last_id: u64,
    is_refreshed: bool,
}

/// A SPICE server.
pub struct Server {
    options: Options,
    host: Arc<dyn Host>,
    runtime: Handle,
    tls: Option<Arc<ServerConfig>>,
    keys: Keys,
    state: Mutex<State>,
    /// Somebody types or has just come: the screen is worth a look.
    hurry: Notify,
}

impl Server {
    pub(crate) fn new(
        host: Arc<dyn Host>,
        options: Options,
        tls: Option<Arc<ServerConfig>>,
        seat: Seat,
        runtime: Handle,
    ) -> Arc<Self> {
        let state = State {
            password: Password::default(),
            seat: Arc::new(seat),
            listening: Vec::new(),
            clients: Vec::new(),
            session: None,
            destination: None,
            last_id: 0,
            is_refreshed: false,
        };
        let keys = Keys::default();
        let server =
            Arc::new(Self { options, host, runtime, tls, keys, state: Mutex::new(state), hurry: Notify::new() });
        server.watch_lights();
        server
    }

    /// Shows something else from now on.
    pub fn set_seat(self: &Arc<Self>, seat: Seat) {
        lock(&self.state).seat = Arc::new(seat);
        self.watch_lights();
        self.wake_clients();
    }

    fn watch_lights(self: &Arc<Self>) {
        let server = Arc::downgrade(self);
        self.seat().input.on_leds(Box::new(move |_| {
            if let Some(server) = server.upgrade() {
                server.wake_clients();
            }
        }));
    }

    fn wake_clients(&self) {
        for client in &lock(&self.state).clients {
            client.wake.notify_one();
        }
    }

    pub(crate) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&lock(&self.state).seat)
    }

    /// The option.
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn host(&self) -> &dyn Host {
        &*self.host
    }

    pub(crate) fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.tls.as_ref()
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Sets the password; `false` if none is asked for, it is too long, or clients are in the way.
    pub fn set_password(&self, password: &str, connected: Connected) -> bool {
        let mut state = lock(&self.state);
        if !self.options.has_tickets || password.len() > PASSWORD_MAX {
            return false;
        }
        if connected == Connected::Fail && state.session.is_some() {
            return false;
        }
        state.password.set(password);
        if connected == Connected::Disconnect {
            for client in &state.clients {
                client.kick.notify_one();
            }
        }
        true
    }

    /// When the password ends, in seconds since 1970; nothing for never. `false` if none is asked for.
    pub fn expire_password(&self, at: Option<u64>) -> bool {
        lock(&self.state).password.expire(at);
        self.options.has_tickets
    }

    /// The password, if it is one now.
    pub(crate) fn password(&self) -> Option<String> {
        lock(&self.state).password.valid().map(str::to_owned)
    }

    /// Listens at an address, too.
    ///
    /// # Errors
    /// It can't be had.
    pub fn listen(self: &Arc<Self>, address: &ListenAddress, entry: Entry) -> Result<(), Error> {
        let addresses = std::slice::from_ref(address);
        let welcome = move |server: &Arc<Self>, stream, ends| server.welcome(stream, ends, entry);
        let listening = Listening::start(addresses, &self.runtime, self, welcome)?;
        lock(&self.state).listening.push(listening);
        Ok(())
    }

    /// Serves a connection that somebody else has made.
    ///
    /// # Errors
    /// The descriptor is no socket, or there is no TLS.
    pub fn add_client(self: &Arc<Self>, socket: OwnedFd, entry: Entry) -> Result<(), Error> {
        if entry.is_tls && self.tls.is_none() {
            return Err(Error::new("there are no certificates for TLS"));
        }
        let (stream, ends) = listen::adopt(socket, &self.runtime)?;
        self.welcome(stream, ends, entry);
        Ok(())
    }

    fn welcome(self: &Arc<Self>, stream: Stream, ends: Ends, entry: Entry) {
        let client = {
            let mut state = lock(&self.state);
            state.last_id += 1;
            let client = Arc::new(Client::new(state.last_id, ends, entry.is_tls));
            state.clients.push(Arc::clone(&client));
            let connecting: Vec<_> = state.clients.iter().filter(|client| client.channel().is_none()).collect();
            // Some were told to leave before, and are on their way.
            for oldest in connecting.iter().take(connecting.len().saturating_sub(CONNECTING_MAX)) {
                oldest.kick.notify_one();
            }
            client
        };
        self.tell(Event::Connected, &client);
        let server = Arc::clone(self);
        self.runtime.spawn(async move { handshake::run(server, client, stream, entry).await });
    }

    /// Whether a channel of this kind has to have the other security.
    pub(crate) fn refuses(&self, kind: ChannelKind, is_tls: bool) -> Option<Refusal> {
        let wanted = self.options.security.iter().rev().find(|(wanted, _)| *wanted == kind);
        match wanted.map(|(_, security)| *security) {
            Some(Security::Tls) if !is_tls => Some(Refusal::NeedSecured),
            Some(Security::Plain) if is_tls => Some(Refusal::NeedUnsecured),
            _ => None,
        }
    }

    /// Whether there is such a channel.
    pub(crate) fn has_channel(&self, kind: ChannelKind, id: u8) -> bool {
        let consoles = lock(&self.state).seat.consoles.len();
        match kind {
            ChannelKind::Main | ChannelKind::Inputs => id == 0,
            ChannelKind::Display | ChannelKind::Cursor => usize::from(id) < consoles,
        }
    }

    /// The channels that a session may have beside its main one.
    pub(crate) fn channels(&self) -> Vec<(ChannelKind, u8)> {
        let consoles = u8::try_from(lock(&self.state).seat.consoles.len()).unwrap_or(u8::MAX);
        let screens = (0..consoles).flat_map(|id| [(ChannelKind::Display, id), (ChannelKind::Cursor, id)]);
        screens.chain([(ChannelKind::Inputs, 0)]).collect()
    }

    /// A client has proved that it may look: it becomes a channel.
    ///
    /// # Errors
    /// Its session is not there, or has this channel already.
    pub(crate) fn admit(&self, client: &Client, kind: ChannelKind, link: &Link, new_id: u32) -> Result<u32, Refusal> {
        let mut state = lock(&self.state);
        let session = match (kind, &state.session) {
            (ChannelKind::Main, _) if link.connection == 0 => {
                for other in state.clients.iter().filter(|other| other.channel().is_some()) {
                    other.kick.notify_one();
                }
                let id = new_id.max(1);
                state.session = Some(Session { id, mode: MouseMode::default(), main: client.id });
                id
            }
            (ChannelKind::Main, _) => return Err(Refusal::BadConnectionId),
            (_, Some(session)) if session.id == link.connection => session.id,
            _ => return Err(Refusal::BadConnectionId),
        };
        let channel = ChannelInfo { session, kind, id: link.id };
        if state.clients.iter().any(|other| other.channel() == Some(channel)) {
            return Err(Refusal::ChannelNotAvailable);
        }
        client.set_channel(channel);
        Ok(session)
    }

    pub(crate) fn leave(&self, client: &Client) {
        {
            let mut state = lock(&self.state);
            state.clients.retain(|other| other.id != client.id);
            if state.session.as_ref().is_some_and(|session| session.main == client.id) {
                state.session = None;
                // A session ends with its main channel.
                for other in state.clients.iter().filter(|other| other.channel().is_some()) {
                    other.kick.notify_one();
                }
            }
        }
        self.tell(Event::Disconnected, client);
    }

    pub(crate) fn tell(&self, event: Event, client: &Client) {
        self.host.event(event, &client.info());
    }

    /// The connections that are channels, the oldest first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let infos = lock(&self.state).clients.iter().map(|client| client.info()).collect::<Vec<_>>();
        infos.into_iter().filter(|info| info.channel.is_some()).collect()
    }

    /// Who moves the pointer.
    pub fn mouse_mode(&self) -> MouseMode {
        lock(&self.state).session.as_ref().map_or(MouseMode::Server, |session| session.mode)
    }

    /// Sets who moves the pointer.
    pub(crate) fn set_mouse_mode(&self, mode: MouseMode) {
        if let Some(session) = &mut lock(&self.state).session {
            session.mode = mode;
        }
    }

    /// Where the guest goes; clients are told to connect there, too.
    pub fn set_destination(&self, destination: Destination) {
        lock(&self.state).destination = Some(Arc::new(destination));
        self.wake_clients();
    }

    pub(crate) fn destination(&self) -> Option<Arc<Destination>> {
        lock(&self.state).destination.clone()
    }

    /// The screen is worth a look now.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Has the screens drawn again and again while somebody looks.
    pub(crate) fn start_refreshing(self: &Arc<Self>) {
        if !std::mem::replace(&mut lock(&self.state).is_refreshed, true) {
            self.runtime.spawn(refresh(Arc::downgrade(self)));
        }
    }

    /// The clients that look at screens; nothing if there are none, and the refreshing ends.
    fn lookers(&self) -> Option<(Arc<Seat>, Vec<Arc<Client>>)> {
        let mut state = lock(&self.state);
        let looks = |client: &&Arc<Client>| {
            client.channel().is_some_and(|channel| matches!(channel.kind, ChannelKind::Display | ChannelKind::Cursor))
        };
        let clients: Vec<_> = state.clients.iter().filter(looks).cloned().collect();
        state.is_refreshed = !clients.is_empty();
        state.is_refreshed.then(|| (Arc::clone(&state.seat), clients))
    }
}

async fn refresh(server: Weak<Server>) {
    let mut pace = Pace::default();
    loop {
        let Some(server) = server.upgrade() else { return };
        let Some((seat, clients)) = server.lookers() else { return };
        if clients.iter().any(|client| client.waits_for_news()) {
            let draw = move || {
                let drawn = |console: &Arc<Console>| (console.refresh(), console.cursor());
                seat.consoles.iter().map(drawn).collect::<Vec<_>>()
            };
            let Ok(now) = tokio::task::spawn_blocking(draw).await else { return };
            if pace.saw(now) {
                for client in &clients {
                    client.wake.notify_one();
                }
            }
        }
        drop(clients);
        pace.wait(&server.hurry).await;
    }
}
