//! What a shell for people needs to know about commands: arguments, types, values, documentation.
//! It comes from this program's declarations or from another server's `query-qmp-schema` reply.

use super::builder::{SchemaBuilder, Shape, TypeRef};
use super::{Declaration, SchemaInfo, SchemaInfoDetail, SchemaInfoObject};
use crate::json::Value;
use crate::{Error, Path, QapiType};
use std::collections::BTreeMap;

/// An argument of a command, or a member of an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name on the wire.
    pub name: String,
    /// The type, for people.
    pub type_name: String,
    /// Whether it may be absent.
    pub optional: bool,
    /// The values of an enumeration (or of an array of them).
    pub values: Vec<String>,
    /// For members of a union's branch: the value of the tag that they belong to.
    pub case: Option<String>,
    /// Features such as `deprecated`.
    pub features: Vec<String>,
    /// The documentation; empty if it is not known.
    pub doc: String,
}

/// The arguments of a command (or the data of an event) that this program declares.
#[must_use]
pub fn arguments_of(declaration: &Declaration) -> Vec<Argument> {
    let mut builder = SchemaBuilder::new();
    let ty = (declaration.arguments)(&mut builder);
    let mut arguments = Vec::new();
    collect(&builder, &ty, None, &mut arguments);
    arguments
}

fn collect(builder: &SchemaBuilder, ty: &TypeRef, case: Option<&str>, arguments: &mut Vec<Argument>) {
    let Some(Shape::Object(shape)) = builder.shape(ty) else {
        return;
    };
    for member in shape.members.iter().filter(|member| !member.legacy) {
        arguments.push(Argument {
            name: member.name.to_owned(),
            type_name: builder.display_name(&member.ty),
            optional: member.optional,
            values: enum_values(builder, &member.ty),
            case: case.map(str::to_owned),
            features: member.features.iter().map(|feature| feature.name().to_owned()).collect(),
            doc: member.doc.to_owned(),
        });
    }
    for variant in &shape.variants {
        collect(builder, &variant.ty, Some(variant.case), arguments);
    }
}

fn enum_values(builder: &SchemaBuilder, ty: &TypeRef) -> Vec<String> {
    let element = match ty {
        TypeRef::Array(element) => element,
        _ => ty,
    };
    match builder.shape(element) {
        Some(Shape::Enum(shape)) => shape.values.iter().map(|value| value.name.to_owned()).collect(),
        _ => Vec::new(),
    }
}

/// A server's schema, as its `query-qmp-schema` reply tells it.
#[derive(Debug, Clone, Default)]
pub struct Model {
    entries: BTreeMap<String, SchemaInfo>,
}

impl Model {
    /// Reads the value of a `query-qmp-schema` reply.
    ///
    /// # Errors
    /// That it is no such reply.
    pub fn from_reply(reply: Value) -> Result<Self, Error> {
        let entries: Vec<SchemaInfo> = QapiType::from_value(reply, &Path::reply())?;
        Ok(Self { entries: entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect() })
    }

    /// The model of a program that has these commands and events.
    #[must_use]
    pub fn from_declarations(declarations: &[Declaration]) -> Self {
        let entries = super::describe(declarations);
        Self { entries: entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect() }
    }

    /// The entry of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SchemaInfo> {
        self.entries.get(name)
    }

    /// The names of all commands, sorted.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let command = |entry: &&SchemaInfo| matches!(entry.detail, SchemaInfoDetail::Command(_));
        self.entries.values().filter(command).map(|entry| entry.name.as_str())
    }

    /// The names of all events, sorted.
    pub fn events(&self) -> impl Iterator<Item = &str> {
        let event = |entry: &&SchemaInfo| matches!(entry.detail, SchemaInfoDetail::Event(_));
        self.entries.values().filter(event).map(|entry| entry.name.as_str())
    }

    /// The arguments of a command or the data of an event; `None` if there is no such.
    #[must_use]
    pub fn arguments(&self, name: &str) -> Option<Vec<Argument>> {
        let ty = match &self.get(name)?.detail {
            SchemaInfoDetail::Command(command) => &command.arg_type,
            SchemaInfoDetail::Event(event) => &event.arg_type,
            _ => return None,
        };
        let mut arguments = Vec::new();
        self.collect(ty, None, &mut arguments);
        Some(arguments)
    }

    fn object(&self, name: &str) -> Option<&SchemaInfoObject> {
        match &self.get(name)?.detail {
            SchemaInfoDetail::Object(object) => Some(object),
            _ => None,
        }
    }

    fn collect(&self, ty: &str, case: Option<&str>, arguments: &mut Vec<Argument>) {
        let Some(object) = self.object(ty) else {
            return;
        };
        for member in &object.members {
            arguments.push(Argument {
                name: member.name.clone(),
                type_name: self.type_name(&member.r#type),
                optional: member.default.is_some(),
                values: self.values(&member.r#type),
                case: case.map(str::to_owned),
                features: member.features.clone().unwrap_or_default(),
                doc: String::new(),
            });
        }
        // A branch never has branches of its own that lead back: only one level is followed.
        if case.is_none() {
            for variant in object.variants.iter().flatten() {
                self.collect(&variant.r#type, Some(&variant.case), arguments);
            }
        }
    }

    /// A type for people: built-in types by name, the others by their kind.
    #[must_use]
    pub fn type_name(&self, name: &str) -> String {
        match self.get(name).map(|entry| &entry.detail) {
            Some(SchemaInfoDetail::Builtin(_)) => name.to_owned(),
            Some(SchemaInfoDetail::Enum(_)) => "enum".to_owned(),
            Some(SchemaInfoDetail::Array(array)) if array.element_type != name => {
                // An element is named in the array's own name, so this ends.
                format!("[{}]", self.element_name(&array.element_type))
            }
            Some(SchemaInfoDetail::Alternate(alternate)) => {
                let names = alternate.members.iter().map(|member| self.element_name(&member.r#type));
                names.collect::<Vec<_>>().join("|")
            }
            _ => "object".to_owned(),
        }
    }

    /// As [`Model::type_name`], but not looking into arrays and alternates again, which an untrue
    /// reply could nest without end.
    fn element_name(&self, name: &str) -> &str {
        match self.get(name).map(|entry| &entry.detail) {
            Some(SchemaInfoDetail::Builtin(_)) => self.get(name).map_or("", |entry| entry.name.as_str()),
            Some(SchemaInfoDetail::Enum(_)) => "enum",
            Some(SchemaInfoDetail::Array(_)) => "array",
            Some(SchemaInfoDetail::Alternate(_)) => "alternate",
            _ => "object",
        }
    }

    fn values(&self, name: &str) -> Vec<String> {
        let detail = self.get(name).map(|entry| &entry.detail);
        let element = match detail {
            Some(SchemaInfoDetail::Array(array)) => self.get(&array.element_type).map(|entry| &entry.detail),
            other => other,
        };
        match element {
            Some(SchemaInfoDetail::Enum(shape)) => shape.members.iter().map(|member| member.name.clone()).collect(),
            _ => Vec::new(),
        }
    }
}
