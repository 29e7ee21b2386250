//! Enums: enumerations, unions and alternates.

use crate::attributes::Attributes;
use crate::structs::implement_object;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Fields, Ident, Type};

struct Variant<'a> {
    ident: &'a Ident,
    /// The content; `None` for a unit variant.
    ty: Option<&'a Type>,
    name: String,
    attributes: Attributes,
}

fn variants<'a>(data: &'a DataEnum, attributes: &Attributes) -> syn::Result<Vec<Variant<'a>>> {
    let mut variants = Vec::new();
    for variant in &data.variants {
        let own = Attributes::parse(&variant.attrs)?;
        let ty = match &variant.fields {
            Fields::Unit => None,
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => fields.unnamed.first().map(|field| &field.ty),
            fields => return Err(syn::Error::new_spanned(fields, "a variant holds one type")),
        };
        let name = own.wire_name(&variant.ident, attributes.case);
        variants.push(Variant { ident: &variant.ident, ty, name, attributes: own });
    }
    Ok(variants)
}

pub(crate) fn derive(input: &DeriveInput, data: &DataEnum) -> syn::Result<TokenStream> {
    let attributes = Attributes::parse(&input.attrs)?;
    let variants = variants(data, &attributes)?;
    if attributes.alternate {
        return alternate(input, &attributes, &variants);
    }
    if let Some(tag) = &attributes.tag {
        return Ok(union(input, &attributes, &variants, tag));
    }
    enumeration(input, &attributes, &variants)
}

fn enumeration(input: &DeriveInput, attributes: &Attributes, variants: &[Variant<'_>]) -> syn::Result<TokenStream> {
    if let Some(variant) = variants.iter().find(|variant| variant.ty.is_some()) {
        return Err(syn::Error::new_spanned(variant.ident, "an enum with content needs a tag"));
    }
    let ident = &input.ident;
    let type_name = attributes.name.clone().unwrap_or_else(|| ident.to_string());
    let doc = &attributes.doc;
    let idents: Vec<_> = variants.iter().map(|variant| variant.ident).collect();
    let names: Vec<_> = variants.iter().map(|variant| &variant.name).collect();
    let features = variants.iter().map(|variant| variant.attributes.feature_list());
    let docs = variants.iter().map(|variant| &variant.attributes.doc);
    let aliases = variants.iter().flat_map(|variant| {
        let ident = variant.ident;
        variant.attributes.aliases.iter().map(move |alias| quote!(#alias => Self::#ident,))
    });
    Ok(quote! {
        impl ::qapi::schema::Enumeration for #ident {
            const NAMES: &'static [&'static str] = &[#(#names),*];

            fn name(self) -> &'static str {
                match self { #(Self::#idents => #names),* }
            }

            fn from_name(name: &str) -> ::core::option::Option<Self> {
                ::core::option::Option::Some(match name {
                    #(#names => Self::#idents,)*
                    #(#aliases)*
                    _ => return ::core::option::Option::None,
                })
            }
        }

        impl ::core::fmt::Display for #ident {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(::qapi::schema::Enumeration::name(*self))
            }
        }

        impl ::qapi::QapiType for #ident {
            const KIND: ::qapi::Kind = ::qapi::Kind::String;

            fn from_value(
                value: ::qapi::json::Value,
                path: &::qapi::Path<'_>,
            ) -> ::core::result::Result<Self, ::qapi::Error> {
                let text = <::std::string::String as ::qapi::QapiType>::from_value(value, path)?;
                <Self as ::qapi::schema::Enumeration>::from_name(&text)
                    .ok_or_else(|| ::qapi::Error::does_not_accept(path.last(), &text))
            }

            fn to_value(&self) -> ::qapi::json::Value {
                ::qapi::json::Value::from(::qapi::schema::Enumeration::name(*self))
            }

            fn schema(builder: &mut ::qapi::schema::SchemaBuilder) -> ::qapi::schema::TypeRef {
                builder.define::<Self>("", #type_name, #doc, |_| {
                    ::qapi::schema::Shape::Enum(::qapi::schema::EnumShape {
                        values: ::std::vec![#(::qapi::schema::EnumValue {
                            name: #names,
                            features: #features,
                            doc: #docs,
                        }),*],
                    })
                })
            }
        }
    })
}

