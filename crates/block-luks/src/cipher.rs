//! Encryption of sectors: block cipher, mode and initialisation vector as a LUKS header names them.

use aes::{Aes128, Aes192, Aes256};
use block::{Error, Result};
use cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use serpent::Serpent;
use twofish::Twofish;
use xts_mode::Xts128;

use crate::hash::Hash;

/// Bytes of a sector, the unit of encryption.
pub const SECTOR: usize = 512;
/// Bytes of a cipher's block; all supported ones have the same.
const BLOCK: usize = 16;

/// A cipher, as `aes-256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    family: Family,
    /// Bytes of a key (half of the volume key with XTS).
    key_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Aes,
    Serpent,
    Twofish,
}

impl Algorithm {
    /// The cipher of QEMU's name, as `aes-256`.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn by_name(name: &str) -> Result<Self> {
        let unsupported = || Error::invalid(format!("Algorithm '{name}' is not supported"));
        let (family, bits) = name.rsplit_once('-').ok_or_else(unsupported)?;
        let bits: usize = bits.parse().map_err(|_| unsupported())?;
        Self::new(family, bits / 8).ok().filter(|_| bits.is_multiple_of(8)).ok_or_else(unsupported)
    }

    /// The cipher of a header's name, as `aes`, with keys of `key_len` bytes.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(family: &str, key_len: usize) -> Result<Self> {
        let known = match family {
            "aes" => Family::Aes,
            "serpent" => Family::Serpent,
            "twofish" => Family::Twofish,
            _ => return Err(Error::invalid(format!("Algorithm '{family}' is not supported"))),
        };
        if ![16, 24, 32].contains(&key_len) {
            return Err(Error::invalid(format!("Algorithm '{family}' with key size {key_len} bytes not supported")));
        }
        Ok(Self { family: known, key_len })
    }

    /// The header's name.
    pub fn family(self) -> &'static str {
        match self.family {
            Family::Aes => "aes",
            Family::Serpent => "serpent",
            Family::Twofish => "twofish",
        }
    }

    /// QEMU's name, as `aes-256`.
    pub fn name(self) -> String {
        format!("{}-{}", self.family(), self.key_len * 8)
    }

    /// Bytes of one key.
    pub fn key_len(self) -> usize {
        self.key_len
    }
}

/// How blocks of a sector are chained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each for itself.
    Ecb,
    /// Chained.
    Cbc,
    /// IEEE 1619.
    Xts,
}

impl Mode {
    /// The mode of that name.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn by_name(name: &str) -> Result<Self> {
        match name {
            "ecb" => Ok(Self::Ecb),
            "cbc" => Ok(Self::Cbc),
            "xts" => Ok(Self::Xts),
            _ => Err(Error::invalid(format!("Cipher mode '{name}' is not supported"))),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ["ecb", "cbc", "xts"][self as usize]
    }

    /// Keys in a volume key.
    pub fn keys(self) -> usize {
        if self == Self::Xts { 2 } else { 1 }
    }
}

/// How the initialisation vector comes from the sector number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvGenerator {
    /// The low 32 bits.
    Plain,
    /// All 64 bits.
    Plain64,
    /// Encrypted with the key's hash.
    Essiv(Hash),
}

impl IvGenerator {
    /// The generator of a name as `plain64` or `essiv:sha256`.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn by_name(name: &str) -> Result<Self> {
        match name.split_once(':') {
            None if name == "plain" => Ok(Self::Plain),
            None if name == "plain64" => Ok(Self::Plain64),
            Some(("essiv", hash)) => Ok(Self::Essiv(Hash::by_name(hash)?)),
            None if name == "essiv" => Err(Error::invalid("ESSIV needs a hash algorithm")),
            _ => Err(Error::invalid(format!("IV generator '{name}' is not supported"))),
        }
    }

    /// Its name without the hash.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plain64 => "plain64",
            Self::Essiv(_) => "essiv",
        }
    }
}

/// Everything that determines how sectors are encrypted, except the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The block cipher.
    pub algorithm: Algorithm,
    /// The chaining.
    pub mode: Mode,
    /// The initialisation vector; ECB has none.
    pub iv: IvGenerator,
}

