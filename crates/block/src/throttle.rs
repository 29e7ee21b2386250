//! Throttling: leaky buckets for bytes and operations, in groups that share them.
//!
//! Six buckets: bytes and operations, each for reads, writes and both together. A bucket leaks at its average rate. With
//! a maximum it may be filled at that rate for the burst length before requests wait for the average; without one it
//! holds a tenth of a second's worth.

use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::gate::Gate;

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Bytes read and written.
    BpsTotal,
    /// Bytes read.
    BpsRead,
    /// Bytes written.
    BpsWrite,
    /// Reads and writes.
    IopsTotal,
    /// Reads.
    IopsRead,
    /// Writes.
    IopsWrite,
}

impl Bucket {
    /// All buckets, in the order of [`Limits::buckets`].
    pub const ALL: [Self; 6] =
        [Self::BpsTotal, Self::BpsRead, Self::BpsWrite, Self::IopsTotal, Self::IopsRead, Self::IopsWrite];

    /// The bucket's name in options, as `bps-total`.
    pub fn name(self) -> &'static str {
        ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"][self as usize]
    }
}

/// The limits of one bucket, units each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The average; 0 is unlimited.
    pub average: u64,
    /// The rate of bursts; 0 if there are none.
    pub max: u64,
    /// How long a burst may last, seconds; at least 1.
    pub burst_length: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { average: 0, max: 0, burst_length: 1 }
    }
}

/// All limits of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// One rate for each of [`Bucket::ALL`].
    pub buckets: [Rate; 6],
    /// An operation of more bytes counts as several; 0 counts each as one.
    pub iops_size: u64,
}

/// The highest limit.
const MAX_RATE: u64 = 1_000_000_000_000_000;

