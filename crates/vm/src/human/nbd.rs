//! The NBD server and its exports.

use ::hmp::Arguments;
use block::Graph;
use qapi::Error;
use qapi::block::export::{
    BlockExportAdd, BlockExportDetail, BlockExportOptionsNbd, BlockExportOptionsNbdBase, NbdServerOptions,
};
use qapi::sockets::{FdSocketAddress, InetSocketAddress, SocketAddress, UnixSocketAddress};

use super::{Command, Human, call, command, given, silent};
use crate::handlers::block::exports;
use crate::storage::StorageOwner as _;

/// The commands.
pub const COMMANDS: &[Command] = &[
    command(
        "nbd_server_start",
        "all:-a,writable:-w,uri:s",
        "nbd_server_start [-a] [-w] host:port",
        "serve disks over NBD, with -a all of them, with -w to be written",
        |human, arguments| match start(human, arguments) {
            Ok(()) => silent(),
            Err(error) => format!("Error: {}\n", error.desc).into(),
        },
    ),
    command(
        "nbd_server_add",
        "writable:-w,device:B,name:s?",
        "nbd_server_add [-w] device [name]",
        "serve a disk over NBD",
        |_, arguments| {
            call(
                "nbd-server-add",
                given([
                    ("device", Some(arguments.required("device").into())),
                    ("name", arguments.text("name").map(Into::into)),
                    ("writable", Some(arguments.flag("writable").into())),
                ]),
            )
        },
    ),
    command(
        "nbd_server_remove",
        "force:-f,name:s",
        "nbd_server_remove [-f] name",
        "serve a disk no longer, with -f even if there are clients",
        |_, arguments| {
            // Without a mode it stays while there are clients.
            let mode = if arguments.flag("force") { "hard" } else { "safe" };
            call("nbd-server-remove", [("name", arguments.required("name").into()), ("mode", mode.into())])
        },
    ),
    command("nbd_server_stop", "", "nbd_server_stop", "end the NBD server", |_, _| call("nbd-server-stop", [])),
];

fn start(human: &mut Human<'_>, arguments: &Arguments) -> Result<(), Error> {
    let (all, writable) = (arguments.flag("all"), arguments.flag("writable"));
    if writable && !all {
        return Err(Error::generic("-w only valid together with -a"));
    }
    let address = parse(arguments.required("uri"))?;
    let listener = exports::address(human.context, &address)?;
    // Any number of clients, as in QEMU.
    let options = NbdServerOptions { addr: address, tls_creds: None, tls_authz: None, max_connections: Some(0) };
    human.control.storage().start_nbd(listener, &options)?;
    if !all {
        return Ok(());
    }
    for export in of_all(human.control.storage_graph(), writable) {
        if let Err(error) = human.control.storage().add_export(&export, None) {
            // Those before it go with the server.
            human.control.storage().stop_nbd()?;
            return Err(error);
        }
    }
    Ok(())
}

/// An export for each disk with a medium.
fn of_all(graph: &Graph, writable: bool) -> Vec<BlockExportAdd> {
    let export = |(name, node): (String, String)| {
        let base = BlockExportOptionsNbdBase { name: Some(name.clone()), ..Default::default() };
        BlockExportAdd {
            detail: BlockExportDetail::Nbd(BlockExportOptionsNbd { base, ..Default::default() }),
            id: name,
            fixed_iothread: None,
            iothread: None,
            node_name: node,
            writable: Some(writable),
            writethrough: None,
        }
    };
    let backends = graph.backends().into_iter();
    backends
        .filter_map(|backend| Some((backend.name().to_owned(), backend.node()?.name().to_owned())))
        .map(export)
        .collect()
}

/// `unix:PATH`, `fd:NAME`, or `[tcp:]HOST:PORT[,to=PORT][,ipv4[=on|off]][,ipv6[=on|off]]`; a host with colons is in brackets.
fn parse(text: &str) -> Result<SocketAddress, Error> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err(Error::generic("invalid Unix socket address")),
            path => Ok(SocketAddress::Unix(UnixSocketAddress { path: path.to_owned(), r#abstract: None, tight: None })),
        };
    }
    if let Some(name) = text.strip_prefix("fd:") {
        return match name {
            "" => Err(Error::generic("invalid file descriptor address")),
            name => Ok(SocketAddress::Fd(FdSocketAddress { str: name.to_owned() })),
        };
    }
    let inet = text.strip_prefix("tcp:").unwrap_or(text);
    let wrong = || Error::generic(format!("error parsing address '{inet}'"));
    let mut parts = inet.split(',');
    let (host, port) = parts.next().unwrap_or_default().rsplit_once(':').ok_or_else(wrong)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    if port.is_empty() {
        return Err(wrong());
    }
    let mut address =
        InetSocketAddress { host: host.to_owned(), port: port.to_owned(), ..InetSocketAddress::default() };
    for option in parts {
        match option.split_once('=').unwrap_or((option, "on")) {
            ("to", last) => address.to = Some(last.parse().map_err(|_| Error::generic("error parsing to= argument"))?),
            ("ipv4", switch) => address.ipv4 = Some(on_or_off(switch).ok_or_else(wrong)?),
            ("ipv6", switch) => address.ipv6 = Some(on_or_off(switch).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    Ok(SocketAddress::Inet(address))
}

fn on_or_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}
