//! From decoded instructions to [`Op`]s: operands, addressing form, and the choice of the handler.
//!
//! One table for each subject; a code that none of them knows is #UD. Instructions that the CPU model does not advertise
//! are #UD too (see `features`).

mod avx;
mod features;
mod integer;
mod system;
mod vector;

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::{Handler, NONE, Op, data, flag};
use crate::cpuid::{Features, Vendor};

/// What decoding depends on besides the bytes.
pub(crate) struct Context<'a> {
    /// Default code size: 16, 32 or 64.
    pub bits: u32,
    /// Whether VEX encodings exist: not in real and virtual-8086 mode.
    pub vex: bool,
    /// What the model advertises.
    pub features: &'a Features,
}

/// How a block goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// With the next instruction.
    Next,
    /// It ends; the handler has set RIP.
    Jumps,
    /// It ends at the next instruction, since the handler may change how code is decoded or whether interrupts are
    /// taken.
    Ends,
}

/// The addressing form, where it selects a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Flat,
    Indexed,
    Rip,
    Any,
}

/// The handler and the flow of an instruction.
pub(super) type Choice = Option<(Handler, Flow)>;

pub(super) const fn next(run: Handler) -> Choice {
    Some((run, Flow::Next))
}

pub(super) const fn jumps(run: Handler) -> Choice {
    Some((run, Flow::Jumps))
}

pub(super) const fn ends(run: Handler) -> Choice {
    Some((run, Flow::Ends))
}

/// An instruction with its operands taken apart.
pub(super) struct Lowering<'a> {
    pub i: &'a Instruction,
    pub op: Op,
    pub form: Form,
    pub context: &'a Context<'a>,
}

/// An op without operands.
pub(crate) fn plain(run: Handler, len: u8) -> Op {
    Op {
        run,
        imm: 0,
        semantics: None,
        disp: 0,
        offset: 0,
        aux: 0,
        dst: 0,
        src: 0,
        base: NONE,
        index: NONE,
        scale: 0,
        seg: 3,
        len,
        flags: 0,
        size: 0,
        extra: 0,
    }
}

/// The end of a block that has no branch; `offset` is that of the following instruction.
pub(crate) fn fall_through(offset: u16) -> Op {
    Op { offset, ..plain(super::branch::fall_through, 0) }
}

/// The op for an instruction that is longer than 15 bytes.
pub(crate) fn too_long() -> (Op, Flow) {
    (plain(data::too_long, 15), Flow::Jumps)
}

/// The number of a register as [`Op`] counts: AH … BH are 16 … 19.
pub(crate) fn register_number(register: Register) -> u8 {
    let n = register as u8;
    let from = |first: Register| n.wrapping_sub(first as u8);
    match register {
        r if r <= Register::BL => from(Register::AL) & 15,
        r if r <= Register::BH => from(Register::AH) + 16,
        r if r <= Register::DIL => from(Register::SPL) + 4,
        r if r <= Register::R15L => from(Register::R8L) + 8,
        r => r.number() as u8,
    }
}

/// The size in bytes of a general register; 0 for others.
pub(crate) fn register_size(register: Register) -> u8 {
    match register {
        r if r.is_gpr8() => 1,
        r if r.is_gpr16() => 2,
        r if r.is_gpr32() => 4,
        r if r.is_gpr64() => 8,
        _ => 0,
    }
}

/// Turns an instruction into an op. `bytes` are the instruction's own.
pub(crate) fn lower(context: &Context<'_>, instruction: &Instruction, bytes: &[u8]) -> (Op, Flow) {
    let len = instruction.len() as u8;
    let mut lowering = Lowering { i: instruction, op: plain(data::undefined, len), form: Form::Any, context };
    let vex = instruction.code().encoding() != EncodingKind::Legacy;
    if instruction.is_invalid() || (vex && !context.vex) || !features::available(context, instruction) {
        return (lowering.op, Flow::Jumps);
    }
    lowering.operands();
    let choice = integer::lower(&mut lowering, bytes)
        .or_else(|| vector::lower(&mut lowering, bytes))
        .or_else(|| system::lower(&mut lowering));
    match choice {
        Some((run, flow)) => {
            lowering.op.run = run;
            (lowering.op, flow)
        }
        None => (lowering.op, Flow::Jumps),
    }
}

