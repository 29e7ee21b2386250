//! The `State` derive macro. What it accepts is described in crate `state`.

#![forbid(unsafe_code)]

mod attributes;
mod enums;
mod structs;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, parse_macro_input};

/// Declares a struct as saved state (`state::SavedState`), or an enum without fields as a field of one
/// (`state::Field`).
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let expanded = match &input.data {
        Data::Struct(data) => structs::expand(&input, data),
        Data::Enum(data) => enums::expand(&input, data),
        Data::Union(_) => Err(syn::Error::new_spanned(&input.ident, "a union cannot be saved")),
    };
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}
