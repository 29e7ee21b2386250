//! Integer instructions with undefined flags, executed by the host's own instruction.
//!
//! The translator runs such an instruction on the host as it is. So that both tiers agree bit for bit, the interpreter
//! takes result and flags from the same instruction: what is undefined, and what a processor leaves unchanged, is what
//! this host's does. The flags go in and out in AX, in the form of LAHF and SETO AL (see
//! [`LazyFlags::to_ax`](crate::flags::LazyFlags::to_ax)).
//!
//! Not here, since all known processors agree with what the handlers compute: AND, OR, XOR and TEST clear AF; bit tests
//! leave OF, SF, ZF, AF and PF. The tests compare both with the host.

use std::arch::{asm, is_x86_feature_detected};

use super::Size;

/// Runs `$text` between loading the flags from AX (the addition sets OF from AL, SAHF the others) and storing them
/// there.
macro_rules! with_flags {
    ($ax:ident, [$($text:expr),*], $($operands:tt)*) => {
        // SAFETY: the instructions touch only the registers named here and the flags. Those that can fault, the
        // divisions, come after a check that they do not; those that not every host has, after a look at its features.
        unsafe {
            asm!(
                "add al, 127", "sahf", $($text,)* "lahf", "seto al",
                $($operands)*, inout("rax") *$ax, options(pure, nomem, nostack)
            );
        }
    };
}

/// Expands `$run` with the modifier that gives a register the size of the operand.
macro_rules! by_size {
    ($size:ident, $run:ident) => {
        match $size::BITS {
            8 => $run!("l"),
            16 => $run!("x"),
            32 => $run!("e"),
            _ => $run!("r"),
        }
    };
}

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident = $mnemonic:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name<S: Size>(ax: &mut u64, mut value: u64, count: u32) -> u64 {
            macro_rules! run {
                ($m:literal) => {
                    with_flags!(ax, [concat!($mnemonic, " {0:", $m, "}, cl")], inout(reg) value, in("ecx") count)
                };
            }
            by_size!(S, run);
            value & S::MASK
        }
    )*};
}

shifts! {
    /// SHL.
    shl = "shl";
    /// SHR.
    shr = "shr";
    /// SAR.
    sar = "sar";
    /// ROL.
    rol = "rol";
    /// ROR.
    ror = "ror";
    /// RCL.
    rcl = "rcl";
    /// RCR.
    rcr = "rcr";
}

/// SHLD (`LEFT`) or SHRD, 16 to 64 bits. Beyond 16 bits of a word the result is undefined too.
#[inline(always)]
pub(super) fn double_shift<const LEFT: bool, S: Size>(ax: &mut u64, mut value: u64, from: u64, count: u32) -> u64 {
    macro_rules! run {
        ($mnemonic:literal, $m:literal) => {
            with_flags!(
                ax, [concat!($mnemonic, " {0:", $m, "}, {1:", $m, "}, cl")],
                inout(reg) value, in(reg) from, in("ecx") count
            )
        };
    }
    match (S::BITS, LEFT) {
        (16, true) => run!("shld", "x"),
        (32, true) => run!("shld", "e"),
        (_, true) => run!("shld", "r"),
        (16, false) => run!("shrd", "x"),
        (32, false) => run!("shrd", "e"),
        (_, false) => run!("shrd", "r"),
    }
    value & S::MASK
}

/// RAX and RDX, the accumulator of MUL, DIV and their relatives; of byte operands only AX.
#[derive(Clone, Copy)]
pub(super) struct Accumulator {
    /// RAX.
    pub low: u64,
    /// RDX.
    pub high: u64,
}

macro_rules! accumulating {
    ($($(#[$doc:meta])* $name:ident = $mnemonic:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        fn $name<S: Size>(ax: &mut u64, accumulator: Accumulator, operand: u64) -> Accumulator {
            let Accumulator { mut low, mut high } = accumulator;
            macro_rules! run {
                ($m:literal) => {
                    with_flags!(
                        ax, ["mov rax, {0}", concat!($mnemonic, " {1:", $m, "}"), "mov {0}, rax"],
                        inout(reg) low, in(reg) operand, inout("rdx") high
                    )
                };
            }
            by_size!(S, run);
            Accumulator { low, high }
        }
    )*};
}

accumulating! {
    unsigned_product = "mul";
    signed_product = "imul";
    /// The quotient must fit.
    unsigned_quotient = "div";
    /// The quotient must fit.
    signed_quotient = "idiv";
}

/// MUL and IMUL with one operand.
#[inline(always)]
pub(super) fn multiply<const SIGNED: bool, S: Size>(ax: &mut u64, a: u64, b: u64) -> Accumulator {
    let accumulator = Accumulator { low: a, high: 0 };
    if SIGNED { signed_product::<S>(ax, accumulator, b) } else { unsigned_product::<S>(ax, accumulator, b) }
}

/// IMUL with two or three operands, 16 to 64 bits.
#[inline(always)]
pub(super) fn imul<S: Size>(ax: &mut u64, mut a: u64, b: u64) -> u64 {
    match S::BITS {
        16 => with_flags!(ax, ["imul {0:x}, {1:x}"], inout(reg) a, in(reg) b),
        32 => with_flags!(ax, ["imul {0:e}, {1:e}"], inout(reg) a, in(reg) b),
        _ => with_flags!(ax, ["imul {0}, {1}"], inout(reg) a, in(reg) b),
    }
    a & S::MASK
}

