//! What instructions do: one handler for each form, called through the function pointer in its [`Op`].
//!
//! The frequent forms (moves, arithmetic, branches, stack) are monomorphised over operand size, addressing form and
//! operation. Rare ones look at the [`Op`] at run time. A handler that falls through leaves `cpu.rip` alone; only the
//! last handler of a block sets it. A handler that returns a fault has changed nothing that the guest could see,
//! except where the architecture says so (string instructions, task switches).

mod address;
mod alu;
mod atomic;
mod avx;
mod bcd;
mod bits;
mod branch;
mod data;
#[expect(unsafe_code, reason = "host atomics and copies on guest RAM")]
mod host;
mod mmx;
mod moves;
mod muldiv;
#[expect(unsafe_code, reason = "inline assembly of integer instructions")]
mod native_int;
mod operand;
mod shift;
mod sse;
mod stack;
mod string;
mod system;
mod x87;
mod xsave;

pub(crate) mod lower;

pub(crate) use address::{Any, Flat, FlatIndexed, FlatRip, load_sized as load_operand, segment};
pub(crate) use operand::{S8, S16, S32, S64, Size};

use crate::fault::Exec;
use crate::state::Cpu;

/// Executes one instruction.
pub(crate) type Handler = fn(&mut Cpu, &Op) -> Exec;

/// The operation of a vector or floating-point instruction, found once for each instruction code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Semantics {
    /// Packed integers and cryptography.
    Vector(simd::VectorOp),
    /// SSE floating point.
    Sse(fpu::SseOp),
    /// x87.
    X87(fpu::X87Op),
    /// VEX-encoded vector instructions, on the host's unit.
    Native(crate::native::Stub),
}

/// Bits of [`Op::flags`].
pub(crate) mod flag {
    /// The r/m operand is in memory.
    pub const MEM: u8 = 1;
    /// LOCK, or an XCHG with memory.
    pub const LOCK: u8 = 1 << 1;
    /// F3.
    pub const REP: u8 = 1 << 2;
    /// F2.
    pub const REPNE: u8 = 1 << 3;
    /// Effective addresses have 32 bits.
    pub const ADDR32: u8 = 1 << 4;
    /// Effective addresses have 16 bits.
    pub const ADDR16: u8 = 1 << 5;
    /// The address is relative to the next instruction.
    pub const RIP: u8 = 1 << 6;
    /// The source operand is the immediate.
    pub const IMM: u8 = 1 << 7;
}

/// No register, in [`Op::base`] and [`Op::index`].
pub(crate) const NONE: u8 = 0xff;

/// A decoded instruction.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// The handler.
    pub run: Handler,
    /// The immediate, the distance of a branch target from the instruction's start, or an absolute address.
    pub imm: u64,
    /// For handlers that are told what to compute.
    pub semantics: Option<&'static Semantics>,
    /// Displacement of the memory operand.
    pub disp: i32,
    /// Distance from the start of the block.
    pub offset: u16,
    /// The instruction code, or something that the handler wants.
    pub aux: u16,
    /// The first register operand; 16 to 19 are AH, CH, DH and BH.
    pub dst: u8,
    /// The second register operand.
    pub src: u8,
    /// Base register, or [`NONE`].
    pub base: u8,
    /// Index register, or [`NONE`].
    pub index: u8,
    /// log2 of the index's scale.
    pub scale: u8,
    /// Segment of the memory operand.
    pub seg: u8,
    /// Length in bytes.
    pub len: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Operand size in bytes.
    pub size: u8,
    /// A third register operand (BMI), or the memory operand's size where it differs.
    pub extra: u8,
}

impl Op {
    /// Whether a bit of [`flag`] is set.
    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
