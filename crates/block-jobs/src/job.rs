//! The life of one job: its state, what its work asks and tells. The words for it are in [`crate::info`].

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use block::backend::{ErrorAction, IoStatus};
use block::error::strerror;
use block::gate::Gate;
use block::node::Blocker;
use block::{Error, IoFuture, Node, Result, done};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::info::{Change, Event, Info, Kind, OnError, Status, Verb};
use crate::jobs::{Observer, Transaction};
use crate::rate::RateLimit;

/// What a job does. The methods after the work run where the graph is changed.
pub trait JobDriver: Send + Sync + 'static {
    /// The work. It looks at [`Job::is_cancelled`] and comes to [`Job::pause_point`] often.
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static>;

    /// Whether the job can be told to complete.
    fn completes(&self) -> bool {
        false
    }

    /// The job was told to complete.
    ///
    /// # Errors
    /// If it can't.
    fn complete(&self, job: &Arc<Job>) -> Result<()> {
        Err(Error::invalid(format!("The active block job '{}' cannot be completed", job.id())))
    }

    /// A client wants the work to go on in another way.
    ///
    /// # Errors
    /// It can't.
    fn change(&self, change: Change) -> Result<()> {
        let _ = change;
        Err(Error::invalid("Job type does not support change"))
    }

    /// The job is cancelled: whether that means giving up what was done.
    fn cancel(&self, job: &Job, force: bool) -> bool {
        let _ = (job, force);
        true
    }

    /// The last changes that may fail. Not called for jobs that have failed already.
    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> IoFuture<'a> {
        let _ = job;
        done(())
    }

    /// The job has succeeded.
    fn commit<'a>(&'a self, job: &'a Arc<Job>) -> IoFuture<'a> {
        let _ = job;
        done(())
    }

    /// The job has failed or was cancelled.
    fn abort<'a>(&'a self, job: &'a Arc<Job>) -> IoFuture<'a> {
        let _ = job;
        done(())
    }

    /// After either of the two: what the job holds is let go.
    fn clean<'a>(&'a self, job: &'a Arc<Job>) -> IoFuture<'a> {
        let _ = job;
        done(())
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) status: Option<Status>,
    pause_count: u32,
    user_paused: bool,
    /// The work waits at a pause point.
    paused: bool,
    busy: bool,
    cancelled: bool,
    force_cancelled: bool,
    pub(crate) started: bool,
    /// The work has ended, so.
    pub(crate) result: Option<Result<()>>,
    /// The end of the work was taken notice of.
    pub(crate) completed: bool,
    error: Option<String>,
    io_status: IoStatus,
    speed: u64,
    current: u64,
    total: u64,
    rate: RateLimit,
    blockers: Vec<Blocker>,
}

/// A job.
pub struct Job {
    id: String,
    kind: Kind,
    auto_finalize: bool,
    auto_dismiss: bool,
    gate: Arc<Gate>,
    observer: Arc<dyn Observer>,
    driver: Arc<dyn JobDriver>,
    pub(crate) transaction: Transaction,
    state: Mutex<State>,
    woken: Notify,
    wakes: AtomicU64,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({}, {})", self.id, self.kind.name())
    }
}

/// What a job is made with.
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
    pub(crate) speed: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) driver: Arc<dyn JobDriver>,
    pub(crate) transaction: Transaction,
}

