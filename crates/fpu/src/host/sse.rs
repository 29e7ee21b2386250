//! SSE instructions on the host's unit, each under a given MXCSR and with its own exception flags.

use core::arch::asm;
use core::arch::x86_64::__m128i;
use core::mem::transmute;
use core::ptr::{from_mut, from_ref};

/// The MXCSR that the ABI guarantees, apart from the flags.
const DEFAULT_MXCSR: u32 = 0x1f80;
static RESTORE: u32 = DEFAULT_MXCSR;

fn vector(bits: u128) -> __m128i {
    // SAFETY: both types are 16 bytes and every bit pattern is valid for both.
    unsafe { transmute(bits) }
}

fn bits(vector: __m128i) -> u128 {
    // SAFETY: both types are 16 bytes and every bit pattern is valid for both.
    unsafe { transmute(vector) }
}

/// The exception flags of MXCSR.
const FLAGS: u32 = 0x3f;

/// Runs instructions under the control bits of `control` (all exceptions masked) and evaluates to
/// exception flags. The flags in `control` are those that the guest has set already: the result
/// may contain any of them; of the others it contains what the instructions raised.
///
/// Loading MXCSR costs more than most instructions, so with the default control bits the
/// instructions run first under the flags that the host happens to have; only if the outcome
/// contains a flag that the guest does not have, they run again with the flags cleared.
macro_rules! run {
    ($control:expr, [$($op:literal)*], $($operands:tt)*) => { 'run: {
        let wanted: u32 = $control;
        let mut control: u32 = wanted & !FLAGS;
        if control == DEFAULT_MXCSR {
            // SAFETY: the pointer is to a live word; MXCSR keeps its default control bits.
            unsafe {
                asm!(
                    $($op,)* "stmxcsr dword ptr [{control}]",
                    control = in(reg) from_mut(&mut control),
                    $($operands)*
                    options(nostack)
                );
            }
            if control & FLAGS & !wanted == 0 {
                break 'run control & FLAGS;
            }
            control = wanted & !FLAGS;
        }
        // SAFETY: the pointers are to live words; the default MXCSR is restored. The callers
        // pass control words in which all exceptions are masked.
        unsafe {
            asm!(
                "ldmxcsr dword ptr [{control}]", $($op,)* "stmxcsr dword ptr [{control}]",
                "ldmxcsr dword ptr [{restore}]",
                control = in(reg) from_mut(&mut control),
                restore = in(reg) from_ref(&RESTORE),
                $($operands)*
                options(nostack)
            );
        }
        control & FLAGS
    }};
}

/// Destination and source to destination, and flags.
pub(crate) type BinaryFn = fn(u128, u128, u32) -> (u128, u32);

macro_rules! binary {
    ($($name:ident $op:literal)*) => {$(
        #[inline]
        pub(crate) fn $name(dst: u128, src: u128, control: u32) -> (u128, u32) {
            let mut d: __m128i;
            let flags = run!(control, [$op], d = inout(xmm_reg) vector(dst) => d, s = in(xmm_reg) vector(src),);
            (bits(d), flags)
        }
    )*};
}

macro_rules! compare_predicate {
    ($($name:ident $op:literal)*) => {$(
        #[inline]
        pub(crate) fn $name<const P: u8>(dst: u128, src: u128, control: u32) -> (u128, u32) {
            let mut d: __m128i;
            let flags = run!(control, [$op],
                d = inout(xmm_reg) vector(dst) => d, s = in(xmm_reg) vector(src), p = const P,);
            (bits(d), flags)
        }
    )*};
}

macro_rules! compare_flags {
    ($($name:ident $op:literal)*) => {$(
        /// The low byte of EFLAGS (ZF, PF, CF) and the exception flags.
        pub(crate) fn $name(first: u128, second: u128, control: u32) -> (u8, u32) {
            let mut ordering: u16;
            let flags = run!(control, [$op "lahf"],
                d = in(xmm_reg) vector(first), s = in(xmm_reg) vector(second),
                out("ax") ordering,);
            ((ordering >> 8) as u8, flags)
        }
    )*};
}

macro_rules! to_integer {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(src: u128, control: u32) -> (u64, u32) {
            let mut value: u64;
            let flags = run!(control, [$op],
                r = out(reg) value, s = in(xmm_reg) vector(src),);
            (value, flags)
        }
    )*};
}

