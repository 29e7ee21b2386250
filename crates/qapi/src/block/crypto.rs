//! Encryption of images (QEMU's `crypto.json`).

use crate::QapiType;

/// Ciphers with their key lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[expect(missing_docs, reason = "the names are those of the ciphers")]
pub enum QCryptoCipherAlgorithm {
    #[qapi(name = "aes-128")]
    Aes128,
    #[qapi(name = "aes-192")]
    Aes192,
    #[qapi(name = "aes-256")]
    Aes256,
    Des,
    #[qapi(name = "3des")]
    TripleDes,
    #[qapi(name = "cast5-128")]
    Cast5_128,
    #[qapi(name = "serpent-128")]
    Serpent128,
    #[qapi(name = "serpent-192")]
    Serpent192,
    #[qapi(name = "serpent-256")]
    Serpent256,
    #[qapi(name = "twofish-128")]
    Twofish128,
    #[qapi(name = "twofish-192")]
    Twofish192,
    #[qapi(name = "twofish-256")]
    Twofish256,
}

/// Modes of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[expect(missing_docs, reason = "the names are those of the modes")]
pub enum QCryptoCipherMode {
    Ecb,
    Cbc,
    Xts,
    Ctr,
}

/// How initialisation vectors are made from sector numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QCryptoIVGenAlgorithm {
    /// The number's lower 32 bits.
    Plain,
    /// The number.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv,
}

/// Hash functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum QCryptoHashAlgorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

/// The key of an image with the old AES encryption of qcow and qcow2.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct QCryptoBlockOptionsQCow {
    /// The secret object with the password.
    pub key_secret: Option<String>,
}

/// The key of a LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct QCryptoBlockOptionsLUKS {
    /// The secret object with the passphrase.
    pub key_secret: Option<String>,
}

/// How a LUKS volume is created.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct QCryptoBlockCreateOptionsLUKS {
    /// The secret object with the passphrase.
    pub key_secret: Option<String>,
    /// The cipher; AES-256 if absent.
    pub cipher_alg: Option<QCryptoCipherAlgorithm>,
    /// The mode; XTS if absent.
    pub cipher_mode: Option<QCryptoCipherMode>,
    /// The initialisation vectors; plain64 if absent.
    pub ivgen_alg: Option<QCryptoIVGenAlgorithm>,
    /// The hash function of the initialisation vectors.
    pub ivgen_hash_alg: Option<QCryptoHashAlgorithm>,
    /// The hash function of the key derivation; SHA-256 if absent.
    pub hash_alg: Option<QCryptoHashAlgorithm>,
    /// How long the key derivation shall take, in milliseconds; 2000 if absent.
    pub iter_time: Option<i64>,
}

/// How an encrypted image is created.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "format")]
pub enum QCryptoBlockCreateOptions {
    /// The old AES encryption.
    Qcow(QCryptoBlockOptionsQCow),
    /// LUKS.
    Luks(QCryptoBlockCreateOptionsLUKS),
}

/// A key slot of a LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct QCryptoBlockInfoLUKSSlot {
    /// Whether it is in use.
    pub active: bool,
    /// Iterations of its key derivation.
    pub iters: Option<i64>,
    /// The number of anti-forensic stripes.
    pub stripes: Option<i64>,
    /// Where its key material is, in bytes.
    pub key_offset: i64,
}

/// The header of a LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct QCryptoBlockInfoLUKS {
    /// The cipher.
    pub cipher_alg: QCryptoCipherAlgorithm,
    /// The mode.
    pub cipher_mode: QCryptoCipherMode,
    /// The initialisation vectors.
    pub ivgen_alg: QCryptoIVGenAlgorithm,
    /// Their hash function.
    pub ivgen_hash_alg: Option<QCryptoHashAlgorithm>,
    /// The hash function of the key derivation.
    pub hash_alg: QCryptoHashAlgorithm,
    /// Where the data starts, in bytes.
    pub payload_offset: i64,
    /// Iterations of the master key's digest.
    pub master_key_iters: i64,
    /// The volume's UUID.
    pub uuid: String,
    /// The key slots.
    pub slots: Vec<QCryptoBlockInfoLUKSSlot>,
}
