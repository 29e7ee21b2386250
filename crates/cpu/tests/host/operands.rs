//! Operands of chosen instructions: registers, immediates, and memory operands that mostly hit the data.

use iced_x86::{Instruction, OpCodeOperandKind as K, OpKind, Register};

use super::{Assembler, RSP};
use crate::catalog::Entry;
use crate::native::READ_ONLY;
use crate::random::{Random, interesting, pointer};

impl Assembler<'_> {
    pub(super) fn general(&mut self) -> u32 {
        let register = self.random.below(if self.bits == 64 { 16 } else { 8 }) as u32;
        if register == RSP && !self.random.one_in(4) { self.random.below(4) as u32 } else { register }
    }

    pub(super) fn byte(&mut self) -> Register {
        match self.general() {
            n if self.bits == 32 => Register::AL + n,
            n if self.random.one_in(6) => Register::AH + (n & 3),
            n @ 0..=3 => Register::AL + n,
            n @ 4..=7 => Register::SPL + (n - 4),
            n => Register::R8L + (n - 8),
        }
    }

    pub(super) fn vector_number(&mut self) -> u32 {
        self.random.below(if self.bits == 64 { 16 } else { 8 }) as u32
    }

    pub(super) fn operand(&mut self, i: &mut Instruction, n: u32, kind: K, entry: &Entry) -> Option<()> {
        let register = match kind {
            K::mem | K::mem_offs | K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => {
                return self.memory(i, n, kind);
            }
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
                if self.random.one_in(2) =>
            {
                return self.memory(i, n, kind);
            }
            K::r8_or_mem | K::r8_reg | K::r8_opcode => self.byte(),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => Register::AX + self.general(),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => Register::EAX + self.general(),
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => Register::RAX + self.general(),
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + self.random.below(8) as u32,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => Register::XMM0 + self.vector_number(),
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => Register::YMM0 + self.vector_number(),
            K::seg_reg => {
                [Register::ES, Register::SS, Register::DS, Register::FS, Register::GS][self.random.below(5) as usize]
            }
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + self.random.below(8) as u32,
            K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al => return self.implicit_memory(i, n, kind),
            _ => return self.immediate(i, n, kind, entry),
        };
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
        Some(())
    }

    pub(super) fn immediate(&mut self, i: &mut Instruction, n: u32, kind: K, entry: &Entry) -> Option<()> {
        let value = interesting(self.random);
        let second = n > 0 && matches!(entry.kinds[n as usize - 1], K::imm16 | K::imm8);
        match kind {
            K::imm8 if second => {
                i.set_op_kind(n, OpKind::Immediate8_2nd);
                i.set_immediate8_2nd(value as u8);
            }
            K::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(value as u8);
            }
            K::imm8_const_1 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(1);
            }
            K::imm8sex16 => {
                i.set_op_kind(n, OpKind::Immediate8to16);
                i.set_immediate8to16((value as i8).into());
            }
            K::imm8sex32 => {
                i.set_op_kind(n, OpKind::Immediate8to32);
                i.set_immediate8to32((value as i8).into());
            }
            K::imm8sex64 => {
                i.set_op_kind(n, OpKind::Immediate8to64);
                i.set_immediate8to64((value as i8).into());
            }
            K::imm16 => {
                i.set_op_kind(n, OpKind::Immediate16);
                i.set_immediate16(value as u16);
            }
            K::imm32 => {
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value as u32);
            }
            K::imm32sex64 => {
                i.set_op_kind(n, OpKind::Immediate32to64);
                i.set_immediate32to64((value as i32).into());
            }
            K::imm64 => {
                i.set_op_kind(n, OpKind::Immediate64);
                i.set_immediate64(value);
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn implicit_memory(&mut self, i: &mut Instruction, n: u32, kind: K) -> Option<()> {
        let wide = (self.bits == 64) != self.address32;
        let kind = match (kind, self.bits, wide) {
            (K::seg_rBX_al, 64, true) => {
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(Register::RBX);
                i.set_memory_index(Register::AL);
                return Some(());
            }
            (K::seg_rBX_al, ..) => {
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(Register::EBX);
                i.set_memory_index(Register::AL);
                return Some(());
            }
            (K::seg_rSI, 64, true) => OpKind::MemorySegRSI,
            (K::seg_rSI, ..) => OpKind::MemorySegESI,
            (K::es_rDI, 64, true) => OpKind::MemoryESRDI,
            (K::es_rDI, ..) => OpKind::MemoryESEDI,
            (_, 64, true) => OpKind::MemorySegRDI,
            _ => OpKind::MemorySegEDI,
        };
        if matches!(kind, OpKind::MemorySegRSI | OpKind::MemorySegESI) && self.random.one_in(10) {
            i.set_segment_prefix(if self.random.one_in(2) { Register::FS } else { Register::GS });
        }
        i.set_op_kind(n, kind);
        Some(())
    }

    /// A memory operand.
    pub(super) fn memory(&mut self, i: &mut Instruction, n: u32, kind: K) -> Option<()> {
        i.set_op_kind(n, OpKind::Memory);
        let target = if self.random.one_in(16) { READ_ONLY + self.random.below(4090) } else { pointer(self.random) };
        let mut offset = target;
        let segments = [Register::ES, Register::CS, Register::SS, Register::DS];
        match self.random.below(20) {
            0 => {
                i.set_segment_prefix(Register::FS);
                offset = target.wrapping_sub(self.state.fs_base);
            }
            1 => {
                i.set_segment_prefix(Register::GS);
                offset = target.wrapping_sub(self.state.gs_base);
            }
            2 if self.random.one_in(3) => i.set_segment_prefix(segments[self.random.below(4) as usize]),
            _ => {}
        }
        let negative = (offset as i64) < 0;
        if self.bits == 32 && offset < 0x1_0000 && kind != K::mem_offs && self.random.one_in(3) {
            return self.memory16(i, offset, kind);
        }
        let narrow = self.bits == 32 || self.address32 && !negative;
        match kind {
            K::mem_offs => {
                absolute(i, offset, narrow);
                return Some(());
            }
            K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => {
                return self.gather(i, kind, offset, narrow);
            }
            _ => {}
        }
        match self.random.below(10) {
            0..=3 => self.based(i, offset, narrow, false),
            4..=6 => self.based(i, offset, narrow, true),
            7 => self.indexed(i, offset, narrow),
            8 if self.bits == 64 => relative(i, offset, narrow),
            _ => absolute(i, offset, narrow),
        }
        Some(())
    }

    /// A register with its initial value, if it can be had.
    pub(super) fn untouched(&mut self, index: bool) -> u32 {
        let mut register = 0;
        for _ in 0..6 {
            register = self.random.below(if self.bits == 64 { 16 } else { 8 }) as u32;
            if self.written >> register & 1 == 0 && !(index && register == RSP) {
                break;
            }
        }
        if index && register == RSP { 0 } else { register }
    }

    pub(super) fn value(&self, register: u32, narrow: bool) -> u64 {
        let value = self.state.gpr[register as usize];
        if narrow { value & 0xffff_ffff } else { value }
    }

    pub(super) fn based(&mut self, i: &mut Instruction, offset: u64, narrow: bool, with_index: bool) {
        for _ in 0..4 {
            let base = self.untouched(false);
            let free = (self.written | self.used | self.reserved) >> base & 1 == 0;
            if free && self.random.one_in(3) {
                let near = if self.random.one_in(2) { 0 } else { self.random.below(256) };
                self.state.gpr[base as usize] = offset.wrapping_sub(near);
                if self.bits == 32 {
                    self.state.gpr[base as usize] &= 0xffff_ffff;
                }
            }
            let mut rest = offset.wrapping_sub(self.value(base, narrow));
            let (index, scale) = (self.untouched(true), self.random.below(4) as u32);
            if with_index {
                rest = rest.wrapping_sub(self.value(index, narrow) << scale);
            }
            let displacement = if narrow { i64::from(rest as i32) } else { rest as i64 };
            if i32::try_from(displacement).is_err() {
                continue;
            }
            let first = if narrow { Register::EAX } else { Register::RAX };
            i.set_memory_base(first + base);
            self.used |= 1 << base;
            if with_index {
                i.set_memory_index(first + index);
                i.set_memory_index_scale(1 << scale);
                self.used |= 1 << index;
            }
            displace(self.random, i, displacement, narrow);
            return;
        }
        absolute(i, offset, narrow);
    }

    pub(super) fn indexed(&mut self, i: &mut Instruction, offset: u64, narrow: bool) {
        let (index, scale) = (self.untouched(true), self.random.below(4) as u32);
        let rest = offset.wrapping_sub(self.value(index, narrow) << scale);
        let displacement = if narrow { i64::from(rest as i32) } else { rest as i64 };
        if i32::try_from(displacement).is_err() {
            absolute(i, offset, narrow);
            return;
        }
        i.set_memory_index(if narrow { Register::EAX } else { Register::RAX } + index);
        i.set_memory_index_scale(1 << scale);
        i.set_memory_displ_size(if narrow { 4 } else { 8 });
        i.set_memory_displacement64(if narrow { u64::from(displacement as u32) } else { displacement as u64 });
        self.used |= 1 << index;
    }

    pub(super) fn memory16(&mut self, i: &mut Instruction, offset: u64, kind: K) -> Option<()> {
        if matches!(kind, K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y) {
            return None;
        }
        let forms = [(3, 6), (3, 7), (5, 6), (5, 7), (6, 16), (7, 16), (5, 16), (3, 16)];
        let (base, index) = forms[self.random.below(8) as usize];
        i.set_memory_base(Register::AX + base);
        self.used |= 1 << base;
        let mut rest = offset.wrapping_sub(self.state.gpr[base as usize]);
        if index < 16 {
            i.set_memory_index(Register::AX + index);
            self.used |= 1 << index;
            rest = rest.wrapping_sub(self.state.gpr[index as usize]);
        }
        i.set_memory_displ_size(2);
        i.set_memory_displacement64(rest & 0xffff);
        Some(())
    }

    /// A base register and a vector of indices, most of them small.
    pub(super) fn gather(&mut self, i: &mut Instruction, kind: K, offset: u64, narrow: bool) -> Option<()> {
        let index = self.vector_number();
        if self.vectors >> index & 1 != 0 {
            return None;
        }
        self.vectors |= 1 << index;
        let quads = matches!(kind, K::mem_vsib64x | K::mem_vsib64y);
        for half in 0..2 {
            let (lanes, bits) = if quads { (2, 64) } else { (4, 32) };
            let mut value = 0u128;
            for _ in 0..lanes {
                let wild = if self.random.one_in(24) { self.random.next() } else { 0 };
                let near = self.random.below(256).wrapping_sub(128) ^ wild;
                value = value << bits | u128::from(if quads { near } else { u64::from(near as u32) });
            }
            if half == 0 {
                let at = 160 + 16 * index as usize;
                self.state.fx[at..at + 16].copy_from_slice(&value.to_le_bytes());
            } else {
                self.state.upper[index as usize] = value;
            }
        }
        self.based(i, offset, narrow, false);
        if i.memory_base() == Register::None || i.memory_index() != Register::None {
            return None;
        }
        let first = if matches!(kind, K::mem_vsib32x | K::mem_vsib64x) { Register::XMM0 } else { Register::YMM0 };
        i.set_memory_index(first + index);
        i.set_memory_index_scale(1 << self.random.below(4));
        Some(())
    }
}

fn absolute(i: &mut Instruction, offset: u64, narrow: bool) {
    i.set_memory_displ_size(if narrow { 4 } else { 8 });
    i.set_memory_displacement64(if narrow { offset & 0xffff_ffff } else { offset });
}

fn relative(i: &mut Instruction, offset: u64, narrow: bool) {
    i.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
    i.set_memory_displ_size(if narrow { 4 } else { 8 });
    i.set_memory_displacement64(if narrow { offset & 0xffff_ffff } else { offset });
}

fn displace(random: &mut Random, i: &mut Instruction, displacement: i64, narrow: bool) {
    let short = i8::try_from(displacement).is_ok() && !random.one_in(6);
    let size = match (displacement, short) {
        (0, true) => 0,
        (_, true) => 1,
        _ if narrow => 4,
        _ => 8,
    };
    i.set_memory_displ_size(size);
    i.set_memory_displacement64(if narrow { u64::from(displacement as u32) } else { displacement as u64 });
}
