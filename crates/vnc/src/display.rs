//! What one `-vnc` option asks for: where to listen, whom to let in, what to show.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ::display::input::{Hub, KeyQueue, Leds};
use ::display::{Console, Origin, Screen, Surface};
use listen::{Address, Ends, ListenAddress, Listening, Pace, Password};
use rustls::ServerConfig;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::channel::Channel;
use crate::client::{Client, ClientInfo, Share};
use crate::keyboard::{Layout, Locks};
use crate::service::{Event, Host, Service};
use crate::{Error, handshake, lock, sasl, session};

/// Who may look together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharePolicy {
    /// A client that wants to be alone makes the others leave.
    #[default]
    AllowExclusive,
    /// Nobody may be alone.
    ForceShared,
    /// Whatever clients say.
    Ignore,
}

/// What comes inside of VeNCrypt's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecuritySub {
    /// Nothing.
    X509None,
    /// A password.
    X509Vnc,
    /// SASL.
    X509Sasl,
}

/// How clients prove that they may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// By a password.
    Vnc,
    /// By SASL.
    Sasl,
    /// By TLS and what comes in it.
    VeNCrypt(SecuritySub),
}

/// What an option says.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the option's own switches")]
pub struct Options {
    /// The display's name for monitors.
    pub id: String,
    /// What viewers show in their title.
    pub title: String,
    /// Who may look together.
    pub share: SharePolicy,
    /// How many clients may be there, and how many may be about to.
    pub connections: usize,
    /// A password is needed.
    pub has_password: bool,
    /// Without a password: clients prove who they are by SASL, to this file of users.
    pub sasl: Option<PathBuf>,
    /// Photographs may become JPEG pictures where clients want it.
    pub lossy: bool,
    /// They do wherever clients want it, not only where much changes.
    pub non_adaptive: bool,
    /// Lock keys follow the clients'.
    pub lock_key_sync: bool,
    /// The least time between two keys, of the guest's clock.
    pub key_delay: Duration,
    /// Clients may reset the guest and press its power button.
    pub power_control: bool,
    /// The guest's keyboard layout. If it is given, the meaning of keys counts and not their place.
    pub layout: Option<String>,
}

/// What clients see and use.
#[derive(Clone)]
pub struct Seat {
    /// The screen that is shown.
    pub console: Arc<Console>,
    /// All that clients may choose from, by Ctrl, Alt and a digit.
    pub consoles: Vec<Arc<Console>>,
    /// Keyboards and pointers.
    pub input: Arc<Hub>,
    /// Keys with time in between.
    pub keys: Arc<KeyQueue>,
    /// Input is for this screen's devices alone.
    pub is_bound: bool,
}

impl Seat {
    /// Where input goes to.
    pub(crate) fn target(&self) -> Option<&Arc<Console>> {
        self.is_bound.then_some(&self.console)
    }
}

/// A listener as monitors show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Where it listens.
    pub address: Address,
    /// It is for WebSockets.
    pub is_websocket: bool,
    /// How clients prove that they may look.
    pub auth: Auth,
}

struct State {
    password: Password,
    tls: Option<Arc<ServerConfig>>,
    seat: Arc<Seat>,
    plain: Listening,
    websocket: Listening,
    clients: Vec<Arc<Client>>,
    last_id: u64,
    is_refreshed: bool,
}

/// A VNC server.
pub struct Display {
    options: Options,
    layout: Layout,
    host: Arc<dyn Host>,
    runtime: Handle,
    state: Mutex<State>,
    locks: Mutex<Locks>,
    /// What makes up the salts of users that do not exist.
    secret: [u8; 32],
    /// Somebody types or has just come: the screen is worth a look.
    hurry: Notify,
}

/// Nothing to show.
struct Dark;

impl Screen for Dark {
    fn render(&self, picture: &mut Surface) {
        picture.resize(640, 480);
    }
}

