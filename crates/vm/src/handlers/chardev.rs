//! Character devices. Opening one may wait for names, connections and clients, so a thread of its own does it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use ::chardev::{
    Backend, ChardevSpec, Chardevs, Common, Given, Protocol, SocketAddress, SocketOptions, UdpOptions, VcSize,
    ringbuf_size,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qapi::Error;
use qapi::chardev::{
    ChardevAdd, ChardevBackend, ChardevBackendInfo, ChardevChange, ChardevCommon, ChardevInfo, ChardevRemove,
    ChardevReturn, ChardevSendBreak, ChardevSocket, DataFormat, QueryChardev, QueryChardevBackends, RingbufRead,
    RingbufWrite, SocketAddressLegacy,
};
use qmp::SessionContext;

use super::{Table, in_background};

/// The largest piece that is read from a ring buffer at once.
const READ_LIMIT: usize = 64 << 20;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryChardev>(|control, _, _| {
        let info = |device: ::chardev::ChardevInfo| ChardevInfo {
            label: device.label,
            filename: device.filename,
            frontend_open: device.frontend_open,
        };
        Ok(control.chardevs().list().into_iter().map(info).collect())
    });
    table.register::<QueryChardevBackends>(|_, _, _| {
        Ok(::chardev::backends().map(|name| ChardevBackendInfo { name: name.to_owned() }).collect())
    });
    table.register_deferred::<ChardevAdd>(|control, context, arguments, reply| {
        let ChardevAdd { id, backend } = arguments;
        let chardevs = Arc::clone(control.chardevs());
        let prepared = specification(context, &id, backend);
        in_background("chardev-add", reply, move || {
            let added = prepared.and_then(|(spec, kept)| {
                chardevs.add(&spec).map_err(in_words)?;
                drop(kept);
                Ok(spec)
            });
            // As QEMU says it, but for an id that is taken.
            let added = added.map_err(|error| match error.desc.ends_with("already exists") {
                true => error,
                false => Error::generic(format!("Failed to add chardev '{id}': {}", error.desc)),
            });
            added.map(|spec| result(&chardevs, &spec))
        });
    });
    table.register_deferred::<ChardevChange>(|control, context, arguments, reply| {
        let ChardevChange { id, backend } = arguments;
        let chardevs = Arc::clone(control.chardevs());
        let prepared = specification(context, &id, backend);
        in_background("chardev-change", reply, move || {
            let (spec, kept) = prepared?;
            chardevs.change(&spec).map_err(in_words)?;
            drop(kept);
            Ok(result(&chardevs, &spec))
        });
    });
    table.register::<ChardevRemove>(|control, _, arguments| {
        control.chardevs().remove(&arguments.id).map_err(in_words)?;
        control.chardev_gone(&arguments.id);
        Ok(())
    });
    table.register::<ChardevSendBreak>(|control, _, arguments| {
        control.chardevs().send_break(&arguments.id).map_err(in_words)
    });
    table.register::<RingbufWrite>(|control, _, arguments| {
        let bytes = match arguments.format {
            Some(DataFormat::Base64) => STANDARD
                .decode(&arguments.data)
                .map_err(|_| Error::generic("Base64 data contains invalid characters"))?,
            Some(DataFormat::Utf8) | None => arguments.data.into_bytes(),
        };
        control.chardevs().ringbuf_write(&arguments.device, &bytes).map_err(in_words)
    });
    table.register::<RingbufRead>(|control, _, arguments| {
        // What is wrong with the device comes first.
        control.chardevs().ringbuf_write(&arguments.device, b"").map_err(in_words)?;
        let size = usize::try_from(arguments.size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| Error::generic("size must be greater than zero"))?.min(READ_LIMIT);
        let bytes = control.chardevs().ringbuf_read(&arguments.device, size).map_err(in_words)?;
        Ok(match arguments.format {
            Some(DataFormat::Base64) => STANDARD.encode(bytes),
            Some(DataFormat::Utf8) | None => String::from_utf8_lossy(&bytes).into_owned(),
        })
    });
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn in_words(error: ::chardev::Error) -> Error {
    Error::generic(error.to_string())
}

fn result(chardevs: &Chardevs, spec: &ChardevSpec) -> ChardevReturn {
    let pty = match spec.backend {
        Backend::Pty => chardevs.list().into_iter().find(|device| device.label == spec.id),
        _ => None,
    };
    ChardevReturn { pty: pty.and_then(|device| device.filename.strip_prefix("pty:").map(str::to_owned)) }
}

