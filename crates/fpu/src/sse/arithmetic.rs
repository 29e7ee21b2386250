//! Arithmetic, comparison and rounding: the host's instruction under the guest's MXCSR, then the
//! guest's exception masks.

use super::{Simd, from_lanes32, from_lanes64};
use crate::compare::Comparison;
use crate::host::sse as host;
use crate::mxcsr::{Mxcsr, SimdException};

/// Runs a host operation that maps an MXCSR to a result and flags, and settles the exceptions.
#[inline]
pub(super) fn run<T>(mxcsr: &mut Mxcsr, op: impl Fn(u32) -> (T, u32)) -> Simd<T> {
    let control = mxcsr.host_control();
    let (value, flags) = op(control);
    if mxcsr.all_masked() {
        mxcsr.0 |= flags;
        return Ok(value);
    }
    let flags = flags | unmasked_underflow(*mxcsr, control, &op);
    mxcsr.settle(flags)?;
    Ok(value)
}

/// With underflow unmasked a tiny result is an underflow even if it is exact (SDM volume 1,
/// section 4.9.1.5), which the masked host does not report. With FTZ it does.
#[cold]
fn unmasked_underflow<T>(mxcsr: Mxcsr, control: u32, op: impl Fn(u32) -> (T, u32)) -> u32 {
    if mxcsr.underflow_masked() {
        return 0;
    }
    let (_, flags) = op(control | Mxcsr::FTZ);
    flags & Mxcsr::UNDERFLOW
}

macro_rules! binary {
    ($($name:ident)*) => {$(
        pub(super) fn $name(dst: u128, src: u128, _: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
            run(mxcsr, |control| host::$name(dst, src, control))
        }
    )*};
}

binary! {
    addps addss addpd addsd subps subss subpd subsd mulps mulss mulpd mulsd divps divss divpd divsd
    minps minss minpd minsd maxps maxss maxpd maxsd sqrtps sqrtss sqrtpd sqrtsd
    addsubps addsubpd haddps haddpd hsubps hsubpd
}

macro_rules! approximation {
    ($($name:ident)*) => {$(
        /// An approximation: raises nothing and ignores the rounding control.
        pub(super) fn $name(dst: u128, src: u128, _: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
            Ok(host::$name(dst, src, mxcsr.host_control() | Mxcsr::FLAGS).0)
        }
    )*};
}

approximation! { rcpps rcpss rsqrtps rsqrtss }

macro_rules! compare_predicate {
    ($($name:ident)*) => {$(
        pub(super) fn $name(dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
            run(mxcsr, |control| match imm & 7 {
                0 => host::$name::<0>(dst, src, control),
                1 => host::$name::<1>(dst, src, control),
                2 => host::$name::<2>(dst, src, control),
                3 => host::$name::<3>(dst, src, control),
                4 => host::$name::<4>(dst, src, control),
                5 => host::$name::<5>(dst, src, control),
                6 => host::$name::<6>(dst, src, control),
                _ => host::$name::<7>(dst, src, control),
            })
        }
    )*};
}

compare_predicate! { cmpps cmpss cmppd cmpsd }

macro_rules! compare_flags {
    ($($name:ident)*) => {$(
        pub(super) fn $name(first: u128, second: u128, mxcsr: &mut Mxcsr) -> Simd<Comparison> {
            let flags = run(mxcsr, |control| host::$name(first, second, control))?;
            Ok(Comparison::from_flags(flags))
        }
    )*};
}

compare_flags! { comiss comisd ucomiss ucomisd }

/// Rounds with the immediate of `ROUNDPS`: bits 1..0 are the rounding mode unless bit 2 selects
/// MXCSR.RC; bit 3 suppresses the precision exception.
fn round(op: host::BinaryFn, dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
    run(mxcsr, |control| {
        let control = if imm & 4 == 0 { (control & !Mxcsr::ROUNDING) | u32::from(imm & 3) << 13 } else { control };
        let (value, flags) = op(dst, src, control);
        let suppressed = if imm & 8 == 0 { 0 } else { Mxcsr::PRECISION };
        (value, flags & !suppressed)
    })
}

macro_rules! rounding {
    ($($name:ident)*) => {$(
        pub(super) fn $name(dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
            round(host::$name, dst, src, imm, mxcsr)
        }
    )*};
}

rounding! { roundps roundss roundpd roundsd }

/// `DPPS`: lanes that the immediate does not select are zeroed in both operands, so that the
/// host's instruction with all lanes computes the same sum.
pub(super) fn dpps(dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
    let multiply = mask32(imm >> 4);
    let (a, b) = (dst & multiply, src & multiply);
    if !mxcsr.all_masked() {
        dot_product_exceptions([(host::mulps, a, b), (host::haddps, 0, 0), (host::haddps, 0, 0)], mxcsr)?;
    }
    Ok(run(mxcsr, |control| host::dpps_all(a, b, control))? & mask32(imm))
}

/// `DPPD`, in the same way.
pub(super) fn dppd(dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Simd<u128> {
    let multiply = mask64(imm >> 4);
    let (a, b) = (dst & multiply, src & multiply);
    if !mxcsr.all_masked() {
        dot_product_exceptions([(host::mulpd, a, b), (host::haddpd, 0, 0)], mxcsr)?;
    }
    Ok(run(mxcsr, |control| host::dppd_all(a, b, control))? & mask64(imm))
}

/// The exceptions of the steps of a dot product in their order: the operands of the first step
/// are given, later steps add neighbours of the result before.
fn dot_product_exceptions<const N: usize>(
    steps: [(host::BinaryFn, u128, u128); N],
    mxcsr: &mut Mxcsr,
) -> Result<(), SimdException> {
    let mut last = None;
    for (op, a, b) in steps {
        let (a, b) = last.map_or((a, b), |vector| (vector, vector));
        last = Some(run(mxcsr, |control| op(a, b, control))?);
    }
    Ok(())
}

/// All ones in the single-precision lanes that the low four bits select.
pub(super) const fn mask32(select: u8) -> u128 {
    from_lanes32([
        (select as u32 & 1).wrapping_neg(),
        (select as u32 >> 1 & 1).wrapping_neg(),
        (select as u32 >> 2 & 1).wrapping_neg(),
        (select as u32 >> 3 & 1).wrapping_neg(),
    ])
}

/// All ones in the double-precision lanes that the low two bits select.
pub(super) const fn mask64(select: u8) -> u128 {
    from_lanes64([(select as u64 & 1).wrapping_neg(), (select as u64 >> 1 & 1).wrapping_neg()])
}
