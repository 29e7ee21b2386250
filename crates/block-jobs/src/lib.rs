//! Jobs of the block layer: work in the background with a name, a state, progress and an end.
//!
//! ```text
//!  created ─▶ running ◀─▶ paused
//!               │ ▲
//!               ▼ │
//!             ready ◀─▶ standby          (jobs that go on until they are told to complete)
//!               │
//!               ▼
//!            waiting ─▶ pending ─▶ concluded ─▶ null
//!               └───────────┴──▶ aborting ──▲       (an error, a cancellation; possible from every state before)
//! ```
//! - [`Job`] is the life of one job, [`JobDriver`] what it does. The work is a task of a reactor; what changes the graph
//!   in the end happens where [`Jobs`] is told to ([`Jobs::settle`]), which is the owner of the graph.
//! - A [`Transaction`] makes jobs end together: all of them succeed, or none.
//! - [`mirror`], [`backup`], [`commit`] and [`stream`] are the jobs that copy. Their requests pass a gate, so that a drain
//!   holds them as it holds those of guests.
//!
//! Nothing here knows QMP. Specification: QEMU's `job.json` and `block-core.json`.

#![forbid(unsafe_code)]

pub mod backup;
pub mod chain;
pub mod commit;
pub mod commit_at_once;
pub mod copy;
pub mod copy_before_write;
mod edges;
mod flight;
pub mod info;
pub mod job;
pub mod jobs;
pub mod mirror;
mod mirror_bitmap;
mod mirror_top;
mod pass;
mod rate;
mod region;
pub mod stream;
mod sweep;

pub use info::{Change, CopyMode, Event, Info, Kind, OnError, Status, Verb};
pub use job::{Job, JobDriver};
pub use jobs::{Common, Jobs, NewJob, Observer, Transaction};

use block::DriverType;

/// The drivers of this crate that clients may name.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    vec![&copy_before_write::CopyBeforeWriteType, &copy_before_write::SnapshotAccessType]
}
