//! SSE: data movement, and the glue between instructions and the semantics in crates `fpu` and `simd`.
//!
//! Order of checks (SDM vol. 2, tables 2-18 ff.): #UD (CR0.EM, CR4.OSFXSR), #NM (CR0.TS), then the memory operand, whose
//! 16 bytes must be aligned unless the instruction says otherwise, then SIMD floating-point exceptions.

use super::address::{load_bytes, load_sized, load_u128, store_sized, store_u128};
use super::operand::{get, get_rm, set, set_rm};
use super::{Op, Semantics, flag, mmx};
use crate::fault::{Exec, Fault};
use crate::state::{Cpu, gpr};
use fpu::SseOp;
use simd::VectorOp;
use x86::regs::rflags;

/// Checks that SSE instructions may run.
#[inline(always)]
pub(super) fn gate(cpu: &Cpu) -> Exec {
    cpu.check_sse()
}

#[inline(always)]
fn xmm(cpu: &Cpu, reg: u8) -> u128 {
    cpu.ymm[usize::from(reg & 15)].low
}

#[inline(always)]
fn set_xmm(cpu: &mut Cpu, reg: u8, value: u128) {
    cpu.ymm[usize::from(reg & 15)].low = value;
}

/// [`Op::extra`] of a 16-byte source that need not be aligned: the SHA instructions of AMD's processors.
pub(super) const UNALIGNED: u8 = 17;

const LOW64: u128 = u64::MAX as u128;
const LOW32: u128 = u32::MAX as u128;

/// Sixteen bytes from register or memory.
pub(super) fn load<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = if op.has(flag::MEM) { load_u128::<ALIGNED>(cpu, op)? } else { xmm(cpu, op.src) };
    set_xmm(cpu, op.dst, value);
    Ok(())
}

/// Sixteen bytes to register or memory.
pub(super) fn store<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = xmm(cpu, op.src);
    if op.has(flag::MEM) {
        store_u128::<ALIGNED>(cpu, op, value)
    } else {
        set_xmm(cpu, op.dst, value);
        Ok(())
    }
}

/// MOVSS and MOVSD to a register: memory clears the upper part, a register keeps it. `extra` is the size.
pub(super) fn load_scalar(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    if op.has(flag::MEM) {
        let value = load_sized(cpu, op, op.extra)?;
        set_xmm(cpu, op.dst, u128::from(value));
    } else {
        merge(cpu, op, op.dst, op.src);
    }
    Ok(())
}

fn merge(cpu: &mut Cpu, op: &Op, dst: u8, src: u8) {
    let low = if op.extra == 4 { LOW32 } else { LOW64 };
    let value = xmm(cpu, dst) & !low | xmm(cpu, src) & low;
    set_xmm(cpu, dst, value);
}

/// MOVSS and MOVSD from a register.
pub(super) fn store_scalar(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    if op.has(flag::MEM) {
        let value = xmm(cpu, op.src) as u64;
        return store_sized(cpu, op, op.extra, value);
    }
    merge(cpu, op, op.dst, op.src);
    Ok(())
}

/// MOVQ between XMM registers and memory: the upper half is cleared.
pub(super) fn move_quad(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = if op.has(flag::MEM) { load_sized(cpu, op, 8)? } else { xmm(cpu, op.src) as u64 };
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// MOVQ to memory or an XMM register.
pub(super) fn store_quad(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = xmm(cpu, op.src) as u64;
    if op.has(flag::MEM) {
        return store_sized(cpu, op, 8, value);
    }
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// MOVLPS, MOVLPD, MOVHPS, MOVHPD from memory.
pub(super) fn load_half<const HIGH: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = u128::from(load_sized(cpu, op, 8)?);
    let old = xmm(cpu, op.dst);
    set_xmm(cpu, op.dst, if HIGH { old & LOW64 | value << 64 } else { old & !LOW64 | value });
    Ok(())
}

/// MOVLPS, MOVLPD, MOVHPS, MOVHPD to memory.
pub(super) fn store_half<const HIGH: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = xmm(cpu, op.src);
    store_sized(cpu, op, 8, if HIGH { (value >> 64) as u64 } else { value as u64 })
}

/// MOVHLPS and MOVLHPS.
pub(super) fn move_half<const TO_HIGH: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let (old, source) = (xmm(cpu, op.dst), xmm(cpu, op.src));
    set_xmm(cpu, op.dst, if TO_HIGH { old & LOW64 | source << 64 } else { old & !LOW64 | source >> 64 });
    Ok(())
}

