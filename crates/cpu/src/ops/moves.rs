//! MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc.

use super::address::{Addr, address_mask, offset};
use super::operand::{get_rm, set, set_rm};
use super::{Op, Size};
use crate::fault::Exec;
use crate::state::Cpu;

/// MOV register, register.
pub(super) fn rr<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S::get(cpu, op.src);
    S::set(cpu, op.dst, value);
    Ok(())
}

/// MOV register, immediate.
pub(super) fn ri<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    S::set(cpu, op.dst, op.imm);
    Ok(())
}

/// MOV register, memory.
pub(super) fn rm<S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = A::load::<S>(cpu, op)?;
    S::set(cpu, op.dst, value);
    Ok(())
}

/// MOV memory, register.
pub(super) fn mr<S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S::get(cpu, op.src);
    A::store::<S>(cpu, op, value)
}

/// MOV memory, immediate.
pub(super) fn mi<S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    A::store::<S>(cpu, op, op.imm)
}

/// MOVZX register, register: `F` is the source's size.
pub(super) fn zero_rr<S: Size, F: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = F::get(cpu, op.src);
    S::set(cpu, op.dst, value);
    Ok(())
}

/// MOVZX register, memory.
pub(super) fn zero_rm<S: Size, F: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = A::load::<F>(cpu, op)?;
    S::set(cpu, op.dst, value);
    Ok(())
}

/// MOVSX and MOVSXD register, register.
pub(super) fn sign_rr<S: Size, F: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = F::sign_extend(F::get(cpu, op.src));
    S::set(cpu, op.dst, value as u64 & S::MASK);
    Ok(())
}

/// MOVSX and MOVSXD register, memory.
pub(super) fn sign_rm<S: Size, F: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = F::sign_extend(A::load::<F>(cpu, op)?);
    S::set(cpu, op.dst, value as u64 & S::MASK);
    Ok(())
}

/// LEA in 64-bit mode with 64-bit addresses: base + displacement.
pub(super) fn lea_base<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.gpr[usize::from(op.base & 15)].wrapping_add(i64::from(op.disp) as u64);
    S::set(cpu, op.dst, value & S::MASK);
    Ok(())
}

/// LEA with 64-bit addresses: base + index × scale + displacement.
pub(super) fn lea_indexed<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let index = cpu.gpr[usize::from(op.index & 15)] << (op.scale & 3);
    let value = cpu.gpr[usize::from(op.base & 15)].wrapping_add(index).wrapping_add(i64::from(op.disp) as u64);
    S::set(cpu, op.dst, value & S::MASK);
    Ok(())
}

/// LEA, any form.
pub(super) fn lea<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = offset(cpu, op) & address_mask(op);
    S::set(cpu, op.dst, value & S::MASK);
    Ok(())
}

/// CMOVcc: the source is read, and a 32-bit destination zero-extended, whatever the condition.
pub(super) fn cmov<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let source = get_rm(cpu, op, op.size, op.src)?;
    let value = if cpu.flags.condition::<CC>() { source } else { super::operand::get(cpu, op.size, op.dst) };
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// CMOVcc between registers.
pub(super) fn cmov_rr<const CC: u8, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let from = if cpu.flags.condition::<CC>() { op.src } else { op.dst };
    let value = S::get(cpu, from);
    S::set(cpu, op.dst, value);
    Ok(())
}

/// SETcc.
pub(super) fn set_cc<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = u64::from(cpu.flags.condition::<CC>());
    set_rm(cpu, op, 1, op.dst, value)
}
