//! Instructions that only move bits: logic, shuffles, blends, masks, duplication. They raise
//! nothing and leave MXCSR alone.

use super::arithmetic::{mask32, mask64};
use super::{InsertSource, Simd, from_lanes32, from_lanes64, lane32, lane64};
use crate::mxcsr::Mxcsr;

macro_rules! moves {
    ($($name:ident($dst:pat, $src:pat, $imm:pat) = $value:expr;)*) => {$(
        pub(super) fn $name($dst: u128, $src: u128, $imm: u8, _: &mut Mxcsr) -> Simd<u128> {
            Ok($value)
        }
    )*};
}

moves! {
    and(dst, src, _) = dst & src;
    andn(dst, src, _) = !dst & src;
    or(dst, src, _) = dst | src;
    xor(dst, src, _) = dst ^ src;
    shufps(dst, src, imm) = {
        let select = |shift: u8| u32::from(imm >> shift & 3);
        from_lanes32([
            lane32(dst, select(0)),
            lane32(dst, select(2)),
            lane32(src, select(4)),
            lane32(src, select(6)),
        ])
    };
    shufpd(dst, src, imm) = from_lanes64([
        lane64(dst, u32::from(imm & 1)),
        lane64(src, u32::from(imm >> 1 & 1)),
    ]);
    unpcklps(dst, src, _) = from_lanes32([
        lane32(dst, 0), lane32(src, 0), lane32(dst, 1), lane32(src, 1),
    ]);
    unpckhps(dst, src, _) = from_lanes32([
        lane32(dst, 2), lane32(src, 2), lane32(dst, 3), lane32(src, 3),
    ]);
    unpcklpd(dst, src, _) = from_lanes64([lane64(dst, 0), lane64(src, 0)]);
    unpckhpd(dst, src, _) = from_lanes64([lane64(dst, 1), lane64(src, 1)]);
    blendps(dst, src, imm) = select(dst, src, mask32(imm));
    blendpd(dst, src, imm) = select(dst, src, mask64(imm));
    movddup(_, src, _) = from_lanes64([lane64(src, 0), lane64(src, 0)]);
    movsldup(_, src, _) = from_lanes32([
        lane32(src, 0), lane32(src, 0), lane32(src, 2), lane32(src, 2),
    ]);
    movshdup(_, src, _) = from_lanes32([
        lane32(src, 1), lane32(src, 1), lane32(src, 3), lane32(src, 3),
    ]);
}

/// Bits of `src` where `mask` is one, of `dst` elsewhere.
const fn select(dst: u128, src: u128, mask: u128) -> u128 {
    (dst & !mask) | (src & mask)
}

/// `INSERTPS`. A memory operand is a single element: the lane that the immediate names in a
/// register source is not applied to it.
pub(super) fn insertps(dst: u128, src: InsertSource, imm: u8) -> u128 {
    let value = match src {
        InsertSource::Register(src) => lane32(src, u32::from(imm >> 6)),
        InsertSource::Memory(value) => value,
    };
    let position = imm >> 4 & 3;
    let inserted = u128::from(value) << (32 * u32::from(position));
    select(dst, inserted, mask32(1 << position)) & !mask32(imm)
}

/// `BLENDVPS`: by the sign bits of the lanes of XMM0.
pub(super) fn blendvps(dst: u128, src: u128, xmm0: u128) -> u128 {
    let signs = movemask_singles(xmm0);
    select(dst, src, mask32(signs))
}

/// `BLENDVPD`.
pub(super) fn blendvpd(dst: u128, src: u128, xmm0: u128) -> u128 {
    let signs = movemask_doubles(xmm0);
    select(dst, src, mask64(signs))
}

const fn movemask_singles(vector: u128) -> u8 {
    (vector >> 31 & 1 | vector >> 62 & 2 | vector >> 93 & 4 | vector >> 124 & 8) as u8
}

const fn movemask_doubles(vector: u128) -> u8 {
    (vector >> 63 & 1 | vector >> 126 & 2) as u8
}

/// `MOVMSKPS`.
pub(super) fn movmskps(src: u128, _: u8, _: &mut Mxcsr) -> Simd<u64> {
    Ok(u64::from(movemask_singles(src)))
}

/// `MOVMSKPD`.
pub(super) fn movmskpd(src: u128, _: u8, _: &mut Mxcsr) -> Simd<u64> {
    Ok(u64::from(movemask_doubles(src)))
}

/// `EXTRACTPS`.
pub(super) fn extractps(src: u128, imm: u8, _: &mut Mxcsr) -> Simd<u64> {
    Ok(u64::from(lane32(src, u32::from(imm & 3))))
}
