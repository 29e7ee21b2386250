//! What a character device shall be: the options of `-chardev`, checked.

use crate::session::Protocol;
use crate::{Error, SocketAddress};
use qapi::json::{Map, Value};

/// A character device to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevSpec {
    /// Its name.
    pub id: String,
    /// What is behind it.
    pub backend: Backend,
    /// What every back end has.
    pub common: Common,
}

/// Options that every back end has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// Whether several front ends may share it; Ctrl-a c then switches between them.
    pub mux: bool,
    /// A file that gets a copy of the output.
    pub log_file: Option<String>,
    /// Whether that file is continued rather than started anew.
    pub log_append: bool,
}

/// What is behind a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Output vanishes, input never comes.
    Null,
    /// A unix or TCP socket.
    Socket(SocketOptions),
    /// Standard input and output.
    Stdio {
        /// Whether Ctrl-c and its like send signals to us instead of being input.
        signal: bool,
    },
    /// Output goes to a file.
    File {
        /// The file for output.
        path: String,
        /// The file that input comes from.
        input_path: Option<String>,
        /// Whether the file is continued rather than started anew.
        append: bool,
    },
    /// A named pipe at the path, or two with `.in` and `.out` appended.
    Pipe {
        /// The path.
        path: String,
    },
    /// A new pseudo-terminal.
    Pty,
    /// Datagrams.
    Udp(UdpOptions),
    /// A serial port of the host.
    Serial {
        /// Its device file.
        path: String,
    },
    /// A parallel port of the host.
    Parallel {
        /// Its device file.
        path: String,
    },
    /// A serial mouse of Microsoft's kind, moved by the display's pointer.
    Msmouse,
    /// A serial tablet of Wacom's, moved by the display's pointer.
    Wctablet,
    /// A terminal on a screen of its own.
    Vc(VcSize),
    /// Another character device, which several front ends then share.
    Mux {
        /// The other device.
        chardev: String,
    },
    /// Several other character devices: output goes to all of them, input comes from any.
    Hub {
        /// The other devices, at most four.
        chardevs: Vec<String>,
    },
    /// The latest output is kept in memory.
    Ringbuf {
        /// How many bytes; a power of two.
        size: usize,
    },
}

/// How large a terminal on a screen is. What is not said follows from the screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcSize {
    /// Dots.
    pub width: Option<u32>,
    /// Dots.
    pub height: Option<u32>,
    /// Characters.
    pub columns: Option<u32>,
    /// Characters.
    pub rows: Option<u32>,
}

/// The largest side of such a terminal, in characters and in dots.
const VC_MOST: (u64, u64) = (1000, 8000);

impl VcSize {
    /// Checks what was given: width, height, columns and rows.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn new(
        width: Option<u64>,
        height: Option<u64>,
        columns: Option<u64>,
        rows: Option<u64>,
    ) -> Result<Self, Error> {
        let checked = |name: &str, number: Option<u64>, most: u64| match number {
            Some(number) if number > most => Err(Error::options(format!("Parameter '{name}' expects at most {most}"))),
            number => Ok(number.and_then(|number| u32::try_from(number).ok())),
        };
        Ok(Self {
            width: checked("width", width, VC_MOST.1)?,
            height: checked("height", height, VC_MOST.1)?,
            columns: checked("cols", columns, VC_MOST.0)?,
            rows: checked("rows", rows, VC_MOST.0)?,
        })
    }
}

/// The options of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Where.
    pub address: SocketAddress,
    /// Whether it listens rather than connects.
    pub server: bool,
    /// Whether start-up waits for a server's first client.
    pub wait: bool,
    /// After how many seconds a lost connection is tried again; 0 is never.
    pub reconnect: u64,
    /// Whether small writes are sent at once.
    pub nodelay: bool,
    /// What is spoken.
    pub protocol: Protocol,
    /// The object with the credentials, if TLS is spoken.
    pub tls_creds: Option<String>,
}

/// The options of a socket for datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpOptions {
    /// Where to.
    pub remote: SocketAddress,
    /// Where from; any port if absent.
    pub local: Option<SocketAddress>,
}

/// Parses the argument of `-chardev`: `socket,id=c,path=/x,server=on,wait=off`.
///
/// # Errors
/// What is wrong, naming the option.
pub fn parse_option(text: &str) -> Result<ChardevSpec, Error> {
    ChardevSpec::from_options(parse_list(text, Some("backend"))?)
}

