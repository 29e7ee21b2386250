//! The object tree and the types of objects.

use std::collections::HashSet;
use std::sync::Arc;

use block::Backend;
use machine::tree::{Node, Value as Setting};
use object::{ObjectError, ObjectTree, Property, PropertyInfo, PropertyValue, ValueKind};
use qapi::json::{Map, Value};
use qapi::qom::{
    DeviceListProperties, ObjectPropertyInfo, ObjectTypeInfo, QomGet, QomList, QomListProperties, QomListTypes, QomSet,
};
use qapi::{Any, Error, ErrorClass};

use super::Table;
use crate::control::Control;
use crate::storage::{StorageOwner, exchange};

/// The property of devices with a disk: the disk's node.
const DRIVE: &str = "drive";

/// The kind of the bus between the PCI function of a VirtIO device and the device.
const VIRTIO_BUS: &str = "virtio-pci-bus";

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QomList>(|control, _, wanted| {
        let tree = whole_tree(control)?;
        let object = tree.resolve(&wanted.path).map_err(client_error)?;
        Ok(tree.list(object).map_err(client_error)?.iter().map(of_object).collect())
    });
    table.register::<QomGet>(|control, _, wanted| {
        let get = |tree: &ObjectTree| tree.get(tree.resolve(&wanted.path)?, &wanted.property);
        let found = match get(tree(control)?) {
            // What a device was configured with is added when somebody asks for it.
            Err(ObjectError::PropertyNotFound { .. }) => get(whole_tree(control)?),
            found => found,
        };
        found.map(|value| Any(json(&value))).map_err(client_error)
    });
    table.register_deferred::<QomSet>(|control, _, wanted, reply| match drive(control, &wanted) {
        Err(error) => reply.send(Err(error)),
        Ok(Some((backend, node))) => {
            control.storage().exchange_node(&backend, &node, move |_, exchanged| reply.send(exchanged));
        }
        Ok(None) => reply.send(set(control, &wanted)),
    });
    table.register::<QomListTypes>(|control, _, wanted| {
        let types = control.machine().objects().types();
        let list = types.list(wanted.implements.as_deref(), wanted.r#abstract.unwrap_or(false));
        let info = |info: &object::TypeInfo| ObjectTypeInfo {
            name: info.name.clone(),
            r#abstract: info.is_abstract.then_some(true),
            parent: info.parent.clone(),
        };
        Ok(list.map(info).collect())
    });
    table.register::<QomListProperties>(|control, _, wanted| {
        let types = control.machine().objects().types();
        let properties = types.properties(&wanted.typename).map_err(client_error)?;
        let first = PropertyInfo::new("type", "string");
        Ok(std::iter::once(&first).chain(properties).map(described).collect())
    });
    table.register::<DeviceListProperties>(|control, _, wanted| {
        let types = control.machine().objects().types();
        let Some(info) = types.get(&wanted.typename) else { return Err(Error::device_not_found(&wanted.typename)) };
        if info.is_abstract || !types.is_a(&wanted.typename, "device") {
            return Err(Error::expects("typename", "a non-abstract device type"));
        }
        let properties = types.properties(&wanted.typename).map_err(client_error)?;
        Ok(properties.into_iter().map(described).collect())
    });
}

fn set(control: &mut Control, wanted: &QomSet) -> Result<(), Error> {
    let tree = whole_tree(control)?;
    let object = tree.resolve(&wanted.path).map_err(client_error)?;
    tree.set(object, &wanted.property, value(&wanted.value.0)).map_err(client_error)
}

/// The back end that is to get another node, and the node's name, if that is what a client wants.
fn drive(control: &mut Control, wanted: &QomSet) -> Result<Option<(Arc<Backend>, String)>, Error> {
    if wanted.property != DRIVE {
        return Ok(None);
    }
    let tree = tree(control)?;
    let path = tree.resolve(&wanted.path).and_then(|object| tree.path(object)).map_err(client_error)?;
    let drives = control.storage().drives_by_path();
    let Some((_, backend)) = drives.into_iter().find(|(known, _)| *known == path) else { return Ok(None) };
    let checked = ValueKind::Str.check(DRIVE, value(&wanted.value.0)).map_err(|error| client_error(error.into()))?;
    Ok(Some((backend, checked.as_str().unwrap_or_default().to_owned())))
}

/// The tree, with the objects that users have made by now, and what disks have.
fn tree(control: &mut Control) -> Result<&mut ObjectTree, Error> {
    let wanted = control.storage().objects().types();
    let drives = control.storage().drives_by_path();
    let tree = control.machine_mut().objects_mut();
    let container = tree.container("/objects").map_err(client_error)?;
    let known: Vec<_> = tree.children(container).map(|(name, object)| (name.to_owned(), object)).collect();
    for (name, object) in &known {
        let type_name = tree.type_name(*object).unwrap_or_default();
        if !wanted.iter().any(|(id, wanted)| (id, *wanted) == (name, type_name)) {
            tree.remove(*object).map_err(client_error)?;
        }
    }
    for (id, type_name) in &wanted {
        if !tree.children(container).any(|(name, _)| name == id) {
            tree.add_child(container, id, type_name).map_err(client_error)?;
        }
    }
    for (path, backend) in &drives {
        // What has a disk is a device, but for parts that have no objects of their own.
        let Ok(object) = tree.resolve(path) else { continue };
        if tree.get(object, DRIVE).is_err() {
            let backend = Arc::downgrade(backend);
            let property = Property::new(ValueKind::Str).getter(move || exchange::drive_of(&backend).into());
            tree.add_property(object, DRIVE, property).map_err(client_error)?;
        }
    }
    Ok(tree)
}

