//! What the translator needs to know of single instructions: whether the host executes them as they are, what they do to
//! the flags, and what they demand of their operands.

use super::*;

/// The size of a shift's count operand does not say what it does to the flags when it is zero.
pub(super) fn counts_by_register(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd)
        && (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::Register && ins.op_register(n) == Register::CL)
}

/// Flags that the instruction certainly sets to something that does not depend on what they were.
pub(super) fn surely_set(ins: &Instruction) -> u32 {
    if counts_by_register(ins) || has_rep(ins) {
        return 0;
    }
    let count = || {
        ins.immediate(ins.op_count() - 1)
            & if ins.op0_register().is_gpr64() || ins.memory_size().size() == 8 { 63 } else { 31 }
    };
    let independent = match ins.mnemonic() {
        // AF is undefined in the manuals; every processor clears it.
        M::And | M::Or | M::Xor | M::Test => true,
        M::Shl | M::Sal | M::Shr | M::Sar if count() == 0 => return 0,
        M::Shl | M::Sal | M::Shr | M::Sar => host::independent(host::Kind::Shift),
        M::Shld | M::Shrd if count() == 0 => return 0,
        M::Bsf | M::Bsr => host::independent(host::Kind::Scan),
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi => host::independent(host::Kind::Bmi),
        _ => false,
    };
    if independent {
        return ARITHMETIC;
    }
    (ins.rflags_written() | ins.rflags_cleared() | ins.rflags_set()) & ARITHMETIC
}

pub(super) fn has_rep(ins: &Instruction) -> bool {
    ins.has_rep_prefix() || ins.has_repne_prefix()
}

/// Flags that the instruction may change. The decoder knows too well when a rotation changes nothing: the host sets OF
/// and CF whenever the masked count is not zero.
pub(super) fn modified(ins: &Instruction) -> u32 {
    let rotates = matches!(ins.mnemonic(), M::Rcl | M::Rcr | M::Rol | M::Ror);
    let own = if rotates { CARRY | iced_x86::RflagsBits::OF } else { 0 };
    ins.rflags_modified() & ARITHMETIC | own
}

/// Flags that the instruction reads.
pub(super) fn read(ins: &Instruction) -> u32 {
    let through_carry = matches!(ins.mnemonic(), M::Rcl | M::Rcr);
    ins.rflags_read() & ARITHMETIC | if through_carry { CARRY } else { 0 }
}

/// Whether the guest's state can be seen from outside at this instruction: it may fault, or the interpreter runs it.
pub(super) fn is_site(ins: &Instruction, flow: Flow, plain: bool, vector: bool) -> bool {
    flow != Flow::Next
        || (0..ins.op_count()).any(|n| !matches!(ins.op_kind(n), OpKind::Register) && !is_immediate(ins.op_kind(n)))
            && ins.mnemonic() != M::Lea
        || !(plain || is_idle(ins.mnemonic()) || ins.mnemonic() == M::Lea || vector)
}

/// Instructions that do nothing that the guest can see.
pub(super) fn is_idle(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Nop
            | M::Pause
            | M::Endbr64
            | M::Endbr32
            | M::Reservednop
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Cldemote
    )
}

/// Integer instructions that the host executes as they are.
pub(super) fn is_plain(mnemonic: M) -> bool {
    use M::{
        Adc, Adcx, Add, Adox, And, Andn, Bextr, Blsi, Blsmsk, Blsr, Bsf, Bsr, Bswap, Bt, Btc, Btr, Bts, Bzhi, Cbw, Cdq,
        Cdqe, Clc, Cmc, Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp,
        Cmovns, Cmovo, Cmovp, Cmovs, Cmp, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Cqo, Crc32, Cwd, Cwde, Dec, Imul, Inc, Lahf,
        Lfence, Lzcnt, Mfence, Mov, Movbe, Movnti, Movsx, Movsxd, Movzx, Mul, Mulx, Neg, Not, Or, Pdep, Pext, Popcnt,
        Rcl, Rcr, Rol, Ror, Rorx, Sahf, Sal, Sar, Sarx, Sbb, Seta, Setae, Setb, Setbe, Sete, Setg, Setge, Setl, Setle,
        Setne, Setno, Setnp, Setns, Seto, Setp, Sets, Sfence, Shl, Shld, Shlx, Shr, Shrd, Shrx, Stc, Sub, Test, Tzcnt,
        Xadd, Xchg, Xor,
    };
    matches!(
        mnemonic,
        Adc | Add
            | Adcx
            | Adox
            | And
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bsf
            | Bsr
            | Bswap
            | Bt
            | Btc
            | Btr
            | Bts
            | Bzhi
            | Cbw
            | Cdq
            | Cdqe
            | Clc
            | Cmc
            | Cmova
            | Cmovae
            | Cmovb
            | Cmovbe
            | Cmove
            | Cmovg
            | Cmovge
            | Cmovl
            | Cmovle
            | Cmovne
            | Cmovno
            | Cmovnp
            | Cmovns
            | Cmovo
            | Cmovp
            | Cmovs
            | Cmp
            | Cmpxchg
            | Cmpxchg16b
            | Cmpxchg8b
            | Cqo
            | Crc32
            | Cwd
            | Cwde
            | Dec
            | Imul
            | Inc
            | Lahf
            | Lfence
            | Lzcnt
            | Mfence
            | Mov
            | Movbe
            | Movnti
            | Movsx
            | Movsxd
            | Movzx
            | Mul
            | Mulx
            | Neg
            | Not
            | Or
            | Pdep
            | Pext
            | Popcnt
            | Rcl
            | Rcr
            | Rol
            | Ror
            | Rorx
            | Sahf
            | Sal
            | Sar
            | Sarx
            | Sbb
            | Seta
            | Setae
            | Setb
            | Setbe
            | Sete
            | Setg
            | Setge
            | Setl
            | Setle
            | Setne
            | Setno
            | Setnp
            | Setns
            | Seto
            | Setp
            | Sets
            | Sfence
            | Shl
            | Shld
            | Shlx
            | Shr
            | Shrd
            | Shrx
            | Stc
            | Sub
            | Test
            | Tzcnt
            | Xadd
            | Xchg
            | Xor
    )
}

