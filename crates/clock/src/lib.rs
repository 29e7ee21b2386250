//! The virtual clock, timers, and the guest's time of day.
//!
//! No device asks the host for the time: it asks its [`Clock`]. The virtual clock counts nanoseconds of guest time and
//! stands still while the machine is stopped. In [`Clock::host`] it follows the host's monotonic clock, and one thread
//! (`timers`) runs what falls due; in [`Clock::manual`] it moves only by [`Clock::step`], for tests and `-qtest`, and
//! callbacks run inside of `step`, in the order of their deadlines.
//!
//! Callbacks run without a clock lock held. A callback may race with a cancel or a new arming from another thread, so a
//! device compares [`Clock::now`] with its own deadline when it is called.

#![forbid(unsafe_code)]

mod counter;
mod wall;

pub use counter::InstructionCounter;
pub use wall::{RtcBase, WallClock};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What a timer does when it falls due.
pub type Callback = Arc<dyn Fn() + Send + Sync>;

enum Source {
    /// The host's monotonic clock: guest time = `base` + time since `since` while running.
    Host {
        since: Option<Instant>,
    },
    Manual,
}

struct Inner {
    source: Source,
    /// Guest time at the last start or stop (host), or now (manual), in nanoseconds.
    base: u64,
    /// Armed timers by (deadline, timer).
    queue: BTreeMap<(u64, u64), Callback>,
    thread_started: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    next_id: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now(&self) -> u64 {
        match &self.source {
            Source::Host { since: Some(since) } => {
                self.base.saturating_add(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX))
            }
            Source::Host { since: None } | Source::Manual => self.base,
        }
    }

    /// Takes the first timer that is due at `now`.
    fn pop_due(&mut self, now: u64) -> Option<(u64, Callback)> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let deadline = entry.key().0;
        Some((deadline, entry.remove()))
    }
}

/// The virtual clock. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({} ns)", self.now())
    }
}

impl Clock {
    fn with(source: Source) -> Self {
        let inner = Inner { source, base: 0, queue: BTreeMap::new(), thread_started: false };
        Self(Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), next_id: AtomicU64::new(0) }))
    }

    /// A clock that follows the host's monotonic time while it runs. It begins at 0, stopped.
    pub fn host() -> Self {
        Self::with(Source::Host { since: None })
    }

    /// A clock that moves only by [`Clock::step`]. It begins at 0.
    pub fn manual() -> Self {
        Self::with(Source::Manual)
    }

    /// Guest time in nanoseconds.
    pub fn now(&self) -> u64 {
        self.0.lock().now()
    }

    /// Lets guest time run (no effect on a manual clock or when it runs already).
    pub fn start(&self) {
        let mut inner = self.0.lock();
        if let Source::Host { since: since @ None } = &mut inner.source {
            *since = Some(Instant::now());
            drop(inner);
            self.0.changed.notify_all();
        }
    }

    /// Stops guest time: no timer falls due until [`Clock::start`].
    pub fn stop(&self) {
        let mut inner = self.0.lock();
        let now = inner.now();
        if let Source::Host { since } = &mut inner.source {
            *since = None;
            inner.base = now;
        }
    }

    /// Sets guest time (a restored machine continues where it was saved).
    pub fn set(&self, now: u64) {
        let mut inner = self.0.lock();
        inner.base = now;
        if let Source::Host { since: Some(since) } = &mut inner.source {
            *since = Instant::now();
        }
        drop(inner);
        self.0.changed.notify_all();
    }

    /// Moves a manual clock forward by `by` nanoseconds, running each timer at its own deadline. On a host clock it
    /// does nothing.
    pub fn step(&self, by: u64) {
        let target = {
            let inner = self.0.lock();
            if !matches!(inner.source, Source::Manual) {
                return;
            }
            inner.base.saturating_add(by)
        };
        loop {
            let mut inner = self.0.lock();
            let Some((deadline, callback)) = inner.pop_due(target) else {
                inner.base = target;
                return;
            };
            inner.base = inner.base.max(deadline);
            drop(inner);
            callback();
        }
    }

    /// The next deadline of an armed timer.
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.lock().queue.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// A timer that calls `callback` when it falls due. It is not armed.
    pub fn timer(&self, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        Timer { clock: self.clone(), id, deadline: None, callback: Arc::new(callback) }
    }

    /// Starts the thread that runs due timers of a host clock; it ends when the last handle of the clock is dropped.
    fn ensure_thread(&self, inner: &mut Inner) {
        if inner.thread_started || matches!(inner.source, Source::Manual) {
            return;
        }
        inner.thread_started = true;
        let shared = Arc::downgrade(&self.0);
        let spawned = std::thread::Builder::new().name("timers".into()).spawn(move || run_timers(&shared));
        assert!(spawned.is_ok(), "the host refuses a thread for timers");
    }
}

