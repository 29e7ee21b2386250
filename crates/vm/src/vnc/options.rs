//! The argument of `-vnc`, and of the legacy command `change vnc`.

use std::path::PathBuf;

use ::vnc::{ListenAddress, SharePolicy};

use crate::pairs::Pairs;

/// The port of display 0.
const PORT: u32 = 5900;
/// The port of display 0 for WebSockets.
const WEBSOCKET_PORT: u32 = 5700;
/// Clients that may be there at once.
const CONNECTIONS: usize = 32;
/// Milliseconds between two keys.
const KEY_DELAY: u64 = 10;

/// What a `-vnc` option says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the option's own switches")]
pub struct VncConfig {
    /// The option for messages.
    pub source: String,
    /// `id=`
    pub id: Option<String>,
    /// Where it listens, or where clients wait.
    pub addresses: Vec<ListenAddress>,
    /// Where it listens for WebSockets.
    pub websockets: Vec<ListenAddress>,
    /// `reverse=`: clients wait there.
    pub reverse: bool,
    /// The port is told on standard error: it was searched for.
    pub tells_port: bool,
    /// `password=`
    pub password: bool,
    /// `password-secret=`
    pub password_secret: Option<String>,
    /// `sasl=` and `sasl-users=`: the file of users.
    pub sasl: Option<PathBuf>,
    /// `tls-creds=`
    pub tls_creds: Option<String>,
    /// `share=`
    pub share: SharePolicy,
    /// `connections=`
    pub connections: usize,
    /// `lossy=`
    pub lossy: bool,
    /// `non-adaptive=`
    pub non_adaptive: bool,
    /// `lock-key-sync=`
    pub lock_key_sync: bool,
    /// `key-delay-ms=`
    pub key_delay_ms: u64,
    /// `power-control=`
    pub power_control: bool,
    /// `display=` and `head=`
    pub display: Option<(String, i64)>,
}

const SWITCHES: [&str; 9] =
    ["ipv4", "ipv6", "password", "reverse", "lock-key-sync", "sasl", "lossy", "non-adaptive", "power-control"];
const OTHERS: [&str; 15] = [
    "vnc",
    "websocket",
    "tls-creds",
    "share",
    "display",
    "head",
    "connections",
    "to",
    "password-secret",
    "key-delay-ms",
    "tls-authz",
    "sasl-authz",
    "sasl-users",
    "audiodev",
    "id",
];

/// Families and the range of ports.
struct Common {
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    to: Option<u64>,
    reverse: bool,
}

/// An address that is no WebSocket's, and the number of its display.
fn plain_address(text: &str, common: &Common) -> Result<(ListenAddress, Option<u32>), String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if common.to.is_some_and(|to| to > 0) {
            return Err("Port range not support with UNIX socket".to_owned());
        }
        return Ok((ListenAddress::Unix(path.to_owned()), None));
    }
    let (host, port) = text.rsplit_once(':').ok_or("no vnc port specified")?;
    if port.is_empty() {
        return Err("vnc port cannot be empty".to_owned());
    }
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 =
        port.parse().ok().filter(|_| is_number).ok_or_else(|| format!("can't convert to a number: {port}"))?;
    let offset = if common.reverse { 0 } else { PORT };
    let shifted = |number: u64| u16::try_from(number.saturating_add(u64::from(offset))).ok();
    let first = shifted(number).ok_or_else(|| format!("port {port} out of range"))?;
    let to = common.to.filter(|to| *to > 0).map(|to| shifted(to).unwrap_or(u16::MAX));
    Ok((inet(host, first, to, common), u32::try_from(number).ok()))
}

fn inet(host: &str, port: u16, to: Option<u16>, common: &Common) -> ListenAddress {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ListenAddress::Inet { host: bare.to_owned(), port, to, ipv4: common.ipv4, ipv6: common.ipv6 }
}

