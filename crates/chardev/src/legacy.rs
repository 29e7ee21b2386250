//! The one-string forms of `-serial`, `-monitor` and `-qmp`: `unix:PATH,server,nowait`.

use crate::Error;
use crate::options::{Backend, ChardevSpec, Common, Options, SocketOptions, parse_list};
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
        "vc" | "msmouse" | "braille" | "testdev" => return Err(unsupported(text)),
        _ => {}
    }
    let Some((kind, rest)) = text.split_once(':') else {
        return Err(Error::options(format!("'{text}' is not a valid char driver")));
    };
    match kind {
        "file" => Ok(Backend::File { path: rest.to_owned(), input_path: None, append: false }),
        "pipe" => Ok(Backend::Pipe { path: rest.to_owned() }),
        "unix" => socket(parse_list(rest, Some("path"))?),
        "tcp" => {
            let (address, options) = match rest.find(',') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let wrong = || Error::options(format!("'{text}' is not a valid char driver: HOST:PORT expected"));
            let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
            let mut map = parse_list(options, None)?;
            map.insert("host", host);
            map.insert("port", port);
            socket(map)
        }
        "telnet" | "websocket" | "tn3270" | "udp" | "vc" => Err(unsupported(kind)),
        _ => Err(Error::options(format!("'{text}' is not a valid char driver"))),
    }
}

fn socket(map: Map) -> Result<Backend, Error> {
    let mut options = Options::new(map);
    let socket = SocketOptions::take(&mut options)?;
    options.finish()?;
    Ok(Backend::Socket(socket))
}

fn unsupported(kind: &str) -> Error {
    Error::options(format!("chardev: back end '{kind}' is not supported"))
}
