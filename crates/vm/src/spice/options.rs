//! The argument of `-spice`.

use std::path::{Path, PathBuf};

use ::spice::{ChannelKind, Compression, ListenAddress, Security};

use crate::pairs::Pairs;

/// What a `-spice` option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiceConfig {
    /// The option for messages.
    pub source: String,
    /// `addr=`
    pub addr: Option<String>,
    /// `unix=`: the address is a path.
    pub is_unix: bool,
    /// `port=`
    pub port: Option<u16>,
    /// `tls-port=`
    pub tls_port: Option<u16>,
    /// `ipv4=`
    pub ipv4: Option<bool>,
    /// `ipv6=`
    pub ipv6: Option<bool>,
    /// Clients have to know a password: no `disable-ticketing=`.
    pub has_tickets: bool,
    /// `password=`
    pub password: Option<String>,
    /// `password-secret=`
    pub password_secret: Option<String>,
    /// `x509-cacert-file=`, `x509-cert-file=`, `x509-key-file=`, or what lies in `x509-dir=`.
    pub x509: [PathBuf; 3],
    /// `tls-channel=` and `plaintext-channel=`
    pub security: Vec<(ChannelKind, Security)>,
    /// `image-compression=`
    pub compression: Compression,
    /// `display=` and `head=`
    pub display: Option<(String, i64)>,
}

const SWITCHES: [&str; 11] = [
    "ipv4",
    "ipv6",
    "unix",
    "disable-ticketing",
    "disable-copy-paste",
    "disable-agent-file-xfer",
    "agent-mouse",
    "playback-compression",
    "sasl",
    "seamless-migration",
    "gl",
];
const OTHERS: [&str; 21] = [
    "addr",
    "port",
    "tls-port",
    "password",
    "password-secret",
    "x509-dir",
    "x509-cacert-file",
    "x509-cert-file",
    "x509-key-file",
    "x509-key-password",
    "x509-dh-key-file",
    "tls-ciphers",
    "tls-channel",
    "plaintext-channel",
    "image-compression",
    "jpeg-wan-compression",
    "zlib-glz-wan-compression",
    "streaming-video",
    "display",
    "head",
    "rendernode",
];
/// Channels of the protocol that there are none of; whatever they shall be, they are.
const ABSENT: [&str; 2] = ["playback", "record"];

fn port(pairs: &Pairs, key: &str, name: &str) -> Result<Option<u16>, String> {
    match pairs.number(key)? {
        None | Some(0) => Ok(None),
        Some(number) => u16::try_from(number).map(Some).map_err(|_| format!("spice {name}port is out of range")),
    }
}

impl SpiceConfig {
    /// Reads the option's argument.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pairs = Pairs::parse(text, None, &SWITCHES, &OTHERS)?;
        refuse_missing(&pairs)?;
        let (password, password_secret) = (pairs.text("password"), pairs.text("password-secret"));
        if password.is_some() && password_secret.is_some() {
            return Err("'password' option is mutually exclusive with 'password-secret'".to_owned());
        }
        let (addr, is_unix) = (pairs.text("addr"), pairs.flag("unix")?.unwrap_or(false));
        if is_unix && addr.as_ref().is_none_or(String::is_empty) {
            return Err("'unix' needs a path as 'addr'".to_owned());
        }
        let [plain, tls] = [port(&pairs, "port", "")?, port(&pairs, "tls-port", "tls-")?];
        if is_unix && tls.is_some() {
            return Err("'tls-port' is not available with 'unix'".to_owned());
        }
        let directory = pairs.text("x509-dir").unwrap_or_else(|| ".".to_owned());
        let file =
            |key: &str, name: &str| pairs.text(key).map_or_else(|| Path::new(&directory).join(name), PathBuf::from);
        Ok(Self {
            source: format!("-spice {text}"),
            addr,
            is_unix,
            port: plain,
            tls_port: tls,
            ipv4: pairs.flag("ipv4")?,
            ipv6: pairs.flag("ipv6")?,
            has_tickets: !pairs.flag("disable-ticketing")?.unwrap_or(false),
            password,
            password_secret,
            x509: [
                file("x509-cacert-file", "ca-cert.pem"),
                file("x509-cert-file", "server-cert.pem"),
                file("x509-key-file", "server-key.pem"),
            ],
            security: security(&pairs, tls.is_some(), plain.is_some() || is_unix)?,
            compression: compression(&pairs)?,
            display: pairs.display()?,
        })
    }

    /// Where it listens, without TLS and with.
    pub fn addresses(&self) -> [Option<ListenAddress>; 2] {
        let host = self.addr.clone().unwrap_or_default();
        if self.is_unix {
            return [Some(ListenAddress::Unix(host)), None];
        }
        [self.port, self.tls_port].map(|port| {
            let (host, ipv4, ipv6) = (host.clone(), self.ipv4, self.ipv6);
            port.map(|port| ListenAddress::Inet { host, port, to: None, ipv4, ipv6 })
        })
    }
}