/// How long the timer thread sleeps at most before it checks whether its clock still exists.
const IDLE: Duration = Duration::from_millis(500);

fn run_timers(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let mut inner = shared.lock();
        let now = inner.now();
        if let Some((_, callback)) = inner.pop_due_if_running(now) {
            drop(inner);
            callback();
            continue;
        }
        let running = matches!(inner.source, Source::Host { since: Some(_) });
        let wait = match inner.queue.first_key_value() {
            Some(((deadline, _), _)) if running => Duration::from_nanos(deadline - now).min(IDLE),
            _ => IDLE,
        };
        let _unused = shared.changed.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Inner {
    fn pop_due_if_running(&mut self, now: u64) -> Option<(u64, Callback)> {
        matches!(self.source, Source::Host { since: Some(_) }).then(|| self.pop_due(now)).flatten()
    }
}

/// A one-shot timer of a [`Clock`]. Dropping it cancels it.
pub struct Timer {
    clock: Clock,
    id: u64,
    deadline: Option<u64>,
    callback: Callback,
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timer({:?})", self.deadline)
    }
}

impl Timer {
    /// Arms the timer for guest time `deadline` in nanoseconds, in place of an earlier deadline. A deadline in the past
    /// falls due at once (on a manual clock: at the next step).
    pub fn arm(&mut self, deadline: u64) {
        let mut inner = self.clock.0.lock();
        if let Some(old) = self.deadline.replace(deadline) {
            inner.queue.remove(&(old, self.id));
        }
        let first = inner.queue.first_key_value().is_none_or(|((earliest, _), _)| deadline < *earliest);
        inner.queue.insert((deadline, self.id), Arc::clone(&self.callback));
        self.clock.ensure_thread(&mut inner);
        drop(inner);
        if first {
            self.clock.0.changed.notify_all();
        }
    }

    /// Disarms the timer.
    pub fn cancel(&mut self) {
        if let Some(old) = self.deadline.take() {
            self.clock.0.lock().queue.remove(&(old, self.id));
        }
    }

    /// The deadline that was last armed and not cancelled; it may have passed.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn manual_step_runs_timers_in_order_at_their_deadlines() {
        let clock = Clock::manual();
        let (send, receive) = mpsc::channel();
        let mut timers = Vec::new();
        for deadline in [300, 100, 200, 900] {
            let (send, at) = (send.clone(), clock.clone());
            let mut timer = clock.timer(move || send.send(at.now()).expect("receiver"));
            timer.arm(deadline);
            timers.push(timer);
        }
        clock.step(500);
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [100, 200, 300]);
        assert_eq!(clock.now(), 500);
        assert_eq!(clock.next_deadline(), Some(900));
    }

    #[test]
    fn cancelled_and_dropped_timers_do_not_run() {
        let clock = Clock::manual();
        let (send, receive) = mpsc::channel();
        let again = send.clone();
        let mut first = clock.timer(move || send.send(()).expect("receiver"));
        let mut second = clock.timer(move || again.send(()).expect("receiver"));
        first.arm(1);
        second.arm(1);
        first.cancel();
        drop(second);
        clock.step(10);
        assert!(receive.try_recv().is_err());
    }

    #[test]
    fn host_clock_stands_still_until_started_then_runs_timers() {
        let clock = Clock::host();
        let (send, receive) = mpsc::channel();
        let mut timer = clock.timer(move || send.send(()).expect("receiver"));
        timer.arm(1_000_000);
        assert!(receive.recv_timeout(Duration::from_millis(30)).is_err());
        assert_eq!(clock.now(), 0);
        clock.start();
        receive.recv_timeout(Duration::from_secs(10)).expect("the timer runs");
        assert!(clock.now() >= 1_000_000);
        clock.stop();
        let stopped = clock.now();
        assert_eq!(clock.now(), stopped);
    }
}
