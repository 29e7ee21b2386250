//! Thin handlers of system instructions: operands in, the CPU's own function, results out.
//!
//! Each sets `cpu.next_rip` first, since what is called may save it.

use super::address::{address_mask, linear_in, load_bytes, offset, segment, store_bytes};
use super::operand::{get, get_rm, set, set_rm};
use super::{Op, S16, S32, S64, Size, branch, flag};
use crate::fault::{Exec, Fault};
use crate::state::{Cpu, Shadow, gpr};
use x86::regs::SegmentRegister;

/// The rules about `next_rip` for everything that is called here.
fn prepare(cpu: &mut Cpu, op: &Op) {
    cpu.next_rip = branch::following(cpu, op);
}

/// MOV and POP to SS hold off interrupts and traps for one instruction.
pub(super) fn after_segment_load(cpu: &mut Cpu, register: u8) {
    if register == SegmentRegister::Ss as u8 {
        cpu.shadow = Shadow::MovSs;
        cpu.exit_request = true;
    }
}

/// MOV to a segment register.
pub(super) fn load_segment(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = get_rm(cpu, op, 2, op.src)? as u16;
    prepare(cpu, op);
    cpu.load_segment(segment(op.dst), selector)?;
    after_segment_load(cpu, op.dst);
    Ok(())
}

/// MOV from a segment register: zero-extended to a register, two bytes to memory.
pub(super) fn store_segment(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = u64::from(cpu.selector(segment(op.src)));
    if op.has(flag::MEM) { set_rm(cpu, op, 2, 0, value) } else { set_rm(cpu, op, op.size, op.dst, value) }
}

/// MOV to the accumulator from a 64-bit absolute address.
pub(super) fn load_absolute(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = super::address::load_in(cpu, op.seg, op.imm, op.size)?;
    set(cpu, op.size, 0, value);
    Ok(())
}

/// MOV from the accumulator to a 64-bit absolute address.
pub(super) fn store_absolute(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get(cpu, op.size, 0);
    super::address::store_in(cpu, op.seg, op.imm, op.size, value)
}

/// LES, LDS, LSS, LFS, LGS: `extra` is the segment register.
pub(super) fn load_far_pointer(cpu: &mut Cpu, op: &Op) -> Exec {
    let (value, selector) = far_operand(cpu, op)?;
    prepare(cpu, op);
    cpu.load_segment(segment(op.extra), selector)?;
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// The offset and selector in memory.
fn far_operand(cpu: &mut Cpu, op: &Op) -> Exec<(u64, u16)> {
    let at = offset(cpu, op);
    let value = super::address::load_in(cpu, op.seg, at, op.size)?;
    let second = at.wrapping_add(u64::from(op.size)) & address_mask(op);
    let selector = super::address::load_in(cpu, op.seg, second, 2)? as u16;
    Ok((value, selector))
}

/// JMP and CALL far, with an immediate (`imm` and `aux`) or through memory.
pub(super) fn far_transfer<const CALL: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (target, selector) = if op.has(flag::MEM) { far_operand(cpu, op)? } else { (op.imm, op.aux) };
    prepare(cpu, op);
    if CALL { cpu.far_call(selector, target, op.size) } else { cpu.far_jump(selector, target, op.size) }
}

/// RETF.
pub(super) fn far_return(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.far_ret(op.size, op.imm as u16)
}

/// IRET.
pub(super) fn interrupt_return(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.iret(op.size)
}

/// RSM.
pub(super) fn resume(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.rsm()
}

/// INT n.
pub(super) fn interrupt(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.int_n(op.imm as u8)
}

/// INT3.
pub(super) fn breakpoint(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    Err(Fault::bp())
}

/// INT1.
pub(super) fn icebp(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    Err(Fault::icebp())
}

/// INTO.
pub(super) fn interrupt_on_overflow(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    if cpu.flags.of() { Err(Fault::of()) } else { Ok(()) }
}

/// PUSHF.
pub(super) fn push_flags(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.pushf_value(op.size)?;
    super::stack::push(cpu, op.size, value)
}

/// POPF.
pub(super) fn pop_flags(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = super::stack::top(cpu, 0, op.size)?;
    prepare(cpu, op);
    cpu.popf(value, op.size)?;
    super::stack::release(cpu, u64::from(op.size));
    Ok(())
}

