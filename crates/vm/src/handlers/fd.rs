//! File descriptors that clients pass.

use qapi::fd::{AddFd, Closefd, Getfd, QueryFdsets, RemoveFd};

use super::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<Getfd>(|_, context, arguments| context.getfd(&arguments.fdname));
    table.register::<Closefd>(|_, context, arguments| context.fds().close(&arguments.fdname));
    table.register::<AddFd>(|_, context, arguments| context.add_fd(arguments.fdset_id, arguments.opaque));
    table.register::<RemoveFd>(|_, context, arguments| context.fd_sets().remove(arguments.fdset_id, arguments.fd));
    table.register::<QueryFdsets>(|_, context, _| Ok(context.fd_sets().query()));
}
