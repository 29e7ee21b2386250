//! The options of an `nbd` node, and the file names that stand for them.

use std::time::Duration;

use aio::VsockAddress;
use block::{Error, Options, Result};

use crate::transport::Address;
use crate::uri::Uri;

/// The port that IANA gave to NBD.
const PORT: &str = "10809";

/// What a node was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NbdOptions {
    pub server: Address,
    pub export: String,
    pub tls_creds: Option<String>,
    pub tls_hostname: Option<String>,
    pub context: Option<String>,
    pub reconnect_delay: Duration,
    pub open_timeout: Duration,
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("Parameter '{name}' is missing"))
}

fn port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| Error::invalid(format!("address resolution failed: invalid port '{text}'")))
}

fn take_server(options: &mut Options) -> Result<Address> {
    // The spelling before `server`.
    for (old, new) in [("path", "server.path"), ("host", "server.host"), ("port", "server.port")] {
        if let Some(value) = options.take(old) {
            options.set(new, value);
            if !options.contains("server.type") {
                options.set("server.type", if old == "path" { "unix" } else { "inet" });
            }
        }
    }
    let mut server = options.take_below("server");
    if server.contains("path") && server.contains("host") {
        return Err(Error::invalid("path and host may not be used at the same time"));
    }
    let address = match server.take_str("type")?.as_deref() {
        None => return Err(Error::invalid("NBD server address missing")),
        Some("unix") => Address::Unix { path: server.take_str("path")?.ok_or_else(|| missing("server.path"))? },
        Some("inet") => Address::Tcp {
            host: server.take_str("host")?.ok_or_else(|| missing("server.host"))?,
            port: port(&server.take_str("port")?.unwrap_or_else(|| PORT.to_owned()))?,
        },
        Some("vsock") => {
            let mut number = |name: &str| server.take_str(name)?.ok_or_else(|| missing(&format!("server.{name}")));
            Address::Vsock(VsockAddress::parse(&number("cid")?, &number("port")?).map_err(Error::invalid)?)
        }
        Some("fd") => return Err(Error::unsupported("NBD servers of type 'fd' are not supported")),
        Some(other) => {
            return Err(Error::invalid(format!("Parameter 'server.type' does not accept value '{other}'")));
        }
    };
    match server.iter().next() {
        Some((name, _)) => Err(Error::invalid(format!("Parameter 'server.{name}' is unexpected"))),
        None => Ok(address),
    }
}

impl NbdOptions {
    pub fn take(options: &mut Options) -> Result<Self> {
        let export = options.take_str("export")?.unwrap_or_default();
        if export.len() > 4096 {
            return Err(Error::invalid("export name too long to send to server"));
        }
        let seconds = |options: &mut Options, name| options.take_u64(name).map(|s| Duration::from_secs(s.unwrap_or(0)));
        let parsed = Self {
            server: take_server(options)?,
            export,
            tls_creds: options.take_str("tls-creds")?,
            tls_hostname: options.take_str("tls-hostname")?,
            context: options.take_str("x-dirty-bitmap")?,
            reconnect_delay: seconds(options, "reconnect-delay")?,
            open_timeout: seconds(options, "open-timeout")?,
        };
        if parsed.tls_hostname.is_some() && parsed.tls_creds.is_none() {
            return Err(Error::invalid("tls-hostname not supported without tls-creds"));
        }
        Ok(parsed)
    }

    /// The name that opens the same, if a name can.
    pub fn filename(&self) -> Option<String> {
        if self.tls_creds.is_some() || self.context.is_some() {
            return None;
        }
        Some(match (&self.server, self.export.as_str()) {
            (Address::Vsock(_), _) => return None,
            (Address::Unix { path }, "") => format!("nbd+unix://?socket={path}"),
            (Address::Unix { path }, export) => format!("nbd+unix:///{export}?socket={path}"),
            (Address::Tcp { host, port }, "") => format!("nbd://{host}:{port}"),
            (Address::Tcp { host, port }, export) => format!("nbd://{host}:{port}/{export}"),
        })
    }

    /// The options that open the same.
    pub fn strong(&self) -> Options {
        let mut options = Options::new();
        match &self.server {
            Address::Unix { path } => {
                options.set("server.type", "unix");
                options.set("server.path", path.as_str());
            }
            Address::Vsock(vsock) => {
                options.set("server.type", "vsock");
                options.set("server.cid", vsock.cid.to_string());
                options.set("server.port", vsock.port.to_string());
            }
            Address::Tcp { host, port } => {
                options.set("server.type", "inet");
                options.set("server.host", host.as_str());
                options.set("server.port", port.to_string());
            }
        }
        let texts =
            [("tls-creds", &self.tls_creds), ("tls-hostname", &self.tls_hostname), ("x-dirty-bitmap", &self.context)];
        for (name, value) in texts {
            if let Some(value) = value {
                options.set(name, value.as_str());
            }
        }
        if !self.export.is_empty() {
            options.set("export", self.export.as_str());
        }
        options
    }
}

