//! Jobs: work in the background with a name, a state and an end.
//!
//! A job works on the reactor; its state is here, and clients may change it at any time. Only `create` exists: it has no
//! point where it could pause, so that pausing it takes effect when it is over, which is never.

use std::sync::{Arc, Mutex, PoisonError};

use qapi::Error;
use qapi::block::job::{JobInfo, JobStatus, JobStatusChange, JobType};
use qapi::schema::Enumeration;
use qmp::EventSink;

/// What a client wants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To end as soon as it can.
    Cancel,
    /// To pause.
    Pause,
    /// To go on.
    Resume,
    /// To come to its end, if it goes on until it is told.
    Complete,
    /// To make its last changes.
    Finalize,
    /// To be forgotten.
    Dismiss,
}

impl Verb {
    fn name(self) -> &'static str {
        ["cancel", "pause", "resume", "complete", "finalize", "dismiss"][self as usize]
    }

    fn is_allowed(self, status: JobStatus) -> bool {
        use JobStatus::{Concluded, Created, Paused, Pending, Ready, Running, Standby, Waiting};
        match self {
            Self::Cancel => matches!(status, Created | Running | Paused | Ready | Standby | Waiting | Pending),
            Self::Pause | Self::Resume => matches!(status, Created | Running | Paused | Ready | Standby),
            Self::Complete => status == Ready,
            Self::Finalize => status == Pending,
            Self::Dismiss => status == Concluded,
        }
    }
}

struct Job {
    info: JobInfo,
    paused: bool,
    cancelled: bool,
}

/// The jobs of a program.
#[derive(Clone)]
pub struct Jobs {
    list: Arc<Mutex<Vec<Job>>>,
    events: EventSink,
}

impl Jobs {
    /// No jobs.
    pub fn new(events: EventSink) -> Self {
        Self { list: Arc::default(), events }
    }

    fn with<R>(&self, visit: impl FnOnce(&mut Vec<Job>) -> R) -> R {
        visit(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `query-jobs`: the newest first.
    pub fn query(&self) -> Vec<JobInfo> {
        self.with(|jobs| jobs.iter().rev().map(|job| job.info.clone()).collect())
    }

    /// Starts a job: `run` gets the work going, which ends with [`Jobs::finish`].
    ///
    /// # Errors
    /// The id is none, or is taken.
    pub fn start(&self, id: &str, kind: JobType, run: impl FnOnce()) -> Result<(), Error> {
        if !qapi::keyval::is_identifier(id) {
            return Err(Error::generic(format!("Invalid job ID '{id}'")));
        }
        self.with(|jobs| {
            if jobs.iter().any(|job| job.info.id == id) {
                return Err(Error::generic(format!("Job ID '{id}' already in use")));
            }
            let info = JobInfo {
                id: id.to_owned(),
                r#type: kind,
                status: JobStatus::Created,
                current_progress: 0,
                total_progress: 1,
                error: None,
            };
            jobs.push(Job { info, paused: false, cancelled: false });
            Ok(())
        })?;
        self.tell(id, JobStatus::Created);
        self.change(id, JobStatus::Running);
        run();
        Ok(())
    }

    fn tell(&self, id: &str, status: JobStatus) {
        self.events.emit(JobStatusChange { id: id.to_owned(), status });
    }

    fn change(&self, id: &str, status: JobStatus) {
        self.with(|jobs| {
            if let Some(job) = jobs.iter_mut().find(|job| job.info.id == id) {
                job.info.status = status;
            }
        });
        self.tell(id, status);
    }

    /// The work of a job has ended, on any thread.
    pub fn finish(&self, id: &str, result: Result<(), String>) {
        let failed = self.with(|jobs| {
            let job = jobs.iter_mut().find(|job| job.info.id == id)?;
            job.info.current_progress = job.info.total_progress;
            job.info.error = match result {
                Err(error) => Some(error),
                Ok(()) if job.cancelled => Some("Operation canceled".to_owned()),
                Ok(()) => None,
            };
            Some(job.info.error.is_some())
        });
        let steps: &[JobStatus] = match failed {
            None => return,
            Some(true) => &[JobStatus::Aborting, JobStatus::Concluded],
            Some(false) => &[JobStatus::Waiting, JobStatus::Pending, JobStatus::Concluded],
        };
        for status in steps {
            self.change(id, *status);
        }
    }

    /// Does what a client wants.
    ///
    /// # Errors
    /// There is no such job, or it can't do that in its state.
    pub fn apply(&self, id: &str, verb: Verb) -> Result<(), Error> {
        let dismissed = self.with(|jobs| {
            let at = jobs.iter().position(|job| job.info.id == id).ok_or_else(|| Error::generic("Job not found"))?;
            let Some(job) = jobs.get_mut(at) else { return Ok(false) };
            if verb == Verb::Resume && !job.paused {
                return Err(Error::generic("Can't resume a job that was not paused"));
            }
            if !verb.is_allowed(job.info.status) {
                let (status, verb) = (job.info.status.name(), verb.name());
                let text = format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'");
                return Err(Error::generic(text));
            }
            match verb {
                Verb::Cancel => job.cancelled = true,
                Verb::Pause if job.paused => return Err(Error::generic("Job is already paused")),
                Verb::Pause => job.paused = true,
                Verb::Resume => job.paused = false,
                // No job of today comes into a state where these are allowed.
                Verb::Complete | Verb::Finalize => {}
                Verb::Dismiss => {
                    jobs.remove(at);
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if dismissed {
            self.tell(id, JobStatus::Null);
        }
        Ok(())
    }
}
