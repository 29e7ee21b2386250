//! Memory operands: effective addresses, segmentation, loads, stores and read-modify-write.

use super::{NONE, Op, S8, S16, S32, S64, Size, flag};
use crate::fault::{Exec, Fault};
use crate::flags::LazyFlags;
use crate::state::{Cpu, seg_ok};
use x86::regs::SegmentRegister;

/// How a memory operand's address is formed.
pub(crate) trait Addr {
    /// The linear address of a read (`WRITE` false) or a write of `S`.
    fn linear<S: Size, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64>;

    /// Loads a value of size `S`.
    #[inline(always)]
    fn load<S: Size>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
        let linear = Self::linear::<S, false>(cpu, op)?;
        load_linear::<S>(cpu, linear).map_err(|fault| segment_fault(op, fault))
    }

    /// Stores a value of size `S`.
    #[inline(always)]
    fn store<S: Size>(cpu: &mut Cpu, op: &Op, value: u64) -> Exec {
        let linear = Self::linear::<S, true>(cpu, op)?;
        store_linear::<S>(cpu, linear, value).map_err(|fault| segment_fault(op, fault))
    }

    /// Reads, lets `f` compute the new value and the flags, and writes. Checked as a write from the start.
    #[inline(always)]
    fn modify<S: Size>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut LazyFlags, u64) -> u64) -> Exec {
        let linear = Self::linear::<S, true>(cpu, op)?;
        modify_linear::<S>(cpu, linear, f).map_err(|fault| segment_fault(op, fault))
    }
}

/// 64-bit mode, base + displacement, no segment base.
pub(crate) struct Flat;
/// 64-bit mode, base + index × scale + displacement, no segment base.
pub(crate) struct FlatIndexed;
/// 64-bit mode, relative to the next instruction.
pub(crate) struct FlatRip;
/// Everything else.
pub(crate) struct Any;

#[inline(always)]
fn displacement(op: &Op) -> u64 {
    i64::from(op.disp) as u64
}

impl Addr for Flat {
    #[inline(always)]
    fn linear<S: Size, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
        Ok(cpu.gpr[usize::from(op.base & 15)].wrapping_add(displacement(op)))
    }
}

impl Addr for FlatIndexed {
    #[inline(always)]
    fn linear<S: Size, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
        let index = cpu.gpr[usize::from(op.index & 15)] << (op.scale & 3);
        Ok(cpu.gpr[usize::from(op.base & 15)].wrapping_add(index).wrapping_add(displacement(op)))
    }
}

impl Addr for FlatRip {
    #[inline(always)]
    fn linear<S: Size, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
        Ok(cpu.rip.wrapping_add(u64::from(op.len)).wrapping_add(displacement(op)))
    }
}

impl Addr for Any {
    #[inline]
    fn linear<S: Size, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u64> {
        let offset = offset(cpu, op);
        linear_at::<WRITE>(cpu, op, offset, S::BYTES)
    }
}

/// The mask of effective addresses.
#[inline(always)]
pub(super) fn address_mask(op: &Op) -> u64 {
    if op.has(flag::ADDR32) {
        0xffff_ffff
    } else if op.has(flag::ADDR16) {
        0xffff
    } else {
        u64::MAX
    }
}

/// The address size in bytes.
pub(super) fn address_size(op: &Op) -> u8 {
    if op.has(flag::ADDR32) {
        4
    } else if op.has(flag::ADDR16) {
        2
    } else {
        8
    }
}

/// The effective address of the memory operand, any form.
#[inline]
pub(crate) fn offset(cpu: &Cpu, op: &Op) -> u64 {
    linear_offset(cpu, op, 0)
}

/// The effective address of the memory operand plus `distance`, truncated to the address size.
#[inline]
pub(super) fn linear_offset(cpu: &Cpu, op: &Op, distance: u64) -> u64 {
    let mut sum = displacement(op).wrapping_add(distance);
    if op.base != NONE {
        sum = sum.wrapping_add(cpu.gpr[usize::from(op.base & 15)]);
    }
    if op.index != NONE {
        sum = sum.wrapping_add(cpu.gpr[usize::from(op.index & 15)] << (op.scale & 3));
    }
    if op.has(flag::RIP) {
        sum = sum.wrapping_add(cpu.rip).wrapping_add(u64::from(op.len));
    }
    sum & address_mask(op)
}

