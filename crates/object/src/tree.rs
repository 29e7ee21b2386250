//! The tree of objects.

use crate::property::Access;
use crate::{ObjectError, Property, PropertyInfo, PropertyValue, TypeRegistry, ValueError};

/// Names a node of one tree. It is not reused when the node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    index: usize,
    generation: u64,
}

/// What stands behind a name of a node.
enum Member {
    Property(Box<Property>),
    Child(ObjectId),
    Link { target_type: String, target: Option<ObjectId>, writable: bool },
}

struct Node {
    type_name: String,
    /// Parent and name in it; the root has none.
    place: Option<(ObjectId, String)>,
    members: Vec<(String, Member)>,
    realized: bool,
    device_id: Option<String>,
}

struct Slot {
    generation: u64,
    node: Option<Node>,
}

/// What a partial path leads to.
enum Match {
    None,
    One(ObjectId),
    Several,
}

/// Objects, their properties, and the types that they may have.
pub struct ObjectTree {
    slots: Vec<Slot>,
    types: TypeRegistry,
}

impl Default for ObjectTree {
    fn default() -> Self {
        Self::new(TypeRegistry::default())
    }
}

impl ObjectTree {
    /// A tree with nothing but its root, a container.
    pub fn new(types: TypeRegistry) -> Self {
        let root = Node::new("container", None);
        ObjectTree { slots: vec![Slot { generation: 0, node: Some(root) }], types }
    }

    /// The object with the path `/`.
    pub fn root(&self) -> ObjectId {
        ObjectId { index: 0, generation: 0 }
    }

    /// The types.
    pub fn types(&self) -> &TypeRegistry {
        &self.types
    }

    /// The types, to register more.
    pub fn types_mut(&mut self) -> &mut TypeRegistry {
        &mut self.types
    }

