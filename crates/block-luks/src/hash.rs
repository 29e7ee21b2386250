//! Hash functions by name: key derivation and the anti-forensic diffusion.

use block::{Error, Result};
use sha1::digest::Digest;

/// A hash function of a LUKS header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
}

macro_rules! with_hash {
    ($hash:expr, $type:ident => $body:expr) => {
        match $hash {
            Hash::Sha1 => {
                type $type = sha1::Sha1;
                $body
            }
            Hash::Sha224 => {
                type $type = sha2::Sha224;
                $body
            }
            Hash::Sha256 => {
                type $type = sha2::Sha256;
                $body
            }
            Hash::Sha384 => {
                type $type = sha2::Sha384;
                $body
            }
            Hash::Sha512 => {
                type $type = sha2::Sha512;
                $body
            }
            Hash::Ripemd160 => {
                type $type = ripemd::Ripemd160;
                $body
            }
        }
    };
}

impl Hash {
    const NAMES: [(&'static str, Self); 6] = [
        ("sha1", Self::Sha1),
        ("sha224", Self::Sha224),
        ("sha256", Self::Sha256),
        ("sha384", Self::Sha384),
        ("sha512", Self::Sha512),
        ("ripemd160", Self::Ripemd160),
    ];

    /// The function of that name.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn by_name(name: &str) -> Result<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, hash)| *hash).ok_or_else(|| Error::invalid(format!("Hash algorithm '{name}' is not supported")))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, hash)| *hash == self).map_or("", |(name, _)| name)
    }

    /// Bytes of a digest.
    pub fn len(self) -> usize {
        with_hash!(self, H => <H as Digest>::output_size())
    }

    /// Always false: no hash function has empty digests.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The digest of all `parts` together.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, H => {
            let mut state = H::new();
            for part in parts {
                state.update(part);
            }
            state.finalize().to_vec()
        })
    }

    /// PBKDF2 (RFC 8018) with HMAC of this hash.
    pub fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        with_hash!(self, H => pbkdf2::pbkdf2_hmac::<H>(password, salt, iterations, &mut key));
        key
    }

    /// One pass of the diffusion (section 2.4): each digest-sized piece becomes the hash of its number and itself.
    pub fn diffuse(self, block: &mut [u8]) {
        for (index, piece) in block.chunks_mut(self.len()).enumerate() {
            let number = u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
            let digest = self.digest(&[&number, piece]);
            let len = piece.len();
            piece.copy_from_slice(&digest[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pbkdf2_gives_the_vectors_of_rfc_6070() {
        let key = Hash::Sha1.pbkdf2(b"password", b"salt", 4096, 20);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "4b007901b765489abead49d926f721d065a429c1");
    }
}
