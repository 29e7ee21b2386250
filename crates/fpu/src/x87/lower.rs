//! From iced's instruction codes to [`X87Op`].

use iced_x86::{Code, Instruction, OpKind, Register};

use super::environment::EnvironmentSize::{Bits16, Bits32};
use super::op::{Condition, Indefinite, Kind, X87Memory, X87Op};
use super::status::{C0, C1, C2, C3};
use crate::host::x87 as host;

/// The register index `i` of an instruction with an ST(i) operand; 0 without one.
#[must_use]
pub fn sti_index(instruction: &Instruction) -> u8 {
    for operand in 0..instruction.op_count() {
        if instruction.op_kind(operand) == OpKind::Register {
            let index = (instruction.op_register(operand) as u32).wrapping_sub(Register::ST0 as u32);
            if (1..8).contains(&index) {
                return index as u8;
            }
        }
    }
    0
}

/// The operation of an x87 instruction (or `WAIT`); `None` for every other code and for the
/// extensions of other makers.
#[must_use]
pub fn lower_x87(code: Code) -> Option<X87Op> {
    control(code)
        .or_else(|| register_kind(code).map(|kind| waiting(kind, X87Memory::None)))
        .or_else(|| {
            let (kind, bytes) = arithmetic_memory(code).or_else(|| load(code))?;
            Some(waiting(kind, X87Memory::Load(bytes)))
        })
        .or_else(|| store(code).map(|(kind, bytes)| waiting(kind, X87Memory::Store(bytes))))
}

const fn waiting(kind: Kind, memory: X87Memory) -> X87Op {
    X87Op { kind, memory, waits: true }
}

const fn not_waiting(kind: Kind, memory: X87Memory) -> X87Op {
    X87Op { kind, memory, waits: false }
}

/// Control and state instructions, with and without the wait.
fn control(code: Code) -> Option<X87Op> {
    use X87Memory::{Load, None as NoMemory, Store};
    Some(match code {
        Code::Wait | Code::Fnop | Code::Feni | Code::Fdisi | Code::Fsetpm => waiting(Kind::Nop, NoMemory),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => not_waiting(Kind::Nop, NoMemory),
        Code::Finit => waiting(Kind::Init, NoMemory),
        Code::Fninit => not_waiting(Kind::Init, NoMemory),
        Code::Fclex => waiting(Kind::ClearExceptions, NoMemory),
        Code::Fnclex => not_waiting(Kind::ClearExceptions, NoMemory),
        Code::Fldcw_m2byte => waiting(Kind::LoadControl, Load(2)),
        Code::Fstcw_m2byte => waiting(Kind::StoreControl, Store(2)),
        Code::Fnstcw_m2byte => not_waiting(Kind::StoreControl, Store(2)),
        Code::Fstsw_m2byte => waiting(Kind::StoreStatus, Store(2)),
        Code::Fnstsw_m2byte => not_waiting(Kind::StoreStatus, Store(2)),
        Code::Fstsw_AX => waiting(Kind::StoreStatusAx, NoMemory),
        Code::Fnstsw_AX => not_waiting(Kind::StoreStatusAx, NoMemory),
        Code::Fldenv_m14byte => waiting(Kind::LoadEnvironment(Bits16), Load(14)),
        Code::Fldenv_m28byte => waiting(Kind::LoadEnvironment(Bits32), Load(28)),
        Code::Fstenv_m14byte => waiting(Kind::StoreEnvironment(Bits16), Store(14)),
        Code::Fnstenv_m14byte => not_waiting(Kind::StoreEnvironment(Bits16), Store(14)),
        Code::Fstenv_m28byte => waiting(Kind::StoreEnvironment(Bits32), Store(28)),
        Code::Fnstenv_m28byte => not_waiting(Kind::StoreEnvironment(Bits32), Store(28)),
        Code::Frstor_m94byte => waiting(Kind::Restore(Bits16), Load(94)),
        Code::Frstor_m108byte => waiting(Kind::Restore(Bits32), Load(108)),
        Code::Fsave_m94byte => waiting(Kind::Save(Bits16), Store(94)),
        Code::Fnsave_m94byte => not_waiting(Kind::Save(Bits16), Store(94)),
        Code::Fsave_m108byte => waiting(Kind::Save(Bits32), Store(108)),
        Code::Fnsave_m108byte => not_waiting(Kind::Save(Bits32), Store(108)),
        _ => return None,
    })
}

