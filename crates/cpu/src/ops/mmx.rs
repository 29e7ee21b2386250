//! MMX: data movement, and the glue to the semantics in crate `simd`.
//!
//! Every MMX instruction makes the transition that tags all x87 registers valid (SDM vol. 1, 9.5.1); a pending
//! x87 exception is raised before.

use super::address::{load_sized, store_sized};
use super::operand::{get, get_rm, set, set_rm};
use super::{Op, Semantics, flag};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;
use simd::VectorOp;

/// #UD, #NM, #MF.
pub(super) fn check(cpu: &mut Cpu) -> Exec {
    cpu.check_mmx()
}

/// The checks and the transition.
pub(super) fn enter(cpu: &mut Cpu) -> Exec {
    check(cpu)?;
    cpu.x87.enter_mmx();
    Ok(())
}

/// EMMS: TOP becomes 0, all registers empty.
pub(super) fn emms(cpu: &mut Cpu, _op: &Op) -> Exec {
    enter(cpu)?;
    cpu.x87.emms();
    Ok(())
}

/// A 64-bit source: register, or `extra` bytes of memory.
fn source(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
    if op.has(flag::MEM) { load_sized(cpu, op, op.extra.min(8)) } else { Ok(cpu.x87.mmx_get(op.src)) }
}

/// MOVQ mm, mm/m64.
pub(super) fn load(cpu: &mut Cpu, op: &Op) -> Exec {
    check(cpu)?;
    let value = source(cpu, op)?;
    cpu.x87.enter_mmx();
    cpu.x87.mmx_set(op.dst, value);
    Ok(())
}

/// MOVQ mm/m64, mm, and MOVNTQ.
pub(super) fn store(cpu: &mut Cpu, op: &Op) -> Exec {
    check(cpu)?;
    let value = cpu.x87.mmx_get(op.src);
    if op.has(flag::MEM) {
        store_sized(cpu, op, 8, value)?;
    } else {
        cpu.x87.mmx_set(op.dst, value);
    }
    cpu.x87.enter_mmx();
    Ok(())
}

/// MOVD and MOVQ from a general register or memory.
pub(super) fn from_general(cpu: &mut Cpu, op: &Op) -> Exec {
    check(cpu)?;
    let value = get_rm(cpu, op, op.size, op.src)?;
    cpu.x87.enter_mmx();
    cpu.x87.mmx_set(op.dst, value);
    Ok(())
}

/// MOVD and MOVQ to a general register or memory.
pub(super) fn to_general(cpu: &mut Cpu, op: &Op) -> Exec {
    check(cpu)?;
    let value = cpu.x87.mmx_get(op.src) & super::operand::mask(op.size);
    set_rm(cpu, op, op.size, op.dst, value)?;
    cpu.x87.enter_mmx();
    Ok(())
}

/// MASKMOVQ.
pub(super) fn masked_store(cpu: &mut Cpu, op: &Op) -> Exec {
    // The transition stays even if the store faults.
    enter(cpu)?;
    let mask = simd::byte_mask_mmx(cpu.x87.mmx_get(op.src));
    let value = cpu.x87.mmx_get(op.dst);
    super::string::masked_store(cpu, op, u128::from(value), u16::from(mask), 8)
}

/// Everything that computes.
pub(super) fn packed(cpu: &mut Cpu, op: &Op) -> Exec {
    let Some(Semantics::Vector(semantics)) = op.semantics else { return Err(Fault::ud()) };
    check(cpu)?;
    match semantics {
        VectorOp::Mmx(f) => {
            let b = source(cpu, op)?;
            cpu.x87.enter_mmx();
            let mut value = cpu.x87.mmx_get(op.dst);
            f(&mut value, &b, op.imm as u8);
            cpu.x87.mmx_set(op.dst, value);
        }
        VectorOp::MmxToGpr(f) => {
            let value = f(cpu.x87.mmx_get(op.src), op.imm as u8);
            cpu.x87.enter_mmx();
            set(cpu, 8, op.dst, value);
        }
        VectorOp::MmxFromGpr(f) => {
            let b = if op.has(flag::MEM) { load_sized(cpu, op, op.extra)? } else { get(cpu, 8, op.src) };
            cpu.x87.enter_mmx();
            let mut value = cpu.x87.mmx_get(op.dst);
            f(&mut value, b, op.imm as u8);
            cpu.x87.mmx_set(op.dst, value);
        }
        _ => return Err(Fault::ud()),
    }
    Ok(())
}
