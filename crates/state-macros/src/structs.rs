//! Structs: an implementation of `SavedState` that destructures the struct exhaustively.

use crate::attributes::{FieldAttributes, StructAttributes};
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{DataStruct, DeriveInput, Fields, GenericArgument, PathArguments, Type};

/// How a field is saved.
enum Form<'a> {
    Skipped,
    Plain,
    Buffer,
    /// An `Option` of this type.
    Subsection(&'a Type),
}

/// The parts of the implementation.
#[derive(Default)]
struct Parts {
    /// The struct's pattern: every field, bound or ignored.
    pattern: Vec<TokenStream>,
    describe: Vec<TokenStream>,
    describe_subsections: Vec<TokenStream>,
    save: Vec<TokenStream>,
    save_subsections: Vec<TokenStream>,
    take: Vec<TokenStream>,
    declare_subsections: Vec<TokenStream>,
    match_subsections: Vec<TokenStream>,
    store: Vec<TokenStream>,
}

pub fn expand(input: &DeriveInput, data: &DataStruct) -> syn::Result<TokenStream> {
    let Fields::Named(fields) = &data.fields else {
        return Err(syn::Error::new_spanned(&input.ident, "saved state needs named fields"));
    };
    let attributes = StructAttributes::parse(&input.attrs, input.ident.span())?;
    let mut parts = Parts::default();
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let field_attributes = FieldAttributes::parse(&field.attrs)?;
        let form = form(&field.ty, &field_attributes)?;
        if let Some(since) = field_attributes.since
            && !(attributes.minimum < since && since <= attributes.version)
        {
            return Err(syn::Error::new_spanned(field, "`since` lies above `minimum` and not above `version`"));
        }
        parts.add(ident, &field.ty, &form, &field_attributes, &attributes.name);
    }
    Ok(parts.implementation(input, &attributes))
}

fn form<'a>(ty: &'a Type, attributes: &FieldAttributes) -> syn::Result<Form<'a>> {
    let error = |message| Err(syn::Error::new_spanned(ty, message));
    if attributes.skip {
        return Ok(Form::Skipped);
    }
    if let Some(inner) = argument_of(ty, "Option") {
        if attributes.since.is_some() || attributes.maximum.is_some() || attributes.maximum_length.is_some() {
            return error("an optional struct is a subsection: of the attributes only `name` makes sense");
        }
        return Ok(Form::Subsection(inner));
    }
    match (argument_of(ty, "Vec"), &attributes.maximum_length) {
        (Some(_), Some(_)) if attributes.maximum.is_none() => Ok(Form::Buffer),
        (Some(_), Some(_)) => error("a buffer has `max_len`, not `max`"),
        (Some(_), None) => error("a Vec<u8> needs #[state(max_len = …)]"),
        (None, Some(_)) => error("`max_len` is for Vec<u8>"),
        (None, None) => Ok(Form::Plain),
    }
}

/// `T` of a type that is written `name<T>`.
fn argument_of<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|segment| segment.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}

