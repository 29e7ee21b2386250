//! One command or event, with its Rust type erased.

use super::{Feature, ObjectShape, SchemaBuilder, TypeRef};
use crate::{Command, Event, QapiType};
use std::time::Duration;

/// What a declaration declares.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum DeclarationKind {
    /// A command.
    Command {
        /// Its result type.
        returns: fn(&mut SchemaBuilder) -> TypeRef,
        /// Whether it may run out of band.
        allow_oob: bool,
        /// Whether it may run before the machine is built.
        allow_preconfig: bool,
    },
    /// An event.
    Event {
        /// At most one in this time.
        rate_limit: Option<Duration>,
    },
}

/// One command or event. A program lists those that it really has.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// The name on the wire.
    pub name: &'static str,
    /// The documentation.
    pub doc: &'static str,
    /// `deprecated`, `unstable` and the like.
    pub features: &'static [Feature],
    /// Whether today's QEMU no longer has it.
    pub legacy: bool,
    /// Command or event.
    pub kind: DeclarationKind,
    /// The arguments, or the event's data.
    pub arguments: fn(&mut SchemaBuilder) -> TypeRef,
}

fn members_of<T: crate::Members>(builder: &mut SchemaBuilder) -> TypeRef {
    let mut shape = ObjectShape::default();
    T::members(&mut shape, builder);
    if shape.members.is_empty() && shape.variants.is_empty() {
        return TypeRef::Empty;
    }
    builder.define::<T>("", "arguments", "", |_| super::Shape::Object(shape))
}

impl Declaration {
    /// The declaration of a command.
    #[must_use]
    pub const fn of<C: Command>() -> Self {
        Self {
            name: C::NAME,
            doc: C::DOC,
            features: C::FEATURES,
            legacy: C::LEGACY,
            kind: DeclarationKind::Command {
                returns: <C::Return as QapiType>::schema,
                allow_oob: C::ALLOW_OOB,
                allow_preconfig: C::ALLOW_PRECONFIG,
            },
            arguments: members_of::<C>,
        }
    }

    /// The declaration of an event.
    #[must_use]
    pub const fn event<E: Event>() -> Self {
        Self {
            name: E::NAME,
            doc: E::DOC,
            features: E::FEATURES,
            legacy: false,
            kind: DeclarationKind::Event { rate_limit: E::RATE_LIMIT },
            arguments: members_of::<E>,
        }
    }

    /// Whether it is a command.
    #[must_use]
    pub const fn is_command(&self) -> bool {
        matches!(self.kind, DeclarationKind::Command { .. })
    }
}
