//! Remote displays: VNC, and the commands for displays of any protocol (QEMU's `ui.json`, parts of `misc.json` and `migration.json`).

use crate::sockets::{NetworkAddressFamily, SocketAddress};
use crate::{Command, Event, QapiType};

/// An end of a VNC connection.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VncBasicInfo {
    /// The address.
    pub host: String,
    /// The port, or a Unix socket's path.
    pub service: String,
    /// The kind of address.
    pub family: NetworkAddressFamily,
    /// Whether it is a WebSocket.
    pub websocket: bool,
}

/// A VNC server, in events.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VncServerInfo {
    /// Where it listens.
    #[qapi(flatten)]
    pub base: VncBasicInfo,
    /// How clients prove who they are.
    pub auth: Option<String>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VncClientInfo {
    /// Where it is.
    #[qapi(flatten)]
    pub base: VncBasicInfo,
    /// Whom its certificate names.
    #[qapi(name = "x509_dname")]
    pub x509_dname: Option<String>,
    /// Its name, with SASL.
    #[qapi(name = "sasl_username")]
    pub sasl_username: Option<String>,
}

/// The first VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct VncInfo {
    /// Whether there is one.
    pub enabled: bool,
    /// Its address.
    pub host: Option<String>,
    /// The kind of address.
    pub family: Option<NetworkAddressFamily>,
    /// Its port, or its Unix socket's path.
    pub service: Option<String>,
    /// How clients prove who they are.
    pub auth: Option<String>,
    /// The clients.
    pub clients: Option<Vec<VncClientInfo>>,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum VncPrimaryAuth {
    /// Not at all.
    None,
    /// By a password.
    Vnc,
    /// By RSA.
    Ra2,
    /// By RSA, without encryption behind it.
    Ra2ne,
    /// As TightVNC does.
    Tight,
    /// As UltraVNC does.
    Ultra,
    /// By TLS, the old way.
    Tls,
    /// By TLS and what is inside.
    Vencrypt,
    /// By SASL.
    Sasl,
}

/// What is inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum VncVencryptSubAuth {
    /// Name and password without TLS.
    Plain,
    /// Nothing, without certificates.
    TlsNone,
    /// Nothing.
    #[qapi(name = "x509-none")]
    X509None,
    /// A password, without certificates.
    TlsVnc,
    /// A password.
    #[qapi(name = "x509-vnc")]
    X509Vnc,
    /// Name and password, without certificates.
    TlsPlain,
    /// Name and password.
    #[qapi(name = "x509-plain")]
    X509Plain,
    /// SASL, without certificates.
    TlsSasl,
    /// SASL.
    #[qapi(name = "x509-sasl")]
    X509Sasl,
}

/// A listener of a VNC server.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VncServerInfo2 {
    /// Where it listens.
    #[qapi(flatten)]
    pub base: VncBasicInfo,
    /// How clients prove who they are.
    pub auth: VncPrimaryAuth,
    /// What is inside of TLS.
    pub vencrypt: Option<VncVencryptSubAuth>,
}

/// A VNC server.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VncInfo2 {
    /// Its name.
    pub id: String,
    /// Its listeners.
    pub server: Vec<VncServerInfo2>,
    /// Its clients.
    pub clients: Vec<VncClientInfo>,
    /// How clients prove who they are.
    pub auth: VncPrimaryAuth,
    /// What is inside of TLS.
    pub vencrypt: Option<VncVencryptSubAuth>,
    /// The display device that it shows, if it was told.
    pub display: Option<String>,
}

/// Tells about the first VNC server.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-vnc", returns = VncInfo)]
pub struct QueryVnc {}

/// Lists the VNC servers.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-vnc-servers", returns = Vec<VncInfo2>)]
pub struct QueryVncServers {}

/// Sets the password of the first VNC server.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "change-vnc-password")]
pub struct ChangeVncPassword {
    /// The password; an empty one is one, too.
    pub password: String,
}

/// What becomes of clients when a password is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum SetPasswordAction {
    /// They stay.
    Keep,
    /// If there are any, the password is not set.
    Fail,
    /// They have to leave.
    Disconnect,
}

/// The VNC server that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct SetPasswordOptionsVnc {
    /// Its name; the first if absent.
    pub display: Option<String>,
}

/// The VNC server that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct ExpirePasswordOptionsVnc {
    /// Its name; the first if absent.
    pub display: Option<String>,
}

/// Which server's password is set.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "protocol", tag_type = DisplayProtocol)]
pub enum SetPasswordServer {
    /// A VNC server's.
    Vnc(SetPasswordOptionsVnc),
    /// The SPICE server's.
    Spice,
}

/// Which server's password expires.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "protocol", tag_type = DisplayProtocol)]
pub enum ExpirePasswordServer {
    /// A VNC server's.
    Vnc(ExpirePasswordOptionsVnc),
    /// The SPICE server's.
    Spice,
}

