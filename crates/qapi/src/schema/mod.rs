//! The schema as data: which commands and events a program has, and the types that they use.
//!
//! A [`Declaration`] stands for one command or event. A [`SchemaBuilder`] collects the types of
//! some declarations as a graph; `query-qmp-schema` is that graph with its names masked.

mod builder;
mod declaration;
mod info;
mod masked;
mod model;
mod reference;

pub use builder::{
    Builtin, EnumShape, EnumValue, MemberShape, ObjectShape, SchemaBuilder, Shape, TypeRef, VariantShape,
};
pub use declaration::{Declaration, DeclarationKind};
pub use info::*;
pub use masked::describe;
pub use model::{Argument, Model, arguments_of};
pub use reference::markdown;

/// A property of a command, event, member or value that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// It will go away.
    Deprecated,
    /// It may change without notice.
    Unstable,
    /// Any other, by its name.
    Named(&'static str),
}

impl Feature {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deprecated => "deprecated",
            Self::Unstable => "unstable",
            Self::Named(name) => name,
        }
    }
}

/// A simple enumeration.
pub trait Enumeration: crate::QapiType + Copy {
    /// The names on the wire, in the order of declaration.
    const NAMES: &'static [&'static str];

    /// The name on the wire.
    fn name(self) -> &'static str;

    /// The value of that name.
    fn from_name(name: &str) -> Option<Self>;
}
