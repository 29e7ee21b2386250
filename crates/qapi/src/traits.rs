//! What the derives implement.

use crate::json::{JsonError, Map, Value};
use crate::schema::{Feature, ObjectShape, SchemaBuilder, TypeRef};
use crate::{Error, Path};
use std::time::Duration;

/// How deep objects of recursive types may be nested. QEMU bounds only the text's nesting, at 1024;
/// reading a type takes more stack than reading text.
const MAX_DEPTH: usize = 128;

/// The kinds of JSON values, as alternates tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// A boolean.
    Bool,
    /// Any number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
    /// Every kind.
    Any,
}

impl Kind {
    /// Whether `value` is of this kind.
    #[must_use]
    pub fn accepts(self, value: &Value) -> bool {
        match value {
            Value::Null => matches!(self, Self::Null | Self::Any),
            Value::Bool(_) => matches!(self, Self::Bool | Self::Any),
            Value::Int(_) | Value::Uint(_) | Value::Double(_) => matches!(self, Self::Number | Self::Any),
            Value::String(_) => matches!(self, Self::String | Self::Any),
            Value::Array(_) => matches!(self, Self::Array | Self::Any),
            Value::Object(_) => matches!(self, Self::Object | Self::Any),
        }
    }
}

/// A type of the schema.
pub trait QapiType: Sized + 'static {
    /// Which JSON values it takes, for the choice between the branches of an alternate.
    const KIND: Kind;
    /// Whether a member of this type may be absent.
    const OPTIONAL: bool = false;

    /// Reads a value.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's words.
    fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error>;

    /// The value as JSON.
    fn to_value(&self) -> Value;

    /// The type in the schema, which is added to `builder` with everything that it needs.
    fn schema(builder: &mut SchemaBuilder) -> TypeRef;

    /// Reads a member that may be absent.
    ///
    /// # Errors
    /// As [`QapiType::from_value`], and that it is missing.
    fn from_member(value: Option<Value>, path: &Path<'_>) -> Result<Self, Error> {
        match value {
            Some(value) => Self::from_value(value, path),
            None => Err(Error::missing_parameter(&path.to_string())),
        }
    }

    /// The member's value, or `None` when it is left out.
    fn to_member(&self) -> Option<Value> {
        Some(self.to_value())
    }
}

/// A type that is a list of members: a struct, a union, the arguments of a command. Such types can
/// be embedded into others (`#[qapi(flatten)]`).
pub trait Members: Sized + 'static {
    /// Checks a union's discriminator, where its turn comes before other members.
    ///
    /// # Errors
    /// That it is missing or has an unknown value.
    fn check_tag(_input: &Input<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Takes the type's members out of `input`.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's words.
    fn take(input: &mut Input<'_>) -> Result<Self, Error>;

    /// Adds the members to `map`.
    fn put(&self, map: &mut Map);

    /// Adds the members to `shape`.
    fn members(shape: &mut ObjectShape, builder: &mut SchemaBuilder);

    /// Reads a whole object.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's words; superfluous members come last.
    fn from_object(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        let Value::Object(map) = value else {
            return Err(Error::invalid_type(&path.to_string(), "object"));
        };
        if path.depth() > MAX_DEPTH {
            return Err(JsonError("JSON nesting depth limit exceeded".to_owned()).into());
        }
        let mut input = Input::new(map, path);
        let parsed = Self::take(&mut input)?;
        input.finish()?;
        Ok(parsed)
    }

    /// The members as an object.
    fn to_map(&self) -> Map {
        let mut map = Map::new();
        self.put(&mut map);
        map
    }
}

/// The members of an object that is being read.
#[derive(Debug)]
pub struct Input<'a> {
    map: Map,
    path: &'a Path<'a>,
    /// The names of the members taken so far.
    taken: Vec<String>,
}

impl<'a> Input<'a> {
    /// Starts to read the object `map`, which stands at `path`.
    #[must_use]
    pub fn new(map: Map, path: &'a Path<'a>) -> Self {
        Self { map, path, taken: Vec::new() }
    }

    /// Where the object stands.
    #[must_use]
    pub fn path(&self) -> &'a Path<'a> {
        self.path
    }

