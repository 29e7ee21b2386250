//! Snapshots, and transactions.

use qapi::block::snapshots::{
    BlockdevSnapshotCommand, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternalSync,
    BlockdevSnapshotSyncCommand,
};
use qapi::block::transaction::Transaction;

use qmp::CommandTable;

use crate::storage::StorageOwner;

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<BlockdevSnapshotSyncCommand>(|control, _, command| {
        let now = control.guest_time();
        control.storage().snapshot_sync(command.snapshot, now)
    });
    table.register::<BlockdevSnapshotCommand>(|control, _, command| {
        let now = control.guest_time();
        control.storage().snapshot(command.snapshot, now)
    });
    table.register::<BlockdevSnapshotInternalSync>(|control, _, command| {
        let now = control.guest_time();
        control.storage().snapshot_internal(command.snapshot, now)
    });
    table.register::<BlockdevSnapshotDeleteInternalSync>(|control, _, command| {
        control.storage().delete_internal_snapshot(&command)
    });
    table.register::<Transaction>(|control, _, command| {
        let now = control.guest_time();
        control.storage().transact(&command.actions, command.properties.as_ref(), now)
    });
}
