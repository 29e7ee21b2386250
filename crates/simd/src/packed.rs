//! Lane-by-lane arithmetic, comparison, logic and shifts, the same code for MMX and XMM.
//!
//! Specification: Intel SDM volume 2, the pages of the instructions named at each function.
//! Every function is `f(dst, src, imm8)`; the immediate is ignored where the instruction has none.

use crate::lanes::{Register, get, map, set, zip};
use bytemuck::Pod;

/// Defines `fn name<R>(dst, src, imm8)` that combines lanes of one type.
macro_rules! lanewise {
    ($($name:ident: $t:ty, $f:expr;)*) => {$(
        pub fn $name<R: Register>(d: &mut R, s: &R, _imm: u8) {
            zip::<R, $t>(d, s, $f);
        }
    )*};
}

/// All ones for true, as the comparisons leave it.
macro_rules! truth {
    ($t:ty, $e:expr) => {
        <$t>::from($e).wrapping_neg()
    };
}

lanewise! {
    paddb: u8, u8::wrapping_add;
    paddw: u16, u16::wrapping_add;
    paddd: u32, u32::wrapping_add;
    paddq: u64, u64::wrapping_add;
    psubb: u8, u8::wrapping_sub;
    psubw: u16, u16::wrapping_sub;
    psubd: u32, u32::wrapping_sub;
    psubq: u64, u64::wrapping_sub;
    paddsb: i8, i8::saturating_add;
    paddsw: i16, i16::saturating_add;
    paddusb: u8, u8::saturating_add;
    paddusw: u16, u16::saturating_add;
    psubsb: i8, i8::saturating_sub;
    psubsw: i16, i16::saturating_sub;
    psubusb: u8, u8::saturating_sub;
    psubusw: u16, u16::saturating_sub;

    pmullw: u16, u16::wrapping_mul;
    pmulld: u32, u32::wrapping_mul;
    pmulhw: i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16;
    pmulhuw: u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16;
    pmulhrsw: i16, |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16;
    pmuludq: u64, |a, b| u64::from(a as u32) * u64::from(b as u32);
    pmuldq: i64, |a, b| i64::from(a as i32) * i64::from(b as i32);
    // The pairs are taken as halves of the wider lane that receives the sum.
    pmaddwd: i32, |a, b| {
        let low = i32::from(a as i16) * i32::from(b as i16);
        low.wrapping_add((a >> 16) * (b >> 16))
    };
    pmaddubsw: i16, |a, b| {
        let [a0, a1] = a.to_le_bytes().map(i32::from);
        let [b0, b1] = b.to_le_bytes().map(|b| i32::from(b as i8));
        (a0 * b0 + a1 * b1).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
    };

    pavgb: u8, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    pavgw: u16, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16;
    pminub: u8, u8::min;
    pminuw: u16, u16::min;
    pminud: u32, u32::min;
    pminsb: i8, i8::min;
    pminsw: i16, i16::min;
    pminsd: i32, i32::min;
    pmaxub: u8, u8::max;
    pmaxuw: u16, u16::max;
    pmaxud: u32, u32::max;
    pmaxsb: i8, i8::max;
    pmaxsw: i16, i16::max;
    pmaxsd: i32, i32::max;
    pabsb: i8, |_, b| b.wrapping_abs();
    pabsw: i16, |_, b| b.wrapping_abs();
    pabsd: i32, |_, b| b.wrapping_abs();
    psignb: i8, |a, b| a.wrapping_mul(b.signum());
    psignw: i16, |a, b| a.wrapping_mul(b.signum());
    psignd: i32, |a, b| a.wrapping_mul(b.signum());

    pcmpeqb: u8, |a, b| truth!(u8, a == b);
    pcmpeqw: u16, |a, b| truth!(u16, a == b);
    pcmpeqd: u32, |a, b| truth!(u32, a == b);
    pcmpeqq: u64, |a, b| truth!(u64, a == b);
    pcmpgtb: i8, |a, b| truth!(i8, a > b);
    pcmpgtw: i16, |a, b| truth!(i16, a > b);
    pcmpgtd: i32, |a, b| truth!(i32, a > b);
    pcmpgtq: i64, |a, b| truth!(i64, a > b);

    pand: u64, |a, b| a & b;
    pandn: u64, |a, b| !a & b;
    por: u64, |a, b| a | b;
    pxor: u64, |a, b| a ^ b;
}

/// Defines a shift in its two forms: count in bits 63:0 of the source, and count as immediate.
/// `$f` gets a count below the lane width, or `None` when the count is not.
macro_rules! shifts {
    ($($by_src:ident, $by_imm:ident: $t:ty, $f:expr;)*) => {$(
        pub fn $by_src<R: Register>(d: &mut R, s: &R, _imm: u8) {
            let count = s.low64();
            let count = (count < u64::from(<$t>::BITS)).then_some(count as u32);
            map::<R, $t>(d, $f(count));
        }
        pub fn $by_imm<R: Register>(d: &mut R, _s: &R, imm: u8) {
            let count = u32::from(imm);
            map::<R, $t>(d, $f((count < <$t>::BITS).then_some(count)));
        }
    )*};
}

