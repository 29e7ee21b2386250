//! The object tree: paths, properties, links, types, and error texts.

use object::{ObjectError, ObjectTree, Property, PropertyInfo, PropertyValue, TypeInfo, ValueError, ValueKind};
use std::sync::{Arc, Mutex};

fn tree() -> ObjectTree {
    let mut tree = ObjectTree::default();
    for info in [
        TypeInfo::abstract_type("device", "object").property(PropertyInfo::new("realized", "bool")),
        TypeInfo::abstract_type("hotplug-handler", "interface"),
        TypeInfo::new("pc-machine", "object").interface("hotplug-handler"),
        TypeInfo::new("e1000", "device").property(PropertyInfo::new("mac", "str")),
        TypeInfo::new("rng-random", "object"),
    ] {
        tree.types_mut().register(info).unwrap();
    }
    let machine = tree.add_child(tree.root(), "machine", "pc-machine").unwrap();
    tree.add_property(machine, "usb", Property::variable(true)).unwrap();
    for path in ["/objects", "/machine/unattached", "/machine/peripheral"] {
        tree.container(path).unwrap();
    }
    tree
}

fn text<T: std::fmt::Debug>(result: Result<T, ObjectError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn tree_may_be_handed_to_the_control_thread() {
    fn check<T: Send>() {}
    check::<ObjectTree>();
}

#[test]
fn paths_lead_to_objects_and_back() {
    let mut tree = tree();
    let unattached = tree.resolve("/machine/unattached").unwrap();
    let first = tree.add_child(unattached, "device[*]", "e1000").unwrap();
    let second = tree.add_child(unattached, "device[*]", "e1000").unwrap();
    assert_eq!(tree.path(first).unwrap(), "/machine/unattached/device[0]");
    assert_eq!(tree.path(second).unwrap(), "/machine/unattached/device[1]");
    for path in
        ["/machine/unattached/device[1]", "//machine/unattached//device[1]/", "device[1]", "unattached/device[1]"]
    {
        assert_eq!(tree.resolve(path), Ok(second), "{path}");
    }
    assert_eq!(tree.path(tree.root()).unwrap(), "/");
    assert_eq!(tree.resolve("/"), Ok(tree.root()));
    tree.remove(first).unwrap();
    let reused = tree.add_child(unattached, "device[*]", "e1000").unwrap();
    assert_eq!(tree.name(reused), Some("device[0]"));
    assert!(!tree.exists(first) && reused != first);
}

#[test]
fn partial_path_that_fits_several_objects_is_ambiguous() {
    let mut tree = tree();
    let objects = tree.resolve("/objects").unwrap();
    let peripheral = tree.resolve("peripheral").unwrap();
    tree.add_child(objects, "x", "rng-random").unwrap();
    let nic = tree.add_child(peripheral, "x", "e1000").unwrap();
    assert_eq!(text(tree.resolve("x")), "Path 'x' is ambiguous");
    assert_eq!(text(tree.resolve("")), "Path '' is ambiguous");
    assert_eq!(tree.resolve_type("x", "device"), Ok(nic));
    assert_eq!(text(tree.resolve("/nope")), "Device '/nope' not found");
    assert_eq!(text(tree.resolve("/x")), "Device '/x' not found");
}

#[test]
fn listing_has_names_and_types() {
    let mut tree = tree();
    let machine = tree.resolve("/machine").unwrap();
    tree.add_link(machine, "pit", "isa-pit", None).unwrap();
    tree.add_property(
        machine,
        "vmport",
        Property::variable("auto").kind(ValueKind::Enum(&["on", "off", "auto"])).type_name("OnOffAuto"),
    )
    .unwrap();
    let list = tree.list(machine).unwrap();
    let rows: Vec<_> = list.iter().map(|info| (info.name.as_str(), info.type_name.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("type", "string"),
            ("usb", "bool"),
            ("unattached", "child<container>"),
            ("peripheral", "child<container>"),
            ("pit", "link<isa-pit>"),
            ("vmport", "OnOffAuto"),
        ]
    );
}

#[test]
fn properties_are_read_and_written() {
    let mut tree = tree();
    let machine = tree.resolve("/machine").unwrap();
    assert_eq!(tree.get(machine, "type"), Ok("pc-machine".into()));
    assert_eq!(tree.get(machine, "peripheral"), Ok("/machine/peripheral".into()));
    tree.set(machine, "usb", false.into()).unwrap();
    assert_eq!(tree.get(machine, "usb"), Ok(false.into()));

    let seen = Arc::new(Mutex::new(vec![]));
    let (reader, writer) = (seen.clone(), seen);
    let property = Property::new(ValueKind::Int32).getter(move || (reader.lock().unwrap().len() as u64).into()).setter(
        move |value| {
            if value == PropertyValue::Int(13) {
                return Err(ValueError::Other("not that one".to_string()));
            }
            writer.lock().unwrap().push(value);
            Ok(())
        },
    );
    tree.add_property(machine, "counter", property).unwrap();
    tree.set(machine, "counter", PropertyValue::Uint(5)).unwrap();
    assert_eq!(tree.get(machine, "counter"), Ok(PropertyValue::Uint(1)));
    assert_eq!(text(tree.set(machine, "counter", PropertyValue::Int(13))), "not that one");
}

#[test]
fn refusals_have_qemus_texts() {
    let mut tree = tree();
    let machine = tree.resolve("/machine").unwrap();
    let add = |tree: &mut ObjectTree, name: &str, property| tree.add_property(machine, name, property).unwrap();
    add(&mut tree, "i", Property::variable(1i64).kind(ValueKind::Int32));
    add(&mut tree, "u", Property::variable(1u64).kind(ValueKind::Uint32));
    add(&mut tree, "size", Property::variable(1u64).kind(ValueKind::Size));
    add(&mut tree, "s", Property::variable("x"));
    add(&mut tree, "e", Property::variable("on").kind(ValueKind::Enum(&["on", "off"])));
    add(&mut tree, "ro", Property::fixed(1u64));
    add(&mut tree, "wo", Property::new(ValueKind::Bool).setter(|_| Ok(())));
    let mut set = |name: &str, value: PropertyValue| text(tree.set(machine, name, value));
    assert_eq!(set("usb", 1i64.into()), "Invalid parameter type for 'usb', expected: boolean");
    assert_eq!(set("i", "a".into()), "Invalid parameter type for 'i', expected: integer");
    assert_eq!(set("i", 1e30.into()), "Invalid parameter type for 'i', expected: integer");
    assert_eq!(set("i", 5_000_000_000i64.into()), "Parameter 'i' expects int32_t");
    assert_eq!(set("u", (-1i64).into()), "Parameter 'u' expects uint32_t");
    assert_eq!(set("size", "x".into()), "Parameter 'size' expects uint64");
    assert_eq!(set("s", 3i64.into()), "Invalid parameter type for 's', expected: string");
    assert_eq!(set("e", "sometimes".into()), "Parameter 'e' does not accept value 'sometimes'");
    assert_eq!(set("e", 1i64.into()), "Invalid parameter type for 'e', expected: string");
    assert_eq!(set("ro", 1u64.into()), "Property 'pc-machine.ro' is not writable");
    assert_eq!(set("type", "x".into()), "Property 'pc-machine.type' is not writable");
    assert_eq!(set("peripheral", "/machine".into()), "Property 'pc-machine.peripheral' is not writable");
    assert_eq!(set("nope", 1i64.into()), "Property 'pc-machine.nope' not found");
    assert_eq!(text(tree.get(machine, "nope")), "Property 'pc-machine.nope' not found");
    assert_eq!(text(tree.get(machine, "wo")), "Property 'pc-machine.wo' is not readable");
    tree.set(machine, "size", (-5i64).into()).unwrap();
    assert_eq!(tree.get(machine, "size"), Ok(PropertyValue::Uint(18_446_744_073_709_551_611)));
}

#[test]
fn names_are_unique_in_an_object() {
    let mut tree = tree();
    let objects = tree.resolve("/objects").unwrap();
    tree.add_child(objects, "rng1", "rng-random").unwrap();
    assert_eq!(
        text(tree.add_child(objects, "rng1", "rng-random")),
        "attempt to add duplicate property 'rng1' to object (type 'container')"
    );
    assert!(matches!(tree.add_property(objects, "type", Property::fixed(1u64)), Err(ObjectError::Duplicate { .. })));
    assert!(matches!(tree.add_child(objects, "a/b", "rng-random"), Err(ObjectError::BadName(_))));
    assert_eq!(text(tree.add_child(objects, "d", "device")), "object type 'device' is abstract");
    assert_eq!(text(tree.add_child(objects, "d", "bogus")), "invalid object type: bogus");
}

#[test]
fn configuration_cannot_be_set_once_the_device_is_realized() {
    let mut tree = tree();
    let peripheral = tree.resolve("peripheral").unwrap();
    let nic = tree.add_child(peripheral, "e0", "e1000").unwrap();
    tree.add_property(nic, "mac", Property::variable("52:54:00:12:34:56").configuration()).unwrap();
    tree.set(nic, "mac", "52:54:00:00:00:01".into()).unwrap();
    tree.set_realized(nic, true, Some("e0")).unwrap();
    assert_eq!(
        text(tree.set(nic, "mac", "x".into())),
        "Attempt to set property 'mac' on device 'e0' (type 'e1000') after it was realized"
    );
    tree.set_realized(nic, true, None).unwrap();
    assert_eq!(
        text(tree.set(nic, "mac", "x".into())),
        "Attempt to set property 'mac' on anonymous device (type 'e1000') after it was realized"
    );
}

#[test]
fn links_are_followed_checked_and_cleared() {
    let mut tree = tree();
    let (objects, peripheral) = (tree.resolve("/objects").unwrap(), tree.resolve("peripheral").unwrap());
    let rng = tree.add_child(objects, "rng0", "rng-random").unwrap();
    let device = tree.add_child(peripheral, "r0", "e1000").unwrap();
    tree.add_writable_link(device, "rng", "rng-random").unwrap();
    assert_eq!(tree.get(device, "rng"), Ok("".into()));
    assert_eq!(text(tree.resolve("/machine/peripheral/r0/rng")), "Device '/machine/peripheral/r0/rng' not found");
    let mut set = |value: PropertyValue| tree.set(device, "rng", value);
    assert_eq!(text(set(5i64.into())), "Invalid parameter type for 'rng', expected: string");
    assert_eq!(text(set("/nope".into())), "Device '/nope' not found");
    assert_eq!(text(set("/machine".into())), "Invalid parameter type for 'rng', expected: rng-random");
    set("rng0".into()).unwrap();
    assert_eq!(tree.get(device, "rng"), Ok("/objects/rng0".into()));
    assert_eq!(tree.resolve("/machine/peripheral/r0/rng"), Ok(rng));
    tree.remove(rng).unwrap();
    assert_eq!(tree.get(device, "rng"), Ok("".into()));
}

#[test]
fn removal_takes_everything_below_along() {
    let mut tree = tree();
    let machine = tree.resolve("/machine").unwrap();
    let peripheral = tree.resolve("peripheral").unwrap();
    tree.remove(machine).unwrap();
    assert!(!tree.exists(peripheral));
    assert_eq!(tree.children(tree.root()).map(|(name, _)| name).collect::<Vec<_>>(), ["objects"]);
    assert_eq!(tree.remove(machine), Err(ObjectError::Gone));
    assert_eq!(tree.remove(tree.root()), Err(ObjectError::Gone));
    assert_eq!(tree.list(peripheral), Err(ObjectError::Gone));
}

#[test]
fn types_know_their_ancestry() {
    let tree = tree();
    let types = tree.types();
    assert!(types.is_a("e1000", "device") && types.is_a("e1000", "object") && types.is_a("e1000", "e1000"));
    assert!(types.is_a("pc-machine", "hotplug-handler") && types.is_a("pc-machine", "interface"));
    assert!(!types.is_a("device", "e1000") && !types.is_a("nope", "object"));
    let names = |implements, all| types.list(implements, all).map(|info| info.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names(Some("device"), false), ["e1000"]);
    assert_eq!(names(Some("device"), true), ["device", "e1000"]);
    assert!(names(Some("nope"), true).is_empty());
    assert_eq!(names(None, false).len(), 5);
    let properties: Vec<_> = types.properties("e1000").unwrap().into_iter().map(|p| p.name.as_str()).collect();
    assert_eq!(properties, ["realized", "mac"]);
    assert_eq!(text(types.properties("nope")), "Class 'nope' not found");
}

#[test]
fn type_conflicts_are_refused() {
    let mut tree = tree();
    for info in [TypeInfo::new("e1000", "device"), TypeInfo::new("x", "nope"), TypeInfo::new("y", "y")] {
        assert!(matches!(tree.types_mut().register(info), Err(ObjectError::TypeConflict(_))));
    }
}
