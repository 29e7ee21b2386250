//! `#[state(…)]` on structs and fields.

use syn::spanned::Spanned;
use syn::{Attribute, Expr, LitInt, LitStr};

/// Attributes of a struct.
pub struct StructAttributes {
    pub name: String,
    pub version: u32,
    pub minimum: u32,
}

/// Attributes of a field.
#[derive(Default)]
pub struct FieldAttributes {
    pub skip: bool,
    pub since: Option<u32>,
    pub name: Option<String>,
    pub maximum: Option<Expr>,
    pub maximum_length: Option<Expr>,
}

impl StructAttributes {
    pub fn parse(attributes: &[Attribute], span: proc_macro2::Span) -> syn::Result<Self> {
        let (mut name, mut version, mut minimum) = (None, None, None);
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("state")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else if meta.path.is_ident("version") {
                    version = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
                } else if meta.path.is_ident("minimum") {
                    minimum = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
                } else {
                    return Err(meta.error("expected `name`, `version` or `minimum`"));
                }
                Ok(())
            })?;
        }
        let missing = || syn::Error::new(span, "saved state needs #[state(name = \"…\", version = …)]");
        let version = version.ok_or_else(missing)?;
        let minimum = minimum.unwrap_or(version);
        if minimum > version {
            return Err(syn::Error::new(span, "`minimum` is above `version`"));
        }
        let name: String = name.ok_or_else(missing)?;
        if name.is_empty() || name.len() > 127 {
            return Err(syn::Error::new(span, "the name needs 1 to 127 bytes"));
        }
        Ok(StructAttributes { name, version, minimum })
    }
}

impl FieldAttributes {
    pub fn parse(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut parsed = FieldAttributes::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("state")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    let reason = meta.value()?.parse::<LitStr>()?;
                    if reason.value().trim().is_empty() {
                        return Err(syn::Error::new_spanned(reason, "say why the field is not saved"));
                    }
                    parsed.skip = true;
                } else if meta.path.is_ident("since") {
                    parsed.since = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
                } else if meta.path.is_ident("name") {
                    parsed.name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else if meta.path.is_ident("max") {
                    parsed.maximum = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("max_len") {
                    parsed.maximum_length = Some(meta.value()?.parse()?);
                } else {
                    return Err(meta.error("expected `skip`, `since`, `name`, `max` or `max_len`"));
                }
                Ok(())
            })?;
            let others = parsed.since.is_some() || parsed.name.is_some() || parsed.maximum.is_some();
            if parsed.skip && (others || parsed.maximum_length.is_some()) {
                return Err(syn::Error::new(attribute.span(), "a field that is skipped has no other attributes"));
            }
        }
        Ok(parsed)
    }
}
