//! The SPICE server (QEMU's `ui.json`). Its passwords and clients are set by the commands of module `vnc`.

use crate::sockets::NetworkAddressFamily;
use crate::{Command, Event, QapiType};

/// An end of a SPICE connection.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct SpiceBasicInfo {
    /// The address.
    pub host: String,
    /// The port, or a Unix socket's path.
    pub port: String,
    /// The kind of address.
    pub family: NetworkAddressFamily,
}

/// The server's end, in events.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct SpiceServerInfo {
    /// Where it is.
    #[qapi(flatten)]
    pub base: SpiceBasicInfo,
    /// How clients prove who they are: `none` or `spice`.
    pub auth: Option<String>,
}

/// A client's channel.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct SpiceChannel {
    /// Where the client is.
    #[qapi(flatten)]
    pub base: SpiceBasicInfo,
    /// The session.
    pub connection_id: i64,
    /// 1 main, 2 display, 3 inputs, 4 cursor.
    pub channel_type: i64,
    /// Which one of its kind.
    pub channel_id: i64,
    /// Whether it is inside of TLS.
    pub tls: bool,
}

/// Who moves the guest's pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum SpiceQueryMouseMode {
    /// The client, by positions.
    Client,
    /// The guest, by movements.
    Server,
    /// Nobody knows.
    Unknown,
}

/// The SPICE server.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct SpiceInfo {
    /// Whether there is one.
    pub enabled: bool,
    /// Whether the guest has gone elsewhere and its clients know it.
    pub migrated: bool,
    /// Where it listens.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<i64>,
    /// Its port for TLS.
    pub tls_port: Option<i64>,
    /// How clients prove who they are: `none` or `spice`.
    pub auth: Option<String>,
    /// The server's version.
    pub compiled_version: Option<String>,
    /// Who moves the pointer.
    pub mouse_mode: SpiceQueryMouseMode,
    /// The channels of clients.
    pub channels: Option<Vec<SpiceChannel>>,
}

/// Tells about the SPICE server.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-spice", returns = SpiceInfo)]
pub struct QuerySpice {}

/// A SPICE client has connected.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SPICE_CONNECTED")]
pub struct SpiceConnected {
    /// The server.
    pub server: SpiceBasicInfo,
    /// The client.
    pub client: SpiceBasicInfo,
}

/// A SPICE client's connection has become a channel.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SPICE_INITIALIZED")]
pub struct SpiceInitialized {
    /// The server.
    pub server: SpiceServerInfo,
    /// The channel.
    pub client: SpiceChannel,
}

/// A SPICE client's connection has gone.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SPICE_DISCONNECTED")]
pub struct SpiceDisconnected {
    /// The server.
    pub server: SpiceBasicInfo,
    /// The client.
    pub client: SpiceBasicInfo,
}
