//! The graph of types.

use super::Feature;
use std::any::TypeId;
use std::collections::HashMap;

/// The built-in types that a schema shows; all integers are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Any JSON value.
    Any,
    /// A boolean.
    Bool,
    /// An integer of any width.
    Int,
    /// `null`
    Null,
    /// Any number.
    Number,
    /// A string.
    Str,
}

impl Builtin {
    /// The name in the schema.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Null => "null",
            Self::Number => "number",
            Self::Str => "str",
        }
    }
}

/// A use of a type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TypeRef {
    /// The object without members.
    Empty,
    /// A built-in type.
    Builtin(Builtin),
    /// An array of a type.
    Array(Box<TypeRef>),
    /// The type at this place in the builder.
    Defined(usize),
}

/// One value of an enumeration.
#[derive(Debug, Clone)]
pub struct EnumValue {
    /// The name on the wire.
    pub name: &'static str,
    /// Its features.
    pub features: &'static [Feature],
    /// Its documentation.
    pub doc: &'static str,
}

/// An enumeration.
#[derive(Debug, Clone, Default)]
pub struct EnumShape {
    /// Its values.
    pub values: Vec<EnumValue>,
}

/// One member of an object.
#[derive(Debug, Clone)]
pub struct MemberShape {
    /// The name on the wire.
    pub name: &'static str,
    /// Older names that are accepted too.
    pub aliases: &'static [&'static str],
    /// Its type.
    pub ty: TypeRef,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its features.
    pub features: &'static [Feature],
    /// Whether it is of older versions of QEMU only: accepted, but not shown to clients.
    pub legacy: bool,
    /// Its documentation.
    pub doc: &'static str,
}

/// One branch of a union.
#[derive(Debug, Clone)]
pub struct VariantShape {
    /// The discriminator's value.
    pub case: &'static str,
    /// The object whose members then belong to the union.
    pub ty: TypeRef,
}

/// An object: a struct, a union, or the arguments of a command.
#[derive(Debug, Clone, Default)]
pub struct ObjectShape {
    /// The common members.
    pub members: Vec<MemberShape>,
    /// The discriminator of a union.
    pub tag: Option<&'static str>,
    /// The branches of a union.
    pub variants: Vec<VariantShape>,
    /// The type's own features.
    pub features: &'static [Feature],
}

/// What a defined type looks like.
#[derive(Debug, Clone)]
pub enum Shape {
    /// An enumeration.
    Enum(EnumShape),
    /// An object.
    Object(ObjectShape),
    /// A choice by the kind of JSON value.
    Alternate(Vec<TypeRef>),
}

/// A defined type.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) shape: Shape,
}

/// Collects types. A type that is asked for twice is defined once.
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    known: HashMap<(TypeId, &'static str), usize>,
    pub(super) types: Vec<Definition>,
}

impl SchemaBuilder {
    /// A builder without types.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The type that stands for the Rust type `T`; `part` tells apart several that come from one
    /// (such as the implied enumeration of a union's branches). It is built at the first use.
    pub fn define<T: 'static>(
        &mut self,
        part: &'static str,
        name: &'static str,
        doc: &'static str,
        build: impl FnOnce(&mut Self) -> Shape,
    ) -> TypeRef {
        let key = (TypeId::of::<T>(), part);
        if let Some(&at) = self.known.get(&key) {
            return TypeRef::Defined(at);
        }
        let at = self.types.len();
        self.known.insert(key, at);
        // A place first, so that a recursive type finds itself.
        self.types.push(Definition { name, doc, shape: Shape::Enum(EnumShape::default()) });
        let shape = build(self);
        if let Some(definition) = self.types.get_mut(at) {
            definition.shape = shape;
        }
        TypeRef::Defined(at)
    }

    /// Defines an object type by its [`Members`](crate::Members).
    pub fn object<T: crate::Members>(
        &mut self,
        name: &'static str,
        doc: &'static str,
        features: &'static [Feature],
    ) -> TypeRef {
        self.define::<T>("", name, doc, |builder| {
            let mut shape = ObjectShape { features, ..ObjectShape::default() };
            T::members(&mut shape, builder);
            Shape::Object(shape)
        })
    }

    /// The shape of a defined type.
    #[must_use]
    pub fn shape(&self, ty: &TypeRef) -> Option<&Shape> {
        match ty {
            TypeRef::Defined(at) => self.types.get(*at).map(|definition| &definition.shape),
            _ => None,
        }
    }

    /// The documentation of a defined type; empty for others.
    #[must_use]
    pub fn doc(&self, ty: &TypeRef) -> &'static str {
        match ty {
            TypeRef::Defined(at) => self.types.get(*at).map_or("", |definition| definition.doc),
            _ => "",
        }
    }

    /// A name for people: the Rust type's, `[T]` for arrays.
    #[must_use]
    pub fn display_name(&self, ty: &TypeRef) -> String {
        match ty {
            TypeRef::Empty => "{}".to_owned(),
            TypeRef::Builtin(builtin) => builtin.name().to_owned(),
            TypeRef::Array(element) => format!("[{}]", self.display_name(element)),
            TypeRef::Defined(at) => self.types.get(*at).map_or("?", |definition| definition.name).to_owned(),
        }
    }
}
