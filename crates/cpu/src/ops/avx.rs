//! AVX, AVX2, FMA and F16C: moves, masked moves, gathers, and the glue between instructions and host code
//! ([`crate::native`]), which computes everything else.
//!
//! Order of checks (SDM vol. 2, tables 2-18 ff.): #UD (CR4.OSXSAVE, XCR0), #NM (CR0.TS), then the memory operand, which
//! needs no alignment except with the aligned moves, then SIMD floating-point exceptions. A result of 128 bits clears
//! the upper half of its register.
//!
//! Under RFLAGS.AC operands of 16 and 32 bytes are not checked; the SDM leaves that to the processor (vol. 2, MOVUPS).

use super::address::{
    check_aligned_to, linear_at, linear_offset, load_at, load_sized, load_u128, offset, stack_fault, store_in,
    store_sized, store_u128,
};
use super::operand::{get, get_rm, set, set_rm};
use super::{Op, Semantics, flag, sse};
use crate::fault::{Exec, Fault};
use crate::native::{self, Frame, Output, Stub};
use crate::state::{Cpu, Ymm, gpr};
use fpu::{Mxcsr, SimdException};
use iced_x86::Code;

#[inline(always)]
fn ymm(cpu: &Cpu, register: u8) -> Ymm {
    cpu.ymm[usize::from(register & 15)]
}

#[inline(always)]
fn set_ymm(cpu: &mut Cpu, register: u8, value: Ymm) {
    cpu.ymm[usize::from(register & 15)] = value;
}

#[inline(always)]
fn set_xmm(cpu: &mut Cpu, register: u8, value: u128) {
    set_ymm(cpu, register, Ymm { low: value, high: 0 });
}

/// Segmentation of a 32-byte operand; `ALIGNED` raises #GP unless it is aligned. Both halves may be accessed then, or
/// the fault is that of the whole.
fn linear_u256<const WRITE: bool, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
    let at = offset(cpu, op);
    if ALIGNED {
        check_aligned_to(cpu, op, at, 32)?;
    }
    let linear = linear_at::<WRITE>(cpu, op, at, 32)?;
    if linear & 0xfff > 0x1000 - 32 {
        let probed = if WRITE { cpu.probe_write(linear, 32) } else { cpu.probe_read(linear, 32) };
        probed.map_err(|fault| stack_fault(op.seg, fault))?;
    }
    Ok(linear)
}

fn second_half(cpu: &Cpu, linear: u64) -> u64 {
    linear.wrapping_add(16) & cpu.address_mask
}

fn load_u256<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec<Ymm> {
    let linear = linear_u256::<false, ALIGNED>(cpu, op)?;
    let fault = |fault| stack_fault(op.seg, fault);
    let low = cpu.read_u128(linear).map_err(fault)?;
    let high = cpu.read_u128(second_half(cpu, linear)).map_err(fault)?;
    Ok(Ymm { low, high })
}

fn store_u256<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, value: Ymm) -> Exec {
    let linear = linear_u256::<true, ALIGNED>(cpu, op)?;
    let fault = |fault| stack_fault(op.seg, fault);
    cpu.write_u128(linear, value.low).map_err(fault)?;
    cpu.write_u128(second_half(cpu, linear), value.high).map_err(fault)
}

/// Moves of 16 or 32 bytes from register or memory.
pub(super) fn load<const WIDE: bool, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = match (op.has(flag::MEM), WIDE) {
        (true, true) => load_u256::<ALIGNED>(cpu, op)?,
        (true, false) => Ymm { low: load_u128::<ALIGNED>(cpu, op)?, high: 0 },
        (false, true) => ymm(cpu, op.src),
        (false, false) => Ymm { low: ymm(cpu, op.src).low, high: 0 },
    };
    set_ymm(cpu, op.dst, value);
    Ok(())
}

