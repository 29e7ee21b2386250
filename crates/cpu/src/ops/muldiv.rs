//! MUL, IMUL, DIV, IDIV, MULX.
//!
//! SF, ZF, AF and PF after a multiplication and all flags after a division are undefined (SDM vol. 2). Here a
//! multiplication takes SF, ZF and PF from the low half, and a division leaves the flags alone.

use super::operand::{get, get_rm, set};
use super::{Op, S8, S16, S32, S64, Size, flag};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;

const RAX: u8 = 0;
const RDX: u8 = 2;

/// MUL and one-operand IMUL: the accumulator's double width = accumulator × r/m.
pub(super) fn wide<const SIGNED: bool, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.dst)?;
    let a = S::get(cpu, RAX);
    let (low, high, overflow) = if SIGNED {
        let product = i128::from(S::sign_extend(a)) * i128::from(S::sign_extend(b));
        let low = product as u64 & S::MASK;
        (low, (product >> S::BITS) as u64 & S::MASK, product != i128::from(S::sign_extend(low)))
    } else {
        let product = u128::from(a) * u128::from(b);
        let high = (product >> S::BITS) as u64;
        (product as u64 & S::MASK, high, high != 0)
    };
    if S::BITS == 8 {
        S16::set(cpu, RAX, low | high << 8);
    } else {
        S::set(cpu, RAX, low);
        S::set(cpu, RDX, high);
    }
    cpu.flags.set_result(low, S::BITS, overflow, overflow, false);
    Ok(())
}

/// IMUL with two or three operands: `a × b` truncated.
pub(super) fn truncated<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.src)?;
    let a = if op.has(flag::IMM) { op.imm & S::MASK } else { S::get(cpu, op.dst) };
    let product = i128::from(S::sign_extend(a)) * i128::from(S::sign_extend(b));
    let low = product as u64 & S::MASK;
    let overflow = product != i128::from(S::sign_extend(low));
    S::set(cpu, op.dst, low);
    cpu.flags.set_result(low, S::BITS, overflow, overflow, false);
    Ok(())
}

/// DIV: #DE on a zero divisor and when the quotient does not fit.
pub(super) fn div<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.dst)?;
    if b == 0 {
        return Err(Fault::de());
    }
    if S::BITS == 8 {
        let a = S16::get(cpu, RAX);
        let (quotient, rest) = (a / b, a % b);
        if quotient > 0xff {
            return Err(Fault::de());
        }
        S16::set(cpu, RAX, quotient | rest << 8);
        return Ok(());
    }
    let (low, high) = (S::get(cpu, RAX), S::get(cpu, RDX));
    if high >= b {
        return Err(Fault::de());
    }
    let (quotient, rest) = if high == 0 {
        (low / b, low % b)
    } else if S::BITS < 64 {
        let a = high << (S::BITS & 63) | low;
        (a / b, a % b)
    } else {
        let a = u128::from(high) << 64 | u128::from(low);
        ((a / u128::from(b)) as u64, (a % u128::from(b)) as u64)
    };
    S::set(cpu, RAX, quotient);
    S::set(cpu, RDX, rest);
    Ok(())
}

/// IDIV: truncates towards zero; #DE as for DIV.
pub(super) fn idiv<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = i128::from(S::sign_extend(get_rm(cpu, op, op.size, op.dst)?));
    if b == 0 {
        return Err(Fault::de());
    }
    let a = if S::BITS == 8 {
        i128::from(S16::get(cpu, RAX) as i16)
    } else {
        i128::from(S::sign_extend(S::get(cpu, RDX))) << S::BITS | i128::from(S::get(cpu, RAX))
    };
    // i128 can hold every quotient but -2^127 / -1, which does not fit the register either.
    let (Some(quotient), Some(rest)) = (a.checked_div(b), a.checked_rem(b)) else {
        return Err(Fault::de());
    };
    let low = quotient as u64 & S::MASK;
    if i128::from(S::sign_extend(low)) != quotient {
        return Err(Fault::de());
    }
    if S::BITS == 8 {
        S16::set(cpu, RAX, low | (rest as u64 & 0xff) << 8);
    } else {
        S::set(cpu, RAX, low);
        S::set(cpu, RDX, rest as u64 & S::MASK);
    }
    Ok(())
}

/// MULX: `dst:extra = RDX × r/m`; no flags. When both destinations are the same register it gets the high half.
pub(super) fn mulx(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.src)?;
    let product = u128::from(b) * u128::from(get(cpu, op.size, RDX));
    let bits = 8 * u32::from(op.size);
    set(cpu, op.size, op.extra, product as u64);
    set(cpu, op.size, op.dst, (product >> bits) as u64);
    Ok(())
}

/// The handlers by operand size: MUL, IMUL (one operand), IMUL (truncating), DIV, IDIV.
macro_rules! by_size {
    ($name:ident, $f:ident $(, $signed:literal)?) => {
        #[doc = "The handler for an operand size in bytes."]
        pub(super) fn $name(size: u8) -> super::Handler {
            match size {
                1 => $f::<$($signed,)? S8>,
                2 => $f::<$($signed,)? S16>,
                4 => $f::<$($signed,)? S32>,
                _ => $f::<$($signed,)? S64>,
            }
        }
    };
}

by_size!(mul_handler, wide, false);
by_size!(imul_wide_handler, wide, true);
by_size!(imul_handler, truncated);
by_size!(div_handler, div);
by_size!(idiv_handler, idiv);
