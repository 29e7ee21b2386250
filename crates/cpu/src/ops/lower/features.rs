//! Which instructions the CPU model has.

use iced_x86::{Code, CpuidFeature as F, Instruction, Mnemonic};
use x86::cpuid::Feature;

use super::Context;

/// Whether the model has the instruction. Encodings that older processors execute as something else (TZCNT, LZCNT,
/// PAUSE, ENDBR, hints) are always there and are dealt with by the tables.
pub(super) fn available(context: &Context<'_>, instruction: &Instruction) -> bool {
    if matches!(instruction.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Lzcnt | Mnemonic::Wbnoinvd) {
        return true;
    }
    if matches!(instruction.code(), Code::Sysenter | Code::Sysexitd | Code::Sysexitq) {
        return context.features.has(Feature::Sep);
    }
    instruction.cpuid_features().iter().all(|feature| has(context, *feature))
}

fn has(context: &Context<'_>, feature: F) -> bool {
    let needed = match feature {
        F::SSE => Feature::Sse,
        F::SSE2 => Feature::Sse2,
        F::SSE3 => Feature::Sse3,
        F::SSSE3 => Feature::Ssse3,
        F::SSE4_1 => Feature::Sse41,
        F::SSE4_2 => Feature::Sse42,
        F::AES => Feature::Aes,
        F::PCLMULQDQ => Feature::Pclmulqdq,
        F::AVX => Feature::Avx,
        F::AVX2 => Feature::Avx2,
        F::FMA => Feature::Fma,
        F::F16C => Feature::F16c,
        F::VAES => Feature::Vaes,
        F::VPCLMULQDQ => Feature::Vpclmulqdq,
        F::SHA => Feature::ShaNi,
        F::POPCNT => Feature::Popcnt,
        F::BMI1 => Feature::Bmi1,
        F::BMI2 => Feature::Bmi2,
        F::ADX => Feature::Adx,
        F::MOVBE => Feature::Movbe,
        F::RDRAND => Feature::Rdrand,
        F::RDSEED => Feature::Rdseed,
        F::MMX => Feature::Mmx,
        F::CMPXCHG16B => Feature::Cx16,
        F::CLFSH => Feature::Clflush,
        F::CLFLUSHOPT => Feature::Clflushopt,
        F::CLWB => Feature::Clwb,
        F::RDTSCP => Feature::Rdtscp,
        F::FSGSBASE => Feature::Fsgsbase,
        F::INVPCID => Feature::Invpcid,
        F::SMAP => Feature::Smap,
        F::XSAVE => Feature::Xsave,
        F::XSAVEOPT => Feature::Xsaveopt,
        F::XSAVEC => Feature::Xsavec,
        F::FXSR => Feature::Fxsr,
        F::RDPID => Feature::Rdpid,
        F::CMOV => Feature::Cmov,
        F::CX8 => Feature::Cx8,
        F::TSC => Feature::Tsc,
        F::MSR => Feature::Msr,
        _ => return true,
    };
    context.features.has(needed)
}
