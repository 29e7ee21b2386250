//! Types that a saved struct's fields may have.

use crate::{FieldDescription, Kind, LoadError, LoadErrorKind, Reader, SavedState, Writer};

/// A type that can be a field of saved state: `bool`, integers, arrays of fields, nested saved structs, and enums
/// that derive `State`.
pub trait Field: Sized {
    /// Appends the field's description.
    fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>);

    /// Appends the value.
    fn put(&self, writer: &mut Writer);

    /// Reads a value that is to replace `self`.
    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError>;
}

/// Types for which `#[state(max = N)]` is allowed.
pub trait Bounded {
    /// Whether the value, or an element, is above `maximum`.
    fn exceeds(&self, maximum: u64) -> bool;
}

macro_rules! integer_field {
    ($($type:ty: $kind:ident),+) => { $(
        impl Field for $type {
            fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>) {
                fields.push(FieldDescription::plain(name, Kind::$kind, size_of::<$type>()));
            }

            fn put(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }

            fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
                Ok(<$type>::from_be_bytes(reader.array()?))
            }
        }
    )+ };
}

integer_field!(u8: UInt8, u16: UInt16, u32: UInt32, u64: UInt64, i8: Int8, i16: Int16, i32: Int32, i64: Int64);

macro_rules! bounded {
    ($($type:ty),+) => { $(
        impl Bounded for $type {
            fn exceeds(&self, maximum: u64) -> bool {
                u64::from(*self) > maximum
            }
        }
    )+ };
}

bounded!(u8, u16, u32, u64);

impl<T: Bounded, const N: usize> Bounded for [T; N] {
    fn exceeds(&self, maximum: u64) -> bool {
        self.iter().any(|element| element.exceeds(maximum))
    }
}

impl Field for bool {
    fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>) {
        fields.push(FieldDescription::plain(name, Kind::Bool, 1));
    }

    fn put(&self, writer: &mut Writer) {
        writer.put(&[u8::from(*self)]);
    }

    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        Ok(reader.array::<1>()? != [0])
    }
}

impl<T: SavedState + Clone> Field for T {
    fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>) {
        let nested = SavedState::describe(self);
        let size = nested.size();
        fields.push(FieldDescription { nested: Some(nested), ..FieldDescription::plain(name, Kind::Struct, size) });
    }

    fn put(&self, writer: &mut Writer) {
        self.save(writer);
    }

    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let mut value = self.clone();
        let version = value.version();
        value.load(reader, version)?;
        Ok(value)
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>) {
        let mut elements = vec![];
        for element in self {
            element.describe(name, &mut elements);
        }
        let Some(first) = elements.first() else { return };
        let all_equal = elements.len() == N && elements.iter().all(|element| element == first);
        if all_equal && first.array_len.is_none_or(|_| first.index.is_none()) {
            // An array of arrays is one long array.
            let array_len = Some(N * first.array_len.unwrap_or(1));
            fields.push(FieldDescription { array_len, ..first.clone() });
        } else {
            let numbered = elements.into_iter().enumerate();
            fields.extend(numbered.map(|(index, element)| FieldDescription { index: Some(index), ..element }));
        }
    }

    fn put(&self, writer: &mut Writer) {
        self.iter().for_each(|element| element.put(writer));
    }

    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let mut elements = Vec::with_capacity(N);
        for (index, element) in self.iter().enumerate() {
            elements.push(element.take(reader).map_err(|error| error.within(&format!("[{index}]")))?);
        }
        // The vector has N elements, so that the conversion succeeds.
        elements.try_into().map_err(|_| LoadErrorKind::Truncated.into())
    }
}

/// A list with a bound, `MAX`: saved as a 32-bit length and the elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Field + Default, const MAX: usize> Field for List<T, MAX> {
    fn describe(&self, name: &str, fields: &mut Vec<FieldDescription>) {
        fields.push(FieldDescription::plain(&format!("{name}_len"), Kind::UInt32, 4));
        for (index, element) in self.0.iter().enumerate() {
            let first = fields.len();
            element.describe(name, fields);
            fields[first..].iter_mut().for_each(|field| field.index = Some(index));
        }
    }

    fn put(&self, writer: &mut Writer) {
        assert!(self.0.len() <= MAX, "a saved list has {} elements, its bound is {MAX}", self.0.len());
        writer.put(&(self.0.len() as u32).to_be_bytes());
        self.0.iter().for_each(|element| element.put(writer));
    }

    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let length = u32::from_be_bytes(reader.array()?);
        if length as usize > MAX {
            return Err(LoadErrorKind::Length { length, maximum: MAX }.into());
        }
        let element = |index| T::default().take(reader).map_err(|error: LoadError| error.within(&format!("[{index}]")));
        (0..length).map(element).collect::<Result<_, _>>().map(Self)
    }
}

/// What the derive calls. No part of the public interface.
#[doc(hidden)]
pub mod derived {
    use super::*;

    /// Refuses versions outside of what the struct can load.
    pub fn check_version(name: &str, version: u32, minimum: u32, current: u32) -> Result<(), LoadError> {
        if (minimum..=current).contains(&version) {
            return Ok(());
        }
        Err(LoadErrorKind::Version { name: name.to_string(), version, minimum, current }.into())
    }

    /// Describes a buffer: its length, then its bytes.
    pub fn describe_buffer(buffer: &[u8], name: &str, fields: &mut Vec<FieldDescription>) {
        fields.push(FieldDescription::plain(&format!("{name}_len"), Kind::UInt32, 4));
        if !buffer.is_empty() {
            fields.push(FieldDescription::plain(name, Kind::Buffer, buffer.len()));
        }
    }

    /// Writes a buffer. What is above the bound is a broken invariant of the device.
    pub fn put_buffer(buffer: &[u8], maximum: usize, writer: &mut Writer) {
        assert!(buffer.len() <= maximum, "a saved buffer has {} bytes, its bound is {maximum}", buffer.len());
        let length = u32::try_from(buffer.len()).expect("the bound fits 32 bits");
        writer.put(&length.to_be_bytes());
        writer.put(buffer);
    }

    /// Reads a buffer.
    pub fn take_buffer(maximum: usize, reader: &mut Reader<'_>) -> Result<Vec<u8>, LoadError> {
        let length = u32::from_be_bytes(reader.array()?);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= maximum => Ok(reader.take(bytes)?.to_vec()),
            _ => Err(LoadErrorKind::Length { length, maximum }.into()),
        }
    }

    /// Refuses values above the bound.
    pub fn check_maximum<T: Bounded>(value: T, maximum: u64) -> Result<T, LoadError> {
        if value.exceeds(maximum) { Err(LoadErrorKind::Value.into()) } else { Ok(value) }
    }
}
