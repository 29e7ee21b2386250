//! Errors, with QEMU's texts.

/// Why an operation on the tree is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// No object has the path. QMP's class is DeviceNotFound.
    #[error("Device '{0}' not found")]
    NotFound(String),
    /// Several objects match a partial path.
    #[error("Path '{0}' is ambiguous")]
    AmbiguousPath(String),
    /// Several objects match a partial path that was to become a link's target.
    #[error("Path '{0}' does not uniquely identify an object")]
    AmbiguousLink(String),
    /// No type has the name. QMP's class is DeviceNotFound.
    #[error("Class '{0}' not found")]
    ClassNotFound(String),
    /// An object of a type that is not registered was to be made.
    #[error("invalid object type: {0}")]
    UnknownType(String),
    /// An object of an abstract type was to be made.
    #[error("object type '{0}' is abstract")]
    AbstractType(String),
    /// A type is registered twice, or before its parent.
    #[error("type '{0}' is already registered, or its parent is not")]
    TypeConflict(String),
    /// The object has no such property.
    #[error("Property '{type_name}.{name}' not found")]
    PropertyNotFound {
        /// The object's type.
        type_name: String,
        /// The property.
        name: String,
    },
    /// The property cannot be read.
    #[error("Property '{type_name}.{name}' is not readable")]
    NotReadable {
        /// The object's type.
        type_name: String,
        /// The property.
        name: String,
    },
    /// The property cannot be written.
    #[error("Property '{type_name}.{name}' is not writable")]
    NotWritable {
        /// The object's type.
        type_name: String,
        /// The property.
        name: String,
    },
    /// The property is configuration, and the device is in use.
    #[error("Attempt to set property '{name}' on {} (type '{type_name}') after it was realized", device(.id.as_deref()))]
    Realized {
        /// The device's id, if it has one.
        id: Option<String>,
        /// The object's type.
        type_name: String,
        /// The property.
        name: String,
    },
    /// The name is taken, by a property or by a child.
    #[error("attempt to add duplicate property '{name}' to object (type '{type_name}')")]
    Duplicate {
        /// The object's type.
        type_name: String,
        /// The name.
        name: String,
    },
    /// A name that cannot be a part of a path.
    #[error("'{0}' cannot be the name of an object")]
    BadName(String),
    /// The object was removed, or it is the root and cannot be.
    #[error("the object does not exist")]
    Gone,
    /// The value is refused.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The JSON type is wrong.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    Type {
        /// The property.
        name: String,
        /// What it takes.
        expected: String,
    },
    /// The number does not fit.
    #[error("Parameter '{name}' expects {expected}")]
    Expects {
        /// The property.
        name: String,
        /// What it takes.
        expected: String,
    },
    /// The word is not one of the enumeration's.
    #[error("Parameter '{name}' does not accept value '{value}'")]
    NotAccepted {
        /// The property.
        name: String,
        /// The word.
        value: String,
    },
    /// The setter's own reason.
    #[error("{0}")]
    Other(String),
}

fn device(id: Option<&str>) -> String {
    id.map_or_else(|| "anonymous device".to_string(), |id| format!("device '{id}'"))
}
