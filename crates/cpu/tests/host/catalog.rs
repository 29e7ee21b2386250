//! Every instruction code that the comparison knows, by what can be done with it, and how often it has been run.

use std::collections::HashMap;

use iced_x86::{Code, CpuidFeature as F, EncodingKind, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind};

/// What the model and the host have, beyond what every x86-64 processor has.
pub fn is_known(feature: F, avx: bool) -> bool {
    match feature {
        F::INTEL8086
        | F::INTEL186
        | F::INTEL286
        | F::INTEL386
        | F::INTEL486
        | F::X64
        | F::FPU
        | F::FPU287
        | F::FPU387
        | F::MMX
        | F::SSE
        | F::SSE2
        | F::SSE3
        | F::SSSE3
        | F::SSE4_1
        | F::SSE4_2
        | F::AES
        | F::PCLMULQDQ
        | F::SHA
        | F::POPCNT
        | F::LZCNT
        | F::BMI1
        | F::BMI2
        | F::ADX
        | F::MOVBE
        | F::CMOV
        | F::CX8
        | F::CMPXCHG16B
        | F::CLFSH
        | F::CLFLUSHOPT
        | F::CLWB
        | F::MULTIBYTENOP
        | F::PAUSE
        | F::PREFETCHW
        | F::FXSR
        | F::CET_IBT
        | F::FSGSBASE => true,
        F::AVX | F::AVX2 | F::FMA | F::F16C | F::VAES | F::VPCLMULQDQ => avx,
        _ => false,
    }
}

/// Instructions that a process may not run, that depend on more than the registers, or that leave what is not compared
/// (the x87 unit's instruction and data pointers).
fn denied(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Syscall
            | M::Into
            | M::Les
            | M::Lds
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Sysenter
            | M::Int
            | M::Int1
            | M::Int3
            | M::Rdtsc
            | M::Cpuid
            | M::Popf
            | M::Popfd
            | M::Popfq
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Sti
            | M::Cli
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::In
            | M::Out
            | M::Fnstenv
            | M::Fstenv
            | M::Fnsave
            | M::Fsave
            | M::Fldenv
            | M::Frstor
            | M::Fstdw
            | M::Fstsg
            | M::Fndisi
            | M::Fneni
            | M::Fdisi
            | M::Feni
            | M::Fsetpm
            | M::Fnsetpm
            | M::Frstpm
    )
}

/// Whether the instruction's outcome depends on more than what is compared.
pub fn is_denied(instruction: &Instruction) -> bool {
    let code = instruction.code();
    let segment = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_segment_register());
    let far = code.is_jmp_far() || code.is_call_far() || code.is_jmp_far_indirect() || code.is_call_far_indirect();
    denied(code.mnemonic()) || instruction.is_privileged() || segment || far
}

/// An instruction code.
#[derive(Clone, Copy)]
pub struct Entry {
    pub code: Code,
    pub kinds: [K; 5],
    pub count: usize,
}

impl Entry {
    pub fn new(code: Code) -> Self {
        let info = code.op_code();
        let mut kinds = [K::None; 5];
        kinds[..info.op_kinds().len()].copy_from_slice(info.op_kinds());
        Self { code, kinds, count: info.op_kinds().len() }
    }

    pub fn kinds(&self) -> &[K] {
        &self.kinds[..self.count]
    }
}

/// Operands that only the layout of a snippet can fill in, or that the guest has not got.
fn is_branch(kind: K) -> bool {
    matches!(kind, K::br16_1 | K::br32_1 | K::br64_1 | K::br16_2 | K::br32_4 | K::br64_4)
}

