//! Exports, and the NBD server.

use qapi::Error;
use qapi::block::export::{
    BlockExportAdd, BlockExportDel, BlockExportDeleted, BlockExportDetail, NbdServerAdd, NbdServerOptions,
    NbdServerRemove, NbdServerStart, NbdServerStop, QueryBlockExports,
};
use qapi::sockets::SocketAddress;
use qmp::{CommandTable, SessionContext};

use crate::storage::StorageOwner;
use crate::storage::exports::listen_address;

/// Where to listen, for a client whose session may know descriptors.
///
/// # Errors
/// There is no such descriptor.
pub fn address(context: &SessionContext, address: &SocketAddress) -> Result<block_export::Address, Error> {
    match address {
        SocketAddress::Fd(fd) => context.fds().take_param(&fd.str).map(block_export::Address::Fd),
        other => listen_address(other),
    }
}

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<NbdServerStart>(|control, context, command| {
        let address = address(context, &command.addr.clone().into())?;
        let options = NbdServerOptions {
            addr: command.addr.into(),
            tls_creds: command.tls_creds,
            tls_authz: command.tls_authz,
            max_connections: command.max_connections,
        };
        control.storage().start_nbd(address, &options)
    });
    table.register::<NbdServerAdd>(|control, _, command| control.storage().add_nbd_export(command));
    table.register::<NbdServerRemove>(|control, _, command| {
        control.storage().delete_export(&command.name, command.mode)
    });
    table.register::<NbdServerStop>(|control, _, _| control.storage().stop_nbd());
    table.register::<BlockExportAdd>(|control, context, command| {
        let own = match &command.detail {
            BlockExportDetail::VhostUserBlk(options) => Some(address(context, &options.addr)?),
            BlockExportDetail::Nbd(_) | BlockExportDetail::Fuse(_) => None,
        };
        control.storage().add_export(&command, own)
    });
    table.register::<BlockExportDel>(|control, _, command| control.storage().delete_export(&command.id, command.mode));
    table.register::<QueryBlockExports>(|control, _, _| Ok(control.storage().export_infos()));
    table.declare_event::<BlockExportDeleted>();
}