/// Whether the host has the features of a vector instruction and the translator may keep it as it is.
pub(super) fn is_native_vector(ins: &Instruction, mode: Mode) -> bool {
    use std::arch::is_x86_feature_detected as host_has;
    if !mode.masked {
        return false;
    }
    if matches!(
        ins.mnemonic(),
        M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
            | M::Vpgatherdd
            | M::Vpgatherdq
            | M::Vpgatherqd
            | M::Vpgatherqq
            | M::Vgatherdps
            | M::Vgatherdpd
            | M::Vgatherqps
            | M::Vgatherqpd
    ) {
        return false;
    }
    let legacy = ins.encoding() == EncodingKind::Legacy;
    if if legacy { !mode.sse } else { ins.encoding() != EncodingKind::VEX || !mode.avx } {
        return false;
    }
    let vector = |register: Register| register.is_xmm() || register.is_ymm();
    let operands = (0..ins.op_count()).filter(|n| ins.op_kind(*n) == OpKind::Register).map(|n| ins.op_register(n));
    let (mut some, mut other) = (false, false);
    for register in operands {
        some |= vector(register);
        other |= !vector(register) && register_size(register) == 0;
    }
    // With the vectors in the host's registers, MXCSR is the guest's.
    let zero = matches!(ins.mnemonic(), M::Vzeroupper | M::Vzeroall | M::Stmxcsr | M::Vstmxcsr);
    if other || !(some || zero) {
        return false;
    }
    ins.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::SSE | CpuidFeature::SSE2 | CpuidFeature::INTEL386 | CpuidFeature::X64 => true,
        CpuidFeature::SSE3 => host_has!("sse3"),
        CpuidFeature::SSSE3 => host_has!("ssse3"),
        CpuidFeature::SSE4_1 => host_has!("sse4.1"),
        CpuidFeature::SSE4_2 => host_has!("sse4.2"),
        CpuidFeature::AES => host_has!("aes"),
        CpuidFeature::PCLMULQDQ => host_has!("pclmulqdq"),
        CpuidFeature::SHA => host_has!("sha"),
        CpuidFeature::AVX => host_has!("avx"),
        CpuidFeature::AVX2 => host_has!("avx2"),
        CpuidFeature::FMA => host_has!("fma"),
        CpuidFeature::F16C => host_has!("f16c"),
        CpuidFeature::VAES => host_has!("vaes"),
        CpuidFeature::VPCLMULQDQ => host_has!("vpclmulqdq"),
        _ => false,
    })
}

/// Whether the host has what an integer instruction beyond the base set needs.
pub(super) fn host_has_plain(ins: &Instruction) -> bool {
    use std::arch::is_x86_feature_detected as host_has;
    match ins.mnemonic() {
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr => host_has!("bmi1"),
        M::Tzcnt => host_has!("bmi1"),
        M::Lzcnt => host_has!("lzcnt"),
        M::Bzhi | M::Mulx | M::Pdep | M::Pext | M::Rorx | M::Sarx | M::Shlx | M::Shrx => host_has!("bmi2"),
        M::Adcx | M::Adox => host_has!("adx"),
        M::Popcnt => host_has!("popcnt"),
        M::Movbe => host_has!("movbe"),
        M::Crc32 => host_has!("sse4.2"),
        M::Cmpxchg16b => host_has!("cmpxchg16b"),
        _ => true,
    }
}

/// The alignment that an instruction demands of its memory operand in bytes, or 1.
pub(super) fn alignment(ins: &Instruction, size: u32) -> u32 {
    match ins.mnemonic() {
        M::Cmpxchg16b => 16,
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq => size,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu | M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => 1,
        _ if ins.encoding() == EncodingKind::Legacy && size == 16 => 16,
        _ => 1,
    }
}

