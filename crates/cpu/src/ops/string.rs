//! MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS, alone and repeated.
//!
//! A repeated one is the last of its block: when it stops before the end (another thread wants something, or only one
//! iteration may run) it leaves `cpu.rip` where it is and is entered again. At a fault the registers show the
//! iterations that are done. MOVS and STOS over plain RAM run as host copies, page by page or over
//! several that follow one another in the host's memory, too.

use super::address::{address_mask, address_size, linear_in, load_in, stack_fault, store_in};
use super::operand::{S8, S16, S32, S64, Size, get, mask, set};
use super::{Op, address, branch, flag, host};
use crate::fault::Exec;
use crate::state::{Cpu, gpr, seg_ok};
use x86::regs::{SegmentRegister, rflags};

/// What a string instruction does.
pub(super) mod kind {
    /// MOVS.
    pub const MOVS: u8 = 0;
    /// CMPS.
    pub const CMPS: u8 = 1;
    /// STOS.
    pub const STOS: u8 = 2;
    /// LODS.
    pub const LODS: u8 = 3;
    /// SCAS.
    pub const SCAS: u8 = 4;
    /// INS.
    pub const INS: u8 = 5;
    /// OUTS.
    pub const OUTS: u8 = 6;
}

const ES: u8 = SegmentRegister::Es as u8;
/// Iterations between two looks at the signals.
const POLL: u64 = 512;

const fn reads_source(kind: u8) -> bool {
    matches!(kind, kind::MOVS | kind::CMPS | kind::LODS | kind::OUTS)
}

const fn uses_destination(kind: u8) -> bool {
    !matches!(kind, kind::LODS | kind::OUTS)
}

fn compare(cpu: &mut Cpu, size: u8, a: u64, b: u64) {
    let bits = 8 * u32::from(size);
    let r = a.wrapping_sub(b) & mask(size);
    cpu.flags.set_sub(a, b, r, bits);
}

/// One iteration, without the registers.
fn element<const KIND: u8>(cpu: &mut Cpu, op: &Op, source: u64, destination: u64) -> Exec {
    let size = op.size;
    match KIND {
        kind::MOVS => {
            let value = load_in(cpu, op.seg, source, size)?;
            store_in(cpu, ES, destination, size, value)
        }
        kind::CMPS => {
            // Which operand faults first shows on hardware: REPE CMPSB begins with the source, the others do not.
            let (a, b);
            if op.has(flag::REP) && size == 1 {
                a = load_in(cpu, op.seg, source, size)?;
                b = load_in(cpu, ES, destination, size)?;
            } else {
                b = load_in(cpu, ES, destination, size)?;
                a = load_in(cpu, op.seg, source, size)?;
            }
            compare(cpu, size, a, b);
            Ok(())
        }
        kind::STOS => {
            let value = get(cpu, size, gpr::RAX as u8);
            store_in(cpu, ES, destination, size, value)
        }
        kind::LODS => {
            let value = load_in(cpu, op.seg, source, size)?;
            set(cpu, size, gpr::RAX as u8, value);
            Ok(())
        }
        kind::SCAS => {
            let b = load_in(cpu, ES, destination, size)?;
            let a = get(cpu, size, gpr::RAX as u8);
            compare(cpu, size, a, b);
            Ok(())
        }
        kind::INS => {
            let port = cpu.gpr[gpr::RDX] as u16;
            cpu.check_port(size, port)?;
            // The destination is checked first, so that no input is lost by a fault.
            let linear = linear_in::<true>(cpu, ES, destination, u64::from(size))?;
            cpu.probe_write(linear, u64::from(size))?;
            let value = cpu.port_in(size, port)?;
            store_in(cpu, ES, destination, size, u64::from(value))
        }
        _ => {
            cpu.check_port(size, cpu.gpr[gpr::RDX] as u16)?;
            let value = load_in(cpu, op.seg, source, size)?;
            cpu.port_out(size, cpu.gpr[gpr::RDX] as u16, value as u32)
        }
    }
}

fn advance<const KIND: u8>(cpu: &mut Cpu, op: &Op, by: u64) {
    let width = address_size(op);
    if reads_source(KIND) {
        let next = cpu.gpr[gpr::RSI].wrapping_add(by);
        set(cpu, width, gpr::RSI as u8, next);
    }
    if uses_destination(KIND) {
        let next = cpu.gpr[gpr::RDI].wrapping_add(by);
        set(cpu, width, gpr::RDI as u8, next);
    }
}

fn step(cpu: &Cpu, op: &Op) -> u64 {
    let size = u64::from(op.size);
    if cpu.system_flags & rflags::DF != 0 { size.wrapping_neg() } else { size }
}

/// Without a prefix.
pub(super) fn once<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mask = address_mask(op);
    let (source, destination) = (cpu.gpr[gpr::RSI] & mask, cpu.gpr[gpr::RDI] & mask);
    element::<KIND>(cpu, op, source, destination)?;
    let by = step(cpu, op);
    advance::<KIND>(cpu, op, by);
    Ok(())
}