/// Handlers that call one function of the CPU without operands.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident => $method:ident($($argument:expr),*);)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(cpu: &mut Cpu, op: &Op) -> Exec {
            prepare(cpu, op);
            cpu.$method($($argument),*)
        }
    )*};
}

plain! {
    /// CLI.
    cli => cli();
    /// STI.
    sti => sti();
    /// CLTS.
    clts => clts();
    /// HLT.
    hlt => hlt();
    /// INVD, WBINVD, WBNOINVD.
    wbinvd => wbinvd();
    /// SWAPGS.
    swapgs => swapgs();
    /// CLAC.
    clac => set_ac(false);
    /// STAC.
    stac => set_ac(true);
    /// SYSCALL.
    syscall => syscall();
    /// SYSENTER.
    sysenter => sysenter();
}

/// SYSRET.
pub(super) fn sysret(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.sysret(op.size)
}

/// SYSEXIT.
pub(super) fn sysexit(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.sysexit(op.size)
}

/// MOV from CRn.
pub(super) fn from_control(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    let value = cpu.mov_from_cr(op.src)?;
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// MOV to CRn.
pub(super) fn to_control(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    let value = get(cpu, op.size, op.src);
    cpu.mov_to_cr(op.dst, value)
}

/// MOV from DRn.
pub(super) fn from_debug(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    let value = cpu.mov_from_dr(op.src)?;
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// MOV to DRn.
pub(super) fn to_debug(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    let value = get(cpu, op.size, op.src);
    cpu.mov_to_dr(op.dst, value)
}

/// LMSW.
pub(super) fn lmsw(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, 2, op.dst)? as u16;
    prepare(cpu, op);
    cpu.lmsw(value)
}

/// SMSW (0), SLDT (1), STR (2): two bytes to memory, the operand size to a register.
pub(super) fn store_system<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = match KIND {
        0 => cpu.smsw()?,
        1 => u64::from(cpu.sldt()?),
        _ => u64::from(cpu.str()?),
    };
    if op.has(flag::MEM) { set_rm(cpu, op, 2, 0, value) } else { set_rm(cpu, op, op.size, op.dst, value) }
}

/// LLDT (0) and LTR (1).
pub(super) fn load_system<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    cpu.require_cpl0()?;
    let selector = get_rm(cpu, op, 2, op.dst)? as u16;
    prepare(cpu, op);
    if KIND == 0 { cpu.lldt(selector) } else { cpu.ltr(selector) }
}

fn set_zf(cpu: &mut Cpu, zf: bool) {
    cpu.flags.set_zf(zf);
}

/// VERR (0) and VERW (1).
pub(super) fn verify<const WRITE: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let selector = get_rm(cpu, op, 2, op.dst)? as u16;
    let allowed = if WRITE == 0 { cpu.verr(selector)? } else { cpu.verw(selector)? };
    set_zf(cpu, allowed);
    Ok(())
}

/// LAR (0) and LSL (1).
pub(super) fn inspect<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let selector = get_rm(cpu, op, 2, op.src)? as u16;
    let found = if KIND == 0 { cpu.lar(selector)? } else { cpu.lsl(selector)? };
    if let Some(value) = found {
        set(cpu, op.size, op.dst, u64::from(value));
    }
    set_zf(cpu, found.is_some());
    Ok(())
}

/// ARPL.
pub(super) fn arpl(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let wanted = S16::get(cpu, op.src) & 3;
    let selector = get_rm(cpu, op, 2, op.dst)?;
    let adjusts = selector & 3 < wanted;
    if adjusts {
        set_rm(cpu, op, 2, op.dst, selector & !3 | wanted)?;
    }
    set_zf(cpu, adjusts);
    Ok(())
}

/// SGDT (0) and SIDT (1); `size` is 2 for 24-bit bases, 4 and 8.
pub(super) fn store_table<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_umip()?;
    let table = if KIND == 0 { cpu.gdtr } else { cpu.idtr };
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = if op.size == 8 { 10 } else { 6 };
    store_bytes(cpu, op, &image[..len])
}

