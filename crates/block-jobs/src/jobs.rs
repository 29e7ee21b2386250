//! All jobs of a program: their names, their ends, and transactions.
//!
//! The work of a job ends on its reactor. What follows (the last changes of the graph, the transaction, the events) is
//! done in [`Jobs::settle`], which the owner of the graph calls when it is poked. There the work of new jobs begins, too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use block::backend::IoStatus;
use block::gate::Gate;
use block::{Error, Result};
use tokio::sync::Notify;

use crate::info::{Event, Info, Kind, Status, Verb};
use crate::job::{Job, JobDriver, Parts, check_speed};

/// Who is told what happens to jobs. Called with a job's state locked, on any thread: it must not call back.
pub trait Observer: Send + Sync {
    /// Something has happened.
    fn event(&self, job: &Info, event: Event);
}

#[derive(Default)]
struct Group {
    aborting: bool,
    /// The newest first.
    jobs: Vec<Arc<Job>>,
}

/// Jobs that end together.
#[derive(Clone, Default)]
pub struct Transaction(Arc<Mutex<Group>>);

impl Transaction {
    /// One without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<R>(&self, visit: impl FnOnce(&mut Group) -> R) -> R {
        visit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn jobs(&self) -> Vec<Arc<Job>> {
        self.with(|group| group.jobs.clone())
    }
}

/// What clients say of every job.
#[derive(Clone, Debug)]
pub struct Common {
    /// Its name.
    pub id: String,
    /// Bytes a second, or 0 for no limit. A negative one is refused.
    pub speed: i64,
    /// It makes its last changes without being told.
    pub auto_finalize: bool,
    /// It is forgotten when it has ended.
    pub auto_dismiss: bool,
}

/// What a job is made with.
pub struct NewJob {
    /// What the client has said.
    pub common: Common,
    /// Its kind.
    pub kind: Kind,
    /// Where its requests enter the graph.
    pub gate: Arc<Gate>,
    /// The jobs that it ends with.
    pub transaction: Option<Transaction>,
}

struct Shared {
    list: Mutex<Vec<Arc<Job>>>,
    observer: Arc<dyn Observer>,
    poke: Box<dyn Fn() + Send + Sync>,
    /// Started, but not at work yet.
    begun: Mutex<Vec<(Arc<Job>, aio::Handle)>>,
    ended: Mutex<VecDeque<Arc<Job>>>,
    /// Ends are dealt with one after another.
    settling: tokio::sync::Mutex<()>,
    changed: Notify,
}

/// The jobs of a program.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

/// Whether this can be the name of a job.
fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

