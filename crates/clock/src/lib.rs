//! The virtual clock, timers, and the guest's time of day.
//!
//! No device asks the host for the time: it asks its [`Clock`]. The virtual clock counts nanoseconds of guest time and
//! stands still while the machine is stopped. In [`Clock::host`] it follows the host's monotonic clock, and one thread
//! (`timers`) runs what falls due; in [`Clock::counted`] it follows the instructions that the vCPUs execute (`-icount`)
//! and their thread runs what falls due; in [`Clock::manual`] it moves only by [`Clock::step`], for tests and `-qtest`,
//! and callbacks run inside of `step`, in the order of their deadlines.
//!
//! Callbacks run without a clock lock held. A callback may race with a cancel or a new arming from another thread, so a
//! device compares [`Clock::now`] with its own deadline when it is called.

#![forbid(unsafe_code)]

mod counter;
mod wall;

pub use counter::InstructionCounter;
pub use wall::{RtcBase, WallClock};

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The longest instruction of a counted clock takes 2^10 ns.
pub const MAX_SHIFT: u32 = 10;

fn nanoseconds(instructions: u64, shift: u32) -> u64 {
    instructions.saturating_mul(1 << shift)
}

/// What a timer does when it falls due.
pub type Callback = Arc<dyn Fn() + Send + Sync>;

enum Source {
    /// The host's monotonic clock: guest time = `base` + time since `since` while running.
    Host {
        since: Option<Instant>,
    },
    Manual,
    /// Executed instructions: guest time = `base` + (count - `origin`) << `shift`.
    Counted {
        counter: Arc<InstructionCounter>,
        origin: u64,
        shift: u32,
    },
}

/// Called when a timer was armed that falls due before all others.
type Waker = Box<dyn Fn() + Send + Sync>;

