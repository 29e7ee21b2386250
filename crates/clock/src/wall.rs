//! The time of day that the guest's real-time clock shows (`-rtc base=…,clock=…`).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Clock;

/// Where the guest's time of day begins and what drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time of day plus an offset in seconds (0 for UTC, the zone's offset for local time).
    Host {
        /// Seconds to add to UTC.
        offset: i64,
    },
    /// A fixed date at guest time 0, in seconds since 1970-01-01, driven by the virtual clock.
    Virtual {
        /// Seconds since the epoch.
        start: i64,
    },
}

/// A time of day.
#[derive(Clone, Debug)]
pub struct WallClock {
    base: RtcBase,
    clock: Clock,
}

impl WallClock {
    /// A time of day with this base; `clock` drives it when the base is virtual.
    pub fn new(base: RtcBase, clock: Clock) -> Self {
        Self { base, clock }
    }

    /// Nanoseconds since 1970-01-01 00:00 in the guest's zone.
    pub fn now(&self) -> i128 {
        const SECOND: i128 = 1_000_000_000;
        match self.base {
            RtcBase::Host { offset } => {
                let host = match SystemTime::now().duration_since(UNIX_EPOCH) {
                    Ok(since) => since.as_nanos() as i128,
                    Err(before) => -(before.duration().as_nanos() as i128),
                };
                host + i128::from(offset) * SECOND
            }
            RtcBase::Virtual { start } => i128::from(start) * SECOND + i128::from(self.clock.now()),
        }
    }
}