impl Scheme {
    /// The scheme of a header's names: `aes`, `xts-plain64`, and the bytes of the volume key.
    ///
    /// # Errors
    /// If any of them is unknown.
    pub fn from_header(cipher_name: &str, cipher_mode: &str, key_bytes: usize) -> Result<Self> {
        let (mode, iv) = cipher_mode.split_once('-').unwrap_or((cipher_mode, "plain"));
        let mode = Mode::by_name(mode)?;
        let algorithm = Algorithm::new(cipher_name, key_bytes / mode.keys())?;
        Ok(Self { algorithm, mode, iv: IvGenerator::by_name(iv)? })
    }

    /// The header's cipher mode, as `cbc-essiv:sha256`.
    pub fn header_mode(&self) -> String {
        match self.iv {
            IvGenerator::Essiv(hash) => format!("{}-essiv:{}", self.mode.name(), hash.name()),
            iv => format!("{}-{}", self.mode.name(), iv.name()),
        }
    }

    /// Bytes of the volume key.
    pub fn volume_key_len(&self) -> usize {
        self.algorithm.key_len * self.mode.keys()
    }
}

/// Encrypts and decrypts sectors.
pub struct SectorCipher {
    cipher: Box<dyn Sectors + Send + Sync>,
    iv: IvGenerator,
    essiv: Option<Box<dyn Sectors + Send + Sync>>,
}

impl SectorCipher {
    /// The cipher of a scheme with a volume key.
    ///
    /// # Errors
    /// If the key has the wrong length, or the hash of ESSIV gives no key of the cipher.
    pub fn new(scheme: &Scheme, key: &[u8]) -> Result<Self> {
        let essiv = match scheme.iv {
            IvGenerator::Essiv(hash) => {
                let digest = hash.digest(&[key]);
                let algorithm = Algorithm::new(scheme.algorithm.family(), digest.len())?;
                Some(build(algorithm, Mode::Ecb, &digest)?)
            }
            _ => None,
        };
        Ok(Self { cipher: build(scheme.algorithm, scheme.mode, key)?, iv: scheme.iv, essiv })
    }

    fn iv(&self, sector: u64) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        let number = if self.iv == IvGenerator::Plain { sector & 0xffff_ffff } else { sector };
        iv[..8].copy_from_slice(&number.to_le_bytes());
        if let Some(essiv) = &self.essiv {
            essiv.encrypt([0; BLOCK], &mut iv);
        }
        iv
    }

    /// Encrypts whole sectors; the first one has the number `sector`.
    pub fn encrypt(&self, sector: u64, data: &mut [u8]) {
        for (number, bytes) in (sector..).zip(data.chunks_exact_mut(SECTOR)) {
            self.cipher.encrypt(self.iv(number), bytes);
        }
    }

    /// Decrypts whole sectors; the first one has the number `sector`.
    pub fn decrypt(&self, sector: u64, data: &mut [u8]) {
        for (number, bytes) in (sector..).zip(data.chunks_exact_mut(SECTOR)) {
            self.cipher.decrypt(self.iv(number), bytes);
        }
    }
}

/// One sector under an initialisation vector.
trait Sectors {
    fn encrypt(&self, iv: [u8; BLOCK], data: &mut [u8]);
    fn decrypt(&self, iv: [u8; BLOCK], data: &mut [u8]);
}

struct Ecb<C>(C);
struct Cbc<C>(C);

