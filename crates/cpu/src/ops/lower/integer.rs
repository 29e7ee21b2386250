//! Integer instructions, branches and the stack.

use iced_x86::{Code, Mnemonic as M, OpKind, Register};

use super::super::{
    Any, Flat, FlatIndexed, FlatRip, S8, S16, S32, S64, alu, atomic, bcd, bits, branch, data, flag, moves, muldiv,
    shift, stack, string, system,
};
use super::{Choice, Form, Lowering, ends, jumps, next};
use crate::ops::Handler;

/// A handler by operand size.
macro_rules! sized {
    ($size:expr, $($f:ident)::+ $(, $g:ty)*) => {
        match $size {
            1 => $($f)::+::<$($g,)* S8>,
            2 => $($f)::+::<$($g,)* S16>,
            4 => $($f)::+::<$($g,)* S32>,
            _ => $($f)::+::<$($g,)* S64>,
        }
    };
}

/// A handler by operand size and addressing form.
macro_rules! formed {
    ($l:expr, $size:expr, $($f:ident)::+ $(, $g:ty)*) => {
        match $l.form {
            Form::Flat => formed!(@ $size, Flat, $($f)::+ $(, $g)*),
            Form::Indexed => formed!(@ $size, FlatIndexed, $($f)::+ $(, $g)*),
            Form::Rip => formed!(@ $size, FlatRip, $($f)::+ $(, $g)*),
            Form::Any => formed!(@ $size, Any, $($f)::+ $(, $g)*),
        }
    };
    (@ $size:expr, $form:ty, $($f:ident)::+ $(, $g:ty)*) => {
        match $size {
            1 => $($f)::+::<$($g,)* S8, $form>,
            2 => $($f)::+::<$($g,)* S16, $form>,
            4 => $($f)::+::<$($g,)* S32, $form>,
            _ => $($f)::+::<$($g,)* S64, $form>,
        }
    };
}

/// A handler by condition code.
macro_rules! by_condition {
    ($cc:expr, $($f:ident)::+ $(, $g:ty)*) => {
        match $cc {
            0 => $($f)::+::<0 $(, $g)*>,
            1 => $($f)::+::<1 $(, $g)*>,
            2 => $($f)::+::<2 $(, $g)*>,
            3 => $($f)::+::<3 $(, $g)*>,
            4 => $($f)::+::<4 $(, $g)*>,
            5 => $($f)::+::<5 $(, $g)*>,
            6 => $($f)::+::<6 $(, $g)*>,
            7 => $($f)::+::<7 $(, $g)*>,
            8 => $($f)::+::<8 $(, $g)*>,
            9 => $($f)::+::<9 $(, $g)*>,
            10 => $($f)::+::<10 $(, $g)*>,
            11 => $($f)::+::<11 $(, $g)*>,
            12 => $($f)::+::<12 $(, $g)*>,
            13 => $($f)::+::<13 $(, $g)*>,
            14 => $($f)::+::<14 $(, $g)*>,
            _ => $($f)::+::<15 $(, $g)*>,
        }
    };
}

/// A branch handler by the width of the target.
macro_rules! by_width {
    ($l:expr, $f:ident $(, $g:literal)*) => {
        match width($l) {
            2 => branch::$f::<$($g,)* branch::W16>,
            4 => branch::$f::<$($g,)* branch::W32>,
            _ => branch::$f::<$($g,)* branch::W64>,
        }
    };
}

pub(super) fn lower(l: &mut Lowering<'_>, bytes: &[u8]) -> Choice {
    if l.mnemonic() == M::Pause
        && let Some(choice) = pause_of_r8(l, bytes)
    {
        return Some(choice);
    }
    arithmetic(l)
        .or_else(|| movement(l))
        .or_else(|| conditional(l))
        .or_else(|| branches(l))
        .or_else(|| shifts(l))
        .or_else(|| multiply(l))
        .or_else(|| on_stack(l))
        .or_else(|| bit_work(l))
        .or_else(|| locked(l))
        .or_else(|| strings(l))
        .or_else(|| simple(l))
}

