//! The registry of types: parents, interfaces, abstractness and declared properties.

use crate::{ObjectError, PropertyInfo};
use std::collections::BTreeMap;

/// A type of objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeInfo {
    /// The name.
    pub name: String,
    /// The type that it extends.
    pub parent: Option<String>,
    /// Whether there are objects of derived types only.
    pub is_abstract: bool,
    /// Interfaces that it implements, besides its parent's.
    pub interfaces: Vec<String>,
    /// Properties that its objects have, besides its parent's.
    pub properties: Vec<PropertyInfo>,
}

impl TypeInfo {
    /// A type that extends `parent`.
    pub fn new(name: &str, parent: &str) -> Self {
        TypeInfo { name: name.to_string(), parent: Some(parent.to_string()), ..TypeInfo::default() }
    }

    /// The same, abstract.
    pub fn abstract_type(name: &str, parent: &str) -> Self {
        TypeInfo { is_abstract: true, ..TypeInfo::new(name, parent) }
    }

    /// Adds an interface.
    pub fn interface(mut self, name: &str) -> Self {
        self.interfaces.push(name.to_string());
        self
    }

    /// Declares a property.
    pub fn property(mut self, property: PropertyInfo) -> Self {
        self.properties.push(property);
        self
    }
}

/// All types, by name.
#[derive(Clone, Debug)]
pub struct TypeRegistry {
    types: BTreeMap<String, TypeInfo>,
}

impl Default for TypeRegistry {
    fn default() -> Self {
        let root = |name: &str, is_abstract| TypeInfo { name: name.to_string(), is_abstract, ..TypeInfo::default() };
        let types = [root("object", false), root("interface", true), TypeInfo::new("container", "object")];
        TypeRegistry { types: types.into_iter().map(|info| (info.name.clone(), info)).collect() }
    }
}

impl TypeRegistry {
    /// Adds a type. Its parent and its interfaces must be there already.
    pub fn register(&mut self, info: TypeInfo) -> Result<(), ObjectError> {
        let known = |name: &String| self.types.contains_key(name);
        if known(&info.name) || !info.parent.iter().chain(&info.interfaces).all(known) {
            return Err(ObjectError::TypeConflict(info.name));
        }
        self.types.insert(info.name.clone(), info);
        Ok(())
    }

    /// The type with this name.
    pub fn get(&self, name: &str) -> Option<&TypeInfo> {
        self.types.get(name)
    }

    /// Whether `name` is `ancestor`, extends it, or implements it.
    pub fn is_a(&self, name: &str, ancestor: &str) -> bool {
        self.ancestry(name)
            .any(|info| info.name == ancestor || info.interfaces.iter().any(|interface| self.is_a(interface, ancestor)))
    }

    /// Types that are or extend `implements` (all without it); abstract ones on demand.
    pub fn list<'a>(
        &'a self,
        implements: Option<&'a str>,
        include_abstract: bool,
    ) -> impl Iterator<Item = &'a TypeInfo> {
        self.types
            .values()
            .filter(move |info| include_abstract || !info.is_abstract)
            .filter(move |info| implements.is_none_or(|ancestor| self.is_a(&info.name, ancestor)))
    }

    /// The properties that objects of the type have by declaration, the most basic type's first.
    pub fn properties(&self, name: &str) -> Result<Vec<&PropertyInfo>, ObjectError> {
        if !self.types.contains_key(name) {
            return Err(ObjectError::ClassNotFound(name.to_string()));
        }
        let ancestry: Vec<_> = self.ancestry(name).collect();
        Ok(ancestry.into_iter().rev().flat_map(|info| &info.properties).collect())
    }

    /// The type and what it extends, up to the root. Parents are registered first, so that there is no cycle.
    fn ancestry(&self, name: &str) -> impl Iterator<Item = &TypeInfo> {
        std::iter::successors(self.types.get(name), |info| self.types.get(info.parent.as_ref()?))
    }
}
