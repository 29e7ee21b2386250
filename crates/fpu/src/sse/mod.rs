//! SSE to SSE4.1 floating-point instructions on 128-bit patterns, legacy encodings
//! (SDM volume 1, chapters 10 to 12; exceptions: section 11.5).

mod arithmetic;
mod convert;
mod lower;
mod shuffle;

pub use lower::lower_sse;

use crate::compare::Comparison;
use crate::mxcsr::{Mxcsr, SimdException};

/// The result of an instruction that can raise a SIMD floating-point exception.
pub(crate) type Simd<T> = Result<T, SimdException>;

/// What an SSE floating-point instruction does. The functions take register contents or the bytes
/// of a memory operand, zero-extended (iced's memory size tells how many), and return the whole
/// new register. On [`SimdException`] nothing but MXCSR has changed.
#[derive(Clone, Copy, Debug)]
pub enum SseOp {
    /// `xmm1 ← f(xmm1, xmm2/m, imm8)`; the immediate is 0 for instructions without one.
    Binary(fn(u128, u128, u8, &mut Mxcsr) -> Simd<u128>),
    /// `xmm1 ← f(xmm1, xmm2/m, XMM0)`.
    BinaryXmm0(fn(u128, u128, u128) -> u128),
    /// `INSERTPS`: `xmm1 ← f(xmm1, xmm2/m32, imm8)`; the only instruction to which it matters
    /// whether the source is a register.
    Insert(fn(u128, InsertSource, u8) -> u128),
    /// `EFLAGS ← f(xmm1, xmm2/m)`; see [`Comparison`].
    Compare(fn(u128, u128, &mut Mxcsr) -> Simd<Comparison>),
    /// `r32/r64 ← f(xmm2/m, imm8)`. A result of a 32-bit operation is zero-extended, so that
    /// writing it to either register width is right. With `EXTRACTPS` operand 0 may be memory:
    /// its four bytes are the low half of the result.
    ToGpr(fn(u128, u8, &mut Mxcsr) -> Simd<u64>),
    /// `xmm1 ← f(xmm1, r/m32 or r/m64)`; a 32-bit source may be extended in any way.
    FromGpr(fn(u128, u64, &mut Mxcsr) -> Simd<u128>),
    /// `xmm1 ← f(xmm1, mm/m64)`.
    MmxToXmm {
        /// The conversion.
        convert: fn(u128, u64, &mut Mxcsr) -> Simd<u128>,
        /// Whether also the form with a memory operand makes the transition to MMX (and checks
        /// for a pending x87 exception), as the form with a register does.
        memory_enters_mmx: bool,
    },
    /// `mm ← f(xmm2/m)`; always makes the transition to MMX.
    XmmToMmx(fn(u128, &mut Mxcsr) -> Simd<u64>),
}

/// The source of `INSERTPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertSource {
    /// A whole register, of which the immediate chooses a lane.
    Register(u128),
    /// The four bytes of a memory operand.
    Memory(u32),
}

/// Lane `i` of four singles.
pub(crate) const fn lane32(vector: u128, i: u32) -> u32 {
    (vector >> (32 * (i & 3))) as u32
}

/// Lane `i` of two doubles.
pub(crate) const fn lane64(vector: u128, i: u32) -> u64 {
    (vector >> (64 * (i & 1))) as u64
}

/// A vector of four singles, lane 0 first.
pub(crate) const fn from_lanes32(lanes: [u32; 4]) -> u128 {
    lanes[0] as u128 | (lanes[1] as u128) << 32 | (lanes[2] as u128) << 64 | (lanes[3] as u128) << 96
}

/// A vector of two doubles, lane 0 first.
pub(crate) const fn from_lanes64(lanes: [u64; 2]) -> u128 {
    lanes[0] as u128 | (lanes[1] as u128) << 64
}