fn two_operands<K: alu::Alu>(l: &Lowering<'_>) -> Choice {
    let size = l.op.size;
    let run: Handler = match (l.i.op_kind(0), l.i.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => sized!(size, alu::rr, K),
        (OpKind::Register, OpKind::Memory) => formed!(l, size, alu::rm, K),
        (OpKind::Register, _) => sized!(size, alu::ri, K),
        (OpKind::Memory, _) if l.op.has(flag::LOCK) => sized!(size, alu::locked, K),
        (OpKind::Memory, OpKind::Register) => formed!(l, size, alu::mr, K),
        _ => formed!(l, size, alu::mi, K),
    };
    next(run)
}

fn one_operand<K: alu::Unary>(l: &Lowering<'_>) -> Choice {
    let size = l.op.size;
    let run: Handler = match l.i.op_kind(0) {
        OpKind::Register => sized!(size, alu::unary_r, K),
        _ if l.op.has(flag::LOCK) => sized!(size, alu::unary_locked, K),
        _ => formed!(l, size, alu::unary_m, K),
    };
    next(run)
}

fn arithmetic(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Add => two_operands::<alu::Add>(l),
        M::Or => two_operands::<alu::Or>(l),
        M::Adc => two_operands::<alu::Adc>(l),
        M::Sbb => two_operands::<alu::Sbb>(l),
        M::And => two_operands::<alu::And>(l),
        M::Sub => two_operands::<alu::Sub>(l),
        M::Xor => two_operands::<alu::Xor>(l),
        M::Cmp => two_operands::<alu::Cmp>(l),
        M::Test => two_operands::<alu::Test>(l),
        M::Inc => one_operand::<alu::Inc>(l),
        M::Dec => one_operand::<alu::Dec>(l),
        M::Neg => one_operand::<alu::Neg>(l),
        M::Not => one_operand::<alu::Not>(l),
        _ => None,
    }
}

fn widening(l: &mut Lowering<'_>, signed: bool) -> Choice {
    let to = l.op.size;
    let from = if l.is_memory(1) { l.memory_bytes() } else { super::register_size(l.i.op_register(1)) };
    macro_rules! pick {
        ($rr:ident, $rm:ident) => {
            if l.is_memory(1) {
                match (to, from) {
                    (2, 1) => widen_form!(l, $rm, S16, S8),
                    (4, 1) => widen_form!(l, $rm, S32, S8),
                    (8, 1) => widen_form!(l, $rm, S64, S8),
                    (2, _) => widen_form!(l, $rm, S16, S16),
                    (4, 2) => widen_form!(l, $rm, S32, S16),
                    (4, _) => widen_form!(l, $rm, S32, S32),
                    (_, 2) => widen_form!(l, $rm, S64, S16),
                    _ => widen_form!(l, $rm, S64, S32),
                }
            } else {
                match (to, from) {
                    (2, 1) => moves::$rr::<S16, S8>,
                    (4, 1) => moves::$rr::<S32, S8>,
                    (8, 1) => moves::$rr::<S64, S8>,
                    (2, _) => moves::$rr::<S16, S16>,
                    (4, 2) => moves::$rr::<S32, S16>,
                    (4, _) => moves::$rr::<S32, S32>,
                    (_, 2) => moves::$rr::<S64, S16>,
                    _ => moves::$rr::<S64, S32>,
                }
            }
        };
    }
    macro_rules! widen_form {
        ($l:expr, $rm:ident, $s:ty, $f:ty) => {
            match $l.form {
                Form::Flat => moves::$rm::<$s, $f, Flat>,
                Form::Indexed => moves::$rm::<$s, $f, FlatIndexed>,
                Form::Rip => moves::$rm::<$s, $f, FlatRip>,
                Form::Any => moves::$rm::<$s, $f, Any>,
            }
        };
    }
    let run: Handler = if signed { pick!(sign_rr, sign_rm) } else { pick!(zero_rr, zero_rm) };
    next(run)
}