/// DIV; `None` where it raises #DE.
#[inline(always)]
pub(super) fn divide_unsigned<S: Size>(ax: &mut u64, dividend: Accumulator, divisor: u64) -> Option<Accumulator> {
    // The quotient fits if and only if the upper half is less than the divisor, which then is not zero.
    let high = if S::BITS == 8 { dividend.low >> 8 & 0xff } else { dividend.high & S::MASK };
    if high >= divisor & S::MASK {
        return None;
    }
    Some(unsigned_quotient::<S>(ax, dividend, divisor))
}

/// IDIV; `None` where it raises #DE.
#[inline(always)]
pub(super) fn divide_signed<S: Size>(ax: &mut u64, dividend: Accumulator, divisor: u64) -> Option<Accumulator> {
    let Accumulator { low, high } = dividend;
    let b = S::sign_extend(divisor);
    if b == 0 {
        return None;
    }
    let (a_low, a_high) = if S::BITS == 8 {
        (S::sign_extend(low), S::sign_extend(low >> 8))
    } else {
        (S::sign_extend(low), S::sign_extend(high))
    };
    if a_high == a_low >> 63 {
        // The dividend is as wide as the divisor: only -2^(n-1) / -1 overflows.
        if b == -1 && a_low == i64::MIN >> (64 - S::BITS) {
            return None;
        }
    } else {
        let a = i128::from(a_high) << S::BITS | i128::from(a_low as u64 & S::MASK);
        let quotient = a.checked_div(i128::from(b))?;
        if i128::from(S::sign_extend(quotient as u64)) != quotient {
            return None;
        }
    }
    Some(signed_quotient::<S>(ax, dividend, divisor))
}

/// BSF or BSR (`REVERSE`), 16 to 64 bits: `target` is the whole destination register before and after, since what a
/// source of zero does to it is the host's matter.
#[inline(always)]
pub(super) fn scan<const REVERSE: bool>(ax: &mut u64, size: u8, mut target: u64, source: u64) -> u64 {
    macro_rules! run {
        ($mnemonic:literal, $m:literal) => {
            with_flags!(
                ax, [concat!($mnemonic, " {0:", $m, "}, {1:", $m, "}")],
                inout(reg) target, in(reg) source
            )
        };
    }
    match (size, REVERSE) {
        (2, false) => run!("bsf", "x"),
        (4, false) => run!("bsf", "e"),
        (_, false) => run!("bsf", "r"),
        (2, true) => run!("bsr", "x"),
        (4, true) => run!("bsr", "e"),
        (_, true) => run!("bsr", "r"),
    }
    target
}

macro_rules! optional {
    ($($(#[$doc:meta])* $name:ident($($operand:ident),*), $feature:tt, $text16:tt $text32:tt $text64:tt;)*) => {$(
        $(#[$doc])*
        #[doc = "`None` where the host has not got it."]
        #[inline(always)]
        pub(super) fn $name(ax: &mut u64, size: u8, $($operand: u64),*) -> Option<u64> {
            if !is_x86_feature_detected!($feature) {
                return None;
            }
            let result: u64;
            match size {
                2 => optional!(@ $text16, ax, result, $($operand),*),
                4 => optional!(@ $text32, ax, result, $($operand),*),
                _ => optional!(@ $text64, ax, result, $($operand),*),
            }
            Some(result)
        }
    )*};
    (@ _, $ax:ident, $result:ident, $($operand:ident),*) => { return None };
    (@ $text:literal, $ax:ident, $result:ident, $($operand:ident),*) => {
        with_flags!($ax, [$text], out(reg) $result, $(in(reg) $operand),*)
    };
}

optional! {
    /// TZCNT.
    tzcnt(source), "bmi1", "tzcnt {0:x}, {1:x}" "tzcnt {0:e}, {1:e}" "tzcnt {0}, {1}";
    /// LZCNT.
    lzcnt(source), "lzcnt", "lzcnt {0:x}, {1:x}" "lzcnt {0:e}, {1:e}" "lzcnt {0}, {1}";
    /// ANDN.
    andn(inverted, source), "bmi1", _ "andn {0:e}, {1:e}, {2:e}" "andn {0}, {1}, {2}";
    /// BLSR.
    blsr(source), "bmi1", _ "blsr {0:e}, {1:e}" "blsr {0}, {1}";
    /// BLSMSK.
    blsmsk(source), "bmi1", _ "blsmsk {0:e}, {1:e}" "blsmsk {0}, {1}";
    /// BLSI.
    blsi(source), "bmi1", _ "blsi {0:e}, {1:e}" "blsi {0}, {1}";
    /// BEXTR.
    bextr(source, control), "bmi1", _ "bextr {0:e}, {1:e}, {2:e}" "bextr {0}, {1}, {2}";
    /// BZHI.
    bzhi(source, index), "bmi2", _ "bzhi {0:e}, {1:e}, {2:e}" "bzhi {0}, {1}, {2}";
}