/// What is asked for, and a descriptor that has to stay open until it is opened.
fn specification(
    context: &mut SessionContext,
    id: &str,
    backend: ChardevBackend,
) -> Result<(ChardevSpec, Option<OwnedFd>), Error> {
    let mut kept = None;
    let (backend, common) = match backend {
        ChardevBackend::File(file) => {
            let (path, input_path) = (file.out, file.r#in);
            (Backend::File { path, input_path, append: file.append.unwrap_or(false) }, file.common)
        }
        ChardevBackend::Serial(port) => (Backend::Serial { path: port.device }, port.common),
        ChardevBackend::Pipe(pipe) => (Backend::Pipe { path: pipe.device }, pipe.common),
        ChardevBackend::Socket(socket) => {
            let common = socket.common.clone();
            let address = address(context, &socket.addr, &mut kept)?;
            (Backend::Socket(socket_options(socket, address)?), common)
        }
        ChardevBackend::Udp(udp) => {
            let remote = address(context, &udp.remote, &mut kept)?;
            let local = udp.local.map(|local| address(context, &local, &mut kept)).transpose()?;
            (Backend::Udp(UdpOptions { remote, local }), udp.common)
        }
        ChardevBackend::Pty(common) => (Backend::Pty, common),
        ChardevBackend::Null(common) => (Backend::Null, common),
        ChardevBackend::Mux(mux) => (Backend::Mux { chardev: mux.chardev }, mux.common),
        ChardevBackend::Hub(hub) => (Backend::Hub { chardevs: hub.chardevs }, hub.common),
        ChardevBackend::Msmouse(common) => (Backend::Msmouse, common),
        ChardevBackend::Wctablet(common) => (Backend::Wctablet, common),
        ChardevBackend::Vc(vc) => {
            let side = |side: Option<i64>| side.map(|side| u64::try_from(side).unwrap_or(u64::MAX));
            let size = VcSize::new(side(vc.width), side(vc.height), side(vc.cols), side(vc.rows));
            (Backend::Vc(size.map_err(in_words)?), vc.common)
        }
        ChardevBackend::Stdio(stdio) => (Backend::Stdio { signal: stdio.signal.unwrap_or(true) }, stdio.common),
        ChardevBackend::Ringbuf(ring) | ChardevBackend::Memory(ring) => {
            let size = ring.size.map(|size| u64::try_from(size).unwrap_or(u64::MAX));
            (Backend::Ringbuf { size: ringbuf_size(size).map_err(in_words)? }, ring.common)
        }
    };
    let ChardevCommon { logfile, logappend } = common;
    let common = Common { mux: false, log_file: logfile, log_append: logappend.unwrap_or(false) };
    Ok((ChardevSpec { id: id.to_owned(), backend, common }, kept))
}

fn address(
    context: &mut SessionContext,
    address: &SocketAddressLegacy,
    kept: &mut Option<OwnedFd>,
) -> Result<SocketAddress, Error> {
    match address {
        SocketAddressLegacy::Inet(inet) => {
            let port = inet.port.parse();
            let port = port.map_err(|_| Error::generic(format!("can't convert to a number: {}", inet.port)))?;
            let host = inet.host.clone();
            Ok(SocketAddress::Inet { host, port, to: inet.to, ipv4: inet.ipv4, ipv6: inet.ipv6 })
        }
        SocketAddressLegacy::Unix(unix) => Ok(SocketAddress::Unix {
            path: unix.path.clone(),
            is_abstract: unix.r#abstract.unwrap_or(false),
            tight: unix.tight.unwrap_or(true),
        }),
        SocketAddressLegacy::Fd(named) => {
            let fd = context.fds().take_param(&named.str)?;
            let number = fd.as_raw_fd();
            *kept = Some(fd);
            Ok(SocketAddress::Fd(number))
        }
    }
}

fn socket_options(socket: ChardevSocket, address: SocketAddress) -> Result<SocketOptions, Error> {
    if socket.tn3270 == Some(true) {
        return Err(Error::generic("chardev: socket: the TN3270 protocol ('tn3270') is not supported"));
    }
    let protocol = match (socket.telnet == Some(true), socket.websocket == Some(true)) {
        (false, false) => Protocol::Raw,
        (true, false) => Protocol::Telnet,
        (false, true) => Protocol::Websocket,
        (true, true) => return Err(Error::generic("'telnet' and 'websocket' are mutually exclusive")),
    };
    let reconnect = socket.reconnect.unwrap_or(0);
    let reconnect = u64::try_from(reconnect).map_err(|_| Error::expects("reconnect", "a non-negative number"))?;
    let given = Given {
        reconnect: socket.reconnect.is_some(),
        wait: socket.wait.is_some(),
        tls_authz: socket.tls_authz.is_some(),
    };
    // The command line has other defaults.
    let options = SocketOptions {
        address,
        server: socket.server.unwrap_or(true),
        wait: socket.wait.unwrap_or(false),
        reconnect,
        nodelay: socket.nodelay.unwrap_or(false),
        protocol,
        tls_creds: socket.tls_creds,
    };
    options.check(given).map_err(in_words)?;
    Ok(options)
}
