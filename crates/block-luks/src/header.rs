//! The volume header and its eight key slots.

use std::time::Duration;

use block::bytes::{be16, be32};
use block::{Error, Result};

use crate::cipher::{SECTOR, Scheme, SectorCipher};
use crate::hash::Hash;

/// Bytes of the header proper.
pub const HEADER_LEN: usize = 592;
/// Key slots of a volume.
pub const SLOTS: usize = 8;

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const SLOT_ENABLED: u32 = 0x00ac_71f3;
const SLOT_DISABLED: u32 = 0x0000_dead;
const STRIPES: u32 = 4000;
const DIGEST_LEN: usize = 20;
const SALT_LEN: usize = 32;
/// Key material starts at multiples of this, bytes.
const ALIGNMENT: usize = 4096;
const MIN_ITERATIONS: u32 = 1000;
/// More key material than this is a lie: the largest key is 64 bytes.
const MAX_KEY_LEN: usize = 64;

/// One key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// It holds the volume key.
    pub active: bool,
    /// Iterations of the key derivation.
    pub iterations: u32,
    /// Salt of the key derivation.
    pub salt: [u8; SALT_LEN],
    /// Where its key material is, sectors from the start of the header.
    pub key_offset: u32,
    /// Stripes of the key material.
    pub stripes: u32,
}

/// A volume header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How sectors are encrypted.
    pub scheme: Scheme,
    /// Hash of the key derivation.
    pub hash: Hash,
    /// Where the data starts, sectors.
    pub payload_offset: u32,
    /// Digest of the volume key.
    pub digest: [u8; DIGEST_LEN],
    /// Salt of the digest.
    pub digest_salt: [u8; SALT_LEN],
    /// Iterations of the digest.
    pub digest_iterations: u32,
    /// The volume's UUID, as text.
    pub uuid: String,
    /// The key slots.
    pub slots: [KeySlot; SLOTS],
}

/// A piece of a file: its offset in bytes, and its bytes.
pub type Piece = (u64, Vec<u8>);

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn text(bytes: &[u8], what: &str) -> Result<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or_else(|| Error::invalid(format!("LUKS header {what} is not NUL terminated")))?;
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| Error::invalid(format!("LUKS header {what} is not text")))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn fill_random(mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = &mut bytes[n..];
    }
    Ok(())
}

impl Header {
    /// Whether these bytes start a LUKS version 1 header.
    pub fn recognise(head: &[u8]) -> bool {
        head.len() >= 8 && head.starts_with(MAGIC) && be16(head, 6) == 1
    }

