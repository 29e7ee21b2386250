//! Locked read-modify-write, XCHG with memory, CMPXCHG, XADD, CMPXCHG8B and CMPXCHG16B.
//!
//! Operands in one page of plain RAM use the host's locked instructions, aligned or not, as translated code does. Device
//! memory, and operands that cross a page, are done under the machine's exclusive lock, which orders them among
//! themselves.

use super::address::{linear_at, modify_linear, offset, stack_fault};
use super::operand::{get, mask, set};
use super::{Op, S8, S16, S32, S64, Size, flag, host};
use crate::fault::{Exec, Fault};
use crate::flags::LazyFlags;
use crate::state::{Cpu, gpr};
use x86::regs::rflags;

/// Locked read-modify-write of the memory operand.
#[inline]
pub(super) fn modify<S: Size>(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut LazyFlags, u64) -> u64) -> Exec {
    let at = offset(cpu, op);
    let linear = linear_at::<true>(cpu, op, at, S::BYTES)?;
    locked_linear::<S>(cpu, linear, f).map_err(|fault| stack_fault(op.seg, fault))
}

fn locked_linear<S: Size>(cpu: &mut Cpu, linear: u64, mut f: impl FnMut(&mut LazyFlags, u64) -> u64) -> Exec {
    // The flags are computed once more from the value that the exchange really replaced.
    let start = cpu.flags;
    let shared = std::cell::RefCell::new(&mut f);
    let attempt = |old: u64| {
        let mut flags = start;
        (*shared.borrow_mut())(&mut flags, old)
    };
    match host::atomic::<S>(cpu, linear, attempt)? {
        Some(old) => {
            f(&mut cpu.flags, old);
            Ok(())
        }
        None => cpu.exclusive(|cpu| modify_linear::<S>(cpu, linear, f)),
    }
}

/// Locked read-modify-write of `size` bytes at `offset` in the operand's segment.
pub(super) fn modify_at(
    cpu: &mut Cpu,
    op: &Op,
    offset: u64,
    size: u8,
    f: impl FnMut(&mut LazyFlags, u64) -> u64,
) -> Exec {
    let linear = linear_at::<true>(cpu, op, offset, u64::from(size))?;
    match size {
        1 => locked_linear::<S8>(cpu, linear, f),
        2 => locked_linear::<S16>(cpu, linear, f),
        4 => locked_linear::<S32>(cpu, linear, f),
        _ => locked_linear::<S64>(cpu, linear, f),
    }
    .map_err(|fault| stack_fault(op.seg, fault))
}

fn modify_either(cpu: &mut Cpu, op: &Op, f: impl FnMut(&mut LazyFlags, u64) -> u64) -> Exec {
    let at = offset(cpu, op);
    if op.has(flag::LOCK) {
        modify_at(cpu, op, at, op.size, f)
    } else {
        super::address::modify_at(cpu, op, at, op.size, f)
    }
}

/// XCHG with memory: always locked.
pub(super) fn exchange(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get(cpu, op.size, op.src);
    let mut found = 0;
    let at = offset(cpu, op);
    modify_at(cpu, op, at, op.size, |_, old| {
        found = old;
        value
    })?;
    set(cpu, op.size, op.src, found);
    Ok(())
}

/// XADD.
pub(super) fn exchange_add(cpu: &mut Cpu, op: &Op) -> Exec {
    let (size, bits) = (op.size, 8 * u32::from(op.size));
    let b = get(cpu, size, op.src);
    if !op.has(flag::MEM) {
        let a = get(cpu, size, op.dst);
        let r = a.wrapping_add(b) & mask(size);
        cpu.flags.set_add(a, b, r, bits);
        set(cpu, size, op.src, a);
        set(cpu, size, op.dst, r);
        return Ok(());
    }
    let mut found = 0;
    modify_either(cpu, op, |flags, a| {
        found = a;
        let r = a.wrapping_add(b) & mask(size);
        flags.set_add(a, b, r, bits);
        r
    })?;
    set(cpu, size, op.src, found);
    Ok(())
}

/// CMPXCHG: memory is written (with its own value) also when the comparison fails.
pub(super) fn compare_exchange(cpu: &mut Cpu, op: &Op) -> Exec {
    let (size, bits) = (op.size, 8 * u32::from(op.size));
    let expected = get(cpu, size, gpr::RAX as u8);
    let new = get(cpu, size, op.src);
    let compare = |flags: &mut LazyFlags, found: u64| {
        flags.set_sub(expected, found, expected.wrapping_sub(found) & mask(size), bits);
    };
    if !op.has(flag::MEM) {
        let found = get(cpu, size, op.dst);
        compare(&mut cpu.flags, found);
        if found == expected {
            set(cpu, size, op.dst, new);
        } else {
            set(cpu, size, gpr::RAX as u8, found);
        }
        return Ok(());
    }
    let mut found = 0;
    modify_either(cpu, op, |flags, value| {
        found = value;
        compare(flags, value);
        if value == expected { new } else { value }
    })?;
    if found != expected {
        set(cpu, size, gpr::RAX as u8, found);
    }
    Ok(())
}

fn set_zf(cpu: &mut Cpu, zf: bool) {
    let others = cpu.flags.bits() & !rflags::ZF;
    cpu.flags.set_bits(others | if zf { rflags::ZF } else { 0 });
}

/// CMPXCHG8B.
pub(super) fn compare_exchange_8(cpu: &mut Cpu, op: &Op) -> Exec {
    let pair = |cpu: &Cpu, high, low| S32::get(cpu, high) << 32 | S32::get(cpu, low);
    let expected = pair(cpu, gpr::RDX as u8, gpr::RAX as u8);
    let new = pair(cpu, gpr::RCX as u8, gpr::RBX as u8);
    let mut found = 0;
    modify_either(cpu, op, |_, value| {
        found = value;
        if value == expected { new } else { value }
    })?;
    if found != expected {
        S32::set(cpu, gpr::RAX as u8, found);
        S32::set(cpu, gpr::RDX as u8, found >> 32);
    }
    set_zf(cpu, found == expected);
    Ok(())
}

/// CMPXCHG16B: #GP unless aligned.
pub(super) fn compare_exchange_16(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = offset(cpu, op);
    let linear = linear_at::<true>(cpu, op, at, 16)?;
    if linear & 15 != 0 {
        return Err(Fault::gp0());
    }
    let pair = |cpu: &Cpu, high: usize, low: usize| u128::from(cpu.gpr[high]) << 64 | u128::from(cpu.gpr[low]);
    let expected = pair(cpu, gpr::RDX, gpr::RAX);
    let new = pair(cpu, gpr::RCX, gpr::RBX);
    let done = host::compare_exchange_16(cpu, linear, expected, new);
    let (found, swapped) = match done.map_err(|fault| stack_fault(op.seg, fault))? {
        Some(done) => done,
        None => cpu.exclusive(|cpu| {
            cpu.probe_write(linear, 16)?;
            let found = cpu.read_u128(linear)?;
            cpu.write_u128(linear, if found == expected { new } else { found })?;
            Ok((found, found == expected))
        })?,
    };
    if !swapped {
        S64::set(cpu, gpr::RAX as u8, found as u64);
        S64::set(cpu, gpr::RDX as u8, (found >> 64) as u64);
    }
    set_zf(cpu, swapped);
    Ok(())
}