impl Lowering<'_> {
    pub(super) fn code(&self) -> Code {
        self.i.code()
    }

    pub(super) fn is_amd(&self) -> bool {
        self.context.features.vendor == Vendor::Amd
    }

    pub(super) fn mnemonic(&self) -> Mnemonic {
        self.i.mnemonic()
    }

    /// Whether operand `n` is memory.
    pub(super) fn is_memory(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Memory
    }

    /// Whether operand `n` is an immediate.
    pub(super) fn is_immediate(&self, n: u32) -> bool {
        is_immediate(self.i.op_kind(n))
    }

    /// Whether operand `n` is a register.
    pub(super) fn is_register(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Register
    }

    fn operands(&mut self) {
        let i = self.i;
        if i.has_lock_prefix() {
            self.op.flags |= flag::LOCK;
        }
        let mut immediates = 0;
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Register => {
                    let number = register_number(i.op_register(n));
                    match n {
                        0 => self.op.dst = number,
                        1 => self.op.src = number,
                        2 => self.op.extra = number,
                        _ => {}
                    }
                }
                OpKind::Memory => self.memory(),
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    self.op.imm = i.near_branch_target();
                }
                kind if is_immediate(kind) => {
                    immediates += 1;
                    if immediates == 1 {
                        self.op.imm = i.immediate(n);
                        self.op.flags |= flag::IMM;
                    } else {
                        self.op.aux = i.immediate(n) as u16;
                    }
                }
                kind => self.implicit_memory(kind),
            }
        }
        if self.op.size == 0 {
            self.op.size = self.operand_size();
        }
        if self.op.has(flag::IMM) && matches!(self.op.size, 1 | 2 | 4) {
            self.op.imm &= u64::MAX >> (64 - 8 * u32::from(self.op.size));
        }
    }

    /// The operand size of an integer instruction: of the first operand that has one.
    fn operand_size(&self) -> u8 {
        for n in 0..self.i.op_count() {
            match self.i.op_kind(n) {
                OpKind::Register => {
                    let size = register_size(self.i.op_register(n));
                    if size != 0 {
                        return size;
                    }
                }
                OpKind::Memory => return self.memory_bytes(),
                _ => {}
            }
        }
        0
    }

    /// The size of the memory operand in bytes; 0 when it is larger than 255 or has none.
    pub(super) fn memory_bytes(&self) -> u8 {
        u8::try_from(self.i.memory_size().size()).unwrap_or(0)
    }

    fn memory(&mut self) {
        let i = self.i;
        let op = &mut self.op;
        op.flags |= flag::MEM;
        let base = i.memory_base();
        op.seg = i.memory_segment().number() as u8;
        if self.context.bits == 64 && op.seg < 4 {
            // Overrides by ES, CS, SS and DS are ignored: what counts is the base register.
            let stack = matches!(base, Register::RSP | Register::RBP | Register::ESP | Register::EBP);
            op.seg = if stack { 2 } else { 3 };
        }
        let index = i.memory_index();
        let displacement = i.memory_displacement64();
        op.disp = displacement as i32;
        let mut bits = match i.memory_displ_size() {
            2 => 16,
            4 => 32,
            _ => 64,
        };
        if base == Register::RIP || base == Register::EIP {
            op.flags |= flag::RIP;
            op.disp = displacement.wrapping_sub(u64::from(op.len)) as i32;
            bits = if base == Register::RIP { 64 } else { 32 };
        } else if base != Register::None {
            op.base = register_number(base);
            bits = 8 * u32::from(register_size(base));
        }
        if index != Register::None {
            op.index = register_number(index);
            op.scale = i.memory_index_scale().trailing_zeros() as u8;
            // The index of XLAT is AL, which says nothing about the address size.
            if register_size(index) != 1 {
                bits = 8 * u32::from(register_size(index));
            }
        }
        match bits {
            16 => op.flags |= flag::ADDR16,
            32 => op.flags |= flag::ADDR32,
            _ => {}
        }
        let flat = self.context.bits == 64 && op.seg < 4 && op.flags & (flag::ADDR16 | flag::ADDR32) == 0;
        self.form = match (flat, op.has(flag::RIP), op.base != NONE, op.index != NONE) {
            (true, true, ..) => Form::Rip,
            (true, false, true, false) => Form::Flat,
            (true, false, true, true) => Form::Indexed,
            _ => Form::Any,
        };
    }

    /// String operands, and the 64-bit offsets of MOV.
    fn implicit_memory(&mut self, kind: OpKind) {
        let bits = match kind {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 32,
            _ => 64,
        };
        match bits {
            16 => self.op.flags |= flag::ADDR16,
            32 => self.op.flags |= flag::ADDR32,
            _ => {}
        }
        if !matches!(kind, OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI) {
            let seg = self.i.memory_segment().number() as u8;
            // ES, CS and SS do not override in 64-bit mode.
            self.op.seg = if self.context.bits == 64 && seg < 4 { 3 } else { seg };
        }
        self.op.size = self.memory_bytes();
    }

    /// The absolute 64-bit address of a MOV with `moffs`: no 32-bit displacement can hold it.
    pub(super) fn has_wide_displacement(&self) -> bool {
        self.op.has(flag::MEM)
            && !self.op.has(flag::RIP)
            && self.i.memory_displacement64() != i64::from(self.op.disp) as u64
            && !self.op.has(flag::ADDR16)
            && !self.op.has(flag::ADDR32)
    }
}

/// Whether an operand of this kind is an immediate.
pub(crate) fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}
