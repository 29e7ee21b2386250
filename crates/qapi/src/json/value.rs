//! JSON values.

use std::collections::HashMap;

/// One JSON value. Numbers keep the kind that the reader found: an integer parameter never accepts
/// a `Double`, not even a whole one.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits 64 bits signed.
    Int(i64),
    /// An integer above `i64::MAX` that fits 64 bits unsigned. Smaller ones are always [`Value::Int`].
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Map),
}

impl Value {
    /// An empty object, the result of commands that return nothing.
    #[must_use]
    pub fn empty_object() -> Self {
        Self::Object(Map::new())
    }

    /// The object's map, if it is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The array's elements, if it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The number as a signed integer, if it is an integer that fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The number as an unsigned integer, if it is an integer that fits.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::Uint(number) => Some(*number),
            _ => None,
        }
    }

    /// The member `name`, if this is an object that has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_object()?.get(name)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Uint(number), Self::Int)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Double(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::Array(items)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Object(map)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::to_string(self))
    }
}

/// The members of an object: unique names, in the order in which they were added.
///
/// Two maps are equal when they have the same members, whatever their order.
#[derive(Debug, Clone, Default)]
pub struct Map {
    members: Vec<(String, Value)>,
    /// Positions by name, kept only for maps that are too long to scan.
    #[expect(clippy::box_collection, reason = "keeps values small: most maps have no index")]
    index: Option<Box<HashMap<String, usize>>>,
}

/// Up to this many members a linear search is faster than hashing.
const SCAN_LIMIT: usize = 16;

impl Map {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn position(&self, name: &str) -> Option<usize> {
        if self.members.len() <= SCAN_LIMIT {
            self.members.iter().position(|(key, _)| key == name)
        } else {
            self.index.as_ref()?.get(name).copied()
        }
    }

    fn reindex(&mut self) {
        self.index = (self.members.len() > SCAN_LIMIT).then(|| {
            let positions = self.members.iter().enumerate();
            Box::new(positions.map(|(at, (key, _))| (key.clone(), at)).collect())
        });
    }

    /// The member `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(self.position(name)?).map(|(_, value)| value)
    }

    /// The member `name`, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let at = self.position(name)?;
        self.members.get_mut(at).map(|(_, value)| value)
    }

    /// Whether there is a member `name`.
    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Sets the member `name`; an existing one keeps its place. Returns the value that it had.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let name = name.into();
        let value = value.into();
        if let Some(old) = self.get_mut(&name) {
            return Some(std::mem::replace(old, value));
        }
        self.members.push((name, value));
        match (&mut self.index, self.members.last()) {
            (Some(index), Some((key, _))) => _ = index.insert(key.clone(), self.members.len() - 1),
            (None, _) if self.members.len() > SCAN_LIMIT => self.reindex(),
            _ => {}
        }
        None
    }

    /// Takes the member `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.position(name)?;
        let (_, value) = self.members.remove(at);
        self.reindex();
        Some(value)
    }

    /// The members in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + DoubleEndedIterator {
        self.members.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The names in the order in which they were added.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        self.members.iter().map(|(key, _)| key.as_str())
    }

    /// Keeps the members for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.members.retain(|(key, value)| keep(key, value));
        self.reindex();
    }

    /// The members in the order in which QEMU's dictionaries list them (`qmp.md` section 1).
    #[must_use]
    pub fn in_hash_order(&self) -> Vec<(&str, &Value)> {
        let mut members: Vec<_> = self.iter().collect();
        // Stable sort over the reversed list: in one bucket the latest member comes first.
        members.reverse();
        members.sort_by_key(|(key, _)| bucket(key));
        members
    }
}

/// The bucket, of 512, of a member name.
fn bucket(name: &str) -> u32 {
    // Inside QEMU a NUL of a string is the two bytes C0 80.
    let bytes = name.bytes().flat_map(|byte| match byte {
        0 => [Some(0xC0_u8), Some(0x80)],
        other => [Some(other), None],
    });
    let bytes: Vec<u8> = bytes.flatten().collect();
    #[expect(clippy::cast_possible_truncation, reason = "the hash is defined modulo 2^32")]
    let mut sum = 0x238F_13AF_u32.wrapping_mul(bytes.len() as u32);
    for (at, &byte) in bytes.iter().enumerate() {
        sum = sum.wrapping_add(u32::from(byte) << ((at * 5) % 24));
    }
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl IntoIterator for Map {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        let mut map = Self::new();
        for (name, value) in members {
            map.insert(name, value);
        }
        map
    }
}
