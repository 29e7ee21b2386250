//! The one-string forms of `-serial`, `-monitor` and `-qmp`: `unix:PATH,server,nowait`.

use crate::Error;
use crate::options::{
    Backend, ChardevSpec, Common, Options, SocketOptions, UNSUPPORTED, UdpOptions, VcSize, parse_list, unsupported,
};
use qapi::json::Map;

/// What a one-string form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Legacy {
    /// `none`: no device at all.
    Nothing,
    /// `chardev:ID`: one that exists.
    Existing(String),
    /// Anything else: one to be opened.
    New(ChardevSpec),
}

/// What such a string asks for; `id` is the name of a device that it describes.
///
/// # Errors
/// What is wrong with the string.
pub fn parse_legacy(id: &str, text: &str) -> Result<Legacy, Error> {
    if text == "none" {
        return Ok(Legacy::Nothing);
    }
    if let Some(existing) = text.strip_prefix("chardev:") {
        return Ok(Legacy::Existing(existing.to_owned()));
    }
    let (text, mux) = match text.strip_prefix("mon:") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    // On a shared terminal Ctrl-c belongs to the guest.
    let backend = backend(text, !mux)?;
    let common = Common { mux, ..Common::default() };
    Ok(Legacy::New(ChardevSpec { id: id.to_owned(), backend, common }))
}

fn backend(text: &str, signal: bool) -> Result<Backend, Error> {
    match text {
        "null" => return Ok(Backend::Null),
        "pty" => return Ok(Backend::Pty),
        "stdio" => return Ok(Backend::Stdio { signal }),
        "ringbuf" | "memory" => return Ok(Backend::Ringbuf { size: 65536 }),
        "msmouse" => return Ok(Backend::Msmouse),
        "wctablet" => return Ok(Backend::Wctablet),
        "vc" => return Ok(Backend::Vc(VcSize::default())),
        "con:" => return Err(unsupported("console")),
        kind if UNSUPPORTED.contains(&kind) => return Err(unsupported(kind)),
        path if path.starts_with("/dev/parport") => return Ok(Backend::Parallel { path: path.to_owned() }),
        path if path.starts_with("/dev/") => return Ok(Backend::Serial { path: path.to_owned() }),
        _ => {}
    }
    let Some((kind, rest)) = text.split_once(':') else {
        return Err(Error::options(format!("'{text}' is not a valid char driver")));
    };
    match kind {
        "file" => Ok(Backend::File { path: rest.to_owned(), input_path: None, append: false }),
        "pipe" => Ok(Backend::Pipe { path: rest.to_owned() }),
        "unix" => socket(parse_list(rest, Some("path"))?),
        "tcp" | "telnet" | "websocket" | "tn3270" => {
            let (address, options) = match rest.find(',') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let (host, port) = host_and_port(text, address)?;
            let mut map = parse_list(options, None)?;
            map.insert("host", host);
            map.insert("port", port);
            if kind != "tcp" {
                map.insert(kind, "on");
            }
            socket(map)
        }
        "udp" => {
            let (remote, local) = rest.split_once('@').unwrap_or((rest, ""));
            let mut map = Map::new();
            let (host, port) = host_and_port(text, remote)?;
            map.insert("host", host);
            map.insert("port", port);
            if !local.is_empty() {
                let (host, port) = host_and_port(text, local)?;
                map.insert("localaddr", host);
                map.insert("localport", port);
            }
            let mut options = Options::new(map);
            let udp = UdpOptions::take(&mut options)?;
            options.finish()?;
            Ok(Backend::Udp(udp))
        }
        "vc" => vc(rest).ok_or_else(|| Error::options(format!("'{text}' is not a valid char driver"))),
        _ => Err(Error::options(format!("'{text}' is not a valid char driver"))),
    }
}

/// `800x600` dots, or `80Cx24C` characters.
fn vc(text: &str) -> Option<Backend> {
    let (width, height) = text.split_once('x')?;
    let number = |text: &str| text.parse().ok();
    let size = match (width.strip_suffix('C'), height.strip_suffix('C')) {
        (Some(columns), Some(rows)) => VcSize::new(None, None, Some(number(columns)?), Some(number(rows)?)),
        (None, None) => VcSize::new(Some(number(width)?), Some(number(height)?), None, None),
        _ => return None,
    };
    size.ok().map(Backend::Vc)
}

fn host_and_port<'a>(text: &str, address: &'a str) -> Result<(&'a str, &'a str), Error> {
    let wrong = || Error::options(format!("'{text}' is not a valid char driver: HOST:PORT expected"));
    address.rsplit_once(':').ok_or_else(wrong)
}

fn socket(map: Map) -> Result<Backend, Error> {
    let mut options = Options::new(map);
    let socket = SocketOptions::take(&mut options)?;
    options.finish()?;
    Ok(Backend::Socket(socket))
}