    /// Makes an object of the type as a child of `parent`. A name that ends in `[*]` gets the lowest free number.
    pub fn add_child(&mut self, parent: ObjectId, name: &str, type_name: &str) -> Result<ObjectId, ObjectError> {
        match self.types.get(type_name) {
            None => return Err(ObjectError::UnknownType(type_name.to_string())),
            Some(info) if info.is_abstract => return Err(ObjectError::AbstractType(type_name.to_string())),
            Some(_) => {}
        }
        if name.is_empty() || name.contains('/') {
            return Err(ObjectError::BadName(name.to_string()));
        }
        let name = self.free_name(parent, name)?;
        let node = Node::new(type_name, Some((parent, name.clone())));
        let index = self.slots.iter().position(|slot| slot.node.is_none()).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(Slot { generation: 0, node: None });
        }
        let generation = self.slots[index].generation;
        self.slots[index].node = Some(node);
        let child = ObjectId { index, generation };
        self.node_mut(parent)?.members.push((name, Member::Child(child)));
        Ok(child)
    }

    /// The container with this absolute path, made with those above it where they are missing.
    pub fn container(&mut self, path: &str) -> Result<ObjectId, ObjectError> {
        let mut object = self.root();
        for name in components(path) {
            object = match self.step(object, name) {
                Some(next) => next,
                None => self.add_child(object, name, "container")?,
            };
        }
        Ok(object)
    }

    /// Removes an object and all below it. Links to them are cleared.
    pub fn remove(&mut self, object: ObjectId) -> Result<(), ObjectError> {
        let (parent, name) = self.node(object)?.place.clone().ok_or(ObjectError::Gone)?;
        self.node_mut(parent)?.members.retain(|(member, _)| *member != name);
        let mut doomed = vec![object];
        while let Some(object) = doomed.pop() {
            let slot = &mut self.slots[object.index];
            slot.generation += 1;
            let members = slot.node.take().map(|node| node.members).unwrap_or_default();
            doomed.extend(members.into_iter().filter_map(|(_, member)| match member {
                Member::Child(child) => Some(child),
                _ => None,
            }));
        }
        let slots: Vec<(u64, bool)> = self.slots.iter().map(|slot| (slot.generation, slot.node.is_some())).collect();
        let exists = |id: ObjectId| slots.get(id.index) == Some(&(id.generation, true));
        for node in self.slots.iter_mut().filter_map(|slot| slot.node.as_mut()) {
            for (_, member) in &mut node.members {
                if let Member::Link { target, .. } = member {
                    *target = target.filter(|&id| exists(id));
                }
            }
        }
        Ok(())
    }

    /// Adds a property.
    pub fn add_property(&mut self, object: ObjectId, name: &str, property: Property) -> Result<(), ObjectError> {
        self.add_member(object, name, Member::Property(Box::new(property)))
    }

    /// Adds a link that clients can only read.
    pub fn add_link(
        &mut self,
        object: ObjectId,
        name: &str,
        target_type: &str,
        target: Option<ObjectId>,
    ) -> Result<(), ObjectError> {
        let target_type = target_type.to_string();
        self.add_member(object, name, Member::Link { target_type, target, writable: false })
    }

    /// Adds a link that clients can set to the path of an object of the type.
    pub fn add_writable_link(&mut self, object: ObjectId, name: &str, target_type: &str) -> Result<(), ObjectError> {
        let target_type = target_type.to_string();
        self.add_member(object, name, Member::Link { target_type, target: None, writable: true })
    }

    /// Points a link to an object, whether clients may do so or not.
    pub fn set_link(&mut self, object: ObjectId, name: &str, to: Option<ObjectId>) -> Result<(), ObjectError> {
        if let Some(to) = to {
            self.node(to)?;
        }
        match self.member_mut(object, name)? {
            Member::Link { target, .. } => {
                *target = to;
                Ok(())
            }
            _ => Err(self.denied(object, name, |type_name, name| ObjectError::NotWritable { type_name, name })),
        }
    }

    /// Removes a property or a link.
    pub fn remove_property(&mut self, object: ObjectId, name: &str) -> Result<(), ObjectError> {
        if matches!(self.member_mut(object, name)?, Member::Child(_)) {
            return Err(self.denied(object, name, |type_name, name| ObjectError::NotWritable { type_name, name }));
        }
        self.node_mut(object)?.members.retain(|(member, _)| member != name);
        Ok(())
    }

    /// Says whether the device is in use: then its configuration can no longer be set. `device_id` is for messages.
    pub fn set_realized(
        &mut self,
        object: ObjectId,
        realized: bool,
        device_id: Option<&str>,
    ) -> Result<(), ObjectError> {
        let node = self.node_mut(object)?;
        node.realized = realized;
        node.device_id = device_id.map(str::to_string);
        Ok(())
    }

    /// Whether the object has not been removed.
    pub fn exists(&self, object: ObjectId) -> bool {
        self.node(object).is_ok()
    }

    /// The object's type.
    pub fn type_name(&self, object: ObjectId) -> Result<&str, ObjectError> {
        Ok(&self.node(object)?.type_name)
    }

    /// Whether the object is of the type, or of one that extends or implements it.
    pub fn is_a(&self, object: ObjectId, type_name: &str) -> bool {
        self.node(object).is_ok_and(|node| self.types.is_a(&node.type_name, type_name))
    }

    /// The parent; the root has none.
    pub fn parent(&self, object: ObjectId) -> Option<ObjectId> {
        self.node(object).ok()?.place.as_ref().map(|(parent, _)| *parent)
    }

    /// The object's name in its parent; the root has none.
    pub fn name(&self, object: ObjectId) -> Option<&str> {
        self.node(object).ok()?.place.as_ref().map(|(_, name)| name.as_str())
    }

    /// Children with their names.
    pub fn children(&self, object: ObjectId) -> impl Iterator<Item = (&str, ObjectId)> {
        let members = self.node(object).map(|node| node.members.as_slice()).unwrap_or_default();
        members.iter().filter_map(|(name, member)| match member {
            Member::Child(child) => Some((name.as_str(), *child)),
            _ => None,
        })
    }

    /// The absolute path.
    pub fn path(&self, object: ObjectId) -> Result<String, ObjectError> {
        self.node(object)?;
        let mut names = vec![];
        let mut at = object;
        while let Some((parent, name)) = self.node(at)?.place.as_ref() {
            names.push(name.as_str());
            at = *parent;
        }
        Ok(names.iter().rev().fold(String::new(), |path, name| path + "/" + name)).map(|path| match path.as_str() {
            "" => "/".to_string(),
            _ => path,
        })
    }

    /// The object with an absolute path, or the only one that a partial path fits.
    pub fn resolve(&self, path: &str) -> Result<ObjectId, ObjectError> {
        match self.find(path, None) {
            Match::One(object) => Ok(object),
            Match::None => Err(ObjectError::NotFound(path.to_string())),
            Match::Several => Err(ObjectError::AmbiguousPath(path.to_string())),
        }
    }

    /// The same among objects of a type. With a partial path others do not make it ambiguous.
    pub fn resolve_type(&self, path: &str, type_name: &str) -> Result<ObjectId, ObjectError> {
        match self.find(path, Some(type_name)) {
            Match::One(object) => Ok(object),
            Match::None => Err(ObjectError::NotFound(path.to_string())),
            Match::Several => Err(ObjectError::AmbiguousPath(path.to_string())),
        }
    }

    /// The object's properties, links and children, `type` first.
    pub fn list(&self, object: ObjectId) -> Result<Vec<PropertyInfo>, ObjectError> {
        let node = self.node(object)?;
        let mut list = vec![PropertyInfo::new("type", "string")];
        for (name, member) in &node.members {
            list.push(match member {
                Member::Child(child) => PropertyInfo::new(name, &format!("child<{}>", self.type_name(*child)?)),
                Member::Link { target_type, .. } => PropertyInfo::new(name, &format!("link<{target_type}>")),
                Member::Property(property) => PropertyInfo {
                    description: property.description.clone(),
                    default: property.default.clone(),
                    ..PropertyInfo::new(name, &property.type_name)
                },
            });
        }
        Ok(list)
    }

    /// Reads a property. Children and links read as paths.
    pub fn get(&self, object: ObjectId, name: &str) -> Result<PropertyValue, ObjectError> {
        if name == "type" {
            return Ok(self.type_name(object)?.into());
        }
        match self.member(object, name)? {
            Member::Child(child) => Ok(self.path(*child)?.into()),
            Member::Link { target, .. } => Ok(target.map_or(Ok(String::new()), |target| self.path(target))?.into()),
            Member::Property(property) => match &property.access {
                Access::Stored { value, .. } => Ok(value.clone()),
                Access::Closures { get: Some(get), .. } => Ok(get()),
                Access::Closures { get: None, .. } => {
                    Err(self.denied(object, name, |type_name, name| ObjectError::NotReadable { type_name, name }))
                }
            },
        }
    }

    /// Writes a property. A link takes the path of its target, or an empty string.
    pub fn set(&mut self, object: ObjectId, name: &str, value: PropertyValue) -> Result<(), ObjectError> {
        let not_writable =
            |tree: &Self| tree.denied(object, name, |type_name, name| ObjectError::NotWritable { type_name, name });
        if name == "type" {
            self.node(object)?;
            return Err(not_writable(self));
        }
        match self.member(object, name)? {
            Member::Child(_) | Member::Link { writable: false, .. } => return Err(not_writable(self)),
            Member::Link { target_type, .. } => {
                let to = self.link_target(name, &value, target_type)?;
                return self.set_link(object, name, to);
            }
            Member::Property(property) => {
                let writable = match &property.access {
                    Access::Stored { writable, .. } => *writable,
                    Access::Closures { set, .. } => set.is_some(),
                };
                if !writable {
                    return Err(not_writable(self));
                }
                let node = self.node(object)?;
                if property.configuration && node.realized {
                    let (id, type_name) = (node.device_id.clone(), node.type_name.clone());
                    return Err(ObjectError::Realized { id, type_name, name: name.to_string() });
                }
            }
        }
        let Member::Property(property) = self.member_mut(object, name)? else { return Err(ObjectError::Gone) };
        let value = property.kind.check(name, value)?;
        match &mut property.access {
            Access::Stored { value: stored, .. } => *stored = value,
            Access::Closures { set: Some(set), .. } => set(value)?,
            Access::Closures { set: None, .. } => {}
        }
        Ok(())
    }

    fn link_target(
        &self,
        name: &str,
        value: &PropertyValue,
        target_type: &str,
    ) -> Result<Option<ObjectId>, ObjectError> {
        let wrong = |expected: &str| ValueError::Type { name: name.to_string(), expected: expected.to_string() };
        let path = value.as_str().ok_or_else(|| wrong("string"))?;
        if path.is_empty() {
            return Ok(None);
        }
        match self.find(path, Some(target_type)) {
            Match::One(object) => Ok(Some(object)),
            Match::Several => Err(ObjectError::AmbiguousLink(path.to_string())),
            Match::None => match self.find(path, None) {
                Match::None => Err(ObjectError::NotFound(path.to_string())),
                _ => Err(wrong(target_type).into()),
            },
        }
    }

    fn find(&self, path: &str, type_name: Option<&str>) -> Match {
        if path.starts_with('/') {
            return match self.walk(self.root(), path, type_name) {
                Some(object) => Match::One(object),
                None => Match::None,
            };
        }
        // A partial path may begin at any object.
        let mut found = Match::None;
        let starts = self.slots.iter().enumerate().filter(|(_, slot)| slot.node.is_some());
        for (index, slot) in starts {
            let start = ObjectId { index, generation: slot.generation };
            if let Some(object) = self.walk(start, path, type_name) {
                match found {
                    Match::None => found = Match::One(object),
                    _ => return Match::Several,
                }
            }
        }
        found
    }

    fn walk(&self, from: ObjectId, path: &str, type_name: Option<&str>) -> Option<ObjectId> {
        let object = components(path).try_fold(from, |object, name| self.step(object, name))?;
        type_name.is_none_or(|type_name| self.is_a(object, type_name)).then_some(object)
    }

    /// The child or the link's target of this name.
    fn step(&self, object: ObjectId, name: &str) -> Option<ObjectId> {
        match self.member(object, name).ok()? {
            Member::Child(child) => Some(*child),
            Member::Link { target, .. } => *target,
            Member::Property(_) => None,
        }
    }

    fn free_name(&self, parent: ObjectId, name: &str) -> Result<String, ObjectError> {
        let node = self.node(parent)?;
        let Some(stem) = name.strip_suffix("[*]") else {
            return match node.member(name) {
                None if name != "type" => Ok(name.to_string()),
                _ => Err(ObjectError::Duplicate { type_name: node.type_name.clone(), name: name.to_string() }),
            };
        };
        let mut numbered = (0usize..).map(|number| format!("{stem}[{number}]"));
        numbered.find(|name| node.member(name).is_none()).ok_or(ObjectError::Gone)
    }

    fn add_member(&mut self, object: ObjectId, name: &str, member: Member) -> Result<(), ObjectError> {
        if name.is_empty() {
            return Err(ObjectError::BadName(name.to_string()));
        }
        let name = self.free_name(object, name)?;
        self.node_mut(object)?.members.push((name, member));
        Ok(())
    }

    fn denied(&self, object: ObjectId, name: &str, error: impl FnOnce(String, String) -> ObjectError) -> ObjectError {
        match self.node(object) {
            Ok(node) => error(node.type_name.clone(), name.to_string()),
            Err(gone) => gone,
        }
    }

    fn node(&self, object: ObjectId) -> Result<&Node, ObjectError> {
        let slot = self.slots.get(object.index).filter(|slot| slot.generation == object.generation);
        slot.and_then(|slot| slot.node.as_ref()).ok_or(ObjectError::Gone)
    }

    fn node_mut(&mut self, object: ObjectId) -> Result<&mut Node, ObjectError> {
        let slot = self.slots.get_mut(object.index).filter(|slot| slot.generation == object.generation);
        slot.and_then(|slot| slot.node.as_mut()).ok_or(ObjectError::Gone)
    }

    fn member(&self, object: ObjectId, name: &str) -> Result<&Member, ObjectError> {
        let node = self.node(object)?;
        node.member(name).ok_or_else(|| node.no_property(name))
    }

    fn member_mut(&mut self, object: ObjectId, name: &str) -> Result<&mut Member, ObjectError> {
        let node = self.node_mut(object)?;
        match node.members.iter().position(|(member, _)| member == name) {
            Some(position) => Ok(&mut node.members[position].1),
            None => Err(node.no_property(name)),
        }
    }
}

impl Node {
    fn new(type_name: &str, place: Option<(ObjectId, String)>) -> Self {
        Node { type_name: type_name.to_string(), place, members: vec![], realized: false, device_id: None }
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, member)| member)
    }

    fn no_property(&self, name: &str) -> ObjectError {
        ObjectError::PropertyNotFound { type_name: self.type_name.clone(), name: name.to_string() }
    }
}

/// The names in a path. Empty ones do not count.
fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}