impl Parts {
    fn add(&mut self, ident: &Ident, ty: &Type, form: &Form<'_>, attributes: &FieldAttributes, parent: &str) {
        let plain_name = ident.to_string();
        let name = attributes.name.clone().unwrap_or_else(|| plain_name.trim_start_matches("r#").to_string());
        if matches!(form, Form::Skipped) {
            self.pattern.push(quote!(#ident: _));
            return;
        }
        let variable = format_ident!("field_{}", name_of(ident));
        self.pattern.push(quote!(#ident: #variable));
        match form {
            Form::Skipped => {}
            Form::Plain => {
                self.describe.push(quote!(::state::Field::describe(#variable, #name, &mut fields);));
                self.save.push(quote!(::state::Field::put(#variable, writer);));
                let check = attributes
                    .maximum
                    .as_ref()
                    .map(|maximum| quote!(.and_then(|value| ::state::derived::check_maximum(value, #maximum))));
                let take = quote! {
                    <#ty as ::state::Field>::take(#variable, reader) #check
                        .map_err(|error| ::state::LoadError::within(error, #name))?
                };
                self.load(ident, &variable, &take, attributes);
            }
            Form::Buffer => {
                let bound = &attributes.maximum_length;
                self.describe.push(quote!(::state::derived::describe_buffer(#variable, #name, &mut fields);));
                self.save.push(quote!(::state::derived::put_buffer(#variable, #bound, writer);));
                let take = quote! {{
                    let _: &::std::vec::Vec<u8> = #variable;
                    ::state::derived::take_buffer(#bound, reader)
                        .map_err(|error| ::state::LoadError::within(error, #name))?
                }};
                self.load(ident, &variable, &take, attributes);
            }
            Form::Subsection(inner) => self.subsection(ident, &variable, inner, &name, parent),
        }
    }

    fn load(&mut self, ident: &Ident, variable: &Ident, take: &TokenStream, attributes: &FieldAttributes) {
        if let Some(since) = attributes.since {
            self.take.push(quote! {
                let #variable = if version >= #since { ::std::option::Option::Some(#take) } else { ::std::option::Option::None };
            });
            self.store.push(quote!(if let ::std::option::Option::Some(value) = #variable { self.#ident = value; }));
        } else {
            self.take.push(quote!(let #variable = #take;));
            self.store.push(quote!(self.#ident = #variable;));
        }
    }

    fn subsection(&mut self, ident: &Ident, variable: &Ident, inner: &Type, name: &str, parent: &str) {
        let full = format!("{parent}/{name}");
        self.describe_subsections.push(quote! {
            if let ::std::option::Option::Some(value) = #variable {
                let mut description = ::state::SavedState::describe(value);
                description.name = ::std::string::String::from(#full);
                subsections.push(description);
            }
        });
        self.save_subsections.push(quote! {
            if let ::std::option::Option::Some(value) = #variable {
                writer.put_subsection(#full, ::state::SavedState::version(value));
                ::state::SavedState::save(value, writer);
            }
        });
        let loaded = format_ident!("subsection_{}", name_of(ident));
        self.take.push(quote!(let _ = #variable;));
        self.declare_subsections.push(quote! {
            let mut #loaded: ::std::option::Option<#inner> = ::std::option::Option::None;
        });
        self.match_subsections.push(quote! {
            #name => {
                let mut value = <#inner as ::std::default::Default>::default();
                ::state::SavedState::load(&mut value, reader, subsection_version)
                    .map_err(|error| ::state::LoadError::within(error, #full))?;
                #loaded = ::std::option::Option::Some(value);
            }
        });
        self.store.push(quote!(self.#ident = #loaded;));
    }

    fn implementation(&self, input: &DeriveInput, attributes: &StructAttributes) -> TokenStream {
        let ident = &input.ident;
        let (generics, arguments, clause) = input.generics.split_for_impl();
        let StructAttributes { name, version, minimum } = attributes;
        let Parts {
            pattern,
            describe,
            describe_subsections,
            save,
            save_subsections,
            take,
            declare_subsections,
            match_subsections,
            store,
        } = self;
        quote! {
            impl #generics ::state::SavedState for #ident #arguments #clause {
                fn name(&self) -> &'static str {
                    #name
                }

                fn version(&self) -> u32 {
                    #version
                }

                #[allow(unused_mut, reason = "a struct may have no fields")]
                fn describe(&self) -> ::state::Description {
                    let Self { #(#pattern),* } = self;
                    let mut fields = ::std::vec::Vec::new();
                    let mut subsections = ::std::vec::Vec::new();
                    #(#describe)*
                    #(#describe_subsections)*
                    ::state::Description { name: ::std::string::String::from(#name), version: #version, fields, subsections }
                }

                #[allow(unused_variables, reason = "a struct may have no fields")]
                fn save(&self, writer: &mut ::state::Writer) {
                    let Self { #(#pattern),* } = self;
                    #(#save)*
                    #(#save_subsections)*
                }

                #[allow(clippy::never_loop, reason = "without subsections the first one found is unknown")]
                fn load(
                    &mut self,
                    reader: &mut ::state::Reader<'_>,
                    version: u32,
                ) -> ::std::result::Result<(), ::state::LoadError> {
                    ::state::derived::check_version(#name, version, #minimum, #version)?;
                    let Self { #(#pattern),* } = &*self;
                    #(#take)*
                    #(#declare_subsections)*
                    while let ::std::option::Option::Some((subsection, subsection_version)) = reader.subsection(#name)? {
                        let _ = subsection_version;
                        match subsection.as_str() {
                            #(#match_subsections)*
                            _ => {
                                return ::std::result::Result::Err(::state::LoadErrorKind::Subsection(subsection).into());
                            }
                        }
                    }
                    #(#store)*
                    ::std::result::Result::Ok(())
                }
            }
        }
    }
}

/// The identifier without `r#`.
fn name_of(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_string()
}