impl Job {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let state = State { pause_count: 1, paused: true, speed: parts.speed, ..State::default() };
        Arc::new(Self {
            id: parts.id,
            kind: parts.kind,
            auto_finalize: parts.auto_finalize,
            auto_dismiss: parts.auto_dismiss,
            gate: parts.gate,
            observer: parts.observer,
            driver: parts.driver,
            transaction: parts.transaction,
            state: Mutex::new(state),
            woken: Notify::new(),
            wakes: AtomicU64::new(0),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where its requests enter the graph.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// What it does.
    pub fn driver(&self) -> &Arc<dyn JobDriver> {
        &self.driver
    }

    /// How messages name who uses a node.
    pub fn holder(kind: Kind, id: &str) -> String {
        format!("{} job '{id}'", kind.name())
    }

    /// The job as others see it.
    pub fn info(&self) -> Info {
        self.info_of(&self.state())
    }

    fn info_of(&self, state: &State) -> Info {
        Info {
            id: self.id.clone(),
            kind: self.kind,
            status: state.status.unwrap_or(Status::Undefined),
            current: state.current,
            total: state.total,
            speed: state.speed,
            busy: state.busy,
            paused: state.pause_count > 0,
            io_status: state.io_status,
            auto_finalize: self.auto_finalize,
            auto_dismiss: self.auto_dismiss,
            error: match &state.result {
                Some(Err(error)) => Some(state.error.clone().unwrap_or_else(|| strerror(error.errno()))),
                _ => None,
            },
        }
    }

    /// Its state.
    pub fn status(&self) -> Status {
        self.state().status.unwrap_or(Status::Undefined)
    }

    pub(crate) fn auto_finalize(&self) -> bool {
        self.auto_finalize
    }

    pub(crate) fn auto_dismiss(&self) -> bool {
        self.auto_dismiss
    }

    /// Tells the observer while the state is locked: the order of events is that of what happens.
    fn tell(&self, state: &State, event: Event) {
        self.observer.event(&self.info_of(state), event);
    }

    pub(crate) fn announce(&self, event: Event) {
        self.tell(&self.state(), event);
    }

    fn change_locked(&self, state: &mut State, status: Status) {
        let old = state.status.unwrap_or(Status::Undefined);
        if !old.may_become(status) {
            tracing::error!("job '{}' goes from {} to {}", self.id, old.name(), status.name());
        }
        state.status = Some(status);
        self.tell(state, Event::Status(status));
    }

    pub(crate) fn change(&self, status: Status) {
        let mut state = self.state();
        self.change_locked(&mut state, status);
    }

    /// Lets operations of clients on `node` be refused until the job has ended.
    pub fn block_node(&self, node: &Node) {
        let reason = format!("block device is in use by block job: {}", self.kind.name());
        self.state().blockers.push(node.block_operations(&reason));
    }

    /// Lets the nodes be used again.
    pub fn unblock_nodes(&self) {
        let blockers = std::mem::take(&mut self.state().blockers);
        drop(blockers);
    }

    /// Lets the work look at the state again.
    pub fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::AcqRel);
        self.woken.notify_waiters();
    }

