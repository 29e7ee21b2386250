//! Jobs, as clients see them: names, verbs, queries and events. What jobs do is in the crate `block_jobs`.

pub(super) mod backup;
mod chain;
mod mirror;

use std::sync::{Arc, MutexGuard, PoisonError};

use block::Node;
use block_jobs::{Change, Common, CopyMode, Event, Info, Job, Kind, Observer, OnError, Status, Verb};
use qapi::block::block_job::{
    BlockJobCancelled, BlockJobChange, BlockJobChangeOptions, BlockJobCompleted, BlockJobError, BlockJobInfo,
    BlockJobPending, BlockJobReady, MirrorCopyMode,
};
use qapi::block::common::{BlockdevOnError, IoOperationType};
use qapi::block::job::{JobInfo, JobStatus, JobStatusChange, JobType};
use qapi::{Error, ErrorClass};
use qmp::EventSink;

use super::{OwnerLink, Storage, client_error};

/// Tells clients what happens to jobs.
struct Teller(EventSink);

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn kind(kind: Kind) -> JobType {
    match kind {
        Kind::Commit => JobType::Commit,
        Kind::Stream => JobType::Stream,
        Kind::Mirror => JobType::Mirror,
        Kind::Backup => JobType::Backup,
        Kind::Create => JobType::Create,
        Kind::Amend => JobType::Amend,
        Kind::SnapshotLoad => JobType::SnapshotLoad,
        Kind::SnapshotSave => JobType::SnapshotSave,
        Kind::SnapshotDelete => JobType::SnapshotDelete,
    }
}

fn status(status: Status) -> JobStatus {
    match status {
        Status::Undefined => JobStatus::Undefined,
        Status::Created => JobStatus::Created,
        Status::Running => JobStatus::Running,
        Status::Paused => JobStatus::Paused,
        Status::Ready => JobStatus::Ready,
        Status::Standby => JobStatus::Standby,
        Status::Waiting => JobStatus::Waiting,
        Status::Pending => JobStatus::Pending,
        Status::Aborting => JobStatus::Aborting,
        Status::Concluded => JobStatus::Concluded,
        Status::Null => JobStatus::Null,
    }
}