    /// Looks at a member without taking it.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Takes the member `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take<T: QapiType>(&mut self, name: &str) -> Result<T, Error> {
        let value = self.map.remove(name);
        if value.is_some() {
            self.taken.push(name.to_owned());
        }
        T::from_member(value, &self.path.member(name))
    }

    /// Takes the member `name`, which may also come under older names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take_aliased<T: QapiType>(&mut self, name: &str, aliases: &[&str]) -> Result<T, Error> {
        let present = |candidate: &&&str| self.map.contains_key(candidate);
        match aliases.iter().find(present) {
            Some(alias) if !self.map.contains_key(name) => self.take(alias),
            _ => self.take(name),
        }
    }

    /// Takes everything that is left.
    pub fn take_rest(&mut self) -> Map {
        std::mem::take(&mut self.map)
    }

    /// If the only member is an object named `wrapper`, reads that object instead (a legacy form).
    pub fn unwrap_legacy(&mut self, wrapper: &str) {
        if self.map.len() == 1
            && let Some(Value::Object(_)) = self.map.get(wrapper)
            && let Some(Value::Object(inner)) = self.map.remove(wrapper)
        {
            self.map = inner;
        }
    }

    /// Puts the members of the object `name`, if there is one, beside it (a legacy form). Those that are there
    /// already stay, and the object with what is left of its own.
    pub fn merge_legacy(&mut self, name: &str) {
        let Some(Value::Object(inner)) = self.map.get(name) else { return };
        let mut left = Map::new();
        for (member, value) in inner.clone() {
            if member == name || self.map.contains_key(&member) {
                left.insert(member, value);
            } else {
                self.map.insert(member, value);
            }
        }
        if left.is_empty() {
            self.map.remove(name);
        } else {
            self.map.insert(name, left);
        }
    }

    /// Ends the object.
    ///
    /// # Errors
    /// That a member is left which nothing has taken; of several, the one that QEMU would name.
    pub fn finish(self) -> Result<(), Error> {
        if self.map.is_empty() || self.path.is_reply() {
            return Ok(());
        }
        // Where the taken members stood matters only among equal hashes.
        let mut all = self.map.clone();
        for name in &self.taken {
            all.insert(name.as_str(), Value::Null);
        }
        let names: Vec<&str> = all.in_hash_order().into_iter().map(|(name, _)| name).collect();
        let name = crate::leftover::first_left(&names, &self.taken).unwrap_or_default();
        Err(Error::unexpected_parameter(&self.path.member(name).to_string()))
    }
}

/// A command: the type is its arguments.
pub trait Command: Members {
    /// The name on the wire.
    const NAME: &'static str;
    /// What it returns; `()` for commands without a result.
    type Return: QapiType;
    /// Whether it may run out of band.
    const ALLOW_OOB: bool = false;
    /// Whether it may run before the machine is built.
    const ALLOW_PRECONFIG: bool = false;
    /// Whether today's QEMU no longer has it.
    const LEGACY: bool = false;
    /// `deprecated`, `unstable` and the like.
    const FEATURES: &'static [Feature] = &[];
    /// The documentation.
    const DOC: &'static str = "";

    /// Reads the arguments of a request; absent arguments are an empty object.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's words.
    fn from_arguments(arguments: Option<Map>) -> Result<Self, Error> {
        Self::from_object(Value::Object(arguments.unwrap_or_default()), &Path::root())
    }
}

/// An event: the type is its data.
pub trait Event: Members {
    /// The name on the wire.
    const NAME: &'static str;
    /// At most one such event in this time; the latest replaces those in between.
    const RATE_LIMIT: Option<Duration> = None;
    /// The member by whose value the rate is counted separately.
    const RATE_KEY: Option<&'static str> = None;
    /// `deprecated`, `unstable` and the like.
    const FEATURES: &'static [Feature] = &[];
    /// The documentation.
    const DOC: &'static str = "";
    /// Whether the event has a `data` member at all.
    const HAS_DATA: bool;

    /// The `data` member; `None` for events that never have one.
    fn data(&self) -> Option<Value> {
        Self::HAS_DATA.then(|| Value::Object(self.to_map()))
    }

    /// The event with its type erased, to be queued.
    fn message(&self) -> EventMessage {
        let data = self.data();
        let rate_key = Self::RATE_KEY.and_then(|key| data.as_ref()?.get(key).map(ToString::to_string));
        EventMessage { name: Self::NAME, rate_limit: Self::RATE_LIMIT, rate_key, data }
    }
}

/// An event with its type erased.
#[derive(Debug, Clone, PartialEq)]
pub struct EventMessage {
    /// The name on the wire.
    pub name: &'static str,
    /// At most one event of this name and key in this time.
    pub rate_limit: Option<Duration>,
    /// Splits the rate limit: events with different keys do not replace each other.
    pub rate_key: Option<String>,
    /// The `data` member.
    pub data: Option<Value>,
}

/// Any JSON value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Any(pub Value);

/// The JSON value `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Null;

/// A number of bytes. On a command line it may have a suffix: `64M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Size(pub u64);