/// MOVD and MOVQ from a general register or memory.
pub(super) fn from_general(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = get_rm(cpu, op, op.size, op.src)?;
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// MOVD and MOVQ to a general register or memory.
pub(super) fn to_general(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = xmm(cpu, op.src) as u64;
    set_rm(cpu, op, op.size, op.dst, value)
}

/// MOVQ2DQ.
pub(super) fn from_mmx(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    mmx::enter(cpu)?;
    let value = cpu.x87.mmx_get(op.src);
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// MOVDQ2Q.
pub(super) fn to_mmx(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    mmx::enter(cpu)?;
    let value = xmm(cpu, op.src) as u64;
    cpu.x87.mmx_set(op.dst, value);
    Ok(())
}

/// MASKMOVDQU.
pub(super) fn masked_store(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let mask = simd::byte_mask_xmm(xmm(cpu, op.src));
    let value = xmm(cpu, op.dst);
    super::string::masked_store(cpu, op, value, mask, 16)
}

/// LDMXCSR: reserved bits are #GP.
pub(super) fn load_mxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    load_mxcsr_unchecked(cpu, op)
}

/// What LDMXCSR and VLDMXCSR do when they may run.
pub(super) fn load_mxcsr_unchecked(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = load_sized(cpu, op, 4)? as u32;
    if value & !fpu::Mxcsr::WRITABLE != 0 {
        return Err(Fault::gp0());
    }
    cpu.mxcsr = fpu::Mxcsr(value);
    Ok(())
}

/// STMXCSR.
pub(super) fn store_mxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let value = u64::from(cpu.mxcsr.0);
    store_sized(cpu, op, 4, value)
}

/// The source of a vector instruction: a register, or `extra` bytes of memory, zero-extended.
#[inline]
fn source(cpu: &mut Cpu, op: &Op) -> Exec<u128> {
    if !op.has(flag::MEM) {
        return Ok(xmm(cpu, op.src));
    }
    match op.extra {
        16 => load_u128::<true>(cpu, op),
        UNALIGNED => load_u128::<false>(cpu, op),
        size @ (1 | 2 | 4 | 8) => load_sized(cpu, op, size).map(u128::from),
        size => {
            let mut bytes = [0; 16];
            if let Some(part) = bytes.get_mut(..usize::from(size)) {
                load_bytes(cpu, op, part)?;
            }
            Ok(u128::from_le_bytes(bytes))
        }
    }
}

/// SSE floating point, `f(xmm, source, imm8)`.
pub(super) fn float_binary(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let Some(Semantics::Sse(SseOp::Binary(f))) = op.semantics else { return Err(Fault::ud()) };
    let b = source(cpu, op)?;
    let a = xmm(cpu, op.dst);
    match f(a, b, op.imm as u8, &mut cpu.mxcsr) {
        Ok(value) => {
            set_xmm(cpu, op.dst, value);
            Ok(())
        }
        Err(_) => Err(cpu.simd_fault()),
    }
}