fn movement(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Mov => plain_move(l),
        M::Movnti => next(formed!(l, l.op.size, moves::mr)),
        M::Movzx => widening(l, false),
        M::Movsx | M::Movsxd => widening(l, true),
        M::Lea => {
            let size = l.op.size;
            // LEA ignores segments, so FS and GS don't matter.
            let wide = l.context.bits == 64 && !l.op.has(flag::ADDR32) && !l.op.has(flag::RIP);
            let run: Handler = match (wide, l.op.base != super::NONE, l.op.index != super::NONE) {
                (true, true, false) => sized!(size, moves::lea_base),
                (true, true, true) => sized!(size, moves::lea_indexed),
                _ => sized!(size, moves::lea),
            };
            next(run)
        }
        M::Movbe => next(if l.is_memory(0) { bits::movbe::<true> } else { bits::movbe::<false> }),
        M::Xlatb => next(data::xlat),
        _ => None,
    }
}

fn is_segment(register: Register) -> bool {
    matches!(register, Register::ES | Register::CS | Register::SS | Register::DS | Register::FS | Register::GS)
}

fn plain_move(l: &mut Lowering<'_>) -> Choice {
    if l.has_wide_displacement() {
        return next(if l.is_memory(0) { system::store_absolute } else { system::load_absolute }).inspect(|_| {
            l.op.imm = l.i.memory_displacement64();
        });
    }
    let size = l.op.size;
    for n in 0..2 {
        if l.is_register(n) && super::register_size(l.i.op_register(n)) == 0 {
            let segment = is_segment(l.i.op_register(n));
            return match (segment, n) {
                (true, 0) => ends(system::load_segment),
                (true, _) => next(system::store_segment),
                _ => None,
            };
        }
    }
    let run: Handler = match (l.i.op_kind(0), l.i.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => sized!(size, moves::rr),
        (OpKind::Register, OpKind::Memory) => formed!(l, size, moves::rm),
        (OpKind::Memory, OpKind::Register) => formed!(l, size, moves::mr),
        (OpKind::Memory, _) => formed!(l, size, moves::mi),
        _ => sized!(size, moves::ri),
    };
    next(run)
}

fn condition(mnemonic: M) -> Option<(u8, u8)> {
    const TABLE: [(M, M, M); 16] = [
        (M::Jo, M::Seto, M::Cmovo),
        (M::Jno, M::Setno, M::Cmovno),
        (M::Jb, M::Setb, M::Cmovb),
        (M::Jae, M::Setae, M::Cmovae),
        (M::Je, M::Sete, M::Cmove),
        (M::Jne, M::Setne, M::Cmovne),
        (M::Jbe, M::Setbe, M::Cmovbe),
        (M::Ja, M::Seta, M::Cmova),
        (M::Js, M::Sets, M::Cmovs),
        (M::Jns, M::Setns, M::Cmovns),
        (M::Jp, M::Setp, M::Cmovp),
        (M::Jnp, M::Setnp, M::Cmovnp),
        (M::Jl, M::Setl, M::Cmovl),
        (M::Jge, M::Setge, M::Cmovge),
        (M::Jle, M::Setle, M::Cmovle),
        (M::Jg, M::Setg, M::Cmovg),
    ];
    TABLE.iter().zip(0..).find_map(|((jump, set, cmov), cc)| match mnemonic {
        m if m == *jump => Some((0, cc)),
        m if m == *set => Some((1, cc)),
        m if m == *cmov => Some((2, cc)),
        _ => None,
    })
}