/// Moves of 16 or 32 bytes to memory.
pub(super) fn store<const WIDE: bool, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = ymm(cpu, op.src);
    if WIDE { store_u256::<ALIGNED>(cpu, op, value) } else { store_u128::<ALIGNED>(cpu, op, value.low) }
}

/// VMOVSS, VMOVSD and VMOVQ from memory; `extra` is the size.
pub(super) fn load_scalar(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = load_sized(cpu, op, op.extra)?;
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// VMOVSS, VMOVSD and VMOVQ to memory; `extra` is the size.
pub(super) fn store_scalar(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = ymm(cpu, op.src).low as u64;
    store_sized(cpu, op, op.extra, value)
}

/// VMOVQ between XMM registers.
pub(super) fn move_quad(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = ymm(cpu, op.src).low as u64;
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// VMOVD and VMOVQ from a general register or memory.
pub(super) fn from_general(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = get_rm(cpu, op, op.size, op.src)?;
    set_xmm(cpu, op.dst, u128::from(value));
    Ok(())
}

/// VMOVD and VMOVQ to a general register or memory.
pub(super) fn to_general(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = ymm(cpu, op.src).low as u64;
    set_rm(cpu, op, op.size, op.dst, value)
}

/// VZEROUPPER, and VZEROALL with `ALL`. Outside of 64-bit mode the registers 8 to 15 stay.
pub(super) fn zero<const ALL: bool>(cpu: &mut Cpu, _op: &Op) -> Exec {
    cpu.check_avx()?;
    let count = if cpu.mode.is_long64() { 16 } else { 8 };
    for register in cpu.ymm.iter_mut().take(count) {
        register.high = 0;
        if ALL {
            register.low = 0;
        }
    }
    Ok(())
}

/// VLDMXCSR.
pub(super) fn load_mxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    sse::load_mxcsr_unchecked(cpu, op)
}

/// VSTMXCSR.
pub(super) fn store_mxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let value = u64::from(cpu.mxcsr.0);
    store_sized(cpu, op, 4, value)
}

/// VMASKMOVDQU.
pub(super) fn masked_store_bytes(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let mask = simd::byte_mask_xmm(ymm(cpu, op.src).low);
    let value = ymm(cpu, op.dst).low;
    super::string::masked_store(cpu, op, value, mask, 16)
}

// Host code.

fn load_operand(cpu: &mut Cpu, op: &Op, size: u8, into: &mut [u8; 32]) -> Exec {
    let value = match size {
        32 => load_u256::<false>(cpu, op)?,
        16 => Ymm { low: load_u128::<false>(cpu, op)?, high: 0 },
        size => Ymm { low: u128::from(load_sized(cpu, op, size)?), high: 0 },
    };
    into[..16].copy_from_slice(&value.low.to_le_bytes());
    into[16..].copy_from_slice(&value.high.to_le_bytes());
    Ok(())
}

fn store_operand(cpu: &mut Cpu, op: &Op, size: u8, from: &[u8; 32]) -> Exec {
    let value = ymm_from(from);
    match size {
        32 => store_u256::<false>(cpu, op, value),
        16 => store_u128::<false>(cpu, op, value.low),
        size => store_sized(cpu, op, size, value.low as u64),
    }
}

/// The registers that the instruction may read, by position; what a position does not name is not used.
fn operands(cpu: &Cpu, op: &Op, stub: &Stub) -> Frame {
    let mut frame = Frame::default();
    let numbers = [op.dst, op.src, op.extra, op.aux as u8];
    match stub.result {
        Output::Index | Output::Mask => {
            frame.vectors[1] = ymm(cpu, op.dst);
            frame.vectors[2] = ymm(cpu, op.src);
            (frame.rax, frame.rdx) = (cpu.gpr[gpr::RAX], cpu.gpr[gpr::RDX]);
        }
        _ => {
            for (vector, number) in frame.vectors.iter_mut().zip(numbers) {
                *vector = ymm(cpu, number);
            }
            if let Some(position) = stub.general {
                frame.rax = get(cpu, 8, numbers[usize::from(position & 3)]);
            }
        }
    }
    frame
}

