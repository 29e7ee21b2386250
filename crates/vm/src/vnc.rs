//! The VNC servers of a program: from options to servers, and what commands do with them.

mod options;

use std::sync::Arc;
use std::time::Duration;

use ::vnc::{
    Address, Auth, ClientInfo, Display, Event, Host, ListenAddress, Options, PowerAction, Seat, SecuritySub,
    ServerInfo, Service,
};
use block_net::{TlsCredentials, TlsServerCredentials};
use machine::Machine;
use qapi::Error;
use qapi::run_state::ShutdownCause;
use qapi::vnc::{
    VncBasicInfo, VncClientInfo, VncConnected, VncDisconnected, VncInfo, VncInfo2, VncInitialized, VncPrimaryAuth,
    VncServerInfo, VncServerInfo2, VncVencryptSubAuth,
};
use qmp::EventSink;

pub use self::options::VncConfig;
use crate::control::Control;
use crate::inbox::Inbox;
use crate::run_state::can_hear;
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::terminals::Terminals;
use crate::viewers::{self, ViewerError};

/// The program as servers see it.
struct Program {
    events: EventSink,
    snapshot: Arc<Snapshot>,
    inbox: Arc<Inbox<Control>>,
}

impl Host for Program {
    fn can_hear(&self) -> bool {
        can_hear(self.snapshot.status().status)
    }

    fn event(&self, event: Event, server: &ServerInfo, client: &ClientInfo) {
        let server = VncServerInfo {
            base: basic(&server.address, server.is_websocket),
            auth: Some(auth_name(server.auth).to_owned()),
        };
        match event {
            Event::Connected => {
                let client = basic(&client.address, client.is_websocket);
                self.events.emit(VncConnected { server, client });
            }
            Event::Initialized => self.events.emit(VncInitialized { server, client: describe(client) }),
            Event::Disconnected => self.events.emit(VncDisconnected { server, client: describe(client) }),
        }
    }

    fn power(&self, action: PowerAction) {
        self.inbox.request(Box::new(move |control: &mut Control| match action {
            PowerAction::Shutdown => control.powerdown(),
            PowerAction::Reset => control.reset(ShutdownCause::HostQmpSystemReset),
        }));
    }
}

/// What `query-vnc` and events call an authentication.
fn auth_name(auth: Auth) -> &'static str {
    match auth {
        Auth::None => "none",
        Auth::Vnc => "vnc",
        Auth::Sasl => "sasl",
        Auth::VeNCrypt(SecuritySub::X509None) => "vencrypt+x509+none",
        Auth::VeNCrypt(SecuritySub::X509Vnc) => "vencrypt+x509+vnc",
        Auth::VeNCrypt(SecuritySub::X509Sasl) => "vencrypt+x509+sasl",
    }
}

/// The same for `query-vnc-servers`.
fn auth_pair(auth: Auth) -> (VncPrimaryAuth, Option<VncVencryptSubAuth>) {
    match auth {
        Auth::None => (VncPrimaryAuth::None, None),
        Auth::Vnc => (VncPrimaryAuth::Vnc, None),
        Auth::Sasl => (VncPrimaryAuth::Sasl, None),
        Auth::VeNCrypt(SecuritySub::X509None) => (VncPrimaryAuth::Vencrypt, Some(VncVencryptSubAuth::X509None)),
        Auth::VeNCrypt(SecuritySub::X509Vnc) => (VncPrimaryAuth::Vencrypt, Some(VncVencryptSubAuth::X509Vnc)),
        Auth::VeNCrypt(SecuritySub::X509Sasl) => (VncPrimaryAuth::Vencrypt, Some(VncVencryptSubAuth::X509Sasl)),
    }
}

fn basic(address: &Address, websocket: bool) -> VncBasicInfo {
    let (host, service, family) = viewers::parts(address);
    VncBasicInfo { host, service, family, websocket }
}

fn describe(client: &ClientInfo) -> VncClientInfo {
    VncClientInfo {
        base: basic(&client.address, client.is_websocket),
        x509_dname: client.x509_dname.clone(),
        sasl_username: client.sasl_username.clone(),
    }
}

/// A server, and what it was told to show.
struct Entry {
    display: Arc<Display>,
    wanted: Option<(String, i64)>,
    credentials: Option<String>,
}

/// The VNC servers.
#[derive(Default)]
pub struct Vnc {
    entries: Vec<Entry>,
    /// One that nobody can connect to by himself, for the web console.
    hidden: Option<Entry>,
    // After the servers: its thread ends here.
    service: Option<Service>,
}

/// What there is to be shown: a machine's screens, and terminals.
type Screens<'a> = (&'a Machine, &'a Terminals);

