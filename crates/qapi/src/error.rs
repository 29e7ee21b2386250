//! Errors as a client sees them: a class to branch on and a text for people.

use crate::json::{JsonError, Map, Value};

/// The classes of QMP errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Everything without a class of its own.
    GenericError,
    /// The command does not exist, or not in this mode.
    CommandNotFound,
    /// A device or job is there, but not in use.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// KVM lacks a capability.
    KVMMissingCap,
    /// An encrypted image has no key yet (QEMU 1.2 to 2.9).
    DeviceEncrypted,
}

impl ErrorClass {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KVMMissingCap => "KVMMissingCap",
            Self::DeviceEncrypted => "DeviceEncrypted",
        }
    }

    /// The class of that name; a client takes unknown ones as [`ErrorClass::GenericError`].
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KVMMissingCap,
            "DeviceEncrypted" => Self::DeviceEncrypted,
            _ => Self::GenericError,
        }
    }
}

/// The error of a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// What a client may branch on.
    pub class: ErrorClass,
    /// What a person reads.
    pub desc: String,
}

impl Error {
    /// An error of any class.
    #[must_use]
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self { class, desc: desc.into() }
    }

    /// An error of class `GenericError`.
    #[must_use]
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// `The command X has not been found`.
    #[must_use]
    pub fn command_not_found(name: &str) -> Self {
        Self::new(ErrorClass::CommandNotFound, format!("The command {name} has not been found"))
    }

    /// `Device 'X' not found`.
    #[must_use]
    pub fn device_not_found(name: &str) -> Self {
        Self::new(ErrorClass::DeviceNotFound, format!("Device '{name}' not found"))
    }

    /// `Parameter 'X' is missing`.
    #[must_use]
    pub fn missing_parameter(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is missing"))
    }

    /// `Parameter 'X' is unexpected`.
    #[must_use]
    pub fn unexpected_parameter(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// `Invalid parameter 'X'`.
    #[must_use]
    pub fn invalid_parameter(name: &str) -> Self {
        Self::generic(format!("Invalid parameter '{name}'"))
    }

    /// `Invalid parameter type for 'X', expected: T`.
    #[must_use]
    pub fn invalid_type(name: &str, expected: &str) -> Self {
        Self::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    /// `Parameter 'X' expects WHAT`.
    #[must_use]
    pub fn expects(name: &str, what: &str) -> Self {
        Self::generic(format!("Parameter '{name}' expects {what}"))
    }

    /// `Parameter 'X' does not accept value 'V'`.
    #[must_use]
    pub fn does_not_accept(name: &str, value: &str) -> Self {
        Self::generic(format!("Parameter '{name}' does not accept value '{value}'"))
    }

    /// The `error` object of a reply.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let members = [("class", Value::from(self.class.name())), ("desc", Value::from(self.desc.as_str()))];
        Value::Object(Map::from_iter(members))
    }

    /// Reads the `error` object of a reply, leniently: this is the client's side.
    #[must_use]
    pub fn from_reply(value: &Value) -> Self {
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        Self::new(ErrorClass::from_name(text("class")), text("desc"))
    }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Self {
        Self::generic(error.to_string())
    }
}
