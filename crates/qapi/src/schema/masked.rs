//! `query-qmp-schema`: the graph of types as a list of entries with masked names.
//!
//! Commands and events come first, then the types in the order of their first use. Only commands,
//! events and built-in types have real names; others are numbered in that same order, and an array
//! is its element's name in brackets (`qmp.md` section 12).

use super::builder::{Builtin, ObjectShape, SchemaBuilder, Shape, TypeRef};
use super::info::{
    JSONType, SchemaInfo, SchemaInfoAlternate, SchemaInfoAlternateMember, SchemaInfoArray, SchemaInfoBuiltin,
    SchemaInfoCommand, SchemaInfoDetail, SchemaInfoEnum, SchemaInfoEnumMember, SchemaInfoEvent, SchemaInfoObject,
    SchemaInfoObjectMember, SchemaInfoObjectVariant,
};
use super::{Declaration, DeclarationKind, Feature};
use crate::Any;
use crate::json::Value;
use std::collections::{HashMap, HashSet};

/// The reply of `query-qmp-schema` for a program that has these commands and events.
#[must_use]
pub fn describe(declarations: &[Declaration]) -> Vec<SchemaInfo> {
    let mut builder = SchemaBuilder::new();
    let mut mask = Mask::default();
    let mut entries = Vec::new();
    for declaration in declarations {
        let arg_type = (declaration.arguments)(&mut builder);
        let arg_type = mask.name(&arg_type);
        let detail = match declaration.kind {
            DeclarationKind::Command { returns, allow_oob, .. } => {
                let ret_type = returns(&mut builder);
                let ret_type = mask.name(&ret_type);
                let allow_oob = allow_oob.then_some(true);
                SchemaInfoDetail::Command(SchemaInfoCommand { arg_type, ret_type, allow_oob })
            }
            DeclarationKind::Event { .. } => SchemaInfoDetail::Event(SchemaInfoEvent { arg_type }),
        };
        let name = declaration.name.to_owned();
        entries.push(SchemaInfo { name, detail, features: features(declaration.features) });
    }
    // Describing a type may bring more types into use.
    let mut at = 0;
    while let Some(ty) = mask.used.get(at).cloned() {
        let name = mask.name(&ty);
        let detail = detail(&ty, &builder, &mut mask);
        entries.push(SchemaInfo { name, detail, features: type_features(&ty, &builder) });
        at += 1;
    }
    entries
}

#[derive(Default)]
struct Mask {
    used: Vec<TypeRef>,
    seen: HashSet<TypeRef>,
    numbers: HashMap<TypeRef, usize>,
}

impl Mask {
    /// Notes a use of a type and gives its masked name.
    fn name(&mut self, ty: &TypeRef) -> String {
        if self.seen.insert(ty.clone()) {
            self.used.push(ty.clone());
        }
        match ty {
            TypeRef::Builtin(builtin) => builtin.name().to_owned(),
            TypeRef::Array(element) => format!("[{}]", self.name(element)),
            TypeRef::Empty | TypeRef::Defined(_) => {
                let next = self.numbers.len();
                self.numbers.entry(ty.clone()).or_insert(next).to_string()
            }
        }
    }
}

fn features(features: &[Feature]) -> Option<Vec<String>> {
    (!features.is_empty()).then(|| features.iter().map(|feature| feature.name().to_owned()).collect())
}

fn type_features(ty: &TypeRef, builder: &SchemaBuilder) -> Option<Vec<String>> {
    match builder.shape(ty) {
        Some(Shape::Object(shape)) => features(shape.features),
        _ => None,
    }
}

fn detail(ty: &TypeRef, builder: &SchemaBuilder, mask: &mut Mask) -> SchemaInfoDetail {
    match ty {
        TypeRef::Builtin(builtin) => {
            let json_type = match builtin {
                Builtin::Any => JSONType::Value,
                Builtin::Bool => JSONType::Boolean,
                Builtin::Int => JSONType::Int,
                Builtin::Null => JSONType::Null,
                Builtin::Number => JSONType::Number,
                Builtin::Str => JSONType::String,
            };
            return SchemaInfoDetail::Builtin(SchemaInfoBuiltin { json_type });
        }
        TypeRef::Array(element) => {
            let element_type = mask.name(element);
            return SchemaInfoDetail::Array(SchemaInfoArray { element_type });
        }
        TypeRef::Empty | TypeRef::Defined(_) => {}
    }
    match builder.shape(ty) {
        Some(Shape::Enum(shape)) => {
            let member = |value: &super::EnumValue| SchemaInfoEnumMember {
                name: value.name.to_owned(),
                features: features(value.features),
            };
            SchemaInfoDetail::Enum(SchemaInfoEnum {
                members: shape.values.iter().map(member).collect(),
                values: shape.values.iter().map(|value| value.name.to_owned()).collect(),
            })
        }
        Some(Shape::Object(shape)) => SchemaInfoDetail::Object(object(shape, mask)),
        Some(Shape::Alternate(branches)) => {
            let member = |ty| SchemaInfoAlternateMember { r#type: mask.name(ty) };
            let members = branches.iter().map(member).collect();
            SchemaInfoDetail::Alternate(SchemaInfoAlternate { members })
        }
        None => SchemaInfoDetail::Object(object(&ObjectShape::default(), mask)),
    }
}

fn object(shape: &ObjectShape, mask: &mut Mask) -> SchemaInfoObject {
    let mut members = Vec::new();
    for member in shape.members.iter().filter(|member| !member.legacy) {
        members.push(SchemaInfoObjectMember {
            name: member.name.to_owned(),
            r#type: mask.name(&member.ty),
            default: member.optional.then_some(Any(Value::Null)),
            features: features(member.features),
        });
    }
    let mut variants = Vec::new();
    for variant in &shape.variants {
        variants.push(SchemaInfoObjectVariant { case: variant.case.to_owned(), r#type: mask.name(&variant.ty) });
    }
    let tag = shape.tag.map(str::to_owned);
    let variants = tag.is_some().then_some(variants);
    SchemaInfoObject { members, tag, variants }
}