fn blocks<C: BlockSizeUser>(data: &mut [u8]) -> &mut [Block<C>] {
    Block::<C>::slice_as_chunks_mut(data).0
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt> Sectors for Ecb<C> {
    fn encrypt(&self, _iv: [u8; BLOCK], data: &mut [u8]) {
        self.0.encrypt_blocks(blocks::<C>(data));
    }

    fn decrypt(&self, _iv: [u8; BLOCK], data: &mut [u8]) {
        self.0.decrypt_blocks(blocks::<C>(data));
    }
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt> Sectors for Cbc<C> {
    fn encrypt(&self, iv: [u8; BLOCK], data: &mut [u8]) {
        let mut previous = iv;
        for block in blocks::<C>(data) {
            block.iter_mut().zip(previous).for_each(|(byte, other)| *byte ^= other);
            self.0.encrypt_block(block);
            previous.copy_from_slice(block);
        }
    }

    fn decrypt(&self, iv: [u8; BLOCK], data: &mut [u8]) {
        let mut previous = iv;
        for block in blocks::<C>(data) {
            let mut next = [0; BLOCK];
            next.copy_from_slice(block);
            self.0.decrypt_block(block);
            block.iter_mut().zip(previous).for_each(|(byte, other)| *byte ^= other);
            previous = next;
        }
    }
}

macro_rules! xts_sectors {
    ($($cipher:ty),*) => {
        $(impl Sectors for Xts128<$cipher> {
            fn encrypt(&self, iv: [u8; BLOCK], data: &mut [u8]) {
                self.encrypt_sector(data, iv.into());
            }

            fn decrypt(&self, iv: [u8; BLOCK], data: &mut [u8]) {
                self.decrypt_sector(data, iv.into());
            }
        })*
    };
}
xts_sectors!(Aes128, Aes192, Aes256, Serpent, Twofish);

fn build(algorithm: Algorithm, mode: Mode, key: &[u8]) -> Result<Box<dyn Sectors + Send + Sync>> {
    macro_rules! with {
        ($cipher:ty) => {{
            let wrong = || Error::invalid("The key does not fit the cipher");
            if key.len() != algorithm.key_len * mode.keys() {
                return Err(wrong());
            }
            let one = <$cipher>::new_from_slice(&key[..algorithm.key_len]).map_err(|_| wrong())?;
            match mode {
                Mode::Ecb => Box::new(Ecb(one)) as Box<dyn Sectors + Send + Sync>,
                Mode::Cbc => Box::new(Cbc(one)),
                Mode::Xts => {
                    let two = <$cipher>::new_from_slice(&key[algorithm.key_len..]).map_err(|_| wrong())?;
                    Box::new(Xts128::<$cipher>::new(one, two))
                }
            }
        }};
    }
    Ok(match (algorithm.family, algorithm.key_len) {
        (Family::Aes, 16) => with!(Aes128),
        (Family::Aes, 24) => with!(Aes192),
        (Family::Aes, _) => with!(Aes256),
        (Family::Serpent, _) => with!(Serpent),
        (Family::Twofish, _) => with!(Twofish),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_decrypts_what_it_encrypted() {
        for family in ["aes", "serpent", "twofish"] {
            for mode in ["ecb-plain", "cbc-plain64", "cbc-essiv:sha256", "xts-plain64"] {
                for key_len in [16, 24, 32] {
                    let keys = if mode.starts_with("xts") { 2 } else { 1 };
                    let scheme = Scheme::from_header(family, mode, key_len * keys).expect("supported");
                    let key: Vec<u8> = (1..).take(key_len * keys).collect();
                    let cipher = SectorCipher::new(&scheme, &key).expect("a good key");
                    let plain: Vec<u8> = (0..2 * SECTOR).map(|i| (i * 7 % 251) as u8).collect();
                    let mut data = plain.clone();
                    cipher.encrypt(5, &mut data);
                    assert_ne!(data, plain, "{family} {mode}");
                    assert_eq!(data[..SECTOR] == data[SECTOR..], plain[..SECTOR] == plain[SECTOR..]);
                    cipher.decrypt(5, &mut data);
                    assert_eq!(data, plain, "{family} {mode} {key_len}");
                }
            }
        }
    }

    #[test]
    fn names_that_are_unknown_are_refused() {
        assert!(Algorithm::by_name("aes-257").is_err());
        assert!(Algorithm::by_name("cast5-128").is_err());
        assert!(Scheme::from_header("aes", "xts-magic", 64).is_err());
        assert!(Scheme::from_header("aes", "xts-plain64", 60).is_err());
        assert_eq!(Algorithm::by_name("twofish-192").expect("known").name(), "twofish-192");
    }
}
