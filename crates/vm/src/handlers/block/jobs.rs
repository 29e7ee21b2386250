//! Jobs.

use qapi::block::create::BlockdevCreate;
use qapi::block::job::{
    JobCancel, JobComplete, JobDismiss, JobFinalize, JobPause, JobResume, JobStatusChange, QueryJobs,
};

use qmp::CommandTable;

use crate::storage::StorageOwner;
use crate::storage::Verb;

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<QueryJobs>(|control, _, _| Ok(control.storage().jobs().query()));
    table.register::<JobCancel>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Cancel));
    table.register::<JobPause>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Pause));
    table.register::<JobResume>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Resume));
    table.register::<JobComplete>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Complete));
    table.register::<JobFinalize>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Finalize));
    table.register::<JobDismiss>(|control, _, job| control.storage().jobs().apply(&job.id, Verb::Dismiss));
    table.register::<BlockdevCreate>(|control, _, command| control.storage().create_image(&command));
    table.declare_event::<JobStatusChange>();
}
