//! Property values and the kinds of values that a property takes.

use crate::ValueError;

/// A value that a property has or gets.
#[derive(Clone, Debug, PartialEq)]
pub enum PropertyValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A number with a fraction.
    Number(f64),
    /// Text: a string, a path, or a word of an enumeration.
    Str(String),
    /// Several values.
    List(Vec<PropertyValue>),
    /// Members of a structure, in their order.
    Struct(Vec<(String, PropertyValue)>),
}

macro_rules! from {
    ($($type:ty => $variant:ident),+) => { $(
        impl From<$type> for PropertyValue {
            fn from(value: $type) -> Self {
                PropertyValue::$variant(value.into())
            }
        }
    )+ };
}

from!(bool => Bool, i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Uint, u16 => Uint, u32 => Uint, u64 => Uint,
    f64 => Number, &str => Str, String => Str);

impl PropertyValue {
    /// The truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let PropertyValue::Bool(value) = self { Some(*value) } else { None }
    }

    /// The number, if it is one without fraction that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            PropertyValue::Int(value) => Some(*value),
            PropertyValue::Uint(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number, if it is one without fraction that fits.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            PropertyValue::Int(value) => u64::try_from(*value).ok(),
            PropertyValue::Uint(value) => Some(*value),
            _ => None,
        }
    }

    /// The text.
    pub fn as_str(&self) -> Option<&str> {
        if let PropertyValue::Str(value) = self { Some(value) } else { None }
    }
}

/// What values a property takes. A setter gets a value of this kind, normalised: signed kinds as
/// [`PropertyValue::Int`], unsigned ones as [`PropertyValue::Uint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `bool`.
    Bool,
    /// `str`.
    Str,
    /// `int`: 64 bits, signed.
    Int,
    /// `int8`.
    Int8,
    /// `int16`.
    Int16,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `uint8`.
    Uint8,
    /// `uint16`.
    Uint16,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `size`: bytes.
    Size,
    /// `number`.
    Number,
    /// An enumeration of these words. Its properties should name their type.
    Enum(&'static [&'static str]),
    /// Anything; the setter checks it. Its properties should name their type.
    Any,
}

impl ValueKind {
    /// The name that listings have for the kind.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueKind::Bool => "bool",
            ValueKind::Str => "str",
            ValueKind::Int => "int",
            ValueKind::Int8 => "int8",
            ValueKind::Int16 => "int16",
            ValueKind::Int32 => "int32",
            ValueKind::Int64 => "int64",
            ValueKind::Uint8 => "uint8",
            ValueKind::Uint16 => "uint16",
            ValueKind::Uint32 => "uint32",
            ValueKind::Uint64 => "uint64",
            ValueKind::Size => "size",
            ValueKind::Number => "number",
            ValueKind::Enum(_) => "enum",
            ValueKind::Any => "any",
        }
    }

    /// Checks and normalises a value for the property `name`.
    pub fn check(self, name: &str, value: PropertyValue) -> Result<PropertyValue, ValueError> {
        let wrong = |expected: &str| ValueError::Type { name: name.to_string(), expected: expected.to_string() };
        match (self, value) {
            (ValueKind::Any, value)
            | (ValueKind::Bool, value @ PropertyValue::Bool(_))
            | (ValueKind::Number, value @ PropertyValue::Number(_))
            | (ValueKind::Str, value @ PropertyValue::Str(_)) => Ok(value),
            (ValueKind::Bool, _) => Err(wrong("boolean")),
            (ValueKind::Str, _) => Err(wrong("string")),
            (ValueKind::Number, PropertyValue::Int(value)) => Ok(PropertyValue::Number(value as f64)),
            (ValueKind::Number, PropertyValue::Uint(value)) => Ok(PropertyValue::Number(value as f64)),
            (ValueKind::Number, _) => Err(wrong("number")),
            (ValueKind::Enum(words), PropertyValue::Str(value)) => {
                if words.contains(&value.as_str()) {
                    Ok(PropertyValue::Str(value))
                } else {
                    Err(ValueError::NotAccepted { name: name.to_string(), value })
                }
            }
            (ValueKind::Enum(_), _) => Err(wrong("string")),
            (_, value) => self.check_integer(name, &value),
        }
    }

    fn check_integer(self, name: &str, value: &PropertyValue) -> Result<PropertyValue, ValueError> {
        let expects = |expected: &str| ValueError::Expects { name: name.to_string(), expected: expected.to_string() };
        let signed = |bits: u32, expected: &str| {
            let integer = || ValueError::Type { name: name.to_string(), expected: "integer".to_string() };
            let number = value.as_i64().ok_or_else(integer)?;
            let unused = 64 - bits;
            if number << unused >> unused == number { Ok(PropertyValue::Int(number)) } else { Err(expects(expected)) }
        };
        let unsigned = |maximum: u64, expected: &str| match value {
            PropertyValue::Uint(number) if *number <= maximum => Ok(PropertyValue::Uint(*number)),
            // A negative number wraps to 64 bits, as in QEMU.
            PropertyValue::Int(number) if *number as u64 <= maximum => Ok(PropertyValue::Uint(*number as u64)),
            PropertyValue::Uint(_) | PropertyValue::Int(_) => Err(expects(expected)),
            _ => Err(expects("uint64")),
        };
        match self {
            ValueKind::Int8 => signed(8, "int8_t"),
            ValueKind::Int16 => signed(16, "int16_t"),
            ValueKind::Int32 => signed(32, "int32_t"),
            ValueKind::Uint8 => unsigned(u64::from(u8::MAX), "uint8_t"),
            ValueKind::Uint16 => unsigned(u64::from(u16::MAX), "uint16_t"),
            ValueKind::Uint32 => unsigned(u64::from(u32::MAX), "uint32_t"),
            ValueKind::Uint64 | ValueKind::Size => unsigned(u64::MAX, "uint64"),
            _ => signed(64, "int64"),
        }
    }
}
