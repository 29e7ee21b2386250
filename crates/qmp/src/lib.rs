//! The QEMU Machine Protocol: framing, sessions, dispatch, events, passing of file descriptors, and
//! a typed client. Facts: `qmp.md`; texts and order of checks are those of QEMU 7.2.
//!
//! This crate knows how a command travels, not what it does. A [`CommandTable`] says for each
//! command where its handler runs:
//! - [`CommandTable::register`]: on the control thread, which owns the machine;
//! - [`CommandTable::register_deferred`]: there, too, but the answer comes later, from any thread;
//! - [`CommandTable::register_snapshot`]: in place, from state that the control thread publishes;
//! - [`CommandTable::register_oob`]: in place, even before earlier commands are done.
//!
//! A [`Server`] holds the monitors. Each serves one client at a time over a [`chardev::Chardev`].
//! Commands of one client run one after the other; those of several monitors take turns, because
//! each has at most one in the control thread's queue.
//!
//! Threads: input is read and parsed on the monitor thread. Replies and events are written by
//! whoever produces them, without blocking: what the client does not take is kept, up to
//! [`OUTPUT_BOUND`]. While much is kept no commands are read, and beyond the bound the client is
//! dropped with a line in the log.
//!
//! Lock order: event hub, session, character device. Handlers run with no lock held.

#![forbid(unsafe_code)]

pub mod client;
mod context;
mod envelope;
mod events;
mod fds;
mod reply;
mod server;
mod session;
mod table;

pub use context::SessionContext;
pub use events::EventSink;
pub use fds::{FdAccess, FdSetFile, FdSets, FdTable};
pub use reply::Reply;
pub use server::{ControlQueue, MonitorOptions, Server, ServerOptions, Work};
pub use session::{OUTPUT_BOUND, QUEUE_LIMIT};
pub use table::{CommandTable, Policy};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A poisoned lock means that a handler panicked; what the locks protect is whole all the same.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
