//! What a processor says of itself: its place, its model, and the features that it has and that it could not get.

use std::collections::BTreeSet;

use object::{ObjectError, ObjectId, ObjectTree, Property, PropertyValue, ValueKind};
use x86::cpuid::{FeatureSet, FeatureWord, Source};
use x86::model::{CpuModel, PropertyValue as ModelValue};

use crate::machine::CpuSlot;

/// Adds the properties of a processor.
pub fn properties(
    tree: &mut ObjectTree,
    object: ObjectId,
    (model, slot): (&CpuModel, &CpuSlot),
    is_hotplugged: bool,
) -> Result<(), ObjectError> {
    for (name, value) in [("realized", true), ("hotpluggable", true), ("hotplugged", is_hotplugged)] {
        tree.add_property(object, name, Property::fixed(value))?;
    }
    tree.add_property(object, "apic-id", Property::fixed(u64::from(slot.apic_id)).type_name("uint32"))?;
    // QEMU says of a node that was not given that it is -1.
    let node = slot.node.map_or(-1, i64::from);
    let die = slot.die.unwrap_or(0);
    let place = [("socket-id", slot.socket), ("die-id", die), ("core-id", slot.core), ("thread-id", slot.thread)];
    let place = place.map(|(name, number)| (name, i64::from(number)));
    for (name, number) in place.into_iter().chain([("node-id", node)]) {
        tree.add_property(object, name, Property::fixed(number).type_name("int32"))?;
    }
    let mut names = BTreeSet::new();
    for (name, value) in model.full_properties() {
        // Some names stand for several features.
        if !names.insert(name) {
            continue;
        }
        let property = match value {
            ModelValue::Bool(value) => Property::fixed(value),
            ModelValue::Str(value) => Property::fixed(value).type_name("string"),
            ModelValue::Uint(value) => Property::fixed(value).type_name(match name {
                "family" | "model" | "stepping" | "tsc-frequency" => "int",
                "ucode-rev" => "uint64",
                _ => "uint32",
            }),
        };
        tree.add_property(object, name, property)?;
    }
    for (name, set) in [("feature-words", model.features()), ("filtered-features", model.unavailable())] {
        let words = PropertyValue::List(words(set));
        let property = Property::new(ValueKind::Any).getter(move || words.clone());
        tree.add_property(object, name, property.type_name("X86CPUFeatureWordInfo"))?;
    }
    let missing = model.unavailable().iter().map(|feature| PropertyValue::Str(feature.name().to_owned()));
    let missing = PropertyValue::List(missing.collect());
    let missing = Property::new(ValueKind::Any).getter(move || missing.clone());
    tree.add_property(object, "unavailable-features", missing.type_name("strList"))
}

/// The registers with features, the last one first, as QEMU lists them.
fn words(set: &FeatureSet) -> Vec<PropertyValue> {
    let word = |word: &FeatureWord| {
        let Source::Cpuid { leaf, subleaf, register } = word.source() else { return None };
        let mut members = vec![("cpuid-register".to_owned(), PropertyValue::Str(register.name().to_owned()))];
        members.extend(subleaf.map(|subleaf| ("cpuid-input-ecx".to_owned(), PropertyValue::from(subleaf))));
        members.push(("cpuid-input-eax".to_owned(), leaf.into()));
        members.push(("features".to_owned(), set.register(*word).into()));
        Some(PropertyValue::Struct(members))
    };
    FeatureWord::ALL.iter().rev().filter_map(word).collect()
}
