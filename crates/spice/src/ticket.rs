//! Passwords: the client encrypts its one with a public key of the server's (RSA of 1024 bits, OAEP with SHA-1, as the
//! protocol has it). A key of this length can't be trusted for long: each is for a few clients only.

use std::io;
use std::sync::Arc;

use rand_core::OsRng;
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, RsaPrivateKey};
use tokio::sync::Mutex;

use crate::link::PUBLIC_KEY;

/// Bits of a key.
const BITS: usize = 1024;
/// Bytes of an encrypted password.
pub const TICKET: usize = BITS / 8;
/// Clients that get the same key.
const USES: u32 = 16;
/// What a certificate has before such a key's modulus: the algorithm and lengths (RFC 3279, section 2.3.1).
const BEFORE: [u8; 29] = [
    0x30, 0x81, 0x9f, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03,
    0x81, 0x8d, 0x00, 0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00,
];
/// What it has behind: the exponent 65537.
const BEHIND: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
const EXPONENT: [u8; 3] = [1, 0, 1];

/// The server's keys.
#[derive(Default)]
pub struct Keys(Mutex<Option<(Arc<RsaPrivateKey>, u32)>>);

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("a key for tickets: {error}"))
}

impl Keys {
    /// A key for a client; making one takes some milliseconds, on another thread.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub async fn key(&self) -> io::Result<Arc<RsaPrivateKey>> {
        // One is made at a time, whoever asks.
        let mut present = self.0.lock().await;
        if let Some((key, uses)) = present.as_mut().filter(|(_, uses)| *uses < USES) {
            *uses += 1;
            return Ok(Arc::clone(key));
        }
        let made = tokio::task::spawn_blocking(|| RsaPrivateKey::new(&mut OsRng, BITS)).await.map_err(failed)?;
        let key = Arc::new(made.map_err(failed)?);
        *present = Some((Arc::clone(&key), 1));
        Ok(key)
    }
}

/// The public part of a key, as clients read it.
///
/// # Errors
/// The key is not what this server makes.
pub fn public(key: &RsaPrivateKey) -> io::Result<[u8; PUBLIC_KEY]> {
    let modulus = key.n().to_bytes_be();
    let whole = [&BEFORE[..], &modulus, &BEHIND].concat();
    let is_fine = key.e().to_bytes_be() == EXPONENT;
    <[u8; PUBLIC_KEY]>::try_from(whole).ok().filter(|_| is_fine).ok_or_else(|| failed("it has another length"))
}

/// The password in a ticket; nothing if it is none for this key.
pub fn open(key: &RsaPrivateKey, ticket: &[u8; TICKET]) -> Option<Vec<u8>> {
    let mut password = key.decrypt_blinded(&mut OsRng, Oaep::new::<sha1::Sha1>(), ticket).ok()?;
    // A string of C.
    if let Some(end) = password.iter().position(|byte| *byte == 0) {
        password.truncate(end);
    }
    Some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn password_comes_out_as_it_went_in_and_garbage_is_none() {
        let key = runtime().block_on(Keys::default().key()).expect("a key");
        let sealed = key.to_public_key().encrypt(&mut OsRng, Oaep::new::<sha1::Sha1>(), b"secret\0");
        let mut ticket = <[u8; TICKET]>::try_from(sealed.expect("encrypted")).expect("the length");
        assert_eq!(open(&key, &ticket).as_deref(), Some(&b"secret"[..]));
        ticket[0] ^= 1;
        assert_eq!(open(&key, &ticket), None);
    }

    #[test]
    fn public_key_has_the_protocols_length_and_few_clients_share_it() {
        runtime().block_on(async {
            let keys = Keys::default();
            let first = keys.key().await.expect("a key");
            assert_eq!(public(&first).expect("fits").len(), 162);
            for _ in 1..USES {
                assert!(Arc::ptr_eq(&first, &keys.key().await.expect("a key")));
            }
            assert!(!Arc::ptr_eq(&first, &keys.key().await.expect("a key")));
        });
    }
}
