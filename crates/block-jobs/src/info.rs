//! What others see of a job and may want of it: its kind, its states and which follows which, what happens to it.

use block::backend::{ErrorAction, IoStatus};

/// Kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data of an overlay goes into what is below.
    Commit,
    /// Data from below goes into the overlay.
    Stream,
    /// A copy that follows the writes.
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

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 9] = [
            "commit",
            "stream",
            "mirror",
            "backup",
            "create",
            "amend",
            "snapshot-load",
            "snapshot-save",
            "snapshot-delete",
        ];
        NAMES[self as usize]
    }

    /// Whether it belongs to a disk: such jobs have events and commands of their own.
    pub fn is_block(self) -> bool {
        matches!(self, Self::Commit | Self::Stream | Self::Mirror | Self::Backup)
    }
}

/// The states of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
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

impl Status {
    /// Its name.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 11] = [
            "undefined",
            "created",
            "running",
            "paused",
            "ready",
            "standby",
            "waiting",
            "pending",
            "aborting",
            "concluded",
            "null",
        ];
        NAMES[self as usize]
    }

    pub(crate) fn may_become(self, next: Self) -> bool {
        use Status::{
            Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Undefined, Waiting,
        };
        match self {
            Undefined => next == Created,
            Created => matches!(next, Running | Aborting | Null),
            Running => matches!(next, Paused | Ready | Waiting | Aborting),
            Paused => next == Running,
            Ready => matches!(next, Standby | Waiting | Aborting),
            Standby => next == Ready,
            Waiting => matches!(next, Pending | Aborting),
            Pending | Aborting => matches!(next, Aborting | Concluded),
            Concluded => next == Null,
            Null => false,
        }
    }
}

/// What a client wants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To end as soon as it can.
    Cancel,
    /// To pause.
    Pause,
    /// To go on.
    Resume,
    /// To be as fast as this.
    SetSpeed,
    /// To come to its end, if it goes on until it is told.
    Complete,
    /// To make its last changes.
    Finalize,
    /// To be forgotten.
    Dismiss,
    /// To go on in another way.
    Change,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        ["cancel", "pause", "resume", "set-speed", "complete", "finalize", "dismiss", "change"][self as usize]
    }

    pub(crate) fn is_allowed(self, status: Status) -> bool {
        use Status::{Concluded, Created, Paused, Pending, Ready, Running, Standby, Waiting};
        match self {
            Self::Cancel => matches!(status, Created | Running | Paused | Ready | Standby | Waiting | Pending),
            Self::Pause | Self::Resume | Self::SetSpeed => {
                matches!(status, Created | Running | Paused | Ready | Standby)
            }
            Self::Complete => matches!(status, Ready | Standby),
            Self::Finalize => status == Pending,
            Self::Dismiss => status == Concluded,
            Self::Change => matches!(status, Running | Paused | Ready | Standby),
        }
    }
}

/// When a mirror copies what a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// Later.
    Background,
    /// Before the guest is told that its write is done.
    WriteBlocking,
}

/// What of a job can be changed while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// When a mirror copies.
    CopyMode(CopyMode),
}

/// What a job does about an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It fails.
    #[default]
    Report,
    /// It goes on.
    Ignore,
    /// It pauses if there is no space, and fails else.
    Enospc,
    /// It pauses.
    Stop,
    /// As [`OnError::Enospc`].
    Auto,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its state is another one.
    Status(Status),
    /// It waits for being told to complete.
    Ready,
    /// It waits for being told to finalize.
    Pending,
    /// It has ended, with an error or without.
    Completed(Option<String>),
    /// It was cancelled.
    Cancelled,
    /// A request failed.
    Error {
        /// It was a read.
        is_read: bool,
        /// What is done about it.
        action: ErrorAction,
    },
}

/// A job as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub kind: Kind,
    /// Its state.
    pub status: Status,
    /// How much is done, bytes or a unit of the job's own.
    pub current: u64,
    /// How much there will have been, as far as it is known.
    pub total: u64,
    /// Bytes a second, or 0 for no limit.
    pub speed: u64,
    /// It works just now.
    pub busy: bool,
    /// Somebody wants it to pause.
    pub paused: bool,
    /// The state of its requests.
    pub io_status: IoStatus,
    /// It makes its last changes without being told.
    pub auto_finalize: bool,
    /// It is forgotten when it has ended.
    pub auto_dismiss: bool,
    /// Why it failed.
    pub error: Option<String>,
}
