//! Near branches: Jcc, JMP, CALL, RET, LOOPcc, JCXZ, and the end of a block that has no branch.
//!
//! The last handler of a block leaves `cpu.rip` at the next instruction. `W` is the size of the instruction pointer
//! that the operand size gives.

use super::address::{self, Addr, address_mask};
use super::operand::{get, set};
use super::stack::{push, push_flat, top};
use super::{Op, S64, Size, flag};
use crate::cpuid::Vendor;
use crate::fault::{Exec, Fault};
use crate::state::{Cpu, gpr};
use x86::regs::SegmentRegister;

/// The width of the instruction pointer.
pub(super) trait Width {
    /// Bytes that CALL pushes.
    const BYTES: u8;
    /// What targets are truncated to.
    const MASK: u64;
}

/// 16-bit operand size.
pub(super) struct W16;
/// 32-bit operand size.
pub(super) struct W32;
/// 64-bit mode.
pub(super) struct W64;

impl Width for W16 {
    const BYTES: u8 = 2;
    const MASK: u64 = 0xffff;
}

impl Width for W32 {
    const BYTES: u8 = 4;
    const MASK: u64 = 0xffff_ffff;
}

impl Width for W64 {
    const BYTES: u8 = 8;
    const MASK: u64 = u64::MAX;
}

fn is_canonical(address: u64) -> bool {
    let high = (address as i64) >> 47;
    high == 0 || high == -1
}

/// Checks a branch target: the code segment's limit, or canonical form in 64-bit mode.
#[inline(always)]
fn check<W: Width>(cpu: &Cpu, target: u64) -> Exec {
    let valid = if W::BYTES == 8 {
        is_canonical(target)
    } else {
        // A 16-bit operand size in 64-bit mode (AMD) has no limit.
        cpu.mode.is_long64() || target <= u64::from(cpu.segs[SegmentRegister::Cs as usize].limit)
    };
    if valid { Ok(()) } else { Err(Fault::gp0()) }
}

/// The offset of the following instruction.
#[inline(always)]
pub(super) fn following(cpu: &Cpu, op: &Op) -> u64 {
    let next = cpu.rip.wrapping_add(u64::from(op.len));
    if cpu.mode.is_long64() { next } else { next & 0xffff_ffff }
}

#[inline(always)]
fn next<W: Width>(cpu: &Cpu, op: &Op) -> u64 {
    let next = cpu.rip.wrapping_add(u64::from(op.len));
    if W::BYTES == 8 { next } else { following(cpu, op) }
}

#[inline(always)]
fn relative<W: Width>(cpu: &Cpu, op: &Op) -> u64 {
    cpu.rip.wrapping_add(op.imm) & W::MASK
}

/// Ends a block: goes on at the following instruction (`len` is 0, `imm` the distance from `rip`).
pub(crate) fn fall_through(cpu: &mut Cpu, op: &Op) -> Exec {
    let next = cpu.rip.wrapping_add(op.imm);
    cpu.rip = if cpu.mode.is_long64() { next } else { next & 0xffff_ffff };
    Ok(())
}

/// Jcc.
pub(super) fn jcc<const CC: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flags.condition::<CC>() {
        jump::<W>(cpu, op)
    } else {
        cpu.rip = next::<W>(cpu, op);
        Ok(())
    }
}

/// JMP to a relative target.
#[inline(always)]
pub(super) fn jump<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = relative::<W>(cpu, op);
    check::<W>(cpu, target)?;
    cpu.rip = target;
    Ok(())
}

/// JMP r/m.
pub(super) fn jump_indirect<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = target_operand::<W>(cpu, op)?;
    check::<W>(cpu, target)?;
    cpu.rip = target;
    Ok(())
}

fn target_operand<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
    if op.has(flag::MEM) { address::load_sized(cpu, op, W::BYTES) } else { Ok(get(cpu, W::BYTES, op.dst)) }
}

/// CALL to a relative target.
pub(super) fn call<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = relative::<W>(cpu, op);
    check::<W>(cpu, target)?;
    let back = next::<W>(cpu, op);
    push_for::<W>(cpu, back)?;
    cpu.rip = target;
    Ok(())
}

#[inline(always)]
fn push_for<W: Width>(cpu: &mut Cpu, value: u64) -> Exec {
    if W::BYTES == 8 { push_flat::<S64>(cpu, value) } else { push(cpu, W::BYTES, value) }
}

/// A bad target of a call: a fault of the push comes first, as on AMD's processors.
#[cold]
fn bad_call(cpu: &mut Cpu, fault: Fault) -> Exec {
    if cpu.mode.is_long64() && cpu.features.vendor == Vendor::Amd {
        let top = cpu.gpr[gpr::RSP].wrapping_sub(8);
        cpu.probe_write(top, 8).map_err(|fault| address::stack_fault(2, fault))?;
    }
    Err(fault)
}

/// CALL r/m.
pub(super) fn call_indirect<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = target_operand::<W>(cpu, op)?;
    if let Err(fault) = check::<W>(cpu, target) {
        return bad_call(cpu, fault);
    }
    let back = next::<W>(cpu, op);
    push_for::<W>(cpu, back)?;
    cpu.rip = target;
    Ok(())
}

/// RET in 64-bit mode, without an immediate.
pub(super) fn ret_64(cpu: &mut Cpu, _op: &Op) -> Exec {
    let rsp = cpu.gpr[gpr::RSP];
    let target = cpu.read_u64(rsp).map_err(|fault| address::stack_fault(2, fault))?;
    check::<W64>(cpu, target)?;
    cpu.gpr[gpr::RSP] = rsp.wrapping_add(8);
    cpu.rip = target;
    Ok(())
}

/// RET with any size and immediate.
pub(super) fn ret<W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = top(cpu, 0, W::BYTES)? & W::MASK;
    check::<W>(cpu, target)?;
    super::stack::release(cpu, u64::from(W::BYTES).wrapping_add(op.imm & 0xffff));
    cpu.rip = target;
    Ok(())
}

/// LOOPNE (0), LOOPE (1), LOOP (2) and JCXZ (3). The counter has the address size.
pub(super) fn counted<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Exec {
    let size = address::address_size(op);
    let count = cpu.gpr[gpr::RCX] & address_mask(op);
    let left = if KIND == 3 { count } else { count.wrapping_sub(1) & address_mask(op) };
    let taken = match KIND {
        0 => left != 0 && !cpu.flags.zf(),
        1 => left != 0 && cpu.flags.zf(),
        2 => left != 0,
        _ => left == 0,
    };
    let target = if taken { relative::<W>(cpu, op) } else { next::<W>(cpu, op) };
    if taken {
        check::<W>(cpu, target)?;
    }
    if KIND != 3 {
        set(cpu, size, gpr::RCX as u8, left);
    }
    cpu.rip = target;
    Ok(())
}

/// JMP through memory in 64-bit mode, base + displacement or RIP-relative.
pub(super) fn jump_memory<A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = A::load::<S64>(cpu, op)?;
    check::<W64>(cpu, target)?;
    cpu.rip = target;
    Ok(())
}

/// CALL of a register in 64-bit mode.
pub(super) fn call_register(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = S64::get(cpu, op.dst);
    if let Err(fault) = check::<W64>(cpu, target) {
        return bad_call(cpu, fault);
    }
    let back = cpu.rip.wrapping_add(u64::from(op.len));
    push_flat::<S64>(cpu, back)?;
    cpu.rip = target;
    Ok(())
}
