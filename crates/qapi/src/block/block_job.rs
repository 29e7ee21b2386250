//! Jobs that copy the data of disks (QEMU's `block-core.json`), by today's names and older ones.

use super::common::{BlockErrorAction, BlockdevOnError, IoOperationType};
use super::info::BlockDeviceIoStatus;
use super::job::{JobStatus, JobType};
use super::snapshots::NewImageMode;
use crate::{Command, Event, QapiType};

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum MirrorSyncMode {
    /// What the topmost image holds.
    Top,
    /// All that the guest sees.
    Full,
    /// Only what is written from now on.
    None,
    /// What is dirty in a bitmap, which starts again with success.
    Incremental,
    /// What is dirty in a bitmap.
    Bitmap,
}

/// What becomes of the bitmap of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BitmapSyncMode {
    /// It starts again with success.
    OnSuccess,
    /// It stays.
    Never,
    /// It starts again, with what could not be copied.
    Always,
}

/// When a mirror copies what the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum MirrorCopyMode {
    /// Later.
    Background,
    /// With the write.
    WriteBlocking,
}

/// How hard a backup works.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BackupPerf {
    /// Let the host copy; off if absent, and `true` is refused.
    pub use_copy_range: Option<bool>,
    /// The most requests in flight; 64 if absent.
    pub max_workers: Option<i64>,
    /// The longest request, bytes; no limit if absent or 0.
    pub max_chunk: Option<i64>,
}

/// A job of a disk.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockJobInfo {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub device: String,
    /// How much there will have been, bytes.
    pub len: i64,
    /// How much is done.
    pub offset: i64,
    /// Whether it works just now.
    pub busy: bool,
    /// Whether it is paused, or shall be.
    pub paused: bool,
    /// Bytes a second; 0 is no limit.
    pub speed: i64,
    /// The state of its requests.
    pub io_status: BlockDeviceIoStatus,
    /// Whether it can be completed.
    pub ready: bool,
    /// Its state.
    pub status: JobStatus,
    /// Whether it makes its last changes without being told.
    pub auto_finalize: bool,
    /// Whether it is forgotten when it has ended.
    pub auto_dismiss: bool,
    /// Why it failed.
    pub error: Option<String>,
}

/// Lists the jobs of disks.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-block-jobs", returns = Vec<BlockJobInfo>, preconfig)]
pub struct QueryBlockJobs;

/// Limits the speed of a job.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-set-speed", preconfig)]
pub struct BlockJobSetSpeed {
    /// The job.
    pub device: String,
    /// Bytes a second; 0 is no limit.
    pub speed: i64,
}

/// Cancels a job. One that is ready completes without changing the disk, unless it is forced.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-cancel", preconfig)]
pub struct BlockJobCancel {
    /// The job.
    pub device: String,
    /// Whether what was done is given up in any case; off if absent.
    pub force: Option<bool>,
}

/// Pauses a job.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-pause", preconfig)]
pub struct BlockJobPause {
    /// The job.
    pub device: String,
}

/// Lets a paused job go on.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-resume", preconfig)]
pub struct BlockJobResume {
    /// The job.
    pub device: String,
}

/// What of a mirror can be changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockJobChangeOptionsMirror {
    /// When it copies what the guest writes. Only with the write, if it was later.
    pub copy_mode: MirrorCopyMode,
}

/// What of a job can be changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", tag_type = JobType)]
pub enum BlockJobChangeOptions {
    /// A mirror.
    Mirror(BlockJobChangeOptionsMirror),
    /// Another job, of which nothing can be changed.
    #[qapi(other)]
    Other(JobType),
}

/// Lets a job go on in another way.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-change", preconfig)]
pub struct BlockJobChange {
    /// The job.
    pub id: String,
    /// Its kind, and what is changed.
    #[qapi(flatten)]
    pub options: BlockJobChangeOptions,
}

/// Lets a ready job complete.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-complete", preconfig)]
pub struct BlockJobComplete {
    /// The job.
    pub device: String,
}

/// Forgets a job that has ended.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-dismiss", preconfig)]
pub struct BlockJobDismiss {
    /// The job.
    pub id: String,
}

