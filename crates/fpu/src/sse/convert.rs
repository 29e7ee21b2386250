//! Conversions. The forms with MMX registers are the packed integer conversions of the host on
//! the low half of a vector whose upper half is zero, which raises nothing.

use super::Simd;
use super::arithmetic::run;
use crate::host::sse as host;
use crate::mxcsr::Mxcsr;

const LOW: u128 = u64::MAX as u128;

macro_rules! between_vectors {
    ($($name:ident)*) => {$(
        pub(super) fn $name(dst: u128, src: u128, _: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
            run(mxcsr, |control| host::$name(dst, src, control))
        }
    )*};
}

between_vectors! {
    cvtps2pd cvtpd2ps cvtss2sd cvtsd2ss cvtdq2ps cvtdq2pd cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq
}

macro_rules! to_integer {
    ($($name:ident)*) => {$(
        pub(super) fn $name(src: u128, _: u8, mxcsr: &mut Mxcsr) -> Simd<u64> {
            run(mxcsr, |control| host::$name(src, control))
        }
    )*};
}

to_integer! {
    cvtss2si_32 cvtss2si_64 cvtsd2si_32 cvtsd2si_64
    cvttss2si_32 cvttss2si_64 cvttsd2si_32 cvttsd2si_64
}

macro_rules! from_integer {
    ($($name:ident)*) => {$(
        pub(super) fn $name(dst: u128, value: u64, mxcsr: &mut Mxcsr) -> Simd<u128> {
            run(mxcsr, |control| host::$name(dst, value, control))
        }
    )*};
}

from_integer! { cvtsi2ss_32 cvtsi2ss_64 cvtsi2sd_32 cvtsi2sd_64 }

/// `CVTPI2PS`: replaces the low half of the destination.
pub(super) fn cvtpi2ps(dst: u128, value: u64, mxcsr: &mut Mxcsr) -> Simd<u128> {
    let low = run(mxcsr, |control| host::cvtdq2ps(0, u128::from(value), control))?;
    Ok((dst & !LOW) | (low & LOW))
}

/// `CVTPI2PD`: exact, replaces the whole destination.
pub(super) fn cvtpi2pd(dst: u128, value: u64, mxcsr: &mut Mxcsr) -> Simd<u128> {
    run(mxcsr, |control| host::cvtdq2pd(dst, u128::from(value), control))
}

macro_rules! to_mmx {
    ($($name:ident $host:ident $source:expr;)*) => {$(
        pub(super) fn $name(src: u128, mxcsr: &mut Mxcsr) -> Simd<u64> {
            Ok(run(mxcsr, |control| host::$host(0, src & $source, control))? as u64)
        }
    )*};
}

to_mmx! {
    cvtps2pi cvtps2dq LOW;
    cvttps2pi cvttps2dq LOW;
    cvtpd2pi cvtpd2dq u128::MAX;
    cvttpd2pi cvttpd2dq u128::MAX;
}