impl Display {
    /// A server that does not listen yet. Without a console it shows a dark screen.
    ///
    /// # Errors
    /// The keyboard layout does not exist, or the file of users is wrong.
    pub fn new(
        service: &Service,
        options: Options,
        tls: Option<Arc<ServerConfig>>,
        seat: Seat,
    ) -> Result<Arc<Self>, Error> {
        let name = options.layout.as_deref().unwrap_or("en-us");
        let layout = Layout::named(name).ok_or_else(|| Error::new(format!("could not read keymap file: '{name}'")))?;
        let mut secret = [0; 32];
        if let Some(path) = &options.sasl {
            let failed = |error: std::io::Error| Error::new(error.to_string());
            handshake::randomize(&mut secret).map_err(failed)?;
            // It is read for each client; that it can be is better known now.
            sasl::read_users(path).map_err(failed)?;
        }
        let state = State {
            password: Password::default(),
            tls,
            seat: Arc::new(seat),
            plain: Listening::default(),
            websocket: Listening::default(),
            clients: Vec::new(),
            last_id: 0,
            is_refreshed: false,
        };
        let display = Arc::new(Self {
            options,
            layout,
            host: Arc::clone(service.host()),
            runtime: service.runtime().clone(),
            state: Mutex::new(state),
            locks: Mutex::default(),
            secret,
            hurry: Notify::new(),
        });
        display.watch_lights();
        Ok(display)
    }

    /// A screen with nothing on it.
    pub fn dark() -> Arc<Console> {
        Console::new(Origin { id: None, path: String::new(), head: 0 }, Arc::new(Dark))
    }

    /// Shows something else from now on.
    pub fn set_seat(self: &Arc<Self>, seat: Seat) {
        let mut seat = seat;
        {
            let mut state = lock(&self.state);
            // What somebody has chosen stays while it is there.
            if !seat.is_bound && seat.consoles.iter().any(|console| Arc::ptr_eq(console, &state.seat.console)) {
                seat.console = Arc::clone(&state.seat.console);
            }
            state.seat = Arc::new(seat);
        }
        self.watch_lights();
        self.wake_clients();
    }

    /// Shows the screen of this number, if clients may choose and it is there.
    pub(crate) fn select(&self, number: usize) -> bool {
        let seat = self.seat();
        let Some(console) = seat.consoles.get(number).filter(|_| !seat.is_bound) else { return false };
        console.refresh();
        lock(&self.state).seat = Arc::new(Seat { console: Arc::clone(console), ..Seat::clone(&seat) });
        self.wake_clients();
        self.hurry();
        true
    }

    fn watch_lights(self: &Arc<Self>) {
        let display = Arc::downgrade(self);
        self.seat().input.on_leds(Box::new(move |leds: Leds| {
            if let Some(display) = display.upgrade() {
                *lock(&display.locks) = Locks { caps: leds.caps_lock, num: leds.num_lock };
                display.wake_clients();
            }
        }));
    }

    pub(crate) fn wake_clients(&self) {
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

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn with_locks<R>(&self, visit: impl FnOnce(Option<&mut Locks>) -> R) -> R {
        visit(self.options.lock_key_sync.then_some(&mut *lock(&self.locks)))
    }

    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        lock(&self.state).tls.clone()
    }

    /// The file of users for SASL, and the secret of this server.
    pub(crate) fn sasl(&self) -> Option<(PathBuf, [u8; 32])> {
        Some((self.options.sasl.clone()?, self.secret))
    }

    /// Whether there is TLS.
    pub fn has_tls(&self) -> bool {
        lock(&self.state).tls.is_some()
    }

    /// Other certificates, for clients that come from now on.
    pub fn set_tls(&self, config: Arc<ServerConfig>) {
        lock(&self.state).tls = Some(config);
    }

