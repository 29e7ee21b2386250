//! From an instruction to the host code of its stub.
//!
//! Register operand n becomes XMM n or YMM n (n + 1 for the string comparisons, which write XMM0), a general register
//! RAX, the memory operand the frame's; the address of the frame is in RDI.

use std::mem::offset_of;

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Mnemonic as M, OpKind, Register};

use super::{Frame, Output};

/// What is known of an instruction before its stub is made.
pub(super) struct Plan {
    /// The instruction with its operands renamed.
    renamed: Instruction,
    /// Bit n: vector n is loaded.
    vectors: u8,
    strings: bool,
    pub result: Output,
    pub memory: u8,
    pub general: Option<u8>,
    pub to_half: bool,
}

const VECTORS_AT: usize = offset_of!(Frame, vectors);

fn slot(at: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RDI, at as i64)
}

fn numbered(first: Register, n: u32) -> Option<Register> {
    Register::try_from(first as usize + n as usize).ok()
}

/// Renames the operands. `None` for an operand of another kind.
pub(super) fn plan(instruction: &Instruction) -> Option<Plan> {
    let mnemonic = instruction.mnemonic();
    let index = matches!(mnemonic, M::Vpcmpestri | M::Vpcmpestri64 | M::Vpcmpistri);
    let strings = index || matches!(mnemonic, M::Vpcmpestrm | M::Vpcmpestrm64 | M::Vpcmpistrm);
    let flags =
        matches!(mnemonic, M::Vptest | M::Vtestps | M::Vtestpd | M::Vcomiss | M::Vcomisd | M::Vucomiss | M::Vucomisd);
    let mut plan = Plan {
        renamed: *instruction,
        vectors: 0,
        strings,
        result: match (strings, index) {
            (true, true) => Output::Index,
            (true, false) => Output::Mask,
            _ if flags => Output::Flags,
            _ => Output::Vector,
        },
        memory: 0,
        general: None,
        to_half: mnemonic == M::Vcvtps2ph,
    };
    for n in 0..instruction.op_count() {
        match instruction.op_kind(n) {
            OpKind::Register => plan.rename(n, instruction.op_register(n))?,
            OpKind::Memory if instruction.memory_index().is_vector_register() => return None,
            OpKind::Memory => {
                plan.memory = u8::try_from(instruction.memory_size().size()).ok().filter(|size| *size <= 32)?;
                if n == 0 {
                    plan.result = Output::Memory;
                }
            }
            OpKind::Immediate8 => {}
            _ => return None,
        }
    }
    if plan.memory != 0 {
        let renamed = &mut plan.renamed;
        renamed.set_memory_base(Register::RDI);
        renamed.set_memory_index(Register::None);
        renamed.set_memory_index_scale(1);
        renamed.set_memory_displ_size(1);
        renamed.set_memory_displacement64(offset_of!(Frame, memory) as u64);
        renamed.set_segment_prefix(Register::None);
    }
    Some(plan)
}

impl Plan {
    fn rename(&mut self, n: u32, register: Register) -> Option<()> {
        let vector = n + u32::from(self.strings);
        let new = if register.is_xmm() {
            numbered(Register::XMM0, vector)?
        } else if register.is_ymm() {
            numbered(Register::YMM0, vector)?
        } else {
            if n == 0 {
                self.result = Output::General;
            } else {
                self.general = Some(n as u8);
            }
            match register {
                r if r.is_gpr32() => Register::EAX,
                r if r.is_gpr64() => Register::RAX,
                _ => return None,
            }
        };
        if !register.is_gpr() {
            if vector > 3 {
                return None;
            }
            self.vectors |= 1 << vector;
        }
        self.renamed.set_op_register(n, new);
        Some(())
    }

    /// Whether flags are a result.
    fn has_flags(&self) -> bool {
        matches!(self.result, Output::Flags | Output::Index | Output::Mask)
    }

    fn body(&self) -> Result<Vec<Instruction>, iced_x86::IcedError> {
        let mut body = Vec::with_capacity(20);
        let vector = |n: u32| (numbered(Register::YMM0, n).unwrap_or_default(), slot(VECTORS_AT + 32 * n as usize));
        for n in (0..4).filter(|n| self.vectors >> n & 1 != 0) {
            let (register, at) = vector(n);
            body.push(Instruction::with2(Code::VEX_Vmovdqa_ymm_ymmm256, register, at)?);
        }
        let general = self.general.is_some() || self.strings;
        if general {
            body.push(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, slot(offset_of!(Frame, rax)))?);
            body.push(Instruction::with2(Code::Mov_r64_rm64, Register::RDX, slot(offset_of!(Frame, rdx)))?);
        }
        let mxcsr = || slot(offset_of!(Frame, mxcsr));
        body.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, mxcsr())?);
        body.push(self.renamed);
        if self.result == Output::General {
            body.push(Instruction::with2(Code::Mov_rm64_r64, slot(offset_of!(Frame, rax)), Register::RAX)?);
        }
        if self.has_flags() {
            body.push(Instruction::with(Code::Pushfq));
            body.push(Instruction::with1(Code::Pop_r64, Register::RAX)?);
            body.push(Instruction::with2(Code::Mov_rm64_r64, slot(offset_of!(Frame, flags)), Register::RAX)?);
        }
        if self.strings {
            body.push(Instruction::with2(Code::Mov_rm64_r64, slot(offset_of!(Frame, rcx)), Register::RCX)?);
        }
        body.push(Instruction::with1(Code::VEX_Vstmxcsr_m32, mxcsr())?);
        body.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, slot(offset_of!(Frame, host_mxcsr)))?);
        let (register, at) = vector(0);
        body.push(Instruction::with2(Code::VEX_Vmovdqa_ymmm256_ymm, at, register)?);
        body.push(Instruction::with(Code::VEX_Vzeroupper));
        body.push(Instruction::with(Code::Retnq));
        Ok(body)
    }
}

/// The stub's bytes, to be executed at `address`.
pub(super) fn assemble(plan: &Plan, address: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    let mut at = address;
    for instruction in plan.body().ok()? {
        at += encoder.encode(&instruction, at).ok()? as u64;
    }
    Some(encoder.take_buffer())
}
