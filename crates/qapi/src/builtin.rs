//! The built-in types: integers, numbers, booleans, strings, arrays, optional members.

use crate::json::{Map, Value};
use crate::schema::{Builtin, ObjectShape, SchemaBuilder, TypeRef};
use crate::{Any, Error, Input, Kind, Members, Null, Path, QapiType, Size};

fn int64(value: &Value, path: &Path<'_>) -> Result<i64, Error> {
    if path.is_keyval() {
        let number = value.as_str().and_then(crate::keyval::parse_i64);
        return number.ok_or_else(|| Error::expects(&path.to_string(), "integer"));
    }
    value.as_i64().ok_or_else(|| Error::invalid_type(&path.to_string(), "integer"))
}

fn uint64(value: &Value, path: &Path<'_>) -> Result<u64, Error> {
    if path.is_keyval() {
        let number = value.as_str().and_then(crate::keyval::parse_u64);
        return number.ok_or_else(|| Error::expects(&path.to_string(), "integer"));
    }
    match value {
        // For compatibility QEMU takes negative numbers as their two's complement.
        Value::Int(number) => Ok(number.cast_unsigned()),
        Value::Uint(number) => Ok(*number),
        _ => Err(Error::expects(&path.to_string(), "uint64")),
    }
}

macro_rules! integers {
    ($($rust:ty, $wide:ty, $read:ident, $name:literal;)*) => { $(
        impl QapiType for $rust {
            const KIND: Kind = Kind::Number;

            fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
                let wide = $read(&value, path)?;
                Self::try_from(wide).map_err(|_| Error::expects(path.last(), $name))
            }

            fn to_value(&self) -> Value {
                Value::from(<$wide>::from(*self))
            }

            fn schema(_: &mut SchemaBuilder) -> TypeRef {
                TypeRef::Builtin(Builtin::Int)
            }
        }
    )* };
}

integers! {
    i8, i64, int64, "int8_t";
    i16, i64, int64, "int16_t";
    i32, i64, int64, "int32_t";
    i64, i64, int64, "int64_t";
    u8, u64, uint64, "uint8_t";
    u16, u64, uint64, "uint16_t";
    u32, u64, uint64, "uint32_t";
    u64, u64, uint64, "uint64_t";
}

impl QapiType for Size {
    const KIND: Kind = Kind::Number;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        if path.is_keyval() {
            let size = value.as_str().and_then(|text| crate::keyval::parse_size(text, 1).ok());
            return size.map(Self).ok_or_else(|| Error::expects(&path.to_string(), "size"));
        }
        uint64(&value, path).map(Self)
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Int)
    }
}

impl QapiType for f64 {
    const KIND: Kind = Kind::Number;

    #[expect(clippy::cast_precision_loss, reason = "QMP numbers are doubles")]
    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        let number = match value {
            Value::String(text) if path.is_keyval() => text.parse().ok().filter(|number: &f64| number.is_finite()),
            _ if path.is_keyval() => None,
            Value::Int(number) => Some(number as f64),
            Value::Uint(number) => Some(number as f64),
            Value::Double(number) => Some(number),
            _ => None,
        };
        number.ok_or_else(|| Error::invalid_type(&path.to_string(), "number"))
    }

    fn to_value(&self) -> Value {
        Value::Double(*self)
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Number)
    }
}

impl QapiType for bool {
    const KIND: Kind = Kind::Bool;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        if path.is_keyval() {
            let flag = value.as_str().and_then(crate::keyval::parse_bool);
            return flag.ok_or_else(|| Error::expects(&path.to_string(), "'on' or 'off'"));
        }
        value.as_bool().ok_or_else(|| Error::invalid_type(&path.to_string(), "boolean"))
    }

    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Bool)
    }
}

impl QapiType for String {
    const KIND: Kind = Kind::String;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(Error::invalid_type(&path.to_string(), "string")),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.clone())
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Str)
    }
}

impl QapiType for Null {
    const KIND: Kind = Kind::Null;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        match value {
            Value::Null => Ok(Self),
            Value::String(text) if path.is_keyval() && text.is_empty() => Ok(Self),
            _ => Err(Error::invalid_type(&path.to_string(), "null")),
        }
    }

    fn to_value(&self) -> Value {
        Value::Null
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Null)
    }
}

impl QapiType for Any {
    const KIND: Kind = Kind::Any;

    fn from_value(value: Value, _: &Path<'_>) -> Result<Self, Error> {
        Ok(Self(value))
    }

    fn to_value(&self) -> Value {
        self.0.clone()
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Builtin(Builtin::Any)
    }
}

impl<T: QapiType> QapiType for Vec<T> {
    const KIND: Kind = Kind::Array;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        let Value::Array(items) = value else {
            return Err(Error::invalid_type(&path.to_string(), "array"));
        };
        let read = |(at, item)| T::from_value(item, &path.index(at));
        items.into_iter().enumerate().map(read).collect()
    }

    fn to_value(&self) -> Value {
        Value::Array(self.iter().map(T::to_value).collect())
    }

    fn schema(builder: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Array(Box::new(T::schema(builder)))
    }
}

/// An optional member. It cannot stand anywhere else, so a value of it is a value of `T`.
impl<T: QapiType> QapiType for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        T::from_value(value, path).map(Some)
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }

    fn schema(builder: &mut SchemaBuilder) -> TypeRef {
        T::schema(builder)
    }

    fn from_member(value: Option<Value>, path: &Path<'_>) -> Result<Self, Error> {
        value.map(|value| T::from_value(value, path)).transpose()
    }

    fn to_member(&self) -> Option<Value> {
        self.as_ref().map(T::to_value)
    }
}

impl<T: QapiType> QapiType for Box<T> {
    const KIND: Kind = T::KIND;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        T::from_value(value, path).map(Self::new)
    }

    fn to_value(&self) -> Value {
        T::to_value(self)
    }

    fn schema(builder: &mut SchemaBuilder) -> TypeRef {
        T::schema(builder)
    }
}

impl<T: Members> Members for Box<T> {
    fn check_tag(input: &Input<'_>) -> Result<(), Error> {
        T::check_tag(input)
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Error> {
        T::take(input).map(Self::new)
    }

    fn put(&self, map: &mut Map) {
        T::put(self, map);
    }

    fn members(shape: &mut ObjectShape, builder: &mut SchemaBuilder) {
        T::members(shape, builder);
    }
}

/// No members: the arguments or the result of commands that have none.
impl Members for () {
    fn take(_: &mut Input<'_>) -> Result<Self, Error> {
        Ok(())
    }

    fn put(&self, _: &mut Map) {}

    fn members(_: &mut ObjectShape, _: &mut SchemaBuilder) {}
}

impl QapiType for () {
    const KIND: Kind = Kind::Object;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        <() as Members>::from_object(value, path)
    }

    fn to_value(&self) -> Value {
        Value::empty_object()
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Empty
    }
}

/// A result whose shape the schema leaves open (`gen: false` commands of older dialects).
impl QapiType for Map {
    const KIND: Kind = Kind::Object;

    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(map),
            _ => Err(Error::invalid_type(&path.to_string(), "object")),
        }
    }

    fn to_value(&self) -> Value {
        Value::Object(self.clone())
    }

    fn schema(_: &mut SchemaBuilder) -> TypeRef {
        TypeRef::Empty
    }
}
