//! The reply of `query-qmp-schema` (QEMU's `introspect.json`).

use crate::{Any, QapiType};

/// One entry: a command, an event or a type.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfo {
    /// The name; for types a mere mark to follow.
    pub name: String,
    /// What it is, and the details.
    #[qapi(flatten)]
    pub detail: SchemaInfoDetail,
    /// Its features.
    pub features: Option<Vec<String>>,
}

/// The details of an entry.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(tag = "meta-type", tag_type = SchemaMetaType)]
pub enum SchemaInfoDetail {
    /// A type that needs no description.
    Builtin(SchemaInfoBuiltin),
    /// An enumeration.
    Enum(SchemaInfoEnum),
    /// An array.
    Array(SchemaInfoArray),
    /// An object.
    Object(SchemaInfoObject),
    /// A choice by the kind of JSON value.
    Alternate(SchemaInfoAlternate),
    /// A command.
    Command(SchemaInfoCommand),
    /// An event.
    Event(SchemaInfoEvent),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum SchemaMetaType {
    /// A type that needs no description.
    Builtin,
    /// An enumeration.
    Enum,
    /// An array.
    Array,
    /// An object.
    Object,
    /// A choice by the kind of JSON value.
    Alternate,
    /// A command.
    Command,
    /// An event.
    Event,
}

/// The kinds of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum JSONType {
    /// A string.
    String,
    /// Any number.
    Number,
    /// An integer.
    Int,
    /// A boolean.
    Boolean,
    /// `null`
    Null,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Any value.
    Value,
}

/// A built-in type.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoBuiltin {
    /// Its kind of JSON values.
    pub json_type: JSONType,
}

/// An enumeration.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoEnum {
    /// Its values.
    pub members: Vec<SchemaInfoEnumMember>,
    /// The names of its values.
    #[qapi(deprecated)]
    pub values: Vec<String>,
}

/// A value of an enumeration.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoEnumMember {
    /// Its name.
    pub name: String,
    /// Its features.
    pub features: Option<Vec<String>>,
}

/// An array.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoArray {
    /// The name of its elements' type.
    pub element_type: String,
}

/// An object.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoObject {
    /// Its members, without those of the branches.
    pub members: Vec<SchemaInfoObjectMember>,
    /// The member that chooses the branch.
    pub tag: Option<String>,
    /// The branches.
    pub variants: Option<Vec<SchemaInfoObjectVariant>>,
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoObjectMember {
    /// Its name.
    pub name: String,
    /// The name of its type.
    pub r#type: String,
    /// Present if the member is optional; `null` when it has no fixed default.
    pub default: Option<Any>,
    /// Its features.
    pub features: Option<Vec<String>>,
}

/// A branch of an object.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoObjectVariant {
    /// The value of the tag.
    pub case: String,
    /// The name of the type whose members the branch adds.
    pub r#type: String,
}

/// A choice by the kind of JSON value.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoAlternate {
    /// The branches.
    pub members: Vec<SchemaInfoAlternateMember>,
}

/// A branch of an alternate.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoAlternateMember {
    /// The name of its type.
    pub r#type: String,
}

/// A command.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoCommand {
    /// The name of the object type of its arguments.
    pub arg_type: String,
    /// The name of its result's type.
    pub ret_type: String,
    /// Present and true if it may run out of band.
    pub allow_oob: Option<bool>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct SchemaInfoEvent {
    /// The name of the object type of its data.
    pub arg_type: String,
}
