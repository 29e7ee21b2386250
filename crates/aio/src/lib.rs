//! The reactor of the block layer and the operations on files and sockets at its leaves.
//!
//! A reactor is one thread's executor. Its tasks never leave it; they are woken from any thread. [`block_on`] runs the
//! calling thread's own reactor until a future ends, an [`IoThread`] runs one until it is dropped. A leaf operation
//! ([`File`], [`Stream`], [`Messages`], [`sleep`]) is started on the reactor of the thread that polls it; polled by a foreign
//! executor, it is done by the thread pool.
//!
//! What the kernel may still touch belongs to the operation, not to its future: dropping a future that has started an
//! operation neither cancels it nor frees its buffer. Waiting for a socket to become ready touches nothing, and is given up.
//!
//! - [`file`]: reads, writes, flushes and reservations with three engines.
//! - [`clock`]: host time, or time that a test steps.
//! - [`testing`]: an executor that repeats itself exactly for a given seed.

mod attempt;
mod background;
pub mod clock;
mod counter;
pub mod file;
pub mod host;
mod messages;
mod operation;
mod pool;
mod reactor;
mod ring;
pub mod stream;
mod task;
pub mod testing;
mod timer;
mod vsock;
mod writer;

pub use attempt::{attempt, is_attempting, not_in_an_attempt};
pub use background::in_background;
pub use clock::{Clock, VirtualClock, now, sleep};
pub use counter::EventCounter;
pub use file::{AllocateMode, Engine, File};
pub use messages::Messages;
pub use pool::spawn_blocking;
pub use reactor::{Handle, IoThread, block_on, spawn, yield_now};
pub use ring::is_available as io_uring_available;
pub use stream::Stream;
pub use task::JoinHandle;
pub use vsock::VsockAddress;
