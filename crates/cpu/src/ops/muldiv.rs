//! MUL, IMUL, DIV, IDIV, MULX.
//!
//! SF, ZF, AF and PF after a multiplication and all flags after a division are undefined (SDM vol. 2): they are what the
//! host's instruction leaves.

use super::native_int::{self, Accumulator};
use super::operand::{get, get_rm, set};
use super::{Op, S8, S16, S32, S64, Size, flag};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;

const RAX: u8 = 0;
const RDX: u8 = 2;

fn set_accumulator<S: Size>(cpu: &mut Cpu, value: Accumulator) {
    if S::BITS == 8 {
        S16::set(cpu, RAX, value.low);
    } else {
        S::set(cpu, RAX, value.low);
        S::set(cpu, RDX, value.high);
    }
}

/// MUL and one-operand IMUL: the accumulator's double width = accumulator × r/m.
pub(super) fn wide<const SIGNED: bool, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.dst)?;
    let mut ax = cpu.flags.to_ax();
    let product = native_int::multiply::<SIGNED, S>(&mut ax, cpu.gpr[usize::from(RAX)], b);
    cpu.flags.set_ax(ax);
    set_accumulator::<S>(cpu, product);
    Ok(())
}

/// IMUL with two or three operands: `a × b` truncated.
pub(super) fn truncated<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.src)?;
    let a = if op.has(flag::IMM) { op.imm } else { S::get(cpu, op.dst) };
    let mut ax = cpu.flags.to_ax();
    let product = native_int::imul::<S>(&mut ax, a, b);
    cpu.flags.set_ax(ax);
    S::set(cpu, op.dst, product);
    Ok(())
}

/// DIV (`SIGNED` false) and IDIV, which truncates towards zero: #DE on a zero divisor and when the quotient does not fit.
fn divide<const SIGNED: bool, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.dst)?;
    let dividend = Accumulator { low: cpu.gpr[usize::from(RAX)], high: cpu.gpr[usize::from(RDX)] };
    let mut ax = cpu.flags.to_ax();
    let quotient = if SIGNED {
        native_int::divide_signed::<S>(&mut ax, dividend, b)
    } else {
        native_int::divide_unsigned::<S>(&mut ax, dividend, b)
    };
    let Some(quotient) = quotient else { return Err(Fault::de()) };
    cpu.flags.set_ax(ax);
    set_accumulator::<S>(cpu, quotient);
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
by_size!(div_handler, divide, false);
by_size!(idiv_handler, divide, true);