fn conditional(l: &mut Lowering<'_>) -> Choice {
    let (kind, cc) = condition(l.mnemonic())?;
    match kind {
        0 => {
            let run: Handler = match width(l) {
                2 => by_condition!(cc, branch::jcc, branch::W16),
                4 => by_condition!(cc, branch::jcc, branch::W32),
                _ => by_condition!(cc, branch::jcc, branch::W64),
            };
            jumps(run)
        }
        1 => next(by_condition!(cc, moves::set_cc)),
        _ if l.is_memory(1) => next(by_condition!(cc, moves::cmov)),
        _ => {
            let run: Handler = match l.op.size {
                2 => by_condition!(cc, moves::cmov_rr, S16),
                4 => by_condition!(cc, moves::cmov_rr, S32),
                _ => by_condition!(cc, moves::cmov_rr, S64),
            };
            next(run)
        }
    }
}

/// With REX.B, F3 90 is an exchange of R8 and the accumulator.
fn pause_of_r8(l: &mut Lowering<'_>, bytes: &[u8]) -> Choice {
    let rex = bytes.iter().rev().nth(1).copied().filter(|rex| l.context.bits == 64 && rex & 0xf1 == 0x41)?;
    let word = bytes.contains(&0x66);
    l.op.size = if rex & 8 != 0 {
        8
    } else if word {
        2
    } else {
        4
    };
    (l.op.dst, l.op.src) = (8, 0);
    next(data::exchange_handler(l.op.size))
}

/// The width of the instruction pointer that a near branch leaves, in bytes.
fn width(l: &Lowering<'_>) -> u8 {
    match l.i.op_kind(0) {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => match l.code() {
            Code::Retnw | Code::Retnw_imm16 => 2,
            Code::Retnd | Code::Retnd_imm16 => 4,
            Code::Retnq | Code::Retnq_imm16 => 8,
            _ => l.op.size,
        },
    }
}

fn branches(l: &mut Lowering<'_>) -> Choice {
    let long = l.context.bits == 64;
    match l.mnemonic() {
        M::Jmp => match l.code() {
            Code::Jmp_rm64 if l.form == Form::Flat => jumps(branch::jump_memory::<Flat>),
            Code::Jmp_rm64 if l.form == Form::Rip => jumps(branch::jump_memory::<FlatRip>),
            Code::Jmp_rm64 if l.form == Form::Indexed => jumps(branch::jump_memory::<FlatIndexed>),
            Code::Jmp_rm16 | Code::Jmp_rm32 | Code::Jmp_rm64 => jumps(by_width!(l, jump_indirect)),
            _ if matches!(l.i.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) => {
                jumps(by_width!(l, jump))
            }
            _ => None,
        },
        M::Call => match l.code() {
            Code::Call_rm64 if l.is_register(0) => jumps(branch::call_register),
            Code::Call_rm16 | Code::Call_rm32 | Code::Call_rm64 => jumps(by_width!(l, call_indirect)),
            _ if matches!(l.i.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) => {
                jumps(by_width!(l, call))
            }
            _ => None,
        },
        M::Ret if long && l.code() == Code::Retnq => jumps(branch::ret_64),
        M::Ret => jumps(by_width!(l, ret)),
        // AMD's processors let F3 and F2 choose the condition of the opcodes E0 and E1.
        M::Loopne if l.i.has_rep_prefix() && l.is_amd() => counted::<1>(l),
        M::Loope if l.i.has_repne_prefix() && l.is_amd() => counted::<0>(l),
        M::Loopne => counted::<0>(l),
        M::Loope => counted::<1>(l),
        M::Loop => counted::<2>(l),
        M::Jcxz | M::Jecxz | M::Jrcxz => counted::<3>(l),
        _ => None,
    }
}

