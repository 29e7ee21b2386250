//! Structs: objects with members.

use crate::attributes::{Attributes, Case};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Fields, Ident, Type};

struct Member<'a> {
    ident: &'a Ident,
    ty: &'a Type,
    name: String,
    attributes: Attributes,
}

fn members<'a>(fields: &'a Fields, case: Case) -> syn::Result<Vec<Member<'a>>> {
    let named = match fields {
        Fields::Named(named) => &named.named,
        Fields::Unit => return Ok(Vec::new()),
        Fields::Unnamed(_) => return Err(syn::Error::new_spanned(fields, "members need names")),
    };
    let mut members = Vec::new();
    for field in named {
        let attributes = Attributes::parse(&field.attrs)?;
        let Some(ident) = &field.ident else { continue };
        let name = attributes.wire_name(ident, case);
        members.push(Member { ident, ty: &field.ty, name, attributes });
    }
    Ok(members)
}

/// `impl QapiType` and `impl Members`.
pub(crate) fn derive(input: &DeriveInput, fields: &Fields) -> syn::Result<TokenStream> {
    let attributes = Attributes::parse(&input.attrs)?;
    let members = implement_members(input, fields, &[])?;
    let object = implement_object(&input.ident, &attributes);
    Ok(quote!(#members #object))
}

/// `impl QapiType` for a type that has `Members`.
pub(crate) fn implement_object(ident: &Ident, attributes: &Attributes) -> TokenStream {
    let name = attributes.name.clone().unwrap_or_else(|| ident.to_string());
    let doc = &attributes.doc;
    let features = attributes.feature_list();
    quote! {
        impl ::qapi::QapiType for #ident {
            const KIND: ::qapi::Kind = ::qapi::Kind::Object;

            fn from_value(
                value: ::qapi::json::Value,
                path: &::qapi::Path<'_>,
            ) -> ::core::result::Result<Self, ::qapi::Error> {
                <Self as ::qapi::Members>::from_object(value, path)
            }

            fn to_value(&self) -> ::qapi::json::Value {
                ::qapi::json::Value::Object(<Self as ::qapi::Members>::to_map(self))
            }

            fn schema(builder: &mut ::qapi::schema::SchemaBuilder) -> ::qapi::schema::TypeRef {
                builder.object::<Self>(#name, #doc, #features)
            }
        }
    }
}

/// `impl Members` for a struct.
pub(crate) fn implement_members(
    input: &DeriveInput,
    fields: &Fields,
    legacy_forms: &[TokenStream],
) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let case = Attributes::parse(&input.attrs)?.case;
    let members = members(fields, case)?;
    let reads = members.iter().map(read);
    // Branches of unions come after all plain members, everything else that is left last of all.
    let later = members.iter().filter(|member| member.attributes.flatten).map(|member| {
        let (field, ty) = (member.ident, member.ty);
        quote!(let #field = <#ty as ::qapi::Members>::take(input)?;)
    });
    let rests = members.iter().filter(|member| member.attributes.rest).map(|member| {
        let field = member.ident;
        quote!(let #field = input.take_rest();)
    });
    let names: Vec<_> = members.iter().map(|member| member.ident).collect();
    let writes = members.iter().map(write);
    let shapes = members.iter().map(shape);
    let construct = match fields {
        Fields::Unit => quote!(Self),
        _ => quote!(Self { #(#names),* }),
    };
    Ok(quote! {
        impl ::qapi::Members for #ident {
            #[allow(unused_variables, clippy::let_unit_value, reason = "for types without members")]
            fn take(input: &mut ::qapi::Input<'_>) -> ::core::result::Result<Self, ::qapi::Error> {
                #(#legacy_forms)*
                #(#reads)*
                #(#later)*
                #(#rests)*
                ::core::result::Result::Ok(#construct)
            }

            #[allow(unused_variables, reason = "for types without members")]
            fn put(&self, map: &mut ::qapi::json::Map) {
                #(#writes)*
            }

            #[allow(unused_variables, reason = "for types without members")]
            fn members(
                shape: &mut ::qapi::schema::ObjectShape,
                builder: &mut ::qapi::schema::SchemaBuilder,
            ) {
                #(#shapes)*
            }
        }
    })
}

fn read(member: &Member<'_>) -> TokenStream {
    let Member { ident, ty, name, attributes } = member;
    if attributes.flatten {
        return quote!(<#ty as ::qapi::Members>::check_tag(input)?;);
    }
    if attributes.rest {
        return TokenStream::new();
    }
    let aliases = &attributes.aliases;
    match &attributes.default {
        Some(default) => quote! {
            let #ident: #ty = match input.take_aliased::<::core::option::Option<#ty>>(#name, &[#(#aliases),*])? {
                ::core::option::Option::Some(value) => value,
                ::core::option::Option::None => #default,
            };
        },
        None if aliases.is_empty() => quote!(let #ident: #ty = input.take(#name)?;),
        None => quote!(let #ident: #ty = input.take_aliased(#name, &[#(#aliases),*])?;),
    }
}

fn write(member: &Member<'_>) -> TokenStream {
    let Member { ident, ty, name, attributes } = member;
    if attributes.flatten {
        return quote!(<#ty as ::qapi::Members>::put(&self.#ident, map););
    }
    if attributes.rest {
        return quote! {
            for (name, value) in self.#ident.iter() {
                map.insert(name, value.clone());
            }
        };
    }
    quote! {
        if let ::core::option::Option::Some(value) = <#ty as ::qapi::QapiType>::to_member(&self.#ident) {
            map.insert(#name, value);
        }
    }
}

fn shape(member: &Member<'_>) -> TokenStream {
    let Member { ty, name, attributes, .. } = member;
    if attributes.flatten {
        return quote!(<#ty as ::qapi::Members>::members(shape, builder););
    }
    if attributes.rest {
        return TokenStream::new();
    }
    let aliases = &attributes.aliases;
    let features = attributes.feature_list();
    let legacy = attributes.legacy;
    let doc = &attributes.doc;
    let optional =
        if attributes.default.is_some() { quote!(true) } else { quote!(<#ty as ::qapi::QapiType>::OPTIONAL) };
    quote! {
        let ty = <#ty as ::qapi::QapiType>::schema(builder);
        shape.members.push(::qapi::schema::MemberShape {
            name: #name,
            aliases: &[#(#aliases),*],
            ty,
            optional: #optional,
            features: #features,
            legacy: #legacy,
            doc: #doc,
        });
    }
}
