//! Deadlines in order, and who waits for them.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

/// A deadline's place in [`Timers`]: the time, and a number that keeps equal times apart.
pub(crate) type TimerKey = (Duration, u64);

/// The deadlines of one clock. Times are counted from the clock's start.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<TimerKey, Waker>,
    next: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, deadline: Duration, waker: Waker) -> TimerKey {
        let key = (deadline, self.next);
        self.next += 1;
        self.waiting.insert(key, waker);
        key
    }

    /// Whether the deadline is still ahead; then `waker` is woken from now on.
    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match self.waiting.get_mut(&key) {
            Some(known) => {
                known.clone_from(waker);
                true
            }
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.waiting.remove(&key);
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes one that is due at `now`. The caller wakes it without holding this.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