fn is_possible(kind: K) -> bool {
    !matches!(
        kind,
        K::farbr2_2
            | K::farbr4_2
            | K::mem_mpx
            | K::mem_mib
            | K::mem_vsib32z
            | K::mem_vsib64z
            | K::r32_or_mem_mpx
            | K::r64_or_mem_mpx
            | K::zmm_or_mem
            | K::bnd_or_mem_mpx
            | K::k_or_mem
            | K::r16_reg_mem
            | K::r32_reg_mem
            | K::r64_reg_mem
            | K::k_reg
            | K::kp1_reg
            | K::k_rm
            | K::k_vvvv
            | K::zmm_reg
            | K::zmm_rm
            | K::zmm_vvvv
            | K::zmmp3_vvvv
            | K::xmmp3_vvvv
            | K::cr_reg
            | K::dr_reg
            | K::tr_reg
            | K::bnd_reg
            | K::xmm_is5
            | K::ymm_is5
            | K::imm4_m2z
            | K::xbegin_2
            | K::xbegin_4
            | K::brdisp_2
            | K::brdisp_4
            | K::sibmem
            | K::tmm_reg
            | K::tmm_rm
            | K::tmm_vvvv
    )
}

/// Whether the code can be run and compared in code of `bits` bits, with plain operands.
fn may_run(code: Code, bits: u32, avx: bool) -> bool {
    let info = code.op_code();
    let there = if bits == 64 { info.mode64() } else { info.mode32() };
    let encoding = matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    let loads_segment = matches!(info.op_kinds().first(), Some(K::seg_reg))
        || matches!(code.mnemonic(), M::Pop)
            && !matches!(
                info.op_kinds()[0],
                K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::r16_opcode | K::r32_opcode | K::r64_opcode
            );
    // The two code segments' selectors differ in 32-bit mode.
    let shows_cs = matches!(info.op_kinds().first(), Some(K::cs));
    info.is_instruction()
        && there
        && !code.is_jmp_far_indirect()
        && !code.is_call_far_indirect()
        && !(bits == 64 && info.op_kinds().iter().any(|kind| matches!(kind, K::br16_1 | K::br16_2)))
        && encoding
        && !info.is_privileged()
        && code.cpuid_features().iter().all(|feature| is_known(*feature, avx))
        && !denied(code.mnemonic())
        && !loads_segment
        && !shows_cs
        && info.op_kinds().iter().all(|kind| is_possible(*kind))
}

/// The codes of one mode.
pub struct Catalog {
    /// All without relative branches.
    pub all: Vec<Entry>,
    /// Relative branches.
    pub branches: Vec<Entry>,
    /// General integer instructions.
    pub integer: Vec<Entry>,
    /// What consumes arithmetic flags.
    pub consumers: Vec<Entry>,
    pub x87: Vec<Entry>,
    pub vector: Vec<Entry>,
    counts: HashMap<Code, [u64; 3]>,
}

impl Catalog {
    pub fn new(bits: u32, avx: bool) -> Self {
        let codes: Vec<Code> = Code::values().filter(|code| may_run(*code, bits, avx)).collect();
        let counts = codes.iter().map(|code| (*code, [0; 3])).collect();
        let (branches, all): (Vec<Entry>, Vec<Entry>) =
            codes.into_iter().map(Entry::new).partition(|entry| entry.kinds().iter().any(|kind| is_branch(*kind)));
        let pick = |test: fn(&Entry) -> bool| all.iter().copied().filter(test).collect();
        Self {
            integer: pick(|entry| is_integer(entry.code.mnemonic())),
            consumers: pick(|entry| is_consumer(entry.code.mnemonic())),
            x87: pick(|entry| entry.code.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387))),
            vector: pick(|entry| {
                entry.kinds().iter().any(|kind| {
                    matches!(
                        kind,
                        K::xmm_reg | K::xmm_or_mem | K::ymm_reg | K::ymm_or_mem | K::mm_reg | K::mm_or_mem | K::xmm_rm
                    )
                })
            }),
            branches,
            all,
            counts,
        }
    }

    /// Notes a run of `code`, with a memory operand or not.
    pub fn note(&mut self, code: Code, memory: bool, completed: bool) {
        let counts = self.counts.entry(code).or_default();
        counts[usize::from(memory)] += u64::from(completed);
        counts[2] += 1;
    }

    /// A line for each code: completed with registers only, completed with a memory operand, all.
    pub fn coverage(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .counts
            .iter()
            .map(|(code, [registers, memory, all])| format!("{code:?} {registers} {memory} {all}"))
            .collect();
        lines.sort();
        lines
    }

    /// Codes that have never been completed.
    pub fn missing(&self) -> Vec<Code> {
        let mut missing: Vec<Code> =
            self.counts.iter().filter(|(_, counts)| counts[0] + counts[1] == 0).map(|(code, _)| *code).collect();
        missing.sort();
        missing
    }
}