/// Runs the stub under the guest's MXCSR. The exception flags that it raises.
fn compute(mxcsr: Mxcsr, stub: &Stub, frame: &mut Frame) -> u32 {
    let control = mxcsr.host_control() & !Mxcsr::FLAGS;
    frame.mxcsr = control;
    if mxcsr.underflow_masked() {
        stub.run(frame);
        return frame.mxcsr & Mxcsr::FLAGS;
    }
    // With underflow unmasked a tiny result is an underflow even if it is exact (SDM vol. 1, 4.9.1.5), which the masked
    // host reports only when it flushes to zero.
    let mut flushing = frame.clone();
    flushing.mxcsr = control | Mxcsr::FTZ;
    stub.run(&mut flushing);
    stub.run(frame);
    let mut flags = (frame.mxcsr | flushing.mxcsr & Mxcsr::UNDERFLOW) & Mxcsr::FLAGS;
    if stub.to_half && has_denormal_half(stub, frame) {
        flags |= Mxcsr::UNDERFLOW;
    }
    flags
}

/// Whether a result of VCVTPS2PH is tiny; FTZ does not count there.
fn has_denormal_half(stub: &Stub, frame: &Frame) -> bool {
    let value = match stub.result {
        Output::Memory => ymm_from(&frame.memory).low,
        _ => frame.vectors[0].low,
    };
    (0..8).map(|lane| (value >> (16 * lane)) as u16).any(|half| half & 0x7c00 == 0 && half & 0x3ff != 0)
}

/// Runs the stub and settles its exceptions.
fn execute(mxcsr: &mut Mxcsr, op: &Op, stub: &Stub, frame: &mut Frame) -> Result<(), SimdException> {
    if !mxcsr.all_masked() {
        dot_product_exceptions(mxcsr, op, stub, frame)?;
    }
    let flags = compute(*mxcsr, stub, frame);
    mxcsr.settle(flags)
}

/// A dot product rounds several times, and the exceptions of a step come before those of the next (SDM vol. 2, DPPS).
/// So while any is unmasked the steps are executed one by one; for all other instructions this does nothing.
#[cold]
fn dot_product_exceptions(mxcsr: &mut Mxcsr, op: &Op, stub: &Stub, frame: &Frame) -> Result<(), SimdException> {
    let (wide, double, from_memory) = match stub.code {
        Code::VEX_Vdpps_xmm_xmm_xmmm128_imm8 => (false, false, stub.memory != 0),
        Code::VEX_Vdpps_ymm_ymm_ymmm256_imm8 => (true, false, stub.memory != 0),
        Code::VEX_Vdppd_xmm_xmm_xmmm128_imm8 => (false, true, stub.memory != 0),
        _ => return Ok(()),
    };
    let codes: &[Code] = if double {
        &[Code::VEX_Vmulpd_ymm_ymm_ymmm256, Code::VEX_Vhaddpd_ymm_ymm_ymmm256]
    } else {
        &[Code::VEX_Vmulps_ymm_ymm_ymmm256, Code::VEX_Vhaddps_ymm_ymm_ymmm256, Code::VEX_Vhaddps_ymm_ymm_ymmm256]
    };
    // What takes no part is zero, which raises nothing.
    let lanes = if double { 2 } else { 4 };
    let bits = 128 / lanes;
    let part = (0..lanes).filter(|lane| op.imm >> (4 + lane) & 1 != 0);
    let mask = part.fold(0, |mask, lane| mask | u128::MAX >> (128 - bits) << (bits * lane));
    let select = |value: Ymm| Ymm { low: value.low & mask, high: if wide { value.high & mask } else { 0 } };
    let second = if from_memory { ymm_from(&frame.memory) } else { frame.vectors[2] };
    let (mut a, mut b) = (select(frame.vectors[1]), select(second));
    for code in codes {
        let Some(step) = native::on_registers(*code) else { return Ok(()) };
        let mut frame = Frame { vectors: [Ymm::ZERO, a, b, Ymm::ZERO], ..Frame::default() };
        let flags = compute(*mxcsr, &step, &mut frame);
        mxcsr.settle(flags)?;
        (a, b) = (frame.vectors[0], frame.vectors[0]);
    }
    Ok(())
}