    /// How clients of this kind prove that they may look. WebSockets have their TLS outside.
    pub fn auth(&self, is_websocket: bool) -> Auth {
        let has_sasl = self.options.sasl.is_some();
        match (self.options.has_password, self.has_tls() && !is_websocket) {
            (false, false) if has_sasl => Auth::Sasl,
            (false, false) => Auth::None,
            (true, false) => Auth::Vnc,
            (false, true) if has_sasl => Auth::VeNCrypt(SecuritySub::X509Sasl),
            (false, true) => Auth::VeNCrypt(SecuritySub::X509None),
            (true, true) => Auth::VeNCrypt(SecuritySub::X509Vnc),
        }
    }

    /// Sets the password; `false` if none is asked for.
    pub fn set_password(&self, password: &str) -> bool {
        // With TLS alone QEMU takes a password, too, and never asks for it.
        if self.auth(false) == Auth::None {
            return false;
        }
        lock(&self.state).password.set(password);
        true
    }

    /// When the password ends, in seconds since 1970; nothing for never.
    pub fn expire_password(&self, at: Option<u64>) {
        lock(&self.state).password.expire(at);
    }

    /// The password, if it is one now.
    pub(crate) fn password(&self) -> Option<String> {
        lock(&self.state).password.valid().map(str::to_owned)
    }

    /// Listens at these addresses, and no longer at those before.
    ///
    /// # Errors
    /// An address can't be had; then there is no listener.
    pub fn listen(self: &Arc<Self>, addresses: &[ListenAddress], websockets: &[ListenAddress]) -> Result<(), Error> {
        self.listen_plain(addresses)?;
        lock(&self.state).websocket = Listening::default();
        let listening = self.start_listening(websockets, true)?;
        lock(&self.state).websocket = listening;
        Ok(())
    }

    /// The same for plain connections alone.
    ///
    /// # Errors
    /// As [`Display::listen`].
    pub fn listen_plain(self: &Arc<Self>, addresses: &[ListenAddress]) -> Result<(), Error> {
        // The old ones go first: the new ones may be the same.
        lock(&self.state).plain = Listening::default();
        let listening = self.start_listening(addresses, false)?;
        lock(&self.state).plain = listening;
        Ok(())
    }

    fn start_listening(self: &Arc<Self>, addresses: &[ListenAddress], is_websocket: bool) -> Result<Listening, Error> {
        let welcome = move |display: &Arc<Self>, stream, ends: Ends| {
            display.welcome(Channel::new(stream), ends.far, is_websocket, None);
        };
        Listening::start(addresses, &self.runtime, self, welcome)
    }

    /// Connects to a client that waits.
    ///
    /// # Errors
    /// Nobody waits there.
    pub fn connect(self: &Arc<Self>, address: &ListenAddress) -> Result<(), Error> {
        self.adopt(listen::connect(address)?, None)
    }

