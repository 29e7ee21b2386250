//! Remote displays.

use std::sync::Arc;

use ::vnc::{ListenAddress, OwnedFdEq};
use qapi::Error;
use qapi::sockets::SocketAddress;
use qapi::spice::{QuerySpice, SpiceConnected, SpiceDisconnected, SpiceInitialized};
use qapi::vnc::{
    AddClient, ChangeVncPassword, ClientMigrateInfo, DisplayReload, DisplayReloadOptions, DisplayUpdate,
    DisplayUpdateOptions, ExpirePassword, ExpirePasswordServer, QueryDisplayOptions, QueryVnc, QueryVncServers,
    SetPassword, SetPasswordAction, SetPasswordServer, VncConnected, VncDisconnected, VncInitialized,
};
use qmp::SessionContext;

use super::Table;
use crate::control::Control;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryVnc>(|control, _, _| Ok(control.vnc().info()));
    table.register::<QueryVncServers>(|control, _, _| Ok(control.vnc().servers()));
    table.register::<ChangeVncPassword>(|control, _, wanted| control.vnc().set_password(None, &wanted.password));
    table.register::<SetPassword>(|control, _, wanted| {
        let SetPasswordServer::Vnc(server) = &wanted.server else {
            return control.spice().set_password(&wanted.password, wanted.connected);
        };
        if wanted.connected.is_some_and(|action| action != SetPasswordAction::Keep) {
            return Err(Error::invalid_parameter("connected"));
        }
        control.vnc().set_password(server.display.as_deref(), &wanted.password)
    });
    table.register::<ExpirePassword>(|control, _, wanted| {
        let ExpirePasswordServer::Vnc(server) = &wanted.server else {
            return control.spice().expire_password(&wanted.time);
        };
        control.vnc().expire_password(server.display.as_deref(), &wanted.time)
    });
    table.register::<AddClient>(|control, context, wanted| add_client(control, context, &wanted));
    table.register::<ClientMigrateInfo>(|control, _, wanted| match wanted.protocol.as_str() {
        "spice" => control.spice().set_destination(&wanted),
        _ => Err(Error::expects("protocol", "'spice'")),
    });
    table.register::<DisplayReload>(|control, _, wanted| {
        let DisplayReloadOptions::Vnc(options) = wanted.options;
        if options.tls_certs == Some(true) {
            let (vnc, storage) = control.vnc_and_storage();
            return vnc.reload_certificates(storage);
        }
        Ok(())
    });
    table.register::<DisplayUpdate>(|control, context, wanted| {
        let DisplayUpdateOptions::Vnc(options) = wanted.options;
        control.vnc().first()?;
        match options.addresses {
            Some(addresses) => {
                let addresses: Result<Vec<_>, _> =
                    addresses.into_iter().map(|address| listen_address(address, context)).collect();
                control.vnc().listen(&addresses?)
            }
            None => Ok(()),
        }
    });
    table.register_snapshot::<QueryDisplayOptions>(|snapshot, _, _| Ok(snapshot.display.clone()));
    table.register::<QuerySpice>(|control, _, _| Ok(control.spice().info()));
    table.declare_event::<SpiceConnected>();
    table.declare_event::<SpiceInitialized>();
    table.declare_event::<SpiceDisconnected>();
    table.declare_event::<VncConnected>();
    table.declare_event::<VncInitialized>();
    table.declare_event::<VncDisconnected>();
}

fn add_client(control: &mut Control, context: &mut SessionContext, wanted: &AddClient) -> Result<(), Error> {
    let socket = context.fds().take(&wanted.fdname)?;
    match wanted.protocol.as_str() {
        "vnc" => {
            let added = control.vnc().first()?.add_client(socket, wanted.skipauth.unwrap_or(false));
            added.map_err(|error| Error::generic(error.to_string()))
        }
        "spice" => control.spice().add_client(socket, wanted),
        // A character device by its id.
        other => control.chardevs().add_client(other, socket).map_err(|error| match error {
            chardev::Error::NotFound(_) => Error::generic(format!("protocol '{other}' is invalid")),
            error => Error::generic(error.to_string()),
        }),
    }
}

fn listen_address(address: SocketAddress, context: &SessionContext) -> Result<ListenAddress, Error> {
    Ok(match address {
        SocketAddress::Inet(inet) => {
            let port = inet.port.parse();
            let port = port.map_err(|_| Error::generic(format!("can't convert to a number: {}", inet.port)))?;
            ListenAddress::Inet { host: inet.host, port, to: inet.to, ipv4: inet.ipv4, ipv6: inet.ipv6 }
        }
        SocketAddress::Unix(unix) if unix.r#abstract == Some(true) => {
            return Err(Error::generic("abstract sockets are not available for VNC"));
        }
        SocketAddress::Unix(unix) => ListenAddress::Unix(unix.path),
        SocketAddress::Vsock(_) => return Err(Error::generic("vsock is not available for VNC")),
        SocketAddress::Fd(fd) => ListenAddress::Fd(Arc::new(OwnedFdEq(context.fds().take_param(&fd.str)?))),
    })
}
