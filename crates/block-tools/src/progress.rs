//! How a long operation tells how far it is, and is told to stop.

use block::{Error, Result};

/// Watches a long operation.
pub trait Progress: Sync {
    /// `done` of `total` units are finished. Called often: whoever shows it limits the rate.
    fn update(&self, done: u64, total: u64);

    /// Whether somebody looks, so that it is worth to count beforehand what there is to do.
    fn is_shown(&self) -> bool {
        false
    }

    /// Whether the operation should stop with [`Error::cancelled`].
    fn is_cancelled(&self) -> bool {
        false
    }

    /// A problem that does not stop the operation.
    fn warn(&self, message: &str) {
        let _ = message;
    }
}

/// Fails once the operation was cancelled.
///
/// # Errors
/// [`Error::cancelled`].
pub fn check(progress: &dyn Progress) -> Result<()> {
    if progress.is_cancelled() { Err(Error::cancelled("The operation was cancelled")) } else { Ok(()) }
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _done: u64, _total: u64) {}
}