    /// Serves a connection that somebody else has made.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn add_client(self: &Arc<Self>, socket: OwnedFd, skip_auth: bool) -> Result<(), Error> {
        self.adopt(socket, skip_auth.then_some(Auth::None))
    }

    /// Serves a WebSocket whose opening somebody else has answered, and whose client has proved that it may look.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn add_websocket(self: &Arc<Self>, socket: OwnedFd) -> Result<(), Error> {
        let (stream, ends) = listen::adopt(socket, &self.runtime)?;
        self.welcome(Channel::framed(stream), ends.far, true, Some(Auth::None));
        Ok(())
    }

    fn adopt(self: &Arc<Self>, socket: OwnedFd, auth: Option<Auth>) -> Result<(), Error> {
        let (stream, ends) = listen::adopt(socket, &self.runtime)?;
        self.welcome(Channel::new(stream), ends.far, false, auth);
        Ok(())
    }

    fn welcome(self: &Arc<Self>, channel: Channel, address: Address, is_websocket: bool, auth: Option<Auth>) {
        let auth = auth.unwrap_or_else(|| self.auth(is_websocket));
        let info = ClientInfo { address, is_websocket, x509_dname: None, sasl_username: None };
        let client = {
            let mut state = lock(&self.state);
            state.last_id += 1;
            let client = Arc::new(Client::new(state.last_id, info));
            state.clients.push(Arc::clone(&client));
            let connecting: Vec<_> = state.clients.iter().filter(|c| c.share() == Share::Connecting).collect();
            // Some were told to leave before, and are on their way.
            for oldest in connecting.iter().take(connecting.len().saturating_sub(self.options.connections)) {
                oldest.kick.notify_one();
            }
            client
        };
        self.tell(Event::Connected, &client);
        let display = Arc::clone(self);
        self.runtime.spawn(async move { session::run(display, client, channel, auth).await });
    }

    /// A client has said whether it wants to be alone; whether it may stay.
    pub(crate) fn admit(&self, client: &Arc<Client>, wanted: Share) -> bool {
        let state = lock(&self.state);
        let others = || state.clients.iter().filter(|other| other.id != client.id);
        match self.options.share {
            SharePolicy::Ignore => {}
            SharePolicy::AllowExclusive if wanted == Share::Exclusive => {
                for other in others().filter(|other| other.share() != Share::Connecting) {
                    other.kick.notify_one();
                }
            }
            SharePolicy::AllowExclusive => {
                if others().any(|other| other.share() == Share::Exclusive) {
                    return false;
                }
            }
            SharePolicy::ForceShared if wanted == Share::Exclusive => return false,
            SharePolicy::ForceShared => {}
        }
        client.set_share(wanted);
        state.clients.iter().filter(|client| client.share() == Share::Shared).count() <= self.options.connections
    }

    pub(crate) fn leave(&self, client: &Arc<Client>) {
        lock(&self.state).clients.retain(|other| other.id != client.id);
        self.tell(Event::Disconnected, client);
    }

    pub(crate) fn tell(&self, event: Event, client: &Client) {
        if let Some(server) = self.servers().into_iter().find(|server| !server.is_websocket) {
            self.host.event(event, &server, &client.info());
        }
    }

    /// The listeners: plain ones, then those for WebSockets.
    pub fn servers(&self) -> Vec<ServerInfo> {
        let (plain, websocket) = (self.auth(false), self.auth(true));
        let state = lock(&self.state);
        let plain = state.plain.addresses().map(|address| (address, false, plain));
        let websocket = state.websocket.addresses().map(|address| (address, true, websocket));
        let info = |(address, is_websocket, auth): (&Address, bool, Auth)| ServerInfo {
            address: address.clone(),
            is_websocket,
            auth,
        };
        plain.chain(websocket).map(info).collect()
    }

    /// The clients, the oldest first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        lock(&self.state).clients.iter().map(|client| client.info()).collect()
    }

    /// The screen is worth a look now.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Has the screen drawn again and again while there are clients.
    pub(crate) fn start_refreshing(self: &Arc<Self>) {
        if !std::mem::replace(&mut lock(&self.state).is_refreshed, true) {
            self.runtime.spawn(refresh(Arc::downgrade(self)));
        }
    }
}

async fn refresh(display: Weak<Display>) {
    let mut pace = Pace::default();
    loop {
        let Some(display) = display.upgrade() else { return };
        let (seat, clients) = {
            let mut state = lock(&display.state);
            if state.clients.is_empty() {
                state.is_refreshed = false;
                return;
            }
            (Arc::clone(&state.seat), state.clients.clone())
        };
        if clients.iter().any(|client| client.wants_pictures()) {
            let console = Arc::clone(&seat.console);
            let drawn = tokio::task::spawn_blocking(move || (console.refresh(), console.cursor()));
            let Ok((generation, cursor)) = drawn.await else { return };
            if pace.saw((generation, cursor, seat.input.is_absolute())) {
                for client in &clients {
                    client.wake.notify_one();
                }
            }
        }
        drop(clients);
        pace.wait(&display.hurry).await;
    }
}