fn ymm_from(bytes: &[u8; 32]) -> Ymm {
    let half = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
    Ymm { low: half(0), high: half(16) }
}

/// Everything that computes.
pub(super) fn native(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let Some(Semantics::Native(stub)) = op.semantics else { return Err(Fault::ud()) };
    let mut frame = operands(cpu, op, stub);
    let stores = stub.result == Output::Memory;
    if stub.memory != 0 && !stores {
        let mut bytes = [0; 32];
        load_operand(cpu, op, stub.memory, &mut bytes)?;
        frame.memory = bytes;
    }
    let mut mxcsr = cpu.mxcsr;
    let outcome = execute(&mut mxcsr, op, stub, &mut frame);
    if stores {
        // A fault of the operand comes before an exception.
        if outcome.is_err() {
            let at = offset(cpu, op);
            let len = u64::from(stub.memory);
            let linear = linear_at::<true>(cpu, op, at, len)?;
            cpu.probe_write(linear, len).map_err(|fault| stack_fault(op.seg, fault))?;
        } else {
            store_operand(cpu, op, stub.memory, &frame.memory)?;
        }
    }
    cpu.mxcsr = mxcsr;
    if outcome.is_err() {
        return Err(cpu.simd_fault());
    }
    match stub.result {
        Output::Memory => {}
        Output::Vector => set_ymm(cpu, op.dst, frame.vectors[0]),
        Output::General => set(cpu, 8, op.dst, frame.rax),
        Output::Flags => cpu.flags.set_bits(frame.flags),
        Output::Index => {
            cpu.gpr[gpr::RCX] = frame.rcx;
            cpu.flags.set_bits(frame.flags);
        }
        Output::Mask => {
            cpu.ymm[0] = frame.vectors[0];
            cpu.flags.set_bits(frame.flags);
        }
    }
    Ok(())
}

// Masked moves and gathers: faults are those of the elements that the mask chooses.

/// Vectors as lanes of `size` bytes, 4 or 8.
#[derive(Clone, Copy)]
struct Lanes {
    words: [u64; 4],
    size: u8,
}

impl Lanes {
    fn new(value: Ymm, size: u8) -> Self {
        let words = [value.low as u64, (value.low >> 64) as u64, value.high as u64, (value.high >> 64) as u64];
        Self { words, size }
    }

    fn value(self) -> Ymm {
        let pair = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
        Ymm { low: pair(self.words[0], self.words[1]), high: pair(self.words[2], self.words[3]) }
    }

    fn get(&self, lane: u8) -> u64 {
        let lane = usize::from(lane);
        if self.size == 8 {
            return self.words[lane & 3];
        }
        self.words[(lane / 2) & 3] >> (32 * (lane & 1)) & 0xffff_ffff
    }

    fn set(&mut self, lane: u8, value: u64) {
        let lane = usize::from(lane);
        if self.size == 8 {
            self.words[lane & 3] = value;
            return;
        }
        let (word, shift) = (&mut self.words[(lane / 2) & 3], 32 * (lane & 1));
        *word = *word & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
    }

    /// Whether the most significant bit of a lane is set.
    fn chooses(&self, lane: u8) -> bool {
        self.get(lane) >> (8 * u32::from(self.size) - 1) & 1 != 0
    }