fn websocket_address(text: &str, display: Option<u32>, common: &Common) -> Result<ListenAddress, String> {
    if text.starts_with("unix:") {
        return Err("UNIX sockets not supported with websock".to_owned());
    }
    if text.is_empty() || text == "on" {
        let display = display.ok_or("explicit websocket port is required")?;
        let port = u16::try_from(display + WEBSOCKET_PORT).map_err(|_| format!("port {display} out of range"))?;
        let to = common.to.filter(|to| *to > 0);
        let to = to.map(|to| u16::try_from(to.saturating_add(u64::from(WEBSOCKET_PORT))).unwrap_or(u16::MAX));
        return Ok(inet("", port, to, common));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.is_empty() {
        return Err("vnc port cannot be empty".to_owned());
    }
    let number = port.parse().map_err(|_| format!("can't convert to a number: {port}"))?;
    Ok(inet(host, number, None, common))
}

impl VncConfig {
    /// Reads an option's argument; `source` is how messages call it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, source: &str) -> Result<Self, String> {
        let pairs = Pairs::parse(text, Some("vnc"), &SWITCHES, &OTHERS)?;
        refuse_missing(&pairs)?;
        let reverse = pairs.flag("reverse")?.unwrap_or(false);
        let to = pairs.number("to")?;
        let common = Common { ipv4: pairs.flag("ipv4")?, ipv6: pairs.flag("ipv6")?, to, reverse };
        let (addresses, websockets) = addresses(&pairs, &common)?;
        let (password, password_secret) = (pairs.flag("password")?, pairs.text("password-secret"));
        if password.is_some() && password_secret.is_some() {
            return Err("'password' flag is redundant with 'password-secret'".to_owned());
        }
        let share = match pairs.text("share").as_deref() {
            None | Some("allow-exclusive") => SharePolicy::AllowExclusive,
            Some("force-shared") => SharePolicy::ForceShared,
            Some("ignore") => SharePolicy::Ignore,
            Some(_) => return Err("unknown vnc share= option".to_owned()),
        };
        let connections = pairs.number("connections")?;
        Ok(Self {
            source: source.to_owned(),
            id: pairs.text("id"),
            addresses,
            websockets,
            reverse,
            tells_port: to.is_some(),
            password: password.unwrap_or(false) || password_secret.is_some(),
            password_secret,
            sasl: sasl(&pairs)?,
            tls_creds: pairs.text("tls-creds"),
            share,
            connections: connections.map_or(CONNECTIONS, |count| usize::try_from(count).unwrap_or(usize::MAX)),
            lossy: pairs.flag("lossy")?.unwrap_or(false),
            non_adaptive: pairs.flag("non-adaptive")?.unwrap_or(false),
            lock_key_sync: pairs.flag("lock-key-sync")?.unwrap_or(true),
            key_delay_ms: pairs.number("key-delay-ms")?.unwrap_or(KEY_DELAY),
            power_control: pairs.flag("power-control")?.unwrap_or(false),
            display: pairs.display()?,
        })
    }
}

/// The file of users. What cyrus' library is told of `qemu` in `/etc/sasl2` is for it and its databases alone.
fn sasl(pairs: &Pairs) -> Result<Option<PathBuf>, String> {
    let (is_on, users) = (pairs.flag("sasl")? == Some(true), pairs.text("sasl-users"));
    if pairs.text("sasl-authz").is_some() {
        return Err(match is_on {
            true => "'sasl-authz' is not available: there are no authorization objects".to_owned(),
            false => "'sasl-authz' provided but SASL auth is not enabled".to_owned(),
        });
    }
    match (is_on, users) {
        (true, None) => Err("'sasl' needs a file of users: sasl-users=FILE".to_owned()),
        (false, Some(_)) => Err("'sasl-users' provided but SASL auth is not enabled".to_owned()),
        (_, users) => Ok(users.map(PathBuf::from)),
    }
}

/// What does not exist here is an error, in QEMU's words where it has some.
fn refuse_missing(pairs: &Pairs) -> Result<(), String> {
    if let Some(name) = pairs.text("audiodev") {
        return Err(format!("Audiodev '{name}' not found"));
    }
    match (pairs.text("tls-authz"), pairs.text("tls-creds")) {
        (Some(_), None) => Err("'tls-authz' provided but TLS is not enabled".to_owned()),
        (Some(_), Some(_)) => Err("'tls-authz' is not available: there are no authorization objects".to_owned()),
        _ => Ok(()),
    }
}

