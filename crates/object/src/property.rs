//! Properties: what they are called and take, and how they are read and written.

use crate::{PropertyValue, ValueError, ValueKind};
use std::borrow::Cow;

type Getter = Box<dyn Fn() -> PropertyValue + Send>;
type Setter = Box<dyn FnMut(PropertyValue) -> Result<(), ValueError> + Send>;

/// What listings say of a property.
#[derive(Clone, Debug, PartialEq)]
pub struct PropertyInfo {
    /// The name.
    pub name: String,
    /// The type: `bool`, `uint32`, `child<e1000>`, `link<bus>`, `OnOffAuto` …
    pub type_name: String,
    /// A description for people.
    pub description: Option<String>,
    /// The value that it has unless it is set.
    pub default: Option<PropertyValue>,
}

impl PropertyInfo {
    /// A property without description or default.
    pub fn new(name: &str, type_name: &str) -> Self {
        PropertyInfo { name: name.to_string(), type_name: type_name.to_string(), description: None, default: None }
    }
}

/// How a property is read and written.
pub(crate) enum Access {
    /// The tree keeps the value.
    Stored {
        value: PropertyValue,
        writable: bool,
    },
    Closures {
        get: Option<Getter>,
        set: Option<Setter>,
    },
}

/// A property to be added to an object.
///
/// ```
/// use object::{Property, ValueKind};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
///
/// let index = Arc::new(AtomicI64::new(-1));
/// let (reader, writer) = (index.clone(), index);
/// let bootindex = Property::new(ValueKind::Int32)
///     .getter(move || reader.load(Relaxed).into())
///     .setter(move |value| {
///         writer.store(value.as_i64().unwrap_or(-1), Relaxed);
///         Ok(())
///     })
///     .description("position in the boot order");
/// let model = Property::fixed("e1000");
/// ```
pub struct Property {
    pub(crate) kind: ValueKind,
    pub(crate) type_name: Cow<'static, str>,
    pub(crate) access: Access,
    pub(crate) configuration: bool,
    pub(crate) description: Option<String>,
    pub(crate) default: Option<PropertyValue>,
}

impl Property {
    /// A property that takes values of `kind`. Without a getter it cannot be read, without a setter not be written.
    pub fn new(kind: ValueKind) -> Self {
        Property {
            kind,
            type_name: Cow::Borrowed(kind.type_name()),
            access: Access::Closures { get: None, set: None },
            configuration: false,
            description: None,
            default: None,
        }
    }

    /// A read-only property that always has this value.
    pub fn fixed(value: impl Into<PropertyValue>) -> Self {
        Self::stored(value, false)
    }

    /// A property whose value is kept in the tree and can be set to another one of the same kind.
    pub fn variable(value: impl Into<PropertyValue>) -> Self {
        Self::stored(value, true)
    }

    fn stored(value: impl Into<PropertyValue>, writable: bool) -> Self {
        let value = value.into();
        let kind = match value {
            PropertyValue::Bool(_) => ValueKind::Bool,
            PropertyValue::Int(_) => ValueKind::Int,
            PropertyValue::Uint(_) => ValueKind::Uint64,
            PropertyValue::Number(_) => ValueKind::Number,
            PropertyValue::Str(_) => ValueKind::Str,
            PropertyValue::Null | PropertyValue::List(_) | PropertyValue::Struct(_) => ValueKind::Any,
        };
        Property { access: Access::Stored { value, writable }, ..Property::new(kind) }
    }

    /// Reads with this closure.
    pub fn getter(mut self, get: impl Fn() -> PropertyValue + Send + 'static) -> Self {
        let set = match self.access {
            Access::Closures { set, .. } => set,
            Access::Stored { .. } => None,
        };
        self.access = Access::Closures { get: Some(Box::new(get)), set };
        self
    }

    /// Writes with this closure. It gets a value that [`ValueKind::check`] has accepted.
    pub fn setter(mut self, set: impl FnMut(PropertyValue) -> Result<(), ValueError> + Send + 'static) -> Self {
        let get = match self.access {
            Access::Closures { get, .. } => get,
            Access::Stored { .. } => None,
        };
        self.access = Access::Closures { get, set: Some(Box::new(set)) };
        self
    }

    /// Takes values of another kind than the stored value suggests.
    pub fn kind(mut self, kind: ValueKind) -> Self {
        self.kind = kind;
        self.type_name = Cow::Borrowed(kind.type_name());
        self
    }

    /// Names the type in listings, where it is not the kind's name.
    pub fn type_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.type_name = name.into();
        self
    }

    /// Refuses to be set once the device is realized.
    pub fn configuration(mut self) -> Self {
        self.configuration = true;
        self
    }

    /// Describes the property.
    pub fn description(mut self, text: &str) -> Self {
        self.description = Some(text.to_string());
        self
    }

    /// Tells the default.
    pub fn default_value(mut self, value: impl Into<PropertyValue>) -> Self {
        self.default = Some(value.into());
        self
    }
}
