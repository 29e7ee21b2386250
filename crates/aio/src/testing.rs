//! An executor for tests that does the same again for the same seed.
//!
//! Everything happens on the calling thread: at each step one of the ready tasks, operations and blocking jobs is picked
//! at random and run. Time stands still while anything can run; otherwise it goes on to the next deadline. When nothing
//! can run and no time is waited for, the run panics: that is a deadlock.
//!
//! Threads and other reactors are outside of this: what tasks get from them is not repeatable.

use std::future::Future;

use crate::reactor::{self, Deterministic};

/// A small generator of pseudo-random numbers (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of that seed.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next_u64()) * limit as u128) >> 64) as usize
    }
}

/// Runs `future`, and the tasks that it spawns, in an order that follows from `seed`.
///
/// # Panics
/// On a deadlock; inside of a task of a reactor.
pub fn run<F: Future>(seed: u64, future: F) -> F::Output {
    reactor::run_deterministic(Deterministic::new(Random::new(seed)), future)
}
