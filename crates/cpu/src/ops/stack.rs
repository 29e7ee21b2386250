//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE and what CALL and RET need of the stack.
//!
//! The width of the stack pointer comes from the stack segment, the size of the items from the instruction.

use super::address::{Addr, Any, load_in, load_linear, stack_fault, store_in, store_linear};
use super::operand::{get, set};
use super::{Op, S64, Size, address, flag};
use crate::cpuid::Vendor;
use crate::fault::Exec;
use crate::state::{Cpu, gpr};
use x86::regs::SegmentRegister;

const SS: u8 = SegmentRegister::Ss as u8;

/// The mask of the stack pointer.
#[inline(always)]
fn stack_mask(cpu: &Cpu) -> u64 {
    u64::MAX >> (64 - u32::from(cpu.mode.stack))
}

fn set_sp(cpu: &mut Cpu, value: u64) {
    let size = cpu.mode.stack / 8;
    set(cpu, size, gpr::RSP as u8, value);
}

/// The item `distance` bytes above the top of the stack.
pub(super) fn top(cpu: &mut Cpu, distance: u64, size: u8) -> Exec<u64> {
    let at = cpu.gpr[gpr::RSP].wrapping_add(distance) & stack_mask(cpu);
    load_in(cpu, SS, at, size)
}

/// Raises the stack pointer.
pub(super) fn release(cpu: &mut Cpu, bytes: u64) {
    set_sp(cpu, cpu.gpr[gpr::RSP].wrapping_add(bytes));
}

/// Pushes in 64-bit mode.
#[inline(always)]
pub(super) fn push_flat<S: Size>(cpu: &mut Cpu, value: u64) -> Exec {
    let rsp = cpu.gpr[gpr::RSP].wrapping_sub(S::BYTES);
    store_linear::<S>(cpu, rsp, value).map_err(|fault| stack_fault(SS, fault))?;
    cpu.gpr[gpr::RSP] = rsp;
    Ok(())
}

/// Pushes with any stack.
pub(super) fn push(cpu: &mut Cpu, size: u8, value: u64) -> Exec {
    let at = cpu.gpr[gpr::RSP].wrapping_sub(u64::from(size)) & stack_mask(cpu);
    store_in(cpu, SS, at, size, value)?;
    set_sp(cpu, at);
    Ok(())
}

/// PUSH register in 64-bit mode.
pub(super) fn push_r64(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S64::get(cpu, op.dst);
    push_flat::<S64>(cpu, value)
}

/// POP register in 64-bit mode.
pub(super) fn pop_r64(cpu: &mut Cpu, op: &Op) -> Exec {
    let rsp = cpu.gpr[gpr::RSP];
    let value = load_linear::<S64>(cpu, rsp).map_err(|fault| stack_fault(SS, fault))?;
    cpu.gpr[gpr::RSP] = rsp.wrapping_add(8);
    S64::set(cpu, op.dst, value);
    Ok(())
}

/// PUSH of a register, an immediate or memory.
pub(super) fn push_any(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = if op.has(flag::IMM) { op.imm } else { super::operand::get_rm(cpu, op, op.size, op.dst)? };
    push(cpu, op.size, value)
}

/// PUSH of a segment register: the upper half of a wide item is zero; with 32 bits it is not written at all by Intel's
/// processors.
pub(super) fn push_segment(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = u64::from(cpu.selector(address::segment(op.src)));
    if op.size != 4 || cpu.features.vendor == Vendor::Amd {
        return push(cpu, op.size, value);
    }
    let at = cpu.gpr[gpr::RSP].wrapping_sub(4) & stack_mask(cpu);
    store_in(cpu, SS, at, 2, value)?;
    set_sp(cpu, at);
    Ok(())
}

/// POP of a register or memory. The address of a memory operand is computed with the raised stack pointer.
pub(super) fn pop_any(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = top(cpu, 0, op.size)?;
    let before = cpu.gpr[gpr::RSP];
    release(cpu, u64::from(op.size));
    if !op.has(flag::MEM) {
        set(cpu, op.size, op.dst, value);
        return Ok(());
    }
    let stored = address::store_sized(cpu, op, op.size, value);
    if stored.is_err() {
        cpu.gpr[gpr::RSP] = before;
    }
    stored
}