fn security(pairs: &Pairs, has_tls: bool, has_plain: bool) -> Result<Vec<(ChannelKind, Security)>, String> {
    let mut found = Vec::new();
    for (key, name) in pairs.iter() {
        let (security, is_possible, missing) = match key {
            "tls-channel" => (Security::Tls, has_tls, "a TLS port"),
            "plaintext-channel" => (Security::Plain, has_plain, "a port"),
            _ => continue,
        };
        if !is_possible {
            return Err(format!("spice: tried to setup {key} without specifying {missing}"));
        }
        match (ChannelKind::named(name), name) {
            (Some(kind), _) => found.push((kind, security)),
            (None, "default") => found.extend(ChannelKind::ALL.map(|kind| (kind, security))),
            (None, name) if ABSENT.contains(&name) => {}
            (None, name) => return Err(format!("spice: failed to set channel security for {name}")),
        }
    }
    Ok(found)
}

fn compression(pairs: &Pairs) -> Result<Compression, String> {
    match pairs.text("image-compression").as_deref() {
        Some("off") => Ok(Compression::Off),
        None | Some("lz" | "auto_lz") => Ok(Compression::Lz),
        Some(other @ ("quic" | "glz" | "auto_glz" | "lz4")) => {
            Err(format!("spice: image compression {other} is not available: off, lz and auto_lz are"))
        }
        Some(other) => Err(format!("spice: invalid image compression: {other}")),
    }
}

/// What does not exist here is an error, unless it is switched off or nothing would become of it.
fn refuse_missing(pairs: &Pairs) -> Result<(), String> {
    // There is neither an agent nor sound, so these are as they shall be in either case.
    for key in ["disable-copy-paste", "disable-agent-file-xfer", "agent-mouse", "playback-compression"] {
        pairs.flag(key)?;
    }
    for (key, why) in [
        ("sasl", "there is no SASL"),
        ("seamless-migration", "clients connect anew where the guest has gone"),
        ("gl", "there is no OpenGL"),
    ] {
        if pairs.flag(key)? == Some(true) {
            return Err(format!("spice: '{key}' is not available: {why}"));
        }
    }
    for (key, why) in [
        ("rendernode", "there is no OpenGL"),
        ("x509-key-password", "decrypt the key's file"),
        ("x509-dh-key-file", "keys are exchanged over elliptic curves"),
        ("tls-ciphers", "it is for OpenSSL, which this version does not use"),
    ] {
        if pairs.text(key).is_some() {
            return Err(format!("spice: '{key}' is not available: {why}"));
        }
    }
    for key in ["jpeg-wan-compression", "zlib-glz-wan-compression"] {
        match pairs.text(key).as_deref() {
            None | Some("auto" | "never") => {}
            Some("always") => return Err(format!("spice: '{key}=always' is not available")),
            Some(other) => return Err(format!("spice: invalid {key}: {other}")),
        }
    }
    match pairs.text("streaming-video").as_deref() {
        None | Some("off") => Ok(()),
        Some(other @ ("all" | "filter")) => Err(format!("spice: 'streaming-video={other}' is not available")),
        Some(other) => Err(format!("spice: invalid stream video control: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_read() {
        let text = "port=5930,tls-port=5931,addr=127.0.0.1,ipv4,disable-ticketing=on,x509-dir=/d,x509-key-file=/k,\
                    tls-channel=main,plaintext-channel=playback,image-compression=off,display=video0,head=1";
        let config = SpiceConfig::parse(text).expect("fine");
        assert_eq!((config.port, config.tls_port, config.has_tickets), (Some(5930), Some(5931), false));
        assert_eq!(config.x509, ["/d/ca-cert.pem", "/d/server-cert.pem", "/k"].map(PathBuf::from));
        assert_eq!(config.security, [(ChannelKind::Main, Security::Tls)]);
        assert_eq!(config.compression, Compression::Off);
        assert_eq!(config.display, Some(("video0".to_owned(), 1)));
        let host = || "127.0.0.1".to_owned();
        let at = |port| Some(ListenAddress::Inet { host: host(), port, to: None, ipv4: Some(true), ipv6: None });
        assert_eq!(config.addresses(), [at(5930), at(5931)]);
        let config = SpiceConfig::parse("unix=on,addr=/a,,b").expect("fine");
        assert_eq!(config.addresses(), [Some(ListenAddress::Unix("/a,b".to_owned())), None]);
        let config = SpiceConfig::parse("").expect("fine");
        assert_eq!((config.addresses(), config.has_tickets), ([None, None], true));
        let config = SpiceConfig::parse("tls-port=1,tls-channel=default").expect("fine");
        assert_eq!(config.security.len(), 4);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            ("port=foo", "Parameter 'port' expects a number"),
            ("port=70000", "spice port is out of range"),
            ("tls-port=70000", "spice tls-port is out of range"),
            ("port=1,foo=1", "Invalid parameter 'foo'"),
            ("foo", "Invalid parameter 'foo'"),
            ("port=1,disable-ticketing=maybe", "Parameter 'disable-ticketing' expects 'on' or 'off'"),
            ("port=1,image-compression=frob", "spice: invalid image compression: frob"),
            ("port=1,tls-channel=main", "spice: tried to setup tls-channel without specifying a TLS port"),
            ("port=1,plaintext-channel=foo", "spice: failed to set channel security for foo"),
            ("password=x,password-secret=s", "'password' option is mutually exclusive with 'password-secret'"),
            ("port=1,streaming-video=foo", "spice: invalid stream video control: foo"),
            ("port=1,sasl=on", "spice: 'sasl' is not available: there is no SASL"),
            ("unix=on", "'unix' needs a path as 'addr'"),
        ] {
            assert_eq!(SpiceConfig::parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
