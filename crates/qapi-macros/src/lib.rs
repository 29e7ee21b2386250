//! Derive macros for the QMP schema.
//!
//! `QapiType` makes a struct an object, a field-less enum an enumeration, and an enum with fields
//! a union (`#[qapi(tag = "…")]`) or an alternate (`#[qapi(alternate)]`). `Command` and `Event`
//! make a struct the arguments of a command or the data of an event. What they implement, and what
//! it means on the wire, is described in the crate `qapi`.
//!
//! Field attributes: `#[qapi(name = "…", alias = "…", default = expr, flatten, rest, legacy, deprecated,
//! unstable, feature = "…")]`. Names are the kebab case of the Rust names unless given. A `legacy` member is
//! accepted, but the schema does not show it. `deprecated`, `unstable` and `feature` also go on types.

#![forbid(unsafe_code)]

mod attributes;
mod enums;
mod message;
mod structs;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, parse_macro_input};

fn finish(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Implements `qapi::QapiType` (and `qapi::Members` or `qapi::schema::Enumeration`).
///
/// On the type: `name = "…"`; `kebab`/`snake`/`upper` to choose the names' case; for unions
/// `tag = "member"`, `tag_type = Enum`, `content = "data"` (with `flatten`, what is inside of it may stand beside the
/// tag, too); `alternate`; on a union's variant `other` or `legacy`.
#[proc_macro_derive(QapiType, attributes(qapi))]
pub fn derive_qapi_type(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(match &input.data {
        Data::Struct(data) => structs::derive(&input, &data.fields),
        Data::Enum(data) => enums::derive(&input, data),
        Data::Union(_) => Err(syn::Error::new_spanned(&input.ident, "unions are not QAPI types")),
    })
}

/// Implements `qapi::Command`.
///
/// `#[command(name = "…", returns = Type, oob, preconfig, legacy, deprecated, unstable,
/// wrapper = "member", merged = "member")]`. With `wrapper` the arguments may also come inside one object member
/// that stands alone; with `merged` some of them may come inside that member, beside the others.
#[proc_macro_derive(Command, attributes(qapi, command))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(message::command(&input))
}

/// Implements `qapi::Event`.
///
/// `#[event(name = "…", rate_limit_ms = 1000, rate_key = "member", deprecated, unstable)]`
#[proc_macro_derive(Event, attributes(qapi, event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(message::event(&input))
}