impl Limits {
    /// The rate of a bucket.
    pub fn rate(&self, bucket: Bucket) -> Rate {
        self.buckets[bucket as usize]
    }

    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.buckets.iter().any(|rate| rate.average != 0)
    }

    /// Checks that the limits fit together.
    ///
    /// # Errors
    /// With the texts that QEMU's clients know.
    pub fn check(&self) -> Result<()> {
        let set = |bucket: Bucket| self.rate(bucket).average != 0;
        let set_max = |bucket: Bucket| self.rate(bucket).max != 0;
        use Bucket::*;
        if (set(BpsTotal) && (set(BpsRead) || set(BpsWrite))) || (set(IopsTotal) && (set(IopsRead) || set(IopsWrite))) {
            return Err(Error::invalid(
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ));
        }
        if (set_max(BpsTotal) && (set_max(BpsRead) || set_max(BpsWrite)))
            || (set_max(IopsTotal) && (set_max(IopsRead) || set_max(IopsWrite)))
        {
            return Err(Error::invalid(
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ));
        }
        if self.iops_size != 0 && !set(IopsTotal) && !set(IopsRead) && !set(IopsWrite) {
            return Err(Error::invalid("iops size requires an iops value to be set"));
        }
        for rate in &self.buckets {
            if rate.average > MAX_RATE || rate.max > MAX_RATE {
                return Err(Error::invalid(format!("bps/iops/max values must be within [0, {MAX_RATE}]")));
            }
            if rate.burst_length == 0 {
                return Err(Error::invalid("the burst length cannot be 0"));
            }
            if rate.burst_length > 1 && rate.max == 0 {
                return Err(Error::invalid("burst length set without burst rate"));
            }
            if rate.max != 0 && rate.burst_length > MAX_RATE / rate.max {
                return Err(Error::invalid("burst length too high for this burst rate"));
            }
            if rate.max != 0 && rate.average == 0 {
                return Err(Error::invalid("bps_max/iops_max require corresponding bps/iops values"));
            }
            if rate.max != 0 && rate.max < rate.average {
                return Err(Error::invalid("bps_max/iops_max cannot be lower than bps/iops"));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
struct Level {
    units: f64,
    burst: f64,
}

impl Level {
    fn leak(&mut self, rate: &Rate, seconds: f64) {
        self.units = (self.units - rate.average as f64 * seconds).max(0.0);
        self.burst = (self.burst - rate.max as f64 * seconds).max(0.0);
    }

    /// Seconds until the bucket takes more.
    fn wait(&self, rate: &Rate) -> f64 {
        if rate.average == 0 {
            return 0.0;
        }
        let average = rate.average as f64;
        if rate.max == 0 {
            return ((self.units - average / 10.0) / average).max(0.0);
        }
        let max = rate.max as f64;
        let burst = if rate.burst_length > 1 { ((self.burst - max / 10.0) / max).max(0.0) } else { 0.0 };
        ((self.units - max * rate.burst_length as f64) / average).max(burst).max(0.0)
    }
}

struct State {
    limits: Limits,
    levels: [Level; 6],
    last: Instant,
}

/// A group of disks that share one set of limits.
pub struct Group {
    name: String,
    state: Mutex<State>,
    // A turn for reads and one for writes: first come, first served, over all members.
    turns: [tokio::sync::Mutex<()>; 2],
    /// There are other limits.
    changed: Notify,
}

impl Group {
    /// A group.
    ///
    /// # Errors
    /// If the limits don't fit together.
    pub fn new(name: &str, limits: Limits) -> Result<Self> {
        limits.check()?;
        let state = State { limits, levels: Default::default(), last: Instant::now() };
        Ok(Self { name: name.to_owned(), state: Mutex::new(state), turns: Default::default(), changed: Notify::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn with<R>(&self, visit: impl FnOnce(&mut State) -> R) -> R {
        visit(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.with(|state| state.limits)
    }

    /// Sets other limits; the buckets start empty. Requests that wait are looked at again.
    ///
    /// # Errors
    /// If they don't fit together.
    pub fn set_limits(&self, limits: Limits) -> Result<()> {
        limits.check()?;
        self.with(|state| *state = State { limits, levels: Default::default(), last: Instant::now() });
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets everything go from now on: the program ends.
    pub fn lift(&self) {
        self.with(|state| state.limits = Limits::default());
        self.changed.notify_waiters();
    }

    /// Waits until a request of `bytes` may go, and counts it. Goes on at once while `gate` is closed by a drain.
    pub async fn admit(&self, bytes: u64, is_write: bool, gate: &Gate) {
        if !self.with(|state| state.limits.is_limited()) {
            return;
        }
        // A drain does not wait for the turn of another disk.
        let turn = async { Some(self.turns[usize::from(is_write)].lock().await) };
        let closed = async {
            gate.wait_closed().await;
            None
        };
        let _turn = first(closed, turn).await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let wait = self.with(|state| state.try_admit(bytes, is_write, gate.is_closed()));
            let Some(wait) = wait else { return };
            first(aio::sleep(wait), first(gate.wait_closed(), changed)).await;
        }
    }
}

impl State {
    /// Counts the request, or says how long to wait.
    fn try_admit(&mut self, bytes: u64, is_write: bool, at_once: bool) -> Option<Duration> {
        let now = Instant::now();
        let elapsed = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        let direction = if is_write { 2 } else { 1 };
        let touched = [0, direction, 3, 3 + direction];
        let mut wait: f64 = 0.0;
        for (level, rate) in self.levels.iter_mut().zip(&self.limits.buckets) {
            level.leak(rate, elapsed);
        }
        for bucket in touched {
            wait = wait.max(self.levels[bucket].wait(&self.limits.buckets[bucket]));
        }
        if wait > 0.0 && !at_once {
            return Some(Duration::from_secs_f64(wait.min(3600.0)).max(Duration::from_micros(50)));
        }
        let size = self.limits.iops_size;
        let operations = if size != 0 && bytes > size { bytes as f64 / size as f64 } else { 1.0 };
        for bucket in touched {
            let units = if bucket < 3 { bytes as f64 } else { operations };
            self.levels[bucket].units += units;
            if self.limits.buckets[bucket].burst_length > 1 {
                self.levels[bucket].burst += units;
            }
        }
        None
    }
}

/// The result of the first of two futures that is ready.
async fn first<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> T {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    std::future::poll_fn(|context| match a.as_mut().poll(context) {
        Poll::Pending => b.as_mut().poll(context),
        ready => ready,
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bucket: Bucket, rate: Rate) -> Limits {
        let mut limits = Limits::default();
        limits.buckets[bucket as usize] = rate;
        limits
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let mut both = limits(Bucket::BpsTotal, Rate { average: 1, ..Rate::default() });
        both.buckets[Bucket::BpsRead as usize].average = 1;
        assert!(both.check().is_err());
        assert!(limits(Bucket::IopsRead, Rate { average: 10, max: 5, burst_length: 1 }).check().is_err());
        assert!(limits(Bucket::IopsRead, Rate { average: 0, max: 5, burst_length: 1 }).check().is_err());
        assert!(limits(Bucket::IopsRead, Rate { average: 5, max: 0, burst_length: 2 }).check().is_err());
        assert!(limits(Bucket::IopsRead, Rate { average: 5, max: 10, burst_length: 2 }).check().is_ok());
    }

    #[test]
    fn a_full_bucket_waits_for_the_average_and_only_in_its_direction() {
        let limits = limits(Bucket::BpsWrite, Rate { average: 1000, ..Rate::default() });
        let mut state = State { limits, levels: Default::default(), last: Instant::now() };
        assert_eq!(state.try_admit(1100, true, false), None);
        let wait = state.try_admit(1, true, false).expect("the bucket is over its tenth of a second");
        assert!((0.9..=1.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(state.try_admit(1 << 30, false, false), None);
        assert_eq!(state.try_admit(1, true, true), None, "a drain lets it pass");
    }

    #[test]
    fn a_burst_may_fill_the_bucket_at_its_rate_for_its_length() {
        let rate = Rate { average: 100, max: 1000, burst_length: 5 };
        let mut level = Level { units: 4999.0, burst: 100.0 };
        assert!(level.wait(&rate) < 1e-9);
        level.burst = 600.0;
        assert!((level.wait(&rate) - 0.5).abs() < 1e-9);
        level.units = 5200.0;
        assert!((level.wait(&rate) - 2.0).abs() < 1e-9);
    }
}