/// LGDT (0) and LIDT (1).
pub(super) fn load_table<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_table_load()?;
    let mut image = [0; 10];
    let len = if op.size == 8 { 10 } else { 6 };
    load_bytes(cpu, op, &mut image[..len])?;
    let limit = u16::from_le_bytes([image[0], image[1]]);
    let base = image[2..].iter().rev().fold(0u64, |base, byte| base << 8 | u64::from(*byte));
    let base = if op.size == 2 { base & 0x00ff_ffff } else { base };
    prepare(cpu, op);
    if KIND == 0 { cpu.set_gdtr(base, limit) } else { cpu.set_idtr(base, limit) }
}

fn edx_eax(cpu: &Cpu) -> u64 {
    cpu.gpr[gpr::RDX] << 32 | cpu.gpr[gpr::RAX] & 0xffff_ffff
}

fn set_edx_eax(cpu: &mut Cpu, value: u64) {
    cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
    cpu.gpr[gpr::RDX] = value >> 32;
}

/// RDMSR.
pub(super) fn rdmsr(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    let value = cpu.rdmsr(cpu.gpr[gpr::RCX] as u32)?;
    set_edx_eax(cpu, value);
    Ok(())
}

/// WRMSR.
pub(super) fn wrmsr(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.wrmsr(cpu.gpr[gpr::RCX] as u32, edx_eax(cpu))
}

/// RDTSC.
pub(super) fn rdtsc(cpu: &mut Cpu, _op: &Op) -> Exec {
    let value = cpu.rdtsc()?;
    set_edx_eax(cpu, value);
    Ok(())
}

/// RDTSCP.
pub(super) fn rdtscp(cpu: &mut Cpu, _op: &Op) -> Exec {
    let (value, aux) = cpu.rdtscp()?;
    set_edx_eax(cpu, value);
    cpu.gpr[gpr::RCX] = u64::from(aux);
    Ok(())
}

/// RDPMC.
pub(super) fn rdpmc(cpu: &mut Cpu, _op: &Op) -> Exec {
    let value = cpu.rdpmc(cpu.gpr[gpr::RCX] as u32)?;
    set_edx_eax(cpu, value);
    Ok(())
}

/// RDPID.
pub(super) fn rdpid(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.rdpid();
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// CPUID.
pub(super) fn cpuid(cpu: &mut Cpu, _op: &Op) -> Exec {
    let result = cpu.cpuid(cpu.gpr[gpr::RAX] as u32, cpu.gpr[gpr::RCX] as u32);
    S32::set(cpu, gpr::RAX as u8, u64::from(result.eax));
    S32::set(cpu, gpr::RBX as u8, u64::from(result.ebx));
    S32::set(cpu, gpr::RCX as u8, u64::from(result.ecx));
    S32::set(cpu, gpr::RDX as u8, u64::from(result.edx));
    Ok(())
}

/// XGETBV.
pub(super) fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Exec {
    let value = cpu.xgetbv(cpu.gpr[gpr::RCX] as u32)?;
    set_edx_eax(cpu, value);
    Ok(())
}

/// XSETBV.
pub(super) fn xsetbv(cpu: &mut Cpu, op: &Op) -> Exec {
    prepare(cpu, op);
    cpu.xsetbv(cpu.gpr[gpr::RCX] as u32, edx_eax(cpu))
}

/// INVLPG.
pub(super) fn invlpg(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = offset(cpu, op);
    let linear = cpu.linear(segment(op.seg), at);
    prepare(cpu, op);
    cpu.invlpg(linear)
}

/// INVPCID.
pub(super) fn invpcid(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let at = offset(cpu, op);
    let linear = linear_in::<false>(cpu, op.seg, at, 16)?;
    let descriptor = cpu.read_u128(linear).map_err(|fault| super::address::stack_fault(op.seg, fault))?;
    prepare(cpu, op);
    let kind = get(cpu, op.size, op.dst);
    cpu.invpcid(kind, descriptor)
}

/// RDFSBASE and RDGSBASE: `extra` is the segment register.
pub(super) fn read_base(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.read_base(segment(op.extra))?;
    set(cpu, op.size, op.dst, value);
    Ok(())
}

/// WRFSBASE and WRGSBASE.
pub(super) fn write_base(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = if op.size == 8 { S64::get(cpu, op.dst) } else { S32::get(cpu, op.dst) };
    prepare(cpu, op);
    cpu.write_base(segment(op.extra), value)
}
