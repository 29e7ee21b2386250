//! Every QMP type, command and event as a Rust type, and the JSON dialect they travel in.
//!
//! The schema *is* these types: parsing, error texts, `query-qmp-schema`, `query-commands`, the
//! command reference and the typed client all come from them, so nobody writes a name twice.
//! A type derives [`QapiType`], a command [`Command`], an event [`Event`]; the subjects
//! ([`control`], [`run_state`], …) declare them. Which of the commands exist in a program is decided
//! by the list of [`schema::Declaration`]s that it serves.
//!
//! ```
//! use qapi::{Command, QapiType};
//!
//! /// Where a snapshot goes.
//! #[derive(Debug, Clone, PartialEq, QapiType)]
//! pub struct Target {
//!     /// The node's name.
//!     pub node_name: String,
//!     /// Whether it is there already.
//!     #[qapi(default = false)]
//!     pub existing: bool,
//! }
//!
//! /// Takes a snapshot.
//! #[derive(Debug, Clone, PartialEq, Command)]
//! #[command(name = "snapshot", legacy)]
//! pub struct Snapshot {
//!     /// What to save.
//!     #[qapi(alias = "drive")]
//!     pub device: String,
//!     /// Where to.
//!     pub target: Option<Target>,
//! }
//!
//! let arguments = r#"{"drive": "d0", "target": {"existing": 1}}"#;
//! let arguments = qapi::json::parse(arguments).ok().and_then(|value| value.as_object().cloned());
//! let error = Snapshot::from_arguments(arguments).unwrap_err();
//! assert_eq!(error.desc, "Parameter 'target.node-name' is missing");
//! ```
//!
//! Enums without content are enumerations. An enum with content is a union, `#[qapi(tag = "type")]`,
//! whose branches' members stand beside the tag, or with `content = "data"` in one member; it is
//! embedded with `#[qapi(flatten)]` where other members are common to all branches. With
//! `#[qapi(alternate)]` it is a choice by the kind of JSON value.

#![forbid(unsafe_code)]

// The derives name this crate from the outside.
extern crate self as qapi;

pub mod block;
mod builtin;
pub mod chardev;
pub mod control;
pub mod cpu;
pub mod device;
mod error;
pub mod events;
pub mod fd;
pub mod json;
pub mod keyval;
mod leftover;
pub mod machine;
pub mod memory;
pub mod objects;
mod path;
pub mod pci;
pub mod qom;
pub mod run_state;
pub mod schema;
pub mod sockets;
pub mod spice;
pub mod stats;
mod traits;
pub mod ui;
pub mod virtio;
pub mod vnc;

pub use error::{Error, ErrorClass};
pub use path::Path;
pub use qapi_macros::{Command, Event, QapiType};
pub use traits::{Any, Command, Event, EventMessage, Input, Kind, Members, Null, QapiType, Size};