impl Observer for Teller {
    fn event(&self, job: &Info, event: Event) {
        let (r#type, device) = (kind(job.kind), job.id.clone());
        let (len, offset, speed) = (signed(job.total), signed(job.current), signed(job.speed));
        if let Event::Status(now) = event {
            return self.0.emit(JobStatusChange { id: device, status: status(now) });
        }
        if !job.kind.is_block() {
            return;
        }
        match event {
            Event::Status(_) => {}
            Event::Ready => self.0.emit(BlockJobReady { r#type, device, len, offset, speed }),
            Event::Pending => self.0.emit(BlockJobPending { r#type, id: device }),
            Event::Completed(error) => {
                self.0.emit(BlockJobCompleted { r#type, device, len, offset, speed, error });
            }
            Event::Cancelled => self.0.emit(BlockJobCancelled { r#type, device, len, offset, speed }),
            Event::Error { is_read, action } => self.0.emit(BlockJobError {
                device,
                operation: if is_read { IoOperationType::Read } else { IoOperationType::Write },
                action: super::error_action(action),
            }),
        }
    }
}

/// The jobs of a program.
pub(super) fn new_jobs(events: &EventSink, owner: &OwnerLink) -> block_jobs::Jobs {
    let owner = owner.clone();
    let poke = move || {
        (owner.run)(Box::new(|storage: &mut Storage| {
            let reopening = Arc::clone(&storage.reopening);
            let _no_other_change = reopening.lock().unwrap_or_else(PoisonError::into_inner);
            aio::block_on(storage.jobs.settle());
        }));
    };
    block_jobs::Jobs::new(Arc::new(Teller(events.clone())), poke)
}

/// What a command says of every job, with the defaults of QMP.
fn common(id: String, speed: Option<i64>, auto_finalize: Option<bool>, auto_dismiss: Option<bool>) -> Common {
    Common {
        id,
        speed: speed.unwrap_or(0),
        auto_finalize: auto_finalize.unwrap_or(true),
        auto_dismiss: auto_dismiss.unwrap_or(true),
    }
}

/// What clients name a policy; a report if absent.
fn on_error(policy: Option<BlockdevOnError>) -> OnError {
    match policy {
        None | Some(BlockdevOnError::Report) => OnError::Report,
        Some(BlockdevOnError::Ignore) => OnError::Ignore,
        Some(BlockdevOnError::Enospc) => OnError::Enospc,
        Some(BlockdevOnError::Stop) => OnError::Stop,
        Some(BlockdevOnError::Auto) => OnError::Auto,
    }
}

impl Storage {
    /// The job of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn job(&self, id: &str) -> Result<Arc<Job>, Error> {
        self.jobs.find(id).ok_or_else(|| Error::generic("Job not found"))
    }

    /// The job of a disk of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn block_job(&self, id: &str) -> Result<Arc<Job>, Error> {
        let job = self.jobs.find(id).filter(|job| job.kind().is_block());
        job.ok_or_else(|| Error::new(ErrorClass::DeviceNotActive, format!("Block job '{id}' not found")))
    }

    /// Does what a client wants of a job, except for setting its speed and changing its work.
    ///
    /// # Errors
    /// It can't do that in its state.
    pub fn apply(&self, job: &Arc<Job>, verb: Verb) -> Result<(), Error> {
        let _no_other_change = self.alone();
        let done = match verb {
            Verb::Cancel => aio::block_on(self.jobs.cancel(job, true)),
            Verb::Pause => job.user_pause(),
            Verb::Resume => job.user_resume(),
            Verb::Complete => job.complete(),
            Verb::Finalize => aio::block_on(self.jobs.finalize(job)),
            Verb::Dismiss => self.jobs.dismiss(job),
            Verb::SetSpeed | Verb::Change => job.check(verb),
        };
        done.map_err(client_error)
    }

    /// `block-job-cancel`.
    ///
    /// # Errors
    /// There is no such job, it is paused, or can't be cancelled.
    pub fn cancel_block_job(&self, id: &str, force: bool) -> Result<(), Error> {
        let job = self.block_job(id)?;
        if job.is_user_paused() && !force {
            return Err(Error::generic(format!("The block job for device '{id}' is currently paused")));
        }
        let _no_other_change = self.alone();
        aio::block_on(self.jobs.cancel(&job, force)).map_err(client_error)
    }

    /// `block-job-change`.
    ///
    /// # Errors
    /// There is no such job of that kind, or it can't be changed so.
    pub fn change_block_job(&self, command: &BlockJobChange) -> Result<(), Error> {
        let job = self.block_job(&command.id)?;
        let mode = match &command.options {
            BlockJobChangeOptions::Mirror(mirror) if job.kind() == Kind::Mirror => mirror.copy_mode,
            BlockJobChangeOptions::Other(given) if *given == kind(job.kind()) => {
                job.check(Verb::Change).map_err(client_error)?;
                return Err(Error::generic("Job type does not support change"));
            }
            _ => {
                let own = job.kind().name();
                return Err(Error::generic(format!("Job '{}' is of type '{own}'", command.id)));
            }
        };
        let mode = match mode {
            MirrorCopyMode::Background => CopyMode::Background,
            MirrorCopyMode::WriteBlocking => CopyMode::WriteBlocking,
        };
        job.change_work(Change::CopyMode(mode)).map_err(client_error)
    }

    /// `query-jobs`: the newest first.
    pub fn job_infos(&self) -> Vec<JobInfo> {
        let info = |job: &Arc<Job>| {
            let info = job.info();
            JobInfo {
                id: info.id,
                r#type: kind(info.kind),
                status: status(info.status),
                current_progress: signed(info.current),
                total_progress: signed(info.total),
                error: info.error,
            }
        };
        self.jobs.list().iter().map(info).collect()
    }

    /// `query-block-jobs`: the newest first.
    pub fn block_job_infos(&self) -> Vec<BlockJobInfo> {
        let info = |job: &Arc<Job>| {
            let ready = job.is_ready();
            let info = job.info();
            BlockJobInfo {
                r#type: kind(info.kind),
                device: info.id,
                len: signed(info.total),
                offset: signed(info.current),
                busy: info.busy,
                paused: info.paused,
                speed: signed(info.speed),
                io_status: super::info::io_status(info.io_status),
                ready,
                status: status(info.status),
                auto_finalize: info.auto_finalize,
                auto_dismiss: info.auto_dismiss,
                error: info.error,
            }
        };
        self.jobs.list().iter().filter(|job| job.kind().is_block()).map(info).collect()
    }

    /// Whether a client may change this node: no job uses it.
    ///
    /// # Errors
    /// One does.
    pub fn check_unblocked(&self, node: &Arc<Node>) -> Result<(), Error> {
        let Some(reason) = node.blocked_by() else { return Ok(()) };
        let name = super::device_of(&self.graph, node.name()).unwrap_or_else(|| node.name().to_owned());
        Err(Error::generic(format!("Node '{name}' is busy: {reason}")))
    }

    /// Cancels the jobs that use this node: its disk goes.
    pub(super) fn cancel_jobs_of(&self, node: &Arc<Node>) {
        let _no_other_change = self.alone();
        let nodes: Vec<_> = block_jobs::chain::of(node).take_while(|below| below.is_implicit()).collect();
        let image = nodes.last().and_then(block_jobs::chain::below).unwrap_or_else(|| Arc::clone(node));
        let mut edges: Vec<_> = nodes.iter().chain([&image]).flat_map(|node| node.parents()).collect();
        // A commit of backings has its filter somewhere below.
        let below = block_jobs::chain::of(&image).skip(1).flat_map(|node| node.parents());
        edges.extend(below.filter(|edge| edge.name() == "main node"));
        for job in self.jobs.list() {
            let holder = Job::holder(job.kind(), job.id());
            if edges.iter().any(|edge| edge.holder() == Some(&holder))
                && let Err(error) = aio::block_on(self.jobs.cancel(&job, false))
            {
                tracing::debug!("job '{}': {error}", job.id());
            }
        }
    }

    /// The name of a job: as given, or that of the back end.
    fn job_id(&self, given: Option<&str>, node: &Node) -> Result<String, Error> {
        match given {
            Some(id) => {
                self.jobs.check_id(id).map_err(client_error)?;
                Ok(id.to_owned())
            }
            None => {
                let id = super::device_of(&self.graph, node.name()).unwrap_or_default();
                self.jobs.check_id(&id).map_err(client_error)?;
                Ok(id)
            }
        }
    }

    /// Nobody else changes the graph as long as the result lives.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        self.reopening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a job that was made.
    pub(super) fn start_job(&self, job: &Arc<Job>) {
        let holder = Job::holder(job.kind(), job.id());
        let has_job = |node: &Arc<Node>| node.parents().iter().any(|edge| edge.holder() == Some(&holder));
        let mut nodes = self.node_threads.iter().filter_map(|(node, _)| node.upgrade());
        match nodes.find(has_job) {
            Some(node) => self.jobs.start(job, &self.reactor_of(&node)),
            None => self.jobs.start(job, self.reactor.handle()),
        }
    }
}