/// What a server shows of a machine.
fn seat((machine, terminals): Screens<'_>, wanted: Option<&(String, i64)>) -> Result<Seat, Error> {
    let consoles = terminals.behind(machine.consoles());
    let console = match wanted {
        Some((device, head)) => Some(crate::handlers::console(machine, device, Some(*head))?),
        None => consoles.first().cloned(),
    };
    Ok(Seat {
        console: console.unwrap_or_else(Display::dark),
        consoles,
        input: Arc::clone(machine.input()),
        keys: Arc::clone(machine.key_queue()),
        is_bound: wanted.is_some(),
    })
}

/// The credentials of a server, by the object's id.
fn credentials(storage: &Storage, id: &str) -> Result<Arc<TlsServerCredentials>, String> {
    let graph = storage.graph();
    graph.object::<TlsServerCredentials>(id).ok_or_else(|| {
        if graph.object::<TlsCredentials>(id).is_some() {
            "Expected TLS credentials for a server endpoint".to_owned()
        } else if storage.has_object(id) {
            format!("Object with id '{id}' is not TLS credentials")
        } else {
            format!("No TLS credentials with id '{id}'")
        }
    })
}

impl Vnc {
    /// Starts all servers.
    ///
    /// # Errors
    /// The first option that can't be had.
    pub fn start(
        (configs, has_web): (&[VncConfig], bool),
        (keyboard, guest): (Option<&str>, Option<&str>),
        (screens, storage): (Screens<'_>, &Storage),
        (events, snapshot, inbox): (&EventSink, &Arc<Snapshot>, &Arc<Inbox<Control>>),
    ) -> Result<Self, ViewerError> {
        if configs.is_empty() && !has_web {
            return Ok(Self::default());
        }
        let program = Program { events: events.clone(), snapshot: Arc::clone(snapshot), inbox: Arc::clone(inbox) };
        let service = Service::start(Arc::new(program));
        let service = service.map_err(|error| ViewerError {
            option: "-vnc".to_owned(),
            message: format!("the host refuses a thread: {error}"),
        })?;
        let title = guest.map_or_else(|| "QEMU".to_owned(), |name| format!("QEMU ({name})"));
        let mut vnc = Self { entries: Vec::new(), hidden: None, service: None };
        for config in configs {
            let failed = |message: String| ViewerError { option: config.source.clone(), message };
            let id = vnc.free_id(config.id.as_deref()).map_err(failed)?;
            let entry = Entry::start(config, &service, (id, title.clone(), keyboard), screens, storage);
            vnc.entries.push(entry.map_err(failed)?);
        }
        if has_web {
            let failed = |message: String| ViewerError { option: "-web".to_owned(), message };
            let config = VncConfig::parse("none,share=ignore", "-web").map_err(failed)?;
            let entry = Entry::start(&config, &service, ("web".to_owned(), title, keyboard), screens, storage);
            vnc.hidden = Some(entry.map_err(failed)?);
        }
        vnc.service = Some(service);
        Ok(vnc)
    }

    fn free_id(&self, wanted: Option<&str>) -> Result<String, String> {
        let is_free = |id: &str| self.entries.iter().all(|entry| entry.display.options().id != id);
        if let Some(id) = wanted {
            let is_fine = is_free(id);
            return if is_fine { Ok(id.to_owned()) } else { Err(format!("Duplicate ID '{id}' for vnc")) };
        }
        if is_free("default") {
            return Ok("default".to_owned());
        }
        Ok((2..).map(|number| format!("vnc{number}")).find(|id| is_free(id)).unwrap_or_default())
    }

    /// There is another machine, or other terminals.
    pub fn attach(&self, screens: Screens<'_>) {
        for entry in self.entries.iter().chain(&self.hidden) {
            match seat(screens, entry.wanted.as_ref()) {
                Ok(seat) => entry.display.set_seat(seat),
                Err(error) => eprintln!("-vnc: {error}"),
            }
        }
    }

    /// The web console's screen.
    pub fn hidden(&self) -> Option<&Arc<Display>> {
        self.hidden.as_ref().map(|entry| &entry.display)
    }

    /// The server of that name; the first without one.
    pub fn find(&self, id: Option<&str>) -> Option<&Arc<Display>> {
        let is_it = |entry: &&Entry| id.is_none_or(|id| entry.display.options().id == id);
        self.entries.iter().find(is_it).map(|entry| &entry.display)
    }

    /// `query-vnc`.
    pub fn info(&self) -> VncInfo {
        let Some(display) = self.find(None) else { return VncInfo::default() };
        let Some(server) = display.servers().into_iter().find(|server| !server.is_websocket) else {
            return VncInfo::default();
        };
        let base = basic(&server.address, false);
        VncInfo {
            enabled: true,
            host: Some(base.host),
            family: Some(base.family),
            service: Some(base.service),
            auth: Some(auth_name(server.auth).to_owned()),
            clients: Some(clients(display)),
        }
    }

    /// `query-vnc-servers`: the latest first, as QEMU has it.
    pub fn servers(&self) -> Vec<VncInfo2> {
        let describe = |entry: &Entry| {
            let display = &entry.display;
            let server = |server: ServerInfo| {
                let (auth, vencrypt) = auth_pair(server.auth);
                VncServerInfo2 { base: basic(&server.address, server.is_websocket), auth, vencrypt }
            };
            let (auth, vencrypt) = auth_pair(display.auth(false));
            VncInfo2 {
                id: display.options().id.clone(),
                server: display.servers().into_iter().rev().map(server).collect(),
                clients: clients(display),
                auth,
                vencrypt,
                display: entry.wanted.as_ref().map(|(device, _)| device.clone()),
            }
        };
        self.entries.iter().rev().map(describe).collect()
    }

    /// Sets a server's password.
    ///
    /// # Errors
    /// There is no such server, or it asks for none.
    pub fn set_password(&self, id: Option<&str>, password: &str) -> Result<(), Error> {
        let is_set = self.find(id).is_some_and(|display| display.set_password(password));
        if is_set { Ok(()) } else { Err(Error::generic("Could not set password")) }
    }

    /// Says how long a server's password is valid.
    ///
    /// # Errors
    /// There is no such server.
    pub fn expire_password(&self, id: Option<&str>, time: &str) -> Result<(), Error> {
        let display = self.find(id).ok_or_else(|| Error::generic("Could not set password expire time"))?;
        display.expire_password(viewers::expiry(time));
        Ok(())
    }

    /// Listens elsewhere.
    ///
    /// # Errors
    /// There is no server, or the address can't be had.
    pub fn listen(&self, addresses: &[ListenAddress]) -> Result<(), Error> {
        self.first()?.listen_plain(addresses).map_err(|error| Error::generic(error.to_string()))
    }

    /// `change` of the device `vnc` to another address.
    ///
    /// # Errors
    /// There is no server, or the address can't be had.
    pub fn change(&self, target: &str) -> Result<(), Error> {
        let config = VncConfig::parse(target, "vnc").map_err(Error::generic)?;
        let display = self.find(None).ok_or_else(|| Error::generic("VNC display not active"))?;
        if config.reverse {
            return config.addresses.iter().try_for_each(|address| display.connect(address)).map_err(generic);
        }
        display.listen(&config.addresses, &config.websockets).map_err(generic)
    }

    /// Reads the certificates of the first server again.
    ///
    /// # Errors
    /// There is no server, it has none, or they are wrong.
    pub fn reload_certificates(&self, storage: &Storage) -> Result<(), Error> {
        let entry = self.entries.first().ok_or_else(|| Error::generic(NO_DISPLAY))?;
        let id = entry.credentials.as_deref().ok_or_else(|| Error::generic("vnc tls is not enabled"))?;
        let found = credentials(storage, id).map_err(Error::generic)?;
        let fresh = found.reload().map_err(|error| Error::generic(error.to_string()))?;
        entry.display.set_tls(fresh.config());
        storage.graph().set_object(id, Arc::new(fresh));
        Ok(())
    }

    /// The first server.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self) -> Result<&Arc<Display>, Error> {
        self.find(None).ok_or_else(|| Error::generic(NO_DISPLAY))
    }
}

