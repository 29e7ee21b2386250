//! Register operands by size, and the r/m operand of rare instructions.

use super::address::{load_sized, store_sized};
use super::{Op, flag};
use crate::fault::Exec;
use crate::state::Cpu;

/// An operand size. Values travel zero-extended in a `u64`.
pub(crate) trait Size {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: u64 = Self::BITS as u64 / 8;
    /// All bits of the size.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);

    /// Reads a register.
    fn get(cpu: &Cpu, reg: u8) -> u64;

    /// Writes a register; 32 bits clear the upper half, 8 and 16 keep the rest.
    fn set(cpu: &mut Cpu, reg: u8, value: u64);

    /// Sign-extends to 64 bits.
    #[inline(always)]
    fn sign_extend(value: u64) -> i64 {
        ((value << (64 - Self::BITS)) as i64) >> (64 - Self::BITS)
    }
}

/// Bytes, with AH … BH as 16 … 19.
pub(crate) struct S8;
/// Words.
pub(crate) struct S16;
/// Double words.
pub(crate) struct S32;
/// Quad words.
pub(crate) struct S64;

impl Size for S8 {
    const BITS: u32 = 8;

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        let shift = u32::from(reg & 16) >> 1;
        cpu.gpr[usize::from(reg & 15)] >> shift & 0xff
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        let shift = u32::from(reg & 16) >> 1;
        let full = &mut cpu.gpr[usize::from(reg & 15)];
        *full = *full & !(0xff << shift) | (value & 0xff) << shift;
    }
}

impl Size for S16 {
    const BITS: u32 = 16;

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        cpu.gpr[usize::from(reg & 15)] & 0xffff
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        let full = &mut cpu.gpr[usize::from(reg & 15)];
        *full = *full & !0xffff | value & 0xffff;
    }
}

impl Size for S32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        u64::from(cpu.gpr[usize::from(reg & 15)] as u32)
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        cpu.gpr[usize::from(reg & 15)] = u64::from(value as u32);
    }
}

impl Size for S64 {
    const BITS: u32 = 64;

    #[inline(always)]
    fn get(cpu: &Cpu, reg: u8) -> u64 {
        cpu.gpr[usize::from(reg & 15)]
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, reg: u8, value: u64) {
        cpu.gpr[usize::from(reg & 15)] = value;
    }
}

/// Reads a register of `size` bytes.
#[inline]
pub(super) fn get(cpu: &Cpu, size: u8, reg: u8) -> u64 {
    match size {
        1 => S8::get(cpu, reg),
        2 => S16::get(cpu, reg),
        4 => S32::get(cpu, reg),
        _ => S64::get(cpu, reg),
    }
}

/// Writes a register of `size` bytes.
#[inline]
pub(super) fn set(cpu: &mut Cpu, size: u8, reg: u8, value: u64) {
    match size {
        1 => S8::set(cpu, reg, value),
        2 => S16::set(cpu, reg, value),
        4 => S32::set(cpu, reg, value),
        _ => S64::set(cpu, reg, value),
    }
}

/// All the bits of `size` bytes.
#[inline]
pub(super) fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

/// Reads the operand that is memory, or else the register `reg`.
#[inline]
pub(super) fn get_rm(cpu: &mut Cpu, op: &Op, size: u8, reg: u8) -> Exec<u64> {
    if op.has(flag::MEM) { load_sized(cpu, op, size) } else { Ok(get(cpu, size, reg)) }
}

/// Writes the operand that is memory, or else the register `reg`.
#[inline]
pub(super) fn set_rm(cpu: &mut Cpu, op: &Op, size: u8, reg: u8, value: u64) -> Exec {
    if op.has(flag::MEM) {
        store_sized(cpu, op, size, value)
    } else {
        set(cpu, size, reg, value);
        Ok(())
    }
}
