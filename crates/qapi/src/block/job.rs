//! Jobs (QEMU's `job.json`): work that goes on in the background.

use crate::{Command, Event, QapiType};

/// Kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum JobType {
    /// Data of an overlay goes into its backing file.
    Commit,
    /// Data of backing files goes into the overlay.
    Stream,
    /// A copy that follows the guest's writes.
    Mirror,
    /// A copy of one point in time.
    Backup,
    /// An image is created.
    Create,
    /// An image's options are changed.
    Amend,
    /// A snapshot is loaded.
    SnapshotLoad,
    /// A snapshot is saved.
    SnapshotSave,
    /// A snapshot is deleted.
    SnapshotDelete,
}

/// The states of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum JobStatus {
    /// Not there yet.
    Undefined,
    /// There, not started.
    Created,
    /// Works.
    Running,
    /// Paused.
    Paused,
    /// Keeps up until it is told to complete.
    Ready,
    /// Paused while it was ready.
    Standby,
    /// Waits for others of its transaction.
    Waiting,
    /// Waits to be finalized.
    Pending,
    /// Ends because of an error, or because it was cancelled.
    Aborting,
    /// Ended; waits to be dismissed.
    Concluded,
    /// Gone.
    Null,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub r#type: JobType,
    /// Its state.
    pub status: JobStatus,
    /// How much is done, in a unit of the job's own.
    pub current_progress: i64,
    /// How much there will have been when it is complete, as far as it is known.
    pub total_progress: i64,
    /// Why it failed.
    pub error: Option<String>,
}

/// Lists the jobs.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-jobs", returns = Vec<JobInfo>, preconfig)]
pub struct QueryJobs;

/// Lets a job pause at its next opportunity.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-pause", preconfig)]
pub struct JobPause {
    /// The job.
    pub id: String,
}

/// Lets a paused job go on.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-resume", preconfig)]
pub struct JobResume {
    /// The job.
    pub id: String,
}

/// Cancels a job at its next opportunity.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-cancel", preconfig)]
pub struct JobCancel {
    /// The job.
    pub id: String,
}

/// Lets a ready job complete.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-complete", preconfig)]
pub struct JobComplete {
    /// The job.
    pub id: String,
}

/// Forgets a concluded job.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-dismiss", preconfig)]
pub struct JobDismiss {
    /// The job.
    pub id: String,
}

/// Lets a pending job make its last changes.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "job-finalize", preconfig)]
pub struct JobFinalize {
    /// The job.
    pub id: String,
}

/// A job came into another state.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "JOB_STATUS_CHANGE")]
pub struct JobStatusChange {
    /// The job.
    pub id: String,
    /// The state.
    pub status: JobStatus,
}
