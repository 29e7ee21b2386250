//! Commands and events.

use crate::attributes::doc;
use crate::structs;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, LitInt, LitStr, Type};

#[derive(Default)]
struct Flags {
    name: Option<String>,
    returns: Option<Type>,
    oob: bool,
    preconfig: bool,
    legacy: bool,
    wrapper: Option<String>,
    merged: Option<String>,
    rate_limit_ms: Option<u64>,
    rate_key: Option<String>,
    features: Vec<TokenStream>,
}

impl Flags {
    /// Statements that undo the older forms of the arguments.
    fn legacy_forms(&self) -> Vec<TokenStream> {
        let unwrap = self.wrapper.iter().map(|name| quote!(input.unwrap_legacy(#name);));
        let merge = self.merged.iter().map(|name| quote!(input.merge_legacy(#name);));
        unwrap.chain(merge).collect()
    }
}

fn flags(input: &DeriveInput, attribute_name: &str) -> syn::Result<Flags> {
    let mut flags = Flags::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident(attribute_name)) {
        attribute.parse_nested_meta(|meta| {
            let Some(key) = meta.path.get_ident().map(ToString::to_string) else {
                return Err(meta.error("unknown attribute"));
            };
            match (attribute_name, key.as_str()) {
                (_, "name") => flags.name = Some(meta.value()?.parse::<LitStr>()?.value()),
                (_, "deprecated") => flags.features.push(quote!(::qapi::schema::Feature::Deprecated)),
                (_, "unstable") => flags.features.push(quote!(::qapi::schema::Feature::Unstable)),
                ("command", "returns") => flags.returns = Some(meta.value()?.parse()?),
                ("command", "oob") => flags.oob = true,
                ("command", "preconfig") => flags.preconfig = true,
                ("command", "legacy") => flags.legacy = true,
                ("command", "wrapper") => {
                    flags.wrapper = Some(meta.value()?.parse::<LitStr>()?.value());
                }
                ("command", "merged") => {
                    flags.merged = Some(meta.value()?.parse::<LitStr>()?.value());
                }
                ("event", "rate_limit_ms") => {
                    flags.rate_limit_ms = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
                }
                ("event", "rate_key") => {
                    flags.rate_key = Some(meta.value()?.parse::<LitStr>()?.value());
                }
                _ => return Err(meta.error("unknown attribute")),
            }
            Ok(())
        })?;
    }
    Ok(flags)
}

fn fields(input: &DeriveInput) -> syn::Result<&Fields> {
    match &input.data {
        Data::Struct(data) => Ok(&data.fields),
        _ => Err(syn::Error::new_spanned(&input.ident, "only a struct can be a message")),
    }
}

fn name_of(input: &DeriveInput, flags: &Flags) -> syn::Result<String> {
    flags.name.clone().ok_or_else(|| syn::Error::new_spanned(&input.ident, "the name is missing"))
}

pub(crate) fn command(input: &DeriveInput) -> syn::Result<TokenStream> {
    let flags = flags(input, "command")?;
    let members = structs::implement_members(input, fields(input)?, &flags.legacy_forms())?;
    let ident = &input.ident;
    let name = name_of(input, &flags)?;
    let doc = doc(&input.attrs);
    let Flags { oob, preconfig, legacy, features, .. } = &flags;
    let returns = flags.returns.as_ref().map_or_else(|| quote!(()), |ty| quote!(#ty));
    Ok(quote! {
        #members

        impl ::qapi::Command for #ident {
            const NAME: &'static str = #name;
            type Return = #returns;
            const ALLOW_OOB: bool = #oob;
            const ALLOW_PRECONFIG: bool = #preconfig;
            const LEGACY: bool = #legacy;
            const FEATURES: &'static [::qapi::schema::Feature] = &[#(#features),*];
            const DOC: &'static str = #doc;
        }
    })
}

pub(crate) fn event(input: &DeriveInput) -> syn::Result<TokenStream> {
    let flags = flags(input, "event")?;
    let fields = fields(input)?;
    let members = structs::implement_members(input, fields, &[])?;
    let ident = &input.ident;
    let name = name_of(input, &flags)?;
    let doc = doc(&input.attrs);
    let features = &flags.features;
    let has_data = !fields.is_empty();
    let limit = match flags.rate_limit_ms {
        Some(limit) => {
            quote!(::core::option::Option::Some(::core::time::Duration::from_millis(#limit)))
        }
        None => quote!(::core::option::Option::None),
    };
    let key = match &flags.rate_key {
        Some(key) => quote!(::core::option::Option::Some(#key)),
        None => quote!(::core::option::Option::None),
    };
    Ok(quote! {
        #members

        impl ::qapi::Event for #ident {
            const NAME: &'static str = #name;
            const RATE_LIMIT: ::core::option::Option<::core::time::Duration> = #limit;
            const RATE_KEY: ::core::option::Option<&'static str> = #key;
            const FEATURES: &'static [::qapi::schema::Feature] = &[#(#features),*];
            const DOC: &'static str = #doc;
            const HAS_DATA: bool = #has_data;
        }
    })
}
