//! What ties the HPET to the two timers that it can stand in for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the HPET's legacy replacement route is on: then interrupts 0 and 8 are the HPET's, and the PIT and the RTC
/// keep theirs to themselves. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct LegacyReplacement(Arc<AtomicBool>);

impl LegacyReplacement {
    /// Whether the HPET has taken the interrupts over.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Switches the route.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Release);
    }
}
