//! SASL (RFC 4422), a server's side: the mechanisms PLAIN (RFC 4616) and SCRAM-SHA-256 (RFC 5802, RFC 7677), over a list
//! of users with what SCRAM needs to know of their passwords.
//!
//! A file of users has a line for each: `name:SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the last three in
//! base64 (RFC 5803; the form in which PostgreSQL keeps passwords). It tells nobody a password. Everything here is a
//! function of bytes: who calls reads the file and the connection, and brings random numbers.
//!
//! Left out on purpose: channel binding, and layers of SASL's own that encrypt what follows: TLS does that. Names and
//! passwords are compared as they come in UTF-8, without SASLprep.

#![forbid(unsafe_code)]

mod exchange;
mod users;

pub use exchange::{Exchange, Mechanism, Refused, Step};
pub use users::{Users, UsersError, Verifier};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A digest.
type Digest = [u8; 32];

/// HMAC of all parts together.
fn hmac(key: &[u8], parts: &[&[u8]]) -> Digest {
    // A key may have any length: there is no other error.
    let Ok(mut state) = Hmac::<Sha256>::new_from_slice(key) else { return Digest::default() };
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

/// Whether bytes are equal, in a time that tells nothing of where they differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
