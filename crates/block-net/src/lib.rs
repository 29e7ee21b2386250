//! Block drivers over the network: the `nbd` client, `http` and `https`. What a server of NBD has in common with the
//! client is public: the protocol's numbers, TLS, and the bytes of a connection.
//!
//! Connections belong to no thread: a request drives its connection on the reactor that polls it.

#![forbid(unsafe_code)]

pub mod http;
pub mod nbd;
pub mod tls;
pub mod transport;
mod uri;

pub use tls::{Credentials, TlsCredentials, TlsServerCredentials, X509};

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn block::DriverType> {
    vec![&nbd::NbdType, &http::HTTP, &http::HTTPS]
}
