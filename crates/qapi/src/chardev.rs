//! Character devices (QEMU's `char.json`). Left out: back ends that no program here has.

use crate::sockets::{FdSocketAddress, InetSocketAddress, UnixSocketAddress};
use crate::{Command, QapiType};

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevInfo {
    /// Its id.
    pub label: String,
    /// What is behind it.
    pub filename: String,
    /// Whether a front end uses it.
    pub frontend_open: bool,
}

/// Lists the character devices.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-chardev", returns = Vec<ChardevInfo>, preconfig)]
pub struct QueryChardev;

/// A kind of back end.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevBackendInfo {
    /// Its name.
    pub name: String,
}

/// Lists the kinds of back ends.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-chardev-backends", returns = Vec<ChardevBackendInfo>)]
pub struct QueryChardevBackends;

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum DataFormat {
    /// As UTF-8.
    Utf8,
    /// In base64.
    Base64,
}

/// Writes into a ring buffer.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "ringbuf-write")]
pub struct RingbufWrite {
    /// The ring buffer.
    pub device: String,
    /// What to write.
    pub data: String,
    /// How it is written; UTF-8 if absent.
    pub format: Option<DataFormat>,
}

/// Reads from a ring buffer.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "ringbuf-read", returns = String)]
pub struct RingbufRead {
    /// The ring buffer.
    pub device: String,
    /// How many bytes at most.
    pub size: i64,
    /// How to write them; UTF-8 if absent.
    pub format: Option<DataFormat>,
}

/// What each back end has.
#[derive(Debug, Clone, Default, PartialEq, Eq, QapiType)]
pub struct ChardevCommon {
    /// A file that gets a copy of the output.
    pub logfile: Option<String>,
    /// Whether that file is continued; it is started anew if absent.
    pub logappend: Option<bool>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevFile {
    /// The file that input comes from.
    pub r#in: Option<String>,
    /// The file for output.
    pub out: String,
    /// Whether it is continued; it is started anew if absent.
    pub append: Option<bool>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// A device file of the host.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevHostdev {
    /// Its path.
    pub device: String,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// An address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum SocketAddressLegacy {
    /// TCP or UDP.
    Inet(InetSocketAddress),
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// A descriptor.
    Fd(FdSocketAddress),
}

/// A stream socket.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevSocket {
    /// Where it listens or connects to.
    pub addr: SocketAddressLegacy,
    /// The object with the credentials for TLS.
    pub tls_creds: Option<String>,
    /// The object that knows who may come.
    pub tls_authz: Option<String>,
    /// Whether it listens; it does if absent.
    pub server: Option<bool>,
    /// Whether a server's first client is waited for; not if absent.
    pub wait: Option<bool>,
    /// Whether small writes are sent at once; not if absent.
    pub nodelay: Option<bool>,
    /// Whether telnet is spoken.
    pub telnet: Option<bool>,
    /// Whether TN3270 is spoken.
    pub tn3270: Option<bool>,
    /// Whether web sockets are spoken.
    pub websocket: Option<bool>,
    /// After how many seconds a client comes back; never if 0 or absent.
    pub reconnect: Option<i64>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// A socket for datagrams.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevUdp {
    /// Where to.
    pub remote: SocketAddressLegacy,
    /// Where from; any port if absent.
    pub local: Option<SocketAddressLegacy>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// A device that several front ends share.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevMux {
    /// The device.
    pub chardev: String,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// A device over several others.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevHub {
    /// The other devices, at most four.
    pub chardevs: Vec<String>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// Standard input and output.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevStdio {
    /// Whether Ctrl-c and its like send signals; they do if absent.
    pub signal: Option<bool>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// A ring buffer.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ChardevRingbuf {
    /// How many bytes, a power of two; 64 KiB if absent.
    pub size: Option<i64>,
    /// What each back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
}

/// The size of a terminal on a screen: dots, or characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, QapiType)]
#[qapi(name = "ChardevVC")]
pub struct ChardevVc {
    /// What every back end has.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// Dots.
    pub width: Option<i64>,
    /// Dots.
    pub height: Option<i64>,
    /// Characters.
    pub cols: Option<i64>,
    /// Characters.
    pub rows: Option<i64>,
}

/// A back end and its options.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum ChardevBackend {
    /// A file.
    File(ChardevFile),
    /// A serial port of the host.
    Serial(ChardevHostdev),
    /// Named pipes.
    Pipe(ChardevHostdev),
    /// A stream socket.
    Socket(ChardevSocket),
    /// Datagrams.
    Udp(ChardevUdp),
    /// A new pseudo-terminal.
    Pty(ChardevCommon),
    /// Nothing.
    Null(ChardevCommon),
    /// A device that several front ends share.
    Mux(ChardevMux),
    /// A device over several others.
    Hub(ChardevHub),
    /// A serial mouse.
    Msmouse(ChardevCommon),
    /// A serial tablet.
    Wctablet(ChardevCommon),
    /// A terminal on a screen of its own.
    Vc(ChardevVc),
    /// Standard input and output.
    Stdio(ChardevStdio),
    /// Memory.
    Ringbuf(ChardevRingbuf),
    /// The old name of `ringbuf`.
    Memory(ChardevRingbuf),
}

/// What a new character device has got.
#[derive(Debug, Clone, Default, PartialEq, Eq, QapiType)]
pub struct ChardevReturn {
    /// The path of the new pseudo-terminal.
    pub pty: Option<String>,
}

/// Adds a character device.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "chardev-add", returns = ChardevReturn)]
pub struct ChardevAdd {
    /// Its id.
    pub id: String,
    /// What is behind it.
    pub backend: ChardevBackend,
}

/// Gives a character device another back end; its front end keeps it.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "chardev-change", returns = ChardevReturn)]
pub struct ChardevChange {
    /// Its id.
    pub id: String,
    /// What is to be behind it.
    pub backend: ChardevBackend,
}

/// Removes a character device that nothing uses.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "chardev-remove")]
pub struct ChardevRemove {
    /// Its id.
    pub id: String,
}

/// Lets the front end of a character device see a break.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "chardev-send-break")]
pub struct ChardevSendBreak {
    /// Its id.
    pub id: String,
}
