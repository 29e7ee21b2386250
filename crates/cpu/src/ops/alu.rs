//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG and NOT.

use super::address::Addr;
use super::{Op, Size};
use crate::fault::Exec;
use crate::flags::LazyFlags;
use crate::state::Cpu;

/// An operation of two operands that writes the arithmetic flags.
pub(super) trait Alu {
    /// Whether the result is stored.
    const WRITES: bool = true;

    /// Computes and sets the flags.
    fn run<S: Size>(flags: &mut LazyFlags, a: u64, b: u64) -> u64;
}

macro_rules! alu {
    ($($(#[$doc:meta])* $name:ident, $writes:literal, |$flags:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Alu for $name {
            const WRITES: bool = $writes;

            #[inline(always)]
            fn run<S: Size>($flags: &mut LazyFlags, $a: u64, $b: u64) -> u64 {
                $body
            }
        }
    )*};
}

alu! {
    /// ADD.
    Add, true, |flags, a, b| {
        let r = a.wrapping_add(b) & S::MASK;
        flags.set_add(a, b, r, S::BITS);
        r
    };
    /// OR.
    Or, true, |flags, a, b| {
        let r = a | b;
        flags.set_logic(r, S::BITS);
        r
    };
    /// ADC.
    Adc, true, |flags, a, b| {
        let r = a.wrapping_add(b).wrapping_add(u64::from(flags.cf())) & S::MASK;
        flags.set_add(a, b, r, S::BITS);
        r
    };
    /// SBB.
    Sbb, true, |flags, a, b| {
        let r = a.wrapping_sub(b).wrapping_sub(u64::from(flags.cf())) & S::MASK;
        flags.set_sub(a, b, r, S::BITS);
        r
    };
    /// AND.
    And, true, |flags, a, b| {
        let r = a & b;
        flags.set_logic(r, S::BITS);
        r
    };
    /// SUB.
    Sub, true, |flags, a, b| {
        let r = a.wrapping_sub(b) & S::MASK;
        flags.set_sub(a, b, r, S::BITS);
        r
    };
    /// XOR.
    Xor, true, |flags, a, b| {
        let r = a ^ b;
        flags.set_logic(r, S::BITS);
        r
    };
    /// CMP.
    Cmp, false, |flags, a, b| {
        let r = a.wrapping_sub(b) & S::MASK;
        flags.set_sub(a, b, r, S::BITS);
        r
    };
    /// TEST.
    Test, false, |flags, a, b| {
        let r = a & b;
        flags.set_logic(r, S::BITS);
        r
    };
}

/// Register, register.
pub(super) fn rr<K: Alu, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (S::get(cpu, op.dst), S::get(cpu, op.src));
    let r = K::run::<S>(&mut cpu.flags, a, b);
    if K::WRITES {
        S::set(cpu, op.dst, r);
    }
    Ok(())
}

/// Register, immediate (already truncated to the size).
pub(super) fn ri<K: Alu, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = S::get(cpu, op.dst);
    let r = K::run::<S>(&mut cpu.flags, a, op.imm);
    if K::WRITES {
        S::set(cpu, op.dst, r);
    }
    Ok(())
}

/// Register, memory.
pub(super) fn rm<K: Alu, S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = A::load::<S>(cpu, op)?;
    let a = S::get(cpu, op.dst);
    let r = K::run::<S>(&mut cpu.flags, a, b);
    if K::WRITES {
        S::set(cpu, op.dst, r);
    }
    Ok(())
}

/// Memory, register.
pub(super) fn mr<K: Alu, S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = S::get(cpu, op.src);
    if K::WRITES {
        A::modify::<S>(cpu, op, |flags, a| K::run::<S>(flags, a, b))
    } else {
        let a = A::load::<S>(cpu, op)?;
        K::run::<S>(&mut cpu.flags, a, b);
        Ok(())
    }
}

/// Memory, immediate.
pub(super) fn mi<K: Alu, S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = op.imm;
    if K::WRITES {
        A::modify::<S>(cpu, op, |flags, a| K::run::<S>(flags, a, b))
    } else {
        let a = A::load::<S>(cpu, op)?;
        K::run::<S>(&mut cpu.flags, a, b);
        Ok(())
    }
}

/// Under LOCK: memory, register or immediate.
pub(super) fn locked<K: Alu, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = if op.has(super::flag::IMM) { op.imm } else { S::get(cpu, op.src) };
    super::atomic::modify::<S>(cpu, op, |flags, a| K::run::<S>(flags, a, b))
}

/// An operation of one operand.
pub(super) trait Unary {
    /// Computes and sets the flags.
    fn run<S: Size>(flags: &mut LazyFlags, a: u64) -> u64;
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident, |$flags:ident, $a:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Unary for $name {
            #[inline(always)]
            fn run<S: Size>($flags: &mut LazyFlags, $a: u64) -> u64 {
                $body
            }
        }
    )*};
}

unary! {
    /// INC.
    Inc, |flags, a| {
        let r = a.wrapping_add(1) & S::MASK;
        flags.set_inc(a, r, S::BITS);
        r
    };
    /// DEC.
    Dec, |flags, a| {
        let r = a.wrapping_sub(1) & S::MASK;
        flags.set_dec(a, r, S::BITS);
        r
    };
    /// NEG.
    Neg, |flags, a| {
        let r = 0u64.wrapping_sub(a) & S::MASK;
        flags.set_sub(0, a, r, S::BITS);
        r
    };
    /// NOT: no flags.
    Not, |_flags, a| !a & S::MASK;
}

/// Register.
pub(super) fn unary_r<K: Unary, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = S::get(cpu, op.dst);
    let r = K::run::<S>(&mut cpu.flags, a);
    S::set(cpu, op.dst, r);
    Ok(())
}

/// Memory.
pub(super) fn unary_m<K: Unary, S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    A::modify::<S>(cpu, op, |flags, a| K::run::<S>(flags, a))
}

/// Memory under LOCK.
pub(super) fn unary_locked<K: Unary, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    super::atomic::modify::<S>(cpu, op, |flags, a| K::run::<S>(flags, a))
}
