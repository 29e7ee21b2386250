//! The reactor of the block layer and the file operations at its leaves.
//!
//! A reactor is one thread's executor. Futures that are polled on it start leaf operations on that thread's engine.
//! [`block_on`] runs a future on the calling thread, with a reactor of its own.

mod file;
mod reactor;

pub use file::{AllocateMode, File};
pub use reactor::{Handle, IoThread, block_on, sleep, spawn_blocking};
