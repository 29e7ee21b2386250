//! FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR (SDM vol. 1, chapter 13; vol. 2, FXSAVE).
//!
//! There are three state components: x87 and SSE, which both live in the legacy region, and AVX, the only one in the
//! extended region, so that the compacted form differs from the standard one only in its header. XSAVEOPT always writes
//! what is in use and not in its initial state.

use super::Op;
use super::address::{address_mask, linear_in, offset, read_bytes, stack_fault, write_bytes};
use crate::cpuid::{component, xsave_size};
use crate::fault::{Exec, Fault};
use crate::state::{Cpu, gpr};
use fpu::{FxsaveFormat, Mxcsr, X87};

/// XCOMP_BV bit that marks the compacted form.
const COMPACTED: u64 = 1 << 63;
const LEGACY: usize = 512;
const HEADER: u64 = 512;
const XMM_AT: usize = 160;

/// Where in the instruction family.
pub(super) mod kind {
    /// XSAVE.
    pub const XSAVE: u8 = 0;
    /// XSAVEOPT.
    pub const XSAVEOPT: u8 = 1;
    /// XSAVEC.
    pub const XSAVEC: u8 = 2;
}

fn format(op: &Op) -> FxsaveFormat {
    if op.size == 8 { FxsaveFormat::Long } else { FxsaveFormat::Legacy }
}

/// XMM registers that the mode can see.
fn visible(cpu: &Cpu) -> usize {
    if cpu.mode.is_long64() { 16 } else { 8 }
}

fn area(cpu: &mut Cpu, op: &Op, len: u64, align: u64, write: bool) -> Exec<u64> {
    let at = offset(cpu, op) & address_mask(op);
    let linear =
        if write { linear_in::<true>(cpu, op.seg, at, len) } else { linear_in::<false>(cpu, op.seg, at, len) }?;
    if linear & (align - 1) != 0 {
        return Err(Fault::gp0());
    }
    Ok(linear)
}

fn legacy_image(cpu: &Cpu, op: &Op) -> [u8; LEGACY] {
    let mut image = [0; LEGACY];
    let mut x87 = [0; 160];
    cpu.x87.fxsave(format(op), &mut x87);
    image[..160].copy_from_slice(&x87);
    image[24..28].copy_from_slice(&cpu.mxcsr.0.to_le_bytes());
    image[28..32].copy_from_slice(&Mxcsr::WRITABLE.to_le_bytes());
    for (slot, value) in image[XMM_AT..416].chunks_exact_mut(16).zip(&cpu.ymm) {
        slot.copy_from_slice(&value.low.to_le_bytes());
    }
    image
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn load_x87(cpu: &mut Cpu, op: &Op, image: &[u8; LEGACY]) {
    if let Some(part) = image.first_chunk::<160>() {
        cpu.x87.fxrstor(format(op), part);
    }
}

fn load_xmm(cpu: &mut Cpu, image: &[u8; LEGACY]) {
    let count = visible(cpu);
    for (register, slot) in cpu.ymm.iter_mut().take(count).zip(image[XMM_AT..416].chunks_exact(16)) {
        register.low = u128::from(quad(slot, 8)) << 64 | u128::from(quad(slot, 0));
    }
}

/// FXSAVE.
pub(super) fn fxsave(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_fxsave()?;
    let at = area(cpu, op, LEGACY as u64, 16, true)?;
    // Bytes 464 to 511 belong to software and are not written.
    let image = legacy_image(cpu, op);
    let end = XMM_AT + 16 * visible(cpu);
    write_bytes(cpu, at, &image[..end]).map_err(|fault| stack_fault(op.seg, fault))
}

/// FXRSTOR: reserved bits of MXCSR are #GP.
pub(super) fn fxrstor(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_fxsave()?;
    let at = area(cpu, op, LEGACY as u64, 16, false)?;
    let mut image = [0; LEGACY];
    read_bytes(cpu, at, &mut image).map_err(|fault| stack_fault(op.seg, fault))?;
    let mxcsr = word(&image, 24);
    if mxcsr & !Mxcsr::WRITABLE != 0 {
        return Err(Fault::gp0());
    }
    load_x87(cpu, op, &image);
    cpu.mxcsr = Mxcsr(mxcsr);
    load_xmm(cpu, &image);
    Ok(())
}

fn requested(cpu: &Cpu) -> u64 {
    (cpu.gpr[gpr::RDX] << 32 | cpu.gpr[gpr::RAX] & 0xffff_ffff) & cpu.xcr0
}

impl Cpu {
    /// The components that are not in their initial state (XINUSE).
    pub(crate) fn components_in_use(&self) -> u64 {
        let mut used = 0;
        let registers = self.ymm.iter().take(visible(self));
        if !x87_is_initial(&self.x87) {
            used |= component::X87;
        }
        if registers.clone().any(|register| register.low != 0) {
            used |= component::SSE;
        }
        if registers.clone().any(|register| register.high != 0) {
            used |= component::AVX;
        }
        used
    }
}

fn x87_is_initial(x87: &X87) -> bool {
    *x87 == X87::new()
}

/// XSAVE, XSAVEOPT and XSAVEC.
pub(super) fn xsave<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_xsave()?;
    let mask = requested(cpu);
    let mut used = cpu.components_in_use();
    // A non-default MXCSR counts as SSE state in use for XSAVEC (SDM vol. 1, 13.10).
    if KIND == kind::XSAVEC && cpu.mxcsr.0 != Mxcsr::RESET {
        used |= component::SSE;
    }
    let written = if KIND == kind::XSAVE { mask } else { mask & used };
    let len = xsave_size(written) as u64;
    let at = area(cpu, op, len, 64, true)?;
    let fault = |fault| stack_fault(op.seg, fault);
    cpu.probe_write(at, len).map_err(fault)?;
    let plan = Plan { kind: KIND, mask, used, written };
    save(cpu, op, at, plan).map_err(fault)
}

