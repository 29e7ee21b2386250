//! Making, deleting and changing nodes.

use qapi::block::events::{BlockIoError, BlockWriteThreshold, QuorumFailure, QuorumReportBad};
use qapi::block::nodes::{
    BlockResize, BlockSetWriteThreshold, BlockdevAdd, BlockdevDel, BlockdevReopen, ChangeBackingFile, XBlockdevChange,
    XBlockdevDel, XBlockdevReopen, XBlockdevSetIothread, XDebugQueryBlockGraph,
};
use qapi::block::throttle::BlockSetIoThrottle;

use qmp::CommandTable;

use crate::storage::{Storage, StorageOwner};

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register_deferred::<BlockdevAdd>(|control, _, command, reply| {
        let done = move |_: &mut Storage, added| reply.send(added);
        control.storage().add_node_aside(&command.options, command.id.as_deref(), done);
    });
    table.register::<XDebugQueryBlockGraph>(|control, _, _| Ok(control.storage().block_graph()));
    table.register::<XBlockdevSetIothread>(|control, _, command| control.storage().set_io_thread(&command));
    table.register_deferred::<BlockdevDel>(|control, _, command, reply| {
        control.storage().delete_node(&command.node_name, move |_, deleted| reply.send(deleted));
    });
    table.register_deferred::<XBlockdevDel>(|control, _, command, reply| {
        let done = move |_: &mut Storage, deleted| reply.send(deleted);
        control.storage().delete_backend_or_node(command.id.as_deref(), command.node_name.as_deref(), done);
    });
    table.register_deferred::<XBlockdevChange>(|control, _, command, reply| {
        control.storage().change_children(command, move |_, changed| reply.send(changed));
    });
    table.register_deferred::<BlockdevReopen>(|control, _, command, reply| {
        control.storage().reopen(&command.options, move |_, done| reply.send(done));
    });
    table.register_deferred::<XBlockdevReopen>(|control, _, command, reply| {
        control.storage().reopen(&[command.options], move |_, done| reply.send(done));
    });
    table.register_deferred::<BlockResize>(|control, _, command, reply| {
        let storage = control.storage();
        let node = storage.node_by(command.device.as_deref(), command.node_name.as_deref());
        storage.resize(node, command.size, move |_, resized| reply.send(resized));
    });
    table.register::<BlockSetWriteThreshold>(|control, _, command| {
        control.storage().set_write_threshold(&command.node_name, command.write_threshold)
    });
    table.register_deferred::<ChangeBackingFile>(|control, _, command, reply| {
        control.storage().change_backing_file(&command, move |_, changed| reply.send(changed));
    });
    table.register::<BlockSetIoThrottle>(|control, _, command| control.storage().set_limits(&command));
    table.declare_event::<BlockIoError>();
    table.declare_event::<BlockWriteThreshold>();
    table.declare_event::<QuorumFailure>();
    table.declare_event::<QuorumReportBad>();
}
