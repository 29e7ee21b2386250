//! Executed instructions, by which a counted clock goes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the instructions that all vCPUs of a machine have executed, and says when they are to pause. One thread at a
/// time runs vCPUs and counts; others may look.
#[derive(Debug, Default)]
pub struct InstructionCounter {
    executed: AtomicU64,
    limit: AtomicU64,
}

impl InstructionCounter {
    /// Counts `instructions` more. Only the thread that runs vCPUs may call this.
    #[inline]
    pub fn add(&self, instructions: u64) {
        self.executed.store(self.executed().wrapping_add(instructions), Ordering::Relaxed);
    }

    /// Instructions so far.
    #[inline]
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// Whether the count has reached its limit: the vCPU comes back from running.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.executed() >= self.limit.load(Ordering::Relaxed)
    }

    /// The count at which the vCPU comes back.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets the count at which the vCPU comes back.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Makes the vCPU come back at the count `limit`, if it would not sooner.
    pub fn lower_limit(&self, limit: u64) {
        self.limit.fetch_min(limit, Ordering::Relaxed);
    }
}
