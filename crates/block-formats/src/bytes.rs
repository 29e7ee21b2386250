//! Fields of headers and tables. All reads are checked: what lies behind the end of the bytes reads as zero, so that
//! the checks of the values decide.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

macro_rules! getters {
    ($($name:ident $type:ident $from:ident)*) => {
        $(pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            const N: usize = size_of::<$type>();
            match at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|field| field.try_into().ok()) {
                Some(field) => $type::$from(field),
                None => 0,
            }
        })*
    };
}

getters! {
    le16 u16 from_le_bytes
    le32 u32 from_le_bytes
    le64 u64 from_le_bytes
    be16 u16 from_be_bytes
    be32 u32 from_be_bytes
    be64 u64 from_be_bytes
}

/// Writes a field. What does not fit is a mistake of ours, and left out.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(target) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        target.copy_from_slice(field);
    }
}

/// The bytes `at .. at + len`, as far as they are there.
pub(crate) fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let start = at.min(bytes.len());
    &bytes[start..start.saturating_add(len).min(bytes.len())]
}

/// A length in memory as an offset in an image.
pub(crate) fn u(len: usize) -> u64 {
    len as u64
}

/// An offset or length that is known to fit into memory.
pub(crate) fn n(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// 64 bits that differ from run to run: for content ids and UUIDs, not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random UUID (version 4), in the order of its text form.
pub(crate) fn uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random().to_le_bytes());
    bytes[8..].copy_from_slice(&random().to_le_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}