fn is_consumer(mnemonic: M) -> bool {
    let name = mnemonic as usize;
    matches!(
        mnemonic,
        M::Adc | M::Sbb | M::Lahf | M::Pushf | M::Pushfd | M::Pushfq | M::Rcl | M::Rcr | M::Cmc | M::Salc
    ) || matches!(mnemonic, M::Adcx | M::Adox | M::Inc | M::Dec)
        || is_conditional(name)
}

/// SETcc and CMOVcc.
fn is_conditional(mnemonic: usize) -> bool {
    const CONDITIONS: [M; 32] = [
        M::Seto,
        M::Setno,
        M::Setb,
        M::Setae,
        M::Sete,
        M::Setne,
        M::Setbe,
        M::Seta,
        M::Sets,
        M::Setns,
        M::Setp,
        M::Setnp,
        M::Setl,
        M::Setge,
        M::Setle,
        M::Setg,
        M::Cmovo,
        M::Cmovno,
        M::Cmovb,
        M::Cmovae,
        M::Cmove,
        M::Cmovne,
        M::Cmovbe,
        M::Cmova,
        M::Cmovs,
        M::Cmovns,
        M::Cmovp,
        M::Cmovnp,
        M::Cmovl,
        M::Cmovge,
        M::Cmovle,
        M::Cmovg,
    ];
    CONDITIONS.iter().any(|condition| *condition as usize == mnemonic)
}

fn is_integer(mnemonic: M) -> bool {
    is_consumer(mnemonic)
        || matches!(
            mnemonic,
            M::Add
                | M::Sub
                | M::And
                | M::Or
                | M::Xor
                | M::Cmp
                | M::Test
                | M::Neg
                | M::Not
                | M::Mov
                | M::Movzx
                | M::Movsx
                | M::Movsxd
                | M::Lea
                | M::Shl
                | M::Shr
                | M::Sar
                | M::Rol
                | M::Ror
                | M::Shld
                | M::Shrd
                | M::Imul
                | M::Mul
                | M::Div
                | M::Idiv
                | M::Bt
                | M::Bts
                | M::Btr
                | M::Btc
                | M::Bsf
                | M::Bsr
                | M::Tzcnt
                | M::Lzcnt
                | M::Popcnt
                | M::Bswap
                | M::Xchg
                | M::Xadd
                | M::Cmpxchg
                | M::Push
                | M::Pop
                | M::Sahf
                | M::Stc
                | M::Clc
                | M::Cbw
                | M::Cwde
                | M::Cdqe
                | M::Cwd
                | M::Cdq
                | M::Cqo
                | M::Andn
                | M::Blsr
                | M::Blsi
                | M::Blsmsk
                | M::Bextr
                | M::Bzhi
                | M::Shlx
                | M::Shrx
                | M::Sarx
                | M::Rorx
                | M::Mulx
                | M::Pdep
                | M::Pext
                | M::Movsb
                | M::Movsq
                | M::Stosb
                | M::Stosd
                | M::Lodsb
                | M::Scasb
                | M::Cmpsb
                | M::Movbe
                | M::Leave
        )
}
