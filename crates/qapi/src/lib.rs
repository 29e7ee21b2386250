//! Every QMP type, command and event as a Rust type, and the JSON dialect they travel in.
//!
//! The schema *is* these types: parsing, error texts, `query-qmp-schema`, `query-commands`, the
//! command reference and the typed client all come from them, so nobody writes a name twice.
//! A type derives [`QapiType`], a command [`Command`], an event [`Event`]; the subjects
//! ([`control`], [`run_state`], …) declare them. Which of the commands exist in a program is decided
//! by the list of [`schema::Declaration`]s that it serves.

#![forbid(unsafe_code)]

// The derives name this crate from the outside.
extern crate self as qapi;

mod builtin;
pub mod control;
pub mod cpu;
mod error;
pub mod events;
pub mod fd;
pub mod json;
pub mod keyval;
mod leftover;
pub mod machine;
pub mod memory;
mod path;
pub mod run_state;
pub mod schema;
mod traits;

pub use error::{Error, ErrorClass};
pub use path::Path;
pub use qapi_macros::{Command, Event, QapiType};
pub use traits::{Any, Command, Event, EventMessage, Input, Kind, Members, Null, QapiType, Size};
