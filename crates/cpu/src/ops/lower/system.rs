//! System instructions, far transfers and interrupts.

use iced_x86::{Code, Mnemonic as M, OpKind, Register};

use super::super::{data, flag, system};
use super::{Choice, Lowering, ends, jumps, next, register_size};
use crate::ops::Handler;

pub(super) fn lower(l: &mut Lowering<'_>) -> Choice {
    transfers(l).or_else(|| flags(l)).or_else(|| registers(l)).or_else(|| tables(l)).or_else(|| others(l))
}

fn transfers(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Jmp => far(l, system::far_transfer::<false>),
        M::Call => far(l, system::far_transfer::<true>),
        M::Retf => {
            l.op.size = match l.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            l.op.imm = if l.i.op_count() > 0 { l.i.immediate(0) & 0xffff } else { 0 };
            jumps(system::far_return)
        }
        M::Iret => sized_jump(l, 2, system::interrupt_return),
        M::Iretd => sized_jump(l, 4, system::interrupt_return),
        M::Iretq => sized_jump(l, 8, system::interrupt_return),
        M::Int => jumps(system::interrupt),
        M::Int3 => jumps(system::breakpoint),
        M::Int1 => jumps(system::icebp),
        M::Into => ends(system::interrupt_on_overflow),
        M::Syscall => jumps(system::syscall),
        M::Sysret => sized_jump(l, 4, system::sysret),
        M::Sysretq => sized_jump(l, 8, system::sysret),
        M::Sysenter => jumps(system::sysenter),
        M::Sysexit => sized_jump(l, 4, system::sysexit),
        M::Sysexitq => sized_jump(l, 8, system::sysexit),
        M::Rsm => jumps(system::resume),
        _ => None,
    }
}

fn sized_jump(l: &mut Lowering<'_>, size: u8, run: Handler) -> Choice {
    l.op.size = size;
    jumps(run)
}

fn far(l: &mut Lowering<'_>, run: Handler) -> Choice {
    match l.i.op_kind(0) {
        OpKind::FarBranch16 => {
            l.op.imm = u64::from(l.i.far_branch16());
            l.op.aux = l.i.far_branch_selector();
            l.op.size = 2;
        }
        OpKind::FarBranch32 => {
            l.op.imm = u64::from(l.i.far_branch32());
            l.op.aux = l.i.far_branch_selector();
            l.op.size = 4;
        }
        _ => {
            l.op.size = match l.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                Code::Jmp_m1664 | Code::Call_m1664 => 8,
                _ => return None,
            };
        }
    }
    jumps(run)
}

fn flags(l: &mut Lowering<'_>) -> Choice {
    let size = match l.mnemonic() {
        M::Pushf | M::Popf => 2,
        M::Pushfd | M::Popfd => 4,
        M::Pushfq | M::Popfq => 8,
        M::Cli => return ends(system::cli),
        M::Sti => return ends(system::sti),
        M::Clac => return ends(system::clac),
        M::Stac => return ends(system::stac),
        _ => return None,
    };
    l.op.size = size;
    match l.mnemonic() {
        M::Pushf | M::Pushfd | M::Pushfq => next(system::push_flags),
        _ => ends(system::pop_flags),
    }
}

fn registers(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Mov => match l.code() {
            Code::Mov_r32_cr | Code::Mov_r64_cr => ends(system::from_control),
            Code::Mov_cr_r32 | Code::Mov_cr_r64 => ends(system::to_control),
            Code::Mov_r32_dr | Code::Mov_r64_dr => ends(system::from_debug),
            Code::Mov_dr_r32 | Code::Mov_dr_r64 => ends(system::to_debug),
            _ => None,
        },
        M::Les => far_pointer(l, Register::ES),
        M::Lds => far_pointer(l, Register::DS),
        M::Lss => far_pointer(l, Register::SS),
        M::Lfs => far_pointer(l, Register::FS),
        M::Lgs => far_pointer(l, Register::GS),
        M::Rdfsbase => base(l, Register::FS, system::read_base),
        M::Rdgsbase => base(l, Register::GS, system::read_base),
        M::Wrfsbase => base(l, Register::FS, system::write_base),
        M::Wrgsbase => base(l, Register::GS, system::write_base),
        M::Swapgs => ends(system::swapgs),
        M::Clts => ends(system::clts),
        M::Lmsw => ends(system::lmsw),
        M::Smsw => next(system::store_system::<0>),
        M::Rdmsr => ends(system::rdmsr),
        M::Wrmsr => ends(system::wrmsr),
        M::Xgetbv => next(system::xgetbv),
        M::Xsetbv => ends(system::xsetbv),
        _ => None,
    }
}

fn far_pointer(l: &mut Lowering<'_>, register: Register) -> Choice {
    l.op.extra = register.number() as u8;
    ends(system::load_far_pointer)
}

fn base(l: &mut Lowering<'_>, register: Register, run: Handler) -> Choice {
    l.op.extra = register.number() as u8;
    ends(run)
}

fn tables(l: &mut Lowering<'_>) -> Choice {
    let choice = match l.mnemonic() {
        M::Sldt => next(system::store_system::<1>),
        M::Str => next(system::store_system::<2>),
        M::Lldt => ends(system::load_system::<0>),
        M::Ltr => ends(system::load_system::<1>),
        M::Verr => next(system::verify::<0>),
        M::Verw => next(system::verify::<1>),
        M::Lar => next(system::inspect::<0>),
        M::Lsl => next(system::inspect::<1>),
        M::Arpl => next(system::arpl),
        M::Sgdt => next(system::store_table::<0>),
        M::Sidt => next(system::store_table::<1>),
        M::Lgdt => ends(system::load_table::<0>),
        M::Lidt => ends(system::load_table::<1>),
        _ => None,
    };
    if choice.is_some() {
        match l.code() {
            Code::Sgdt_m1632_16 | Code::Sidt_m1632_16 | Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => l.op.size = 2,
            Code::Sgdt_m1632 | Code::Sidt_m1632 | Code::Lgdt_m1632 | Code::Lidt_m1632 => l.op.size = 4,
            Code::Sgdt_m1664 | Code::Sidt_m1664 | Code::Lgdt_m1664 | Code::Lidt_m1664 => l.op.size = 8,
            _ if l.is_register(0) => l.op.size = register_size(l.i.op_register(0)),
            _ => {}
        }
    }
    choice
}

fn others(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Hlt => ends(system::hlt),
        M::Cpuid => next(system::cpuid),
        M::Rdtsc => ends(system::rdtsc),
        M::Rdtscp => ends(system::rdtscp),
        M::Rdpmc => next(system::rdpmc),
        M::Rdpid => next(system::rdpid),
        M::Invlpg => ends(system::invlpg),
        M::Invpcid => ends(system::invpcid),
        M::Invd | M::Wbinvd | M::Wbnoinvd => ends(system::wbinvd),
        M::Ud0 | M::Ud1 | M::Ud2 => {
            l.op.flags &= !flag::MEM;
            jumps(data::undefined)
        }
        _ => None,
    }
}