    fn sign_extended(&self, lane: u8) -> u64 {
        let value = self.get(lane);
        if self.size == 4 { i64::from(value as u32 as i32) as u64 } else { value }
    }
}

/// Loads an element; never an alignment check.
fn load_element(cpu: &mut Cpu, op: &Op, at: u64, size: u8) -> Exec<u64> {
    if !cpu.alignment_check {
        return load_at(cpu, op, at, size);
    }
    (0..size).try_fold(0, |value, index| {
        let byte = load_at(cpu, op, at.wrapping_add(u64::from(index)) & super::address::address_mask(op), 1)?;
        Ok(value | byte << (8 * u32::from(index)))
    })
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD and VPMASKMOVQ from memory: `src` is the mask, `size` that of an element, `aux`
/// the length in bytes.
pub(super) fn masked_load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let size = op.size;
    let mask = Lanes::new(ymm(cpu, op.src), size);
    let mut result = Lanes::new(Ymm::ZERO, size);
    for lane in (0..op.aux as u8 / size).filter(|lane| mask.chooses(*lane)) {
        let at = linear_offset(cpu, op, u64::from(lane) * u64::from(size));
        result.set(lane, load_element(cpu, op, at, size)?);
    }
    set_ymm(cpu, op.dst, result.value());
    Ok(())
}

/// The same to memory: `src` is the mask, `extra` the value. Nothing is stored unless everything can be.
pub(super) fn masked_store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let size = op.size;
    let mask = Lanes::new(ymm(cpu, op.src), size);
    let value = Lanes::new(ymm(cpu, op.extra), size);
    let chosen = (0..op.aux as u8 / size).filter(|lane| mask.chooses(*lane));
    for lane in chosen.clone() {
        let at = linear_offset(cpu, op, u64::from(lane) * u64::from(size));
        let linear = linear_at::<true>(cpu, op, at, u64::from(size))?;
        cpu.probe_write(linear, u64::from(size)).map_err(|fault| stack_fault(op.seg, fault))?;
    }
    for lane in chosen {
        let at = linear_offset(cpu, op, u64::from(lane) * u64::from(size));
        let element = value.get(lane);
        if !cpu.alignment_check {
            store_in(cpu, op.seg, at, size, element)?;
            continue;
        }
        for index in 0..size {
            let at = linear_offset(cpu, op, u64::from(lane) * u64::from(size) + u64::from(index));
            store_in(cpu, op.seg, at, 1, element >> (8 * u32::from(index)) & 0xff)?;
        }
    }
    Ok(())
}

/// Gathers: `src` is the vector of indices, `extra` the mask, `size` that of an element, the low byte of `aux` that of an
/// index, its high byte the number of elements. Each element clears its part of the mask when it is done, so that a
/// fault leaves what has been loaded and where to go on (SDM vol. 2, VPGATHERDD).
pub(super) fn gather(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let (size, index_size, count) = (op.size, op.aux as u8, (op.aux >> 8) as u8);
    let indices = Lanes::new(ymm(cpu, op.src), index_size);
    let mut mask = Lanes::new(ymm(cpu, op.extra), size);
    let mut result = Lanes::new(ymm(cpu, op.dst), size);
    for lane in 0..count {
        if !mask.chooses(lane) {
            mask.set(lane, 0);
            continue;
        }
        let distance = indices.sign_extended(lane) << (op.scale & 3);
        let at = linear_offset(cpu, op, distance);
        match load_element(cpu, op, at, size) {
            Ok(value) => {
                result.set(lane, value);
                mask.set(lane, 0);
            }
            Err(fault) => {
                set_ymm(cpu, op.dst, result.value());
                set_ymm(cpu, op.extra, mask.value());
                return Err(fault);
            }
        }
    }
    for lane in count..32 / size {
        result.set(lane, 0);
    }
    set_ymm(cpu, op.dst, result.value());
    set_ymm(cpu, op.extra, Ymm::ZERO);
    Ok(())
}
