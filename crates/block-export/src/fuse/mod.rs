//! Exports over FUSE: a node as a regular file of the host, mounted over another one.
//!
//! The file system has a single file, its root. The kernel's requests come from `/dev/fuse`, one message at a time; each
//! becomes a task unless it is done at once, so that they run beside each other. Left out: io_uring as the transport,
//! and pages that are spliced.

mod export;
mod mount;
mod wire;

pub use export::{Export, ExportOptions};
pub use mount::{AllowOther, resolve};
