//! The command reference, in Markdown.

use super::builder::{MemberShape, ObjectShape, SchemaBuilder, Shape, TypeRef};
use super::{Declaration, DeclarationKind, Feature};
use std::fmt::Write as _;

/// The reference of the given commands and events: they come first, each with its arguments and
/// result, then the types that they use.
#[must_use]
pub fn markdown(declarations: &[Declaration]) -> String {
    let mut builder = SchemaBuilder::new();
    let mut text = String::new();
    for (title, commands) in [("Commands", true), ("Events", false)] {
        _ = writeln!(text, "## {title}\n");
        for declaration in declarations.iter().filter(|one| one.is_command() == commands) {
            message(&mut text, &mut builder, declaration);
        }
    }
    text.push_str("## Types\n\n");
    let mut types: Vec<TypeRef> = (0..builder.types.len()).map(TypeRef::Defined).collect();
    types.sort_by_key(|ty| builder.display_name(ty));
    for ty in &types {
        definition(&mut text, &builder, ty);
    }
    text
}

// Writing to a String cannot fail: the results of write! are dropped.

fn message(text: &mut String, builder: &mut SchemaBuilder, declaration: &Declaration) {
    _ = writeln!(text, "### `{}`\n\n{}\n", declaration.name, declaration.doc);
    let mut notes: Vec<&str> = Vec::new();
    if declaration.legacy {
        notes.push("Of older versions of QEMU.");
    }
    if let DeclarationKind::Command { allow_oob, allow_preconfig, .. } = declaration.kind {
        if allow_oob {
            notes.push("May be used out of band.");
        }
        if allow_preconfig {
            notes.push("May be used before the machine is built.");
        }
    }
    if declaration.features.contains(&Feature::Deprecated) {
        notes.push("Deprecated.");
    }
    if declaration.features.contains(&Feature::Unstable) {
        notes.push("May change without notice.");
    }
    if !notes.is_empty() {
        _ = writeln!(text, "{}\n", notes.join(" "));
    }
    let arguments = (declaration.arguments)(builder);
    if let Some(Shape::Object(shape)) = builder.shape(&arguments) {
        members(text, builder, shape);
    }
    if let DeclarationKind::Command { returns, .. } = declaration.kind {
        let returns = returns(builder);
        if returns != TypeRef::Empty {
            _ = writeln!(text, "Returns: `{}`\n", builder.display_name(&returns));
        }
    }
}

fn definition(text: &mut String, builder: &SchemaBuilder, ty: &TypeRef) {
    // Arguments and implied types are described where they are used.
    let doc = builder.doc(ty);
    if doc.is_empty() {
        return;
    }
    _ = writeln!(text, "### `{}`\n\n{doc}\n", builder.display_name(ty));
    match builder.shape(ty) {
        Some(Shape::Enum(shape)) => {
            for value in &shape.values {
                let colon = if value.doc.is_empty() { "" } else { ": " };
                _ = writeln!(text, "- `{}`{colon}{}", value.name, one_line(value.doc));
            }
            text.push('\n');
        }
        Some(Shape::Object(shape)) => members(text, builder, shape),
        Some(Shape::Alternate(branches)) => {
            let names = branches.iter().map(|branch| format!("`{}`", builder.display_name(branch)));
            _ = writeln!(text, "One of {}.\n", names.collect::<Vec<_>>().join(", "));
        }
        None => {}
    }
}

fn members(text: &mut String, builder: &SchemaBuilder, shape: &ObjectShape) {
    for member in &shape.members {
        _ = writeln!(text, "{}", member_line(builder, member));
    }
    if !shape.members.is_empty() {
        text.push('\n');
    }
    let tag = shape.tag.unwrap_or_default();
    for variant in shape.variants.iter().filter(|variant| variant.ty != TypeRef::Empty) {
        let (case, branch) = (variant.case, builder.display_name(&variant.ty));
        match builder.shape(&variant.ty) {
            // A branch without a name of its own: its members stand here.
            Some(Shape::Object(shape)) if builder.doc(&variant.ty).is_empty() => {
                _ = writeln!(text, "With `{tag}` = `{case}`:\n");
                members(text, builder, shape);
            }
            _ => _ = writeln!(text, "With `{tag}` = `{case}`: the members of `{branch}`.\n"),
        }
    }
}

fn member_line(builder: &SchemaBuilder, member: &MemberShape) -> String {
    let mut notes = vec![builder.display_name(&member.ty)];
    if member.optional {
        notes.push("optional".to_owned());
    }
    if member.legacy {
        notes.push("of older versions".to_owned());
    }
    notes.extend(member.aliases.iter().map(|alias| format!("also `{alias}`")));
    notes.extend(member.features.iter().map(|feature| feature.name().to_owned()));
    let colon = if member.doc.is_empty() { "" } else { ": " };
    format!("- `{}` ({}){colon}{}", member.name, notes.join(", "), one_line(member.doc))
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