/// Splits `a,key=value,flag,noflag`. A comma inside a value is doubled. The first item may be the
/// value of `implied`.
pub(crate) fn parse_list(text: &str, implied: Option<&str>) -> Result<Map, Error> {
    let mut map = Map::new();
    for (at, item) in split_commas(text).into_iter().enumerate() {
        match (item.split_once('='), implied) {
            (Some((key, value)), _) => _ = map.insert(key, value),
            (None, Some(key)) if at == 0 => _ = map.insert(key, item),
            (None, _) if item.is_empty() => {}
            // The old spellings: `server` is on, `nowait` is wait=off. `nodelay` is a name in itself.
            (None, _) => match item.strip_prefix("no") {
                Some(rest) if item != "nodelay" => _ = map.insert(rest, "off"),
                _ => _ = map.insert(item, "on"),
            },
        }
    }
    Ok(map)
}

fn split_commas(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(character);
        }
    }
    items
}

/// Options on their way into a specification: what is left at the end was unknown.
pub(crate) struct Options(Map);

impl Options {
    pub(crate) fn new(map: Map) -> Self {
        Self(map)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Int(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(Error::options(format!("Invalid parameter type for '{name}', expected: string"))),
        }
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let wrong = || Error::options(format!("Parameter '{name}' expects 'on' or 'off'"));
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(text)) => qapi::keyval::parse_bool(&text).map(Some).ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let wrong = || Error::options(format!("Parameter '{name}' expects a number"));
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong()),
            Some(value) => value.as_u64().map(Some).ok_or_else(wrong),
        }
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>, Error> {
        match self.0.get(name) {
            Some(Value::String(text)) => {
                let size = qapi::keyval::parse_size(text, 1);
                self.0.remove(name);
                let wrong = |_| Error::options(format!("Parameter '{name}' expects a non-negative size"));
                size.map(Some).map_err(wrong)
            }
            _ => self.number(name),
        }
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.0.keys().next() {
            Some(name) => Err(Error::options(format!("Invalid parameter '{name}'"))),
            None => Ok(()),
        }
    }
}

impl ChardevSpec {
    /// Reads the options of `-chardev` after they were split; the kind is the member `backend`.
    ///
    /// # Errors
    /// What is wrong, naming the option.
    pub fn from_options(map: Map) -> Result<Self, Error> {
        let mut options = Options::new(map);
        let id = options.text("id")?;
        let backend = options.text("backend")?;
        let Some(id) = id else {
            return Err(Error::options("chardev: no id specified"));
        };
        let Some(kind) = backend else {
            return Err(Error::options(format!("chardev: \"{id}\" missing backend")));
        };
        check_id(&id)?;
        let common = Common {
            mux: options.flag("mux")?.unwrap_or(false),
            log_file: options.text("logfile")?,
            log_append: options.flag("logappend")?.unwrap_or(false),
        };
        let kind = ALIASES.iter().find(|(alias, _)| *alias == kind).map_or(kind.as_str(), |(_, name)| name);
        let backend = match KINDS.iter().find(|(name, _)| *name == kind) {
            Some((_, take)) => take(&mut options)?,
            // Why not is told when it is to be opened.
            None if kind == PARALLEL => Backend::Parallel { path: device_of(&mut options, "parallel")? },
            None if UNSUPPORTED.contains(&kind) => return Err(unsupported(kind)),
            None => return Err(Error::options(format!("'{kind}' is not a valid char driver name"))),
        };
        options.finish()?;
        Ok(Self { id, backend, common })
    }
}

/// Checks the name of a device.
///
/// # Errors
/// It is none.
pub fn check_id(id: &str) -> Result<(), Error> {
    if is_well_formed(id) { Ok(()) } else { Err(Error::options("Parameter 'id' expects an identifier")) }
}

/// Identifiers start with a letter and go on with letters, digits, `-`, `.` and `_`.
fn is_well_formed(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|other| other.is_ascii_alphanumeric() || "-._".contains(other))
}

/// Reads the options of one kind of back end.
type Take = fn(&mut Options) -> Result<Backend, Error>;