/// With REP, REPE or REPNE.
pub(super) fn repeated<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mask = address_mask(op);
    let width = address_size(op);
    let by = step(cpu, op);
    let mut budget = POLL;
    loop {
        let count = cpu.gpr[gpr::RCX] & mask;
        if count == 0 {
            break;
        }
        if (KIND == kind::MOVS || KIND == kind::STOS) && !cpu.one_instruction {
            let done = bulk::<KIND>(cpu, op, count)?;
            if done != 0 {
                set(cpu, width, gpr::RCX as u8, count - done);
                advance::<KIND>(cpu, op, done.wrapping_mul(by));
                if count != done && cpu.signals.pending() != 0 {
                    return Ok(());
                }
                continue;
            }
        }
        let (source, destination) = (cpu.gpr[gpr::RSI] & mask, cpu.gpr[gpr::RDI] & mask);
        element::<KIND>(cpu, op, source, destination)?;
        advance::<KIND>(cpu, op, by);
        set(cpu, width, gpr::RCX as u8, count - 1);
        if KIND == kind::CMPS || KIND == kind::SCAS {
            let wanted = op.has(flag::REP);
            if cpu.flags.zf() != wanted {
                break;
            }
        }
        budget -= 1;
        if count != 1 && (cpu.one_instruction || (budget == 0 && cpu.signals.pending() != 0)) {
            return Ok(());
        }
        budget = if budget == 0 { POLL } else { budget };
    }
    cpu.rip = branch::following(cpu, op);
    Ok(())
}

/// As many iterations as fit into the pages of both operands, or more, by host copies. 0: not possible here.
fn bulk<const KIND: u8>(cpu: &mut Cpu, op: &Op, count: u64) -> Exec<u64> {
    let plain = cpu.system_flags & rflags::DF == 0
        && !cpu.alignment_check
        && cpu.seg_ok[usize::from(ES)] & seg_ok::WRITE != 0
        && (KIND == kind::STOS || cpu.seg_ok[usize::from(op.seg).min(5)] & seg_ok::READ != 0);
    if !plain {
        return Ok(0);
    }
    let (size, mask) = (u64::from(op.size), address_mask(op));
    let destination = cpu.gpr[gpr::RDI] & mask;
    // Pages that follow in the TLB may be taken along; in lock-step both tiers stop at the same borders.
    let several = cpu.mode.is_long64() && cpu.lockstep.is_none();
    let mut most = if several { room_in_segment(mask, destination) / size } else { 0 };
    // Faults are left to the single step that follows.
    let Ok(to) = linear_in::<true>(cpu, ES, destination, size) else { return Ok(0) };
    let mut room = room_in_page(to).min(room_in_segment(mask, destination));
    let mut from = 0;
    if KIND == kind::MOVS {
        let source = cpu.gpr[gpr::RSI] & mask;
        let Ok(linear) = linear_in::<false>(cpu, op.seg, source, size) else { return Ok(0) };
        from = linear;
        room = room.min(room_in_page(from)).min(room_in_segment(mask, source));
        most = most.min(room_in_segment(mask, source) / size);
    }
    let n = (room / size).min(count);
    if n < 2 {
        return Ok(0);
    }
    let done = if KIND == kind::STOS {
        let value = get(cpu, op.size, gpr::RAX as u8);
        host::fill(cpu, to, op.size, value, n, most.min(count))
    } else {
        host::copy_forward(cpu, from, to, op.size, n, most.min(count))
    };
    // A fault is raised again, by the right access and for the right segment, by the single step that follows.
    Ok(done.unwrap_or(0))
}

fn room_in_page(linear: u64) -> u64 {
    0x1000 - (linear & 0xfff)
}

fn room_in_segment(mask: u64, offset: u64) -> u64 {
    (mask - offset).saturating_add(1)
}

/// The handler of a string instruction.
pub(super) fn handler<const KIND: u8>(repeats: bool) -> super::Handler {
    if repeats { repeated::<KIND> } else { once::<KIND> }
}

/// IN: `imm` is the port, or DX without one.
pub(super) fn port_in(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    let value = u64::from(cpu.port_in(op.size, port)?);
    match op.size {
        1 => S8::set(cpu, 0, value),
        2 => S16::set(cpu, 0, value),
        _ => S32::set(cpu, 0, value),
    }
    Ok(())
}

/// OUT.
pub(super) fn port_out(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    let value = get(cpu, op.size, 0);
    cpu.port_out(op.size, port, value as u32)
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.has(flag::IMM) { op.imm as u16 & 0xff } else { cpu.gpr[gpr::RDX] as u16 }
}

/// MASKMOVQ and MASKMOVDQU: stores the bytes of `value` that `mask` selects at DS:rDI.
pub(super) fn masked_store(cpu: &mut Cpu, op: &Op, value: u128, mask: u16, len: u8) -> Exec {
    let start = S64::get(cpu, gpr::RDI as u8) & address_mask(op);
    let at = |index: u8| start.wrapping_add(u64::from(index)) & address_mask(op);
    // The whole operand is checked, whatever the mask.
    let linear = address::linear_in::<true>(cpu, op.seg, start, u64::from(len))?;
    cpu.probe_write(linear, u64::from(len)).map_err(|fault| stack_fault(op.seg, fault))?;
    for index in (0..len).filter(|index| mask >> index & 1 != 0) {
        store_in(cpu, op.seg, at(index), 1, (value >> (8 * u32::from(index))) as u64 & 0xff)?;
    }
    Ok(())
}