fn counted<const KIND: u8>(l: &mut Lowering<'_>) -> Choice {
    use Code::{
        Jcxz_rel8_16, Jcxz_rel8_32, Jrcxz_rel8_16, Jrcxz_rel8_64, Loop_rel8_16_CX, Loop_rel8_16_RCX, Loop_rel8_32_CX,
        Loop_rel8_64_RCX, Loope_rel8_16_CX, Loope_rel8_16_RCX, Loope_rel8_32_CX, Loope_rel8_64_RCX, Loopne_rel8_16_CX,
        Loopne_rel8_16_RCX, Loopne_rel8_32_CX, Loopne_rel8_64_RCX,
    };
    l.op.flags |= match l.code() {
        Jcxz_rel8_16 | Jcxz_rel8_32 | Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
        | Loopne_rel8_16_CX | Loopne_rel8_32_CX => flag::ADDR16,
        Jrcxz_rel8_16 | Jrcxz_rel8_64 | Loop_rel8_16_RCX | Loop_rel8_64_RCX | Loope_rel8_16_RCX | Loope_rel8_64_RCX
        | Loopne_rel8_16_RCX | Loopne_rel8_64_RCX => 0,
        _ => flag::ADDR32,
    };
    jumps(match width(l) {
        2 => branch::counted::<KIND, branch::W16>,
        4 => branch::counted::<KIND, branch::W32>,
        _ => branch::counted::<KIND, branch::W64>,
    })
}

fn shift<K: shift::Shift>(l: &mut Lowering<'_>) -> Choice {
    let size = l.op.size;
    if l.is_immediate(1) {
        l.op.imm &= if size == 8 { 63 } else { 31 };
    }
    let run: Handler = if l.is_memory(0) {
        formed!(l, size, shift::m, K)
    } else if !l.is_immediate(1) {
        sized!(size, shift::r_cl, K)
    } else if l.op.imm == 0 {
        shift::any::<K>
    } else {
        sized!(size, shift::r_imm, K)
    };
    next(run)
}

fn shifts(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Shl | M::Sal => shift::<shift::Shl>(l),
        M::Shr => shift::<shift::Shr>(l),
        M::Sar => shift::<shift::Sar>(l),
        M::Rol => shift::<shift::Rol>(l),
        M::Ror => shift::<shift::Ror>(l),
        M::Rcl => shift::<shift::Rcl>(l),
        M::Rcr => shift::<shift::Rcr>(l),
        M::Shld => next(shift::double_shift::<true>),
        M::Shrd => next(shift::double_shift::<false>),
        M::Shlx => next(shift::flagless::<0>),
        M::Shrx => next(shift::flagless::<1>),
        M::Sarx => next(shift::flagless::<2>),
        M::Rorx => next(shift::flagless::<3>),
        _ => None,
    }
}

fn multiply(l: &mut Lowering<'_>) -> Choice {
    let size = l.op.size;
    match l.mnemonic() {
        M::Mul => next(muldiv::mul_handler(size)),
        M::Imul if l.i.op_count() == 1 => next(muldiv::imul_wide_handler(size)),
        M::Imul => next(muldiv::imul_handler(size)),
        M::Div => next(muldiv::div_handler(size)),
        M::Idiv => next(muldiv::idiv_handler(size)),
        M::Mulx => {
            vex_operands(l);
            next(muldiv::mulx)
        }
        _ => None,
    }
}

/// For `dst, extra, r/m` forms: the r/m operand is the third.
fn vex_operands(l: &mut Lowering<'_>) {
    let (second, third) = (l.op.src, l.op.extra);
    (l.op.extra, l.op.src) = (second, third);
}

/// The size of a stack item, from how the instruction moves the stack pointer.
fn item_size(l: &Lowering<'_>) -> u8 {
    l.i.stack_pointer_increment().unsigned_abs() as u8
}