macro_rules! from_integer {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(dst: u128, value: u64, control: u32) -> (u128, u32) {
            let mut d: __m128i;
            let flags = run!(control, [$op], d = inout(xmm_reg) vector(dst) => d, r = in(reg) value,);
            (bits(d), flags)
        }
    )*};
}

binary! {
    addps "addps {d}, {s}" addss "addss {d}, {s}" addpd "addpd {d}, {s}" addsd "addsd {d}, {s}"
    subps "subps {d}, {s}" subss "subss {d}, {s}" subpd "subpd {d}, {s}" subsd "subsd {d}, {s}"
    mulps "mulps {d}, {s}" mulss "mulss {d}, {s}" mulpd "mulpd {d}, {s}" mulsd "mulsd {d}, {s}"
    divps "divps {d}, {s}" divss "divss {d}, {s}" divpd "divpd {d}, {s}" divsd "divsd {d}, {s}"
    minps "minps {d}, {s}" minss "minss {d}, {s}" minpd "minpd {d}, {s}" minsd "minsd {d}, {s}"
    maxps "maxps {d}, {s}" maxss "maxss {d}, {s}" maxpd "maxpd {d}, {s}" maxsd "maxsd {d}, {s}"
    sqrtps "sqrtps {d}, {s}" sqrtss "sqrtss {d}, {s}"
    sqrtpd "sqrtpd {d}, {s}" sqrtsd "sqrtsd {d}, {s}"
    rcpps "rcpps {d}, {s}" rcpss "rcpss {d}, {s}"
    rsqrtps "rsqrtps {d}, {s}" rsqrtss "rsqrtss {d}, {s}"
    addsubps "addsubps {d}, {s}" addsubpd "addsubpd {d}, {s}"
    haddps "haddps {d}, {s}" haddpd "haddpd {d}, {s}"
    hsubps "hsubps {d}, {s}" hsubpd "hsubpd {d}, {s}"
    // The lanes are chosen by the callers through zeroed operands.
    dpps_all "dpps {d}, {s}, 0xff" dppd_all "dppd {d}, {s}, 0x33"
    // Rounding by MXCSR.RC; the immediate is translated by the callers.
    roundps "roundps {d}, {s}, 4" roundss "roundss {d}, {s}, 4"
    roundpd "roundpd {d}, {s}, 4" roundsd "roundsd {d}, {s}, 4"
    cvtps2pd "cvtps2pd {d}, {s}" cvtpd2ps "cvtpd2ps {d}, {s}"
    cvtss2sd "cvtss2sd {d}, {s}" cvtsd2ss "cvtsd2ss {d}, {s}"
    cvtdq2ps "cvtdq2ps {d}, {s}" cvtdq2pd "cvtdq2pd {d}, {s}"
    cvtps2dq "cvtps2dq {d}, {s}" cvttps2dq "cvttps2dq {d}, {s}"
    cvtpd2dq "cvtpd2dq {d}, {s}" cvttpd2dq "cvttpd2dq {d}, {s}"
}

compare_predicate! {
    cmpps "cmpps {d}, {s}, {p}" cmpss "cmpss {d}, {s}, {p}"
    cmppd "cmppd {d}, {s}, {p}" cmpsd "cmpsd {d}, {s}, {p}"
}

compare_flags! {
    comiss "comiss {d}, {s}" comisd "comisd {d}, {s}"
    ucomiss "ucomiss {d}, {s}" ucomisd "ucomisd {d}, {s}"
}

to_integer! {
    cvtss2si_32 "cvtss2si {r:e}, {s}" cvtss2si_64 "cvtss2si {r:r}, {s}"
    cvtsd2si_32 "cvtsd2si {r:e}, {s}" cvtsd2si_64 "cvtsd2si {r:r}, {s}"
    cvttss2si_32 "cvttss2si {r:e}, {s}" cvttss2si_64 "cvttss2si {r:r}, {s}"
    cvttsd2si_32 "cvttsd2si {r:e}, {s}" cvttsd2si_64 "cvttsd2si {r:r}, {s}"
}

from_integer! {
    cvtsi2ss_32 "cvtsi2ss {d}, {r:e}" cvtsi2ss_64 "cvtsi2ss {d}, {r:r}"
    cvtsi2sd_32 "cvtsi2sd {d}, {r:e}" cvtsi2sd_64 "cvtsi2sd {d}, {r:r}"
}
