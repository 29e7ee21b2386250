//! What a back end counts of its requests: operations, bytes, time, failures, intervals, latency histograms.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The kinds of requests that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes, of zeroes too.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Unmap,
}

/// Counters of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of requests that succeeded.
    pub bytes: u64,
    /// Requests that succeeded.
    pub operations: u64,
    /// Nanoseconds that they took together.
    pub total_time_ns: u64,
    /// Requests that were merged into others by the device.
    pub merged: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were refused before they reached the disk.
    pub invalid: u64,
    /// Latencies, if asked for.
    pub histogram: Option<Histogram>,
}

/// How many requests took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The borders of the bins in nanoseconds, ascending: `[0, b0)`, `[b0, b1)`, … `[bn, ∞)`.
    pub boundaries: Vec<u64>,
    /// Requests in each bin; one more than boundaries.
    pub bins: Vec<u64>,
}

impl Histogram {
    /// An empty histogram, if the borders ascend and are not 0.
    pub fn new(boundaries: Vec<u64>) -> Option<Self> {
        let ascends = boundaries.windows(2).all(|pair| pair[0] < pair[1]);
        if boundaries.is_empty() || boundaries[0] == 0 || !ascends {
            return None;
        }
        let bins = vec![0; boundaries.len() + 1];
        Some(Self { boundaries, bins })
    }

    fn add(&mut self, ns: u64) {
        let bin = self.boundaries.partition_point(|border| *border <= ns);
        if let Some(count) = self.bins.get_mut(bin) {
            *count += 1;
        }
    }
}

/// Latencies of one kind in an interval, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The least.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// The average.
    pub avg: u64,
    /// The average number of requests in flight, in thousandths.
    pub queue_depth_milli: u64,
}

/// The finished requests of the last interval and of the running one.
struct Window {
    length: Duration,
    samples: [VecDeque<(Instant, u64)>; 4],
}

#[derive(Default)]
struct State {
    counters: [Counters; 4],
    windows: Vec<Window>,
    last_access: Option<Instant>,
}

/// The statistics of one back end.
pub struct Stats {
    state: Mutex<State>,
    account_invalid: AtomicBool,
    account_failed: AtomicBool,
}

impl Default for Stats {
    fn default() -> Self {
        Self { state: Mutex::default(), account_invalid: AtomicBool::new(true), account_failed: AtomicBool::new(true) }
    }
}

impl Stats {
    fn with<R>(&self, visit: impl FnOnce(&mut State) -> R) -> R {
        visit(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether requests that were refused count as accesses.
    pub fn accounts_invalid(&self) -> bool {
        self.account_invalid.load(Ordering::Relaxed)
    }

    /// Whether requests that failed count in latencies and as accesses.
    pub fn accounts_failed(&self) -> bool {
        self.account_failed.load(Ordering::Relaxed)
    }

    /// Changes whether refused and failed requests count; `None` leaves it as it is.
    pub fn set_accounting(&self, invalid: Option<bool>, failed: Option<bool>) {
        for (known, wish) in [(&self.account_invalid, invalid), (&self.account_failed, failed)] {
            if let Some(wish) = wish {
                known.store(wish, Ordering::Relaxed);
            }
        }
    }

    /// Counts a request that succeeded.
    pub fn done(&self, kind: Kind, bytes: u64, started: Instant) {
        let now = Instant::now();
        let ns = u64::try_from(now.duration_since(started).as_nanos()).unwrap_or(u64::MAX);
        self.with(|state| {
            let counters = &mut state.counters[kind as usize];
            counters.bytes += bytes;
            counters.operations += 1;
            counters.total_time_ns = counters.total_time_ns.saturating_add(ns);
            if let Some(histogram) = &mut counters.histogram {
                histogram.add(ns);
            }
            state.sample(kind, now, ns);
        });
    }

    /// Counts a request that failed.
    pub fn failed(&self, kind: Kind, started: Instant) {
        let now = Instant::now();
        let ns = u64::try_from(now.duration_since(started).as_nanos()).unwrap_or(u64::MAX);
        self.with(|state| {
            state.counters[kind as usize].failed += 1;
            if self.accounts_failed() {
                state.counters[kind as usize].total_time_ns += ns;
                state.sample(kind, now, ns);
            }
        });
    }

    /// Counts a request that was refused.
    pub fn invalid(&self, kind: Kind) {
        self.with(|state| {
            state.counters[kind as usize].invalid += 1;
            if self.accounts_invalid() {
                state.last_access = Some(Instant::now());
            }
        });
    }

    /// The counters of a kind.
    pub fn counters(&self, kind: Kind) -> Counters {
        self.with(|state| state.counters[kind as usize].clone())
    }

    /// Nanoseconds since the last request, if there was one.
    pub fn idle_time_ns(&self) -> Option<u64> {
        self.with(|state| state.last_access).map(|at| u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Sets or removes the latency histogram of a kind.
    pub fn set_histogram(&self, kind: Kind, histogram: Option<Histogram>) {
        self.with(|state| state.counters[kind as usize].histogram = histogram);
    }

    /// Also keeps latencies over intervals of that length, seconds.
    pub fn add_interval(&self, seconds: u64) {
        let window = Window { length: Duration::from_secs(seconds), samples: Default::default() };
        self.with(|state| state.windows.push(window));
    }

    /// The lengths of the intervals, seconds, and the latencies of reads, writes and flushes in the last one.
    pub fn intervals(&self) -> Vec<(u64, [Latency; 3])> {
        let now = Instant::now();
        self.with(|state| {
            state
                .windows
                .iter_mut()
                .map(|window| (window.length.as_secs(), [0, 1, 2].map(|kind| window.latency(kind, now))))
                .collect()
        })
    }
}

impl State {
    fn sample(&mut self, kind: Kind, now: Instant, ns: u64) {
        self.last_access = Some(now);
        for window in &mut self.windows {
            window.expire(kind as usize, now);
            window.samples[kind as usize].push_back((now, ns));
        }
    }
}

impl Window {
    fn expire(&mut self, kind: usize, now: Instant) {
        while self.samples[kind].front().is_some_and(|(at, _)| now.duration_since(*at) > self.length) {
            self.samples[kind].pop_front();
        }
    }

    fn latency(&mut self, kind: usize, now: Instant) -> Latency {
        self.expire(kind, now);
        let all = || self.samples[kind].iter().map(|(_, ns)| *ns);
        let (sum, count) = (all().sum::<u64>(), self.samples[kind].len() as u64);
        let length = u64::try_from(self.length.as_nanos()).unwrap_or(u64::MAX).max(1);
        Latency {
            min: all().min().unwrap_or(0),
            max: all().max().unwrap_or(0),
            avg: sum.checked_div(count).unwrap_or(0),
            queue_depth_milli: sum.saturating_mul(1000) / length,
        }
    }
}
