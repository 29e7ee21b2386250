//! Enums without fields: saved as the integer of their representation.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{DataEnum, DeriveInput, Fields};

pub fn expand(input: &DeriveInput, data: &DataEnum) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let integer = representation(input)?;
    let mut variants = vec![];
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(variant, "an enum that is saved has no fields"));
        }
        variants.push(&variant.ident);
    }
    let (generics, arguments, clause) = input.generics.split_for_impl();
    let integer_of = quote! {
        match self { #(Self::#variants => Self::#variants as #integer,)* }
    };
    Ok(quote! {
        impl #generics ::state::Field for #name #arguments #clause {
            fn describe(&self, name: &str, fields: &mut ::std::vec::Vec<::state::FieldDescription>) {
                let value: #integer = #integer_of;
                ::state::Field::describe(&value, name, fields);
            }

            fn put(&self, writer: &mut ::state::Writer) {
                let value: #integer = #integer_of;
                ::state::Field::put(&value, writer);
            }

            fn take(&self, reader: &mut ::state::Reader<'_>) -> ::std::result::Result<Self, ::state::LoadError> {
                let value: #integer = ::state::Field::take(&0, reader)?;
                #(if value == Self::#variants as #integer {
                    return ::std::result::Result::Ok(Self::#variants);
                })*
                ::std::result::Result::Err(::state::LoadErrorKind::Value.into())
            }
        }
    })
}

/// The integer of `#[repr(…)]`.
fn representation(input: &DeriveInput) -> syn::Result<Ident> {
    let mut integer = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            let ident = meta.path.get_ident().cloned();
            integer = ident.filter(|ident| ["u8", "u16", "u32"].iter().any(|name| ident == name)).or(integer.take());
            Ok(())
        })?;
    }
    integer.ok_or_else(|| syn::Error::new_spanned(&input.ident, "an enum that is saved needs #[repr(u8)], u16 or u32"))
}