fn addresses(pairs: &Pairs, common: &Common) -> Result<(Vec<ListenAddress>, Vec<ListenAddress>), String> {
    let texts: Vec<&str> = pairs.all("vnc").collect();
    if texts.last().is_none_or(|text| *text == "none") {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut plain = Vec::new();
    let mut display = None;
    for text in texts {
        let (address, number) = plain_address(text, common)?;
        display = display.or(number);
        plain.push(address);
    }
    if plain.len() > 1 {
        display = None;
    }
    let mut websockets = Vec::new();
    for text in pairs.all("websocket").filter(|text| *text != "off") {
        let mut address = websocket_address(text, display, common)?;
        // Without a host of its own it has that of the only plain address.
        if let ([ListenAddress::Inet { host, .. }], ListenAddress::Inet { host: own, .. }) = (&plain[..], &mut address)
            && own.is_empty()
        {
            own.clone_from(host);
        }
        websockets.push(address);
    }
    if common.reverse && !websockets.is_empty() {
        return Err("Cannot use websockets in reverse mode".to_owned());
    }
    if common.reverse && plain.len() != 1 {
        return Err("Expected a single address in reverse mode".to_owned());
    }
    Ok((plain, websockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<VncConfig, String> {
        VncConfig::parse(text, "-vnc")
    }

    fn at(host: &str, port: u16, to: Option<u16>) -> ListenAddress {
        ListenAddress::Inet { host: host.to_owned(), port, to, ipv4: None, ipv6: None }
    }

    #[test]
    fn addresses_are_displays_and_ports_of_websockets() {
        let config = parsed("localhost:3,to=9,websocket=on").expect("fine");
        assert_eq!(config.addresses, [at("localhost", 5903, Some(5909))]);
        assert_eq!(config.websockets, [at("localhost", 5703, Some(5709))]);
        assert!(config.tells_port);
        let config = parsed("[::1]:0,websocket=8080,password,nolock-key-sync,share=force-shared").expect("fine");
        assert_eq!((config.addresses, config.websockets), (vec![at("::1", 5900, None)], vec![at("::1", 8080, None)]));
        assert!(config.password && !config.lock_key_sync);
        assert_eq!(config.share, SharePolicy::ForceShared);
        let config = parsed("unix:/tmp/a,,b,vnc=:1,id=x,display=video0,head=1").expect("fine");
        assert_eq!(config.addresses, [ListenAddress::Unix("/tmp/a,b".to_owned()), at("", 5901, None)]);
        assert_eq!(config.display, Some(("video0".to_owned(), 1)));
        assert_eq!(parsed("h:5500,reverse=on").expect("fine").addresses, [at("h", 5500, None)]);
        assert_eq!(parsed("none").expect("fine").addresses, []);
    }

    #[test]
    fn what_is_wrong_is_said_in_qemus_words() {
        for (text, message) in [
            ("here", "no vnc port specified"),
            ("here:", "vnc port cannot be empty"),
            (":x", "can't convert to a number: x"),
            (":60000", "port 60000 out of range"),
            (":0,foo=1", "Invalid parameter 'foo'"),
            (":0,share=all", "unknown vnc share= option"),
            (":0,password=maybe", "Parameter 'password' expects 'on' or 'off'"),
            (":0,to=many", "Parameter 'to' expects a number"),
            ("unix:/a,to=3", "Port range not support with UNIX socket"),
            ("unix:/a,websocket=unix:/b", "UNIX sockets not supported with websock"),
            ("unix:/a,websocket", "explicit websocket port is required"),
            (":0,sasl", "'sasl' needs a file of users: sasl-users=FILE"),
            (":0,sasl-users=/a", "'sasl-users' provided but SASL auth is not enabled"),
            (":0,sasl-authz=a", "'sasl-authz' provided but SASL auth is not enabled"),
            (":0,tls-authz=a", "'tls-authz' provided but TLS is not enabled"),
            (":0,audiodev=a", "Audiodev 'a' not found"),
            (":0,password,password-secret=s", "'password' flag is redundant with 'password-secret'"),
            ("h:1,reverse,websocket=5", "Cannot use websockets in reverse mode"),
        ] {
            assert_eq!(parsed(text), Err(message.to_owned()), "{text}");
        }
    }
}
