//! Objects that users create.

use qapi::objects::{ObjectAdd, ObjectDel, QueryIothreads};

use qmp::CommandTable;

use crate::storage::StorageOwner;

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<ObjectAdd>(|control, _, command| control.storage().objects().add(command));
    table.register::<ObjectDel>(|control, _, command| {
        control.storage().release_node_threads();
        control.storage().objects().delete(&command.id)
    });
    table.register::<QueryIothreads>(|control, _, _| Ok(control.storage().objects().io_threads()));
}