/// What one instruction saves.
#[derive(Clone, Copy)]
struct Plan {
    kind: u8,
    /// The components that were asked for (RFBM).
    mask: u64,
    /// Those that are not in their initial state.
    used: u64,
    /// Those that reach memory.
    written: u64,
}

/// The bytes 24 to 31 of MXCSR and its mask belong to SSE and AVX, except with XSAVEC (SDM vol. 1, 13.7 and 13.10).
const MXCSR_OWNERS: u64 = component::SSE | component::AVX;

fn save(cpu: &mut Cpu, op: &Op, at: u64, plan: Plan) -> Exec {
    let Plan { kind, mask, used, written } = plan;
    let image = legacy_image(cpu, op);
    if written & component::X87 != 0 {
        write_bytes(cpu, at, &image[..24])?;
        write_bytes(cpu, at.wrapping_add(32), &image[32..XMM_AT])?;
    }
    let mxcsr = if kind == kind::XSAVEC { written & component::SSE } else { mask & MXCSR_OWNERS };
    if mxcsr != 0 {
        write_bytes(cpu, at.wrapping_add(24), &image[24..32])?;
    }
    if written & component::SSE != 0 {
        let end = XMM_AT + 16 * visible(cpu);
        write_bytes(cpu, at.wrapping_add(XMM_AT as u64), &image[XMM_AT..end])?;
    }
    if written & component::AVX != 0 {
        let (count, mut upper) = (visible(cpu), [0; 256]);
        for (slot, register) in upper.chunks_exact_mut(16).zip(&cpu.ymm) {
            slot.copy_from_slice(&register.high.to_le_bytes());
        }
        write_bytes(cpu, at.wrapping_add(component::AVX_AT as u64), &upper[..16 * count])?;
    }
    let header = at.wrapping_add(HEADER);
    if kind == kind::XSAVEC {
        cpu.write_u64(header, mask & used)?;
        return cpu.write_u64(header.wrapping_add(8), mask | COMPACTED);
    }
    let old = cpu.read_u64(header)?;
    cpu.write_u64(header, old & !mask | mask & used)
}

/// XRSTOR, standard and compacted form, with the checks of the header.
pub(super) fn xrstor(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_xsave()?;
    let at = area(cpu, op, xsave_size(0) as u64, 64, false)?;
    let mut image = [0; LEGACY];
    let mut header = [0; 64];
    let fault = |fault| stack_fault(op.seg, fault);
    read_bytes(cpu, at.wrapping_add(HEADER), &mut header).map_err(fault)?;
    let (state, compaction) = (quad(&header, 0), quad(&header, 8));
    let compacted = compaction & COMPACTED != 0;
    let valid = if compacted {
        cpu.features.leafd1_eax & 2 != 0
            && (compaction & !COMPACTED) & !cpu.xcr0 == 0
            && state & !(compaction & !COMPACTED) == 0
            && header[16..].iter().all(|byte| *byte == 0)
    } else {
        state & !cpu.xcr0 == 0 && header[8..24].iter().all(|byte| *byte == 0)
    };
    if !valid {
        return Err(Fault::gp0());
    }
    let mask = requested(cpu);
    read_bytes(cpu, at, &mut image).map_err(fault)?;
    let mxcsr = word(&image, 24);
    // The compacted form takes MXCSR only with the SSE state; the standard form whenever SSE or AVX is asked for.
    let loads_mxcsr =
        if compacted { mask & state & component::SSE != 0 } else { mask & (component::SSE | component::AVX) != 0 };
    if loads_mxcsr && mxcsr & !Mxcsr::WRITABLE != 0 {
        return Err(Fault::gp0());
    }
    let mut upper = [0; 256];
    if mask & state & component::AVX != 0 {
        area(cpu, op, xsave_size(component::AVX) as u64, 64, false)?;
        let part = &mut upper[..16 * visible(cpu)];
        read_bytes(cpu, at.wrapping_add(component::AVX_AT as u64), part).map_err(fault)?;
    }
    if mask & component::X87 != 0 {
        if state & component::X87 != 0 {
            load_x87(cpu, op, &image);
        } else {
            cpu.x87 = X87::new();
        }
    }
    if loads_mxcsr {
        cpu.mxcsr = Mxcsr(mxcsr);
    } else if mask & component::SSE != 0 {
        cpu.mxcsr = Mxcsr(Mxcsr::RESET);
    }
    if mask & component::AVX != 0 {
        // All zero, the initial state, unless it was read.
        let count = visible(cpu);
        for (register, slot) in cpu.ymm.iter_mut().take(count).zip(upper.chunks_exact(16)) {
            register.high = u128::from(quad(slot, 8)) << 64 | u128::from(quad(slot, 0));
        }
    }
    if mask & component::SSE != 0 {
        if state & component::SSE != 0 {
            load_xmm(cpu, &image);
        } else {
            let count = visible(cpu);
            cpu.ymm.iter_mut().take(count).for_each(|register| register.low = 0);
        }
    }
    Ok(())
}