/// The general register `n` of a size in bytes.
pub(super) fn register(size: u8, n: u8) -> Register {
    let n32 = u32::from(n);
    match size {
        1 if n < 4 => Register::AL + n32,
        1 if n < 8 => Register::SPL + (n32 - 4),
        1 => Register::R8L + (n32 - 8),
        2 => Register::AX + n32,
        4 => Register::EAX + n32,
        _ => Register::RAX + n32,
    }
}

/// The condition of Jcc, SETcc or CMOVcc as encoded.
pub(super) fn condition(ins: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match ins.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

pub(super) fn is_direct(ins: &Instruction) -> bool {
    ins.op_count() == 1 && ins.op0_kind() == OpKind::NearBranch64
}

pub(super) fn is_jcc(ins: &Instruction) -> bool {
    ins.is_jcc_short_or_near() && ins.op0_kind() == OpKind::NearBranch64
}

pub(super) fn is_setcc(ins: &Instruction) -> bool {
    ins.condition_code() != iced_x86::ConditionCode::None && ins.op_count() == 1 && !is_direct(ins)
}

pub(super) fn repeats_string(ins: &Instruction) -> bool {
    has_rep(ins)
        && ins.is_string_instruction()
        && !matches!(ins.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd)
}

/// BT and its like with a register as bit offset reach beyond their operand.
pub(super) fn is_register_bit_test(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), M::Bt | M::Btc | M::Btr | M::Bts) && ins.op1_kind() == OpKind::Register
}

/// How the flags of an instruction can be made again. `loaded`: the memory operand's value is in a slot.
pub(super) fn recipe(ins: &Instruction, loaded: Option<u8>) -> Option<Recipe> {
    let (kind, keeps) = match ins.mnemonic() {
        M::Add => (Kind::Add, true),
        M::Sub => (Kind::Sub, true),
        M::Cmp => (Kind::Cmp, false),
        M::And | M::Or | M::Xor => (Kind::Logic, true),
        M::Test => (Kind::Logic, false),
        M::Neg => (Kind::Neg, true),
        _ => return None,
    };
    let operand = |n: u32, slot: Operand| match ins.op_kind(n) {
        OpKind::Register => {
            let number = register_number(ins.op_register(n));
            (number < 16).then_some(Operand::Register(number))
        }
        OpKind::Memory => loaded.map(|_| slot),
        kind if is_immediate(kind) => Some(Operand::Immediate(i32::try_from(ins.immediate(n) as i64).ok()?)),
        _ => None,
    };
    let size = match ins.op0_kind() {
        OpKind::Register => register_size(ins.op0_register()),
        _ => loaded?,
    };
    if keeps && ins.op0_kind() == OpKind::Memory {
        return None;
    }
    let a = operand(0, Operand::SlotA)?;
    let b = if ins.op_count() > 1 { operand(1, Operand::SlotB)? } else { Operand::Immediate(0) };
    let same = a == b;
    match kind {
        // The result is what counts; of TEST it exists only when both operands are the same.
        Kind::Logic if keeps || same => Some(Recipe { kind, size, a, b: Operand::Immediate(0) }),
        Kind::Logic => None,
        // Something minus itself is zero, as after a logical operation.
        Kind::Sub if same => Some(Recipe { kind: Kind::Logic, size, a, b: Operand::Immediate(0) }),
        Kind::Add if same => None,
        _ => Some(Recipe { kind, size, a, b }),
    }
}

/// Whether the instruction does the same when it is executed again from the same state.
pub(super) fn can_repeat(ins: &Instruction) -> bool {
    let control = |register: Register| register.is_cr() || register.is_dr();
    let operand = |n| ins.op_kind(n) == OpKind::Register && control(ins.op_register(n));
    !(0..ins.op_count()).any(operand)
        && !matches!(
            ins.mnemonic(),
            M::Rdtsc
                | M::Rdtscp
                | M::Rdpmc
                | M::Rdrand
                | M::Rdseed
                | M::Rdmsr
                | M::Wrmsr
                | M::In
                | M::Out
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Hlt
                | M::Mwait
                | M::Monitor
                | M::Lmsw
                | M::Clts
                | M::Xsetbv
                | M::Invlpg
                | M::Invpcid
        )
}

/// Whether the instruction asks for the outer loop only because it may change flags of the system or the page tables.
pub(super) fn asks_for_little(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), M::Cli | M::Sti | M::Popf | M::Popfd | M::Popfq)
        || ins.mnemonic() == M::Mov && ins.op0_register() == Register::CR3
}

/// Jumps to another privilege level, as operating systems use them.
pub(super) fn is_transfer(ins: &Instruction) -> bool {
    matches!(ins.code(), Code::Syscall | Code::Sysretq | Code::Iretq)
}
