//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD, and the flagless SHLX, SHRX, SARX, RORX.
//!
//! Counts are masked to five bits, six for 64-bit operands (SDM vol. 2, SAL/SAR/SHL/SHR). What the manual leaves
//! undefined is what the host's instruction gives: OF and AF, CF of counts beyond the operand, and the whole result of
//! a double shift of a word by more than 16.

use super::address::Addr;
use super::operand::{get, get_rm, set, set_rm};
use super::{Op, S8, S16, S32, S64, Size, flag, native_int};
use crate::fault::Exec;
use crate::flags::LazyFlags;
use crate::state::Cpu;

/// A shift or rotation by a count that is masked and not zero.
pub(super) trait Shift {
    /// Computes and sets the flags.
    fn run<S: Size>(flags: &mut LazyFlags, a: u64, count: u32) -> u64;
}

/// SHL.
pub(super) struct Shl;
/// SHR.
pub(super) struct Shr;
/// SAR.
pub(super) struct Sar;
/// ROL.
pub(super) struct Rol;
/// ROR.
pub(super) struct Ror;
/// RCL.
pub(super) struct Rcl;
/// RCR.
pub(super) struct Rcr;

/// SHL, SHR, SAR: all flags but perhaps AF, OF and CF follow from the result.
macro_rules! shifts {
    ($($name:ident, $host:ident;)*) => {$(
        impl Shift for $name {
            #[inline(always)]
            fn run<S: Size>(flags: &mut LazyFlags, a: u64, count: u32) -> u64 {
                let mut ax = flags.carries_to_ax();
                let r = native_int::$host::<S>(&mut ax, a, count);
                flags.set_result_ax(r, S::BITS, ax);
                r
            }
        }
    )*};
}

shifts! {
    Shl, shl;
    Shr, shr;
    Sar, sar;
}

/// The rotations, which change CF and OF alone.
macro_rules! rotations {
    ($($name:ident, $host:ident;)*) => {$(
        impl Shift for $name {
            #[inline(always)]
            fn run<S: Size>(flags: &mut LazyFlags, a: u64, count: u32) -> u64 {
                let mut ax = flags.carries_to_ax();
                let r = native_int::$host::<S>(&mut ax, a, count);
                flags.set_cf_of_ax(ax);
                r
            }
        }
    )*};
}

rotations! {
    Rol, rol;
    Ror, ror;
    Rcl, rcl;
    Rcr, rcr;
}

#[inline(always)]
fn count_mask<S: Size>() -> u64 {
    if S::BITS == 64 { 63 } else { 31 }
}

/// Register by an immediate; the decoder has masked the count and dropped zero.
pub(super) fn r_imm<K: Shift, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = S::get(cpu, op.dst);
    let r = K::run::<S>(&mut cpu.flags, a, op.imm as u32);
    S::set(cpu, op.dst, r);
    Ok(())
}

/// Register by CL.
pub(super) fn r_cl<K: Shift, S: Size>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = (cpu.gpr[1] & count_mask::<S>()) as u32;
    let a = S::get(cpu, op.dst);
    // A count of zero still clears the upper half of a 32-bit register.
    let r = if count == 0 { a } else { K::run::<S>(&mut cpu.flags, a, count) };
    S::set(cpu, op.dst, r);
    Ok(())
}

/// Memory by CL or an immediate.
pub(super) fn m<K: Shift, S: Size, A: Addr>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = if op.has(flag::IMM) { op.imm } else { cpu.gpr[1] } & count_mask::<S>();
    A::modify::<S>(cpu, op, |flags, a| if count == 0 { a } else { K::run::<S>(flags, a, count as u32) })
}

fn double<const LEFT: bool, S: Size>(flags: &mut LazyFlags, a: u64, b: u64, count: u32) -> u64 {
    if count == 0 {
        return a;
    }
    let mut ax = flags.to_ax();
    let r = native_int::double_shift::<LEFT, S>(&mut ax, a, b, count);
    flags.set_ax(ax);
    r
}

fn double_sized<const LEFT: bool>(flags: &mut LazyFlags, size: u8, a: u64, b: u64, count: u64) -> u64 {
    let count = (count & if size == 8 { 63 } else { 31 }) as u32;
    match size {
        2 => double::<LEFT, S16>(flags, a, b, count),
        4 => double::<LEFT, S32>(flags, a, b, count),
        _ => double::<LEFT, S64>(flags, a, b, count),
    }
}

/// SHLD and SHRD.
pub(super) fn double_shift<const LEFT: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = if op.has(flag::IMM) { op.imm } else { cpu.gpr[1] };
    let b = get(cpu, op.size, op.src);
    let size = op.size;
    if op.has(flag::MEM) {
        return super::address::modify_sized(cpu, op, size, |flags, a| double_sized::<LEFT>(flags, size, a, b, count));
    }
    let a = get(cpu, size, op.dst);
    let r = double_sized::<LEFT>(&mut cpu.flags, size, a, b, count);
    set(cpu, op.size, op.dst, r);
    Ok(())
}

/// The BMI2 shifts: no flags. `KIND` is 0 SHLX, 1 SHRX, 2 SARX, 3 RORX; the count is in `extra`, or the immediate.
pub(super) fn flagless<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = get_rm(cpu, op, op.size, op.src)?;
    let count = if KIND == 3 { op.imm } else { get(cpu, op.size, op.extra) };
    let r = if op.size == 8 {
        let n = (count & 63) as u32;
        match KIND {
            0 => a << n,
            1 => a >> n,
            2 => ((a as i64) >> n) as u64,
            _ => a.rotate_right(n),
        }
    } else {
        let (a, n) = (a as u32, (count & 31) as u32);
        u64::from(match KIND {
            0 => a << n,
            1 => a >> n,
            2 => ((a as i32) >> n) as u32,
            _ => a.rotate_right(n),
        })
    };
    set(cpu, op.size, op.dst, r);
    Ok(())
}

/// Any shift with any operand, for the undocumented and rare forms.
pub(super) fn any<K: Shift>(cpu: &mut Cpu, op: &Op) -> Exec {
    let wide = op.size == 8;
    let count = if op.has(flag::IMM) { op.imm } else { cpu.gpr[1] } & if wide { 63 } else { 31 };
    let a = get_rm(cpu, op, op.size, op.dst)?;
    let mut flags = cpu.flags;
    let r = match (count as u32, op.size) {
        (0, _) => a,
        (count, 1) => K::run::<S8>(&mut flags, a, count),
        (count, 2) => K::run::<S16>(&mut flags, a, count),
        (count, 4) => K::run::<S32>(&mut flags, a, count),
        (count, _) => K::run::<S64>(&mut flags, a, count),
    };
    set_rm(cpu, op, op.size, op.dst, r)?;
    cpu.flags = flags;
    Ok(())
}