    /// The header in the first [`HEADER_LEN`] bytes of a volume.
    ///
    /// # Errors
    /// If it is none, or has sizes or names that can't be.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER_LEN || !bytes.starts_with(MAGIC) {
            return Err(Error::invalid("Volume is not in LUKS format"));
        }
        let version = be16(bytes, 6);
        if version != 1 {
            return Err(Error::unsupported(format!("LUKS version {version} is not supported")));
        }
        let key_bytes = be32(bytes, 108) as usize;
        if key_bytes == 0 || key_bytes > MAX_KEY_LEN {
            return Err(Error::invalid(format!("LUKS volume key of {key_bytes} bytes is not supported")));
        }
        let cipher_name = text(&bytes[8..40], "cipher name")?;
        let scheme = Scheme::from_header(&cipher_name, &text(&bytes[40..72], "cipher mode")?, key_bytes)?;
        let slot = |index: usize| {
            let at = 208 + 48 * index;
            KeySlot {
                active: be32(bytes, at) == SLOT_ENABLED,
                iterations: be32(bytes, at + 4),
                salt: array(bytes, at + 8),
                key_offset: be32(bytes, at + 40),
                stripes: be32(bytes, at + 44),
            }
        };
        let header = Self {
            scheme,
            hash: Hash::by_name(&text(&bytes[72..104], "hash spec")?)?,
            payload_offset: be32(bytes, 104),
            digest: array(bytes, 112),
            digest_salt: array(bytes, 132),
            digest_iterations: be32(bytes, 164),
            uuid: text(&bytes[168..208], "UUID")?,
            slots: std::array::from_fn(slot),
        };
        for index in 0..SLOTS {
            let state = be32(bytes, 208 + 48 * index);
            if state != SLOT_ENABLED && state != SLOT_DISABLED {
                return Err(Error::invalid(format!("Keyslot {index} state is corrupted")));
            }
        }
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let mut areas: Vec<(u64, u64)> = vec![(0, HEADER_LEN.div_ceil(SECTOR) as u64)];
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(Error::invalid(format!(
                    "Keyslot {index} is corrupted (stripes {} != {STRIPES})",
                    slot.stripes
                )));
            }
            if slot.active && slot.iterations == 0 {
                return Err(Error::invalid(format!("Keyslot {index} iteration count is zero")));
            }
            let start = u64::from(slot.key_offset);
            let end = start + (self.material_len() / SECTOR) as u64;
            if areas.iter().any(|(from, to)| start < *to && *from < end) {
                return Err(Error::invalid(format!("Keyslot {index} is overlapping with the header or another slot")));
            }
            if end > u64::from(self.payload_offset) {
                return Err(Error::invalid(format!("Keyslot {index} is overlapping with the encrypted payload")));
            }
            areas.push((start, end));
        }
        if self.digest_iterations == 0 {
            return Err(Error::invalid("LUKS key digest iteration count is zero"));
        }
        Ok(())
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, self.scheme.algorithm.family().as_bytes());
        put(40, self.scheme.header_mode().as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &self.payload_offset.to_be_bytes());
        put(108, &(self.scheme.volume_key_len() as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (index, slot) in self.slots.iter().enumerate() {
            let at = 208 + 48 * index;
            put(at, &if slot.active { SLOT_ENABLED } else { SLOT_DISABLED }.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.key_offset.to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        bytes
    }

    /// Bytes of a slot's key material, whole sectors.
    pub fn material_len(&self) -> usize {
        (self.scheme.volume_key_len() * STRIPES as usize).next_multiple_of(SECTOR)
    }

    /// Where a slot's key material is: offset in bytes from the header's start.
    pub fn material_offset(&self, slot: usize) -> u64 {
        u64::from(self.slots[slot].key_offset) * SECTOR as u64
    }

    /// Bytes before the data.
    pub fn payload_offset_bytes(&self) -> u64 {
        u64::from(self.payload_offset) * SECTOR as u64
    }

    fn slot_cipher(&self, slot: &KeySlot, passphrase: &[u8]) -> Result<SectorCipher> {
        let key = self.hash.pbkdf2(passphrase, &slot.salt, slot.iterations, self.scheme.volume_key_len());
        SectorCipher::new(&self.scheme, &key)
    }

    /// The volume key, if `passphrase` opens `slot`, whose key material is `material`. Takes as long as the slot's
    /// iterations want: run it away from a reactor.
    ///
    /// # Errors
    /// If the key can't be used.
    pub fn open_slot(&self, slot: usize, passphrase: &[u8], mut material: Vec<u8>) -> Result<Option<Vec<u8>>> {
        self.slot_cipher(&self.slots[slot], passphrase)?.decrypt(0, &mut material);
        let key = merge(self.hash, &material, self.scheme.volume_key_len());
        let digest = self.hash.pbkdf2(&key, &self.digest_salt, self.digest_iterations, DIGEST_LEN);
        Ok((digest == self.digest).then_some(key))
    }

    /// Puts the volume key into `slot` under `passphrase`: what to write besides the header.
    ///
    /// # Errors
    /// If the host gives no random bytes.
    pub fn close_slot(&mut self, slot: usize, passphrase: &[u8], key: &[u8], time: Duration) -> Result<Piece> {
        let iterations = iterations_for(self.hash, self.scheme.volume_key_len(), time);
        let entry = &mut self.slots[slot];
        *entry = KeySlot { active: true, iterations, salt: random()?, ..entry.clone() };
        let mut material = split(self.hash, key)?;
        material.resize(self.material_len(), 0);
        self.slot_cipher(&self.slots[slot], passphrase)?.encrypt(0, &mut material);
        Ok((self.material_offset(slot), material))
    }

    /// Makes a slot unusable: what to write besides the header.
    ///
    /// # Errors
    /// If the host gives no random bytes.
    pub fn erase_slot(&mut self, slot: usize) -> Result<Piece> {
        let entry = &mut self.slots[slot];
        *entry = KeySlot { active: false, iterations: 0, salt: [0; SALT_LEN], ..entry.clone() };
        let mut material = vec![0; self.material_len()];
        fill_random(&mut material)?;
        Ok((self.material_offset(slot), material))
    }

    /// A new volume with `passphrase` in slot 0: the header, its volume key, and what to write: header and key material.
    /// `time` is how long opening a slot shall take. Takes longer than that: run it away from a reactor.
    ///
    /// # Errors
    /// If the host gives no random bytes.
    pub fn create(
        scheme: Scheme,
        hash: Hash,
        passphrase: &[u8],
        time: Duration,
    ) -> Result<(Self, Vec<u8>, Vec<Piece>)> {
        let mut key = vec![0; scheme.volume_key_len()];
        fill_random(&mut key)?;
        let material = (key.len() * STRIPES as usize).next_multiple_of(SECTOR).next_multiple_of(ALIGNMENT);
        let offset = |slot: usize| ((ALIGNMENT + material * slot) / SECTOR) as u32;
        let slot = |index| KeySlot {
            active: false,
            iterations: 0,
            salt: [0; SALT_LEN],
            key_offset: offset(index),
            stripes: STRIPES,
        };
        let digest_salt = random()?;
        let digest_iterations = iterations_for(hash, DIGEST_LEN, time / 8);
        let digest = hash.pbkdf2(&key, &digest_salt, digest_iterations, DIGEST_LEN);
        let mut header = Self {
            scheme,
            hash,
            payload_offset: offset(SLOTS),
            digest: array(&digest, 0),
            digest_salt,
            digest_iterations,
            uuid: uuid()?,
            slots: std::array::from_fn(slot),
        };
        let piece = header.close_slot(0, passphrase, &key, time)?;
        let pieces = vec![(0, header.to_bytes()), piece];
        Ok((header, key, pieces))
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// The processor time that this thread has used. Others that run meanwhile don't count: a busy machine's keys are not
/// weaker.
fn used_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Iterations of PBKDF2 that take about `time` of a processor of this machine.
fn iterations_for(hash: Hash, len: usize, time: Duration) -> u32 {
    let mut count = 1 << 14;
    loop {
        let started = used_time();
        hash.pbkdf2(b"measure", &[0; SALT_LEN], count, len);
        let took = used_time().saturating_sub(started);
        if took >= Duration::from_millis(20) || count >= 1 << 28 {
            let wanted = f64::from(count) * time.as_secs_f64() / took.as_secs_f64();
            // Saturates at the type's limits.
            return (wanted as u32).max(MIN_ITERATIONS);
        }
        count *= 4;
    }
}

/// The anti-forensic splitter (section 2.4).
fn split(hash: Hash, key: &[u8]) -> Result<Vec<u8>> {
    let mut material = vec![0; key.len() * STRIPES as usize];
    let last = material.len() - key.len();
    fill_random(&mut material[..last])?;
    let mut sum = vec![0; key.len()];
    for stripe in material[..last].chunks_exact(key.len()) {
        sum.iter_mut().zip(stripe).for_each(|(a, b)| *a ^= b);
        hash.diffuse(&mut sum);
    }
    material[last..].iter_mut().zip(sum.iter().zip(key)).for_each(|(out, (a, b))| *out = a ^ b);
    Ok(material)
}

fn merge(hash: Hash, material: &[u8], key_len: usize) -> Vec<u8> {
    let mut sum = vec![0; key_len];
    let stripes = material.chunks_exact(key_len).take(STRIPES as usize);
    for (index, stripe) in stripes.enumerate() {
        sum.iter_mut().zip(stripe).for_each(|(a, b)| *a ^= b);
        if index + 1 < STRIPES as usize {
            hash.diffuse(&mut sum);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_key_is_merged_again() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512, Hash::Ripemd160] {
            let key: Vec<u8> = (0..64).collect();
            let material = split(hash, &key).expect("random bytes");
            assert_eq!(merge(hash, &material, 64), key, "{hash:?}");
        }
    }

    #[test]
    fn a_created_header_parses_and_opens_with_its_passphrase_only() {
        let scheme = Scheme::from_header("aes", "xts-plain64", 64).expect("supported");
        let (header, key, pieces) =
            Header::create(scheme, Hash::Sha256, b"secret", Duration::from_millis(1)).expect("created");
        assert_eq!(Header::parse(&pieces[0].1).expect("parses"), header);
        let material = pieces[1].1.clone();
        assert_eq!(header.open_slot(0, b"secret", material.clone()).expect("usable"), Some(key));
        assert_eq!(header.open_slot(0, b"Secret", material).expect("usable"), None);
        assert_eq!(header.payload_offset_bytes(), 2_068_480);
    }

    #[test]
    fn headers_with_overlapping_slots_or_lies_are_refused() {
        let scheme = Scheme::from_header("aes", "cbc-essiv:sha256", 32).expect("supported");
        let (_, _, pieces) = Header::create(scheme, Hash::Sha1, b"x", Duration::from_millis(1)).expect("created");
        let good = &pieces[0].1;
        for (at, bytes) in [
            (0, &b"LUKX"[..]),
            (6, &[0, 2]),
            (8, &[b'x'; 32]),
            (104, &[0, 0, 0, 1]),
            (108, &[0xff; 4]),
            (164, &[0; 4]),
            (208, &[1; 4]),
            (208 + 40, &[0; 4]),
            (208 + 44, &[0xff; 4]),
            (208 + 48 + 40, &[0, 0, 0, 9]),
        ] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(Header::parse(&bad).is_err(), "{at}");
        }
        assert!(Header::parse(&good[..591]).is_err());
    }
}
