//! The SPICE server of a program: from the option to the server, and what commands do with it.

mod options;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::spice::{
    Address, ClientInfo, Connected, Destination, Entry, Event, Host, MouseMode, Options, Seat, Server, Service,
};
use block_net::TlsServerCredentials;
use machine::Machine;
use qapi::spice::{
    SpiceBasicInfo, SpiceChannel, SpiceConnected, SpiceDisconnected, SpiceInfo, SpiceInitialized, SpiceQueryMouseMode,
    SpiceServerInfo,
};
use qapi::vnc::{AddClient, ClientMigrateInfo, SetPasswordAction};
use qapi::{Error, ErrorClass};
use qmp::EventSink;

pub use self::options::SpiceConfig;
use crate::run_state::can_hear;
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::viewers::{self, ViewerError};

/// The program as the server sees it.
struct Program {
    events: EventSink,
    snapshot: Arc<Snapshot>,
    auth: &'static str,
}

impl Host for Program {
    fn can_hear(&self) -> bool {
        can_hear(self.snapshot.status().status)
    }

    fn event(&self, event: Event, client: &ClientInfo) {
        let server = basic(&client.ends.near);
        match (event, channel(client)) {
            (Event::Connected, _) => self.events.emit(SpiceConnected { server, client: basic(&client.ends.far) }),
            (Event::Initialized, Some(client)) => {
                let server = SpiceServerInfo { base: server, auth: Some(self.auth.to_owned()) };
                self.events.emit(SpiceInitialized { server, client });
            }
            (Event::Initialized, None) => {}
            (Event::Disconnected, _) => self.events.emit(SpiceDisconnected { server, client: basic(&client.ends.far) }),
        }
    }
}

fn basic(address: &Address) -> SpiceBasicInfo {
    let (host, port, family) = viewers::parts(address);
    SpiceBasicInfo { host, port, family }
}

fn channel(client: &ClientInfo) -> Option<SpiceChannel> {
    let channel = client.channel?;
    Some(SpiceChannel {
        base: basic(&client.ends.far),
        connection_id: channel.session.into(),
        channel_type: channel.kind as i64,
        channel_id: channel.id.into(),
        tls: client.is_tls,
    })
}

/// The server, and what it was told.
struct Running {
    config: SpiceConfig,
    service: Service,
}

/// The SPICE server, if there is one.
#[derive(Default)]
pub struct Spice(Option<Running>);

/// What the server shows of a machine.
fn seat(machine: &Machine, wanted: Option<&(String, i64)>) -> Result<Seat, Error> {
    let consoles = match wanted {
        Some((device, head)) => vec![
            crate::handlers::console(machine, device, Some(*head))
                .map_err(|error| Error::generic(format!("Failed to lookup display/head: {}", error.desc)))?,
        ],
        None => machine.consoles().to_vec(),
    };
    Ok(Seat {
        consoles,
        input: Arc::clone(machine.input()),
        keys: Arc::clone(machine.key_queue()),
        is_bound: wanted.is_some(),
    })
}

const fn auth(config: &SpiceConfig) -> &'static str {
    if config.has_tickets { "spice" } else { "none" }
}

impl Spice {
    /// Starts the server, if there shall be one.
    ///
    /// # Errors
    /// What the option asks for can't be had.
    pub fn start(
        config: Option<&SpiceConfig>,
        guest: (Option<&str>, [u8; 16]),
        (machine, storage): (&Machine, &Storage),
        (events, snapshot): (&EventSink, &Arc<Snapshot>),
    ) -> Result<Self, ViewerError> {
        let Some(config) = config else { return Ok(Self::default()) };
        let program = Program { events: events.clone(), snapshot: Arc::clone(snapshot), auth: auth(config) };
        let service = run(config, guest, Arc::new(program), (machine, storage));
        let service = service.map_err(|message| ViewerError { option: config.source.clone(), message })?;
        Ok(Self(Some(Running { config: config.clone(), service })))
    }

    /// There is another machine.
    pub fn attach(&self, machine: &Machine) {
        let Some(running) = &self.0 else { return };
        match seat(machine, running.config.display.as_ref()) {
            Ok(seat) => running.service.server().set_seat(seat),
            Err(error) => eprintln!("-spice: {error}"),
        }
    }

    fn server(&self) -> Result<&Arc<Server>, Error> {
        let running = self.0.as_ref();
        let missing = || Error::new(ErrorClass::DeviceNotActive, "SPICE is not in use");
        running.map(|running| running.service.server()).ok_or_else(missing)
    }

