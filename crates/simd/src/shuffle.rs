//! Packing, interleaving, shuffling, blending, widening, and moves between vector and general
//! registers.
//!
//! Specification: Intel SDM volume 2, the pages of the instructions named at each function.
//! `N` is the number of lanes of the register, so that one function serves MMX and XMM.

use crate::lanes::{Register, get, set};
use bytemuck::Pod;

/// PACKSSxx/PACKUSxx: narrows `dst` into the low half and `src` into the high half.
#[inline(always)]
fn pack<R: Pod, T: Pod, U: Pod + Default, const N: usize, const M: usize>(d: &mut R, s: &R, narrow: impl Fn(T) -> U) {
    const { assert!(M == 2 * N) };
    let (a, b) = (get::<R, T, N>(d), get::<R, T, N>(s));
    let mut r = [U::default(); M];
    for i in 0..N {
        r[i] = narrow(a[i]);
        r[N + i] = narrow(b[i]);
    }
    set(d, r);
}

/// Defines the four packs; `$lo..$hi` is the range of the narrow type.
macro_rules! packs {
    ($($name:ident: $from:ty => $to:ty, $store:ty;)*) => {$(
        pub fn $name<R: Register, const N: usize, const M: usize>(d: &mut R, s: &R, _imm: u8) {
            pack::<R, $from, $store, N, M>(d, s, |x| {
                x.clamp(<$from>::from(<$to>::MIN), <$from>::from(<$to>::MAX)) as $store
            });
        }
    )*};
}

packs! {
    packsswb: i16 => i8, u8;
    packuswb: i16 => u8, u8;
    packssdw: i32 => i16, u16;
    packusdw: i32 => u16, u16;
}

/// PUNPCKLxx: interleaves the low halves of `dst` and `src`.
#[inline(always)]
fn interleave<R: Pod, T: Pod + Default, const N: usize>(d: &mut R, s: &R, from: usize) {
    let (a, b) = (get::<R, T, N>(d), get::<R, T, N>(s));
    let mut r = [T::default(); N];
    for i in 0..N / 2 {
        r[2 * i] = a[from + i];
        r[2 * i + 1] = b[from + i];
    }
    set(d, r);
}

/// PUNPCKLxx. A 32-bit memory source of the MMX forms is the low half that counts.
pub fn unpack_low<R: Register, T: Pod + Default, const N: usize>(d: &mut R, s: &R, _imm: u8) {
    interleave::<R, T, N>(d, s, 0);
}

/// PUNPCKHxx.
pub fn unpack_high<R: Register, T: Pod + Default, const N: usize>(d: &mut R, s: &R, _imm: u8) {
    interleave::<R, T, N>(d, s, N / 2);
}

/// PSHUFB: each byte of `src` picks a byte of `dst`, or zero when its bit 7 is set.
pub fn pshufb<R: Register, const N: usize>(d: &mut R, s: &R, _imm: u8) {
    let (a, b) = (get::<R, u8, N>(d), get::<R, u8, N>(s));
    let mut r = [0u8; N];
    for (r, &pick) in r.iter_mut().zip(&b) {
        let byte = a[usize::from(pick) & (N - 1)];
        *r = if pick & 0x80 == 0 { byte } else { 0 };
    }
    set(d, r);
}

/// The four lanes of `lanes` that the four two-bit fields of `imm` pick.
#[inline(always)]
fn pick4<T: Pod>(lanes: [T; 4], imm: u8) -> [T; 4] {
    core::array::from_fn(|i| lanes[usize::from(imm >> (2 * i) & 3)])
}

/// PSHUFD.
pub fn pshufd(d: &mut u128, s: &u128, imm: u8) {
    set(d, pick4(get::<u128, u32, 4>(s), imm));
}

/// PSHUFW.
pub fn pshufw(d: &mut u64, s: &u64, imm: u8) {
    set(d, pick4(get::<u64, u16, 4>(s), imm));
}

/// PSHUFLW: shuffles the low quadword, copies the high one.
pub fn pshuflw(d: &mut u128, s: &u128, imm: u8) {
    let [mut low, high] = get::<u128, u64, 2>(s);
    let source = low;
    pshufw(&mut low, &source, imm);
    set(d, [low, high]);
}

/// PSHUFHW: shuffles the high quadword, copies the low one.
pub fn pshufhw(d: &mut u128, s: &u128, imm: u8) {
    let [low, mut high] = get::<u128, u64, 2>(s);
    let source = high;
    pshufw(&mut high, &source, imm);
    set(d, [low, high]);
}