/// The kinds of back ends that there are.
const KINDS: &[(&str, Take)] = &[
    ("file", |options| {
        Ok(Backend::File {
            path: path_of(options, "file")?,
            input_path: options.text("input-path")?,
            append: options.flag("append")?.unwrap_or(false),
        })
    }),
    ("hub", |options| {
        let mut chardevs = Vec::new();
        while chardevs.len() < crate::hub::MAX
            && let Some(name) = options.text(&format!("chardevs.{}", chardevs.len()))?
        {
            chardevs.push(name);
        }
        Ok(Backend::Hub { chardevs })
    }),
    ("memory", ring),
    ("msmouse", |_| Ok(Backend::Msmouse)),
    ("mux", |options| {
        let base = options.text("chardev")?;
        Ok(Backend::Mux { chardev: base.ok_or_else(|| Error::options("chardev: mux: no chardev given"))? })
    }),
    ("null", |_| Ok(Backend::Null)),
    ("pipe", |options| Ok(Backend::Pipe { path: device_of(options, "pipe")? })),
    ("pty", |_| Ok(Backend::Pty)),
    ("ringbuf", ring),
    ("serial", |options| Ok(Backend::Serial { path: device_of(options, "serial/tty")? })),
    ("socket", |options| Ok(Backend::Socket(SocketOptions::take(options)?))),
    ("stdio", |options| Ok(Backend::Stdio { signal: options.flag("signal")?.unwrap_or(true) })),
    ("udp", |options| Ok(Backend::Udp(UdpOptions::take(options)?))),
    ("vc", |options| {
        let [width, height] = [options.number("width")?, options.number("height")?];
        Ok(Backend::Vc(VcSize::new(width, height, options.number("cols")?, options.number("rows")?)?))
    }),
    ("wctablet", |_| Ok(Backend::Wctablet)),
];

fn ring(options: &mut Options) -> Result<Backend, Error> {
    Ok(Backend::Ringbuf { size: ringbuf_size(options.size("size")?)? })
}

/// The names of the kinds of back ends that can be made.
pub fn backends() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

const PARALLEL: &str = "parallel";

/// Old names of kinds, and what they are called now.
const ALIASES: &[(&str, &str)] = &[("parport", PARALLEL), ("tty", "serial")];

/// What to tell somebody who uses an old name in the argument of `-chardev`.
#[must_use]
pub fn alias_warning(text: &str) -> Option<String> {
    let options = parse_list(text, Some("backend")).ok()?;
    let used = options.get("backend").and_then(Value::as_str)?;
    let (alias, name) = ALIASES.iter().find(|(alias, _)| *alias == used)?;
    Some(format!("The alias '{alias}' is deprecated, use '{name}' instead"))
}

/// Back ends that QEMU has, too.
pub(crate) const UNSUPPORTED: &[&str] =
    &["console", "spicevmc", "spiceport", "braille", "testdev", "dbus", "qemu-vdagent"];

pub(crate) fn unsupported(kind: &str) -> Error {
    Error::options(format!("chardev: back end '{kind}' is not supported"))
}

fn device_of(options: &mut Options, kind: &str) -> Result<String, Error> {
    let path = options.text("path")?;
    path.ok_or_else(|| Error::options(format!("chardev: {kind}: no device path given")))
}

fn path_of(options: &mut Options, kind: &str) -> Result<String, Error> {
    let path = options.text("path")?;
    path.ok_or_else(|| Error::options(format!("chardev: {kind}: no filename given")))
}

/// The largest ring buffer that we make.
const RINGBUF_LIMIT: u64 = 1 << 30;

/// The size of a ring buffer: 64 KiB unless told otherwise.
///
/// # Errors
/// It is no power of two, or too large.
pub fn ringbuf_size(size: Option<u64>) -> Result<usize, Error> {
    let size = size.unwrap_or(65536);
    if !size.is_power_of_two() {
        return Err(Error::options("size of ringbuf chardev must be power of two"));
    }
    if size > RINGBUF_LIMIT {
        return Err(Error::options(format!("Parameter 'size' expects at most {RINGBUF_LIMIT} bytes")));
    }
    usize::try_from(size).map_err(|_| Error::options("Parameter 'size' is too large"))
}

impl SocketOptions {
    pub(crate) fn take(options: &mut Options) -> Result<Self, Error> {
        if options.flag("tn3270")?.unwrap_or(false) {
            return Err(Error::options("chardev: socket: the TN3270 protocol ('tn3270') is not supported"));
        }
        let telnet = options.flag("telnet")?.unwrap_or(false);
        let websocket = options.flag("websocket")?.unwrap_or(false);
        let protocol = match (telnet, websocket) {
            (false, false) => Protocol::Raw,
            (true, false) => Protocol::Telnet,
            (false, true) => Protocol::Websocket,
            (true, true) => return Err(Error::options("'telnet' and 'websocket' are mutually exclusive")),
        };
        let tls_creds = options.text("tls-creds")?;
        let tls_authz = options.text("tls-authz")?;
        let address = address(options)?;
        let server = options.flag("server")?.unwrap_or(false);
        let wait = options.flag("wait")?;
        let reconnect = options.number("reconnect")?;
        let nodelay = options.flag("nodelay")?;
        // The opposite of nodelay, from QEMU 0.13's time.
        let delay = options.flag("delay")?;
        if delay.is_some() && nodelay.is_some() {
            return Err(Error::options("'delay' and 'nodelay' are mutually exclusive"));
        }
        let nodelay = nodelay.or(delay.map(|delay| !delay)).unwrap_or(false);
        let socket = Self {
            address,
            server,
            wait: server && wait.unwrap_or(true),
            reconnect: reconnect.unwrap_or(0),
            nodelay,
            protocol,
            tls_creds,
        };
        socket.check(Given { reconnect: reconnect.is_some(), wait: wait.is_some(), tls_authz: tls_authz.is_some() })?;
        Ok(socket)
    }

