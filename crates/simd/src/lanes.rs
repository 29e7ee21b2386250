//! Views of a register image as lanes.
//!
//! A register image is a plain integer whose bit 0 is bit 0 of lane 0. The functions take it by
//! reference and view it in place: LLVM then sees arrays in memory and vectorises the loops,
//! while lanes taken out of a `u128` by value become a chain of scalar shifts (measured: 5
//! instructions against 130 for PADDB).

use bytemuck::Pod;
use core::ops::BitOr;

/// An MMX (`u64`) or XMM (`u128`) register image.
pub trait Register: Pod + BitOr<Output = Self> {
    /// Width in bits.
    const BITS: u32;
    /// Logical left shift; zero when `n >= BITS`.
    fn shl(self, n: u32) -> Self;
    /// Logical right shift; zero when `n >= BITS`.
    fn shr(self, n: u32) -> Self;
    /// Bits 63:0, where the shift instructions take their count from.
    fn low64(self) -> u64;
}

macro_rules! register {
    ($t:ty) => {
        impl Register for $t {
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn shl(self, n: u32) -> Self {
                self.checked_shl(n).unwrap_or(0)
            }
            #[inline(always)]
            fn shr(self, n: u32) -> Self {
                self.checked_shr(n).unwrap_or(0)
            }
            #[inline(always)]
            fn low64(self) -> u64 {
                self as u64
            }
        }
    };
}
register!(u64);
register!(u128);

/// The lanes of `r`, lane 0 first. `N` lanes of `T` must fill `R` exactly.
#[inline(always)]
pub fn get<R: Pod, T: Pod, const N: usize>(r: &R) -> [T; N] {
    const { assert!(size_of::<R>() == size_of::<[T; N]>()) };
    let mut lanes: [T; N] = *bytemuck::cast_ref(r);
    if cfg!(target_endian = "big") {
        lanes.reverse();
    }
    lanes
}

/// Replaces `r` by `lanes`, lane 0 first.
#[inline(always)]
pub fn set<R: Pod, T: Pod, const N: usize>(r: &mut R, mut lanes: [T; N]) {
    const { assert!(size_of::<R>() == size_of::<[T; N]>()) };
    if cfg!(target_endian = "big") {
        lanes.reverse();
    }
    *bytemuck::cast_mut(r) = lanes;
}

/// `d[i] = f(d[i], s[i])` for every lane of type `T`.
#[inline(always)]
pub fn zip<R: Pod, T: Pod>(d: &mut R, s: &R, f: impl Fn(T, T) -> T) {
    let d: &mut [T] = bytemuck::cast_slice_mut(core::slice::from_mut(d));
    let s: &[T] = bytemuck::cast_slice(core::slice::from_ref(s));
    for (d, s) in d.iter_mut().zip(s) {
        *d = f(*d, *s);
    }
}

/// `d[i] = f(d[i])` for every lane of type `T`.
#[inline(always)]
pub fn map<R: Pod, T: Pod>(d: &mut R, f: impl Fn(T) -> T) {
    let d: &mut [T] = bytemuck::cast_slice_mut(core::slice::from_mut(d));
    for d in d {
        *d = f(*d);
    }
}
