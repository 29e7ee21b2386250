//! Scalar operations of the BMI2 and SSE4.2 extensions that have no Rust operator.
//!
//! Specification: Intel SDM volume 2: CRC32, PDEP, PEXT.

/// PDEP: deposits the low bits of `src` at the set bits of `mask`. The 32-bit form passes
/// zero-extended operands.
pub fn pdep(src: u64, mask: u64) -> u64 {
    let (mut rest, mut bit, mut result) = (mask, 0u32, 0);
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        result |= lowest & (src >> bit & 1).wrapping_neg();
        rest ^= lowest;
        bit += 1;
    }
    result
}

/// PEXT: gathers the bits of `src` at the set bits of `mask` into the low bits. The 32-bit form
/// passes zero-extended operands.
pub fn pext(src: u64, mask: u64) -> u64 {
    let (mut rest, mut bit, mut result) = (mask, 0u32, 0);
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        result |= u64::from(src & lowest != 0) << bit;
        rest ^= lowest;
        bit += 1;
    }
    result
}

/// Remainders of a byte followed by 0 to 7 zero bytes, for the polynomial 11EDC6F41h reflected.
static CRC32C: [[u32; 256]; 8] = crc32c_tables();

const fn crc32c_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 64 {
            crc = crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            bit += 1;
            if bit % 8 == 0 {
                tables[bit / 8 - 1][byte] = crc;
            }
        }
        byte += 1;
    }
    tables
}

/// CRC32 over the low `N` bytes of `state`, which are the sum of checksum and data.
#[inline(always)]
fn crc32<const N: usize>(state: u64) -> u32 {
    let mut crc = 0;
    for (i, table) in CRC32C.iter().take(N).enumerate() {
        crc ^= table[usize::from((state >> (8 * (N - 1 - i))) as u8)];
    }
    crc
}

/// CRC32 r32, r/m8: the CRC-32C of one byte on top of `crc`.
pub fn crc32_u8(crc: u32, data: u8) -> u32 {
    crc >> 8 ^ crc32::<1>(u64::from(crc as u8 ^ data))
}

/// CRC32 r32, r/m16.
pub fn crc32_u16(crc: u32, data: u16) -> u32 {
    crc >> 16 ^ crc32::<2>(u64::from(crc as u16 ^ data))
}

/// CRC32 r32, r/m32.
pub fn crc32_u32(crc: u32, data: u32) -> u32 {
    crc32::<4>(u64::from(crc ^ data))
}

/// CRC32 r64, r/m64; the destination's upper half is cleared.
pub fn crc32_u64(crc: u32, data: u64) -> u32 {
    crc32::<8>(u64::from(crc) ^ data)
}
