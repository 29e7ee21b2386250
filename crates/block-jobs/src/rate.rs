//! A limit of speed: so many bytes in each slice of time.

use std::time::Duration;

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(100);

/// How much was done in the slice that runs.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    start: Duration,
    end: Duration,
    dispatched: u64,
}

impl RateLimit {
    /// Accounts `bytes` at `speed` bytes a second (0 is no limit) and says how long to wait before going on.
    pub(crate) fn account(&mut self, speed: u64, bytes: u64, now: Duration) -> Duration {
        if speed == 0 {
            return Duration::ZERO;
        }
        let quota = (speed / 10).max(1);
        if self.end < now {
            *self = Self { start: now, end: now + SLICE, dispatched: 0 };
        }
        self.dispatched = self.dispatched.saturating_add(bytes);
        if self.dispatched < quota {
            return Duration::ZERO;
        }
        let slices = u32::try_from(self.dispatched / quota).unwrap_or(u32::MAX);
        self.end = self.start.saturating_add(SLICE.saturating_mul(slices));
        self.end.saturating_sub(now)
    }

    /// Forgets what was done: the limit is another one.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_beyond_the_quota_waits_for_as_many_slices() {
        let mut limit = RateLimit::default();
        let at = Duration::from_secs(1);
        assert_eq!(limit.account(0, 1 << 30, at), Duration::ZERO);
        assert_eq!(limit.account(1000, 99, at), Duration::ZERO);
        assert_eq!(limit.account(1000, 201, at), Duration::from_millis(300));
        assert_eq!(limit.account(1000, 0, at + Duration::from_millis(250)), Duration::from_millis(50));
        assert_eq!(limit.account(1000, 50, at + Duration::from_millis(301)), Duration::ZERO);
    }
}
