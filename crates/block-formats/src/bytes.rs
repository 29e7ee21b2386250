//! Fields of headers and tables, lengths and identifiers.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

pub(crate) use block::bytes::{be16, be32, be64, le16, le32, le64};

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