    /// `query-spice`.
    pub fn info(&self) -> SpiceInfo {
        let nothing = SpiceInfo {
            enabled: false,
            migrated: false,
            host: None,
            port: None,
            tls_port: None,
            auth: None,
            compiled_version: None,
            // As QEMU says it without a server.
            mouse_mode: SpiceQueryMouseMode::Client,
            channels: None,
        };
        let Some(Running { config, service }) = &self.0 else { return nothing };
        let server = service.server();
        SpiceInfo {
            enabled: true,
            host: Some(config.addr.clone().unwrap_or_else(|| "*".to_owned())),
            port: config.port.map(i64::from),
            tls_port: config.tls_port.map(i64::from),
            auth: Some(auth(config).to_owned()),
            compiled_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            mouse_mode: match server.mouse_mode() {
                MouseMode::Server => SpiceQueryMouseMode::Server,
                MouseMode::Client => SpiceQueryMouseMode::Client,
            },
            channels: Some(server.clients().iter().filter_map(channel).collect()),
            ..nothing
        }
    }

    /// Sets the password.
    ///
    /// # Errors
    /// There is no server, it asks for none, or clients are in the way.
    pub fn set_password(&self, password: &str, connected: Option<SetPasswordAction>) -> Result<(), Error> {
        let connected = match connected {
            None | Some(SetPasswordAction::Keep) => Connected::Keep,
            Some(SetPasswordAction::Fail) => Connected::Fail,
            Some(SetPasswordAction::Disconnect) => Connected::Disconnect,
        };
        let is_set = self.server()?.set_password(password, connected);
        if is_set { Ok(()) } else { Err(Error::generic("Could not set password")) }
    }

    /// Says how long the password is valid.
    ///
    /// # Errors
    /// There is no server, or it asks for none.
    pub fn expire_password(&self, time: &str) -> Result<(), Error> {
        let is_set = self.server()?.expire_password(viewers::expiry(time));
        if is_set { Ok(()) } else { Err(Error::generic("Could not set password expire time")) }
    }

    /// Serves a client's connection.
    ///
    /// # Errors
    /// There is no server, or the connection is none.
    pub fn add_client(&self, socket: OwnedFd, wanted: &AddClient) -> Result<(), Error> {
        let entry = Entry { is_tls: wanted.tls.unwrap_or(false), is_known: wanted.skipauth.unwrap_or(false) };
        let added = self.server()?.add_client(socket, entry);
        added.map_err(|error| Error::generic(format!("spice failed to add client: {error}")))
    }

    /// Tells clients where the guest goes.
    ///
    /// # Errors
    /// There is no server, or it lacks a port.
    pub fn set_destination(&self, wanted: &ClientMigrateInfo) -> Result<(), Error> {
        let server = self.server()?;
        if wanted.port.is_none() && wanted.tls_port.is_none() {
            return Err(Error::missing_parameter("port/tls-port"));
        }
        let port = |name: &str, number: Option<i64>| {
            u16::try_from(number.unwrap_or(0)).map_err(|_| Error::expects(name, "a port"))
        };
        server.set_destination(Destination {
            host: wanted.hostname.clone(),
            port: port("port", wanted.port)?,
            tls_port: port("tls-port", wanted.tls_port)?,
            subject: wanted.cert_subject.clone(),
        });
        Ok(())
    }
}

fn run(
    config: &SpiceConfig,
    (name, uuid): (Option<&str>, [u8; 16]),
    program: Arc<Program>,
    (machine, storage): (&Machine, &Storage),
) -> Result<Service, String> {
    let tls = match config.tls_port {
        Some(_) => {
            let [ca, certificate, key] = &config.x509;
            let made = TlsServerCredentials::config_of(ca, (certificate, key), false);
            Some(made.map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let options = Options {
        name: name.map_or_else(|| format!("QEMU {}", crate::version::EMULATED), str::to_owned),
        uuid,
        has_tickets: config.has_tickets,
        compression: config.compression,
        security: config.security.clone(),
    };
    let seat = seat(machine, config.display.as_ref()).map_err(|error| error.desc)?;
    let service = Service::start(program, options, tls, seat);
    let service = service.map_err(|error| format!("the host refuses a thread: {error}"))?;
    let server = service.server();
    if let Some(password) = &config.password {
        eprintln!("warning: 'password' option is deprecated and insecure, use 'password-secret' instead");
        set_first_password(server, password)?;
    }
    if let Some(secret) = &config.password_secret {
        set_first_password(server, &viewers::secret_text(storage, secret)?)?;
    }
    for (address, is_tls) in config.addresses().iter().zip([false, true]) {
        if let Some(address) = address {
            let entry = Entry { is_tls, is_known: false };
            server.listen(address, entry).map_err(|error| error.to_string())?;
        }
    }
    Ok(service)
}

/// A password that nobody will be asked for may be anything.
fn set_first_password(server: &Server, password: &str) -> Result<(), String> {
    let is_set = server.set_password(password, Connected::Keep);
    if is_set || !server.options().has_tickets { Ok(()) } else { Err("the password is too long".to_owned()) }
}
