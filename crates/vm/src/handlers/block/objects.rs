//! Objects that users create.

use qapi::objects::{ObjectAdd, ObjectDel, QueryIothreads};

use crate::handlers::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<ObjectAdd>(|control, _, command| control.storage().objects().add(command));
    table.register::<ObjectDel>(|control, _, command| control.storage().objects().delete(&command.id));
    table.register::<QueryIothreads>(|control, _, _| Ok(control.storage().objects().io_threads()));
}
