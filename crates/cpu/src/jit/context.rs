//! What translated code shares with the runtime: the [`Context`], below 2 GiB, and the common stubs that enter and
//! leave translated code.
//!
//! Between the stubs, the guest's general registers are in host registers ([`host_register`]), the last three in the
//! context; [`crate::state::Cpu`] has them only while the runtime runs.

use std::mem::offset_of;

use codemem::{LowBox, Zeroable};

use super::asm::{Alu, Asm, Mem, S0, S1, cc};
use crate::state::Cpu;

/// Entries of the table of indirect jumps.
pub(super) const JUMPS: usize = 1 << 14;
/// The host register that holds the guest's RSP.
pub(super) const HOST_RSP: u8 = 13;
/// The first guest register that lives in the context.
pub(super) const RESIDENT: u8 = 13;

/// Where an indirect jump to a linear address goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct JumpEntry {
    /// The address, combined with the key of its half of the address space.
    pub tag: u64,
    pub code: u64,
}

/// Why translated code came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Leave {
    /// The slow path has settled everything.
    Settled = 0,
    /// A direct jump that is not linked; `data` is the edge.
    Edge = 1,
    /// An indirect jump whose target is not in the table; `data` is the jump.
    Indirect = 2,
    /// A signal is pending, or the next instruction is not for translated code.
    Next = 3,
}

/// The state that translated code addresses absolutely.
#[repr(C, align(64))]
pub(super) struct Context {
    /// First operand of the deferred flags; see `flags`.
    pub flag_a: u64,
    /// Second operand.
    pub flag_b: u64,
    /// What the deferred flags are of: [`super::flags::Kind`].
    pub flag_kind: u32,
    /// CF, whatever the kind.
    pub flag_cf: u8,
    pub vectors_live: u8,
    pub vectors_were_live: u8,
    /// Flags as LAHF (high byte) and SETO (low byte) leave them.
    pub flag_bits: u16,
    /// Guest R13, R14, R15.
    pub resident: [u64; 3],
    pub fs_base: u64,
    pub gs_base: u64,
    /// What a slow load returns.
    pub value: u64,
    pub scratch: u64,
    pub saved_rax: u64,
    /// Where an indirect call goes, while it pushes: what looks for modified code uses `scratch`.
    pub call_target: u64,
    /// RDI and RSI after a string instruction.
    pub string_rdi: u64,
    pub string_rsi: u64,
    /// The tracking of the page that a store has met.
    pub watched: u64,
    pub cpu: u64,
    pub resume: u64,
    /// RFLAGS for translated code that goes on after a slow instruction.
    pub rflags: u64,
    pub slow: u64,
    /// The next instruction, when leaving.
    pub rip: u64,
    /// Keys of the jump table for the lower and the upper half of the address space.
    pub keys: [u64; 2],
    /// The runtime's [`super::Jit`], while translated code runs.
    pub jit: u64,
    pub site: u32,
    pub leave: u32,
    pub data: u32,
    pub signal_mask: u32,
    pub host_mxcsr: u32,
    /// Guest instructions that were begun in this piece, and the number after which a poll leaves: for the lock-step mode.
    pub begun: u64,
    pub begun_most: u64,
    /// The x87 unit; see `x87`.
    pub x87_area: super::x87::Area,
    /// The offset of a memory operand that is looked up.
    pub x87_offset: u64,
    /// FDP, if `x87_segment` is not 0.
    pub x87_data: u64,
    /// The last instruction's record, counted from 1.
    pub x87_instruction: u32,
    pub x87_control: u16,
    /// The segment of FDP, counted from 1.
    pub x87_segment: u8,
    pub x87_live: u8,
    /// Where deferred flags of each kind are made into bits.
    pub flag_makers: [u64; super::flags::NUMBERS],
    pub jumps: [JumpEntry; JUMPS],
}

// SAFETY: integers only.
unsafe impl Zeroable for Context {}

macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        $crate::jit::asm::Mem::Abs(
            $context + std::mem::offset_of!($crate::jit::context::Context, $($field)+) as u32,
        )
    };
}
pub(super) use field;

/// Where guest register `n` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host(u8),
    Context(Mem),
}

/// The host register of guest register `n`, if it has one.
pub(super) fn host_register(n: u8) -> Option<u8> {
    match n {
        4 => Some(HOST_RSP),
        RESIDENT.. => None,
        n => Some(n),
    }
}

/// Where guest register `n` is; `context` is the context's address.
pub(super) fn place(context: u32, n: u8) -> Place {
    match host_register(n) {
        Some(host) => Place::Host(host),
        None => {
            let index = u32::from(n.saturating_sub(RESIDENT).min(2));
            Place::Context(Mem::Abs(context + offset_of!(Context, resident) as u32 + index * 8))
        }
    }
}

/// Addresses of the common stubs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stubs {
    /// `extern "sysv64" fn(cpu, code)`.
    pub enter: u64,
    /// Saves everything and returns from `enter`.
    pub leave: u64,
    /// S0: the site. Runs the slow path.
    pub slow: u64,
    /// A subroutine that brings the guest's vectors into the host's registers.
    pub load_vectors: u64,
    /// A subroutine that makes bits of the deferred flags.
    pub bits: u64,
}

fn gpr(n: u8) -> i32 {
    offset_of!(Cpu, gpr) as i32 + i32::from(n) * 8
}