    /// Checks what does not go together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self, given: Given) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::options(text));
        match &self.address {
            SocketAddress::Fd(_) if given.reconnect => {
                return refuse("'reconnect' option is incompatible with 'fd' address type");
            }
            SocketAddress::Fd(_) if self.tls_creds.is_some() && !self.server => {
                return refuse("'tls_creds' option is incompatible with 'fd' address type as client");
            }
            SocketAddress::Unix { .. } if self.tls_creds.is_some() => {
                return refuse("'tls_creds' option is incompatible with 'unix' address type");
            }
            _ => {}
        }
        if given.tls_authz && self.tls_creds.is_none() {
            return refuse("'tls_authz' option requires 'tls_creds' option");
        }
        if given.tls_authz {
            return refuse("chardev: socket: 'tls-authz' is not supported");
        }
        if self.server && given.reconnect {
            return refuse("'reconnect' option is incompatible with socket in server listen mode");
        }
        if !self.server && self.protocol == Protocol::Websocket {
            return refuse("Websocket client is not implemented");
        }
        if !self.server && given.wait {
            return refuse("'wait' option is incompatible with socket in client connect mode");
        }
        Ok(())
    }
}

/// Which options of a socket were given at all.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    /// `reconnect`
    pub reconnect: bool,
    /// `wait`
    pub wait: bool,
    /// `tls-authz`
    pub tls_authz: bool,
}

impl UdpOptions {
    pub(crate) fn take(options: &mut Options) -> Result<Self, Error> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let host = given(options.text("host")?).unwrap_or_else(|| "localhost".into());
        let port = given(options.text("port")?);
        let port = port.ok_or_else(|| Error::options("chardev: udp: remote port not specified"))?;
        let local_host = given(options.text("localaddr")?);
        let local_port = given(options.text("localport")?);
        let (ipv4, ipv6) = (options.flag("ipv4")?, options.flag("ipv6")?);
        let number = |name: &str, text: &str| {
            text.parse().map_err(|_| Error::options(format!("Parameter '{name}' expects a port number")))
        };
        let local = if local_host.is_some() || local_port.is_some() {
            let port = local_port.map_or(Ok(0), |port| number("localport", &port))?;
            let host = local_host.unwrap_or_default();
            Some(SocketAddress::Inet { host, port, to: None, ipv4: None, ipv6: None })
        } else {
            None
        };
        let port = number("port", &port)?;
        Ok(Self { remote: SocketAddress::Inet { host, port, to: None, ipv4, ipv6 }, local })
    }
}

fn address(options: &mut Options) -> Result<SocketAddress, Error> {
    let path = options.text("path")?;
    let host = options.text("host")?;
    let fd = options.text("fd")?;
    match (path, host, fd) {
        (Some(path), None, None) => Ok(SocketAddress::Unix {
            path,
            is_abstract: options.flag("abstract")?.unwrap_or(false),
            tight: options.flag("tight")?.unwrap_or(true),
        }),
        (None, Some(host), None) => inet_address(options, &host),
        (None, None, Some(fd)) => {
            let number = fd.parse().ok().filter(|number: &i32| *number >= 0);
            let number =
                number.ok_or_else(|| Error::options(format!("File descriptor named '{fd}' has not been found")))?;
            Ok(SocketAddress::Fd(number))
        }
        // A port alone means every address of this host.
        (None, None, None) if options.0.contains_key("port") => inet_address(options, ""),
        (None, None, None) => Err(Error::options("chardev: socket: no 'path', 'host' or 'fd' given")),
        _ => Err(Error::options("None or one of 'path', 'fd' or 'host' option required.")),
    }
}

fn inet_address(options: &mut Options, host: &str) -> Result<SocketAddress, Error> {
    let Some(port) = options.text("port")? else {
        return Err(Error::options("chardev: socket: no port given"));
    };
    let wrong = |name: &str| Error::options(format!("Parameter '{name}' expects a port number"));
    let port = port.parse().map_err(|_| wrong("port"))?;
    let to = options.text("to")?.map(|to| to.parse().map_err(|_| wrong("to"))).transpose()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
    Ok(SocketAddress::Inet { host, port, to, ipv4: options.flag("ipv4")?, ipv6: options.flag("ipv6")? })
}
