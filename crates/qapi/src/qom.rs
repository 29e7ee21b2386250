//! The object tree and the types of objects (QEMU's `qom.json`, parts of `qdev.json`).

use crate::{Any, Command, QapiType};

/// A property of an object or a type.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct ObjectPropertyInfo {
    /// Its name.
    pub name: String,
    /// Its type: a name such as `bool` or `uint32`, `child<type>` or `link<type>`.
    pub r#type: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its value unless it is set.
    pub default_value: Option<Any>,
}

/// A type of objects.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct ObjectTypeInfo {
    /// Its name.
    pub name: String,
    /// Whether there are objects of derived types only.
    pub r#abstract: Option<bool>,
    /// The type that it extends.
    pub parent: Option<String>,
}

/// Lists the properties and children of an object.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qom-list", returns = Vec<ObjectPropertyInfo>, preconfig)]
pub struct QomList {
    /// The object's path, whole or in part.
    pub path: String,
}

/// Reads a property.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qom-get", returns = Any, preconfig)]
pub struct QomGet {
    /// The object's path, whole or in part.
    pub path: String,
    /// The property.
    pub property: String,
}

/// Writes a property.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qom-set", preconfig)]
pub struct QomSet {
    /// The object's path, whole or in part.
    pub path: String,
    /// The property.
    pub property: String,
    /// The value.
    pub value: Any,
}

/// Lists types of objects.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qom-list-types", returns = Vec<ObjectTypeInfo>, preconfig)]
pub struct QomListTypes {
    /// Those that are, extend or implement this one.
    pub implements: Option<String>,
    /// Abstract ones, too.
    pub r#abstract: Option<bool>,
}

/// Lists the properties of a type.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "qom-list-properties", returns = Vec<ObjectPropertyInfo>, preconfig)]
pub struct QomListProperties {
    /// The type.
    pub typename: String,
}

/// Lists the properties of a type of devices.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "device-list-properties", returns = Vec<ObjectPropertyInfo>)]
pub struct DeviceListProperties {
    /// The type.
    pub typename: String,
}
