//! The attributes of the derives.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Type};

/// `#[qapi(…)]` on a type, a field or a variant. Which of them make sense where is checked by use.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) name: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) default: Option<Expr>,
    pub(crate) flatten: bool,
    pub(crate) rest: bool,
    pub(crate) legacy: bool,
    pub(crate) features: Vec<TokenStream>,
    pub(crate) tag: Option<String>,
    pub(crate) tag_type: Option<Type>,
    pub(crate) content: Option<String>,
    pub(crate) alternate: bool,
    pub(crate) other: bool,
    pub(crate) case: Case,
    pub(crate) doc: String,
}

/// How a Rust name becomes one on the wire.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    #[default]
    Kebab,
    Snake,
    Upper,
}

impl Case {
    /// The wire name of a field or variant.
    pub(crate) fn apply(self, ident: &Ident) -> String {
        let text = ident.to_string();
        let text = text.trim_start_matches("r#");
        let mut words = String::new();
        for (at, character) in text.chars().enumerate() {
            if character.is_uppercase() && at > 0 && !words.ends_with('_') {
                words.push('_');
            }
            words.extend(character.to_lowercase());
        }
        match self {
            Self::Kebab => words.replace('_', "-"),
            Self::Snake => words,
            Self::Upper => words.to_uppercase(),
        }
    }
}

impl Attributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut parsed = Self { doc: doc(attributes), ..Self::default() };
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("qapi")) {
            attribute.parse_nested_meta(|meta| {
                let text = |meta: &syn::meta::ParseNestedMeta<'_>| -> syn::Result<String> {
                    Ok(meta.value()?.parse::<LitStr>()?.value())
                };
                let Some(key) = meta.path.get_ident().map(ToString::to_string) else {
                    return Err(meta.error("unknown attribute"));
                };
                match key.as_str() {
                    "name" => parsed.name = Some(text(&meta)?),
                    "alias" => parsed.aliases.push(text(&meta)?),
                    "default" => parsed.default = Some(meta.value()?.parse()?),
                    "flatten" => parsed.flatten = true,
                    "rest" => parsed.rest = true,
                    "legacy" => parsed.legacy = true,
                    "deprecated" => parsed.features.push(quote!(::qapi::schema::Feature::Deprecated)),
                    "unstable" => parsed.features.push(quote!(::qapi::schema::Feature::Unstable)),
                    "feature" => {
                        let name = text(&meta)?;
                        parsed.features.push(quote!(::qapi::schema::Feature::Named(#name)));
                    }
                    "tag" => parsed.tag = Some(text(&meta)?),
                    "tag_type" => parsed.tag_type = Some(meta.value()?.parse()?),
                    "content" => parsed.content = Some(text(&meta)?),
                    "alternate" => parsed.alternate = true,
                    "other" => parsed.other = true,
                    "kebab" => parsed.case = Case::Kebab,
                    "snake" => parsed.case = Case::Snake,
                    "upper" => parsed.case = Case::Upper,
                    _ => return Err(meta.error("unknown attribute")),
                }
                Ok(())
            })?;
        }
        Ok(parsed)
    }

    /// The wire name of what these attributes stand on.
    pub(crate) fn wire_name(&self, ident: &Ident, case: Case) -> String {
        self.name.clone().unwrap_or_else(|| case.apply(ident))
    }

    pub(crate) fn feature_list(&self) -> TokenStream {
        let features = &self.features;
        quote!(&[#(#features),*])
    }
}

/// The doc comments, one line each, without the leading space.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n").trim().to_owned()
}