/// POP of a segment register.
pub(super) fn pop_segment(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = top(cpu, 0, if op.size == 8 { 8 } else { op.size })? as u16;
    cpu.next_rip = super::branch::following(cpu, op);
    // The width of the stack pointer is that of the old stack segment, also when this loads SS.
    let (before, width) = (cpu.gpr[gpr::RSP], cpu.mode.stack / 8);
    cpu.load_segment(address::segment(op.dst), selector)?;
    set(cpu, width, gpr::RSP as u8, before.wrapping_add(u64::from(op.size)));
    super::system::after_segment_load(cpu, op.dst);
    Ok(())
}

/// PUSHA: a fault leaves the stack pointer, and what has been stored before it.
pub(super) fn push_all(cpu: &mut Cpu, op: &Op) -> Exec {
    let (size, mask) = (u64::from(op.size), stack_mask(cpu));
    let sp = cpu.gpr[gpr::RSP];
    for register in 0..8u8 {
        let at = sp.wrapping_sub(size * (u64::from(register) + 1)) & mask;
        let value = get(cpu, op.size, register);
        store_in(cpu, SS, at, op.size, value)?;
    }
    set_sp(cpu, sp.wrapping_sub(8 * size));
    Ok(())
}

/// POPA; the saved stack pointer is skipped. A fault leaves the stack pointer, and the registers as far as they have been
/// popped.
pub(super) fn pop_all(cpu: &mut Cpu, op: &Op) -> Exec {
    let size = u64::from(op.size);
    for (distance, register) in (0..).zip((0..8u8).rev()) {
        let value = top(cpu, size * distance, op.size)?;
        if usize::from(register) != gpr::RSP {
            set(cpu, op.size, register, value);
        }
    }
    release(cpu, 8 * size);
    Ok(())
}

/// ENTER: `imm` is the frame size, `aux` the nesting level.
pub(super) fn enter(cpu: &mut Cpu, op: &Op) -> Exec {
    let (size, mask) = (u64::from(op.size), stack_mask(cpu));
    let level = u64::from(op.aux & 31);
    let (sp, bp) = (cpu.gpr[gpr::RSP], cpu.gpr[gpr::RBP]);
    let mut at = sp.wrapping_sub(size);
    let value = get(cpu, op.size, gpr::RBP as u8);
    store_in(cpu, SS, at & mask, op.size, value)?;
    // The frame pointer is the whole stack pointer after the push: a 16-bit stack keeps its upper half.
    let frame = sp & !mask | at & mask;
    for depth in 1..level {
        let from = bp.wrapping_sub(size * depth) & mask;
        let display = load_in(cpu, SS, from, op.size)?;
        at = at.wrapping_sub(size);
        store_in(cpu, SS, at & mask, op.size, display)?;
    }
    if level > 0 {
        at = at.wrapping_sub(size);
        store_in(cpu, SS, at & mask, op.size, frame)?;
    }
    let end = at.wrapping_sub(op.imm & 0xffff);
    // The manual wants the new top to be writable.
    let linear = address::linear_in::<true>(cpu, SS, end & mask, size)?;
    cpu.probe_write(linear, op.size.into()).map_err(|fault| stack_fault(SS, fault))?;
    set_sp(cpu, end);
    set(cpu, op.size, gpr::RBP as u8, frame);
    Ok(())
}

/// LEAVE.
pub(super) fn leave(cpu: &mut Cpu, op: &Op) -> Exec {
    let mask = stack_mask(cpu);
    let frame = cpu.gpr[gpr::RBP] & mask;
    let value = load_in(cpu, SS, frame, op.size)?;
    set_sp(cpu, frame.wrapping_add(u64::from(op.size)));
    set(cpu, op.size, gpr::RBP as u8, value);
    Ok(())
}

/// PUSH of memory, 64-bit mode.
pub(super) fn push_m64(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = Any::load::<S64>(cpu, op)?;
    push_flat::<S64>(cpu, value)
}
