//! Jobs.

use block_jobs::Verb;
use qapi::block::amend::XBlockdevAmend;
use qapi::block::block_job::{
    BlockCommit, BlockJobCancel, BlockJobCancelled, BlockJobChange, BlockJobComplete, BlockJobCompleted,
    BlockJobDismiss, BlockJobError, BlockJobFinalize, BlockJobPause, BlockJobPending, BlockJobReady, BlockJobResume,
    BlockJobSetSpeed, BlockStream, BlockdevBackupCommand, BlockdevMirror, DriveBackupCommand, DriveMirrorCommand,
    QueryBlockJobs,
};
use qapi::block::create::BlockdevCreate;
use qapi::block::job::{
    JobCancel, JobComplete, JobDismiss, JobFinalize, JobPause, JobResume, JobStatusChange, QueryJobs,
};

use qmp::CommandTable;

use crate::storage::{Storage, StorageOwner, client_error};

fn job(storage: &Storage, id: &str, verb: Verb) -> Result<(), qapi::Error> {
    storage.apply(&storage.job(id)?, verb)
}

fn block_job(storage: &Storage, id: &str, verb: Verb) -> Result<(), qapi::Error> {
    storage.apply(&storage.block_job(id)?, verb)
}

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<QueryJobs>(|control, _, _| Ok(control.storage().job_infos()));
    table.register::<JobCancel>(|control, _, command| job(control.storage(), &command.id, Verb::Cancel));
    table.register::<JobPause>(|control, _, command| job(control.storage(), &command.id, Verb::Pause));
    table.register::<JobResume>(|control, _, command| job(control.storage(), &command.id, Verb::Resume));
    table.register::<JobComplete>(|control, _, command| job(control.storage(), &command.id, Verb::Complete));
    table.register::<JobFinalize>(|control, _, command| job(control.storage(), &command.id, Verb::Finalize));
    table.register::<JobDismiss>(|control, _, command| job(control.storage(), &command.id, Verb::Dismiss));
    table.register::<QueryBlockJobs>(|control, _, _| Ok(control.storage().block_job_infos()));
    table.register::<BlockJobSetSpeed>(|control, _, command| {
        control.storage().block_job(&command.device)?.set_speed(command.speed).map_err(client_error)
    });
    table.register::<BlockJobCancel>(|control, _, command| {
        control.storage().cancel_block_job(&command.device, command.force.unwrap_or(false))
    });
    table.register::<BlockJobPause>(|control, _, command| block_job(control.storage(), &command.device, Verb::Pause));
    table.register::<BlockJobResume>(|control, _, command| block_job(control.storage(), &command.device, Verb::Resume));
    table.register::<BlockJobChange>(|control, _, command| control.storage().change_block_job(&command));
    table.register::<BlockJobComplete>(|control, _, command| {
        block_job(control.storage(), &command.device, Verb::Complete)
    });
    table.register::<BlockJobFinalize>(|control, _, command| block_job(control.storage(), &command.id, Verb::Finalize));
    table.register::<BlockJobDismiss>(|control, _, command| block_job(control.storage(), &command.id, Verb::Dismiss));
    table.register::<BlockStream>(|control, _, command| control.storage().block_stream(&command));
    table.register::<BlockCommit>(|control, _, command| control.storage().block_commit(&command));
    table.register::<BlockdevMirror>(|control, _, command| control.storage().blockdev_mirror(&command));
    table.register::<DriveMirrorCommand>(|control, _, command| control.storage().drive_mirror(&command.mirror));
    table.register::<BlockdevBackupCommand>(|control, _, command| control.storage().blockdev_backup(&command.backup));
    table.register::<DriveBackupCommand>(|control, _, command| control.storage().drive_backup(&command.backup));
    table.register::<BlockdevCreate>(|control, _, command| control.storage().create_image(&command));
    table.register::<XBlockdevAmend>(|control, _, command| control.storage().amend_image(&command));
    table.declare_event::<JobStatusChange>();
    table.declare_event::<BlockJobCancelled>();
    table.declare_event::<BlockJobCompleted>();
    table.declare_event::<BlockJobError>();
    table.declare_event::<BlockJobPending>();
    table.declare_event::<BlockJobReady>();
}
