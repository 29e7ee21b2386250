//! The tables of chunks: in a property list or a resource fork, as `mish` blocks; and ADC.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use block::{Error, Result};

use crate::bytes::{be16, be32, be64, n, part};

const MAX_CHUNKS: usize = 1 << 20;
/// Largest chunks that are unpacked: stored and unpacked, bytes.
const MAX_LEN: u64 = 64 << 20;
const SECTOR: u64 = 512;

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Zero,
    Raw,
    Adc,
    Zlib,
    Bzip2,
    /// By a number that is not supported.
    Unknown(u32),
}

/// Sectors that are stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) packing: Packing,
    pub(super) sector: u64,
    pub(super) count: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The blocks in a property list: what is in its `data` elements.
pub(super) fn from_list(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let text = String::from_utf8_lossy(bytes);
    let mut blocks = Vec::new();
    let mut rest = &text[..];
    while let Some((_, after)) = rest.split_once("<data>") {
        let (data, next) = after.split_once("</data>").ok_or_else(|| Error::invalid("The property list is cut off"))?;
        let block = base64(data).ok_or_else(|| Error::invalid("The property list has broken data"))?;
        if block.starts_with(b"mish") {
            blocks.push(block);
        }
        rest = next;
    }
    Ok(blocks)
}

/// The bytes of base64 text with white space in it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(digits).ok()
}

/// The blocks in a resource fork: each with its length before it.
pub(super) fn from_fork(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (start, len) = (be32(bytes, 0) as usize, be32(bytes, 8) as usize);
    let data = part(bytes, start, len);
    let mut blocks = Vec::new();
    let mut at = 0;
    while at + 4 <= data.len() {
        let len = be32(data, at) as usize;
        if len == 0 || at + 4 + len > data.len() {
            return Err(Error::invalid("The resource fork is broken"));
        }
        let block = part(data, at + 4, len);
        if block.starts_with(b"mish") {
            blocks.push(block.to_vec());
        }
        at += 4 + len;
    }
    Ok(blocks)
}

/// Adds the chunks of a block. `data_fork` is where the data of the file begins.
pub(super) fn parse(block: &[u8], data_fork: u64, chunks: &mut Vec<Chunk>) -> Result<()> {
    let wrong = || Error::invalid("A chunk of the dmg file has a wrong place");
    let first = be64(block, 8);
    let offset = be64(block, 24).checked_add(data_fork).ok_or_else(wrong)?;
    let count = block.len().saturating_sub(204) / 40;
    for index in 0..count {
        let entry = part(block, 204 + index * 40, 40);
        let kind = be32(entry, 0);
        let packing = match kind {
            0 | 2 => Packing::Zero,
            1 => Packing::Raw,
            0x8000_0004 => Packing::Adc,
            0x8000_0005 => Packing::Zlib,
            0x8000_0006 => Packing::Bzip2,
            // A comment, the end of the table.
            0x7fff_fffe | 0xffff_ffff => continue,
            other => Packing::Unknown(other),
        };
        let chunk = Chunk {
            packing,
            sector: be64(entry, 8).checked_add(first).ok_or_else(wrong)?,
            count: be64(entry, 16),
            offset: be64(entry, 24).checked_add(offset).ok_or_else(wrong)?,
            len: be64(entry, 32),
        };
        let end = chunk.sector.checked_add(chunk.count).filter(|end| *end <= i64::MAX as u64 / SECTOR);
        if end.is_none() {
            return Err(wrong());
        }
        if chunk.packing != Packing::Zero && chunk.count > MAX_LEN / SECTOR {
            return Err(Error::invalid(format!(
                "sector count {} for chunk {index} is larger than max ({})",
                chunk.count,
                MAX_LEN / SECTOR
            )));
        }
        if chunk.packing != Packing::Zero && chunk.len > MAX_LEN {
            return Err(Error::invalid(format!(
                "length {} for chunk {index} is larger than max ({MAX_LEN})",
                chunk.len
            )));
        }
        if chunk.count == 0 {
            continue;
        }
        if chunks.len() >= MAX_CHUNKS {
            return Err(Error::invalid("The dmg file has too many chunks"));
        }
        chunks.push(chunk);
    }
    Ok(())
}

/// Unpacks Apple Data Compression: runs of plain bytes, and copies of what came before.
pub(super) fn unpack_adc(packed: &[u8], len: usize) -> Result<Vec<u8>> {
    let corrupt = || Error::io("A compressed block is corrupt");
    let mut out: Vec<u8> = Vec::with_capacity(len);
    let mut at = 0;
    while out.len() < len {
        let code = *packed.get(at).ok_or_else(corrupt)?;
        if code & 0x80 != 0 {
            let count = usize::from(code & 0x7f) + 1;
            let run = packed.get(at + 1..at + 1 + count).ok_or_else(corrupt)?;
            out.extend_from_slice(&run[..count.min(len - out.len())]);
            at += 1 + count;
            continue;
        }
        let (count, distance, used) = if code & 0x40 != 0 {
            if packed.len() < at + 3 {
                return Err(corrupt());
            }
            (usize::from(code & 0x3f) + 4, usize::from(be16(packed, at + 1)), 3)
        } else {
            let low = *packed.get(at + 1).ok_or_else(corrupt)?;
            (usize::from(code >> 2 & 0xf) + 3, usize::from(code & 3) << 8 | usize::from(low), 2)
        };
        let from = out.len().checked_sub(distance + 1).ok_or_else(corrupt)?;
        for source in from..from + count.min(len - out.len()) {
            out.push(out[source]);
        }
        at += used;
    }
    debug_assert!(out.len() <= n(MAX_LEN));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adc_copies_what_came_before() {
        let packed = [0x82, b'a', b'b', b'c', 0x00, 2, 0x44, 0, 0];
        assert_eq!(unpack_adc(&packed, 14).expect("valid"), b"abcabccccccccc");
        assert!(unpack_adc(&packed, 15).is_err(), "too short");
        assert!(unpack_adc(&[0x00, 0], 3).is_err(), "nothing came before");
    }

    #[test]
    fn base64_has_white_space() {
        assert_eq!(base64(" bWlz\n aA== "), Some(b"mish".to_vec()));
        assert_eq!(base64("b*"), None);
    }
}
