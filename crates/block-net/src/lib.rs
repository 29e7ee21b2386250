//! Block drivers over the network: the `nbd` client, `http` and `https`.
//!
//! Connections belong to no thread: a request drives its connection on the reactor that polls it.

#![forbid(unsafe_code)]

pub mod http;
pub mod nbd;
mod tls;
mod transport;
mod uri;

pub use tls::{TlsCredentials, X509};

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn block::DriverType> {
    vec![&nbd::NbdType, &http::HTTP, &http::HTTPS]
}