/// The options that a file name stands for.
pub(super) fn parse_filename(filename: &str) -> Result<Options> {
    if filename.contains("://") {
        return parse_uri(filename);
    }
    let rest = filename
        .strip_prefix("nbd:")
        .ok_or_else(|| Error::invalid("File name string for NBD must start with 'nbd:'"))?;
    let (address, export) = match rest.split_once(":exportname=") {
        Some((address, export)) => (address, Some(export)),
        None => (rest, None),
    };
    let mut options = Options::new();
    if let Some(export) = export.filter(|export| !export.is_empty()) {
        options.set("export", export);
    }
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(options.with("server.type", "unix").with("server.path", path));
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => return Err(Error::invalid(format!("address resolution failed: no port in '{address}'"))),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(options.with("server.type", "inet").with("server.host", host).with("server.port", port))
}

fn parse_uri(filename: &str) -> Result<Options> {
    let invalid = || Error::invalid("No valid URL specified");
    let uri = Uri::parse(filename).ok_or_else(invalid)?;
    let mut options = Options::new();
    let export = uri.path.strip_prefix('/').unwrap_or(&uri.path);
    if !export.is_empty() {
        options.set("export", export);
    }
    match uri.scheme.as_str() {
        "nbd+unix" => {
            // The server is the socket alone.
            let [(name, path)] = &uri.query[..] else { return Err(invalid()) };
            if name != "socket" || !uri.host.is_empty() || uri.port.is_some() {
                return Err(invalid());
            }
            Ok(options.with("server.type", "unix").with("server.path", path.as_str()))
        }
        "nbd" | "nbd+tcp" => {
            if uri.host.is_empty() || !uri.query.is_empty() {
                return Err(invalid());
            }
            let port = uri.port.map_or_else(|| PORT.to_owned(), |port| port.to_string());
            Ok(options.with("server.type", "inet").with("server.host", uri.host).with("server.port", port))
        }
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_vsock(cid: &str, port: &str) -> Result<NbdOptions> {
        let options = Options::new().with("server.type", "vsock").with("server.cid", cid).with("server.port", port);
        NbdOptions::take(&mut options.clone())
    }

    #[test]
    fn server_of_another_machine_is_two_numbers_and_no_file_name() {
        let options = of_vsock("3", "10809").expect("an address");
        assert_eq!(options.server, Address::Vsock(VsockAddress { cid: 3, port: 10809 }));
        assert_eq!(options.filename(), None);
        assert_eq!(NbdOptions::take(&mut options.strong()).expect("the same").server, options.server);
        let refused = |cid, port| of_vsock(cid, port).expect_err("no address").to_string();
        assert_eq!(refused("host", "1"), "Failed to parse cid 'host'");
        assert_eq!(refused("1", "-1"), "Failed to parse port '-1'");
        let mut options = Options::new().with("server.type", "vsock").with("server.cid", "1");
        assert!(NbdOptions::take(&mut options).expect_err("no port").to_string().contains("server.port"));
    }

    #[test]
    fn file_names_mean_servers_and_exports() {
        let tcp = |host: &str, port: u16| Address::Tcp { host: host.to_owned(), port };
        let unix = |path: &str| Address::Unix { path: path.to_owned() };
        for (name, server, export) in [
            ("nbd:localhost:10810", tcp("localhost", 10810), ""),
            ("nbd:[::1]:10810:exportname=a b", tcp("::1", 10810), "a b"),
            ("nbd:unix:/run/x.sock", unix("/run/x.sock"), ""),
            ("nbd:unix:/run/x.sock:exportname=disk", unix("/run/x.sock"), "disk"),
            ("nbd://host", tcp("host", 10809), ""),
            ("nbd://[::1]:99/a%20b", tcp("::1", 99), "a b"),
            ("nbd+tcp://host:1/", tcp("host", 1), ""),
            ("nbd+unix:///disk?socket=/run/x.sock", unix("/run/x.sock"), "disk"),
            ("nbd+unix://?socket=/run/x.sock", unix("/run/x.sock"), ""),
        ] {
            let options = NbdOptions::take(&mut parse_filename(name).expect(name)).expect(name);
            assert_eq!((options.server, options.export.as_str()), (server, export), "{name}");
        }
        for name in ["nbd://", "nbd+unix:///x", "nbd+unix:///x?path=/run/x.sock", "nbd:host", "nbd://h:x/"] {
            assert!(parse_filename(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_exact_name_opens_the_same() {
        for name in ["nbd://host:1/disk", "nbd://host:10809", "nbd+unix:///disk?socket=/s", "nbd+unix://?socket=/s"] {
            let options = NbdOptions::take(&mut parse_filename(name).expect(name)).expect(name);
            assert_eq!(options.filename().as_deref(), Some(name));
            let again = NbdOptions::take(&mut options.strong()).expect(name);
            assert_eq!(again, options);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let text = |options: Options| NbdOptions::take(&mut options.clone()).expect_err("refused").to_string();
        assert_eq!(text(Options::new()), "NBD server address missing");
        let both = Options::new().with("path", "/x").with("host", "h");
        assert_eq!(text(both), "path and host may not be used at the same time");
        let unix = Options::new().with("server.type", "unix");
        assert_eq!(text(unix.clone()), "Parameter 'server.path' is missing");
        let unix = unix.with("server.path", "/x");
        assert_eq!(text(unix.clone().with("tls-hostname", "h")), "tls-hostname not supported without tls-creds");
        assert_eq!(text(unix.with("server.port", "1")), "Parameter 'server.port' is unexpected");
    }
}
