//! x87, MMX and SSE.

use std::sync::LazyLock;

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use super::super::{Semantics, flag, mmx, sse, x87, xsave};
use super::{Choice, Lowering, avx, next};
use crate::ops::Handler;

/// What every instruction code computes, found once for all CPUs.
static SEMANTICS: LazyLock<Vec<Option<Semantics>>> = LazyLock::new(|| {
    Code::values()
        .map(|code| {
            simd::lower(code)
                .map(Semantics::Vector)
                .or_else(|| fpu::lower_sse(code).map(Semantics::Sse))
                .or_else(|| fpu::lower_x87(code).map(Semantics::X87))
        })
        .collect()
});

fn semantics(code: Code) -> Option<&'static Semantics> {
    SEMANTICS.get(code as usize)?.as_ref()
}

fn is_mmx(register: Register) -> bool {
    register.is_mm()
}

fn has_mmx(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && is_mmx(i.op_register(n)))
}

pub(super) fn lower(l: &mut Lowering<'_>, bytes: &[u8]) -> Choice {
    if let Some(choice) = movement(l).or_else(|| state(l)).or_else(|| avx::lower(l)) {
        return Some(choice);
    }
    if l.code() == Code::Wait {
        return next(x87::wait);
    }
    let semantics = semantics(l.code())?;
    l.op.semantics = Some(semantics);
    match semantics {
        Semantics::Native(_) => None,
        Semantics::X87(_) => {
            l.op.src = fpu::sti_index(l.i);
            l.op.aux = opcode(bytes);
            next(x87::execute)
        }
        Semantics::Sse(op) => {
            l.op.extra = l.memory_bytes();
            if l.is_amd() {
                l.op.flags |= flag::REP;
            }
            if l.is_memory(0) {
                l.op.flags |= flag::LOCK;
            }
            next(if matches!(op, fpu::SseOp::Binary(_)) { sse::float_binary } else { sse::float_other })
        }
        Semantics::Vector(op) => {
            l.op.extra = l.memory_bytes();
            let sha = matches!(
                l.mnemonic(),
                M::Sha1msg1
                    | M::Sha1msg2
                    | M::Sha1nexte
                    | M::Sha1rnds4
                    | M::Sha256msg1
                    | M::Sha256msg2
                    | M::Sha256rnds2
            );
            if sha && l.is_amd() {
                l.op.extra = sse::UNALIGNED;
            }
            let run: Handler = match op {
                simd::VectorOp::Xmm(_) => sse::packed,
                simd::VectorOp::Mmx(_) | simd::VectorOp::MmxToGpr(_) | simd::VectorOp::MmxFromGpr(_) => mmx::packed,
                _ => sse::packed_other,
            };
            next(run)
        }
    }
}

/// The eleven bits of an x87 opcode that FOP keeps: after the prefixes come the escape and the second byte.
fn opcode(bytes: &[u8]) -> u16 {
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte));
    let first = escape.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
    let second = escape.and_then(|at| bytes.get(at + 1)).copied().unwrap_or(0);
    u16::from(first & 7) << 8 | u16::from(second)
}

fn movement(l: &mut Lowering<'_>) -> Choice {
    let store = l.is_memory(0);
    let code = l.code();
    match l.mnemonic() {
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => {
            let to_rm = matches!(code, Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm);
            next(if to_rm { sse::store::<false> } else { sse::load::<false> })
        }
        M::Movaps | M::Movapd | M::Movdqa | M::Movntdqa | M::Movntps | M::Movntpd | M::Movntdq => {
            next(if store { sse::store::<true> } else { sse::load::<true> })
        }
        M::Movss => scalar(l, 4),
        M::Movsd => scalar(l, 8),
        M::Movlps | M::Movlpd => next(if store { sse::store_half::<false> } else { sse::load_half::<false> }),
        M::Movhps | M::Movhpd => next(if store { sse::store_half::<true> } else { sse::load_half::<true> }),
        M::Movhlps => next(sse::move_half::<false>),
        M::Movlhps => next(sse::move_half::<true>),
        M::Movq2dq => next(sse::from_mmx),
        M::Movdq2q => next(sse::to_mmx),
        M::Movd | M::Movq => moves(l),
        M::Movntq => next(mmx::store),
        M::Maskmovdqu => {
            masked(l);
            next(sse::masked_store)
        }
        M::Maskmovq => {
            masked(l);
            next(mmx::masked_store)
        }
        _ => None,
    }
}

/// MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: the registers are the operands after rDI.
pub(super) fn masked(l: &mut Lowering<'_>) {
    l.op.dst = l.op.src;
    l.op.src = l.op.extra;
}

fn scalar(l: &mut Lowering<'_>, size: u8) -> Choice {
    l.op.extra = size;
    next(if l.is_memory(0) || matches!(l.code(), Code::Movss_xmmm32_xmm | Code::Movsd_xmmm64_xmm) {
        sse::store_scalar
    } else {
        sse::load_scalar
    })
}

fn moves(l: &mut Lowering<'_>) -> Choice {
    let run: Handler = match l.code() {
        Code::Movd_mm_rm32 | Code::Movq_mm_rm64 => mmx::from_general,
        Code::Movd_rm32_mm | Code::Movq_rm64_mm => mmx::to_general,
        Code::Movq_mm_mmm64 => {
            l.op.extra = 8;
            mmx::load
        }
        Code::Movq_mmm64_mm => mmx::store,
        Code::Movd_xmm_rm32 | Code::Movq_xmm_rm64 => sse::from_general,
        Code::Movd_rm32_xmm | Code::Movq_rm64_xmm => sse::to_general,
        Code::Movq_xmm_xmmm64 => sse::move_quad,
        Code::Movq_xmmm64_xmm => sse::store_quad,
        _ => return None,
    };
    debug_assert!(has_mmx(l.i) || l.op.size == 0 || l.op.size >= 4);
    next(run)
}

fn state(l: &mut Lowering<'_>) -> Choice {
    let wide = matches!(
        l.code(),
        Code::Fxsave64_m512byte
            | Code::Fxrstor64_m512byte
            | Code::Xsave64_mem
            | Code::Xsaveopt64_mem
            | Code::Xsavec64_mem
            | Code::Xrstor64_mem
    );
    let run: Handler = match l.mnemonic() {
        M::Emms => mmx::emms,
        M::Ldmxcsr => sse::load_mxcsr,
        M::Stmxcsr => sse::store_mxcsr,
        M::Fxsave | M::Fxsave64 => xsave::fxsave,
        M::Fxrstor | M::Fxrstor64 => xsave::fxrstor,
        M::Xsave | M::Xsave64 => xsave::xsave::<{ xsave::kind::XSAVE }>,
        M::Xsaveopt | M::Xsaveopt64 => xsave::xsave::<{ xsave::kind::XSAVEOPT }>,
        M::Xsavec | M::Xsavec64 => xsave::xsave::<{ xsave::kind::XSAVEC }>,
        M::Xrstor | M::Xrstor64 => xsave::xrstor,
        _ => return None,
    };
    l.op.size = if wide { 8 } else { 4 };
    next(run)
}