fn save_registers(asm: &mut Asm, context: u32) {
    asm.load(8, S1, field!(context, cpu));
    for n in 0..16 {
        match place(context, n) {
            Place::Host(host) => asm.store(8, Mem::Base(S1, gpr(n)), host),
            Place::Context(at) => {
                // RAX is saved already and restored by whoever goes on.
                asm.load(8, 0, at);
                asm.store(8, Mem::Base(S1, gpr(n)), 0);
            }
        }
    }
}

fn load_registers(asm: &mut Asm, context: u32) {
    asm.load(8, S1, field!(context, cpu));
    for n in (0..16).rev() {
        match place(context, n) {
            Place::Host(host) => asm.load(8, host, Mem::Base(S1, gpr(n))),
            Place::Context(at) => {
                asm.load(8, 0, Mem::Base(S1, gpr(n)));
                asm.store(8, at, 0);
            }
        }
    }
}

/// Stores the vectors to `Cpu` (S1), if they are in the host's registers.
fn flush_vectors(asm: &mut Asm, context: u32, wide: bool) {
    let done = asm.label();
    asm.alu_mem_imm8(1, Alu::Cmp, field!(context, vectors_live), 0);
    asm.jcc(cc::E, done);
    for n in 0..16u8 {
        let at = offset_of!(Cpu, ymm) as i32 + i32::from(n) * 32;
        if wide {
            asm.move_ymm(true, n, S1, at);
        } else {
            asm.store_xmm(Mem::Base(S1, at), n);
        }
    }
    if wide {
        asm.vzeroupper();
    }
    asm.stmxcsr(Mem::Base(S1, offset_of!(Cpu, mxcsr) as i32));
    asm.ldmxcsr(field!(context, host_mxcsr));
    asm.store_imm(1, field!(context, vectors_live), 0);
    asm.store_imm(1, field!(context, vectors_were_live), 1);
    asm.bind(done);
}

/// Loads the vectors from `Cpu` (S1). Changes the host's flags.
fn load_vectors(asm: &mut Asm, context: u32, wide: bool) {
    let at = |n: u8| offset_of!(Cpu, ymm) as i32 + i32::from(n) * 32;
    asm.ldmxcsr(Mem::Base(S1, offset_of!(Cpu, mxcsr) as i32));
    let (whole, done) = (asm.label(), asm.label());
    if wide {
        // Upper halves that are clear are cleared in a way that the host notices: while it takes them for something,
        // each instruction of SSE waits for the one that wrote its register before.
        asm.load_xmm_alone(0, S1, at(0) + 16);
        (1..16).for_each(|n| asm.or_into_xmm0(S1, at(n) + 16));
        asm.test_xmm0();
        asm.jcc(cc::NE, whole);
        (0..16).for_each(|n| asm.load_xmm_alone(n, S1, at(n)));
        asm.jmp(done);
        asm.bind(whole);
        (0..16).for_each(|n| asm.move_ymm(false, n, S1, at(n)));
    } else {
        (0..16).for_each(|n| asm.load_xmm(n, Mem::Base(S1, at(n))));
    }
    asm.bind(done);
    asm.store_imm(1, field!(context, vectors_live), 1);
}

/// The callee-saved registers of the System V ABI.
const SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Makes the common stubs for code at `base`; `wide`: the guest has AVX.
pub(super) fn stubs(context: &mut LowBox<Context>, base: u64, wide: bool) -> Option<(Vec<u8>, Stubs)> {
    let at = context.address();
    let mut asm = Asm::new(base);
    let mut stubs = Stubs { enter: base, ..Stubs::default() };
    // rdi is the CPU, which is in the context too; rsi the code.
    SAVED.iter().for_each(|reg| asm.push(*reg));
    asm.alu_imm(8, Alu::Sub, 4, 8);
    asm.mov(8, S0, 6);
    load_registers(&mut asm, at);
    asm.jmp_reg(S0);

    stubs.leave = base + u64::from(asm.here());
    save_registers(&mut asm, at);
    flush_vectors(&mut asm, at, wide);
    let leave_saved = asm.label();
    asm.bind(leave_saved);
    asm.alu_imm(8, Alu::Add, 4, 8);
    SAVED.iter().rev().for_each(|reg| asm.pop(*reg));
    asm.ret();

    stubs.slow = base + u64::from(asm.here());
    asm.store(4, field!(at, site), S0);
    save_registers(&mut asm, at);
    asm.store_imm(1, field!(at, vectors_were_live), 0);
    flush_vectors(&mut asm, at, wide);
    asm.mov(8, 7, S1);
    asm.load(4, 6, field!(at, site));
    asm.mov_imm(2, u64::from(at));
    asm.call_mem(field!(at, slow));
    asm.test(8, 0, 0);
    asm.jcc(cc::E, leave_saved);
    asm.store(8, field!(at, resume), 0);
    asm.load(8, S1, field!(at, cpu));
    let no_vectors = asm.label();
    asm.alu_mem_imm8(1, Alu::Cmp, field!(at, vectors_were_live), 0);
    asm.jcc(cc::E, no_vectors);
    load_vectors(&mut asm, at, wide);
    asm.bind(no_vectors);
    load_registers(&mut asm, at);
    asm.load(8, S1, field!(at, value));
    asm.jmp_mem(field!(at, resume));

    stubs.load_vectors = base + u64::from(asm.here());
    asm.load(8, S1, field!(at, cpu));
    load_vectors(&mut asm, at, wide);
    asm.ret();

    (stubs.bits, context.flag_makers) = super::flags::bits_subroutine(&mut asm, at, base);
    Some((asm.finish()?.to_vec(), stubs))
}
