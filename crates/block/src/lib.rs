//! The block layer: a graph of named nodes, each a driver over children.
//!
//! - [`Graph`] knows the nodes by name, opens them ([`open`]), attaches and detaches users, and decides who may do what
//!   at the same time ([`permissions`]).
//! - [`Node`] does what is the same for every driver; [`Driver`] does the rest. Requests own their buffers
//!   ([`iobuf::IoBuf`]) and are futures that run on a reactor of crate `aio`.
//! - [`Child`] is an edge. Users outside of the graph (devices, jobs, exports, tools) hold an edge, too.
//!
//! Nothing here knows QMP, devices or guest memory.

#![forbid(unsafe_code)]

mod access;
pub mod amend;
mod append;
pub mod backend;
pub mod bitmap;
pub mod bytes;
pub mod child;
pub mod create;
pub mod driver;
pub mod error;
pub mod file;
pub mod filename;
pub mod gate;
pub mod graph;
pub mod image;
mod nested;
pub mod node;
pub mod open;
pub mod options;
pub mod permissions;
pub mod raw;
pub mod request;
pub mod rewire;
pub mod stats;
pub mod throttle;
pub mod tracker;
pub mod value;

pub use aio::Engine;
pub use append::Appended;
pub use backend::Backend;
pub use bitmap::{BitmapUse, Bitmaps, DirtyBitmap, NewBitmap};
pub use child::{BackingSlot, Child, Role};
pub use driver::{Driver, DriverKind, DriverType, IoFuture, done, fail};
pub use error::{Error, Result};
pub use graph::{Graph, Registry};
pub use node::{CacheMode, DetectZeroes, Node, NodeConfig};
pub use open::{Defaults, OpenFlags, OpenRequest};
pub use options::Options;
pub use permissions::Permissions;
pub use request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
pub use value::Value;

/// The drivers of this crate.
pub fn builtin_drivers() -> Vec<&'static dyn DriverType> {
    vec![
        &file::FileType,
        &file::HostDeviceType,
        &file::HostCdromType,
        &file::null::NULL_CO,
        &file::null::NULL_AIO,
        &raw::RawType,
    ]
}