/// Protocols of remote displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum DisplayProtocol {
    /// VNC.
    Vnc,
    /// SPICE.
    Spice,
}

/// Sets the password of a remote display.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "set_password")]
pub struct SetPassword {
    /// Which one's.
    #[qapi(flatten)]
    pub server: SetPasswordServer,
    /// The password.
    pub password: String,
    /// What becomes of clients; they stay if absent. VNC knows nothing else.
    pub connected: Option<SetPasswordAction>,
}

/// Says how long a password is valid.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "expire_password")]
pub struct ExpirePassword {
    /// Which one's.
    #[qapi(flatten)]
    pub server: ExpirePasswordServer,
    /// `now`, `never`, `+` and seconds from now, or seconds since 1970.
    pub time: String,
}

/// Lets a server serve a connection that the client has made.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "add_client")]
pub struct AddClient {
    /// `vnc` or `spice`.
    pub protocol: String,
    /// The name of the connection's descriptor.
    pub fdname: String,
    /// Whether no password is asked for; it is if absent.
    pub skipauth: Option<bool>,
    /// Whether TLS begins at once; of meaning for SPICE alone.
    pub tls: Option<bool>,
}

/// Tells SPICE clients where the guest goes.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "client_migrate_info")]
pub struct ClientMigrateInfo {
    /// `spice`.
    pub protocol: String,
    /// Where.
    pub hostname: String,
    /// The port.
    pub port: Option<i64>,
    /// The port for TLS.
    pub tls_port: Option<i64>,
    /// What the server's certificate has to name.
    pub cert_subject: Option<String>,
}

/// What a VNC server reads again.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct DisplayReloadOptionsVNC {
    /// Its certificates.
    pub tls_certs: Option<bool>,
}

/// What is read again.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type")]
pub enum DisplayReloadOptions {
    /// By VNC.
    Vnc(DisplayReloadOptionsVNC),
}

/// Has a display read files again.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "display-reload")]
pub struct DisplayReload {
    /// What.
    #[qapi(flatten)]
    pub options: DisplayReloadOptions,
}

/// What changes at a VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct DisplayUpdateOptionsVNC {
    /// Where it listens from now on. Clients stay.
    pub addresses: Option<Vec<SocketAddress>>,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type")]
pub enum DisplayUpdateOptions {
    /// At VNC.
    Vnc(DisplayUpdateOptionsVNC),
}

/// Changes a display.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "display-update")]
pub struct DisplayUpdate {
    /// What.
    #[qapi(flatten)]
    pub options: DisplayUpdateOptions,
}

/// Displays on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum DisplayType {
    /// The first that there is.
    Default,
    /// None.
    None,
    /// The text of the screen on the terminal.
    Curses,
}

/// Whether a display draws with OpenGL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum DisplayGLMode {
    /// It does not.
    Off,
    /// It does, with any version.
    On,
    /// By OpenGL's core profile.
    Core,
    /// By OpenGL ES.
    Es,
}

/// What the display on a terminal has.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct DisplayCurses {
    /// The character set of the guest's font; CP437 if absent.
    pub charset: Option<String>,
}

/// What each kind of display has.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", tag_type = DisplayType)]
pub enum DisplayKind {
    /// On the terminal.
    Curses(DisplayCurses),
    /// A kind that adds nothing.
    #[qapi(other)]
    Other(DisplayType),
}

/// How the display on this host looks.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct DisplayOptions {
    /// Whether it has the whole screen.
    pub full_screen: Option<bool>,
    /// Whether closing its window ends the program.
    pub window_close: Option<bool>,
    /// Whether the host's cursor is shown.
    pub show_cursor: Option<bool>,
    /// Whether it draws with OpenGL.
    pub gl: Option<DisplayGLMode>,
    /// The kind of display, and what it has.
    #[qapi(flatten)]
    pub kind: DisplayKind,
}

impl Default for DisplayOptions {
    /// No display.
    fn default() -> Self {
        let kind = DisplayKind::Other(DisplayType::None);
        Self { full_screen: None, window_close: None, show_cursor: None, gl: None, kind }
    }
}

/// Tells how the display on this host looks.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-display-options", returns = DisplayOptions)]
pub struct QueryDisplayOptions {}

/// A VNC client has connected.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "VNC_CONNECTED")]
pub struct VncConnected {
    /// The server.
    pub server: VncServerInfo,
    /// The client.
    pub client: VncBasicInfo,
}

/// A VNC client may look.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "VNC_INITIALIZED")]
pub struct VncInitialized {
    /// The server.
    pub server: VncServerInfo,
    /// The client.
    pub client: VncClientInfo,
}

/// A VNC client has gone.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "VNC_DISCONNECTED")]
pub struct VncDisconnected {
    /// The server.
    pub server: VncServerInfo,
    /// The client.
    pub client: VncClientInfo,
}
