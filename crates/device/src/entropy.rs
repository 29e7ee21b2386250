//! What a random number generator sees of the host's randomness.

/// Called once with the bytes, on any thread, without a lock held.
pub type EntropyDone = Box<dyn FnOnce(Vec<u8>) + Send>;

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Asks for at most `len` bytes. Does not wait and does not call `done` before it has returned. A source that has
    /// failed never calls it.
    fn request(&self, len: usize, done: EntropyDone);
}
