//! Packed-integer, shuffle, string and cryptographic vector instructions of the software CPU.
//!
//! Models what the legacy-encoded integer instructions of MMX, SSE, SSE2, SSSE3, SSE4.1, SSE4.2,
//! AES-NI, PCLMULQDQ and SHA do to register images (Intel SDM volume 2). [`lower`] maps an
//! instruction code to a [`VectorOp`]: its shape and the pure function that computes it. The
//! interpreter fetches operands, checks alignment, raises faults and writes back. [`bits`] has
//! the scalar CRC32, PDEP and PEXT.
//!
//! Left to others on purpose: plain data movement, EMMS and the stores of MASKMOVQ/MASKMOVDQU
//! (`cpu`; [`byte_mask_xmm`] and [`byte_mask_mmx`] say which bytes), instructions on
//! floating-point data or with floating-point names (`fpu`), VEX and EVEX encodings, GFNI, SSE4a.
//!
//! Everything here is stateless and may run on any thread.

#![forbid(unsafe_code)]

pub mod bits;
mod crypto;
mod lanes;
mod lower;
mod packed;
mod shuffle;
mod string;

pub use lower::lower;
pub use shuffle::{byte_mask_mmx, byte_mask_xmm};
pub use string::{StringLengths, StringOp, StringOutput, StringResult};

/// The shape of a vector instruction and the function that computes it.
///
/// Register images are passed by reference and changed in place, since LLVM then vectorises the
/// functions; for `PADDB xmm1, xmm1` the caller copies the source first. A memory source is read
/// with the size that the decoder gives ([`iced_x86::Instruction::memory_size`]) and
/// zero-extended to the register. A 128-bit memory source must be aligned, except that of
/// [`VectorOp::String`]. The immediate is 0 for instructions without one.
#[derive(Clone, Copy, Debug)]
pub enum VectorOp {
    /// `f(dst, src, imm8)` on XMM registers or memory.
    Xmm(fn(&mut u128, &u128, u8)),
    /// `f(dst, src, xmm0)`: XMM0 is an implicit operand (PBLENDVB, SHA256RNDS2).
    XmmXmm0(fn(&mut u128, &u128, &u128)),
    /// `f(dst, src, imm8)` on MMX registers or memory.
    Mmx(fn(&mut u64, &u64, u8)),
    /// General register or memory = `f(xmm, imm8)`, already zero-extended to 64 bits; memory gets
    /// as many bytes as its operand has (PMOVMSKB, PEXTRB/W/D/Q).
    ToGpr(fn(u128, u8) -> u64),
    /// The same from an MMX register (PMOVMSKB, PEXTRW).
    MmxToGpr(fn(u64, u8) -> u64),
    /// `f(dst, value, imm8)`: the value is a general register or memory, bits above the lane are
    /// ignored (PINSRB/W/D/Q).
    FromGpr(fn(&mut u128, u64, u8)),
    /// The same into an MMX register (PINSRW).
    MmxFromGpr(fn(&mut u64, u64, u8)),
    /// `f(dst, src)` sets flags only (PTEST).
    Flags(fn(&u128, &u128) -> VectorFlags),
    /// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM.
    String(StringOp),
}

/// The arithmetic flags as PTEST and the string comparisons leave them; AF and PF are cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorFlags {
    /// Carry flag.
    pub cf: bool,
    /// Zero flag.
    pub zf: bool,
    /// Sign flag.
    pub sf: bool,
    /// Overflow flag.
    pub of: bool,
}

/// PTEST: ZF when `src` has no bit in `dst`, CF when it has none outside.
fn ptest(d: &u128, s: &u128) -> VectorFlags {
    VectorFlags { zf: s & d == 0, cf: s & !d == 0, ..VectorFlags::default() }
}
