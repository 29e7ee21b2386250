//! Walking through the types of a server's schema.
//!
//! The schema comes from the server and may be untrue: it can lack types, or lead back to itself.
//! Every walk here follows what a person has typed, so it ends with that.

use qapi::schema::{JSONType, Model, SchemaInfoDetail, SchemaInfoObject, SchemaInfoObjectMember};

/// How one value is to be written, alternates spread out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<'m> {
    /// A string.
    Text,
    /// An integer.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Flag,
    /// `null`.
    Null,
    /// One of the values of an enumeration.
    Enum(&'m [qapi::schema::SchemaInfoEnumMember]),
    /// An array; its elements' type.
    Array(&'m str),
    /// An object.
    Object(&'m SchemaInfoObject),
    /// Anything.
    Any,
}

/// The type of a command's arguments.
pub(crate) fn arguments<'m>(model: &'m Model, command: &str) -> Option<&'m str> {
    match &model.get(command)?.detail {
        SchemaInfoDetail::Command(command) => Some(&command.arg_type),
        _ => None,
    }
}

/// The forms that a type allows; none if the schema does not tell.
pub(crate) fn forms<'m>(model: &'m Model, ty: &str) -> Vec<Form<'m>> {
    match model.get(ty).map(|entry| &entry.detail) {
        Some(SchemaInfoDetail::Alternate(alternate)) => {
            alternate.members.iter().filter_map(|member| form(model, &member.r#type)).collect()
        }
        _ => form(model, ty).into_iter().collect(),
    }
}

fn form<'m>(model: &'m Model, ty: &str) -> Option<Form<'m>> {
    match &model.get(ty)?.detail {
        SchemaInfoDetail::Builtin(builtin) => Some(match builtin.json_type {
            JSONType::String => Form::Text,
            JSONType::Int => Form::Integer,
            JSONType::Number => Form::Number,
            JSONType::Boolean => Form::Flag,
            JSONType::Null => Form::Null,
            JSONType::Object | JSONType::Array | JSONType::Value => Form::Any,
        }),
        SchemaInfoDetail::Enum(shape) => Some(Form::Enum(&shape.members)),
        SchemaInfoDetail::Array(array) => Some(Form::Array(&array.element_type)),
        SchemaInfoDetail::Object(object) => Some(Form::Object(object)),
        _ => None,
    }
}

/// The members of an object: the common ones, and those of the branch that `tag` chooses. While no
/// branch is chosen, those of all branches.
pub(crate) fn members<'m>(
    model: &'m Model,
    object: &'m SchemaInfoObject,
    tag: impl Fn(&str) -> Option<String>,
) -> Vec<&'m SchemaInfoObjectMember> {
    let chosen = object.tag.as_deref().and_then(tag);
    let mut members: Vec<_> = object.members.iter().collect();
    for variant in object.variants.iter().flatten() {
        if chosen.as_ref().is_some_and(|chosen| *chosen != variant.case) {
            continue;
        }
        let Some(Form::Object(branch)) = form(model, &variant.r#type) else {
            continue;
        };
        for member in &branch.members {
            if !members.iter().any(|known| known.name == member.name) {
                members.push(member);
            }
        }
    }
    members
}

/// The type at `path`, such as `actions.0.data`, below the type `root`. `value` tells what has been
/// typed for a path, which may choose a branch.
pub(crate) fn resolve<'m>(
    model: &'m Model,
    root: &'m str,
    path: &[&str],
    value: &dyn Fn(&str) -> Option<String>,
) -> Option<&'m str> {
    let mut ty = root;
    for (at, segment) in path.iter().enumerate() {
        let before = path.get(..at).unwrap_or_default();
        let found = forms(model, ty).into_iter().find_map(|form| match form {
            Form::Array(element) if is_index(segment) => Some(element),
            Form::Object(object) => {
                let tag = |name: &str| value(&[before, &[name]].concat().join("."));
                let member = members(model, object, tag).into_iter().find(|member| member.name == *segment);
                member.map(|member| member.r#type.as_str())
            }
            _ => None,
        });
        ty = found?;
    }
    Some(ty)
}

/// Whether a part of a key is a place in an array.
pub(crate) fn is_index(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit())
}