const NO_DISPLAY: &str = "Can not find vnc display";

#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
fn generic(error: ::vnc::Error) -> Error {
    Error::generic(error.to_string())
}

/// The clients: the latest first.
fn clients(display: &Display) -> Vec<VncClientInfo> {
    display.clients().iter().rev().map(describe).collect()
}

impl Entry {
    fn start(
        config: &VncConfig,
        service: &Service,
        (id, title, keyboard): (String, String, Option<&str>),
        screens: Screens<'_>,
        storage: &Storage,
    ) -> Result<Self, String> {
        let tls = match &config.tls_creds {
            Some(id) => Some(credentials(storage, id)?.config()),
            None => None,
        };
        let seat = seat(screens, config.display.as_ref()).map_err(|error| error.desc)?;
        let options = Options {
            id,
            title,
            share: config.share,
            connections: config.connections,
            has_password: config.password,
            sasl: config.sasl.clone(),
            lossy: config.lossy,
            non_adaptive: config.non_adaptive,
            lock_key_sync: config.lock_key_sync,
            key_delay: Duration::from_millis(config.key_delay_ms),
            power_control: config.power_control,
            layout: keyboard.map(str::to_owned),
        };
        let display = Display::new(service, options, tls, seat).map_err(|error| error.to_string())?;
        if let Some(secret) = &config.password_secret {
            display.set_password(&viewers::secret_text(storage, secret)?);
        }
        if config.reverse {
            for address in &config.addresses {
                display.connect(address).map_err(|error| error.to_string())?;
            }
        } else {
            display.listen(&config.addresses, &config.websockets).map_err(|error| error.to_string())?;
        }
        if config.tells_port
            && let Some(ServerInfo { address: Address::Inet(address), .. }) = display.servers().first()
        {
            eprintln!("VNC server running on {}:{}", address.ip(), address.port());
        }
        Ok(Self { display, wanted: config.display.clone(), credentials: config.tls_creds.clone() })
    }
}