/// The other shapes of SSE floating point.
pub(super) fn float_other(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let Some(Semantics::Sse(semantics)) = op.semantics else { return Err(Fault::ud()) };
    match semantics {
        SseOp::Binary(_) => return float_binary(cpu, op),
        SseOp::BinaryXmm0(f) => {
            let b = source(cpu, op)?;
            let value = f(xmm(cpu, op.dst), b, cpu.ymm[0].low);
            set_xmm(cpu, op.dst, value);
        }
        SseOp::Insert(f) => {
            let from = if op.has(flag::MEM) {
                fpu::InsertSource::Memory(load_sized(cpu, op, 4)? as u32)
            } else {
                fpu::InsertSource::Register(xmm(cpu, op.src))
            };
            let value = f(xmm(cpu, op.dst), from, op.imm as u8);
            set_xmm(cpu, op.dst, value);
        }
        SseOp::Compare(f) => {
            let b = source(cpu, op)?;
            let a = xmm(cpu, op.dst);
            let outcome = f(a, b, &mut cpu.mxcsr).map_err(|_| cpu.simd_fault())?;
            cpu.flags.set_bits(u64::from(outcome.eflags()));
        }
        SseOp::ToGpr(f) => {
            // EXTRACTPS has its memory operand as the destination.
            let to_memory = op.has(flag::MEM) && op.has(flag::LOCK);
            let a = if to_memory { xmm(cpu, op.src) } else { source(cpu, op)? };
            let value = f(a, op.imm as u8, &mut cpu.mxcsr).map_err(|_| cpu.simd_fault())?;
            if to_memory {
                return store_sized(cpu, op, 4, value);
            }
            set(cpu, 8, op.dst, value);
        }
        SseOp::FromGpr(f) => {
            let b = get_rm(cpu, op, op.size, op.src)?;
            let a = xmm(cpu, op.dst);
            let value = f(a, b, &mut cpu.mxcsr).map_err(|_| cpu.simd_fault())?;
            set_xmm(cpu, op.dst, value);
        }
        SseOp::MmxToXmm { convert, memory_enters_mmx } => {
            let from_memory = op.has(flag::MEM);
            // AMD's processors make no transition for a memory source (the decoder marks them with REP).
            let enters = !from_memory || *memory_enters_mmx && !op.has(flag::REP);
            if enters {
                mmx::check(cpu)?;
            }
            let b = if from_memory { load_sized(cpu, op, 8)? } else { cpu.x87.mmx_get(op.src) };
            if enters {
                cpu.x87.enter_mmx();
            }
            let a = xmm(cpu, op.dst);
            let value = convert(a, b, &mut cpu.mxcsr).map_err(|_| cpu.simd_fault())?;
            set_xmm(cpu, op.dst, value);
        }
        SseOp::XmmToMmx(f) => {
            mmx::check(cpu)?;
            let b = source(cpu, op)?;
            cpu.x87.enter_mmx();
            let value = f(b, &mut cpu.mxcsr).map_err(|_| cpu.simd_fault())?;
            cpu.x87.mmx_set(op.dst, value);
        }
    }
    Ok(())
}

/// Packed integers, `f(&mut xmm, &source, imm8)`.
pub(super) fn packed(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let Some(Semantics::Vector(VectorOp::Xmm(f))) = op.semantics else { return Err(Fault::ud()) };
    let b = source(cpu, op)?;
    f(&mut cpu.ymm[usize::from(op.dst & 15)].low, &b, op.imm as u8);
    Ok(())
}

/// The other shapes of packed-integer instructions on XMM registers.
pub(super) fn packed_other(cpu: &mut Cpu, op: &Op) -> Exec {
    gate(cpu)?;
    let Some(Semantics::Vector(semantics)) = op.semantics else { return Err(Fault::ud()) };
    match semantics {
        VectorOp::XmmXmm0(f) => {
            let (b, implicit) = (source(cpu, op)?, cpu.ymm[0].low);
            f(&mut cpu.ymm[usize::from(op.dst & 15)].low, &b, &implicit);
        }
        VectorOp::ToGpr(f) => {
            let value = f(xmm(cpu, op.src), op.imm as u8);
            if op.has(flag::MEM) {
                return store_sized(cpu, op, op.extra, value);
            }
            set(cpu, 8, op.dst, value);
        }
        VectorOp::FromGpr(f) => {
            let value = if op.has(flag::MEM) { load_sized(cpu, op, op.extra)? } else { get(cpu, 8, op.src) };
            f(&mut cpu.ymm[usize::from(op.dst & 15)].low, value, op.imm as u8);
        }
        VectorOp::Flags(f) => {
            let b = source(cpu, op)?;
            let flags = f(&xmm(cpu, op.dst), &b);
            set_flags(cpu, flags);
        }
        VectorOp::String(string) => {
            let b = if op.has(flag::MEM) { load_u128::<false>(cpu, op)? } else { xmm(cpu, op.src) };
            let (rax, rdx) = (cpu.gpr[gpr::RAX], cpu.gpr[gpr::RDX]);
            let (result, flags) = string.run(&xmm(cpu, op.dst), &b, rax, rdx, op.imm as u8);
            match result {
                simd::StringResult::Index(index) => cpu.gpr[gpr::RCX] = u64::from(index),
                simd::StringResult::Mask(mask) => cpu.ymm[0].low = mask,
            }
            set_flags(cpu, flags);
        }
        _ => return Err(Fault::ud()),
    }
    Ok(())
}

fn set_flags(cpu: &mut Cpu, flags: simd::VectorFlags) {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    cpu.flags.set_bits(
        bit(flags.cf, rflags::CF) | bit(flags.zf, rflags::ZF) | bit(flags.sf, rflags::SF) | bit(flags.of, rflags::OF),
    );
}