/// Lets a job make its last changes.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-job-finalize", preconfig)]
pub struct BlockJobFinalize {
    /// The job.
    pub id: String,
}

/// Copies what is below an image into it.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-stream", preconfig)]
pub struct BlockStream {
    /// The job; the back end's name if absent.
    pub job_id: Option<String>,
    /// The back end or the node.
    pub device: String,
    /// The file of the image that stays below.
    pub base: Option<String>,
    /// The node that stays below.
    pub base_node: Option<String>,
    /// The name of the backing that the image gets.
    pub backing_file: Option<String>,
    /// The lowest node whose data is copied.
    pub bottom: Option<String>,
    /// Bytes a second; 0 is no limit.
    pub speed: Option<i64>,
    /// What errors lead to; a report if absent.
    pub on_error: Option<BlockdevOnError>,
    /// The node of the filter that the job makes.
    pub filter_node_name: Option<String>,
    /// Whether it makes its last changes without being told; on if absent.
    pub auto_finalize: Option<bool>,
    /// Whether it is forgotten when it has ended; on if absent.
    pub auto_dismiss: Option<bool>,
}

/// Copies what images hold into one below them.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-commit", preconfig)]
pub struct BlockCommit {
    /// The job; the back end's name if absent.
    pub job_id: Option<String>,
    /// The back end or the node.
    pub device: String,
    /// The node that the data goes to; the lowest if absent.
    pub base_node: Option<String>,
    /// The file of the image that the data goes to.
    #[qapi(deprecated)]
    pub base: Option<String>,
    /// The topmost node whose data goes down; the active one if absent.
    pub top_node: Option<String>,
    /// The file of the topmost image whose data goes down.
    #[qapi(deprecated)]
    pub top: Option<String>,
    /// The name of the backing that the image above gets.
    pub backing_file: Option<String>,
    /// Bytes a second; 0 is no limit.
    pub speed: Option<i64>,
    /// What errors lead to; a report if absent.
    pub on_error: Option<BlockdevOnError>,
    /// The node of the filter that the job makes.
    pub filter_node_name: Option<String>,
    /// Whether it makes its last changes without being told; on if absent.
    pub auto_finalize: Option<bool>,
    /// Whether it is forgotten when it has ended; on if absent.
    pub auto_dismiss: Option<bool>,
}

/// A mirror into a file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct DriveMirror {
    /// The job; the back end's name if absent.
    pub job_id: Option<String>,
    /// The back end or the node.
    pub device: String,
    /// The file of the copy.
    pub target: String,
    /// Its format; that of the source if absent and the file is made, else it is probed.
    pub format: Option<String>,
    /// The node of the copy.
    pub node_name: Option<String>,
    /// The node that the copy replaces.
    pub replaces: Option<String>,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// Whether the file is made; it is if absent.
    pub mode: Option<NewImageMode>,
    /// Bytes a second; 0 is no limit.
    pub speed: Option<i64>,
    /// Bytes of a bit.
    pub granularity: Option<u32>,
    /// Bytes in flight.
    pub buf_size: Option<i64>,
    /// What errors of the source lead to; a report if absent.
    pub on_source_error: Option<BlockdevOnError>,
    /// What errors of the copy lead to; a report if absent.
    pub on_target_error: Option<BlockdevOnError>,
    /// Whether zeroes give space back; on if absent.
    pub unmap: Option<bool>,
    /// When the guest's writes are copied; later if absent.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Whether it makes its last changes without being told; on if absent.
    pub auto_finalize: Option<bool>,
    /// Whether it is forgotten when it has ended; on if absent.
    pub auto_dismiss: Option<bool>,
}

/// Starts a mirror into a file.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "drive-mirror", preconfig)]
pub struct DriveMirrorCommand {
    /// Which.
    #[qapi(flatten)]
    pub mirror: DriveMirror,
}

