//! The object tree: nodes with paths, types and typed properties, as `qom-list`, `qom-get` and `qom-set` show them.
//!
//! The tree is owned by the control thread and has no locks. A node is named by an [`ObjectId`], which stays invalid
//! after its node is removed. What a property reads and writes is either a value that the tree keeps or a pair of
//! closures that reach the thing behind it. The tree knows neither QMP nor devices.
//!
//! Error texts and type names are those of QEMU 7.2 (QOM). Differences from QOM: a link to a removed node is cleared,
//! and properties are listed in the order in which they were added.

#![forbid(unsafe_code)]

mod error;
mod property;
mod tree;
mod types;
mod value;

pub use error::{ObjectError, ValueError};
pub use property::{Property, PropertyInfo};
pub use tree::{ObjectId, ObjectTree};
pub use types::{TypeInfo, TypeRegistry};
pub use value::{PropertyValue, ValueKind};