/// A logical shift clears a lane when the count reaches its width: shift by 0, then mask with 0.
macro_rules! logical {
    ($t:ty, $op:tt) => {
        |count: Option<u32>| {
            let (n, keep) = count.map_or((0, 0), |n| (n, <$t>::MAX));
            move |x: $t| (x $op n) & keep
        }
    };
}

/// An arithmetic shift fills a lane with its sign when the count reaches its width.
macro_rules! arithmetic {
    ($t:ty) => {
        |count: Option<u32>| {
            let n = count.unwrap_or(<$t>::BITS - 1);
            move |x: $t| x >> n
        }
    };
}

shifts! {
    psllw, psllw_imm: u16, logical!(u16, <<);
    pslld, pslld_imm: u32, logical!(u32, <<);
    psllq, psllq_imm: u64, logical!(u64, <<);
    psrlw, psrlw_imm: u16, logical!(u16, >>);
    psrld, psrld_imm: u32, logical!(u32, >>);
    psrlq, psrlq_imm: u64, logical!(u64, >>);
    psraw, psraw_imm: i16, arithmetic!(i16);
    psrad, psrad_imm: i32, arithmetic!(i32);
}

/// PSLLDQ: shifts the whole register left by `imm` bytes.
pub fn pslldq(d: &mut u128, _s: &u128, imm: u8) {
    *d = d.shl(8 * u32::from(imm));
}

/// PSRLDQ: shifts the whole register right by `imm` bytes.
pub fn psrldq(d: &mut u128, _s: &u128, imm: u8) {
    *d = d.shr(8 * u32::from(imm));
}

/// PHADDx/PHSUBx: combines neighbours of `dst` into the low half and of `src` into the high half.
#[inline(always)]
fn horizontal<R: Pod, T: Pod + Default, const N: usize>(d: &mut R, s: &R, f: impl Fn(T, T) -> T) {
    let (a, b) = (get::<R, T, N>(d), get::<R, T, N>(s));
    let mut r = [T::default(); N];
    for i in 0..N / 2 {
        r[i] = f(a[2 * i], a[2 * i + 1]);
        r[N / 2 + i] = f(b[2 * i], b[2 * i + 1]);
    }
    set(d, r);
}

macro_rules! horizontals {
    ($($name:ident: $t:ty, $f:expr;)*) => {$(
        pub fn $name<R: Register, const N: usize>(d: &mut R, s: &R, _imm: u8) {
            horizontal::<R, $t, N>(d, s, $f);
        }
    )*};
}

horizontals! {
    phaddw: u16, u16::wrapping_add;
    phaddd: u32, u32::wrapping_add;
    phaddsw: i16, i16::saturating_add;
    phsubw: u16, u16::wrapping_sub;
    phsubd: u32, u32::wrapping_sub;
    phsubsw: i16, i16::saturating_sub;
}

/// PSADBW: the sum of absolute byte differences of each group of eight, in a 64-bit lane.
pub fn psadbw<R: Register, const BYTES: usize, const SUMS: usize>(d: &mut R, s: &R, _imm: u8) {
    let (a, b) = (get::<R, u8, BYTES>(d), get::<R, u8, BYTES>(s));
    let mut sums = [0u64; SUMS];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = (8 * i..8 * i + 8).map(|k| u64::from(a[k].abs_diff(b[k]))).sum();
    }
    set(d, sums);
}

/// MPSADBW: sums of absolute differences of four bytes of `src`, chosen by imm bits 1:0, against
/// eight sliding groups of `dst` that begin at byte 0 or 4 (imm bit 2).
pub fn mpsadbw(d: &mut u128, s: &u128, imm: u8) {
    let (a, b) = (get::<u128, u8, 16>(d), get::<u128, u8, 16>(s));
    let from = usize::from(imm >> 2 & 1) * 4;
    let block = usize::from(imm & 3) * 4;
    let mut sums = [0u16; 8];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = (0..4).map(|k| u16::from(a[from + i + k].abs_diff(b[block + k]))).sum();
    }
    set(d, sums);
}

/// PHMINPOSUW: the least word of `src` in word 0, the index of its first occurrence in word 1.
pub fn phminposuw(d: &mut u128, s: &u128, _imm: u8) {
    let words = get::<u128, u16, 8>(s);
    let (mut least, mut index) = (words[0], 0);
    for (i, &word) in words.iter().enumerate() {
        if word < least {
            (least, index) = (word, i);
        }
    }
    *d = u128::from(least) | (index as u128) << 16;
}