/// The segment register with this number.
pub(crate) fn segment(number: u8) -> SegmentRegister {
    match number {
        0 => SegmentRegister::Es,
        1 => SegmentRegister::Cs,
        2 => SegmentRegister::Ss,
        3 => SegmentRegister::Ds,
        4 => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    }
}

/// Non-canonical addresses in the stack segment are #SS.
#[cold]
fn segment_fault(op: &Op, fault: Fault) -> Fault {
    stack_fault(op.seg, fault)
}

/// Non-canonical addresses in the stack segment are #SS.
#[cold]
pub(super) fn stack_fault(seg: u8, fault: Fault) -> Fault {
    if seg == SegmentRegister::Ss as u8 && fault.is_non_canonical() { Fault::ss(0) } else { fault }
}

/// Segmentation of `len` bytes at `offset` in segment `seg`.
#[inline]
pub(super) fn linear_in<const WRITE: bool>(cpu: &mut Cpu, seg: u8, offset: u64, len: u64) -> Exec<u64> {
    let index = usize::from(seg).min(5);
    let needed = if WRITE { seg_ok::WRITE } else { seg_ok::READ };
    if cpu.seg_ok[index] & needed != 0 {
        if offset.wrapping_add(len - 1) & !cpu.address_mask != 0 {
            // Beyond 4 GiB, which no limit covers outside of 64-bit mode.
            return Err(if index == SegmentRegister::Ss as usize { Fault::ss(0) } else { Fault::gp0() });
        }
        return Ok(cpu.seg_base[index].wrapping_add(offset) & cpu.address_mask);
    }
    cpu.seg_linear::<WRITE>(segment(seg), offset, len)
}

/// Segmentation of the memory operand at another effective address.
#[inline]
pub(super) fn linear_at<const WRITE: bool>(cpu: &mut Cpu, op: &Op, offset: u64, len: u64) -> Exec<u64> {
    linear_in::<WRITE>(cpu, op.seg, offset, len)
}

/// Loads from a linear address.
#[inline(always)]
pub(super) fn load_linear<S: Size>(cpu: &mut Cpu, linear: u64) -> Exec<u64> {
    match S::BITS {
        8 => cpu.read_u8(linear).map(u64::from),
        16 => cpu.read_u16(linear).map(u64::from),
        32 => cpu.read_u32(linear).map(u64::from),
        _ => cpu.read_u64(linear),
    }
}

/// Stores to a linear address.
#[inline(always)]
pub(super) fn store_linear<S: Size>(cpu: &mut Cpu, linear: u64, value: u64) -> Exec {
    match S::BITS {
        8 => cpu.write_u8(linear, value as u8),
        16 => cpu.write_u16(linear, value as u16),
        32 => cpu.write_u32(linear, value as u32),
        _ => cpu.write_u64(linear, value),
    }
}

/// Read-modify-write at a linear address.
#[inline(always)]
pub(super) fn modify_linear<S: Size>(cpu: &mut Cpu, linear: u64, f: impl FnOnce(&mut LazyFlags, u64) -> u64) -> Exec {
    let mut f = Some(f);
    let done = super::host::modify::<S>(cpu, linear, |flags, old| match f.take() {
        Some(f) => f(flags, old),
        None => old,
    })?;
    match (done, f) {
        (None, Some(f)) => modify_slow::<S>(cpu, linear, f),
        _ => Ok(()),
    }
}

/// Device memory, and operands that cross pages.
#[cold]
#[inline(never)]
fn modify_slow<S: Size>(cpu: &mut Cpu, linear: u64, f: impl FnOnce(&mut LazyFlags, u64) -> u64) -> Exec {
    cpu.probe_write(linear, S::BYTES)?;
    let old = load_linear::<S>(cpu, linear)?;
    let before = cpu.flags;
    let new = f(&mut cpu.flags, old);
    store_linear::<S>(cpu, linear, new).inspect_err(|_| cpu.flags = before)
}

/// Loads `size` bytes from `offset` in the operand's segment.
pub(super) fn load_at(cpu: &mut Cpu, op: &Op, offset: u64, size: u8) -> Exec<u64> {
    load_in(cpu, op.seg, offset, size)
}