struct Inner {
    source: Source,
    /// Guest time at the last start or stop (host), or now (manual), in nanoseconds.
    base: u64,
    /// Armed timers by (deadline, timer).
    queue: BTreeMap<(u64, u64), Callback>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    next_id: AtomicU64,
    waker: OnceLock<Waker>,
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
            Source::Counted { counter, origin, shift } => {
                self.base.saturating_add(nanoseconds(counter.executed().wrapping_sub(*origin), *shift))
            }
        }
    }

    /// Makes guest time `now` on a source that goes on by itself.
    fn rebase(&mut self, now: u64) {
        self.base = now;
        match &mut self.source {
            Source::Host { since: Some(since) } => *since = Instant::now(),
            Source::Counted { counter, origin, .. } => *origin = counter.executed(),
            Source::Host { since: None } | Source::Manual => {}
        }
    }

    /// Makes vCPUs come back when the first timer falls due.
    fn limit_count(&self) {
        if let Source::Counted { counter, .. } = &self.source
            && let Some(count) = self.due_count()
        {
            counter.lower_limit(count);
        }
    }

    /// The count of instructions at which the first timer falls due.
    fn due_count(&self) -> Option<u64> {
        let Source::Counted { origin, shift, .. } = &self.source else { return None };
        let ((deadline, _), _) = self.queue.first_key_value()?;
        Some(origin.saturating_add(deadline.saturating_sub(self.base).div_ceil(1 << shift)))
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
        let inner = Inner { source, base: 0, queue: BTreeMap::new() };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            next_id: AtomicU64::new(0),
            waker: OnceLock::new(),
        }))
    }

    /// A clock that follows the host's monotonic time while it runs. It begins at 0, stopped. Its thread ends when the
    /// last handle of the clock is dropped.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn host() -> io::Result<Self> {
        let clock = Self::with(Source::Host { since: None });
        let shared = Arc::downgrade(&clock.0);
        std::thread::Builder::new().name("timers".into()).spawn(move || run_timers(&shared))?;
        Ok(clock)
    }

    /// A clock by which each instruction that `counter` counts takes `2^shift` nanoseconds (`shift` at most 10). It
    /// begins at 0. Whoever runs vCPUs calls [`Clock::run_due`] between their turns; `counter`'s limit is lowered to
    /// the next deadline as timers are armed.
    pub fn counted(counter: Arc<InstructionCounter>, shift: u32) -> Self {
        Self::with(Source::Counted { origin: counter.executed(), counter, shift: shift.min(MAX_SHIFT) })
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
        inner.rebase(now);
        inner.limit_count();
        drop(inner);
        self.0.changed.notify_all();
    }

    /// On a counted clock: moves guest time forward to `to` without instructions, while all vCPUs sleep.
    pub fn skip_to(&self, to: u64) {
        let mut inner = self.0.lock();
        if matches!(inner.source, Source::Counted { .. }) && inner.now() < to {
            inner.rebase(to);
        }
    }

    /// On a counted clock: changes how long an instruction takes from now on.
    pub fn set_shift(&self, new: u32) {
        let mut inner = self.0.lock();
        let now = inner.now();
        inner.rebase(now);
        if let Source::Counted { shift, .. } = &mut inner.source {
            *shift = new.min(MAX_SHIFT);
        }
        inner.limit_count();
    }

    /// On a counted clock: runs the timers that are due, in the order of their deadlines, and returns the count of
    /// instructions at which the next one falls due.
    pub fn run_due(&self) -> Option<u64> {
        loop {
            let mut inner = self.0.lock();
            if !matches!(inner.source, Source::Counted { .. }) {
                return None;
            }
            let now = inner.now();
            let Some((_, callback)) = inner.pop_due(now) else { return inner.due_count() };
            drop(inner);
            callback();
        }
    }

    /// Sets what is called, on the arming thread, when a timer was armed that falls due before all others: it wakes
    /// whoever waits for the next deadline of a counted clock. Only the first call counts.
    pub fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _already_set = self.0.waker.set(Box::new(waker));
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
        inner.limit_count();
        drop(inner);
        if first {
            self.clock.0.changed.notify_all();
            if let Some(waker) = self.clock.0.waker.get() {
                waker();
            }
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
        let clock = Clock::host().expect("thread");
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

    #[test]
    fn counted_clock_follows_instructions_and_lowers_their_limit() {
        let counter = Arc::new(InstructionCounter::default());
        let clock = Clock::counted(Arc::clone(&counter), 3);
        counter.set_limit(1000);
        let (send, receive) = mpsc::channel();
        let at = clock.clone();
        let mut timer = clock.timer(move || send.send(at.now()).expect("receiver"));
        timer.arm(801);
        assert_eq!(counter.limit(), 101);
        counter.add(100);
        assert_eq!((clock.now(), clock.run_due(), receive.try_recv().is_err()), (800, Some(101), true));
        counter.add(5);
        assert!(counter.is_due());
        assert_eq!((clock.run_due(), receive.try_recv()), (None, Ok(840)));
    }

    #[test]
    fn counted_clock_keeps_its_time_over_skips_and_shifts() {
        let counter = Arc::new(InstructionCounter::default());
        let clock = Clock::counted(Arc::clone(&counter), 0);
        counter.add(10);
        clock.set_shift(2);
        counter.add(10);
        assert_eq!(clock.now(), 50);
        clock.skip_to(1000);
        clock.skip_to(500);
        counter.add(1);
        assert_eq!(clock.now(), 1004);
    }

    #[test]
    fn waker_hears_of_an_earlier_deadline_only() {
        let clock = Clock::counted(Arc::default(), 0);
        let (send, receive) = mpsc::channel();
        let send = Mutex::new(send);
        clock.set_waker(move || send.lock().expect("lock").send(()).expect("receiver"));
        let (mut first, mut second) = (clock.timer(|| ()), clock.timer(|| ()));
        first.arm(100);
        second.arm(200);
        assert_eq!(receive.try_iter().count(), 1);
        second.arm(50);
        assert_eq!(receive.try_iter().count(), 1);
    }
}