impl Jobs {
    /// No jobs. `poke` is called on any thread when [`Jobs::settle`] has to be.
    pub fn new(observer: Arc<dyn Observer>, poke: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            list: Mutex::default(),
            observer,
            poke: Box::new(poke),
            begun: Mutex::default(),
            ended: Mutex::default(),
            settling: tokio::sync::Mutex::const_new(()),
            changed: Notify::new(),
        }))
    }

    fn with<R>(&self, visit: impl FnOnce(&mut Vec<Arc<Job>>) -> R) -> R {
        visit(&mut self.0.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All jobs, the newest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.with(|jobs| jobs.iter().rev().cloned().collect())
    }

    /// The job of that name.
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.with(|jobs| jobs.iter().find(|job| job.id() == id).cloned())
    }

    /// Whether a new job may have this name.
    ///
    /// # Errors
    /// It is none, or is taken.
    pub fn check_id(&self, id: &str) -> Result<()> {
        if !is_identifier(id) {
            return Err(Error::invalid(format!("Invalid job ID '{id}'")));
        }
        if self.find(id).is_some() {
            return Err(Error::exists(format!("Job ID '{id}' already in use")));
        }
        Ok(())
    }

    /// Makes a job that does nothing yet. Then follows [`Jobs::start`] or [`Jobs::abandon`].
    ///
    /// # Errors
    /// As [`Jobs::check_id`].
    pub fn create(&self, new: NewJob, driver: Arc<dyn JobDriver>) -> Result<Arc<Job>> {
        let common = new.common;
        self.check_id(&common.id)?;
        let transaction = new.transaction.unwrap_or_default();
        let job = Job::new(Parts {
            id: common.id,
            kind: new.kind,
            auto_finalize: common.auto_finalize,
            auto_dismiss: common.auto_dismiss,
            speed: u64::try_from(common.speed).unwrap_or(0),
            gate: new.gate,
            observer: Arc::clone(&self.0.observer),
            driver,
            transaction: transaction.clone(),
        });
        job.change(Status::Created);
        if let Err(error) = check_speed(common.speed) {
            job.change(Status::Null);
            return Err(error);
        }
        transaction.with(|group| group.jobs.insert(0, Arc::clone(&job)));
        self.with(|jobs| jobs.push(Arc::clone(&job)));
        Ok(job)
    }

    /// Tells of a job that can't be made after all: clients see it come and go.
    pub fn announce_stillborn(&self, common: &Common, kind: Kind) {
        let mut info = Info {
            id: common.id.clone(),
            kind,
            status: Status::Created,
            current: 0,
            total: 0,
            speed: u64::try_from(common.speed).unwrap_or(0),
            busy: false,
            paused: true,
            io_status: IoStatus::Ok,
            auto_finalize: common.auto_finalize,
            auto_dismiss: common.auto_dismiss,
            error: None,
        };
        for status in [Status::Created, Status::Null] {
            info.status = status;
            self.0.observer.event(&info, Event::Status(status));
        }
    }

    /// Starts a job's work on `reactor`. The work itself begins when the owner of the graph settles, which is behind the
    /// reply to the client: what happens to the job is told after that.
    pub fn start(&self, job: &Arc<Job>, reactor: &aio::Handle) {
        job.begin();
        let mut begun = self.0.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.push((Arc::clone(job), reactor.clone()));
        drop(begun);
        (self.0.poke)();
    }

    /// Lets the work begin of the jobs that were started.
    fn spawn_begun(&self) {
        let begun = std::mem::take(&mut *self.0.begun.lock().unwrap_or_else(PoisonError::into_inner));
        begun.into_iter().for_each(|(job, reactor)| self.spawn(job, &reactor));
    }

    fn spawn(&self, job: Arc<Job>, reactor: &aio::Handle) {
        let jobs = self.clone();
        reactor.spawn(async move {
            job.pause_point().await;
            let result = Arc::clone(job.driver()).run(Arc::clone(&job)).await;
            job.work_ended(result);
            jobs.0.ended.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
            jobs.0.changed.notify_waiters();
            (jobs.0.poke)();
        });
    }

    /// Gives up a job that was not started.
    pub async fn abandon(&self, job: &Arc<Job>) {
        let _one = self.0.settling.lock().await;
        job.cancel_async(true);
        job.work_ended(Ok(()));
        job.state().completed = true;
        job.update_result();
        self.end_in_failure(job).await;
    }

    /// Deals with the jobs whose work has ended. Called by the owner of the graph.
    pub async fn settle(&self) {
        self.spawn_begun();
        let _one = self.0.settling.lock().await;
        loop {
            let next = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(job) = next else { return };
            let failed = job.update_result();
            job.state().completed = true;
            if failed {
                self.end_in_failure(&job).await;
            } else {
                self.end_in_success(&job).await;
            }
        }
    }

    async fn end_in_success(&self, job: &Arc<Job>) {
        job.change(Status::Waiting);
        let group = job.transaction.jobs();
        if job.transaction.with(|group| group.aborting) {
            return self.end_in_failure(job).await;
        }
        if group.iter().any(|other| !other.state().completed) {
            return;
        }
        for other in &group {
            other.change(Status::Pending);
            if !other.auto_finalize() {
                other.announce(Event::Pending);
            }
        }
        if group.iter().all(|other| other.auto_finalize()) {
            self.finalize_group(&group).await;
        }
    }

    async fn finalize_group(&self, group: &[Arc<Job>]) {
        for job in group {
            if job.update_result() {
                return self.end_in_failure(job).await;
            }
            if let Err(error) = job.driver().prepare(job).await {
                job.fail(error);
                job.update_result();
                return self.end_in_failure(job).await;
            }
        }
        for job in group {
            self.conclude(job).await;
        }
    }

    /// One job of a group has failed: the others are cancelled, and all end as soon as their work has ended.
    async fn end_in_failure(&self, job: &Arc<Job>) {
        let transaction = job.transaction.clone();
        if !transaction.with(|group| std::mem::replace(&mut group.aborting, true)) {
            for other in transaction.jobs() {
                if Arc::ptr_eq(&other, job) {
                    continue;
                }
                other.cancel_async(true);
                let mut state = other.state();
                if !state.started {
                    state.completed = true;
                }
            }
        }
        while let Some(next) = transaction.jobs().first() {
            if !next.state().completed {
                return;
            }
            self.conclude(next).await;
        }
    }

    /// The last step of a job whose transaction is decided.
    async fn conclude(&self, job: &Arc<Job>) {
        let driver = Arc::clone(job.driver());
        let failed = job.update_result();
        let last = if failed { driver.abort(job).await } else { driver.commit(job).await };
        let cleaned = driver.clean(job).await;
        if let Err(error) = last.and(cleaned) {
            tracing::warn!("the end of job '{}': {error}", job.id());
        }
        job.unblock_nodes();
        let started = job.state().started;
        if started {
            let event = if job.is_cancelled() { Event::Cancelled } else { Event::Completed(job.info().error) };
            job.announce(event);
        }
        job.transaction.with(|group| group.jobs.retain(|known| !Arc::ptr_eq(known, job)));
        job.change(Status::Concluded);
        if job.auto_dismiss() || !started {
            self.forget(job);
        }
        self.0.changed.notify_waiters();
    }

    fn forget(&self, job: &Arc<Job>) {
        job.change(Status::Null);
        self.with(|jobs| jobs.retain(|known| !Arc::ptr_eq(known, job)));
        self.0.changed.notify_waiters();
    }

    /// Cancels a job, for a client.
    ///
    /// # Errors
    /// Its state does not allow that.
    pub async fn cancel(&self, job: &Arc<Job>, force: bool) -> Result<()> {
        job.check(Verb::Cancel)?;
        self.do_cancel(job, force).await;
        Ok(())
    }

    async fn do_cancel(&self, job: &Arc<Job>, force: bool) {
        if !job.state().started {
            return self.abandon(job).await;
        }
        job.cancel_async(force);
        let _one = self.0.settling.lock().await;
        let waits = job.state().completed && matches!(job.status(), Status::Waiting | Status::Pending);
        if waits && job.is_cancelled() {
            job.update_result();
            self.end_in_failure(job).await;
        }
    }

    /// Lets a job and those of its transaction make their last changes.
    ///
    /// # Errors
    /// Its state does not allow that.
    pub async fn finalize(&self, job: &Arc<Job>) -> Result<()> {
        job.check(Verb::Finalize)?;
        let _one = self.0.settling.lock().await;
        self.finalize_group(&job.transaction.jobs()).await;
        Ok(())
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// Its state does not allow that.
    pub fn dismiss(&self, job: &Arc<Job>) -> Result<()> {
        job.check(Verb::Dismiss)?;
        self.forget(job);
        Ok(())
    }

    /// Cancels all jobs and waits until they have ended: the program ends. The caller settles nothing meanwhile.
    pub async fn cancel_all(&self) {
        self.spawn_begun();
        loop {
            let changed = self.0.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let live: Vec<_> = self
                .list()
                .into_iter()
                .filter(|job| !matches!(job.status(), Status::Concluded | Status::Null))
                .collect();
            if live.is_empty() {
                return;
            }
            for job in &live {
                if !job.is_cancelled() {
                    self.do_cancel(job, true).await;
                }
            }
            self.settle().await;
            let still = self.list().iter().any(|job| !matches!(job.status(), Status::Concluded | Status::Null));
            if still {
                changed.await;
            }
        }
    }
}
