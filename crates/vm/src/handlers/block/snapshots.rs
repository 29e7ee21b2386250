//! Snapshots, and transactions.

use qapi::block::snapshots::{
    BlockdevSnapshotCommand, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternalSync,
    BlockdevSnapshotSyncCommand,
};
use qapi::block::transaction::Transaction;

use qmp::CommandTable;

use crate::storage::{Storage, StorageOwner};

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register_deferred::<BlockdevSnapshotSyncCommand>(|control, _, command, reply| {
        let now = control.guest_time();
        control.storage().snapshot_sync(command.snapshot, now, move |_, made| reply.send(made));
    });
    table.register_deferred::<BlockdevSnapshotCommand>(|control, _, command, reply| {
        let now = control.guest_time();
        control.storage().snapshot(command.snapshot, now, move |_, made| reply.send(made));
    });
    table.register_deferred::<BlockdevSnapshotInternalSync>(|control, _, command, reply| {
        let now = control.guest_time();
        control.storage().snapshot_internal(command.snapshot, now, move |_, made| reply.send(made));
    });
    table.register_deferred::<BlockdevSnapshotDeleteInternalSync>(|control, _, command, reply| {
        control.storage().delete_internal_snapshot(&command, move |_, deleted| reply.send(deleted));
    });
    table.register_deferred::<Transaction>(|control, _, command, reply| {
        let now = control.guest_time();
        let done = move |_: &mut Storage, made| reply.send(made);
        control.storage().transact(command.actions, command.properties, now, done);
    });
}