/// The tree, in which devices have what they were configured with, too.
fn whole_tree(control: &mut Control) -> Result<&mut ObjectTree, Error> {
    let buses = control.machine().device_tree();
    let tree = tree(control)?;
    for device in buses.iter().flat_map(|bus| &bus.devices) {
        configured(tree, device).map_err(client_error)?;
    }
    Ok(tree)
}

/// A device and those behind it tell what they were configured with.
fn configured(tree: &mut ObjectTree, device: &Node) -> Result<(), ObjectError> {
    settings(tree, device, &device.path)?;
    for bus in &device.buses {
        for behind in &bus.devices {
            configured(tree, behind)?;
            if bus.kind == VIRTIO_BUS {
                // What the part has, the whole has, too.
                settings(tree, behind, &device.path)?;
            }
        }
    }
    Ok(())
}

/// Makes those settings of `device` that are not known yet properties of the object at `path`.
fn settings(tree: &mut ObjectTree, device: &Node, path: &str) -> Result<(), ObjectError> {
    // Some are parts of others and no objects of their own.
    let Ok(object) = tree.resolve(path) else { return Ok(()) };
    let known: HashSet<String> = tree.list(object)?.into_iter().map(|info| info.name).collect();
    for (name, value) in device.settings.iter().filter(|(name, _)| !known.contains(*name)) {
        let (kind, value) = match value {
            Setting::Switch(value) => ("bool", PropertyValue::Bool(*value)),
            Setting::Number(value) => ("uint32", PropertyValue::Uint(*value)),
            Setting::Size(value) => ("size", PropertyValue::Uint(*value)),
            Setting::Text(value) => ("str", PropertyValue::Str(value.clone())),
            Setting::Slot(slot, function) => ("int32", PropertyValue::Int(i64::from(slot << 3 | function))),
        };
        let declared = tree.types().properties(device.type_name)?.into_iter().find(|info| info.name == *name);
        let kind = declared.map_or_else(|| kind.to_owned(), |info| info.type_name.clone());
        let value = match value {
            PropertyValue::Str(id) if kind.starts_with("link<") && !id.is_empty() => format!("/objects/{id}").into(),
            other => other,
        };
        tree.add_property(object, name, Property::variable(value).configuration().type_name(kind))?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn client_error(error: ObjectError) -> Error {
    let class = match error {
        ObjectError::NotFound(_) | ObjectError::ClassNotFound(_) => ErrorClass::DeviceNotFound,
        _ => ErrorClass::GenericError,
    };
    Error::new(class, error.to_string())
}

/// A property of an object: listings of objects have no descriptions and defaults.
fn of_object(info: &PropertyInfo) -> ObjectPropertyInfo {
    ObjectPropertyInfo {
        name: info.name.clone(),
        r#type: info.type_name.clone(),
        description: None,
        default_value: None,
    }
}

/// A property of a type.
fn described(info: &PropertyInfo) -> ObjectPropertyInfo {
    ObjectPropertyInfo {
        description: info.description.clone(),
        default_value: info.default.as_ref().map(|value| Any(json(value))),
        ..of_object(info)
    }
}

fn json(value: &PropertyValue) -> Value {
    match value {
        PropertyValue::Null => Value::Null,
        PropertyValue::Bool(value) => Value::Bool(*value),
        PropertyValue::Int(value) => Value::Int(*value),
        PropertyValue::Uint(value) => Value::from(*value),
        PropertyValue::Number(value) => Value::Double(*value),
        PropertyValue::Str(value) => Value::String(value.clone()),
        PropertyValue::List(items) => Value::Array(items.iter().map(json).collect()),
        PropertyValue::Struct(members) => {
            Value::Object(Map::from_iter(members.iter().map(|(name, value)| (name.clone(), json(value)))))
        }
    }
}

fn value(json: &Value) -> PropertyValue {
    match json {
        Value::Null => PropertyValue::Null,
        Value::Bool(value) => PropertyValue::Bool(*value),
        Value::Int(value) => PropertyValue::Int(*value),
        Value::Uint(value) => PropertyValue::Uint(*value),
        Value::Double(value) => PropertyValue::Number(*value),
        Value::String(value) => PropertyValue::Str(value.clone()),
        Value::Array(items) => PropertyValue::List(items.iter().map(value).collect()),
        Value::Object(members) => {
            PropertyValue::Struct(members.iter().map(|(name, item)| (name.to_owned(), value(item))).collect())
        }
    }
}
