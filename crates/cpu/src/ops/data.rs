//! Widening, exchanging, flag and table instructions.

use super::address::load_in;
use super::operand::{get, mask, set};
use super::{Op, S8, S16, S32, S64, Size, address};
use crate::fault::{Exec, Fault};
use crate::flags::ARITHMETIC;
use crate::state::Cpu;
use x86::regs::rflags;

const RAX: u8 = 0;
const RBX: usize = 3;
const RDX: u8 = 2;

/// NOP, PAUSE, prefetches, ENDBR, fences without an effect here.
pub(super) fn nop(_cpu: &mut Cpu, _op: &Op) -> Exec {
    Ok(())
}

/// LFENCE, SFENCE and MFENCE: only the last orders stores before loads.
pub(super) fn fence(_cpu: &mut Cpu, _op: &Op) -> Exec {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// Instructions that are not there.
pub(super) fn undefined(_cpu: &mut Cpu, _op: &Op) -> Exec {
    Err(Fault::ud())
}

/// More than 15 bytes.
pub(super) fn too_long(_cpu: &mut Cpu, _op: &Op) -> Exec {
    Err(Fault::gp0())
}

/// CBW, CWDE, CDQE.
pub(super) fn widen(cpu: &mut Cpu, op: &Op) -> Exec {
    let half = 8 * u32::from(op.size) / 2;
    let value = get(cpu, op.size, RAX) << (64 - half);
    set(cpu, op.size, RAX, ((value as i64) >> (64 - half)) as u64 & mask(op.size));
    Ok(())
}

/// CWD, CDQ, CQO.
pub(super) fn widen_to_dx(cpu: &mut Cpu, op: &Op) -> Exec {
    let sign = get(cpu, op.size, RAX) >> (8 * u32::from(op.size) - 1) & 1;
    set(cpu, op.size, RDX, if sign != 0 { mask(op.size) } else { 0 });
    Ok(())
}

/// XCHG of registers.
pub(super) fn exchange<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (S::get(cpu, op.dst), S::get(cpu, op.src));
    S::set(cpu, op.dst, b);
    S::set(cpu, op.src, a);
    Ok(())
}

/// The XCHG handler for an operand size.
pub(super) fn exchange_handler(size: u8) -> super::Handler {
    match size {
        1 => exchange::<S8>,
        2 => exchange::<S16>,
        4 => exchange::<S32>,
        _ => exchange::<S64>,
    }
}

/// XLAT.
pub(super) fn xlat(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = cpu.gpr[RBX].wrapping_add(cpu.gpr[0] & 0xff) & address::address_mask(op);
    let value = load_in(cpu, op.seg, at, 1)?;
    S8::set(cpu, RAX, value);
    Ok(())
}

/// LAHF.
pub(super) fn lahf(cpu: &mut Cpu, _op: &Op) -> Exec {
    let flags = cpu.flags.bits() & 0xff | rflags::FIXED;
    S8::set(cpu, 16, flags);
    Ok(())
}

/// SAHF.
pub(super) fn sahf(cpu: &mut Cpu, _op: &Op) -> Exec {
    let kept = cpu.flags.bits() & rflags::OF;
    cpu.flags.set_bits(kept | S8::get(cpu, 16) & ARITHMETIC & 0xff);
    Ok(())
}

/// SALC.
pub(super) fn salc(cpu: &mut Cpu, _op: &Op) -> Exec {
    let value = if cpu.flags.cf() { 0xff } else { 0 };
    S8::set(cpu, RAX, value);
    Ok(())
}

/// CLC (0), STC (1), CMC (2).
pub(super) fn carry<const KIND: u8>(cpu: &mut Cpu, _op: &Op) -> Exec {
    let cf = match KIND {
        0 => false,
        1 => true,
        _ => !cpu.flags.cf(),
    };
    cpu.flags.set_cf(cf);
    Ok(())
}

/// CLD and STD.
pub(super) fn direction<const SET: bool>(cpu: &mut Cpu, _op: &Op) -> Exec {
    if SET {
        cpu.system_flags |= rflags::DF;
    } else {
        cpu.system_flags &= !rflags::DF;
    }
    Ok(())
}

/// BOUND: two signed limits in memory.
pub(super) fn bound(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = address::offset(cpu, op);
    let second = at.wrapping_add(u64::from(op.size)) & address::address_mask(op);
    let low = load_in(cpu, op.seg, at, op.size)?;
    let high = load_in(cpu, op.seg, second, op.size)?;
    let index = get(cpu, op.size, op.dst);
    let signed = |value: u64| if op.size == 2 { i64::from(value as i16) } else { i64::from(value as i32) };
    if signed(index) < signed(low) || signed(index) > signed(high) {
        return Err(Fault::br());
    }
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB, CLDEMOTE: checked as a byte load; caches are not modelled.
pub(super) fn cache_line(cpu: &mut Cpu, op: &Op) -> Exec {
    address::load_sized(cpu, op, 1).map(drop)
}

/// RDRAND and RDSEED: always succeed.
pub(super) fn random(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = crate::entropy::next() & mask(op.size);
    set(cpu, op.size, op.dst, value);
    cpu.flags.set_bits(rflags::CF);
    Ok(())
}