fn on_stack(l: &mut Lowering<'_>) -> Choice {
    let long = l.context.bits == 64;
    match l.mnemonic() {
        M::Push => {
            l.op.size = item_size(l);
            if l.is_register(0) && is_segment(l.i.op_register(0)) {
                l.op.src = l.op.dst;
                return next(stack::push_segment);
            }
            match (long && l.op.size == 8, l.is_register(0), l.is_memory(0)) {
                (true, true, _) => next(stack::push_r64),
                (true, _, true) => next(stack::push_m64),
                _ => next(stack::push_any),
            }
        }
        M::Pop => {
            l.op.size = item_size(l);
            if l.is_register(0) && is_segment(l.i.op_register(0)) {
                return ends(stack::pop_segment);
            }
            next(if long && l.op.size == 8 && l.is_register(0) { stack::pop_r64 } else { stack::pop_any })
        }
        M::Pusha | M::Pushad => {
            l.op.size = if l.code() == Code::Pushaw { 2 } else { 4 };
            next(stack::push_all)
        }
        M::Popa | M::Popad => {
            l.op.size = if l.code() == Code::Popaw { 2 } else { 4 };
            next(stack::pop_all)
        }
        M::Enter => {
            l.op.size = match l.code() {
                Code::Enterw_imm16_imm8 => 2,
                Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            next(stack::enter)
        }
        M::Leave => {
            l.op.size = match l.code() {
                Code::Leavew => 2,
                Code::Leaved => 4,
                _ => 8,
            };
            next(stack::leave)
        }
        _ => None,
    }
}

fn bit_work(l: &mut Lowering<'_>) -> Choice {
    let has = |feature| l.context.features.has(feature);
    match l.mnemonic() {
        M::Bt => next(bits::bit_test::<{ bits::bit_kind::TEST }>),
        M::Bts => next(bits::bit_test::<{ bits::bit_kind::SET }>),
        M::Btr => next(bits::bit_test::<{ bits::bit_kind::RESET }>),
        M::Btc => next(bits::bit_test::<{ bits::bit_kind::COMPLEMENT }>),
        M::Bsf => next(bits::scan::<false>),
        M::Bsr => next(bits::scan::<true>),
        M::Tzcnt if has(x86::cpuid::Feature::Bmi1) => next(bits::count_zeros::<false>),
        M::Tzcnt => next(bits::scan::<false>),
        M::Lzcnt if has(x86::cpuid::Feature::Abm) => next(bits::count_zeros::<true>),
        M::Lzcnt => next(bits::scan::<true>),
        M::Popcnt => next(bits::popcnt),
        M::Andn => {
            vex_operands(l);
            next(bits::andn)
        }
        M::Pdep => {
            vex_operands(l);
            next(bits::deposit::<false>)
        }
        M::Pext => {
            vex_operands(l);
            next(bits::deposit::<true>)
        }
        M::Bextr => next(bits::bextr),
        M::Bzhi => next(bits::bzhi),
        M::Blsr => next(bits::lowest::<0>),
        M::Blsmsk => next(bits::lowest::<1>),
        M::Blsi => next(bits::lowest::<2>),
        M::Adcx => next(bits::add_carry::<false>),
        M::Adox => next(bits::add_carry::<true>),
        M::Crc32 => {
            l.op.extra = if l.is_memory(1) { l.memory_bytes() } else { super::register_size(l.i.op_register(1)) };
            next(bits::crc32)
        }
        M::Bswap => next(bits::bswap),
        _ => None,
    }
}

fn locked(l: &mut Lowering<'_>) -> Choice {
    match l.mnemonic() {
        M::Xchg if l.is_memory(0) => next(atomic::exchange),
        M::Xchg if l.is_memory(1) => {
            l.op.src = l.op.dst;
            next(atomic::exchange)
        }
        M::Xchg => next(data::exchange_handler(l.op.size)),
        M::Xadd => next(atomic::exchange_add),
        M::Cmpxchg => next(atomic::compare_exchange),
        M::Cmpxchg8b => {
            l.op.size = 8;
            next(atomic::compare_exchange_8)
        }
        M::Cmpxchg16b => next(atomic::compare_exchange_16),
        _ => None,
    }
}

fn string<const KIND: u8>(l: &mut Lowering<'_>) -> Choice {
    let repeats = l.i.has_rep_prefix() || l.i.has_repne_prefix();
    // With both prefixes the decoder reports the last.
    if l.i.has_repne_prefix() {
        l.op.flags |= flag::REPNE;
    } else if repeats {
        l.op.flags |= flag::REP;
    }
    let run = string::handler::<KIND>(repeats);
    if repeats { jumps(run) } else { next(run) }
}

fn strings(l: &mut Lowering<'_>) -> Choice {
    if l.i.op_kinds().any(|kind| kind == OpKind::Memory) {
        // MOVSD and CMPSD of SSE share their names with string instructions.
        return None;
    }
    match l.mnemonic() {
        M::Movsb | M::Movsw | M::Movsq => string::<{ string::kind::MOVS }>(l),
        M::Movsd if l.code() == Code::Movsd_m32_m32 => string::<{ string::kind::MOVS }>(l),
        M::Cmpsb | M::Cmpsw | M::Cmpsq => string::<{ string::kind::CMPS }>(l),
        M::Cmpsd if l.code() == Code::Cmpsd_m32_m32 => string::<{ string::kind::CMPS }>(l),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => string::<{ string::kind::STOS }>(l),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => string::<{ string::kind::LODS }>(l),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => string::<{ string::kind::SCAS }>(l),
        M::Insb | M::Insw | M::Insd => string::<{ string::kind::INS }>(l),
        M::Outsb | M::Outsw | M::Outsd => string::<{ string::kind::OUTS }>(l),
        M::In => ends(string::port_in),
        M::Out => {
            l.op.size = super::register_size(l.i.op_register(1));
            ends(string::port_out)
        }
        _ => None,
    }
}

fn simple(l: &mut Lowering<'_>) -> Choice {
    let sized = |size: u8| size;
    if matches!(
        l.code(),
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    ) {
        // A prefetch of a register.
        return None;
    }
    match l.mnemonic() {
        M::Nop
        | M::Pause
        | M::Endbr32
        | M::Endbr64
        | M::Reservednop
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Rdsspd
        | M::Rdsspq
        | M::Cldemote
        | M::Bndldx
        | M::Bndmov
        | M::Bndcl
        | M::Bndcu
        | M::Bndstx
        | M::Bndmk
        | M::Bndcn
        | M::Lfence
        | M::Sfence => next(data::nop),
        M::Mfence => next(data::fence),
        M::Clflush | M::Clflushopt | M::Clwb => next(data::cache_line),
        M::Cbw | M::Cwde | M::Cdqe => {
            l.op.size = sized(match l.mnemonic() {
                M::Cbw => 2,
                M::Cwde => 4,
                _ => 8,
            });
            next(data::widen)
        }
        M::Cwd | M::Cdq | M::Cqo => {
            l.op.size = sized(match l.mnemonic() {
                M::Cwd => 2,
                M::Cdq => 4,
                _ => 8,
            });
            next(data::widen_to_dx)
        }
        M::Lahf => next(data::lahf),
        M::Sahf => next(data::sahf),
        M::Salc => next(data::salc),
        M::Clc => next(data::carry::<0>),
        M::Stc => next(data::carry::<1>),
        M::Cmc => next(data::carry::<2>),
        M::Cld => next(data::direction::<false>),
        M::Std => next(data::direction::<true>),
        M::Bound => next(data::bound),
        M::Rdrand | M::Rdseed => next(data::random),
        M::Aaa => next(bcd::aaa),
        M::Aas => next(bcd::aas),
        M::Aam => next(bcd::aam),
        M::Aad => next(bcd::aad),
        M::Daa => next(bcd::daa),
        M::Das => next(bcd::das),
        _ => None,
    }
}