/// Starts a mirror into a node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-mirror", preconfig)]
pub struct BlockdevMirror {
    /// The job; the back end's name if absent.
    pub job_id: Option<String>,
    /// The back end or the node.
    pub device: String,
    /// The node of the copy.
    pub target: String,
    /// The node that the copy replaces.
    pub replaces: Option<String>,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// The bitmap of the source that says what is copied at first, in the modes `incremental` and `bitmap`.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap.
    pub bitmap_mode: Option<BitmapSyncMode>,
    /// Bytes a second; 0 is no limit.
    pub speed: Option<i64>,
    /// Bytes of a bit; those of the bitmap if there is one.
    pub granularity: Option<u32>,
    /// Bytes in flight.
    pub buf_size: Option<i64>,
    /// What errors of the source lead to; a report if absent.
    pub on_source_error: Option<BlockdevOnError>,
    /// What errors of the copy lead to; a report if absent.
    pub on_target_error: Option<BlockdevOnError>,
    /// The node of the filter that the job makes.
    pub filter_node_name: Option<String>,
    /// When the guest's writes are copied; later if absent.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Whether it makes its last changes without being told; on if absent.
    pub auto_finalize: Option<bool>,
    /// Whether it is forgotten when it has ended; on if absent.
    pub auto_dismiss: Option<bool>,
}

/// A backup into a file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct DriveBackup {
    /// As into a node, but that its target is a file.
    #[qapi(flatten)]
    pub backup: BlockdevBackup,
    /// Its format; that of the source if absent and the file is made, else it is probed.
    pub format: Option<String>,
    /// Whether the file is made; it is if absent.
    pub mode: Option<NewImageMode>,
}

/// A backup into a node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevBackup {
    /// The job; the back end's name if absent.
    pub job_id: Option<String>,
    /// The back end or the node.
    pub device: String,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// Bytes a second; 0 is no limit.
    pub speed: Option<i64>,
    /// The bitmap.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap.
    pub bitmap_mode: Option<BitmapSyncMode>,
    /// Whether the copy is compressed; off if absent.
    pub compress: Option<bool>,
    /// What errors of the source lead to; a report if absent.
    pub on_source_error: Option<BlockdevOnError>,
    /// What errors of the copy lead to; a report if absent.
    pub on_target_error: Option<BlockdevOnError>,
    /// Whether it makes its last changes without being told; on if absent.
    pub auto_finalize: Option<bool>,
    /// Whether it is forgotten when it has ended; on if absent.
    pub auto_dismiss: Option<bool>,
    /// The node of the filter that the job makes.
    pub filter_node_name: Option<String>,
    /// How hard it works.
    #[qapi(unstable)]
    pub x_perf: Option<BackupPerf>,
    /// The node of the copy.
    pub target: String,
}

/// Starts a backup into a file.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "drive-backup", preconfig)]
#[qapi(feature = "deprecated")]
pub struct DriveBackupCommand {
    /// Which.
    #[qapi(flatten)]
    pub backup: DriveBackup,
}

/// Starts a backup into a node.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-backup", preconfig)]
pub struct BlockdevBackupCommand {
    /// Which.
    #[qapi(flatten)]
    pub backup: BlockdevBackup,
}

/// A job has ended.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_JOB_COMPLETED")]
pub struct BlockJobCompleted {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub device: String,
    /// How much there was, bytes.
    pub len: i64,
    /// How much is done.
    pub offset: i64,
    /// Bytes a second; 0 is no limit.
    pub speed: i64,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job was cancelled.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_JOB_CANCELLED")]
pub struct BlockJobCancelled {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub device: String,
    /// How much there would have been, bytes.
    pub len: i64,
    /// How much is done.
    pub offset: i64,
    /// Bytes a second; 0 is no limit.
    pub speed: i64,
}

/// A request of a job failed.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_JOB_ERROR")]
pub struct BlockJobError {
    /// The job.
    pub device: String,
    /// The direction.
    pub operation: IoOperationType,
    /// What was done about it.
    pub action: BlockErrorAction,
}

/// A job can be completed.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_JOB_READY")]
pub struct BlockJobReady {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub device: String,
    /// How much there was, bytes.
    pub len: i64,
    /// How much is done.
    pub offset: i64,
    /// Bytes a second; 0 is no limit.
    pub speed: i64,
}

/// A job waits to be finalized.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "BLOCK_JOB_PENDING")]
pub struct BlockJobPending {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub id: String,
}
