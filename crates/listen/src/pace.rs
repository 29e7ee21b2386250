//! How often a screen is looked at.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The time between two pictures when something moves.
const INTERVAL_LEAST: Duration = Duration::from_millis(16);
/// The same when nothing has moved for a while.
const INTERVAL_MOST: Duration = Duration::from_millis(200);
/// By so much longer after each picture without news.
const INTERVAL_STEP: Duration = Duration::from_millis(4);

/// The pace of looks at screens, and what was seen there: the less is new, the longer it takes to the next.
#[derive(Debug)]
pub struct Pace<T> {
    interval: Duration,
    next: Instant,
    last: T,
}

impl<T: Default> Default for Pace<T> {
    /// That of a screen on which something moves.
    fn default() -> Self {
        Self { interval: INTERVAL_LEAST, next: Instant::now(), last: T::default() }
    }
}

impl<T: PartialEq> Pace<T> {
    /// Takes what was seen; whether it is new.
    pub fn saw(&mut self, seen: T) -> bool {
        let is_new = self.last != seen;
        self.interval = if is_new { INTERVAL_LEAST } else { (self.interval + INTERVAL_STEP).min(INTERVAL_MOST) };
        self.last = seen;
        is_new
    }

    /// Waits until the next look is due: soon if there is a hurry.
    pub async fn wait(&mut self, hurry: &Notify) {
        self.next = (self.next + self.interval).max(Instant::now());
        tokio::select! {
            () = tokio::time::sleep_until(self.next.into()) => {}
            () = hurry.notified() => {
                self.interval = INTERVAL_LEAST;
                // Who types does not get more pictures than who looks.
                self.next = self.next.min(Instant::now() + INTERVAL_LEAST);
                tokio::time::sleep_until(self.next.into()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_slows_down_step_by_step_until_something_is_new() {
        let mut pace = Pace::default();
        assert!(pace.saw(1) && pace.interval == INTERVAL_LEAST);
        assert!(!pace.saw(1) && pace.interval == INTERVAL_LEAST + INTERVAL_STEP);
        for _ in 0..100 {
            assert!(!pace.saw(1));
        }
        assert_eq!(pace.interval, INTERVAL_MOST);
        assert!(pace.saw(2) && pace.interval == INTERVAL_LEAST);
    }
}