/// Instructions on registers alone.
fn register_kind(code: Code) -> Option<Kind> {
    arithmetic_register(code)
        .or_else(|| transcendental(code))
        .or_else(|| compare_register(code))
        .or_else(|| move_register(code))
}

fn arithmetic_register(code: Code) -> Option<Kind> {
    use Kind::{ArithmeticRegister, ArithmeticTop};
    let to_register = |f: host::BinaryFn, pops| ArithmeticRegister { f, pops };
    Some(match code {
        Code::Fadd_st0_sti => ArithmeticTop(host::fadd_st0),
        Code::Fsub_st0_sti => ArithmeticTop(host::fsub_st0),
        Code::Fsubr_st0_sti => ArithmeticTop(host::fsubr_st0),
        Code::Fmul_st0_sti => ArithmeticTop(host::fmul_st0),
        Code::Fdiv_st0_sti => ArithmeticTop(host::fdiv_st0),
        Code::Fdivr_st0_sti => ArithmeticTop(host::fdivr_st0),
        Code::Fadd_sti_st0 => to_register(host::fadd_sti, 0),
        Code::Fsub_sti_st0 => to_register(host::fsub_sti, 0),
        Code::Fsubr_sti_st0 => to_register(host::fsubr_sti, 0),
        Code::Fmul_sti_st0 => to_register(host::fmul_sti, 0),
        Code::Fdiv_sti_st0 => to_register(host::fdiv_sti, 0),
        Code::Fdivr_sti_st0 => to_register(host::fdivr_sti, 0),
        Code::Faddp_sti_st0 => to_register(host::fadd_sti, 1),
        Code::Fsubp_sti_st0 => to_register(host::fsub_sti, 1),
        Code::Fsubrp_sti_st0 => to_register(host::fsubr_sti, 1),
        Code::Fmulp_sti_st0 => to_register(host::fmul_sti, 1),
        Code::Fdivp_sti_st0 => to_register(host::fdiv_sti, 1),
        Code::Fdivrp_sti_st0 => to_register(host::fdivr_sti, 1),
        Code::Fchs => Kind::ChangeSign,
        Code::Fabs => Kind::Absolute,
        _ => return None,
    })
}

fn transcendental(code: Code) -> Option<Kind> {
    Some(match code {
        Code::Fsqrt => Kind::Unary(host::fsqrt, C1),
        Code::Frndint => Kind::Unary(host::frndint, C1),
        Code::F2xm1 => Kind::Unary(host::f2xm1, C1),
        Code::Fsin => Kind::Unary(host::fsin, C1 | C2),
        Code::Fcos => Kind::Unary(host::fcos, C1 | C2),
        Code::Fsincos => Kind::UnaryTwo { f: host::fsincos, bounded: true },
        Code::Fptan => Kind::UnaryTwo { f: host::fptan, bounded: true },
        Code::Fxtract => Kind::UnaryTwo { f: host::fxtract, bounded: false },
        Code::Fscale => Kind::BinaryTop(host::fscale, C1),
        Code::Fprem => Kind::BinaryTop(host::fprem, C0 | C1 | C2 | C3),
        Code::Fprem1 => Kind::BinaryTop(host::fprem1, C0 | C1 | C2 | C3),
        Code::Fyl2x => Kind::BinaryPop(host::fyl2x),
        Code::Fyl2xp1 => Kind::BinaryPop(host::fyl2xp1),
        Code::Fpatan => Kind::BinaryPop(host::fpatan),
        Code::Fld1 => Kind::LoadConstant(host::fld1),
        Code::Fldl2t => Kind::LoadConstant(host::fldl2t),
        Code::Fldl2e => Kind::LoadConstant(host::fldl2e),
        Code::Fldpi => Kind::LoadConstant(host::fldpi),
        Code::Fldlg2 => Kind::LoadConstant(host::fldlg2),
        Code::Fldln2 => Kind::LoadConstant(host::fldln2),
        Code::Fldz => Kind::LoadConstant(host::fldz),
        _ => return None,
    })
}