    /// Waits until somebody wakes the job, for `duration` at most.
    pub async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            aio::yield_now().await;
            return;
        }
        let woken = self.woken.notified();
        let mut woken = std::pin::pin!(woken);
        woken.as_mut().enable();
        self.doze(woken, duration).await;
    }

    /// Waits for `woken`, for `duration` at most.
    async fn doze(&self, mut woken: Pin<&mut Notified<'_>>, duration: Duration) {
        {
            let mut state = self.state();
            if state.cancelled || state.pause_count > 0 {
                return;
            }
            state.busy = false;
        }
        let mut timer = std::pin::pin!(aio::sleep(duration));
        std::future::poll_fn(|context| {
            use std::future::Future as _;
            if woken.as_mut().poll(context).is_ready() {
                return std::task::Poll::Ready(());
            }
            timer.as_mut().poll(context)
        })
        .await;
        let mut state = self.state();
        state.busy = !state.paused;
    }

    /// Waits until somebody wakes the job.
    pub async fn wait(&self) {
        self.sleep(Duration::from_secs(3600)).await;
    }

    /// Waits as long as somebody wants the job to pause.
    pub async fn pause_point(&self) {
        loop {
            let woken = self.woken.notified();
            let mut woken = std::pin::pin!(woken);
            woken.as_mut().enable();
            {
                let mut state = self.state();
                if state.pause_count == 0 || state.force_cancelled {
                    self.go_on(&mut state);
                    return;
                }
                if !state.paused {
                    self.stand(&mut state);
                }
            }
            woken.await;
        }
    }

    /// Whether somebody wants the job to pause: the work should come to its pause point.
    pub fn should_pause(&self) -> bool {
        let state = self.state();
        state.pause_count > 0 && !state.force_cancelled
    }

    /// Accounts work that was started, and waits as long as the limit of speed says.
    pub async fn throttle(&self, bytes: u64) {
        let mut bytes = bytes;
        loop {
            // First the ear, then the look: another limit that comes in between is heard.
            let woken = self.woken.notified();
            let mut woken = std::pin::pin!(woken);
            woken.as_mut().enable();
            let delay = {
                let mut state = self.state();
                let speed = state.speed;
                state.rate.account(speed, std::mem::take(&mut bytes), aio::now())
            };
            if delay.is_zero() || self.is_cancel_requested() || self.should_pause() {
                return;
            }
            self.doze(woken, delay).await;
        }
    }

    /// Whether what was done is given up.
    pub fn is_cancelled(&self) -> bool {
        self.state().force_cancelled
    }

    /// Whether the job shall end, with or without a result.
    pub fn is_cancel_requested(&self) -> bool {
        self.state().cancelled
    }

    /// Sets how much there will have been.
    pub fn set_total(&self, total: u64) {
        self.state().total = total;
    }

    /// Sets how much is left.
    pub fn set_remaining(&self, remaining: u64) {
        let mut state = self.state();
        state.total = state.current.saturating_add(remaining);
    }

    /// Sets how much is done.
    pub(crate) fn set_current(&self, current: u64) {
        let mut state = self.state();
        state.current = current;
        state.total = state.total.max(current);
    }

    /// So much more is done.
    pub fn advance(&self, by: u64) {
        let mut state = self.state();
        state.current = state.current.saturating_add(by);
        state.total = state.total.max(state.current);
    }

    /// So much more there will have been.
    pub fn increase_total(&self, by: u64) {
        let mut state = self.state();
        state.total = state.total.saturating_add(by);
    }

    /// The work keeps up from now on, until it is told to complete.
    pub fn set_ready(&self) {
        let mut state = self.state();
        self.change_locked(&mut state, Status::Ready);
        self.tell(&state, Event::Ready);
    }

    /// Whether the work keeps up.
    pub fn is_ready(&self) -> bool {
        matches!(self.status(), Status::Ready | Status::Standby)
    }

    /// A text for the error that the work ends with, in place of the host's.
    pub fn set_error_text(&self, text: impl Into<String>) {
        self.state().error = Some(text.into());
    }

    /// A request failed: tells about it and says what to do. For [`ErrorAction::Stop`] the job pauses at its next pause
    /// point.
    pub fn request_failed(&self, policy: OnError, is_read: bool, error: &Error) -> ErrorAction {
        let action = match policy {
            OnError::Report => ErrorAction::Report,
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Enospc | OnError::Auto if !error.is_no_space() => ErrorAction::Report,
            OnError::Enospc | OnError::Auto | OnError::Stop => ErrorAction::Stop,
        };
        let mut state = self.state();
        self.tell(&state, Event::Error { is_read, action });
        if action == ErrorAction::Stop {
            if !state.user_paused {
                state.pause_count += 1;
                state.user_paused = true;
            }
            state.io_status = if error.is_no_space() { IoStatus::NoSpace } else { IoStatus::Failed };
        }
        action
    }

    /// Whether a client may want this now.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, verb: Verb) -> Result<()> {
        let status = self.status();
        if verb.is_allowed(status) {
            return Ok(());
        }
        Err(Error::permission(format!(
            "Job '{}' in state '{}' cannot accept command verb '{}'",
            self.id,
            status.name(),
            verb.name()
        )))
    }

    /// Lets the job pause, for a client.
    ///
    /// # Errors
    /// It can't, or is paused by a client already.
    pub fn user_pause(&self) -> Result<()> {
        self.check(Verb::Pause)?;
        {
            let mut state = self.state();
            if state.user_paused {
                return Err(Error::invalid("Job is already paused"));
            }
            state.user_paused = true;
            self.add_pause(&mut state);
        }
        self.wake();
        Ok(())
    }

    /// Lets the job go on that a client has paused.
    ///
    /// # Errors
    /// It can't, or is not paused by a client.
    pub fn user_resume(&self) -> Result<()> {
        if !self.is_user_paused() {
            return Err(Error::invalid("Can't resume a job that was not paused"));
        }
        self.check(Verb::Resume)?;
        self.unpause();
        self.wake();
        Ok(())
    }

    fn unpause(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.user_paused) {
            state.io_status = IoStatus::Ok;
            self.drop_pause(&mut state);
        }
    }

    /// Whether a client or an error has paused the job.
    pub fn is_user_paused(&self) -> bool {
        self.state().user_paused
    }

    /// Lets the job pause until as many calls of [`Job::resume`].
    pub fn pause(&self) {
        self.add_pause(&mut self.state());
        self.wake();
    }

    /// Undoes one [`Job::pause`].
    pub fn resume(&self) {
        self.drop_pause(&mut self.state());
        self.wake();
    }

    /// Limits the speed to bytes a second; 0 is no limit.
    ///
    /// # Errors
    /// It can't, or the speed is negative.
    pub fn set_speed(&self, speed: i64) -> Result<()> {
        self.check(Verb::SetSpeed)?;
        let speed = check_speed(speed)?;
        {
            let mut state = self.state();
            state.speed = speed;
            state.rate.reset();
        }
        self.wake();
        Ok(())
    }

    /// Tells the job to complete.
    ///
    /// # Errors
    /// It can't.
    pub fn complete(self: &Arc<Self>) -> Result<()> {
        self.check(Verb::Complete)?;
        if self.is_cancel_requested() || !self.driver.completes() {
            return Err(Error::invalid(format!("The active block job '{}' cannot be completed", self.id)));
        }
        self.driver.complete(self)?;
        self.wake();
        Ok(())
    }

    /// Lets the job go on in another way.
    ///
    /// # Errors
    /// It can't.
    pub fn change_work(&self, change: Change) -> Result<()> {
        self.check(Verb::Change)?;
        self.driver.change(change)?;
        self.wake();
        Ok(())
    }

    /// Cancels without looking at what clients may do.
    pub(crate) fn cancel_async(&self, force: bool) {
        let force = self.driver.cancel(self, force);
        self.unpause();
        {
            let mut state = self.state();
            // A job that has ended its work can't be asked to end it earlier.
            if force || state.result.is_none() {
                state.cancelled = true;
                state.force_cancelled |= force;
            }
        }
        self.wake();
    }

    pub(crate) fn begin(&self) {
        {
            let mut state = self.state();
            state.started = true;
            state.busy = true;
            state.paused = false;
            state.pause_count = state.pause_count.saturating_sub(1);
            self.change_locked(&mut state, Status::Running);
            if state.pause_count > 0 {
                self.stand(&mut state);
            }
        }
        self.wake();
    }

    /// The work waits from now on.
    fn stand(&self, state: &mut State) {
        state.paused = true;
        state.busy = false;
        let to = if state.status == Some(Status::Ready) { Status::Standby } else { Status::Paused };
        self.change_locked(state, to);
    }

    /// The work goes on, if it waited.
    fn go_on(&self, state: &mut State) {
        if state.paused && state.started {
            state.paused = false;
            state.busy = true;
            let back = if state.status == Some(Status::Standby) { Status::Ready } else { Status::Running };
            self.change_locked(state, back);
        }
    }

    /// Somebody more wants the job to pause: it does at once if it sleeps and has nothing in flight.
    fn add_pause(&self, state: &mut State) {
        state.pause_count += 1;
        let works = matches!(state.status, Some(Status::Running | Status::Ready));
        let rests = !state.busy && self.gate.is_empty();
        if works && rests && !state.paused && !state.force_cancelled {
            self.stand(state);
        }
    }

    /// Somebody less wants the job to pause.
    fn drop_pause(&self, state: &mut State) {
        state.pause_count = state.pause_count.saturating_sub(1);
        if state.pause_count == 0 && state.result.is_none() {
            self.go_on(state);
        }
    }

    pub(crate) fn work_ended(&self, result: Result<()>) {
        let mut state = self.state();
        state.busy = true;
        state.paused = false;
        state.result = Some(result);
    }

    /// Whether the job fails: cancelling it makes it fail. Then it is aborting from now on.
    pub(crate) fn update_result(&self) -> bool {
        let mut state = self.state();
        if state.force_cancelled && !matches!(state.result, Some(Err(_))) {
            state.result = Some(Err(Error::errno_only(block::Error::cancelled("").errno())));
        }
        let failed = matches!(state.result, Some(Err(_)));
        if failed && state.status != Some(Status::Aborting) {
            self.change_locked(&mut state, Status::Aborting);
        }
        failed
    }

    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state();
        state.error.get_or_insert_with(|| error.to_string());
        state.result = Some(Err(error));
    }
}

/// A speed as clients give it.
///
/// # Errors
/// It is negative.
pub fn check_speed(speed: i64) -> Result<u64> {
    u64::try_from(speed).map_err(|_| Error::invalid("Parameter 'speed' expects a non-negative value"))
}