/// Loads `size` bytes from a segment.
pub(super) fn load_in(cpu: &mut Cpu, seg: u8, offset: u64, size: u8) -> Exec<u64> {
    let linear = linear_in::<false>(cpu, seg, offset, u64::from(size))?;
    load_sized_linear(cpu, linear, size).map_err(|fault| stack_fault(seg, fault))
}

/// Stores `size` bytes to a segment.
pub(super) fn store_in(cpu: &mut Cpu, seg: u8, offset: u64, size: u8, value: u64) -> Exec {
    let linear = linear_in::<true>(cpu, seg, offset, u64::from(size))?;
    store_sized_linear(cpu, linear, size, value).map_err(|fault| stack_fault(seg, fault))
}

/// Loads `size` bytes from a linear address.
pub(super) fn load_sized_linear(cpu: &mut Cpu, linear: u64, size: u8) -> Exec<u64> {
    match size {
        1 => load_linear::<S8>(cpu, linear),
        2 => load_linear::<S16>(cpu, linear),
        4 => load_linear::<S32>(cpu, linear),
        _ => load_linear::<S64>(cpu, linear),
    }
}

/// Stores `size` bytes to a linear address.
pub(super) fn store_sized_linear(cpu: &mut Cpu, linear: u64, size: u8, value: u64) -> Exec {
    match size {
        1 => store_linear::<S8>(cpu, linear, value),
        2 => store_linear::<S16>(cpu, linear, value),
        4 => store_linear::<S32>(cpu, linear, value),
        _ => store_linear::<S64>(cpu, linear, value),
    }
}

/// Loads the memory operand with a size in bytes.
pub(crate) fn load_sized(cpu: &mut Cpu, op: &Op, size: u8) -> Exec<u64> {
    let at = offset(cpu, op);
    load_in(cpu, op.seg, at, size)
}

/// Stores the memory operand with a size in bytes.
pub(super) fn store_sized(cpu: &mut Cpu, op: &Op, size: u8, value: u64) -> Exec {
    let at = offset(cpu, op);
    store_in(cpu, op.seg, at, size, value)
}

/// Read-modify-write of the memory operand.
pub(super) fn modify_sized(cpu: &mut Cpu, op: &Op, size: u8, f: impl FnOnce(&mut LazyFlags, u64) -> u64) -> Exec {
    let at = offset(cpu, op);
    modify_at(cpu, op, at, size, f)
}

/// Read-modify-write of `size` bytes at `offset` in the operand's segment.
pub(super) fn modify_at(
    cpu: &mut Cpu,
    op: &Op,
    offset: u64,
    size: u8,
    f: impl FnOnce(&mut LazyFlags, u64) -> u64,
) -> Exec {
    let linear = linear_at::<true>(cpu, op, offset, u64::from(size))?;
    match size {
        1 => modify_linear::<S8>(cpu, linear, f),
        2 => modify_linear::<S16>(cpu, linear, f),
        4 => modify_linear::<S32>(cpu, linear, f),
        _ => modify_linear::<S64>(cpu, linear, f),
    }
    .map_err(|fault| stack_fault(op.seg, fault))
}

/// Loads a 16-byte operand; `ALIGNED` raises #GP unless it is aligned.
#[inline]
pub(super) fn load_u128<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Exec<u128> {
    let at = offset(cpu, op);
    check_aligned::<ALIGNED>(cpu, op, at)?;
    let linear = linear_at::<false>(cpu, op, at, 16)?;
    cpu.read_u128(linear).map_err(|fault| segment_fault(op, fault))
}

/// Stores a 16-byte operand; `ALIGNED` raises #GP unless it is aligned.
#[inline]
pub(super) fn store_u128<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, value: u128) -> Exec {
    let at = offset(cpu, op);
    check_aligned::<ALIGNED>(cpu, op, at)?;
    let linear = linear_at::<true>(cpu, op, at, 16)?;
    cpu.write_u128(linear, value).map_err(|fault| segment_fault(op, fault))
}