fn compare_register(code: Code) -> Option<Kind> {
    let compare = |f: host::CompareFn, pops| Kind::CompareRegister { f, pops };
    let eflags = |f: host::CompareFn, pops| Kind::CompareEflags { f, pops };
    Some(match code {
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => compare(host::fcom, 0),
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => compare(host::fcom, 1),
        Code::Fucom_st0_sti => compare(host::fucom, 0),
        Code::Fucomp_st0_sti => compare(host::fucom, 1),
        Code::Fcompp => Kind::CompareBoth(host::fcom),
        Code::Fucompp => Kind::CompareBoth(host::fucom),
        Code::Fcomi_st0_sti => eflags(host::fcom, 0),
        Code::Fcomip_st0_sti => eflags(host::fcom, 1),
        Code::Fucomi_st0_sti => eflags(host::fucom, 0),
        Code::Fucomip_st0_sti => eflags(host::fucom, 1),
        Code::Ftst => Kind::Test,
        Code::Fxam => Kind::Examine,
        _ => return None,
    })
}

fn move_register(code: Code) -> Option<Kind> {
    const CARRY: u32 = 0x01;
    const PARITY: u32 = 0x04;
    const ZERO: u32 = 0x40;
    let cmov = |flags, when| Kind::ConditionalMove(Condition { flags, when });
    Some(match code {
        Code::Fld_sti => Kind::LoadRegister,
        Code::Fst_sti => Kind::StoreRegister { pops: 0 },
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => Kind::StoreRegister { pops: 1 },
        Code::Fstpnce_sti => Kind::StoreUnchecked,
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => Kind::Exchange,
        Code::Ffree_sti => Kind::Free { pops: 0 },
        Code::Ffreep_sti => Kind::Free { pops: 1 },
        Code::Fdecstp => Kind::MoveTop(-1),
        Code::Fincstp => Kind::MoveTop(1),
        Code::Fcmovb_st0_sti => cmov(CARRY, true),
        Code::Fcmove_st0_sti => cmov(ZERO, true),
        Code::Fcmovbe_st0_sti => cmov(CARRY | ZERO, true),
        Code::Fcmovu_st0_sti => cmov(PARITY, true),
        Code::Fcmovnb_st0_sti => cmov(CARRY, false),
        Code::Fcmovne_st0_sti => cmov(ZERO, false),
        Code::Fcmovnbe_st0_sti => cmov(CARRY | ZERO, false),
        Code::Fcmovnu_st0_sti => cmov(PARITY, false),
        _ => return None,
    })
}