fn union(input: &DeriveInput, attributes: &Attributes, variants: &[Variant<'_>], tag: &str) -> TokenStream {
    let ident = &input.ident;
    let object = implement_object(ident, attributes);
    let takes = variants.iter().filter(|variant| !variant.attributes.other).map(|variant| {
        let (case, name) = (variant.ident, &variant.name);
        match (variant.ty, &attributes.content) {
            (None, _) => quote!(#name => Self::#case,),
            // The members may stand beside the tag, too.
            (Some(ty), Some(content)) if attributes.flatten => quote!(#name => Self::#case(
                match input.peek(#content) {
                    ::core::option::Option::Some(_) => input.take(#content)?,
                    ::core::option::Option::None => <#ty as ::qapi::Members>::take(input)?,
                }
            ),),
            (Some(_), Some(content)) => quote!(#name => Self::#case(input.take(#content)?),),
            (Some(ty), None) => {
                quote!(#name => Self::#case(<#ty as ::qapi::Members>::take(input)?),)
            }
        }
    });
    let other = variants.iter().find(|variant| variant.attributes.other).map(|variant| variant.ident);
    let fallback = match other {
        Some(case) => quote!(_ => Self::#case(tag),),
        None => quote!(_ => return ::core::result::Result::Err(
            ::qapi::Error::does_not_accept(#tag, ::core::convert::AsRef::<str>::as_ref(&name)),
        ),),
    };
    let read_tag = read_tag(attributes, variants, tag);
    let puts = variants.iter().map(|variant| put(variant, attributes, tag));
    let shown = |variant: &&Variant<'_>| !variant.attributes.other && !variant.attributes.legacy;
    let shapes = variants.iter().filter(shown).map(|variant| branch_shape(variant, attributes));
    let tag_schema = tag_schema(input, attributes, variants);
    let tag_doc = &attributes.doc;
    let empty_cases = attributes.tag_type.as_ref().map(|ty| {
        quote! {
            for case in <#ty as ::qapi::schema::Enumeration>::NAMES {
                if !shape.variants.iter().any(|variant| variant.case == *case) {
                    shape.variants.push(::qapi::schema::VariantShape {
                        case,
                        ty: ::qapi::schema::TypeRef::Empty,
                    });
                }
            }
        }
    });
    quote! {
        #object

        impl ::qapi::Members for #ident {
            fn check_tag(input: &::qapi::Input<'_>) -> ::core::result::Result<(), ::qapi::Error> {
                let value = input.peek(#tag).cloned();
                #read_tag
                let _ = (&tag, &name);
                ::core::result::Result::Ok(())
            }

            fn take(input: &mut ::qapi::Input<'_>) -> ::core::result::Result<Self, ::qapi::Error> {
                let value = input.take::<::core::option::Option<::qapi::Any>>(#tag)?.map(|any| any.0);
                #read_tag
                ::core::result::Result::Ok(match ::core::convert::AsRef::<str>::as_ref(&name) {
                    #(#takes)*
                    #fallback
                })
            }

            fn put(&self, map: &mut ::qapi::json::Map) {
                match self { #(#puts)* }
            }

            fn members(
                shape: &mut ::qapi::schema::ObjectShape,
                builder: &mut ::qapi::schema::SchemaBuilder,
            ) {
                let ty = #tag_schema;
                shape.members.push(::qapi::schema::MemberShape {
                    name: #tag,
                    aliases: &[],
                    ty,
                    optional: false,
                    features: &[],
                    legacy: false,
                    doc: #tag_doc,
                });
                shape.tag = ::core::option::Option::Some(#tag);
                #(#shapes)*
                #empty_cases
            }
        }
    }
}

/// Statements that turn `value: Option<Value>` into `tag` (the discriminator) and `name`.
fn read_tag(attributes: &Attributes, variants: &[Variant<'_>], tag: &str) -> TokenStream {
    if let Some(ty) = &attributes.tag_type {
        return quote! {
            let tag = <#ty as ::qapi::QapiType>::from_member(value, &input.path().member(#tag))?;
            let name = ::qapi::schema::Enumeration::name(tag);
        };
    }
    let names = variants.iter().map(|variant| &variant.name);
    quote! {
        let tag = <::std::string::String as ::qapi::QapiType>::from_member(
            value,
            &input.path().member(#tag),
        )?;
        if ![#(#names),*].contains(&tag.as_str()) {
            return ::core::result::Result::Err(::qapi::Error::does_not_accept(#tag, &tag));
        }
        let name = &tag;
    }
}

fn put(variant: &Variant<'_>, attributes: &Attributes, tag: &str) -> TokenStream {
    let (case, name) = (variant.ident, &variant.name);
    if variant.attributes.other {
        return quote!(Self::#case(tag) => {
            map.insert(#tag, ::qapi::QapiType::to_value(tag));
        });
    }
    let insert_tag = quote!(map.insert(#tag, #name););
    match (variant.ty, &attributes.content) {
        (None, _) => quote!(Self::#case => { #insert_tag }),
        (Some(_), Some(content)) => quote!(Self::#case(data) => {
            #insert_tag
            map.insert(#content, ::qapi::QapiType::to_value(data));
        }),
        (Some(ty), None) => quote!(Self::#case(branch) => {
            #insert_tag
            <#ty as ::qapi::Members>::put(branch, map);
        }),
    }
}

fn branch_shape(variant: &Variant<'_>, attributes: &Attributes) -> TokenStream {
    let name = &variant.name;
    let ty = match (variant.ty, &attributes.content) {
        (None, _) => quote!(::qapi::schema::TypeRef::Empty),
        (Some(ty), None) => quote!(<#ty as ::qapi::QapiType>::schema(builder)),
        (Some(ty), Some(content)) => quote! {
            builder.define::<Self>(#name, #name, "", |builder| {
                let ty = <#ty as ::qapi::QapiType>::schema(builder);
                ::qapi::schema::Shape::Object(::qapi::schema::ObjectShape {
                    members: ::std::vec![::qapi::schema::MemberShape {
                        name: #content,
                        aliases: &[],
                        ty,
                        optional: false,
                        features: &[],
                        legacy: false,
                        doc: "",
                    }],
                    tag: ::core::option::Option::None,
                    variants: ::std::vec::Vec::new(),
                    features: &[],
                })
            })
        },
    };
    quote! {
        let ty = #ty;
        shape.variants.push(::qapi::schema::VariantShape { case: #name, ty });
    }
}

/// The type of the discriminator: a declared enumeration, or the one that the branches imply.
fn tag_schema(input: &DeriveInput, attributes: &Attributes, variants: &[Variant<'_>]) -> TokenStream {
    if let Some(ty) = &attributes.tag_type {
        return quote!(<#ty as ::qapi::QapiType>::schema(builder));
    }
    let name = format!("{}Kind", input.ident);
    let variants: Vec<_> = variants.iter().filter(|variant| !variant.attributes.legacy).collect();
    let names = variants.iter().map(|variant| &variant.name);
    let features = variants.iter().map(|variant| variant.attributes.feature_list());
    let docs = variants.iter().map(|variant| &variant.attributes.doc);
    quote! {
        builder.define::<Self>("\u{0}tag", #name, "", |_| {
            ::qapi::schema::Shape::Enum(::qapi::schema::EnumShape {
                values: ::std::vec![#(::qapi::schema::EnumValue {
                    name: #names,
                    features: #features,
                    doc: #docs,
                }),*],
            })
        })
    }
}

fn alternate(input: &DeriveInput, attributes: &Attributes, variants: &[Variant<'_>]) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let name = attributes.name.clone().unwrap_or_else(|| ident.to_string());
    let doc = &attributes.doc;
    let mut branches = Vec::new();
    for variant in variants {
        let Some(ty) = variant.ty else {
            return Err(syn::Error::new_spanned(variant.ident, "a branch of an alternate has a type"));
        };
        branches.push((variant.ident, ty));
    }
    let cases: Vec<_> = branches.iter().map(|(case, _)| case).collect();
    let types: Vec<_> = branches.iter().map(|(_, ty)| ty).collect();
    Ok(quote! {
        impl ::qapi::QapiType for #ident {
            const KIND: ::qapi::Kind = ::qapi::Kind::Any;

            fn from_value(
                value: ::qapi::json::Value,
                path: &::qapi::Path<'_>,
            ) -> ::core::result::Result<Self, ::qapi::Error> {
                #(if <#types as ::qapi::QapiType>::KIND.accepts(&value) {
                    return <#types as ::qapi::QapiType>::from_value(value, path).map(Self::#cases);
                })*
                ::core::result::Result::Err(::qapi::Error::invalid_type(path.last(), #name))
            }

            fn to_value(&self) -> ::qapi::json::Value {
                match self { #(Self::#cases(branch) => ::qapi::QapiType::to_value(branch)),* }
            }

            fn schema(builder: &mut ::qapi::schema::SchemaBuilder) -> ::qapi::schema::TypeRef {
                builder.define::<Self>("", #name, #doc, |builder| {
                    ::qapi::schema::Shape::Alternate(
                        ::std::vec![#(<#types as ::qapi::QapiType>::schema(builder)),*],
                    )
                })
            }
        }
    })
}