/// PALIGNR: `dst:src` shifted right by `imm` bytes.
pub fn palignr<R: Register>(d: &mut R, s: &R, imm: u8) {
    let n = 8 * u32::from(imm);
    *d = match R::BITS.checked_sub(n) {
        Some(rest) => s.shr(n) | d.shl(rest),
        None => d.shr(n - R::BITS),
    };
}

/// PBLENDW: bit `i` of `imm` picks word `i` from `src`.
pub fn pblendw(d: &mut u128, s: &u128, imm: u8) {
    let (mut a, b) = (get::<u128, u16, 8>(d), get::<u128, u16, 8>(s));
    for i in 0..8 {
        if imm >> i & 1 != 0 {
            a[i] = b[i];
        }
    }
    set(d, a);
}

/// PBLENDVB: bit 7 of each mask byte picks the byte from `src`.
pub fn pblendvb(d: &mut u128, s: &u128, mask: &u128) {
    let (mut a, b) = (get::<u128, i8, 16>(d), get::<u128, i8, 16>(s));
    let mask = get::<u128, i8, 16>(mask);
    for i in 0..16 {
        a[i] = if mask[i] < 0 { b[i] } else { a[i] };
    }
    set(d, a);
}

/// PMOVSXxx/PMOVZXxx: widens the low lanes of `src`.
#[inline(always)]
fn widen<T: Pod, U: Pod + Default + From<T>, const N: usize, const M: usize>(d: &mut u128, s: &u128) {
    let narrow = get::<u128, T, N>(s);
    let mut r = [U::default(); M];
    for (r, &x) in r.iter_mut().zip(&narrow) {
        *r = U::from(x);
    }
    set(d, r);
}

macro_rules! widenings {
    ($($name:ident: $from:ty, $n:literal => $to:ty, $m:literal;)*) => {$(
        pub fn $name(d: &mut u128, s: &u128, _imm: u8) {
            widen::<$from, $to, $n, $m>(d, s);
        }
    )*};
}

widenings! {
    pmovsxbw: i8, 16 => i16, 8;
    pmovsxbd: i8, 16 => i32, 4;
    pmovsxbq: i8, 16 => i64, 2;
    pmovsxwd: i16, 8 => i32, 4;
    pmovsxwq: i16, 8 => i64, 2;
    pmovsxdq: i32, 4 => i64, 2;
    pmovzxbw: u8, 16 => u16, 8;
    pmovzxbd: u8, 16 => u32, 4;
    pmovzxbq: u8, 16 => u64, 2;
    pmovzxwd: u16, 8 => u32, 4;
    pmovzxwq: u16, 8 => u64, 2;
    pmovzxdq: u32, 4 => u64, 2;
}

/// Defines PEXTRx and PINSRx of one lane width; only the low bits of the immediate count.
macro_rules! lane_moves {
    ($($extract:ident, $insert:ident: $r:ty, $t:ty;)*) => {$(
        pub fn $extract(s: $r, imm: u8) -> u64 {
            (s >> lane_shift::<$r, $t>(imm)) as $t as u64
        }
        pub fn $insert(d: &mut $r, value: u64, imm: u8) {
            let shift = lane_shift::<$r, $t>(imm);
            *d = *d & !(<$r>::from(<$t>::MAX) << shift) | <$r>::from(value as $t) << shift;
        }
    )*};
}

/// The bit position of the lane that `imm` names, modulo the number of lanes.
#[inline(always)]
fn lane_shift<R, T>(imm: u8) -> usize {
    (usize::from(imm) & (size_of::<R>() / size_of::<T>() - 1)) * size_of::<T>() * 8
}

lane_moves! {
    pextrb, pinsrb: u128, u8;
    pextrw, pinsrw: u128, u16;
    pextrd, pinsrd: u128, u32;
    pextrq, pinsrq: u128, u64;
    pextrw_mmx, pinsrw_mmx: u64, u16;
}

/// Bit `i` is bit 7 of byte `i`: PMOVMSKB, and the bytes that MASKMOVQ stores.
pub fn byte_mask_mmx(s: u64) -> u8 {
    // The multiplier brings bit 8i to bit 56 + i; no two partial products meet.
    ((s >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080_u64) >> 56) as u8
}

/// Bit `i` is bit 7 of byte `i`: PMOVMSKB, and the bytes that MASKMOVDQU stores.
pub fn byte_mask_xmm(s: u128) -> u16 {
    u16::from(byte_mask_mmx((s >> 64) as u64)) << 8 | u16::from(byte_mask_mmx(s as u64))
}

/// PMOVMSKB r, xmm.
pub fn pmovmskb(s: u128, _imm: u8) -> u64 {
    u64::from(byte_mask_xmm(s))
}

/// PMOVMSKB r, mm.
pub fn pmovmskb_mmx(s: u64, _imm: u8) -> u64 {
    u64::from(byte_mask_mmx(s))
}
