//! Floating point of the software x86-64 CPU: the x87 unit and the arithmetic of SSE to SSE4.1.
//!
//! Pure functions and one small state machine ([`X87`]); no memory access and no decoding beyond
//! the two tables [`lower_x87`] and [`lower_sse`]. The specification is Intel's SDM: volume 1
//! chapters 4, 8, 10 and 11 and the instruction pages of volume 2.
//!
//! # What is the host's, and what is ours
//! On an x86-64 host the host's floating-point unit is the guest's (module `host`, the one place
//! with `unsafe`). Every operation that rounds, compares, converts or can raise an arithmetic
//! exception is the host's own instruction, run with the guest's rounding, precision, FTZ and DAZ
//! bits; the value and the exception flags are the host's. That includes NaN propagation,
//! the transcendental functions, `RCPPS`/`RSQRTPS` (approximations differ between makers) and the
//! condition codes of `FPREM` and `FXAM`.
//!
//! Ours is everything around it:
//! - the x87 register stack, tags, stack faults, condition codes and their undefined bits (left
//!   unchanged), the environment and save images, MMX aliasing;
//! - the guest's exception masks. The host always runs with invalid, denormal, zero-divide and
//!   precision masked; what an unmasked exception means follows from the SDM (volume 1, sections
//!   8.4–8.6 and 11.5). x87 overflow and underflow are the exception: when the guest unmasks them
//!   the host computes the bias-adjusted result, which the host delivers only when unmasked; the
//!   pending exception is cleared by `FNCLEX` before any waiting instruction can deliver it.
//!   SSE exceptions are immediate and therefore never unmasked;
//! - sign changes, moves, shuffles, blends and bitwise logic, which cannot raise anything.
//!
//! # Left out on purpose
//! VEX and EVEX encodings, plain SSE data movement (the `cpu` crate does that), Cyrix and 387SL
//! extensions. The precision flag that accompanies an *unmasked* SSE overflow or underflow is the
//! one of the masked response.

#![deny(unsafe_code)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "the fpu crate runs guest floating point on the host's own x87 and SSE units: \
     only x86-64 hosts are supported"
);

mod compare;
mod f80;
#[expect(unsafe_code, reason = "inline assembly runs the host's FPU instructions")]
mod host;
mod mxcsr;
mod sse;
mod x87;

pub use compare::Comparison;
pub use f80::F80;
pub use host::host_is_supported;
pub use mxcsr::{Mxcsr, SimdException};
pub use sse::{InsertSource, SseOp, lower_sse};
pub use x87::{
    AddressMode, Commit, EnvironmentSize, FxsaveFormat, Pointers, Store, X87, X87Memory, X87Op, X87Operand, X87Outcome,
    lower_x87, sti_index,
};