/// Alignment comes before the segment's limit and before canonical form.
#[inline(always)]
fn check_aligned<const ALIGNED: bool>(cpu: &Cpu, op: &Op, offset: u64) -> Exec {
    if ALIGNED { check_aligned_to(cpu, op, offset, 16) } else { Ok(()) }
}

/// #GP unless the memory operand at `offset` is a multiple of `size` bytes.
#[inline(always)]
pub(super) fn check_aligned_to(cpu: &Cpu, op: &Op, offset: u64, size: u64) -> Exec {
    if cpu.seg_base[usize::from(op.seg).min(5)].wrapping_add(offset) & (size - 1) != 0 {
        return Err(Fault::gp0());
    }
    Ok(())
}

/// Segmentation of a long operand. The ten bytes of an x87 operand are accessed as eight and two: a fault of the first
/// part comes before a limit that only the second exceeds.
pub(super) fn linear_bytes<const WRITE: bool>(cpu: &mut Cpu, op: &Op, len: u64) -> Exec<u64> {
    let at = offset(cpu, op);
    if len != 10 {
        return linear_at::<WRITE>(cpu, op, at, len);
    }
    let linear = linear_at::<WRITE>(cpu, op, at, 8)?;
    let probed = if WRITE { cpu.probe_write(linear, 8) } else { cpu.probe_read(linear, 8) };
    probed.map_err(|fault| segment_fault(op, fault))?;
    linear_at::<WRITE>(cpu, op, at.wrapping_add(8) & address_mask(op), 2)?;
    Ok(linear)
}

/// Reads `into.len()` bytes of the memory operand.
pub(super) fn load_bytes(cpu: &mut Cpu, op: &Op, into: &mut [u8]) -> Exec {
    let linear = linear_bytes::<false>(cpu, op, into.len() as u64)?;
    read_bytes(cpu, linear, into).map_err(|fault| segment_fault(op, fault))
}

/// Writes `from` to the memory operand: everything or, with a fault, nothing.
pub(super) fn store_bytes(cpu: &mut Cpu, op: &Op, from: &[u8]) -> Exec {
    let linear = linear_bytes::<true>(cpu, op, from.len() as u64)?;
    write_bytes(cpu, linear, from).map_err(|fault| segment_fault(op, fault))
}

/// Reads bytes from a linear address, in words where possible.
pub(super) fn read_bytes(cpu: &mut Cpu, linear: u64, into: &mut [u8]) -> Exec {
    let mut at = linear;
    for piece in into.chunks_mut(8) {
        match <&mut [u8; 8]>::try_from(&mut *piece) {
            Ok(word) => *word = cpu.read_u64(wrap(cpu, at))?.to_le_bytes(),
            Err(_) => read_tail(cpu, at, piece)?,
        }
        at = at.wrapping_add(8);
    }
    Ok(())
}

fn wrap(cpu: &Cpu, linear: u64) -> u64 {
    linear & cpu.address_mask
}

fn read_tail(cpu: &mut Cpu, linear: u64, piece: &mut [u8]) -> Exec {
    let (mut at, mut rest) = (linear, piece);
    while !rest.is_empty() {
        let size = [4usize, 2, 1].into_iter().find(|size| *size <= rest.len()).unwrap_or(1);
        let value = load_sized_linear(cpu, wrap(cpu, at), size as u8)?;
        let (head, tail) = rest.split_at_mut(size);
        for (index, byte) in head.iter_mut().enumerate() {
            *byte = (value >> (8 * index)) as u8;
        }
        (at, rest) = (at.wrapping_add(size as u64), tail);
    }
    Ok(())
}

/// Writes bytes to a linear address: everything or, with a fault, nothing. At most two pages.
pub(super) fn write_bytes(cpu: &mut Cpu, linear: u64, from: &[u8]) -> Exec {
    cpu.probe_write(linear, from.len() as u64)?;
    let mut at = linear;
    let mut rest = from;
    while !rest.is_empty() {
        let size = [8usize, 4, 2, 1].into_iter().find(|size| *size <= rest.len()).unwrap_or(1);
        let (head, tail) = rest.split_at(size);
        let value = head.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        store_sized_linear(cpu, wrap(cpu, at), size as u8, value)?;
        (at, rest) = (at.wrapping_add(size as u64), tail);
    }
    Ok(())
}