/// Arithmetic and comparison with a memory operand, and the operand's size.
fn arithmetic_memory(code: Code) -> Option<(Kind, u8)> {
    use Kind::ArithmeticMemory;
    let compare = |f: host::CompareMemoryFn, pops| Kind::CompareMemory { f, pops };
    Some(match code {
        Code::Fadd_m32fp => (ArithmeticMemory(host::fadd_f32), 4),
        Code::Fmul_m32fp => (ArithmeticMemory(host::fmul_f32), 4),
        Code::Fsub_m32fp => (ArithmeticMemory(host::fsub_f32), 4),
        Code::Fsubr_m32fp => (ArithmeticMemory(host::fsubr_f32), 4),
        Code::Fdiv_m32fp => (ArithmeticMemory(host::fdiv_f32), 4),
        Code::Fdivr_m32fp => (ArithmeticMemory(host::fdivr_f32), 4),
        Code::Fadd_m64fp => (ArithmeticMemory(host::fadd_f64), 8),
        Code::Fmul_m64fp => (ArithmeticMemory(host::fmul_f64), 8),
        Code::Fsub_m64fp => (ArithmeticMemory(host::fsub_f64), 8),
        Code::Fsubr_m64fp => (ArithmeticMemory(host::fsubr_f64), 8),
        Code::Fdiv_m64fp => (ArithmeticMemory(host::fdiv_f64), 8),
        Code::Fdivr_m64fp => (ArithmeticMemory(host::fdivr_f64), 8),
        Code::Fiadd_m16int => (ArithmeticMemory(host::fiadd_i16), 2),
        Code::Fimul_m16int => (ArithmeticMemory(host::fimul_i16), 2),
        Code::Fisub_m16int => (ArithmeticMemory(host::fisub_i16), 2),
        Code::Fisubr_m16int => (ArithmeticMemory(host::fisubr_i16), 2),
        Code::Fidiv_m16int => (ArithmeticMemory(host::fidiv_i16), 2),
        Code::Fidivr_m16int => (ArithmeticMemory(host::fidivr_i16), 2),
        Code::Fiadd_m32int => (ArithmeticMemory(host::fiadd_i32), 4),
        Code::Fimul_m32int => (ArithmeticMemory(host::fimul_i32), 4),
        Code::Fisub_m32int => (ArithmeticMemory(host::fisub_i32), 4),
        Code::Fisubr_m32int => (ArithmeticMemory(host::fisubr_i32), 4),
        Code::Fidiv_m32int => (ArithmeticMemory(host::fidiv_i32), 4),
        Code::Fidivr_m32int => (ArithmeticMemory(host::fidivr_i32), 4),
        Code::Fcom_m32fp => (compare(host::fcom_f32, 0), 4),
        Code::Fcomp_m32fp => (compare(host::fcom_f32, 1), 4),
        Code::Fcom_m64fp => (compare(host::fcom_f64, 0), 8),
        Code::Fcomp_m64fp => (compare(host::fcom_f64, 1), 8),
        Code::Ficom_m16int => (compare(host::ficom_i16, 0), 2),
        Code::Ficomp_m16int => (compare(host::ficom_i16, 1), 2),
        Code::Ficom_m32int => (compare(host::ficom_i32, 0), 4),
        Code::Ficomp_m32int => (compare(host::ficom_i32, 1), 4),
        _ => return None,
    })
}

fn load(code: Code) -> Option<(Kind, u8)> {
    use Kind::LoadMemory;
    Some(match code {
        Code::Fld_m32fp => (LoadMemory(host::fld_f32), 4),
        Code::Fld_m64fp => (LoadMemory(host::fld_f64), 8),
        Code::Fld_m80fp => (Kind::LoadF80, 10),
        Code::Fild_m16int => (LoadMemory(host::fild_i16), 2),
        Code::Fild_m32int => (LoadMemory(host::fild_i32), 4),
        Code::Fild_m64int => (LoadMemory(host::fild_i64), 8),
        Code::Fbld_m80bcd => (LoadMemory(host::fbld), 10),
        _ => return None,
    })
}

fn store(code: Code) -> Option<(Kind, u8)> {
    let store = |convert: host::StoreFn, indefinite, pops| Kind::StoreMemory { convert, indefinite, pops };
    Some(match code {
        Code::Fst_m32fp => (store(host::fst_f32, Indefinite::F32, 0), 4),
        Code::Fstp_m32fp => (store(host::fst_f32, Indefinite::F32, 1), 4),
        Code::Fst_m64fp => (store(host::fst_f64, Indefinite::F64, 0), 8),
        Code::Fstp_m64fp => (store(host::fst_f64, Indefinite::F64, 1), 8),
        Code::Fstp_m80fp => (Kind::StoreF80, 10),
        Code::Fist_m16int => (store(host::fist_i16, Indefinite::I16, 0), 2),
        Code::Fistp_m16int => (store(host::fist_i16, Indefinite::I16, 1), 2),
        Code::Fist_m32int => (store(host::fist_i32, Indefinite::I32, 0), 4),
        Code::Fistp_m32int => (store(host::fist_i32, Indefinite::I32, 1), 4),
        Code::Fistp_m64int => (store(host::fistp_i64, Indefinite::I64, 1), 8),
        Code::Fisttp_m16int => (store(host::fisttp_i16, Indefinite::I16, 1), 2),
        Code::Fisttp_m32int => (store(host::fisttp_i32, Indefinite::I32, 1), 4),
        Code::Fisttp_m64int => (store(host::fisttp_i64, Indefinite::I64, 1), 8),
        Code::Fbstp_m80bcd => (store(host::fbstp, Indefinite::Bcd, 1), 10),
        _ => return None,
    })
}
